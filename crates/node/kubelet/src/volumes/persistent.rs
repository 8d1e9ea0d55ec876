//! Puts claimed volumes into a pod's directory: paths of the host by bind mounts, file servers by mounts, devices by links.
//! What is there is found again after a restart, without the API. Blocking; safe to repeat.

use std::{
    fs, io,
    net::{IpAddr, ToSocketAddrs},
    os::unix::fs::{FileTypeExt, symlink},
    path::Path,
};

use nix::mount::{MsFlags, mount};

use super::{
    claims::{Backing, Claimed},
    host_path,
    ownership::{self, Group},
    sub_path,
};

/// Why a claimed volume cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PersistentError {
    #[error(transparent)]
    HostPath(#[from] host_path::HostPathError),
    #[error("path {0:?} does not exist")]
    Missing(String),
    #[error("path {0:?} is a device: making a file system on it is not supported by this kubelet")]
    Device(String),
    #[error("{0:?} is not a block device")]
    NotDevice(String),
    #[error("mount failed: {source}\nMounting arguments: -t nfs{options} {from} {to}")]
    Nfs { from: String, to: String, options: String, source: io::Error },
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Makes the volume's data appear at `target`.
pub(crate) fn ensure(claimed: &Claimed, target: &Path, group: Option<Group>) -> Result<(), PersistentError> {
    if claimed.block {
        return device(claimed, target);
    }
    if sub_path::is_mounted(target)? {
        return Ok(());
    }
    match &claimed.backing {
        Backing::HostPath { path, type_ } => {
            host_path::check(Path::new(path), type_)?;
            if type_.is_empty() && !Path::new(path).exists() {
                fs::create_dir_all(path)?;
            }
            bind(Path::new(path), target)?;
        }
        Backing::Local { path } => {
            let found = fs::metadata(path).map_err(|_| PersistentError::Missing(path.clone()))?;
            if found.file_type().is_block_device() {
                return Err(PersistentError::Device(path.clone()));
            }
            // First: what is mounted counts as done, also for a kubelet that was killed in between.
            if let Some(group) = group {
                ownership::give(Path::new(path), group)?;
            }
            bind(Path::new(path), target)?;
        }
        Backing::Nfs { server, path, read_only, options } => {
            fs::create_dir_all(target)?;
            nfs(server, path, *read_only, options, target)?;
        }
    }
    Ok(())
}

fn bind(source: &Path, target: &Path) -> io::Result<()> {
    if fs::metadata(source)?.is_dir() {
        fs::create_dir_all(target)?;
    } else {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::File::create(target)?;
    }
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    receive_only(target)
}

/// What is mounted below the host's path later appears in the volume, but what is unmounted in the volume (as all of it is in
/// the end) stays mounted on the host.
pub(crate) fn receive_only(target: &Path) -> io::Result<()> {
    mount(None::<&str>, target, None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)?;
    Ok(())
}

/// A link to the device, as upstream keeps one below `volumeDevices`.
fn device(claimed: &Claimed, target: &Path) -> Result<(), PersistentError> {
    let (Backing::HostPath { path, .. } | Backing::Local { path } | Backing::Nfs { path, .. }) =
        &claimed.backing;
    let found = fs::metadata(path).map_err(|_| PersistentError::Missing(path.clone()))?;
    if !found.file_type().is_block_device() {
        return Err(PersistentError::NotDevice(path.clone()));
    }
    if fs::read_link(target).is_ok_and(|there| there == Path::new(path)) {
        return Ok(());
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::remove_file(target) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => symlink(path, target)?,
    }
    Ok(())
}

/// Mounts a directory of a file server. The kernel wants the server's address where `mount.nfs` would look it up.
fn nfs(
    server: &str,
    path: &str,
    read_only: bool,
    options: &[String],
    target: &Path,
) -> Result<(), PersistentError> {
    let from = format!("{server}:{path}");
    let shown = if options.is_empty() { String::new() } else { format!(" -o {}", options.join(",")) };
    let failed = |source| PersistentError::Nfs {
        from: from.clone(),
        to: target.display().to_string(),
        options: shown.clone(),
        source,
    };
    let host = server.trim_start_matches('[').trim_end_matches(']');
    let address: IpAddr = match host.parse() {
        Ok(address) => address,
        Err(_) => {
            let mut found = (host, 2049).to_socket_addrs().map_err(failed)?;
            found.next().ok_or_else(|| failed(io::Error::other("the server's name has no address")))?.ip()
        }
    };
    let flags = if read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    let chosen = options.iter().any(|option| option.starts_with("vers=") || option.starts_with("nfsvers="));
    let versions: &[&str] = if chosen { &[""] } else { &["vers=4.2", "vers=4.1", "vers=4.0", "vers=3"] };
    let mut last = io::Error::other("no version to try");
    for version in versions {
        let mut all = vec![format!("addr={address}")];
        all.extend(options.iter().filter(|option| !matches!(option.as_str(), "rw" | "ro")).cloned());
        if !version.is_empty() {
            all.push((*version).to_owned());
        }
        match mount(Some(from.as_str()), target, Some("nfs"), flags, Some(all.join(",").as_str())) {
            Ok(()) => return Ok(()),
            // The server does not speak this version; another error would be the same for all.
            Err(nix::errno::Errno::EPROTONOSUPPORT | nix::errno::Errno::EINVAL) => {
                last = nix::errno::Errno::EPROTONOSUPPORT.into();
            }
            Err(error) => return Err(failed(error.into())),
        }
    }
    Err(failed(last))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn local(path: &Path, block: bool) -> Claimed {
        Claimed { name: "pv".into(), backing: Backing::Local { path: path.display().to_string() }, block }
    }

    #[test]
    fn a_local_volume_takes_the_group() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: mounts need root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let (data, target) = (directory.path().join("data"), directory.path().join("pod/v"));
        fs::create_dir_all(data.join("deep")).unwrap();
        fs::write(data.join("deep/file"), "x").unwrap();
        symlink("/etc/passwd", data.join("link")).unwrap();
        let before = fs::metadata("/etc/passwd").unwrap();
        let group = Some(Group { id: 4242, on_root_mismatch: false });
        ensure(&local(&data, false), &target, group).unwrap();
        ensure(&local(&data, false), &target, group).unwrap();
        assert_eq!(fs::read_to_string(target.join("deep/file")).unwrap(), "x");
        let file = fs::metadata(data.join("deep/file")).unwrap();
        assert_eq!((file.gid(), file.mode() & 0o060), (4242, 0o060));
        assert_eq!(fs::metadata(&data).unwrap().mode() & 0o2070, 0o2070);
        let after = fs::metadata("/etc/passwd").unwrap();
        assert_eq!((before.gid(), before.mode()), (after.gid(), after.mode()));
        // What is mounted on the host below the path survives the volume's end.
        mount(Some("tmpfs"), &data.join("deep"), Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        sub_path::unmount_below(&directory.path().join("pod")).unwrap();
        assert!(sub_path::is_mounted(&data.join("deep")).unwrap());
        sub_path::unmount_below(directory.path()).unwrap();
        assert!(data.join("deep/file").exists() && !target.join("deep").exists());
    }

    #[test]
    fn what_is_not_there_or_no_device() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("v");
        let gone = directory.path().join("gone");
        let error = ensure(&local(&gone, false), &target, None).unwrap_err().to_string();
        assert!(error.ends_with("does not exist"), "{error}");
        let error = ensure(&local(directory.path(), true), &target, None).unwrap_err().to_string();
        assert!(error.ends_with("is not a block device"), "{error}");
        assert!(!target.exists());
    }

    #[test]
    fn a_file_server_that_is_not_there() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: mounts need root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let backing = Backing::Nfs {
            // Nobody listens there: the kernel refuses at once, with or without a client for NFS.
            server: "127.0.0.1".into(),
            path: "/x".into(),
            read_only: true,
            options: vec!["vers=4.2".into(), "soft".into(), "retrans=0".into(), "timeo=1".into()],
        };
        let claimed = Claimed { name: "pv".into(), backing, block: false };
        let error = ensure(&claimed, &directory.path().join("v"), None).unwrap_err().to_string();
        assert!(error.contains("mount failed: ") && error.contains("-t nfs -o vers=4.2,soft"), "{error}");
    }
}
