//! What one object uses of which resources, by the names that quotas have for them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, PersistentVolumeClaim, Pod, PodSpec, ResourceRequirements, ScopedResourceSelectorRequirement,
    Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use podium_api::quantity::{Format, Quantity};

use crate::clock;
use crate::labels;
use crate::pods;

/// Amounts by resource name.
pub(crate) type Amounts = BTreeMap<String, Quantity>;

const PER_CLASS: &str = ".storageclass.storage.k8s.io/";
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// That many of something.
pub(crate) fn number(count: usize) -> Quantity {
    Quantity::from_int(i64::try_from(count).unwrap_or(i64::MAX), Format::DecimalSi)
}

/// A list as objects have it. What does not parse is left out.
pub(crate) fn amounts(list: Option<&BTreeMap<String, Wire>>) -> Amounts {
    let parse = |(name, amount): (&String, &Wire)| Some((name.clone(), Quantity::try_from(amount).ok()?));
    list.into_iter().flatten().filter_map(parse).collect()
}

/// Adds one list to another.
pub(crate) fn add(to: &mut Amounts, from: Amounts) {
    for (name, amount) in from {
        *to.entry(name).or_default() += amount;
    }
}

/// A pod's own requests or limits.
fn pod_amounts(spec: &PodSpec, of: fn(&ResourceRequirements) -> Option<&BTreeMap<String, Wire>>) -> Amounts {
    let container = |it: &Container| amounts(it.resources.as_ref().and_then(of));
    let mut total = Amounts::new();
    for it in &spec.containers {
        add(&mut total, container(it));
    }
    // Sidecars run from their turn on; other init containers run alone, beside the sidecars before them.
    let mut sidecars = Amounts::new();
    let mut peak = Amounts::new();
    for it in spec.init_containers.iter().flatten() {
        let mut now = sidecars.clone();
        add(&mut now, container(it));
        if it.restart_policy.as_deref() == Some("Always") {
            add(&mut total, container(it));
            sidecars.clone_from(&now);
        }
        for (name, amount) in now {
            let most = peak.entry(name).or_insert(amount);
            *most = (*most).max(amount);
        }
    }
    for (name, amount) in peak {
        let most = total.entry(name).or_insert(amount);
        *most = (*most).max(amount);
    }
    // What is said for the pod as a whole holds instead.
    total.extend(amounts(spec.resources.as_ref().and_then(of)));
    total
}

fn is_compute(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage")
}

