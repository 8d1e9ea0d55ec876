//! What one Deployment needs next.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::plan::{Plan, Planned, Write};
use super::revision::{self, HASH_LABEL, REVISION};
use super::rollback::{self, Rollback};
use super::status::{self, PROGRESSING, condition, reason};
use crate::hash;
use crate::labels;
use crate::owner;

/// What the cache shows. The shell has dealt with ownership: these sets are the Deployment's.
#[derive(Debug)]
pub(crate) struct Observed<'a> {
    pub(crate) deployment: &'a Deployment,
    pub(crate) sets: Vec<ReplicaSet>,
    /// Names of the Deployment's ReplicaSets that have pods which have not finished, terminating ones included.
    /// Only asked of Deployments with the Recreate strategy.
    pub(crate) sets_with_pods: Vec<String>,
}

/// To be carried out in this order; the first failed write ends it, and only then is the status left alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decision {
    /// Changes to ReplicaSets.
    pub(crate) writes: Vec<Write>,
    /// The Deployment goes back to another revision. Its status waits for the next look.
    pub(crate) rollback: Option<Rollback>,
    /// The new status, when it is another one.
    pub(crate) status: Option<DeploymentStatus>,
    /// The new revision annotation, when it is another one.
    pub(crate) revision: Option<String>,
    /// When to look again although nothing happens.
    pub(crate) next_check: Option<Timestamp>,
    /// The selector selects every pod, which is refused with an event.
    pub(crate) selects_all: bool,
}

/// Chooses what one Deployment needs next. No I/O.
pub(crate) fn decide(seen: Observed<'_>, now: Timestamp) -> Decision {
    let deployment = seen.deployment;
    let current = deployment.status.clone().unwrap_or_default();
    let Some(spec) = &deployment.spec else { return Decision::default() };
    if labels::is_empty(&spec.selector) {
        return refuse(deployment, current);
    }
    let mut plan = Plan::new(deployment, seen.sets);
    if deployment.metadata.deletion_timestamp.is_some() {
        let new = status::counts(&plan, &current, now);
        return finish(&plan, None, new, None);
    }
    let mut rollout = Rollout { now, status: current, revision: None };
    rollout.note_pause(deployment);
    rollout.sync_revision(&mut plan);
    let paused = spec.paused == Some(true);
    if let Some(wanted) = rollback::wanted(deployment).filter(|_| !paused) {
        return rollout.roll_back(plan, wanted);
    }
    let new = if paused || is_scaling(&plan) {
        scale(&mut plan, &seen.sets_with_pods);
        if paused {
            clean_up(&mut plan);
        }
        status::counts(&plan, &rollout.status, now)
    } else {
        if plan.strategy.rolling {
            rollout.roll(&mut plan);
        } else {
            rollout.recreate(&mut plan, &seen.sets_with_pods);
        }
        status::rollout(&plan, &rollout.status, now)
    };
    let check = status::next_progress_check(deployment, plan.strategy.replicas, &new);
    finish(&plan, rollout.revision, new, if paused { None } else { check })
}

fn refuse(deployment: &Deployment, mut status: DeploymentStatus) -> Decision {
    let behind = status.observed_generation < deployment.metadata.generation;
    status.observed_generation = deployment.metadata.generation;
    Decision { selects_all: true, status: behind.then_some(status), ..Decision::default() }
}

fn finish(
    plan: &Plan<'_>,
    revision: Option<String>,
    new: DeploymentStatus,
    next_check: Option<Timestamp>,
) -> Decision {
    let changed = plan.deployment.status.as_ref() != Some(&new);
    let annotations = plan.deployment.metadata.annotations.as_ref();
    let revision = revision.filter(|revision| labels::value(annotations, REVISION) != Some(revision));
    Decision {
        writes: plan.writes.clone(),
        status: (changed || revision.is_some()).then_some(new),
        revision,
        next_check,
        ..Decision::default()
    }
}

/// Whether the Deployment's replicas have changed since its sets were last scaled.
fn is_scaling(plan: &Plan<'_>) -> bool {
    plan.all()
        .filter(|set| set.size() > 0)
        .filter_map(|set| revision::desired_replicas(&set.set))
        .any(|desired| desired != plan.strategy.replicas)
}

/// The status and revision as they develop while deciding.
struct Rollout {
    now: Timestamp,
    status: DeploymentStatus,
    revision: Option<String>,
}

