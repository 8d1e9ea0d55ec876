//! What one ReplicaSet needs next.

use std::cmp::{Ordering, Reverse};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::View;
use crate::children::Target;
use crate::labels::{self, Selector};
use crate::names::{self, NameSource};
use crate::owner::{self, Claim};
use crate::pods;

/// The most pods created or deleted by one reconcile. Source: `BurstReplicas`.
pub(crate) const BURST: usize = 500;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What the cache shows.
#[derive(Debug)]
pub(crate) struct Observed<'a> {
    /// The set itself.
    pub(crate) view: &'a View<'a>,
    /// Its selector, compiled.
    pub(crate) selector: &'a Selector,
    /// Every pod it controls and every pod of its namespace that nobody controls, in any order.
    pub(crate) pods: &'a [Arc<Pod>],
    /// Pods of all sets with the same controller, this one included; empty for a set on its own.
    pub(crate) related: &'a [Arc<Pod>],
    /// Uids of pods that this controller has deleted, whatever the cache says.
    pub(crate) deleted: &'a HashSet<String>,
    /// Whether the cache shows everything this controller has written for the set.
    pub(crate) caught_up: bool,
}

impl Decision {
    /// Counts the pods that have just been deleted as such.
    pub(crate) fn without(mut self, deleted: &HashSet<String>) -> Self {
        let before = self.active.len();
        self.active.retain(|pod| !deleted.contains(owner::uid(&pod.metadata)));
        self.terminating += before - self.active.len();
        self
    }
}

/// The change in the number of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// None: the number is right, the set is being deleted, or the cache lags.
    Keep,
    /// Create pods with these names.
    Create(Vec<String>),
    /// Delete these pods, the most dispensable first.
    Delete(Vec<Target>),
}

/// To be carried out in this order.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    /// Pods to take over.
    pub(crate) adopt: Vec<Target>,
    /// Pods to let go.
    pub(crate) release: Vec<Target>,
    /// Pods to make or unmake.
    pub(crate) scale: Scale,
    /// The pods that count once the claims above are made; the status is about these.
    pub(crate) active: Vec<Arc<Pod>>,
    /// How many of its pods are on their way out.
    pub(crate) terminating: usize,
    /// As in [`Observed`].
    pub(crate) caught_up: bool,
}

/// Chooses what one set needs next. No I/O; `now` only ranks pods by age.
pub(crate) fn decide(seen: &Observed<'_>, now: Timestamp, names: &dyn NameSource) -> Decision {
    let mut decision = Decision {
        adopt: Vec::new(),
        release: Vec::new(),
        scale: Scale::Keep,
        active: Vec::new(),
        terminating: 0,
        caught_up: seen.caught_up,
    };
    for pod in seen.pods {
        let claim = owner::claim(seen.view.meta, seen.selector, &pod.metadata);
        let deleted = seen.deleted.contains(owner::uid(&pod.metadata));
        if (deleted || pods::is_terminating(pod)) && !pods::is_finished(pod) {
            decision.terminating += usize::from(claim == Claim::Keep);
        }
        if deleted || !pods::is_active(pod) {
            continue;
        }
        match claim {
            Claim::Ignore => continue,
            Claim::Release => {
                decision.release.push(Target::of(pod));
                continue;
            }
            Claim::Adopt => decision.adopt.push(Target::of(pod)),
            Claim::Keep => {}
        }
        decision.active.push(Arc::clone(pod));
    }
    if seen.caught_up && seen.view.meta.deletion_timestamp.is_none() {
        decision.scale = scale(seen, &decision.active, now, names);
    }
    decision
}

fn scale(seen: &Observed<'_>, active: &[Arc<Pod>], now: Timestamp, names: &dyn NameSource) -> Scale {
    let wanted = usize::try_from(seen.view.replicas).unwrap_or_default();
    match active.len().cmp(&wanted) {
        Ordering::Equal => Scale::Keep,
        Ordering::Less => {
            let prefix = names::prefix(owner::name(seen.view.meta));
            let count = (wanted - active.len()).min(BURST);
            Scale::Create((0..count).map(|_| names::generate(&prefix, names)).collect())
        }
        Ordering::Greater => {
            let count = (active.len() - wanted).min(BURST);
            let ranked = dispensable_first(active, seen.view.min_ready_seconds, seen.related, now);
            Scale::Delete(ranked.iter().take(count).map(|pod| Target::of(pod)).collect())
        }
    }
}

