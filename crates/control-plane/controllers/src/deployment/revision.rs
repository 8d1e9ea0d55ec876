//! Revisions: which ReplicaSet carries the Deployment's template, and the annotations that kubectl's rollout commands read.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;

use crate::canonical::canonical;
use crate::labels;

/// The label that keeps the pods of a Deployment's ReplicaSets apart.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";
/// Counts the templates a Deployment has had.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier revisions of a ReplicaSet that was rolled back to.
pub(crate) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The Deployment's replicas when the ReplicaSet was last scaled.
pub(crate) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The same plus the surge.
pub(crate) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// Asks for an earlier revision. Source: `apps.DeprecatedRollbackTo`.
pub(crate) const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";

/// The longest revision history, in characters. Source: `maxRevHistoryLengthInChars`.
const HISTORY_LENGTH: usize = 2000;

/// Annotations of a Deployment that its ReplicaSets do not inherit.
pub(crate) const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    ROLLBACK_TO,
];

/// The ReplicaSet's revision; 0 when it has none.
pub(crate) fn of(set: &ReplicaSet) -> i64 {
    labels::value(set.metadata.annotations.as_ref(), REVISION)
        .and_then(|revision| revision.parse().ok())
        .unwrap_or_default()
}

/// Whether the ReplicaSet runs the Deployment's template, apart from the hash label.
pub(crate) fn runs(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let Some(own) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else { return false };
    let own = without_hash(own);
    // Templates differ far more often than they only differ in how emptiness is written.
    let template = without_hash(template);
    own == template || canonical(&own) == canonical(&template)
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    template
}

/// Brings the annotations of the ReplicaSet of the current template up to date. Returns whether anything changed.
///
/// Annotations of the Deployment are added, never taken away: `kubectl rollout history` shows the change cause from there.
pub(crate) fn annotate(deployment: &Deployment, set: &mut ReplicaSet, revision: i64) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&key.as_str()) && annotations.get(key) != Some(value) {
            annotations.insert(key.clone(), value.clone());
            changed = true;
        }
    }
    let old = annotations.get(REVISION).cloned();
    let number = match old.as_deref().map(str::parse::<i64>) {
        None => 0,
        Some(Ok(number)) => number,
        // Somebody's own text: theirs to keep.
        Some(Err(_)) => return changed,
    };
    if number < revision {
        annotations.insert(REVISION.to_owned(), revision.to_string());
        if let Some(old) = old {
            add_to_history(annotations, &old);
        }
        changed = true;
    }
    changed
}

fn add_to_history(annotations: &mut BTreeMap<String, String>, old: &str) {
    let history = annotations.get(REVISION_HISTORY).cloned().unwrap_or_default();
    let mut kept = history.as_str();
    let mut entry = if kept.is_empty() { old.to_owned() } else { format!("{kept},{old}") };
    while entry.len() > HISTORY_LENGTH {
        let Some((_, newer)) = kept.split_once(',') else { return };
        kept = newer;
        entry = format!("{kept},{old}");
    }
    annotations.insert(REVISION_HISTORY.to_owned(), entry);
}

/// The Deployment's replicas that a ReplicaSet was last scaled for.
pub(crate) fn desired_replicas(set: &ReplicaSet) -> Option<i32> {
    number(set, DESIRED_REPLICAS)
}

/// The most pods there were to be when a ReplicaSet was last scaled.
pub(crate) fn max_replicas(set: &ReplicaSet) -> Option<i32> {
    number(set, MAX_REPLICAS)
}

fn number(set: &ReplicaSet, annotation: &str) -> Option<i32> {
    labels::value(set.metadata.annotations.as_ref(), annotation)?.parse().ok().filter(|number| *number >= 0)
}

/// Notes on a ReplicaSet what it is being scaled for. Returns whether that is news.
pub(crate) fn annotate_replicas(set: &mut ReplicaSet, desired: i32, most: i32) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (key, number) in [(DESIRED_REPLICAS, desired), (MAX_REPLICAS, most)] {
        let text = number.to_string();
        if annotations.get(key) != Some(&text) {
            annotations.insert(key.to_owned(), text);
            changed = true;
        }
    }
    changed
}
