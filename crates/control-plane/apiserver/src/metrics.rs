//! Counters and histograms under upstream's names, and their text form.
//!
//! Label values come only from closed sets (served resources, verbs, codes), so a client cannot make series.

use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::catalogue::Served;

/// Upper bounds in seconds. Source: upstream `apiserver_request_duration_seconds`.
const BUCKETS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];

/// What a request is counted under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Labels {
    /// Upper-case verb.
    pub(crate) verb: &'static str,
    /// The resource; `None` for paths that are none.
    pub(crate) resource: Option<Resource>,
    /// Subresource.
    pub(crate) subresource: String,
    /// `cluster`, `namespace`, `resource` or empty.
    pub(crate) scope: &'static str,
    /// `All` for a dry run.
    pub(crate) dry_run: &'static str,
}

/// A served resource as a label: compared by what it is called, kept without copying the names.
#[derive(Clone, Debug)]
pub(crate) struct Resource(pub(crate) Arc<Served>);

impl Resource {
    fn names(&self) -> (&str, &str, &str) {
        (&self.0.plural, &self.0.group, &self.0.version)
    }
}

impl PartialEq for Resource {
    fn eq(&self, other: &Resource) -> bool {
        self.names() == other.names()
    }
}

impl Eq for Resource {}

impl Hash for Resource {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.names().hash(state);
    }
}

/// What is counted under one set of labels.
#[derive(Debug, Default)]
struct Answered {
    /// Answers by status code; few codes, so a list.
    codes: Vec<(u16, u64)>,
    durations: Histogram,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    fn observe(&mut self, seconds: f64) {
        self.buckets.resize(BUCKETS.len(), 0);
        if let Some(index) = BUCKETS.iter().position(|bound| seconds <= *bound) {
            self.buckets[index] += 1;
        }
        self.count += 1;
        self.sum += seconds;
    }
}

/// All counters of one server.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    answered: Mutex<HashMap<Labels, Answered, ahash::RandomState>>,
    long_running: Mutex<HashMap<Labels, i64, ahash::RandomState>>,
    watch_events: Mutex<HashMap<(String, String, String), u64, ahash::RandomState>>,
    /// Mutating requests being handled.
    pub(crate) inflight_mutating: AtomicI64,
    /// Reading requests being handled.
    pub(crate) inflight_reading: AtomicI64,
    /// Requests turned away because there were too many.
    pub(crate) rejected: AtomicU64,
    /// Handlers that panicked.
    pub(crate) panics: AtomicU64,
    /// TLS handshakes that failed or took too long.
    pub(crate) handshake_failures: AtomicU64,
    /// Connections open now.
    pub(crate) connections: AtomicI64,
}

impl Metrics {
    /// Counts an answered request. `elapsed` is left out for long-running ones.
    pub(crate) fn answered(&self, labels: &Labels, code: u16, elapsed: Option<Duration>) {
        let mut all = self.answered.lock();
        if !all.contains_key(labels) {
            all.insert(labels.clone(), Answered::default());
        }
        let Some(answered) = all.get_mut(labels) else { return };
        match answered.codes.iter_mut().find(|(known, _)| *known == code) {
            Some((_, count)) => *count += 1,
            None => answered.codes.push((code, 1)),
        }
        if let Some(elapsed) = elapsed {
            answered.durations.observe(elapsed.as_secs_f64());
        }
    }

    /// Counts watch events sent.
    pub(crate) fn watch_events(&self, group: &str, version: &str, resource: &str, count: u64) {
        let key = (group.to_owned(), version.to_owned(), resource.to_owned());
        *self.watch_events.lock().entry(key).or_default() += count;
    }

    /// A long-running request begins (1) or ends (-1).
    pub(crate) fn long_running(&self, labels: &Labels, change: i64) {
        *self.long_running.lock().entry(labels.clone()).or_default() += change;
    }

