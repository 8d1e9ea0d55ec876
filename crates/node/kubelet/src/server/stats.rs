//! What containers, pods and the node use: from the runtime where it tells, else from the pod's cgroup, and
//! for the node from `/proc`. Served as upstream's `Summary`, and the source of the metrics.

mod network;

use std::{collections::HashMap, fs};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use nix::{
    sys::statvfs::statvfs,
    unistd::{SysconfVar, sysconf},
};
use podium_cri::v1;
use serde_json::{Map, Value, json};

use super::{
    host::Host,
    reply::{self, Reply, text},
};
use crate::{node::machine::memory, pod, record::label};

/// Processor and memory use. Zero nanoseconds of `time` means: nothing known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// When it was measured, in nanoseconds since 1970.
    pub(crate) time: i64,
    /// Processor time used so far.
    pub(crate) cpu_nanoseconds: Option<u64>,
    /// Processors used at the moment, in billionths.
    pub(crate) nano_cores: Option<u64>,
    pub(crate) working_set_bytes: Option<u64>,
    pub(crate) usage_bytes: Option<u64>,
    pub(crate) available_bytes: Option<u64>,
    pub(crate) rss_bytes: Option<u64>,
    pub(crate) page_faults: Option<u64>,
    pub(crate) major_page_faults: Option<u64>,
}

/// One container.
#[derive(Debug, Clone, Default)]
pub(crate) struct ContainerUsage {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) image: String,
    /// Nanoseconds since 1970.
    pub(crate) started_at: i64,
    pub(crate) usage: Usage,
    /// Bytes and inodes of its writable layer.
    pub(crate) layer_bytes: Option<u64>,
    pub(crate) layer_inodes: Option<u64>,
}

/// One pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct PodUsage {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) started: Option<Timestamp>,
    pub(crate) usage: Usage,
    pub(crate) containers: Vec<ContainerUsage>,
    pub(crate) network: Option<v1::NetworkUsage>,
    pub(crate) processes: Option<u64>,
}

fn value(number: Option<&v1::UInt64Value>) -> Option<u64> {
    number.map(|number| number.value)
}

impl Usage {
    fn of_cri(cpu: Option<&v1::CpuUsage>, memory: Option<&v1::MemoryUsage>) -> Self {
        let (cpu, memory) = (cpu.copied().unwrap_or_default(), memory.copied().unwrap_or_default());
        Self {
            time: cpu.timestamp.max(memory.timestamp),
            cpu_nanoseconds: value(cpu.usage_core_nano_seconds.as_ref()),
            nano_cores: value(cpu.usage_nano_cores.as_ref()),
            working_set_bytes: value(memory.working_set_bytes.as_ref()),
            usage_bytes: value(memory.usage_bytes.as_ref()),
            available_bytes: value(memory.available_bytes.as_ref()).filter(|bytes| *bytes > 0),
            rss_bytes: value(memory.rss_bytes.as_ref()),
            page_faults: value(memory.page_faults.as_ref()),
            major_page_faults: value(memory.major_page_faults.as_ref()),
        }
    }

