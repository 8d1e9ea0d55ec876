//! The life of a pod: its shim and namespaces, its network, its files, its end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use podium_cri::v1;
use podium_shim::protocol::{Answer, IdMaps, IdRange, Request, SandboxSpec};
use podium_shim::sysctl::{Scope, Setting};
use tonic::Status;

use crate::cni::{Attachment, Bandwidth, Network};
use crate::core::{Runtime, chain, failed, new_id, now};
use crate::scopes::{self, Bounds};
use crate::shim;
use crate::spec;
use crate::state::{self, Phase, SandboxRecord};

/// Size of a pod's `/dev/shm`, as everywhere.
const SHM_BYTES: u64 = 64 << 20;

/// Files in `/etc` that every container has from its pod, unless it brings its own.
pub(crate) const FILES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

/// A pod.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) handler: String,
    pub(crate) created_at: i64,
    pub(crate) config: v1::PodSandboxConfig,
    pub(crate) directory: PathBuf,
    inner: Mutex<Inner>,
    pub(crate) samples: crate::stats::Samples,
    /// Making, stopping and removing exclude each other.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Inner {
    phase: Phase,
    network: Option<Network>,
    namespace: String,
    /// The shim and its descriptor of the network namespace.
    shim: Option<(i32, Option<i32>)>,
}

