//! The pod resources API, v1: tells agents on the node which container has which devices, processors, memory and claims.
//!
//! Source of the behaviour and of the messages: upstream's `apis/podresources` at v1.36.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use podium_plugins::{
    PluginSocket,
    pod_resources::{
        self as v1,
        pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer},
    },
};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{ContainerManager, numa::NodeMask};
use crate::{
    context::Shared,
    manager::Pods,
    metrics::{self, Family},
    pod,
};

/// The socket's name.
const SOCKET: &str = "kubelet.sock";
/// Calls per second on average, and at once; upstream's.
const CALLS_PER_SECOND: u32 = 100;
const CALLS_AT_ONCE: u32 = 10;

/// Serves until dropped.
pub(crate) async fn serve(directory: PathBuf, shared: &Shared, pods: &Arc<Pods>) -> io::Result<()> {
    let socket = PluginSocket::bind(&directory.join(SOCKET))?;
    let limit = Arc::new(Mutex::new(Limit::new(Instant::now())));
    let service = Service { shared: shared.clone(), pods: pods.clone(), limit };
    socket.serve(PodResourcesListerServer::new(service), std::future::pending()).await;
    Ok(())
}

/// How many calls may still be made at the moment, in billionths: a call costs one whole, and they come back with time.
#[derive(Debug)]
struct Limit {
    left: u64,
    at: Instant,
}

const ONE: u64 = 1_000_000_000;

impl Limit {
    fn new(now: Instant) -> Self {
        Self { left: u64::from(CALLS_AT_ONCE) * ONE, at: now }
    }

    /// Whether a call may be made.
    fn allows(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).min(Duration::from_secs(1));
        let back = u64::try_from(passed.as_nanos()).unwrap_or(ONE) * u64::from(CALLS_PER_SECOND);
        self.left = (self.left + back).min(u64::from(CALLS_AT_ONCE) * ONE);
        self.at = now;
        let allowed = self.left >= ONE;
        if allowed {
            self.left -= ONE;
        }
        allowed
    }
}

#[derive(Clone)]
struct Service {
    shared: Shared,
    pods: Arc<Pods>,
    limit: Arc<Mutex<Limit>>,
}

impl Service {
    /// Counts a call, in all and of its kind.
    fn manager(&self, kind: &Family) -> Result<&ContainerManager, Status> {
        for family in [&metrics::POD_RESOURCES, kind] {
            self.shared.metrics.count(family, VERSION);
        }
        if self.limit.lock().allows(Instant::now()) {
            Ok(&self.shared.container_manager)
        } else {
            Err(Status::resource_exhausted("rejected by rate limit"))
        }
    }

    fn failed(&self, kind: &Family) {
        self.shared.metrics.count(kind, VERSION);
    }
}

/// The labels of every call.
const VERSION: &[(&str, &str)] = &[("server_api_version", "v1")];

