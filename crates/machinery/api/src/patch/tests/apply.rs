//! Server-side apply: who owns what, what is pruned, who conflicts.
#![allow(clippy::needless_pass_by_value, reason = "cases are literals")]

use serde_json::json;

use crate::patch::apply::*;
use crate::schema::by_name;
use serde_json::Value;

const STATUS: &[&[&str]] = &[&["status"]];

fn writer(manager: &'static str, now: &'static str) -> Writer<'static> {
    Writer { manager, subresource: "", now, reset: STATUS }
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data})
}

fn apply_map(
    live: &Value,
    data: Value,
    manager: &'static str,
    force: bool,
) -> Result<Value, crate::status::ApiError> {
    let ty = by_name("core.v1.ConfigMap").unwrap();
    server_side_apply(live, &map(data), ty, &writer(manager, "2024-01-01T00:00:00Z"), force)
}

fn deployment(replicas: Option<i64>, containers: Value) -> Value {
    let mut object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"},
        "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": containers}}},
    });
    if let Some(replicas) = replicas {
        object["spec"]["replicas"] = Value::from(replicas);
    }
    object
}

fn apply_deployment(
    live: &Value,
    config: &Value,
    manager: &'static str,
    force: bool,
) -> Result<Value, crate::status::ApiError> {
    let ty = by_name("apps.v1.Deployment").unwrap();
    server_side_apply(live, config, ty, &writer(manager, "2024-01-01T00:00:00Z"), force)
}

fn owned<'a>(object: &'a Value, manager: &str) -> &'a Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    &entries.iter().find(|e| e["manager"] == manager).unwrap_or_else(|| panic!("{manager} owns nothing"))["fieldsV1"]
}

#[test]
fn a_first_apply_creates_and_owns() {
    let created = apply_map(&Value::Null, json!({"a": "1"}), "one", false).unwrap();
    assert_eq!(created["data"], json!({"a": "1"}));
    assert_eq!(
        created["metadata"]["managedFields"],
        json!([{
            "manager": "one", "operation": "Apply", "apiVersion": "v1", "time": "2024-01-01T00:00:00Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:a": {}}},
        }])
    );
}

#[test]
fn items_of_keyed_lists_are_owned_by_their_keys() {
    let containers = json!([{"name": "c", "image": "i", "ports": [{"containerPort": 80}], "args": ["x"]}]);
    let created = apply_deployment(&Value::Null, &deployment(Some(2), containers), "one", false).unwrap();
    assert_eq!(
        owned(&created, "one"),
        &json!({"f:spec": {
            "f:replicas": {},
            "f:selector": {},
            "f:template": {
                "f:metadata": {"f:labels": {"f:a": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
                    ".": {}, "f:name": {}, "f:image": {}, "f:args": {},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                }}},
            },
        }})
    );
}

#[test]
fn what_is_no_longer_applied_is_pruned() {
    let live = apply_map(&Value::Null, json!({"a": "1", "b": "2"}), "one", false).unwrap();
    let next = apply_map(&live, json!({"b": "2"}), "one", false).unwrap();
    assert_eq!(next["data"], json!({"b": "2"}));
    // The last field takes its map along.
    let empty =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "labels": {"x": "y"}}});
    let ty = by_name("core.v1.ConfigMap").unwrap();
    let next = server_side_apply(&next, &empty, ty, &writer("one", "2024-01-02T00:00:00Z"), false).unwrap();
    assert_eq!(next.get("data"), None);
}

#[test]
fn what_others_own_is_not_pruned() {
    let live = apply_map(&Value::Null, json!({"a": "1", "b": "2"}), "one", false).unwrap();
    let shared = apply_map(&live, json!({"b": "2"}), "two", false).unwrap();
    let next = apply_map(&shared, json!({"a": "1"}), "one", false).unwrap();
    assert_eq!(next["data"], json!({"a": "1", "b": "2"}));
    assert_eq!(owned(&next, "two"), &json!({"f:data": {"f:b": {}}}));
    assert_eq!(owned(&next, "one"), &json!({"f:data": {"f:a": {}}}));
}

