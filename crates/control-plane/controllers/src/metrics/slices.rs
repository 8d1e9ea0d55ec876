//! What is counted of EndpointSlices: those of Services, and those that mirror Endpoints.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use podium_client::ObjectKey;
use podium_client::metrics::{Collect, Counter, Family, Gauge, Histogram, exponential};

use super::DEFAULT_BOUNDS;
use crate::endpointslice::Counts;

/// From 2 to 32768 endpoints.
fn endpoints() -> Histogram {
    Histogram::new(const { &exponential::<15>(2.0, 2.0) })
}

static ADDED: Family<Histogram, 0> = Family::new(
    "endpoint_slice_controller_endpoints_added_per_sync",
    "[BETA] Number of endpoints added on each Service sync",
    [],
    endpoints,
);
static REMOVED: Family<Histogram, 0> = Family::new(
    "endpoint_slice_controller_endpoints_removed_per_sync",
    "[BETA] Number of endpoints removed on each Service sync",
    [],
    endpoints,
);
static ENDPOINTS: Family<Gauge, 0> = Family::new(
    "endpoint_slice_controller_endpoints_desired",
    "[BETA] Number of endpoints desired",
    [],
    Gauge::default,
);
static SLICES: Family<Gauge, 0> = Family::new(
    "endpoint_slice_controller_num_endpoint_slices",
    "[BETA] Number of EndpointSlices",
    [],
    Gauge::default,
);
static FEWEST: Family<Gauge, 0> = Family::new(
    "endpoint_slice_controller_desired_endpoint_slices",
    "[BETA] Number of EndpointSlices that would exist with perfect endpoint allocation",
    [],
    Gauge::default,
);
static BY_DISTRIBUTION: Family<Gauge, 1> = Family::new(
    "endpoint_slice_controller_services_count_by_traffic_distribution",
    "[BETA] Number of Services using some specific trafficDistribution",
    ["traffic_distribution"],
    Gauge::default,
);
pub(crate) static SLICE_SYNCS: Family<Counter, 1> = Family::new(
    "endpoint_slice_controller_syncs",
    "[ALPHA] Number of EndpointSlice syncs",
    ["result"],
    Counter::default,
);
static CHANGES: Family<Counter, 1> = Family::new(
    "endpoint_slice_controller_changes",
    "[ALPHA] Number of EndpointSlice changes",
    ["operation"],
    Counter::default,
);
static PER_SYNC: Family<Histogram, 2> = Family::new(
    "endpoint_slice_controller_endpointslices_changed_per_sync",
    "[ALPHA] Number of EndpointSlices changed on each Service sync",
    ["topology", "traffic_distribution"],
    || Histogram::new(&DEFAULT_BOUNDS),
);

static MIRROR_ADDED: Family<Histogram, 0> = Family::new(
    "endpoint_slice_mirroring_controller_endpoints_added_per_sync",
    "[ALPHA] Number of endpoints added on each Endpoints sync",
    [],
    endpoints,
);
static MIRROR_UPDATED: Family<Histogram, 0> = Family::new(
    "endpoint_slice_mirroring_controller_endpoints_updated_per_sync",
    "[ALPHA] Number of endpoints updated on each Endpoints sync",
    [],
    endpoints,
);
static MIRROR_REMOVED: Family<Histogram, 0> = Family::new(
    "endpoint_slice_mirroring_controller_endpoints_removed_per_sync",
    "[ALPHA] Number of endpoints removed on each Endpoints sync",
    [],
    endpoints,
);
static MIRROR_SKIPPED: Family<Histogram, 0> = Family::new(
    "endpoint_slice_mirroring_controller_addresses_skipped_per_sync",
    "[ALPHA] Number of addresses skipped on each Endpoints sync due to being invalid or exceeding MaxEndpointsPerSubset",
    [],
    endpoints,
);
static MIRROR_ENDPOINTS: Family<Gauge, 0> = Family::new(
    "endpoint_slice_mirroring_controller_endpoints_desired",
    "[ALPHA] Number of endpoints desired",
    [],
    Gauge::default,
);
static MIRROR_SLICES: Family<Gauge, 0> = Family::new(
    "endpoint_slice_mirroring_controller_num_endpoint_slices",
    "[ALPHA] Number of EndpointSlices",
    [],
    Gauge::default,
);
static MIRROR_FEWEST: Family<Gauge, 0> = Family::new(
    "endpoint_slice_mirroring_controller_desired_endpoint_slices",
    "[ALPHA] Number of EndpointSlices that would exist with perfect endpoint allocation",
    [],
    Gauge::default,
);
pub(crate) static MIRROR_CHANGES: Family<Counter, 1> = Family::new(
    "endpoint_slice_mirroring_controller_changes",
    "[ALPHA] Number of EndpointSlice changes",
    ["operation"],
    Counter::default,
);
pub(crate) static MIRROR_SECONDS: Family<Histogram, 0> = Family::new(
    "endpoint_slice_mirroring_controller_endpoints_sync_duration",
    "[ALPHA] Duration of syncEndpoints() in seconds",
    [],
    || Histogram::new(const { &exponential::<15>(0.001, 2.0) }),
);

