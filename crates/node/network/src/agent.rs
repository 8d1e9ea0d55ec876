//! Prepares a node for pods once its pod CIDR is known: the bridge, forwarding, masquerading, the plugin's configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use podium_client::{Change, Running, SharedInformers, Shutdown};
use serde_json::json;
use tokio::sync::watch;

use crate::addresses::{AddressError, Addresses};
use crate::cidr::Cidr;
use crate::cni;
use crate::hostports;
use crate::netlink::{Netlink, NetlinkError};
use crate::nft::{self, NftError};
use crate::routes::{self, InstallError, NodeFacts, Plan};
use crate::sandbox::{SandboxError, set};

/// What the agent needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The Node to serve.
    pub node_name: String,
    /// Shared watches.
    pub informers: SharedInformers,
    /// All pods' addresses, where they are known; otherwise those of the Nodes that there are. What leaves them is masqueraded.
    pub cluster_cidr: Option<Cidr>,
    /// The bridge's name, at most 15 characters.
    pub bridge: String,
    /// The nftables table of this cluster's pod network.
    pub table: String,
    /// The MTU of pods' interfaces; 0: that of the interface the default route leaves by.
    pub mtu: u32,
    /// Where the runtime looks for network configurations.
    pub configuration_directory: PathBuf,
    /// Where the runtime looks for plugins.
    pub plugin_directory: PathBuf,
    /// Our own program, which answers for the plugins.
    pub program: PathBuf,
    /// Where addresses are recorded.
    pub address_directory: PathBuf,
    /// Where routes to other nodes are recorded.
    pub route_file: PathBuf,
}

/// How long until a route that the kernel refused is tried again: its link may have come up.
const RETRY: Duration = Duration::from_secs(5);

/// The node's network, once it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkState {
    /// The node's pod CIDR.
    pub pod_cidr: Cidr,
    /// The bridge's address.
    pub gateway: Ipv4Addr,
}

