//! Keeps VolumeAttributesClasses that volumes or claims name from being deleted.
//!
//! Source of behaviour: `pkg/controller/volume/vacprotection`.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
