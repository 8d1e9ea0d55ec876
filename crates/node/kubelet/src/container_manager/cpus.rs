//! The CPU manager: containers of guaranteed pods that ask for whole processors get them for themselves, all others share the
//! rest.
//!
//! - `take`: which processors of those that are free. Pure.
//! - `pool`: who has which, and what the others share. Pure.
//! - `manager`: the state in its checkpoint, and the containers that share.
//!
//! Source of the behaviour and of the messages: upstream's `cm/cpumanager` at v1.36.

mod manager;
mod pool;
mod take;
#[cfg(test)]
mod tests;

pub(crate) use manager::CpuManager;
pub(crate) use pool::{Options, Pool};
pub(crate) use take::take;
