//! The checks of the Pod Security Standards, each a pure function of a pod (or pod template).
//!
//! Source: the published standards and upstream's `pod-security-admission/policy`, whose reasons and details these are.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Level, Standard, Version};
use crate::admission::containers;
use crate::authorization::go_quote;
use crate::objects::{items, text};

/// What a pod does that the standard forbids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// In a few words: `host namespaces`.
    pub reason: String,
    /// Which containers, which values.
    pub detail: String,
}

fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some(Violation { reason: reason.to_owned(), detail })
}

type Check = fn(&Value, u32) -> Option<Violation>;

/// In the order in which violations are reported.
const BASELINE: [Check; 12] = [
    app_armor,
    capabilities_baseline,
    host_namespaces,
    host_paths,
    host_ports,
    probe_hosts,
    privileged,
    proc_mount_baseline,
    selinux,
    seccomp_baseline,
    sysctls,
    windows_host_process,
];

const RESTRICTED: [Check; 7] = [
    privilege_escalation,
    capabilities_restricted,
    proc_mount_restricted,
    restricted_volumes,
    run_as_non_root,
    run_as_user,
    seccomp_restricted,
];

/// Everything in a pod that the standard forbids; nothing for the privileged level.
pub fn evaluate(pod: &Value, standard: Standard) -> Vec<Violation> {
    let minor = match standard.version {
        Version::Minor(minor) => minor,
        Version::Latest => u32::MAX,
    };
    let restricted = standard.level == Level::Restricted;
    // Restricted checks that say all that a baseline check would say, and more, take its place.
    let overridden = |check: usize| {
        restricted
            && match check {
                1 => minor >= 22,
                3 => true,
                7 => minor >= 35,
                9 => minor >= 19,
                _ => false,
            }
    };
    let baseline = BASELINE.iter().enumerate().filter(|(i, _)| !overridden(*i)).map(|(_, check)| check);
    match standard.level {
        Level::Privileged => Vec::new(),
        Level::Baseline => baseline.filter_map(|check| check(pod, minor)).collect(),
        Level::Restricted => baseline.chain(&RESTRICTED).filter_map(|check| check(pod, minor)).collect(),
    }
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

fn quoted<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> String {
    let all: Vec<String> = values.into_iter().map(|v| format!("\"{}\"", v.as_ref())).collect();
    all.join(", ")
}

/// `container "a"` or `containers "a", "b"`.
fn these(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

/// The names of the containers for which `bad` holds.
fn those<'a>(pod: &'a Value, mut bad: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
    containers(pod).filter(|(_, container)| bad(container)).map(|(_, c)| text(c, "/name")).collect()
}

/// `pod and containers "a", "b"`: who set something, of those who did.
fn setters(pod: bool, names: &[&str]) -> Option<String> {
    match (pod, names.is_empty()) {
        (false, true) => None,
        (true, true) => Some("pod".to_owned()),
        (false, false) => Some(these(names)),
        (true, false) => Some(format!("pod and {}", these(names))),
    }
}

fn pod_context(pod: &Value) -> &Value {
    pod.pointer("/spec/securityContext").unwrap_or(&Value::Null)
}

fn set(value: &Value, field: &str) -> bool {
    value.get(field).is_some_and(|v| !v.is_null())
}

fn windows(pod: &Value) -> bool {
    text(pod, "/spec/os/name") == "windows"
}

/// A pod in its own user namespace: root inside is nobody outside.
fn own_users(pod: &Value) -> bool {
    pod.pointer("/spec/hostUsers") == Some(&Value::Bool(false))
}

fn app_armor(pod: &Value, _: u32) -> Option<Violation> {
    let mut values: BTreeSet<String> = BTreeSet::new();
    let mut bad = |context: &Value| {
        let Some(profile) = context.get("appArmorProfile").filter(|v| !v.is_null()) else { return false };
        let kind = text(profile, "/type");
        let bad = !matches!(kind, "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(kind.to_owned());
        }
        bad
    };
    let pod_bad = bad(pod_context(pod));
    let names = those(pod, |container| bad(&container["securityContext"]));
    let annotations: BTreeSet<String> = pod["metadata"]["annotations"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with("container.apparmor.security.beta.kubernetes.io/"))
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(_, value)| {
            !value.is_empty() && *value != "runtime/default" && !value.starts_with("localhost/")
        })
        .map(|(key, value)| format!("{key}={}", go_quote(value)))
        .collect();
    let mut who: Vec<String> = setters(pod_bad, &names).into_iter().collect();
    if !annotations.is_empty() {
        who.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    if who.is_empty() {
        return None;
    }
    let values: Vec<String> = values.into_iter().chain(annotations).collect();
    violation(
        plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len()),
        format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(&values)),
    )
}

