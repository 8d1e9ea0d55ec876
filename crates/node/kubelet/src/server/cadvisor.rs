//! `/metrics/cadvisor`: the part of cAdvisor's metrics that dashboards use and that runtime, kernel and spec give.

mod group;
mod machine;

use std::{collections::HashMap, fs, sync::Arc};

use k8s_openapi::api::core::v1::Pod;
use podium_cri::v1;

use super::{
    host::Host,
    metrics::{Text, seconds},
    reply::{self, Reply},
    stats::{self, ContainerUsage, PodUsage, Usage},
};
use crate::{pod, resources};
use group::{Group, Io, Packets};
use machine::FileSystem;

/// Serves it.
pub(crate) async fn serve(host: &Arc<dyn Host>) -> Reply {
    let mut text = Text::default();
    machine::write(&mut text, &**host);
    let pods = stats::pods(&**host).await;
    let name = "container_scrape_error";
    text.family(name, "gauge", "1 if there was an error while getting container metrics, 0 otherwise");
    text.sample(name, &[], u8::from(pods.is_err()));
    match pods {
        Ok(usage) => {
            let pods = host.pods();
            let network = Some(stats::network::of_node(0).await);
            let node = PodUsage { usage: stats::node(&**host).await, network, ..PodUsage::default() };
            let mut found = read_groups(host, &usage, &pods).await;
            found.whole.insert(0, ("/", node));
            containers(&mut text, &usage, &found, &pods, &host.bounds());
        }
        Err(error) => tracing::warn!(%error, "statistics of the runtime"),
    }
    reply::metrics(text.0)
}

/// What the kernel says beside what the runtime does.
#[derive(Debug, Default)]
struct Found {
    /// By the id of a container, or the uid of a pod.
    groups: HashMap<String, Group>,
    /// By the uid of a pod with a network of its own.
    packets: HashMap<String, Vec<Packets>>,
    /// Names of devices, by their numbers.
    devices: HashMap<String, String>,
    /// What is no pod's: the machine, and the group of all pods, by cAdvisor's names for them.
    whole: Vec<(&'static str, PodUsage)>,
    /// What is mounted on the machine.
    file_systems: Vec<FileSystem>,
    /// When the machine came up, in seconds since 1970.
    boot_seconds: Option<i64>,
}

/// Reads the groups of pods and containers, off the threads that serve.
async fn read_groups(host: &Arc<dyn Host>, usage: &[PodUsage], pods: &[Arc<Pod>]) -> Found {
    let mut wanted = Vec::new();
    for one in usage {
        let Some(pod) = pods.iter().find(|pod| pod::uid(pod) == one.uid) else { continue };
        let containers = one.containers.iter();
        let containers = containers.map(|one| (one.id.clone(), host.container_group(pod, &one.id))).collect();
        let own_network = one.network.is_some();
        wanted.push((one.uid.clone(), host.pod_group(pod), containers, own_network));
    }
    let host = host.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut found = Found::default();
        let group = |path: &str| {
            Group::read(host.cgroup_v2(), |controller, file| host.group_file(path, controller, file))
        };
        for (uid, path, containers, own_network) in wanted {
            let containers: Vec<(String, String)> = containers;
            let mut pid = None;
            for (id, path) in containers {
                let group = group(&path);
                pid = pid.or(group.pid);
                found.groups.insert(id, group);
            }
            if let Some(text) = pid.filter(|_| own_network).and_then(net_dev) {
                found.packets.insert(uid.clone(), group::packets(&text));
            }
            found.groups.insert(uid, group(&path));
        }
        let top = host.pods_group();
        let usage = Usage::of_cgroup(host.cgroup_v2(), stats::nanoseconds_now(), |controller, file| {
            host.group_file(&top, controller, file)
        });
        found.whole.push((PODS, PodUsage { usage, ..PodUsage::default() }));
        found.groups.insert(PODS.to_owned(), group(&top));
        found.groups.insert("/".to_owned(), group("/"));
        found.packets.insert(
            "/".to_owned(),
            net_dev(std::process::id()).map(|text| group::packets(&text)).unwrap_or_default(),
        );
        found.file_systems = machine::file_systems();
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        found.boot_seconds = stats::boot(&stat).map(|boot| boot.as_second());
        for numbers in found.groups.values().flat_map(|group| group.io.keys()) {
            if !found.devices.contains_key(numbers) {
                found.devices.insert(numbers.clone(), group::device_name(numbers));
            }
        }
        found
    });
    read.await.unwrap_or_default()
}

