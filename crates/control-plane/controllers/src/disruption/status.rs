//! The status of one budget.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::decide::Expected;
use crate::clock;

const ALLOWED: &str = "DisruptionAllowed";

/// The status for a count, or `None` when the stored one says it. Without a count nothing may be evicted.
pub(crate) fn status(
    budget: &PodDisruptionBudget,
    counted: Option<(Expected, i32, BTreeMap<String, Time>)>,
    failure: Option<&str>,
    now: Timestamp,
) -> Option<PodDisruptionBudgetStatus> {
    let old = budget.status.clone().unwrap_or_default();
    let mut new = old.clone();
    new.observed_generation = budget.metadata.generation;
    let mut allowed = 0;
    if let Some((expected, healthy, disrupted)) = counted {
        new.expected_pods = Some(expected.pods);
        new.desired_healthy = Some(expected.healthy);
        new.current_healthy = Some(healthy);
        new.disrupted_pods = Some(disrupted).filter(|it| !it.is_empty());
        if expected.pods > 0 {
            allowed = (healthy - expected.healthy).max(0);
        }
    }
    new.disruptions_allowed = Some(allowed);
    let (status, reason) = match failure {
        Some(_) => ("False", "SyncFailed"),
        None if allowed > 0 => ("True", "SufficientPods"),
        None => ("False", "InsufficientPods"),
    };
    set(&mut new, status, reason, failure.unwrap_or_default(), now);
    (new != old).then_some(new)
}

fn set(status: &mut PodDisruptionBudgetStatus, value: &str, reason: &str, message: &str, now: Timestamp) {
    let generation = status.observed_generation;
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions.iter().find(|condition| condition.type_ == ALLOWED);
    let since = old.filter(|old| old.status == value).map(|old| old.last_transition_time.clone());
    let condition = Condition {
        type_: ALLOWED.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: since.unwrap_or_else(|| clock::time(now)),
    };
    conditions.retain(|condition| condition.type_ != ALLOWED);
    conditions.push(condition);
}
