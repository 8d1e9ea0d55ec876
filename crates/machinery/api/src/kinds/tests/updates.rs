//! What updates and status writes may change, and what the server makes of them.

use serde_json::json;

use super::*;

/// What a write of a part makes of an object, and its faults.
#[track_caller]
fn write(
    group: &str,
    kind: &str,
    part: Part,
    old: &Value,
    change: impl Fn(&mut Value),
) -> (Value, Vec<String>) {
    let rules = rules(group, kind);
    let mut new = old.clone();
    change(&mut new);
    rules.default(&mut new);
    rules.prepare_update(&mut new, old, &context(part));
    let mut errors = Errors::new();
    rules.validate_update(&new, old, &context(part), &mut errors);
    (new, errors.0.iter().map(ToString::to_string).collect())
}

#[test]
fn status_writes_leave_metadata() {
    let meta = json!({"name": "a", "labels": {"k": "v"}, "generation": 3});
    for (group, kind) in [
        ("networking.k8s.io", "ServiceCIDR"),
        ("storage.k8s.io", "VolumeAttachment"),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema"),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"),
    ] {
        let old = json!({"metadata": meta, "spec": {}});
        let (new, _) = write(group, kind, Part::Status, &old, |new| {
            new["metadata"]["labels"] = json!({"Bad Key!": "v"});
            new["metadata"]["finalizers"] = json!(["bad"]);
            new["metadata"]["managedFields"] = json!([{}]);
        });
        assert_eq!(new["metadata"]["managedFields"], json!([{}]), "{kind}");
        assert_eq!(new["metadata"]["labels"], meta["labels"], "{kind}");
        assert!(new["metadata"].get("finalizers").is_none(), "{kind}");
    }
    let old = json!({"metadata": meta, "spec": {}});
    let (new, _) = write("apps", "Deployment", Part::Status, &old, |new| {
        new["metadata"]["labels"] = json!({});
        new["metadata"]["annotations"] = json!({"a": "b"});
    });
    assert_eq!(new["metadata"]["labels"], meta["labels"]);
    assert_eq!(new["metadata"]["annotations"], json!({"a": "b"}));
}

#[test]
fn an_empty_struct_is_something() {
    let rules = rules("apps", "Deployment");
    let with = |affinity: Value| json!({"spec": {"template": {"spec": {"affinity": affinity}}}});
    assert!(rules.spec_changed(&with(json!({})), &with(Value::Null)));
    assert!(!rules.spec_changed(&with(Value::Null), &json!({"spec": {"template": {"spec": {}}}})));
}

#[test]
fn one_address_of_a_pod_is_the_first_of_all() {
    let default = |status: Value| {
        let mut pod = json!({"spec": {}, "status": status});
        rules("", "Pod").default(&mut pod);
        pod["status"].clone()
    };
    let both = json!({"podIP": "1.2.3.4", "podIPs": [{"ip": "1.2.3.4"}]});
    assert_eq!(default(json!({"podIP": "1.2.3.4"})), both);
    assert_eq!(default(json!({"podIPs": [{"ip": "1.2.3.4"}]})), both);
    assert_eq!(default(json!({"podIP": "1.2.3.4", "podIPs": [{"ip": "5.6.7.8"}]})), both);
    assert_eq!(default(json!({})), json!({}));
}

#[test]
fn claims_are_looked_at_when_they_are_made() {
    let old = json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": [{"name": "Not a name"}]}}});
    let (_, faults) = write("resource.k8s.io", "ResourceClaim", Part::Main, &old, |_| {});
    assert!(faults.is_empty(), "{faults:?}");
    let (_, faults) = write("resource.k8s.io", "ResourceClaim", Part::Main, &old, |new| {
        new["spec"] = json!({"devices": {}});
    });
    let shown = r#"{"Devices":{"Requests":null,"Constraints":null,"Config":null}}"#;
    assert_eq!(faults, [format!("spec: Invalid value: {shown}: field is immutable")]);
}

