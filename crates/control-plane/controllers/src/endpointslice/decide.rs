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
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{MANAGED_BY, MANAGER, MOST_ENDPOINTS, SERVICE_NAME};
use crate::labels::Labels;
use crate::names::{self, NameSource};
use crate::owner;
use crate::pods;
use crate::services;

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
}

/// Chooses the writes for one Service. No I/O.
pub(crate) fn decide(seen: &Observed<'_>, names: &dyn NameSource) -> Decision {
    let mut decision = Decision::default();
    let families = families(seen.service);
    for slice in seen.slices.iter().filter(|slice| !families.contains(slice.address_type.as_str())) {
        decision.delete.push(EndpointSlice::clone(slice));
    }
    for family in families {
        let (groups, homeless) = wanted(seen, family);
        decision.homeless = homeless;
        let part = Family { service: seen.service, family, names }.reconcile(seen.slices, groups);
        decision.create.extend(part.create);
        decision.update.extend(part.update);
        decision.delete.extend(part.delete);
    }
    stamp(seen, &mut decision);
    if seen.service.metadata.deletion_timestamp.is_some() {
        decision.create.clear();
    }
    decision
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

/// Endpoints by what identifies them, for each set of ports.
type Groups = BTreeMap<Vec<PortKey>, Group>;

#[derive(Clone, Debug, Default)]
struct Group {
    ports: Vec<EndpointPort>,
    endpoints: BTreeMap<EndpointKey, Endpoint>,
}

/// Name, number, protocol, application protocol.
type PortKey = (String, Option<i32>, String, Option<String>);

fn port_key(ports: &[EndpointPort]) -> Vec<PortKey> {
    let mut keys: Vec<PortKey> = ports
        .iter()
        .map(|port| {
            let protocol = services::protocol(port.protocol.as_deref()).to_owned();
            (port.name.clone().unwrap_or_default(), port.port, protocol, port.app_protocol.clone())
        })
        .collect();
    keys.sort();
    keys
}

/// Addresses, host name, namespace and name of the target. Source: `endpointHashObj`.
type EndpointKey = (Vec<String>, Option<String>, Option<(Option<String>, Option<String>)>);

fn endpoint_key(endpoint: &Endpoint) -> EndpointKey {
    let mut addresses = endpoint.addresses.clone();
    addresses.sort();
    let target = endpoint.target_ref.as_ref().map(|target| (target.namespace.clone(), target.name.clone()));
    (addresses, endpoint.hostname.clone(), target)
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

/// The work on the slices of one address type.
struct Family<'a> {
    service: &'a Service,
    family: &'a str,
    names: &'a dyn NameSource,
}

/// One existing slice while its new content is worked out.
struct Draft {
    slice: EndpointSlice,
    changed: bool,
}

impl Draft {
    fn len(&self) -> usize {
        self.slice.endpoints.as_ref().map(Vec::len).unwrap_or_default()
    }

    fn push(&mut self, endpoint: Endpoint) {
        self.slice.endpoints.get_or_insert_default().push(endpoint);
        self.changed = true;
    }
}

impl Family<'_> {
    fn reconcile(&self, slices: &[Arc<EndpointSlice>], mut groups: Groups) -> Decision {
        let mut decision = Decision::default();
        let mut existing: BTreeMap<Vec<PortKey>, Vec<EndpointSlice>> = BTreeMap::new();
        let mut count = 0;
        for slice in slices.iter().filter(|slice| slice.address_type == self.family) {
            count += 1;
            if self.owns(slice) {
                let key = port_key(slice.ports.as_deref().unwrap_or_default());
                existing.entry(key).or_default().push(EndpointSlice::clone(slice));
            } else {
                decision.delete.push(EndpointSlice::clone(slice));
            }
        }
        for (key, slices) in &mut existing {
            if !groups.contains_key(key) {
                decision.delete.append(slices);
            }
        }
        for (key, group) in &mut groups {
            self.fill(existing.remove(key).unwrap_or_default(), group, &mut decision);
        }
        if decision.delete.len() == count && decision.create.is_empty() {
            self.keep_one(&mut decision);
        }
        self.reuse(&mut decision);
        decision
    }

    fn owns(&self, slice: &EndpointSlice) -> bool {
        let uid = owner::uid(&self.service.metadata);
        slice
            .metadata
            .owner_references
            .iter()
            .flatten()
            .any(|it| it.uid == uid && it.kind == "Service" && it.api_version == "v1")
    }

    /// Brings the slices of one set of ports up to date.
    fn fill(&self, slices: Vec<EndpointSlice>, group: &mut Group, decision: &mut Decision) {
        let labels = self.labels();
        let mut drafts = Vec::new();
        for slice in slices {
            let draft = retain(slice, &labels, &mut group.endpoints);
            if draft.changed && draft.len() == 0 {
                decision.delete.push(draft.slice);
            } else {
                drafts.push(draft);
            }
        }
        let mut left = std::mem::take(&mut group.endpoints);
        // Slices that are written anyway take what they can, the fullest first.
        let mut order: Vec<usize> = (0..drafts.len()).filter(|index| drafts[*index].changed).collect();
        order.sort_by_key(|index| std::cmp::Reverse(drafts[*index].len()));
        for index in order {
            top_up(&mut drafts[index], &mut left);
        }
        while !left.is_empty() {
            match best_fit(&drafts, left.len()) {
                Some(index) => top_up(&mut drafts[index], &mut left),
                None => {
                    let mut fresh = Draft { slice: self.new_slice(group.ports.clone()), changed: true };
                    top_up(&mut fresh, &mut left);
                    decision.create.push(fresh.slice);
                }
            }
        }
        decision.update.extend(drafts.into_iter().filter(|draft| draft.changed).map(|draft| draft.slice));
    }

    /// A Service without endpoints still has one slice, to tell "none" from "not looked at yet".
    fn keep_one(&self, decision: &mut Decision) {
        let placeholder = self.new_slice(Vec::new());
        let is_placeholder = |slice: &EndpointSlice| {
            slice.endpoints.as_ref().is_none_or(Vec::is_empty)
                && slice.ports.as_ref().is_none_or(Vec::is_empty)
                && slice.metadata.labels == placeholder.metadata.labels
                && self.owns(slice)
        };
        if decision.delete.len() == 1 && is_placeholder(&decision.delete[0]) {
            decision.delete.clear();
        } else {
            decision.create.push(placeholder);
        }
    }

    /// A slice to be deleted and one to be created make one update.
    fn reuse(&self, decision: &mut Decision) {
        let mut kept = Vec::new();
        for old in std::mem::take(&mut decision.delete) {
            if decision.create.is_empty() || !self.owns(&old) {
                kept.push(old);
                continue;
            }
            let new = decision.create.pop().expect("just seen not to be empty");
            let metadata = ObjectMeta { labels: new.metadata.labels, ..old.metadata };
            decision.update.push(EndpointSlice { metadata, ..new });
        }
        decision.delete = kept;
    }

    fn labels(&self) -> Labels {
        let reserved = [SERVICE_NAME, MANAGED_BY, services::HEADLESS_LABEL];
        let mut labels = self.service.metadata.labels.clone().unwrap_or_default();
        labels.retain(|key, _| !reserved.contains(&key.as_str()));
        if !services::has_address(self.service) {
            labels.insert(services::HEADLESS_LABEL.to_owned(), String::new());
        }
        labels.insert(SERVICE_NAME.to_owned(), owner::name(&self.service.metadata).to_owned());
        labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
        labels
    }

    fn new_slice(&self, ports: Vec<EndpointPort>) -> EndpointSlice {
        let prefix = names::prefix(owner::name(&self.service.metadata));
        EndpointSlice {
            address_type: self.family.to_owned(),
            endpoints: Some(Vec::new()),
            metadata: ObjectMeta {
                name: Some(names::generate(&prefix, self.names)),
                generate_name: Some(prefix),
                namespace: self.service.metadata.namespace.clone(),
                labels: Some(self.labels()),
                owner_references: Some(vec![owner::controller_reference(self.service)]),
                ..ObjectMeta::default()
            },
            ports: Some(ports),
        }
    }
}