/// The node's network could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Fewer than two usable addresses.
    #[error("podCIDR {0} is too small for a gateway and a pod")]
    TooSmall(Cidr),
    /// The bridge.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A kernel setting.
    #[error(transparent)]
    Setting(#[from] SandboxError),
    /// The rules.
    #[error(transparent)]
    Rules(#[from] NftError),
    /// Recorded addresses.
    #[error(transparent)]
    Addresses(#[from] AddressError),
    /// Routes to other nodes.
    #[error(transparent)]
    Routes(#[from] InstallError),
    /// A file of the plugin.
    #[error("{path}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The worker thread died.
    #[error("the network worker panicked")]
    Panicked,
}

/// Waits for the Node's pod CIDR, prepares the network, tells `state`, keeps the routes to other nodes as the Nodes say, and
/// prepares again should the CIDR change. Everything stays in place after it ends: containers outlive the daemon.
pub fn run(config: Config, state: watch::Sender<Option<NetworkState>>, shutdown: Shutdown) -> Running<Error> {
    Box::pin(run_until(config, state, shutdown))
}

async fn run_until(
    config: Config,
    state: watch::Sender<Option<NetworkState>>,
    shutdown: Shutdown,
) -> Result<(), Error> {
    let nodes = config.informers.of::<Node>();
    let (changed, mut wake) = watch::channel(());
    // Nodes change with every heartbeat; what matters here hardly ever does.
    let facts: Arc<Mutex<BTreeMap<String, NodeFacts>>> = Arc::default();
    let told = facts.clone();
    nodes.on_event(move |change| {
        let name = change.object().metadata.name.clone().unwrap_or_default();
        let new = match change {
            Change::Deleted(_) => None,
            change => Some(NodeFacts::of(change.object())),
        };
        let mut known = told.lock();
        let same = known.get(&name) == new.as_ref();
        match new {
            Some(new) => known.insert(name, new),
            None => known.remove(&name),
        };
        if !same {
            changed.send_replace(());
        }
    });
    nodes.synced().await;
    let config = Arc::new(config);
    let mut prepared: Option<(Cidr, Plan)> = None;
    let mut failing = false;
    loop {
        wake.borrow_and_update();
        let nodes = facts.lock().clone();
        let plan = routes::plan(&nodes, &config.node_name, config.cluster_cidr);
        let own = nodes.get(&config.node_name).and_then(|node| node.pods.first().copied());
        if let Some(cidr) = own {
            let known = prepared.as_ref().filter(|(known, _)| *known == cidr).map(|(_, plan)| plan);
            let work = Work {
                prepare: known.is_none(),
                pods: known.is_none_or(|known| known.pods != plan.pods),
                routes: failing || known.is_none_or(|known| known.routes != plan.routes),
            };
            if known.is_none_or(|known| known.faults != plan.faults) {
                // A Node has its range a moment before its first status: that is no reason to worry anyone.
                plan.faults.iter().for_each(|fault| tracing::info!("{fault}"));
            }
            let (job, wanted) = (config.clone(), plan.clone());
            let (ready, faults) = tokio::task::spawn_blocking(move || work.run(&job, cidr, &wanted))
                .await
                .map_err(|_| Error::Panicked)??;
            if !failing {
                faults.iter().for_each(|fault| tracing::warn!("{fault}"));
            } else if faults.is_empty() {
                tracing::info!("all routes to other nodes are in place");
            }
            failing = !faults.is_empty();
            if let Some(ready) = ready {
                tracing::info!(pod_cidr = %cidr, bridge = %config.bridge, "pod network ready");
                state.send_replace(Some(ready));
            }
            prepared = Some((cidr, plan));
        }
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            changed = wake.changed() => if changed.is_err() { return Ok(()) },
            () = tokio::time::sleep(RETRY), if failing => {}
        }
    }
}

/// What differs from the last time.
#[derive(Clone, Copy, Debug)]
struct Work {
    prepare: bool,
    pods: bool,
    routes: bool,
}

impl Work {
    /// Does it. Returns the network's state when it was prepared, and routes that could not be made.
    fn run(
        self,
        config: &Config,
        cidr: Cidr,
        plan: &Plan,
    ) -> Result<(Option<NetworkState>, Vec<String>), Error> {
        let ready = match self.prepare {
            true => Some(prepare(config, cidr, &plan.pods)?),
            false => {
                if self.pods {
                    nft::apply(&pods_rules(&config.table, &plan.pods))?;
                }
                None
            }
        };
        let faults =
            if self.routes { routes::install(&config.route_file, &plan.routes)? } else { Vec::new() };
        Ok((ready, faults))
    }
}

fn prepare(config: &Config, cidr: Cidr, pods: &BTreeSet<Cidr>) -> Result<NetworkState, Error> {
    let gateway = cni::gateway(cidr).ok_or(Error::TooSmall(cidr))?;
    let mtu = if config.mtu == 0 { default_mtu()? } else { config.mtu };
    prepare_bridge(&config.bridge, cidr, mtu)?;
    let addresses = Addresses::open(&config.address_directory, cidr)?;
    let mut script = table_rules(&config.table, cidr);
    script.push_str(&pods_rules(&config.table, pods));
    for (address, allocation) in addresses.list()? {
        match hostports::script("add", &config.table, address, &allocation.host_ports) {
            Ok(lines) => script.push_str(&lines),
            Err(error) => tracing::warn!(%address, %error, "recorded host port dropped"),
        }
    }
    nft::apply(&script)?;
    install_plugins(config)?;
    write_configuration(config, cidr, mtu)?;
    Ok(NetworkState { pod_cidr: cidr, gateway })
}

/// Makes the bridge and its address in the current network namespace, and turns forwarding on. Safe to repeat.
pub(crate) fn prepare_bridge(bridge: &str, cidr: Cidr, mtu: u32) -> Result<(), Error> {
    let gateway = cni::gateway(cidr).ok_or(Error::TooSmall(cidr))?;
    let mut netlink = Netlink::open()?;
    match netlink.add_bridge(bridge, mtu) {
        Err(error) if !error.exists() => return Err(error.into()),
        _ => {}
    }
    let index = netlink.index_of(bridge)?.ok_or_else(|| SandboxError::Vanished(bridge.to_owned()))?;
    netlink.set_up(index)?;
    netlink.add_address(index, gateway, cidr.prefix_len())?;
    set("net/ipv4/ip_forward", "1")?;
    // Pods have one neighbour only; a redirect would tell them of another.
    set(&format!("net/ipv4/conf/{bridge}/send_redirects"), "0")?;
    set(&format!("net/ipv6/conf/{bridge}/accept_ra"), "0")?;
    Ok(())
}

/// The table: masquerading for what leaves the pod network from pods of this node (`own`), host ports, and their hairpin.
fn table_rules(table: &str, own: Cidr) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "table ip {table}");
    let _ = writeln!(text, "delete table ip {table}");
    let _ = writeln!(text, "table ip {table} {{");
    text.push_str(hostports::RULES);
    let _ = writeln!(
        text,
        "set pods {{ type ipv4_addr; flags interval; }}\n\
         chain postrouting {{ type nat hook postrouting priority srcnat;\n\
         ct status dnat ip saddr . ip daddr @hairpin masquerade\n\
         ct status dnat ip saddr 127.0.0.0/8 oifname != lo masquerade\n\
         ip saddr {own} ip daddr != @pods masquerade\n}}"
    );
    text.push_str("}\n");
    text
}

