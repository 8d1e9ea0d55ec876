//! Cgroups by way of systemd: groups above containers are slices, which systemd makes, bounds and removes.
//!
//! Source: the properties that upstream's kubelet sets.

use podium_shim::{cgroup::weight_in_proportion, protocol::Resources};
use podium_systemd::{Made, Property, SystemdError, names, properties};
use tokio::runtime::Handle;

use super::Limits;
use crate::resources::CpuBounds;

pub(super) use names::path;

/// The uid of a pod from the name of its slice, as [`path`] makes it.
pub(super) fn pod_uid(slice: &str) -> Option<String> {
    let last = slice.strip_suffix(".slice")?.rsplit('-').next()?;
    Some(last.strip_prefix("pod")?.replace('_', "-"))
}

/// Limits as systemd keeps them. Zero shares and None are not said.
fn bounds(limits: Limits, cpu: CpuBounds, v2: bool) -> Vec<Property> {
    let number = |value: i64| u64::try_from(value).ok();
    let resources = Resources {
        cpu_shares: number(limits.cpu_shares),
        cpu_quota: limits.cpu_quota,
        cpu_period: limits.cpu_quota.and_then(|_| number(cpu.period_micros)),
        memory_limit: limits.memory_bytes,
        pids_limit: limits.pids,
        ..Resources::default()
    };
    properties::of(&resources, v2.then_some(weight_in_proportion))
}

/// A slice's properties when it is made.
fn slice(unit: &str, parent: &str, v2: bool) -> Vec<Property> {
    let accounting = if v2 { "IOAccounting" } else { "BlockIOAccounting" };
    let mut properties: Vec<Property> = vec![
        ("Description", format!("pods of Kubernetes: {unit}").into()),
        ("Wants", vec![parent.to_owned()].into()),
        // A node's pods end by the kubelet's word, not in the order of the machine's units.
        ("DefaultDependencies", false.into()),
    ];
    properties.extend(
        ["CPUAccounting", "MemoryAccounting", "TasksAccounting", accounting].map(|name| (name, true.into())),
    );
    properties
}

/// systemd, for threads that may wait.
#[derive(Debug, Clone)]
pub(crate) struct Systemd {
    systemd: podium_systemd::Systemd,
    runtime: Handle,
}

impl Systemd {
    /// To be called within a runtime.
    pub(crate) fn new(systemd: podium_systemd::Systemd) -> Self {
        Self { systemd, runtime: Handle::current() }
    }

    /// Makes a slice, or bounds one that is there. Blocking; not for a runtime's own threads.
    pub(super) fn make(
        &self,
        path: &str,
        limits: Limits,
        cpu: CpuBounds,
        v2: bool,
    ) -> Result<(), SystemdError> {
        let (unit, parent) = names::units(path);
        let bounds = || bounds(limits, cpu, v2);
        let whole = slice(unit, parent, v2).into_iter().chain(bounds()).collect();
        self.runtime.block_on(async {
            match self.systemd.start(unit, whole).await? {
                Made::New => Ok(()),
                Made::Old => self.systemd.set(unit, bounds()).await,
            }
        })
    }

    /// Removes a slice; one that is gone is well. Blocking, as [`Self::make`].
    pub(super) fn remove(&self, path: &str) -> Result<(), SystemdError> {
        let (unit, _) = names::units(path);
        self.runtime.block_on(self.systemd.stop(unit))
    }
}

#[cfg(test)]
mod tests {
    use podium_systemd::fake::FakeSystemd;

    use super::*;

    #[test]
    fn uids() {
        assert_eq!(pod_uid("kubepods-besteffort-pod1_2_3.slice").as_deref(), Some("1-2-3"));
        assert_eq!(pod_uid("kubepods-podabc.slice").as_deref(), Some("abc"));
        assert_eq!(pod_uid("kubepods-burstable.slice"), None);
        assert_eq!(pod_uid("cri-containerd-pod1.scope"), None);
    }

    #[test]
    fn limits_as_properties() {
        let limits = Limits {
            cpu_shares: 1024,
            cpu_quota: Some(12_345),
            memory_bytes: Some(1 << 30),
            pids: Some(100),
        };
        let shown = |limits: Limits, v2: bool| {
            let cpu = CpuBounds::of(&crate::Configuration::default());
            let of = |(name, value): Property| format!("{name}={}", u64::try_from(value).unwrap());
            bounds(limits, cpu, v2).into_iter().map(of).collect::<Vec<_>>().join(" ")
        };
        let cpu = "CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=130000";
        assert_eq!(shown(limits, true), format!("CPUWeight=39 {cpu} MemoryMax=1073741824 TasksMax=100"));
        assert_eq!(shown(limits, false), format!("CPUShares=1024 {cpu} MemoryLimit=1073741824 TasksMax=100"));
        let open = Limits { cpu_quota: Some(-1), ..Limits::default() };
        assert_eq!(shown(open, true), format!("CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec={}", u64::MAX));
        assert_eq!(shown(Limits::default(), true), "");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn slices_are_made_bounded_and_removed() {
        let Some(fake) = FakeSystemd::start(()).await else { return };
        let systemd = Systemd::new(fake.systemd());
        let group = path(&["kubepods", "burstable", "pod1-2"]);
        let work = tokio::task::spawn_blocking(move || {
            let cpu = CpuBounds::of(&crate::Configuration::default());
            let limits = |pids| Limits { pids: Some(pids), ..Limits::default() };
            systemd.make(&group, limits(5), cpu, true).unwrap();
            systemd.make(&group, limits(7), cpu, true).unwrap();
            systemd.remove(&group).unwrap();
            // Gone already.
            systemd.remove(&group).unwrap();
            systemd.make("/broken.slice", Limits::default(), cpu, true).unwrap_err().to_string()
        });
        assert_eq!(work.await.unwrap(), "systemd did not start broken.slice: its job ended as failed");
        let unit = "kubepods-burstable-pod1_2.slice";
        let accounting = "CPUAccounting=true MemoryAccounting=true TasksAccounting=true IOAccounting=true";
        assert_eq!(
            fake.asked(),
            [
                format!(
                    "start {unit} replace Description=\"pods of Kubernetes: {unit}\" Wants=[\"kubepods-burstable.slice\"] \
                     DefaultDependencies=false {accounting} TasksMax=5"
                ),
                format!("set {unit} TasksMax=7"),
                format!("stop {unit}"),
                format!(
                    "start broken.slice replace Description=\"pods of Kubernetes: broken.slice\" Wants=[\"-.slice\"] \
                     DefaultDependencies=false {accounting}"
                ),
            ]
        );
    }
}
