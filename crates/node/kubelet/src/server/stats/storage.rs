//! What pods have on disks: their volumes and the logs of their containers.
//!
//! Walking directories is dear, so each pod is measured once in `volumeStatsAggPeriod` at most, and only when somebody asks. It happens on threads of
//! its own: one walks what is on the node's disks, and each volume that may be a file server's has its own, because a server that
//! does not answer holds whoever asks it. Nobody waits for long: what is not there in time is in the next answer.
//!
//! Source: upstream's `volume_stat_calculator.go` and the plugins' metrics. It measures whether asked or not, and tells nothing of
//! claims on paths of the host, of which this shows the file system that they are on.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    io::{Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Pod, Volume};
use nix::sys::statvfs::statvfs;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::nanoseconds_now;
use crate::{
    local_storage::{Size, walk},
    pod,
    volumes::{self, PodDir, claims, sub_path},
};

/// How old an answer may be where no volumes are told of and the setting says nothing of the rest: upstream's default.
const PERIOD: Duration = Duration::from_secs(60);
/// How long whoever asks waits for measurements that are under way.
const PATIENCE: Duration = Duration::from_secs(2);

/// A file system, and of it what something uses, in bytes and inodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Space {
    /// When it was measured, in nanoseconds since 1970.
    pub(crate) time: i64,
    pub(crate) available_bytes: u64,
    pub(crate) capacity_bytes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
    pub(crate) inodes_used: u64,
}

impl Space {
    /// The file system that a path is on, all that is used of it. Blocking.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let stats = statvfs(path).ok()?;
        let size = stats.fragment_size();
        Some(Self {
            time: nanoseconds_now(),
            available_bytes: stats.blocks_available() * size,
            capacity_bytes: stats.blocks() * size,
            used_bytes: stats.blocks().saturating_sub(stats.blocks_free()) * size,
            inodes: stats.files(),
            inodes_free: stats.files_free(),
            inodes_used: stats.files().saturating_sub(stats.files_free()),
        })
    }

    /// The same file system, with what one thing on it uses.
    pub(crate) fn with(self, used: Size) -> Self {
        Self { used_bytes: used.bytes, inodes_used: used.inodes, ..self }
    }

    /// A device that a container opens itself: only its size is known.
    fn of_device(path: &Path) -> Option<Self> {
        let capacity_bytes = fs::File::open(path).ok()?.seek(SeekFrom::End(0)).ok()?;
        Some(Self { time: nanoseconds_now(), capacity_bytes, ..Self::default() })
    }
}

/// A volume of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VolumeUsage {
    pub(crate) name: String,
    /// The name of its claim, if it has one.
    pub(crate) claim: Option<String>,
    /// It lies on the node's disk and counts as the pod's ephemeral storage.
    pub(crate) ephemeral: bool,
    pub(crate) space: Space,
}

/// What one pod has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Ephemeral ones first, else in the pod's order.
    pub(crate) volumes: Vec<VolumeUsage>,
    /// By container.
    pub(crate) logs: BTreeMap<String, Size>,
    pub(crate) etc_hosts: Size,
}

/// A pod to measure, and where its files are.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) pod: Arc<Pod>,
    pub(crate) directory: PodDir,
    pub(crate) logs: PathBuf,
}

/// What is measured at a time: a pod's own directories (no volume), or one volume of it.
type Part = (String, Option<String>);

/// A measurement that is kept.
#[derive(Debug, Default)]
struct Kept {
    /// Somebody is at it.
    busy: bool,
    at: Option<Instant>,
    stored: Stored,
}

/// Keeps the latest measurements.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    kept: Arc<Mutex<HashMap<Part, Kept>>>,
    /// How old one may be; None: volumes are not measured.
    volumes_every: Option<Duration>,
}

impl Default for Storage {
    fn default() -> Self {
        Self::new(Some(PERIOD))
    }
}

/// Marks a part as being measured until it is dropped.
struct Busy {
    storage: Storage,
    part: Part,
}

impl Busy {
    fn done(self, stored: Stored) {
        if let Some(kept) = self.storage.kept.lock().get_mut(&self.part) {
            kept.stored = stored;
            kept.at = Some(Instant::now());
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(kept) = self.storage.kept.lock().get_mut(&self.part) {
            kept.busy = false;
        }
    }
}

impl Storage {
    /// Tells of volumes what is at most so old, `volumeStatsAggPeriod`; None: nothing.
    pub(crate) fn new(volumes_every: Option<Duration>) -> Self {
        Self { kept: Arc::default(), volumes_every }
    }

    /// What pods have, by uid. Pods that are not asked for are forgotten.
    pub(crate) async fn of(&self, targets: &[Target]) -> HashMap<String, Stored> {
        let running = self.begin(targets, Instant::now());
        let waiting = async {
            for one in running {
                // An error means that the thread is over: so is its work.
                let _ = one.await;
            }
        };
        // What is late is in a later answer.
        let _ = tokio::time::timeout(PATIENCE, waiting).await;
        self.latest(targets)
    }

