//! Keeps volumes that are bound to a claim from being deleted.
//!
//! Source of behaviour: `pkg/controller/volume/pvprotection`.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
