//! What is counted, under upstream's names. [`expose`] writes it down.
//!
//! Label values come only from closed sets (served resources, verbs, codes), so a client cannot make series. A request
//! looks its series up once; counting then takes no lock that another kind of request could hold.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use podium_client::metrics::{HealthChecks, Histogram};

use crate::catalogue::Served;

mod access;
mod expose;
mod kinds;

pub(crate) use access::{Access, Authentication, Authorization, Filter};
pub(crate) use expose::Stored;
pub(crate) use kinds::KindSeries;

/// Upper bounds in seconds. Source: upstream `apiserver_request_duration_seconds`.
const DURATIONS: &[f64] = &[
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0,
    20.0, 30.0, 45.0, 60.0,
];
/// Source: upstream `apiserver_request_sli_duration_seconds`.
const SLI_DURATIONS: &[f64] = &[
    0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];
/// Bytes. Source: upstream `apiserver_response_sizes`.
const SIZES: &[f64] = &[1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Bytes. Source: upstream `apiserver_watch_events_sizes`.
const EVENT_SIZES: &[f64] = &[1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0, 65536.0, 131_072.0];

/// Source: upstream `apiserver_watch_cache_read_wait_seconds`.
const WAITS: &[f64] = &[0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0];

/// What a request is counted under.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Labels {
    /// Upper-case verb.
    pub(crate) verb: &'static str,
    /// The resource; `None` for paths that are none.
    pub(crate) resource: Option<Resource>,
    /// The index of the subresource in the resource's list.
    pub(crate) subresource: Option<usize>,
    /// For a path that is no resource: the path, if it is one of ours.
    pub(crate) path: &'static str,
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
        Arc::ptr_eq(&self.0, &other.0) || self.names() == other.names()
    }
}

impl Eq for Resource {}

impl Hash for Resource {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.names().hash(state);
    }
}

/// Which of the cluster's own components sent a request, by its user agent. Source: upstream's `system_client`.
pub(crate) fn system_client(user_agent: Option<&str>) -> &'static str {
    const KNOWN: [&str; 3] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"];
    let name = user_agent.and_then(|agent| agent.split_once('/')).map_or("", |(name, _)| name);
    KNOWN.into_iter().find(|known| *known == name).unwrap_or_default()
}

/// What is counted under one set of labels.
#[derive(Debug)]
pub(crate) struct Series {
    labels: Labels,
    /// Answers by status code and system client; few, so a list.
    answers: Mutex<Vec<(u16, &'static str, u64)>>,
    durations: Histogram,
    sli_durations: Histogram,
    sizes: Histogram,
    long_running: AtomicI64,
    /// Requests ended in self-defence, by status code.
    terminations: Mutex<Vec<(u16, u64)>>,
    aborts: AtomicU64,
}

impl Series {
    fn new(labels: Labels) -> Series {
        Series {
            labels,
            answers: Mutex::default(),
            durations: Histogram::new(DURATIONS),
            sli_durations: Histogram::new(SLI_DURATIONS),
            sizes: Histogram::new(SIZES),
            long_running: AtomicI64::new(0),
            terminations: Mutex::default(),
            aborts: AtomicU64::new(0),
        }
    }

    /// Counts an answered request. `elapsed` is left out for long-running ones, `waited` is the part of it in queues.
    pub(crate) fn answered(
        &self,
        code: u16,
        client: &'static str,
        elapsed: Option<Duration>,
        waited: Duration,
        size: Option<u64>,
    ) {
        {
            let mut answers = self.answers.lock();
            match answers.iter_mut().find(|(c, k, _)| *c == code && *k == client) {
                Some((_, _, count)) => *count += 1,
                None => answers.push((code, client, 1)),
            }
        }
        if let Some(elapsed) = elapsed {
            self.durations.observe(elapsed.as_secs_f64());
            if self.labels.dry_run.is_empty() {
                self.sli_durations.observe(elapsed.saturating_sub(waited).as_secs_f64());
            }
        }
        if let (Some(size), "GET" | "LIST") = (size, self.labels.verb) {
            self.sizes.observe(size as f64);
        }
    }

    /// A long-running request begins (1) or ends (-1).
    pub(crate) fn long_running(&self, change: i64) {
        self.long_running.fetch_add(change, Ordering::Relaxed);
    }

    /// A request was ended in self-defence with this code.
    pub(crate) fn terminated(&self, code: u16) {
        let mut terminations = self.terminations.lock();
        match terminations.iter_mut().find(|(known, _)| *known == code) {
            Some((_, count)) => *count += 1,
            None => terminations.push((code, 1)),
        }
    }

    /// An answer was cut off while it was sent.
    pub(crate) fn aborted(&self) {
        self.aborts.fetch_add(1, Ordering::Relaxed);
    }
}

/// Events sent to the watchers of one kind.
#[derive(Debug)]
pub(crate) struct WatchSeries {
    sizes: Histogram,
    terminated: AtomicU64,
}

impl WatchSeries {
    /// Counts one event of this many bytes.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sizes.observe(bytes as f64);
    }

