//! Every document against those of a v1.36 API server, versions that are off by default left out.

use std::path::PathBuf;

use super::*;

fn published(name: &str) -> Option<Value> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../../shared/data/discovery");
    let Ok(text) = std::fs::read_to_string(directory.join(name)) else {
        println!("skipped: no ../shared/data/discovery/{name} beside the workspace");
        return None;
    };
    Some(serde_json::from_str(&text).unwrap())
}

fn is_off(version: &Value) -> bool {
    ["alpha", "beta"].iter().any(|stage| version["version"].as_str().unwrap().contains(stage))
}

/// Takes versions that are off by default, and groups that have nothing else, out of a list of groups.
fn without_off(groups: &mut Value) {
    let groups = groups.as_array_mut().unwrap();
    for group in &mut *groups {
        group["versions"].as_array_mut().unwrap().retain(|v| !is_off(v));
    }
    groups.retain(|g| !g["versions"].as_array().unwrap().is_empty());
}

#[test]
fn legacy_documents_are_upstreams() {
    let Some(api) = published("api.json") else { return };
    assert_eq!(api_versions("10.10.10.10:8050"), api);
    let mut apis = published("apis.json").unwrap();
    without_off(&mut apis["groups"]);
    assert_eq!(api_groups(), apis);
    assert_eq!(resource_list("", "v1"), published("api__v1.json"));
    for (name, versions) in named_groups() {
        let mut document = published(&format!("apis__{name}.json")).unwrap();
        document["versions"].as_array_mut().unwrap().retain(|v| !is_off(v));
        assert_eq!(group(name).unwrap(), document, "{name}");
        for version in versions {
            let file = format!("apis__{name}__{version}.json");
            assert_eq!(resource_list(name, version), published(&file), "{file}");
        }
    }
}

#[test]
fn aggregated_document_is_upstreams() {
    let Some(mut document) = published("aggregated_v2.json") else { return };
    without_off(&mut document["items"]);
    assert_eq!(aggregated("/apis").unwrap(), document);
}

#[test]
fn core_group_is_aggregated_under_api() {
    let document = aggregated("/api").unwrap();
    assert_eq!(document["items"].as_array().unwrap().len(), 1);
    assert_eq!(document["items"][0]["versions"][0]["version"], "v1");
    assert_eq!(aggregated("/openapi"), None);
    assert_eq!(group("nothing"), None);
    assert_eq!(resource_list("apps", "v1beta1"), None);
}
