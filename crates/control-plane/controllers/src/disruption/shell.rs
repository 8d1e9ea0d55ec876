//! Watches budgets, pods and what controls them; asks for the scale of controllers of other kinds.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, PostParams};
use podium_client::{Change, Informer, Object, ObjectKey, WorkQueue, is_not_found, run_workers};

use super::decide::{Scales, counts_scales, disrupted, expected, healthy, stale_at, undisturbed, unmanaged};
use super::status::status;
use crate::clock;
use crate::context::{Context, Error, words};
use crate::labels::{Labels, Selector};
use crate::owner::{self, controller_of};
use crate::scale;

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let informers = &context.informers;
    let controller = Arc::new(Controller {
        budgets: informers.of::<PodDisruptionBudget>(),
        pods: informers.of::<Pod>(),
        sets: informers.of::<ReplicaSet>(),
        deployments: informers.of::<Deployment>(),
        stateful: informers.of::<StatefulSet>(),
        controllers: informers.of::<ReplicationController>(),
        scales: scale::Scales::new(context.client.clone()),
        queue: WorkQueue::new("disruption"),
        announced: WorkQueue::new("stale_pod_disruption"),
        context: context.clone(),
    });
    controller.watch();
    let caches = [
        controller.budgets.synced().boxed(),
        controller.pods.synced().boxed(),
        controller.sets.synced().boxed(),
        controller.deployments.synced().boxed(),
        controller.stateful.synced().boxed(),
        controller.controllers.synced().boxed(),
    ];
    context.ready(caches).await;
    let (queue, announced) = (controller.queue.clone(), controller.announced.clone());
    let other = Arc::clone(&controller);
    // One is enough: evictions that come to nothing are rare. Source: upstream starts one as well.
    let clearing =
        run_workers(announced, 1, context.shutdown.clone(), move |key| clear_stale(Arc::clone(&other), key));
    tokio::join!(context.work(queue, move |key| reconcile(Arc::clone(&controller), key)), clearing);
}

struct Controller {
    context: Context,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    stateful: Informer<StatefulSet>,
    controllers: Informer<ReplicationController>,
    scales: scale::Scales,
    queue: WorkQueue<ObjectKey>,
    /// Pods that say they are about to be disrupted, whether a budget is about them or not.
    announced: WorkQueue<ObjectKey>,
}

/// The budget's selector; one that is absent selects nothing, an empty one every pod of the namespace.
fn selector(budget: &PodDisruptionBudget) -> Option<Selector> {
    Selector::new(budget.spec.as_ref()?.selector.as_ref()?).ok()
}

fn selecting(
    budgets: &Informer<PodDisruptionBudget>,
    namespace: &str,
    labels: Option<&Labels>,
) -> Vec<ObjectKey> {
    let all = budgets.list_namespace(namespace);
    let selects = |budget: &&Arc<PodDisruptionBudget>| selector(budget).is_some_and(|it| it.matches(labels));
    all.iter().filter(selects).map(|budget| ObjectKey::of(budget.as_ref())).collect()
}

impl Controller {
    fn watch(&self) {
        let queue = self.queue.clone();
        self.budgets.on_event(move |change| {
            if !matches!(change, Change::Deleted(_)) {
                queue.add(ObjectKey::of(change.object().as_ref()));
            }
        });
        let (queue, budgets) = (self.queue.clone(), self.budgets.clone());
        let (announced, context) = (self.announced.clone(), self.context.clone());
        self.pods.on_event(move |change| {
            if let Some(moment) = stale_at(change.object())
                && !matches!(change, Change::Deleted(_))
            {
                let delay = clock::until(moment, context.now());
                announced.add_after(ObjectKey::of(change.object().as_ref()), delay);
            }
            if budgets.is_empty() {
                return;
            }
            let new = &change.object().metadata;
            let mut keys = selecting(&budgets, owner::namespace(new), new.labels.as_ref());
            if let Change::Modified { old, .. } = change
                && old.metadata.labels != new.labels
            {
                keys.extend(selecting(&budgets, owner::namespace(new), old.metadata.labels.as_ref()));
            }
            keys.into_iter().for_each(|key| queue.add(key));
        });
        // A change of scale changes what is expected before any pod does.
        self.follow(&self.sets);
        self.follow(&self.deployments);
        self.follow(&self.stateful);
        self.follow(&self.controllers);
    }

    fn follow<K: Object>(&self, informer: &Informer<K>) {
        let (queue, budgets) = (self.queue.clone(), self.budgets.clone());
        informer.on_event(move |change| {
            let meta: &ObjectMeta = kube::Resource::meta(change.object().as_ref());
            let respecified = match change {
                Change::Modified { old, .. } => {
                    kube::Resource::meta(old.as_ref()).generation != meta.generation
                }
                Change::Added(_) | Change::Deleted(_) => true,
            };
            if respecified && !budgets.is_empty() {
                let of_namespace = budgets.list_namespace(owner::namespace(meta));
                of_namespace.iter().for_each(|budget| queue.add(ObjectKey::of(budget.as_ref())));
            }
        });
    }

    /// The controllers of the pods, as far as there are any.
    ///
    /// # Errors
    ///
    /// In words, when one cannot be asked about.
    async fn scales(&self, pods: &[Arc<Pod>]) -> Result<Scales, String> {
        let mut scales = Scales::new();
        for pod in pods {
            let Some(reference) = controller_of(&pod.metadata) else { continue };
            if scales.contains_key(&reference.uid) {
                continue;
            }
            let namespace = owner::namespace(&pod.metadata);
            let found = match self.cached(namespace, reference) {
                Some(found) => Some(found),
                None => self.asked(namespace, reference).await?,
            };
            // One without a controller that is known says so where they are counted.
            scales.extend(found.map(|found| (reference.uid.clone(), found)));
        }
        Ok(scales)
    }

