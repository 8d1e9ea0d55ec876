//! Keeps PersistentVolumeClaims that pods use from being deleted under them.
//!
//! Source of behaviour: `pkg/controller/volume/pvcprotection`.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
