//! When one pod must go.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

use crate::clock;
use crate::nodes::NO_EXECUTE;
use crate::pods;

/// A taint and when its time began.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Since<'a> {
    pub(crate) taint: &'a Taint,
    pub(crate) since: Timestamp,
}

/// What becomes of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It may stay.
    Stay,
    /// It must go at that time, or now if that has passed.
    Leave(Timestamp),
}

/// Decides about one pod on a node with these `NoExecute` taints.
///
/// A time begins when the taint was added, or when the pod came to the node if that was later. Upstream begins when its controller
/// first sees them together, which is the same unless it starts anew: then pods there have their whole time once more.
pub(crate) fn decide(pod: &Pod, taints: &[Since<'_>]) -> Decision {
    if pods::is_terminating(pod) {
        return Decision::Stay;
    }
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let began = bound_since(pod);
    let mut leave: Option<Timestamp> = None;
    for Since { taint, since } in taints {
        // A pod that came later has its own time.
        let since = (*since).max(began);
        // The first that is about the taint speaks for it, whatever others say. Source: `GetMatchingTolerations`.
        let until = match tolerations.iter().find(|it| tolerates(it, taint)) {
            Some(toleration) => {
                toleration.toleration_seconds.map(|seconds| clock::after(since, seconds.max(0)))
            }
            None => Some(since),
        };
        leave = match (leave, until) {
            (Some(leave), Some(until)) => Some(leave.min(until)),
            (leave, until) => leave.or(until),
        };
    }
    leave.map_or(Decision::Stay, Decision::Leave)
}

/// Since when the pod is on its node; since it exists, where nobody says.
fn bound_since(pod: &Pod) -> Timestamp {
    let bound = pods::condition(pod, "PodScheduled").filter(|condition| condition.status == "True");
    let bound = bound.and_then(|condition| condition.last_transition_time.as_ref());
    bound.or(pod.metadata.creation_timestamp.as_ref()).map_or(Timestamp::MIN, |time| time.0)
}

/// Whether the toleration is about the taint. Source: `Toleration.ToleratesTaint`.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (effect, key) = (text(&toleration.effect), text(&toleration.key));
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref() {
        None | Some("" | "Equal") => text(&toleration.value) == text(&taint.value),
        Some("Exists") => true,
        Some(operator @ ("Lt" | "Gt")) => compares(operator, &text(&taint.value), &text(&toleration.value)),
        Some(_) => false,
    }
}

fn compares(operator: &str, taint: &str, toleration: &str) -> bool {
    match (taint.parse::<i64>(), toleration.parse::<i64>()) {
        (Ok(taint), Ok(toleration)) if operator == "Lt" => taint < toleration,
        (Ok(taint), Ok(toleration)) => taint > toleration,
        _ => false,
    }
}

/// The node's taints that end pods.
pub(crate) fn no_execute(taints: &[Taint]) -> impl Iterator<Item = &Taint> {
    taints.iter().filter(|taint| taint.effect == NO_EXECUTE)
}
