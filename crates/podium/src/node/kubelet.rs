//! The kubelet's configuration on a node of ours: what podium decides, what it only suggests, and `--kubelet-config`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use podium_kubelet::Configuration;
use serde_json::{Map, Value, json};

use super::Node;

/// Fields that a file cannot say anything of, because certificates, registration and the range of pods are podium's.
const OURS: [&str; 5] =
    ["tlsCertFile", "tlsPrivateKeyFile", "serverTLSBootstrap", "rotateCertificates", "podCIDR"];

/// What podium decides: other parts of the node are told the same.
pub(super) struct Decided<'a> {
    pub(super) endpoint: &'a str,
    pub(super) pod_logs: PathBuf,
    pub(super) port: u16,
    pub(super) cluster_dns: String,
    pub(super) cluster_domain: &'a str,
    pub(super) cgroup_root: String,
}

impl<'a> Decided<'a> {
    pub(super) fn of(node: &'a Node<'_>, endpoint: &'a str) -> Self {
        Self {
            endpoint,
            pod_logs: node.layout.pod_logs(),
            port: node.kubelet_port,
            cluster_dns: node.cluster_dns.to_string(),
            cluster_domain: node.cluster_domain,
            cgroup_root: node.layout.cgroup_root(),
        }
    }

    fn fields(&self) -> [(&'static str, Value); 7] {
        [
            ("containerRuntimeEndpoint", json!(self.endpoint)),
            ("podLogsDir", json!(self.pod_logs)),
            ("port", json!(self.port)),
            ("clusterDNS", json!([self.cluster_dns])),
            ("clusterDomain", json!(self.cluster_domain)),
            ("cgroupRoot", json!(self.cgroup_root)),
            ("registerNode", json!(true)),
        ]
    }
}

/// The configuration of a node's kubelet: `file` over what podium suggests, and what it decides over both.
///
/// # Errors
/// A file that cannot be read or is no KubeletConfiguration, and one that contradicts what podium decides.
pub(super) fn settings(decided: &Decided<'_>, file: Option<&Path>) -> Result<Configuration> {
    let Some(path) = file else { return of(decided, Map::new()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_norway::from_str(&text)
        .context("not a YAML document")
        .and_then(|document| of(decided, document))
        .with_context(|| format!("--kubelet-config {}", path.display()))
}

fn of(decided: &Decided<'_>, mut document: Map<String, Value>) -> Result<Configuration> {
    let fields = decided.fields();
    let contradicts = |(name, value): &(&'static str, Value)| {
        let said = document.get(*name).filter(|said| !says_nothing(said))?;
        (said != value).then_some(*name)
    };
    let asks = |said: &Value| !says_nothing(said) && *said != json!(false);
    let ours = OURS.into_iter().filter(|name| document.get(*name).is_some_and(asks));
    let wrong: Vec<&str> = fields.iter().filter_map(contradicts).chain(ours).collect();
    ensure!(wrong.is_empty(), "{}: podium decides that itself", wrong.join(", "));
    if document.is_empty() {
        document.insert("apiVersion".to_owned(), json!("kubelet.config.k8s.io/v1beta1"));
        document.insert("kind".to_owned(), json!("KubeletConfiguration"));
    }
    for (name, value) in suggested() {
        let pulls = ["serializeImagePulls", "maxParallelImagePulls"];
        let said = |name: &str| document.get(name).is_some_and(|said| !said.is_null());
        if !(said(name) || pulls.contains(&name) && pulls.into_iter().any(said)) {
            document.insert(name.to_owned(), value);
        }
    }
    let flags = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
    let (scored, limited) = (document.contains_key("oomScoreAdj"), document.contains_key("maxOpenFiles"));
    let mut read = Configuration::of(&[Value::Object(document)], flags)?;
    // The process is the whole node, or cluster; its limits are those of whoever started it, and are passed on.
    read.oom_score_adj = read.oom_score_adj.filter(|_| scored);
    read.max_open_files = read.max_open_files.filter(|_| limited);
    Ok(read)
}

/// As files are written by programs: with fields that hold Go's zero value.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Array(items) => items.is_empty(),
        Value::Bool(_) | Value::Object(_) => false,
    }
}

/// Where podium's default is not upstream's.
fn suggested() -> [(&'static str, Value); 7] {
    [
        // Clusters share the machine, and its port 10248.
        ("healthzPort", json!(0)),
        // A cluster on somebody's machine takes it as it is.
        ("failSwapOn", json!(false)),
        // Upstream's thresholds but for the disk, which here is everybody's: a tenth of it free is too much to ask of
        // somebody's machine, and no pod would run. Without free process ids nothing starts.
        (
            "evictionHard",
            json!({"memory.available": "100Mi", "nodefs.available": "1Gi", "nodefs.inodesFree": "5%",
                "pid.available": "1000"}),
        ),
        // Images that somebody loaded by hand can be had from nowhere else.
        ("imageGCHighThresholdPercent", json!(100)),
        // The registry and the API server limit what they are asked; a busy node's pods need not wait as well.
        ("registryPullQPS", json!(0)),
        ("eventRecordQPS", json!(0)),
        // A slow registry should not stop the others.
        ("maxParallelImagePulls", json!(3)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided() -> Decided<'static> {
        Decided {
            endpoint: "unix:///run/podium/cri.sock",
            pod_logs: "/var/lib/podium/logs".into(),
            port: 10_251,
            cluster_dns: "10.96.0.10".to_owned(),
            cluster_domain: "cluster.local",
            cgroup_root: "podium".to_owned(),
        }
    }

    fn with(fields: &str) -> Result<Configuration, String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("kubelet.yaml");
        let text =
            format!("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n{fields}\n");
        std::fs::write(&file, text).unwrap();
        settings(&decided(), Some(&file)).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn without_a_file_podium_decides_and_suggests() {
        let read = settings(&decided(), None).unwrap();
        assert_eq!((read.port, read.healthz_port, read.fail_swap_on), (10_251, 0, false));
        assert_eq!((read.image_gc_high_threshold_percent, read.max_parallel_image_pulls), (100, Some(3)));
        assert_eq!(read.container_runtime_endpoint, "unix:///run/podium/cri.sock");
        assert_eq!((read.registry_pull_qps, read.event_record_qps), (0, 0));
        assert_eq!((read.oom_score_adj, read.max_open_files), (None, None));
        assert_eq!(read.pod_logs_dir, Path::new("/var/lib/podium/logs"));
        let hard = read.eviction_hard.unwrap();
        assert_eq!((hard.len(), hard["pid.available"].as_str()), (4, "1000"));
        // Whatever part of the disk that is.
        assert_eq!(hard["nodefs.available"], "1Gi");
    }

    #[test]
    fn a_file_goes_before_what_is_suggested() {
        let read = with(
            "maxPods: 20\nhealthzPort: 10248\nfailSwapOn: true\nserializeImagePulls: true\n\
            shutdownGracePeriod: 30s\nregistryPullQPS: 7\noomScoreAdj: -500\nevictionHard: {memory.available: 1Gi}\nimageGCHighThresholdPercent: 90",
        )
        .unwrap();
        assert_eq!((read.max_pods, read.healthz_port, read.fail_swap_on), (20, 10_248, true));
        assert_eq!((read.max_parallel_image_pulls, read.serialize_image_pulls), (None, Some(true)));
        assert_eq!(read.shutdown_grace_period.to_string(), "30s");
        assert_eq!(read.image_gc_high_threshold_percent, 90);
        assert_eq!((read.registry_pull_qps, read.oom_score_adj, read.max_open_files), (7, Some(-500), None));
        // A list of thresholds is the whole list, as upstream has it.
        assert_eq!(read.eviction_hard.unwrap().into_keys().collect::<Vec<_>>(), ["memory.available"]);
        assert_eq!((read.port, read.cluster_domain.as_str()), (10_251, "cluster.local"));
    }

    #[test]
    fn what_podium_decides_is_refused_in_one_line() {
        for (fields, why) in [
            ("port: 10250\nclusterDNS: [10.96.0.11]", "port, clusterDNS: podium decides that itself"),
            ("registerNode: false", "registerNode: podium decides that itself"),
            ("rotateCertificates: true", "rotateCertificates: podium decides that itself"),
            (
                "containerRuntimeEndpoint: unix:///run/containerd/containerd.sock",
                "containerRuntimeEndpoint: podium",
            ),
            ("maxPod: 3", "unknown field `maxPod`"),
            ("evictionHard: 3", "strict decoding error"),
            ("- a", "not a YAML document"),
        ] {
            let error = with(fields).unwrap_err();
            assert!(error.starts_with("--kubelet-config /") && error.contains(why), "{error} lacks {why}");
            assert_eq!(error.trim_end().lines().count(), 1, "{error}");
        }
        // The same said twice, and what programs write of fields that nobody set.
        for fields in [
            "port: 10251\nclusterDNS: [10.96.0.10]\nclusterDomain: cluster.local",
            "containerRuntimeEndpoint: ''\nport: 0\nrotateCertificates: false\nclusterDNS: []",
        ] {
            assert!(with(fields).is_ok(), "{fields}");
        }
        let missing = settings(&decided(), Some(Path::new("/nonexistent"))).unwrap_err();
        assert_eq!(missing.to_string(), "read /nonexistent");
    }
}
