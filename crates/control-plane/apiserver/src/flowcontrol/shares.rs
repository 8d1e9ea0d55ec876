//! How many seats each priority level has: its nominal share, and what is lent and borrowed by demand. Pure.

use super::rules::LevelSpec;

/// How quickly a demand that went away is forgotten, per adjustment. Source: upstream's `seatDemandSmoothingCoefficient`:
/// at one adjustment in ten seconds it halves in five minutes.
const SMOOTHING: f64 = 0.977;

/// What a level's configuration means in seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Bounds {
    /// Its share of all seats.
    pub(super) nominal: u64,
    /// The least it is left with when others borrow.
    pub(super) lower: u64,
    /// The most it has when it borrows.
    pub(super) upper: u64,
}

/// The bounds of each level, in order. Source: upstream's `apf_controller.go`, `finishQueueSetReconfigs`.
pub(super) fn bounds(levels: &[LevelSpec], seats: u64) -> Vec<Bounds> {
    let sum: u64 = levels.iter().map(|level| level.shares).sum();
    let each = |level: &LevelSpec| {
        let nominal = (seats * level.shares).div_ceil(sum.max(1));
        let lendable = (nominal as f64 * level.lendable_percent as f64 / 100.0).round() as u64;
        let upper = match level.borrowing_percent {
            _ if level.exempt => nominal,
            Some(percent) => nominal + (nominal as f64 * percent as f64 / 100.0).round() as u64,
            None => seats.max(nominal),
        };
        Bounds { nominal, lower: nominal - lendable.min(nominal), upper }
    };
    levels.iter().map(each).collect()
}

/// What a level wanted since the last adjustment: seats executing and waiting, weighed by time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Demand {
    /// The most.
    pub(super) high: f64,
    pub(super) average: f64,
    pub(super) deviation: f64,
}

/// Gathers a demand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Integrator {
    now: f64,
    since: f64,
    value: f64,
    sum: f64,
    squares: f64,
    high: f64,
}

impl Integrator {
    /// The demand is this from now on; time in seconds.
    pub(super) fn set(&mut self, value: f64, now: f64) {
        let passed = (now - self.now).max(0.0);
        self.sum += self.value * passed;
        self.squares += self.value * self.value * passed;
        self.now = self.now.max(now);
        self.value = value;
        self.high = self.high.max(value);
    }

    /// What there was since the last time this was asked.
    pub(super) fn take(&mut self, now: f64) -> Demand {
        self.set(self.value, now);
        let length = self.now - self.since;
        let average = if length > 0.0 { self.sum / length } else { self.value };
        let variance = if length > 0.0 { self.squares / length - average * average } else { 0.0 };
        let demand = Demand { high: self.high, average, deviation: variance.max(0.0).sqrt() };
        *self = Integrator { now: self.now, since: self.now, value: self.value, high: self.value, ..*self };
        self.sum = 0.0;
        self.squares = 0.0;
        demand
    }
}

/// The demand to plan for: rises at once, falls slowly.
pub(super) fn smoothed(before: f64, demand: &Demand) -> f64 {
    let envelope = (demand.average + demand.deviation).min(demand.high);
    if envelope > before { envelope } else { before * SMOOTHING + envelope * (1.0 - SMOOTHING) }
}

/// What one level asks for when seats are divided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) bounds: Bounds,
    pub(super) exempt: bool,
    pub(super) high: f64,
    pub(super) smoothed: f64,
}

impl Ask {
    /// Nobody is left with less than they just used, as far as that is theirs.
    fn least(&self) -> f64 {
        (self.bounds.lower as f64).max(self.high.min(self.bounds.nominal as f64))
    }

    /// What the level would get of seats enough for all.
    pub(super) fn target(&self) -> f64 {
        self.smoothed.max(self.least())
    }
}

