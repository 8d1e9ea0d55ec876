//! A container's specification for its shim, from what CRI and the image say. Pure but for looking at devices and mount
//! sources.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::resource::Resource;
use podium_cri::v1;
use podium_shim::protocol::{
    Bind, ContainerSpec, DeviceFile, IdMaps, ImageFiles, PidMode, ProcessSpec, Propagation, Resources,
    Rootfs, UserSpec,
};
use tonic::Status;

use crate::images::manifest::Execution;
use crate::sandbox::ranges;
use crate::state::VolumeImage;
use crate::{capabilities, scopes, seccomp};

/// A layer with nothing in it, which the store always has.
const EMPTY: &str = "empty";

/// What a container is made from.
#[derive(Debug)]
pub(crate) struct Ingredients<'a> {
    pub(crate) id: &'a str,
    pub(crate) config: &'a v1::ContainerConfig,
    pub(crate) sandbox: &'a v1::PodSandboxConfig,
    pub(crate) image: &'a Execution,
    /// Names of layers, lowest first.
    pub(crate) layers: &'a [String],
    pub(crate) layers_directory: &'a Path,
    /// The images that are volumes, by the names mounts give them.
    pub(crate) volume_images: &'a BTreeMap<String, VolumeImage>,
    /// The container's own directory.
    pub(crate) directory: &'a Path,
    /// The sandbox's own directory.
    pub(crate) sandbox_directory: &'a Path,
    /// The program of the pod's runtime, if it is not ours.
    pub(crate) runtime: Option<&'a Path>,
    /// What this machine lets us give away.
    pub(crate) available_capabilities: u64,
    /// See [`crate::limits`].
    pub(crate) open_files: u64,
}

fn invalid(message: impl Into<String>) -> Status {
    Status::invalid_argument(message)
}

/// Puts it together, or says what cannot be done.
pub(crate) fn container(from: &Ingredients<'_>) -> Result<ContainerSpec, Status> {
    let config = from.config;
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.clone().unwrap_or_default();
    let sandbox_linux = from.sandbox.linux.clone().unwrap_or_default();
    let sandbox_security = sandbox_linux.security_context.clone().unwrap_or_default();
    if security.privileged && !sandbox_security.privileged {
        return Err(invalid("no privileged container allowed in sandbox"));
    }
    let namespaces = security.namespace_options.clone().unwrap_or_default();
    let process = process(from, &security, linux.resources.as_ref())?;
    let (resources, _) = resources(linux.resources.as_ref());
    Ok(ContainerSpec {
        id: from.id.to_owned(),
        rootfs: Rootfs {
            base: from.layers_directory.to_owned(),
            lower: lower(from.layers),
            upper: from.directory.join("upper"),
            work: from.directory.join("work"),
            read_only: security.readonly_rootfs,
        },
        binds: binds(from, &security)?,
        host_network: namespaces.network() == v1::NamespaceMode::Node,
        host_ipc: namespaces.ipc() == v1::NamespaceMode::Node,
        host_uts: namespaces.network() == v1::NamespaceMode::Node,
        pid: match namespaces.pid() {
            v1::NamespaceMode::Pod => PidMode::Pod,
            v1::NamespaceMode::Container => PidMode::Container,
            v1::NamespaceMode::Node => PidMode::Host,
            v1::NamespaceMode::Target => PidMode::Target(namespaces.target_id),
        },
        privileged: security.privileged,
        masked_paths: security.masked_paths.iter().map(PathBuf::from).collect(),
        readonly_paths: security.readonly_paths.iter().map(PathBuf::from).collect(),
        devices: devices(&config.devices, security.privileged)?,
        all_devices: security.privileged,
        cgroup: cgroup(&sandbox_linux.cgroup_parent, from.id)?,
        resources,
        process,
        tty: config.tty,
        stdin: config.stdin,
        log_path: log_path(from.sandbox, config),
        hooks: Vec::new(),
        runtime: from.runtime.map(Path::to_owned),
    })
}

/// Where a container logs; nowhere if either part is missing.
pub(crate) fn log_path(sandbox: &v1::PodSandboxConfig, config: &v1::ContainerConfig) -> Option<PathBuf> {
    let given = !sandbox.log_directory.is_empty() && !config.log_path.is_empty();
    given.then(|| Path::new(&sandbox.log_directory).join(&config.log_path))
}

