//! What a kubelet is told when it starts.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, sync::Arc};

use crate::credentials::provider::Providers as CredentialProviders;
use k8s_openapi::api::core::v1::Taint;
use podium_client::{Client, SharedInformers};
use rustls::{RootCertStore, server::ResolvesServerCert};

/// The certificate the kubelet's server shows, and the authority whose clients it believes.
#[derive(Clone)]
pub struct ServingCertificate {
    /// Gives the certificate at each handshake, so that it can be renewed while the server runs.
    pub resolver: Arc<dyn ResolvesServerCert>,
    /// Authorities of client certificates: the cluster's CA.
    pub client_ca: Arc<RootCertStore>,
}

impl fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServingCertificate")
    }
}

/// All settings. Nothing is read from the environment.
#[derive(Clone)]
pub struct Config {
    /// The name of the Node object.
    pub node_name: String,
    /// The address others reach this node by.
    pub node_ip: IpAddr,
    /// Pods' directories, volumes, and the kubelet's own state (upstream: `/var/lib/kubelet`).
    pub root_dir: PathBuf,
    /// Container logs (upstream: `/var/log/pods`).
    pub pod_logs_dir: PathBuf,
    /// The runtime's socket: `unix:///path` or a path.
    pub cri_endpoint: String,
    /// Name servers of pods that use the cluster's DNS.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's domain, `cluster.local`.
    pub cluster_domain: String,
    /// The cgroup below which `kubepods` is made, as a path from the cgroup mount; empty for the top.
    pub cgroup_root: String,
    /// Acts as `system:node:NAME`.
    pub client: Client,
    /// Shared informers, for Services.
    pub informers: SharedInformers,
    /// TLS of the kubelet's server; None means no server (tests of the pod life cycle).
    pub serving: Option<ServingCertificate>,
    /// Where the server listens.
    pub address: IpAddr,
    /// The server's port, upstream's is 10250; zero takes a free one.
    pub port: u16,
    /// The most pods the node takes, upstream's default is 110.
    pub max_pods: u32,
    /// Labels of the node besides the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Taints the node registers with.
    pub taints: Vec<Taint>,
    /// The pod CIDR the node registers with, where no controller hands out any.
    pub pod_cidr: Option<String>,
    /// The resolver settings that pods with the `Default` policy get.
    pub resolv_conf: PathBuf,
    /// Programs that know registry credentials.
    pub credential_providers: Option<Arc<CredentialProviders>>,
    /// The version this kubelet reports, `v1.36.x`.
    pub version: String,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("node_name", &self.node_name)
            .field("root_dir", &self.root_dir)
            .field("cri_endpoint", &self.cri_endpoint)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Settings with upstream's defaults for everything that has one.
    #[must_use]
    pub fn new(
        node_name: &str,
        node_ip: IpAddr,
        root_dir: PathBuf,
        cri_endpoint: &str,
        client: Client,
        informers: SharedInformers,
    ) -> Self {
        Self {
            node_name: node_name.to_owned(),
            node_ip,
            pod_logs_dir: root_dir.join("logs"),
            root_dir,
            cri_endpoint: cri_endpoint.to_owned(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            cgroup_root: String::new(),
            client,
            informers,
            serving: None,
            address: IpAddr::from([0, 0, 0, 0]),
            port: 10250,
            max_pods: 110,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            pod_cidr: None,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            credential_providers: None,
            version: "v1.36.0".to_owned(),
        }
    }
}
