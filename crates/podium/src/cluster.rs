//! One machine's cluster: every part started in order, wired in process, and ended in order.

mod parts;
mod remove;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use podium_apiserver::{ApiServer, KubeletClient, Limits, admission, authentication, reviews};
use podium_client::{Api, SharedInformers, Shutdown};
use podium_pki::tls::ServingCertificate;
use podium_pki::{Pki, ServerNames};
use podium_store::Store;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::addons;
use crate::cli::Up;
use crate::commands::{become_daemon, end_of_start};
use crate::containerd::{Containerd, ensure_pause};
use crate::layout::Layout;
use crate::settings::Settings;
use crate::steps::{Steps, say};
use parts::{Clients, Parts};
pub(crate) use remove::{remove, stop_pods};

/// How long the parts may take to end once they are asked to.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a start may take before it is called failed: a slow disk and an empty page cache, doubled.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How often certificates are looked at; they are renewed long before they end.
const RENEWAL: Duration = Duration::from_secs(6 * 3600);
/// The log of the daemon before this one is kept when it has grown beyond this.
const LOG_BYTES: u64 = 20 << 20;

/// Runs the cluster until a signal ends it.
pub(crate) fn run(layout: &Layout, settings: &Settings, up: &Up) -> Result<ExitCode> {
    let mut steps = Steps::start();
    for directory in [&layout.data, &layout.run(), &layout.kubelet(), &layout.pod_logs()] {
        podium_pki::files::private_directory(directory)?;
    }
    open_log(layout, &up.log)?;
    let _lock = become_daemon(layout)?;
    settings.save(layout)?;
    steps.done("preflight", &layout.data.display().to_string());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let outcome = runtime.block_on(serve(layout, settings, steps));
    // Blocking work that ignores its end must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    if let Err(error) = &outcome {
        tracing::error!(error = %format!("{error:#}"), "daemon ended");
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn serve(layout: &Layout, settings: &Settings, mut steps: Steps) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let containerd = Containerd::new(layout);
    let own_runtime = settings.runtime_endpoint.is_none();
    if own_runtime {
        // It needs the longest, and nobody's help.
        containerd.start()?;
    }
    let server_end = Shutdown::new();
    let mut parts = Parts::new();
    let started = tokio::select! {
        started = start(layout, settings, &containerd, &mut parts, &server_end, &mut steps) => started,
        _ = terminate.recv() => Err(anyhow!("told to end during the start")),
        _ = interrupt.recv() => Err(anyhow!("interrupted during the start")),
        () = tokio::time::sleep(START_LIMIT) => {
            Err(anyhow!("not ready after {} s: see {}", START_LIMIT.as_secs(), layout.log().display()))
        }
    };
    let outcome = match started {
        Ok(running) => {
            steps.ready();
            say("\ntry next:");
            say(&format!("  export KUBECONFIG={}", layout.kubeconfig().display()));
            say("  kubectl get nodes");
            say("  kubectl create deployment hello --image=IMAGE    (load one with: podium image load FILE)");
            end_of_start();
            let ended = tokio::select! {
                _ = terminate.recv() => Ok(()),
                _ = interrupt.recv() => Ok(()),
                (name, result) = parts.ended() => {
                    let why = result.err().unwrap_or_else(|| anyhow!("ended without a reason"));
                    Err(why.context(format!("{name} ended")))
                }
            };
            tracing::info!("stopping");
            let finish = async {
                parts.end(PATIENCE).await;
                server_end.cancel();
                running.api.wait().await;
                running.store.close().await;
            };
            // A second signal means: now. Nothing acknowledged is lost by that.
            tokio::select! {
                () = finish => {}
                _ = terminate.recv() => tracing::warn!("told to end twice"),
                _ = interrupt.recv() => tracing::warn!("interrupted twice"),
            }
            ended
        }
        Err(error) => {
            parts.end(PATIENCE).await;
            server_end.cancel();
            Err(error)
        }
    };
    tracing::info!("stopped");
    outcome
}

/// What has to be closed in order, after all other parts.
struct Running {
    api: Arc<ApiServer>,
    store: Store,
}

