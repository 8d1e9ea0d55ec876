//! Metadata of any resource, from whatever follows that resource anyway.
//!
//! Controllers need the fields of some kinds, and a few controllers the metadata of all. A resource is listed, watched and kept
//! once for both: its metadata comes from the informer of its type if there is one, else from an informer that keeps nothing but
//! metadata. Either may be asked for first. When the informer of the type starts later it takes over from the other, whose watch
//! ends then; what its first list shows differently is told as changes, as after any break of a watch, and nothing else is told
//! again.
//!
//! Versions of one resource show the same objects, so the informer of a type serves whatever version is preferred, as long as its
//! own is served too.

#[cfg(test)]
mod tests;

use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::scan::Head;
use super::{InformerId, Latch, PartialObject, ResourcePath, Running, Scope, SharedInformers};
use crate::ObjectKey;

/// What happened to one object, for those who look at nothing but its metadata.
#[derive(Clone, Copy, Debug)]
pub enum MetadataChange<'a> {
    /// It appeared (or was there when the follower was added).
    Added(&'a ObjectMeta),
    /// It has another resourceVersion.
    Modified(&'a ObjectMeta),
    /// It is gone. Carries the last known state, which may be older than the one that was deleted.
    Deleted(&'a ObjectMeta),
}

impl<'a> MetadataChange<'a> {
    /// The newest state the change carries.
    pub fn metadata(&self) -> &'a ObjectMeta {
        match self {
            Self::Added(metadata) | Self::Modified(metadata) | Self::Deleted(metadata) => metadata,
        }
    }
}

pub(super) type MetadataHandler = Box<dyn Fn(&MetadataChange<'_>) + Send + Sync>;

/// Names a follower.
pub(super) type FollowerId = u64;

/// Where followers of a resource's metadata are told of it: a store, whatever its objects are.
pub(super) trait MetadataSource: Send + Sync {
    /// Tells `handler` what is there and every change to come. Gives it back when the followers have gone to another source.
    fn attach(&self, id: FollowerId, handler: MetadataHandler) -> Result<(), MetadataHandler>;
    /// Takes a follower's handler away. The caller drops it when it holds no lock: what it holds may be a follower itself.
    fn detach(&self, id: FollowerId) -> Option<MetadataHandler>;
    /// Fires `latch` as soon as everything has been listed.
    fn when_synced(&self, latch: Latch);
    /// Gives all followers away.
    fn hand_over(&self) -> Estate;
    /// Takes the followers of another source. From now on they are told what differs from what that one told them.
    fn inherit(&self, estate: Estate);
}

/// The last state of an object that followers were told.
pub(super) struct Told {
    pub(super) head: Head,
    /// Type and metadata.
    pub(super) bytes: Box<[u8]>,
}

/// What goes from one source to the next.
pub(super) struct Estate {
    pub(super) followers: BTreeMap<FollowerId, MetadataHandler>,
    pub(super) told: BTreeMap<ObjectKey, Told>,
    /// See [`MetadataSource::when_synced`].
    pub(super) waiting: Vec<Latch>,
}

/// Group and plural of a resource: all its versions.
type ResourceId = (String, String);

/// The informers that run, and who follows metadata.
///
/// Locked before any store, so handlers must not ask for informers.
#[derive(Default)]
pub(super) struct Registry {
    pub(super) informers: HashMap<InformerId, Running>,
    topics: HashMap<ResourceId, Topic>,
    /// See [`SharedInformers::cut_parts_from_wholes`].
    pub(super) cut_parts: bool,
    /// Resources of which an informer is measured.
    pub(super) measured: HashSet<ResourcePath>,
    last_follower: FollowerId,
}

/// A resource whose metadata is followed.
struct Topic {
    /// The informer that tells of it.
    from: InformerId,
    source: Arc<dyn MetadataSource>,
    /// The version that informer asks for.
    version: String,
    /// The versions that the server has, as far as was last heard.
    served: BTreeSet<String>,
    followers: BTreeSet<FollowerId>,
    synced: Latch,
}

impl Topic {
    fn is_served(&self) -> bool {
        self.served.contains(&self.version)
    }
}

impl InformerId {
    pub(super) fn keeps_only_metadata(&self) -> bool {
        self.type_ == TypeId::of::<PartialObject>()
    }
}

impl Registry {
    /// The informer of the whole resource in that version.
    pub(super) fn whole(&self, resource: &ResourcePath) -> Option<InformerId> {
        let all = self.informers.iter().filter(|(_, running)| running.resource == *resource);
        let whole = all.map(|(id, _)| id).filter(|id| id.scope == Scope::default());
        whole.min_by_key(|id| id.keeps_only_metadata()).cloned()
    }

    /// Has a new informer tell the followers of its resource, if it can do that better than the one that does, and feed its parts.
    pub(super) fn offer(&mut self, id: &InformerId) {
        self.move_parts(id);
        let Some(running) = self.informers.get(id) else { return };
        let Some(topic) = self.topics.get(&resource_id(&running.resource)) else { return };
        let better = topic.from.keeps_only_metadata() || !topic.is_served();
        if id.scope == Scope::default() && topic.served.contains(&running.resource.version) && better {
            self.switch(id);
        }
    }

    fn switch(&mut self, to: &InformerId) {
        let Some(next) = self.informers.get(to) else { return };
        let Some(topic) = self.topics.get_mut(&resource_id(&next.resource)) else { return };
        let source = next.source.clone();
        source.inherit(topic.source.hand_over());
        topic.version.clone_from(&next.resource.version);
        topic.source = source.clone();
        let from = std::mem::replace(&mut topic.from, to.clone());
        if let Some(ended) = self.end_if_unused(&from) {
            source.when_synced(ended.synced);
        }
    }

    /// Feeds the parts that were cut from an informer of metadata from one of the type.
    fn move_parts(&mut self, to: &InformerId) {
        let from = InformerId { type_: TypeId::of::<PartialObject>(), ..to.clone() };
        if to.keeps_only_metadata() {
            return;
        }
        let (Some(old), Some(new)) = (self.informers.get(&from), self.informers.get(to)) else { return };
        if let (Some(old), Some(new)) = (&old.fan, &new.fan) {
            new.adopt(old.take_parts());
        }
        if !self.topics.values().any(|topic| topic.from == from)
            && let Some(ended) = self.end_if_unused(&from)
        {
            self.informers[to].source.when_synced(ended.synced);
        }
    }

    /// Ends an informer that is there for followers only.
    fn end_if_unused(&mut self, id: &InformerId) -> Option<Running> {
        let has_parts = |running: &Running| running.fan.as_ref().is_some_and(|fan| fan.has_parts());
        if !id.keeps_only_metadata() || self.informers.get(id).is_some_and(has_parts) {
            return None;
        }
        let ended = self.informers.remove(id)?;
        ended.stop.cancel();
        Some(ended)
    }

    /// The informer of the resource's type, if one runs whose version is served.
    fn typed(&self, resource: &ResourceId, served: &BTreeSet<String>) -> Option<InformerId> {
        let fits = |(id, running): &(&InformerId, &Running)| {
            id.scope == Scope::default()
                && !id.keeps_only_metadata()
                && resource_id(&running.resource) == *resource
                && served.contains(&running.resource.version)
        };
        let found = self.informers.iter().filter(fits);
        found.map(|(id, _)| id).min_by(|a, b| a.path.cmp(&b.path)).cloned()
    }
}

fn resource_id(resource: &ResourcePath) -> ResourceId {
    (resource.group.clone(), resource.plural.clone())
}

impl SharedInformers {
    /// Calls `handler` for every change of a resource's metadata, in order; objects that are known already are told as
    /// [`MetadataChange::Added`] before this returns. Lists and watches the resource if nobody does yet.
    ///
    /// `served` are the versions that the server has, and `resource` names the one to use if nobody follows another of them.
    ///
    /// The handler must not block, nor ask for informers. It is told until the [`Follower`] is dropped or the informer ends. An
    /// object that does not make a value of its type is told of too, as long as its metadata can be read.
    #[must_use = "the handler goes with its follower"]
    pub fn follow_metadata(
        &self,
        resource: &ResourcePath,
        served: &[String],
        handler: impl Fn(&MetadataChange<'_>) + Send + Sync + 'static,
    ) -> Follower {
        let served = served.iter().chain([&resource.version]).cloned().collect();
        let (follower, mut source) = self.subscribe(resource, served);
        let mut handler: MetadataHandler = Box::new(handler);
        while let Err(returned) = source.attach(follower.id, handler) {
            // Another informer took over in between. The topic lasts as long as its followers.
            let Some(next) = self.source_of(&follower.resource) else { break };
            (source, handler) = (next, returned);
        }
        follower
    }

    fn subscribe(
        &self,
        resource: &ResourcePath,
        served: BTreeSet<String>,
    ) -> (Follower, Arc<dyn MetadataSource>) {
        let key = resource_id(resource);
        let mut registry = self.shared.registry.lock();
        registry.last_follower += 1;
        let id = registry.last_follower;
        let known = registry.topics.get_mut(&key).map(|topic| {
            topic.served.clone_from(&served);
            topic.is_served()
        });
        if known != Some(true) {
            let from =
                registry.typed(&key, &served).unwrap_or_else(|| self.start_metadata(&mut registry, resource));
            if known.is_none() {
                let running = &registry.informers[&from];
                let (source, synced) = (running.source.clone(), Latch::new());
                source.when_synced(synced.clone());
                let version = running.resource.version.clone();
                let topic = Topic { from, source, version, served, followers: BTreeSet::new(), synced };
                registry.topics.insert(key.clone(), topic);
            } else if registry.topics[&key].from != from {
                registry.switch(&from);
            }
        }
        let topic = registry.topics.get_mut(&key).expect("it was there or was put there");
        topic.followers.insert(id);
        let (synced, source) = (topic.synced.clone(), topic.source.clone());
        (Follower { informers: self.clone(), resource: key, id, synced }, source)
    }

    fn source_of(&self, resource: &ResourceId) -> Option<Arc<dyn MetadataSource>> {
        self.shared.registry.lock().topics.get(resource).map(|topic| topic.source.clone())
    }

    fn unfollow(&self, resource: &ResourceId, id: FollowerId) {
        let mut registry = self.shared.registry.lock();
        let Some(topic) = registry.topics.get_mut(resource) else { return };
        topic.followers.remove(&id);
        let handler = topic.source.detach(id);
        let ended = if topic.followers.is_empty() {
            let from = topic.from.clone();
            registry.topics.remove(resource);
            registry.end_if_unused(&from)
        } else {
            None
        };
        drop(registry);
        if let Some(ended) = &ended {
            // It will never be, and nobody is to wait for it.
            ended.synced.cancel();
        }
        drop((handler, ended));
    }
}

/// Someone who follows a resource's metadata, until this is dropped.
pub struct Follower {
    informers: SharedInformers,
    resource: ResourceId,
    id: FollowerId,
    synced: Latch,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Follower({}.{})", self.resource.1, self.resource.0)
    }
}

impl Follower {
    /// Waits until everything has been listed and told once. Forever, if it never comes: combine with shutdown.
    pub fn synced(&self) -> impl Future<Output = ()> + Send + use<> {
        self.synced.clone().cancelled_owned()
    }

    /// Whether everything has been listed and told once.
    pub fn is_synced(&self) -> bool {
        self.synced.is_cancelled()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.informers.unfollow(&self.resource, self.id);
    }
}
