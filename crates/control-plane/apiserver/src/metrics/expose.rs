//! The text exposition format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use podium_client::metrics::{Histogram, head};

use super::{Commits, Metrics, Resource, Series};

/// What is stored of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// The group; empty for core.
    pub(crate) group: String,
    /// The plural resource.
    pub(crate) resource: String,
    /// Objects.
    pub(crate) objects: u64,
    /// Estimated bytes.
    pub(crate) bytes: u64,
}

impl Stored {
    /// `pods`, `deployments.apps`.
    fn name(&self) -> String {
        if self.group.is_empty() {
            self.resource.clone()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }
}

/// The labels of a request's series without those that only some metrics have, in the order of their names.
struct Texts {
    group: String,
    rest: String,
    dry_run: &'static str,
}

impl Texts {
    fn of(series: &Series) -> Texts {
        let labels = &series.labels;
        let (resource, group, version) = labels.resource.as_ref().map_or(("", "", ""), Resource::names);
        let subresource = match (&labels.resource, labels.subresource) {
            (Some(resource), Some(index)) => {
                resource.0.subresources.get(index).map_or("", |sub| sub.name.as_str())
            }
            _ => labels.path,
        };
        Texts {
            group: format!("group=\"{group}\","),
            rest: format!("resource=\"{resource}\",scope=\"{}\",subresource=\"{subresource}\"", labels.scope),
            dry_run: labels.dry_run,
        }
        .with_version(labels.verb, version)
    }

    fn with_version(mut self, verb: &str, version: &str) -> Texts {
        // `system_client` stands between these in the one metric that has it.
        let _ = write!(self.rest, "\u{0}verb=\"{verb}\",version=\"{version}\"");
        self
    }

    fn plain(&self) -> String {
        format!("component=\"apiserver\",{}{}", self.group, self.rest.replace('\u{0}', ","))
    }

    fn dry(&self) -> String {
        let rest = self.rest.replace('\u{0}', ",");
        format!("component=\"apiserver\",dry_run=\"{}\",{}{rest}", self.dry_run, self.group)
    }

    fn answered(&self, code: u16, client: &str) -> String {
        let rest = self.rest.replace('\u{0}', &format!(",system_client=\"{client}\","));
        format!("code=\"{code}\",component=\"apiserver\",dry_run=\"{}\",{}{rest}", self.dry_run, self.group)
    }
}

/// A distribution of each request series.
type Distribution = (&'static str, &'static str, bool, fn(&Series) -> &Histogram);

const DISTRIBUTIONS: &[Distribution] = &[
    (
        "apiserver_request_duration_seconds",
        "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
        true,
        |series| &series.durations,
    ),
    (
        "apiserver_request_sli_duration_seconds",
        "[ALPHA] Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component.",
        false,
        |series| &series.sli_durations,
    ),
    (
        "apiserver_response_sizes",
        "[STABLE] Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
        false,
        |series| &series.sizes,
    ),
];

impl Metrics {
    /// Everything that is counted here and what is stored, of which the state in memory has reached `revision`.
    pub(crate) fn render(&self, stored: &[Stored], revision: u64) -> String {
        let mut out = String::with_capacity(64 * 1024);
        let mut rows: Vec<(Texts, std::sync::Arc<Series>)> =
            self.series.read().values().map(|series| (Texts::of(series), series.clone())).collect();
        rows.sort_by(|(a, _), (b, _)| (&a.group, &a.rest, a.dry_run).cmp(&(&b.group, &b.rest, b.dry_run)));
        requests(&mut out, &rows);
        self.inflight(&mut out);
        self.watches(&mut out);
        self.each_kind(&mut out);
        self.access.render(&mut out);
        self.storage(&mut out, stored, revision);
        let single = |number: &AtomicU64| number.load(Ordering::Relaxed) as i64;
        let numbers = [
            (
                "apiserver_tls_handshake_errors_total",
                "counter",
                "[ALPHA] Number of requests dropped with 'TLS handshake error from' error",
                single(&self.handshake_failures),
            ),
            ("podium_apiserver_panics_total", "counter", "Handlers that panicked.", single(&self.panics)),
            (
                "podium_apiserver_write_turns_total",
                "counter",
                "Writes that were answered later because hundreds of watchers were being served.",
                single(&self.turns),
            ),
            (
                "podium_apiserver_open_connections",
                "gauge",
                "Connections open now.",
                self.connections.load(Ordering::Relaxed),
            ),
        ];
        for (name, kind, help, number) in numbers {
            head(&mut out, name, kind, help);
            let _ = writeln!(out, "{name} {number}");
        }
        out.push_str(&podium_client::process_metrics());
        out
    }

