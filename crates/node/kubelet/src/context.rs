//! What every part of the kubelet shares.

use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, sync::Arc, time::Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use kube::Client;
use parking_lot::Mutex;
use podium_client::{EventRecorder, Informer, Shutdown, reference_of};
use podium_cri::Cri;
use tokio::sync::watch;

use crate::{
    Config,
    backoff::Backoff,
    cgroups::{CgroupError, Cgroups},
    container_manager::ContainerManager,
    eviction::{state::Pressure, thresholds::Threshold},
    image_gc::ImageGc,
    images::Images,
    manager::clean::Cleaning,
    metrics::{self, Metrics},
    node::machine::Machine,
    references::References,
    resources::{Bounds, CpuBounds, Swap},
    tokens::Tokens,
    trust_bundles::TrustBundles,
    userns::UserNamespaces,
    volumes::{PodDir, mounting::Mounting},
};

/// Shared by all workers; cheap to pass as an `Arc`.
pub(crate) struct Context {
    pub(crate) config: Config,
    /// The node as the API has it.
    pub(crate) node: Arc<Mutex<Option<Arc<Node>>>>,
    pub(crate) cri: Cri,
    pub(crate) client: Client,
    pub(crate) recorder: EventRecorder,
    pub(crate) services: Informer<Service>,
    pub(crate) references: References,
    pub(crate) tokens: Tokens,
    pub(crate) trust_bundles: TrustBundles,
    pub(crate) users: UserNamespaces,
    pub(crate) images: Images,
    pub(crate) image_gc: ImageGc,
    /// When the node is short of something.
    pub(crate) thresholds: Vec<Threshold>,
    /// What it is short of.
    pub(crate) pressures: Mutex<BTreeSet<Pressure>>,
    /// Mounts of file servers that are under way.
    pub(crate) mounting: Mounting,
    /// Whose remains are being removed.
    pub(crate) cleaning: Cleaning,
    pub(crate) cgroups: Cgroups,
    pub(crate) container_manager: ContainerManager,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) machine: Machine,
    /// Crash back-off of all containers.
    pub(crate) crashes: Mutex<Backoff>,
    /// The runtime's name, the scheme of container ids.
    pub(crate) runtime_name: String,
    /// As `nodeInfo.containerRuntimeVersion` has it: name and version.
    pub(crate) runtime_version: String,
    /// When this kubelet came up: containers older than that were there before.
    pub(crate) started: Timestamp,
    pub(crate) shutdown: Shutdown,
    /// Whether the machine is shutting down: its pods end and no new ones begin.
    pub(crate) leaving: watch::Sender<bool>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("node", &self.config.node_name).finish_non_exhaustive()
    }
}

impl Context {
    /// A pod's directory below the kubelet's root.
    pub(crate) fn pod_dir(&self, uid: &str) -> PodDir {
        PodDir::new(&self.config.root_dir, uid)
    }

    /// Makes the pod's group, bounded by what the pod may use; safe to repeat. `operation` is what metrics call it. Blocks.
    pub(crate) fn make_group(&self, pod: &Pod, operation: &str) -> Result<(), CgroupError> {
        let began = Instant::now();
        let made = self.cgroups.make_pod(pod, self.container_manager.has_own_cpus(pod));
        self.metrics.since(&metrics::CGROUPS, &[("operation_type", operation)], began);
        made
    }

    /// Removes the group at a path, with all below it. Blocks.
    pub(crate) fn remove_group(&self, path: &str) -> Result<(), CgroupError> {
        let began = Instant::now();
        let removed = self.cgroups.remove(path);
        self.metrics.since(&metrics::CGROUPS, &[("operation_type", "destroy")], began);
        removed
    }

    /// The node's addresses as text, the primary one first.
    pub(crate) fn host_ips(&self) -> Vec<String> {
        vec![self.config.node_ip.to_string()]
    }

    /// Where seccomp profiles of the node lie.
    pub(crate) fn seccomp_root(&self) -> String {
        self.config.root_dir.join("seccomp").to_string_lossy().into_owned()
    }

    /// What bounds every container of this node.
    pub(crate) fn bounds(&self) -> Bounds {
        let settings = &self.config.settings;
        Bounds {
            memory_capacity: self.machine.memory_bytes,
            cgroup_v2: self.cgroups.is_v2(),
            cpu: CpuBounds::of(settings),
            huge_pages: self.machine.huge_pages.keys().copied().collect(),
            swap: match settings.memory_swap.swap_behavior.as_str() {
                _ if !self.cgroups.bounds_swap() => Swap::Unbounded,
                "LimitedSwap" => Swap::Limited { capacity: self.machine.swap_bytes },
                _ => Swap::None,
            },
        }
    }

    /// Where a pod can be reached for probes and hooks.
    pub(crate) fn address_of(&self, pod: &Pod, sandbox_ips: &[String]) -> Option<IpAddr> {
        if crate::pod::host_network(pod) {
            return Some(self.config.node_ip);
        }
        sandbox_ips.first().and_then(|ip| ip.parse().ok())
    }

    /// What events about a container are recorded on.
    pub(crate) fn container_reference(
        &self,
        pod: &Pod,
        kind: crate::pod::ContainerKind,
        name: &str,
    ) -> ObjectReference {
        let list = match kind {
            crate::pod::ContainerKind::Init => "initContainers",
            crate::pod::ContainerKind::Regular => "containers",
            crate::pod::ContainerKind::Ephemeral => "ephemeralContainers",
        };
        ObjectReference { field_path: Some(format!("spec.{list}{{{name}}}")), ..reference_of(pod) }
    }

    /// Where a pod's logs are.
    pub(crate) fn log_directory(&self, pod: &Pod) -> PathBuf {
        crate::sandbox::log_directory(&self.config.settings.pod_logs_dir, pod)
    }
}

/// The context as tasks hold it.
pub(crate) type Shared = Arc<Context>;
