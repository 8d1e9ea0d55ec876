//! Devices by name (CDI): what vendors' files say that a container with one of their devices has to have. Source: the
//! Container Device Interface specification 1.0.
//!
//! Files are read anew for each container, so that a driver that is installed meanwhile is there. In case of doubt the later
//! directory wins; two files of one directory that have the same device have it not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use podium_shim::protocol::{Bind, ContainerSpec, DeviceFile, Hook, Propagation};
use serde::Deserialize;
use tonic::Status;

/// Where files are, the more important directory last.
pub const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    cdi_version: String,
    /// `VENDOR/CLASS`.
    kind: String,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Device {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

/// What a container is given. What is not here is not known, and refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Mount>,
    hooks: Vec<Call>,
    #[serde(rename = "additionalGids")]
    additional_gids: Vec<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Node {
    path: String,
    host_path: String,
    #[serde(rename = "type")]
    kind: String,
    major: Option<u32>,
    minor: Option<u32>,
    file_mode: Option<u32>,
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mount {
    host_path: PathBuf,
    container_path: PathBuf,
    options: Vec<String>,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Call {
    hook_name: String,
    path: PathBuf,
    args: Vec<String>,
    env: Vec<String>,
    timeout: Option<u64>,
}

fn failed(why: impl std::fmt::Display) -> Status {
    Status::unknown(format!("CDI device injection failed: {why}"))
}

/// Gives a container what its devices say.
pub(crate) fn inject(
    spec: &mut ContainerSpec,
    names: &[String],
    directories: &[&Path],
) -> Result<(), Status> {
    if names.is_empty() {
        return Ok(());
    }
    let (known, broken) = devices(directories);
    let unknown: Vec<&str> =
        names.iter().filter(|name| !known.contains_key(*name)).map(String::as_str).collect();
    if !unknown.is_empty() {
        let why = if broken.is_empty() { String::new() } else { format!(" ({})", broken.join("; ")) };
        return Err(failed(format!("unresolvable CDI devices {}{why}", unknown.join(", "))));
    }
    let mut kinds = BTreeSet::new();
    for name in names {
        let (own, common) = &known[name];
        let kind = name.split('=').next().unwrap_or_default();
        // What all devices of a kind need is given once.
        for edits in Some(common).filter(|_| kinds.insert(kind)).into_iter().chain([own]) {
            apply(spec, edits).map_err(|why| failed(format!("{name}: {why}")))?;
        }
    }
    Ok(())
}

/// A device's own edits, and those of its file.
type Known = BTreeMap<String, (Edits, Edits)>;

/// All devices by their whole names, and what is wrong with files.
fn devices(directories: &[&Path]) -> (Known, Vec<String>) {
    let (mut all, mut broken) = (Known::new(), Vec::new());
    for directory in directories {
        let (mut own, mut twice) = (Known::new(), BTreeSet::new());
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let wanted = |path: &PathBuf| {
            matches!(path.extension().and_then(|end| end.to_str()), Some("json" | "yaml" | "yml"))
        };
        for path in paths.iter().filter(|path| wanted(path)) {
            match read(path) {
                Err(why) => broken.push(format!("{}: {why}", path.display())),
                Ok(file) => {
                    for device in file.devices {
                        let name = format!("{}={}", file.kind, device.name);
                        let edits = (device.container_edits, file.container_edits.clone());
                        if own.insert(name.clone(), edits).is_some() {
                            broken.push(format!("{}: conflicting device {name:?}", path.display()));
                            twice.insert(name);
                        }
                    }
                }
            }
        }
        for name in twice {
            own.remove(&name);
            all.remove(&name);
        }
        all.extend(own);
    }
    (all, broken)
}

fn read(path: &Path) -> Result<File, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    // JSON is YAML.
    let file: File = serde_norway::from_str(&text).map_err(|error| error.to_string())?;
    if !file.cdi_version.starts_with("0.") && !file.cdi_version.starts_with("1.") {
        return Err(format!("unknown cdiVersion {:?}", file.cdi_version));
    }
    match file.kind.split_once('/') {
        Some((vendor, class)) if !vendor.is_empty() && !class.is_empty() => Ok(file),
        _ => Err(format!("kind {:?} is not VENDOR/CLASS", file.kind)),
    }
}

fn apply(spec: &mut ContainerSpec, edits: &Edits) -> Result<(), String> {
    for entry in &edits.env {
        let (name, _) = entry.split_once('=').ok_or_else(|| format!("environment {entry:?}"))?;
        let prefix = format!("{name}=");
        spec.process.env.retain(|known| !known.starts_with(&prefix));
        spec.process.env.push(entry.clone());
    }
    for node in &edits.device_nodes {
        let device = device(node)?;
        spec.devices.retain(|known| known.path != device.path);
        spec.devices.push(device);
    }
    for mount in &edits.mounts {
        spec.binds.push(bind(mount)?);
    }
    spec.process.user.groups.extend(edits.additional_gids.iter().filter(|gid| **gid != 0));
    for call in &edits.hooks {
        spec.hooks.push(hook(call, spec.runtime.is_some())?);
    }
    Ok(())
}

/// A device file; what is not said is as on the host.
fn device(node: &Node) -> Result<DeviceFile, String> {
    let path = Path::new(&node.path);
    if !path.is_absolute() || node.path.split('/').any(|part| part == "..") {
        return Err(format!("device {:?} is no absolute path", node.path));
    }
    let on_host = if node.host_path.is_empty() { path } else { Path::new(&node.host_path) };
    let metadata = std::fs::metadata(on_host);
    let found = metadata.as_ref().ok().and_then(|metadata| {
        let kind = metadata.file_type();
        let letter = if kind.is_char_device() { 'c' } else { 'b' };
        (kind.is_char_device() || kind.is_block_device()).then_some((letter, metadata))
    });
    let missing = || match &metadata {
        Err(error) => format!("device {}: {error}", on_host.display()),
        Ok(_) => format!("{} is no device", on_host.display()),
    };
    let kind = match node.kind.as_str() {
        "" => found.map(|(kind, _)| kind).ok_or_else(missing)?,
        "c" | "u" => 'c',
        "b" => 'b',
        other => return Err(format!("device {} of kind {other:?}", node.path)),
    };
    let number = |given: Option<u32>, of: fn(libc::dev_t) -> u32| match (given, found) {
        (Some(number), _) => Ok(number),
        (None, Some((_, metadata))) => Ok(of(metadata.rdev())),
        (None, None) => Err(missing()),
    };
    let mode = found.map_or(0o660, |(_, metadata)| metadata.mode() & 0o777);
    let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
    if !access.chars().all(|letter| "rwm".contains(letter)) {
        return Err(format!("device permissions {access:?}"));
    }
    Ok(DeviceFile {
        path: path.to_owned(),
        kind,
        major: number(node.major, |device| libc::major(device))?,
        minor: number(node.minor, |device| libc::minor(device))?,
        mode: node.file_mode.unwrap_or(mode) & 0o777,
        uid: node.uid.or(found.map(|(_, metadata)| metadata.uid())).unwrap_or(0),
        gid: node.gid.or(found.map(|(_, metadata)| metadata.gid())).unwrap_or(0),
        access: access.to_owned(),
    })
}

fn bind(mount: &Mount) -> Result<Bind, String> {
    let at = mount.container_path.display();
    if !mount.host_path.is_absolute() || !mount.container_path.is_absolute() {
        return Err(format!("mount {at} without absolute paths"));
    }
    if !matches!(mount.kind.as_str(), "" | "bind" | "none") {
        return Err(format!("mount {at} of type {:?}", mount.kind));
    }
    let has = |option: &str| mount.options.iter().any(|one| one == option);
    let of = |one: &str, recursive: &str| has(one) || has(recursive);
    Ok(Bind {
        source: mount.host_path.clone(),
        image: None,
        target: mount.container_path.clone(),
        read_only: has("ro"),
        recursive_read_only: has("rro"),
        propagation: match (of("shared", "rshared"), of("slave", "rslave")) {
            (true, _) => Propagation::Bidirectional,
            (false, true) => Propagation::HostToContainer,
            (false, false) => Propagation::Private,
        },
        mapped: false,
    })
}

fn hook(call: &Call, other_runtime: bool) -> Result<Hook, String> {
    if !call.path.is_absolute() {
        return Err(format!("hook {:?} is no absolute path", call.path));
    }
    // Ours calls while it makes the container's files, which is all that is asked of it in practice.
    if call.hook_name != "createContainer" && !other_runtime {
        return Err(format!("{} hooks are not supported by this runtime handler", call.hook_name));
    }
    Ok(Hook {
        kind: call.hook_name.clone(),
        path: call.path.clone(),
        args: call.args.clone(),
        env: call.env.clone(),
        timeout: call.timeout.filter(|seconds| *seconds > 0).map(Duration::from_secs),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_files() {
        let root = tempfile::tempdir().unwrap();
        let (etc, run) = (root.path().join("etc"), root.path().join("run"));
        for (directory, name, text) in [
            (
                &etc,
                "a.yaml",
                "cdiVersion: 0.6.0\nkind: v.com/gpu\ncontainerEdits:\n  env: [ALL=1]\ndevices:\n- name: '0'\n  containerEdits:\n    deviceNodes:\n    - path: /dev/gpu0\n      hostPath: /dev/null\n      permissions: rw\n    env: [A=etc]\n- name: '1'\n  containerEdits:\n    env: [B=1]\n",
            ),
            (
                &run,
                "b.json",
                r#"{"cdiVersion":"1.0.0","kind":"v.com/gpu","devices":[{"name":"0","containerEdits":{"env":["A=run"],"additionalGids":[0,44],
                  "mounts":[{"hostPath":"/lib","containerPath":"/gpu","options":["ro","rbind"]}],
                  "hooks":[{"hookName":"createContainer","path":"/bin/true","args":["true","x"],"timeout":5}]}}]}"#,
            ),
            (&run, "c.json", r#"{"cdiVersion":"1.0.0","kind":"w.com/x","devices":[{"name":"d"}]}"#),
            (&run, "d.json", r#"{"cdiVersion":"1.0.0","kind":"w.com/x","devices":[{"name":"d"}]}"#),
            (
                &run,
                "e.json",
                r#"{"cdiVersion":"1.0.0","kind":"w.com/y","devices":[{"name":"d","containerEdits":{"netDevices":[]}}]}"#,
            ),
            (&run, "f.txt", "not read"),
        ] {
            std::fs::create_dir_all(directory).unwrap();
            std::fs::write(directory.join(name), text).unwrap();
        }
        let (known, broken) = devices(&[&etc, &run]);
        let names: Vec<&str> = known.keys().map(String::as_str).collect();
        assert_eq!(names, ["v.com/gpu=0", "v.com/gpu=1"], "{broken:?}");
        assert_eq!(broken.len(), 2, "{broken:?}");
        assert!(broken[0].contains("conflicting device \"w.com/x=d\""), "{broken:?}");
        assert!(broken[1].contains("netDevices"), "{broken:?}");
        // The directory that counts more has the device whole.
        let (own, common) = &known["v.com/gpu=0"];
        assert_eq!((own.env.as_slice(), common), (&["A=run".to_owned()][..], &Edits::default()));
        assert!(bind(&own.mounts[0]).unwrap().read_only);
        let found = hook(&own.hooks[0], false).unwrap();
        assert_eq!((found.args.len(), found.timeout), (2, Some(Duration::from_secs(5))));
        let other = Call { hook_name: "poststop".into(), path: "/x".into(), ..Call::default() };
        assert!(hook(&other, false).is_err() && hook(&other, true).is_ok());
        let node = &devices(&[&etc]).0["v.com/gpu=0"].0.device_nodes[0];
        let made = device(node).unwrap();
        assert_eq!((made.kind, made.major, made.minor, made.access.as_str()), ('c', 1, 3, "rw"));
        assert!(device(&Node { path: "/dev/no-such".into(), ..Node::default() }).is_err());
        assert!(device(&Node { path: "/dev/../x".into(), ..Node::default() }).is_err());
    }
}
