//! The status of one quota, given the objects of its namespace.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use podium_api::quantity::Quantity;
use podium_api::quota::{Amounts, Tally, kind_of};
use serde_json::Value;

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
