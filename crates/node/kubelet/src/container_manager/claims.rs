//! Dynamic resource allocation: claims that a scheduler has allocated are prepared by their drivers' plugins before the pods
//! that may use them start, and given back when the last of these pods is gone.
//!
//! - `judge`: which claims a pod has, and whether it may use them. Pure.
//! - `state`: which claims are prepared, for whom, and what they come to in a container. Pure.
//! - `manager`: the calls of the plugins, and the checkpoint.
//! - `drivers`: the plugins that are registered.
//! - `slices`: takes away what a driver said of this node once it is gone.

mod drivers;
mod judge;
mod manager;
pub(crate) mod slices;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use drivers::Drivers;
pub(crate) use manager::ClaimManager;
