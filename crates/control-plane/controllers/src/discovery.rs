//! Which resources the API server serves, for the controllers that deal with all of them.

use std::collections::BTreeSet;

use kube::Client;
use kube::core::{ApiResource, GroupVersionKind};
use podium_client::{ResourcePath, status_of};

use crate::context;

/// One served resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    /// Where it is.
    pub(crate) path: ResourcePath,
    /// The versions it is served in, that of the path first.
    pub(crate) versions: Vec<String>,
    /// Its kind.
    pub(crate) kind: String,
    /// Whether its objects live in namespaces.
    pub(crate) namespaced: bool,
    /// Whether its objects have the subresource `scale`.
    pub(crate) scalable: bool,
    /// What can be done with it.
    pub(crate) verbs: BTreeSet<String>,
}

impl Served {
    /// Whether all of `verbs` are offered.
    pub(crate) fn supports(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.contains(*verb))
    }

    /// `group/version`, or the version alone for the core group.
    pub(crate) fn api_version(&self) -> String {
        if self.path.group.is_empty() {
            self.path.version.clone()
        } else {
            format!("{}/{}", self.path.group, self.path.version)
        }
    }

    /// `plural.group`, or the plural alone for the core group.
    pub(crate) fn group_resource(&self) -> String {
        let (plural, group) = (&self.path.plural, &self.path.group);
        if group.is_empty() { plural.clone() } else { format!("{plural}.{group}") }
    }

    /// The resource as kube's dynamic calls want it.
    pub(crate) fn api_resource(&self) -> ApiResource {
        let kind = GroupVersionKind::gvk(&self.path.group, &self.path.version, &self.kind);
        ApiResource::from_gvk_with_plural(&kind, &self.path.plural)
    }
}

/// What was found, and what could not be asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// One version of each resource, the preferred one if it is served there.
    pub(crate) served: Vec<Served>,
    /// Groups that did not answer, with the reason.
    pub(crate) failed: Vec<(String, String)>,
}

/// Asks for all resources of all groups.
pub(crate) async fn discover(client: &Client) -> Result<Found, kube::Error> {
    let mut found = Found::default();
    for version in client.list_core_api_versions().await?.versions {
        match client.list_core_api_resources(&version).await {
            Ok(list) => add("", &version, list.resources, &mut found.served),
            Err(error) => found.failed.push((version, context::words(&error))),
        }
    }
    for group in client.list_api_groups().await?.groups {
        let preferred = group.preferred_version.as_ref().map(|it| it.version.clone());
        let others =
            group.versions.iter().map(|it| it.version.clone()).filter(|it| Some(it) != preferred.as_ref());
        for version in preferred.iter().cloned().chain(others) {
            let group_version = format!("{}/{version}", group.name);
            match client.list_api_group_resources(&group_version).await {
                Ok(list) => add(&group.name, &version, list.resources, &mut found.served),
                Err(error) => found.failed.push((group_version, context::words(&error))),
            }
        }
    }
    Ok(found)
}

/// Whether a call failed because nothing is served at its path: the kind is gone, or a version of it. Unlike the 404 of an object
/// that is not there it names none. Source: `NewNotFound` and `NewGenericServerResponse`.
pub(crate) fn is_path_missing(error: &kube::Error) -> bool {
    status_of(error).is_some_and(|status| {
        status.code == 404 && status.details.as_ref().is_none_or(|details| details.name.is_empty())
    })
}

type Listed = k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;

fn add(group: &str, version: &str, resources: Vec<Listed>, served: &mut Vec<Served>) {
    let scaled: BTreeSet<String> =
        resources.iter().filter_map(|it| it.name.strip_suffix("/scale")).map(str::to_owned).collect();
    for resource in resources {
        // A slash marks a subresource.
        if resource.name.contains('/') {
            continue;
        }
        let known = served.iter_mut().find(|it| it.path.group == group && it.path.plural == resource.name);
        if let Some(known) = known {
            known.versions.push(version.to_owned());
            continue;
        }
        served.push(Served {
            versions: vec![version.to_owned()],
            scalable: scaled.contains(&resource.name),
            path: ResourcePath {
                group: group.to_owned(),
                version: version.to_owned(),
                plural: resource.name,
            },
            kind: resource.kind,
            namespaced: resource.namespaced,
            verbs: resource.verbs.into_iter().collect(),
        });
    }
}
