//! Watches namespaces, deletes their content, and writes what holds them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::join_all;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams};
use parking_lot::Mutex;
use podium_client::{
    Change, Follower, Informer, MetadataChange, ObjectKey, ResourcePath, WorkQueue, is_not_found, status_of,
};

use super::decide::{Findings, Remaining, finalized, needs_emptying, patience, stages};
use super::status::status;
use crate::context::{self, Context, Error};
use crate::discovery::{Served, discover};
use crate::owner;

/// Resources emptied at once. They are independent, and in process a call costs next to nothing.
const AT_ONCE: usize = 8;

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let namespaces = context.informers.of::<Namespace>();
    let queue = WorkQueue::new("namespace");
    let to = queue.clone();
    namespaces.on_event(move |change| {
        if !matches!(change, Change::Deleted(_)) && needs_emptying(change.object()) {
            to.add(ObjectKey::of(change.object().as_ref()));
        }
    });
    let pods = context.informers.of::<Pod>();
    let (to, known) = (queue.clone(), namespaces.clone());
    pods.on_event(move |change| {
        if matches!(change, Change::Deleted(_)) {
            wake(&to, &known, owner::namespace(&change.object().metadata));
        }
    });
    context.ready([namespaces.synced().boxed(), pods.synced().boxed()]).await;
    let controller = Arc::new(Controller {
        context: context.clone(),
        namespaces,
        pods,
        queue: queue.clone(),
        watched: Mutex::default(),
    });
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

#[derive(Debug)]
struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
    /// Resources whose deletions wake their namespace: those that once held one up.
    watched: Mutex<HashMap<ResourcePath, Follower>>,
}

fn wake(queue: &WorkQueue<ObjectKey>, namespaces: &Informer<Namespace>, namespace: &str) {
    let key = ObjectKey::cluster(namespace);
    if namespaces.get(&key).is_some_and(|namespace| needs_emptying(&namespace)) {
        queue.add(key);
    }
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let client = controller.context.client.clone();
    let api: Api<Namespace> = Api::all(client);
    // The live object: deleting everything on the word of a cache would be rash, and its finalizers are about to be replaced.
    let Some(namespace) =
        api.get_opt(&key.name).await.map_err(Error::call("get namespace", key.name.as_str()))?
    else {
        return Ok(());
    };
    if !needs_emptying(&namespace) {
        return Ok(());
    }
    let findings = controller.empty(&key.name).await?;
    let namespace = write_conditions(&controller.context, &api, namespace, &findings).await?;
    if findings.is_empty() {
        return finalize(&api, &namespace).await;
    }
    let pods = controller.pods.list_namespace(&key.name);
    let delay = patience(&namespace, pods.iter().map(AsRef::as_ref), controller.context.now());
    if !findings.errors.is_empty() {
        let why = findings.errors.join(", ");
        return Err(Error::Unusable { object: format!("namespace {}", key.name), why });
    }
    controller.queue.add_after(key, delay);
    Ok(())
}

async fn write_conditions(
    context: &Context,
    api: &Api<Namespace>,
    mut namespace: Namespace,
    findings: &Findings,
) -> Result<Namespace, Error> {
    let current = namespace.status.clone().unwrap_or_default();
    let Some(new) = status(&current, findings, context.now()) else { return Ok(namespace) };
    namespace.status = Some(new);
    let name = owner::name(&namespace.metadata).to_owned();
    api.replace_status(&name, &PostParams::default(), &namespace)
        .await
        .map_err(Error::call("update status of namespace", name))
}

async fn finalize(api: &Api<Namespace>, namespace: &Namespace) -> Result<(), Error> {
    let name = owner::name(&namespace.metadata);
    match api.replace_subresource("finalize", name, &PostParams::default(), &finalized(namespace)).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Error::call("finalize namespace", name)(error)),
    }
}

