//! The parts of a node: runtime, kubelet, pod network, Service proxy and DNS, started in order in one process.

mod kubelet;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use kube::api::{Patch, PatchParams};
use podium_client::{Api, Client, ObjectKey, SharedInformers};
use podium_network::Cidr;
use rustls::RootCertStore;
use serde_json::json;
use tokio::sync::{Notify, watch};

use crate::addons;
use crate::containerd::{Containerd, ensure_pause};
use crate::layout::Layout;
use crate::parts::Parts;
use crate::runtime::{self, Choice};
use crate::steps::Steps;

/// What a node is started with.
pub(crate) struct Node<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) name: &'a str,
    pub(crate) ip: IpAddr,
    /// The runtime, as [`Choice`] reads it; a containerd of our own has been started before.
    pub(crate) runtime_endpoint: Option<&'a str>,
    pub(crate) kubelet_port: u16,
    /// A KubeletConfiguration that goes before what podium suggests.
    pub(crate) kubelet_config: Option<&'a Path>,
    /// All pods' addresses, where known.
    pub(crate) cluster_cidr: Option<Cidr>,
    /// The address of the `kube-dns` Service.
    pub(crate) cluster_dns: Ipv4Addr,
    pub(crate) cluster_domain: &'a str,
    /// Acts as `system:node:NAME`.
    pub(crate) client: Client,
    /// May watch Nodes, Services and EndpointSlices.
    pub(crate) informers: SharedInformers,
    /// Of the kubelet's server.
    pub(crate) serving: podium_kubelet::ServingCertificate,
}

/// Starts the parts and waits until the Node is Ready.
pub(crate) async fn start(
    node: &Node<'_>,
    containerd: &Containerd,
    parts: &mut Parts,
    steps: &mut Steps,
) -> Result<()> {
    let started = Timestamp::now();
    let end = parts.shutdown();
    let choice = Choice::of(node.runtime_endpoint);
    let endpoint = choice.endpoint(node.layout);
    // Before anything is started: a wrong file is told at once.
    let kubelet = kubelet(node, &endpoint)?;
    let systemd = choice.systemd(&kubelet.settings.cgroup_driver)?;
    match choice {
        Choice::Other(_) => {
            ensure_pause(&endpoint, &node.layout.run()).await?;
            steps.done("runtime", &endpoint);
        }
        Choice::Podium => {
            let (tell, told) = tokio::sync::oneshot::channel();
            let ready = move || _ = tell.send(());
            let config = podium_runtime::Config { systemd, ..runtime::config(node.layout) };
            parts.spawn("runtime", podium_runtime::run(config, ready, end.clone()));
            parts.unless_ended(told).await??;
            steps.done("runtime", "podium");
        }
        Choice::Containerd => {
            let version = containerd.ready().await?;
            steps.done("runtime", &version);
            let watched = containerd.clone().supervise(end.clone());
            parts.spawn("containerd", async move {
                watched.await;
                Ok::<(), std::convert::Infallible>(())
            });
        }
    }
    parts.spawn("kubelet", podium_kubelet::run(kubelet, end.clone()));
    let (network_up, mut network) = watch::channel(None);
    parts.spawn("network", podium_network::run(self::network(node)?, network_up, end.clone()));
    let (proxy_up, mut proxy) = watch::channel(false);
    let config = podium_proxy::Config {
        informers: node.informers.clone(),
        node_name: node.name.to_owned(),
        table: node.layout.proxy_table(),
        // Callers on the host keep their address: every node has a route back to it.
        cluster_cidr: None,
        node_port_addresses: Vec::new(),
    };
    parts.spawn("proxy", podium_proxy::run(config, proxy_up, end.clone()));
    let prepared = parts.unless_ended(network.wait_for(Option::is_some)).await??.clone();
    let prepared = prepared.context("the network has no gateway")?;
    parts.unless_ended(proxy.wait_for(|synced| *synced)).await??;
    steps.done("network", &format!("pods {}", prepared.pod_cidr));

    let (dns_up, mut dns) = watch::channel(false);
    let config = podium_dns::Config {
        informers: node.informers.clone(),
        listen: SocketAddr::new(prepared.gateway.into(), 53),
        domain: node.cluster_domain.to_owned(),
        resolv_conf: "/etc/resolv.conf".into(),
    };
    parts.spawn("DNS", podium_dns::run(config, move || _ = dns_up.send_replace(true), end));
    parts.unless_ended(dns.wait_for(|up| *up)).await??;
    announce_dns(&node.client, node.name, prepared.gateway).await.context("announce DNS on the Node")?;
    steps.done("DNS", &node.cluster_dns.to_string());
    parts.unless_ended(ready(&node.informers, node.name, started)).await?;
    steps.done("node", &format!("{} Ready", node.name));
    Ok(())
}

