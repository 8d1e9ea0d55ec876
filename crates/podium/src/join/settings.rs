//! What a node was joined with: kept in `node.json`, so that it starts again without its flags.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use podium_network::Cidr;
use serde::{Deserialize, Serialize};

use crate::claims::{Claim, Claims};
use crate::cli::Data;
use crate::layout::Layout;
use crate::runtime::PODIUM;
use crate::settings::{DEFAULT_KUBELET_PORT, default_address, host_name, kept_path};

/// The flags of `podium node`, by upstream's names where upstream has them.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    pub(crate) data: Data,
    /// How to reach the API server: the node's own credentials, or ones that may ask for a node's certificate
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// URL of the API server [default: the kubeconfig's]
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// Name of this Node [default: the host name]
    #[arg(long, value_name = "NAME", alias = "node-name")]
    pub(crate) hostname_override: Option<String>,
    /// Address of this node [default: the one the default route leaves by]
    #[arg(long, value_name = "IP")]
    pub(crate) node_ip: Option<IpAddr>,
    /// The container runtime: `podium`, `containerd`, or the CRI socket of one that runs already [default: podium]
    #[arg(long, value_name = "SOCKET", env = "PODIUM_CONTAINER_RUNTIME")]
    pub(crate) container_runtime_endpoint: Option<String>,
    /// A KubeletConfiguration of kubelet.config.k8s.io/v1beta1, read at each start; none again with '' [default: the file of the
    /// last start]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubelet_config: Option<OsString>,
    /// Address of the DNS Service [default: that of kube-system/kube-dns]
    #[arg(long, value_name = "IP")]
    pub(crate) cluster_dns: Option<Ipv4Addr>,
    /// The cluster's domain [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) cluster_domain: Option<String>,
    /// Addresses of all pods; what leaves them gets the node's address [default: those of all Nodes]
    #[arg(long, value_name = "CIDR")]
    pub(crate) cluster_cidr: Option<String>,
    /// Authorities of the kubelet's clients [default: the kubeconfig's certificate-authority]
    #[arg(long, value_name = "FILE")]
    pub(crate) client_ca_file: Option<PathBuf>,
    /// Serving certificate of the kubelet [default: one asked for from the API]
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    pub(crate) tls_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub(crate) tls_private_key_file: Option<PathBuf>,
    /// Return as soon as the node is ready and leave it running in the background
    #[arg(long)]
    pub(crate) detach: bool,
    /// What goes to podium.log: error, warn, info, debug, or per module as in podium_kubelet=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "PODIUM_LOG")]
    pub(crate) log: String,
}

/// The choices of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NodeSettings {
    pub(crate) kubeconfig: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<String>,
    pub(crate) node_name: String,
    /// `None`: whatever the default route says at each start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) node_ip: Option<IpAddr>,
    /// `None`: older than the choice, which is containerd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) runtime_endpoint: Option<String>,
    pub(crate) kubelet_port: u16,
    /// A KubeletConfiguration, as an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) kubelet_config: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cluster_dns: Option<Ipv4Addr>,
    pub(crate) cluster_domain: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cluster_cidr: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) client_ca_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls_cert_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tls_private_key_file: Option<PathBuf>,
}