#[test]
fn another_managers_value_is_a_conflict_unless_forced() {
    let live = apply_map(&Value::Null, json!({"a": "1", "b": "2"}), "one", false).unwrap();
    let error = apply_map(&live, json!({"a": "9"}), "two", false).unwrap_err();
    assert_eq!((error.code, error.reason), (409, "Conflict"));
    assert_eq!(error.message, r#"Apply failed with 1 conflict: conflict with "one": .data.a"#);
    assert_eq!(
        error.details.unwrap()["causes"],
        json!([{"reason": "FieldManagerConflict", "message": r#"conflict with "one""#, "field": ".data.a"}])
    );
    let error = apply_map(&live, json!({"a": "9", "b": "9"}), "two", false).unwrap_err();
    assert_eq!(error.message, "Apply failed with 2 conflicts: conflicts with \"one\":\n- .data.a\n- .data.b");
    let forced = apply_map(&live, json!({"a": "9"}), "two", true).unwrap();
    assert_eq!(forced["data"], json!({"a": "9", "b": "2"}));
    assert_eq!(owned(&forced, "one"), &json!({"f:data": {"f:b": {}}}));
    assert_eq!(owned(&forced, "two"), &json!({"f:data": {"f:a": {}}}));
    // The same value is shared, not fought over.
    let shared = apply_map(&live, json!({"a": "1"}), "two", false).unwrap();
    assert_eq!(owned(&shared, "one"), &json!({"f:data": {"f:a": {}, "f:b": {}}}));
}

#[test]
fn an_update_takes_fields_and_a_later_apply_conflicts() {
    let ty = by_name("apps.v1.Deployment").unwrap();
    let config = deployment(Some(2), json!([{"name": "c", "image": "i"}]));
    let live = apply_deployment(&Value::Null, &config, "one", false).unwrap();
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = json!(5);
    track(&live, &mut scaled, ty, &writer("scaler", "2024-01-03T00:00:00Z"));
    assert_eq!(owned(&scaled, "scaler"), &json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(owned(&scaled, "one")["f:spec"].get("f:replicas"), None);
    let error = apply_deployment(&scaled, &config, "one", false).unwrap_err();
    assert_eq!(
        error.message,
        r#"Apply failed with 1 conflict: conflict with "scaler" using apps/v1: .spec.replicas"#
    );
    // Leaving the field to the scaler is no conflict, and keeps its value.
    let left = deployment(None, json!([{"name": "c", "image": "j"}]));
    let next = apply_deployment(&scaled, &left, "one", false).unwrap();
    assert_eq!(
        (&next["spec"]["replicas"], &next["spec"]["template"]["spec"]["containers"][0]["image"]),
        (&json!(5), &json!("j"))
    );
}

#[test]
fn unowned_defaults_go_with_their_item() {
    let two = json!([{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]);
    let mut live = apply_deployment(&Value::Null, &deployment(None, two), "one", false).unwrap();
    for container in live["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap() {
        container["imagePullPolicy"] = json!("Always");
    }
    let one = deployment(None, json!([{"name": "b", "image": "i"}]));
    let next = apply_deployment(&live, &one, "one", false).unwrap();
    assert_eq!(
        next["spec"]["template"]["spec"]["containers"],
        json!([{"name": "b", "image": "i", "imagePullPolicy": "Always", "resources": {}}])
    );
}

#[test]
fn lists_keep_the_order_of_the_configuration() {
    let containers =
        |names: &[&str]| Value::from(names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>());
    let live = apply_deployment(&Value::Null, &deployment(None, containers(&["a", "b", "c"])), "one", false)
        .unwrap();
    let merged =
        apply_deployment(&live, &deployment(None, containers(&["d", "c", "a"])), "two", false).unwrap();
    let names: Vec<&str> = merged["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["d", "b", "c", "a"]);
}

#[test]
fn applying_again_changes_nothing() {
    let ty = by_name("apps.v1.Deployment").unwrap();
    let mut config = deployment(Some(1), json!([{"name": "c", "image": "i"}]));
    config["spec"]["template"]["spec"]["containers"][0]["resources"] =
        json!({"limits": {"cpu": "0.5", "memory": "1024Mi"}});
    let live = apply_deployment(&Value::Null, &config, "one", false).unwrap();
    assert_eq!(
        live["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"],
        json!({"cpu": "500m", "memory": "1Gi"})
    );
    let again = server_side_apply(&live, &config, ty, &writer("one", "2030-01-01T00:00:00Z"), false).unwrap();
    assert_eq!(again, live);
}

#[test]
fn a_create_is_tracked_as_upstream_tracks_it() {
    let ty = by_name("apps.v1.Deployment").unwrap();
    let config = deployment(
        Some(1),
        json!([{"name": "c", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]),
    );
    let mut new = crate::codec::check(config, ty, crate::codec::FieldValidation::Strict).unwrap().object;
    track(&Value::Null, &mut new, ty, &writer("kubectl-create", "2024-01-01T00:00:00Z"));
    assert_eq!(
        owned(&new, "kubectl-create"),
        &json!({"f:spec": {
            "f:replicas": {},
            "f:selector": {},
            "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
                    ".": {}, "f:name": {}, "f:image": {}, "f:resources": {},
                    "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {
                        ".": {}, "f:containerPort": {}, "f:protocol": {}}},
                }}},
            },
        }})
    );
    let unchanged = new.clone();
    track(&unchanged, &mut new, ty, &writer("nobody", "2025-01-01T00:00:00Z"));
    assert_eq!(new, unchanged);
}

#[test]
fn zeros_that_are_always_written_are_nobodys_until_they_change() {
    let ty = by_name("core.v1.Event").unwrap();
    let event = |reporter: &str| {
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "reason": "r",
            "reportingComponent": reporter, "reportingInstance": "", "firstTimestamp": null})
    };
    let mut new = event("");
    track(&Value::Null, &mut new, ty, &writer("m", "2024-01-01T00:00:00Z"));
    assert_eq!(owned(&new, "m"), &json!({"f:reason": {}}));
    let mut next = new.clone();
    next["reportingComponent"] = json!("x");
    track(&new, &mut next, ty, &writer("m", "2024-01-01T00:00:00Z"));
    assert_eq!(owned(&next, "m"), &json!({"f:reason": {}, "f:reportingComponent": {}}));
}

