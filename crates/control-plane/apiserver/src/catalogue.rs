//! Which kinds are served: built-in ones from the static table now, kinds that arrive at run time through the same type.

use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;

use podium_api::kinds::{self, Rules};
use podium_api::resources::{Resource, Selection, group_version};
use podium_api::schema::{self, TypeId};

use crate::metrics::KindSeries;

/// How a kind behaves: a built-in's rules live forever, those of a run-time kind as long as it is served.
#[derive(Clone)]
pub enum RulesRef {
    /// A built-in kind.
    Static(&'static dyn Rules),
    /// A kind that arrived at run time.
    Shared(Arc<dyn Rules>),
}

impl Deref for RulesRef {
    type Target = dyn Rules;

    fn deref(&self) -> &(dyn Rules + 'static) {
        match self {
            RulesRef::Static(rules) => *rules,
            RulesRef::Shared(rules) => &**rules,
        }
    }
}

impl fmt::Debug for RulesRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RulesRef")
    }
}

/// A subresource of a served kind.
#[derive(Clone, Debug)]
pub struct ServedSubresource {
    /// `status`, `scale`, ...
    pub name: String,
    /// The kind its bodies have.
    pub kind: String,
    /// The group of that kind.
    pub group: String,
    /// The version of that kind.
    pub version: String,
    /// What may be done.
    pub verbs: Vec<String>,
}

/// One kind in one version, as it is served.
#[derive(Clone, Debug)]
pub struct Served {
    /// API group.
    pub group: String,
    /// The served version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Plural resource name.
    pub plural: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Verbs of the resource itself.
    pub verbs: Vec<String>,
    /// Subresources.
    pub subresources: Vec<ServedSubresource>,
    /// The group objects are stored under.
    pub storage_group: String,
    /// The version objects are stored in.
    pub storage_version: String,
    /// Whether objects are stored at all (reviews are not).
    pub stored: bool,
    /// How it behaves.
    pub rules: RulesRef,
    /// The schema of the served version, for strategic merge.
    pub type_id: Option<TypeId>,
    /// The names field selectors may use besides name and namespace.
    pub selectable: Vec<&'static str>,
    /// The prefix of all keys of the kind, with the slash at its end.
    pub prefix: String,
    /// Where its requests are counted.
    pub(crate) counted: Counted,
}

/// The series of a kind, once something of it was counted. A copy of the kind may go by other names: it looks for its own.
#[derive(Debug, Default)]
pub(crate) struct Counted(pub(crate) OnceLock<Arc<KindSeries>>);

impl Clone for Counted {
    fn clone(&self) -> Counted {
        Counted::default()
    }
}

impl Served {
    fn built_in(resource: &'static Resource) -> Served {
        // Rules read objects as they are stored, whatever version a client speaks; but what is asked of an object may
        // depend on the group it came by, as for events.
        let rules = kinds::rules(resource.group, resource.kind);
        let nothing = serde_json::json!({});
        Served {
            group: resource.group.to_owned(),
            version: resource.version.to_owned(),
            kind: resource.kind.to_owned(),
            plural: resource.plural.to_owned(),
            namespaced: resource.namespaced,
            verbs: resource.verbs.iter().map(|verb| (*verb).to_owned()).collect(),
            subresources: resource
                .subresources
                .iter()
                .map(|sub| {
                    let (group, version) = sub.group_version(resource);
                    ServedSubresource {
                        name: sub.name.to_owned(),
                        kind: sub.kind.to_owned(),
                        group: group.to_owned(),
                        version: version.to_owned(),
                        verbs: sub.verbs.iter().map(|verb| (*verb).to_owned()).collect(),
                    }
                })
                .collect(),
            storage_group: resource.storage_group.to_owned(),
            storage_version: resource.storage_version.to_owned(),
            stored: resource.is_stored(),
            selectable: rules.selectable_fields(&nothing).into_iter().map(|(name, _)| name).collect(),
            rules: RulesRef::Static(rules),
            type_id: schema::type_of(resource.group, resource.version, resource.kind),
            prefix: prefix(resource.storage_group, resource.plural),
            counted: Counted::default(),
        }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        group_version(&self.group, &self.version)
    }

