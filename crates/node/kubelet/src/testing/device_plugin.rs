//! A device plugin that a test plays: what it says of its devices, and what it was asked.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
};

use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use podium_plugins::{
    PluginSocket, channel,
    device_plugin::{
        self as v1beta1,
        device_plugin_server::{DevicePlugin, DevicePluginServer},
        registration_client::RegistrationClient,
    },
};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status};

/// One plugin. It stops serving when it is dropped.
pub(crate) struct FakeDevicePlugin {
    pub(crate) devices: watch::Sender<Vec<v1beta1::Device>>,
    /// `allocate a,b`, `prefer 2 of a,b,c`, `start a`.
    pub(crate) calls: Arc<Mutex<Vec<String>>>,
    socket: PathBuf,
    _serving: AbortOnDropHandle<()>,
}

#[derive(Clone)]
struct Service {
    devices: watch::Sender<Vec<v1beta1::Device>>,
    calls: Arc<Mutex<Vec<String>>>,
    options: v1beta1::DevicePluginOptions,
}

/// Devices as `id` or `id!` for an unhealthy one.
pub(crate) fn devices(ids: &[&str]) -> Vec<v1beta1::Device> {
    let device = |text: &&str| v1beta1::Device {
        id: text.trim_end_matches('!').to_owned(),
        health: if text.ends_with('!') { "Unhealthy" } else { "Healthy" }.to_owned(),
        topology: None,
    };
    ids.iter().map(device).collect()
}

impl FakeDevicePlugin {
    /// Serves beside the kubelet's socket in `directory`. It wants to be asked for preferences, where it chooses the last
    /// devices, and before starts.
    pub(crate) fn serve(directory: &Path, name: &str, ids: &[&str]) -> Self {
        let socket = PluginSocket::bind(&directory.join(name)).expect("a socket");
        let service = Service {
            devices: watch::Sender::new(devices(ids)),
            calls: Arc::default(),
            options: v1beta1::DevicePluginOptions {
                pre_start_required: true,
                get_preferred_allocation_available: true,
            },
        };
        Self {
            devices: service.devices.clone(),
            calls: service.calls.clone(),
            socket: socket.path().to_owned(),
            _serving: AbortOnDropHandle::new(tokio::spawn(
                socket.serve(DevicePluginServer::new(service), std::future::pending()),
            )),
        }
    }

    /// Announces itself to the kubelet.
    pub(crate) async fn register(&self, resource: &str) -> Result<(), Status> {
        self.register_as(resource, "v1beta1").await
    }

    pub(crate) async fn register_as(&self, resource: &str, version: &str) -> Result<(), Status> {
        let kubelet = self.socket.with_file_name("kubelet.sock");
        let request = v1beta1::RegisterRequest {
            version: version.to_owned(),
            endpoint: self.socket.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            resource_name: resource.to_owned(),
            options: None,
        };
        RegistrationClient::new(channel(&kubelet)).register(request).await.map(drop)
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().clone()
    }
}

fn sorted(mut ids: Vec<String>) -> String {
    ids.sort();
    ids.join(",")
}

#[tonic::async_trait]
impl DevicePlugin for Service {
    type ListAndWatchStream =
        Pin<Box<dyn Stream<Item = Result<v1beta1::ListAndWatchResponse, Status>> + Send>>;

    async fn get_device_plugin_options(
        &self,
        _: Request<v1beta1::Empty>,
    ) -> Result<Response<v1beta1::DevicePluginOptions>, Status> {
        Ok(Response::new(self.options))
    }

    async fn list_and_watch(
        &self,
        _: Request<v1beta1::Empty>,
    ) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let lists = WatchStream::new(self.devices.subscribe());
        Ok(Response::new(Box::pin(lists.map(|devices| Ok(v1beta1::ListAndWatchResponse { devices })))))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<v1beta1::PreferredAllocationRequest>,
    ) -> Result<Response<v1beta1::PreferredAllocationResponse>, Status> {
        let asked = request.into_inner().container_requests.remove(0);
        let mut ids = asked.available_device_ids;
        ids.sort();
        self.calls.lock().push(format!("prefer {} of {}", asked.allocation_size, ids.join(",")));
        let from = ids.len().saturating_sub(usize::try_from(asked.allocation_size).unwrap_or(0));
        let answer = v1beta1::ContainerPreferredAllocationResponse { device_ids: ids.split_off(from) };
        Ok(Response::new(v1beta1::PreferredAllocationResponse { container_responses: vec![answer] }))
    }

    async fn allocate(
        &self,
        request: Request<v1beta1::AllocateRequest>,
    ) -> Result<Response<v1beta1::AllocateResponse>, Status> {
        let ids = sorted(request.into_inner().container_requests.remove(0).device_ids);
        self.calls.lock().push(format!("allocate {ids}"));
        let first = ids.split(',').next().unwrap_or_default();
        let answer = v1beta1::ContainerAllocateResponse {
            envs: HashMap::from([("DEVICES".to_owned(), ids.clone())]),
            mounts: vec![v1beta1::Mount {
                container_path: "/opt/lib".to_owned(),
                host_path: "/usr/lib".to_owned(),
                read_only: true,
            }],
            devices: vec![v1beta1::DeviceSpec {
                container_path: format!("/dev/{first}"),
                host_path: "/dev/null".to_owned(),
                permissions: "rw".to_owned(),
            }],
            annotations: HashMap::from([("vendor.com/ids".to_owned(), ids.clone())]),
            cdi_devices: vec![v1beta1::CdiDevice { name: format!("vendor.com/dev={first}") }],
        };
        Ok(Response::new(v1beta1::AllocateResponse { container_responses: vec![answer] }))
    }

    async fn pre_start_container(
        &self,
        request: Request<v1beta1::PreStartContainerRequest>,
    ) -> Result<Response<v1beta1::PreStartContainerResponse>, Status> {
        self.calls.lock().push(format!("start {}", sorted(request.into_inner().device_ids)));
        Ok(Response::new(v1beta1::PreStartContainerResponse {}))
    }
}
