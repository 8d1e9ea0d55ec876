//! Rates with bursts: a bucket of tokens that fills evenly, as upstream's `flowcontrol.NewTokenBucketRateLimiter`.

use std::time::Duration;

use tokio::time::Instant;

/// A bucket that holds `burst` tokens at most and gains `per_second` of them; it begins full.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    per_second: f64,
    burst: f64,
    /// Below zero by what was promised to those who wait.
    tokens: f64,
    filled: Instant,
}

impl TokenBucket {
    /// None if there is no rate, which is no limit. A burst of zero would let nobody through: it counts as one.
    pub fn new(per_second: u32, burst: u32, now: Instant) -> Option<Self> {
        let burst = f64::from(burst.max(1));
        (per_second > 0).then(|| Self {
            per_second: f64::from(per_second),
            burst,
            tokens: burst,
            filled: now,
        })
    }

    fn fill(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.burst);
        self.filled = self.filled.max(now);
    }

    /// Takes a token if there is one.
    pub fn try_take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    /// Takes a token in advance: how long until it is there.
    pub fn reserve(&mut self, now: Instant) -> Duration {
        self.fill(now);
        self.tokens -= 1.0;
        Duration::from_secs_f64((-self.tokens).max(0.0) / self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(4, 2, start).unwrap();
        assert_eq!(
            [0, 0, 0].map(|at| bucket.try_take(start + Duration::from_millis(at))),
            [true, true, false]
        );
        // A quarter of a second makes one; ten seconds no more than the burst.
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(
            [250, 250, 10_000, 10_000, 10_000].map(|ms| bucket.try_take(at(ms))),
            [true, false, true, true, false]
        );
    }

    #[test]
    fn who_waits_is_told_how_long() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(2, 1, start).unwrap();
        assert_eq!([0, 0, 0].map(|_: u8| bucket.reserve(start).as_millis()), [0, 500, 1000]);
        assert_eq!(bucket.reserve(start + Duration::from_secs(1)).as_millis(), 500);
    }

    #[test]
    fn no_rate_is_no_limit() {
        assert!(TokenBucket::new(0, 5, Instant::now()).is_none());
        assert!(TokenBucket::new(1, 0, Instant::now()).unwrap().try_take(Instant::now()));
    }
}
