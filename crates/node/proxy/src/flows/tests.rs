//! Which flows are stale, by case; and a flow that moves, in the kernel.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use podium_network::netlink::Netlink;
use podium_network::nft;

use super::*;
use crate::plan::Backend;
use crate::rules;
use crate::shell::forget_stale;
use crate::state::State;

const SERVICE: &str = "10.96.0.7:53";

/// DNS at 10.96.0.7:53, 192.0.2.10:53 and node port 30053, with endpoints 10.244.0.N:3000.
fn dns(serving: &[u8]) -> PortPlan {
    let backends: Vec<Backend> =
        serving.iter().map(|n| Backend { address: Ipv4Addr::new(10, 244, 0, *n), port: 3000 }).collect();
    PortPlan {
        protocol: Protocol::Udp,
        port: 53,
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 7)],
        external_ips: vec![Ipv4Addr::new(192, 0, 2, 10)],
        node_port: Some(30053),
        internal: backends.clone(),
        external: backends.clone(),
        serving: backends,
        preserve_client: false,
        affinity_seconds: None,
    }
}

fn serving(ports: &[PortPlan]) -> Serving {
    let mut flows = Flows::default();
    flows.update("n/dns", ports);
    flows.take().unwrap()
}

#[test]
fn flows_to_a_service_must_go_where_it_is_served() {
    #[track_caller]
    fn check(name: &str, ports: &[PortPlan], destination: &str, reply_source: &str, stale: bool) {
        let flow = Flow {
            source: "10.244.0.9:5000".parse().unwrap(),
            destination: destination.parse().unwrap(),
            reply_source: reply_source.parse().unwrap(),
            id: 1,
        };
        let own = BTreeSet::from([Ipv4Addr::new(198, 51, 100, 1)]);
        let found = serving(ports).stale(&[flow], &own).len();
        assert_eq!(found == 1, stale, "{name}");
    }
    let one = &[dns(&[2])][..];
    check("served", one, "10.96.0.7:53", "10.244.0.2:3000", false);
    check("endpoint gone", one, "10.96.0.7:53", "10.244.0.3:3000", true);
    check("endpoint's port changed", one, "10.96.0.7:53", "10.244.0.2:3001", true);
    check("begun before the rules", one, "10.96.0.7:53", "10.96.0.7:53", true);
    check("external address, served", one, "192.0.2.10:53", "10.244.0.2:3000", false);
    check("external address, endpoint gone", one, "192.0.2.10:53", "10.244.0.3:3000", true);
    check("node port, served", one, "198.51.100.1:30053", "10.244.0.2:3000", false);
    check("node port, endpoint gone", one, "198.51.100.1:30053", "10.244.0.3:3000", true);
    check("node port, begun before the rules", one, "198.51.100.1:30053", "198.51.100.1:30053", true);
    check("another host's port of that number", one, "203.0.113.1:30053", "203.0.113.1:30053", false);
    check("another port of the address", one, "10.96.0.7:54", "10.244.0.3:3000", false);
    check("straight to a pod", one, "10.244.0.3:3000", "10.244.0.3:3000", false);
    check("nobody serves", &[dns(&[])], "10.96.0.7:53", "10.244.0.3:3000", false);
    let draining = &[PortPlan { internal: dns(&[2]).internal, ..dns(&[2, 3]) }];
    check("serves, but gets no new flows", draining, "10.96.0.7:53", "10.244.0.3:3000", false);
    let shared = &[dns(&[2]), dns(&[3])];
    check("an address of two services", shared, "192.0.2.10:53", "10.244.0.3:3000", false);
}

#[test]
fn only_changes_of_udp_ports_call_for_a_look() {
    let tcp = |serving: &[u8]| PortPlan { protocol: Protocol::Tcp, ..dns(serving) };
    let mut flows = Flows::default();
    assert_eq!(flows.take(), None, "nothing yet");
    flows.update("n/dns", &[tcp(&[2])]);
    assert_eq!(flows.take(), None, "tcp clients notice by themselves");
    flows.update("n/dns", &[dns(&[2]), tcp(&[2])]);
    assert!(flows.take().is_some());
    flows.update("n/dns", &[dns(&[2]), tcp(&[2, 3])]);
    assert_eq!(flows.take(), None, "the udp port is as it was");
    flows.update("n/dns", &[dns(&[3]), tcp(&[3])]);
    assert!(flows.take().is_some());
    assert_eq!(flows.take(), None, "once");
    flows.mark();
    assert!(flows.take().is_some(), "again after a failure");
    flows.update("n/dns", &[]);
    assert_eq!(flows.take(), Some(Serving::default()));
    flows.update("n/dns", &[]);
    assert_eq!(flows.take(), None);
}

