//! What the controllers count, under upstream's names. What their queues count is in `podium-client`.

use std::cmp::Ordering;
use std::time::Duration;

use podium_client::metrics::{Collect, Counter, Family, Gauge, Histogram, exponential};

mod scrape;
pub(crate) mod slices;
pub(crate) mod volumes;

pub(crate) use scrape::tell;

/// Where instances run. Upstream sets it for few controllers; here every one that runs has it.
pub(crate) static RUNNING: Family<Gauge, 2> = Family::new(
    "running_managed_controllers",
    "[BETA] Indicates where instances of a controller are currently running",
    ["manager", "name"],
    Gauge::default,
);

static JOB_SYNCS: Family<Counter, 3> = Family::new(
    "job_controller_job_syncs_total",
    "[STABLE] The number of job syncs",
    ["action", "completion_mode", "result"],
    Counter::default,
);
static JOB_SYNC_SECONDS: Family<Histogram, 3> = Family::new(
    "job_controller_job_sync_duration_seconds",
    "[STABLE] The time it took to sync a job",
    ["action", "completion_mode", "result"],
    || Histogram::new(const { &exponential::<15>(0.004, 2.0) }),
);

/// One look at a Job.
pub(crate) fn job_synced(action: &str, mode: &str, success: bool, took: Duration) {
    let result = if success { "success" } else { "error" };
    JOB_SYNCS.with([action, mode, result]).increment();
    JOB_SYNC_SECONDS.with([action, mode, result]).observe(took.as_secs_f64());
}

/// Syncs that were put off because the cache does not show the controller's own writes yet; by what it does not show. Upstream
/// counts the same of StatefulSets and never shows it.
pub(crate) static JOBS_STALE: Family<Counter, 2> = Family::new(
    "job_controller_stale_sync_skips_total",
    "[ALPHA] Total number of Job syncs skipped due to a stale watch cache.",
    ["group", "resource"],
    Counter::default,
);
pub(crate) static REPLICA_SETS_STALE: Family<Counter, 2> = Family::new(
    "replicaset_controller_stale_sync_skips_total",
    "[ALPHA] Total number of ReplicaSet syncs skipped due to a stale watch cache.",
    ["group", "resource"],
    Counter::default,
);
pub(crate) static DAEMON_SETS_STALE: Family<Counter, 2> = Family::new(
    "daemonset_controller_stale_sync_skips_total",
    "[ALPHA] Total number of DaemonSet syncs skipped due to a stale watch cache.",
    ["group", "resource"],
    Counter::default,
);
pub(crate) static DELETION_AGE_RATIO: Family<Histogram, 0> = Family::new(
    "replicaset_controller_sorting_deletion_age_ratio",
    "[ALPHA] The ratio of chosen deleted pod's ages to the current youngest pod's age (at the time). Should be <2. The intent of this metric is to measure the rough efficacy of the LogarithmicScaleDown feature gate's effect on the sorting (and deletion) of pods when a replicaset scales down. This only considers Ready pods when calculating and reporting.",
    [],
    || Histogram::new(const { &exponential::<6>(0.25, 2.0) }),
);

