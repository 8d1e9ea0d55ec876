//! KubeletConfiguration of kubelet.config.k8s.io/v1beta1: what this kubelet follows, what it refuses, and what it warns of.
//! A field that there is not is an error, as it is upstream.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Taint;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::only;

/// The fields that are followed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Configuration {
    pub(super) address: Option<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) max_pods: Option<u32>,
    pub(super) cluster_dns: Vec<IpAddr>,
    pub(super) cluster_domain: Option<String>,
    pub(super) resolv_conf: Option<PathBuf>,
    pub(super) cgroup_root: Option<String>,
    pub(super) pod_cidr: Option<String>,
    pub(super) pod_logs_dir: Option<PathBuf>,
    pub(super) register_with_taints: Vec<Taint>,
    pub(super) container_runtime_endpoint: Option<String>,
    pub(super) client_ca_file: Option<PathBuf>,
    pub(super) tls_cert_file: Option<PathBuf>,
    pub(super) tls_private_key_file: Option<PathBuf>,
    pub(super) server_tls_bootstrap: bool,
    /// Fields that were given and are not followed.
    pub(super) unsupported: Vec<String>,
}

/// Fields of v1.36 that are not followed yet.
const UNSUPPORTED: &[&str] = &[
    "enableServer",
    "staticPodPath",
    "syncFrequency",
    "fileCheckFrequency",
    "httpCheckFrequency",
    "staticPodURL",
    "staticPodURLHeader",
    "tlsCipherSuites",
    "tlsCurvePreferences",
    "tlsMinVersion",
    "rotateCertificates",
    "registryPullQPS",
    "registryBurst",
    "imagePullCredentialsVerificationPolicy",
    "preloadedImagesVerificationAllowlist",
    "eventRecordQPS",
    "eventBurst",
    "enableDebuggingHandlers",
    "enableContentionProfiling",
    "healthzPort",
    "healthzBindAddress",
    "oomScoreAdj",
    "streamingConnectionIdleTimeout",
    "nodeStatusUpdateFrequency",
    "nodeStatusReportFrequency",
    "nodeLeaseDurationSeconds",
    "imageMinimumGCAge",
    "imageMaximumGCAge",
    "imageGCHighThresholdPercent",
    "imageGCLowThresholdPercent",
    "volumeStatsAggPeriod",
    "kubeletCgroups",
    "systemCgroups",
    "cgroupsPerQOS",
    "cpuManagerPolicy",
    "singleProcessOOMKill",
    "cpuManagerPolicyOptions",
    "cpuManagerReconcilePeriod",
    "memoryManagerPolicy",
    "topologyManagerPolicy",
    "topologyManagerScope",
    "topologyManagerPolicyOptions",
    "qosReserved",
    "runtimeRequestTimeout",
    "hairpinMode",
    "podPidsLimit",
    "runOnce",
    "cpuCFSQuota",
    "cpuCFSQuotaPeriod",
    "nodeStatusMaxImages",
    "maxOpenFiles",
    "contentType",
    "kubeAPIQPS",
    "kubeAPIBurst",
    "serializeImagePulls",
    "maxParallelImagePulls",
    "evictionHard",
    "evictionSoft",
    "evictionSoftGracePeriod",
    "evictionPressureTransitionPeriod",
    "evictionMaxPodGracePeriod",
    "evictionMinimumReclaim",
    "mergeDefaultEvictionSettings",
    "podsPerCore",
    "enableControllerAttachDetach",
    "protectKernelDefaults",
    "makeIPTablesUtilChains",
    "iptablesMasqueradeBit",
    "iptablesDropBit",
    "featureGates",
    "failSwapOn",
    "memorySwap",
    "containerLogMaxSize",
    "containerLogMaxFiles",
    "containerLogMaxWorkers",
    "containerLogMonitorInterval",
    "configMapAndSecretChangeDetectionStrategy",
    "systemReserved",
    "kubeReserved",
    "reservedSystemCPUs",
    "showHiddenMetricsForVersion",
    "systemReservedCgroup",
    "kubeReservedCgroup",
    "enforceNodeAllocatable",
    "allowedUnsafeSysctls",
    "volumePluginDir",
    "providerID",
    "kernelMemcgNotification",
    "logging",
    "enableSystemLogHandler",
    "enableSystemLogQuery",
    "shutdownGracePeriod",
    "shutdownGracePeriodCriticalPods",
    "shutdownGracePeriodByPodPriority",
    "crashLoopBackOff",
    "reservedMemory",
    "enableProfilingHandler",
    "enableDebugFlagsHandler",
    "seccompDefault",
    "memoryThrottlingFactor",
    "memoryReservationPolicy",
    "registerNode",
    "tracing",
    "localStorageCapacityIsolation",
    "imageServiceEndpoint",
    "failCgroupV1",
    "userNamespaces",
];

