//! Which devices there are, how they are, and which container has which. Pure: plugins are asked by the manager.
//!
//! Source of the behaviour and of the messages: upstream's `cm/devicemanager` at v1.36.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Container, Pod};
use podium_plugins::device_plugin as v1beta1;
use serde::{Deserialize, Serialize};

use super::super::numa::{self, Hint, Hints, NodeMask};
use crate::{pod, resources};

/// How long the node still shows the devices of a plugin that is gone, as unhealthy; upstream's `endpointStopGracePeriod`.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(5 * 60);

/// Identifiers of devices of one resource.
pub(crate) type Ids = BTreeSet<String>;

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) healthy: bool,
    /// The nodes it is near to; empty where the plugin does not say.
    pub(crate) nodes: NodeMask,
}

/// A resource that a plugin provides, or has provided.
#[derive(Debug, Clone, Default)]
struct Provided {
    devices: BTreeMap<String, Device>,
    /// Since when its plugin has been gone.
    stopped: Option<Instant>,
}

/// What a container got of one resource.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Granted {
    /// With the nodes each is near to.
    pub(crate) devices: BTreeMap<String, NodeMask>,
    pub(crate) envs: BTreeMap<String, String>,
    /// Path in the container, path on the host, whether read-only.
    pub(crate) mounts: Vec<(String, String, bool)>,
    /// Path in the container, path on the host, permissions.
    pub(crate) nodes: Vec<(String, String, String)>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) cdi: Vec<String>,
}

/// What containers have, by the pod's uid, the container's name and the resource.
type Grants = BTreeMap<String, BTreeMap<String, BTreeMap<String, Granted>>>;

/// What is kept of a [`Pool`] in its checkpoint.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) grants: Grants,
    pub(crate) resources: BTreeSet<String>,
}

/// All devices of the node.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    provided: BTreeMap<String, Provided>,
    grants: Grants,
}

/// How a container comes to the devices it still needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// It has what it needs.
    Nothing,
    /// These.
    Take(Ids),
    /// The plugin may have a wish among several.
    Ask(Question),
}

/// A choice that is left to the plugin, if it wants to make it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// What it may choose from, with what is settled.
    pub(crate) available: Ids,
    /// What is settled.
    pub(crate) settled: Ids,
    /// How many the container gets in all.
    pub(crate) size: usize,
    /// What may be taken without a wish, the better ones first.
    rest: Vec<Ids>,
}

impl Question {
    /// The devices, after the plugin's wish: what it names beyond what may be taken does not count.
    pub(crate) fn settle(self, wish: &Ids) -> Ids {
        let allowed: Ids = self.rest.iter().flatten().cloned().collect();
        let wished = wish.intersection(&allowed).cloned();
        let mut taken = self.settled;
        for id in wished.chain(self.rest.into_iter().flatten()) {
            if taken.len() >= self.size {
                break;
            }
            taken.insert(id);
        }
        taken
    }
}

/// The devices of one answer of a plugin.
pub(crate) fn listed(answer: &v1beta1::ListAndWatchResponse) -> BTreeMap<String, Device> {
    let nodes = |device: &v1beta1::Device| {
        let nodes = device.topology.iter().flat_map(|topology| &topology.nodes);
        nodes.filter_map(|node| usize::try_from(node.id).ok()).collect()
    };
    let device =
        |device: &v1beta1::Device| Device { healthy: device.health == "Healthy", nodes: nodes(device) };
    answer.devices.iter().map(|one| (one.id.clone(), device(one))).collect()
}

/// What the plugin says a container needs for its devices.
pub(crate) fn granted(
    devices: BTreeMap<String, NodeMask>,
    answer: v1beta1::ContainerAllocateResponse,
) -> Granted {
    Granted {
        devices,
        envs: answer.envs.into_iter().collect(),
        mounts: answer
            .mounts
            .into_iter()
            .map(|one| (one.container_path, one.host_path, one.read_only))
            .collect(),
        nodes: answer
            .devices
            .into_iter()
            .map(|one| (one.container_path, one.host_path, one.permissions))
            .collect(),
        annotations: answer.annotations.into_iter().collect(),
        cdi: answer.cdi_devices.into_iter().map(|one| one.name).collect(),
    }
}

impl Pool {
    /// After a restart: what was given stays given. Of every resource there is nothing until its plugin comes back.
    pub(crate) fn recalled(kept: Kept, now: Instant) -> Self {
        let gone = Provided { devices: BTreeMap::new(), stopped: Some(now) };
        let provided = kept.resources.into_iter().map(|name| (name, gone.clone())).collect();
        Self { provided, grants: kept.grants }
    }

