//! `apiserver_flowcontrol_*`, under upstream's names. Labels are the names of levels and schemas, which only
//! administrators can make, so their number is bounded.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use podium_client::metrics::{Histogram, head};

use super::Level;
use super::queues::Rejection;
use super::shares::{Bounds, Demand};

/// Source: upstream's `requestDurationSecondsBuckets`.
const DURATIONS: &[f64] = &[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
/// Source: upstream's `queueLengthBuckets`.
const LENGTHS: &[f64] = &[0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
const SEATS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0];

const REASONS: [Rejection; 4] =
    [Rejection::Cancelled, Rejection::ConcurrencyLimit, Rejection::QueueFull, Rejection::TimeOut];

/// What is counted of one schema in one level.
#[derive(Debug)]
pub(super) struct FlowNumbers {
    dispatched: AtomicU64,
    rejected: [AtomicU64; REASONS.len()],
    executing: AtomicI64,
    executing_seats: AtomicI64,
    queued: AtomicI64,
    queued_seats: AtomicI64,
    waits: Histogram,
    rejected_waits: Histogram,
    executions: Histogram,
    watch_executions: Histogram,
    lengths: Histogram,
    estimates: Histogram,
}

impl Default for FlowNumbers {
    fn default() -> FlowNumbers {
        FlowNumbers {
            dispatched: AtomicU64::new(0),
            rejected: Default::default(),
            executing: AtomicI64::new(0),
            executing_seats: AtomicI64::new(0),
            queued: AtomicI64::new(0),
            queued_seats: AtomicI64::new(0),
            waits: Histogram::new(DURATIONS),
            rejected_waits: Histogram::new(DURATIONS),
            executions: Histogram::new(DURATIONS),
            watch_executions: Histogram::new(DURATIONS),
            lengths: Histogram::new(LENGTHS),
            estimates: Histogram::new(SEATS),
        }
    }
}

impl FlowNumbers {
    pub(super) fn estimated(&self, width: u64) {
        self.estimates.observe(width as f64);
    }

    pub(super) fn began(&self, width: u64, waited: Duration) {
        self.dispatched.fetch_add(1, Ordering::Relaxed);
        self.executing.fetch_add(1, Ordering::Relaxed);
        self.executing_seats.fetch_add(width as i64, Ordering::Relaxed);
        self.waits.observe(waited.as_secs_f64());
    }

    pub(super) fn ended(&self, width: u64, watch: bool, took: Duration) {
        self.executing.fetch_sub(1, Ordering::Relaxed);
        self.executing_seats.fetch_sub(width as i64, Ordering::Relaxed);
        let executions = if watch { &self.watch_executions } else { &self.executions };
        executions.observe(took.as_secs_f64());
    }

    /// Joined a queue that is of this length now.
    pub(super) fn queued(&self, width: u64, length: usize) {
        self.queued.fetch_add(1, Ordering::Relaxed);
        self.queued_seats.fetch_add(width as i64, Ordering::Relaxed);
        self.lengths.observe(length as f64);
    }

    pub(super) fn left_queue(&self, width: u64) {
        self.queued.fetch_sub(1, Ordering::Relaxed);
        self.queued_seats.fetch_sub(width as i64, Ordering::Relaxed);
    }

    pub(super) fn rejected(&self, why: Rejection, waited: Duration) {
        if let Some(index) = REASONS.iter().position(|reason| *reason == why) {
            self.rejected[index].fetch_add(1, Ordering::Relaxed);
        }
        self.rejected_waits.observe(waited.as_secs_f64());
    }
}

/// What is counted of one level.
#[derive(Debug, Default)]
pub(super) struct LevelNumbers {
    flows: Mutex<BTreeMap<Arc<str>, Arc<FlowNumbers>>>,
    /// With what is planned for, and what the level was to get.
    demand: Mutex<(Demand, f64, f64)>,
}

impl LevelNumbers {
    /// The numbers of a schema, from now on or from before.
    pub(super) fn of(&self, schema: &Arc<str>) -> Arc<FlowNumbers> {
        Arc::clone(self.flows.lock().entry(Arc::clone(schema)).or_default())
    }

    /// What was wanted in the last period.
    pub(super) fn demand(&self, demand: &Demand, smoothed: f64, target: f64) {
        *self.demand.lock() = (*demand, smoothed, target);
    }
}

/// A metric with one number per schema.
type PerFlow = (&'static str, &'static str, &'static str, fn(&FlowNumbers) -> f64);
/// A metric with one distribution per schema; more labels, if any.
type Distribution = (&'static str, &'static str, &'static [(&'static str, fn(&FlowNumbers) -> &Histogram)]);
/// A metric with one number per level.
type PerLevel = (&'static str, &'static str, fn(&Level, Bounds, u64) -> f64);

const PREFIX: &str = "apiserver_flowcontrol_";

const PER_FLOW: &[PerFlow] = &[
    (
        "dispatched_requests_total",
        "counter",
        "[BETA] Number of requests executed by API Priority and Fairness subsystem",
        |flow| flow.dispatched.load(Ordering::Relaxed) as f64,
    ),
    (
        "current_executing_requests",
        "gauge",
        "[BETA] Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
        |flow| flow.executing.load(Ordering::Relaxed) as f64,
    ),
    (
        "current_executing_seats",
        "gauge",
        "[BETA] Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
        |flow| flow.executing_seats.load(Ordering::Relaxed) as f64,
    ),
    (
        "current_inqueue_requests",
        "gauge",
        "[BETA] Number of requests currently pending in queues of the API Priority and Fairness subsystem",
        |flow| flow.queued.load(Ordering::Relaxed) as f64,
    ),
    (
        "current_inqueue_seats",
        "gauge",
        "[ALPHA] Number of seats currently pending in queues of the API Priority and Fairness subsystem",
        |flow| flow.queued_seats.load(Ordering::Relaxed) as f64,
    ),
];

