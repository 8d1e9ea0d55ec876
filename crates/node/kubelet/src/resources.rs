//! Requests and limits: quality of service, and what the runtime is told.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as WireQuantity,
};
use podium_api::quantity::Quantity;
use podium_cri::v1;

use crate::{
    Configuration,
    cgroups::Limits,
    huge_pages::{self, PageSizes},
    pod,
};

/// One CPU in shares, and the least the kernel takes.
const SHARES_PER_CPU: i64 = 1024;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// The least CFS quota the kernel takes.
const MIN_QUOTA_MICROS: i64 = 1_000;

/// How a pod is treated when memory runs short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    /// As `status.qosClass` has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

type Amounts = BTreeMap<String, WireQuantity>;

/// An amount from a list of resources, None if absent or not a quantity.
pub(crate) fn amount(list: Option<&Amounts>, name: &str) -> Option<Quantity> {
    list?.get(name)?.0.parse().ok()
}

/// A container's request; where there is none, its limit stands for it, as the API server defaults it.
pub(crate) fn request(resources: Option<&ResourceRequirements>, name: &str) -> Option<Quantity> {
    let resources = resources?;
    amount(resources.requests.as_ref(), name).or_else(|| amount(resources.limits.as_ref(), name))
}

/// A container's limit.
pub(crate) fn limit(resources: Option<&ResourceRequirements>, name: &str) -> Option<Quantity> {
    amount(resources?.limits.as_ref(), name)
}

/// The amounts of the pod as a whole, if it names some.
pub(crate) fn of_pod(pod: &Pod) -> Option<&ResourceRequirements> {
    pod.spec.as_ref()?.resources.as_ref()
}

/// What a container has in effect: where it has no limit of CPU or memory itself, that of the pod as a whole is its own.
pub(crate) fn effective(container: &Container, pod: Option<&ResourceRequirements>) -> ResourceRequirements {
    let mut all = container.resources.clone().unwrap_or_default();
    for name in ["cpu", "memory"] {
        let own = amount(all.limits.as_ref(), name).is_some_and(|own| !own.is_zero());
        if let Some(of_pod) = pod.and_then(|pod| pod.limits.as_ref()?.get(name)).filter(|_| !own) {
            all.limits.get_or_insert_default().insert(name.to_owned(), of_pod.clone());
        }
    }
    all
}

/// All that a pod takes of the resources it names, and all that bounds it.
pub(crate) fn whole(pod: &Pod) -> ResourceRequirements {
    let requests = named(pod, |resources| resources.requests.as_ref(), |name| Some(pod_request(pod, name)));
    let limits = named(pod, |resources| resources.limits.as_ref(), |name| pod_limit(pod, name));
    let some = |list: Amounts| Some(list).filter(|list| !list.is_empty());
    ResourceRequirements { requests: some(requests), limits: some(limits), claims: None }
}

fn named(
    pod: &Pod,
    list: impl Fn(&ResourceRequirements) -> Option<&Amounts>,
    amount: impl Fn(&str) -> Option<Quantity>,
) -> Amounts {
    let containers = pod::containers(pod).iter().chain(pod::init_containers(pod));
    let own = of_pod(pod);
    containers
        .filter_map(|container| container.resources.as_ref())
        .chain(own)
        .flat_map(|resources| list(resources).into_iter().flatten())
        .filter_map(|(name, _)| Some((name.clone(), WireQuantity(amount(name)?.to_string()))))
        .collect()
}

