//! ResourceQuota: every write that uses more of what a namespace's quotas count is charged before it happens.
//!
//! The charge is a compare-and-swap on the quota's status, so two writers can never both take the last of something. What
//! is charged for a write that then fails, and what deletions free, the quota controller finds when it counts again
//! ([`recount`] is that count). A quota nobody has counted yet is counted here, so that it holds from its first moment.

use std::collections::BTreeSet;
use std::sync::Arc;

use podium_api::quantity::Quantity;
use podium_api::quota::{self as usage, Amounts, amounts};
use podium_api::status::ApiError;
use serde_json::{Map, Value};

use super::{Operation, QuotaStore, Request};
use crate::objects::{Objects, text};

/// Lost races before giving up. Each means that another writer went ahead.
const ATTEMPTS: usize = 1000;

/// Charges every quota that counts what this write uses.
pub(super) async fn charge(
    request: &Request<'_>,
    objects: &Objects,
    store: &dyn QuotaStore,
) -> Result<(), ApiError> {
    if request.namespace.is_empty() || !handles(request) {
        return Ok(());
    }
    let quotas = objects.list("", "resourcequotas", Some(request.namespace));
    if quotas.is_empty() {
        return Ok(());
    }
    let now = jiff::Timestamp::now();
    // All must agree before any is charged.
    let mut charges: Vec<(Arc<Value>, Value)> = Vec::new();
    for quota in quotas.iter() {
        if let Some(charged) = decide(request, quota, objects, now)? {
            charges.push((Arc::clone(quota), charged));
        }
    }
    if request.dry_run {
        return Ok(());
    }
    for (quota, charged) in charges {
        let name = text(&quota, "/metadata/name");
        let mut charged = Some(charged);
        let mut attempts = 0;
        while let Some(wanted) = charged {
            if store.swap(wanted).await? {
                break;
            }
            attempts += 1;
            if attempts == ATTEMPTS {
                let why = "the object has been modified; please apply your changes to the latest version and try again";
                return Err(ApiError::conflict("", "resourcequotas", name, why));
            }
            charged = match objects.source().get("", "resourcequotas", request.namespace, name) {
                Some(newest) => decide(request, &newest, objects, now)?,
                // Removed meanwhile: nothing to hold to.
                None => None,
            };
        }
    }
    Ok(())
}

/// Whether this kind of write can use more than before.
fn handles(request: &Request<'_>) -> bool {
    let create = request.operation == Operation::Create && request.subresource.is_empty();
    let update = request.operation == Operation::Update;
    match (request.group, request.resource, request.subresource) {
        // A create of a subresource makes no object.
        ("", "pods", "resize") | ("", "services" | "persistentvolumeclaims", "") => create || update,
        ("", "pods", "") => {
            let deadline =
                |pod: &Value| pod.pointer("/spec/activeDeadlineSeconds").is_some_and(|s| !s.is_null());
            create || (update && request.old.is_some_and(|old| deadline(old) != deadline(request.object)))
        }
        // Upstream does not count events, and reviews are not stored.
        ("" | "events.k8s.io", "events", _) => false,
        ("authorization.k8s.io" | "authentication.k8s.io", _, _) => false,
        ("", "bindings", _) => false,
        _ => create,
    }
}

/// Pure but for the count of a quota that was never counted: the quota with this write charged, or `None` if it is not touched.
fn decide(
    request: &Request<'_>,
    quota: &Value,
    objects: &Objects,
    now: jiff::Timestamp,
) -> Result<Option<Value>, ApiError> {
    let (group, resource) = (request.group, request.resource);
    let hard = amounts(&quota["spec"]["hard"]);
    let names: BTreeSet<String> =
        hard.keys().filter(|name| usage::relevant(group, resource, name)).cloned().collect();
    if names.is_empty() || !usage::in_scope(quota, group, resource, request.object) {
        return Ok(None);
    }
    let quota_name = text(quota, "/metadata/name");
    if (group, resource) == ("", "pods")
        && let Some(missing) = usage::missing_requirements(request.object, &names)
    {
        return Err(request.forbidden(&format!("failed quota: {quota_name}: {missing}")));
    }
    let mut delta = usage::usage(group, resource, request.object, now);
    let negative: Vec<&str> =
        delta.iter().filter(|(_, amount)| **amount < Quantity::ZERO).map(|(name, _)| name.as_str()).collect();
    if !negative.is_empty() {
        return Err(
            request.forbidden(&format!("quota usage is negative for resource(s): {}", negative.join(",")))
        );
    }
    if let (Operation::Update, Some(old)) = (request.operation, request.old)
        && usage::in_scope(quota, group, resource, old)
    {
        let before = usage::usage(group, resource, old, now);
        for (name, amount) in &mut delta {
            *amount = (*amount - before.get(name).copied().unwrap_or_default()).max(Quantity::ZERO);
        }
    }
    delta.retain(|name, amount| names.contains(name) && *amount != Quantity::ZERO);
    if delta.is_empty() {
        return Ok(None);
    }
    let counted = counted(quota, &hard, objects, now);
    let used = amounts(&counted["status"]["used"]);
    let after: Amounts = delta
        .iter()
        .map(|(name, amount)| (name.clone(), used.get(name).copied().unwrap_or_default() + *amount))
        .collect();
    let exceeded: Vec<&String> =
        after.iter().filter(|(name, amount)| **amount > hard[*name]).map(|(name, _)| name).collect();
    if !exceeded.is_empty() {
        let show = |amounts: &Amounts| -> String {
            let parts: Vec<String> = exceeded
                .iter()
                .map(|name| format!("{name}={}", amounts.get(*name).copied().unwrap_or_default()))
                .collect();
            parts.join(",")
        };
        return Err(request.forbidden(&format!(
            "exceeded quota: {quota_name}, requested: {}, used: {}, limited: {}",
            show(&delta),
            show(&used),
            show(&hard)
        )));
    }
    let mut charged = counted;
    for (name, amount) in after {
        charged["status"]["used"][name] = Value::from(amount.to_string());
    }
    Ok(Some(charged))
}

/// The quota with a status that covers its spec: as it is, or counted now.
fn counted(quota: &Value, hard: &Amounts, objects: &Objects, now: jiff::Timestamp) -> Value {
    let used = amounts(&quota["status"]["used"]);
    if hard.keys().all(|name| used.contains_key(name)) && amounts(&quota["status"]["hard"]) == *hard {
        return quota.clone();
    }
    recount(quota, objects, now)
}

/// The quota with the status that its namespace's objects amount to at this moment.
pub fn recount(quota: &Value, objects: &Objects, now: jiff::Timestamp) -> Value {
    let namespace = text(quota, "/metadata/namespace");
    let hard = amounts(&quota["spec"]["hard"]);
    let mut tally = usage::Tally::new(quota, now);
    let kinds: BTreeSet<(&str, &str)> = hard.keys().filter_map(|name| usage::kind_of(name)).collect();
    for (group, resource) in kinds {
        for object in objects.source().list(group, resource, Some(namespace)) {
            tally.add(group, resource, &object);
        }
    }
    let used = tally.used();
    let list = |amounts: &Amounts| -> Map<String, Value> {
        amounts.iter().map(|(name, amount)| (name.clone(), Value::from(amount.to_string()))).collect()
    };
    let mut counted = quota.clone();
    counted["status"] = serde_json::json!({"hard": list(&hard), "used": list(&used)});
    counted
}
