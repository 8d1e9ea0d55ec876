//! The cgroups above containers: one for all pods, one per quality of service, one per pod.
//!
//! Both layouts are served: version 2, and version 1 where each controller may be its own mount. The
//! runtime makes the containers' own groups below; here only what is above them is made, bounded and
//! removed: by hand, or through systemd where the runtime does so too ([`systemd`]). A limit that cannot be
//! written is an error for the pod, not something to pass over.

pub(crate) mod systemd;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Pod;

use crate::{
    Configuration,
    huge_pages::{self, PageSizes},
    pod,
    resources::{self, CpuBounds, Qos},
};
use podium_systemd::SystemdError;
use systemd::Systemd;

/// Controllers of version 1 that limits are written to.
const LIMITED: [&str; 3] = ["cpu", "memory", "pids"];

/// Controllers of version 2 that groups are to have.
const HANDED_DOWN: [&str; 5] = ["cpu", "memory", "pids", "io", "cpuset"];
/// The controller of huge pages.
const PAGES: &str = "hugetlb";

/// The groups of classes; guaranteed pods are beside them.
const BURSTABLE: &str = "burstable";
const BEST_EFFORT: &str = "besteffort";

/// Why a group could not be made or bounded.
#[derive(Debug, thiserror::Error)]
#[error("cgroup {path}: {source}")]
pub(crate) struct CgroupError {
    path: PathBuf,
    source: io::Error,
}

/// Where cgroups are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One tree.
    V2 { mount: PathBuf },
    /// Trees with the controllers of each.
    V1 { mounts: Vec<(Vec<String>, PathBuf)> },
}

/// The limits of one group. Zero shares and None mean: not set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) cpu_shares: i64,
    pub(crate) cpu_quota: Option<i64>,
    pub(crate) memory_bytes: Option<i64>,
    pub(crate) pids: Option<i64>,
}

/// Makes and removes the groups below one root.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    layout: Layout,
    /// As a path from the mount, with a leading slash.
    root: String,
    cpu: CpuBounds,
    /// `podPidsLimit`; None is no limit.
    pod_pids: Option<i64>,
    /// Of huge pages, those that the machine has.
    page_sizes: PageSizes,
    /// Who makes groups; None is this kubelet.
    systemd: Option<Systemd>,
}

/// Reads where cgroups are mounted from the text of `/proc/self/mountinfo`. Version 1 wins in a mixed
/// set-up, because then the resource controllers are there.
pub(crate) fn parse_layout(mountinfo: &str) -> Option<Layout> {
    let mut v1: Vec<(Vec<String>, PathBuf)> = Vec::new();
    let mut v2 = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(at) = left.split(' ').nth(4) else { continue };
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
        // Runtimes make their groups in the other tree too: it takes no limits, but is to be cleared.
        (true, v2) => {
            Some(Layout::V1 { mounts: v1.into_iter().chain(v2.map(|mount| (Vec::new(), mount))).collect() })
        }
        (false, Some(mount)) => Some(Layout::V2 { mount }),
        (false, None) => None,
    }
}

