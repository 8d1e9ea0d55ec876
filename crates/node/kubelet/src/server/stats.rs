//! What containers, pods and the node use: from the runtime where it tells, else from the pod's cgroup, and
//! for the node from `/proc`. Served as upstream's `Summary`, and the source of the metrics.

mod groups;
pub(super) mod network;
pub(super) mod storage;

use std::{collections::HashMap, fs};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use nix::unistd::{SysconfVar, sysconf};
use podium_cri::{parse_pressure, v1};
use serde_json::{Map, Value, json};

use super::{
    host::Host,
    reply::{self, Reply, text},
};
use crate::{
    eviction::state::Observed, local_storage::Size, manager::relief::processes, node::machine::memory, pod,
    record::label,
};
use groups::{Rates, SystemContainer};
use storage::{Space, Storage, Stored, VolumeUsage};

/// What is kept from one question to the next.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) storage: Storage,
    rates: Rates,
}

/// How long tasks stood still for want of something; None where the kernel does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Pressures {
    pub(crate) cpu: Option<v1::PsiStats>,
    pub(crate) memory: Option<v1::PsiStats>,
    pub(crate) io: Option<v1::PsiStats>,
}

/// Processor and memory use. Zero nanoseconds of `time` means: nothing known.
#[derive(Debug, Clone, Default, PartialEq)]
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
    pub(crate) swap_bytes: Option<u64>,
    /// How much more swap there may be; None where it is not bounded.
    pub(crate) swap_available_bytes: Option<u64>,
    pub(crate) pressures: Pressures,
}

impl Kept {
    /// `volumes_every`: how old what is told of volumes may be; None: nothing is.
    pub(crate) fn new(volumes_every: Option<std::time::Duration>) -> Self {
        Self { storage: Storage::new(volumes_every), rates: Rates::default() }
    }
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
    /// A directory on the file system of that layer; empty if it is not known.
    pub(crate) layer_at: String,
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
            swap_bytes: None,
            swap_available_bytes: None,
            pressures: Pressures { cpu: cpu.psi, memory: memory.psi, io: None },
        }
    }

    /// With what CRI has apart.
    fn and(mut self, swap: Option<&v1::SwapUsage>, io: Option<&v1::IoUsage>) -> Self {
        self.swap_bytes = swap.and_then(|swap| value(swap.swap_usage_bytes.as_ref()));
        self.swap_available_bytes = swap.and_then(|swap| value(swap.swap_available_bytes.as_ref()));
        self.pressures.io = io.and_then(|io| io.psi);
        self
    }

    /// From the files of a cgroup; `read` takes a controller and a file's name.
    pub(crate) fn of_cgroup(v2: bool, now: i64, read: impl Fn(&str, &str) -> Option<String>) -> Self {
        let number = |controller: &str, file: &str| read(controller, file)?.trim().parse::<u64>().ok();
        let line = |controller: &str, file: &str, key: &str| {
            let text = read(controller, file)?;
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse::<u64>().ok())
        };
        let stat = |one: &str, two: &str| line("memory", "memory.stat", if v2 { two } else { one });
        // Version 1 writes a number near the largest for no limit, version 2 a word.
        let bound = |file: &str| number("memory", file).filter(|limit| *limit < 1 << 60);
        let (cpu_nanoseconds, usage_bytes, limit, swap_limit) = if v2 {
            (
                line("cpu", "cpu.stat", "usage_usec").map(|micros| micros * 1000),
                number("memory", "memory.current"),
                bound("memory.max"),
                bound("memory.swap.max"),
            )
        } else {
            let limit = bound("memory.limit_in_bytes");
            let both = bound("memory.memsw.limit_in_bytes").zip(limit);
            (
                number("cpuacct", "cpuacct.usage"),
                number("memory", "memory.usage_in_bytes"),
                limit,
                both.map(|(both, memory)| both.saturating_sub(memory)),
            )
        };
        let swap_bytes = if v2 { number("memory", "memory.swap.current") } else { stat("total_swap", "") };
        let inactive = stat("total_inactive_file", "inactive_file").unwrap_or(0);
        let working_set_bytes = usage_bytes.map(|usage| usage.saturating_sub(inactive));
        let known = cpu_nanoseconds.is_some() || usage_bytes.is_some();
        // Groups of version 1 have none.
        let pressure = |of: &str| parse_pressure(&read(of, &format!("{of}.pressure")).filter(|_| v2)?);
        Self {
            time: if known { now } else { 0 },
            cpu_nanoseconds,
            nano_cores: None,
            usage_bytes,
            working_set_bytes,
            available_bytes: limit.zip(working_set_bytes).map(|(limit, used)| limit.saturating_sub(used)),
            rss_bytes: stat("total_rss", "anon"),
            page_faults: stat("total_pgfault", "pgfault"),
            major_page_faults: stat("total_pgmajfault", "pgmajfault"),
            swap_bytes,
            swap_available_bytes: swap_limit.zip(swap_bytes).map(|(limit, used)| limit.saturating_sub(used)),
            pressures: Pressures { cpu: pressure("cpu"), memory: pressure("memory"), io: pressure("io") },
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
            swap_bytes: Some(bytes("SwapTotal").saturating_sub(bytes("SwapFree"))),
            swap_available_bytes: Some(bytes("SwapFree")),
            pressures: Pressures::default(),
        }
    }

    fn cpu_json(&self) -> Option<Value> {
        self.cpu_nanoseconds?;
        Some(object([
            ("time", time(self.time)),
            ("usageNanoCores", self.nano_cores.map(Value::from)),
            ("usageCoreNanoSeconds", self.cpu_nanoseconds.map(Value::from)),
            ("psi", self.pressures.cpu.as_ref().map(pressure_json)),
        ]))
    }

    fn io_json(&self) -> Option<Value> {
        let psi = pressure_json(self.pressures.io.as_ref()?);
        Some(object([("time", time(self.time)), ("psi", Some(psi))]))
    }

    fn swap_json(&self) -> Option<Value> {
        self.swap_bytes?;
        Some(object([
            ("time", time(self.time)),
            ("swapAvailableBytes", self.swap_available_bytes.map(Value::from)),
            ("swapUsageBytes", self.swap_bytes.map(Value::from)),
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
            ("psi", self.pressures.memory.as_ref().map(pressure_json)),
        ]))
    }
}

