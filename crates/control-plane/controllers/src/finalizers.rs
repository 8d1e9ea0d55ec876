//! Putting finalizers on objects and taking them off, as a change of that one entry.

use kube::Resource;
use serde_json::{Value, json};

/// Whether the object carries the finalizer.
pub(crate) fn has<K: Resource<DynamicType = ()>>(object: &K, finalizer: &str) -> bool {
    object.meta().finalizers.iter().flatten().any(|it| it == finalizer)
}

/// The strategic merge patch that adds one to the object with `uid`.
pub(crate) fn add(uid: &str, finalizer: &str) -> Value {
    json!({"metadata": {"uid": uid, "finalizers": [finalizer]}})
}

/// The strategic merge patch that takes one off the object with `uid`.
pub(crate) fn remove(uid: &str, finalizer: &str) -> Value {
    json!({"metadata": {"uid": uid, "$deleteFromPrimitiveList/finalizers": [finalizer]}})
}