#[test]
fn node_ports_answer_where_the_rules_let_them() {
    let local: BTreeSet<Ipv4Addr> =
        ["127.0.0.1", "192.0.2.1", "198.51.100.1"].map(|a| a.parse().unwrap()).into();
    let text = |within: &[Cidr]| {
        let found = node_port_addresses(local.clone(), within);
        found.iter().map(Ipv4Addr::to_string).collect::<Vec<_>>()
    };
    assert_eq!(text(&[]), ["192.0.2.1", "198.51.100.1"]);
    assert_eq!(text(&["192.0.2.0/24".parse().unwrap()]), ["192.0.2.1"]);
}

/// In a namespace of our own, with pods' addresses on its loopback: clients that keep their port are served by the new
/// endpoint when the old one goes, and so is one that asked before there was a Service.
#[test]
fn the_kernel_moves_a_flow_to_the_new_endpoint() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root for a network namespace");
        return;
    }
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                move_a_flow();
            })
            .join()
            .unwrap();
    });
}

fn move_a_flow() {
    let pod = |n| Ipv4Addr::new(10, 244, 0, n);
    let mut netlink = Netlink::open().unwrap();
    let loopback = netlink.index_of("lo").unwrap().unwrap();
    netlink.set_up(loopback).unwrap();
    for n in [2, 3, 9, 10] {
        netlink.add_address(loopback, pod(n), 32).unwrap();
    }
    netlink.add_route(Some((Ipv4Addr::new(10, 96, 0, 7), 32)), None, loopback, None).unwrap();
    let old = UdpSocket::bind((pod(2), 3000)).unwrap();
    let new = UdpSocket::bind((pod(3), 3000)).unwrap();
    let client = UdpSocket::bind((pod(9), 5000)).unwrap();
    let early = UdpSocket::bind((pod(10), 5000)).unwrap();

    let mut state = State::new("podium-test");
    let mut flows = Flows::default();
    nft::apply(&rules::frame("podium-test", &rules::Frame::default())).unwrap();
    // A first packet that meets no rule is remembered as going nowhere.
    ask(&early, "early");
    let mut serve = |endpoints: &[u8]| {
        let ports = [dns(endpoints)];
        state.update("n/dns", rules::service("dns", &ports));
        flows.update("n/dns", &ports);
        nft::apply(&state.take()).unwrap();
        flows.take().unwrap()
    };

    let with_old = serve(&[2]);
    // Now it is refused even, as a packet to a port that the Service has not; its sender may be told.
    let _ = early.send_to(b"early again", SERVICE);
    assert!(!heard_within(&old, "early again", Duration::from_millis(500)), "the test would prove nothing");
    assert_eq!(forget_stale(&with_old, &[]).unwrap(), 1);
    ask(&early, "early at last");
    assert!(heard(&old, "early at last"));
    ask(&client, "one");
    assert!(heard(&old, "one"));
    assert_eq!(forget_stale(&with_old, &[]).unwrap(), 0, "what is served stays");

    let with_new = serve(&[3]);
    ask(&client, "two");
    assert!(heard(&old, "two"), "the test would prove nothing");
    assert_eq!(forget_stale(&with_new, &[]).unwrap(), 2);
    for (socket, text) in [(&client, "three"), (&early, "three, early")] {
        ask(socket, text);
        assert!(heard(&new, text));
    }
}

/// Sends to the Service's address.
fn ask(client: &UdpSocket, text: &str) {
    client.send_to(text.as_bytes(), SERVICE).unwrap();
}

/// Whether the server gets exactly this next. Over loopback a packet is there when the call that sent it returns, or
/// when a loaded machine's ksoftirqd had its turn; the limit is only waited out where nothing comes.
fn heard(server: &UdpSocket, text: &str) -> bool {
    heard_within(server, text, Duration::from_secs(20))
}

fn heard_within(server: &UdpSocket, text: &str, limit: Duration) -> bool {
    server.set_read_timeout(Some(limit)).unwrap();
    let mut buffer = [0; 64];
    match server.recv(&mut buffer) {
        Ok(size) => {
            assert_eq!(String::from_utf8_lossy(&buffer[..size]), text);
            true
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
        Err(error) => panic!("receive: {error}"),
    }
}
