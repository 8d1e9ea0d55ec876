//! Follows the metadata of everything, asks the API about what the graph points at, and deletes.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use parking_lot::{Mutex, RwLock};
use podium_client::{
    CacheBehind, EventType, Follower, MetadataChange, ObjectKey, ResourcePath, WorkQueue, is_not_found,
    run_workers,
};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::decide::{Action, OwnerState, Propagation, Surroundings, decide};
use super::graph::{Graph, Identity, Kind, Outcome, Uid, Work};
use super::{FOREGROUND, ORPHAN};
use crate::context::{Context, Error};
use crate::discovery::{Found, Served, discover, is_path_missing};
use crate::metrics;
use crate::owner;

/// A definition of new kinds is followed by its controller's own writes; one look after the last of them is enough.
const DISCOVERY_DELAY: Duration = Duration::from_millis(200);
/// How soon groups that did not answer are asked again.
const DISCOVERY_RETRY: Duration = Duration::from_secs(5);
/// Owners known to be gone. Many dependents of one owner are looked at in a row.
const ABSENT_OWNERS: usize = 500;
/// Source: upstream's `initialSyncTimeout`.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Controller {
        queue: WorkQueue::new("garbage_collector_attempt_to_delete"),
        discovery: WorkQueue::new("garbagecollector-discovery"),
        graph: Mutex::default(),
        resources: RwLock::default(),
        followed: Mutex::default(),
        absent: Mutex::default(),
        discovered: watch::Sender::new(false),
        context: context.clone(),
    });
    controller.discovery.add(Discover);
    let follower = controller.clone();
    let discoveries = run_workers(controller.discovery.clone(), 1, context.shutdown.clone(), move |_| {
        follow(follower.clone())
    });
    let work = async {
        context.shutdown.run_until_cancelled(controller.settled()).await;
        let (worker, queue) = (controller.clone(), controller.queue.clone());
        run_workers(queue, context.workers, context.shutdown.clone(), move |work| {
            attempt(worker.clone(), work)
        })
        .await;
    };
    tokio::join!(discoveries, work);
}

/// Resources whose objects define other resources.
fn is_definition(path: &ResourcePath) -> bool {
    matches!(
        (path.group.as_str(), path.plural.as_str()),
        ("apiextensions.k8s.io", "customresourcedefinitions") | ("apiregistration.k8s.io", "apiservices")
    )
}

/// By `apiVersion` and `kind`.
type Resources = BTreeMap<(String, String), Served>;

/// The one item of the discovery queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Discover;

struct Controller {
    context: Context,
    queue: WorkQueue<Work>,
    discovery: WorkQueue<Discover>,
    graph: Mutex<Graph>,
    resources: RwLock<Resources>,
    followed: Mutex<BTreeMap<ResourcePath, Follower>>,
    absent: Mutex<AbsentOwners>,
    /// Whether the resources have been discovered once.
    discovered: watch::Sender<bool>,
}

/// A bounded memory of owners that do not exist, by uid and the namespace they were looked for in.
#[derive(Default)]
struct AbsentOwners {
    known: HashSet<(String, String)>,
    order: VecDeque<(String, String)>,
}

