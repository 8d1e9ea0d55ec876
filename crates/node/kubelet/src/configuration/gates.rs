//! `featureGates`: a gate may be said if it says what this kubelet does. A few are switches.
//!
//! Source: upstream's list of feature gates of v1.36, those of the kubelet.

use std::collections::BTreeMap;

/// Gates with what is true here: built, or not built.
const GATES: &[(&str, bool)] = &[
    ("AllAlpha", false),
    ("ContainerCheckpoint", false),
    ("ContainerRestartRules", true),
    ("ContainerStopSignals", false),
    ("CPUManagerPolicyOptions", true),
    ("DevicePluginCDIDevices", true),
    ("DynamicResourceAllocation", true),
    ("EnvFiles", true),
    ("GracefulNodeShutdown", true),
    ("GracefulNodeShutdownBasedOnPodPriority", true),
    ("ImageMaximumGCAge", true),
    ("ImageVolume", true),
    ("InPlacePodVerticalScaling", true),
    ("KubeletCrashLoopBackOffMax", true),
    ("KubeletEnsureSecretPulledImages", true),
    ("KubeletFineGrainedAuthz", true),
    ("KubeletServiceAccountTokenForCredentialProviders", true),
    ("KubeletTracing", false),
    ("LocalStorageCapacityIsolationFSQuotaMonitoring", false),
    ("MemoryManager", true),
    ("MemoryQoS", false),
    ("NodeLogQuery", false),
    ("NodeSwap", true),
    ("PodCertificateRequest", false),
    ("PodReadyToStartContainersCondition", true),
    ("RecursiveReadOnlyMounts", true),
    ("ReduceDefaultCrashLoopBackOffDecay", false),
    ("RestartAllContainersOnContainerExits", true),
    ("RotateKubeletServerCertificate", true),
    ("SidecarContainers", true),
    ("SupplementalGroupsPolicy", true),
    ("SystemdWatchdog", true),
    ("TopologyManagerPolicyOptions", true),
    ("UserNamespacesSupport", true),
];

/// Gates that turn something on that is off by default.
const SWITCHES: &[&str] = &["ClusterTrustBundle", "ClusterTrustBundleProjection"];

/// What is wrong with the gates that were said.
pub(super) fn check(said: &BTreeMap<String, bool>) -> Vec<String> {
    let on = |gate: &str| said.get(gate) == Some(&true);
    let lacking = on("ClusterTrustBundleProjection") && !on("ClusterTrustBundle");
    let lacking = lacking.then(|| {
        "featureGates: ClusterTrustBundleProjection is enabled, but depends on features that are disabled: \
         [ClusterTrustBundle]"
            .to_owned()
    });
    let judge = |(gate, value): (&String, &bool)| match GATES.iter().find(|(known, _)| known == gate) {
        _ if SWITCHES.contains(&gate.as_str()) => None,
        Some((_, here)) if here == value => None,
        Some((_, true)) => Some(format!("featureGates: {gate} cannot be turned off in this kubelet")),
        Some((_, false)) => Some(format!("featureGates: {gate} is not built in this kubelet")),
        None => Some(format!("featureGates: {gate} is not a gate that this kubelet knows")),
    };
    said.iter().filter_map(judge).chain(lacking).collect()
}
