//! Exponential back-off per key, with upstream's rules: the delay doubles with each failure and is
//! forgotten after twice its limit without one.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;

/// Delays by key. The caller says what time it is.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    initial: Duration,
    limit: Duration,
    entries: HashMap<String, Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    delay: Duration,
    updated: Timestamp,
}

impl Backoff {
    /// Delays from `initial`, doubling up to `limit`.
    pub(crate) fn new(initial: Duration, limit: Duration) -> Self {
        Self { initial, limit, entries: HashMap::new() }
    }

    /// How much longer to wait after something that happened at `since`, and the whole delay; None if
    /// the next try may be now.
    pub(crate) fn waiting_since(
        &self,
        key: &str,
        since: Timestamp,
        now: Timestamp,
    ) -> Option<(Duration, Duration)> {
        let entry = self.entries.get(key)?;
        if self.expired(entry, since) {
            return None;
        }
        let passed = elapsed(since, now);
        (passed < entry.delay).then(|| (entry.delay - passed, entry.delay))
    }

    /// As [`Self::waiting_since`], counted from the last failure noted.
    pub(crate) fn waiting(&self, key: &str, now: Timestamp) -> Option<(Duration, Duration)> {
        let entry = self.entries.get(key)?;
        let passed = elapsed(entry.updated, now);
        (passed < entry.delay).then(|| (entry.delay - passed, entry.delay))
    }

    /// Notes one more failure (or try): the next delay is twice the last, or the first one again if
    /// `at` is long after the last note.
    pub(crate) fn next(&mut self, key: &str, at: Timestamp, now: Timestamp) {
        let delay = match self.entries.get(key) {
            Some(entry) if !self.expired(entry, at) => (entry.delay * 2).min(self.limit),
            _ => self.initial,
        };
        self.entries.insert(key.to_owned(), Entry { delay, updated: now });
    }

    /// Forgets every key that starts so.
    pub(crate) fn forget_prefix(&mut self, prefix: &str) {
        self.entries.retain(|key, _| !key.starts_with(prefix));
    }

    fn expired(&self, entry: &Entry, at: Timestamp) -> bool {
        elapsed(entry.updated, at) > self.limit * 2
    }
}

/// Time from one moment to another, zero if it is the other way round.
pub(crate) fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or(Duration::ZERO)
}

/// A delay as Go prints it: `10s`, `2m40s`, `5m0s`.
pub(crate) fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (hours, minutes) = (millis / 3_600_000, millis / 60_000 % 60);
    let (seconds, rest) = (millis / 1000 % 60, millis % 1000);
    if millis == 0 {
        return "0s".to_owned();
    }
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let fraction =
        if rest == 0 { String::new() } else { format!(".{rest:03}").trim_end_matches('0').to_owned() };
    match (hours, minutes) {
        (0, 0) => format!("{seconds}{fraction}s"),
        (0, _) => format!("{minutes}m{seconds}{fraction}s"),
        _ => format!("{hours}h{minutes}m{seconds}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn doubles_up_to_the_limit_and_forgets() {
        let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
        assert_eq!(backoff.waiting_since("a", at(0), at(0)), None, "the first restart is at once");
        let mut seen = Vec::new();
        let mut now = 0;
        for _ in 0..7 {
            backoff.next("a", at(now), at(now));
            let (left, delay) = backoff.waiting_since("a", at(now), at(now)).unwrap();
            assert_eq!(left, delay);
            seen.push(delay.as_secs());
            assert!(
                backoff
                    .waiting_since("a", at(now), at(now + i64::try_from(delay.as_secs()).unwrap()))
                    .is_none()
            );
            now += i64::try_from(delay.as_secs()).unwrap();
        }
        assert_eq!(seen, [10, 20, 40, 80, 160, 300, 300]);
        backoff.next("a", at(now + 700), at(now + 700));
        assert_eq!(
            backoff.waiting("a", at(now + 700)).unwrap().1.as_secs(),
            10,
            "ten quiet minutes reset it"
        );
    }

    #[test]
    fn forgets_a_pods_keys_only() {
        let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
        for key in ["uid1/a", "uid1/b", "uid2/a"] {
            backoff.next(key, at(0), at(0));
        }
        backoff.forget_prefix("uid1/");
        assert!(backoff.waiting("uid1/a", at(1)).is_none() && backoff.waiting("uid2/a", at(1)).is_some());
    }

    #[test]
    fn durations_read_as_go_prints_them() {
        for (millis, text) in [
            (0, "0s"),
            (15, "15ms"),
            (10_000, "10s"),
            (160_000, "2m40s"),
            (300_000, "5m0s"),
            (1_234, "1.234s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }
}