    /// Whose number of pods a controller has, and the number, if it is of a kind that is watched.
    fn cached(&self, namespace: &str, reference: &OwnerReference) -> Option<(String, i32)> {
        let key = ObjectKey::new(namespace, reference.name.as_str());
        let is = |meta: &ObjectMeta, reference: &OwnerReference| owner::uid(meta) == reference.uid;
        let own = |replicas: i32| (reference.uid.clone(), replicas);
        match (reference.api_version.as_str(), reference.kind.as_str()) {
            ("apps/v1", "ReplicaSet") => {
                let set = self.sets.get(&key).filter(|it| is(&it.metadata, reference))?;
                match controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment") {
                    Some(owner) => {
                        let key = ObjectKey::new(namespace, owner.name.as_str());
                        let deployment = self.deployments.get(&key).filter(|it| is(&it.metadata, owner))?;
                        Some((owner.uid.clone(), deployment.spec.as_ref()?.replicas?))
                    }
                    None => set.spec.as_ref()?.replicas.map(own),
                }
            }
            ("apps/v1", "StatefulSet") => {
                let set = self.stateful.get(&key).filter(|it| is(&it.metadata, reference))?;
                set.spec.as_ref()?.replicas.map(own)
            }
            ("v1", "ReplicationController") => {
                let controller = self.controllers.get(&key).filter(|it| is(&it.metadata, reference))?;
                controller.spec.as_ref()?.replicas.map(own)
            }
            _ => None,
        }
    }

    /// The same of any kind, by its scale. `None` when the controller is gone, or another life of its name is there.
    async fn asked(
        &self,
        namespace: &str,
        reference: &OwnerReference,
    ) -> Result<Option<(String, i32)>, String> {
        let resource = self.scales.find(&reference.api_version, &reference.kind).await?;
        let scale = match self.scales.get(&resource, namespace, &reference.name).await {
            Ok(scale) => scale,
            Err(error) if is_not_found(&error) && resource.scalable => return Ok(None),
            Err(error) if is_not_found(&error) => {
                let resource = resource.group_resource();
                return Err(format!("{resource} does not implement the scale subresource"));
            }
            Err(error) => return Err(words(&error)),
        };
        let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
        let same = scale.metadata.uid.as_ref() == Some(&reference.uid);
        Ok(same.then(|| (reference.uid.clone(), replicas)))
    }
}

/// Takes back what a pod says of its disruption, if nobody has deleted it by now.
async fn clear_stale(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(pod) = controller.pods.get(&key) else { return Ok(()) };
    let now = controller.context.now();
    match stale_at(&pod) {
        None => Ok(()),
        Some(moment) if moment > now => {
            controller.announced.add_after(key, clock::until(moment, now));
            Ok(())
        }
        Some(_) => {
            let api: Api<Pod> = Api::namespaced(controller.context.client.clone(), &key.namespace);
            match api.replace_status(&key.name, &PostParams::default(), &undisturbed(&pod, now)).await {
                Ok(_) => Ok(()),
                Err(error) if is_not_found(&error) => Ok(()),
                Err(error) => Err(Error::call("update status of pod", key.to_string())(error)),
            }
        }
    }
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(budget) = controller.budgets.get(&key) else { return Ok(()) };
    let context = &controller.context;
    let selector = selector(&budget);
    let mut pods = controller.pods.list_namespace(&key.namespace);
    pods.retain(|pod| selector.as_ref().is_some_and(|it| it.matches(pod.metadata.labels.as_ref())));
    if pods.is_empty() {
        context.normal(budget.as_ref(), "NoPods", "No matching pods found");
    }
    let selected = || pods.iter().map(AsRef::as_ref);
    let now = context.now();
    let scales = match counts_scales(&budget) {
        true => controller.scales(&pods).await,
        false => Ok(Scales::new()),
    };
    let expected = scales.and_then(|scales| {
        let nobody = |pod: String| format!("found no controllers for pod \"{pod}\"");
        expected(&budget, selected(), &scales).map_err(nobody)
    });
    let (counted, failure) = match expected {
        Ok(expected) => {
            if expected.unmanaged {
                context.warning(budget.as_ref(), "UnmanagedPods", unmanaged(&budget));
            }
            let (disrupted, next) = disrupted(&budget, selected(), now);
            if let Some(moment) = next {
                controller.queue.add_after(key.clone(), clock::until(clock::after(moment, 1), now));
            }
            (Some((expected, healthy(selected(), &disrupted), disrupted)), None)
        }
        Err(why) => {
            let message = format!("Failed to calculate the number of expected pods: {why}");
            context.warning(budget.as_ref(), "CalculateExpectedPodCountFailed", message);
            (None, Some(why))
        }
    };
    write(context, &key, &budget, status(&budget, counted, failure.as_deref(), now)).await?;
    // Nobody tells when a controller of any kind gets its scale, so it is looked for again.
    failure.map_or(Ok(()), |why| Err(Error::Unusable { object: key.to_string(), why }))
}

async fn write(
    context: &Context,
    key: &ObjectKey,
    budget: &PodDisruptionBudget,
    status: Option<PodDisruptionBudgetStatus>,
) -> Result<(), Error> {
    let Some(status) = status else { return Ok(()) };
    let updated = PodDisruptionBudget { status: Some(status), ..budget.clone() };
    let api: Api<PodDisruptionBudget> = Api::namespaced(context.client.clone(), &key.namespace);
    match api.replace_status(&key.name, &PostParams::default(), &updated).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Error::call("update status of disruption budget", key.to_string())(error)),
    }
}
