//! Managers of an object and of its Scale: who owns `spec.replicas` in one owns it in the other.
//!
//! Source: upstream's `managedfields.ScaleHandler`.

use serde_json::Value;

use super::managers::Managers;
use crate::patch::field_set::FieldSet;

const REPLICAS: &[&str] = &["spec", "replicas"];
const SCALE_VERSION: &str = "autoscaling/v1";

fn replicas() -> FieldSet {
    let mut below = FieldSet::default();
    below.put("f:replicas".to_owned(), true, FieldSet::default());
    let mut set = FieldSet::default();
    set.put("f:spec".to_owned(), false, below);
    set
}

/// The managed fields of a Scale, from those of its object: whoever owns the replicas.
pub fn of_scale(object: &Value) -> Value {
    let mut managers = Managers::from_own(object["metadata"]["managedFields"].clone());
    for entry in managers.iter_mut() {
        entry.set = if entry.set.contains(REPLICAS) { replicas() } else { FieldSet::default() };
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
        let kept = scale.iter_mut().find(|of_scale| {
            let versions = (SCALE_VERSION, entry.api_version.as_str());
            let mut same = entry.clone();
            versions.0.clone_into(&mut same.api_version);
            of_scale.is_same_manager(&same)
        });
        match kept {
            // Settled: it keeps what it has, under its own version.
            Some(kept) => kept.set = FieldSet::default(),
            None => entry.set.subtract(&replicas()),
        }
    }
    managers.drop_empty();
    scale.drop_empty();
    for entry in scale.iter_mut().filter(|e| e.set.contains(REPLICAS)) {
        let mut entry = entry.clone();
        api_version.clone_into(&mut entry.api_version);
        // As upstream: a manager that came through the scale alone has no time.
        entry.time = String::new();
        managers.replace(entry);
    }
    managers.into_wire()
}
