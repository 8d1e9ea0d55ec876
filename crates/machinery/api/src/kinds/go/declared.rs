//! Which structs upstream declares otherwise than they are written: what the schema cannot say of their internal forms.

/// A struct that upstream declares otherwise than it is written.
#[derive(Debug)]
pub(super) struct Declared {
    pub(super) name: &'static str,
    /// The type that has its fields.
    pub(super) of: &'static str,
    /// Its fields in order, as they are written; `=` and its own name, where that does not follow; `^` before one that is
    /// written outside, in the pod; `*` before one whose fields stand in its place.
    pub(super) fields: &'static str,
}

const fn declared(name: &'static str, fields: &'static str) -> Declared {
    Declared { name, of: name, fields }
}

const CONTAINER: &str = "name image command args workingDir ports envFrom env resources resizePolicy restartPolicy \
    restartPolicyRules volumeMounts volumeDevices livenessProbe readinessProbe startupProbe lifecycle terminationMessagePath \
    terminationMessagePolicy imagePullPolicy securityContext stdin stdinOnce tty";
const EPHEMERAL_CONTAINER: &str = "name image command args workingDir ports envFrom env resources resizePolicy restartPolicy \
    restartPolicyRules volumeMounts volumeDevices livenessProbe readinessProbe startupProbe lifecycle terminationMessagePath \
    terminationMessagePolicy imagePullPolicy securityContext stdin stdinOnce tty targetContainerName";
const ISCSI: &str = "targetPortal iqn lun iscsiInterface fsType readOnly portals chapAuthDiscovery=DiscoveryCHAPAuth \
    chapAuthSession=SessionCHAPAuth secretRef initiatorName";
const RBD: &str =
    "monitors=CephMonitors image=RBDImage fsType pool=RBDPool user=RadosUser keyring secretRef readOnly";
const PV_SOURCE: &str = "gcePersistentDisk awsElasticBlockStore hostPath glusterfs nfs rbd quobyte iscsi flexVolume cinder \
    cephfs=CephFS fc flocker azureFile vsphereVolume azureDisk photonPersistentDisk portworxVolume scaleIO local \
    storageos=StorageOS csi";

/// Source: the internal types of `pkg/apis`. A test holds that each has all fields of its type.
pub(super) const DECLARED: &[Declared] = &[
    declared(
        "core.v1.AzureDiskVolumeSource",
        "diskName diskURI=DataDiskURI cachingMode fsType readOnly kind",
    ),
    declared("core.v1.ClusterTrustBundleProjection", "name signerName labelSelector optional path"),
    declared("core.v1.Container", CONTAINER),
    declared("core.v1.EphemeralContainer", EPHEMERAL_CONTAINER),
    declared("core.v1.GCEPersistentDiskVolumeSource", "pdName=PDName fsType partition readOnly"),
    declared(
        "core.v1.GlusterfsPersistentVolumeSource",
        "endpoints=EndpointsName path readOnly endpointsNamespace",
    ),
    declared("core.v1.GlusterfsVolumeSource", "endpoints=EndpointsName path readOnly"),
    declared("core.v1.ISCSIPersistentVolumeSource", ISCSI),
    declared("core.v1.ISCSIVolumeSource", ISCSI),
    declared(
        "core.v1.PersistentVolumeClaimSpec",
        "accessModes selector resources volumeName storageClassName volumeMode dataSource dataSourceRef \
         volumeAttributesClassName",
    ),
    declared("core.v1.PersistentVolumeClaimTemplate", "*metadata spec"),
    Declared {
        name: "core.v1.PersistentVolumeSource",
        of: "core.v1.PersistentVolumeSpec",
        fields: PV_SOURCE,
    },
    declared(
        "core.v1.PersistentVolumeSpec",
        "capacity gcePersistentDisk awsElasticBlockStore hostPath glusterfs nfs rbd quobyte iscsi flexVolume cinder \
         cephfs=CephFS fc flocker azureFile vsphereVolume azureDisk photonPersistentDisk portworxVolume scaleIO local \
         storageos=StorageOS csi accessModes claimRef persistentVolumeReclaimPolicy storageClassName mountOptions \
         volumeMode nodeAffinity volumeAttributesClassName",
    ),
    declared(
        "core.v1.PodSecurityContext",
        "^hostNetwork ^hostPID ^hostIPC ^shareProcessNamespace ^hostUsers seLinuxOptions windowsOptions runAsUser \
         runAsGroup runAsNonRoot supplementalGroups supplementalGroupsPolicy fsGroup fsGroupChangePolicy sysctls \
         seccompProfile appArmorProfile seLinuxChangePolicy",
    ),
    declared(
        POD,
        "volumes initContainers containers ephemeralContainers restartPolicy terminationGracePeriodSeconds \
         activeDeadlineSeconds dnsPolicy nodeSelector serviceAccountName automountServiceAccountToken nodeName \
         securityContext imagePullSecrets hostname subdomain setHostnameAsFQDN affinity schedulerName tolerations \
         hostAliases priorityClassName priority preemptionPolicy dnsConfig readinessGates runtimeClassName overhead \
         enableServiceLinks topologySpreadConstraints os schedulingGates resourceClaims resources hostnameOverride \
         schedulingGroup",
    ),
    declared("core.v1.PodTemplateSpec", "*metadata spec"),
    declared("core.v1.RBDPersistentVolumeSource", RBD),
    declared("core.v1.RBDVolumeSource", RBD),
    declared(
        "core.v1.SecurityContext",
        "capabilities privileged seLinuxOptions windowsOptions runAsUser runAsGroup runAsNonRoot readOnlyRootFilesystem \
         allowPrivilegeEscalation procMount seccompProfile appArmorProfile",
    ),
    declared(
        "core.v1.Volume",
        "name hostPath emptyDir gcePersistentDisk awsElasticBlockStore gitRepo secret nfs iscsi glusterfs \
         persistentVolumeClaim rbd quobyte flexVolume cinder cephfs=CephFS flocker downwardAPI fc azureFile configMap \
         vsphereVolume azureDisk photonPersistentDisk projected portworxVolume scaleIO storageos=StorageOS csi ephemeral \
         image",
    ),
    declared(
        "core.v1.VolumeMount",
        "name readOnly recursiveReadOnly mountPath subPath mountPropagation subPathExpr",
    ),
    declared("resource.v1.ResourceClaimTemplateSpec", "*metadata spec"),
    declared("meta.v1.OwnerReference", "apiVersion kind name uid controller blockOwnerDeletion"),
];

pub(super) const POD: &str = "core.v1.PodSpec";
