//! Which pods one DaemonSet needs next, and which must go.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use podium_client::EventType;

use super::pods::{Suitability, daemon_template, is_updated, suitability, target_node};
use super::status;
use crate::children::Target;
use crate::clock;
use crate::deployment::scaled;
use crate::owner;
use crate::pods;

/// The most pods made or unmade by one reconcile. Source: `BurstReplicas`.
const BURST: usize = 250;

/// What the caches show. The shell has waited until they show all that was written for the set.
#[derive(Debug)]
pub(crate) struct Observed<'a> {
    pub(crate) set: &'a DaemonSet,
    /// The pods it controls.
    pub(crate) pods: &'a [Arc<Pod>],
    pub(crate) nodes: &'a [Arc<Node>],
    /// The hash of today's template.
    pub(crate) hash: &'a str,
    /// By node: when a failed pod may be replaced.
    pub(crate) retry: &'a BTreeMap<String, Timestamp>,
}

/// To be carried out in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decision {
    pub(crate) delete: Vec<Target>,
    /// Nodes whose failed pod is among the deleted ones.
    pub(crate) failed_on: Vec<String>,
    /// Nodes that get a pod.
    pub(crate) create: Vec<String>,
    pub(crate) events: Vec<(EventType, &'static str, String)>,
    pub(crate) status: Option<DaemonSetStatus>,
    /// When to look again although nothing happens.
    pub(crate) next_check: Option<Timestamp>,
}

/// How many pods may be beyond one to a node, or missing, during an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) surge: usize,
    pub(crate) unavailable: usize,
    rolling: bool,
}

impl Limits {
    /// Reads the strategy for that many nodes.
    pub(crate) fn of(set: &DaemonSet, nodes: usize) -> Self {
        let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
        let rolling = strategy.and_then(|it| it.type_.as_deref()) != Some("OnDelete");
        let update = strategy.and_then(|it| it.rolling_update.as_ref());
        let total = i32::try_from(nodes).unwrap_or(i32::MAX);
        let count = |value: Option<&IntOrString>, default| {
            let number = value.map_or(default, |value| scaled(value, total, true));
            usize::try_from(number).unwrap_or_default()
        };
        let surge = count(update.and_then(|it| it.max_surge.as_ref()), 0);
        let unavailable = count(update.and_then(|it| it.max_unavailable.as_ref()), 1);
        // Neither: one may be missing, or nothing could ever move.
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable };
        Self { surge, unavailable, rolling }
    }
}

/// One node with its pods, the oldest first.
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) suitability: Suitability,
    pub(crate) pods: Vec<Arc<Pod>>,
}

/// Chooses what one DaemonSet needs next. No I/O.
pub(crate) fn decide(seen: &Observed<'_>, now: Timestamp) -> Decision {
    let template = daemon_template(seen.set, seen.hash);
    let (places, lost) = places(seen, &template);
    let wanted = places.iter().filter(|place| place.suitability == Suitability::Run).count();
    let mut work = Work {
        seen,
        now,
        min_ready: seen.set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or_default(),
        limits: Limits::of(seen.set, wanted),
        out: Decision::default(),
    };
    if seen.set.metadata.deletion_timestamp.is_none() {
        for place in &places {
            work.place(place);
        }
        work.out.delete.extend(lost.iter().map(|pod| Target::of(pod)));
        // Missing pods come before new versions of those that are there.
        if work.limits.rolling && work.out.create.is_empty() && work.out.delete.is_empty() {
            work.roll(&places);
        }
        work.out.delete.truncate(BURST);
        work.out.create.truncate(BURST);
    }
    work.out.status = status::status(seen.set, &places, seen.hash, now);
    let next = pods::next_available(seen.pods.iter().map(AsRef::as_ref), work.min_ready, now);
    if let Some(moment) = next.filter(|_| work.min_ready > 0) {
        work.check_at(moment);
    }
    work.out
}

/// The pods by node, and those whose node is gone.
fn places(seen: &Observed<'_>, template: &PodTemplateSpec) -> (Vec<Place>, Vec<Arc<Pod>>) {
    let mut by_node: BTreeMap<&str, Vec<Arc<Pod>>> = BTreeMap::new();
    let mut lost = Vec::new();
    for pod in seen.pods {
        match target_node(pod) {
            Some(node) => by_node.entry(node).or_default().push(pod.clone()),
            None => lost.push(pod.clone()),
        }
    }
    let mut places = Vec::new();
    for node in seen.nodes {
        let name = owner::name(&node.metadata);
        let mut pods = by_node.remove(name).unwrap_or_default();
        pods.sort_by_key(|pod| age(pod));
        places.push(Place { name: name.to_owned(), suitability: suitability(template, node), pods });
    }
    // Scheduled pods of a node that is gone are the pod garbage collector's.
    lost.extend(by_node.into_values().flatten().filter(|pod| pods::node_name(pod).is_none()));
    lost.retain(|pod| !pods::is_terminating(pod));
    (places, lost)
}

/// Bound pods first, then the older, then by name.
fn age(pod: &Pod) -> (bool, Option<Timestamp>, String) {
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (pods::node_name(pod).is_none(), created, owner::name(&pod.metadata).to_owned())
}

