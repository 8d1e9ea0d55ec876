//! Pods as course users write them: what they get by default, what is refused and in which words, what kubectl shows.

#![allow(clippy::needless_pass_by_value, reason = "cases read better without references")]

mod env_files;
mod statuses;
mod windows;

use serde_json::json;

use super::*;
use crate::kinds::{Requester, rules, validate_metadata};

const NOW: &str = "2026-01-02T00:00:00Z";

fn main_part() -> Context<'static> {
    Context { part: Part::Main, now: NOW, requester: Requester::NOBODY }
}

/// A pod with one container, to which `spec` is added.
fn pod(extra: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "nginx"}]},
    });
    for (key, value) in extra.as_object().cloned().unwrap_or_default() {
        pod["spec"][key.as_str()] = value;
    }
    Pod.default(&mut pod);
    pod
}

/// A pod whose one container has `extra`.
fn with_container(extra: Value) -> Value {
    let mut container = json!({"name": "c", "image": "nginx"});
    for (key, value) in extra.as_object().cloned().unwrap_or_default() {
        container[key.as_str()] = value;
    }
    pod(json!({"containers": [container]}))
}

#[track_caller]
fn check(object: &Value, expected: &[&str]) {
    let mut errors = Errors::new();
    validate_metadata(&Pod, true, object, &mut errors);
    Pod.validate(object, &mut errors);
    let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
    assert_eq!(texts, expected);
}

#[test]
fn defaults_are_upstreams() {
    let mut pod = json!({
        "metadata": {"name": "p"},
        "spec": {
            "serviceAccountName": "sa",
            "volumes": [{"name": "e"}, {"name": "s", "secret": {"secretName": "x"}}, {"name": "h", "hostPath": {"path": "/"}}],
            "containers": [{
                "name": "c", "image": "web:v1",
                "ports": [{"containerPort": 80}],
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
                "resources": {"limits": {"cpu": "500m", "memory": "512Mi"}, "requests": {"cpu": "250m"}},
                "livenessProbe": {"httpGet": {"port": 80}},
            }],
        },
    });
    Pod.default(&mut pod);
    let again = {
        let mut again = pod.clone();
        Pod.default(&mut again);
        again
    };
    assert_eq!(again, pod, "idempotent");
    assert_eq!(
        pod["spec"],
        json!({
            "serviceAccountName": "sa", "serviceAccount": "sa",
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
            "securityContext": {}, "terminationGracePeriodSeconds": 30, "enableServiceLinks": true,
            "volumes": [
                {"name": "e", "emptyDir": {}},
                {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}},
                {"name": "h", "hostPath": {"path": "/", "type": ""}},
            ],
            "containers": [{
                "name": "c", "image": "web:v1", "imagePullPolicy": "IfNotPresent",
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}],
                "resources": {
                    "limits": {"cpu": "500m", "memory": "512Mi"},
                    "requests": {"cpu": "250m", "memory": "512Mi"},
                },
                "livenessProbe": {
                    "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                    "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
                },
            }],
        })
    );
    check(
        &{
            let mut pod = pod.clone();
            pod["metadata"]["namespace"] = json!("default");
            pod
        },
        &[],
    );
}

#[test]
fn pull_policies() {
    for (image, policy) in [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.2", "IfNotPresent"),
        ("localhost:5000/nginx", "Always"),
        ("localhost:5000/a/nginx:v1", "IfNotPresent"),
        ("nginx@sha256:abc", "IfNotPresent"),
        ("nginx:latest@sha256:abc", "Always"),
    ] {
        assert_eq!(defaults::pull_policy(image), policy, "{image}");
    }
}

