//! Shared informers: a local, always current copy of what the API has, one per kind and process.
//!
//! Controllers read from an [`Informer`] and are told of changes; they never list or watch themselves.
//! Six modules: `reflector` talks to the server, `store` keeps the objects and tells handlers, `metadata`
//! finds the store that tells of a resource's metadata, `parts` feeds several stores from one watch,
//! `scan` cuts list bodies and watch lines apart, `measured` counts.
//! Handlers run synchronously in the order of the changes: typically they add a key to a
//! [`crate::WorkQueue`] and return.

mod measured;
mod metadata;
mod parts;
mod reflector;
mod scan;
mod store;
#[cfg(test)]
mod tests;

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;

use self::measured::Measured;
pub use self::metadata::{Follower, MetadataChange};
use self::metadata::{MetadataSource, Registry};
use self::parts::{Fan, Selection};
use self::reflector::Reflector;
use self::scan::EventKind;
use self::store::{Sink, Store};
use crate::metrics::informers::Numbers;
use crate::{Object, ObjectKey, Shutdown};

/// Something that happens once and stays so. Unlike a watch channel it wakes its waiters in the order in which they came, so
/// that a simulation can replay.
type Latch = tokio_util::sync::CancellationToken;

/// Part of a kind's objects, as the server selects them. The default is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only what this label selector selects.
    pub labels: Option<String>,
    /// Only what this field selector selects, such as `spec.nodeName=n1`.
    pub fields: Option<String>,
}

/// A resource that is named at run time, for parts that treat all kinds alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourcePath {
    /// API group; empty for the core group.
    pub group: String,
    /// A served version.
    pub version: String,
    /// The plural name, as in the URL.
    pub plural: String,
}

impl ResourcePath {
    /// The URL path of the collection over all namespaces, such as `/apis/apps/v1/deployments`.
    pub fn collection(&self) -> String {
        collection(&self.group, &self.version, &self.plural, None)
    }
}

/// What is read of any object.
#[derive(Deserialize)]
struct PartialObject {
    #[serde(default)]
    metadata: ObjectMeta,
}

/// What happened to one object.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// It appeared (or was there when the handler was added).
    Added(Arc<K>),
    /// It has another resourceVersion.
    Modified {
        /// The last state that was told.
        old: Arc<K>,
        /// The state now.
        new: Arc<K>,
    },
    /// It is gone. Carries the last known state, which may be older than the one that was deleted.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The newest state the change carries.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Deleted(object) | Self::Modified { new: object, .. } => object,
        }
    }
}

/// The informers of a process: the first to ask for a kind starts its list and watch, everyone after
/// shares it. Cheap to clone.
#[derive(Clone)]
pub struct SharedInformers {
    shared: Arc<Shared>,
}

struct Shared {
    /// What metrics call these informers; without it they are not measured.
    name: Option<&'static str>,
    client: Client,
    shutdown: Shutdown,
    runtime: tokio::runtime::Handle,
    tasks: TaskTracker,
    registry: Mutex<Registry>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct InformerId {
    type_: TypeId,
    path: String,
    scope: Scope,
}

struct Running {
    /// An `Informer<K>` of the id's type.
    informer: Box<dyn Any + Send>,
    /// The same informer's store.
    source: Arc<dyn MetadataSource>,
    resource: ResourcePath,
    /// What its own list and watch feed; none if it is a part of another's.
    fan: Option<Arc<Fan>>,
    synced: Latch,
    stop: Shutdown,
}

impl fmt::Debug for SharedInformers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedInformers")
            .field("informers", &self.shared.registry.lock().informers.len())
            .finish()
    }
}

impl SharedInformers {
    /// No informer yet; each starts when first asked for and stops with `shutdown`.
    ///
    /// Must be called within a tokio runtime: the tasks run on it.
    pub fn new(client: Client, shutdown: Shutdown) -> Self {
        Self::make(None, client, shutdown)
    }

    /// As [`SharedInformers::new`], and `informer_*` metrics tell of them under that name: of the first informer of each
    /// version of a resource, those that keep only metadata aside. As upstream, where the informers of metadata have no name.
    pub fn named(name: &'static str, client: Client, shutdown: Shutdown) -> Self {
        Self::make(Some(name), client, shutdown)
    }

