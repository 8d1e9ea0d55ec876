//! The quality-of-service class of a pod. Source: `pkg/apis/core/helper/qos`.

use serde_json::Value;

use crate::kinds::tree::{has, list, value};
use crate::quantity::Quantity;

/// Requests or limits of cpu and memory summed over containers; `None` where none is above zero.
#[derive(Default, PartialEq)]
struct Totals([Option<Quantity>; 2]);

impl Totals {
    /// Adds a resource list; the number of the two resources it names with more than zero.
    fn add(&mut self, list: &Value) -> usize {
        let mut found = 0;
        for (total, name) in self.0.iter_mut().zip(["cpu", "memory"]) {
            let Some(Ok(amount)) = list.get(name).map(Quantity::from_value) else { continue };
            if amount > Quantity::ZERO {
                *total = Some(total.unwrap_or_default() + amount);
                found += 1;
            }
        }
        found
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}

/// `Guaranteed`, `Burstable` or `BestEffort`, from cpu and memory of the containers or, if set, of the pod.
pub fn qos_class(pod: &Value) -> &'static str {
    let spec = value(pod, "spec");
    let (mut requests, mut limits) = (Totals::default(), Totals::default());
    let mut guaranteed = true;
    if has(spec, "resources") {
        let resources = value(spec, "resources");
        requests.add(value(resources, "requests"));
        let found = limits.add(value(resources, "limits"));
        guaranteed = !has(resources, "limits") || found == 2;
    } else {
        for container in list(spec, "containers").iter().chain(list(spec, "initContainers")) {
            let resources = value(container, "resources");
            requests.add(value(resources, "requests"));
            guaranteed &= limits.add(value(resources, "limits")) == 2;
        }
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if guaranteed && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}
