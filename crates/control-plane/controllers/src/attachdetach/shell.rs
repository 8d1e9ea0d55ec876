//! Watches pods, claims, volumes, attachments, nodes and drivers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use parking_lot::Mutex;
use podium_api::volumes::{claim_ref, volume_name};
use podium_client::metrics::gauges;
use podium_client::{
    Change, Informer, ObjectKey, SharedInformers, WorkQueue, is_already_exists, is_not_found, run_workers,
};
use serde_json::json;

use super::decide::{
    Attached, attaches, attachment, decide, multi_attach, needs_volumes, report, source, unique_name,
};
use crate::clock;
use crate::context::{Context, Error, LAG_CHECK, words};
use crate::expect::{Expectations, Expected};
use crate::metrics;
use crate::metrics::volumes::{FORCED_DETACHES, Operations};
use crate::nodes;
use crate::owner;
use crate::plugin_names;
use crate::pods;

/// Index of attachments by their volumes' names.
const BY_VOLUME: &str = "controllers/attachedVolume";
/// Index of attachments by their nodes.
const BY_ATTACHED_NODE: &str = "controllers/attachedNode";

const ATTACH: &str = "volume_attach";
const DETACH: &str = "volume_detach";

/// What is looked at, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Volume(String),
    /// What a node is told.
    Node(String),
}

fn volume_of(attachment: &VolumeAttachment) -> Option<&str> {
    attachment.spec.source.persistent_volume_name.as_deref()
}

/// Notes what a driver says about an attachment.
fn answered(operations: &Operations, attachment: &VolumeAttachment) {
    let Some(status) = &attachment.status else { return };
    let name = owner::name(&attachment.metadata);
    if status.attached || status.attach_error.is_some() {
        operations.tried(name, ATTACH, status.attached);
    }
    if status.detach_error.is_some() {
        operations.tried(name, DETACH, false);
    }
}

/// Runs the controller until shutdown.
pub(crate) async fn run(context: Context) {
    let caches = Caches::new(&context.informers);
    let queue = WorkQueue::new("attachdetach");
    caches.watch(&queue);
    let synced = [
        caches.pods.synced().boxed(),
        caches.claims.synced().boxed(),
        caches.volumes.synced().boxed(),
        caches.attachments.synced().boxed(),
        caches.nodes.synced().boxed(),
        caches.drivers.synced().boxed(),
    ];
    context.ready(synced).await;
    let of = caches.clone();
    let _telling = metrics::tell("attachdetach", move |out| of.tell(out));
    let controller = Arc::new(Controller {
        context: context.clone(),
        caches,
        queue: queue.clone(),
        unwanted: Mutex::default(),
        refused: Mutex::default(),
        expectations: Expectations::default(),
    });
    run_workers(queue, context.workers, context.shutdown.clone(), move |key| {
        reconcile(Arc::clone(&controller), key)
    })
    .await;
}

#[derive(Clone)]
struct Caches {
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    attachments: Informer<VolumeAttachment>,
    nodes: Informer<Node>,
    drivers: Informer<CSIDriver>,
    /// What drivers are asked for and have not done yet, by the names of attachments.
    operations: Arc<Operations>,
}

impl Caches {
    fn new(informers: &SharedInformers) -> Self {
        let caches = Self {
            pods: informers.of(),
            claims: informers.of(),
            volumes: informers.of(),
            attachments: informers.of(),
            nodes: informers.of(),
            drivers: informers.of(),
            operations: Arc::default(),
        };
        pods::index_by_claim(&caches.pods);
        caches.attachments.add_index(BY_VOLUME, |it| volume_of(it).map(str::to_owned).into_iter().collect());
        caches.attachments.add_index(BY_ATTACHED_NODE, |it| vec![it.spec.node_name.clone()]);
        caches
    }

