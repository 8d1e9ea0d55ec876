//! Affinity between pods: required terms as a filter, preferred ones as a score.

use std::collections::HashMap;

use crate::affinity::{NamespaceLabels, PodAffinity, PodTerm};
use crate::pod::PodInfo;
use crate::snapshot::{NodeFacts, Snapshot};

/// How much it counts that a pod meets another's *required* affinity, when scoring. Upstream's default.
const HARD_AFFINITY_WEIGHT: i64 = 1;

/// Pods by topology: label, then value.
type Domains = HashMap<(String, String), i64, ahash::RandomState>;

fn count(domains: &mut Domains, term: &PodTerm, node: &NodeFacts, by: i64) {
    if let Some(value) = node.labels.get(&term.topology_key) {
        *domains.entry((term.topology_key.clone(), value.clone())).or_insert(0) += by;
    }
}

fn counted(domains: &Domains, term: &PodTerm, node: &NodeFacts) -> Option<i64> {
    let value = node.labels.get(&term.topology_key)?;
    // A borrowed pair cannot look up an owned one; terms are few and this runs only for pods with terms.
    Some(domains.get(&(term.topology_key.clone(), value.clone())).copied().unwrap_or(0))
}

/// What a pod and the pods there are require of each other.
#[derive(Clone)]
pub(crate) struct AffinityFilter<'a> {
    pod: &'a PodInfo,
    namespaces: NamespaceLabels<'a>,
    /// Domains with pods that meet all of the pod's required terms.
    wanted: Domains,
    /// Domains with pods the pod must be away from.
    unwanted: Domains,
    /// Domains with pods that must be away from the pod.
    unwanting: Domains,
}

/// Why a node is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AffinityRefusal {
    /// The pods it must be with are not there.
    Affinity,
    /// Pods it must be away from are there.
    AntiAffinity,
    /// Pods that must be away from it are there.
    ExistingAntiAffinity,
}

impl std::fmt::Debug for AffinityFilter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AffinityFilter")
            .field("wanted", &self.wanted)
            .field("unwanted", &self.unwanted)
            .field("unwanting", &self.unwanting)
            .finish_non_exhaustive()
    }
}

impl<'a> AffinityFilter<'a> {
    /// `None` when neither the pod nor any pod there is requires anything of the other.
    pub(crate) fn new(
        pod: &'a PodInfo,
        snapshot: &Snapshot,
        namespaces: NamespaceLabels<'a>,
    ) -> Option<Self> {
        let mut filter = Self {
            pod,
            namespaces,
            wanted: Domains::default(),
            unwanted: Domains::default(),
            unwanting: Domains::default(),
        };
        let has_own = filter.own().is_some();
        for node in snapshot.nodes() {
            if has_own {
                for other in &node.pods {
                    filter.shift(other, &node.facts, 1);
                }
            } else if node.with_required_anti > 0 {
                for other in node.pods.iter().filter(|other| other.pod_affinity.is_some()) {
                    filter.shift(other, &node.facts, 1);
                }
            }
        }
        (has_own || !filter.unwanting.is_empty()).then_some(filter)
    }

