//! The life of a container: made on disk, started by its pod's shim, stopped, removed.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use podium_cri::v1;
use podium_shim::protocol::{
    Answer, EXIT_FILE, ExecSpec, Exit, Failure, OCI_CONFIG, Request, SPEC_FILE, User,
};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tonic::Status;

use crate::cdi;
use crate::core::{Runtime, chain, failed, new_id, now};
use crate::images::records::Record;
use crate::oci;
use crate::scopes::{self, Bounds};
use crate::shim::{self, Lines, ShimError};
use crate::spec::{self, Ingredients};
use crate::state::{self, ContainerRecord, VolumeImage};

/// How the error begins when an image cannot be a volume; the kubelet counts by it. Source: `cri-api/pkg/errors`.
const VOLUME_FAILED: &str = "ImageVolumeMountFailed";
/// How long a killed process may take to be gone: it may be in the kernel, on a disk that hangs.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// How long a shim that did not answer may take to tell that a container ended, which we have killed without it. Less than
/// the two minutes of the kubelet's patience with all that comes before and after it.
const LATE: Duration = Duration::from_secs(20);
/// What one stream of a command may answer. Source: containerd's and CRI-O's limit, and the kubelet's.
const EXEC_BYTES: usize = 16 << 20;
/// How long output may follow a command's end, from processes it left behind.
const EXEC_DRAIN: Duration = Duration::from_secs(2);

/// How far a container is.
#[derive(Clone, Debug)]
pub(crate) enum State {
    Created,
    Running { pid: i32, started_at: i64, user: User },
    Exited(Exit),
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) record: ContainerRecord,
    pub(crate) directory: PathBuf,
    pub(crate) state: watch::Sender<State>,
    /// Limits as last updated.
    pub(crate) resources: Mutex<Option<v1::LinuxContainerResources>>,
    pub(crate) samples: crate::stats::Samples,
    /// Starting and removing exclude each other.
    changing: tokio::sync::Mutex<()>,
}

impl Container {
    pub(crate) fn new(record: ContainerRecord, directory: PathBuf) -> Self {
        let resources = record.config.linux.as_ref().and_then(|linux| linux.resources.clone());
        Self {
            record,
            directory,
            state: watch::Sender::new(State::Created),
            resources: Mutex::new(resources),
            samples: crate::stats::Samples::default(),
            changing: tokio::sync::Mutex::new(()),
        }
    }

    pub(crate) fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    fn number(&self) -> v1::ContainerState {
        match *self.state.borrow() {
            State::Created => v1::ContainerState::ContainerCreated,
            State::Running { .. } => v1::ContainerState::ContainerRunning,
            State::Exited(_) => v1::ContainerState::ContainerExited,
        }
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        match *self.state.borrow() {
            State::Running { pid, .. } => Some(pid),
            _ => None,
        }
    }

    fn image(&self) -> Option<v1::ImageSpec> {
        // As the user named it, which is what people look for.
        self.record.config.image.clone().map(|mut image| {
            if !image.user_specified_image.is_empty() {
                image.image.clone_from(&image.user_specified_image);
            }
            image
        })
    }

    pub(crate) fn item(&self) -> v1::Container {
        let record = &self.record;
        v1::Container {
            id: record.id.clone(),
            pod_sandbox_id: record.sandbox_id.clone(),
            metadata: record.config.metadata.clone(),
            image: self.image(),
            image_ref: record.image_ref.clone(),
            image_id: record.image_id.clone(),
            state: self.number().into(),
            created_at: record.created_at,
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
        }
    }

