//! Kernel settings that pods may ask for. Pure; names and messages are upstream's (`pkg/kubelet/sysctl`).

use k8s_openapi::api::core::v1::Pod;

use crate::pod;

/// The reason of a pod that asks for others.
pub(crate) const FORBIDDEN: &str = "SysctlForbidden";

/// Settings that concern nobody but the pod. Upstream leaves out what older kernels do not keep by namespace; every kernel
/// that we run on (5.6, for `openat2`) keeps them all so.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// A name with dots between its parts. The first separator says which one separates; the other is part of an interface's
/// name.
pub(crate) fn normalize(name: &str) -> String {
    if !name.find(['.', '/']).is_some_and(|first| name[first..].starts_with('/')) {
        return name.to_owned();
    }
    let swap = |letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swap).collect()
}

/// Settings that are kept by namespace, though they may hurt the node: a node's administrator can allow them. Upstream's list.
const NAMESPACED: [(&str, Namespace); 4] = [
    ("kernel.shm", Namespace::Ipc),
    ("kernel.msg", Namespace::Ipc),
    ("fs.mqueue.", Namespace::Ipc),
    ("net.", Namespace::Net),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

/// The namespace that keeps a setting; None if the whole machine has it in common.
fn namespace_of(name: &str) -> Option<Namespace> {
    if name == "kernel.sem" {
        return Some(Namespace::Ipc);
    }
    NAMESPACED.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, namespace)| *namespace)
}

/// Whether an entry of `allowedUnsafeSysctls` can allow anything: a name that a namespace keeps, or with `*` at its end
/// the beginning of such names.
pub(crate) fn is_pattern(entry: &str) -> bool {
    let name = normalize(entry);
    let stem = name.strip_suffix('*').unwrap_or(&name);
    !stem.is_empty() && !stem.contains('*') && namespace_of(stem).is_some()
}

fn is_allowed(name: &str, unsafe_ones: &[String]) -> bool {
    SAFE.contains(&name)
        || unsafe_ones.iter().any(|entry| {
            let entry = normalize(entry);
            entry.strip_suffix('*').map_or(entry == name, |stem| name.starts_with(stem))
        })
}

/// Why a pod may not have what it asks for; `None` if it may. `unsafe_ones`: `allowedUnsafeSysctls`.
pub(crate) fn forbidden(wanted: &Pod, unsafe_ones: &[String]) -> Option<String> {
    let spec = wanted.spec.as_ref()?;
    let host_ipc = spec.host_ipc == Some(true);
    let asked = spec.security_context.as_ref()?.sysctls.as_deref().unwrap_or_default();
    asked.iter().find_map(|sysctl| {
        let name = normalize(&sysctl.name);
        if !is_allowed(&name, unsafe_ones) {
            return Some(format!("forbidden sysctl: {name:?} not allowlisted"));
        }
        let (host, namespace) = match namespace_of(&name) {
            Some(Namespace::Net) => (pod::host_network(wanted), "Net"),
            _ => (host_ipc, "IPC"),
        };
        host.then(|| format!("forbidden sysctl: {name:?} not allowed with host {namespace} enabled"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(name: &str, host: &Value, expected: Option<&str>) {
        let mut spec =
            json!({"containers": [], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        spec.as_object_mut().unwrap().extend(host.as_object().unwrap().clone());
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        let expected = expected.map(|text| format!("forbidden sysctl: {text}"));
        assert_eq!(
            forbidden(&pod, &["kernel.msg*".to_owned(), "net/core/somaxconn".to_owned()]),
            expected,
            "{name}"
        );
    }

    #[test]
    fn only_what_concerns_the_pod_alone() {
        for name in SAFE {
            check(name, &json!({}), None);
            check(&name.replace('.', "/"), &json!({}), None);
        }
        check("kernel.core_pattern", &json!({}), Some(r#""kernel.core_pattern" not allowlisted"#));
        check("kernel/core_pattern", &json!({}), Some(r#""kernel.core_pattern" not allowlisted"#));
        check("kernel.shmmax", &json!({}), Some(r#""kernel.shmmax" not allowlisted"#));
        check("net.core.rmem_max", &json!({}), Some(r#""net.core.rmem_max" not allowlisted"#));
        check("vm.swappiness", &json!({}), Some(r#""vm.swappiness" not allowlisted"#));
    }

    #[test]
    fn nothing_of_the_hosts_namespaces() {
        let (network, ipc) = (json!({"hostNetwork": true}), json!({"hostIPC": true}));
        let (port, shm) = ("net.ipv4.ip_local_port_range", "kernel.shm_rmid_forced");
        check(port, &network, Some(r#""net.ipv4.ip_local_port_range" not allowed with host Net enabled"#));
        check(port, &ipc, None);
        check(shm, &ipc, Some(r#""kernel.shm_rmid_forced" not allowed with host IPC enabled"#));
        check(shm, &network, None);
    }

    #[test]
    fn unsafe_ones_that_are_allowed() {
        check("kernel.msgmax", &json!({}), None);
        check("kernel/msgmax", &json!({}), None);
        check("net.core.somaxconn", &json!({}), None);
        let host = json!({"hostNetwork": true, "hostIPC": true});
        check("kernel.msgmax", &host, Some(r#""kernel.msgmax" not allowed with host IPC enabled"#));
        check("net.core.somaxconn", &host, Some(r#""net.core.somaxconn" not allowed with host Net enabled"#));
        for (entry, fits) in [
            ("kernel.msg*", true),
            ("kernel.sem", true),
            ("net.*", true),
            ("net/core/somaxconn", true),
            ("kernel.*", false),
            ("vm.swappiness", false),
            ("*", false),
            ("", false),
        ] {
            assert_eq!(is_pattern(entry), fits, "{entry}");
        }
    }

    #[test]
    fn names_with_slashes() {
        for (name, expected) in [
            ("net.ipv4.conf.eno2/100.rp_filter", "net.ipv4.conf.eno2/100.rp_filter"),
            ("net/ipv4/conf/eno2.100/rp_filter", "net.ipv4.conf.eno2/100.rp_filter"),
            ("kernel/shm_rmid_forced", "kernel.shm_rmid_forced"),
            ("", ""),
        ] {
            assert_eq!(normalize(name), expected);
        }
    }
}
