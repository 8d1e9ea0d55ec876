//! The status of one Deployment: counts, and the conditions Available, Progressing and ReplicaFailure.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSetCondition};

use super::plan::{Plan, Planned};
use crate::clock;
use crate::owner;

pub(crate) const PROGRESSING: &str = "Progressing";
pub(crate) const AVAILABLE: &str = "Available";
pub(crate) const REPLICA_FAILURE: &str = "ReplicaFailure";

/// Reasons of the Progressing condition. Source: `pkg/controller/deployment/util/deployment_util.go`.
pub(crate) mod reason {
    pub(crate) const UPDATED: &str = "ReplicaSetUpdated";
    pub(crate) const CREATE_ERROR: &str = "ReplicaSetCreateError";
    pub(crate) const CREATED: &str = "NewReplicaSetCreated";
    pub(crate) const FOUND: &str = "FoundNewReplicaSet";
    pub(crate) const COMPLETE: &str = "NewReplicaSetAvailable";
    pub(crate) const TIMED_OUT: &str = "ProgressDeadlineExceeded";
    pub(crate) const PAUSED: &str = "DeploymentPaused";
    pub(crate) const RESUMED: &str = "DeploymentResumed";
}

/// A condition that begins now.
pub(crate) fn condition(
    type_: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(clock::time(now)),
        last_transition_time: Some(clock::time(now)),
    }
}

/// One condition of a status.
pub(crate) fn find<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

/// The reason of one condition of a status; empty without one.
pub(crate) fn reason_of<'a>(status: &'a DeploymentStatus, type_: &str) -> &'a str {
    find(status, type_).and_then(|condition| condition.reason.as_deref()).unwrap_or_default()
}

/// Sets a condition. One with the same status and reason stays as it is, times and message included.
pub(crate) fn set(status: &mut DeploymentStatus, mut condition: DeploymentCondition) {
    if let Some(current) = find(status, &condition.type_) {
        if current.status == condition.status && current.reason == condition.reason {
            return;
        }
        if current.status == condition.status {
            condition.last_transition_time.clone_from(&current.last_transition_time);
        }
    }
    remove(status, &condition.type_);
    status.conditions.get_or_insert_default().push(condition);
}

/// Removes a condition.
pub(crate) fn remove(status: &mut DeploymentStatus, type_: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != type_);
        if conditions.is_empty() {
            status.conditions = None;
        }
    }
}

/// How long a rollout may stand still; `None` for ever.
pub(crate) fn progress_deadline(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref()?.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)
}

/// Whether every pod runs the new template and is available.
pub(crate) fn is_complete(deployment: &Deployment, replicas: i32, status: &DeploymentStatus) -> bool {
    status.updated_replicas.unwrap_or_default() == replicas
        && status.replicas.unwrap_or_default() == replicas
        && status.available_replicas.unwrap_or_default() == replicas
        && status.observed_generation >= deployment.metadata.generation
}

/// Counts and the Available condition; `current` gives the other conditions.
pub(crate) fn counts(plan: &Plan<'_>, current: &DeploymentStatus, now: Timestamp) -> DeploymentStatus {
    let available = plan.total(Planned::reported_available);
    let mut status = DeploymentStatus {
        observed_generation: plan.deployment.metadata.generation,
        replicas: present(plan.total(Planned::actual)),
        updated_replicas: present(plan.new.as_ref().map(Planned::actual).unwrap_or_default()),
        ready_replicas: present(plan.total(Planned::ready)),
        available_replicas: present(available),
        unavailable_replicas: present((plan.total(Planned::size) - available).max(0)),
        terminating_replicas: terminating(plan),
        collision_count: current.collision_count,
        conditions: current.conditions.clone(),
    };
    let available = if available >= plan.strategy.fewest() {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut status, condition(AVAILABLE, available.0, available.1, available.2.to_owned(), now));
    status
}

/// The sum, known only when every set that has been looked at says its part.
fn terminating(plan: &Plan<'_>) -> Option<i32> {
    let mut sum = 0;
    for planned in plan.all() {
        let Some(status) = &planned.set.status else { continue };
        match status.terminating_replicas {
            Some(count) => sum += count,
            None if status.observed_generation.unwrap_or_default() == 0 => {}
            None => return None,
        }
    }
    Some(sum)
}