    pub(crate) fn kept(&self, now: Instant) -> Kept {
        let resources =
            self.provided.iter().filter(|(_, one)| !one.is_over(now)).map(|(name, _)| name.clone());
        Kept { grants: self.grants.clone(), resources: resources.collect() }
    }

    /// A plugin has said what it has. Gives the uids of the pods that have to say anew how their devices are.
    pub(crate) fn update(&mut self, resource: &str, devices: BTreeMap<String, Device>) -> BTreeSet<String> {
        let before = self.provided.entry(resource.to_owned()).or_default();
        before.stopped = None;
        let health = |list: &BTreeMap<String, Device>, id: &str| list.get(id).map(|one| one.healthy);
        let old = std::mem::take(&mut before.devices);
        let holders = self.holders(resource, |id| health(&old, id) != health(&devices, id));
        self.provided.entry(resource.to_owned()).or_default().devices = devices;
        holders
    }

    /// The plugin is gone, and with it the health of its devices. Gives the pods that have some of them.
    pub(crate) fn stop(&mut self, resource: &str, now: Instant) -> BTreeSet<String> {
        let Some(provided) = self.provided.get_mut(resource) else { return BTreeSet::new() };
        provided.stopped.get_or_insert(now);
        for device in provided.devices.values_mut() {
            device.healthy = false;
        }
        self.holders(resource, |_| true)
    }

    fn holders(&self, resource: &str, of: impl Fn(&str) -> bool) -> BTreeSet<String> {
        let has = |containers: &BTreeMap<String, BTreeMap<String, Granted>>| {
            let granted = containers.values().filter_map(|by_resource| by_resource.get(resource));
            granted.flat_map(|granted| granted.devices.keys()).any(|id| of(id))
        };
        self.grants.iter().filter(|(_, containers)| has(containers)).map(|(uid, _)| uid.clone()).collect()
    }

    /// Whether a plugin has provided this resource, or a container has some of it: other extended resources are none of our
    /// business.
    pub(crate) fn is_ours(&self, resource: &str) -> bool {
        self.provided.contains_key(resource) || self.in_use(resource).next().is_some()
    }

    /// By resource: how many there are, and how many of them are healthy. A resource whose plugin has been gone for long has
    /// none, so that the node says so.
    pub(crate) fn capacity(&self, now: Instant) -> BTreeMap<String, (usize, usize)> {
        let count = |provided: &Provided| {
            if provided.is_over(now) {
                return (0, 0);
            }
            (provided.devices.len(), provided.devices.values().filter(|device| device.healthy).count())
        };
        self.provided.iter().map(|(name, provided)| (name.clone(), count(provided))).collect()
    }

    /// When the next resource runs out because its plugin is gone.
    pub(crate) fn next_expiry(&self, now: Instant) -> Option<Instant> {
        self.provided
            .values()
            .filter(|one| !one.is_over(now))
            .filter_map(|one| Some(one.stopped? + STOP_GRACE))
            .min()
    }

    /// What a container of this kind asks for of the resources that are ours.
    pub(crate) fn wanted(&self, container: &Container) -> Vec<(String, usize)> {
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        limits
            .into_iter()
            .flat_map(BTreeMap::keys)
            .filter(|name| self.is_ours(name))
            .filter_map(|name| {
                let amount = resources::amount(limits, name)?.value();
                Some((name.clone(), usize::try_from(amount).ok().filter(|amount| *amount > 0)?))
            })
            .collect()
    }

    fn in_use<'a>(&'a self, resource: &'a str) -> impl Iterator<Item = &'a String> {
        self.grants
            .values()
            .flat_map(BTreeMap::values)
            .filter_map(move |by_resource| by_resource.get(resource))
            .flat_map(|granted| granted.devices.keys())
    }

    fn healthy(&self, resource: &str) -> Ids {
        let devices = self.provided.get(resource).into_iter().flat_map(|provided| &provided.devices);
        devices.filter(|(_, device)| device.healthy).map(|(id, _)| id.clone()).collect()
    }

    fn nodes_of(&self, resource: &str, id: &str) -> NodeMask {
        let device = self.provided.get(resource).and_then(|provided| provided.devices.get(id));
        device.map(|device| device.nodes).unwrap_or_default()
    }

    /// Of one container.
    pub(crate) fn grant(&self, uid: &str, container: &str, resource: &str) -> Option<&Granted> {
        self.grants(uid, container)?.get(resource)
    }

