//! A container's view of files, made by its own first process in its own mount namespace: layers, volumes, `/proc`, `/dev`,
//! `/sys`, then the host's files let go. Nothing of it is in the host's mount table, so nothing of it can be left there.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, fstat, mknodat, umask};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{Gid, Uid, chdir, fchownat, pivot_root};

use crate::cgroup::Cgroups;
use crate::layers::{self, Writable};
use crate::mounts::{self, Links};
use crate::protocol::{Bind, ContainerSpec, DeviceFile, Propagation, Rootfs};
use crate::sandbox::{Namespaces, step};
use crate::sys::{self, attribute};
use crate::userns::Users;
use crate::{hooks, images};

/// Links that every `/dev` has.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// The group of terminals, as every distribution has it.
const TERMINALS: u32 = 5;
/// Nothing there can be executed, be a device or raise privileges.
const HARMLESS: u64 = attribute::NOSUID | attribute::NODEV | attribute::NOEXEC;

/// A mount taken from the host before it is let go.
struct Taken {
    tree: OwnedFd,
    target: PathBuf,
}

/// Makes the container's files the root of this process's mount namespace, which is its own by now. Returns the terminal's
/// controlling end, if it has one.
pub(crate) fn enter(
    spec: &ContainerSpec,
    pod: &Namespaces,
    cgroups: &Cgroups,
) -> io::Result<Option<OwnedFd>> {
    let users = pod.users.as_ref();
    let shm = match pod.shm.as_ref().filter(|_| !spec.host_ipc) {
        Some(namespace) => Some(step("/dev/shm of the pod", take_shm(namespace))?),
        None => None,
    };
    let mut of_host = Vec::new();
    for bind in &spec.binds {
        of_host.push(step(&images::what(bind), take(bind))?);
    }
    let groups = step("cgroups", take_groups(spec, cgroups))?;
    // Changes of the host's mounts still reach volumes that want them; ours never reach the host.
    step(
        "mounts",
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>),
    )?;
    let mut taken = Vec::new();
    for (bind, tree) in spec.binds.iter().zip(of_host) {
        let what = images::what(bind);
        let tree = match tree {
            Some(tree) => tree,
            // Only now: what is mounted for it must not reach the host.
            None => step(&what, take_image(bind, users, spec))?,
        };
        step(&what, settle(bind, users, &tree))?;
        taken.push((what, Taken { tree, target: bind.target.clone() }));
    }
    umask(Mode::empty());
    let place = step("layers", mount_layers(spec, users))?;
    if let Some((uid, gid)) = users.map(Users::root) {
        // What is missing in the image is made for the container's root.
        step("owner of files", sys::make_files_as(uid, gid))?;
    }
    let root = File::open(&place)?;
    step("/proc", put(&root, "proc", &sys::new_mount(c"proc", &[], HARMLESS)?))?;
    let terminal = devices(spec, users, &root, shm)?;
    let writable = if spec.privileged { 0 } else { attribute::RDONLY };
    step("/sys", put(&root, "sys", &sys::new_mount(c"sysfs", &[], HARMLESS | writable)?))?;
    step("/sys/fs/cgroup", put_groups(&root, groups, writable, cgroups.is_v2()))?;
    for (what, one) in taken {
        let path = step(&what, mounts::place(&root, mounts::relative(&one.target)))?;
        step(&what, not_over_proc(&path, &one.tree))?;
        let target = step(&what, mounts::target(&root, &path, &one.tree))?;
        step(&what, sys::move_mount(one.tree, target))?;
    }
    let bundle = place.parent().unwrap_or(Path::new("/"));
    for hook in &spec.hooks {
        hooks::call(hook, &spec.id, bundle)?;
    }
    step("new root", chdir(&place).and_then(|()| pivot_root(".", ".")))?;
    step("let the host's files go", umount2(".", MntFlags::MNT_DETACH).and_then(|()| chdir("/")))?;
    let root = File::open("/")?;
    for path in &spec.readonly_paths {
        step(&format!("read-only {}", path.display()), mounts::make_read_only(&root, path))?;
    }
    for path in &spec.masked_paths {
        let null = step("/dev/null", mounts::null_device(&root))?;
        step(&format!("masking {}", path.display()), mounts::mask(&root, &null, path))?;
    }
    if spec.rootfs.read_only {
        step("read-only root", sys::mount_setattr(&root, false, attribute::RDONLY, 0))?;
    }
    Ok(terminal)
}

