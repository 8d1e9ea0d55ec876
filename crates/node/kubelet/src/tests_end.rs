//! Ends that are in a hurry, and hooks: against a runtime that pretends, as in [`crate::tests_life`].

use serde_json::{Value, json};

use crate::tests_life::{World, container, is, with};

/// A container with a hook that runs a command.
fn hooked(name: &str, hook: &str, command: &str) -> Value {
    with(container(name), json!({"lifecycle": {hook: {"exec": {"command": [command]}}}}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_without_end_does_not_hold_a_deletion_up() {
    let Some(world) = World::start() else { return };
    world.runtime.held.lock().endless.push("forever".into());
    world.pod("web", json!({"containers": [hooked("a", "postStart", "forever"), container("b")]}));
    world.called("exec forever").await;
    world.api.delete("pods", "default", "web", Some(4));
    world.gone("web").await;
    let calls = world.runtime.calls();
    assert!(calls.contains(&"stop a 4".to_owned()), "{calls:?}");
    assert!(!calls.contains(&"start b".to_owned()), "{calls:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_interrupts_the_kill_of_one_container() {
    let Some(world) = World::start() else { return };
    let probe = json!({"livenessProbe": {"exec": {"command": ["alive"]}, "periodSeconds": 1, "failureThreshold": 1}});
    {
        let mut held = world.runtime.held.lock();
        held.ignores_stop.push("a".into());
        held.exec.insert("alive".into(), 1);
    }
    world.pod(
        "web",
        json!({"terminationGracePeriodSeconds": 3600, "containers": [with(container("a"), probe), container("b")]}),
    );
    world.called("stop a 3600").await;
    world.api.delete("pods", "default", "web", Some(4));
    world.gone("web").await;
    let calls = world.runtime.calls();
    assert!(calls.contains(&"stop a 4".to_owned()) && calls.contains(&"stop b 4".to_owned()), "{calls:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_deletion_is_heard_by_sidecars() {
    let Some(world) = World::start() else { return };
    world.runtime.held.lock().ignores_stop.push("side".into());
    let sidecar = with(container("side"), json!({"restartPolicy": "Always"}));
    world.pod("web", json!({"initContainers": [sidecar], "containers": [container("a")]}));
    world.wait("web", "is ready", |pod| is(pod, "Ready", "True")).await;
    world.api.delete("pods", "default", "web", Some(3600));
    world.called("stop side 3").await;
    world.api.delete("pods", "default", "web", Some(1));
    world.gone("web").await;
    world.stop().await;
}
