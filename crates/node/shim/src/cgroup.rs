//! Cgroups of both versions: made, bounded, entered, emptied, removed.
//!
//! In version 1 each controller may be a mount of its own, and a new cpuset has no CPUs until it is given its parent's.
//! A hybrid machine has both; then version 1 holds the controllers and the unified tree only carries processes.
//! What is written is decided by [`writes`], which is pure; the rest reads and writes files.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::devices;
use crate::protocol::{DeviceFile, Resources};
use crate::sys;

/// Where cgroups are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One tree.
    V2 {
        /// Its root.
        mount: PathBuf,
    },
    /// A tree for each set of controllers; the unified tree, if there is one, is the one without any.
    V1 {
        /// Controllers and the root of each tree.
        mounts: Vec<(Vec<String>, PathBuf)>,
    },
}

/// A value for a file of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// In version 1, whose tree; in version 2 it only says what the file needs.
    pub controller: &'static str,
    /// The file's name.
    pub file: String,
    /// What to write.
    pub value: String,
    /// Whether a kernel without this file is fine: nothing is lost by it.
    pub optional: bool,
}

/// The trees of this machine.
#[derive(Clone, Debug)]
pub struct Cgroups {
    layout: Layout,
}

/// Reads the trees from the text of `/proc/self/mountinfo`; the first mount of a tree counts.
pub fn parse_layout(mountinfo: &str) -> Option<Layout> {
    let mut v1: Vec<(Vec<String>, PathBuf)> = Vec::new();
    let mut v2 = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (Some(root), Some(at)) = (left.split(' ').nth(3), left.split(' ').nth(4)) else { continue };
        // A bind of somebody's group is no tree.
        if root != "/" {
            continue;
        }
        let mut right = right.split(' ');
        match right.next() {
            Some("cgroup2") => v2 = v2.or_else(|| Some(PathBuf::from(at))),
            Some("cgroup") => {
                let options = right.nth(1).unwrap_or_default();
                let controllers: Vec<String> = options
                    .split(',')
                    .filter(|option| !matches!(*option, "rw" | "ro" | "xattr" | "clone_children"))
                    .map(str::to_owned)
                    .collect();
                if !v1.iter().any(|(have, _)| *have == controllers) {
                    v1.push((controllers, PathBuf::from(at)));
                }
            }
            _ => {}
        }
    }
    let controls = v1.iter().any(|(controllers, _)| controllers.iter().any(|c| c == "memory" || c == "cpu"));
    match (controls, v2) {
        (true, v2) => {
            Some(Layout::V1 { mounts: v1.into_iter().chain(v2.map(|mount| (Vec::new(), mount))).collect() })
        }
        (false, Some(mount)) => Some(Layout::V2 { mount }),
        (false, None) => None,
    }
}

/// Version 1's CPU shares (2 to 262144) as version 2's weight (1 to 10000), for a container's group. The shares of one CPU, 1024,
/// are the kernel's default weight, 100. Source: runc 1.3.2 and crun 1.23; before, as for groups of pods still, the
/// weight was in proportion ([`weight_in_proportion`]), which gave one CPU's worth of containers 39.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 10000")]
#[expect(clippy::cast_precision_loss, reason = "not above 262144")]
pub fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            // Least, default and most shares lie on this curve.
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