/// A container's own group below its pod's; below a slice it is a scope. Which of them may be is [`scopes::check`]'s.
pub(crate) fn cgroup(parent: &str, id: &str) -> Result<String, Status> {
    if parent.ends_with(".slice") {
        return scopes::path(parent, id)
            .ok_or_else(|| invalid(format!("cgroup parent {parent:?} is not the name of a slice")));
    }
    if parent.split('/').any(|part| part == "..") {
        return Err(invalid(format!("cgroup parent {parent:?}")));
    }
    let parent = if parent.is_empty() { "/podium.io" } else { parent.trim_end_matches('/') };
    Ok(format!("{parent}/{id}"))
}

fn process(
    from: &Ingredients<'_>,
    security: &v1::LinuxContainerSecurityContext,
    limits: Option<&v1::LinuxContainerResources>,
) -> Result<ProcessSpec, Status> {
    let config = from.config;
    let capabilities =
        capabilities::of(security.capabilities.as_ref(), security.privileged, from.available_capabilities)
            .map_err(invalid)?;
    let args = command(config, from.image)?;
    for arg in &args {
        if arg.contains('\0') {
            return Err(invalid("a command with a zero byte"));
        }
    }
    let cwd = if config.working_dir.is_empty() { &from.image.working_dir } else { &config.working_dir };
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    if !cwd.starts_with('/') {
        return Err(invalid(format!("working directory {cwd:?} is not absolute")));
    }
    let (_, oom_score_adj) = resources(limits);
    Ok(ProcessSpec {
        args,
        env: environment(config, from.sandbox, from.image)?,
        cwd: PathBuf::from(cwd),
        user: user(security, from.image),
        seccomp: filter(security, capabilities.bounding)?,
        capabilities,
        no_new_privs: security.no_new_privs,
        apparmor: check_modules(
            security.apparmor.as_ref(),
            security.selinux_options.as_ref(),
            security.privileged,
        )?,
        rlimits: vec![(Resource::RLIMIT_NOFILE as u32, from.open_files, from.open_files)],
        oom_score_adj,
    })
}

/// What runs: Kubernetes' command replaces the image's entry point and its arguments, its args only the arguments.
fn command(config: &v1::ContainerConfig, image: &Execution) -> Result<Vec<String>, Status> {
    let (command, args) = match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => (&image.entrypoint, &image.cmd),
        (true, false) => (&image.entrypoint, &config.args),
        (false, _) => (&config.command, &config.args),
    };
    let all: Vec<String> = command.iter().chain(args).cloned().collect();
    if all.is_empty() { Err(invalid("no command specified")) } else { Ok(all) }
}

