//! Watches quotas and what they count, counts live objects, and writes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use kube::api::{Api, DynamicObject, ListParams, PostParams};
use parking_lot::Mutex;
use podium_client::{
    Change, Follower, Informer, MetadataChange, ObjectKey, ResourcePath, WorkQueue, is_not_found,
};
use serde_json::Value;

use super::decide::{Contents, Counted, Decision, Kind, decide, kinds, let_off_at, next_let_off, recounts};
use crate::clock;
use crate::context::{Context, Error};
use crate::discovery::{Served, discover, is_path_missing};
use crate::owner;

/// How long a quota must not have been charged before its counts go down. An object is stored within milliseconds of the charge.
const QUIET: Duration = Duration::from_secs(2);

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let informers = &context.informers;
    let controller = Arc::new(Controller {
        quotas: informers.of::<ResourceQuota>(),
        queue: WorkQueue::new("resourcequota_primary"),
        changed: Mutex::default(),
        watched: Mutex::default(),
        served: Mutex::default(),
        context: context.clone(),
    });
    controller.clone().watch();
    context.ready([controller.quotas.synced().boxed()]).await;
    let queue = controller.queue.clone();
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

struct Controller {
    context: Context,
    quotas: Informer<ResourceQuota>,
    queue: WorkQueue<ObjectKey>,
    /// When each quota was last seen to change.
    changed: Mutex<HashMap<ObjectKey, Timestamp>>,
    /// Where the kinds are that some quota has counted, followed from then on. Pods are followed by their fields, which has no end.
    watched: Mutex<HashMap<ResourcePath, Option<Follower>>>,
    /// What the API serves, as far as it has been asked for.
    served: Mutex<Vec<Served>>,
}

impl Controller {
    fn watch(self: Arc<Self>) {
        let controller = self.clone();
        self.quotas.on_event(move |change| {
            let key = ObjectKey::of(change.object().as_ref());
            controller.changed.lock().insert(key.clone(), controller.context.now());
            match change {
                // Charges come in bursts; what they charged too much can wait.
                Change::Modified { old, new } if old.spec == new.spec => {
                    controller.queue.add_after(key, QUIET);
                }
                _ => controller.queue.add(key),
            }
        });
    }

    fn wake(&self, namespace: &str) {
        for quota in self.quotas.list_namespace(namespace) {
            self.queue.add(ObjectKey::of(quota.as_ref()));
        }
    }

    fn wake_at(&self, namespace: &str, moment: Timestamp) {
        let delay = clock::until(moment, self.context.now());
        for quota in self.quotas.list_namespace(namespace) {
            self.queue.add_after(ObjectKey::of(quota.as_ref()), delay);
        }
    }

    /// Follows the kinds that a quota counts, for what they free.
    fn follow(self: &Arc<Self>, kinds: &[Kind], served: &[Served]) {
        self.forget_all_but(served);
        for kind in kinds {
            let Some(served) = find(kind, served) else { continue };
            let path = &served.path;
            if self.watched.lock().contains_key(path) {
                continue;
            }
            let follower = if *kind == (String::new(), "pods".to_owned()) {
                self.follow_pods();
                None
            } else {
                Some(self.follow_metadata(served))
            };
            // Another quota may have been as fast; one of the two is enough.
            let other = self.watched.lock().insert(path.clone(), follower);
            drop(other);
        }
    }

    /// Stops with what is served no longer: it is followed again if it comes back.
    fn forget_all_but(&self, served: &[Served]) {
        let gone: Vec<Option<Follower>> = {
            let mut watched = self.watched.lock();
            let gone = watched.extract_if(|path, _| !served.iter().any(|it| it.path == *path));
            gone.map(|(_, follower)| follower).collect()
        };
        drop(gone);
    }

    fn follow_pods(self: &Arc<Self>) {
        let controller = self.clone();
        self.context.informers.of::<Pod>().on_event(move |change| {
            let namespace = owner::namespace(&change.object().metadata);
            let Change::Modified { old, new } = change else { return controller.wake(namespace) };
            if recounts(old, new) {
                controller.wake(namespace);
            }
            let moment = let_off_at(&new.metadata);
            if let Some(moment) = moment.filter(|_| moment != let_off_at(&old.metadata)) {
                controller.wake_at(namespace, moment);
            }
        });
    }