    pub(crate) fn status(&self, log_path: Option<&Path>) -> v1::ContainerStatus {
        let record = &self.record;
        let mut status = v1::ContainerStatus {
            id: record.id.clone(),
            metadata: record.config.metadata.clone(),
            state: self.number().into(),
            created_at: record.created_at,
            image: self.image(),
            image_ref: record.image_ref.clone(),
            image_id: record.image_id.clone(),
            labels: record.config.labels.clone(),
            annotations: record.config.annotations.clone(),
            mounts: record.config.mounts.clone(),
            log_path: log_path.map(|path| path.display().to_string()).unwrap_or_default(),
            resources: Some(v1::ContainerResources { linux: self.resources.lock().clone() }),
            ..Default::default()
        };
        let user = |user: &User| v1::ContainerUser {
            linux: Some(v1::LinuxContainerUser {
                uid: user.uid.into(),
                gid: user.gid.into(),
                supplemental_groups: user.groups.iter().map(|gid| i64::from(*gid)).collect(),
            }),
        };
        match &*self.state.borrow() {
            State::Created => {}
            State::Running { started_at, user: who, .. } => {
                status.started_at = *started_at;
                status.user = Some(user(who));
            }
            State::Exited(exit) => {
                status.started_at = exit.started_at;
                status.finished_at = exit.at;
                status.exit_code = exit.code;
                status.message.clone_from(&exit.message);
                status.user = Some(user(&exit.user));
                status.reason = reason(exit).to_owned();
            }
        }
        status
    }
}

/// Why a container ended, in a word.
fn reason(exit: &Exit) -> &str {
    match (exit.reason.as_str(), exit.oom, exit.code) {
        ("", true, _) => "OOMKilled",
        ("", false, 0) => "Completed",
        ("", false, _) => "Error",
        (reason, ..) => reason,
    }
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) code: i32,
}

/// A command that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) answers: Lines,
}

impl Running {
    /// Waits for its end; its code. `None` if nobody knows.
    pub(crate) async fn ended(&mut self) -> Option<i32> {
        loop {
            match self.answers.next().await? {
                Answer::Exited(exit) => return Some(exit.code),
                other => tracing::debug!(?other, "an answer nobody asked for"),
            }
        }
    }
}

impl Runtime {
    /// Makes a container: its record and its directories. Nothing runs yet.
    pub(crate) fn create_container(
        &self,
        sandbox_id: &str,
        config: v1::ContainerConfig,
    ) -> Result<String, Status> {
        let sandbox = self.need_sandbox(sandbox_id)?;
        if !sandbox.is_ready() {
            return Err(Status::failed_precondition(format!("sandbox {:?} is not running", sandbox.id)));
        }
        let metadata = config
            .metadata
            .clone()
            .ok_or_else(|| Status::invalid_argument("container config must include metadata"))?;
        let image = config.image.clone().unwrap_or_default();
        let record = self.store.find(&image.image).ok_or_else(|| {
            Status::not_found(format!("failed to resolve image {:?}: not found", image.image))
        })?;
        let execution = self.execution(&record)?;
        let volume_images = self.volume_images(&config)?;
        let id = new_id()?;
        let directory = self.container_directory(&id);
        // Everything that can be refused is refused now; what starts later is made of the same.
        let spec = self.container_spec(&sandbox, &id, &config, &execution, &record.layers, &volume_images)?;
        let record = ContainerRecord {
            id: id.clone(),
            sandbox_id: sandbox.id.clone(),
            created_at: now(),
            image_ref: record.digests.iter().next().cloned().unwrap_or_else(|| record.id.clone()),
            image_id: record.id,
            layers: record.layers,
            volume_images,
            stop_signal: spec::stop_signal(&config, &execution.stop_signal),
            cgroup: spec.cgroup,
            config,
        };
        {
            let mut all = self.containers.lock();
            let taken = all.values().find(|one| {
                one.record.sandbox_id == sandbox.id && one.record.config.metadata.as_ref() == Some(&metadata)
            });
            if let Some(same) = taken {
                return Err(Status::failed_precondition(format!(
                    "failed to reserve container name: name \"{}_{}\" is reserved for {:?}",
                    metadata.name, metadata.attempt, same.record.id
                )));
            }
            let container = Arc::new(Container::new(record.clone(), directory.clone()));
            all.insert(id.clone(), container);
        }
        let made = (|| -> std::io::Result<()> {
            state::directory(&directory)?;
            for name in ["upper", "work", "rootfs"] {
                std::fs::create_dir(directory.join(name))?;
            }
            // The upper directory is what the container sees as its root.
            std::fs::set_permissions(
                directory.join("upper"),
                std::os::unix::fs::PermissionsExt::from_mode(0o755),
            )
        })();
        let made = made
            .map_err(|error| failed("failed to create container", &error))
            // A volume that cannot be is said now, not when the container starts; its layers are held from here on.
            .and_then(|()| {
                let tried = podium_shim::images::check(&spec.binds, &directory.join("rootfs"));
                tried.map_err(|error| failed(VOLUME_FAILED, &error))
            })
            .and_then(|()| {
                let saved = state::save(&directory, &record);
                saved.map_err(|error| failed("failed to create container", &error))
            });
        if let Err(status) = made {
            self.containers.lock().remove(&id);
            let _ = crate::remove::tree(&directory);
            return Err(status);
        }
        self.tell(&id, &sandbox.id, v1::ContainerEventType::ContainerCreatedEvent);
        Ok(id)
    }

