//! Bounds on the node's disk: a pod whose containers, logs or emptyDir volumes have grown beyond their limits is evicted.
//!
//! [`decide`] is pure; [`measure`] walks directories, and only those of pods that have a limit.

use std::{
    collections::{BTreeMap, HashSet},
    ffi::OsStr,
    fs,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Pod, Volume};
use podium_api::quantity::Quantity;

use crate::{
    pod, resources,
    status::{EVICTED, Verdict},
    volumes,
};

const RESOURCE: &str = "ephemeral-storage";

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// As they take room on the disk: holes do not count.
    Bytes,
    /// Files and directories.
    Inodes,
}

/// What files and directories take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

impl Size {
    fn add(&mut self, found: &fs::Metadata) {
        self.bytes += found.blocks() * 512;
        self.inodes += 1;
    }

    fn of(self, unit: Unit) -> u64 {
        match unit {
            Unit::Bytes => self.bytes,
            Unit::Inodes => self.inodes,
        }
    }
}

/// What a pod has on the node's disk, in bytes or inodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Writable layer, logs and termination messages of each container.
    pub(crate) containers: BTreeMap<String, u64>,
    /// emptyDir volumes by name, those in memory too.
    pub(crate) empty_dirs: BTreeMap<String, u64>,
    /// Volumes that the kubelet fills, and files that it keeps for the pod.
    pub(crate) kept: u64,
}

/// Whether anything of the pod is bounded, so that measuring it has a purpose.
pub(crate) fn is_bounded(pod: &Pod) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut containers = pod::containers(pod).iter().chain(pod::init_containers(pod));
    volumes.into_iter().any(|volume| size_limit(volume).is_some())
        || resources::pod_limit(pod, RESOURCE).is_some_and(|limit| limit > Quantity::ZERO)
        || containers.any(|container| resources::limit(container.resources.as_ref(), RESOURCE).is_some())
}

/// Which bound was not kept, by upstream's word for it in metrics, and why the pod has to go, in upstream's order and words;
/// None if it keeps its bounds.
pub(crate) fn decide(pod: &Pod, usage: &Usage) -> Option<(&'static str, Verdict)> {
    // What holds the node together is not evicted, as when the node itself runs short.
    if pod::is_critical(pod) {
        return None;
    }
    type Judge = fn(&Pod, &Usage) -> Option<String>;
    let judges: [(&str, Judge); 3] = [
        ("emptydirfs.limit", empty_dirs),
        ("ephemeralpodfs.limit", whole),
        ("ephemeralcontainerfs.limit", containers),
    ];
    judges.into_iter().find_map(|(bound, judge)| Some((bound, Verdict::plain(EVICTED, judge(pod, usage)?))))
}

fn empty_dirs(pod: &Pod, usage: &Usage) -> Option<String> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).find_map(|volume| {
        let limit = size_limit(volume)?;
        let used = usage.empty_dirs.get(&volume.name)?;
        let message =
            || format!("Usage of EmptyDir volume {:?} exceeds the limit \"{limit}\". ", volume.name);
        exceeds(*used, &limit).then(message)
    })
}

fn whole(pod: &Pod, usage: &Usage) -> Option<String> {
    let limit = resources::pod_limit(pod, RESOURCE).filter(|limit| *limit > Quantity::ZERO)?;
    let message =
        || format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ");
    exceeds(on_disk(pod, usage), &limit).then(message)
}

/// All of it but what is in memory.
pub(crate) fn on_disk(pod: &Pod, usage: &Usage) -> u64 {
    let in_memory = |name: &str| {
        let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        volumes.any(|volume| volume.name == name && is_memory(volume))
    };
    let volumes = usage.empty_dirs.iter().filter(|(name, _)| !in_memory(name)).map(|(_, used)| used);
    usage.containers.values().chain(volumes).fold(usage.kept, |sum, used| sum.saturating_add(*used))
}

fn containers(pod: &Pod, usage: &Usage) -> Option<String> {
    pod::containers(pod).iter().find_map(|container| {
        let limit = resources::limit(container.resources.as_ref(), RESOURCE)?;
        let used = usage.containers.get(&container.name)?;
        let message = || {
            format!("Container {} exceeded its local ephemeral storage limit \"{limit}\". ", container.name)
        };
        exceeds(*used, &limit).then(message)
    })
}

fn exceeds(used: u64, limit: &Quantity) -> bool {
    i64::try_from(used).unwrap_or(i64::MAX) > limit.value()
}

fn is_memory(volume: &Volume) -> bool {
    volume
        .empty_dir
        .as_ref()
        .is_some_and(|source| source.medium.as_deref().is_some_and(|medium| !medium.is_empty()))
}

