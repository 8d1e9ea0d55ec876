//! The time that decisions are given. Controllers never read the wall clock themselves.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Where "now" comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present moment.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that follows tokio's: with the runtime paused, time passes exactly when timers do.
#[derive(Clone, Copy, Debug)]
pub struct RuntimeClock {
    start: Timestamp,
    since: tokio::time::Instant,
}

impl RuntimeClock {
    /// Reads `start` now and moves on with the runtime's timers.
    #[must_use]
    pub fn starting_at(start: Timestamp) -> Self {
        Self { start, since: tokio::time::Instant::now() }
    }
}

impl Clock for RuntimeClock {
    fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.since.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.start.saturating_add(jiff::SignedDuration::from_millis(elapsed)).unwrap_or(Timestamp::MAX)
    }
}

/// The moment as a `Time` field: whole seconds, as the API keeps them.
pub(crate) fn time(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// The moment `seconds` after `from`.
pub(crate) fn after(from: Timestamp, seconds: i64) -> Timestamp {
    from.saturating_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// How long from `now` until `moment`; zero once it has passed.
pub(crate) fn until(moment: Timestamp, now: Timestamp) -> std::time::Duration {
    std::time::Duration::try_from(moment.duration_since(now)).unwrap_or_default()
}
