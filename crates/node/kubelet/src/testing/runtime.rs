//! A runtime that pretends: sandboxes and containers are records, and tests decide what happens to
//! them. It speaks CRI over a unix socket, so that the real client is part of the test.

use std::{collections::HashMap, future::Future, path::PathBuf, pin::Pin, sync::Arc};

use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use podium_cri::v1::{
    self,
    image_service_server::{ImageService, ImageServiceServer},
    runtime_service_server::{RuntimeService, RuntimeServiceServer},
};
use tokio::{net::UnixListener, sync::Notify};
use tonic::{Request, Response, Status};
use tower::Service as _;

/// What the runtime holds, and what it was asked to do.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) sandboxes: Vec<v1::PodSandboxStatus>,
    pub(crate) containers: Vec<(String, v1::ContainerStatus)>,
    pub(crate) images: Vec<String>,
    /// Images that can be pulled, and the user who may; anybody if empty.
    pub(crate) registry: HashMap<String, String>,
    /// The calls that change something, in order: `start web`, `stop web 30`.
    pub(crate) calls: Vec<String>,
    /// What was removed, in order: `container a`, `image app:v1`.
    pub(crate) removed: Vec<String>,
    /// The resolver settings of sandboxes that were made, in order.
    pub(crate) resolvers: Vec<v1::DnsConfig>,
    /// The handlers that sandboxes were made with, in order.
    pub(crate) handlers: Vec<String>,
    /// The configurations of containers that were made, in order.
    pub(crate) configs: Vec<v1::ContainerConfig>,
    /// Answers of exec by its command line; others succeed.
    pub(crate) exec: HashMap<String, i32>,
    /// Command lines that have no end.
    pub(crate) endless: Vec<String>,
    /// What it says its name is; "pretended" if empty. Set it before the kubelet starts.
    pub(crate) name: String,
    /// How often making a sandbox fails first.
    pub(crate) sandbox_failures: u32,
    /// Containers, by name, that end with this code as soon as they are started.
    pub(crate) ends_at_once: HashMap<String, i32>,
    /// Containers, by name, whose stop takes until they are told to end.
    pub(crate) ignores_stop: Vec<String>,
    /// Whether it says that it has user namespaces.
    pub(crate) user_namespaces: bool,
    /// Whether it says that it makes mounts read-only with all below them.
    pub(crate) recursive_read_only: bool,
    next: u64,
}

/// The runtime. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct FakeRuntime {
    pub(crate) held: Arc<Mutex<Held>>,
    changed: Arc<Notify>,
    events: tokio::sync::broadcast::Sender<v1::ContainerEventResponse>,
    directory: Arc<tempfile::TempDir>,
}

type Answer<T> = Result<Response<T>, Status>;

fn nanos() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0)
}

impl FakeRuntime {
    /// Starts serving; ends with the test's runtime.
    pub(crate) fn start() -> Self {
        let this = Self {
            held: Arc::default(),
            changed: Arc::default(),
            events: tokio::sync::broadcast::channel(256).0,
            directory: Arc::new(tempfile::tempdir().expect("a temporary directory")),
        };
        let listener = UnixListener::bind(this.socket()).expect("a socket");
        let (runtime, images) =
            (RuntimeServiceServer::new(this.clone()), ImageServiceServer::new(this.clone()));
        let server = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (runtime, images) = (runtime.clone(), images.clone());
                let service =
                    hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                        let (mut runtime, mut images) = (runtime.clone(), images.clone());
                        async move {
                            if request.uri().path().starts_with("/runtime.v1.ImageService/") {
                                images.call(request).await
                            } else {
                                runtime.call(request).await
                            }
                        }
                    });
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                drop(tokio::spawn(connection));
            }
        };
        drop(tokio::spawn(server));
        this
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("runtime.sock")
    }

    pub(crate) fn endpoint(&self) -> String {
        self.socket().display().to_string()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.held.lock().calls.clone()
    }

    /// Ends a running container.
    pub(crate) fn end(&self, name: &str, exit_code: i32) {
        let mut held = self.held.lock();
        let found = held.containers.iter_mut().rev().find(|(_, status)| {
            status.state() == v1::ContainerState::ContainerRunning && name_of(status) == name
        });
        if let Some((_, status)) = found {
            finish(status, exit_code);
        }
        drop(held);
        self.tell();
    }

    fn tell(&self) {
        self.changed.notify_waiters();
        let sandboxes = self.held.lock().sandboxes.clone();
        for sandbox in sandboxes {
            let event =
                v1::ContainerEventResponse { pod_sandbox_status: Some(sandbox), ..Default::default() };
            self.events.send(event).ok();
        }
    }
}

