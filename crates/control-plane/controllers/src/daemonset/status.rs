//! The status of one DaemonSet.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};

use super::decide::Place;
use super::pods::{Suitability, is_updated};
use crate::pods;

/// The status after a look, or `None` when the stored one says it.
pub(crate) fn status(
    set: &DaemonSet,
    places: &[Place],
    hash: &str,
    now: Timestamp,
) -> Option<DaemonSetStatus> {
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or_default();
    let old = set.status.clone().unwrap_or_default();
    let wanted: Vec<&Place> = places.iter().filter(|place| place.suitability == Suitability::Run).collect();
    let count = |test: &dyn Fn(&Place) -> bool| number(wanted.iter().filter(|place| test(place)).count());
    let available =
        count(&|place| place.pods.first().is_some_and(|pod| pods::is_available(pod, min_ready, now)));
    let misplaced =
        places.iter().filter(|it| it.suitability != Suitability::Run && !it.pods.is_empty()).count();
    let desired = number(wanted.len());
    let new = DaemonSetStatus {
        desired_number_scheduled: desired,
        current_number_scheduled: count(&|place| !place.pods.is_empty()),
        number_misscheduled: number(misplaced),
        number_ready: count(&|place| place.pods.first().is_some_and(|pod| pods::is_ready(pod))),
        number_available: present(available),
        number_unavailable: present(desired - available),
        updated_number_scheduled: present(count(&|place| {
            place.pods.first().is_some_and(|pod| is_updated(pod, hash))
        })),
        observed_generation: set.metadata.generation,
        collision_count: old.collision_count,
        conditions: old.conditions.clone(),
    };
    (new != old).then_some(new)
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Zero is left out on the wire.
fn present(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}
