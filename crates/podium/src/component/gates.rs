//! `--feature-gates`: a gate may be said if it says what is so here. The API server has switches behind a few.
//!
//! Source: the gates of upstream's v1.36 with their defaults, from the `kube_features.go` of each part.

use podium_api::kinds::features::Features;

/// How far upstream has come with a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Alpha,
    Beta,
    Stable,
    Deprecated,
}
use Stage::{Alpha, Beta, Deprecated, Stable};

impl Stage {
    /// As upstream's metrics have it.
    const fn text(self) -> &'static str {
        match self {
            Alpha => "ALPHA",
            Beta => "BETA",
            Stable => "",
            Deprecated => "DEPRECATED",
        }
    }
}

/// All gates: whether they are on, as upstream's are by default. `MaxUnavailableStatefulSet` is built though it is off by default.
const GATES: &[(&str, Stage, bool)] = &[
    ("APIResponseCompression", Beta, true),
    ("APIServerIdentity", Beta, true),
    ("APIServerTracing", Stable, true),
    ("APIServingWithRoutine", Alpha, false),
    ("AggregatedDiscoveryRemoveBetaType", Deprecated, true),
    ("AllAlpha", Alpha, false),
    ("AllBeta", Beta, false),
    ("AllowDNSOnlyNodeCSR", Deprecated, false),
    ("AllowInsecureKubeletCertificateSigningRequests", Deprecated, false),
    ("AllowOverwriteTerminationGracePeriodSeconds", Deprecated, false),
    ("AllowParsingUserUIDFromCertAuth", Beta, true),
    ("AllowServiceExternalIPs", Stable, true),
    ("AllowUnsafeMalformedObjectDeletion", Alpha, false),
    ("AnonymousAuthConfigurableEndpoints", Stable, true),
    ("AnyVolumeDataSource", Stable, true),
    ("AtomicFIFO", Beta, true),
    ("AuthorizeNodeWithSelectors", Stable, true),
    ("AuthorizePodWebsocketUpgradeCreatePermission", Beta, true),
    ("AuthorizeWithSelectors", Stable, true),
    ("BtreeWatchCache", Stable, true),
    ("CBORServingAndStorage", Alpha, false),
    ("CPUManagerPolicyAlphaOptions", Alpha, false),
    ("CPUManagerPolicyBetaOptions", Beta, true),
    ("CPUManagerPolicyOptions", Stable, true),
    ("CRDObservedGenerationTracking", Beta, true),
    ("CRDValidationRatcheting", Stable, true),
    ("CRIListStreaming", Alpha, false),
    ("CSIServiceAccountTokenSecrets", Stable, true),
    ("CSIVolumeHealth", Alpha, false),
    ("ChangeContainerStatusOnKubeletRestart", Deprecated, false),
    ("ClearingNominatedNodeNameAfterBinding", Beta, true),
    ("ClientsAllowCARotation", Beta, true),
    ("ClientsAllowCBOR", Alpha, false),
    ("ClientsAllowTLSCacheGC", Beta, true),
    ("ClientsPreferCBOR", Alpha, false),
    ("CloudControllerManagerWatchBasedRoutesReconciliation", Alpha, false),
    ("CloudControllerManagerWebhook", Alpha, false),
    ("ClusterTrustBundle", Beta, false),
    ("ClusterTrustBundleProjection", Beta, false),
    ("ComponentFlagz", Beta, true),
    ("ComponentStatusz", Beta, true),
    ("ConcurrentWatchObjectDecode", Beta, false),
    ("ConsistentListFromCache", Stable, true),
    ("ConstrainedImpersonation", Beta, true),
    ("ContainerCheckpoint", Beta, true),
    ("ContainerRestartRules", Beta, true),
    ("ContainerStopSignals", Alpha, false),
    ("ContextualLogging", Beta, true),
    ("ControllerManagerReleaseLeaderElectionLockOnExit", Alpha, false),
    ("CoordinatedLeaderElection", Beta, false),
    ("CrossNamespaceVolumeDataSource", Alpha, false),
    ("CustomCPUCFSQuotaPeriod", Stable, true),
    ("CustomResourceFieldSelectors", Stable, true),
    ("DRAAdminAccess", Stable, true),
    ("DRAConsumableCapacity", Beta, true),
    ("DRADeviceBindingConditions", Beta, true),
    ("DRADeviceTaintRules", Beta, false),
    ("DRADeviceTaints", Beta, true),
    ("DRAExtendedResource", Beta, true),
    ("DRAListTypeAttributes", Alpha, false),
    ("DRANodeAllocatableResources", Alpha, false),
    ("DRAPartitionableDevices", Beta, true),
    ("DRAPrioritizedList", Stable, true),
    ("DRAResourceClaimDeviceStatus", Beta, true),
    ("DRAResourceClaimGranularStatusAuthorization", Beta, true),
    ("DRAResourcePoolStatus", Alpha, false),
    ("DRASchedulerFilterTimeout", Beta, true),
    ("DRAWorkloadResourceClaims", Alpha, false),
    ("DeclarativeValidation", Stable, true),
    ("DeclarativeValidationBeta", Beta, true),
    ("DeclarativeValidationTakeover", Deprecated, false),
    ("DeploymentReplicaSetTerminatingReplicas", Beta, true),
    ("DetectCacheInconsistency", Beta, true),
    ("DisableAllocatorDualWrite", Stable, true),
    ("DisableCPUQuotaWithExclusiveCPUs", Deprecated, true),
    ("DisableNodeKubeProxyVersion", Deprecated, true),
    ("DynamicResourceAllocation", Stable, true),
    ("EnvFiles", Beta, true),
    ("EventedPLEG", Alpha, false),
    ("ExecProbeTimeout", Stable, true),
    ("ExtendWebSocketsToKubelet", Beta, true),
    ("ExternalServiceAccountTokenSigner", Stable, true),
    ("GangScheduling", Alpha, false),
    ("GenericWorkload", Alpha, false),
    ("GitRepoVolumeDriver", Deprecated, false),
    ("GracefulNodeShutdown", Beta, true),
    ("GracefulNodeShutdownBasedOnPodPriority", Beta, true),
    ("HPAConfigurableTolerance", Beta, true),
    ("HPAScaleToZero", Alpha, false),
    ("HostnameOverride", Beta, true),
    ("ImageMaximumGCAge", Stable, true),
    ("ImageVolume", Stable, true),
    ("ImageVolumeWithDigest", Alpha, false),
    ("InOrderInformers", Stable, true),
    ("InOrderInformersBatchProcess", Beta, true),
    ("InPlacePodLevelResourcesVerticalScaling", Beta, true),
    ("InPlacePodVerticalScaling", Stable, true),
    ("InPlacePodVerticalScalingExclusiveCPUs", Alpha, false),
    ("InPlacePodVerticalScalingExclusiveMemory", Alpha, false),
    ("InPlacePodVerticalScalingInitContainers", Beta, true),
    ("InformerResourceVersion", Stable, true),
    ("JobBackoffLimitPerIndex", Stable, true),
    ("JobManagedBy", Stable, true),
    ("JobPodReplacementPolicy", Stable, true),
    ("JobSuccessPolicy", Stable, true),
    ("KMSv1", Deprecated, false),
    ("KubeletCgroupDriverFromCRI", Stable, true),
    ("KubeletCrashLoopBackOffMax", Beta, true),
    ("KubeletEnsureSecretPulledImages", Beta, true),
    ("KubeletFineGrainedAuthz", Stable, true),
    ("KubeletInUserNamespace", Alpha, false),
    ("KubeletPSI", Stable, true),
    ("KubeletPodResourcesDynamicResources", Stable, true),
    ("KubeletPodResourcesGet", Stable, true),
    ("KubeletPodResourcesListUseActivePods", Deprecated, true),
    ("KubeletRegistrationGetOnExistsOnly", Deprecated, false),
    ("KubeletSeparateDiskGC", Beta, true),
    ("KubeletServiceAccountTokenForCredentialProviders", Beta, true),
    ("KubeletTracing", Stable, true),
    ("ListFromCacheSnapshot", Beta, true),
    ("LocalStorageCapacityIsolationFSQuotaMonitoring", Beta, false),
    ("LogarithmicScaleDown", Stable, true),
    ("LoggingAlphaOptions", Alpha, false),
    ("LoggingBetaOptions", Beta, true),
    ("ManifestBasedAdmissionControlConfig", Alpha, false),
    ("MatchLabelKeysInPodAffinity", Stable, true),
    ("MatchLabelKeysInPodTopologySpread", Beta, true),
    ("MatchLabelKeysInPodTopologySpreadSelectorMerge", Beta, true),
    ("MaxUnavailableStatefulSet", Beta, true),
    ("MemoryQoS", Alpha, false),
    ("MultiCIDRServiceAllocator", Stable, true),
    ("MutableCSINodeAllocatableCount", Stable, true),
    ("MutablePVNodeAffinity", Alpha, false),
    ("MutablePodResourcesForSuspendedJobs", Beta, true),
    ("MutableSchedulingDirectivesForSuspendedJobs", Beta, true),
    ("MutatingAdmissionPolicy", Stable, true),
    ("NFTablesProxyMode", Stable, true),
    ("NativeHistograms", Alpha, false),
    ("NodeDeclaredFeatures", Beta, true),
    ("NodeInclusionPolicyInPodTopologySpread", Stable, true),
    ("NodeLogQuery", Stable, true),
    ("NodeSwap", Stable, true),
    ("NominatedNodeNameForExpectation", Beta, true),
    ("OpenAPIEnums", Beta, true),
    ("OpportunisticBatching", Beta, true),
    ("OrderedNamespaceDeletion", Stable, true),
    ("PLEGOnDemandRelist", Beta, true),
    ("PersistentVolumeClaimUnusedSinceTime", Alpha, false),
    ("PodAndContainerStatsFromCRI", Alpha, false),
    ("PodCertificateRequest", Beta, false),
    ("PodDeletionCost", Beta, true),
    ("PodLevelResourceManagers", Alpha, false),
    ("PodLevelResources", Beta, true),
    ("PodLifecycleSleepAction", Stable, true),
    ("PodLifecycleSleepActionAllowZero", Stable, true),
    ("PodLogsQuerySplitStreams", Alpha, false),
    ("PodObservedGenerationTracking", Stable, true),
    ("PodReadyToStartContainersCondition", Beta, true),
    ("PodSchedulingReadiness", Stable, true),
    ("PodTopologyLabelsAdmission", Beta, true),
    ("PodsAPI", Alpha, false),
    ("PortForwardWebsockets", Beta, true),
    ("PreferSameTrafficDistribution", Stable, true),
    ("PreventStaticPodAPIReferences", Beta, true),
    ("ProcMountType", Stable, true),
    ("QOSReserved", Alpha, false),
    ("RecoverVolumeExpansionFailure", Stable, true),
    ("RecursiveReadOnlyMounts", Stable, true),
    ("ReduceDefaultCrashLoopBackOffDecay", Alpha, false),
    ("RelaxedDNSSearchValidation", Stable, true),
    ("RelaxedEnvironmentVariableValidation", Stable, true),
    ("RelaxedServiceNameValidation", Beta, true),
    ("ReloadKubeletClientCAFile", Beta, true),
    ("ReloadKubeletServerCertificateFile", Beta, true),
    ("RemoteRequestHeaderUID", Beta, true),
    ("ResilientWatchCacheInitialization", Stable, true),
    ("ResourceHealthStatus", Beta, true),
    ("ResourceHealthStatusMessage", Beta, true),
    ("RestartAllContainersOnContainerExits", Beta, true),
    ("RetryGenerateName", Stable, true),
    ("RotateKubeletServerCertificate", Beta, true),
    ("RuntimeClassInImageCriApi", Alpha, false),
    ("SELinuxChangePolicy", Stable, true),
    ("SELinuxMount", Beta, false),
    ("SELinuxMountReadWriteOncePod", Stable, true),
    ("SchedulerAsyncAPICalls", Beta, false),
    ("SchedulerAsyncPreemption", Beta, true),
    ("SchedulerPopFromBackoffQ", Beta, true),
    ("SchedulerQueueingHints", Stable, true),
    ("SeparateCacheWatchRPC", Deprecated, false),
    ("SeparateTaintEvictionController", Stable, true),
    ("ServiceAccountNodeAudienceRestriction", Beta, true),
    ("ServiceAccountTokenJTI", Stable, true),
    ("ServiceAccountTokenNodeBinding", Stable, true),
    ("ServiceAccountTokenNodeBindingValidation", Stable, true),
    ("ServiceAccountTokenPodNodeInfo", Stable, true),
    ("ServiceCIDRStatusFieldWiping", Deprecated, true),
    ("ShardedListAndWatch", Alpha, false),
    ("SidecarContainers", Stable, true),
    ("SizeBasedListCostEstimate", Beta, true),
    ("StaleControllerConsistencyDaemonSet", Beta, true),
    ("StaleControllerConsistencyJob", Beta, true),
    ("StaleControllerConsistencyReplicaSet", Beta, true),
    ("StaleControllerConsistencyStatefulSet", Beta, true),
    ("StatefulSetSemanticRevisionComparison", Beta, true),
    ("StorageCapacityScoring", Alpha, false),
    ("StorageNamespaceIndex", Deprecated, true),
    ("StorageVersionAPI", Alpha, false),
    ("StorageVersionHash", Beta, true),
    ("StorageVersionMigrator", Beta, false),
    ("StreamingCollectionEncodingToJSON", Stable, true),
    ("StreamingCollectionEncodingToProtobuf", Stable, true),
    ("StrictIPCIDRValidation", Beta, true),
    ("StructuredAuthenticationConfiguration", Stable, true),
    ("StructuredAuthenticationConfigurationEgressSelector", Beta, true),
    ("StructuredAuthenticationConfigurationJWKSMetrics", Beta, true),
    ("SupplementalGroupsPolicy", Stable, true),
    ("SystemdWatchdog", Stable, true),
    ("TaintTolerationComparisonOperators", Alpha, false),
    ("TokenRequestServiceAccountUIDValidation", Beta, true),
    ("TopologyAwareWorkloadScheduling", Alpha, false),
    ("TopologyManagerPolicyAlphaOptions", Alpha, false),
    ("TopologyManagerPolicyBetaOptions", Beta, true),
    ("TopologyManagerPolicyOptions", Stable, true),
    ("TranslateStreamCloseWebsocketRequests", Beta, true),
    ("UnauthenticatedHTTP2DOSMitigation", Beta, true),
    ("UnknownVersionInteroperabilityProxy", Beta, true),
    ("UnlockWhileProcessingFIFO", Beta, true),
    ("UserNamespacesHostNetworkSupport", Alpha, false),
    ("UserNamespacesSupport", Stable, true),
    ("VolumeAttributesClass", Stable, true),
    ("VolumeLimitScaling", Alpha, false),
    ("WatchCacheInitializationPostStartHook", Beta, true),
    ("WatchList", Beta, true),
    ("WatchListClient", Beta, true),
    ("WinDSR", Stable, true),
    ("WinOverlay", Stable, true),
    ("WindowsCPUAndMemoryAffinity", Alpha, false),
    ("WindowsGracefulNodeShutdown", Beta, true),
    ("WindowsHostNetwork", Deprecated, false),
    ("WorkloadAwarePreemption", Alpha, false),
    ("WorkloadWithJob", Alpha, false),
];

