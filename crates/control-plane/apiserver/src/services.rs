//! Addresses and ports of Services: unique because each is a key of its own, taken in the same transaction as the
//! Service that has it and given back in the one that drops it. There is no allocator state to rebuild or repair.
//!
//! Cluster addresses are `IPAddress` objects, as upstream has them; node ports are keys nobody else reads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use podium_store::{Change, Expect, Key, Operation};
use serde_json::{Value, json};

use podium_api::field::{Errors, Path, Reason};
use podium_api::status::ApiError;

use crate::catalogue::{Served, prefix};
use crate::config::Cidr;
use crate::core::Core;
use crate::{clock, names, storage};

/// The reason of the (internal) refusal that makes a create or update try again with another address.
pub(crate) const RACED: &str = "AllocationRaced";

/// Random picks before every address is looked at in order.
const RANDOM_TRIES: usize = 32;

/// What must be written together with a Service.
#[derive(Debug, Default)]
pub(crate) struct Reservation {
    pub(crate) operations: Vec<Operation>,
}

/// The ranges to choose from.
#[derive(Debug)]
pub(crate) struct Services {
    cidr: Cidr,
    ports: RangeInclusive<u16>,
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
        let listed = spec["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        held.addresses
            .extend(listed.chain(spec["clusterIP"].as_str()).filter_map(|ip| ip.parse::<IpAddr>().ok()));
        let ports = spec["ports"].as_array().into_iter().flatten().map(|port| &port["nodePort"]);
        held.ports.extend(
            ports
                .chain([&spec["healthCheckNodePort"]])
                .filter_map(|number| u16::try_from(number.as_u64()?).ok())
                .filter(|number| *number != 0),
        );
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
        Services { cidr, ports }
    }

    /// The address of the `kubernetes` Service.
    pub(crate) fn first_address(&self) -> IpAddr {
        self.cidr.at(1)
    }