    fn make(name: Option<&'static str>, client: Client, shutdown: Shutdown) -> Self {
        let shared = Shared {
            name,
            client,
            shutdown,
            runtime: tokio::runtime::Handle::current(),
            tasks: TaskTracker::new(),
            registry: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The informer of a kind over all namespaces, started on first use.
    pub fn of<K: Object>(&self) -> Informer<K> {
        self.scoped(Scope::default())
    }

    /// The informer of a part of a kind, started on first use of that part.
    pub fn scoped<K: Object>(&self, scope: Scope) -> Informer<K> {
        let resource = ResourcePath {
            group: K::group(&()).into_owned(),
            version: K::version(&()).into_owned(),
            plural: K::plural(&()).into_owned(),
        };
        let make = |path: &str| Store::new(path, K::metadata_api(), Some(<K as kube::Resource>::meta));
        let mut registry = self.shared.registry.lock();
        match Selection::of(&scope).filter(|_| registry.cut_parts) {
            Some(selection) => self.cut(&mut registry, &resource, scope, selection, make),
            None => self.start(&mut registry, &resource, scope, make).1,
        }
    }

    /// Has parts of a resource that are chosen by namespace and name and are asked for from now on come from one list and watch of the
    /// whole, of which nothing but metadata is kept if nobody needs more. For processes that follow the metadata of most
    /// resources anyway; without this a part has a list and watch of its own, and the server sends no more than the part.
    pub fn cut_parts_from_wholes(&self) {
        self.shared.registry.lock().cut_parts = true;
    }

    /// Starts to follow nothing but the metadata of a resource.
    fn start_metadata(&self, registry: &mut Registry, resource: &ResourcePath) -> InformerId {
        let make = |path: &str| Store::new(path, true, Some(|object: &PartialObject| &object.metadata));
        self.start(registry, resource, Scope::default(), make).0
    }

    /// Waits until every informer asked for so far has listed, or shutdown.
    pub async fn synced(&self) {
        let waiting: Vec<_> =
            self.shared.registry.lock().informers.values().map(|running| running.synced.clone()).collect();
        let all = async {
            for synced in waiting {
                synced.cancelled().await;
            }
        };
        self.shared.shutdown.run_until_cancelled(all).await;
    }

    /// After shutdown: waits until all tasks have ended.
    pub async fn stopped(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    fn start<K>(
        &self,
        registry: &mut Registry,
        resource: &ResourcePath,
        scope: Scope,
        make: impl FnOnce(&str) -> Store<K>,
    ) -> (InformerId, Informer<K>)
    where
        K: DeserializeOwned + Send + Sync + 'static,
    {
        let id = InformerId::new::<K>(resource, scope);
        if let Some(running) = registry.informers.get(&id) {
            return (id, running.informer());
        }
        let store = Arc::new(make(&id.path));
        let fan = Arc::new(Fan::new(store.clone()));
        let running = Running {
            fan: Some(fan.clone()),
            ..Running::new(&store, resource, self.shared.shutdown.child_token())
        };
        let reflector = Reflector {
            client: self.shared.client.clone(),
            path: id.path.clone(),
            scope: id.scope.clone(),
            again: fan.again(),
            shutdown: running.stop.clone(),
        };
        let measured = match self.shared.name {
            Some(name) if !id.keeps_only_metadata() && registry.measured.insert(resource.clone()) => {
                Some(Numbers::of(name, resource))
            }
            _ => None,
        };
        registry.informers.insert(id.clone(), running);
        // Before the first request: its list must be newer than all that the informer before it was told.
        registry.offer(&id);
        let fed = Fed(match measured {
            Some(numbers) => Arc::new(Measured { sink: fan, numbers }),
            None => fan,
        });
        self.shared.tasks.spawn_on(async move { reflector.run(&*fed.0).await }, &self.shared.runtime);
        (id, Informer { store })
    }

    /// Takes a part of a resource from the informer of the whole.
    fn cut<K>(
        &self,
        registry: &mut Registry,
        resource: &ResourcePath,
        scope: Scope,
        selection: Selection,
        make: impl FnOnce(&str) -> Store<K>,
    ) -> Informer<K>
    where
        K: DeserializeOwned + Send + Sync + 'static,
    {
        let id = InformerId::new::<K>(resource, scope);
        if let Some(running) = registry.informers.get(&id) {
            return running.informer();
        }
        let store = Arc::new(make(&id.path));
        let whole = registry.whole(resource).unwrap_or_else(|| self.start_metadata(registry, resource));
        if let Some(fan) = &registry.informers[&whole].fan {
            fan.add(selection, store.clone());
        }
        registry.informers.insert(id, Running::new(&store, resource, self.shared.shutdown.child_token()));
        Informer { store }
    }
}

impl InformerId {
    fn new<K: 'static>(resource: &ResourcePath, scope: Scope) -> Self {
        let ResourcePath { group, version, plural } = resource;
        let path = collection(group, version, plural, scope.namespace.as_deref());
        Self { type_: TypeId::of::<K>(), path, scope }
    }
}

impl Running {
    fn new<K>(store: &Arc<Store<K>>, resource: &ResourcePath, stop: Shutdown) -> Self
    where
        K: DeserializeOwned + Send + Sync + 'static,
    {
        Self {
            informer: Box::new(Informer { store: store.clone() }),
            source: store.clone(),
            resource: resource.clone(),
            fan: None,
            synced: store.synced(),
            stop,
        }
    }

    fn informer<K: 'static>(&self) -> Informer<K> {
        self.informer.downcast_ref::<Informer<K>>().expect("the id holds the type of the informer").clone()
    }
}

/// A sink that is told its end, however its task ends.
struct Fed(Arc<dyn Sink>);

impl Drop for Fed {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn collection(group: &str, version: &str, plural: &str, namespace: Option<&str>) -> String {
    let base = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    match namespace {
        Some(namespace) => format!("{base}/namespaces/{namespace}/{plural}"),
        None => format!("{base}/{plural}"),
    }
}

/// Reads one shared copy. Cheap to clone.
///
/// Objects are parsed when asked for and a few hundred are kept parsed, so `get` of a recent object
/// and the key methods are cheap, while `list` over many thousands is not: use an index.
pub struct Informer<K> {
    store: Arc<Store<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone() }
    }
}

