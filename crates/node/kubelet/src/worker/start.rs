//! The worker's part of starting: the sandbox, then containers one after the other, as upstream does.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{Container, ObjectReference, Pod, Secret},
    node::v1::RuntimeClass,
};
use podium_client::{EventType, reference_of};
use podium_cri::v1;
use tokio::time::Instant;

use crate::{
    actions::{Kill, KillReason, Start},
    container::{self, ImageVolumes, Ingredients, read_only},
    context::Shared,
    hooks,
    images::{Image, NoImage, Wanted},
    metrics::{self, Metrics},
    network_files::{self, DnsTrouble},
    pod::{self, ContainerKind},
    record::RunState,
    resources,
    sandbox::{self, Surroundings},
    status::StartError,
    userns::{self, UserNamespaces},
    volumes,
    worker::{Worker, container_at, variables},
};

/// Pauses between tries to make a sandbox: the network may come up any moment.
const SANDBOX_FIRST_RETRY: Duration = Duration::from_millis(500);
const SANDBOX_LAST_RETRY: Duration = Duration::from_secs(10);
/// The event of pods that asked for a DNS that this node does not know, and its words.
const MISSING_DNS: &str = "MissingClusterDNS";
const NO_CLUSTER_DNS: &str = "kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.";

/// Pause before a container that could not be made or started is tried again, upstream's.
const START_RETRY: Duration = Duration::from_secs(10);

/// A container did not start: what its status says, and when to try again.
struct Failed {
    error: StartError,
    retry_after: Duration,
}

fn failed(reason: &str, message: impl Into<String>) -> Failed {
    Failed {
        error: StartError { reason: reason.to_owned(), message: message.into() },
        retry_after: START_RETRY,
    }
}

/// The images of the pod's volumes, by the volume's name, as one round of starts found them: each is pulled once in a
/// round, however many containers mount it.
type VolumeImages = BTreeMap<String, Result<Image, NoImage>>;

impl Worker {
    /// Makes the pod's sandbox. None if it was made; otherwise when to try again.
    pub(crate) async fn create_sandbox(&mut self, attempt: u32) -> Option<Instant> {
        if let Some((at, _)) = self.sandbox_retry
            && at > Instant::now()
        {
            return Some(at);
        }
        if let Err(error) = self.shared.container_manager.prepare(&self.shared.client, &self.pod).await {
            let message = format!("Failed to prepare dynamic resources: {error}");
            return Some(self.no_sandbox("FailedPrepareDynamicResources", message));
        }
        let prepared = match self.runtime_handler().await {
            Ok(handler) => match self.users(Some(&handler)).await {
                Ok(users) => self.sandbox_config(attempt, &users).await.map(|config| (config, handler)),
                Err(message) => Err(message),
            },
            Err(message) => Err(message),
        };
        let message = match prepared {
            Ok((config, handler)) => {
                let (metrics, began) = (self.shared.metrics.clone(), std::time::Instant::now());
                let about = [("runtime_handler", handler.as_str())];
                metrics.count(&metrics::PODS_STARTED, &[]);
                if UserNamespaces::wanted(&self.pod) {
                    metrics.count(&metrics::USER_PODS_STARTED, &[]);
                }
                let outcome = self.shared.cri.run_pod_sandbox(config, &handler).await;
                metrics.since(&metrics::SANDBOX_DURATION, &about, began);
                match outcome {
                    Ok(_) => {
                        self.sandbox_retry = None;
                        self.starting.begins();
                        return None;
                    }
                    Err(error) => {
                        metrics.count(&metrics::SANDBOX_ERRORS, &about);
                        format!("Failed to create pod sandbox: {}", error.grpc_text())
                    }
                }
            }
            Err(error) => format!("Failed to create pod sandbox: {error}"),
        };
        Some(self.no_sandbox("FailedCreatePodSandBox", message))
    }

    /// Says why there is no sandbox; gives when to try again.
    fn no_sandbox(&mut self, reason: &str, message: String) -> Instant {
        self.shared.metrics.count(&metrics::PODS_FAILED, &[]);
        if UserNamespaces::wanted(&self.pod) {
            self.shared.metrics.count(&metrics::USER_PODS_FAILED, &[]);
        }
        self.shared.recorder.event(&reference_of(&*self.pod), EventType::Warning, reason, message);
        let pause =
            self.sandbox_retry.map_or(SANDBOX_FIRST_RETRY, |(_, last)| (last * 2).min(SANDBOX_LAST_RETRY));
        let at = Instant::now() + pause;
        self.sandbox_retry = Some((at, pause));
        at
    }

