//! Tables of which processors containers get on machines of different kinds.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::{
    super::{
        cpu_set::CpuSet,
        hardware::{Hardware, tests::machine},
        numa::{Hint, NodeMask, mask},
    },
    Options, Pool,
    pool::Kept,
    take,
};
use crate::pod;

fn set(text: &str) -> CpuSet {
    text.parse().unwrap()
}

/// Containers as `name=cpu`; `~` before the name makes it an init container, `&` a sidecar.
fn asking(uid: &str, list: &str) -> Pod {
    let (mut inits, mut regular) = (Vec::new(), Vec::new());
    for text in list.split_whitespace() {
        let (name, cpu) = text.split_once('=').unwrap();
        let resources = json!({"limits": {"cpu": cpu, "memory": "1Gi"}});
        match name.split_at(1) {
            ("~", name) => inits.push(json!({"name": name, "resources": resources})),
            ("&", name) => {
                inits.push(json!({"name": name, "restartPolicy": "Always", "resources": resources}));
            }
            _ => regular.push(json!({"name": name, "resources": resources})),
        }
    }
    serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid},
        "spec": {"initContainers": inits, "containers": regular}}))
    .unwrap()
}

fn pool(hardware: Hardware, reserved: &str, options: Options) -> Pool {
    Pool::new(hardware, set(reserved), options)
}

fn give(
    pool: &mut Pool,
    of: &Pod,
    name: &str,
    affinity: Option<NodeMask>,
) -> Result<CpuSet, (String, String)> {
    let (_, container) = pod::find_container(of, name).unwrap();
    pool.allocate(of, &container, affinity)
        .map_err(|error| (error.reason.unwrap_or_default().to_owned(), error.message))?;
    Ok(pool.cpus(pod::uid(of), name))
}

#[test]
fn whole_parts_of_the_machine_come_first() {
    // Two sockets, two nodes, four cores in each, two threads in each: cores 0-7, their second threads 8-15.
    let two = machine(2, 1, 4, 2);
    let big = machine(1, 4, 2, 2);
    for (hardware, free, count, wanted) in [
        (&two, "0-15", 1, "0"),
        (&two, "0-15", 2, "0,8"),
        (&two, "0-15", 3, "0-1,8"),
        (&two, "1-15", 1, "8"),
        (&two, "1-15", 2, "1,9"),
        (&two, "1-15", 8, "4-7,12-15"),
        (&two, "1-15", 10, "1,4-7,9,12-15"),
        (&two, "1-7", 4, "1-3,4"),
        (&two, "0-15", 16, "0-15"),
        // Four nodes in one socket: the node of which less is free comes first.
        (&big, "0-15", 4, "0-1,8-9"),
        (&big, "1-15", 2, "1,9"),
        (&big, "1-15", 4, "2-3,10-11"),
        (&big, "0-15", 0, ""),
    ] {
        assert_eq!(
            take(hardware, &set(free), count, Options::default()),
            Ok(set(wanted)),
            "{count} of {free}"
        );
    }
    assert_eq!(
        take(&two, &set("0-1"), 3, Options::default()).unwrap_err(),
        "not enough cpus available to satisfy request: requested=3, available=2"
    );
}

#[test]
fn processors_are_spread_over_nodes_if_so_asked() {
    let two = machine(2, 1, 4, 2);
    let spread = Options { distribute_across_numa: true, ..Default::default() };
    let per_node = |free: &str, count: usize, options: Options| {
        let got = take(&two, &set(free), count, options).unwrap();
        let mut on: Vec<usize> = [0, 1].map(|node| two.on(&got, mask(&[node])).len()).to_vec();
        on.sort_unstable();
        on
    };
    assert_eq!(per_node("0-15", 6, spread), [0, 6], "one node has room for all");
    assert_eq!(per_node("0-15", 10, spread), [5, 5], "two are needed, and each gives as many");
    assert_eq!(per_node("0-5,8-11", 10, spread), [2, 8], "as far as there is room");
    let whole = Options { full_physical_only: true, ..spread };
    assert_eq!(per_node("0-15", 10, whole), [4, 6], "whole cores");
}

#[test]
fn caches_are_kept_apart_if_so_asked() {
    // One node of eight cores, the first and the last four with a cache each.
    let mut one = machine(1, 1, 8, 1);
    for (cpu, place) in &mut one.cpus {
        place.cache = cpu / 4 * 4;
    }
    let aligned = Options { prefer_align_by_uncore_cache: true, ..Default::default() };
    for (free, count, packed, wanted) in [
        ("0-7", 4, "0-3", "0-3"),
        ("1-7", 4, "1-4", "4-7"),
        ("1-7", 3, "1-3", "1-3"),
        ("1-2,4-7", 3, "1-2,4", "4-6"),
    ] {
        assert_eq!(take(&one, &set(free), count, Options::default()), Ok(set(packed)), "{count} of {free}");
        assert_eq!(take(&one, &set(free), count, aligned), Ok(set(wanted)), "{count} of {free}");
    }
}

#[test]
fn only_whole_numbers_of_guaranteed_pods_count() {
    let mut pool = pool(machine(1, 1, 4, 1), "0", Options::default());
    assert_eq!(give(&mut pool, &asking("half", "c=1500m"), "c", None), Ok(set("0-3")));
    let burstable: Pod = serde_json::from_value(json!({"metadata": {"uid": "b"}, "spec": {"containers":
        [{"name": "c", "resources": {"requests": {"cpu": "2", "memory": "1Gi"}}}]}}))
    .unwrap();
    assert_eq!(give(&mut pool, &burstable, "c", None), Ok(set("0-3")));
    assert_eq!(give(&mut pool, &asking("two", "c=2"), "c", None), Ok(set("1-2")));
    assert_eq!(pool.cpus("half", "c"), set("0,3"), "the others share the rest");
    let refused = give(&mut pool, &asking("more", "c=2"), "c", None).unwrap_err();
    assert_eq!(refused.1, "not enough cpus available to satisfy request: requested=2, available=1");
    assert!(pool.release("two") && !pool.release("two"));
    assert_eq!(pool.shared(), set("0-3"));
}