/// The same in proportion, as kubelets have it for groups of pods. Source: KEP-2254.
pub fn weight_in_proportion(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// What limits mean in files, in the order to write them.
pub fn writes(v2: bool, resources: &Resources) -> Vec<Write> {
    let mut list = Vec::new();
    let mut add = |controller: &'static str, file: &str, value: String, optional: bool| {
        list.push(Write { controller, file: file.to_owned(), value, optional });
    };
    let unlimited = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
    if let Some(cpus) = resources.cpuset_cpus.as_ref().filter(|list| !list.is_empty()) {
        add("cpuset", "cpuset.cpus", cpus.clone(), false);
    }
    if let Some(mems) = resources.cpuset_mems.as_ref().filter(|list| !list.is_empty()) {
        add("cpuset", "cpuset.mems", mems.clone(), false);
    }
    if let Some(shares) = resources.cpu_shares.filter(|shares| *shares > 0) {
        if v2 {
            add("cpu", "cpu.weight", weight(shares).to_string(), false);
        } else {
            add("cpu", "cpu.shares", shares.to_string(), false);
        }
    }
    let period = resources.cpu_period.filter(|period| *period > 0);
    let quota = resources.cpu_quota.filter(|quota| *quota != 0);
    if v2 {
        match (quota, period) {
            (None, None) => {}
            (quota, period) => {
                let quota = quota.map_or_else(|| "max".to_owned(), unlimited);
                add("cpu", "cpu.max", format!("{quota} {}", period.unwrap_or(100_000)), false);
            }
        }
    } else {
        if let Some(period) = period {
            add("cpu", "cpu.cfs_period_us", period.to_string(), false);
        }
        if let Some(quota) = quota {
            add("cpu", "cpu.cfs_quota_us", quota.max(-1).to_string(), false);
        }
    }
    let memory = resources.memory_limit.filter(|limit| *limit != 0);
    let swap = resources.memory_swap_limit.filter(|limit| *limit != 0);
    if v2 {
        if let Some(limit) = memory {
            add("memory", "memory.max", unlimited(limit), false);
        }
        if let Some(both) = swap {
            // Version 2 counts swap by itself. No file: no swap to count.
            let own = if both < 0 { -1 } else { (both - memory.unwrap_or(0)).max(0) };
            add("memory", "memory.swap.max", unlimited(own), true);
        }
    } else {
        if let Some(limit) = memory {
            add("memory", "memory.limit_in_bytes", limit.max(-1).to_string(), false);
        }
        if let Some(both) = swap {
            add("memory", "memory.memsw.limit_in_bytes", both.max(-1).to_string(), true);
        }
    }
    if let Some(limit) = resources.pids_limit.filter(|limit| *limit != 0) {
        add("pids", "pids.max", unlimited(limit), false);
    }
    for (size, bytes) in &resources.hugepages {
        let file = if v2 { format!("hugetlb.{size}.max") } else { format!("hugetlb.{size}.limit_in_bytes") };
        // The kernel lacks sizes that the processor lacks; a limit of none of them holds then.
        add("hugetlb", &file, bytes.to_string(), *bytes == 0);
    }
    if v2 {
        for (file, value) in &resources.unified {
            add("unified", file, value.clone(), false);
        }
    }
    list
}

impl Cgroups {
    /// The trees of this machine.
    ///
    /// # Errors
    /// None are mounted, or `/proc` cannot be read.
    pub fn of_machine() -> io::Result<Self> {
        let layout = parse_layout(&fs::read_to_string("/proc/self/mountinfo")?)
            .ok_or_else(|| io::Error::new(ErrorKind::NotFound, "no cgroup controllers are mounted"))?;
        Ok(Self { layout })
    }

    /// Trees that are somewhere else; for tests.
    pub fn with_layout(layout: Layout) -> Self {
        Self { layout }
    }

    /// Whether there is one tree.
    pub fn is_v2(&self) -> bool {
        matches!(self.layout, Layout::V2 { .. })
    }

    /// Names and roots of the trees, for a view of them inside a container: version 1's by controllers. Without a hybrid machine's
    /// unified tree, as runc: who sees one takes its files for the limits.
    pub fn trees(&self) -> Vec<(String, PathBuf)> {
        match &self.layout {
            Layout::V2 { mount } => vec![(String::new(), mount.clone())],
            Layout::V1 { mounts } => mounts
                .iter()
                .filter(|(controllers, _)| !controllers.is_empty())
                .map(|(controllers, mount)| {
                    let name = mount.file_name().map(|name| name.to_string_lossy().into_owned());
                    (name.unwrap_or_else(|| controllers.join(",")), mount.clone())
                })
                .collect(),
        }
    }

