//! Places in a container's root and what is put on them, all by descriptor: names are resolved once, inside the root, and
//! what was found is what is mounted on, however the files change meanwhile (CVE-2021-25741 and its kin).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};

use crate::sys;

/// Whether links in a name may be followed. Never outside the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    Follow,
    Refuse,
}

fn how(flags: OFlag, links: Links) -> OpenHow {
    let mut resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    if links == Links::Refuse {
        resolve |= ResolveFlag::RESOLVE_NO_SYMLINKS;
    }
    OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve)
}

/// How often a name is resolved anew. The kernel gives up (`EAGAIN`) when something anywhere was renamed or mounted
/// meanwhile; on a busy machine that passes within a few tries, and whoever renames on purpose must not stop us with one.
const OPEN_TRIES: usize = 128;

/// The system call of that name, tried again while the kernel asks for it.
///
/// # Errors
/// The kernel's, `EAGAIN` only after many tries.
pub fn openat2<P: ?Sized + NixPath>(directory: impl AsFd, path: &P, how: OpenHow) -> nix::Result<OwnedFd> {
    for _ in 1..OPEN_TRIES {
        match nix::fcntl::openat2(directory.as_fd(), path, how) {
            Err(Errno::EAGAIN) => {}
            other => return other,
        }
    }
    nix::fcntl::openat2(directory.as_fd(), path, how)
}

/// What is at a path, without opening it.
pub(crate) fn find(root: impl AsFd, path: &Path, links: Links) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    Ok(openat2(root, path, how(OFlag::O_PATH, links))?)
}

/// A file of the root, opened so that it cannot make us wait.
pub(crate) fn open_to_read(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    Ok(openat2(root, path, how(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY, Links::Follow))?)
}

/// A file of the root, opened to be written; no links lead there.
pub(crate) fn open_to_write(root: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    Ok(openat2(root, path, how(OFlag::O_WRONLY | OFlag::O_NOCTTY, Links::Refuse))?)
}

/// The directory at a path, made with those above it where it is missing.
pub(crate) fn directory(root: impl AsFd, path: &Path, links: Links) -> io::Result<OwnedFd> {
    let root = root.as_fd();
    match openat2(root, dotted(path), how(OFlag::O_PATH | OFlag::O_DIRECTORY, links)) {
        Ok(found) => return Ok(found),
        Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut at = find(root, Path::new("."), links)?;
    let mut done = std::path::PathBuf::new();
    for part in path.components() {
        let Component::Normal(part) = part else {
            if part == Component::ParentDir {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a path with .."));
            }
            continue;
        };
        match mkdirat(&at, part, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        done.push(part);
        // Again from the root: a part that is a link leads elsewhere, still within it.
        at = openat2(root, &done, how(OFlag::O_PATH | OFlag::O_DIRECTORY, links))?;
    }
    Ok(at)
}

fn dotted(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// Something to mount on: a directory or a file, as what is mounted is.
pub(crate) fn target(root: impl AsFd, path: &Path, like: impl AsFd) -> io::Result<OwnedFd> {
    let root = root.as_fd();
    if is_directory(like)? {
        return directory(root, path, Links::Follow);
    }
    match find(root, path, Links::Follow) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    let parent = directory(root, path.parent().unwrap_or(Path::new("")), Links::Follow)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_NOFOLLOW;
    openat2(
        &parent,
        name,
        OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .mode(Mode::from_bits_truncate(0o644))
            .resolve(ResolveFlag::RESOLVE_BENEATH),
    )?;
    find(root, path, Links::Follow)
}

/// Whether a descriptor is of a directory.
pub(crate) fn is_directory(fd: impl AsFd) -> io::Result<bool> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}

/// The container's null device, proven to be the kernel's: what hides a file must not be a file of the container's own
/// (CVE-2025-31133).
pub(crate) fn null_device(root: impl AsFd) -> io::Result<OwnedFd> {
    proven(find(root, Path::new("dev/null"), Links::Refuse)?)
}

/// The same, open for both ways. What is there is looked at before it is opened: opening alone may do something.
pub(crate) fn open_null(root: impl AsFd) -> io::Result<OwnedFd> {
    let root = root.as_fd();
    null_device(root)?;
    proven(openat2(root, "dev/null", how(OFlag::O_RDWR | OFlag::O_NOCTTY, Links::Refuse))?)
}

fn proven(found: OwnedFd) -> io::Result<OwnedFd> {
    if is_null(&fstat(&found)?) {
        return Ok(found);
    }
    Err(io::Error::other("/dev/null is not the null device"))
}

/// Whether a file is the null device, whosever node it is.
pub(crate) fn is_null(stat: &FileStat) -> bool {
    let character = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR;
    character && stat.st_rdev == libc::makedev(1, 3)
}

/// Hides what is at a path of the container, whose root is ours by now. What is not there needs no hiding.
pub(crate) fn mask(root: impl AsFd, null: impl AsFd, path: &Path) -> io::Result<()> {
    let target = match find(root, relative(path), Links::Refuse) {
        Ok(target) => target,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let cover = if is_directory(&target)? {
        let attributes =
            sys::attribute::RDONLY | sys::attribute::NOSUID | sys::attribute::NODEV | sys::attribute::NOEXEC;
        sys::new_mount(c"tmpfs", &[], attributes)?
    } else {
        sys::clone_tree_at(null, false)?
    };
    sys::move_mount(cover, target)
}

/// Makes what is at a path not writable, with all below it.
pub(crate) fn make_read_only(root: impl AsFd, path: &Path) -> io::Result<()> {
    let target = match find(root, relative(path), Links::Refuse) {
        Ok(target) => target,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let tree = sys::clone_tree_at(&target, true)?;
    sys::mount_setattr(&tree, true, sys::attribute::RDONLY, 0)?;
    sys::move_mount(tree, target)
}

/// A container's path from its root.
pub(crate) fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::symlink;

    #[test]
    fn targets_stay_in_the_root() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        symlink(outside.path(), inside.path().join("out")).unwrap();
        symlink("/real", inside.path().join("link")).unwrap();
        std::fs::create_dir(inside.path().join("real")).unwrap();
        let root = File::open(inside.path()).unwrap();
        // A link is read as the container would read it.
        directory(&root, Path::new("link/a/b"), Links::Follow).unwrap();
        assert!(inside.path().join("real/a/b").is_dir());
        let _ = directory(&root, Path::new("out/x"), Links::Follow);
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(directory(&root, Path::new("link/a"), Links::Refuse).is_err());
        assert!(
            directory(&root, Path::new("../x"), Links::Follow).is_err()
                || !inside.path().join("../x").exists()
        );
        let file = File::open("/dev/null").unwrap();
        target(&root, Path::new("etc/hosts"), &file).unwrap();
        assert!(inside.path().join("etc/hosts").is_file());
        std::fs::create_dir(inside.path().join("dev")).unwrap();
        std::fs::write(inside.path().join("dev/null"), "").unwrap();
        assert!(null_device(&root).is_err());
        std::fs::remove_file(inside.path().join("dev/null")).unwrap();
        symlink("/dev/zero", inside.path().join("dev/null")).unwrap();
        assert!(null_device(&root).is_err());
        assert!(open_null(&root).is_err());
        assert!(null_device(File::open("/").unwrap()).is_ok());
        let opened = open_null(File::open("/").unwrap()).unwrap();
        assert!(is_null(&fstat(&opened).unwrap()));
        assert_eq!(nix::unistd::write(&opened, b"x"), Ok(1));
        assert!(!is_null(&fstat(File::open("/dev/zero").unwrap()).unwrap()));
    }
}