const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Containers that add capabilities other than `allowed`, and which.
fn added<'a>(pod: &'a Value, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<&'a str>) {
    let mut found = BTreeSet::new();
    let names = those(pod, |container| {
        let before = found.len();
        let bad: Vec<&str> = items(container, "/securityContext/capabilities/add")
            .iter()
            .filter_map(Value::as_str)
            .filter(|capability| !allowed.contains(capability))
            .collect();
        found.extend(bad.iter().copied());
        found.len() > before || !bad.is_empty()
    });
    (names, found)
}

fn capabilities_baseline(pod: &Value, _: u32) -> Option<Violation> {
    let (names, found) = added(pod, &DEFAULT_CAPABILITIES);
    if names.is_empty() {
        return None;
    }
    violation(
        "non-default capabilities",
        format!("{} must not include {} in securityContext.capabilities.add", these(&names), quoted(found)),
    )
}

fn capabilities_restricted(pod: &Value, minor: u32) -> Option<Violation> {
    if minor < 22 || (minor >= 25 && windows(pod)) {
        return None;
    }
    let keeping = those(pod, |container| {
        !items(container, "/securityContext/capabilities/drop").iter().any(|capability| capability == "ALL")
    });
    let (adding, found) = added(pod, &["NET_BIND_SERVICE"]);
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", these(&keeping)));
    }
    if !adding.is_empty() {
        let found = quoted(found);
        details
            .push(format!("{} must not include {found} in securityContext.capabilities.add", these(&adding)));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

fn host_namespaces(pod: &Value, _: u32) -> Option<Violation> {
    let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| pod["spec"][**field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if shared.is_empty() { None } else { violation("host namespaces", shared.join(", ")) }
}

fn host_paths(pod: &Value, _: u32) -> Option<Violation> {
    let names: Vec<&str> = items(pod, "/spec/volumes")
        .iter()
        .filter(|volume| set(volume, "hostPath"))
        .map(|volume| text(volume, "/name"))
        .collect();
    if names.is_empty() {
        return None;
    }
    violation("hostPath volumes", format!("{} {}", plural("volume", "volumes", names.len()), quoted(&names)))
}

fn host_ports(pod: &Value, _: u32) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let names = those(pod, |container| {
        let bad: Vec<i64> = items(container, "/ports")
            .iter()
            .filter_map(|port| port["hostPort"].as_i64())
            .filter(|port| *port != 0)
            .collect();
        ports.extend(bad.iter().map(ToString::to_string));
        !bad.is_empty()
    });
    if names.is_empty() {
        return None;
    }
    let ports: Vec<String> = ports.into_iter().collect();
    violation(
        "hostPort",
        format!(
            "{} {} {} {}",
            these(&names),
            plural("uses", "use", names.len()),
            plural("hostPort", "hostPorts", ports.len()),
            ports.join(", ")
        ),
    )
}

const HANDLERS: [&str; 5] =
    ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];

fn probe_hosts(pod: &Value, minor: u32) -> Option<Violation> {
    if minor < 34 {
        return None;
    }
    let mut hosts = BTreeSet::new();
    let mut names = those(pod, |container| {
        let bad: Vec<&str> = HANDLERS
            .iter()
            .filter_map(|pointer| container.pointer(pointer))
            .flat_map(|handler| [text(handler, "/httpGet/host"), text(handler, "/tcpSocket/host")])
            .filter(|host| !host.is_empty())
            .collect();
        hosts.extend(bad.iter().copied());
        !bad.is_empty()
    });
    if names.is_empty() {
        return None;
    }
    names.sort_unstable();
    violation(
        "probe or lifecycle host",
        format!(
            "{} {} {} {}",
            these(&names),
            plural("uses", "use", names.len()),
            plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()),
            quoted(hosts)
        ),
    )
}

