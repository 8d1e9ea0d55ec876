//! Resizing a running pod in place: what it holds on this node, what it asks for, and what has to be done
//! about the difference. No I/O.
//!
//! The spec says what is wanted. What was granted is the *allocation*: it starts as the spec and follows
//! it as soon as the node has room. What a running container really has is *actual*: it follows the
//! allocation. Everything else in the kubelet sees the pod with its allocation, see [`Resize::apply`].
//! The API keeps both in the container statuses, from where a restarted kubelet reads them.
//!
//! Source of the behaviour: upstream's `allocation` package and `computePodResizeAction` at v1.36.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as WireQuantity,
};
use podium_api::quantity::Quantity;
use serde_json::{Value, json};

use crate::{admission::Refused, pod, record::ContainerRecord, resources};

/// Amounts by container name, of every container that may be resized: regular ones and sidecars.
pub(crate) type Allocation = BTreeMap<String, ResourceRequirements>;
/// What running containers have, by container id.
pub(crate) type Actual = HashMap<String, ResourceRequirements>;

/// Why a wish is not granted yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending {
    /// `Infeasible` or `Deferred`.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What has to happen to a running container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// New limits while it runs.
    Update,
    /// It asked to be restarted for a change of this kind.
    Restart,
}

/// How far a pod's resizing is.
#[derive(Debug, Default)]
pub(crate) struct Resize {
    allocation: Option<Allocation>,
    pub(crate) actual: Actual,
    pub(crate) pending: Option<Pending>,
    /// The generation whose amounts are being brought about, and what went wrong at it.
    pub(crate) progress: Option<(i64, Option<String>)>,
}

impl Resize {
    /// The pod as it was granted. The first call takes what the API remembers, or the spec for a new pod.
    pub(crate) fn apply(&mut self, wanted: &Arc<Pod>) -> Arc<Pod> {
        let allocation = self.allocation.get_or_insert_with(|| recalled(wanted));
        if *allocation == of_spec(wanted) {
            return wanted.clone();
        }
        Arc::new(with(wanted, allocation))
    }

    /// Whether the spec asks for other amounts than were granted.
    pub(crate) fn is_wanted(&self, wanted: &Pod) -> bool {
        self.allocation.as_ref().is_some_and(|have| !alike(have, &of_spec(wanted)))
    }

    /// Grants what the spec asks for, or takes over another spelling of what was granted.
    pub(crate) fn grant(&mut self, wanted: &Pod) {
        self.allocation = Some(of_spec(wanted));
        self.pending = None;
    }

    /// Remembers what a container that was started now has.
    pub(crate) fn started(&mut self, id: &str, container: &Container) {
        self.actual.insert(id.to_owned(), container.resources.clone().unwrap_or_default());
    }

    /// Forgets containers that are gone; takes running ones that an earlier kubelet started from the API's
    /// status of them.
    pub(crate) fn observe(&mut self, pod: &Pod, running: &[&ContainerRecord]) {
        self.actual.retain(|id, _| running.iter().any(|one| one.id == *id));
        for one in running {
            if self.actual.contains_key(&one.id) {
                continue;
            }
            let status = pod::all_statuses(pod)
                .find(|status| status.container_id.as_deref().is_some_and(|id| id.ends_with(&one.id)));
            let known = status.and_then(|status| status.resources.clone());
            let spec = || pod::find_container(pod, &one.name).and_then(|(_, found)| found.resources);
            self.actual.insert(one.id.clone(), known.or_else(spec).unwrap_or_default());
        }
    }
}

/// Judges a wish: more than the node has can never be granted, more than is free now has to wait.
/// `forbidden`: why the pod cannot be resized at all. `fits`: whether it fits beside the other pods.
pub(crate) fn judge(
    wanted: &Pod,
    allocatable: &BTreeMap<String, WireQuantity>,
    forbidden: Option<String>,
    fits: Result<(), Refused>,
) -> Result<(), Pending> {
    if let Some(message) = forbidden {
        return Err(Pending { reason: "Infeasible", message });
    }
    for name in ["cpu", "memory"] {
        let number = |amount: Quantity| if name == "cpu" { amount.milli_value() } else { amount.value() };
        let requested = number(resources::pod_request(wanted, name));
        let capacity = resources::amount(Some(allocatable), name).map_or(0, number);
        if requested > capacity {
            return Err(Pending {
                reason: "Infeasible",
                message: format!(
                    "Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}"
                ),
            });
        }
    }
    match fits {
        Err(refused) if refused.reason.starts_with("OutOf") => {
            Err(Pending { reason: "Deferred", message: refused.message })
        }
        _ => Ok(()),
    }
}

/// What the difference between granted and actual amounts of a running container asks for.
pub(crate) fn change(container: &Container, actual: Option<&ResourceRequirements>) -> Option<Change> {
    let actual = actual?;
    let granted = container.resources.clone().unwrap_or_default();
    let changed: Vec<&str> =
        ["cpu", "memory"].into_iter().filter(|name| !same(&granted, actual, name)).collect();
    if changed.is_empty() {
        return None;
    }
    let restarts = container.resize_policy.iter().flatten().any(|policy| {
        policy.restart_policy == "RestartContainer" && changed.contains(&&*policy.resource_name)
    });
    Some(if restarts { Change::Restart } else { Change::Update })
}

