//! Tables of statuses: phase, conditions, container states.

use k8s_openapi::api::core::v1::VolumeMount;
use serde_json::{Value, json};

use super::*;
use crate::record::{ContainerRecord, Sandbox};

const NOW: i64 = 1_000_000;

struct Case {
    pod: Pod,
    record: PodRecord,
    old: PodStatus,
    errors: BTreeMap<String, StartError>,
    probe: Option<bool>,
    terminal: bool,
    verdict: Option<Verdict>,
    resize: Resize,
}

fn case(policy: &str, names: &[&str], runs: &[&str]) -> Case {
    let (mut inits, mut regular) = (Vec::new(), Vec::new());
    for name in names {
        match name.split_at(1) {
            ("~", name) => inits.push(json!({"name": name, "image": "i"})),
            ("&", name) => inits.push(json!({"name": name, "image": "i", "restartPolicy": "Always"})),
            ("?", name) => regular.push(json!({"name": name, "image": "i", "readinessProbe": {}})),
            _ => regular.push(json!({"name": name, "image": "i"})),
        }
    }
    let pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3},
        "spec": {"restartPolicy": policy, "initContainers": inits, "containers": regular},
    }))
    .unwrap();
    Case {
        pod,
        record: record(runs),
        old: PodStatus::default(),
        errors: BTreeMap::new(),
        probe: None,
        terminal: false,
        verdict: None,
        resize: Resize::default(),
    }
}

/// Runs as `name:state`, newest first: `run`, `new`, `lost` or an exit code.
fn record(runs: &[&str]) -> PodRecord {
    let containers = runs
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let (name, state) = text.split_once(':').unwrap();
            let (state, exit_code) = match state {
                "run" => (RunState::Running, 0),
                "new" => (RunState::Created, 0),
                "lost" => (RunState::Unknown, 0),
                code => (RunState::Exited, code.parse().unwrap()),
            };
            ContainerRecord {
                id: format!("{name}{index}"),
                name: name.into(),
                sandbox_id: "s".into(),
                state,
                exit_code,
                reason: if exit_code == 0 { "Completed".into() } else { "Error".into() },
                started_at: (NOW - 10) * 1_000_000_000,
                finished_at: (NOW - 5) * 1_000_000_000,
                ..Default::default()
            }
        })
        .collect();
    let sandbox = Sandbox { id: "s".into(), ready: true, ips: vec!["10.0.0.9".into()], ..Default::default() };
    PodRecord { sandboxes: vec![sandbox], containers, round: None }
}

impl Case {
    /// Its sandbox has been stopped.
    fn down(mut self) -> Self {
        self.record.sandboxes[0].ready = false;
        self
    }

    fn status(&self) -> Value {
        let host_ips = ["192.0.2.1".to_owned()];
        let status = generate(&Seen {
            pod: &self.pod,
            record: &self.record,
            old: &self.old,
            start_errors: &self.errors,
            probe: &|_, _| self.probe,
            terminal: self.terminal,
            verdict: self.verdict.as_ref(),
            resize: &self.resize,
            host_ips: &host_ips,
            runtime: "containerd",
            now: Timestamp::from_second(NOW).unwrap(),
        });
        serde_json::to_value(status).unwrap()
    }
}

fn condition(status: &Value, type_: &str) -> String {
    let all = status["conditions"].as_array().unwrap();
    let found = all.iter().find(|one| one["type"] == type_).unwrap();
    format!("{} {} {}", found["status"], found["reason"], found["message"]).replace('"', "")
}

#[test]
fn mounts_say_which_image_they_are() {
    let mut one = case("Always", &["a"], &["a:run"]);
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        ..Default::default()
    };
    one.pod.spec.as_mut().unwrap().containers[0].volume_mounts =
        Some(vec![mount("image", "data"), mount("other", "/other")]);
    let mounts = |one: &Case| one.status()["containerStatuses"][0]["volumeMounts"].clone();
    let plain = json!([{"name": "image", "mountPath": "data"}, {"name": "other", "mountPath": "/other"}]);
    assert_eq!(mounts(&one), plain);
    one.record.containers[0].image_volumes = [("/data".to_owned(), "sha256:1".to_owned())].into();
    assert_eq!(mounts(&one)[0]["volumeStatus"], json!({"image": {"imageRef": "sha256:1"}}));
    assert_eq!(mounts(&one)[1], plain[1]);
    // Not there any more: nobody knows what it would be.
    one.record.containers.clear();
    assert_eq!(mounts(&one), plain);
}