    fn inflight(&self, out: &mut String) {
        let pairs = [
            (
                "apiserver_current_inflight_requests",
                "[STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
                [&self.mutating, &self.reading],
            ),
            (
                "apiserver_current_inqueue_requests",
                "[ALPHA] Maximal number of queued requests in this apiserver per request kind in last second.",
                [&self.mutating_waiting, &self.reading_waiting],
            ),
        ];
        for (name, help, [mutating, reading]) in pairs {
            head(out, name, "gauge", help);
            let _ = writeln!(out, "{name}{{request_kind=\"mutating\"}} {}", mutating.most());
            let _ = writeln!(out, "{name}{{request_kind=\"readOnly\"}} {}", reading.most());
        }
    }

    fn watches(&self, out: &mut String) {
        let mut rows: Vec<_> = self
            .watches
            .read()
            .iter()
            .map(|(resource, series)| {
                let (plural, group, version) = resource.names();
                (format!("group=\"{group}\",resource=\"{plural}\",version=\"{version}\""), series.clone())
            })
            .collect();
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        let name = "apiserver_watch_events_total";
        head(out, name, "counter", "[ALPHA] Number of events sent in watch clients");
        for (labels, series) in rows.iter().filter(|(_, series)| series.sizes.count() > 0) {
            let _ = writeln!(out, "{name}{{{labels}}} {}", series.sizes.count());
        }
        let name = "apiserver_watch_events_sizes";
        head(out, name, "histogram", "[ALPHA] Watch event size distribution in bytes");
        for (labels, series) in &rows {
            series.sizes.render(out, name, labels);
        }
        let watches = self.watches.read();
        let mut terminated: BTreeMap<_, u64> = BTreeMap::new();
        for (resource, series) in watches.iter() {
            let (plural, group, _) = resource.names();
            *terminated.entry((group, plural)).or_default() += series.terminated.load(Ordering::Relaxed);
        }
        let name = "apiserver_terminated_watchers_total";
        head(
            out,
            name,
            "counter",
            "[ALPHA] Counter of watchers closed due to unresponsiveness broken by resource type.",
        );
        for ((group, plural), count) in terminated.into_iter().filter(|(_, count)| *count > 0) {
            let _ = writeln!(out, "{name}{{group=\"{group}\",resource=\"{plural}\"}} {count}");
        }
    }

    fn storage(&self, out: &mut String, stored: &[Stored], revision: u64) {
        let name = "apiserver_storage_objects";
        head(
            out,
            name,
            "gauge",
            "[STABLE] [DEPRECATED, consider using apiserver_resource_objects instead] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.",
        );
        for kind in stored {
            let _ = writeln!(out, "{name}{{resource=\"{}\"}} {}", kind.name(), kind.objects);
        }
        let each: [(&str, &str, fn(&Stored) -> u64); 2] = [
            (
                "apiserver_resource_objects",
                "[ALPHA] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.",
                |kind| kind.objects,
            ),
            (
                "apiserver_resource_size_estimate_bytes",
                "[ALPHA] Estimated size of stored objects in database. Estimate is based on sum of last observed sizes of serialized objects. In case of a fetching error, the value will be -1.",
                |kind| kind.bytes,
            ),
        ];
        for (name, help, number) in each {
            head(out, name, "gauge", help);
            for kind in stored {
                let labels = format!("group=\"{}\",resource=\"{}\"", kind.group, kind.resource);
                let _ = writeln!(out, "{name}{{{labels}}} {}", number(kind));
            }
        }
        let name = "apiserver_watch_cache_resource_version";
        head(out, name, "gauge", "[ALPHA] The revision that the state in memory has reached.");
        // One state holds all kinds, so that all are equally new.
        for kind in stored {
            let _ =
                writeln!(out, "{name}{{group=\"{}\",resource=\"{}\"}} {revision}", kind.group, kind.resource);
        }
        self.commits(out);
    }

