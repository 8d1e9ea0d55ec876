//! Amounts of resources as integers, and what a pod asks for.
//!
//! The arithmetic of a pod's requests follows upstream's `component-helpers/resource` (v1.36):
//! containers and sidecars add up, ordinary init containers count where they are larger, pod-level
//! requests replace the sum, overhead is added. Quantities are parsed once, when an object arrives.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use podium_api::quantity::Quantity;

/// What upstream's scorers assume of a container that requests no CPU.
const ASSUMED_CPU_MILLIS: i64 = 100;
/// What upstream's scorers assume of a container that requests no memory.
const ASSUMED_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// An amount of each resource. Missing means none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_millis: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of ephemeral storage.
    pub ephemeral_bytes: i64,
    /// Everything else (huge pages, extended resources), ordered by name, without zeros.
    pub others: Vec<(Arc<str>, i64)>,
}

impl Resources {
    /// Reads a wire list. `pods` is left out; a quantity that cannot be read counts as none, which the
    /// API's validation rules out.
    pub fn from_wire(list: &BTreeMap<String, WireQuantity>) -> Self {
        let mut resources = Self::default();
        for (name, quantity) in list {
            let quantity: Quantity = quantity.0.parse().unwrap_or(Quantity::ZERO);
            match name.as_str() {
                "cpu" => resources.cpu_millis = quantity.milli_value(),
                "memory" => resources.memory_bytes = quantity.value(),
                "ephemeral-storage" => resources.ephemeral_bytes = quantity.value(),
                "pods" => {}
                _ if quantity.value() != 0 => resources.others.push((name.as_str().into(), quantity.value())),
                _ => {}
            }
        }
        resources
    }

    /// The amount of a resource that is neither CPU, memory nor ephemeral storage.
    pub fn other(&self, name: &str) -> i64 {
        self.others.iter().find(|(other, _)| **other == *name).map_or(0, |(_, amount)| *amount)
    }

    /// Whether nothing is asked for.
    pub fn is_none(&self) -> bool {
        self.cpu_millis == 0 && self.memory_bytes == 0 && self.ephemeral_bytes == 0 && self.others.is_empty()
    }

    /// Adds another amount.
    pub fn add(&mut self, more: &Self) {
        self.combine(more, i64::saturating_add);
    }

    /// Takes an amount away that was added before.
    pub fn subtract(&mut self, less: &Self) {
        self.combine(less, i64::saturating_sub);
        self.others.retain(|(_, amount)| *amount != 0);
    }

    /// Raises each resource to at least the other's amount.
    pub fn raise_to(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, with: fn(i64, i64) -> i64) {
        self.cpu_millis = with(self.cpu_millis, other.cpu_millis);
        self.memory_bytes = with(self.memory_bytes, other.memory_bytes);
        self.ephemeral_bytes = with(self.ephemeral_bytes, other.ephemeral_bytes);
        for (name, amount) in &other.others {
            match self.others.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => *known = with(*known, *amount),
                None => self.others.push((name.clone(), with(0, *amount))),
            }
        }
        self.others.sort();
    }
}

/// What a pod takes of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// What it requests: this is what must fit.
    pub exact: Resources,
    /// The same with an assumed amount of CPU and memory for containers that request none, so that
    /// scores see pods without requests too. Only CPU and memory are meaningful.
    pub assumed: Resources,
}

/// A pod's requests.
pub fn requests_of(pod: &Pod) -> Requests {
    Requests { exact: aggregate(pod, false), assumed: aggregate(pod, true) }
}

fn aggregate(pod: &Pod, assume: bool) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let status = pod.status.as_ref();
    let statuses = || {
        let main = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
        let init = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
        main.iter().chain(init)
    };
    let of = |container: &Container| {
        let status = statuses().find(|status| status.name == container.name);
        container_requests(container, status, assume)
    };
    let mut total = Resources::default();
    for container in &spec.containers {
        total.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut largest_init = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut at_this_step = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            total.add(&at_this_step);
            sidecars.add(&at_this_step);
            at_this_step = sidecars.clone();
        } else {
            at_this_step.add(&sidecars);
        }
        largest_init.raise_to(&at_this_step);
    }
    total.raise_to(&largest_init);
    if let Some(requests) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        let pod_level = Resources::from_wire(requests);
        if requests.contains_key("cpu") {
            total.cpu_millis = pod_level.cpu_millis;
        }
        if requests.contains_key("memory") {
            total.memory_bytes = pod_level.memory_bytes;
        }
        for (name, amount) in pod_level.others.iter().filter(|(name, _)| name.starts_with("hugepages-")) {
            total.others.retain(|(other, _)| other != name);
            total.others.push((name.clone(), *amount));
        }
        total.others.sort();
    }
    if let Some(overhead) = &spec.overhead {
        total.add(&Resources::from_wire(overhead));
    }
    total
}