impl Sandbox {
    pub(crate) fn new(record: SandboxRecord, directory: PathBuf) -> Self {
        Self {
            id: record.id,
            handler: record.handler,
            created_at: record.created_at,
            config: record.config,
            directory,
            inner: Mutex::new(Inner {
                phase: record.phase,
                network: record.network,
                namespace: record.namespace,
                shim: None,
            }),
            samples: crate::stats::Samples::default(),
            changing: tokio::sync::Mutex::new(()),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.inner.lock().phase
    }

    pub(crate) fn set_shim(&self, shim: Option<(i32, Option<i32>)>) {
        self.inner.lock().shim = shim;
    }

    /// The shim's process.
    pub(crate) fn shim_pid(&self) -> Option<i32> {
        self.inner.lock().shim.map(|(pid, _)| pid)
    }

    /// Where the network namespace is; `None` on the host's network or when the pod is over.
    pub(crate) fn network_namespace(&self) -> Option<PathBuf> {
        match self.inner.lock().shim {
            Some((pid, Some(fd))) => Some(PathBuf::from(format!("/proc/{pid}/fd/{fd}"))),
            _ => None,
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        let inner = self.inner.lock();
        inner.phase == Phase::Ready && inner.shim.is_some()
    }

    /// The group of the pod's first process, if it has one.
    pub(crate) fn group(&self) -> Option<String> {
        let spec = shim_spec(&self.config, &self.id, 0).ok()?;
        Some(spec.cgroup).filter(|group| !group.is_empty())
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        let inner = self.inner.lock();
        inner.network.iter().flat_map(|network| &network.addresses).map(ToString::to_string).collect()
    }

    fn options(&self) -> v1::NamespaceOption {
        namespace_options(&self.config)
    }

    pub(crate) fn state(&self) -> v1::PodSandboxState {
        if self.is_ready() { v1::PodSandboxState::SandboxReady } else { v1::PodSandboxState::SandboxNotready }
    }

    pub(crate) fn status(&self) -> v1::PodSandboxStatus {
        let mut addresses = self.addresses().into_iter();
        v1::PodSandboxStatus {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.state().into(),
            created_at: self.created_at,
            network: Some(v1::PodSandboxNetworkStatus {
                ip: addresses.next().unwrap_or_default(),
                additional_ips: addresses.map(|ip| v1::PodIp { ip }).collect(),
            }),
            linux: Some(v1::LinuxPodSandboxStatus {
                namespaces: Some(v1::Namespace { options: Some(self.options()) }),
            }),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: self.handler.clone(),
        }
    }

    pub(crate) fn item(&self) -> v1::PodSandbox {
        v1::PodSandbox {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.state().into(),
            created_at: self.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: self.handler.clone(),
        }
    }

    fn save(&self) -> Result<(), Status> {
        let record = {
            let inner = self.inner.lock();
            SandboxRecord {
                id: self.id.clone(),
                handler: self.handler.clone(),
                created_at: self.created_at,
                phase: inner.phase,
                network: inner.network.clone(),
                namespace: inner.namespace.clone(),
                config: self.config.clone(),
            }
        };
        state::save(&self.directory, &record).map_err(|error| failed("recording the pod", &error))
    }
}

fn namespace_options(config: &v1::PodSandboxConfig) -> v1::NamespaceOption {
    config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref())
        .and_then(|security| security.namespace_options.clone())
        .unwrap_or_default()
}

/// The ids of a pod's user namespace; `None` on the host's.
///
/// # Errors
/// They cannot be those of a pod, or the pod is to have another namespace of the host's, which its root could not use.
pub(crate) fn users(config: &v1::PodSandboxConfig) -> Result<Option<IdMaps>, Status> {
    let options = namespace_options(config);
    let asked = options.userns_options.as_ref().filter(|asked| asked.mode() == v1::NamespaceMode::Pod);
    let Some(asked) = asked else { return Ok(None) };
    let refuse = |why: &str| Err(Status::invalid_argument(format!("user namespace of the pod: {why}")));
    let of_host = [options.network(), options.pid(), options.ipc()].contains(&v1::NamespaceMode::Node);
    if of_host {
        return refuse("it may not be used with the host's network, pid or ipc namespace");
    }
    let maps = IdMaps { uids: ranges(&asked.uids), gids: ranges(&asked.gids) };
    for ids in [&maps.uids, &maps.gids] {
        if ids.iter().any(|range| range.count == 0 || range.outside.checked_add(range.count).is_none()) {
            return refuse("invalid mapping length");
        }
        if !ids.iter().any(|range| range.inside == 0) {
            return refuse("id 0 must be mapped");
        }
    }
    Ok(Some(maps))
}

pub(crate) fn ranges(mappings: &[v1::IdMapping]) -> Vec<IdRange> {
    let range =
        |one: &v1::IdMapping| IdRange { inside: one.container_id, outside: one.host_id, count: one.length };
    mappings.iter().map(range).collect()
}

/// The namespaces that a configuration asks of the shim.
pub(crate) fn shim_spec(
    config: &v1::PodSandboxConfig,
    id: &str,
    capabilities: u64,
) -> Result<SandboxSpec, Status> {
    let options = namespace_options(config);
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let users = users(config)?;
    let own_network = options.network() != v1::NamespaceMode::Node;
    let shared_pid = options.pid() == v1::NamespaceMode::Pod;
    spec::check_modules(security.apparmor.as_ref(), security.selinux_options.as_ref(), security.privileged)?;
    Ok(SandboxSpec {
        hostname: own_network.then(|| config.hostname.clone()),
        network: own_network,
        ipc: options.ipc() != v1::NamespaceMode::Node,
        shared_pid,
        users,
        shm_bytes: SHM_BYTES,
        cgroup: if shared_pid { first_group(&linux.cgroup_parent, id)? } else { String::new() },
        seccomp: if shared_pid && !security.privileged {
            spec::sandbox_filter(security.seccomp.as_ref(), capabilities)?
        } else {
            None
        },
    })
}

/// The group of a pod's first process. The names of scopes are the whole machine's.
fn first_group(parent: &str, id: &str) -> Result<String, Status> {
    spec::cgroup(parent, if parent.ends_with(".slice") { id } else { "pause" })
}

/// Kernel settings that the configuration asks for. Containers may bind to every port and send pings, as with the other
/// runtimes, unless the pod says otherwise. Only settings of namespaces that the pod has of its own: the others are the
/// machine's.
fn sysctls(config: &v1::PodSandboxConfig, made: &SandboxSpec) -> Result<Vec<(String, String)>, Status> {
    let mut all = BTreeMap::new();
    for (name, value) in config.linux.iter().flat_map(|linux| &linux.sysctls) {
        let own = Setting::parse(name).filter(|setting| match setting.scope() {
            Scope::Ipc => made.ipc,
            Scope::Network => made.network,
        });
        let setting = own.ok_or_else(|| {
            Status::invalid_argument(format!("sysctl {name:?} is not in a namespace of the pod's own"))
        })?;
        all.insert(setting.name().to_owned(), value.clone());
    }
    if made.network {
        for (name, value) in
            [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")]
        {
            all.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    Ok(all.into_iter().collect())
}

/// `resolv.conf` of a DNS configuration. Source: what containerd writes.
fn resolv_conf(dns: &v1::DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

fn write_files(config: &v1::PodSandboxConfig, directory: &Path) -> std::io::Result<()> {
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text)?;
        // Everybody in the container reads these, whoever they are.
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644))
    };
    let hostname = if config.hostname.is_empty() {
        nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    } else {
        config.hostname.clone()
    };
    write("hostname", &format!("{hostname}\n"))?;
    let host_file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    write("hosts", &host_file("/etc/hosts"))?;
    match &config.dns_config {
        Some(dns) if *dns != v1::DnsConfig::default() => write("resolv.conf", &resolv_conf(dns)),
        _ => write("resolv.conf", &host_file("/etc/resolv.conf")),
    }
}

impl Runtime {
    /// Makes a pod. It is whole when this returns, or nothing of it is left.
    pub(crate) async fn run_sandbox(
        self: &Arc<Self>,
        config: v1::PodSandboxConfig,
        handler: String,
    ) -> Result<String, Status> {
        let runtime = self.handlers.get(&handler).ok_or_else(|| {
            Status::unknown(format!(
                "failed to get sandbox runtime: no runtime for {handler:?} is configured"
            ))
        })?;
        let metadata = config
            .metadata
            .clone()
            .ok_or_else(|| Status::invalid_argument("sandbox config must include metadata"))?;
        let id = new_id()?;
        let wanted = shim_spec(&config, &id, 0)?;
        if wanted.network {
            Bandwidth::of(&config.annotations).map_err(Status::invalid_argument)?;
        }
        let parent = config.linux.as_ref().map(|linux| linux.cgroup_parent.as_str()).unwrap_or_default();
        scopes::check(parent, self.config.systemd.as_ref())?;
        if self.config.systemd.is_some() && runtime.binary.is_some() {
            return Err(Status::unimplemented(format!(
                "cgroups of systemd are not supported with runtime {handler:?}"
            )));
        }
        if wanted.users.is_some() {
            if let Err(why) = &self.user_namespaces {
                return Err(Status::unimplemented(format!("user namespaces are not supported here: {why}")));
            }
            if runtime.binary.is_some() {
                return Err(Status::unimplemented(format!(
                    "user namespaces are not supported by runtime {handler:?}"
                )));
            }
        }
        let sysctls = sysctls(&config, &wanted)?;
        let directory = self.sandbox_directory(&id);
        let record = SandboxRecord {
            id: id.clone(),
            handler,
            created_at: now(),
            phase: Phase::Creating,
            network: None,
            namespace: String::new(),
            config,
        };
        let sandbox = Arc::new(Sandbox::new(record, directory.clone()));
        {
            let mut all = self.sandboxes.lock();
            if let Some(same) = all.values().find(|one| one.config.metadata.as_ref() == Some(&metadata)) {
                return Err(Status::failed_precondition(format!(
                    "failed to reserve sandbox name: name {:?} is reserved for {:?}",
                    format!("{}_{}_{}_{}", metadata.name, metadata.namespace, metadata.uid, metadata.attempt),
                    same.id
                )));
            }
            all.insert(id.clone(), Arc::clone(&sandbox));
        }
        let made = {
            let _changing = sandbox.changing.lock().await;
            self.make_sandbox(&sandbox, wanted, sysctls).await
        };
        if let Err(status) = made {
            if let Err(error) = self.remove_sandbox(&id).await {
                tracing::warn!(pod = id, %error, "a pod that could not be made is left");
            }
            return Err(status);
        }
        self.tell(&id, &id, v1::ContainerEventType::ContainerCreatedEvent);
        self.tell(&id, &id, v1::ContainerEventType::ContainerStartedEvent);
        Ok(id)
    }