impl Configuration {
    /// Reads a YAML or JSON document.
    ///
    /// # Errors
    /// Another kind or version, an unknown field, a value of a wrong type, or a setting that would make the node less safe than
    /// it asks for.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let document: Value = serde_norway::from_str(text).context("not a YAML document")?;
        let Value::Object(mut fields) = document else { bail!("not an object") };
        let kind = (fields.remove("apiVersion"), fields.remove("kind"));
        if kind != (Some("kubelet.config.k8s.io/v1beta1".into()), Some("KubeletConfiguration".into())) {
            bail!("not a KubeletConfiguration of kubelet.config.k8s.io/v1beta1");
        }
        // What says nothing is as good as absent.
        fields.retain(|_, value| !value.is_null());
        let mut read = Configuration {
            address: take(&mut fields, "address")?,
            port: take(&mut fields, "port")?,
            max_pods: take(&mut fields, "maxPods")?,
            cluster_dns: take(&mut fields, "clusterDNS")?.unwrap_or_default(),
            cluster_domain: take(&mut fields, "clusterDomain")?,
            resolv_conf: take(&mut fields, "resolvConf")?,
            cgroup_root: take(&mut fields, "cgroupRoot")?,
            pod_cidr: take(&mut fields, "podCIDR")?,
            pod_logs_dir: take(&mut fields, "podLogsDir")?,
            register_with_taints: take(&mut fields, "registerWithTaints")?.unwrap_or_default(),
            container_runtime_endpoint: take(&mut fields, "containerRuntimeEndpoint")?,
            tls_cert_file: take(&mut fields, "tlsCertFile")?,
            tls_private_key_file: take(&mut fields, "tlsPrivateKeyFile")?,
            server_tls_bootstrap: take(&mut fields, "serverTLSBootstrap")?.unwrap_or_default(),
            ..Configuration::default()
        };
        read.client_ca_file = authentication(&mut fields)?;
        let authorization: Map<String, Value> = take(&mut fields, "authorization")?.unwrap_or_default();
        let mode = authorization.get("mode").and_then(Value::as_str).unwrap_or("Webhook");
        only(mode == "Webhook", "authorization.mode", "Webhook")?;
        let port: Option<u16> = take(&mut fields, "readOnlyPort")?;
        only(port.unwrap_or(0) == 0, "readOnlyPort", "0")?;
        let driver: Option<String> = take(&mut fields, "cgroupDriver")?;
        only(driver.is_none_or(|driver| driver == "cgroupfs"), "cgroupDriver", "cgroupfs")?;
        for field in fields.keys() {
            if !UNSUPPORTED.contains(&field.as_str()) {
                bail!("strict decoding error: unknown field {field:?}");
            }
            read.unsupported.push(field.clone());
        }
        Ok(read)
    }
}

/// `authentication`: the authority of clients; anonymous requests are never let in, tokens are always reviewed.
fn authentication(fields: &mut Map<String, Value>) -> Result<Option<PathBuf>> {
    let mut part: Map<String, Value> = take(fields, "authentication")?.unwrap_or_default();
    let mut section =
        |name: &str| -> Result<Map<String, Value>> { Ok(take(&mut part, name)?.unwrap_or_default()) };
    let (mut x509, mut webhook, mut anonymous) =
        (section("x509")?, section("webhook")?, section("anonymous")?);
    let file = take(&mut x509, "clientCAFile")?;
    let reviewed: Option<bool> = take(&mut webhook, "enabled")?;
    only(reviewed.unwrap_or(true), "authentication.webhook.enabled", "true")?;
    webhook.remove("cacheTTL");
    let open: Option<bool> = take(&mut anonymous, "enabled")?;
    only(!open.unwrap_or(false), "authentication.anonymous.enabled", "false")?;
    for (name, rest) in
        [("authentication", part), ("x509", x509), ("webhook", webhook), ("anonymous", anonymous)]
    {
        if let Some(field) = rest.keys().next() {
            bail!("strict decoding error: unknown field \"{name}.{field}\"");
        }
    }
    Ok(file)
}

/// Takes a field out; `None` if it is not there or null.
fn take<T: DeserializeOwned>(fields: &mut Map<String, Value>, name: &str) -> Result<Option<T>> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => serde_json::from_value(value).map(Some).with_context(|| format!("field {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rest: &str) -> Result<Configuration> {
        Configuration::parse(&format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{rest}"
        ))
    }

    #[test]
    fn a_kubeadm_configuration_is_read() {
        let read = parse(
            "authentication:\n  anonymous: {enabled: false}\n  webhook: {cacheTTL: 0s, enabled: true}\n  \
             x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}\nauthorization:\n  mode: Webhook\n  \
             webhook: {cacheAuthorizedTTL: 0s}\ncgroupDriver: cgroupfs\nclusterDNS: [10.96.0.10]\n\
             clusterDomain: cluster.local\nmaxPods: 50\nstaticPodPath: /etc/kubernetes/manifests\n\
             registerWithTaints:\n- {key: a, effect: NoSchedule}\nrotateCertificates: true\nserverTLSBootstrap: true\nevictionHard: null\n",
        )
        .unwrap();
        assert_eq!(read.client_ca_file, Some("/etc/kubernetes/pki/ca.crt".into()));
        assert_eq!(read.cluster_dns, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
        assert!(read.server_tls_bootstrap);
        assert_eq!((read.max_pods, read.register_with_taints.len()), (Some(50), 1));
        assert_eq!(read.unsupported, ["rotateCertificates", "staticPodPath"]);
    }

    #[test]
    fn what_is_wrong_or_unsafe_is_refused() {
        for (text, why) in [
            ("maxPod: 5", "unknown field \"maxPod\""),
            ("maxPods: many", "field maxPods"),
            ("readOnlyPort: 10255", "readOnlyPort"),
            ("authentication: {anonymous: {enabled: true}}", "anonymous"),
            ("authentication: {x509: {clientCaFile: /x}}", "unknown field \"x509.clientCaFile\""),
            ("authorization: {mode: AlwaysAllow}", "authorization.mode"),
            ("cgroupDriver: systemd", "cgroupDriver"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
        assert!(Configuration::parse("kind: KubeletConfiguration").is_err());
        assert!(Configuration::parse("[]").is_err());
    }
}
