//! Layers laid over each other. They are named to the kernel by descriptors: it takes one page of mount options, which any
//! number of layers fits then, whatever they are called, and no path of the host's shows in the mount table.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{chdir, fchownat};

use crate::sandbox::step;
use crate::sys;
use crate::userns::Users;

/// Where changes go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writable<'a> {
    pub(crate) upper: &'a Path,
    /// On the same file system as `upper`.
    pub(crate) work: &'a Path,
}

/// Mounts layers on `place`, read-only unless there is something to write to. `lower` are directories in `base`, uppermost
/// first; with `users` their files have the ids that they have in that namespace, and what is written is written with the
/// host's. Changes the working directory.
pub(crate) fn put(
    base: &Path,
    lower: &[String],
    to: Option<Writable<'_>>,
    users: Option<&Users>,
    place: &Path,
) -> io::Result<()> {
    let base = File::open(base)?;
    let open = |name: &Path| -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(&base, name, flags, Mode::empty())?)
    };
    let layers: Vec<OwnedFd> = lower.iter().map(|name| open(Path::new(name))).collect::<io::Result<_>>()?;
    let layers = match users {
        Some(users) => mapped(&layers, users, place)?,
        None => layers,
    };
    let names: Vec<String> = layers.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    chdir("/proc/self/fd")?;
    match (names.as_slice(), to) {
        ([], _) => Err(io::Error::new(io::ErrorKind::InvalidInput, "an image without layers")),
        // The kernel merges no fewer than two.
        ([only], None) => {
            Ok(mount(Some(only.as_str()), place, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
        }
        (names, None) => overlay(place, MsFlags::MS_RDONLY, &format!("lowerdir={}", names.join(":"))),
        (names, Some(to)) => {
            let (upper, work) = (open(to.upper)?, open(to.work)?);
            if let Some(users) = users {
                let (uid, gid) = users.root();
                let nothing = AtFlags::AT_EMPTY_PATH;
                step("owner of the root", fchownat(&upper, "", Some(uid), Some(gid), nothing))?;
            }
            let (upper, work) = (upper.as_raw_fd(), work.as_raw_fd());
            let options = format!("lowerdir={},upperdir={upper},workdir={work}", names.join(":"));
            overlay(place, MsFlags::empty(), &options)
        }
    }
}

/// The same directories seen with a namespace's ids. They are mounted below `place`, which another mount covers then:
/// kernels before 6.15 merge nothing that is not mounted.
fn mapped(layers: &[OwnedFd], users: &Users, place: &Path) -> io::Result<Vec<OwnedFd>> {
    sys::move_mount(sys::new_mount(c"tmpfs", &[("mode", Some("700"))], 0)?, File::open(place)?)?;
    let above = File::open(place)?;
    let one = |(number, layer): (usize, &OwnedFd)| -> io::Result<OwnedFd> {
        let tree = sys::clone_tree_at(layer, false)?;
        users.map(&tree)?;
        let name = number.to_string();
        mkdirat(&above, name.as_str(), Mode::from_bits_truncate(0o700))?;
        let open = || openat(&above, name.as_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
        sys::move_mount(tree, open()?)?;
        Ok(open()?)
    };
    step("layers with other ids", layers.iter().enumerate().map(one).collect())
}

fn overlay(place: &Path, flags: MsFlags, options: &str) -> io::Result<()> {
    Ok(mount(Some("overlay"), place, Some("overlay"), flags, Some(options))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::mount::MntFlags;
    use nix::sched::{CloneFlags, unshare};

    #[test]
    fn as_many_layers_as_an_image_may_have() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: mounting needs root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let names: Vec<String> = (0..127).map(|number| format!("{number:064}")).collect();
        for name in names.iter().map(String::as_str).chain(["upper", "work", "place"]) {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::write(at(&names[126]).join("lowest"), "x").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNS).unwrap();
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
                let (upper, work) = (at("upper"), at("work"));
                let to = Writable { upper: &upper, work: &work };
                put(directory.path(), &names, Some(to), None, &at("place")).unwrap();
                assert_eq!(std::fs::read_to_string(at("place/lowest")).unwrap(), "x");
                std::fs::write(at("place/new"), "y").unwrap();
                nix::mount::umount2(&at("place"), MntFlags::MNT_DETACH).unwrap();
                put(directory.path(), &names, None, None, &at("place")).unwrap();
                assert!(std::fs::write(at("place/new"), "y").is_err(), "read-only");
            });
        });
        assert_eq!(std::fs::read_to_string(at("upper/new")).unwrap(), "y");
    }
}
