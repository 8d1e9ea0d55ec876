//! A container runtime behind CRI v1: images, pods, containers, without any other program.
//!
//! The daemon's part is here and may come and go; what must not go is held by one shim per pod (`podium-shim`). The daemon
//! keeps on disk what CRI told it, asks the shims for the rest when it starts, and so loses nothing by a crash.
//!
//! - `images`: content, layers, records. `registry`: where images come from.
//! - `cdi`: devices by name.
//! - `spec`, `seccomp`, `capabilities`: a container's configuration as a specification; pure.
//! - `handlers`: other OCI runtimes by name. `oci`: a specification as they read it; pure.
//! - `core`, `sandbox`, `container`: the life of pods and containers. `shim`: talking to shims. `cni`: pod networks.
//! - `scopes`: cgroups that systemd makes. `remove`: the end of directories. `service`: the CRI calls. `streaming`: exec,
//!   attach and port-forward. `stats`: usage.

mod capabilities;
mod cdi;
mod cni;
mod container;
mod core;
mod handlers;
mod images;
mod limits;
mod oci;
mod registry;
mod remove;
mod sandbox;
mod scopes;
mod seccomp;
mod service;
mod shim;
mod spec;
mod state;
mod stats;
mod streaming;

use std::path::PathBuf;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

pub use cdi::DIRECTORIES as CDI_DIRECTORIES;
pub use core::Error;
pub use podium_systemd::{NotHere, Systemd};

/// What a runtime is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it keeps images and containers.
    pub root: PathBuf,
    /// Where sockets are; a path's length is bounded there, and it need not outlive a boot.
    pub run: PathBuf,
    /// The socket of the CRI.
    pub socket: PathBuf,
    /// CNI configurations.
    pub cni_configuration: PathBuf,
    /// CNI plugins.
    pub cni_plugins: PathBuf,
    /// How registries are reached: a directory of `HOST/hosts.toml`.
    pub registries: PathBuf,
    /// Handlers beside our own: a file that names programs of other OCI runtimes. It need not be there.
    pub handlers: PathBuf,
    /// Where files about devices by name are (CDI), the more important directory last.
    pub cdi: Vec<PathBuf>,
    /// Who makes cgroups: the cgroup driver `systemd`, or we (`cgroupfs`).
    pub systemd: Option<Systemd>,
    /// Whether a pod may end although the CNI plugin fails to take its network down: only where the network itself goes next.
    pub gives_networks_up: bool,
    /// Its version, as it is told to clients.
    pub version: String,
}

/// Serves CRI until told to stop. `ready` is called when the socket answers. Pods stay as they are when it returns.
///
/// # Errors
/// It cannot start: the socket, the directories, or cgroups are not to be had.
// Boxed here, or every program and every test would generate the whole runtime's code again.
pub fn run(
    config: Config,
    ready: impl FnOnce() + Send + 'static,
    shutdown: CancellationToken,
) -> BoxFuture<'static, Result<(), Error>> {
    Box::pin(service::serve(config, Box::new(ready), shutdown))
}