/// A copy of the pod's `/dev/shm`, fetched from the namespace that has it.
pub(crate) fn take_shm(namespace: &OwnedFd) -> io::Result<OwnedFd> {
    let own = File::open("/proc/self/ns/mnt")?;
    sys::setns(namespace, libc::CLONE_NEWNS)?;
    let tree = sys::clone_tree(Path::new("/"), false);
    sys::setns(&own, libc::CLONE_NEWNS)?;
    tree
}

/// A copy of the host's mount; none if the files are an image's.
fn take(bind: &Bind) -> io::Result<Option<OwnedFd>> {
    if bind.image.is_some() {
        return Ok(None);
    }
    sys::clone_tree(&bind.source, true).map(Some)
}

pub(crate) fn take_image(bind: &Bind, users: Option<&Users>, spec: &ContainerSpec) -> io::Result<OwnedFd> {
    let files = bind.image.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
    images::take(files, users.filter(|_| bind.mapped), &place(spec)?)
}

/// Where the container's root is mounted.
fn place(spec: &ContainerSpec) -> io::Result<PathBuf> {
    Ok(spec.rootfs.upper.parent().ok_or(io::ErrorKind::InvalidInput)?.join("rootfs"))
}

/// Gives a taken mount what the volume asks for.
fn settle(bind: &Bind, users: Option<&Users>, tree: &OwnedFd) -> io::Result<()> {
    // An image's layers have been.
    if bind.mapped && bind.image.is_none() {
        users.ok_or_else(|| io::Error::other("the pod has no user namespace"))?.map(tree)?;
    }
    match bind.propagation {
        Propagation::Private => sys::mount_setattr(tree, true, 0, libc::MS_PRIVATE)?,
        Propagation::HostToContainer => sys::mount_setattr(tree, true, 0, libc::MS_SLAVE)?,
        Propagation::Bidirectional => {}
    }
    if bind.read_only || bind.recursive_read_only {
        sys::mount_setattr(tree, bind.recursive_read_only, attribute::RDONLY, 0)?;
    }
    Ok(())
}

/// The container's own groups, one for each tree of version 1. Version 2 is mounted anew inside.
fn take_groups(spec: &ContainerSpec, cgroups: &Cgroups) -> io::Result<Vec<(String, OwnedFd)>> {
    if cgroups.is_v2() {
        return Ok(Vec::new());
    }
    let own = spec.cgroup.trim_start_matches('/');
    cgroups
        .trees()
        .into_iter()
        .map(|(name, mount)| Ok((name, sys::clone_tree(&mount.join(own), false)?)))
        .collect()
}

pub(crate) fn mount_layers(spec: &ContainerSpec, users: Option<&Users>) -> io::Result<PathBuf> {
    let place = place(spec)?;
    let Rootfs { base, lower, upper, work, .. } = &spec.rootfs;
    layers::put(base, lower, Some(Writable { upper, work }), users, &place)?;
    Ok(place)
}

/// Mounts over a directory that must be one: a link in an image must not move `/proc` or `/dev` elsewhere.
fn put(root: &File, path: &str, tree: &OwnedFd) -> io::Result<()> {
    sys::move_mount(tree, mounts::directory(root, Path::new(path), Links::Refuse)?)
}