    fn own(&self) -> Option<&'a PodAffinity> {
        let affinity = self.pod.pod_affinity.as_deref()?;
        (!affinity.required.is_empty() || !affinity.required_anti.is_empty()).then_some(affinity)
    }

    fn meets_all(&self, terms: &[PodTerm], other: &PodInfo) -> bool {
        !terms.is_empty()
            && terms.iter().all(|term| term.matches(&other.key.namespace, &other.labels, self.namespaces))
    }

    /// As if `other` were put on (`+1`) or taken off (`-1`) the node.
    pub(crate) fn shift(&mut self, other: &PodInfo, node: &NodeFacts, by: i64) {
        if let Some(own) = self.own() {
            if self.meets_all(&own.required, other) {
                for term in &own.required {
                    count(&mut self.wanted, term, node, by);
                }
            }
            for term in &own.required_anti {
                if term.matches(&other.key.namespace, &other.labels, self.namespaces) {
                    count(&mut self.unwanted, term, node, by);
                }
            }
        }
        if let Some(theirs) = &other.pod_affinity {
            for term in &theirs.required_anti {
                if term.matches(&self.pod.key.namespace, &self.pod.labels, self.namespaces) {
                    count(&mut self.unwanting, term, node, by);
                }
            }
        }
    }

    pub(crate) fn check(&self, node: &NodeFacts) -> Result<(), AffinityRefusal> {
        if let Some(own) = self.own() {
            if !self.finds_company(own, node) {
                return Err(AffinityRefusal::Affinity);
            }
            if own.required_anti.iter().any(|term| counted(&self.unwanted, term, node) > Some(0)) {
                return Err(AffinityRefusal::AntiAffinity);
            }
        }
        let unwanting = |((key, value), count): (&(String, String), &i64)| {
            *count > 0 && node.labels.get(key) == Some(value)
        };
        if self.unwanting.iter().any(unwanting) {
            return Err(AffinityRefusal::ExistingAntiAffinity);
        }
        Ok(())
    }

    fn finds_company(&self, own: &PodAffinity, node: &NodeFacts) -> bool {
        let mut all_there = true;
        for term in &own.required {
            match counted(&self.wanted, term, node) {
                None => return false,
                Some(pods) => all_there &= pods > 0,
            }
        }
        // The first of a group that wants to be together has nobody to join but may start.
        all_there || (self.wanted.values().all(|pods| *pods <= 0) && self.meets_all(&own.required, self.pod))
    }
}

/// Scores nodes by preferred affinity of the pod and of the pods there are, 0 to 100, and adds
/// `weight` times the score to `totals`.
pub(crate) fn score(
    pod: &PodInfo,
    snapshot: &Snapshot,
    namespaces: NamespaceLabels<'_>,
    feasible: &[usize],
    weight: i64,
    totals: &mut [i64],
) {
    let own = pod
        .pod_affinity
        .as_deref()
        .filter(|affinity| !affinity.preferred.is_empty() || !affinity.preferred_anti.is_empty());
    let mut domains = Domains::default();
    for node in snapshot.nodes() {
        if own.is_none() && node.with_affinity == 0 {
            continue;
        }
        for other in &node.pods {
            if let Some(own) = own {
                let met = |term: &PodTerm| term.matches(&other.key.namespace, &other.labels, namespaces);
                for (weight, term) in own.preferred.iter().filter(|(_, term)| met(term)) {
                    count(&mut domains, term, &node.facts, *weight);
                }
                for (weight, term) in own.preferred_anti.iter().filter(|(_, term)| met(term)) {
                    count(&mut domains, term, &node.facts, -weight);
                }
            }
            let Some(theirs) = &other.pod_affinity else { continue };
            let meets = |term: &PodTerm| term.matches(&pod.key.namespace, &pod.labels, namespaces);
            for term in theirs.required.iter().filter(|term| meets(term)) {
                count(&mut domains, term, &node.facts, HARD_AFFINITY_WEIGHT);
            }
            for (weight, term) in theirs.preferred.iter().filter(|(_, term)| meets(term)) {
                count(&mut domains, term, &node.facts, *weight);
            }
            for (weight, term) in theirs.preferred_anti.iter().filter(|(_, term)| meets(term)) {
                count(&mut domains, term, &node.facts, -weight);
            }
        }
    }
    if domains.is_empty() {
        return;
    }
    let raw: Vec<i64> = feasible
        .iter()
        .map(|at| {
            let labels = &snapshot.nodes()[*at].facts.labels;
            domains
                .iter()
                .filter(|((key, value), _)| labels.get(key) == Some(value))
                .map(|(_, score)| score)
                .sum()
        })
        .collect();
    let most = raw.iter().max().copied().unwrap_or(0);
    let least = raw.iter().min().copied().unwrap_or(0);
    if most > least {
        for (total, raw) in totals.iter_mut().zip(raw) {
            *total += weight * ((100.0 * (raw - least) as f64 / (most - least) as f64) as i64);
        }
    }
}
