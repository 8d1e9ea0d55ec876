//! Tables: wishes, grants, and what follows for containers and their group.

use super::*;
use crate::record::RunState;

fn pod_of(resources: Value, status: Value) -> Arc<Pod> {
    whole_of(resources, None, status)
}

/// With amounts of the pod as a whole.
fn whole_of(resources: Value, level: Option<Value>, status: Value) -> Arc<Pod> {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 4},
        "spec": {"containers": [{"name": "a", "image": "i", "resources": resources}], "resources": level},
        "status": status,
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn level_of(pod: &Pod) -> Value {
    serde_json::to_value(resources::of_pod(pod)).unwrap()
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
fn containers_that_initialise_have_wishes_too() {
    let with = |cpu: &str| {
        let mut pod = (*pod_of(json!({}), json!({}))).clone();
        let one = json!({"name": "first", "image": "i", "resources": {"requests": {"cpu": cpu}}});
        pod.spec.as_mut().unwrap().init_containers = Some(vec![serde_json::from_value(one).unwrap()]);
        Arc::new(pod)
    };
    let cpu = |pod: &Pod| {
        resources::request(pod::init_containers(pod)[0].resources.as_ref(), "cpu").unwrap().milli_value()
    };
    let mut resize = Resize::default();
    resize.apply(&with("1"));
    assert!(resize.is_wanted(&with("2")));
    assert_eq!(cpu(&resize.apply(&with("2"))), 1000);
    resize.grant(&with("2"));
    assert_eq!(cpu(&resize.apply(&with("2"))), 2000);
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
        let container = container(wanted.clone(), policy);
        assert_eq!(change(&Pod::default(), &container, Some(&has)), expected, "{wanted}");
    }
    let bare = container(json!({}), json!([]));
    assert_eq!(change(&Pod::default(), &bare, None), None, "nothing is known of what it has");
}

#[test]
fn limits_of_the_pod_are_those_of_containers_without() {
    let with = |level: Value| whole_of(json!({}), Some(level), json!({}));
    let container = |policy: Value| -> Container {
        serde_json::from_value(json!({"name": "a", "resizePolicy": policy})).unwrap()
    };
    let (before, after) = (json!({"limits": {"memory": "1Gi"}}), json!({"limits": {"memory": "2Gi"}}));
    let mut resize = Resize::default();
    resize.started("1", &with(before.clone()), &container(json!([])));
    let has = Some(&resize.actual["1"]);
    assert_eq!(own(&resize.actual["1"], &container(json!([]))), ResourceRequirements::default());
    assert_eq!(change(&with(before), &container(json!([])), has), None);
    assert_eq!(change(&with(after.clone()), &container(json!([])), has), Some(Change::Update));
    let restarts = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    assert_eq!(change(&with(after), &container(restarts), has), Some(Change::Restart));
    let other = with(json!({"requests": {"cpu": "3"}, "limits": {"memory": "1Gi"}}));
    assert_eq!(change(&other, &container(json!([])), has), None, "its requests are its group's");
}

#[test]
fn a_wish_of_the_pod_as_a_whole() {
    let with = |cpu: &str| whole_of(json!({}), Some(json!({"requests": {"cpu": cpu}})), json!({}));
    let mut resize = Resize::default();
    let held = resize.apply(&with("1"));
    resize.bounded(&held);
    let wish = with("2");
    assert!(resize.is_wanted(&wish));
    let held = resize.apply(&wish);
    assert_eq!(level_of(&held), json!({"requests": {"cpu": "1"}}));
    assert!(!resize.is_group_behind(&held));
    resize.grant(&wish);
    let held = resize.apply(&wish);
    assert!(resize.is_group_behind(&held));
    assert_eq!(resize.group(&held), amounts(json!({"requests": {"cpu": "1"}})), "not yet");
    resize.bounded(&held);
    assert!(!resize.is_group_behind(&held));
    assert_eq!(resize.group(&held), amounts(json!({"requests": {"cpu": "2"}})));
    // Amounts of the pod can come where there were none.
    let mut resize = Resize::default();
    resize.apply(&pod_of(json!({}), json!({})));
    assert_eq!(level_of(&resize.apply(&wish)), Value::Null);
}