fn pressure_json(psi: &v1::PsiStats) -> Value {
    let one = |data: Option<v1::PsiData>| {
        let data = data.unwrap_or_default();
        json!({"total": data.total, "avg10": data.avg10, "avg60": data.avg60, "avg300": data.avg300})
    };
    json!({"full": one(psi.full), "some": one(psi.some)})
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
pub(crate) async fn node(host: &dyn Host) -> Usage {
    let read = tokio::task::spawn_blocking(|| {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
        let usage = Usage::of_node(
            &text("/proc/stat"),
            &text("/proc/meminfo"),
            &text("/proc/vmstat"),
            ticks.unwrap_or(100),
            nanoseconds_now(),
        );
        let pressure = |of: &str| parse_pressure(&fs::read_to_string(format!("/proc/pressure/{of}")).ok()?);
        let pressures = Pressures { cpu: pressure("cpu"), memory: pressure("memory"), io: pressure("io") };
        Usage { pressures, ..usage }
    });
    let usage = read.await.unwrap_or_default();
    Usage { nano_cores: host.kept().rates.rate("node", &usage), ..usage }
}

/// When the machine came up, from the text of `/proc/stat`.
pub(crate) fn boot(stat: &str) -> Option<Timestamp> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Timestamp::from_second(line.trim().parse().ok()?).ok()
}

/// What pods have on disks, by uid.
pub(crate) async fn stored(host: &dyn Host) -> HashMap<String, Stored> {
    let targets: Vec<storage::Target> = host.pods().into_iter().map(|pod| host.target(pod)).collect();
    host.kept().storage.of(&targets).await
}

