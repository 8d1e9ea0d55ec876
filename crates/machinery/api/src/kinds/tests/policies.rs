//! Admission policies that change objects, and their bindings.

use serde_json::{Value, json};

use super::*;

const GROUP: &str = "admissionregistration.k8s.io";

fn policy() -> Value {
    json!({"metadata": {"name": "p"}, "spec": {
        "matchConstraints": {"resourceRules": [
            {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}]},
        "matchConditions": [{"name": "c", "expression": "true"}],
        "variables": [{"name": "v", "expression": "1"}],
        "mutations": [
            {"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}},
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{}"}}],
        "reinvocationPolicy": "Never"}})
}

#[test]
fn mutating_policies() {
    const KIND: &str = "MutatingAdmissionPolicy";
    check(GROUP, KIND, policy(), &[]);
    let nothing = [
        "spec.matchConstraints: Required value",
        "spec.mutations: Required value: mutations must contain at least one item",
        "spec.reinvocationPolicy: Required value",
    ];
    check(GROUP, KIND, json!({"metadata": {"name": "p"}}), &nothing);
    check(GROUP, KIND, json!({"metadata": {"name": "p"}, "spec": {}}), &nothing);
    let garbage = json!({"metadata": {"name": "p"}, "spec": {
        "failurePolicy": "x",
        "paramKind": {"apiVersion": "v1"},
        "matchConstraints": {"resourceRules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "DELETE"], "resources": ["pods"]}]},
        "variables": [{"name": "if", "expression": "1"}],
        "mutations": [
            {},
            {"patchType": "x"},
            {"patchType": "JSONPatch"},
            {"patchType": "JSONPatch", "jsonPatch": {"expression": " "}, "applyConfiguration": {}},
            {"patchType": "ApplyConfiguration", "jsonPatch": {}}],
        "reinvocationPolicy": "x"}});
    check(
        GROUP,
        KIND,
        garbage,
        &[
            "spec.failurePolicy: Unsupported value: \"x\": supported values: \"Fail\", \"Ignore\"",
            "spec.paramKind.kind: Required value",
            "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
            "spec.variables[0].name: Invalid value: \"if\": must be a valid CEL identifier",
            "spec.mutations[0].patchType: Required value",
            "spec.mutations[1].patchType: Unsupported value: \"x\": supported values: \"ApplyConfiguration\", \"JSONPatch\"",
            "spec.mutations[2].jsonPatch: Required value: must be specified when patchType is JSONPatch",
            "spec.mutations[3].jsonPatch.expression: Required value",
            "spec.mutations[3].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType is JSONPatch",
            "spec.mutations[4].applyConfiguration: Required value: must be specified when patchType is ApplyConfiguration",
            "spec.mutations[4].jsonPatch: Invalid value: \"{jsonPatch}\": must not be specified when patchType is ApplyConfiguration",
            "spec.reinvocationPolicy: Unsupported value: \"x\": supported values: \"IfNeeded\", \"Never\"",
        ],
    );
    // Conditions that were stored are judged again only when they or their parameters change.
    let mut old = policy();
    old["spec"]["matchConditions"] = json!([{"name": "c"}]);
    let faults = ["spec.matchConditions[0].expression: Required value"];
    check(GROUP, KIND, old.clone(), &faults);
    check_update(GROUP, KIND, old.clone(), |new| new["spec"]["failurePolicy"] = json!("Ignore"), &[]);
    let parameters = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    check_update(GROUP, KIND, old, |new| new["spec"]["paramKind"] = parameters.clone(), &faults);
}

#[test]
fn bindings_of_policies() {
    let binding = |operations: Value| {
        json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "matchResources": {"resourceRules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": operations, "resources": ["pods"]}]}}})
    };
    check(GROUP, "MutatingAdmissionPolicyBinding", binding(json!(["CREATE", "UPDATE"])), &[]);
    check(
        GROUP,
        "MutatingAdmissionPolicyBinding",
        binding(json!(["DELETE"])),
        &[
            "spec.matchResources.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
        ],
    );
    check(
        GROUP,
        "ValidatingAdmissionPolicyBinding",
        binding(json!(["DELETE"])),
        &["spec.validationActions: Required value: at least one validation action is required"],
    );
}
