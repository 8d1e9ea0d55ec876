//! Ephemeral volumes: a claim of its own for every volume of a pod that is made from a template.
//!
//! Source of behaviour: `pkg/controller/volume/ephemeral`. The garbage collector deletes the claims with their pods.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
