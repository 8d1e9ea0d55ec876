//! Approves serving certificates of kubelets, so that the API server can verify whom it sends `exec` and `logs` to.
//!
//! Upstream leaves this to a person, because such a certificate is signed by the authority that everyone trusts: a node that got
//! one for the API server's address could take its place. So [`judge`] lets a node have its own name and addresses that only it
//! claims, and nothing that the API server is known by.

use std::convert::Infallible;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::PostParams;
use podium_client::{
    Api, Change, Client, Informer, ObjectKey, SharedInformers, Shutdown, WorkQueue, run_workers,
};
use podium_pki::SigningRequest;

const SIGNER: &str = "kubernetes.io/kubelet-serving";

/// Addresses and ranges that are not a node's to claim.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reserved {
    /// Where the API server is reached.
    pub(crate) addresses: Vec<IpAddr>,
}

/// Approves until shutdown.
pub(crate) async fn run(
    client: Client,
    informers: SharedInformers,
    reserved: Reserved,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let requests = informers.of::<CertificateSigningRequest>();
    let nodes = informers.of::<Node>();
    let queue = WorkQueue::new("kubelet-serving-approval");
    let to = queue.clone();
    requests.on_event(move |change| {
        if change.object().spec.signer_name == SIGNER {
            to.add(ObjectKey::of(change.object().as_ref()));
        }
    });
    let (to, pending) = (queue.clone(), requests.clone());
    nodes.on_event(move |change| {
        // A request may come before its Node's addresses do.
        let told = match change {
            Change::Modified { old, new } => !addresses(old).eq(addresses(new)),
            _ => true,
        };
        let name = change.object().metadata.name.clone().unwrap_or_default();
        let user = format!("system:node:{name}");
        for request in pending.list().iter().filter(|_| told) {
            if request.spec.signer_name == SIGNER && request.spec.username.as_deref() == Some(&user) {
                to.add(ObjectKey::of(request.as_ref()));
            }
        }
    });
    let synced = async {
        requests.synced().await;
        nodes.synced().await;
    };
    if shutdown.run_until_cancelled(synced).await.is_some() {
        let reconcile =
            move |key| approve(client.clone(), requests.clone(), nodes.clone(), reserved.clone(), key);
        run_workers(queue, 1, shutdown, reconcile).await;
    }
    Ok(())
}

async fn approve(
    client: Client,
    requests: Informer<CertificateSigningRequest>,
    nodes: Informer<Node>,
    reserved: Reserved,
    key: ObjectKey,
) -> Result<(), anyhow::Error> {
    let Some(request) = requests.get(&key) else { return Ok(()) };
    let decided = request.status.iter().flat_map(|s| s.conditions.iter().flatten()).next().is_some();
    let Ok(parsed) = SigningRequest::parse(&request.spec.request.0) else { return Ok(()) };
    if decided || request.spec.username.as_deref() != Some(parsed.common_name.as_str()) {
        return Ok(());
    }
    let all = nodes.list();
    let all: Vec<&Node> = all.iter().map(AsRef::as_ref).collect();
    if let Err(why) = judge(&parsed, &all, &reserved) {
        tracing::info!(request = key.name, why, "a kubelet's serving certificate is not approved");
        return Ok(());
    }
    let mut request = (*request).clone();
    let now = Some(Time(Timestamp::now()));
    request.status.get_or_insert_default().conditions.get_or_insert_default().push(
        CertificateSigningRequestCondition {
            type_: "Approved".to_owned(),
            status: "True".to_owned(),
            reason: Some("AutoApproved".to_owned()),
            message: Some(
                "Auto approving kubelet serving certificate: all names are the node's own.".to_owned(),
            ),
            last_update_time: now.clone(),
            last_transition_time: now,
        },
    );
    let api = Api::<CertificateSigningRequest>::all(client);
    api.replace_subresource("approval", &key.name, &PostParams::default(), &request).await?;
    Ok(())
}

/// Whether the node that asks may have these names; otherwise why not. Organization, usages and the like are for the signer.
fn judge(request: &SigningRequest, nodes: &[&Node], reserved: &Reserved) -> Result<(), String> {
    let name = request.common_name.strip_prefix("system:node:").unwrap_or_default();
    let named = |node: &&&Node| node.metadata.name.as_deref() == Some(name);
    let own = nodes.iter().find(named).ok_or_else(|| format!("there is no node {name:?}"))?;
    for wanted in &request.dns_names {
        let special = wanted == "localhost" || wanted.split('.').next() == Some("kubernetes");
        if wanted != name || special {
            return Err(format!("{wanted:?} is not the node's name"));
        }
    }
    for wanted in &request.addresses {
        let text = wanted.to_string();
        if !addresses(own).any(|address| address == text) {
            return Err(format!("{wanted} is not an address of the node"));
        }
        let other = nodes.iter().filter(|node| !named(node)).find(|node| addresses(node).any(|a| a == text));
        if let Some(other) = other {
            let other = other.metadata.name.as_deref().unwrap_or_default();
            return Err(format!("{wanted} is also an address of node {other}"));
        }
        if wanted.is_loopback() || wanted.is_unspecified() || reserved.addresses.contains(wanted) {
            return Err(format!("{wanted} is the API server's"));
        }
    }
    match request.emails.is_empty() && request.uris.is_empty() {
        true => Ok(()),
        false => Err("it asks for names that are no host's".to_owned()),
    }
}

fn addresses(node: &Node) -> impl Iterator<Item = &str> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    all.filter(|address| address.type_ == "InternalIP").map(|address| address.address.as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use podium_pki::NewRequest;
    use podium_pki::certificate::AltName;
    use serde_json::json;

    use super::*;

    fn node(name: &str, address: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        }))
        .unwrap()
    }

    fn asks(common_name: &str, names: &[&str]) -> SigningRequest {
        let names: BTreeSet<AltName> = names
            .iter()
            .map(|name| name.parse().map_or_else(|_| AltName::Dns((*name).to_owned()), AltName::Ip))
            .collect();
        let new = NewRequest::new(common_name, "system:nodes", &names).unwrap();
        SigningRequest::parse(new.request.as_bytes()).unwrap()
    }

    #[test]
    fn a_node_gets_its_own_names_and_no_other() {
        let nodes = [
            node("a", "192.0.2.1"),
            node("b", "192.0.2.2"),
            node("c", "192.0.2.2"),
            node("d", "192.0.2.9"),
            node("kubernetes", "192.0.2.5"),
        ];
        let nodes: Vec<&Node> = nodes.iter().collect();
        let reserved = Reserved { addresses: vec!["192.0.2.9".parse().unwrap()] };
        let judge = |request: &SigningRequest| judge(request, &nodes, &reserved);
        assert_eq!(judge(&asks("system:node:a", &["a", "192.0.2.1"])), Ok(()));
        for (request, why) in [
            (asks("system:node:x", &["x"]), "no node"),
            (asks("system:node:a", &["b"]), "not the node's name"),
            (asks("system:node:a", &["kubernetes.default.svc"]), "not the node's name"),
            (asks("system:node:kubernetes", &["kubernetes"]), "not the node's name"),
            (asks("system:node:a", &["192.0.2.3"]), "not an address of the node"),
            (asks("system:node:b", &["192.0.2.2"]), "also an address of node c"),
            (asks("system:node:d", &["192.0.2.9"]), "the API server's"),
        ] {
            let found = judge(&request).unwrap_err();
            assert!(found.contains(why), "{found}");
        }
    }
}
