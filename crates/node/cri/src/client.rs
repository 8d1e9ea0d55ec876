//! The connection to a runtime: one lazy channel over a unix socket, every call with a deadline.
//!
//! The channel reconnects by itself, so a runtime that restarts is only a failed call or two.

use std::{
    fmt,
    future::Future,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Response, Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};

use crate::{
    Error,
    v1::{self, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient},
};

/// The largest answer taken, upstream's limit: a list of many containers outgrows gRPC's 4 MiB.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Deadlines of calls.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Every call without a better reason: upstream's `runtimeRequestTimeout`.
    pub request: Duration,
    /// Pulling one image, which can be long; upstream sets no limit but watches progress.
    pub pull: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { request: Duration::from_secs(120), pull: Duration::from_secs(30 * 60) }
    }
}

/// A runtime, reached over CRI v1. Cheap to clone; clones share the channel.
#[derive(Debug, Clone)]
pub struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    image: ImageServiceClient<Channel>,
    timeouts: Timeouts,
    observer: Option<Observer>,
}

/// Who is told of every call: its name in CRI's words, how long it took, whether it failed.
#[derive(Clone)]
struct Observer(Arc<dyn Fn(&'static str, Duration, bool) + Send + Sync>);

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

/// The socket path of `unix:///path`, `unix:/path` or a bare absolute path.
pub(crate) fn socket_path(endpoint: &str) -> Result<PathBuf, Error> {
    let path =
        endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:")).unwrap_or(endpoint);
    if path.starts_with('/') {
        Ok(PathBuf::from(path))
    } else {
        Err(Error::Endpoint { endpoint: endpoint.to_owned() })
    }
}

/// A channel to a runtime's endpoint.
pub(crate) fn channel(endpoint: &str) -> Result<Channel, Error> {
    socket_path(endpoint).map(unix_channel)
}

/// A channel over a unix socket that connects on first use and again after a loss.
#[must_use]
pub fn unix_channel(path: PathBuf) -> Channel {
    // The authority is never resolved; gRPC only wants one to be there.
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
}

/// One CRI call by its unary request: the wrapper sets the deadline and names the call in errors.
macro_rules! calls {
    ($( $(#[$doc:meta])* $service:ident . $method:ident ( $request:ty ) -> $response:ty as $call:literal; )*) => {
        impl Cri {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// What the runtime answered, or that it did not within the deadline.
                pub async fn $method(&self, request: $request) -> Result<$response, Error> {
                    let mut client = self.$service.clone();
                    self.bounded($call, self.timeouts.request, async move { client.$method(request).await }).await
                }
            )*
        }
    };
}

calls! {
    /// The runtime's name and version.
    runtime.version(v1::VersionRequest) -> v1::VersionResponse as "Version";
    /// Runtime and network conditions.
    runtime.status(v1::StatusRequest) -> v1::StatusResponse as "Status";
    /// The cgroup driver the runtime was configured with.
    runtime.runtime_config(v1::RuntimeConfigRequest) -> v1::RuntimeConfigResponse as "RuntimeConfig";
    /// Tells the runtime the node's pod range.
    runtime.update_runtime_config(v1::UpdateRuntimeConfigRequest) -> v1::UpdateRuntimeConfigResponse as "UpdateRuntimeConfig";
    /// Stops a sandbox: its containers are killed and its network is torn down. Safe to repeat.
    runtime.stop_pod_sandbox(v1::StopPodSandboxRequest) -> v1::StopPodSandboxResponse as "StopPodSandbox";
    /// Removes a stopped sandbox with its containers. Safe to repeat.
    runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest) -> v1::RemovePodSandboxResponse as "RemovePodSandbox";
    /// The state of one sandbox.
    runtime.pod_sandbox_status(v1::PodSandboxStatusRequest) -> v1::PodSandboxStatusResponse as "PodSandboxStatus";
    /// Sandboxes that match a filter.
    runtime.list_pod_sandbox(v1::ListPodSandboxRequest) -> v1::ListPodSandboxResponse as "ListPodSandbox";
    /// Makes a container in a sandbox, without starting it.
    runtime.create_container(v1::CreateContainerRequest) -> v1::CreateContainerResponse as "CreateContainer";
    /// Starts a container.
    runtime.start_container(v1::StartContainerRequest) -> v1::StartContainerResponse as "StartContainer";
    /// Removes a container, killing it if it runs. Safe to repeat.
    runtime.remove_container(v1::RemoveContainerRequest) -> v1::RemoveContainerResponse as "RemoveContainer";
    /// Containers that match a filter.
    runtime.list_containers(v1::ListContainersRequest) -> v1::ListContainersResponse as "ListContainers";
    /// The state of one container.
    runtime.container_status(v1::ContainerStatusRequest) -> v1::ContainerStatusResponse as "ContainerStatus";
    /// Changes the limits of a running container.
    runtime.update_container_resources(v1::UpdateContainerResourcesRequest) -> v1::UpdateContainerResourcesResponse as "UpdateContainerResources";
    /// Changes the limits of a sandbox.
    runtime.update_pod_sandbox_resources(v1::UpdatePodSandboxResourcesRequest) -> v1::UpdatePodSandboxResourcesResponse as "UpdatePodSandboxResources";
    /// Makes the runtime open its log file anew, after rotation.
    runtime.reopen_container_log(v1::ReopenContainerLogRequest) -> v1::ReopenContainerLogResponse as "ReopenContainerLog";
    /// Prepares an interactive exec; the answer is where to connect.
    runtime.exec(v1::ExecRequest) -> v1::ExecResponse as "Exec";
    /// Prepares an attach; the answer is where to connect.
    runtime.attach(v1::AttachRequest) -> v1::AttachResponse as "Attach";
    /// Prepares a port forward; the answer is where to connect.
    runtime.port_forward(v1::PortForwardRequest) -> v1::PortForwardResponse as "PortForward";
    /// Usage of one container.
    runtime.container_stats(v1::ContainerStatsRequest) -> v1::ContainerStatsResponse as "ContainerStats";
    /// Usage of containers that match a filter.
    runtime.list_container_stats(v1::ListContainerStatsRequest) -> v1::ListContainerStatsResponse as "ListContainerStats";
    /// Usage of one sandbox.
    runtime.pod_sandbox_stats(v1::PodSandboxStatsRequest) -> v1::PodSandboxStatsResponse as "PodSandboxStats";
    /// Usage of sandboxes that match a filter.
    runtime.list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest) -> v1::ListPodSandboxStatsResponse as "ListPodSandboxStats";
    /// Which metrics the runtime knows.
    runtime.list_metric_descriptors(v1::ListMetricDescriptorsRequest) -> v1::ListMetricDescriptorsResponse as "ListMetricDescriptors";
    /// The runtime's metrics of all sandboxes.
    runtime.list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest) -> v1::ListPodSandboxMetricsResponse as "ListPodSandboxMetrics";
    /// Writes a container's state to a file.
    runtime.checkpoint_container(v1::CheckpointContainerRequest) -> v1::CheckpointContainerResponse as "CheckpointContainer";
    /// What the image file system holds.
    image.image_fs_info(v1::ImageFsInfoRequest) -> v1::ImageFsInfoResponse as "ImageFsInfo";
}

