//! Security contexts as CRI takes them: pod and container settings merged, and what must be refused.
//!
//! Everything is computed anew for each start, so a restart can never run with less than the spec asks
//! (CVE-2019-11245).

use std::{fs, path::Path, sync::LazyLock};

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext};
use podium_cri::v1;

use crate::pod;

/// Paths a container must not see or write unless it asks for an unmasked /proc; the lists are those
/// of the container runtimes. What a processor consumes tells what it computes (CVE-2020-8694).
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Where processors are, whose throttling counters are masked too.
const PROCESSORS: &str = "/sys/devices/system/cpu";

/// All masked paths of this machine. Source: upstream's `defaultMaskedPaths`.
static MASKED_HERE: LazyLock<Vec<String>> = LazyLock::new(|| masked(Path::new(PROCESSORS)));

fn masked(processors: &Path) -> Vec<String> {
    let entries = fs::read_dir(processors).into_iter().flatten().flatten();
    let mut counters: Vec<String> = entries
        .map(|entry| entry.path().join("thermal_throttle"))
        .filter(|path| path.exists())
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    counters.sort();
    MASKED.iter().map(ToString::to_string).chain(counters).collect()
}

/// The user of an image: a number, or a name that only the image can resolve.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ImageUser {
    pub(crate) uid: Option<i64>,
    pub(crate) name: String,
}

/// Why a container may not run as asked; the text is upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SecurityError {
    #[error("container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})")]
    RootUser { pod: String, container: String },
    #[error("container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})")]
    RootImage { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \"{pod}\", container: {container})"
    )]
    NamedUser { user: String, pod: String, container: String },
    #[error("localhostProfile must be set if {kind} profile type is Localhost.")]
    NoProfile { kind: &'static str },
    #[error("localhostProfile {profile:?} leaves the profile directory")]
    ProfilePath { profile: String },
}

fn pod_context(pod: &Pod) -> Option<&PodSecurityContext> {
    pod.spec.as_ref()?.security_context.as_ref()
}

/// The namespaces of a pod's containers.
pub(crate) fn namespaces(pod: &Pod, users: &v1::UserNamespace) -> v1::NamespaceOption {
    use v1::NamespaceMode as Mode;
    let spec = pod.spec.as_ref();
    let set = |flag: Option<bool>| flag == Some(true);
    let pid = match spec {
        Some(spec) if set(spec.host_pid) => Mode::Node,
        Some(spec) if set(spec.share_process_namespace) => Mode::Pod,
        _ => Mode::Container,
    };
    let ipc = if spec.is_some_and(|spec| set(spec.host_ipc)) { Mode::Node } else { Mode::Pod };
    let network = if pod::host_network(pod) { Mode::Node } else { Mode::Pod };
    v1::NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ipc: ipc.into(),
        userns_options: Some(users.clone()),
        ..Default::default()
    }
}

/// Refuses a container that would run as root against its policy.
pub(crate) fn verify_non_root(
    pod: &Pod,
    container: &Container,
    image: &ImageUser,
) -> Result<(), SecurityError> {
    let (pod_sc, own) = (pod_context(pod), container.security_context.as_ref());
    let non_root = own.and_then(|sc| sc.run_as_non_root).or(pod_sc.and_then(|sc| sc.run_as_non_root));
    if non_root != Some(true) {
        return Ok(());
    }
    let names = || (pod::full_name(pod), container.name.clone());
    let user = own.and_then(|sc| sc.run_as_user).or(pod_sc.and_then(|sc| sc.run_as_user));
    match (user, image.uid) {
        (Some(0), _) => {
            let (pod, container) = names();
            Err(SecurityError::RootUser { pod, container })
        }
        (Some(_), _) => Ok(()),
        (None, Some(0)) => {
            let (pod, container) = names();
            Err(SecurityError::RootImage { pod, container })
        }
        (None, None) if !image.name.is_empty() => {
            let (pod, container) = names();
            Err(SecurityError::NamedUser { user: image.name.clone(), pod, container })
        }
        // An image that names no user at all runs as root.
        (None, None) => {
            let (pod, container) = names();
            Err(SecurityError::RootImage { pod, container })
        }
        (None, Some(_)) => Ok(()),
    }
}

/// A seccomp or AppArmor setting as CRI takes it. `directory` is where local profiles lie.
fn profile(
    kind: &'static str,
    type_: &str,
    local: Option<&str>,
    directory: Option<&str>,
) -> Result<v1::SecurityProfile, SecurityError> {
    use v1::security_profile::ProfileType;
    let (profile_type, localhost_ref) = match type_ {
        "Localhost" => {
            // An empty name would mean no profile at all (CVE-2023-2431).
            let name = local.filter(|name| !name.is_empty()).ok_or(SecurityError::NoProfile { kind })?;
            let reference = match directory {
                Some(_) if name.starts_with('/') || name.split('/').any(|part| part == "..") => {
                    return Err(SecurityError::ProfilePath { profile: name.to_owned() });
                }
                Some(directory) => format!("{directory}/{name}"),
                None => name.to_owned(),
            };
            (ProfileType::Localhost, reference)
        }
        "RuntimeDefault" => (ProfileType::RuntimeDefault, String::new()),
        _ => (ProfileType::Unconfined, String::new()),
    };
    Ok(v1::SecurityProfile { profile_type: profile_type.into(), localhost_ref })
}

