//! Everything the daemon knows, and how it comes to know it again after a start.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt;
use parking_lot::Mutex;
use podium_cri::v1;
use podium_shim::cgroup::Cgroups;
use podium_shim::ending;
use podium_shim::protocol::{Answer, ContainerState, EXIT_FILE, Exit, Request, SPEC_FILE};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use crate::Config;
use crate::cni::{Cni, Network};
use crate::container::{Container, State};
use crate::handlers::Handlers;
use crate::images::store::Store;
use crate::limits;
use crate::registry::progress::Pulls;
use crate::sandbox::Sandbox;
use crate::shim::{self, Lines, Program, ShimError};
use crate::state::{self, ContainerRecord, Phase, SandboxRecord};
use crate::streaming::Streaming;

/// Events kept for a client that reads slowly; one that falls further behind lists anew.
const EVENTS: usize = 1024;
/// Pods found again at a time, each by a thread that waits for its shim: a hung one costs seconds, and few hang.
const RECOVERING: usize = 64;
/// How long a shim that was told to end may take.
const END: Duration = Duration::from_secs(10);

/// The runtime cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory or file.
    #[error("{what}")]
    Io {
        /// Which step.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A change that clients are told of.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) container: String,
    pub(crate) sandbox: String,
    pub(crate) kind: v1::ContainerEventType,
    pub(crate) at: i64,
}