    fn commits(&self, out: &mut String) {
        let commits = self.commits.read();
        let rows: Vec<(String, &Commits)> = commits
            .iter()
            .map(|((operation, prefix), commits)| {
                // `/registry/<group>/<resource>/`, the only form of a prefix.
                let mut parts = prefix.trim_matches('/').split('/').skip(1);
                let (group, resource) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
                let group = if group == "core" { "" } else { group };
                let labels = format!("group=\"{group}\",operation=\"{operation}\",resource=\"{resource}\"");
                (labels, &**commits)
            })
            .collect();
        let name = "etcd_request_duration_seconds";
        let help = "[ALPHA] Etcd request latency in seconds for each operation and object type.";
        head(out, name, "histogram", help);
        for (labels, commits) in &rows {
            commits.durations.render(out, name, labels);
        }
        let name = "etcd_requests_total";
        head(out, name, "counter", "[ALPHA] Changes that the store was asked for.");
        for (labels, commits) in &rows {
            let _ = writeln!(out, "{name}{{{labels}}} {}", commits.durations.count());
        }
        let name = "etcd_request_errors_total";
        head(out, name, "counter", "[ALPHA] Changes that the store could not make.");
        for (labels, commits) in &rows {
            match commits.failures.load(Ordering::Relaxed) {
                0 => {}
                failures => _ = writeln!(out, "{name}{{{labels}}} {failures}"),
            }
        }
    }
}

fn requests(out: &mut String, rows: &[(Texts, std::sync::Arc<Series>)]) {
    let name = "apiserver_request_total";
    head(
        out,
        name,
        "counter",
        "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
    );
    for (texts, series) in rows {
        for (code, client, count) in series.answers.lock().iter() {
            let _ = writeln!(out, "{name}{{{}}} {count}", texts.answered(*code, client));
        }
    }
    for (name, help, dry_run, histogram) in DISTRIBUTIONS {
        head(out, name, "histogram", help);
        for (texts, series) in rows {
            let labels = if *dry_run { texts.dry() } else { texts.plain() };
            histogram(series).render(out, name, &labels);
        }
    }
    let name = "apiserver_longrunning_requests";
    head(
        out,
        name,
        "gauge",
        "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
    );
    for (texts, series) in rows {
        let count = series.long_running.load(Ordering::Relaxed);
        if matches!(series.labels.verb, "WATCH" | "CONNECT") {
            let _ = writeln!(out, "{name}{{{}}} {count}", texts.plain());
        }
    }
    let name = "apiserver_request_terminations_total";
    head(out, name, "counter", "[ALPHA] Number of requests which apiserver terminated in self-defense.");
    for (texts, series) in rows {
        for (code, count) in series.terminations.lock().iter() {
            let _ = writeln!(out, "{name}{{code=\"{code}\",{}}} {count}", texts.plain());
        }
    }
    let name = "apiserver_request_aborts_total";
    head(
        out,
        name,
        "counter",
        "[ALPHA] Number of requests which apiserver aborted possibly due to a timeout, for each group, version, verb, resource, subresource and scope",
    );
    for (texts, series) in rows {
        let count = series.aborts.load(Ordering::Relaxed);
        if count > 0 {
            let labels = texts.plain();
            let labels = labels.strip_prefix("component=\"apiserver\",").unwrap_or(&labels);
            let _ = writeln!(out, "{name}{{{labels}}} {count}");
        }
    }
}
