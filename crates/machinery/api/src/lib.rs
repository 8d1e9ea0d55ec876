//! The Kubernetes API as data and pure functions: kinds, schema, codecs, selectors, quantities, patches,
//! defaulting, validation, printing, discovery and OpenAPI.
//!
//! No I/O, clock, or randomness: time and names are arguments. Objects inside the API server are
//! [`serde_json::Value`] trees (keys sorted), described by the [`schema`] table; typed structs are for components.

pub mod codec;
pub mod discovery;
pub mod field;
pub mod kinds;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod resources;
pub mod schema;
pub mod selector;
pub mod status;