impl AbsentOwners {
    fn add(&mut self, uid: &str, namespace: &str) {
        let key = (uid.to_owned(), namespace.to_owned());
        if self.known.insert(key.clone()) {
            self.order.push_back(key);
        }
        if self.order.len() > ABSENT_OWNERS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    fn has(&self, uid: &str, namespace: &str) -> bool {
        self.known.contains(&(uid.to_owned(), namespace.to_owned()))
    }
}

/// Starts following resources that are new, and stops with those that are gone.
async fn follow(controller: Arc<Controller>) -> Result<(), Error> {
    let found = discover(&controller.context.client).await;
    if found.as_ref().map_or(true, |found| found.served.is_empty()) {
        metrics::DISCOVERY_FAILED.with([]).increment();
    }
    let Found { served, failed } = found.map_err(Error::call("discover", "the API's resources"))?;
    // Events own nothing and are many. A group that does not answer keeps what was known of it.
    let relevant = |served: &Served| served.path.plural != "events" || !is_event_group(&served.path.group);
    let wanted: Vec<Served> =
        served.into_iter().filter(|it| it.supports(&["delete", "list", "watch"]) && relevant(it)).collect();
    renew(&mut controller.resources.write(), &wanted, &failed);
    if failed.is_empty() {
        controller.forget_all_but(&wanted.iter().map(|served| served.path.clone()).collect());
    }
    for served in wanted {
        let is_new = !controller.followed.lock().contains_key(&served.path);
        if is_new {
            let follower = controller.clone().follow_one(&served);
            controller.followed.lock().insert(served.path, follower);
        }
    }
    controller.discovered.send_replace(true);
    if !failed.is_empty() {
        // Nobody tells when a group answers again.
        controller.discovery.add_after(Discover, DISCOVERY_RETRY);
    }
    Ok(())
}

/// Takes over what is served now. A version that is gone must not stay: its path says of every object that there is none. What did
/// not answer stays as it was known.
fn renew(resources: &mut Resources, wanted: &[Served], failed: &[(String, String)]) {
    resources.retain(|(api_version, _), _| failed.iter().any(|(of, _)| of == api_version));
    resources
        .extend(wanted.iter().map(|served| ((served.api_version(), served.kind.clone()), served.clone())));
}

fn is_event_group(group: &str) -> bool {
    matches!(group, "" | "events.k8s.io")
}

impl Controller {
    fn forget_all_but(&self, served: &BTreeSet<ResourcePath>) {
        let gone: Vec<Follower> = {
            let mut followed = self.followed.lock();
            followed.extract_if(.., |path, _| !served.contains(path)).map(|(_, follower)| follower).collect()
        };
        drop(gone);
    }

    /// Waits until the graph is complete, but not for ever: one resource that cannot be listed must not stop the rest, and
    /// nothing is deleted without asking anyway.
    async fn settled(&self) {
        let mut discovered = self.discovered.subscribe();
        // The sender lives as long as this.
        let _ = discovered.wait_for(|discovered| *discovered).await;
        let all: Vec<_> = self.followed.lock().values().map(Follower::synced).collect();
        if tokio::time::timeout(SYNC_TIMEOUT, join_all(all)).await.is_err() {
            let followed = self.followed.lock();
            let late = followed.iter().filter(|(_, follower)| !follower.is_synced());
            let late: Vec<_> = late.map(|(path, _)| path.collection()).collect();
            tracing::warn!(?late, "garbage collector starts without these resources");
        }
    }

    fn follow_one(self: Arc<Self>, served: &Served) -> Follower {
        let kind = self.graph.lock().kind(&served.api_version(), &served.kind);
        let defines = is_definition(&served.path);
        let informers = self.context.informers.clone();
        informers.follow_metadata(&served.path, &served.versions, move |change| {
            self.note(&kind, matches!(change, MetadataChange::Deleted(_)), change.metadata());
            if defines && *self.discovered.borrow() {
                self.discovery.add_after(Discover, DISCOVERY_DELAY);
            }
        })
    }

    fn note(&self, kind: &Arc<Kind>, deleted: bool, meta: &ObjectMeta) {
        let outcome = if deleted {
            let uid = owner::uid(meta);
            let mut graph = self.graph.lock();
            // Its kind may be gone before its dependents are looked at, and then nobody could be asked.
            if graph.node(uid).is_some_and(|node| !node.dependents.is_empty()) {
                self.absent.lock().add(uid, owner::namespace(meta));
            }
            graph.removed(uid)
        } else {
            self.graph.lock().observe(kind, meta)
        };
        self.follow_up(outcome);
    }

    fn follow_up(&self, outcome: Outcome) {
        for work in outcome.work {
            self.queue.add(work);
        }
        for (item, owner) in outcome.invalid {
            self.report_invalid(&item, &owner);
        }
    }

