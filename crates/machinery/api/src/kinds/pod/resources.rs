//! Resource names and amounts of containers and pods.
//! Source: `pkg/apis/core/helper`, `validateResourceRequirements`, `component-helpers/resource`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::field::{Errors, Path, Reason};
use crate::kinds::tree::{entries, has, list, text, value};
use crate::kinds::validate;
use crate::quantity::Quantity;

const CONTAINER: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];
const QUOTA: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];

/// Whether this is the name of huge pages of some size.
pub(crate) fn huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether more may be limited than requested: everything but huge pages and extended resources.
pub(crate) fn overcommit(name: &str) -> bool {
    native(name) && !huge_page(name)
}

/// Whether the resource is Kubernetes' own: without domain, or in `kubernetes.io`.
pub(crate) fn native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether the name is an extended resource's: one that a device plugin or an administrator brings, in a domain of its own.
pub fn extended(name: &str) -> bool {
    !native(name)
        && !name.starts_with("requests.")
        && validate::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether the resource may be given for a whole pod.
pub(crate) fn pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || huge_page(name)
}

/// Whether amounts of this resource are whole numbers.
fn integral(name: &str) -> bool {
    matches!(
        name,
        "pods" | "services" | "replicationcontrollers" | "resourcequotas" | "secrets" | "configmaps"
    ) || matches!(name, "persistentvolumeclaims" | "services.nodeports" | "services.loadbalancers")
        || extended(name)
}

/// A resource's name: qualified, or one of the standard ones. The number of faults tells whether to go on.
fn name(name: &str, path: &Path<'_>, errors: &mut Errors) -> bool {
    let faults = validate::qualified_name(name);
    for fault in &faults {
        errors.invalid(path, name, fault);
    }
    if faults.is_empty()
        && !name.contains('/')
        && !STANDARD.contains(&name)
        && !huge_page(name)
        && !quota_count(name)
    {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
        return false;
    }
    faults.is_empty()
}

fn quota_count(name: &str) -> bool {
    name.starts_with("requests.hugepages-") || name.starts_with("count/")
}

/// The name of a resource a container may ask for.
pub(crate) fn container_name(resource: &str, path: &Path<'_>, errors: &mut Errors) {
    if CONTAINER.contains(&resource) {
        return;
    }
    name(resource, path, errors);
    if !resource.contains('/') {
        if !huge_page(resource) {
            errors.invalid(path, resource, "must be a standard resource for containers");
        }
    } else if !native(resource) && !extended(resource) {
        errors.invalid(path, resource, "doesn't follow extended resource name standard");
    }
}

fn pod_name(resource: &str, path: &Path<'_>, errors: &mut Errors) {
    if name(resource, path, errors) && !pod_level(resource) {
        errors.not_supported(path, resource, &["cpu", "hugepages-", "memory"]);
    }
}

/// The name of a resource a quota may limit.
pub(crate) fn quota_name(resource: &str, path: &Path<'_>, errors: &mut Errors) {
    name(resource, path, errors);
    if !resource.contains('/') && !QUOTA.contains(&resource) && !huge_page(resource) && !quota_count(resource)
    {
        errors.invalid(path, resource, "must be a standard resource for quota");
    }
}

/// The name of a resource in a limit range's item.
pub(crate) fn limit_range_name(kind: &str, resource: &str, path: &Path<'_>, errors: &mut Errors) {
    match kind {
        "Pod" | "Container" => container_name(resource, path, errors),
        _ => {
            name(resource, path, errors);
        }
    }
}

/// An amount: not negative, and whole where the resource is counted.
pub(crate) fn amount(resource: &str, raw: &Value, path: &Path<'_>, errors: &mut Errors) -> Option<Quantity> {
    let Ok(quantity) = Quantity::from_value(raw) else {
        errors.invalid(path, raw.clone(), "must be a valid resource quantity");
        return None;
    };
    if quantity.is_negative() {
        errors.invalid(path, quantity.to_string(), validate::NEGATIVE);
    }
    if integral(resource) && quantity.milli_value() % 1000 != 0 {
        errors.invalid(path, quantity.to_string(), "must be an integer");
    }
    Some(quantity)
}

/// `resources` of a container.
pub(crate) fn of_container(resources: &Value, claims: &Value, path: &Path<'_>, errors: &mut Errors) {
    requirements(resources, container_name, claims, path, errors);
}

/// `resources` of a whole pod.
pub(crate) fn of_pod(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    if !has(spec, "resources") {
        return;
    }
    let resources = value(spec, "resources");
    if text(value(spec, "os"), "name") == "windows" {
        errors.forbidden(path, "may not be set for a windows pod");
        return;
    }
    if has(resources, "claims") {
        errors.forbidden(&path.child("claims"), "claims may not be set for Resources at pod-level");
    }
    requirements(resources, pod_name, value(spec, "resourceClaims"), path, errors);
    for (name, sum) in container_requests(spec) {
        let Some(Ok(own)) = value(resources, "requests").get(&name).map(Quantity::from_value) else {
            continue;
        };
        if sum > own {
            errors.invalid(
                &path.child("requests").key(&name),
                own.to_string(),
                &format!("must be greater than or equal to aggregate container requests of {sum}"),
            );
        }
    }
    for (index, container) in list(spec, "containers").iter().enumerate() {
        for (name, limit) in entries(value(container, "resources"), "limits") {
            let (Ok(limit), Some(Ok(own))) =
                (Quantity::from_value(limit), value(resources, "limits").get(name).map(Quantity::from_value))
            else {
                continue;
            };
            if limit > own {
                let containers = path.child("containers");
                errors.invalid(
                    &containers.index(index).key(name).child("limits"),
                    limit.to_string(),
                    &format!("must be less than or equal to pod limits of {own}"),
                );
            }
        }
    }
}

