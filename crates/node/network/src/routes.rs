//! Routes to the pods of other nodes: straight to the node's own address, which must be on a link of ours.
//!
//! [`plan`] maps the Nodes to what should be, [`changes`] compares that with what was installed before; both are pure. What
//! was installed is kept in a file, because the kernel cannot tell whose a route is and several clusters may share a host.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use k8s_openapi::api::core::v1::Node;

use crate::cidr::Cidr;
use crate::netlink::{Netlink, NetlinkError};

/// Destination to gateway: a node's pods to the node's address.
pub type Routes = BTreeMap<Cidr, Ipv4Addr>;

/// What the Nodes of the cluster mean for one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// One route for each other node that has pods and an address.
    pub routes: Routes,
    /// Ranges whose addresses are pods', none inside another: traffic to them keeps its source.
    pub pods: BTreeSet<Cidr>,
    /// What could not be used, one line each, for the log.
    pub faults: Vec<String>,
}

/// What routes need to know of one Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its pods' addresses.
    pub pods: Vec<Cidr>,
    /// Its first InternalIP of IPv4.
    pub address: Option<Ipv4Addr>,
}

impl NodeFacts {
    /// Reads them from the Node. Ranges of IPv6 are left out.
    pub fn of(node: &Node) -> Self {
        NodeFacts {
            pods: pod_cidrs(node).iter().filter_map(|text| text.parse().ok()).collect(),
            address: internal_address(node),
        }
    }
}

/// Decides the routes of the node called `own` from all Nodes by name. `cluster` is the whole cluster's range where it is
/// known.
///
/// A Node that claims addresses of our own range, or an address that cannot be a neighbour's, gets no route.
pub fn plan(nodes: &BTreeMap<String, NodeFacts>, own: &str, cluster: Option<Cidr>) -> Plan {
    let mut plan = Plan::default();
    let mut ranges: BTreeSet<Cidr> = cluster.into_iter().collect();
    ranges.extend(nodes.values().flat_map(|node| &node.pods));
    plan.pods = outermost(&ranges);
    let ours = nodes.get(own).map(|node| node.pods.as_slice()).unwrap_or_default();
    for (name, node) in nodes.iter().filter(|(name, node)| *name != own && !node.pods.is_empty()) {
        let Some(address) = node.address else {
            plan.faults.push(format!("node {name} has no InternalIP of IPv4: no route to its pods"));
            continue;
        };
        if address.is_loopback()
            || address.is_unspecified()
            || address.is_multicast()
            || address.is_broadcast()
            || node.pods.iter().any(|cidr| cidr.contains(address))
        {
            plan.faults.push(format!("node {name} has the InternalIP {address}: no route to its pods"));
            continue;
        }
        for cidr in &node.pods {
            let taken = ours.iter().chain(plan.routes.keys()).any(|other| other.overlaps(cidr));
            if taken {
                plan.faults.push(format!("node {name} has podCIDR {cidr}, which is another's: no route"));
                continue;
            }
            plan.routes.insert(*cidr, address);
        }
    }
    plan
}

/// Those ranges that lie in no other of them.
fn outermost(ranges: &BTreeSet<Cidr>) -> BTreeSet<Cidr> {
    let inside = |range: &Cidr| {
        ranges.iter().any(|other| other.prefix_len() < range.prefix_len() && other.overlaps(range))
    };
    ranges.iter().filter(|range| !inside(range)).copied().collect()
}

fn pod_cidrs(node: &Node) -> Vec<String> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let single = spec.pod_cidr.clone().filter(|cidr| !cidr.is_empty());
    spec.pod_cidrs.clone().filter(|all| !all.is_empty()).unwrap_or_else(|| single.into_iter().collect())
}

/// The first InternalIP of IPv4.
fn internal_address(node: &Node) -> Option<Ipv4Addr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().filter(|a| a.type_ == "InternalIP").find_map(|a| a.address.parse().ok())
}

/// One step of an update, in the order to take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Take the route away.
    Remove(Cidr, Ipv4Addr),
    /// Add it, in place of what leads there now.
    Set(Cidr, Ipv4Addr),
}

/// From what was installed to what should be.
pub fn changes(installed: &Routes, wanted: &Routes) -> Vec<Change> {
    let gone = installed.iter().filter(|(cidr, _)| !wanted.contains_key(cidr));
    let gone = gone.map(|(cidr, gateway)| Change::Remove(*cidr, *gateway));
    // All of them, also those that did not change: somebody else may have taken one away.
    let set = wanted.iter().map(|(cidr, gateway)| Change::Set(*cidr, *gateway));
    gone.chain(set).collect()
}

/// Brings the kernel from what the file says to `wanted`. Returns what could not be done yet, one line each: a
/// neighbour's link may come up later. The file lists everything that may be in the kernel, at every moment.
///
/// # Errors
/// The file cannot be written, or netlink cannot be used at all.
pub fn install(file: &Path, wanted: &Routes) -> Result<Vec<String>, InstallError> {
    let installed = read(file);
    let changes = changes(&installed, wanted);
    let mut all = installed.clone();
    all.extend(wanted);
    if all != installed {
        write(file, &all)?;
    }
    let mut netlink = Netlink::open()?;
    let mut faults = Vec::new();
    for change in changes {
        match change {
            Change::Remove(cidr, gateway) => {
                match netlink.delete_route(cidr.network(), cidr.prefix_len(), gateway) {
                    Err(error) if !error.missing() => return Err(error.into()),
                    _ => {}
                }
            }
            Change::Set(cidr, gateway) => {
                if let Err(error) = netlink.route_by(cidr.network(), cidr.prefix_len(), gateway) {
                    faults.push(format!("no route to {cidr} by {gateway}: {}", error.source));
                }
            }
        }
    }
    if all != *wanted {
        write(file, wanted)?;
    }
    Ok(faults)
}

/// Routes could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The record of what was installed.
    #[error("record of routes")]
    Record(#[from] io::Error),
    /// The kernel.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// Lines of `CIDR GATEWAY`. A line that does not parse is nobody's route.
fn read(file: &Path) -> Routes {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (cidr, gateway) = line.split_once(' ')?;
            Some((cidr.parse().ok()?, gateway.parse().ok()?))
        })
        .collect()
}

fn write(file: &Path, routes: &Routes) -> io::Result<()> {
    let mut text = String::new();
    for (cidr, gateway) in routes {
        let _ = writeln!(text, "{cidr} {gateway}");
    }
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let temporary = file.with_extension("new");
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, file)
}

#[cfg(test)]
mod tests;
