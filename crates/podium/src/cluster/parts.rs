//! The parts of a cluster as tasks with names, and what each is started with.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use podium_apiserver::ApiServer;
use podium_client::{Client, ClientSource, ObjectKey, SharedInformers, Shutdown};
use podium_pki::{NodeNames, Pki};
use rustls::RootCertStore;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::layout::Layout;
use crate::settings::Settings;

/// In-process clients: every part acts under the identity that upstream's would have.
pub(super) struct Clients(pub(super) Arc<ApiServer>);

impl ClientSource for Clients {
    fn client(&self, component: &str) -> Client {
        match component {
            "kube-scheduler" => self.0.client("system:kube-scheduler", &[]),
            "kube-controller-manager" => self.0.client("system:kube-controller-manager", &[]),
            controller => self.0.service_account_client("kube-system", controller),
        }
    }
}

/// Running tasks. Any of them ending before it is told to is a fault that ends the cluster: a half-dead control plane
/// is worse than one that is started again.
pub(super) struct Parts {
    tasks: JoinSet<(&'static str, Result<()>)>,
    shutdown: Shutdown,
}

impl Parts {
    pub(super) fn new() -> Self {
        Parts { tasks: JoinSet::new(), shutdown: Shutdown::new() }
    }

    /// What tells all parts to end.
    pub(super) fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    pub(super) fn spawn<E>(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: std::error::Error + Send + Sync + 'static,
    {
        self.tasks.spawn(async move { (name, part.await.map_err(anyhow::Error::from)) });
    }

    /// The first part that ends.
    pub(super) async fn ended(&mut self) -> (&'static str, Result<()>) {
        match self.tasks.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(error)) => ("a part", Err(anyhow::Error::from(error).context("panicked"))),
            None => std::future::pending().await,
        }
    }

    /// Waits for something that a part has to do; an error when a part ends first.
    pub(super) async fn unless_ended<T>(&mut self, wanted: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            done = wanted => Ok(done),
            (name, result) = self.ended() => match result {
                Err(error) => Err(error.context(format!("{name} ended during the start"))),
                Ok(()) => bail!("{name} ended during the start"),
            },
        }
    }

    /// Tells all parts to end and waits for them, but not for ever.
    pub(super) async fn end(&mut self, limit: Duration) {
        self.shutdown.cancel();
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                match ended {
                    Ok((name, Err(error))) => {
                        tracing::warn!(part = name, error = %format!("{error:#}"), "ended badly");
                    }
                    Ok((name, Ok(()))) => tracing::debug!(part = name, "ended"),
                    Err(error) => tracing::warn!(%error, "a part panicked"),
                }
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("some parts did not end in time");
        }
        self.tasks.abort_all();
    }
}

pub(super) fn scheduler(
    clients: Arc<dyn ClientSource>,
    informers: SharedInformers,
) -> podium_scheduler::Config {
    podium_scheduler::Config::new(clients, informers)
}

pub(super) fn kubelet(
    layout: &Layout,
    settings: &Settings,
    pki: &Pki,
    api: &ApiServer,
    informers: &SharedInformers,
    node_ip: IpAddr,
    endpoint: &str,
) -> Result<podium_kubelet::Config> {
    let names = NodeNames { name: settings.node_name.clone(), addresses: vec![node_ip] };
    let certificates = pki.node(&names, Timestamp::now())?;
    let mut client_ca = RootCertStore::empty();
    for certificate in podium_pki::certificate::from_pem(pki.authority().certificate())? {
        client_ca.add(certificate).context("the cluster's authority")?;
    }
    let client = api.client(&format!("system:node:{}", settings.node_name), &["system:nodes"]);
    let root = layout.kubelet();
    let mut config =
        podium_kubelet::Config::new(&settings.node_name, node_ip, root, endpoint, client, informers.clone());
    config.serving = Some(podium_kubelet::ServingCertificate {
        resolver: podium_pki::tls::ServingCertificate::new(&certificates.serving)?,
        client_ca: Arc::new(client_ca),
    });
    config.pod_logs_dir = layout.pod_logs();
    config.port = settings.kubelet_port;
    config.cluster_dns = vec![settings.dns_ip()?.into()];
    config.cluster_domain.clone_from(&settings.cluster_domain);
    config.cgroup_root = layout.cgroup_root();
    config.version = podium_api::VERSION.to_owned();
    Ok(config)
}

pub(super) fn network(
    layout: &Layout,
    settings: &Settings,
    informers: &SharedInformers,
) -> Result<podium_network::Config> {
    Ok(podium_network::Config {
        node_name: settings.node_name.clone(),
        informers: informers.clone(),
        cluster_cidr: settings.pod_cidr.parse()?,
        bridge: layout.bridge(),
        table: layout.network_table(),
        mtu: 0,
        configuration_directory: layout.cni_configuration(),
        plugin_directory: layout.cni_plugins(),
        program: std::env::current_exe().context("our own program")?,
        address_directory: layout.addresses(),
    })
}

/// Waits until the Node is Ready by the word of a kubelet that spoke since `started`: what the last one said is kept by
/// the API and proves nothing.
pub(super) async fn node_ready(informers: &SharedInformers, name: &str, started: Timestamp) {
    let nodes = informers.of::<Node>();
    let wake = Arc::new(Notify::new());
    let changed = Arc::clone(&wake);
    nodes.on_event(move |_| changed.notify_one());
    let key = ObjectKey { namespace: String::new(), name: name.to_owned() };
    // Times of the API have whole seconds.
    let since = started.as_second();
    let fresh = |node: &Node| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.filter(|condition| condition.type_ == "Ready" && condition.status == "True").any(
            |condition| {
                condition.last_heartbeat_time.as_ref().is_some_and(|time| time.0.as_second() >= since)
            },
        )
    };
    while !nodes.get(&key).is_some_and(|node| fresh(&node)) {
        wake.notified().await;
    }
}

/// Whether a Node's condition says so.
pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
