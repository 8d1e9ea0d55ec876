//! Usage of containers and pods, read from their cgroups when asked for, and the same as metrics.

use parking_lot::Mutex;
use podium_cri::{parse_pressure, v1};
use podium_shim::cgroup::Cgroups;

use crate::container::Container;
use crate::core::{Runtime, now};
use crate::images::unpack::{self, Usage};
use crate::sandbox::Sandbox;

/// How long a count of a writable layer holds: it walks all of it. Source: containerd's interval.
const LAYER_SECONDS: i64 = 10;
/// Rates over less time than this are noise.
const SAMPLE_NANOS: i64 = 500_000_000;

/// What is kept between two questions.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// When, the count, and the rate found then.
    cpu: Mutex<Option<(i64, u64, Option<u64>)>>,
    layer: Mutex<Option<(i64, Usage)>>,
}

fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

/// A line's number in `key value` text.
fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, number) = line.split_once(' ')?;
        (name == key).then(|| number.trim().parse().ok())?
    })
}

fn number(text: Option<String>) -> Option<u64> {
    text?.trim().parse().ok()
}

/// CPU time of a group in nanoseconds.
fn cpu_nanos(cgroups: &Cgroups, path: &str) -> Option<u64> {
    if cgroups.is_v2() {
        return field(&cgroups.read(path, "cpu", "cpu.stat")?, "usage_usec").map(|micros| micros * 1000);
    }
    number(cgroups.read(path, "cpuacct", "cpuacct.usage"))
}

/// How long tasks of a group stood still for want of something; groups of version 1 do not have it.
fn pressure(cgroups: &Cgroups, path: &str, of: &str) -> Option<v1::PsiStats> {
    parse_pressure(&cgroups.read(path, of, &format!("{of}.pressure")).filter(|_| cgroups.is_v2())?)
}

fn io(cgroups: &Cgroups, path: &str, at: i64) -> Option<v1::IoUsage> {
    let psi = pressure(cgroups, path, "io")?;
    Some(v1::IoUsage { timestamp: at, psi: Some(psi) })
}

fn cpu(cgroups: &Cgroups, path: &str, samples: Option<&Samples>, at: i64) -> Option<v1::CpuUsage> {
    let nanos = cpu_nanos(cgroups, path)?;
    let rate = samples.and_then(|samples| {
        let mut last = samples.cpu.lock();
        match *last {
            Some((then, ..)) if at - then < SAMPLE_NANOS => last.and_then(|(_, _, rate)| rate),
            Some((then, before, _)) => {
                let passed = u128::try_from(at - then).unwrap_or(1).max(1);
                let used = u128::from(nanos.saturating_sub(before));
                let rate = u64::try_from(used * 1_000_000_000 / passed).ok();
                *last = Some((at, nanos, rate));
                rate
            }
            None => {
                *last = Some((at, nanos, None));
                None
            }
        }
    });
    Some(v1::CpuUsage {
        timestamp: at,
        usage_core_nano_seconds: value(nanos),
        usage_nano_cores: rate.and_then(value),
        psi: pressure(cgroups, path, "cpu"),
    })
}

/// Memory of a group: the working set is what cannot be dropped without asking. Source: cAdvisor's definition.
fn memory(cgroups: &Cgroups, path: &str, at: i64) -> Option<v1::MemoryUsage> {
    let v2 = cgroups.is_v2();
    let read = |file: &str| cgroups.read(path, "memory", file);
    let usage = number(read(if v2 { "memory.current" } else { "memory.usage_in_bytes" }))?;
    let stat = read("memory.stat").unwrap_or_default();
    let key = |one: &str, two: &str| field(&stat, if v2 { two } else { one });
    let inactive = key("total_inactive_file", "inactive_file").unwrap_or(0);
    let working = usage.saturating_sub(inactive);
    let limit = number(read(if v2 { "memory.max" } else { "memory.limit_in_bytes" }));
    // Version 1 writes a number near the largest for no limit.
    let limit = limit.filter(|limit| *limit < 1 << 60);
    Some(v1::MemoryUsage {
        timestamp: at,
        working_set_bytes: value(working),
        available_bytes: limit.and_then(|limit| value(limit.saturating_sub(working))),
        usage_bytes: value(usage),
        rss_bytes: key("total_rss", "anon").and_then(value),
        page_faults: key("total_pgfault", "pgfault").and_then(value),
        major_page_faults: key("total_pgmajfault", "pgmajfault").and_then(value),
        psi: pressure(cgroups, path, "memory"),
    })
}

