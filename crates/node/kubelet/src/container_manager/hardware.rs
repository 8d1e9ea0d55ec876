//! The machine's processors and memory and how they lie to each other, as the kernel describes them below `/sys`.

use std::{collections::BTreeMap, fs, path::Path};

use super::{cpu_set::CpuSet, numa::NodeMask};
use crate::huge_pages;

/// Where a processor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The lowest processor of the same core.
    pub(crate) core: usize,
    pub(crate) socket: usize,
    pub(crate) node: usize,
    /// The lowest processor that shares the last cache.
    pub(crate) cache: usize,
}

/// A part of the machine that holds processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Node,
    Socket,
    Cache,
    Core,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Hardware {
    /// Processors that are online.
    pub(crate) cpus: BTreeMap<usize, Place>,
    /// Bytes of memory and of huge pages by node, each by its resource.
    pub(crate) memory: BTreeMap<usize, BTreeMap<String, u64>>,
    /// How far nodes are from each other, in the kernel's measure.
    pub(crate) distances: BTreeMap<usize, Vec<u64>>,
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn number(path: &Path) -> Option<usize> {
    text(path)?.parse().ok()
}

fn list(path: &Path) -> CpuSet {
    text(path).and_then(|text| text.parse().ok()).unwrap_or_default()
}

impl Hardware {
    /// Reads it; `sys` is where sysfs is mounted. A machine whose kernel knows no nodes has one.
    pub(crate) fn read(sys: &Path) -> Self {
        let nodes = sys.join("devices/system/node");
        let online = list(&nodes.join("online"));
        let mut hardware = Self::default();
        let mut node_of = BTreeMap::new();
        for node in online.iter() {
            let own = nodes.join(format!("node{node}"));
            node_of.extend(list(&own.join("cpulist")).iter().map(|cpu| (cpu, node)));
            hardware.memory.insert(node, memory(&own));
            let distances = text(&own.join("distance")).unwrap_or_default();
            let distances = distances.split_whitespace().filter_map(|number| number.parse().ok()).collect();
            hardware.distances.insert(node, distances);
        }
        let cpus = sys.join("devices/system/cpu");
        for cpu in list(&cpus.join("online")).iter() {
            let own = cpus.join(format!("cpu{cpu}"));
            let lowest = |path: &Path| list(path).iter().next();
            let core = lowest(&own.join("topology/thread_siblings_list")).unwrap_or(cpu);
            let socket = number(&own.join("topology/physical_package_id")).unwrap_or(0);
            let cache = lowest(&own.join("cache/index3/shared_cpu_list"));
            hardware.cpus.insert(
                cpu,
                Place {
                    core,
                    socket,
                    node: node_of.get(&cpu).copied().unwrap_or(0),
                    // Without a last cache of its own, a socket is what shares one.
                    cache: cache.unwrap_or(socket),
                },
            );
        }
        if hardware.memory.is_empty() {
            hardware.memory.insert(0, BTreeMap::new());
        }
        hardware
    }

    /// All processors.
    pub(crate) fn all(&self) -> CpuSet {
        self.cpus.keys().copied().collect()
    }

    /// All nodes.
    pub(crate) fn nodes(&self) -> NodeMask {
        self.memory.keys().copied().collect()
    }

    /// Those of these processors that are in a part of the machine.
    pub(crate) fn within(&self, cpus: &CpuSet, level: Level, id: usize) -> CpuSet {
        cpus.iter().filter(|cpu| self.cpus.get(cpu).is_some_and(|place| place.id(level) == id)).collect()
    }

    /// Those of these processors that are on certain nodes.
    pub(crate) fn on(&self, cpus: &CpuSet, nodes: NodeMask) -> CpuSet {
        cpus.iter().filter(|cpu| self.cpus.get(cpu).is_some_and(|place| nodes.has(place.node))).collect()
    }

    /// These processors by the part of the machine they are in.
    pub(crate) fn parts(&self, cpus: &CpuSet, level: Level) -> BTreeMap<usize, CpuSet> {
        let mut parts: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for cpu in cpus.iter() {
            let id = self.cpus.get(&cpu).map_or(0, |place| place.id(level));
            parts.entry(id).or_default().push(cpu);
        }
        parts.into_iter().map(|(id, cpus)| (id, cpus.into_iter().collect())).collect()
    }

    /// Threads of a core, on average: there are machines whose cores differ.
    pub(crate) fn threads_per_core(&self) -> usize {
        let cores = self.parts(&self.all(), Level::Core).len();
        self.cpus.len().checked_div(cores).unwrap_or(1)
    }

    /// How far these nodes are from each other on average; nodes whose distance is not known count for nothing.
    pub(crate) fn average_distance(&self, nodes: NodeMask) -> f64 {
        let pairs: Vec<u64> = nodes
            .nodes()
            .flat_map(|from| nodes.nodes().filter_map(move |to| self.distances.get(&from)?.get(to).copied()))
            .collect();
        let sum: u64 = pairs.iter().sum();
        let as_float = |number: u64| u32::try_from(number).map_or(f64::MAX, f64::from);
        as_float(sum) / as_float(pairs.len().max(1) as u64)
    }
}

impl Place {
    fn id(&self, level: Level) -> usize {
        match level {
            Level::Node => self.node,
            Level::Socket => self.socket,
            Level::Cache => self.cache,
            Level::Core => self.core,
        }
    }
}

/// Memory and huge pages of a node.
fn memory(node: &Path) -> BTreeMap<String, u64> {
    let total = text(&node.join("meminfo")).unwrap_or_default();
    // `Node 0 MemTotal:  1024 kB`
    let kib = total.lines().find_map(|line| {
        let rest = line.split_once("MemTotal:")?.1;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    });
    let mut found = BTreeMap::from([("memory".to_owned(), kib.unwrap_or(0) * 1024)]);
    let pages = huge_pages::read(&node.join("hugepages"));
    found.extend(pages.into_iter().map(|(size, all)| (size.resource(), all)));
    found
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A machine of sockets, nodes per socket, cores per node, threads per core; threads are numbered as kernels do: first
    /// those of all cores, then the second ones. Each node has 8 GiB of memory.
    pub(crate) fn machine(sockets: usize, nodes: usize, cores: usize, threads: usize) -> Hardware {
        let all_cores = sockets * nodes * cores;
        let place = |cpu: usize| {
            let core = cpu % all_cores;
            let node = core / cores;
            Place { core, node, socket: node / nodes, cache: node * cores }
        };
        let count = sockets * nodes;
        let memory = || BTreeMap::from([("memory".to_owned(), 8 << 30)]);
        let distances = |from: usize| (0..count).map(|to| 10 + 10 * from.abs_diff(to) as u64).collect();
        Hardware {
            cpus: (0..all_cores * threads).map(|cpu| (cpu, place(cpu))).collect(),
            memory: (0..count).map(|node| (node, memory())).collect(),
            distances: (0..count).map(|node| (node, distances(node))).collect(),
        }
    }

    #[test]
    fn sysfs_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let sys = directory.path();
        let put = |path: &str, text: &str| {
            let path = sys.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        };
        put("devices/system/cpu/online", "0-3");
        for cpu in 0..4 {
            let core = cpu % 2;
            let own = format!("devices/system/cpu/cpu{cpu}");
            put(&format!("{own}/topology/thread_siblings_list"), &format!("{core},{}", core + 2));
            put(&format!("{own}/topology/physical_package_id"), &core.to_string());
            put(&format!("{own}/cache/index3/shared_cpu_list"), &format!("{core},{}", core + 2));
        }
        put("devices/system/node/online", "0-1");
        for node in 0..2 {
            let own = format!("devices/system/node/node{node}");
            put(&format!("{own}/cpulist"), &format!("{node},{}", node + 2));
            put(
                &format!("{own}/meminfo"),
                &format!("Node {node} MemTotal:       1024 kB\nNode {node} MemFree: 1 kB"),
            );
            put(&format!("{own}/hugepages/hugepages-2048kB/nr_hugepages"), "3");
            put(&format!("{own}/distance"), "10 21");
        }
        let found = Hardware::read(sys);
        assert_eq!(found.cpus[&3], Place { core: 1, socket: 1, node: 1, cache: 1 });
        assert_eq!(found.threads_per_core(), 2);
        assert_eq!(found.memory[&1]["memory"], 1 << 20);
        assert_eq!(found.memory[&0]["hugepages-2Mi"], 6 << 20);
        assert_eq!(found.nodes(), [0, 1].into_iter().collect());
        assert_eq!(found.average_distance(found.nodes()), 15.5);
        // Nothing there: one node, no processors.
        let bare = Hardware::read(&sys.join("nothing"));
        assert_eq!((bare.cpus.len(), bare.nodes().count()), (0, 1));
    }

    #[test]
    fn this_machine_is_read() {
        let found = Hardware::read(Path::new("/sys"));
        assert!(!found.cpus.is_empty() && found.threads_per_core() > 0, "{found:?}");
    }
}
