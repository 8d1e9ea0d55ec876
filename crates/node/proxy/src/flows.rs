//! Which UDP flows the kernel must forget after a change. Pure.
//!
//! The rules choose an endpoint for a flow's first packet; the kernel remembers the choice for as long as packets come. A
//! TCP connection to an endpoint that is gone breaks, and its client dials anew; a UDP client that keeps its source port (a
//! resolver, say) never notices and talks to nobody for ever. The same holds for a flow that began before its Service had
//! rules. So after a change such flows are forgotten, and their next packet is a first one again.
//!
//! Source: kubernetes `pkg/proxy/conntrack/cleanup.go`. Two differences: only flows to this node's own addresses count as
//! flows to a node port (there: any address), and an endpoint that is ready counts as serving whatever it says of that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use podium_network::Cidr;
use podium_network::conntrack::Flow;

use crate::plan::{PortPlan, Protocol};

/// The UDP ports of all Services, and whether they changed since the kernel's flows were last looked through.
#[derive(Debug, Default)]
pub struct Flows {
    services: BTreeMap<String, Vec<PortPlan>>,
    changed: bool,
}

impl Flows {
    /// Notes what one Service is now; no ports when it is gone.
    pub fn update(&mut self, key: &str, ports: &[PortPlan]) {
        let new: Vec<PortPlan> =
            ports.iter().filter(|port| port.protocol == Protocol::Udp).cloned().collect();
        if self.services.get(key).map_or(&[][..], Vec::as_slice) == new.as_slice() {
            return;
        }
        self.changed = true;
        if new.is_empty() {
            self.services.remove(key);
        } else {
            self.services.insert(key.to_owned(), new);
        }
    }

    /// Where flows may go, once after every change; `None` when there was none.
    pub fn take(&mut self) -> Option<Serving> {
        std::mem::take(&mut self.changed).then(|| Serving::of(self.services.values().flatten()))
    }

    /// The last look at the kernel's flows failed: the next [`Flows::take`] gives an answer again.
    pub fn mark(&mut self) {
        self.changed = true;
    }
}

/// Where the flows to each entrance of a Service may go: addresses of endpoints by what the client asked for. An entrance
/// whose Service has no serving endpoint is not in it, as upstream: there is nowhere better for its flows to go, and a
/// lone endpoint that stops being ready for a moment must not lose them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serving {
    /// By cluster IP or load balancer address, with the Service's port.
    addresses: BTreeMap<SocketAddrV4, BTreeSet<SocketAddrV4>>,
    /// By node port.
    node_ports: BTreeMap<u16, BTreeSet<SocketAddrV4>>,
}

impl Serving {
    fn of<'a>(ports: impl Iterator<Item = &'a PortPlan>) -> Self {
        let mut all = Serving::default();
        for port in ports.filter(|port| !port.serving.is_empty()) {
            let serving = || port.serving.iter().map(|b| SocketAddrV4::new(b.address, b.port));
            for address in port.cluster_ips.iter().chain(&port.external_ips) {
                let entrance = SocketAddrV4::new(*address, port.port);
                all.addresses.entry(entrance).or_default().extend(serving());
            }
            if let Some(node_port) = port.node_port {
                all.node_ports.entry(node_port).or_default().extend(serving());
            }
        }
        all
    }

    /// Those of `flows` that were sent to a Service and go where nobody serves it. `own` are the addresses of this node
    /// at which node ports answer.
    pub fn stale<'a>(&self, flows: &'a [Flow], own: &BTreeSet<Ipv4Addr>) -> Vec<&'a Flow> {
        let serving = |flow: &Flow| {
            self.addresses.get(&flow.destination).or_else(|| {
                let node_port = self.node_ports.get(&flow.destination.port());
                node_port.filter(|_| own.contains(flow.destination.ip()))
            })
        };
        flows
            .iter()
            .filter(|flow| serving(flow).is_some_and(|some| !some.contains(&flow.reply_source)))
            .collect()
    }
}

/// The addresses at which node ports answer: this host's own, without loopback, as far as they lie `within` (anywhere,
/// when empty). The same choice as the frame's rules make.
pub fn node_port_addresses(local: BTreeSet<Ipv4Addr>, within: &[Cidr]) -> BTreeSet<Ipv4Addr> {
    let answers = |address: &Ipv4Addr| {
        !address.is_loopback() && (within.is_empty() || within.iter().any(|cidr| cidr.contains(*address)))
    };
    local.into_iter().filter(answers).collect()
}

#[cfg(test)]
mod tests;