/// The class the API server gave the pod, or the one its containers make.
pub(crate) fn qos(pod: &Pod) -> Qos {
    match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        Some("Guaranteed") => return Qos::Guaranteed,
        Some("Burstable") => return Qos::Burstable,
        Some("BestEffort") => return Qos::BestEffort,
        _ => {}
    }
    let pod_level = of_pod(pod);
    let lists: Vec<Option<&ResourceRequirements>> = if pod_level.is_some() {
        vec![pod_level]
    } else {
        pod::containers(pod).iter().chain(pod::init_containers(pod)).map(|c| c.resources.as_ref()).collect()
    };
    let positive = |amount: Option<Quantity>| amount.filter(|amount| *amount > Quantity::ZERO);
    let (mut any, mut guaranteed) = (false, true);
    for resources in lists {
        for name in ["cpu", "memory"] {
            let (request, limit) = (positive(request(resources, name)), positive(limit(resources, name)));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// What a pod takes of one resource: its containers together, or its largest init container beside the
/// sidecars started before it, plus the overhead.
pub(crate) fn pod_request(pod: &Pod, name: &str) -> Quantity {
    pod_total(pod, name, |resources| request(resources, name))
}

/// The pod's limit on one resource; None if some container has none.
pub(crate) fn pod_limit(pod: &Pod, name: &str) -> Option<Quantity> {
    let bounded = limit(of_pod(pod), name).is_some()
        || pod::containers(pod)
            .iter()
            .chain(pod::init_containers(pod))
            .all(|container| limit(container.resources.as_ref(), name).is_some());
    bounded.then(|| pod_total(pod, name, |resources| limit(resources, name)))
}

fn pod_total(
    pod: &Pod,
    name: &str,
    of: impl Fn(Option<&ResourceRequirements>) -> Option<Quantity>,
) -> Quantity {
    own_total(pod, of) + overhead(pod, name)
}

/// What its containers take of a resource, without the overhead.
fn own_total(pod: &Pod, of: impl Fn(Option<&ResourceRequirements>) -> Option<Quantity>) -> Quantity {
    let get = |container: &Container| of(container.resources.as_ref()).unwrap_or(Quantity::ZERO);
    of(of_pod(pod)).unwrap_or_else(|| pod::peak(pod, get))
}

/// What running the pod takes besides.
fn overhead(pod: &Pod, name: &str) -> Quantity {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| amount(spec.overhead.as_ref(), name)).unwrap_or(Quantity::ZERO)
}

/// The limits of a group that these amounts are reserved for.
pub(crate) fn reserved_limits(amounts: &crate::Amounts) -> Limits {
    let amount = |name: &str| amounts.get(name).and_then(|text| text.parse::<Quantity>().ok());
    let value = |name: &str| amount(name).map(|amount| amount.value()).filter(|value| *value > 0);
    Limits {
        cpu_shares: amount("cpu").map_or(0, |cpu| shares(cpu.milli_value())),
        cpu_quota: None,
        memory_bytes: value("memory"),
        pids: value("pid"),
    }
}

/// CPU in thousandths as cgroup shares.
pub(crate) fn shares(millis: i64) -> i64 {
    (millis * SHARES_PER_CPU / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// How limits of CPU are held: `cpuCFSQuota` and `cpuCFSQuotaPeriod`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuBounds {
    enforced: bool,
    pub(crate) period_micros: i64,
}

impl CpuBounds {
    pub(crate) fn of(settings: &Configuration) -> Self {
        let period = settings.cpu_cfs_quota_period.0.as_micros();
        Self { enforced: settings.cpu_cfs_quota, period_micros: i64::try_from(period).unwrap_or(i64::MAX) }
    }

    /// CPU in thousandths as a quota per period; zero means none.
    pub(crate) fn quota(self, millis: i64) -> i64 {
        if millis == 0 || !self.enforced {
            return 0;
        }
        (millis * self.period_micros / 1000).max(MIN_QUOTA_MICROS)
    }
}

/// What containers get of the node's swap, where the kernel bounds it (cgroup v2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swap {
    /// The kernel does not bound it.
    Unbounded,
    /// `NoSwap`.
    None,
    /// `LimitedSwap`: burstable containers get the part of the swap that their request is of the memory.
    Limited { capacity: i64 },
}

/// What bounds every container of a node, whatever its own limits are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) memory_capacity: i64,
    pub(crate) cgroup_v2: bool,
    pub(crate) cpu: CpuBounds,
    pub(crate) swap: Swap,
    /// The sizes that the machine has.
    pub(crate) huge_pages: PageSizes,
}

