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