    fn follow_metadata(self: &Arc<Self>, served: &Served) -> Follower {
        let controller = self.clone();
        // Of all other kinds only the number counts.
        let changes_count = served.path.group.is_empty()
            && matches!(served.path.plural.as_str(), "services" | "persistentvolumeclaims");
        let informers = &self.context.informers;
        informers.follow_metadata(&served.path, &served.versions, move |change| {
            if changes_count || !matches!(change, MetadataChange::Modified(_)) {
                controller.wake(owner::namespace(change.metadata()));
            }
        })
    }

    /// What the API serves of these kinds. Asked anew while one of them is not known.
    async fn served(&self, kinds: &[Kind]) -> Result<Vec<Served>, Error> {
        let known = self.served.lock().clone();
        if kinds.iter().all(|kind| find(kind, &known).is_some()) {
            return Ok(known);
        }
        let found =
            discover(&self.context.client).await.map_err(Error::call("discover", "the API's resources"))?;
        self.served.lock().clone_from(&found.served);
        Ok(found.served)
    }

    async fn contents(&self, namespace: &str, kinds: &[Kind], served: &[Served]) -> Result<Contents, Error> {
        let all = ListParams::default();
        let failed = |source| {
            // Its version is gone. What is served instead is found out when this is tried again.
            if is_path_missing(&source) {
                self.served.lock().clear();
            }
            Error::call("list what a quota counts in", namespace)(source)
        };
        let mut contents = Contents::new();
        for kind in kinds {
            let Some(served) = find(kind, served) else { continue };
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.context.client.clone(), namespace, &served.api_resource());
            let counted = match (kind.0.as_str(), kind.1.as_str()) {
                ("", "pods" | "services" | "persistentvolumeclaims") => {
                    let found = api.list(&all).await.map_err(failed)?.items;
                    Counted::Objects(found.iter().map(tree).collect())
                }
                _ => Counted::Number(api.list_metadata(&all).await.map_err(failed)?.items.len()),
            };
            contents.insert(kind.clone(), counted);
        }
        Ok(contents)
    }
}

/// An object as it was read.
fn tree(object: &DynamicObject) -> Value {
    // Read from a tree, it is one.
    serde_json::to_value(object).unwrap_or_default()
}

fn find<'a>(kind: &Kind, served: &'a [Served]) -> Option<&'a Served> {
    served.iter().find(|it| it.path.group == kind.0 && it.path.plural == kind.1)
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let api: Api<ResourceQuota> = Api::namespaced(controller.context.client.clone(), &key.namespace);
    // The live quota first, then the objects: a charge in between changes its version, and the write below is refused. Listed,
    // because the role of this controller has no `get`.
    let selector = ListParams::default().fields(&format!("metadata.name={}", key.name));
    let found = api.list(&selector).await.map_err(Error::call("list quota", key.to_string()))?;
    let Some(quota) = found.items.into_iter().next() else {
        controller.changed.lock().remove(&key);
        return Ok(());
    };
    let kinds: Vec<Kind> = kinds(&quota).into_iter().collect();
    let served = controller.served(&kinds).await?;
    controller.follow(&kinds, &served);
    let contents = controller.contents(&key.namespace, &kinds, &served).await?;
    let now = controller.context.now();
    if let Some(moment) = next_let_off(&contents, now) {
        controller.queue.add_after(key.clone(), clock::until(moment, now));
    }
    let changed = controller.changed.lock().get(&key).copied();
    let quiet = changed.is_none_or(|changed| changed + QUIET <= now);
    match decide(&quota, &contents, quiet, now) {
        Decision::Keep => Ok(()),
        Decision::Later => {
            let since = changed.unwrap_or(now);
            controller.queue.add_after(key, clock::until(since + QUIET, now));
            Ok(())
        }
        Decision::Write(status) => {
            let updated = ResourceQuota { status: Some(status), ..quota };
            match api.replace_status(&key.name, &PostParams::default(), &updated).await {
                Ok(_) => Ok(()),
                Err(error) if is_not_found(&error) => Ok(()),
                Err(error) => Err(Error::call("update status of quota", key.to_string())(error)),
            }
        }
    }
}
