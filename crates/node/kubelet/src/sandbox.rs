//! The pod sandbox as CRI takes it. Pure.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Pod;
use podium_cri::v1;

use crate::{
    network_files::{self, HostResolver},
    pod,
    record::label,
    resources::SandboxResources,
    security::{self, SecurityError},
    sysctls,
};

/// What a sandbox is made from besides the pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) cluster_dns: &'a [IpAddr],
    pub(crate) cluster_domain: &'a str,
    pub(crate) resolver: &'a HostResolver,
    pub(crate) log_root: &'a Path,
    /// The pod's own cgroup; empty if pods have none.
    pub(crate) cgroup_parent: &'a str,
    pub(crate) seccomp: security::Seccomp<'a>,
    pub(crate) users: &'a v1::UserNamespace,
    pub(crate) resources: &'a SandboxResources,
}

/// Why a sandbox cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SandboxError {
    #[error("{0}")]
    Hostname(String),
    #[error(transparent)]
    Security(#[from] SecurityError),
}

/// Where a pod's logs are: `namespace_name_uid` below the root, upstream's layout.
pub(crate) fn log_directory(root: &Path, pod: &Pod) -> PathBuf {
    root.join(format!("{}_{}_{}", pod::namespace(pod), pod::name(pod), pod::uid(pod)))
}

/// The labels by which a pod's sandboxes are found.
pub(crate) fn labels(pod: &Pod) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> =
        pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.insert(label::POD_NAME.to_owned(), pod::name(pod).to_owned());
    labels.insert(label::POD_NAMESPACE.to_owned(), pod::namespace(pod).to_owned());
    labels.insert(label::POD_UID.to_owned(), pod::uid(pod).to_owned());
    labels
}

/// The sandbox of one attempt.
pub(crate) fn config(
    pod: &Pod,
    attempt: u32,
    around: &Surroundings<'_>,
) -> Result<v1::PodSandboxConfig, SandboxError> {
    let spec = pod.spec.as_ref();
    let hostname = if pod::host_network(pod) {
        String::new()
    } else {
        network_files::hostname(pod, around.cluster_domain).map_err(SandboxError::Hostname)?.0
    };
    let sysctls = spec
        .and_then(|spec| spec.security_context.as_ref())
        .and_then(|context| context.sysctls.as_deref())
        .unwrap_or_default()
        .iter()
        .map(|sysctl| (sysctls::normalize(&sysctl.name), sysctl.value.clone()))
        .collect();
    Ok(v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: pod::name(pod).to_owned(),
            uid: pod::uid(pod).to_owned(),
            namespace: pod::namespace(pod).to_owned(),
            attempt,
        }),
        hostname,
        log_directory: log_directory(around.log_root, pod).to_string_lossy().into_owned(),
        dns_config: Some(network_files::dns(pod, around.cluster_dns, around.cluster_domain, around.resolver)),
        port_mappings: port_mappings(pod),
        labels: labels(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: around.cgroup_parent.to_owned(),
            security_context: Some(security::sandbox_context(pod, around.users, around.seccomp)?),
            sysctls,
            overhead: Some(around.resources.overhead.clone()),
            resources: Some(around.resources.own.clone()),
        }),
    })
}

/// The ports of the host that lead into the pod.
pub(crate) fn port_mappings(pod: &Pod) -> Vec<v1::PortMapping> {
    if pod::host_network(pod) {
        return Vec::new();
    }
    let sidecars = pod::init_containers(pod).iter().filter(|container| pod::is_sidecar(container));
    pod::containers(pod)
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let protocol = match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            };
            Some(v1::PortMapping {
                protocol: protocol.into(),
                container_port: port.container_port,
                host_port: port.host_port.filter(|port| *port > 0)?,
                host_ip: port.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}
