//! The status of one quota, given the objects of its namespace.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaStatus, ScopedResourceSelectorRequirement,
    Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use podium_api::quantity::Quantity;

use super::usage::{self, Amounts, add, amounts, in_scope, kind_of, number};

/// The objects of a namespace, as far as its quota counts them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Contents {
    pub(crate) pods: Vec<Pod>,
    pub(crate) services: Vec<Service>,
    pub(crate) claims: Vec<PersistentVolumeClaim>,
    /// Numbers of objects, by group and plural.
    pub(crate) counts: BTreeMap<(String, String), usize>,
}

/// The kinds of object that a quota counts: group and plural.
pub(crate) fn kinds(quota: &ResourceQuota) -> BTreeSet<(String, String)> {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    hard.into_iter().flatten().filter_map(|(name, _)| kind_of(name)).collect()
}

/// What is to be done about a status.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    Keep,
    /// Write it now.
    Write(ResourceQuotaStatus),
    /// It would go down, but the quota has been charged a moment ago: look again.
    Later,
}

/// Counts. `quiet` says whether the quota has not changed for a while.
pub(crate) fn decide(quota: &ResourceQuota, contents: &Contents, quiet: bool, now: Timestamp) -> Decision {
    let spec = quota.spec.clone().unwrap_or_default();
    let old = quota.status.clone().unwrap_or_default();
    let used = used(quota, contents, now);
    let hard = amounts(spec.hard.as_ref());
    let before = amounts(old.used.as_ref());
    if amounts(old.hard.as_ref()) == hard && before == used {
        return Decision::Keep;
    }
    let lower = used.iter().any(|(name, amount)| before.get(name).is_some_and(|before| amount < before));
    if lower && !quiet {
        return Decision::Later;
    }
    let list: BTreeMap<String, Wire> =
        used.into_iter().map(|(name, amount)| (name, Wire(amount.to_string()))).collect();
    Decision::Write(ResourceQuotaStatus { hard: spec.hard, used: Some(list) })
}

/// The scopes of a quota, the plain ones included.
fn scopes(quota: &ResourceQuota) -> Vec<ScopedResourceSelectorRequirement> {
    let spec = quota.spec.clone().unwrap_or_default();
    let plain = spec.scopes.into_iter().flatten().map(|scope_name| ScopedResourceSelectorRequirement {
        scope_name,
        operator: "Exists".to_owned(),
        values: None,
    });
    let selected = spec.scope_selector.and_then(|it| it.match_expressions).into_iter().flatten();
    plain.chain(selected).collect()
}

fn used(quota: &ResourceQuota, contents: &Contents, now: Timestamp) -> Amounts {
    let scopes = scopes(quota);
    let mut sum = Amounts::new();
    let mut pods = 0;
    for pod in contents.pods.iter().filter(|pod| scopes.iter().all(|scope| in_scope(pod, scope))) {
        pods += 1;
        add(&mut sum, usage::pod(pod, now));
    }
    sum.insert("count/pods".to_owned(), number(pods));
    // Scopes are about pods, so a quota with scopes counts nothing else.
    if scopes.is_empty() {
        contents.services.iter().for_each(|it| add(&mut sum, usage::service(it)));
        contents.claims.iter().for_each(|it| add(&mut sum, usage::claim(it)));
        for ((group, plural), count) in &contents.counts {
            let suffix = if group.is_empty() { String::new() } else { format!(".{group}") };
            sum.insert(format!("count/{plural}{suffix}"), number(*count));
            if group.is_empty() && plural != "pods" {
                sum.entry(plural.clone()).or_insert_with(|| number(*count));
            }
        }
    }
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    let of = |name: &String| (name.clone(), sum.get(name).copied().unwrap_or(Quantity::ZERO));
    hard.into_iter().flatten().map(|(name, _)| of(name)).collect()
}