    /// Whether clients see objects as they are stored.
    pub fn as_stored(&self) -> bool {
        self.group == self.storage_group && self.version == self.storage_version
    }

    /// Whether the resource itself takes this verb.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// A subresource by name.
    pub fn subresource(&self, name: &str) -> Option<&ServedSubresource> {
        self.subresources.iter().find(|sub| sub.name == name)
    }
}

/// The prefix of the keys of one kind of object: `/registry/<group>/<resource>/`, `core` for the core group.
pub fn prefix(group: &str, resource: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    format!("/registry/{group}/{resource}/")
}

/// Served kinds by plural name; few share one, so a look-up is one hash and a short walk, and allocates nothing.
type ByPlural = HashMap<String, Vec<Arc<Served>>, ahash::RandomState>;

/// All kinds served now. Reads take a snapshot; a change replaces it.
#[derive(Debug)]
pub struct Catalogue {
    current: RwLock<Arc<ByPlural>>,
}

impl Catalogue {
    /// The built-in kinds that are to be served.
    pub fn built_in(selection: &Selection) -> Catalogue {
        let mut map = ByPlural::default();
        for resource in selection.iter() {
            add(&mut map, Served::built_in(resource));
        }
        Catalogue { current: RwLock::new(Arc::new(map)) }
    }

    /// The kind at an address.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Served>> {
        let current = self.current.read();
        let same = current.get(plural)?;
        same.iter().find(|served| served.group == group && served.version == version).cloned()
    }

    /// The kind whose objects are stored under this group and resource, in its storage version.
    pub fn stored(&self, group: &str, plural: &str) -> Option<Arc<Served>> {
        let current = self.current.read();
        let same = current.get(plural)?;
        same.iter().find(|served| served.stored && served.group == group && served.as_stored()).cloned()
    }

    /// Every kind in its storage version, for counting what is stored.
    pub fn all_stored(&self) -> Vec<Arc<Served>> {
        let current = Arc::clone(&self.current.read());
        let mut all: Vec<Arc<Served>> = current
            .values()
            .flatten()
            .filter(|served| served.stored && served.as_stored())
            .cloned()
            .collect();
        all.sort_by(|a, b| a.prefix.cmp(&b.prefix));
        all
    }

    /// Serves one more kind, or a new form of it.
    pub fn serve(&self, served: Served) {
        let mut current = self.current.write();
        let mut map = (**current).clone();
        add(&mut map, served);
        *current = Arc::new(map);
    }
}

fn add(map: &mut ByPlural, served: Served) {
    let same = map.entry(served.plural.clone()).or_default();
    same.retain(|other| other.group != served.group || other.version != served.version);
    same.push(Arc::new(served));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_and_may_arrive_later() {
        let catalogue = Catalogue::built_in(&Selection::default());
        assert_eq!(catalogue.find("", "v1", "pods").unwrap().kind, "Pod");
        assert_eq!(catalogue.stored("", "events").unwrap().version, "v1");
        assert!(!catalogue.find("events.k8s.io", "v1", "events").unwrap().as_stored());
        let faults = |group: &str| {
            let mut errors = podium_api::field::Errors::new();
            let event =
                serde_json::json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a"}});
            catalogue.find(group, "v1", "events").unwrap().rules.validate(&event, &mut errors);
            errors.0.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert!(faults("").is_empty(), "{:?}", faults(""));
        assert!(faults("events.k8s.io").contains(&"eventTime: Required value".to_owned()));
        assert!(catalogue.find("example.com", "v1", "widgets").is_none());
        let mut widget = (*catalogue.find("", "v1", "configmaps").unwrap()).clone();
        widget.group = "example.com".to_owned();
        widget.plural = "widgets".to_owned();
        catalogue.serve(widget);
        assert!(catalogue.find("example.com", "v1", "widgets").is_some());
    }
}
