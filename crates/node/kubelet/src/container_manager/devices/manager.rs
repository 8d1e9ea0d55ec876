//! The device plugins of the node: connections to them, what they say of their devices, and the calls that precede a
//! container. Everything given out is in the checkpoint before a container may use it.
//!
//! Calls that give devices out must not overlap: the container manager makes them one after the other.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use k8s_openapi::{
    api::core::v1::{Container, Pod, PodStatus, ResourceHealth, ResourceStatus},
    apimachinery::pkg::api::resource::Quantity,
};
use parking_lot::Mutex;
use podium_api::kinds::pod::is_extended_resource;
use podium_cri::{bounded, v1};
use podium_plugins::device_plugin::{self as v1beta1, device_plugin_client::DevicePluginClient};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

use super::{
    super::{
        Wake,
        checkpoint::{self, CheckpointError},
        numa::{Hints, NodeMask},
        options::RunOptions,
    },
    pool::{Granted, Ids, Kept, Plan, Pool, granted, listed},
};
use crate::{
    metrics::{self, Metrics},
    plugin_manager::PluginHandler,
    pod,
};

/// The version of the interface.
pub(crate) const VERSION: &str = "v1beta1";
/// The checkpoint's name, upstream's.
pub(crate) const CHECKPOINT: &str = "kubelet_internal_checkpoint";
/// How long a plugin may take for a call; upstream bounds only `PreStartContainer`, by this.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// A plugin that is connected.
struct Endpoint {
    client: DevicePluginClient<Channel>,
    socket: PathBuf,
    options: v1beta1::DevicePluginOptions,
    /// Which registration of the resource this is: an older one's end means nothing.
    number: u64,
    _listening: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Endpoints {
    by_resource: HashMap<String, Endpoint>,
    registrations: u64,
}

/// See the module.
pub(crate) struct DeviceManager {
    /// Where sockets and checkpoint are.
    directory: PathBuf,
    pool: Mutex<Pool>,
    endpoints: Mutex<Endpoints>,
    /// Keeps the order of writes of the checkpoint.
    writing: Mutex<()>,
    /// The node has other devices than before.
    pub(crate) changed: Notify,
    metrics: Arc<Metrics>,
    /// Wakes the worker of a pod whose devices are no longer as they were.
    wake: Wake,
    /// There was no checkpoint: most likely this is another machine under the same name.
    pub(crate) is_new: bool,
    this: Weak<Self>,
}

impl std::fmt::Debug for DeviceManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceManager").field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl DeviceManager {
    /// With what its checkpoint says. One that cannot be read is left behind: containers that run keep their devices, but this
    /// kubelet does not know it.
    pub(crate) fn open(directory: &Path, metrics: Arc<Metrics>, wake: Wake) -> Arc<Self> {
        let kept = checkpoint::read::<Kept>(&directory.join(CHECKPOINT));
        let is_new = matches!(kept, Ok(None));
        let kept = kept.unwrap_or_else(|error| {
            tracing::error!(%error, "which containers have which devices is not known");
            None
        });
        Arc::new_cyclic(|this| Self {
            directory: directory.to_owned(),
            pool: Mutex::new(Pool::recalled(kept.unwrap_or_default(), Instant::now())),
            endpoints: Mutex::default(),
            writing: Mutex::default(),
            changed: Notify::new(),
            metrics,
            wake,
            is_new,
            this: this.clone(),
        })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Connects to a plugin, in place of an earlier one of the same resource, and follows its devices.
    pub(crate) async fn connect(&self, resource: &str, socket: &Path) -> Result<(), String> {
        self.metrics.count(&metrics::DEVICE_REGISTRATIONS, &[("resource_name", resource)]);
        let mut client = DevicePluginClient::new(podium_plugins::channel(socket));
        let options = bounded(
            "GetDevicePluginOptions",
            CALL_LIMIT,
            client.get_device_plugin_options(v1beta1::Empty {}),
        )
        .await
        .map_err(|error| format!("failed to get device plugin options: {}", error.grpc_text()))?;
        let Some(this) = self.this.upgrade() else { return Ok(()) };
        let mut endpoints = self.endpoints.lock();
        endpoints.registrations += 1;
        let number = endpoints.registrations;
        let listening = listen(this, resource.to_owned(), number, client.clone());
        let endpoint = Endpoint {
            client,
            socket: socket.to_owned(),
            options,
            number,
            _listening: AbortOnDropHandle::new(tokio::spawn(listening)),
        };
        endpoints.by_resource.insert(resource.to_owned(), endpoint);
        Ok(())
    }

    /// Lets a plugin go whose socket was taken away.
    fn disconnect(&self, resource: &str, socket: &Path) {
        let mut endpoints = self.endpoints.lock();
        let known = endpoints.by_resource.get(resource).filter(|endpoint| endpoint.socket == socket);
        let Some(number) = known.map(|endpoint| endpoint.number) else { return };
        endpoints.by_resource.remove(resource);
        drop(endpoints);
        tracing::info!(resource, number, "a device plugin was deregistered");
        self.stopped(resource);
    }

    /// A plugin's stream has ended.
    fn ended(&self, resource: &str, number: u64) {
        let mut endpoints = self.endpoints.lock();
        if endpoints.by_resource.get(resource).is_none_or(|endpoint| endpoint.number != number) {
            return;
        }
        endpoints.by_resource.remove(resource);
        drop(endpoints);
        self.stopped(resource);
    }

    fn stopped(&self, resource: &str) {
        let holders = self.pool.lock().stop(resource, Instant::now());
        self.tell(&holders);
    }

    fn tell(&self, holders: &BTreeSet<String>) {
        self.changed.notify_one();
        for uid in holders {
            (self.wake)(uid);
        }
    }

    fn listed(&self, resource: &str, number: u64, answer: &v1beta1::ListAndWatchResponse) {
        let endpoints = self.endpoints.lock();
        if endpoints.by_resource.get(resource).is_none_or(|endpoint| endpoint.number != number) {
            return;
        }
        let holders = self.pool.lock().update(resource, listed(answer));
        drop(endpoints);
        if let Err(error) = self.keep() {
            tracing::error!(%error, "keeping the devices failed");
        }
        self.tell(&holders);
    }

    fn keep(&self) -> Result<(), CheckpointError> {
        let _order = self.writing.lock();
        let kept = self.pool.lock().kept(Instant::now());
        checkpoint::write(&self.directory.join(CHECKPOINT), &kept)
    }

    /// Waits until a resource runs out whose plugin is gone; for ever if there is none.
    pub(crate) async fn expiry(&self) {
        let next = self.pool.lock().next_expiry(Instant::now());
        match next {
            // A moment later, so that it is over then.
            Some(at) => tokio::time::sleep_until((at + Duration::from_millis(10)).into()).await,
            None => std::future::pending().await,
        }
    }

    /// Capacity and allocatable of the node.
    pub(crate) fn capacity(&self) -> BTreeMap<String, (Quantity, Quantity)> {
        let counts = self.pool.lock().capacity(Instant::now());
        let quantity = |count: usize| Quantity(count.to_string());
        counts.into_iter().map(|(name, (all, healthy))| (name, (quantity(all), quantity(healthy)))).collect()
    }

    /// Whether any container of the pod asks for something of ours.
    pub(crate) fn concerns(&self, wanted: &Pod) -> bool {
        let pool = self.pool.lock();
        pod::containers(wanted)
            .iter()
            .chain(pod::init_containers(wanted))
            .any(|one| !pool.wanted(one).is_empty())
    }

    pub(crate) fn hints(&self, wanted: &Pod, container: &Container, machine: NodeMask) -> Hints {
        self.pool.lock().hints(wanted, container, machine)
    }

    pub(crate) fn pod_hints(&self, wanted: &Pod, machine: NodeMask) -> Hints {
        self.pool.lock().pod_hints(wanted, machine)
    }

    /// Gives a container its devices. What it has already stays.
    pub(crate) async fn allocate(
        &self,
        wanted: &Pod,
        container: &Container,
        affinity: Option<NodeMask>,
    ) -> Result<(), String> {
        let resources = self.pool.lock().wanted(container);
        for (resource, required) in resources {
            let plan = self.pool.lock().plan(wanted, &container.name, &resource, required, affinity)?;
            let ids = match plan {
                Plan::Nothing => continue,
                Plan::Take(ids) => ids,
                Plan::Ask(question) => {
                    let wish =
                        self.wish(&resource, &question.available, &question.settled, question.size).await?;
                    question.settle(&wish)
                }
            };
            let granted = self.fetch(&resource, ids).await?;
            self.pool.lock().give(pod::uid(wanted), &container.name, &resource, granted);
            self.keep().map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn endpoint<T>(&self, resource: &str, of: impl FnOnce(&Endpoint) -> T) -> Option<T> {
        self.endpoints.lock().by_resource.get(resource).map(of)
    }

    /// What the plugin would choose, if it has wishes.
    async fn wish(&self, resource: &str, available: &Ids, settled: &Ids, size: usize) -> Result<Ids, String> {
        let asked = self.endpoint(resource, |one| {
            one.options.get_preferred_allocation_available.then(|| one.client.clone())
        });
        let Some(mut client) = asked
            .ok_or_else(|| format!("endpoint not found in cache for a registered resource: {resource}"))?
        else {
            return Ok(Ids::new());
        };
        let request = v1beta1::PreferredAllocationRequest {
            container_requests: vec![v1beta1::ContainerPreferredAllocationRequest {
                available_device_ids: available.iter().cloned().collect(),
                must_include_device_ids: settled.iter().cloned().collect(),
                allocation_size: i32::try_from(size).unwrap_or(i32::MAX),
            }],
        };
        let answer = bounded("GetPreferredAllocation", CALL_LIMIT, client.get_preferred_allocation(request))
            .await
            .map_err(|error| {
                format!("device plugin GetPreferredAllocation rpc failed with err: {}", error.grpc_text())
            })?;
        Ok(answer.container_responses.into_iter().next().unwrap_or_default().device_ids.into_iter().collect())
    }

    /// Asks the plugin for what the devices need.
    async fn fetch(&self, resource: &str, ids: Ids) -> Result<Granted, String> {
        let client = self.endpoint(resource, |one| one.client.clone());
        let mut client = client.ok_or_else(|| format!("unknown Device Plugin {resource}"))?;
        let request = v1beta1::AllocateRequest {
            container_requests: vec![v1beta1::ContainerAllocateRequest {
                device_ids: ids.iter().cloned().collect(),
            }],
        };
        let began = Instant::now();
        let answer = bounded("Allocate", CALL_LIMIT, client.allocate(request)).await;
        self.metrics.since(&metrics::DEVICE_ALLOCATION, &[("resource_name", resource)], began);
        let answer = answer.map_err(|error| error.grpc_text())?;
        let answer = answer
            .container_responses
            .into_iter()
            .next()
            .ok_or_else(|| "no containers return in allocation response".to_owned())?;
        Ok(granted(self.pool.lock().located(resource, ids), answer))
    }

    /// Whether a container has a resource to get that it does not have yet.
    pub(crate) fn lacks(&self, wanted: &Pod, container: &Container) -> bool {
        let pool = self.pool.lock();
        let has = |resource: &str| pool.grant(pod::uid(wanted), &container.name, resource).is_some();
        pool.wanted(container).iter().any(|(resource, _)| !has(resource))
    }

    /// Tells the plugins that want to know that a container is about to start.
    pub(crate) async fn pre_start(&self, wanted: &Pod, container: &Container) -> Result<(), String> {
        let resources = self.pool.lock().wanted(container);
        for (resource, _) in resources {
            let client =
                self.endpoint(&resource, |one| one.options.pre_start_required.then(|| one.client.clone()));
            let Some(Some(mut client)) = client else { continue };
            let devices = self
                .pool
                .lock()
                .grant(pod::uid(wanted), &container.name, &resource)
                .map(|granted| granted.devices.keys().cloned().collect());
            let Some(device_ids) = devices else { continue };
            let request = v1beta1::PreStartContainerRequest { device_ids };
            bounded("PreStartContainer", CALL_LIMIT, client.pre_start_container(request)).await.map_err(
                |error| format!("device plugin PreStartContainer rpc failed with err: {}", error.grpc_text()),
            )?;
        }
        Ok(())
    }

    /// What the container's devices need in its configuration. Of two resources that say different things of one path or
    /// variable, the first holds.
    pub(crate) fn options(&self, uid: &str, container: &str) -> RunOptions {
        let pool = self.pool.lock();
        let mut options = RunOptions::default();
        for granted in pool.grants(uid, container).into_iter().flat_map(BTreeMap::values) {
            granted.envs.iter().for_each(|(name, value)| options.env(name, value));
            granted.annotations.iter().for_each(|(name, value)| options.annotation(name, value));
            for (container_path, host_path, readonly) in granted.mounts.clone() {
                options.mount(v1::Mount { container_path, host_path, readonly, ..Default::default() });
            }
            for (container_path, host_path, permissions) in granted.nodes.clone() {
                options.device(v1::Device { container_path, host_path, permissions });
            }
            for name in &granted.cdi {
                options.cdi(name);
            }
        }
        options
    }

    /// Fills in how a pod's devices are.
    pub(crate) fn show(&self, wanted: &Pod, status: &mut PodStatus) {
        let pool = self.pool.lock();
        for container in status.container_statuses.iter_mut().flatten() {
            let granted = pool.grants(pod::uid(wanted), &container.name);
            let list: Vec<ResourceStatus> = granted
                .into_iter()
                .flatten()
                .map(|(resource, granted)| ResourceStatus {
                    name: resource.clone(),
                    resources: Some(
                        granted
                            .devices
                            .keys()
                            .map(|id| ResourceHealth {
                                resource_id: id.clone(),
                                health: Some(
                                    if pool.is_healthy(resource, id) { "Healthy" } else { "Unhealthy" }
                                        .to_owned(),
                                ),
                                ..Default::default()
                            })
                            .collect(),
                    ),
                })
                .collect();
            if !list.is_empty() {
                container.allocated_resources_status.get_or_insert_default().extend(list);
            }
        }
    }

    /// What a container has, by resource, with the nodes each device is near to.
    pub(crate) fn devices_of(
        &self,
        uid: &str,
        container: &str,
    ) -> BTreeMap<String, BTreeMap<String, NodeMask>> {
        let pool = self.pool.lock();
        let granted = pool.grants(uid, container).into_iter().flatten();
        granted.map(|(resource, granted)| (resource.clone(), granted.devices.clone())).collect()
    }

    /// The healthy devices of the node.
    pub(crate) fn allocatable(&self) -> BTreeMap<String, BTreeMap<String, NodeMask>> {
        self.pool.lock().allocatable()
    }

    /// Takes back what a pod had.
    pub(crate) fn release(&self, uid: &str) {
        let released = self.pool.lock().release(uid);
        self.keep_if(released);
    }

    /// Takes back what pods had that are not here any more.
    pub(crate) fn retain(&self, known: &dyn Fn(&str) -> bool) {
        let released = self.pool.lock().retain(known);
        self.keep_if(released);
    }

    fn keep_if(&self, changed: bool) {
        if changed && let Err(error) = self.keep() {
            tracing::error!(%error, "keeping the devices failed");
        }
    }
}

/// Device plugins may also be found by their socket in the registry.
impl PluginHandler for DeviceManager {
    fn validate(&self, name: &str, _: &Path, versions: &[String]) -> Result<(), String> {
        if !versions.iter().any(|version| version == VERSION) {
            return Err(format!(
                "manager version, {VERSION}, is not among plugin supported versions {versions:?}"
            ));
        }
        if !is_extended_resource(name) {
            return Err(format!(
                "invalid name of device plugin socket: the ResourceName {name:?} is invalid"
            ));
        }
        Ok(())
    }

    fn register<'a>(
        &'a self,
        name: &'a str,
        endpoint: &'a Path,
        _: &'a [String],
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.connect(name, endpoint))
    }

    fn deregister(&self, name: &str, endpoint: &Path) {
        self.disconnect(name, endpoint);
    }
}

/// Follows what a plugin says of its devices until it stops.
async fn listen(
    manager: Arc<DeviceManager>,
    resource: String,
    number: u64,
    mut client: DevicePluginClient<Channel>,
) {
    match client.list_and_watch(v1beta1::Empty {}).await {
        Ok(answers) => {
            let mut answers = answers.into_inner();
            loop {
                match answers.message().await {
                    Ok(Some(answer)) => manager.listed(&resource, number, &answer),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(resource, %error, "ListAndWatch ended unexpectedly for device plugin");
                        break;
                    }
                }
            }
        }
        Err(error) => tracing::warn!(resource, %error, "ListAndWatch failed for device plugin"),
    }
    manager.ended(&resource, number);
}
