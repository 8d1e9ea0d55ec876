//! Watches DaemonSets, pods, nodes and revisions, decides, and carries it out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use podium_client::{Change, Informer, ObjectKey, WorkQueue, is_not_found, reference_of};

use super::HASH_LABEL;
use super::decide::{Decision, Observed, decide, retry_at};
use super::pods::{daemon_template, pin};
use crate::children::{Children, Target, concerned, owner_of};
use crate::clock;
use crate::context::{Context, Error, LAG_CHECK};
use crate::expect::Expectations;
use crate::history::{self, Keeper, Kept, Naming};
use crate::labels::{self, Selector};
use crate::metrics;
use crate::names;
use crate::nodes;
use crate::owner::{self, Claim};
use crate::pods;

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let informers = &context.informers;
    let (pods, revisions) = (informers.of::<Pod>(), informers.of::<ControllerRevision>());
    pods::index_by_controller(&pods);
    history::index(&revisions);
    let controller = Arc::new(Controller {
        sets: informers.of::<DaemonSet>(),
        nodes: informers.of::<Node>(),
        pods,
        revisions,
        queue: WorkQueue::new("daemonset"),
        expectations: Expectations::default(),
        kept: Expectations::default(),
        failures: Mutex::default(),
        context: context.clone(),
    });
    controller.watch();
    let caches = [
        controller.sets.synced().boxed(),
        controller.nodes.synced().boxed(),
        controller.pods.synced().boxed(),
        controller.revisions.synced().boxed(),
    ];
    context.ready(caches).await;
    let queue = controller.queue.clone();
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

struct Controller {
    context: Context,
    sets: Informer<DaemonSet>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    revisions: Informer<ControllerRevision>,
    queue: WorkQueue<ObjectKey>,
    /// Writes to pods.
    expectations: Expectations,
    /// Writes to revisions.
    kept: Expectations,
    /// By set, its generation and node: how often a failed pod was replaced, and when last. An edit may have mended what failed, so
    /// it begins anew. Source: `failedPodsBackoffKey`.
    failures: Mutex<HashMap<(String, i64, String), (u32, Timestamp)>>,
}

impl Controller {
    fn watch(&self) {
        let queue = self.queue.clone();
        self.sets.on_event(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
        let (queue, sets) = (self.queue.clone(), self.sets.clone());
        self.pods.on_event(move |change| {
            let selector =
                |set: &DaemonSet| set.spec.as_ref().map(|spec| spec.selector.clone()).unwrap_or_default();
            for key in concerned(change, &sets, selector) {
                queue.add(key);
            }
        });
        let queue = self.queue.clone();
        self.revisions.on_event(move |change| {
            owner_of::<DaemonSet>(&change.object().metadata).into_iter().for_each(|key| queue.add(key));
        });
        let (queue, sets) = (self.queue.clone(), self.sets.clone());
        self.nodes.on_event(move |change| {
            let relevant = |node: &Node| (node.metadata.labels.clone(), nodes::taints(node).to_vec());
            if !matches!(change, Change::Modified { old, new } if relevant(old) == relevant(new)) {
                sets.keys().into_iter().for_each(|key| queue.add(key));
            }
        });
    }

    fn retries(&self, set: &ObjectMeta) -> BTreeMap<String, Timestamp> {
        let failures = self.failures.lock();
        let now = (owner::uid(set), set.generation.unwrap_or_default());
        let of_set = failures.iter().filter(|((uid, generation, _), _)| (uid.as_str(), *generation) == now);
        of_set.map(|((_, _, node), (count, last))| (node.clone(), retry_at(*last, *count))).collect()
    }

    /// A replacement long after the last one starts from the beginning; what is that old is forgotten, of whatever set or node.
    fn note_failure(&self, set: &ObjectMeta, node: &str) {
        let now = self.context.now();
        let mut failures = self.failures.lock();
        failures.retain(|_, (count, last)| clock::after(retry_at(*last, *count), 900) >= now);
        let key = (owner::uid(set).to_owned(), set.generation.unwrap_or_default(), node.to_owned());
        let entry = failures.entry(key).or_insert((0, now));
        *entry = (entry.0 + 1, now);
    }
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(set) = controller.sets.get(&key) else {
        controller.expectations.forget(&key);
        controller.kept.forget(&key);
        return Ok(());
    };
    let Some(spec) = &set.spec else { return Ok(()) };
    let context = &controller.context;
    if labels::is_empty(&spec.selector) {
        let message = "This daemon set is selecting all pods. A non-empty selector is required.";
        context.warning(set.as_ref(), "SelectingAll", message);
        return Ok(());
    }
    let now = context.now();
    let pods_shown = controller.expectations.satisfied(&key, &controller.pods, now);
    if !pods_shown || !controller.kept.satisfied(&key, &controller.revisions, now) {
        let unseen = if pods_shown { ["apps", "controllerrevisions"] } else { ["", "pods"] };
        metrics::DAEMON_SETS_STALE.with(unseen).increment();
        controller.queue.add_after(key, LAG_CHECK);
        return Ok(());
    }
    let children =
        Children { context, owner: set.as_ref(), key: &key, expectations: &controller.expectations };
    let sync = Sync { controller: &controller, children };
    let Some(hash) = sync.revision().await? else { return Ok(()) };
    let Some(pods) = sync.claim().await? else { return Ok(()) };
    let nodes = controller.nodes.list();
    let retry = controller.retries(&set.metadata);
    let seen = Observed { set: &set, pods: &pods, nodes: &nodes, hash: &hash, retry: &retry };
    let decision = decide(&seen, now);
    if let Some(moment) = decision.next_check {
        controller.queue.add_after(key.clone(), clock::until(moment, now));
    }
    sync.apply(decision, &hash).await?;
    sync.forget_old(&pods).await
}

/// One reconcile's calls.
struct Sync<'a> {
    controller: &'a Controller,
    children: Children<'a, DaemonSet>,
}