/// Divides all seats: everybody gets the same fraction of what they plan for, within their bounds. Returns each level's
/// seats and that fraction.
///
/// Exempt levels take what they need first; if what all others must keep does not fit into the rest, they keep it all
/// the same: the exempt ones do not wait for seats anyway.
pub(super) fn divide(asks: &[Ask], seats: u64) -> (Vec<u64>, f64) {
    let exempt: f64 = asks.iter().filter(|ask| ask.exempt).map(|ask| ask.smoothed).sum();
    let limited: Vec<(f64, f64, f64)> = asks
        .iter()
        .filter(|ask| !ask.exempt)
        .map(|ask| {
            let least = ask.least();
            (least, ask.target(), (ask.bounds.upper as f64).max(least))
        })
        .collect();
    let least: f64 = limited.iter().map(|(least, _, _)| least).sum();
    let most: f64 = limited.iter().map(|(_, _, most)| most).sum();
    let available = (seats as f64 - exempt).clamp(least, most.max(least));
    let fraction = fair_fraction(&limited, available);
    let mut given = limited.iter().map(|(least, target, most)| (target * fraction).clamp(*least, *most));
    let all = asks
        .iter()
        .map(|ask| {
            if ask.exempt { ask.bounds.nominal } else { given.next().unwrap_or(0.0).round().max(1.0) as u64 }
        })
        .collect();
    (all, fraction)
}

/// The fraction at which the parts, each within its bounds, sum up to what is available.
fn fair_fraction(parts: &[(f64, f64, f64)], available: f64) -> f64 {
    let sum_at = |fraction: f64| -> f64 {
        parts.iter().map(|(least, target, most)| (target.max(0.001) * fraction).clamp(*least, *most)).sum()
    };
    // The sum rises with the fraction, so it is found by halving. Targets are at least a thousandth, seats below 2^32.
    let (mut low, mut high) = (0.0, 1e12);
    for _ in 0..128 {
        let middle = (low + high) / 2.0;
        if sum_at(middle) < available {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flowcontrol::defaults;

    fn default_levels() -> Vec<LevelSpec> {
        defaults::levels().iter().map(LevelSpec::of).collect()
    }

    #[test]
    fn nominal_shares_are_upstreams() {
        // Upstream's documentation gives these for its 600 seats.
        let levels = default_levels();
        let bounds = bounds(&levels, 600);
        let of = |name: &str| {
            let index = levels.iter().position(|level| &*level.name == name).unwrap();
            (bounds[index].nominal, bounds[index].lower, bounds[index].upper)
        };
        assert_eq!(of("catch-all"), (13, 13, 600));
        assert_eq!(of("system"), (74, 50, 600));
        assert_eq!(of("node-high"), (98, 73, 600));
        assert_eq!(of("workload-low"), (245, 24, 600));
        assert_eq!(of("exempt"), (0, 0, 0));
    }

    #[test]
    fn demand_is_weighed_by_time() {
        let mut demand = Integrator::default();
        demand.set(10.0, 0.0);
        demand.set(0.0, 1.0);
        let taken = demand.take(10.0);
        assert_eq!((taken.high, taken.average, taken.deviation), (10.0, 1.0, 3.0));
        assert_eq!(demand.take(20.0), Demand { high: 0.0, average: 0.0, deviation: 0.0 });
        assert_eq!(smoothed(0.0, &taken), 4.0);
        assert!((smoothed(100.0, &taken) - (97.7 + 4.0 * 0.023)).abs() < 1e-9);
    }

    #[test]
    fn the_idle_lend_and_the_busy_borrow() {
        let bounds = Bounds { nominal: 50, lower: 10, upper: 100 };
        let busy = Ask { bounds, exempt: false, high: 90.0, smoothed: 90.0 };
        let idle = Ask { bounds, exempt: false, high: 0.0, smoothed: 0.0 };
        let (given, _) = divide(&[busy, idle], 100);
        assert_eq!(given, [90, 10]);
        // Both busy: nobody lends.
        assert_eq!(divide(&[busy, busy], 100).0, [50, 50]);
        // What cannot be lent stays.
        let stingy = Ask { bounds: Bounds { lower: 50, ..bounds }, ..idle };
        assert_eq!(divide(&[busy, stingy], 100).0, [50, 50]);
        // Exempt work is taken from what there is to divide.
        let exempt = Ask { bounds: Bounds::default(), exempt: true, high: 30.0, smoothed: 30.0 };
        assert_eq!(divide(&[busy, idle, exempt], 100).0, [60, 10, 0]);
        assert_eq!(divide(&[Ask { high: 0.0, smoothed: 0.0, ..busy }; 2], 100).0, [50, 50]);
    }
}
