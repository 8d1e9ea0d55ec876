//! PodResizeValidator: a pod is resized only on a node that is there, runs Linux, and could hold it.
//! Source: `plugin/pkg/admission/podresize`.

use podium_api::quantity::Quantity;
use podium_api::quota::{amounts, pod_requests};
use podium_api::status::ApiError;
use serde_json::{Value, json};

use super::{Operation, Request};
use crate::objects::{Objects, text};

pub(super) fn check(request: &Request<'_>, objects: &Objects) -> Result<(), ApiError> {
    let resize = request.group.is_empty() && request.resource == "pods" && request.subresource == "resize";
    if request.operation != Operation::Update || !resize {
        return Ok(());
    }
    let name = text(request.object, "/spec/nodeName");
    let generation = |pod: &Value| pod["metadata"]["generation"].clone();
    // Without a new generation nothing was resized.
    if name.is_empty() || request.old.is_some_and(|old| generation(old) == generation(request.object)) {
        return Ok(());
    }
    let Some(node) = objects.get("", "nodes", "", name) else {
        return Err(request.forbidden(&format!("node {name:?} not found")));
    };
    let system = &node["metadata"]["labels"]["kubernetes.io/os"];
    if let Some(system) = system.as_str().filter(|system| *system != "linux") {
        let why = format!("pod resize is only supported on linux nodes, node {name:?} is {system:?}");
        return Err(refused(request, &why, "UnsupportedPlatform"));
    }
    match too_much(request.object, &node) {
        Some(why) => Err(refused(request, &why, "NodeCapacity")),
        None => Ok(()),
    }
}

/// Which requests of the pod are above all that the node has.
fn too_much(pod: &Value, node: &Value) -> Option<String> {
    let (requests, allocatable) = (pod_requests(pod), amounts(&node["status"]["allocatable"]));
    let shown: [(&str, fn(&Quantity) -> i64); 2] =
        [("cpu", Quantity::milli_value), ("memory", Quantity::value)];
    let faults: Vec<String> = shown
        .into_iter()
        .filter_map(|(name, number)| {
            let requested = requests.get(name).copied().unwrap_or_default();
            let allocatable = allocatable.get(name).copied().unwrap_or_default();
            (requested > allocatable).then(|| {
                format!("{name}, requested: {}, allocatable: {}", number(&requested), number(&allocatable))
            })
        })
        .collect();
    (!faults.is_empty())
        .then(|| format!("node didn't have enough allocatable resources: {}", faults.join("; ")))
}

fn refused(request: &Request<'_>, why: &str, reason: &str) -> ApiError {
    let mut error = request.forbidden(why);
    if let Some(details) = &mut error.details {
        details["causes"] = json!([{"reason": reason}]);
    }
    error
}
