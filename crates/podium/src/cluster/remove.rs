//! Taking a cluster away: its containers, what it put into the kernel, its files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use podium_cri::Cri;
use podium_network::netlink::Netlink;
use podium_network::{nft, routes};
use podium_systemd::Systemd;

use crate::containerd::Containerd;
use crate::layout::Layout;
use crate::runtime::{self, Choice};

/// Why pods are stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The cluster goes on later.
    Rest,
    /// The cluster is to go: what cannot be done for one pod must not keep everything else.
    Removal,
}

/// Stops all pods and the runtime, and takes bridge and rules out of the kernel.
pub(crate) fn stop_pods(layout: &Layout, purpose: Purpose) -> Result<()> {
    let containerd = Containerd::new(layout);
    let tasks = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // Both by what runs, not by what was chosen: the choice may have changed under the pods.
    if containerd.running().is_some() {
        tasks.block_on(remove_sandboxes(&Choice::Containerd.endpoint(layout)))?;
        containerd.stop()?;
    }
    if runtime::has_shims(layout) {
        let endpoint = Choice::Podium.endpoint(layout);
        let stop = |config| tasks.block_on(runtime::meanwhile(config, remove_sandboxes(&endpoint)));
        match stop(runtime::config(layout)) {
            Err(error) if purpose == Purpose::Removal => {
                eprintln!("podium: {error:#}; once more, without taking networks of pods down");
                stop(podium_runtime::Config { gives_networks_up: true, ..runtime::config(layout) })?;
            }
            other => other?,
        }
    }
    take_network_down(layout)
}

/// Takes rules, routes and bridge out of the kernel.
fn take_network_down(layout: &Layout) -> Result<()> {
    for table in [layout.network_table(), layout.proxy_table()] {
        // Naming it first makes the deletion of one that is not there no error.
        if let Err(error) = nft::apply(&format!("table ip {table}\ndelete table ip {table}\n")) {
            eprintln!("podium: rules of {table} not removed: {error}");
        }
    }
    routes::install(&layout.routes(), &routes::Routes::new())?;
    let mut netlink = Netlink::open()?;
    if let Some(index) = netlink.index_of(&layout.bridge())? {
        netlink.delete_link(index)?;
    }
    Ok(())
}

/// Takes away what is left, in the kernel and under `/run`, of a cluster whose data directory is gone: nobody can reset it any
/// more, and nothing of it can come back.
pub(crate) fn forget(layout: &Layout) -> Result<()> {
    if crate::commands::daemon(layout).is_some() || Containerd::new(layout).running().is_some() {
        bail!("it still runs");
    }
    if has_live_shims(&layout.run()) {
        bail!("its pods still run");
    }
    take_network_down(layout)?;
    remove_cgroups(&layout.cgroup_root())?;
    remove_directory(&layout.run())
}

/// Whether a shim answers: one that was killed leaves its socket.
fn has_live_shims(run: &Path) -> bool {
    let sockets = std::fs::read_dir(run.join("s")).into_iter().flatten().flatten();
    sockets.into_iter().any(|socket| std::os::unix::net::UnixStream::connect(socket.path()).is_ok())
}

