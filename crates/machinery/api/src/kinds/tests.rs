//! Every served kind obeys the same few rules; and tables of defaults, faults and rows for the kinds of daily use.

#![allow(clippy::needless_pass_by_value, reason = "cases read better without references")]

use serde_json::json;

use super::*;
use crate::resources;

mod devices;
mod examples;
mod network;
mod policies;
mod trust_bundles;
mod updates;
mod workloads;

const NOW: &str = "2026-01-02T00:00:00Z";

fn context(part: Part) -> Context<'static> {
    Context { part, now: NOW, requester: Requester::NOBODY }
}

/// The object after what the server does before it validates a create.
fn created(group: &str, kind: &str, mut object: Value) -> Value {
    let rules = rules(group, kind);
    rules.default(&mut object);
    rules.prepare_create(&mut object, &context(Part::Main));
    object
}

fn faults_of(group: &str, kind: &str, object: &Value) -> Vec<String> {
    let mut errors = Errors::new();
    rules(group, kind).validate(object, &mut errors);
    errors.0.iter().map(ToString::to_string).collect()
}

/// Checks the faults of a new object.
#[track_caller]
fn check(group: &str, kind: &str, object: Value, expected: &[&str]) {
    let object = created(group, kind, object);
    assert_eq!(faults_of(group, kind, &object), expected);
}

/// Checks the faults of a change of the main part.
#[track_caller]
fn check_update(group: &str, kind: &str, old: Value, change: impl Fn(&mut Value), expected: &[&str]) {
    let rules = rules(group, kind);
    let old = created(group, kind, old);
    let mut new = old.clone();
    change(&mut new);
    rules.default(&mut new);
    rules.prepare_update(&mut new, &old, &context(Part::Main));
    let mut errors = Errors::new();
    rules.validate_update(&new, &old, &context(Part::Main), &mut errors);
    let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
    assert_eq!(texts, expected);
}

/// Checks a row as kubectl would print it, wide cells included.
#[track_caller]
fn check_row(group: &str, kind: &str, object: Value, expected: &str) {
    let mut object = object;
    object["metadata"]["name"] = json!("x");
    object["metadata"]["creationTimestamp"] = json!("2026-01-01T23:55:00Z");
    let rules = rules(group, kind);
    let cells = rules.row(&object, NOW.parse().unwrap());
    assert_eq!(cells.len(), rules.columns().len());
    let texts: Vec<String> =
        cells.iter().map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned)).collect();
    assert_eq!(texts.join(" | "), expected);
}

#[test]
fn every_served_kind_obeys() {
    let now = NOW.parse().unwrap();
    for resource in resources::all().iter().filter(|r| r.is_stored()) {
        let what = format!("{} {}", resource.group, resource.kind);
        let rules = rules(resource.group, resource.kind);
        // Hostile shapes must not panic either: the schema has checked types, but nothing here relies on it.
        for object in [
            json!({"metadata": {"name": "x", "namespace": "d"}}),
            json!({"metadata": {"name": "x"}, "spec": {}, "status": {}}),
            json!({"metadata": {"name": "x"}, "spec": {"template": {}, "containers": [{}], "selector": {}, "ports": [{}]}}),
            json!({"metadata": null, "spec": null, "status": null}),
            json!({"spec": [], "metadata": 5, "status": "x"}),
            json!([]),
        ] {
            let mut object = object;
            rules.default(&mut object);
            let once = object.clone();
            rules.default(&mut object);
            assert_eq!(object, once, "{what}: defaulting is idempotent");
            rules.prepare_create(&mut object, &context(Part::Main));
            for part in [Part::Main, Part::Status, Part::Other("finalize")] {
                let mut new = once.clone();
                rules.prepare_update(&mut new, &object, &context(part));
                rules.validate_update(&new, &object, &context(part), &mut Errors::new());
            }
            rules.validate(&object, &mut Errors::new());
            assert_eq!(rules.row(&object, now).len(), rules.columns().len(), "{what}: one cell per column");
            rules.selectable_fields(&object);
            rules.warnings(&object, None);
        }
        assert!(rules.columns().iter().any(|c| c.name == "Name"), "{what}: has a name column");
    }
}

