//! Which pods are to be removed, and how.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};

use crate::nodes;
use crate::owner;
use crate::pods;

/// How long a node must have been gone before its pods are removed: it may be about to register again.
pub(crate) const QUARANTINE: Duration = Duration::from_secs(40);

const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// Whether the pod was deleted before it had a node, so that no kubelet can confirm its end.
pub(crate) fn is_unscheduled_and_terminating(pod: &Pod) -> bool {
    pods::is_terminating(pod) && pods::node_name(pod).is_none()
}

/// Whether the pod waits for a node of which the operator has said that it is off.
pub(crate) fn is_out_of_service(pod: &Pod, node: &Node) -> bool {
    pods::is_terminating(pod)
        && !nodes::is_ready(node)
        && nodes::taints(node).iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// The ended pods beyond the number that is kept: evicted ones first, then the oldest.
pub(crate) fn excess(mut ended: Vec<Arc<Pod>>, kept: usize) -> Vec<Arc<Pod>> {
    if kept == 0 || ended.len() <= kept {
        return Vec::new();
    }
    let evicted = |pod: &Pod| pod.status.as_ref().and_then(|it| it.reason.as_deref()) == Some("Evicted");
    ended.sort_by_cached_key(|pod| {
        (!evicted(pod), pod.metadata.creation_timestamp.clone(), owner::name(&pod.metadata).to_owned())
    });
    ended.truncate(ended.len() - kept);
    ended
}

/// What is written into a pod before it is removed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LastWords {
    /// Whether it must be marked as failed.
    pub(crate) failed: bool,
    /// Why, where there is something to say.
    pub(crate) condition: Option<PodCondition>,
}

/// The last words of a pod, of a node that is gone or for another reason.
pub(crate) fn last_words(pod: &Pod, node_is_gone: bool) -> LastWords {
    let failed = !pods::is_finished(pod);
    let condition = PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("DeletionByPodGC".to_owned()),
        message: Some("PodGC: node no longer exists".to_owned()),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    };
    LastWords { failed, condition: (failed && node_is_gone).then_some(condition) }
}
