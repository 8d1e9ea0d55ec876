//! StatefulSet: pods with a number, a name and a volume of their own, made and unmade in order.
//!
//! Source of behaviour: `pkg/controller/statefulset`.

mod decide;
mod identity;
mod shell;
mod status;
#[cfg(test)]
mod tests;

pub(crate) use shell::run;

/// Label: the name of the ControllerRevision that a pod was made from.
pub(crate) const REVISION_LABEL: &str = "controller-revision-hash";
/// Label: the pod's own name, for Services of one pod.
pub(crate) const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
/// Label: the pod's number.
pub(crate) const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";
