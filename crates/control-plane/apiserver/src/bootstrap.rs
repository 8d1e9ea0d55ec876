//! What a new cluster has from the start: default roles and bindings, system namespaces, priority classes; and how each is
//! brought up to date when the server starts, without undoing what an administrator decided.
//!
//! The tables are text in a short form: a rule is `VERBS GROUPS RESOURCES [NAMES]` or `VERBS url PATHS`, lists with commas;
//! `read` stands for get, list and watch, `write` for create, delete, deletecollection, patch and update, `core` for the group
//! without name. A subject is `user NAME`, `group NAME` or `account NAMESPACE/NAME`.

use std::collections::BTreeSet;

use podium_api::kinds::features::Features;
use serde_json::{Value, json};

use crate::authorization::escalation::uncovered;
use crate::authorization::rbac::Rule;
use crate::objects::{items, text};

mod controllers;
mod policy;

const GROUP: &str = "rbac.authorization.k8s.io";
const NODE_ROLE: &str = "system:node";
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const AGGREGATE_LABEL: &str = "rbac.authorization.k8s.io/aggregate-to-";

/// A default role.
#[derive(Clone, Copy, Debug)]
struct Role {
    /// Empty for a ClusterRole.
    namespace: &'static str,
    name: &'static str,
    /// Which of admin, edit, view this is aggregated into; or empty.
    part_of: &'static str,
    /// Which aggregation this role is the sum of; or empty.
    collects: &'static str,
    rules: &'static [&'static str],
}

const fn role(name: &'static str, rules: &'static [&'static str]) -> Role {
    Role { namespace: "", name, part_of: "", collects: "", rules }
}

impl Role {
    const fn within(self, namespace: &'static str) -> Role {
        Role { namespace, ..self }
    }

    const fn part_of(self, part_of: &'static str) -> Role {
        Role { part_of, ..self }
    }

    const fn collecting(self, collects: &'static str) -> Role {
        Role { collects, ..self }
    }

    fn rules(&self) -> Vec<Rule> {
        self.rules.iter().map(|text| parse_rule(text)).collect()
    }
}

/// A default binding; the role has the binding's name unless another is given.
#[derive(Clone, Copy, Debug)]
struct Binding {
    namespace: &'static str,
    name: &'static str,
    role: &'static str,
    subjects: &'static [&'static str],
}

const fn binding(name: &'static str, subjects: &'static [&'static str]) -> Binding {
    Binding { namespace: "", name, role: name, subjects }
}

impl Binding {
    const fn within(self, namespace: &'static str) -> Binding {
        Binding { namespace, ..self }
    }

    const fn to(self, role: &'static str) -> Binding {
        Binding { role, ..self }
    }
}

/// Default ClusterRoles, ClusterRoleBindings, Roles and RoleBindings, complete objects in that order.
///
/// Aggregated roles (admin, edit, view) carry their parts' rules already, as the aggregation controller would leave them.
pub fn policy(features: Features) -> Vec<Value> {
    let (roles, bindings, controllers): (&[Role], &[Binding], &[Role]) = match features.cluster_trust_bundle {
        true => (policy::TRUST_ROLES, policy::TRUST_BINDINGS, controllers::TRUST_CONTROLLER_ROLES),
        false => (&[], &[], &[]),
    };
    let controllers = || controllers::CONTROLLER_ROLES.iter().chain(controllers);
    let cluster_roles = policy::CLUSTER_ROLES.iter().chain(roles).chain(controllers());
    let mut all: Vec<Value> = cluster_roles.map(role_object).collect();
    for role in all.iter_mut().filter(|role| role["metadata"]["name"] == NODE_ROLE) {
        role["rules"] = node_rules(features).iter().map(Rule::to_value).collect();
    }
    all.extend(policy::CLUSTER_BINDINGS.iter().chain(bindings).map(binding_object));
    all.extend(controllers().map(|role| {
        let account = role.name.rsplit(':').next().unwrap_or_default();
        let subject = format!("account kube-system/{account}");
        binding_object_of("", role.name, role.name, &[&subject])
    }));
    all.extend(policy::NAMESPACE_ROLES.iter().map(role_object));
    all.extend(policy::NAMESPACE_BINDINGS.iter().map(binding_object));
    all
}

/// The rules of the ClusterRole `system:node`, which the node authoriser applies to every node.
pub(crate) fn node_rules(features: Features) -> Vec<Rule> {
    let node = policy::CLUSTER_ROLES.iter().find(|role| role.name == NODE_ROLE);
    let mut rules = node.expect("the table has it, a test says so").rules();
    if features.cluster_trust_bundle {
        rules.push(parse_rule(policy::READ_TRUST_BUNDLES));
    }
    rules
}

/// `default`, `kube-system`, `kube-public`, `kube-node-lease`.
pub fn namespaces() -> Vec<Value> {
    ["default", "kube-system", "kube-public", "kube-node-lease"]
        .iter()
        .map(|name| {
            json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
                "spec": {"finalizers": ["kubernetes"]},
                "status": {"phase": "Active"},
            })
        })
        .collect()
}

/// `system-node-critical` and `system-cluster-critical`.
pub fn priority_classes() -> Vec<Value> {
    let class = |name: &str, value: i64, description: &str| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority",
        })
    };
    vec![
        class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ]
}