impl Rollout {
    /// Marks the beginning and end of a pause, so that the time in between does not count against the deadline.
    fn note_pause(&mut self, deployment: &Deployment) {
        let before = status::reason_of(&self.status, PROGRESSING);
        if status::progress_deadline(deployment).is_none() || before == reason::TIMED_OUT {
            return;
        }
        let paused = deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true);
        let (reason, message) = match (paused, before == reason::PAUSED) {
            (true, false) => (reason::PAUSED, "Deployment is paused"),
            (false, true) => (reason::RESUMED, "Deployment is resumed"),
            _ => return,
        };
        self.progress("Unknown", reason, message.to_owned());
    }

    fn progress(&mut self, status: &str, reason: &str, message: String) {
        status::set(&mut self.status, condition(PROGRESSING, status, reason, message, self.now));
    }

    /// Gives the set of the current template the newest revision, if there is such a set.
    fn sync_revision(&mut self, plan: &mut Plan<'_>) {
        let revision = next_revision(plan);
        let Some(new) = &plan.new else { return };
        let mut set = new.set.clone();
        let min_ready = plan.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
        let annotated = revision::annotate(plan.deployment, &mut set, revision);
        let spec = set.spec.get_or_insert_default();
        let respecified = spec.min_ready_seconds.unwrap_or_default() != min_ready.unwrap_or_default();
        if annotated || respecified {
            spec.min_ready_seconds = min_ready;
            plan.update_new(set.clone());
        }
        self.revision = labels::value(set.metadata.annotations.as_ref(), REVISION).map(str::to_owned);
        let name = owner::name(&set.metadata);
        if status::progress_deadline(plan.deployment).is_some()
            && status::find(&self.status, PROGRESSING).is_none()
        {
            self.progress("True", reason::FOUND, format!("Found new replica set \"{name}\""));
        }
    }

    /// Plans the set of a template that has none.
    fn create_new(&mut self, plan: &mut Plan<'_>, size: i32) {
        let revision = next_revision(plan);
        let mut set = new_set(plan.deployment, self.status.collision_count, size);
        revision::annotate(plan.deployment, &mut set, revision);
        revision::annotate_replicas(&mut set, plan.strategy.replicas, plan.strategy.most());
        if status::progress_deadline(plan.deployment).is_some() {
            let message = format!("Created new replica set \"{}\"", owner::name(&set.metadata));
            self.progress("True", reason::CREATED, message);
        }
        self.revision = Some(revision.to_string());
        plan.writes.push(Write::Create(Box::new(set.clone())));
        plan.new = Some(Planned { set });
    }

    /// Goes back to an earlier revision. A template that has no set yet gets one first, so that it has a revision too: an empty
    /// one where pods of two templates must not meet.
    fn roll_back(mut self, mut plan: Plan<'_>, wanted: i64) -> Decision {
        if plan.new.is_some() {
            let rollback = Some(rollback::decide(&plan, wanted));
            return Decision { writes: plan.writes, rollback, ..Decision::default() };
        }
        if !plan.all().all(Planned::is_settled) {
            return Decision::default();
        }
        let size = if plan.strategy.rolling { room_for_new(&plan, 0) } else { 0 };
        self.create_new(&mut plan, size);
        let counts = status::counts(&plan, &self.status, self.now);
        finish(&plan, self.revision, counts, None)
    }

    /// One step of a rolling update: grow the new set as far as the surge allows, or else shrink the old ones as far as
    /// availability allows. Never both at once, since each step's numbers hold only while the other does not move.
    ///
    /// And no step at all while a set has not acted on its last size: until then there may be pods that it is not to have, and
    /// its count of available pods may include them. Upstream goes by sizes alone and can overshoot for a moment.
    fn roll(&mut self, plan: &mut Plan<'_>) {
        if !plan.all().all(Planned::is_settled) {
            return;
        }
        if plan.new.is_none() {
            let size = room_for_new(plan, 0);
            self.create_new(plan, size);
            return;
        }
        if grow_new(plan) || shrink_old(plan) {
            return;
        }
        self.clean_up_when_complete(plan);
    }

    /// One step of a replacement: everything old must be gone before anything new starts.
    fn recreate(&mut self, plan: &mut Plan<'_>, sets_with_pods: &[String]) {
        let active = plan.active_old();
        for index in &active {
            plan.scale_old(*index, 0);
        }
        if !active.is_empty() || others_left(plan, plan.new.as_ref(), sets_with_pods) {
            return;
        }
        if plan.new.is_none() {
            self.create_new(plan, plan.strategy.replicas);
            return;
        }
        plan.scale_new(plan.strategy.replicas);
        self.clean_up_when_complete(plan);
    }

    fn clean_up_when_complete(&self, plan: &mut Plan<'_>) {
        if status::is_complete(plan.deployment, plan.strategy.replicas, &self.status) {
            clean_up(plan);
        }
    }
}