pub(crate) static JOBS_FINISHED: Family<Counter, 3> = Family::new(
    "job_controller_jobs_finished_total",
    "[STABLE] The number of finished jobs",
    ["completion_mode", "reason", "result"],
    Counter::default,
);
pub(crate) static JOBS_MANAGED_ELSEWHERE: Family<Counter, 1> = Family::new(
    "job_controller_jobs_by_external_controller_total",
    "[ALPHA] The number of Jobs managed by an external controller",
    ["controller_name"],
    Counter::default,
);
pub(crate) static JOB_PODS_FINISHED: Family<Counter, 2> = Family::new(
    "job_controller_job_pods_finished_total",
    "[STABLE] The number of finished Pods that are fully tracked",
    ["completion_mode", "result"],
    Counter::default,
);
pub(crate) static JOB_POD_FAILURES: Family<Counter, 1> = Family::new(
    "job_controller_pod_failures_handled_by_failure_policy_total",
    "[BETA] The number of failed Pods handled by failure policy with respect to the failure policy action applied based on the matched rule.",
    ["action"],
    Counter::default,
);
pub(crate) static JOB_PODS_HELD: Family<Counter, 1> = Family::new(
    "job_controller_terminated_pods_tracking_finalizer_total",
    "[BETA] The number of terminated pods (phase=Failed|Succeeded) that have the finalizer batch.kubernetes.io/job-tracking. The event label can be \"add\" or \"delete\".",
    ["event"],
    Counter::default,
);
pub(crate) static JOB_INDEXES_FINISHED: Family<Counter, 2> = Family::new(
    "job_controller_job_finished_indexes_total",
    "[ALPHA] The number of finished indexes.",
    ["backoffLimit", "status"],
    Counter::default,
);
pub(crate) static JOB_PODS_CREATED: Family<Counter, 2> = Family::new(
    "job_controller_job_pods_creation_total",
    "[ALPHA] The number of Pods created by the Job controller labelled with a reason for the Pod creation.",
    ["reason", "status"],
    Counter::default,
);
pub(crate) static CRON_SKEW: Family<Histogram, 0> = Family::new(
    "cronjob_controller_job_creation_skew_duration_seconds",
    "[STABLE] Time between when a cronjob is scheduled to be run, and when the corresponding job is created",
    [],
    || Histogram::new(const { &exponential::<10>(1.0, 2.0) }),
);
pub(crate) static TTL_LATE: Family<Histogram, 0> = Family::new(
    "ttl_after_finished_controller_job_deletion_duration_seconds",
    "[ALPHA] The time it took to delete the job since it became eligible for deletion",
    [],
    || Histogram::new(const { &exponential::<14>(0.1, 2.0) }),
);
/// Bounds that upstream's histograms have which name none.
const DEFAULT_BOUNDS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
static ZONE_HEALTH: Family<Gauge, 1> = Family::new(
    "node_collector_zone_health",
    "[ALPHA] Gauge measuring percentage of healthy nodes per zone.",
    ["zone"],
    Gauge::default,
);
static ZONE_SIZE: Family<Gauge, 1> = Family::new(
    "node_collector_zone_size",
    "[ALPHA] Gauge measuring number of registered Nodes per zones.",
    ["zone"],
    Gauge::default,
);
static ZONE_UNHEALTHY: Family<Gauge, 1> = Family::new(
    "node_collector_unhealthy_nodes_in_zone",
    "[ALPHA] Gauge measuring number of not Ready Nodes per zones.",
    ["zone"],
    Gauge::default,
);
pub(crate) static EVICTIONS: Family<Counter, 1> = Family::new(
    "node_collector_evictions_total",
    "[STABLE] Number of Node evictions that happened since current instance of NodeController started.",
    ["zone"],
    Counter::default,
);

pub(crate) static NODE_SECONDS: Family<Histogram, 0> = Family::new(
    "node_collector_update_node_health_duration_seconds",
    "[ALPHA] Duration in seconds for NodeController to update the health of a single node.",
    [],
    || Histogram::new(const { &exponential::<8>(0.001, 4.0) }),
);

/// How many nodes of a failure domain are well.
pub(crate) fn zone(zone: &str, ready: usize, not_ready: usize) {
    let size = ready + not_ready;
    ZONE_SIZE.with([zone]).set(size as f64);
    ZONE_UNHEALTHY.with([zone]).set(not_ready as f64);
    ZONE_HEALTH.with([zone]).set(if size == 0 { 100.0 } else { 100.0 * ready as f64 / size as f64 });
}