/// Swap of a group. How much is left is known only where it is bounded, as with upstream.
fn swap(cgroups: &Cgroups, path: &str, memory: Option<&v1::MemoryUsage>, at: i64) -> Option<v1::SwapUsage> {
    let read = |file: &str| number(cgroups.read(path, "memory", file));
    // Version 1 writes a number near the largest for no limit, version 2 a word.
    let bound = |file: &str| read(file).filter(|limit| *limit < 1 << 60);
    let (used, limit) = if cgroups.is_v2() {
        (read("memory.swap.current")?, bound("memory.swap.max"))
    } else {
        let both = read("memory.memsw.usage_in_bytes")?;
        let limit = bound("memory.memsw.limit_in_bytes").zip(bound("memory.limit_in_bytes"));
        (
            both.saturating_sub(memory?.usage_bytes?.value),
            limit.map(|(both, memory)| both.saturating_sub(memory)),
        )
    };
    Some(v1::SwapUsage {
        timestamp: at,
        swap_available_bytes: limit.and_then(|limit| value(limit.saturating_sub(used))),
        swap_usage_bytes: value(used),
    })
}

/// What a container has written, and when that was counted.
pub(crate) fn writable_layer(container: &Container, at: i64) -> (i64, Usage) {
    let mut last = container.samples.layer.lock();
    match *last {
        Some((then, usage)) if at - then < LAYER_SECONDS * 1_000_000_000 => (then, usage),
        _ => *last.insert((at, unpack::usage(&container.directory.join("upper")))),
    }
}

/// What a pod's containers have written into the files that the runtime gives each of them: one could fill a disk with
/// `/etc/hostname`. Upstream counts its own file of the kind, `/etc/hosts` (CVE-2020-8557), and nobody these.
fn pod_files(directory: &std::path::Path) -> Usage {
    let files = crate::sandbox::FILES.iter().map(|name| unpack::usage_of(&directory.join(name)));
    files.fold(Usage::default(), |mut sum, one| {
        sum += one;
        sum
    })
}

/// Whether a container is the first of its pod: what belongs to all of them counts once.
fn is_first(runtime: &Runtime, container: &Container) -> bool {
    let age = |one: &Container| (one.record.created_at, one.record.id.clone());
    let all = runtime.containers_of(&container.record.sandbox_id);
    all.iter().all(|one| age(one) >= age(container))
}

/// Usage of a container.
pub(crate) fn container(runtime: &Runtime, container: &Container) -> v1::ContainerStats {
    let at = now();
    let record = &container.record;
    let mut layer = writable_layer(container, at);
    if is_first(runtime, container) {
        layer.1 += pod_files(&runtime.sandbox_directory(&record.sandbox_id));
    }
    let memory = memory(&runtime.cgroups, &record.cgroup, at);
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: record.id.clone(),
            metadata: record.config.metadata.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }),
        cpu: cpu(&runtime.cgroups, &record.cgroup, Some(&container.samples), at),
        swap: swap(&runtime.cgroups, &record.cgroup, memory.as_ref(), at),
        memory,
        writable_layer: Some(v1::FilesystemUsage {
            timestamp: layer.0,
            fs_id: Some(v1::FilesystemIdentifier {
                mountpoint: runtime.config.root.join("containers").display().to_string(),
            }),
            used_bytes: value(layer.1.bytes),
            inodes_used: value(layer.1.inodes),
        }),
        io: io(&runtime.cgroups, &record.cgroup, at),
    }
}