impl Cgroups {
    /// The groups below `root` on this machine.
    pub(crate) fn new(settings: &Configuration) -> io::Result<Self> {
        let layout = parse_layout(&fs::read_to_string("/proc/self/mountinfo")?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup controllers are mounted"))?;
        let root = format!("/{}", settings.cgroup_root.trim_matches('/'));
        Ok(Self {
            layout,
            root: root.trim_end_matches('/').to_owned(),
            cpu: CpuBounds::of(settings),
            pod_pids: Some(settings.pod_pids_limit).filter(|limit| *limit > 0),
            page_sizes: huge_pages::read(Path::new(huge_pages::KERNEL)).into_keys().collect(),
            systemd: None,
        })
    }

    /// The same groups as slices of systemd: the driver `systemd`. From here on what makes, bounds and removes groups is not for
    /// a runtime's own threads.
    pub(crate) fn through(self, systemd: Systemd) -> Self {
        Self { systemd: Some(systemd), ..self }
    }

    /// The group of these names below the root, each within the one before.
    fn group(&self, names: &[&str]) -> String {
        let all: Vec<&str> =
            self.root.split('/').filter(|part| !part.is_empty()).chain(names.iter().copied()).collect();
        match &self.systemd {
            Some(_) => systemd::path(&all),
            None => format!("/{}", all.join("/")),
        }
    }

    pub(crate) fn is_v2(&self) -> bool {
        matches!(self.layout, Layout::V2 { .. })
    }

    /// The group of a pod as the runtime is told it.
    pub(crate) fn pod_path(&self, pod: &Pod) -> String {
        let own = format!("pod{}", pod::uid(pod));
        match resources::qos(pod) {
            Qos::Guaranteed => self.group(&["kubepods", &own]),
            Qos::Burstable => self.group(&["kubepods", BURSTABLE, &own]),
            Qos::BestEffort => self.group(&["kubepods", BEST_EFFORT, &own]),
        }
    }

    /// The group that the runtime of that name makes for a container.
    pub(crate) fn container_path(&self, pod: &Pod, id: &str, runtime: &str) -> String {
        let pod = self.pod_path(pod);
        match (&self.systemd, runtime) {
            (None, _) => format!("{pod}/{id}"),
            (Some(_), "cri-o") => format!("{pod}/crio-{id}.scope"),
            (Some(_), "podium") => format!("{pod}/cri-podium-{id}.scope"),
            (Some(_), _) => format!("{pod}/cri-containerd-{id}.scope"),
        }
    }

    /// Whether the kernel bounds swap by group.
    pub(crate) fn bounds_swap(&self) -> bool {
        self.is_v2() && self.read(&self.top(), "memory", "memory.swap.max").is_some()
    }

    /// The group of all pods.
    pub(crate) fn top(&self) -> String {
        self.group(&["kubepods"])
    }

    /// Makes the groups of all pods and of the classes; `all` bounds them together.
    pub(crate) fn make_roots(&self, all: Limits) -> Result<(), CgroupError> {
        self.make(&self.top(), all)?;
        for class in [BURSTABLE, BEST_EFFORT] {
            self.make(&self.group(&["kubepods", class]), Limits { cpu_shares: 2, ..Default::default() })?;
        }
        Ok(())
    }

    /// Gives the burstable class the CPU its pods ask for together.
    pub(crate) fn share_burstable(&self, cpu_millis: i64) -> Result<(), CgroupError> {
        let path = self.group(&["kubepods", BURSTABLE]);
        self.bound(&path, Limits { cpu_shares: resources::shares(cpu_millis), ..Default::default() })
    }

    /// Bounds a group that is somebody else's: what is reserved for the system or for Kubernetes' own processes.
    pub(crate) fn bound_reserved(&self, path: &str, limits: Limits) -> Result<(), CgroupError> {
        if self.systemd.is_some() {
            let names: Vec<&str> =
                path.trim_matches('/').split('/').map(|name| name.trim_end_matches(".slice")).collect();
            return self.bound(&systemd::path(&names), limits);
        }
        for mount in self.mounts_of_limits() {
            let full = join(mount, path);
            fs::metadata(&full).map_err(|source| CgroupError { path: full, source })?;
        }
        self.limit(path, limits)
    }

    /// Makes and bounds a pod's group; safe to repeat. `own_cpus`: whether a container of it has processors for itself, of
    /// whose time there is no bound then.
    pub(crate) fn make_pod(&self, pod: &Pod, own_cpus: bool) -> Result<(), CgroupError> {
        let path = self.pod_path(pod);
        let limits = pod_limits(pod, self.cpu);
        // Not left out: an earlier version may have bounded the group.
        let cpu_quota = if own_cpus { Some(UNBOUNDED) } else { limits.cpu_quota };
        self.make(&path, Limits { pids: self.pod_pids, cpu_quota, ..limits })?;
        self.limit_pages(&path, pod)
    }

    /// Where the kernel bounds huge pages by group, a pod gets what it asks for and no more. Nobody else does it: systemd does
    /// not know of them.
    fn limit_pages(&self, path: &str, pod: &Pod) -> Result<(), CgroupError> {
        let Some(mount) = self.mount_of(PAGES) else { return Ok(()) };
        let group = join(mount, path);
        let last = if self.is_v2() {
            let offered = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
            if !offered.split_whitespace().any(|controller| controller == PAGES) {
                return Ok(());
            }
            delegate(mount, path, &[PAGES])?;
            "max"
        } else {
            fs::create_dir_all(&group).map_err(|source| CgroupError { path: group.clone(), source })?;
            "limit_in_bytes"
        };
        for size in self.page_sizes.iter() {
            let bytes = resources::pod_request(pod, &size.resource()).value();
            let file = group.join(format!("{PAGES}.{}.{last}", size.group_name()));
            // A size that groups know nothing of is none that a pod could have.
            if bytes > 0 || file.exists() {
                fs::write(&file, bytes.to_string()).map_err(|source| CgroupError { path: file, source })?;
            }
        }
        Ok(())
    }

    /// The uids of pods that have a group, for finding those nobody knows. A removal that was interrupted may have left
    /// one in any of the trees.
    pub(crate) fn pods(&self) -> BTreeSet<(String, String)> {
        let mut found = BTreeSet::new();
        let mounts = self.mounts();
        for names in [&["kubepods"][..], &["kubepods", BURSTABLE], &["kubepods", BEST_EFFORT]] {
            let path = self.group(names);
            let entries =
                mounts.iter().flat_map(|mount| fs::read_dir(join(mount, &path)).into_iter().flatten());
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let uid = match &self.systemd {
                    Some(_) => systemd::pod_uid(&name),
                    None => name.strip_prefix("pod").map(str::to_owned),
                };
                if let Some(uid) = uid {
                    found.insert((uid, format!("{path}/{name}")));
                }
            }
        }
        found
    }

