//! The CNI plugin: what the container runtime starts for every sandbox.
//!
//! Source: the CNI specification 1.0.0 (0.3.1 and 0.4.0 are answered in their own result shape). One binary answers for
//! `podium-cni` and for `loopback`, which containerd asks of every plugin directory.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::addresses::{Addresses, Allocation};
use crate::cidr::Cidr;
use crate::hostports::{self, HostPort};
use crate::shape::Bandwidth;
use crate::{nft, sandbox};

/// The program name of the pod network's plugin.
pub const PLUGIN: &str = "podium-cni";
/// The program name of the loopback plugin.
pub const LOOPBACK: &str = "loopback";

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The plugin's configuration, written by the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginConfig {
    /// Of the specification.
    pub cni_version: String,
    /// The network's name.
    pub name: String,
    /// [`PLUGIN`] or [`LOOPBACK`].
    #[serde(rename = "type")]
    pub plugin: String,
    /// The bridge pods are attached to.
    #[serde(default)]
    pub bridge: String,
    /// The node's pod CIDR.
    #[serde(default)]
    pub subnet: String,
    /// For both ends of every pair.
    #[serde(default)]
    pub mtu: u32,
    /// Where addresses are recorded.
    #[serde(default)]
    pub address_directory: PathBuf,
    /// The nftables table with the host port maps.
    #[serde(default)]
    pub table: String,
    /// What the runtime fills in for the declared capabilities.
    #[serde(default)]
    pub runtime_config: RuntimeConfig,
}

/// The capability arguments we declare.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeConfig {
    /// Host ports of the pod.
    #[serde(default)]
    pub port_mappings: Vec<HostPort>,
    /// How fast the pod may be.
    #[serde(default)]
    pub bandwidth: Bandwidth,
}

/// A refusal in the specification's form.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    /// Below 100: the specification's; from 100: ours.
    code: u32,
    message: String,
}

impl Failure {
    fn new(code: u32, message: impl Into<String>) -> Self {
        Failure { code, message: message.into() }
    }

    /// An error with all its causes on one line.
    fn from_error(code: u32, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Failure { code, message }
    }
}

/// Answers one call: the environment and standard input are the request, standard output the answer. Returns the exit code.
pub fn cni_main(environment: &BTreeMap<String, String>, input: &mut dyn Read, output: &mut dyn Write) -> i32 {
    let (version, outcome) = serve(environment, input);
    let (document, code) = match outcome {
        Ok(Some(document)) => (document, 0),
        Ok(None) => return 0,
        Err(failure) => (json!({"cniVersion": version, "code": failure.code, "msg": failure.message}), 1),
    };
    match writeln!(output, "{document}") {
        Ok(()) => code,
        Err(_) => 1,
    }
}

fn serve(
    environment: &BTreeMap<String, String>,
    input: &mut dyn Read,
) -> (String, Result<Option<Value>, Failure>) {
    let command = environment.get("CNI_COMMAND").map_or("", String::as_str);
    if command == "VERSION" {
        let document = json!({"cniVersion": "1.0.0", "supportedVersions": VERSIONS});
        return ("1.0.0".to_owned(), Ok(Some(document)));
    }
    let mut text = Vec::new();
    if let Err(error) = input.take(1 << 20).read_to_end(&mut text) {
        return ("1.0.0".to_owned(), Err(Failure::from_error(5, &error)));
    }
    let config: PluginConfig = match serde_json::from_slice(&text) {
        Ok(config) => config,
        Err(error) => return ("1.0.0".to_owned(), Err(Failure::from_error(6, &error))),
    };
    let version = config.cni_version.clone();
    if !VERSIONS.contains(&version.as_str()) {
        return (version, Err(Failure::new(1, "incompatible CNI version")));
    }
    let outcome = Call::parse(environment).and_then(|call| call.run(command, &config));
    (version, outcome)
}

/// Where and for whom.
#[derive(Debug)]
struct Call {
    container_id: String,
    interface: String,
    namespace: Option<PathBuf>,
}

impl Call {
    fn parse(environment: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let take = |name: &str| environment.get(name).filter(|value| !value.is_empty()).cloned();
        Ok(Call {
            container_id: take("CNI_CONTAINERID")
                .ok_or_else(|| Failure::new(4, "CNI_CONTAINERID is not set"))?,
            interface: take("CNI_IFNAME").ok_or_else(|| Failure::new(4, "CNI_IFNAME is not set"))?,
            namespace: take("CNI_NETNS").map(PathBuf::from),
        })
    }

    fn namespace(&self) -> Result<&Path, Failure> {
        self.namespace.as_deref().ok_or_else(|| Failure::new(4, "CNI_NETNS is not set"))
    }

