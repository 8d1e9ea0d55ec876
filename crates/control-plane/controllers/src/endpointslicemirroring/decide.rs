//! The slices that mirror one Endpoints object.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};

use podium_client::EventType;

use super::MANAGER;
use crate::endpointslice::{
    Decision, Family, Group, Groups, MANAGED_BY, Parent, SERVICE_NAME, endpoint_key, port_key,
};
use crate::labels;
use crate::names::NameSource;
use crate::owner;
use crate::services::{self, trigger};

/// Asks not to be mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Marks Endpoints that serve as a lock.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that are about the Endpoints object itself.
const NOT_COPIED: [&str; 2] = [trigger::TRIGGER_TIME, "kubectl.kubernetes.io/last-applied-configuration"];

/// What a decision is, and how many addresses it left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Mirror {
    pub(crate) decision: Decision,
    /// Whether there is something to mirror at all, and how many of its addresses are not.
    pub(crate) skipped: Option<usize>,
}

/// Chooses the writes: mirrors where there is something to mirror, and else removes what was. `most` is how many addresses of a
/// subset are mirrored, and how many endpoints a slice has at most.
pub(crate) fn decide(
    endpoints: Option<&Endpoints>,
    service: Option<&Service>,
    slices: &[Arc<EndpointSlice>],
    most: usize,
    names: &dyn NameSource,
) -> Mirror {
    let mirrored = service.filter(|service| services::selector(service).is_none()).and(endpoints);
    let Some(endpoints) = mirrored.filter(|it| wants_mirror(it)) else {
        let delete = slices.iter().map(|slice| EndpointSlice::clone(slice)).collect();
        return Mirror { decision: Decision { delete, ..Decision::default() }, skipped: None };
    };
    let parent = parent(endpoints);
    let mut decision = Decision::default();
    let Wanted { groups, invalid, skipped } = wanted(endpoints, most);
    decision.events = events(most, invalid, skipped);
    for (family, groups) in groups {
        let part = Family { parent: &parent, family, most, names }.reconcile(slices, groups);
        decision.create.extend(part.create);
        decision.update.extend(part.update);
        decision.delete.extend(part.delete);
        decision.counts.extend(part.counts);
    }
    if endpoints.metadata.deletion_timestamp.is_some() {
        decision.create.clear();
    }
    Mirror { decision, skipped: Some(skipped) }
}

/// Tells of addresses that are left out.
fn events(most: usize, invalid: usize, skipped: usize) -> Vec<(EventType, &'static str, String)> {
    let mut events = Vec::new();
    if invalid > 0 {
        let message = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
        events.push((EventType::Warning, "InvalidIPAddress", message));
    }
    if skipped > invalid {
        let message = format!(
            "A max of {most} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped"
        );
        events.push((EventType::Warning, "TooManyAddressesToMirror", message));
    }
    events
}

fn wants_mirror(endpoints: &Endpoints) -> bool {
    labels::value(endpoints.metadata.labels.as_ref(), SKIP) != Some("true")
        && labels::value(endpoints.metadata.annotations.as_ref(), LEADER).is_none()
}

fn parent(endpoints: &Endpoints) -> Parent {
    let name = owner::name(&endpoints.metadata).to_owned();
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.clone());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
    Parent {
        name,
        namespace: endpoints.metadata.namespace.clone(),
        owner: owner::controller_reference(endpoints),
        labels,
        annotations: Some(annotations),
        placeholder: false,
    }
}

/// What is to be mirrored.
struct Wanted {
    /// By family and ports.
    groups: [(&'static str, Groups); 2],
    /// Addresses that are none.
    invalid: usize,
    /// Those, and the ones beyond the limit of a subset.
    skipped: usize,
}

fn wanted(endpoints: &Endpoints, most: usize) -> Wanted {
    let mut wanted = [("IPv4", Groups::new()), ("IPv6", Groups::new())];
    let (mut invalid, mut skipped) = (0, 0);
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(port.port),
                protocol: Some(services::protocol(port.protocol.as_deref()).to_owned()),
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let others = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        let mut mirrored = 0;
        for (address, ready) in ready.chain(others) {
            if mirrored == most {
                skipped += 1;
                continue;
            }
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                invalid += 1;
                skipped += 1;
                continue;
            };
            mirrored += 1;
            let groups = &mut wanted[usize::from(ip.is_ipv6())].1;
            let group = groups
                .entry(port_key(&ports))
                .or_insert_with(|| Group { ports: ports.clone(), endpoints: BTreeMap::new() });
            let endpoint = endpoint(address, ip, ready);
            group.endpoints.insert(endpoint_key(&endpoint), endpoint);
        }
    }
    Wanted { groups: wanted, invalid, skipped }
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), serving: None, terminating: None }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}
