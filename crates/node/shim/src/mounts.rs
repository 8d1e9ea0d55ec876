//! Places in a container's root and what is put on them, all by descriptor: names are resolved once, inside the root, and
//! what was found is what is mounted on, however the files change meanwhile (CVE-2021-25741 and its kin).

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, readlinkat};
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
    let place = walk(root, path, links, Missing::Make)?;
    Ok(openat2(root, dotted(&place), how(OFlag::O_PATH | OFlag::O_DIRECTORY, Links::Refuse))?)
}

/// What becomes of the last part of a path that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    /// A directory is made.
    Make,
    Leave,
}

/// Where a mount's path leads, without links; all directories above it are there.
pub(crate) fn place(root: impl AsFd, path: &Path) -> io::Result<PathBuf> {
    walk(root, path, Links::Follow, Missing::Leave)
}

/// The most links in a path, the kernel's number.
const LINKS_MAX: usize = 40;

/// Where a path leads, without links, and with all directories above it. Links lead to what is not there, too, as they would
/// in the container once it is made: images have `/var/run` without the `/run` that it leads to, and files in `/etc` that
/// something in `/run` is to be.
fn walk(root: impl AsFd, path: &Path, links: Links, last: Missing) -> io::Result<PathBuf> {
    let root = root.as_fd();
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a path with .."));
    }
    let mut left: VecDeque<OsString> = parts(path).collect();
    let (mut place, mut followed) = (PathBuf::new(), 0);
    while let Some(part) = left.pop_front() {
        if part == ".." {
            // Above the root is the root; and there are no links in what was gone so far.
            place.pop();
            continue;
        }
        let at = openat2(root, dotted(&place), how(OFlag::O_PATH | OFlag::O_DIRECTORY, Links::Refuse))?;
        let found = match openat2(&at, &*part, how(OFlag::O_PATH | OFlag::O_NOFOLLOW, Links::Refuse)) {
            Err(Errno::ENOENT) => {
                let made = match !left.is_empty() || last == Missing::Make {
                    true => mkdirat(&at, &*part, Mode::from_bits_truncate(0o755)),
                    false => Ok(()),
                };
                match made {
                    Ok(()) => place.push(part),
                    // Somebody else made something meanwhile: it is looked at like anything that is there.
                    Err(Errno::EEXIST) if followed < LINKS_MAX => {
                        followed += 1;
                        left.push_front(part);
                    }
                    Err(errno) => return Err(errno.into()),
                }
                continue;
            }
            found => found?,
        };
        if SFlag::from_bits_truncate(fstat(&found)?.st_mode) & SFlag::S_IFMT != SFlag::S_IFLNK {
            place.push(part);
            continue;
        }
        followed += 1;
        if links == Links::Refuse || followed > LINKS_MAX {
            return Err(Errno::ELOOP.into());
        }
        let target = PathBuf::from(readlinkat(&found, "")?);
        if target.is_absolute() {
            place.clear();
        }
        for part in parts(&target).rev() {
            left.push_front(part);
        }
    }
    Ok(place)
}

/// The parts of a path below its root, `..` among them.
fn parts(path: &Path) -> impl DoubleEndedIterator<Item = OsString> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

fn dotted(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// Something to mount on: a directory or a file, as what is mounted is. `place` is one of [`place`]: a link that has come
/// to be there since is not followed.
pub(crate) fn target(root: impl AsFd, place: &Path, like: impl AsFd) -> io::Result<OwnedFd> {
    let root = root.as_fd();
    if is_directory(like)? {
        return directory(root, place, Links::Refuse);
    }
    match find(root, place, Links::Refuse) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    let name = place.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = directory(root, place.parent().unwrap_or(Path::new("")), Links::Refuse)?;
    let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_NOFOLLOW;
    openat2(
        &parent,
        name,
        OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .mode(Mode::from_bits_truncate(0o644))
            .resolve(ResolveFlag::RESOLVE_BENEATH),
    )?;
    find(root, place, Links::Refuse)
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

    fn put(root: &File, path: &str, like: &File) -> io::Result<OwnedFd> {
        target(root, &place(root, Path::new(path))?, like)
    }

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
        put(&root, "etc/hosts", &file).unwrap();
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

    #[test]
    fn links_lead_to_what_is_not_there_yet_and_not_out() {
        let outside = tempfile::tempdir().unwrap();
        let inside = tempfile::tempdir().unwrap();
        let at = |path: &str| inside.path().join(path);
        std::fs::create_dir_all(at("var/deep")).unwrap();
        let up = format!("../../../../../../../../../..{}", outside.path().display());
        for (name, target) in [
            ("var/run", "/run"),
            ("var/deep/up", "../../new/./place"),
            ("abroad", outside.path().to_str().unwrap()),
            ("climbs", &up),
            ("one", "two"),
            ("two", "/one"),
            ("self", "self"),
        ] {
            symlink(target, at(name)).unwrap();
        }
        let root = File::open(inside.path()).unwrap();
        let file = File::open("/dev/null").unwrap();
        directory(&root, Path::new("var/run/secrets/token"), Links::Follow).unwrap();
        assert!(at("run/secrets/token").is_dir());
        directory(&root, Path::new("var/deep/up/x"), Links::Follow).unwrap();
        assert!(at("new/place/x").is_dir());
        // What is outside by name is inside for the container.
        for name in ["abroad", "climbs"] {
            directory(&root, &Path::new(name).join(name), Links::Follow).unwrap();
            put(&root, &format!("{name}/file"), &file).unwrap();
            assert!(directory(&root, &Path::new(name).join("y"), Links::Refuse).is_err());
        }
        let same = at(outside.path().strip_prefix("/").unwrap().to_str().unwrap());
        assert!(same.join("abroad").is_dir() && same.join("climbs").is_dir() && same.join("file").is_file());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        // A file that is a link to one that something is to make.
        std::fs::create_dir(at("etc")).unwrap();
        symlink("../run/resolve/stub.conf", at("etc/resolv.conf")).unwrap();
        put(&root, "etc/resolv.conf", &file).unwrap();
        assert!(at("run/resolve/stub.conf").is_file());
        symlink(outside.path().join("file"), at("etc/hosts")).unwrap();
        std::fs::remove_file(same.join("file")).unwrap();
        put(&root, "etc/hosts", &file).unwrap();
        assert!(same.join("file").is_file() && !outside.path().join("file").exists());
        // A link that takes the place of what was looked at is not followed.
        let looked = place(&root, Path::new("etc/late")).unwrap();
        symlink("/var/deep", at("etc/late")).unwrap();
        assert!(target(&root, &looked, &file).is_err());
        assert!(target(&root, &looked, File::open("/").unwrap()).is_err());
        // And those that lead nowhere end.
        for name in ["one", "self"] {
            assert!(directory(&root, Path::new(name), Links::Follow).is_err(), "{name}");
            assert!(put(&root, &format!("{name}/file"), &file).is_err(), "{name}");
        }
        assert!(
            directory(&root, Path::new("etc/hosts/below"), Links::Follow).is_err(),
            "a file is no directory"
        );
    }
}