/// What may be put over files of the kernel's in `/proc`, which hides what it says from the program. Source: runc's
/// `checkProcMount`.
const OVER_PROC: [&str; 10] = [
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/loadavg",
    "proc/meminfo",
    "proc/slabinfo",
    "proc/stat",
    "proc/swaps",
    "proc/sys/crypto/fips_enabled",
    "proc/sys/kernel/ns_last_pid",
    "proc/uptime",
];

/// Nothing else is mounted in `/proc`, whoever asks for it: a link in an image leads there as well as a volume does, and what
/// is written through `/proc` to confine a program would be written elsewhere (CVE-2019-16884). `path` is without links.
fn not_over_proc(path: &Path, tree: &OwnedFd) -> io::Result<()> {
    let allowed = !path.starts_with("proc")
        || OVER_PROC.iter().any(|one| path == Path::new(one))
        || path == Path::new("proc") && fstatfs(tree)?.filesystem_type() == PROC_SUPER_MAGIC;
    if allowed {
        return Ok(());
    }
    Err(io::Error::other(format!("\"/{}\" cannot be mounted because it is inside /proc", path.display())))
}

fn put_groups(root: &File, groups: Vec<(String, OwnedFd)>, attributes: u64, v2: bool) -> io::Result<()> {
    if v2 {
        return put(root, "sys/fs/cgroup", &sys::new_mount(c"cgroup2", &[], HARMLESS | attributes)?);
    }
    let view = sys::new_mount(c"tmpfs", &[("mode", Some("755"))], HARMLESS)?;
    put(root, "sys/fs/cgroup", &view)?;
    for (name, tree) in groups {
        sys::mount_setattr(&tree, false, HARMLESS | attributes, libc::MS_PRIVATE)?;
        put(root, &format!("sys/fs/cgroup/{name}"), &tree)?;
    }
    let top = mounts::find(root, Path::new("sys/fs/cgroup"), Links::Refuse)?;
    sys::mount_setattr(top, false, attributes, 0)
}

/// `/dev` with its devices, terminals, shared memory and message queues; the terminal if there is to be one.
fn devices(
    spec: &ContainerSpec,
    users: Option<&Users>,
    root: &File,
    shm: Option<OwnedFd>,
) -> io::Result<Option<OwnedFd>> {
    let attributes = attribute::NOSUID | attribute::STRICTATIME;
    let tree = sys::new_mount(c"tmpfs", &[("mode", Some("755")), ("size", Some("65536k"))], attributes)?;
    step("/dev", put(root, "dev", &tree))?;
    let dev = mounts::find(root, Path::new("dev"), Links::Refuse)?;
    for device in &spec.devices {
        step(&format!("device {}", device.path.display()), make_device(root, device, users))?;
    }
    for (name, target) in DEVICE_LINKS {
        step("/dev links", nix::unistd::symlinkat(target, &dev, name))?;
    }
    let group = users.map_or(TERMINALS, |users| users.maps.gid(TERMINALS)).to_string();
    let options =
        [("newinstance", None), ("ptmxmode", Some("0666")), ("mode", Some("0620")), ("gid", Some(&*group))];
    let terminals = sys::new_mount(c"devpts", &options, attribute::NOSUID | attribute::NOEXEC)?;
    step("/dev/pts", put(root, "dev/pts", &terminals))?;
    let queues = sys::new_mount(c"mqueue", &[], HARMLESS)?;
    step("/dev/mqueue", put(root, "dev/mqueue", &queues))?;
    let shm = match shm {
        Some(tree) => tree,
        None => sys::clone_tree(Path::new("/dev/shm"), true)?,
    };
    step("/dev/shm", put(root, "dev/shm", &shm))?;
    if !spec.tty {
        return Ok(None);
    }
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = step("terminal", openat(&dev, "pts/ptmx", flags, Mode::empty()))?;
    let peer = step("terminal", sys::terminal_peer(&master))?;
    let console = mounts::target(root, Path::new("dev/console"), &peer)?;
    step("/dev/console", sys::move_mount(sys::clone_tree_at(&peer, false)?, console))?;
    Ok(Some(master))
}

