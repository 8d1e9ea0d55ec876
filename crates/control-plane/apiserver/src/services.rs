//! Addresses and ports of Services: unique because each is a key of its own, taken in the same transaction as the
//! Service that has it and given back in the one that drops it. There is no allocator state beside that.
//!
//! Cluster addresses are `IPAddress` objects, as upstream has them; node ports are keys nobody else reads. Clients may delete
//! and write `IPAddress` objects, and flags may change between starts, so both are compared with the Services: [`repair`].

mod addresses;
mod allocated;
mod counts;
mod families;
mod ports;
pub(crate) mod repair;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use podium_store::{Change, Expect, Key, Operation};
use serde_json::{Value, json};

use podium_api::kinds::service as kinds;
use podium_api::status::ApiError;

use crate::catalogue::{Served, prefix};
use crate::config::Cidr;
use crate::core::Core;
use crate::{clock, names, storage};
use counts::{Allocations, Counts, Scope};

/// The reason of the (internal) refusal that makes a create or update try again with another address.
pub(crate) const RACED: &str = "AllocationRaced";

/// Random picks before every address or port is looked at in order.
const RANDOM_TRIES: usize = 32;

/// Who manages the `IPAddress` objects made here. Source: upstream's `ipallocator.ControllerName`.
const MANAGER: &str = "ipallocator.k8s.io";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const IP_FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// What must be written together with a Service.
#[derive(Debug, Default)]
pub(crate) struct Reservation {
    pub(crate) operations: Vec<Operation>,
    pub(crate) allocations: Allocations,
}

/// The ranges to choose from.
#[derive(Debug)]
pub(crate) struct Services {
    cidr: Cidr,
    ports: RangeInclusive<u16>,
    counts: Counts,
}

/// The addresses and ports one Service holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Held {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

impl Held {
    fn of(service: &Value) -> Held {
        let spec = &service["spec"];
        let mut held = Held::default();
        if spec["type"] != "ExternalName" {
            let listed = spec["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
            held.addresses
                .extend(listed.chain(spec["clusterIP"].as_str()).filter_map(|ip| ip.parse::<IpAddr>().ok()));
        }
        let number = |number: &Value| u16::try_from(number.as_u64()?).ok().filter(|number| *number != 0);
        if kinds::has_node_ports(spec) {
            let ports = spec["ports"].as_array().into_iter().flatten();
            held.ports.extend(ports.filter_map(|port| number(&port["nodePort"])));
        }
        if kinds::needs_health_check(spec) {
            held.ports.extend(number(&spec["healthCheckNodePort"]));
        }
        held
    }
}

/// The commit lost a race for one of its reserved keys: the caller tries the whole write again, and finds out whether
/// another address will do or the one asked for is taken.
pub(crate) fn taken(key: &Key, name: &str) -> ApiError {
    ApiError::new(500, RACED, format!("{key} was taken while service {name:?} was written"))
}

fn is_service(served: &Served) -> bool {
    served.plural == "services" && served.group.is_empty()
}

impl Services {
    pub(crate) fn new(cidr: Cidr, ports: RangeInclusive<u16>) -> Services {
        Services { cidr, ports, counts: Counts::default() }
    }

    /// The address of the `kubernetes` Service.
    pub(crate) fn first_address(&self) -> IpAddr {
        self.cidr.at(1)
    }

    /// The block Services are in.
    pub(crate) fn cidr(&self) -> Cidr {
        self.cidr
    }

    /// The ports of Services on nodes.
    pub(crate) fn ports(&self) -> &RangeInclusive<u16> {
        &self.ports
    }

    /// Fills in what a new Service is given, and reserves it.
    ///
    /// Errors: 422 where what is asked for is taken or outside the ranges.
    pub(crate) fn prepare_create(
        &self,
        core: &Core,
        served: &Served,
        object: &mut Value,
    ) -> Result<Reservation, ApiError> {
        if !is_service(served) {
            return Ok(Reservation::default());
        }
        let asked = Held::of(object);
        self.fill(core, object, None)?;
        Ok(self.reserve(core, object, &Held::default(), &asked))
    }

    /// The same for a change: what the Service has it keeps, what it no longer names it gives back.
    pub(crate) fn prepare_update(
        &self,
        core: &Core,
        served: &Served,
        new: &mut Value,
        old: &Value,
    ) -> Result<Reservation, ApiError> {
        if !is_service(served) {
            return Ok(Reservation::default());
        }
        let asked = Held::of(new);
        self.fill(core, new, Some(old))?;
        Ok(self.reserve(core, new, &Held::of(old), &asked))
    }

