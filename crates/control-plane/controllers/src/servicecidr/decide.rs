//! What one range of Service addresses needs.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::clock;
use crate::finalizers;
use crate::labels;
use crate::owner;

/// Holds a range while addresses need it.
pub(crate) const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Marks the addresses that the API server hands out.
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const API_SERVER: &str = "ipallocator.k8s.io";
/// So long it may take every API server to learn that a range is on its way out.
const GRACE_SECONDS: i64 = 10;
const READY: &str = "Ready";

/// To be carried out in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decision {
    pub(crate) hold: bool,
    pub(crate) condition: Option<Condition>,
    pub(crate) release: bool,
    pub(crate) next_check: Option<Timestamp>,
}

/// An address and the length of its prefix.
type Prefix = (IpAddr, u8);

/// Decides about one range. `all` are all ranges, this one included; `addresses` all addresses.
pub(crate) fn decide(
    range: &ServiceCIDR,
    all: &[&ServiceCIDR],
    addresses: &[&IPAddress],
    now: Timestamp,
) -> Decision {
    let mut decision = Decision::default();
    let Some(deleted) = &range.metadata.deletion_timestamp else {
        decision.hold = !finalizers::has(range, FINALIZER);
        decision.condition = changed(range, "True", "", "Kubernetes Service CIDR is ready", now);
        return decision;
    };
    if is_needed(range, all, addresses) {
        let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        decision.condition = changed(range, "False", "Terminating", message, now);
        return decision;
    }
    let moment = clock::after(deleted.0, GRACE_SECONDS);
    if moment > now {
        decision.next_check = Some(moment);
    } else {
        decision.release = finalizers::has(range, FINALIZER);
    }
    decision
}

fn changed(
    range: &ServiceCIDR,
    status: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Option<Condition> {
    let conditions = range.status.as_ref().and_then(|status| status.conditions.as_ref());
    let old = conditions.into_iter().flatten().find(|condition| condition.type_ == READY);
    if old.is_some_and(|old| old.status == status && old.reason == reason && old.message == message) {
        return None;
    }
    Some(Condition {
        type_: READY.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: clock::time(now),
        observed_generation: None,
    })
}

/// Whether an address would belong to no range without this one.
fn is_needed(range: &ServiceCIDR, all: &[&ServiceCIDR], addresses: &[&IPAddress]) -> bool {
    let others: Vec<Prefix> = all
        .iter()
        .filter(|other| other.metadata.name != range.metadata.name)
        .flat_map(|other| prefixes(other))
        .collect();
    let own: Vec<Prefix> = prefixes(range).collect();
    let inside = |inner: &Prefix| others.iter().any(|other| other.1 <= inner.1 && contains(other, inner.0));
    if own.iter().all(inside) {
        return false;
    }
    addresses.iter().filter_map(|it| handed_out(it)).any(|address| {
        own.iter().any(|own| contains(own, address)) && !others.iter().any(|other| contains(other, address))
    })
}

/// The address, if the API server gave it to a Service.
pub(crate) fn handed_out(address: &IPAddress) -> Option<IpAddr> {
    let managed = labels::value(address.metadata.labels.as_ref(), MANAGED_BY) == Some(API_SERVER);
    if managed { owner::name(&address.metadata).parse().ok() } else { None }
}

/// Whether one of the range's parts has the address.
pub(crate) fn covers(range: &ServiceCIDR, address: IpAddr) -> bool {
    prefixes(range).any(|prefix| contains(&prefix, address))
}

/// Whether the ranges have addresses in common.
pub(crate) fn overlap(one: &ServiceCIDR, other: &ServiceCIDR) -> bool {
    prefixes(one).any(|a| prefixes(other).any(|b| contains(&a, b.0) || contains(&b, a.0)))
}

fn prefixes(range: &ServiceCIDR) -> impl Iterator<Item = Prefix> + '_ {
    let cidrs = range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    cidrs.filter_map(|cidr| {
        let (address, length) = cidr.split_once('/')?;
        Some((address.parse().ok()?, length.parse().ok()?))
    })
}

fn contains(prefix: &Prefix, address: IpAddr) -> bool {
    match (prefix.0, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            let shift = 32u32.saturating_sub(u32::from(prefix.1));
            u32::from(base).checked_shr(shift) == u32::from(address).checked_shr(shift)
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            let shift = 128u32.saturating_sub(u32::from(prefix.1));
            u128::from(base).checked_shr(shift) == u128::from(address).checked_shr(shift)
        }
        _ => false,
    }
}
