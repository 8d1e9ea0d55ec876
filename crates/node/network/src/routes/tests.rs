//! Plans as tables, and the kernel in a namespace of our own.

use serde_json::json;

use super::*;

fn node(name: &str, cidr: &str, address: &str) -> (String, NodeFacts) {
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}]},
    }))
    .unwrap();
    (name.to_owned(), NodeFacts::of(&node))
}

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

#[test]
fn every_other_node_gets_a_route() {
    let new = ("new".to_owned(), NodeFacts::of(&Node::default()));
    let nodes = [node("a", "10.244.0.0/24", "192.0.2.1"), node("b", "10.244.1.0/24", "192.0.2.2"), new];
    let nodes = BTreeMap::from(nodes);
    let found = plan(&nodes, "a", None);
    assert_eq!(found.routes, Routes::from([(cidr("10.244.1.0/24"), Ipv4Addr::new(192, 0, 2, 2))]));
    assert_eq!(found.pods, BTreeSet::from([cidr("10.244.0.0/24"), cidr("10.244.1.0/24")]));
    assert!(found.faults.is_empty());
    assert_eq!(plan(&nodes, "a", Some(cidr("10.244.0.0/16"))).pods, BTreeSet::from([cidr("10.244.0.0/16")]));
}

#[test]
fn a_node_cannot_draw_traffic_that_is_not_its_own() {
    let own = node("a", "10.244.0.0/24", "192.0.2.1");
    for (other, text) in [
        (node("b", "10.244.0.128/25", "192.0.2.2"), "which is another's"),
        (node("b", "10.244.1.0/24", "127.0.0.1"), "InternalIP 127.0.0.1"),
        (node("b", "10.244.1.0/24", "0.0.0.0"), "InternalIP 0.0.0.0"),
        (node("b", "10.244.1.0/24", "10.244.1.7"), "InternalIP 10.244.1.7"),
        (node("b", "10.244.1.0/24", "fd00::1"), "no InternalIP of IPv4"),
    ] {
        let found = plan(&BTreeMap::from([own.clone(), other]), "a", None);
        assert!(found.routes.is_empty(), "{found:?}");
        assert!(found.faults.len() == 1 && found.faults[0].contains(text), "{:?}", found.faults);
    }
    let (b, c) = (node("b", "10.244.1.0/24", "192.0.2.2"), node("c", "10.244.1.0/24", "192.0.2.3"));
    let found = plan(&BTreeMap::from([own, c, b]), "a", None);
    assert_eq!(found.routes[&cidr("10.244.1.0/24")], Ipv4Addr::new(192, 0, 2, 2));
    assert_eq!(found.faults.len(), 1);
}

#[test]
fn what_is_no_longer_wanted_goes_first() {
    let (a, b) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
    let installed = Routes::from([(cidr("10.1.0.0/24"), a), (cidr("10.2.0.0/24"), a)]);
    let wanted = Routes::from([(cidr("10.2.0.0/24"), b), (cidr("10.3.0.0/24"), b)]);
    assert_eq!(
        changes(&installed, &wanted),
        [
            Change::Remove(cidr("10.1.0.0/24"), a),
            Change::Set(cidr("10.2.0.0/24"), b),
            Change::Set(cidr("10.3.0.0/24"), b)
        ]
    );
}

/// In a namespace of our own: routes appear, move and go, and one that cannot be is told.
#[test]
fn the_kernel_follows() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root for a network namespace");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("network/routes");
    let ip = |arguments: &str| {
        let done = std::process::Command::new("ip").args(arguments.split(' ')).output().unwrap();
        assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    std::thread::scope(|scope| {
        let work = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            ip("link add va type veth peer name vb");
            ip("addr add 192.0.2.1/24 dev va");
            ip("link set va up");
            ip("link set vb up");
            let (one, two) = (Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(192, 0, 2, 3));
            let wanted = Routes::from([(cidr("10.1.0.0/24"), one), (cidr("10.2.0.0/24"), one)]);
            assert!(install(&file, &wanted).unwrap().is_empty());
            assert!(ip("route show 10.1.0.0/24").contains("via 192.0.2.2 dev va"));
            let wanted = Routes::from([(cidr("10.2.0.0/24"), two)]);
            assert!(install(&file, &wanted).unwrap().is_empty());
            assert_eq!(ip("route show 10.1.0.0/24"), "");
            assert!(ip("route show 10.2.0.0/24").contains("via 192.0.2.3 dev va"));
            assert_eq!(ip("route show 10.2.0.0/24").lines().count(), 1);
            let far = Routes::from([(cidr("10.4.0.0/24"), Ipv4Addr::new(198, 51, 100, 1))]);
            let faults = install(&file, &far).unwrap();
            assert!(faults.len() == 1 && faults[0].contains("10.4.0.0/24 by 198.51.100.1"), "{faults:?}");
            assert!(install(&file, &Routes::new()).unwrap().is_empty());
            assert_eq!(std::fs::read_to_string(&file).unwrap(), "");
        };
        scope.spawn(work).join().unwrap();
    });
}
