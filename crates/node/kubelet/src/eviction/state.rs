//! What of the thresholds is crossed, since when, and what follows: node conditions, and whether a pod has to go. Pure; time
//! is an argument. The rules are upstream's (`eviction_manager.go`, `synchronize`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::thresholds::{Signal, Threshold};

/// What a signal measures now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) available: i64,
    pub(crate) capacity: i64,
}

pub(crate) type Observations = BTreeMap<Signal, Observed>;

/// Conditions of a node that is short of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    Memory,
    Disk,
    Pid,
}

impl Pressure {
    fn of(signal: Signal) -> Self {
        match signal {
            Signal::Memory | Signal::AllocatableMemory => Self::Memory,
            Signal::Pids => Self::Pid,
            _ => Self::Disk,
        }
    }

    /// The type of the node's condition.
    pub(crate) fn condition(self) -> &'static str {
        match self {
            Self::Memory => "MemoryPressure",
            Self::Disk => "DiskPressure",
            Self::Pid => "PIDPressure",
        }
    }
}

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
pub(crate) struct State {
    acting: Vec<Threshold>,
    first_seen: Vec<(Threshold, Instant)>,
    last_pressure: BTreeMap<Pressure, Instant>,
}

/// What follows from a look.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) pressures: BTreeSet<Pressure>,
    /// What is to be reclaimed for; memory goes first: it is what kills.
    pub(crate) reclaim: Option<Threshold>,
}

/// Whether less is there than the threshold asks for, and with `reclaiming` than it asks for to be over.
pub(crate) fn is_met(threshold: &Threshold, observed: &Observations, reclaiming: bool) -> bool {
    let Some(seen) = observed.get(&threshold.signal) else { return false };
    let more = threshold.reclaim.filter(|_| reclaiming).map_or(0, |level| level.of(seen.capacity));
    seen.available < threshold.level.of(seen.capacity).saturating_add(more)
}

impl State {
    /// `transition`: how long a condition stays after what caused it has passed.
    pub(crate) fn look(
        &mut self,
        thresholds: &[Threshold],
        observed: &Observations,
        transition: Duration,
        now: Instant,
    ) -> Outcome {
        let met: Vec<Threshold> = thresholds
            .iter()
            .filter(|one| {
                is_met(one, observed, false) || (self.acting.contains(one) && is_met(one, observed, true))
            })
            .copied()
            .collect();
        let since = |one: &Threshold| {
            self.first_seen.iter().find(|(known, _)| known == one).map_or(now, |(_, at)| *at)
        };
        self.first_seen = met.iter().map(|one| (*one, since(one))).collect();
        for one in &met {
            self.last_pressure.insert(Pressure::of(one.signal), now);
        }
        let recent = |at: &Instant| *at == now || now.duration_since(*at) < transition;
        self.last_pressure.retain(|_, at| recent(at));
        self.acting = self
            .first_seen
            .iter()
            .filter(|(one, at)| one.grace.is_none_or(|grace| now.duration_since(*at) >= grace))
            .map(|(one, _)| *one)
            .collect();
        Outcome {
            pressures: self.last_pressure.keys().copied().collect(),
            reclaim: self.acting.iter().min_by_key(|one| !one.signal.is_memory()).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::thresholds::Level, *};

    const MINUTE: Duration = Duration::from_secs(60);

    fn threshold(signal: Signal, level: i64, grace: Option<Duration>) -> Threshold {
        Threshold { signal, level: Level::Amount(level), grace, reclaim: None }
    }

    fn seen(list: &[(Signal, i64)]) -> Observations {
        list.iter()
            .map(|(signal, available)| (*signal, Observed { available: *available, capacity: 1000 }))
            .collect()
    }

    #[test]
    fn soft_thresholds_wait_and_conditions_linger() {
        let soft = threshold(Signal::NodeFs, 100, Some(MINUTE));
        let (mut state, start) = (State::default(), Instant::now());
        let mut look = |available: i64, minutes: u32| {
            let outcome = state.look(
                &[soft],
                &seen(&[(Signal::NodeFs, available)]),
                5 * MINUTE,
                start + minutes * MINUTE,
            );
            (outcome.pressures.contains(&Pressure::Disk), outcome.reclaim.is_some())
        };
        assert_eq!(look(200, 0), (false, false));
        assert_eq!(look(50, 1), (true, false));
        assert_eq!(look(50, 2), (true, true));
        assert_eq!(look(200, 3), (true, false));
        // It begins anew.
        assert_eq!(look(50, 4), (true, false));
        assert_eq!(look(200, 8), (true, false));
        assert_eq!(look(200, 9), (false, false));
    }

    #[test]
    fn hard_ones_act_at_once_and_memory_first() {
        let all = [threshold(Signal::NodeFs, 100, None), threshold(Signal::Memory, 100, None)];
        let mut state = State::default();
        let now = Instant::now();
        let outcome = state.look(&all, &seen(&[(Signal::NodeFs, 1), (Signal::Memory, 1)]), MINUTE, now);
        assert_eq!(outcome.reclaim.map(|one| one.signal), Some(Signal::Memory));
        assert_eq!(outcome.pressures, BTreeSet::from([Pressure::Memory, Pressure::Disk]));
        // The machine has enough, but the pods have used up what they may use together.
        let of_pods = [all[0], threshold(Signal::AllocatableMemory, 100, None)];
        let short = [(Signal::NodeFs, 1), (Signal::Memory, 900), (Signal::AllocatableMemory, 99)];
        let outcome = State::default().look(&of_pods, &seen(&short), MINUTE, now);
        assert_eq!(outcome.reclaim.map(|one| one.signal), Some(Signal::AllocatableMemory));
        assert!(outcome.pressures.contains(&Pressure::Memory));
        // What is not measured is not short.
        let outcome = State::default().look(&all, &Observations::new(), MINUTE, now);
        assert_eq!(outcome, Outcome { pressures: BTreeSet::new(), reclaim: None });
    }

    #[test]
    fn more_is_reclaimed_than_the_threshold() {
        let own = Threshold { reclaim: Some(Level::Percent(10.0)), ..threshold(Signal::Pids, 100, None) };
        let (mut state, now) = (State::default(), Instant::now());
        let mut look = |available| {
            state.look(&[own], &seen(&[(Signal::Pids, available)]), Duration::ZERO, now).reclaim.is_some()
        };
        assert!(!look(150));
        assert!(look(99));
        assert!(look(150));
        assert!(!look(200));
        assert!(!look(150));
    }
}
