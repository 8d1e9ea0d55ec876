//! Going back to an earlier revision, as the annotation asks that stands for a field which Deployments had before apps/v1.
//!
//! `kubectl rollout undo` does not need this: it writes the old template itself. Source: `pkg/controller/deployment/rollback.go`.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::plan::{Plan, Planned};
use super::revision::{self, HASH_LABEL, NOT_COPIED, ROLLBACK_TO};
use crate::labels;
use crate::owner;

/// What ends a rollback: the Deployment without the wish, and what its users are told once that is written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rollback {
    /// As it was seen, with the old template if there is one; its resourceVersion is the precondition.
    pub(crate) deployment: Box<Deployment>,
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// The revision that is asked for, 0 for the one before the latest. What is no number is ignored.
pub(crate) fn wanted(deployment: &Deployment) -> Option<i64> {
    labels::value(deployment.metadata.annotations.as_ref(), ROLLBACK_TO)?.parse().ok()
}

/// Goes back to a revision among the planned sets, if it is there and is another.
pub(crate) fn decide(plan: &Plan<'_>, wanted: i64) -> Rollback {
    let mut deployment = Box::new(plan.deployment.clone());
    deployment.metadata.annotations.get_or_insert_default().remove(ROLLBACK_TO);
    let give_up = |deployment, message: &str| Rollback {
        deployment,
        warning: true,
        reason: "DeploymentRollbackRevisionNotFound",
        message: message.to_owned(),
    };
    let revision = match wanted {
        0 => last_revision(plan),
        wanted => wanted,
    };
    if revision == 0 {
        return give_up(deployment, "Unable to find last revision.");
    }
    let Some(Planned { set }) = plan.all().find(|it| revision::of(&it.set) == revision) else {
        return give_up(deployment, "Unable to find the revision to rollback to.");
    };
    let name = owner::name(&plan.deployment.metadata);
    let current = plan.deployment.spec.as_ref().map(|spec| &spec.template);
    if current.is_some_and(|template| revision::runs(set, template)) {
        return Rollback {
            deployment,
            warning: true,
            reason: "DeploymentRollbackTemplateUnchanged",
            message: format!(
                "The rollback revision contains the same template as current deployment {name:?}"
            ),
        };
    }
    take_over(&mut deployment, set);
    Rollback {
        deployment,
        warning: false,
        reason: "DeploymentRollback",
        message: format!("Rolled back deployment {name:?} to revision {revision}"),
    }
}

/// The second highest revision; 0 when there is none.
fn last_revision(plan: &Plan<'_>) -> i64 {
    let mut revisions: Vec<_> = plan.all().map(|it| revision::of(&it.set)).collect();
    revisions.sort_unstable_by(|a, b| b.cmp(a));
    revisions.get(1).copied().unwrap_or_default()
}

/// Gives the Deployment a set's template, and the set's annotations with it: the change cause is that of the old revision again.
fn take_over(deployment: &mut Deployment, set: &ReplicaSet) {
    if let Some(mut template) = set.spec.as_ref().and_then(|spec| spec.template.clone()) {
        if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
            labels.remove(HASH_LABEL);
        }
        deployment.spec.get_or_insert_default().template = template;
    }
    let annotations = deployment.metadata.annotations.get_or_insert_default();
    annotations.retain(|key, _| NOT_COPIED.contains(&key.as_str()));
    let of_set = set.metadata.annotations.iter().flatten();
    annotations.extend(
        of_set
            .filter(|(key, _)| !NOT_COPIED.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone())),
    );
}
