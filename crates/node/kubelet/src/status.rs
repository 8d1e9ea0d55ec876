//! The pod's status in the API, computed from what the runtime holds. No I/O or clock.
//!
//! Source of the behaviour: upstream's `kubelet_pods.go` (`generateAPIPodStatus`, `getPhase`),
//! `status/generate.go` and `status/status_manager.go` (`mergePodStatus`) at v1.36.

mod conditions;
mod containers;
mod phase;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{HostIP, Pod, PodIP, PodStatus, ResourceRequirements},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    pod::{self, ProbeKind},
    record::{PodRecord, RunState},
    resize::Resize,
    resources,
};

pub(crate) use conditions::{OWNED_CONDITIONS, PASSING_CONDITIONS};

/// Why a container could not be started the last time: reason and message of its waiting state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StartError {
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// The reason of pods that have to go, or may not come, because the node is short of something.
pub(crate) const EVICTED: &str = "Evicted";

/// What the kubelet decided about a pod as a whole: refused at admission, over its deadline, evicted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) reason: String,
    pub(crate) message: String,
    /// What the `DisruptionTarget` condition says, where the node ended a pod that did nothing wrong.
    pub(crate) disruption: Option<String>,
}

impl Verdict {
    /// The pod has itself to thank, or never ran.
    pub(crate) fn plain(reason: &str, message: String) -> Self {
        Self { reason: reason.to_owned(), message, disruption: None }
    }

    /// The node ends the pod for its own sake.
    pub(crate) fn disrupting(reason: &str, message: String) -> Self {
        Self { disruption: Some(message.clone()), ..Self::plain(reason, message) }
    }
}

/// What a status is computed from.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) record: &'a PodRecord,
    /// The newest status known, ours or the API's.
    pub(crate) old: &'a PodStatus,
    pub(crate) start_errors: &'a BTreeMap<String, StartError>,
    /// Settled probe results by container id.
    pub(crate) probe: &'a dyn Fn(&str, ProbeKind) -> Option<bool>,
    /// Nothing of the pod will run again.
    pub(crate) terminal: bool,
    /// The pod fails for this reason, whatever its containers say, once they have ended.
    pub(crate) verdict: Option<&'a Verdict>,
    /// How far the pod's resizing is.
    pub(crate) resize: &'a Resize,
    pub(crate) host_ips: &'a [String],
    /// How container ids are prefixed: the runtime's name.
    pub(crate) runtime: &'a str,
    pub(crate) now: Timestamp,
}

impl std::fmt::Debug for Seen<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seen")
            .field("record", self.record)
            .field("terminal", &self.terminal)
            .finish_non_exhaustive()
    }
}

/// The whole status as the kubelet would have it, conditions of others excluded.
pub(crate) fn generate(seen: &Seen<'_>) -> PodStatus {
    let Seen { pod, record, old, now, .. } = *seen;
    let mut status = PodStatus {
        start_time: old.start_time.clone().or_else(|| time(now)),
        qos_class: Some(resources::qos(pod).as_str().to_owned()),
        observed_generation: pod.metadata.generation,
        ..Default::default()
    };
    let mut inits = containers::convert(seen, pod::ContainerKind::Init);
    let mut regular = containers::convert(seen, pod::ContainerKind::Regular);
    let ephemeral = containers::convert(seen, pod::ContainerKind::Ephemeral);
    containers::readiness(seen, &mut inits, pod::ContainerKind::Init);
    containers::readiness(seen, &mut regular, pod::ContainerKind::Regular);
    // A regular container has run in this sandbox: whatever sidecars do, the pod has begun.
    let sandbox = record.sandbox().map_or("", |sandbox| sandbox.id.as_str());
    let active = pod::containers(pod).iter().any(|container| {
        record.containers.iter().any(|one| {
            one.name == container.name && one.sandbox_id == sandbox && one.state != RunState::Created
        })
    });
    let all: Vec<_> = regular.iter().chain(&inits).cloned().collect();
    let mut phase = phase::phase(pod, &all, seen.terminal, active);
    let was_over = pod::is_terminal_phase(old.phase.as_deref());
    if seen.verdict.is_some() {
        phase = "Failed";
    } else if !pod::is_terminal_phase(Some(phase)) && was_over {
        // A pod that was over stays over, even if the runtime has forgotten its containers.
        phase = if old.phase.as_deref() == Some("Failed") { "Failed" } else { "Succeeded" };
    }
    if let Some(verdict) = seen.verdict {
        status.reason = Some(verdict.reason.clone());
        status.message = Some(verdict.message.clone());
    } else if Some(phase) == old.phase.as_deref() {
        status.reason.clone_from(&old.reason);
        status.message.clone_from(&old.message);
    }
    // Whoever reads that a pod is over gives away what it held, or makes another: not while anything may still run.
    let early = pod::is_terminal_phase(Some(phase)) && !was_over && !record.is_down();
    let all: Vec<_> = inits.iter().chain(&regular).cloned().collect();
    status.phase = Some(phase.to_owned());
    // The conditions say already how it will be: traffic need not wait for the end.
    status.conditions = Some(conditions::owned(seen, &all, phase, early));
    if early {
        status.phase = old.phase.clone().or_else(|| Some("Pending".to_owned()));
        status.reason.clone_from(&old.reason);
        status.message.clone_from(&old.message);
    }
    status.init_container_statuses = (!inits.is_empty()).then_some(inits);
    status.container_statuses = Some(regular);
    status.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
    amounts(seen, &mut status);
    addresses(seen, &mut status);
    status
}

/// What the pod was granted as a whole, and what its group has.
fn amounts(seen: &Seen<'_>, status: &mut PodStatus) {
    status.allocated_resources = resources::whole(seen.pod).requests;
    let have = seen.resize.group(seen.pod);
    status.resources = (have != ResourceRequirements::default()).then_some(have);
}

fn addresses(seen: &Seen<'_>, status: &mut PodStatus) {
    status.host_ip = seen.host_ips.first().cloned();
    status.host_ips = Some(seen.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
    let mut ips: Vec<String> = if pod::host_network(seen.pod) {
        seen.host_ips.to_vec()
    } else {
        seen.record.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    };
    if ips.is_empty() {
        // A stopped sandbox has lost its address; the status keeps the last one.
        ips = seen.old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    }
    status.pod_ip = ips.first().cloned();
    status.pod_ips = (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect());
}

/// A moment in the precision of the API, whole seconds.
pub(crate) fn time(at: Timestamp) -> Option<Time> {
    Timestamp::from_second(at.as_second()).ok().map(Time)
}

/// CRI's nanoseconds as an API time; zero is no time.
pub(crate) fn cri_time(nanos: i64) -> Option<Time> {
    if nanos == 0 { None } else { Timestamp::from_second(nanos.div_euclid(1_000_000_000)).ok().map(Time) }
}

#[cfg(test)]
mod tests;
