//! Host ports: which a pod takes and when two pods cannot share a node because of them.

use k8s_openapi::api::core::v1::PodSpec;

const ANY_ADDRESS: &str = "0.0.0.0";

/// One port of the host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The host address; `0.0.0.0` for all.
    pub address: String,
    /// Never zero.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be taken at once: an unspecified address takes the port on all addresses.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || self.address == ANY_ADDRESS || other.address == ANY_ADDRESS)
    }
}

/// The host ports of a pod's containers and sidecars.
pub(crate) fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = sidecars.chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let address = port.host_ip.as_deref().filter(|address| !address.is_empty());
            Some(HostPort {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                address: address.unwrap_or(ANY_ADDRESS).to_owned(),
                port: number,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_conflict_on_one_address_or_on_all() {
        let port = |protocol: &str, address: &str, port| HostPort {
            protocol: protocol.into(),
            address: address.into(),
            port,
        };
        let cases = [
            (port("TCP", "0.0.0.0", 80), port("TCP", "0.0.0.0", 80), true),
            (port("TCP", "0.0.0.0", 80), port("TCP", "10.0.0.1", 80), true),
            (port("TCP", "10.0.0.1", 80), port("TCP", "10.0.0.1", 80), true),
            (port("TCP", "10.0.0.1", 80), port("TCP", "10.0.0.2", 80), false),
            (port("TCP", "0.0.0.0", 80), port("UDP", "0.0.0.0", 80), false),
            (port("TCP", "0.0.0.0", 80), port("TCP", "0.0.0.0", 81), false),
        ];
        for (one, other, expected) in cases {
            assert_eq!(one.conflicts_with(&other), expected, "{one:?} {other:?}");
            assert_eq!(other.conflicts_with(&one), expected, "{other:?} {one:?}");
        }
    }
}
