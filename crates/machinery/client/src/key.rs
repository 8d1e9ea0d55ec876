//! The name of an object inside its kind, and what a type must be able to do to be cached.

use std::fmt;

use k8s_openapi::serde::de::DeserializeOwned;
use serde::Serialize;

/// A Kubernetes type known at compile time, such as `k8s_openapi::api::core::v1::Pod`.
///
/// Implemented for every type that qualifies; there is nothing to write.
pub trait Object:
    kube::Resource<DynamicType = ()> + DeserializeOwned + Serialize + Clone + fmt::Debug + Send + Sync + 'static
{
}

impl<K> Object for K where
    K: kube::Resource<DynamicType = ()>
        + DeserializeOwned
        + Serialize
        + Clone
        + fmt::Debug
        + Send
        + Sync
        + 'static
{
}

/// Namespace and name of one object. Ordered by namespace, then name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl ObjectKey {
    /// The key of a namespaced object (or of a cluster-scoped one, with an empty namespace).
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of a cluster-scoped object.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self::new("", name)
    }

    /// The key of any object; parts that are absent are empty.
    pub fn of<K: kube::Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }

    /// Reads `namespace/name` or `name`, the form [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Self {
        match text.split_once('/') {
            Some((namespace, name)) => Self::new(namespace, name),
            None => Self::cluster(text),
        }
    }
}

impl<K: kube::Resource> From<&K> for ObjectKey {
    fn from(object: &K) -> Self {
        Self::of(object)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}
