//! What of the Services' addresses and ports does not fit together, and what is to be done about it. Pure; `keeper` acts.
//!
//! Source: upstream's `ipallocator/controller/repairip.go` and `portallocator/controller/repair.go`, reasons and messages too.
//! Here a Service and what it holds are written in one transaction, so nothing leaks by a crash: what is found was done by
//! clients that delete or write `IPAddress` objects, by other flags at a start, or by our own faults.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use jiff::Timestamp;
use serde_json::Value;

use super::{IP_FAMILY, MANAGED_BY, MANAGER, family_of, name_of};
use crate::config::Cidr;

pub(crate) mod keeper;
#[cfg(test)]
mod tests;

/// An address whose Service is not there may belong to one that is just being made, by whoever makes addresses first: as
/// long as a request may take.
const GRACE_SECONDS: i64 = 60;

/// Rounds in which a port must be found leaked before it is freed. Source: upstream's `numRepairsBeforeLeakCleanup`.
const LEAKED_ROUNDS: u32 = 3;

/// What is stored, all as of one moment.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Services, in the order of their names.
    pub(super) services: Vec<Value>,
    /// `IPAddress` objects by name.
    pub(super) addresses: BTreeMap<String, Value>,
    /// Who has which node port, as `namespace/name`.
    pub(super) ports: BTreeMap<u16, String>,
    /// The blocks of every ServiceCIDR, ready or not.
    pub(super) blocks: Vec<Cidr>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Act {
    /// Nothing can be: a person has to.
    Tell,
    /// The address becomes this Service's, whatever there is now.
    Give(IpAddr, Box<Value>),
    /// This `IPAddress` is removed.
    Remove(Box<Value>),
    /// The port is noted as this Service's.
    Take(u16, Box<Value>),
    /// The port is nobody's.
    Free(u16),
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    /// The object that an event is about, with the event's reason and message; `None` where upstream only logs.
    pub(super) event: Option<(Value, &'static str, String)>,
    pub(super) act: Act,
}

/// Everything that does not fit about addresses.
pub(super) fn addresses(seen: &Seen, now: Timestamp) -> Vec<Finding> {
    let mut found = Vec::new();
    let by_name: BTreeMap<String, &Value> = seen.services.iter().map(|it| (name_of(it), it)).collect();
    let mut given: BTreeSet<IpAddr> = BTreeSet::new();
    for service in seen.services.iter().filter(|service| service["spec"]["type"] != "ExternalName") {
        for text in texts(&service["spec"]["clusterIPs"]).filter(|text| !matches!(*text, "" | "None")) {
            let Ok(address) = text.parse::<IpAddr>() else {
                let why = format!("Cluster IP {text} is not a valid IP; please recreate Service");
                found.push(tell(service, "ClusterIPNotValid", why, Act::Tell));
                continue;
            };
            if let Some(finding) = address_of(seen, &by_name, service, address) {
                // Of two Services that claim a free address the first has it.
                let gives = matches!(finding.act, Act::Give(..));
                if !gives || given.insert(address) {
                    found.push(finding);
                }
            }
        }
    }
    let orphans =
        seen.addresses.values().filter(|it| !is_given(it, &given)).filter_map(|it| orphan(it, &by_name, now));
    found.extend(orphans);
    found
}

fn is_given(address: &Value, given: &BTreeSet<IpAddr>) -> bool {
    let name = address["metadata"]["name"].as_str().unwrap_or_default();
    name.parse().is_ok_and(|address: IpAddr| given.contains(&address))
}

/// What is wrong with one address of one Service.
fn address_of(
    seen: &Seen,
    by_name: &BTreeMap<String, &Value>,
    service: &Value,
    address: IpAddr,
) -> Option<Finding> {
    let family = family_of(address);
    let give = || Act::Give(address, Box::new(service.clone()));
    if !seen.blocks.iter().any(|block| block.contains(address)) {
        let why = format!(
            "Cluster IP [{family}]: {address} is not within any configured Service CIDR; please recreate service"
        );
        return Some(tell(service, "ClusterIPOutOfRange", why, Act::Tell));
    }
    let Some(object) = seen.addresses.get(&address.to_string()) else {
        let why = format!("Cluster IP [{family}]: {address} is not allocated; repairing");
        return Some(tell(service, "ClusterIPNotAllocated", why, give()));
    };
    let name = name_of(service);
    let parent = parent(object);
    let other = parent.as_deref().and_then(|parent| by_name.get(parent));
    match (&parent, other) {
        (Some(parent), _) if *parent == name => {}
        (Some(_), Some(other)) if texts(&other["spec"]["clusterIPs"]).any(|it| it == address.to_string()) => {
            let why = format!(
                "Cluster IP [{family}]:{address} was assigned to multiple services; please recreate service"
            );
            return Some(tell(service, "ClusterIPAlreadyAllocated", why, Act::Tell));
        }
        _ => {
            let why = format!(
                "the ClusterIP [{family}]: {address} for Service {name} has a wrong reference; repairing"
            );
            return Some(tell(service, "ClusterIPNotAllocated", why, give()));
        }
    }
    let labels = &object["metadata"]["labels"];
    let labelled = labels[IP_FAMILY] == family && labels[MANAGED_BY] == MANAGER;
    (!labelled).then(|| Finding { event: None, act: give() })
}

/// The Service that an address says it is of, as `namespace/name`; `None` if it is of something else.
fn parent(address: &Value) -> Option<String> {
    let parent = &address["spec"]["parentRef"];
    let part = |name: &str| parent[name].as_str().unwrap_or_default();
    (part("group").is_empty() && part("resource") == "services")
        .then(|| format!("{}/{}", part("namespace"), part("name")))
}

/// What is wrong with an address that we manage and that its Service does not name.
fn orphan(address: &Value, by_name: &BTreeMap<String, &Value>, now: Timestamp) -> Option<Finding> {
    let meta = &address["metadata"];
    let name = meta["name"].as_str().unwrap_or_default();
    let going = !meta["deletionTimestamp"].is_null();
    if meta["labels"][MANAGED_BY] != MANAGER || going {
        return None;
    }
    let remove = Act::Remove(Box::new(address.clone()));
    let Some(parent) = parent(address) else {
        let why = format!(
            "IPAddress {name} appears to have been modified, not referencing a Service {}: cleaning up",
            address["spec"]["parentRef"]
        );
        return Some(tell(address, "IPAddressNotAllocated", why, remove));
    };
    let created = meta["creationTimestamp"].as_str().and_then(crate::clock::parse);
    let young = created.is_some_and(|created| now.as_second() - created.as_second() <= GRACE_SECONDS);
    match by_name.get(&parent) {
        Some(service) if texts(&service["spec"]["clusterIPs"]).any(|it| it == name) => None,
        // A Service that becomes more than a name gets its address first.
        Some(service) if young && service["spec"]["type"] == "ExternalName" => None,
        Some(_) => {
            let why = format!("IPAddress: {name} for Service {parent} has a wrong reference; cleaning up");
            Some(tell(address, "IPAddressWrongReference", why, remove))
        }
        None if young => None,
        None => {
            let why = format!("IPAddress: {name} for Service {parent} appears to have leaked: cleaning up");
            Some(tell(address, "IPAddressNotAllocated", why, remove))
        }
    }
}

/// Everything that does not fit about node ports. `leaks` counts in how many rounds each port was found leaked.
pub(super) fn ports(
    seen: &Seen,
    range: &RangeInclusive<u16>,
    leaks: &mut BTreeMap<u16, u32>,
) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut owners: BTreeSet<u16> = BTreeSet::new();
    for service in &seen.services {
        for port in super::Held::of(service).ports {
            if !range.contains(&port) {
                let why = format!(
                    "Port {port} is not within the port range {}-{}; please recreate service",
                    range.start(),
                    range.end()
                );
                found.push(tell(service, "PortOutOfRange", why, Act::Tell));
                // It is this Service's all the same.
                owners.insert(port);
            } else if !owners.insert(port) {
                let why = format!("Port {port} was assigned to multiple services; please recreate service");
                found.push(tell(service, "PortAlreadyAllocated", why, Act::Tell));
            } else if !seen.ports.contains_key(&port) {
                let why = format!("Port {port} is not allocated; repairing");
                found.push(tell(
                    service,
                    "PortNotAllocated",
                    why,
                    Act::Take(port, Box::new(service.clone())),
                ));
            }
        }
    }
    leaks.retain(|port, _| seen.ports.contains_key(port) && !owners.contains(port));
    for port in seen.ports.keys().filter(|port| !owners.contains(port)) {
        let rounds = leaks.entry(*port).or_default();
        *rounds += 1;
        if *rounds > LEAKED_ROUNDS {
            found.push(Finding { event: None, act: Act::Free(*port) });
        }
    }
    found
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn tell(about: &Value, reason: &'static str, why: String, act: Act) -> Finding {
    Finding { event: Some((about.clone(), reason, why)), act }
}
