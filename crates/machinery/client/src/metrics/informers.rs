//! Counts what a process's named informers receive and have told.

use std::sync::Arc;

use super::{Family, Gauge, Histogram};
use crate::ResourcePath;

const LABELS: [&str; 4] = ["name", "group", "version", "resource"];

/// Source: `k8s.io/component-base/metrics/prometheus/clientgo/fifo`.
const SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

pub(super) static QUEUED: Family<Gauge, 4> = Family::new(
    "informer_queued_items",
    "[ALPHA] Changes that were received and that no handler was told of yet.",
    LABELS,
    Gauge::default,
);

pub(super) static LATENCIES: Family<Histogram, 4> = Family::new(
    "informer_processing_latency_seconds",
    "[ALPHA] How long it took to keep a change and tell the handlers of it.",
    LABELS,
    || Histogram::new(SECONDS),
);

pub(super) static VERSIONS: Family<Gauge, 4> = Family::new(
    "informer_store_resource_version",
    "[ALPHA] The resourceVersion that the informer has reached: its last 15 digits.",
    LABELS,
    Gauge::default,
);

/// What one informer counts.
#[derive(Debug)]
pub(crate) struct Numbers {
    queued: Arc<Gauge>,
    /// How long a change took.
    pub(crate) latencies: Arc<Histogram>,
    version: Arc<Gauge>,
}

impl Numbers {
    /// Those of a resource, in a process whose informers have that name.
    pub(crate) fn of(name: &str, resource: &ResourcePath) -> Self {
        let ResourcePath { group, version, plural } = resource;
        let labels = [name, group, version, plural];
        Self {
            queued: QUEUED.with(labels),
            latencies: LATENCIES.with(labels),
            version: VERSIONS.with(labels),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "far fewer lines than 2^53 fit into memory")]
    pub(crate) fn queued(&self, changes: usize) {
        self.queued.set(changes as f64);
    }

    /// Tells of a resourceVersion; one that is not a number is not told, as upstream.
    #[expect(clippy::cast_precision_loss, reason = "15 digits are less than 2^53")]
    pub(crate) fn reached(&self, resource_version: &str) {
        let start = resource_version.len().saturating_sub(15);
        if let Some(Ok(digits)) = resource_version.get(start..).map(str::parse::<u64>) {
            self.version.set(digits as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_told_by_its_last_digits() {
        let resource = ResourcePath { group: "g".into(), version: "v1".into(), plural: "things".into() };
        let numbers = Numbers::of("versions", &resource);
        for (version, told) in [
            ("", 0.0),
            ("17", 17.0),
            ("1234567890123456789", 567_890_123_456_789.0),
            ("later", 567_890_123_456_789.0),
            ("é00000000000000", 567_890_123_456_789.0),
        ] {
            numbers.reached(version);
            let value = VERSIONS.with(["versions", "g", "v1", "things"]).value();
            assert!((value - told).abs() < 0.5, "{version}: {value}");
        }
    }
}
