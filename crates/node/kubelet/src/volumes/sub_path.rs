//! Mounts a part of a volume safely.
//!
//! What is inside a volume belongs to the containers: they may put symbolic links there, and change
//! them while we look. So the part is opened with `openat2` beneath the volume's root, which the
//! kernel resolves in one step without leaving it, and what was opened is bind-mounted by its
//! descriptor to a place only we write to. (CVE-2017-1002101, CVE-2021-25741)

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Component, Path},
};

use nix::{
    NixPath,
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, lstat, mkdirat},
};

/// How often a name is resolved anew. The kernel gives up (`EAGAIN`) when something anywhere was renamed or mounted
/// meanwhile; on a busy machine that passes within a few tries.
const OPEN_TRIES: usize = 128;

/// The system call of that name, tried again while the kernel asks for it.
pub(super) fn openat2<P: ?Sized + NixPath>(
    directory: impl AsFd,
    path: &P,
    how: OpenHow,
) -> nix::Result<OwnedFd> {
    for _ in 1..OPEN_TRIES {
        match nix::fcntl::openat2(directory.as_fd(), path, how) {
            Err(Errno::EAGAIN) => {}
            other => return other,
        }
    }
    nix::fcntl::openat2(directory.as_fd(), path, how)
}

/// Opens `path` beneath `root` without ever leaving it, making missing directories when `create`. Those get the root's mode,
/// whatever our umask is, and with its setgid bit its group: whoever may write to the volume may write there. Source:
/// upstream's `makeMounts` and `doSafeMakeDir`.
pub(crate) fn open_beneath(root: &Path, path: &str, create: bool) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let base = open(root, flags | OFlag::O_DIRECTORY, Mode::empty())?;
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(&base, path, how) {
        Err(Errno::ENOENT) if create => {}
        other => return Ok(other?),
    }
    // Step by step: each step opens what the last one made or found, so a link swapped in is refused.
    let mode = Mode::from_bits_truncate(fstat(&base)?.st_mode);
    // What was made is no link, and is opened for more than its path: the mode is set on what is open.
    let made = how.flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW);
    let mut at = base;
    for component in Path::new(path).components() {
        let Component::Normal(name) = component else { continue };
        at = match mkdirat(&at, name, mode) {
            Ok(()) => {
                let directory = openat2(&at, name, made)?;
                fchmod(&directory, mode)?;
                directory
            }
            Err(Errno::EEXIST) => openat2(&at, name, how)?,
            Err(error) => return Err(error.into()),
        };
    }
    Ok(at)
}

/// Bind-mounts `path` of the volume at `root` onto `target`, which is made as needed. Safe to repeat: what is mounted there
/// stays if the name still leads to it, and gives way if the name has become another file's, as the files of a ConfigMap do
/// with each change.
pub(crate) fn bind(root: &Path, path: &str, target: &Path) -> io::Result<()> {
    let opened = open_beneath(root, path, true)?;
    let found = fstat(&opened)?;
    let directory = SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR;
    if is_mounted(target)? {
        // A mount that does not answer, of a file that its server has removed for one, is another file too.
        let same = |mounted: FileStat| (mounted.st_dev, mounted.st_ino) == (found.st_dev, found.st_ino);
        if lstat(target).is_ok_and(same) {
            return Ok(());
        }
        unmount_below(target)?;
        // What it was mounted on may be a directory where a file is needed, or the other way round.
        if fs::symlink_metadata(target)?.is_dir() {
            fs::remove_dir(target)
        } else {
            fs::remove_file(target)
        }?;
    }
    if directory {
        fs::create_dir_all(target)?;
    } else {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::File::create(target)?;
    }
    let source = format!("/proc/self/fd/{}", opened.as_fd().as_raw_fd());
    mount(Some(source.as_str()), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// Whether something is mounted exactly there.
pub(crate) fn is_mounted(target: &Path) -> io::Result<bool> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let target = target.to_string_lossy();
    Ok(table.lines().any(|line| line.split(' ').nth(4).is_some_and(|at| unescape(at) == target)))
}

/// Every mount at or below a directory, deepest first.
pub(crate) fn mounts_below(directory: &Path) -> io::Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut found: Vec<String> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .filter(|at| Path::new(at).starts_with(directory))
        .collect();
    found.sort_by_key(|at| std::cmp::Reverse(at.len()));
    Ok(found)
}

/// Unmounts everything at or below a directory, and nothing anywhere else.
pub(crate) fn unmount_below(directory: &Path) -> io::Result<()> {
    let found = mounts_below(directory)?;
    for at in &found {
        // A bind mount of the host's path shares with it what is mounted below: unmounting that here would unmount it there.
        match mount(None::<&str>, at.as_str(), None::<&str>, MsFlags::MS_PRIVATE, None::<&str>) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for at in &found {
        // Lazily: a process that outlived its container must not keep the pod from being cleaned up, and a file server
        // that does not answer is not asked.
        match umount2(at.as_str(), MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The kernel writes blanks in mount points as octal escapes.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|octal| u8::from_str_radix(octal, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}
