//! Endpoints: the older, one-object form of a Service's endpoints, still read by many.
//!
//! Source of behaviour: `pkg/controller/endpoint`.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;

/// Says that this controller, and not a user, wrote an Endpoints object.
pub(crate) const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// The value of that label.
pub(crate) const MANAGER: &str = "endpoint-controller";
