//! Hints of Services that ask for them by annotation: endpoints are shared out among zones as the nodes' processors are.
//!
//! Source of behaviour: `staging/src/k8s.io/endpointslice/topologycache`. Difference: which endpoint serves another zone than its
//! own does not depend on chance.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForZone};
use podium_api::quantity::Quantity;

use super::pack::{EndpointKey, Groups, endpoint_key};
use crate::labels;
use crate::nodes;
use crate::owner;

/// How much more than its share of the traffic an endpoint may get, as a factor.
const OVERLOAD: f64 = 1.2;
/// Nodes with one of these labels run no workload and are not counted.
const EXCLUDED: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
const ZONE: &str = "topology.kubernetes.io/zone";

/// Whether the Service asks for hints by annotation, which then counts more than its traffic distribution.
pub(crate) fn is_asked(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let mode = ["service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"]
        .into_iter()
        .find_map(|key| labels::value(annotations, key));
    matches!(mode, Some("Auto" | "auto"))
}

/// The zone of a node, if it says one.
pub(crate) fn zone(node: &Node) -> Option<&str> {
    labels::value(node.metadata.labels.as_ref(), ZONE).filter(|zone| !zone.is_empty())
}

/// The part of the cluster's processors that each zone has.
pub(crate) type Shares = BTreeMap<String, f64>;

/// The processors of all nodes that are ready, node by node.
#[derive(Debug, Default)]
pub(crate) struct Capacity {
    /// Zone and thousandths of processors; `None` for a node that does not say both, and without which nothing can be told.
    nodes: HashMap<String, Option<(String, i64)>>,
}

impl Capacity {
    /// Takes over a node. Returns whether that is news.
    pub(crate) fn put(&mut self, node: &Node) -> bool {
        let name = owner::name(&node.metadata);
        let own = node.metadata.labels.as_ref();
        let excluded = own.is_some_and(|own| EXCLUDED.iter().any(|label| own.contains_key(*label)));
        if excluded || !nodes::is_ready(node) {
            return self.remove(name);
        }
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        let cpu = allocatable.and_then(|amounts| amounts.get("cpu")?.0.parse::<Quantity>().ok());
        let known = cpu.map(|cpu| cpu.milli_value()).filter(|cpu| *cpu > 0);
        let facts = zone(node).zip(known).map(|(zone, cpu)| (zone.to_owned(), cpu));
        let old = self.nodes.insert(name.to_owned(), facts.clone());
        old != Some(facts)
    }

    /// Forgets a node. Returns whether it was known.
    pub(crate) fn remove(&mut self, node: &str) -> bool {
        self.nodes.remove(node).is_some()
    }

    /// The shares of at least two zones; `None` when that cannot be told.
    pub(crate) fn shares(&self) -> Option<Shares> {
        let mut zones = Shares::new();
        for node in self.nodes.values() {
            let (zone, cpu) = node.as_ref()?;
            *zones.entry(zone.clone()).or_default() += *cpu as f64;
        }
        let total: f64 = zones.values().sum();
        zones.values_mut().for_each(|cpu| *cpu /= total);
        (zones.len() >= 2).then_some(zones)
    }
}

/// How many endpoints one zone is to have.
#[derive(Clone, Copy, Debug)]
struct Allocation {
    least: f64,
    most: f64,
    desired: f64,
}

/// The zone by which an endpoint is hinted now.
fn hint(endpoint: &Endpoint) -> Option<&str> {
    endpoint.hints.as_ref()?.for_zones.as_ref()?.first().map(|zone| zone.name.as_str())
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready != Some(false))
}

/// Whether any endpoint of these slices and that address type has a hint.
pub(crate) fn has_hints<'a>(mut slices: impl Iterator<Item = &'a EndpointSlice>, family: &str) -> bool {
    slices.any(|slice| {
        slice.address_type == family && slice.endpoints.iter().flatten().any(|it| hint(it).is_some())
    })
}