    /// From the files of a cgroup; `read` takes a controller and a file's name.
    fn of_cgroup(v2: bool, now: i64, read: impl Fn(&str, &str) -> Option<String>) -> Self {
        let number = |controller: &str, file: &str| read(controller, file)?.trim().parse::<u64>().ok();
        let line = |controller: &str, file: &str, key: &str| {
            let text = read(controller, file)?;
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse::<u64>().ok())
        };
        let (cpu_nanoseconds, usage_bytes, inactive, rss_bytes) = if v2 {
            (
                line("cpu", "cpu.stat", "usage_usec").map(|micros| micros * 1000),
                number("memory", "memory.current"),
                line("memory", "memory.stat", "inactive_file"),
                line("memory", "memory.stat", "anon"),
            )
        } else {
            (
                number("cpuacct", "cpuacct.usage"),
                number("memory", "memory.usage_in_bytes"),
                line("memory", "memory.stat", "total_inactive_file"),
                line("memory", "memory.stat", "total_rss"),
            )
        };
        let working_set_bytes = usage_bytes.map(|usage| usage.saturating_sub(inactive.unwrap_or(0)));
        let known = cpu_nanoseconds.is_some() || usage_bytes.is_some();
        Self {
            time: if known { now } else { 0 },
            cpu_nanoseconds,
            usage_bytes,
            working_set_bytes,
            rss_bytes,
            ..Default::default()
        }
    }

    /// The whole machine, from the texts of `/proc/stat`, `/proc/meminfo` and `/proc/vmstat`.
    fn of_node(stat: &str, meminfo: &str, vmstat: &str, ticks_per_second: u64, now: i64) -> Self {
        let bytes = |key: &str| u64::try_from(memory(meminfo, key)).unwrap_or(0);
        let counter = |key: &str| {
            vmstat
                .lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse::<u64>().ok())
        };
        let used = bytes("MemTotal").saturating_sub(bytes("MemFree"));
        let working_set = used.saturating_sub(bytes("Inactive(file)"));
        Self {
            time: now,
            cpu_nanoseconds: busy_ticks(stat)
                .map(|ticks| ticks.saturating_mul(1_000_000_000 / ticks_per_second.max(1))),
            nano_cores: None,
            working_set_bytes: Some(working_set),
            usage_bytes: Some(used),
            available_bytes: Some(bytes("MemTotal").saturating_sub(working_set)),
            rss_bytes: Some(bytes("AnonPages")),
            page_faults: counter("pgfault"),
            major_page_faults: counter("pgmajfault"),
        }
    }

    fn cpu_json(&self) -> Option<Value> {
        self.cpu_nanoseconds?;
        Some(object([
            ("time", time(self.time)),
            ("usageNanoCores", self.nano_cores.map(Value::from)),
            ("usageCoreNanoSeconds", self.cpu_nanoseconds.map(Value::from)),
        ]))
    }

    fn memory_json(&self) -> Option<Value> {
        self.usage_bytes.or(self.working_set_bytes)?;
        Some(object([
            ("time", time(self.time)),
            ("availableBytes", self.available_bytes.map(Value::from)),
            ("usageBytes", self.usage_bytes.map(Value::from)),
            ("workingSetBytes", self.working_set_bytes.map(Value::from)),
            ("rssBytes", self.rss_bytes.map(Value::from)),
            ("pageFaults", self.page_faults.map(Value::from)),
            ("majorPageFaults", self.major_page_faults.map(Value::from)),
        ]))
    }
}

/// The ticks that processors were not idle: user, nice, system, irq, softirq, steal.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    [0, 1, 2, 5, 6, 7].into_iter().map(|at| fields.get(at)).sum()
}

fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let present = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(present.collect::<Map<_, _>>())
}

/// A time in seconds as objects have it.
fn time(nanoseconds: i64) -> Option<Value> {
    let time = Timestamp::from_second(nanoseconds.div_euclid(1_000_000_000)).ok()?;
    (nanoseconds > 0).then(|| time.to_string().into())
}

/// Now, in nanoseconds since 1970.
pub(crate) fn nanoseconds_now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// What the node uses.
pub(crate) async fn node() -> Usage {
    let read = tokio::task::spawn_blocking(|| {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
        Usage::of_node(
            &text("/proc/stat"),
            &text("/proc/meminfo"),
            &text("/proc/vmstat"),
            ticks.unwrap_or(100),
            nanoseconds_now(),
        )
    });
    read.await.unwrap_or_default()
}