/// The status during a rollout: counts, progress and failures.
pub(crate) fn rollout(plan: &Plan<'_>, current: &DeploymentStatus, now: Timestamp) -> DeploymentStatus {
    let mut status = counts(plan, current, now);
    let deadline = progress_deadline(plan.deployment);
    if deadline.is_none() {
        remove(&mut status, PROGRESSING);
    }
    let was_complete =
        status.replicas == status.updated_replicas && reason_of(current, PROGRESSING) == reason::COMPLETE;
    if let Some(deadline) = deadline
        && !was_complete
    {
        set_progress(plan, current, &mut status, deadline, now);
    }
    match replica_failure(plan) {
        Some(failure) => set(&mut status, failure),
        None => remove(&mut status, REPLICA_FAILURE),
    }
    status
}

fn set_progress(
    plan: &Plan<'_>,
    current: &DeploymentStatus,
    status: &mut DeploymentStatus,
    deadline: i32,
    now: Timestamp,
) {
    let subject = match &plan.new {
        Some(new) => format!("ReplicaSet \"{}\"", new.name()),
        None => format!("Deployment \"{}\"", owner::name(&plan.deployment.metadata)),
    };
    if is_complete(plan.deployment, plan.strategy.replicas, status) {
        let message = format!("{subject} has successfully progressed.");
        set(status, condition(PROGRESSING, "True", reason::COMPLETE, message, now));
    } else if has_progressed(current, status) {
        let message = format!("{subject} is progressing.");
        let mut progress = condition(PROGRESSING, "True", reason::UPDATED, message, now);
        if let Some(before) = find(current, PROGRESSING) {
            if before.status == "True" {
                progress.last_transition_time.clone_from(&before.last_transition_time);
            }
            // Unlike other conditions this one must be renewed: the deadline counts from its update time.
            remove(status, PROGRESSING);
        }
        set(status, progress);
    } else if has_timed_out(status, deadline, now) {
        let message = format!("{subject} has timed out progressing.");
        set(status, condition(PROGRESSING, "False", reason::TIMED_OUT, message, now));
    }
}

fn has_progressed(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let number = |count: Option<i32>| count.unwrap_or_default();
    let old_pods = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(after.updated_replicas) > number(before.updated_replicas)
        || old_pods(after) < old_pods(before)
        || number(after.ready_replicas) > number(before.ready_replicas)
        || number(after.available_replicas) > number(before.available_replicas)
}

fn has_timed_out(status: &DeploymentStatus, deadline: i32, now: Timestamp) -> bool {
    let Some(progress) = find(status, PROGRESSING) else { return false };
    match progress.reason.as_deref() {
        Some(reason::COMPLETE) => false,
        Some(reason::TIMED_OUT) => true,
        _ => progress
            .last_update_time
            .as_ref()
            .is_some_and(|updated| clock::after(updated.0, i64::from(deadline)) < now),
    }
}

/// When the progress deadline must be looked at again although nothing happens.
pub(crate) fn next_progress_check(
    deployment: &Deployment,
    replicas: i32,
    status: &DeploymentStatus,
) -> Option<Timestamp> {
    let deadline = progress_deadline(deployment)?;
    let progress = find(status, PROGRESSING)?;
    if is_complete(deployment, replicas, status) || progress.reason.as_deref() == Some(reason::TIMED_OUT) {
        return None;
    }
    // One second late, since the deadline has passed only after it.
    Some(clock::after(progress.last_update_time.as_ref()?.0, i64::from(deadline) + 1))
}

/// A failure to create or delete pods, the new set's first.
fn replica_failure(plan: &Plan<'_>) -> Option<DeploymentCondition> {
    let of = |planned: &Planned| {
        let conditions = planned.set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE).map(from_set)
    };
    plan.new.as_ref().and_then(of).or_else(|| plan.old.iter().find_map(of))
}

fn from_set(condition: &ReplicaSetCondition) -> DeploymentCondition {
    DeploymentCondition {
        type_: condition.type_.clone(),
        status: condition.status.clone(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
        last_update_time: condition.last_transition_time.clone(),
        last_transition_time: condition.last_transition_time.clone(),
    }
}

/// Zero is left out on the wire.
fn present(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}
