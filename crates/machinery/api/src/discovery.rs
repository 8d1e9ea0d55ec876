//! Discovery documents: which groups, versions and resources there are.
//!
//! All are made from what a server serves of the resource table. Where upstream's documents differ from each other for no reason a reader
//! could guess (the core group's resource list has no `apiVersion`), ours do as well: clients compare.

#[cfg(test)]
mod tests;

use base64::Engine as _;
use serde_json::{Map, Value, json};
use sha2::Digest as _;

use crate::resources::{Resource, Selection, Subresource, group_version};

/// The content type of the aggregated documents, without the profile parameters.
pub const AGGREGATED_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// `GET /api`. `server_address` is `host:port` as advertised.
pub fn api_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

/// `GET /apis`.
pub fn api_groups(served: &Selection) -> Value {
    let groups: Vec<Value> =
        named_groups(served).map(|(group, versions)| group_entry(group, &versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `GET /apis/{group}`.
pub fn group(served: &Selection, group: &str) -> Option<Value> {
    let (_, versions) = named_groups(served).find(|(name, _)| *name == group)?;
    let mut document = group_entry(group, &versions);
    document["kind"] = Value::from("APIGroup");
    document["apiVersion"] = Value::from("v1");
    Some(document)
}

/// The groups under `/apis`, with their versions.
fn named_groups(served: &Selection) -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    served.groups().into_iter().filter(|(group, _)| !group.is_empty())
}

fn group_entry(group: &str, versions: &[&str]) -> Value {
    let entry = |version: &&str| json!({"groupVersion": group_version(group, version), "version": version});
    json!({
        "name": group,
        "versions": versions.iter().map(entry).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(entry),
    })
}

/// `GET /api/v1` (empty group) and `GET /apis/{group}/{version}`.
pub fn resource_list(served: &Selection, group: &str, version: &str) -> Option<Value> {
    let mut entries: Vec<Value> = Vec::new();
    for resource in served.of(group, version) {
        entries.push(resource_entry(resource));
        entries.extend(resource.subresources.iter().map(|s| subresource_entry(resource, s)));
    }
    if entries.is_empty() {
        return None;
    }
    let mut list = json!({
        "kind": "APIResourceList", "groupVersion": group_version(group, version), "resources": entries,
    });
    if !group.is_empty() {
        list["apiVersion"] = Value::from("v1");
    }
    Some(list)
}

fn resource_entry(resource: &Resource) -> Value {
    let mut entry = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": resource.verbs,
    });
    add_names(&mut entry, resource);
    if resource.is_stored() {
        entry["storageVersionHash"] = Value::String(storage_version_hash(resource));
    }
    entry
}

/// Short names and categories, where there are any.
fn add_names(entry: &mut Value, resource: &Resource) {
    for (name, list) in [("shortNames", resource.short_names), ("categories", resource.categories)] {
        if !list.is_empty() {
            entry[name] = Value::from(list);
        }
    }
}

fn subresource_entry(resource: &Resource, subresource: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", resource.plural, subresource.name),
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": subresource.kind,
        "verbs": subresource.verbs,
    });
    if !subresource.version.is_empty() {
        entry["group"] = Value::from(subresource.group);
        entry["version"] = Value::from(subresource.version);
    }
    entry
}

/// Upstream's opaque hash of the version a resource is stored in: the first eight bytes of a SHA-256 in base64.
fn storage_version_hash(resource: &Resource) -> String {
    let text = format!("{}/{}/{}", resource.storage_group, resource.hash_version, resource.kind);
    base64::engine::general_purpose::STANDARD.encode(&sha2::Sha256::digest(text.as_bytes())[..8])
}

/// The aggregated document (`apidiscovery.k8s.io/v2`) of `/api` or `/apis`; `None` for another path.
pub fn aggregated(served: &Selection, path: &str) -> Option<Value> {
    let core = match path.trim_end_matches('/') {
        "/api" => true,
        "/apis" => false,
        _ => return None,
    };
    let groups = served.groups().into_iter().filter(|(group, _)| group.is_empty() == core);
    let items: Vec<Value> =
        groups.map(|(group, versions)| aggregated_group(served, group, &versions)).collect();
    Some(json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    }))
}

fn aggregated_group(served: &Selection, group: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| {
            let resources: Vec<Value> = served.of(group, version).map(aggregated_resource).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata =
        if group.is_empty() { Map::new() } else { Map::from_iter([("name".to_owned(), Value::from(group))]) };
    json!({"metadata": metadata, "versions": versions})
}

fn aggregated_resource(resource: &'static Resource) -> Value {
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": {"group": "", "version": "", "kind": resource.kind},
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    add_names(&mut entry, resource);
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|s| {
            json!({
                "subresource": s.name,
                "responseKind": {"group": s.group, "version": s.version, "kind": s.kind},
                "verbs": s.verbs,
            })
        })
        .collect();
    if !subresources.is_empty() {
        entry["subresources"] = Value::Array(subresources);
    }
    entry
}
