//! Cluster DNS: names of Services and their endpoints, answered from memory; everything else is forwarded.
//!
//! [`zone`] holds what there is to tell, [`answer`] maps a question and a zone to an answer (pure), [`server`] moves
//! packets, [`forward`] asks upstream servers. Source: the Kubernetes DNS specification 1.1.0; RFC 1035, 2782, 6891.

pub mod answer;
pub mod forward;
pub mod server;
mod shell;
pub mod zone;

pub use shell::{Config, Error, run};