/// Whether pods of other sets than `kept` are left, or may still come: a set that has not acted on its last size may be making
/// pods for the one before.
fn others_left(plan: &Plan<'_>, kept: Option<&Planned>, sets_with_pods: &[String]) -> bool {
    let is_other = |name: &str| kept.is_none_or(|kept| kept.name() != name);
    plan.all().any(|set| is_other(set.name()) && (set.actual() > 0 || !set.is_settled()))
        || sets_with_pods.iter().any(|name| is_other(name))
}

fn next_revision(plan: &Plan<'_>) -> i64 {
    plan.old.iter().map(|set| revision::of(&set.set)).max().unwrap_or_default() + 1
}

/// The size the new set, now at `size`, may grow to.
fn room_for_new(plan: &Plan<'_>, size: i32) -> i32 {
    let room = (plan.strategy.most() - plan.total(Planned::possible)).max(0);
    size + room.min(plan.strategy.replicas - size).max(0)
}

fn grow_new(plan: &mut Plan<'_>) -> bool {
    let size = plan.new.as_ref().map(Planned::size).unwrap_or_default();
    let wanted = plan.strategy.replicas;
    let size = if size >= wanted { wanted } else { room_for_new(plan, size) };
    // The annotations of a set that keeps its size are left for when it is scaled.
    plan.new.as_ref().is_some_and(|new| new.size() != size) && plan.scale_new(size)
}

fn shrink_old(plan: &mut Plan<'_>) -> bool {
    let active = plan.active_old();
    if active.is_empty() {
        return false;
    }
    let fewest = plan.strategy.fewest();
    let new = plan.new.as_ref();
    let new_unavailable = new.map(|new| (new.size() - new.available()).max(0)).unwrap_or_default();
    let spare = plan.total(Planned::size) - fewest - new_unavailable;
    if spare <= 0 {
        return false;
    }
    let mut shrunk = false;
    // Pods that serve nobody go first, whatever else is available.
    let mut spare_unhealthy = spare;
    for index in &active {
        let set = &plan.old[*index];
        let unhealthy = (set.size() - set.available()).min(spare_unhealthy);
        if unhealthy > 0 {
            let size = set.size() - unhealthy;
            spare_unhealthy -= unhealthy;
            shrunk |= plan.scale_old(*index, size);
        }
    }
    let mut spare_available = plan.total(Planned::available) - fewest;
    for index in &active {
        let set = &plan.old[*index];
        let fewer = set.size().min(spare_available);
        if fewer > 0 {
            let size = set.size() - fewer;
            spare_available -= fewer;
            shrunk |= plan.scale_old(*index, size);
        }
    }
    shrunk
}

/// Brings the sets to the Deployment's number of replicas without rolling on: while paused, and when only that number changed.
///
/// A set that has the right size already still gets the annotations: upstream skips that, and then takes every later change
/// for a change of scale. And where old and new pods must not meet, a set that was empty waits until those of the others are gone,
/// which upstream does not when the Deployment was paused in the meantime.
///
/// Nor does a set grow, as in a rolling update, for pods of which other sets have not got rid yet.
fn scale(plan: &mut Plan<'_>, sets_with_pods: &[String]) {
    let active = plan.active_old();
    let new_active = plan.new.as_ref().is_some_and(|new| new.size() > 0);
    let alone = active.len() + usize::from(new_active) < 2;
    let wanted =
        if alone || plan.strategy.replicas == 0 { plan.strategy.replicas } else { plan.strategy.most() };
    if plan.total(Planned::size) < wanted && !plan.all().all(Planned::is_settled) {
        return;
    }
    if active.is_empty() && !new_active && !plan.strategy.rolling {
        let next = plan.new.as_ref().or(plan.old.last());
        if others_left(plan, next, sets_with_pods) {
            return;
        }
    }
    match (active.as_slice(), new_active) {
        ([], _) if plan.new.is_some() => {
            let size = plan.new.as_ref().map(|new| room_alone(plan, new)).unwrap_or_default();
            plan.scale_new(size);
        }
        // Nothing runs and the template has no set yet: the latest set there is.
        ([], _) => {
            if let Some(latest) = plan.old.len().checked_sub(1) {
                plan.scale_old(latest, room_alone(plan, &plan.old[latest]));
            }
        }
        ([only], false) => {
            plan.scale_old(*only, room_alone(plan, &plan.old[*only]));
        }
        _ if is_saturated(plan) => {
            for index in active {
                plan.scale_old(index, 0);
            }
        }
        _ if plan.strategy.rolling => scale_in_proportion(plan, &active, new_active),
        _ => {}
    }
}

