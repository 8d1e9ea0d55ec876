//! PodDisruptionBudgets: how many pods may be evicted at this moment.
//!
//! Source of behaviour: `pkg/controller/disruption`. How many pods controllers are to have is read from the caches of the built-in
//! kinds, and asked for through the `scale` subresource of others.

mod decide;
mod shell;
mod status;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
