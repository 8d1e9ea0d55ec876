//! A container as CRI takes it: command, environment, mounts, limits, labels.
//!
//! [`config`] is pure. What needs the file system first (termination log, parts of volumes) is made by
//! [`prepare`], which also says where it is.

pub(crate) mod read_only;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use podium_cri::v1;

use crate::{
    environment::expand,
    pod,
    record::label,
    resources,
    security::{self, ImageUser, SecurityError},
    volumes::{self, PodDir, sub_path},
};

/// The images that are volumes of a container, by the volume's name.
pub(crate) type ImageVolumes = BTreeMap<String, v1::ImageSpec>;

/// Why a container cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error(transparent)]
    Security(#[from] SecurityError),
    #[error("failed to prepare subPath for volumeMount {mount:?} of container {container:?}: {source}")]
    SubPath { mount: String, container: String, source: io::Error },
    #[error("volume {volume:?} of container {container:?} is not in the pod")]
    NoVolume { volume: String, container: String },
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error("failed to resolve recursive read-only mode: {0}")]
    ReadOnly(#[from] read_only::ReadOnlyError),
    /// Variables of a `subPathExpr` are not there, or empty.
    #[error("missing value for {0}")]
    NoValue(String),
}

/// What a container is made from besides its spec.
#[derive(Debug)]
pub(crate) struct Ingredients<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) restart_count: u32,
    /// What to run, as the runtime names it.
    pub(crate) image_ref: &'a str,
    pub(crate) image_user: &'a ImageUser,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) mounts: Vec<v1::Mount>,
    pub(crate) devices: Vec<v1::Device>,
    pub(crate) bounds: resources::Bounds,
    pub(crate) seccomp: security::Seccomp<'a>,
    pub(crate) users: &'a v1::UserNamespace,
    /// The container whose processes an ephemeral container joins.
    pub(crate) target: Option<&'a str>,
}

/// The container's configuration.
pub(crate) fn config(from: &Ingredients<'_>) -> Result<v1::ContainerConfig, ConfigError> {
    let Ingredients { pod, container, .. } = from;
    let lookup = |name: &str| from.env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|text| expand(text, lookup)).collect()
    };
    let mut security =
        security::container_context(pod, container, from.image_user, from.users, from.seccomp)?;
    if let (Some(target), Some(options)) = (from.target, security.namespace_options.as_mut()) {
        options.pid = v1::NamespaceMode::Target.into();
        options.target_id = target.to_owned();
    }
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: from.restart_count }),
        image: Some(v1::ImageSpec {
            image: from.image_ref.to_owned(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: from
            .env
            .iter()
            .map(|(key, value)| v1::KeyValue { key: key.clone(), value: value.clone().into_bytes() })
            .collect(),
        mounts: mapped(from.mounts.clone(), from.users),
        devices: from.devices.clone(),
        labels: [
            (label::POD_NAME, pod::name(pod)),
            (label::POD_NAMESPACE, pod::namespace(pod)),
            (label::POD_UID, pod::uid(pod)),
            (label::CONTAINER_NAME, container.name.as_str()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect(),
        annotations: annotations(from),
        log_path: log_path(&container.name, from.restart_count),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources::linux_resources(pod, container, &from.bounds)),
            security_context: Some(security),
        }),
        ..Default::default()
    })
}

/// Mounts with the ids that their files have in the pod's user namespace.
fn mapped(mut mounts: Vec<v1::Mount>, users: &v1::UserNamespace) -> Vec<v1::Mount> {
    for mount in &mut mounts {
        mount.uid_mappings.clone_from(&users.uids);
        mount.gid_mappings.clone_from(&users.gids);
    }
    mounts
}

/// Where one run of a container logs, below the pod's log directory.
pub(crate) fn log_path(container: &str, restart_count: u32) -> String {
    format!("{container}/{restart_count}.log")
}

