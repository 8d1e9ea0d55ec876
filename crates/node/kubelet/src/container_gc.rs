//! Garbage collection of containers that have ended, and of sandboxes that hold none: now and then by number, and all of
//! pods that are over when the disk is short. Numbers, order and the event are upstream's (`kuberuntime_gc.go`).

pub(crate) mod decide;

use std::{path::PathBuf, time::Duration};

use jiff::Timestamp;
use podium_client::EventType;
use podium_cri::{Error, v1};

use crate::{context::Shared, manager::Pods, node, record::label};
pub use decide::ContainerGcPolicy;
use decide::{Dead, Empty};

/// How often, upstream's `ContainerGCPeriod`.
const EVERY: Duration = Duration::from_secs(60);
/// What a container gets that may still run, though the runtime has lost sight of it.
const UNKNOWN_GRACE_SECONDS: i64 = 2;

/// Which pods lose what they have in the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Those that are gone, or were evicted.
    Gone,
    /// Those, too, that have ended and stay in the API.
    Over,
}

/// Collects now and then.
pub(crate) async fn run(shared: &Shared, pods: &Pods) {
    loop {
        if let Err(error) = collect(shared, pods, Scope::Gone).await {
            tracing::error!(%error, "container garbage collection failed");
            let about = node::reference(&shared.config.node_name);
            shared.recorder.event(&about, EventType::Warning, "ContainerGCFailed", error.to_string());
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Removes containers, then sandboxes that have none left. What cannot be removed stays for the next time.
pub(crate) async fn collect(shared: &Shared, pods: &Pods, scope: Scope) -> Result<(), Error> {
    let listed = shared.cri.list_containers(v1::ListContainersRequest::default()).await?.containers;
    let dead = listed.iter().filter_map(dead).collect();
    let loses_all = |uid: &str| pods.loses_all(uid, scope);
    for one in decide::containers(dead, &loses_all, shared.config.container_gc, Timestamp::now()) {
        if one.unknown
            && let Err(error) = shared.cri.stop_container(&one.id, UNKNOWN_GRACE_SECONDS).await
        {
            tracing::warn!(container = one.name, %error, "stopping a container of unknown state failed");
            continue;
        }
        let status = v1::ContainerStatusRequest { container_id: one.id.clone(), verbose: false };
        let log = shared.cri.container_status(status).await.ok().and_then(|answer| answer.status);
        let log = log.map(|status| status.log_path).unwrap_or_default();
        if let Err(error) = remove(shared, &one.id, &log).await {
            tracing::warn!(container = one.name, %error, "removing an ended container failed");
        }
    }
    let left = shared.cri.list_containers(v1::ListContainersRequest::default()).await?.containers;
    let sandboxes = shared.cri.list_pod_sandbox(v1::ListPodSandboxRequest::default()).await?.items;
    let used = |id: &str| left.iter().any(|one| one.pod_sandbox_id == id);
    let seen = sandboxes.iter().map(|one| Empty {
        id: one.id.clone(),
        uid: one.metadata.as_ref().map(|metadata| metadata.uid.clone()).unwrap_or_default(),
        created_at: one.created_at,
        active: one.state() == v1::PodSandboxState::SandboxReady || used(&one.id),
    });
    for one in decide::sandboxes(seen.collect(), &loses_all) {
        if let Err(error) = remove_sandbox(shared, &one).await {
            tracing::warn!(sandbox = one, %error, "removing an empty sandbox failed");
        }
    }
    Ok(())
}

/// What has ended, or may have. What is not of a pod is none of ours.
fn dead(listed: &v1::Container) -> Option<Dead> {
    let state = listed.state();
    (state != v1::ContainerState::ContainerRunning).then_some(())?;
    Some(Dead {
        id: listed.id.clone(),
        uid: listed.labels.get(label::POD_UID)?.clone(),
        name: listed.labels.get(label::CONTAINER_NAME)?.clone(),
        created_at: listed.created_at,
        unknown: state == v1::ContainerState::ContainerUnknown,
    })
}

/// Removes an ended container with its log.
pub(crate) async fn remove(shared: &Shared, id: &str, log: &str) -> Result<(), Error> {
    shared.cri.remove_container(v1::RemoveContainerRequest { container_id: id.to_owned() }).await?;
    let log = PathBuf::from(log);
    let removed = tokio::task::spawn_blocking(move || std::fs::remove_file(log)).await;
    if let Ok(Err(error)) = removed {
        tracing::debug!(container = id, %error, "removing an old log failed");
    }
    Ok(())
}

/// Removes a sandbox; one whose network was never torn down is stopped first.
async fn remove_sandbox(shared: &Shared, id: &str) -> Result<(), Error> {
    let pod_sandbox_id = id.to_owned();
    shared.cri.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id }).await?;
    let pod_sandbox_id = id.to_owned();
    shared.cri.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id }).await.map(drop)
}