fn name_of(status: &v1::ContainerStatus) -> &str {
    status.metadata.as_ref().map_or("", |metadata| metadata.name.as_str())
}

fn finish(status: &mut v1::ContainerStatus, exit_code: i32) {
    status.state = v1::ContainerState::ContainerExited.into();
    status.exit_code = exit_code;
    status.finished_at = nanos();
    status.reason = if exit_code == 0 { "Completed".into() } else { "Error".into() };
}

fn matches(labels: &HashMap<String, String>, selector: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn missing(what: &str) -> Status {
    Status::not_found(format!("{what} not found"))
}

/// The calls a kubelet never makes, or can do without; in the form that `async_trait` gives methods,
/// because it does not look into macros.
macro_rules! absent {
    ($($name:ident ( $request:ty ) -> $response:ty;)*) => {
        $(fn $name<'a, 'b>(
            &'a self,
            _: Request<$request>,
        ) -> Pin<Box<dyn Future<Output = Answer<$response>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(std::future::ready(Err(Status::unimplemented(stringify!($name)))))
        })*
    };
}

macro_rules! absent_streams {
    ($($name:ident ( $request:ty ) -> $stream:ident of $response:ty;)*) => {
        $(
            type $stream = tokio_stream::Empty<Result<$response, Status>>;
            fn $name<'a, 'b>(
                &'a self,
                _: Request<$request>,
            ) -> Pin<Box<dyn Future<Output = Answer<Self::$stream>> + Send + 'b>>
            where
                'a: 'b,
                Self: 'b,
            {
                Box::pin(std::future::ready(Err(Status::unimplemented(stringify!($name)))))
            }
        )*
    };
}