    fn execution(&self, record: &Record) -> Result<crate::images::manifest::Execution, Status> {
        Ok(self.store.config(record).map_err(|error| failed("reading the image", &error))?.config)
    }

    /// The images that a container is to have as volumes.
    fn volume_images(&self, config: &v1::ContainerConfig) -> Result<BTreeMap<String, VolumeImage>, Status> {
        let names = config.mounts.iter().filter_map(spec::image_of);
        names
            .map(|name| {
                let image = self.store.find(name).ok_or_else(|| {
                    Status::not_found(format!("{VOLUME_FAILED}: failed to resolve image {name:?}: not found"))
                })?;
                Ok((name.to_owned(), VolumeImage { id: image.id, layers: image.layers }))
            })
            .collect()
    }

    fn container_spec(
        &self,
        sandbox: &crate::sandbox::Sandbox,
        id: &str,
        config: &v1::ContainerConfig,
        image: &crate::images::manifest::Execution,
        layers: &[String],
        volume_images: &BTreeMap<String, VolumeImage>,
    ) -> Result<podium_shim::protocol::ContainerSpec, Status> {
        // The daemon may have another driver than when the pod was made.
        let parent = sandbox.config.linux.as_ref().map(|linux| linux.cgroup_parent.as_str());
        scopes::check(parent.unwrap_or_default(), self.config.systemd.as_ref())?;
        // It was there when the pod was made: who asked for it does not get another one instead.
        let handler = self.handlers.get(&sandbox.handler).ok_or_else(|| {
            Status::failed_precondition(format!(
                "no runtime for {:?} is configured any more",
                sandbox.handler
            ))
        })?;
        for mount in config.mounts.iter().filter(|mount| spec::image_of(mount).is_none()) {
            let path = Path::new(&mount.host_path);
            // As the other runtimes do: a missing source becomes a directory.
            if path.is_absolute() && !path.exists() {
                std::fs::create_dir_all(path).map_err(|error| {
                    Status::unknown(format!("failed to mkdir {:?}: {error}", mount.host_path))
                })?;
            }
            if mount.propagation() == v1::MountPropagation::PropagationBidirectional {
                check_shared(path)?;
            }
        }
        let mut spec = spec::container(&Ingredients {
            id,
            config,
            sandbox: &sandbox.config,
            image,
            layers,
            layers_directory: self.store.layers(),
            volume_images,
            directory: &self.container_directory(id),
            sandbox_directory: &sandbox.directory,
            runtime: handler.binary.as_deref(),
            available_capabilities: self.available_capabilities,
            open_files: self.open_files,
        })?;
        let devices: Vec<String> = config.cdi_devices.iter().map(|device| device.name.clone()).collect();
        cdi::inject(&mut spec, &devices, &self.config.cdi.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
        Ok(spec)
    }

    /// Starts a container. If it cannot be started it has ended, with the reason.
    pub(crate) async fn start_container(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        let container = self.need_container(id)?;
        let _changing = container.changing.lock().await;
        let id = &container.record.id;
        if !matches!(*container.state.borrow(), State::Created) {
            let state = container.number().as_str_name();
            return Err(Status::failed_precondition(format!(
                "failed to set starting state for container {id:?}: container is in {state} state"
            )));
        }
        let sandbox = self.need_sandbox(&container.record.sandbox_id)?;
        if !sandbox.is_ready() {
            return Err(Status::failed_precondition(format!(
                "sandbox container {:?} is not running",
                sandbox.id
            )));
        }
        let image = self
            .store
            .find(&container.record.image_id)
            .ok_or_else(|| Status::not_found(format!("image {:?} not found", container.record.image_id)))?;
        // Anew from what CRI said, never from an earlier start.
        let execution = self.execution(&image)?;
        let spec = self.container_spec(
            &sandbox,
            id,
            &container.record.config,
            &execution,
            &container.record.layers,
            &container.record.volume_images,
        )?;
        if spec.runtime.is_some() || !spec.hooks.is_empty() {
            let config = oci::config(&spec, spec::seccomp_profile(&container.record.config, &spec)?)?;
            state::write(&container.directory.join(OCI_CONFIG), config.to_string().as_bytes())
                .map_err(|error| failed("writing the specification", &error))?;
        }
        let bytes = serde_json::to_vec(&spec).map_err(|error| failed("writing the specification", &error))?;
        state::write(&container.directory.join(SPEC_FILE), &bytes)
            .map_err(|error| failed("writing the specification", &error))?;
        let request = Request::Start { directory: container.directory.clone() };
        let bounds = Bounds {
            resources: Some(&spec.resources),
            devices: &spec.devices,
            all_devices: spec.all_devices,
        };
        let started = match self.begin_scope(&spec.cgroup, bounds).await {
            Ok(holder) => {
                let started = shim::ask(&self.socket(&sandbox.id), request, Vec::new()).await;
                self.occupied(holder).await;
                started
            }
            Err(status) => {
                Err(ShimError::Refused { message: status.message().to_owned(), kind: Failure::Other })
            }
        };
        match started {
            Ok((Answer::Started { pid, at, user }, ..)) => {
                // It may have ended by now, and its end been told.
                container.state.send_if_modified(|state| {
                    let fresh = matches!(state, State::Created);
                    if fresh {
                        *state = State::Running { pid, started_at: at, user };
                    }
                    fresh
                });
                self.tell(id, &sandbox.id, v1::ContainerEventType::ContainerStartedEvent);
                Ok(())
            }
            Ok((other, ..)) => Err(Status::unknown(format!("the pod's shim answered {other:?}"))),
            Err(error) => {
                let message = start_message(&error);
                let exit = Exit {
                    id: id.clone(),
                    code: 128,
                    at: now(),
                    reason: "StartError".to_owned(),
                    message: message.clone(),
                    ..Exit::default()
                };
                if let Ok(bytes) = serde_json::to_vec(&exit) {
                    state::write(&container.directory.join(EXIT_FILE), &bytes)
                        .map_err(|error| failed("recording the container's end", &error))?;
                }
                self.end_scope(&spec.cgroup).await;
                container.set(State::Exited(exit));
                Err(Status::unknown(message))
            }
        }
    }

    /// Asks a container to end, and makes it.
    pub(crate) async fn stop_container(&self, id: &str, timeout: Duration) -> Result<(), Status> {
        let Some(container) = self.container(id) else { return Ok(()) };
        if container.pid().is_none() {
            return Ok(());
        }
        let socket = self.socket(&container.record.sandbox_id);
        let kill = |signal: i32, all: bool| Request::Kill { id: container.record.id.clone(), signal, all };
        if !timeout.is_zero() {
            if !self.signal(&socket, kill(container.record.stop_signal, false)).await? {
                return self.kill_by_hand(&container).await;
            }
            if wait_ended(&container, timeout).await {
                return Ok(());
            }
        }
        self.kill_container(&container).await
    }

    /// Ends a container now.
    pub(crate) async fn kill_container(&self, container: &Container) -> Result<(), Status> {
        if container.pid().is_none() {
            return Ok(());
        }
        let socket = self.socket(&container.record.sandbox_id);
        let id = &container.record.id;
        for (all, limit) in [(false, Duration::from_secs(5)), (true, KILL_LIMIT)] {
            let request = Request::Kill { id: id.clone(), signal: libc::SIGKILL, all };
            if !self.signal(&socket, request).await? {
                return self.kill_by_hand(container).await;
            }
            if wait_ended(container, limit).await {
                return Ok(());
            }
        }
        Err(not_killed(id))
    }

    /// Kills what is in a container's group, for a shim that hangs. How the container ended is not known then, unless the
    /// shim tells after all.
    async fn kill_by_hand(&self, container: &Container) -> Result<(), Status> {
        let record = &container.record;
        tracing::warn!(
            container = record.id,
            pod = record.sandbox_id,
            "killed without the shim, which hangs"
        );
        let (cgroups, group) = (self.cgroups.clone(), record.cgroup.clone());
        let killed = tokio::task::spawn_blocking(move || cgroups.kill(&group)).await;
        killed.map_err(|error| failed("failed to kill the container", &error))?;
        if wait_ended(container, LATE).await {
            return Ok(());
        }
        if !self.cgroups.processes(&record.cgroup).is_empty() {
            return Err(not_killed(&record.id));
        }
        self.lost(container).await;
        Ok(())
    }

    /// Has the shim signal a container. False: the shim hangs.
    async fn signal(&self, socket: &Path, request: Request) -> Result<bool, Status> {
        match shim::command(socket, request).await {
            // It has ended meanwhile, alone or with its shim.
            Ok(()) | Err(ShimError::Refused { kind: Failure::NotFound, .. } | ShimError::Gone(_)) => Ok(true),
            Err(ShimError::Silent(error)) => {
                tracing::debug!(%error, "no answer in time");
                Ok(false)
            }
            Err(error) => Err(failed("failed to signal the container", &error)),
        }
    }

    /// Removes a container, killing it if it runs. Safe to repeat.
    pub(crate) async fn remove_container(&self, id: &str) -> Result<(), Status> {
        let Some(container) = self.container(id) else { return Ok(()) };
        self.kill_container(&container).await?;
        let _changing = container.changing.lock().await;
        // Started while we waited for the lock.
        self.kill_container(&container).await?;
        match crate::remove::tree_aside(&container.directory).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("failed to remove the container's files", &error));
            }
            _ => {}
        }
        if self.containers.lock().remove(&container.record.id).is_some() {
            let record = &container.record;
            self.tell(&record.id, &record.sandbox_id, v1::ContainerEventType::ContainerDeletedEvent);
        }
        Ok(())
    }

    /// Starts a command in a container; without a terminal on the given streams.
    pub(crate) async fn exec(
        &self,
        container: &Container,
        args: Vec<String>,
        streams: Option<[OwnedFd; 3]>,
        kill_on_close: bool,
    ) -> Result<Running, Status> {
        let id = container.record.id.clone();
        if container.pid().is_none() {
            return Err(Status::failed_precondition(format!(
                "container is in {} state",
                container.number().as_str_name()
            )));
        }
        if args.is_empty() {
            return Err(Status::invalid_argument("no command given"));
        }
        let request = Request::Exec(ExecSpec {
            id: id.clone(),
            directory: container.directory.clone(),
            args,
            tty: streams.is_none(),
            kill_on_close,
        });
        let fds = streams.map(Vec::from).unwrap_or_default();
        match shim::ask(&self.socket(&container.record.sandbox_id), request, fds).await {
            Ok((Answer::Started { .. }, terminal, answers)) => {
                let answers =
                    answers.into_lines().map_err(|error| failed("failed to exec in container", &error))?;
                Ok(Running { terminal, answers })
            }
            Ok((other, ..)) => Err(Status::unknown(format!("the pod's shim answered {other:?}"))),
            Err(ShimError::Refused { message, kind: Failure::Program }) => Err(Status::unknown(format!(
                "failed to exec in container: failed to start exec: OCI runtime exec failed: exec failed: unable \
                     to start container process: {message}: unknown"
            ))),
            Err(error) => Err(failed("failed to exec in container", &error)),
        }
    }

    /// Runs a command to its end and gives what it said.
    pub(crate) async fn exec_sync(
        &self,
        id: &str,
        args: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<Output, Status> {
        let container = self.need_container(id)?;
        let io = |error: std::io::Error| failed("failed to exec in container", &error);
        let input = std::fs::File::open("/dev/null").map_err(io)?;
        let (stdout, child_stdout) = std::io::pipe().map_err(io)?;
        let (stderr, child_stderr) = std::io::pipe().map_err(io)?;
        let streams = [input.into(), child_stdout.into(), child_stderr.into()];
        let stdout = collect(stdout.into()).map_err(io)?;
        let stderr = collect(stderr.into()).map_err(io)?;
        let work = async {
            let mut running = self.exec(&container, args, Some(streams), true).await?;
            let code = running.ended().await;
            code.ok_or_else(|| Status::unknown("the pod's shim ended during the command"))
        };
        let code = match timeout {
            None => work.await?,
            Some(limit) => tokio::time::timeout(limit, work).await.map_err(|_| {
                Status::deadline_exceeded(format!(
                    "failed to exec in container: timeout {:?} exceeded: context deadline exceeded",
                    limit
                ))
            })??,
        };
        let both = async { tokio::join!(stdout.done(), stderr.done()) };
        // Processes that the command left behind may hold its output open for ever.
        let _ = tokio::time::timeout(EXEC_DRAIN, both).await;
        Ok(Output { stdout: stdout.take(), stderr: stderr.take(), code })
    }

    /// Changes a running container's limits.
    pub(crate) async fn update_container(
        &self,
        id: &str,
        wanted: &v1::LinuxContainerResources,
    ) -> Result<(), Status> {
        let container = self.need_container(id)?;
        let merged = {
            let mut current = container.resources.lock().clone().unwrap_or_default();
            merge(&mut current, wanted);
            current
        };
        if container.pid().is_some() {
            let (resources, _) = spec::resources(Some(wanted));
            self.bound_scope(&container.record.cgroup, &resources).await?;
            self.cgroups
                .apply(&container.record.cgroup, &resources)
                .map_err(|error| failed("failed to update container resources", &error))?;
        }
        *container.resources.lock() = Some(merged.clone());
        let mut record = container.record.clone();
        record.config.linux.get_or_insert_default().resources = Some(merged);
        state::save(&container.directory, &record).map_err(|error| failed("recording the limits", &error))
    }
}