/// What pods use, ordered by namespace and name.
pub(crate) async fn pods(host: &dyn Host) -> Result<Vec<PodUsage>, podium_cri::Error> {
    let runtime = host.runtime();
    let containers = runtime.containers(None, true).await?;
    let stats = or_nothing(runtime.container_stats().await)?;
    let sandboxes = or_nothing(runtime.sandbox_stats().await)?;
    let now = nanoseconds_now();
    let of_cgroup = |pod: &Pod| {
        Usage::of_cgroup(host.cgroup_v2(), now, |controller, file| host.pod_cgroup(pod, controller, file))
    };
    Ok(assemble(&host.pods(), &containers, &stats, &sandboxes, of_cgroup))
}

/// Not every runtime measures everything.
fn or_nothing<T>(answer: Result<Vec<T>, podium_cri::Error>) -> Result<Vec<T>, podium_cri::Error> {
    answer.or_else(|error| if error.is_unimplemented() { Ok(Vec::new()) } else { Err(error) })
}

fn assemble(
    pods: &[std::sync::Arc<Pod>],
    containers: &[v1::Container],
    stats: &[v1::ContainerStats],
    sandboxes: &[v1::PodSandboxStats],
    of_cgroup: impl Fn(&Pod) -> Usage,
) -> Vec<PodUsage> {
    let label_of = |labels: &HashMap<String, String>, key: &str| labels.get(key).cloned().unwrap_or_default();
    let by_id: HashMap<&str, &v1::ContainerStats> =
        stats.iter().filter_map(|one| Some((one.attributes.as_ref()?.id.as_str(), one))).collect();
    let mut of_pod: HashMap<String, Vec<ContainerUsage>> = HashMap::new();
    for one in containers {
        let Some(stats) = by_id.get(one.id.as_str()) else { continue };
        let layer = stats.writable_layer.as_ref();
        of_pod.entry(label_of(&one.labels, label::POD_UID)).or_default().push(ContainerUsage {
            id: one.id.clone(),
            name: super::containers::name_of(one).to_owned(),
            image: one.image.as_ref().map(|image| image.image.clone()).unwrap_or_default(),
            started_at: one.created_at,
            usage: Usage::of_cri(stats.cpu.as_ref(), stats.memory.as_ref()),
            layer_bytes: layer.and_then(|layer| value(layer.used_bytes.as_ref())),
            layer_inodes: layer.and_then(|layer| value(layer.inodes_used.as_ref())),
        });
    }
    let mut linux: HashMap<String, &v1::LinuxPodSandboxStats> = HashMap::new();
    for one in sandboxes {
        let Some(uid) = one.attributes.as_ref().and_then(|a| a.metadata.as_ref()).map(|m| m.uid.clone())
        else {
            continue;
        };
        if let Some(stats) = &one.linux {
            linux.insert(uid, stats);
        }
    }
    let mut found = Vec::new();
    for one in pods {
        let uid = pod::uid(one);
        let mut containers = of_pod.remove(uid).unwrap_or_default();
        let sandbox = linux.get(uid);
        if containers.is_empty() && sandbox.is_none() {
            continue;
        }
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        let usage = match sandbox.map(|stats| Usage::of_cri(stats.cpu.as_ref(), stats.memory.as_ref())) {
            Some(usage) if usage.cpu_nanoseconds.is_some() => usage,
            _ => of_cgroup(one),
        };
        found.push(PodUsage {
            namespace: pod::namespace(one).to_owned(),
            name: pod::name(one).to_owned(),
            uid: uid.to_owned(),
            started: one.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0),
            usage,
            containers,
            network: sandbox.and_then(|stats| stats.network.clone()),
            processes: sandbox.and_then(|stats| value(stats.process.as_ref()?.process_count.as_ref())),
        });
    }
    found
}

