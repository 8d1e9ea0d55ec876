//! Which pods one StatefulSet needs next, and which must go.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::identity::{claim_names, claim_owners, doom, first, is_identified, numbers, ordinal, revision};
use super::status::{self, is_running_and_ready};
use crate::children::Target;
use crate::deployment::scaled;
use crate::owner;
use crate::pods;

/// The revision the pods had, and the one they are to have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Revisions<'a> {
    pub(crate) current_name: &'a str,
    pub(crate) current: &'a PodTemplateSpec,
    pub(crate) update_name: &'a str,
    pub(crate) update: &'a PodTemplateSpec,
}

/// Claims by name.
pub(crate) type Claims = BTreeMap<String, Arc<PersistentVolumeClaim>>;

/// What the caches show. The shell has waited until they show all that was written for the set.
#[derive(Debug)]
pub(crate) struct Observed<'a> {
    pub(crate) set: &'a StatefulSet,
    /// The pods it controls.
    pub(crate) pods: &'a [Arc<Pod>],
    /// The stored claims of its numbers.
    pub(crate) claims: &'a Claims,
    pub(crate) revisions: Revisions<'a>,
}

/// To be carried out in this order. What fails keeps only that from being done that is said to depend on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decision {
    /// Pods to make by number, each from today's template or the one before.
    pub(crate) create: Vec<(i32, Version)>,
    /// Pods that lack the labels of their number.
    pub(crate) identify: Vec<(i32, Target)>,
    /// Numbers whose pods wait for claims that are missing. A pod that is to be made gets its claims before it.
    pub(crate) claims: Vec<i32>,
    /// Claims that keep a pod from being made until they are gone, and why.
    pub(crate) awaited: Vec<(String, &'static str)>,
    /// Claims that get other owners, each with the pod that has it: as they are to be.
    pub(crate) hand_over: Vec<(Target, PersistentVolumeClaim)>,
    /// A pod whose claim could not be handed over has to stay: it would leave it behind.
    pub(crate) delete: Vec<Target>,
    pub(crate) status: Option<StatefulSetStatus>,
    /// When to look again although nothing happens.
    pub(crate) next_check: Option<Timestamp>,
}

/// Which template a pod is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Current,
    Update,
}

/// Chooses what one StatefulSet needs next. No I/O.
pub(crate) fn decide(seen: &Observed<'_>, now: Timestamp) -> Decision {
    let Some(spec) = &seen.set.spec else { return Decision::default() };
    let mut work = Work::new(seen, spec, now);
    if seen.set.metadata.deletion_timestamp.is_none() {
        work.manage();
    }
    work.out.status = status::status(seen.set, seen.pods, &work.out.delete, &seen.revisions, now);
    let min_ready = spec.min_ready_seconds.unwrap_or_default();
    if min_ready > 0 {
        work.out.next_check = pods::next_available(seen.pods.iter().map(AsRef::as_ref), min_ready, now);
    }
    work.out
}

struct Work<'a> {
    seen: &'a Observed<'a>,
    spec: &'a StatefulSetSpec,
    now: Timestamp,
    /// The pods that are to be, by number.
    replicas: BTreeMap<i32, Option<Arc<Pod>>>,
    /// Those that are not, the highest number first.
    condemned: Vec<(i32, Arc<Pod>)>,
    out: Decision,
}

/// Whether to go on to the next pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Go,
    Wait,
}

impl<'a> Work<'a> {
    fn new(seen: &'a Observed<'a>, spec: &'a StatefulSetSpec, now: Timestamp) -> Self {
        let mut replicas: BTreeMap<i32, Option<Arc<Pod>>> =
            numbers(seen.set).map(|number| (number, None)).collect();
        let mut condemned = Vec::new();
        for pod in seen.pods {
            let Some(number) = ordinal(seen.set, pod) else { continue };
            match replicas.get_mut(&number) {
                Some(place) => *place = Some(pod.clone()),
                None => condemned.push((number, pod.clone())),
            }
        }
        condemned.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        Self { seen, spec, now, replicas, condemned, out: Decision::default() }
    }

