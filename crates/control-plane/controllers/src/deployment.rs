//! Deployment: roll a pod template out through ReplicaSets, never with more or fewer pods than the strategy allows.
//!
//! Source of behaviour: `pkg/controller/deployment`. One difference on purpose: where upstream trusts a ReplicaSet's count of
//! available pods although its size has just been lowered, we count no more of them than the set is going to keep, so that two
//! writes in quick succession cannot take away the same pod twice.

mod decide;
mod plan;
mod revision;
mod rollback;
mod shell;
mod status;
mod strategy;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
#[cfg(test)]
pub(crate) use strategy::Strategy;
pub(crate) use strategy::scaled;