    /// The runtime's handler for the pod's RuntimeClass; empty for the default one.
    async fn runtime_handler(&self) -> Result<String, String> {
        let wanted = self.pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref());
        let Some(name) = wanted.filter(|name| !name.is_empty()) else { return Ok(String::new()) };
        let classes = self.shared.config.informers.of::<RuntimeClass>();
        classes.synced().await;
        match classes.get(&podium_client::ObjectKey::cluster(name)) {
            Some(class) => Ok(class.handler.clone()),
            None => {
                Err(format!("failed to get sandbox runtime: RuntimeClass.node.k8s.io {name:?} not found"))
            }
        }
    }

    /// The pod's user namespace, or the host's. The handler is asked about before the first use.
    async fn users(&self, handler: Option<&str>) -> Result<v1::UserNamespace, String> {
        if !UserNamespaces::wanted(&self.pod) {
            return Ok(UserNamespaces::of_host());
        }
        if let Some(handler) = handler {
            let status = self.shared.cri.status(v1::StatusRequest::default()).await;
            userns::check_handler(&status.map_err(|error| error.grpc_text())?.runtime_handlers, handler)?;
        }
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        let found = tokio::task::spawn_blocking(move || shared.users.of_pod(&pod)).await;
        found.map_err(|error| error.to_string())?
    }

    /// Whether the runtime makes the pod's mounts read-only with all below them. It is asked if the container wants to know.
    async fn recursive_read_only(&self, spec: &Container) -> Result<bool, String> {
        if !read_only::is_asked_for(spec) {
            return Ok(false);
        }
        let handler = self.runtime_handler().await?;
        let status = self.shared.cri.status(v1::StatusRequest::default()).await;
        Ok(read_only::is_offered(&status.map_err(|error| error.grpc_text())?.runtime_handlers, &handler))
    }

    async fn sandbox_config(
        &self,
        attempt: u32,
        users: &v1::UserNamespace,
    ) -> Result<v1::PodSandboxConfig, String> {
        let config = &self.shared.config;
        let resolver = network_files::host_resolver(&config.settings.resolv_conf).await?;
        self.tell_of_dns(&resolver);
        let own_cpus = self.shared.container_manager.has_own_cpus(&self.pod);
        let resources = resources::sandbox_resources(&self.pod, &self.shared.bounds(), own_cpus);
        let made = sandbox::config(
            &self.pod,
            attempt,
            &Surroundings {
                cluster_dns: &config.settings.cluster_dns,
                cluster_domain: &config.settings.cluster_domain,
                resolver: &resolver,
                log_root: &config.settings.pod_logs_dir,
                cgroup_parent: &self.shared.cgroups.pod_path(&self.pod),
                seccomp: crate::security::Seccomp {
                    root: &self.shared.seccomp_root(),
                    by_default: config.settings.seccomp_default,
                },
                users,
                resources: &resources,
            },
        );
        made.map_err(|error| error.to_string())
    }

    /// Tells the pod's owner, and of a node without the cluster's DNS whoever runs that, what resolver settings lack.
    fn tell_of_dns(&self, resolver: &network_files::HostResolver) {
        let (pod, recorder) = (&self.pod, &self.shared.recorder);
        let settings = &self.shared.config.settings;
        let (_, troubles) =
            network_files::form(pod, &settings.cluster_dns, &settings.cluster_domain, resolver);
        for trouble in troubles {
            let about = reference_of(&**pod);
            match trouble {
                DnsTrouble::TooMuch(text) => {
                    recorder.event(&about, EventType::Warning, "DNSConfigForming", text);
                }
                DnsTrouble::NoClusterDns => {
                    let node = crate::node::reference(&self.shared.config.node_name);
                    let name = format!("{}_{}({})", pod::name(pod), pod::namespace(pod), pod::uid(pod));
                    recorder.event(&node, EventType::Warning, MISSING_DNS, NO_CLUSTER_DNS);
                    recorder.event(
                        &about,
                        EventType::Warning,
                        MISSING_DNS,
                        format!("pod: {name:?}. {NO_CLUSTER_DNS}"),
                    );
                }
            }
        }
    }

    /// Starts containers in order. None if at least one was tried with success; otherwise when to try
    /// again.
    pub(crate) async fn start_containers(&mut self, sandbox_id: &str, starts: &[Start]) -> Option<Instant> {
        let mut progress = false;
        let mut again: Option<Instant> = None;
        let mut volume_images = VolumeImages::new();
        for start in starts {
            let Some(spec) = container_at(&self.pod, start.kind, start.index) else { continue };
            if let Some(at) = self.retry_at.get(&spec.name).filter(|at| **at > Instant::now()) {
                again = Some(again.map_or(*at, |known| known.min(*at)));
                if start.kind == ContainerKind::Init && !pod::is_sidecar(&spec) {
                    break;
                }
                continue;
            }
            if let Some(exit) = start.last_exit {
                let mut crashes = self.shared.crashes.lock();
                crashes.next(&start.backoff_key, exit, Timestamp::now());
            }
            match self.start_one(sandbox_id, start.kind, &spec, &mut volume_images).await {
                Ok(()) => {
                    self.start_errors.remove(&spec.name);
                    self.retry_at.remove(&spec.name);
                    progress = true;
                }
                Err(Failed { error, retry_after }) => {
                    let about = [("container_type", type_of(start.kind)), ("code", error.reason.as_str())];
                    self.shared.metrics.count(&metrics::CONTAINERS_FAILED, &about);
                    self.start_errors.insert(spec.name.clone(), error);
                    let at = Instant::now() + retry_after;
                    self.retry_at.insert(spec.name.clone(), at);
                    again = Some(again.map_or(at, |known| known.min(at)));
                    if start.kind == ContainerKind::Init && !pod::is_sidecar(&spec) {
                        break;
                    }
                }
            }
            if self.mailbox_says_end() {
                return None;
            }
        }
        if progress { None } else { again }
    }

    /// A deletion that came while containers were being started.
    fn mailbox_says_end(&mut self) -> bool {
        self.read_mail();
        self.ending()
    }

    async fn start_one(
        &mut self,
        sandbox_id: &str,
        kind: ContainerKind,
        spec: &Container,
        volume_images: &mut VolumeImages,
    ) -> Result<(), Failed> {
        let shared = self.shared.clone();
        let pod = self.pod.clone();
        let about = shared.container_reference(&pod, kind, &spec.name);
        let warn = |text: String| shared.recorder.event(&about, EventType::Warning, "Failed", text);
        let attempt = self.record.sandbox().map_or(0, |sandbox| sandbox.attempt);
        let users = self.users(None).await.map_err(|error| failed("CreateContainerConfigError", error))?;
        let sandbox_config = self
            .sandbox_config(attempt, &users)
            .await
            .map_err(|error| failed("CreateContainerConfigError", error))?;
        let secrets = pull_secrets(&shared, &pod).await;
        let no_image = |missing: NoImage| {
            warn(format!("Error: {}", missing.error.reason));
            Failed { error: missing.error, retry_after: missing.retry_after }
        };
        // Volumes first, as upstream does.
        self.pull_volumes(spec, &secrets, &sandbox_config, volume_images).await?;
        let volumes = image_volumes(&pod, spec, volume_images).map_err(no_image)?;
        let image_volumes = u64::try_from(volumes.len()).unwrap_or(u64::MAX);
        let wanted = Wanted {
            name: spec.image.as_deref().unwrap_or_default(),
            policy: spec.image_pull_policy.as_deref(),
            about: &about,
        };
        let image = self.pull(wanted, &secrets, &sandbox_config).await?.map_err(no_image)?;
        let restart_count = match self.record.newest(&spec.name) {
            Some(newest) => newest.restart_count + 1,
            None => restarts_by_logs(shared.log_directory(&pod).join(&spec.name)).await,
        };
        let target = self.target_of(kind, &spec.name).map_err(|text| {
            warn(format!("Error: {text}"));
            failed("CreateContainerConfigError", text)
        })?;
        let config = self
            .container_config(spec, restart_count, &image, volumes, &users, target.as_deref())
            .await
            .map_err(|text| {
                warn(format!("Error: {text}"));
                failed("CreateContainerConfigError", text)
            })?;
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let created = shared.cri.create_container(request).await;
        let refused = created.as_ref().err().map(podium_cri::Error::grpc_text);
        count_image_volumes(&shared.metrics, image_volumes, refused.as_deref());
        let id = match created {
            Ok(answer) => answer.container_id,
            Err(error) => {
                warn(format!("Error: {error}"));
                return Err(failed("CreateContainerError", error.to_string()));
            }
        };
        shared.metrics.count(&metrics::CONTAINERS_STARTED, &[("container_type", type_of(kind))]);
        shared.recorder.event(&about, EventType::Normal, "Created", "Container created");
        self.resize.started(&id, &pod, spec);
        if let Err(error) =
            shared.cri.start_container(v1::StartContainerRequest { container_id: id.clone() }).await
        {
            warn(format!("Error: {error}"));
            return Err(failed("RunContainerError", error.to_string()));
        }
        shared.recorder.event(&about, EventType::Normal, "Started", "Container started");
        self.post_start(spec, &id, &about).await
    }

    /// Finds or pulls an image. The outer error is that the pod ends meanwhile.
    async fn pull(
        &mut self,
        wanted: Wanted<'_>,
        secrets: &[Secret],
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<Result<Image, NoImage>, Failed> {
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        let began = std::time::Instant::now();
        // A pull can be long; a deletion must not wait for it.
        let pull = shared.images.ensure(&pod, wanted, secrets, Some(sandbox));
        let Some(outcome) = self.unless_ending(Box::pin(pull)).await else {
            return Err(failed("ContainerCreating", ""));
        };
        self.starting.pulled(began.elapsed());
        Ok(outcome)
    }

    /// Finds or pulls the images that a container has for volumes and that this round has not asked for yet. What came
    /// of it is in `volume_images`.
    async fn pull_volumes(
        &mut self,
        spec: &Container,
        secrets: &[Secret],
        sandbox: &v1::PodSandboxConfig,
        volume_images: &mut VolumeImages,
    ) -> Result<(), Failed> {
        let pod = self.pod.clone();
        let about = reference_of(&*pod);
        for mount in spec.volume_mounts.iter().flatten() {
            let source = volumes::find(&pod, &mount.name).and_then(|volume| volume.image.as_ref());
            let Some(source) = source.filter(|_| !volume_images.contains_key(&mount.name)) else { continue };
            let wanted = Wanted {
                name: source.reference.as_deref().unwrap_or_default(),
                policy: source.pull_policy.as_deref(),
                about: &about,
            };
            let outcome = self.pull(wanted, secrets, sandbox).await?;
            volume_images.insert(mount.name.clone(), outcome);
        }
        Ok(())
    }

    async fn post_start(
        &mut self,
        spec: &Container,
        id: &str,
        about: &ObjectReference,
    ) -> Result<(), Failed> {
        let Some(hook) = spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) else {
            return Ok(());
        };
        let (shared, pod, address) = (self.shared.clone(), self.pod.clone(), self.address());
        let run = hooks::run(&shared, &pod, spec, id, address, hook);
        // A hook can be long, or have no end.
        let Some(outcome) = self.unless_ending(Box::pin(run)).await else {
            return Err(failed("PostStartHookError", "the pod is to end"));
        };
        let Err(error) = outcome else { return Ok(()) };
        tracing::warn!(pod = pod::full_name(&self.pod), container = spec.name, %error, "postStart hook failed");
        self.shared.recorder.event(about, EventType::Warning, "FailedPostStartHook", "PostStartHook failed");
        if self.observe().await.is_ok() {
            let kill = Kill {
                id: id.to_owned(),
                name: spec.name.clone(),
                message: "FailedPostStartHook".to_owned(),
                reason: KillReason::Other,
            };
            self.kill_container(&kill).await;
        }
        Err(Failed { retry_after: Duration::ZERO, ..failed("PostStartHookError", error.to_string()) })
    }

    fn address(&self) -> Option<IpAddr> {
        let ips = self.record.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        self.shared.address_of(&self.pod, &ips)
    }

    /// The running container whose processes an ephemeral one is to see.
    fn target_of(&self, kind: ContainerKind, name: &str) -> Result<Option<String>, String> {
        if kind != ContainerKind::Ephemeral {
            return Ok(None);
        }
        let list =
            self.pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default();
        let wanted =
            list.iter().find(|one| one.name == name).and_then(|one| one.target_container_name.as_deref());
        let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else { return Ok(None) };
        match self.record.latest(wanted) {
            Some(found) if found.state == RunState::Running => Ok(Some(found.id.clone())),
            _ => Err(format!("unable to find target container {wanted}")),
        }
    }

    async fn container_config(
        &self,
        spec: &Container,
        restart_count: u32,
        image: &Image,
        volumes: ImageVolumes,
        users: &v1::UserNamespace,
        target: Option<&str>,
    ) -> Result<v1::ContainerConfig, String> {
        let shared = &self.shared;
        let pod_ips = self.pod_ips();
        let env = variables::of(shared, &self.pod, spec, pod_ips.clone()).await?;
        let hosts = hosts_text(shared, &self.pod, &pod_ips)?;
        let recursive = self.recursive_read_only(spec).await?;
        let runs = self.record.containers.iter().filter(|one| one.name == spec.name);
        let messages: Vec<PathBuf> =
            runs.flat_map(|one| &one.mounts).map(|(_, host)| PathBuf::from(host)).collect();
        let directory = shared.pod_dir(pod::uid(&self.pod));
        let (pod, container, variables) = (self.pod.clone(), spec.clone(), env.clone());
        let (mounts, devices) = tokio::task::spawn_blocking(move || {
            let file = match hosts {
                Some(text) => {
                    let file = directory.etc_hosts();
                    std::fs::write(&file, text).map_err(|source| container::ConfigError::Io {
                        what: "writing the hosts file",
                        source,
                    })?;
                    Some(file)
                }
                None => None,
            };
            let file = file.as_deref();
            container::forget_messages(&directory, &container.name, &messages);
            let mounts =
                container::prepare(&directory, &pod, &container, &volumes, &variables, file, recursive)?;
            container::devices(&directory, &pod, &container).map(|devices| (mounts, devices))
        })
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
        let options = shared.container_manager.options(&self.pod, spec).await?;
        let mut config = container::config(&Ingredients {
            pod: &self.pod,
            container: spec,
            restart_count,
            image_ref: &image.reference,
            image_user: &image.user,
            env,
            mounts,
            devices,
            bounds: shared.bounds(),
            seccomp: crate::security::Seccomp {
                root: &shared.seccomp_root(),
                by_default: shared.config.settings.seccomp_default,
            },
            users,
            target,
        })
        .map_err(|error| error.to_string())?;
        options.apply(&mut config);
        Ok(config)
    }
}

