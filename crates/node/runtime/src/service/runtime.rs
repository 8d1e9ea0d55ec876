//! RuntimeService.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use podium_cri::v1::{self, runtime_service_server::RuntimeService};
use podium_shim::protocol::{Failure, Request as ShimRequest};
use tonic::{Request, Response, Status};

use super::{Calls, filter};
use crate::cni;
use crate::container::{Container, log_path};
use crate::core::{Runtime, failed, now};
use crate::shim::{self, ShimError};
use crate::stats;

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers of a streaming list hold so many items.
const CHUNK: usize = 500;

fn chunked<T: Send + 'static, R: Send + 'static>(
    items: Vec<T>,
    wrap: impl Fn(Vec<T>) -> R + Send + 'static,
) -> Streamed<R> {
    let mut chunks: Vec<Vec<T>> = Vec::new();
    for item in items {
        match chunks.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(item),
            _ => chunks.push(vec![item]),
        }
    }
    Box::pin(stream::iter(chunks.into_iter().map(move |chunk| Ok(wrap(chunk)))))
}

impl Calls {
    fn sandboxes(&self, wanted: Option<v1::PodSandboxFilter>) -> Vec<v1::PodSandbox> {
        let wanted = wanted.unwrap_or_default();
        let items = self.0.sandboxes.lock().values().map(|one| one.item()).collect::<Vec<_>>();
        items
            .into_iter()
            .filter(|item| filter::id(&wanted.id, &item.id))
            .filter(|item| wanted.state.is_none_or(|state| state.state == item.state))
            .filter(|item| filter::labels(&wanted.label_selector, &item.labels))
            .collect()
    }

    fn containers(&self, wanted: Option<v1::ContainerFilter>) -> Vec<v1::Container> {
        let wanted = wanted.unwrap_or_default();
        let items = self.0.containers.lock().values().map(|one| one.item()).collect::<Vec<_>>();
        items
            .into_iter()
            .filter(|item| filter::id(&wanted.id, &item.id))
            .filter(|item| filter::id(&wanted.pod_sandbox_id, &item.pod_sandbox_id))
            .filter(|item| wanted.state.is_none_or(|state| state.state == item.state))
            .filter(|item| filter::labels(&wanted.label_selector, &item.labels))
            .collect()
    }

    fn containers_with_stats(&self, wanted: Option<v1::ContainerStatsFilter>) -> Vec<Arc<Container>> {
        let wanted = wanted.unwrap_or_default();
        self.0
            .containers
            .lock()
            .values()
            .filter(|one| filter::id(&wanted.id, &one.record.id))
            .filter(|one| filter::id(&wanted.pod_sandbox_id, &one.record.sandbox_id))
            .filter(|one| filter::labels(&wanted.label_selector, &one.record.config.labels))
            .filter(|one| one.pid().is_some())
            .cloned()
            .collect()
    }

    async fn stats_of(&self, containers: Vec<Arc<Container>>) -> Result<Vec<v1::ContainerStats>, Status> {
        let runtime = Arc::clone(&self.0);
        // Reads many small files, and counts those of writable layers.
        tokio::task::spawn_blocking(move || {
            containers.iter().map(|one| stats::container(&runtime, one)).collect()
        })
        .await
        .map_err(|error| failed("reading usage", &error))
    }

    async fn sandbox_stats_of(
        &self,
        wanted: v1::PodSandboxStatsFilter,
    ) -> Result<Vec<v1::PodSandboxStats>, Status> {
        let runtime = Arc::clone(&self.0);
        let sandboxes: Vec<_> = runtime
            .sandboxes
            .lock()
            .values()
            .filter(|one| filter::id(&wanted.id, &one.id))
            .filter(|one| filter::labels(&wanted.label_selector, &one.config.labels))
            .filter(|one| one.is_ready())
            .cloned()
            .collect();
        tokio::task::spawn_blocking(move || {
            sandboxes.iter().map(|one| stats::sandbox(&runtime, one)).collect()
        })
        .await
        .map_err(|error| failed("reading usage", &error))
    }
}

fn container_status(runtime: &Runtime, container: &Container) -> v1::ContainerStatus {
    container.status(log_path(runtime, container).as_deref())
}

