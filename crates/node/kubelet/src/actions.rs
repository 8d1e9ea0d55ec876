//! What one pod needs next: the sandbox, containers to kill, containers to start, and containers that
//! have to wait for their back-off. No I/O, clock or randomness.
//!
//! The behaviour is that of upstream's `computePodActions`, with one difference: the crash back-off is
//! part of the decision, so that the caller knows how long there is nothing to do.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::{
    backoff::Backoff,
    pod::{self, ContainerKind, ProbeKind},
    record::{ContainerRecord, PodRecord, RunState},
    resize::{self, Change},
    rounds,
};

/// What the decision is taken from.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) record: &'a PodRecord,
    /// The settled result of a container's probe by container id, None while it has none.
    pub(crate) probe: &'a dyn Fn(&str, ProbeKind) -> Option<bool>,
    pub(crate) backoff: &'a Backoff,
    /// The CPU and memory running containers have.
    pub(crate) actual: &'a resize::Actual,
    pub(crate) now: Timestamp,
}

impl std::fmt::Debug for Seen<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seen").field("record", self.record).finish_non_exhaustive()
    }
}

/// The sandbox's part of the decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SandboxPlan {
    /// The newest one serves.
    Keep { id: String },
    /// Make one. `replaces`: an older one is there, which is stopped first with all that runs in it.
    Create { attempt: u32, replaces: bool },
    /// There is none that serves, and none is needed.
    None,
}

/// Why a container is killed; it decides the grace period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KillReason {
    Startup,
    Liveness,
    /// All containers of the pod begin anew.
    RestartAll,
    Other,
}

/// One container to kill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kill {
    pub(crate) id: String,
    pub(crate) name: String,
    /// The message of the Killing event.
    pub(crate) message: String,
    pub(crate) reason: KillReason,
}

/// One container to start, by its place in its list of the spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) kind: ContainerKind,
    pub(crate) index: usize,
    /// The key of its back-off; the caller notes the start under it if there was a start before.
    pub(crate) backoff_key: String,
    /// When the container before this one ended.
    pub(crate) last_exit: Option<Timestamp>,
}

/// One running container that gets other amounts of CPU or memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ToResize {
    pub(crate) id: String,
    pub(crate) kind: ContainerKind,
    pub(crate) index: usize,
}

/// One container that would be started but for its back-off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) kind: ContainerKind,
    pub(crate) name: String,
    /// How long still.
    pub(crate) remaining: Duration,
    /// The whole delay, for messages.
    pub(crate) delay: Duration,
}

/// The decision. Kills come first, then the sandbox, then starts in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodActions {
    pub(crate) sandbox: SandboxPlan,
    /// Everything is to end: the pod is done, or its sandbox is to be replaced.
    pub(crate) kill_pod: bool,
    pub(crate) kill: Vec<Kill>,
    pub(crate) start: Vec<Start>,
    pub(crate) held: Vec<Held>,
    /// Done last, and in this order.
    pub(crate) resize: Vec<ToResize>,
}

/// Decides.
pub(crate) fn compute_actions(seen: &Seen<'_>) -> PodActions {
    let mut plan = Plan { seen, actions: PodActions::nothing() };
    match sandbox_state(seen.pod, seen.record) {
        SandboxState::Serves { id } => {
            plan.actions.sandbox = SandboxPlan::Keep { id };
            plan.in_sandbox();
        }
        SandboxState::Missing { attempt } => plan.without_sandbox(attempt),
    }
    plan.actions
}

/// Whether the newest sandbox serves.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SandboxState {
    Serves { id: String },
    Missing { attempt: u32 },
}

/// Whether the pod's newest sandbox can hold its containers, as upstream's `PodSandboxChanged` judges.
pub(crate) fn sandbox_state(pod: &Pod, record: &PodRecord) -> SandboxState {
    let Some(newest) = record.sandbox() else { return SandboxState::Missing { attempt: 0 } };
    let next = SandboxState::Missing { attempt: newest.attempt + 1 };
    let ready = record.sandboxes.iter().filter(|sandbox| sandbox.ready).count();
    let host_network = pod::host_network(pod);
    if ready != 1 || !newest.ready || newest.host_network != host_network {
        return next;
    }
    if !host_network && newest.ips.is_empty() {
        return next;
    }
    SandboxState::Serves { id: newest.id.clone() }
}

