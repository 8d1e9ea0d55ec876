//! Tables: what is there, what is wanted, what follows.

use serde_json::{Value, json};

use super::*;
use crate::record::Sandbox;

const NOW: i64 = 1_000_000;

/// A pod with containers by name; `~` before a name makes an init container, `&` a sidecar, `%` an
/// ephemeral one.
fn pod(policy: &str, names: &[&str]) -> Pod {
    let (mut inits, mut regular, mut ephemeral) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        match name.split_at(1) {
            ("~", name) => inits.push(json!({"name": name, "image": "i"})),
            ("&", name) => inits.push(json!({"name": name, "image": "i", "restartPolicy": "Always"})),
            ("%", name) => ephemeral.push(json!({"name": name, "image": "i"})),
            _ => regular.push(json!({"name": name, "image": "i"})),
        }
    }
    from(
        json!({"restartPolicy": policy, "initContainers": inits, "containers": regular, "ephemeralContainers": ephemeral}),
    )
}

fn from(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
        .unwrap()
}

/// What runs: `name:state`, newest first, where state is `run`, `new`, `lost` or an exit code; all in
/// sandbox 0, which serves unless `down`.
fn record(containers: &[&str], down: bool) -> PodRecord {
    let spec = |name: &str| Container { name: name.into(), image: Some("i".into()), ..Default::default() };
    PodRecord {
        sandboxes: vec![Sandbox {
            id: "s0".into(),
            ready: !down,
            ips: vec!["10.0.0.1".into()],
            created_at: 1,
            ..Default::default()
        }],
        containers: containers
            .iter()
            .map(|text| {
                let (name, state) = text.split_once(':').unwrap();
                let (state, exit_code) = match state {
                    "run" => (RunState::Running, 0),
                    "new" => (RunState::Created, 0),
                    "lost" => (RunState::Unknown, 0),
                    code => (RunState::Exited, code.parse().unwrap()),
                };
                ContainerRecord {
                    id: format!("id-{name}"),
                    name: name.into(),
                    sandbox_id: "s0".into(),
                    hash: pod::container_hash(&spec(name)),
                    state,
                    exit_code,
                    finished_at: (NOW - 5) * 1_000_000_000,
                    ..Default::default()
                }
            })
            .collect(),
        round: None,
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn decide_with(
    pod: &Pod,
    record: &PodRecord,
    probe: &dyn Fn(&str, ProbeKind) -> Option<bool>,
    backoff: &Backoff,
) -> PodActions {
    compute_actions(&Seen { pod, record, probe, backoff, actual: &resize::Actual::new(), now: now() })
}

fn fresh() -> Backoff {
    Backoff::new(Duration::from_secs(10), Duration::from_secs(300))
}

/// The decision in one line.
fn show(pod: &Pod, actions: &PodActions) -> String {
    let mut words = Vec::new();
    match &actions.sandbox {
        SandboxPlan::Keep { .. } => {}
        SandboxPlan::Create { attempt, .. } => words.push(format!("sandbox{attempt}")),
        SandboxPlan::None => words.push("no-sandbox".to_owned()),
    }
    if actions.kill_pod {
        words.push("kill-pod".to_owned());
    }
    words.extend(actions.kill.iter().map(|kill| format!("kill-{}", kill.name)));
    words.extend(actions.start.iter().map(|start| {
        let name = match start.kind {
            ContainerKind::Init => pod::init_containers(pod)[start.index].name.clone(),
            ContainerKind::Regular => pod::containers(pod)[start.index].name.clone(),
            ContainerKind::Ephemeral => pod::ephemeral_containers(pod)[start.index].name.clone(),
        };
        format!("start-{name}")
    }));
    words.extend(actions.held.iter().map(|held| format!("hold-{}", held.name)));
    words.join(" ")
}

#[track_caller]
fn check(pod: &Pod, record: &PodRecord, expected: &str) {
    let actions = decide_with(pod, record, &|_, _| None, &fresh());
    assert_eq!(show(pod, &actions), expected);
}

#[test]
fn a_new_pod() {
    let none = PodRecord::default();
    check(&pod("Always", &["a", "b"]), &none, "sandbox0 start-a start-b");
    check(&pod("Never", &["~i", "a"]), &none, "sandbox0 start-i");
    check(&pod("Always", &["a"]), &record(&[], false), "start-a");
}

#[test]
fn running_pods_are_left_alone() {
    check(&pod("Always", &["a", "b"]), &record(&["a:run", "b:run"], false), "");
    check(&pod("Never", &["~i", "a"]), &record(&["a:run", "i:0"], false), "");
    check(&pod("Always", &["~i", "a"]), &record(&["a:run"], false), "");
}

#[test]
fn restart_policies() {
    for (policy, state, expected) in [
        ("Always", "a:0", "start-a"),
        ("Always", "a:1", "start-a"),
        ("OnFailure", "a:0", "kill-pod"),
        ("OnFailure", "a:1", "start-a"),
        ("Never", "a:0", "kill-pod"),
        ("Never", "a:1", "kill-pod"),
        ("Never", "a:new", "start-a"),
        ("Never", "a:lost", "kill-a start-a"),
    ] {
        check(&pod(policy, &["a"]), &record(&[state], false), expected);
    }
    check(&pod("OnFailure", &["a", "b"]), &record(&["a:0", "b:run"], false), "");
    let own = from(
        json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "i", "restartPolicy": "Always"}]}),
    );
    check(&own, &record(&["a:1"], false), "start-a");
    let rules = from(
        json!({"restartPolicy": "Never", "containers": [{"name": "a", "image": "i", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]}),
    );
    check(&rules, &record(&["a:42"], false), "start-a");
    check(&rules, &record(&["a:1"], false), "kill-pod");
}