#[tonic::async_trait]
impl RuntimeService for Calls {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Result<Response<v1::VersionResponse>, Status> {
        Ok(Response::new(v1::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "podium".to_owned(),
            runtime_version: self.0.config.version.clone(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let network = cni::readiness(&self.0.cni);
        let condition = |type_: &str, problem: Option<String>| v1::RuntimeCondition {
            r#type: type_.to_owned(),
            status: problem.is_none(),
            reason: if problem.is_some() {
                format!("{}NotReady", type_.trim_end_matches("Ready"))
            } else {
                String::new()
            },
            message: problem.unwrap_or_default(),
        };
        let mut network_condition = condition("NetworkReady", network.err());
        if !network_condition.status {
            network_condition.reason = "NetworkPluginNotReady".to_owned();
        }
        let mut info = std::collections::HashMap::new();
        if request.into_inner().verbose {
            let text = serde_json::json!({"root": self.0.config.root, "cniConfiguration": self.0.config.cni_configuration});
            info.insert("config".to_owned(), text.to_string());
        }
        Ok(Response::new(v1::StatusResponse {
            status: Some(v1::RuntimeStatus {
                conditions: vec![condition("RuntimeReady", None), network_condition],
            }),
            info,
            runtime_handlers: self.0.handlers.list(self.0.user_namespaces.is_ok()),
            features: Some(v1::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: false,
            }),
        }))
    }

    async fn runtime_config(
        &self,
        _: Request<v1::RuntimeConfigRequest>,
    ) -> Result<Response<v1::RuntimeConfigResponse>, Status> {
        let driver = match &self.0.config.systemd {
            Some(_) => v1::CgroupDriver::Systemd,
            None => v1::CgroupDriver::Cgroupfs,
        };
        let linux = v1::LinuxRuntimeConfiguration { cgroup_driver: driver.into() };
        Ok(Response::new(v1::RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn update_runtime_config(
        &self,
        _: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Result<Response<v1::UpdateRuntimeConfigResponse>, Status> {
        // The pod range is the network plugin's affair; it has a configuration of its own.
        Ok(Response::new(v1::UpdateRuntimeConfigResponse {}))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Result<Response<v1::RunPodSandboxResponse>, Status> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| Status::invalid_argument("no sandbox config"))?;
        let runtime = Arc::clone(&self.0);
        self.finish("RunPodSandbox", async move {
            let pod_sandbox_id = runtime.run_sandbox(config, request.runtime_handler).await?;
            Ok(v1::RunPodSandboxResponse { pod_sandbox_id })
        })
        .await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Result<Response<v1::StopPodSandboxResponse>, Status> {
        let (runtime, id) = (Arc::clone(&self.0), request.into_inner().pod_sandbox_id);
        self.finish("StopPodSandbox", async move {
            runtime.stop_sandbox(&id).await?;
            Ok(v1::StopPodSandboxResponse {})
        })
        .await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Result<Response<v1::RemovePodSandboxResponse>, Status> {
        let (runtime, id) = (Arc::clone(&self.0), request.into_inner().pod_sandbox_id);
        self.finish("RemovePodSandbox", async move {
            runtime.remove_sandbox(&id).await?;
            Ok(v1::RemovePodSandboxResponse {})
        })
        .await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Result<Response<v1::PodSandboxStatusResponse>, Status> {
        let request = request.into_inner();
        let sandbox = self.0.need_sandbox(&request.pod_sandbox_id)?;
        let mut info = std::collections::HashMap::new();
        if request.verbose {
            let namespace = sandbox.network_namespace();
            let text =
                serde_json::json!({"pid": sandbox.shim_pid().unwrap_or(0), "networkNamespace": namespace});
            info.insert("info".to_owned(), text.to_string());
        }
        let containers = self.0.containers_of(&sandbox.id);
        Ok(Response::new(v1::PodSandboxStatusResponse {
            status: Some(sandbox.status()),
            info,
            containers_statuses: containers.iter().map(|one| container_status(&self.0, one)).collect(),
            timestamp: now(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Result<Response<v1::ListPodSandboxResponse>, Status> {
        Ok(Response::new(v1::ListPodSandboxResponse { items: self.sandboxes(request.into_inner().filter) }))
    }

    type StreamPodSandboxesStream = Streamed<v1::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Result<Response<Self::StreamPodSandboxesStream>, Status> {
        let items = self.sandboxes(request.into_inner().filter);
        Ok(Response::new(chunked(items, |pod_sandboxes| v1::StreamPodSandboxesResponse { pod_sandboxes })))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Result<Response<v1::CreateContainerResponse>, Status> {
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| Status::invalid_argument("no container config"))?;
        let runtime = Arc::clone(&self.0);
        self.finish("CreateContainer", async move {
            let made = move || runtime.create_container(&request.pod_sandbox_id, config);
            let made = tokio::task::spawn_blocking(made).await;
            let container_id = made.map_err(|error| failed("failed to create container", &error))??;
            Ok(v1::CreateContainerResponse { container_id })
        })
        .await
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Result<Response<v1::StartContainerResponse>, Status> {
        let (runtime, id) = (Arc::clone(&self.0), request.into_inner().container_id);
        self.finish("StartContainer", async move {
            runtime.start_container(&id).await?;
            Ok(v1::StartContainerResponse {})
        })
        .await
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Result<Response<v1::StopContainerResponse>, Status> {
        let (runtime, request) = (Arc::clone(&self.0), request.into_inner());
        self.finish("StopContainer", async move {
            let timeout = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
            runtime.stop_container(&request.container_id, timeout).await?;
            Ok(v1::StopContainerResponse {})
        })
        .await
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Result<Response<v1::RemoveContainerResponse>, Status> {
        let (runtime, id) = (Arc::clone(&self.0), request.into_inner().container_id);
        self.finish("RemoveContainer", async move {
            runtime.remove_container(&id).await?;
            Ok(v1::RemoveContainerResponse {})
        })
        .await
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Result<Response<v1::ListContainersResponse>, Status> {
        Ok(Response::new(v1::ListContainersResponse {
            containers: self.containers(request.into_inner().filter),
        }))
    }

    type StreamContainersStream = Streamed<v1::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Result<Response<Self::StreamContainersStream>, Status> {
        let items = self.containers(request.into_inner().filter);
        Ok(Response::new(chunked(items, |containers| v1::StreamContainersResponse { containers })))
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Result<Response<v1::ContainerStatusResponse>, Status> {
        let request = request.into_inner();
        let container = self.0.need_container(&request.container_id)?;
        let mut info = std::collections::HashMap::new();
        if request.verbose {
            let text = serde_json::json!({"pid": container.pid().unwrap_or(0), "sandboxID": container.record.sandbox_id});
            info.insert("info".to_owned(), text.to_string());
        }
        let status = Some(container_status(&self.0, &container));
        Ok(Response::new(v1::ContainerStatusResponse { status, info }))
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Result<Response<v1::UpdateContainerResourcesResponse>, Status> {
        let request = request.into_inner();
        let wanted = request.linux.unwrap_or_default();
        self.0.update_container(&request.container_id, &wanted).await?;
        Ok(Response::new(v1::UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Result<Response<v1::ReopenContainerLogResponse>, Status> {
        let container = self.0.need_container(&request.into_inner().container_id)?;
        if container.pid().is_none() {
            return Err(Status::failed_precondition("container is not running"));
        }
        let socket = self.0.socket(&container.record.sandbox_id);
        match shim::command(&socket, ShimRequest::ReopenLog { id: container.record.id.clone() }).await {
            Ok(()) => Ok(Response::new(v1::ReopenContainerLogResponse {})),
            Err(ShimError::Refused { kind: Failure::NotFound, .. }) => {
                Err(Status::failed_precondition("container is not running"))
            }
            Err(error) => Err(failed("failed to reopen container log", &error)),
        }
    }

    async fn exec_sync(
        &self,
        request: Request<v1::ExecSyncRequest>,
    ) -> Result<Response<v1::ExecSyncResponse>, Status> {
        let request = request.into_inner();
        let timeout =
            u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        // Not finished without its caller: a probe that nobody waits for any more ends with it.
        let output = self.0.exec_sync(&request.container_id, request.cmd, timeout).await?;
        Ok(Response::new(v1::ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.code,
        }))
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Result<Response<v1::ExecResponse>, Status> {
        let url = self.0.streaming.exec(&self.0, request.into_inner())?;
        Ok(Response::new(v1::ExecResponse { url }))
    }

    async fn attach(
        &self,
        request: Request<v1::AttachRequest>,
    ) -> Result<Response<v1::AttachResponse>, Status> {
        let url = self.0.streaming.attach(&self.0, &request.into_inner())?;
        Ok(Response::new(v1::AttachResponse { url }))
    }

    async fn port_forward(
        &self,
        request: Request<v1::PortForwardRequest>,
    ) -> Result<Response<v1::PortForwardResponse>, Status> {
        let url = self.0.streaming.port_forward(&self.0, &request.into_inner())?;
        Ok(Response::new(v1::PortForwardResponse { url }))
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Result<Response<v1::ContainerStatsResponse>, Status> {
        let container = self.0.need_container(&request.into_inner().container_id)?;
        let stats = self.stats_of(vec![container]).await?.pop();
        Ok(Response::new(v1::ContainerStatsResponse { stats }))
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Result<Response<v1::ListContainerStatsResponse>, Status> {
        let stats = self.stats_of(self.containers_with_stats(request.into_inner().filter)).await?;
        Ok(Response::new(v1::ListContainerStatsResponse { stats }))
    }

    type StreamContainerStatsStream = Streamed<v1::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Result<Response<Self::StreamContainerStatsStream>, Status> {
        let stats = self.stats_of(self.containers_with_stats(request.into_inner().filter)).await?;
        Ok(Response::new(chunked(stats, |container_stats| v1::StreamContainerStatsResponse {
            container_stats,
        })))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<v1::PodSandboxStatsRequest>,
    ) -> Result<Response<v1::PodSandboxStatsResponse>, Status> {
        let sandbox = self.0.need_sandbox(&request.into_inner().pod_sandbox_id)?;
        let wanted = v1::PodSandboxStatsFilter { id: sandbox.id.clone(), ..Default::default() };
        let stats = self.sandbox_stats_of(wanted).await?.pop();
        Ok(Response::new(v1::PodSandboxStatsResponse { stats }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Result<Response<v1::ListPodSandboxStatsResponse>, Status> {
        let stats = self.sandbox_stats_of(request.into_inner().filter.unwrap_or_default()).await?;
        Ok(Response::new(v1::ListPodSandboxStatsResponse { stats }))
    }

    type StreamPodSandboxStatsStream = Streamed<v1::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<v1::StreamPodSandboxStatsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxStatsStream>, Status> {
        let stats = self.sandbox_stats_of(request.into_inner().filter.unwrap_or_default()).await?;
        Ok(Response::new(chunked(stats, |pod_sandbox_stats| v1::StreamPodSandboxStatsResponse {
            pod_sandbox_stats,
        })))
    }

    async fn checkpoint_container(
        &self,
        _: Request<v1::CheckpointContainerRequest>,
    ) -> Result<Response<v1::CheckpointContainerResponse>, Status> {
        Err(Status::unimplemented("method CheckpointContainer not implemented"))
    }

    type GetContainerEventsStream = Streamed<v1::ContainerEventResponse>;

    async fn get_container_events(
        &self,
        _: Request<v1::GetEventsRequest>,
    ) -> Result<Response<Self::GetContainerEventsStream>, Status> {
        let (events, runtime) = (self.0.events.subscribe(), Arc::clone(&self.0));
        let shutdown = runtime.shutdown.clone();
        let stream = stream::unfold(events, move |mut events| {
            let (runtime, shutdown) = (Arc::clone(&runtime), shutdown.clone());
            async move {
                let event = tokio::select! {
                    () = shutdown.cancelled() => return None,
                    event = events.recv() => event,
                };
                let item = match event {
                    Ok(event) => {
                        let containers = runtime.containers_of(&event.sandbox);
                        Ok(v1::ContainerEventResponse {
                            container_id: event.container,
                            container_event_type: event.kind.into(),
                            created_at: event.at,
                            pod_sandbox_status: runtime.sandbox(&event.sandbox).map(|one| one.status()),
                            containers_statuses: containers
                                .iter()
                                .map(|one| container_status(&runtime, one))
                                .collect(),
                        })
                    }
                    // Too slow: the client has to list anew.
                    Err(tokio::sync::broadcast::error::RecvError::Lagged(missed)) => {
                        Err(Status::data_loss(format!("{missed} events were missed")))
                    }
                    Err(tokio::sync::broadcast::error::RecvError::Closed) => return None,
                };
                Some((item, events))
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<v1::ListMetricDescriptorsRequest>,
    ) -> Result<Response<v1::ListMetricDescriptorsResponse>, Status> {
        Ok(Response::new(v1::ListMetricDescriptorsResponse { descriptors: stats::descriptors() }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<v1::ListPodSandboxMetricsRequest>,
    ) -> Result<Response<v1::ListPodSandboxMetricsResponse>, Status> {
        let all = self.sandbox_stats_of(v1::PodSandboxStatsFilter::default()).await?;
        Ok(Response::new(v1::ListPodSandboxMetricsResponse {
            pod_metrics: all.iter().map(stats::metrics).collect(),
        }))
    }

    type StreamPodSandboxMetricsStream = Streamed<v1::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<v1::StreamPodSandboxMetricsRequest>,
    ) -> Result<Response<Self::StreamPodSandboxMetricsStream>, Status> {
        let all = self.sandbox_stats_of(v1::PodSandboxStatsFilter::default()).await?;
        let metrics = all.iter().map(stats::metrics).collect();
        Ok(Response::new(chunked(metrics, |pod_sandbox_metrics| v1::StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        })))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Result<Response<v1::UpdatePodSandboxResourcesResponse>, Status> {
        // The pod's own group is the kubelet's, which has changed it by now; nothing of ours has limits from it.
        let request = request.into_inner();
        self.0.need_sandbox(&request.pod_sandbox_id)?;
        Ok(Response::new(v1::UpdatePodSandboxResourcesResponse {}))
    }
}
