//! PodDisruptionBudgets: how many pods may be evicted at this moment.
//!
//! Source of behaviour: `pkg/controller/disruption`. The number of pods expected is known for the built-in controllers; for pods
//! of others, which upstream asks through their scale subresource, percentages and `maxUnavailable` are refused with an event.

mod decide;
mod shell;
mod status;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
