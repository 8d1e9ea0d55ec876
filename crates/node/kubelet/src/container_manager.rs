//! What containers get for themselves: processors, memory of chosen nodes, devices of plugins, and claims that drivers prepare.
//! Decided when a pod is admitted, kept across restarts in checkpoints, and put into the containers' configuration.
//!
//! Pods are admitted one after the other, so that a decision and the calls of plugins within it see what the one before took.

mod checkpoint;
mod claims;
mod cpu_set;
mod cpus;
mod devices;
mod hardware;
mod memory;
mod numa;
mod options;
mod pod_resources;
mod settings;
mod topology;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use k8s_openapi::{
    api::core::v1::{Container, NodeStatus, Pod, PodStatus},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::Client;

use crate::{
    Config,
    admission::Refused,
    context::Shared,
    manager::Pods,
    metrics::{self, Metrics},
    plugin_manager::PluginManager,
    pod,
};
use claims::ClaimManager;
use cpus::CpuManager;
use devices::DeviceManager;
use hardware::{Hardware, Level};
use memory::MemoryManager;
use numa::{Hints, NodeMask};
use options::RunOptions;
pub use settings::{ContainerManagerSettings, SettingsError};
use topology::{Policy, Scope};

/// Wakes the worker of a pod, by uid.
pub(crate) type Wake = Arc<dyn Fn(&str) + Send + Sync>;

/// Why a container does not get what it asks for.
#[derive(Debug)]
pub(crate) struct AllocateError {
    /// The reason in the pod's status, where it is not the usual one.
    pub(crate) reason: Option<&'static str>,
    pub(crate) message: String,
}

impl From<String> for AllocateError {
    fn from(message: String) -> Self {
        Self { reason: None, message }
    }
}

impl From<AllocateError> for Refused {
    fn from(error: AllocateError) -> Self {
        match error.reason {
            Some(reason) => Self { reason: reason.to_owned(), message: error.message },
            // What upstream makes of a failure that has no reason of its own.
            None => Self {
                reason: "UnexpectedAdmissionError".to_owned(),
                message: format!("Allocate failed due to {}, which is unexpected", error.message),
            },
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct ContainerManager {
    hardware: Hardware,
    topology: settings::Topology,
    cpus: CpuManager,
    memory: MemoryManager,
    devices: Arc<DeviceManager>,
    claims: ClaimManager,
    /// Held while a pod is admitted.
    admitting: tokio::sync::Mutex<()>,
    plugins: PluginManager,
    metrics: Arc<Metrics>,
    /// Where agents ask who has what.
    pod_resources: PathBuf,
}

impl ContainerManager {
    /// With what checkpoints say was given out.
    pub(crate) fn open(config: &Config, metrics: &Arc<Metrics>, wake: Wake) -> Result<Self, SettingsError> {
        let (settings, root) = (&config.container_manager, &config.root_dir);
        let hardware = Hardware::read(Path::new("/sys"));
        let topology = settings.topology(&hardware)?;
        let cpus = CpuManager::open(root, settings.cpus(&hardware)?)?;
        let memory = MemoryManager::open(root, settings.memory(&hardware)?)?;
        let devices = DeviceManager::open(&directory(config, "device-plugins")?, metrics.clone(), wake);
        let claims = ClaimManager::open(root)?;
        let plugins = PluginManager::new(directory(config, "plugins_registry")?)
            .handle("DevicePlugin", devices.clone())
            .handle("DRAPlugin", claims.drivers.clone());
        let admitting = tokio::sync::Mutex::default();
        // Where drivers put sockets that are not for registration.
        directory(config, "plugins")?;
        let pod_resources = directory(config, "pod-resources")?;
        let this = Self {
            hardware,
            topology,
            cpus,
            memory,
            devices,
            claims,
            admitting,
            plugins,
            metrics: metrics.clone(),
            pod_resources,
        };
        this.tell_cpus();
        Ok(this)
    }

    /// Gives a pod's containers what they ask for, or says why it is not to be had.
    pub(crate) async fn admit(&self, wanted: &Pod) -> Result<(), Refused> {
        if !(self.cpus.concerns(wanted) || self.memory.concerns(wanted) || self.devices.concerns(wanted)) {
            return Ok(());
        }
        let _admitting = self.admitting.lock().await;
        let began = std::time::Instant::now();
        let admitted = self.give(wanted).await;
        let milliseconds = began.elapsed().as_secs_f64() * 1000.0;
        self.metrics.observe(&metrics::TOPOLOGY_DURATION, &[], milliseconds.trunc());
        self.tell_cpus();
        admitted
    }

    async fn give(&self, wanted: &Pod) -> Result<(), Refused> {
        let scope = if self.topology.scope == Scope::Pod { "pod" } else { "container" };
        let aligned = [("boundary", "numa_node"), ("scope", scope)];
        let of_pod = match (self.topology.policy, self.topology.scope) {
            (Policy::None, _) | (_, Scope::Container) => None,
            (_, Scope::Pod) => Some(self.affinity(&self.pod_hints(wanted))?),
        };
        for container in pod::init_containers(wanted).iter().chain(pod::containers(wanted)) {
            let affinity = match (self.topology.policy, of_pod) {
                (Policy::None, _) => None,
                (_, Some(affinity)) => affinity,
                (_, None) => self.affinity(&self.hints(wanted, container))?,
            };
            self.allocate(wanted, container, affinity).await?;
            if self.topology.policy == Policy::SingleNumaNode && self.topology.scope == Scope::Container {
                self.metrics.count(&metrics::ALIGNED, &aligned);
            }
        }
        if self.topology.policy == Policy::SingleNumaNode && self.topology.scope == Scope::Pod {
            self.metrics.count(&metrics::ALIGNED, &aligned);
        }
        Ok(())
    }

    /// How many processors are whose, for metrics; nothing is told where none are given out.
    fn tell_cpus(&self) {
        let Some((shared, exclusive)) = self.cpus.shares() else { return };
        // There are never so many that a float could not tell them apart.
        let number =
            |cpus: &cpu_set::CpuSet| f64::from(u32::try_from(cpus.iter().count()).unwrap_or(u32::MAX));
        self.metrics.set(&metrics::CPU_SHARED, &[], number(&shared) * 1000.0);
        self.metrics.set(&metrics::CPU_EXCLUSIVE, &[], number(&exclusive));
        for node in self.hardware.nodes().nodes() {
            let here = self.hardware.on(&exclusive, [node].into_iter().collect());
            self.metrics.set(&metrics::CPU_PER_NUMA, &[("numa_node", &node.to_string())], number(&here));
        }
    }

    fn hints(&self, wanted: &Pod, container: &Container) -> [Hints; 3] {
        [
            self.cpus.hints(wanted, container),
            self.memory.hints(wanted, container),
            self.devices.hints(wanted, container, self.hardware.nodes()),
        ]
    }

    fn pod_hints(&self, wanted: &Pod) -> [Hints; 3] {
        [
            self.cpus.pod_hints(wanted),
            self.memory.pod_hints(wanted),
            self.devices.pod_hints(wanted, self.hardware.nodes()),
        ]
    }

    /// The nodes for these hints, if the policy admits them.
    fn affinity(&self, hints: &[Hints]) -> Result<Option<NodeMask>, Refused> {
        let settings::Topology { policy, closest, .. } = self.topology;
        self.metrics.count(&metrics::TOPOLOGY_REQUESTS, &[]);
        match topology::merge(policy, closest, &self.hardware, hints) {
            (nodes, true) => Ok(nodes),
            (_, false) => {
                self.metrics.count(&metrics::TOPOLOGY_ERRORS, &[]);
                if policy == Policy::SingleNumaNode {
                    let scope = if self.topology.scope == Scope::Pod { "pod" } else { "container" };
                    let labels = [("boundary", "numa_node"), ("scope", scope)];
                    self.metrics.count(&metrics::NOT_ALIGNED, &labels);
                }
                Err(topology::refused())
            }
        }
    }

    async fn allocate(
        &self,
        wanted: &Pod,
        container: &Container,
        affinity: Option<NodeMask>,
    ) -> Result<(), AllocateError> {
        if self.cpus.pins(wanted, container) {
            self.metrics.count(&metrics::CPU_PINNING, &[]);
            let labels = [("boundary", "physical_cpu"), ("scope", "container")];
            let given = self.cpus.allocate(wanted, container, affinity);
            match (&given, self.cpus.gives_whole_cores()) {
                (Ok(()), true) => self.metrics.count(&metrics::ALIGNED, &labels),
                (Err(_), true) => self.metrics.count(&metrics::NOT_ALIGNED, &labels),
                _ => {}
            }
            given.inspect_err(|_| self.metrics.count(&metrics::CPU_PINNING_ERRORS, &[]))?;
        }
        if self.memory.promises(wanted, container) {
            self.metrics.count(&metrics::MEMORY_PINNING, &[]);
            self.memory.allocate(wanted, container, affinity).inspect_err(|_| {
                self.metrics.count(&metrics::MEMORY_PINNING_ERRORS, &[]);
            })?;
        }
        Ok(self.devices.allocate(wanted, container, affinity).await?)
    }

    /// What a container that is about to start gets in its configuration.
    pub(crate) async fn options(&self, wanted: &Pod, container: &Container) -> Result<RunOptions, String> {
        if self.devices.lacks(wanted, container) {
            // Its plugin was not known, or not yet known again, when the pod was admitted.
            let _admitting = self.admitting.lock().await;
            self.devices.allocate(wanted, container, None).await?;
        }
        self.devices.pre_start(wanted, container).await?;
        let uid = pod::uid(wanted);
        let mut options = self.devices.options(uid, &container.name);
        self.claims.options(wanted, container, &mut options)?;
        options.own_cpus = !self.cpus.exclusive(uid, &container.name).is_empty();
        if let Some(cpus) = self.cpus.cpus(uid, &container.name) {
            options.cpuset_cpus = cpus.to_string();
        }
        if let Some(nodes) = self.memory.nodes(uid, &container.name) {
            options.cpuset_mems = nodes.nodes().collect::<cpu_set::CpuSet>().to_string();
        }
        Ok(options)
    }

    /// Whether a container of the pod has processors for itself.
    pub(crate) fn has_own_cpus(&self, wanted: &Pod) -> bool {
        let all = pod::containers(wanted).iter().chain(pod::init_containers(wanted));
        all.into_iter().any(|one| !self.cpus.exclusive(pod::uid(wanted), &one.name).is_empty())
    }

    /// Why a pod cannot be resized in place, in metrics' words and in those for people: what was given out is for its whole life.
    pub(crate) fn forbids_resize(&self, wanted: &Pod) -> Option<(&'static str, String)> {
        let (detail, policy) = if self.cpus.concerns(wanted) {
            ("guaranteed_pod_cpu_manager_static_policy", "CPU Manager policy \"static\"")
        } else if self.memory.concerns(wanted) {
            ("guaranteed_pod_memory_manager_static_policy", "Memory Manager policy \"Static\"")
        } else {
            return None;
        };
        Some((detail, format!("Resize is infeasible for Guaranteed Pods alongside {policy}")))
    }

    /// Has the pod's claims prepared, before its sandbox is made.
    pub(crate) async fn prepare(&self, client: &Client, wanted: &Pod) -> Result<(), String> {
        self.claims.prepare(client, wanted).await
    }

    /// Fills in how what the pod was given is.
    pub(crate) fn show(&self, wanted: &Pod, status: &mut PodStatus) {
        self.devices.show(wanted, status);
    }

    /// Takes back what a pod had, once nothing of it runs. Safe to repeat.
    pub(crate) async fn release(&self, uid: &str) -> Result<(), String> {
        self.cpus.release(uid);
        self.tell_cpus();
        self.memory.release(uid);
        self.devices.release(uid);
        self.claims.unprepare(uid).await
    }

    /// Takes back what pods had that are not `known` any more. It is asked while nothing can be given out.
    pub(crate) async fn retain(&self, known: &(dyn Fn(&str) -> bool + Sync)) {
        self.cpus.retain(known);
        self.tell_cpus();
        self.memory.retain(known);
        self.devices.retain(known);
        self.claims.retain(known).await;
    }

    /// Adds what plugins bring to the node's capacity and allocatable.
    pub(crate) fn extend(
        &self,
        capacity: &mut BTreeMap<String, Quantity>,
        allocatable: &mut BTreeMap<String, Quantity>,
    ) {
        for (name, (all, healthy)) in self.devices.capacity() {
            capacity.insert(name.clone(), all);
            allocatable.insert(name, healthy);
        }
    }

    /// Extended resources that a node object remembers from a machine that is no longer the same are not there until a plugin
    /// brings them.
    pub(crate) fn reset_extended(&self, old: &NodeStatus, status: &mut NodeStatus) {
        if !self.devices.is_new {
            return;
        }
        let none = || Quantity("0".to_owned());
        let names = old.capacity.iter().flat_map(BTreeMap::keys);
        for name in names.filter(|name| podium_api::kinds::pod::is_extended_resource(name)) {
            status.capacity.get_or_insert_default().entry(name.clone()).or_insert_with(none);
            status.allocatable.get_or_insert_default().entry(name.clone()).or_insert_with(none);
        }
    }

    /// Cores and sockets of the machine.
    pub(crate) fn cores_and_sockets(&self) -> (usize, usize) {
        let count = |level| self.hardware.parts(&self.hardware.all(), level).len();
        (count(Level::Core), count(Level::Socket))
    }

    /// Waits until the node has other devices than before.
    pub(crate) async fn capacity_changed(&self) {
        tokio::select! {
            () = self.devices.changed.notified() => {}
            () = self.devices.expiry() => {}
        }
    }
}

/// Serves plugins and agents, and keeps containers on their processors, until shutdown.
pub(crate) async fn run(shared: &Shared, pods: &Arc<Pods>) {
    let (manager, config) = (&shared.container_manager, &shared.config);
    let told = |what: &'static str, ended: std::io::Result<()>| {
        if let Err(error) = ended {
            tracing::error!(%error, "{what}");
        }
    };
    let device_plugins = async {
        told("device plugins cannot register", devices::registration::serve(manager.devices.clone()).await);
    };
    let plugins = async { told("plugins are not found by their sockets", manager.plugins.run().await) };
    let agents = async {
        let directory = manager.pod_resources.clone();
        told("agents cannot ask who has what", pod_resources::serve(directory, shared, pods).await);
    };
    let slices = claims::slices::run(&config.client, &config.node_name, &manager.claims.drivers);
    tokio::select! {
        _ = async { tokio::join!(device_plugins, plugins, agents, slices, manager.cpus.run(&shared.cri)) } => {}
        () = shared.shutdown.cancelled() => {}
    }
}

/// A directory of the kubelet's own for sockets and checkpoints.
fn directory(config: &Config, name: &str) -> Result<PathBuf, SettingsError> {
    use std::os::unix::fs::DirBuilderExt;
    let path = config.root_dir.join(name);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(&path)
        .map_err(|source| SettingsError::Directory { path: path.clone(), source })?;
    Ok(path)
}
