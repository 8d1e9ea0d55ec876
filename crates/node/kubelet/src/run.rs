//! Puts the parts together and runs them.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use parking_lot::Mutex;
use podium_client::{EventRecorder, EventType, Running, Scope, Shutdown};
use podium_cri::{Cri, Timeouts, v1};
use tokio::sync::watch;

use crate::{
    Config, Configuration,
    backoff::Backoff,
    cgroups::{CgroupError, Cgroups, Limits, systemd::Systemd},
    container_manager::{self, ContainerManager, SettingsError},
    context::Context,
    credentials::accounts::Accounts,
    eviction::thresholds,
    healthz, host_checks,
    image_gc::ImageGc,
    images::{Images, pull_records::PullRecords},
    logs,
    manager::{Pods, clean::Cleaning},
    metrics::Metrics,
    node::{self, NodeKeeper, machine::Machine, startup::Startup},
    node_shutdown,
    references::References,
    resources,
    server::{Server, ServerError},
    system_oom,
    tokens::Tokens,
    trust_bundles::TrustBundles,
    userns::{self, UserNamespaces},
    volumes::mounting::Mounting,
    worker::{CRASH_INITIAL, CRASH_LIMIT},
};

/// Pause between tries to reach the runtime while the kubelet starts.
const RUNTIME_RETRY: Duration = Duration::from_millis(50);

