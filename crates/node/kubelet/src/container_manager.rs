//! What containers get besides CPU time and memory: devices of plugins, and claims that drivers prepare. Decided
//! when a pod is admitted, kept across restarts in checkpoints, and put into the containers' configuration.
//!
//! Pods are admitted one after the other, so that a decision and the calls of plugins within it see what the one before took.

mod checkpoint;
mod claims;
mod devices;
mod numa;
mod options;

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Container, NodeStatus, Pod, PodStatus},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::Client;
use podium_client::Shutdown;

use crate::{Config, admission::Refused, plugin_manager::PluginManager, pod};
use checkpoint::CheckpointError;
use claims::ClaimManager;
use devices::DeviceManager;
use options::RunOptions;

/// Wakes the worker of a pod, by uid.
pub(crate) type Wake = Arc<dyn Fn(&str) + Send + Sync>;

/// Why the managers cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A directory could not be made.
    #[error("making {path}")]
    Directory {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What was given out before cannot be read: somebody has to look, and to remove the file once nothing of it is in use.
    #[error("please drain this node and delete the checkpoint file before restarting the kubelet: {0}")]
    Checkpoint(String),
}

impl From<CheckpointError> for SettingsError {
    fn from(error: CheckpointError) -> Self {
        Self::Checkpoint(error.to_string())
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct ContainerManager {
    devices: Arc<DeviceManager>,
    claims: ClaimManager,
    /// Held while a pod is admitted.
    admitting: tokio::sync::Mutex<()>,
    plugins: PluginManager,
}

impl ContainerManager {
    /// With what checkpoints say was given out.
    pub(crate) fn open(config: &Config, wake: Wake) -> Result<Self, SettingsError> {
        let devices = DeviceManager::open(&directory(config, "device-plugins")?, wake);
        let claims = ClaimManager::open(&config.root_dir)?;
        let plugins = PluginManager::new(directory(config, "plugins_registry")?)
            .handle("DevicePlugin", devices.clone())
            .handle("DRAPlugin", claims.drivers.clone());
        Ok(Self { devices, claims, admitting: tokio::sync::Mutex::default(), plugins })
    }

    /// Serves plugins until shutdown.
    pub(crate) async fn run(&self, config: &Config, shutdown: &Shutdown) {
        let device_plugins = async {
            if let Err(error) = devices::registration::serve(self.devices.clone()).await {
                tracing::error!(%error, "device plugins cannot register");
            }
        };
        let plugins = async {
            if let Err(error) = self.plugins.run().await {
                tracing::error!(%error, "plugins are not found by their sockets");
            }
        };
        let slices = claims::slices::run(&config.client, &config.node_name, &self.claims.drivers);
        tokio::select! {
            _ = async { tokio::join!(device_plugins, plugins, slices) } => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Gives a pod's containers what they ask for, or says why it is not to be had.
    pub(crate) async fn admit(&self, wanted: &Pod) -> Result<(), Refused> {
        if !self.devices.concerns(wanted) {
            return Ok(());
        }
        let _admitting = self.admitting.lock().await;
        for container in pod::init_containers(wanted).iter().chain(pod::containers(wanted)) {
            self.devices.allocate(wanted, container, None).await.map_err(unexpected)?;
        }
        Ok(())
    }

    /// What a container that is about to start gets in its configuration.
    pub(crate) async fn options(&self, wanted: &Pod, container: &Container) -> Result<RunOptions, String> {
        if self.devices.lacks(wanted, container) {
            // Its plugin was not known, or not yet known again, when the pod was admitted.
            let _admitting = self.admitting.lock().await;
            self.devices.allocate(wanted, container, None).await?;
        }
        self.devices.pre_start(wanted, container).await?;
        let mut options = self.devices.options(pod::uid(wanted), &container.name);
        self.claims.options(wanted, container, &mut options)?;
        Ok(options)
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
        self.devices.release(uid);
        self.claims.unprepare(uid).await
    }

    /// Takes back what pods had that are not `known` any more. It is asked while nothing can be given out.
    pub(crate) async fn retain(&self, known: &(dyn Fn(&str) -> bool + Sync)) {
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

    /// Waits until the node has other devices than before.
    pub(crate) async fn capacity_changed(&self) {
        tokio::select! {
            () = self.devices.changed.notified() => {}
            () = self.devices.expiry() => {}
        }
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

/// What upstream makes of a failure that has no reason of its own.
fn unexpected(error: impl std::fmt::Display) -> Refused {
    Refused {
        reason: "UnexpectedAdmissionError".to_owned(),
        message: format!("Allocate failed due to {error}, which is unexpected"),
    }
}
