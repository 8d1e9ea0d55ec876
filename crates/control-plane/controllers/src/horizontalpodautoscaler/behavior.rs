//! How fast a scale may change: what was recommended and done lately, and the rules about it.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscaler};

use super::Autoscaling;
use super::status::{ABLE_TO_SCALE, Condition, SCALING_LIMITED};
use crate::clock::after;

/// Without rules of its own an autoscaler at most doubles, and may always go to four. Source: `scaleUpLimitFactor` and
/// `scaleUpLimitMinimum`.
const UP_FACTOR: i32 = 2;
const UP_LEAST: i32 = 4;
/// Source: the API's defaults of `behavior`.
const PERIOD_SECONDS: i32 = 15;

/// What happened lately to one autoscaler: when, and how many.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    recommended: Vec<(Timestamp, i32)>,
    added: Vec<(Timestamp, i32)>,
    removed: Vec<(Timestamp, i32)>,
}

/// The rules for one direction, complete.
struct Rules {
    window_seconds: i32,
    select: String,
    /// Percent or pods, value, period in seconds.
    policies: Vec<(bool, i32, i32)>,
}

impl Rules {
    /// `window_seconds` is the window where the rules do not tell theirs.
    fn read(rules: Option<&HPAScalingRules>, window_seconds: i32, up: bool) -> Self {
        let percent = (true, 100, PERIOD_SECONDS);
        let default = if up { vec![(false, UP_LEAST, PERIOD_SECONDS), percent] } else { vec![percent] };
        let policies = rules.and_then(|rules| rules.policies.as_ref()).map(|policies| {
            policies.iter().map(|it| (it.type_ == "Percent", it.value, it.period_seconds)).collect()
        });
        Self {
            window_seconds: rules
                .and_then(|rules| rules.stabilization_window_seconds)
                .unwrap_or(window_seconds),
            select: rules.and_then(|rules| rules.select_policy.clone()).unwrap_or_else(|| "Max".to_owned()),
            policies: policies.unwrap_or(default),
        }
    }

    fn longest_period(&self) -> i32 {
        self.policies.iter().map(|(_, _, period)| *period).max().unwrap_or(0)
    }
}

fn rules(autoscaler: &HorizontalPodAutoscaler, down_seconds: i32) -> Option<(Rules, Rules)> {
    let behavior = autoscaler.spec.behavior.as_ref()?;
    let up = Rules::read(behavior.scale_up.as_ref(), 0, true);
    Some((up, Rules::read(behavior.scale_down.as_ref(), down_seconds, false)))
}

/// Whether the moment lies within the seconds before `now`.
fn is_recent((moment, _): &(Timestamp, i32), seconds: i32, now: Timestamp) -> bool {
    after(*moment, i64::from(seconds)) > now
}

fn sum(changes: &[(Timestamp, i32)], seconds: i32, now: Timestamp) -> i32 {
    changes.iter().filter(|change| is_recent(change, seconds, now)).map(|(_, count)| *count).sum()
}

