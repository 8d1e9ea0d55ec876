//! The pod network of one node: a CNI plugin, address management, the bridge, masquerading and host ports.
//!
//! Every pod gets a /32 from its node's pod CIDR and routes everything through the bridge's address, so that
//! pod-to-pod traffic on one node passes the host's IP layer like any other: Services and policies see both
//! directions of a connection and `br_netfilter` is not needed.
//!
//! The plugin ([`cni_main`]) is a short-lived process that the container runtime starts; what it keeps is on
//! disk ([`addresses`]) and in the kernel. The agent ([`run`]) prepares the node once its pod CIDR is known.

pub mod addresses;
pub mod agent;
pub mod cidr;
pub mod cni;
pub mod hostports;
pub mod netlink;
pub mod nft;
pub mod sandbox;

pub use agent::{Config, NetworkState, run};
pub use cidr::Cidr;
pub use cni::cni_main;
