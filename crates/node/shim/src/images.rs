//! An image's files as a volume: its layers merged and read-only, or a part of them.
//!
//! They are mounted in the mount namespace of whoever looks and taken out of it by descriptor, so nothing of it is in the
//! host's mount table, and a container's volume goes with the container. Source: KEP-4639. From 1.33 on it asks for a
//! read-only mount, no longer for one without programs: programs in such a volume can run.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::layers;
use crate::mounts::{self, Links};
use crate::protocol::{Bind, ImageFiles};
use crate::sandbox::step;
use crate::sys::{self, attribute};
use crate::userns::Users;

/// Whether every image among the binds can be mounted, and has the part that is asked for. Tried in a mount namespace
/// that ends with the call; `place` is a directory to mount on there. Blocking.
///
/// # Errors
/// The first that cannot; the text names it.
pub fn check(binds: &[Bind], place: &Path) -> io::Result<()> {
    if binds.iter().all(|bind| bind.image.is_none()) {
        return Ok(());
    }
    // A thread has its own namespace and working directory when it asks for them, and both end with it.
    let tried = std::thread::scope(|scope| scope.spawn(|| try_all(binds, place)).join());
    tried.unwrap_or_else(|_| Err(io::Error::other("trying to mount an image broke off")))
}

fn try_all(binds: &[Bind], place: &Path) -> io::Result<()> {
    step("mount namespace", unshare(CloneFlags::CLONE_NEWNS))?;
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    step("mounts", mount(None::<&str>, "/", None::<&str>, flags, None::<&str>))?;
    for bind in binds {
        if let Some(files) = &bind.image {
            step(&what(bind), take(files, None, place))?;
        }
    }
    Ok(())
}

/// Which mount an error is about.
pub(crate) fn what(bind: &Bind) -> String {
    format!("mounting {:?} to {:?}", bind.source.display(), bind.target.display())
}

/// Mounts the files on `place`, takes what is asked for, and lets `place` go again. Changes the working directory. The
/// caller's mounts must not reach the host's.
pub(crate) fn take(files: &ImageFiles, users: Option<&Users>, place: &Path) -> io::Result<OwnedFd> {
    let put = layers::put(&files.base, &files.lower, None, users, place);
    let taken = put.and_then(|()| part(place, &files.sub_path));
    // With other ids there is one mount below the other.
    while umount2(place, MntFlags::MNT_DETACH).is_ok() {}
    taken
}

/// What is at a path of the files, as who has them for a root would read it: a link leads nowhere else.
fn part(place: &Path, sub_path: &Path) -> io::Result<OwnedFd> {
    let root = File::open(place)?;
    let found = step(
        &format!("sub path {:?}", sub_path.display()),
        mounts::find(&root, mounts::relative(sub_path), Links::Follow),
    )?;
    let tree = sys::clone_tree_at(found, false)?;
    sys::mount_setattr(&tree, false, attribute::RDONLY, libc::MS_PRIVATE)?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::{Mode, SFlag, mknod};

    use crate::protocol::Propagation;

    fn bind(base: &Path, lower: &[&str], sub_path: &str) -> Bind {
        Bind {
            source: "sha256:1".into(),
            image: Some(ImageFiles {
                base: base.to_owned(),
                lower: lower.iter().map(|name| (*name).to_owned()).collect(),
                sub_path: sub_path.into(),
            }),
            target: "/volume".into(),
            read_only: true,
            recursive_read_only: false,
            propagation: Propagation::Private,
            mapped: false,
        }
    }

    #[test]
    fn parts_of_an_image() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: mounting needs root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path();
        for name in ["one/etc", "one/gone", "two/srv", "place", "outside"] {
            fs::create_dir_all(base.join(name)).unwrap();
        }
        fs::write(base.join("one/etc/file"), "below").unwrap();
        // What the upper layer takes away.
        mknod(&base.join("two/gone"), SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
        symlink("/etc", base.join("two/absolute")).unwrap();
        symlink("../../../etc", base.join("two/climbing")).unwrap();
        symlink(base.join("outside"), base.join("two/out")).unwrap();
        let place = base.join("place");
        for (lower, sub_path, ok) in [
            (vec!["two", "one"], "", true),
            (vec!["two", "one"], "etc", true),
            (vec!["two", "one"], "etc/file", true),
            (vec!["two", "one"], "srv", true),
            (vec!["two", "one"], "gone", false),
            (vec!["two", "one"], "absent", false),
            (vec!["two", "one"], "etc/file/x", false),
            // Links are read inside: there is an `etc/file`, and nothing of the host's.
            (vec!["two", "one"], "absolute/file", true),
            (vec!["two", "one"], "absolute/passwd", false),
            (vec!["two", "one"], "climbing/file", true),
            (vec!["two", "one"], "out", false),
            (vec!["one"], "etc/file", true),
            (vec!["absent", "one"], "", false),
            (vec![], "", false),
        ] {
            let checked = check(&[bind(base, &lower, sub_path)], &place);
            assert_eq!(checked.is_ok(), ok, "{lower:?} {sub_path}: {checked:?}");
        }
        let error = check(&[bind(base, &["two", "one"], "absent")], &place).unwrap_err().to_string();
        assert!(
            error.starts_with("mounting \"sha256:1\" to \"/volume\": sub path \"absent\": No such file"),
            "{error}"
        );
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&base.display().to_string()), "nothing is left");
    }
}