#[test]
fn a_status_part_changes_nothing_else() {
    for resource in resources::all().iter().filter(|r| r.subresources.iter().any(|s| s.name == "status")) {
        let rules = rules(resource.group, resource.kind);
        let old = json!({"metadata": {"name": "x"}, "spec": {"a": 1}, "status": {"b": 1}});
        let new = json!({"metadata": {"name": "x"}, "spec": {"a": 2}, "status": {"b": 2}});
        let (mut status, mut main) = (new.clone(), new);
        rules.prepare_update(&mut status, &old, &context(Part::Status));
        rules.prepare_update(&mut main, &old, &context(Part::Main));
        let what = format!("{} {}", resource.group, resource.kind);
        assert_eq!(
            (&status["spec"]["a"], &status["status"]["b"]),
            (&json!(1), &json!(2)),
            "{what}: status part"
        );
        assert_eq!(main["status"]["b"], json!(1), "{what}: main part");
    }
}

#[test]
fn dependents_outlive_only_owners_of_old() {
    let leaving: Vec<String> = resources::all()
        .iter()
        .filter(|r| r.is_stored() && rules(r.group, r.kind).orphans_by_default())
        .map(|r| format!("{} {}", r.group, r.kind).trim_start().to_owned())
        .collect();
    let mut leaving: Vec<&str> = leaving.iter().map(String::as_str).collect();
    leaving.sort_unstable();
    assert_eq!(leaving, ["ReplicationController", "batch Job"]);
}

#[test]
fn namespaces() {
    let object = created("", "Namespace", json!({"metadata": {"name": "n"}}));
    assert_eq!(object["metadata"]["labels"], json!({"kubernetes.io/metadata.name": "n"}));
    assert_eq!(
        (&object["spec"], &object["status"]),
        (&json!({"finalizers": ["kubernetes"]}), &json!({"phase": "Active"}))
    );
    let rules = rules("", "Namespace");
    // An update may not touch finalizers; finalization may.
    let mut new = object.clone();
    new["spec"]["finalizers"] = json!([]);
    let mut finalized = new.clone();
    rules.prepare_update(&mut new, &object, &context(Part::Main));
    assert_eq!(new["spec"]["finalizers"], json!(["kubernetes"]));
    rules.prepare_update(&mut finalized, &object, &context(Part::Other("finalize")));
    assert_eq!(finalized["spec"]["finalizers"], json!([]));
    let mut errors = Errors::new();
    let mut status = object.clone();
    status["status"]["phase"] = json!("Terminating");
    rules.validate_update(&status, &object, &context(Part::Status), &mut errors);
    assert_eq!(
        errors.0[0].to_string(),
        "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"
    );
    assert_eq!(rules.validate_name("a.b", false), ["must not contain dots"]);
    check_row("", "Namespace", object, "x | Active | 5m");
}