#[test]
fn host_network_takes_the_same_ports_on_the_host() {
    let pod = pod(
        json!({"hostNetwork": true, "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}),
    );
    assert_eq!(pod["spec"]["containers"][0]["ports"][0]["hostPort"], 80);
    check(&pod, &[]);
}

#[test]
fn containers_must_be_sound() {
    check(&pod(json!({"containers": []})), &["spec.containers: Required value"]);
    check(&pod(json!({"containers": [{"image": "i"}]})), &["spec.containers[0].name: Required value"]);
    check(&pod(json!({"containers": [{"name": "c"}]})), &["spec.containers[0].image: Required value"]);
    check(
        &pod(json!({"containers": [{"name": "c", "image": " i"}]})),
        &["spec.containers[0].image: Invalid value: \" i\": must not have leading or trailing whitespace"],
    );
    check(
        &pod(json!({"containers": [{"name": "C", "image": "i"}]})),
        &[
            "spec.containers[0].name: Invalid value: \"C\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ],
    );
    check(
        &pod(json!({"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]})),
        &["spec.containers[1].name: Duplicate value: \"c\""],
    );
    check(
        &with_container(json!({"imagePullPolicy": "Sometimes"})),
        &[
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ],
    );
}

#[test]
fn ports_and_environment_must_be_sound() {
    check(
        &with_container(
            json!({"ports": [{"containerPort": 0}, {"containerPort": 70000}, {"containerPort": 1, "protocol": "ICMP"}]}),
        ),
        &[
            "spec.containers[0].ports[0].containerPort: Required value",
            "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[0].ports[2].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ],
    );
    check(
        &with_container(
            json!({"ports": [{"containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}]}),
        ),
        &["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//5\""],
    );
    check(
        &with_container(json!({"env": [
            {"name": ""},
            {"name": "a=b", "value": "c"},
            {"name": "A", "value": "x", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "spec.nope"}}},
            {"name": "C", "valueFrom": {}},
        ]})),
        &[
            "spec.containers[0].env[0].name: Required value",
            "spec.containers[0].env[1].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='",
            "spec.containers[0].env[2].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            "spec.containers[0].env[3].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nope\": error converting fieldPath: field label not supported: spec.nope",
            "spec.containers[0].env[4].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ],
    );
}

#[test]
fn resources_must_be_sound() {
    check(
        &with_container(
            json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1", "memory": "-1"}}}),
        ),
        &[
            "spec.containers[0].resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
        ],
    );
    check(
        &with_container(json!({"resources": {"requests": {"cpus": "2"}}})),
        &[
            "spec.containers[0].resources.requests[cpus]: Invalid value: \"cpus\": must be a standard resource type or fully qualified",
            "spec.containers[0].resources.requests[cpus]: Invalid value: \"cpus\": must be a standard resource for containers",
        ],
    );
    check(
        &with_container(json!({"resources": {"requests": {"example.com/gpu": "1"}}})),
        &[
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
        ],
    );
    check(&with_container(json!({"resources": {"limits": {"example.com/gpu": "1"}}})), &[]);
    let mut claims = with_container(json!({"resources": {"claims": [
        {"name": "gpu", "request": "big"}, {"name": "gpu", "request": "big"}, {"name": "gpu"}, {"name": "gpu", "request": "small"},
    ]}}));
    claims["spec"]["resourceClaims"] = json!([{"name": "gpu", "resourceClaimName": "mine"}]);
    check(
        &claims,
        &[
            "spec.containers[0].resources.claims[1]: Duplicate value: \"gpu/big\"",
            "spec.containers[0].resources.claims[2]: Duplicate value: \"gpu\"",
            "spec.containers[0].resources.claims[3]: Duplicate value: \"gpu\"",
        ],
    );
}

#[test]
fn volumes_must_be_sound() {
    check(
        &pod(json!({"containers": [{"name": "c", "image": "i", "volumeMounts": [
            {"name": "none", "mountPath": "/a"}, {"name": "v", "mountPath": "/b"}, {"name": "v", "mountPath": "/b"}, {"name": "v"}]}],
            "volumes": [{"name": "v"}]})),
        &[
            "spec.containers[0].volumeMounts[0].name: Not found: \"none\"",
            "spec.containers[0].volumeMounts[2].mountPath: Invalid value: \"/b\": must be unique",
            "spec.containers[0].volumeMounts[3].mountPath: Required value",
        ],
    );
    check(
        &pod(json!({"volumes": [
            {"name": "a", "emptyDir": {}, "secret": {"secretName": "s"}},
            {"name": "b", "configMap": {"name": "", "items": [{"key": "k", "path": "../x"}]}},
            {"name": "c", "secret": {"secretName": "s", "defaultMode": 1000}},
            {"name": "d", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
        ]})),
        &[
            "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
            "spec.volumes[1].configMap.name: Required value",
            "spec.volumes[1].configMap.items[0].path: Invalid value: \"../x\": must not contain '..'",
            "spec.volumes[2].secret.defaultMode: Invalid value: 1000: must be a number between 0 and 0777 (octal), both inclusive",
            "spec.volumes[3].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set",
        ],
    );
}

#[test]
fn probes_and_hooks_must_be_sound() {
    check(
        &with_container(json!({
            "livenessProbe": {"successThreshold": 2, "exec": {"command": ["true"]}},
            "readinessProbe": {"tcpSocket": {"port": "UP"}},
            "startupProbe": {"periodSeconds": -1},
            "lifecycle": {"preStop": {"sleep": {"seconds": 31}}},
        })),
        &[
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            "spec.containers[0].readinessProbe.tcpSocket.port: Invalid value: \"UP\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
            "spec.containers[0].readinessProbe.tcpSocket.port: Invalid value: \"UP\": must contain at least one letter (a-z)",
            "spec.containers[0].startupProbe: Required value: must specify a handler type",
            "spec.containers[0].startupProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ],
    );
    check(
        &pod(
            json!({"initContainers": [{"name": "i", "image": "i", "livenessProbe": {"exec": {"command": ["a"]}}}]}),
        ),
        &[
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ],
    );
    check(
        &pod(
            json!({"initContainers": [{"name": "i", "image": "i", "restartPolicy": "Always", "livenessProbe": {"exec": {"command": ["a"]}}}]}),
        ),
        &[],
    );
}

#[test]
fn the_rest_of_the_spec_must_be_sound() {
    check(
        &pod(json!({"restartPolicy": "Sometimes", "dnsPolicy": "None"})),
        &[
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ],
    );
    check(
        &pod(
            json!({"tolerations": [{"operator": "Equal"}, {"key": "a", "operator": "Exists", "value": "b", "effect": "No"}]}),
        ),
        &[
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            "spec.tolerations[1].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'",
            "spec.tolerations[1].effect: Unsupported value: \"No\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
        ],
    );
    check(
        &pod(json!({"securityContext": {"runAsUser": -1}, "containers": [{"name": "c", "image": "i",
            "securityContext": {"allowPrivilegeEscalation": false, "privileged": true}}]})),
        &[
            "spec.containers[0].securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ],
    );
    check(
        &pod(
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "a", "operator": "In"}, {"key": "a", "operator": "Is"}]}]}}}}),
        ),
        &[
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[1].operator: Invalid value: \"Is\": not a valid selector operator",
        ],
    );
    check(
        &pod(json!({"activeDeadlineSeconds": 0, "nodeName": "n", "schedulingGates": [{"name": "a/b"}]})),
        &[
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ],
    );
}

fn stored(mut object: Value) -> Value {
    object["metadata"]["uid"] = json!("u");
    object["metadata"]["resourceVersion"] = json!("1");
    Pod.prepare_create(&mut object, &main_part());
    object
}

#[track_caller]
fn check_update(new: &Value, old: &Value, expected: &[&str]) {
    let mut errors = Errors::new();
    Pod.validate_update(new, old, &main_part(), &mut errors);
    let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
    assert_eq!(texts, expected);
}

#[test]
fn updates_change_little() {
    let old = stored(pod(json!({})));
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = json!("nginx:2");
    new["metadata"]["labels"] = json!({"a": "b"});
    check_update(&new, &old, &[]);
    let mut new = old.clone();
    new["spec"]["containers"][0]["command"] = json!(["sh"]);
    check_update(
        &new,
        &old,
        &[
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n@@ -5,7 +5,9 @@\n   {\n    \"Name\": \"c\",\n    \"Image\": \"nginx\",\n-   \"Command\": null,\n+   \"Command\": [\n+    \"sh\"\n+   ],\n    \"Args\": null,\n    \"WorkingDir\": \"\",\n    \"Ports\": null,\n",
        ],
    );
    let mut new = old.clone();
    new["spec"]["containers"].as_array_mut().unwrap().push(
        json!({"name": "d", "image": "i", "imagePullPolicy": "Always", "terminationMessagePolicy": "File"}),
    );
    check_update(&new, &old, &["spec.containers: Forbidden: pod updates may not add or remove containers"]);
    let mut new = old.clone();
    new["spec"]["activeDeadlineSeconds"] = json!(5);
    new["spec"]["tolerations"] = json!([{"key": "a", "operator": "Exists"}]);
    check_update(&new, &old, &[]);
}

#[test]
fn status_part_keeps_the_spec_and_main_part_the_status() {
    let old = stored(pod(json!({})));
    assert_eq!(old["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    let mut new = old.clone();
    new["spec"]["nodeName"] = json!("n");
    new["status"]["phase"] = json!("Running");
    new["status"].as_object_mut().unwrap().remove("qosClass");
    let mut status = new.clone();
    Pod.prepare_update(
        &mut status,
        &old,
        &Context { part: Part::Status, now: NOW, requester: Requester::NOBODY },
    );
    assert_eq!(status["spec"], old["spec"]);
    assert_eq!(status["status"], json!({"phase": "Running", "qosClass": "BestEffort"}));
    Pod.prepare_update(&mut new, &old, &main_part());
    assert_eq!(new["status"], old["status"]);
}

#[test]
fn binding_assigns_once() {
    let mut pod = stored(pod(json!({})));
    let binding = json!({"metadata": {"name": "p", "annotations": {"a": "b"}}, "target": {"kind": "Node", "name": "n1"}});
    let mut errors = Errors::new();
    validate_binding(&binding, &mut errors);
    assert!(errors.is_empty());
    bind(&mut pod, &binding, NOW).unwrap();
    assert_eq!(pod["spec"]["nodeName"], "n1");
    assert_eq!(pod["metadata"]["annotations"]["a"], "b");
    assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
    let refused = bind(&mut pod, &binding, NOW).unwrap_err();
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (
            409,
            "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n1\""
        )
    );
    validate_binding(&json!({"target": {}}), &mut errors);
    assert_eq!(errors.0[0].to_string(), "target.name: Required value");
}

#[test]
fn grace_on_deletion() {
    let mut pod = pod(json!({}));
    assert_eq!(Pod.deletion_grace_seconds(&pod, None), Some(0), "unscheduled");
    pod["spec"]["nodeName"] = json!("n");
    assert_eq!(Pod.deletion_grace_seconds(&pod, None), Some(30));
    assert_eq!(Pod.deletion_grace_seconds(&pod, Some(5)), Some(5));
    assert_eq!(Pod.deletion_grace_seconds(&pod, Some(-1)), Some(1));
    pod["status"] = json!({"phase": "Succeeded"});
    assert_eq!(Pod.deletion_grace_seconds(&pod, None), Some(0));
}

#[test]
fn qos_classes() {
    let of = |resources: Value| qos_class(&with_container(json!({"resources": resources})));
    assert_eq!(of(json!({})), "BestEffort");
    assert_eq!(of(json!({"requests": {"cpu": "1"}})), "Burstable");
    assert_eq!(of(json!({"limits": {"cpu": "1", "memory": "1Gi"}})), "Guaranteed");
    assert_eq!(of(json!({"limits": {"cpu": "1"}})), "Burstable");
}

#[test]
fn selectable() {
    let mut pod = pod(json!({"nodeName": "n"}));
    pod["status"] = json!({"phase": "Running", "podIP": "10.0.0.1"});
    let fields: std::collections::BTreeMap<_, _> = Pod.selectable_fields(&pod).into_iter().collect();
    assert_eq!(fields["spec.nodeName"], "n");
    assert_eq!(fields["spec.hostNetwork"], "false");
    assert_eq!(fields["status.podIP"], "10.0.0.1");
    assert_eq!(fields.len(), 8);
}

/// The cells up to Age, joined as kubectl shows them.
fn shown(status: Value, spec: Value, meta: Value) -> String {
    let mut pod = pod(spec);
    pod["metadata"]["creationTimestamp"] = json!("2026-01-01T23:50:00Z");
    for (key, value) in meta.as_object().unwrap() {
        pod["metadata"][key.as_str()] = value.clone();
    }
    pod["status"] = status;
    let cells = rules("", "Pod").row(&pod, NOW.parse().unwrap());
    assert_eq!(cells.len(), rules("", "Pod").columns().len());
    let cells: Vec<&str> = cells.iter().filter_map(Value::as_str).collect();
    cells[..5].join(" | ")
}

#[test]
fn rows_are_kubectls() {
    let running = json!({"name": "c", "ready": true, "restartCount": 0, "state": {"running": {}}});
    let crash = json!({"name": "c", "ready": false, "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T23:55:00Z"}}});
    let done = json!({"name": "c", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
    let init = json!({"initContainers": [{"name": "i", "image": "i"}]});
    let none = json!({});
    for (status, spec, meta, row) in [
        (json!({"phase": "Pending"}), &none, &none, "p | 0/1 | Pending | 0 | 10m"),
        (
            json!({"phase": "Running", "containerStatuses": [running]}),
            &none,
            &none,
            "p | 1/1 | Running | 0 | 10m",
        ),
        (
            json!({"phase": "Running", "containerStatuses": [crash]}),
            &none,
            &none,
            "p | 0/1 | CrashLoopBackOff | 3 (5m ago) | 10m",
        ),
        (
            json!({"phase": "Succeeded", "containerStatuses": [done]}),
            &none,
            &none,
            "p | 0/1 | Completed | 0 | 10m",
        ),
        (
            json!({"phase": "Running", "containerStatuses": [running]}),
            &none,
            &json!({"deletionTimestamp": NOW}),
            "p | 1/1 | Terminating | 0 | 10m",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 0, "state": {"running": {}}}]}),
            &init,
            &none,
            "p | 0/1 | Init:0/1 | 0 | 10m",
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            &init,
            &none,
            "p | 0/1 | Init:CrashLoopBackOff | 2 | 10m",
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [{"name": "c", "restartCount": 0, "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}),
            &none,
            &none,
            "p | 0/1 | OOMKilled | 0 | 10m",
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), &none, &none, "p | 0/1 | Evicted | 0 | 10m"),
        (
            json!({"phase": "Failed", "containerStatuses": [{"name": "c", "restartCount": 0, "state": {"terminated": {"exitCode": 3}}}]}),
            &none,
            &none,
            "p | 0/1 | ExitCode:3 | 0 | 10m",
        ),
    ] {
        assert_eq!(shown(status.clone(), spec.clone(), meta.clone()), row, "{status}");
    }
}

#[test]
fn wide_cells() {
    let mut pod = pod(json!({"nodeName": "n1", "readinessGates": [{"conditionType": "a/b"}]}));
    pod["status"] = json!({"podIPs": [{"ip": "10.1.2.3"}]});
    let cells = Pod.row(&pod, NOW.parse().unwrap());
    assert_eq!(cells[5..], [json!("10.1.2.3"), json!("n1"), json!("<none>"), json!("0/1")]);
}

#[test]
fn warns_of_doubtful_pods() {
    let mut object =
        with_container(json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}));
    object["metadata"]["name"] = json!("a.b");
    assert_eq!(
        Pod.warnings(&object, None),
        [
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
        ]
    );
}

#[test]
fn faults_are_told_in_upstreams_order() {
    let pod = pod(json!({
        "hostPID": true, "shareProcessNamespace": true, "serviceAccountName": "A_", "nodeName": "B_", "hostname": "C_",
        "subdomain": "D_", "tolerations": [{"operator": "Odd"}], "priorityClassName": "E_", "runtimeClassName": "F_",
        "preemptionPolicy": "Odd", "securityContext": {"runAsUser": -1, "sysctls": [{"name": ""}]},
    }));
    let mut errors = Errors::new();
    Pod.validate(&pod, &mut errors);
    let mut fields: Vec<&str> = errors.0.iter().map(|error| error.field.as_str()).collect();
    fields.dedup();
    assert_eq!(
        fields,
        [
            "spec.securityContext.runAsUser",
            "spec.securityContext.shareProcessNamespace",
            "spec.securityContext.sysctls[0].name",
            "spec.serviceAccountName",
            "spec.nodeName",
            "spec.hostname",
            "spec.subdomain",
            "spec.tolerations[0].operator",
            "spec.priorityClassName",
            "spec.runtimeClassName",
            "spec.preemptionPolicy",
        ]
    );
}
