//! What the kubelet counts and times, under upstream's names; `server/metrics.rs` shows it.
//!
//! A family is a constant below; rows of it come into being when they are first counted. Families without labels are there from
//! the start, so that nobody has to guess whether zero or nothing happened.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use podium_client::metrics::{Histogram, head};

/// What is known about one metric.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) name: &'static str,
    help: &'static str,
    kind: Kind,
    labelled: bool,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    /// A moment, in seconds since 1970.
    Moment,
    /// Seconds, by these bounds.
    Seconds(&'static [f64]),
}

const DEFAULT: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
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

macro_rules! families {
    ($($(#[$doc:meta])* $constant:ident: $name:literal, $kind:expr, $labelled:literal, $help:literal;)*) => {
        $($(#[$doc])* pub(crate) static $constant: Family =
            Family { name: $name, help: $help, kind: $kind, labelled: $labelled };)*
        static ALL: &[&Family] = &[$(&$constant),*];
    };
}

families! {
    RUNTIME_OPERATIONS: "kubelet_runtime_operations_total", Kind::Counter, true,
        "[ALPHA] Cumulative number of runtime operations by operation type.";
    RUNTIME_ERRORS: "kubelet_runtime_operations_errors_total", Kind::Counter, true,
        "[ALPHA] Cumulative number of runtime operation errors by operation type.";
    RUNTIME_DURATION: "kubelet_runtime_operations_duration_seconds", Kind::Seconds(CALLS), true,
        "[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.";
    RELIST_DURATION: "kubelet_pleg_relist_duration_seconds", Kind::Seconds(DEFAULT), false,
        "[ALPHA] Duration in seconds for relisting pods in PLEG.";
    RELIST_INTERVAL: "kubelet_pleg_relist_interval_seconds", Kind::Seconds(DEFAULT), false,
        "[ALPHA] Interval in seconds between relisting in PLEG.";
    RELIST_SEEN: "kubelet_pleg_last_seen_seconds", Kind::Moment, false,
        "[ALPHA] Timestamp in seconds when PLEG was last seen active.";
    POD_START: "kubelet_pod_start_duration_seconds", Kind::Seconds(STARTUP), false,
        "[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run";
    POD_START_SLI: "kubelet_pod_start_sli_duration_seconds", Kind::Seconds(STARTUP), false,
        "[ALPHA] Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch";
    POD_START_TOTAL: "kubelet_pod_start_total_duration_seconds", Kind::Seconds(STARTUP), false,
        "[ALPHA] Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch";
    POD_WORKER: "kubelet_pod_worker_duration_seconds", Kind::Seconds(DEFAULT), true,
        "[ALPHA] Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync";
    SANDBOX_DURATION: "kubelet_run_podsandbox_duration_seconds", Kind::Seconds(CALLS), true,
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
    DEVICE_ALLOCATION: "kubelet_device_plugin_alloc_duration_seconds", Kind::Seconds(DEFAULT), true,
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
    PROBES: "prober_probe_total", Kind::Counter, true,
        "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.";
    PROBE_DURATION: "prober_probe_duration_seconds", Kind::Seconds(DEFAULT), true,
        "[ALPHA] Duration in seconds for a probe response.";
}

#[derive(Debug)]
enum Row {
    Number(u64),
    Seconds(Arc<Histogram>),
}

/// Labels as they are written, without braces.
type Labels = String;

/// All rows of all families.
#[derive(Debug)]
pub(crate) struct Metrics(Mutex<BTreeMap<&'static str, BTreeMap<Labels, Row>>>);

fn row(family: &Family) -> Row {
    match family.kind {
        Kind::Counter | Kind::Moment => Row::Number(0),
        Kind::Seconds(bounds) => Row::Seconds(Arc::new(Histogram::new(bounds))),
    }
}

/// Labels in Prometheus' notation, without braces.
pub(crate) fn labels(list: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (label, value) in list {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{label}=\"{value}\"");
    }
    text
}

impl Default for Metrics {
    fn default() -> Self {
        let unlabelled = ALL.iter().filter(|family| !family.labelled);
        let rows = unlabelled.map(|family| (family.name, BTreeMap::from([(String::new(), row(family))])));
        Self(Mutex::new(rows.collect()))
    }
}

impl Metrics {
    /// Counts one.
    pub(crate) fn count(&self, family: &Family, list: &[(&str, &str)]) {
        let mut rows = self.0.lock();
        let row = rows.entry(family.name).or_default().entry(labels(list)).or_insert_with(|| row(family));
        if let Row::Number(number) = row {
            *number += 1;
        }
    }

    /// Notes how long something took.
    pub(crate) fn took(&self, family: &Family, list: &[(&str, &str)], time: Duration) {
        let histogram = {
            let mut rows = self.0.lock();
            match rows.entry(family.name).or_default().entry(labels(list)).or_insert_with(|| row(family)) {
                Row::Seconds(histogram) => histogram.clone(),
                Row::Number(_) => return,
            }
        };
        histogram.observe(time.as_secs_f64());
    }

    /// Notes how long it has been since.
    pub(crate) fn since(&self, family: &Family, list: &[(&str, &str)], began: Instant) {
        self.took(family, list, began.elapsed());
    }

    /// Notes that it is this second, in seconds since 1970.
    pub(crate) fn moment(&self, family: &Family, now: i64) {
        let now = u64::try_from(now).unwrap_or(0);
        self.0.lock().entry(family.name).or_default().insert(String::new(), Row::Number(now));
    }

    /// Forgets the rows of a family about something that is gone.
    pub(crate) fn forget(&self, family: &Family, list: &[(&str, &str)]) {
        let wanted: Vec<String> = list.iter().map(|label| labels(std::slice::from_ref(label))).collect();
        let about = |row: &Labels| wanted.iter().all(|label| row.contains(label.as_str()));
        if let Some(rows) = self.0.lock().get_mut(family.name) {
            rows.retain(|labels, _| !about(labels));
        }
    }

    /// Notes a call of the runtime; `call` is CRI's word for it.
    pub(crate) fn called(&self, call: &str, time: Duration, failed: bool) {
        let name = operation(call);
        let list = [("operation_type", name.as_str())];
        self.count(&RUNTIME_OPERATIONS, &list);
        self.took(&RUNTIME_DURATION, &list, time);
        if failed {
            self.count(&RUNTIME_ERRORS, &list);
        }
    }

    /// The families whose names begin with this, as text.
    pub(crate) fn render(&self, prefix: &str) -> String {
        let rows = self.0.lock();
        let mut text = String::new();
        for family in ALL.iter().filter(|family| family.name.starts_with(prefix)) {
            let Some(rows) = rows.get(family.name).filter(|rows| !rows.is_empty()) else { continue };
            let kind = match family.kind {
                Kind::Counter => "counter",
                Kind::Moment => "gauge",
                Kind::Seconds(_) => "histogram",
            };
            head(&mut text, family.name, kind, family.help);
            for (labels, row) in rows {
                match row {
                    Row::Number(number) if labels.is_empty() => {
                        let _ = writeln!(text, "{} {number}", family.name);
                    }
                    Row::Number(number) => {
                        let _ = writeln!(text, "{}{{{labels}}} {number}", family.name);
                    }
                    Row::Seconds(histogram) => histogram.render(&mut text, family.name, labels),
                }
            }
        }
        text
    }
}

/// Upstream's word for a call of CRI: `RunPodSandbox` is `run_podsandbox`.
fn operation(call: &str) -> String {
    let mut name = String::with_capacity(call.len() + 4);
    for letter in call.chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name.replace("pod_sandbox", "podsandbox")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shown_by_family() {
        let metrics = Metrics::default();
        assert!(metrics.render("kubelet_started_pods").contains("\nkubelet_started_pods_total 0\n"));
        assert_eq!(metrics.render("kubelet_runtime"), "", "labelled ones come when there is something");
        metrics.called("RunPodSandbox", Duration::from_millis(20), false);
        metrics.called("RunPodSandbox", Duration::from_millis(20), true);
        metrics.called("ImageFsInfo", Duration::ZERO, false);
        let text = metrics.render("kubelet_runtime");
        for line in [
            "# TYPE kubelet_runtime_operations_total counter",
            "kubelet_runtime_operations_total{operation_type=\"run_podsandbox\"} 2",
            "kubelet_runtime_operations_total{operation_type=\"image_fs_info\"} 1",
            "kubelet_runtime_operations_errors_total{operation_type=\"run_podsandbox\"} 1",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"run_podsandbox\",le=\"0.0125\"} 0",
            "kubelet_runtime_operations_duration_seconds_bucket{operation_type=\"run_podsandbox\",le=\"0.03125\"} 2",
            "kubelet_runtime_operations_duration_seconds_count{operation_type=\"run_podsandbox\"} 2",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} in\n{text}");
        }
        metrics.moment(&RELIST_SEEN, 7);
        assert!(metrics.render("kubelet_pleg").contains("\nkubelet_pleg_last_seen_seconds 7\n"));
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let metrics = Metrics::default();
        for (pod, result) in [("a", "successful"), ("a", "failed"), ("b", "failed")] {
            metrics.count(&PROBES, &[("pod_uid", pod), ("result", result)]);
        }
        metrics.forget(&PROBES, &[("pod_uid", "a")]);
        let text = metrics.render("prober_");
        assert_eq!(text.matches("prober_probe_total{").count(), 1, "{text}");
        assert_eq!(labels(&[("a", "x\"\\\ny"), ("b", "")]), "a=\"x\\\"\\\\\\ny\",b=\"\"");
    }

    #[test]
    fn names_and_bounds_make_sense() {
        let mut names: Vec<&str> = ALL.iter().map(|family| family.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for bounds in [DEFAULT, STARTUP, CALLS] {
            assert!(bounds.is_sorted());
        }
    }
}
