//! The resources this API server serves: one static table, from which routing, discovery and OpenAPI are made.
//!
//! Source: the discovery documents of Kubernetes v1.36. All GA and beta versions are in the table; what is served are
//! the GA ones, which is what upstream serves unless it is asked for more ([`Selection`]).

mod selection;
mod table;
#[cfg(test)]
mod tests;

pub use selection::{Selection, SelectionError};

/// One resource in one served version.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The served version.
    pub version: &'static str,
    /// For example `Pod`.
    pub kind: &'static str,
    /// For example `pods`: the name in URLs.
    pub plural: &'static str,
    /// For example `pod`.
    pub singular: &'static str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// For example `po`.
    pub short_names: &'static [&'static str],
    /// For example `all`.
    pub categories: &'static [&'static str],
    /// Sorted; never empty.
    pub verbs: &'static [&'static str],
    /// The group objects are stored under: differs from `group` only for `events.k8s.io`.
    pub storage_group: &'static str,
    /// The version objects are stored in.
    pub storage_version: &'static str,
    /// Sorted by name.
    pub subresources: &'static [Subresource],
    /// The version upstream's `storageVersionHash` is computed from; empty where upstream publishes none because
    /// nothing is stored.
    pub(crate) hash_version: &'static str,
}

/// A subresource, such as `pods/log`.
#[derive(Debug, PartialEq, Eq)]
pub struct Subresource {
    /// For example `status`.
    pub name: &'static str,
    /// The kind it reads or writes, for example `Scale`.
    pub kind: &'static str,
    /// The group of that kind; meaningful only if `version` is not empty.
    pub group: &'static str,
    /// The version of that kind; empty if it is in the parent's group and version.
    pub version: &'static str,
    /// Sorted.
    pub verbs: &'static [&'static str],
}

impl Resource {
    /// Whether objects of this resource are stored (false for reviews, bindings, component statuses).
    pub const fn is_stored(&self) -> bool {
        !self.hash_version.is_empty()
    }

    /// `v1` or `apps/v1`: the `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        group_version(self.group, self.version)
    }

    /// The `apiVersion` objects are stored with.
    pub fn storage_api_version(&self) -> String {
        group_version(self.storage_group, self.storage_version)
    }

    /// A subresource by name.
    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether the resource itself takes this verb.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }
}

impl Subresource {
    /// Group and version of the kind this subresource reads or writes.
    pub fn group_version(&self, parent: &Resource) -> (&'static str, &'static str) {
        if self.version.is_empty() { (parent.group, parent.version) } else { (self.group, self.version) }
    }
}

/// The `apiVersion` text of a group and version.
pub fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Group and version of an `apiVersion`: `v1` is the core group.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// [`split_api_version`] of a text that may be anything. Neither part is judged.
///
/// # Errors
/// More than one slash, in the words of upstream's `schema.ParseGroupVersion`.
pub(crate) fn parse_api_version(api_version: &str) -> Result<(&str, &str), String> {
    match split_api_version(api_version) {
        (_, version) if version.contains('/') => {
            Err(format!("unexpected GroupVersion string: {api_version}"))
        }
        parts => Ok(parts),
    }
}

/// Every resource that is known, served or not, groups in upstream's order of preference, versions of a group in order
/// of preference.
pub fn all() -> &'static [Resource] {
    table::RESOURCES
}

/// Every resource served by default: upstream's betas are off.
pub fn served() -> impl Iterator<Item = &'static Resource> {
    all().iter().filter(|r| !r.version.contains("beta"))
}

/// A resource that is served by default, by its URL name.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    served().find(|r| r.plural == plural && r.group == group && r.version == version)
}

/// A resource by its kind.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Resource> {
    all().iter().find(|r| r.kind == kind && r.group == group && r.version == version)
}
