//! The engine: events in, actions out.

use super::*;

pub(super) struct Rig {
    pub(super) engine: Engine,
    now: u64,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self { engine: Engine::new("default-scheduler", 0, 1), now: 0 }
    }

    fn now(&mut self) -> Moment {
        self.now += 1;
        Moment::from_secs(self.now)
    }

    fn node(&mut self, node: &Value) {
        let now = self.now();
        self.engine.apply(Event::Node(facts(node)), now);
    }

    fn pod(&mut self, pod: &Value) {
        let now = self.now();
        self.engine.apply(Event::Pod(info(pod)), now);
    }

    fn gone(&mut self, pod: &Value) {
        let now = self.now();
        self.engine.apply(Event::PodGone(info(pod)), now);
    }

    /// What is done next: `p>n`, `p!` for a refusal, `p?` for a skip; or nothing.
    fn next(&mut self) -> String {
        let now = self.now();
        match self.engine.next(now, &Nothing) {
            Some(Action::Bind { pod, node, .. }) => format!("{}>{node}", pod.key.name),
            Some(Action::Refuse { pod, .. }) => format!("{}!", pod.key.name),
            Some(Action::Skip { pod }) => format!("{}?", pod.key.name),
            None => String::new(),
        }
    }

    fn bound(&mut self, name: &str, success: bool) {
        let now = self.now();
        self.engine.bound(&format!("uid-{name}"), success, now);
    }
}

#[test]
fn an_assumed_pod_takes_its_room_until_confirmed() {
    let mut rig = Rig::new();
    rig.node(&node("n", "4", "8Gi"));
    rig.pod(&pod("a", "3", ""));
    rig.pod(&pod("b", "3", ""));
    assert_eq!(rig.next(), "a>n");
    assert_eq!(rig.next(), "b!");
    assert!(rig.engine.snapshot().is_assumed("uid-a"));
    rig.bound("a", true);
    rig.pod(&on(pod("a", "3", ""), "n"));
    assert!(!rig.engine.snapshot().is_assumed("uid-a"));
    assert_eq!(rig.next(), "");
    rig.gone(&on(pod("a", "3", ""), "n"));
    assert_eq!(rig.next(), "b>n");
}

#[test]
fn a_failed_binding_gives_the_room_back_and_is_tried_again() {
    let mut rig = Rig::new();
    rig.node(&node("n", "4", "8Gi"));
    rig.pod(&pod("a", "3", ""));
    rig.pod(&pod("b", "3", ""));
    assert_eq!(rig.next(), "a>n");
    assert_eq!(rig.next(), "b!");
    rig.bound("a", false);
    assert_eq!(rig.next(), "b>n");
    // a waits out its back-off, then finds no room.
    assert_eq!(rig.next(), "a!");
}

#[test]
fn a_pod_deleted_while_it_is_bound_is_forgotten() {
    let mut rig = Rig::new();
    rig.node(&node("n", "4", "8Gi"));
    rig.pod(&pod("a", "3", ""));
    assert_eq!(rig.next(), "a>n");
    rig.gone(&pod("a", "3", ""));
    rig.bound("a", false);
    assert_eq!(rig.engine.snapshot().pod_count(), 0);
    assert!(rig.engine.queue().is_empty());
    assert_eq!(rig.next(), "");
}

#[test]
fn what_another_scheduler_did_wins_over_what_was_assumed() {
    let mut rig = Rig::new();
    rig.node(&node("a", "4", "8Gi"));
    rig.pod(&pod("p", "3", ""));
    assert_eq!(rig.next(), "p>a");
    rig.node(&node("b", "4", "8Gi"));
    rig.pod(&on(pod("p", "3", ""), "b"));
    rig.bound("p", false);
    let snapshot = rig.engine.snapshot();
    assert_eq!((snapshot.node("a").unwrap().pods.len(), snapshot.node("b").unwrap().pods.len()), (0, 1));
    assert!(rig.engine.queue().is_empty());
}

#[test]
fn waiting_pods_are_tried_when_a_node_comes_or_changes() {
    let mut rig = Rig::new();
    rig.pod(&pod("a", "3", ""));
    assert_eq!(rig.next(), "a!");
    assert_eq!(rig.next(), "");
    rig.node(&node("n", "1", "8Gi"));
    assert_eq!(rig.next(), "a!", "no node before: anything helps");
    rig.node(&node("n", "2", "8Gi"));
    assert_eq!(rig.next(), "", "still too small");
    rig.node(&node("n", "4", "8Gi"));
    assert_eq!(rig.next(), "a>n");
}

#[test]
fn others_pods_and_dying_pods_are_left_alone() {
    let mut rig = Rig::new();
    rig.node(&node("n", "4", "8Gi"));
    rig.pod(&with(pod("theirs", "1", ""), json!({"spec": {"schedulerName": "other"}})));
    assert_eq!(rig.next(), "");
    rig.pod(&with(pod("dying", "1", ""), json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})));
    assert_eq!(rig.next(), "dying?");
    assert_eq!(rig.next(), "");
}

#[test]
fn pods_of_unknown_nodes_count_once_the_node_is_known() {
    let mut rig = Rig::new();
    rig.pod(&on(pod("a", "3", ""), "n"));
    rig.node(&node("n", "4", "8Gi"));
    rig.pod(&pod("b", "3", ""));
    assert_eq!(rig.next(), "b!");
    let now = rig.now();
    rig.engine.apply(Event::NodeGone("n".into()), now);
    rig.gone(&on(pod("a", "3", ""), "n"));
    rig.node(&node("n", "4", "8Gi"));
    assert_eq!(rig.next(), "b>n");
    assert_eq!(rig.engine.snapshot().faults(), Vec::<String>::new());
}

#[test]
fn a_pod_gets_the_room_that_was_made_for_it() {
    let mut rig = Rig::new();
    rig.node(&node("n", "4", "8Gi"));
    let low = on(with(pod("low", "3", ""), json!({"spec": {"priority": 1}})), "n");
    rig.pod(&low);
    rig.pod(&with(pod("high", "3", ""), json!({"spec": {"priority": 100}})));
    assert_eq!(rig.next(), "high!");
    // A lesser pod comes while the victim is going.
    rig.pod(&with(pod("mid", "3", ""), json!({"spec": {"priority": 50}})));
    assert_eq!(rig.next(), "mid!");
    rig.gone(&low);
    assert_eq!(rig.next(), "high>n");
    assert_eq!(rig.next(), "mid!");
}