    fn report_invalid(&self, item: &Identity, owner: &Identity) {
        let about = ObjectReference {
            api_version: Some(item.kind.api_version.clone()),
            kind: Some(item.kind.kind.clone()),
            namespace: Some(item.namespace.to_string()).filter(|it| !it.is_empty()),
            name: Some(item.name.to_string()),
            uid: Some(item.uid.to_string()),
            ..ObjectReference::default()
        };
        let message = format!(
            "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace \"{}\"",
            owner.kind.api_version, owner.kind.kind, item.namespace, owner.name, owner.uid, item.namespace
        );
        self.context.event_about(&about, EventType::Warning, "OwnerRefInvalidNamespace", message);
    }

    /// Calls for one object.
    fn api(&self, identity: &Identity) -> Result<Api<DynamicObject>, Error> {
        let served = self.served(&identity.kind.api_version, &identity.kind.kind)?;
        Ok(self.calls(&served, &identity.namespace))
    }

    fn calls(&self, served: &Served, namespace: &str) -> Api<DynamicObject> {
        let client = self.context.client.clone();
        if served.namespaced {
            Api::namespaced_with(client, namespace, &served.api_resource())
        } else {
            Api::all_with(client, &served.api_resource())
        }
    }

    fn served(&self, api_version: &str, kind: &str) -> Result<Served, Error> {
        let known = self.resources.read().get(&(api_version.to_owned(), kind.to_owned())).cloned();
        known.or_else(|| self.same_kind_elsewhere(api_version, kind)).ok_or_else(|| Error::Unusable {
            object: format!("{api_version} {kind}"),
            why: "the API serves no such kind that can be collected".to_owned(),
        })
    }

    /// Another served version of the kind: references outlive the version they were written with.
    fn same_kind_elsewhere(&self, api_version: &str, kind: &str) -> Option<Served> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let resources = self.resources.read();
        resources.values().find(|served| served.path.group == group && served.kind == kind).cloned()
    }
}

async fn attempt(controller: Arc<Controller>, work: Work) -> Result<(), Error> {
    match work {
        Work::Verify(uid) => {
            // Its own watch may have told of it in the meantime.
            let observed = controller.graph.lock().node(&uid).is_some_and(|node| node.observed);
            if observed { Ok(()) } else { controller.attempt_to_delete(&uid).await }
        }
        Work::Delete(uid) => controller.attempt_to_delete(&uid).await,
        Work::Orphan(uid) => controller.attempt_to_orphan(&uid).await,
    }
}

impl Controller {
    async fn attempt_to_delete(&self, uid: &Uid) -> Result<(), Error> {
        let (identity, observed, seen) = {
            let graph = self.graph.lock();
            let Some(node) = graph.node(uid) else { return Ok(()) };
            if node.deleting && !node.deleting_dependents {
                return Ok(());
            }
            (node.identity.clone(), node.observed, Surroundings::of(&graph, node))
        };
        let api = match self.api(&identity) {
            Ok(api) => api,
            // A wrong kind in a reference is found out when the dependent itself is looked at.
            Err(_) if !observed => return self.look_at_dependents_of_unknown(uid),
            Err(error) => return Err(error),
        };
        let live = read(&api, &identity.name).await.map_err(Error::call("get", describe(&identity)))?;
        let Some(live) = live.filter(|it| it.uid.as_deref() == Some(&*identity.uid)) else {
            self.absent.lock().add(&identity.uid, &identity.namespace);
            let outcome = self.graph.lock().absent(&identity);
            self.follow_up(outcome);
            return Ok(());
        };
        if !observed {
            // It exists; its own watch is about to say so, and then it is judged by what that says.
            return Err(Error::Behind { object: describe(&identity), source: CacheBehind });
        }
        let mut owners = Vec::new();
        if !seen.deleting_dependents {
            for reference in live.owner_references.iter().flatten() {
                match self.owner_state(&identity, reference).await? {
                    Some(state) => owners.push(state),
                    // A cluster-scoped object cannot have an owner in a namespace; upstream leaves such ones alone.
                    None => return Ok(()),
                }
            }
        }
        self.act(&api, &identity, &live, decide(&seen, &live, &owners)).await
    }

