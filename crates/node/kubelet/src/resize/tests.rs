//! Tables: wishes, grants, and what follows for containers and their group.

use super::*;
use crate::record::RunState;

fn pod_of(resources: Value, status: Value) -> Arc<Pod> {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 4},
        "spec": {"containers": [{"name": "a", "image": "i", "resources": resources}]},
        "status": status,
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn amounts(value: Value) -> ResourceRequirements {
    serde_json::from_value(value).unwrap()
}

fn resources_of(pod: &Pod) -> Value {
    serde_json::to_value(&pod::containers(pod)[0].resources).unwrap()
}

fn running() -> ContainerRecord {
    ContainerRecord { id: "1".into(), name: "a".into(), state: RunState::Running, ..Default::default() }
}

#[test]
fn a_wish_counts_once_it_is_granted() {
    let before = pod_of(json!({"requests": {"cpu": "1"}}), json!({}));
    let wish = pod_of(json!({"requests": {"cpu": "2"}}), json!({}));
    let mut resize = Resize::default();
    assert_eq!(resources_of(&resize.apply(&before)), json!({"requests": {"cpu": "1"}}));
    assert!(resize.is_wanted(&wish));
    assert_eq!(resources_of(&resize.apply(&wish)), json!({"requests": {"cpu": "1"}}));
    resize.grant(&wish);
    assert!(!resize.is_wanted(&wish));
    assert_eq!(resources_of(&resize.apply(&wish)), json!({"requests": {"cpu": "2"}}));
    let spelled = pod_of(json!({"requests": {"cpu": "2000m"}}), json!({}));
    assert!(!resize.is_wanted(&spelled), "the same amount in other words is no wish");
}

#[test]
fn a_restarted_kubelet_reads_grants_from_the_api() {
    let status = json!({"containerStatuses": [{
        "name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "containerID": "r://1",
        "allocatedResources": {"cpu": "1"}, "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
    }]});
    let wish = pod_of(json!({"requests": {"cpu": "2"}, "limits": {"memory": "2Gi"}}), status);
    let mut resize = Resize::default();
    let applied = resize.apply(&wish);
    assert_eq!(resources_of(&applied), json!({"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}}));
    assert!(resize.is_wanted(&wish));
    let one = running();
    resize.observe(&applied, &[&one]);
    assert_eq!(resize.actual["1"].limits.as_ref().unwrap()["memory"].0, "1Gi");
    resize.observe(&applied, &[]);
    assert!(resize.actual.is_empty());
}

#[test]
fn too_much_for_the_node_and_too_much_for_now() {
    let allocatable: BTreeMap<String, WireQuantity> =
        [("cpu", "4"), ("memory", "8Gi")].map(|(name, n)| (name.to_owned(), WireQuantity(n.into()))).into();
    let asks = |cpu: &str, fits| {
        judge(&pod_of(json!({"requests": {"cpu": cpu}}), json!({})), &allocatable, None, fits)
    };
    let full = |reason: &str| Err(Refused { reason: reason.into(), message: "full".into() });
    assert_eq!(asks("4", Ok(())), Ok(()));
    let pinned = judge(&pod_of(json!({}), json!({})), &allocatable, Some("pinned".into()), Ok(()));
    assert_eq!(pinned.unwrap_err(), Pending { reason: "Infeasible", message: "pinned".into() });
    assert_eq!(
        asks("4001m", Ok(())).unwrap_err(),
        Pending {
            reason: "Infeasible",
            message: "Node didn't have enough capacity: cpu, requested: 4001, capacity: 4000".into()
        }
    );
    assert_eq!(asks("3", full("OutOfcpu")).unwrap_err().reason, "Deferred");
    assert_eq!(asks("3", full("TaintToleration")), Ok(()), "it runs here already");
}

#[test]
fn changes_of_running_containers() {
    let container = |resources: Value, policy: Value| -> Container {
        serde_json::from_value(json!({"name": "a", "resources": resources, "resizePolicy": policy})).unwrap()
    };
    let on_memory = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let has = amounts(json!({"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}}));
    for (wanted, policy, expected) in [
        (json!({"requests": {"cpu": "1000m"}, "limits": {"memory": "1024Mi"}}), json!([]), None),
        (
            json!({"requests": {"cpu": "2"}, "limits": {"memory": "1Gi"}}),
            on_memory.clone(),
            Some(Change::Update),
        ),
        (json!({"requests": {"cpu": "1"}, "limits": {"memory": "2Gi"}}), on_memory, Some(Change::Restart)),
        (json!({"requests": {"cpu": "1"}, "limits": {"memory": "2Gi"}}), json!([]), Some(Change::Update)),
    ] {
        assert_eq!(change(&container(wanted.clone(), policy), Some(&has)), expected, "{wanted}");
    }
    assert_eq!(change(&container(json!({}), json!([])), None), None, "nothing is known of what it has");
}

#[test]
fn a_group_bears_the_larger_amount_meanwhile() {
    let peak_of = |wanted: Value, has: Value| {
        let actual: Actual = [("1".to_owned(), amounts(has))].into();
        resources_of(&peak(&pod_of(wanted, json!({})), &[&running()], &actual))
    };
    let (small, large) = (json!({"limits": {"memory": "1Gi"}}), json!({"limits": {"memory": "2Gi"}}));
    assert_eq!(peak_of(small.clone(), large.clone()), large);
    assert_eq!(peak_of(large.clone(), small), large);
    assert_eq!(peak_of(large, json!({})), json!({"limits": {}}), "it has no limit yet");
    assert_eq!(peak_of(json!({"requests": {"cpu": "1"}}), json!({})), json!({"requests": {"cpu": "1"}}));
}

#[test]
fn limits_below_what_is_used() {
    let container = |limit: &str| -> Container {
        serde_json::from_value(json!({"name": "a", "resources": {"limits": {"memory": limit}}})).unwrap()
    };
    assert_eq!(below_usage(&container("100"), Some(99)), None);
    assert_eq!(below_usage(&container("100"), None), None);
    assert_eq!(
        below_usage(&container("100"), Some(150)).unwrap(),
        "attempting to set container memory limit (100) below current usage (150)"
    );
}

#[test]
fn events_carry_the_amounts() {
    let pod = pod_of(json!({"requests": {"cpu": "2"}}), json!({}));
    assert_eq!(
        summary("Pod resize started", &pod, None),
        r#"Pod resize started: {"containers":[{"name":"a","resources":{"requests":{"cpu":"2"}}}],"generation":4}"#
    );
    assert!(summary("Pod resize error", &pod, Some("x \"y\"")).ends_with(r#","error":"x \"y\""}"#));
}