fn net_dev(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()
}

/// What the row of the group of all pods is called, whatever its path is here.
const PODS: &str = "/kubepods";

/// Whose row it is: a container's, that of a whole pod, or of more.
struct Subject<'a> {
    /// Of what is no pod's.
    id: Option<&'static str>,
    pod: &'a PodUsage,
    container: Option<&'a ContainerUsage>,
    group: Option<&'a Group>,
    found: &'a Found,
}

impl Subject<'_> {
    fn usage(&self) -> &Usage {
        self.container.map_or(&self.pod.usage, |one| &one.usage)
    }

    /// The labels of all rows, and more between them, in alphabetical order.
    fn row(&self, text: &mut Text, name: &str, more: &[(&str, &str)], value: impl std::fmt::Display) {
        let id = match (self.id, self.container) {
            (Some(id), _) => id.to_owned(),
            (None, Some(one)) => format!("{PODS}/pod{}/{}", self.pod.uid, one.id),
            (None, None) => format!("{PODS}/pod{}", self.pod.uid),
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

/// A number that the kernel has of the group.
fn counted(of: &Subject<'_>, number: fn(&Group) -> Option<u64>) -> Rows {
    one(of.group.and_then(number))
}

/// A time of the group, in nanoseconds.
fn timed(of: &Subject<'_>, number: fn(&Group) -> Option<u64>) -> Rows {
    one(of.group.and_then(number).map(seconds))
}

/// Time that tasks stood still: all of them if `full`, some if not.
fn stalled(of: &Subject<'_>, psi: fn(&stats::Pressures) -> Option<&v1::PsiStats>, full: bool) -> Rows {
    let micros = of.group.and_then(|group| group::stalled(psi(&group.pressures), full));
    one(micros.map(|micros| seconds(micros.saturating_mul(1000))))
}

/// A row for each device.
fn devices(of: &Subject<'_>, number: fn(&Io) -> u64) -> Rows {
    let all = of.group.into_iter().flat_map(|group| &group.io);
    all.map(|(numbers, io)| {
        let device = of.found.devices.get(numbers).cloned().unwrap_or_default();
        (vec![("device", device)], Some(number(io).to_string()))
    })
    .collect()
}

/// A row for each interface of a pod.
fn packets(of: &Subject<'_>, number: fn(&Packets) -> u64) -> Rows {
    let key = of.id.unwrap_or(&of.pod.uid);
    let all = of.found.packets.get(key).filter(|_| of.container.is_none());
    all.into_iter()
        .flatten()
        .map(|one| (vec![("interface", one.interface.clone())], Some(number(one).to_string())))
        .collect()
}

const FAMILIES: &[Family] = &[
    ("container_cpu_user_seconds_total", "counter", "Cumulative user cpu time consumed in seconds.", |of| {
        timed(of, |group| group.cpu_user)
    }),
    (
        "container_cpu_system_seconds_total",
        "counter",
        "Cumulative system cpu time consumed in seconds.",
        |of| timed(of, |group| group.cpu_system),
    ),
    (
        "container_cpu_cfs_periods_total",
        "counter",
        "Number of elapsed enforcement period intervals.",
        // Without a quota there are no periods, and upstream shows none.
        |of| counted(of, |group| group.periods.filter(|periods| *periods > 0)),
    ),
    ("container_cpu_cfs_throttled_periods_total", "counter", "Number of throttled period intervals.", |of| {
        counted(of, |group| group.throttled_periods.filter(|_| group.periods > Some(0)))
    }),
    (
        "container_cpu_cfs_throttled_seconds_total",
        "counter",
        "Total time duration the container has been throttled.",
        |of| timed(of, |group| group.throttled.filter(|_| group.periods > Some(0))),
    ),
    ("container_memory_cache", "gauge", "Number of bytes of page cache memory.", |of| {
        counted(of, |group| group.cache)
    }),
    ("container_memory_mapped_file", "gauge", "Size of memory mapped files in bytes.", |of| {
        counted(of, |group| group.mapped_file)
    }),
    ("container_memory_kernel_usage", "gauge", "Size of kernel memory allocated in bytes.", |of| {
        counted(of, |group| group.kernel)
    }),
    ("container_memory_swap", "gauge", "Container swap usage in bytes.", |of| {
        one(of.group.and_then(|group| group.swap).or(of.usage().swap_bytes))
    }),
    ("container_memory_failcnt", "counter", "Number of memory usage hits limits", |of| {
        counted(of, |group| group.failures)
    }),
    ("container_memory_max_usage_bytes", "gauge", "Maximum memory usage recorded in bytes", |of| {
        counted(of, |group| group.max_usage)
    }),
    ("container_memory_total_active_file_bytes", "gauge", "Current total active file in bytes.", |of| {
        counted(of, |group| group.active_file)
    }),
    ("container_memory_total_inactive_file_bytes", "gauge", "Current total inactive file in bytes.", |of| {
        counted(of, |group| group.inactive_file)
    }),
    (
        "container_oom_events_total",
        "counter",
        "Count of out of memory events observed for the container",
        |of| counted(of, |group| group.oom_kills),
    ),
    ("container_fs_reads_bytes_total", "counter", "Cumulative count of bytes read", |of| {
        devices(of, |io| io.read_bytes)
    }),
    ("container_fs_reads_total", "counter", "Cumulative count of reads completed", |of| {
        devices(of, |io| io.reads)
    }),
    ("container_fs_writes_bytes_total", "counter", "Cumulative count of bytes written", |of| {
        devices(of, |io| io.written_bytes)
    }),
    ("container_fs_writes_total", "counter", "Cumulative count of writes completed", |of| {
        devices(of, |io| io.writes)
    }),
    ("container_threads", "gauge", "Number of threads running inside the container", |of| {
        counted(of, |group| group.threads)
    }),
    (
        "container_threads_max",
        "gauge",
        "Maximum number of threads allowed inside the container, infinity if value is zero",
        |of| counted(of, |group| group.most_threads),
    ),
    (
        "container_pressure_cpu_stalled_seconds_total",
        "counter",
        "Total time duration no tasks in the container could make progress due to CPU congestion.",
        |of| stalled(of, |all| all.cpu.as_ref(), true),
    ),
    (
        "container_pressure_cpu_waiting_seconds_total",
        "counter",
        "Total time duration tasks in the container have waited due to CPU congestion.",
        |of| stalled(of, |all| all.cpu.as_ref(), false),
    ),
    (
        "container_pressure_memory_stalled_seconds_total",
        "counter",
        "Total time duration no tasks in the container could make progress due to memory congestion.",
        |of| stalled(of, |all| all.memory.as_ref(), true),
    ),
    (
        "container_pressure_memory_waiting_seconds_total",
        "counter",
        "Total time duration tasks in the container have waited due to memory congestion.",
        |of| stalled(of, |all| all.memory.as_ref(), false),
    ),
    (
        "container_pressure_io_stalled_seconds_total",
        "counter",
        "Total time duration no tasks in the container could make progress due to IO congestion.",
        |of| stalled(of, |all| all.io.as_ref(), true),
    ),
    (
        "container_pressure_io_waiting_seconds_total",
        "counter",
        "Total time duration tasks in the container have waited due to IO congestion.",
        |of| stalled(of, |all| all.io.as_ref(), false),
    ),
    ("container_network_receive_packets_total", "counter", "Cumulative count of packets received", |of| {
        packets(of, |one| one.received)
    }),
    (
        "container_network_receive_packets_dropped_total",
        "counter",
        "Cumulative count of packets dropped while receiving",
        |of| packets(of, |one| one.receive_dropped),
    ),
    (
        "container_network_transmit_packets_total",
        "counter",
        "Cumulative count of packets transmitted",
        |of| packets(of, |one| one.sent),
    ),
    (
        "container_network_transmit_packets_dropped_total",
        "counter",
        "Cumulative count of packets dropped while transmitting",
        |of| packets(of, |one| one.send_dropped),
    ),
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
        |of| match of.id {
            Some(_) => file_systems(of, |one| one.used),
            None => one(of.container.and_then(|one| one.layer_bytes)),
        },
    ),
    (
        "container_fs_limit_bytes",
        "gauge",
        "Number of bytes that can be consumed by the container on this filesystem.",
        |of| file_systems(of, |one| one.capacity),
    ),
    ("container_fs_inodes_free", "gauge", "Number of available Inodes", |of| {
        file_systems(of, |one| one.inodes_free)
    }),
    ("container_fs_inodes_total", "gauge", "Number of Inodes", |of| file_systems(of, |one| one.inodes)),
    (
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
        |of| match of.id {
            Some("/") => one(of.found.boot_seconds),
            _ => one(of.container.and_then(|one| u64::try_from(one.started_at).ok()).map(seconds)),
        },
    ),
    ("container_processes", "gauge", "Number of processes running inside the container.", |of| {
        match (of.id, of.container) {
            (None, None) => one(of.pod.processes),
            _ => counted(of, |group| group.processes),
        }
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

/// A row for each file system of the machine, which has them all.
fn file_systems(of: &Subject<'_>, number: fn(&FileSystem) -> u64) -> Rows {
    let all = of.found.file_systems.iter().filter(|_| of.id == Some("/"));
    all.map(|one| (vec![("device", one.device.clone())], Some(number(one).to_string()))).collect()
}

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

fn containers(
    text: &mut Text,
    usage: &[PodUsage],
    found: &Found,
    pods: &[Arc<Pod>],
    bounds: &resources::Bounds,
) {
    let whole = found.whole.iter().map(|(id, pod)| {
        let group = found.groups.get(*id);
        Subject { id: Some(*id), pod, container: None, group, found }
    });
    let of_pods = usage.iter().flat_map(|pod| {
        let own = std::iter::once(None).chain(pod.containers.iter().map(Some));
        own.map(move |container| {
            let key = container.map_or(&pod.uid, |one| &one.id);
            Subject { id: None, pod, container, group: found.groups.get(key), found }
        })
    });
    let subjects: Vec<Subject<'_>> = whole.chain(of_pods).collect();
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
    let families: [(&str, &str, Limit); 5] = [
        ("container_spec_cpu_period", "CPU period of the container.", |all| Some(all.cpu_period)),
        ("container_spec_cpu_quota", "CPU quota of the container.", |all| {
            Some(all.cpu_quota).filter(|quota| *quota > 0)
        }),
        ("container_spec_cpu_shares", "CPU share of the container.", |all| Some(all.cpu_shares)),
        ("container_spec_memory_limit_bytes", "Memory limit for the container.", |all| {
            Some(all.memory_limit_in_bytes)
        }),
        ("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", |all| {
            Some(all.memory_swap_limit_in_bytes)
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
        let io = Io { read_bytes: 11, written_bytes: 12, ..Io::default() };
        let group = Group {
            periods: Some(10),
            throttled_periods: Some(3),
            throttled: Some(250_000_000),
            cache: Some(77),
            threads: Some(6),
            processes: Some(2),
            io: [("8:0".to_owned(), io)].into(),
            ..Group::default()
        };
        let unbounded = Group { periods: Some(0), throttled: Some(0), ..Group::default() };
        let carried =
            Packets { interface: "eth0".to_owned(), received: 5, send_dropped: 6, ..Packets::default() };
        let node = PodUsage {
            usage: Usage { time: 0, working_set_bytes: Some(900), ..Default::default() },
            ..PodUsage::default()
        };
        let root =
            FileSystem { device: "/dev/sda1".to_owned(), capacity: 100, used: 40, inodes: 9, inodes_free: 8 };
        let machine = Group { cache: Some(800), ..Group::default() };
        let found = Found {
            groups: [("x".to_owned(), group), ("u".to_owned(), unbounded), ("/".to_owned(), machine)].into(),
            packets: [("u".to_owned(), vec![carried.clone()]), ("/".to_owned(), vec![carried])].into(),
            devices: [("8:0".to_owned(), "/dev/sda".to_owned())].into(),
            whole: vec![("/", node), (PODS, PodUsage::default())],
            file_systems: vec![root],
            boot_seconds: Some(7),
        };
        let mut text = Text::default();
        containers(&mut text, &[pod], &found, &[Arc::new(spec)], &resources::Bounds::unlimited(1 << 30));
        let own = "id=\"/kubepods/podu/x\",image=\"i\"";
        let tail = "name=\"x\",namespace=\"n\",pod=\"p\"} ";
        let whole = "image=\"\",";
        let slash = "id=\"/\",image=\"\",name=\"\",namespace=\"\",pod=\"\"";
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
            format!("container_cpu_cfs_periods_total{{container=\"c\",{own},{tail}10 1767225600123"),
            format!("container_cpu_cfs_throttled_periods_total{{container=\"c\",{own},{tail}3 1767225600123"),
            format!(
                "container_cpu_cfs_throttled_seconds_total{{container=\"c\",{own},{tail}0.250000000 1767225600123"
            ),
            format!("container_memory_cache{{container=\"c\",{own},{tail}77 1767225600123"),
            format!("container_threads{{container=\"c\",{own},{tail}6 1767225600123"),
            format!("container_processes{{container=\"c\",{own},{tail}2 1767225600123"),
            format!(
                "container_fs_reads_bytes_total{{container=\"c\",device=\"/dev/sda\",{own},{tail}11 1767225600123"
            ),
            format!(
                "container_network_receive_packets_total{{container=\"\",id=\"/kubepods/podu\",{whole}interface=\"eth0\",{end}5 1767225600123"
            ),
            format!(
                "container_network_transmit_packets_dropped_total{{container=\"\",id=\"/kubepods/podu\",{whole}interface=\"eth0\",{end}6 1767225600123"
            ),
            format!("container_processes{{container=\"\",id=\"/kubepods/podu\",{whole}{end}4 1767225600123"),
            format!("container_memory_working_set_bytes{{container=\"\",{slash}}} 900"),
            format!("container_memory_cache{{container=\"\",{slash}}} 800"),
            format!("container_start_time_seconds{{container=\"\",{slash}}} 7"),
            format!("container_fs_limit_bytes{{container=\"\",device=\"/dev/sda1\",{slash}}} 100"),
            format!("container_fs_usage_bytes{{container=\"\",device=\"/dev/sda1\",{slash}}} 40"),
            format!("container_fs_inodes_free{{container=\"\",device=\"/dev/sda1\",{slash}}} 8"),
            "container_network_receive_packets_total{container=\"\",id=\"/\",image=\"\",interface=\"eth0\",name=\"\",namespace=\"\",pod=\"\"} 5".to_owned(),
        ] {
            assert!(text.0.lines().any(|one| one == line), "{line} in\n{}", text.0);
        }
        assert!(
            text.0.contains("failure_type=\"pgfault\"") && !text.0.contains("pgmajfault\""),
            "{}",
            text.0
        );
        assert_eq!(
            text.0.matches("cfs_throttled_seconds_total{").count(),
            1,
            "no quota, no row:\n{}",
            text.0
        );
        assert!(!text.0.contains("container_network_receive_errors_total{"), "not known: {}", text.0);
    }
}
