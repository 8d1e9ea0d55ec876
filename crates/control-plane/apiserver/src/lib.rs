//! The API server: the one part of a cluster that touches the store.
//!
//! A request goes through [`handler`](crate) (identity, turn, authorisation), is routed by its [`request`] address, and
//! is answered by the registry: every verb on every kind is one general mechanism over the kinds of the
//! [`catalogue`], with special resources (binding, eviction, scale, logs and streams, reviews) beside it.
//!
//! - [`ApiServer`] starts and stops; [`InProcess`] is the same server without a socket.
//! - [`authentication`], [`authorization`], [`admission`], [`reviews`] decide; they read the store through
//!   [`objects`] and never write.
//! - `storage` is the only place that knows keys and the form of stored bytes.

pub mod admission;
pub mod authentication;
pub mod authorization;
mod body;
pub mod bootstrap;
pub mod catalogue;
mod clock;
pub mod components;
pub mod config;
mod connect;
mod continue_token;
mod core;
mod field_labels;
mod flowcontrol;
mod fresh;
mod gzip;
mod handler;
mod hot;
mod in_process;
mod metrics;
mod names;
mod negotiate;
pub mod objects;
mod options;
mod registry;
pub mod request;
mod response;
pub mod reviews;
mod routes;
mod server;
mod services;
mod storage;
mod system;
mod table;
mod turns;
mod watchman;

pub use authentication::User;
pub use body::{Body, BoxError};
pub use config::{Cidr, Config, KubeletClient, Limits};
pub use in_process::InProcess;
pub use server::{ApiServer, Error};
pub use storage::EtcdCodec;
