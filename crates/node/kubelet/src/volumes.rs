//! A pod's volumes on disk: made before its containers, refreshed while it runs, removed after it.
//!
//! What a volume holds is decided in [`payload`]; this file makes directories and mounts. Everything is
//! safe to repeat, because a restarted kubelet repeats it for pods that run.

pub(crate) mod atomic;
pub(crate) mod claims;
pub(crate) mod env_file;
pub(crate) mod host_path;
pub(crate) mod image;
pub(crate) mod mounting;
mod ownership;
pub(crate) mod payload;
pub(crate) mod persistent;
pub(crate) mod sub_path;

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
};

use crate::{huge_pages, pod, resources};
use payload::{Lookup, PayloadError};

/// Why a volume is not ready; the text goes into the FailedMount event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
    Payload { volume: String, source: PayloadError },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
    HostPath { volume: String, source: host_path::HostPathError },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
    Persistent { volume: String, source: persistent::PersistentError },
    #[error("MountVolume.SetUp failed for volume {volume:?} : {source}")]
    Io { volume: String, source: io::Error },
    #[error(
        "MountVolume.SetUp failed for volume {volume:?} : volume source {kind} is not supported by this kubelet"
    )]
    Unsupported { volume: String, kind: &'static str },
    #[error(
        "MountVolume.SetUp failed for volume {volume:?} : volume source image is not supported by this container runtime"
    )]
    NoImages { volume: String },
    #[error(
        "MountVolume.SetUp failed for volume {volume:?} : subPath of a volume source image is not supported by this \
         container runtime"
    )]
    NoImageParts { volume: String },
}

/// Where containers have files of their own, below the pod's directory.
const CONTAINERS: &str = "containers";

/// Where a pod's files are.
#[derive(Debug, Clone)]
pub(crate) struct PodDir {
    root: PathBuf,
}

