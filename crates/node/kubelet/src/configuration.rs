//! KubeletConfiguration of kubelet.config.k8s.io/v1beta1: the fields that this kubelet acts on, with upstream's defaults.
//!
//! Files, drop-ins and flags are put together in [`sources`]; what a value may be is judged in [`check`]; fields that are
//! not built are in [`fixed`] with the one value that is true of this kubelet, and any other value is refused. So the
//! document that `/configz` shows is what the kubelet does.

mod check;
mod fixed;
mod gates;
mod sources;
mod span;
mod tls;

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use k8s_openapi::api::core::v1::Taint;
use podium_api::quantity::Quantity;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::container_manager::ContainerManagerSettings;
use crate::eviction::thresholds;
pub use sources::ConfigurationError;
pub use span::{SignedSpan, Span};

/// Lists of amounts by name, as reservations and thresholds are written.
pub type Amounts = BTreeMap<String, String>;

/// All fields that are acted on; the names are upstream's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[expect(missing_docs, reason = "upstream's reference of KubeletConfiguration explains them")]
pub struct Configuration {
    pub address: IpAddr,
    pub port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_private_key_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tls_cipher_suites: Vec<String>,
    pub tls_min_version: String,
    #[serde(rename = "serverTLSBootstrap")]
    pub server_tls_bootstrap: bool,
    pub rotate_certificates: bool,
    /// Of this process; None leaves it as it is.
    pub oom_score_adj: Option<i32>,
    /// Of this process; None leaves it as it is.
    pub max_open_files: Option<u64>,
    pub authentication: Authentication,
    pub authorization: Authorization,
    /// Of the health server; zero is none.
    pub healthz_port: u16,
    pub healthz_bind_address: IpAddr,

    pub container_runtime_endpoint: String,
    pub runtime_request_timeout: Span,
    pub cgroup_root: String,
    pub cgroup_driver: String,
    #[serde(rename = "failCgroupV1")]
    pub fail_cgroup_v1: bool,
    pub pod_logs_dir: PathBuf,
    pub enable_system_log_handler: bool,
    pub streaming_connection_idle_timeout: Span,
    /// Below zero: volumes are not measured.
    pub volume_stats_agg_period: SignedSpan,
    #[serde(rename = "eventRecordQPS")]
    pub event_record_qps: u32,
    pub event_burst: u32,

    #[serde(skip_serializing_if = "Option::is_none")]
    pub static_pod_path: Option<PathBuf>,
    pub file_check_frequency: Span,
    #[serde(rename = "staticPodURL", skip_serializing_if = "Option::is_none")]
    pub static_pod_url: Option<String>,
    #[serde(rename = "staticPodURLHeader", skip_serializing_if = "BTreeMap::is_empty")]
    pub static_pod_url_header: BTreeMap<String, Vec<String>>,
    pub http_check_frequency: Span,

    pub register_node: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub register_with_taints: Vec<Taint>,
    #[serde(rename = "providerID", skip_serializing_if = "String::is_empty")]
    pub provider_id: String,
    #[serde(rename = "podCIDR", skip_serializing_if = "Option::is_none")]
    pub pod_cidr: Option<String>,
    pub node_status_update_frequency: Span,
    /// Unset is five minutes, or the update frequency where that was set.
    pub node_status_report_frequency: Option<Span>,
    pub node_lease_duration_seconds: u32,
    pub node_status_max_images: i32,

    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    pub resolv_conf: PathBuf,

    pub shutdown_grace_period: Span,
    pub shutdown_grace_period_critical_pods: Span,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shutdown_grace_period_by_pod_priority: Vec<ShutdownPeriod>,

    pub max_pods: u32,
    pub pods_per_core: u32,
    pub pod_pids_limit: i64,
    #[serde(rename = "cpuCFSQuota")]
    pub cpu_cfs_quota: bool,
    #[serde(rename = "cpuCFSQuotaPeriod")]
    pub cpu_cfs_quota_period: Span,
    pub eviction_hard: Option<Amounts>,
    pub eviction_soft: Amounts,
    pub eviction_soft_grace_period: Amounts,
    pub eviction_pressure_transition_period: Span,
    pub eviction_max_pod_grace_period: i64,
    pub eviction_minimum_reclaim: Amounts,
    pub merge_default_eviction_settings: bool,
    pub kernel_memcg_notification: bool,
    pub kube_reserved: Amounts,
    pub system_reserved: Amounts,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kube_reserved_cgroup: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub system_reserved_cgroup: String,
    pub enforce_node_allocatable: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_unsafe_sysctls: Vec<String>,
    pub seccomp_default: bool,
    pub fail_swap_on: bool,
    pub memory_swap: MemorySwap,
    pub protect_kernel_defaults: bool,
    pub crash_loop_back_off: CrashLoopBackOff,

