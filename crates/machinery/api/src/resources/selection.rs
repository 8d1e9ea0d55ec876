//! Which of the known resources a server serves: upstream's `--runtime-config`.

use std::fmt;
use std::str::FromStr;

use super::{Resource, all, group_version};
use crate::kinds::features::Features;

/// The resources a server serves, in the order of the table. By default the GA ones, as upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    resources: Vec<&'static Resource>,
}

/// Why a text is no selection of resources.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// Not of the form `group/version`, `group/version/resource` or `api/...`.
    #[error(
        "runtime-config invalid key {0}: group/version, group/version/resource, api/all, api/ga or api/beta is wanted"
    )]
    Key(String),
    /// Neither true nor false.
    #[error("invalid value of {0}: {1:?} is neither true nor false")]
    Value(String, String),
    /// No such group.
    #[error("unknown api groups {0}")]
    Group(String),
    /// No such version of the group.
    #[error("group version {0} that has not been registered")]
    Version(String),
    /// No such resource in the version.
    #[error("unknown resource {1} in {0}")]
    Resource(String, String),
    /// Alpha versions are asked for.
    #[error("alpha versions of the API are not built in: {0} cannot be true")]
    Alpha(String),
    /// Nothing would be left to serve.
    #[error("invalid key with only api/all=false: nothing would be served")]
    Nothing,
    /// A version is served whose objects are stored in one that is not.
    #[error("{served} cannot be served without {stored}, the version that its objects are stored in")]
    Stored {
        /// The version and resource that stays on.
        served: String,
        /// The version that would be off.
        stored: String,
    },
    /// What a server cannot be without.
    #[error("{0} cannot be off: this server needs it itself")]
    Needed(String),
}

/// Groups whose GA versions the server reads and writes on its own account: admission, authorization, its own Service.
const NEEDED: &[&str] = &[
    "",
    "discovery.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "scheduling.k8s.io",
];

/// What one entry is about, the general before the special: later ones win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target<'a> {
    All,
    Stage(Stage),
    Version(&'a str, &'a str),
    Resource(&'a str, &'a str, &'a str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Ga,
    Beta,
    Alpha,
}

fn stage(version: &str) -> Stage {
    match version {
        v if v.contains("alpha") => Stage::Alpha,
        v if v.contains("beta") => Stage::Beta,
        _ => Stage::Ga,
    }
}

impl Target<'_> {
    fn matches(&self, resource: &Resource) -> bool {
        match *self {
            Target::All => true,
            Target::Stage(wanted) => stage(resource.version) == wanted,
            Target::Version(group, version) => resource.group == group && resource.version == version,
            Target::Resource(group, version, plural) => {
                resource.group == group && resource.version == version && resource.plural == plural
            }
        }
    }
}

impl Default for Selection {
    fn default() -> Selection {
        Selection { resources: all().iter().filter(|r| stage(r.version) == Stage::Ga).collect() }
    }
}

impl Selection {
    /// Without the resources of features that are off, whatever was asked for: upstream's server does not install them.
    #[must_use]
    pub fn with_features(mut self, features: Features) -> Selection {
        self.resources.retain(|resource| features.serve(resource.group, resource.plural));
        self
    }

    /// Every resource served.
    pub fn iter(&self) -> impl Iterator<Item = &'static Resource> + '_ {
        self.resources.iter().copied()
    }

