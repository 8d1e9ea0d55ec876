//! The rule set: its fixed frame, and the elements of one Service. Pure text.
//!
//! A connection's first packet is looked up by destination in `services` (or by port in `nodeports`), which names a
//! shared chain `pick-N` for N endpoints; that chain draws a number into the packet mark and looks the endpoint up by
//! destination and number. So no chain or set exists per Service (they cost the kernel quadratic time), except where
//! session affinity needs its memory of clients.

use std::collections::BTreeSet;
use std::fmt::Write;

use podium_network::Cidr;

use crate::plan::{Backend, PortPlan};

/// Set in the mark of connections from outside whose source must become the node's, so that answers return this way.
const MASQUERADE: u32 = 0x4000;

/// One element of a map or set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// The map or set.
    pub container: &'static str,
    /// Its key.
    pub key: String,
    /// Its value; `None` in a set.
    pub value: Option<String>,
}

/// What one Service needs in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRules {
    /// Elements of the shared maps and sets.
    pub elements: BTreeSet<Element>,
    /// Numbers of endpoints whose shared chains must exist.
    pub picks: BTreeSet<Pick>,
    /// Chains of its own, in order of definition; for session affinity only.
    pub chains: Vec<Chain>,
}

/// A shared chain that chooses among a number of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pick {
    /// By cluster IP or load balancer address, with or without masquerading.
    Address {
        /// How many endpoints.
        count: usize,
        /// Whether the client's address is replaced.
        masquerade: bool,
    },
    /// By node port.
    Port {
        /// How many endpoints.
        count: usize,
        /// Whether the client's address is replaced.
        masquerade: bool,
    },
}

impl Pick {
    fn name(self) -> String {
        let (kind, count, masquerade) = match self {
            Pick::Address { count, masquerade } => ("pick", count, masquerade),
            Pick::Port { count, masquerade } => ("pick-port", count, masquerade),
        };
        format!("{kind}-{count}{}", if masquerade { "-masquerade" } else { "" })
    }

    /// The commands that make the chain in `table`.
    pub fn script(self, table: &str) -> String {
        let (count, masquerade, lookup) = match self {
            Pick::Address { count, masquerade } => {
                (count, masquerade, "ip daddr . meta l4proto . th dport . meta mark map @endpoints")
            }
            Pick::Port { count, masquerade } => {
                (count, masquerade, "meta l4proto . th dport . meta mark map @port-endpoints")
            }
        };
        let name = self.name();
        let offset = if masquerade { MASQUERADE } else { 0 };
        // A modulus of one is refused by nft, and needs no draw.
        let draw = if count == 1 {
            format!("{offset}")
        } else {
            format!("numgen random mod {count} offset {offset}")
        };
        format!(
            "add chain ip {table} {name}\nadd rule ip {table} {name} meta mark set {draw}\nadd rule ip {table} {name} dnat ip to {lookup}\n"
        )
    }
}

/// A chain of one Service, with the sets its rules name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Sets it uses: name and lifetime of an element in seconds.
    pub sets: Vec<(String, u32)>,
    /// Its rules.
    pub rules: Vec<String>,
}

/// What the fixed part depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// All pods' addresses. Who else calls a cluster address gets the node's, so that answers of pods elsewhere return this
    /// way; where it is not known nobody does.
    pub cluster_cidr: Option<Cidr>,
    /// Addresses of this node at which node ports answer; empty for all.
    pub node_port_addresses: Vec<Cidr>,
}