/// The size for a set that alone is to have pods: what is wanted, as far as others have got rid of theirs.
fn room_alone(plan: &Plan<'_>, set: &Planned) -> i32 {
    let others = plan.total(Planned::possible) - set.possible();
    let room = if plan.strategy.rolling || others == 0 { plan.strategy.most() - others } else { 0 };
    plan.strategy.replicas.min(room.max(set.size()))
}

/// Whether the new set has and serves all that the Deployment wants.
fn is_saturated(plan: &Plan<'_>) -> bool {
    let wanted = plan.strategy.replicas;
    plan.new.as_ref().is_some_and(|new| {
        new.size() == wanted
            && revision::desired_replicas(&new.set) == Some(wanted)
            && new.reported_available() == wanted
    })
}

/// Which set of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Old(usize),
    New,
}

impl Which {
    fn of<'p>(self, plan: &'p Plan<'_>) -> &'p Planned {
        match self {
            Self::Old(index) => &plan.old[index],
            Self::New => plan.new.as_ref().expect("only listed when it exists"),
        }
    }
}

/// Spreads the pods to add or remove over the sets by their share. Source: `scale` in `pkg/controller/deployment/sync.go`.
fn scale_in_proportion(plan: &mut Plan<'_>, active: &[usize], new_active: bool) {
    let most = if plan.strategy.replicas > 0 { plan.strategy.most() } else { 0 };
    let room = (most - plan.total(Planned::possible)).max(0);
    let difference = (most - plan.total(Planned::size)).min(room);
    // Old sets come oldest first and the new one is the newest.
    let mut sets: Vec<Which> = active.iter().copied().map(Which::Old).collect();
    sets.extend(new_active.then_some(Which::New));
    // The largest first; of equals the newer when growing and the older when shrinking.
    if difference > 0 {
        sets.reverse();
    }
    sets.sort_by_key(|which| std::cmp::Reverse(which.of(plan).size()));
    let mut moved = 0;
    let mut sizes = Vec::new();
    for which in &sets {
        let set = which.of(plan);
        let share = share(plan, set, difference, moved);
        moved += share;
        sizes.push(set.size() + share);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + difference - moved).max(0);
    }
    keep_available(plan, &sets, &mut sizes);
    stay_within(plan, &sets, &mut sizes, room);
    for (which, size) in sets.into_iter().zip(sizes) {
        match which {
            Which::Old(index) => plan.scale_old(index, size),
            Which::New => plan.scale_new(size),
        };
    }
}

fn share(plan: &Plan<'_>, set: &Planned, difference: i32, moved: i32) -> i32 {
    if difference == 0 || difference == moved {
        return 0;
    }
    let fraction = if plan.strategy.replicas == 0 {
        -set.size()
    } else {
        let before = revision::max_replicas(&set.set).filter(|most| *most != 0).or_else(|| {
            plan.deployment
                .status
                .as_ref()
                .and_then(|status| status.replicas)
                .filter(|replicas| *replicas != 0)
        });
        match before {
            Some(before) => {
                let size = f64::from(set.size()) * f64::from(plan.strategy.most()) / f64::from(before);
                // In range: a size times a ratio of two counts of pods.
                size.round() as i32 - set.size()
            }
            None => 0,
        }
    };
    let allowed = difference - moved;
    if difference > 0 { fraction.min(allowed) } else { fraction.max(allowed) }
}

