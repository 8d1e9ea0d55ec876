//! Gives each node a part of the cluster's address range for its pods.
//!
//! Source of behaviour: `pkg/controller/nodeipam/ipam/range_allocator.go`. Parts that lie in a range of Services are not given.

mod decide;
mod pool;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;
