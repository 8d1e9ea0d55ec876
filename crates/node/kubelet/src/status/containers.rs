//! Container statuses: state, last state, restart count, started and ready.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, ImageVolumeStatus, LinuxContainerUser, VolumeMountStatus, VolumeStatus,
};

use crate::{
    actions::{any_regular_created, should_start},
    container::inside,
    pod::{self, ContainerKind, ProbeKind},
    record::{ContainerRecord, RunState},
    resize, rounds,
    status::{Seen, cri_time},
};

/// Exit code shown for a container whose end nobody saw.
const EXIT_UNKNOWN: i32 = 137;

/// The statuses of one kind of container, in the order of the spec.
pub(crate) fn convert(seen: &Seen<'_>, kind: ContainerKind) -> Vec<ContainerStatus> {
    let (containers, old) = match kind {
        ContainerKind::Init => (pod::init_containers(seen.pod).to_vec(), &seen.old.init_container_statuses),
        ContainerKind::Regular => (pod::containers(seen.pod).to_vec(), &seen.old.container_statuses),
        ContainerKind::Ephemeral => {
            (pod::ephemeral_containers(seen.pod), &seen.old.ephemeral_container_statuses)
        }
    };
    containers
        .iter()
        .map(|container| {
            let old = pod::status_of(old.as_ref(), &container.name);
            one(seen, kind, container, old)
        })
        .collect()
}

fn one(
    seen: &Seen<'_>,
    kind: ContainerKind,
    container: &Container,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    if kind != ContainerKind::Ephemeral
        && let Some(newest) = seen.record.newest(&container.name)
        && newest.state == RunState::Exited
        && seen.record.is_past(newest)
        && !seen.terminal
    {
        let mut status = from_record(seen, container, newest, old);
        let text = "The container is removed because RestartAllContainers in place";
        status.last_state = status.state.replace(waiting(rounds::RESTARTING, Some(text)));
        return status;
    }
    let mut newest = seen.record.containers.iter().filter(|record| record.name == container.name);
    let mut status = match newest.next() {
        Some(latest) => {
            let mut status = from_record(seen, container, latest, old);
            if let Some(before) = newest.next() {
                status.last_state = Some(state_of(seen, before, None));
            } else if let Some(old) = old
                && old.container_id.as_deref().is_some_and(|id| !id.ends_with(&latest.id))
            {
                // The one before is gone from the runtime; the API remembers how it ended.
                let terminated = old.state.as_ref().and_then(|state| state.terminated.clone());
                status.last_state = match terminated {
                    Some(terminated) => {
                        Some(ContainerState { terminated: Some(terminated), ..Default::default() })
                    }
                    None => old.last_state.clone(),
                };
            } else if let Some(old) = old {
                status.last_state.clone_from(&old.last_state);
            }
            status
        }
        None => missing(seen, kind, container, old),
    };
    waiting_to_start(seen, kind, container, &mut status);
    if status.last_state.is_none() {
        status.last_state = Some(ContainerState::default());
    }
    status
}

/// The reason a container that has to be started is not running yet.
fn waiting_to_start(
    seen: &Seen<'_>,
    kind: ContainerKind,
    container: &Container,
    status: &mut ContainerStatus,
) {
    let latest = seen.record.latest(&container.name);
    if kind == ContainerKind::Init {
        if latest.is_some_and(|latest| latest.state == RunState::Exited && latest.exit_code == 0)
            && !pod::is_sidecar(container)
        {
            return;
        }
        let waits = status.state.as_ref().is_some_and(|state| state.waiting.is_some());
        if latest.is_none()
            && waits
            && !pod::is_sidecar(container)
            && any_regular_created(seen.pod, seen.record)
        {
            status.state = Some(ContainerState {
                terminated: Some(ContainerStateTerminated {
                    reason: Some("Completed".to_owned()),
                    message: Some(
                        "Unable to get init container status from container runtime and pod has been \
                         initialized, treat it as exited normally"
                            .to_owned(),
                    ),
                    exit_code: 0,
                    ..Default::default()
                }),
                ..Default::default()
            });
            return;
        }
    }
    if seen.terminal || seen.verdict.is_some() || !should_start(seen.pod, kind, container, seen.record) {
        return;
    }
    let Some(error) = seen.start_errors.get(&container.name) else { return };
    if status.state.as_ref().is_some_and(|state| state.terminated.is_some()) {
        status.last_state = status.state.take();
    }
    status.state = Some(waiting(&error.reason, Some(&error.message)));
}

/// A container the runtime has nothing of.
fn missing(
    seen: &Seen<'_>,
    kind: ContainerKind,
    container: &Container,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    if let Some(old) = old
        && old.state.as_ref().is_some_and(|state| state.terminated.is_some())
    {
        return old.clone();
    }
    let initializing = !pod::init_containers(seen.pod).is_empty();
    let reason = if initializing { "PodInitializing" } else { "ContainerCreating" };
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting(reason, None)),
        volume_mounts: volume_mounts(container, None),
        started: (kind != ContainerKind::Ephemeral).then_some(false),
        ..Default::default()
    };
    let Some(old) = old else { return status };
    status.restart_count = old.restart_count;
    status.last_state.clone_from(&old.last_state);
    let ran = old.state.as_ref().is_some_and(|state| state.running.is_some());
    let remembered = old.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
    if ran && !remembered {
        // It ran once and nobody saw its end.
        status.last_state = Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                reason: Some("ContainerStatusUnknown".to_owned()),
                message: Some(
                    "The container could not be located when the pod was deleted.  The container used to be Running"
                        .to_owned(),
                ),
                exit_code: EXIT_UNKNOWN,
                ..Default::default()
            }),
            ..Default::default()
        });
        if !pod::is_deleting(seen.pod) {
            status.restart_count += 1;
        }
    }
    if seen.terminal && (ran || remembered) {
        status.state = status.last_state.take();
    }
    status
}

