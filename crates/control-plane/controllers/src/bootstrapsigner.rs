//! Signs the cluster's public kubeconfig with every bootstrap token, so that a joining node can check what it was told.
//!
//! Source of behaviour: `pkg/controller/bootstrap/bootstrapsigner.go`. Off unless asked for, as upstream.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