#[cfg(test)]
impl Bounds {
    /// Those of a machine with so much memory, cgroups of version 1 and nothing configured.
    pub(crate) fn unlimited(memory_capacity: i64) -> Self {
        let cpu = CpuBounds::of(&Configuration::default());
        let huge_pages = PageSizes::default();
        Self { memory_capacity, cgroup_v2: false, cpu, swap: Swap::Unbounded, huge_pages }
    }
}

/// The swap a container may use in bytes; None leaves it alone.
fn swap_limit(pod: &Pod, container: &Container, bounds: &Bounds) -> Option<i64> {
    let capacity = match bounds.swap {
        Swap::Unbounded => return None,
        Swap::None => return Some(0),
        Swap::Limited { capacity } => capacity,
    };
    let resources = container.resources.as_ref();
    let (request, limit) = (request(resources, "memory"), limit(resources, "memory"));
    let request = request.filter(|request| !request.is_zero());
    match request {
        Some(request) if qos(pod) == Qos::Burstable && !pod::is_critical(pod) && limit != Some(request) => {
            let part = i128::from(capacity) * i128::from(request.value())
                / i128::from(bounds.memory_capacity.max(1));
            i64::try_from(part).ok()
        }
        _ => Some(0),
    }
}

/// How likely the kernel kills a container's processes first: the smaller the part of the machine that was asked for, the
/// likelier. Source: upstream's `GetContainerOOMScoreAdjust`.
pub(crate) fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    if pod::is_node_critical(pod) {
        return -997;
    }
    match qos(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let sidecar = pod::is_sidecar(container)
                && pod::init_containers(pod).iter().any(|init| init.name == container.name);
            // A sidecar serves the others: it is not killed before any of them.
            let least = pod::containers(pod).iter().map(memory_request).min().filter(|_| sidecar);
            let memory = memory_request(container).max(least.unwrap_or(0)) + spare_memory(pod);
            let adjusted = 1000 - (1000 * memory) / memory_capacity.max(1);
            // Always killed before guaranteed pods, and always after best-effort ones.
            adjusted.clamp(3, 999)
        }
    }
}

fn memory_request(container: &Container) -> i64 {
    request(container.resources.as_ref(), "memory").map_or(0, |memory| memory.value())
}

/// What of the whole pod's request for memory no container has asked for, in equal parts.
fn spare_memory(pod: &Pod) -> i64 {
    let Some(whole) = of_pod(pod).and_then(|resources| amount(resources.requests.as_ref(), "memory")) else {
        return 0;
    };
    let containers = pod::containers(pod).len() + pod::init_containers(pod).len();
    let spare = whole.value() - pod::peak(pod, memory_request);
    i64::try_from(containers).map_or(0, |containers| spare / containers.max(1))
}

/// A container's limits as CRI takes them.
pub(crate) fn linux_resources(
    pod: &Pod,
    container: &Container,
    bounds: &Bounds,
) -> v1::LinuxContainerResources {
    let resources = effective(container, of_pod(pod));
    let cpu_request = request(Some(&resources), "cpu").map_or(0, |cpu| cpu.milli_value());
    let (cpu_limit, memory_limit) = (limit(Some(&resources), "cpu"), limit(Some(&resources), "memory"));
    let mut unified = std::collections::HashMap::new();
    if bounds.cgroup_v2 {
        // Upstream kills the container's processes together, so that none is left half alive.
        unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    if let Some(bytes) = swap_limit(pod, container, bounds) {
        unified.insert("memory.swap.max".to_owned(), bytes.to_string());
    }
    v1::LinuxContainerResources {
        cpu_period: bounds.cpu.period_micros,
        cpu_quota: cpu_limit.map_or(0, |cpu| bounds.cpu.quota(cpu.milli_value())),
        cpu_shares: shares(cpu_request),
        memory_limit_in_bytes: memory_limit.map_or(0, |memory| memory.value()),
        oom_score_adj: oom_score_adj(pod, container, bounds.memory_capacity),
        hugepage_limits: huge_pages::limits(pod, container, bounds.huge_pages),
        unified,
        ..Default::default()
    }
}

/// What a sandbox is told of its pod: what its containers may use together, and the overhead. Runtimes that make a machine of
/// each pod give it that size. Source: upstream's `applySandboxResources`, whose sums have the limits of those containers that
/// have one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SandboxResources {
    pub(crate) own: v1::LinuxContainerResources,
    pub(crate) overhead: v1::LinuxContainerResources,
}

