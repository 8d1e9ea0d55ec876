//! Managers of an object and of its Scale: who owns `spec.replicas` in one owns it in the other.
//!
//! Source: upstream's `managedfields.ScaleHandler`.

use serde_json::{Value, json};

use super::managers::{Entry, Managers};
use crate::patch::field_set::FieldSet;

const REPLICAS: &[&str] = &["spec", "replicas"];
const SCALE_VERSION: &str = "autoscaling/v1";

/// The managed fields of a Scale, from those of its object: whoever owns the replicas.
pub fn of_scale(object: &Value) -> Value {
    let mut managers = Managers::from_own(object["metadata"]["managedFields"].clone());
    for entry in managers.iter_mut() {
        entry.set = if entry.set.contains(REPLICAS) {
            FieldSet::from_own(json!({"f:spec": {"f:replicas": {}}}))
        } else {
            FieldSet::default()
        };
        SCALE_VERSION.clone_into(&mut entry.api_version);
    }
    managers.drop_empty();
    managers.into_wire()
}

/// The managed fields of an object of this version after its Scale was written with those of `scale`.
pub fn of_parent(object: &Value, scale: &Value, api_version: &str) -> Value {
    let mut managers = Managers::from_own(object["metadata"]["managedFields"].clone());
    let mut scale = Managers::from_own(scale["metadata"]["managedFields"].clone());
    for entry in managers.iter_mut().filter(|e| e.set.contains(REPLICAS)) {
        let there = Entry { api_version: SCALE_VERSION.to_owned(), ..entry.clone() };
        match scale.find_mut(&there) {
            // Settled: it keeps what it has, under its own version.
            Some(kept) => kept.set = FieldSet::default(),
            None => entry.set.remove_member(REPLICAS),
        }
    }
    managers.drop_empty();
    for entry in scale.iter().filter(|e| e.set.contains(REPLICAS)) {
        // As upstream: a manager that came through the scale alone has no time.
        let here = Entry { api_version: api_version.to_owned(), time: String::new(), ..entry.clone() };
        managers.replace(here);
    }
    managers.into_wire()
}