#[test]
fn what_is_wrong_is_told_before_what_changed() {
    let old =
        created("storage.k8s.io", "StorageClass", json!({"metadata": {"name": "a"}, "provisioner": "a.b/c"}));
    let (_, faults) =
        write("storage.k8s.io", "StorageClass", Part::Main, &old, |new| new["provisioner"] = json!(""));
    assert_eq!(
        faults,
        ["provisioner: Required value", "provisioner: Invalid value: \"\": field is immutable"]
    );
    // What cannot change is not looked at again.
    let old = json!({"metadata": {"name": "a"}, "value": 2_000_000_001, "preemptionPolicy": "Never"});
    let (_, faults) = write("scheduling.k8s.io", "PriorityClass", Part::Main, &old, |_| {});
    assert!(faults.is_empty(), "{faults:?}");
    let old = json!({"metadata": {"name": "a"}, "spec": {"cidrs": ["bad"]}});
    let (_, faults) = write("networking.k8s.io", "ServiceCIDR", Part::Main, &old, |_| {});
    assert!(faults.is_empty(), "{faults:?}");
    let (_, faults) = write("networking.k8s.io", "ServiceCIDR", Part::Main, &old, |new| {
        new["spec"]["cidrs"] = json!(["bad", "fd00::/64"]);
    });
    assert_eq!(faults.len(), 1, "{faults:?}");
}

#[test]
fn volumes_get_the_defaults_of_their_source() {
    let volume =
        created("", "PersistentVolume", json!({"metadata": {"name": "v"}, "spec": {"rbd": {"image": "i"}}}));
    assert_eq!(
        volume["spec"]["rbd"],
        json!({"image": "i", "pool": "rbd", "user": "admin", "keyring": "/etc/ceph/keyring"})
    );
}

#[test]
fn what_upstream_looks_at_twice_is_told_twice() {
    let old = created("", "Service", json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}));
    let (_, faults) =
        write("", "Service", Part::Main, &old, |new| new["spec"]["loadBalancerClass"] = json!("a/b"));
    let why = "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'";
    assert_eq!(faults.iter().filter(|fault| *fault == why).count(), 2, "{faults:?}");
    let volume = json!({"metadata": {"name": "v"}, "spec": {"hostPath": {"path": "/x"}, "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": "1Gi"}}});
    let (_, faults) =
        write("", "PersistentVolume", Part::Main, &created("", "PersistentVolume", volume), |new| {
            new["spec"]["capacity"] = json!({"storage": "-1"});
        });
    let why = "spec.capacity[storage]: Invalid value: -1: must be a valid resource quantity";
    assert_eq!(faults.iter().filter(|fault| *fault == why).count(), 2, "{faults:?}");
}

#[test]
fn a_driver_is_warned_about_when_it_is_made() {
    let driver = json!({"metadata": {"name": "a.b"}, "spec": {"tokenRequests": [{"audience": "a"}]}});
    let rules = rules("storage.k8s.io", "CSIDriver");
    assert_eq!(rules.warnings(&driver, None).len(), 1);
    assert!(rules.warnings(&driver, Some(&driver)).is_empty());
}

#[test]
fn node_ranges_are_two_names_of_one_thing() {
    let mut node = created(
        "",
        "Node",
        json!({"metadata": {"name": "n"}, "spec": {"podCIDR": "10.1.0.0/24",
        "configSource": {"configMap": {}}}, "status": {"config": {}}}),
    );
    assert_eq!(node["spec"], json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]}));
    assert_eq!(node["status"], json!({}));
    node["spec"] = json!({"podCIDRs": ["10.1.0.0/24", "fd00::/64"]});
    rules("", "Node").default(&mut node);
    assert_eq!(node["spec"]["podCIDR"], "10.1.0.0/24");
    let why = "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid";
    let (_, faults) = write("", "Node", Part::Main, &node, |new| {
        new["spec"] = json!({"podCIDR": "10.2.0.0/24", "podCIDRs": ["10.2.0.0/24", "fd01::/64"]});
    });
    assert_eq!(faults, [why, why]);
    let (_, faults) = write("", "Node", Part::Status, &node, |new| {
        new["status"] = json!({"addresses": [{"type": "InternalIP", "address": "a"}, {"type": "InternalIP", "address": "a"}],
            "declaredFeatures": ["B", "A", "A", "c"]});
        new["spec"] = json!({});
    });
    assert_eq!(
        faults,
        [
            "status.declaredFeatures[1]: Invalid value: \"A\": list must be sorted alphabetically",
            "status.declaredFeatures[2]: Duplicate value: \"A\"",
            "status.declaredFeatures[3]: Invalid value: \"c\": invalid feature name \"c\": must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes",
            "status.addresses[1]: Duplicate value: {\"Type\":\"InternalIP\",\"Address\":\"a\"}",
        ]
    );
}