/// Takes over what is set.
fn merge(current: &mut v1::LinuxContainerResources, wanted: &v1::LinuxContainerResources) {
    for (old, new) in [
        (&mut current.cpu_period, wanted.cpu_period),
        (&mut current.cpu_quota, wanted.cpu_quota),
        (&mut current.cpu_shares, wanted.cpu_shares),
        (&mut current.memory_limit_in_bytes, wanted.memory_limit_in_bytes),
        (&mut current.memory_swap_limit_in_bytes, wanted.memory_swap_limit_in_bytes),
        (&mut current.oom_score_adj, wanted.oom_score_adj),
    ] {
        if new != 0 {
            *old = new;
        }
    }
    for (old, new) in
        [(&mut current.cpuset_cpus, &wanted.cpuset_cpus), (&mut current.cpuset_mems, &wanted.cpuset_mems)]
    {
        if !new.is_empty() {
            old.clone_from(new);
        }
    }
    current.unified.extend(wanted.unified.clone());
    if !wanted.hugepage_limits.is_empty() {
        current.hugepage_limits.clone_from(&wanted.hugepage_limits);
    }
}

/// A start's failure in the words that people and tests know.
fn start_message(error: &ShimError) -> String {
    match error {
        ShimError::Refused { message, kind: Failure::Program } => format!(
            "failed to create container task: failed to create shim task: OCI runtime create failed: unable to start \
             container process: {message}: unknown"
        ),
        other => format!("failed to start container: {}", chain(other)),
    }
}

