//! What to do with one object, given its live state and that of its owners.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::graph::{Graph, Node, Uid};
use super::{FOREGROUND, ORPHAN};

/// What is known of one of the object's owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnerState {
    /// It exists and will stay.
    Solid,
    /// There is no such object any more, or another one has its name.
    Dangling,
    /// It is being deleted and waits for its dependents.
    Waiting,
}

/// What the graph knows of the object, copied so that no lock is held while the API is asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings {
    pub(crate) deleting_dependents: bool,
    /// Dependents that block it, each with whether it waits for its own dependents.
    pub(crate) blocking: Vec<(Uid, bool)>,
    pub(crate) has_dependents: bool,
    /// Whether a dependent waits for its own dependents: a sign of a cycle.
    pub(crate) dependent_waits: bool,
}

impl Surroundings {
    /// Copies what matters about a node.
    pub(crate) fn of(graph: &Graph, node: &Node) -> Self {
        let blocking = graph.blocking(node);
        Self {
            deleting_dependents: node.deleting_dependents,
            blocking: blocking.iter().map(|it| (it.identity.uid.clone(), it.deleting_dependents)).collect(),
            has_dependents: !node.dependents.is_empty(),
            dependent_waits: graph.dependents(node).any(|it| it.deleting_dependents),
        }
    }
}

/// How dependents fare when an object is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing: it is alive.
    Keep,
    /// All blocking dependents are gone: let it go.
    RemoveForegroundFinalizer,
    /// Look at these dependents, which stand in its way.
    LookAt(Vec<Uid>),
    /// Take these owners off its list.
    RemoveOwners(Vec<String>),
    /// Delete it.
    Delete {
        propagation: Propagation,
        /// First make it stop blocking its owners, which wait for it while it waits for them.
        unblock_owners: bool,
    },
}

/// Decides about one object. `owners` has the state of each of `live`'s references, in their order; it is not asked for when the
/// object waits for its dependents.
pub(crate) fn decide(seen: &Surroundings, live: &ObjectMeta, owners: &[OwnerState]) -> Action {
    if seen.deleting_dependents {
        return wait_for_dependents(seen);
    }
    let references = live.owner_references.as_deref().unwrap_or_default();
    if references.is_empty() {
        return Action::Keep;
    }
    let any = |state: OwnerState| owners.contains(&state);
    if any(OwnerState::Solid) {
        let gone: Vec<String> = references
            .iter()
            .zip(owners)
            .filter(|(_, state)| **state != OwnerState::Solid)
            .map(|(reference, _)| reference.uid.clone())
            .collect();
        return if gone.is_empty() { Action::Keep } else { Action::RemoveOwners(gone) };
    }
    if any(OwnerState::Waiting) && seen.has_dependents {
        return Action::Delete { propagation: Propagation::Foreground, unblock_owners: seen.dependent_waits };
    }
    let has = |finalizer: &str| live.finalizers.iter().flatten().any(|it| it == finalizer);
    let propagation = if has(ORPHAN) {
        Propagation::Orphan
    } else if has(FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    Action::Delete { propagation, unblock_owners: false }
}

fn wait_for_dependents(seen: &Surroundings) -> Action {
    if seen.blocking.is_empty() {
        return Action::RemoveForegroundFinalizer;
    }
    let idle = seen.blocking.iter().filter(|(_, waits)| !waits).map(|(uid, _)| uid.clone());
    Action::LookAt(idle.collect())
}