/// From 5 milliseconds to 4 minutes.
const TAINT_BOUNDS: [f64; 12] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 120.0, 180.0, 240.0];
pub(crate) static TAINT_DELETIONS: Family<Counter, 0> = Family::new(
    "taint_eviction_controller_pod_deletions_total",
    "[ALPHA] Total number of Pods deleted by TaintEvictionController since its start.",
    [],
    Counter::default,
);
pub(crate) static TAINT_LATE: Family<Histogram, 0> = Family::new(
    "taint_eviction_controller_pod_deletion_duration_seconds",
    "[ALPHA] Latency, in seconds, between the time when a taint effect has been activated for the Pod and its deletion via TaintEvictionController.",
    [],
    || Histogram::new(&TAINT_BOUNDS),
);
pub(crate) static DEVICE_TAINT_DELETIONS: Family<Counter, 0> = Family::new(
    "device_taint_eviction_controller_pod_deletions_total",
    "[ALPHA] Total number of Pods deleted by DeviceTaintEvictionController since its start.",
    [],
    Counter::default,
);
pub(crate) static DEVICE_TAINT_LATE: Family<Histogram, 0> = Family::new(
    "device_taint_eviction_controller_pod_deletion_duration_seconds",
    "[ALPHA] Latency, in seconds, between the time when a device taint effect has been activated and a Pod's deletion via DeviceTaintEvictionController.",
    [],
    || Histogram::new(&TAINT_BOUNDS),
);
static ROOT_CA_SYNCS: Family<Counter, 1> = Family::new(
    "root_ca_cert_publisher_sync_total",
    "[ALPHA] Number of namespace syncs happened in root ca cert publisher.",
    ["code"],
    Counter::default,
);
static ROOT_CA_SECONDS: Family<Histogram, 1> = Family::new(
    "root_ca_cert_publisher_sync_duration_seconds",
    "[ALPHA] Number of namespace syncs happened in root ca cert publisher.",
    ["code"],
    || Histogram::new(const { &exponential::<15>(0.001, 2.0) }),
);

/// One look at a namespace, and what the API said to it: 500 when it said nothing.
pub(crate) fn root_ca_published(code: u16, took: Duration) {
    let code = code.to_string();
    ROOT_CA_SYNCS.with([&code]).increment();
    ROOT_CA_SECONDS.with([&code]).observe(took.as_secs_f64());
}

pub(crate) static FORCED: Family<Counter, 2> = Family::new(
    "pod_gc_collector_force_delete_pods_total",
    "[ALPHA] Number of pods that are being forcefully deleted since the Pod GC Controller started.",
    ["namespace", "reason"],
    Counter::default,
);
pub(crate) static FORCED_ERRORS: Family<Counter, 2> = Family::new(
    "pod_gc_collector_force_delete_pod_errors_total",
    "[ALPHA] Number of errors encountered when forcefully deleting the pods since the Pod GC Controller started.",
    ["namespace", "reason"],
    Counter::default,
);
pub(crate) static CLAIMS_CREATED: Family<Counter, 0> = Family::new(
    "ephemeral_volume_controller_create_total",
    "[ALPHA] Number of PersistentVolumeClaim creation requests",
    [],
    Counter::default,
);
pub(crate) static CLAIMS_FAILED: Family<Counter, 0> = Family::new(
    "ephemeral_volume_controller_create_failures_total",
    "[ALPHA] Number of PersistentVolumeClaim creation requests",
    [],
    Counter::default,
);

static RESOURCE_CLAIMS_CREATED: Family<Counter, 2> = Family::new(
    "resourceclaim_controller_creates_total",
    "[ALPHA] Number of ResourceClaims creation requests, categorized by creation status and admin access",
    ["status", "admin_access"],
    Counter::default,
);

/// A ResourceClaim was asked for, which may use devices as an administrator does or not.
pub(crate) fn resource_claim_created(ok: bool, admin_access: bool) {
    let status = if ok { "success" } else { "failure" };
    RESOURCE_CLAIMS_CREATED.with([status, if admin_access { "true" } else { "false" }]).increment();
}