/// The daemon.
pub(crate) struct Runtime {
    pub(crate) config: Config,
    pub(crate) store: Arc<Store>,
    pub(crate) program: Program,
    pub(crate) cni: Cni,
    pub(crate) cgroups: Cgroups,
    pub(crate) available_capabilities: u64,
    /// How many files each process of a container may have open.
    pub(crate) open_files: u64,
    /// Whether pods may have user namespaces, or why not.
    pub(crate) user_namespaces: Result<(), String>,
    pub(crate) sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    pub(crate) containers: Mutex<BTreeMap<String, Arc<Container>>>,
    pub(crate) events: broadcast::Sender<Event>,
    /// Runtimes by the names that pods ask for.
    pub(crate) handlers: Handlers,
    pub(crate) streaming: Streaming,
    /// Shared by pulls, taken alone by a collection: content comes before its name.
    pub(crate) pulling: tokio::sync::RwLock<()>,
    /// How far pulls are.
    pub(crate) pulls: Pulls,
    /// Work in the background, waited for at the end.
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

/// The clock, in nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A new id: 256 random bits.
pub(crate) fn new_id() -> Result<String, Status> {
    let mut bytes = [0u8; 32];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| Status::internal("no randomness"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// An error with its causes, for whoever reads the log or the pod's events.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// An internal failure as CRI tells it.
pub(crate) fn failed(what: &str, error: &dyn std::error::Error) -> Status {
    Status::unknown(format!("{what}: {}", chain(error)))
}

impl Runtime {
    pub(crate) fn open(config: Config, shutdown: CancellationToken) -> Result<Arc<Self>, Error> {
        let io = |what: &'static str| move |source| Error::Io { what, source };
        for directory in [&config.root, &config.run, &config.run.join("s")] {
            state::directory(directory).map_err(io("making directories"))?;
        }
        for name in ["sandboxes", "containers"] {
            state::directory(&config.root.join(name)).map_err(io("making directories"))?;
        }
        let cni = Cni {
            configuration_directory: config.cni_configuration.clone(),
            plugin_directory: config.cni_plugins.clone(),
        };
        let handlers = Handlers::read(&config.handlers).map_err(io("reading runtime handlers"))?;
        let store = Store::open(&config.root).map_err(io("opening the image store"))?;
        let program = Program::new().map_err(io("keeping the shim in memory"))?;
        let user_namespaces =
            program.check_users(store.layers()).map_err(io("asking for user namespaces"))?;
        if let Err(why) = &user_namespaces {
            tracing::info!(why, "no user namespaces for pods");
        }
        if let Err(error) = limits::raise_own() {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
        let available_capabilities = crate::capabilities::available();
        Ok(Arc::new(Self {
            store: Arc::new(store),
            program,
            user_namespaces,
            handlers,
            cni,
            cgroups: Cgroups::of_machine().map_err(io("finding cgroups"))?,
            available_capabilities,
            open_files: limits::of_containers(available_capabilities).map_err(io("reading limits"))?,
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            events: broadcast::channel(EVENTS).0,
            streaming: Streaming::default(),
            pulling: tokio::sync::RwLock::new(()),
            pulls: Pulls::default(),
            tasks: TaskTracker::new(),
            shutdown,
            config,
        }))
    }

    pub(crate) fn sandbox_directory(&self, id: &str) -> PathBuf {
        self.config.root.join("sandboxes").join(id)
    }

    pub(crate) fn container_directory(&self, id: &str) -> PathBuf {
        self.config.root.join("containers").join(id)
    }

    /// A shim's socket: short, because its path may have 107 bytes.
    pub(crate) fn socket(&self, id: &str) -> PathBuf {
        self.config.run.join("s").join(id.get(..20).unwrap_or(id))
    }

    /// A pod by its id or a beginning of it that only it has.
    pub(crate) fn sandbox(&self, id: &str) -> Option<Arc<Sandbox>> {
        find(&self.sandboxes.lock(), id)
    }

    /// A container, likewise.
    pub(crate) fn container(&self, id: &str) -> Option<Arc<Container>> {
        find(&self.containers.lock(), id)
    }

    pub(crate) fn need_container(&self, id: &str) -> Result<Arc<Container>, Status> {
        self.container(id).ok_or_else(|| {
            Status::not_found(format!("an error occurred when try to find container {id:?}: not found"))
        })
    }

    pub(crate) fn need_sandbox(&self, id: &str) -> Result<Arc<Sandbox>, Status> {
        self.sandbox(id).ok_or_else(|| {
            Status::not_found(format!("an error occurred when try to find sandbox {id:?}: not found"))
        })
    }

    /// Containers of a pod.
    pub(crate) fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        self.containers.lock().values().filter(|one| one.record.sandbox_id == sandbox).cloned().collect()
    }

    pub(crate) fn tell(&self, container: &str, sandbox: &str, kind: v1::ContainerEventType) {
        // Nobody listening is fine.
        let _ = self.events.send(Event {
            container: container.to_owned(),
            sandbox: sandbox.to_owned(),
            kind,
            at: now(),
        });
    }

    /// Collects what no image and no container needs any more. Blocking.
    pub(crate) fn collect(&self) {
        // The next collection takes what this one leaves to a pull.
        let Ok(_alone) = self.pulling.try_write() else { return };
        let in_use: BTreeSet<String> = self
            .containers
            .lock()
            .values()
            .flat_map(|one| one.record.all_layers().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        if let Err(error) = self.store.collect(&in_use) {
            tracing::warn!(%error, "images not collected");
        }
    }

    /// Finds everything again: records on disk, shims by their sockets. What was half-made is taken away.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<(), Error> {
        let io = |source| Error::Io { what: "reading records", source };
        let mut unfinished = Vec::new();
        for directory in state::below(&self.config.root.join("sandboxes")).map_err(io)? {
            match state::load::<SandboxRecord>(&directory) {
                Ok(Some(record)) => {
                    if record.phase == Phase::Creating {
                        unfinished.push(record.id.clone());
                    }
                    let sandbox = Arc::new(Sandbox::new(record, directory));
                    self.sandboxes.lock().insert(sandbox.id.clone(), sandbox);
                }
                Ok(None) => remove_leftover(&directory).await,
                Err(error) if state::is_broken(&error) => {
                    tracing::warn!(directory = %directory.display(), %error, "a pod's record is broken");
                    let record = self.remains(&directory);
                    unfinished.push(record.id.clone());
                    let sandbox = Arc::new(Sandbox::new(record, directory));
                    self.sandboxes.lock().insert(sandbox.id.clone(), sandbox);
                }
                Err(error) => {
                    tracing::error!(directory = %directory.display(), %error, "a pod's record cannot be read");
                }
            }
        }
        for directory in state::below(&self.config.root.join("containers")).map_err(io)? {
            match state::load::<ContainerRecord>(&directory) {
                Ok(Some(record)) if self.sandboxes.lock().contains_key(&record.sandbox_id) => {
                    let container = Arc::new(Container::new(record, directory));
                    self.containers.lock().insert(container.record.id.clone(), container);
                }
                Ok(_) => remove_leftover(&directory).await,
                Err(error) if state::is_broken(&error) => {
                    tracing::warn!(directory = %directory.display(), %error, "a container's record is broken");
                    remove_leftover(&directory).await;
                }
                Err(error) => {
                    tracing::error!(directory = %directory.display(), %error, "a container's record cannot be read");
                }
            }
        }
        let sandboxes: Vec<Arc<Sandbox>> = self.sandboxes.lock().values().cloned().collect();
        // All at a time: one that hangs holds up no other.
        let all = futures::stream::iter(sandboxes);
        all.for_each_concurrent(RECOVERING, |sandbox| async move { self.recover_sandbox(&sandbox).await })
            .await;
        for id in unfinished {
            tracing::info!(pod = id, "taking away a pod that was being made");
            if let Err(error) = self.remove_sandbox(&id).await {
                tracing::warn!(pod = id, %error, "a half-made pod is left");
            }
        }
        let runtime = Arc::clone(self);
        self.tasks.spawn_blocking(move || runtime.collect());
        Ok(())
    }

    /// A pod of which only its directory's name is known. Its network is asked for by that name: plugins that never saw it
    /// have nothing to do.
    fn remains(&self, directory: &std::path::Path) -> SandboxRecord {
        let id = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let network = self.cni.config().ok().map(|config| Network { config, ..Network::default() });
        SandboxRecord::remains(id, network)
    }

    /// Asks a pod's shim what it has. One that starts a container right now hears nothing before that is done: it is busy,
    /// not hung, and its other containers are not lost for it.
    async fn question(&self, sandbox: &Sandbox) -> Result<shim::Reply, ShimError> {
        let socket = self.socket(&sandbox.id);
        let first = shim::ask(&socket, Request::Watch, Vec::new()).await;
        let id = sandbox.id.clone();
        if matches!(first, Err(ShimError::Silent(_)))
            && tokio::task::spawn_blocking(move || ending::is_starting(&id)).await.unwrap_or(false)
        {
            return shim::ask_busy(&socket, Request::Watch).await;
        }
        first
    }

    async fn recover_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let mut running: BTreeMap<String, ContainerState> = BTreeMap::new();
        if sandbox.phase() != Phase::Stopped {
            match self.question(sandbox).await {
                Ok((Answer::State { pid, network_fd, containers }, _, answers)) => {
                    sandbox.set_shim(Some((pid, network_fd)));
                    running.extend(containers.into_iter().map(|one| (one.id.clone(), one)));
                    if let Ok(lines) = answers.into_lines() {
                        self.watch(sandbox, lines);
                    }
                }
                Ok((other, ..)) => tracing::error!(pod = sandbox.id, ?other, "a strange shim"),
                // Killed, or the machine was started anew.
                Err(error) => {
                    tracing::info!(pod = sandbox.id, %error, "the pod's shim is gone");
                    if matches!(error, ShimError::Silent(_)) {
                        self.end_by_hand(sandbox).await;
                    }
                    sandbox.set_shim(None);
                    if let Some(group) = sandbox.group() {
                        self.clear_group(&group).await;
                    }
                }
            }
        }
        for container in self.containers_of(&sandbox.id) {
            let id = &container.record.id;
            let exit = read_exit(&container.directory.join(EXIT_FILE));
            match (running.remove(id), exit) {
                (Some(ContainerState { exit: Some(exit), .. }), _) | (None, Some(exit)) => {
                    container.set(State::Exited(exit));
                    self.forget(sandbox, id).await;
                }
                (Some(one), _) => {
                    container.set(State::Running {
                        pid: one.pid,
                        started_at: one.started_at,
                        user: one.user,
                    });
                }
                // Started once, and nobody saw its end.
                (None, None) if container.directory.join(SPEC_FILE).exists() => {
                    self.lost(&container).await;
                }
                (None, None) => {}
            }
        }
    }

    /// A container whose end nobody saw.
    pub(crate) async fn lost(&self, container: &Container) {
        self.clear_group(&container.record.cgroup).await;
        let exit = Exit {
            id: container.record.id.clone(),
            code: 255,
            at: now(),
            reason: "Unknown".to_owned(),
            ..Exit::default()
        };
        if let Ok(bytes) = serde_json::to_vec(&exit)
            && let Err(error) = state::write(&container.directory.join(EXIT_FILE), &bytes)
        {
            tracing::warn!(container = container.record.id, %error, "an end is not recorded");
        }
        container.set(State::Exited(exit));
        self.tell(
            &container.record.id,
            &container.record.sandbox_id,
            v1::ContainerEventType::ContainerStoppedEvent,
        );
    }

    /// Empties and removes a group that has no shim to do it.
    async fn clear_group(&self, group: &str) {
        let (cgroups, owned) = (self.cgroups.clone(), group.to_owned());
        let cleared = tokio::task::spawn_blocking(move || {
            // What was killed takes a moment, and the kernel tells nobody when it is gone.
            for _ in 0..1000 {
                cgroups.kill(&owned);
                if cgroups.remove(&owned) {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            false
        });
        if !cleared.await.unwrap_or(false) {
            tracing::warn!(group, "a cgroup is still in use");
        }
        self.end_scope(group).await;
    }

    /// Has the shim forget a container that has ended, which frees its cgroup.
    async fn forget(&self, sandbox: &Sandbox, id: &str) {
        let request = Request::Forget { id: id.to_owned() };
        match shim::command(&self.socket(&sandbox.id), request).await {
            // Its shim is gone, or as good as that: the group is ours to take away.
            Err(ShimError::Gone(_) | ShimError::Silent(_)) => {
                if let Some(container) = self.container(id) {
                    self.clear_group(&container.record.cgroup).await;
                }
            }
            Err(error) => tracing::warn!(container = id, %error, "an ended container is not forgotten"),
            Ok(()) => {
                if let Some(container) = self.container(id) {
                    self.end_scope(&container.record.cgroup).await;
                }
            }
        }
    }

    /// Listens to a shim in the background.
    pub(crate) fn watch(self: &Arc<Self>, sandbox: &Arc<Sandbox>, mut lines: Lines) {
        let (runtime, sandbox) = (Arc::clone(self), Arc::clone(sandbox));
        self.tasks.spawn(async move {
            loop {
                let line = tokio::select! {
                    () = runtime.shutdown.cancelled() => return,
                    line = lines.next() => line,
                };
                match line {
                    Some(Answer::Exited(exit)) => runtime.exited(&sandbox, exit).await,
                    Some(other) => tracing::warn!(pod = sandbox.id, ?other, "a strange shim"),
                    None => break,
                }
            }
            runtime.shim_ended(&sandbox).await;
        });
    }

    async fn exited(&self, sandbox: &Arc<Sandbox>, exit: Exit) {
        if exit.id.is_empty() {
            tracing::info!(pod = sandbox.id, "the pod's first process has ended");
            sandbox.set_shim(None);
            self.tell(&sandbox.id, &sandbox.id, v1::ContainerEventType::ContainerStoppedEvent);
            return;
        }
        let id = exit.id.clone();
        if let Some(container) = self.container(&id) {
            // The group goes before anybody is told: who is told may remove the pod's group above it.
            self.forget(sandbox, &id).await;
            container.set(State::Exited(exit));
            self.tell(&id, &sandbox.id, v1::ContainerEventType::ContainerStoppedEvent);
        }
    }

    /// A shim has ended, told or not: its processes ended with it.
    async fn shim_ended(&self, sandbox: &Sandbox) {
        sandbox.set_shim(None);
        if let Some(group) = sandbox.group() {
            self.clear_group(&group).await;
        }
        for container in self.containers_of(&sandbox.id) {
            let running = matches!(*container.state.borrow(), State::Running { .. });
            if !running {
                continue;
            }
            match read_exit(&container.directory.join(EXIT_FILE)) {
                Some(exit) => {
                    container.set(State::Exited(exit));
                    self.tell(
                        &container.record.id,
                        &sandbox.id,
                        v1::ContainerEventType::ContainerStoppedEvent,
                    );
                }
                None => self.lost(&container).await,
            }
        }
    }

    /// Kills a pod's shim that hangs, and what is in the pod's groups.
    async fn end_by_hand(&self, sandbox: &Sandbox) {
        tracing::warn!(pod = sandbox.id, "the pod's shim hangs and is killed");
        let id = sandbox.id.clone();
        let ended = tokio::task::spawn_blocking(move || ending::end(&id, END)).await;
        if let Err(error) = ended.map_err(io::Error::other).and_then(|ended| ended) {
            tracing::error!(pod = sandbox.id, %error, "the pod's shim is not known to be gone");
        }
        for container in self.containers_of(&sandbox.id) {
            self.clear_group(&container.record.cgroup).await;
        }
        if let Some(group) = sandbox.group() {
            self.clear_group(&group).await;
        }
    }

    /// Ends a pod's shim and waits until it is gone.
    pub(crate) async fn end_shim(&self, sandbox: &Sandbox) {
        let socket = self.socket(&sandbox.id);
        let ended = match shim::ask(&socket, Request::End, Vec::new()).await {
            Ok((_, _, answers)) => match answers.into_lines() {
                // The connection ends with it.
                Ok(mut lines) => {
                    let end = async { while lines.next().await.is_some() {} };
                    tokio::time::timeout(END, end).await.is_ok()
                }
                Err(_) => false,
            },
            Err(error) => !matches!(error, ShimError::Silent(_)),
        };
        if !ended {
            self.end_by_hand(sandbox).await;
        }
        if let Some(group) = sandbox.group() {
            self.end_scope(&group).await;
        }
        // Last: without its socket nobody would find a shim that lives on.
        let _ = std::fs::remove_file(&socket);
        sandbox.set_shim(None);
    }
}

fn find<T>(all: &BTreeMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if id.is_empty() {
        return None;
    }
    if let Some(found) = all.get(id) {
        return Some(Arc::clone(found));
    }
    let mut fits = all.range(id.to_owned()..).take_while(|(known, _)| known.starts_with(id));
    let first = fits.next().map(|(_, found)| Arc::clone(found));
    first.filter(|_| fits.next().is_none())
}

pub(crate) fn read_exit(path: &std::path::Path) -> Option<Exit> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

async fn remove_leftover(directory: &std::path::Path) {
    if let Err(error) = crate::remove::tree_aside(directory).await {
        tracing::warn!(directory = %directory.display(), %error, "a leftover stays");
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("config", &self.config).finish_non_exhaustive()
    }
}