/// Says on the Node where its DNS server listens; the control plane makes it an endpoint of `kube-dns`.
async fn announce_dns(client: &Client, name: &str, address: Ipv4Addr) -> Result<()> {
    let patch = json!({"metadata": {"annotations": {addons::DNS_ADDRESS: address.to_string()}}});
    Api::<v1::Node>::all(client.clone()).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

fn kubelet(node: &Node<'_>, endpoint: &str) -> Result<podium_kubelet::Config> {
    let settings = kubelet::settings(&kubelet::Decided::of(node, endpoint), node.kubelet_config)?;
    podium_kubelet::apply_to_process(&settings);
    let mut config = podium_kubelet::Config::new(
        node.name,
        node.ip,
        node.layout.kubelet(),
        settings,
        node.client.clone(),
        node.informers.clone(),
    );
    config.serving = Some(node.serving.clone());
    config.version = podium_api::VERSION.to_owned();
    config.process_metrics = crate::component::healthz::of_process;
    config.flags = [
        ("container-runtime-endpoint", endpoint.to_owned()),
        ("hostname-override", node.name.to_owned()),
        ("node-ip", node.ip.to_string()),
        ("root-dir", config.root_dir.to_string_lossy().into_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    config.service_manager = service_manager()?;
    Ok(config)
}

/// The service manager that started this process and wants to hear of it.
pub(crate) fn service_manager() -> Result<Option<podium_kubelet::ServiceManager>> {
    let variable = |name: &str| std::env::var(name).ok();
    podium_kubelet::ServiceManager::of(variable, std::process::id()).context("the service manager")
}

fn network(node: &Node<'_>) -> Result<podium_network::Config> {
    let layout = node.layout;
    Ok(podium_network::Config {
        node_name: node.name.to_owned(),
        informers: node.informers.clone(),
        cluster_cidr: node.cluster_cidr,
        bridge: layout.bridge(),
        table: layout.network_table(),
        mtu: 0,
        configuration_directory: layout.cni_configuration(),
        plugin_directory: layout.cni_plugins(),
        program: std::env::current_exe().context("our own program")?,
        address_directory: layout.addresses(),
        route_file: layout.routes(),
    })
}

/// The authorities of clients of a kubelet's server, from PEM.
pub(crate) fn authorities(pem: &str) -> Result<Arc<RootCertStore>> {
    let mut store = RootCertStore::empty();
    for certificate in podium_pki::certificate::from_pem(pem)? {
        store.add(certificate).context("an authority of clients")?;
    }
    Ok(Arc::new(store))
}

/// Waits until the Node is Ready by the word of a kubelet that spoke since `started`: what the last one said is kept by
/// the API and proves nothing.
async fn ready(informers: &SharedInformers, name: &str, started: Timestamp) {
    let nodes = informers.of::<v1::Node>();
    let wake = Arc::new(Notify::new());
    let changed = Arc::clone(&wake);
    nodes.on_event(move |_| changed.notify_one());
    let key = ObjectKey { namespace: String::new(), name: name.to_owned() };
    // Times of the API have whole seconds.
    let since = started.as_second();
    let fresh = |node: &v1::Node| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.filter(|condition| condition.type_ == "Ready" && condition.status == "True").any(
            |condition| {
                condition.last_heartbeat_time.as_ref().is_some_and(|time| time.0.as_second() >= since)
            },
        )
    };
    while !nodes.get(&key).is_some_and(|node| fresh(&node)) {
        wake.notified().await;
    }
}

/// Whether a Node's condition says so.
pub(crate) fn is_ready(node: &v1::Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