/// Usage of a pod: its own group, its interfaces, its containers.
pub(crate) fn sandbox(runtime: &Runtime, sandbox: &Sandbox) -> v1::PodSandboxStats {
    let at = now();
    let containers: Vec<_> =
        runtime.containers_of(&sandbox.id).into_iter().filter(|one| one.pid().is_some()).collect();
    let group = sandbox.config.linux.as_ref().map(|linux| linux.cgroup_parent.clone()).unwrap_or_default();
    let own = !group.is_empty();
    let pid = containers.iter().find_map(|one| one.pid()).filter(|_| sandbox.network_namespace().is_some());
    let network = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok());
    let processes: u64 =
        containers.iter().map(|one| runtime.cgroups.processes(&one.record.cgroup).len() as u64).sum();
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: sandbox.id.clone(),
            metadata: sandbox.config.metadata.clone(),
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: own.then(|| cpu(&runtime.cgroups, &group, Some(&sandbox.samples), at)).flatten(),
            memory: own.then(|| memory(&runtime.cgroups, &group, at)).flatten(),
            network: network.map(|text| interfaces(&text, at)),
            process: Some(v1::ProcessUsage { timestamp: at, process_count: value(processes) }),
            containers: containers.iter().map(|one| container(runtime, one)).collect(),
            io: own.then(|| io(&runtime.cgroups, &group, at)).flatten(),
        }),
    }
}

/// Counters of `/proc/net/dev`: the pod's own interface apart, loopback left out.
fn interfaces(text: &str, at: i64) -> v1::NetworkUsage {
    let all: Vec<v1::NetworkInterfaceUsage> = text
        .lines()
        .filter_map(|line| {
            let (name, counters) = line.split_once(':')?;
            let counters: Vec<u64> =
                counters.split_whitespace().filter_map(|text| text.parse().ok()).collect();
            let at = |index: usize| counters.get(index).copied().and_then(value);
            Some(v1::NetworkInterfaceUsage {
                name: name.trim().to_owned(),
                rx_bytes: at(0),
                rx_errors: at(2),
                tx_bytes: at(8),
                tx_errors: at(10),
            })
        })
        .filter(|interface| interface.name != "lo")
        .collect();
    let (own, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|interface| interface.name == "eth0");
    v1::NetworkUsage { timestamp: at, default_interface: own.into_iter().next(), interfaces: others }
}

/// Name, help, labels beside those of the container, and whether it only grows.
const METRICS: [(&str, &str, &[&str], bool); 6] = [
    ("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", &["cpu"], true),
    ("container_memory_working_set_bytes", "Current working set in bytes.", &[], false),
    ("container_memory_usage_bytes", "Current memory usage in bytes, including all memory.", &[], false),
    ("container_memory_rss", "Size of RSS in bytes.", &[], false),
    ("container_network_receive_bytes_total", "Cumulative count of bytes received", &["interface"], true),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", &["interface"], true),
];

/// Which metrics there are. Labels are those that the kubelet knows containers by.
pub(crate) fn descriptors() -> Vec<v1::MetricDescriptor> {
    METRICS
        .iter()
        .map(|(name, help, labels, _)| v1::MetricDescriptor {
            name: (*name).to_owned(),
            help: (*help).to_owned(),
            label_keys: ["id", "name", "image"].iter().chain(*labels).map(|key| (*key).to_owned()).collect(),
        })
        .collect()
}

/// A pod's usage as metrics.
pub(crate) fn metrics(stats: &v1::PodSandboxStats) -> v1::PodSandboxMetrics {
    let linux = stats.linux.clone().unwrap_or_default();
    let attributes = stats.attributes.clone().unwrap_or_default();
    let name = attributes.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
    let mut own = basic(&attributes.id, &name, linux.cpu.as_ref(), linux.memory.as_ref());
    for interface in
        linux.network.iter().flat_map(|network| network.default_interface.iter().chain(&network.interfaces))
    {
        let labels =
            |interface: &str| vec![attributes.id.clone(), name.clone(), String::new(), interface.to_owned()];
        for (metric, count) in [(4, interface.rx_bytes), (5, interface.tx_bytes)] {
            own.extend(count.map(|count| one(metric, labels(&interface.name), count.value)));
        }
    }
    v1::PodSandboxMetrics {
        pod_sandbox_id: attributes.id,
        metrics: own,
        container_metrics: linux
            .containers
            .iter()
            .map(|container| {
                let attributes = container.attributes.clone().unwrap_or_default();
                let name = attributes.metadata.map(|metadata| metadata.name).unwrap_or_default();
                v1::ContainerMetrics {
                    metrics: basic(&attributes.id, &name, container.cpu.as_ref(), container.memory.as_ref()),
                    container_id: attributes.id,
                }
            })
            .collect(),
    }
}