    /// Starts measuring what is old; each of what it gives ends when a thread is done.
    fn begin(&self, targets: &[Target], now: Instant) -> Vec<oneshot::Receiver<()>> {
        let mut near = Vec::new();
        let mut far = Vec::new();
        {
            let mut all = self.kept.lock();
            let wanted: HashSet<Part> = targets.iter().flat_map(|target| self.parts(target)).collect();
            let period = self.volumes_every.unwrap_or(PERIOD);
            // Who is at it finishes first: there is never a second one for the same part.
            all.retain(|part, kept| kept.busy || wanted.contains(part));
            for target in targets {
                for part in self.parts(target) {
                    let kept = all.entry(part.clone()).or_default();
                    if kept.busy || kept.at.is_some_and(|at| now.saturating_duration_since(at) < period) {
                        continue;
                    }
                    kept.busy = true;
                    let volume = part.1.clone();
                    let busy = Busy { storage: self.clone(), part };
                    match volume.and_then(|name| volumes::find(&target.pod, &name)) {
                        Some(volume) => far.push((busy, target.clone(), volume.clone())),
                        None => near.push((busy, target.clone())),
                    }
                }
            }
        }
        let mut running = Vec::new();
        if !near.is_empty() {
            let with_volumes = self.volumes_every.is_some();
            running.push(thread(move || {
                for (busy, target) in near {
                    busy.done(local(&target, with_volumes));
                }
            }));
        }
        for (busy, target, volume) in far {
            running.push(thread(move || busy.done(remote(&target, &volume))));
        }
        running
    }

    fn parts(&self, target: &Target) -> Vec<Part> {
        let uid = pod::uid(&target.pod);
        let volumes = if self.volumes_every.is_some() { volumes::wanted(&target.pod) } else { Vec::new() };
        let remote = volumes.into_iter().filter(is_remote).map(|volume| (uid.to_owned(), Some(volume.name)));
        std::iter::once((uid.to_owned(), None)).chain(remote).collect()
    }

