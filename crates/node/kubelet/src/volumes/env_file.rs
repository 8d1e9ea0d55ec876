//! Reads a small file of a volume whose owner is not to be trusted: the source of `fileKeyRef`.
//!
//! A container may have put anything there, and may change it while we look. So the name is resolved by the kernel with the
//! volume as its root, what is there is looked at before it is opened, and no more is read than such a file may have.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open},
    sys::stat::Mode,
};

use super::sub_path::openat2;

/// The longest file. Source: KEP-3721.
const MAX_BYTES: u64 = 64 << 10;

/// The content of the file at `path` of the volume at `root`; None if there is no such file. Blocking, never for long.
///
/// Links lead to where they would if the volume were the whole world, as upstream has it. Where something is mounted in the
/// volume the way ends: a file server there could keep us waiting.
pub(crate) fn read(root: &Path, path: &str) -> io::Result<Option<Vec<u8>>> {
    // Opened for looking at only: neither a device nor a pipe notices.
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let base = open(root, flags | OFlag::O_DIRECTORY, Mode::empty())?;
    let within =
        ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let found = match openat2(&base, path, OpenHow::new().flags(flags).resolve(within)) {
        Ok(found) => found,
        Err(Errno::ENOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let found = File::from(found);
    if !found.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    // Without waiting, for a container can hold a lease on its file.
    let place = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(place)?;
    let mut content = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("the file is larger than {MAX_BYTES} bytes")));
    }
    Ok(Some(content))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, os::unix::net::UnixListener};

    use nix::sys::stat::SFlag;

    use super::*;

    fn volume() -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("volume");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(directory.path().join("secret"), "K='outside'").unwrap();
        fs::write(root.join("sub/file"), "K='inside'").unwrap();
        (directory, root)
    }

    #[track_caller]
    fn check(root: &Path, path: &str, expected: Result<Option<&str>, &str>) {
        let found = read(root, path).map(|content| content.map(|bytes| String::from_utf8(bytes).unwrap()));
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.as_deref(), expected, "{path}"),
            (Err(error), Err(why)) => assert!(error.to_string().contains(why), "{path}: {error} lacks {why}"),
            (found, expected) => panic!("{path}: {found:?}, not {expected:?}"),
        }
    }

    #[test]
    fn nothing_outside_the_volume_is_read() {
        let (directory, root) = volume();
        let outside = directory.path().join("secret");
        symlink(&outside, root.join("absolute")).unwrap();
        symlink("../secret", root.join("relative")).unwrap();
        symlink(directory.path(), root.join("above")).unwrap();
        symlink("/proc/self/root/etc/passwd", root.join("magic")).unwrap();
        symlink("circle", root.join("circle")).unwrap();
        symlink("sub/file", root.join("near")).unwrap();
        symlink("/sub/file", root.join("from_root")).unwrap();
        for path in [
            "absolute",
            "relative",
            "above/secret",
            "../secret",
            "sub/../../secret",
            "magic",
            "gone",
            "gone/x",
        ] {
            check(&root, path, Ok(None));
        }
        for path in ["sub/file", "near", "from_root", "/sub/file", "../sub/file"] {
            check(&root, path, Ok(Some("K='inside'")));
        }
        check(&root, "circle", Err("Too many levels of symbolic links"));
        check(&root, "sub/file/x", Err("Not a directory"));
    }

    #[test]
    fn nothing_hangs_that_is_no_file() {
        let (_directory, root) = volume();
        nix::unistd::mkfifo(&root.join("pipe"), Mode::from_bits_truncate(0o666)).unwrap();
        let _socket = UnixListener::bind(root.join("socket")).unwrap();
        for path in ["pipe", "socket", "sub", "."] {
            check(&root, path, Err("not a regular file"));
        }
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: devices and mounts need root");
            return;
        }
        let zero = nix::sys::stat::makedev(1, 5);
        nix::sys::stat::mknod(&root.join("zero"), SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), zero)
            .unwrap();
        check(&root, "zero", Err("not a regular file"));
        let mounted = root.join("mounted");
        fs::create_dir(&mounted).unwrap();
        nix::mount::mount(Some("/proc"), &mounted, None::<&str>, nix::mount::MsFlags::MS_BIND, None::<&str>)
            .unwrap();
        let outcome = read(&root, "mounted/version");
        crate::volumes::sub_path::unmount_below(&root).unwrap();
        assert!(outcome.unwrap_err().to_string().contains("Invalid cross-device link"));
    }

    #[test]
    fn a_lease_is_not_waited_for() {
        /// Linux' number, which the crate `libc` does not have.
        const F_SETSIG: libc::c_int = 10;
        let (_directory, root) = volume();
        let held = OpenOptions::new().write(true).open(root.join("sub/file")).unwrap();
        // SAFETY: the descriptor is open, and both commands take a number. The holder is told by SIGURG, which nobody minds.
        #[allow(unsafe_code)]
        let taken = unsafe {
            libc::fcntl(held.as_raw_fd(), F_SETSIG, libc::SIGURG);
            libc::fcntl(held.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK)
        };
        if taken != 0 {
            println!("skipped: this file system has no leases");
            return;
        }
        assert_eq!(read(&root, "sub/file").unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_length_is_bounded() {
        let (_directory, root) = volume();
        let most = "a".repeat(usize::try_from(MAX_BYTES).unwrap());
        fs::write(root.join("most"), &most).unwrap();
        check(&root, "most", Ok(Some(most.as_str())));
        fs::write(root.join("more"), format!("{most}a")).unwrap();
        check(&root, "more", Err("the file is larger than 65536 bytes"));
        File::create(root.join("holes")).unwrap().set_len(1 << 40).unwrap();
        check(&root, "holes", Err("the file is larger than 65536 bytes"));
        check(&root.join("gone"), "most", Err("No such file or directory"));
    }
}
