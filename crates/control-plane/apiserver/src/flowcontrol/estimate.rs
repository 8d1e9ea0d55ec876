//! How many seats a request needs, and when one that was turned away should come back. Pure.

use std::collections::VecDeque;

use crate::request::{Query, RequestInfo};

/// Bytes of a list that one seat stands for. Source: upstream's `bytesPerSeat`.
const BYTES_PER_SEAT: u64 = 100_000;

/// The most of a list that counts: lists are gathered piece by piece, so more is never held at once.
/// Source: upstream's `cacheWithStreamingMaxMemoryUsage`.
const BYTES_AT_ONCE: u64 = 1_000_000;

/// The largest part of a level's seats that one request is given. Source: upstream's `priorityLevelMaxSeatsPercent`.
const LARGEST_PART: f64 = 0.15;

/// What is stored of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) objects: u64,
    /// The average size of one.
    pub(crate) bytes_each: u64,
}

/// The seats of a request. Source: upstream's `list_work_estimator.go`: only lists, and watches that begin with one, are
/// wider than one seat.
pub(super) fn width(info: &RequestInfo, query: &Query, stored: Stored, widest: u64) -> u64 {
    let lists = match info.verb {
        "list" => true,
        "watch" => {
            let version = query.first("resourceVersion").unwrap_or_default();
            query.truthy("sendInitialEvents") || version.is_empty() || version == "0"
        }
        _ => false,
    };
    if !lists || stored.objects == 0 {
        return 1;
    }
    // What is sent whole whatever the limit says: watches, and lists from the cache as it is.
    let from_cache =
        query.first("resourceVersion") == Some("0") && query.first("continue").is_none_or(str::is_empty);
    let limited = info.verb == "list" && !from_cache;
    let limit = query
        .first("limit")
        .filter(|_| limited)
        .and_then(|text| text.parse().ok())
        .filter(|limit| *limit > 0);
    let objects = if !info.name.is_empty() { 1 } else { stored.objects.min(limit.unwrap_or(u64::MAX)) };
    let bytes = objects.saturating_mul(stored.bytes_each).min(BYTES_AT_ONCE);
    bytes.div_ceil(BYTES_PER_SEAT).clamp(1, widest.max(1))
}

/// The widest that one request of a level may be. Source: upstream's `apf_controller.go`.
pub(super) fn widest(nominal: u64, hand: usize) -> u64 {
    let part = (nominal as f64 * LARGEST_PART).ceil() as u64;
    part.min(nominal / hand.max(1) as u64).max(1)
}

/// The longest that a client is told to wait.
const LONGEST: u64 = 32;

/// How long clients of one level are told to wait: doubles while they keep being turned away, and comes down again second by
/// second. Source: upstream's `dropped_requests_tracker.go`.
#[derive(Debug)]
pub(super) struct RetryAfter {
    seconds: u64,
    raised_at: u64,
    current: u64,
    current_count: u64,
    /// Ended seconds and how many were turned away in them.
    history: VecDeque<(u64, u64)>,
}

impl Default for RetryAfter {
    fn default() -> RetryAfter {
        RetryAfter { seconds: 1, raised_at: 0, current: 0, current_count: 0, history: VecDeque::new() }
    }
}

impl RetryAfter {
    /// One more was turned away in this second; how many seconds it is told to wait.
    pub(super) fn rejected(&mut self, second: u64) -> u64 {
        if second == self.current {
            self.current_count += 1;
            return self.seconds;
        }
        self.history.push_back((self.current, self.current_count));
        let keep = (2 * self.seconds).min(LONGEST);
        while self.history.front().is_some_and(|(old, _)| second.saturating_sub(*old) > keep) {
            self.history.pop_front();
        }
        self.current = second;
        self.current_count = 1;
        self.adjust(second);
        self.seconds
    }

    fn adjust(&mut self, second: u64) {
        let recent = self.history.iter().filter(|(old, _)| second.saturating_sub(*old) <= self.seconds);
        let dropped: u64 = recent.map(|(_, count)| count).sum();
        if second.saturating_sub(self.raised_at) >= self.seconds && dropped >= 3 * self.seconds {
            self.seconds = (self.seconds * 2).min(LONGEST);
            self.raised_at = second;
        } else if dropped < self.seconds && self.seconds > 1 {
            self.seconds -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::request;

    #[track_caller]
    fn check(uri: &str, objects: u64, expected: u64) {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let info = request::parse(&Method::GET, path, query);
        let stored = Stored { objects, bytes_each: 4_000 };
        assert_eq!(width(&info, &Query::parse(query), stored, 10), expected, "{uri}");
    }

    #[test]
    fn lists_are_as_wide_as_they_are_long() {
        check("/api/v1/pods", 10_000, 10);
        check("/api/v1/pods", 100, 4);
        check("/api/v1/pods", 1, 1);
        check("/api/v1/pods", 0, 1);
        check("/api/v1/pods?limit=1", 10_000, 1);
        // What is sent whole is as wide as that, whatever the limit.
        check("/api/v1/pods?limit=1&resourceVersion=0", 10_000, 10);
        check("/api/v1/pods?limit=1&resourceVersion=0&continue=", 10_000, 10);
        check("/api/v1/pods?limit=1&resourceVersion=0&continue=a", 10_000, 1);
        check("/api/v1/pods?limit=1&watch=1", 10_000, 10);
        check("/api/v1/pods?limit=50", 10_000, 2);
        check("/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Db", 10_000, 1);
        check("/api/v1/namespaces/a/pods/b", 10_000, 1);
        check("/api/v1/pods?watch=1&resourceVersion=7", 10_000, 1);
        check("/api/v1/pods?watch=1", 10_000, 10);
        check("/api/v1/pods?watch=1&resourceVersion=7&sendInitialEvents=true", 10_000, 10);
    }

    #[test]
    fn the_widest_leaves_seats_for_others() {
        for (nominal, hand, expected) in [(5, 6, 1), (15, 6, 2), (74, 6, 12), (245, 6, 37), (245, 1, 37)] {
            assert_eq!(widest(nominal, hand), expected, "{nominal} {hand}");
        }
    }

    #[test]
    fn the_wait_grows_under_pressure_and_shrinks_after_it() {
        let mut retry = RetryAfter::default();
        let mut told = Vec::new();
        for second in 100..140 {
            for _ in 0..200 {
                retry.rejected(second);
            }
            told.push(retry.seconds);
        }
        assert!(told.windows(2).all(|pair| pair[0] <= pair[1]), "{told:?}");
        assert_eq!(told.last(), Some(&LONGEST));
        let mut last = LONGEST;
        for second in (200..600).step_by(10) {
            last = retry.rejected(second);
        }
        assert_eq!(last, 1);
        assert_eq!(RetryAfter::default().rejected(7), 1);
    }
}
