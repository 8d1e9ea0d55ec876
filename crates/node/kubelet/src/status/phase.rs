//! The phase of a pod, from the states of its containers.

use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStatus, Pod};

use crate::{
    pod::{self, ContainerKind},
    rounds,
};

#[derive(Default)]
struct Count {
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    stopped_for_good: usize,
    succeeded: usize,
}

/// `Pending`, `Running`, `Succeeded` or `Failed`. `terminal`: nothing will be restarted whatever the
/// policy; `active`: a regular container runs, so a restarting sidecar does not make the pod pending.
pub(crate) fn phase(pod: &Pod, statuses: &[ContainerStatus], terminal: bool, active: bool) -> &'static str {
    let find = |container: &Container| statuses.iter().find(|status| status.name == container.name);
    let (mut pending_inits, mut pending_sidecars, mut init_failed) = (0, 0, false);
    let mut count = Count::default();
    for container in pod::init_containers(pod) {
        let status = find(container);
        if pod::is_sidecar(container) {
            sidecar(status, &mut count, &mut pending_sidecars);
            continue;
        }
        match ended(status) {
            Some(0) => {}
            Some(code) => {
                init_failed |=
                    !(restarting(status) || pod::restarts_after(pod, ContainerKind::Init, container, code));
            }
            None => pending_inits += 1,
        }
    }
    for container in pod::containers(pod) {
        let Some(state) = find(container).and_then(|status| status.state.as_ref()) else {
            count.unknown += 1;
            continue;
        };
        if state.running.is_some() {
            count.running += 1;
        } else if let Some(code) = ended(find(container)) {
            count.stopped += 1;
            count.stopped_for_good += usize::from(
                !(restarting(find(container))
                    || pod::restarts_after(pod, ContainerKind::Regular, container, code)),
            );
            count.succeeded += usize::from(state.terminated.is_some() && code == 0);
        } else {
            count.waiting += 1;
        }
    }
    if init_failed {
        return "Failed";
    }
    if pending_inits > 0 || (pending_sidecars > 0 && !active) || count.waiting > 0 || count.unknown > 0 {
        return "Pending";
    }
    if count.running > 0 {
        return "Running";
    }
    if count.stopped == 0 {
        return "Pending";
    }
    let verdict = if count.stopped == count.succeeded { "Succeeded" } else { "Failed" };
    if terminal || count.stopped == count.stopped_for_good { verdict } else { "Running" }
}

/// Whether a container waits to begin anew with all others.
fn restarting(status: Option<&ContainerStatus>) -> bool {
    let waiting = status.and_then(|status| status.state.as_ref()?.waiting.as_ref());
    waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some(rounds::RESTARTING))
}

/// The exit code of a container that has ended, or that waits after having ended.
fn ended(status: Option<&ContainerStatus>) -> Option<i32> {
    let status = status?;
    let code = |state: &ContainerState| state.terminated.as_ref().map(|terminated| terminated.exit_code);
    let state = status.state.as_ref()?;
    if state.running.is_some() {
        return None;
    }
    code(state).or_else(|| status.last_state.as_ref().and_then(code))
}

fn sidecar(status: Option<&ContainerStatus>, count: &mut Count, pending: &mut usize) {
    let Some(status) = status else {
        count.unknown += 1;
        return;
    };
    let state = status.state.clone().unwrap_or_default();
    if state.running.is_some() {
        *pending += usize::from(status.started != Some(true));
        count.running += 1;
    } else if state.terminated.is_none() && ended(Some(status)).is_none() {
        *pending += 1;
        count.waiting += 1;
    }
}