    fn look_at_dependents_of_unknown(&self, uid: &Uid) -> Result<(), Error> {
        let graph = self.graph.lock();
        let Some(node) = graph.node(uid) else { return Ok(()) };
        Err(Error::Unusable {
            object: describe(&node.identity),
            why: format!(
                "named as an owner by {} objects, but its kind is not served",
                node.dependents.len()
            ),
        })
    }

    async fn owner_state(
        &self,
        item: &Identity,
        reference: &OwnerReference,
    ) -> Result<Option<OwnerState>, Error> {
        {
            let absent = self.absent.lock();
            if absent.has(&reference.uid, &item.namespace) || absent.has(&reference.uid, "") {
                return Ok(Some(OwnerState::Dangling));
            }
        }
        let served = self.served(&reference.api_version, &reference.kind)?;
        if served.namespaced && item.namespace.is_empty() {
            tracing::warn!(item = %describe(item), owner = %reference.name, "cluster-scoped object names an owner in a namespace");
            return Ok(None);
        }
        let api = self.calls(&served, &item.namespace);
        let live =
            read(&api, &reference.name).await.map_err(Error::call("get the owner of", describe(item)))?;
        let Some(live) = live.filter(|it| it.uid.as_ref() == Some(&reference.uid)) else {
            let namespace = if served.namespaced { &*item.namespace } else { "" };
            self.absent.lock().add(&reference.uid, namespace);
            return Ok(Some(OwnerState::Dangling));
        };
        let waits = live.deletion_timestamp.is_some() && has_finalizer(&live, FOREGROUND);
        Ok(Some(if waits { OwnerState::Waiting } else { OwnerState::Solid }))
    }

    async fn act(
        &self,
        api: &Api<DynamicObject>,
        identity: &Identity,
        live: &ObjectMeta,
        action: Action,
    ) -> Result<(), Error> {
        match action {
            Action::Keep => Ok(()),
            Action::RemoveForegroundFinalizer => remove_finalizer(api, identity, live, FOREGROUND).await,
            Action::LookAt(dependents) => {
                for dependent in dependents {
                    self.queue.add(Work::Delete(dependent));
                }
                Ok(())
            }
            Action::RemoveOwners(uids) => remove_owners(api, identity, live, &uids).await,
            Action::Delete { propagation, unblock_owners } => {
                let mut version = live.resource_version.clone();
                if unblock_owners {
                    version = unblock(api, identity, live).await?;
                }
                self.delete(api, identity, version, propagation).await
            }
        }
    }