/// Gives each ready endpoint its zone. Endpoints keep the hints they have while each zone gets what it must.
///
/// # Errors
///
/// Why there can be no hints, in upstream's words. Then there are none.
pub(crate) fn assign<'a>(
    groups: &mut Groups,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    shares: Option<&Shares>,
) -> Result<(), String> {
    let mut endpoints: Vec<&mut Endpoint> = groups
        .values_mut()
        .flat_map(|group| group.endpoints.values_mut())
        .filter(|endpoint| is_ready(endpoint))
        .collect();
    let allocations = allocations(endpoints.len(), shares)?;
    let own = |endpoint: &Endpoint| endpoint.zone.clone().filter(|zone| !zone.is_empty());
    let homes: Option<Vec<String>> = endpoints.iter().map(|endpoint| own(endpoint)).collect();
    let homes = homes.ok_or("One or more endpoints do not have a zone specified")?;
    let known: HashMap<EndpointKey, &str> = slices
        .flat_map(|slice| slice.endpoints.iter().flatten())
        .filter_map(|endpoint| Some((endpoint_key(endpoint), hint(endpoint)?)))
        .collect();
    let kept: Vec<String> = endpoints
        .iter()
        .zip(&homes)
        .map(|(endpoint, home)| {
            let zone = known.get(&endpoint_key(endpoint)).filter(|zone| allocations.contains_key(**zone));
            zone.map_or_else(|| home.clone(), |zone| (*zone).to_owned())
        })
        .collect();
    let counts = counts(&kept);
    let fits = |(zone, allocation): (&String, &Allocation)| {
        let count = counts.get(zone.as_str()).copied().unwrap_or_default();
        count >= allocation.least && count <= allocation.most
    };
    let zones = if allocations.iter().all(fits) { kept } else { shared_out(&homes, &allocations) };
    for (endpoint, zone) in endpoints.iter_mut().zip(zones) {
        let for_zones = Some(vec![ForZone { name: zone }]);
        endpoint.hints = Some(EndpointHints { for_zones, for_nodes: None });
    }
    Ok(())
}

fn allocations(endpoints: usize, shares: Option<&Shares>) -> Result<BTreeMap<String, Allocation>, String> {
    let shares = shares
        .ok_or("Insufficient Node information: allocatable CPU or zone not specified on one or more nodes")?;
    let numbers = format!("({endpoints} endpoints, {} zones)", shares.len());
    if shares.len() > endpoints {
        return Err(format!("Insufficient number of endpoints {numbers}"));
    }
    let total = endpoints as f64;
    let least = |share: f64| (share * total / OVERLOAD).ceil();
    let needed: f64 = shares.values().map(|share| least(*share)).sum();
    if needed > total {
        return Err(format!(
            "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold {numbers}"
        ));
    }
    let of = |share: f64| {
        let least = least(share);
        Allocation { least, most: least + total - needed, desired: (share * total).max(least) }
    };
    Ok(shares.iter().map(|(zone, share)| (zone.clone(), of(*share))).collect())
}

fn counts(zones: &[String]) -> BTreeMap<&str, f64> {
    let mut counts = BTreeMap::new();
    for zone in zones {
        *counts.entry(zone.as_str()).or_default() += 1.0;
    }
    counts
}

/// Each endpoint for its own zone, but where a zone has more than it should, as many of them for zones that have less.
fn shared_out(homes: &[String], allocations: &BTreeMap<String, Allocation>) -> Vec<String> {
    let mut zones = homes.to_vec();
    let counts = counts(homes);
    let mut surplus: BTreeMap<&str, f64> = allocations
        .iter()
        .map(|(zone, it)| {
            (zone.as_str(), counts.get(zone.as_str()).copied().unwrap_or_default() - it.desired)
        })
        .collect();
    loop {
        let by_surplus = |one: &(&&str, &f64), other: &(&&str, &f64)| one.1.total_cmp(other.1);
        let (Some((giver, most)), Some((taker, least))) =
            (surplus.iter().max_by(by_surplus), surplus.iter().min_by(by_surplus))
        else {
            return zones;
        };
        // Half an endpoint is nobody's; and to move one must help one side at least by a whole one.
        let (gives, takes) = (*most, -*least);
        if gives < 0.5 || takes < 0.5 || (gives < 1.0 && takes < 1.0) {
            return zones;
        }
        let (giver, taker) = (*giver, *taker);
        let Some(moved) = (0..zones.len()).find(|at| zones[*at] == giver && homes[*at] == giver) else {
            return zones;
        };
        taker.clone_into(&mut zones[moved]);
        *surplus.entry(giver).or_default() -= 1.0;
        *surplus.entry(taker).or_default() += 1.0;
    }
}
