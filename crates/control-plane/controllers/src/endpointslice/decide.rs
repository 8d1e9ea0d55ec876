//! The slices that one Service should have, reached by as few and as small writes as possible.
//!
//! Endpoints stay in the slice they are in: every write is sent to every node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use podium_client::EventType;

use super::pack::{Family, Group, Groups, Parent, endpoint_key, port_key};
use super::topology::{self, Shares};
use super::{MANAGED_BY, MANAGER, SERVICE_NAME};
use crate::names::NameSource;
use crate::owner;
use crate::pods;
use crate::services::{self, trigger};

/// What the cache shows.
#[derive(Debug)]
pub(crate) struct Observed<'a> {
    pub(crate) service: &'a Service,
    /// The pods it selects.
    pub(crate) pods: &'a [Arc<Pod>],
    /// The slices that this controller manages for it.
    pub(crate) slices: &'a [Arc<EndpointSlice>],
    /// The nodes of those pods, by name; the zone where one is known.
    pub(crate) nodes: &'a BTreeMap<String, Option<String>>,
    /// What the zones have of the cluster's processors, if that can be told. Needed only where [`topology::is_asked`].
    pub(crate) shares: Option<&'a Shares>,
    /// The most endpoints of one slice.
    pub(crate) most: usize,
    /// When the change happened that is not told yet, if there is one.
    pub(crate) news: Option<Timestamp>,
}

/// Writes in the order given: what serves first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decision {
    pub(crate) create: Vec<EndpointSlice>,
    /// Carry the resourceVersion they were made from.
    pub(crate) update: Vec<EndpointSlice>,
    pub(crate) delete: Vec<EndpointSlice>,
    /// Pods left out because their node is not known yet.
    pub(crate) homeless: Vec<String>,
    /// Type, reason and message.
    pub(crate) events: Vec<(EventType, &'static str, String)>,
    /// What is counted, once for each address type.
    pub(crate) counts: Vec<Counts>,
}

impl Decision {
    /// How many slices are created, updated and deleted.
    pub(crate) fn writes(&self) -> [usize; 3] {
        [self.create.len(), self.update.len(), self.delete.len()]
    }
}

/// What the slices of one address type came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Endpoints that no slice had.
    pub(crate) added: usize,
    /// Endpoints that a slice has, but otherwise.
    pub(crate) updated: usize,
    /// Endpoints that a slice has and that are not wanted. Those of ports that nobody wants any more are not among them, as
    /// upstream.
    pub(crate) removed: usize,
    /// Endpoints that are wanted.
    pub(crate) endpoints: usize,
    /// Slices that there are then.
    pub(crate) slices: usize,
    /// As many as it would take if each were full.
    pub(crate) fewest: usize,
}

/// Chooses the writes for one Service. No I/O.
pub(crate) fn decide(seen: &Observed<'_>, names: &dyn NameSource) -> Decision {
    let mut decision = Decision::default();
    let families = families(seen.service);
    let parent = parent(seen.service);
    for slice in seen.slices.iter().filter(|slice| !families.contains(slice.address_type.as_str())) {
        decision.delete.push(EndpointSlice::clone(slice));
    }
    for family in families {
        let (mut groups, homeless) = wanted(seen, family);
        decision.homeless = homeless;
        decision.events.extend(hint(seen, family, &mut groups));
        let part = Family { parent: &parent, family, most: seen.most, names }.reconcile(seen.slices, groups);
        decision.create.extend(part.create);
        decision.update.extend(part.update);
        decision.delete.extend(part.delete);
        decision.counts.extend(part.counts);
    }
    for slice in decision.create.iter_mut().chain(&mut decision.update) {
        trigger::stamp(&mut slice.metadata.annotations, seen.news);
    }
    if seen.service.metadata.deletion_timestamp.is_some() {
        decision.create.clear();
    }
    decision
}

/// Adds hints by zone where the Service asks for them by annotation, and tells what became of that.
fn hint(seen: &Observed<'_>, family: &str, groups: &mut Groups) -> Option<(EventType, &'static str, String)> {
    let slices = || seen.slices.iter().map(AsRef::as_ref).filter(|slice| slice.address_type == family);
    let had_hints = topology::has_hints(slices(), family);
    let disabled = |why: &str| {
        (EventType::Warning, "TopologyAwareHintsDisabled", format!("{why}, addressType: {family}"))
    };
    if !topology::is_asked(seen.service) {
        let distributes = seen.service.spec.as_ref().is_some_and(|spec| spec.traffic_distribution.is_some());
        return (had_hints && !distributes).then(|| disabled("Topology Aware Hints has been disabled"));
    }
    match topology::assign(groups, slices(), seen.shares) {
        Err(why) => Some(disabled(&why)),
        Ok(()) if had_hints => None,
        Ok(()) => {
            let message = format!("Topology Aware Hints has been enabled, addressType: {family}");
            Some((EventType::Normal, "TopologyAwareHintsEnabled", message))
        }
    }
}

