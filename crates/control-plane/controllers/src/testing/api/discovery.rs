//! What is served, in the documents by which clients find out.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{FakeApi, RESOURCES, SCALABLE};

/// A group that no server serves unless it is told to.
pub(super) const STORAGE_VERSIONS: &str = "internal.apiserver.k8s.io";

/// By group: its versions, where they are not just v1.
#[derive(Default)]
pub(super) struct Versions {
    served: BTreeMap<String, Vec<String>>,
    /// Whether nobody is told what is served.
    pub(super) secret: bool,
}

impl Versions {
    fn of(&self, group: &str) -> Vec<String> {
        self.served.get(group).cloned().unwrap_or_else(|| vec!["v1".to_owned()])
    }

    /// Whether the path is that of a version that was taken away.
    pub(super) fn lack(&self, path: &str) -> bool {
        match path.trim_matches('/').split('/').collect::<Vec<_>>()[..] {
            ["apis", group, version, ..] => {
                let missing = group == STORAGE_VERSIONS;
                self.served.get(group).map_or(missing, |of| !of.iter().any(|it| it == version))
            }
            _ => false,
        }
    }
}

impl FakeApi {
    /// Serves the group in these versions from now on, the preferred one first, and in no others.
    pub(crate) fn serve(&self, group: &str, versions: &[&str]) {
        let versions = versions.iter().map(|it| (*it).to_owned()).collect();
        self.state.lock().versions.served.insert(group.to_owned(), versions);
    }

    /// Whether discovery fails from now on.
    pub(crate) fn keep_secret(&self, secret: bool) {
        self.state.lock().versions.secret = secret;
    }
}

/// The document at that path, if it is one of discovery's.
pub(super) fn document(path: &str, versions: &Versions) -> Option<Value> {
    // Metrics are nobody's objects: no controller of all kinds looks for them.
    let named = RESOURCES.iter().map(|it| it.0).filter(|it| {
        let is_served = *it != STORAGE_VERSIONS || versions.served.contains_key(*it);
        !it.is_empty() && *it != "metrics.k8s.io" && is_served
    });
    let groups = named.collect::<BTreeSet<_>>();
    let list = |group: &str, version: &str| {
        let resources: Vec<Value> = RESOURCES
            .iter()
            .filter(|it| it.0 == group)
            .flat_map(|it| {
                let scalable = SCALABLE.contains(&format!("{group}/{}", it.2).as_str());
                let scale = scalable.then(|| {
                    json!({"name": format!("{}/scale", it.2), "kind": "Scale", "group": "autoscaling", "version": "v1",
                        "namespaced": it.4, "singularName": "", "verbs": ["get", "patch", "update"]})
                });
                let whole = json!({"name": it.2, "kind": it.3, "namespaced": it.4, "singularName": "",
                    "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]});
                std::iter::once(whole).chain(scale)
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
                    let version = |it| json!({"groupVersion": format!("{group}/{it}"), "version": it});
                    (group, versions.of(group).iter().map(version).collect::<Vec<_>>())
                })
                .filter(|(_, versions)| !versions.is_empty())
                .map(|(group, versions)| json!({"name": group, "versions": versions, "preferredVersion": versions[0]}))
                .collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", group, version] => Some(list(group, version)),
        _ => None,
    }
}
