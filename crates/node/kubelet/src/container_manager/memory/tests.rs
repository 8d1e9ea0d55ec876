//! Tables of which nodes promise memory to whom.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::{
    super::{
        hardware::tests::machine,
        numa::{Hint, NodeMask, mask},
    },
    Pool,
    pool::{Block, Kept},
};
use crate::pod;

/// Containers as `name=GiB`; `~` before the name makes it an init container.
fn asking(uid: &str, list: &str) -> Pod {
    let (mut inits, mut regular) = (Vec::new(), Vec::new());
    for text in list.split_whitespace() {
        let (name, memory) = text.split_once('=').unwrap();
        let resources = json!({"limits": {"cpu": "1", "memory": format!("{memory}Gi")}});
        match name.strip_prefix('~') {
            Some(name) => inits.push(json!({"name": name, "resources": resources})),
            None => regular.push(json!({"name": name, "resources": resources})),
        }
    }
    serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid},
        "spec": {"initContainers": inits, "containers": regular}}))
    .unwrap()
}

/// Two nodes of 8 GiB, of which the first keeps one back.
fn pool() -> Pool {
    let reserved = BTreeMap::from([(0, BTreeMap::from([("memory".to_owned(), 1 << 30)]))]);
    Pool::new(&machine(2, 1, 2, 1).memory, &reserved).unwrap()
}

fn give(pool: &mut Pool, of: &Pod, name: &str, affinity: Option<NodeMask>) -> Result<NodeMask, String> {
    let (_, container) = pod::find_container(of, name).unwrap();
    pool.allocate(of, &container, affinity)?;
    Ok(pool.entry(pod::uid(of), name).map(|blocks| blocks[0].nodes).unwrap_or_default())
}

#[test]
fn the_fewest_nodes_that_have_room() {
    let mut pool = pool();
    assert_eq!(give(&mut pool, &asking("a", "c=7"), "c", None), Ok(mask(&[0])));
    assert_eq!(give(&mut pool, &asking("b", "c=7"), "c", None), Ok(mask(&[1])));
    let full = give(&mut pool, &asking("c", "c=2"), "c", None).unwrap_err();
    assert_eq!(
        full,
        "[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available"
    );
    assert_eq!(give(&mut pool, &asking("c", "c=1"), "c", None), Ok(mask(&[1])));
    assert!(pool.release("a") && !pool.release("a"));
    assert_eq!(give(&mut pool, &asking("d", "c=7"), "c", None), Ok(mask(&[0])));
}

#[test]
fn a_node_serves_one_group_at_a_time() {
    let mut pool = pool();
    assert_eq!(give(&mut pool, &asking("a", "c=10"), "c", None), Ok(mask(&[0, 1])));
    // The rest of both is only for those that take from both.
    let small = asking("b", "c=1");
    let refused = give(&mut pool, &small, "c", Some(mask(&[1]))).unwrap_err();
    assert_eq!(refused, "[memorymanager] preferred hint violates NUMA node allocation");
    assert_eq!(give(&mut pool, &small, "c", None), Ok(mask(&[0, 1])));
    pool.release("a");
    pool.release("b");
    assert_eq!(give(&mut pool, &asking("c", "c=1"), "c", Some(mask(&[1]))), Ok(mask(&[1])));
    let wide = give(&mut pool, &asking("d", "c=9"), "c", None).unwrap_err();
    assert!(wide.contains("failed to get the default NUMA affinity"), "{wide}");
}

#[test]
fn an_affinity_that_is_too_small_is_extended() {
    let mut pool = pool();
    assert_eq!(give(&mut pool, &asking("a", "c=10"), "c", Some(mask(&[1]))), Ok(mask(&[0, 1])));
    let refused = give(&mut pool, &asking("b", "c=10"), "c", Some(mask(&[1]))).unwrap_err();
    assert_eq!(refused, "[memorymanager] failed to find NUMA nodes to extend the current topology hint");
}

