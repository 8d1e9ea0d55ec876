//! The process that owns one pod: it makes the pod's namespaces, starts its containers, keeps their terminals, logs and
//! exit codes, and answers the daemon over a unix socket. The daemon can stop, crash or be replaced meanwhile.
//!
//! It is single-threaded on purpose: it forks children that go on running this program's code (namespaces, mounts,
//! credentials) before they become somebody else's program, which only a process without other threads may do.
//!
//! - [`protocol`]: what the daemon asks and what it is answered; shared with the daemon.
//! - [`serve`](mod@serve): the loop that waits for everything at once.
//! - `sandbox`: the pod's namespaces. `launch`, `rootfs`, `layers`, `hooks`, `process`: a container's start. `log`: its output.
//! - [`oci`]: containers that runc or another runtime makes.
//! - [`userns`]: user namespaces of pods; a shim can be asked whether the machine has them.
//! - [`images`]: images as volumes; the daemon tries them when it makes a container.
//! - [`sysctl`]: the kernel settings that a pod may have; the daemon refuses the others with it.
//! - [`ending`]: a shim's end by the daemon's own hand, when it does not answer.
//! - [`remove`]: removal of what containers leave behind; for the daemon and the kubelet.
//! - `oom`: whether want of memory ended a container.
//! - [`cgroup`]: groups of both versions; the daemon reads usage through it.

pub mod cgroup;
mod containers;
pub mod devices;
pub mod ending;
mod hooks;
pub mod images;
mod launch;
mod layers;
mod log;
mod mounts;
pub mod oci;
mod oom;
mod process;
pub mod protocol;
pub mod remove;
mod rootfs;
mod sandbox;
pub mod serve;
mod streams;
mod sys;
pub mod sysctl;
pub mod userns;
mod users;

pub use log::Formatter;
pub use mounts::openat2;
pub use sys::load_file_system;
pub use users::{Identity, identity};
