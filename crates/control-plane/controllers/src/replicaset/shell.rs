//! Watches sets and pods, decides, and carries it out.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use podium_client::{Change, Informer, ObjectKey, WorkQueue, is_already_exists, is_not_found};

use super::decide::{Decision, Observed, Scale, Target, decide};
use super::status::status;
use super::{Replicated, View};
use crate::clock;
use crate::context::{self, Context, Error, LAG_CHECK};
use crate::expect::{Expectations, Expected};
use crate::labels::Selector;
use crate::names;
use crate::owner::{self, controller_of};
use crate::pods;
use crate::slow_start;

/// Runs the controller of kind `K` until shutdown.
pub(crate) async fn run<K: Replicated>(context: Context) {
    let controller = Arc::new(Controller::<K>::new(context));
    controller.watch();
    controller.context.ready([controller.sets.synced().boxed(), controller.pods.synced().boxed()]).await;
    let (context, queue) = (controller.context.clone(), controller.queue.clone());
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

#[derive(Debug)]
struct Controller<K> {
    context: Context,
    sets: Informer<K>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
    expectations: Expectations,
    kind: PhantomData<K>,
}

/// Index of sets by the uid of their own controller.
const BY_OWNER: &str = "controllers/owner";

impl<K: Replicated> Controller<K> {
    fn new(context: Context) -> Self {
        let sets = context.informers.of::<K>();
        sets.add_index(BY_OWNER, |set| {
            controller_of(Resource::meta(set)).map(|owner| owner.uid.clone()).into_iter().collect()
        });
        let pods = context.informers.of::<Pod>();
        pods::index_by_controller(&pods);
        Self {
            context,
            sets,
            pods,
            queue: WorkQueue::new("replicaset"),
            expectations: Expectations::default(),
            kind: PhantomData,
        }
    }

    fn watch(&self) {
        let queue = self.queue.clone();
        self.sets.on_event(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
        let (queue, sets) = (self.queue.clone(), self.sets.clone());
        self.pods.on_event(move |change| {
            for key in concerned::<K>(change, &sets) {
                queue.add(key);
            }
        });
    }
}

/// The sets that a change of a pod concerns.
fn concerned<K: Replicated>(change: &Change<Pod>, sets: &Informer<K>) -> Vec<ObjectKey> {
    let mut keys = Vec::new();
    let new = &change.object().metadata;
    let mut orphan_changed = true;
    if let Change::Modified { old, .. } = change {
        let old = &old.metadata;
        if controller_of(old) != controller_of(new) {
            keys.extend(owning_set::<K>(old));
        } else {
            orphan_changed = old.labels != new.labels;
        }
    }
    if controller_of(new).is_some() {
        keys.extend(owning_set::<K>(new));
    } else if orphan_changed && !matches!(change, Change::Deleted(_)) {
        keys.extend(selecting_sets(new, sets));
    }
    keys
}

fn owning_set<K: Replicated>(pod: &ObjectMeta) -> Option<ObjectKey> {
    controller_of(pod)
        .filter(|owner| owner.kind == K::kind(&()) && owner.api_version == K::api_version(&()))
        .map(|owner| ObjectKey::new(owner::namespace(pod), owner.name.as_str()))
}

fn selecting_sets<K: Replicated>(pod: &ObjectMeta, sets: &Informer<K>) -> Vec<ObjectKey> {
    let selects = |set: &Arc<K>| {
        Selector::new(&set.view().selector)
            .is_ok_and(|selector| !selector.is_empty() && selector.matches(pod.labels.as_ref()))
    };
    let sets = sets.list_namespace(owner::namespace(pod));
    sets.iter().filter(|set| selects(set)).map(|set| ObjectKey::of(set.as_ref())).collect()
}

async fn reconcile<K: Replicated>(controller: Arc<Controller<K>>, key: ObjectKey) -> Result<(), Error> {
    let Some(set) = controller.sets.get(&key) else {
        controller.expectations.forget(&key);
        return Ok(());
    };
    let view = set.view();
    let selector = Selector::new(&view.selector)
        .map_err(|error| Error::Unusable { object: key.to_string(), why: error.to_string() })?;
    let now = controller.context.now();
    let caught_up = controller.expectations.satisfied(&key, &controller.pods, now);
    let decision = controller.observe(&key, &view, &selector, caught_up);
    let sync = Sync { controller: &controller, key: &key, set: set.as_ref() };
    sync.claim(&decision).await?;
    let outcome = sync.scale(&decision.scale, &view).await;
    // The Deployment controller counts on it that pods which are to go are not reported as serving.
    let decision = decision.without(&controller.expectations.deleted(&key));
    sync.write_status(&view, &decision, outcome.as_ref().err()).await?;
    if !caught_up {
        controller.queue.add_after(key.clone(), LAG_CHECK);
    }
    if let Some(delay) = controller.next_check(&view, &decision) {
        controller.queue.add_after(key.clone(), delay);
    }
    outcome.map_err(Error::call("scale", key.to_string()))
}

impl<K: Replicated> Controller<K> {
    fn observe(&self, key: &ObjectKey, view: &View<'_>, selector: &Selector, caught_up: bool) -> Decision {
        let namespace = owner::namespace(view.meta);
        let mut candidates = self.pods.by_index(pods::BY_CONTROLLER, owner::uid(view.meta));
        candidates.extend(self.pods.by_index(pods::BY_CONTROLLER, &pods::orphans_of(namespace)));
        let related = self.related(view, candidates.len());
        let deleted = self.expectations.deleted(key);
        let seen =
            Observed { view, selector, pods: &candidates, related: &related, deleted: &deleted, caught_up };
        decide(&seen, self.context.now(), self.context.names.as_ref())
    }

    /// Pods of all sets under the same controller. Only needed to choose what to delete, so not read otherwise.
    fn related(&self, view: &View<'_>, candidates: usize) -> Vec<Arc<Pod>> {
        let Some(owner) = controller_of(view.meta) else { return Vec::new() };
        if candidates <= usize::try_from(view.replicas).unwrap_or_default() {
            return Vec::new();
        }
        let sets = self.sets.by_index(BY_OWNER, &owner.uid);
        sets.iter()
            .flat_map(|set| self.pods.by_index(pods::BY_CONTROLLER, owner::uid(Resource::meta(set.as_ref()))))
            .collect()
    }

    /// When a pod that is ready becomes available with nobody telling.
    fn next_check(&self, view: &View<'_>, decision: &Decision) -> Option<Duration> {
        if view.min_ready_seconds <= 0 {
            return None;
        }
        let now = self.context.now();
        let next =
            pods::next_available(decision.active.iter().map(AsRef::as_ref), view.min_ready_seconds, now)?;
        Some(clock::until(next, now))
    }
}

/// One reconcile's calls.
struct Sync<'a, K> {
    controller: &'a Controller<K>,
    key: &'a ObjectKey,
    set: &'a K,
}

impl<K: Replicated> Sync<'_, K> {
    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.controller.context.client.clone(), &self.key.namespace)
    }

    async fn claim(&self, decision: &Decision) -> Result<(), Error> {
        if !decision.adopt.is_empty() {
            self.confirm_alive().await?;
        }
        let reference = owner::controller_reference(self.set);
        for target in &decision.adopt {
            self.patch(target, &owner::adopt_patch(&reference, &target.uid)).await?;
        }
        for target in &decision.release {
            self.patch(target, &owner::release_patch(&reference.uid, &target.uid)).await?;
        }
        Ok(())
    }

    /// A deleted set must not adopt, whatever the cache still says.
    async fn confirm_alive(&self) -> Result<(), Error> {
        let client = self.controller.context.client.clone();
        let live = K::api(client, &self.key.namespace)
            .get(&self.key.name)
            .await
            .map_err(Error::call("get", self.key.to_string()))?;
        let (live, cached) = (Resource::meta(&live), Resource::meta(self.set));
        if live.uid != cached.uid || live.deletion_timestamp.is_some() {
            return Err(Error::Unusable {
                object: self.key.to_string(),
                why: format!("not adopting pods: gone or being deleted, uid {}", owner::uid(cached)),
            });
        }
        Ok(())
    }

    async fn patch(&self, target: &Target, patch: &serde_json::Value) -> Result<(), Error> {
        let answer =
            self.pods().patch(&target.key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        match answer {
            Ok(pod) => {
                self.controller.expectations.wrote(self.key, &pod, self.controller.context.now());
                Ok(())
            }
            // Gone, or another life of the name: there is nothing left to claim.
            Err(error) if is_not_found(&error) || podium_client::is_invalid(&error) => Ok(()),
            Err(error) => Err(Error::call("patch", target.key.to_string())(error)),
        }
    }

    async fn scale(&self, scale: &Scale, view: &View<'_>) -> Result<(), kube::Error> {
        match scale {
            Scale::Keep => Ok(()),
            Scale::Create(names) => self.create(names, view).await,
            Scale::Delete(targets) => {
                let answers = join_all(targets.iter().map(|target| self.delete(target))).await;
                answers.into_iter().collect()
            }
        }
    }

    async fn create(&self, names: &[String], view: &View<'_>) -> Result<(), kube::Error> {
        let reference = owner::controller_reference(self.set);
        let mut names = names.iter();
        for size in slow_start::batches(names.len()) {
            let batch = names.by_ref().take(size).map(|name| self.create_one(name, view, &reference));
            let answers = join_all(batch).await;
            answers.into_iter().collect::<Result<Vec<()>, _>>()?;
        }
        Ok(())
    }

    async fn create_one(
        &self,
        name: &str,
        view: &View<'_>,
        reference: &OwnerReference,
    ) -> Result<(), kube::Error> {
        let Some(template) = view.template else { return Ok(()) };
        let context = &self.controller.context;
        let prefix = names::prefix(&self.key.name);
        let pod = pods::from_template(
            template,
            &self.key.namespace,
            Some(prefix),
            name.to_owned(),
            reference.clone(),
        );
        let error = match self.pods().create(&PostParams::default(), &pod).await {
            Ok(created) => {
                self.controller.expectations.wrote(self.key, &created, context.now());
                context.normal(self.set, "SuccessfulCreate", format!("Created pod: {name}"));
                return Ok(());
            }
            Err(error) => error,
        };
        if context::namespace_is_terminating(&error) {
            return Ok(());
        }
        if context::is_uncertain(&error) {
            let key = ObjectKey::new(self.key.namespace.as_str(), name);
            self.controller.expectations.note(self.key, Expected::MaybeCreated { key }, context.now());
        }
        // A taken name is bad luck, not a failure that users should read about: the next round picks another.
        if !is_already_exists(&error) {
            context.warning(self.set, "FailedCreate", format!("Error creating: {}", context::words(&error)));
        }
        Err(error)
    }

    async fn delete(&self, target: &Target) -> Result<(), kube::Error> {
        let context = &self.controller.context;
        let expected = Expected::Deleted { key: target.key.clone(), uid: target.uid.clone() };
        let precondition = Preconditions { uid: Some(target.uid.clone()), resource_version: None };
        let params = DeleteParams::default().preconditions(precondition);
        match self.pods().delete(&target.key.name, &params).await {
            Ok(_) => {
                self.controller.expectations.note(self.key, expected, context.now());
                context.normal(self.set, "SuccessfulDelete", format!("Deleted pod: {}", target.key.name));
                Ok(())
            }
            // Gone already, or another pod by that name: either way ours is away.
            Err(error) if is_not_found(&error) || podium_client::is_conflict(&error) => Ok(()),
            Err(error) => {
                context.warning(
                    self.set,
                    "FailedDelete",
                    format!("Error deleting: {}", context::words(&error)),
                );
                Err(error)
            }
        }
    }

    async fn write_status(
        &self,
        view: &View<'_>,
        decision: &Decision,
        failure: Option<&kube::Error>,
    ) -> Result<(), Error> {
        let context = &self.controller.context;
        let failure = failure.map(context::words);
        let new = status(view, &decision.active, decision.terminating, failure.as_deref(), context.now());
        let Some(new) = new else { return Ok(()) };
        let api = K::api(context.client.clone(), &self.key.namespace);
        let answer =
            api.replace_status(&self.key.name, &PostParams::default(), &self.set.with_status(new)).await;
        match answer {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(Error::call("update status of", self.key.to_string())(error)),
        }
    }
}