    fn latest(&self, targets: &[Target]) -> HashMap<String, Stored> {
        let all = self.kept.lock();
        let mut found = HashMap::new();
        for target in targets {
            let mut stored = Stored::default();
            for part in self.parts(target) {
                let Some(kept) = all.get(&part).filter(|kept| kept.at.is_some()) else { continue };
                stored.volumes.extend(kept.stored.volumes.iter().cloned());
                if part.1.is_none() {
                    stored.logs.clone_from(&kept.stored.logs);
                    stored.etc_hosts = kept.stored.etc_hosts;
                }
            }
            stored.volumes.sort_by_key(|volume| !volume.ephemeral);
            found.insert(pod::uid(&target.pod).to_owned(), stored);
        }
        found
    }
}

fn thread(work: impl FnOnce() + Send + 'static) -> oneshot::Receiver<()> {
    let (done, ended) = oneshot::channel();
    let begun = std::thread::Builder::new().name("pod-storage".to_owned()).spawn(move || {
        work();
        // Nobody may wait any more.
        let _ = done.send(());
    });
    if let Err(error) = begun {
        tracing::debug!(%error, "nothing is measured");
    }
    ended
}

/// Whether it is, or may be, a file server's.
fn is_remote(volume: &Volume) -> bool {
    volume.nfs.is_some() || volumes::claimed(volume)
}

/// Walks what a pod has on the node.
fn local(target: &Target, with_volumes: bool) -> Stored {
    let pod = &target.pod;
    let mut stored = Stored { etc_hosts: walk(&target.directory.etc_hosts()), ..Stored::default() };
    let ephemeral = pod::ephemeral_containers(pod);
    for container in pod::containers(pod).iter().chain(pod::init_containers(pod)).chain(&ephemeral) {
        let directory = target.logs.join(&container.name);
        if directory.is_dir() {
            stored.logs.insert(container.name.clone(), walk(&directory));
        }
    }
    for volume in volumes::wanted(pod).into_iter().filter(|_| with_volumes) {
        // What lies at a path of the host is the host's, and the runtime counts images.
        if is_remote(&volume) || volume.host_path.is_some() || volume.image.is_some() {
            continue;
        }
        let Some(path) = volumes::host_path_of(&target.directory, &volume).filter(|path| path.is_dir())
        else {
            continue;
        };
        let Some(space) = Space::of(&path) else { continue };
        stored.volumes.push(VolumeUsage {
            ephemeral: is_ephemeral(&volume),
            space: space.with(walk(&path)),
            name: volume.name,
            claim: None,
        });
    }
    stored
}

/// Source: upstream's `IsLocalEphemeralVolume`.
fn is_ephemeral(volume: &Volume) -> bool {
    let disk = |medium: Option<&str>| medium.is_none_or(str::is_empty);
    volume.config_map.is_some()
        || volume.empty_dir.as_ref().is_some_and(|source| disk(source.medium.as_deref()))
}

/// Asks the file system, or the device, of a volume.
fn remote(target: &Target, volume: &Volume) -> Stored {
    let space = match volumes::device_of(&target.directory, volume) {
        Some(device) => Space::of_device(&device),
        None => volumes::host_path_of(&target.directory, volume)
            // Before it is mounted, the directory is one of the node's own.
            .filter(|path| sub_path::is_mounted(path).unwrap_or(false))
            .and_then(|path| Space::of(&path)),
    };
    let volumes = space.map(|space| VolumeUsage {
        name: volume.name.clone(),
        claim: claims::claim_of(&target.pod, volume),
        ephemeral: false,
        space,
    });
    Stored { volumes: volumes.into_iter().collect(), ..Stored::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn target(root: &Path) -> Target {
        let pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {
            "containers": [{"name": "c", "volumeMounts": [
                {"name": "secret", "mountPath": "/s"}, {"name": "empty", "mountPath": "/e"},
                {"name": "host", "mountPath": "/h"}, {"name": "claim", "mountPath": "/c"}],
                "volumeDevices": [{"name": "device", "devicePath": "/d"}]}],
            "volumes": [{"name": "secret", "secret": {"secretName": "s"}}, {"name": "empty", "emptyDir": {}},
                {"name": "unused", "emptyDir": {}}, {"name": "host", "hostPath": {"path": "/"}},
                {"name": "claim", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "device", "ephemeral": {}}]}}))
            .unwrap();
        Target { pod: Arc::new(pod), directory: PodDir::new(root, "u"), logs: root.join("logs") }
    }

    #[tokio::test]
    async fn a_pods_storage_is_measured_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let target = target(root.path());
        let directory = |plugin: &str, name: &str| {
            let path =
                target.directory.path().join("volumes").join(format!("kubernetes.io~{plugin}")).join(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        fs::write(directory("empty-dir", "empty").join("file"), vec![1; 100_000]).unwrap();
        fs::write(directory("empty-dir", "unused").join("file"), b"x").unwrap();
        directory("secret", "secret");
        directory("persistent-volume", "claim");
        let device = root.path().join("device");
        fs::write(&device, vec![0; 4096]).unwrap();
        let links = target.directory.path().join("volumeDevices/kubernetes.io~persistent-volume");
        fs::create_dir_all(&links).unwrap();
        std::os::unix::fs::symlink(&device, links.join("device")).unwrap();
        fs::create_dir_all(target.logs.join("c")).unwrap();
        fs::write(target.logs.join("c/0.log"), vec![1; 50_000]).unwrap();
        fs::write(target.directory.etc_hosts(), b"127.0.0.1 localhost\n").unwrap();

        let storage = Storage::default();
        let targets = [target];
        let stored = storage.of(&targets).await.remove("u").unwrap();
        let names: Vec<_> = stored.volumes.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(
            names,
            ["empty", "secret", "device"],
            "a claim that is not mounted has no file system yet"
        );
        let empty = &stored.volumes[0];
        assert!((100_000..120_000).contains(&empty.space.used_bytes) && empty.ephemeral, "{empty:?}");
        assert_eq!((empty.space.inodes_used, empty.claim.as_deref()), (2, None));
        assert!(empty.space.capacity_bytes > empty.space.available_bytes && empty.space.time > 0);
        let device = &stored.volumes[2];
        assert_eq!((device.claim.as_deref(), device.space.capacity_bytes), (Some("p-device"), 4096));
        assert!((50_000..60_000).contains(&stored.logs["c"].bytes), "{:?}", stored.logs);
        assert_eq!(stored.etc_hosts.inodes, 1);

        // Not again within the minute, and then everything that is old.
        let now = Instant::now();
        assert!(storage.begin(&targets, now).is_empty());
        let again = storage.begin(&targets, now + PERIOD);
        assert_eq!(again.len(), 3, "the pod itself and two claims");
        for one in again {
            one.await.unwrap();
        }
        let off = Storage::new(None).of(&targets).await.remove("u").unwrap();
        assert_eq!((off.volumes.len(), &off.logs), (0, &stored.logs), "logs are no volumes");
        let slow = Storage::new(Some(PERIOD * 10));
        slow.of(&targets).await;
        assert!(slow.begin(&targets, Instant::now() + PERIOD * 9).is_empty());
        assert_eq!(slow.begin(&targets, Instant::now() + PERIOD * 11).len(), 3);
        assert!(storage.of(&[]).await.is_empty());
        assert!(storage.kept.lock().is_empty(), "pods that are gone are forgotten");
    }

    #[test]
    fn whoever_is_at_it_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let (storage, targets) = (Storage::default(), [target(root.path())]);
        let part = ("u".to_owned(), Some("claim".to_owned()));
        storage.kept.lock().insert(part.clone(), Kept { busy: true, ..Kept::default() });
        let hung = Busy { storage: storage.clone(), part: part.clone() };
        for one in storage.begin(&targets, Instant::now()) {
            one.blocking_recv().unwrap();
        }
        assert!(storage.kept.lock()[&part].at.is_none(), "a server that does not answer is not asked twice");
        storage.begin(&[], Instant::now());
        assert_eq!(storage.kept.lock().len(), 1, "nor is it forgotten that it was");
        drop(hung);
        assert!(!storage.kept.lock()[&part].busy);
    }
}
