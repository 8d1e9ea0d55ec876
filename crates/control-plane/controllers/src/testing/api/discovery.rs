//! What is served, in the documents by which clients find out.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::RESOURCES;

/// The document at that path, if it is one of discovery's.
pub(super) fn document(path: &str) -> Option<Value> {
    // Metrics are nobody's objects: no controller of all kinds looks for them.
    let named = RESOURCES.iter().map(|it| it.0).filter(|it| !it.is_empty() && *it != "metrics.k8s.io");
    let groups = named.collect::<BTreeSet<_>>();
    let list = |group: &str, version: &str| {
        let resources: Vec<Value> = RESOURCES
            .iter()
            .filter(|it| it.0 == group)
            .map(|it| {
                json!({"name": it.2, "kind": it.3, "namespaced": it.4, "singularName": "",
                    "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]})
            })
            .collect();
        let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources})
    };
    match path.trim_matches('/').split('/').collect::<Vec<_>>()[..] {
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        ["api", "v1"] => Some(list("", "v1")),
        ["apis"] => {
            let groups: Vec<Value> = groups
                .into_iter()
                .map(|group| {
                    let version = json!({"groupVersion": format!("{group}/v1"), "version": "v1"});
                    json!({"name": group, "versions": [version], "preferredVersion": version})
                })
                .collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", group, version] => Some(list(group, version)),
        _ => None,
    }
}