/// What pods use, ordered by namespace and name.
pub(crate) async fn pods(host: &dyn Host) -> Result<Vec<PodUsage>, podium_cri::Error> {
    let runtime = host.runtime();
    let containers = runtime.containers(None, true).await?;
    let stats = or_nothing(runtime.container_stats().await)?;
    let sandboxes = or_nothing(runtime.sandbox_stats().await)?;
    let now = nanoseconds_now();
    let of_cgroup = |pod: &Pod| {
        let group = host.pod_group(pod);
        Usage::of_cgroup(host.cgroup_v2(), now, |controller, file| host.group_file(&group, controller, file))
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
            usage: Usage::of_cri(stats.cpu.as_ref(), stats.memory.as_ref())
                .and(stats.swap.as_ref(), stats.io.as_ref()),
            layer_at: layer.and_then(|layer| layer.fs_id.clone()).unwrap_or_default().mountpoint,
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
        let own = sandbox.map(|stats| {
            Usage::of_cri(stats.cpu.as_ref(), stats.memory.as_ref()).and(None, stats.io.as_ref())
        });
        let mut usage = match own {
            Some(usage) if usage.cpu_nanoseconds.is_some() => usage,
            _ => of_cgroup(one),
        };
        // CRI has none of whole pods.
        let sum = |number: fn(&Usage) -> Option<u64>| {
            let known: Vec<u64> = containers.iter().filter_map(|one| number(&one.usage)).collect();
            (!known.is_empty()).then(|| known.iter().sum())
        };
        usage.swap_bytes = usage.swap_bytes.or_else(|| sum(|usage| usage.swap_bytes));
        usage.swap_available_bytes =
            usage.swap_available_bytes.or_else(|| sum(|usage| usage.swap_available_bytes));
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
    let node = node(host).await;
    let system = groups::system(host, node.time).await;
    let started = fs::read_to_string("/proc/stat").ok().and_then(|stat| boot(&stat));
    let system: Vec<Value> = system.iter().map(|one| system_json(one, host.started())).collect();
    let own = object([
        ("nodeName", Some(host.node_name().into())),
        ("systemContainers", (!system.is_empty()).then(|| system.into())),
        ("startTime", started.map(|started| started.to_string().into())),
        ("cpu", node.cpu_json()),
        ("memory", node.memory_json()),
        ("swap", node.swap_json()),
    ]);
    if only_cpu_and_memory {
        let pods: Vec<Value> = pods.iter().map(|one| pod_json(one, None)).collect();
        return reply::json(&json!({"node": own, "pods": pods}));
    }
    let stored = stored(host).await;
    let root = space(host.root_dir()).await;
    let mut layers = HashMap::new();
    for one in pods.iter().flat_map(|pod| &pod.containers) {
        if !one.layer_at.is_empty() && !layers.contains_key(&one.layer_at) {
            layers.insert(one.layer_at.clone(), space(std::path::Path::new(&one.layer_at)).await);
        }
    }
    let none = Stored::default();
    let pods: Vec<Value> = pods
        .iter()
        .map(|one| {
            let stored = stored.get(&one.uid).unwrap_or(&none);
            pod_json(one, Some(&Disks { stored, root, layers: &layers }))
        })
        .collect();
    let more = object([
        ("io", node.io_json()),
        ("network", Some(network_json(&network::of_node(node.time).await))),
        ("fs", root.map(space_json)),
        ("runtime", runtime(host).await),
        ("rlimit", rlimit(node.time)),
    ]);
    let mut whole = own;
    if let (Some(whole), Value::Object(more)) = (whole.as_object_mut(), more) {
        whole.extend(more);
    }
    reply::json(&json!({"node": whole, "pods": pods}))
}

/// Processes and threads of the machine, and how many there may be.
fn rlimit(now: i64) -> Option<Value> {
    let Observed { available, capacity } = processes()?;
    Some(object([
        ("time", time(now)),
        ("maxpid", Some(capacity.into())),
        ("curproc", Some((capacity - available).into())),
    ]))
}

fn system_json(one: &SystemContainer, kubelet: Timestamp) -> Value {
    let started = (one.name == "kubelet").then(|| kubelet.to_string().into());
    object([
        ("name", Some(one.name.into())),
        ("startTime", started),
        ("cpu", one.usage.cpu_json()),
        ("memory", one.usage.memory_json()),
        ("io", one.usage.io_json()),
        ("swap", one.usage.swap_json()),
    ])
}

async fn space(path: &std::path::Path) -> Option<Space> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || Space::of(&path)).await.ok().flatten()
}