fn requirements(
    resources: &Value,
    check_name: fn(&str, &Path<'_>, &mut Errors),
    claims: &Value,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    let (limit_path, request_path) = (path.child("limits"), path.child("requests"));
    let (mut compute, mut huge) = (false, false);
    let mut note = |name: &str| {
        compute |= matches!(name, "cpu" | "memory");
        huge |= huge_page(name);
    };
    let limits = value(resources, "limits");
    for (name, raw) in entries(resources, "limits") {
        let at = limit_path.key(name);
        check_name(name, &at, errors);
        if let Some(quantity) = amount(name, raw, &at, errors) {
            divisible(name, quantity, &at, errors);
        }
        note(name);
    }
    for (name, raw) in entries(resources, "requests") {
        let at = request_path.key(name);
        check_name(name, &at, errors);
        let quantity = amount(name, raw, &at, errors);
        match (quantity, limits.get(name).map(Quantity::from_value)) {
            (Some(request), Some(Ok(limit))) => {
                if request != limit && !overcommit(name) {
                    errors.invalid(
                        &request_path,
                        request.to_string(),
                        &format!("must be equal to {name} limit of {limit}"),
                    );
                } else if request > limit {
                    errors.invalid(
                        &request_path,
                        request.to_string(),
                        &format!("must be less than or equal to {name} limit of {limit}"),
                    );
                }
            }
            (_, None) if !overcommit(name) => {
                errors.required(&limit_path, "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
        if let Some(quantity) = quantity {
            divisible(name, quantity, &at, errors);
        }
        note(name);
    }
    if huge && !compute {
        errors.forbidden(path, "HugePages require cpu or memory");
    }
    claim_names(resources, claims, &path.child("claims"), errors);
}

/// Huge pages come in whole pages.
fn divisible(name: &str, quantity: Quantity, path: &Path<'_>, errors: &mut Errors) {
    let Some(size) = name.strip_prefix("hugepages-") else { return };
    let page = size.parse::<Quantity>().map_or(0, |q| q.value());
    if page <= 0 || quantity.value() % page != 0 {
        errors.invalid(
            path,
            quantity.to_string(),
            &format!("{quantity} is not positive integer multiple of {name}"),
        );
    }
}

fn claim_names(resources: &Value, claims: &Value, path: &Path<'_>, errors: &mut Errors) {
    let known: Vec<&str> = claims.as_array().into_iter().flatten().map(|c| text(c, "name")).collect();
    let mut seen = ahash::AHashSet::new();
    for (index, claim) in list(resources, "claims").iter().enumerate() {
        let at = path.index(index);
        let name = text(claim, "name");
        if name.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let request = text(claim, "request");
        for fault in if request.is_empty() { Vec::new() } else { validate::label(request) } {
            errors.invalid(&at.child("request"), request, &fault);
        }
        // A claim may be used whole or by several of its requests, not both.
        let whole_too = seen.contains(&(name, ""));
        let parts_too = request.is_empty() && seen.iter().any(|(n, _)| *n == name);
        let again = !seen.insert((name, request));
        if whole_too || parts_too {
            errors.duplicate(&at, name);
        } else if again {
            errors.duplicate(&at, format!("{name}/{request}"));
        }
        if !known.contains(&name) {
            let which = if known.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", known.join(", "))
            };
            errors.push(
                Reason::NotFound,
                &at,
                format!("Not found: {name:?}: must be one of the names in pod.spec.resourceClaims{which}"),
            );
        }
    }
}

/// What the pod's containers request together: the sum of containers and sidecars, or what init needs if that is more.
pub(crate) fn container_requests(spec: &Value) -> BTreeMap<String, Quantity> {
    let requests = |container: &Value| -> BTreeMap<String, Quantity> {
        entries(value(container, "resources"), "requests")
            .filter_map(|(name, raw)| Some((name.to_owned(), Quantity::from_value(raw).ok()?)))
            .collect()
    };
    let add = |total: &mut BTreeMap<String, Quantity>, more: &BTreeMap<String, Quantity>| {
        for (name, amount) in more {
            *total.entry(name.clone()).or_default() += *amount;
        }
    };
    let mut total = BTreeMap::new();
    for container in list(spec, "containers") {
        add(&mut total, &requests(container));
    }
    // While an init container runs, the sidecars started before it run too.
    let (mut sidecars, mut peak) = (BTreeMap::new(), BTreeMap::<String, Quantity>::new());
    for container in list(spec, "initContainers") {
        let mut now = sidecars.clone();
        add(&mut now, &requests(container));
        if text(container, "restartPolicy") == "Always" {
            add(&mut total, &requests(container));
            sidecars.clone_from(&now);
        }
        for (name, amount) in now {
            let most = peak.entry(name).or_default();
            *most = (*most).max(amount);
        }
    }
    for (name, amount) in peak {
        let sum = total.entry(name).or_default();
        *sum = (*sum).max(amount);
    }
    total
}
