//! DaemonSet: one pod on every node that its template admits.
//!
//! Source of behaviour: `pkg/controller/daemon`. The scheduler binds the pods; each is made for its node by a required affinity
//! to the node's name.

mod decide;
mod pods;
mod shell;
mod status;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;

/// Label: the hash of the template that a pod was made from.
pub(crate) const HASH_LABEL: &str = "controller-revision-hash";
