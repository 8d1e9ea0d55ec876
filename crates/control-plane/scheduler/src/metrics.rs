//! What the scheduler measures of itself, under upstream's names. Durations are taken by the shell; decisions read no clock.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use podium_client::metrics::{Collect, Counter, Family, Gauge, Histogram, exponential};

use crate::queue::Waiting;
use crate::surroundings::Point;

/// From 1 ms to 16 s.
const ATTEMPTS: &[f64] = &exponential::<15>(0.001, 2.0);
/// From 10 ms to 88 minutes.
const WAITS: &[f64] = &exponential::<20>(0.01, 2.0);
/// From 0.1 ms to 200 ms.
const POINTS: &[f64] = &exponential::<12>(0.0001, 2.0);

static SCHEDULE_ATTEMPTS: Family<Counter, 2> = Family::new(
    "scheduler_schedule_attempts_total",
    "[STABLE] Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while 'error' means an internal scheduler problem.",
    ["profile", "result"],
    Counter::default,
);
static ATTEMPT_SECONDS: Family<Histogram, 2> = Family::new(
    "scheduler_scheduling_attempt_duration_seconds",
    "[STABLE] Scheduling attempt latency in seconds (scheduling algorithm + binding)",
    ["profile", "result"],
    || Histogram::new(ATTEMPTS),
);
static ALGORITHM_SECONDS: Family<Histogram, 0> = Family::new(
    "scheduler_scheduling_algorithm_duration_seconds",
    "[ALPHA] Scheduling algorithm latency in seconds",
    [],
    || Histogram::new(ATTEMPTS),
);
static VICTIMS: Family<Histogram, 0> =
    Family::new("scheduler_preemption_victims", "[STABLE] Number of selected preemption victims", [], || {
        Histogram::new(const { &exponential::<7>(1.0, 2.0) })
    });
static PREEMPTIONS: Family<Counter, 0> = Family::new(
    "scheduler_preemption_attempts_total",
    "[STABLE] Total preemption attempts in the cluster till now",
    [],
    Counter::default,
);
static PENDING: Family<Gauge, 1> = Family::new(
    "scheduler_pending_pods",
    "[STABLE] Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule because they are gated.",
    ["queue"],
    Gauge::default,
);
static SLI_SECONDS: Family<Histogram, 1> = Family::new(
    "scheduler_pod_scheduling_sli_duration_seconds",
    "[BETA] E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might involve multiple scheduling attempts.",
    ["attempts"],
    || Histogram::new(WAITS),
);
static TRIES: Family<Histogram, 0> = Family::new(
    "scheduler_pod_scheduling_attempts",
    "[STABLE] Number of attempts to successfully schedule a pod.",
    [],
    || Histogram::new(const { &exponential::<5>(1.0, 2.0) }),
);
static POINT_SECONDS: Family<Histogram, 3> = Family::new(
    "scheduler_framework_extension_point_duration_seconds",
    "[STABLE] Latency for running all plugins of a specific extension point.",
    ["extension_point", "profile", "status"],
    || Histogram::new(POINTS),
);
static INCOMING: Family<Counter, 2> = Family::new(
    "scheduler_queue_incoming_pods_total",
    "[STABLE] Number of pods added to scheduling queues by event and queue type.",
    ["event", "queue"],
    Counter::default,
);
static CACHE_SIZE: Family<Gauge, 1> = Family::new(
    "scheduler_cache_size",
    "[ALPHA] Number of nodes, pods, and assumed (bound) pods in the scheduler cache.",
    ["type"],
    Gauge::default,
);

/// Everything that is counted here, in Prometheus' text form.
pub fn collect(out: &mut String) {
    let families: [&dyn Collect; 11] = [
        &SCHEDULE_ATTEMPTS,
        &ATTEMPT_SECONDS,
        &ALGORITHM_SECONDS,
        &VICTIMS,
        &PREEMPTIONS,
        &PENDING,
        &SLI_SECONDS,
        &TRIES,
        &POINT_SECONDS,
        &INCOMING,
        &CACHE_SIZE,
    ];
    families.into_iter().for_each(|family| family.collect(out));
}

/// A pod came into one of the queues.
pub(crate) fn incoming(event: &str, queue: &str) {
    INCOMING.with([event, queue]).increment();
}

