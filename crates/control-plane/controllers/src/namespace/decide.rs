//! What a namespace needs next, given what emptying it brought to light.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};

use crate::clock;
use crate::discovery::Served;
use crate::pods;

/// The finalizer by which this controller holds a namespace until it is empty.
pub(crate) const FINALIZER: &str = "kubernetes";

/// How long finalizers of others are given before looking again. Source: `finalizerEstimateSeconds`.
const FINALIZER_SECONDS: u64 = 15;

/// Whether there is anything to do for the namespace.
pub(crate) fn needs_emptying(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some() && holds(namespace)
}

fn holds(namespace: &Namespace) -> bool {
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_ref());
    finalizers.into_iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// The namespace without our finalizer.
pub(crate) fn finalized(namespace: &Namespace) -> Namespace {
    let mut namespace = namespace.clone();
    if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
    namespace
}

/// The resources to empty, pods first and alone.
pub(crate) fn stages(served: Vec<Served>) -> (Option<Served>, Vec<Served>) {
    let deletable = served.into_iter().filter(|it| it.namespaced && it.supports(&["delete"]));
    let (pods, others): (Vec<_>, Vec<_>) =
        deletable.partition(|it| it.path.group.is_empty() && it.path.plural == "pods");
    (pods.into_iter().next(), others)
}

/// What is left of one resource after deletion was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remaining {
    /// `resource.group`, as the condition names it.
    pub(crate) resource: String,
    /// Objects.
    pub(crate) objects: usize,
    /// How many of them each finalizer holds.
    pub(crate) finalizers: BTreeMap<String, usize>,
}

/// All that emptying a namespace brought to light.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Groups that could not be asked for their resources.
    pub(crate) undiscovered: Vec<String>,
    /// Calls that failed.
    pub(crate) errors: Vec<String>,
    /// What is still there.
    pub(crate) remaining: Vec<Remaining>,
}

impl Findings {
    /// Whether the namespace is known to be empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.undiscovered.is_empty() && self.errors.is_empty() && self.remaining.is_empty()
    }
}

/// How long to wait for what remains, should no event come: the longest time any pod asked for, counted from the namespace's
/// deletion, or what finalizers are given.
pub(crate) fn patience<'a>(
    namespace: &Namespace,
    pods: impl IntoIterator<Item = &'a Pod>,
    now: Timestamp,
) -> Duration {
    let grace = pods
        .into_iter()
        .filter(|pod| !pods::is_finished(pod))
        .filter_map(|pod| pod.spec.as_ref()?.termination_grace_period_seconds)
        .max()
        .unwrap_or_default();
    let deleted = namespace.metadata.deletion_timestamp.as_ref().map_or(now, |time| time.0);
    let left = clock::until(clock::after(deleted, grace), now);
    // Half the time, so that a guess that is too long costs little.
    if left.is_zero() {
        Duration::from_secs(FINALIZER_SECONDS / 2 + 1)
    } else {
        left / 2 + Duration::from_secs(1)
    }
}
