//! Who makes and removes volumes: the plugins that upstream's controller manager still has, and the CSI drivers that took the
//! place of others.

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use podium_api::volumes::{
    BETA_STORAGE_PROVISIONER, MIGRATED_TO, PROVISIONED_BY, STORAGE_PROVISIONER, annotation,
};

use crate::owner;

/// Keeps a volume object until what it stands for is removed; for volumes made by a plugin inside of Kubernetes.
const IN_TREE_FINALIZER: &str = "kubernetes.io/pv-controller";
/// The same, put there by an external provisioner.
const EXTERNAL_FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";
/// What names of plugins inside of Kubernetes begin with.
const IN_TREE: &str = "kubernetes.io/";
pub(crate) const HOST_PATH: &str = "kubernetes.io/host-path";
const NFS: &str = "kubernetes.io/nfs";

/// The driver that does what a plugin did. Source: `k8s.io/csi-translation-lib/plugins`.
fn driver_of(plugin: &str) -> Option<&'static str> {
    Some(match plugin {
        "kubernetes.io/aws-ebs" => "ebs.csi.aws.com",
        "kubernetes.io/azure-disk" => "disk.csi.azure.com",
        "kubernetes.io/azure-file" => "file.csi.azure.com",
        "kubernetes.io/cinder" => "cinder.csi.openstack.org",
        "kubernetes.io/gce-pd" => "pd.csi.storage.gke.io",
        "kubernetes.io/portworx-volume" => "pxd.portworx.com",
        "kubernetes.io/vsphere-volume" => "csi.vsphere.vmware.com",
        _ => return None,
    })
}

/// The plugin inside of Kubernetes that a volume was made for and the driver that does its work now; `None` when there is none.
pub(crate) fn migrated_from(volume: &PersistentVolume) -> Option<(&'static str, &'static str)> {
    let spec = volume.spec.as_ref()?;
    let plugin = [
        (spec.aws_elastic_block_store.is_some(), "kubernetes.io/aws-ebs"),
        (spec.azure_disk.is_some(), "kubernetes.io/azure-disk"),
        (spec.azure_file.is_some(), "kubernetes.io/azure-file"),
        (spec.cinder.is_some(), "kubernetes.io/cinder"),
        (spec.gce_persistent_disk.is_some(), "kubernetes.io/gce-pd"),
        (spec.portworx_volume.is_some(), "kubernetes.io/portworx-volume"),
        (spec.vsphere_volume.is_some(), "kubernetes.io/vsphere-volume"),
    ]
    .into_iter()
    .find_map(|(is_it, plugin)| is_it.then_some(plugin))?;
    Some((plugin, driver_of(plugin)?))
}

/// Who makes volumes of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    /// Somebody outside who watches claims for this name.
    External(String),
    /// Nobody; why, in upstream's words. The claim is marked with the provisioner all the same if one is named.
    Nobody { marked: Option<String>, why: String },
}

/// Finds who makes volumes for a class's provisioner.
pub(crate) fn maker(provisioner: &str) -> Maker {
    if let Some(driver) = driver_of(provisioner) {
        return Maker::External(driver.to_owned());
    }
    match provisioner {
        HOST_PATH => Maker::Nobody {
            marked: Some(HOST_PATH.to_owned()),
            why: format!(
                "Failed to create provisioner: provisioning in volume plugin {HOST_PATH:?} is disabled"
            ),
        },
        NFS => Maker::Nobody { marked: None, why: "no provisionable volume plugin matched".to_owned() },
        inside if inside.starts_with(IN_TREE) => {
            Maker::Nobody { marked: None, why: format!("no volume plugin matched name: {inside}") }
        }
        outside => Maker::External(outside.to_owned()),
    }
}

/// Who removes what a volume stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Remover {
    /// Somebody outside who watches volumes.
    External,
    /// We do: the path on this host.
    HostPath(String),
    /// Nobody; why, in upstream's words.
    Nobody(String),
}

