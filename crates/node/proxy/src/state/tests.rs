//! Transactions as text, and the same transactions given to the kernel.

use std::net::Ipv4Addr;

use super::*;
use crate::plan::{Backend, PortPlan, Protocol};
use crate::rules;

fn port(backends: &[u8]) -> PortPlan {
    let backends: Vec<Backend> =
        backends.iter().map(|n| Backend { address: Ipv4Addr::new(10, 244, 0, *n), port: 3000 }).collect();
    PortPlan {
        protocol: Protocol::Tcp,
        port: 80,
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 7)],
        external_ips: Vec::new(),
        node_port: None,
        internal: backends.clone(),
        external: backends.clone(),
        serving: backends,
        preserve_client: false,
        affinity_seconds: None,
    }
}

#[test]
fn a_change_of_endpoints_rewrites_only_that_service() {
    let mut state = State::new("t");
    state.update("n/web", rules::service("web", &[port(&[2])]));
    assert_eq!(
        state.take(),
        "add chain ip t pick-1\n\
         add rule ip t pick-1 meta mark set 0\n\
         add rule ip t pick-1 dnat ip to ip daddr . meta l4proto . th dport . meta mark map @endpoints\n\
         add element ip t cluster-ips { 10.96.0.7 }\n\
         add element ip t endpoints { 10.96.0.7 . tcp . 80 . 0x0 : 10.244.0.2 . 3000 }\n\
         add element ip t hairpin { 10.244.0.2 . 10.244.0.2 }\n\
         add element ip t services { 10.96.0.7 . tcp . 80 : goto pick-1 }\n"
    );
    state.update(
        "n/other",
        rules::service("other", &[PortPlan { cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 8)], ..port(&[2]) }]),
    );
    let _ = state.take();
    state.update("n/web", rules::service("web", &[port(&[2])]));
    assert_eq!(state.take(), "", "nothing changed");
    state.update("n/web", rules::service("web", &[]));
    assert_eq!(
        state.take(),
        "delete element ip t cluster-ips { 10.96.0.7 }\n\
         delete element ip t endpoints { 10.96.0.7 . tcp . 80 . 0x0 }\n\
         delete element ip t services { 10.96.0.7 . tcp . 80 }\n",
        "the hairpin element is still held by the other service"
    );
    assert_eq!(state.services().collect::<Vec<_>>(), ["n/other"]);
}

#[test]
fn without_endpoints_connections_are_refused() {
    let mut state = State::new("t");
    state.update("n/web", rules::service("web", &[PortPlan { node_port: Some(30080), ..port(&[]) }]));
    assert_eq!(
        state.take(),
        "add element ip t cluster-ips { 10.96.0.7 }\n\
         add element ip t refused { 10.96.0.7 . tcp . 80 }\n\
         add element ip t refused-ports { tcp . 30080 }\n"
    );
}

/// Every shape of rule, its change and its removal, accepted by the kernel in a namespace of our own.
#[test]
fn the_kernel_accepts_every_transaction() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root for a network namespace");
        return;
    }
    let shapes = |affinity: Option<u32>, backends: &[u8], preserve: bool| PortPlan {
        node_port: Some(30080),
        external_ips: vec![Ipv4Addr::new(192, 0, 2, 10)],
        affinity_seconds: affinity,
        preserve_client: preserve,
        ..port(backends)
    };
    let steps = [
        shapes(None, &[2, 3, 4], false),
        shapes(None, &[3], true),
        shapes(Some(60), &[2, 3], false),
        shapes(Some(60), &[3, 4], false),
        shapes(Some(60), &[4], true),
        shapes(None, &[], false),
        PortPlan { protocol: Protocol::Udp, ..shapes(None, &[9, 8], false) },
    ];
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                let mut state = State::new("podium-test");
                let plain = rules::Frame::default();
                podium_network::nft::apply(&rules::frame("podium-test", &plain)).unwrap();
                for (number, step) in steps.iter().enumerate() {
                    state.update("n/web", rules::service("web", std::slice::from_ref(step)));
                    let script = state.take();
                    podium_network::nft::apply(&script)
                        .unwrap_or_else(|e| panic!("step {number}: {e}\n{script}"));
                }
                state.update("n/web", rules::service("web", &[]));
                podium_network::nft::apply(&state.take()).unwrap();
                // A second frame replaces all of it.
                let options = rules::Frame {
                    cluster_cidr: Some("10.244.0.0/16".parse().unwrap()),
                    node_port_addresses: vec![
                        "192.0.2.0/24".parse().unwrap(),
                        "198.51.100.7/32".parse().unwrap(),
                    ],
                };
                let text = rules::frame("podium-test", &options);
                assert!(
                    text.contains("ip daddr { 192.0.2.0/24, 198.51.100.7/32 } fib daddr type local"),
                    "{text}"
                );
                podium_network::nft::apply(&text).unwrap();
            })
            .join()
            .unwrap();
    });
}