#[test]
fn init_containers_run_in_order() {
    let three = |policy| pod(policy, &["~i", "~j", "a"]);
    check(&three("Always"), &record(&[], false), "start-i");
    check(&three("Always"), &record(&["i:run"], false), "");
    check(&three("Always"), &record(&["i:0"], false), "start-j");
    check(&three("Always"), &record(&["j:0", "i:0"], false), "start-a");
    check(&three("Always"), &record(&["j:0"], false), "start-a");
    check(&three("Always"), &record(&["i:1"], false), "start-i");
    check(&three("OnFailure"), &record(&["i:1"], false), "start-i");
    check(&three("Never"), &record(&["i:1"], false), "kill-pod");
    check(&three("Always"), &record(&["i:new"], false), "start-i");
}

#[test]
fn sidecars_stay_beside() {
    let mixed = pod("Never", &["&s", "~i", "a"]);
    check(&mixed, &record(&["s:run"], false), "start-i");
    check(&mixed, &record(&["i:0", "s:run"], false), "start-a");
    check(&mixed, &record(&["a:run", "i:0", "s:run"], false), "");
    check(&mixed, &record(&["a:run", "i:0", "s:1"], false), "start-s");
    check(&mixed, &record(&["a:run", "i:0"], false), "start-s");
    check(&mixed, &record(&["i:run", "s:0"], false), "start-s");
    check(&mixed, &record(&["a:0", "i:0", "s:run"], false), "kill-pod");
    let probed = from(json!({"restartPolicy": "Always", "containers": [{"name": "a", "image": "i"}],
        "initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always", "startupProbe": {}}]}));
    let running = record(&["s:run"], false);
    for (result, expected) in [(None, ""), (Some(true), "start-a"), (Some(false), "kill-s start-s")] {
        let actions = decide_with(
            &probed,
            &running,
            &|_, kind| (kind == ProbeKind::Startup).then_some(result)?,
            &fresh(),
        );
        assert_eq!(show(&probed, &actions), expected, "{result:?}");
    }
}