/// What to store for a default object: the wanted object if there is none, the stored one with what it lacks added, or `None` if
/// nothing is missing or the stored one says `rbac.authorization.kubernetes.io/autoupdate: "false"`.
///
/// Rules, subjects, labels and annotations are added, never taken away. A binding to another role than wanted is
/// replaced: the answer then has the wanted `roleRef` and the caller writes it past the rule that `roleRef` is immutable.
/// Objects of other kinds (namespaces, priority classes) are only created.
pub fn reconcile(stored: Option<&Value>, wanted: &Value) -> Option<Value> {
    let Some(stored) = stored else { return Some(wanted.clone()) };
    let rbac = text(wanted, "/apiVersion").starts_with(GROUP);
    if !rbac || stored["metadata"]["annotations"][AUTO_UPDATE] == "false" {
        return None;
    }
    let mut new = stored.clone();
    for field in ["annotations", "labels"] {
        for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten() {
            if new["metadata"][field].get(key).is_none() {
                new["metadata"][field][key] = value.clone();
            }
        }
    }
    if wanted.get("roleRef").is_some() {
        if stored["roleRef"] != wanted["roleRef"] {
            new["roleRef"] = wanted["roleRef"].clone();
        }
        add_missing(&mut new, wanted, "/subjects", "subjects");
    } else {
        let missing = uncovered(&Rule::all_of(stored), &Rule::all_of(wanted));
        if !missing.is_empty() {
            let mut rules = items(stored, "/rules").to_vec();
            rules.extend(missing.iter().map(Rule::to_value));
            new["rules"] = Value::Array(rules);
        }
        match wanted.get("aggregationRule") {
            None => {
                if let Some(fields) = new.as_object_mut() {
                    fields.remove("aggregationRule");
                }
            }
            Some(rule) => {
                let known = items(stored, "/aggregationRule/clusterRoleSelectors");
                let mut selectors = known.to_vec();
                let lacking = items(rule, "/clusterRoleSelectors").iter().filter(|s| !known.contains(s));
                selectors.extend(lacking.cloned());
                if selectors.len() != known.len() {
                    new["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
                }
            }
        }
    }
    (new != *stored).then_some(new)
}

fn add_missing(new: &mut Value, wanted: &Value, pointer: &str, field: &str) {
    let known = items(new, pointer).to_vec();
    let lacking: Vec<Value> =
        items(wanted, pointer).iter().filter(|item| !known.contains(item)).cloned().collect();
    if !lacking.is_empty() {
        new[field] = Value::Array(known.into_iter().chain(lacking).collect());
    }
}

fn parse_rule(text: &str) -> Rule {
    let list = |part: &str| part.split(',').map(str::to_owned).collect::<Vec<_>>();
    let mut parts = text.split(' ');
    let mut next = || parts.next().unwrap_or_default();
    let mut verbs: BTreeSet<String> = BTreeSet::new();
    for verb in next().split(',') {
        let several: &[&str] = match verb {
            "read" => &["get", "list", "watch"],
            "write" => &["create", "delete", "deletecollection", "patch", "update"],
            one => &[one],
        };
        verbs.extend(several.iter().map(|&v| v.to_owned()));
    }
    let verbs = verbs.into_iter().collect();
    let groups = next();
    let targets = list(next());
    if groups == "url" {
        return Rule { verbs, urls: targets, ..Rule::default() };
    }
    let groups = groups.split(',').map(|g| if g == "core" { String::new() } else { g.to_owned() }).collect();
    let names = match next() {
        "" => Vec::new(),
        names => list(names),
    };
    Rule { verbs, groups, resources: targets, names, urls: Vec::new() }
}

/// Every rule of the roles that are part of an aggregation, directly or through another.
fn collected(what: &str) -> Vec<Rule> {
    let mut rules = BTreeSet::new();
    for part in policy::CLUSTER_ROLES.iter().filter(|role| role.part_of == what) {
        if part.collects.is_empty() {
            rules.extend(part.rules());
        } else {
            rules.extend(collected(part.collects));
        }
    }
    rules.into_iter().collect()
}

fn metadata(namespace: &str, name: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "annotations": {AUTO_UPDATE: "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    });
    if !namespace.is_empty() {
        metadata["namespace"] = Value::from(namespace);
    }
    metadata
}

fn role_object(role: &Role) -> Value {
    let rules = if role.collects.is_empty() { role.rules() } else { collected(role.collects) };
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": if role.namespace.is_empty() { "ClusterRole" } else { "Role" },
        "metadata": metadata(role.namespace, role.name),
        "rules": rules.iter().map(Rule::to_value).collect::<Vec<_>>(),
    });
    if !role.part_of.is_empty() {
        object["metadata"]["labels"][format!("{AGGREGATE_LABEL}{}", role.part_of)] = Value::from("true");
    }
    if !role.collects.is_empty() {
        let label = format!("{AGGREGATE_LABEL}{}", role.collects);
        object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]});
    }
    object
}

fn binding_object(binding: &Binding) -> Value {
    binding_object_of(binding.namespace, binding.name, binding.role, binding.subjects)
}

fn binding_object_of(namespace: &str, name: &str, role: &str, subjects: &[&str]) -> Value {
    let subjects: Vec<Value> = subjects.iter().map(|text| subject(text)).collect();
    let cluster = namespace.is_empty();
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": if cluster { "ClusterRoleBinding" } else { "RoleBinding" },
        "metadata": metadata(namespace, name),
        "roleRef": {"apiGroup": GROUP, "kind": if cluster { "ClusterRole" } else { "Role" }, "name": role},
    });
    if !subjects.is_empty() {
        object["subjects"] = Value::Array(subjects);
    }
    object
}

fn subject(text: &str) -> Value {
    let (kind, name) = text.split_once(' ').unwrap_or_default();
    match kind {
        "user" => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
        "group" => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
        _ => {
            let (namespace, name) = name.split_once('/').unwrap_or_default();
            json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
    }
}

#[cfg(test)]
mod tests;
