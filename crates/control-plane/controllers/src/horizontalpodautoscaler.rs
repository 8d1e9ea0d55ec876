//! Scales whatever has a scale by what its pods use, or by other figures.
//!
//! Source of behaviour: `pkg/controller/podautoscaler`. Every autoscaler is looked at again and again: figures cannot be watched.
//! What was recommended and done in the last minutes is remembered here only, as upstream has it: after a restart, windows of
//! stabilisation begin anew. Absent: scaling to zero, which is an alpha feature.

mod behavior;
mod decide;
mod figures;
mod replicas;
mod shell;
mod status;
#[cfg(test)]
mod tests;
mod usage;

use std::time::Duration;

pub(crate) use shell::run;

/// What the operator chooses for all autoscalers. Source: `--horizontal-pod-autoscaler-*`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Autoscaling {
    /// How often an autoscaler is looked at. Greater than zero.
    pub sync_period: Duration,
    /// For how long the highest recommendation holds, where an autoscaler does not say.
    pub downscale_stabilization: Duration,
    /// How far the use may be from the target before anything is done, where an autoscaler does not say.
    pub tolerance: f64,
    /// A pod this young may be busy with its start.
    pub cpu_initialization: Duration,
    /// A pod that became unready within this time of its start was never ready.
    pub initial_readiness_delay: Duration,
}

impl Default for Autoscaling {
    fn default() -> Self {
        Self {
            sync_period: Duration::from_secs(15),
            downscale_stabilization: Duration::from_secs(5 * 60),
            tolerance: 0.1,
            cpu_initialization: Duration::from_secs(5 * 60),
            initial_readiness_delay: Duration::from_secs(30),
        }
    }
}
