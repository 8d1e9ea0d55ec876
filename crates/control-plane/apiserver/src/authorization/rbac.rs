//! Role-based access control: an index from subject to rules, compiled from roles and bindings and kept up to date.
//!
//! A decision looks up the user's name and each group among the cluster's and the namespace's grants and tries the rules of the
//! roles found. Nothing is parsed and, unless the answer needs words, nothing allocated. Aggregated ClusterRoles count
//! as the union of what they select even before a controller has written that union into them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;
use podium_api::selector::LabelSelector;
use serde_json::Value;

use super::{Attributes, Decision, go_quote};
use crate::authentication::User;
use crate::objects::{Objects, Pending, Work, text};

pub mod rule;

pub use rule::Rule;

const GROUP: &str = "rbac.authorization.k8s.io";
/// Order matters: the index applies a change by its place here.
const FOLLOWED: [(&str, &str); 4] =
    [(GROUP, "clusterroles"), (GROUP, "roles"), (GROUP, "clusterrolebindings"), (GROUP, "rolebindings")];

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// The RBAC authoriser.
pub struct Rbac {
    objects: Objects,
    pending: Arc<Pending>,
    index: RwLock<Index>,
}

impl std::fmt::Debug for Rbac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rbac").finish_non_exhaustive()
    }
}

impl Rbac {
    /// Follows roles and bindings.
    pub fn new(objects: Objects) -> Self {
        let pending = Pending::follow(&objects, &FOLLOWED);
        Rbac { objects, pending, index: RwLock::default() }
    }

    /// Decides one request.
    pub fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        self.refresh();
        self.index.read().authorize(attributes)
    }

    /// Every rule that applies to a user in a namespace (empty: cluster-wide only), and what could not be resolved.
    pub fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        self.refresh();
        let index = self.index.read();
        let mut rules = Vec::new();
        let mut missing = Missing::default();
        index.visit(user, namespace, &mut missing, |_, found| {
            rules.extend(found.iter().cloned());
            false
        });
        (rules, missing.0)
    }

    /// The rules a role reference stands for, in the namespace of the binding (empty for a cluster's).
    ///
    /// # Errors
    /// Upstream's text for a role that does not exist.
    pub fn role_rules(&self, kind: &str, name: &str, namespace: &str) -> Result<Vec<Rule>, String> {
        self.refresh();
        let key = RoleKey::of(kind, name, namespace);
        self.index.read().roles.get(&key).map(|role| role.effective.to_vec()).ok_or_else(|| key.not_found())
    }

    fn refresh(&self) {
        if !self.pending.any() {
            return;
        }
        let mut index = self.index.write();
        match self.pending.take() {
            Work::Reload => {
                *index = Index::default();
                for (which, (group, resource)) in FOLLOWED.into_iter().enumerate() {
                    for object in self.objects.source().list(group, resource, None) {
                        let (namespace, name) =
                            (text(&object, "/metadata/namespace"), text(&object, "/metadata/name"));
                        index.set(which, namespace, name, Some(&object));
                    }
                }
                index.aggregate();
            }
            Work::Keys(keys) => {
                let mut roles_changed = false;
                for (which, namespace, name) in keys {
                    let (group, resource) = FOLLOWED[which];
                    let object = self.objects.source().get(group, resource, &namespace, &name);
                    roles_changed |= which == 0;
                    index.set(which, &namespace, &name, object.as_deref());
                }
                if roles_changed {
                    index.aggregate();
                }
            }
        }
    }
}

/// Namespace (empty for a ClusterRole) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RoleKey {
    namespace: String,
    name: String,
}

