//! The service proxy of one node: Services and EndpointSlices in, nftables elements out.
//!
//! The rule set has a fixed frame and a few maps (one look-up per new connection, whatever the number of Services);
//! a change of a Service or its endpoints rewrites that Service's elements and nothing else. [`plan`] decides which
//! endpoints a port leads to, [`rules`] which elements say so, [`state`] what to tell the kernel, [`flows`] which UDP
//! flows it must forget thereafter; [`run`] does it, and answers at health-check node ports.

pub mod flows;
mod health;
pub mod plan;
pub mod rules;
mod shell;
pub mod state;

pub use shell::{Config, Error, run};
