//! Who has which processors for itself, and what the others share. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        AllocateError,
        cpu_set::CpuSet,
        hardware::{Hardware, Level},
        numa::{self, Hints, NodeMask},
    },
    take,
};
use crate::{
    pod,
    resources::{self, Qos},
};

/// The options of the static policy that are followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// `full-pcpus-only`: only whole cores are given.
    pub(crate) full_physical_only: bool,
    /// `strict-cpu-reservation`: nobody runs on what is reserved.
    pub(crate) strict_reservation: bool,
    /// `distribute-cpus-across-numa`.
    pub(crate) distribute_across_numa: bool,
    /// `prefer-align-cpus-by-uncorecache`.
    pub(crate) prefer_align_by_uncore_cache: bool,
}

/// What is kept in the checkpoint; field names are upstream's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Kept {
    pub(crate) policy_name: String,
    pub(crate) default_cpu_set: CpuSet,
    /// By the pod's uid and the container's name.
    pub(crate) entries: BTreeMap<String, BTreeMap<String, CpuSet>>,
}

/// The processors of the node under the static policy.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) hardware: Hardware,
    /// Never given out.
    pub(crate) reserved: CpuSet,
    pub(crate) options: Options,
    entries: BTreeMap<String, BTreeMap<String, CpuSet>>,
}

/// How many processors a container gets for itself: as many as it asks for, if its pod is guaranteed and the number is whole. A
/// pod whose resources are given for the whole shares, as upstream has it.
pub(crate) fn wanted(of: &Pod, container: &Container) -> usize {
    let whole_pod = of.spec.as_ref().is_some_and(|spec| spec.resources.is_some());
    if whole_pod || resources::qos(of) != Qos::Guaranteed {
        return 0;
    }
    let Some(cpu) = resources::request(container.resources.as_ref(), "cpu") else { return 0 };
    match cpu.milli_value() {
        millis if millis % 1000 == 0 => usize::try_from(millis / 1000).unwrap_or(0),
        _ => 0,
    }
}

/// How many processors the pod's containers get together.
fn wanted_by_pod(of: &Pod) -> usize {
    pod::peak(of, |container| wanted(of, container))
}

impl Pool {
    /// With nothing given out.
    pub(crate) fn new(hardware: Hardware, reserved: CpuSet, options: Options) -> Self {
        Self { hardware, reserved, options, entries: BTreeMap::new() }
    }

    /// With what was given out before, if that can be on this machine.
    pub(crate) fn recall(&mut self, kept: Kept) -> Result<(), String> {
        self.entries = kept.entries;
        let (all, exclusive) = (self.hardware.all(), self.exclusive());
        if !self.options.strict_reservation && !kept.default_cpu_set.contains(&self.reserved) {
            return Err(format!(
                "not all reserved cpus: \"{}\" are present in defaultCpuSet: \"{}\"",
                self.reserved, kept.default_cpu_set
            ));
        }
        let strictly = self.reserved.and(&kept.default_cpu_set);
        if self.options.strict_reservation && !strictly.is_empty() {
            return Err(format!(
                "some of strictly reserved cpus: \"{strictly}\" are present in defaultCpuSet: \"{}\"",
                kept.default_cpu_set
            ));
        }
        let mut others = CpuSet::default();
        for (uid, containers) in &self.entries {
            // Containers of one pod may have the same ones, one after the other.
            let own = containers.values().fold(CpuSet::default(), |all, cpus| all.union(cpus));
            if !own.and(&others).is_empty() {
                return Err(format!("pod: {uid} cpuset: \"{own}\" overlaps with that of another pod"));
            }
            others = others.union(&own);
            for (name, cpus) in containers {
                if !cpus.and(&kept.default_cpu_set).is_empty() {
                    return Err(format!(
                        "pod: {uid}, container: {name} cpuset: \"{cpus}\" overlaps with default cpuset \"{}\"",
                        kept.default_cpu_set
                    ));
                }
            }
        }
        let mut known = exclusive.union(&kept.default_cpu_set);
        if self.options.strict_reservation {
            known = known.union(&self.reserved);
        }
        if known != all {
            return Err(format!(
                "current set of available CPUs \"{all}\" doesn't match with CPUs in state \"{known}\""
            ));
        }
        Ok(())
    }

    pub(crate) fn kept(&self) -> Kept {
        Kept {
            policy_name: "static".to_owned(),
            default_cpu_set: self.shared(),
            entries: self.entries.clone(),
        }
    }

    pub(crate) fn exclusive(&self) -> CpuSet {
        self.entries.values().flat_map(BTreeMap::values).fold(CpuSet::default(), |all, cpus| all.union(cpus))
    }

    /// Where all run that have nothing for themselves.
    pub(crate) fn shared(&self) -> CpuSet {
        let shared = self.hardware.all().minus(&self.exclusive());
        if self.options.strict_reservation { shared.minus(&self.reserved) } else { shared }
    }

    /// What can be given out.
    pub(crate) fn free(&self) -> CpuSet {
        self.shared().minus(&self.reserved)
    }

    /// What may ever be given out.
    pub(crate) fn allocatable(&self) -> CpuSet {
        self.hardware.all().minus(&self.reserved)
    }