/// Counts a container's image volumes. `refused`: why the runtime did not make the container. One whose reason is a volume,
/// by CRI's word for that, has none of them.
fn count_image_volumes(metrics: &Metrics, volumes: u64, refused: Option<&str>) {
    metrics.add(&metrics::IMAGE_VOLUMES, &[], volumes);
    let failed = refused.is_some_and(|text| text.contains("ImageVolumeMountFailed"));
    let family = if failed { &metrics::IMAGE_VOLUMES_FAILED } else { &metrics::IMAGE_VOLUMES_MOUNTED };
    metrics.add(family, &[], volumes);
}

/// The word of metrics for a kind of container.
fn type_of(kind: ContainerKind) -> &'static str {
    match kind {
        ContainerKind::Init => "init_container",
        ContainerKind::Regular => "container",
        ContainerKind::Ephemeral => "ephemeral_container",
    }
}

/// The images among a container's volumes, or why one of them is not here.
fn image_volumes(pod: &Pod, spec: &Container, pulled: &VolumeImages) -> Result<ImageVolumes, NoImage> {
    let mut images = ImageVolumes::new();
    for mount in spec.volume_mounts.iter().flatten() {
        let Some(outcome) = pulled.get(&mount.name) else { continue };
        let image = outcome.clone()?;
        let source = volumes::find(pod, &mount.name).and_then(|volume| volume.image.as_ref());
        images.insert(
            mount.name.clone(),
            v1::ImageSpec {
                image: image.reference,
                user_specified_image: source.and_then(|source| source.reference.clone()).unwrap_or_default(),
                ..Default::default()
            },
        );
    }
    Ok(images)
}

