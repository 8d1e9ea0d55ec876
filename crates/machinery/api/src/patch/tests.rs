//! Patches of each type, case by case.
#![allow(clippy::needless_pass_by_value, reason = "cases are literals")]

use serde_json::json;

mod apply;

use super::*;
use crate::schema::by_name;

#[track_caller]
fn json(target: Value, patch: Value, expected: Value) {
    assert_eq!(json_patch(&target, patch.to_string().as_bytes()).unwrap(), expected);
}

#[track_caller]
fn json_fails(target: Value, patch: Value) {
    let error = json_patch(&target, patch.to_string().as_bytes()).unwrap_err();
    assert_eq!((error.code, error.reason), (422, "Invalid"));
    assert_eq!(error.message, "the server rejected our request due to an error in our request");
}

#[test]
fn json_patch_operations() {
    let doc = || json!({"a": {"b": [1, 2, 3]}, "c/d": 1});
    json(
        doc(),
        json!([{"op": "add", "path": "/a/b/-", "value": 4}]),
        json!({"a": {"b": [1, 2, 3, 4]}, "c/d": 1}),
    );
    json(
        doc(),
        json!([{"op": "add", "path": "/a/b/1", "value": 9}]),
        json!({"a": {"b": [1, 9, 2, 3]}, "c/d": 1}),
    );
    json(doc(), json!([{"op": "remove", "path": "/a/b/-1"}]), json!({"a": {"b": [1, 2]}, "c/d": 1}));
    json(
        doc(),
        json!([{"op": "replace", "path": "/c~1d", "value": {}}]),
        json!({"a": {"b": [1, 2, 3]}, "c/d": {}}),
    );
    json(
        doc(),
        json!([{"op": "replace", "path": "/new", "value": 1}, {"op": "remove", "path": "/a"}]),
        json!({"new": 1, "c/d": 1}),
    );
    json(
        doc(),
        json!([{"op": "move", "from": "/a/b", "path": "/e"}]),
        json!({"a": {}, "c/d": 1, "e": [1, 2, 3]}),
    );
    json(
        doc(),
        json!([{"op": "copy", "from": "/c~1d", "path": "/a/x"}]),
        json!({"a": {"b": [1, 2, 3], "x": 1}, "c/d": 1}),
    );
    json(doc(), json!([{"op": "test", "path": "/a/b", "value": [1, 2.0, 3]}]), doc());
    json(doc(), json!([{"op": "test", "path": "/none", "value": null}]), doc());
}

#[test]
fn json_patch_failures_are_unprocessable() {
    let doc = || json!({"a": [1]});
    json_fails(doc(), json!([{"op": "test", "path": "/a/0", "value": 2}]));
    json_fails(doc(), json!([{"op": "remove", "path": "/none"}]));
    json_fails(doc(), json!([{"op": "remove", "path": "/a/1"}]));
    json_fails(doc(), json!([{"op": "add", "path": "/none/x", "value": 1}]));
    json_fails(doc(), json!([{"op": "add", "path": "/a/5", "value": 1}]));
    json_fails(doc(), json!([{"op": "replace", "path": "/a/x", "value": 1}]));
    json_fails(doc(), json!([{"op": "jump", "path": "/a"}]));
    json_fails(doc(), json!([{"op": "remove"}]));
    json_fails(doc(), json!([1]));
}

