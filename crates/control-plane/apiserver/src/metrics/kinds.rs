//! What is counted of one kind of objects, whatever the version: bodies, lists, waits.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use podium_client::metrics::{Histogram, head};

use super::{Metrics, WAITS};
use crate::catalogue::Served;

/// Source: upstream `apiserver_request_body_size_bytes`: from 50 KB to more than the largest body, in steps of 100 KB.
const BODIES: &[f64] = &{
    let mut bounds = [50_000.0; 31];
    let mut at = 1;
    while at < bounds.len() {
        bounds[at] = bounds[at - 1] + 100_000.0;
        at += 1;
    }
    bounds
};

/// Verbs whose bodies are measured: as requests have them, and as the metric's label.
const WRITES: [(&str, &str); 5] = [
    ("create", "create"),
    ("update", "update"),
    ("patch", "patch"),
    ("delete", "delete"),
    ("deletecollection", "delete_collection"),
];

/// Lists from one source.
#[derive(Debug, Default)]
struct Lists {
    lists: AtomicU64,
    fetched: AtomicU64,
    returned: AtomicU64,
}

impl Lists {
    fn add(&self, fetched: u64, returned: usize) {
        self.lists.fetch_add(1, Ordering::Relaxed);
        self.fetched.fetch_add(fetched, Ordering::Relaxed);
        self.returned.fetch_add(returned as u64, Ordering::Relaxed);
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct KindSeries {
    bodies: [Histogram; WRITES.len()],
    /// Answered by the state in memory, which is what upstream's watch cache is.
    remembered: Lists,
    /// Answered by the engine, of a time that is forgotten in memory.
    past: Lists,
    waits: Histogram,
}

impl Default for KindSeries {
    fn default() -> KindSeries {
        KindSeries {
            bodies: std::array::from_fn(|_| Histogram::new(BODIES)),
            remembered: Lists::default(),
            past: Lists::default(),
            waits: Histogram::new(WAITS),
        }
    }
}

impl KindSeries {
    /// A request of this verb had a body of so many bytes.
    pub(crate) fn body(&self, verb: &str, bytes: usize) {
        if let Some(index) = WRITES.iter().position(|(known, _)| *known == verb) {
            self.bodies[index].observe(bytes as f64);
        }
    }

    /// A list looked at `fetched` objects in memory and returned some.
    pub(crate) fn listed(&self, fetched: u64, returned: usize) {
        self.remembered.add(fetched, returned);
    }

    /// The same of a list that the engine was asked for.
    pub(crate) fn listed_past(&self, fetched: usize, returned: usize) {
        self.past.add(fetched as u64, returned);
    }

    /// A read waited for the revision it wants, most often not at all.
    pub(crate) fn waited(&self, took: Duration) {
        self.waits.observe(took.as_secs_f64());
    }
}

/// Name, help, the labels between group and resource, the source, and the number. Written where there was a list of that source.
type Number = (&'static str, &'static str, &'static str, fn(&KindSeries) -> &Lists, fn(&Lists) -> &AtomicU64);

const REMEMBERED: fn(&KindSeries) -> &Lists = |kind| &kind.remembered;
const PAST: fn(&KindSeries) -> &Lists = |kind| &kind.past;

const NUMBERS: [Number; 7] = [
    (
        "apiserver_cache_list_total",
        "[ALPHA] Lists answered by the state in memory.",
        "index=\"\",",
        REMEMBERED,
        |lists| &lists.lists,
    ),
    (
        "apiserver_cache_list_fetched_objects_total",
        "[ALPHA] Objects in memory that lists looked at.",
        "index=\"\",",
        REMEMBERED,
        |lists| &lists.fetched,
    ),
    (
        "apiserver_cache_list_returned_objects_total",
        "[ALPHA] Objects that lists answered by the state in memory returned.",
        "",
        REMEMBERED,
        |lists| &lists.returned,
    ),
    (
        "apiserver_storage_list_total",
        "[ALPHA] Lists that the store's engine was asked for.",
        "",
        PAST,
        |lists| &lists.lists,
    ),
    (
        "apiserver_storage_list_fetched_objects_total",
        "[ALPHA] Objects that the store's engine returned to lists.",
        "",
        PAST,
        |lists| &lists.fetched,
    ),
    (
        "apiserver_storage_list_evaluated_objects_total",
        "[ALPHA] Objects of the store's engine that lists held against their selectors.",
        "",
        PAST,
        |lists| &lists.fetched,
    ),
    (
        "apiserver_storage_list_returned_objects_total",
        "[ALPHA] Objects that lists answered by the store's engine returned.",
        "",
        PAST,
        |lists| &lists.returned,
    ),
];

impl Metrics {
    /// The series of a kind, looked up once for each version. A catalogue is counted by one server's metrics.
    pub(crate) fn kind<'s>(&self, served: &'s Served) -> &'s KindSeries {
        served.counted.0.get_or_init(|| {
            let names = (served.group.clone(), served.plural.clone());
            Arc::clone(self.kinds.lock().entry(names).or_default())
        })
    }

    pub(super) fn each_kind(&self, out: &mut String) {
        let rows = self.kinds.lock().clone();
        let name = "apiserver_request_body_size_bytes";
        head(out, name, "histogram", "[ALPHA] Bytes of the bodies of requests that write.");
        for ((group, resource), series) in &rows {
            for ((_, verb), bodies) in WRITES.iter().zip(&series.bodies) {
                let labels = format!("group=\"{group}\",resource=\"{resource}\",verb=\"{verb}\"");
                bodies.render(out, name, &labels);
            }
        }
        for (name, help, more, source, number) in NUMBERS {
            head(out, name, "counter", help);
            for ((group, resource), series) in &rows {
                let lists = source(series);
                if lists.lists.load(Ordering::Relaxed) > 0 {
                    let number = number(lists).load(Ordering::Relaxed);
                    let _ =
                        writeln!(out, "{name}{{group=\"{group}\",{more}resource=\"{resource}\"}} {number}");
                }
            }
        }
        let name = "apiserver_watch_cache_read_wait_seconds";
        head(
            out,
            name,
            "histogram",
            "[ALPHA] How long reads waited for the state in memory to reach the revision they want.",
        );
        for ((group, resource), series) in &rows {
            series.waits.render(out, name, &format!("group=\"{group}\",resource=\"{resource}\""));
        }
    }
}