#[test]
fn managers_can_be_forgotten_and_are_capped() {
    let ty = by_name("core.v1.ConfigMap").unwrap();
    let mut live = map(json!({"first": "v"}));
    track(&Value::Null, &mut live, ty, &writer("first", "2023-01-01T00:00:00Z"));
    for i in 0..15 {
        let mut new = live.clone();
        new["data"][format!("k{i}")] = json!("v");
        let manager: &'static str = Box::leak(format!("m{i:02}").into_boxed_str());
        let now: &'static str = Box::leak(format!("2024-01-01T00:00:{i:02}Z").into_boxed_str());
        track(&live, &mut new, ty, &writer(manager, now));
        live = new;
    }
    assert_eq!(live["metadata"]["managedFields"].as_array().unwrap().len(), 10);
    assert!(owned(&live, "ancient-changes")["f:data"].get("f:k0").is_some());
    assert!(owned(&live, "m14")["f:data"].get("f:k14").is_some());
    let mut new = live.clone();
    new["metadata"]["managedFields"] = json!([{}]);
    track(&live, &mut new, ty, &writer("x", "2024-01-02T00:00:00Z"));
    assert_eq!(new["metadata"].get("managedFields"), None);
    let mut cleared = live.clone();
    cleared["metadata"]["managedFields"] = json!([]);
    cleared["data"]["k0"] = json!("w");
    track(&live, &mut cleared, ty, &writer("x", "2024-01-02T00:00:00Z"));
    assert_eq!(cleared["metadata"].get("managedFields"), None);
    // Not through a subresource, and what is not whole is not taken.
    let status = Writer { subresource: "status", ..writer("x", "2024-01-02T00:00:00Z") };
    let mut kept = live.clone();
    kept["metadata"]["managedFields"] = json!([]);
    track(&live, &mut kept, ty, &status);
    assert_eq!(kept, live);
    kept["metadata"]["managedFields"] = json!([{"manager": "y", "operation": "Update"}]);
    track(&live, &mut kept, ty, &writer("x", "2024-01-02T00:00:00Z"));
    assert_eq!(kept, live);
    // Once forgotten, updates alone do not begin anew.
    let mut next = cleared.clone();
    next["data"]["k0"] = json!("x");
    track(&cleared, &mut next, ty, &writer("x", "2024-01-02T00:00:00Z"));
    assert_eq!(next["metadata"].get("managedFields"), None);
    let applied = apply_map(&next, json!({"k1": "z"}), "one", true).unwrap();
    assert_eq!(owned(&applied, "one"), &json!({"f:data": {"f:k1": {}}}));
    let first = owned(&applied, "before-first-apply");
    assert!(first["f:data"].get("f:k0").is_some() && first["f:data"].get("f:k1").is_none(), "{first}");
}

