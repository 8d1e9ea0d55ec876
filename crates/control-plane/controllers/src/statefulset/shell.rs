//! Watches StatefulSets, pods, claims and revisions, decides, and carries it out.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use podium_client::{Informer, ObjectKey, WorkQueue, is_already_exists, is_conflict, is_not_found};
use serde_json::json;

use super::decide::{Claims, Decision, Observed, Revisions, Version, decide};
use super::identity::{
    claim_names, claims, identify, is_claim_of, new_pod, numbers, ordinal, pod_name, revision,
};
use super::status::{self, standing};
use crate::children::{Children, Target, concerned, owner_of};
use crate::clock;
use crate::context::{self, Context, Error, LAG_CHECK};
use crate::expect::{Expectations, Expected};
use crate::history::{self, Keeper, Kept, Naming};
use crate::labels::Selector;
use crate::metrics;
use crate::owner::{self, Claim};
use crate::pods;
use crate::slow_start;

/// Label of revisions: their hash.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let informers = &context.informers;
    let (pods, revisions) = (informers.of::<Pod>(), informers.of::<ControllerRevision>());
    pods::index_by_controller(&pods);
    history::index(&revisions);
    let controller = Arc::new(Controller {
        sets: informers.of::<StatefulSet>(),
        claims: informers.of::<PersistentVolumeClaim>(),
        pods,
        revisions,
        queue: WorkQueue::new("statefulset"),
        expectations: Expectations::default(),
        kept: Expectations::default(),
        claimed: Expectations::default(),
        own_writes: Expectations::default(),
        context: context.clone(),
    });
    controller.watch();
    let caches = [
        controller.sets.synced().boxed(),
        controller.claims.synced().boxed(),
        controller.pods.synced().boxed(),
        controller.revisions.synced().boxed(),
    ];
    context.ready(caches).await;
    let queue = controller.queue.clone();
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

struct Controller {
    context: Context,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    revisions: Informer<ControllerRevision>,
    queue: WorkQueue<ObjectKey>,
    /// Writes to pods.
    expectations: Expectations,
    /// Writes to revisions.
    kept: Expectations,
    /// Writes to claims.
    claimed: Expectations,
    /// Writes to the set's status, by which new pods get their version.
    own_writes: Expectations,
}

impl Controller {
    fn watch(&self) {
        let queue = self.queue.clone();
        self.sets.on_event(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
        let (queue, sets) = (self.queue.clone(), self.sets.clone());
        self.pods.on_event(move |change| {
            let selector =
                |set: &StatefulSet| set.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
            for key in concerned(change, &sets, selector) {
                queue.add(key);
            }
        });
        let (queue, sets) = (self.queue.clone(), self.sets.clone());
        self.claims.on_event(move |change| {
            // By name: it may have no owner, or a pod.
            let meta = &change.object().metadata;
            let sets = sets.list_namespace(owner::namespace(meta));
            for set in sets.iter().filter(|set| is_claim_of(set, owner::name(meta))) {
                queue.add(ObjectKey::of(set.as_ref()));
            }
        });
        let queue = self.queue.clone();
        self.revisions.on_event(move |change| {
            owner_of::<StatefulSet>(&change.object().metadata).into_iter().for_each(|key| queue.add(key));
        });
    }
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(set) = controller.sets.get(&key) else {
        controller.expectations.forget(&key);
        controller.kept.forget(&key);
        controller.claimed.forget(&key);
        controller.own_writes.forget(&key);
        return Ok(());
    };
    let now = controller.context.now();
    let shown = controller.expectations.satisfied(&key, &controller.pods, now)
        && controller.kept.satisfied(&key, &controller.revisions, now)
        && controller.claimed.satisfied(&key, &controller.claims, now)
        && controller.own_writes.satisfied(&key, &controller.sets, now);
    if !shown {
        controller.queue.add_after(key, LAG_CHECK);
        return Ok(());
    }
    let children = Children {
        context: &controller.context,
        owner: set.as_ref(),
        key: &key,
        expectations: &controller.expectations,
    };
    let sync = Sync { controller: &controller, children };
    let Some(update) = sync.revision().await? else { return Ok(()) };
    let Some(pods) = sync.claim().await? else { return Ok(()) };
    let current = sync.current(&update);
    let (Some(update_template), Some(current_template)) =
        (history::template(&update), history::template(&current))
    else {
        return Err(Error::Unusable {
            object: key.to_string(),
            why: "a revision holds no template".to_owned(),
        });
    };
    let revisions = Revisions {
        current_name: owner::name(&current.metadata),
        current: &current_template,
        update_name: owner::name(&update.metadata),
        update: &update_template,
    };
    let claims = sync.claims(&pods);
    measure(&set, &pods, now);
    let decision = decide(&Observed { set: &set, pods: &pods, claims: &claims, revisions }, now);
    if let Some(moment) = decision.next_check {
        controller.queue.add_after(key.clone(), clock::until(moment, now));
    }
    let applied = sync.apply(decision, &revisions, &pods).await;
    applied.and(sync.forget_old(&pods, &revisions).await)
}

/// Shows how far the set is from whole.
fn measure(set: &StatefulSet, pods: &[Arc<Pod>], now: Timestamp) {
    let policy = set.spec.as_ref().and_then(|spec| spec.pod_management_policy.as_deref());
    let names = [owner::namespace(&set.metadata), owner::name(&set.metadata), policy.unwrap_or_default()];
    let (may, missing) = standing(set, pods, now);
    metrics::SET_MAY_MISS.with(names).set(f64::from(may));
    metrics::SET_MISSES.with(names).set(f64::from(missing));
}

/// One reconcile's calls.
struct Sync<'a> {
    controller: &'a Controller,
    children: Children<'a, StatefulSet>,
}

