//! Ports of the node that lead to a pod.

use std::net::{IpAddr, SocketAddr};

use podium_testkit::{http, wait_for};

use crate::{LIMIT, becomes, cluster};

/// Two ports of the node, one on all its addresses and one on loopback only.
const POD: &str = r#"{
  "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ports"},
  "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
    "name": "web", "image": "podium.test/web:v2.0.0",
    "ports": [
      {"containerPort": 3000, "hostPort": 20180},
      {"containerPort": 3000, "hostPort": 20181, "hostIP": "127.0.0.1"}
    ]
  }]}
}"#;

#[test]
fn a_pod_answers_at_its_ports_of_the_node_and_nowhere_else() {
    let Some(cluster) = cluster() else { return };
    let kubectl = cluster.kubectl();
    kubectl.apply(POD);
    becomes(&kubectl, "pod ports", "{.status.conditions[?(@.type==\"Ready\")].status}", "True");
    let node = kubectl.get("nodes", "{.items[0].status.addresses[?(@.type==\"InternalIP\")].address}");
    let node: IpAddr = node.parse().expect("the node's address");
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let answers = |ip, port| http::get(SocketAddr::new(ip, port), "/health").is_ok_and(|a| a.code == 200);
    for (ip, port, expected) in
        [(node, 20_180, true), (loopback, 20_180, true), (loopback, 20_181, true), (node, 20_181, false)]
    {
        assert_eq!(answers(ip, port), expected, "{ip}:{port}");
    }
    kubectl.run("delete pod ports").ok();
    wait_for("the ports' end", LIMIT, || answers(node, 20_180) || answers(loopback, 20_181), |seen| !seen);
}
