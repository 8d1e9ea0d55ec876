//! Claims, classes and slices of dynamic resource allocation.

use serde_json::json;

use super::*;

const GROUP: &str = "resource.k8s.io";

#[test]
fn claims_ask_for_devices() {
    let claim = |devices: Value| json!({"metadata": {}, "spec": {"devices": devices}});
    check(
        GROUP,
        "ResourceClaim",
        claim(json!({
            "requests": [
                {"name": "a", "exactly": {"deviceClassName": "gpu", "selectors": [{"cel": {"expression": "true"}}],
                    "tolerations": [{"operator": "Exists"}]}},
                {"name": "b", "firstAvailable": [{"name": "x", "deviceClassName": "gpu", "allocationMode": "All"}]},
            ],
            "constraints": [{"requests": ["a", "b/x"], "matchAttribute": "gpu.io/model"}],
            "config": [{"opaque": {"driver": "gpu.io", "parameters": {"a": 1}}}],
        })),
        &[],
    );
    check(
        GROUP,
        "ResourceClaim",
        claim(json!({
            "requests": [
                {"name": "A", "exactly": {"count": -1, "tolerations": [{"operator": "Odd", "effect": "Odd"}], "selectors": [{}]}},
                {"name": "b"},
                {"name": "b", "exactly": {"deviceClassName": "x", "allocationMode": "All", "count": 2}, "firstAvailable": [{}]},
                {"name": "c", "exactly": {"deviceClassName": "x", "allocationMode": "All", "count": 2}},
            ],
            "constraints": [{"requests": ["b/x", "a/b/c", "b", "b"], "matchAttribute": "model"}, {}],
            "config": [{}, {"opaque": {"driver": "", "parameters": "text"}}],
        })),
        &[
            "spec.devices.requests[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            "spec.devices.requests[0].exactly.deviceClassName: Required value",
            "spec.devices.requests[0].exactly.selectors[0].cel: Required value",
            "spec.devices.requests[0].exactly.count: Invalid value: -1: must be greater than zero",
            "spec.devices.requests[0].exactly.tolerations[0].operator: Unsupported value: \"Odd\": supported values: \"Equal\", \"Exists\"",
            "spec.devices.requests[0].exactly.tolerations[0].effect: Unsupported value: \"Odd\": supported values: \"NoExecute\", \"NoSchedule\", \"None\"",
            "spec.devices.requests[1]: Required value: exactly one of `exactly` or `firstAvailable` is required",
            "spec.devices.requests[2]: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
            "spec.devices.requests[3].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
            "spec.devices.requests[2]: Duplicate value: \"b\"",
            "spec.devices.constraints[0].requests[0]: Invalid value: \"b/x\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
            "spec.devices.constraints[0].requests[1]: Invalid value: \"a/b/c\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
            "spec.devices.constraints[0].requests[3]: Duplicate value: \"b\"",
            "spec.devices.constraints[0].matchAttribute: Invalid value: \"model\": a fully qualified name must be a domain and a name separated by a slash",
            "spec.devices.constraints[1]: Required value: exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
            "spec.devices.config[0].opaque: Required value",
            "spec.devices.config[1].opaque.driver: Required value",
            "spec.devices.config[1].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object",
        ],
    );
    let many: Vec<Value> = (0..33).map(|n| json!({"name": format!("r{n}")})).collect();
    let too_many = "spec.devices.requests: Too many: 33: must have at most 32 items";
    check(GROUP, "ResourceClaim", claim(json!({"requests": many})), &[too_many]);
    check(
        GROUP,
        "ResourceClaimTemplate",
        json!({"metadata": {}, "spec": {"metadata": {"labels": {"a": "-"}}, "spec": {"devices": {"requests": many}}}}),
        &[
            "spec.metadata.labels: Invalid value: \"-\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            "spec.spec.devices.requests: Too many: 33: must have at most 32 items",
        ],
    );
    let long = "x".repeat(10 * 1024 + 1);
    check(
        GROUP,
        "DeviceClass",
        json!({"metadata": {}, "spec": {"selectors": [{"cel": {"expression": long}}], "extendedResourceName": "cpu"}}),
        &[
            "spec.selectors[0].cel.expression: Too long: may not be more than 10240 bytes",
            "spec.extendedResourceName: Invalid value: \"cpu\": must be a valid extended resource name",
        ],
    );
}

