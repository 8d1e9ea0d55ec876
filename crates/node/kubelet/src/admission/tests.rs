//! Tables: who comes in, and who does not.

use serde_json::json;

use super::*;

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
}

fn asking(cpu: &str, memory: &str) -> Pod {
    pod(json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}))
}

fn node() -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": "n1", "labels": {"disk": "ssd", "cores": "8"}},
        "spec": {"taints": [{"key": "k", "value": "v", "effect": "NoExecute"}, {"key": "s", "effect": "NoSchedule"}]},
    }))
    .unwrap()
}

fn allocatable() -> BTreeMap<String, WireQuantity> {
    [("cpu", "2"), ("memory", "4Gi"), ("pods", "3")]
        .into_iter()
        .map(|(name, amount)| (name.to_owned(), WireQuantity(amount.to_owned())))
        .collect()
}

fn reason(wanted: &Pod, others: &[Arc<Pod>], node: Option<&Node>) -> String {
    admit(wanted, others, node, &allocatable(), &[]).err().map(|refused| refused.reason).unwrap_or_default()
}

#[test]
fn room() {
    let one = Arc::new(asking("1500m", "1Gi"));
    assert_eq!(reason(&asking("500m", "3Gi"), std::slice::from_ref(&one), None), "");
    assert_eq!(reason(&asking("501m", "1Gi"), std::slice::from_ref(&one), None), "OutOfcpu");
    assert_eq!(reason(&asking("1m", "3073Mi"), std::slice::from_ref(&one), None), "OutOfmemory");
    let small = Arc::new(asking("0", "0"));
    assert_eq!(reason(&small, &[small.clone(), small.clone(), small.clone()], None), "OutOfpods");
    let refused = admit(&asking("501m", "0"), &[one], None, &allocatable(), &[]).unwrap_err();
    assert_eq!(
        refused.message,
        "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000"
    );
}

#[test]
fn a_node_in_need() {
    let (memory, disk, pids) = (Pressure::Memory, Pressure::Disk, Pressure::Pid);
    let judged = |wanted: &Pod, pressures: &[Pressure]| {
        under_pressure(wanted, &pressures.iter().copied().collect()).map_err(|refused| refused.message)
    };
    let modest = pod(json!({"containers": [{"name": "c"}]}));
    let burstable = asking("1", "1");
    let critical = pod(json!({"priority": 2_000_000_000, "containers": [{"name": "c"}]}));
    let tolerating = |key: &str| {
        pod(json!({"containers": [{"name": "c"}],
            "tolerations": [{"key": key, "operator": "Exists", "effect": "NoSchedule"}]}))
    };
    let daemon = tolerating("node.kubernetes.io/memory-pressure");
    let other = tolerating("node.kubernetes.io/disk-pressure");
    for (name, wanted, pressures, expected) in [
        ("nothing is short", &modest, vec![], None),
        ("asks for nothing", &modest, vec![memory], Some("[MemoryPressure]")),
        ("asks for some", &burstable, vec![memory], None),
        ("tolerates it", &daemon, vec![memory], None),
        ("tolerates another", &other, vec![memory], Some("[MemoryPressure]")),
        ("no toleration helps", &other, vec![disk], Some("[DiskPressure]")),
        ("no request helps", &burstable, vec![pids], Some("[PIDPressure]")),
        ("memory is not all", &daemon, vec![disk, memory], Some("[MemoryPressure DiskPressure]")),
        ("has to run", &critical, vec![memory, disk, pids], None),
    ] {
        let expected = expected.map(|names| format!("The node had condition: {names}. "));
        assert_eq!(judged(wanted, &pressures).err(), expected, "{name}");
    }
}

#[test]
fn places() {
    let tolerating = json!([{"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute"}]);
    let with = |extra: serde_json::Value| {
        let mut spec = json!({"containers": [], "tolerations": tolerating.clone()});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        reason(&pod(spec), &[], Some(&node()))
    };
    let affinity = |expression: serde_json::Value| {
        with(json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}}}))
    };
    assert_eq!(with(json!({})), "");
    assert_eq!(with(json!({"tolerations": []})), "TaintToleration");
    assert_eq!(with(json!({"tolerations": [{"operator": "Exists"}]})), "");
    assert_eq!(with(json!({"nodeSelector": {"disk": "ssd"}})), "");
    assert_eq!(with(json!({"nodeSelector": {"disk": "hdd"}})), "NodeAffinity");
    for (operator, values, fits) in [
        ("In", json!(["ssd"]), true),
        ("NotIn", json!(["ssd"]), false),
        ("Exists", json!([]), true),
        ("DoesNotExist", json!([]), false),
    ] {
        let found = affinity(json!({"key": "disk", "operator": operator, "values": values}));
        assert_eq!(found.is_empty(), fits, "{operator}");
    }
    assert_eq!(affinity(json!({"key": "cores", "operator": "Gt", "values": ["4"]})), "");
    assert_eq!(affinity(json!({"key": "cores", "operator": "Lt", "values": ["4"]})), "NodeAffinity");
}

