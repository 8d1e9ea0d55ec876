//! The Kubernetes API as data and pure functions: kinds, schema, codecs, selectors, quantities, patches,
//! defaulting, validation, printing, discovery and OpenAPI.
//!
//! No I/O, clock, or randomness: time and names are arguments. Objects inside the API server are
//! [`serde_json::Value`] trees (keys sorted), described by the [`schema`] table; typed structs are for components.

pub mod accept;
pub mod codec;
pub mod discovery;
pub mod duration;
pub mod field;
pub mod go;
pub mod healthz;
pub mod kinds;
pub mod node_features;
pub mod openapi;
pub mod patch;
pub mod pem;
pub mod quantity;
pub mod quota;
pub mod resources;
pub mod schema;
pub mod selector;
pub mod status;
pub mod time_zone;
pub mod volumes;
pub mod zpages;

/// The version that servers and nodes report: the API's, and a word on who implements it.
pub const VERSION: &str = "v1.36.2+podium";
