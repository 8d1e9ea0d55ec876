//! Conditions and status of autoscalers.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus, MetricStatus,
};

use crate::clock;

pub(crate) const ABLE_TO_SCALE: &str = "AbleToScale";
pub(crate) const SCALING_ACTIVE: &str = "ScalingActive";
pub(crate) const SCALING_LIMITED: &str = "ScalingLimited";

/// A condition without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) type_: &'static str,
    pub(crate) holds: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Condition {
    pub(crate) fn new(
        type_: &'static str,
        holds: bool,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { type_, holds, reason: reason.into(), message: message.into() }
    }
}

/// What an autoscaler's status is to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Report {
    /// In the order in which they were found; a later one of a type replaces an earlier one.
    pub(crate) conditions: Vec<Condition>,
    /// How many there are; `None` when that could not be found out, and then the rest of the status stays.
    pub(crate) current: Option<i32>,
    /// How many there are to be; `None` leaves what was said before.
    pub(crate) desired: Option<i32>,
    pub(crate) metrics: Vec<MetricStatus>,
    /// The scale was changed.
    pub(crate) rescaled: bool,
    /// If something went wrong, it was for what its user asked.
    pub(crate) blames_spec: bool,
}

/// The status to write; `None` when it is there already.
pub(crate) fn status(
    autoscaler: &HorizontalPodAutoscaler,
    report: &Report,
    now: Timestamp,
) -> Option<HorizontalPodAutoscalerStatus> {
    let old = autoscaler.status.clone().unwrap_or_default();
    let mut new = old.clone();
    let conditions = new.conditions.get_or_insert_default();
    for condition in &report.conditions {
        set(conditions, condition, now);
    }
    if let Some(current) = report.current {
        new.current_replicas = Some(current);
        new.desired_replicas = report.desired.unwrap_or(old.desired_replicas);
        new.current_metrics = Some(report.metrics.clone()).filter(|metrics| !metrics.is_empty());
        new.observed_generation = None;
    }
    if report.rescaled {
        new.last_scale_time = Some(clock::time(now));
    }
    (new != old).then_some(new)
}

fn set(conditions: &mut Vec<HorizontalPodAutoscalerCondition>, condition: &Condition, now: Timestamp) {
    let place = conditions.iter().position(|it| it.type_ == condition.type_).unwrap_or_else(|| {
        conditions.push(HorizontalPodAutoscalerCondition {
            type_: condition.type_.to_owned(),
            ..HorizontalPodAutoscalerCondition::default()
        });
        conditions.len() - 1
    });
    let known = &mut conditions[place];
    let status = if condition.holds { "True" } else { "False" };
    if known.status != status {
        known.last_transition_time = Some(clock::time(now));
    }
    known.status = status.to_owned();
    known.reason = Some(condition.reason.clone());
    known.message = Some(condition.message.clone());
}