fn annotations(from: &Ingredients<'_>) -> std::collections::HashMap<String, String> {
    let Ingredients { pod, container, .. } = from;
    let mut set = vec![
        (label::HASH, pod::container_hash(container)),
        (label::RESTART_COUNT, from.restart_count.to_string()),
        (label::MESSAGE_PATH, container.termination_message_path.clone().unwrap_or_default()),
        (label::MESSAGE_POLICY, container.termination_message_policy.clone().unwrap_or_default()),
    ];
    // Kept with the container, so that it can be stopped properly even when its pod is unknown.
    if let Some(grace) = pod.metadata.deletion_grace_period_seconds {
        set.push((label::DELETION_GRACE, grace.to_string()));
    }
    if let Some(grace) = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds) {
        set.push((label::TERMINATION_GRACE, grace.to_string()));
    }
    let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    if let Some(text) = hook.and_then(|hook| serde_json::to_string(hook).ok()) {
        set.push((label::PRE_STOP, text));
    }
    if let Some(text) = container.ports.as_ref().and_then(|ports| serde_json::to_string(ports).ok()) {
        set.push((label::PORTS, text));
    }
    set.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Makes what the container's mounts need on disk and gives the mounts. `recursive`: whether the runtime makes mounts
/// read-only with all below them. Blocking.
pub(crate) fn prepare(
    directory: &PodDir,
    pod: &Pod,
    container: &Container,
    images: &ImageVolumes,
    env: &[(String, String)],
    etc_hosts: Option<&Path>,
    recursive: bool,
) -> Result<Vec<v1::Mount>, ConfigError> {
    let mut mounts = Vec::new();
    for (index, wanted) in container.volume_mounts.iter().flatten().enumerate() {
        let part = sub_path_of(container, wanted, env)?;
        let recursive_read_only = read_only::resolve(wanted, recursive)?;
        let mount = match images.get(&wanted.name) {
            Some(image) => image_mount(wanted, image, part),
            None => volume_mount(directory, pod, container, index, wanted, part)?,
        };
        mounts.push(v1::Mount { recursive_read_only, ..mount });
    }
    let taken = |path: &str| container.volume_mounts.iter().flatten().any(|mount| mount.mount_path == path);
    if let Some(file) = etc_hosts.filter(|_| !taken("/etc/hosts")) {
        mounts.push(bind("/etc/hosts", file));
    }
    if let Some(path) = container.termination_message_path.as_deref().filter(|path| !path.is_empty()) {
        let file = termination_log(directory, container)
            .map_err(|source| ConfigError::Io { what: "making the termination log", source })?;
        mounts.push(bind(&inside(path), &file));
    }
    Ok(mounts)
}

/// The devices that the container opens. Blocking.
pub(crate) fn devices(
    directory: &PodDir,
    pod: &Pod,
    container: &Container,
) -> Result<Vec<v1::Device>, ConfigError> {
    let wanted = container.volume_devices.iter().flatten();
    wanted
        .map(|device| {
            let volume = volumes::find(pod, &device.name);
            let claim = volume.and_then(|volume| volume.persistent_volume_claim.as_ref());
            let read_only = claim.is_some_and(|claim| claim.read_only == Some(true));
            let found = volume.and_then(|volume| volumes::device_of(directory, volume));
            let host = found.ok_or_else(|| ConfigError::NoVolume {
                volume: device.name.clone(),
                container: container.name.clone(),
            })?;
            Ok(v1::Device {
                container_path: device.device_path.clone(),
                host_path: host.to_string_lossy().into_owned(),
                permissions: if read_only { "r" } else { "mrw" }.to_owned(),
            })
        })
        .collect()
}

fn bind(container_path: &str, host_path: &Path) -> v1::Mount {
    v1::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        ..Default::default()
    }
}

/// A fresh file for the message a container may leave; one per start, so that an old message is never
/// taken for a new one.
fn termination_log(directory: &PodDir, container: &Container) -> io::Result<PathBuf> {
    let own = directory.container(&container.name);
    fs::create_dir_all(&own)?;
    let file = own.join(format!("{:08x}", fastrand::u32(..)));
    fs::File::create(&file)?;
    // Whatever user the container runs as writes here.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666))?;
    Ok(file)
}