    #[serde(rename = "imageMinimumGCAge")]
    pub image_minimum_gc_age: Span,
    #[serde(rename = "imageMaximumGCAge")]
    pub image_maximum_gc_age: Span,
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: u8,
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: u8,
    pub serialize_image_pulls: Option<bool>,
    pub max_parallel_image_pulls: Option<u32>,
    #[serde(rename = "registryPullQPS")]
    pub registry_pull_qps: u32,
    pub registry_burst: u32,
    pub image_pull_credentials_verification_policy: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preloaded_images_verification_allowlist: Vec<String>,

    pub container_log_max_size: String,
    pub container_log_max_files: u32,
    pub container_log_monitor_interval: Span,

    pub cpu_manager_policy: String,
    pub cpu_manager_policy_options: BTreeMap<String, String>,
    #[serde(rename = "reservedSystemCPUs")]
    pub reserved_system_cpus: String,
    pub memory_manager_policy: String,
    pub reserved_memory: Vec<MemoryReservation>,
    pub topology_manager_policy: String,
    pub topology_manager_scope: String,
    pub topology_manager_policy_options: BTreeMap<String, String>,

    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub feature_gates: BTreeMap<String, bool>,

    /// What was said of fields that come to nothing here, for the log.
    #[serde(skip)]
    pub(crate) without_effect: Vec<String>,
}

/// An entry of `reservedMemory`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[expect(missing_docs, reason = "upstream's reference of KubeletConfiguration explains them")]
pub struct MemoryReservation {
    pub numa_node: usize,
    pub limits: Amounts,
}

/// An entry of `shutdownGracePeriodByPodPriority`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[expect(missing_docs, reason = "upstream's reference of KubeletConfiguration explains them")]
pub struct ShutdownPeriod {
    pub priority: i32,
    pub shutdown_grace_period_seconds: i64,
}

/// `authentication`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[expect(missing_docs, reason = "upstream's reference of KubeletConfiguration explains them")]
pub struct Authentication {
    pub x509: X509,
    pub webhook: WebhookAuthentication,
    pub anonymous: Anonymous,
}

/// `authentication.x509`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "upstream's reference of KubeletConfiguration explains them")]
pub struct X509 {
    #[serde(rename = "clientCAFile", skip_serializing_if = "Option::is_none")]
    pub client_ca_file: Option<PathBuf>,
}

/// `authentication.webhook`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "upstream's reference of KubeletConfiguration explains them")]
pub struct WebhookAuthentication {
    pub enabled: bool,
    #[serde(rename = "cacheTTL")]
    pub cache_ttl: Span,
}

/// `authentication.anonymous`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "upstream's reference of KubeletConfiguration explains them")]
pub struct Anonymous {
    pub enabled: bool,
}

/// `authorization`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "upstream's reference of KubeletConfiguration explains them")]
pub struct Authorization {
    pub mode: String,
    pub webhook: WebhookAuthorization,
}

/// `authorization.webhook`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "upstream's reference of KubeletConfiguration explains them")]
pub struct WebhookAuthorization {
    #[serde(rename = "cacheAuthorizedTTL")]
    pub cache_authorized_ttl: Span,
    #[serde(rename = "cacheUnauthorizedTTL")]
    pub cache_unauthorized_ttl: Span,
}

/// `memorySwap`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[expect(missing_docs, reason = "upstream's reference of KubeletConfiguration explains them")]
pub struct MemorySwap {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub swap_behavior: String,
}

/// `crashLoopBackOff`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[expect(missing_docs, reason = "upstream's reference of KubeletConfiguration explains them")]
pub struct CrashLoopBackOff {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_container_restart_period: Option<Span>,
}

impl Default for WebhookAuthentication {
    fn default() -> Self {
        Self { enabled: true, cache_ttl: Span::minutes(2) }
    }
}