    /// What a container has for itself.
    pub(crate) fn entry(&self, uid: &str, container: &str) -> Option<&CpuSet> {
        self.entries.get(uid)?.get(container)
    }

    /// Where a container runs.
    pub(crate) fn cpus(&self, uid: &str, container: &str) -> CpuSet {
        self.entry(uid, container).cloned().unwrap_or_else(|| self.shared())
    }

    /// What init containers of the pod have that end before this container starts, and that nobody took over who stays.
    fn reusable(&self, of: &Pod, container: &str) -> CpuSet {
        let own = |one: &Container| self.entry(pod::uid(of), &one.name).cloned().unwrap_or_default();
        let inits = pod::init_containers(of);
        let passing =
            inits.iter().take_while(|init| init.name != container).filter(|init| !pod::is_sidecar(init));
        let staying = inits.iter().filter(|init| pod::is_sidecar(init)).chain(pod::containers(of));
        let kept = staying.fold(CpuSet::default(), |all, one| all.union(&own(one)));
        passing.fold(CpuSet::default(), |all, one| all.union(&own(one))).minus(&kept)
    }

    /// Gives a container its processors; whether anything changed. `affinity`: the nodes they are to be on, if that was decided.
    pub(crate) fn allocate(
        &mut self,
        of: &Pod,
        container: &Container,
        affinity: Option<NodeMask>,
    ) -> Result<bool, AllocateError> {
        let count = wanted(of, container);
        if count == 0 {
            return Ok(false);
        }
        if self.options.full_physical_only {
            self.check_cores(count)?;
        }
        if self.entry(pod::uid(of), &container.name).is_some() {
            return Ok(false);
        }
        let free = self.free().union(&self.reusable(of, &container.name));
        let near = affinity.map(|nodes| self.hardware.on(&free, nodes)).unwrap_or_default();
        let first = count.min(near.len());
        let mut cpus = take(&self.hardware, &near, first, self.options)?;
        if first < count {
            cpus = cpus.union(&take(&self.hardware, &free.minus(&cpus), count - first, self.options)?);
        }
        let of_pod = self.entries.entry(pod::uid(of).to_owned()).or_default();
        of_pod.insert(container.name.clone(), cpus);
        Ok(true)
    }

    /// Only whole cores are given: the number has to be one of whole cores, and there have to be as many.
    fn check_cores(&self, count: usize) -> Result<(), AllocateError> {
        let refused = |message: String| AllocateError {
            reason: Some("SMTAlignmentError"),
            message: format!("SMT Alignment Error: {message}"),
        };
        let threads = self.hardware.threads_per_core();
        if !count.is_multiple_of(threads) {
            return Err(refused(format!("requested {count} cpus not multiple cpus per core = {threads}")));
        }
        let cores: BTreeSet<usize> = self.hardware.parts(&self.reserved, Level::Core).into_keys().collect();
        let beside =
            |cpu: &usize| self.hardware.cpus.get(cpu).is_none_or(|place| !cores.contains(&place.core));
        let free = self.shared().iter().filter(beside).count();
        if count > free {
            return Err(refused(format!(
                "not enough free physical CPUs: available physical CPUs = {free}, requested CPUs = {count}, CPUs per core = {threads}"
            )));
        }
        Ok(())
    }

    /// Takes back what a pod had; whether it had anything.
    pub(crate) fn release(&mut self, uid: &str) -> bool {
        self.entries.remove(uid).is_some()
    }

    /// Takes back what pods had that are not `known` any more; whether there was anything.
    pub(crate) fn retain(&mut self, known: &dyn Fn(&str) -> bool) -> bool {
        let before = self.entries.len();
        self.entries.retain(|uid, _| known(uid));
        self.entries.len() != before
    }

    /// Where a container's processors could come from.
    pub(crate) fn hints(&self, of: &Pod, container: &Container) -> Hints {
        let have = self.entry(pod::uid(of), &container.name);
        self.hints_for(wanted(of, container), have, &self.reusable(of, &container.name))
    }

    /// Where the processors of all the pod's containers could come from.
    pub(crate) fn pod_hints(&self, of: &Pod) -> Hints {
        let have = self
            .entries
            .get(pod::uid(of))
            .map(|own| own.values().fold(CpuSet::default(), |all, cpus| all.union(cpus)));
        self.hints_for(wanted_by_pod(of), have.as_ref(), &CpuSet::default())
    }

    fn hints_for(&self, count: usize, have: Option<&CpuSet>, reusable: &CpuSet) -> Hints {
        if count == 0 {
            return Hints::new();
        }
        let (free, must) = match have {
            Some(have) if have.len() == count => (have.clone(), CpuSet::default()),
            Some(_) => return Hints::from([("cpu".to_owned(), Some(Vec::new()))]),
            None => (self.free(), reusable.clone()),
        };
        let all = self.hardware.all();
        let hints = numa::hints(
            self.hardware.nodes(),
            |nodes| self.hardware.on(&all, nodes).len() >= count,
            |nodes| {
                // What init containers leave has to be on these nodes too.
                self.hardware.on(&must, nodes).len() == must.len()
                    && self.hardware.on(&free, nodes).len() + must.len() >= count
            },
        );
        Hints::from([("cpu".to_owned(), Some(hints))])
    }
}
