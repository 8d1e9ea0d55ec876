//! Removal of what containers leave behind, however deep it is: one descriptor a level, or one stack frame, would let a
//! container take the daemon along.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, renameat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::openat2;

/// Names that are held at a time: a directory may have any number.
const BATCH: usize = 1024;

/// Removes a directory with all that is in it. Blocking.
///
/// Links are removed, not followed. What is mounted there belongs to somebody else and is left alone: it is an error
/// (`EXDEV`, or `EBUSY` for a file that something is mounted on).
pub fn tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    tree_at(File::open(parent)?.as_fd(), name)
}

/// The same for a name in an open directory.
///
/// Works on two levels only: directories of the second are moved up into the first before their parent is removed, so
/// that nothing is ever deeper than that.
///
/// # Errors
/// `InvalidInput` for a name that is not one entry of that directory: what it leads to is not the caller's to remove.
pub fn tree_at(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    if matches!(name.as_bytes(), b"" | b"." | b"..") || name.as_bytes().contains(&b'/') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let top = open(parent, name)?;
    let mut listing = Dir::from_fd(top.try_clone()?.into())?;
    let mut number = 0;
    loop {
        let names = some(&mut listing)?;
        if names.is_empty() {
            break;
        }
        for one in names {
            if unlink(&top, &one)? {
                continue;
            }
            let inner = open(top.as_fd(), &one)?;
            empty(&inner, &top, &mut number)?;
            unlinkat(&top, one.as_os_str(), UnlinkatFlags::RemoveDir)?;
        }
    }
    Ok(unlinkat(parent, name, UnlinkatFlags::RemoveDir)?)
}

/// Removes the files of a directory and moves its directories to `top`.
fn empty(inner: &File, top: &File, number: &mut u64) -> io::Result<()> {
    let mut listing = Dir::from_fd(inner.try_clone()?.into())?;
    loop {
        let names = some(&mut listing)?;
        if names.is_empty() {
            return Ok(());
        }
        for one in names {
            if !unlink(inner, &one)? {
                lift(inner, &one, top, number)?;
            }
        }
    }
}

fn lift(inner: &File, name: &OsStr, top: &File, number: &mut u64) -> io::Result<()> {
    loop {
        let free = format!(".{number}");
        *number += 1;
        match renameat(inner, name, top, free.as_str()) {
            // Something has that name.
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => {}
            other => return Ok(other?),
        }
    }
}

fn open(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(File::from(openat2(parent, name, how)?))
}

/// Whether a name is gone; it is not if it is a directory.
fn unlink(directory: &File, name: &OsStr) -> io::Result<bool> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::EISDIR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Some names of a directory, from its beginning; none if it is empty.
fn some(listing: &mut Dir) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    // Goes back to the beginning when it ends.
    for entry in listing.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
        if names.len() == BATCH {
            break;
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use nix::sys::resource::{Resource, setrlimit};
    use nix::sys::stat::{Mode, mkdirat};

    use super::*;

    /// Says that a process is the one below whose limits are low.
    const LIMITED: &str = "PODIUM_TEST_LIMITED";
    /// Descriptors that it may have; the harness holds some.
    const DESCRIPTORS: u64 = 64;
    /// Its stack: what one step needs fits, and with fewer than 22 bytes a level no frame each does.
    const STACK: usize = 64 << 10;
    /// Twice 3000 bytes is longer than a path may be (4096).
    const LEVELS: usize = 3000;

    /// How deep a tree has to be follows from the limits, so they are low; they hold for a whole process, so it has its own.
    #[test]
    fn a_tree_deeper_than_paths_descriptors_and_stacks() {
        if std::env::var_os(LIMITED).is_some() {
            setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS).unwrap();
            let limited = std::thread::Builder::new().stack_size(STACK).spawn(remove_deep_tree).unwrap();
            limited.join().unwrap();
            return;
        }
        let own = std::thread::current().name().unwrap().to_owned();
        let done = Command::new(std::env::current_exe().unwrap())
            .args([own.as_str(), "--exact", "--nocapture"])
            .env(LIMITED, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && said.contains("1 passed"), "{done:?}");
    }

    fn remove_deep_tree() {
        // In memory where that is possible: on a disk each directory's end waits for its own write, and how it is reached is the same.
        let memory = tempfile::tempdir_in("/dev/shm");
        let directory = memory.or_else(|_| tempfile::tempdir()).unwrap();
        let path = directory.path().join("tree");
        fs::create_dir(&path).unwrap();
        let mut at = File::open(&path).unwrap();
        for _ in 0..LEVELS {
            mkdirat(&at, "d", Mode::from_bits_truncate(0o700)).unwrap();
            at = open(at.as_fd(), OsStr::new("d")).unwrap();
        }
        drop(at);
        tree(&path).unwrap();
        assert!(!path.exists());
        assert_eq!(tree(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("inner");
        fs::create_dir_all(inner.join("a/b")).unwrap();
        let parent = File::open(&inner).unwrap();
        for name in ["", ".", "..", "a/b", "/", "a/", "../inner", "./a"] {
            let error = tree_at(parent.as_fd(), OsStr::new(name)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
        assert!(inner.join("a/b").is_dir());
        tree_at(parent.as_fd(), OsStr::new("a")).unwrap();
        assert!(inner.is_dir() && !inner.join("a").exists());
    }

    #[test]
    fn links_are_not_followed_and_names_that_are_taken_are_left() {
        let directory = tempfile::tempdir().unwrap();
        let outside = directory.path().join("outside");
        fs::create_dir_all(outside.join("kept")).unwrap();
        let path = directory.path().join("tree");
        for (level, count) in [("a", 3), ("a/b", BATCH + 3), (".0", 2), (".1/.0/.0", 2), ("a/b/c/d", 1)] {
            fs::create_dir_all(path.join(level)).unwrap();
            for number in 0..count {
                fs::write(path.join(level).join(format!("file{number}")), "x").unwrap();
            }
            symlink(&outside, path.join(level).join("link")).unwrap();
        }
        fs::write(path.join(".2"), "a file").unwrap();
        tree(&path).unwrap();
        assert!(!path.exists() && outside.join("kept").is_dir());
        symlink(&outside, &path).unwrap();
        assert!(tree(&path).is_err());
        assert!(outside.join("kept").is_dir());
    }
}
