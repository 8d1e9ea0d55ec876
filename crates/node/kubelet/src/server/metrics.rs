//! Metrics in Prometheus' text format, by upstream's names.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
    sync::Arc,
    time::Instant,
};

use http::Method;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use podium_client::metrics::{Histogram, head};
use podium_cri::v1;

use super::{
    host::Host,
    reply::{self, Reply},
    stats::{
        self, PodUsage, Usage,
        storage::{Space, Stored},
    },
};
use crate::pod;

/// Text that grows by families of metrics.
#[derive(Debug, Default)]
pub(super) struct Text(pub(super) String);

impl Text {
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        head(&mut self.0, name, kind, help);
    }

    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.timed(name, labels, value, 0);
    }

    /// With the time of measurement, in nanoseconds; zero leaves it out.
    pub(super) fn timed(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        value: impl std::fmt::Display,
        nanoseconds: i64,
    ) {
        self.0.push_str(name);
        if !labels.is_empty() {
            let _ = write!(self.0, "{{{}}}", crate::metrics::labels(labels));
        }
        // Writing to a string cannot fail.
        let _ = write!(self.0, " {value}");
        if nanoseconds > 0 {
            let _ = write!(self.0, " {}", nanoseconds / 1_000_000);
        }
        self.0.push('\n');
    }
}

/// Nanoseconds as seconds, without loss.
pub(super) fn seconds(nanoseconds: u64) -> String {
    format!("{}.{:09}", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000)
}

/// The labels of a request, from small sets: clients cannot make new ones.
type Labels = (&'static str, &'static str, bool);

/// Counts requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requests(Arc<Mutex<BTreeMap<Labels, Served>>>);

/// What is known of requests of one kind.
#[derive(Debug)]
struct Served {
    total: u64,
    current: u64,
    duration: Arc<Histogram>,
}

