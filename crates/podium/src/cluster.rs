//! One machine's cluster: every part started in order, wired in process, and ended in order.

mod remove;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use podium_apiserver::components::{Components, Part, Running as RunningPart};
use podium_apiserver::{ApiServer, KubeletClient, Limits, admission, authentication, reviews};
use podium_client::{Api, ObjectKey, SharedInformers, Shutdown};
use podium_pki::tls::ServingCertificate;
use podium_pki::{NodeNames, Pki, ServerNames};
use podium_store::Store;
use tokio::sync::Notify;

use crate::claims::Claims;
use crate::cli::Up;
use crate::commands::{become_daemon, end_of_start};
use crate::containerd::Containerd;
use crate::daemon::{self, Program, START_LIMIT};
use crate::layout::Layout;
use crate::parts::Parts;
use crate::runtime::Choice;
use crate::settings::Settings;
use crate::steps::{Steps, say};
use crate::{addons, node, serving_approval};
pub(crate) use remove::{Purpose, forget, remove, stop_pods};

/// How often certificates are looked at; they are renewed long before they end.
const RENEWAL: Duration = Duration::from_secs(6 * 3600);

/// Runs the cluster until a signal ends it.
pub(crate) fn run(layout: &Layout, settings: &Settings, up: &Up, claims: Claims) -> Result<ExitCode> {
    let mut steps = Steps::start();
    for directory in [&layout.data, &layout.run(), &layout.kubelet(), &layout.pod_logs()] {
        podium_pki::files::private_directory(directory)?;
    }
    daemon::log_to(&layout.log(), &up.log)?;
    let _lock = become_daemon(layout)?;
    settings.save(layout)?;
    claims.publish(layout, settings.claim())?;
    steps.done("preflight", &layout.data.display().to_string());
    daemon::run(&mut Cluster { layout, settings, steps, server_end: Shutdown::new() })?;
    Ok(ExitCode::SUCCESS)
}

/// The whole of `podium up`.
struct Cluster<'a> {
    layout: &'a Layout,
    settings: &'a Settings,
    steps: Steps,
    /// Ends the API server, after all others.
    server_end: Shutdown,
}

/// What has to be closed in order, after all other parts.
struct Running {
    api: Arc<ApiServer>,
    store: Store,
}

impl Program for Cluster<'_> {
    type Running = Running;

    async fn start(&mut self, parts: &mut Parts) -> Result<Running> {
        let containerd = Containerd::new(self.layout);
        if Choice::of(self.settings.runtime_endpoint.as_deref()) == Choice::Containerd {
            // It needs the longest, and nobody's help.
            containerd.start()?;
        }
        start(self.layout, self.settings, &containerd, parts, &self.server_end, &mut self.steps).await
    }

    fn ready(&self) {
        self.steps.ready("cluster");
        say("\ntry next:");
        say(&format!("  export KUBECONFIG={}", self.layout.kubeconfig().display()));
        say("  kubectl get nodes");
        say("  kubectl create deployment hello --image=IMAGE    (load one with: podium image load FILE)");
        end_of_start();
    }

    async fn close(&mut self, running: Option<Running>) {
        self.server_end.cancel();
        if let Some(running) = running {
            running.api.wait().await;
            running.store.close().await;
        }
    }

    fn start_limit(&self) -> Option<Duration> {
        Some(START_LIMIT)
    }
}

