//! Whatever happens in whatever order: no node is given more than it has, and no sum goes wrong.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Node(u8),
    NodeGone(u8),
    Cordon(u8, bool),
    Pod {
        number: u8,
        cpu: u8,
        memory: u8,
        port: Option<u8>,
        priority: u8,
    },
    PodGone(u8),
    Schedule,
    /// The oldest binding under way ends.
    Bound(bool),
    /// The API confirms the oldest bound pod.
    Confirm,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0u8..4).prop_map(Step::Node),
        1 => (0u8..4).prop_map(Step::NodeGone),
        1 => ((0u8..4), any::<bool>()).prop_map(|(number, cordoned)| Step::Cordon(number, cordoned)),
        6 => ((0u8..20), (0u8..5), (0u8..5), proptest::option::of(0u8..2), (0u8..3))
            .prop_map(|(number, cpu, memory, port, priority)| Step::Pod { number, cpu, memory, port, priority }),
        2 => (0u8..20).prop_map(Step::PodGone),
        8 => Just(Step::Schedule),
        3 => any::<bool>().prop_map(Step::Bound),
        3 => Just(Step::Confirm),
    ];
    proptest::collection::vec(step, 0..120)
}

fn machine(number: u8, cordoned: bool) -> Value {
    with(
        node(&format!("n{number}"), &format!("{}", 2 + number), "6Gi"),
        json!({"spec": {"unschedulable": cordoned}, "status": {"allocatable": {"pods": "4"}}}),
    )
}

/// The API as far as it matters: pods by number, with their node once bound.
#[derive(Default)]
struct World {
    pods: std::collections::BTreeMap<u8, Value>,
    /// Generation per number, so that a pod made again is another one.
    made: [u32; 20],
    binding: Vec<(u8, Arc<PodInfo>, Arc<str>)>,
    bound: Vec<(u8, String)>,
}

fn run(steps: Vec<Step>) {
    let mut world = World::default();
    let mut engine = Engine::new("default-scheduler", 0, 9);
    for (second, step) in steps.into_iter().enumerate() {
        let now = Moment::from_secs(second as u64 * 2);
        match step {
            Step::Node(number) => engine.apply(Event::Node(facts(&machine(number, false))), now),
            Step::Cordon(number, cordoned) => {
                engine.apply(Event::Node(facts(&machine(number, cordoned))), now);
            }
            Step::NodeGone(number) => engine.apply(Event::NodeGone(format!("n{number}")), now),
            Step::Pod { number, cpu, memory, port, priority } => {
                if world.pods.contains_key(&number) {
                    continue;
                }
                world.made[usize::from(number)] += 1;
                let uid = format!("{number}-{}", world.made[usize::from(number)]);
                let mut made = with(
                    pod(&format!("p{number}"), &format!("{cpu}"), &format!("{memory}Gi")),
                    json!({"metadata": {"uid": uid}, "spec": {"priority": priority}}),
                );
                if let Some(port) = port {
                    made["spec"]["containers"][0]["ports"] =
                        json!([{"containerPort": 1, "hostPort": 8000 + i32::from(port)}]);
                }
                engine.apply(Event::Pod(info(&made)), now);
                world.pods.insert(number, made);
            }
            Step::PodGone(number) => {
                if let Some(gone) = world.pods.remove(&number) {
                    engine.apply(Event::PodGone(info(&gone)), now);
                }
            }
            Step::Schedule => {
                if let Some(Action::Bind { pod, node, .. }) = engine.next(now, &Nothing) {
                    let number = pod.key.name[1..].parse().unwrap();
                    world.binding.push((number, pod, node));
                }
            }
            Step::Bound(success) => {
                if world.binding.is_empty() {
                    continue;
                }
                let (number, pod, node) = world.binding.remove(0);
                let alive = world.pods.get(&number).is_some_and(|known| info(known).uid == pod.uid);
                if success && alive {
                    let bound = on(world.pods[&number].clone(), &node);
                    world.pods.insert(number, bound);
                    world.bound.push((number, pod.uid.clone()));
                }
                engine.bound(&pod.uid, success && alive, now);
            }
            Step::Confirm => {
                if world.bound.is_empty() {
                    continue;
                }
                let (number, uid) = world.bound.remove(0);
                if let Some(known) = world.pods.get(&number).filter(|known| info(known).uid == uid) {
                    engine.apply(Event::Pod(info(known)), now);
                }
            }
        }
        check(&engine, &world);
    }
}

#[track_caller]
fn check(engine: &Engine, world: &World) {
    assert_eq!(engine.snapshot().faults(), Vec::<String>::new());
    for node in engine.snapshot().nodes() {
        let has = &node.facts.allocatable;
        let name = &node.facts.name;
        assert!(
            node.requested.cpu_millis <= has.cpu_millis,
            "{name} has {} of cpu, gave {}",
            has.cpu_millis,
            node.requested.cpu_millis
        );
        assert!(node.requested.memory_bytes <= has.memory_bytes, "{name} gave too much memory");
        assert!(node.pods.len() as i64 <= node.facts.max_pods, "{name} has too many pods");
        for (at, port) in node.ports.iter().enumerate() {
            assert!(
                !node.ports[at + 1..].iter().any(|other| other.conflicts_with(port)),
                "{name} gave a port twice"
            );
        }
    }
    // Every pod of the API without a node is queued or being bound; none is in both.
    for known in world.pods.values() {
        let pod = info(known);
        if pod.node_name.is_none() {
            let queued = engine.queue().contains(&pod.uid);
            assert!(queued != engine.snapshot().is_assumed(&pod.uid), "{} is lost or doubled", pod.key);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_overcommitted_or_lost(steps in steps()) {
        run(steps);
    }
}
