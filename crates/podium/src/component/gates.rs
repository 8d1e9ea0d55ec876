//! `--feature-gates`: a gate may be said if it says what is so here. The API server has switches behind a few.
//!
//! Source: the gates of upstream's v1.36 with their defaults, from the `kube_features.go` of each part.

use podium_api::kinds::features::Features;

/// Gates that are on by default, and `MaxUnavailableStatefulSet`, which is built though it is off by default.
const ON: &[&str] = &[
    "APIResponseCompression",
    "APIServerIdentity",
    "APIServerTracing",
    "AggregatedDiscoveryRemoveBetaType",
    "AllowParsingUserUIDFromCertAuth",
    "AllowServiceExternalIPs",
    "AnonymousAuthConfigurableEndpoints",
    "AnyVolumeDataSource",
    "AtomicFIFO",
    "AuthorizeNodeWithSelectors",
    "AuthorizePodWebsocketUpgradeCreatePermission",
    "AuthorizeWithSelectors",
    "BtreeWatchCache",
    "CPUManagerPolicyBetaOptions",
    "CPUManagerPolicyOptions",
    "CRDObservedGenerationTracking",
    "CRDValidationRatcheting",
    "CSIServiceAccountTokenSecrets",
    "ClearingNominatedNodeNameAfterBinding",
    "ClientsAllowCARotation",
    "ClientsAllowTLSCacheGC",
    "ComponentFlagz",
    "ComponentStatusz",
    "ConsistentListFromCache",
    "ConstrainedImpersonation",
    "ContainerCheckpoint",
    "ContainerRestartRules",
    "ContextualLogging",
    "CustomCPUCFSQuotaPeriod",
    "CustomResourceFieldSelectors",
    "DRAAdminAccess",
    "DRAConsumableCapacity",
    "DRADeviceBindingConditions",
    "DRADeviceTaints",
    "DRAExtendedResource",
    "DRAPartitionableDevices",
    "DRAPrioritizedList",
    "DRAResourceClaimDeviceStatus",
    "DRAResourceClaimGranularStatusAuthorization",
    "DRASchedulerFilterTimeout",
    "DeclarativeValidation",
    "DeclarativeValidationBeta",
    "DeploymentReplicaSetTerminatingReplicas",
    "DetectCacheInconsistency",
    "DisableAllocatorDualWrite",
    "DisableCPUQuotaWithExclusiveCPUs",
    "DisableNodeKubeProxyVersion",
    "DynamicResourceAllocation",
    "EnvFiles",
    "ExecProbeTimeout",
    "ExtendWebSocketsToKubelet",
    "ExternalServiceAccountTokenSigner",
    "GracefulNodeShutdown",
    "GracefulNodeShutdownBasedOnPodPriority",
    "HPAConfigurableTolerance",
    "HostnameOverride",
    "ImageMaximumGCAge",
    "ImageVolume",
    "InOrderInformers",
    "InOrderInformersBatchProcess",
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "InformerResourceVersion",
    "JobBackoffLimitPerIndex",
    "JobManagedBy",
    "JobPodReplacementPolicy",
    "JobSuccessPolicy",
    "KubeletCgroupDriverFromCRI",
    "KubeletCrashLoopBackOffMax",
    "KubeletEnsureSecretPulledImages",
    "KubeletFineGrainedAuthz",
    "KubeletPSI",
    "KubeletPodResourcesDynamicResources",
    "KubeletPodResourcesGet",
    "KubeletPodResourcesListUseActivePods",
    "KubeletSeparateDiskGC",
    "KubeletServiceAccountTokenForCredentialProviders",
    "KubeletTracing",
    "ListFromCacheSnapshot",
    "LogarithmicScaleDown",
    "LoggingBetaOptions",
    "MatchLabelKeysInPodAffinity",
    "MatchLabelKeysInPodTopologySpread",
    "MatchLabelKeysInPodTopologySpreadSelectorMerge",
    "MaxUnavailableStatefulSet",
    "MultiCIDRServiceAllocator",
    "MutableCSINodeAllocatableCount",
    "MutablePodResourcesForSuspendedJobs",
    "MutableSchedulingDirectivesForSuspendedJobs",
    "MutatingAdmissionPolicy",
    "NFTablesProxyMode",
    "NodeDeclaredFeatures",
    "NodeInclusionPolicyInPodTopologySpread",
    "NodeLogQuery",
    "NodeSwap",
    "NominatedNodeNameForExpectation",
    "OpenAPIEnums",
    "OpportunisticBatching",
    "OrderedNamespaceDeletion",
    "PLEGOnDemandRelist",
    "PodDeletionCost",
    "PodLevelResources",
    "PodLifecycleSleepAction",
    "PodLifecycleSleepActionAllowZero",
    "PodObservedGenerationTracking",
    "PodReadyToStartContainersCondition",
    "PodSchedulingReadiness",
    "PodTopologyLabelsAdmission",
    "PortForwardWebsockets",
    "PreferSameTrafficDistribution",
    "PreventStaticPodAPIReferences",
    "ProcMountType",
    "RecoverVolumeExpansionFailure",
    "RecursiveReadOnlyMounts",
    "RelaxedDNSSearchValidation",
    "RelaxedEnvironmentVariableValidation",
    "RelaxedServiceNameValidation",
    "ReloadKubeletClientCAFile",
    "ReloadKubeletServerCertificateFile",
    "RemoteRequestHeaderUID",
    "ResilientWatchCacheInitialization",
    "ResourceHealthStatus",
    "ResourceHealthStatusMessage",
    "RestartAllContainersOnContainerExits",
    "RetryGenerateName",
    "RotateKubeletServerCertificate",
    "SELinuxChangePolicy",
    "SELinuxMountReadWriteOncePod",
    "SchedulerAsyncPreemption",
    "SchedulerPopFromBackoffQ",
    "SchedulerQueueingHints",
    "SeparateTaintEvictionController",
    "ServiceAccountNodeAudienceRestriction",
    "ServiceAccountTokenJTI",
    "ServiceAccountTokenNodeBinding",
    "ServiceAccountTokenNodeBindingValidation",
    "ServiceAccountTokenPodNodeInfo",
    "ServiceCIDRStatusFieldWiping",
    "SidecarContainers",
    "SizeBasedListCostEstimate",
    "StaleControllerConsistencyDaemonSet",
    "StaleControllerConsistencyJob",
    "StaleControllerConsistencyReplicaSet",
    "StaleControllerConsistencyStatefulSet",
    "StatefulSetSemanticRevisionComparison",
    "StorageNamespaceIndex",
    "StorageVersionHash",
    "StreamingCollectionEncodingToJSON",
    "StreamingCollectionEncodingToProtobuf",
    "StrictIPCIDRValidation",
    "StructuredAuthenticationConfiguration",
    "StructuredAuthenticationConfigurationEgressSelector",
    "StructuredAuthenticationConfigurationJWKSMetrics",
    "SupplementalGroupsPolicy",
    "SystemdWatchdog",
    "TokenRequestServiceAccountUIDValidation",
    "TopologyManagerPolicyBetaOptions",
    "TopologyManagerPolicyOptions",
    "TranslateStreamCloseWebsocketRequests",
    "UnauthenticatedHTTP2DOSMitigation",
    "UnknownVersionInteroperabilityProxy",
    "UnlockWhileProcessingFIFO",
    "UserNamespacesSupport",
    "VolumeAttributesClass",
    "WatchCacheInitializationPostStartHook",
    "WatchList",
    "WatchListClient",
    "WinDSR",
    "WinOverlay",
    "WindowsGracefulNodeShutdown",
];

