//! Removes pods that no kubelet will: of nodes that are gone, deleted before they had a node, or ended long ago.
//!
//! Source of behaviour: `pkg/controller/podgc`, except that it goes by events and not in rounds.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