/// Whether a container that is not running is to be started, as upstream's `ShouldContainerBeRestarted`.
pub(crate) fn should_start(
    pod: &Pod,
    kind: ContainerKind,
    container: &Container,
    record: &PodRecord,
) -> bool {
    if pod::is_deleting(pod) {
        return false;
    }
    match record.latest(&container.name) {
        None => true,
        Some(latest) => match latest.state {
            RunState::Running => false,
            RunState::Created | RunState::Unknown => true,
            RunState::Exited => pod::restarts_after(pod, kind, container, latest.exit_code),
        },
    }
}

/// A regular container was made at some time: initialisation is behind the pod.
pub(crate) fn any_regular_created(pod: &Pod, record: &PodRecord) -> bool {
    pod::containers(pod).iter().any(|container| record.latest(&container.name).is_some())
}

/// The back-off key of a container: pod, container and what it is made from.
pub(crate) fn backoff_key(pod: &Pod, container: &Container) -> String {
    format!("{}/{}/{}", pod::uid(pod), container.name, pod::container_hash(container))
}

impl PodActions {
    fn nothing() -> Self {
        Self {
            sandbox: SandboxPlan::None,
            kill_pod: false,
            kill: Vec::new(),
            start: Vec::new(),
            held: Vec::new(),
            resize: Vec::new(),
        }
    }

    /// Nothing to do now (though perhaps later, see `held`).
    pub(crate) fn is_idle(&self) -> bool {
        !self.kill_pod
            && self.kill.is_empty()
            && self.start.is_empty()
            && self.resize.is_empty()
            && !matches!(self.sandbox, SandboxPlan::Create { .. })
    }
}

struct Plan<'a> {
    seen: &'a Seen<'a>,
    actions: PodActions,
}

