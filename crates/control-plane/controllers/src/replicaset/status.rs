//! The status of one ReplicaSet.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;

use super::View;
use crate::clock;
use crate::labels;
use crate::pods;

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// The status after acting, or `None` when the stored one is right already.
///
/// `failure` is what went wrong when pods were created or deleted. Source: `calculateStatus` in
/// `pkg/controller/replicaset/replica_set_utils.go`. One difference: while the cache does not show all that was written
/// (`caught_up`), a new generation does not count as observed, because there may be pods that the numbers leave out; the
/// Deployment controller builds on that.
pub(crate) fn status(
    view: &View<'_>,
    active: &[Arc<Pod>],
    terminating: usize,
    failure: Option<&str>,
    caught_up: bool,
    now: Timestamp,
) -> Option<ReplicaSetStatus> {
    let template_labels = view.template.and_then(|template| template.metadata.as_ref()?.labels.as_ref());
    let count = |test: &dyn Fn(&Pod) -> bool| count(active.iter().filter(|pod| test(pod)).count());
    let mut new = ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: present(count(&|pod| {
            labels::contains_all(pod.metadata.labels.as_ref(), template_labels)
        })),
        ready_replicas: present(count(&pods::is_ready)),
        available_replicas: present(count(&|pod| pods::is_available(pod, view.min_ready_seconds, now))),
        terminating_replicas: view.counts_terminating.then(|| self::count(terminating)),
        observed_generation: view.status.observed_generation,
        conditions: view.status.conditions.clone(),
    };
    set_failure(&mut new, active.len(), view.replicas, failure, now);
    if caught_up {
        new.observed_generation = view.meta.generation;
    }
    (new != view.status).then_some(new)
}

fn set_failure(
    status: &mut ReplicaSetStatus,
    active: usize,
    wanted: i32,
    failure: Option<&str>,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    let failed_already = conditions.iter().any(|condition| condition.type_ == REPLICA_FAILURE);
    match failure {
        Some(message) if !failed_already => conditions.push(ReplicaSetCondition {
            type_: REPLICA_FAILURE.to_owned(),
            status: "True".to_owned(),
            last_transition_time: Some(clock::time(now)),
            reason: Some(if count(active) < wanted { "FailedCreate" } else { "FailedDelete" }.to_owned()),
            message: Some(message.to_owned()),
        }),
        Some(_) => {}
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
    }
    if conditions.is_empty() {
        status.conditions = None;
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Zero is left out on the wire.
fn present(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}