/// Keeps of a slice what is still wanted, as it is wanted now, and takes that out of `wanted`.
fn retain(mut slice: EndpointSlice, labels: &Labels, wanted: &mut BTreeMap<EndpointKey, Endpoint>) -> Draft {
    let before = slice.endpoints.take().unwrap_or_default();
    let mut changed = false;
    let mut kept = Vec::with_capacity(before.len());
    for old in before {
        match wanted.remove(&endpoint_key(&old)) {
            Some(new) => {
                changed |= !is_same(&old, &new);
                kept.push(new);
            }
            None => changed = true,
        }
    }
    slice.endpoints = Some(kept);
    if slice.metadata.labels.as_ref() != Some(labels) {
        slice.metadata.labels = Some(labels.clone());
        changed = true;
    }
    Draft { slice, changed }
}

fn is_same(old: &Endpoint, new: &Endpoint) -> bool {
    let mut old = old.clone();
    if let Some(target) = &mut old.target_ref {
        target.resource_version = None;
    }
    old == *new
}

fn top_up(draft: &mut Draft, left: &mut BTreeMap<EndpointKey, Endpoint>) {
    while draft.len() < MOST_ENDPOINTS
        && let Some((_, endpoint)) = left.pop_first()
    {
        draft.push(endpoint);
    }
}

/// The untouched slice that takes all `count` endpoints and has the least room to spare after.
fn best_fit(drafts: &[Draft], count: usize) -> Option<usize> {
    (0..drafts.len())
        .filter(|index| !drafts[*index].changed && drafts[*index].len() + count <= MOST_ENDPOINTS)
        .max_by_key(|index| drafts[*index].len())
}

/// Notes on what is written when the change happened that it reflects, if that is news.
fn stamp(seen: &Observed<'_>, decision: &mut Decision) {
    let known = seen
        .slices
        .iter()
        .filter_map(|slice| slice.metadata.annotations.as_ref()?.get(services::TRIGGER_TIME))
        .filter_map(|text| text.parse::<Timestamp>().ok())
        .max();
    let news = services::trigger_time(seen.service, seen.pods)
        .filter(|time| known.is_none_or(|known| *time > known));
    for slice in decision.create.iter_mut().chain(&mut decision.update) {
        match news {
            Some(time) => {
                let annotations = slice.metadata.annotations.get_or_insert_default();
                annotations.insert(services::TRIGGER_TIME.to_owned(), services::format_trigger_time(time));
            }
            None => {
                if let Some(annotations) = &mut slice.metadata.annotations {
                    annotations.remove(services::TRIGGER_TIME);
                }
            }
        }
    }
}
