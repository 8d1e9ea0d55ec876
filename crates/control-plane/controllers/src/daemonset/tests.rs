//! Decisions about one DaemonSet, updates simulated step by step, and the controller against a server.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet,
};
use k8s_openapi::api::core::v1::{Node, NodeSpec, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proptest::prelude::*;

use super::HASH_LABEL;
use super::decide::{Decision, Observed, decide, retry_at};
use super::pods::{daemon_template, pin, target_node};
use crate::testing::api::{FakeApi, Running};
use crate::testing::{PodExt, at, controlled_by, labels, meta, pod, selector, template};

const LABELS: &[(&str, &str)] = &[("app", "agent")];

fn set() -> DaemonSet {
    DaemonSet {
        metadata: meta("agent"),
        spec: Some(DaemonSetSpec {
            selector: selector(LABELS),
            template: template(LABELS, "v1"),
            ..DaemonSetSpec::default()
        }),
        status: None,
    }
}

fn rolling(surge: i32, unavailable: i32) -> DaemonSet {
    let mut set = set();
    let update = RollingUpdateDaemonSet {
        max_surge: Some(IntOrString::Int(surge)),
        max_unavailable: Some(IntOrString::Int(unavailable)),
    };
    let strategy =
        DaemonSetUpdateStrategy { type_: Some("RollingUpdate".to_owned()), rolling_update: Some(update) };
    set.spec.as_mut().unwrap().update_strategy = Some(strategy);
    set
}

fn node(name: &str) -> Node {
    Node { metadata: ObjectMeta { namespace: None, ..meta(name) }, ..Node::default() }
}

fn tainted(name: &str, key: &str, effect: &str) -> Node {
    let taint = Taint { key: key.to_owned(), effect: effect.to_owned(), ..Taint::default() };
    Node { spec: Some(NodeSpec { taints: Some(vec![taint]), ..NodeSpec::default() }), ..node(name) }
}

fn ours(name: &str, node: &str, hash: &str) -> Pod {
    pod(name)
        .labelled(&[("app", "agent"), (HASH_LABEL, hash)])
        .owned_by(controlled_by("apps/v1", "DaemonSet", "agent"))
        .on(node)
        .ready(1)
}

fn decided(set: &DaemonSet, nodes: Vec<Node>, pods: Vec<Pod>) -> Decision {
    let (nodes, pods): (Vec<_>, Vec<_>) =
        (nodes.into_iter().map(Arc::new).collect(), pods.into_iter().map(Arc::new).collect());
    decide(&Observed { set, pods: &pods, nodes: &nodes, hash: "new", retry: &BTreeMap::new() }, at(1000))
}

fn deleted(decision: &Decision) -> Vec<&str> {
    let mut names: Vec<_> = decision.delete.iter().map(|target| target.key.name.as_str()).collect();
    names.sort_unstable();
    names
}

#[test]
fn every_suitable_node_gets_one_pod() {
    let mut picky = set();
    picky.spec.as_mut().unwrap().template.spec.as_mut().unwrap().node_selector =
        Some(labels(&[("disk", "ssd")]));
    let mut ssd = node("b");
    ssd.metadata.labels = Some(labels(&[("disk", "ssd")]));
    assert_eq!(decided(&picky, vec![node("a"), ssd], vec![]).create, ["b"]);
    let nodes = vec![
        node("plain"),
        tainted("cordoned", "node.kubernetes.io/unschedulable", "NoSchedule"),
        tainted("silent", "node.kubernetes.io/unreachable", "NoExecute"),
        tainted("dedicated", "team", "NoSchedule"),
        tainted("forbidden", "team", "NoExecute"),
    ];
    let decision = decided(&set(), nodes.clone(), vec![]);
    assert_eq!(decision.create, ["plain", "cordoned", "silent"]);
    let there = ["dedicated", "forbidden"].map(|node| ours(node, node, "new")).to_vec();
    let decision = decided(&set(), nodes, there);
    assert_eq!(deleted(&decision), ["forbidden"], "what runs may stay where new ones may not come");
    let status = decision.status.unwrap();
    assert_eq!((status.desired_number_scheduled, status.number_misscheduled), (3, 2));
}

#[test]
fn doubles_and_the_ended_are_removed() {
    let pods = vec![
        ours("old", "a", "new").created(1),
        ours("young", "a", "new").created(5),
        ours("failed", "b", "new").phase("Failed"),
        ours("done", "c", "new").phase("Succeeded"),
    ];
    let decision = decided(&set(), ["a", "b", "c"].map(node).to_vec(), pods);
    assert_eq!(deleted(&decision), ["done", "failed", "young"]);
    let events: Vec<_> = decision.events.iter().map(|event| event.2.as_str()).collect();
    assert_eq!(
        events,
        [
            "Found failed daemon pod ns/failed on node b, will try to kill it",
            "Found succeeded daemon pod ns/done on node c, will try to delete it"
        ]
    );
    assert_eq!((retry_at(at(0), 0), retry_at(at(0), 3), retry_at(at(0), 60)), (at(1), at(8), at(900)));
}

#[test]
fn updates_keep_to_their_limits() {
    let nodes = || ["a", "b", "c"].map(node).to_vec();
    let old = || ["a", "b", "c"].map(|node| ours(node, node, "old")).to_vec();
    assert_eq!(deleted(&decided(&rolling(0, 1), nodes(), old())).len(), 1);
    assert_eq!(deleted(&decided(&rolling(0, 2), nodes(), old())).len(), 2);
    let mut broken = old();
    broken[1] = broken[1].clone().condition("Ready", "False", 1);
    assert_eq!(deleted(&decided(&rolling(0, 1), nodes(), broken)), ["b"], "what serves nobody goes at once");
    let mut waiting = old();
    waiting[0] = ours("a2", "a", "new").phase("Pending").condition("Ready", "False", 1);
    assert_eq!(deleted(&decided(&rolling(0, 1), nodes(), waiting)), Vec::<&str>::new());
    let surge = decided(&rolling(1, 0), nodes(), old());
    assert_eq!((surge.create.len(), surge.delete.len()), (1, 0));
    let mut both = old();
    both.push(ours("a2", "a", "new"));
    assert_eq!(deleted(&decided(&rolling(1, 0), nodes(), both)), ["a"], "its successor serves");
    let mut manual = rolling(0, 1);
    manual.spec.as_mut().unwrap().update_strategy.as_mut().unwrap().type_ = Some("OnDelete".to_owned());
    assert_eq!(decided(&manual, nodes(), old()).delete, []);
}

#[test]
fn pods_are_made_for_their_node() {
    let template = daemon_template(&set(), "new");
    let mut spec = template.spec.clone().unwrap();
    pin(&mut spec, "a");
    let pinned = Pod { spec: Some(spec), ..Pod::default() };
    assert_eq!(target_node(&pinned), Some("a"));
    let tolerations = pinned.spec.unwrap().tolerations.unwrap();
    assert!(tolerations.iter().any(|it| it.key.as_deref() == Some("node.kubernetes.io/not-ready")));
    assert_eq!(tolerations.len(), 6);
    assert_eq!(template.metadata.unwrap().labels.unwrap()[HASH_LABEL], "new");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Decide,
    Ready(usize),
    Gone(usize),
}

proptest! {
    /// However an update proceeds, never fewer serve than may, never two pods where no surge is allowed, and it ends.
    #[test]
    fn a_rolling_update_keeps_its_promises(
        nodes in 1..6usize,
        surge in 0..3i32,
        unavailable in 0..3i32,
        steps in proptest::collection::vec(
            prop_oneof![
                3 => Just(Step::Decide),
                2 => (0..20usize).prop_map(Step::Ready),
                2 => (0..20usize).prop_map(Step::Gone),
            ],
            0..80,
        ),
    ) {
        let set = rolling(surge, unavailable);
        let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
        let names: Vec<String> = (0..nodes).map(|index| format!("n{index}")).collect();
        let mut pods: Vec<Pod> = names.iter().map(|name| ours(&format!("old-{name}"), name, "old")).collect();
        let mut made = 0;
        let mut step = |pods: &mut Vec<Pod>, step: Step| match step {
            Step::Decide => {
                let decision = decided(&set, names.iter().map(|name| node(name)).collect(), pods.clone());
                for target in decision.delete {
                    let pod = pods.iter_mut().find(|pod| pod.metadata.name.as_ref() == Some(&target.key.name)).unwrap();
                    *pod = pod.clone().deleting();
                }
                for node in decision.create {
                    made += 1;
                    pods.push(ours(&format!("new-{made}"), &node, "new").created(made).condition("Ready", "False", 1));
                }
            }
            Step::Ready(index) if !pods.is_empty() => {
                let index = index % pods.len();
                pods[index] = pods[index].clone().ready(1);
            }
            Step::Gone(index) if !pods.is_empty() => {
                let index = index % pods.len();
                if crate::pods::is_terminating(&pods[index]) {
                    pods.remove(index);
                }
            }
            Step::Ready(_) | Step::Gone(_) => {}
        };
        let serving = |pods: &[Pod]| {
            let serves = |pod: &&Pod| crate::pods::is_ready(pod) && !crate::pods::is_terminating(pod);
            pods.iter().filter(serves).filter_map(|pod| target_node(pod)).collect::<std::collections::BTreeSet<_>>().len()
        };
        let fewest = nodes.saturating_sub(usize::try_from(unavailable).unwrap());
        for next in steps {
            step(&mut pods, next);
            prop_assert!(serving(&pods) >= fewest, "{} of {} serve after {:?}", serving(&pods), nodes, next);
            let active = pods.iter().filter(|pod| crate::pods::is_active(pod)).count();
            prop_assert!(active <= nodes + usize::try_from(surge).unwrap(), "{} pods after {:?}", active, next);
        }
        for _ in 0..60 {
            step(&mut pods, Step::Decide);
            for index in 0..20 {
                step(&mut pods, Step::Ready(index));
                step(&mut pods, Step::Gone(index));
            }
        }
        prop_assert_eq!((pods.len(), serving(&pods)), (nodes, nodes));
        prop_assert!(pods.iter().all(|pod| pod.metadata.labels.as_ref().unwrap()[HASH_LABEL] == "new"));
    }
}

#[tokio::test(start_paused = true)]
async fn pods_follow_nodes_and_templates() {
    let api = FakeApi::default();
    api.create("apps/daemonsets", &set());
    for name in ["a", "b"] {
        api.create("/nodes", &node(name));
    }
    let running = Running::start(&api, &["daemonset-controller"]);
    let on_nodes = |api: &FakeApi, image: &str| {
        let mut nodes: Vec<String> = api
            .list::<Pod>("/pods")
            .iter()
            .filter(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(image))
            .filter(|pod| crate::pods::is_ready(pod))
            .filter_map(|pod| target_node(pod).map(str::to_owned))
            .collect();
        nodes.sort();
        nodes
    };
    // The scheduler would bind each to the node it is made for.
    let bind = |api: &FakeApi| {
        for pod in api.list::<Pod>("/pods") {
            let name = pod.metadata.name.clone().unwrap();
            if crate::pods::is_terminating(&pod) {
                api.end_pod("ns", &name);
            } else if crate::pods::node_name(&pod).is_none() {
                let node = target_node(&pod).unwrap().to_owned();
                let like = serde_json::to_value(pod.clone().on(&node).ready(1)).unwrap();
                api.edit("/pods", "ns", &name, |pod| *pod = like);
            }
        }
    };
    api.until("one each", bind, |api| on_nodes(api, "v1") == ["a", "b"]).await;
    api.create("/nodes", &node("c"));
    api.until("the new node too", bind, |api| on_nodes(api, "v1") == ["a", "b", "c"]).await;
    api.edit("apps/daemonsets", "ns", "agent", |set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = "v2".into();
    });
    let updated = |api: &FakeApi| {
        let set: DaemonSet = api.get("apps/daemonsets", "ns", "agent").unwrap();
        let status = set.status.unwrap_or_default();
        on_nodes(api, "v2") == ["a", "b", "c"]
            && status.updated_number_scheduled == Some(3)
            && status.number_available == Some(3)
            && status.observed_generation == Some(2)
    };
    api.until("the new version", bind, updated).await;
    let revisions: Vec<ControllerRevision> = api.list("apps/controllerrevisions");
    assert_eq!(revisions.len(), 2);
    api.edit("apps/daemonsets", "ns", "agent", |set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = "v1".into();
    });
    api.until("back again", bind, |api| on_nodes(api, "v1") == ["a", "b", "c"]).await;
    api.settle().await;
    let mut numbers: Vec<_> =
        api.list::<ControllerRevision>("apps/controllerrevisions").iter().map(|it| it.revision).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3], "the old revision is the newest again");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_template_is_not_held_up_by_failures_of_the_old_one() {
    let api = FakeApi::default();
    api.create("apps/daemonsets", &set());
    api.create("/nodes", &node("a"));
    let running = Running::start(&api, &["daemonset-controller"]);
    let failures = std::cell::Cell::new(0);
    let fail = |api: &FakeApi, image: &str| {
        for pod in api.list::<Pod>("/pods") {
            let runs = pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some(image);
            if runs && !crate::pods::is_finished(&pod) {
                failures.set(failures.get() + 1);
                api.edit("/pods", "ns", pod.metadata.name.as_deref().unwrap(), |pod| {
                    pod["spec"]["nodeName"] = "a".into();
                    pod["status"]["phase"] = "Failed".into();
                });
            }
        }
    };
    let begin = tokio::time::Instant::now();
    api.until("it fails", |api| fail(api, "v1"), |_| failures.get() == 8).await;
    assert!(begin.elapsed().as_secs() >= 60, "with growing pauses: {:?}", begin.elapsed());
    failures.set(0);
    api.edit("apps/daemonsets", "ns", "agent", |set| {
        set["spec"]["template"]["spec"]["containers"][0]["image"] = "v2".into();
    });
    let begin = tokio::time::Instant::now();
    api.until("the new one fails too", |api| fail(api, "v2"), |_| failures.get() == 3).await;
    assert!(begin.elapsed().as_secs() < 20, "from the beginning: {:?}", begin.elapsed());
    running.stop().await;
}
