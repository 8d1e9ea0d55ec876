//! How full a level was over time, as histograms that are fed by time instead of by events: every nanosecond counts once,
//! with the value it had. Source: upstream's timing ratio histograms.

use std::fmt::Write;
use std::time::Duration;

use podium_client::metrics::head;

/// A histogram of a value over time.
#[derive(Debug)]
struct OverTime {
    bounds: &'static [f64],
    /// Nanoseconds within each bound and above those before; the last is for what is above all.
    spent: Vec<u64>,
    /// The sum of the value over all nanoseconds.
    sum: f64,
    value: f64,
    bucket: usize,
    since: Duration,
}

impl OverTime {
    fn new(bounds: &'static [f64], since: Duration) -> OverTime {
        OverTime { bounds, spent: vec![0; bounds.len() + 1], sum: 0.0, value: 0.0, bucket: 0, since }
    }

    /// The value is this from now on.
    fn set(&mut self, value: f64, now: Duration) {
        let passed = now.saturating_sub(self.since).as_nanos() as u64;
        self.spent[self.bucket] += passed;
        self.sum += self.value * passed as f64;
        self.since = self.since.max(now);
        if self.value.to_bits() != value.to_bits() {
            self.value = value;
            self.bucket = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        }
    }

    fn render(&self, out: &mut String, name: &str, labels: &str) {
        let mut all = 0;
        for (bound, spent) in self.bounds.iter().map(ToString::to_string).zip(&self.spent) {
            all += spent;
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {all}");
        }
        all += self.spent.last().copied().unwrap_or(0);
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {all}");
        let _ = writeln!(out, "{name}_sum{{{labels}}} {}", self.sum);
        let _ = writeln!(out, "{name}_count{{{labels}}} {all}");
    }
}

/// Source: upstream's buckets of the metric of the same name, as with the other two.
const DEMANDS: &[f64] = &[0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8, 4.0, 6.0];
const SEATS: &[f64] = &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
const REQUESTS: &[f64] = &[0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0];

/// What a level is full of now, and what it has room for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Occupants {
    pub(super) executing: usize,
    pub(super) executing_seats: u64,
    pub(super) waiting: usize,
    pub(super) waiting_seats: u64,
    /// Seats there are.
    pub(super) limit: u64,
    /// Seats that are the level's own.
    pub(super) nominal: u64,
    /// Requests that its queues hold.
    pub(super) capacity: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Occupancy {
    demand: OverTime,
    seats: OverTime,
    executing: OverTime,
    waiting: OverTime,
    occupants: Occupants,
}

impl Occupancy {
    pub(super) fn new(since: Duration) -> Occupancy {
        Occupancy {
            demand: OverTime::new(DEMANDS, since),
            seats: OverTime::new(SEATS, since),
            executing: OverTime::new(REQUESTS, since),
            waiting: OverTime::new(REQUESTS, since),
            occupants: Occupants::default(),
        }
    }

    /// From now on there are these.
    pub(super) fn set(&mut self, occupants: Occupants, now: Duration) {
        let part = |part: f64, whole: f64| part / whole.max(1.0);
        let Occupants { executing, executing_seats, waiting, waiting_seats, limit, nominal, capacity } =
            occupants;
        self.demand.set(part((executing_seats + waiting_seats) as f64, nominal as f64), now);
        self.seats.set(part(executing_seats as f64, limit as f64), now);
        self.executing.set(part(executing as f64, limit as f64), now);
        self.waiting.set(part(waiting as f64, capacity as f64), now);
        self.occupants = occupants;
    }

    /// Counts the time until now.
    pub(super) fn tick(&mut self, now: Duration) {
        self.set(self.occupants, now);
    }
}

/// One distribution of each level: name, help, and with its labels what to show.
type Row = (&'static str, &'static str, &'static [(&'static str, fn(&Occupancy) -> &OverTime)]);

const ROWS: [Row; 3] = [
    (
        "apiserver_flowcontrol_demand_seats",
        "[ALPHA] Observations, at the end of every nanosecond, of (the number of seats each priority level could use) / (nominal number of seats for that level)",
        &[("", |level| &level.demand)],
    ),
    (
        "apiserver_flowcontrol_priority_level_seat_utilization",
        "[ALPHA] Observations, at the end of every nanosecond, of utilization of seats for any stage of execution (but only initial stage for WATCHes)",
        &[("phase=\"executing\",", |level| &level.seats)],
    ),
    (
        "apiserver_flowcontrol_priority_level_request_utilization",
        "[ALPHA] Observations, at the end of every nanosecond, of number of requests (as a fraction of the relevant limit) waiting or in any stage of execution (but only initial stage for WATCHes)",
        &[("phase=\"executing\",", |level| &level.executing), ("phase=\"waiting\",", |level| &level.waiting)],
    ),
];

/// Writes what there is of each metric of each level; `of` writes one level's by its name.
pub(super) fn render(
    out: &mut String,
    levels: usize,
    mut of: impl FnMut(usize, &mut dyn FnMut(&str, &Occupancy)),
) {
    for (name, help, parts) in ROWS {
        head(out, name, "histogram", help);
        for level in 0..levels {
            of(level, &mut |level, occupancy| {
                for (phase, part) in parts {
                    part(occupancy).render(out, name, &format!("{phase}priority_level=\"{level}\""));
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_spent_at_the_value_it_had() {
        let at = Duration::from_nanos;
        let mut seats = OverTime::new(&[0.0, 0.5, 1.0], at(100));
        seats.set(0.5, at(110));
        seats.set(2.0, at(140));
        seats.set(0.0, at(145));
        let mut text = String::new();
        seats.render(&mut text, "x", "l=\"a\"");
        let expected = "x_bucket{l=\"a\",le=\"0\"} 10\nx_bucket{l=\"a\",le=\"0.5\"} 40\nx_bucket{l=\"a\",le=\"1\"} 40\n\
                        x_bucket{l=\"a\",le=\"+Inf\"} 45\nx_sum{l=\"a\"} 25\nx_count{l=\"a\"} 45\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn occupants_are_parts_of_what_there_is_room_for() {
        let mut level = Occupancy::new(Duration::ZERO);
        let occupants = Occupants {
            executing: 1,
            executing_seats: 4,
            waiting: 2,
            waiting_seats: 6,
            limit: 8,
            nominal: 5,
            capacity: 20,
        };
        level.set(occupants, Duration::ZERO);
        level.tick(Duration::from_nanos(10));
        let sums = [&level.demand, &level.seats, &level.executing, &level.waiting].map(|part| part.sum);
        assert_eq!(sums, [20.0, 5.0, 1.25, 1.0]);
    }
}
