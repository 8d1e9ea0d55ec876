//! The status of one StatefulSet.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;

use super::decide::Revisions;
use super::identity::{numbers, ordinal, revision};
use crate::children::Target;
use crate::deployment::scaled;
use crate::owner;
use crate::pods;

/// Whether the pod runs and serves.
pub(crate) fn is_running_and_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

/// How many pods may be missing during an update, and how many are.
///
/// Source: `getStatefulSetMaxUnavailable` and `isUnavailable`.
pub(crate) fn standing(set: &StatefulSet, all: &[Arc<Pod>], now: Timestamp) -> (i32, i32) {
    let (wanted, spec) = (numbers(set), set.spec.as_ref());
    let total = i32::try_from(wanted.len()).unwrap_or(i32::MAX);
    let rolling = spec.and_then(|spec| spec.update_strategy.as_ref()?.rolling_update.as_ref());
    let most = rolling.and_then(|it| it.max_unavailable.as_ref());
    let most = most.map_or(1, |most| scaled(most, total, false).max(1));
    let min_ready = spec.and_then(|spec| spec.min_ready_seconds).unwrap_or_default();
    let serves = |pod: &&Arc<Pod>| pods::is_available(pod, min_ready, now) && !pods::is_terminating(pod);
    let serving =
        all.iter().filter(serves).filter_map(|pod| ordinal(set, pod)).filter(|it| wanted.contains(it));
    (most, total.saturating_sub(i32::try_from(serving.count()).unwrap_or(i32::MAX)))
}

/// The status after a look, or `None` when the stored one says it.
pub(crate) fn status(
    set: &StatefulSet,
    all: &[Arc<Pod>],
    deleted: &[Target],
    revisions: &Revisions<'_>,
    now: Timestamp,
) -> Option<StatefulSetStatus> {
    let spec = set.spec.as_ref()?;
    let old = set.status.clone().unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or_default();
    let count = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(all.iter().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
    };
    // A pod deleted just now no longer counts for its version: which version comes next in its place depends on these counts.
    let leaves = |pod: &Pod| {
        pods::is_terminating(pod) || deleted.iter().any(|target| target.uid == owner::uid(&pod.metadata))
    };
    let of = |name: &str| count(&|pod| !leaves(pod) && revision(pod) == name);
    let mut new = StatefulSetStatus {
        replicas: count(&|_| true),
        ready_replicas: present(count(&is_running_and_ready)),
        available_replicas: present(count(&|pod| {
            is_running_and_ready(pod) && pods::is_available(pod, min_ready, now)
        })),
        current_replicas: present(of(revisions.current_name)),
        updated_replicas: present(of(revisions.update_name)),
        current_revision: Some(revisions.current_name.to_owned()),
        update_revision: Some(revisions.update_name.to_owned()),
        observed_generation: set.metadata.generation,
        collision_count: Some(old.collision_count.unwrap_or_default()),
        conditions: old.conditions.clone(),
    };
    let wanted = spec.replicas.unwrap_or(1);
    let rolling = spec.update_strategy.as_ref().and_then(|it| it.type_.as_deref()) != Some("OnDelete");
    let all_new = new.updated_replicas.unwrap_or_default() == wanted
        && new.ready_replicas.unwrap_or_default() == wanted
        && new.replicas == wanted;
    if rolling && all_new {
        new.current_replicas = new.updated_replicas;
        new.current_revision.clone_from(&new.update_revision);
    }
    (new != old).then_some(new)
}

/// Zero is left out on the wire.
fn present(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}
