//! Empties namespaces that are being deleted, and lets them go once nothing is left.
//!
//! Source of behaviour: `pkg/controller/namespace/deletion`. Pods go first and everything else waits for them, so that nothing a
//! pod depends on, such as a NetworkPolicy, disappears while it runs.

mod decide;
mod shell;
mod status;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
