//! Objects that upstream accepts are accepted here: its Pod Security test pods and its bootstrap roles.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::*;

fn data(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared/data").join(name);
    if !path.is_dir() {
        println!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            files(&entry, found);
        } else if entry.extension().is_some_and(|e| e == "yaml") {
            found.push(entry);
        }
    }
}

/// Every object in the YAML files below a folder, lists taken apart.
fn objects(folder: &Path) -> Vec<(PathBuf, Value)> {
    let mut paths = Vec::new();
    files(folder, &mut paths);
    let mut objects = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        for document in serde_norway::Deserializer::from_str(&text) {
            let value = Value::deserialize(document).unwrap();
            match value.get("items").and_then(Value::as_array) {
                Some(items) => objects.extend(items.iter().map(|item| (path.clone(), item.clone()))),
                None if value.is_object() => objects.push((path.clone(), value)),
                None => {}
            }
        }
    }
    objects
}

#[track_caller]
fn all_are_accepted(folder: &str, at_least: usize) {
    let Some(folder) = data(folder) else { return };
    let objects = objects(&folder);
    assert!(objects.len() >= at_least, "only {} objects", objects.len());
    let mut refused = Vec::new();
    for (path, object) in objects {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        let group =
            object["apiVersion"].as_str().and_then(|v| v.split_once('/')).map_or("", |(g, _)| g).to_owned();
        let object = created(&group, &kind, object);
        let faults = faults_of(&group, &kind, &object);
        if !faults.is_empty() {
            refused.push(format!("{}: {kind}: {faults:?}", path.display()));
        }
    }
    // Upstream refuses unmasked proc mounts in pods with the host's users before Pod Security sees them.
    refused.retain(|why| !why.contains("`hostUsers` must be false"));
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn pods_of_the_pod_security_tests_are_valid() {
    all_are_accepted("pod-security", 100);
}

#[test]
fn bootstrap_roles_are_valid() {
    all_are_accepted("rbac-bootstrap", 100);
}
