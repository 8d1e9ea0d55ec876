//! What a decision must ask about besides nodes and pods: namespaces, what selects a pod, its volumes.

use podium_api::selector::LabelSelector;

use crate::affinity::Labels;
use crate::pod::PodInfo;
use crate::volumes::VolumeNeeds;

/// Answers from the same moment as the snapshot, or as near as caches are.
pub trait Surroundings {
    /// What the Services that select the pod and its owner's selector have in common: the pods it
    /// should be spread among. `None` when nothing selects it.
    fn default_selector(&self, pod: &PodInfo) -> Option<LabelSelector>;

    /// A namespace's labels; `None` when it is not known.
    fn namespace_labels(&self, namespace: &str) -> Option<Labels>;

    /// Where a pod's volume claims let it go. Asked only of pods with claims.
    fn volumes(&self, pod: &PodInfo) -> Volumes;

    /// Told when a decision has passed a point, and whether well, so that whoever has a clock can measure it.
    fn passed(&self, _point: Point, _success: bool) {}
}

/// Upstream's extension points, as far as they are told apart here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// What is computed before nodes are looked at.
    PreFilter,
    /// Which nodes would do.
    Filter,
    /// Whether room can be made.
    PostFilter,
    /// Which of them is best.
    Score,
    /// Telling the API.
    Bind,
}

/// The state of a pod's volume claims.
#[derive(Clone, Debug, PartialEq)]
pub enum Volumes {
    /// All are bound, or will be once the pod has a node.
    Ready(VolumeNeeds),
    /// The pod cannot be placed now, with the reason in upstream's words.
    Refused(String),
}

/// Nothing besides nodes and pods, for tests and benches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nothing;

impl Surroundings for Nothing {
    fn default_selector(&self, _pod: &PodInfo) -> Option<LabelSelector> {
        None
    }

    fn namespace_labels(&self, _namespace: &str) -> Option<Labels> {
        None
    }

    fn volumes(&self, _pod: &PodInfo) -> Volumes {
        Volumes::Ready(VolumeNeeds::default())
    }
}
