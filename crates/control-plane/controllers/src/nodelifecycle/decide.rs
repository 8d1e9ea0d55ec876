//! What one node needs next.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeStatus, Taint};

use super::status;
use crate::clock;
use crate::nodes::{self, NO_EXECUTE, NO_SCHEDULE};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Condition, its status, and the taint that it means.
const TAINTS_OF_CONDITIONS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// Nodes tainted per second and failure domain when most are well. Source: `--node-eviction-rate` of 0.1.
const EVICTION_INTERVAL: i64 = 10;
/// The same when many are not, in a domain of more than [`LARGE_ZONE`] nodes; smaller ones stop altogether.
const SECONDARY_EVICTION_INTERVAL: i64 = 100;
/// Source: `--large-cluster-size-threshold`.
const LARGE_ZONE: usize = 50;
/// Source: `--unhealthy-zone-threshold`, in percent.
const UNHEALTHY_PERCENT: usize = 55;

/// How a failure domain fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ZoneState {
    Normal,
    PartialDisruption,
    FullDisruption,
}

/// Judges a failure domain by its nodes.
pub(crate) fn zone_state(ready: usize, not_ready: usize) -> ZoneState {
    match (ready, not_ready) {
        (0, 1..) => ZoneState::FullDisruption,
        (_, 3..) if not_ready * 100 >= UNHEALTHY_PERCENT * (ready + not_ready) => {
            ZoneState::PartialDisruption
        }
        _ => ZoneState::Normal,
    }
}

/// The node's failure domain, and whether every domain is dark.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zone {
    pub(crate) state: ZoneState,
    pub(crate) nodes: usize,
    /// Not one node of the cluster is ready: the trouble is more likely here than there.
    pub(crate) all_dark: bool,
    /// When a node of it was last tainted.
    pub(crate) last_eviction: Option<Timestamp>,
}

impl Zone {
    /// When the next node may be tainted; `None` for not until things change.
    fn next_eviction(&self) -> Option<Timestamp> {
        let interval = match self.state {
            _ if self.all_dark => return None,
            ZoneState::Normal | ZoneState::FullDisruption => EVICTION_INTERVAL,
            ZoneState::PartialDisruption if self.nodes > LARGE_ZONE => SECONDARY_EVICTION_INTERVAL,
            ZoneState::PartialDisruption => return None,
        };
        Some(self.last_eviction.map_or(Timestamp::MIN, |last| clock::after(last, interval)))
    }
}

/// What is known of one node.
#[derive(Debug)]
pub(crate) struct Observed<'a> {
    pub(crate) node: &'a Node,
    /// When it last gave a sign of life.
    pub(crate) last_sign: Timestamp,
    /// How long it may be silent.
    pub(crate) grace: Duration,
    pub(crate) zone: Zone,
}

/// To be carried out in this order. After a change of status the rest waits for the next look.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decision {
    /// The new status, when the node has gone silent.
    pub(crate) status: Option<NodeStatus>,
    /// Whether that is a change from ready.
    pub(crate) lost: bool,
    /// Its pods cannot be vouched for.
    pub(crate) pods_not_ready: bool,
    /// All taints, when they are others.
    pub(crate) taints: Option<Vec<Taint>>,
    /// Whether pods are to be evicted that were not before.
    pub(crate) evicts: bool,
    /// When to look again although nothing happens.
    pub(crate) next_check: Option<Timestamp>,
}

/// Chooses what one node needs next. No I/O.
pub(crate) fn decide(seen: &Observed<'_>, now: Timestamp) -> Decision {
    let due = seen.last_sign + seen.grace;
    let mut decision = Decision::default();
    if now > due {
        decision.status = status::silent(seen.node, now);
        decision.lost = decision.status.is_some() && nodes::is_ready(seen.node);
    } else {
        // One second late, since it is late only after its time.
        decision.next_check = Some(clock::after(due, 1));
    }
    let readiness = status::readiness(seen.node);
    decision.pods_not_ready = readiness == "Unknown";
    if decision.status.is_some() {
        return decision;
    }
    let mut taints = scheduling_taints(seen.node);
    if let Some(moment) = execution_taints(seen, readiness, &mut taints, &mut decision.evicts, now) {
        decision.next_check = Some(decision.next_check.map_or(moment, |check| check.min(moment)));
    }
    if taints != nodes::taints(seen.node) {
        decision.taints = Some(taints);
    }
    decision
}

/// The node's taints with those that keep new pods away brought in line with its conditions.
fn scheduling_taints(node: &Node) -> Vec<Taint> {
    let mut wanted: Vec<&str> = TAINTS_OF_CONDITIONS
        .into_iter()
        .filter(|(type_, status, _)| nodes::condition(node, type_).is_some_and(|it| it.status == *status))
        .map(|(_, _, key)| key)
        .collect();
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push(UNSCHEDULABLE);
    }
    let ours = |taint: &Taint| {
        let known = TAINTS_OF_CONDITIONS.iter().map(|(_, _, key)| *key).chain([UNSCHEDULABLE]);
        taint.effect == NO_SCHEDULE && known.into_iter().any(|key| key == taint.key)
    };
    let mut taints: Vec<Taint> = nodes::taints(node).to_vec();
    taints.retain(|taint| !ours(taint) || wanted.contains(&taint.key.as_str()));
    for key in wanted {
        if !taints.iter().any(|taint| ours(taint) && taint.key == key) {
            taints.push(Taint { key: key.to_owned(), effect: NO_SCHEDULE.to_owned(), ..Taint::default() });
        }
    }
    taints
}

/// Brings the taints that end pods in line with readiness. Returns when to look again, if the rate forbids it now.
fn execution_taints(
    seen: &Observed<'_>,
    readiness: &str,
    taints: &mut Vec<Taint>,
    evicts: &mut bool,
    now: Timestamp,
) -> Option<Timestamp> {
    let is = |taint: &Taint, key: &str| taint.effect == NO_EXECUTE && taint.key == key;
    let wanted = match readiness {
        "False" => NOT_READY,
        "Unknown" => UNREACHABLE,
        "True" => {
            taints.retain(|taint| !is(taint, NOT_READY) && !is(taint, UNREACHABLE));
            return None;
        }
        // A node whose kubelet has not spoken yet.
        _ => return None,
    };
    if seen.zone.all_dark {
        taints.retain(|taint| !is(taint, NOT_READY) && !is(taint, UNREACHABLE));
        return None;
    }
    if taints.iter().any(|taint| is(taint, wanted)) {
        return None;
    }
    let other = if wanted == NOT_READY { UNREACHABLE } else { NOT_READY };
    let swaps = taints.iter().any(|taint| is(taint, other));
    if !swaps {
        let next = seen.zone.next_eviction()?;
        if next > now {
            return Some(next);
        }
        *evicts = true;
    }
    taints.retain(|taint| !is(taint, other));
    taints.push(Taint {
        key: wanted.to_owned(),
        effect: NO_EXECUTE.to_owned(),
        time_added: Some(clock::time(now)),
        value: None,
    });
    None
}
