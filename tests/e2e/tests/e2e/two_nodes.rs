//! Two nodes on one machine: the second one in a network namespace, joined as on any other machine.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;

use podium_testkit::second::get_inside;
use podium_testkit::{Cluster, Kubectl, Namespace, SecondNode, http, images, wait, wait_for};

use crate::{LIMIT, archives, becomes};

/// A server on each node, by a DaemonSet, and a pod with tools on each.
fn deploy(kubectl: &Kubectl) {
    let web = format!("{}:v2.0.0", images::WEB);
    kubectl.apply(&format!(
        "{{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: web}}, spec: {{selector: {{matchLabels: {{app: web}}}}, \
         template: {{metadata: {{labels: {{app: web}}}}, spec: {{terminationGracePeriodSeconds: 1, \
         containers: [{{name: web, image: '{web}'}}]}}}}}}}}"
    ));
    kubectl.apply(&format!(
        "{{apiVersion: apps/v1, kind: DaemonSet, metadata: {{name: tools}}, spec: {{selector: {{matchLabels: {{app: tools}}}}, \
         template: {{metadata: {{labels: {{app: tools}}}}, spec: {{terminationGracePeriodSeconds: 0, \
         containers: [{{name: tools, image: '{}', command: [nc, -ll, -p, '7777', -e, cat, /proc/net/tcp, /proc/net/tcp6]}}]}}}}}}}}",
        images::BUSYBOX
    ));
    kubectl.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: NodePort, selector: {app: web}, \
         ports: [{port: 80, targetPort: 3000}]}}",
    );
    for name in ["web", "tools"] {
        becomes(kubectl, &format!("daemonset {name}"), "{.status.numberReady}", "2");
    }
}

/// The value of a JSONPath of the pod with this label on that node.
fn of_pod(kubectl: &Kubectl, app: &str, node: &str, path: &str) -> String {
    let what = format!("pods -l app={app} --field-selector spec.nodeName={node}");
    kubectl.get(&what, &format!("{{.items[0]{path}}}"))
}

#[test]
fn a_second_node_is_a_node_like_the_first() {
    if !Cluster::available() || !Kubectl::available() {
        return;
    }
    let namespace = Namespace::new().expect("a network namespace");
    let host = namespace.host.to_string();
    let cluster =
        Cluster::start_with(&["--node-name", "first", "--node-ip", &host]).expect("the cluster starts");
    let node = SecondNode::join(&cluster, &namespace, "second").expect("the node joins");
    for archive in archives() {
        cluster.load(archive);
        node.load(archive);
    }
    let kubectl = cluster.kubectl();
    becomes(&kubectl, "node second", "{.status.conditions[?(@.type=='Ready')].status}", "True");
    assert_eq!(
        kubectl.get("node second", "{.status.addresses[?(@.type=='InternalIP')].address}"),
        namespace.inside.to_string()
    );
    let ranges = kubectl.get("nodes", "{.items[*].spec.podCIDR}");
    let ranges: Vec<&str> = ranges.split(' ').collect();
    assert!(ranges.len() == 2 && ranges[0] != ranges[1], "{ranges:?}");
    deploy(&kubectl);

    pods_see_each_others_addresses(&kubectl);
    services_and_names_work_on_both(&kubectl, &namespace);
    streams_reach_the_second_kubelet(&kubectl);

    // A restarted agent finds its certificates, its containers and its routes.
    let before = of_pod(&kubectl, "web", "second", ".status.containerStatuses[0].containerID");
    node.podium(&["down"]).ok();
    let again = node.podium(&["node", "--detach"]).ok();
    assert!(again.contains("second Ready"), "{again}");
    assert_eq!(of_pod(&kubectl, "web", "second", ".status.containerStatuses[0].containerID"), before);
    pods_see_each_others_addresses(&kubectl);
}