#[test]
fn mounts_say_how_far_down_they_are_read_only() {
    let mut one = case("Always", &["a"], &["a:run"]);
    let mount = |path: &str, read_only| VolumeMount {
        name: "v".into(),
        mount_path: path.into(),
        read_only: Some(read_only),
        recursive_read_only: read_only.then(|| "IfPossible".into()),
        ..Default::default()
    };
    one.pod.spec.as_mut().unwrap().containers[0].volume_mounts =
        Some(vec![mount("deep", true), mount("/flat", true), mount("/open", false)]);
    one.record.containers[0].recursive_read_only = ["/deep".to_owned()].into();
    let modes = |one: &Case| {
        let mounts = one.status()["containerStatuses"][0]["volumeMounts"].clone();
        [0, 1, 2].map(|index| mounts[index]["recursiveReadOnly"].clone())
    };
    assert_eq!(modes(&one), [json!("Enabled"), json!("Disabled"), Value::Null]);
    one.record.containers.clear();
    assert_eq!(modes(&one), [json!("Disabled"), json!("Disabled"), Value::Null]);
}

#[test]
fn phases() {
    for (policy, names, runs, expected) in [
        ("Always", vec!["a"], vec![], "Pending"),
        ("Always", vec!["a"], vec!["a:new"], "Pending"),
        ("Always", vec!["a"], vec!["a:run"], "Running"),
        ("Always", vec!["a", "b"], vec!["a:run"], "Pending"),
        ("Always", vec!["a"], vec!["a:0"], "Running"),
        ("Always", vec!["a"], vec!["a:1"], "Running"),
        ("OnFailure", vec!["a"], vec!["a:0"], "Succeeded"),
        ("OnFailure", vec!["a"], vec!["a:1"], "Running"),
        ("Never", vec!["a"], vec!["a:0"], "Succeeded"),
        ("Never", vec!["a"], vec!["a:1"], "Failed"),
        ("Never", vec!["a", "b"], vec!["a:1", "b:run"], "Running"),
        ("Never", vec!["a", "b"], vec!["a:1", "b:0"], "Failed"),
        ("Never", vec!["~i", "a"], vec!["i:run"], "Pending"),
        ("Never", vec!["~i", "a"], vec!["i:0"], "Pending"),
        ("Never", vec!["~i", "a"], vec!["i:1"], "Failed"),
        ("Always", vec!["~i", "a"], vec!["i:1"], "Pending"),
        ("Always", vec!["~i", "a"], vec!["a:run", "i:0"], "Running"),
        ("Always", vec!["~i", "a"], vec!["a:run"], "Running"),
        ("Never", vec!["&s", "a"], vec!["a:0", "s:run"], "Running"),
        ("Never", vec!["&s", "a"], vec!["a:0", "s:0"], "Succeeded"),
        ("Always", vec!["&s", "a"], vec!["a:run", "s:new", "s:1"], "Running"),
    ] {
        let mut one = case(policy, &names, &runs);
        if one.record.live().next().is_none() {
            one = one.down();
        }
        assert_eq!(one.status()["phase"], expected, "{policy} {names:?} {runs:?}");
    }
}

#[test]
fn a_terminated_pod_is_over_whatever_its_policy() {
    for (run, phase) in [("a:1", "Failed"), ("a:0", "Succeeded")] {
        let mut ended = case("Always", &["a"], &[run]).down();
        ended.terminal = true;
        assert_eq!(ended.status()["phase"], phase);
    }
    let mut ended = case("Always", &["a"], &[]);
    ended.record = PodRecord::default();
    ended.old.phase = Some("Failed".into());
    ended.old.reason = Some("Evicted".into());
    let status = ended.status();
    assert_eq!((status["phase"].as_str(), status["reason"].as_str()), (Some("Failed"), Some("Evicted")));
}

#[test]
fn a_verdict_fails_the_pod() {
    let mut refused = case("Always", &["a"], &[]);
    refused.record = PodRecord::default();
    refused.verdict = Some(Verdict::plain("OutOfcpu", "m".into()));
    let status = refused.status();
    assert_eq!((status["phase"].as_str(), status["reason"].as_str()), (Some("Failed"), Some("OutOfcpu")));
    assert_eq!(condition(&status, "Ready"), "False PodFailed null");
}