#[test]
fn slices_offer_devices() {
    let slice = |more: Value| {
        let mut spec =
            json!({"driver": "gpu.io", "pool": {"name": "a/b", "resourceSliceCount": 1, "generation": 1}});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        json!({"metadata": {}, "spec": spec})
    };
    let device = json!({"name": "d", "attributes": {"model": {"string": "x"}, "gpu.io/version": {"version": "1.2.3"}},
        "capacity": {"memory": {"value": "1Gi"}}, "taints": [{"key": "a", "effect": "None"}]});
    check(GROUP, "ResourceSlice", slice(json!({"nodeName": "n", "devices": [device]})), &[]);
    check(
        GROUP,
        "ResourceSlice",
        json!({"metadata": {}, "spec": {"driver": "", "pool": {"generation": -1}, "nodeName": "n", "allNodes": true,
            "perDeviceNodeSelection": false}}),
        &[
            "spec.driver: Required value",
            "spec.pool.name: Required value",
            "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
            "spec.pool.generation: Invalid value: -1: must be greater than or equal to zero",
            "spec.perDeviceNodeSelection: Invalid value: false: must be either unset or set to true",
            "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set",
        ],
    );
    let policy = |policy: Value| json!({"value": "10", "requestPolicy": policy});
    check(
        GROUP,
        "ResourceSlice",
        slice(json!({"perDeviceNodeSelection": true, "devices": [
            {"name": "a"},
            {"name": "b", "allNodes": true, "attributes": {"9": {}, "x": {"string": "a", "bool": true}, "y": {"version": "v1"}},
                "capacity": {"c": policy(json!({}))}, "consumesCounters": [{}], "bindingConditions": ["a", "a"]},
            {"name": "b", "allNodes": true, "allowMultipleAllocations": true, "capacity": {
                "c": policy(json!({"validValues": ["2", "1", "11"], "default": "3"})),
                "d": policy(json!({"validRange": {"min": "1", "max": "8", "step": "3"}, "default": "3"})),
                "e": policy(json!({"validRange": {"min": "1", "step": "0"}, "default": "1"}))}},
        ]})),
        &[
            "spec.devices[0]: Required value: exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
            "spec.devices[1].attributes: Invalid value: \"9\": a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')",
            "spec.devices[1].attributes[9]: Invalid value: \"\": exactly one value must be specified",
            "spec.devices[1].attributes[x]: Invalid value: {\"bool\":true,\"string\":\"a\"}: exactly one value must be specified",
            "spec.devices[1].attributes[y].version: Invalid value: \"v1\": must be a string compatible with semver.org spec 2.0.0",
            "spec.devices[1].capacity[c].requestPolicy: Forbidden: allowMultipleAllocations must be true",
            "spec.devices[1].consumesCounters[0].counterSet: Required value",
            "spec.devices[1].consumesCounters[0].counters: Required value",
            "spec.devices[1].bindingConditions[1]: Duplicate value: \"a\"",
            "spec.devices[1].bindingFailureConditions: Invalid value: null: bindingFailureConditions are required to use bindingConditions",
            "spec.devices[2].capacity[c].requestPolicy.validValues[1]: Invalid value: \"1\": values must be sorted in ascending order",
            "spec.devices[2].capacity[c].requestPolicy.validValues[2]: Invalid value: \"11\": option is larger than capacity value: 10",
            "spec.devices[2].capacity[c].requestPolicy.validValues: Invalid value: \"3\": default value is not valid according to the requestPolicy",
            "spec.devices[2].capacity[d].requestPolicy.validRange.step: Invalid value: \"3\": value is not a multiple of a given step (3) from (1)",
            "spec.devices[2].capacity[d].requestPolicy.validRange.step: Invalid value: \"8\": value is not a multiple of a given step (3) from (1)",
            "spec.devices[2].capacity[e].requestPolicy.validRange.step: Invalid value: \"1\": value is not a multiple of a given step (0) from (1)",
            "spec.devices[2]: Duplicate value: \"b\"",
        ],
    );
    // What is not enabled is dropped; what is left of it is judged.
    let mut gated = slice(
        json!({"nodeName": "n", "devices": [{"name": "d", "attributes": {"a": {"ints": [1]}, "b": {"int": 1, "ints": [1]}},
        "nodeAllocatableResourceMappings": {"cpu": {}}}]}),
    );
    gated = created(GROUP, "ResourceSlice", gated);
    assert_eq!(gated["spec"]["devices"], json!([{"name": "d", "attributes": {"a": {}, "b": {"int": 1}}}]));
    assert_eq!(
        faults_of(GROUP, "ResourceSlice", &gated),
        ["spec.devices[0].attributes[a]: Invalid value: \"\": exactly one value must be specified"]
    );
    let tainted = |count: usize| -> Vec<Value> {
        (0..count)
            .map(|n| json!({"name": format!("d{n}"), "taints": [{"key": "a", "effect": "None"}]}))
            .collect()
    };
    check(
        GROUP,
        "ResourceSlice",
        slice(json!({"allNodes": true, "devices": tainted(65)})),
        &["spec.devices: Too many: 65: must have at most 64 items"],
    );
}

