//! Where a pod's volumes let it go, and which volumes it gets there: upstream's VolumeBinding, VolumeZone and the part of
//! VolumeRestrictions that is about claims for one pod only. Pure.
//!
//! Absent: free capacity that CSI drivers publish, attach limits, and the old network disks that one pod may write to.

use std::collections::BTreeSet;
use std::sync::Arc;

use podium_client::ObjectKey;

use crate::affinity::{Labels, NodeTerm};
use crate::snapshot::NodeFacts;

/// What a pod's claims ask of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeNeeds {
    /// For each bound volume that is reachable from some nodes only: the terms of which one must match.
    pub bound: Vec<Vec<NodeTerm>>,
    /// For each label of a bound volume that says where it is: the label and its values.
    pub zones: Vec<(String, BTreeSet<String>)>,
    /// Some claim is bound to a volume that is not there.
    pub missing: bool,
    /// Claims that get their volume when the pod has a node, those that ask for least first.
    pub open: Vec<OpenClaim>,
    /// Names of claims that only one pod may use at a time.
    pub exclusive: Vec<String>,
}

/// A claim that waits for its first consumer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OpenClaim {
    /// Which claim.
    pub key: ObjectKey,
    /// Volumes that suit it, best first.
    pub volumes: Vec<Candidate>,
    /// Where a volume can be made for it; `None` when nobody makes any. No terms: anywhere.
    pub made: Option<Vec<Topology>>,
    /// A volume is being made for it on that node.
    pub selected_node: Option<String>,
}

/// A volume that suits a claim.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its name.
    pub name: Arc<str>,
    /// From where it can be reached: one of the terms must match. `None`: from anywhere.
    pub nodes: Option<Vec<NodeTerm>>,
}

/// Labels a node must have, each with one of these values.
pub type Topology = Vec<(String, BTreeSet<String>)>;

/// What is to happen to an open claim once the pod has a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It gets that volume.
    Volume {
        /// The claim.
        claim: ObjectKey,
        /// The volume's name.
        volume: Arc<str>,
    },
    /// A volume is made for it, reachable from the pod's node.
    Make {
        /// The claim.
        claim: ObjectKey,
    },
}

/// Why a node will not do. Several can hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unreachable {
    pub(crate) bound: bool,
    pub(crate) open: bool,
    pub(crate) missing: bool,
}

impl VolumeNeeds {
    /// What the open claims would get on that node.
    pub(crate) fn check(&self, node: &NodeFacts) -> Result<Vec<Choice>, Unreachable> {
        let bound = !self.bound.iter().all(|terms| reaches(terms, node));
        let choices = self.choose(node);
        match choices {
            Some(choices) if !bound && !self.missing => Ok(choices),
            choices => Err(Unreachable { bound, open: choices.is_none(), missing: self.missing }),
        }
    }

    fn choose(&self, node: &NodeFacts) -> Option<Vec<Choice>> {
        let mut taken: BTreeSet<&str> = BTreeSet::new();
        let mut choices = Vec::with_capacity(self.open.len());
        for open in &self.open {
            let claim = open.key.clone();
            if let Some(selected) = &open.selected_node {
                let here = *selected == *node.name && open.can_be_made(node);
                choices.push(here.then_some(Choice::Make { claim })?);
                continue;
            }
            let fits = |candidate: &&Candidate| {
                !taken.contains(&*candidate.name)
                    && candidate.nodes.as_ref().is_none_or(|terms| reaches(terms, node))
            };
            match open.volumes.iter().find(fits) {
                Some(candidate) => {
                    taken.insert(&candidate.name);
                    choices.push(Choice::Volume { claim, volume: candidate.name.clone() });
                }
                None => choices.push(open.can_be_made(node).then_some(Choice::Make { claim })?),
            }
        }
        Some(choices)
    }

    /// Whether the node is in a zone of every bound volume. Nodes that say nothing about zones are in all.
    pub(crate) fn is_in_zone(&self, labels: &Labels) -> bool {
        let speaks = ZONES.iter().any(|(old, new)| labels.contains_key(*old) || labels.contains_key(*new));
        !speaks
            || self.zones.iter().all(|(key, values)| zone(labels, key).is_some_and(|at| values.contains(at)))
    }
}

impl OpenClaim {
    fn can_be_made(&self, node: &NodeFacts) -> bool {
        let has = |(key, values): &(String, BTreeSet<String>)| {
            node.labels.get(key).is_some_and(|value| values.contains(value))
        };
        self.made
            .as_ref()
            .is_some_and(|terms| terms.is_empty() || terms.iter().any(|term| term.iter().all(has)))
    }
}

fn reaches(terms: &[NodeTerm], node: &NodeFacts) -> bool {
    terms.iter().any(|term| term.matches(&node.name, &node.labels))
}

/// Labels that say where something is, in their older form and in the one that took its place.
const ZONES: [(&str, &str); 2] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
];

/// A node's value of a label of a volume; one in the older form may stand on the node in the newer.
fn zone<'a>(labels: &'a Labels, key: &str) -> Option<&'a str> {
    let newer = ZONES.iter().find(|(old, _)| *old == key).map_or(key, |(_, new)| new);
    labels.get(key).or_else(|| labels.get(newer)).map(String::as_str)
}

/// Where the labels of a bound volume say it is.
pub(crate) fn zones_of(labels: &Labels) -> impl Iterator<Item = (String, BTreeSet<String>)> {
    let said = labels.iter().filter(|(key, _)| ZONES.iter().any(|(old, new)| key == old || key == new));
    said.map(|(key, value)| (key.clone(), value.split("__").map(|part| part.trim().to_owned()).collect()))
}
