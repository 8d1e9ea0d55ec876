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
/// The name is that of something in `parent`: one that leads elsewhere (`.`, `..`, anything with a slash) or nowhere is
/// refused as `InvalidInput` before anything is touched.
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
    use std::thread;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use nix::sys::stat::{Mode, mkdirat};

    use super::*;

    /// What one descriptor a level would run into. The whole test process gets it, so it is above the usual 1024.
    const DESCRIPTORS: u64 = 2048;
    /// More than descriptors, and than names of one letter that a path holds (2048).
    const LEVELS: usize = 3000;
    /// No frame is small enough for `LEVELS` of them: 43 bytes each.
    const STACK: usize = 128 << 10;

    #[test]
    fn a_tree_deeper_than_paths_descriptors_and_stacks() {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, soft.min(DESCRIPTORS), hard).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tree");
        fs::create_dir(&path).unwrap();
        let mut at = File::open(&path).unwrap();
        for _ in 0..LEVELS {
            mkdirat(&at, "d", Mode::from_bits_truncate(0o700)).unwrap();
            at = open(at.as_fd(), OsStr::new("d")).unwrap();
        }
        drop(at);
        let removed = path.clone();
        let thread = thread::Builder::new().stack_size(STACK).spawn(move || tree(&removed)).unwrap();
        thread.join().unwrap().unwrap();
        assert!(!path.exists());
        assert_eq!(tree(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let parent = directory.path().join("parent");
        fs::create_dir_all(parent.join("a/b")).unwrap();
        fs::create_dir(directory.path().join("sibling")).unwrap();
        let absolute = parent.join("a");
        let open = File::open(&parent).unwrap();
        for name in ["", ".", "..", "/", "a/", "./a", "a/b", "a/..", "../sibling", absolute.to_str().unwrap()]
        {
            let error = tree_at(open.as_fd(), OsStr::new(name)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
        assert!(parent.join("a/b").is_dir() && directory.path().join("sibling").is_dir());
        tree_at(open.as_fd(), OsStr::new("a")).unwrap();
        assert!(!parent.join("a").exists());
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
