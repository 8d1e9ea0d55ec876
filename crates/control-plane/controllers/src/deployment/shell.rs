//! Watches Deployments, their ReplicaSets and pods, decides, and carries it out.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use podium_client::{
    Change, Informer, ObjectKey, WorkQueue, is_already_exists, is_conflict, is_invalid, is_not_found,
};

use super::decide::{Decision, Observed, after_collision, after_failed_create, decide, is_same_set};
use super::plan::Write;
use super::revision::REVISION;
use super::rollback::Rollback;
use super::strategy::Strategy;
use crate::clock;
use crate::context::{self, Context, Error, LAG_CHECK};
use crate::expect::{Expectations, Expected};
use crate::labels::Selector;
use crate::owner::{self, Claim, controller_of};
use crate::pods;

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let controller = Arc::new(Controller::new(context));
    controller.watch();
    controller
        .context
        .ready([
            controller.deployments.synced().boxed(),
            controller.sets.synced().boxed(),
            controller.pods.synced().boxed(),
        ])
        .await;
    let (context, queue) = (controller.context.clone(), controller.queue.clone());
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

/// Index of ReplicaSets by the uid of their controller, those without one by [`pods::orphans_of`] their namespace.
const BY_DEPLOYMENT: &str = "controllers/deployment";

#[derive(Debug)]
struct Controller {
    context: Context,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    queue: WorkQueue<ObjectKey>,
    expectations: Expectations,
}

impl Controller {
    fn new(context: Context) -> Self {
        let sets = context.informers.of::<ReplicaSet>();
        sets.add_index(BY_DEPLOYMENT, |set| {
            vec![match controller_of(&set.metadata) {
                Some(owner) => owner.uid.clone(),
                None => pods::orphans_of(owner::namespace(&set.metadata)),
            }]
        });
        let pods = context.informers.of::<Pod>();
        pods::index_by_controller(&pods);
        Self {
            deployments: context.informers.of::<Deployment>(),
            sets,
            pods,
            queue: WorkQueue::new("deployment"),
            expectations: Expectations::default(),
            context,
        }
    }

    fn watch(&self) {
        let queue = self.queue.clone();
        self.deployments.on_event(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
        let (queue, deployments) = (self.queue.clone(), self.deployments.clone());
        self.sets.on_event(move |change| {
            for key in concerned(change, &deployments) {
                queue.add(key);
            }
        });
        let (queue, sets, deployments) = (self.queue.clone(), self.sets.clone(), self.deployments.clone());
        self.pods.on_event(move |change| {
            // Only a Recreate waits for pods to end; all else is told by the ReplicaSets' status.
            let ended = match change {
                Change::Deleted(_) => true,
                Change::Modified { old, new } => !pods::is_finished(old) && pods::is_finished(new),
                Change::Added(_) => false,
            };
            if ended && let Some(key) = recreated_by(&change.object().metadata, &sets, &deployments) {
                queue.add(key);
            }
        });
    }
}

/// The Deployments that a change of a ReplicaSet concerns.
fn concerned(change: &Change<ReplicaSet>, deployments: &Informer<Deployment>) -> Vec<ObjectKey> {
    let new = &change.object().metadata;
    let mut keys = Vec::new();
    let mut orphan_changed = true;
    if let Change::Modified { old, .. } = change {
        let old = &old.metadata;
        if controller_of(old) != controller_of(new) {
            keys.extend(owning_deployment(old));
        } else {
            orphan_changed = old.labels != new.labels;
        }
    }
    if controller_of(new).is_some() {
        keys.extend(owning_deployment(new));
    } else if orphan_changed && !matches!(change, Change::Deleted(_)) {
        let selects = |deployment: &Arc<Deployment>| {
            deployment.spec.as_ref().is_some_and(|spec| {
                Selector::new(&spec.selector)
                    .is_ok_and(|selector| !selector.is_empty() && selector.matches(new.labels.as_ref()))
            })
        };
        let candidates = deployments.list_namespace(owner::namespace(new));
        keys.extend(candidates.iter().filter(|it| selects(it)).map(|it| ObjectKey::of(it.as_ref())));
    }
    keys
}

fn owning_deployment(set: &ObjectMeta) -> Option<ObjectKey> {
    controller_of(set)
        .filter(|owner| owner.kind == "Deployment" && owner.api_version == "apps/v1")
        .map(|owner| ObjectKey::new(owner::namespace(set), owner.name.as_str()))
}

fn recreated_by(
    pod: &ObjectMeta,
    sets: &Informer<ReplicaSet>,
    deployments: &Informer<Deployment>,
) -> Option<ObjectKey> {
    let owner = controller_of(pod).filter(|owner| owner.kind == "ReplicaSet")?;
    let set = sets.get(&ObjectKey::new(owner::namespace(pod), owner.name.as_str()))?;
    let key = owning_deployment(&set.metadata)?;
    let deployment = deployments.get(&key)?;
    (!Strategy::of(&deployment).rolling).then_some(key)
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(deployment) = controller.deployments.get(&key) else {
        controller.expectations.forget(&key);
        return Ok(());
    };
    let context = &controller.context;
    if !controller.expectations.satisfied(&key, &controller.sets, context.now()) {
        controller.queue.add_after(key, LAG_CHECK);
        return Ok(());
    }
    let sync = Sync { controller: &controller, key: &key, deployment: &deployment };
    let sets = sync.claim().await?;
    let sets_with_pods = sync.sets_with_pods(&sets);
    let sets = sets.iter().map(|set| ReplicaSet::clone(set)).collect();
    let now = context.now();
    let decision = decide(Observed { deployment: &deployment, sets, sets_with_pods }, now);
    if let Some(moment) = decision.next_check {
        controller.queue.add_after(key.clone(), clock::until(moment, now));
    }
    sync.apply(decision).await
}

/// One reconcile's calls.
struct Sync<'a> {
    controller: &'a Controller,
    key: &'a ObjectKey,
    deployment: &'a Deployment,
}