fn privileged(pod: &Value, _: u32) -> Option<Violation> {
    let names = those(pod, |container| container["securityContext"]["privileged"] == true);
    if names.is_empty() {
        return None;
    }
    violation("privileged", format!("{} must not set securityContext.privileged=true", these(&names)))
}

fn proc_mount_baseline(pod: &Value, minor: u32) -> Option<Violation> {
    if minor >= 35 && own_users(pod) { None } else { proc_mount(pod) }
}

fn proc_mount_restricted(pod: &Value, minor: u32) -> Option<Violation> {
    if minor >= 35 { proc_mount(pod) } else { None }
}

fn proc_mount(pod: &Value) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let names = those(pod, |container| {
        let kind = container["securityContext"]["procMount"].as_str();
        let bad = kind.filter(|kind| *kind != "Default");
        kinds.extend(bad);
        bad.is_some()
    });
    if names.is_empty() {
        return None;
    }
    violation(
        "procMount",
        format!("{} must not set securityContext.procMount to {}", these(&names), quoted(kinds)),
    )
}

fn selinux(pod: &Value, minor: u32) -> Option<Violation> {
    let (mut kinds, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut bad = |context: &Value| {
        let Some(options) = context.get("seLinuxOptions").filter(|v| !v.is_null()) else { return false };
        let kind = text(options, "/type");
        let kind_good = matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || (minor >= 31 && kind == "container_engine_t");
        if !kind_good {
            kinds.insert(kind.to_owned());
        }
        let (has_user, has_role) = (!text(options, "/user").is_empty(), !text(options, "/role").is_empty());
        user |= has_user;
        role |= has_role;
        !kind_good || has_user || has_role
    };
    let pod_bad = bad(pod_context(pod));
    let names = those(pod, |container| bad(&container["securityContext"]));
    let who = setters(pod_bad, &names)?;
    let mut what = Vec::new();
    if !kinds.is_empty() {
        what.push(format!("{} {}", plural("type", "types", kinds.len()), quoted(&kinds)));
    }
    if user {
        what.push("user may not be set".to_owned());
    }
    if role {
        what.push("role may not be set".to_owned());
    }
    violation(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")),
    )
}

fn seccomp_type(context: &Value) -> Option<&str> {
    context.get("seccompProfile").filter(|v| !v.is_null()).map(|profile| text(profile, "/type"))
}

fn seccomp_good(kind: &str) -> bool {
    matches!(kind, "RuntimeDefault" | "Localhost")
}

fn seccomp_baseline(pod: &Value, minor: u32) -> Option<Violation> {
    if minor < 19 { seccomp_annotations(pod) } else { seccomp_values(pod) }
}

/// Before there was a field for it.
fn seccomp_annotations(pod: &Value) -> Option<Violation> {
    let annotations = &pod["metadata"]["annotations"];
    let keys =
        std::iter::once("seccomp.security.alpha.kubernetes.io/pod".to_owned())
            .chain(containers(pod).map(|(_, c)| {
                format!("container.seccomp.security.alpha.kubernetes.io/{}", text(c, "/name"))
            }));
    let bad: BTreeSet<String> = keys
        .filter_map(|key| {
            let value = annotations.get(&key)?.as_str()?;
            let good =
                matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
            (!good).then(|| format!("{key}={}", go_quote(value)))
        })
        .collect();
    if bad.is_empty() {
        return None;
    }
    let bad: Vec<String> = bad.into_iter().collect();
    let what = plural("annotation", "annotations", bad.len());
    violation("seccompProfile", format!("forbidden {what} {}", bad.join(", ")))
}

fn seccomp_values(pod: &Value) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let mut bad = |context: &Value| {
        let kind = seccomp_type(context).filter(|kind| !seccomp_good(kind));
        kinds.extend(kind.map(str::to_owned));
        kind.is_some()
    };
    let pod_bad = bad(pod_context(pod));
    let names = those(pod, |container| bad(&container["securityContext"]));
    let who = setters(pod_bad, &names)?;
    violation(
        "seccompProfile",
        format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&kinds)),
    )
}

