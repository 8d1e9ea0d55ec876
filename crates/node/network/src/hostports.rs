//! Ports of the node that lead to a pod: elements of one nftables map, looked up once per new connection.

use std::fmt::Write;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// One forwarded port, as CNI's `portMappings` capability gives it. The convention has small letters first; containerd
/// writes its Go names, which Go's plugins read as well.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// The port of the node.
    #[serde(alias = "HostPort")]
    pub host_port: u16,
    /// The port of the pod.
    #[serde(alias = "ContainerPort")]
    pub container_port: u16,
    /// `tcp` or `udp`, in any case.
    #[serde(alias = "Protocol")]
    pub protocol: String,
    /// The node's address it is bound to; empty or `0.0.0.0`: all.
    #[serde(default, rename = "hostIP", alias = "HostIP", skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
}

/// A mapping that cannot be made.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum HostPortError {
    /// Neither TCP nor UDP.
    #[error("host port {port}: protocol {protocol:?} is not tcp or udp")]
    Protocol {
        /// The node's port.
        port: u16,
        /// As given.
        protocol: String,
    },
    /// `hostIP` is no IPv4 address.
    #[error("host port {port}: host address {address:?} is not an IPv4 address")]
    Address {
        /// The node's port.
        port: u16,
        /// As given.
        address: String,
    },
}

/// The part of a table that looks host ports up. It belongs into a `table ip` made by the agent.
///
/// The links of pods with ports route loopback addresses, so that the host itself reaches the ports as `localhost`; nobody else may
/// come with such an address, or to one (CVE-2020-8558). Answers carry one only after this hook.
pub const RULES: &str = "\
map hostports { type inet_proto . inet_service : ipv4_addr . inet_service; }
map hostports-at { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
set hairpin { type ipv4_addr . ipv4_addr; }
chain forward-ports {
  dnat ip to ip daddr . meta l4proto . th dport map @hostports-at
  dnat ip to meta l4proto . th dport map @hostports
}
chain prerouting { type nat hook prerouting priority dstnat + 5; fib daddr type local jump forward-ports; }
chain output { type nat hook output priority -95; fib daddr type local jump forward-ports; }
chain only-loopback {
  type filter hook prerouting priority -150;
  iifname != lo ip saddr 127.0.0.0/8 drop
  iifname != lo ip daddr 127.0.0.0/8 drop
}
";

/// Whether a port is also one of the host's loopback addresses.
pub(crate) fn on_loopback(ports: &[HostPort]) -> bool {
    ports.iter().any(|port| {
        let address = port.host_ip.parse::<Ipv4Addr>();
        port.host_ip.is_empty() || address.is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
    })
}

/// The commands that add (`add`) or remove (`delete`) a pod's ports in `table`.
pub fn script(verb: &str, table: &str, pod: Ipv4Addr, ports: &[HostPort]) -> Result<String, HostPortError> {
    let mut text = String::new();
    for port in ports {
        let protocol = port.protocol.to_ascii_lowercase();
        if !matches!(protocol.as_str(), "tcp" | "udp") {
            return Err(HostPortError::Protocol { port: port.host_port, protocol: port.protocol.clone() });
        }
        let (map, key) = if matches!(port.host_ip.as_str(), "" | "0.0.0.0") {
            ("hostports", String::new())
        } else {
            let address: Ipv4Addr = port.host_ip.parse().map_err(|_| HostPortError::Address {
                port: port.host_port,
                address: port.host_ip.clone(),
            })?;
            ("hostports-at", format!("{address} . "))
        };
        let _ = writeln!(
            text,
            "{verb} element ip {table} {map} {{ {key}{protocol} . {} : {pod} . {} }}",
            port.host_port, port.container_port
        );
    }
    if !ports.is_empty() {
        let _ = writeln!(text, "{verb} element ip {table} hairpin {{ {pod} . {pod} }}");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_port: u16, protocol: &str, host_ip: &str) -> HostPort {
        HostPort { host_port, container_port: 80, protocol: protocol.to_owned(), host_ip: host_ip.to_owned() }
    }

    #[test]
    fn reads_both_spellings() {
        for text in [
            r#"{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.2"}"#,
            r#"{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "192.0.2.2"}"#,
        ] {
            assert_eq!(serde_json::from_str::<HostPort>(text).unwrap(), port(8080, "tcp", "192.0.2.2"));
        }
    }

    #[test]
    fn renders_elements_by_scope() {
        let ports = [port(8080, "TCP", ""), port(53, "udp", "192.0.2.2")];
        assert_eq!(
            script("add", "t", Ipv4Addr::new(10, 1, 0, 2), &ports).unwrap(),
            "add element ip t hostports { tcp . 8080 : 10.1.0.2 . 80 }\n\
             add element ip t hostports-at { 192.0.2.2 . udp . 53 : 10.1.0.2 . 80 }\n\
             add element ip t hairpin { 10.1.0.2 . 10.1.0.2 }\n"
        );
        assert_eq!(script("add", "t", Ipv4Addr::LOCALHOST, &[]).unwrap(), "");
    }

    #[test]
    fn loopback_is_told_from_other_addresses() {
        for (address, expected) in [("", true), ("0.0.0.0", true), ("127.0.0.2", true), ("192.0.2.2", false)]
        {
            assert_eq!(on_loopback(&[port(80, "tcp", "192.0.2.3"), port(81, "tcp", address)]), expected);
        }
        assert!(!on_loopback(&[]));
    }

    #[test]
    fn refuses_what_it_cannot_forward() {
        assert!(script("add", "t", Ipv4Addr::LOCALHOST, &[port(1, "sctp", "")]).is_err());
        assert!(script("add", "t", Ipv4Addr::LOCALHOST, &[port(1, "tcp", "::1")]).is_err());
    }
}