#[test]
fn a_lost_sandbox() {
    check(&pod("Always", &["a"]), &record(&["a:1"], true), "sandbox1 kill-pod start-a");
    check(&pod("OnFailure", &["a", "b"]), &record(&["a:0", "b:1"], true), "sandbox1 kill-pod start-b");
    check(&pod("OnFailure", &["a"]), &record(&["a:0"], true), "no-sandbox kill-pod");
    check(&pod("Never", &["a"]), &record(&["a:1"], true), "no-sandbox kill-pod");
    check(&pod("Never", &["a"]), &record(&[], true), "sandbox1 kill-pod start-a");
    check(&pod("Always", &["~i", "a"]), &record(&["a:1", "i:0"], true), "sandbox1 kill-pod start-i");
    let mut moved = pod("Always", &["a"]);
    moved.spec.as_mut().unwrap().host_network = Some(true);
    check(&moved, &record(&["a:run"], false), "sandbox1 kill-pod start-a");
    let mut nowhere = record(&["a:run"], false);
    nowhere.sandboxes[0].ips.clear();
    check(&pod("Always", &["a"]), &nowhere, "sandbox1 kill-pod start-a");
}

#[test]
fn probes_and_changes_kill() {
    let one = pod("Always", &["a"]);
    let running = record(&["a:run"], false);
    for (kind, message) in [
        (ProbeKind::Liveness, "Container a failed liveness probe, will be restarted"),
        (ProbeKind::Startup, "Container a failed startup probe, will be restarted"),
    ] {
        let actions = decide_with(&one, &running, &|_, asked| (asked == kind).then_some(false), &fresh());
        assert_eq!(show(&one, &actions), "kill-a start-a");
        assert_eq!(actions.kill[0].message, message);
    }
    let failed = |_: &str, kind| (kind == ProbeKind::Liveness).then_some(false);
    let never = pod("Never", &["a", "b"]);
    let actions = decide_with(&never, &record(&["a:run", "b:run"], false), &failed, &fresh());
    assert_eq!(show(&never, &actions), "kill-pod");
    let mut changed = running.clone();
    changed.containers[0].hash = "other".into();
    check(&pod("Never", &["a"]), &changed, "kill-a start-a");
    changed.containers[0].hash.clear();
    check(&one, &changed, "");
}

#[test]
fn crashes_are_held_back() {
    let one = pod("Always", &["a"]);
    let crashed = record(&["a:1"], false);
    let mut backoff = fresh();
    let first = decide_with(&one, &crashed, &|_, _| None, &backoff);
    assert_eq!(show(&one, &first), "start-a");
    let exit = first.start[0].last_exit.unwrap();
    backoff.next(&first.start[0].backoff_key, exit, now());
    let second = decide_with(&one, &crashed, &|_, _| None, &backoff);
    assert_eq!(show(&one, &second), "hold-a");
    assert_eq!((second.held[0].remaining.as_secs(), second.held[0].delay.as_secs()), (5, 10));
    assert!(second.is_idle());
    let mut other = one.clone();
    other.spec.as_mut().unwrap().containers[0].image = Some("new".into());
    assert_eq!(show(&other, &decide_with(&other, &crashed, &|_, _| None, &backoff)), "start-a");
}

#[test]
fn a_deleted_pod_starts_nothing() {
    let mut gone = pod("Always", &["a"]);
    gone.metadata.deletion_timestamp = crate::status::time(now());
    check(&gone, &record(&["a:1"], false), "kill-pod");
}

#[test]
fn ephemeral_containers_start_once() {
    check(&pod("Always", &["a", "%d"]), &record(&["a:run"], false), "start-d");
    check(&pod("Always", &["a", "%d"]), &record(&["d:1", "a:run"], false), "");
}