fn seccomp_restricted(pod: &Value, minor: u32) -> Option<Violation> {
    if minor < 19 || (minor >= 25 && windows(pod)) {
        return None;
    }
    if let Some(found) = seccomp_values(pod) {
        return Some(found);
    }
    if seccomp_type(pod_context(pod)).is_some_and(seccomp_good) {
        return None;
    }
    let names = those(pod, |container| seccomp_type(&container["securityContext"]).is_none());
    if names.is_empty() {
        return None;
    }
    violation(
        "seccompProfile",
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            these(&names)
        ),
    )
}

/// Since which minor version a sysctl is safe.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(pod: &Value, minor: u32) -> Option<Violation> {
    let bad: Vec<&str> = items(pod_context(pod), "/sysctls")
        .iter()
        .map(|sysctl| text(sysctl, "/name"))
        .filter(|name| !SYSCTLS.iter().any(|(safe, since)| safe == name && *since <= minor))
        .collect();
    if bad.is_empty() { None } else { violation("forbidden sysctls", bad.join(", ")) }
}

fn windows_host_process(pod: &Value, _: u32) -> Option<Violation> {
    let bad = |context: &Value| context.pointer("/windowsOptions/hostProcess") == Some(&Value::Bool(true));
    let names = those(pod, |container| bad(&container["securityContext"]));
    let who = setters(bad(pod_context(pod)), &names)?;
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn privilege_escalation(pod: &Value, minor: u32) -> Option<Violation> {
    if minor < 8 || (minor >= 25 && windows(pod)) {
        return None;
    }
    let names = those(pod, |container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    if names.is_empty() {
        return None;
    }
    violation(
        "allowPrivilegeEscalation != false",
        format!("{} must set securityContext.allowPrivilegeEscalation=false", these(&names)),
    )
}

const GOOD_VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

const BAD_VOLUMES: [&str; 21] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

fn restricted_volumes(pod: &Value, _: u32) -> Option<Violation> {
    let (mut names, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in items(pod, "/spec/volumes") {
        // A volume without any source is an emptyDir by default.
        let plain =
            volume.as_object().is_some_and(|v| v.iter().all(|(key, value)| key == "name" || value.is_null()));
        if !plain && !GOOD_VOLUMES.iter().any(|kind| set(volume, kind)) {
            names.push(text(volume, "/name"));
            kinds.insert(BAD_VOLUMES.iter().find(|kind| set(volume, kind)).unwrap_or(&"unknown"));
        }
    }
    if names.is_empty() {
        return None;
    }
    violation(
        "restricted volume types",
        format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", names.len()),
            quoted(&names),
            plural("uses", "use", names.len()),
            plural("restricted volume type", "restricted volume types", kinds.len()),
            quoted(kinds)
        ),
    )
}

fn run_as_non_root(pod: &Value, minor: u32) -> Option<Violation> {
    if minor >= 35 && own_users(pod) {
        return None;
    }
    let reason = "runAsNonRoot != true";
    let given = |context: &Value| context.get("runAsNonRoot").and_then(Value::as_bool);
    let of_pod = given(pod_context(pod));
    let explicit = those(pod, |container| given(&container["securityContext"]) == Some(false));
    if let Some(who) = setters(of_pod == Some(false), &explicit) {
        return violation(reason, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let implicit = those(pod, |container| given(&container["securityContext"]).is_none());
    if of_pod == Some(true) || implicit.is_empty() {
        return None;
    }
    violation(reason, format!("pod or {} must set securityContext.runAsNonRoot=true", these(&implicit)))
}

fn run_as_user(pod: &Value, minor: u32) -> Option<Violation> {
    if minor < 23 || (minor >= 35 && own_users(pod)) {
        return None;
    }
    let root = |context: &Value| context["runAsUser"] == 0;
    let names = those(pod, |container| root(&container["securityContext"]));
    let who = setters(root(pod_context(pod)), &names)?;
    violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
}
