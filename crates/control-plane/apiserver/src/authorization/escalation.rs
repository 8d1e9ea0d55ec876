//! Nobody grants what they do not have: the check on writes of roles and bindings.
//!
//! Upstream does this where roles are stored; here it is part of validating admission, so that it holds for
//! every way to write one. Members of `system:masters` and holders of `escalate` or `bind` pass.

use std::collections::BTreeSet;

use podium_api::status::ApiError;
use serde_json::Value;

use super::rbac::Rule;
use super::rbac::rule::quoted_list;
use super::{Attributes, Authorizer, MASTERS, go_quote};
use crate::admission::{Operation, Request};
use crate::objects::{items, text};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Refuses a write of a role or binding that would give more than the user has.
///
/// # Errors
/// 403 with the rules that are missing; 404 if a binding's role does not exist (nobody can tell what it would grant).
pub fn check(authorizer: &Authorizer, request: &Request<'_>) -> Result<(), ApiError> {
    let writes =
        matches!(request.operation, Operation::Create | Operation::Update) && request.subresource.is_empty();
    if !writes || request.group != GROUP || request.user.in_group(MASTERS) {
        return Ok(());
    }
    if request.operation == Operation::Update
        && request.old.is_some_and(|old| only_collector_fields_differ(request.object, old))
    {
        return Ok(());
    }
    match request.resource {
        "roles" | "clusterroles" => check_role(authorizer, request),
        "rolebindings" | "clusterrolebindings" => check_binding(authorizer, request),
        _ => Ok(()),
    }
}

fn check_role(authorizer: &Authorizer, request: &Request<'_>) -> Result<(), ApiError> {
    let mut attributes = Attributes::resource(request.user, "escalate", GROUP, request.resource);
    attributes.namespace = request.namespace;
    attributes.name = request.name;
    if authorizer.authorize(&attributes).allowed() {
        return Ok(());
    }
    confirm(authorizer, request, &Rule::all_of(request.object))?;
    let aggregates = |role: &Value| !items(role, "/aggregationRule/clusterRoleSelectors").is_empty();
    if aggregates(request.object) || request.old.is_some_and(aggregates) {
        let everything = [
            Rule { verbs: one("*"), groups: one("*"), resources: one("*"), ..Rule::default() },
            Rule { verbs: one("*"), urls: one("*"), ..Rule::default() },
        ];
        confirm(authorizer, request, &everything).map_err(|_| {
            forbidden(request, "must have cluster-admin privileges to use the aggregationRule")
        })?;
    }
    Ok(())
}

fn check_binding(authorizer: &Authorizer, request: &Request<'_>) -> Result<(), ApiError> {
    let kind = text(request.object, "/roleRef/kind");
    let name = text(request.object, "/roleRef/name");
    let resource = match kind {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        _ => return Err(forbidden(request, &format!("unsupported role reference kind: {}", go_quote(kind)))),
    };
    let mut attributes =
        Attributes::resource(request.user, "bind", text(request.object, "/roleRef/apiGroup"), resource);
    attributes.namespace = request.namespace;
    attributes.name = name;
    if authorizer.authorize(&attributes).allowed() {
        return Ok(());
    }
    let rules = authorizer
        .rbac()
        .role_rules(kind, name, request.namespace)
        .map_err(|_| ApiError::not_found(GROUP, resource.trim_end_matches('s'), name))?;
    confirm(authorizer, request, &rules)
}

fn one(text: &str) -> Vec<String> {
    vec![text.to_owned()]
}

fn forbidden(request: &Request<'_>, why: &str) -> ApiError {
    // A create has its name in the object only.
    let name = if request.name.is_empty() {
        request.object["metadata"]["name"].as_str().unwrap_or_default()
    } else {
        request.name
    };
    ApiError::forbidden(GROUP, request.resource, name, why)
}

/// Refuses if the user lacks any of `rules` in the request's namespace.
fn confirm(authorizer: &Authorizer, request: &Request<'_>, rules: &[Rule]) -> Result<(), ApiError> {
    let user = request.user;
    let (owned, unresolved) = authorizer.rbac().rules_for(user, request.namespace);
    let missing = uncovered(&owned, rules);
    if missing.is_empty() {
        return Ok(());
    }
    let texts: BTreeSet<String> = compact(missing).iter().map(Rule::compact).collect();
    let texts: Vec<String> = texts.into_iter().collect();
    let mut why = format!(
        "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        go_quote(&user.name),
        quoted_list(&user.groups),
        texts.join("\n")
    );
    if !unresolved.is_empty() {
        why.push_str(&format!("; resolution errors: [{}]", unresolved.join(", ")));
    }
    Err(forbidden(request, &why))
}

/// The single-verb, single-target parts of `wanted` that no rule of `owned` covers.
pub(crate) fn uncovered(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted
        .iter()
        .flat_map(Rule::breakdown)
        .filter(|part| !owned.iter().any(|rule| rule.covers(part)))
        .collect()
}

/// Joins rules that differ only in their verb.
pub(crate) fn compact(rules: Vec<Rule>) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    for rule in rules {
        let same = out.iter_mut().find(|known| {
            known.urls.is_empty()
                && rule.urls.is_empty()
                && known.groups == rule.groups
                && known.resources == rule.resources
                && known.names == rule.names
        });
        match same {
            Some(known) => {
                for verb in rule.verbs {
                    if !known.verbs.contains(&verb) {
                        known.verbs.push(verb);
                    }
                }
            }
            None => out.push(rule),
        }
    }
    out
}

/// The garbage collector removes owner references and finalizers from objects it could not itself create.
pub(crate) fn only_collector_fields_differ(new: &Value, old: &Value) -> bool {
    let strip = |object: &Value| {
        let mut copy = object.clone();
        if let Some(metadata) = copy.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["ownerReferences", "finalizers", "resourceVersion", "managedFields", "generation"] {
                metadata.remove(field);
            }
        }
        copy
    };
    strip(new) == strip(old)
}
