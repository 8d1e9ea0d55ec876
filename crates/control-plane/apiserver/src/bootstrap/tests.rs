//! The tables against upstream's published data, and reconciling.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;

fn key(object: &Value) -> (String, String, String) {
    (
        text(object, "/kind").to_owned(),
        text(object, "/metadata/namespace").to_owned(),
        text(object, "/metadata/name").to_owned(),
    )
}

#[test]
fn the_policy_is_upstreams() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../../shared/data/rbac-bootstrap");
    if !directory.exists() {
        println!("skipped: {} is absent", directory.display());
        return;
    }
    let mut expected = BTreeMap::new();
    for file in [
        "cluster-roles",
        "cluster-role-bindings",
        "controller-roles",
        "controller-role-bindings",
        "namespace-roles",
        "namespace-role-bindings",
    ] {
        let body = std::fs::read(directory.join(format!("{file}.yaml"))).unwrap();
        let list: Value = serde_norway::from_slice(&body).unwrap();
        for mut item in items(&list, "/items").to_vec() {
            if item["rules"].is_null() && item.get("aggregationRule").is_some() {
                item["rules"] = Value::Array(Vec::new());
            }
            expected.insert(key(&item), item);
        }
    }
    let mut actual = BTreeMap::new();
    for mut object in policy(Features::default()) {
        if object.get("aggregationRule").is_some() {
            assert!(items(&object, "/rules").len() > 10, "{} has its parts' rules", key(&object).2);
            object["rules"] = Value::Array(Vec::new());
        }
        actual.insert(key(&object), object);
    }
    for (key, wanted) in &expected {
        assert_eq!(actual.get(key), Some(wanted), "{key:?}");
    }
    assert_eq!(actual.len(), expected.len());
    assert_eq!(policy(Features::default()).len(), expected.len(), "no object twice");
}

#[test]
fn node_rules_are_there() {
    assert!(node_rules(Features::default()).len() > 20);
}

#[test]
fn reconcile_adds_and_never_takes_away() {
    let wanted = policy(Features::default())
        .into_iter()
        .find(|o| o["metadata"]["name"] == "system:basic-user")
        .unwrap();
    assert_eq!(reconcile(None, &wanted), Some(wanted.clone()));
    assert_eq!(reconcile(Some(&wanted), &wanted), None);

    let extra = json!({"apiGroups": ["x"], "resources": ["y"], "verbs": ["get"]});
    let mut stored = wanted.clone();
    stored["rules"] = json!([extra]);
    stored["metadata"]["labels"] = json!({"mine": "1"});
    let new = reconcile(Some(&stored), &wanted).unwrap();
    assert_eq!(new["rules"][0], extra);
    assert!(uncovered(&Rule::all_of(&new), &Rule::all_of(&wanted)).is_empty());
    assert_eq!(new["metadata"]["labels"]["mine"], "1");
    assert_eq!(new["metadata"]["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults");
    assert_eq!(reconcile(Some(&new), &wanted), None);

    stored["metadata"]["annotations"][AUTO_UPDATE] = json!("false");
    assert_eq!(reconcile(Some(&stored), &wanted), None, "protected");
}

#[test]
fn reconcile_restores_subjects_and_role() {
    let wanted = policy(Features::default())
        .into_iter()
        .find(|o| o["kind"] == "ClusterRoleBinding" && o["metadata"]["name"] == "cluster-admin")
        .unwrap();
    let mut stored = wanted.clone();
    stored["subjects"] = json!([{"apiGroup": GROUP, "kind": "User", "name": "jane"}]);
    stored["roleRef"]["name"] = json!("view");
    let new = reconcile(Some(&stored), &wanted).unwrap();
    assert_eq!(items(&new, "/subjects").len(), 2);
    assert_eq!(new["roleRef"], wanted["roleRef"]);
}

#[test]
fn trust_bundles_bring_their_rules() {
    let on = Features { cluster_trust_bundle: true, ..Features::default() };
    let (without, with) = (policy(Features::default()), policy(on));
    let named = |objects: &[Value], name: &str| -> Vec<Value> {
        objects.iter().filter(|object| object["metadata"]["name"] == name).cloned().collect()
    };
    let rule = json!({"apiGroups": ["certificates.k8s.io"], "resources": ["clustertrustbundles"],
        "verbs": ["get", "list", "watch"]});
    for name in [
        "system:cluster-trust-bundle-discovery",
        "system:controller:kube-apiserver-serving-clustertrustbundle-publisher",
    ] {
        assert_eq!(
            (named(&without, name).len(), named(&with, name).len()),
            (0, 2),
            "{name}: a role and its binding"
        );
    }
    let discovery = named(&with, "system:cluster-trust-bundle-discovery");
    assert_eq!(discovery[0]["rules"], json!([rule]));
    assert_eq!(discovery[1]["subjects"][0]["name"], "system:serviceaccounts");
    let (old, new) = (named(&without, "system:node"), named(&with, "system:node"));
    assert!(!items(&old[0], "/rules").contains(&rule) && items(&new[0], "/rules").contains(&rule));
    assert_eq!(with.len(), without.len() + 4);
}