/// The fixed part. Applying it replaces the whole table in one transaction.
pub fn frame(table: &str, options: &Frame) -> String {
    let node_ports = match options.node_port_addresses.as_slice() {
        [] => String::new(),
        some => {
            let list: Vec<String> = some.iter().map(Cidr::to_string).collect();
            format!("ip daddr {{ {} }} ", list.join(", "))
        }
    };
    let outside = options.cluster_cidr.map_or_else(String::new, |pods| {
        format!("  ct status dnat ip saddr != {pods} ct original ip daddr @cluster-ips masquerade\n")
    });
    format!(
        "table ip {table}
delete table ip {table}
table ip {table} {{
map services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
map nodeports {{ type inet_proto . inet_service : verdict; }}
map endpoints {{ type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service; }}
map port-endpoints {{ type inet_proto . inet_service . mark : ipv4_addr . inet_service; }}
set hairpin {{ type ipv4_addr . ipv4_addr; }}
set cluster-ips {{ type ipv4_addr; }}
set refused {{ type ipv4_addr . inet_proto . inet_service; }}
set refused-ports {{ type inet_proto . inet_service; }}
chain services {{
  ip daddr . meta l4proto . th dport vmap @services
  ip daddr 127.0.0.0/8 return
  {node_ports}fib daddr type local meta l4proto . th dport vmap @nodeports
}}
chain refuse {{
  ct state != new return
  ip daddr . meta l4proto . th dport @refused jump reject-it
  {node_ports}fib daddr type local meta l4proto . th dport @refused-ports jump reject-it
  ip daddr @cluster-ips jump reject-it
}}
chain reject-it {{
  meta l4proto tcp reject with tcp reset
  reject
}}
chain prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
chain output {{ type nat hook output priority -100; jump services; }}
chain refuse-forward {{ type filter hook forward priority filter - 10; jump refuse; }}
chain refuse-output {{ type filter hook output priority filter - 10; jump refuse; }}
chain refuse-input {{ type filter hook input priority filter - 10; jump refuse; }}
chain postrouting {{
  type nat hook postrouting priority srcnat - 1;
  ct status dnat meta mark & {MASQUERADE:#x} == {MASQUERADE:#x} masquerade
  ct status dnat ip saddr . ip daddr @hairpin masquerade
{outside}}}
}}
"
    )
}

/// The rules of one Service. `id` distinguishes the names of its chains: letters, digits and dashes.
pub fn service(id: &str, ports: &[PortPlan]) -> ServiceRules {
    let mut rules = ServiceRules::default();
    for port in ports {
        let internal = Way { masquerade: false, backends: &port.internal };
        let external = Way { masquerade: !port.preserve_client, backends: &port.external };
        let affinity_chain = |rules: &mut ServiceRules, way: &Way<'_>, kind: &str| {
            port.affinity_seconds.filter(|_| !way.backends.is_empty()).map(|seconds| {
                let name = format!("{id}-{}-{}-{kind}", port.protocol.as_str(), port.port);
                add_affinity(rules, &name, way, seconds);
                name
            })
        };
        for (addresses, way, kind) in
            [(&port.cluster_ips, &internal, "in"), (&port.external_ips, &external, "ex")]
        {
            if addresses.is_empty() {
                continue;
            }
            let own = affinity_chain(&mut rules, way, kind);
            for address in addresses {
                let key = format!("{address} . {} . {}", port.protocol.as_str(), port.port);
                let pick = Pick::Address { count: way.backends.len(), masquerade: way.masquerade };
                add_entrance(
                    &mut rules,
                    &key,
                    ["services", "endpoints", "refused"],
                    way,
                    pick,
                    own.as_deref(),
                );
            }
        }
        if let Some(node_port) = port.node_port {
            let own = affinity_chain(&mut rules, &external, "np");
            let key = format!("{} . {node_port}", port.protocol.as_str());
            let pick = Pick::Port { count: external.backends.len(), masquerade: external.masquerade };
            let maps = ["nodeports", "port-endpoints", "refused-ports"];
            add_entrance(&mut rules, &key, maps, &external, pick, own.as_deref());
        }
        // What still has such a destination in a filter chain asked for a port that the Service has not.
        for address in &port.cluster_ips {
            let key = address.to_string();
            rules.elements.insert(Element { container: "cluster-ips", key, value: None });
        }
        for backend in port.internal.iter().chain(&port.external) {
            let key = format!("{0} . {0}", backend.address);
            rules.elements.insert(Element { container: "hairpin", key, value: None });
        }
    }
    rules
}

struct Way<'a> {
    masquerade: bool,
    backends: &'a [Backend],
}

fn add_entrance(
    rules: &mut ServiceRules,
    key: &str,
    [verdicts, endpoints, refused]: [&'static str; 3],
    way: &Way<'_>,
    pick: Pick,
    own_chain: Option<&str>,
) {
    if way.backends.is_empty() {
        rules.elements.insert(Element { container: refused, key: key.to_owned(), value: None });
        return;
    }
    let target = match own_chain {
        Some(name) => name.to_owned(),
        None => {
            rules.picks.insert(pick);
            let offset = if way.masquerade { MASQUERADE } else { 0 };
            for (number, backend) in (offset..).zip(way.backends) {
                rules.elements.insert(Element {
                    container: endpoints,
                    key: format!("{key} . {number:#x}"),
                    value: Some(format!("{} . {}", backend.address, backend.port)),
                });
            }
            pick.name()
        }
    };
    let value = Some(format!("goto {target}"));
    rules.elements.insert(Element { container: verdicts, key: key.to_owned(), value });
}

/// Chains that remember which endpoint a client was sent to, for as long as it keeps coming.
fn add_affinity(rules: &mut ServiceRules, name: &str, way: &Way<'_>, seconds: u32) {
    let member = |backend: &Backend| format!("{name}-{}-{}", backend.address, backend.port);
    let mut entry = Chain { name: name.to_owned(), sets: Vec::new(), rules: Vec::new() };
    if way.masquerade {
        entry.rules.push(format!("meta mark set {MASQUERADE:#x}"));
    }
    for backend in way.backends {
        let own = member(backend);
        entry.rules.push(format!("ip saddr @{own} goto {own}"));
        rules.chains.push(Chain {
            name: own.clone(),
            sets: vec![(own.clone(), seconds)],
            rules: vec![
                format!("update @{own} {{ ip saddr }}"),
                format!("meta l4proto {{ tcp, udp }} dnat ip to {}:{}", backend.address, backend.port),
            ],
        });
    }
    let last = match way.backends {
        [only] => format!("goto {}", member(only)),
        many => {
            let mut text = format!("numgen random mod {} vmap {{ ", many.len());
            for (number, backend) in many.iter().enumerate() {
                let comma = if number == 0 { "" } else { ", " };
                let _ = write!(text, "{comma}{number} : goto {}", member(backend));
            }
            text.push_str(" }");
            text
        }
    };
    entry.rules.push(last);
    rules.chains.push(entry);
}
