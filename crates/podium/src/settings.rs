//! What a cluster was made with: chosen at the first start, kept in `cluster.json`, the same ever after.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use podium_network::Cidr;
use serde::{Deserialize, Serialize};

use crate::claims::{Claim, Claims};
use crate::cli::Up;
use crate::join::NodeSettings;
use crate::layout::Layout;
use crate::runtime::PODIUM;

const DEFAULT_PORT: u16 = 6443;
pub(crate) const DEFAULT_KUBELET_PORT: u16 = 10_250;

/// The choices of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Settings {
    pub(crate) port: u16,
    pub(crate) kubelet_port: u16,
    pub(crate) pod_cidr: String,
    pub(crate) service_cidr: String,
    pub(crate) cluster_domain: String,
    pub(crate) node_name: String,
    /// `None`: whatever the default route says at each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node_ip: Option<IpAddr>,
    /// `None`: older than the choice, which is containerd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) runtime_endpoint: Option<String>,
    /// A KubeletConfiguration, as an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kubelet_config: Option<PathBuf>,
}

impl Settings {
    /// What the cluster in this directory was made with; `None` when there is none.
    pub(crate) fn load(layout: &Layout) -> Result<Option<Self>> {
        let path = layout.settings();
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("{} is damaged", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// The settings for this start: those kept, those asked for, and defaults that disturb no other cluster here.
    pub(crate) fn choose(layout: &Layout, asked: &Up, claims: &Claims) -> Result<Self> {
        let kept = Self::load(layout)?;
        let mut settings = match kept {
            // The API says where a kubelet listens: another port disturbs nobody.
            Some(kept) => Settings { kubelet_port: claims.kubelet_port(kept.kubelet_port)?, ..kept },
            None => Settings {
                port: DEFAULT_PORT,
                kubelet_port: claims.kubelet_port(DEFAULT_KUBELET_PORT)?,
                pod_cidr: first_free(&pod_ranges(), &claims.pod_cidrs())?,
                service_cidr: first_free(&service_ranges(), &claims.service_cidrs())?,
                cluster_domain: "cluster.local".to_owned(),
                node_name: host_name()?,
                node_ip: None,
                runtime_endpoint: Some(PODIUM.to_owned()),
                kubelet_config: None,
            },
        };
        let made = layout.settings().exists();
        for (flag, asked, current) in [
            ("--pod-cidr", &asked.pod_cidr, &mut settings.pod_cidr),
            ("--service-cidr", &asked.service_cidr, &mut settings.service_cidr),
            ("--node-name", &asked.node_name, &mut settings.node_name),
        ] {
            let Some(asked) = asked else { continue };
            if made && asked != current {
                bail!(
                    "{flag} is {current} for this cluster and cannot change; `podium reset` makes a new one"
                );
            }
            current.clone_from(asked);
        }
        if let Some(port) = asked.port {
            settings.port = port;
        }
        if asked.node_ip.is_some() {
            settings.node_ip = asked.node_ip;
        }
        if let Some(endpoint) = &asked.container_runtime_endpoint {
            settings.runtime_endpoint = Some(endpoint.clone());
        }
        if let Some(path) = &asked.kubelet_config {
            settings.kubelet_config = kept_path(path)?;
        }
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<()> {
        let pods: Cidr = self.pod_cidr.parse().context("--pod-cidr")?;
        let services: Cidr = self.service_cidr.parse().context("--service-cidr")?;
        ensure!(!pods.overlaps(&services), "--pod-cidr {pods} and --service-cidr {services} overlap");
        ensure!(services.size() >= 16, "--service-cidr {services} is too small: it needs at least a /28");
        ensure!(pods.prefix_len() <= 24, "--pod-cidr {pods} is too small: every node gets a /24 of it");
        Ok(())
    }

    pub(crate) fn save(&self, layout: &Layout) -> Result<()> {
        let text = format!("{:#}\n", serde_json::to_value(self)?);
        podium_pki::files::write(&layout.settings(), text.as_bytes())?;
        Ok(())
    }

    /// What no other cluster on this machine may have.
    pub(crate) fn claim(&self) -> Claim {
        Claim {
            kubelet_port: self.kubelet_port,
            pod_cidr: Some(self.pod_cidr.clone()),
            service_cidr: Some(self.service_cidr.clone()),
            ..Claim::default()
        }
    }

    /// The API server's own Service, the first address of the range.
    pub(crate) fn kubernetes_ip(&self) -> Result<Ipv4Addr> {
        self.service_ip(1)
    }

    /// Cluster DNS, the tenth address of the range, as kubeadm has it.
    pub(crate) fn dns_ip(&self) -> Result<Ipv4Addr> {
        self.service_ip(10)
    }

    fn service_ip(&self, offset: u64) -> Result<Ipv4Addr> {
        let range: Cidr = self.service_cidr.parse()?;
        range.nth(offset).context("the service range is too small")
    }

    /// This node's address now.
    pub(crate) fn current_node_ip(&self) -> Result<IpAddr> {
        match self.node_ip {
            Some(ip) => Ok(ip),
            None => default_address(),
        }
    }
}

/// A path as it is kept: the next start may have another working directory. Nothing forgets the one that was kept.
pub(crate) fn kept_path(path: &OsStr) -> Result<Option<PathBuf>> {
    if path.is_empty() {
        return Ok(None);
    }
    std::path::absolute(path).map(Some).context("the working directory")
}

/// The runtime of whatever lives in this directory, a cluster or a node, as its settings say: `Some(None)` if they say
/// nothing, `None` in an empty directory.
pub(crate) fn runtime_endpoint(layout: &Layout) -> Result<Option<Option<String>>> {
    if let Some(settings) = Settings::load(layout)? {
        return Ok(Some(settings.runtime_endpoint));
    }
    Ok(NodeSettings::load(layout)?.map(|settings| settings.runtime_endpoint))
}

fn pod_ranges() -> Vec<String> {
    (244..=255).chain(230..244).map(|n| format!("10.{n}.0.0/16")).collect()
}

fn service_ranges() -> Vec<String> {
    [96, 112, 128, 144, 160, 176, 192, 208].map(|n| format!("10.{n}.0.0/12")).to_vec()
}

fn first_free<'a>(candidates: &[String], taken: &(impl Iterator<Item = &'a str> + Clone)) -> Result<String> {
    let is_free = |candidate: &&String| {
        let Ok(range) = candidate.parse::<Cidr>() else { return false };
        !taken.clone().filter_map(|t| t.parse::<Cidr>().ok()).any(|t| t.overlaps(&range))
    };
    candidates
        .iter()
        .find(is_free)
        .cloned()
        .context("every default range is taken by another cluster on this machine")
}

pub(crate) fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("host name")?.to_string_lossy().to_ascii_lowercase();
    ensure!(!name.is_empty(), "this machine has no host name: set one, or give --node-name");
    Ok(name)
}