async fn start(
    layout: &Layout,
    settings: &Settings,
    containerd: &Containerd,
    parts: &mut Parts,
    server_end: &Shutdown,
    steps: &mut Steps,
) -> Result<Running> {
    let node_ip = settings.current_node_ip()?;
    let now = Timestamp::now();
    let pki = Pki::open(&layout.pki(), now)?;
    let names = server_names(settings, node_ip)?;
    let serving = ServingCertificate::new(&pki.api_server(&names, now)?)?;
    let url = format!("https://127.0.0.1:{}", settings.port);
    let kubeconfig = podium_pki::kubeconfig::write(
        "podium",
        "kubernetes-admin",
        &url,
        pki.authority().certificate(),
        &pki.admin(now)?,
    );
    podium_pki::files::write(&layout.kubeconfig(), kubeconfig.expose().as_bytes())?;
    steps.done("certificates", "");

    let store = Store::open(podium_store::Config::new(layout.store())).await.context("open the store")?;
    steps.done("store", &format!("revision {}", store.revision()));

    let mut config = server_config(settings, &pki, node_ip, &serving, now)?;
    let (controllers_run, scheduler_runs) = (RunningPart::default(), RunningPart::default());
    config.components = Components {
        controller_manager: Part::Here(controllers_run.clone()),
        scheduler: Part::Here(scheduler_runs.clone()),
    };
    let api =
        Arc::new(ApiServer::start(config, store.clone(), server_end.clone()).await.context("API server")?);
    api.ready().await;
    steps.done("API server", &format!("https://{node_ip}:{}", settings.port));
    let running = Running { api: Arc::clone(&api), store };

    let end = parts.shutdown();
    let clients = api.client_source();
    let informers = {
        let name = "kube-controller-manager";
        SharedInformers::named(name, clients.client(name), end.clone())
    };
    let mut controllers = podium_controllers::Settings::default();
    pki.authority().certificate().clone_into(&mut controllers.root_ca_pem);
    controllers.cluster_cidrs = vec![settings.pod_cidr.clone()];
    controllers.host.clone_from(&settings.node_name);
    controllers.signers = podium_controllers::Signers::one(&pki.authority_shared());
    controllers.token_keys = Some(pki.token_keys());
    let config = podium_controllers::Config::new(clients.clone(), informers.clone(), controllers);
    parts.spawn("controllers", controllers_run.during(podium_controllers::run(config, end.clone())));
    steps.done("controllers", "");
    let config = podium_scheduler::Config::new(clients, informers.clone());
    parts.spawn("scheduler", scheduler_runs.during(podium_scheduler::run(config, end.clone())));
    steps.done("scheduler", "");

    let admin = api.client("system:podium", &["system:masters"]);
    addons::dns_service(&admin, settings.dns_ip()?).await.context("the kube-dns Service")?;
    addons::node_access(&admin).await.context("what nodes may read")?;
    let approval = serving_approval::run(
        admin.clone(),
        informers.clone(),
        serving_approval::Reserved { addresses: vec![node_ip, settings.kubernetes_ip()?.into()] },
        end.clone(),
    );
    parts.spawn("serving approval", approval);
    parts.spawn("DNS endpoints", addons::dns_endpoints(admin, informers.clone(), end.clone()));

    let names = NodeNames { name: settings.node_name.clone(), addresses: vec![node_ip] };
    let certificates = pki.node(&names, now)?;
    let node = node::Node {
        layout,
        name: &settings.node_name,
        ip: node_ip,
        runtime_endpoint: settings.runtime_endpoint.as_deref(),
        kubelet_port: settings.kubelet_port,
        kubelet_config: settings.kubelet_config.as_deref(),
        cluster_cidr: Some(settings.pod_cidr.parse()?),
        cluster_dns: settings.dns_ip()?,
        cluster_domain: &settings.cluster_domain,
        client: api.client(&format!("system:node:{}", settings.node_name), &["system:nodes"]),
        informers: informers.clone(),
        serving: podium_kubelet::ServingCertificate {
            resolver: ServingCertificate::new(&certificates.serving)?,
            client_ca: node::authorities(pki.authority().certificate())?,
        },
    };
    node::start(&node, containerd, parts, steps).await?;
    parts.unless_ended(dns_known(&informers, &settings.node_name)).await?;
    let renewal = renew(layout.clone(), settings.clone(), serving, end);
    parts.spawn("certificate renewal", renewal);
    Ok(running)
}

/// Waits until this node's DNS server is an endpoint of the Service.
async fn dns_known(informers: &SharedInformers, node: &str) {
    let slices = informers.of::<EndpointSlice>();
    let wake = Arc::new(Notify::new());
    let changed = Arc::clone(&wake);
    slices.on_event(move |_| changed.notify_one());
    let key = ObjectKey::new("kube-system", addons::slice_name(node));
    while !slices.contains(&key) {
        wake.notified().await;
    }
}