    fn watch(&self, queue: &WorkQueue<Key>) {
        let (to, claims) = (queue.clone(), self.claims.clone());
        self.pods.on_event(move |change| {
            let of_pod = pods::claim_keys(change.object());
            let volumes = of_pod.iter().filter_map(|key| Some(volume_name(&*claims.get(key)?)?.to_owned()));
            volumes.for_each(|volume| to.add(Key::Volume(volume)));
        });
        let to = queue.clone();
        self.claims.on_event(move |change| {
            if let Some(volume) = volume_name(change.object()) {
                to.add(Key::Volume(volume.to_owned()));
            }
        });
        let to = queue.clone();
        self.volumes.on_event(move |change| {
            if source(change.object()).is_some() {
                to.add(Key::Volume(owner::name(&change.object().metadata).to_owned()));
            }
        });
        let (to, operations) = (queue.clone(), Arc::clone(&self.operations));
        self.attachments.on_event(move |change| {
            let attachment = change.object();
            match change {
                Change::Added(new) | Change::Modified { new, .. } => answered(&operations, new),
                Change::Deleted(gone) => {
                    let name = owner::name(&gone.metadata);
                    operations.tried(name, DETACH, true);
                    // It may have been given up before it was attached.
                    operations.forget(name);
                }
            }
            volume_of(attachment).into_iter().for_each(|volume| to.add(Key::Volume(volume.to_owned())));
            to.add(Key::Node(attachment.spec.node_name.clone()));
        });
        let (to, attachments) = (queue.clone(), self.attachments.clone());
        self.nodes.on_event(move |change| {
            let name = owner::name(&change.object().metadata);
            let used = |node: &Node| node.status.as_ref().and_then(|status| status.volumes_in_use.clone());
            let told = |node: &Node| node.status.as_ref().and_then(|status| status.volumes_attached.clone());
            if let Change::Modified { old, new } = change
                && used(old) == used(new)
                && told(old) == told(new)
                && old.metadata.annotations == new.metadata.annotations
                && nodes::taints(old) == nodes::taints(new)
                && nodes::is_ready(old) == nodes::is_ready(new)
            {
                return;
            }
            to.add(Key::Node(name.to_owned()));
            for attachment in attachments.by_index(BY_ATTACHED_NODE, name) {
                volume_of(&attachment).into_iter().for_each(|volume| to.add(Key::Volume(volume.to_owned())));
            }
        });
        let (to, volumes) = (queue.clone(), self.volumes.clone());
        self.drivers.on_event(move |change| {
            let driver = owner::name(&change.object().metadata);
            let of_driver =
                volumes.list().into_iter().filter(|volume| source(volume).is_some_and(|it| it.0 == driver));
            of_driver.for_each(|volume| to.add(Key::Volume(owner::name(&volume.metadata).to_owned())));
        });
    }

    /// The pods that need a volume, each on a node.
    fn users(&self, volume: &PersistentVolume) -> Vec<Arc<Pod>> {
        let Some((driver, _)) = source(volume) else { return Vec::new() };
        let reference = claim_ref(volume).cloned().unwrap_or_default();
        let key = ObjectKey::new(reference.namespace.unwrap_or_default(), reference.name.unwrap_or_default());
        let bound = self.claims.get(&key).filter(|claim| {
            claim.metadata.uid == reference.uid
                && volume_name(claim) == volume.metadata.name.as_deref()
                && claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
        });
        if bound.is_none() || !attaches(self.drivers.get(&ObjectKey::cluster(driver)).as_deref()) {
            return Vec::new();
        }
        let placed = |pod: &Arc<Pod>| {
            let node = pods::node_name(pod).and_then(|name| nodes::get(&self.nodes, name));
            node.is_some_and(|node| needs_volumes(pod, &node))
        };
        self.pods.by_index(pods::BY_CLAIM, &key.to_string()).into_iter().filter(placed).collect()
    }