    /// The block Services are in.
    pub(crate) fn cidr(&self) -> Cidr {
        self.cidr
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
        self.fill(core, object, &Held::default())?;
        Ok(self.reserve(object, &Held::default()))
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
        carry_over(new, old);
        let held = Held::of(old);
        self.fill(core, new, &held)?;
        Ok(self.reserve(new, &held))
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

    fn fill(&self, core: &Core, object: &mut Value, held: &Held) -> Result<(), ApiError> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let mut errors = Errors::new();
        let kind = object["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
        if kind == "ExternalName" {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]
            {
                crate::registry::remove(&mut object["spec"], field);
            }
        } else {
            self.fill_address(core, &mut object["spec"], held, &mut errors);
        }
        self.fill_ports(core, &mut object["spec"], &kind, held, &mut errors);
        if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid("", "Service", &name, &errors)) }
    }

    fn fill_address(&self, core: &Core, spec: &mut Value, held: &Held, errors: &mut Errors) {
        let path = Path::new("spec");
        let first = spec["clusterIPs"][0].as_str().unwrap_or_default().to_owned();
        let given = spec["clusterIP"].as_str().unwrap_or_default().to_owned();
        let wanted = if given.is_empty() { first } else { given };
        let headless = wanted == "None";
        let selectorless = spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
        if spec["ipFamilyPolicy"].is_null() {
            let dual = headless && selectorless;
            spec["ipFamilyPolicy"] = json!(if dual { "RequireDualStack" } else { "SingleStack" });
        }
        let family = if self.cidr.is_ipv4() { "IPv4" } else { "IPv6" };
        if spec["ipFamilies"].as_array().is_none_or(Vec::is_empty) {
            let other = if family == "IPv4" { "IPv6" } else { "IPv4" };
            let both = headless && selectorless && spec["ipFamilyPolicy"] != "SingleStack";
            spec["ipFamilies"] = if both { json!([family, other]) } else { json!([family]) };
        }
        if headless {
            spec["clusterIP"] = json!("None");
            spec["clusterIPs"] = json!(["None"]);
            return;
        }
        if spec["ipFamilyPolicy"] == "RequireDualStack" {
            errors.invalid(
                &path.child("ipFamilyPolicy"),
                "RequireDualStack",
                "this cluster is not configured for dual-stack services",
            );
            return;
        }
        for (index, asked) in spec["ipFamilies"].as_array().into_iter().flatten().enumerate() {
            if asked != family {
                errors.invalid(
                    &path.child("ipFamilies").index(index),
                    asked.clone(),
                    "not configured on this cluster",
                );
                return;
            }
        }
        let chosen = if wanted.is_empty() {
            self.choose_address(core)
        } else {
            self.check_address(core, &wanted, held)
        };
        match chosen {
            Ok(address) => {
                spec["clusterIP"] = json!(address);
                spec["clusterIPs"] = json!([address]);
            }
            Err(why) => {
                let asked = if wanted.is_empty() { json!([""]) } else { json!([wanted]) };
                errors.invalid(&path.child("clusterIPs"), asked, &why);
            }
        }
    }

    fn check_address(&self, core: &Core, wanted: &str, held: &Held) -> Result<String, String> {
        // Text that is no address is validation's to refuse.
        let Ok(address) = wanted.parse::<IpAddr>() else { return Ok(wanted.to_owned()) };
        if held.addresses.contains(&address) {
            return Ok(wanted.to_owned());
        }
        if !self.cidr.contains(address) {
            return Err(format!(
                "failed to allocate IP {wanted}: the provided network does not match the current range"
            ));
        }
        if core.store.get(&address_key(address)).is_some() {
            return Err(format!("failed to allocate IP {wanted}: provided IP is already allocated"));
        }
        Ok(wanted.to_owned())
    }

    /// A free address, from the upper part of the block as upstream does, so that the lower part stays free for
    /// addresses that people choose.
    fn choose_address(&self, core: &Core) -> Result<String, String> {
        let size = self.cidr.size();
        // The first address and the last are never given to Services.
        let (first, last) = (1, size.saturating_sub(2));
        let reserved = (size / 16).clamp(16, 256);
        let low = if reserved < last { reserved + 1 } else { first };
        let free = |offset: u64| {
            let address = self.cidr.at(offset);
            core.store.get(&address_key(address)).is_none().then(|| address.to_string())
        };
        if low <= last {
            for _ in 0..RANDOM_TRIES {
                if let Some(address) = free(fastrand::u64(low..=last)) {
                    return Ok(address);
                }
            }
        }
        (low..=last)
            .chain(first..low)
            .find_map(free)
            .ok_or_else(|| "failed to allocate a serviceIP: range is full".to_owned())
    }

    fn fill_ports(&self, core: &Core, spec: &mut Value, kind: &str, held: &Held, errors: &mut Errors) {
        let local = spec["externalTrafficPolicy"] == "Local";
        let exposes = kind == "NodePort"
            || (kind == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] != json!(false));
        let may_name = matches!(kind, "NodePort" | "LoadBalancer");
        let mut taken: BTreeMap<u16, BTreeSet<String>> = BTreeMap::new();
        let mut by_port: BTreeMap<u64, u16> = BTreeMap::new();
        let path = Path::new("spec");
        let ports_path = path.child("ports");
        let Some(ports) = spec["ports"].as_array_mut() else { return };
        if !may_name {
            // Left over from another type.
            ports.iter_mut().for_each(|port| crate::registry::remove(port, "nodePort"));
        }
        // Those with a number first: the others must not take it.
        for (index, port) in ports.iter().enumerate().filter(|_| may_name) {
            let number = port["nodePort"].as_u64().unwrap_or(0);
            let Ok(number) = u16::try_from(number) else { continue };
            if number == 0 {
                continue;
            }
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            let fresh = taken.entry(number).or_default().insert(protocol);
            by_port.entry(port["port"].as_u64().unwrap_or(0)).or_insert(number);
            let element = ports_path.index(index);
            let field = element.child("nodePort");
            if !fresh {
                errors.push(Reason::Duplicate, &field, format!("Duplicate value: {number}"));
            } else if held.ports.contains(&number) {
            } else if !self.ports.contains(&number) {
                let why = format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    self.ports.start(),
                    self.ports.end()
                );
                errors.invalid(&field, number, &why);
            } else if core.store.get(&port_key(number)).is_some() {
                errors.invalid(&field, number, "provided port is already allocated");
            }
        }
        for (index, port) in ports.iter_mut().enumerate().filter(|_| exposes) {
            if port["nodePort"].as_u64().unwrap_or(0) != 0 {
                continue;
            }
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            let own = port["port"].as_u64().unwrap_or(0);
            // Two protocols of one port share a number where they can, as DNS over UDP and TCP wants.
            let shared = by_port
                .get(&own)
                .copied()
                .filter(|number| taken.get(number).is_none_or(|protocols| !protocols.contains(&protocol)));
            let chosen = shared.or_else(|| {
                self.choose_port(core, |number| taken.contains_key(&number) || held.ports.contains(&number))
            });
            match chosen {
                Some(number) => {
                    taken.entry(number).or_default().insert(protocol);
                    by_port.entry(own).or_insert(number);
                    port["nodePort"] = json!(number);
                }
                None => {
                    let element = ports_path.index(index);
                    let why = "failed to allocate a nodePort: range is full";
                    errors.invalid(&element.child("nodePort"), 0, why);
                }
            }
        }
        let wants_health = kind == "LoadBalancer" && local;
        if wants_health && spec["healthCheckNodePort"].as_u64().unwrap_or(0) == 0 {
            let chosen =
                self.choose_port(core, |number| taken.contains_key(&number) || held.ports.contains(&number));
            if let Some(number) = chosen {
                spec["healthCheckNodePort"] = json!(number);
            }
        } else if !wants_health {
            crate::registry::remove(spec, "healthCheckNodePort");
        }
    }

    fn choose_port(&self, core: &Core, used: impl Fn(u16) -> bool) -> Option<u16> {
        let (start, end) = (*self.ports.start(), *self.ports.end());
        let size = end.saturating_sub(start);
        // The lower part is for numbers that people choose. Source: KEP-3668.
        let low = start + (size / 32).clamp(16, 128).min(size);
        let free = |number: u16| !used(number) && core.store.get(&port_key(number)).is_none();
        let random = (0..RANDOM_TRIES).map(|_| fastrand::u16(low..=end)).find(|number| free(*number));
        random.or_else(|| (low..=end).chain(start..low).find(|number| free(*number)))
    }

    /// The keys that must come and go with the Service.
    fn reserve(&self, service: &Value, held: &Held) -> Reservation {
        let wanted = Held::of(service);
        let mut operations: Vec<Operation> = Vec::new();
        for address in wanted.addresses.difference(&held.addresses) {
            let value = storage::encode(&address_object(*address, service));
            operations.push((address_key(*address), Expect::Absent, Change::Put { value, lease: None }));
        }
        for port in wanted.ports.difference(&held.ports) {
            let owner = format!(
                "{}/{}",
                service["metadata"]["namespace"].as_str().unwrap_or_default(),
                service["metadata"]["name"].as_str().unwrap_or_default()
            );
            operations.push((port_key(*port), Expect::Absent, Change::put(owner.as_str())));
        }
        let dropped = held.addresses.difference(&wanted.addresses).map(|address| address_key(*address));
        let dropped = dropped.chain(held.ports.difference(&wanted.ports).map(|port| port_key(*port)));
        operations.extend(dropped.map(|key| (key, Expect::Any, Change::Delete)));
        Reservation { operations }
    }
}