    async fn make_sandbox(
        self: &Arc<Self>,
        sandbox: &Arc<Sandbox>,
        wanted: SandboxSpec,
        sysctls: Vec<(String, String)>,
    ) -> Result<(), Status> {
        let directory = &sandbox.directory;
        state::directory(directory).map_err(|error| failed("making the pod's directory", &error))?;
        sandbox.save()?;
        write_files(&sandbox.config, directory).map_err(|error| failed("writing the pod's files", &error))?;
        let socket = self.socket(&sandbox.id);
        let mut shim = self
            .program
            .start(&sandbox.id, &socket, directory)
            .map_err(|error| failed("starting the pod's shim", &error))?;
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            // So that it leaves no zombie; one that is let go here is somebody else's child then.
            tokio::select! {
                () = shutdown.cancelled() => {}
                _ = shim.wait() => {}
            }
        });
        let holder = self.begin_scope(&wanted.cgroup, Bounds::default()).await?;
        let answer = shim::ask(&socket, Request::Sandbox(wanted), Vec::new()).await;
        self.occupied(holder).await;
        let (pid, network_fd) = match answer {
            Ok((Answer::Sandbox { pid, network_fd }, ..)) => (pid, network_fd),
            Ok((other, ..)) => return Err(Status::unknown(format!("the pod's shim answered {other:?}"))),
            Err(error) => return Err(failed("failed to create pod sandbox", &error)),
        };
        sandbox.set_shim(Some((pid, network_fd)));
        if let Some(namespace) = sandbox.network_namespace() {
            sandbox.inner.lock().namespace = namespace.display().to_string();
            // Before the first plugin runs: what it may leave is then known to be ours to remove.
            let config =
                self.cni.config().map_err(|error| failed("failed to setup network for sandbox", &error))?;
            sandbox.inner.lock().network =
                Some(Network { addresses: Vec::new(), config, result: serde_json::Value::Null });
            sandbox.save()?;
            let network = self.cni.add(&attachment(sandbox)).await.map_err(|error| {
                Status::unknown(format!(
                    "failed to setup network for sandbox {:?}: {}",
                    sandbox.id,
                    chain(&error)
                ))
            })?;
            sandbox.inner.lock().network = Some(network);
        }
        if !sysctls.is_empty() {
            shim::command(&socket, Request::Sysctls { sysctls })
                .await
                .map_err(|error| failed("failed to set the pod's sysctls", &error))?;
        }
        match shim::ask(&socket, Request::Watch, Vec::new()).await {
            Ok((_, _, answers)) => {
                let lines = answers.into_lines().map_err(|error| failed("watching the shim", &error))?;
                self.watch(sandbox, lines);
            }
            Err(error) => return Err(failed("watching the shim", &error)),
        }
        sandbox.inner.lock().phase = Phase::Ready;
        sandbox.save()
    }

    /// Ends a pod's containers, network and namespaces. Safe to repeat.
    pub(crate) async fn stop_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        let Some(sandbox) = self.sandbox(id) else { return Ok(()) };
        let _changing = sandbox.changing.lock().await;
        if sandbox.phase() == Phase::Stopped {
            return Ok(());
        }
        for container in self.containers_of(&sandbox.id) {
            self.kill_container(&container).await?;
        }
        let network = sandbox.inner.lock().network.clone();
        if let Some(network) = network
            && let Err(error) = self.cni.delete(&attachment(&sandbox), &network).await
        {
            let text = format!("failed to destroy network for sandbox {:?}: {}", sandbox.id, chain(&error));
            if !self.config.gives_networks_up {
                return Err(Status::unknown(text));
            }
            tracing::warn!("{text}");
        }
        self.end_shim(&sandbox).await;
        sandbox.inner.lock().phase = Phase::Stopped;
        sandbox.save()?;
        self.tell(&sandbox.id, &sandbox.id, v1::ContainerEventType::ContainerStoppedEvent);
        Ok(())
    }

    /// Removes a pod with its containers. Safe to repeat.
    pub(crate) async fn remove_sandbox(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        let Some(sandbox) = self.sandbox(id) else { return Ok(()) };
        self.stop_sandbox(&sandbox.id).await?;
        let _changing = sandbox.changing.lock().await;
        for container in self.containers_of(&sandbox.id) {
            self.remove_container(&container.record.id).await?;
        }
        match crate::remove::tree_aside(&sandbox.directory).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed("removing the pod's directory", &error));
            }
            _ => {}
        }
        if self.sandboxes.lock().remove(&sandbox.id).is_some() {
            self.tell(&sandbox.id, &sandbox.id, v1::ContainerEventType::ContainerDeletedEvent);
        }
        Ok(())
    }
}