    /// Whether each pod waits for the one before it.
    fn ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn is_available(&self, pod: &Pod) -> bool {
        let min_ready = self.spec.min_ready_seconds.unwrap_or_default();
        is_running_and_ready(pod)
            && !pods::is_terminating(pod)
            && pods::is_available(pod, min_ready, self.now)
    }

    fn manage(&mut self) {
        let replicas: Vec<_> = self.replicas.iter().map(|(number, pod)| (*number, pod.clone())).collect();
        // Upstream waits for a pod's turn in the order, but the policy does not depend on it. What a pod that goes has taken along
        // is taken back only where upstream does so, too: in order, the next pod of that number gets new claims.
        for (number, pod) in &replicas {
            if let Some(pod) = pod.as_ref().filter(|pod| !self.ordered() || !pods::is_terminating(pod)) {
                self.keep_policy(*number, pod, false);
            }
        }
        for (number, pod) in replicas {
            if self.replica(number, pod.as_deref()) == Next::Wait && self.ordered() {
                return;
            }
        }
        if self.condemn() == Next::Go {
            self.roll();
        }
    }

    /// Brings one pod that is to be nearer to being.
    fn replica(&mut self, number: i32, pod: Option<&Pod>) -> Next {
        let Some(pod) = pod else {
            if self.awaits_claims(number) {
                return Next::Wait;
            }
            self.out.create.push((number, self.version(number)));
            return if self.ordered() { Next::Wait } else { Next::Go };
        };
        if pods::is_finished(pod) {
            if !pods::is_terminating(pod) {
                self.out.delete.push(Target::of(pod));
            }
            return Next::Wait;
        }
        let lacks_claims =
            || claim_names(self.seen.set, number).any(|name| !self.seen.claims.contains_key(&name));
        if pods::phase(pod) == "Pending" && !pods::is_terminating(pod) && lacks_claims() {
            self.out.claims.push(number);
        }
        if self.ordered() && !self.is_available(pod) {
            return Next::Wait;
        }
        if !pods::is_terminating(pod) && !is_identified(self.seen.set, pod, number) {
            self.out.identify.push((number, Target::of(pod)));
        }
        Next::Go
    }

    /// Whether a new pod of that number must wait for old claims to go.
    fn awaits_claims(&mut self, number: i32) -> bool {
        let doomed = |name: String| {
            let claim = self.seen.claims.get(&name)?;
            doom(self.seen.set, number, claim).map(|why| (name, why))
        };
        let awaited: Vec<_> = claim_names(self.seen.set, number).filter_map(doomed).collect();
        let waits = !awaited.is_empty();
        self.out.awaited.extend(awaited);
        waits
    }

    /// Has the claims of a pod go with whom the set's policy says. The policy may be another than when they were made.
    fn keep_policy(&mut self, number: i32, pod: &Pod, condemned: bool) {
        for name in claim_names(self.seen.set, number) {
            let Some(claim) = self.seen.claims.get(&name) else { continue };
            let Some(owners) = claim_owners(self.seen.set, claim, pod, condemned) else { continue };
            let mut claim = PersistentVolumeClaim::clone(claim);
            claim.metadata.owner_references = (!owners.is_empty()).then_some(owners);
            self.out.hand_over.push((Target::of(pod), claim));
        }
    }

    /// The template for a new pod: during an update, numbers that it has not reached get the one before.
    fn version(&self, number: i32) -> Version {
        let update = self.spec.update_strategy.as_ref().and_then(|it| it.rolling_update.as_ref());
        let rolling =
            self.spec.update_strategy.as_ref().and_then(|it| it.type_.as_deref()) != Some("OnDelete");
        let reached = match update.and_then(|it| it.partition) {
            Some(partition) => first(self.seen.set) + partition,
            None => {
                let current = self.seen.set.status.as_ref().and_then(|status| status.current_replicas);
                first(self.seen.set) + current.unwrap_or_default()
            }
        };
        if rolling && number < reached { Version::Current } else { Version::Update }
    }