/// How many pods wait where, and how much is known.
pub(crate) fn sizes(waiting: Waiting, nodes: usize, pods: usize, assumed: usize) {
    for (queue, count) in [
        ("active", waiting.active),
        ("backoff", waiting.backoff),
        ("unschedulable", waiting.unschedulable),
        ("gated", waiting.gated),
    ] {
        PENDING.with([queue]).set(count as f64);
    }
    for (what, count) in [("nodes", nodes), ("pods", pods), ("assumed_pods", assumed)] {
        CACHE_SIZE.with([what]).set(count as f64);
    }
}

/// What came of one try, and how long it took.
pub(crate) fn attempted(profile: &str, result: &str, took: Duration) {
    SCHEDULE_ATTEMPTS.with([profile, result]).increment();
    ATTEMPT_SECONDS.with([profile, result]).observe(took.as_secs_f64());
}

/// A pod has its node after so many tries and so much time.
pub(crate) fn scheduled(tries: u32, since_first: Duration) {
    TRIES.with([]).observe(f64::from(tries));
    let text;
    let label = match tries {
        ..=15 => {
            text = tries.to_string();
            &text
        }
        // As upstream: who needed more counts with those.
        _ => "15+",
    };
    SLI_SECONDS.with([label]).observe(since_first.as_secs_f64());
}

/// Room was looked for, and made at the cost of so many pods.
pub(crate) fn preempted(victims: usize) {
    PREEMPTIONS.with([]).increment();
    VICTIMS.with([]).observe(victims as f64);
}

/// Reads the clock for decisions that do not.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    profile: String,
    lap: Mutex<Instant>,
}

impl Stopwatch {
    pub(crate) fn new(profile: &str) -> Self {
        Self { profile: profile.to_owned(), lap: Mutex::new(Instant::now()) }
    }

    /// A decision begins.
    pub(crate) fn start(&self) -> Instant {
        let now = Instant::now();
        *self.lap.lock() = now;
        now
    }

    /// It is made.
    pub(crate) fn decided(started: Instant) {
        ALGORITHM_SECONDS.with([]).observe(started.elapsed().as_secs_f64());
    }

    /// It has passed a point.
    pub(crate) fn passed(&self, point: Point, success: bool) {
        let took = std::mem::replace(&mut *self.lap.lock(), Instant::now()).elapsed();
        self.took(point, success, took);
    }

    /// So much time was spent at a point.
    pub(crate) fn took(&self, point: Point, success: bool, took: Duration) {
        let point = match point {
            Point::PreFilter => "PreFilter",
            Point::Filter => "Filter",
            Point::PostFilter => "PostFilter",
            Point::Score => "Score",
            Point::Bind => "Bind",
        };
        let status = match (success, point) {
            (true, _) => "Success",
            (false, "Bind") => "Error",
            (false, _) => "Unschedulable",
        };
        POINT_SECONDS.with([point, &self.profile, status]).observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_has_upstreams_names() {
        attempted("measured", "scheduled", Duration::from_millis(3));
        scheduled(2, Duration::from_secs(1));
        preempted(3);
        let watch = Stopwatch::new("measured");
        watch.start();
        watch.passed(Point::Filter, false);
        watch.took(Point::Bind, true, Duration::from_millis(1));
        let mut text = String::new();
        collect(&mut text);
        for row in [
            "scheduler_schedule_attempts_total{profile=\"measured\",result=\"scheduled\"} 1",
            "scheduler_scheduling_attempt_duration_seconds_bucket{profile=\"measured\",result=\"scheduled\",le=\"0.004\"} 1",
            "scheduler_framework_extension_point_duration_seconds_count{extension_point=\"Filter\",profile=\"measured\",status=\"Unschedulable\"} 1",
            "scheduler_framework_extension_point_duration_seconds_count{extension_point=\"Bind\",profile=\"measured\",status=\"Success\"} 1",
        ] {
            assert!(text.lines().any(|line| line == row), "{row}\n{text}");
        }
        for name in ["scheduler_preemption_victims_sum", "scheduler_pod_scheduling_attempts_sum"] {
            assert!(text.contains(name), "{name}");
        }
    }
}