impl<K> fmt::Debug for Informer<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Informer<{}>", std::any::type_name::<K>())
    }
}

impl<K: DeserializeOwned + Send + Sync + 'static> Informer<K> {
    /// The object of that key.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.store.get(key)
    }

    /// Whether the object exists. Parses nothing.
    pub fn contains(&self, key: &ObjectKey) -> bool {
        self.store.contains(key)
    }

    /// The keys of all objects, ordered. Parses nothing.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.store.keys()
    }

    /// All objects, ordered by key.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.store.list()
    }

    /// All objects of a namespace, ordered by name.
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.store.list_namespace(namespace)
    }

    /// Adds an index: `values` names the values an object is found under. Does nothing when an index
    /// of that name exists already. May be called before or after objects arrive.
    pub fn add_index(&self, name: &'static str, values: fn(&K) -> Vec<String>) {
        self.store.add_index(name, values);
    }

    /// The objects under a value of an index, ordered by key; none when there is no such index.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        self.store.by_index(name, value)
    }

    /// Like [`Informer::by_index`], keys only. Parses nothing.
    pub fn keys_by_index(&self, name: &str, value: &str) -> Vec<ObjectKey> {
        self.store.keys_by_index(name, value)
    }

    /// Calls `handler` for every change, in order, on the informer's own task; objects that are there
    /// already are told as [`Change::Added`] before this returns.
    ///
    /// The handler must not block, ask for informers, nor call `on_event` of the same informer. The store
    /// already has the new state when it is called. It is dropped when the informer ends.
    pub fn on_event(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.store.on_event(Box::new(handler));
    }

    /// Waits until the first list is in and told. Forever, if it never comes: combine with shutdown.
    pub async fn synced(&self) {
        self.store.synced().cancelled().await;
    }

    /// Whether the first list is in.
    pub fn is_synced(&self) -> bool {
        self.store.synced().is_cancelled()
    }

    /// The number of objects.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The newest resourceVersion seen, bookmarks included; empty before the first list.
    pub fn resource_version(&self) -> String {
        self.store.resource_version()
    }

    /// An informer without a server, filled by hand: for tests, benches and simulations. It is
    /// synced from the start.
    pub fn by_hand() -> (Self, Feed<K>) {
        let store = Arc::new(Store::new("objects fed by hand", false, None));
        store.replace(Vec::new(), "");
        (Self { store: store.clone() }, Feed { store })
    }
}

/// Fills an informer made by [`Informer::by_hand`].
pub struct Feed<K> {
    store: Arc<Store<K>>,
}

impl<K> fmt::Debug for Feed<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Feed<{}>", std::any::type_name::<K>())
    }
}

impl<K: Serialize + DeserializeOwned + Send + Sync + 'static> Feed<K> {
    /// Adds the object, or replaces the one of the same name. Without a new resourceVersion nothing changes.
    pub fn put(&self, object: &K) {
        self.send(EventKind::Modified, object);
    }

    /// Deletes the object of that name.
    pub fn delete(&self, object: &K) {
        self.send(EventKind::Deleted, object);
    }

    fn send(&self, kind: EventKind, object: &K) {
        let bytes = serde_json::to_vec(object).expect("API types serialise");
        self.store.event(kind, &bytes);
    }
}
