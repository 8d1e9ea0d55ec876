//! A pod's user namespace: ids of its containers that are others on the host, so that root inside is nobody outside.
//!
//! The namespace is made by a child and held open by a descriptor. Files are shown in it by mounts that map ids, the host's
//! own files stay as they are. Source: KEP-127.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::protocol::{IdMaps, IdRange};
use crate::sandbox::{in_child, step};
use crate::sys;

/// A pod's user namespace.
#[derive(Debug)]
pub(crate) struct Users {
    pub(crate) namespace: OwnedFd,
    pub(crate) maps: IdMaps,
}

impl Users {
    /// Makes it.
    pub(crate) fn create(maps: &IdMaps) -> io::Result<Self> {
        let child = in_child(|| step("new user namespace", unshare(CloneFlags::CLONE_NEWUSER)))?;
        let place = format!("/proc/{}", child.pid);
        let made = (|| {
            // Groups first would be for those without privileges only: they have to give up `setgroups`.
            step("ids of users", fs::write(format!("{place}/uid_map"), lines(&maps.uids)))?;
            step("ids of groups", fs::write(format!("{place}/gid_map"), lines(&maps.gids)))?;
            File::open(format!("{place}/ns/user"))
        })();
        child.end();
        Ok(Self { namespace: made?.into(), maps: maps.clone() })
    }

    /// Enters it as its root, with every capability there and none outside.
    pub(crate) fn enter(&self) -> io::Result<()> {
        step("user namespace", sys::setns(&self.namespace, libc::CLONE_NEWUSER))?;
        become_root()
    }

    /// Root inside, as the host knows it.
    pub(crate) fn root(&self) -> (Uid, Gid) {
        (Uid::from_raw(self.maps.uid(0)), Gid::from_raw(self.maps.gid(0)))
    }

    /// Has a mount show its files with the ids that they have inside. Not what is mounted below it, as with runc: that may
    /// be of any kind.
    pub(crate) fn map(&self, tree: &OwnedFd) -> io::Result<()> {
        sys::map_ids(tree, &self.namespace).map_err(|error| {
            // What the kernel says of a file system that cannot.
            if error.raw_os_error() != Some(libc::EINVAL) {
                return error;
            }
            let text =
                format!("{error} (maybe the filesystem used doesn't support idmap mounts on this kernel?)");
            io::Error::new(io::ErrorKind::Unsupported, text)
        })
    }

    /// Streams of a process that will run inside belong to its root: it gives them to its user, and could not take them
    /// from somebody who is not inside.
    pub(crate) fn give(&self, streams: &[OwnedFd]) -> io::Result<()> {
        let (uid, gid) = self.root();
        for stream in streams {
            if crate::mounts::is_null(&nix::sys::stat::fstat(stream)?) {
                continue;
            }
            match nix::unistd::fchown(stream, Some(uid), Some(gid)) {
                Ok(())
                | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::EPERM | nix::errno::Errno::EROFS) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

/// Root of the user namespace that this process has just entered: until then it is somebody who is not inside. Changing the
/// user makes a process readable for that user: it hides again.
pub(crate) fn become_root() -> io::Result<()> {
    step("groups", setgroups(&[]))?;
    step("group", setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0)))?;
    step("user", setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)))?;
    step("hiding", sys::hide())
}

fn lines(ranges: &[IdRange]) -> String {
    ranges.iter().map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count)).collect()
}

/// Whether pods may have user namespaces here: the kernel makes them, and shows files of `directory` with other ids.
///
/// # Errors
/// What it cannot.
pub fn check(directory: &Path) -> io::Result<()> {
    let range = IdRange { inside: 0, outside: 65_536, count: 65_536 };
    let users = Users::create(&IdMaps { uids: vec![range], gids: vec![range] })?;
    step(&directory.display().to_string(), users.map(&sys::clone_tree(directory, false)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_inside_and_outside() {
        let maps = IdMaps {
            uids: vec![
                IdRange { inside: 0, outside: 100_000, count: 10 },
                IdRange { inside: 10, outside: 500, count: 1 },
            ],
            gids: vec![IdRange { inside: 0, outside: 200_000, count: 65_536 }],
        };
        assert_eq!(lines(&maps.uids), "0 100000 10\n10 500 1\n");
        assert_eq!([maps.uid(0), maps.uid(9), maps.uid(10), maps.gid(5)], [100_000, 100_009, 500, 200_005]);
        // Nobody's is what the kernel calls nobody's.
        assert_eq!(maps.uid(11), 65_534);
    }
}