#[test]
fn init_containers_pass_their_processors_on() {
    let mut pool = pool(machine(1, 1, 8, 1), "0", Options::default());
    let of = asking("u", "~first=3 &side=1 main=3");
    assert_eq!(give(&mut pool, &of, "first", None), Ok(set("1-3")));
    assert_eq!(give(&mut pool, &of, "side", None), Ok(set("1")));
    assert_eq!(give(&mut pool, &of, "main", None), Ok(set("2-4")));
    assert_eq!(pool.shared(), set("0,5-7"));
}

#[test]
fn whole_cores_only() {
    let whole = Options { full_physical_only: true, ..Default::default() };
    let mut pool = pool(machine(1, 1, 4, 2), "0", whole);
    let odd = give(&mut pool, &asking("odd", "c=3"), "c", None).unwrap_err();
    assert_eq!(
        odd,
        (
            "SMTAlignmentError".into(),
            "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2".into()
        )
    );
    assert_eq!(give(&mut pool, &asking("a", "c=4"), "c", None), Ok(set("1-2,5-6")));
    let full = give(&mut pool, &asking("b", "c=4"), "c", None).unwrap_err();
    assert_eq!(
        full.1,
        "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 2, requested CPUs = 4, CPUs per core = 2"
    );
}

#[test]
fn the_affinity_is_followed_as_far_as_it_goes() {
    let mut pool = pool(machine(2, 1, 4, 1), "0", Options::default());
    assert_eq!(give(&mut pool, &asking("a", "c=2"), "c", Some(mask(&[1]))), Ok(set("4-5")));
    assert_eq!(give(&mut pool, &asking("b", "c=3"), "c", Some(mask(&[1]))), Ok(set("1,6-7")));
    let hint = |nodes: &[usize], preferred| Hint { nodes: Some(mask(nodes)), preferred };
    let hints = |of: &Pod| pool.hints(of, &pod::containers(of)[0]).remove("cpu");
    assert_eq!(hints(&asking("c", "c=2")), Some(Some(vec![hint(&[0], true), hint(&[0, 1], false)])));
    assert_eq!(hints(&asking("c", "c=5")), Some(Some(vec![])), "more than is free");
    assert_eq!(hints(&asking("c", "c=500m")), None);
    assert_eq!(hints(&asking("a", "c=2")), Some(Some(vec![hint(&[1], true), hint(&[0, 1], false)])));
    assert_eq!(hints(&asking("a", "c=1")), Some(Some(vec![])), "it has another number");
    let of_pod = pool.pod_hints(&asking("c", "x=1 y=1 ~z=1")).remove("cpu");
    assert_eq!(of_pod, Some(Some(vec![hint(&[0], true), hint(&[0, 1], false)])));
}

#[test]
fn a_state_that_cannot_be_is_refused() {
    let hardware = machine(1, 1, 4, 1);
    let fresh = || pool(hardware.clone(), "0", Options::default());
    let kept = |default: &str, entries: &[(&str, &str, &str)]| {
        let mut kept =
            Kept { policy_name: "static".into(), default_cpu_set: set(default), entries: Default::default() };
        for (uid, name, cpus) in entries {
            kept.entries.entry((*uid).to_owned()).or_default().insert((*name).to_owned(), set(cpus));
        }
        kept
    };
    for (state, fault) in [
        (kept("0-3", &[]), ""),
        (kept("0,3", &[("a", "c", "1-2")]), ""),
        (kept("0,3", &[("a", "init", "1-2"), ("a", "c", "1")]), ""),
        (
            kept("1-3", &[("a", "c", "0")]),
            "not all reserved cpus: \"0\" are present in defaultCpuSet: \"1-3\"",
        ),
        (
            kept("0-3", &[("a", "c", "1")]),
            "pod: a, container: c cpuset: \"1\" overlaps with default cpuset \"0-3\"",
        ),
        (
            kept("0,3", &[("a", "c", "1-2"), ("b", "c", "2")]),
            "pod: b cpuset: \"2\" overlaps with that of another pod",
        ),
        (kept("0-5", &[]), "current set of available CPUs \"0-3\" doesn't match with CPUs in state \"0-5\""),
        (kept("0-1", &[]), "current set of available CPUs \"0-3\" doesn't match with CPUs in state \"0-1\""),
    ] {
        let outcome = fresh().recall(state.clone());
        assert_eq!(outcome.err().unwrap_or_default(), fault, "{state:?}");
    }
    // What one kubelet keeps, the next takes over; also where nobody runs on what is reserved.
    for options in [Options::default(), Options { strict_reservation: true, ..Default::default() }] {
        let mut before = pool(hardware.clone(), "0", options);
        give(&mut before, &asking("a", "~i=2 c=1"), "i", None).unwrap();
        give(&mut before, &asking("a", "~i=2 c=1"), "c", None).unwrap();
        let text = serde_json::to_string(&before.kept()).unwrap();
        let mut after = pool(hardware.clone(), "0", options);
        after.recall(serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!((after.kept(), after.shared().has(0)), (before.kept(), !options.strict_reservation));
    }
}