#[test]
fn init_containers_leave_their_memory() {
    let mut pool = pool();
    let of = asking("a", "~i=6 x=4 y=3");
    for name in ["i", "x", "y"] {
        assert_eq!(give(&mut pool, &of, name, None), Ok(mask(&[0])), "{name}");
    }
    let one = asking("b", "c=1");
    assert_eq!(give(&mut pool, &one, "c", None), Ok(mask(&[1])), "the first node is full: 7 of 7 GiB");
}

#[test]
fn hints() {
    let mut pool = pool();
    let hint = |nodes: &[usize], preferred| Hint { nodes: Some(mask(nodes)), preferred };
    let of = |pool: &Pool, of: &Pod| pool.hints(of, &pod::containers(of)[0]).remove("memory");
    let any = vec![hint(&[0], true), hint(&[1], true), hint(&[0, 1], false)];
    assert_eq!(of(&pool, &asking("a", "c=2")), Some(Some(any)));
    assert_eq!(of(&pool, &asking("a", "c=8")), Some(Some(vec![hint(&[1], true), hint(&[0, 1], false)])));
    assert_eq!(of(&pool, &asking("a", "c=9")), Some(Some(vec![hint(&[0, 1], true)])));
    assert_eq!(of(&pool, &asking("a", "c=16")), Some(Some(vec![])));
    give(&mut pool, &asking("a", "c=4"), "c", None).unwrap();
    assert_eq!(of(&pool, &asking("a", "c=4")), Some(Some(vec![hint(&[0], true)])), "where it is");
    assert_eq!(of(&pool, &asking("a", "c=5")), Some(Some(vec![])), "it has another amount");
    assert_eq!(
        of(&pool, &asking("b", "c=8")),
        Some(Some(vec![hint(&[1], true)])),
        "the first node serves alone"
    );
    let of_pod = pool.pod_hints(&asking("c", "x=4 y=4")).remove("memory");
    assert_eq!(of_pod, Some(Some(vec![hint(&[1], true)])));
    let burstable: Pod = serde_json::from_value(json!({"metadata": {"uid": "b"}, "spec": {"containers":
        [{"name": "c", "resources": {"requests": {"memory": "1Gi"}}}]}}))
    .unwrap();
    assert_eq!(of(&pool, &burstable), None);
}

#[test]
fn a_state_that_cannot_be_is_refused() {
    let mut before = pool();
    give(&mut before, &asking("a", "c=4"), "c", None).unwrap();
    give(&mut before, &asking("b", "c=4"), "c", Some(mask(&[1]))).unwrap();
    let kept = before.kept();
    let text = serde_json::to_string(&kept).unwrap();
    let mut after = pool();
    after.recall(serde_json::from_str(&text).unwrap()).unwrap();
    assert_eq!(after.kept(), kept);
    let with = |change: &dyn Fn(&mut Block)| {
        let mut kept: Kept = serde_json::from_str(&text).unwrap();
        kept.entries.get_mut("a").unwrap().get_mut("c").unwrap().iter_mut().for_each(change);
        pool().recall(kept).unwrap_err()
    };
    let nowhere = "[memorymanager] the memory assignment uses the NUMA that does not exist";
    let other = "[memorymanager] the expected machine state is different from the real one";
    assert_eq!(with(&|block| block.nodes = mask(&[2])), nowhere);
    assert_eq!(with(&|block| block.nodes = NodeMask::default()), nowhere);
    assert_eq!(with(&|block| block.nodes = mask(&[0, 1])), other);
    // The first node no longer has as much.
    let reserved = BTreeMap::from([(0, BTreeMap::from([("memory".to_owned(), 5 << 30)]))]);
    let mut smaller = Pool::new(&machine(2, 1, 2, 1).memory, &reserved).unwrap();
    assert_eq!(smaller.recall(kept).unwrap_err(), other);
}