impl Default for Served {
    fn default() -> Self {
        Self { total: 0, current: 0, duration: Arc::new(Histogram::new(crate::metrics::DEFAULT)) }
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Counted {
    requests: Requests,
    labels: Labels,
    began: Instant,
}

impl Requests {
    /// Counts a request that begins, until what is given back is dropped.
    pub(crate) fn begin(&self, path: &str, method: &Method) -> Counted {
        const METHODS: [&str; 8] = ["OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "CONNECT"];
        const PATHS: [&str; 13] = [
            "attach",
            "configz",
            "containerLogs",
            "exec",
            "flagz",
            "healthz",
            "metrics",
            "pods",
            "portForward",
            "run",
            "runningpods",
            "stats",
            "statusz",
        ];
        const LONG: [&str; 6] = ["exec", "attach", "portForward", "run", "containerLogs", "debug"];
        let known = |list: &[&'static str], text: &str| {
            list.iter().copied().find(|one| *one == text).unwrap_or("other")
        };
        let trimmed = path.trim_matches('/');
        let root = known(&PATHS, trimmed.split('/').next().unwrap_or_default());
        let root = match trimmed {
            "metrics/cadvisor" => "metrics/cadvisor",
            "metrics/probes" => "metrics/probes",
            "metrics/resource" => "metrics/resource",
            _ => root,
        };
        let labels = (known(&METHODS, method.as_str()), root, LONG.contains(&root));
        let mut counts = self.0.lock();
        let served = counts.entry(labels).or_default();
        served.total += 1;
        served.current += 1;
        Counted { requests: self.clone(), labels, began: Instant::now() }
    }

    fn write(&self, text: &mut Text) {
        let counts = self.0.lock();
        let name = "kubelet_http_requests_total";
        text.family(name, "counter", "Number of the http requests received since the server started");
        let labelled = |(method, path, long): Labels| {
            [
                ("long_running", if long { "true" } else { "false" }),
                ("method", method),
                ("path", path),
                ("server_type", "readwrite"),
            ]
        };
        for (labels, served) in counts.iter() {
            text.sample(name, &labelled(*labels), served.total);
        }
        let name = "kubelet_http_requests_duration_seconds";
        text.family(name, "histogram", "[ALPHA] Duration in seconds to serve http requests");
        for (labels, served) in counts.iter() {
            served.duration.render(&mut text.0, name, &crate::metrics::labels(&labelled(*labels)));
        }
        let name = "kubelet_http_inflight_requests";
        text.family(name, "gauge", "Number of the inflight http requests");
        for (labels, served) in counts.iter() {
            text.sample(name, &labelled(*labels), served.current);
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(served) = self.requests.0.lock().get_mut(&self.labels) {
            served.current -= 1;
            served.duration.observe(self.began.elapsed().as_secs_f64());
        }
    }
}

const PROVIDER: &str =
    "[ALPHA] Metrics provider used by kubelet to collect container stats. Values can be 'cadvisor' and 'cri'";

/// Pods by how far they are, whatever anybody wants of them.
fn working(text: &mut Text, counts: &[([&'static str; 3], usize)]) {
    let name = "kubelet_working_pods";
    let help = "[ALPHA] Number of pods the kubelet is actually running, broken down by lifecycle phase, whether the pod is desired, orphaned, or runtime only (also orphaned), and whether the pod is static. An orphaned pod has been removed from local configuration or force deleted in the API and consumes resources that are not otherwise visible.";
    text.family(name, "gauge", help);
    for ([lifecycle, config, is_static], count) in counts {
        let labels = [("config", *config), ("lifecycle", *lifecycle), ("static", *is_static)];
        text.sample(name, &labels, count);
    }
}

/// Resizes that wait or are under way, by what pods' conditions say.
fn resizes(text: &mut Text, pods: &[Arc<Pod>]) {
    let conditions = |kind: &'static str| {
        pods.iter().filter_map(move |pod| {
            let conditions = pod.status.as_ref()?.conditions.as_ref()?;
            conditions.iter().find(|one| one.type_ == kind && one.status == "True")
        })
    };
    let mut pending: BTreeMap<String, usize> = BTreeMap::new();
    for one in conditions("PodResizePending") {
        let reason = one.reason.as_deref().unwrap_or_default().to_ascii_lowercase();
        *pending.entry(reason).or_default() += 1;
    }
    let name = "kubelet_pod_pending_resizes";
    text.family(name, "gauge", "[ALPHA] Number of pending resizes for pods.");
    for (reason, count) in &pending {
        text.sample(name, &[("reason", reason)], count);
    }
    let name = "kubelet_pod_in_progress_resizes";
    text.family(name, "gauge", "[ALPHA] Number of in-progress resizes for pods.");
    text.sample(name, &[], conditions("PodResizeInProgress").count());
}

/// `/metrics`: the kubelet's own.
pub(crate) async fn own(host: &dyn Host, requests: &Requests) -> Reply {
    let mut text = Text::default();
    text.family("kubelet_node_name", "gauge", "The node's name. The count is always 1.");
    text.sample("kubelet_node_name", &[("node", host.node_name())], 1);
    counts(&mut text, &host.pods(), host.cgroup_v2());
    resizes(&mut text, &host.pods());
    let runtime = host.runtime();
    match tokio::try_join!(runtime.sandboxes(None), runtime.containers(None, false)) {
        Ok((sandboxes, containers)) => {
            text.family("kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox");
            text.sample("kubelet_running_pods", &[], sandboxes.len());
            text.family("kubelet_running_containers", "gauge", "Number of containers currently running");
            for (state, name) in [
                (v1::ContainerState::ContainerCreated, "created"),
                (v1::ContainerState::ContainerExited, "exited"),
                (v1::ContainerState::ContainerRunning, "running"),
                (v1::ContainerState::ContainerUnknown, "unknown"),
            ] {
                let count = containers.iter().filter(|one| one.state() == state).count();
                text.sample("kubelet_running_containers", &[("container_state", name)], count);
            }
        }
        Err(error) => tracing::debug!(%error, "metrics without the runtime's"),
    }
    storage(&mut text, &host.pods(), &stats::stored(host).await);
    requests.write(&mut text);
    working(&mut text, &host.working());
    text.family("kubelet_metrics_provider", "gauge", PROVIDER);
    text.sample("kubelet_metrics_provider", &[("provider", "cri")], 1);
    for prefix in ["kubelet_", "storage_"] {
        text.0.push_str(&host.metrics().render(prefix));
    }
    text.0.push_str(&host.process_metrics());
    reply::metrics(text.0)
}

/// Pods and what is in them, as far as the kubelet has been told of them.
fn counts(text: &mut Text, pods: &[Arc<Pod>], cgroup_v2: bool) {
    let number = |of: &dyn Fn(&Pod) -> bool| pods.iter().filter(|pod| of(pod)).count();
    let active = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !matches!(phase, Some("Succeeded" | "Failed"))
    };
    let name = "kubelet_active_pods";
    let help = "[ALPHA] The number of pods the kubelet considers active and which are being considered when admitting new pods. \
        static is true if the pod is not from the apiserver.";
    text.family(name, "gauge", help);
    text.sample(name, &[("static", "")], number(&|pod| active(pod) && !pod::is_static(pod)));
    text.sample(name, &[("static", "true")], number(&|pod| active(pod) && pod::is_static(pod)));
    let name = "kubelet_cgroup_version";
    text.family(name, "gauge", "[ALPHA] cgroup version on the hosts.");
    text.sample(name, &[], if cgroup_v2 { 2 } else { 1 });
    let name = "kubelet_desired_pods";
    let help = "[ALPHA] The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.";
    text.family(name, "gauge", help);
    text.sample(name, &[("static", "")], number(&|pod| !pod::is_static(pod)));
    text.sample(name, &[("static", "true")], number(&pod::is_static));
    let name = "kubelet_managed_ephemeral_containers";
    text.family(
        name,
        "gauge",
        "[ALPHA] Current number of ephemeral containers in pods managed by this kubelet.",
    );
    text.sample(name, &[], pods.iter().map(|pod| pod::ephemeral_containers(pod).len()).sum::<usize>());
    let name = "kubelet_mirror_pods";
    let help =
        "[ALPHA] The number of mirror pods the kubelet will try to create (one per admitted static pod)";
    text.family(name, "gauge", help);
    text.sample(name, &[], number(&pod::is_static));
}

/// What claims and logs of containers take. A claim of several pods is one row.
fn storage(text: &mut Text, pods: &[Arc<Pod>], stored: &HashMap<String, Stored>) {
    let mut claims: BTreeMap<(&str, &str), Space> = BTreeMap::new();
    let of_pods = || pods.iter().filter_map(|pod| Some((pod, stored.get(pod::uid(pod))?)));
    for (pod, stored) in of_pods() {
        for volume in &stored.volumes {
            if let Some(claim) = &volume.claim {
                claims.entry((pod::namespace(pod), claim.as_str())).or_insert(volume.space);
            }
        }
    }
    type Number = fn(&Space) -> u64;
    let families: [(&str, &str, Number); 6] = [
        ("available_bytes", "[ALPHA] Number of available bytes in the volume", |one| one.available_bytes),
        ("capacity_bytes", "[ALPHA] Capacity in bytes of the volume", |one| one.capacity_bytes),
        ("inodes", "[ALPHA] Maximum number of inodes in the volume", |one| one.inodes),
        ("inodes_free", "[ALPHA] Number of free inodes in the volume", |one| one.inodes_free),
        ("inodes_used", "[ALPHA] Number of used inodes in the volume", |one| one.inodes_used),
        ("used_bytes", "[ALPHA] Number of used bytes in the volume", |one| one.used_bytes),
    ];
    for (name, help, number) in families {
        let name = format!("kubelet_volume_stats_{name}");
        text.family(&name, "gauge", help);
        for ((namespace, claim), space) in &claims {
            let labels = [("namespace", *namespace), ("persistentvolumeclaim", *claim)];
            text.sample(&name, &labels, number(space));
        }
    }
    let name = "kubelet_container_log_filesystem_used_bytes";
    text.family(name, "gauge", "[ALPHA] Bytes used by the container's logs on the filesystem.");
    for (pod, stored) in of_pods() {
        for (container, size) in &stored.logs {
            let labels = [
                ("container", container.as_str()),
                ("namespace", pod::namespace(pod)),
                ("pod", pod::name(pod)),
                ("uid", pod::uid(pod)),
            ];
            text.sample(name, &labels, size.bytes);
        }
    }
}

/// `/metrics/probes`: the answers of probes.
pub(crate) fn probes(host: &dyn Host) -> Reply {
    reply::metrics(host.metrics().render("prober_"))
}

/// `/metrics/resource`: what metrics-server reads.
pub(crate) async fn resource(host: &dyn Host) -> Reply {
    let pods = stats::pods(host).await;
    let failed = pods.is_err();
    if let Err(error) = &pods {
        tracing::warn!(%error, "statistics of the runtime");
    }
    reply::metrics(resource_text(&stats::node(host).await, &pods.unwrap_or_default(), failed))
}

/// One number of what something uses.
type Number = fn(&Usage) -> Option<u64>;

fn resource_text(node: &Usage, pods: &[PodUsage], failed: bool) -> String {
    let mut text = Text::default();
    let containers = || pods.iter().flat_map(|pod| pod.containers.iter().map(move |one| (pod, one)));
    let name = "container_cpu_usage_seconds_total";
    text.family(name, "counter", "[STABLE] Cumulative cpu time consumed by the container in core-seconds");
    for (pod, one) in containers() {
        if let Some(cpu) = one.usage.cpu_nanoseconds {
            text.timed(
                name,
                &[("container", &one.name), ("namespace", &pod.namespace), ("pod", &pod.name)],
                seconds(cpu),
                one.usage.time,
            );
        }
    }
    let name = "container_memory_working_set_bytes";
    text.family(name, "gauge", "[STABLE] Current working set of the container in bytes");
    for (pod, one) in containers() {
        if let Some(bytes) = one.usage.working_set_bytes {
            text.timed(
                name,
                &[("container", &one.name), ("namespace", &pod.namespace), ("pod", &pod.name)],
                bytes,
                one.usage.time,
            );
        }
    }
    let name = "container_start_time_seconds";
    text.family(name, "gauge", "[STABLE] Start time of the container since unix epoch in seconds");
    for (pod, one) in containers() {
        let started = seconds(u64::try_from(one.started_at).unwrap_or(0));
        text.sample(
            name,
            &[("container", &one.name), ("namespace", &pod.namespace), ("pod", &pod.name)],
            started,
        );
    }
    for (name, help, number) in [
        (
            "container_swap_limit_bytes",
            "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems",
            (|usage| Some(usage.swap_bytes?.saturating_add(usage.swap_available_bytes?))) as Number,
        ),
        (
            "container_swap_usage_bytes",
            "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
            |usage| usage.swap_bytes,
        ),
    ] {
        text.family(name, "gauge", help);
        for (pod, one) in containers() {
            if let Some(bytes) = number(&one.usage) {
                text.timed(
                    name,
                    &[("container", &one.name), ("namespace", &pod.namespace), ("pod", &pod.name)],
                    bytes,
                    one.usage.time,
                );
            }
        }
    }
    let name = "node_swap_usage_bytes";
    text.family(
        name,
        "gauge",
        "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
    );
    if let Some(bytes) = node.swap_bytes {
        text.timed(name, &[], bytes, node.time);
    }
    let name = "pod_swap_usage_bytes";
    text.family(
        name,
        "gauge",
        "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems",
    );
    for pod in pods {
        if let Some(bytes) = pod.usage.swap_bytes {
            text.timed(name, &[("namespace", &pod.namespace), ("pod", &pod.name)], bytes, pod.usage.time);
        }
    }
    let name = "node_cpu_usage_seconds_total";
    text.family(name, "counter", "[STABLE] Cumulative cpu time consumed by the node in core-seconds");
    if let Some(cpu) = node.cpu_nanoseconds {
        text.timed(name, &[], seconds(cpu), node.time);
    }
    let name = "node_memory_working_set_bytes";
    text.family(name, "gauge", "[STABLE] Current working set of the node in bytes");
    if let Some(bytes) = node.working_set_bytes {
        text.timed(name, &[], bytes, node.time);
    }
    let name = "pod_cpu_usage_seconds_total";
    text.family(name, "counter", "[STABLE] Cumulative cpu time consumed by the pod in core-seconds");
    for pod in pods {
        if let Some(cpu) = pod.usage.cpu_nanoseconds {
            text.timed(
                name,
                &[("namespace", &pod.namespace), ("pod", &pod.name)],
                seconds(cpu),
                pod.usage.time,
            );
        }
    }
    let name = "pod_memory_working_set_bytes";
    text.family(name, "gauge", "[STABLE] Current working set of the pod in bytes");
    for pod in pods {
        if let Some(bytes) = pod.usage.working_set_bytes {
            text.timed(name, &[("namespace", &pod.namespace), ("pod", &pod.name)], bytes, pod.usage.time);
        }
    }
    let name = "resource_scrape_error";
    text.family(
        name,
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    text.sample(name, &[], u8::from(failed));
    text.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        local_storage::Size,
        server::stats::{ContainerUsage, storage::VolumeUsage},
    };

    #[test]
    fn resource_metrics() {
        let usage = |cpu| Usage {
            time: 1_767_225_600_123_000_000,
            cpu_nanoseconds: Some(cpu),
            working_set_bytes: Some(7),
            swap_bytes: Some(4),
            swap_available_bytes: Some(6),
            ..Default::default()
        };
        let pod = PodUsage {
            namespace: "n".to_owned(),
            name: "p".to_owned(),
            usage: usage(2),
            containers: vec![ContainerUsage {
                name: "c".to_owned(),
                started_at: 1_500_000_000,
                usage: usage(1_000_000_001),
                ..Default::default()
            }],
            ..Default::default()
        };
        let text = resource_text(&usage(3_500_000_000), &[pod], false);
        for line in [
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"} 1.000000001 1767225600123",
            "container_memory_working_set_bytes{container=\"c\",namespace=\"n\",pod=\"p\"} 7 1767225600123",
            "container_start_time_seconds{container=\"c\",namespace=\"n\",pod=\"p\"} 1.500000000",
            "container_swap_limit_bytes{container=\"c\",namespace=\"n\",pod=\"p\"} 10 1767225600123",
            "container_swap_usage_bytes{container=\"c\",namespace=\"n\",pod=\"p\"} 4 1767225600123",
            "node_swap_usage_bytes 4 1767225600123",
            "pod_swap_usage_bytes{namespace=\"n\",pod=\"p\"} 4 1767225600123",
            "node_cpu_usage_seconds_total 3.500000000 1767225600123",
            "node_memory_working_set_bytes 7 1767225600123",
            "pod_cpu_usage_seconds_total{namespace=\"n\",pod=\"p\"} 0.000000002 1767225600123",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn requests_are_counted_with_bounded_labels() {
        let requests = Requests::default();
        let under_way = requests.begin("/exec/n/p/c", &Method::POST);
        drop(requests.begin("/some/thing", &Method::from_bytes(b"BREW").unwrap()));
        let mut text = Text::default();
        requests.write(&mut text);
        let exec = "{long_running=\"true\",method=\"POST\",path=\"exec\",server_type=\"readwrite\"}";
        let other = "{long_running=\"false\",method=\"other\",path=\"other\",server_type=\"readwrite\"}";
        for line in [
            format!("kubelet_http_requests_total{exec} 1"),
            format!("kubelet_http_inflight_requests{exec} 1"),
            format!("kubelet_http_requests_total{other} 1"),
            format!("kubelet_http_inflight_requests{other} 0"),
            format!("kubelet_http_requests_duration_seconds_count{other} 1"),
        ] {
            assert!(text.0.lines().any(|one| one == line), "{line} in\n{}", text.0);
        }
        drop(under_way);
    }

    #[test]
    fn pods_are_counted() {
        let pod = |json: serde_json::Value| Arc::new(serde_json::from_value::<Pod>(json).unwrap());
        let spec =
            serde_json::json!({"containers": [], "ephemeralContainers": [{"name": "e"}, {"name": "f"}]});
        let pods = [
            pod(serde_json::json!({"metadata": {"resourceVersion": "1"}, "spec": spec})),
            pod(serde_json::json!({"metadata": {"resourceVersion": "1"}, "status": {"phase": "Failed"}})),
            pod(serde_json::json!({"metadata": {"annotations": {"kubernetes.io/config.source": "file"}}})),
        ];
        let mut text = Text::default();
        counts(&mut text, &pods, true);
        for line in [
            "kubelet_active_pods{static=\"\"} 1",
            "kubelet_active_pods{static=\"true\"} 1",
            "kubelet_cgroup_version 2",
            "kubelet_desired_pods{static=\"\"} 2",
            "kubelet_desired_pods{static=\"true\"} 1",
            "kubelet_managed_ephemeral_containers 2",
            "kubelet_mirror_pods 1",
        ] {
            assert!(text.0.lines().any(|one| one == line), "{line} in\n{}", text.0);
        }
    }

    #[test]
    fn resizes_are_counted_by_conditions() {
        let pod = |conditions: serde_json::Value| {
            let json = serde_json::json!({"metadata": {"name": "p"}, "status": {"conditions": conditions}});
            Arc::new(serde_json::from_value::<Pod>(json).unwrap())
        };
        let pending = |reason: &str| serde_json::json!({"type": "PodResizePending", "status": "True", "reason": reason});
        let progress = serde_json::json!({"type": "PodResizeInProgress", "status": "True"});
        let ready = serde_json::json!({"type": "Ready", "status": "True"});
        let pods = [
            pod(serde_json::json!([pending("Deferred"), progress])),
            pod(serde_json::json!([pending("Deferred"), ready])),
            pod(serde_json::json!([pending("Infeasible")])),
            pod(serde_json::json!([ready])),
        ];
        let mut text = Text::default();
        resizes(&mut text, &pods);
        for line in [
            "kubelet_pod_pending_resizes{reason=\"deferred\"} 2",
            "kubelet_pod_pending_resizes{reason=\"infeasible\"} 1",
            "kubelet_pod_in_progress_resizes 1",
        ] {
            assert!(text.0.lines().any(|one| one == line), "{line} in\n{}", text.0);
        }
    }

    #[test]
    fn claims_and_logs_are_shown() {
        let pod = |uid: &str| {
            let json =
                serde_json::json!({"metadata": {"name": format!("p-{uid}"), "namespace": "n", "uid": uid}});
            Arc::new(serde_json::from_value::<Pod>(json).unwrap())
        };
        let volume = |name: &str, claim: Option<&str>, used_bytes| VolumeUsage {
            name: name.to_owned(),
            claim: claim.map(str::to_owned),
            ephemeral: claim.is_none(),
            space: Space { used_bytes, capacity_bytes: 100, inodes_free: 6, ..Space::default() },
        };
        let logs = [("c".to_owned(), Size { bytes: 4096, inodes: 1 })].into();
        let stored = HashMap::from([
            (
                "a".to_owned(),
                Stored {
                    volumes: vec![volume("e", None, 1), volume("v", Some("data"), 2)],
                    logs,
                    ..Stored::default()
                },
            ),
            ("b".to_owned(), Stored { volumes: vec![volume("w", Some("data"), 3)], ..Stored::default() }),
        ]);
        let mut text = Text::default();
        storage(&mut text, &[pod("a"), pod("b"), pod("unmeasured")], &stored);
        for line in [
            "kubelet_volume_stats_capacity_bytes{namespace=\"n\",persistentvolumeclaim=\"data\"} 100",
            "kubelet_volume_stats_used_bytes{namespace=\"n\",persistentvolumeclaim=\"data\"} 2",
            "kubelet_volume_stats_inodes_free{namespace=\"n\",persistentvolumeclaim=\"data\"} 6",
            "kubelet_container_log_filesystem_used_bytes{container=\"c\",namespace=\"n\",pod=\"p-a\",uid=\"a\"} 4096",
        ] {
            assert!(text.0.lines().any(|one| one == line), "{line} in\n{}", text.0);
        }
        assert_eq!(text.0.matches("persistentvolumeclaim").count(), 6, "one row for each:\n{}", text.0);
    }

    #[test]
    fn labels_are_escaped() {
        let mut text = Text::default();
        text.sample("a", &[("b", "x\"\\\ny")], 1);
        assert_eq!(text.0, "a{b=\"x\\\"\\\\\\ny\"} 1\n");
    }
}
