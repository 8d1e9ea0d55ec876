//! Tells kubelets how long they may keep Secrets and ConfigMaps, by the size of the cluster.
//!
//! Source of behaviour: `pkg/controller/ttl`.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