    /// All that a container has, by resource.
    pub(crate) fn grants(&self, uid: &str, container: &str) -> Option<&BTreeMap<String, Granted>> {
        self.grants.get(uid)?.get(container)
    }

    /// The devices that init containers of this pod no longer need when this container runs, and that nobody took over for
    /// longer.
    fn reusable(&self, wanted: &Pod, container: &str, resource: &str) -> Ids {
        let ids = |container: &Container| {
            let granted = self.grant(pod::uid(wanted), &container.name, resource);
            granted.into_iter().flat_map(|granted| granted.devices.keys().cloned()).collect::<Vec<_>>()
        };
        let inits = pod::init_containers(wanted);
        let passing =
            inits.iter().take_while(|init| init.name != container).filter(|init| !pod::is_sidecar(init));
        let staying = inits.iter().filter(|init| pod::is_sidecar(init)).chain(pod::containers(wanted));
        let kept: Ids = staying.filter(|one| one.name != container).flat_map(&ids).collect();
        passing.flat_map(&ids).filter(|id| !kept.contains(id)).collect()
    }

    /// Decides which devices a container gets. `affinity`: the nodes its resources are to be on, if that was decided.
    pub(crate) fn plan(
        &self,
        wanted: &Pod,
        container: &str,
        resource: &str,
        required: usize,
        affinity: Option<NodeMask>,
    ) -> Result<Plan, String> {
        let have = self.grant(pod::uid(wanted), container, resource).map(|granted| &granted.devices);
        if let Some(have) = have.filter(|have| have.len() != required) {
            return Err(format!(
                "pod {:?} container {container:?} changed request for resource {resource:?} from {} to {required}",
                pod::uid(wanted),
                have.len()
            ));
        }
        if !self.provided.contains_key(resource) {
            return Err(format!("cannot allocate unregistered device {resource}"));
        }
        let healthy = self.healthy(resource);
        if healthy.is_empty() {
            return Err(format!("no healthy devices present; cannot allocate unhealthy devices {resource}"));
        }
        if let Some(have) = have {
            if !have.keys().all(|id| healthy.contains(id)) {
                return Err(format!(
                    "previously allocated devices are no longer healthy; cannot allocate unhealthy devices {resource}"
                ));
            }
            return Ok(Plan::Nothing);
        }
        let reusable = self.reusable(wanted, container, resource);
        let mut settled: Ids = reusable.intersection(&healthy).take(required).cloned().collect();
        if settled.len() == required {
            return Ok(Plan::Take(settled));
        }
        let available = self.available(resource);
        let needed = required - settled.len();
        if available.len() < needed {
            return Err(format!(
                "requested number of devices unavailable for {resource}. Requested: {needed}, Available: {}",
                available.len()
            ));
        }
        let [near, far, anywhere] = self.by_affinity(resource, &available, affinity);
        if needed < near.len() {
            let available = near.union(&settled).cloned().collect();
            return Ok(Plan::Ask(Question { available, settled, size: required, rest: vec![near] }));
        }
        settled.extend(near);
        if settled.len() == required {
            return Ok(Plan::Take(settled));
        }
        let available = available.union(&settled).cloned().collect();
        Ok(Plan::Ask(Question { available, settled, size: required, rest: vec![far, anywhere] }))
    }

    /// Devices on the nodes of the affinity, on others, and those that are on none. Without an affinity all are of the last.
    fn by_affinity(&self, resource: &str, available: &Ids, affinity: Option<NodeMask>) -> [Ids; 3] {
        let mut parts = [Ids::new(), Ids::new(), Ids::new()];
        for id in available {
            let nodes = self.nodes_of(resource, id);
            let part = match affinity {
                Some(affinity) if nodes.overlaps(affinity) => 0,
                Some(_) if !nodes.is_empty() => 1,
                _ => 2,
            };
            parts[part].insert(id.clone());
        }
        parts
    }

    /// With the nodes each device is near to, as a grant keeps them.
    pub(crate) fn located(&self, resource: &str, ids: Ids) -> BTreeMap<String, NodeMask> {
        ids.into_iter().map(|id| (id.clone(), self.nodes_of(resource, &id))).collect()
    }

    /// Notes what a container got.
    pub(crate) fn give(&mut self, uid: &str, container: &str, resource: &str, granted: Granted) {
        let of_pod = self.grants.entry(uid.to_owned()).or_default();
        of_pod.entry(container.to_owned()).or_default().insert(resource.to_owned(), granted);
    }