/// The file systems of images and of containers; None if the runtime does not say.
async fn runtime(host: &dyn Host) -> Option<Value> {
    let answer = host.runtime().image_fs().await.ok()?;
    Some(object([
        ("imageFs", of_runtime(&answer.image_filesystems).await),
        ("containerFs", of_runtime(&answer.container_filesystems).await),
    ]))
}

async fn of_runtime(list: &[v1::FilesystemUsage]) -> Option<Value> {
    let first = list.first()?;
    let found = space(std::path::Path::new(&first.fs_id.as_ref()?.mountpoint)).await?;
    // What is used of it is asked of the runtime: others may have files there too.
    let used_bytes = value(first.used_bytes.as_ref()).unwrap_or(found.used_bytes);
    let inodes_used = value(first.inodes_used.as_ref()).unwrap_or(found.inodes_used);
    Some(space_json(Space { used_bytes, inodes_used, ..found }))
}

/// Where a pod's files lie, and which there are.
struct Disks<'a> {
    stored: &'a Stored,
    /// The file system of the kubelet's own files.
    root: Option<Space>,
    layers: &'a HashMap<String, Option<Space>>,
}

impl Disks<'_> {
    fn layer(&self, one: &ContainerUsage) -> Option<Value> {
        let bytes = one.layer_bytes?;
        let used = Size { bytes, inodes: one.layer_inodes.unwrap_or(0) };
        match self.layers.get(&one.layer_at).copied().flatten() {
            Some(space) => Some(space_json(space.with(used))),
            None => Some(object([
                ("time", time(one.usage.time)),
                ("usedBytes", Some(bytes.into())),
                ("inodesUsed", one.layer_inodes.map(Value::from)),
            ])),
        }
    }

    fn logs(&self, one: &ContainerUsage) -> Option<Value> {
        Some(space_json(self.root?.with(*self.stored.logs.get(&one.name)?)))
    }

    /// Everything of a pod that counts against the node's disk. Source: upstream's `calcEphemeralStorage`.
    fn ephemeral(&self, pod: &PodUsage) -> Option<Value> {
        let mut used = self.stored.etc_hosts;
        let mut add = |bytes: u64, inodes: u64| {
            used.bytes += bytes;
            used.inodes += inodes;
        };
        for one in &pod.containers {
            let Some(bytes) = one.layer_bytes else { continue };
            add(bytes, one.layer_inodes.unwrap_or(0));
            if let Some(logs) = self.stored.logs.get(&one.name) {
                add(logs.bytes, logs.inodes);
            }
        }
        for volume in self.stored.volumes.iter().filter(|volume| volume.ephemeral) {
            add(volume.space.used_bytes, volume.space.inodes_used);
        }
        Some(space_json(self.root?.with(used)))
    }

    fn volumes(&self, pod: &PodUsage) -> Option<Value> {
        let shown = |volume: &VolumeUsage| {
            let mut shown = space_json(volume.space);
            shown["name"] = volume.name.as_str().into();
            if let Some(claim) = &volume.claim {
                shown["pvcRef"] = json!({"name": claim, "namespace": pod.namespace});
            }
            shown
        };
        let all: Vec<Value> = self.stored.volumes.iter().map(shown).collect();
        (!all.is_empty()).then(|| all.into())
    }
}

