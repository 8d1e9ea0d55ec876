//! Resizing a running pod in place: what it holds on this node, what it asks for, and what has to be done
//! about the difference. No I/O.
//!
//! The spec says what is wanted. What was granted is the *allocation*: it starts as the spec and follows
//! it as soon as the node has room. What a running container really has is *actual*: it follows the
//! allocation. Everything else in the kubelet sees the pod with its allocation, see [`Resize::apply`].
//! The same goes for the amounts of the pod as a whole, which its group has. The API keeps both in the
//! statuses of containers and pod, from where a restarted kubelet reads them.
//!
//! Source of the behaviour: upstream's `allocation` package and `computePodResizeAction` at v1.36.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as WireQuantity,
};
use podium_api::quantity::Quantity;
use serde_json::{Value, json};

use crate::{admission::Refused, pod, record::ContainerRecord, resources};

/// What a pod was granted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Allocation {
    /// Of the pod as a whole, where its spec says so.
    pod: Option<ResourceRequirements>,
    /// By container name, of every container that may be resized: regular ones and those that initialise.
    containers: BTreeMap<String, ResourceRequirements>,
}
/// What running containers have, by container id: [`resources::effective`] ones, for limits of the pod are theirs.
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
    /// What the pod's group has. None: there is no group yet.
    group: Option<ResourceRequirements>,
    pub(crate) pending: Option<Pending>,
    /// The generation whose amounts are being brought about, and what went wrong at it.
    pub(crate) progress: Option<(i64, Option<String>)>,
    /// When the work on them began, of this try.
    pub(crate) began: Option<Instant>,
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
    pub(crate) fn started(&mut self, id: &str, pod: &Pod, container: &Container) {
        self.actual.insert(id.to_owned(), resources::effective(container, resources::of_pod(pod)));
    }

    /// Remembers what the pod's group now has.
    pub(crate) fn bounded(&mut self, pod: &Pod) {
        self.group = Some(resources::whole(pod));
    }

    /// What the pod's group has; before there is one, what it will have.
    pub(crate) fn group(&self, pod: &Pod) -> ResourceRequirements {
        self.group.clone().unwrap_or_else(|| resources::whole(pod))
    }

    /// Whether the pod's group has other amounts than the pod was granted.
    pub(crate) fn is_group_behind(&self, pod: &Pod) -> bool {
        let wanted = resources::whole(pod);
        self.group.as_ref().is_some_and(|have| !RESIZABLE.iter().all(|name| same(have, &wanted, name)))
    }

    /// Forgets containers that are gone; takes what an earlier kubelet started from the API's status of it.
    pub(crate) fn observe(&mut self, pod: &Pod, running: &[&ContainerRecord]) {
        self.actual.retain(|id, _| running.iter().any(|one| one.id == *id));
        if self.group.is_none() && !running.is_empty() {
            let known = pod.status.as_ref().and_then(|status| status.resources.clone());
            self.group = Some(known.unwrap_or_else(|| resources::whole(pod)));
        }
        for one in running {
            if self.actual.contains_key(&one.id) {
                continue;
            }
            let status = pod::all_statuses(pod)
                .find(|status| status.container_id.as_deref().is_some_and(|id| id.ends_with(&one.id)));
            let known = status.and_then(|status| status.resources.clone());
            let Some((_, mut container)) = pod::find_container(pod, &one.name) else { continue };
            container.resources = known.or(container.resources);
            let level = self.group.as_ref().and_then(|group| level_in(pod, group));
            self.actual.insert(one.id.clone(), resources::effective(&container, level.as_ref()));
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
    for name in RESIZABLE {
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

/// What another spec asks for of each container, in metrics' words: resource, requirement, and how it changes.
pub(crate) fn asked(old: &Pod, new: &Pod) -> Vec<[&'static str; 3]> {
    let (old, new) = (of_spec(old).containers, of_spec(new).containers);
    let mut found = Vec::new();
    for (name, before) in &old {
        let Some(after) = new.get(name) else { continue };
        for (resource, kind) in
            [("memory", "requests"), ("memory", "limits"), ("cpu", "requests"), ("cpu", "limits")]
        {
            let millis = |of: &ResourceRequirements| {
                let amounts = if kind == "requests" { &of.requests } else { &of.limits };
                resources::amount(amounts.as_ref(), resource).map_or(0, |amount| amount.milli_value())
            };
            let operation = match (millis(before), millis(after)) {
                (before, after) if before == after => continue,
                (0, _) => "add",
                (_, 0) => "remove",
                (before, after) if before < after => "increase",
                _ => "decrease",
            };
            found.push([resource, kind, operation]);
        }
    }
    found
}

/// What the difference between granted and actual amounts of a running container asks for.
pub(crate) fn change(
    pod: &Pod,
    container: &Container,
    actual: Option<&ResourceRequirements>,
) -> Option<Change> {
    let actual = actual?;
    let granted = resources::effective(container, resources::of_pod(pod));
    let changed: Vec<&str> = RESIZABLE.into_iter().filter(|name| !same(&granted, actual, name)).collect();
    if changed.is_empty() {
        return None;
    }
    let restarts = container.resize_policy.iter().flatten().any(|policy| {
        policy.restart_policy == "RestartContainer" && changed.contains(&&*policy.resource_name)
    });
    Some(if restarts { Change::Restart } else { Change::Update })
}

/// What a container has of the amounts that its spec names: without limits that are the pod's.
pub(crate) fn own(have: &ResourceRequirements, container: &Container) -> ResourceRequirements {
    let named = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let mut own = have.clone();
    own.limits = own.limits.filter(|_| named.is_some()).map(|mut limits| {
        limits.retain(|name, _| named.is_some_and(|named| named.contains_key(name)));
        limits
    });
    own
}

/// The pod with, for itself and for each container, the larger of what it has and what it was granted: what
/// its group has to bear while the containers are being changed.
pub(crate) fn peak(pod: &Pod, running: &[&ContainerRecord], resize: &Resize) -> Pod {
    let mut peak = of_spec(pod);
    for (name, granted) in &mut peak.containers {
        let id = running.iter().find(|one| one.name == *name).map(|one| &one.id);
        if let Some(have) = id.and_then(|id| resize.actual.get(id)) {
            raise_all(granted, have);
        }
    }
    let have = resize.group.as_ref().and_then(|group| level_in(pod, group));
    if let (Some(granted), Some(have)) = (&mut peak.pod, have) {
        raise_all(granted, &have);
    }
    with(pod, &peak)
}

fn raise_all(granted: &mut ResourceRequirements, have: &ResourceRequirements) {
    raise(&mut granted.requests, have.requests.as_ref(), false);
    // No limit is more than any limit.
    raise(&mut granted.limits, have.limits.as_ref(), true);
}

/// Names a limit of memory that would fall below what is in use, in upstream's words. `whose`: the container's or the pod's.
/// `before`: the limit there is, None if there is none. One that does not come down kills nobody: what is used up to it may
/// be memory that the kernel takes back.
pub(crate) fn below_usage(
    whose: &str,
    limit: i64,
    before: Option<i64>,
    usage_bytes: Option<i64>,
) -> Option<String> {
    let usage = usage_bytes.filter(|_| before.is_none_or(|before| limit < before))?;
    (limit > 0 && usage >= limit)
        .then(|| format!("attempting to set {whose} memory limit ({limit}) below current usage ({usage})"))
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
    pod::init_containers(pod).iter().chain(pod::containers(pod))
}

/// What can be resized in place.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

fn of_spec(pod: &Pod) -> Allocation {
    let of = |one: &Container| (one.name.clone(), one.resources.clone().unwrap_or_default());
    Allocation { pod: resources::of_pod(pod).cloned(), containers: resizable(pod).map(of).collect() }
}

/// What the API remembers of a pod that was here before: its statuses' amounts, else the spec's.
fn recalled(pod: &Pod) -> Allocation {
    let mut allocation = of_spec(pod);
    for status in pod::all_statuses(pod) {
        let (Some(mine), Some(actual)) = (allocation.containers.get_mut(&status.name), &status.resources)
        else {
            continue;
        };
        for name in RESIZABLE {
            carry(&mut mine.requests, status.allocated_resources.as_ref(), name);
            carry(&mut mine.limits, actual.limits.as_ref(), name);
        }
    }
    let status = pod.status.as_ref();
    if let Some(actual) = status.and_then(|status| status.resources.as_ref()) {
        let requests = status.and_then(|status| status.allocated_resources.clone());
        allocation.pod = level_in(pod, &ResourceRequirements { requests, ..actual.clone() });
    }
    allocation
}

/// The amounts of the pod as a whole, those that its spec names, out of all that its group has: without the overhead of the
/// pod's class, and unlimited where the group is.
fn level_in(pod: &Pod, group: &ResourceRequirements) -> Option<ResourceRequirements> {
    let mut level = resources::of_pod(pod)?.clone();
    let overhead = pod.spec.as_ref().and_then(|spec| spec.overhead.as_ref());
    let own = |have: Option<&Amounts>, name: &str| {
        let above = resources::amount(overhead, name).unwrap_or(Quantity::ZERO);
        Some(WireQuantity((resources::amount(have, name)? - above).to_string()))
    };
    for (mine, have) in
        [(&mut level.requests, group.requests.as_ref()), (&mut level.limits, group.limits.as_ref())]
    {
        let Some(mine) = mine else { continue };
        mine.retain(|name, amount| {
            if !RESIZABLE.contains(&name.as_str()) {
                return true;
            }
            let own = own(have, name);
            own.map(|own| *amount = own).is_some()
        });
    }
    Some(level)
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
        if !RESIZABLE.contains(&name.as_str()) {
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
    let alike = |mine: &ResourceRequirements, other: &ResourceRequirements| {
        RESIZABLE.into_iter().all(|kind| same(mine, other, kind))
    };
    let none = ResourceRequirements::default();
    alike(a.pod.as_ref().unwrap_or(&none), b.pod.as_ref().unwrap_or(&none))
        && a.containers.len() == b.containers.len()
        && a.containers
            .iter()
            .all(|(name, mine)| b.containers.get(name).is_some_and(|other| alike(mine, other)))
}

/// The pod with these amounts of CPU and memory instead of its own.
fn with(pod: &Pod, allocation: &Allocation) -> Pod {
    let mut changed = pod.clone();
    let Some(spec) = changed.spec.as_mut() else { return changed };
    let replace = |mine: &mut ResourceRequirements, granted: &ResourceRequirements| {
        for name in RESIZABLE {
            carry(&mut mine.requests, granted.requests.as_ref(), name);
            carry(&mut mine.limits, granted.limits.as_ref(), name);
        }
    };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let Some(granted) = allocation.containers.get(&container.name) else { continue };
        replace(container.resources.get_or_insert_default(), granted);
    }
    match &allocation.pod {
        Some(granted) => replace(spec.resources.get_or_insert_default(), granted),
        // Nothing but CPU and memory can have been added.
        None => spec.resources = None,
    }
    changed
}

#[cfg(test)]
mod tests;