impl Cri {
    /// A client for the runtime behind `endpoint` (`unix:///path` or a path). Nothing is sent yet: the
    /// first call connects.
    ///
    /// # Errors
    /// If the endpoint is not a unix socket address.
    pub fn connect(endpoint: &str) -> Result<Self, Error> {
        Self::with_timeouts(endpoint, Timeouts::default())
    }

    /// As [`Cri::connect`], with deadlines of the caller's.
    ///
    /// # Errors
    /// If the endpoint is not a unix socket address.
    pub fn with_timeouts(endpoint: &str, timeouts: Timeouts) -> Result<Self, Error> {
        let channel = channel(endpoint)?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
            image: ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES),
            timeouts,
            observer: None,
        })
    }

    /// Has every call told to `observer`: its name in CRI's words, how long it took, whether it failed.
    #[must_use]
    pub fn observed(self, observer: impl Fn(&'static str, Duration, bool) + Send + Sync + 'static) -> Self {
        Self { observer: Some(Observer(Arc::new(observer))), ..self }
    }

    async fn bounded<T>(
        &self,
        call: &'static str,
        limit: Duration,
        future: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let outcome = bounded(call, limit, future).await;
        if let Some(Observer(observer)) = &self.observer {
            observer(call, began.elapsed(), outcome.is_err());
        }
        outcome
    }

    /// Makes and starts a sandbox and gives its id. It gets twice the usual time, as upstream grants:
    /// it may have to wait for the network.
    ///
    /// # Errors
    /// What the runtime answered; a network plugin's failure comes this way.
    pub async fn run_pod_sandbox(
        &self,
        config: v1::PodSandboxConfig,
        runtime_handler: &str,
    ) -> Result<String, Error> {
        let request =
            v1::RunPodSandboxRequest { config: Some(config), runtime_handler: runtime_handler.to_owned() };
        let mut client = self.runtime.clone();
        let answer = self
            .bounded("RunPodSandbox", self.timeouts.request * 2, async move {
                client.run_pod_sandbox(request).await
            })
            .await?;
        if answer.pod_sandbox_id.is_empty() {
            return Err(Error::Incomplete { call: "RunPodSandbox", field: "pod_sandbox_id" });
        }
        Ok(answer.pod_sandbox_id)
    }

    /// Stops a container: its stop signal, then after `grace_seconds` SIGKILL. A container that is gone
    /// counts as stopped.
    ///
    /// # Errors
    /// What the runtime answered.
    pub async fn stop_container(&self, container_id: &str, grace_seconds: i64) -> Result<(), Error> {
        let request =
            v1::StopContainerRequest { container_id: container_id.to_owned(), timeout: grace_seconds };
        let grace = Duration::from_secs(u64::try_from(grace_seconds).unwrap_or(0));
        let mut client = self.runtime.clone();
        let outcome = self
            .bounded("StopContainer", self.timeouts.request + grace, async move {
                client.stop_container(request).await
            })
            .await;
        match outcome {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Runs a command in a container and waits for it. A `timeout` of zero means none.
    ///
    /// # Errors
    /// What the runtime answered; code `DeadlineExceeded` when the command took too long.
    pub async fn exec_sync(
        &self,
        container_id: &str,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<v1::ExecSyncResponse, Error> {
        // CRI counts whole seconds; rounded up, so that less than a second is not "no limit".
        let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        let request = v1::ExecSyncRequest {
            container_id: container_id.to_owned(),
            cmd: command,
            timeout: i64::try_from(seconds).unwrap_or(i64::MAX),
        };
        let limit = if timeout.is_zero() { Duration::MAX } else { self.timeouts.request + timeout };
        let mut client = self.runtime.clone();
        self.bounded("ExecSync", limit, async move { client.exec_sync(request).await }).await
    }

    /// The stream of container events, where the runtime has one (containerd from 1.7).
    ///
    /// # Errors
    /// `Unimplemented` by runtimes without it.
    pub async fn container_events(&self) -> Result<Streaming<v1::ContainerEventResponse>, Error> {
        let mut client = self.runtime.clone();
        self.bounded("GetContainerEvents", self.timeouts.request, async move {
            client.get_container_events(v1::GetEventsRequest {}).await
        })
        .await
    }

    /// All images.
    ///
    /// # Errors
    /// What the runtime answered.
    pub async fn list_images(&self) -> Result<Vec<v1::Image>, Error> {
        let mut client = self.image.clone();
        let request = v1::ListImagesRequest { filter: None };
        let answer = self
            .bounded("ListImages", self.timeouts.request, async move { client.list_images(request).await })
            .await?;
        Ok(answer.images)
    }

    /// The image by name, digest or id, or None if it is not here.
    ///
    /// # Errors
    /// What the runtime answered.
    pub async fn image_status(&self, image: v1::ImageSpec) -> Result<Option<v1::Image>, Error> {
        let mut client = self.image.clone();
        let request = v1::ImageStatusRequest { image: Some(image), verbose: false };
        let outcome = self
            .bounded("ImageStatus", self.timeouts.request, async move { client.image_status(request).await })
            .await;
        match outcome {
            Ok(answer) => Ok(answer.image),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Pulls an image and gives its reference.
    ///
    /// # Errors
    /// The registry's refusal as the runtime words it.
    pub async fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        sandbox_config: Option<v1::PodSandboxConfig>,
    ) -> Result<String, Error> {
        let mut client = self.image.clone();
        let request = v1::PullImageRequest { image: Some(image), auth, sandbox_config };
        let answer = self
            .bounded("PullImage", self.timeouts.pull, async move { client.pull_image(request).await })
            .await?;
        Ok(answer.image_ref)
    }

    /// Removes an image. One that is not there is no error.
    ///
    /// # Errors
    /// What the runtime answered.
    pub async fn remove_image(&self, image: &str) -> Result<(), Error> {
        let mut client = self.image.clone();
        let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
        let request = v1::RemoveImageRequest { image: Some(spec) };
        self.bounded("RemoveImage", self.timeouts.request, async move { client.remove_image(request).await })
            .await
            .map(drop)
    }
}

/// A gRPC call with a deadline; `call` names it in errors.
///
/// # Errors
/// What the other side answered, or that it did not within `limit`.
pub async fn bounded<T>(
    call: &'static str,
    limit: Duration,
    future: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, future).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Error::call(call, &status)),
        Err(_) => Err(Error::Deadline { call, seconds: limit.as_secs() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for text in ["unix:///run/c.sock", "unix:/run/c.sock", "/run/c.sock"] {
            assert_eq!(socket_path(text).unwrap(), PathBuf::from("/run/c.sock"), "{text}");
        }
        for text in ["tcp://127.0.0.1:1", "run/c.sock", ""] {
            assert!(socket_path(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn nobody_there_is_unavailable() {
        let cri = Cri::connect("/nonexistent/podium.sock").unwrap();
        let error = cri.version(v1::VersionRequest::default()).await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
    }
}