/// The address types the Service asks for.
fn families(service: &Service) -> BTreeSet<&'static str> {
    let listed = service.spec.as_ref().and_then(|spec| spec.ip_families.as_ref());
    let mut families: BTreeSet<&'static str> = BTreeSet::new();
    for family in listed.into_iter().flatten() {
        families.insert(if family == "IPv6" { "IPv6" } else { "IPv4" });
    }
    if !families.is_empty() {
        return families;
    }
    match services::cluster_ip(service) {
        Some(ip) if ip != "None" => BTreeSet::from([if ip.contains(':') { "IPv6" } else { "IPv4" }]),
        _ => BTreeSet::from(["IPv4", "IPv6"]),
    }
}

/// What slices of a Service have in common.
fn parent(service: &Service) -> Parent {
    let reserved = [SERVICE_NAME, MANAGED_BY, services::HEADLESS_LABEL];
    let name = owner::name(&service.metadata).to_owned();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.retain(|key, _| !reserved.contains(&key.as_str()));
    if !services::has_address(service) {
        labels.insert(services::HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    Parent {
        name,
        namespace: service.metadata.namespace.clone(),
        owner: owner::controller_reference(service),
        labels,
        annotations: None,
        placeholder: true,
    }
}

fn wanted(seen: &Observed<'_>, family: &str) -> (Groups, Vec<String>) {
    let mut groups = Groups::new();
    let mut homeless = Vec::new();
    for pod in seen.pods.iter().filter(|pod| services::is_candidate(pod, true)) {
        let ports = ports(seen.service, pod);
        let group = groups.entry(port_key(&ports)).or_insert_with(|| Group { ports, ..Group::default() });
        let zone = match pods::node_name(pod).map(|node| seen.nodes.get(node)) {
            Some(Some(zone)) => zone.as_deref(),
            // The pod may run before the node is in our cache. Its zone would be missing for good.
            _ if !services::publishes_not_ready(seen.service) => {
                homeless.push(owner::name(&pod.metadata).to_owned());
                continue;
            }
            _ => None,
        };
        let endpoint = endpoint(pod, zone, seen.service, family);
        if !endpoint.addresses.is_empty() {
            group.endpoints.insert(endpoint_key(&endpoint), endpoint);
        }
    }
    (groups, homeless)
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let resolve = |port: &k8s_openapi::api::core::v1::ServicePort| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(services::target_port(pod, port)?),
            protocol: Some(services::protocol(port.protocol.as_deref()).to_owned()),
            app_protocol: port.app_protocol.clone(),
        })
    };
    services::ports(service).iter().filter_map(resolve).collect()
}

fn endpoint(pod: &Pod, zone: Option<&str>, service: &Service, family: &str) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pods::is_terminating(pod);
    let ready = services::publishes_not_ready(service) || (serving && !terminating);
    let node = pods::node_name(pod);
    Endpoint {
        addresses: services::addresses(pod)
            .filter(|address| address.is_ipv6() == (family == "IPv6"))
            .map(|address| address.to_string())
            .collect(),
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        deprecated_topology: None,
        hints: hints(service, ready, zone, node),
        hostname: services::hostname(pod, service),
        node_name: node.map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        zone: zone.map(str::to_owned),
    }
}

/// Where an endpoint's traffic should come from, if the Service has a preference.
fn hints(service: &Service, ready: bool, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    if topology::is_asked(service) {
        return None;
    }
    let preference = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let zones = || zone.map(|zone| vec![ForZone { name: zone.to_owned() }]);
    let hints = match preference {
        _ if !ready => return None,
        "PreferClose" | "PreferSameZone" => EndpointHints { for_zones: Some(zones()?), for_nodes: None },
        "PreferSameNode" => EndpointHints {
            for_zones: zones(),
            for_nodes: node.map(|node| vec![ForNode { name: node.to_owned() }]),
        },
        _ => return None,
    };
    Some(hints)
}