pub(crate) static DISCOVERY_FAILED: Family<Counter, 0> = Family::new(
    "garbagecollector_controller_resources_sync_error_total",
    "[ALPHA] Number of garbage collector resources sync errors",
    [],
    Counter::default,
);
pub(crate) static CIDRS_GIVEN: Family<Counter, 1> = Family::new(
    "node_ipam_controller_cidrset_cidrs_allocations_total",
    "[ALPHA] Counter measuring total number of CIDR allocations.",
    ["clusterCIDR"],
    Counter::default,
);
pub(crate) static CIDRS_RELEASED: Family<Counter, 1> = Family::new(
    "node_ipam_controller_cidrset_cidrs_releases_total",
    "[ALPHA] Counter measuring total number of CIDR releases.",
    ["clusterCIDR"],
    Counter::default,
);
/// Misspelt upstream, and so here.
pub(crate) static CIDRS_AT_MOST: Family<Gauge, 1> = Family::new(
    "node_ipam_controller_cirdset_max_cidrs",
    "[ALPHA] Maximum number of CIDRs that can be allocated.",
    ["clusterCIDR"],
    Gauge::default,
);
pub(crate) static CIDRS_USED: Family<Gauge, 1> = Family::new(
    "node_ipam_controller_cidrset_usage_cidrs",
    "[ALPHA] Gauge measuring percentage of allocated CIDRs.",
    ["clusterCIDR"],
    Gauge::default,
);
/// Upstream's words, though they are about something else.
pub(crate) static CIDR_TRIES: Family<Histogram, 1> = Family::new(
    "node_ipam_controller_cidrset_allocation_tries_per_request",
    "[ALPHA] Number of endpoints added on each Service sync",
    ["clusterCIDR"],
    || Histogram::new(const { &exponential::<5>(1.0, 5.0) }),
);

static SCALER_RECONCILES: Family<Counter, 2> = Family::new(
    "horizontal_pod_autoscaler_controller_reconciliations_total",
    "[BETA] Number of reconciliations of HPA controller. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. Note that if both spec and internal errors happen during a reconciliation, the first one to occur is reported in `error` label.",
    ["action", "error"],
    Counter::default,
);
static SCALER_RECONCILE_SECONDS: Family<Histogram, 2> = Family::new(
    "horizontal_pod_autoscaler_controller_reconciliation_duration_seconds",
    "[BETA] The time(seconds) that the HPA controller takes to reconcile once. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. Note that if both spec and internal errors happen during a reconciliation, the first one to occur is reported in `error` label.",
    ["action", "error"],
    || Histogram::new(const { &exponential::<15>(0.001, 2.0) }),
);
static SCALER_COMPUTATIONS: Family<Counter, 3> = Family::new(
    "horizontal_pod_autoscaler_controller_metric_computation_total",
    "[BETA] Number of metric computations. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'. The label 'metric_type' corresponds to HPA.spec.metrics[*].type",
    ["action", "error", "metric_type"],
    Counter::default,
);
static SCALER_COMPUTATION_SECONDS: Family<Histogram, 3> = Family::new(
    "horizontal_pod_autoscaler_controller_metric_computation_duration_seconds",
    "[BETA] The time(seconds) that the HPA controller takes to calculate one metric. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. The label 'error' should be either 'spec', 'internal', or 'none'. The label 'metric_type' corresponds to HPA.spec.metrics[*].type",
    ["action", "error", "metric_type"],
    || Histogram::new(const { &exponential::<15>(0.001, 2.0) }),
);
pub(crate) static SCALERS: Family<Gauge, 0> = Family::new(
    "horizontal_pod_autoscaler_controller_num_horizontal_pod_autoscalers",
    "[ALPHA] Current number of controlled HPA objects.",
    [],
    Gauge::default,
);
pub(crate) static SCALER_DESIRES: Family<Gauge, 2> = Family::new(
    "horizontal_pod_autoscaler_controller_desired_replicas",
    "[ALPHA] Current desired replica count for HPA objects.",
    ["namespace", "hpa_name"],
    Gauge::default,
);

