//! The pod network of one node: a CNI plugin, address management, the bridge, masquerading and host ports.
//!
//! Every pod gets a /32 from its node's pod CIDR and routes everything through the gateway, which is the address of the
//! node's bridge; the host has a route to each pod by the pod's own veth. So pod-to-pod traffic on one node passes the
//! host's IP layer like any other: Services and policies see both directions of a connection, whether `br_netfilter` is
//! on or not, and no pod shares a link with another.
//!
//! The pods of other nodes are reached by a route to each node's own address ([`routes`]), without address translation.
//!
//! The plugin ([`cni_main`]) is a short-lived process that the container runtime starts; what it keeps is on
//! disk ([`addresses`]) and in the kernel. The agent ([`run`]) prepares the node once its pod CIDR is known.

pub mod addresses;
pub mod agent;
pub mod cidr;
pub mod cni;
pub mod conntrack;
pub mod hostports;
pub mod netlink;
pub mod nft;
pub mod routes;
pub mod sandbox;
pub mod shape;

pub use agent::{Config, NetworkState, run};
pub use cidr::Cidr;
pub use cni::cni_main;
