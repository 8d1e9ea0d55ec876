//! Which endpoints each port of a Service leads to, seen from one node. Pure.
//!
//! Source: the Service and EndpointSlice API pages; KEP-1669 (terminating endpoints), KEP-2086 (internalTrafficPolicy).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// One address and port a connection can be sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// A pod's address, or a node's for host-network pods.
    pub address: Ipv4Addr,
    /// The target port.
    pub port: u16,
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As nftables writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }
}

/// One port of a Service with the endpoints for each way in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPlan {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The Service's port.
    pub port: u16,
    /// Cluster IPs, reached from pods and this node.
    pub cluster_ips: Vec<Ipv4Addr>,
    /// Load balancer addresses, reached from anywhere.
    pub external_ips: Vec<Ipv4Addr>,
    /// The port on every node, if there is one.
    pub node_port: Option<u16>,
    /// Endpoints for cluster IPs, by `internalTrafficPolicy`; sorted, may be empty.
    pub internal: Vec<Backend>,
    /// Endpoints for node ports and load balancer addresses, by `externalTrafficPolicy`; sorted, may be empty.
    pub external: Vec<Backend>,
    /// Every endpoint that still answers, wherever it is and whether it terminates or not, so all of `internal` and
    /// `external` and perhaps more; sorted, may be empty. A flow that goes to one of these may go on.
    pub serving: Vec<Backend>,
    /// Whether outside clients' addresses are kept (`externalTrafficPolicy: Local`).
    pub preserve_client: bool,
    /// Seconds a client stays with its endpoint (`sessionAffinity: ClientIP`).
    pub affinity_seconds: Option<u32>,
}

/// What one node does for one Service; empty when it has nothing to do (headless, ExternalName, another proxy's).
pub fn plan(service: &Service, slices: &[&EndpointSlice], node: &str) -> Vec<PortPlan> {
    let labels = service.metadata.labels.as_ref();
    if labels.is_some_and(|l| l.contains_key("service.kubernetes.io/service-proxy-name")) {
        return Vec::new();
    }
    let Some(spec) = &service.spec else { return Vec::new() };
    if spec.type_.as_deref() == Some("ExternalName")
        || spec.cluster_ip.as_deref().is_none_or(|ip| ip == "None" || ip.is_empty())
    {
        return Vec::new();
    }
    let cluster_ips: Vec<Ipv4Addr> = spec
        .cluster_ips
        .clone()
        .unwrap_or_else(|| spec.cluster_ip.iter().cloned().collect())
        .iter()
        .filter_map(|ip| ip.parse().ok())
        .collect();
    let mut external_ips: BTreeSet<Ipv4Addr> =
        spec.external_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect();
    let ingress =
        service.status.iter().flat_map(|s| &s.load_balancer).flat_map(|b| b.ingress.iter().flatten());
    external_ips.extend(
        ingress
            .filter(|entry| entry.ip_mode.as_deref() != Some("Proxy"))
            .filter_map(|entry| entry.ip.as_deref()?.parse::<Ipv4Addr>().ok()),
    );
    let affinity_seconds = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let configured =
            spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
        configured.and_then(|s| u32::try_from(s).ok()).unwrap_or(10_800)
    });
    let internal_local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    spec.ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let protocol = match port.protocol.as_deref() {
                None | Some("TCP") => Protocol::Tcp,
                Some("UDP") => Protocol::Udp,
                Some(_) => return None,
            };
            let found = endpoints(slices, port);
            Some(PortPlan {
                protocol,
                port: u16::try_from(port.port).ok()?,
                cluster_ips: cluster_ips.clone(),
                external_ips: external_ips.iter().copied().collect(),
                node_port: port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0),
                internal: backends(&found, internal_local.then_some(node)),
                external: backends(&found, external_local.then_some(node)),
                serving: serving(&found),
                preserve_client: external_local,
                affinity_seconds,
            })
        })
        .collect()
}

/// All endpoints of one port, in whatever condition, with where they are reached.
fn endpoints<'a>(slices: &[&'a EndpointSlice], port: &ServicePort) -> Vec<(&'a Endpoint, Backend)> {
    let mut found = Vec::new();
    for slice in slices.iter().copied().filter(|slice| slice.address_type == "IPv4") {
        let Some(target) = target_port(slice, port) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            // All addresses of an endpoint are the same thing; upstream uses the first.
            if let Some(address) = endpoint.addresses.first().and_then(|a| a.parse::<Ipv4Addr>().ok()) {
                // Addresses that would reach the node itself are refused (CVE-2021-25737).
                if !address.is_loopback()
                    && !address.is_link_local()
                    && !address.is_multicast()
                    && !address.is_unspecified()
                {
                    found.push((endpoint, Backend { address, port: target }));
                }
            }
        }
    }
    found
}

/// Where new connections go: endpoints that are ready, or, when none is, those that still serve while they terminate.
fn backends(found: &[(&Endpoint, Backend)], only_on: Option<&str>) -> Vec<Backend> {
    let mut ready = BTreeSet::new();
    let mut draining = BTreeSet::new();
    for (endpoint, backend) in found {
        if only_on.is_some_and(|node| endpoint.node_name.as_deref() != Some(node)) {
            continue;
        }
        match readiness(endpoint) {
            Readiness::Ready => ready.insert(*backend),
            Readiness::Draining => draining.insert(*backend),
            Readiness::Absent => continue,
        };
    }
    let chosen = if ready.is_empty() { draining } else { ready };
    chosen.into_iter().collect()
}

/// Where old flows may stay. Ready counts as serving, as for a Service that publishes addresses that are not ready.
fn serving(found: &[(&Endpoint, Backend)]) -> Vec<Backend> {
    let serves = |endpoint: &Endpoint| {
        let said = endpoint.conditions.as_ref().and_then(|c| c.serving).unwrap_or(false);
        said || is_ready(endpoint)
    };
    let chosen: BTreeSet<Backend> =
        found.iter().filter(|(endpoint, _)| serves(endpoint)).map(|(_, backend)| *backend).collect();
    chosen.into_iter().collect()
}

enum Readiness {
    Ready,
    Draining,
    Absent,
}

/// Whether new connections may go to an endpoint.
pub(crate) fn is_ready(endpoint: &Endpoint) -> bool {
    matches!(readiness(endpoint), Readiness::Ready)
}

fn readiness(endpoint: &Endpoint) -> Readiness {
    let conditions = endpoint.conditions.as_ref();
    // Absent means ready, by the API page.
    if conditions.and_then(|c| c.ready).unwrap_or(true) {
        Readiness::Ready
    } else if conditions.and_then(|c| c.serving).unwrap_or(false)
        && conditions.and_then(|c| c.terminating).unwrap_or(false)
    {
        Readiness::Draining
    } else {
        Readiness::Absent
    }
}

fn target_port(slice: &EndpointSlice, port: &ServicePort) -> Option<u16> {
    let wanted = port.name.as_deref().unwrap_or("");
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    slice
        .ports
        .iter()
        .flatten()
        .find(|p| {
            p.name.as_deref().unwrap_or("") == wanted && p.protocol.as_deref().unwrap_or("TCP") == protocol
        })
        .and_then(|p| u16::try_from(p.port?).ok())
}

#[cfg(test)]
mod tests;