impl NodeSettings {
    /// What the node in this directory was joined with; `None` when there is none.
    pub(crate) fn load(layout: &Layout) -> Result<Option<Self>> {
        let path = layout.node_settings();
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("{} is damaged", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Those kept, those asked for, and defaults.
    pub(crate) fn choose(layout: &Layout, asked: &Flags, claims: &Claims) -> Result<Self> {
        ensure!(
            !layout.settings().exists(),
            "{} holds a cluster of its own: give the node another --data-dir",
            layout.data.display()
        );
        let kept = Self::load(layout)?;
        let name = asked.hostname_override.clone();
        if let (Some(kept), Some(name)) = (&kept, &name)
            && kept.node_name != *name
        {
            bail!("the node in {} is {}: `podium reset` forgets it", layout.data.display(), kept.node_name);
        }
        let mut settings = match kept {
            Some(kept) => NodeSettings { kubelet_port: claims.kubelet_port(kept.kubelet_port)?, ..kept },
            None => NodeSettings {
                kubeconfig: asked
                    .kubeconfig
                    .clone()
                    .context("--kubeconfig says how to reach the API server")?,
                server: None,
                node_name: name.map_or_else(host_name, Ok)?,
                node_ip: None,
                runtime_endpoint: Some(PODIUM.to_owned()),
                kubelet_port: claims.kubelet_port(DEFAULT_KUBELET_PORT)?,
                kubelet_config: None,
                cluster_dns: None,
                cluster_domain: "cluster.local".to_owned(),
                cluster_cidr: None,
                client_ca_file: None,
                tls_cert_file: None,
                tls_private_key_file: None,
            },
        };
        settings.take(asked)?;
        Ok(settings)
    }

    /// Takes what was asked for this time.
    fn take(&mut self, asked: &Flags) -> Result<()> {
        let absolute = |path: &Path| std::path::absolute(path).context("the working directory");
        if let Some(path) = &asked.kubeconfig {
            self.kubeconfig = absolute(path)?;
        }
        for (asked, kept) in [
            (&asked.client_ca_file, &mut self.client_ca_file),
            (&asked.tls_cert_file, &mut self.tls_cert_file),
            (&asked.tls_private_key_file, &mut self.tls_private_key_file),
        ] {
            if let Some(path) = asked {
                *kept = Some(absolute(path)?);
            }
        }
        if let Some(path) = &asked.kubelet_config {
            self.kubelet_config = kept_path(path)?;
        }
        for (asked, kept) in [
            (&asked.server, &mut self.server),
            (&asked.container_runtime_endpoint, &mut self.runtime_endpoint),
            (&asked.cluster_cidr, &mut self.cluster_cidr),
        ] {
            if asked.is_some() {
                kept.clone_from(asked);
            }
        }
        if let Some(domain) = &asked.cluster_domain {
            self.cluster_domain.clone_from(domain);
        }
        self.node_ip = asked.node_ip.or(self.node_ip);
        self.cluster_dns = asked.cluster_dns.or(self.cluster_dns);
        if let Some(cidr) = &self.cluster_cidr {
            cidr.parse::<Cidr>().context("--cluster-cidr")?;
        }
        Ok(())
    }

    pub(crate) fn save(&self, layout: &Layout) -> Result<()> {
        let text = format!("{:#}\n", serde_json::to_value(self)?);
        Ok(podium_pki::files::write(&layout.node_settings(), text.as_bytes())?)
    }

    /// What no other node or cluster on this machine may have.
    pub(crate) fn claim(&self) -> Claim {
        Claim { kubelet_port: self.kubelet_port, ..Claim::default() }
    }

    /// This node's address now.
    pub(crate) fn current_node_ip(&self) -> Result<IpAddr> {
        self.node_ip.map_or_else(default_address, Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Choice;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn choose(layout: &Layout, line: &str) -> Result<NodeSettings> {
        let line = Line::try_parse_from(std::iter::once("node").chain(line.split_whitespace())).unwrap();
        NodeSettings::choose(layout, &line.flags, &Claims::default())
    }

    #[test]
    fn the_runtime_is_written_down() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path()).unwrap();
        let new = choose(&layout, "--kubeconfig /k --hostname-override n2").unwrap();
        // Unless the environment says otherwise.
        assert!(new.runtime_endpoint.is_some());
        let old = NodeSettings { runtime_endpoint: None, ..new };
        old.save(&layout).unwrap();
        let kept = NodeSettings::load(&layout).unwrap().unwrap();
        assert_eq!(Choice::of(kept.runtime_endpoint.as_deref()), Choice::Containerd);
    }

    #[test]
    fn a_node_remembers_what_it_was_joined_with() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path()).unwrap();
        assert!(choose(&layout, "").unwrap_err().to_string().contains("--kubeconfig"));
        let line =
            "--kubeconfig /k --hostname-override n2 --node-ip 192.0.2.2 --server https://192.0.2.1:6443";
        let first = choose(&layout, line).unwrap();
        first.save(&layout).unwrap();
        assert_eq!(choose(&layout, "").unwrap(), first);
        let other = choose(&layout, "--node-ip 192.0.2.3 --cluster-domain x.y").unwrap();
        assert_eq!(other.node_ip, Some("192.0.2.3".parse().unwrap()));
        assert_eq!((other.cluster_domain.as_str(), &other.server), ("x.y", &first.server));
        assert!(choose(&layout, "--hostname-override n3").unwrap_err().to_string().contains("n2"));
        assert!(choose(&layout, "--cluster-cidr x").is_err());
        std::fs::write(layout.settings(), "{}").unwrap();
        assert!(choose(&layout, line).unwrap_err().to_string().contains("another --data-dir"));
    }
}
