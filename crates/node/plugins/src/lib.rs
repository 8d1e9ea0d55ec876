//! gRPC between the kubelet and what plugs into a node, over unix sockets: device plugins, drivers of dynamic resources, and
//! agents that ask which pod has what.
//!
//! `cargo xtask codegen` writes the messages, clients and servers from `proto/`. The kubelet uses one side of each
//! interface; the other side serves its tests, and plugins written in Rust.

mod serve;

pub use serve::{PluginSocket, channel};

/// Device plugins (`v1beta1`): the kubelet's `Registration` and the plugin's `DevicePlugin`.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all, clippy::pedantic)]
#[rustfmt::skip]
#[path = "generated/v1beta1.rs"]
pub mod device_plugin;

/// Registration of plugins that are found by their socket in `plugins_registry` (`pluginregistration`, v1).
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all, clippy::pedantic)]
#[rustfmt::skip]
#[path = "generated/pluginregistration.rs"]
pub mod registration;

/// Dynamic resource allocation (`v1.DRAPlugin`).
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all, clippy::pedantic)]
#[rustfmt::skip]
#[path = "generated/k8s/io/kubelet/pkg/apis/dra/v1.rs"]
pub mod dra;

/// Which pod has which resources (`v1.PodResourcesLister`).
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all, clippy::pedantic)]
#[rustfmt::skip]
#[path = "generated/v1.rs"]
pub mod pod_resources;
