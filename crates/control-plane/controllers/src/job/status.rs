//! Conditions of Jobs, and the times at which pods and Jobs ended.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use crate::clock;
use crate::pods;

pub(crate) const COMPLETE: &str = "Complete";
pub(crate) const FAILED: &str = "Failed";
pub(crate) const SUCCESS_CRITERIA_MET: &str = "SuccessCriteriaMet";
pub(crate) const FAILURE_TARGET: &str = "FailureTarget";
pub(crate) const SUSPENDED: &str = "Suspended";

/// One condition of a status, if it holds.
pub(crate) fn holds<'a>(status: &'a JobStatus, type_: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|it| it.type_ == type_ && it.status == "True")
}

/// Adds a condition that holds from now on, unless it holds already.
pub(crate) fn add(status: &mut JobStatus, type_: &str, reason: &str, message: &str, now: Timestamp) {
    set(status, type_, "True", reason, message, now);
}

/// Sets a condition. Returns whether it is news; one that was never there is not news when it does not hold.
pub(crate) fn set(
    job: &mut JobStatus,
    type_: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> bool {
    let conditions = job.conditions.get_or_insert_default();
    let new = JobCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(clock::time(now)),
        last_transition_time: Some(clock::time(now)),
    };
    let changed = match conditions.iter_mut().find(|it| it.type_ == type_) {
        Some(old) if old.status == new.status && old.reason == new.reason && old.message == new.message => {
            false
        }
        Some(old) => {
            *old = new;
            true
        }
        None if status == "False" => false,
        None => {
            conditions.push(new);
            true
        }
    };
    if conditions.is_empty() {
        job.conditions = None;
    }
    changed
}

/// Whether the Job is over, well or not.
pub(crate) fn is_finished(status: &JobStatus) -> bool {
    holds(status, COMPLETE).is_some() || holds(status, FAILED).is_some()
}

/// When the Job ended.
pub(crate) fn finished_at(job: &Job) -> Option<Timestamp> {
    let status = job.status.as_ref()?;
    let condition = holds(status, COMPLETE).or_else(|| holds(status, FAILED))?;
    condition.last_transition_time.as_ref().map(|time| time.0)
}

/// When the pod's work ended: its last container, or the moment it stopped being ready, or was deleted, or began.
pub(crate) fn pod_ended_at(pod: &Pod) -> Timestamp {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let ended = |it: &k8s_openapi::api::core::v1::ContainerStatus| {
        it.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0)
    };
    let all: Option<Vec<Timestamp>> = containers.into_iter().flatten().map(ended).collect();
    if let Some(last) = all.and_then(|all| all.into_iter().max()) {
        return last;
    }
    let unready = pods::condition(pod, "Ready").filter(|it| it.status == "False");
    if let Some(time) = unready.and_then(|it| it.last_transition_time.as_ref()) {
        return time.0;
    }
    if let Some(time) = &pod.metadata.deletion_timestamp {
        return clock::after(time.0, -pod.metadata.deletion_grace_period_seconds.unwrap_or_default());
    }
    pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}
