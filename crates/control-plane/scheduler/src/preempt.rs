//! Preemption: when nothing fits, which pods of lower priority would have to go, and where that hurts
//! least. Only decides; the shell deletes.
//!
//! Follows upstream's default preemption (v1.36), except that disruption budgets are not looked at yet.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::filter::{Cycle, Rejection};
use crate::pod::PodInfo;
use crate::snapshot::{NodeInfo, Snapshot};

/// Upstream tries at least this many nodes,
const LEAST_CANDIDATES: usize = 100;
/// and at least this share of those that might do, before it takes the best.
const CANDIDATES_PERCENT: usize = 10;

/// Room that can be made.
#[derive(Clone, Debug)]
pub struct Preemption {
    /// Where.
    pub node: Arc<str>,
    /// Who has to go, most important first. Never empty.
    pub victims: Vec<Arc<PodInfo>>,
}

/// What came of looking for room.
#[derive(Clone, Debug)]
pub(crate) enum Attempt {
    Possible(Preemption),
    /// Why not, in upstream's words.
    Pointless(String),
}

/// Looks for a node where the pod would fit if pods of lower priority went. `rejections` are the nodes
/// that were refused (positions and why); nodes not among them were not considered and stay so.
/// `start` spreads the search over the nodes.
pub(crate) fn look(
    cycle: &Cycle<'_>,
    snapshot: &Snapshot,
    rejections: &[(usize, Rejection)],
    start: usize,
) -> Attempt {
    let pod = cycle.pod;
    if !pod.may_preempt {
        return Attempt::Pointless("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    if waits_for_victims(pod, snapshot, rejections) {
        return Attempt::Pointless("not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    let nodes = snapshot.nodes();
    let hopeful: Vec<usize> =
        rejections.iter().filter(|(_, why)| why.resolvable).map(|(at, _)| *at).collect();
    let enough = (hopeful.len() * CANDIDATES_PERCENT / 100).max(LEAST_CANDIDATES);
    let mut candidates: Vec<Preemption> = Vec::new();
    let mut histogram: BTreeMap<String, usize> = BTreeMap::new();
    let mut tried = 0;
    for offset in 0..hopeful.len() {
        let node = &nodes[hopeful[(start + offset) % hopeful.len()]];
        tried += 1;
        match victims_on(cycle, node, snapshot) {
            Ok(victims) => candidates.push(Preemption { node: node.facts.name.clone(), victims }),
            Err(None) => {
                *histogram.entry("No preemption victims found for incoming pod".to_owned()).or_insert(0) += 1;
            }
            Err(Some(why)) => why.tally(&mut histogram),
        }
        if candidates.len() >= enough {
            break;
        }
    }
    if let Some(best) = candidates.into_iter().min_by_key(pain) {
        return Attempt::Possible(best);
    }
    let rest = nodes.len() - tried;
    if rest > 0 {
        *histogram.entry("Preemption is not helpful for scheduling".to_owned()).or_insert(0) += rest;
    }
    Attempt::Pointless(crate::message::available(nodes.len(), None, &histogram, ""))
}

/// Room was made before and the pods that have to go for it are still going.
fn waits_for_victims(pod: &PodInfo, snapshot: &Snapshot, rejections: &[(usize, Rejection)]) -> bool {
    let Some(at) = pod.nominated_node.as_deref().and_then(|name| snapshot.position(name)) else {
        return false;
    };
    if rejections.iter().any(|(refused, why)| *refused == at && !why.resolvable) {
        return false;
    }
    let going = |other: &&Arc<PodInfo>| other.priority < pod.priority && other.terminating && other.preempted;
    snapshot.nodes()[at].pods.iter().any(|other| going(&other))
}

/// The fewest pods that have to leave the node, most important first. `Err(None)`: there is nobody of
/// lower priority; `Err(Some)`: it does not fit even then.
fn victims_on(
    cycle: &Cycle<'_>,
    node: &NodeInfo,
    snapshot: &Snapshot,
) -> Result<Vec<Arc<PodInfo>>, Option<Rejection>> {
    let mut lower: Vec<Arc<PodInfo>> =
        node.pods.iter().filter(|other| other.priority < cycle.pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err(None);
    }
    let mut cycle = cycle.fork();
    let mut left = node.clone();
    for other in &lower {
        left.remove(&other.uid);
        cycle.shift(other, node, -1);
    }
    cycle.check_with_nominated(&left, snapshot).map_err(Some)?;
    // The most important are let back in first.
    lower.sort_by_key(|other| (Reverse(other.priority), other.started, other.key.clone()));
    let mut victims = Vec::new();
    for other in lower {
        left.add(other.clone());
        cycle.shift(&other, node, 1);
        if cycle.check_with_nominated(&left, snapshot).is_err() {
            left.remove(&other.uid);
            cycle.shift(&other, node, -1);
            victims.push(other);
        }
    }
    // Everybody could come back only if the pod fits as it is, which it was found not to.
    if victims.is_empty() { Err(None) } else { Ok(victims) }
}

/// Orders by how much it hurts: the highest priority that has to go, the sum of priorities, the number
/// of pods, and then those that started latest go first.
fn pain(candidate: &Preemption) -> (i32, i64, usize, Reverse<Option<Timestamp>>) {
    let victims = &candidate.victims;
    let highest = victims.iter().map(|victim| victim.priority).max().unwrap_or(i32::MIN);
    // Shifted so that each further victim adds to the sum even when priorities are negative.
    let sum = victims.iter().map(|victim| i64::from(victim.priority) + i64::from(i32::MAX) + 1).sum();
    let of_highest = victims.iter().filter(|victim| victim.priority == highest);
    (highest, sum, victims.len(), Reverse(of_highest.filter_map(|victim| victim.started).min()))
}
