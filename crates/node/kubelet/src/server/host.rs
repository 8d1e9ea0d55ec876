//! What the server needs of the kubelet and of the runtime, as traits so that tests can play them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use podium_client::Shutdown;
use podium_cri::{Cri, Error, v1};
use serde_json::{Value, json};

use super::stats::{Kept, storage::Target};
use crate::{context::Shared, manager::Pods, metrics::Metrics, record::label};

/// The kubelet around the server.
pub(crate) trait Host: Send + Sync {
    fn node_name(&self) -> &str;
    /// Every pod of the node, in order.
    fn pods(&self) -> Vec<Arc<Pod>>;
    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>>;
    fn runtime(&self) -> Arc<dyn Runtime>;
    /// The runtime's name, the scheme of container ids.
    fn runtime_name(&self) -> &str;
    fn configz(&self) -> Value;
    /// What the kubelet was started with.
    fn flags(&self) -> &BTreeMap<String, String>;
    fn shutdown(&self) -> Shutdown;
    /// When the kubelet started.
    fn started(&self) -> Timestamp;
    fn cpus(&self) -> i64;
    /// Cores and sockets of the machine.
    fn cores_and_sockets(&self) -> (usize, usize);
    fn memory_bytes(&self) -> i64;
    /// A file of a cgroup, see [`crate::cgroups::Cgroups::read`].
    fn group_file(&self, path: &str, controller: &str, file: &str) -> Option<String>;
    /// The cgroup of all pods.
    fn pods_group(&self) -> String;
    /// A pod's own cgroup.
    fn pod_group(&self, pod: &Pod) -> String;
    /// The cgroup of a container, by the id that the runtime gave it.
    fn container_group(&self, pod: &Pod, id: &str) -> String;
    /// Where the runtime listens.
    fn runtime_endpoint(&self) -> &str;
    /// Where a pod's files are.
    fn target(&self, pod: Arc<Pod>) -> Target;
    /// What statistics keep from one question to the next.
    fn kept(&self) -> &Kept;
    fn swap_bytes(&self) -> i64;
    /// The cgroup layout in use is version 2.
    fn cgroup_v2(&self) -> bool;
    /// What bounds every container.
    fn bounds(&self) -> crate::resources::Bounds;
    /// Whether the loop over the pods goes on; the text says what is wrong, for the log.
    fn sync_loop(&self) -> Result<(), String>;
    /// How many pods are at each point of their lives.
    fn working(&self) -> Vec<([&'static str; 3], usize)>;
    /// What the process counts beside the kubelet.
    fn process_metrics(&self) -> String;
    /// What the kubelet counts and times.
    fn metrics(&self) -> &Metrics;
    /// The directory of the machine's logs; None: they are not served.
    fn system_logs(&self) -> Option<&std::path::Path>;
    /// The directory whose file system holds the kubelet's files.
    fn root_dir(&self) -> &std::path::Path;
}

/// The runtime's calls that the server makes.
pub(crate) trait Runtime: Send + Sync {
    /// Containers; of one pod if `uid` is given, only running ones if so asked.
    fn containers(
        &self,
        uid: Option<String>,
        running: bool,
    ) -> BoxFuture<'_, Result<Vec<v1::Container>, Error>>;
    /// Sandboxes that are ready; of one pod if `uid` is given.
    fn sandboxes(&self, uid: Option<String>) -> BoxFuture<'_, Result<Vec<v1::PodSandbox>, Error>>;
    fn status(&self, id: String) -> BoxFuture<'_, Result<v1::ContainerStatus, Error>>;
    /// These three answer with the address to connect to.
    fn exec(&self, request: v1::ExecRequest) -> BoxFuture<'_, Result<String, Error>>;
    fn attach(&self, request: v1::AttachRequest) -> BoxFuture<'_, Result<String, Error>>;
    fn port_forward(&self, request: v1::PortForwardRequest) -> BoxFuture<'_, Result<String, Error>>;
    fn exec_sync(
        &self,
        id: String,
        command: Vec<String>,
    ) -> BoxFuture<'_, Result<v1::ExecSyncResponse, Error>>;
    fn container_stats(&self) -> BoxFuture<'_, Result<Vec<v1::ContainerStats>, Error>>;
    fn sandbox_stats(&self) -> BoxFuture<'_, Result<Vec<v1::PodSandboxStats>, Error>>;
    /// Where images and containers are kept, and what they take there.
    fn image_fs(&self) -> BoxFuture<'_, Result<v1::ImageFsInfoResponse, Error>>;
}

fn of_pod(uid: Option<String>) -> HashMap<String, String> {
    uid.map(|uid| HashMap::from([(label::POD_UID.to_owned(), uid)])).unwrap_or_default()
}

impl Runtime for Cri {
    fn containers(
        &self,
        uid: Option<String>,
        running: bool,
    ) -> BoxFuture<'_, Result<Vec<v1::Container>, Error>> {
        Box::pin(async move {
            let state = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() };
            let filter = v1::ContainerFilter {
                label_selector: of_pod(uid),
                state: running.then_some(state),
                ..Default::default()
            };
            Ok(self.list_containers(v1::ListContainersRequest { filter: Some(filter) }).await?.containers)
        })
    }