#[test]
fn amounts_change_in_place_or_by_a_restart() {
    let container = |policy: Value| {
        json!({"name": "a", "image": "i", "resizePolicy": policy,
            "resources": {"requests": {"cpu": "200m", "memory": "64Mi"}}})
    };
    let restart = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
    let decide_of = |spec: Value, cpu: &str, memory: &str| {
        let pod = from(spec);
        let requests = json!({"requests": {"cpu": cpu, "memory": memory}});
        let actual = [("id-a".to_owned(), serde_json::from_value(requests).unwrap())].into();
        let record = record(&["a:run"], false);
        let backoff = fresh();
        let seen = Seen {
            pod: &pod,
            record: &record,
            probe: &|_, _| None,
            backoff: &backoff,
            actual: &actual,
            now: now(),
        };
        compute_actions(&seen)
    };
    let decide = |policy: Value, cpu: &str, memory: &str| {
        decide_of(json!({"restartPolicy": "Always", "containers": [container(policy)]}), cpu, memory)
    };
    assert!(decide(json!([]), "0.2", "67108864").is_idle(), "other spellings of the same amounts");
    let plan = decide(json!([]), "100m", "64Mi");
    assert_eq!(plan.resize, [ToResize { id: "id-a".into(), kind: ContainerKind::Regular, index: 0 }]);
    assert!(plan.kill.is_empty() && plan.start.is_empty(), "{plan:?}");
    let plan = decide(restart.clone(), "100m", "64Mi");
    assert_eq!(plan.kill[0].message, "Container a resize requires restart, will be restarted");
    assert_eq!((plan.start.len(), plan.resize.len()), (1, 0));
    assert_eq!(decide(restart, "200m", "32Mi").resize.len(), 1, "its policy is about the other resource");
    let initialising = json!({"restartPolicy": "Always", "initContainers": [container(json!([]))],
        "containers": [{"name": "b", "image": "i"}]});
    let plan = decide_of(initialising, "100m", "64Mi");
    assert_eq!(plan.resize, [ToResize { id: "id-a".into(), kind: ContainerKind::Init, index: 0 }]);
    assert!(plan.start.is_empty(), "it still runs: {plan:?}");
}

/// A pod in which the end of `b` with 42 begins all containers anew.
fn restarting_pod() -> Pod {
    let mut pod = pod("Never", &["~i", "&s", "a", "b", "%e"]);
    let rule = json!({"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}});
    let b = &mut pod.spec.as_mut().unwrap().containers[1];
    b.restart_policy = Some("Never".to_owned());
    b.restart_policy_rules = Some(vec![serde_json::from_value(rule).unwrap()]);
    pod
}

#[test]
fn one_containers_end_begins_all_anew() {
    let pod = restarting_pod();
    // `fresh`: so many of the runs, the newest ones, were made after the others had ended.
    let check = |runs: &[&str], fresh: usize, expected: &str| {
        let mut record = record(runs, false);
        for (index, one) in record.containers.iter_mut().enumerate() {
            one.id = format!("{index}");
            one.created_at = if index < fresh { NOW * 1_000_000_000 } else { 1 };
        }
        record.round = rounds::began(&pod, &record);
        let started = |_: &str, _: ProbeKind| Some(true);
        assert_eq!(show(&pod, &decide_with(&pod, &record, &started, &self::fresh())), expected, "{runs:?}");
    };
    check(&["e:run", "b:42", "a:run", "s:run", "i:0"], 0, "kill-a kill-s");
    check(&["e:run", "b:42", "a:137", "s:run", "i:0"], 0, "kill-s");
    check(&["e:run", "b:42", "a:137", "s:137", "i:0"], 0, "start-i");
    check(&["i:run", "e:run", "b:42", "a:137", "s:137", "i:0"], 1, "");
    check(&["i:0", "e:run", "b:42", "a:137", "s:137"], 1, "start-s");
    check(&["s:run", "i:0", "e:run", "b:42", "a:137"], 2, "start-a start-b");
    check(&["b:run", "a:run", "s:run", "i:0", "e:run", "b:42", "a:137"], 4, "");
    // Another code is no cause: the pod's own policy holds.
    check(&["e:run", "b:1", "a:0", "s:run", "i:0"], 0, "kill-pod");
}

#[test]
fn a_new_round_waits_for_no_backoff() {
    let pod = restarting_pod();
    let mut record = record(&["s:run", "i:0", "e:run", "b:42", "a:137"], false);
    for (index, one) in record.containers.iter_mut().enumerate() {
        one.created_at = if index < 2 { NOW * 1_000_000_000 } else { 1 };
    }
    let mut backoff = fresh();
    for container in pod::containers(&pod) {
        backoff.next(&backoff_key(&pod, container), now(), now());
    }
    let started = |_: &str, _: ProbeKind| Some(true);
    record.round = rounds::began(&pod, &record);
    let plan = decide_with(&pod, &record, &started, &backoff);
    assert_eq!(show(&pod, &plan), "start-a start-b");
    assert!(plan.start.iter().all(|start| start.last_exit.is_none()), "no end of this round: {plan:?}");
}