impl PodDir {
    /// The directory of a pod below the kubelet's root.
    pub(crate) fn new(kubelet_root: &Path, uid: &str) -> Self {
        Self { root: kubelet_root.join("pods").join(uid) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.root
    }

    /// The pod's `/etc/hosts`.
    pub(crate) fn etc_hosts(&self) -> PathBuf {
        self.root.join("etc-hosts")
    }

    /// A container's own files, its termination log for one.
    pub(crate) fn container(&self, name: &str) -> PathBuf {
        self.root.join(CONTAINERS).join(name)
    }

    /// A volume's directory, named as upstream names it.
    fn volume(&self, plugin: &str, name: &str) -> PathBuf {
        self.root.join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
    }

    /// The link to a volume's device.
    fn device(&self, name: &str) -> PathBuf {
        self.root.join("volumeDevices/kubernetes.io~persistent-volume").join(name)
    }

    /// Where one mount of a part of a volume is.
    pub(crate) fn sub_path(&self, volume: &str, container: &str, index: usize) -> PathBuf {
        self.root.join("volume-subpaths").join(volume).join(container).join(index.to_string())
    }
}

/// Where a volume is on the host, whether or not it has been made yet. None for an image: the runtime has it.
pub(crate) fn host_path_of(directory: &PodDir, volume: &Volume) -> Option<PathBuf> {
    if let Some(source) = &volume.host_path {
        return Some(PathBuf::from(&source.path));
    }
    if volume.image.is_some() {
        return None;
    }
    plugin(volume).ok().map(|plugin| directory.volume(plugin, &volume.name))
}

/// Whether the volume is a claim's.
pub(crate) fn claimed(volume: &Volume) -> bool {
    volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
}

/// Where the device of a volume is, once it has been made.
pub(crate) fn device_of(directory: &PodDir, volume: &Volume) -> Option<PathBuf> {
    fs::read_link(directory.device(&volume.name)).ok()
}

/// Whether a claimed volume is where containers look for it: then the API need not be asked about it.
pub(crate) fn is_there(directory: &PodDir, volume: &Volume) -> bool {
    host_path_of(directory, volume).is_some_and(|path| sub_path::is_mounted(&path).unwrap_or(false))
        || device_of(directory, volume).is_some()
}

/// The plugin's name in paths, or the kind of a source that is not supported.
pub(crate) fn plugin(volume: &Volume) -> Result<&'static str, &'static str> {
    let known: [(bool, &'static str); 9] = [
        (claimed(volume), "persistent-volume"),
        (volume.nfs.is_some(), "nfs"),
        (volume.empty_dir.is_some(), "empty-dir"),
        (volume.config_map.is_some(), "configmap"),
        (volume.secret.is_some(), "secret"),
        (volume.downward_api.is_some(), "downward-api"),
        (volume.projected.is_some(), "projected"),
        (volume.host_path.is_some(), "host-path"),
        (volume.image.is_some(), "image"),
    ];
    if let Some((_, name)) = known.into_iter().find(|(there, _)| *there) {
        return Ok(name);
    }
    let unsupported: [(bool, &'static str); 6] = [
        (volume.csi.is_some(), "csi"),
        (volume.iscsi.is_some(), "iscsi"),
        (volume.fc.is_some(), "fc"),
        // Running git on the host for a pod's author is how CVE-2024-10220 happened.
        (volume.git_repo.is_some(), "gitRepo"),
        (volume.flex_volume.is_some(), "flexVolume"),
        (
            volume.cephfs.is_some() || volume.rbd.is_some() || volume.glusterfs.is_some(),
            "of a removed in-tree plugin",
        ),
    ];
    if let Some((_, kind)) = unsupported.into_iter().find(|(there, _)| *there) {
        return Err(kind);
    }
    // A volume without any source is an emptyDir, as upstream defaults it.
    Ok("empty-dir")
}

/// Makes or refreshes one volume. Blocking.
pub(crate) fn ensure(
    directory: &PodDir,
    pod: &Pod,
    volume: &Volume,
    lookup: &Lookup,
) -> Result<(), VolumeError> {
    let name = || volume.name.clone();
    plugin(volume).map_err(|kind| VolumeError::Unsupported { volume: name(), kind })?;
    let failed = |source| VolumeError::Io { volume: name(), source };
    if volume.image.is_some() {
        // Its image is pulled when a container starts that mounts it.
        return match lookup.image_mounts {
            image::Mounts::Nothing => Err(VolumeError::NoImages { volume: name() }),
            offered if offered < image::needed(pod, volume) => {
                Err(VolumeError::NoImageParts { volume: name() })
            }
            _ => Ok(()),
        };
    }
    if let Some(source) = &volume.host_path {
        let type_ = source.type_.as_deref().unwrap_or_default();
        return host_path::check(Path::new(&source.path), type_)
            .map_err(|source| VolumeError::HostPath { volume: name(), source });
    }
    let Some(target) = host_path_of(directory, volume) else { return Ok(()) };
    let group = payload::fs_group(pod).and_then(|group| u32::try_from(group).ok());
    if let Some(found) = source_of(volume, lookup) {
        let target = if found.block { directory.device(&volume.name) } else { target };
        let group = group.map(|id| ownership::Group { id, on_root_mismatch: on_root_mismatch(pod) });
        return persistent::ensure(&found, &target, group)
            .map_err(|source| VolumeError::Persistent { volume: found.name.clone(), source });
    }
    if claimed(volume) {
        // Nothing was found for it because it is there; the last kubelet may have died half way.
        let mounted = sub_path::is_mounted(&target).map_err(failed)?;
        return if mounted { persistent::receive_only(&target).map_err(failed) } else { Ok(()) };
    }
    let files = payload::payload(pod, volume, lookup)
        .map_err(|source| VolumeError::Payload { volume: name(), source })?;
    match files {
        None => empty_dir(&target, pod, volume.empty_dir.as_ref(), group).map_err(failed),
        Some(files) => {
            let in_memory = volume.secret.is_some() || volume.projected.is_some();
            file_volume(&target, in_memory, group).map_err(failed)?;
            atomic::write(&target, &files, group).map(drop).map_err(failed)
        }
    }
}

/// What a claim has been resolved to, or what the pod says itself of a file server.
fn source_of(volume: &Volume, lookup: &Lookup) -> Option<claims::Claimed> {
    if let Some(nfs) = &volume.nfs {
        let backing = claims::Backing::Nfs {
            server: nfs.server.clone(),
            path: nfs.path.clone(),
            read_only: nfs.read_only == Some(true),
            options: Vec::new(),
        };
        return Some(claims::Claimed { name: volume.name.clone(), backing, block: false });
    }
    lookup.claims.get(&volume.name).cloned()
}

/// Where a volume of a file server is to be mounted, and how: blocking for as long as the server likes. None for any other
/// volume, and for one that is there. After that [`ensure`] finds it.
pub(crate) fn remote(
    directory: &PodDir,
    volume: &Volume,
    lookup: &Lookup,
) -> Option<(PathBuf, impl FnOnce() -> Result<(), String> + Send + 'static)> {
    let found = source_of(volume, lookup)?;
    let target = host_path_of(directory, volume)?;
    if !matches!(found.backing, claims::Backing::Nfs { .. }) || sub_path::is_mounted(&target).unwrap_or(false)
    {
        return None;
    }
    let name = volume.name.clone();
    let to = target.clone();
    let work = move || {
        persistent::ensure(&found, &to, None)
            .map_err(|source| VolumeError::Persistent { volume: name, source }.to_string())
    };
    Some((target, work))
}

fn on_root_mismatch(pod: &Pod) -> bool {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    context.and_then(|context| context.fs_group_change_policy.as_deref()) == Some("OnRootMismatch")
}

fn file_volume(target: &Path, in_memory: bool, group: Option<u32>) -> io::Result<()> {
    if target.is_dir() && (!in_memory || sub_path::is_mounted(target)?) {
        return Ok(());
    }
    fs::create_dir_all(target)?;
    if in_memory {
        tmpfs(target, None)?;
    }
    own(target, 0o777, group)
}

fn empty_dir(
    target: &Path,
    pod: &Pod,
    source: Option<&EmptyDirVolumeSource>,
    group: Option<u32>,
) -> io::Result<()> {
    let medium = source.and_then(|source| source.medium.as_deref()).unwrap_or_default();
    match medium {
        "" => {
            if target.is_dir() {
                return Ok(());
            }
            fs::create_dir_all(target)?;
        }
        "Memory" => {
            if target.is_dir() && sub_path::is_mounted(target)? {
                return Ok(());
            }
            fs::create_dir_all(target)?;
            let wanted = source
                .and_then(|source| source.size_limit.as_ref())
                .and_then(|limit| limit.0.parse::<podium_api::quantity::Quantity>().ok());
            let limit = resources::pod_limit(pod, "memory");
            let size = match (wanted, limit) {
                (Some(wanted), Some(limit)) => Some(wanted.min(limit)),
                (one, other) => one.or(other),
            };
            tmpfs(target, size.map(|size| size.value()))?;
        }
        "HugePages" => pages(target, medium, pod)?,
        sized if sized.starts_with("HugePages-") => pages(target, medium, pod)?,
        other => {
            let text = format!("emptyDir medium {other:?} is not supported by this kubelet");
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
    }
    own(target, 0o777, group)
}

fn pages(target: &Path, medium: &str, pod: &Pod) -> io::Result<()> {
    if target.is_dir() && sub_path::is_mounted(target)? {
        return Ok(());
    }
    let size = huge_pages::of_medium(medium, pod).map_err(io::Error::other)?;
    fs::create_dir_all(target)?;
    let options = format!("pagesize={}", size.bytes());
    mount(Some("nodev"), target, Some("hugetlbfs"), MsFlags::empty(), Some(options.as_str()))?;
    Ok(())
}

/// Mounts a file system in memory whose files the kernel does not write to a swap device: secrets are among them. Asked for
/// even while there is no swap, which may come later. Kernels before 6.4 do not know the option, and none takes it in a user
/// namespace: better such a file system than none.
fn tmpfs(target: &Path, size_bytes: Option<i64>) -> io::Result<()> {
    let size = size_bytes.filter(|size| *size > 0).map(|size| format!("size={size}"));
    let mount =
        |options: Option<&str>| mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), options);
    let unswapped = match &size {
        Some(size) => format!("{size},noswap"),
        None => "noswap".to_owned(),
    };
    match mount(Some(&unswapped)) {
        Err(Errno::EINVAL) => mount(size.as_deref())?,
        other => other?,
    }
    Ok(())
}

/// Sets mode and group of a volume's root; the group's volumes hand their group on to what is made in them.
fn own(target: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    let setgid = if group.is_some() { 0o2000 } else { 0 };
    if group.is_some() {
        chown(target, None, group)?;
    }
    fs::set_permissions(target, fs::Permissions::from_mode(mode | setgid))
}

/// Whether anything in the pod's volumes can change while it runs.
pub(crate) fn is_refreshable(pod: &Pod) -> bool {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).any(|volume| {
        volume.config_map.is_some()
            || volume.secret.is_some()
            || volume.projected.is_some()
            || volume.downward_api.is_some()
    })
}

/// Unmounts and removes everything of a pod. Blocking; safe to repeat.
///
/// No data of a claim, of the host or of a file server are ever removed: everything is unmounted first, nothing is removed
/// while something is still mounted, and the removal itself does not pass a mount point, should one appear meanwhile.
pub(crate) fn teardown(directory: &PodDir) -> io::Result<()> {
    if !directory.path().exists() {
        return Ok(());
    }
    unmount(directory)?;
    podium_shim::remove::tree(directory.path())
}

/// The same for a pod that has ended, but what its containers left to be said stays as long as the pod does: a kubelet that
/// starts anew reads it again.
pub(crate) fn release(directory: &PodDir) -> io::Result<()> {
    if !directory.path().exists() {
        return Ok(());
    }
    unmount(directory)?;
    for entry in fs::read_dir(directory.path())? {
        let entry = entry?;
        match entry.file_name() {
            kept if kept == CONTAINERS => {}
            _ if entry.file_type()?.is_dir() => podium_shim::remove::tree(&entry.path())?,
            _ => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

fn unmount(directory: &PodDir) -> io::Result<()> {
    sub_path::unmount_below(directory.path())?;
    // Never remove through a mount: what is mounted here belongs to somebody else.
    match sub_path::mounts_below(directory.path())?.first() {
        Some(still) => Err(io::Error::other(format!("{still} is still mounted"))),
        None => Ok(()),
    }
}

/// The pod's volume of that name.
pub(crate) fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a Volume> {
    pod.spec.as_ref()?.volumes.as_ref()?.iter().find(|volume| volume.name == name)
}

/// The volumes that some container of the pod mounts or opens; others need not be made.
pub(crate) fn wanted(pod: &Pod) -> Vec<Volume> {
    let ephemeral = pod::ephemeral_containers(pod);
    let mounted = |volume: &&Volume| {
        pod::containers(pod).iter().chain(pod::init_containers(pod)).chain(&ephemeral).any(|container| {
            container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name)
                || container.volume_devices.iter().flatten().any(|device| device.name == volume.name)
        })
    };
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter(mounted).cloned().collect()
}

#[cfg(test)]
mod tests;