/// `/stats/summary`.
pub(crate) async fn summary(host: &dyn Host, only_cpu_and_memory: bool) -> Reply {
    let pods = match pods(host).await {
        Ok(pods) => pods,
        Err(error) => return text(500, error.grpc_text()),
    };
    let node = node().await;
    let (file_system, runtime, network) = if only_cpu_and_memory {
        (None, None, None)
    } else {
        let network = network_json(&network::of_node(node.time).await);
        (file_system(host.root_dir(), node.time), runtime(host, node.time).await, Some(network))
    };
    let pods: Vec<Value> = pods.iter().map(|one| pod_json(one, only_cpu_and_memory)).collect();
    let node = object([
        ("nodeName", Some(host.node_name().into())),
        ("startTime", Some(host.started().to_string().into())),
        ("cpu", node.cpu_json()),
        ("memory", node.memory_json()),
        ("network", network),
        ("fs", file_system),
        ("runtime", runtime),
    ]);
    reply::json(&json!({"node": node, "pods": pods}))
}

/// The file systems of images and of containers; None if the runtime does not say.
async fn runtime(host: &dyn Host, now: i64) -> Option<Value> {
    let answer = host.runtime().image_fs().await.ok()?;
    let shown = |list: &[v1::FilesystemUsage]| {
        let first = list.first()?;
        let mut shown = file_system(std::path::Path::new(&first.fs_id.as_ref()?.mountpoint), now)?;
        // What is used of it is asked of the runtime: others may have files there too.
        for (name, used) in [("usedBytes", &first.used_bytes), ("inodesUsed", &first.inodes_used)] {
            if let Some(used) = value(used.as_ref()) {
                shown[name] = used.into();
            }
        }
        Some(shown)
    };
    Some(object([
        ("imageFs", shown(&answer.image_filesystems)),
        ("containerFs", shown(&answer.container_filesystems)),
    ]))
}

