//! Watches claims, volumes, classes and pods.

use std::collections::HashSet;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeStatus, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use podium_api::volumes::{
    BY_PARTNER, bound_to, claim_partner, claim_ref, class_of_claim, class_of_volume, class_partner,
    has_class, is_default_class, partner_of_claim, partner_of_volume, phase, volume_name, volume_partner,
};
use podium_client::{Change, Informer, Object, ObjectKey, WorkQueue};

use super::claims::{self, Act, Around, Event};
use super::counts;
use super::decide::{self, Needs};
use super::latest::Latest;
use super::recycle;
use super::status::{self, AVAILABLE, BOUND};
use crate::context::{Context, Error};
use crate::metrics;
use crate::metrics::volumes::{Operations, classed_later};
use crate::owner;
use crate::pods;

/// The key of the claim a volume refers to.
pub(super) fn reference_key(volume: &PersistentVolume) -> Option<ObjectKey> {
    let reference = claim_ref(volume)?;
    Some(ObjectKey::new(reference.namespace.as_deref()?, reference.name.as_deref()?))
}

fn is_free(volume: &PersistentVolume) -> bool {
    claim_ref(volume).is_none() && phase(volume) == AVAILABLE
}

/// Runs the controller until shutdown. Claims and volumes share a queue: a key without a namespace is a volume's.
pub(crate) async fn run(context: Context) {
    let volumes = context.informers.of::<PersistentVolume>();
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let classes = context.informers.of::<StorageClass>();
    let pods = context.informers.of::<Pod>();
    volumes.add_index(BY_PARTNER, |volume| vec![partner_of_volume(volume)]);
    claims.add_index(BY_PARTNER, |claim| partner_of_claim(claim).into_iter().collect());
    pods::index_by_claim(&pods);
    let queue = WorkQueue::new("persistentvolumes");
    let operations = Arc::new(Operations::default());
    watch_volumes(&volumes, &claims, &queue, &operations);
    watch_claims(&claims, &queue, &operations);
    watch_classes(&classes, &claims, &queue);
    watch_pods(&pods, &queue);
    let synced =
        [volumes.synced().boxed(), claims.synced().boxed(), classes.synced().boxed(), pods.synced().boxed()];
    context.ready(synced).await;
    let (of_volumes, of_claims) = (volumes.clone(), claims.clone());
    let _telling =
        metrics::tell("pv_collector", move |out| counts::tell(out, &of_volumes.list(), &of_claims.list()));
    let controller = Arc::new(Controller {
        context: context.clone(),
        volumes: Latest::new(volumes),
        claims: Latest::new(claims),
        classes,
        pods,
        recyclers: Mutex::default(),
        operations,
    });
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

fn watch_volumes(
    volumes: &Informer<PersistentVolume>,
    claims: &Informer<PersistentVolumeClaim>,
    queue: &WorkQueue<ObjectKey>,
    operations: &Arc<Operations>,
) {
    let (to, claims, operations) = (queue.clone(), claims.clone(), Arc::clone(operations));
    volumes.on_event(move |change| {
        let volume = change.object();
        let key = ObjectKey::of(volume.as_ref());
        let of = claims.keys_by_index(BY_PARTNER, &volume_partner(&key.name));
        of.into_iter().chain(reference_key(volume)).for_each(|claim| to.add(claim));
        let became_free = match change {
            Change::Added(new) => is_free(new),
            Change::Modified { old, new } => is_free(new) && !is_free(old),
            Change::Deleted(_) => return operations.done(&key.name),
        };
        to.add(key);
        if became_free {
            let waiting = claims.keys_by_index(BY_PARTNER, &class_partner(class_of_volume(volume)));
            waiting.into_iter().for_each(|claim| to.add(claim));
        }
    });
}

fn watch_claims(
    claims: &Informer<PersistentVolumeClaim>,
    queue: &WorkQueue<ObjectKey>,
    operations: &Arc<Operations>,
) {
    let (to, operations) = (queue.clone(), Arc::clone(operations));
    claims.on_event(move |change| {
        let claim = change.object();
        let key = ObjectKey::of(claim.as_ref());
        match change {
            Change::Deleted(_) => operations.forget(&key.to_string()),
            Change::Added(_) | Change::Modified { .. } => to.add(key),
        }
        if let Some(volume) = volume_name(claim) {
            to.add(ObjectKey::cluster(volume));
        }
    });
}

fn watch_classes(
    classes: &Informer<StorageClass>,
    claims: &Informer<PersistentVolumeClaim>,
    queue: &WorkQueue<ObjectKey>,
) {
    let (to, claims) = (queue.clone(), claims.clone());
    classes.on_event(move |change| {
        let class = change.object();
        let mut values = vec![class_partner(owner::name(&class.metadata))];
        if is_default_class(class) {
            values.push(class_partner(""));
        }
        let waiting = values.iter().flat_map(|value| claims.keys_by_index(BY_PARTNER, value));
        waiting.for_each(|claim| to.add(claim));
    });
}

fn watch_pods(pods: &Informer<Pod>, queue: &WorkQueue<ObjectKey>) {
    let to = queue.clone();
    pods.on_event(move |change| {
        let pod = change.object();
        // Claims that wait for a consumer say for which.
        if matches!(change, Change::Added(_)) && pods::node_name(pod).is_none() {
            pods::claim_keys(pod).into_iter().for_each(|claim| to.add(claim));
        }
        recycle::volume_of(pod).into_iter().for_each(|volume| to.add(volume));
    });
}

pub(super) struct Controller {
    pub(super) context: Context,
    volumes: Latest<PersistentVolume>,
    pub(super) claims: Latest<PersistentVolumeClaim>,
    classes: Informer<StorageClass>,
    pub(super) pods: Informer<Pod>,
    /// The uids of the recycling pods that we made.
    pub(super) recyclers: Mutex<HashSet<String>>,
    /// Volumes that are being made, by the keys of their claims, and removed, by their names.
    pub(super) operations: Arc<Operations>,
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    if key.namespace.is_empty() {
        let Some(volume) = controller.volumes.get(&key) else { return Ok(()) };
        return controller.volume(volume).await;
    }
    let Some(claim) = controller.claims.get(&key) else { return Ok(()) };
    controller.claim(claim, &key).await
}

impl Controller {
    async fn claim(&self, claim: Arc<PersistentVolumeClaim>, key: &ObjectKey) -> Result<(), Error> {
        let around = self.around(&claim, key);
        let needs = claims::decide(&claim, &around);
        let about = key.to_string();
        if let Some((plugin, in_vain)) = counts::asked_for(&needs, around.class.as_deref()) {
            self.operations.begin(about.as_str(), &plugin, "provision");
            if in_vain {
                self.operations.failed(&about);
            }
        }
        if let Act::Phase(phase) = needs.act {
            self.write_claim_status(&claim, phase, None).await?;
        }
        if let Act::Write(written) = &needs.act {
            let outcome = self.write_claim(written).await;
            if !has_class(&claim) && has_class(written) {
                classed_later(outcome.is_ok());
            }
            outcome?;
        }
        if let Some(event) = needs.event {
            self.tell(claim.as_ref(), event);
        }
        match needs.act {
            Act::Bind(volume) => {
                let outcome = self.bind(&volume, &claim).await;
                match &outcome {
                    Ok(()) => self.operations.done(&about),
                    Err(_) => self.operations.failed(&about),
                }
                outcome
            }
            Act::Stuck(why) => Err(Error::Unusable { object: key.to_string(), why }),
            Act::Phase(_) | Act::Write(_) | Act::Wait => Ok(()),
        }
    }

    fn around(&self, claim: &PersistentVolumeClaim, key: &ObjectKey) -> Around {
        let class = class_of_claim(claim);
        let mut around = Around {
            class: self.classes.get(&ObjectKey::cluster(class)),
            named: volume_name(claim).and_then(|name| self.volumes.get(&ObjectKey::cluster(name))),
            ..Around::default()
        };
        if volume_name(claim).is_some() {
            return around;
        }
        let values = [claim_partner(&key.namespace, &key.name), class_partner(class)];
        let partners = values.iter().flat_map(|value| self.volumes.cache.keys_by_index(BY_PARTNER, value));
        around.volumes = partners.filter_map(|volume| self.volumes.get(&volume)).collect();
        if !has_class(claim) {
            let marked = self.classes.list().into_iter().filter(|class| is_default_class(class));
            around.default_class = marked.min_by_key(|class| {
                let created = class.metadata.creation_timestamp.as_ref().map(|time| time.0);
                (std::cmp::Reverse(created), class.metadata.name.clone())
            });
        }
        let users = self.pods.by_index(pods::BY_CLAIM, &key.to_string());
        let waiting = users.iter().filter(|pod| !pods::is_finished(pod) && pods::node_name(pod).is_none());
        around.waiting_pods = waiting.map(|pod| owner::name(&pod.metadata).to_owned()).collect();
        around
    }

    /// Both sides, the volume first: a volume that refers to a claim can be taken by nobody else, whatever fails after that.
    async fn bind(
        &self,
        volume: &Arc<PersistentVolume>,
        claim: &Arc<PersistentVolumeClaim>,
    ) -> Result<(), Error> {
        let mut volume = Arc::clone(volume);
        if let Some(bound) = bound_to(&volume, claim) {
            volume = self.write_volume(&bound).await?;
        }
        let volume = self.write_phase(&volume, BOUND).await?;
        let mut claim = Arc::clone(claim);
        if let Some(bound) = claims::bound_to(&claim, owner::name(&volume.metadata)) {
            claim = self.write_claim(&bound).await?;
        }
        self.write_claim_status(&claim, BOUND, Some(&volume)).await
    }

    async fn volume(&self, volume: Arc<PersistentVolume>) -> Result<(), Error> {
        let claim = self.claim_of(&volume).await?;
        let class = |name: &str| self.classes.get(&ObjectKey::cluster(name));
        if let Some(plugin) = counts::removed_by(&volume, class) {
            self.operations.begin(owner::name(&volume.metadata), &plugin, "delete");
        }
        match decide::decide(&volume, claim.as_deref()) {
            Needs::Nothing => {}
            Needs::Write(written) => {
                self.write_volume(&written).await?;
            }
            Needs::Phase(phase, event) => {
                let written = self.write_phase(&volume, phase).await?;
                if let Some(event) = event {
                    if event.reason == "VolumeFailedDelete" {
                        self.operations.failed(owner::name(&volume.metadata));
                    }
                    self.tell(written.as_ref(), event);
                }
            }
            Needs::FinishClaim => {
                let Some(claim) = claim else { return Ok(()) };
                return self.claim(Arc::clone(&claim), &ObjectKey::of(claim.as_ref())).await;
            }
            Needs::Mismatch { volume: of_volume, claim: of_claim } => {
                self.tell(volume.as_ref(), of_volume);
                if let Some(claim) = claim {
                    self.tell(claim.as_ref(), of_claim);
                }
            }
            Needs::Unbind(unbound) => self.unbind(&unbound).await?,
            Needs::Remove(path) => self.remove(&volume, &path).await?,
            Needs::Recycle => self.recycle(&volume).await?,
        }
        Ok(())
    }

    /// The claim that the volume refers to. That it is gone is believed only of the API itself, because of what follows from it.
    async fn claim_of(&self, volume: &PersistentVolume) -> Result<Option<Arc<PersistentVolumeClaim>>, Error> {
        let Some(key) = reference_key(volume) else { return Ok(None) };
        let uid = claim_ref(volume).and_then(|reference| reference.uid.clone());
        let is_it = |claim: &PersistentVolumeClaim| claim.metadata.uid == uid;
        if let Some(cached) = self.claims.get(&key).filter(|claim| is_it(claim)) {
            return Ok(Some(cached));
        }
        if uid.is_none_or(|uid| uid.is_empty()) || decide::is_over(volume) {
            return Ok(None);
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let live = api.get_opt(&key.name).await.map_err(Error::call("get claim", key.to_string()))?;
        Ok(live
            .filter(|claim| claim_ref(volume).is_some_and(|it| it.uid == claim.metadata.uid))
            .map(Arc::new))
    }

    pub(super) async fn unbind(&self, unbound: &PersistentVolume) -> Result<(), Error> {
        let free = self.write_volume(unbound).await?;
        self.write_phase(&free, AVAILABLE).await?;
        Ok(())
    }

    async fn write_claim(&self, claim: &PersistentVolumeClaim) -> Result<Arc<PersistentVolumeClaim>, Error> {
        let (namespace, name) = (owner::namespace(&claim.metadata), owner::name(&claim.metadata));
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), namespace);
        let written = api.replace(name, &PostParams::default(), claim).await;
        Ok(self.claims.put(written.map_err(Error::call("update claim", name))?))
    }

    async fn write_claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> Result<(), Error> {
        let (namespace, name) = (owner::namespace(&claim.metadata), owner::name(&claim.metadata));
        let status = status::of_claim(claim, phase, volume)
            .map_err(|why| Error::Unusable { object: name.to_owned(), why })?;
        let Some(status) = status else { return Ok(()) };
        let updated = PersistentVolumeClaim { status: Some(status), ..claim.clone() };
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), namespace);
        let written = api.replace_status(name, &PostParams::default(), &updated).await;
        self.claims.put(written.map_err(Error::call("update status of claim", name))?);
        Ok(())
    }

    pub(super) async fn write_volume(
        &self,
        volume: &PersistentVolume,
    ) -> Result<Arc<PersistentVolume>, Error> {
        let name = owner::name(&volume.metadata);
        let api: Api<PersistentVolume> = Api::all(self.context.client.clone());
        let written = api.replace(name, &PostParams::default(), volume).await;
        Ok(self.volumes.put(written.map_err(Error::call("update volume", name))?))
    }

    pub(super) async fn write_phase(
        &self,
        volume: &PersistentVolume,
        new: &str,
    ) -> Result<Arc<PersistentVolume>, Error> {
        if phase(volume) == new {
            return Ok(Arc::new(volume.clone()));
        }
        let name = owner::name(&volume.metadata);
        let old = volume.status.clone().unwrap_or_default();
        let status = PersistentVolumeStatus { phase: Some(new.to_owned()), message: None, ..old };
        let updated = PersistentVolume { status: Some(status), ..volume.clone() };
        let api: Api<PersistentVolume> = Api::all(self.context.client.clone());
        let written = api.replace_status(name, &PostParams::default(), &updated).await;
        Ok(self.volumes.put(written.map_err(Error::call("update status of volume", name))?))
    }

    pub(super) fn tell<K: Object>(&self, about: &K, event: Event) {
        match event.warning {
            true => self.context.warning(about, event.reason, event.message),
            false => self.context.normal(about, event.reason, event.message),
        }
    }
}
