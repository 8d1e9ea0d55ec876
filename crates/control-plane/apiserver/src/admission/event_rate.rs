//! EventRateLimit: no namespace can fill the store with events. On by default, unlike upstream, with limits far above what
//! a healthy namespace writes: clients limit themselves per object long before.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use podium_api::status::ApiError;

use super::Request;
use crate::authorization::go_quote;

/// Events a namespace may write per second in the long run: several thousand pods scheduled per minute, with their events.
const PER_SECOND: f64 = 2_000.0;
/// Events it may write at once after a quiet time: a deployment of thousands of pods.
const BURST: f64 = 20_000.0;
/// Namespaces remembered; when full, those whose bucket has filled up again are forgotten, which changes nothing for them.
const MAX_NAMESPACES: usize = 4096;

/// A bucket of tokens per namespace.
#[derive(Debug, Default)]
pub(super) struct EventRate {
    buckets: Mutex<HashMap<String, Bucket, ahash::RandomState>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// Pure: the bucket after time has passed.
    fn at(self, now: Instant) -> Bucket {
        let passed = now.saturating_duration_since(self.filled);
        Bucket { tokens: (self.tokens + passed.as_secs_f64() * PER_SECOND).min(BURST), filled: now }
    }
}

impl EventRate {
    pub(super) fn check(&self, request: &Request<'_>, now: Instant) -> Result<(), ApiError> {
        let event = request.resource == "events" && matches!(request.group, "" | "events.k8s.io");
        if !event || request.dry_run {
            return Ok(());
        }
        let mut buckets = self.buckets.lock();
        if buckets.len() >= MAX_NAMESPACES {
            let whole = Duration::from_secs_f64(BURST / PER_SECOND);
            buckets.retain(|_, bucket| now.saturating_duration_since(bucket.filled) < whole);
        }
        let full = Bucket { tokens: BURST, filled: now };
        let bucket = buckets.entry(request.namespace.to_owned()).or_insert(full);
        *bucket = bucket.at(now);
        if bucket.tokens < 1.0 {
            let key = go_quote(request.namespace);
            return Err(ApiError {
                code: 429,
                reason: "TooManyRequests",
                message: format!("limit reached on type Namespace for key {key}"),
                details: Some(serde_json::json!({"retryAfterSeconds": 1})),
            });
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SECURITY.md, "Resource exhaustion".
    #[test]
    fn resource_exhaustion_events_are_limited_per_namespace() {
        let start = Instant::now();
        let empty = Bucket { tokens: 0.0, filled: start };
        assert!(empty.at(start).tokens < 1.0);
        assert!(empty.at(start + Duration::from_millis(1)).tokens >= 1.0);
        let full = empty.at(start + Duration::from_secs(3600));
        assert!((full.tokens - BURST).abs() < f64::EPSILON);
    }
}
