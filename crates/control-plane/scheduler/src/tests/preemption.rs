//! Who has to go for a pod of higher priority.

use super::*;

fn ranked(name: &str, cpu: &str, priority: i32) -> Value {
    with(pod(name, cpu, ""), json!({"spec": {"priority": priority}}))
}

/// The node and the victims, or the message.
fn room(snapshot: &Snapshot, pod: &Value) -> Result<(String, Vec<String>), String> {
    match decision(snapshot, pod) {
        Decision::Wait(Wait { preemption: Some(room), .. }) => {
            Ok((room.node.to_string(), room.victims.iter().map(|victim| victim.key.name.clone()).collect()))
        }
        Decision::Wait(wait) => Err(wait.message),
        Decision::Place { node, .. } => Err(format!("placed on {node}")),
    }
}

#[test]
fn the_fewest_and_least_important_go() {
    let nodes = ["a", "b", "c"].map(|name| node(name, "4", "8Gi"));
    let pods = [
        on(ranked("a-mid", "4", 50), "a"),
        on(ranked("b-low-1", "2", 10), "b"),
        on(ranked("b-low-2", "2", 10), "b"),
        on(ranked("c-low", "4", 10), "c"),
    ];
    let snapshot = snapshot(&nodes, &pods);
    let found = room(&snapshot, &ranked("p", "3", 100));
    // Priority 10 rather than 50, one pod rather than two.
    assert_eq!(found, Ok(("c".into(), vec!["c-low".into()])));
}

#[test]
fn only_those_who_must_go_and_the_message_has_no_tail() {
    let pods = [on(ranked("big", "3", 10), "a"), on(ranked("small", "500m", 20), "a")];
    let snapshot = snapshot(&[node("a", "4", "8Gi")], &pods);
    assert_eq!(room(&snapshot, &ranked("p", "3", 100)), Ok(("a".into(), vec!["big".into()])));
    assert_eq!(outcome(&snapshot, &ranked("p", "3", 100)), "0/1 nodes are available: 1 Insufficient cpu.");
}

#[test]
fn nobody_goes_for_an_equal_or_when_it_does_not_help() {
    let high = on(ranked("high", "3", 100), "a");
    let low = on(ranked("low", "500m", 10), "a");
    let one = snapshot(&[node("a", "4", "8Gi")], std::slice::from_ref(&high));
    assert_eq!(
        room(&one, &ranked("p", "2", 100)).unwrap_err(),
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    let two = snapshot(&[node("a", "4", "8Gi")], &[high, low]);
    assert_eq!(
        room(&two, &ranked("p", "2", 100)).unwrap_err(),
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Insufficient cpu."
    );
}

#[test]
fn anti_affinity_victims_are_found() {
    let apart = with(
        ranked("p", "1", 100),
        json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}]}}}}),
    );
    let snapshot = snapshot(&[node("a", "4", "8Gi")], &[on(ranked("x", "1", 1), "a")]);
    assert_eq!(room(&snapshot, &apart), Ok(("a".into(), vec!["x".into()])));
}

#[test]
fn who_waits_for_victims_does_not_ask_for_more() {
    let going = with(
        on(ranked("x", "3", 1), "a"),
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]}}),
    );
    let snapshot = snapshot(&[node("a", "4", "8Gi")], &[going]);
    let waiting = with(ranked("p", "3", 100), json!({"status": {"nominatedNodeName": "a"}}));
    assert_eq!(
        room(&snapshot, &waiting).unwrap_err(),
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to a terminating pod on the nominated node."
    );
}

#[test]
fn room_made_for_one_is_not_taken_by_a_lesser_one() {
    let mut snapshot = snapshot(&[node("a", "4", "8Gi")], &[]);
    snapshot.nominate(info(&ranked("important", "3", 100)), "a");
    let message = outcome(&snapshot, &ranked("lesser", "2", 10));
    assert!(message.starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{message}");
    assert_eq!(outcome(&snapshot, &ranked("more", "2", 200)), "a");
    let returned = with(ranked("important", "3", 100), json!({"status": {"nominatedNodeName": "a"}}));
    assert_eq!(outcome(&snapshot, &returned), "a");
}
