//! How the failure domains fare, kept up to date node by node: in a large outage nobody can afford to look at all nodes for
//! each of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::decide::{Rates, ZoneState, zone_state};
use crate::metrics;

/// A node's part in its failure domain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Standing {
    zone: String,
    ready: bool,
    /// Left out when domains are judged.
    excluded: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    ready: usize,
    not_ready: usize,
    /// All that are registered, the excluded ones too.
    registered: usize,
}

/// How one failure domain fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fares {
    pub(crate) state: ZoneState,
    pub(crate) nodes: usize,
    /// Not one node of any domain is ready.
    pub(crate) all_dark: bool,
}

/// All failure domains.
#[derive(Debug, Default)]
pub(crate) struct Zones {
    rates: Rates,
    nodes: HashMap<String, Standing>,
    zones: BTreeMap<String, Counts>,
}

impl Zones {
    pub(crate) fn new(rates: Rates) -> Self {
        Self { rates, ..Self::default() }
    }

    /// Takes over the state of a node. Returns the nodes that are not ready and for which something is different now.
    pub(crate) fn put(&mut self, node: &str, zone: String, ready: bool, excluded: bool) -> Vec<String> {
        self.replace(node, Some(Standing { zone, ready, excluded }))
    }

    /// Forgets a node. Returns as [`Self::put`].
    pub(crate) fn remove(&mut self, node: &str) -> Vec<String> {
        self.replace(node, None)
    }

    fn replace(&mut self, node: &str, new: Option<Standing>) -> Vec<String> {
        let old = self.nodes.get(node).cloned();
        if old == new {
            return Vec::new();
        }
        let concerned: BTreeSet<String> =
            old.iter().chain(&new).map(|standing| standing.zone.clone()).collect();
        let before: Vec<Fares> = concerned.iter().map(|zone| self.fares(zone)).collect();
        if let Some(old) = &old {
            count(&mut self.zones, old, false);
            self.nodes.remove(node);
        }
        if let Some(new) = new {
            count(&mut self.zones, &new, true);
            self.nodes.insert(node.to_owned(), new);
        }
        let after = concerned.iter().map(|zone| self.fares(zone));
        let changed: Vec<(&String, Fares, Fares)> = concerned
            .iter()
            .zip(before)
            .zip(after)
            .filter(|((_, before), after)| self.judged(before) != self.judged(after))
            .map(|((zone, before), after)| (zone, before, after))
            .collect();
        let everywhere = changed.iter().any(|(_, before, after)| before.all_dark != after.all_dark);
        let is_concerned =
            |standing: &Standing| everywhere || changed.iter().any(|(zone, ..)| **zone == standing.zone);
        let lost = self.nodes.iter().filter(|(_, standing)| !standing.ready && is_concerned(standing));
        lost.map(|(name, _)| name.clone()).collect()
    }

    /// What of it decisions depend on.
    fn judged(&self, fares: &Fares) -> (ZoneState, bool, bool) {
        (fares.state, fares.nodes > self.rates.large_zone, fares.all_dark)
    }

    /// How a failure domain fares.
    pub(crate) fn fares(&self, zone: &str) -> Fares {
        let counts = self.zones.get(zone).copied().unwrap_or_default();
        let state = |counts: &Counts| zone_state(counts.ready, counts.not_ready, &self.rates);
        let all_dark = !self.zones.is_empty()
            && self.zones.values().all(|counts| state(counts) == ZoneState::FullDisruption);
        Fares { state: state(&counts), nodes: counts.ready + counts.not_ready, all_dark }
    }
}

fn count(zones: &mut BTreeMap<String, Counts>, standing: &Standing, more: bool) {
    let counts = zones.entry(standing.zone.clone()).or_default();
    let step = |count: &mut usize| *count = if more { *count + 1 } else { *count - 1 };
    step(&mut counts.registered);
    if !standing.excluded {
        step(if standing.ready { &mut counts.ready } else { &mut counts.not_ready });
    }
    metrics::zone(&standing.zone, counts.ready, counts.not_ready);
    if counts.registered == 0 {
        zones.remove(&standing.zone);
    }
}