    fn run(&self, command: &str, config: &PluginConfig) -> Result<Option<Value>, Failure> {
        match (command, config.plugin.as_str()) {
            ("ADD", LOOPBACK) => {
                sandbox::loopback_up(self.namespace()?).map_err(|e| Failure::from_error(101, &e))?;
                Ok(Some(loopback_result(&config.cni_version, &self.namespace()?.to_string_lossy())))
            }
            ("CHECK" | "DEL" | "GC" | "STATUS", LOOPBACK) => Ok(None),
            ("ADD", _) => self.add(config).map(Some),
            ("DEL", _) => self.delete(config).map(|()| None),
            ("CHECK", _) => match sandbox::check(self.namespace()?, &self.interface) {
                Ok(true) => Ok(None),
                Ok(false) => Err(Failure::new(102, format!("interface {} is missing", self.interface))),
                Err(error) => Err(Failure::from_error(101, &error)),
            },
            ("GC" | "STATUS", _) => Ok(None),
            (other, _) => Err(Failure::new(4, format!("unknown CNI_COMMAND {other:?}"))),
        }
    }

    fn add(&self, config: &PluginConfig) -> Result<Value, Failure> {
        let subnet: Cidr = config.subnet.parse().map_err(|e| Failure::from_error(7, &e))?;
        let gateway = gateway(subnet).ok_or_else(|| Failure::new(7, format!("{subnet} is too small")))?;
        let addresses = self.addresses(config, subnet)?;
        let allocation = Allocation {
            container_id: self.container_id.clone(),
            interface: self.interface.clone(),
            host_ports: config.runtime_config.port_mappings.clone(),
        };
        let address = addresses.allocate(&allocation).map_err(|e| Failure::from_error(103, &e))?;
        match self.attach(config, address, gateway) {
            Ok(mac) => Ok(self.result(config, address, gateway, &mac)),
            Err(failure) => {
                // The runtime calls DEL after a failed ADD, but an address must not leak if it dies first.
                let _ = addresses.release(&self.container_id, &self.interface);
                Err(failure)
            }
        }
    }

    fn attach(&self, config: &PluginConfig, address: Ipv4Addr, gateway: Ipv4Addr) -> Result<String, Failure> {
        let ports = &config.runtime_config.port_mappings;
        let script = hostports::script("add", &config.table, address, ports)
            .map_err(|e| Failure::from_error(104, &e))?;
        let attachment = sandbox::Attachment {
            bridge: &config.bridge,
            host_interface: &host_interface(&self.container_id),
            interface: &self.interface,
            address,
            gateway,
            mtu: config.mtu,
            loopback: hostports::on_loopback(ports),
            bandwidth: config.runtime_config.bandwidth,
        };
        let mac =
            sandbox::attach(self.namespace()?, &attachment).map_err(|e| Failure::from_error(101, &e))?;
        if !script.is_empty() {
            nft::apply(&script).map_err(|e| Failure::from_error(104, &e))?;
        }
        Ok(mac)
    }

    fn delete(&self, config: &PluginConfig) -> Result<(), Failure> {
        let subnet: Cidr = config.subnet.parse().map_err(|e| Failure::from_error(7, &e))?;
        sandbox::detach(&host_interface(&self.container_id)).map_err(|e| Failure::from_error(101, &e))?;
        let addresses = self.addresses(config, subnet)?;
        let released = addresses
            .release(&self.container_id, &self.interface)
            .map_err(|e| Failure::from_error(103, &e))?;
        for (address, allocation) in released {
            // Each port on its own: an element that is gone must not keep the others.
            for port in &allocation.host_ports {
                if let Ok(script) =
                    hostports::script("delete", &config.table, address, std::slice::from_ref(port))
                {
                    for line in script.lines() {
                        let _ = nft::apply(line);
                    }
                }
            }
        }
        Ok(())
    }

    fn addresses(&self, config: &PluginConfig, subnet: Cidr) -> Result<Addresses, Failure> {
        Addresses::open(&config.address_directory, subnet).map_err(|e| Failure::from_error(103, &e))
    }

    fn result(&self, config: &PluginConfig, address: Ipv4Addr, gateway: Ipv4Addr, mac: &str) -> Value {
        let namespace = self.namespace.as_deref().unwrap_or(Path::new("")).to_string_lossy().into_owned();
        let mut ip =
            json!({"address": format!("{address}/32"), "gateway": gateway.to_string(), "interface": 1});
        if config.cni_version.starts_with("0.") {
            ip["version"] = json!("4");
        }
        json!({
            "cniVersion": config.cni_version,
            "interfaces": [
                {"name": host_interface(&self.container_id)},
                {"name": self.interface, "mac": mac, "sandbox": namespace},
            ],
            "ips": [ip],
            "routes": [{"dst": "0.0.0.0/0", "gw": gateway.to_string()}],
            "dns": {},
        })
    }
}

/// The bridge's address in a node's range: the first after the network's own.
pub fn gateway(subnet: Cidr) -> Option<Ipv4Addr> {
    subnet.nth(1).filter(|_| subnet.size() >= 4)
}

/// The host's end of a sandbox's pair: `pod` and eleven characters of the id, within the kernel's fifteen.
fn host_interface(container_id: &str) -> String {
    let id: String = container_id.chars().filter(char::is_ascii_alphanumeric).take(11).collect();
    format!("pod{id}")
}

fn loopback_result(version: &str, namespace: &str) -> Value {
    let mut ip = json!({"address": "127.0.0.1/8", "interface": 0});
    if version.starts_with("0.") {
        ip["version"] = json!("4");
    }
    json!({
        "cniVersion": version,
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": namespace}],
        "ips": [ip],
        "dns": {},
    })
}

#[cfg(test)]
mod tests;