fn environment(
    config: &v1::ContainerConfig,
    sandbox: &v1::PodSandboxConfig,
    image: &Execution,
) -> Result<Vec<String>, Status> {
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| match env.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => value.clone_into(old),
        None => env.push((name.to_owned(), value.to_owned())),
    };
    if config.tty {
        set("TERM", "xterm");
    }
    if !sandbox.hostname.is_empty() {
        set("HOSTNAME", &sandbox.hostname);
    }
    for entry in &image.env {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        set(name, value);
    }
    for pair in &config.envs {
        let value = std::str::from_utf8(&pair.value)
            .map_err(|_| invalid(format!("the value of {} is not UTF-8", pair.key)))?;
        set(&pair.key, value);
    }
    if env.iter().any(|(name, value)| name.contains('\0') || value.contains('\0')) {
        return Err(invalid("an environment variable with a zero byte"));
    }
    Ok(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

fn user(security: &v1::LinuxContainerSecurityContext, image: &Execution) -> UserSpec {
    let image_user = image.user.split_once(':').unwrap_or((&image.user, ""));
    let (user, group) = match (&security.run_as_user, security.run_as_username.as_str()) {
        (Some(uid), _) => (uid.value.to_string(), String::new()),
        (None, name) if !name.is_empty() => (name.to_owned(), String::new()),
        _ => (image_user.0.to_owned(), image_user.1.to_owned()),
    };
    let group = security.run_as_group.as_ref().map_or(group, |gid| gid.value.to_string());
    UserSpec {
        user,
        group,
        groups: security.supplemental_groups.iter().filter_map(|gid| u32::try_from(*gid).ok()).collect(),
        strict: security.supplemental_groups_policy() == v1::SupplementalGroupsPolicy::Strict,
    }
}

/// The filter asked for. None only where it is said in so many words, or of a privileged container.
fn filter(
    security: &v1::LinuxContainerSecurityContext,
    capabilities: u64,
) -> Result<Option<Vec<podium_shim::protocol::Instruction>>, Status> {
    if security.privileged {
        return Ok(None);
    }
    sandbox_filter(security.seccomp.as_ref(), capabilities)
}

/// The filter asked for as a profile, for a runtime that compiles it itself.
pub(crate) fn seccomp_profile(
    config: &v1::ContainerConfig,
    spec: &ContainerSpec,
) -> Result<Option<serde_json::Value>, Status> {
    use v1::security_profile::ProfileType;
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let Some(profile) = security.and_then(|security| security.seccomp.as_ref()) else { return Ok(None) };
    if spec.process.seccomp.is_none() {
        return Ok(None);
    }
    let found = match profile.profile_type() {
        ProfileType::Localhost => seccomp::local_profile(Path::new(&profile.localhost_ref)),
        _ => seccomp::default_profile(spec.process.capabilities.bounding),
    };
    found.map(Some).map_err(|error| invalid(format!("failed to generate seccomp spec opts: {error}")))
}

/// The filter of a profile setting; unset is unconfined, as CRI has it.
pub(crate) fn sandbox_filter(
    profile: Option<&v1::SecurityProfile>,
    capabilities: u64,
) -> Result<Option<Vec<podium_shim::protocol::Instruction>>, Status> {
    use v1::security_profile::ProfileType;
    let Some(profile) = profile else { return Ok(None) };
    let failed =
        |error: seccomp::SeccompError| invalid(format!("failed to generate seccomp spec opts: {error}"));
    match profile.profile_type() {
        ProfileType::Unconfined => Ok(None),
        ProfileType::RuntimeDefault => seccomp::runtime_default(capabilities).map(Some).map_err(failed),
        ProfileType::Localhost => {
            if profile.localhost_ref.is_empty() {
                return Err(invalid("seccomp profile of type Localhost without a name"));
            }
            seccomp::local(Path::new(&profile.localhost_ref)).map(Some).map_err(failed)
        }
    }
}

/// AppArmor and SELinux: the profile to run under, if there is to be one. Who asks for a confinement that this runtime or
/// machine does not give is refused.
pub(crate) fn check_modules(
    apparmor: Option<&v1::SecurityProfile>,
    selinux: Option<&v1::SeLinuxOption>,
    privileged: bool,
) -> Result<Option<String>, Status> {
    let read = |name: &str| {
        std::fs::read_to_string(Path::new("/sys/kernel/security").join(name)).unwrap_or_default()
    };
    check_modules_of(&read("lsm"), &read("apparmor/profiles"), apparmor, selinux, privileged)
}

/// `kernel`: its modules, as in `/sys/kernel/security/lsm`; `loaded`: its AppArmor profiles. Without AppArmor its default
/// profile is no profile, and a privileged container never has it. Source: containerd's `generateApparmorSpecOpts`.
fn check_modules_of(
    kernel: &str,
    loaded: &str,
    apparmor: Option<&v1::SecurityProfile>,
    selinux: Option<&v1::SeLinuxOption>,
    privileged: bool,
) -> Result<Option<String>, Status> {
    use v1::security_profile::ProfileType;
    let has = |name: &str| kernel.split(',').any(|module| module.trim() == name);
    let wanted = selinux.is_some_and(|options| *options != v1::SeLinuxOption::default());
    if wanted && has("selinux") {
        return Err(invalid("SELinux labels are not supported by this runtime"));
    }
    let Some(profile) = apparmor else { return Ok(None) };
    match profile.profile_type() {
        ProfileType::Localhost if !has("apparmor") => Err(invalid("apparmor is not supported")),
        ProfileType::Localhost => {
            let name = profile.localhost_ref.trim_start_matches("localhost/");
            // A line is the name and its mode; names may have spaces.
            let known = loaded.lines().any(|line| line.rsplit_once(" (").is_some_and(|(one, _)| one == name));
            if name.is_empty() || !known {
                return Err(invalid(format!("apparmor profile not found {name}")));
            }
            Ok(Some(name.to_owned()))
        }
        ProfileType::RuntimeDefault if has("apparmor") && !privileged => Err(invalid(
            "this runtime has no default AppArmor profile: leave appArmorProfile out, or ask for Unconfined",
        )),
        _ => Ok(None),
    }
}

/// Limits, and the score that belongs to the process.
pub(crate) fn resources(wanted: Option<&v1::LinuxContainerResources>) -> (Resources, Option<i32>) {
    let Some(wanted) = wanted else { return (Resources::default(), None) };
    let some = |value: i64| Some(value).filter(|value| *value != 0);
    let unsigned = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let text = |value: &str| Some(value.to_owned()).filter(|value| !value.is_empty());
    let unified: BTreeMap<String, String> = wanted.unified.clone().into_iter().collect();
    let resources = Resources {
        cpu_shares: unsigned(wanted.cpu_shares),
        cpu_quota: some(wanted.cpu_quota),
        cpu_period: unsigned(wanted.cpu_period),
        cpuset_cpus: text(&wanted.cpuset_cpus),
        cpuset_mems: text(&wanted.cpuset_mems),
        memory_limit: some(wanted.memory_limit_in_bytes),
        memory_swap_limit: some(wanted.memory_swap_limit_in_bytes),
        pids_limit: None,
        hugepages: wanted.hugepage_limits.iter().map(|one| (one.page_size.clone(), one.limit)).collect(),
        unified: unified.into_iter().collect(),
    };
    let score = i32::try_from(wanted.oom_score_adj).unwrap_or(0).clamp(-1000, 1000);
    (resources, Some(score))
}

/// Layers as they are mounted, uppermost first.
fn lower(layers: &[String]) -> Vec<String> {
    if layers.is_empty() { vec![EMPTY.to_owned()] } else { layers.iter().rev().cloned().collect() }
}

fn binds(from: &Ingredients<'_>, security: &v1::LinuxContainerSecurityContext) -> Result<Vec<Bind>, Status> {
    let mut binds = Vec::new();
    let users = crate::sandbox::users(from.sandbox)?;
    let given = |path: &str| {
        from.config.mounts.iter().any(|mount| Path::new(&mount.container_path) == Path::new(path))
    };
    for name in crate::sandbox::FILES {
        let target = format!("/etc/{name}");
        if !given(&target) {
            binds.push(Bind {
                source: from.sandbox_directory.join(name),
                image: None,
                target: target.into(),
                read_only: security.readonly_rootfs,
                recursive_read_only: false,
                propagation: Propagation::Private,
                mapped: users.is_some(),
            });
        }
    }
    let mut volumes = Vec::new();
    for mount in &from.config.mounts {
        volumes.push(bind(from, users.as_ref(), mount)?);
    }
    // Outer ones first, whatever the order they came in.
    volumes.sort_by_key(|bind: &Bind| bind.target.components().count());
    binds.extend(volumes);
    Ok(binds)
}

/// The image that a mount is of, by name; none if it is of the host's files.
pub(crate) fn image_of(mount: &v1::Mount) -> Option<&str> {
    mount.image.as_ref().map(|image| image.image.as_str()).filter(|name| !name.is_empty())
}

fn bind(from: &Ingredients<'_>, users: Option<&IdMaps>, mount: &v1::Mount) -> Result<Bind, Status> {
    let maps = IdMaps { uids: ranges(&mount.uid_mappings), gids: ranges(&mount.gid_mappings) };
    let mapped = maps != IdMaps::default();
    if mapped && Some(&maps) != users {
        let at = &mount.container_path;
        return Err(invalid(format!(
            "id mappings of mount {at:?} are not those of the pod's user namespace"
        )));
    }
    let absolute = |path: &str, what: &str| {
        if path.starts_with('/') && !path.split('/').any(|part| part == "..") {
            Ok(PathBuf::from(path))
        } else {
            Err(invalid(format!("{what} {path:?} of a mount is not absolute")))
        }
    };
    if mount.recursive_read_only && !mount.readonly {
        return Err(invalid("recursive read-only mount must be read-only"));
    }
    let propagation = match mount.propagation() {
        v1::MountPropagation::PropagationPrivate => Propagation::Private,
        v1::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        v1::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    if mount.recursive_read_only && propagation != Propagation::Private {
        return Err(invalid("recursive read-only mount must be private"));
    }
    if let Some(name) = image_of(mount) {
        let (source, files) = image_files(from, mount, name)?;
        return Ok(Bind {
            source: source.into(),
            image: Some(files),
            target: absolute(&mount.container_path, "container path")?,
            read_only: true,
            recursive_read_only: mount.recursive_read_only,
            // Nothing is ever mounted below it.
            propagation: Propagation::Private,
            mapped,
        });
    }
    Ok(Bind {
        source: absolute(&mount.host_path, "host path")?,
        image: None,
        target: absolute(&mount.container_path, "container path")?,
        read_only: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        propagation,
        mapped,
    })
}

/// An image's id and its files as a volume. What is refused is what containerd refuses too (`mutateImageMount`), but for a
/// sub path that is a file, which is as good as a directory here.
fn image_files(
    from: &Ingredients<'_>,
    mount: &v1::Mount,
    name: &str,
) -> Result<(String, ImageFiles), Status> {
    if !mount.host_path.is_empty() {
        return Err(invalid(format!("a mount of image {name:?} with host path {:?}", mount.host_path)));
    }
    if !mount.readonly {
        return Err(invalid(format!("a mount of image {name:?} that is not read-only")));
    }
    let sub_path = Path::new(&mount.image_sub_path);
    if sub_path.is_absolute() || mount.image_sub_path.split('/').any(|part| part == "..") {
        return Err(invalid(format!("sub path {sub_path:?} of image {name:?} is not within it")));
    }
    let image = from
        .volume_images
        .get(name)
        .ok_or_else(|| Status::not_found(format!("failed to resolve image {name:?}: not found")))?;
    let mut lower = lower(&image.layers);
    // Never a layer by itself: what it takes away from those below would show as devices.
    if lower.len() == 1 && lower[0] != EMPTY {
        lower.push(EMPTY.to_owned());
    }
    let files = ImageFiles { base: from.layers_directory.to_owned(), lower, sub_path: sub_path.to_owned() };
    Ok((image.id.clone(), files))
}

/// Device files that every container has.
fn standard_devices() -> Vec<DeviceFile> {
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
        .into_iter()
        .map(|(name, major, minor)| DeviceFile {
            path: format!("/dev/{name}").into(),
            kind: 'c',
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
            access: "rwm".to_owned(),
        })
        .collect()
}

fn devices(wanted: &[v1::Device], privileged: bool) -> Result<Vec<DeviceFile>, Status> {
    let mut devices = standard_devices();
    let mut add = |found: DeviceFile| {
        if !devices.iter().any(|known| known.path == found.path) {
            devices.push(found);
        }
    };
    if privileged {
        for found in below(Path::new("/dev"), Path::new("/dev"), "rwm") {
            add(found);
        }
    }
    for device in wanted {
        if !device.permissions.chars().all(|letter| "rwm".contains(letter)) {
            return Err(invalid(format!("invalid device permissions {:?}", device.permissions)));
        }
        let (host, inside) = (Path::new(&device.host_path), Path::new(&device.container_path));
        let host = host
            .canonicalize()
            .map_err(|error| invalid(format!("device {:?}: {error}", device.host_path)))?;
        let found = below(&host, inside, &device.permissions);
        if found.is_empty() {
            return Err(invalid(format!("not a device node: {:?}", device.host_path)));
        }
        found.into_iter().for_each(&mut add);
    }
    Ok(devices)
}

/// A device, or those in a directory: what the runtime itself makes in `/dev` is left out.
fn below(host: &Path, inside: &Path, access: &str) -> Vec<DeviceFile> {
    let Ok(metadata) = std::fs::symlink_metadata(host) else { return Vec::new() };
    let kind = metadata.file_type();
    if kind.is_dir() {
        return std::fs::read_dir(host)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                !matches!(
                    &*name,
                    "pts" | "shm" | "fd" | "mqueue" | ".lxc" | ".lxd-mounts" | ".udev" | "ptmx" | "console"
                )
            })
            .flat_map(|entry| below(&entry.path(), &inside.join(entry.file_name()), access))
            .collect();
    }
    let kind = match (kind.is_char_device(), kind.is_block_device()) {
        (true, _) => 'c',
        (_, true) => 'b',
        _ => return Vec::new(),
    };
    let number = |number: u32| number;
    vec![DeviceFile {
        path: inside.to_owned(),
        kind,
        major: number(libc::major(metadata.rdev())),
        minor: number(libc::minor(metadata.rdev())),
        mode: metadata.mode() & 0o777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        access: access.to_owned(),
    }]
}

/// The signal that asks a container to end: what CRI says, else the image, else TERM.
pub(crate) fn stop_signal(config: &v1::ContainerConfig, image: &str) -> i32 {
    let named = match config.stop_signal() {
        v1::Signal::RuntimeDefault => image.to_owned(),
        signal => signal.as_str_name().to_owned(),
    };
    parse_signal(&named).unwrap_or(libc::SIGTERM)
}

fn parse_signal(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    let after = |prefix: &str| {
        full.strip_prefix(prefix).map(|rest| {
            rest.trim_start_matches(['+', '-'])
                .trim_start_matches("PLUS")
                .trim_start_matches("MINUS")
                .to_owned()
        })
    };
    if let Some(rest) = after("SIGRTMIN") {
        return if rest.is_empty() { Some(34) } else { rest.parse::<i32>().ok().map(|more| 34 + more) };
    }
    if let Some(rest) = after("SIGRTMAX") {
        return if rest.is_empty() { Some(64) } else { rest.parse::<i32>().ok().map(|less| 64 - less) };
    }
    let full = match full.as_str() {
        "SIGCLD" => "SIGCHLD",
        "SIGIOT" => "SIGABRT",
        "SIGPOLL" => "SIGIO",
        other => other,
    };
    full.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests;