/// Replaces the serving certificate while it is in use, long before it ends.
async fn renew(
    layout: Layout,
    settings: Settings,
    serving: Arc<ServingCertificate>,
    end: Shutdown,
) -> Result<(), podium_pki::Error> {
    loop {
        tokio::select! {
            () = end.cancelled() => return Ok(()),
            () = tokio::time::sleep(RENEWAL) => {}
        }
        let renewed = settings.current_node_ip().and_then(|ip| {
            let now = Timestamp::now();
            let pair = Pki::open(&layout.pki(), now)?.api_server(&server_names(&settings, ip)?, now)?;
            Ok(serving.replace(&pair)?)
        });
        if let Err(error) = renewed {
            tracing::error!(error = %format!("{error:#}"), "serving certificate not renewed");
        }
    }
}

fn server_names(settings: &Settings, node_ip: IpAddr) -> Result<ServerNames> {
    Ok(ServerNames {
        addresses: vec![node_ip, Ipv4Addr::LOCALHOST.into()],
        service_ip: settings.kubernetes_ip()?.into(),
        hostname: settings.node_name.clone(),
        cluster_domain: settings.cluster_domain.clone(),
        extra: Vec::new(),
    })
}

fn server_config(
    settings: &Settings,
    pki: &Pki,
    node_ip: IpAddr,
    serving: &Arc<ServingCertificate>,
    now: Timestamp,
) -> Result<podium_apiserver::Config> {
    let issuer = format!("https://kubernetes.default.svc.{}", settings.cluster_domain);
    let authority = pki.authority().certificate().to_owned();
    Ok(podium_apiserver::Config {
        bind: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), settings.port),
        advertise_address: node_ip,
        advertise_port: None,
        service_cidr: settings.service_cidr.parse()?,
        node_ports: 30_000..=32_767,
        served: podium_api::resources::Selection::default(),
        features: podium_api::kinds::features::Features::default(),
        serving: Arc::clone(serving),
        authentication: authentication::Config {
            client_authorities: podium_pki::certificate::from_pem(&authority)?,
            proxy_authorities: podium_pki::certificate::from_pem(pki.proxy_authority().certificate())?,
            proxy_names: vec!["front-proxy-client".to_owned()],
            token_keys: Some(pki.token_keys()),
            issuers: vec![issuer.clone()],
            audiences: vec![issuer.clone()],
            anonymous: true,
        },
        admission: admission::Config::default(),
        issuer: Some(reviews::Issuer {
            keys: pki.token_keys(),
            issuer: issuer.clone(),
            audiences: vec![issuer],
        }),
        kubelet: Some(KubeletClient { pair: pki.kubelet_client(now)?, authority: authority.clone() }),
        client_authority: authority,
        proxy_authority: Some(pki.proxy_authority().certificate().to_owned()),
        components: Components::beside(),
        limits: Limits::default(),
        more_metrics: crate::component::healthz::of_process,
    })
}

/// What `podium status` says of the cluster, asked as any client would.
pub(crate) async fn summary(layout: &Layout) -> Result<Vec<String>> {
    let client = podium_client::from_kubeconfig(&layout.kubeconfig()).await?;
    let (nodes, all) = (Api::<Node>::all(client.clone()), kube::api::ListParams::default());
    let nodes = tokio::time::timeout(Duration::from_secs(5), nodes.list(&all))
        .await
        .context("no answer within 5 s")??;
    let pods = Api::<Pod>::all(client).list(&all).await?;
    let mut lines = Vec::new();
    for node in &nodes.items {
        let ready = if node::is_ready(node) { "Ready" } else { "NotReady" };
        lines.push(format!("node           {} {ready}", node.metadata.name.as_deref().unwrap_or("?")));
    }
    let running = pods
        .items
        .iter()
        .filter(|pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running"));
    lines.push(format!("pods           {} of {} running", running.count(), pods.items.len()));
    Ok(lines)
}