impl Running {
    fn new(api: &Arc<ApiServer>, store: &Store) -> Self {
        Running { api: Arc::clone(api), store: store.clone() }
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

    let config = server_config(settings, &pki, node_ip, &serving, now)?;
    let api =
        Arc::new(ApiServer::start(config, store.clone(), server_end.clone()).await.context("API server")?);
    api.ready().await;
    steps.done("API server", &format!("https://{node_ip}:{}", settings.port));
    let running = Running::new(&api, &store);

    let end = parts.shutdown();
    let clients = Arc::new(Clients(Arc::clone(&api)));
    let manager = api.client("system:kube-controller-manager", &[]);
    let informers = SharedInformers::new(manager, end.clone());
    let mut controllers = podium_controllers::Settings::default();
    pki.authority().certificate().clone_into(&mut controllers.root_ca_pem);
    controllers.cluster_cidrs = vec![settings.pod_cidr.clone()];
    controllers.host.clone_from(&settings.node_name);
    let config = podium_controllers::Config::new(clients.clone(), informers.clone(), controllers);
    parts.spawn("controllers", podium_controllers::run(config, end.clone()));
    steps.done("controllers", "");
    parts.spawn(
        "scheduler",
        podium_scheduler::run(parts::scheduler(clients.clone(), informers.clone()), end.clone()),
    );
    steps.done("scheduler", "");

    let endpoint = match &settings.runtime_endpoint {
        Some(endpoint) => {
            ensure_pause(endpoint, &layout.run()).await?;
            steps.done("runtime", endpoint);
            endpoint.clone()
        }
        None => {
            let version = containerd.ready().await?;
            steps.done("runtime", &version);
            let watched = containerd.clone().supervise(end.clone());
            parts.spawn("containerd", async move {
                watched.await;
                Ok::<(), std::convert::Infallible>(())
            });
            containerd.endpoint()
        }
    };
    let kubelet = parts::kubelet(layout, settings, &pki, &api, &informers, node_ip, &endpoint)?;
    parts.spawn("kubelet", podium_kubelet::run(kubelet, end.clone()));
    let (network_up, mut network) = watch::channel(None);
    let config = parts::network(layout, settings, &informers)?;
    parts.spawn("network", podium_network::run(config, network_up, end.clone()));
    let (proxy_up, mut proxy) = watch::channel(false);
    let config = podium_proxy::Config {
        informers: informers.clone(),
        node_name: settings.node_name.clone(),
        table: layout.proxy_table(),
    };
    parts.spawn("proxy", podium_proxy::run(config, proxy_up, end.clone()));

    let gateway = parts.unless_ended(network.wait_for(Option::is_some)).await??;
    let gateway: Ipv4Addr = gateway.as_ref().context("the network has no gateway")?.gateway;
    parts.unless_ended(proxy.wait_for(|synced| *synced)).await??;
    steps.done("network", &format!("pods {}, Services {}", settings.pod_cidr, settings.service_cidr));

    let (dns_up, mut dns) = watch::channel(false);
    let config = podium_dns::Config {
        informers: informers.clone(),
        listen: SocketAddr::new(gateway.into(), 53),
        domain: settings.cluster_domain.clone(),
        resolv_conf: "/etc/resolv.conf".into(),
    };
    let dns_end = end.clone();
    parts.spawn(
        "DNS",
        async move { podium_dns::run(config, || _ = dns_up.send_replace(true), dns_end).await },
    );
    let admin = api.client("system:podium", &["system:masters"]);
    addons::dns(&admin, settings.dns_ip()?, gateway, &settings.node_name)
        .await
        .context("the kube-dns Service")?;
    parts.unless_ended(dns.wait_for(|up| *up)).await??;
    steps.done("DNS", &settings.dns_ip()?.to_string());

    parts.unless_ended(parts::node_ready(&informers, &settings.node_name, now)).await?;
    steps.done("node", &format!("{} Ready", settings.node_name));
    let renewal = renew(layout.clone(), settings.clone(), serving, end);
    parts.spawn("certificate renewal", renewal);
    Ok(running)
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
        limits: Limits::default(),
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
        let ready = if parts::is_ready(node) { "Ready" } else { "NotReady" };
        lines.push(format!("node           {} {ready}", node.metadata.name.as_deref().unwrap_or("?")));
    }
    let running = pods
        .items
        .iter()
        .filter(|pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running"));
    lines.push(format!("pods           {} of {} running", running.count(), pods.items.len()));
    Ok(lines)
}

fn open_log(layout: &Layout, level: &str) -> Result<()> {
    let path = layout.log();
    if std::fs::metadata(&path).is_ok_and(|file| file.len() > LOG_BYTES) {
        std::fs::rename(&path, path.with_extension("log.1")).context("put the old log aside")?;
    }
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    let filter = tracing_subscriber::EnvFilter::try_new(level).with_context(|| format!("--log {level}"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::sync::Mutex::new(file))
        .try_init()
        .map_err(|error| anyhow!("start logging: {error}"))
}