    /// The resources of one version.
    pub fn of<'a>(
        &'a self,
        group: &'a str,
        version: &'a str,
    ) -> impl Iterator<Item = &'static Resource> + 'a {
        self.iter().filter(move |r| r.group == group && r.version == version)
    }

    /// The groups served, in order of preference, each with its versions in order of preference. The core group comes
    /// first.
    pub fn groups(&self) -> Vec<(&'static str, Vec<&'static str>)> {
        let mut groups: Vec<(&'static str, Vec<&'static str>)> = Vec::new();
        for resource in self.iter() {
            match groups.iter_mut().find(|(group, _)| *group == resource.group) {
                Some((_, versions)) if versions.contains(&resource.version) => {}
                Some((_, versions)) => versions.push(resource.version),
                None => groups.push((resource.group, vec![resource.version])),
            }
        }
        groups
    }

    /// What upstream would serve but this server cannot be without, or cannot serve alone.
    fn check(&self) -> Result<(), SelectionError> {
        let known = all().iter();
        if let Some(needed) = known
            .filter(|r| stage(r.version) == Stage::Ga && NEEDED.contains(&r.group))
            .find(|r| !self.has(r))
        {
            return Err(SelectionError::Needed(needed.api_version()));
        }
        for resource in self.iter().filter(|r| r.is_stored()) {
            let stored = all().iter().find(|r| {
                r.group == resource.storage_group
                    && r.version == resource.storage_version
                    && r.plural == resource.plural
            });
            if !stored.is_some_and(|stored| self.has(stored)) {
                return Err(SelectionError::Stored {
                    served: format!("{}/{}", resource.api_version(), resource.plural),
                    stored: resource.storage_api_version(),
                });
            }
        }
        Ok(())
    }

    fn has(&self, resource: &Resource) -> bool {
        self.iter().any(|r| std::ptr::eq(r, resource))
    }
}

/// What an entry of a `--runtime-config` names.
fn target(key: &str) -> Result<Target<'_>, SelectionError> {
    let parts: Vec<&str> = key.split('/').collect();
    let (group, version, plural) = match parts.as_slice() {
        ["api", "all"] => return Ok(Target::All),
        ["api", "ga"] => return Ok(Target::Stage(Stage::Ga)),
        ["api", "beta"] => return Ok(Target::Stage(Stage::Beta)),
        ["api", "alpha"] => return Ok(Target::Stage(Stage::Alpha)),
        ["v1"] | ["api", "v1"] => ("", "v1", None),
        ["", ..] | [_, ""] | [_, _, ""] => return Err(SelectionError::Key(key.to_owned())),
        [group, version] => (*group, *version, None),
        [group, version, plural] => (*group, *version, Some(*plural)),
        _ => return Err(SelectionError::Key(key.to_owned())),
    };
    if !all().iter().any(|r| r.group == group) {
        return Err(SelectionError::Group(group.to_owned()));
    }
    let shown = group_version(group, version);
    if !all().iter().any(|r| r.group == group && r.version == version) {
        return Err(if stage(version) == Stage::Alpha {
            SelectionError::Alpha(key.to_owned())
        } else {
            SelectionError::Version(shown)
        });
    }
    let Some(plural) = plural else { return Ok(Target::Version(group, version)) };
    if !all().iter().any(|r| r.group == group && r.version == version && r.plural == plural) {
        return Err(SelectionError::Resource(shown, plural.to_owned()));
    }
    Ok(Target::Resource(group, version, plural))
}

impl FromStr for Selection {
    type Err = SelectionError;

    /// Reads `key=value` pairs set apart by commas; a key alone means true. The special wins over the general, whatever
    /// the order. Source: upstream's `MergeAPIResourceConfigs`. Differences: there are no alpha versions, and neither
    /// what the server needs itself nor a storage version can be off.
    fn from_str(text: &str) -> Result<Selection, SelectionError> {
        let mut entries: Vec<(Target<'_>, bool)> = Vec::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
            let on = match value {
                "" | "true" | "True" | "TRUE" | "t" | "T" | "1" => true,
                "false" | "False" | "FALSE" | "f" | "F" | "0" => false,
                other => return Err(SelectionError::Value(key.to_owned(), other.to_owned())),
            };
            let target = match target(key) {
                Ok(Target::Stage(Stage::Alpha)) if on => return Err(SelectionError::Alpha(key.to_owned())),
                // Off is what it is.
                Err(SelectionError::Alpha(_)) if !on => continue,
                target => target?,
            };
            entries.retain(|(other, _)| *other != target);
            entries.push((target, on));
        }
        if entries == [(Target::All, false)] {
            return Err(SelectionError::Nothing);
        }
        entries.sort_by_key(|(target, _)| *target);
        let is_on = |resource: &Resource| {
            let said = entries.iter().rev().find(|(target, _)| target.matches(resource));
            said.map_or(stage(resource.version) == Stage::Ga, |(_, on)| *on)
        };
        let selection = Selection { resources: all().iter().filter(|r| is_on(r)).collect() };
        selection.check()?;
        Ok(selection)
    }
}

