//! What a cluster has besides its parts: the Service by which pods find DNS.

use std::fmt::Debug;
use std::net::Ipv4Addr;

use anyhow::Result;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams, PostParams};
use podium_client::{Api, Client, is_not_found};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const NAMESPACE: &str = "kube-system";

/// Makes or mends the `kube-dns` Service, the same name and address that every other distribution has, and the slice
/// that says where this node's server listens.
pub(crate) async fn dns(client: &Client, service_ip: Ipv4Addr, server: Ipv4Addr, node: &str) -> Result<()> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kube-dns", "namespace": NAMESPACE,
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
        },
        "spec": {
            "clusterIP": service_ip.to_string(),
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    });
    ensure::<Service>(client, "kube-dns", service).await?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("kube-dns-{node}"), "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": "kube-dns", "endpointslice.kubernetes.io/managed-by": "podium"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [server.to_string()], "conditions": {"ready": true}, "nodeName": node}],
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ],
    });
    ensure::<EndpointSlice>(client, &format!("kube-dns-{node}"), slice).await
}

/// Creates the object, or brings an existing one to what it should say.
async fn ensure<K>(client: &Client, name: &str, object: Value) -> Result<()>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug,
{
    let api = Api::<K>::namespaced(client.clone(), NAMESPACE);
    // Changing comes first: creating a Service that is there is refused for its address, not for its name.
    match api.patch(name, &PatchParams::default(), &Patch::Merge(&object)).await {
        Err(error) if is_not_found(&error) => {
            api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
            Ok(())
        }
        other => other.map(|_| ()).map_err(anyhow::Error::from),
    }
}
