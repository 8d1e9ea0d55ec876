//! ReplicaSet and ReplicationController: keep as many pods of one template as the spec says.
//!
//! The two kinds differ in their names and in nothing else, so one decision serves both: [`Replicated`] shows either as a
//! [`View`]. Source of behaviour: `pkg/controller/replicaset`.

mod decide;
mod shell;
mod status;
#[cfg(test)]
mod tests;

use crate::children::Owner;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    PodTemplateSpec, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

pub(crate) use decide::dispensable_first;
pub(crate) use shell::run;

/// What both kinds have in common, borrowed from the cached object.
#[derive(Clone, Debug)]
pub(crate) struct View<'a> {
    pub(crate) meta: &'a ObjectMeta,
    pub(crate) selector: LabelSelector,
    pub(crate) replicas: i32,
    pub(crate) min_ready_seconds: i32,
    pub(crate) template: Option<&'a PodTemplateSpec>,
    pub(crate) status: ReplicaSetStatus,
    /// Whether the kind's status has `terminatingReplicas`.
    pub(crate) counts_terminating: bool,
}

/// A kind that keeps a number of pods.
pub(crate) trait Replicated: Owner {
    /// The name of its controller's queue.
    const QUEUE: &str;
    /// The parts that matter.
    fn view(&self) -> View<'_>;
    /// A copy with another status, for the status subresource.
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

impl Replicated for ReplicaSet {
    const QUEUE: &str = "replicaset";

    fn view(&self) -> View<'_> {
        let spec = self.spec.as_ref();
        View {
            meta: &self.metadata,
            selector: spec.map(|spec| spec.selector.clone()).unwrap_or_default(),
            replicas: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            min_ready_seconds: spec.and_then(|spec| spec.min_ready_seconds).unwrap_or_default(),
            template: spec.and_then(|spec| spec.template.as_ref()),
            status: self.status.clone().unwrap_or_default(),
            counts_terminating: true,
        }
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self { metadata: self.metadata.clone(), spec: self.spec.clone(), status: Some(status) }
    }
}

impl Replicated for ReplicationController {
    const QUEUE: &str = "replicationmanager";

    fn view(&self) -> View<'_> {
        let spec = self.spec.as_ref();
        View {
            meta: &self.metadata,
            selector: LabelSelector {
                match_labels: spec.and_then(|spec| spec.selector.clone()),
                match_expressions: None,
            },
            replicas: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            min_ready_seconds: spec.and_then(|spec| spec.min_ready_seconds).unwrap_or_default(),
            template: spec.and_then(|spec| spec.template.as_ref()),
            status: self.status.as_ref().map(from_controller_status).unwrap_or_default(),
            counts_terminating: false,
        }
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        Self {
            metadata: self.metadata.clone(),
            spec: self.spec.clone(),
            status: Some(to_controller_status(status)),
        }
    }
}

fn from_controller_status(status: &ReplicationControllerStatus) -> ReplicaSetStatus {
    let condition = |condition: &ReplicationControllerCondition| ReplicaSetCondition {
        type_: condition.type_.clone(),
        status: condition.status.clone(),
        last_transition_time: condition.last_transition_time.clone(),
        reason: condition.reason.clone(),
        message: condition.message.clone(),
    };
    ReplicaSetStatus {
        replicas: status.replicas,
        fully_labeled_replicas: status.fully_labeled_replicas,
        ready_replicas: status.ready_replicas,
        available_replicas: status.available_replicas,
        observed_generation: status.observed_generation,
        conditions: status.conditions.as_ref().map(|conditions| conditions.iter().map(condition).collect()),
        terminating_replicas: None,
    }
}

fn to_controller_status(status: ReplicaSetStatus) -> ReplicationControllerStatus {
    let condition = |condition: ReplicaSetCondition| ReplicationControllerCondition {
        type_: condition.type_,
        status: condition.status,
        last_transition_time: condition.last_transition_time,
        reason: condition.reason,
        message: condition.message,
    };
    ReplicationControllerStatus {
        replicas: status.replicas,
        fully_labeled_replicas: status.fully_labeled_replicas,
        ready_replicas: status.ready_replicas,
        available_replicas: status.available_replicas,
        observed_generation: status.observed_generation,
        conditions: status.conditions.map(|conditions| conditions.into_iter().map(condition).collect()),
    }
}
