//! Who ends with whom, and a whole kubelet on a machine that goes down.

use serde_json::json;

use super::*;
use crate::{
    LogindPlaces, ShutdownPeriod, Span,
    testing::{eventually, logind::FakeLogind},
    tests_life::{LIMIT, World, container, is},
};

fn pod(name: &str, priority: i32, grace: Option<i64>) -> Arc<Pod> {
    let spec = json!({"priority": priority, "terminationGracePeriodSeconds": grace, "containers": []});
    Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap())
}

fn settings(all: u64, critical: u64, by_priority: &[(i32, i64)]) -> Configuration {
    let entry = |&(priority, seconds): &(i32, i64)| ShutdownPeriod {
        priority,
        shutdown_grace_period_seconds: seconds,
    };
    Configuration {
        shutdown_grace_period: Span::seconds(all),
        shutdown_grace_period_critical_pods: Span::seconds(critical),
        shutdown_grace_period_by_pod_priority: by_priority.iter().map(entry).collect(),
        ..Configuration::default()
    }
}

#[test]
fn the_groups() {
    for (settings, expected) in [
        (settings(0, 0, &[]), vec![]),
        (settings(30, 10, &[]), vec![(0, 20), (CRITICAL_PRIORITY, 10)]),
        (settings(30, 0, &[]), vec![(0, 30), (CRITICAL_PRIORITY, 0)]),
        (settings(0, 0, &[(1000, 5), (-5, 7), (0, 9)]), vec![(-5, 7), (0, 9), (1000, 5)]),
    ] {
        let found: Vec<_> =
            groups(&settings).iter().map(|group| (group.priority, group.period.as_secs())).collect();
        assert_eq!(found, expected);
    }
}

#[test]
fn pods_by_priority() {
    let groups = groups(&settings(0, 0, &[(0, 30), (1000, 20), (CRITICAL_PRIORITY, 10)]));
    let pods = [
        pod("low", -1, None),
        pod("plain", 0, None),
        pod("near", 999, None),
        pod("node-critical", CRITICAL_PRIORITY + 1000, None),
    ];
    let found: Vec<(i32, Vec<String>)> = by_group(&groups, &pods)
        .into_iter()
        .map(|(group, pods)| {
            (group.priority, pods.iter().map(|pod| crate::pod::name(pod).to_owned()).collect())
        })
        .collect();
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        found,
        [(0, names(&["low", "plain", "near"])), (CRITICAL_PRIORITY, names(&["node-critical"]))]
    );
}

#[test]
fn grace_is_cut_and_never_lengthened() {
    let group = Group { priority: 0, period: Duration::from_secs(10) };
    for (own, expected) in [(Some(30), 10), (Some(3), 3), (None, 10), (Some(0), 0)] {
        assert_eq!(grace_seconds(group, &pod("p", 0, own)), expected);
    }
}