    /// Removes a group by its path, as [`Self::pods`] gives it, with what is left below it, from every tree that lets it go.
    pub(crate) fn remove(&self, path: &str) -> Result<(), CgroupError> {
        if let Some(systemd) = &self.systemd {
            systemd.remove(path).map_err(|error| told(path, error))?;
        }
        let mut outcome = Ok(());
        for mount in self.mounts() {
            let full = join(mount, path);
            if let Err(source) = remove_tree(&full) {
                outcome = Err(CgroupError { path: full, source });
            }
        }
        outcome
    }

    /// A file of a group: `(controller, file)` in version 1's names or version 2's. The server's statistics
    /// read it.
    pub(crate) fn read(&self, path: &str, controller: &str, file: &str) -> Option<String> {
        fs::read_to_string(join(self.mount_of(controller)?, path).join(file)).ok()
    }

    /// Where a group of one controller is, if that has a tree of its own.
    pub(crate) fn directory(&self, path: &str, controller: &str) -> Option<PathBuf> {
        (!self.is_v2()).then(|| self.mount_of(controller)).flatten().map(|mount| join(mount, path))
    }

    fn mounts(&self) -> Vec<&Path> {
        match &self.layout {
            Layout::V2 { mount } => vec![mount],
            Layout::V1 { mounts } => mounts.iter().map(|(_, mount)| mount.as_path()).collect(),
        }
    }

    /// The trees that limits are written to.
    fn mounts_of_limits(&self) -> Vec<&Path> {
        match &self.layout {
            Layout::V2 { mount } => vec![mount],
            Layout::V1 { .. } => LIMITED.iter().filter_map(|controller| self.mount_of(controller)).collect(),
        }
    }

    fn mount_of(&self, controller: &str) -> Option<&Path> {
        match &self.layout {
            Layout::V2 { mount } => Some(mount),
            Layout::V1 { mounts } => mounts
                .iter()
                .find(|(controllers, _)| controllers.iter().any(|have| have == controller))
                .map(|(_, mount)| mount.as_path()),
        }
    }

    fn make(&self, path: &str, limits: Limits) -> Result<(), CgroupError> {
        if self.systemd.is_some() {
            return self.bound(path, limits);
        }
        let make = |full: PathBuf| {
            fs::create_dir_all(&full).map_err(|source| CgroupError { path: full.clone(), source })
        };
        match &self.layout {
            Layout::V1 { .. } => {
                for mount in self.mounts_of_limits() {
                    make(join(mount, path))?;
                }
            }
            Layout::V2 { mount } => {
                make(join(mount, path))?;
                delegate(mount, path, &HANDED_DOWN)?;
            }
        }
        self.limit(path, limits)
    }