impl Sync<'_> {
    fn set(&self) -> &StatefulSet {
        self.children.owner
    }

    fn keeper(&self) -> Keeper<'_> {
        Keeper { context: self.children.context, key: self.children.key, expectations: &self.controller.kept }
    }

    /// Today's revision, once it is in the history. `None` when another hash must be tried.
    async fn revision(&self) -> Result<Option<ControllerRevision>, Error> {
        let set = self.set();
        let Some(spec) = &set.spec else { return Ok(None) };
        let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or_default();
        let hash = history::hash_of(&spec.template, Some(collisions));
        let mut labels =
            spec.template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        labels.insert(HASH_LABEL.to_owned(), hash.clone());
        let naming = Naming { hash, labels, annotations: set.metadata.annotations.clone() };
        let existing = history::of(&self.controller.revisions, owner::uid(&set.metadata));
        match self.keeper().keep(history::plan(set, &spec.template, &existing, naming)).await? {
            Kept::Stored(revision) => Ok(Some(*revision)),
            Kept::Collision => {
                let mut status = set.status.clone().unwrap_or_default();
                status.collision_count = Some(collisions + 1);
                self.write_status(status).await?;
                Ok(None)
            }
        }
    }

    /// The revision that the pods had before; today's when there is none.
    fn current(&self, update: &ControllerRevision) -> ControllerRevision {
        let name = self.set().status.as_ref().and_then(|status| status.current_revision.as_deref());
        let all = history::of(&self.controller.revisions, owner::uid(&self.set().metadata));
        let found = all.iter().find(|revision| Some(owner::name(&revision.metadata)) == name);
        found.map_or_else(|| update.clone(), |revision| ControllerRevision::clone(revision))
    }

    /// The set's pods, or `None` when some had to be taken over first.
    async fn claim(&self) -> Result<Option<Vec<Arc<Pod>>>, Error> {
        let meta = &self.set().metadata;
        let selector = self.set().spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
        let selector = Selector::new(&selector).map_err(|error| Error::Unusable {
            object: self.children.key.to_string(),
            why: error.to_string(),
        })?;
        let pods = &self.controller.pods;
        let mut candidates = pods.by_index(pods::BY_CONTROLLER, owner::uid(meta));
        candidates.extend(pods.by_index(pods::BY_CONTROLLER, &pods::orphans_of(owner::namespace(meta))));
        let (mut owned, mut adopt, mut release) = (Vec::new(), Vec::new(), Vec::new());
        for pod in candidates {
            match owner::claim(meta, &selector, &pod.metadata) {
                Claim::Keep => owned.push(pod),
                // Only pods that could be its own by name.
                Claim::Adopt if !selector.is_empty() && ordinal(self.set(), &pod).is_some() => {
                    adopt.push(Target::of(&pod));
                }
                Claim::Release => release.push(Target::of(&pod)),
                Claim::Adopt | Claim::Ignore => {}
            }
        }
        self.children.claim(&adopt, &release).await?;
        Ok((adopt.is_empty() && release.is_empty()).then_some(owned))
    }

    /// What is stored of the claims of all numbers that are, or are to be.
    fn claims(&self, pods: &[Arc<Pod>]) -> Claims {
        let set = self.set();
        let all = numbers(set).chain(pods.iter().filter_map(|pod| ordinal(set, pod)));
        let stored = |name: String| {
            let key = ObjectKey::new(self.children.key.namespace.as_str(), name.as_str());
            self.controller.claims.get(&key).map(|claim| (name, claim))
        };
        all.flat_map(|number| claim_names(set, number)).filter_map(stored).collect()
    }

    /// Carries out what can be carried out and tells the first thing that could not. The status is written in any case.
    async fn apply(
        &self,
        decision: Decision,
        revisions: &Revisions<'_>,
        pods: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let mut outcome = self.bring(&decision, revisions).await;
        for (number, target) in &decision.identify {
            outcome = outcome.and(self.identify(*number, target, pods).await);
        }
        let mut stays = BTreeSet::new();
        for (pod, claim) in &decision.hand_over {
            let handed_over = self.hand_over(claim).await;
            if handed_over.is_err() {
                stays.insert(&pod.uid);
            }
            outcome = outcome.and(handed_over);
        }
        let mut deleted = Vec::new();
        for target in decision.delete.iter().filter(|target| !stays.contains(&target.uid)) {
            match self.delete(target).await {
                Ok(()) => deleted.push(target.clone()),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        let status = if deleted == decision.delete {
            decision.status
        } else {
            // The decision has counted them as gone.
            status::status(self.set(), pods, &deleted, revisions, self.children.context.now())
        };
        if let Some(status) = status {
            outcome = outcome.and(self.write_status(status).await);
        }
        outcome.and(awaited(&decision.awaited))
    }

    /// Makes the claims and pods that are missing, in the order of their numbers and in batches that double while all goes well.
    async fn bring(&self, decision: &Decision, revisions: &Revisions<'_>) -> Result<(), Error> {
        let claims = decision.claims.iter().map(|number| (*number, None));
        let create = decision.create.iter().map(|(number, version)| (*number, Some(*version)));
        let mut missing: Vec<(i32, Option<Version>)> = claims.chain(create).collect();
        missing.sort_by_key(|(number, _)| *number);
        let mut missing = missing.into_iter();
        for size in slow_start::batches(missing.len()) {
            let batch = missing
                .by_ref()
                .take(size)
                .map(|(number, version)| self.bring_one(number, version, revisions));
            join_all(batch).await.into_iter().collect::<Result<Vec<()>, _>>()?;
        }
        Ok(())
    }

    async fn bring_one(
        &self,
        number: i32,
        version: Option<Version>,
        revisions: &Revisions<'_>,
    ) -> Result<(), Error> {
        self.make_claims(number).await?;
        let (name, template): (&str, &PodTemplateSpec) = match version {
            None => return Ok(()),
            Some(Version::Current) => (revisions.current_name, revisions.current),
            Some(Version::Update) => (revisions.update_name, revisions.update),
        };
        self.create(&new_pod(self.set(), template, name, number)).await
    }

    fn record(&self, verb: &str, pod: &str, error: Option<&kube::Error>) {
        let set = owner::name(&self.set().metadata);
        let context = self.children.context;
        match error {
            None => {
                let message = format!("{verb} Pod {pod} in StatefulSet {set} successful");
                context.normal(self.set(), &format!("Successful{verb}"), message);
            }
            Some(error) => {
                let why = context::words(error);
                let message = format!("{verb} Pod {pod} in StatefulSet {set} failed error: {why}");
                context.warning(self.set(), &format!("Failed{verb}"), message);
            }
        }
    }

    async fn create(&self, pod: &Pod) -> Result<(), Error> {
        let name = owner::name(&pod.metadata);
        let (key, now) = (self.children.key, self.children.context.now());
        match self.children.pods().create(&PostParams::default(), pod).await {
            Ok(created) => {
                self.children.expectations.wrote(key, &created, now);
                self.record("Create", name, None);
                Ok(())
            }
            // The cache lags, or somebody else has the name: either way it is looked at again.
            Err(error) if is_already_exists(&error) => Err(Error::call("create pod", name)(error)),
            Err(error) if context::namespace_is_terminating(&error) => Ok(()),
            Err(error) => {
                let may = || Expected::MaybeCreated { key: ObjectKey::of(pod) };
                self.children.expectations.unanswered(key, &error, may, now);
                self.record("Create", name, Some(&error));
                Err(Error::call("create pod", name)(error))
            }
        }
    }

    async fn delete(&self, target: &Target) -> Result<(), Error> {
        let precondition = Preconditions { uid: Some(target.uid.clone()), resource_version: None };
        let params = DeleteParams::default().preconditions(precondition);
        match self.children.pods().delete(&target.key.name, &params).await {
            Ok(_) => {
                let expected = Expected::Deleted { key: target.key.clone(), uid: target.uid.clone() };
                self.children.expectations.note(self.children.key, expected, self.children.context.now());
                self.record("Delete", &target.key.name, None);
                Ok(())
            }
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => {
                // It may be gone: nothing above it must be made as if it still served.
                let may = || Expected::MaybeDeleted { key: target.key.clone(), uid: target.uid.clone() };
                let Children { expectations, key, context, .. } = &self.children;
                expectations.unanswered(key, &error, may, context.now());
                self.record("Delete", &target.key.name, Some(&error));
                Err(Error::call("delete pod", target.key.to_string())(error))
            }
        }
    }

    async fn identify(&self, number: i32, target: &Target, pods: &[Arc<Pod>]) -> Result<(), Error> {
        let Some(pod) = pods.iter().find(|pod| owner::uid(&pod.metadata) == target.uid) else {
            return Ok(());
        };
        let mut identified = Pod::clone(pod);
        identify(self.set(), &mut identified, number);
        let patch = json!({"metadata": {"uid": target.uid, "labels": identified.metadata.labels}});
        self.children.patch(target, &patch).await
    }

    fn claim_api(&self) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.children.context.client.clone(), &self.children.key.namespace)
    }

    async fn make_claims(&self, number: i32) -> Result<(), Error> {
        let pod = pod_name(self.set(), number);
        let set = owner::name(&self.set().metadata);
        let mut outcome = Ok(());
        for claim in claims(self.set(), number) {
            let name = owner::name(&claim.metadata);
            if self.controller.claims.contains(&ObjectKey::of(&claim)) {
                continue;
            }
            match self.claim_api().create(&PostParams::default(), &claim).await {
                Ok(created) => {
                    self.controller.claimed.wrote(self.children.key, &created, self.children.context.now());
                    let message = format!("Create Claim {name} Pod {pod} in StatefulSet {set} success");
                    self.children.context.normal(self.set(), "SuccessfulCreate", message);
                }
                // One that was not seen was not judged either.
                Err(error) if is_already_exists(&error) => {
                    outcome = outcome.and(Err(Error::call("create claim", name)(error)));
                }
                Err(error) => {
                    let why = context::words(&error);
                    let message =
                        format!("Create Claim {name} for Pod {pod} in StatefulSet {set} failed error: {why}");
                    self.children.context.warning(self.set(), "FailedCreate", message);
                    outcome = outcome.and(Err(Error::call("create claim", name)(error)));
                }
            }
        }
        outcome
    }

    /// Stores a claim with its new owners.
    async fn hand_over(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        let (name, now) = (owner::name(&claim.metadata), self.children.context.now());
        let (claimed, key) = (&self.controller.claimed, self.children.key);
        // An update with the version that was seen: the controller's role does not allow to patch claims.
        match self.claim_api().replace(name, &PostParams::default(), claim).await {
            Ok(stored) => {
                claimed.wrote(key, &stored, now);
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => {
                let from = owner::version(&claim.metadata);
                let may = || Expected::MaybeUpdated { key: ObjectKey::of(claim), from };
                claimed.unanswered(key, &error, may, now);
                Err(Error::call("hand over claim", name)(error))
            }
        }
    }

    async fn forget_old(&self, pods: &[Arc<Pod>], revisions: &Revisions<'_>) -> Result<(), Error> {
        let set = self.set();
        let existing = history::of(&self.controller.revisions, owner::uid(&set.metadata));
        let used = history::in_use(
            pods.iter().map(|pod| revision(pod)).chain([revisions.current_name, revisions.update_name]),
        );
        let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        let excess =
            history::excess(&existing, limit, |revision| used.contains(owner::name(&revision.metadata)));
        self.keeper().forget(&excess).await
    }

    async fn write_status(&self, status: StatefulSetStatus) -> Result<(), Error> {
        let key = self.children.key;
        let api: Api<StatefulSet> = Api::namespaced(self.children.context.client.clone(), &key.namespace);
        let updated = StatefulSet { status: Some(status), ..self.set().clone() };
        match api.replace_status(&key.name, &PostParams::default(), &updated).await {
            Ok(stored) => {
                self.controller.own_writes.wrote(key, &stored, self.children.context.now());
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(Error::call("update status of stateful set", key.to_string())(error)),
        }
    }
}

/// Says which claims are in the way. Their end wakes the set; until then the log is to tell why there is no pod.
fn awaited(claims: &[(String, &'static str)]) -> Result<(), Error> {
    let Some((name, why)) = claims.first() else { return Ok(()) };
    let why = format!("{why} and must be gone before its pod comes");
    Err(Error::Unusable { object: format!("claim {name}"), why })
}