impl RoleKey {
    fn of(kind: &str, name: &str, binding_namespace: &str) -> RoleKey {
        let namespace = if kind == "Role" { binding_namespace } else { "" };
        RoleKey { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn not_found(&self) -> String {
        let kind = if self.namespace.is_empty() { "clusterrole" } else { "role" };
        format!("{kind}.{GROUP} {} not found", go_quote(&self.name))
    }
}

struct Role {
    own: Arc<[Rule]>,
    /// `own` and everything selected.
    effective: Arc<[Rule]>,
    /// Empty unless the role aggregates.
    selectors: Vec<LabelSelector>,
    /// `metadata.labels` only, in the place a selector looks for them.
    labels: Value,
}

/// One binding's meaning for one subject.
struct Grant {
    /// The binding's name, to take it out again.
    binding: Arc<str>,
    role: RoleKey,
    reason: Arc<str>,
}

#[derive(Default)]
struct Grants {
    users: Map<String, Vec<Grant>>,
    groups: Map<String, Vec<Grant>>,
}

#[derive(Default)]
struct Index {
    roles: Map<RoleKey, Role>,
    cluster: Grants,
    namespaces: Map<String, Grants>,
    /// By namespace and name of the binding: the users and groups it is filed under.
    bindings: Map<(String, String), Vec<(bool, String)>>,
}

#[derive(Default)]
struct Missing(Vec<String>);

impl Index {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let mut allowed: Option<Arc<str>> = None;
        let mut missing = Missing::default();
        self.visit(attributes.user, attributes.namespace, &mut missing, |grant, rules| {
            if rules.iter().any(|rule| rule.allows(attributes)) {
                allowed = Some(Arc::clone(&grant.reason));
            }
            allowed.is_some()
        });
        if let Some(reason) = allowed {
            return Decision::Allow { reason };
        }
        let reason = match missing.0.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        };
        Decision::NoOpinion { reason: Arc::from(reason) }
    }

    /// Calls `each` with every grant that applies until it says it has seen enough.
    fn visit(
        &self,
        user: &User,
        namespace: &str,
        missing: &mut Missing,
        mut each: impl FnMut(&Grant, &[Rule]) -> bool,
    ) {
        let local = if namespace.is_empty() { None } else { self.namespaces.get(namespace) };
        for grants in [Some(&self.cluster), local].into_iter().flatten() {
            let by_name = grants.users.get(&user.name);
            let by_group = user.groups.iter().filter_map(|group| grants.groups.get(group));
            for grant in by_name.into_iter().chain(by_group).flatten() {
                match self.roles.get(&grant.role) {
                    Some(role) => {
                        if each(grant, &role.effective) {
                            return;
                        }
                    }
                    None => {
                        let text = grant.role.not_found();
                        if !missing.0.contains(&text) {
                            missing.0.push(text);
                        }
                    }
                }
            }
        }
    }

    /// Takes in the newest state of an object of `FOLLOWED[which]`.
    fn set(&mut self, which: usize, namespace: &str, name: &str, object: Option<&Value>) {
        if which < 2 {
            self.set_role(RoleKey { namespace: namespace.to_owned(), name: name.to_owned() }, object);
        } else {
            self.set_binding(namespace, name, object);
        }
    }

    fn set_role(&mut self, key: RoleKey, object: Option<&Value>) {
        let Some(object) = object else {
            self.roles.remove(&key);
            return;
        };
        let own: Arc<[Rule]> = Rule::all_of(object).into();
        let selectors = object["aggregationRule"]["clusterRoleSelectors"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|selector| LabelSelector::from_value(selector).ok())
            .collect();
        let labels = serde_json::json!({"metadata": {"labels": object["metadata"]["labels"]}});
        self.roles.insert(key, Role { effective: Arc::clone(&own), own, selectors, labels });
    }

    /// Brings aggregating roles up to date. An aggregated role may itself be selected (view, edit, admin), so this goes on until
    /// nothing changes; each turn can only add, so it ends.
    fn aggregate(&mut self) {
        let aggregating: Vec<RoleKey> = self
            .roles
            .iter()
            .filter(|(_, role)| !role.selectors.is_empty())
            .map(|(key, _)| key.clone())
            .collect();
        for key in &aggregating {
            if let Some(role) = self.roles.get_mut(key) {
                role.effective = Arc::clone(&role.own);
            }
        }
        loop {
            let mut changed = false;
            for key in &aggregating {
                let role = &self.roles[key];
                let mut union: BTreeSet<Rule> = role.own.iter().cloned().collect();
                for (other_key, other) in &self.roles {
                    let selected = other_key != key
                        && other_key.namespace.is_empty()
                        && role.selectors.iter().any(|selector| selector.matches_value(&other.labels));
                    if selected {
                        union.extend(other.effective.iter().cloned());
                    }
                }
                if union.len() > role.effective.iter().collect::<BTreeSet<_>>().len() {
                    changed = true;
                    let union: Vec<Rule> = union.into_iter().collect();
                    self.roles.get_mut(key).expect("it was there a line ago").effective = union.into();
                }
            }
            if !changed {
                return;
            }
        }
    }

