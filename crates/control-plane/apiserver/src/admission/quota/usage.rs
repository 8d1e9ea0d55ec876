//! What objects use, in the names that quotas count. Pure.
//!
//! Source: upstream's evaluators in `pkg/quota/v1/evaluator/core` and `component-helpers/resource`.

use std::collections::{BTreeMap, BTreeSet};

use podium_api::quantity::{Format, Quantity};
use serde_json::Value;

use crate::objects::{items, text};

/// Amounts by resource name.
pub(crate) type Amounts = BTreeMap<String, Quantity>;

const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";

fn one() -> Quantity {
    Quantity::from_int(1, Format::DecimalSi)
}

fn count(n: usize) -> Quantity {
    Quantity::from_int(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSi)
}

/// A `ResourceList`.
pub(crate) fn amounts(list: &Value) -> Amounts {
    list.as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, amount)| Some((name.clone(), Quantity::from_value(amount).ok()?)))
        .collect()
}

fn add(to: &mut Amounts, from: &Amounts) {
    for (name, amount) in from {
        *to.entry(name.clone()).or_default() += *amount;
    }
}

fn raise(to: &mut Amounts, from: &Amounts) {
    for (name, amount) in from {
        let known = to.entry(name.clone()).or_insert(*amount);
        *known = (*known).max(*amount);
    }
}

/// What the scheduler sets aside for a pod.
pub(crate) fn pod_requests(pod: &Value) -> Amounts {
    pod_resources(pod, "requests")
}

/// What a pod may use at most; resources without limit are left out.
pub(crate) fn pod_limits(pod: &Value) -> Amounts {
    pod_resources(pod, "limits")
}

/// Containers add up; init containers run before them one after the other, beside those sidecars that have started; what is set for
/// the pod as a whole counts instead; overhead comes on top.
fn pod_resources(pod: &Value, field: &str) -> Amounts {
    let of = |container: &Value| amounts(&container["resources"][field]);
    let mut total = Amounts::new();
    for container in items(pod, "/spec/containers") {
        add(&mut total, &of(container));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in items(pod, "/spec/initContainers") {
        let mut own = of(container);
        if text(container, "/restartPolicy") == "Always" {
            add(&mut total, &own);
            add(&mut sidecars, &own);
            own = sidecars.clone();
        } else {
            add(&mut own, &sidecars);
        }
        raise(&mut peak, &own);
    }
    raise(&mut total, &peak);
    for (name, amount) in amounts(&pod["spec"]["resources"][field]) {
        if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
            total.insert(name, amount);
        }
    }
    for (name, amount) in amounts(&pod["spec"]["overhead"]) {
        // Overhead counts towards a limit only where there is one.
        if field == "requests" || total.contains_key(&name) {
            *total.entry(name).or_default() += amount;
        }
    }
    total
}

/// What an object counts for. `resource` is the plural. `now` decides whether a pod in deletion still counts.
pub(crate) fn usage(group: &str, resource: &str, object: &Value, now: jiff::Timestamp) -> Amounts {
    let mut used = Amounts::new();
    used.insert(count_name(group, resource), one());
    match (group, resource) {
        ("", "pods") if pod_counts(object, now) => {
            add(&mut used, &compute_names(&pod_requests(object), &pod_limits(object)));
        }
        ("", "services") => service(object, &mut used),
        ("", "persistentvolumeclaims") => claim(object, &mut used),
        ("", "configmaps" | "resourcequotas" | "replicationcontrollers" | "secrets") => {
            used.insert(resource.to_owned(), one());
        }
        _ => {}
    }
    used
}

/// `count/pods`, `count/deployments.apps`.
pub(crate) fn count_name(group: &str, resource: &str) -> String {
    if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") }
}

fn pod_counts(pod: &Value, now: jiff::Timestamp) -> bool {
    if matches!(text(pod, "/status/phase"), "Failed" | "Succeeded") {
        return false;
    }
    let grace = pod.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    match (text(pod, "/metadata/deletionTimestamp").parse::<jiff::Timestamp>(), grace) {
        // Stuck in deletion, on a lost node perhaps: no longer its owner's cost.
        (Ok(at), Some(grace)) => now.as_second() <= at.as_second().saturating_add(grace),
        _ => true,
    }
}

