//! Probes: when to run them and what their answers mean. The state machine is pure; [`run`] asks.

mod grpc;
pub(crate) mod run;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Probe;

use crate::{backoff::elapsed, pod::ProbeKind};

/// One answer of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It succeeded.
    Success,
    /// It succeeded, but an HTTP redirect led elsewhere; upstream warns.
    Warning(String),
    /// It failed; the text goes into the event.
    Failure(String),
    /// It could not be run at all; nothing follows from that but an event.
    Error(String),
}

/// What a probe has found so far about one run of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProbeState {
    kind: ProbeKind,
    /// The last answer, and how often it came in a row.
    last: Option<bool>,
    run: i32,
    settled: Option<bool>,
    /// Liveness or startup has failed for good: the container is about to be killed.
    on_hold: bool,
}

impl ProbeState {
    /// The state at a container's start, or what is known about it from before a restart of ours.
    pub(crate) fn new(kind: ProbeKind, known: Option<bool>) -> Self {
        let initial = match kind {
            ProbeKind::Readiness => Some(known.unwrap_or(false)),
            ProbeKind::Liveness => Some(true),
            ProbeKind::Startup => known.filter(|started| *started),
        };
        Self { kind, last: None, run: 0, settled: initial, on_hold: false }
    }

    /// The result as it stands; None while a startup probe has none.
    pub(crate) fn result(&self) -> Option<bool> {
        self.settled
    }

    /// No further run makes sense for this run of the container.
    pub(crate) fn is_over(&self) -> bool {
        self.on_hold || (self.kind == ProbeKind::Startup && self.settled == Some(true))
    }

    /// Takes one answer in; true if the result changed.
    pub(crate) fn observe(&mut self, probe: &Probe, answer: &Answer) -> bool {
        let success = match answer {
            Answer::Success | Answer::Warning(_) => true,
            Answer::Failure(_) => false,
            // Not the container's fault: as if the probe had not run.
            Answer::Error(_) => return false,
        };
        if self.last == Some(success) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(success);
            self.run = 1;
        }
        let needed =
            if success { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        if self.run < needed.max(1) {
            return false;
        }
        let changed = self.settled != Some(success);
        self.settled = Some(success);
        if !success && self.kind != ProbeKind::Readiness {
            self.on_hold = true;
            self.run = 0;
        }
        changed
    }
}

/// How long until a probe runs the first time: `initialDelaySeconds` after the container's start, at
/// once if that has passed.
pub(crate) fn first_run_in(probe: &Probe, started: Timestamp, now: Timestamp) -> Duration {
    let delay = Duration::from_secs(u64::try_from(probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0));
    delay.saturating_sub(elapsed(started, now))
}

/// Time between runs.
pub(crate) fn period(probe: &Probe) -> Duration {
    Duration::from_secs(u64::try_from(probe.period_seconds.unwrap_or(10).max(1)).unwrap_or(10))
}

/// How long one run may take.
pub(crate) fn timeout(probe: &Probe) -> Duration {
    Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1).max(1)).unwrap_or(1))
}

/// The event of an answer: its reason and message, None for success.
pub(crate) fn event(kind: ProbeKind, answer: &Answer) -> Option<(&'static str, String)> {
    let kind = kind.as_str();
    match answer {
        Answer::Success => None,
        Answer::Warning(text) => Some(("ProbeWarning", format!("{kind} probe warning: {text}"))),
        Answer::Failure(text) => Some(("Unhealthy", format!("{kind} probe failed: {text}"))),
        Answer::Error(text) => {
            Some(("Unhealthy", format!("{kind} probe errored and resulted in unknown state: {text}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `s` success, `f` failure, `e` error; the result after each, `+`, `-` or `?`.
    #[track_caller]
    fn check(kind: ProbeKind, success: i32, failure: i32, answers: &str, results: &str) {
        let probe = Probe {
            success_threshold: Some(success),
            failure_threshold: Some(failure),
            ..Default::default()
        };
        let mut state = ProbeState::new(kind, None);
        let show = |state: &ProbeState| match state.result() {
            Some(true) => '+',
            Some(false) => '-',
            None => '?',
        };
        let mut seen = String::from(show(&state));
        for answer in answers.chars() {
            let answer = match answer {
                's' => Answer::Success,
                'f' => Answer::Failure(String::new()),
                _ => Answer::Error(String::new()),
            };
            let before = state.result();
            let changed = state.observe(&probe, &answer);
            assert_eq!(changed, before != state.result());
            seen.push(show(&state));
        }
        assert_eq!(seen, results, "{kind:?} {answers}");
    }

    #[test]
    fn thresholds() {
        check(ProbeKind::Readiness, 1, 3, "sfffsff", "-+++-+++");
        check(ProbeKind::Readiness, 2, 1, "ssfsfss", "--+----+");
        check(ProbeKind::Readiness, 1, 2, "sfef", "-+++-");
        check(ProbeKind::Liveness, 1, 3, "fffs", "+++-+");
        check(ProbeKind::Startup, 1, 3, "ffs", "???+");
        check(ProbeKind::Startup, 1, 2, "ff", "??-");
    }

    #[test]
    fn when_it_is_over() {
        let probe = Probe { failure_threshold: Some(1), ..Default::default() };
        let mut live = ProbeState::new(ProbeKind::Liveness, None);
        live.observe(&probe, &Answer::Failure(String::new()));
        assert!(live.is_over());
        let mut ready = ProbeState::new(ProbeKind::Readiness, None);
        ready.observe(&probe, &Answer::Failure(String::new()));
        assert!(!ready.is_over());
        assert!(ProbeState::new(ProbeKind::Startup, Some(true)).is_over());
        assert!(!ProbeState::new(ProbeKind::Startup, Some(false)).is_over());
        assert_eq!(ProbeState::new(ProbeKind::Readiness, Some(true)).result(), Some(true));
    }

    #[test]
    fn the_first_run_waits_for_its_delay_only() {
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        let probe = |delay| Probe { initial_delay_seconds: delay, ..Default::default() };
        assert_eq!(first_run_in(&probe(None), at(0), at(0)), Duration::ZERO);
        assert_eq!(first_run_in(&probe(Some(5)), at(0), at(2)), Duration::from_secs(3));
        assert_eq!(first_run_in(&probe(Some(5)), at(0), at(9)), Duration::ZERO);
    }
}