fn is_extended(name: &str) -> bool {
    let domain = name.split_once('/').map(|(domain, _)| domain);
    domain.is_some_and(|domain| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
}

/// What a pod uses: nothing once it has ended, or should have been gone.
pub(crate) fn pod(pod: &Pod, now: Timestamp) -> Amounts {
    let overdue = pod.metadata.deletion_timestamp.as_ref().zip(pod.metadata.deletion_grace_period_seconds);
    if pods::is_finished(pod) || overdue.is_some_and(|(time, grace)| clock::after(time.0, grace) < now) {
        return Amounts::new();
    }
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut requests = pod_amounts(spec, |it| it.requests.as_ref());
    let mut limits = pod_amounts(spec, |it| it.limits.as_ref());
    for (name, amount) in amounts(spec.overhead.as_ref()) {
        *requests.entry(name.clone()).or_default() += amount;
        // A limit is raised only where there is one.
        if let Some(limit) = limits.get_mut(&name) {
            *limit += amount;
        }
    }
    let mut used = Amounts::from([("pods".to_owned(), number(1))]);
    for (name, amount) in requests {
        let huge = name.starts_with("hugepages-");
        if is_compute(&name) || huge {
            used.insert(name.clone(), amount);
        }
        if is_compute(&name) || huge || is_extended(&name) {
            used.insert(format!("requests.{name}"), amount);
        }
    }
    let limits = limits.into_iter().filter(|(name, _)| is_compute(name));
    used.extend(limits.map(|(name, amount)| (format!("limits.{name}"), amount)));
    used
}

/// What a Service uses.
pub(crate) fn service(service: &Service) -> Amounts {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let own = ports.iter().filter(|port| port.node_port.unwrap_or_default() != 0).count();
    let (balancers, node_ports) = match spec.type_.as_deref() {
        Some("NodePort") => (0, ports.len()),
        Some("LoadBalancer") if spec.allocate_load_balancer_node_ports == Some(false) => (1, own),
        Some("LoadBalancer") => (1, ports.len()),
        _ => (0, 0),
    };
    Amounts::from([
        ("services".to_owned(), number(1)),
        ("services.loadbalancers".to_owned(), number(balancers)),
        ("services.nodeports".to_owned(), number(node_ports)),
    ])
}

/// What a claim uses, in all and of its storage class.
pub(crate) fn claim(claim: &PersistentVolumeClaim) -> Amounts {
    let spec = claim.spec.clone().unwrap_or_default();
    let annotated = labels::value(claim.metadata.annotations.as_ref(), OLD_CLASS).map(str::to_owned);
    let class = annotated.or(spec.storage_class_name).filter(|class| !class.is_empty());
    let storage = |list: Option<&BTreeMap<String, Wire>>| amounts(list).remove("storage");
    let asked = storage(spec.resources.as_ref().and_then(|it| it.requests.as_ref()));
    let granted = storage(claim.status.as_ref().and_then(|it| it.allocated_resources.as_ref()));
    let mut used = Amounts::from([("persistentvolumeclaims".to_owned(), number(1))]);
    if let Some(asked) = asked {
        let size = asked.max(granted.unwrap_or_default());
        used.insert("requests.storage".to_owned(), Quantity::from_int(size.value(), Format::BinarySi));
    }
    if let Some(class) = class {
        let of_class: Vec<_> =
            used.iter().map(|(name, amount)| (format!("{class}{PER_CLASS}{name}"), *amount)).collect();
        used.extend(of_class);
    }
    used
}

/// The kind of object that a name counts: group and plural.
pub(crate) fn kind_of(name: &str) -> Option<(String, String)> {
    let core = |plural: &str| Some((String::new(), plural.to_owned()));
    if let Some(counted) = name.strip_prefix("count/") {
        let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
        return Some((group.to_owned(), plural.to_owned()));
    }
    if let Some((_, of_class)) = name.split_once(PER_CLASS) {
        return matches!(of_class, "persistentvolumeclaims" | "requests.storage")
            .then(|| core("persistentvolumeclaims"))?;
    }
    match name {
        "persistentvolumeclaims" | "requests.storage" => core("persistentvolumeclaims"),
        "services" | "services.loadbalancers" | "services.nodeports" => core("services"),
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => core(name),
        "pods" => core("pods"),
        _ => {
            let bare =
                name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
            let known = is_compute(bare) || bare.starts_with("hugepages-");
            (known || (bare != name && is_extended(bare))).then(|| core("pods"))?
        }
    }
}

/// Whether a pod falls under one scope of a quota.
pub(crate) fn in_scope(pod: &Pod, scope: &ScopedResourceSelectorRequirement) -> bool {
    let spec = pod.spec.clone().unwrap_or_default();
    let limited = spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0);
    match scope.scope_name.as_str() {
        "Terminating" => limited,
        "NotTerminating" => !limited,
        "BestEffort" => is_best_effort(&spec),
        "NotBestEffort" => !is_best_effort(&spec),
        "CrossNamespacePodAffinity" => crosses_namespaces(&spec),
        "PriorityClass" => {
            let class = spec.priority_class_name.filter(|class| !class.is_empty());
            let listed =
                class.as_ref().is_some_and(|class| scope.values.iter().flatten().any(|it| it == class));
            match scope.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => class.is_some(),
                "DoesNotExist" => class.is_none(),
                _ => false,
            }
        }
        _ => false,
    }
}

fn is_best_effort(spec: &PodSpec) -> bool {
    let asks = |resources: Option<&ResourceRequirements>| {
        let lists = resources.map(|it| [amounts(it.requests.as_ref()), amounts(it.limits.as_ref())]);
        let some = |(name, amount): (&String, &Quantity)| {
            matches!(name.as_str(), "cpu" | "memory") && *amount > Quantity::ZERO
        };
        lists.into_iter().flatten().any(|list| list.iter().any(some))
    };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    !asks(spec.resources.as_ref()) && !containers.into_iter().any(|it| asks(it.resources.as_ref()))
}

fn crosses_namespaces(spec: &PodSpec) -> bool {
    let Some(affinity) = &spec.affinity else { return false };
    let with = affinity.pod_affinity.as_ref();
    let against = affinity.pod_anti_affinity.as_ref();
    let required = with
        .and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .chain(against.and_then(|it| it.required_during_scheduling_ignored_during_execution.as_ref()))
        .flatten();
    let preferred = with
        .and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .chain(against.and_then(|it| it.preferred_during_scheduling_ignored_during_execution.as_ref()))
        .flatten();
    required.chain(preferred.map(|weighted| &weighted.pod_affinity_term)).any(|term| {
        term.namespace_selector.is_some() || term.namespaces.as_ref().is_some_and(|it| !it.is_empty())
    })
}
