//! Gives each node a part of the cluster's address range for its pods.
//!
//! Source of behaviour: `pkg/controller/nodeipam/ipam/range_allocator.go`.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