impl Sync<'_> {
    fn set(&self) -> &DaemonSet {
        self.children.owner
    }

    fn keeper(&self) -> Keeper<'_> {
        Keeper { context: self.children.context, key: self.children.key, expectations: &self.controller.kept }
    }

    /// The hash of today's template, once that is in the history. `None` when another hash must be tried.
    async fn revision(&self) -> Result<Option<String>, Error> {
        let set = self.set();
        let Some(spec) = &set.spec else { return Ok(None) };
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let hash = history::hash_of(&spec.template, collisions);
        let mut labels =
            spec.template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        labels.insert(HASH_LABEL.to_owned(), hash.clone());
        let naming = Naming { hash, labels, annotations: set.metadata.annotations.clone() };
        let existing = history::of(&self.controller.revisions, owner::uid(&set.metadata));
        match self.keeper().keep(history::plan(set, &spec.template, &existing, naming)).await? {
            Kept::Stored(revision) => {
                Ok(labels::value(revision.metadata.labels.as_ref(), HASH_LABEL).map(str::to_owned))
            }
            Kept::Collision => {
                let mut status = set.status.clone().unwrap_or_default();
                status.collision_count = Some(collisions.unwrap_or_default() + 1);
                self.write_status(status).await?;
                Ok(None)
            }
        }
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
                Claim::Adopt => adopt.push(Target::of(&pod)),
                Claim::Release => release.push(Target::of(&pod)),
                Claim::Ignore => {}
            }
        }
        self.children.claim(&adopt, &release).await?;
        Ok((adopt.is_empty() && release.is_empty()).then_some(owned))
    }

    async fn apply(&self, decision: Decision, hash: &str) -> Result<(), Error> {
        let set = self.set();
        let key = self.children.key;
        for (type_, reason, message) in decision.events {
            self.children.context.event_about(&reference_of(set), type_, reason, message);
        }
        for node in &decision.failed_on {
            self.controller.note_failure(&set.metadata, node);
        }
        let gone = self.children.delete_all(&decision.delete).await;
        let template = daemon_template(set, hash);
        let prefix = names::prefix(&key.name);
        let reference = owner::controller_reference(set);
        let pod = |node: &String| {
            let name = names::generate(&prefix, self.children.context.names.as_ref());
            let mut pod =
                pods::from_template(&template, &key.namespace, Some(prefix.clone()), name, reference.clone());
            pin(pod.spec.get_or_insert_default(), node);
            pod
        };
        let made = self.children.create_all(decision.create.iter().map(pod)).await;
        if let Some(status) = decision.status {
            self.write_status(status).await?;
        }
        gone.and(made).map_err(Error::call("change pods of daemon set", key.to_string()))
    }

    async fn forget_old(&self, pods: &[Arc<Pod>]) -> Result<(), Error> {
        let set = self.set();
        let existing = history::of(&self.controller.revisions, owner::uid(&set.metadata));
        let hash = |meta: &ObjectMeta| labels::value(meta.labels.as_ref(), HASH_LABEL).map(str::to_owned);
        let used: Vec<_> = pods.iter().filter_map(|pod| hash(&pod.metadata)).collect();
        let newest = existing.last().map(|revision| revision.revision);
        let limit = set.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        let excess = history::excess(&existing, limit, |revision| {
            Some(revision.revision) == newest
                || hash(&revision.metadata).is_some_and(|hash| used.contains(&hash))
        });
        self.keeper().forget(&excess).await
    }

    async fn write_status(&self, status: DaemonSetStatus) -> Result<(), Error> {
        let key = self.children.key;
        let api: Api<DaemonSet> = Api::namespaced(self.children.context.client.clone(), &key.namespace);
        let updated = DaemonSet { status: Some(status), ..self.set().clone() };
        match api.replace_status(&key.name, &PostParams::default(), &updated).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(Error::call("update status of daemon set", key.to_string())(error)),
        }
    }
}