/// Says anew which addresses are pods'.
fn pods_rules(table: &str, pods: &BTreeSet<Cidr>) -> String {
    let mut text = format!("flush set ip {table} pods\n");
    if !pods.is_empty() {
        let list: Vec<String> = pods.iter().map(Cidr::to_string).collect();
        let _ = writeln!(text, "add element ip {table} pods {{ {} }}", list.join(", "));
    }
    text
}

fn install_plugins(config: &Config) -> Result<(), Error> {
    let directory = &config.plugin_directory;
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    };
    std::fs::create_dir_all(directory).map_err(fail(directory))?;
    for name in [cni::PLUGIN, cni::LOOPBACK] {
        let path = directory.join(name);
        if std::fs::read_link(&path).is_ok_and(|target| target == config.program) {
            continue;
        }
        let temporary = directory.join(format!(".{name}.new"));
        let _ = std::fs::remove_file(&temporary);
        symlink(&config.program, &temporary).map_err(fail(&temporary))?;
        std::fs::rename(&temporary, &path).map_err(fail(&path))?;
    }
    Ok(())
}

fn write_configuration(config: &Config, cidr: Cidr, mtu: u32) -> Result<(), Error> {
    let document = json!({
        "cniVersion": "1.0.0",
        "name": "podium",
        "plugins": [{
            "type": cni::PLUGIN,
            "bridge": config.bridge,
            "subnet": cidr.to_string(),
            "mtu": mtu,
            "addressDirectory": config.address_directory,
            "table": config.table,
            "capabilities": {"bandwidth": true, "portMappings": true},
        }],
    });
    let directory = &config.configuration_directory;
    let path = directory.join("10-podium.conflist");
    let temporary = directory.join(".10-podium.conflist.new");
    let text = format!("{document:#}\n");
    if std::fs::read_to_string(&path).is_ok_and(|current| current == text) {
        return Ok(());
    }
    let write = || -> io::Result<()> {
        std::fs::create_dir_all(directory)?;
        std::fs::write(&temporary, text)?;
        std::fs::rename(&temporary, &path)
    };
    write().map_err(|source| Error::File { path, source })
}

/// The MTU of the interface that the default route leaves by; 1500 where there is none.
fn default_mtu() -> Result<u32, Error> {
    let routes = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    let interface = routes.lines().skip(1).find_map(|line| {
        let mut columns = line.split_whitespace();
        let name = columns.next()?;
        (columns.next()? == "00000000").then(|| name.to_owned())
    });
    let Some(interface) = interface else { return Ok(1500) };
    Ok(Netlink::open()?.mtu_of(&interface)?.unwrap_or(1500))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_accepts_the_table_and_its_elements() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root for a network namespace");
            return;
        }
        let mut table = table_rules("podium-test", "10.244.0.0/24".parse().unwrap());
        let pods = ["10.244.0.0/24", "10.244.1.0/24"].map(|range| range.parse().unwrap());
        table.push_str(&pods_rules("podium-test", &BTreeSet::from(pods)));
        let ports = [
            hostports::HostPort {
                host_port: 8080,
                container_port: 80,
                protocol: "TCP".to_owned(),
                host_ip: String::new(),
            },
            hostports::HostPort {
                host_port: 53,
                container_port: 53,
                protocol: "UDP".to_owned(),
                host_ip: "192.0.2.2".to_owned(),
            },
        ];
        let pod = Ipv4Addr::new(10, 244, 0, 5);
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                    nft::apply(&table).unwrap();
                    nft::apply(&hostports::script("add", "podium-test", pod, &ports).unwrap()).unwrap();
                    nft::apply(&hostports::script("delete", "podium-test", pod, &ports).unwrap()).unwrap();
                    nft::apply(&table).unwrap();
                    nft::apply(&pods_rules("podium-test", &BTreeSet::new())).unwrap();
                })
                .join()
                .unwrap();
        });
    }
}
