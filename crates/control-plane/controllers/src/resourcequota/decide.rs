//! The status of one quota, given the objects of its namespace.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec, ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::serde::Deserialize;
use podium_api::quantity::Quantity;
use podium_api::quota::{Amounts, Tally, kind_of};
use serde_json::Value;

use crate::clock;
use crate::pods;

/// A kind of object: group and plural.
pub(crate) type Kind = (String, String);

/// The objects of a kind, as far as a quota counts them.
#[derive(Clone, Debug)]
pub(crate) enum Counted {
    /// What each of them uses counts.
    Objects(Vec<Value>),
    /// Only how many there are.
    Number(usize),
}

/// The objects of a namespace that a quota counts.
pub(crate) type Contents = BTreeMap<Kind, Counted>;

/// The kinds of object that a quota counts.
pub(crate) fn kinds(quota: &ResourceQuota) -> BTreeSet<Kind> {
    let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
    let kinds = hard.into_iter().flatten().filter_map(|(name, _)| kind_of(name));
    kinds.map(|(group, plural)| (group.to_owned(), plural.to_owned())).collect()
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

/// Whether a change of a pod may change what it counts for: it has ended, its size is another, or it has another scope. Source:
/// `DefaultUpdateFilter`.
pub(crate) fn recounts(old: &Pod, new: &Pod) -> bool {
    let size = |spec: &PodSpec| {
        let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
        let each: Vec<_> = containers.map(|it| it.resources.clone()).collect();
        (each, spec.resources.clone(), spec.active_deadline_seconds)
    };
    pods::is_finished(old) != pods::is_finished(new)
        || old.spec.as_ref().map(size) != new.spec.as_ref().map(size)
}

/// When a pod in deletion counts no more although it is still there. Source: `QuotaV1Pod`.
pub(crate) fn let_off_at(pod: &ObjectMeta) -> Option<Timestamp> {
    let since = pod.deletion_timestamp.as_ref()?.0;
    // In that last second it still counts.
    Some(clock::after(since, pod.deletion_grace_period_seconds?.saturating_add(1)))
}

/// When the first of the pods counts no more without anything happening to it.
pub(crate) fn next_let_off(contents: &Contents, now: Timestamp) -> Option<Timestamp> {
    let Some(Counted::Objects(pods)) = contents.get(&(String::new(), "pods".to_owned())) else { return None };
    let metas = pods.iter().filter_map(|pod| ObjectMeta::deserialize(&pod["metadata"]).ok());
    metas.filter_map(|meta| let_off_at(&meta)).filter(|moment| *moment > now).min()
}

/// A list as objects have it. What does not parse is left out.
fn amounts(list: Option<&BTreeMap<String, Wire>>) -> Amounts {
    let parse = |(name, amount): (&String, &Wire)| Some((name.clone(), Quantity::try_from(amount).ok()?));
    list.into_iter().flatten().filter_map(parse).collect()
}

fn used(quota: &ResourceQuota, contents: &Contents, now: Timestamp) -> Amounts {
    // A typed object always is a tree.
    let quota = serde_json::to_value(quota).unwrap_or_default();
    let mut tally = Tally::new(&quota, now);
    for ((group, plural), counted) in contents {
        match counted {
            Counted::Objects(objects) => objects.iter().for_each(|it| tally.add(group, plural, it)),
            Counted::Number(number) => tally.add_number(group, plural, *number),
        }
    }
    tally.used()
}
