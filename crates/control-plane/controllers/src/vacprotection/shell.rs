//! Watches classes, volumes and claims.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::api::{Api, ListParams};
use podium_client::{Change, Informer, ObjectKey, WorkQueue};

use super::decide::{Decision, FINALIZER, class_of, classes_of, decide};
use crate::context::{Context, Error};
use crate::protection;

/// Index of volumes and claims by the classes they name.
const BY_CLASS: &str = "controllers/attributesClass";

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let classes = context.informers.of::<VolumeAttributesClass>();
    let volumes = context.informers.of::<PersistentVolume>();
    let claims = context.informers.of::<PersistentVolumeClaim>();
    volumes.add_index(BY_CLASS, class_of);
    claims.add_index(BY_CLASS, classes_of);
    let queue = WorkQueue::new("vacprotection");
    let to = queue.clone();
    classes.on_event(move |change| {
        if !matches!(change, Change::Deleted(_)) {
            to.add(ObjectKey::of(change.object().as_ref()));
        }
    });
    // Only what an object no longer names can become free.
    let to = queue.clone();
    volumes.on_event(move |change| {
        freed(change, class_of).into_iter().for_each(|name| to.add(ObjectKey::cluster(name)));
    });
    let to = queue.clone();
    claims.on_event(move |change| {
        freed(change, classes_of).into_iter().for_each(|name| to.add(ObjectKey::cluster(name)));
    });
    context.ready([classes.synced().boxed(), volumes.synced().boxed(), claims.synced().boxed()]).await;
    let controller = Arc::new(Controller { context: context.clone(), classes, volumes, claims });
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

fn freed<K>(change: &Change<K>, names: fn(&K) -> Vec<String>) -> Vec<String> {
    match change {
        Change::Added(_) => Vec::new(),
        Change::Deleted(object) => names(object),
        Change::Modified { old, new } => {
            let kept = names(new);
            names(old).into_iter().filter(|name| !kept.contains(name)).collect()
        }
    }
}

struct Controller {
    context: Context,
    classes: Informer<VolumeAttributesClass>,
    volumes: Informer<PersistentVolume>,
    claims: Informer<PersistentVolumeClaim>,
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(class) = controller.classes.get(&key) else { return Ok(()) };
    let used = || {
        !controller.volumes.keys_by_index(BY_CLASS, &key.name).is_empty()
            || !controller.claims.keys_by_index(BY_CLASS, &key.name).is_empty()
    };
    let decision = decide(&class, used);
    // The cache may lag behind a claim that was just made.
    if decision == Decision::Release && controller.is_used_live(&key.name).await? {
        return Ok(());
    }
    let api: Api<VolumeAttributesClass> = Api::all(controller.context.client.clone());
    protection::apply(&api, class.as_ref(), FINALIZER, decision).await
}

impl Controller {
    async fn is_used_live(&self, class: &str) -> Result<bool, Error> {
        let claims: Api<PersistentVolumeClaim> = Api::all(self.context.client.clone());
        let claims =
            claims.list(&ListParams::default()).await.map_err(Error::call("list claims for", class))?;
        if claims.items.iter().any(|claim| classes_of(claim).iter().any(|name| name == class)) {
            return Ok(true);
        }
        let volumes: Api<PersistentVolume> = Api::all(self.context.client.clone());
        let volumes =
            volumes.list(&ListParams::default()).await.map_err(Error::call("list volumes for", class))?;
        Ok(volumes.items.iter().any(|volume| class_of(volume).iter().any(|name| name == class)))
    }
}
