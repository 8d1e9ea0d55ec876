//! The conditions that tell what holds a namespace.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{NamespaceCondition, NamespaceStatus};

use super::decide::Findings;
use crate::clock;

/// Type, reason and message of each condition when there is nothing to complain about, in the order they are written.
/// Source: `pkg/controller/namespace/deletion/status_condition_utils.go`.
const CONDITIONS: [(&str, &str, &str); 5] = [
    (DISCOVERY, "ResourcesDiscovered", "All resources successfully discovered"),
    (PARSING, "ParsedGroupVersions", "All legacy kube types successfully parsed"),
    (CONTENT, "ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
    (REMAINING, "ContentRemoved", "All content successfully removed"),
    (FINALIZERS, "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
];
const DISCOVERY: &str = "NamespaceDeletionDiscoveryFailure";
const PARSING: &str = "NamespaceDeletionGroupVersionParsingFailure";
const CONTENT: &str = "NamespaceDeletionContentFailure";
const REMAINING: &str = "NamespaceContentRemaining";
const FINALIZERS: &str = "NamespaceFinalizersRemaining";

/// The status that tells the findings, or `None` when the stored one does.
pub(crate) fn status(
    current: &NamespaceStatus,
    findings: &Findings,
    now: Timestamp,
) -> Option<NamespaceStatus> {
    let mut new = current.clone();
    let conditions = new.conditions.get_or_insert_default();
    for (type_, good_reason, good_message) in CONDITIONS {
        let (status, reason, message) = match complaint(type_, findings) {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", good_reason, good_message.to_owned()),
        };
        let position = conditions.iter().position(|condition| condition.type_ == type_);
        let stays = position.is_some_and(|position| conditions[position].status == status);
        let time = match position {
            Some(position) if stays => conditions[position].last_transition_time.clone(),
            _ => Some(clock::time(now)),
        };
        let condition = NamespaceCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: time,
        };
        match position {
            Some(position) => conditions[position] = condition,
            None => conditions.push(condition),
        }
    }
    (new != *current).then_some(new)
}

fn complaint(type_: &str, findings: &Findings) -> Option<(&'static str, String)> {
    match type_ {
        DISCOVERY if !findings.undiscovered.is_empty() => Some((
            "DiscoveryFailed",
            format!(
                "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
                findings.undiscovered.len(),
                findings.undiscovered.join(", ")
            ),
        )),
        CONTENT if !findings.errors.is_empty() => {
            let mut errors = findings.errors.clone();
            errors.sort();
            let count = errors.len();
            let text = errors.join(", ");
            Some((
                "ContentDeletionFailed",
                format!("Failed to delete all resource types, {count} remaining: {text}"),
            ))
        }
        REMAINING if !findings.remaining.is_empty() => {
            let mut resources: Vec<String> = findings
                .remaining
                .iter()
                .map(|it| format!("{} has {} resource instances", it.resource, it.objects))
                .collect();
            resources.sort();
            Some(("SomeResourcesRemain", format!("Some resources are remaining: {}", resources.join(", "))))
        }
        FINALIZERS => {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for (finalizer, count) in findings.remaining.iter().flat_map(|it| &it.finalizers) {
                *counts.entry(finalizer).or_default() += count;
            }
            let counts: Vec<String> = counts
                .into_iter()
                .map(|(name, count)| format!("{name} in {count} resource instances"))
                .collect();
            (!counts.is_empty()).then(|| {
                let text = counts.join(", ");
                (
                    "SomeFinalizersRemain",
                    format!("Some content in the namespace has finalizers remaining: {text}"),
                )
            })
        }
        _ => None,
    }
}