    fn wanted(&self, volume: &PersistentVolume) -> BTreeSet<String> {
        self.users(volume).iter().filter_map(|pod| pods::node_name(pod).map(str::to_owned)).collect()
    }

    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get(&ObjectKey::cluster(name))
    }

    /// Writes what is wanted and what is so.
    fn tell(&self, out: &mut String) {
        let mut in_use: BTreeMap<[String; 2], f64> = BTreeMap::new();
        for pod in self.pods.list() {
            let (Some(node), Some(spec)) = (pods::node_name(&pod), &pod.spec) else { continue };
            for volume in spec.volumes.iter().flatten() {
                let claimed = volume.persistent_volume_claim.as_ref().and_then(|of| {
                    let key = ObjectKey::new(owner::namespace(&pod.metadata), of.claim_name.as_str());
                    let claim = self.claims.get(&key)?;
                    plugin_names::attaching(&*self.volume(volume_name(&claim)?)?)
                });
                if let Some(plugin) = claimed.or_else(|| plugin_names::attaching_inline(volume)) {
                    *in_use.entry([node.to_owned(), plugin]).or_default() += 1.0;
                }
            }
        }
        let help = "[ALPHA] Measure number of volumes in use";
        let labels = ["node", "volume_plugin"];
        gauges(out, "storage_count_attachable_volumes_in_use", help, labels, in_use);
        let mut total: BTreeMap<[String; 2], f64> = BTreeMap::new();
        for volume in self.volumes.list() {
            let Some((driver, _)) = source(&volume) else { continue };
            let plugin = plugin_names::of_driver(driver);
            for (state, count) in [
                ("desired_state_of_world", self.wanted(&volume).len()),
                ("actual_state_of_world", self.attachments_of(owner::name(&volume.metadata))),
            ] {
                if count > 0 {
                    *total.entry([plugin.clone(), state.to_owned()]).or_default() += count as f64;
                }
            }
        }
        let help = "[ALPHA] Number of volumes in A/D Controller";
        gauges(out, "attachdetach_controller_total_volumes", help, ["plugin_name", "state"], total);
    }

    /// To how many nodes a volume is attached.
    fn attachments_of(&self, volume: &str) -> usize {
        let attachments = self.attachments.by_index(BY_VOLUME, volume);
        attachments.iter().filter(|it| it.status.as_ref().is_some_and(|status| status.attached)).count()
    }
}

struct Controller {
    context: Context,
    caches: Caches,
    queue: WorkQueue<Key>,
    /// By volume: since when attachments that a node holds are unwanted, by name.
    unwanted: Mutex<HashMap<String, HashMap<String, Timestamp>>>,
    /// Pods that were told that another node has their volume, by uid and volume.
    refused: Mutex<BTreeSet<(String, String)>>,
    /// By volume: attachments made that the cache may not show. Whoever did not know of them would attach the volume a second
    /// time, elsewhere.
    expectations: Expectations,
}

async fn reconcile(controller: Arc<Controller>, key: Key) -> Result<(), Error> {
    match key {
        Key::Volume(name) => controller.volume(&name).await,
        Key::Node(name) => controller.tell_node(&name, false).await,
    }
}

impl Controller {
    fn api(&self) -> Api<VolumeAttachment> {
        Api::all(self.context.client.clone())
    }

