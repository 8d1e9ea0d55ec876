//! What a component measures of itself, under upstream's names and in Prometheus' text form.
//!
//! A [`Family`] is one metric with its labels; it is a `static` of the part that counts, which lists its families for whoever
//! serves `/metrics`. Counting allocates only when a set of label values is new. What every client of the API counts is here too:
//! work queues, informers, requests, leadership.

mod health;
mod histogram;
pub(crate) mod informers;
pub(crate) mod queues;
mod requests;

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

pub use health::HealthChecks;
pub use histogram::{Histogram, exponential, head};
pub use requests::{CountRequests, CountedBody, CountedRequests};

/// One series of a metric.
pub trait Metric: Send + Sync {
    /// Its type in the text form.
    const TYPE: &'static str;

    /// Writes its rows; `labels` are without braces, may be empty.
    fn write(&self, out: &mut String, name: &str, labels: &str);
}

/// Only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Counts several.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// What was counted.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Metric for Counter {
    const TYPE: &'static str = "counter";

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        row(out, name, labels, self.value());
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(
    /// The bits of a float.
    AtomicU64,
);

impl Gauge {
    /// Replaces the value.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

impl Metric for Gauge {
    const TYPE: &'static str = "gauge";

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        row(out, name, labels, self.value());
    }
}

impl Metric for Histogram {
    const TYPE: &'static str = "histogram";

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        self.render(out, name, labels);
    }
}

fn row(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    // Writing to a String does not fail.
    let _ = match labels {
        "" => writeln!(out, "{name} {value}"),
        _ => writeln!(out, "{name}{{{labels}}} {value}"),
    };
}

/// Something that writes metrics.
pub trait Collect: Sync {
    /// Appends its rows in the text form.
    fn collect(&self, out: &mut String);
}

/// A metric with labels.
pub struct Family<M, const LABELS: usize> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; LABELS],
    make: fn() -> M,
    series: RwLock<Vec<Series<M, LABELS>>>,
}

struct Series<M, const LABELS: usize> {
    values: [Box<str>; LABELS],
    metric: Arc<M>,
}

impl<M, const LABELS: usize> std::fmt::Debug for Family<M, LABELS> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Family({})", self.name)
    }
}

impl<M: Metric, const LABELS: usize> Family<M, LABELS> {
    /// A metric of which nothing is known yet. `help` begins with its stability, as upstream's does.
    pub const fn new(
        name: &'static str,
        help: &'static str,
        labels: [&'static str; LABELS],
        make: fn() -> M,
    ) -> Self {
        Self { name, help, labels, make, series: RwLock::new(Vec::new()) }
    }

    /// The series of these label values, in the order of the labels. There should be few of them: they are searched.
    pub fn with(&self, values: [&str; LABELS]) -> Arc<M> {
        let find = |series: &[Series<M, LABELS>]| {
            let same = |series: &&Series<M, LABELS>| series.values.iter().map(AsRef::as_ref).eq(values);
            series.iter().find(same).map(|series| series.metric.clone())
        };
        if let Some(found) = find(&self.series.read()) {
            return found;
        }
        let mut all = self.series.write();
        find(&all).unwrap_or_else(|| {
            let metric = Arc::new((self.make)());
            all.push(Series { values: values.map(Into::into), metric: metric.clone() });
            metric
        })
    }
}

impl<M: Metric, const LABELS: usize> Collect for Family<M, LABELS> {
    fn collect(&self, out: &mut String) {
        let series = self.series.read();
        if series.is_empty() {
            return;
        }
        head(out, self.name, M::TYPE, self.help);
        for series in series.iter() {
            series.metric.write(out, self.name, &labelled(&self.labels, &series.values));
        }
    }
}

/// Writes a gauge that is worked out at this moment instead of being kept: its values by those of its labels.
pub fn gauges<V: AsRef<str>, const LABELS: usize>(
    out: &mut String,
    name: &str,
    help: &str,
    labels: [&str; LABELS],
    values: impl IntoIterator<Item = ([V; LABELS], f64)>,
) {
    let mut values = values.into_iter().peekable();
    if values.peek().is_some() {
        head(out, name, Gauge::TYPE, help);
    }
    for (of, value) in values {
        row(out, name, &labelled(&labels, &of), value);
    }
}

/// Labels as they stand between braces.
fn labelled<V: AsRef<str>>(labels: &[&str], values: &[V]) -> String {
    let pairs = labels.iter().zip(values);
    let pairs: Vec<_> =
        pairs.map(|(label, value)| format!("{label}=\"{}\"", escaped(value.as_ref()))).collect();
    pairs.join(",")
}

/// A label's value as it stands between quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Whether this process holds the lease of that name.
pub(crate) static MASTER: Family<Gauge, 1> = Family::new(
    "leader_election_master_status",
    "[ALPHA] Gauge of if the reporting system is master of the relevant lease, 0 indicates backup, 1 indicates master. 'name' is the string used to identify the lease. Please make sure to group by name.",
    ["name"],
    Gauge::default,
);

/// What every client of the API counts: its queues, informers, requests and leases.
pub fn collect(out: &mut String) {
    MASTER.collect(out);
    requests::REQUESTS.collect(out);
    requests::DURATIONS.collect(out);
    requests::REQUEST_SIZES.collect(out);
    requests::RESPONSE_SIZES.collect(out);
    queues::collect(out);
    informers::QUEUED.collect(out);
    informers::LATENCIES.collect(out);
    informers::VERSIONS.collect(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_writes_its_series_once_they_are_used() {
        static FAMILY: Family<Counter, 2> =
            Family::new("things_total", "[ALPHA] Things.", ["kind", "how"], Counter::default);
        let mut out = String::new();
        FAMILY.collect(&mut out);
        assert_eq!(out, "");
        FAMILY.with(["a", "b\"c"]).increment();
        FAMILY.with(["a", "b\"c"]).add(2);
        FAMILY.with(["a", ""]).increment();
        FAMILY.collect(&mut out);
        assert_eq!(
            out,
            "# HELP things_total [ALPHA] Things.\n# TYPE things_total counter\n\
             things_total{kind=\"a\",how=\"b\\\"c\"} 3\nthings_total{kind=\"a\",how=\"\"} 1\n"
        );
    }

    #[test]
    fn what_is_worked_out_has_one_row_for_each_set_of_labels() {
        let mut out = String::new();
        gauges::<&str, 1>(&mut out, "none", "[ALPHA] None.", ["kind"], []);
        assert_eq!(out, "", "nothing is known");
        gauges(&mut out, "some", "[ALPHA] Some.", ["kind", "how"], [(["a", "\""], 2.0), (["b", ""], 0.0)]);
        assert_eq!(
            out,
            "# HELP some [ALPHA] Some.\n# TYPE some gauge\nsome{kind=\"a\",how=\"\\\"\"} 2\nsome{kind=\"b\",how=\"\"} 0\n"
        );
    }

    #[test]
    fn a_metric_without_labels_has_no_braces() {
        static GAUGE: Family<Gauge, 0> = Family::new("level", "[ALPHA] Level.", [], Gauge::default);
        GAUGE.with([]).set(0.5);
        let mut out = String::new();
        GAUGE.collect(&mut out);
        assert!(out.ends_with("\nlevel 0.5\n"), "{out}");
    }
}
