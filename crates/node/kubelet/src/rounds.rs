//! Rounds: by a `RestartAllContainers` rule the end of one container begins all of the pod's containers anew, init
//! containers first, in the same sandbox and with the same volumes. Source: KEP-5532.
//!
//! Nothing is removed and no state is kept for it: the newest such end in the runtime's record is the moment the round began,
//! and what was made before belongs to an earlier one.

use k8s_openapi::api::core::v1::Pod;

use crate::{
    pod,
    record::{ContainerRecord, PodRecord, RunState},
};

/// The reason of a container that waits for its turn in a new round.
pub(crate) const RESTARTING: &str = "RestartingAllContainers";

/// Whether any rule of the pod can begin a new round.
pub(crate) fn possible(pod: &Pod) -> bool {
    let mut containers = pod::containers(pod).iter().chain(pod::init_containers(pod));
    containers.any(|container| {
        container.restart_policy_rules.iter().flatten().any(|rule| rule.action == pod::RESTART_ALL)
    })
}

/// When the pod's round began, in nanoseconds since 1970; none if it is in its first.
pub(crate) fn began(pod: &Pod, record: &PodRecord) -> Option<i64> {
    let began = |one: &&ContainerRecord| {
        one.state == RunState::Exited
            && container(pod, &one.name).is_some_and(|spec| pod::restarts_all_after(spec, one.exit_code))
    };
    record.containers.iter().filter(began).map(|one| one.finished_at).max()
}

/// What still runs of earlier rounds, in the order it is to end: regular containers, then init containers, the last first.
pub(crate) fn leftovers<'a>(pod: &Pod, record: &'a PodRecord) -> Vec<&'a ContainerRecord> {
    let order = pod::init_containers(pod).iter().chain(pod::containers(pod)).rev();
    order.flat_map(|spec| record.live().filter(|one| one.name == spec.name && record.is_past(one))).collect()
}

fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a k8s_openapi::api::core::v1::Container> {
    pod::containers(pod).iter().chain(pod::init_containers(pod)).find(|container| container.name == name)
}