/// Removes a container's termination messages but those in `kept`. A file is made for each start, also for one that
/// fails; who calls this before a start keeps their number to that of the runs that the runtime still has. Blocking.
pub(crate) fn forget_messages(directory: &PodDir, container: &str, kept: &[PathBuf]) {
    for entry in fs::read_dir(directory.container(container)).into_iter().flatten().flatten() {
        if !kept.contains(&entry.path())
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::debug!(container, %error, "removing an old termination message failed");
        }
    }
}

/// The part of a volume that a mount is of.
fn sub_path_of(
    container: &Container,
    wanted: &VolumeMount,
    env: &[(String, String)],
) -> Result<Option<String>, ConfigError> {
    let part = match (wanted.sub_path_expr.as_deref(), wanted.sub_path.as_deref()) {
        (Some(text), _) if !text.is_empty() => {
            // A name that stands for nothing would be the name of a directory that all such pods share.
            let value = |name: &str| env.iter().find(|(key, value)| key == name && !value.is_empty());
            let missing = std::cell::RefCell::new(std::collections::BTreeSet::new());
            let expanded = expand(text, |name| {
                let found = value(name).map(|(_, value)| value.clone());
                if found.is_none() {
                    missing.borrow_mut().insert(name.to_owned());
                }
                found
            });
            let missing = missing.into_inner();
            if !missing.is_empty() {
                return Err(ConfigError::NoValue(missing.into_iter().collect::<Vec<_>>().join(", ")));
            }
            Some(expanded)
        }
        (_, Some(text)) if !text.is_empty() => Some(text.to_owned()),
        _ => None,
    };
    match part {
        Some(part) if part.starts_with('/') || part.split('/').any(|step| step == "..") => {
            Err(ConfigError::SubPath {
                mount: wanted.mount_path.clone(),
                container: container.name.clone(),
                source: io::Error::other(format!("subPath {part:?} must be relative and without ..")),
            })
        }
        part => Ok(part),
    }
}

/// Where a mount is in the container, as CRI has it: absolute.
pub(crate) fn inside(mount_path: &str) -> String {
    if mount_path.starts_with('/') { mount_path.to_owned() } else { format!("/{mount_path}") }
}

/// What both kinds of mount take from the container's spec.
fn mount_of(wanted: &VolumeMount) -> v1::Mount {
    let propagation = match wanted.mount_propagation.as_deref() {
        Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
        _ => v1::MountPropagation::PropagationPrivate,
    };
    v1::Mount {
        container_path: inside(&wanted.mount_path),
        readonly: wanted.read_only == Some(true),
        propagation: propagation.into(),
        ..Default::default()
    }
}

/// An image as a volume: the runtime mounts it and finds the part, always read-only. Source: upstream's `makeMounts` and
/// `pkg/volume/image`.
fn image_mount(wanted: &VolumeMount, image: &v1::ImageSpec, part: Option<String>) -> v1::Mount {
    v1::Mount {
        readonly: true,
        image: Some(image.clone()),
        image_sub_path: part.unwrap_or_default(),
        ..mount_of(wanted)
    }
}

