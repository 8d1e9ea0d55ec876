//! Putting finalizers on objects and taking them off, as a change of that one entry.

use kube::Resource;
use serde_json::{Value, json};

use crate::owner;

/// Whether the object carries the finalizer.
pub(crate) fn has<K: Resource<DynamicType = ()>>(object: &K, finalizer: &str) -> bool {
    object.meta().finalizers.iter().flatten().any(|it| it == finalizer)
}

/// The strategic merge patch that adds one, if the object is still the same one.
pub(crate) fn add<K: Resource<DynamicType = ()>>(object: &K, finalizer: &str) -> Value {
    json!({"metadata": {"uid": owner::uid(object.meta()), "finalizers": [finalizer]}})
}

/// The strategic merge patch that takes one off.
pub(crate) fn remove<K: Resource<DynamicType = ()>>(object: &K, finalizer: &str) -> Value {
    json!({"metadata": {"uid": owner::uid(object.meta()), "$deleteFromPrimitiveList/finalizers": [finalizer]}})
}
