//! The metrics that there are, in upstream's words. Source: `pkg/kubelet/metrics` at v1.36, and where volumes, images and probes
//! have theirs.

use super::{Family, Kind};

/// Prometheus' own.
pub(crate) const DEFAULT: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Upstream's bounds of starts of pods.
const STARTUP: &[f64] = &[
    0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0,
    480.0, 600.0, 900.0, 1200.0, 1800.0, 2700.0, 3600.0,
];
/// Upstream's bounds of calls of the runtime.
const CALLS: &[f64] = &[
    0.005,
    0.0125,
    0.03125,
    0.078_125,
    0.195_312_5,
    0.488_281_25,
    1.220_703_125,
    3.051_757_812_5,
    7.629_394_531_25,
    19.073_486_328_125,
    47.683_715_820_312_5,
    119.209_289_550_781_25,
    298.023_223_876_953_1,
    745.058_059_692_382_8,
];

/// Upstream's bounds of pulls of images.
const PULLS: &[f64] = &[
    1.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0, 1200.0, 1800.0,
    2700.0, 3600.0,
];
/// Upstream's bounds of writes of a pod's status.
const STATUSES: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0];
/// Upstream's bounds of work on volumes.
const VOLUMES: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 25.0, 50.0, 120.0, 300.0, 600.0];
/// Upstream's bounds of a topology manager's admissions, in milliseconds.
const ADMISSIONS: &[f64] =
    &[0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6, 819.2];
/// Upstream's bounds of resizes, in milliseconds.
const RESIZES: &[f64] = &[
    10.0, 50.0, 100.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0, 30_000.0, 60_000.0, 120_000.0,
    300_000.0, 600_000.0,
];

