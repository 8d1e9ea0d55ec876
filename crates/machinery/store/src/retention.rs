//! Decides how much of the past goes. Pure: time is an argument.

use std::collections::VecDeque;
use std::time::Instant;

use crate::config::History;
use crate::record::Revision;

/// When which revision was the newest: coarse, a sample for each round of housekeeping in which something changed.
#[derive(Debug, Default)]
pub(crate) struct Samples(VecDeque<(Instant, Revision)>);

impl Samples {
    pub(crate) fn add(&mut self, now: Instant, revision: Revision) {
        if self.0.back().is_none_or(|(_, newest)| *newest < revision) {
            self.0.push_back((now, revision));
        }
    }

    /// The newest revision known to be older than `history.age`, if a tenth of that age has passed since what was
    /// compacted last. (Compacting at each sample would write to the disk of an idle cluster as often as its nodes do.)
    fn aged(&self, history: &History, compacted: Revision, now: Instant) -> Option<Revision> {
        let old = |(at, _): &&(Instant, Revision)| now.saturating_duration_since(*at) >= history.age;
        let (_, revision) = self.0.iter().rev().find(old)?;
        let (oldest, _) = self.0.iter().find(|(_, revision)| *revision > compacted)?;
        (now.saturating_duration_since(*oldest) >= history.age + history.age / 10).then_some(*revision)
    }

    fn forget(&mut self, compacted: Revision) {
        while self.0.front().is_some_and(|(_, revision)| *revision <= compacted) {
            self.0.pop_front();
        }
    }
}

/// What is kept now. For the moment of a reset, `compacted` may be ahead of `newest`: then there is no history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) compacted: Revision,
    pub(crate) newest: Revision,
    pub(crate) history_bytes: u64,
    pub(crate) live_bytes: u64,
}

impl Kept {
    fn revisions(&self) -> u64 {
        self.newest.saturating_sub(self.compacted)
    }
}

/// The most bytes that the history may have beside this much live data.
pub(crate) fn bytes_limit(history: &History, live_bytes: u64) -> u64 {
    history.bytes.min((live_bytes / 2).max(history.small_bytes))
}

/// Whether so much is kept that housekeeping should not wait for its next round: a quarter more than the limits.
pub(crate) fn is_urgent(history: &History, kept: Kept) -> bool {
    let over = |value: u64, limit: u64| value > limit.saturating_add(limit / 4);
    history.automatic
        && (over(kept.revisions(), history.revisions)
            || over(kept.history_bytes, bytes_limit(history, kept.live_bytes)))
}

/// The revision to compact to, if any. `shed(bytes)` finds the revision up to which the history weighs so much.
///
/// What is over a limit is brought to nine tenths of it, so that this is not done for every write.
pub(crate) fn target(
    history: &History,
    kept: Kept,
    samples: &mut Samples,
    now: Instant,
    shed: impl FnOnce(u64) -> Revision,
) -> Option<Revision> {
    if !history.automatic {
        return None;
    }
    samples.forget(kept.compacted);
    let mut target = samples.aged(history, kept.compacted, now).unwrap_or(0);
    if kept.revisions() > history.revisions {
        target = target.max(kept.newest - (history.revisions - history.revisions / 10));
    }
    let limit = bytes_limit(history, kept.live_bytes);
    if kept.history_bytes > limit {
        target = target.max(shed(kept.history_bytes - (limit - limit / 10)));
    }
    let target = target.min(kept.newest);
    (target > kept.compacted).then_some(target)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn history() -> History {
        History { automatic: true, age: 5 * MINUTE, revisions: 100, bytes: 1000, small_bytes: 200 }
    }

    fn kept(compacted: Revision, newest: Revision, history_bytes: u64) -> Kept {
        Kept { compacted, newest, history_bytes, live_bytes: 100_000 }
    }

    fn never(_: u64) -> Revision {
        panic!("asked to shed bytes")
    }

    #[test]
    fn nothing_goes_within_the_limits() {
        let now = Instant::now();
        let mut samples = Samples::default();
        samples.add(now, 50);
        assert_eq!(target(&history(), kept(1, 101, 1000), &mut samples, now + 5 * MINUTE, never), None);
    }

    #[test]
    fn old_revisions_go_in_steps() {
        let start = Instant::now();
        let mut samples = Samples::default();
        for minute in 0..10 {
            samples.add(start + minute * MINUTE, 10 + u64::from(minute));
        }
        let at = |seconds: u64, compacted: Revision, samples: &mut Samples| {
            let now = start + Duration::from_secs(seconds);
            target(&history(), kept(compacted, 90, 0), samples, now, never)
        };
        assert_eq!(at(300, 1, &mut samples), None);
        assert_eq!(at(329, 1, &mut samples), None);
        assert_eq!(at(330, 1, &mut samples), Some(10));
        assert_eq!(at(330, 10, &mut samples), None);
        assert_eq!(at(391, 10, &mut samples), Some(11));
        assert_eq!(at(10_000, 11, &mut samples), Some(19));
        assert_eq!(at(10_000, 19, &mut samples), None);
    }

    #[test]
    fn too_many_revisions_go_at_once() {
        let now = Instant::now();
        assert_eq!(target(&history(), kept(1, 102, 0), &mut Samples::default(), now, never), Some(12));
        assert_eq!(target(&history(), kept(12, 102, 0), &mut Samples::default(), now, never), None);
    }

    #[test]
    fn nothing_goes_where_the_limits_and_what_is_kept_leave_nothing() {
        let now = Instant::now();
        let none = History { age: Duration::ZERO, revisions: 0, bytes: 0, small_bytes: 0, ..history() };
        let all = |_| Revision::MAX;
        for (history, compacted, newest, expected) in [
            // Compacted to the end, and, in the middle of a reset, beyond it.
            (&history(), 102, 102, None),
            (&history(), 103, 102, None),
            (&none, 103, 102, None),
            // No history at all.
            (&none, 1, 1, None),
            (&none, 1, 102, Some(102)),
            (&none, 0, 1, Some(1)),
        ] {
            let mut samples = Samples::default();
            samples.add(now, newest);
            let kept = kept(compacted, newest, 1001);
            assert_eq!(target(history, kept, &mut samples, now, all), expected, "{history:?} {kept:?}");
        }
        let cut = Kept { history_bytes: 0, ..kept(103, 102, 0) };
        assert!(!is_urgent(&history(), cut) && !is_urgent(&none, cut));
    }

    #[test]
    fn too_many_bytes_go_at_once() {
        let now = Instant::now();
        let shed = |bytes| {
            assert_eq!(bytes, 101);
            7
        };
        assert_eq!(target(&history(), kept(1, 50, 1001), &mut Samples::default(), now, shed), Some(7));
    }

    #[test]
    fn little_live_data_means_little_history() {
        assert_eq!(bytes_limit(&history(), 10), 200);
        assert_eq!(bytes_limit(&history(), 1000), 500);
        assert_eq!(bytes_limit(&history(), 1_000_000), 1000);
    }

    #[test]
    fn urgent_is_well_above_the_limits() {
        assert!(!is_urgent(&history(), kept(1, 126, 1250)));
        assert!(is_urgent(&history(), kept(1, 127, 0)));
        assert!(is_urgent(&history(), kept(1, 1, 1251)));
        assert!(!is_urgent(&History { automatic: false, ..history() }, kept(1, 127, 1251)));
    }
}