/// The source address of the default route; without one, the first address that is not loopback.
pub(crate) fn default_address() -> Result<IpAddr> {
    // Connecting a datagram socket sends nothing: it only asks the routing table. The address is one for documentation.
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    if socket.connect(SocketAddr::from(([203, 0, 113, 1], 9))).is_ok() {
        return Ok(socket.local_addr()?.ip());
    }
    let addresses = nix::ifaddrs::getifaddrs().context("addresses of this machine")?;
    addresses
        .filter_map(|entry| Some(IpAddr::from(entry.address?.as_sockaddr_in()?.ip())))
        .find(|ip| !ip.is_loopback())
        .context("this machine has no address but loopback: give --node-ip")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Choice;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        up: Up,
    }

    fn choose(layout: &Layout, runtime: Option<&str>) -> Settings {
        let mut up = Line::try_parse_from(["up"]).unwrap().up;
        // Whatever the environment says.
        up.container_runtime_endpoint = runtime.map(str::to_owned);
        Settings::choose(layout, &up, &Claims::default()).unwrap()
    }

    #[test]
    fn the_runtime_is_written_down() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path()).unwrap();
        let new = choose(&layout, None);
        assert_eq!(new.runtime_endpoint.as_deref(), Some("podium"));
        assert_eq!(choose(&layout, Some("containerd")).runtime_endpoint.as_deref(), Some("containerd"));
        new.save(&layout).unwrap();
        assert_eq!(choose(&layout, None).runtime_endpoint.as_deref(), Some("podium"));
        // From before there was a choice.
        Settings { runtime_endpoint: None, ..new }.save(&layout).unwrap();
        let kept = choose(&layout, None);
        assert_eq!(Choice::of(kept.runtime_endpoint.as_deref()), Choice::Containerd);
        assert_eq!(choose(&layout, Some("podium")).runtime_endpoint.as_deref(), Some("podium"));
    }

    #[test]
    fn the_kubelets_file_is_kept_until_it_is_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path()).unwrap();
        let choose = |flags: &[&str]| {
            let up = Line::try_parse_from(["up"].iter().chain(flags)).unwrap().up;
            let chosen = Settings::choose(&layout, &up, &Claims::default()).unwrap();
            chosen.save(&layout).unwrap();
            chosen.kubelet_config
        };
        let here = std::env::current_dir().unwrap().join("kubelet.yaml");
        assert_eq!(choose(&[]), None);
        assert_eq!(choose(&["--kubelet-config", "kubelet.yaml"]), Some(here.clone()));
        assert_eq!(choose(&[]), Some(here));
        assert_eq!(choose(&["--kubelet-config="]), None);
        assert_eq!(choose(&[]), None);
    }

    #[test]
    fn the_next_cluster_gets_ranges_of_its_own() {
        assert_eq!(first_free(&pod_ranges(), &[].into_iter()).unwrap(), "10.244.0.0/16");
        assert_eq!(first_free(&pod_ranges(), &["10.244.0.0/16"].into_iter()).unwrap(), "10.245.0.0/16");
        assert_eq!(first_free(&service_ranges(), &["10.96.0.0/12"].into_iter()).unwrap(), "10.112.0.0/12");
        assert!(first_free(&pod_ranges(), &["10.0.0.0/8"].into_iter()).is_err());
    }

    #[test]
    fn wrong_ranges_are_refused_with_the_flag_to_mend() {
        let base = Settings {
            port: 6443,
            kubelet_port: 10_250,
            pod_cidr: "10.244.0.0/16".to_owned(),
            service_cidr: "10.96.0.0/12".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            node_name: "n".to_owned(),
            node_ip: None,
            runtime_endpoint: None,
            kubelet_config: None,
        };
        assert!(base.check().is_ok());
        assert_eq!(base.dns_ip().unwrap().to_string(), "10.96.0.10");
        for (pods, services, text) in [
            ("x", "10.96.0.0/12", "--pod-cidr"),
            ("10.96.0.0/16", "10.96.0.0/12", "overlap"),
            ("10.244.0.0/25", "10.96.0.0/12", "/24"),
            ("10.244.0.0/16", "10.96.0.0/30", "/28"),
        ] {
            let wrong =
                Settings { pod_cidr: pods.to_owned(), service_cidr: services.to_owned(), ..base.clone() };
            assert!(format!("{:#}", wrong.check().unwrap_err()).contains(text), "{pods} {services}");
        }
    }
}