#[test]
fn kubectl_takes_over_from_client_side_apply() {
    const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let ty = by_name("core.v1.ConfigMap").unwrap();
    let mut live = map(json!({"a": "1", "b": "2"}));
    live["metadata"]["annotations"] = json!({ANNOTATION: map(json!({"a": "1", "b": "2"})).to_string()});
    track(&Value::Null, &mut live, ty, &writer("kubectl-client-side-apply", "2024-01-01T00:00:00Z"));
    // Another's name conflicts with what the client applied.
    assert_eq!(apply_map(&live, json!({"a": "3"}), "other", false).unwrap_err().code, 409);
    let next = apply_map(&live, json!({"a": "3"}), "kubectl", false).unwrap();
    assert_eq!(next["data"], json!({"a": "3", "b": "2"}));
    let last: Value =
        serde_json::from_str(next["metadata"]["annotations"][ANNOTATION].as_str().unwrap()).unwrap();
    assert_eq!(last, map(json!({"a": "3"})));
    // What was changed since is not the client's to take.
    let mut changed = live.clone();
    changed["data"]["a"] = json!("9");
    track(&live, &mut changed, ty, &writer("editor", "2024-01-02T00:00:00Z"));
    let error = apply_map(&changed, json!({"a": "3", "b": "4"}), "kubectl", false).unwrap_err();
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"editor\" using v1: .data.a");
}

#[test]
fn replicas_are_owned_through_the_scale_too() {
    let config = deployment(Some(2), json!([{"name": "c", "image": "i"}]));
    let live = apply_deployment(&Value::Null, &config, "one", false).unwrap();
    let scale_type = by_name("autoscaling.v1.Scale").unwrap();
    let scale_of = |object: &Value| {
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale",
            "metadata": {"name": "d", "managedFields": scale::of_scale(object)},
            "spec": {"replicas": object["spec"]["replicas"]}, "status": {"replicas": 0}})
    };
    let before = scale_of(&live);
    assert_eq!(owned(&before, "one"), &json!({"f:spec": {"f:replicas": {}}}));
    // The same number changes nobody's fields.
    let mut same = before.clone();
    let scaler = Writer { subresource: "scale", ..writer("scaler", "2024-01-03T00:00:00Z") };
    track(&before, &mut same, scale_type, &scaler);
    assert_eq!(scale::of_parent(&live, &same, "apps/v1"), live["metadata"]["managedFields"]);
    let mut after = before.clone();
    after["spec"]["replicas"] = json!(5);
    track(&before, &mut after, scale_type, &scaler);
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = json!(5);
    scaled["metadata"]["managedFields"] = scale::of_parent(&live, &after, "apps/v1");
    assert_eq!(owned(&scaled, "one")["f:spec"].get("f:replicas"), None);
    let entries = scaled["metadata"]["managedFields"].as_array().unwrap();
    let entry = entries.iter().find(|e| e["manager"] == "scaler").unwrap();
    assert_eq!(
        entry,
        &json!({"manager": "scaler", "operation": "Update", "apiVersion": "apps/v1", "subresource": "scale",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}}})
    );
    let error = apply_deployment(&scaled, &config, "one", false).unwrap_err();
    assert_eq!(
        error.message,
        r#"Apply failed with 1 conflict: conflict with "scaler" with subresource "scale" using apps/v1: .spec.replicas"#
    );
}

#[test]
fn versions_of_one_kind_share_their_managers() {
    let config = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}},
    });
    let ty = by_name("autoscaling.v2.HorizontalPodAutoscaler").unwrap();
    let live =
        server_side_apply(&Value::Null, &config, ty, &writer("one", "2024-01-01T00:00:00Z"), false).unwrap();
    let live_v1 = crate::codec::convert(live, "autoscaling", "v1").unwrap();
    let mut new = live_v1.clone();
    new["spec"]["maxReplicas"] = json!(7);
    let ty = by_name("autoscaling.v1.HorizontalPodAutoscaler").unwrap();
    track(&live_v1, &mut new, ty, &writer("two", "2024-01-02T00:00:00Z"));
    assert_eq!(owned(&new, "one"), &json!({"f:spec": {"f:scaleTargetRef": {"f:kind": {}, "f:name": {}}}}));
    assert_eq!(owned(&new, "two"), &json!({"f:spec": {"f:maxReplicas": {}}}));
}