impl History {
    /// Begins with what is there, so that a start does not look like a recommendation to shrink.
    pub(crate) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommended.is_empty() {
            self.recommended.push((now, current));
        }
    }

    /// Remembers a change of scale, for the rates that come after.
    pub(crate) fn scaled(
        &mut self,
        autoscaler: &HorizontalPodAutoscaler,
        from: i32,
        to: i32,
        now: Timestamp,
    ) {
        // Windows do not matter here.
        let Some((up, down)) = rules(autoscaler, 0) else { return };
        let longest = up.longest_period().max(down.longest_period());
        let changes = if to > from { &mut self.added } else { &mut self.removed };
        changes.retain(|change| is_recent(change, longest, now));
        changes.push((now, (to - from).abs()));
    }

    /// The number that may be gone to of the number that is wanted, and the conditions about it.
    pub(crate) fn settle(
        &mut self,
        autoscaler: &HorizontalPodAutoscaler,
        settings: &Autoscaling,
        (current, wanted): (i32, i32),
        (least, most): (i32, i32),
        now: Timestamp,
    ) -> (i32, [Condition; 2]) {
        let down_seconds = i32::try_from(settings.downscale_stabilization.as_secs()).unwrap_or(i32::MAX);
        let rules = rules(autoscaler, down_seconds);
        let (up_seconds, down_seconds) = match &rules {
            Some((up, down)) => (up.window_seconds, down.window_seconds),
            None => (0, down_seconds),
        };
        let stable = self.stabilize(current, wanted, (up_seconds, down_seconds), rules.is_some(), now);
        let able = |reason: &str, message: &str| Condition::new(ABLE_TO_SCALE, true, reason, message);
        let first = if stable == wanted {
            able("ReadyForNewScale", "recommended size matches current size")
        } else if rules.is_some() && wanted >= current {
            able(
                "ScaleUpStabilized",
                "recent recommendations were lower than current one, applying the lowest recent recommendation",
            )
        } else {
            able(
                "ScaleDownStabilized",
                "recent recommendations were higher than current one, applying the highest recent recommendation",
            )
        };
        let (allowed, reason, message) = match &rules {
            Some((up, down)) => self.limit(current, stable, (least, most), (up, down), now),
            None => limit_by_default(current, stable, (least, most)),
        };
        (allowed, [first, Condition::new(SCALING_LIMITED, allowed != stable, reason, message)])
    }

    fn stabilize(
        &mut self,
        current: i32,
        wanted: i32,
        (up_seconds, down_seconds): (i32, i32),
        with_rules: bool,
        now: Timestamp,
    ) -> i32 {
        let lately = |seconds: i32| {
            self.recommended.iter().filter(move |it| is_recent(it, seconds, now)).map(|(_, count)| *count)
        };
        let highest = lately(down_seconds).fold(wanted, i32::max);
        let lowest = lately(up_seconds).fold(wanted, i32::min);
        let longest = up_seconds.max(down_seconds);
        self.recommended.retain(|it| is_recent(it, longest, now));
        self.recommended.push((now, wanted));
        // Without rules there is nothing that holds back growth.
        if with_rules { current.max(lowest).min(highest) } else { highest }
    }

    fn limit(
        &self,
        current: i32,
        wanted: i32,
        (least, most): (i32, i32),
        (up, down): (&Rules, &Rules),
        now: Timestamp,
    ) -> (i32, &'static str, &'static str) {
        if wanted > current {
            let limit = self.reach(current, up, true, now).max(current);
            if wanted > most.min(limit) {
                return if most > limit {
                    (limit, UP_LIMIT.0, UP_LIMIT.1)
                } else {
                    (most, TOO_MANY.0, TOO_MANY.1)
                };
            }
        } else if wanted < current {
            let limit = self.reach(current, down, false, now).min(current);
            if wanted < least.max(limit) {
                return if least < limit {
                    (limit, DOWN_LIMIT.0, DOWN_LIMIT.1)
                } else {
                    (least, TOO_FEW.0, TOO_FEW.1)
                };
            }
        }
        (wanted, WITHIN.0, WITHIN.1)
    }

    /// How far the policies of one direction let the scale go.
    fn reach(&self, current: i32, rules: &Rules, up: bool, now: Timestamp) -> i32 {
        if rules.select == "Disabled" {
            return current;
        }
        let proposals = rules.policies.iter().map(|(percent, value, period)| {
            let (added, removed) = (sum(&self.added, *period, now), sum(&self.removed, *period, now));
            let start = current - added + removed;
            match (percent, up) {
                (false, true) => start.saturating_add(*value),
                (false, false) => start.saturating_sub(*value),
                // In whole numbers, so that a percent is not a float's: up is rounded up and down towards zero.
                (true, true) => scaled(start, 100 + i64::from(*value), 99),
                (true, false) => scaled(start, 100 - i64::from(*value), 0),
            }
        });
        // The largest change is the highest number upwards and the lowest downwards.
        if up == (rules.select == "Max") {
            proposals.max().unwrap_or(current)
        } else {
            proposals.min().unwrap_or(current)
        }
    }
}

fn scaled(start: i32, percent: i64, round: i64) -> i32 {
    let product = i64::from(start) * percent;
    i32::try_from((product + round) / 100).unwrap_or(if product > 0 { i32::MAX } else { i32::MIN })
}

const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_MANY: (&str, &str) =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const TOO_FEW: (&str, &str) =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const UP_LIMIT: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");

fn limit_by_default(
    current: i32,
    wanted: i32,
    (least, most): (i32, i32),
) -> (i32, &'static str, &'static str) {
    let limit = current.saturating_mul(UP_FACTOR).max(UP_LEAST);
    if wanted < least {
        (least, TOO_FEW.0, TOO_FEW.1)
    } else if wanted > most.min(limit) {
        if most > limit { (limit, UP_LIMIT.0, UP_LIMIT.1) } else { (most, TOO_MANY.0, TOO_MANY.1) }
    } else {
        (wanted, WITHIN.0, WITHIN.1)
    }
}