/// What a client leaves out of a change stays: the address, and the node port of each port that is still there.
fn carry_over(new: &mut Value, old: &Value) {
    let kind = |object: &Value| object["spec"]["type"].as_str().unwrap_or("ClusterIP").to_owned();
    let (new_kind, old_kind) = (kind(new), kind(old));
    if new_kind != "ExternalName" && old_kind != "ExternalName" {
        let absent = new["spec"]["clusterIP"].as_str().is_none_or(str::is_empty)
            && new["spec"]["clusterIPs"][0].as_str().is_none_or(str::is_empty);
        if absent {
            for field in ["clusterIP", "clusterIPs"] {
                new["spec"][field] = old["spec"][field].clone();
            }
        }
    }
    if old_kind == "ExternalName" && new_kind != "ExternalName" {
        for field in ["clusterIP", "clusterIPs"] {
            if new["spec"][field] == old["spec"][field] {
                crate::registry::remove(&mut new["spec"], field);
            }
        }
    }
    if !matches!(new_kind.as_str(), "NodePort" | "LoadBalancer") {
        return;
    }
    let known: Vec<(Value, Value, Value)> = old["spec"]["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|port| port["nodePort"].as_u64().unwrap_or(0) != 0)
        .map(|port| (port["port"].clone(), port["protocol"].clone(), port["nodePort"].clone()))
        .collect();
    let named: BTreeSet<u64> = new["spec"]["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|port| port["nodePort"].as_u64())
        .collect();
    for port in new["spec"]["ports"].as_array_mut().into_iter().flatten() {
        if port["nodePort"].as_u64().unwrap_or(0) != 0 {
            continue;
        }
        let same = known
            .iter()
            .find(|(number, protocol, _)| *number == port["port"] && *protocol == port["protocol"]);
        if let Some((_, _, node_port)) = same
            && node_port.as_u64().is_some_and(|number| !named.contains(&number))
        {
            port["nodePort"] = node_port.clone();
        }
    }
    if new["spec"]["healthCheckNodePort"].is_null() && old["spec"]["healthCheckNodePort"].is_u64() {
        new["spec"]["healthCheckNodePort"] = old["spec"]["healthCheckNodePort"].clone();
    }
}

fn address_key(address: IpAddr) -> Key {
    Key::from(format!("{}{address}", prefix("networking.k8s.io", "ipaddresses")))
}

fn port_key(port: u16) -> Key {
    Key::from(format!("{}{port}", prefix("allocations.podium", "nodeports")))
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
            "generation": 1,
            "labels": {
                "ipaddress.kubernetes.io/ip-family": if address.is_ipv4() { "IPv4" } else { "IPv6" },
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
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
            "ports": [{"nodePort": 30001}, {"nodePort": 30001, "protocol": "UDP"}, {}],
        }});
        let held = Held::of(&service);
        assert_eq!(held.addresses.len(), 1);
        assert_eq!(held.ports, BTreeSet::from([30001]));
        assert_eq!(Held::of(&json!({"spec": {"clusterIP": "None"}})), Held::default());
    }

    #[test]
    fn an_update_keeps_what_it_does_not_name() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30001}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [
            {"port": 80, "protocol": "TCP"}, {"port": 81, "protocol": "TCP"}]}});
        carry_over(&mut new, &old);
        assert_eq!(new["spec"]["clusterIP"], "10.96.0.9");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
        assert!(new["spec"]["ports"][1]["nodePort"].is_null());
    }
}