fn not_killed(id: &str) -> Status {
    Status::deadline_exceeded(format!("an error occurs during waiting for container {id:?} to be killed"))
}

async fn wait_ended(container: &Container, limit: Duration) -> bool {
    let mut state = container.state.subscribe();
    let ended = state.wait_for(|state| !matches!(state, State::Running { .. }));
    tokio::time::timeout(limit, ended).await.is_ok()
}

/// Output being collected; what is over the limit is read and thrown away, so that the command can go on.
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    over: watch::Receiver<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Collected {
    async fn done(&self) {
        let _ = self.over.clone().wait_for(|over| *over).await;
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.bytes.lock())
    }
}

impl Drop for Collected {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn collect(fd: OwnedFd) -> std::io::Result<Collected> {
    let mut input = tokio::net::unix::pipe::Receiver::from_owned_fd(fd)?;
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let (tell, over) = watch::channel(false);
    let kept = Arc::clone(&bytes);
    let task = tokio::spawn(async move {
        let mut buffer = vec![0; 32 << 10];
        while let Ok(size) = input.read(&mut buffer).await {
            if size == 0 {
                break;
            }
            let mut kept = kept.lock();
            let room = EXEC_BYTES.saturating_sub(kept.len());
            kept.extend_from_slice(&buffer[..size.min(room)]);
        }
        tell.send_replace(true);
    });
    Ok(Collected { bytes, over, task })
}

/// Mounts travel both ways only over a mount that is shared.
fn check_shared(path: &Path) -> Result<(), Status> {
    let real = path.canonicalize().map_err(|error| {
        Status::invalid_argument(format!("failed to resolve symlink {:?}: {error}", path.display()))
    })?;
    let table =
        std::fs::read_to_string("/proc/self/mountinfo").map_err(|error| failed("listing mounts", &error))?;
    let (place, shared) = mount_of(&table, &real);
    if shared {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "path {:?} is mounted on {place:?} but it is not a shared mount",
        path.display()
    )))
}

