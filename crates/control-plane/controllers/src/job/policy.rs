//! What a Job's own rules say about failed pods and about success.

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes::Indexes;
use crate::owner;
use crate::pods;

/// What a failed pod means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// One failure more.
    Count,
    /// Nothing.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The Job has failed, for this reason.
    FailJob(String),
}

/// Whether only pods that have come to an end are replaced, and not those that are being deleted.
pub(crate) fn replaces_only_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

/// Whether the pod counts as failed.
pub(crate) fn is_failed(pod: &Pod, spec: &JobSpec) -> bool {
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => pods::is_terminating(pod) && !replaces_only_failed(spec),
    }
}

/// The first rule that matches decides; without one the failure counts.
pub(crate) fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    match rule(policy, pod) {
        Some((_, "Ignore", _)) => Verdict::Ignore,
        Some((_, "FailIndex", _)) => Verdict::FailIndex,
        Some((index, "FailJob", why)) => {
            Verdict::FailJob(format!("{why} matching FailJob rule at index {index}"))
        }
        _ => Verdict::Count,
    }
}

/// What the first rule that matches says is to be done, if one does.
pub(crate) fn action<'a>(policy: Option<&'a PodFailurePolicy>, pod: &Pod) -> Option<&'a str> {
    rule(policy, pod).map(|(_, action, _)| action)
}

const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];

/// The first rule that matches, of those whose action is known: its place, its action, and what about the pod matches.
fn rule<'a>(policy: Option<&'a PodFailurePolicy>, pod: &Pod) -> Option<(usize, &'a str, String)> {
    let rules = policy.map(|policy| policy.rules.as_slice()).unwrap_or_default();
    let mut known = rules.iter().enumerate().filter(|(_, rule)| ACTIONS.contains(&rule.action.as_str()));
    known.find_map(|(index, rule)| Some((index, rule.action.as_str(), matches(rule, pod)?)))
}

/// What about the pod matches the rule, in upstream's words.
fn matches(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let name = format!("{}/{}", owner::namespace(&pod.metadata), owner::name(&pod.metadata));
    if let Some(required) = &rule.on_exit_codes {
        let regular = status.container_statuses.iter().flatten();
        let mut all = regular.chain(status.init_container_statuses.iter().flatten());
        return all.find_map(|container| {
            let code = exit_code(container, required)?;
            Some(format!("Container {} for pod {name} failed with exit code {code}", container.name))
        });
    }
    let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
    status.conditions.iter().flatten().find_map(|condition| {
        let wanted = |status: &Option<String>| status.as_deref().unwrap_or("True") == condition.status;
        let matched = patterns.iter().any(|it| it.type_ == condition.type_ && wanted(&it.status));
        matched.then(|| format!("Pod {name} has condition {}", condition.type_))
    })
}

fn exit_code(container: &ContainerStatus, required: &PodFailurePolicyOnExitCodesRequirement) -> Option<i32> {
    let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
    let named = required.container_name.as_ref().is_none_or(|name| *name == container.name);
    let listed = required.values.contains(&code);
    let wanted = match required.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    };
    (code != 0 && named && wanted).then_some(code)
}

/// The number of the first rule by which the succeeded indexes are enough.
pub(crate) fn success(
    policy: Option<&SuccessPolicy>,
    succeeded: &Indexes,
    completions: i32,
) -> Option<usize> {
    let rules = policy.map(|policy| policy.rules.as_slice()).unwrap_or_default();
    if succeeded.len() == 0 {
        return None;
    }
    rules.iter().position(|rule| match (&rule.succeeded_indexes, rule.succeeded_count) {
        (Some(indexes), count) => {
            let required = Indexes::parse(indexes, completions);
            let reached = required.overlap(succeeded);
            required.len() > 0 && (reached == required.len() || count.is_some_and(|count| reached >= count))
        }
        (None, Some(count)) => succeeded.len() >= count,
        (None, None) => false,
    })
}