/// Finds who removes a volume.
pub(crate) fn remover(volume: &PersistentVolume) -> Remover {
    let spec = volume.spec.as_ref();
    let path = spec.and_then(|spec| spec.host_path.as_ref()).map(|source| source.path.clone());
    match annotation(&volume.metadata, PROVISIONED_BY).filter(|maker| !maker.is_empty()) {
        Some(maker) if !maker.starts_with(IN_TREE) => return Remover::External,
        Some(HOST_PATH) => {
            let missing = || Remover::Nobody("spec.PersistentVolumeSource.HostPath is nil".to_owned());
            return path.map_or_else(missing, Remover::HostPath);
        }
        Some(NFS) => return Remover::Nobody("no deletable volume plugin matched".to_owned()),
        Some(maker) => return Remover::Nobody(format!("no volume plugin matched name: {maker}")),
        None => {}
    }
    if annotation(&volume.metadata, MIGRATED_TO).is_some() || spec.is_some_and(|spec| spec.csi.is_some()) {
        return Remover::External;
    }
    let name = owner::name(&volume.metadata);
    let why = || {
        format!("error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched")
    };
    path.map_or_else(|| Remover::Nobody(why()), Remover::HostPath)
}

/// Sets or takes away the mark that a CSI driver looks after the object; whether anything changed. `maker` is the annotation that
/// names the plugin.
fn mark_migrated(meta: &mut ObjectMeta, maker: Option<String>) -> bool {
    let Some(maker) = maker else { return false };
    let annotations = meta.annotations.get_or_insert_default();
    match driver_of(&maker) {
        Some(driver) => {
            annotations.insert(MIGRATED_TO.to_owned(), driver.to_owned()).as_deref() != Some(driver)
        }
        None => annotations.remove(MIGRATED_TO).is_some_and(|driver| !driver.is_empty()),
    }
}

/// A claim's metadata as migration wants it; `None` when it is so already.
pub(crate) fn migrated_claim(meta: &ObjectMeta) -> Option<ObjectMeta> {
    let maker = annotation(meta, STORAGE_PROVISIONER).or_else(|| annotation(meta, BETA_STORAGE_PROVISIONER));
    let mut changed = meta.clone();
    mark_migrated(&mut changed, maker.map(str::to_owned)).then_some(changed)
}

/// A volume's metadata as migration and its reclaim policy want it; `None` when it is so already.
pub(crate) fn migrated_volume(volume: &PersistentVolume) -> Option<ObjectMeta> {
    let maker = annotation(&volume.metadata, PROVISIONED_BY)?;
    let mut changed = volume.metadata.clone();
    mark_migrated(&mut changed, Some(maker.to_owned()));
    let held_by = changed.finalizers.get_or_insert_default();
    if driver_of(maker).is_some() {
        held_by.retain(|it| it != IN_TREE_FINALIZER);
    } else if maker.starts_with(IN_TREE) {
        let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
        match policy {
            Some("Delete") if !held_by.iter().any(|it| it == IN_TREE_FINALIZER) => {
                held_by.push(IN_TREE_FINALIZER.to_owned());
            }
            Some("Retain" | "Recycle") => held_by.retain(|it| it != IN_TREE_FINALIZER),
            _ => {}
        }
        held_by.retain(|it| it != EXTERNAL_FINALIZER);
    }
    if held_by.is_empty() {
        changed.finalizers.clone_from(&volume.metadata.finalizers.clone().filter(Vec::is_empty));
    }
    (changed != volume.metadata).then_some(changed)
}

/// The finalizers of a volume whose contents are gone; `None` when ours is not among them.
pub(crate) fn released(meta: &ObjectMeta) -> Option<Vec<String>> {
    let held_by = meta.finalizers.as_ref()?;
    let rest: Vec<_> = held_by.iter().filter(|it| *it != IN_TREE_FINALIZER).cloned().collect();
    (rest.len() != held_by.len()).then_some(rest)
}