    async fn volume(&self, name: &str) -> Result<(), Error> {
        let key = ObjectKey::cluster(name);
        let Some(volume) = self.caches.volume(name).filter(|volume| source(volume).is_some()) else {
            self.forget(name);
            return Ok(());
        };
        if !self.expectations.satisfied(&key, &self.caches.attachments, self.context.now()) {
            self.queue.add_after(Key::Volume(name.to_owned()), LAG_CHECK);
            return Ok(());
        }
        let users = self.caches.users(&volume);
        let wanted = users.iter().filter_map(|pod| pods::node_name(pod).map(str::to_owned)).collect();
        let attachments = self.caches.attachments.by_index(BY_VOLUME, name);
        let on: Vec<_> =
            attachments.iter().map(|it| nodes::get(&self.caches.nodes, &it.spec.node_name)).collect();
        let now = self.context.now();
        let needs = {
            let mut unwanted = self.unwanted.lock();
            let since = unwanted.remove(name).unwrap_or_default();
            let attached: Vec<_> = attachments
                .iter()
                .zip(&on)
                .map(|(object, node)| Attached {
                    object,
                    node: node.as_deref(),
                    unwanted_since: since.get(owner::name(&object.metadata)).copied(),
                })
                .collect();
            let needs = decide(&volume, &wanted, &attached, now);
            // Only of those there are: one that comes again under the same name has its own time.
            let held = needs.held.iter().map(|held| (held.clone(), since.get(held).copied().unwrap_or(now)));
            let held: HashMap<_, _> = held.collect();
            if !held.is_empty() {
                unwanted.insert(name.to_owned(), held);
            }
            needs
        };
        if let Some(again) = needs.again {
            self.queue.add_after(Key::Volume(name.to_owned()), clock::until(again, now));
        }
        let plugin = plugin_names::of_volume(&volume).unwrap_or_default();
        for (attachment, node) in needs.detach {
            // A kubelet that still reads that it is attached would mount it; and what the cache says it reads may be old.
            self.tell_node(&node, true).await?;
            let of_name = attachments.iter().find(|it| owner::name(&it.metadata) == attachment);
            let uid = of_name.and_then(|it| it.metadata.uid.clone());
            let params = DeleteParams::default().preconditions(Preconditions { uid, resource_version: None });
            self.caches.operations.forget(&attachment);
            self.caches.operations.begin(attachment.as_str(), &plugin, DETACH);
            match self.api().delete(&attachment, &params).await {
                Err(error) if !is_not_found(&error) => {
                    self.caches.operations.tried(&attachment, DETACH, false);
                    self.caches.operations.forget(&attachment);
                    return Err(Error::call("delete attachment", attachment)(error));
                }
                _ => {}
            }
        }
        for reason in needs.forced {
            FORCED_DETACHES.with([reason]).increment();
        }
        self.refuse(name, &users, &needs.refused);
        for node in needs.attach {
            self.attach(&volume, &node, &users).await?;
        }
        self.tell_failures(name, &attachments, &users);
        Ok(())
    }

    async fn attach(&self, volume: &PersistentVolume, node: &str, users: &[Arc<Pod>]) -> Result<(), Error> {
        let Some(new) = attachment(volume, node) else { return Ok(()) };
        let (of, now) = (ObjectKey::of(volume), self.context.now());
        let may = || Expected::MaybeCreated { key: ObjectKey::of(&new) };
        let (name, operations) = (owner::name(&new.metadata), &self.caches.operations);
        operations.begin(name, &plugin_names::of_volume(volume).unwrap_or_default(), ATTACH);
        match self.api().create(&PostParams::default(), &new).await {
            Ok(created) => {
                self.expectations.wrote(&of, &created, now);
                Ok(())
            }
            // The cache lags, and another node may be next in line: both wait until it shows the attachment, or for a while.
            Err(error) if is_already_exists(&error) => {
                self.expectations.note(&of, may(), now);
                Ok(())
            }
            Err(error) => {
                self.expectations.unanswered(&of, &error, may, now);
                operations.tried(name, ATTACH, false);
                operations.forget(name);
                let volume = owner::name(&volume.metadata);
                let message = format!("AttachVolume.Attach failed for volume {volume:?} : {}", words(&error));
                self.tell_pods(users, node, true, "FailedAttachVolume", &message);
                Err(Error::call("create attachment of", volume)(error))
            }
        }
    }

    /// Forgets a volume that is gone.
    fn forget(&self, volume: &str) {
        self.expectations.forget(&ObjectKey::cluster(volume));
        self.unwanted.lock().remove(volume);
        self.refused.lock().retain(|(_, of)| of != volume);
    }

    fn tell_pods(&self, users: &[Arc<Pod>], node: &str, warn: bool, reason: &str, message: &str) {
        for pod in users.iter().filter(|pod| pods::node_name(pod) == Some(node)) {
            match warn {
                true => self.context.warning(pod.as_ref(), reason, message),
                false => self.context.normal(pod.as_ref(), reason, message),
            }
        }
    }