/// Writes which features there are. Source: `k8s.io/component-base/metrics/prometheus/feature`.
pub(super) fn tell(out: &mut String) {
    let help = "[BETA] This metric records the data about the stage and enablement of a k8s feature.";
    let rows = GATES.iter().map(|(name, stage, is_on)| ([*name, stage.text()], f64::from(u8::from(*is_on))));
    podium_client::metrics::gauges(out, "kubernetes_feature_enabled", help, ["name", "stage"], rows);
}

/// Reads a list such as `A=true,B=false`.
///
/// # Errors
///
/// When part of it is not a gate with a value, is no gate of v1.36, or says what is not so here.
pub(super) fn check(list: &str) -> Result<(), String> {
    read(list, &mut |_, _| false)
}

/// Reads the list of an API server: which of the features are on that it can turn on.
///
/// # Errors
///
/// As [`check`], and when a feature is on without another that it needs.
pub(super) fn features(list: &str) -> Result<Features, String> {
    let mut features = Features::default();
    read(list, &mut |gate, value| {
        let switch = match gate {
            "ClusterTrustBundle" => &mut features.cluster_trust_bundle,
            "ClusterTrustBundleProjection" => &mut features.cluster_trust_bundle_projection,
            _ => return false,
        };
        *switch = value;
        true
    })?;
    if features.cluster_trust_bundle_projection && !features.cluster_trust_bundle {
        return Err("ClusterTrustBundleProjection is enabled, but depends on features that are disabled: \
                    [ClusterTrustBundle]"
            .to_owned());
    }
    Ok(features)
}

