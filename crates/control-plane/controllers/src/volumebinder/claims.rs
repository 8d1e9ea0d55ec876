//! What one claim needs.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use podium_api::volumes::{
    BETA_STORAGE_PROVISIONER, BIND_COMPLETED, BOUND_BY_CONTROLLER, SELECTED_NODE, STORAGE_PROVISIONER,
    Wanted, annotation, claim_ref, class_of_claim, has_class, is_bound_to, unsuited, volume_name,
    waits_for_consumer,
};

use super::plugins::{self, Maker};
use super::status::{LOST, PENDING, phase};
use crate::owner;

/// Something to be told about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Event {
    pub(crate) fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: false, reason, message: message.into() }
    }

    pub(crate) fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: true, reason, message: message.into() }
    }
}

/// What the caches show around one claim.
#[derive(Default)]
pub(crate) struct Around {
    /// The claim's class.
    pub(crate) class: Option<Arc<StorageClass>>,
    /// The class for claims that say nothing about it.
    pub(crate) default_class: Option<Arc<StorageClass>>,
    /// The volume that the claim names.
    pub(crate) named: Option<Arc<PersistentVolume>>,
    /// Volumes that are free or refer to the claim.
    pub(crate) volumes: Vec<Arc<PersistentVolume>>,
    /// Names of the pods that use the claim and have no node yet.
    pub(crate) waiting_pods: Vec<String>,
}

/// What is to be written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Act {
    /// The claim as it is to be: its metadata or its class.
    Write(Box<PersistentVolumeClaim>),
    /// Make the two refer to each other and say so.
    Bind(Arc<PersistentVolume>),
    /// Its phase, without a volume.
    Phase(&'static str),
    /// Nothing now.
    Wait,
    /// Somebody must clear this up; try again meanwhile.
    Stuck(String),
}

/// What one claim needs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Needs {
    pub(crate) act: Act,
    pub(crate) event: Option<Event>,
}

impl Needs {
    fn quietly(act: Act) -> Self {
        Self { act, event: None }
    }

    fn pending(event: Event) -> Self {
        Self { act: Act::Phase(PENDING), event: Some(event) }
    }
}

/// Decides about one claim.
pub(crate) fn decide(claim: &PersistentVolumeClaim, around: &Around) -> Needs {
    if let Some(metadata) = plugins::migrated_claim(&claim.metadata) {
        return Needs::quietly(Act::Write(Box::new(PersistentVolumeClaim { metadata, ..claim.clone() })));
    }
    let named = volume_name(claim);
    match (annotation(&claim.metadata, BIND_COMPLETED).is_some(), named) {
        (true, None) => lost(
            claim,
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        ),
        (true, Some(_)) => bound(claim, around),
        (false, Some(_)) => choosing(claim, around),
        (false, None) => open(claim, around),
    }
}

fn lost(claim: &PersistentVolumeClaim, reason: &'static str, message: &str) -> Needs {
    if phase(claim) == LOST {
        return Needs::quietly(Act::Wait);
    }
    Needs { act: Act::Phase(LOST), event: Some(Event::warning(reason, message)) }
}

/// A claim that was bound before.
fn bound(claim: &PersistentVolumeClaim, around: &Around) -> Needs {
    let Some(volume) = &around.named else {
        let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        return lost(claim, "ClaimLost", message);
    };
    match claim_ref(volume) {
        Some(reference) if reference.uid != claim.metadata.uid => {
            let message = "Two claims are bound to the same volume, this one is bound incorrectly";
            lost(claim, "ClaimMisbound", message)
        }
        _ => Needs::quietly(Act::Bind(Arc::clone(volume))),
    }
}

/// A claim that names its volume and was not bound yet.
fn choosing(claim: &PersistentVolumeClaim, around: &Around) -> Needs {
    let Some(volume) = &around.named else { return Needs::quietly(Act::Phase(PENDING)) };
    let name = owner::name(&volume.metadata);
    if claim_ref(volume).is_none()
        && let Some(why) = unsuited(volume, claim)
    {
        let message = format!("Cannot bind to requested volume {name:?}: {why}");
        return Needs::pending(Event::warning("VolumeMismatch", message));
    }
    if claim_ref(volume).is_none() || is_bound_to(volume, claim) {
        return Needs::quietly(Act::Bind(Arc::clone(volume)));
    }
    let message = format!("volume {name:?} already bound to a different claim.");
    let event = Event::warning("FailedBinding", message);
    if annotation(&claim.metadata, BOUND_BY_CONTROLLER).is_none() {
        return Needs::pending(event);
    }
    let other = claim_ref(volume).cloned().unwrap_or_default();
    let why = format!(
        "invalid binding to volume {name:?}: volume already claimed by \"{}/{}\"",
        other.namespace.unwrap_or_default(),
        other.name.unwrap_or_default()
    );
    Needs { act: Act::Stuck(why), event: Some(event) }
}