/// The pod with, for each container, the larger of what it has and what it was granted: what its group has
/// to bear while the containers are being changed.
pub(crate) fn peak(pod: &Pod, running: &[&ContainerRecord], actual: &Actual) -> Pod {
    let mut peak = of_spec(pod);
    for (name, granted) in &mut peak {
        let Some(have) = running.iter().find(|one| one.name == *name).and_then(|one| actual.get(&one.id))
        else {
            continue;
        };
        raise(&mut granted.requests, have.requests.as_ref(), false);
        // No limit is more than any limit.
        raise(&mut granted.limits, have.limits.as_ref(), true);
    }
    with(pod, &peak)
}

/// Names a limit that would fall below what is in use, in upstream's words.
pub(crate) fn below_usage(container: &Container, usage_bytes: Option<i64>) -> Option<String> {
    let limit = resources::limit(container.resources.as_ref(), "memory")?.value();
    let usage = usage_bytes?;
    (limit > 0 && usage >= limit)
        .then(|| format!("attempting to set container memory limit ({limit}) below current usage ({usage})"))
}

/// The text of a resize event: the amounts asked for, with the generation that asks.
pub(crate) fn summary(prefix: &str, pod: &Pod, error: Option<&str>) -> String {
    let list = |containers: &[Container]| -> Vec<Value> {
        containers
            .iter()
            .map(|one| json!({"name": one.name, "resources": one.resources.clone().unwrap_or_default()}))
            .collect()
    };
    let mut parts = Vec::new();
    for (key, containers) in
        [("initContainers", pod::init_containers(pod)), ("containers", pod::containers(pod))]
    {
        if !containers.is_empty() {
            parts.push(format!("\"{key}\":{}", Value::Array(list(containers))));
        }
    }
    parts.push(format!("\"generation\":{}", pod.metadata.generation.unwrap_or(0)));
    parts.extend(error.map(|error| format!("\"error\":{}", Value::from(error))));
    format!("{prefix}: {{{}}}", parts.join(","))
}

fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    let sidecars = pod::init_containers(pod).iter().filter(|one| pod::is_sidecar(one));
    sidecars.chain(pod::containers(pod))
}

fn of_spec(pod: &Pod) -> Allocation {
    resizable(pod).map(|one| (one.name.clone(), one.resources.clone().unwrap_or_default())).collect()
}

/// What the API remembers of a pod that was here before: its statuses' amounts, else the spec's.
fn recalled(pod: &Pod) -> Allocation {
    let mut allocation = of_spec(pod);
    for status in pod::all_statuses(pod) {
        let (Some(mine), Some(actual)) = (allocation.get_mut(&status.name), &status.resources) else {
            continue;
        };
        for name in ["cpu", "memory"] {
            carry(&mut mine.requests, status.allocated_resources.as_ref(), name);
            carry(&mut mine.limits, actual.limits.as_ref(), name);
        }
    }
    allocation
}

type Amounts = BTreeMap<String, WireQuantity>;

/// Sets one amount to what another list has, or removes it with it.
fn carry(to: &mut Option<Amounts>, from: Option<&Amounts>, name: &str) {
    match from.and_then(|from| from.get(name)) {
        Some(amount) => {
            to.get_or_insert_default().insert(name.to_owned(), amount.clone());
        }
        None => {
            if let Some(to) = to {
                to.remove(name);
            }
        }
    }
}

/// Raises amounts to what another list has; one that is missing there goes if that means more.
fn raise(to: &mut Option<Amounts>, have: Option<&Amounts>, missing_is_more: bool) {
    let Some(amounts) = to else { return };
    amounts.retain(|name, amount| {
        if !matches!(name.as_str(), "cpu" | "memory") {
            return true;
        }
        let Some(old) = resources::amount(have, name) else { return !missing_is_more };
        let wanted: Option<Quantity> = amount.0.parse().ok();
        if wanted.is_none_or(|wanted| old > wanted)
            && let Some(text) = have.and_then(|have| have.get(name))
        {
            *amount = text.clone();
        }
        true
    });
}

fn same(a: &ResourceRequirements, b: &ResourceRequirements, name: &str) -> bool {
    let of = |list: Option<&Amounts>| resources::amount(list, name).filter(|amount| !amount.is_zero());
    of(a.requests.as_ref()) == of(b.requests.as_ref()) && of(a.limits.as_ref()) == of(b.limits.as_ref())
}

fn alike(a: &Allocation, b: &Allocation) -> bool {
    a.len() == b.len()
        && a.iter().all(|(name, mine)| {
            b.get(name).is_some_and(|other| ["cpu", "memory"].into_iter().all(|kind| same(mine, other, kind)))
        })
}

/// The pod with these amounts of CPU and memory instead of its own.
fn with(pod: &Pod, allocation: &Allocation) -> Pod {
    let mut changed = pod.clone();
    let Some(spec) = changed.spec.as_mut() else { return changed };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let Some(granted) = allocation.get(&container.name) else { continue };
        let mine = container.resources.get_or_insert_default();
        for name in ["cpu", "memory"] {
            carry(&mut mine.requests, granted.requests.as_ref(), name);
            carry(&mut mine.limits, granted.limits.as_ref(), name);
        }
    }
    changed
}

#[cfg(test)]
mod tests;