fn volume_mount(
    directory: &PodDir,
    pod: &Pod,
    container: &Container,
    index: usize,
    wanted: &VolumeMount,
    part: Option<String>,
) -> Result<v1::Mount, ConfigError> {
    let volume = volumes::find(pod, &wanted.name).ok_or_else(|| ConfigError::NoVolume {
        volume: wanted.name.clone(),
        container: container.name.clone(),
    })?;
    let mut host = volumes::host_path_of(directory, volume).ok_or_else(|| ConfigError::NoVolume {
        volume: wanted.name.clone(),
        container: container.name.clone(),
    })?;
    let failed = |source| ConfigError::SubPath {
        mount: wanted.mount_path.clone(),
        container: container.name.clone(),
        source,
    };
    if let Some(part) = part {
        let target = directory.sub_path(&wanted.name, &container.name, index);
        sub_path::bind(&host, &part, &target).map_err(failed)?;
        host = target;
    } else if volume.host_path.is_some() && !host.exists() {
        // Runtimes differ in what they do with a missing source; upstream's make a directory.
        fs::create_dir_all(&host).map_err(failed)?;
    }
    let claim = volume.persistent_volume_claim.as_ref();
    let mount = mount_of(wanted);
    Ok(v1::Mount {
        host_path: host.to_string_lossy().into_owned(),
        readonly: mount.readonly || claim.is_some_and(|claim| claim.read_only == Some(true)),
        ..mount
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_for_a_last_message_is_mounted_at_an_absolute_path() {
        let root = tempfile::tempdir().unwrap();
        for (path, expected) in [("said", "/said"), ("/run/said", "/run/said")] {
            let container = Container {
                termination_message_path: Some(path.into()),
                name: "c".into(),
                ..Default::default()
            };
            let directory = PodDir::new(root.path(), "u");
            let mounts =
                prepare(&directory, &Pod::default(), &container, &ImageVolumes::new(), &[], None, false)
                    .unwrap();
            assert_eq!(mounts[0].container_path, expected);
            assert!(Path::new(&mounts[0].host_path).starts_with(directory.container("c")));
        }
    }

    #[test]
    fn old_messages_go() {
        let root = tempfile::tempdir().unwrap();
        let directory = PodDir::new(root.path(), "u");
        let container = |name: &str| Container { name: name.into(), ..Default::default() };
        let [old, last, other] =
            ["a", "a", "b"].map(|name| termination_log(&directory, &container(name)).unwrap());
        forget_messages(&directory, "a", std::slice::from_ref(&last));
        assert!(!old.exists() && last.exists() && other.exists());
        forget_messages(&directory, "none", &[]);
    }

    #[test]
    fn mounts_of_images() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "uid": "u"},
            "spec": {"containers": [], "volumes": [{"name": "v", "image": {"reference": "app:v1"}}]},
        }))
        .unwrap();
        let image = v1::ImageSpec { image: "sha256:1".into(), ..Default::default() };
        let images = ImageVolumes::from([("v".to_owned(), image.clone())]);
        let env = [("A".to_owned(), "deep".to_owned())];
        let directory = PodDir::new(Path::new("/nonexistent"), "u");
        let prepared = |mount: serde_json::Value, images: &ImageVolumes| {
            let container: Container =
                serde_json::from_value(serde_json::json!({"name": "c", "volumeMounts": [mount]})).unwrap();
            prepare(&directory, &pod, &container, images, &env, None, true).map(|mounts| mounts[0].clone())
        };
        for (mount, sub_path) in [
            (serde_json::json!({"name": "v", "mountPath": "/v"}), ""),
            (serde_json::json!({"name": "v", "mountPath": "v", "readOnly": false, "subPath": "a/b"}), "a/b"),
            (serde_json::json!({"name": "v", "mountPath": "/v", "subPathExpr": "x/$(A)"}), "x/deep"),
        ] {
            let expected = v1::Mount {
                container_path: "/v".into(),
                readonly: true,
                image: Some(image.clone()),
                image_sub_path: sub_path.into(),
                ..Default::default()
            };
            assert_eq!(prepared(mount, &images).unwrap(), expected, "{sub_path}");
        }
        let mount = serde_json::json!({"name": "v", "mountPath": "/v", "readOnly": true, "recursiveReadOnly": "Enabled"});
        assert!(prepared(mount, &images).unwrap().recursive_read_only);
        for part in ["../x", "/x", "a/../../x"] {
            let mount = serde_json::json!({"name": "v", "mountPath": "/v", "subPath": part});
            assert!(prepared(mount, &images).is_err(), "{part}");
        }
        // Never an empty directory in its place.
        let mount = serde_json::json!({"name": "v", "mountPath": "/v"});
        assert!(matches!(prepared(mount, &ImageVolumes::new()), Err(ConfigError::NoVolume { .. })));
    }
}