    fn set_binding(&mut self, namespace: &str, name: &str, object: Option<&Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(subjects) = self.bindings.remove(&key) {
            if let Some(grants) = self.grants(namespace) {
                for (group, subject) in subjects {
                    grants.remove(group, &subject, name);
                }
            }
            if self.namespaces.get(namespace).is_some_and(Grants::is_empty) {
                self.namespaces.remove(namespace);
            }
        }
        let Some(object) = object else { return };
        let role_kind = object["roleRef"]["kind"].as_str().unwrap_or_default();
        let role_name = object["roleRef"]["name"].as_str().unwrap_or_default();
        let role = RoleKey::of(role_kind, role_name, namespace);
        let binding: Arc<str> = Arc::from(name);
        let mut filed: Vec<(bool, String)> = Vec::new();
        let subjects = object["subjects"].as_array().map(Vec::as_slice).unwrap_or_default();
        for subject in subjects {
            let Some((group, who)) = subject_key(subject, namespace) else { continue };
            if filed.iter().any(|(g, w)| *g == group && *w == who) {
                continue;
            }
            let what = if namespace.is_empty() {
                format!("ClusterRoleBinding {}", go_quote(name))
            } else {
                format!("RoleBinding {}", go_quote(&format!("{name}/{namespace}")))
            };
            let reason = format!(
                "RBAC: allowed by {what} of {role_kind} {} to {}",
                go_quote(role_name),
                describe_subject(subject, namespace)
            );
            let grant =
                Grant { binding: Arc::clone(&binding), role: role.clone(), reason: Arc::from(reason) };
            let grants = if namespace.is_empty() {
                &mut self.cluster
            } else {
                self.namespaces.entry(namespace.to_owned()).or_default()
            };
            let map = if group { &mut grants.groups } else { &mut grants.users };
            map.entry(who.clone()).or_default().push(grant);
            filed.push((group, who));
        }
        self.bindings.insert(key, filed);
    }

    fn grants(&mut self, namespace: &str) -> Option<&mut Grants> {
        if namespace.is_empty() { Some(&mut self.cluster) } else { self.namespaces.get_mut(namespace) }
    }
}

impl Grants {
    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    fn remove(&mut self, group: bool, subject: &str, binding: &str) {
        let map = if group { &mut self.groups } else { &mut self.users };
        if let Some(grants) = map.get_mut(subject) {
            grants.retain(|grant| &*grant.binding != binding);
            if grants.is_empty() {
                map.remove(subject);
            }
        }
    }
}

/// Whether it is a group, and the user's or group's name. A service account is filed under its user name.
fn subject_key(subject: &Value, binding_namespace: &str) -> Option<(bool, String)> {
    let name = subject["name"].as_str()?;
    match subject["kind"].as_str()? {
        "User" => Some((false, name.to_owned())),
        "Group" => Some((true, name.to_owned())),
        "ServiceAccount" => {
            let own = subject["namespace"].as_str().unwrap_or_default();
            let namespace = if own.is_empty() { binding_namespace } else { own };
            if namespace.is_empty() {
                return None;
            }
            Some((false, format!("system:serviceaccount:{namespace}:{name}")))
        }
        _ => None,
    }
}

fn describe_subject(subject: &Value, binding_namespace: &str) -> String {
    let kind = subject["kind"].as_str().unwrap_or_default();
    let name = subject["name"].as_str().unwrap_or_default();
    if kind != "ServiceAccount" {
        return format!("{kind} {}", go_quote(name));
    }
    let own = subject["namespace"].as_str().unwrap_or_default();
    let namespace = if own.is_empty() { binding_namespace } else { own };
    format!("{kind} {}", go_quote(&format!("{name}/{namespace}")))
}

#[cfg(test)]
mod tests;