impl Sync<'_> {
    fn sets(&self) -> Api<ReplicaSet> {
        Api::namespaced(self.controller.context.client.clone(), &self.key.namespace)
    }

    fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.controller.context.client.clone(), &self.key.namespace)
    }

    /// The Deployment's ReplicaSets, after taking over and letting go as the selector says.
    async fn claim(&self) -> Result<Vec<Arc<ReplicaSet>>, Error> {
        let Some(spec) = &self.deployment.spec else { return Ok(Vec::new()) };
        let selector = Selector::new(&spec.selector)
            .map_err(|error| Error::Unusable { object: self.key.to_string(), why: error.to_string() })?;
        let meta = &self.deployment.metadata;
        let sets = &self.controller.sets;
        let mut candidates = sets.by_index(BY_DEPLOYMENT, owner::uid(meta));
        candidates.extend(sets.by_index(BY_DEPLOYMENT, &pods::orphans_of(&self.key.namespace)));
        let reference = owner::controller_reference(self.deployment);
        let mut owned = Vec::new();
        let mut confirmed = false;
        for set in candidates {
            match owner::claim(meta, &selector, &set.metadata) {
                Claim::Ignore => {}
                Claim::Keep => owned.push(set),
                Claim::Release => {
                    self.patch(&set, &owner::release_patch(&reference.uid, owner::uid(&set.metadata)))
                        .await?;
                }
                // A selector of everything is refused later; it must not adopt first.
                Claim::Adopt if selector.is_empty() => {}
                Claim::Adopt => {
                    if !confirmed {
                        self.confirm_alive().await?;
                        confirmed = true;
                    }
                    let patch = owner::adopt_patch(&reference, owner::uid(&set.metadata));
                    owned.extend(self.patch(&set, &patch).await?.map(Arc::new));
                }
            }
        }
        Ok(owned)
    }

    /// A deleted Deployment must not adopt, whatever the cache still says.
    async fn confirm_alive(&self) -> Result<(), Error> {
        let live =
            self.deployments().get(&self.key.name).await.map_err(Error::call("get", self.key.to_string()))?;
        if live.metadata.uid != self.deployment.metadata.uid || live.metadata.deletion_timestamp.is_some() {
            return Err(Error::Unusable {
                object: self.key.to_string(),
                why: "not adopting replica sets: gone or being deleted".to_owned(),
            });
        }
        Ok(())
    }

    async fn patch(&self, set: &ReplicaSet, patch: &serde_json::Value) -> Result<Option<ReplicaSet>, Error> {
        let name = owner::name(&set.metadata);
        match self.sets().patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(set) => {
                self.controller.expectations.wrote(self.key, &set, self.controller.context.now());
                Ok(Some(set))
            }
            Err(error) if is_not_found(&error) || is_invalid(&error) => Ok(None),
            Err(error) => Err(Error::call("patch", name)(error)),
        }
    }

    /// See [`Observed::sets_with_pods`].
    fn sets_with_pods(&self, sets: &[Arc<ReplicaSet>]) -> Vec<String> {
        if Strategy::of(self.deployment).rolling {
            return Vec::new();
        }
        let has_pods = |set: &&Arc<ReplicaSet>| {
            let pods = self.controller.pods.by_index(pods::BY_CONTROLLER, owner::uid(&set.metadata));
            pods.iter().any(|pod| !pods::is_finished(pod))
        };
        sets.iter().filter(has_pods).map(|set| owner::name(&set.metadata).to_owned()).collect()
    }

    async fn apply(&self, decision: Decision) -> Result<(), Error> {
        if decision.selects_all {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.controller.context.warning(self.deployment, "SelectingAll", message);
        }
        for write in &decision.writes {
            match write {
                Write::Create(set) => self.create(set).await?,
                Write::Update { set, scaled } => self.update(set, *scaled).await?,
                Write::Delete(set) => self.delete(set).await?,
            }
        }
        if let Some(rollback) = &decision.rollback {
            return self.roll_back(rollback).await;
        }
        match decision.status {
            Some(status) => self.write_status(status, decision.revision).await,
            None => Ok(()),
        }
    }

    async fn roll_back(&self, rollback: &Rollback) -> Result<(), Error> {
        let answer =
            self.deployments().replace(&self.key.name, &PostParams::default(), &rollback.deployment).await;
        answer.map_err(Error::call("roll back deployment", self.key.to_string()))?;
        let context = &self.controller.context;
        match rollback.warning {
            true => context.warning(self.deployment, rollback.reason, rollback.message.as_str()),
            false => context.normal(self.deployment, rollback.reason, rollback.message.as_str()),
        }
        Ok(())
    }

    async fn create(&self, set: &ReplicaSet) -> Result<(), Error> {
        let context = &self.controller.context;
        let name = owner::name(&set.metadata);
        let error = match self.sets().create(&PostParams::default(), set).await {
            Ok(created) => {
                self.controller.expectations.wrote(self.key, &created, context.now());
                let size = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
                if size > 0 {
                    let message = format!("Scaled up replica set {name} from 0 to {size}");
                    context.normal(self.deployment, "ScalingReplicaSet", message);
                }
                return Ok(());
            }
            Err(error) => error,
        };
        if is_already_exists(&error) {
            self.resolve_collision(name).await?;
        } else if context::is_uncertain(&error) {
            let key = ObjectKey::new(self.key.namespace.as_str(), name);
            self.controller.expectations.note(self.key, Expected::MaybeCreated { key }, context.now());
        } else if !context::namespace_is_terminating(&error) {
            let why = context::words(&error);
            let (status, message) = after_failed_create(self.deployment, name, &why, context.now());
            context.warning(self.deployment, "ReplicaSetCreateError", message);
            if let Some(status) = status {
                self.write_status(status, None).await?;
            }
        }
        Err(Error::call("create replica set", name)(error))
    }

    /// Either the cache lags and the set is ours, or the hash is taken and the next attempt needs another one.
    async fn resolve_collision(&self, name: &str) -> Result<(), Error> {
        let existing = self.sets().get_opt(name).await.map_err(Error::call("get replica set", name))?;
        match existing {
            Some(existing) if is_same_set(self.deployment, &existing) => {
                self.controller.expectations.wrote(self.key, &existing, self.controller.context.now());
                Ok(())
            }
            Some(_) => self.write_status(after_collision(self.deployment), None).await,
            None => Ok(()),
        }
    }

    async fn update(&self, set: &ReplicaSet, scaled: Option<(i32, i32)>) -> Result<(), Error> {
        let context = &self.controller.context;
        let name = owner::name(&set.metadata);
        match self.sets().replace(name, &PostParams::default(), set).await {
            Ok(updated) => self.controller.expectations.wrote(self.key, &updated, context.now()),
            Err(error) => {
                // It may have its new size: no other set must be sized as if it had the old one.
                let may = || Expected::MaybeUpdated {
                    key: ObjectKey::of(set),
                    from: owner::version(&set.metadata),
                };
                self.controller.expectations.unanswered(self.key, &error, may, context.now());
                return Err(Error::call("update replica set", name)(error));
            }
        }
        if let Some((from, to)) = scaled {
            let direction = if from < to { "up" } else { "down" };
            let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
            context.normal(self.deployment, "ScalingReplicaSet", message);
        }
        Ok(())
    }

    async fn delete(&self, set: &ReplicaSet) -> Result<(), Error> {
        let name = owner::name(&set.metadata);
        let uid = owner::uid(&set.metadata).to_owned();
        // The version too: a set that has been scaled up since is not rubbish any more.
        let precondition =
            Preconditions { uid: Some(uid.clone()), resource_version: set.metadata.resource_version.clone() };
        match self.sets().delete(name, &DeleteParams::default().preconditions(precondition)).await {
            Ok(_) => {
                let expected = Expected::Deleted { key: ObjectKey::of(set), uid };
                self.controller.expectations.note(self.key, expected, self.controller.context.now());
                Ok(())
            }
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => Err(Error::call("delete replica set", name)(error)),
        }
    }

    async fn write_status(&self, status: DeploymentStatus, revision: Option<String>) -> Result<(), Error> {
        let mut deployment = self.deployment.clone();
        deployment.status = Some(status);
        if let Some(revision) = revision {
            deployment.metadata.annotations.get_or_insert_default().insert(REVISION.to_owned(), revision);
        }
        let answer =
            self.deployments().replace_status(&self.key.name, &PostParams::default(), &deployment).await;
        match answer {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(Error::call("update status of deployment", self.key.to_string())(error)),
        }
    }
}
