//! EndpointSlices of Services with a selector.
//!
//! Source of behaviour: `staging/src/k8s.io/endpointslice` and `pkg/controller/endpointslice`.

mod decide;
mod pack;
mod shell;
#[cfg(test)]
mod tests;
mod topology;

pub(crate) use decide::{Counts, Decision};
pub(crate) use pack::{Family, Group, Groups, Parent, endpoint_key, port_key};
pub(crate) use shell::{apply, run, service_of};

/// Names this controller in the label `endpointslice.kubernetes.io/managed-by`.
pub(crate) const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Says which Service a slice belongs to.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Says who looks after a slice.
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