/// Whether the kubelet writes the volume's files.
fn is_file_volume(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// The bound of an emptyDir; zero is none.
fn size_limit(volume: &Volume) -> Option<Quantity> {
    let limit: Quantity = volume.empty_dir.as_ref()?.size_limit.as_ref()?.0.parse().ok()?;
    (limit > Quantity::ZERO).then_some(limit)
}

/// Measures a pod. `layers`: what the runtime says of each container's writable layer. Blocking.
pub(crate) fn measure(
    pod: &Pod,
    directory: &volumes::PodDir,
    logs: &Path,
    layers: &BTreeMap<String, u64>,
    unit: Unit,
) -> Usage {
    let mut usage = Usage { containers: layers.clone(), ..Usage::default() };
    let ephemeral = pod::ephemeral_containers(pod);
    for container in pod::containers(pod).iter().chain(pod::init_containers(pod)).chain(&ephemeral) {
        // The kubelet makes the file of the message, the container may write to it what it likes.
        let messages = directory.container(&container.name);
        let kept = size(&logs.join(&container.name), unit) + size(&messages, unit);
        *usage.containers.entry(container.name.clone()).or_default() += kept;
    }
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        // What lies at a path of the host is the host's.
        let Some(path) = volumes::host_path_of(directory, volume).filter(|_| volume.host_path.is_none())
        else {
            continue;
        };
        if volume.empty_dir.is_some() {
            usage.empty_dirs.insert(volume.name.clone(), size(&path, unit));
        } else if is_file_volume(volume) {
            usage.kept += size_on_disk(&path, directory.path(), unit);
        }
    }
    usage.kept += size(&directory.etc_hosts(), unit);
    usage
}

/// The size of what is on the same file system as the pod's directory: secrets are in memory.
fn size_on_disk(path: &Path, directory: &Path, unit: Unit) -> u64 {
    let device = |path: &Path| fs::symlink_metadata(path).map(|metadata| metadata.dev()).ok();
    if device(path) == device(directory) { size(path, unit) } else { 0 }
}

/// How long a path may grow before what it leads to is opened: the kernel takes 4096 bytes, which containers need not keep
/// to, and what cannot be named would not be counted.
const LONGEST_PATH: usize = 2048;

/// A directory that is yet to be walked.
struct Place {
    /// Where the path begins; the root of the file system if None.
    base: Option<Arc<fs::File>>,
    path: PathBuf,
}

impl Place {
    fn path(&self) -> PathBuf {
        match &self.base {
            Some(base) => Path::new("/proc/self/fd").join(base.as_raw_fd().to_string()).join(&self.path),
            None => self.path.clone(),
        }
    }

    fn below(&self, name: &OsStr) -> Self {
        let inner = Self { base: self.base.clone(), path: self.path.join(name) };
        if inner.path.as_os_str().len() < LONGEST_PATH {
            return inner;
        }
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        match fs::OpenOptions::new().read(true).custom_flags(flags).open(inner.path()) {
            Ok(opened) => Self { base: Some(Arc::new(opened)), path: PathBuf::new() },
            // Gone, or too much is open: as much as can be named is counted.
            Err(_) => inner,
        }
    }
}

fn size(path: &Path, unit: Unit) -> u64 {
    walk(path).of(unit)
}

