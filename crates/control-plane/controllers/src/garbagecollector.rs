//! Deletes what its owners no longer need: background, foreground and orphaning deletion.
//!
//! [`graph`] follows the metadata of every object of every resource and says which ones to look at; [`decide`] says what to do
//! with one of them, given its live state and that of its owners; `shell` does it. Nothing is ever deleted on the word of the
//! graph alone. Source of behaviour: `pkg/controller/garbagecollector`.

mod decide;
mod graph;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;

/// Holds an object until its blocking dependents are gone.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// Holds an object until its dependents no longer refer to it.
pub(crate) const ORPHAN: &str = "orphan";
