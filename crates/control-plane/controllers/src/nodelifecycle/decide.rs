//! What one node needs next.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeStatus, Taint};

use super::status;
use crate::clock;
use crate::nodes::{self, NO_EXECUTE, NO_SCHEDULE};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Labels that a node has under a stable and an older name; the older one follows. Source: upstream's `labelReconcileInfo`.
const OLDER_LABELS: [(&str, &str); 2] =
    [("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")];

/// Condition, its status, and the taint that it means.
const TAINTS_OF_CONDITIONS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];

/// How fast pods are evicted from lost nodes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Time between two nodes of one failure domain while most are well; `None` for never. Source: `--node-eviction-rate` of
    /// 0.1 a second.
    pub interval: Option<Duration>,
    /// The same when many are not, in a domain of more than [`Self::large_zone`] nodes; smaller ones stop altogether. Source:
    /// `--secondary-node-eviction-rate` of 0.01 a second.
    pub secondary_interval: Option<Duration>,
    /// Source: `--large-cluster-size-threshold`.
    pub large_zone: usize,
    /// From which part of the nodes on a domain is in trouble. Source: `--unhealthy-zone-threshold`.
    pub unhealthy: f64,
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            interval: Some(Duration::from_secs(10)),
            secondary_interval: Some(Duration::from_secs(100)),
            large_zone: 50,
            unhealthy: 0.55,
        }
    }
}

/// How a failure domain fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ZoneState {
    Normal,
    PartialDisruption,
    FullDisruption,
}

/// Judges a failure domain by its nodes.
pub(crate) fn zone_state(ready: usize, not_ready: usize, rates: &Rates) -> ZoneState {
    match (ready, not_ready) {
        (0, 1..) => ZoneState::FullDisruption,
        (_, 3..) if not_ready as f64 >= rates.unhealthy * (ready + not_ready) as f64 => {
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
    fn next_eviction(&self, rates: &Rates) -> Option<Timestamp> {
        let interval = match self.state {
            _ if self.all_dark => None,
            ZoneState::Normal | ZoneState::FullDisruption => rates.interval,
            ZoneState::PartialDisruption if self.nodes > rates.large_zone => rates.secondary_interval,
            ZoneState::PartialDisruption => None,
        }?;
        Some(
            self.last_eviction
                .map_or(Timestamp::MIN, |last| last.saturating_add(interval).unwrap_or(Timestamp::MAX)),
        )
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
    pub(crate) rates: Rates,
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
    /// Labels to set.
    pub(crate) labels: BTreeMap<&'static str, String>,
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
    decision.labels = older_labels(seen.node);
    let mut taints = scheduling_taints(seen.node, now);
    if let Some(moment) = execution_taints(seen, readiness, &mut taints, &mut decision.evicts, now) {
        decision.next_check = Some(decision.next_check.map_or(moment, |check| check.min(moment)));
    }
    if taints != nodes::taints(seen.node) {
        decision.taints = Some(taints);
    }
    decision
}

/// The older names of labels whose value there is missing or another.
fn older_labels(node: &Node) -> BTreeMap<&'static str, String> {
    let labels = node.metadata.labels.as_ref();
    let value = |name: &str| labels.and_then(|labels| labels.get(name));
    OLDER_LABELS
        .into_iter()
        .filter_map(|(stable, older)| Some((older, value(stable)?)))
        .filter(|(older, wanted)| value(older) != Some(wanted))
        .map(|(older, wanted)| (older, wanted.clone()))
        .collect()
}

/// The node's taints with those that keep new pods away brought in line with its conditions.
fn scheduling_taints(node: &Node, now: Timestamp) -> Vec<Taint> {
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
            taints.push(taint(key, NO_SCHEDULE, now));
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
        let next = seen.zone.next_eviction(&seen.rates)?;
        if next > now {
            return Some(next);
        }
        *evicts = true;
    }
    taints.retain(|taint| !is(taint, other));
    taints.push(taint(wanted, NO_EXECUTE, now));
    None
}

fn taint(key: &str, effect: &str, now: Timestamp) -> Taint {
    let time_added = Some(clock::time(now));
    Taint { key: key.to_owned(), effect: effect.to_owned(), time_added, value: None }
}
