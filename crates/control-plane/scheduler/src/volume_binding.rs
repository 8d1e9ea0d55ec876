//! A pod's claims as the caches show them, and their binding before the pod's own.
//!
//! Source of behaviour: upstream's VolumeBinding plugin and `binder.go` (v1.36). What was decided for one pod and does not show yet
//! is kept as a reservation, so that the next decision counts with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use podium_api::volumes::{
    self as api, BIND_COMPLETED, BY_PARTNER, NO_PROVISIONER, SELECTED_NODE, Wanted, annotation, bound_to,
    claim_ref, class_of_claim, volume_name, waits_for_consumer,
};
use podium_client::{Client, Informer, ObjectKey, SharedInformers, error_chain};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::affinity::NodeTerm;
use crate::pod::PodInfo;
use crate::surroundings::Volumes;
use crate::volumes::{Candidate, Choice, OpenClaim, VolumeNeeds, zones_of};

/// How long a pod waits for its volumes to be bound or made. Source: `bindTimeoutSeconds` of the plugin's defaults.
const BIND_WITHIN: Duration = Duration::from_secs(600);

/// What was decided for a pod whose binding is under way.
#[derive(Clone, Debug)]
struct Reservation {
    claim: ObjectKey,
    /// `None` when a volume is being made.
    volume: Option<Arc<str>>,
    node: Arc<str>,
    /// The pod's.
    uid: String,
}

/// The informers' answers about volumes.
#[derive(Debug)]
pub(crate) struct VolumeBinder {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    reserved: Mutex<Vec<Reservation>>,
    /// Counts changes, for those that wait for one.
    changes: watch::Sender<u64>,
}

impl VolumeBinder {
    /// Follows the informers; `told` is called for every change.
    pub(crate) fn new(
        informers: &SharedInformers,
        told: impl Fn() + Clone + Send + Sync + 'static,
    ) -> Arc<Self> {
        let binder = Arc::new(Self {
            claims: informers.of(),
            volumes: informers.of(),
            classes: informers.of(),
            reserved: Mutex::default(),
            changes: watch::channel(0).0,
        });
        binder.volumes.add_index(BY_PARTNER, |volume| vec![api::partner_of_volume(volume)]);
        let changes = binder.changes.clone();
        let changed = move || {
            changes.send_modify(|count| *count += 1);
            told();
        };
        let (of_claims, of_volumes) = (changed.clone(), changed.clone());
        binder.claims.on_event(move |_| of_claims());
        binder.volumes.on_event(move |_| of_volumes());
        binder.classes.on_event(move |_| changed());
        binder
    }

    /// Waits for the first lists.
    pub(crate) async fn synced(&self) {
        self.claims.synced().await;
        self.volumes.synced().await;
        self.classes.synced().await;
    }