#[test]
fn no_pod_is_over_while_something_may_run() {
    let told = |status: &Value| {
        let disrupted = status["conditions"].to_string().contains("DisruptionTarget");
        (status["phase"].clone(), status["reason"].clone(), status["message"].clone(), disrupted)
    };
    let mut evicted = case("Always", &["a"], &["a:run"]);
    evicted.verdict = Some(Verdict::disrupting(EVICTED, "m".into()));
    evicted.old.phase = Some("Running".into());
    evicted.old.message = Some("before".into());
    let status = evicted.status();
    assert_eq!(told(&status), (json!("Running"), Value::Null, json!("before"), false));
    assert_eq!(condition(&status, "Ready"), "False PodFailed null", "traffic goes elsewhere at once");
    evicted.record = record(&["a:0"]);
    assert_eq!(evicted.status()["phase"], "Running", "the sandbox has its address and ports still");
    let mut evicted = evicted.down();
    assert_eq!(told(&evicted.status()), (json!("Failed"), json!("Evicted"), json!("m"), true));
    // What the API was told before stays said.
    evicted.record = record(&["a:run"]);
    evicted.old.phase = Some("Failed".into());
    assert_eq!(told(&evicted.status()), (json!("Failed"), json!("Evicted"), json!("m"), true));

    // A failed init container ends the pod, but not before its sidecars have ended.
    let mut failed = case("Never", &["&s", "~i", "a"], &["i:1", "s:run"]);
    assert_eq!(failed.status()["phase"], "Pending");
    failed.record = record(&["i:1", "s:0"]);
    assert_eq!(failed.down().status()["phase"], "Failed");
}

#[test]
fn conditions_say_why() {
    let status = case("Always", &["~i", "a", "b"], &["i:run"]).status();
    assert_eq!(
        condition(&status, "Initialized"),
        "False ContainersNotInitialized containers with incomplete status: [i]"
    );
    let unready = "False ContainersNotReady containers with unready status: [a b]";
    assert_eq!(condition(&status, "Ready"), unready);
    assert_eq!(condition(&status, "ContainersReady"), unready);
    assert_eq!(condition(&status, "PodReadyToStartContainers"), "True null null");
    let status = case("Always", &["~i", "a"], &["a:run", "i:0"]).status();
    for type_ in ["Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&status, type_), "True null null", "{type_}");
    }
    let status = case("Never", &["a"], &["a:0"]).status();
    assert_eq!(condition(&status, "Ready"), "False PodCompleted null");
    assert_eq!(condition(&status, "Initialized"), "True PodCompleted null");
    let mut gated = case("Always", &["a"], &["a:run"]);
    gated.pod.spec.as_mut().unwrap().readiness_gates =
        serde_json::from_value(json!([{"conditionType": "example.com/x"}])).unwrap();
    assert_eq!(
        condition(&gated.status(), "Ready"),
        "False ReadinessGatesNotReady corresponding condition of pod readiness gate \\example.com/x\\ does not exist."
    );
}

#[test]
fn readiness_follows_the_probe() {
    for (result, ready) in [(None, false), (Some(false), false), (Some(true), true)] {
        let mut probed = case("Always", &["?a"], &["a:run"]);
        probed.probe = result;
        let status = probed.status();
        assert_eq!(status["containerStatuses"][0]["ready"], ready);
        assert_eq!(status["containerStatuses"][0]["started"], true);
    }
}

#[test]
fn waiting_reasons() {
    let waiting = |case: &Case, list: &str| case.status()[list][0]["state"]["waiting"].clone();
    assert_eq!(
        waiting(&case("Always", &["a"], &[]), "containerStatuses"),
        json!({"reason": "ContainerCreating"})
    );
    assert_eq!(
        waiting(&case("Always", &["~i", "a"], &[]), "containerStatuses"),
        json!({"reason": "PodInitializing"})
    );
    let mut held = case("Always", &["a"], &["a:3"]);
    held.errors
        .insert("a".into(), StartError { reason: "CrashLoopBackOff".into(), message: "back-off 10s".into() });
    let status = held.status();
    assert_eq!(
        status["containerStatuses"][0]["state"]["waiting"],
        json!({"reason": "CrashLoopBackOff", "message": "back-off 10s"})
    );
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(status["phase"], "Running");
    held.record = record(&["a:run"]);
    assert!(
        held.status()["containerStatuses"][0]["state"]["running"].is_object(),
        "an old error does not hide it"
    );
}