    async fn delete(
        &self,
        api: &Api<DynamicObject>,
        identity: &Identity,
        version: Option<String>,
        propagation: Propagation,
    ) -> Result<(), Error> {
        let policy = match propagation {
            Propagation::Background => PropagationPolicy::Background,
            Propagation::Foreground => PropagationPolicy::Foreground,
            Propagation::Orphan => PropagationPolicy::Orphan,
        };
        let params = DeleteParams {
            propagation_policy: Some(policy),
            // The version too: owners that were added since must be taken into account.
            preconditions: Some(Preconditions {
                uid: Some(identity.uid.to_string()),
                resource_version: version,
            }),
            ..DeleteParams::default()
        };
        match api.delete(&identity.name, &params).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) && !is_path_missing(&error) => {
                let outcome = self.graph.lock().absent(identity);
                self.follow_up(outcome);
                Ok(())
            }
            Err(error) => Err(Error::call("delete", describe(identity))(error)),
        }
    }

    async fn attempt_to_orphan(&self, uid: &Uid) -> Result<(), Error> {
        let (owner, dependents) = {
            let graph = self.graph.lock();
            let Some(node) = graph.node(uid) else { return Ok(()) };
            let dependents: Vec<Identity> = graph.dependents(node).map(|it| it.identity.clone()).collect();
            (node.identity.clone(), dependents)
        };
        let freed = join_all(dependents.iter().map(|dependent| self.set_free(dependent, &owner))).await;
        freed.into_iter().collect::<Result<Vec<()>, _>>()?;
        let api = self.api(&owner)?;
        let live = read(&api, &owner.name).await.map_err(Error::call("get", describe(&owner)))?;
        match live.filter(|it| it.uid.as_deref() == Some(&*owner.uid)) {
            Some(live) => remove_finalizer(&api, &owner, &live, ORPHAN).await,
            None => Ok(()),
        }
    }

    async fn set_free(&self, dependent: &Identity, owner: &Identity) -> Result<(), Error> {
        let api = self.api(dependent)?;
        let live = read(&api, &dependent.name).await.map_err(Error::call("get", describe(dependent)))?;
        match live.filter(|it| it.uid.as_deref() == Some(&*dependent.uid)) {
            Some(live) => remove_owners(&api, dependent, &live, &[owner.uid.to_string()]).await,
            None => Ok(()),
        }
    }
}

fn describe(identity: &Identity) -> String {
    let key = ObjectKey::new(&*identity.namespace, &*identity.name);
    format!("{} {key}", identity.kind.kind)
}

/// An object's metadata, or `None` when there is no such object. A path that is not served tells nothing about objects: to take
/// that for an answer would delete what belongs to them.
async fn read(api: &Api<DynamicObject>, name: &str) -> Result<Option<ObjectMeta>, kube::Error> {
    match api.get_metadata(name).await {
        Ok(live) => Ok(Some(live.metadata)),
        Err(error) if is_not_found(&error) && !is_path_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn has_finalizer(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|it| it == finalizer)
}

async fn remove_owners(
    api: &Api<DynamicObject>,
    identity: &Identity,
    live: &ObjectMeta,
    uids: &[String],
) -> Result<(), Error> {
    let references = live.owner_references.as_deref().unwrap_or_default();
    let kept: Vec<&OwnerReference> = references.iter().filter(|it| !uids.contains(&it.uid)).collect();
    if kept.len() == references.len() {
        return Ok(());
    }
    patch(api, identity, live, json!({"ownerReferences": kept})).await.map(drop)
}

/// Returns the object's new version.
async fn unblock(
    api: &Api<DynamicObject>,
    identity: &Identity,
    live: &ObjectMeta,
) -> Result<Option<String>, Error> {
    let unblocked: Vec<OwnerReference> = live
        .owner_references
        .iter()
        .flatten()
        .map(|reference| OwnerReference { block_owner_deletion: Some(false), ..reference.clone() })
        .collect();
    patch(api, identity, live, json!({"ownerReferences": unblocked})).await
}

async fn remove_finalizer(
    api: &Api<DynamicObject>,
    identity: &Identity,
    live: &ObjectMeta,
    finalizer: &str,
) -> Result<(), Error> {
    if !has_finalizer(live, finalizer) {
        return Ok(());
    }
    let kept: Vec<&String> = live.finalizers.iter().flatten().filter(|it| *it != finalizer).collect();
    patch(api, identity, live, json!({"finalizers": kept})).await.map(drop)
}

/// Merges `metadata` into the object unless it has changed since it was looked at. Returns its new version.
async fn patch(
    api: &Api<DynamicObject>,
    identity: &Identity,
    live: &ObjectMeta,
    mut metadata: Value,
) -> Result<Option<String>, Error> {
    metadata["uid"] = json!(live.uid);
    metadata["resourceVersion"] = json!(live.resource_version);
    let patch = Patch::Merge(json!({"metadata": metadata}));
    match api.patch_metadata(&identity.name, &PatchParams::default(), &patch).await {
        Ok(object) => Ok(object.metadata.resource_version),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(Error::call("patch", describe(identity))(error)),
    }
}