async fn ready_reason(world: &World, status: &str) -> String {
    eventually(&format!("the node is ready: {status}"), LIMIT, || async {
        let node = world.api.get("nodes", "", "n1").unwrap_or_default();
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        match conditions.iter().find(|one| one["type"] == "Ready") {
            Some(ready) if ready["status"] == status => {
                Ok(ready["message"].as_str().unwrap_or_default().to_owned())
            }
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_end_before_the_machine() {
    let Some(mut logind) = FakeLogind::start().await else { return };
    let periods = |settings: &mut Configuration| {
        settings.shutdown_grace_period = Span::seconds(20);
        settings.shutdown_grace_period_critical_pods = Span::seconds(8);
    };
    let Some(world) = World::start_beside(logind.places.clone(), &periods) else { return };
    let lock = logind.lock().await;
    assert_eq!(lock.about, "shutdown|kubelet|Kubelet needs time to handle node shutdown|delay");
    // logind's own five seconds were too short.
    let drop_in = std::fs::read_to_string(logind.places.drop_ins.join("99-kubelet.conf")).unwrap();
    assert!(drop_in.contains("\n[Login]\nInhibitDelayMaxSec=20\n"), "{drop_in}");

    world.pod("web", json!({"containers": [container("a")]}));
    world.pod("vital", json!({"containers": [container("b")], "priority": CRITICAL_PRIORITY}));
    for name in ["web", "vital"] {
        world.wait(name, "is ready", |pod| is(pod, "Ready", "True")).await;
    }
    // Anybody may send such a signal. The next one is logind's, and comes after it.
    logind.lie().await;
    logind.say(false).await;
    let second = logind.lock().await;
    tokio::time::timeout(LIMIT, lock.released()).await.expect("the first lock was let go for the second");
    assert_eq!(ready_reason(&world, "True").await, "kubelet is posting ready status");

    logind.say(true).await;
    for name in ["web", "vital"] {
        let pod = world.wait(name, "has ended", |pod| pod["status"]["phase"] == "Failed").await;
        assert_eq!(pod["status"]["reason"], "Terminated");
        assert_eq!(pod["status"]["message"], "Pod was terminated in response to imminent node shutdown.");
        let conditions = pod["status"]["conditions"].as_array().unwrap();
        let target = conditions.iter().find(|one| one["type"] == "DisruptionTarget").unwrap();
        assert_eq!(
            (target["status"].as_str(), target["reason"].as_str()),
            (Some("True"), Some("TerminationByKubelet"))
        );
    }
    tokio::time::timeout(LIMIT, second.released()).await.expect("the lock is let go");
    // The lower group went first, and each pod's thirty seconds were cut to what its group has.
    let calls = world.runtime.calls();
    let stop = |name: &str, most: i64| {
        let begin = format!("stop {name} ");
        let at = calls.iter().position(|call| call.starts_with(&begin)).expect("it was stopped");
        let grace: i64 = calls[at][begin.len()..].parse().unwrap();
        assert!((1..=most).contains(&grace), "{calls:?}");
        at
    };
    assert!(stop("a", 12) < stop("b", 8), "{calls:?}");
    assert_eq!(ready_reason(&world, "False").await, "node is shutting down");
    world.event("Shutdown", "Shutdown manager detected shutdown event").await;

    world.pod("late", json!({"containers": [container("c")]}));
    let late = world.wait("late", "is refused", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(late["status"]["reason"], "NodeShutdown");
    assert_eq!(late["status"]["message"], "Pod was rejected: Pod was rejected as the node is shutting down.");

    // The shutdown is called off: there is a lock again, and pods run again.
    logind.say(false).await;
    logind.lock().await;
    assert_eq!(ready_reason(&world, "True").await, "kubelet is posting ready status");
    world.pod("after", json!({"containers": [container("d")]}));
    world.wait("after", "is ready", |pod| is(pod, "Ready", "True")).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longer_delay_is_taken_back() {
    let Some(logind) = FakeLogind::start().await else { return };
    let (places, root) = (&logind.places, tempfile::tempdir().unwrap());
    let drop_in = places.drop_ins.join("99-kubelet.conf");
    let connection = Logind::connect(places).await.unwrap();
    assert!(!places.withdraw(root.path()).await.unwrap(), "nothing was written");
    connection.allow(Duration::from_secs(20), root.path()).await.unwrap();
    assert!(drop_in.exists());
    assert!(places.withdraw(root.path()).await.unwrap());
    assert!(!drop_in.exists());
    // logind has been told: it has its own five seconds again.
    connection.allow(Duration::from_secs(6), root.path()).await.unwrap();
    std::fs::write(&drop_in, "[Login]\nInhibitDelayMaxSec=60\n").unwrap();
    assert!(!places.withdraw(root.path()).await.unwrap(), "that is somebody else's");
    assert!(drop_in.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_a_bus_runs_pods() {
    let periods = |settings: &mut Configuration| settings.shutdown_grace_period = Span::seconds(20);
    let places = LogindPlaces { bus: "/nonexistent/bus".into(), ..LogindPlaces::default() };
    let error = Logind::connect(&places).await.expect_err("there is no bus");
    assert_eq!(error.to_string(), "no message bus at /nonexistent/bus");
    let Some(world) = World::start_beside(places, &periods) else { return };
    world.pod("web", json!({"containers": [container("a")]}));
    world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    world.stop().await;
}
