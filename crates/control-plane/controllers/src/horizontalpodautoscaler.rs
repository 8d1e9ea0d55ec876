//! Scales whatever has a scale by what its pods use, or by other figures.
//!
//! Source of behaviour: `pkg/controller/podautoscaler`. Every autoscaler is looked at every 15 seconds: figures cannot be watched.
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

pub(crate) use shell::run;