#[test]
fn a_claims_status_follows_its_allocation() {
    let mut claim = created(
        GROUP,
        "ResourceClaim",
        json!({"metadata": {}, "spec": {"devices": {"requests": [{"name": "a", "exactly": {"deviceClassName": "gpu"}}]}}}),
    );
    let rules = rules(GROUP, "ResourceClaim");
    let write = |old: &Value, status: Value| {
        let mut new = old.clone();
        new["status"] = status;
        new["metadata"]["labels"] = json!({"a": "b"});
        rules.prepare_update(&mut new, old, &context(Part::Status));
        let mut errors = Errors::new();
        rules.validate_update(&new, old, &context(Part::Status), &mut errors);
        (new, errors.0.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let device = json!({"request": "a", "driver": "gpu.io", "pool": "p", "device": "d"});
    let state = json!({"driver": "gpu.io", "pool": "p", "device": "d"});
    let user = json!({"resource": "pods", "name": "p", "uid": "u"});
    let whole =
        json!({"allocation": {"devices": {"results": [device]}}, "devices": [state], "reservedFor": [user]});
    let (allocated, faults) = write(&claim, whole.clone());
    assert_eq!(faults, Vec::<String>::new());
    assert!(allocated["metadata"]["labels"].is_null(), "a status brings no labels");
    let (_, faults) = write(&claim, json!({"reservedFor": [{}], "devices": [state]}));
    assert_eq!(
        faults,
        [
            "status.reservedFor[0].resource: Required value",
            "status.reservedFor[0].name: Required value",
            "status.reservedFor[0].uid: Required value",
            "status.devices[0]: Invalid value: \"gpu.io/p/d\": must be an allocated device in the claim",
            "status.reservedFor: Forbidden: may not be specified when `allocated` is not set",
        ]
    );
    let mut other = whole.clone();
    other["allocation"]["devices"]["results"][0]["device"] = json!("e");
    other["devices"] = json!([]);
    let (_, faults) = write(&allocated, other);
    assert!(faults.len() == 1 && faults[0].ends_with("field is immutable"), "{faults:?}");
    let mut odd = whole.clone();
    odd["allocation"]["devices"]["results"][0]["request"] = json!("b");
    odd["devices"] = json!([]);
    let (_, faults) = write(&claim, odd);
    assert_eq!(
        faults,
        [
            "status.allocation.devices.results[0].request: Invalid value: \"b\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
        ]
    );
    // What was said of a device goes with it.
    let (freed, faults) = write(&allocated, json!({"devices": [state]}));
    assert_eq!((&freed["status"], faults), (&json!({"devices": []}), Vec::new()));
    claim = allocated;
    claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mut more = whole;
    more["reservedFor"] = json!([user, {"resource": "pods", "name": "q", "uid": "v"}]);
    let (_, faults) = write(&claim, more);
    assert_eq!(
        faults,
        [
            "status.reservedFor: Forbidden: new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set",
        ]
    );
}