    /// What the pod's claims ask of nodes.
    pub(crate) fn needs(&self, pod: &PodInfo) -> Volumes {
        let mut needs = VolumeNeeds::default();
        let mut open = Vec::new();
        for name in &pod.claims {
            let key = ObjectKey::new(pod.key.namespace.as_str(), name.as_str());
            let ephemeral = pod.ephemeral_claims.contains(name);
            let Some(claim) = self.claims.get(&key) else {
                return Volumes::Refused(if ephemeral {
                    format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                    )
                } else {
                    format!("persistentvolumeclaim {name:?} not found")
                });
            };
            if let Some(why) = unusable(&claim, pod, ephemeral) {
                return Volumes::Refused(why);
            }
            let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
            if modes.iter().any(|mode| mode == "ReadWriteOncePod") {
                needs.exclusive.push(name.clone());
            }
            match volume_name(&claim) {
                Some(volume) if annotation(&claim.metadata, BIND_COMPLETED).is_some() => {
                    self.bound(volume, &mut needs);
                }
                None if self.class(&claim).is_some_and(|class| waits_for_consumer(&class)) => {
                    open.push(claim);
                }
                _ => {
                    return Volumes::Refused("pod has unbound immediate PersistentVolumeClaims".to_owned());
                }
            }
        }
        open.sort_by_key(|claim| api::requested(claim));
        for claim in &open {
            match self.open(claim) {
                Ok(claim) => needs.open.push(claim),
                Err(why) => return Volumes::Refused(why),
            }
        }
        Volumes::Ready(needs)
    }

    fn class(&self, claim: &PersistentVolumeClaim) -> Option<Arc<StorageClass>> {
        self.classes.get(&ObjectKey::cluster(class_of_claim(claim)))
    }

    fn bound(&self, name: &str, needs: &mut VolumeNeeds) {
        let Some(volume) = self.volumes.get(&ObjectKey::cluster(name)) else {
            needs.missing = true;
            return;
        };
        needs.bound.extend(reach(&volume));
        needs.zones.extend(zones_of(volume.metadata.labels.as_ref().unwrap_or(&Default::default())));
    }

    fn open(&self, claim: &PersistentVolumeClaim) -> Result<OpenClaim, String> {
        let key = ObjectKey::of(claim);
        let reserved = self.reserved.lock().clone();
        let mine = reserved.iter().find(|reservation| reservation.claim == key);
        let selected = annotation(&claim.metadata, SELECTED_NODE).map(str::to_owned);
        let being_made = mine.filter(|mine| mine.volume.is_none()).map(|mine| mine.node.to_string());
        let made = self.class(claim).and_then(|class| makes(&class));
        let mut open = OpenClaim { key, volumes: Vec::new(), made, selected_node: being_made.or(selected) };
        if open.selected_node.is_some() {
            return Ok(open);
        }
        let wanted = Wanted::new(claim)
            .map_err(|why| format!("the selector of claim {} is invalid: {why}", open.key))?;
        let values = [
            api::claim_partner(&open.key.namespace, &open.key.name),
            api::class_partner(class_of_claim(claim)),
        ];
        let found = values.iter().flat_map(|value| self.volumes.by_index(BY_PARTNER, value));
        let promised: HashMap<_, _> =
            reserved.iter().filter_map(|it| Some((it.volume.as_deref()?, &it.claim))).collect();
        let free = found.filter(|volume| {
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            promised.get(name).is_none_or(|claim| **claim == open.key)
        });
        let mut ranked = wanted.rank(free);
        if let Some(volume) = mine.and_then(|mine| mine.volume.as_deref()) {
            ranked.retain(|candidate| candidate.metadata.name.as_deref() == Some(volume));
        }
        open.volumes = ranked
            .iter()
            .map(|volume| Candidate {
                name: volume.metadata.name.as_deref().unwrap_or_default().into(),
                nodes: reach(volume),
            })
            .collect();
        // A volume that is kept for this claim is the only one it may have.
        if ranked.iter().any(|volume| claim_ref(volume).is_some()) {
            open.made = None;
        }
        Ok(open)
    }

    /// Has later decisions count with these.
    pub(crate) fn reserve(&self, pod: &PodInfo, node: &Arc<str>, choices: &[Choice]) {
        let reservation = |choice: &Choice| {
            let (claim, volume) = match choice {
                Choice::Volume { claim, volume } => (claim.clone(), Some(volume.clone())),
                Choice::Make { claim } => (claim.clone(), None),
            };
            Reservation { claim, volume, node: node.clone(), uid: pod.uid.clone() }
        };
        self.reserved.lock().extend(choices.iter().map(reservation));
    }

    /// The pod's binding has ended, well or not: the caches show what became of it.
    pub(crate) fn release(&self, uid: &str) {
        self.reserved.lock().retain(|reservation| reservation.uid != uid);
    }

    /// Has the choices come true and waits until they have. Errors are for an event.
    pub(crate) async fn bind(&self, client: &Client, node: &str, choices: &[Choice]) -> Result<(), String> {
        let binding = async {
            let mut selected = HashMap::new();
            for choice in choices {
                match choice {
                    Choice::Volume { claim, volume } => self.write_volume(client, claim, volume).await?,
                    Choice::Make { claim } => {
                        selected.insert(claim, self.select_node(client, claim, node).await?);
                    }
                }
            }
            let mut changes = self.changes.subscribe();
            loop {
                changes.mark_unchanged();
                if self.is_done(node, choices, &selected)? {
                    return Ok(());
                }
                // The sender is ours, so it cannot be gone.
                let _ = changes.changed().await;
            }
        };
        let ended = timeout(BIND_WITHIN, binding).await;
        ended.unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
    }

    async fn write_volume(&self, client: &Client, claim: &ObjectKey, volume: &str) -> Result<(), String> {
        let gone = |kind: &str, name: &str| format!("{kind} {name:?} not found");
        let of = self.claims.get(claim).ok_or_else(|| gone("persistentvolumeclaim", &claim.name))?;
        let volumes: Api<PersistentVolume> = Api::all(client.clone());
        let seen = self.volumes.get(&ObjectKey::cluster(volume));
        let seen = seen.ok_or_else(|| gone("persistentvolume", volume))?;
        let Some(bound) = bound_to(&seen, &of) else { return Ok(()) };
        volumes.replace(volume, &PostParams::default(), &bound).await.map_err(|error| error_chain(&error))?;
        Ok(())
    }

    /// Returns the version from which on the claim says so.
    async fn select_node(&self, client: &Client, key: &ObjectKey, node: &str) -> Result<u64, String> {
        let seen =
            self.claims.get(key).ok_or_else(|| format!("persistentvolumeclaim {:?} not found", key.name))?;
        if annotation(&seen.metadata, SELECTED_NODE) == Some(node) {
            return Ok(version(&seen));
        }
        let mut selected = PersistentVolumeClaim::clone(&seen);
        let annotations = selected.metadata.annotations.get_or_insert_default();
        annotations.insert(SELECTED_NODE.to_owned(), node.to_owned());
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &key.namespace);
        let written = claims.replace(&key.name, &PostParams::default(), &selected).await;
        written.map(|claim| version(&claim)).map_err(|error| error_chain(&error))
    }

    /// Whether all is bound; an error when it never will be. `selected`: since which versions claims have the node on them.
    fn is_done(
        &self,
        node: &str,
        choices: &[Choice],
        selected: &HashMap<&ObjectKey, u64>,
    ) -> Result<bool, String> {
        let mut done = true;
        for choice in choices {
            let (Choice::Volume { claim: key, .. } | Choice::Make { claim: key }) = choice;
            let claim = self.claims.get(key).filter(|claim| claim.metadata.deletion_timestamp.is_none());
            let claim = claim.ok_or_else(|| format!("persistentvolumeclaim {:?} not found", key.name))?;
            if volume_name(&claim).is_some() && annotation(&claim.metadata, BIND_COMPLETED).is_some() {
                continue;
            }
            done = false;
            // A provisioner that gives up on a node takes it off the claim again.
            let current = selected.get(key).is_some_and(|since| version(&claim) >= *since);
            if current && annotation(&claim.metadata, SELECTED_NODE) != Some(node) {
                return Err(format!("provisioning failed for PVC {:?}", key.name));
            }
        }
        Ok(done)
    }
}

