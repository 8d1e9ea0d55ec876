//! Ports of the node that lead to a pod.

use std::net::{IpAddr, SocketAddr};

use podium_testkit::{free_port, http, wait_for};

use crate::{LIMIT, becomes, cluster, listens};

/// A pod with two ports of the node, one on all its addresses and one on loopback only.
fn pod(everywhere: u16, inside: u16) -> String {
    format!(
        r#"{{
  "apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "ports"}},
  "spec": {{"terminationGracePeriodSeconds": 1, "containers": [{{
    "name": "web", "image": "podium.test/web:v2.0.0",
    "ports": [
      {{"containerPort": 3000, "hostPort": {everywhere}}},
      {{"containerPort": 3000, "hostPort": {inside}, "hostIP": "127.0.0.1"}}
    ]
  }}]}}
}}"#
    )
}

#[test]
fn a_pod_answers_at_its_ports_of_the_node_and_nowhere_else() {
    let Some(cluster) = cluster() else { return };
    let kubectl = cluster.kubectl();
    // Others than those of a run that was killed: its pods still have theirs.
    let (everywhere, inside) = (free_port().expect("a port"), free_port().expect("a port"));
    kubectl.apply(&pod(everywhere, inside));
    becomes(&kubectl, "pod ports", "{.status.conditions[?(@.type==\"Ready\")].status}", "True");
    listens(&kubectl, "pod ports");
    let node = kubectl.get("nodes", "{.items[0].status.addresses[?(@.type==\"InternalIP\")].address}");
    let node: IpAddr = node.parse().expect("the node's address");
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let answers = |ip, port| http::get(SocketAddr::new(ip, port), "/health").is_ok_and(|a| a.code == 200);
    for (ip, port, expected) in [
        (node, everywhere, true),
        (loopback, everywhere, true),
        (loopback, inside, true),
        (node, inside, false),
    ] {
        assert_eq!(answers(ip, port), expected, "{ip}:{port}");
    }
    kubectl.run("delete pod ports").ok();
    wait_for(
        "the ports' end",
        LIMIT,
        || answers(node, everywhere) || answers(loopback, inside),
        |seen| !seen,
    );
}
