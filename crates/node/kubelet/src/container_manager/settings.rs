//! What the managers are told, in the words of KubeletConfiguration, and what it comes to.

use std::{collections::BTreeMap, io, path::PathBuf};

use super::{
    cpu_set::CpuSet,
    cpus,
    hardware::Hardware,
    memory,
    topology::{Policy, Scope},
};

/// More nodes than this make too many sets of nodes, upstream's limit.
const MOST_NODES: u32 = 8;
/// As far as that limit can be raised: with each node twice as many sets have to be looked at.
const LAST_NODES: u32 = 10;

/// The fields of KubeletConfiguration about processors, memory and topology, as they are written there. Empty text stands for
/// the default, which is to manage nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerManagerSettings {
    /// `cpuManagerPolicy`: `none` or `static`.
    pub cpu_manager_policy: String,
    /// `cpuManagerPolicyOptions`.
    pub cpu_manager_policy_options: BTreeMap<String, String>,
    /// `reservedSystemCPUs`, in the kernel's notation.
    pub reserved_system_cpus: String,
    /// What `kubeReserved` and `systemReserved` keep back of processors together, in thousandths.
    pub reserved_cpu_millis: i64,
    /// `memoryManagerPolicy`: `None` or `Static`.
    pub memory_manager_policy: String,
    /// `reservedMemory`: bytes by NUMA node and resource.
    pub reserved_memory: BTreeMap<usize, BTreeMap<String, u64>>,
    /// `topologyManagerPolicy`: `none`, `best-effort`, `restricted` or `single-numa-node`.
    pub topology_manager_policy: String,
    /// `topologyManagerScope`: `container` or `pod`.
    pub topology_manager_scope: String,
    /// `topologyManagerPolicyOptions`.
    pub topology_manager_policy_options: BTreeMap<String, String>,
}

/// Why the managers cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A directory could not be made.
    #[error("making {path}")]
    Directory {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What was given out before cannot be read, or cannot be here: somebody has to look.
    #[error(
        "{message}, please drain this node and delete the {manager} manager checkpoint file {file:?} before restarting Kubelet"
    )]
    Checkpoint {
        /// Whose checkpoint it is.
        manager: &'static str,
        /// Where it is.
        file: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A setting is not one that this kubelet follows.
    #[error("{0}")]
    Invalid(String),
}

fn invalid<T>(text: String) -> Result<T, SettingsError> {
    Err(SettingsError::Invalid(text))
}

fn flag(option: &str, value: &str) -> Result<bool, SettingsError> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => invalid(format!("bad value for option {option:?}: {value:?} is neither true nor false")),
    }
}

/// The topology manager's part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Topology {
    pub(crate) policy: Policy,
    pub(crate) scope: Scope,
    /// `prefer-closest-numa-nodes`.
    pub(crate) closest: bool,
}

impl ContainerManagerSettings {
    /// How much it matters that resources lie together.
    pub(crate) fn topology(&self, hardware: &Hardware) -> Result<Topology, SettingsError> {
        let policy = match self.topology_manager_policy.as_str() {
            "" | "none" => Policy::None,
            "best-effort" => Policy::BestEffort,
            "restricted" => Policy::Restricted,
            "single-numa-node" => Policy::SingleNumaNode,
            other => return invalid(format!("unknown policy: {other:?}")),
        };
        let scope = match self.topology_manager_scope.as_str() {
            "" | "container" => Scope::Container,
            "pod" => Scope::Pod,
            other => return invalid(format!("unknown scope: {other:?}")),
        };
        let (mut closest, mut most) = (false, MOST_NODES);
        for (option, value) in &self.topology_manager_policy_options {
            match option.as_str() {
                "prefer-closest-numa-nodes" => closest = flag(option, value)?,
                "max-allowable-numa-nodes" => match value.parse() {
                    Ok(number) if (MOST_NODES..=LAST_NODES).contains(&number) => most = number,
                    _ => {
                        return invalid(format!(
                            "the value of max-allowable-numa-nodes should be from {MOST_NODES} to {LAST_NODES}, not {value:?}"
                        ));
                    }
                },
                other => return invalid(format!("unknown Topology Manager Policy option: {other:?}")),
            }
        }
        let nodes = hardware.nodes().count();
        if policy != Policy::None && nodes > most {
            return invalid(format!(
                "unsupported on machines with more than {most} NUMA Nodes: there are {nodes}"
            ));
        }
        Ok(Topology { policy, scope, closest })
    }