#[tonic::async_trait]
impl PodResourcesLister for Service {
    async fn list(
        &self,
        _: Request<v1::ListPodResourcesRequest>,
    ) -> Result<Response<v1::ListPodResourcesResponse>, Status> {
        let manager = self
            .manager(&metrics::POD_RESOURCES_LIST)
            .inspect_err(|_| self.failed(&metrics::POD_RESOURCES_LIST_ERRORS))?;
        let pod_resources = self.pods.active().iter().map(|one| manager.resources_of(one)).collect();
        Ok(Response::new(v1::ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<v1::AllocatableResourcesRequest>,
    ) -> Result<Response<v1::AllocatableResourcesResponse>, Status> {
        let manager = self
            .manager(&metrics::POD_RESOURCES_ALLOCATABLE)
            .inspect_err(|_| self.failed(&metrics::POD_RESOURCES_ALLOCATABLE_ERRORS))?;
        Ok(Response::new(manager.allocatable_resources()))
    }

    async fn get(
        &self,
        request: Request<v1::GetPodResourcesRequest>,
    ) -> Result<Response<v1::GetPodResourcesResponse>, Status> {
        let manager = self
            .manager(&metrics::POD_RESOURCES_GET)
            .inspect_err(|_| self.failed(&metrics::POD_RESOURCES_GET_ERRORS))?;
        let v1::GetPodResourcesRequest { pod_name, pod_namespace } = request.into_inner();
        let found = self.pods.find(&pod_namespace, &pod_name, None);
        let found = found.ok_or_else(|| {
            self.failed(&metrics::POD_RESOURCES_GET_ERRORS);
            Status::unknown(format!("pod {pod_name} in namespace {pod_namespace} not found"))
        })?;
        Ok(Response::new(v1::GetPodResourcesResponse { pod_resources: Some(manager.resources_of(&found)) }))
    }
}

fn topology(nodes: NodeMask) -> Option<v1::TopologyInfo> {
    let nodes: Vec<_> =
        nodes.nodes().map(|node| v1::NumaNode { id: i64::try_from(node).unwrap_or(-1) }).collect();
    (!nodes.is_empty()).then_some(v1::TopologyInfo { nodes })
}

/// One entry for each device, as upstream has it.
fn devices(all: BTreeMap<String, BTreeMap<String, NodeMask>>) -> Vec<v1::ContainerDevices> {
    let of = |(resource_name, devices): (String, BTreeMap<String, NodeMask>)| {
        devices.into_iter().map(move |(id, nodes)| v1::ContainerDevices {
            resource_name: resource_name.clone(),
            device_ids: vec![id],
            topology: topology(nodes),
        })
    };
    all.into_iter().flat_map(of).collect()
}

fn cpu_ids(cpus: &super::cpu_set::CpuSet) -> Vec<i64> {
    cpus.iter().filter_map(|cpu| i64::try_from(cpu).ok()).collect()
}

impl ContainerManager {
    /// What the containers of a pod have; init containers that end count for nothing.
    fn resources_of(&self, of: &Pod) -> v1::PodResources {
        let sidecars = pod::init_containers(of).iter().filter(|init| pod::is_sidecar(init));
        v1::PodResources {
            name: pod::name(of).to_owned(),
            namespace: pod::namespace(of).to_owned(),
            containers: sidecars
                .chain(pod::containers(of))
                .map(|one| self.resources_of_one(of, one))
                .collect(),
        }
    }

    fn resources_of_one(&self, of: &Pod, container: &Container) -> v1::ContainerResources {
        let (uid, name) = (pod::uid(of), container.name.as_str());
        let memory = self.memory.blocks(uid, name).into_iter().map(|block| v1::ContainerMemory {
            memory_type: block.resource,
            size: block.bytes,
            topology: topology(block.nodes),
        });
        // A claim that is not known has no devices to be told.
        let claims = self.claims.of_container(of, container).unwrap_or_default();
        let dynamic = claims.iter().map(|(claim, request)| v1::DynamicResource {
            claim_name: claim.name.clone(),
            claim_namespace: claim.namespace.clone(),
            claim_resources: claim
                .devices(request.as_deref())
                .map(|(driver, device)| v1::ClaimResource {
                    cdi_devices: device.cdi.iter().map(|id| v1::CdiDevice { name: id.clone() }).collect(),
                    driver_name: driver.to_owned(),
                    pool_name: device.pool.clone(),
                    device_name: device.device.clone(),
                    share_id: device.share_id.clone(),
                })
                .collect(),
        });
        v1::ContainerResources {
            name: name.to_owned(),
            devices: devices(self.devices.devices_of(uid, name)),
            cpu_ids: cpu_ids(&self.cpus.exclusive(uid, name)),
            memory: memory.collect(),
            dynamic_resources: dynamic.collect(),
        }
    }

    /// What the node has to give, whether it is given or not.
    fn allocatable_resources(&self) -> v1::AllocatableResourcesResponse {
        let of = |(node, amounts): (usize, BTreeMap<String, u64>)| {
            amounts.into_iter().map(move |(memory_type, size)| v1::ContainerMemory {
                memory_type,
                size,
                topology: topology([node].into_iter().collect()),
            })
        };
        v1::AllocatableResourcesResponse {
            devices: devices(self.devices.allocatable()),
            cpu_ids: cpu_ids(&self.cpus.allocatable()),
            memory: self.memory.allocatable().into_iter().flat_map(of).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_limited() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let count = |limit: &mut Limit, at| (0..1000).filter(|_| limit.allows(at)).count();
        assert_eq!(count(&mut limit, start), 10, "at once");
        assert_eq!(count(&mut limit, start + Duration::from_millis(5)), 0);
        assert_eq!(count(&mut limit, start + Duration::from_millis(50)), 5);
        assert_eq!(count(&mut limit, start + Duration::from_secs(100)), 10, "no more come together");
    }
}