impl Controller {
    async fn empty(&self, namespace: &str) -> Result<Findings, Error> {
        let found = discover(&self.context.client)
            .await
            .map_err(Error::call("discover the resources of", namespace))?;
        if found.failed.is_empty() {
            self.forget_all_but(&found.served);
        }
        let mut findings = Findings::default();
        findings.undiscovered.extend(found.failed.into_iter().map(|(group, why)| format!("{group}: {why}")));
        let (pods, others) = stages(found.served);
        if let Some(pods) = pods {
            self.empty_one(&pods, namespace, &mut findings).await;
            if !findings.remaining.is_empty() {
                return Ok(findings);
            }
        }
        for some in others.chunks(AT_ONCE) {
            let parts = join_all(some.iter().map(|served| async move {
                let mut part = Findings::default();
                self.empty_one(served, namespace, &mut part).await;
                part
            }))
            .await;
            for part in parts {
                findings.errors.extend(part.errors);
                findings.remaining.extend(part.remaining);
            }
        }
        Ok(findings)
    }

    async fn empty_one(&self, served: &Served, namespace: &str, findings: &mut Findings) {
        match delete_all(&self.context, served, namespace).await {
            Ok(None) => {}
            Ok(Some(remaining)) => {
                findings.remaining.push(remaining);
                self.watch_for_the_end(served);
            }
            Err(error) => findings.errors.push(context::words(&error)),
        }
    }

    /// Has the namespace looked at again when an object of the resource goes away. Pods are watched anyway.
    fn watch_for_the_end(&self, served: &Served) {
        let is_pods = served.path.group.is_empty() && served.path.plural == "pods";
        let watched = self.watched.lock().contains_key(&served.path);
        if is_pods || watched || !served.supports(&["list", "watch"]) {
            return;
        }
        let (queue, namespaces) = (self.queue.clone(), self.namespaces.clone());
        let informers = &self.context.informers;
        let follower = informers.follow_metadata(&served.path, &served.versions, move |change| {
            if let MetadataChange::Deleted(metadata) = change {
                wake(&queue, &namespaces, owner::namespace(metadata));
            }
        });
        // Another namespace may have been as fast; one of the two is enough.
        let other = self.watched.lock().insert(served.path.clone(), follower);
        drop(other);
    }

    /// Stops watching what is served no longer.
    fn forget_all_but(&self, served: &[Served]) {
        let gone: Vec<Follower> = {
            let mut watched = self.watched.lock();
            let gone = watched.extract_if(|path, _| !served.iter().any(|it| it.path == *path));
            gone.map(|(_, follower)| follower).collect()
        };
        drop(gone);
    }
}

/// Deletes all objects of one resource in the namespace and tells what is still there.
async fn delete_all(
    context: &Context,
    served: &Served,
    namespace: &str,
) -> Result<Option<Remaining>, kube::Error> {
    let resource = served.api_resource();
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, &resource);
    let params = DeleteParams::background();
    if served.supports(&["deletecollection"]) {
        match api.delete_collection(&params, &ListParams::default()).await {
            Ok(_) => {}
            Err(error) if is_unsupported(&error) => delete_each(&api, &params).await?,
            Err(error) => return Err(error),
        }
    } else {
        delete_each(&api, &params).await?;
    }
    if !served.supports(&["list"]) {
        return Ok(None);
    }
    let left = match api.list_metadata(&ListParams::default()).await {
        Ok(list) => list.items,
        Err(error) if is_unsupported(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    if left.is_empty() {
        return Ok(None);
    }
    let mut finalizers = BTreeMap::new();
    for finalizer in left.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
        *finalizers.entry(finalizer.clone()).or_default() += 1;
    }
    Ok(Some(Remaining {
        resource: format!("{}.{}", served.path.plural, served.path.group),
        objects: left.len(),
        finalizers,
    }))
}

async fn delete_each(api: &Api<DynamicObject>, params: &DeleteParams) -> Result<(), kube::Error> {
    let objects = match api.list_metadata(&ListParams::default()).await {
        Ok(list) => list.items,
        Err(error) if is_unsupported(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    for object in objects {
        match api.delete(owner::name(&object.metadata), params).await {
            Ok(_) => {}
            Err(error) if is_not_found(&error) || is_unsupported(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the server does not know the resource or the verb after all.
fn is_unsupported(error: &kube::Error) -> bool {
    status_of(error).is_some_and(|status| matches!(status.code, 404 | 405))
}
