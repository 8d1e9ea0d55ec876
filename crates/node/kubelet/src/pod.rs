//! Questions to ask of a pod's spec: names, kinds of container, restart rules.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, ContainerStatus, Pod, Probe};

/// The pod's uid; every pod from the API has one.
pub(crate) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// The pod's name.
pub(crate) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// The pod's namespace.
pub(crate) fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`, as upstream writes a pod in messages.
pub(crate) fn full_name(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// Annotations of static pods and their mirrors.
pub(crate) const CONFIG_HASH: &str = "kubernetes.io/config.hash";
pub(crate) const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
pub(crate) const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";

fn annotated(pod: &Pod, key: &str) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(key))
}

/// Whether the pod comes from a file of this node and not from the API. Anyone may write the annotation; but what the API
/// gives always has a version, and what is read from files never.
pub(crate) fn is_static(pod: &Pod) -> bool {
    annotated(pod, CONFIG_SOURCE) && pod.metadata.resource_version.is_none()
}

/// Whether the pod is the API's image of a static pod.
pub(crate) fn is_mirror(pod: &Pod) -> bool {
    annotated(pod, CONFIG_MIRROR)
}

/// Whether the pod belongs to the system, and is neither evicted nor killed before others.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    is_static(pod)
        || pod.spec.as_ref().and_then(|spec| spec.priority).is_some_and(|priority| priority >= 2_000_000_000)
}

/// Whether the node itself does not work without the pod. Source: upstream's `IsNodeCriticalPod`.
pub(crate) fn is_node_critical(pod: &Pod) -> bool {
    let class = pod.spec.as_ref().and_then(|spec| spec.priority_class_name.as_deref());
    is_critical(pod) && class == Some("system-node-critical")
}

/// The regular containers.
pub(crate) fn containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map_or(&[], |spec| &spec.containers)
}

/// The init containers, sidecars among them, in order.
pub(crate) fn init_containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default()
}

/// The ephemeral containers in the form of ordinary ones: what differs is only whom they may look at.
pub(crate) fn ephemeral_containers(pod: &Pod) -> Vec<Container> {
    let ephemeral =
        pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.as_deref()).unwrap_or_default();
    ephemeral
        .iter()
        .map(|from| Container {
            args: from.args.clone(),
            command: from.command.clone(),
            env: from.env.clone(),
            env_from: from.env_from.clone(),
            image: from.image.clone(),
            image_pull_policy: from.image_pull_policy.clone(),
            name: from.name.clone(),
            security_context: from.security_context.clone(),
            stdin: from.stdin,
            stdin_once: from.stdin_once,
            termination_message_path: from.termination_message_path.clone(),
            termination_message_policy: from.termination_message_policy.clone(),
            tty: from.tty,
            volume_devices: from.volume_devices.clone(),
            volume_mounts: from.volume_mounts.clone(),
            working_dir: from.working_dir.clone(),
            ..Default::default()
        })
        .collect()
}

/// Which list of the spec a container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ContainerKind {
    /// `initContainers`, sidecars included.
    Init,
    /// `containers`.
    Regular,
    /// `ephemeralContainers`.
    Ephemeral,
}

/// Finds a container of any kind by name.
pub(crate) fn find_container(pod: &Pod, wanted: &str) -> Option<(ContainerKind, Container)> {
    let by_name = |list: &[Container]| list.iter().find(|container| container.name == wanted).cloned();
    by_name(containers(pod))
        .map(|found| (ContainerKind::Regular, found))
        .or_else(|| by_name(init_containers(pod)).map(|found| (ContainerKind::Init, found)))
        .or_else(|| by_name(&ephemeral_containers(pod)).map(|found| (ContainerKind::Ephemeral, found)))
}

/// An init container that runs beside the others for the pod's whole life.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What containers take together at the pod's peak: all that run beside each other, or an init container beside the sidecars
/// that were started before it.
pub(crate) fn peak<T>(pod: &Pod, of: impl Fn(&Container) -> T) -> T
where
    T: Default + Copy + Ord + std::ops::Add<Output = T>,
{
    let (mut sidecars, mut peak) = (T::default(), T::default());
    for container in init_containers(pod) {
        if is_sidecar(container) {
            sidecars = sidecars + of(container);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + of(container));
        }
    }
    containers(pod).iter().fold(sidecars, |sum, container| sum + of(container)).max(peak)
}

/// Whether the pod shares the host's network.
pub(crate) fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// Deletion has been asked for.
pub(crate) fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The pod's own restart policy; the API server fills it in.
pub(crate) fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// Whether the API says that the pod is over.
pub(crate) fn is_terminal_phase(phase: Option<&str>) -> bool {
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The action of a rule that begins all containers anew.
pub(crate) const RESTART_ALL: &str = "RestartAllContainers";

/// The first rule of a container that its exit code meets.
fn rule_for(container: &Container, exit_code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy_rules.iter().flatten().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.as_deref().unwrap_or_default().contains(&exit_code);
            match codes.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                _ => false,
            }
        })
    })
}

/// Whether a container that ended with `exit_code` begins all containers of its pod anew.
pub(crate) fn restarts_all_after(container: &Container, exit_code: i32) -> bool {
    rule_for(container, exit_code).is_some_and(|rule| rule.action == RESTART_ALL)
}

/// Whether a container of this pod that ended with `exit_code` is to be started again: its own rules,
/// then its own policy, then the pod's.
pub(crate) fn restarts_after(pod: &Pod, kind: ContainerKind, container: &Container, exit_code: i32) -> bool {
    if let Some(rule) = rule_for(container, exit_code) {
        return ["Restart", RESTART_ALL].contains(&rule.action.as_str());
    }
    let pod_policy = match (kind, restart_policy(pod)) {
        // An init container that has succeeded is done, whatever the pod's policy.
        (ContainerKind::Init, "Always") => "OnFailure",
        (_, policy) => policy,
    };
    match container.restart_policy.as_deref().unwrap_or(pod_policy) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// Whether a container that had to be killed while running is started again.
pub(crate) fn restarts_after_kill(pod: &Pod, container: &Container) -> bool {
    container.restart_policy.as_deref().unwrap_or(restart_policy(pod)) != "Never"
}

/// What decides whether a running container still is the one asked for: its name and image.
pub(crate) fn container_hash(container: &Container) -> String {
    // FNV-1a: stable over versions of this program, which the standard hasher is not.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let image = container.image.as_deref().unwrap_or_default();
    for byte in container.name.bytes().chain([0]).chain(image.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:x}")
}

/// The three kinds of probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ProbeKind {
    /// Must succeed once before the other two begin.
    Startup,
    /// Failing kills the container.
    Liveness,
    /// Failing takes the pod out of its Services.
    Readiness,
}

impl ProbeKind {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// The probe of this kind in a container's spec.
    pub(crate) fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }

    /// As events name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// The status of one container in a list of them.
pub(crate) fn status_of<'a>(
    statuses: Option<&'a Vec<ContainerStatus>>,
    name: &str,
) -> Option<&'a ContainerStatus> {
    statuses?.iter().find(|status| status.name == name)
}

/// All container statuses of a pod's status, whatever their kind.
pub(crate) fn all_statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    status
        .into_iter()
        .flat_map(|status| {
            [
                &status.init_container_statuses,
                &status.container_statuses,
                &status.ephemeral_container_statuses,
            ]
        })
        .flatten()
        .flatten()
}