struct Work<'a> {
    seen: &'a Observed<'a>,
    now: Timestamp,
    min_ready: i32,
    limits: Limits,
    out: Decision,
}

impl Work<'_> {
    fn check_at(&mut self, moment: Timestamp) {
        self.out.next_check = Some(self.out.next_check.map_or(moment, |check| check.min(moment)));
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, self.min_ready, self.now)
    }

    fn delete(&mut self, pod: &Pod) {
        self.out.delete.push(Target::of(pod));
    }

    /// Brings one node to one pod, or none.
    fn place(&mut self, place: &Place) {
        match place.suitability {
            Suitability::Run if place.pods.is_empty() => self.out.create.push(place.name.clone()),
            Suitability::Run | Suitability::Stay => {
                let running = self.clear_ended(place);
                self.thin_out(&running, place);
            }
            Suitability::Leave => {
                for pod in place.pods.iter().filter(|pod| !pods::is_terminating(pod)) {
                    self.delete(pod);
                }
            }
        }
    }

    /// Removes pods that have ended. Returns the others.
    fn clear_ended(&mut self, place: &Place) -> Vec<Arc<Pod>> {
        let mut running = Vec::new();
        for pod in place.pods.iter().filter(|pod| !pods::is_terminating(pod)) {
            let name = format!("{}/{}", owner::namespace(&pod.metadata), owner::name(&pod.metadata));
            match pods::phase(pod) {
                "Failed" => match self.seen.retry.get(&place.name).filter(|moment| **moment > self.now) {
                    Some(moment) => self.check_at(*moment),
                    None => {
                        let message = format!(
                            "Found failed daemon pod {name} on node {}, will try to kill it",
                            place.name
                        );
                        self.out.events.push((EventType::Warning, "FailedDaemonPod", message));
                        self.out.failed_on.push(place.name.clone());
                        self.delete(pod);
                    }
                },
                "Succeeded" => {
                    let message = format!(
                        "Found succeeded daemon pod {name} on node {}, will try to delete it",
                        place.name
                    );
                    self.out.events.push((EventType::Normal, "SucceededDaemonPod", message));
                    self.delete(pod);
                }
                _ => running.push(pod.clone()),
            }
        }
        running
    }

    /// Keeps the oldest pod, or where there may be surge the oldest of each version until the new one serves.
    fn thin_out(&mut self, running: &[Arc<Pod>], place: &Place) {
        if self.limits.surge == 0 {
            for pod in running.iter().skip(1) {
                self.delete(pod);
            }
            return;
        }
        let all_leaving = running.is_empty() && place.pods.iter().all(|pod| pods::is_terminating(pod));
        if all_leaving && place.suitability == Suitability::Run {
            self.out.create.push(place.name.clone());
            return;
        }
        let (new, old): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) =
            running.iter().partition(|pod| is_updated(pod, self.seen.hash));
        for pod in new.iter().skip(1).chain(old.iter().skip(1)) {
            self.delete(pod);
        }
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!pods::is_ready(old) || self.is_available(new))
        {
            self.delete(old);
        }
    }

    /// One step of a rolling update.
    fn roll(&mut self, places: &[Place]) {
        let mut budget = Budget::default();
        for place in
            places.iter().filter(|place| !place.pods.is_empty() || place.suitability == Suitability::Run)
        {
            let running: Vec<&Arc<Pod>> =
                place.pods.iter().filter(|pod| !pods::is_terminating(pod)).collect();
            let new = running.iter().find(|pod| is_updated(pod, self.seen.hash)).copied();
            let old = running.iter().find(|pod| !is_updated(pod, self.seen.hash)).copied();
            match (new, old) {
                (None, Some(old)) if !self.is_available(old) => {
                    budget.unavailable += 1;
                    budget.free.push((place.name.clone(), old.clone()));
                }
                (None, Some(old)) => budget.candidates.push((place.name.clone(), old.clone())),
                (Some(new), None) if self.is_available(new) => {}
                (Some(_), Some(_)) => {
                    budget.surging += 1;
                    budget.unavailable += 1;
                }
                _ => budget.unavailable += 1,
            }
        }
        if self.limits.surge > 0 {
            let room = self.limits.surge.saturating_sub(budget.surging);
            let next = budget.free.iter().chain(budget.candidates.iter().take(room));
            self.out.create.extend(next.map(|(node, _)| node.clone()));
        } else {
            let room = self.limits.unavailable.saturating_sub(budget.unavailable);
            let next: Vec<Arc<Pod>> = budget
                .free
                .into_iter()
                .chain(budget.candidates.into_iter().take(room))
                .map(|(_, pod)| pod)
                .collect();
            next.iter().for_each(|pod| self.delete(pod));
        }
    }
}

/// What a rolling update may touch.
#[derive(Default)]
struct Budget {
    unavailable: usize,
    surging: usize,
    /// Old pods that serve nobody: replacing them costs nothing.
    free: Vec<(String, Arc<Pod>)>,
    /// Old pods that serve.
    candidates: Vec<(String, Arc<Pod>)>,
}

/// When a failed pod may next be replaced on a node after that many replacements, the last at `last`.
pub(crate) fn retry_at(last: Timestamp, replacements: u32) -> Timestamp {
    const LONGEST: i64 = 900;
    clock::after(last, (1i64 << replacements.min(10)).min(LONGEST))
}
