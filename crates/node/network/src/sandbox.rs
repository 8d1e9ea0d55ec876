//! The steps that give one pod its interface, and take it away.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

use crate::netlink::{Netlink, NetlinkError};
use crate::shape::Bandwidth;

/// What a pod's interface needs.
#[derive(Clone, Debug)]
pub struct Attachment<'a> {
    /// The bridge that holds the gateway's address.
    pub bridge: &'a str,
    /// The host's end of the pair.
    pub host_interface: &'a str,
    /// The pod's end, `eth0`.
    pub interface: &'a str,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// The bridge's address, the pod's only neighbour.
    pub gateway: Ipv4Addr,
    /// For both ends.
    pub mtu: u32,
    /// Whether the host reaches the pod from its loopback addresses, by a port of the host.
    pub loopback: bool,
    /// How fast the pod may send and receive.
    pub bandwidth: Bandwidth,
}

/// A pod could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The namespace file cannot be opened or entered.
    #[error("network namespace {path}")]
    Namespace {
        /// As the runtime gave it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The bridge is not there: the agent has not prepared the node.
    #[error("no bridge {0}: the node's network is not ready")]
    NoBridge(String),
    /// An interface that was just made is gone.
    #[error("interface {0} vanished while it was being set up")]
    Vanished(String),
    /// A kernel setting of the pod cannot be written.
    #[error("setting {path}")]
    Setting {
        /// Below `/proc/sys`.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a step.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The helper thread died.
    #[error("the namespace thread panicked")]
    Panicked,
}

/// Attaches a pod. Safe to repeat: a half-made pair of an earlier try is removed first. Returns the pod's hardware address.
///
/// The host's end is no port of the bridge but has a route of its own to the pod: where `br_netfilter` is on, it would take
/// connections to a Service from the host's IP layer and hand them from port to port.
pub fn attach(namespace: &Path, want: &Attachment<'_>) -> Result<String, SandboxError> {
    let file = open(namespace)?;
    let mut host = Netlink::open()?;
    if host.index_of(want.bridge)?.is_none() {
        return Err(SandboxError::NoBridge(want.bridge.to_owned()));
    }
    if let Some(stale) = host.index_of(want.host_interface)? {
        host.delete_link(stale)?;
    }
    host.add_veth(want.host_interface, want.interface, file.as_raw_fd(), want.mtu)?;
    let outcome = inside(namespace, &file, || configure_pod(want)).and_then(|mac| {
        let index = host
            .index_of(want.host_interface)?
            .ok_or_else(|| SandboxError::Vanished(want.host_interface.to_owned()))?;
        if want.loopback {
            set(&format!("net/ipv4/conf/{}/route_localnet", want.host_interface), "1")?;
        }
        if let Some(bucket) = want.bandwidth.ingress() {
            host.shape(index, bucket)?;
        }
        host.add_route(Some((want.address, 32)), None, index, Some(want.gateway))?;
        Ok(mac)
    });
    if outcome.is_err()
        && let Ok(Some(left)) = host.index_of(want.host_interface)
    {
        // Leave nothing behind that the runtime does not know of.
        let _ = host.delete_link(left);
    }
    outcome
}

/// Removes the host's end, and with it the pod's. What is gone already is fine.
pub fn detach(host_interface: &str) -> Result<(), SandboxError> {
    let mut host = Netlink::open()?;
    let Some(index) = host.index_of(host_interface)? else { return Ok(()) };
    match host.delete_link(index) {
        Err(error) if !error.missing() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Sets a namespace's loopback interface up.
pub fn loopback_up(namespace: &Path) -> Result<(), SandboxError> {
    let file = open(namespace)?;
    inside(namespace, &file, || {
        let mut netlink = Netlink::open()?;
        let index = netlink.index_of("lo")?.ok_or_else(|| SandboxError::Vanished("lo".to_owned()))?;
        Ok(netlink.set_up(index)?)
    })
}

/// Whether the pod's interface is there with its address's link up; for CNI's CHECK.
pub fn check(namespace: &Path, interface: &str) -> Result<bool, SandboxError> {
    let file = open(namespace)?;
    inside(namespace, &file, || Ok(Netlink::open()?.index_of(interface)?.is_some()))
}

fn open(namespace: &Path) -> Result<File, SandboxError> {
    File::open(namespace).map_err(|source| SandboxError::Namespace { path: namespace.to_owned(), source })
}

/// Runs `work` on a thread of its own inside the namespace: the caller's thread never changes its own.
fn inside<T: Send>(
    path: &Path,
    namespace: &File,
    work: impl FnOnce() -> Result<T, SandboxError> + Send,
) -> Result<T, SandboxError> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| SandboxError::Namespace { path: path.to_owned(), source: errno.into() })?;
            work()
        });
        thread.join().unwrap_or(Err(SandboxError::Panicked))
    })
}

fn configure_pod(want: &Attachment<'_>) -> Result<String, SandboxError> {
    // A router on the pod network must not be able to renumber or redirect a pod (CVE-2020-10749).
    for (setting, value) in [
        ("net/ipv6/conf/all/accept_ra", "0"),
        ("net/ipv6/conf/default/accept_ra", "0"),
        ("net/ipv4/conf/all/accept_redirects", "0"),
        ("net/ipv4/conf/default/accept_redirects", "0"),
    ] {
        set(setting, value)?;
    }
    set(&format!("net/ipv4/conf/{}/accept_redirects", want.interface), "0")?;
    set(&format!("net/ipv6/conf/{}/accept_ra", want.interface), "0")?;
    let mut pod = Netlink::open()?;
    let index =
        pod.index_of(want.interface)?.ok_or_else(|| SandboxError::Vanished(want.interface.to_owned()))?;
    if let Some(bucket) = want.bandwidth.egress() {
        pod.shape(index, bucket)?;
    }
    pod.set_up(index)?;
    pod.add_address(index, want.address, 32)?;
    pod.add_route(Some((want.gateway, 32)), None, index, None)?;
    pod.add_route(None, Some(want.gateway), index, Some(want.address))?;
    Ok(pod.hardware_address(want.interface)?.unwrap_or_default())
}

/// Writes a kernel setting of the current thread's network namespace. A kernel without IPv6 lacks some: that is fine.
pub(crate) fn set(setting: &str, value: &str) -> Result<(), SandboxError> {
    let path = format!("/proc/sys/{setting}");
    match std::fs::write(&path, value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && setting.contains("ipv6") => Ok(()),
        Err(source) => Err(SandboxError::Setting { path, source }),
        Ok(()) => Ok(()),
    }
}