impl fmt::Display for Selection {
    /// The versions served, for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = self.groups();
        let versions = groups.iter().flat_map(|(g, versions)| versions.iter().map(|v| group_version(g, v)));
        f.write_str(&versions.collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(text: &str) -> Vec<String> {
        let selection: Selection = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        let default = Selection::default();
        let added = selection.iter().filter(|r| !default.has(r)).map(|r| (r, "+"));
        let gone = default.iter().filter(|r| !selection.has(r)).map(|r| (r, "-"));
        added
            .chain(gone.collect::<Vec<_>>())
            .map(|(r, sign)| format!("{sign}{}/{}", r.api_version(), r.plural))
            .collect()
    }

    #[test]
    fn ga_versions_are_served_by_default() {
        assert!(Selection::default().iter().all(|r| !r.version.contains("beta")));
        assert_eq!(on(""), [""; 0]);
        assert_eq!(on("api/ga=true,api/beta=false,api/alpha=false,v1=true,apps/v1"), [""; 0]);
    }

    #[test]
    fn resources_of_features_need_both() {
        let served = |text: &str, features: Features| {
            let selection = text.parse::<Selection>().unwrap().with_features(features);
            selection.of("certificates.k8s.io", "v1beta1").map(|r| r.plural).collect::<Vec<_>>()
        };
        let on = Features { cluster_trust_bundle: true, ..Features::default() };
        assert_eq!(served("api/beta=true", on), ["clustertrustbundles"]);
        assert_eq!(served("api/beta=true", Features::default()), [""; 0]);
        assert_eq!(served("", on), [""; 0]);
    }

    #[test]
    fn versions_and_resources_are_turned_on_and_off() {
        assert_eq!(
            on("networking.k8s.io/v1beta1"),
            ["+networking.k8s.io/v1beta1/ipaddresses", "+networking.k8s.io/v1beta1/servicecidrs"]
        );
        assert_eq!(
            on("networking.k8s.io/v1beta1/ipaddresses=true"),
            ["+networking.k8s.io/v1beta1/ipaddresses"]
        );
        assert_eq!(
            on("networking.k8s.io/v1beta1/ipaddresses=false,networking.k8s.io/v1beta1=true"),
            ["+networking.k8s.io/v1beta1/servicecidrs"],
            "the special wins whatever the order"
        );
        assert_eq!(on("autoscaling/v1=false"), ["-autoscaling/v1/horizontalpodautoscalers"]);
        assert_eq!(on("storage.k8s.io/v1beta1=true,storage.k8s.io/v1beta1=false"), [""; 0]);
        let betas = on("api/all=true");
        assert_eq!(betas, on("api/beta=true"));
        assert_eq!(betas.len(), all().iter().filter(|r| r.version.contains("beta")).count());
        assert!(on("resource.k8s.io/v1alpha3=false").is_empty(), "alpha versions are off anyway");
        assert!(on("api/beta=true,resource.k8s.io/v1beta1=false").len() < betas.len());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (text, wanted) in [
            ("nonsense", "runtime-config invalid key nonsense"),
            ("a/b/c/d=true", "runtime-config invalid key a/b/c/d"),
            ("apps/=true", "runtime-config invalid key apps/"),
            ("example.com/v1=true", "unknown api groups example.com"),
            ("apps/v1beta1=true", "group version apps/v1beta1 that has not been registered"),
            ("apps/v1/pods=true", "unknown resource pods in apps/v1"),
            ("apps/v1=yes", "invalid value of apps/v1: \"yes\" is neither true nor false"),
            ("api/alpha=true", "alpha versions of the API are not built in: api/alpha cannot be true"),
            ("resource.k8s.io/v1alpha3", "alpha versions of the API are not built in"),
            ("api/all=false", "nothing would be served"),
            ("v1=false", "v1 cannot be off: this server needs it itself"),
            ("rbac.authorization.k8s.io/v1=false", "cannot be off"),
            (
                "resource.k8s.io/v1=false,resource.k8s.io/v1beta2=true",
                "cannot be served without resource.k8s.io/v1",
            ),
        ] {
            let error = text.parse::<Selection>().expect_err(text).to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