impl Plan<'_> {
    /// There is no usable sandbox: either the pod is over, or it starts from its beginning.
    fn without_sandbox(&mut self, attempt: u32) {
        let Seen { pod, record, .. } = *self.seen;
        self.actions.kill_pod = true;
        let never = !pod::containers(pod).iter().any(|container| pod::restarts_after_kill(pod, container));
        if never && attempt != 0 && !record.containers.is_empty() {
            return;
        }
        let wanted: Vec<usize> = pod::containers(pod)
            .iter()
            .enumerate()
            .filter(|(_, container)| {
                let succeeded = record
                    .latest(&container.name)
                    .is_some_and(|latest| latest.state == RunState::Exited && latest.exit_code == 0);
                !succeeded || pod::restarts_after(pod, ContainerKind::Regular, container, 0)
            })
            .map(|(index, _)| index)
            .collect();
        if wanted.is_empty() && any_regular_created(pod, record) {
            return;
        }
        self.actions.sandbox = SandboxPlan::Create { attempt, replaces: !record.sandboxes.is_empty() };
        self.actions.kill_pod = !record.sandboxes.is_empty();
        if pod::init_containers(pod).is_empty() {
            for index in wanted {
                self.start(ContainerKind::Regular, index);
            }
        } else {
            self.start(ContainerKind::Init, 0);
        }
    }

    fn in_sandbox(&mut self) {
        let Seen { pod, record, .. } = *self.seen;
        for (index, container) in pod::ephemeral_containers(pod).iter().enumerate() {
            // They are started once and never again, whatever happens to the others.
            if record.newest(&container.name).is_none() {
                self.start(ContainerKind::Ephemeral, index);
            }
        }
        let leftovers = rounds::leftovers(pod, record);
        if !leftovers.is_empty() {
            // All of them end before the first begins again.
            for one in leftovers {
                self.kill(one, "killing".to_owned(), KillReason::RestartAll);
            }
            return;
        }
        if !self.init_containers() {
            return;
        }
        let mut kept = 0;
        let mut coming = 0;
        for (index, container) in pod::containers(pod).iter().enumerate() {
            match record.latest(&container.name) {
                Some(latest) if latest.state == RunState::Running => {
                    match self.why_kill(container, latest, "Container") {
                        None => {
                            kept += 1;
                            self.resize(ContainerKind::Regular, index, container, latest);
                        }
                        Some((message, reason, changed)) => {
                            let restart = changed || pod::restarts_after_kill(pod, container);
                            let message =
                                if restart { format!("{message}, will be restarted") } else { message };
                            self.kill(latest, message, reason);
                            if restart {
                                coming += 1;
                                self.start(ContainerKind::Regular, index);
                            }
                        }
                    }
                }
                latest => {
                    if !should_start(pod, ContainerKind::Regular, container, record) {
                        continue;
                    }
                    coming += 1;
                    if let Some(latest) = latest.filter(|latest| latest.state == RunState::Unknown) {
                        self.kill_unknown(latest, "Container");
                    }
                    self.start(ContainerKind::Regular, index);
                }
            }
        }
        if kept == 0 && coming == 0 {
            // Sidecars do not keep a pod alive.
            self.actions =
                PodActions { sandbox: self.actions.sandbox.clone(), kill_pod: true, ..PodActions::nothing() };
        }
    }

    /// Decides about init containers; true once the regular ones may run.
    fn init_containers(&mut self) -> bool {
        let Seen { pod, record, .. } = *self.seen;
        let inits = pod::init_containers(pod);
        if inits.is_empty() {
            return true;
        }
        let initialized = pod::containers(pod).iter().any(|container| {
            record
                .latest(&container.name)
                .is_some_and(|latest| matches!(latest.state, RunState::Created | RunState::Running))
        });
        if initialized {
            // Their records may be gone by now; only sidecars still matter.
            for (index, container) in inits.iter().enumerate() {
                if pod::is_sidecar(container) {
                    self.keep_sidecar(index, container);
                }
            }
            return true;
        }
        // The last one that has a record is where initialisation stands.
        let Some(at) = inits.iter().rposition(|container| record.latest(&container.name).is_some()) else {
            self.start(ContainerKind::Init, 0);
            return false;
        };
        for (index, container) in inits.iter().enumerate().take(at) {
            if pod::is_sidecar(container) {
                self.keep_sidecar(index, container);
            }
        }
        let done = match self.init_step(at, &inits[at]) {
            InitStep::Done => true,
            InitStep::Waiting => return false,
            InitStep::Failed => {
                self.actions = PodActions {
                    sandbox: self.actions.sandbox.clone(),
                    kill_pod: true,
                    ..PodActions::nothing()
                };
                return false;
            }
        };
        if done && at + 1 < inits.len() {
            self.start(ContainerKind::Init, at + 1);
            return false;
        }
        done
    }

    fn init_step(&mut self, index: usize, container: &Container) -> InitStep {
        let Seen { pod, record, .. } = *self.seen;
        let Some(latest) = record.latest(&container.name) else { return InitStep::Waiting };
        if pod::is_sidecar(container) {
            self.keep_sidecar(index, container);
            let started = latest.state == RunState::Running
                && (container.startup_probe.is_none()
                    || (self.seen.probe)(&latest.id, ProbeKind::Startup) == Some(true));
            return if started { InitStep::Done } else { InitStep::Waiting };
        }
        match latest.state {
            RunState::Running => {
                self.resize(ContainerKind::Init, index, container, latest);
                InitStep::Waiting
            }
            // Made but never started: the start failed.
            RunState::Created => {
                self.start(ContainerKind::Init, index);
                InitStep::Waiting
            }
            RunState::Exited if latest.exit_code == 0 => InitStep::Done,
            RunState::Exited => {
                if !pod::restarts_after(pod, ContainerKind::Init, container, latest.exit_code) {
                    return InitStep::Failed;
                }
                self.start(ContainerKind::Init, index);
                InitStep::Waiting
            }
            RunState::Unknown => {
                if !pod::restarts_after_kill(pod, container) {
                    return InitStep::Failed;
                }
                self.kill_unknown(latest, "Init container");
                self.start(ContainerKind::Init, index);
                InitStep::Waiting
            }
        }
    }

    /// A sidecar whose turn has come runs until the pod ends.
    fn keep_sidecar(&mut self, index: usize, container: &Container) {
        let Some(latest) = self.seen.record.latest(&container.name) else {
            self.start(ContainerKind::Init, index);
            return;
        };
        match latest.state {
            RunState::Running => {
                if let Some((message, reason, _)) = self.why_kill(container, latest, "Init container") {
                    self.kill(latest, message, reason);
                    self.start(ContainerKind::Init, index);
                } else {
                    self.resize(ContainerKind::Init, index, container, latest);
                }
            }
            RunState::Created | RunState::Exited => self.start(ContainerKind::Init, index),
            RunState::Unknown => {
                self.kill_unknown(latest, "Init container");
                self.start(ContainerKind::Init, index);
            }
        }
    }

    /// Why a running container must go, and whether because its spec changed.
    fn why_kill(
        &self,
        container: &Container,
        latest: &ContainerRecord,
        word: &str,
    ) -> Option<(String, KillReason, bool)> {
        let failed = |kind| (self.seen.probe)(&latest.id, kind) == Some(false);
        let name = &container.name;
        // A container without our mark was made by somebody else or an older version: leave it alone.
        if !latest.hash.is_empty() && latest.hash != pod::container_hash(container) {
            Some((format!("{word} {name} definition changed"), KillReason::Other, true))
        } else if failed(ProbeKind::Liveness) {
            Some((format!("{word} {name} failed liveness probe"), KillReason::Liveness, false))
        } else if failed(ProbeKind::Startup) {
            Some((format!("{word} {name} failed startup probe"), KillReason::Startup, false))
        } else if self.change(container, latest) == Some(Change::Restart) {
            Some((format!("{word} {name} resize requires restart"), KillReason::Other, true))
        } else {
            None
        }
    }

    fn change(&self, container: &Container, latest: &ContainerRecord) -> Option<Change> {
        resize::change(self.seen.pod, container, self.seen.actual.get(&latest.id))
    }

    fn resize(&mut self, kind: ContainerKind, index: usize, container: &Container, latest: &ContainerRecord) {
        if self.change(container, latest).is_some() {
            self.actions.resize.push(ToResize { id: latest.id.clone(), kind, index });
        }
    }

    fn kill(&mut self, latest: &ContainerRecord, message: String, reason: KillReason) {
        self.actions.kill.push(Kill { id: latest.id.clone(), name: latest.name.clone(), message, reason });
    }

    fn kill_unknown(&mut self, latest: &ContainerRecord, word: &str) {
        let message =
            format!("{word} is in {:?} state, try killing it before restart", latest.state.as_str());
        self.kill(latest, message, KillReason::Other);
    }

    fn start(&mut self, kind: ContainerKind, index: usize) {
        let Seen { pod, record, backoff, now, .. } = *self.seen;
        let container = match kind {
            ContainerKind::Init => pod::init_containers(pod)[index].clone(),
            ContainerKind::Regular => pod::containers(pod)[index].clone(),
            ContainerKind::Ephemeral => pod::ephemeral_containers(pod)[index].clone(),
        };
        let key = backoff_key(pod, &container);
        // The newest run that has ended: the latest one may be about to be killed. Runs of earlier rounds hold nothing up:
        // upstream removes them when a round begins.
        let last_exit = record
            .containers
            .iter()
            .find(|one| one.name == container.name && one.state == RunState::Exited && !record.is_past(one))
            .and_then(|ended| Timestamp::from_nanosecond(i128::from(ended.finished_at)).ok());
        if let Some((remaining, delay)) = last_exit.and_then(|since| backoff.waiting_since(&key, since, now))
        {
            self.actions.held.push(Held { kind, name: container.name, remaining, delay });
        } else if !self.actions.start.iter().any(|start| start.kind == kind && start.index == index) {
            self.actions.start.push(Start { kind, index, backoff_key: key, last_exit });
        }
    }
}

enum InitStep {
    Done,
    Waiting,
    Failed,
}

#[cfg(test)]
mod tests;