/// Without `disks`: only what processors and memory are used for.
fn pod_json(pod: &PodUsage, disks: Option<&Disks<'_>>) -> Value {
    let containers: Vec<Value> = pod
        .containers
        .iter()
        .map(|one| {
            object([
                ("name", Some(one.name.as_str().into())),
                ("startTime", time(one.started_at)),
                ("cpu", one.usage.cpu_json()),
                ("memory", one.usage.memory_json()),
                ("io", one.usage.io_json().filter(|_| disks.is_some())),
                ("rootfs", disks.and_then(|disks| disks.layer(one))),
                ("logs", disks.and_then(|disks| disks.logs(one))),
                ("swap", one.usage.swap_json()),
            ])
        })
        .collect();
    object([
        ("podRef", Some(json!({"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}))),
        ("startTime", pod.started.map(|started| started.to_string().into())),
        ("containers", Some(containers.into())),
        ("cpu", pod.usage.cpu_json()),
        ("memory", pod.usage.memory_json()),
        ("io", pod.usage.io_json().filter(|_| disks.is_some())),
        ("network", pod.network.as_ref().filter(|_| disks.is_some()).map(network_json)),
        ("volume", disks.and_then(|disks| disks.volumes(pod))),
        ("ephemeral-storage", disks.and_then(|disks| disks.ephemeral(pod))),
        ("process_stats", pod.processes.map(|count| json!({"process_count": count}))),
        ("swap", pod.usage.swap_json()),
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

fn space_json(space: Space) -> Value {
    object([
        ("time", time(space.time)),
        ("availableBytes", Some(space.available_bytes.into())),
        ("capacityBytes", Some(space.capacity_bytes.into())),
        ("usedBytes", Some(space.used_bytes.into())),
        ("inodesFree", Some(space.inodes_free.into())),
        ("inodes", Some(space.inodes.into())),
        ("inodesUsed", Some(space.inodes_used.into())),
    ])
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
            "MemTotal: 1000 kB\nMemFree: 300 kB\nInactive(file): 100 kB\nAnonPages: 50 kB\nSwapTotal: 9 kB\nSwapFree: 5 kB\n",
            "pgfault 7\npgmajfault 2\n",
            100,
            NOW,
        );
        assert_eq!(usage.cpu_nanoseconds, Some(40 * 10_000_000));
        assert_eq!(usage.working_set_bytes, Some(600 * 1024));
        assert_eq!(usage.available_bytes, Some(400 * 1024));
        assert_eq!((usage.page_faults, usage.major_page_faults), (Some(7), Some(2)));
        assert_eq!((usage.swap_bytes, usage.swap_available_bytes), (Some(4 * 1024), Some(5 * 1024)));
        assert_eq!(boot("cpu 1\nbtime 1767225600\n").unwrap().to_string(), "2026-01-01T00:00:00Z");
    }

    #[test]
    fn cgroups_of_both_kinds_are_read() {
        let v2 = Usage::of_cgroup(true, NOW, |_, file| {
            Some(match file {
                "cpu.stat" => "usage_usec 5\nuser_usec 3\n".to_owned(),
                "memory.current" => "100\n".to_owned(),
                "memory.stat" => "anon 7\ninactive_file 40\npgfault 3\npgmajfault 2\n".to_owned(),
                "memory.max" => "1000\n".to_owned(),
                "memory.swap.current" => "5\n".to_owned(),
                "memory.swap.max" => "20\n".to_owned(),
                "io.pressure" => "some avg10=1.00 avg60=0.50 avg300=0.00 total=9\n".to_owned(),
                _ => return None,
            })
        });
        assert_eq!((v2.cpu_nanoseconds, v2.working_set_bytes, v2.rss_bytes), (Some(5000), Some(60), Some(7)));
        assert_eq!((v2.available_bytes, v2.page_faults, v2.major_page_faults), (Some(940), Some(3), Some(2)));
        assert_eq!((v2.swap_bytes, v2.swap_available_bytes), (Some(5), Some(15)));
        assert_eq!(
            v2.io_json().unwrap()["psi"],
            json!({"full": {"total": 0, "avg10": 0.0, "avg60": 0.0, "avg300": 0.0},
                "some": {"total": 9, "avg10": 1.0, "avg60": 0.5, "avg300": 0.0}})
        );
        let v1 = Usage::of_cgroup(false, NOW, |controller, file| {
            Some(match (controller, file) {
                ("cpuacct", "cpuacct.usage") => "5000\n".to_owned(),
                ("memory", "memory.usage_in_bytes") => "100\n".to_owned(),
                ("memory", "memory.stat") => {
                    "total_rss 7\ntotal_inactive_file 40\ntotal_pgfault 3\ntotal_pgmajfault 2\ntotal_swap 5\n"
                        .to_owned()
                }
                ("memory", "memory.limit_in_bytes") => "1000\n".to_owned(),
                ("memory", "memory.memsw.limit_in_bytes") => "1020\n".to_owned(),
                (_, "io.pressure") => "some avg10=1.00 avg60=0.50 avg300=0.00 total=9\n".to_owned(),
                _ => return None,
            })
        });
        assert_eq!(v1, Usage { pressures: Pressures::default(), ..v2 });
        let unbounded = Usage::of_cgroup(true, NOW, |_, file| {
            file.starts_with("memory.").then(|| "max\n".to_owned()).filter(|_| file.ends_with(".max"))
        });
        assert_eq!((unbounded.available_bytes, unbounded.swap_available_bytes), (None, None));
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
        let json = pod_json(&found[0], None);
        assert_eq!(
            json,
            json!({"podRef": {"name": "p", "namespace": "n", "uid": "u"},
                "containers": [{"name": "c", "startTime": "2026-01-01T00:00:00Z",
                    "cpu": {"time": "2026-01-01T00:00:00Z", "usageCoreNanoSeconds": 9}}],
                "cpu": {"time": "2026-01-01T00:00:00Z", "usageCoreNanoSeconds": 11}})
        );
    }

    #[test]
    fn what_a_pod_has_on_disks_is_shown() {
        let space =
            Space { time: NOW, available_bytes: 50, capacity_bytes: 100, used_bytes: 40, ..Space::default() };
        let disk = |name: &str, claim: Option<&str>, ephemeral, used_bytes| VolumeUsage {
            name: name.to_owned(),
            claim: claim.map(str::to_owned),
            ephemeral,
            space: Space { used_bytes, inodes_used: 1, ..space },
        };
        let stored = Stored {
            volumes: vec![disk("empty", None, true, 3), disk("data", Some("claim"), false, 9)],
            logs: [("c".to_owned(), Size { bytes: 20, inodes: 2 })].into(),
            etc_hosts: Size { bytes: 1, inodes: 1 },
        };
        let layers = HashMap::from([("/layers".to_owned(), Some(Space { capacity_bytes: 1000, ..space }))]);
        let pod = PodUsage {
            namespace: "n".to_owned(),
            usage: Usage { time: NOW, swap_bytes: Some(6), ..Usage::default() },
            containers: vec![ContainerUsage {
                name: "c".to_owned(),
                layer_bytes: Some(300),
                layer_inodes: Some(30),
                layer_at: "/layers".to_owned(),
                ..ContainerUsage::default()
            }],
            processes: Some(4),
            ..PodUsage::default()
        };
        let json = pod_json(&pod, Some(&Disks { stored: &stored, root: Some(space), layers: &layers }));
        let numbers =
            |value: &Value| ["capacityBytes", "usedBytes", "inodesUsed"].map(|key| value[key].as_u64());
        let container = &json["containers"][0];
        assert_eq!(numbers(&container["rootfs"]), [Some(1000), Some(300), Some(30)]);
        assert_eq!(numbers(&container["logs"]), [Some(100), Some(20), Some(2)]);
        // Layer, logs, the emptyDir and `/etc/hosts`; a claim is elsewhere.
        assert_eq!(numbers(&json["ephemeral-storage"]), [Some(100), Some(324), Some(34)]);
        assert_eq!(json["ephemeral-storage"]["availableBytes"], 50);
        assert_eq!(json["volume"][0]["name"], "empty");
        assert_eq!(json["volume"][0].get("pvcRef"), None);
        assert_eq!(json["volume"][1]["pvcRef"], json!({"name": "claim", "namespace": "n"}));
        assert_eq!(numbers(&json["volume"][1]), [Some(100), Some(9), Some(1)]);
        assert_eq!(json["swap"]["swapUsageBytes"], 6);
        assert_eq!(json["process_stats"]["process_count"], 4);
        let short = pod_json(&pod, None);
        for absent in ["volume", "ephemeral-storage", "network", "io"] {
            assert_eq!(short.get(absent), None, "{absent}");
        }
        assert_eq!(short["containers"][0].get("rootfs"), None);
    }
}