#[test]
fn what_the_runtime_forgot() {
    let running = json!([{"name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 2,
        "containerID": "containerd://a0", "state": {"running": {}}, "lastState": {}}]);
    let mut lost = case("Always", &["a"], &[]);
    lost.old.container_statuses = serde_json::from_value(running).unwrap();
    let status = lost.status()["containerStatuses"][0].clone();
    assert_eq!(status["restartCount"], 3);
    assert_eq!(status["lastState"]["terminated"]["reason"], "ContainerStatusUnknown");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 137);
    let done = json!([{"name": "a", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 7}}, "lastState": {}}]);
    lost.old.container_statuses = serde_json::from_value(done).unwrap();
    assert_eq!(lost.status()["containerStatuses"][0]["state"]["terminated"]["exitCode"], 7);
}

#[test]
fn transition_times_are_kept() {
    let mut seen = case("Always", &["a"], &["a:run"]);
    let first = seen.status();
    seen.old = serde_json::from_value(first.clone()).unwrap();
    seen.old
        .conditions
        .as_mut()
        .unwrap()
        .iter_mut()
        .for_each(|one| one.last_transition_time = time(Timestamp::UNIX_EPOCH));
    let second = seen.status();
    assert_eq!(second["conditions"][2]["lastTransitionTime"], "1970-01-01T00:00:00Z");
    assert_eq!(second["startTime"], first["startTime"]);
    assert_eq!(second["podIP"], "10.0.0.9");
    assert_eq!(second["hostIP"], "192.0.2.1");
    assert_eq!(second["containerStatuses"][0]["containerID"], "containerd://a0");
}

#[test]
fn resizing_shows_what_containers_have_and_how_far_it_is() {
    let mut case = case("Always", &["a"], &["a:run"]);
    let spec = case.pod.spec.as_mut().unwrap();
    spec.containers[0].resources =
        serde_json::from_value(json!({"requests": {"cpu": "2"}, "limits": {"cpu": "3"}})).unwrap();
    let have = serde_json::from_value(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}})).unwrap();
    case.resize.actual.insert("a0".into(), have);
    case.resize.progress = Some((3, None));
    let status = case.status();
    assert_eq!(status["containerStatuses"][0]["allocatedResources"], json!({"cpu": "2"}));
    assert_eq!(status["containerStatuses"][0]["resources"]["limits"], json!({"cpu": "1"}));
    assert_eq!(condition(&status, "PodResizeInProgress"), "True null null");
    case.resize.progress = Some((3, Some("busy".into())));
    assert_eq!(condition(&case.status(), "PodResizeInProgress"), "True Error busy");
    case.resize = Resize::default();
    case.resize.pending = Some(crate::resize::Pending { reason: "Deferred", message: "no room".into() });
    let status = case.status();
    assert_eq!(condition(&status, "PodResizePending"), "True Deferred no room");
    assert!(!status["conditions"].to_string().contains("PodResizeInProgress"));
}

#[test]
fn containers_wait_to_begin_anew_and_the_pod_is_not_over() {
    let rule = json!({"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}});
    let mut case = case("Never", &["a", "b"], &["b:42", "a:run"]);
    let b = &mut case.pod.spec.as_mut().unwrap().containers[1];
    b.restart_policy = Some("Never".to_owned());
    b.restart_policy_rules = Some(vec![serde_json::from_value(rule).unwrap()]);
    case.record.round = crate::rounds::began(&case.pod, &case.record);
    let status = case.status();
    assert_eq!(
        condition(&status, "AllContainersRestarting"),
        "True RestartAllContainersStarted container exited with restart policy rule"
    );

    case.record.containers[1].state = RunState::Exited;
    case.record.containers[1].exit_code = 137;
    let status = case.status();
    assert_eq!(condition(&status, "AllContainersRestarting"), "False null null");
    assert_eq!(status["phase"], "Running");
    for index in 0..2 {
        let one = &status["containerStatuses"][index];
        assert_eq!(one["state"]["waiting"]["reason"], "RestartingAllContainers", "{one}");
        assert_eq!(one["lastState"]["terminated"]["exitCode"], if index == 0 { 137 } else { 42 });
    }
}