#[test]
fn a_restarted_kubelet_reads_the_pods_amounts_too() {
    let status = json!({"allocatedResources": {"cpu": "3", "memory": "64Mi"}, "resources": {
        "requests": {"cpu": "2", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}});
    let level = json!({"requests": {"cpu": "4", "memory": "32Mi"}, "limits": {"memory": "2Gi", "cpu": "8"}});
    let mut wish = (*whole_of(json!({"requests": {"memory": "32Mi"}}), Some(level), status)).clone();
    wish.spec.as_mut().unwrap().overhead = amounts(json!({"limits": {"cpu": "1", "memory": "32Mi"}})).limits;
    let wish = Arc::new(wish);
    let mut resize = Resize::default();
    let held = resize.apply(&wish);
    assert_eq!(
        level_of(&held),
        json!({"requests": {"cpu": "2", "memory": "32Mi"}, "limits": {"memory": "992Mi"}})
    );
    assert!(resize.is_wanted(&wish));
    resize.observe(&held, &[&running()]);
    assert!(resize.is_group_behind(&held), "two CPUs were granted, beside one of overhead");
    assert_eq!(resize.actual["1"].limits.as_ref().unwrap()["memory"].0, "992Mi");
}

#[test]
fn a_group_bears_the_larger_amount_meanwhile() {
    let peak_of = |wanted: Value, has: Value| {
        let actual: Actual = [("1".to_owned(), amounts(has))].into();
        let resize = Resize { actual, ..Resize::default() };
        resources_of(&peak(&pod_of(wanted, json!({})), &[&running()], &resize))
    };
    let level = |wanted: Value, has: Value| {
        let mut resize = Resize::default();
        resize.bounded(&whole_of(json!({}), Some(has), json!({})));
        level_of(&peak(&whole_of(json!({}), Some(wanted), json!({})), &[], &resize))
    };
    let cpu = |amount: &str| json!({"requests": {"cpu": amount}, "limits": {"cpu": amount}});
    assert_eq!(level(cpu("1"), cpu("2")), cpu("2"));
    assert_eq!(level(cpu("2"), cpu("1")), cpu("2"));
    let (small, large) = (json!({"limits": {"memory": "1Gi"}}), json!({"limits": {"memory": "2Gi"}}));
    assert_eq!(peak_of(small.clone(), large.clone()), large);
    assert_eq!(peak_of(large.clone(), small), large);
    assert_eq!(peak_of(large, json!({})), json!({"limits": {}}), "it has no limit yet");
    assert_eq!(peak_of(json!({"requests": {"cpu": "1"}}), json!({})), json!({"requests": {"cpu": "1"}}));
}

#[test]
fn limits_below_what_is_used() {
    assert_eq!(below_usage("pod", 100, None, Some(99)), None);
    assert_eq!(below_usage("pod", 100, None, None), None);
    assert_eq!(below_usage("pod", 100, Some(100), Some(100)), None, "it was so before");
    assert_eq!(
        below_usage("container", 100, Some(200), Some(150)).unwrap(),
        "attempting to set container memory limit (100) below current usage (150)"
    );
    assert!(below_usage("pod", 100, None, Some(150)).unwrap().contains("set pod memory limit"));
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

#[test]
fn what_is_asked_for_is_told_by_container() {
    let pod = |resources: Value| -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "a", "resources": resources}, {"name": "b"}]}}))
        .unwrap()
    };
    let before = pod(json!({"requests": {"cpu": "1", "memory": "10Mi"}, "limits": {"cpu": "2"}}));
    assert_eq!(asked(&before, &before), Vec::<[&str; 3]>::new());
    let after = pod(json!({"requests": {"cpu": "1500m", "memory": "5Mi"}, "limits": {"memory": "20Mi"}}));
    assert_eq!(
        asked(&before, &after),
        [
            ["memory", "requests", "decrease"],
            ["memory", "limits", "add"],
            ["cpu", "requests", "increase"],
            ["cpu", "limits", "remove"]
        ]
    );
}
