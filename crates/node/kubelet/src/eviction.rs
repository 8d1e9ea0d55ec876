//! Which pod goes first when the node runs short. Pure; the order is upstream's: those that use more
//! than they asked for, then the lower priority, then the larger excess.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::{pod, resources, status::Verdict};

/// A pod with what it uses of the scarce resource, in bytes.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) pod: Arc<Pod>,
    pub(crate) used_bytes: i64,
}

/// The pod to evict, and why, None if no pod may be. `resource`: `memory` or `ephemeral-storage`.
pub(crate) fn choose(
    candidates: &[Candidate],
    resource: &str,
    threshold: &str,
    available: &str,
) -> Option<(Arc<Pod>, Verdict)> {
    let asked = |one: &Candidate| resources::pod_request(&one.pod, resource).value();
    let excess = |one: &Candidate| one.used_bytes - asked(one);
    let first = candidates
        .iter()
        .filter(|one| !pod::is_critical(&one.pod) && !pod::is_deleting(&one.pod))
        .min_by_key(|one| (excess(one) <= 0, priority(one), std::cmp::Reverse(excess(one))))?;
    let mut message = format!(
        "The node was low on resource: {resource}. Threshold quantity: {threshold}, available: {available}. "
    );
    for container in pod::containers(&first.pod) {
        let request = resources::request(container.resources.as_ref(), resource)
            .map_or_else(|| "0".to_owned(), |request| request.to_string());
        if excess(first) > 0 {
            message.push_str(&format!(
                "Container {} was using {}Ki, request is {request}, has larger consumption of {resource}. ",
                container.name,
                first.used_bytes / 1024
            ));
            break;
        }
    }
    Some((first.pod.clone(), Verdict { reason: "Evicted".to_owned(), message }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn candidate(name: &str, priority: i32, asked: &str, used_bytes: i64) -> Candidate {
        let pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"priority": priority,
            "containers": [{"name": "c", "resources": {"requests": {"memory": asked}}}]}}))
        .unwrap();
        Candidate { pod: Arc::new(pod), used_bytes }
    }

    #[track_caller]
    fn check(candidates: &[Candidate], expected: Option<&str>) {
        let chosen = choose(candidates, "memory", "100Mi", "50Mi");
        assert_eq!(chosen.map(|(pod, _)| pod::name(&pod).to_owned()).as_deref(), expected);
    }

    #[test]
    fn the_order() {
        let polite = candidate("polite", 0, "100", 50);
        let greedy = candidate("greedy", 10, "100", 5000);
        let worse = candidate("worse", 10, "100", 9000);
        let cheap = candidate("cheap", 1, "100", 200);
        check(&[polite.clone(), greedy.clone()], Some("greedy"));
        check(&[greedy.clone(), worse.clone()], Some("worse"));
        check(&[worse, cheap, greedy], Some("cheap"));
        check(&[polite.clone(), candidate("system", 2_000_000_000, "0", 9000)], Some("polite"));
        check(&[candidate("system", 2_000_000_000, "0", 9000)], None);
        let (_, verdict) = choose(&[polite], "memory", "100Mi", "50Mi").unwrap();
        assert_eq!(
            verdict.message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. "
        );
    }
}
