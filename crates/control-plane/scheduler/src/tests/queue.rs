//! The queue under a virtual clock.

use super::*;

fn at(seconds: u64) -> Moment {
    Moment::from_secs(seconds)
}

fn waiting(name: &str, priority: i32) -> Arc<PodInfo> {
    info(&with(pod(name, "1", ""), json!({"spec": {"priority": priority}})))
}

fn name(entry: Option<Entry>) -> Option<String> {
    entry.map(|entry| entry.pod.key.name.clone())
}

fn only(plugin: Plugin) -> Plugins {
    [plugin].into_iter().collect()
}

#[test]
fn higher_priority_first_then_who_came_first() {
    let mut queue = Queue::default();
    for (second, (name, priority)) in [("a", 0), ("b", 10), ("c", 0), ("d", 10)].into_iter().enumerate() {
        queue.put(waiting(name, priority), at(second as u64));
    }
    let order: Vec<String> = std::iter::from_fn(|| name(queue.pop(at(9)))).collect();
    assert_eq!(order, ["b", "d", "a", "c"]);
}

#[test]
fn a_refused_pod_waits_for_a_change_that_may_help() {
    let mut queue = Queue::default();
    queue.put(waiting("p", 0), at(0));
    let entry = queue.pop(at(0)).unwrap();
    queue.refused(entry, only(Plugin::NodeResourcesFit), at(0));
    assert!(queue.pop(at(100)).is_none());
    let too_small = Change::NodeAdded(facts(&node("n", "500m", "1Gi")));
    queue.changed(&too_small, at(100));
    assert!(queue.pop(at(100)).is_none());
    queue.changed(&Change::PodPlaced(waiting("other", 0)), at(100));
    assert!(queue.pop(at(100)).is_none());
    queue.changed(&Change::PodGone(waiting("other", 0)), at(100));
    assert_eq!(name(queue.pop(at(100))), Some("p".into()));
}

#[test]
fn each_filter_knows_what_helps() {
    let pod_ = |spec: Value| info(&with(pod("p", "1", ""), json!({"spec": spec})));
    let plain = facts(&node("n", "4", "8Gi"));
    let changed = |before: Value, after: Value| Change::NodeChanged {
        before: facts(&with(node("n", "4", "8Gi"), before)),
        after: facts(&with(node("n", "4", "8Gi"), after)),
    };
    let cordon = json!({"spec": {"unschedulable": true}});
    let taint = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    let label = json!({"metadata": {"labels": {"disk": "ssd"}}});
    let grown = json!({"status": {"allocatable": {"cpu": "8"}}});
    let selecting = pod_(json!({"nodeSelector": {"disk": "ssd"}}));
    let simple = pod_(json!({}));
    let cases = [
        ("uncordoned", Plugin::NodeUnschedulable, &simple, changed(cordon.clone(), json!({})), true),
        ("cordoned", Plugin::NodeUnschedulable, &simple, changed(json!({}), cordon.clone()), false),
        (
            "new cordoned node",
            Plugin::NodeUnschedulable,
            &simple,
            Change::NodeAdded(facts(&with(node("n", "4", "8Gi"), cordon))),
            false,
        ),
        ("taint gone", Plugin::TaintToleration, &simple, changed(taint.clone(), json!({})), true),
        (
            "other label",
            Plugin::TaintToleration,
            &simple,
            changed(taint.clone(), with(taint, label.clone())),
            false,
        ),
        ("label came", Plugin::NodeAffinity, &selecting, changed(json!({}), label), true),
        ("node without it", Plugin::NodeAffinity, &selecting, Change::NodeAdded(plain.clone()), false),
        ("grown", Plugin::NodeResourcesFit, &simple, changed(json!({}), grown), true),
        (
            "taint is not size",
            Plugin::NodeResourcesFit,
            &simple,
            changed(json!({}), json!({"spec": {"unschedulable": true}})),
            false,
        ),
        ("node gone", Plugin::NodeResourcesFit, &simple, Change::NodeGone, false),
        ("ports and a new node", Plugin::NodePorts, &simple, Change::NodeAdded(plain), true),
        ("volume", Plugin::VolumeBinding, &simple, Change::Volumes, true),
    ];
    for (case, plugin, pod, change, expected) in cases {
        assert_eq!(helps(&change, pod, only(plugin)), expected, "{case}");
    }
}

#[test]
fn backoff_is_waited_out_behind_others_but_not_by_an_idle_scheduler() {
    let mut queue = Queue::default();
    queue.put(waiting("p", 100), at(0));
    let entry = queue.pop(at(0)).unwrap();
    queue.refused(entry, only(Plugin::NodeResourcesFit), at(0));
    queue.put(waiting("other", 0), at(0));
    queue.changed(&Change::PodGone(waiting("x", 0)), at(0));
    // Of higher priority, but it backs off until 1 s.
    assert_eq!(name(queue.pop(at(0))), Some("other".into()));
    assert_eq!(name(queue.pop(at(0))), Some("p".into()));
}

#[test]
fn errors_back_off_for_real_and_longer_each_time() {
    let mut queue = Queue::default();
    queue.put(waiting("p", 0), at(0));
    let mut now = at(0);
    let mut waits = Vec::new();
    for _ in 0..6 {
        let entry = queue.pop(now).unwrap();
        queue.failed(entry, now);
        assert!(queue.pop(now).is_none());
        let due = queue.next_due().unwrap();
        waits.push((due - now).as_secs());
        now = due;
    }
    assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
}

#[test]
fn nobody_waits_longer_than_five_minutes() {
    let mut queue = Queue::default();
    queue.put(waiting("p", 0), at(0));
    let entry = queue.pop(at(0)).unwrap();
    queue.refused(entry, only(Plugin::NodeName), at(0));
    let mut now = at(0);
    while now < at(1000) {
        now = queue.next_due().expect("it is looked after");
        if queue.pop(now).is_some() {
            break;
        }
    }
    assert!(now >= at(300) && now <= at(330), "{now:?}");
}

#[test]
fn gates_hold_a_pod_until_removed() {
    let mut queue = Queue::default();
    let gated = with(pod("p", "1", ""), json!({"spec": {"schedulingGates": [{"name": "g"}]}}));
    queue.put(info(&gated), at(0));
    assert!(queue.pop(at(1000)).is_none());
    assert!(queue.contains("uid-p"));
    queue.put(info(&pod("p", "1", "")), at(1000));
    assert_eq!(name(queue.pop(at(1000))), Some("p".into()));
}

#[test]
fn a_pod_that_asks_for_something_else_is_tried_again() {
    let mut queue = Queue::default();
    queue.put(waiting("p", 0), at(0));
    let entry = queue.pop(at(0)).unwrap();
    queue.refused(entry, only(Plugin::TaintToleration), at(0));
    let told = with(
        pod("p", "1", ""),
        json!({"status": {"conditions": [{"type": "PodScheduled", "status": "False", "message": "m"}]}}),
    );
    queue.put(info(&told), at(1));
    assert!(queue.pop(at(1)).is_none(), "our own condition is no news");
    let tolerant = with(pod("p", "1", ""), json!({"spec": {"tolerations": [{"operator": "Exists"}]}}));
    queue.put(info(&tolerant), at(2));
    assert_eq!(name(queue.pop(at(2))), Some("p".into()));
}