fn from_record(
    seen: &Seen<'_>,
    container: &Container,
    latest: &ContainerRecord,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    ContainerStatus {
        name: container.name.clone(),
        restart_count: i32::try_from(latest.restart_count).unwrap_or(i32::MAX),
        image: latest.image.clone(),
        image_id: latest.image_ref.clone(),
        container_id: Some(container_id(seen, latest)),
        state: Some(state_of(seen, latest, old)),
        volume_mounts: volume_mounts(container, Some(latest)),
        resources: match latest.state {
            RunState::Running => seen.resize.actual.get(&latest.id).map(|have| resize::own(have, container)),
            _ => None,
        }
        .or_else(|| container.resources.clone()),
        allocated_resources: container.resources.as_ref().and_then(|resources| resources.requests.clone()),
        user: latest.user.as_ref().map(|user| ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: user.uid,
                gid: user.gid,
                supplemental_groups: Some(user.supplemental_groups.clone()),
            }),
        }),
        ..Default::default()
    }
}

fn container_id(seen: &Seen<'_>, record: &ContainerRecord) -> String {
    format!("{}://{}", seen.runtime, record.id)
}

fn state_of(seen: &Seen<'_>, record: &ContainerRecord, old: Option<&ContainerStatus>) -> ContainerState {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    match record.state {
        RunState::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: cri_time(record.started_at) }),
            ..Default::default()
        },
        RunState::Exited => ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: record.exit_code,
                reason: text(&record.reason),
                message: text(&record.message),
                started_at: cri_time(record.started_at),
                finished_at: cri_time(record.finished_at),
                container_id: Some(container_id(seen, record)),
                signal: None,
            }),
            ..Default::default()
        },
        RunState::Unknown
            if old.and_then(|old| old.state.as_ref()).is_some_and(|state| state.running.is_some()) =>
        {
            ContainerState {
                terminated: Some(ContainerStateTerminated {
                    reason: Some("ContainerStatusUnknown".to_owned()),
                    message: Some(
                        "The container could not be located when the pod was terminated".to_owned(),
                    ),
                    exit_code: EXIT_UNKNOWN,
                    ..Default::default()
                }),
                ..Default::default()
            }
        }
        RunState::Created | RunState::Unknown => waiting("", None),
    }
}

fn waiting(reason: &str, message: Option<&str>) -> ContainerState {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    ContainerState {
        waiting: Some(ContainerStateWaiting { reason: text(reason), message: message.and_then(text) }),
        ..Default::default()
    }
}

/// The mounts as the spec has them, also in `readOnly`: of an image volume that says what was asked for, it
/// is read-only in any case. Of an image volume that is mounted, its image too. Source: upstream's
/// `convertToAPIContainerStatuses`.
fn volume_mounts(container: &Container, record: Option<&ContainerRecord>) -> Option<Vec<VolumeMountStatus>> {
    let image = |path: &str| {
        let image_ref = record?.image_volumes.get(&inside(path))?.clone();
        Some(VolumeStatus { image: Some(ImageVolumeStatus { image_ref }) })
    };
    // What the runtime has made counts, not what it could make now: a container outlives a change of its handler.
    let recursive = |path: &str| {
        let made = record.is_some_and(|record| record.recursive_read_only.contains(&inside(path)));
        if made { "Enabled" } else { "Disabled" }.to_owned()
    };
    let mounts: Vec<VolumeMountStatus> = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|mount| VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: mount.read_only,
            recursive_read_only: (mount.read_only == Some(true)).then(|| recursive(&mount.mount_path)),
            volume_status: image(&mount.mount_path),
        })
        .collect();
    (!mounts.is_empty()).then_some(mounts)
}

/// Fills in `started` and `ready`, from probes where there are any.
pub(crate) fn readiness(seen: &Seen<'_>, statuses: &mut [ContainerStatus], kind: ContainerKind) {
    let specs = match kind {
        ContainerKind::Init => pod::init_containers(seen.pod),
        ContainerKind::Regular | ContainerKind::Ephemeral => pod::containers(seen.pod),
    };
    for status in statuses {
        let Some(spec) = specs.iter().find(|spec| spec.name == status.name) else { continue };
        let state = status.state.clone().unwrap_or_default();
        if kind == ContainerKind::Init && !pod::is_sidecar(spec) {
            status.ready = state.terminated.as_ref().is_some_and(|terminated| terminated.exit_code == 0);
            status.started = Some(state.running.is_some());
            continue;
        }
        let running = state.running.is_some();
        let id = status.container_id.as_deref().and_then(|id| id.split_once("://")).map_or("", |(_, id)| id);
        let passes = |kind: ProbeKind| kind.of(spec).is_none() || (seen.probe)(id, kind) == Some(true);
        let started = running && passes(ProbeKind::Startup);
        status.started = Some(started);
        status.ready = started && passes(ProbeKind::Readiness);
    }
}
