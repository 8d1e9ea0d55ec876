//! `fsGroup`: gives a volume to its pod's group.
//!
//! What is in the volume belongs to containers, some of which may run and change it meanwhile: a file that becomes a link to
//! the host's must not have its owner changed there. So everything is opened first, without following links, and changed by
//! its descriptor; and no path, descriptor or stack grows with the depth of the tree.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    rc::Rc,
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open},
    sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat},
    unistd::{Gid, fchownat},
};

use super::sub_path::openat2;

/// How long a path may grow before what it leads to is held open instead: the kernel takes 4096 bytes.
const LONGEST_PATH: usize = 2048;

/// What is given to the pod's group, and when: `fsGroup` and `fsGroupChangePolicy`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    pub(crate) id: u32,
    /// Only if the volume's root does not have it.
    pub(crate) on_root_mismatch: bool,
}

/// Gives a volume to a group, as upstream does: everything in it, readable and writable as for its owner, and directories
/// hand their group on. The root is the last, so that an interrupted walk is begun anew by `OnRootMismatch`. Blocking.
pub(super) fn give(root: &Path, group: Group) -> io::Result<()> {
    // The path is the administrator's: links in it are followed.
    let top = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let found = fstat(&top)?;
    let is_directory = kind(&found) == SFlag::S_IFDIR;
    let wanted = if is_directory { 0o2070 } else { 0o060 };
    if group.on_root_mismatch && found.st_gid == group.id && found.st_mode & wanted == wanted {
        return Ok(());
    }
    let top = Rc::new(top);
    if is_directory {
        give_below(&top, group.id)?;
    }
    give_one(top.as_fd(), &found, group.id)
}

fn give_below(top: &Rc<OwnedFd>, group: u32) -> io::Result<()> {
    let mut waiting = vec![(top.clone(), PathBuf::new())];
    while let Some((mut base, mut path)) = waiting.pop() {
        let Some(directory) = unless_changed(open_directory(&base, &path))? else { continue };
        let directory = Rc::new(directory);
        if path.as_os_str().len() > LONGEST_PATH {
            (base, path) = (directory.clone(), PathBuf::new());
        }
        for entry in Dir::from_fd(directory.try_clone()?)?.iter() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let opened = nix::fcntl::openat(&*directory, name, flags, Mode::empty());
            let Some(opened) = unless_changed(opened)? else { continue };
            let found = fstat(&opened)?;
            give_one(opened.as_fd(), &found, group)?;
            if kind(&found) == SFlag::S_IFDIR {
                waiting.push((base.clone(), path.join(name)));
            }
        }
    }
    Ok(())
}

/// None for what went away or became something else meanwhile.
fn unless_changed<T>(outcome: nix::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn open_directory(base: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(base, path, how)
}

fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT
}

fn give_one(file: BorrowedFd<'_>, found: &FileStat, group: u32) -> io::Result<()> {
    // Changing the group takes setgid bits away: the mode comes after.
    fchownat(file, "", None, Some(Gid::from_raw(group)), AtFlags::AT_EMPTY_PATH)?;
    let more = match kind(found) {
        SFlag::S_IFLNK => return Ok(()),
        SFlag::S_IFDIR => 0o2770,
        _ => 0o660,
    };
    let mode = Mode::from_bits_truncate((found.st_mode | more) & 0o7777);
    // The kernel has no other way to change the mode of what is opened without its content.
    let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(fchmodat(file, itself.as_str(), mode, FchmodatFlags::FollowSymlink)?)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, symlink},
    };

    use nix::sys::stat::mkdirat;

    use super::*;

    const GROUP: Group = Group { id: 4242, on_root_mismatch: true };

    #[test]
    fn everything_is_given_and_nothing_else() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: owners need root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let (outside, root) = (directory.path().join("outside"), directory.path().join("root"));
        fs::create_dir_all(root.join("d")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), "x").unwrap();
        symlink(&outside, root.join("link")).unwrap();
        symlink(outside.join("secret"), root.join("d/link")).unwrap();
        // Deeper than any path.
        let name = "d".repeat(200);
        let mut at: OwnedFd = fs::File::open(root.join("d")).unwrap().into();
        for _ in 0..50 {
            mkdirat(&at, name.as_str(), Mode::S_IRWXU).unwrap();
            at = open_directory(&at, Path::new(&name)).unwrap();
        }
        give(&root, GROUP).unwrap();
        for path in [&root, &root.join("d")] {
            let found = fs::metadata(path).unwrap();
            assert_eq!((found.gid(), found.mode() & 0o2070), (4242, 0o2070), "{}", path.display());
        }
        let deepest = fstat(&at).unwrap();
        assert_eq!((deepest.st_gid, deepest.st_mode & 0o2070), (4242, 0o2070));
        assert_eq!(fs::symlink_metadata(root.join("link")).unwrap().gid(), 4242);
        for path in [&outside, &outside.join("secret")] {
            assert_eq!(fs::metadata(path).unwrap().gid(), 0, "{}", path.display());
        }
        // Its root has it: the rest is not looked at.
        fs::write(root.join("new"), "x").unwrap();
        std::os::unix::fs::chown(root.join("new"), None, Some(0)).unwrap();
        give(&root, GROUP).unwrap();
        assert_eq!(fs::metadata(root.join("new")).unwrap().gid(), 0);
        give(&root, Group { on_root_mismatch: false, ..GROUP }).unwrap();
        assert_eq!(fs::metadata(root.join("new")).unwrap().gid(), 4242);
        podium_shim::remove::tree(&root).unwrap();
    }
}
