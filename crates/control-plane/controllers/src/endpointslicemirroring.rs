//! EndpointSlices for Endpoints that people or programs write themselves, for Services without a selector.
//!
//! Source of behaviour: `pkg/controller/endpointslicemirroring`.

mod decide;
mod shell;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;

/// Names this controller in the label `endpointslice.kubernetes.io/managed-by`.
pub(crate) const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
