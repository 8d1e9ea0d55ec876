//! Counts what goes through the process's work queues.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Counter, Histogram, Metric, escaped, exponential, head};

/// Source: `workqueue`'s metrics, in seconds.
const SECONDS: &[f64] = &exponential::<10>(1e-8, 10.0);

/// What one queue counts.
#[derive(Debug)]
pub(crate) struct Numbers {
    pub(crate) adds: Counter,
    pub(crate) retries: Counter,
    /// How long keys waited.
    pub(crate) waits: Histogram,
    /// How long the work on them took.
    pub(crate) works: Histogram,
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            adds: Counter::default(),
            retries: Counter::default(),
            waits: Histogram::new(SECONDS),
            works: Histogram::new(SECONDS),
        }
    }
}

/// What a queue is at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Load {
    /// Keys that wait, those aside that wait for a time.
    pub(crate) depth: usize,
    /// How long the work in progress has taken, in all.
    pub(crate) unfinished_seconds: f64,
    /// And the longest of it.
    pub(crate) longest_seconds: f64,
}

/// A queue, whatever its keys are.
pub(crate) trait Measured: Send + Sync {
    fn name(&self) -> &'static str;
    fn numbers(&self) -> &Numbers;
    fn load(&self, now: Instant) -> Load;
}

/// The queues of the process. They go when nobody uses them any more.
static QUEUES: Mutex<Vec<Weak<dyn Measured>>> = Mutex::new(Vec::new());

/// Adds a queue.
pub(crate) fn follow(queue: Weak<dyn Measured>) {
    let mut all = QUEUES.lock();
    // Only when it would grow: a process that makes queues again and again would otherwise look at all of them each time.
    if all.len() == all.capacity() {
        all.retain(|queue| queue.strong_count() > 0);
    }
    all.push(queue);
}

type Column = (&'static str, &'static str, &'static str, fn(&dyn Measured, Load, &mut String, &str, &str));

/// Name, type, help, and how to write one queue's rows.
const COLUMNS: [Column; 7] = [
    ("workqueue_depth", "gauge", "[BETA] Current depth of workqueue", |_, load, out, name, labels| {
        super::row(out, name, labels, load.depth);
    }),
    (
        "workqueue_adds_total",
        "counter",
        "[BETA] Total number of adds handled by workqueue",
        |queue, _, out, name, labels| queue.numbers().adds.write(out, name, labels),
    ),
    (
        "workqueue_queue_duration_seconds",
        "histogram",
        "[BETA] How long in seconds an item stays in workqueue before being requested.",
        |queue, _, out, name, labels| queue.numbers().waits.write(out, name, labels),
    ),
    (
        "workqueue_work_duration_seconds",
        "histogram",
        "[BETA] How long in seconds processing an item from workqueue takes.",
        |queue, _, out, name, labels| queue.numbers().works.write(out, name, labels),
    ),
    (
        "workqueue_unfinished_work_seconds",
        "gauge",
        "[BETA] How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large values indicate stuck threads. One can deduce the number of stuck threads by observing the rate at which this increases.",
        |_, load, out, name, labels| super::row(out, name, labels, load.unfinished_seconds),
    ),
    (
        "workqueue_longest_running_processor_seconds",
        "gauge",
        "[BETA] How many seconds has the longest running processor for workqueue been running.",
        |_, load, out, name, labels| super::row(out, name, labels, load.longest_seconds),
    ),
    (
        "workqueue_retries_total",
        "counter",
        "[BETA] Total number of retries handled by workqueue",
        |queue, _, out, name, labels| queue.numbers().retries.write(out, name, labels),
    ),
];

/// Writes the queues' metrics, sorted by name. Of several queues of one name the youngest counts.
pub(crate) fn collect(out: &mut String) {
    let now = Instant::now();
    let live: BTreeMap<&'static str, Arc<dyn Measured>> = {
        let all = QUEUES.lock();
        all.iter().filter_map(Weak::upgrade).map(|queue| (queue.name(), queue)).collect()
    };
    if live.is_empty() {
        return;
    }
    let loads: Vec<Load> = live.values().map(|queue| queue.load(now)).collect();
    for (name, kind, help, write) in COLUMNS {
        head(out, name, kind, help);
        for (queue, load) in live.values().zip(&loads) {
            write(queue.as_ref(), *load, out, name, &format!("name=\"{}\"", escaped(queue.name())));
        }
    }
}