    /// Removes what is beyond the number wanted: all of it, or, in order, from the highest number, one at a time, and only while all
    /// the others are well.
    fn condemn(&mut self) -> Next {
        for (number, pod) in self.condemned.clone() {
            self.keep_policy(number, &pod, true);
        }
        let unhealthy = self.first_unavailable();
        // Upstream looks only at those above; a pod that an update has just taken down counts here too.
        if self.ordered() && self.condemned.iter().any(|(_, pod)| pods::is_terminating(pod)) {
            return Next::Wait;
        }
        for (number, pod) in self.condemned.clone() {
            if pods::is_terminating(&pod) {
                continue;
            }
            // Upstream waits for one that has ended too, and where two have it waits for ever.
            let may_get_well = !pods::is_finished(&pod) && unhealthy != Some(number);
            if self.ordered() && !self.is_available(&pod) && may_get_well {
                return Next::Wait;
            }
            self.out.delete.push(Target::of(&pod));
            if self.ordered() {
                return Next::Wait;
            }
        }
        Next::Go
    }

    /// The lowest number that does not serve.
    fn first_unavailable(&self) -> Option<i32> {
        let replicas =
            self.replicas.iter().filter_map(|(number, pod)| pod.as_ref().map(|pod| (*number, pod.clone())));
        let mut all: Vec<(i32, Arc<Pod>)> = replicas.chain(self.condemned.iter().cloned()).collect();
        all.sort_by_key(|(number, _)| *number);
        all.iter().find(|(_, pod)| !self.is_available(pod)).map(|(number, _)| *number)
    }

    /// Whether the pod is on its way out, by this very decision perhaps.
    fn goes(&self, pod: &Pod) -> bool {
        let uid = owner::uid(&pod.metadata);
        pods::is_terminating(pod) || self.out.delete.iter().any(|target| target.uid == uid)
    }

    /// Replaces the highest number that has the old template, once everything above it serves; or, where the set says how many may
    /// be missing, as many from the highest on as that leaves.
    fn roll(&mut self) {
        let strategy = self.spec.update_strategy.as_ref();
        if strategy.and_then(|it| it.type_.as_deref()) == Some("OnDelete") {
            return;
        }
        let partition = strategy.and_then(|it| it.rolling_update.as_ref()?.partition).unwrap_or_default();
        let lowest = first(self.seen.set) + partition;
        let most = strategy.and_then(|it| it.rolling_update.as_ref()?.max_unavailable.as_ref());
        if let Some(most) = most {
            return self.roll_several(lowest, most);
        }
        // What could not be made again today may not be made tomorrow: a quota may be used up.
        if self.replicas.values().any(Option::is_none) {
            return;
        }
        for (number, pod) in self.replicas.iter().rev() {
            let Some(pod) = pod.as_ref().filter(|_| *number >= lowest) else { return };
            if revision(pod) != self.seen.revisions.update_name && !self.goes(pod) {
                self.out.delete.push(Target::of(pod));
                return;
            }
            if !self.is_available(pod) {
                return;
            }
        }
    }

    /// Source: `updateStatefulSetAfterInvariantEstablished`, which upstream has behind the gate `MaxUnavailableStatefulSet`.
    fn roll_several(&mut self, lowest: i32, most: &IntOrString) {
        let total = i32::try_from(self.replicas.len()).unwrap_or(i32::MAX);
        let most = usize::try_from(scaled(most, total, false).max(1)).unwrap_or(1);
        let serves = |pod: &Option<Arc<Pod>>| pod.as_ref().is_some_and(|pod| self.is_available(pod));
        let missing = self.replicas.values().filter(|pod| !serves(pod)).count();
        let old = self.replicas.iter().rev().take_while(|(number, _)| **number >= lowest);
        let old = old
            .filter_map(|(_, pod)| pod.as_ref())
            .filter(|pod| revision(pod) != self.seen.revisions.update_name && !self.goes(pod));
        let next = old.take(most.saturating_sub(missing)).map(|pod| Target::of(pod)).collect::<Vec<_>>();
        self.out.delete.extend(next);
    }
}