    /// Tells pods once that another node has their volume.
    fn refuse(&self, volume: &str, users: &[Arc<Pod>], refused: &[String]) {
        let is_refused =
            |pod: &Pod| pods::node_name(pod).is_some_and(|node| refused.iter().any(|it| it == node));
        let (waiting, others): (Vec<_>, Vec<_>) =
            users.iter().map(AsRef::as_ref).partition(|pod| is_refused(pod));
        let mut told = self.refused.lock();
        let waits = |uid: &str| waiting.iter().any(|pod| owner::uid(&pod.metadata) == uid);
        told.retain(|(uid, of)| of != volume || waits(uid));
        for pod in waiting {
            if told.insert((owner::uid(&pod.metadata).to_owned(), volume.to_owned())) {
                self.context.warning(pod, "FailedAttachVolume", multi_attach(volume, pod, &others));
            }
        }
    }

    /// Tells pods what drivers say about attaching.
    fn tell_failures(&self, volume: &str, attachments: &[Arc<VolumeAttachment>], users: &[Arc<Pod>]) {
        for attachment in attachments {
            let status = attachment.status.clone().unwrap_or_default();
            let node = attachment.spec.node_name.as_str();
            if let Some(error) = status.attach_error.filter(|_| !status.attached) {
                let why = error.message.unwrap_or_default();
                let message = format!("AttachVolume.Attach failed for volume {volume:?} : {why}");
                self.tell_pods(users, node, true, "FailedAttachVolume", &message);
            }
        }
    }

    /// Writes what is attached into the node's status: for its kubelet, which mounts nothing else. `surely`: also where the cache
    /// says so already.
    async fn tell_node(&self, name: &str, surely: bool) -> Result<(), Error> {
        let Some(node) = nodes::get(&self.caches.nodes, name) else { return Ok(()) };
        let attachments = self.caches.attachments.by_index(BY_ATTACHED_NODE, name);
        let wanted =
            attachments.iter().filter(|it| it.metadata.deletion_timestamp.is_none()).filter_map(|it| {
                let volume = self.caches.volume(volume_of(it)?)?;
                let name_of_it = owner::name(&it.metadata);
                let unwanted = self.unwanted.lock();
                let held = unwanted.get(volume_of(it)?).is_some_and(|held| held.contains_key(name_of_it));
                drop(unwanted);
                let stays = held || self.caches.wanted(&volume).contains(name);
                stays.then(|| Some((unique_name(&volume)?, it.as_ref()))).flatten()
            });
        let report = report(&wanted.collect::<Vec<_>>());
        let told =
            node.status.as_ref().and_then(|status| status.volumes_attached.as_deref()).unwrap_or_default();
        let before = told.iter().map(|it| (it.name.clone(), it.device_path.clone())).collect();
        if report == before && !surely {
            return Ok(());
        }
        let list: Vec<_> =
            report.iter().map(|(name, path)| json!({"name": name, "devicePath": path})).collect();
        let patch = json!({"metadata": {"uid": node.metadata.uid}, "status": {"volumesAttached": list}});
        let api: Api<Node> = Api::all(self.context.client.clone());
        match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Err(error) if !is_not_found(&error) => {
                return Err(Error::call("update status of node", name)(error));
            }
            _ => {}
        }
        for attachment in &attachments {
            let Some(volume) = volume_of(attachment).and_then(|volume| self.caches.volume(volume)) else {
                continue;
            };
            let unique = unique_name(&volume).unwrap_or_default();
            if report.contains_key(&unique) && !before.contains_key(&unique) {
                let volume_name = owner::name(&volume.metadata);
                let message = format!("AttachVolume.Attach succeeded for volume {volume_name:?} ");
                self.tell_pods(&self.caches.users(&volume), name, false, "SuccessfulAttachVolume", &message);
            }
        }
        Ok(())
    }
}
