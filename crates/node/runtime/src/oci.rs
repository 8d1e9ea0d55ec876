//! A container's specification as another OCI runtime reads it (`config.json`). Pure. The shim adds what is known there only:
//! the user's numbers and the pod's namespaces. Limits of groups are not in it: the shim makes the
//! container's group with them.
//! Source: OCI runtime specification 1.0.2.

use std::path::Path;

use nix::sys::resource::Resource;
use podium_shim::oci::{SHM, image_name};
use podium_shim::protocol::{Bind, ContainerSpec, DeviceFile, Propagation};
use serde_json::{Value, json};
use tonic::Status;

use crate::capabilities;

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The configuration; `seccomp` is the profile, if there is to be a filter.
pub(crate) fn config(spec: &ContainerSpec, seccomp: Option<Value>) -> Result<Value, Status> {
    let process = &spec.process;
    let has_path = process.env.iter().any(|entry| entry.starts_with("PATH="));
    let env: Vec<&str> =
        process.env.iter().map(String::as_str).chain(Some(PATH).filter(|_| !has_path)).collect();
    let names = capabilities::names;
    let effective = names(process.capabilities.effective & process.capabilities.bounding);
    let ambient = names(process.capabilities.ambient & process.capabilities.effective);
    let mut linux = json!({
        "cgroupsPath": spec.cgroup,
        "maskedPaths": spec.masked_paths,
        "readonlyPaths": spec.readonly_paths,
        "devices": spec.devices.iter().map(device).collect::<Vec<_>>(),
        "resources": {"devices": rules(spec)},
    });
    if let Some(seccomp) = seccomp {
        linux["seccomp"] = seccomp;
    }
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": spec.tty,
            "args": process.args,
            "env": env,
            "cwd": process.cwd,
            "capabilities": {
                "bounding": names(process.capabilities.bounding),
                "effective": effective,
                "permitted": effective,
                "inheritable": ambient,
                "ambient": ambient,
            },
            "noNewPrivileges": process.no_new_privs,
            "rlimits": process.rlimits.iter().map(limit).collect::<Result<Vec<_>, _>>()?,
        },
        "root": {"path": "rootfs", "readonly": spec.rootfs.read_only},
        "mounts": mounts(spec)?,
        "linux": linux,
    });
    if let Some(profile) = &process.apparmor {
        config["process"]["apparmorProfile"] = json!(profile);
    }
    for hook in &spec.hooks {
        let mut one = json!({"path": hook.path, "args": hook.args, "env": hook.env});
        if let Some(timeout) = hook.timeout {
            one["timeout"] = json!(timeout.as_secs().max(1));
        }
        let list = &mut config["hooks"][&hook.kind];
        if list.is_null() {
            *list = json!([]);
        }
        list.as_array_mut().into_iter().for_each(|list| list.push(one.clone()));
    }
    if let Some(score) = process.oom_score_adj {
        config["process"]["oomScoreAdj"] = json!(score);
    }
    Ok(config)
}

fn mounts(spec: &ContainerSpec) -> Result<Vec<Value>, Status> {
    let one = |kind: &str, target: &str, options: &[&str]| json!({"destination": target, "type": kind, "source": kind, "options": options});
    let writable = if spec.privileged { "rw" } else { "ro" };
    let harmless = ["nosuid", "noexec", "nodev"];
    let mut all = vec![
        one("proc", "/proc", &harmless),
        one("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        one(
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        one("mqueue", "/dev/mqueue", &harmless),
        one("sysfs", "/sys", &["nosuid", "noexec", "nodev", writable]),
        one("cgroup", "/sys/fs/cgroup", &["nosuid", "noexec", "nodev", "relatime", writable]),
    ];
    let shm = if spec.host_ipc { "/dev/shm" } else { SHM };
    all.push(json!({"destination": "/dev/shm", "type": "bind", "source": shm, "options": ["rbind"]}));
    for (number, bind) in spec.binds.iter().enumerate() {
        let image = bind.image.as_ref().map(|_| image_name(number));
        let source = image.as_deref().map_or(bind.source.as_path(), Path::new);
        let options = options(bind)?;
        all.push(json!({"destination": bind.target, "type": "bind", "source": source, "options": options}));
    }
    Ok(all)
}

fn options(bind: &Bind) -> Result<Vec<&'static str>, Status> {
    let propagation = match bind.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => {
            // The program sees a copy of the host's mounts, which nothing leads back from.
            let at = bind.target.display();
            return Err(Status::unimplemented(format!(
                "mount {at}: bidirectional propagation is not supported by this runtime handler"
            )));
        }
    };
    let access = match (bind.recursive_read_only, bind.read_only) {
        (true, _) => "rro",
        (false, true) => "ro",
        (false, false) => "rw",
    };
    Ok(vec!["rbind", propagation, access])
}

fn device(device: &DeviceFile) -> Value {
    json!({
        "path": device.path, "type": device.kind, "major": device.major, "minor": device.minor,
        "fileMode": device.mode, "uid": device.uid, "gid": device.gid,
    })
}

/// Who may use which device: nobody any, but for those of the container. The program adds those that every one has.
/// A limit by its name.
fn limit((resource, soft, hard): &(u32, u64, u64)) -> Result<Value, Status> {
    if *resource != Resource::RLIMIT_NOFILE as u32 {
        return Err(Status::internal(format!("resource {resource} has no name here")));
    }
    Ok(json!({"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard}))
}

fn rules(spec: &ContainerSpec) -> Vec<Value> {
    if spec.all_devices {
        return vec![json!({"allow": true, "access": "rwm"})];
    }
    let own = spec.devices.iter().map(|one| {
        json!({
            "allow": true, "type": one.kind, "major": one.major, "minor": one.minor, "access": one.access,
        })
    });
    std::iter::once(json!({"allow": false, "access": "rwm"})).chain(own).collect()
}