impl Default for WebhookAuthorization {
    fn default() -> Self {
        Self { cache_authorized_ttl: Span::minutes(5), cache_unauthorized_ttl: Span::seconds(30) }
    }
}

impl Default for Authorization {
    fn default() -> Self {
        Self { mode: "Webhook".to_owned(), webhook: WebhookAuthorization::default() }
    }
}

impl Default for Configuration {
    fn default() -> Self {
        Self {
            address: IpAddr::from([0, 0, 0, 0]),
            port: 10250,
            tls_cert_file: None,
            tls_private_key_file: None,
            tls_cipher_suites: Vec::new(),
            tls_min_version: "VersionTLS12".to_owned(),
            server_tls_bootstrap: false,
            rotate_certificates: false,
            oom_score_adj: Some(-999),
            max_open_files: Some(1_000_000),
            authentication: Authentication::default(),
            authorization: Authorization::default(),
            healthz_port: 10248,
            healthz_bind_address: IpAddr::from([127, 0, 0, 1]),
            container_runtime_endpoint: "unix:///run/containerd/containerd.sock".to_owned(),
            runtime_request_timeout: Span::minutes(2),
            cgroup_root: String::new(),
            cgroup_driver: "cgroupfs".to_owned(),
            // Upstream's is true: version 1 is served here as well as version 2.
            fail_cgroup_v1: false,
            pod_logs_dir: PathBuf::from("/var/log/pods"),
            enable_system_log_handler: true,
            streaming_connection_idle_timeout: Span::hours(4),
            volume_stats_agg_period: SignedSpan::minutes(1),
            event_record_qps: 50,
            event_burst: 100,
            static_pod_path: None,
            file_check_frequency: Span::seconds(20),
            static_pod_url: None,
            static_pod_url_header: BTreeMap::new(),
            http_check_frequency: Span::seconds(20),
            register_node: true,
            register_with_taints: Vec::new(),
            provider_id: String::new(),
            pod_cidr: None,
            node_status_update_frequency: Span::seconds(10),
            node_status_report_frequency: None,
            node_lease_duration_seconds: 40,
            node_status_max_images: 50,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            shutdown_grace_period: Span::default(),
            shutdown_grace_period_critical_pods: Span::default(),
            shutdown_grace_period_by_pod_priority: Vec::new(),
            max_pods: 110,
            pods_per_core: 0,
            pod_pids_limit: -1,
            cpu_cfs_quota: true,
            cpu_cfs_quota_period: Span(Duration::from_millis(100)),
            eviction_hard: None,
            eviction_soft: Amounts::new(),
            eviction_soft_grace_period: Amounts::new(),
            eviction_pressure_transition_period: Span::minutes(5),
            eviction_max_pod_grace_period: 0,
            eviction_minimum_reclaim: Amounts::new(),
            merge_default_eviction_settings: false,
            kernel_memcg_notification: false,
            kube_reserved: Amounts::new(),
            system_reserved: Amounts::new(),
            kube_reserved_cgroup: String::new(),
            system_reserved_cgroup: String::new(),
            enforce_node_allocatable: vec!["pods".to_owned()],
            allowed_unsafe_sysctls: Vec::new(),
            seccomp_default: false,
            fail_swap_on: true,
            memory_swap: MemorySwap::default(),
            protect_kernel_defaults: false,
            crash_loop_back_off: CrashLoopBackOff::default(),
            image_minimum_gc_age: Span::minutes(2),
            image_maximum_gc_age: Span::default(),
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            serialize_image_pulls: None,
            max_parallel_image_pulls: None,
            registry_pull_qps: 5,
            registry_burst: 10,
            image_pull_credentials_verification_policy: "NeverVerifyPreloadedImages".to_owned(),
            preloaded_images_verification_allowlist: Vec::new(),
            container_log_max_size: "10Mi".to_owned(),
            container_log_max_files: 5,
            container_log_monitor_interval: Span::seconds(10),
            cpu_manager_policy: "none".to_owned(),
            cpu_manager_policy_options: BTreeMap::new(),
            reserved_system_cpus: String::new(),
            memory_manager_policy: "None".to_owned(),
            reserved_memory: Vec::new(),
            topology_manager_policy: "none".to_owned(),
            topology_manager_scope: "container".to_owned(),
            topology_manager_policy_options: BTreeMap::new(),
            feature_gates: BTreeMap::new(),
            without_effect: Vec::new(),
        }
    }
}

