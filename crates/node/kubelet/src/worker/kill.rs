//! Stops containers: event, preStop hook, stop signal, and SIGKILL after the grace period.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod};
use podium_client::EventType;
use podium_cri::v1;
use tokio::sync::watch;

use crate::{
    actions::{Kill, KillReason},
    context::Shared,
    hooks,
    pod::{self, ContainerKind},
    record::{ContainerRecord, PodRecord, label},
};

/// What every container gets at least, so that none is killed without a word.
const MIN_GRACE_SECONDS: i64 = 2;

/// The grace period of a pod that is to end, in seconds.
pub(crate) fn grace_of(pod: &Pod) -> i64 {
    pod.metadata
        .deletion_grace_period_seconds
        .or_else(|| pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds))
        .unwrap_or(MIN_GRACE_SECONDS)
}

/// The grace period of one container killed for a reason.
fn grace_for(pod: &Pod, container: &Container, reason: KillReason) -> i64 {
    if let Some(grace) = pod.metadata.deletion_grace_period_seconds {
        return grace;
    }
    let probe = match reason {
        KillReason::Liveness => container.liveness_probe.as_ref(),
        KillReason::Startup => container.startup_probe.as_ref(),
        KillReason::RestartAll => return 0,
        KillReason::Other => None,
    };
    probe.and_then(|probe| probe.termination_grace_period_seconds).unwrap_or_else(|| grace_of(pod))
}

/// Kills one container of a pod that goes on.
pub(crate) async fn container(shared: &Shared, pod: &Pod, record: &PodRecord, kill: &Kill) {
    let Some(running) = record.containers.iter().find(|one| one.id == kill.id) else { return };
    let spec = pod::find_container(pod, &kill.name);
    let grace = spec.as_ref().map_or_else(|| grace_of(pod), |(_, spec)| grace_for(pod, spec, kill.reason));
    let (_keep, grace) = watch::channel(grace);
    stop(shared, pod, record, running, &kill.message, grace).await;
}

/// Kills everything of a pod and stops its sandboxes. `grace` may shrink while this runs.
pub(crate) async fn pod(shared: &Shared, pod: &Pod, record: &PodRecord, grace: Option<watch::Receiver<i64>>) {
    let (_keep, own) = watch::channel(grace_of(pod));
    let grace = grace.unwrap_or(own);
    let sidecars: Vec<&str> = pod::init_containers(pod)
        .iter()
        .filter(|container| pod::is_sidecar(container))
        .map(|container| container.name.as_str())
        .collect();
    let begun = Instant::now();
    let message = |one: &ContainerRecord| format!("Stopping container {}", one.name);
    let first = record.live().filter(|one| !sidecars.contains(&one.name.as_str())).map(|one| {
        let grace = grace.clone();
        async move { stop(shared, pod, record, one, &message(one), grace).await }
    });
    futures::future::join_all(first).await;
    // Sidecars serve the others to the end, and each other: the last one started goes first.
    for name in sidecars.iter().rev() {
        for one in record.live().filter(|one| one.name == *name) {
            let spent = i64::try_from(begun.elapsed().as_secs()).unwrap_or(i64::MAX);
            let left = grace.borrow().saturating_sub(spent).max(MIN_GRACE_SECONDS);
            let (_keep, left) = watch::channel(left);
            stop(shared, pod, record, one, &message(one), left).await;
        }
    }
    for sandbox in &record.sandboxes {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
        if let Err(error) = shared.cri.stop_pod_sandbox(request).await
            && !error.is_not_found()
        {
            let about = podium_client::reference_of(pod);
            let text = format!(
                "error killing pod: failed to \"KillPodSandbox\" for {:?} with KillPodSandboxError: {:?}",
                pod::uid(pod),
                error.grpc_text()
            );
            shared.recorder.event(&about, EventType::Warning, "FailedKillPod", text);
        }
    }
}

async fn stop(
    shared: &Shared,
    pod: &Pod,
    record: &PodRecord,
    running: &ContainerRecord,
    message: &str,
    mut grace: watch::Receiver<i64>,
) {
    let spec = pod::find_container(pod, &running.name);
    let kind = spec.as_ref().map_or(ContainerKind::Regular, |(kind, _)| *kind);
    let about = shared.container_reference(pod, kind, &running.name);
    shared.recorder.event(&about, EventType::Normal, "Killing", message);
    let begun = Instant::now();
    let seconds = *grace.borrow_and_update();
    let hook = spec.as_ref().and_then(|(_, spec)| spec.lifecycle.as_ref()?.pre_stop.clone());
    if let (Some(hook), Some((_, spec)), true) = (hook, &spec, seconds > 0) {
        let ips = record.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        let address = shared.address_of(pod, &ips);
        let run = hooks::run(&shared.cri, pod, spec, &running.id, address, &hook);
        let limit = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        tokio::select! {
            outcome = tokio::time::timeout(limit, run) => {
                if let Ok(Err(error)) = outcome {
                    tracing::warn!(pod = pod::full_name(pod), container = running.name, %error, "preStop hook failed");
                    shared.recorder.event(&about, EventType::Warning, "FailedPreStopHook", "PreStopHook failed");
                }
            }
            () = until_shorter(&mut grace, begun) => {}
        }
    }
    let left = |grace: i64| {
        let spent = i64::try_from(begun.elapsed().as_secs()).unwrap_or(i64::MAX);
        grace.saturating_sub(spent).max(MIN_GRACE_SECONDS)
    };
    let now = *grace.borrow_and_update();
    let stopping = shared.cri.stop_container(&running.id, left(now));
    tokio::pin!(stopping);
    loop {
        tokio::select! {
            outcome = &mut stopping => {
                if let Err(error) = outcome {
                    tracing::warn!(pod = pod::full_name(pod), container = running.name, %error, "stopping a container failed");
                }
                return;
            }
            Ok(()) = grace.changed() => {
                // The runtime takes a second, shorter call beside the first.
                let shorter = *grace.borrow_and_update();
                if let Err(error) = shared.cri.stop_container(&running.id, left(shorter)).await {
                    tracing::debug!(container = running.name, %error, "shortening a stop failed");
                }
            }
        }
    }
}

/// Returns once a shortened grace period has passed.
async fn until_shorter(grace: &mut watch::Receiver<i64>, begun: Instant) {
    if grace.changed().await.is_err() {
        // Nobody will shorten it any more.
        return std::future::pending().await;
    }
    let seconds = u64::try_from(*grace.borrow_and_update()).unwrap_or(0);
    tokio::time::sleep(Duration::from_secs(seconds).saturating_sub(begun.elapsed())).await;
}

/// The grace period a container was made with, for one whose pod nobody knows any more.
pub(crate) fn recorded_grace(record: &ContainerRecord) -> i64 {
    [label::DELETION_GRACE, label::TERMINATION_GRACE]
        .iter()
        .find_map(|key| record.annotations.get(*key)?.parse().ok())
        .unwrap_or(MIN_GRACE_SECONDS)
}
