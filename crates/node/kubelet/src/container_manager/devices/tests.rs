//! Tables of which device a container gets, and what happens to devices whose plugin goes.

use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::{
    super::numa::{Hint, NodeMask, mask},
    pool::{Device, Granted, Ids, Kept, Plan, Pool, STOP_GRACE},
};
use crate::pod;

const RESOURCE: &str = "example.com/gpu";

/// Devices as `id`, `id!` for an unhealthy one, `id@node` for one near a NUMA node.
fn devices(list: &str) -> std::collections::BTreeMap<String, Device> {
    list.split_whitespace()
        .map(|text| {
            let (text, healthy) = text.strip_suffix('!').map_or((text, true), |text| (text, false));
            let (id, node) = text.split_once('@').map_or((text, None), |(id, node)| (id, node.parse().ok()));
            (id.to_owned(), Device { healthy, nodes: node.into_iter().collect() })
        })
        .collect()
}

/// Containers as `name=count`; `~` before the name makes it an init container, `&` a sidecar.
fn asking(uid: &str, list: &str) -> Pod {
    let (mut inits, mut regular) = (Vec::new(), Vec::new());
    for text in list.split_whitespace() {
        let (name, count) = text.split_once('=').unwrap();
        let resources = json!({"limits": {RESOURCE: count, "cpu": "1", "other.com/x": "1"}});
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

fn ids(list: &str) -> Ids {
    list.split_whitespace().map(str::to_owned).collect()
}

/// What the container would get with this wish of the plugin, or why it gets nothing.
fn planned(
    pool: &Pool,
    pod: &Pod,
    name: &str,
    affinity: Option<NodeMask>,
    wish: &str,
) -> Result<Ids, String> {
    let (_, container) = pod::find_container(pod, name).unwrap();
    let [(resource, count)] = &pool.wanted(&container)[..] else { panic!("one resource of ours") };
    Ok(match pool.plan(pod, name, resource, *count, affinity)? {
        Plan::Nothing => Ids::new(),
        Plan::Take(ids) => ids,
        Plan::Ask(question) => question.settle(&ids(wish)),
    })
}

fn give(pool: &mut Pool, pod: &Pod, name: &str) -> Ids {
    let got = planned(pool, pod, name, None, "").unwrap();
    let devices = pool.located(RESOURCE, got.clone());
    pool.give(pod::uid(pod), name, RESOURCE, Granted { devices, ..Default::default() });
    got
}

fn pool(list: &str) -> Pool {
    let mut pool = Pool::default();
    pool.update(RESOURCE, devices(list));
    pool
}

#[test]
fn healthy_free_devices_are_given() {
    let mut pool = pool("a b! c d");
    assert_eq!(give(&mut pool, &asking("u1", "c=1"), "c"), ids("a"));
    let two = asking("u2", "c=2");
    assert_eq!(planned(&pool, &two, "c", None, ""), Ok(ids("c d")));
    let one = asking("u3", "c=1");
    assert_eq!(planned(&pool, &one, "c", None, "d"), Ok(ids("d")), "the plugin's wish");
    assert_eq!(planned(&pool, &one, "c", None, "a b x"), Ok(ids("c")), "a wish for what is not free");
    let refused = planned(&pool, &asking("u4", "c=3"), "c", None, "").unwrap_err();
    assert_eq!(
        refused,
        "requested number of devices unavailable for example.com/gpu. Requested: 3, Available: 2"
    );
    assert!(pool.release("u1"));
    assert!(!pool.release("u1"));
    assert_eq!(planned(&pool, &asking("u4", "c=3"), "c", None, ""), Ok(ids("a c d")));
}

#[test]
fn refusals_say_why() {
    let pod = asking("u1", "c=1");
    let mut pool = pool("a");
    give(&mut pool, &pod, "c");
    assert_eq!(planned(&pool, &pod, "c", None, ""), Ok(Ids::new()), "it has its device");
    let more = planned(&pool, &asking("u1", "c=2"), "c", None, "").unwrap_err();
    assert_eq!(
        more,
        "pod \"u1\" container \"c\" changed request for resource \"example.com/gpu\" from 1 to 2"
    );
    pool.update(RESOURCE, devices("a! b"));
    let ill = planned(&pool, &pod, "c", None, "").unwrap_err();
    assert_eq!(
        ill,
        "previously allocated devices are no longer healthy; cannot allocate unhealthy devices example.com/gpu"
    );
    pool.update(RESOURCE, devices("a! b!"));
    let none = planned(&pool, &asking("u2", "c=1"), "c", None, "").unwrap_err();
    assert_eq!(none, "no healthy devices present; cannot allocate unhealthy devices example.com/gpu");
    let kept =
        Pool::recalled(Kept { resources: Default::default(), ..pool.kept(Instant::now()) }, Instant::now());
    let unknown = planned(&kept, &asking("u2", "c=1"), "c", None, "").unwrap_err();
    assert_eq!(unknown, "cannot allocate unregistered device example.com/gpu");
}

#[test]
fn init_containers_pass_their_devices_on_and_sidecars_keep_them() {
    let mut pool = pool("a b c d");
    let pod = asking("u", "~first=2 ~second=1 &side=1 main=2 last=1");
    assert_eq!(give(&mut pool, &pod, "first"), ids("a b"));
    assert_eq!(give(&mut pool, &pod, "second"), ids("a"));
    assert_eq!(give(&mut pool, &pod, "side"), ids("a"));
    assert_eq!(give(&mut pool, &pod, "main"), ids("b c"));
    assert_eq!(give(&mut pool, &pod, "last"), ids("d"));
    let refused = planned(&pool, &asking("v", "c=1"), "c", None, "").unwrap_err();
    assert!(refused.ends_with("Requested: 1, Available: 0"), "{refused}");
}

#[test]
fn devices_near_the_affinity_come_first() {
    let pool = pool("a@0 b@0 c@1 d@1 e");
    for (count, affinity, wish, want) in [
        (1, mask(&[1]), "", "c"),
        (1, mask(&[1]), "d a", "d"),
        (2, mask(&[1]), "a", "c d"),
        (3, mask(&[1]), "", "a c d"),
        (3, mask(&[1]), "e", "c d e"),
        (5, mask(&[0]), "", "a b c d e"),
        (1, mask(&[0, 1]), "c", "c"),
    ] {
        let pod = asking("u", &format!("c={count}"));
        assert_eq!(
            planned(&pool, &pod, "c", Some(affinity), wish),
            Ok(ids(want)),
            "{count} {affinity:?} {wish}"
        );
    }
}

#[test]
fn hints() {
    let machine = mask(&[0, 1]);
    let hints = |pool: &Pool, count: usize| {
        let pod = asking("u", &format!("c={count}"));
        pool.hints(&pod, &pod::containers(&pod)[0], machine)[RESOURCE].clone()
    };
    let hint = |nodes: &[usize], preferred| Hint { nodes: Some(mask(nodes)), preferred };
    let mut near = pool("a@0 b@1 c@1");
    assert_eq!(hints(&near, 1), Some(vec![hint(&[0], true), hint(&[1], true), hint(&[0, 1], false)]));
    assert_eq!(hints(&near, 2), Some(vec![hint(&[1], true), hint(&[0, 1], false)]));
    assert_eq!(hints(&near, 3), Some(vec![hint(&[0, 1], true)]));
    assert_eq!(hints(&near, 4), Some(vec![]), "there are not as many");
    assert_eq!(hints(&pool("a b"), 1), None, "they are nowhere");
    give(&mut near, &asking("u", "c=1"), "c");
    assert_eq!(hints(&near, 1), Some(vec![hint(&[0], true), hint(&[0, 1], false)]), "where it has them");
    assert_eq!(hints(&near, 2), Some(vec![]), "it has another number");
}

#[test]
fn a_plugin_that_is_gone_takes_its_devices_along() {
    let mut pool = pool("a b!");
    let start = Instant::now();
    let counts = |pool: &Pool, at| pool.capacity(at)[RESOURCE];
    assert_eq!(counts(&pool, start), (2, 1));
    give(&mut pool, &asking("u", "c=1"), "c");
    let told: Vec<String> = pool.stop(RESOURCE, start).into_iter().collect();
    assert_eq!(told, ["u"]);
    assert!(!pool.is_healthy(RESOURCE, "a"));
    assert_eq!(counts(&pool, start), (2, 0), "they are still there, but not well");
    assert_eq!(pool.next_expiry(start), Some(start + STOP_GRACE));
    let later = start + STOP_GRACE * 2;
    assert_eq!((counts(&pool, later), pool.next_expiry(later)), ((0, 0), None));
    assert!(pool.kept(later).resources.is_empty());
    // It comes back, and so do they: one is well that was not.
    assert!(pool.update(RESOURCE, devices("a b")).contains("u"));
    assert_eq!(counts(&pool, later), (2, 2));
    assert!(pool.update(RESOURCE, devices("a b!")).is_empty(), "nobody has b");
}

#[test]
fn what_was_given_outlives_the_kubelet() {
    let mut pool = pool("a b");
    let pod = asking("u", "c=1");
    give(&mut pool, &pod, "c");
    let now = Instant::now();
    let text = serde_json::to_string(&pool.kept(now)).unwrap();
    let mut again = Pool::recalled(serde_json::from_str(&text).unwrap(), now);
    assert_eq!(again.capacity(now)[RESOURCE], (0, 0), "until the plugin is back");
    assert!(again.is_healthy(RESOURCE, "a"));
    again.update(RESOURCE, devices("a b"));
    assert_eq!(again.grants("u", "c"), pool.grants("u", "c"));
    assert_eq!(planned(&again, &asking("v", "c=1"), "c", None, ""), Ok(ids("b")));
    assert!(again.retain(&|uid| uid != "u"));
    assert_eq!(planned(&again, &asking("v", "c=2"), "c", None, ""), Ok(ids("a b")));
}
