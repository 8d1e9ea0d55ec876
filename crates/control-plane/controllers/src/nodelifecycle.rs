//! Notices nodes that have gone silent, says so in their status and their pods', and keeps the taints that go with conditions.
//!
//! A node is alive while its lease or its status is renewed; what counts is when the renewal was seen here, not what the node's
//! clock says. Source of behaviour: `pkg/controller/nodelifecycle`. Nodes are looked at when something about them changes or
//! their time is up, never in rounds.

mod decide;
mod shell;
mod status;
#[cfg(test)]
mod tests;
mod zones;

pub use decide::Rates;
pub(crate) use shell::run;