fn version(claim: &PersistentVolumeClaim) -> u64 {
    claim.metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Why a claim keeps the pod from every node.
fn unusable(claim: &PersistentVolumeClaim, pod: &PodInfo, ephemeral: bool) -> Option<String> {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
        let volume = volume_name(claim).unwrap_or_default();
        return Some(format!(
            "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
        ));
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Some(format!("persistentvolumeclaim {name:?} is being deleted"));
    }
    let mut owners = claim.metadata.owner_references.iter().flatten();
    if ephemeral && !owners.any(|owner| owner.controller == Some(true) && owner.uid == pod.uid) {
        let namespace = &pod.key.namespace;
        return Some(format!(
            "PVC {namespace}/{name} was not created for pod {} (pod is not owner)",
            pod.key
        ));
    }
    None
}

/// From which nodes a volume can be reached, if not from all.
fn reach(volume: &PersistentVolume) -> Option<Vec<NodeTerm>> {
    let required = volume.spec.as_ref()?.node_affinity.as_ref()?.required.as_ref()?;
    Some(required.node_selector_terms.iter().map(NodeTerm::from_wire).collect())
}

/// Where volumes of a class can be made, if anywhere.
fn makes(class: &StorageClass) -> Option<Vec<crate::volumes::Topology>> {
    if class.provisioner.is_empty() || class.provisioner == NO_PROVISIONER {
        return None;
    }
    let terms = class.allowed_topologies.iter().flatten();
    let term = |term: &k8s_openapi::api::core::v1::TopologySelectorTerm| {
        let labels = term.match_label_expressions.iter().flatten();
        labels.map(|label| (label.key.clone(), label.values.iter().cloned().collect())).collect()
    };
    Some(terms.map(term).collect())
}