    /// A watcher was cut because it did not read.
    pub(crate) fn terminated(&self) {
        self.terminated.fetch_add(1, Ordering::Relaxed);
    }
}

/// One more in a gauge, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted<'m>(&'m Watermark);

impl<'m> Counted<'m> {
    pub(crate) fn of(mark: &'m Watermark) -> Counted<'m> {
        mark.change(1);
        Counted(mark)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.change(-1);
    }
}

/// How many there are now, and the most there were lately.
#[derive(Debug)]
pub(crate) struct Watermark {
    now: AtomicI64,
    /// The second that `high` is of.
    second: AtomicU64,
    high: AtomicI64,
    /// The most in the second before.
    before: AtomicI64,
    began: Instant,
}

impl Default for Watermark {
    fn default() -> Watermark {
        Watermark {
            now: AtomicI64::new(0),
            second: AtomicU64::new(0),
            high: AtomicI64::new(0),
            before: AtomicI64::new(0),
            began: Instant::now(),
        }
    }
}

impl Watermark {
    /// One more (1) or less (-1).
    pub(crate) fn change(&self, by: i64) {
        let now = self.now.fetch_add(by, Ordering::Relaxed) + by;
        self.turn();
        self.high.fetch_max(now.max(now - by), Ordering::Relaxed);
    }

    fn turn(&self) {
        let second = self.began.elapsed().as_secs();
        let old = self.second.swap(second, Ordering::Relaxed);
        if old != second {
            let high = self.high.swap(self.now.load(Ordering::Relaxed), Ordering::Relaxed);
            let before = if old + 1 == second { high } else { self.now.load(Ordering::Relaxed) };
            self.before.store(before, Ordering::Relaxed);
        }
    }

    /// The most in the last second.
    pub(crate) fn most(&self) -> i64 {
        self.turn();
        self.before.load(Ordering::Relaxed).max(self.high.load(Ordering::Relaxed))
    }
}

/// Commits of one operation on the objects of one kind.
#[derive(Debug)]
struct Commits {
    durations: Histogram,
    failures: AtomicU64,
}

impl Default for Commits {
    fn default() -> Commits {
        Commits { durations: Histogram::new(DURATIONS), failures: AtomicU64::new(0) }
    }
}

/// All counters of one server.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    series: RwLock<HashMap<Labels, Arc<Series>, ahash::RandomState>>,
    watches: RwLock<HashMap<Resource, Arc<WatchSeries>, ahash::RandomState>>,
    /// By group and resource: all versions of a kind share one.
    kinds: Mutex<BTreeMap<(String, String), Arc<KindSeries>>>,
    /// By operation and the prefix of the keys.
    commits: RwLock<BTreeMap<(&'static str, String), Arc<Commits>>>,
    /// Who came in, and who did not.
    pub(crate) access: Access,
    /// How health checks went.
    pub(crate) checks: HealthChecks,
    /// Mutating requests being handled.
    pub(crate) mutating: Watermark,
    /// Reading requests being handled.
    pub(crate) reading: Watermark,
    /// Mutating requests waiting for their turn.
    pub(crate) mutating_waiting: Watermark,
    /// Reading requests waiting for their turn.
    pub(crate) reading_waiting: Watermark,
    /// Handlers that panicked.
    pub(crate) panics: AtomicU64,
    /// See [`crate::turns`].
    pub(crate) turns: AtomicU64,
    /// TLS handshakes that failed or took too long.
    pub(crate) handshake_failures: AtomicU64,
    /// Connections open now.
    pub(crate) connections: AtomicI64,
}

impl Metrics {
    /// The series of these labels.
    pub(crate) fn series(&self, labels: &Labels) -> Arc<Series> {
        if let Some(series) = self.series.read().get(labels) {
            return Arc::clone(series);
        }
        let mut all = self.series.write();
        Arc::clone(all.entry(labels.clone()).or_insert_with(|| Arc::new(Series::new(labels.clone()))))
    }

    /// The series of events of a kind.
    pub(crate) fn watch(&self, served: &Arc<Served>) -> Arc<WatchSeries> {
        let resource = Resource(Arc::clone(served));
        if let Some(series) = self.watches.read().get(&resource) {
            return Arc::clone(series);
        }
        let series =
            || Arc::new(WatchSeries { sizes: Histogram::new(EVENT_SIZES), terminated: AtomicU64::new(0) });
        Arc::clone(self.watches.write().entry(resource).or_insert_with(series))
    }

    /// Counts a commit. One that found something else than it expected is a good answer too.
    pub(crate) fn committed(&self, operation: &'static str, prefix: &str, took: Duration, failed: bool) {
        let known = {
            // Few keys: found without making one.
            let all = self.commits.read();
            all.iter().find(|((o, p), _)| *o == operation && p == prefix).map(|(_, h)| Arc::clone(h))
        };
        let commits = known.unwrap_or_else(|| {
            let mut all = self.commits.write();
            let key = (operation, prefix.to_owned());
            Arc::clone(all.entry(key).or_default())
        });
        commits.durations.observe(took.as_secs_f64());
        if failed {
            commits.failures.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
