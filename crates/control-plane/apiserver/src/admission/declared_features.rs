//! NodeDeclaredFeatureValidator: a pod on a node is not changed in a way that the node does not say it can follow.
//! Source: `plugin/pkg/admission/nodedeclaredfeatures`.

use podium_api::node_features::{INIT_RESIZE, POD_LEVEL_RESIZE};
use podium_api::quota::amounts;
use podium_api::status::ApiError;
use serde_json::Value;

use super::{Operation, Request};
use crate::objects::{Objects, items, text};

pub(super) fn check(request: &Request<'_>, objects: &Objects) -> Result<(), ApiError> {
    let pods = request.group.is_empty() && request.resource == "pods";
    if request.operation != Operation::Update || !pods || !matches!(request.subresource, "" | "resize") {
        return Ok(());
    }
    let (pod, name) = (&*request.object, text(request.object, "/spec/nodeName"));
    let Some(old) = request.old.filter(|_| !name.is_empty()) else { return Ok(()) };
    // A spec that stays needs nothing new.
    if old["metadata"]["generation"] == pod["metadata"]["generation"] {
        return Ok(());
    }
    let wanted = wanted(old, pod);
    if wanted.is_empty() {
        return Ok(());
    }
    let Some(node) = objects.get("", "nodes", "", name) else {
        return Err(request.forbidden(&format!("node {name:?} not found")));
    };
    let declared = items(&node, "/status/declaredFeatures");
    let missing: Vec<&str> =
        wanted.into_iter().filter(|feature| !declared.iter().any(|have| have == feature)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let why = format!(
        "pod update requires features {} which are not available on node {name:?}",
        missing.join(", ")
    );
    Err(request.forbidden(&why))
}

/// What the node of a pod has to be able to do for this change, sorted.
fn wanted(old: &Value, new: &Value) -> Vec<&'static str> {
    let (old_inits, new_inits) = (items(old, "/spec/initContainers"), items(new, "/spec/initContainers"));
    let ends = |init: &Value| init["restartPolicy"] != "Always";
    let inits = old_inits.iter().zip(new_inits).filter(|(old, _)| ends(old));
    let (mut level, mut init) = (false, false);
    level |= !same(&old["spec"]["resources"], &new["spec"]["resources"]);
    for (old, new) in inits {
        init |= !same(&old["resources"], &new["resources"]);
    }
    [(level, POD_LEVEL_RESIZE), (init, INIT_RESIZE)]
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .map(|(_, feature)| feature)
        .collect()
}

/// Whether two resource requirements ask for the same, however it is written.
fn same(old: &Value, new: &Value) -> bool {
    ["requests", "limits"].into_iter().all(|list| amounts(&old[list]) == amounts(&new[list]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_change_needs() {
        let pod = |level: Value, inits: Value| json!({"spec": {"resources": level, "initContainers": inits}});
        let init = |cpu: &str, policy: Value| json!([{"name": "i", "restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}}]);
        let level = |cpu: &str| json!({"limits": {"cpu": cpu}});
        let before = pod(level("1"), init("1", Value::Null));
        for (after, features) in [
            (before.clone(), vec![]),
            (pod(level("1000m"), init("1000m", Value::Null)), vec![]),
            (pod(level("2"), init("1", Value::Null)), vec![POD_LEVEL_RESIZE]),
            (pod(Value::Null, init("2", Value::Null)), vec![POD_LEVEL_RESIZE, INIT_RESIZE]),
        ] {
            assert_eq!(wanted(&before, &after), features, "{after}");
        }
        let sidecar = |cpu| pod(Value::Null, init(cpu, json!("Always")));
        assert!(wanted(&sidecar("1"), &sidecar("2")).is_empty(), "sidecars are changed like any container");
    }
}
