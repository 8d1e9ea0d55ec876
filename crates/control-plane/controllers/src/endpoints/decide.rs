//! The Endpoints object that one Service should have.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service, ServicePort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{MANAGED_BY, MANAGER};
use crate::labels::Labels;
use crate::pods;
use crate::services::{self, trigger};

/// The most addresses of one object. Source: `maxCapacity`.
pub(crate) const CAPACITY: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

/// The object to write, or `None` when the stored one is right. `news` is when the change happened that is not told yet.
pub(crate) fn decide(
    service: &Service,
    pods: &[Arc<Pod>],
    current: Option<&Endpoints>,
    news: Option<Timestamp>,
) -> Option<Endpoints> {
    let (subsets, truncated) = truncate(subsets(service, pods));
    let labels = labels(service);
    let right = current.is_some_and(|current| {
        normal(current.subsets.clone().unwrap_or_default()) == subsets
            && current.metadata.labels.as_ref() == Some(&labels)
            && has_annotation(current) == truncated
    });
    if right {
        return None;
    }
    let mut metadata = match current {
        Some(current) => current.metadata.clone(),
        None => ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
    };
    metadata.labels = Some(labels);
    let annotations = metadata.annotations.get_or_insert_default();
    set(annotations, OVER_CAPACITY, truncated.then(|| "truncated".to_owned()));
    trigger::stamp(&mut metadata.annotations, news);
    Some(Endpoints { metadata, subsets: Some(subsets) })
}

fn set(annotations: &mut Labels, key: &str, value: Option<String>) {
    match value {
        Some(value) => annotations.insert(key.to_owned(), value),
        None => annotations.remove(key),
    };
}

fn has_annotation(endpoints: &Endpoints) -> bool {
    endpoints.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(OVER_CAPACITY))
}

fn labels(service: &Service) -> Labels {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(services::HEADLESS_LABEL);
    if !services::has_address(service) {
        labels.insert(services::HEADLESS_LABEL.to_owned(), String::new());
    }
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels
}

/// Name, number, protocol and application protocol; without ports there is one entry of none.
type PortKey = Option<(String, i32, String, Option<String>)>;
/// What tells addresses apart.
type AddressKey = (String, Option<String>);
/// Each address with whether it is ready, under the ports it serves.
type ByAddress = BTreeMap<AddressKey, (EndpointAddress, bool, Vec<PortKey>)>;

/// One subset for each set of ports that some address serves. Source: `RepackSubsets` in `pkg/api/v1/endpoints`.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    let tolerant = services::publishes_not_ready(service);
    let mut addresses = ByAddress::new();
    for pod in pods.iter().filter(|pod| services::is_candidate(pod, tolerant)) {
        let Some(address) = address(pod, service) else { continue };
        let ready = tolerant || pods::is_ready(pod);
        let ports: Vec<PortKey> = if services::ports(service).is_empty() {
            if services::has_address(service) { Vec::new() } else { vec![None] }
        } else {
            services::ports(service).iter().filter_map(|port| port_key(pod, port)).map(Some).collect()
        };
        if ports.is_empty() {
            continue;
        }
        let uid = address.target_ref.as_ref().and_then(|target| target.uid.clone());
        addresses.insert((address.ip.clone(), uid), (address, ready, ports));
    }
    collect(addresses)
}

fn collect(addresses: ByAddress) -> Vec<EndpointSubset> {
    let mut groups: BTreeMap<Vec<PortKey>, EndpointSubset> = BTreeMap::new();
    for (address, ready, mut ports) in addresses.into_values() {
        ports.sort();
        let subset = groups.entry(ports.clone()).or_insert_with(|| EndpointSubset {
            ports: Some(ports.into_iter().flatten().map(to_port).collect()),
            ..EndpointSubset::default()
        });
        let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(address);
    }
    normal(groups.into_values().collect())
}