fn one(metric: usize, label_values: Vec<String>, count: u64) -> v1::Metric {
    let (name, _, _, grows) = METRICS[metric];
    let kind = if grows { v1::MetricType::Counter } else { v1::MetricType::Gauge };
    v1::Metric {
        name: name.to_owned(),
        timestamp: now(),
        metric_type: kind.into(),
        label_values,
        value: value(count),
    }
}

fn basic(
    id: &str,
    name: &str,
    cpu: Option<&v1::CpuUsage>,
    memory: Option<&v1::MemoryUsage>,
) -> Vec<v1::Metric> {
    let labels = || vec![id.to_owned(), name.to_owned(), String::new()];
    let mut list = Vec::new();
    if let Some(nanos) = cpu.and_then(|cpu| cpu.usage_core_nano_seconds) {
        let mut labels = labels();
        labels.push("total".to_owned());
        list.push(one(0, labels, nanos.value / 1_000_000_000));
    }
    if let Some(memory) = memory {
        for (metric, bytes) in [(1, memory.working_set_bytes), (2, memory.usage_bytes), (3, memory.rss_bytes)]
        {
            list.extend(bytes.map(|bytes| one(metric, labels(), bytes.value)));
        }
    }
    list
}

/// A group on a pretended tree, for tests.
#[cfg(test)]
fn pretended(root: &std::path::Path) -> Cgroups {
    Cgroups::with_layout(podium_shim::cgroup::Layout::V2 { mount: root.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_of_version_2() {
        let root = tempfile::tempdir().unwrap();
        let group = root.path().join("g");
        std::fs::create_dir(&group).unwrap();
        for (file, text) in [
            ("cpu.stat", "usage_usec 5000\nuser_usec 1\n"),
            ("memory.current", "1000\n"),
            ("memory.max", "4000\n"),
            ("memory.stat", "anon 600\ninactive_file 300\npgfault 7\n"),
            ("memory.swap.current", "10\n"),
            ("memory.swap.max", "30\n"),
            ("memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n"),
        ] {
            std::fs::write(group.join(file), text).unwrap();
        }
        let cgroups = pretended(root.path());
        let samples = Samples::default();
        assert_eq!(cpu(&cgroups, "/g", Some(&samples), 0).unwrap().usage_nano_cores, None);
        std::fs::write(group.join("cpu.stat"), "usage_usec 1005000\n").unwrap();
        let rate = cpu(&cgroups, "/g", Some(&samples), 2_000_000_000).unwrap().usage_nano_cores;
        assert_eq!(rate, value(500_000_000));
        let memory = memory(&cgroups, "/g", 0).unwrap();
        assert_eq!(memory.working_set_bytes, value(700));
        assert_eq!(memory.available_bytes, value(3300));
        assert_eq!(memory.rss_bytes, value(600));
        assert_eq!(memory.psi.unwrap().some.unwrap().total, 5);
        assert_eq!(io(&cgroups, "/g", 0), None, "a kernel without it");
        let bounded = swap(&cgroups, "/g", Some(&memory), 0).unwrap();
        assert_eq!((bounded.swap_usage_bytes, bounded.swap_available_bytes), (value(10), value(20)));
        std::fs::write(group.join("memory.swap.max"), "max\n").unwrap();
        assert_eq!(swap(&cgroups, "/g", Some(&memory), 0).unwrap().swap_available_bytes, None);
    }

    #[test]
    fn files_of_a_pod_count() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("hostname"), vec![b'x'; 1 << 20]).unwrap();
        std::fs::write(directory.path().join("record.json"), vec![b'x'; 1 << 20]).unwrap();
        let usage = pod_files(directory.path());
        assert_eq!((usage.bytes >> 20, usage.inodes), (1, 1));
    }

    #[test]
    fn counters_of_interfaces() {
        let text = "Inter-| Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0\n  eth0: 10 1 2 0 0 0 0 0 20 1 3 0\n";
        let usage = interfaces(text, 5);
        let own = usage.default_interface.unwrap();
        assert_eq!((own.rx_bytes, own.rx_errors), (value(10), value(2)));
        assert_eq!((own.tx_bytes, own.tx_errors), (value(20), value(3)));
        assert!(usage.interfaces.is_empty());
    }
}