/// Pods reach pods on the other node, and are seen there under their own addresses: the tools pod answers every connection
/// with its kernel's table of connections.
fn pods_see_each_others_addresses(kubectl: &Kubectl) {
    for (from, to) in [("first", "second"), ("second", "first"), ("second", "second")] {
        let tools = of_pod(kubectl, "tools", from, ".metadata.name");
        let own: Ipv4Addr = of_pod(kubectl, "tools", from, ".status.podIP").parse().expect("an address");
        let target = of_pod(kubectl, "tools", to, ".status.podIP");
        // The table has addresses as the machine's numbers, in hexadecimal; an IPv4 caller of an IPv6 socket is at the end of one.
        let seen_as = format!("{:08X}", u32::from_le_bytes(own.octets()));
        let is_caller = |line: &str| {
            let mut columns = line.split_whitespace().skip(1).map(|column| column.split_once(':'));
            let (local, remote) = (columns.next().flatten(), columns.next().flatten());
            local.is_some_and(|(_, port)| port == "1E61")
                && remote.is_some_and(|(address, _)| address.ends_with(&seen_as))
        };
        let ask = format!("nc -w 2 {target} 7777 </dev/null");
        wait_for(
            &format!("{from} to be seen by {to} as {own} ({seen_as})"),
            LIMIT,
            || kubectl.args(&["exec", &tools, "--", "sh", "-c", &ask]).stdout,
            |table| table.lines().any(is_caller),
        );
    }
}

/// The Service leads to both nodes' pods from everywhere: by address, by name, and by the node's port.
fn services_and_names_work_on_both(kubectl: &Kubectl, namespace: &Namespace) {
    let service = kubectl.get("service web", "{.spec.clusterIP}");
    let port: u16 = kubectl.get("service web", "{.spec.ports[0].nodePort}").parse().expect("a node port");
    let names: Vec<String> =
        ["first", "second"].map(|node| of_pod(kubectl, "web", node, ".metadata.name")).to_vec();
    let both = |what: &str, ask: &dyn Fn() -> Option<String>| {
        let mut seen: Vec<&str> = Vec::new();
        wait(what, LIMIT, || {
            let answer = ask();
            for name in &names {
                if answer.as_ref().is_some_and(|text| text.contains(name.as_str()))
                    && !seen.contains(&name.as_str())
                {
                    seen.push(name);
                }
            }
            if seen.len() == 2 { Ok(()) } else { Err((seen.clone(), answer)) }
        });
    };
    for node in ["first", "second"] {
        let tools = of_pod(kubectl, "tools", node, ".metadata.name");
        for url in [format!("http://{service}/"), "http://web.default.svc.cluster.local/".to_owned()] {
            both(&format!("{url} from {node}"), &|| {
                let outcome = kubectl.args(&["exec", &tools, "--", "wget", "-qO-", &url]);
                Some(outcome.stdout + &outcome.stderr)
            });
        }
        let answer =
            kubectl.args(&["exec", &tools, "--", "nslookup", "kubernetes.default.svc.cluster.local"]);
        assert_eq!(answer.code, 0, "{answer:?}");
    }
    for address in [namespace.host, namespace.inside] {
        let address = SocketAddr::from((address, port));
        both(&format!("{address} from the host"), &|| http::get(address, "/").ok().map(|a| a.body));
        both(&format!("{address} from the namespace"), &|| {
            get_inside(namespace, address, "/").ok().map(|a| a.body)
        });
    }
}

/// Logs, exec, and port-forward go through the API server to the second node's kubelet, whose certificate it verifies.
fn streams_reach_the_second_kubelet(kubectl: &Kubectl) {
    let web = of_pod(kubectl, "web", "second", ".metadata.name");
    assert!(kubectl.args(&["logs", &web]).ok().contains("web v2.0.0 listening"));
    let tools = of_pod(kubectl, "tools", "second", ".metadata.name");
    assert_eq!(kubectl.args(&["exec", &tools, "--", "hostname"]).ok().trim(), tools);
    let mut forward = kubectl
        .command()
        .args(["port-forward", &format!("pod/{web}"), ":3000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl runs");
    let mut line = String::new();
    // Kept open: kubectl says more, and would end by a broken pipe.
    let mut output = BufReader::new(forward.stdout.take().expect("piped"));
    output.read_line(&mut line).expect("kubectl says where");
    // Forwarding from 127.0.0.1:PORT -> 3000
    let port =
        line.split(" -> ").next().and_then(|left| left.rsplit(':').next()).and_then(|p| p.parse().ok());
    let port: u16 = port.unwrap_or_else(|| panic!("no port in {line:?}"));
    let answer = http::get(SocketAddr::from(([127, 0, 0, 1], port)), "/");
    forward.kill().expect("it runs");
    drop(output);
    let said = forward.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(answer.as_ref().is_ok_and(|answer| answer.body.contains(&web)), "{answer:?}\n{said}");
}