#[test]
fn malformed_patches_are_bad_requests() {
    let fails = |patch: &str| json_patch(&json!({}), patch.as_bytes()).unwrap_err();
    let error = fails("{}");
    assert_eq!(
        (error.code, error.message.as_str()),
        (
            400,
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        )
    );
    assert_eq!(fails("[").message, "error decoding patch: unexpected end of JSON input");
    let many = format!("[{}]", vec![r#"{"op":"test","path":"/a"}"#; 10_001].join(","));
    let error = fails(&many);
    assert_eq!((error.code, error.reason), (413, "RequestEntityTooLarge"));
    let error = merge_patch(&json!({}), b"[]").unwrap_err();
    assert_eq!(
        error.message,
        "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
    );
    let deep = format!("{}{}", r#"{"a":"#.repeat(1000), "}".repeat(1000));
    assert_eq!(merge_patch(&json!({}), deep.as_bytes()).unwrap_err().code, 400);
}

#[test]
fn copies_do_not_grow_without_bound() {
    let target = json!({"a": "x".repeat(1000)});
    let copy = json!({"op": "copy", "from": "/a", "path": "/b"});
    let double: Vec<Value> = std::iter::repeat_n(copy, 9_000).collect();
    json_fails(target, Value::from(double));
}

#[test]
fn merge_patch_follows_the_rfc() {
    let target = json!({"a": "b", "c": {"d": "e", "f": "g"}, "l": [1, 2]});
    let patch = json!({"a": "z", "c": {"f": null, "n": {"x": null}}, "l": [3]});
    let merged = merge_patch(&target, patch.to_string().as_bytes()).unwrap();
    assert_eq!(merged, json!({"a": "z", "c": {"d": "e", "n": {}}, "l": [3]}));
}

#[track_caller]
fn strategic(target: Value, patch: Value, expected: Value) {
    let ty = by_name("core.v1.PodSpec").unwrap();
    assert_eq!(strategic_merge_patch(&target, patch.to_string().as_bytes(), ty).unwrap(), expected);
}

#[track_caller]
fn strategic_fails(target: Value, patch: Value, code: u16, message: &str) {
    let ty = by_name("core.v1.PodSpec").unwrap();
    let error = strategic_merge_patch(&target, patch.to_string().as_bytes(), ty).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (code, message));
}

fn containers() -> Value {
    json!({"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}, {"name": "c", "image": "1"}]})
}

#[test]
fn lists_merge_by_key() {
    strategic(
        containers(),
        json!({"containers": [{"name": "b", "image": "2", "env": [{"name": "x", "value": null}]}, {"name": "d", "stdin": null}]}),
        json!({"containers": [
            {"name": "a", "image": "1"}, {"name": "b", "image": "2", "env": [{"name": "x"}]}, {"name": "d"},
            {"name": "c", "image": "1"}]}),
    );
    strategic(
        json!({"containers": [{"name": "a", "args": ["x", "y"], "ports": [{"containerPort": 1, "name": "p"}]}]}),
        json!({"containers": [{"name": "a", "args": ["z"], "ports": [{"containerPort": 2}]}]}),
        json!({"containers": [{"name": "a", "args": ["z"], "ports": [{"containerPort": 2}, {"containerPort": 1, "name": "p"}]}]}),
    );
}

#[test]
fn items_and_objects_take_directives() {
    strategic(
        containers(),
        json!({"containers": [{"name": "b", "$patch": "delete"}]}),
        json!({"containers": [{"name": "a", "image": "1"}, {"name": "c", "image": "1"}]}),
    );
    strategic(
        containers(),
        json!({"containers": [{"$patch": "replace"}, {"name": "z"}]}),
        json!({"containers": [{"name": "z"}]}),
    );
    strategic(
        json!({"nodeSelector": {"a": "1", "b": "2"}, "securityContext": {"runAsUser": 1}}),
        json!({"nodeSelector": {"$patch": "replace", "c": "3"}, "securityContext": {"$patch": "delete"}}),
        json!({"nodeSelector": {"c": "3"}, "securityContext": {}}),
    );
    // A directive on something that is not there leaves nothing.
    strategic(
        json!({}),
        json!({"containers": [{"name": "a", "$patch": "delete"}]}),
        json!({"containers": []}),
    );
    strategic_fails(
        json!({"nodeSelector": {}}),
        json!({"nodeSelector": {"$patch": "explode"}}),
        500,
        "unknown patch type: explode in map: map[$patch:explode]",
    );
    strategic_fails(
        containers(),
        json!({"containers": [{"image": "2"}]}),
        500,
        "map: map[image:2] does not contain declared merge key: name",
    );
}

#[test]
fn retain_keys_clears_the_others() {
    strategic(
        json!({"volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}),
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}),
    );
    strategic_fails(
        json!({"volumes": [{"name": "v"}]}),
        json!({"volumes": [{"name": "v", "$retainKeys": ["name"], "hostPath": {"path": "/x"}}]}),
        400,
        "invalid patch format of retainKeys",
    );
}

#[test]
fn scalars_merge_as_sets_and_can_be_deleted() {
    let ty = by_name("meta.v1.ObjectMeta").unwrap();
    let patch = |patch: Value| {
        let target = json!({"finalizers": ["a", "b", "c"]});
        strategic_merge_patch(&target, patch.to_string().as_bytes(), ty).unwrap()
    };
    assert_eq!(patch(json!({"finalizers": ["d", "b"]})), json!({"finalizers": ["d", "a", "b", "c"]}));
    assert_eq!(
        patch(json!({"$deleteFromPrimitiveList/finalizers": ["b"]})),
        json!({"finalizers": ["a", "c"]})
    );
    assert_eq!(
        patch(json!({"$setElementOrder/finalizers": ["c", "d", "a"], "finalizers": ["d"]})),
        json!({"finalizers": ["b", "c", "d", "a"]})
    );
    let error = strategic_merge_patch(&json!({}), br#"{"$deleteFromPrimitiveList":["b"]}"#, ty).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (400, "invalid patch format of primitive list"));
}

#[test]
fn element_order_is_set() {
    strategic(
        containers(),
        json!({"$setElementOrder/containers": [{"name": "c"}, {"name": "d"}, {"name": "a"}], "containers": [{"name": "d"}]}),
        json!({"containers": [
            {"name": "b", "image": "1"}, {"name": "c", "image": "1"}, {"name": "d"}, {"name": "a", "image": "1"}]}),
    );
    strategic_fails(
        containers(),
        json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b"}]}),
        500,
        "The order in patch list:\n[map[name:b]]\n doesn't match $setElementOrder list:\n[map[name:a]]\n",
    );
}

#[test]
fn nulls_and_plain_values() {
    strategic(
        json!({"nodeName": "a", "hostname": "h", "tolerations": [{"key": "x"}]}),
        json!({"nodeName": null, "hostname": "i", "missing": null, "tolerations": [{"key": "y"}]}),
        json!({"hostname": "i", "tolerations": [{"key": "y"}]}),
    );
    strategic_fails(
        json!({"unknown": {}}),
        json!({"unknown": {"a": 1}}),
        500,
        "unable to find api field in struct PodSpec for the json field \"unknown\"",
    );
}

#[test]
fn results_are_checked() {
    let ty = by_name("core.v1.ConfigMap").unwrap();
    let target =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}});
    let patch = |patch: &str, validation| {
        super::patch(target.clone(), patch.as_bytes(), PatchType::Merge, ty, validation)
    };
    let done = patch(r#"{"data":{"x":null},"foo":1}"#, FieldValidation::Warn).unwrap();
    assert_eq!(done.object, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}));
    assert_eq!(done.warnings, [r#"unknown field "foo""#]);
    let error = patch(r#"{"foo":1,"foo":2}"#, FieldValidation::Strict).unwrap_err();
    assert_eq!((error.code, error.reason), (422, "Invalid"));
    assert!(
        error.message.ends_with(r#"strict decoding error: duplicate field "foo", unknown field "foo""#),
        "{}",
        error.message
    );
    assert!(error.message.starts_with(r#" "" is invalid: patch: Invalid value: "{"#), "{}", error.message);
    let error = patch(r#"{"data":5}"#, FieldValidation::Ignore).unwrap_err();
    assert!(error.message.contains("cannot unmarshal number into Go struct field ConfigMap.data"), "{error}");
}