/// Empty lists made absent and the rest put in order, so that equal content compares equal.
fn normal(mut subsets: Vec<EndpointSubset>) -> Vec<EndpointSubset> {
    for subset in &mut subsets {
        for list in [&mut subset.addresses, &mut subset.not_ready_addresses] {
            list.take_if(|list| list.is_empty());
            for address in list.iter_mut().flatten() {
                if let Some(target) = &mut address.target_ref {
                    target.resource_version = None;
                }
            }
            let key = |address: &EndpointAddress| {
                (address.ip.clone(), address.target_ref.as_ref().and_then(|target| target.uid.clone()))
            };
            if let Some(list) = list {
                list.sort_by_key(key);
            }
        }
        subset.ports.take_if(|ports| ports.is_empty());
        if let Some(ports) = &mut subset.ports {
            for port in ports.iter_mut() {
                port.name.take_if(|name| name.is_empty());
                port.protocol.get_or_insert_with(|| "TCP".to_owned());
            }
            ports.sort_by_key(|port| (port.name.clone(), port.port, port.protocol.clone()));
        }
    }
    subsets.sort_by_key(|subset| {
        let first =
            |list: &Option<Vec<EndpointAddress>>| list.iter().flatten().next().map(|it| it.ip.clone());
        let ports: Vec<_> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| (port.name.clone(), port.port, port.protocol.clone()))
            .collect();
        (ports, first(&subset.addresses), first(&subset.not_ready_addresses))
    });
    subsets
}

fn address(pod: &Pod, service: &Service) -> Option<EndpointAddress> {
    let listed = service.spec.as_ref().and_then(|spec| spec.ip_families.as_ref()?.first());
    let cluster_ip = services::cluster_ip(service).filter(|ip| *ip != "None");
    let ipv6 = match (listed, cluster_ip) {
        (Some(family), _) => family == "IPv6",
        (None, Some(ip)) => ip.contains(':'),
        (None, None) => services::addresses(pod).next()?.is_ipv6(),
    };
    Some(EndpointAddress {
        ip: services::addresses(pod).find(|address| address.is_ipv6() == ipv6)?.to_string(),
        hostname: services::hostname(pod, service),
        node_name: pods::node_name(pod).map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    })
}

fn port_key(pod: &Pod, port: &ServicePort) -> Option<(String, i32, String, Option<String>)> {
    let protocol = services::protocol(port.protocol.as_deref()).to_owned();
    let number = services::target_port(pod, port)?;
    Some((port.name.clone().unwrap_or_default(), number, protocol, port.app_protocol.clone()))
}

fn to_port((name, port, protocol, app_protocol): (String, i32, String, Option<String>)) -> EndpointPort {
    EndpointPort { name: (!name.is_empty()).then_some(name), port, protocol: Some(protocol), app_protocol }
}

/// Cuts the list to what one object may hold: ready addresses first, an even part of each subset.
fn truncate(mut subsets: Vec<EndpointSubset>) -> (Vec<EndpointSubset>, bool) {
    let count = |of: &dyn Fn(&EndpointSubset) -> &Option<Vec<EndpointAddress>>| -> usize {
        subsets.iter().map(|subset| of(subset).as_ref().map(Vec::len).unwrap_or_default()).sum()
    };
    let ready = count(&|subset| &subset.addresses);
    let not_ready = count(&|subset| &subset.not_ready_addresses);
    if ready + not_ready <= CAPACITY {
        return (subsets, false);
    }
    let cut_ready = ready > CAPACITY;
    let (room, total) = if cut_ready { (CAPACITY, ready) } else { (CAPACITY - ready, not_ready) };
    let mut left = room;
    for subset in &mut subsets {
        if cut_ready {
            subset.not_ready_addresses = None;
        }
        let list = if cut_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        let Some(addresses) = list else { continue };
        addresses.truncate((addresses.len() * room).div_ceil(total).min(left));
        left -= addresses.len();
    }
    subsets.retain(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some());
    (normal(subsets), true)
}