/// Gates that are off by default, and `AllAlpha`, which turns on many of them.
const OFF: &[&str] = &[
    "APIServingWithRoutine",
    "AllAlpha",
    "AllowDNSOnlyNodeCSR",
    "AllowInsecureKubeletCertificateSigningRequests",
    "AllowOverwriteTerminationGracePeriodSeconds",
    "AllowUnsafeMalformedObjectDeletion",
    "CBORServingAndStorage",
    "CPUManagerPolicyAlphaOptions",
    "CRIListStreaming",
    "CSIVolumeHealth",
    "ChangeContainerStatusOnKubeletRestart",
    "ClientsAllowCBOR",
    "ClientsPreferCBOR",
    "CloudControllerManagerWatchBasedRoutesReconciliation",
    "CloudControllerManagerWebhook",
    "ClusterTrustBundle",
    "ClusterTrustBundleProjection",
    "ConcurrentWatchObjectDecode",
    "ContainerStopSignals",
    "ControllerManagerReleaseLeaderElectionLockOnExit",
    "CoordinatedLeaderElection",
    "CrossNamespaceVolumeDataSource",
    "DRADeviceTaintRules",
    "DRAListTypeAttributes",
    "DRANodeAllocatableResources",
    "DRAResourcePoolStatus",
    "DRAWorkloadResourceClaims",
    "DeclarativeValidationTakeover",
    "EventedPLEG",
    "GangScheduling",
    "GenericWorkload",
    "GitRepoVolumeDriver",
    "HPAScaleToZero",
    "ImageVolumeWithDigest",
    "InPlacePodVerticalScalingExclusiveCPUs",
    "InPlacePodVerticalScalingExclusiveMemory",
    "KMSv1",
    "KubeletInUserNamespace",
    "KubeletRegistrationGetOnExistsOnly",
    "LocalStorageCapacityIsolationFSQuotaMonitoring",
    "LoggingAlphaOptions",
    "ManifestBasedAdmissionControlConfig",
    "MemoryQoS",
    "MutablePVNodeAffinity",
    "NativeHistograms",
    "PersistentVolumeClaimUnusedSinceTime",
    "PodAndContainerStatsFromCRI",
    "PodCertificateRequest",
    "PodLevelResourceManagers",
    "PodLogsQuerySplitStreams",
    "PodsAPI",
    "QOSReserved",
    "ReduceDefaultCrashLoopBackOffDecay",
    "RuntimeClassInImageCriApi",
    "SELinuxMount",
    "SchedulerAsyncAPICalls",
    "SeparateCacheWatchRPC",
    "ShardedListAndWatch",
    "StorageCapacityScoring",
    "StorageVersionAPI",
    "StorageVersionMigrator",
    "TaintTolerationComparisonOperators",
    "TopologyAwareWorkloadScheduling",
    "TopologyManagerPolicyAlphaOptions",
    "UserNamespacesHostNetworkSupport",
    "VolumeLimitScaling",
    "WindowsCPUAndMemoryAffinity",
    "WindowsHostNetwork",
    "WorkloadAwarePreemption",
    "WorkloadWithJob",
];

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
        let here = match (ON.contains(&gate), OFF.contains(&gate)) {
            (true, _) => true,
            (_, true) => false,
            _ => return Err(format!("unrecognized feature gate: {gate}")),
        };
        if !switch(gate, wanted) && here != wanted {
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
        for fine in ["", "NodeSwap=true", "NodeSwap=true, AllAlpha=false,APIServerIdentity=true,"] {
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
    fn no_gate_is_both() {
        let all: std::collections::BTreeSet<_> = ON.iter().chain(OFF).collect();
        assert_eq!(all.len(), ON.len() + OFF.len());
    }
}
