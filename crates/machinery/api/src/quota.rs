//! What objects use, in the names that quotas count: for admission, which charges writes, and for the controller, which
//! counts again.
//!
//! Source: upstream's evaluators in `pkg/quota/v1/evaluator/core` and `component-helpers/resource`.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::kinds::tree::{has, int, list, opt_int, text, value};
use crate::quantity::{Format, Quantity};

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";

fn one() -> Quantity {
    Quantity::from_int(1, Format::DecimalSi)
}

fn count(n: usize) -> Quantity {
    Quantity::from_int(i64::try_from(n).unwrap_or(i64::MAX), Format::DecimalSi)
}

/// A `ResourceList`.
pub fn amounts(list: &Value) -> Amounts {
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
pub fn pod_requests(pod: &Value) -> Amounts {
    pod_resources(pod, "requests")
}

/// What a pod may use at most; resources without limit are left out.
pub fn pod_limits(pod: &Value) -> Amounts {
    pod_resources(pod, "limits")
}

/// Containers add up; init containers run before them one after the other, beside those sidecars that have started; what is set for
/// the pod as a whole counts instead; overhead comes on top.
fn pod_resources(pod: &Value, field: &str) -> Amounts {
    let of = |container: &Value| amounts(&container["resources"][field]);
    let mut total = Amounts::new();
    for container in list(&pod["spec"], "containers") {
        add(&mut total, &of(container));
    }
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in list(&pod["spec"], "initContainers") {
        let mut own = of(container);
        if text(container, "restartPolicy") == "Always" {
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
pub fn usage(group: &str, resource: &str, object: &Value, now: jiff::Timestamp) -> Amounts {
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
pub fn count_name(group: &str, resource: &str) -> String {
    if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") }
}

fn pod_counts(pod: &Value, now: jiff::Timestamp) -> bool {
    if matches!(text(&pod["status"], "phase"), "Failed" | "Succeeded") {
        return false;
    }
    let meta = &pod["metadata"];
    let grace = opt_int(meta, "deletionGracePeriodSeconds");
    match (text(meta, "deletionTimestamp").parse::<jiff::Timestamp>(), grace) {
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
    let ports = list(&service["spec"], "ports");
    used.insert("services".to_owned(), one());
    let (balancers, node_ports) = match text(&service["spec"], "type") {
        "NodePort" => (0, ports.len()),
        "LoadBalancer" if service["spec"]["allocateLoadBalancerNodePorts"] == false => {
            (1, ports.iter().filter(|port| int(port, "nodePort") != 0).count())
        }
        "LoadBalancer" => (1, ports.len()),
        _ => (0, 0),
    };
    used.insert("services.loadbalancers".to_owned(), count(balancers));
    used.insert("services.nodeports".to_owned(), count(node_ports));
}

fn claim(claim: &Value, used: &mut Amounts) {
    let (spec, meta) = (&claim["spec"], &claim["metadata"]);
    let annotated = text(&meta["annotations"], "volume.beta.kubernetes.io/storage-class");
    let class = if annotated.is_empty() { text(spec, "storageClassName") } else { annotated };
    let size = |sizes: &Value| Quantity::from_value(value(sizes, "storage")).ok();
    let asked = size(&spec["resources"]["requests"]);
    let storage =
        asked.map(|asked| asked.max(size(&claim["status"]["allocatedResources"]).unwrap_or_default()));
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

/// The kind of object that a quota's resource name counts: group and plural.
pub fn kind_of(name: &str) -> Option<(&str, &str)> {
    if let Some(counted) = name.strip_prefix("count/") {
        let (plural, group) = counted.split_once('.').unwrap_or((counted, ""));
        return Some((group, plural));
    }
    let bare = name.split_once(STORAGE_CLASS).map_or(name, |(_, bare)| bare);
    match bare {
        "persistentvolumeclaims" | "requests.storage" => return Some(("", "persistentvolumeclaims")),
        _ if bare != name => return None,
        "services" | "services.loadbalancers" | "services.nodeports" => return Some(("", "services")),
        "configmaps" | "resourcequotas" | "replicationcontrollers" | "secrets" => return Some(("", name)),
        _ => {}
    }
    let asked = name.strip_prefix("requests.");
    let of_pods = match asked.unwrap_or(name) {
        "cpu" | "memory" | "ephemeral-storage" => true,
        "pods" | "limits.cpu" | "limits.memory" | "limits.ephemeral-storage" => asked.is_none(),
        bare => bare.starts_with("hugepages-") || (asked.is_some() && is_extended(bare)),
    };
    of_pods.then_some(("", "pods"))
}

/// Whether this kind of object can use what a quota's resource name counts.
pub fn relevant(group: &str, resource: &str, name: &str) -> bool {
    kind_of(name) == Some((group, resource))
}

/// What the objects of a namespace use of a quota, counted one by one.
#[derive(Debug)]
pub struct Tally<'a> {
    quota: &'a Value,
    now: jiff::Timestamp,
    used: Amounts,
}

impl<'a> Tally<'a> {
    /// Nothing counted yet. `now` is as for [`usage`].
    pub fn new(quota: &'a Value, now: jiff::Timestamp) -> Self {
        let used = amounts(&quota["spec"]["hard"]).into_keys().map(|name| (name, Quantity::ZERO)).collect();
        Tally { quota, now, used }
    }

    /// One more object.
    pub fn add(&mut self, group: &str, resource: &str, object: &Value) {
        if in_scope(self.quota, group, resource, object) {
            self.sum(&usage(group, resource, object, self.now));
        }
    }

    /// So many objects of a kind of which only the number counts.
    pub fn add_number(&mut self, group: &str, resource: &str, number: usize) {
        let each = Value::Null;
        if in_scope(self.quota, group, resource, &each) {
            let names = usage(group, resource, &each, self.now).into_keys();
            self.sum(&names.map(|name| (name, count(number))).collect());
        }
    }

    fn sum(&mut self, amounts: &Amounts) {
        for (name, amount) in amounts {
            if let Some(sum) = self.used.get_mut(name) {
                *sum += *amount;
            }
        }
    }

    /// The amounts of everything that the quota limits.
    pub fn used(self) -> Amounts {
        self.used
    }
}

/// Whether an object falls under all scopes of a quota.
pub fn in_scope(quota: &Value, group: &str, resource: &str, object: &Value) -> bool {
    let spec = &quota["spec"];
    let plain = list(spec, "scopes").iter().filter_map(Value::as_str).map(|scope| (scope, "Exists", &[][..]));
    let selected = list(&spec["scopeSelector"], "matchExpressions")
        .iter()
        .map(|selector| (text(selector, "scopeName"), text(selector, "operator"), list(selector, "values")));
    plain.chain(selected).all(|(scope, operator, values)| match (group, resource) {
        ("", "pods") => pod_in_scope(object, scope, operator, values),
        ("", "persistentvolumeclaims") => claim_in_scope(object, scope, operator, values),
        // Other kinds have no scopes, so a quota with scopes is not about them.
        _ => false,
    })
}

fn pod_in_scope(pod: &Value, scope: &str, operator: &str, values: &[Value]) -> bool {
    let terminating = opt_int(&pod["spec"], "activeDeadlineSeconds").is_some_and(|s| s >= 0);
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort(pod),
        "NotBestEffort" => !best_effort(pod),
        "PriorityClass" => {
            let class = Some(text(&pod["spec"], "priorityClassName")).filter(|class| !class.is_empty());
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
    let (spec, status) = (&claim["spec"], &claim["status"]);
    let names = [
        text(spec, "volumeAttributesClassName"),
        text(status, "currentVolumeAttributesClassName"),
        text(&status["modifyVolumeStatus"], "targetVolumeAttributesClassName"),
    ];
    let names: BTreeSet<&str> = names.into_iter().filter(|name| !name.is_empty()).collect();
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
    let containers = list(&pod["spec"], "containers").iter().chain(list(&pod["spec"], "initContainers"));
    !some(&pod["spec"]["resources"]) && !containers.into_iter().any(|container| some(&container["resources"]))
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| !list(term, "namespaces").is_empty() || has(term, "namespaceSelector");
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &pod["spec"]["affinity"][*kind];
        list(affinity, "requiredDuringSchedulingIgnoredDuringExecution").iter().any(crosses)
            || list(affinity, "preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|weighted| crosses(&weighted["podAffinityTerm"]))
    })
}

/// A quota on CPU or memory asks every container to say what it needs; what is missing, by resource, or `None`.
pub fn missing_requirements(pod: &Value, counted: &BTreeSet<String>) -> Option<String> {
    let whole = &pod["spec"]["resources"];
    if whole.get("requests").is_some() || whole.get("limits").is_some() {
        return None;
    }
    let demanded = ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for container in list(&pod["spec"], "containers").iter().chain(list(&pod["spec"], "initContainers")) {
        let resources = &container["resources"];
        let given = compute_names(&amounts(&resources["requests"]), &amounts(&resources["limits"]));
        for name in demanded.iter().filter(|name| counted.contains(**name) && !given.contains_key(**name)) {
            missing.entry(name).or_default().insert(text(container, "name"));
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
