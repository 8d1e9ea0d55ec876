//! `/metrics/cadvisor`: the part of cAdvisor's metrics that dashboards use and that runtime, kernel and spec give.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use podium_cri::v1;

use super::{
    host::Host,
    metrics::{Text, seconds},
    reply::{self, Reply},
    stats::{self, ContainerUsage, PodUsage, Usage},
};
use crate::{pod, resources};

/// Serves it.
pub(crate) async fn serve(host: &dyn Host) -> Reply {
    let mut text = Text::default();
    let (cores, sockets) = host.cores_and_sockets();
    let memory = host.memory_bytes();
    for (name, help, value) in [
        ("machine_cpu_cores", "Number of logical CPU cores.", host.cpus()),
        ("machine_cpu_physical_cores", "Number of physical CPU cores.", i64::try_from(cores).unwrap_or(0)),
        ("machine_cpu_sockets", "Number of CPU sockets.", i64::try_from(sockets).unwrap_or(0)),
        ("machine_memory_bytes", "Amount of memory installed on the machine.", memory),
    ] {
        text.family(name, "gauge", help);
        text.sample(name, &[], value);
    }
    let pods = stats::pods(host).await;
    let name = "container_scrape_error";
    text.family(name, "gauge", "1 if there was an error while getting container metrics, 0 otherwise");
    text.sample(name, &[], u8::from(pods.is_err()));
    match pods {
        Ok(pods) => containers(&mut text, &pods, &host.pods(), &host.bounds()),
        Err(error) => tracing::warn!(%error, "statistics of the runtime"),
    }
    reply::metrics(text.0)
}

/// Whose row it is: a container's, or that of a whole pod.
struct Subject<'a> {
    pod: &'a PodUsage,
    container: Option<&'a ContainerUsage>,
}

impl Subject<'_> {
    fn usage(&self) -> &Usage {
        self.container.map_or(&self.pod.usage, |one| &one.usage)
    }

    /// The labels of all rows, and more between them, in alphabetical order.
    fn row(&self, text: &mut Text, name: &str, more: &[(&str, &str)], value: impl std::fmt::Display) {
        let id = match self.container {
            Some(one) => format!("/kubepods/pod{}/{}", self.pod.uid, one.id),
            None => format!("/kubepods/pod{}", self.pod.uid),
        };
        let mut labels = vec![
            ("container", self.container.map_or("", |one| one.name.as_str())),
            ("id", id.as_str()),
            ("image", self.container.map_or("", |one| one.image.as_str())),
            ("name", self.container.map_or("", |one| one.id.as_str())),
            ("namespace", self.pod.namespace.as_str()),
            ("pod", self.pod.name.as_str()),
        ];
        labels.extend(more);
        labels.sort_unstable();
        text.timed(name, &labels, value, self.usage().time);
    }
}

/// The numbers of one row, with the labels that tell it from others of the same family; None if it is not known.
type Rows = Vec<(Vec<(&'static str, String)>, Option<String>)>;

fn one(value: Option<impl ToString>) -> Rows {
    vec![(Vec::new(), value.map(|value| value.to_string()))]
}

/// A family: name, type, help, and its rows for a subject.
type Family = (&'static str, &'static str, &'static str, fn(&Subject<'_>) -> Rows);

const FAMILIES: &[Family] = &[
    ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |of| {
        vec![(vec![("cpu", "total".to_owned())], of.usage().cpu_nanoseconds.map(seconds))]
    }),
    (
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |of| one(of.usage().usage_bytes),
    ),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |of| {
        one(of.usage().working_set_bytes)
    }),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", |of| one(of.usage().rss_bytes)),
    ("container_memory_failures_total", "counter", "Cumulative count of memory allocation failures.", |of| {
        let row = |kind: &str, value: Option<u64>| {
            let labels = vec![("failure_type", kind.to_owned()), ("scope", "container".to_owned())];
            (labels, value.map(|value| value.to_string()))
        };
        vec![row("pgfault", of.usage().page_faults), row("pgmajfault", of.usage().major_page_faults)]
    }),
    (
        "container_fs_usage_bytes",
        "gauge",
        "Number of bytes that are consumed by the container on this filesystem.",
        |of| one(of.container.and_then(|one| one.layer_bytes)),
    ),
    (
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
        |of| one(of.container.and_then(|one| u64::try_from(one.started_at).ok()).map(seconds)),
    ),
    ("container_processes", "gauge", "Number of processes running inside the container.", |of| {
        one(of.pod.processes.filter(|_| of.container.is_none()))
    }),
    ("container_last_seen", "gauge", "Last time a container was seen by the exporter", |of| {
        let time = of.usage().time;
        one((time > 0).then_some(time / 1_000_000_000))
    }),
    ("container_network_receive_bytes_total", "counter", "Cumulative count of bytes received", |of| {
        network(of, |one| one.rx_bytes.as_ref())
    }),
    (
        "container_network_receive_errors_total",
        "counter",
        "Cumulative count of errors encountered while receiving",
        |of| network(of, |one| one.rx_errors.as_ref()),
    ),
    ("container_network_transmit_bytes_total", "counter", "Cumulative count of bytes transmitted", |of| {
        network(of, |one| one.tx_bytes.as_ref())
    }),
    (
        "container_network_transmit_errors_total",
        "counter",
        "Cumulative count of errors encountered while transmitting",
        |of| network(of, |one| one.tx_errors.as_ref()),
    ),
];

