//! Every document against those of a v1.36 API server with everything on: without its alpha versions, which are not
//! built, and without its betas, which are off by default.

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

/// Takes versions of these stages, and groups that have nothing else, out of a list of groups.
fn without(groups: &mut Value, stages: &[&str]) {
    let groups = groups.as_array_mut().unwrap();
    groups.iter_mut().for_each(|group| without_versions(group, stages));
    groups.retain(|g| !g["versions"].as_array().unwrap().is_empty());
}

fn without_versions(group: &mut Value, stages: &[&str]) {
    let is_off =
        |version: &Value| stages.iter().any(|stage| version["version"].as_str().unwrap().contains(stage));
    group["versions"].as_array_mut().unwrap().retain(|v| !is_off(v));
}

/// What is served, and the stages that are not: by default, and with every beta on.
fn selections() -> [(Selection, &'static [&'static str]); 2] {
    [(Selection::default(), &["alpha", "beta"]), ("api/beta=true".parse().unwrap(), &["alpha"])]
}

#[test]
fn legacy_documents_are_upstreams() {
    let Some(api) = published("api.json") else { return };
    assert_eq!(api_versions("10.10.10.10:8050"), api);
    for (served, off) in selections() {
        let mut apis = published("apis.json").unwrap();
        without(&mut apis["groups"], off);
        assert_eq!(api_groups(&served), apis);
        assert_eq!(resource_list(&served, "", "v1"), published("api__v1.json"));
        for (name, versions) in named_groups(&served) {
            let mut document = published(&format!("apis__{name}.json")).unwrap();
            without_versions(&mut document, off);
            assert_eq!(group(&served, name).unwrap(), document, "{name}");
            for version in versions {
                let file = format!("apis__{name}__{version}.json");
                assert_eq!(resource_list(&served, name, version), published(&file), "{file}");
            }
        }
    }
}

/// Every published document is compared by one of the tests above, but for alpha versions.
#[test]
fn no_published_version_is_left_out() {
    let Some(apis) = published("apis.json") else { return };
    let (betas, _) = &selections()[1];
    for group in apis["groups"].as_array().unwrap() {
        let name = group["name"].as_str().unwrap();
        for version in group["versions"].as_array().unwrap() {
            let version = version["version"].as_str().unwrap();
            let list = resource_list(betas, name, version);
            assert_eq!(list.is_none(), version.contains("alpha"), "{name}/{version}");
        }
    }
}

#[test]
fn aggregated_document_is_upstreams() {
    for (served, off) in selections() {
        let Some(mut document) = published("aggregated_v2.json") else { return };
        without(&mut document["items"], off);
        assert_eq!(aggregated(&served, "/apis").unwrap(), document);
    }
}

#[test]
fn core_group_is_aggregated_under_api() {
    let served = Selection::default();
    let document = aggregated(&served, "/api").unwrap();
    assert_eq!(document["items"].as_array().unwrap().len(), 1);
    assert_eq!(document["items"][0]["versions"][0]["version"], "v1");
    assert_eq!(aggregated(&served, "/openapi"), None);
    assert_eq!(group(&served, "nothing"), None);
    assert_eq!(resource_list(&served, "apps", "v1beta1"), None);
}