/// What a container requests; while it is resized in place, the most of what it has and what it wants.
fn container_requests(container: &Container, status: Option<&ContainerStatus>, assume: bool) -> Resources {
    let wanted = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let mut requests = wanted.map(Resources::from_wire).unwrap_or_default();
    if let Some(status) = status {
        let actual = status.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        for list in actual.into_iter().chain(&status.allocated_resources) {
            requests.raise_to(&Resources::from_wire(list));
        }
    }
    if assume {
        let has = |name: &str| wanted.is_some_and(|wanted| wanted.contains_key(name));
        if !has("cpu") {
            requests.cpu_millis = ASSUMED_CPU_MILLIS;
        }
        if !has("memory") {
            requests.memory_bytes = ASSUMED_MEMORY_BYTES;
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(spec: &serde_json::Value, cpu_millis: i64, memory_bytes: i64) {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap();
        let exact = requests_of(&pod).exact;
        assert_eq!((exact.cpu_millis, exact.memory_bytes), (cpu_millis, memory_bytes));
    }

    fn container(cpu: &str, memory: &str) -> serde_json::Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    #[test]
    fn containers_add_up_and_init_containers_count_where_larger() {
        check(&json!({"containers": [container("100m", "1Mi"), container("200m", "2Mi")]}), 300, 3 << 20);
        check(
            &json!({"containers": [container("100m", "4Mi")], "initContainers": [container("1", "1Mi"), container("500m", "2Mi")]}),
            1000,
            4 << 20,
        );
    }

    #[test]
    fn sidecars_run_beside_what_comes_after_them() {
        let mut sidecar = container("100m", "1Mi");
        sidecar["restartPolicy"] = json!("Always");
        // The init container after the sidecar needs 300m + 100m; main needs 200m + 100m.
        check(
            &json!({"containers": [container("200m", "1Mi")], "initContainers": [sidecar, container("300m", "1Mi")]}),
            400,
            2 << 20,
        );
    }

    #[test]
    fn pod_level_requests_replace_the_sum_and_overhead_is_added() {
        check(
            &json!({"containers": [container("100m", "1Mi")], "resources": {"requests": {"cpu": "2"}},
                "overhead": {"cpu": "250m", "memory": "1Mi"}}),
            2250,
            2 << 20,
        );
    }

    #[test]
    fn scorers_assume_something_for_containers_without_requests() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {},
            "spec": {"containers": [{"name": "a"}, container("1", "1Mi")]}}))
        .unwrap();
        let requests = requests_of(&pod);
        assert_eq!(requests.exact.cpu_millis, 1000);
        assert_eq!(requests.assumed.cpu_millis, 1100);
        assert_eq!(requests.assumed.memory_bytes, (200 << 20) + (1 << 20));
    }

    #[test]
    fn a_container_being_resized_counts_with_the_larger_amount() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {},
            "spec": {"containers": [container("100m", "1Mi")]},
            "status": {"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "resources": {"requests": {"cpu": "300m"}}, "allocatedResources": {"memory": "5Mi"}}]}}))
        .unwrap();
        let exact = requests_of(&pod).exact;
        assert_eq!((exact.cpu_millis, exact.memory_bytes), (300, 5 << 20));
    }

    #[test]
    fn amounts_come_and_go_exactly() {
        let wire = |text: &str| WireQuantity(text.into());
        let list = BTreeMap::from([
            ("cpu".to_owned(), wire("1500m")),
            ("example.com/gpu".to_owned(), wire("2")),
            ("pods".to_owned(), wire("110")),
        ]);
        let one = Resources::from_wire(&list);
        let mut sum = one.clone();
        sum.add(&one);
        assert_eq!((sum.cpu_millis, sum.other("example.com/gpu")), (3000, 4));
        sum.subtract(&one);
        sum.subtract(&one);
        assert!(sum.is_none());
    }
}