/// The pods in the order in which they can best be done without.
pub(crate) fn dispensable_first(
    pods: &[Arc<Pod>],
    min_ready_seconds: i32,
    related: &[Arc<Pod>],
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    let crowds = crowds(related);
    let mut ranked = pods.to_vec();
    ranked.sort_by_cached_key(|pod| dispensability(pod, min_ready_seconds, &crowds, now));
    ranked
}

/// How old each ready pod among those chosen is, compared with the youngest that is ready. Nothing where none is left over: there
/// was no choice. Upstream cuts the fractions off.
pub(crate) fn age_ratios(active: &[Arc<Pod>], chosen: &[Target], now: Timestamp) -> Vec<f64> {
    let age = |pod: &Pod| {
        let created = pod.metadata.creation_timestamp.as_ref().filter(|_| pods::is_ready(pod))?;
        Some(now.duration_since(created.0).as_secs_f64())
    };
    let youngest = active.iter().filter_map(|pod| age(pod)).min_by(f64::total_cmp);
    let Some(youngest) = youngest.filter(|age| *age > 0.0 && chosen.len() < active.len()) else {
        return Vec::new();
    };
    let chosen: HashSet<&str> = chosen.iter().map(|target| target.uid.as_str()).collect();
    let of_chosen = active.iter().filter(|pod| chosen.contains(owner::uid(&pod.metadata)));
    of_chosen.filter_map(|pod| Some(age(pod)? / youngest)).collect()
}

/// How many related pods that count there are on each node.
fn crowds(related: &[Arc<Pod>]) -> HashMap<&str, usize> {
    let mut crowds = HashMap::new();
    for pod in related.iter().filter(|pod| pods::is_active(pod)) {
        *crowds.entry(pods::node_name(pod).unwrap_or_default()).or_default() += 1;
    }
    crowds
}

/// Smaller is deleted first.
///
/// Source: `ActivePodsWithRanks.Less` in `pkg/controller/controller_utils.go`. There, pods whose ages are in the same power of
/// two are ordered by uid at once; here restarts and the age of creation are looked at first, because the order must be total.
/// And here pods that have not been ready for `minReadySeconds` go before those that have, so that a rolling update's count of
/// available pods cannot be spoilt by the choice made here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Dispensability {
    assigned: bool,
    phase: u8,
    ready: bool,
    available: bool,
    deletion_cost: i32,
    crowd: Reverse<usize>,
    ready_age: Age,
    restarts: Reverse<(i32, i32)>,
    age: Age,
    uid: String,
}

fn dispensability(
    pod: &Pod,
    min_ready_seconds: i32,
    crowds: &HashMap<&str, usize>,
    now: Timestamp,
) -> Dispensability {
    let node = pods::node_name(pod);
    let ready = pods::is_ready(pod);
    let cost = labels::value(pod.metadata.annotations.as_ref(), DELETION_COST);
    Dispensability {
        assigned: node.is_some(),
        phase: match pods::phase(pod) {
            "Running" => 2,
            "Unknown" => 1,
            _ => 0,
        },
        ready,
        available: pods::is_available(pod, min_ready_seconds, now),
        deletion_cost: cost.and_then(|cost| cost.parse().ok()).unwrap_or_default(),
        crowd: Reverse(crowds.get(node.unwrap_or_default()).copied().unwrap_or_default()),
        ready_age: if ready { age(pods::ready_since(pod), now) } else { Age::default() },
        restarts: Reverse(restarts(pod)),
        age: age(pod.metadata.creation_timestamp.as_ref().map(|time| time.0), now),
        uid: owner::uid(&pod.metadata).to_owned(),
    }
}

/// The power of two of an age in nanoseconds; an unknown age is the youngest.
type Age = Option<i8>;

fn age(since: Option<Timestamp>, now: Timestamp) -> Age {
    let nanoseconds = now.duration_since(since?).as_nanos();
    Some(u128::try_from(nanoseconds).ok().and_then(u128::checked_ilog2).map_or(-1, |log| log as i8))
}

/// The most restarts of any container, and of any sidecar.
fn restarts(pod: &Pod) -> (i32, i32) {
    let status = pod.status.as_ref();
    let regular = status.and_then(|status| status.container_statuses.as_ref()).into_iter().flatten();
    let sidecars: Vec<&str> = pod
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten())
        .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .map(|container| container.name.as_str())
        .collect();
    let init = status.and_then(|status| status.init_container_statuses.as_ref()).into_iter().flatten();
    (
        regular.map(|container| container.restart_count).max().unwrap_or_default(),
        init.filter(|container| sidecars.contains(&container.name.as_str()))
            .map(|container| container.restart_count)
            .max()
            .unwrap_or_default(),
    )
}
