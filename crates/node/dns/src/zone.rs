//! What the names stand for: a compact copy of Services and EndpointSlices, indexed the way questions come.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ahash::AHashMap;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use podium_client::ObjectKey;

/// A port by name and protocol, as SRV questions name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Empty when the Service's only port has no name.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The Service's port, or the target port of a headless endpoint.
    pub number: u16,
}

/// One endpoint of a headless Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointName {
    /// Its hostname, or its address with dashes.
    pub label: String,
    /// Its address.
    pub address: IpAddr,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// What one Service's name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A virtual address.
    Cluster {
        /// Cluster IPs, one or two.
        addresses: Vec<IpAddr>,
        /// The Service's ports.
        ports: Vec<Port>,
    },
    /// The endpoints themselves; may be empty.
    Headless {
        /// Sorted, without duplicates.
        endpoints: Vec<EndpointName>,
    },
    /// Another name.
    External {
        /// As the Service gives it.
        name: String,
    },
}

/// The whole zone.
#[derive(Debug, Default)]
pub struct Zone {
    entries: AHashMap<String, AHashMap<String, Entry>>,
    names: AHashMap<IpAddr, BTreeSet<(String, String, Option<String>)>>,
}

impl Zone {
    /// Sets what a Service stands for; `None` removes it.
    pub fn set(&mut self, key: &ObjectKey, entry: Option<&Entry>) {
        let namespace = self.entries.entry(key.namespace.clone()).or_default();
        let old = match entry {
            Some(new) => namespace.insert(key.name.clone(), new.clone()),
            None => namespace.remove(&key.name),
        };
        if namespace.is_empty() {
            self.entries.remove(&key.namespace);
        }
        for (address, label) in old.iter().flat_map(reverse) {
            if let Some(names) = self.names.get_mut(&address) {
                names.remove(&(key.namespace.clone(), key.name.clone(), label));
                if names.is_empty() {
                    self.names.remove(&address);
                }
            }
        }
        for (address, label) in entry.into_iter().flat_map(reverse) {
            let names = self.names.entry(address).or_default();
            names.insert((key.namespace.clone(), key.name.clone(), label));
        }
    }

    /// What a Service's name stands for.
    pub fn service(&self, namespace: &str, name: &str) -> Option<&Entry> {
        self.entries.get(namespace)?.get(name)
    }

    /// Whether any Service is in this namespace.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.entries.contains_key(namespace)
    }

    /// Names of an address: namespace, Service, and the endpoint's label for a headless one.
    pub fn names_of(&self, address: IpAddr) -> impl Iterator<Item = &(String, String, Option<String>)> {
        self.names.get(&address).into_iter().flatten()
    }
}

fn reverse(entry: &Entry) -> Vec<(IpAddr, Option<String>)> {
    match entry {
        Entry::Cluster { addresses, .. } => addresses.iter().map(|a| (*a, None)).collect(),
        Entry::Headless { endpoints } => {
            endpoints.iter().map(|e| (e.address, Some(e.label.clone()))).collect()
        }
        Entry::External { .. } => Vec::new(),
    }
}

/// What a Service and its slices say. `None` while the Service has no address yet.
pub fn entry(service: &Service, slices: &[&EndpointSlice]) -> Option<Entry> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return Some(Entry::External { name: spec.external_name.clone()? });
    }
    let ips = spec.cluster_ips.clone().unwrap_or_else(|| spec.cluster_ip.iter().cloned().collect());
    if ips.first().is_some_and(|ip| ip == "None") {
        let publish_all = spec.publish_not_ready_addresses.unwrap_or(false);
        return Some(Entry::Headless { endpoints: endpoints(slices, publish_all) });
    }
    let addresses: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    if addresses.is_empty() {
        return None;
    }
    let ports = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase(),
                number: u16::try_from(port.port).ok()?,
            })
        })
        .collect();
    Some(Entry::Cluster { addresses, ports })
}

fn endpoints(slices: &[&EndpointSlice], publish_all: bool) -> Vec<EndpointName> {
    let mut found = BTreeSet::new();
    for slice in slices {
        let ports: Vec<Port> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                Some(Port {
                    name: port.name.clone().unwrap_or_default(),
                    protocol: port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase(),
                    number: u16::try_from(port.port?).ok()?,
                })
            })
            .collect();
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            if !(ready || publish_all) {
                continue;
            }
            for address in endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()) {
                let label = endpoint.hostname.clone().unwrap_or_else(|| dashed(address));
                found.insert(EndpointName {
                    label: label.to_ascii_lowercase(),
                    address,
                    ports: ports.clone(),
                });
            }
        }
    }
    found.into_iter().collect()
}

/// `10.244.0.5` as `10-244-0-5`, `fd00::1` as `fd00--1`.
pub fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// The inverse of [`dashed`].
pub fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::from);
    v4.or_else(|| label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::from))
}