#[test]
fn what_only_some_nodes_have() {
    let asking = |name: &str, amount: &str| {
        pod(json!({"containers": [{"name": "c", "resources": {"requests": {name: amount}}}]}))
    };
    let mut has = allocatable();
    for (name, amount) in [("example.com/dongle", "3"), ("hugepages-2Mi", "8Mi")] {
        has.insert(name.to_owned(), WireQuantity(amount.to_owned()));
    }
    let short = |wanted: &Pod, others: &[Arc<Pod>]| {
        let short = shortages(wanted, others, &has);
        short.first().map(|short| short.refused().reason).unwrap_or_default()
    };
    let two = Arc::new(asking("example.com/dongle", "2"));
    assert_eq!(short(&two, &[]), "");
    assert_eq!(short(&two, std::slice::from_ref(&two)), "OutOfexample.com/dongle");
    assert_eq!(short(&asking("example.com/other", "2"), &[]), "", "not this node's");
    assert_eq!(short(&asking("hugepages-2Mi", "8Mi"), &[]), "");
    assert_eq!(short(&asking("hugepages-2Mi", "10Mi"), &[]), "OutOfhugepages-2Mi");
    assert_eq!(short(&asking("hugepages-1Gi", "1Gi"), &[]), "OutOfhugepages-1Gi");
    let mut claiming = asking("example.com/dongle", "9");
    let mapped = json!({"extendedResourceClaimStatus": {"resourceClaimName": "r", "requestMappings": [
        {"containerName": "c", "requestName": "q", "resourceName": "example.com/dongle"}]}});
    claiming.status = Some(serde_json::from_value(mapped).unwrap());
    assert_eq!(short(&claiming, &[]), "", "a driver gives it");
}

#[test]
fn room_is_all_that_a_critical_pod_may_lack() {
    let critical = |extra: serde_json::Value| {
        let mut spec = json!({"priority": 2_000_000_000, "containers": [
            {"name": "c", "resources": {"requests": {"cpu": "3", "memory": "5Gi"}}}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        pod(spec)
    };
    let tolerating = critical(json!({"tolerations": [{"operator": "Exists"}]}));
    assert_eq!(reason(&tolerating, &[], Some(&node())), "OutOfcpu");
    assert_eq!(reason(&critical(json!({})), &[], Some(&node())), "TaintToleration");
    let mut from_a_file = critical(json!({}));
    let mark = (pod::CONFIG_SOURCE.to_owned(), "file".to_owned());
    from_a_file.metadata.annotations = Some([mark].into());
    assert_eq!(reason(&from_a_file, &[], Some(&node())), "OutOfcpu", "taints do not concern it");
    let one = Arc::new(asking("1", "1Gi"));
    let short = shortages(&tolerating, &[one], &allocatable());
    let missing: Vec<_> = short.iter().map(|one| (one.resource.as_str(), one.missing())).collect();
    assert_eq!(missing, [("cpu", 2000), ("memory", 2 << 30)]);
}

#[test]
fn kernel_settings() {
    let with = |name: &str| {
        pod(json!({"containers": [], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}))
    };
    assert_eq!(reason(&with("net.ipv4.tcp_syncookies"), &[], None), "");
    let refused = admit(&with("kernel.core_pattern"), &[], None, &allocatable(), &[]).unwrap_err();
    assert_eq!(refused.reason, "SysctlForbidden");
    assert_eq!(refused.message, "forbidden sysctl: \"kernel.core_pattern\" not allowlisted");
}

#[test]
fn host_ports_clash() {
    let with = |port: i32, ip: &str, protocol: &str| {
        pod(json!({"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": port, "hostIP": ip, "protocol": protocol}]}]}))
    };
    let there = Arc::new(with(80, "", "TCP"));
    for (wanted, clash) in [
        (with(80, "", "TCP"), true),
        (with(80, "127.0.0.1", "TCP"), true),
        (with(80, "", "UDP"), false),
        (with(81, "", "TCP"), false),
    ] {
        assert_eq!(reason(&wanted, std::slice::from_ref(&there), None) == "NodePorts", clash);
    }
}

#[test]
fn a_label_of_another_system() {
    let labelled = |os: &str| Pod {
        metadata: serde_json::from_value(json!({"name": "p", "labels": {"kubernetes.io/os": os}})).unwrap(),
        ..pod(json!({"containers": [{"name": "c"}]}))
    };
    assert_eq!(reason(&labelled("windows"), &[], None), "PodOSSelectorNodeLabelDoesNotMatch");
    assert_eq!(reason(&labelled("linux"), &[], None), "");
}

#[test]
fn strict_groups_need_a_runtime_that_knows_them() {
    let with = |policy: &str| {
        pod(json!({"containers": [{"name": "c"}], "securityContext": {"supplementalGroupsPolicy": policy}}))
    };
    let info = json!({"architecture": "", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
        "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "",
        "systemUUID": ""});
    let node = |status: serde_json::Value| -> Node {
        serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap()
    };
    for (policy, status, expected) in [
        ("Strict", json!({"nodeInfo": info, "features": {"supplementalGroupsPolicy": true}}), ""),
        (
            "Strict",
            json!({"nodeInfo": info, "features": {"supplementalGroupsPolicy": false}}),
            "SupplementalGroupsPolicyNotSupported",
        ),
        ("Strict", json!({"nodeInfo": info}), "SupplementalGroupsPolicyNotSupported"),
        ("Merge", json!({"nodeInfo": info}), ""),
        // Not written yet.
        ("Strict", json!({}), ""),
    ] {
        assert_eq!(reason(&with(policy), &[], Some(&node(status.clone()))), expected, "{policy} {status}");
    }
}