/// The names under which quotas know requests and limits.
fn compute_names(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut used = Amounts::new();
    used.insert("pods".to_owned(), one());
    for (name, amount) in requests {
        let basic = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
        if basic || name.starts_with("hugepages-") {
            used.insert(name.clone(), *amount);
        }
        if basic || name.starts_with("hugepages-") || is_extended(name) {
            used.insert(format!("requests.{name}"), *amount);
        }
    }
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(amount) = limits.get(name) {
            used.insert(format!("limits.{name}"), *amount);
        }
    }
    used
}

/// A resource in somebody's own domain.
fn is_extended(name: &str) -> bool {
    !name.starts_with("requests.")
        && name
            .split_once('/')
            .is_some_and(|(domain, _)| domain != "kubernetes.io" && !domain.ends_with(".kubernetes.io"))
}

fn service(service: &Value, used: &mut Amounts) {
    let ports = items(service, "/spec/ports");
    used.insert("services".to_owned(), one());
    let (balancers, node_ports) = match text(service, "/spec/type") {
        "NodePort" => (0, ports.len()),
        "LoadBalancer" if service["spec"]["allocateLoadBalancerNodePorts"] == false => {
            (1, ports.iter().filter(|port| port["nodePort"].as_i64().unwrap_or_default() != 0).count())
        }
        "LoadBalancer" => (1, ports.len()),
        _ => (0, 0),
    };
    used.insert("services.loadbalancers".to_owned(), count(balancers));
    used.insert("services.nodeports".to_owned(), count(node_ports));
}

fn claim(claim: &Value, used: &mut Amounts) {
    let annotated = text(claim, "/metadata/annotations/volume.beta.kubernetes.io~1storage-class");
    let class = if annotated.is_empty() { text(claim, "/spec/storageClassName") } else { annotated };
    let size = |pointer: &str| claim.pointer(pointer).and_then(|size| Quantity::from_value(size).ok());
    let asked = size("/spec/resources/requests/storage");
    let storage =
        asked.map(|asked| asked.max(size("/status/allocatedResources/storage").unwrap_or_default()));
    let mut charge = |name: &str, amount: Quantity| {
        used.insert(name.to_owned(), amount);
        if !class.is_empty() {
            used.insert(format!("{class}{STORAGE_CLASS}{name}"), amount);
        }
    };
    charge("persistentvolumeclaims", one());
    if let Some(storage) = storage {
        // Whole bytes: quotas are validated to be.
        charge("requests.storage", Quantity::from_int(storage.value(), Format::BinarySi));
    }
}

/// Which of a quota's resource names this kind of object can use.
pub(crate) fn relevant(group: &str, resource: &str, name: &str) -> bool {
    if name == count_name(group, resource) {
        return true;
    }
    match (group, resource) {
        ("", "pods") => {
            let bare = name.strip_prefix("requests.").unwrap_or(name);
            matches!(
                name,
                "pods"
                    | "cpu"
                    | "memory"
                    | "ephemeral-storage"
                    | "limits.cpu"
                    | "limits.memory"
                    | "limits.ephemeral-storage"
            ) || (bare != name
                && (matches!(bare, "cpu" | "memory" | "ephemeral-storage") || is_extended(bare)))
                || bare.starts_with("hugepages-")
        }
        ("", "services") => matches!(name, "services" | "services.loadbalancers" | "services.nodeports"),
        ("", "persistentvolumeclaims") => {
            let bare = name.split_once(STORAGE_CLASS).map_or(name, |(_, bare)| bare);
            matches!(bare, "persistentvolumeclaims" | "requests.storage")
        }
        ("", "configmaps" | "resourcequotas" | "replicationcontrollers" | "secrets") => name == resource,
        _ => false,
    }
}