    fn sandboxes(&self, uid: Option<String>) -> BoxFuture<'_, Result<Vec<v1::PodSandbox>, Error>> {
        Box::pin(async move {
            let state = v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady.into() };
            let filter = v1::PodSandboxFilter {
                label_selector: of_pod(uid),
                state: Some(state),
                ..Default::default()
            };
            Ok(self.list_pod_sandbox(v1::ListPodSandboxRequest { filter: Some(filter) }).await?.items)
        })
    }

    fn status(&self, id: String) -> BoxFuture<'_, Result<v1::ContainerStatus, Error>> {
        Box::pin(async move {
            let answer = self
                .container_status(v1::ContainerStatusRequest { container_id: id, verbose: false })
                .await?;
            answer.status.ok_or(Error::Incomplete { call: "ContainerStatus", field: "status" })
        })
    }

    fn exec(&self, request: v1::ExecRequest) -> BoxFuture<'_, Result<String, Error>> {
        Box::pin(async move { Ok(Cri::exec(self, request).await?.url) })
    }

    fn attach(&self, request: v1::AttachRequest) -> BoxFuture<'_, Result<String, Error>> {
        Box::pin(async move { Ok(Cri::attach(self, request).await?.url) })
    }

    fn port_forward(&self, request: v1::PortForwardRequest) -> BoxFuture<'_, Result<String, Error>> {
        Box::pin(async move { Ok(Cri::port_forward(self, request).await?.url) })
    }

    fn exec_sync(
        &self,
        id: String,
        command: Vec<String>,
    ) -> BoxFuture<'_, Result<v1::ExecSyncResponse, Error>> {
        Box::pin(async move { Cri::exec_sync(self, &id, command, Duration::ZERO).await })
    }

    fn container_stats(&self) -> BoxFuture<'_, Result<Vec<v1::ContainerStats>, Error>> {
        Box::pin(async move {
            Ok(self.list_container_stats(v1::ListContainerStatsRequest::default()).await?.stats)
        })
    }

    fn sandbox_stats(&self) -> BoxFuture<'_, Result<Vec<v1::PodSandboxStats>, Error>> {
        Box::pin(async move {
            Ok(self.list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest::default()).await?.stats)
        })
    }

    fn image_fs(&self) -> BoxFuture<'_, Result<v1::ImageFsInfoResponse, Error>> {
        Box::pin(async move { self.image_fs_info(v1::ImageFsInfoRequest {}).await })
    }
}

/// The kubelet itself.
pub(crate) struct KubeletHost {
    shared: Shared,
    pods: Arc<Pods>,
    runtime: Arc<dyn Runtime>,
    kept: Kept,
}

impl KubeletHost {
    pub(crate) fn new(shared: Shared, pods: Arc<Pods>) -> Self {
        let kept = Kept::new(shared.config.settings.volume_stats_agg_period.positive());
        Self { runtime: Arc::new(shared.cri.clone()), shared, pods, kept }
    }
}

impl Host for KubeletHost {
    fn node_name(&self) -> &str {
        &self.shared.config.node_name
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.list()
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.pods.find(namespace, name, None)
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        self.runtime.clone()
    }

    fn runtime_name(&self) -> &str {
        &self.shared.runtime_name
    }

    fn configz(&self) -> Value {
        json!({"kubeletconfig": self.shared.config.settings.shown()})
    }

    fn flags(&self) -> &BTreeMap<String, String> {
        &self.shared.config.flags
    }

    fn shutdown(&self) -> Shutdown {
        self.shared.shutdown.clone()
    }

    fn started(&self) -> Timestamp {
        self.shared.started
    }

    fn cpus(&self) -> i64 {
        self.shared.machine.cpus
    }

    fn cores_and_sockets(&self) -> (usize, usize) {
        self.shared.container_manager.cores_and_sockets()
    }

    fn memory_bytes(&self) -> i64 {
        self.shared.machine.memory_bytes
    }

    fn group_file(&self, path: &str, controller: &str, file: &str) -> Option<String> {
        self.shared.cgroups.read(path, controller, file)
    }

    fn pods_group(&self) -> String {
        self.shared.cgroups.top()
    }

    fn pod_group(&self, pod: &Pod) -> String {
        self.shared.cgroups.pod_path(pod)
    }

    fn container_group(&self, pod: &Pod, id: &str) -> String {
        self.shared.cgroups.container_path(pod, id, &self.shared.runtime_name)
    }

    fn runtime_endpoint(&self) -> &str {
        &self.shared.config.settings.container_runtime_endpoint
    }

    fn target(&self, pod: Arc<Pod>) -> Target {
        let directory = self.shared.pod_dir(crate::pod::uid(&pod));
        Target { directory, logs: self.shared.log_directory(&pod), pod }
    }

    fn kept(&self) -> &Kept {
        &self.kept
    }

    fn swap_bytes(&self) -> i64 {
        self.shared.machine.swap_bytes
    }

    fn cgroup_v2(&self) -> bool {
        self.shared.cgroups.is_v2()
    }

    fn bounds(&self) -> crate::resources::Bounds {
        self.shared.bounds()
    }

    fn system_logs(&self) -> Option<&std::path::Path> {
        let served = self.shared.config.settings.enable_system_log_handler;
        served.then(|| std::path::Path::new("/var/log"))
    }

    fn root_dir(&self) -> &std::path::Path {
        &self.shared.config.root_dir
    }

    fn sync_loop(&self) -> Result<(), String> {
        self.pods.is_looking()
    }

    fn working(&self) -> Vec<([&'static str; 3], usize)> {
        self.pods.working()
    }

    fn process_metrics(&self) -> String {
        let mut text = podium_client::process_metrics();
        podium_client::metrics::collect(&mut text);
        (self.shared.config.process_metrics)(&mut text);
        text
    }

    fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }
}