/// The pod's hosts file; None if it has no address to write there.
fn hosts_text(shared: &Shared, pod: &Pod, pod_ips: &[String]) -> Result<Option<String>, String> {
    if pod_ips.is_empty() {
        return Ok(None);
    }
    let aliases = pod.spec.as_ref().and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
    let host_file = if pod::host_network(pod) {
        Some(std::fs::read_to_string("/etc/hosts").unwrap_or_default())
    } else {
        None
    };
    let (hostname, domain) = network_files::hostname(pod, &shared.config.settings.cluster_domain)?;
    Ok(Some(network_files::hosts_file(aliases, pod_ips, &hostname, &domain, host_file.as_deref())))
}

/// The pod's pull secrets that exist; one that does not is no obstacle, as upstream has it.
async fn pull_secrets(shared: &Shared, pod: &Pod) -> Vec<Secret> {
    let names = pod.spec.as_ref().and_then(|spec| spec.image_pull_secrets.as_deref()).unwrap_or_default();
    let mut found = Vec::new();
    for name in names {
        if let Ok(Some(secret)) = shared.references.secret(pod::namespace(pod), &name.name).await {
            found.push((*secret).clone());
        }
    }
    found
}

/// One more than the newest log of a container that the runtime has forgotten.
async fn restarts_by_logs(directory: PathBuf) -> u32 {
    let newest = tokio::task::spawn_blocking(move || {
        let entries = std::fs::read_dir(directory).ok()?;
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.split('.').next()?.parse::<u32>().ok())
            .max()
    });
    newest.await.ok().flatten().map_or(0, |newest| newest + 1)
}
