//! Device plugins, v1beta1: extended resources that plugins bring, and the devices of containers.
//!
//! - `pool`: which devices there are and who has which. Pure.
//! - `manager`: the plugins behind the pool, and its checkpoint.
//! - `registration`: the socket where plugins announce themselves.

mod manager;
mod pool;
pub(crate) mod registration;
#[cfg(test)]
mod tests;

pub(crate) use manager::DeviceManager;