/// A claim that leaves the choice.
fn open(claim: &PersistentVolumeClaim, around: &Around) -> Needs {
    let delayed = around.class.as_deref().is_some_and(waits_for_consumer);
    let wanted = match Wanted::new(claim) {
        Ok(wanted) => wanted,
        Err(why) => return Needs::quietly(Act::Stuck(format!("its selector is invalid: {why}"))),
    };
    // Where the scheduler chooses, only what it has chosen counts.
    let best = wanted.rank(around.volumes.iter().cloned()).into_iter().next();
    if let Some(volume) = best.filter(|volume| !delayed || is_bound_to(volume, claim)) {
        return Needs::quietly(Act::Bind(volume));
    }
    if !has_class(claim)
        && let Some(class) = &around.default_class
    {
        let mut classed = claim.clone();
        classed.spec.get_or_insert_default().storage_class_name = class.metadata.name.clone();
        return Needs::quietly(Act::Write(Box::new(classed)));
    }
    if delayed && annotation(&claim.metadata, SELECTED_NODE).is_none() {
        return Needs::pending(waiting(&around.waiting_pods));
    }
    if class_of_claim(claim).is_empty() {
        let message = "no persistent volumes available for this claim and no storage class is set";
        return Needs::pending(Event::normal("FailedBinding", message));
    }
    provision(claim, around.class.as_deref())
}

fn waiting(pods: &[String]) -> Event {
    let message = match pods {
        [] => {
            let message = "waiting for first consumer to be created before binding";
            return Event::normal("WaitForFirstConsumer", message);
        }
        [pod] => format!("waiting for pod {pod} to be scheduled"),
        pods => format!("waiting for pods {} to be scheduled", pods.join(",")),
    };
    Event::normal("WaitForPodScheduled", message)
}

fn provision(claim: &PersistentVolumeClaim, class: Option<&StorageClass>) -> Needs {
    let failed = |why: String| Some(Event::warning("ProvisioningFailed", why));
    let Some(class) = class else {
        let why = format!("storageclass.storage.k8s.io {:?} not found", class_of_claim(claim));
        return Needs { act: Act::Wait, event: failed(why) };
    };
    match plugins::maker(&class.provisioner) {
        Maker::External(name) => Needs {
            act: mark(claim, &name),
            event: Some(Event::normal(
                "ExternalProvisioning",
                format!(
                    "Waiting for a volume to be created either by the external provisioner '{name}' or manually by the system \
                     administrator. If volume creation is delayed, please verify that the provisioner is running and correctly \
                     registered."
                ),
            )),
        },
        Maker::Nobody { marked, why } => {
            Needs { act: marked.map_or(Act::Wait, |name| mark(claim, &name)), event: failed(why) }
        }
    }
}

/// Names the provisioner on the claim.
fn mark(claim: &PersistentVolumeClaim, provisioner: &str) -> Act {
    if annotation(&claim.metadata, STORAGE_PROVISIONER) == Some(provisioner) {
        return Act::Wait;
    }
    let mut marked = claim.clone();
    let annotations = marked.metadata.annotations.get_or_insert_default();
    for key in [STORAGE_PROVISIONER, BETA_STORAGE_PROVISIONER] {
        annotations.insert(key.to_owned(), provisioner.to_owned());
    }
    Act::Write(Box::new(marked))
}

/// A bound claim's own part: the volume's name and the marks; `None` when it has them.
pub(crate) fn bound_to(claim: &PersistentVolumeClaim, volume: &str) -> Option<PersistentVolumeClaim> {
    let mut bound = claim.clone();
    let annotations = bound.metadata.annotations.get_or_insert_default();
    let mark = || "yes".to_owned();
    if volume_name(claim) != Some(volume) {
        bound.spec.get_or_insert_default().volume_name = Some(volume.to_owned());
        annotations.entry(BOUND_BY_CONTROLLER.to_owned()).or_insert_with(mark);
    }
    annotations.entry(BIND_COMPLETED.to_owned()).or_insert_with(mark);
    (bound != *claim).then_some(bound)
}