/// Whether an object falls under all scopes of a quota.
pub(crate) fn in_scope(quota: &Value, group: &str, resource: &str, object: &Value) -> bool {
    let plain =
        items(quota, "/spec/scopes").iter().filter_map(Value::as_str).map(|scope| (scope, "Exists", &[][..]));
    let selected = items(quota, "/spec/scopeSelector/matchExpressions").iter().map(|selector| {
        (text(selector, "/scopeName"), text(selector, "/operator"), items(selector, "/values"))
    });
    plain.chain(selected).all(|(scope, operator, values)| match (group, resource) {
        ("", "pods") => pod_in_scope(object, scope, operator, values),
        ("", "persistentvolumeclaims") => claim_in_scope(object, scope, operator, values),
        // Other kinds have no scopes, so a quota with scopes is not about them.
        _ => false,
    })
}

fn pod_in_scope(pod: &Value, scope: &str, operator: &str, values: &[Value]) -> bool {
    let terminating =
        pod.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_i64).is_some_and(|s| s >= 0);
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(pod),
        "NotBestEffort" => !best_effort(pod),
        "PriorityClass" => {
            let class = Some(text(pod, "/spec/priorityClassName")).filter(|class| !class.is_empty());
            selects(class.into_iter(), operator, values)
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn claim_in_scope(claim: &Value, scope: &str, operator: &str, values: &[Value]) -> bool {
    if scope != "VolumeAttributesClass" {
        return false;
    }
    let names: BTreeSet<&str> = [
        "/spec/volumeAttributesClassName",
        "/status/currentVolumeAttributesClassName",
        "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
    ]
    .iter()
    .map(|pointer| text(claim, pointer))
    .filter(|name| !name.is_empty())
    .collect();
    selects(names.into_iter(), operator, values)
}

fn selects<'a>(mut names: impl Iterator<Item = &'a str>, operator: &str, values: &[Value]) -> bool {
    match operator {
        "Exists" => names.next().is_some(),
        "DoesNotExist" => names.next().is_none(),
        "In" => names.any(|name| values.iter().any(|value| value == name)),
        "NotIn" => !names.any(|name| values.iter().any(|value| value == name)),
        _ => false,
    }
}

/// No container, nor the pod, asks for or is limited in CPU or memory.
fn best_effort(pod: &Value) -> bool {
    let some = |resources: &Value| {
        ["requests", "limits"].iter().any(|field| {
            amounts(&resources[*field])
                .iter()
                .any(|(name, amount)| matches!(name.as_str(), "cpu" | "memory") && *amount > Quantity::ZERO)
        })
    };
    let containers = items(pod, "/spec/containers").iter().chain(items(pod, "/spec/initContainers"));
    !some(&pod["spec"]["resources"]) && !containers.into_iter().any(|container| some(&container["resources"]))
}

fn crosses_namespaces(pod: &Value) -> bool {
    ["podAffinity", "podAntiAffinity"].iter().any(|affinity| {
        let at = |list: &str| items(pod, &format!("/spec/affinity/{affinity}/{list}"));
        let crosses = |term: &Value| {
            !items(term, "/namespaces").is_empty()
                || term.get("namespaceSelector").is_some_and(|s| !s.is_null())
        };
        at("requiredDuringSchedulingIgnoredDuringExecution").iter().any(crosses)
            || at("preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|weighted| crosses(&weighted["podAffinityTerm"]))
    })
}

/// A quota on CPU or memory asks every container to say what it needs; what is missing, by resource, or `None`.
pub(crate) fn missing_requirements(pod: &Value, counted: &BTreeSet<String>) -> Option<String> {
    if pod
        .pointer("/spec/resources")
        .is_some_and(|r| r.get("requests").is_some() || r.get("limits").is_some())
    {
        return None;
    }
    let demanded = ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in items(pod, "/spec/containers").iter().chain(items(pod, "/spec/initContainers")) {
        let resources = &container["resources"];
        let given = compute_names(&amounts(&resources["requests"]), &amounts(&resources["limits"]));
        for name in demanded.iter().filter(|name| counted.contains(**name) && !given.contains_key(**name)) {
            missing.entry(name).or_default().insert(text(container, "/name"));
        }
    }
    if missing.is_empty() {
        return None;
    }
    let parts: Vec<String> = missing
        .into_iter()
        .map(|(name, containers)| {
            format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
        })
        .collect();
    Some(format!("must specify {}", parts.join("; ")))
}