#[test]
fn events_of_the_newer_group_are_strict() {
    const GROUP: &str = "events.k8s.io";
    let event = json!({"metadata": {"name": "e", "namespace": "default"}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingComponent": "a/b", "reportingInstance": "i", "action": "act", "reason": "Because", "type": "Normal",
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}});
    check(GROUP, "Event", event.clone(), &[]);
    let loose = json!({"metadata": {"name": "e", "namespace": "default"}, "count": 3, "source": {"component": "c"},
        "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:00Z", "type": "Odd",
        "series": {"count": 1}, "involvedObject": {"namespace": "default"}});
    check("", "Event", loose.clone(), &[]);
    check(
        GROUP,
        "Event",
        loose.clone(),
        &[
            "series.count: Invalid value: \"\": should be at least 2",
            "series.lastObservedTime: Required value",
            "eventTime: Required value",
            "type: Invalid value: \"\": has invalid value: Odd",
            "firstTimestamp: Invalid value: \"\": needs to be unset",
            "lastTimestamp: Invalid value: \"\": needs to be unset",
            "count: Invalid value: \"\": needs to be unset",
            "source: Invalid value: \"\": needs to be unset",
        ],
    );
    let mut nameless = event.clone();
    nameless["reportingComponent"] = json!("");
    check(
        GROUP,
        "Event",
        nameless.clone(),
        &[
            "reportingController: Required value",
            "reportingController: Invalid value: \"\": name part must be non-empty",
            "reportingController: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ],
    );
    let series = json!({"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"});
    let (_, faults) = write(GROUP, "Event", Part::Main, &event, |new| new["series"] = series.clone());
    assert_eq!(faults, Vec::<String>::new());
    let (_, faults) = write(GROUP, "Event", Part::Main, &event, |new| {
        new["message"] = json!("other");
        new["reportingInstance"] = json!("j");
    });
    assert_eq!(
        faults,
        [
            "message: Invalid value: \"other\": field is immutable",
            "reportingInstance: Invalid value: \"j\": field is immutable",
        ]
    );
    let (_, faults) =
        write(GROUP, "Event", Part::Main, &loose, |new| new["metadata"]["labels"] = json!({"a": "b"}));
    assert_eq!(faults, Vec::<String>::new(), "what core's clients wrote may stay");
    // Core's may say anything else the next time.
    let (_, faults) = write("", "Event", Part::Main, &event, |new| new["message"] = json!("other"));
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn claims_name_their_source_twice() {
    let claim = |more: Value| {
        let mut spec =
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        created("", "PersistentVolumeClaim", json!({"metadata": {}, "spec": spec}))
    };
    let other = json!({"kind": "PersistentVolumeClaim", "name": "a"});
    let made = claim(json!({"dataSource": other}));
    assert_eq!((&made["spec"]["dataSource"], &made["spec"]["dataSourceRef"]), (&other, &other));
    let populator = json!({"apiGroup": "x.io", "kind": "Odd", "name": "a"});
    let made = claim(json!({"dataSourceRef": populator}));
    assert_eq!(made["spec"]["dataSource"], populator);
    assert!(claim(json!({"dataSource": populator}))["spec"].get("dataSource").is_none(), "ignored as ever");
    let far = json!({"kind": "PersistentVolumeClaim", "name": "a", "namespace": "b"});
    assert!(claim(json!({"dataSourceRef": far}))["spec"].get("dataSourceRef").is_none());
    let two = claim(json!({"dataSource": other, "dataSourceRef": populator}));
    assert_eq!(
        faults_of("", "PersistentVolumeClaim", &two),
        ["spec: Invalid value: {}: must match dataSourceRef"]
    );
    // An older client leaves out what it does not know.
    let (kept, faults) = write("", "PersistentVolumeClaim", Part::Main, &made, |new| {
        new["spec"].as_object_mut().unwrap().remove("dataSourceRef");
    });
    assert_eq!((kept["spec"]["dataSourceRef"].clone(), faults), (populator, Vec::new()));
    let (_, faults) = write("", "PersistentVolumeClaim", Part::Status, &made, |new| {
        new["status"] = json!({"capacity": {"storage": "-1"}, "allocatedResourceStatuses": {"storage": "Odd", "cpu": "NodeResizePending"},
            "allocatedResources": {"x.io/a": "1", "cpu": "1"}});
    });
    assert_eq!(
        faults,
        [
            "status.capacity[storage]: Invalid value: -1: must be a valid resource quantity",
            "status.allocatedResourceStatuses: Unsupported value: \"cpu\": supported values: \"storage\"",
            "status.allocatedResourceStatuses: Unsupported value: \"storage\": supported values: \"ControllerResizeInProgress\", \"ControllerResizeInfeasible\", \"NodeResizeInProgress\", \"NodeResizeInfeasible\", \"NodeResizePending\"",
            "status.allocatedResources: Unsupported value: \"cpu\": supported values: \"storage\"",
        ]
    );
}

#[test]
fn a_claims_class_moves_only_forward() {
    const BETA: &str = "volume.beta.kubernetes.io/storage-class";
    let claim = |annotations: Value, class: Value| {
        let mut claim = json!({"metadata": {"annotations": annotations}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": class}, "status": {"phase": "Pending"}});
        rules("", "PersistentVolumeClaim").default(&mut claim);
        claim
    };
    let immutable = |was: &str| {
        format!(
            "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n@@ -10,7 +10,7 @@\n   }}\n  }},\n  \"VolumeName\": \"\",\n- \"StorageClassName\": {was},\n+ \"StorageClassName\": \"slow\",\n  \"VolumeMode\": \"Filesystem\",\n  \"DataSource\": null,\n  \"DataSourceRef\": null,\n"
        )
    };
    let (was_fast, was_none) = (immutable("\"fast\""), immutable("null"));
    let annotation = format!("metadata.annotations.{BETA}: Invalid value: \"slow\": field is immutable");
    for (old, new, expected) in [
        (claim(json!({}), Value::Null), claim(json!({}), json!("fast")), &[][..]),
        (claim(json!({}), json!("fast")), claim(json!({}), json!("slow")), &[was_fast.as_str()]),
        (claim(json!({BETA: "fast"}), Value::Null), claim(json!({}), json!("fast")), &[]),
        (
            claim(json!({BETA: "fast"}), Value::Null),
            claim(json!({BETA: "fast"}), json!("slow")),
            &[was_none.as_str()],
        ),
        (
            claim(json!({BETA: "fast"}), Value::Null),
            claim(json!({BETA: "slow"}), Value::Null),
            &[annotation.as_str()],
        ),
    ] {
        let (_, faults) = write("", "PersistentVolumeClaim", Part::Main, &old, |it| *it = new.clone());
        assert_eq!(faults, expected, "{new}");
    }
}

#[test]
fn slices_take_no_topology() {
    const GROUP: &str = "discovery.k8s.io";
    let endpoint = json!({"addresses": ["10.0.0.1"], "deprecatedTopology": {"kubernetes.io/hostname": "n1"}});
    let slice = json!({"metadata": {}, "addressType": "IPv4", "endpoints": [endpoint]});
    let made = created(GROUP, "EndpointSlice", slice.clone());
    assert_eq!(made["endpoints"], json!([{"addresses": ["10.0.0.1"]}]));
    // One that has it from before keeps it until its endpoints change, and then its node.
    let (kept, _) = write(GROUP, "EndpointSlice", Part::Main, &slice, |new| {
        new["metadata"]["labels"] = json!({"a": "b"});
    });
    assert_eq!(kept["endpoints"], slice["endpoints"]);
    let (moved, _) = write(GROUP, "EndpointSlice", Part::Main, &slice, |new| {
        new["endpoints"][0]["addresses"] = json!(["10.0.0.2"]);
    });
    assert_eq!(moved["endpoints"], json!([{"addresses": ["10.0.0.2"], "nodeName": "n1"}]));
}

#[test]
fn daemon_sets_count_changes_of_their_template() {
    const GENERATION: &str = "deprecated.daemonset.template.generation";
    let counted = |object: &Value| object["metadata"]["annotations"][GENERATION].clone();
    let set = created(
        "apps",
        "DaemonSet",
        json!({"metadata": {}, "spec": {"template": {"spec": {"containers": []}}}}),
    );
    assert_eq!(counted(&set), "1");
    let (same, _) = write("apps", "DaemonSet", Part::Main, &set, |new| {
        new["metadata"]["annotations"] = json!({GENERATION: "9"});
        new["spec"]["minReadySeconds"] = json!(5);
    });
    assert_eq!(counted(&same), "1");
    let (next, _) = write("apps", "DaemonSet", Part::Main, &set, |new| {
        new["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
    });
    assert_eq!(counted(&next), "2");
    let (status, _) =
        write("apps", "DaemonSet", Part::Status, &next, |new| new["metadata"]["annotations"] = json!({}));
    assert_eq!(counted(&status), "2");
}

/// What an update breaks is a cause twice, as upstream has it, and said once.
#[test]
fn faults_of_nodes_and_jobs_are_told_twice() {
    let node = json!({"metadata": {"name": "n"}, "spec": {}});
    let (_, faults) = write("", "Node", Part::Main, &node, |new| {
        new["spec"]["taints"] = json!([{"key": "a", "effect": "Odd"}]);
    });
    let fault = "metadata.taints[0].effect: Unsupported value: \"Odd\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"";
    assert_eq!(faults, [fault, fault]);
    let mut errors = Errors::new();
    rules("batch", "Job").validate_update(
        &json!({"spec": {"parallelism": -1}}),
        &json!({"spec": {"parallelism": 1}}),
        &context(Part::Main),
        &mut errors,
    );
    let negative = errors.0.iter().filter(|error| error.field == "spec.parallelism").count();
    assert_eq!(negative, 2);
    let text = crate::status::ApiError::invalid("batch", "Job", "j", &errors).message;
    assert_eq!(text.matches("spec.parallelism").count(), 1, "{text}");
}

#[test]
fn jobs_change_little() {
    let job = |more: &[(&str, Value)]| {
        let mut spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "selector": {"matchLabels": {"a": "b"}},
            "manualSelector": true, "suspend": true,
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never",
                "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]}}});
        for (key, value) in more {
            spec[*key] = value.clone();
        }
        let mut job = json!({"metadata": {"name": "j"}, "spec": spec});
        rules("batch", "Job").default(&mut job);
        job
    };
    let check = |old: &Value, change: &dyn Fn(&mut Value), expected: &[&str]| {
        let (_, faults) = write("batch", "Job", Part::Main, old, change);
        let texts: Vec<String> = faults
            .iter()
            .map(|fault| match fault.split_once("Invalid value: {") {
                Some((at, _)) => format!("{at}{}", fault.rsplit(": ").next().unwrap()),
                None => fault.clone(),
            })
            .collect();
        assert_eq!(texts, expected);
    };
    let suspended = job(&[]);
    let resources = |new: &mut Value| {
        let pod = &mut new["spec"]["template"]["spec"];
        pod["containers"][0]["resources"] = json!({"requests": {"cpu": "2"}});
        pod["nodeSelector"] = json!({"a": "b"});
        pod["affinity"] = json!({"nodeAffinity": {}});
        new["spec"]["template"]["metadata"]["labels"]["c"] = json!("d");
    };
    check(&suspended, &resources, &[]);
    check(
        &suspended,
        &|new| new["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other"),
        &["spec.template.spec: field is immutable"],
    );
    check(
        &suspended,
        &|new| new["spec"]["template"]["spec"]["affinity"] = json!({"podAffinity": {"a": "b"}}),
        &["spec.template.spec: field is immutable"],
    );
    check(&job(&[("suspend", json!(false))]), &resources, &["spec.template: field is immutable"]);
    let mut active = suspended.clone();
    active["status"] = json!({"active": 1});
    check(&active, &resources, &["spec.template: field is immutable"]);
    check(
        &suspended,
        &|new| new["spec"]["completions"] = json!(5),
        &["spec.completions: Invalid value: 5: can only be modified in tandem with spec.parallelism"],
    );
    check(
        &suspended,
        &|new| {
            new["spec"]["completions"] = json!(5);
            new["spec"]["parallelism"] = json!(5);
        },
        &[],
    );
    check(
        &suspended,
        &|new| new["spec"]["successPolicy"] = json!({"rules": [{"succeededCount": 1}]}),
        &["spec.successPolicy: field is immutable"],
    );
}

#[test]
fn conditions_of_statuses_are_whole() {
    let faults = |group: &str, kind: &str, status: Value| {
        let old = json!({"metadata": {"name": "a"}, "spec": {}, "status": {}});
        write(group, kind, Part::Status, &old, |new| new["status"] = status.clone()).1
    };
    let odd = json!({"conditions": [{"type": "a"}, {"type": "a", "status": "True", "reason": "1", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": -1}]});
    assert_eq!(
        faults("policy", "PodDisruptionBudget", odd),
        [
            "status.conditions[0].status: Unsupported value: \"\": supported values: \"False\", \"True\", \"Unknown\"",
            "status.conditions[0].lastTransitionTime: Required value",
            "status.conditions[0].reason: Required value",
            "status.conditions[1].type: Duplicate value: \"a\"",
            "status.conditions[1].observedGeneration: Invalid value: -1: must be greater than or equal to zero",
            "status.conditions[1].reason: Invalid value: \"1\": a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')",
        ]
    );
    let of_flows = json!({"conditions": [{"type": "a"}, {"type": "a"}, {}]});
    for kind in ["FlowSchema", "PriorityLevelConfiguration"] {
        assert_eq!(
            faults("flowcontrol.apiserver.k8s.io", kind, of_flows.clone()),
            [
                "status.conditions[1].type: Duplicate value: \"a\"",
                "status.conditions[2].type: Required value"
            ]
        );
    }
    let checked = json!({"typeChecking": {"expressionWarnings": [{"fieldRef": "spec.validations[0]", "warning": "w"}, {}]}});
    assert_eq!(
        faults("admissionregistration.k8s.io", "ValidatingAdmissionPolicy", checked),
        [
            "status.typeChecking.expressionWarnings[1].warning: Required value",
            "status.typeChecking.expressionWarnings[1].fieldRef: Required value",
        ]
    );
    let balancer =
        json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}, {"ip": "x"}, {"hostname": "10.0.0.1"}]}});
    assert_eq!(
        faults("networking.k8s.io", "Ingress", balancer),
        [
            "status.loadBalancer.ingress[1].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
            "status.loadBalancer.ingress[2].hostname: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
        ]
    );
}

#[test]
fn drivers_count_their_changes_from_nothing() {
    let driver = created("storage.k8s.io", "CSIDriver", json!({"metadata": {"name": "a"}, "spec": {}}));
    assert!(driver["metadata"].get("generation").is_none());
    let (same, _) = write("storage.k8s.io", "CSIDriver", Part::Main, &driver, |_| {});
    assert!(same["metadata"].get("generation").is_none());
    let (next, _) = write("storage.k8s.io", "CSIDriver", Part::Main, &driver, |new| {
        new["spec"]["podInfoOnMount"] = json!(true);
    });
    assert_eq!(next["metadata"]["generation"], 1);
}

#[test]
fn faults_that_an_old_stateful_set_has_may_stay() {
    let containers = json!([{"name": "c", "image": "i"}]);
    let set = |template: Value| {
        json!({"metadata": {}, "spec": {
            "serviceName": "Not_A_Label", "selector": {"matchLabels": {"a": "b"}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": []}}],
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": template},
        }})
    };
    let good = set(json!({"containers": containers, "subdomain": "Overwritten_Anyway"}));
    let faults = faults_of("apps", "StatefulSet", &created("apps", "StatefulSet", good.clone()));
    assert!(faults.iter().any(|fault| fault.starts_with("spec.serviceName")), "{faults:?}");
    assert!(faults.iter().any(|fault| fault.starts_with("spec.volumeClaimTemplates[0]")), "{faults:?}");
    assert!(!faults.iter().any(|fault| fault.contains("subdomain")), "{faults:?}");
    let scale = |new: &mut Value| new["spec"]["replicas"] = json!(2);
    check_update("apps", "StatefulSet", good.clone(), scale, &[]);
    // A new fault of a template that had none is refused; of one that had some not, but for the policies of restarts.
    let required = "spec.template.spec.containers: Required value";
    let empty = |new: &mut Value| new["spec"]["template"]["spec"]["containers"] = json!([]);
    check_update("apps", "StatefulSet", good, empty, &[required]);
    let bad = set(json!({"containers": containers, "dnsPolicy": "Odd"}));
    check_update("apps", "StatefulSet", bad.clone(), empty, &[]);
    check_update(
        "apps",
        "StatefulSet",
        bad,
        |new| new["spec"]["template"]["spec"]["restartPolicy"] = json!("Never"),
        &["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
    );
}

#[test]
fn faults_that_an_old_autoscaler_has_may_stay() {
    const KIND: &str = "HorizontalPodAutoscaler";
    let scaler = json!({"metadata": {}, "spec": {
        "minReplicas": 0, "maxReplicas": 3, "scaleTargetRef": {"apiVersion": "a/b/c", "kind": "Deployment", "name": "d"},
        "metrics": [{"type": "Object", "object": {
            "describedObject": {"apiVersion": "x/y/z", "kind": "K", "name": "k"}, "metric": {"name": "m"},
            "target": {"type": "Value", "value": "1"},
        }}],
    }});
    check(
        "autoscaling",
        KIND,
        scaler.clone(),
        &[
            "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
            "spec.scaleTargetRef.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
            "spec.metrics[0].object.describedObject.apiVersion: Invalid value: \"x/y/z\": unexpected GroupVersion string: x/y/z",
        ],
    );
    check_update("autoscaling", KIND, scaler.clone(), |new| new["spec"]["maxReplicas"] = json!(4), &[]);
    check_update(
        "autoscaling",
        KIND,
        scaler,
        |new| {
            new["spec"]["minReplicas"] = json!(-1);
            new["spec"]["scaleTargetRef"]["kind"] = json!("ReplicaSet");
        },
        &[
            "spec.minReplicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.scaleTargetRef.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
        ],
    );
    // Of the core group only one kind scales.
    let target = |kind: &str| json!({"metadata": {}, "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "v1", "kind": kind, "name": "d"}}});
    check("autoscaling", KIND, target("ReplicationController"), &[]);
    check(
        "autoscaling",
        KIND,
        target("Pod"),
        &["spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group"],
    );
}

#[test]
fn jobs_from_before_labels_had_a_prefix_do_not_have_to_have_them() {
    let job = |labels: Value| {
        json!({"metadata": {"name": "j", "uid": "u"}, "spec": {
            "manualSelector": false, "selector": {"matchLabels": {"controller-uid": "u"}},
            "template": {"metadata": {"labels": labels},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}},
        }})
    };
    // What `created` adds is taken away again.
    let update = |labels: Value, expected: &[&str]| {
        let rules = rules("batch", "Job");
        let mut old = job(labels);
        rules.default(&mut old);
        let mut new = old.clone();
        new["spec"]["parallelism"] = json!(2);
        let mut errors = Errors::new();
        rules.validate_update(&new, &old, &context(Part::Main), &mut errors);
        let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        assert_eq!(texts, expected);
    };
    update(json!({"controller-uid": "u", "job-name": "j"}), &[]);
    update(json!({"controller-uid": "u", "job-name": "j", "batch.kubernetes.io/job-name": "j"}), &[]);
    update(
        json!({"controller-uid": "u"}),
        &["spec.template.metadata.labels[job-name]: Required value: must be 'j'"],
    );
}