fn pod_json(pod: &PodUsage, only_cpu_and_memory: bool) -> Value {
    let containers: Vec<Value> = pod
        .containers
        .iter()
        .map(|one| {
            let layer = object([
                ("time", time(one.usage.time)),
                ("usedBytes", one.layer_bytes.map(Value::from)),
                ("inodesUsed", one.layer_inodes.map(Value::from)),
            ]);
            object([
                ("name", Some(one.name.as_str().into())),
                ("startTime", time(one.started_at)),
                ("cpu", one.usage.cpu_json()),
                ("memory", one.usage.memory_json()),
                ("rootfs", one.layer_bytes.filter(|_| !only_cpu_and_memory).map(|_| layer)),
            ])
        })
        .collect();
    object([
        ("podRef", Some(json!({"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}))),
        ("startTime", pod.started.map(|started| started.to_string().into())),
        ("containers", Some(containers.into())),
        ("cpu", pod.usage.cpu_json()),
        ("memory", pod.usage.memory_json()),
        ("network", pod.network.as_ref().filter(|_| !only_cpu_and_memory).map(network_json)),
        ("process_stats", pod.processes.map(|count| json!({"process_count": count}))),
    ])
}

fn network_json(network: &v1::NetworkUsage) -> Value {
    let interface = |one: &v1::NetworkInterfaceUsage| {
        let fields = [
            ("name", Some(one.name.as_str().into())),
            ("rxBytes", value(one.rx_bytes.as_ref()).map(Value::from)),
            ("rxErrors", value(one.rx_errors.as_ref()).map(Value::from)),
            ("txBytes", value(one.tx_bytes.as_ref()).map(Value::from)),
            ("txErrors", value(one.tx_errors.as_ref()).map(Value::from)),
        ];
        object(fields)
    };
    let mut json = network.default_interface.as_ref().map(interface).unwrap_or_else(|| json!({}));
    if let Some(time) = time(network.timestamp) {
        json["time"] = time;
    }
    let all: Vec<Value> =
        network.default_interface.iter().chain(&network.interfaces).map(interface).collect();
    json["interfaces"] = all.into();
    json
}

fn file_system(root: &std::path::Path, now: i64) -> Option<Value> {
    let stats = statvfs(root).ok()?;
    let size = stats.fragment_size();
    let (blocks, free) = (stats.blocks(), stats.blocks_free());
    Some(object([
        ("time", time(now)),
        ("availableBytes", Some((stats.blocks_available() * size).into())),
        ("capacityBytes", Some((blocks * size).into())),
        ("usedBytes", Some((blocks.saturating_sub(free) * size).into())),
        ("inodesFree", Some(stats.files_free().into())),
        ("inodes", Some(stats.files().into())),
        ("inodesUsed", Some(stats.files().saturating_sub(stats.files_free()).into())),
    ]))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const NOW: i64 = 1_767_225_600_000_000_000;

    #[test]
    fn the_nodes_use_is_read() {
        let usage = Usage::of_node(
            "cpu  10 1 20 1000 5 2 3 4 0 0\ncpu0 1 1 1\n",
            "MemTotal: 1000 kB\nMemFree: 300 kB\nInactive(file): 100 kB\nAnonPages: 50 kB\n",
            "pgfault 7\npgmajfault 2\n",
            100,
            NOW,
        );
        assert_eq!(usage.cpu_nanoseconds, Some(40 * 10_000_000));
        assert_eq!(usage.working_set_bytes, Some(600 * 1024));
        assert_eq!(usage.available_bytes, Some(400 * 1024));
        assert_eq!((usage.page_faults, usage.major_page_faults), (Some(7), Some(2)));
    }

    #[test]
    fn cgroups_of_both_kinds_are_read() {
        let v2 = Usage::of_cgroup(true, NOW, |_, file| {
            Some(match file {
                "cpu.stat" => "usage_usec 5\nuser_usec 3\n".to_owned(),
                "memory.current" => "100\n".to_owned(),
                "memory.stat" => "anon 7\ninactive_file 40\n".to_owned(),
                _ => return None,
            })
        });
        assert_eq!((v2.cpu_nanoseconds, v2.working_set_bytes, v2.rss_bytes), (Some(5000), Some(60), Some(7)));
        let v1 = Usage::of_cgroup(false, NOW, |controller, file| {
            Some(match (controller, file) {
                ("cpuacct", "cpuacct.usage") => "5000\n".to_owned(),
                ("memory", "memory.usage_in_bytes") => "100\n".to_owned(),
                ("memory", "memory.stat") => "total_rss 7\ntotal_inactive_file 40\n".to_owned(),
                _ => return None,
            })
        });
        assert_eq!(v1, v2);
        assert_eq!(Usage::of_cgroup(true, NOW, |_, _| None), Usage::default());
    }

    #[test]
    fn a_pods_use_is_put_together() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}})).unwrap();
        let labels = HashMap::from([
            (label::POD_UID.to_owned(), "u".to_owned()),
            (label::CONTAINER_NAME.to_owned(), "c".to_owned()),
        ]);
        let container = v1::Container { id: "1".to_owned(), labels, created_at: NOW, ..Default::default() };
        let stats = v1::ContainerStats {
            attributes: Some(v1::ContainerAttributes { id: "1".to_owned(), ..Default::default() }),
            cpu: Some(v1::CpuUsage {
                timestamp: NOW,
                usage_core_nano_seconds: Some(v1::UInt64Value { value: 9 }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let cgroup = |_: &Pod| Usage { time: NOW, cpu_nanoseconds: Some(11), ..Default::default() };
        let found = assemble(&[Arc::new(pod)], &[container], &[stats], &[], cgroup);
        let json = pod_json(&found[0], false);
        assert_eq!(
            json,
            json!({"podRef": {"name": "p", "namespace": "n", "uid": "u"},
                "containers": [{"name": "c", "startTime": "2026-01-01T00:00:00Z",
                    "cpu": {"time": "2026-01-01T00:00:00Z", "usageCoreNanoSeconds": 9}}],
                "cpu": {"time": "2026-01-01T00:00:00Z", "usageCoreNanoSeconds": 11}})
        );
    }
}
