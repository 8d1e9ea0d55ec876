//! Stops containers: event, preStop hook, its turn, stop signal, and SIGKILL after the grace period.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod};
use podium_client::EventType;
use podium_cri::v1;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    actions::{Kill, KillReason},
    context::Shared,
    hooks,
    pod::{self, ContainerKind},
    record::{ContainerRecord, PodRecord},
    worker::Worker,
};

/// What every container gets at least, so that none is killed without a word.
const MIN_GRACE_SECONDS: i64 = 2;

/// The grace period of a pod that is to end, in seconds.
pub(super) fn grace_of(pod: &Pod) -> i64 {
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

impl Worker {
    /// Kills one container of a pod that goes on. None if the pod is to end meanwhile: that has its own grace, and the other
    /// containers need not wait for this one.
    pub(super) async fn kill_container(&mut self, kill: &Kill) -> Option<()> {
        let (shared, pod, record) = (self.shared.clone(), self.pod.clone(), self.record.clone());
        let Some(running) = record.containers.iter().find(|one| one.id == kill.id) else { return Some(()) };
        let spec = pod::find_container(&pod, &kill.name);
        let grace =
            spec.as_ref().map_or_else(|| grace_of(&pod), |(_, spec)| grace_for(&pod, spec, kill.reason));
        let (_keep, grace) = watch::channel(grace);
        let turn = std::future::ready(());
        let stopping = stop(&shared, &pod, &record, running, &kill.message, Grace::new(grace), turn);
        self.unless_ending(Box::pin(stopping)).await
    }

    /// Kills everything of a pod that is to start anew, or is over. None if it is to end meanwhile, as above.
    pub(super) async fn kill_pod(&mut self) -> Option<()> {
        let (shared, target, record) = (self.shared.clone(), self.pod.clone(), self.record.clone());
        let (_keep, grace) = watch::channel(grace_of(&target));
        self.unless_ending(Box::pin(pod(&shared, &target, &record, grace))).await
    }
}

/// A grace period in seconds that runs, and may shrink.
#[derive(Clone)]
struct Grace {
    begun: Instant,
    seconds: watch::Receiver<i64>,
}

impl Grace {
    /// Begins now.
    fn new(seconds: watch::Receiver<i64>) -> Self {
        Self { begun: Instant::now(), seconds }
    }

    /// What is left in seconds, less than none if it has passed.
    fn left(&mut self) -> i64 {
        let spent = i64::try_from(self.begun.elapsed().as_secs()).unwrap_or(i64::MAX);
        self.seconds.borrow_and_update().saturating_sub(spent)
    }

    /// Returns when it has passed.
    async fn passed(&mut self) {
        loop {
            let seconds = u64::try_from(*self.seconds.borrow_and_update()).unwrap_or(0);
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(seconds).saturating_sub(self.begun.elapsed())) => return,
                Ok(()) = self.seconds.changed() => {}
            }
        }
    }
}

/// Who is stopped after whom: sidecars serve the regular containers to the end, and each other, so that of them the last one
/// started goes first. Source: upstream's `kuberuntime_termination_order.go`.
struct Turns<'a> {
    /// The name and id of each container that is to be stopped, and whether it has been.
    ends: Vec<(&'a str, &'a str, CancellationToken)>,
    /// Sidecars in the order they start in.
    sidecars: Vec<&'a str>,
    regular: Vec<&'a str>,
}

impl<'a> Turns<'a> {
    fn new(pod: &'a Pod, record: &'a PodRecord) -> Self {
        let name = |container: &'a Container| container.name.as_str();
        let end = |one: &'a ContainerRecord| (one.name.as_str(), one.id.as_str(), CancellationToken::new());
        Self {
            ends: record.live().map(end).collect(),
            sidecars: pod::init_containers(pod).iter().filter(|one| pod::is_sidecar(one)).map(name).collect(),
            regular: pod::containers(pod).iter().map(name).collect(),
        }
    }

    /// Returns when it is the container's turn.
    async fn before(&self, name: &str) {
        let Some(at) = self.sidecars.iter().position(|one| *one == name) else { return };
        let later = &self.sidecars[at + 1..];
        for (name, _, end) in &self.ends {
            if self.regular.contains(name) || later.contains(name) {
                end.cancelled().await;
            }
        }
    }

    fn over(&self, id: &str) {
        for (_, _, end) in self.ends.iter().filter(|(_, one, _)| *one == id) {
            end.cancel();
        }
    }
}

/// Kills everything of a pod and stops its sandboxes. All `preStop` hooks run at once; then each container waits for its
/// turn, at most until the grace has passed that they all share. `grace` in seconds; it may shrink while this runs.
pub(super) async fn pod(shared: &Shared, pod: &Pod, record: &PodRecord, grace: watch::Receiver<i64>) {
    let grace = Grace::new(grace);
    let turns = Turns::new(pod, record);
    let stops = record.live().map(|one| {
        let (grace, turns) = (grace.clone(), &turns);
        async move {
            let message = format!("Stopping container {}", one.name);
            stop(shared, pod, record, one, &message, grace, turns.before(&one.name)).await;
            turns.over(&one.id);
        }
    });
    futures::future::join_all(stops).await;
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

/// Kills everything of a pod that has no worker, of which no more is known than what its containers say.
pub(crate) async fn restored(shared: &Shared, target: &Pod, record: &PodRecord) {
    let (_keep, grace) = watch::channel(grace_of(target));
    pod(shared, target, record, grace).await;
}

/// `turn`: when the container may be stopped, once its hook has run.
async fn stop(
    shared: &Shared,
    pod: &Pod,
    record: &PodRecord,
    running: &ContainerRecord,
    message: &str,
    mut grace: Grace,
    turn: impl Future<Output = ()>,
) {
    let spec = pod::find_container(pod, &running.name);
    let kind = spec.as_ref().map_or(ContainerKind::Regular, |(kind, _)| *kind);
    let about = shared.container_reference(pod, kind, &running.name);
    shared.recorder.event(&about, EventType::Normal, "Killing", message);
    let hook = spec.as_ref().and_then(|(_, spec)| spec.lifecycle.as_ref()?.pre_stop.clone());
    if let (Some(hook), Some((_, spec)), true) = (hook, &spec, grace.left() > 0) {
        let ips = record.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        let address = shared.address_of(pod, &ips);
        tokio::select! {
            outcome = hooks::run(shared, pod, spec, &running.id, address, &hook) => {
                if let Err(error) = outcome {
                    tracing::warn!(pod = pod::full_name(pod), container = running.name, %error, "preStop hook failed");
                    shared.recorder.event(&about, EventType::Warning, "FailedPreStopHook", "PreStopHook failed");
                }
            }
            () = grace.passed() => {}
        }
    }
    if grace.left() > 0 {
        tokio::select! {
            () = turn => {}
            () = grace.passed() => {}
        }
    }
    let stopping = shared.cri.stop_container(&running.id, grace.left().max(MIN_GRACE_SECONDS));
    tokio::pin!(stopping);
    loop {
        tokio::select! {
            outcome = &mut stopping => {
                if let Err(error) = outcome {
                    tracing::warn!(pod = pod::full_name(pod), container = running.name, %error, "stopping a container failed");
                }
                return;
            }
            Ok(()) = grace.seconds.changed() => {
                // The runtime takes a second, shorter call beside the first.
                let shorter = grace.left().max(MIN_GRACE_SECONDS);
                if let Err(error) = shared.cri.stop_container(&running.id, shorter).await {
                    tracing::debug!(container = running.name, %error, "shortening a stop failed");
                }
            }
        }
    }
}