#[tonic::async_trait]
impl RuntimeService for FakeRuntime {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        let name = self.held.lock().name.clone();
        Ok(Response::new(v1::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: if name.is_empty() { "pretended".into() } else { name },
            runtime_version: "1.0".into(),
            runtime_api_version: "v1".into(),
        }))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let ready =
            |type_: &str| v1::RuntimeCondition { r#type: type_.into(), status: true, ..Default::default() };
        let status = v1::RuntimeStatus { conditions: vec![ready("RuntimeReady"), ready("NetworkReady")] };
        let (user_namespaces, recursive_read_only_mounts) = {
            let held = self.held.lock();
            (held.user_namespaces, held.recursive_read_only)
        };
        let features = v1::RuntimeHandlerFeatures { user_namespaces, recursive_read_only_mounts };
        let runtime_handlers = vec![v1::RuntimeHandler { name: String::new(), features: Some(features) }];
        Ok(Response::new(v1::StatusResponse { status: Some(status), runtime_handlers, ..Default::default() }))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Answer<v1::RunPodSandboxResponse> {
        let v1::RunPodSandboxRequest { config, runtime_handler } = request.into_inner();
        let config = config.unwrap_or_default();
        let mut held = self.held.lock();
        if held.sandbox_failures > 0 {
            held.sandbox_failures -= 1;
            return Err(Status::unknown("no network yet"));
        }
        held.next += 1;
        let id = format!("sandbox{}", held.next);
        let options = config.linux.and_then(|linux| linux.security_context?.namespace_options);
        let ip = format!("10.88.0.{}", held.next);
        held.calls.push("sandbox".into());
        held.resolvers.extend(config.dns_config);
        held.handlers.push(runtime_handler.clone());
        held.sandboxes.push(v1::PodSandboxStatus {
            id: id.clone(),
            metadata: config.metadata,
            state: v1::PodSandboxState::SandboxReady.into(),
            created_at: nanos(),
            network: Some(v1::PodSandboxNetworkStatus { ip, additional_ips: vec![] }),
            linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options }) }),
            labels: config.labels,
            annotations: config.annotations,
            runtime_handler,
        });
        drop(held);
        self.tell();
        Ok(Response::new(v1::RunPodSandboxResponse { pod_sandbox_id: id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let mut held = self.held.lock();
        for (_, status) in held.containers.iter_mut().filter(|(sandbox, _)| *sandbox == id) {
            if status.state() == v1::ContainerState::ContainerRunning {
                finish(status, 137);
            }
        }
        if let Some(sandbox) = held.sandboxes.iter_mut().find(|sandbox| sandbox.id == id) {
            sandbox.state = v1::PodSandboxState::SandboxNotready.into();
            sandbox.network = None;
        }
        held.calls.push("stop-sandbox".into());
        drop(held);
        self.tell();
        Ok(Response::new(Default::default()))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let mut held = self.held.lock();
        held.sandboxes.retain(|sandbox| sandbox.id != id);
        held.containers.retain(|(sandbox, _)| *sandbox != id);
        Ok(Response::new(Default::default()))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let held = self.held.lock();
        let status = held.sandboxes.iter().find(|sandbox| sandbox.id == id).cloned();
        let status = Some(status.ok_or_else(|| missing("sandbox"))?);
        Ok(Response::new(v1::PodSandboxStatusResponse { status, ..Default::default() }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        let selector = request.into_inner().filter.unwrap_or_default().label_selector;
        let held = self.held.lock();
        let items = held
            .sandboxes
            .iter()
            .filter(|sandbox| matches(&sandbox.labels, &selector))
            .map(|sandbox| v1::PodSandbox {
                id: sandbox.id.clone(),
                metadata: sandbox.metadata.clone(),
                state: sandbox.state,
                created_at: sandbox.created_at,
                labels: sandbox.labels.clone(),
                ..Default::default()
            })
            .collect();
        Ok(Response::new(v1::ListPodSandboxResponse { items }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap_or_default();
        let mut held = self.held.lock();
        held.configs.push(config.clone());
        held.next += 1;
        let id = format!("container{}", held.next);
        let status = v1::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata,
            state: v1::ContainerState::ContainerCreated.into(),
            created_at: nanos(),
            image: config.image.clone(),
            image_ref: config.image.map(|image| image.image).unwrap_or_default(),
            labels: config.labels,
            annotations: config.annotations,
            mounts: config.mounts,
            log_path: format!("/nonexistent/{}", config.log_path),
            ..Default::default()
        };
        held.containers.push((request.pod_sandbox_id, status));
        Ok(Response::new(v1::CreateContainerResponse { container_id: id }))
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Answer<v1::StartContainerResponse> {
        let id = request.into_inner().container_id;
        let mut held = self.held.lock();
        let Held { containers, ends_at_once, calls, .. } = &mut *held;
        let (_, status) =
            containers.iter_mut().find(|(_, status)| status.id == id).ok_or_else(|| missing("container"))?;
        status.state = v1::ContainerState::ContainerRunning.into();
        status.started_at = nanos();
        let name = name_of(status).to_owned();
        if let Some(code) = ends_at_once.get(&name) {
            finish(status, *code);
        }
        calls.push(format!("start {name}"));
        drop(held);
        self.tell();
        Ok(Response::new(Default::default()))
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Answer<v1::StopContainerResponse> {
        let v1::StopContainerRequest { container_id, timeout } = request.into_inner();
        let (name, stubborn) = {
            let mut held = self.held.lock();
            let found = held.containers.iter().find(|(_, status)| status.id == container_id);
            let name =
                found.map(|(_, status)| name_of(status).to_owned()).ok_or_else(|| missing("container"))?;
            held.calls.push(format!("stop {name} {timeout}"));
            let stubborn = held.ignores_stop.contains(&name) && timeout > 5;
            (name, stubborn)
        };
        if stubborn {
            loop {
                let changed = self.changed.notified();
                let running = self.held.lock().containers.iter().any(|(_, status)| {
                    status.id == container_id && status.state() == v1::ContainerState::ContainerRunning
                });
                if !running {
                    return Ok(Response::new(Default::default()));
                }
                changed.await;
            }
        }
        self.end(&name, 143);
        Ok(Response::new(Default::default()))
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        let Held { containers, removed, .. } = &mut *self.held.lock();
        removed.extend(
            containers
                .extract_if(.., |(_, status)| status.id == id)
                .map(|(_, status)| format!("container {}", name_of(&status))),
        );
        Ok(Response::new(Default::default()))
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Answer<v1::ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let held = self.held.lock();
        let containers = held
            .containers
            .iter()
            .filter(|(_, status)| matches(&status.labels, &filter.label_selector))
            .map(|(sandbox, status)| v1::Container {
                id: status.id.clone(),
                pod_sandbox_id: sandbox.clone(),
                metadata: status.metadata.clone(),
                image: status.image.clone(),
                state: status.state,
                created_at: status.created_at,
                labels: status.labels.clone(),
                ..Default::default()
            })
            .collect();
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        let held = self.held.lock();
        let found = held.containers.iter().find(|(_, status)| status.id == id);
        let status = Some(found.map(|(_, status)| status.clone()).ok_or_else(|| missing("container"))?);
        Ok(Response::new(v1::ContainerStatusResponse { status, ..Default::default() }))
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Answer<v1::ExecSyncResponse> {
        let request = request.into_inner();
        let line = request.cmd.join(" ");
        let (endless, exit_code) = {
            let mut held = self.held.lock();
            held.calls.push(format!("exec {line}"));
            (held.endless.contains(&line), held.exec.get(&line).copied().unwrap_or(0))
        };
        if endless {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(v1::ExecSyncResponse { exit_code, ..Default::default() }))
    }

    type GetContainerEventsStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::ContainerEventResponse, Status>> + Send>>;

    async fn get_container_events(
        &self,
        _: Request<v1::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        let events = futures::stream::unfold(self.events.subscribe(), |mut receiver| async move {
            loop {
                match receiver.recv().await {
                    Ok(event) => return Some((Ok(event), receiver)),
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let linux = request.linux.unwrap_or_default();
        let mut held = self.held.lock();
        let name = held
            .containers
            .iter()
            .find(|(_, status)| status.id == request.container_id)
            .map(|(_, status)| name_of(status).to_owned())
            .ok_or_else(|| Status::not_found(request.container_id))?;
        held.calls.push(if linux.cpuset_cpus.is_empty() {
            format!("resize {name} {} {}", linux.cpu_shares, linux.memory_limit_in_bytes)
        } else {
            format!("cpus {name} {}", linux.cpuset_cpus)
        });
        Ok(Response::new(v1::UpdateContainerResourcesResponse::default()))
    }

    absent! {
        reopen_container_log(v1::ReopenContainerLogRequest) -> v1::ReopenContainerLogResponse;
        exec(v1::ExecRequest) -> v1::ExecResponse;
        attach(v1::AttachRequest) -> v1::AttachResponse;
        port_forward(v1::PortForwardRequest) -> v1::PortForwardResponse;
        container_stats(v1::ContainerStatsRequest) -> v1::ContainerStatsResponse;
        list_container_stats(v1::ListContainerStatsRequest) -> v1::ListContainerStatsResponse;
        pod_sandbox_stats(v1::PodSandboxStatsRequest) -> v1::PodSandboxStatsResponse;
        list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest) -> v1::ListPodSandboxStatsResponse;
        update_runtime_config(v1::UpdateRuntimeConfigRequest) -> v1::UpdateRuntimeConfigResponse;
        checkpoint_container(v1::CheckpointContainerRequest) -> v1::CheckpointContainerResponse;
        list_metric_descriptors(v1::ListMetricDescriptorsRequest) -> v1::ListMetricDescriptorsResponse;
        list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest) -> v1::ListPodSandboxMetricsResponse;
        runtime_config(v1::RuntimeConfigRequest) -> v1::RuntimeConfigResponse;
        update_pod_sandbox_resources(v1::UpdatePodSandboxResourcesRequest) -> v1::UpdatePodSandboxResourcesResponse;
    }

    absent_streams! {
        stream_pod_sandboxes(v1::StreamPodSandboxesRequest) -> StreamPodSandboxesStream of v1::StreamPodSandboxesResponse;
        stream_containers(v1::StreamContainersRequest) -> StreamContainersStream of v1::StreamContainersResponse;
        stream_container_stats(v1::StreamContainerStatsRequest) -> StreamContainerStatsStream of v1::StreamContainerStatsResponse;
        stream_pod_sandbox_stats(v1::StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsStream of v1::StreamPodSandboxStatsResponse;
        stream_pod_sandbox_metrics(v1::StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsStream of v1::StreamPodSandboxMetricsResponse;
    }
}

#[tonic::async_trait]
impl ImageService for FakeRuntime {
    async fn list_images(&self, _: Request<v1::ListImagesRequest>) -> Answer<v1::ListImagesResponse> {
        let image = |name: &String| v1::Image {
            id: format!("id-of-{name}"),
            repo_tags: vec![name.clone()],
            size: 1000,
            ..Default::default()
        };
        let images = self.held.lock().images.iter().map(image).collect();
        Ok(Response::new(v1::ListImagesResponse { images }))
    }

    async fn image_status(
        &self,
        request: Request<v1::ImageStatusRequest>,
    ) -> Answer<v1::ImageStatusResponse> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let name = name.strip_prefix("id-of-").unwrap_or(&name).to_owned();
        let here = self.held.lock().images.contains(&name);
        let image = here.then(|| v1::Image { id: format!("id-of-{name}"), ..Default::default() });
        Ok(Response::new(v1::ImageStatusResponse { image, ..Default::default() }))
    }

    async fn pull_image(&self, request: Request<v1::PullImageRequest>) -> Answer<v1::PullImageResponse> {
        let v1::PullImageRequest { image, auth, .. } = request.into_inner();
        let (name, user) = (image.unwrap_or_default().image, auth.unwrap_or_default().username);
        let mut held = self.held.lock();
        held.calls.push(format!("pull {name}"));
        if held.registry.get(&name).is_some_and(|wanted| wanted.is_empty() || *wanted == user) {
            let image_ref = format!("id-of-{name}");
            held.images.push(name);
            return Ok(Response::new(v1::PullImageResponse { image_ref }));
        }
        Err(Status::not_found(format!("failed to pull {name}")))
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Answer<v1::RemoveImageResponse> {
        let id = request.into_inner().image.unwrap_or_default().image;
        let Held { images, removed, .. } = &mut *self.held.lock();
        removed.extend(
            images.extract_if(.., |name| format!("id-of-{name}") == id).map(|name| format!("image {name}")),
        );
        Ok(Response::new(Default::default()))
    }

    async fn image_fs_info(&self, _: Request<v1::ImageFsInfoRequest>) -> Answer<v1::ImageFsInfoResponse> {
        let usage = v1::FilesystemUsage {
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: self.path().display().to_string() }),
            ..Default::default()
        };
        Ok(Response::new(v1::ImageFsInfoResponse { image_filesystems: vec![usage], ..Default::default() }))
    }

    absent_streams! {
        stream_images(v1::StreamImagesRequest) -> StreamImagesStream of v1::StreamImagesResponse;
    }
}