fn make_device(root: &File, device: &DeviceFile, users: Option<&Users>) -> io::Result<()> {
    let path = mounts::relative(&device.path);
    let parent = mounts::directory(root, path.parent().unwrap_or(Path::new("")), Links::Refuse)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let kind = if device.kind == 'b' { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
    let mode = Mode::from_bits_truncate(device.mode);
    mknodat(&parent, name, kind, mode, libc::makedev(device.major, device.minor))?;
    // As in the container's own namespace: its root has what is root's.
    let (uid, gid) = users
        .map_or((device.uid, device.gid), |users| (users.maps.uid(device.uid), users.maps.gid(device.gid)));
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    fchownat(&parent, name, Some(uid), Some(gid), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// A terminal of the container that this process has joined: only what is proven to be the kernel's (CVE-2025-52565).
pub(crate) fn open_terminal() -> io::Result<OwnedFd> {
    let root = File::open("/")?;
    let found = mounts::find(&root, Path::new("dev/pts/ptmx"), Links::Refuse)?;
    let stat = fstat(&found)?;
    let character = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR;
    if !character || stat.st_rdev != libc::makedev(5, 2) {
        return Err(io::Error::other("/dev/pts/ptmx is no terminal"));
    }
    let directory = mounts::find(&root, Path::new("dev/pts"), Links::Refuse)?;
    if nix::sys::statfs::fstatfs(&directory)?.filesystem_type() != nix::sys::statfs::DEVPTS_SUPER_MAGIC {
        return Err(io::Error::other("/dev/pts has no terminals"));
    }
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    Ok(openat(directory.as_fd(), "ptmx", flags, Mode::empty())?)
}

/// Makes the working directory, as the other runtimes do, and enters it.
pub(crate) fn enter_directory(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new("/") } else { path };
    match chdir(path) {
        Err(nix::errno::Errno::ENOENT) => {
            let root = File::open("/")?;
            mounts::directory(&root, mounts::relative(path), Links::Follow)?;
            chdir(path)?;
        }
        other => other?,
    }
    // Nothing may hold a way out of the root (CVE-2024-21626): the kernel says so in what it calls the directory.
    let here = std::env::current_dir()?;
    if !here.is_absolute() {
        return Err(io::Error::other("the working directory is outside the container"));
    }
    Ok(())
}

/// A link, for tests of hostile roots.
#[cfg(test)]
fn link(target: &Path, at: &Path) {
    std::os::unix::fs::symlink(target, at).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_cannot_move_what_is_mounted() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        link(outside.path(), &inside.path().join("proc"));
        let root = File::open(inside.path()).unwrap();
        assert!(mounts::directory(&root, Path::new("proc"), Links::Refuse).is_err());
    }

    #[test]
    fn nothing_is_put_over_proc_but_figures() {
        let root = tempfile::tempdir().unwrap();
        link(Path::new("/proc/self/attr"), &root.path().join("etc"));
        std::fs::create_dir_all(root.path().join("proc/self/attr")).unwrap();
        let inside = File::open(root.path()).unwrap();
        let (file, proc) =
            (OwnedFd::from(File::open("/dev/null").unwrap()), OwnedFd::from(File::open("/proc").unwrap()));
        let allowed = |path: &str, tree: &OwnedFd| {
            let place = mounts::place(&inside, Path::new(path)).unwrap();
            not_over_proc(&place, tree).map_err(|error| error.to_string())
        };
        for path in ["var/hosts", "proc/meminfo", "process/x"] {
            assert_eq!(allowed(path, &file), Ok(()), "{path}");
        }
        assert_eq!(allowed("proc", &proc), Ok(()));
        for (path, place) in
            [("proc", "/proc"), ("proc/1/attr", "/proc/1/attr"), ("etc/exec", "/proc/self/attr/exec")]
        {
            let wanted = format!("\"{place}\" cannot be mounted because it is inside /proc");
            assert_eq!(allowed(path, &file), Err(wanted));
        }
    }
}