/// A row for each interface of a pod: its containers share them.
fn network(of: &Subject<'_>, number: fn(&v1::NetworkInterfaceUsage) -> Option<&v1::UInt64Value>) -> Rows {
    let network = of.pod.network.as_ref().filter(|_| of.container.is_none());
    let all = network.into_iter().flat_map(|all| all.default_interface.iter().chain(&all.interfaces));
    all.map(|one| {
        let value = number(one).map(|number| number.value.to_string());
        (vec![("interface", one.name.clone())], value)
    })
    .collect()
}

fn containers(text: &mut Text, usage: &[PodUsage], pods: &[Arc<Pod>], bounds: &resources::Bounds) {
    let subjects: Vec<Subject<'_>> = usage
        .iter()
        .flat_map(|pod| {
            let own = std::iter::once(None).chain(pod.containers.iter().map(Some));
            own.map(move |container| Subject { pod, container })
        })
        .collect();
    for (name, kind, help, rows) in FAMILIES {
        text.family(name, kind, help);
        for subject in &subjects {
            for (more, value) in rows(subject) {
                let more: Vec<(&str, &str)> =
                    more.iter().map(|(name, value)| (*name, value.as_str())).collect();
                if let Some(value) = value {
                    subject.row(text, name, &more, value);
                }
            }
        }
    }
    // What the spec says the kernel was told.
    let limits: Vec<(&Subject<'_>, v1::LinuxContainerResources)> = subjects
        .iter()
        .filter_map(|subject| {
            let name = subject.container?.name.as_str();
            let pod = pods.iter().find(|one| pod::uid(one) == subject.pod.uid)?;
            let (_, container) = pod::find_container(pod, name)?;
            Some((subject, resources::linux_resources(pod, &container, bounds)))
        })
        .collect();
    type Limit = fn(&v1::LinuxContainerResources) -> Option<i64>;
    let families: [(&str, &str, Limit); 4] = [
        ("container_spec_cpu_period", "CPU period of the container.", |all| Some(all.cpu_period)),
        ("container_spec_cpu_quota", "CPU quota of the container.", |all| {
            Some(all.cpu_quota).filter(|quota| *quota > 0)
        }),
        ("container_spec_cpu_shares", "CPU share of the container.", |all| Some(all.cpu_shares)),
        ("container_spec_memory_limit_bytes", "Memory limit for the container.", |all| {
            Some(all.memory_limit_in_bytes)
        }),
    ];
    for (name, help, number) in families {
        text.family(name, "gauge", help);
        for (subject, limits) in &limits {
            if let Some(value) = number(limits) {
                subject.row(text, name, &[], value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_dashboards_ask_for() {
        let usage = Usage {
            time: 1_767_225_600_123_000_000,
            cpu_nanoseconds: Some(1_500_000_000),
            working_set_bytes: Some(7),
            page_faults: Some(3),
            ..Default::default()
        };
        let number = |value: u64| Some(v1::UInt64Value { value });
        let eth0 = v1::NetworkInterfaceUsage {
            name: "eth0".into(),
            rx_bytes: number(10),
            tx_bytes: number(20),
            ..Default::default()
        };
        let pod = PodUsage {
            namespace: "n".into(),
            name: "p".into(),
            uid: "u".into(),
            usage: usage.clone(),
            containers: vec![ContainerUsage {
                id: "x".into(),
                name: "c".into(),
                image: "i".into(),
                started_at: 2_000_000_000,
                usage,
                layer_bytes: Some(5),
                ..Default::default()
            }],
            network: Some(v1::NetworkUsage { default_interface: Some(eth0), ..Default::default() }),
            processes: Some(4),
            ..Default::default()
        };
        let spec: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Mi"}}}]}}))
        .unwrap();
        let mut text = Text::default();
        containers(&mut text, &[pod], &[Arc::new(spec)], &resources::Bounds::unlimited(1 << 30));
        let own = "id=\"/kubepods/podu/x\",image=\"i\"";
        let tail = "name=\"x\",namespace=\"n\",pod=\"p\"} ";
        let whole = "image=\"\",";
        let end = "name=\"\",namespace=\"n\",pod=\"p\"} ";
        for line in [
            format!(
                "container_cpu_usage_seconds_total{{container=\"c\",cpu=\"total\",{own},{tail}1.500000000 1767225600123"
            ),
            format!("container_memory_working_set_bytes{{container=\"c\",{own},{tail}7 1767225600123"),
            format!("container_start_time_seconds{{container=\"c\",{own},{tail}2.000000000 1767225600123"),
            format!("container_fs_usage_bytes{{container=\"c\",{own},{tail}5 1767225600123"),
            format!("container_spec_cpu_quota{{container=\"c\",{own},{tail}50000 1767225600123"),
            format!("container_spec_memory_limit_bytes{{container=\"c\",{own},{tail}1048576 1767225600123"),
            format!(
                "container_network_receive_bytes_total{{container=\"\",id=\"/kubepods/podu\",{whole}interface=\"eth0\",{end}10 1767225600123"
            ),
            format!("container_processes{{container=\"\",id=\"/kubepods/podu\",{whole}{end}4 1767225600123"),
        ] {
            assert!(text.0.lines().any(|one| one == line), "{line} in\n{}", text.0);
        }
        assert!(
            text.0.contains("failure_type=\"pgfault\"") && !text.0.contains("pgmajfault\""),
            "{}",
            text.0
        );
        assert!(!text.0.contains("container_network_receive_errors_total{"), "not known: {}", text.0);
    }
}