pub(super) static ALL: [&dyn Collect; 18] = [
    &ADDED,
    &REMOVED,
    &ENDPOINTS,
    &SLICES,
    &FEWEST,
    &BY_DISTRIBUTION,
    &SLICE_SYNCS,
    &CHANGES,
    &PER_SYNC,
    &MIRROR_ADDED,
    &MIRROR_UPDATED,
    &MIRROR_REMOVED,
    &MIRROR_SKIPPED,
    &MIRROR_ENDPOINTS,
    &MIRROR_SLICES,
    &MIRROR_FEWEST,
    &MIRROR_CHANGES,
    &MIRROR_SECONDS,
];

/// Slices to be created, updated and deleted.
pub(crate) type Writes = [usize; 3];

fn count_changes(family: &Family<Counter, 1>, writes: Writes) {
    for (operation, count) in ["create", "update", "delete"].into_iter().zip(writes) {
        if count > 0 {
            family.with([operation]).add(count as u64);
        }
    }
}

/// Slices of a Service were written.
pub(crate) fn slices_changed(writes: Writes) {
    count_changes(&CHANGES, writes);
}

/// Mirrors were written.
pub(crate) fn mirrors_changed(writes: Writes) {
    count_changes(&MIRROR_CHANGES, writes);
}

/// What a Service's distribution counts as. `hints` says whether its annotation asks for them, which goes before it.
fn distribution_of(hints: bool, distribution: Option<&str>) -> Option<&'static str> {
    let known = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    known.into_iter().find(|known| !hints && distribution == Some(known))
}

/// One look at a Service went well.
pub(crate) fn service_synced(hints: bool, distribution: Option<&str>, changed: usize) {
    let topology = if hints { "Auto" } else { "Disabled" };
    let distribution = distribution_of(hints, distribution).unwrap_or_default();
    PER_SYNC.with([topology, distribution]).observe(changed as f64);
}

/// What all objects of a controller come to, kept up to date one by one.
#[derive(Debug, Default)]
pub(crate) struct Sizes(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    of: HashMap<ObjectKey, Size>,
    all: Size,
    /// How many have each distribution; one that none has any more stays, with none.
    by_distribution: BTreeMap<&'static str, usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    endpoints: usize,
    slices: usize,
    fewest: usize,
    distribution: Option<&'static str>,
}

impl Sizes {
    /// One look at a Service. Of both address types together, where upstream keeps those of the one looked at last.
    pub(crate) fn service(
        &self,
        key: &ObjectKey,
        counts: &[Counts],
        hints: bool,
        distribution: Option<&str>,
    ) {
        for counts in counts {
            ADDED.with([]).observe(counts.added as f64);
            REMOVED.with([]).observe(counts.removed as f64);
        }
        self.put(key, Size { distribution: distribution_of(hints, distribution), ..sum(counts) });
    }

    /// A Service is gone.
    pub(crate) fn no_service(&self, key: &ObjectKey) {
        self.remove(key, [&ENDPOINTS, &SLICES, &FEWEST]);
    }

    /// One look at Endpoints that are mirrored, of which so many addresses were left out.
    pub(crate) fn mirrored(&self, key: &ObjectKey, counts: &[Counts], skipped: usize) {
        let all = |of: fn(&Counts) -> usize| counts.iter().map(of).sum::<usize>() as f64;
        MIRROR_SKIPPED.with([]).observe(skipped as f64);
        MIRROR_ADDED.with([]).observe(all(|it| it.added));
        MIRROR_UPDATED.with([]).observe(all(|it| it.updated));
        MIRROR_REMOVED.with([]).observe(all(|it| it.removed));
        let mut known = self.0.lock();
        known.put(key, Some(sum(counts)));
        known.show([&MIRROR_ENDPOINTS, &MIRROR_SLICES, &MIRROR_FEWEST]);
    }