/// Moves sizes from pods that serve nobody to pods that do, until enough stay available or there are no more.
/// Upstream has no such step, and can shrink the only set that works.
fn keep_available(plan: &Plan<'_>, sets: &[Which], sizes: &mut [i32]) {
    let available: Vec<i32> = sets.iter().map(|which| which.of(plan).available()).collect();
    let kept: i32 = available.iter().zip(sizes.iter()).map(|(available, size)| *available.min(size)).sum();
    let mut missing = plan.strategy.fewest() - kept;
    for taker in 0..sizes.len() {
        for giver in 0..sizes.len() {
            let wants = (available[taker] - sizes[taker]).min(missing);
            let gives = (sizes[giver] - available[giver]).min(wants);
            if gives > 0 {
                sizes[giver] -= gives;
                sizes[taker] += gives;
                missing -= gives;
            }
        }
    }
}

/// Takes back growth that only fits when others have shrunk: their pods are there until then. It comes with the next round.
fn stay_within(plan: &Plan<'_>, sets: &[Which], sizes: &mut [i32], mut room: i32) {
    for (which, size) in sets.iter().zip(sizes) {
        let there = which.of(plan).possible();
        *size = (*size).min(there + room);
        room -= (*size - there).max(0);
    }
}

/// Plans the deletion of old empty sets beyond the history limit, the lowest revision first.
fn clean_up(plan: &mut Plan<'_>) {
    let limit = plan.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit);
    let Some(limit) = limit.filter(|limit| *limit != i32::MAX) else { return };
    let mut alive: Vec<&Planned> =
        plan.old.iter().filter(|set| set.set.metadata.deletion_timestamp.is_none()).collect();
    let excess = alive.len().saturating_sub(usize::try_from(limit).unwrap_or_default());
    alive.sort_by_key(|set| revision::of(&set.set));
    let is_empty = |set: &&Planned| {
        let observed = set.set.status.as_ref().and_then(|status| status.observed_generation);
        set.actual() == 0 && set.size() == 0 && observed >= set.set.metadata.generation
    };
    let doomed: Vec<Write> = alive
        .into_iter()
        .take(excess)
        .filter(is_empty)
        .map(|set| Write::Delete(Box::new(set.set.clone())))
        .collect();
    plan.writes.extend(doomed);
}

/// The ReplicaSet of the Deployment's template.
pub(crate) fn new_set(deployment: &Deployment, collisions: Option<i32>, size: i32) -> ReplicaSet {
    let spec = deployment.spec.clone().unwrap_or_default();
    let mut template = spec.template;
    let hash = hash::of(&template, collisions);
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let mut match_labels = spec.selector.match_labels.unwrap_or_default();
    match_labels.insert(HASH_LABEL.to_owned(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(set_name(owner::name(&deployment.metadata), &hash)),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels.clone()),
            owner_references: Some(vec![owner::controller_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: spec.min_ready_seconds,
            selector: LabelSelector {
                match_labels: Some(match_labels),
                match_expressions: spec.selector.match_expressions,
            },
            template: Some(template),
        }),
        status: None,
    }
}

/// The Deployment's name shortened so that dash and hash fit.
fn set_name(deployment: &str, hash: &str) -> String {
    const LONGEST: usize = 253;
    let room = LONGEST - 1 - hash.len();
    format!("{}-{hash}", &deployment[..deployment.len().min(room)])
}

/// The next status when the name of the new set is taken by something else: another hash for the next attempt.
pub(crate) fn after_collision(deployment: &Deployment) -> DeploymentStatus {
    let mut status = deployment.status.clone().unwrap_or_default();
    status.collision_count = Some(status.collision_count.unwrap_or_default() + 1);
    status
}

/// Whether an existing set is the one that was to be created.
pub(crate) fn is_same_set(deployment: &Deployment, existing: &ReplicaSet) -> bool {
    let template = deployment.spec.as_ref().map(|spec| &spec.template);
    owner::is_controlled_by(&existing.metadata, owner::uid(&deployment.metadata))
        && template.is_some_and(|template| revision::runs(existing, template))
}

/// The status and message when the new set could not be created.
pub(crate) fn after_failed_create(
    deployment: &Deployment,
    name: &str,
    why: &str,
    now: Timestamp,
) -> (Option<DeploymentStatus>, String) {
    let message = format!("Failed to create new replica set \"{name}\": {why}");
    let mut new = deployment.status.clone().unwrap_or_default();
    if status::progress_deadline(deployment).is_none() {
        return (None, message);
    }
    status::set(&mut new, condition(PROGRESSING, "False", reason::CREATE_ERROR, message.clone(), now));
    let changed = deployment.status.as_ref() != Some(&new);
    (changed.then_some(new), message)
}