/// What `switch` does not take has to be as it is here.
fn read(list: &str, switch: &mut dyn FnMut(&str, bool) -> bool) -> Result<(), String> {
    for said in list.split(',').map(str::trim).filter(|said| !said.is_empty()) {
        let (gate, value) = said.split_once('=').ok_or_else(|| format!("missing bool value for {said}"))?;
        let wanted = match value.trim() {
            "true" => true,
            "false" => false,
            other => return Err(format!("invalid value of {gate}={other}: it is true or false")),
        };
        let gate = gate.trim();
        let Some((.., here)) = GATES.iter().find(|(name, ..)| *name == gate) else {
            return Err(format!("unrecognized feature gate: {gate}"));
        };
        if !switch(gate, wanted) && *here != wanted {
            return Err(format!(
                "{gate}={wanted} is not supported: features are those of v1.36 with their defaults"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_may_say_what_is_so() {
        for fine in
            ["", "NodeSwap=true", "NodeSwap=true, AllAlpha=false,AllBeta=false,APIServerIdentity=true,"]
        {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
        for (wrong, why) in [
            ("NodeSwap=false", "NodeSwap=false is not supported: features are"),
            ("AllAlpha=true", "AllAlpha=true is not supported: features are"),
            ("NodeSwap", "missing bool value for NodeSwap"),
            ("NodeSwap=yes", "invalid value of NodeSwap=yes"),
            ("NodeSwap=true,Bogus=true", "unrecognized feature gate: Bogus"),
        ] {
            let error = check(wrong).unwrap_err();
            assert!(error.starts_with(why), "{wrong}: {error}");
        }
    }

    #[test]
    fn an_api_server_has_switches() {
        let on = |bundle, projection| {
            Ok(Features { cluster_trust_bundle: bundle, cluster_trust_bundle_projection: projection })
        };
        for (list, wanted) in [
            ("", on(false, false)),
            ("ClusterTrustBundle=true,NodeSwap=true", on(true, false)),
            ("ClusterTrustBundleProjection=true,ClusterTrustBundle=true", on(true, true)),
            ("ClusterTrustBundle=true,ClusterTrustBundle=false", on(false, false)),
        ] {
            assert_eq!(features(list), wanted, "{list}");
        }
        let error = features("ClusterTrustBundleProjection=true").unwrap_err();
        assert!(error.ends_with("depends on features that are disabled: [ClusterTrustBundle]"), "{error}");
        assert!(features("PodCertificateRequest=true").is_err());
        assert!(check("ClusterTrustBundle=true").is_err(), "other components have no switch");
    }

    #[test]
    fn gates_are_told_once_each_with_their_stage() {
        let mut out = String::new();
        tell(&mut out);
        let names: std::collections::BTreeSet<_> = GATES.iter().map(|(name, ..)| name).collect();
        assert_eq!((names.len(), out.lines().count()), (GATES.len(), GATES.len() + 2));
        for row in [
            r#"{name="AllAlpha",stage="ALPHA"} 0"#,
            r#"{name="ContextualLogging",stage="BETA"} 1"#,
            r#"{name="DynamicResourceAllocation",stage=""} 1"#,
        ] {
            assert!(out.contains(&format!("\nkubernetes_feature_enabled{row}\n")), "{row} {out}");
        }
    }
}
