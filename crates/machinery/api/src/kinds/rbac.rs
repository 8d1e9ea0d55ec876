//! Roles and their bindings. Source: `pkg/apis/rbac`.

use jiff::Timestamp;
use serde_json::Value;

use super::Metadata;
use super::kind::Kind;
use super::print::{self, AGE, CREATED_AT, NAME, age, created_at_row, string, wide};
use super::tree::{child, default_text, has, is_empty, items_mut, list, same, text, value};
use super::validate::{label_selector, optional_subdomain, path_segment, required_segment};
use crate::field::{Errors, Path};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) static ROLE: Kind = Kind {
    validate: |object, errors| rules(object, true, errors),
    name: |name, _| path_segment(name, false),
    columns: CREATED_AT,
    row: created_at_row,
    create_on_update: true,
    metadata: Metadata::NEW_CHANGE,
    ..Kind::BASE
};

pub(super) static CLUSTER_ROLE: Kind = Kind {
    validate: |object, errors| {
        rules(object, false, errors);
        aggregation(object, errors);
    },
    name: |name, _| path_segment(name, false),
    columns: CREATED_AT,
    row: created_at_row,
    create_on_update: true,
    metadata: Metadata::NEW_CHANGE,
    ..Kind::BASE
};

pub(super) static ROLE_BINDING: Kind =
    Kind { validate: |object, errors| binding(object, true, errors), ..CLUSTER_ROLE_BINDING_BASE };

pub(super) static CLUSTER_ROLE_BINDING: Kind = CLUSTER_ROLE_BINDING_BASE;

const CLUSTER_ROLE_BINDING_BASE: Kind = Kind {
    default: |object| {
        if let Some(role) = child(object, "roleRef") {
            default_text(role, "apiGroup", GROUP);
        }
        for subject in items_mut(object, "subjects") {
            if matches!(text(subject, "kind"), "User" | "Group") {
                default_text(subject, "apiGroup", GROUP);
            }
        }
    },
    validate: |object, errors| binding(object, false, errors),
    validate_late: |new, old, errors| {
        let role = value(new, "roleRef");
        if !same(role, value(old, "roleRef")) {
            super::go::invalid(
                "rbac.v1.RoleRef",
                role,
                "cannot change roleRef",
                &Path::new("roleRef"),
                errors,
            );
        }
    },
    name: |name, _| path_segment(name, false),
    columns: &[NAME, string("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")],
    row: binding_row,
    create_on_update: true,
    metadata: Metadata::NEW_CHANGE,
    ..Kind::BASE
};

fn rules(object: &Value, namespaced: bool, errors: &mut Errors) {
    let path = Path::new("rules");
    for (index, rule) in list(object, "rules").iter().enumerate() {
        let at = path.index(index);
        if list(rule, "verbs").is_empty() {
            errors.required(&at.child("verbs"), "verbs must contain at least one value");
        }
        let urls = value(rule, "nonResourceURLs");
        if !list(rule, "nonResourceURLs").is_empty() {
            let at = at.child("nonResourceURLs");
            if namespaced {
                errors.invalid(&at, urls.clone(), "namespaced rules cannot apply to non-resource URLs");
            }
            if ["apiGroups", "resources", "resourceNames"].iter().any(|field| !is_empty(rule, field)) {
                errors.invalid(
                    &at,
                    urls.clone(),
                    "rules cannot apply to both regular resources and non-resource URLs",
                );
            }
            continue;
        }
        if list(rule, "apiGroups").is_empty() {
            errors.required(&at.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if list(rule, "resources").is_empty() {
            errors.required(&at.child("resources"), "resource rules must supply at least one resource");
        }
    }
}

fn aggregation(object: &Value, errors: &mut Errors) {
    if !has(object, "aggregationRule") {
        return;
    }
    let selectors = list(value(object, "aggregationRule"), "clusterRoleSelectors");
    let path = Path::new("aggregationRule");
    let at = path.child("clusterRoleSelectors");
    if selectors.is_empty() {
        errors.required(&at, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (index, selector) in selectors.iter().enumerate() {
        label_selector(selector, &at.index(index), errors);
    }
}

fn binding(object: &Value, namespaced: bool, errors: &mut Errors) {
    let role = value(object, "roleRef");
    let path = Path::new("roleRef");
    if text(role, "apiGroup") != GROUP {
        errors.not_supported(&path.child("apiGroup"), text(role, "apiGroup"), &[GROUP]);
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&text(role, "kind")) {
        errors.not_supported(&path.child("kind"), text(role, "kind"), kinds);
    }
    required_segment(text(role, "name"), "", &path.child("name"), errors);
    let path = Path::new("subjects");
    for (index, one) in list(object, "subjects").iter().enumerate() {
        subject(one, namespaced, &path.index(index), errors);
    }
}

fn subject(subject: &Value, namespaced: bool, path: &Path<'_>, errors: &mut Errors) {
    let (kind, name, group) = (text(subject, "kind"), text(subject, "name"), text(subject, "apiGroup"));
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    }
    match kind {
        "ServiceAccount" => {
            optional_subdomain(name, &path.child("name"), errors);
            if !group.is_empty() {
                errors.not_supported(&path.child("apiGroup"), group, &[""]);
            }
            if !namespaced && text(subject, "namespace").is_empty() {
                errors.required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.not_supported(&path.child("apiGroup"), group, &[GROUP]);
            }
        }
        other => errors.not_supported(&path.child("kind"), other, &["ServiceAccount", "User", "Group"]),
    }
}

fn binding_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let role = value(object, "roleRef");
    let of = |kind: &str| -> Value {
        let subjects = list(object, "subjects").iter().filter(|s| text(s, "kind") == kind);
        let names: Vec<String> = subjects
            .map(|s| match kind {
                "ServiceAccount" => format!("{}/{}", text(s, "namespace"), text(s, "name")),
                _ => text(s, "name").to_owned(),
            })
            .collect();
        names.join(", ").into()
    };
    vec![
        print::name(object),
        format!("{}/{}", text(role, "kind"), text(role, "name")).into(),
        age(object, now),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}