    /// Endpoints are mirrored no more.
    pub(crate) fn not_mirrored(&self, key: &ObjectKey) {
        self.remove(key, [&MIRROR_ENDPOINTS, &MIRROR_SLICES, &MIRROR_FEWEST]);
    }

    fn put(&self, key: &ObjectKey, size: Size) {
        let mut known = self.0.lock();
        known.put(key, Some(size));
        known.show([&ENDPOINTS, &SLICES, &FEWEST]);
    }

    fn remove(&self, key: &ObjectKey, gauges: [&Family<Gauge, 0>; 3]) {
        let mut known = self.0.lock();
        if known.of.contains_key(key) {
            known.put(key, None);
            known.show(gauges);
        }
    }
}

fn sum(counts: &[Counts]) -> Size {
    let all = |of: fn(&Counts) -> usize| counts.iter().map(of).sum();
    Size {
        endpoints: all(|it| it.endpoints),
        slices: all(|it| it.slices),
        fewest: all(|it| it.fewest),
        distribution: None,
    }
}

impl Known {
    fn put(&mut self, key: &ObjectKey, size: Option<Size>) {
        let old = match size {
            Some(size) => self.of.insert(key.clone(), size),
            None => self.of.remove(key),
        };
        let (old, new) = (old.unwrap_or_default(), size.unwrap_or_default());
        let all = &mut self.all;
        all.endpoints = all.endpoints + new.endpoints - old.endpoints;
        all.slices = all.slices + new.slices - old.slices;
        all.fewest = all.fewest + new.fewest - old.fewest;
        if let Some(distribution) = old.distribution {
            *self.by_distribution.entry(distribution).or_default() -= 1;
        }
        if let Some(distribution) = new.distribution {
            *self.by_distribution.entry(distribution).or_default() += 1;
        }
    }

    fn show(&self, [endpoints, slices, fewest]: [&Family<Gauge, 0>; 3]) {
        endpoints.with([]).set(self.all.endpoints as f64);
        slices.with([]).set(self.all.slices as f64);
        fewest.with([]).set(self.all.fewest as f64);
        for (distribution, count) in &self.by_distribution {
            BY_DISTRIBUTION.with([distribution]).set(*count as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(endpoints: usize, slices: usize, fewest: usize) -> Counts {
        Counts { endpoints, slices, fewest, ..Counts::default() }
    }

    /// Endpoints, slices, as few as there could be, and Services by distribution.
    fn totals(sizes: &Sizes) -> (usize, usize, usize, Vec<(&'static str, usize)>) {
        let known = sizes.0.lock();
        let by_distribution = known.by_distribution.iter().map(|(name, count)| (*name, *count)).collect();
        (known.all.endpoints, known.all.slices, known.all.fewest, by_distribution)
    }

    #[test]
    fn totals_follow_each_object() {
        let (sizes, close) = (Sizes::default(), Some("PreferClose"));
        let key = |name: &str| ObjectKey::new("ns", name);
        sizes.service(&key("a"), &[counts(150, 3, 2), counts(0, 1, 1)], false, close);
        sizes.service(&key("b"), &[counts(1, 1, 1)], false, Some("PreferSameNode"));
        assert_eq!(totals(&sizes), (151, 5, 4, vec![("PreferClose", 1), ("PreferSameNode", 1)]));
        sizes.service(&key("a"), &[counts(20, 1, 1)], false, Some("PreferSameNode"));
        assert_eq!(totals(&sizes), (21, 2, 2, vec![("PreferClose", 0), ("PreferSameNode", 2)]));
        // The annotation goes before, and what nobody knows is none.
        sizes.service(&key("a"), &[counts(20, 1, 1)], true, close);
        sizes.service(&key("b"), &[counts(1, 1, 1)], false, Some("PreferFar"));
        assert_eq!(totals(&sizes), (21, 2, 2, vec![("PreferClose", 0), ("PreferSameNode", 0)]));
        for gone in ["a", "a", "b"] {
            sizes.no_service(&key(gone));
        }
        assert_eq!(totals(&sizes), (0, 0, 0, vec![("PreferClose", 0), ("PreferSameNode", 0)]));
    }
}