impl Configuration {
    /// Whether a feature was turned on that is off by default.
    pub(crate) fn feature_is_on(&self, gate: &str) -> bool {
        self.feature_gates.get(gate) == Some(&true)
    }

    /// How often an unchanged status is written.
    pub(crate) fn report_frequency(&self) -> Duration {
        let default = Span::seconds(10);
        match self.node_status_report_frequency {
            Some(every) => every.0,
            None if self.node_status_update_frequency == default => Duration::from_secs(300),
            None => self.node_status_update_frequency.0,
        }
    }

    /// The most pulls at a time; None if there is no limit.
    pub(crate) fn parallel_pulls(&self) -> Option<u32> {
        match (self.serialize_image_pulls, self.max_parallel_image_pulls) {
            (Some(true), _) | (None, None | Some(0 | 1)) => Some(1),
            (_, limit) => limit,
        }
    }

    /// The most pods, on a machine of so many processors.
    pub(crate) fn pod_limit(&self, cpus: i64) -> i64 {
        let limit = i64::from(self.max_pods);
        match self.pods_per_core {
            0 => limit,
            each => limit.min(i64::from(each).saturating_mul(cpus)),
        }
    }

    /// What is kept back of a resource for the system and for Kubernetes' own processes.
    pub(crate) fn reserved(&self, resource: &str) -> Quantity {
        [&self.kube_reserved, &self.system_reserved]
            .into_iter()
            .filter_map(|list| list.get(resource)?.parse::<Quantity>().ok())
            .fold(Quantity::ZERO, |sum, amount| sum + amount)
    }

    /// What the managers of processors, memory and topology are told; amounts have been checked.
    pub(crate) fn container_manager(&self) -> ContainerManagerSettings {
        let bytes = |amount: &String| amount.parse::<Quantity>().map_or(0, |amount| amount.value());
        let mut reserved_memory: BTreeMap<usize, BTreeMap<String, u64>> = BTreeMap::new();
        for reservation in &self.reserved_memory {
            let node = reserved_memory.entry(reservation.numa_node).or_default();
            for (resource, amount) in &reservation.limits {
                node.insert(resource.clone(), u64::try_from(bytes(amount)).unwrap_or(0));
            }
        }
        ContainerManagerSettings {
            cpu_manager_policy: self.cpu_manager_policy.clone(),
            cpu_manager_policy_options: self.cpu_manager_policy_options.clone(),
            reserved_system_cpus: self.reserved_system_cpus.clone(),
            reserved_cpu_millis: self.reserved("cpu").milli_value(),
            memory_manager_policy: self.memory_manager_policy.clone(),
            reserved_memory,
            topology_manager_policy: self.topology_manager_policy.clone(),
            topology_manager_scope: self.topology_manager_scope.clone(),
            topology_manager_policy_options: self.topology_manager_policy_options.clone(),
        }
    }

    /// The size from which on a log is rotated.
    pub(crate) fn log_bytes(&self) -> u64 {
        let size = self.container_log_max_size.parse::<Quantity>().map_or(0, |size| size.value());
        u64::try_from(size).unwrap_or(0)
    }

    /// The document that `/configz` shows: what is acted on, and what is fixed.
    #[must_use]
    pub fn shown(&self) -> Value {
        let mut shown = json!({
            "apiVersion": sources::API_VERSION, "kind": sources::KIND,
            "nodeStatusReportFrequency": Span(self.report_frequency()),
            "serializeImagePulls": self.parallel_pulls() == Some(1),
        });
        let written = serde_json::to_value(self).unwrap_or_default();
        for (name, value) in fixed::served().chain(written.as_object().cloned().unwrap_or_default()) {
            if !value.is_null() {
                shown[name] = value;
            }
        }
        shown["evictionHard"] = json!(thresholds::hard(self));
        // Upstream's kubelet masks these in its log only, but who may read a configuration need not know secrets.
        for (_, values) in shown["staticPodURLHeader"].as_object_mut().into_iter().flatten() {
            *values = json!(["<masked>"]);
        }
        shown
    }
}

#[cfg(test)]
mod tests;