/// What was applied in one version of the API goes when it is no longer applied in another, unless somebody else owns
/// it, by whatever name.
#[test]
fn what_is_no_longer_applied_is_pruned_across_versions() {
    let v2 = by_name("autoscaling.v2.HorizontalPodAutoscaler").unwrap();
    let v1 = by_name("autoscaling.v1.HorizontalPodAutoscaler").unwrap();
    let in_v2 = |metrics: Value| {
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"minReplicas": 2, "maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"},
                "metrics": metrics},
        })
    };
    let in_v1 = |mut spec: Value| {
        spec["maxReplicas"] = json!(3);
        spec["scaleTargetRef"] = json!({"kind": "Deployment", "name": "d"});
        json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": spec})
    };
    let as_v1 = |live: &Value| crate::codec::convert(live.clone(), "autoscaling", "v1").unwrap();
    let apply = |live: &Value, config: &Value, ty, manager| {
        server_side_apply(live, config, ty, &writer(manager, "2024-01-01T00:00:00Z"), true).unwrap()
    };
    let cpu = json!([{"type": "Resource", "resource":
        {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}]);
    let live = apply(&Value::Null, &in_v2(cpu), v2, "one");
    assert_eq!(as_v1(&live)["spec"]["targetCPUUtilizationPercentage"], 70);

    let pruned = apply(&as_v1(&live), &in_v1(json!({})), v1, "one");
    assert_eq!(pruned["spec"].get("targetCPUUtilizationPercentage"), None, "{pruned}");
    assert_eq!(pruned["spec"].get("minReplicas"), None, "{pruned}");
    assert_eq!(pruned["spec"]["maxReplicas"], 3);
    let entries = pruned["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!((entries.len(), &entries[0]["apiVersion"]), (1, &json!("autoscaling/v1")), "{pruned}");

    // Another has come to own the utilization by its name in v1, and the first applies v2 without it.
    let shared = apply(&as_v1(&live), &in_v1(json!({"targetCPUUtilizationPercentage": 70})), v1, "two");
    let shared = crate::codec::convert(shared, "autoscaling", "v2").unwrap();
    let mut config = in_v2(json!(null));
    config["spec"].as_object_mut().unwrap().remove("metrics");
    config["spec"].as_object_mut().unwrap().remove("minReplicas");
    let kept = apply(&shared, &config, v2, "one");
    assert_eq!(as_v1(&kept)["spec"]["targetCPUUtilizationPercentage"], 70, "{kept}");
    assert_eq!(kept["spec"].get("minReplicas"), None, "nobody else owns it: {kept}");

    // A version that nobody knows any more prunes nothing.
    let mut old = live;
    old["metadata"]["managedFields"][0]["apiVersion"] = json!("autoscaling/v2beta1");
    let kept = apply(&old, &config, v2, "one");
    assert_eq!(kept["spec"]["minReplicas"], 2, "{kept}");
}

#[test]
fn bad_configurations_are_refused() {
    let live = apply_map(&Value::Null, json!({"a": "1"}), "one", false).unwrap();
    let ty = by_name("core.v1.ConfigMap").unwrap();
    let refused = |config: Value| {
        server_side_apply(&live, &config, ty, &writer("x", "2024-01-01T00:00:00Z"), false).unwrap_err()
    };
    let mut config = map(json!({}));
    config["apiVersion"] = json!("v2");
    let error = refused(config);
    assert_eq!(
        (error.code, error.message.as_str()),
        (400, "Incorrect version specified in apply patch. Specified patch version: v2, expected: v1")
    );
    let mut config = map(json!({}));
    config["metadata"]["managedFields"] = json!([]);
    assert_eq!(refused(config).message, "metadata.managedFields must be nil");
    let mut config = map(json!({"a": 5}));
    config["foo"] = json!(1);
    let error = refused(config);
    assert_eq!(
        error.message,
        "failed to create typed patch object (/m; /v1, Kind=ConfigMap): errors:\n  .data.a: expected string, got &{5}\n  .foo: field not declared in schema"
    );
    let twice = deployment(None, json!([{"name": "a"}, {"name": "a"}]));
    let error = apply_deployment(&Value::Null, &twice, "one", false).unwrap_err();
    assert!(
        error.message.contains(r#".spec.template.spec.containers: duplicate entries for key [name="a"]"#),
        "{error}"
    );
    let unnamed = deployment(None, json!([{"image": "a"}]));
    let error = apply_deployment(&Value::Null, &unnamed, "one", false).unwrap_err();
    assert!(error.message.contains(r#"omits key field "name""#), "{error}");
    assert_eq!(parse(b"[").unwrap_err().code, 400);
    assert_eq!(parse(b"a: 1\nb: [x]").unwrap().0, json!({"a": 1, "b": ["x"]}));
}