async fn remove_sandboxes(endpoint: &str) -> Result<()> {
    let cri = Cri::connect(endpoint)?;
    let sandboxes = cri.list_pod_sandbox(podium_cri::v1::ListPodSandboxRequest::default()).await?.items;
    for sandbox in sandboxes {
        let id = sandbox.id;
        cri.stop_pod_sandbox(podium_cri::v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await?;
        cri.remove_pod_sandbox(podium_cri::v1::RemovePodSandboxRequest { pod_sandbox_id: id }).await?;
    }
    Ok(())
}

/// Deletes the cluster's files. Pods must have been stopped.
pub(crate) fn remove(layout: &Layout) -> Result<()> {
    withdraw_delay(&layout.kubelet(), &podium_kubelet::LogindPlaces::default())?;
    remove_cgroups(&layout.cgroup_root())?;
    remove_directory(&layout.run())?;
    remove_directory(&layout.data)
}

/// Takes the time away that the login manager gives a kubelet which is no more.
fn withdraw_delay(kubelet: &Path, logind: &podium_kubelet::LogindPlaces) -> Result<()> {
    let tasks = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let withdrawn = tasks.block_on(logind.withdraw(kubelet));
    withdrawn.map(drop).with_context(|| format!("remove the drop-in below {}", logind.drop_ins.display()))
}

fn remove_directory(directory: &Path) -> Result<()> {
    unmount_below(directory)?;
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("delete {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// Unmounts everything below a directory. Deleting goes on only if nothing is left: what is mounted there may be a
/// person's own files.
fn unmount_below(directory: &Path) -> Result<()> {
    for mount in mounts_below(directory)?.iter().rev() {
        // Lazily: a process that still has a file open keeps it, and only it.
        let _ = umount2(mount, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    }
    match mounts_below(directory)?.first() {
        Some(left) => bail!("{} is still mounted: unmount it, then run this again", left.display()),
        None => Ok(()),
    }
}

/// Mount points below a directory, outer ones first.
fn mounts_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("list mounts")?;
    Ok(parse_mounts(&table, directory))
}

fn parse_mounts(table: &str, directory: &Path) -> Vec<PathBuf> {
    // The fifth column; blanks and the like are written as octal escapes.
    let unescape = |text: &str| {
        text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
    };
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(unescape(path)))
        .filter(|path| path.starts_with(directory) && path != directory)
        .collect()
}

/// Removes the empty cgroups that pods left, in every hierarchy. Those still in use stay.
fn remove_cgroups(root: &str) -> Result<()> {
    let name = root.trim_start_matches('/');
    groups(name).iter().for_each(|group| remove_empty(group));
    let slice = podium_systemd::names::path(&[name]);
    let slice = slice.trim_start_matches('/');
    if let Ok(systemd) = Systemd::of_machine()
        && groups(slice).iter().any(|group| group.is_dir())
    {
        // What is below it stops with it.
        let tasks = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tasks.block_on(systemd.stop(slice)).with_context(|| format!("stop {slice}"))?;
    }
    Ok(())
}

/// Where a group of that name may be: in each hierarchy.
fn groups(name: &str) -> Vec<PathBuf> {
    let mut places = vec![Path::new("/sys/fs/cgroup").join(name)];
    if let Ok(hierarchies) = std::fs::read_dir("/sys/fs/cgroup") {
        places.extend(hierarchies.flatten().map(|entry| entry.path().join(name)));
    }
    places
}

fn remove_empty(cgroup: &Path) {
    if let Ok(children) = std::fs::read_dir(cgroup) {
        for child in children.flatten().filter(|entry| entry.path().is_dir()) {
            remove_empty(&child.path());
        }
    }
    let _ = std::fs::remove_dir(cgroup);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_login_managers_drop_in_goes_if_it_is_ours() {
        let directory = tempfile::tempdir().unwrap();
        let (kubelet, drop_ins) = (directory.path().join("kubelet"), directory.path().join("logind.conf.d"));
        let logind = podium_kubelet::LogindPlaces { bus: directory.path().join("bus"), drop_ins };
        let drop_in = logind.drop_ins.join("99-kubelet.conf");
        withdraw_delay(&kubelet, &logind).unwrap();
        for made in [&kubelet, &logind.drop_ins] {
            std::fs::create_dir(made).unwrap();
        }
        std::fs::write(&drop_in, "ours").unwrap();
        withdraw_delay(&kubelet, &logind).unwrap();
        assert!(drop_in.exists(), "nobody says that it is");
        std::fs::write(kubelet.join("logind-drop-in"), "ours").unwrap();
        withdraw_delay(&kubelet, &logind).unwrap();
        assert!(!drop_in.exists());
    }

    #[test]
    fn finds_mounts_below_and_nothing_else() {
        let table = "30 1 0:1 / / rw - ext4 /dev/a rw\n\
                     31 30 0:2 / /data/kubelet/pods/x rw - tmpfs tmpfs rw\n\
                     32 31 0:3 / /data/kubelet/pods/x/a\\040b rw - tmpfs tmpfs rw\n\
                     33 30 0:4 / /database rw - tmpfs tmpfs rw\n\
                     34 30 0:5 / /data rw - ext4 /dev/b rw\n";
        let found = parse_mounts(table, Path::new("/data"));
        assert_eq!(found, [Path::new("/data/kubelet/pods/x"), Path::new("/data/kubelet/pods/x/a b")]);
    }
}