    /// Takes back what a pod had; whether it had anything.
    pub(crate) fn release(&mut self, uid: &str) -> bool {
        self.grants.remove(uid).is_some()
    }

    /// Takes back what pods had that are not here any more; whether there was anything.
    pub(crate) fn retain(&mut self, known: &dyn Fn(&str) -> bool) -> bool {
        let before = self.grants.len();
        self.grants.retain(|uid, _| known(uid));
        self.grants.len() != before
    }

    /// Whether the plugin says where its devices are.
    fn is_placed(&self, resource: &str) -> bool {
        let known = self.provided.get(resource);
        known.is_some_and(|known| known.devices.values().any(|one| !one.nodes.is_empty()))
    }

    fn available(&self, resource: &str) -> Ids {
        let in_use: Ids = self.in_use(resource).cloned().collect();
        self.healthy(resource).difference(&in_use).cloned().collect()
    }

    /// Where a container's devices could come from.
    pub(crate) fn hints(&self, wanted: &Pod, container: &Container, machine: NodeMask) -> Hints {
        let of = |(resource, required): (String, usize)| {
            let have = self.grant(pod::uid(wanted), &container.name, &resource);
            let hints = self.is_placed(&resource).then(|| match have.map(|have| &have.devices) {
                Some(have) if have.len() == required => {
                    let have = have.keys().cloned().collect();
                    self.hints_among(&resource, required, &Ids::new(), &have, machine)
                }
                Some(_) => Vec::new(),
                None => {
                    let must = self.reusable(wanted, &container.name, &resource);
                    self.hints_among(&resource, required, &must, &self.available(&resource), machine)
                }
            });
            (resource, hints)
        };
        self.wanted(container).into_iter().map(of).collect()
    }

    /// The hints for devices of which some are settled, and the others are among these.
    fn hints_among(
        &self,
        resource: &str,
        required: usize,
        must: &Ids,
        among: &Ids,
        machine: NodeMask,
    ) -> Vec<Hint> {
        if must.len() + among.len() < required {
            return Vec::new();
        }
        let near = |id: &String, mask: NodeMask| self.nodes_of(resource, id).overlaps(mask);
        let all = self.provided.get(resource).map(|provided| &provided.devices);
        numa::hints(
            machine,
            |mask| all.into_iter().flatten().filter(|(_, one)| one.nodes.overlaps(mask)).count() >= required,
            |mask| {
                // What init containers leave has to be on these nodes too.
                must.iter().all(|id| near(id, mask))
                    && must.len() + among.iter().filter(|id| near(id, mask)).count() >= required
            },
        )
    }

    /// Where the devices of all the pod's containers could come from.
    pub(crate) fn pod_hints(&self, wanted: &Pod, machine: NodeMask) -> Hints {
        let all = || pod::containers(wanted).iter().chain(pod::init_containers(wanted));
        let names: BTreeSet<String> = all().flat_map(|one| self.wanted(one)).map(|(name, _)| name).collect();
        let of = |name: String| {
            let count = |one: &Container| {
                self.wanted(one).into_iter().find(|(own, _)| *own == name).map_or(0, |(_, count)| count)
            };
            let required = pod::peak(wanted, count);
            let have: Ids = all()
                .filter_map(|one| self.grant(pod::uid(wanted), &one.name, &name))
                .flat_map(|granted| granted.devices.keys().cloned())
                .collect();
            let hints = self.is_placed(&name).then(|| match have.len() {
                0 => self.hints_among(&name, required, &Ids::new(), &self.available(&name), machine),
                given if given == required => self.hints_among(&name, required, &Ids::new(), &have, machine),
                _ => Vec::new(),
            });
            (name, hints)
        };
        names.into_iter().map(of).collect()
    }

    /// Whether a device is healthy; one that its plugin does not name any more is taken for healthy, as upstream does.
    pub(crate) fn is_healthy(&self, resource: &str, id: &str) -> bool {
        let device = self.provided.get(resource).and_then(|provided| provided.devices.get(id));
        device.is_none_or(|device| device.healthy)
    }

    /// The healthy devices by resource, with the nodes they are near to.
    pub(crate) fn allocatable(&self) -> BTreeMap<String, BTreeMap<String, NodeMask>> {
        self.provided.keys().map(|name| (name.clone(), self.located(name, self.healthy(name)))).collect()
    }
}

impl Provided {
    fn is_over(&self, now: Instant) -> bool {
        self.stopped.is_some_and(|at| now.saturating_duration_since(at) > STOP_GRACE)
    }
}
