//! The memory manager: containers of guaranteed pods get their memory and huge pages from chosen NUMA nodes.
//!
//! - `pool`: how much of each node is promised to whom. Pure.
//! - `manager`: the state in its checkpoint.
//!
//! Source of the behaviour and of the messages: upstream's `cm/memorymanager` at v1.36. Upstream counts node by node what is
//! taken; here it is counted by group of nodes, which comes to the same, for a node serves one group at a time.

mod manager;
mod pool;
#[cfg(test)]
mod tests;

pub(crate) use manager::MemoryManager;
pub(crate) use pool::Pool;