    /// A group's directory in the tree of a controller.
    pub fn directory(&self, controller: &str, path: &str) -> Option<PathBuf> {
        let mount = match &self.layout {
            Layout::V2 { mount } => mount,
            Layout::V1 { mounts } => {
                let has = |(controllers, _): &&(Vec<String>, PathBuf)| {
                    controllers.iter().any(|have| have == controller)
                };
                &mounts.iter().find(has)?.1
            }
        };
        Some(below(mount, path))
    }

    /// A file of a group.
    pub fn read(&self, path: &str, controller: &str, file: &str) -> Option<String> {
        fs::read_to_string(self.directory(controller, path)?.join(file)).ok()
    }

    fn directories(&self, path: &str) -> Vec<PathBuf> {
        match &self.layout {
            Layout::V2 { mount } => vec![below(mount, path)],
            Layout::V1 { mounts } => mounts.iter().map(|(_, mount)| below(mount, path)).collect(),
        }
    }

    /// Makes a group in every tree.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn create(&self, path: &str) -> io::Result<()> {
        match &self.layout {
            Layout::V2 { mount } => {
                fs::create_dir_all(below(mount, path))?;
                // From the root down, each group lends its controllers to those below it.
                let mut at = mount.clone();
                let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
                for part in &parts {
                    let available = fs::read_to_string(at.join("cgroup.controllers")).unwrap_or_default();
                    for controller in available.split_whitespace() {
                        // One that cannot be lent (in use by a real-time process, say) is missed when a limit needs it.
                        let _ = fs::write(at.join("cgroup.subtree_control"), format!("+{controller}"));
                    }
                    at.push(part);
                }
                Ok(())
            }
            Layout::V1 { mounts } => {
                for (controllers, mount) in mounts {
                    let directory = below(mount, path);
                    fs::create_dir_all(&directory)?;
                    if controllers.iter().any(|controller| controller == "cpuset") {
                        inherit_cpuset(mount, &directory)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Writes limits. Version 1 refuses a memory limit above the one on memory and swap, so when one grows the other has
    /// to go first: both orders are tried.
    ///
    /// # Errors
    /// The kernel refuses one of them.
    pub fn apply(&self, path: &str, resources: &Resources) -> io::Result<()> {
        let mut list = writes(self.is_v2(), resources);
        if !self.is_v2() && !resources.unified.is_empty() {
            return Err(io::Error::new(ErrorKind::Unsupported, "unified resources need cgroup version 2"));
        }
        let first = self.write_all(path, &list);
        if first.as_ref().is_err_and(|error| error.kind() == ErrorKind::InvalidInput) {
            list.reverse();
            return self.write_all(path, &list);
        }
        first
    }

    fn write_all(&self, path: &str, list: &[Write]) -> io::Result<()> {
        for write in list {
            let Some(directory) = self.directory(write.controller, path) else {
                if write.optional {
                    continue;
                }
                return Err(io::Error::new(
                    ErrorKind::Unsupported,
                    format!("no {} controller for {}", write.controller, write.file),
                ));
            };
            match fs::write(directory.join(&write.file), &write.value) {
                Err(error) if write.optional && error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(io::Error::new(
                        error.kind(),
                        format!("writing {:?} to {}: {error}", write.value, write.file),
                    ));
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Lets the group use these devices and no others.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn allow_devices(&self, path: &str, devices: &[DeviceFile], all: bool) -> io::Result<()> {
        let rules = devices::rules(devices, all);
        if self.is_v2() {
            let Some(directory) = self.directory("", path) else { return Ok(()) };
            return sys::attach_device_program(File::open(directory)?, &devices::program(&rules));
        }
        let Some(directory) = self.directory("devices", path) else {
            return Err(io::Error::new(ErrorKind::Unsupported, "no devices controller is mounted"));
        };
        if all {
            return fs::write(directory.join("devices.allow"), "a");
        }
        fs::write(directory.join("devices.deny"), "a")?;
        for rule in &rules {
            fs::write(directory.join("devices.allow"), rule.to_string())?;
        }
        Ok(())
    }

    /// Moves a process into the group, in every tree.
    ///
    /// # Errors
    /// The kernel refuses; the process may be in some trees' groups then.
    pub fn enter(&self, path: &str, pid: i32) -> io::Result<()> {
        for directory in self.directories(path) {
            let file = directory.join("cgroup.procs");
            fs::write(&file, pid.to_string()).map_err(|error| {
                io::Error::new(error.kind(), format!("joining {}: {error}", directory.display()))
            })?;
        }
        Ok(())
    }

    /// Moves a process to where another process of the group is. In version 2 a group that lends controllers to those below
    /// has no processes of its own, and a container may divide its group so: then that of its first process is taken, which
    /// is below it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enter_beside(&self, path: &str, other: i32, pid: i32) -> io::Result<()> {
        let entered = self.enter(path, pid);
        if !self.is_v2() || !entered.as_ref().is_err_and(|error| error.kind() == ErrorKind::ResourceBusy) {
            return entered;
        }
        let text = fs::read_to_string(format!("/proc/{other}/cgroup"))?;
        match group_below(&text, path) {
            Some(below) => self.enter(below, pid),
            None => entered,
        }
    }

    /// Processes of the group and of those below it.
    pub fn processes(&self, path: &str) -> Vec<i32> {
        let mut found = Vec::new();
        // Any tree has them all: they enter every one.
        if let Some(directory) =
            self.directory("pids", path).or_else(|| self.directories(path).into_iter().next())
        {
            collect(&directory, &mut found);
        }
        found
    }

    /// Kills everything in the group, again and again until nothing new appears.
    pub fn kill(&self, path: &str) {
        if let Layout::V2 { mount } = &self.layout
            && fs::write(below(mount, path).join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        // A process that forks while we look is caught in the next round; what we killed cannot fork.
        for _ in 0..64 {
            let mut alive = 0;
            for pid in self.processes(path) {
                if nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).is_ok()
                {
                    alive += 1;
                }
            }
            if alive == 0 {
                return;
            }
        }
    }

    /// Removes the group and those below it. True: all are gone. False: a process is still ending in one.
    pub fn remove(&self, path: &str) -> bool {
        let left = self.directories(path).iter().filter(|directory| !remove_tree(directory)).count();
        left == 0
    }

    /// How many processes of the group the kernel killed for want of memory, in version 2 also of groups below it; `None`: there is
    /// no such group.
    pub fn oom_kills(&self, path: &str) -> Option<u64> {
        let file = if self.is_v2() { "memory.events" } else { "memory.oom_control" };
        let text = self.read(path, "memory", file)?;
        let counts = text.lines().filter_map(|line| line.strip_prefix("oom_kill "));
        Some(counts.filter_map(|count| count.trim().parse::<u64>().ok()).sum())
    }
}

fn below(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

/// Gives every group from the root down the CPUs and memory of the one above, where it has none.
fn inherit_cpuset(mount: &Path, directory: &Path) -> io::Result<()> {
    let Ok(relative) = directory.strip_prefix(mount) else { return Ok(()) };
    let mut at = mount.to_owned();
    for part in relative.components() {
        let parent = at.clone();
        at.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if fs::read_to_string(at.join(file))?.trim().is_empty() {
                fs::write(at.join(file), fs::read_to_string(parent.join(file))?.trim())?;
            }
        }
    }
    Ok(())
}

/// The group of version 2 in the text of a process' `cgroup`, if it is `path` or below it.
fn group_below<'a>(text: &'a str, path: &str) -> Option<&'a str> {
    let group = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let below = Path::new(group).strip_prefix(path).ok()?;
    below.components().all(|part| matches!(part, std::path::Component::Normal(_))).then_some(group)
}

fn collect(directory: &Path, found: &mut Vec<i32>) {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
        }
    }
}

fn remove_tree(directory: &Path) -> bool {
    match fs::remove_dir(directory) {
        Ok(()) => return true,
        Err(error) if error.kind() == ErrorKind::NotFound => return true,
        Err(_) => {}
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    match fs::remove_dir(directory) {
        Ok(()) => true,
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests;