fn attachment(sandbox: &Sandbox) -> Attachment<'_> {
    let live = sandbox.network_namespace().map(|path| path.display().to_string());
    Attachment {
        id: &sandbox.id,
        namespace: live.unwrap_or_default(),
        metadata: sandbox.config.metadata.clone().unwrap_or_default(),
        ports: sandbox.config.port_mappings.clone(),
        // What cannot be read was refused when the pod was to be made.
        bandwidth: Bandwidth::of(&sandbox.config.annotations).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_has_upstreams_form() {
        let dns = v1::DnsConfig {
            servers: vec!["10.96.0.10".into(), "8.8.8.8".into()],
            searches: vec!["default.svc.cluster.local".into(), "svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(&dns),
            "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\nnameserver 8.8.8.8\n\
             options ndots:5\n"
        );
    }

    #[test]
    fn user_namespaces() {
        use v1::NamespaceMode::{Container, Node, Pod};
        let mapping = |container_id, host_id, length| v1::IdMapping { container_id, host_id, length };
        let asking = |mode: v1::NamespaceMode, network: v1::NamespaceMode, ids: &[v1::IdMapping]| {
            let (uids, gids) = (ids.to_vec(), ids.to_vec());
            let options = v1::NamespaceOption {
                network: network.into(),
                pid: Container.into(),
                userns_options: Some(v1::UserNamespace { mode: mode.into(), uids, gids }),
                ..Default::default()
            };
            let security_context =
                v1::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
            let linux =
                v1::LinuxPodSandboxConfig { security_context: Some(security_context), ..Default::default() };
            users(&v1::PodSandboxConfig { linux: Some(linux), ..Default::default() })
        };
        let whole = [mapping(0, 131_072, 65_536)];
        assert_eq!(asking(Node, Node, &[]).unwrap(), None);
        let found = asking(Pod, Pod, &whole).unwrap().unwrap();
        assert_eq!((found.uid(0), found.gid(65_535)), (131_072, 196_607));
        for (network, ids) in [
            (Node, whole.as_slice()),
            (Pod, &[]),
            (Pod, &[mapping(1, 131_072, 65_536)]),
            (Pod, &[mapping(0, 131_072, 0)]),
            (Pod, &[mapping(0, 1, u32::MAX)]),
        ] {
            let refused = asking(Pod, network, ids).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{ids:?}");
        }
    }

    /// A pod with namespaces of the host's, as they are asked for, and settings.
    fn asking(
        network: v1::NamespaceMode,
        ipc: v1::NamespaceMode,
        settings: &[&str],
    ) -> Result<Vec<String>, tonic::Code> {
        let options = v1::NamespaceOption { network: network.into(), ipc: ipc.into(), ..Default::default() };
        let security_context =
            v1::LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
        let linux = v1::LinuxPodSandboxConfig {
            security_context: Some(security_context),
            sysctls: settings.iter().map(|name| ((*name).to_owned(), "1024".to_owned())).collect(),
            ..Default::default()
        };
        let config = v1::PodSandboxConfig { linux: Some(linux), ..Default::default() };
        let made = shim_spec(&config, "id", 0).map_err(|status| status.code())?;
        let found = sysctls(&config, &made).map_err(|status| status.code())?;
        Ok(found.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
    }

    #[test]
    fn settings_of_a_pod_win() {
        use v1::NamespaceMode::{Node, Pod};
        assert_eq!(asking(Node, Node, &[]), Ok(Vec::new()));
        let pings = "net.ipv4.ping_group_range=0 2147483647";
        for name in ["net.ipv4.ip_unprivileged_port_start", "net/ipv4/ip_unprivileged_port_start"] {
            let found = asking(Pod, Pod, &[name]).unwrap();
            assert_eq!(found, ["net.ipv4.ip_unprivileged_port_start=1024", pings]);
        }
    }

    #[test]
    fn settings_of_the_host_are_refused() {
        use v1::NamespaceMode::{Node, Pod};
        for (network, ipc, name, allowed) in [
            (Pod, Node, "net.ipv4.tcp_rmem", true),
            (Node, Pod, "kernel.shm_rmid_forced", true),
            (Node, Pod, "fs.mqueue.msg_max", true),
            (Node, Pod, "net.ipv4.tcp_rmem", false),
            (Pod, Node, "kernel.shm_rmid_forced", false),
            (Pod, Node, "fs.mqueue.msg_max", false),
            (Pod, Pod, "kernel.core_pattern", false),
            (Pod, Pod, "kernel/core_pattern", false),
            (Pod, Pod, "kernel.hostname", false),
            (Pod, Pod, "net/../kernel/core_pattern", false),
            (Pod, Pod, "vm.swappiness", false),
        ] {
            let found = asking(network, ipc, &[name]);
            let expected = if allowed { Ok(()) } else { Err(tonic::Code::InvalidArgument) };
            assert_eq!(found.map(drop), expected, "{name}");
        }
    }
}
