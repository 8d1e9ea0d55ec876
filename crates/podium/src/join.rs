//! `podium node`: everything that one more node of a cluster needs, in one process.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Service;
use podium_client::{Api, Client, SharedInformers};
use podium_pki::tls::ServingCertificate;
use podium_pki::{KeyPair, Secret};
use tokio::sync::watch;

use crate::certificates::{self, Purpose};
use crate::claims::Claims;
use crate::commands::{become_daemon, end_of_start};
use crate::connection::{Connection, who_am_i};
use crate::containerd::Containerd;
use crate::daemon::{self, Program};
use crate::layout::Layout;
use crate::parts::Parts;
use crate::runtime::Choice;
use crate::steps::{Steps, say};
use crate::{addons, node};

mod settings;

pub(crate) use settings::{Flags, NodeSettings};

/// How long a start waits for the serving certificate: it comes at once where something approves it, and otherwise when a
/// person does.
const SERVING_WAIT: Duration = Duration::from_secs(5);
/// How often a `kube-dns` Service that is not there yet is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Runs the node until a signal ends it.
pub(crate) fn run(layout: &Layout, settings: &NodeSettings, log: &str, claims: Claims) -> Result<ExitCode> {
    let mut steps = Steps::start();
    for directory in [&layout.data, &layout.run(), &layout.kubelet(), &layout.pod_logs()] {
        podium_pki::files::private_directory(directory)?;
    }
    daemon::log_to(&layout.log(), log)?;
    let _lock = become_daemon(layout)?;
    settings.save(layout)?;
    claims.publish(layout, settings.claim())?;
    steps.done("preflight", &layout.data.display().to_string());
    daemon::run(&mut Joined { layout, settings, steps })?;
    Ok(ExitCode::SUCCESS)
}

/// The whole of `podium node`.
struct Joined<'a> {
    layout: &'a Layout,
    settings: &'a NodeSettings,
    steps: Steps,
}

impl Program for Joined<'_> {
    type Running = ();

    async fn start(&mut self, parts: &mut Parts) -> Result<()> {
        let (layout, settings) = (self.layout, self.settings);
        let containerd = Containerd::new(layout);
        if Choice::of(settings.runtime_endpoint.as_deref()) == Choice::Containerd {
            containerd.start()?;
        }
        let ip = settings.current_node_ip()?;
        let name = settings.node_name.as_str();
        let connection = Connection::open(&settings.kubeconfig, settings.server.as_deref()).await?;
        let client = identity(parts, &connection, &layout.pki(), name).await?;
        self.steps.done("certificates", &format!("system:node:{name} of {}", connection.server()));

        let informers = SharedInformers::new(client.clone(), parts.shutdown());
        let (serving, mut issued) = self.serving(parts, &client, ip)?;
        let client_ca = match &settings.client_ca_file {
            Some(path) => node::authorities(&read(path)?)?,
            None => connection.authorities()?,
        };
        let cluster_dns = match settings.cluster_dns {
            Some(address) => address,
            None => cluster_dns(&client).await?,
        };
        let node = node::Node {
            layout,
            name,
            ip,
            runtime_endpoint: settings.runtime_endpoint.as_deref(),
            kubelet_port: settings.kubelet_port,
            kubelet_config: settings.kubelet_config.as_deref(),
            cluster_cidr: settings.cluster_cidr.as_deref().map(str::parse).transpose()?,
            cluster_dns,
            cluster_domain: &settings.cluster_domain,
            client,
            informers,
            serving: podium_kubelet::ServingCertificate { resolver: serving, client_ca },
        };
        node::start(&node, &containerd, parts, &mut self.steps).await?;
        if tokio::time::timeout(SERVING_WAIT, issued.wait_for(|issued| *issued)).await.is_err() {
            tracing::warn!("the kubelet's serving certificate is pending: logs and exec wait for it");
        }
        Ok(())
    }

    fn ready(&self) {
        self.steps.ready("node");
        say(&format!("\nlog: {}", self.layout.log().display()));
        end_of_start();
    }

    async fn close(&mut self, _running: Option<()>) {}
}

impl Joined<'_> {
    /// The kubelet's serving certificate: the administrator's, or one that is asked for.
    fn serving(
        &self,
        parts: &mut Parts,
        client: &Client,
        ip: IpAddr,
    ) -> Result<(Arc<ServingCertificate>, watch::Receiver<bool>)> {
        let settings = self.settings;
        if let (Some(certificate), Some(key)) = (&settings.tls_cert_file, &settings.tls_private_key_file) {
            let pair = KeyPair { certificate: read(certificate)?, key: Secret::new(read(key)?) };
            return Ok((ServingCertificate::new(&pair)?, watch::channel(true).1));
        }
        certificates::serving(parts, client, &self.layout.pki(), &settings.node_name, ip)
    }
}

/// A client that is known as the node: by the kubeconfig itself, or by a certificate that its user may ask for, and that
/// is renewed from then on.
async fn identity(
    parts: &mut Parts,
    connection: &Connection,
    directory: &Path,
    name: &str,
) -> Result<Client> {
    if certificates::kept(directory, Purpose::Client, name, &BTreeSet::new()).is_some() {
        return certificates::rotating(parts, connection, directory, name);
    }
    let client = connection.client()?;
    let user = who_am_i(&client, &connection.server()).await?;
    match user.strip_prefix("system:node:") {
        Some(node) if node == name => Ok(client),
        Some(other) => {
            bail!(
                "the kubeconfig is node {other}'s, and this is node {name}: give --hostname-override {other}"
            )
        }
        None => {
            certificates::obtain(
                &client,
                directory,
                Purpose::Client,
                name,
                &BTreeSet::new(),
                certificates::PATIENCE,
            )
            .await?;
            certificates::rotating(parts, connection, directory, name)
        }
    }
}

/// The address of the cluster's DNS Service, once it is there.
async fn cluster_dns(client: &Client) -> Result<Ipv4Addr> {
    let api = Api::<Service>::namespaced(client.clone(), "kube-system");
    let mut told = false;
    loop {
        let service = api.get_opt(addons::DNS).await.context("look for the kube-dns Service")?;
        let address = service.and_then(|service| service.spec).and_then(|spec| spec.cluster_ip);
        if let Some(address) = address.and_then(|address| address.parse().ok()) {
            return Ok(address);
        }
        if !told {
            tracing::warn!(
                "waiting for the Service kube-system/kube-dns; --cluster-dns would say its address"
            );
            told = true;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn read(path: &PathBuf) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}
