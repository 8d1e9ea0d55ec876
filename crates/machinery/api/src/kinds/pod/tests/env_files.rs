//! `fileKeyRef`: variables from a file of the pod.

use super::*;

const EMPTY: &str =
    "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";

fn reference(more: Value) -> Value {
    let mut file = json!({"volumeName": "own", "path": "a/b.env", "key": "K"});
    for (key, value) in more.as_object().cloned().unwrap_or_default() {
        file[key.as_str()] = value;
    }
    json!({"env": [{"name": "X", "valueFrom": {"fileKeyRef": file}}]})
}

fn with_volumes(mut container: Value, place: &str) -> Value {
    container["name"] = json!("x");
    container["image"] = json!("i");
    let volumes = json!([{"name": "own", "emptyDir": {}}, {"name": "none"}, {"name": "host", "hostPath": {"path": "/x"}}]);
    pod(json!({place: [container], "volumes": volumes}))
}

/// `field` of the only reference has a fault.
#[track_caller]
fn check_one(more: Value, faults: &[&str]) {
    let at = "spec.containers[0].env[0].valueFrom.fileKeyRef.";
    let faults: Vec<String> = faults.iter().map(|fault| format!("{at}{fault}")).collect();
    check(
        &with_volumes(reference(more), "containers"),
        &faults.iter().map(String::as_str).collect::<Vec<_>>(),
    );
}

#[test]
fn references_name_a_file_of_an_empty_dir() {
    check_one(json!({}), &[]);
    check_one(json!({"optional": true, "key": "any. printable"}), &[]);
    // A volume without a source becomes an emptyDir.
    check_one(json!({"volumeName": "none"}), &[]);
    let key =
        "a valid environment variable name must consist only of printable ASCII characters other than '='";
    check_one(json!({"key": "a=b"}), &[&format!("key: Invalid value: \"a=b\": {key}")]);
    check_one(json!({"key": ""}), &["key: Required value"]);
    check_one(json!({"path": ""}), &["path: Required value"]);
    for path in ["..", "../x", "a/../x", "a/.."] {
        check_one(
            json!({"path": path}),
            &[&format!("path: Invalid value: \"{path}\": must not contain '..'")],
        );
    }
    check_one(json!({"path": "a..b/..c"}), &[]);
    check_one(json!({"volumeName": "gone"}), &["volumeName: Not found: \"gone\""]);
    check_one(
        json!({"volumeName": "host"}),
        &["volumeName: Invalid value: \"host\": referenced volume must be of type emptyDir"],
    );
    check_one(json!({"volumeName": ""}), &["volumeName: Required value", "volumeName: Not found: \"\""]);
    let label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
                 with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
    check_one(
        json!({"volumeName": "Own"}),
        &[&format!("volumeName: Invalid value: \"Own\": {label}"), "volumeName: Not found: \"Own\""],
    );
}

#[test]
fn every_kind_of_container_is_looked_at() {
    let gone = "env[0].valueFrom.fileKeyRef.volumeName: Not found: \"gone\"";
    for place in ["initContainers", "ephemeralContainers"] {
        let pod = with_volumes(reference(json!({"volumeName": "gone"})), place);
        let mut errors = Errors::new();
        Pod.validate(&pod, &mut errors);
        let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        assert!(texts.contains(&format!("spec.{place}[0].{gone}")), "{texts:?}");
        assert_eq!(pod["spec"][place][0]["env"][0]["valueFrom"]["fileKeyRef"]["optional"], false);
    }
}

#[test]
fn one_source_at_a_time() {
    let mut both = reference(json!({}));
    both["env"][0]["valueFrom"]["secretKeyRef"] = json!({"name": "s", "key": "k"});
    check(
        &with_volumes(both, "containers"),
        &[
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not have more than one field specified at a time",
        ],
    );
    let mut valued = reference(json!({}));
    valued["env"][0]["value"] = json!("v");
    check(
        &with_volumes(valued, "containers"),
        &[
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        ],
    );
    let none = json!({"env": [{"name": "X", "valueFrom": {}}]});
    check(
        &with_volumes(none, "containers"),
        &[&format!("spec.containers[0].env[0].valueFrom: Invalid value: \"\": {EMPTY}")],
    );
}
