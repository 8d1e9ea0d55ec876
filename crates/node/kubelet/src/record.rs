//! What the runtime holds of one pod, read from CRI and kept in plain types that decisions take.

use std::collections::{BTreeMap, BTreeSet};

use podium_cri::v1;

/// Labels and annotations that upstream's kubelet puts on sandboxes and containers; tools read them.
pub(crate) mod label {
    pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
    pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
    pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub(crate) const HASH: &str = "io.kubernetes.container.hash";
    pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub(crate) const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub(crate) const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
    pub(crate) const PORTS: &str = "io.kubernetes.container.ports";
    pub(crate) const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
    pub(crate) const TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
}

/// Everything the runtime holds of one pod. Newest first in both lists.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PodRecord {
    pub(crate) sandboxes: Vec<Sandbox>,
    pub(crate) containers: Vec<ContainerRecord>,
    /// When the pod's round of containers began, see [`crate::rounds`]; none if it is in its first.
    pub(crate) round: Option<i64>,
}

/// One sandbox.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) ready: bool,
    /// Nanoseconds since 1970.
    pub(crate) created_at: i64,
    /// Shares the host's network.
    pub(crate) host_network: bool,
    /// The pod's addresses, the primary one first; empty on the host's network.
    pub(crate) ips: Vec<String>,
}

/// What a container is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum RunState {
    Created,
    Running,
    Exited,
    #[default]
    Unknown,
}

impl RunState {
    /// CRI's number for it.
    pub(crate) fn from_cri(state: i32) -> Self {
        match v1::ContainerState::try_from(state) {
            Ok(v1::ContainerState::ContainerCreated) => Self::Created,
            Ok(v1::ContainerState::ContainerRunning) => Self::Running,
            Ok(v1::ContainerState::ContainerExited) => Self::Exited,
            Ok(v1::ContainerState::ContainerUnknown) | Err(_) => Self::Unknown,
        }
    }

    /// As upstream prints it in messages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Unknown => "unknown",
        }
    }
}

/// One container, of this or an earlier sandbox or attempt.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) sandbox_id: String,
    pub(crate) restart_count: u32,
    /// What the container was made from, see [`crate::pod::container_hash`].
    pub(crate) hash: String,
    pub(crate) state: RunState,
    /// Nanoseconds since 1970; zero means never.
    pub(crate) created_at: i64,
    pub(crate) started_at: i64,
    pub(crate) finished_at: i64,
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
    /// The termination message once exited.
    pub(crate) message: String,
    pub(crate) image: String,
    pub(crate) image_ref: String,
    pub(crate) log_path: String,
    pub(crate) user: Option<v1::LinuxContainerUser>,
    pub(crate) annotations: BTreeMap<String, String>,
    /// Container paths with their host paths.
    pub(crate) mounts: Vec<(String, String)>,
    /// Container paths of image volumes with their images, as the runtime names them.
    pub(crate) image_volumes: BTreeMap<String, String>,
    /// Container paths of mounts that are read-only with all below them.
    pub(crate) recursive_read_only: BTreeSet<String>,
}

impl PodRecord {
    /// The newest container of that name in this round.
    pub(crate) fn latest(&self, name: &str) -> Option<&ContainerRecord> {
        self.newest(name).filter(|newest| !self.is_past(newest))
    }

    /// The newest container of that name in any round.
    pub(crate) fn newest(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// Whether a container was made in an earlier round.
    pub(crate) fn is_past(&self, container: &ContainerRecord) -> bool {
        self.round.is_some_and(|began| container.created_at <= began)
    }

    /// Containers that run, or may.
    pub(crate) fn live(&self) -> impl Iterator<Item = &ContainerRecord> {
        self.containers.iter().filter(|c| matches!(c.state, RunState::Running | RunState::Unknown))
    }

    /// The newest sandbox.
    pub(crate) fn sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first()
    }

    /// Nothing of the pod runs any more.
    pub(crate) fn is_down(&self) -> bool {
        self.live().next().is_none() && self.sandboxes.iter().all(|sandbox| !sandbox.ready)
    }

    /// Puts both lists into their order.
    pub(crate) fn sort(&mut self) {
        self.sandboxes.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| b.id.cmp(&a.id)));
        self.containers.sort_by(|a, b| {
            b.created_at
                .cmp(&a.created_at)
                .then(b.restart_count.cmp(&a.restart_count))
                .then_with(|| b.id.cmp(&a.id))
        });
    }
}

impl Sandbox {
    /// Reads a sandbox's status.
    pub(crate) fn from_cri(status: &v1::PodSandboxStatus) -> Self {
        let network = status.network.as_ref();
        let options = status
            .linux
            .as_ref()
            .and_then(|linux| linux.namespaces.as_ref())
            .and_then(|ns| ns.options.as_ref());
        let host_network = options.is_some_and(|options| options.network() == v1::NamespaceMode::Node);
        let ips = network
            .map(|network| {
                std::iter::once(network.ip.clone())
                    .chain(network.additional_ips.iter().map(|ip| ip.ip.clone()))
                    .filter(|ip| !ip.is_empty())
                    .collect()
            })
            .unwrap_or_default();
        Self {
            id: status.id.clone(),
            attempt: status.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
            ready: status.state() == v1::PodSandboxState::SandboxReady,
            created_at: status.created_at,
            host_network,
            ips: if host_network { Vec::new() } else { ips },
        }
    }
}

impl ContainerRecord {
    /// Reads a container's status. `message` is the termination message, which CRI does not carry.
    pub(crate) fn from_cri(status: &v1::ContainerStatus, sandbox_id: &str, message: String) -> Self {
        let annotation = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
        let metadata = status.metadata.as_ref();
        let state = RunState::from_cri(status.state);
        Self {
            id: status.id.clone(),
            name: status
                .labels
                .get(label::CONTAINER_NAME)
                .cloned()
                .or_else(|| metadata.map(|metadata| metadata.name.clone()))
                .unwrap_or_default(),
            sandbox_id: sandbox_id.to_owned(),
            restart_count: annotation(label::RESTART_COUNT)
                .parse()
                .unwrap_or_else(|_| metadata.map_or(0, |metadata| metadata.attempt)),
            hash: annotation(label::HASH),
            state,
            created_at: status.created_at,
            started_at: status.started_at,
            finished_at: status.finished_at,
            exit_code: status.exit_code,
            reason: status.reason.clone(),
            message,
            image: status.image.as_ref().map(|image| image.image.clone()).unwrap_or_default(),
            image_ref: status.image_ref.clone(),
            log_path: status.log_path.clone(),
            user: status.user.as_ref().and_then(|user| user.linux.clone()),
            annotations: status.annotations.clone().into_iter().collect(),
            mounts: status
                .mounts
                .iter()
                .map(|mount| (mount.container_path.clone(), mount.host_path.clone()))
                .collect(),
            image_volumes: status
                .mounts
                .iter()
                .filter_map(|mount| {
                    let image = mount.image.as_ref().filter(|image| !image.image.is_empty())?;
                    Some((mount.container_path.clone(), image.image.clone()))
                })
                .collect(),
            recursive_read_only: status
                .mounts
                .iter()
                .filter(|mount| mount.recursive_read_only)
                .map(|mount| mount.container_path.clone())
                .collect(),
        }
    }
}
