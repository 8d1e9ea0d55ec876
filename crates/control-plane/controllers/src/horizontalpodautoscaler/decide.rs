//! What one autoscaler does: whether it looks at figures at all, and what follows from what they ask for.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, MetricSpec, MetricStatus};

use super::Autoscaling;
use super::behavior::History;
use super::replicas::{Failure, Proposal};
use super::status::{Condition, SCALING_ACTIVE};

/// What is to be done before figures are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// Its target was scaled to nothing by hand.
    Off,
    /// The number lies outside of what is allowed.
    Correct {
        replicas: i32,
        why: &'static str,
    },
    Measure,
}

/// The bounds of an autoscaler.
pub(crate) fn bounds(autoscaler: &HorizontalPodAutoscaler) -> (i32, i32) {
    (autoscaler.spec.min_replicas.unwrap_or(1), autoscaler.spec.max_replicas)
}

/// The figures an autoscaler looks at.
pub(crate) fn metrics(autoscaler: &HorizontalPodAutoscaler) -> &[MetricSpec] {
    autoscaler.spec.metrics.as_deref().unwrap_or_default()
}

/// Decides what to aim at with that many replicas asked for.
pub(crate) fn aim(autoscaler: &HorizontalPodAutoscaler, current: i32) -> Aim {
    let (least, most) = bounds(autoscaler);
    if current == 0 {
        Aim::Off
    } else if current > most {
        Aim::Correct { replicas: most, why: "Current number of replicas above Spec.MaxReplicas" }
    } else if current < least {
        Aim::Correct { replicas: least, why: "Current number of replicas below Spec.MinReplicas" }
    } else {
        Aim::Measure
    }
}

/// What the figures ask for together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// How many there are to be, and why that is a change; `None` when nothing can be said.
    pub(crate) replicas: Option<(i32, String)>,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) metrics: Vec<MetricStatus>,
    /// What is wrong with some or all of the figures.
    pub(crate) error: Option<String>,
}

/// Decides by what each metric proposes. The largest proposal wins; one that failed keeps the others from shrinking.
pub(crate) fn judge(
    autoscaler: &HorizontalPodAutoscaler,
    current: i32,
    proposals: &[Result<Proposal, Failure>],
    history: &mut History,
    settings: &Autoscaling,
    now: Timestamp,
) -> Verdict {
    let metrics =
        proposals.iter().map(|it| it.as_ref().map(|it| it.status.clone()).unwrap_or_default()).collect();
    let failed: Vec<&Failure> = proposals.iter().filter_map(|it| it.as_ref().err()).collect();
    let error = failed.first().map(|first| {
        let (wrong, all) = (failed.len(), proposals.len());
        format!("invalid metrics ({wrong} invalid out of {all}), first error is: {}", first.summary)
    });
    // The first of equals, as each must be more than those before.
    let good = proposals.iter().filter_map(|it| it.as_ref().ok());
    let best = good.reduce(|best, next| if next.replicas > best.replicas { next } else { best });
    let best = best.filter(|best| failed.is_empty() || best.replicas >= current);
    let Some(best) = best else {
        let condition = failed.first().map(|first| {
            let message = format!("the HPA was unable to compute the replica count: {}", first.why);
            Condition::new(SCALING_ACTIVE, false, first.reason, message)
        });
        let error = error.or_else(|| Some("invalid metrics (0 invalid out of 0)".to_owned()));
        return Verdict { replicas: None, conditions: condition.into_iter().collect(), metrics, error };
    };
    let message = format!("the HPA was able to successfully calculate a replica count from {}", best.name);
    let mut conditions = vec![Condition::new(SCALING_ACTIVE, true, "ValidMetricFound", message)];
    let why = match best.replicas > current {
        true => format!("{} above target", best.name),
        false => "All metrics below target".to_owned(),
    };
    let change = (current, best.replicas);
    let (replicas, limits) = history.settle(autoscaler, settings, change, bounds(autoscaler), now);
    conditions.extend(limits);
    Verdict { replicas: Some((replicas, why)), conditions, metrics, error }
}
