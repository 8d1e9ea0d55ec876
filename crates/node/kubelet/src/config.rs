//! What a kubelet is told when it starts.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, sync::Arc};

use crate::credentials::provider::Providers as CredentialProviders;
use podium_client::{Client, SharedInformers};
use rustls::{RootCertStore, server::ResolvesServerCert};

use crate::{
    Configuration, ContainerGcPolicy, ContainerManagerSettings, ServiceManager,
    node_shutdown::logind::LogindPlaces,
};

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

/// Who knows this node's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cloud {
    /// The kubelet does.
    #[default]
    None,
    /// A cloud's controller does: the node is tainted until that has looked at it. Upstream's `--cloud-provider=external`.
    External {
        /// Whether the node has this address until the controller says another.
        bootstrap: bool,
        /// Whether the controller is told this address, because somebody named it.
        provided: bool,
    },
}

/// All settings. Nothing is read from the environment.
#[derive(Clone)]
pub struct Config {
    /// The name of the Node object.
    pub node_name: String,
    /// The address others reach this node by.
    pub node_ip: IpAddr,
    /// Whether somebody else, a cloud's controller, initialises this node and says its addresses.
    pub cloud: Cloud,
    /// Pods' directories, volumes, and the kubelet's own state (upstream: `/var/lib/kubelet`).
    pub root_dir: PathBuf,
    /// What KubeletConfiguration says.
    pub settings: Configuration,
    /// Acts as `system:node:NAME`.
    pub client: Client,
    /// Shared informers, for Services.
    pub informers: SharedInformers,
    /// TLS of the kubelet's server; None means no server (tests of the pod life cycle).
    pub serving: Option<ServingCertificate>,
    /// Ids of a pod's user namespace, `userNamespaces.idsPerPod`: a multiple of upstream's default, 65536.
    pub user_namespace_ids_per_pod: u32,
    /// How much of containers that have ended is kept.
    pub container_gc: ContainerGcPolicy,
    /// Labels of the node besides the well-known ones.
    pub labels: BTreeMap<String, String>,
    /// Programs that know registry credentials.
    pub credential_providers: Option<Arc<CredentialProviders>>,
    /// What it was started with, by names of upstream's flags without dashes, for the page `/flagz`.
    pub flags: BTreeMap<String, String>,
    /// Writes what every program of this build tells of itself in `/metrics`: what was built, and which features there are.
    pub process_metrics: fn(&mut String),
    /// The version this kubelet reports, `v1.36.x`.
    pub version: String,
    /// The service manager that waits for a word of this process.
    pub service_manager: Option<ServiceManager>,
    /// The kernel's log, which tells of processes that were killed for want of memory.
    pub kernel_log: PathBuf,
    /// Where the machine's login manager is, for graceful shutdown.
    pub logind: LogindPlaces,
    /// Policies of processors, memory and topology.
    pub container_manager: ContainerManagerSettings,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("node_name", &self.node_name)
            .field("root_dir", &self.root_dir)
            .field("cri_endpoint", &self.settings.container_runtime_endpoint)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// A kubelet that does what its settings say.
    #[must_use]
    pub fn new(
        node_name: &str,
        node_ip: IpAddr,
        root_dir: PathBuf,
        settings: Configuration,
        client: Client,
        informers: SharedInformers,
    ) -> Self {
        Self {
            node_name: node_name.to_owned(),
            node_ip,
            cloud: Cloud::None,
            root_dir,
            container_manager: settings.container_manager(),
            settings,
            client,
            informers,
            serving: None,
            user_namespace_ids_per_pod: 65_536,
            container_gc: ContainerGcPolicy::default(),
            labels: BTreeMap::new(),
            credential_providers: None,
            flags: BTreeMap::new(),
            process_metrics: |_| (),
            service_manager: None,
            kernel_log: PathBuf::from("/dev/kmsg"),
            logind: LogindPlaces::default(),
            version: "v1.36.0".to_owned(),
        }
    }
}