/// What the node says of seccomp.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seccomp<'a> {
    /// Where local profiles lie.
    pub(crate) root: &'a str,
    /// `seccompDefault`: who asks for nothing gets the runtime's profile instead of none.
    pub(crate) by_default: bool,
}

fn seccomp(
    pod_level: Option<&SeccompProfile>,
    own: Option<&SeccompProfile>,
    node: Seccomp<'_>,
) -> Result<v1::SecurityProfile, SecurityError> {
    match own.or(pod_level) {
        Some(wanted) => {
            profile("seccomp", &wanted.type_, wanted.localhost_profile.as_deref(), Some(node.root))
        }
        None if node.by_default => profile("seccomp", "RuntimeDefault", None, None),
        None => profile("seccomp", "Unconfined", None, None),
    }
}

/// A container's security context.
pub(crate) fn container_context(
    pod: &Pod,
    container: &Container,
    image: &ImageUser,
    users: &v1::UserNamespace,
    node: Seccomp<'_>,
) -> Result<v1::LinuxContainerSecurityContext, SecurityError> {
    verify_non_root(pod, container, image)?;
    let pod_sc = pod_context(pod);
    let empty = SecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&empty);
    let privileged = own.privileged == Some(true);
    let user = own.run_as_user.or(pod_sc.and_then(|sc| sc.run_as_user));
    let group = own.run_as_group.or(pod_sc.and_then(|sc| sc.run_as_group));
    let seccomp = if privileged {
        profile("seccomp", "Unconfined", None, None)?
    } else {
        seccomp(pod_sc.and_then(|sc| sc.seccomp_profile.as_ref()), own.seccomp_profile.as_ref(), node)?
    };
    let apparmor = own.app_armor_profile.as_ref().or(pod_sc.and_then(|sc| sc.app_armor_profile.as_ref()));
    let apparmor = match apparmor {
        Some(wanted) => Some(profile("AppArmor", &wanted.type_, wanted.localhost_profile.as_deref(), None)?),
        None => None,
    };
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let (masked_paths, readonly_paths) = if unmasked || privileged {
        Default::default()
    } else {
        (MASKED_HERE.clone(), READ_ONLY.map(str::to_owned).into())
    };
    let selinux = own.se_linux_options.as_ref().or(pod_sc.and_then(|sc| sc.se_linux_options.as_ref()));
    // A user may be without a name in the image; then CRI wants the number.
    let by_name = if user.is_none() && image.uid.is_none() { image.name.clone() } else { String::new() };
    let no_new_privs = own.allow_privilege_escalation == Some(false);
    let capabilities = own.capabilities.as_ref();
    Ok(v1::LinuxContainerSecurityContext {
        capabilities: capabilities.map(|wanted| v1::Capability {
            add_capabilities: wanted.add.clone().unwrap_or_default(),
            drop_capabilities: wanted.drop.clone().unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged,
        namespace_options: Some(namespaces(pod, users)),
        selinux_options: selinux.map(|wanted| v1::SeLinuxOption {
            user: wanted.user.clone().unwrap_or_default(),
            role: wanted.role.clone().unwrap_or_default(),
            r#type: wanted.type_.clone().unwrap_or_default(),
            level: wanted.level.clone().unwrap_or_default(),
        }),
        run_as_user: user.or(image.uid.filter(|_| group.is_some() && image.name.is_empty())).map(int),
        run_as_group: group.map(int),
        run_as_username: by_name,
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: groups_policy(pod).into(),
        no_new_privs,
        masked_paths,
        readonly_paths,
        seccomp: Some(seccomp),
        apparmor,
        ..Default::default()
    })
}

/// The sandbox's security context; the pause process needs nothing.
pub(crate) fn sandbox_context(
    pod: &Pod,
    users: &v1::UserNamespace,
    node: Seccomp<'_>,
) -> Result<v1::LinuxSandboxSecurityContext, SecurityError> {
    let pod_sc = pod_context(pod);
    let own_seccomp = pod_sc.and_then(|sc| sc.seccomp_profile.as_ref());
    let seccomp = match own_seccomp {
        Some(_) => seccomp(own_seccomp, None, node)?,
        None => profile("seccomp", "RuntimeDefault", None, None)?,
    };
    let privileged = pod::containers(pod)
        .iter()
        .chain(pod::init_containers(pod))
        .any(|container| container.security_context.as_ref().and_then(|sc| sc.privileged) == Some(true));
    Ok(v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, users)),
        run_as_user: pod_sc.and_then(|sc| sc.run_as_user).map(int),
        run_as_group: pod_sc.and_then(|sc| sc.run_as_user.and(sc.run_as_group)).map(int),
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: groups_policy(pod).into(),
        privileged,
        seccomp: Some(seccomp),
        ..Default::default()
    })
}