/// What a number of replicas is to another.
pub(crate) fn scaling(from: i32, to: i32) -> &'static str {
    match to.cmp(&from) {
        Ordering::Greater => "scale_up",
        Ordering::Less => "scale_down",
        Ordering::Equal => "none",
    }
}

/// One look at an autoscaler.
pub(crate) fn scaler_reconciled(action: &str, error: &str, took: Duration) {
    SCALER_RECONCILES.with([action, error]).increment();
    SCALER_RECONCILE_SECONDS.with([action, error]).observe(took.as_secs_f64());
}

/// One metric of an autoscaler was worked out.
pub(crate) fn scaler_computed(action: &str, error: &str, metric: &str, took: Duration) {
    SCALER_COMPUTATIONS.with([action, error, metric]).increment();
    SCALER_COMPUTATION_SECONDS.with([action, error, metric]).observe(took.as_secs_f64());
}

pub(crate) static SET_MAY_MISS: Family<Gauge, 3> = Family::new(
    "statefulset_controller_statefulset_max_unavailable",
    "[ALPHA] Maximum number of unavailable pods allowed during StatefulSet rolling updates",
    ["statefulset_namespace", "statefulset_name", "pod_management_policy"],
    Gauge::default,
);
pub(crate) static SET_MISSES: Family<Gauge, 3> = Family::new(
    "statefulset_controller_statefulset_unavailable_replicas",
    "[ALPHA] Current number of unavailable pods in StatefulSet",
    ["statefulset_namespace", "statefulset_name", "pod_management_policy"],
    Gauge::default,
);

/// Everything that is counted here, in Prometheus' text form.
pub fn collect(out: &mut String) {
    let families: [&dyn Collect; 46] = [
        &RUNNING,
        &JOB_SYNCS,
        &JOB_SYNC_SECONDS,
        &JOBS_STALE,
        &REPLICA_SETS_STALE,
        &DAEMON_SETS_STALE,
        &DELETION_AGE_RATIO,
        &NODE_SECONDS,
        &JOBS_FINISHED,
        &JOBS_MANAGED_ELSEWHERE,
        &JOB_PODS_FINISHED,
        &JOB_POD_FAILURES,
        &JOB_PODS_HELD,
        &JOB_INDEXES_FINISHED,
        &JOB_PODS_CREATED,
        &CRON_SKEW,
        &TTL_LATE,
        &ZONE_HEALTH,
        &ZONE_SIZE,
        &ZONE_UNHEALTHY,
        &EVICTIONS,
        &TAINT_DELETIONS,
        &TAINT_LATE,
        &DEVICE_TAINT_DELETIONS,
        &DEVICE_TAINT_LATE,
        &ROOT_CA_SYNCS,
        &ROOT_CA_SECONDS,
        &FORCED,
        &FORCED_ERRORS,
        &CLAIMS_CREATED,
        &CLAIMS_FAILED,
        &RESOURCE_CLAIMS_CREATED,
        &DISCOVERY_FAILED,
        &CIDRS_GIVEN,
        &CIDRS_RELEASED,
        &CIDRS_AT_MOST,
        &CIDRS_USED,
        &CIDR_TRIES,
        &SCALER_RECONCILES,
        &SCALER_RECONCILE_SECONDS,
        &SCALER_COMPUTATIONS,
        &SCALER_COMPUTATION_SECONDS,
        &SCALERS,
        &SCALER_DESIRES,
        &SET_MAY_MISS,
        &SET_MISSES,
    ];
    families.into_iter().chain(slices::ALL).chain(volumes::ALL).for_each(|family| family.collect(out));
    scrape::collect(out);
}
