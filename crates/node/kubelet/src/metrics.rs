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

use jiff::Timestamp;
use parking_lot::Mutex;
use podium_client::metrics::{Histogram, head};

mod families;

use families::ALL;
pub(crate) use families::*;

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
    /// What is so now.
    Gauge,
    /// Seconds or what the name says, by these bounds.
    Histogram(&'static [f64]),
}

#[derive(Debug)]
enum Row {
    Count(u64),
    Now(f64),
    Spread(Arc<Histogram>),
}

/// Labels as they are written, without braces.
type Labels = String;

/// All rows of all families.
#[derive(Debug)]
pub(crate) struct Metrics(Mutex<BTreeMap<&'static str, BTreeMap<Labels, Row>>>);

fn row(family: &Family) -> Row {
    match family.kind {
        Kind::Counter => Row::Count(0),
        Kind::Gauge => Row::Now(0.0),
        Kind::Histogram(bounds) => Row::Spread(Arc::new(Histogram::new(bounds))),
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
        self.add(family, list, 1);
    }

    /// Counts that many; none makes the row be there.
    pub(crate) fn add(&self, family: &Family, list: &[(&str, &str)], more: u64) {
        let mut rows = self.0.lock();
        let row = rows.entry(family.name).or_default().entry(labels(list)).or_insert_with(|| row(family));
        if let Row::Count(count) = row {
            *count += more;
        }
    }

    /// Notes how it is now.
    pub(crate) fn set(&self, family: &Family, list: &[(&str, &str)], now: f64) {
        self.0.lock().entry(family.name).or_default().insert(labels(list), Row::Now(now));
    }

    /// Notes how it is, unless something has been noted before. Of families without labels.
    pub(crate) fn set_once(&self, family: &Family, now: f64) {
        if let Some(Row::Now(known)) = self.0.lock().entry(family.name).or_default().get_mut("")
            && *known == 0.0
        {
            *known = now;
        }
    }

    /// Notes one of many amounts.
    pub(crate) fn observe(&self, family: &Family, list: &[(&str, &str)], amount: f64) {
        let histogram = {
            let mut rows = self.0.lock();
            match rows.entry(family.name).or_default().entry(labels(list)).or_insert_with(|| row(family)) {
                Row::Spread(histogram) => histogram.clone(),
                Row::Count(_) | Row::Now(_) => return,
            }
        };
        histogram.observe(amount);
    }

    /// Notes how long something took.
    pub(crate) fn took(&self, family: &Family, list: &[(&str, &str)], time: Duration) {
        self.observe(family, list, time.as_secs_f64());
    }

    /// Notes how long it has been since.
    pub(crate) fn since(&self, family: &Family, list: &[(&str, &str)], began: Instant) {
        self.took(family, list, began.elapsed());
    }

    /// Notes that it is this moment, in seconds since 1970.
    pub(crate) fn moment(&self, family: &Family, now: Timestamp) {
        // Whole seconds are well below what a float can tell apart.
        self.set(family, &[], now.as_duration().as_secs_f64().trunc());
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
                Kind::Gauge => "gauge",
                Kind::Histogram(_) => "histogram",
            };
            head(&mut text, family.name, kind, family.help);
            for (labels, row) in rows {
                let labelled = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
                let _ = match row {
                    Row::Count(count) => writeln!(text, "{}{labelled} {count}", family.name),
                    Row::Now(now) => writeln!(text, "{}{labelled} {now}", family.name),
                    Row::Spread(histogram) => {
                        histogram.render(&mut text, family.name, labels);
                        Ok(())
                    }
                };
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
        metrics.moment(&RELIST_SEEN, Timestamp::from_millisecond(7_900).unwrap());
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
        for family in ALL {
            if let Kind::Histogram(bounds) = family.kind {
                assert!(bounds.is_sorted() && !bounds.is_empty(), "{}", family.name);
            }
        }
    }
}