    /// The text exposition format.
    pub(crate) fn render(&self, storage_objects: &[(String, u64)]) -> String {
        let mut out = String::with_capacity(64 * 1024);
        head(&mut out, "apiserver_request_total", "counter", "Counter of apiserver requests.");
        let all = self.answered.lock();
        let mut rows: Vec<(&Labels, &Answered)> = all.iter().collect();
        rows.sort_by_key(|(labels, _)| resource_labels(labels));
        for (labels, answered) in &rows {
            for (code, count) in &answered.codes {
                let _ = writeln!(
                    out,
                    "apiserver_request_total{{code=\"{code}\",component=\"apiserver\",dry_run=\"{}\",{}}} {count}",
                    labels.dry_run,
                    resource_labels(labels)
                );
            }
        }
        head(
            &mut out,
            "apiserver_request_duration_seconds",
            "histogram",
            "Response latency distribution in seconds for each verb and resource.",
        );
        for (labels, answered) in rows.iter().filter(|(_, answered)| answered.durations.count > 0) {
            let histogram = &answered.durations;
            let text =
                format!("component=\"apiserver\",dry_run=\"{}\",{}", labels.dry_run, resource_labels(labels));
            let mut total = 0;
            for (bound, count) in BUCKETS.iter().zip(&histogram.buckets) {
                total += count;
                let _ = writeln!(
                    out,
                    "apiserver_request_duration_seconds_bucket{{{text},le=\"{bound}\"}} {total}"
                );
            }
            let name = "apiserver_request_duration_seconds";
            let _ = writeln!(out, "{name}_bucket{{{text},le=\"+Inf\"}} {}", histogram.count);
            let _ = writeln!(out, "{name}_sum{{{text}}} {}", histogram.sum);
            let _ = writeln!(out, "{name}_count{{{text}}} {}", histogram.count);
        }
        drop(rows);
        drop(all);
        head(
            &mut out,
            "apiserver_longrunning_requests",
            "gauge",
            "Gauge of all active long-running requests.",
        );
        for (labels, count) in sorted(&self.long_running.lock()) {
            let _ = writeln!(
                out,
                "apiserver_longrunning_requests{{component=\"apiserver\",{}}} {count}",
                resource_labels(labels)
            );
        }
        head(&mut out, "apiserver_watch_events_total", "counter", "Number of events sent in watch clients.");
        for ((group, version, resource), count) in sorted(&self.watch_events.lock()) {
            let _ = writeln!(
                out,
                "apiserver_watch_events_total{{group=\"{group}\",resource=\"{resource}\",version=\"{version}\"}} {count}"
            );
        }
        head(
            &mut out,
            "apiserver_current_inflight_requests",
            "gauge",
            "Maximal number of currently used inflight request limit per request kind.",
        );
        let value = |number: &AtomicI64| number.load(Ordering::Relaxed);
        let _ = writeln!(
            out,
            "apiserver_current_inflight_requests{{request_kind=\"mutating\"}} {}\napiserver_current_inflight_requests{{request_kind=\"readOnly\"}} {}",
            value(&self.inflight_mutating),
            value(&self.inflight_reading)
        );
        head(&mut out, "apiserver_storage_objects", "gauge", "Number of stored objects by resource.");
        for (resource, count) in storage_objects {
            let _ = writeln!(out, "apiserver_storage_objects{{resource=\"{resource}\"}} {count}");
        }
        let single = [
            ("apiserver_dropped_requests_total", "counter", self.rejected.load(Ordering::Relaxed) as i64),
            ("apiserver_panics_total", "counter", self.panics.load(Ordering::Relaxed) as i64),
            (
                "apiserver_tls_handshake_errors_total",
                "counter",
                self.handshake_failures.load(Ordering::Relaxed) as i64,
            ),
            ("apiserver_open_connections", "gauge", value(&self.connections)),
        ];
        for (name, kind, number) in single {
            head(&mut out, name, kind, "See the name.");
            let _ = writeln!(out, "{name} {number}");
        }
        out
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
}

fn resource_labels(labels: &Labels) -> String {
    let (resource, group, version) = labels.resource.as_ref().map_or(("", "", ""), Resource::names);
    format!(
        "group=\"{group}\",resource=\"{resource}\",scope=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{version}\"",
        labels.scope, labels.subresource, labels.verb
    )
}

/// A stable order, so that two scrapes differ only in numbers.
fn sorted<'m, K: std::fmt::Debug, V: Copy>(map: &'m HashMap<K, V, ahash::RandomState>) -> Vec<(&'m K, V)> {
    let mut rows: Vec<(&'m K, V)> = map.iter().map(|(k, v)| (k, *v)).collect();
    rows.sort_by_key(|(key, _)| format!("{key:?}"));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_upstreams_names() {
        let metrics = Metrics::default();
        let labels = Labels {
            verb: "GET",
            resource: crate::catalogue::Catalogue::built_in().find("", "v1", "pods").map(Resource),
            subresource: String::new(),
            scope: "resource",
            dry_run: "",
        };
        metrics.answered(&labels, 200, Some(Duration::from_millis(7)));
        let text = metrics.render(&[("pods".into(), 3)]);
        assert!(text.contains(
            "apiserver_request_total{code=\"200\",component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"pods\",scope=\"resource\",subresource=\"\",verb=\"GET\",version=\"v1\"} 1"
        ));
        assert!(text.contains("le=\"0.005\"} 0") && text.contains("le=\"0.025\"} 1"));
        assert!(text.contains("apiserver_storage_objects{resource=\"pods\"} 3"));
    }
}
