//! Watches sets and pods, decides, and carries it out.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::api::{Api, PostParams};
use podium_client::{Informer, ObjectKey, WorkQueue, is_not_found};

use super::decide::{Decision, Observed, Scale, age_ratios, decide};
use super::status::status;
use super::{Replicated, View};
use crate::children::{Children, concerned};
use crate::clock;
use crate::context::{self, Context, Error, LAG_CHECK};
use crate::expect::Expectations;
use crate::labels::Selector;
use crate::metrics;
use crate::names;
use crate::owner::{self, controller_of};
use crate::pods;

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
            queue: WorkQueue::new(K::QUEUE),
            expectations: Expectations::default(),
            kind: PhantomData,
        }
    }

    fn watch(&self) {
        let queue = self.queue.clone();
        self.sets.on_event(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
        let (queue, sets) = (self.queue.clone(), self.sets.clone());
        self.pods.on_event(move |change| {
            for key in concerned(change, &sets, |set| set.view().selector) {
                queue.add(key);
            }
        });
    }
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
    // Pods that were made and are not seen yet are no news: nothing can be decided, and to read thousands of pods for the status
    // after each of them would cost more than to make them. Deletions are, see below.
    if !caught_up && !controller.expectations.awaits_deletions(&key) {
        metrics::REPLICA_SETS_STALE.with(["", "pods"]).increment();
        controller.queue.add_after(key, LAG_CHECK);
        return Ok(());
    }
    let decision = controller.observe(&key, &view, &selector, caught_up);
    let children = Children {
        context: &controller.context,
        owner: set.as_ref(),
        key: &key,
        expectations: &controller.expectations,
    };
    children.claim(&decision.adopt, &decision.release).await?;
    if let Scale::Delete(targets) = &decision.scale {
        for ratio in age_ratios(&decision.active, targets, now) {
            metrics::DELETION_AGE_RATIO.with([]).observe(ratio);
        }
    }
    let outcome = scale(&children, &decision.scale, &view).await;
    // The Deployment controller counts on it that pods which are to go are not reported as serving.
    let decision = decision.without(&controller.expectations.deleted(&key));
    write_status(&children, &view, &decision, outcome.as_ref().err()).await?;
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

async fn scale<K: Replicated>(
    children: &Children<'_, K>,
    scale: &Scale,
    view: &View<'_>,
) -> Result<(), kube::Error> {
    match scale {
        Scale::Keep => Ok(()),
        Scale::Delete(targets) => children.delete_all(targets).await,
        Scale::Create(names) => {
            let Some(template) = view.template else { return Ok(()) };
            let reference = owner::controller_reference(children.owner);
            let prefix = names::prefix(&children.key.name);
            let namespace = &children.key.namespace;
            let pod = |name: &String| {
                pods::from_template(
                    template,
                    namespace,
                    Some(prefix.clone()),
                    name.clone(),
                    reference.clone(),
                )
            };
            children.create_all(names.iter().map(pod)).await
        }
    }
}

async fn write_status<K: Replicated>(
    children: &Children<'_, K>,
    view: &View<'_>,
    decision: &Decision,
    failure: Option<&kube::Error>,
) -> Result<(), Error> {
    let failure = failure.map(context::words);
    let now = children.context.now();
    let new =
        status(view, &decision.active, decision.terminating, failure.as_deref(), decision.caught_up, now);
    let Some(new) = new else { return Ok(()) };
    let api: Api<K> = Api::namespaced(children.context.client.clone(), &children.key.namespace);
    let updated = children.owner.with_status(new);
    match api.replace_status(&children.key.name, &PostParams::default(), &updated).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Error::call("update status of", children.key.to_string())(error)),
    }
}