const DISTRIBUTIONS: &[Distribution] = &[
    (
        "request_wait_duration_seconds",
        "[BETA] Length of time a request spent waiting in its queue",
        &[("execute=\"true\",", |flow| &flow.waits), ("execute=\"false\",", |flow| &flow.rejected_waits)],
    ),
    (
        "request_execution_seconds",
        "[ALPHA] Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem",
        &[("type=\"regular\",", |flow| &flow.executions), ("type=\"watch\",", |flow| &flow.watch_executions)],
    ),
    (
        "request_queue_length_after_enqueue",
        "[ALPHA] Length of queue in the API Priority and Fairness subsystem, as seen by each request after it is enqueued",
        &[("", |flow| &flow.lengths)],
    ),
    (
        "work_estimated_seats",
        "[ALPHA] Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority and Fairness",
        &[("", |flow| &flow.estimates)],
    ),
];

const PER_LEVEL: &[PerLevel] = &[
    (
        "nominal_limit_seats",
        "[BETA] Nominal number of execution seats configured for each priority level",
        |_, bounds, _| bounds.nominal as f64,
    ),
    (
        "lower_limit_seats",
        "[ALPHA] Configured lower bound on number of execution seats available to each priority level",
        |_, bounds, _| bounds.lower as f64,
    ),
    (
        "upper_limit_seats",
        "[ALPHA] Configured upper bound on number of execution seats available to each priority level",
        |_, bounds, _| bounds.upper as f64,
    ),
    (
        "current_limit_seats",
        "[ALPHA] current derived number of execution seats available to each priority level",
        |_, _, limit| limit as f64,
    ),
    ("current_r", "[ALPHA] R(time of last change)", |level, _, _| level.state.lock().queues.virtual_now()),
    ("target_seats", "[ALPHA] Seat allocation targets", |level, _, _| level.numbers.demand.lock().2),
    (
        "demand_seats_high_watermark",
        "[ALPHA] High watermark, over last adjustment period, of demand_seats",
        |level, _, _| level.numbers.demand.lock().0.high,
    ),
    (
        "demand_seats_average",
        "[ALPHA] Time-weighted average, over last adjustment period, of demand_seats",
        |level, _, _| level.numbers.demand.lock().0.average,
    ),
    (
        "demand_seats_stdev",
        "[ALPHA] Time-weighted standard deviation, over last adjustment period, of demand_seats",
        |level, _, _| level.numbers.demand.lock().0.deviation,
    ),
    ("demand_seats_smoothed", "[ALPHA] Smoothed seat demands", |level, _, _| level.numbers.demand.lock().1),
];

/// Writes all of it; each level comes with its bounds and the seats it has now.
pub(super) fn render(out: &mut String, levels: &[(&Arc<Level>, Bounds, u64)], fraction: f64) {
    let flows: Vec<(String, Arc<FlowNumbers>)> = levels
        .iter()
        .flat_map(|(level, _, _)| {
            let flows = level.numbers.flows.lock();
            let row = |(schema, numbers): (&Arc<str>, &Arc<FlowNumbers>)| {
                let labels = format!("flow_schema=\"{schema}\",priority_level=\"{}\"", level.name);
                (labels, Arc::clone(numbers))
            };
            flows.iter().map(row).collect::<Vec<_>>()
        })
        .collect();
    for (name, kind, help, number) in PER_FLOW {
        head(out, &format!("{PREFIX}{name}"), kind, help);
        for (labels, flow) in &flows {
            let _ = writeln!(out, "{PREFIX}{name}{{{labels}}} {}", number(flow));
        }
    }
    let name = "rejected_requests_total";
    let help = "[BETA] Number of requests rejected by API Priority and Fairness subsystem";
    head(out, &format!("{PREFIX}{name}"), "counter", help);
    for (labels, flow) in &flows {
        for (reason, count) in REASONS.iter().zip(&flow.rejected) {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                let _ = writeln!(out, "{PREFIX}{name}{{{labels},reason=\"{}\"}} {count}", reason.name());
            }
        }
    }
    for (name, help, parts) in DISTRIBUTIONS {
        head(out, &format!("{PREFIX}{name}"), "histogram", help);
        for (labels, flow) in &flows {
            for (more, histogram) in *parts {
                // Upstream's labels stand in the order of their names.
                histogram(flow).render(out, &format!("{PREFIX}{name}"), &format!("{more}{labels}"));
            }
        }
    }
    for (name, help, number) in PER_LEVEL {
        head(out, &format!("{PREFIX}{name}"), "gauge", help);
        for (level, bounds, limit) in levels {
            let number = number(level, *bounds, *limit);
            let _ = writeln!(out, "{PREFIX}{name}{{priority_level=\"{}\"}} {number}", level.name);
        }
    }
    let name = "next_s_bounds";
    let help = "[ALPHA] min and max, over queues, of S(oldest waiting request in queue)";
    head(out, &format!("{PREFIX}{name}"), "gauge", help);
    for (level, _, _) in levels {
        let bounds = level.state.lock().queues.next_begins();
        for (bound, at) in bounds.into_iter().flat_map(|(least, most)| [("min", least), ("max", most)]) {
            let labels = format!("bound=\"{bound}\",priority_level=\"{}\"", level.name);
            let _ = writeln!(out, "{PREFIX}{name}{{{labels}}} {at}");
        }
    }
    let name = "seat_fair_frac";
    let help =
        "[ALPHA] Fair fraction of server's concurrency to allocate to each priority level that can use it";
    head(out, &format!("{PREFIX}{name}"), "gauge", help);
    let _ = writeln!(out, "{PREFIX}{name} {fraction}");
}