/// Why a kubelet cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime's address is not one.
    #[error("container runtime")]
    Runtime(#[from] podium_cri::Error),
    /// A directory could not be made.
    #[error("making {path}")]
    Directory {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The server cannot listen.
    #[error("kubelet server")]
    Server(#[from] ServerError),
    /// The machine is not as the configuration asks for.
    #[error("{0}")]
    Machine(String),
    /// The ids for user namespaces cannot be given to pods.
    #[error("kubelet mappings: {0}")]
    Users(String),
    /// The managers of devices and processors cannot do what they are told.
    #[error("container manager: {0}")]
    ContainerManager(#[from] SettingsError),
    /// Cgroups are not as they must be.
    #[error("cgroups: {0}")]
    Cgroups(String),
}

/// Runs a kubelet until shutdown. Waits for the runtime as long as it takes; containers are left running
/// at the end.
///
/// # Errors
/// If directories or cgroups cannot be made: the node cannot run anything then.
pub fn run(config: Config, shutdown: Shutdown) -> Running<Error> {
    Box::pin(run_until(config, shutdown))
}

async fn run_until(mut config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let startup = Startup::begin();
    for note in &config.settings.without_effect {
        tracing::info!(note, "configuration");
    }
    let cgroup_error = |error: &dyn std::fmt::Display| Error::Cgroups(error.to_string());
    let cgroups = Cgroups::new(&config.settings).map_err(|error| cgroup_error(&error))?;
    if let Some(trouble) = host_checks::trouble(&config.settings, cgroups.is_v2()) {
        return Err(Error::Machine(trouble));
    }
    for (path, mode) in [
        (config.root_dir.clone(), 0o750),
        (config.root_dir.join("pods"), 0o750),
        (config.settings.pod_logs_dir.clone(), 0o755),
    ] {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(&path)
            .map_err(|source| Error::Directory { path, source })?;
    }
    let pull_records = PullRecords::open(&config.root_dir)
        .map_err(|source| Error::Directory { path: config.root_dir.join("image_manager"), source })?;
    let per_pod = config.user_namespace_ids_per_pod;
    let users = userns::ids_of_machine(per_pod)
        .and_then(|ids| {
            UserNamespaces::new(config.root_dir.join("pods"), per_pod, ids, config.settings.max_pods)
        })
        .map_err(Error::Users)?;
    let timeouts = Timeouts { request: config.settings.runtime_request_timeout.0, ..Timeouts::default() };
    let metrics = Arc::new(Metrics::default());
    let counted = metrics.clone();
    let cri = Cri::with_timeouts(&config.settings.container_runtime_endpoint, timeouts)?
        .observed(move |call, time, failed| counted.called(call, time, failed));
    let server = match &config.serving {
        Some(tls) => {
            let address = SocketAddr::new(config.settings.address, config.settings.port);
            Some(Server::bind(address, tls.resolver.clone(), tls.client_ca.clone(), &config.settings).await?)
        }
        None => None,
    };
    let machine = Machine::read(&config.root_dir);
    machine.holds(&config.settings).map_err(Error::Machine)?;
    let (recorder, sink) = EventRecorder::new(config.client.clone(), "kubelet", &config.node_name);
    let settings = &config.settings;
    let sink = sink.limited(settings.event_record_qps, settings.event_burst);
    let sink = tokio::spawn(sink.run(shutdown.clone()));
    let services = config.informers.of::<Service>();
    let pod_informer = config.informers.scoped::<Pod>(Scope {
        fields: Some(format!("spec.nodeName={}", config.node_name)),
        ..Default::default()
    });
    let Some(version) = runtime_version(&cri, &shutdown).await else {
        sink.await.ok();
        return Ok(());
    };
    config.settings.cgroup_driver = cgroup_driver(&cri, &config.settings).await;
    let cgroups = match config.settings.cgroup_driver.as_str() {
        "systemd" => {
            let systemd = podium_systemd::Systemd::of_machine();
            cgroups.through(Systemd::new(systemd.map_err(|error| Error::Cgroups(error.to_string()))?))
        }
        _ => cgroups,
    };
    let (own, settings) = (cgroups.clone(), config.settings.clone());
    let making =
        tokio::task::spawn_blocking(move || make_groups(&own, &machine, &settings).map(|()| machine));
    let machine = match making.await {
        Ok(made) => made.map_err(|error| cgroup_error(&error))?,
        Err(error) => return Err(cgroup_error(&error)),
    };
    for text in enforced(&config.settings) {
        recorder.event(
            &node::reference(&config.node_name),
            EventType::Normal,
            "NodeAllocatableEnforced",
            text,
        );
    }
    // References tell workers of changes, workers hold references: the way back is weak.
    let pods_slot: Arc<Mutex<Weak<Pods>>> = Arc::default();
    let slot = pods_slot.clone();
    let changed = Arc::new(move |uid: &str| {
        let pods = slot.lock().upgrade();
        if let Some(pods) = pods {
            pods.references_changed(uid);
        }
    });
    let slot = pods_slot.clone();
    let wake = Arc::new(move |uid: &str| {
        let pods = slot.lock().upgrade();
        if let Some(pods) = pods {
            pods.wake(uid);
        }
    });
    let shared = Arc::new(Context {
        container_manager: ContainerManager::open(&config, &metrics, wake)?,
        metrics: metrics.clone(),
        trust_bundles: TrustBundles::new(
            &config.client,
            &shutdown,
            config.settings.feature_is_on("ClusterTrustBundleProjection"),
            changed.clone(),
        ),
        references: References::new(&config.client, &shutdown, changed),
        tokens: Tokens::new(config.client.clone()),
        users,
        node: Arc::default(),
        thresholds: thresholds::parse(&config.settings).map_err(Error::Machine)?,
        pressures: Mutex::default(),
        image_gc: ImageGc::new(Timestamp::now()),
        mounting: Mounting::default(),
        cleaning: Cleaning::default(),
        images: Images::new(
            cri.clone(),
            recorder.clone(),
            config.credential_providers.clone(),
            Accounts::new(config.client.clone()),
            pull_records,
            metrics.clone(),
            &config.settings,
        ),
        client: config.client.clone(),
        crashes: Mutex::new(crash_backoff(&config.settings)),
        runtime_name: version.runtime_name.clone(),
        runtime_version: format!("{}://{}", version.runtime_name, version.runtime_version),
        started: Timestamp::now(),
        shutdown: shutdown.clone(),
        leaving: watch::Sender::new(false),
        cri,
        recorder,
        services,
        cgroups,
        machine,
        config,
    });
    shared.images.recover().await;
    let port = server.as_ref().map_or(shared.config.settings.port, Server::port);
    let keeper = NodeKeeper::new(shared.clone(), port, startup);
    let pods = Pods::new(shared.clone());
    *pods_slot.lock() = Arc::downgrade(&pods);
    pods.follow(&pod_informer);
    let serve = async {
        if let Some(server) = server {
            server.run(shared.clone(), pods.clone()).await;
        }
    };
    let rotate = async {
        tokio::select! {
            () = logs::rotate::run(&shared) => {}
            () = shutdown.cancelled() => {}
        }
    };
    let collect = async {
        tokio::select! {
            () = async {
                // Until the API has said which pods there are, their images look unused.
                pod_informer.synced().await;
                shared.image_gc.run(&shared, &pods).await;
            } => {}
            () = shutdown.cancelled() => {}
        }
    };
    let settings = &shared.config.settings;
    let health = async {
        if settings.healthz_port != 0 {
            let address = SocketAddr::new(settings.healthz_bind_address, settings.healthz_port);
            let looked = pods.clone();
            healthz::run(address, Arc::new(move || looked.is_looking()), &shutdown).await;
        }
    };
    let looked = pods.clone();
    let told = async {
        if let Some(manager) = &shared.config.service_manager {
            manager.run(Arc::new(move || looked.is_looking()), &shutdown).await;
        }
    };
    tokio::join!(
        health,
        told,
        system_oom::run(&shared),
        node_shutdown::run(&shared, &pods),
        keeper.run(),
        pods.run(&pod_informer),
        serve,
        rotate,
        collect,
        container_manager::run(&shared, &pods)
    );
    sink.await.ok();
    Ok(())
}

/// The back-off of containers that end: its first pause is never longer than its longest.
fn crash_backoff(settings: &Configuration) -> Backoff {
    let limit =
        settings.crash_loop_back_off.max_container_restart_period.map_or(CRASH_LIMIT, |limit| limit.0);
    Backoff::new(CRASH_INITIAL.min(limit), limit)
}

/// Makes the groups of all pods, bounded by what is not reserved, and bounds what is reserved, where
/// `enforceNodeAllocatable` says so.
fn make_groups(cgroups: &Cgroups, machine: &Machine, settings: &Configuration) -> Result<(), CgroupError> {
    let enforced = |option: &str| settings.enforce_node_allocatable.iter().any(|one| one == option);
    let all = Limits { cpu_shares: resources::shares(machine.cpus * 1000), ..Limits::default() };
    cgroups.make_roots(if enforced("pods") { machine.limits_of_pods(settings) } else { all })?;
    for (name, group, amounts) in [
        ("system-reserved", &settings.system_reserved_cgroup, &settings.system_reserved),
        ("kube-reserved", &settings.kube_reserved_cgroup, &settings.kube_reserved),
    ] {
        let limits = resources::reserved_limits(amounts);
        if enforced(name) {
            cgroups.bound_reserved(group, limits)?;
        } else if enforced(&format!("{name}-compressible")) {
            cgroups.bound_reserved(group, Limits { cpu_shares: limits.cpu_shares, ..Limits::default() })?;
        }
    }
    Ok(())
}

/// What was bounded, in upstream's words. Source: `cm/node_container_manager_linux.go`.
fn enforced(settings: &Configuration) -> Vec<String> {
    let of_group = |who: &str, group: &str| format!("Updated limits on {who} reserved cgroup {group}");
    let tell = |option: &String| match option.as_str() {
        "pods" => Some("Updated Node Allocatable limit across pods".to_owned()),
        "system-reserved" | "system-reserved-compressible" => {
            Some(of_group("system", &settings.system_reserved_cgroup))
        }
        "kube-reserved" | "kube-reserved-compressible" => {
            Some(of_group("kube", &settings.kube_reserved_cgroup))
        }
        _ => None,
    };
    settings.enforce_node_allocatable.iter().filter_map(tell).collect()
}

/// The driver in use: the runtime's word goes before the configuration's, as upstream.
async fn cgroup_driver(cri: &Cri, settings: &Configuration) -> String {
    let answer = cri.runtime_config(v1::RuntimeConfigRequest {}).await;
    let told = answer.ok().and_then(|answer| answer.linux);
    let asked = settings.cgroup_driver.as_str();
    let used = match told.map(|told| told.cgroup_driver()) {
        None => asked,
        Some(v1::CgroupDriver::Systemd) => "systemd",
        Some(v1::CgroupDriver::Cgroupfs) => "cgroupfs",
    };
    if used != asked {
        tracing::info!(asked, used, "the cgroup driver is the container runtime's");
    }
    used.to_owned()
}

/// Asks until the runtime answers; None if the kubelet is to stop meanwhile.
async fn runtime_version(cri: &Cri, shutdown: &Shutdown) -> Option<v1::VersionResponse> {
    let mut told = false;
    loop {
        match cri.version(v1::VersionRequest { version: "v1".to_owned() }).await {
            Ok(version) => return Some(version),
            Err(error) => {
                if !told {
                    tracing::info!(%error, "waiting for the container runtime");
                    told = true;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RUNTIME_RETRY) => {}
            () = shutdown.cancelled() => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bounded_is_told() {
        let told = |options: &[&str]| {
            enforced(&Configuration {
                enforce_node_allocatable: options.iter().map(|one| (*one).to_owned()).collect(),
                system_reserved_cgroup: "/system".to_owned(),
                kube_reserved_cgroup: "/kube".to_owned(),
                ..Configuration::default()
            })
        };
        assert_eq!(told(&["none"]), Vec::<String>::new());
        assert_eq!(
            told(&["pods", "kube-reserved", "system-reserved-compressible"]),
            [
                "Updated Node Allocatable limit across pods",
                "Updated limits on kube reserved cgroup /kube",
                "Updated limits on system reserved cgroup /system",
            ]
        );
    }
}