fn int(value: i64) -> v1::Int64Value {
    v1::Int64Value { value }
}

fn supplemental_groups(pod: &Pod) -> Vec<i64> {
    let Some(context) = pod_context(pod) else { return Vec::new() };
    let mut groups: Vec<i64> = context.supplemental_groups.clone().unwrap_or_default();
    groups.extend(context.fs_group);
    groups.sort_unstable();
    groups.dedup();
    groups
}

fn groups_policy(pod: &Pod) -> v1::SupplementalGroupsPolicy {
    match pod_context(pod).and_then(|sc| sc.supplemental_groups_policy.as_deref()) {
        Some("Strict") => v1::SupplementalGroupsPolicy::Strict,
        _ => v1::SupplementalGroupsPolicy::Merge,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;

    use super::*;

    fn pod(context: PodSecurityContext) -> Pod {
        Pod {
            spec: Some(PodSpec { security_context: Some(context), ..Default::default() }),
            ..Default::default()
        }
    }

    fn container(context: SecurityContext) -> Container {
        Container { name: "c".into(), security_context: Some(context), ..Default::default() }
    }

    #[test]
    fn non_root_is_enforced() {
        let pod = pod(PodSecurityContext { run_as_non_root: Some(true), ..Default::default() });
        let image = |uid: Option<i64>, name: &str| ImageUser { uid, name: name.into() };
        let with = |user: Option<i64>| container(SecurityContext { run_as_user: user, ..Default::default() });
        for (user, image, ok) in [
            (Some(0), image(Some(1000), ""), false),
            (Some(1000), image(Some(0), ""), true),
            (None, image(Some(0), ""), false),
            (None, image(None, ""), false),
            (None, image(None, "app"), false),
            (None, image(Some(1000), ""), true),
        ] {
            assert_eq!(verify_non_root(&pod, &with(user), &image).is_ok(), ok, "{user:?} {image:?}");
        }
    }

    #[test]
    fn what_processors_consume_is_hidden() {
        let processors = tempfile::tempdir().unwrap();
        let at = |name: &str| processors.path().join(name);
        for name in ["cpu1/thermal_throttle", "cpu0/thermal_throttle", "cpu2/topology", "cpuidle"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        let found = masked(processors.path());
        assert_eq!(found[..MASKED.len()], MASKED);
        assert!(found.iter().any(|path| path == "/sys/devices/virtual/powercap"));
        let counters = ["cpu0", "cpu1"].map(|name| at(name).join("thermal_throttle").display().to_string());
        assert_eq!(found[MASKED.len()..], counters);
        assert_eq!(masked(&at("none")), MASKED);
        let built = |own: SecurityContext| {
            let users = v1::UserNamespace::default();
            let node = Seccomp { root: "/x", by_default: true };
            container_context(&Pod::default(), &container(own), &ImageUser::default(), &users, node)
                .map(|context| (context.masked_paths, context.readonly_paths.len()))
        };
        assert_eq!(built(SecurityContext::default()), Ok((MASKED_HERE.clone(), READ_ONLY.len())));
        let unmasked = SecurityContext { proc_mount: Some("Unmasked".into()), ..Default::default() };
        let privileged = SecurityContext { privileged: Some(true), ..Default::default() };
        for own in [unmasked, privileged] {
            assert_eq!(built(own), Ok((Vec::new(), 0)));
        }
    }

    #[test]
    fn local_profiles() {
        let seccomp = |name: Option<&str>| SecurityContext {
            seccomp_profile: Some(SeccompProfile {
                type_: "Localhost".into(),
                localhost_profile: name.map(str::to_owned),
            }),
            ..Default::default()
        };
        let build = |name| {
            container_context(
                &Pod::default(),
                &container(seccomp(name)),
                &ImageUser::default(),
                &v1::UserNamespace::default(),
                Seccomp { root: "/root/seccomp", by_default: false },
            )
            .map(|context| context.seccomp.unwrap().localhost_ref)
        };
        assert_eq!(build(Some("a/b.json")), Ok("/root/seccomp/a/b.json".into()));
        for bad in [None, Some(""), Some("../x"), Some("/etc/x"), Some("a/../../x")] {
            assert!(build(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn containers_override_their_pod() {
        let pod = pod(PodSecurityContext {
            run_as_user: Some(1),
            fs_group: Some(7),
            supplemental_groups: Some(vec![9, 7]),
            ..Default::default()
        });
        let own = container(SecurityContext {
            run_as_user: Some(2),
            allow_privilege_escalation: Some(false),
            ..Default::default()
        });
        let context = container_context(
            &pod,
            &own,
            &ImageUser::default(),
            &v1::UserNamespace::default(),
            Seccomp { root: "/x", by_default: true },
        )
        .unwrap();
        let default = v1::security_profile::ProfileType::RuntimeDefault;
        assert_eq!(context.seccomp.as_ref().unwrap().profile_type(), default);
        assert_eq!(context.run_as_user.unwrap().value, 2);
        assert_eq!(context.supplemental_groups, [7, 9]);
        assert!(context.no_new_privs && !context.masked_paths.is_empty());
    }
}
