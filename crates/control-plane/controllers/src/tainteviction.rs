//! Ends pods on nodes with `NoExecute` taints that they do not tolerate, or not for ever.
//!
//! Source of behaviour: `pkg/controller/tainteviction`. The time a pod has left counts from when the taint was added, as the
//! taint itself says, so a restart of the controller does not give it more.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use decide::tolerates;
pub(crate) use shell::run;