/// What a file or everything below a directory takes on its file system; what is mounted below is not followed. Blocking.
pub(crate) fn walk(path: &Path) -> Size {
    let mut total = Size::default();
    let Ok(root) = fs::symlink_metadata(path) else { return total };
    let (mut waiting, mut linked) = (Vec::new(), HashSet::new());
    total.add(&root);
    if root.is_dir() {
        waiting.push(Place { base: None, path: path.to_owned() });
    }
    while let Some(directory) = waiting.pop() {
        // What goes away meanwhile takes nothing.
        for entry in fs::read_dir(directory.path()).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != root.dev()
                || (metadata.nlink() > 1 && !metadata.is_dir() && !linked.insert(metadata.ino()))
            {
                continue;
            }
            total.add(&metadata);
            if metadata.is_dir() {
                waiting.push(directory.below(&entry.file_name()));
            }
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn limited(name: &str, limit: &str) -> Value {
        json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}})
    }

    #[track_caller]
    fn check(spec: Value, containers: &[(&str, u64)], empty_dirs: &[(&str, u64)], expected: Option<&str>) {
        let map =
            |pairs: &[(&str, u64)]| pairs.iter().map(|(name, used)| ((*name).to_owned(), *used)).collect();
        let usage = Usage { containers: map(containers), empty_dirs: map(empty_dirs), kept: 1 };
        let verdict = decide(&pod(spec), &usage);
        let (bound, message) = verdict.map(|(bound, verdict)| (bound, verdict.message)).unzip();
        assert_eq!(message.as_deref(), expected);
        // Each bound has its own words.
        let words = |text: &str| match text.split(' ').next() {
            Some("Usage") => "emptydirfs.limit",
            Some("Pod") => "ephemeralpodfs.limit",
            _ => "ephemeralcontainerfs.limit",
        };
        assert_eq!(bound, expected.map(words));
    }

    #[test]
    fn bounds_are_kept_in_upstreams_order() {
        let one = json!({"containers": [limited("c", "1Ki")]});
        check(one.clone(), &[("c", 1023)], &[], None);
        let total = Some("Pod ephemeral local storage usage exceeds the total limit of containers 1Ki. ");
        check(one.clone(), &[("c", 1024)], &[], total);
        let critical = json!({"priority": 2_000_000_000, "containers": [limited("c", "1Ki")]});
        check(critical, &[("c", 5000)], &[], None);
        // One container without a limit: there is none of the whole pod, only its neighbour's own.
        let two = json!({"containers": [limited("a", "1Ki"), {"name": "b"}]});
        check(two.clone(), &[("a", 1024), ("b", 9000)], &[], None);
        let own = Some("Container a exceeded its local ephemeral storage limit \"1Ki\". ");
        check(two, &[("a", 1025)], &[], own);
    }

    #[test]
    fn an_empty_dir_counts_by_itself_and_for_the_pod_unless_it_is_memory() {
        let spec = |volume: Value| json!({"containers": [limited("c", "4Ki")], "volumes": [volume]});
        let disk = |source: Value| spec(json!({"name": "v", "emptyDir": source}));
        let message = Some("Usage of EmptyDir volume \"v\" exceeds the limit \"1Ki\". ");
        check(disk(json!({"sizeLimit": "1Ki"})), &[], &[("v", 1024)], None);
        check(disk(json!({"sizeLimit": "1Ki"})), &[], &[("v", 1025)], message);
        check(disk(json!({"sizeLimit": "0"})), &[], &[("v", 1025)], None);
        let total = Some("Pod ephemeral local storage usage exceeds the total limit of containers 4Ki. ");
        check(disk(json!({})), &[], &[("v", 5000)], total);
        for medium in ["Memory", "HugePages-2Mi"] {
            check(disk(json!({"medium": medium})), &[], &[("v", 5000)], None);
        }
    }

    #[test]
    fn only_bounded_pods_are_measured() {
        assert!(!is_bounded(&pod(
            json!({"containers": [{"name": "c"}], "volumes": [{"name": "v", "emptyDir": {}}]})
        )));
        assert!(is_bounded(&pod(json!({"containers": [{"name": "c"}, limited("d", "1Gi")]}))));
        assert!(is_bounded(&pod(
            json!({"containers": [{"name": "c"}], "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]})
        )));
    }

    #[test]
    fn sizes_are_those_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir(at("d")).unwrap();
        let empty = size(directory.path(), Unit::Bytes);
        fs::write(at("d/one"), vec![1; 100_000]).unwrap();
        fs::hard_link(at("d/one"), at("again")).unwrap();
        std::os::unix::fs::symlink("/", at("outside")).unwrap();
        let sparse = fs::File::create(at("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let grown = size(directory.path(), Unit::Bytes) - empty;
        assert!((100_000..120_000).contains(&grown), "{grown}");
        // The root, a directory, a file of two names, a link, one with a hole.
        assert_eq!(size(directory.path(), Unit::Inodes), 5);
        assert_eq!(size(&at("absent"), Unit::Bytes), 0);
    }

    #[test]
    fn what_containers_write_into_files_of_the_kubelet_is_theirs() {
        let root = tempfile::tempdir().unwrap();
        let directory = volumes::PodDir::new(root.path(), "u");
        let pod = pod(json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i"}],
            "ephemeralContainers": [{"name": "e"}]}));
        let logs = root.path().join("logs");
        for (name, size) in [("c", 100_000), ("i", 200_000), ("e", 300_000)] {
            fs::create_dir_all(directory.container(name)).unwrap();
            fs::write(directory.container(name).join("message"), vec![1; size]).unwrap();
            fs::create_dir_all(logs.join(name)).unwrap();
            fs::write(logs.join(name).join("0.log"), vec![1; 50_000]).unwrap();
        }
        let layers = BTreeMap::from([("c".to_owned(), 1_000_000)]);
        let usage = measure(&pod, &directory, &logs, &layers, Unit::Bytes);
        for (name, least) in [("c", 1_150_000), ("i", 250_000), ("e", 350_000)] {
            let used = usage.containers[name];
            assert!((least..least + 40_000).contains(&used), "{name}: {used}");
        }
    }

    #[test]
    fn nothing_is_too_deep_to_be_counted() {
        use nix::{
            fcntl::{OFlag, openat},
            sys::stat::{Mode, mkdirat},
        };
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("deep");
        fs::create_dir(&root).unwrap();
        let mut at: std::os::fd::OwnedFd = fs::File::open(&root).unwrap().into();
        let name = "d".repeat(200);
        for _ in 0..100 {
            mkdirat(&at, name.as_str(), Mode::S_IRWXU).unwrap();
            at = openat(&at, name.as_str(), OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        }
        assert_eq!(size(&root, Unit::Inodes), 101);
        podium_shim::remove::tree(&root).unwrap();
    }
}