/// `own_cpus`: some container has processors to itself, and no quota holds it up.
pub(crate) fn sandbox_resources(pod: &Pod, bounds: &Bounds, own_cpus: bool) -> SandboxResources {
    let limit_of = |name: &str| own_total(pod, |resources| limit(resources, name));
    let cpu = own_total(pod, |resources| request(resources, "cpu"));
    let mut own = sandbox_part(cpu, limit_of("cpu"), limit_of("memory"), bounds);
    if own_cpus && bounds.cpu.enforced {
        own.cpu_quota = -1;
    }
    let overhead = if pod.spec.as_ref().is_some_and(|spec| spec.overhead.is_some()) {
        let cpu = overhead(pod, "cpu");
        sandbox_part(cpu, cpu, overhead(pod, "memory"), bounds)
    } else {
        v1::LinuxContainerResources::default()
    };
    SandboxResources { own, overhead }
}

fn sandbox_part(
    cpu: Quantity,
    cpu_limit: Quantity,
    memory_limit: Quantity,
    bounds: &Bounds,
) -> v1::LinuxContainerResources {
    let mut part = v1::LinuxContainerResources {
        cpu_shares: shares(cpu.milli_value()),
        cpu_quota: bounds.cpu.quota(cpu_limit.milli_value()),
        cpu_period: if bounds.cpu.enforced { bounds.cpu.period_micros } else { 0 },
        memory_limit_in_bytes: memory_limit.value(),
        ..Default::default()
    };
    if bounds.cgroup_v2 {
        part.unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    part
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;

    use super::*;

    fn container(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Container {
        let map = |list: &[(&str, &str)]| {
            Some(list.iter().map(|(k, v)| ((*k).to_owned(), WireQuantity((*v).to_owned()))).collect())
        };
        let resources =
            ResourceRequirements { requests: map(requests), limits: map(limits), ..Default::default() };
        Container { resources: Some(resources), ..Default::default() }
    }

    fn pod_of(containers: Vec<Container>) -> Pod {
        Pod { spec: Some(PodSpec { containers, ..Default::default() }), ..Default::default() }
    }

    #[test]
    fn classes() {
        let none = container(&[], &[]);
        let some = container(&[("cpu", "100m")], &[]);
        let full = container(&[], &[("cpu", "1"), ("memory", "1Gi")]);
        assert_eq!(qos(&pod_of(vec![none.clone()])), Qos::BestEffort);
        assert_eq!(qos(&pod_of(vec![some.clone()])), Qos::Burstable);
        assert_eq!(qos(&pod_of(vec![full.clone()])), Qos::Guaranteed);
        assert_eq!(qos(&pod_of(vec![full, none])), Qos::Burstable);
    }

    fn bounds(settings: &Configuration) -> Bounds {
        Bounds {
            memory_capacity: 1 << 34,
            cgroup_v2: false,
            cpu: CpuBounds::of(settings),
            swap: Swap::Limited { capacity: 1 << 30 },
            huge_pages: PageSizes::default(),
        }
    }

    #[test]
    fn quotas_as_configured() {
        let web = container(&[("cpu", "250m")], &[("cpu", "500m")]);
        let mut settings = Configuration {
            cpu_cfs_quota_period: crate::Span(std::time::Duration::from_millis(10)),
            ..Default::default()
        };
        let cri = linux_resources(&pod_of(vec![web.clone()]), &web, &bounds(&settings));
        assert_eq!((cri.cpu_quota, cri.cpu_period), (5_000, 10_000));
        settings.cpu_cfs_quota = false;
        assert_eq!(linux_resources(&pod_of(vec![web.clone()]), &web, &bounds(&settings)).cpu_quota, 0);
    }

    #[test]
    fn swap_goes_by_the_request() {
        let burstable = container(&[("memory", "4Gi")], &[("memory", "8Gi")]);
        let fixed = container(&[("memory", "4Gi")], &[("memory", "4Gi")]);
        let none = container(&[("cpu", "1")], &[]);
        let pod = pod_of(vec![burstable.clone(), fixed.clone(), none.clone()]);
        let limited = bounds(&Configuration::default());
        for (container, expected) in [(&burstable, 1 << 28), (&fixed, 0), (&none, 0)] {
            assert_eq!(swap_limit(&pod, container, &limited), Some(expected));
        }
        assert_eq!(swap_limit(&pod, &burstable, &Bounds { swap: Swap::None, ..limited }), Some(0));
        assert_eq!(swap_limit(&pod, &burstable, &Bounds { swap: Swap::Unbounded, ..limited }), None);
        let guaranteed = pod_of(vec![container(&[], &[("cpu", "1"), ("memory", "1Gi")])]);
        assert_eq!(swap_limit(&guaranteed, &burstable, &limited), Some(0));
    }

    #[test]
    fn cri_numbers() {
        let web = container(&[("cpu", "250m"), ("memory", "256Mi")], &[("cpu", "500m"), ("memory", "512Mi")]);
        let cri = linux_resources(&pod_of(vec![web.clone()]), &web, &bounds(&Configuration::default()));
        assert_eq!((cri.cpu_shares, cri.cpu_quota, cri.cpu_period), (256, 50_000, 100_000));
        assert_eq!((cri.memory_limit_in_bytes, cri.oom_score_adj), (512 << 20, 985));
        let none = container(&[], &[]);
        let cri = linux_resources(&pod_of(vec![none.clone()]), &none, &bounds(&Configuration::default()));
        assert_eq!((cri.cpu_shares, cri.cpu_quota, cri.oom_score_adj), (2, 0, 1000));
    }

    #[test]
    fn what_the_node_needs_is_killed_last() {
        let web = container(&[("memory", "4Gi")], &[]);
        let score = |priority: i32, class: &str| {
            let mut pod = pod_of(vec![web.clone()]);
            let spec = pod.spec.as_mut().unwrap();
            (spec.priority, spec.priority_class_name) = (Some(priority), Some(class.into()));
            oom_score_adj(&pod, &web, 1 << 34)
        };
        assert_eq!(score(2_000_001_000, "system-node-critical"), -997);
        assert_eq!(score(2_000_000_000, "system-cluster-critical"), 750);
        // A class of that name that somebody made for himself.
        assert_eq!(score(1000, "system-node-critical"), 750);
        let mut file = pod_of(vec![web.clone()]);
        let source = (pod::CONFIG_SOURCE.to_owned(), "file".to_owned());
        file.metadata.annotations = Some([source].into());
        assert_eq!(oom_score_adj(&file, &web, 1 << 34), 750);
        file.spec.as_mut().unwrap().priority_class_name = Some("system-node-critical".into());
        assert_eq!(oom_score_adj(&file, &web, 1 << 34), -997);
    }

    #[test]
    fn sidecars_are_not_killed_before_those_they_serve() {
        let named = |name: &str, memory: &str, policy: Option<&str>| Container {
            name: name.into(),
            restart_policy: policy.map(str::to_owned),
            ..container(&[("memory", memory)], &[])
        };
        let (small, large) = (named("small", "4Gi", None), named("large", "8Gi", Some("Always")));
        let sidecar = named("sidecar", "1Gi", Some("Always"));
        let greedy = named("greedy", "12Gi", Some("Always"));
        let once = named("once", "1Gi", None);
        let mut pod = pod_of(vec![large.clone(), small.clone()]);
        let inits = vec![sidecar.clone(), greedy.clone(), once.clone()];
        pod.spec.as_mut().unwrap().init_containers = Some(inits);
        // The least of the regular containers' is that of 4Gi out of 16.
        for (container, expected) in
            [(&large, 500), (&small, 750), (&sidecar, 750), (&greedy, 250), (&once, 938)]
        {
            assert_eq!(oom_score_adj(&pod, container, 1 << 34), expected, "{}", container.name);
        }
    }

    #[test]
    fn a_whole_pods_request_is_spread() {
        let (web, init) = (container(&[("memory", "2Gi")], &[]), container(&[("memory", "1Gi")], &[]));
        let mut pod = pod_of(vec![web.clone()]);
        pod.spec.as_mut().unwrap().init_containers = Some(vec![init.clone()]);
        pod.spec.as_mut().unwrap().resources = container(&[("memory", "6Gi")], &[]).resources;
        // Of 6Gi 2Gi are asked for at the peak; the rest is 2Gi for each.
        assert_eq!(oom_score_adj(&pod, &web, 1 << 34), 750);
        assert_eq!(oom_score_adj(&pod, &init, 1 << 34), 813);
        pod.spec.as_mut().unwrap().resources = container(&[("cpu", "1")], &[]).resources;
        assert_eq!(oom_score_adj(&pod, &web, 1 << 34), 875);
    }

    #[test]
    fn init_containers_count_by_their_peak() {
        let mut pod = pod_of(vec![container(&[("cpu", "1")], &[]), container(&[("cpu", "1")], &[])]);
        let sidecar =
            Container { restart_policy: Some("Always".into()), ..container(&[("cpu", "500m")], &[]) };
        pod.spec.as_mut().unwrap().init_containers = Some(vec![sidecar, container(&[("cpu", "3")], &[])]);
        assert_eq!(pod_request(&pod, "cpu").milli_value(), 3500);
    }

    #[test]
    fn what_a_sandbox_is_told() {
        let pod = |overhead: serde_json::Value| -> Pod {
            serde_json::from_value(serde_json::json!({"spec": {"overhead": overhead, "containers": [
                {"name": "a", "resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "64Mi"}}},
                {"name": "b", "resources": {"requests": {"cpu": "250m"}}}]}}))
            .unwrap()
        };
        let bounds = Bounds::unlimited(1 << 30);
        let amounts = |told: &v1::LinuxContainerResources| {
            (told.cpu_shares, told.cpu_quota, told.cpu_period, told.memory_limit_in_bytes)
        };
        let told =
            sandbox_resources(&pod(serde_json::json!({"cpu": "100m", "memory": "8Mi"})), &bounds, false);
        assert_eq!(amounts(&told.own), (512, 50_000, 100_000, 64 << 20));
        assert_eq!(amounts(&told.overhead), (102, 10_000, 100_000, 8 << 20));
        let none = serde_json::Value::Null;
        let told = sandbox_resources(&pod(none.clone()), &bounds, true);
        assert_eq!(amounts(&told.own), (512, -1, 100_000, 64 << 20));
        assert_eq!(told.overhead, v1::LinuxContainerResources::default());
        let settings = Configuration { cpu_cfs_quota: false, ..Configuration::default() };
        let free = Bounds { cpu: CpuBounds::of(&settings), cgroup_v2: true, ..bounds };
        let told = sandbox_resources(&pod(none), &free, true);
        assert_eq!(amounts(&told.own), (512, 0, 0, 64 << 20));
        assert_eq!(told.own.unified["memory.oom.group"], "1");
    }
}
