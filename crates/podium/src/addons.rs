//! What a cluster has besides its parts: the Service by which pods find DNS, its endpoints, and what nodes may read.

use std::convert::Infallible;
use std::fmt::Debug;
use std::net::Ipv4Addr;

use anyhow::Result;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::api::{Patch, PatchParams, PostParams};
use podium_client::{
    Api, Change, Client, Informer, ObjectKey, SharedInformers, Shutdown, WorkQueue, is_not_found, run_workers,
};
use podium_network::Cidr;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const NAMESPACE: &str = "kube-system";
/// The Service of cluster DNS, the same name that every other distribution has.
pub(crate) const DNS: &str = "kube-dns";
/// The annotation by which a Node says at which of its own addresses its DNS server listens.
pub(crate) const DNS_ADDRESS: &str = "podium.dev/dns-address";

/// Makes or mends the `kube-dns` Service.
pub(crate) async fn dns_service(client: &Client, address: Ipv4Addr) -> Result<()> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": DNS, "namespace": NAMESPACE,
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
        },
        "spec": {
            "clusterIP": address.to_string(),
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    });
    ensure::<Service>(&Api::namespaced(client.clone(), NAMESPACE), DNS, service).await
}

/// Lets nodes read Services and endpoints: proxy and DNS run inside the node's process under the node's identity. Upstream
/// gives the same role to the proxy's own identity, which lies on every node.
pub(crate) async fn node_access(client: &Client) -> Result<()> {
    let name = "podium:node-proxier";
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}],
    });
    ensure::<ClusterRoleBinding>(&Api::all(client.clone()), name, binding).await
}

/// Keeps one slice of `kube-dns` for each Node that says it serves DNS, until shutdown.
pub(crate) async fn dns_endpoints(
    client: Client,
    informers: SharedInformers,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let nodes = informers.of::<Node>();
    let queue = WorkQueue::new("dns-endpoints");
    let to = queue.clone();
    nodes.on_event(move |change| {
        // Heartbeats say nothing new.
        let told = match change {
            Change::Modified { old, new } => dns_slice(old) != dns_slice(new),
            _ => true,
        };
        if told {
            to.add(ObjectKey::of(change.object().as_ref()));
        }
    });
    if shutdown.run_until_cancelled(nodes.synced()).await.is_some() {
        run_workers(queue, 1, shutdown, move |key| reconcile(client.clone(), nodes.clone(), key)).await;
    }
    Ok(())
}

async fn reconcile(client: Client, nodes: Informer<Node>, key: ObjectKey) -> Result<(), anyhow::Error> {
    // The garbage collector takes the slice of a Node that is gone.
    let Some(slice) = nodes.get(&key).and_then(|node| dns_slice(&node)) else { return Ok(()) };
    ensure::<EndpointSlice>(&Api::namespaced(client, NAMESPACE), &slice_name(&key.name), slice).await
}

/// The name of a Node's slice.
pub(crate) fn slice_name(node: &str) -> String {
    format!("{DNS}-{node}")
}

/// The slice of one Node. None if it serves no DNS, or names an address that is not in its own range: a node must not
/// send the cluster's questions elsewhere. An endpoint is unready once nobody has heard of its Node for long.
fn dns_slice(node: &Node) -> Option<Value> {
    let name = node.metadata.name.as_deref()?;
    let address: Ipv4Addr = node.metadata.annotations.as_ref()?.get(DNS_ADDRESS)?.parse().ok()?;
    let range: Cidr = node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()?;
    if !range.contains(address) {
        return None;
    }
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let lost = conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "Unknown");
    Some(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": slice_name(name), "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": DNS, "endpointslice.kubernetes.io/managed-by": "podium"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.metadata.uid}],
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": !lost}, "nodeName": name}],
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ],
    }))
}

/// Creates the object, or brings an existing one to what it should say.
async fn ensure<K>(api: &Api<K>, name: &str, object: Value) -> Result<()>
where
    K: kube::Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
{
    // Changing comes first: creating a Service that is there is refused for its address, not for its name.
    match api.patch(name, &PatchParams::default(), &Patch::Merge(&object)).await {
        Err(error) if is_not_found(&error) => {
            api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
            Ok(())
        }
        other => other.map(|_| ()).map_err(anyhow::Error::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(range: &str, address: Option<&str>, ready: &str) -> Node {
        let annotations = address.map(|address| json!({DNS_ADDRESS: address}));
        serde_json::from_value(json!({
            "metadata": {"name": "n", "uid": "u", "annotations": annotations},
            "spec": {"podCIDR": range},
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_node_is_an_endpoint_of_dns_only_at_an_address_of_its_own() {
        let slice = dns_slice(&node("10.244.1.0/24", Some("10.244.1.1"), "True")).unwrap();
        assert_eq!(slice["endpoints"][0]["addresses"], json!(["10.244.1.1"]));
        assert_eq!(slice["endpoints"][0]["conditions"], json!({"ready": true}));
        assert_eq!(slice["metadata"]["ownerReferences"][0]["uid"], "u");
        let lost = dns_slice(&node("10.244.1.0/24", Some("10.244.1.1"), "Unknown")).unwrap();
        assert_eq!(lost["endpoints"][0]["conditions"], json!({"ready": false}));
        for (range, address) in [
            ("10.244.1.0/24", None),
            ("10.244.1.0/24", Some("192.0.2.1")),
            ("10.244.1.0/24", Some("10.244.2.1")),
            ("10.244.1.0/24", Some("x")),
        ] {
            assert_eq!(dns_slice(&node(range, address, "True")), None, "{address:?}");
        }
    }
}