    /// Bounds a group; systemd makes it if it is not there.
    fn bound(&self, path: &str, limits: Limits) -> Result<(), CgroupError> {
        match &self.systemd {
            Some(systemd) => {
                systemd.make(path, limits, self.cpu, self.is_v2()).map_err(|error| told(path, error))
            }
            None => self.limit(path, limits),
        }
    }

    fn limit(&self, path: &str, limits: Limits) -> Result<(), CgroupError> {
        let write = |controller: &str, file: &str, value: String| {
            let Some(mount) = self.mount_of(controller) else { return Ok(()) };
            let full = join(mount, path).join(file);
            fs::write(&full, value).map_err(|source| CgroupError { path: full, source })
        };
        if let Some(pids) = limits.pids {
            write("pids", "pids.max", pids.to_string())?;
        }
        if self.is_v2() {
            if limits.cpu_shares > 0 {
                write("cpu", "cpu.weight", weight(limits.cpu_shares).to_string())?;
            }
            if let Some(quota) = limits.cpu_quota {
                let quota = if quota == UNBOUNDED { "max".to_owned() } else { quota.to_string() };
                write("cpu", "cpu.max", format!("{quota} {}", self.cpu.period_micros))?;
            }
            if let Some(bytes) = limits.memory_bytes {
                write("memory", "memory.max", bytes.to_string())?;
            }
        } else {
            if limits.cpu_shares > 0 {
                write("cpu", "cpu.shares", limits.cpu_shares.to_string())?;
            }
            if let Some(quota) = limits.cpu_quota {
                write("cpu", "cpu.cfs_period_us", self.cpu.period_micros.to_string())?;
                write("cpu", "cpu.cfs_quota_us", quota.to_string())?;
            }
            if let Some(bytes) = limits.memory_bytes {
                write("memory", "memory.limit_in_bytes", bytes.to_string())?;
            }
        }
        Ok(())
    }
}

fn told(path: &str, error: SystemdError) -> CgroupError {
    CgroupError { path: path.into(), source: io::Error::other(error) }
}

/// A quota of processors' time that is none, as version 1 and runtimes have it.
const UNBOUNDED: i64 = -1;

/// What bounds a pod as a whole: limits only if every container has one.
pub(crate) fn pod_limits(pod: &Pod, bounds: CpuBounds) -> Limits {
    let cpu = resources::pod_limit(pod, "cpu").filter(|limit| !limit.is_zero());
    let memory = resources::pod_limit(pod, "memory").filter(|limit| !limit.is_zero());
    Limits {
        cpu_shares: resources::shares(resources::pod_request(pod, "cpu").milli_value()),
        cpu_quota: cpu.map(|cpu| bounds.quota(cpu.milli_value())).filter(|quota| *quota > 0),
        memory_bytes: memory.map(|memory| memory.value()),
        pids: None,
    }
}

/// Shares of version 1 as a weight of version 2, in proportion, as upstream's kubelet has it for the groups above containers.
fn weight(shares: i64) -> i64 {
    1 + ((shares - 2) * 9999) / 262_142
}

fn join(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

/// Hands the controllers down to a group: each one above it must pass them on.
fn delegate(mount: &Path, path: &str, controllers: &[&str]) -> Result<(), CgroupError> {
    let mut at = mount.to_owned();
    for part in path.trim_matches('/').split('/') {
        for controller in controllers {
            let file = at.join("cgroup.subtree_control");
            let offered = fs::read_to_string(at.join("cgroup.controllers")).unwrap_or_default();
            let enabled = fs::read_to_string(&file).unwrap_or_default();
            let has = |list: &str| list.split_whitespace().any(|have| have == *controller);
            if has(&offered) && !has(&enabled) {
                fs::write(&file, format!("+{controller}"))
                    .map_err(|source| CgroupError { path: file, source })?;
            }
        }
        at = at.join(part);
    }
    Ok(())
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