/// The mount that a path is on, and whether it is shared.
fn mount_of(table: &str, path: &Path) -> (String, bool) {
    let mounts = table.lines().filter_map(|line| {
        let (left, _) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(4);
        let place = fields.next()?.replace("\\040", " ");
        Some((place, fields.skip(1).any(|option| option.starts_with("shared:"))))
    });
    // The last of the longest: later mounts cover earlier ones.
    mounts
        .filter(|(place, _)| path.starts_with(place))
        .max_by_key(|(place, _)| place.len())
        .unwrap_or_default()
}

/// Where a container's log is.
pub(crate) fn log_path(runtime: &Runtime, container: &Container) -> Option<PathBuf> {
    let sandbox = runtime.sandbox(&container.record.sandbox_id)?;
    spec::log_path(&sandbox.config, &container.record.config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons() {
        let exit = |code, oom, reason: &str| Exit { code, oom, reason: reason.into(), ..Exit::default() };
        for (given, expected) in [
            (exit(0, false, ""), "Completed"),
            (exit(3, false, ""), "Error"),
            (exit(137, true, ""), "OOMKilled"),
            (exit(128, false, "StartError"), "StartError"),
        ] {
            assert_eq!(reason(&given), expected);
        }
    }

    #[test]
    fn shared_mounts() {
        let table = "1 0 8:1 / / rw,relatime - ext4 /dev/a rw\n2 1 0:2 / /var/lib rw shared:3 - tmpfs t rw\n";
        assert_eq!(mount_of(table, Path::new("/var/lib/x")), ("/var/lib".to_owned(), true));
        assert_eq!(mount_of(table, Path::new("/var/library")), ("/".to_owned(), false));
    }
}