#[test]
fn config_maps_and_secrets() {
    check("", "ConfigMap", json!({"metadata": {}, "data": {"a.b": "c"}}), &[]);
    check(
        "",
        "ConfigMap",
        json!({"metadata": {}, "data": {"a": "b", "..": "c"}, "binaryData": {"a": "AA=="}}),
        &[
            "data[..]: Invalid value: \"..\": must not be '..'",
            "data[a]: Invalid value: \"a\": duplicate of key present in binaryData",
        ],
    );
    check(
        "",
        "ConfigMap",
        json!({"metadata": {}, "data": {"a": "b".repeat(1024 * 1024 + 1)}}),
        &[": Too long: may not be more than 1048576 bytes"],
    );
    check_update(
        "",
        "ConfigMap",
        json!({"metadata": {}, "data": {"a": "b"}, "immutable": true}),
        |new| {
            new["data"]["a"] = json!("c");
            new["immutable"] = json!(false);
        },
        &[
            "immutable: Forbidden: field is immutable when `immutable` is set",
            "data: Forbidden: field is immutable when `immutable` is set",
        ],
    );
    check_row(
        "",
        "ConfigMap",
        json!({"metadata": {}, "data": {"a": "", "b": ""}, "binaryData": {"c": ""}}),
        "x | 3 | 5m",
    );

    let secret = created(
        "",
        "Secret",
        json!({"metadata": {}, "data": {"a": "QQ=="}, "stringData": {"a": "B", "c": "d"}}),
    );
    assert_eq!(secret["data"], json!({"a": "Qg==", "c": "ZA=="}));
    assert_eq!(secret["type"], "Opaque");
    assert!(secret.get("stringData").is_none());
    check(
        "",
        "Secret",
        json!({"metadata": {}, "type": "kubernetes.io/tls"}),
        &["data[tls.crt]: Required value", "data[tls.key]: Required value"],
    );
    check(
        "",
        "Secret",
        json!({"metadata": {}, "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "c2VjcmV0"}}),
        &[
            "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": invalid JSON object at line 1 column 1",
        ],
    );
    check(
        "",
        "Secret",
        json!({"metadata": {}, "type": "kubernetes.io/service-account-token"}),
        &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
    );
    check_update(
        "",
        "Secret",
        json!({"metadata": {}}),
        |new| new["type"] = json!("other"),
        &["type: Invalid value: \"other\": field is immutable"],
    );
    check_row("", "Secret", secret, "x | Opaque | 2 | 5m");
}

#[test]
fn nodes() {
    check(
        "",
        "Node",
        json!({"metadata": {"name": "n"}, "spec": {"taints": [
            {"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "Odd"}],
            "podCIDRs": ["10.244.0.1/24"]}}),
        &[
            "metadata.taints[1]: Duplicate value: {\"Key\":\"a\",\"Value\":\"\",\"Effect\":\"NoSchedule\",\"TimeAdded\":null}: taints must be unique by key and effect pair",
            "metadata.taints[2].effect: Unsupported value: \"Odd\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            "spec.podCIDRs[0]: Invalid value: \"10.244.0.1/24\": must not have bits set beyond the prefix length",
        ],
    );
    check_update(
        "",
        "Node",
        json!({"metadata": {"name": "n"}, "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"], "providerID": "a"}}),
        |new| {
            new["spec"]["podCIDR"] = json!("10.245.0.0/24");
            new["spec"]["providerID"] = json!("b");
        },
        &[
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
            "spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid",
        ],
    );
    check_row(
        "",
        "Node",
        json!({
            "metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "node-role.kubernetes.io/worker": ""}},
            "spec": {"unschedulable": true},
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian", "kernelVersion": "6.1", "architecture": "amd64", "containerRuntimeVersion": "containerd://1.6"},
            },
        }),
        "x | Ready,SchedulingDisabled | control-plane,worker | 5m | v1.36.0 | 10.0.0.1 | <none> | Debian | 6.1 (amd64) | containerd://1.6",
    );
    check_row(
        "",
        "Node",
        json!({"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
        "x | NotReady | <none> | 5m |  | <none> | <none> | <unknown> | <unknown> | <unknown>",
    );
}

#[test]
fn events() {
    let event = json!({
        "metadata": {"namespace": "d"}, "type": "Warning", "reason": "BackOff", "message": "Back-off restarting\n",
        "involvedObject": {"kind": "Pod", "namespace": "d", "name": "p", "fieldPath": "spec.containers{c}"},
        "source": {"component": "kubelet", "host": "n1"},
        "firstTimestamp": "2026-01-01T23:50:00Z", "lastTimestamp": "2026-01-01T23:59:30Z", "count": 4,
    });
    check("", "Event", event.clone(), &[]);
    let fields: std::collections::BTreeMap<_, _> =
        rules("", "Event").selectable_fields(&event).into_iter().collect();
    assert_eq!((fields["involvedObject.kind"].as_str(), fields["source"].as_str()), ("Pod", "kubelet"));
    check_row(
        "",
        "Event",
        event,
        "30s | Warning | BackOff | pod/p | spec.containers{c} | kubelet, n1 | Back-off restarting | 10m | 4 | x",
    );
    check(
        "",
        "Event",
        json!({"metadata": {"namespace": "d"}, "involvedObject": {"namespace": "other"}}),
        &["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"],
    );
    check(
        "",
        "Event",
        json!({"metadata": {"namespace": "d"}, "involvedObject": {"namespace": "d"}, "eventTime": NOW, "reason": "r", "action": "a"}),
        &[
            "reportingComponent: Required value",
            "reportingComponent: Invalid value: \"\": name part must be non-empty",
            "reportingComponent: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            "reportingInstance: Required value",
        ],
    );
}

#[test]
fn roles_and_bindings() {
    const GROUP: &str = "rbac.authorization.k8s.io";
    check(
        GROUP,
        "Role",
        json!({"metadata": {}, "rules": [{"resources": ["pods"], "apiGroups": [""]}, {"verbs": ["get"], "nonResourceURLs": ["/x"]}, {"verbs": ["get"]}]}),
        &[
            "rules[0].verbs: Required value: verbs must contain at least one value",
            "rules[1].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
            "rules[2].apiGroups: Required value: resource rules must supply at least one api group",
            "rules[2].resources: Required value: resource rules must supply at least one resource",
        ],
    );
    let binding = json!({"metadata": {}, "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "d"}]});
    let object = created(GROUP, "RoleBinding", binding.clone());
    assert_eq!(
        (&object["roleRef"]["apiGroup"], &object["subjects"][0]["apiGroup"]),
        (&json!(GROUP), &json!(GROUP))
    );
    check(GROUP, "ClusterRoleBinding", binding.clone(), &[]);
    check_update(
        GROUP,
        "RoleBinding",
        binding.clone(),
        |new| new["roleRef"]["name"] = json!("edit"),
        &[
            "roleRef: Invalid value: {\"APIGroup\":\"rbac.authorization.k8s.io\",\"Kind\":\"ClusterRole\",\"Name\":\"edit\"}: cannot change roleRef",
        ],
    );
    check_row(GROUP, "RoleBinding", binding, "x | ClusterRole/view | 5m | u |  | d/s");
    check_row(GROUP, "ClusterRole", json!({"metadata": {}}), "x | 2026-01-01T23:55:00Z");
    assert!(rules(GROUP, "ClusterRole").validate_name("system:node", false).is_empty());
    assert!(rules(GROUP, "ClusterRole").create_on_update());
}

#[test]
fn quotas_limits_and_priorities() {
    check(
        "",
        "ResourceQuota",
        json!({"metadata": {}, "spec": {"hard": {"pods": "1.5", "odd": "1", "count/pods": "5"}, "scopes": ["BestEffort", "NotBestEffort"]}}),
        &[
            "spec.hard[odd]: Invalid value: \"odd\": must be a standard resource type or fully qualified",
            "spec.hard[odd]: Invalid value: \"odd\": must be a standard resource for quota",
            "spec.hard[pods]: Invalid value: \"1500m\": must be an integer",
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: unsupported scope applied to resource",
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: unsupported scope applied to resource",
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
        ],
    );
    check_row(
        "",
        "ResourceQuota",
        json!({"metadata": {}, "status": {"hard": {"limits.cpu": "2", "pods": "10"}, "used": {"pods": "3"}}}),
        "x | pods: 3/10 | limits.cpu: 0/2 | 5m",
    );
    let range = created(
        "",
        "LimitRange",
        json!({"metadata": {}, "spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}}),
    );
    assert_eq!(
        range["spec"]["limits"][0],
        json!({"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"},
            "default": {"cpu": "2"}, "defaultRequest": {"cpu": "2", "memory": "1Mi"}})
    );
    check(
        "",
        "LimitRange",
        json!({"metadata": {}, "spec": {"limits": [{"type": "Pod", "min": {"cpu": "2"}, "max": {"cpu": "1"}, "default": {"cpu": "1"}}]}}),
        &[
            "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
        ],
    );
    const GROUP: &str = "scheduling.k8s.io";
    check(
        GROUP,
        "PriorityClass",
        json!({"metadata": {"name": "a"}, "value": 1_000_000_001}),
        &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
    );
    check(
        GROUP,
        "PriorityClass",
        json!({"metadata": {"name": "system-node-critical"}, "value": 2_000_001_000}),
        &[],
    );
    check(
        GROUP,
        "PriorityClass",
        json!({"metadata": {"name": "system-mine"}, "value": 1}),
        &[
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class",
        ],
    );
    check_update(
        GROUP,
        "PriorityClass",
        json!({"metadata": {"name": "a"}, "value": 1}),
        |new| new["value"] = json!(2),
        &["value: Forbidden: may not be changed in an update."],
    );
}

#[test]
fn volumes() {
    let claim = json!({"metadata": {}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let object = created("", "PersistentVolumeClaim", claim.clone());
    assert_eq!(
        (&object["spec"]["volumeMode"], &object["status"]["phase"]),
        (&json!("Filesystem"), &json!("Pending"))
    );
    check("", "PersistentVolumeClaim", claim.clone(), &[]);
    check(
        "",
        "PersistentVolumeClaim",
        json!({"metadata": {}, "spec": {"accessModes": ["Odd"]}}),
        &[
            "spec.accessModes: Unsupported value: \"Odd\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
            "spec.resources[storage]: Required value",
        ],
    );
    check_update(
        "",
        "PersistentVolumeClaim",
        claim.clone(),
        |new| new["spec"]["accessModes"] = json!(["ReadOnlyMany"]),
        &[
            "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n@@ -1,6 +1,6 @@\n {\n  \"AccessModes\": [\n-  \"ReadWriteOnce\"\n+  \"ReadOnlyMany\"\n  ],\n  \"Selector\": null,\n  \"Resources\": {\n",
        ],
    );
    check_update(
        "",
        "PersistentVolumeClaim",
        claim,
        |new| new["spec"]["storageClassName"] = json!("fast"),
        &[],
    );
    check(
        "",
        "PersistentVolume",
        json!({"metadata": {}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}}),
        &["spec: Required value: must specify a volume type"],
    );
    check_row(
        "",
        "PersistentVolume",
        json!({"metadata": {}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"],
            "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": "d", "name": "c"}, "storageClassName": "fast"}, "status": {"phase": "Bound"}}),
        "x | 1Gi | RWO,ROX | Retain | Bound | d/c | fast | <unset> |  | 5m | <unset>",
    );
    check_update(
        "storage.k8s.io",
        "VolumeAttributesClass",
        json!({"metadata": {}, "driverName": "d.example.com", "parameters": {"a": "b"}}),
        |new| {
            new["driverName"] = json!("e.example.com");
            new["parameters"] = json!({"a": "c"});
        },
        &[
            "driverName: Forbidden: updates to driverName are forbidden.",
            "parameters: Forbidden: updates to parameters are forbidden.",
        ],
    );
    check_row(
        "storage.k8s.io",
        "StorageClass",
        json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "a/b"}),
        "x (default) | a/b | Delete | Immediate | false | 5m",
    );
}

#[test]
fn signing_requests() {
    const GROUP: &str = "certificates.k8s.io";
    // "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"
    const PEM: &str =
        "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg==";
    let request = json!({"metadata": {"name": "r"}, "spec": {
        "request": PEM, "usages": ["client auth"], "signerName": "kubernetes.io/kube-apiserver-client", "username": "admin",
        "groups": ["system:masters"]}, "status": {"conditions": [{"type": "Approved", "status": "True"}]}});
    let groups = ["devs".to_owned()];
    let eve = Requester { name: "eve", groups: &groups, ..Requester::NOBODY };
    let mut stored = request;
    let rules = rules(GROUP, "CertificateSigningRequest");
    rules.default(&mut stored);
    rules.prepare_create(&mut stored, &Context { requester: eve, ..context(Part::Main) });
    assert_eq!(stored["status"], json!({}), "nobody approves their own");
    assert_eq!(stored["spec"]["username"], "eve", "nor says who they are");
    assert_eq!(stored["spec"]["groups"], json!(["devs"]));
    assert_eq!(faults_of(GROUP, "CertificateSigningRequest", &stored), Vec::<String>::new());
    let change = |part: Part, old: &Value, conditions: Value, certificate: &str| {
        let mut new = old.clone();
        new["spec"]["username"] = json!("admin");
        new["status"] = json!({"conditions": conditions});
        if !certificate.is_empty() {
            new["status"]["certificate"] = json!(certificate);
        }
        rules.prepare_update(&mut new, old, &context(part));
        let mut errors = Errors::new();
        rules.validate_update(&new, old, &context(part), &mut errors);
        assert_eq!(new["spec"], old["spec"], "the request itself stays");
        (new, errors.0.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let yes = json!([{"type": "Approved", "status": "True"}]);
    let (_, faults) = change(Part::Status, &stored, yes.clone(), "");
    assert_eq!(
        faults,
        ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]
    );
    let (approved, faults) = change(Part::Other("approval"), &stored, yes.clone(), "abc");
    assert!(faults.is_empty() && approved["status"].get("certificate").is_none(), "{faults:?}");
    let (issued, faults) = change(Part::Status, &approved, json!([]), "abc");
    assert!(faults.is_empty(), "{faults:?}");
    assert_eq!(issued["status"], json!({"conditions": yes, "certificate": "abc"}), "the decision is kept");
    let (_, faults) = change(
        Part::Other("approval"),
        &approved,
        json!([{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]),
        "",
    );
    assert_eq!(
        faults,
        [
            "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive"
        ]
    );
    check_row(
        GROUP,
        "CertificateSigningRequest",
        issued,
        "x | 5m | kubernetes.io/kube-apiserver-client | eve | <none> | Approved,Issued",
    );
}

#[test]
fn a_binding_made_by_the_server_keeps_its_status() {
    let old = created("", "Pod", json!({"metadata": {"name": "p"}, "spec": {"containers": []}}));
    let mut new = old.clone();
    new["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "True"}]);
    let expected = new.clone();
    rules("", "Pod").prepare_update(&mut new, &old, &context(Part::Other("binding")));
    assert_eq!(new, expected);
}