    /// The processors to manage; None if none are.
    pub(crate) fn cpus(&self, hardware: &Hardware) -> Result<Option<cpus::Pool>, SettingsError> {
        match self.cpu_manager_policy.as_str() {
            "" | "none" => return Ok(None),
            "static" => {}
            other => return invalid(format!("unknown policy: {other:?}")),
        }
        let mut options = cpus::Options::default();
        for (option, value) in &self.cpu_manager_policy_options {
            let place = match option.as_str() {
                "full-pcpus-only" => &mut options.full_physical_only,
                "strict-cpu-reservation" => &mut options.strict_reservation,
                "distribute-cpus-across-numa" => &mut options.distribute_across_numa,
                "prefer-align-cpus-by-uncorecache" => &mut options.prefer_align_by_uncore_cache,
                "align-by-socket" | "distribute-cpus-across-cores" => {
                    return invalid(format!(
                        "CPU Manager Policy Alpha-level Options not enabled, but option {option:?} provided"
                    ));
                }
                other => return invalid(format!("unknown CPU Manager Policy option: {other:?}")),
            };
            *place = flag(option, value)?;
        }
        if options.distribute_across_numa && options.prefer_align_by_uncore_cache {
            return invalid(
                "static policy options PreferAlignByUnCoreCache and DistributeCPUsAcrossNUMA can not be used at the same time"
                    .to_owned(),
            );
        }
        let all = hardware.all();
        let reserved: CpuSet = self
            .reserved_system_cpus
            .parse()
            .map_err(|error| SettingsError::Invalid(format!("reservedSystemCPUs: {error}")))?;
        let reserved = if reserved.is_empty() {
            let count = usize::try_from(self.reserved_cpu_millis.max(0)).unwrap_or(0).div_ceil(1000);
            if count == 0 {
                return invalid(
                    "[cpumanager] the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero"
                        .to_owned(),
                );
            }
            cpus::take(hardware, &all, count, options).map_err(SettingsError::Invalid)?
        } else {
            reserved
        };
        if !all.contains(&reserved) {
            return invalid(format!("[cpumanager] reserved cpus \"{reserved}\" are not all of \"{all}\""));
        }
        Ok(Some(cpus::Pool::new(hardware.clone(), reserved, options)))
    }

    /// The memory to manage; None if none is.
    pub(crate) fn memory(&self, hardware: &Hardware) -> Result<Option<memory::Pool>, SettingsError> {
        match self.memory_manager_policy.as_str() {
            "" | "None" => Ok(None),
            "Static" if hardware.nodes().count() > LAST_NODES => invalid(format!(
                "[memorymanager] unsupported on machines with more than {LAST_NODES} NUMA Nodes"
            )),
            "Static" => memory::Pool::new(&hardware.memory, &self.reserved_memory)
                .map(Some)
                .map_err(SettingsError::Invalid),
            other => invalid(format!("[memorymanager] unknown policy: {other:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::hardware::tests::machine, *};

    fn settings(set: impl Fn(&mut ContainerManagerSettings)) -> ContainerManagerSettings {
        let mut settings = ContainerManagerSettings::default();
        set(&mut settings);
        settings
    }

    #[test]
    fn nothing_is_managed_by_default() {
        let (hardware, settings) = (machine(2, 1, 2, 2), ContainerManagerSettings::default());
        assert!(settings.cpus(&hardware).unwrap().is_none());
        assert!(settings.memory(&hardware).unwrap().is_none());
        assert_eq!(settings.topology(&hardware).unwrap(), Topology::default());
    }

    #[test]
    fn processors_are_reserved_by_name_or_by_number() {
        let hardware = machine(1, 1, 4, 2);
        let mut wanted = settings(|all| {
            all.cpu_manager_policy = "static".into();
            all.reserved_cpu_millis = 1100;
        });
        assert_eq!(wanted.cpus(&hardware).unwrap().unwrap().reserved.to_string(), "0,4", "a whole core");
        wanted.reserved_system_cpus = "1,3".into();
        assert_eq!(wanted.cpus(&hardware).unwrap().unwrap().reserved.to_string(), "1,3");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let hardware = machine(2, 1, 2, 1);
        let fixed = |all: &mut ContainerManagerSettings| {
            all.cpu_manager_policy = "static".into();
            all.reserved_cpu_millis = 1000;
        };
        let option = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        for (wanted, text) in [
            (settings(|all| all.cpu_manager_policy = "dynamic".into()), "unknown policy: \"dynamic\""),
            (settings(|all| all.cpu_manager_policy = "static".into()), "to be greater than zero"),
            (
                settings(|all| {
                    fixed(all);
                    all.reserved_system_cpus = "9".into();
                }),
                "are not all of \"0-3\"",
            ),
            (
                settings(|all| {
                    fixed(all);
                    all.reserved_system_cpus = "x".into();
                }),
                "not a list of processors",
            ),
            (
                settings(|all| {
                    fixed(all);
                    all.cpu_manager_policy_options = option("full-pcpus-only", "yes");
                }),
                "neither true nor false",
            ),
            (
                settings(|all| {
                    fixed(all);
                    all.cpu_manager_policy_options = option("align-by-socket", "true");
                }),
                "CPU Manager Policy Alpha-level Options not enabled",
            ),
            (
                settings(|all| {
                    fixed(all);
                    all.cpu_manager_policy_options = option("x", "true");
                }),
                "unknown CPU Manager Policy option: \"x\"",
            ),
        ] {
            let error = wanted.cpus(&hardware).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
        let error =
            settings(|all| all.memory_manager_policy = "Static".into()).memory(&hardware).unwrap_err();
        assert_eq!(error.to_string(), "[memorymanager] you should specify the system reserved memory");
        let many = machine(9, 1, 1, 1);
        let error =
            settings(|all| all.topology_manager_policy = "restricted".into()).topology(&many).unwrap_err();
        assert!(error.to_string().contains("more than 8 NUMA Nodes"), "{error}");
        let allowed = settings(|all| {
            all.topology_manager_policy = "restricted".into();
            all.topology_manager_policy_options = option("max-allowable-numa-nodes", "10");
        });
        assert_eq!(allowed.topology(&many).unwrap().policy, Policy::Restricted);
    }
}