    /// What a deleted Service gives back.
    pub(crate) fn freed(&self, served: &Served, object: &Value) -> Vec<Operation> {
        if !is_service(served) {
            return Vec::new();
        }
        let held = Held::of(object);
        let addresses = held.addresses.iter().map(|address| address_key(*address));
        let ports = held.ports.iter().map(|port| port_key(*port));
        addresses.chain(ports).map(|key| (key, Expect::Any, Change::Delete)).collect()
    }

    /// What was not said and what was taken, in upstream's order: families, addresses, ports. The first that fails is told
    /// alone, as upstream does.
    fn fill(&self, core: &Core, new: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
        let name = new["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let family = if self.cidr.is_ipv4() { "IPv4" } else { "IPv6" };
        let faults = families::settle(new, old, family);
        if !faults.is_empty() {
            return Err(ApiError::invalid("", "Service", &name, &faults));
        }
        let asked = Held::of(new);
        let addresses = addresses::Pool { core, own: self.cidr };
        addresses
            .fill(new, old, &name)
            .inspect_err(|_| self.counts.address_failed(self.cidr, Scope::of(!asked.addresses.is_empty())))?;
        let free = |number: u16| core.store.get(&port_key(number)).is_none();
        ports::Operation::new(&self.ports, &free)
            .fill(new, old, &name)
            .inspect_err(|_| self.counts.port_failed(Scope::of(!asked.ports.is_empty())))
    }

    /// A Service was stored with what was chosen for it, or asked for in it.
    pub(crate) fn allocated(&self, allocations: Allocations) {
        self.counts.add(allocations);
    }

    /// The keys that must come and go with the Service. `asked`: what its client named.
    fn reserve(&self, core: &Core, service: &Value, held: &Held, asked: &Held) -> Reservation {
        let wanted = Held::of(service);
        let mut operations: Vec<Operation> = Vec::new();
        let mut allocations = Allocations::default();
        for address in wanted.addresses.difference(&held.addresses) {
            let scope = Scope::of(asked.addresses.contains(address));
            allocations.addresses.push((addresses::Pool { core, own: self.cidr }.block_of(*address), scope));
            let value = storage::encode(&address_object(*address, service));
            operations.push((address_key(*address), Expect::Absent, Change::Put { value, lease: None }));
        }
        for port in wanted.ports.difference(&held.ports) {
            allocations.ports.push(Scope::of(asked.ports.contains(port)));
            operations.push((port_key(*port), Expect::Absent, Change::put(name_of(service).as_str())));
        }
        let dropped = held.addresses.difference(&wanted.addresses).map(|address| address_key(*address));
        let dropped = dropped.chain(held.ports.difference(&wanted.ports).map(|port| port_key(*port)));
        operations.extend(dropped.map(|key| (key, Expect::Any, Change::Delete)));
        Reservation { operations, allocations }
    }
}

/// `namespace/name`.
fn name_of(service: &Value) -> String {
    let part = |name: &str| service["metadata"][name].as_str().unwrap_or_default();
    format!("{}/{}", part("namespace"), part("name"))
}

fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn address_key(address: IpAddr) -> Key {
    Key::from(format!("{}{address}", prefix("networking.k8s.io", "ipaddresses")))
}

fn ports_prefix() -> String {
    prefix("allocations.podium", "nodeports")
}

fn port_key(port: u16) -> Key {
    Key::from(format!("{}{port}", ports_prefix()))
}

/// The `IPAddress` that says who has the address.
fn address_object(address: IpAddr, service: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "uid": names::uid(),
            "creationTimestamp": clock::now(),
            "labels": {
                IP_FAMILY: family_of(address),
                MANAGED_BY: MANAGER,
            },
        },
        "spec": {"parentRef": {
            "group": "", "resource": "services",
            "namespace": service["metadata"]["namespace"], "name": service["metadata"]["name"],
        }},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_holds() {
        let service = json!({"spec": {
            "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "ports": [{"nodePort": 30001}, {"nodePort": 30001, "protocol": "UDP"}, {}], "type": "NodePort",
        }});
        let held = Held::of(&service);
        assert_eq!(held.addresses.len(), 1);
        assert_eq!(held.ports, BTreeSet::from([30001]));
        assert_eq!(Held::of(&json!({"spec": {"clusterIP": "None"}})), Held::default());
        // What the type has no use for is not held, whatever the fields say.
        let name = json!({"spec": {"type": "ExternalName", "clusterIP": "10.96.0.9", "ports": [{"nodePort": 30001}]}});
        assert_eq!(Held::of(&name), Held::default());
    }
}
