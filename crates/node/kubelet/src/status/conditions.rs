//! The conditions a kubelet owns, with upstream's reasons and messages.

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition};

use crate::{
    actions::{SandboxState, sandbox_state},
    pod, rounds,
    status::{Seen, time},
};

/// Types of the conditions this kubelet writes; all others belong to others and are left alone.
pub(crate) const OWNED_CONDITIONS: [&str; 9] = [
    DISRUPTION,
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    PENDING,
    IN_PROGRESS,
    ALL_RESTARTING,
];
/// Those among them that are there only while they are true.
pub(crate) const PASSING_CONDITIONS: [&str; 2] = [PENDING, IN_PROGRESS];

const DISRUPTION: &str = "DisruptionTarget";
const PENDING: &str = "PodResizePending";
const IN_PROGRESS: &str = "PodResizeInProgress";
const ALL_RESTARTING: &str = "AllContainersRestarting";

/// One condition before it has its transition time.
struct Judged {
    met: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Judged {
    fn met() -> Self {
        Self { met: true, reason: None, message: None }
    }

    fn not(reason: &'static str, message: Option<String>) -> Self {
        Self { met: false, reason: Some(reason), message }
    }
}

/// All conditions of [`OWNED_CONDITIONS`], transition times kept where the value is kept.
/// `statuses`: init and regular containers. `early`: the phase is not told yet.
pub(crate) fn owned(
    seen: &Seen<'_>,
    statuses: &[ContainerStatus],
    phase: &str,
    early: bool,
) -> Vec<PodCondition> {
    let sandbox = Judged {
        met: matches!(sandbox_state(seen.pod, seen.record), SandboxState::Serves { .. }),
        reason: None,
        message: None,
    };
    let ready = ready(seen, statuses, phase);
    let judged = [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", initialized(seen, statuses, phase)),
        ("Ready", ready),
        ("ContainersReady", containers_ready(seen, statuses, phase)),
        ("PodScheduled", Judged::met()),
    ];
    let lasting = judged.into_iter().map(|(type_, judged)| condition(seen, type_, judged));
    lasting.chain(restarting(seen, phase)).chain(disrupted(seen, early)).chain(resizing(seen)).collect()
}

/// Whether all containers are being ended to begin anew, for pods with a rule that says so.
fn restarting(seen: &Seen<'_>, phase: &str) -> Option<PodCondition> {
    if !rounds::possible(seen.pod) {
        return None;
    }
    let idle = |reason| Judged { met: false, reason, message: None };
    let judged = match phase {
        "Succeeded" => idle(Some("PodCompleted")),
        "Failed" => idle(Some("PodFailed")),
        _ if rounds::leftovers(seen.pod, seen.record).is_empty() => idle(None),
        _ => Judged {
            met: true,
            reason: Some("RestartAllContainersStarted"),
            message: Some("container exited with restart policy rule".to_owned()),
        },
    };
    Some(condition(seen, ALL_RESTARTING, judged))
}

/// An evicted pod says so for those who make another one, together with its end.
fn disrupted(seen: &Seen<'_>, early: bool) -> Option<PodCondition> {
    if early {
        return None;
    }
    let message = seen.verdict?.disruption.clone()?;
    let judged = Judged { met: true, reason: Some("TerminationByKubelet"), message: Some(message) };
    Some(condition(seen, DISRUPTION, judged))
}

/// Where a resize stands: not granted yet, or granted and not brought about yet.
fn resizing(seen: &Seen<'_>) -> Vec<PodCondition> {
    let mut conditions = Vec::new();
    if let Some(pending) = &seen.resize.pending {
        let message = Some(pending.message.clone());
        let judged = Judged { met: true, reason: Some(pending.reason), message };
        conditions.push(condition(seen, PENDING, judged));
    }
    if let Some((generation, error)) = &seen.resize.progress {
        let reason = error.as_ref().map(|_| "Error");
        let judged = Judged { met: true, reason, message: error.clone() };
        let one = condition(seen, IN_PROGRESS, judged);
        conditions.push(PodCondition { observed_generation: Some(*generation), ..one });
    }
    conditions
}

fn condition(seen: &Seen<'_>, type_: &str, judged: Judged) -> PodCondition {
    let status = if judged.met { "True" } else { "False" };
    let old = seen.old.conditions.iter().flatten().find(|old| old.type_ == type_);
    let transition = old
        .filter(|old| old.status == status)
        .and_then(|old| old.last_transition_time.clone())
        .or_else(|| time(seen.now));
    PodCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: judged.reason.map(str::to_owned),
        message: judged.message,
        last_transition_time: transition,
        observed_generation: seen.pod.metadata.generation,
        ..Default::default()
    }
}

/// Names in the form of Go's `%s` of a list: `[a b]`.
fn list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn problems(unknown: &[&str], others: &[&str], word: &str) -> Option<String> {
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(format!("containers with unknown status: {}", list(unknown)));
    }
    if !others.is_empty() {
        parts.push(format!("containers with {word} status: {}", list(others)));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn initialized(seen: &Seen<'_>, statuses: &[ContainerStatus], phase: &str) -> Judged {
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for container in pod::init_containers(seen.pod) {
        match statuses.iter().find(|status| status.name == container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) => {
                let done =
                    if pod::is_sidecar(container) { status.started == Some(true) } else { status.ready };
                if !done {
                    incomplete.push(container.name.as_str());
                }
            }
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Judged { met: true, reason: Some("PodCompleted"), message: None };
    }
    let ran = |status: &ContainerStatus| {
        let of = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
            state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
        };
        of(&status.state) || of(&status.last_state)
    };
    let regular_ran = pod::containers(seen.pod)
        .iter()
        .any(|container| statuses.iter().any(|status| status.name == container.name && ran(status)));
    match problems(&unknown, &incomplete, "incomplete") {
        Some(message) if !regular_ran => Judged::not("ContainersNotInitialized", Some(message)),
        _ => Judged::met(),
    }
}

fn containers_ready(seen: &Seen<'_>, statuses: &[ContainerStatus], phase: &str) -> Judged {
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    let sidecars = pod::init_containers(seen.pod).iter().filter(|container| pod::is_sidecar(container));
    for container in sidecars.chain(pod::containers(seen.pod)) {
        match statuses.iter().find(|status| status.name == container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    if phase == "Succeeded" && unknown.is_empty() {
        return Judged::not("PodCompleted", None);
    }
    if phase == "Failed" {
        return Judged::not("PodFailed", None);
    }
    match problems(&unknown, &unready, "unready") {
        Some(message) => Judged::not("ContainersNotReady", Some(message)),
        None => Judged::met(),
    }
}

fn ready(seen: &Seen<'_>, statuses: &[ContainerStatus], phase: &str) -> Judged {
    let containers = containers_ready(seen, statuses, phase);
    if !containers.met {
        return containers;
    }
    let conditions =
        seen.pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let gates = seen.pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_deref()).unwrap_or_default();
    let closed: Vec<String> = gates
        .iter()
        .filter_map(|gate| {
            let wanted = &gate.condition_type;
            match conditions.iter().find(|condition| condition.type_ == *wanted) {
                None => {
                    Some(format!("corresponding condition of pod readiness gate {wanted:?} does not exist."))
                }
                Some(found) if found.status != "True" => Some(format!(
                    "the status of pod readiness gate {wanted:?} is not \"True\", but {}",
                    found.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if closed.is_empty() {
        Judged::met()
    } else {
        Judged::not("ReadinessGatesNotReady", Some(closed.join(", ")))
    }
}
