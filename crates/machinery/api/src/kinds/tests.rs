//! Every served kind obeys the same few rules; and tables of defaults, faults and rows for the kinds of daily use.

#![allow(clippy::needless_pass_by_value, reason = "cases read better without references")]

use serde_json::json;

use super::*;
use crate::resources;

const NOW: &str = "2026-01-02T00:00:00Z";

fn context(part: Part) -> Context<'static> {
    Context { part, now: NOW }
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

fn template(extra: Value) -> Value {
    let mut template = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "web:v1"}]},
    });
    for (key, value) in extra.as_object().cloned().unwrap_or_default() {
        template["spec"][key.as_str()] = value;
    }
    template
}

fn deployment() -> Value {
    json!({
        "metadata": {"name": "web", "namespace": "d"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template(json!({}))},
    })
}

#[test]
fn deployments() {
    let object = created("apps", "Deployment", deployment());
    assert_eq!(
        (
            &object["spec"]["replicas"],
            &object["spec"]["revisionHistoryLimit"],
            &object["spec"]["progressDeadlineSeconds"]
        ),
        (&json!(1), &json!(10), &json!(600))
    );
    assert_eq!(
        object["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
    assert!(
        object["spec"]["template"]["spec"].get("enableServiceLinks").is_none(),
        "templates do not get it"
    );
    assert_eq!(object["status"], json!({}));
    check("apps", "Deployment", deployment(), &[]);
    let mut bad = deployment();
    bad["spec"]["selector"] = json!({"matchLabels": {"app": "other"}});
    bad["spec"]["replicas"] = json!(-1);
    bad["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}});
    check(
        "apps",
        "Deployment",
        bad,
        &[
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
        ],
    );
    let mut bad = deployment();
    bad["spec"]["selector"] = json!({});
    bad["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
    check(
        "apps",
        "Deployment",
        bad,
        &[
            "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ],
    );
    check_update(
        "apps",
        "Deployment",
        deployment(),
        |new| {
            new["spec"]["selector"]["matchLabels"] = json!({"app": "v2"});
            new["spec"]["template"]["metadata"]["labels"] = json!({"app": "v2"});
        },
        &["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"v2\"}}: field is immutable"],
    );
    let rules = rules("apps", "Deployment");
    let mut annotated = object.clone();
    annotated["metadata"]["annotations"] = json!({"a": "b"});
    assert!(rules.spec_changed(&annotated, &object), "annotations count");
    let mut labelled = object.clone();
    labelled["metadata"]["labels"] = json!({"a": "b"});
    assert!(!rules.spec_changed(&labelled, &object), "labels do not");
    let mut status = object.clone();
    status["status"] = json!({"replicas": 3, "readyReplicas": 4});
    let mut errors = Errors::new();
    rules.validate_update(&status, &object, &context(Part::Status), &mut errors);
    assert_eq!(
        errors.0[0].to_string(),
        "status.readyReplicas: Invalid value: 4: cannot be greater than status.replicas"
    );
    let mut shown = object;
    shown["status"] = json!({"readyReplicas": 1, "updatedReplicas": 1, "availableReplicas": 1});
    check_row("apps", "Deployment", shown, "x | 1/1 | 1 | 1 | 5m | c | web:v1 | app=web");
}

#[test]
fn other_workloads() {
    for kind in ["ReplicaSet", "StatefulSet", "DaemonSet"] {
        check("apps", kind, deployment(), &[]);
    }
    let set = created("apps", "StatefulSet", deployment());
    assert_eq!(set["spec"]["podManagementPolicy"], "OrderedReady");
    assert_eq!(
        set["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
    );
    assert_eq!(
        set["spec"]["persistentVolumeClaimRetentionPolicy"],
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
    );
    check_update(
        "apps",
        "StatefulSet",
        deployment(),
        |new| new["spec"]["serviceName"] = json!("other"),
        &[
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ],
    );
    let mut with_claims = deployment();
    with_claims["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]);
    with_claims["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "data", "mountPath": "/d"}]);
    check("apps", "StatefulSet", with_claims, &[]);
    check_row(
        "apps",
        "ReplicaSet",
        json!({"metadata": {}, "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "template": template(json!({}))},
            "status": {"replicas": 2, "readyReplicas": 1}}),
        "x | 3 | 2 | 1 | 5m | c | web:v1 | a=b",
    );
    check_row(
        "apps",
        "DaemonSet",
        json!({"metadata": {}, "spec": {"template": template(json!({"nodeSelector": {"disk": "ssd"}}))},
            "status": {"desiredNumberScheduled": 2, "numberReady": 1}}),
        "x | 2 | 0 | 1 | 0 | 0 | disk=ssd | 5m | c | web:v1 | <none>",
    );
}

fn service(spec: Value) -> Value {
    json!({"metadata": {"name": "s", "namespace": "d"}, "spec": spec})
}

#[test]
fn services() {
    let object = created("", "Service", service(json!({"ports": [{"port": 80}], "selector": {"a": "b"}})));
    assert_eq!(
        object["spec"],
        json!({
            "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster", "selector": {"a": "b"},
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        })
    );
    assert_eq!(object["status"], json!({"loadBalancer": {}}));
    check("", "Service", service(json!({"ports": [{"port": 80}]})), &[]);
    check("", "Service", service(json!({"clusterIP": "None"})), &[]);
    check("", "Service", service(json!({})), &["spec.ports: Required value"]);
    check(
        "",
        "Service",
        service(json!({"ports": [{"port": 80, "nodePort": 30000}, {"port": 80, "name": "b"}]})),
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\",\"targetPort\":0}",
        ],
    );
    check(
        "",
        "Service",
        service(
            json!({"ports": [{"port": 0}], "type": "Odd", "sessionAffinity": "Odd", "clusterIP": "10.0.0.300"}),
        ),
        &[
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.sessionAffinity: Unsupported value: \"Odd\": supported values: \"ClientIP\", \"None\"",
            "spec.clusterIPs[0]: Invalid value: \"10.0.0.300\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            "spec.type: Unsupported value: \"Odd\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ],
    );
    check("", "Service", service(json!({"type": "ExternalName"})), &["spec.externalName: Required value"]);
    check(
        "",
        "Service",
        service(json!({"ports": [{"port": 1}], "externalIPs": ["127.0.0.1"]})),
        &[
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ],
    );
    assert_eq!(rules("", "Service").validate_name("a.b", false), ["must not contain dots"]);
}

#[test]
fn services_keep_what_was_allocated() {
    let old = service(json!({
        "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}],
        "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
    }));
    let update = |change: Value| {
        let rules = rules("", "Service");
        let old = created("", "Service", old.clone());
        let mut new = service(change);
        rules.default(&mut new);
        rules.prepare_update(&mut new, &old, &context(Part::Main));
        let mut errors = Errors::new();
        rules.validate_update(&new, &old, &context(Part::Main), &mut errors);
        (new["spec"].clone(), errors.0.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let (spec, faults) = update(json!({"type": "NodePort", "ports": [{"port": 81}]}));
    assert_eq!((&spec["clusterIP"], &spec["clusterIPs"]), (&json!("10.96.0.5"), &json!(["10.96.0.5"])));
    assert_eq!((&spec["ports"][0]["nodePort"], &spec["ipFamilies"]), (&json!(30080), &json!(["IPv4"])));
    assert!(faults.is_empty(), "{faults:?}");
    let (_, faults) = update(
        json!({"type": "NodePort", "ports": [{"port": 80}], "clusterIP": "10.96.0.6", "clusterIPs": ["10.96.0.5"]}),
    );
    assert_eq!(faults, ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.6\"]: may not change once set"]);
    let (spec, faults) = update(json!({"type": "ClusterIP", "ports": [{"port": 80, "nodePort": 30080}],
        "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "externalTrafficPolicy": "Cluster"}));
    assert!(spec["ports"][0].get("nodePort").is_none() && spec.get("externalTrafficPolicy").is_none());
    assert!(faults.is_empty(), "{faults:?}");
    let (spec, faults) = update(json!({"type": "ExternalName", "externalName": "a.b",
        "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}));
    assert!(spec.get("clusterIP").is_none() && spec.get("ipFamilies").is_none());
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn service_rows() {
    let row = |spec: Value, status: Value, expected: &str| {
        check_row("", "Service", json!({"metadata": {}, "spec": spec, "status": status}), expected);
    };
    row(
        json!({"type": "ClusterIP", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 80, "protocol": "TCP"}], "selector": {"a": "b"}}),
        json!({}),
        "x | ClusterIP | 10.0.0.1 | <none> | 80/TCP | 5m | a=b",
    );
    row(
        json!({"type": "NodePort", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 80, "nodePort": 30000, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
        json!({}),
        "x | NodePort | 10.0.0.1 | <none> | 80:30000/TCP,53/UDP | 5m | <none>",
    );
    row(
        json!({"type": "LoadBalancer"}),
        json!({}),
        "x | LoadBalancer | <none> | <pending> | <none> | 5m | <none>",
    );
    row(
        json!({"type": "LoadBalancer", "clusterIP": "None"}),
        json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}),
        "x | LoadBalancer | None | 1.2.3.4 | <none> | 5m | <none>",
    );
    row(
        json!({"type": "ExternalName", "externalName": "a.b"}),
        json!({}),
        "x | ExternalName | <none> | a.b | <none> | 5m | <none>",
    );
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
            "metadata.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}: taints must be unique by key and effect pair",
            "metadata.taints[2].effect: Unsupported value: \"Odd\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            "spec.podCIDRs[0]: Invalid value: \"10.244.0.1/24\": must not have bits set beyond the prefix length",
        ],
    );
    check_update(
        "",
        "Node",
        json!({"metadata": {"name": "n"}, "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"], "providerID": "a"}}),
        |new| {
            new["spec"]["podCIDRs"] = json!(["10.245.0.0/24"]);
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
fn endpoints_and_slices() {
    check(
        "",
        "Endpoints",
        json!({"metadata": {}, "subsets": [{"addresses": [{"ip": "169.254.0.1"}], "ports": [{"port": 0}]}, {}]}),
        &[
            "subsets[0].addresses[0].ip: Invalid value: \"169.254.0.1\": may not be in the link-local range (169.254.0.0/16, fe80::/10)",
            "subsets[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`",
        ],
    );
    let addresses: Vec<Value> = (1..6).map(|n| json!({"ip": format!("10.0.0.{n}")})).collect();
    check_row(
        "",
        "Endpoints",
        json!({"metadata": {}, "subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]}),
        "x | 10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more... | 5m",
    );
    check_row("", "Endpoints", json!({"metadata": {}}), "x | <none> | 5m");
    let slice = json!({"metadata": {}, "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]});
    assert_eq!(
        created("discovery.k8s.io", "EndpointSlice", slice.clone())["ports"],
        json!([{"port": 80, "name": "", "protocol": "TCP"}])
    );
    check("discovery.k8s.io", "EndpointSlice", slice.clone(), &[]);
    check(
        "discovery.k8s.io",
        "EndpointSlice",
        json!({"metadata": {}, "addressType": "IPv4", "endpoints": [{"addresses": []}, {"addresses": ["::2"]}]}),
        &[
            "endpoints[0].addresses: Required value: must contain at least 1 address",
            "endpoints[1].addresses: Invalid value: \"::2\": must be an IPv4 address",
        ],
    );
    check_update(
        "discovery.k8s.io",
        "EndpointSlice",
        slice.clone(),
        |new| {
            new["addressType"] = json!("FQDN");
            new["endpoints"] = json!([]);
        },
        &["addressType: Invalid value: \"FQDN\": field is immutable"],
    );
    check_row("discovery.k8s.io", "EndpointSlice", slice, "x | IPv4 | 80 | 10.0.0.1 | 5m");
    check_row(
        "discovery.k8s.io",
        "EndpointSlice",
        json!({"metadata": {}, "addressType": "IPv4"}),
        "x | IPv4 | <unset> | <unset> | 5m",
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
            "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"edit\"}: cannot change roleRef",
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
fn jobs() {
    let job = json!({"metadata": {"name": "j", "uid": "u1"}, "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    let object = created("batch", "Job", job.clone());
    assert_eq!(
        (&object["spec"]["completions"], &object["spec"]["parallelism"], &object["spec"]["backoffLimit"]),
        (&json!(1), &json!(1), &json!(6))
    );
    assert_eq!(
        object["spec"]["selector"],
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u1"}})
    );
    assert_eq!(object["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
    check("batch", "Job", job.clone(), &[]);
    let mut bad = job.clone();
    bad["spec"]["template"]["spec"].as_object_mut().unwrap().remove("restartPolicy");
    check(
        "batch",
        "Job",
        bad,
        &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
    );
    let mut done = object;
    done["status"] = json!({"succeeded": 1, "startTime": "2026-01-01T23:56:00Z", "completionTime": "2026-01-01T23:56:10Z",
        "conditions": [{"type": "Complete", "status": "True"}]});
    check_row(
        "batch",
        "Job",
        done,
        "x | Complete | 1/1 | 10s | 5m | c | i | batch.kubernetes.io/controller-uid=u1",
    );
    let cron = |schedule: &str| json!({"metadata": {"name": "c"}, "spec": {"schedule": schedule, "jobTemplate": {"spec": job["spec"]}}});
    for good in ["*/5 * * * *", "0 0 1 jan mon-fri", "@hourly", "0,30 8-18/2 * * 1"] {
        check("batch", "CronJob", cron(good), &[]);
    }
    for (bad, fault) in [
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("@never", "unrecognized descriptor: @never"),
    ] {
        check("batch", "CronJob", cron(bad), &[&format!("spec.schedule: Invalid value: {bad:?}: {fault}")]);
    }
    check_row(
        "batch",
        "CronJob",
        json!({"metadata": {}, "spec": {"schedule": "@hourly", "suspend": false}, "status": {"active": [{}]}}),
        "x | @hourly | <none> | False | 1 | <none> | 5m |  |  | <none>",
    );
}

#[test]
fn autoscalers_and_budgets() {
    let scaler = created(
        "autoscaling",
        "HorizontalPodAutoscaler",
        json!({"metadata": {}, "spec": {"maxReplicas": 5, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}}),
    );
    assert_eq!(scaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
    let mut shown = scaler;
    shown["status"] = json!({"currentReplicas": 2, "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 35}}}]});
    check_row(
        "autoscaling",
        "HorizontalPodAutoscaler",
        shown,
        "x | Deployment/web | cpu: 35%/80% | 1 | 5 | 2 | 5m",
    );
    check(
        "policy",
        "PodDisruptionBudget",
        json!({"metadata": {}, "spec": {"minAvailable": 1, "maxUnavailable": "101%"}}),
        &[
            "spec: Invalid value: {\"maxUnavailable\":\"101%\",\"minAvailable\":1}: minAvailable and maxUnavailable cannot be both set",
            "spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
        ],
    );
    check_row(
        "policy",
        "PodDisruptionBudget",
        json!({"metadata": {}, "spec": {"minAvailable": "50%"}}),
        "x | 50% | N/A | 0 | 5m",
    );
}

#[test]
fn networks() {
    let policy = created(
        "networking.k8s.io",
        "NetworkPolicy",
        json!({"metadata": {}, "spec": {"podSelector": {}, "egress": [{"ports": [{"port": 53}]}]}}),
    );
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(policy["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    check(
        "networking.k8s.io",
        "NetworkPolicy",
        json!({"metadata": {}, "spec": {"ingress": [{"from": [{}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]}}),
        &[
            "spec.ingress[0].from[0]: Required value: must specify a peer",
            "spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
        ],
    );
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    check("networking.k8s.io", "Ingress", json!({"metadata": {}, "spec": {"defaultBackend": backend}}), &[]);
    check(
        "networking.k8s.io",
        "Ingress",
        json!({"metadata": {}, "spec": {"rules": [{"host": "1.2.3.4", "http": {"paths": [{"path": "a", "pathType": "Prefix", "backend": {}}]}}]}}),
        &[
            "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            "spec.rules[0].http.paths[0].path: Invalid value: \"a\": must be an absolute path",
            "spec.rules[0].http.paths[0].backend: Required value: either `service` or `resource` must be specified",
        ],
    );
    let rules: Vec<Value> = ["a", "b", "c", "d"].iter().map(|host| json!({"host": host})).collect();
    check_row(
        "networking.k8s.io",
        "Ingress",
        json!({"metadata": {}, "spec": {"ingressClassName": "nginx", "rules": rules, "tls": [{}]}}),
        "x | nginx | a,b,c + 1 more... |  | 80, 443 | 5m",
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
        claim,
        |new| new["spec"]["storageClassName"] = json!("fast"),
        &[
            "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n",
        ],
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
    let mut stored = created(GROUP, "CertificateSigningRequest", request);
    assert_eq!(stored["status"], json!({}), "nobody approves their own");
    assert!(
        stored["spec"].get("username").is_none() && stored["spec"].get("groups").is_none(),
        "nor says who they are"
    );
    certificates::set_requester(
        &mut stored,
        "eve",
        "",
        &["devs".to_owned()],
        &std::collections::BTreeMap::new(),
    );
    assert_eq!(stored["spec"]["username"], "eve");
    assert_eq!(faults_of(GROUP, "CertificateSigningRequest", &stored), Vec::<String>::new());
    let rules = rules(GROUP, "CertificateSigningRequest");
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