macro_rules! families {
    ($($(#[$doc:meta])* $constant:ident: $name:literal, $kind:expr, $labelled:literal, $help:literal;)*) => {
        $($(#[$doc])* pub(crate) static $constant: Family =
            Family { name: $name, help: $help, kind: $kind, labelled: $labelled };)*
        pub(super) static ALL: &[&Family] = &[$(&$constant),*];
    };
}

families! {
    RUNTIME_OPERATIONS: "kubelet_runtime_operations_total", Kind::Counter, true,
        "[ALPHA] Cumulative number of runtime operations by operation type.";
    RUNTIME_ERRORS: "kubelet_runtime_operations_errors_total", Kind::Counter, true,
        "[ALPHA] Cumulative number of runtime operation errors by operation type.";
    RUNTIME_DURATION: "kubelet_runtime_operations_duration_seconds", Kind::Histogram(CALLS), true,
        "[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.";
    RELIST_DURATION: "kubelet_pleg_relist_duration_seconds", Kind::Histogram(DEFAULT), false,
        "[ALPHA] Duration in seconds for relisting pods in PLEG.";
    RELIST_INTERVAL: "kubelet_pleg_relist_interval_seconds", Kind::Histogram(DEFAULT), false,
        "[ALPHA] Interval in seconds between relisting in PLEG.";
    RELIST_SEEN: "kubelet_pleg_last_seen_seconds", Kind::Gauge, false,
        "[ALPHA] Timestamp in seconds when PLEG was last seen active.";
    POD_START: "kubelet_pod_start_duration_seconds", Kind::Histogram(STARTUP), false,
        "[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run";
    POD_START_SLI: "kubelet_pod_start_sli_duration_seconds", Kind::Histogram(STARTUP), false,
        "[ALPHA] Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch";
    POD_START_TOTAL: "kubelet_pod_start_total_duration_seconds", Kind::Histogram(STARTUP), false,
        "[ALPHA] Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch";
    POD_WORKER: "kubelet_pod_worker_duration_seconds", Kind::Histogram(DEFAULT), true,
        "[ALPHA] Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync";
    SANDBOX_DURATION: "kubelet_run_podsandbox_duration_seconds", Kind::Histogram(DEFAULT), true,
        "[ALPHA] Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.";
    SANDBOX_ERRORS: "kubelet_run_podsandbox_errors_total", Kind::Counter, true,
        "[ALPHA] Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler.";
    PODS_STARTED: "kubelet_started_pods_total", Kind::Counter, false,
        "[ALPHA] Cumulative number of pods started";
    PODS_FAILED: "kubelet_started_pods_errors_total", Kind::Counter, false,
        "[ALPHA] Cumulative number of errors when starting pods";
    CONTAINERS_STARTED: "kubelet_started_containers_total", Kind::Counter, true,
        "[ALPHA] Cumulative number of containers started";
    CONTAINERS_FAILED: "kubelet_started_containers_errors_total", Kind::Counter, true,
        "[ALPHA] Cumulative number of errors when starting containers";
    HOOK_FALLBACKS: "kubelet_lifecycle_handler_http_fallbacks_total", Kind::Counter, false,
        "[ALPHA] The number of times lifecycle handlers successfully fell back to http from https.";
    REJECTIONS: "kubelet_admission_rejections_total", Kind::Counter, true,
        "[ALPHA] Cumulative number pod admission rejections by the Kubelet.";
    PREEMPTIONS: "kubelet_preemptions", Kind::Counter, true,
        "[ALPHA] Cumulative number of pod preemptions by preemption resource";
    EVICTIONS: "kubelet_evictions", Kind::Counter, true,
        "[ALPHA] Cumulative number of pod evictions by eviction signal";
    DEVICE_REGISTRATIONS: "kubelet_device_plugin_registration_total", Kind::Counter, true,
        "[ALPHA] Cumulative number of device plugin registrations. Broken down by resource name.";
    DEVICE_ALLOCATION: "kubelet_device_plugin_alloc_duration_seconds", Kind::Histogram(DEFAULT), true,
        "[ALPHA] Duration in seconds to serve a device plugin Allocation request. Broken down by resource name.";
    POD_RESOURCES: "kubelet_pod_resources_endpoint_requests_total", Kind::Counter, true,
        "[ALPHA] Cumulative number of requests to the PodResource endpoint. Broken down by server api version.";
    CPU_PINNING: "kubelet_cpu_manager_pinning_requests_total", Kind::Counter, false,
        "[ALPHA] The number of cpu allocations which required pinning.";
    CPU_PINNING_ERRORS: "kubelet_cpu_manager_pinning_errors_total", Kind::Counter, false,
        "[ALPHA] The number of cpu allocations which required pinning failed.";
    TOPOLOGY_REQUESTS: "kubelet_topology_manager_admission_requests_total", Kind::Counter, false,
        "[ALPHA] The number of admission requests where resources have to be aligned.";
    TOPOLOGY_ERRORS: "kubelet_topology_manager_admission_errors_total", Kind::Counter, false,
        "[ALPHA] The number of admission request failures where resources could not be aligned.";
    POD_START_FIRST: "kubelet_first_network_pod_start_sli_duration_seconds", Kind::Gauge, false,
        "[INTERNAL] Duration in seconds to start the first network pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch";
    POD_CONTAINERS: "kubelet_containers_per_pod_count", Kind::Histogram(&[1.0, 2.0, 4.0, 8.0, 16.0]), false,
        "[ALPHA] The number of containers per pod.";
    POD_WORKER_START: "kubelet_pod_worker_start_duration_seconds", Kind::Histogram(DEFAULT), false,
        "[ALPHA] Duration in seconds from kubelet seeing a pod to starting a worker.";
    POD_STATUS: "kubelet_pod_status_sync_duration_seconds", Kind::Histogram(STATUSES), false,
        "[ALPHA] Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status until the API is successfully updated for that pod, even if multiple intevening changes to pod status occur.";
    POD_LOOK: "kubelet_pleg_pod_relist_duration_seconds", Kind::Histogram(DEFAULT), false,
        "[ALPHA] Duration in seconds for relisting a single pod in PLEG.";
    EVENTS_HEARD: "kubelet_evented_pleg_connection_success_count", Kind::Counter, false,
        "[ALPHA] The number of times a streaming client was obtained to receive CRI Events.";
    EVENTS_FAILED: "kubelet_evented_pleg_connection_error_count", Kind::Counter, false,
        "[ALPHA] The number of errors encountered during the establishment of streaming connection with the CRI runtime.";
    EVENTS_LATENCY: "kubelet_evented_pleg_connection_latency_seconds", Kind::Histogram(DEFAULT), false,
        "[ALPHA] The latency of streaming connection with the CRI runtime, measured in seconds.";
    ORPHANS: "kubelet_orphaned_runtime_pods_total", Kind::Counter, false,
        "[ALPHA] Number of pods that have been detected in the container runtime without being already known to the pod worker. This typically indicates the kubelet was restarted while a pod was force deleted in the API or in the local configuration, which is unusual.";
    ORPHANS_CLEANED: "kubelet_orphan_pod_cleaned_volumes", Kind::Gauge, false,
        "[ALPHA] The total number of orphaned Pods whose volumes were cleaned in the last periodic sweep.";
    ORPHANS_FAILED: "kubelet_orphan_pod_cleaned_volumes_errors", Kind::Gauge, false,
        "[ALPHA] The number of orphaned Pods whose volumes failed to be cleaned in the last periodic sweep.";
    CONTAINERS_ENDED: "kubelet_terminated_containers_total", Kind::Counter, true,
        "[ALPHA] Cumulative number of container terminations.";
    USER_PODS_STARTED: "kubelet_started_user_namespaced_pods_total", Kind::Counter, false,
        "[ALPHA] Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.";
    USER_PODS_FAILED: "kubelet_started_user_namespaced_pods_errors_total", Kind::Counter, false,
        "[ALPHA] Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux.";
    HOOK_SLEEPS: "kubelet_sleep_action_terminated_early_total", Kind::Counter, false,
        "[ALPHA] The number of times lifecycle sleep handler got terminated before it finishes";
    EVICTION_AGE: "kubelet_eviction_stats_age_seconds", Kind::Histogram(DEFAULT), true,
        "[ALPHA] Time between when stats are collected, and when pod is evicted based on those stats by eviction signal";
    IMAGE_PULLS: "kubelet_image_pull_duration_seconds", Kind::Histogram(PULLS), true,
        "[ALPHA] Duration in seconds to pull an image.";
    IMAGE_REQUESTS: "kubelet_image_manager_ensure_image_requests_total", Kind::Counter, true,
        "[ALPHA] Number of ensure-image requests processed by the kubelet.";
    IMAGES_COLLECTED: "kubelet_image_garbage_collected_total", Kind::Counter, true,
        "[ALPHA] Total number of images garbage collected by the kubelet, whether through disk usage or image age.";
    IMAGE_VOLUMES: "kubelet_image_volume_requested_total", Kind::Counter, false,
        "[BETA] Number of requested image volumes.";
    IMAGE_VOLUMES_MOUNTED: "kubelet_image_volume_mounted_succeed_total", Kind::Counter, false,
        "[BETA] Number of successful image volume mounts.";
    IMAGE_VOLUMES_FAILED: "kubelet_image_volume_mounted_errors_total", Kind::Counter, false,
        "[BETA] Number of failed image volume mounts.";
    CGROUPS: "kubelet_cgroup_manager_duration_seconds", Kind::Histogram(DEFAULT), true,
        "[ALPHA] Duration in seconds for cgroup manager operations. Broken down by method.";
    SHUTDOWN_BEGAN: "kubelet_graceful_shutdown_start_time_seconds", Kind::Gauge, false,
        "[ALPHA] Last graceful shutdown start time since unix epoch in seconds";
    SHUTDOWN_ENDED: "kubelet_graceful_shutdown_end_time_seconds", Kind::Gauge, false,
        "[ALPHA] Last graceful shutdown end time since unix epoch in seconds";
    NODE_PRE_KUBELET: "kubelet_node_startup_pre_kubelet_duration_seconds", Kind::Gauge, false,
        "[ALPHA] Duration in seconds of node startup before kubelet starts.";
    NODE_PRE_REGISTRATION: "kubelet_node_startup_pre_registration_duration_seconds", Kind::Gauge, false,
        "[ALPHA] Duration in seconds of node startup before registration.";
    NODE_REGISTRATION: "kubelet_node_startup_registration_duration_seconds", Kind::Gauge, false,
        "[ALPHA] Duration in seconds of node startup during registration.";
    NODE_POST_REGISTRATION: "kubelet_node_startup_post_registration_duration_seconds", Kind::Gauge, false,
        "[ALPHA] Duration in seconds of node startup after registration.";
    NODE_STARTUP: "kubelet_node_startup_duration_seconds", Kind::Gauge, false,
        "[ALPHA] Duration in seconds of node startup in total.";
    POD_RESOURCES_LIST: "kubelet_pod_resources_endpoint_requests_list", Kind::Counter, true,
        "[ALPHA] Number of requests to the PodResource List endpoint. Broken down by server api version.";
    POD_RESOURCES_LIST_ERRORS: "kubelet_pod_resources_endpoint_errors_list", Kind::Counter, true,
        "[ALPHA] Number of requests to the PodResource List endpoint which returned error. Broken down by server api version.";
    POD_RESOURCES_ALLOCATABLE: "kubelet_pod_resources_endpoint_requests_get_allocatable", Kind::Counter, true,
        "[ALPHA] Number of requests to the PodResource GetAllocatableResources endpoint. Broken down by server api version.";
    POD_RESOURCES_ALLOCATABLE_ERRORS: "kubelet_pod_resources_endpoint_errors_get_allocatable", Kind::Counter, true,
        "[ALPHA] Number of requests to the PodResource GetAllocatableResources endpoint which returned error. Broken down by server api version.";
    POD_RESOURCES_GET: "kubelet_pod_resources_endpoint_requests_get", Kind::Counter, true,
        "[ALPHA] Number of requests to the PodResource Get endpoint. Broken down by server api version.";
    POD_RESOURCES_GET_ERRORS: "kubelet_pod_resources_endpoint_errors_get", Kind::Counter, true,
        "[ALPHA] Number of requests to the PodResource Get endpoint which returned error. Broken down by server api version.";
    CPU_SHARED: "kubelet_cpu_manager_shared_pool_size_millicores", Kind::Gauge, false,
        "[ALPHA] The size of the shared CPU pool for non-guaranteed QoS pods, in millicores.";
    CPU_EXCLUSIVE: "kubelet_cpu_manager_exclusive_cpu_allocation_count", Kind::Gauge, false,
        "[ALPHA] The total number of CPUs exclusively allocated to containers running on this node";
    CPU_PER_NUMA: "kubelet_cpu_manager_allocation_per_numa", Kind::Gauge, true,
        "[ALPHA] Number of CPUs allocated per NUMA node";
    ALIGNED: "kubelet_container_aligned_compute_resources_count", Kind::Counter, true,
        "[ALPHA] Cumulative number of aligned compute resources allocated to containers by alignment type.";
    NOT_ALIGNED: "kubelet_container_aligned_compute_resources_failure_count", Kind::Counter, true,
        "[ALPHA] Cumulative number of failures to allocate aligned compute resources to containers by alignment type.";
    MEMORY_PINNING: "kubelet_memory_manager_pinning_requests_total", Kind::Counter, false,
        "[ALPHA] The number of memory pages allocations which required pinning.";
    MEMORY_PINNING_ERRORS: "kubelet_memory_manager_pinning_errors_total", Kind::Counter, false,
        "[ALPHA] The number of memory pages allocations which required pinning that failed.";
    TOPOLOGY_DURATION: "kubelet_topology_manager_admission_duration_ms", Kind::Histogram(ADMISSIONS), false,
        "[ALPHA] Duration in milliseconds to serve a pod admission request.";
    RESIZES_ASKED: "kubelet_container_requested_resizes_total", Kind::Counter, true,
        "[ALPHA] Number of requested resizes, counted at the container level. Different resources on the same container are counted separately. The 'requirement' label refers to 'memory' or 'limits'; the 'operation' label can be one of 'add', 'remove', 'increase' or 'decrease'.";
    RESIZE_DURATION: "kubelet_pod_resize_duration_milliseconds", Kind::Histogram(RESIZES), true,
        "[ALPHA] Duration in milliseconds to actuate a pod resize";
    RESIZES_INFEASIBLE: "kubelet_pod_infeasible_resizes_total", Kind::Counter, true,
        "[ALPHA] Number of infeasible resizes for pods.";
    RESIZES_DEFERRED: "kubelet_pod_deferred_accepted_resizes_total", Kind::Counter, true,
        "[ALPHA] Cumulative number of resizes that were accepted after being deferred.";
    STORAGE: "storage_operation_duration_seconds", Kind::Histogram(VOLUMES), true,
        "[ALPHA] Storage operation duration";
    PROBES: "prober_probe_total", Kind::Counter, true,
        "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.";
    PROBE_DURATION: "prober_probe_duration_seconds", Kind::Histogram(DEFAULT), true,
        "[ALPHA] Duration in seconds for a probe response.";
}
