//! The synchronous read view of the watch cache that authentication, authorisation and admission decide from.
//!
//! CORE implements [`ObjectSource`] over the store's in-memory state; everything here is level-triggered: a change is a
//! key, and whoever hears of it reads the newest object. [`Objects`] adds a cache of parsed objects for the small, hot
//! kinds (namespaces, service accounts, limit ranges...) so that the request path does not parse JSON again and again.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use serde_json::Value;

/// Hears of changes of one resource: called with namespace (empty for cluster scope) and name, after the change can
/// be seen through [`ObjectSource::get`]. It must not block and must not call the source.
pub type Observer = Box<dyn Fn(&str, &str) + Send + Sync>;

/// What the decisions of this crate read. Implemented over the store's in-memory state: no I/O, no waiting.
///
/// Objects are in the storage version's JSON form (`apiVersion` and `kind` present).
pub trait ObjectSource: Send + Sync {
    /// The newest state of one object. `namespace` is empty for cluster-scoped resources.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>>;

    /// All objects of a resource, in key order; of one namespace if one is given.
    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>>;

    /// Calls `observer` after each change of the resource from now on. A change made before `subscribe` returns may or may not
    /// be reported; a change whose write has been answered to its client has been reported before.
    fn subscribe(&self, group: &str, resource: &str, observer: Observer);
}

/// The resources whose parsed objects are kept: few, small, and read on the path of other requests.
const HOT: &[(&str, &str)] = &[
    ("", "namespaces"),
    ("", "serviceaccounts"),
    ("", "limitranges"),
    ("", "resourcequotas"),
    ("scheduling.k8s.io", "priorityclasses"),
    ("node.k8s.io", "runtimeclasses"),
    ("networking.k8s.io", "ingressclasses"),
    ("storage.k8s.io", "storageclasses"),
];

/// An [`ObjectSource`] whose reads of small, hot kinds do not parse again. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    source: Arc<dyn ObjectSource>,
    hot: Arc<Vec<Hot>>,
}

struct Hot {
    group: &'static str,
    resource: &'static str,
    cached: Arc<Cached>,
}

#[derive(Default)]
struct Cached {
    /// Raised by each change before the entries are dropped: a reader that began before stores nothing.
    version: AtomicU64,
    entries: RwLock<Entries>,
}

#[derive(Default)]
struct Entries {
    one: HashMap<(String, String), Option<Arc<Value>>, ahash::RandomState>,
    lists: HashMap<Option<String>, Arc<Vec<Arc<Value>>>, ahash::RandomState>,
}

/// Names asked for that do not exist are remembered too; this bounds what a client can make us remember.
const MAX_ENTRIES: usize = 65_536;

impl Cached {
    fn forget(&self, namespace: &str, name: &str) {
        self.version.fetch_add(1, Ordering::SeqCst);
        let mut entries = self.entries.write();
        entries.one.remove(&(namespace.to_owned(), name.to_owned()));
        entries.lists.remove(&None);
        entries.lists.remove(&Some(namespace.to_owned()));
    }
}

impl Objects {
    /// Wraps a source and subscribes to the hot kinds.
    pub fn new(source: Arc<dyn ObjectSource>) -> Self {
        let hot: Vec<Hot> = HOT
            .iter()
            .map(|&(group, resource)| {
                let cached = Arc::new(Cached::default());
                let told = Arc::clone(&cached);
                source.subscribe(
                    group,
                    resource,
                    Box::new(move |namespace, name| told.forget(namespace, name)),
                );
                Hot { group, resource, cached }
            })
            .collect();
        Objects { source, hot: Arc::new(hot) }
    }

    /// The newest state of one object.
    pub fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let Some(cached) = self.cached(group, resource) else {
            return self.source.get(group, resource, namespace, name);
        };
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(known) = cached.entries.read().one.get(&key) {
            return known.clone();
        }
        let version = cached.version.load(Ordering::SeqCst);
        let found = self.source.get(group, resource, namespace, name);
        let mut entries = cached.entries.write();
        if cached.version.load(Ordering::SeqCst) == version {
            if entries.one.len() >= MAX_ENTRIES {
                entries.one.clear();
            }
            entries.one.insert(key, found.clone());
        }
        found
    }

    /// All objects of a resource, in key order; of one namespace if one is given.
    pub fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Arc<Vec<Arc<Value>>> {
        let Some(cached) = self.cached(group, resource) else {
            return Arc::new(self.source.list(group, resource, namespace));
        };
        let key = namespace.map(str::to_owned);
        if let Some(known) = cached.entries.read().lists.get(&key) {
            return Arc::clone(known);
        }
        let version = cached.version.load(Ordering::SeqCst);
        let found = Arc::new(self.source.list(group, resource, namespace));
        let mut entries = cached.entries.write();
        if cached.version.load(Ordering::SeqCst) == version {
            if entries.lists.len() >= MAX_ENTRIES {
                entries.lists.clear();
            }
            entries.lists.insert(key, Arc::clone(&found));
        }
        found
    }

    /// The source itself, past the cache, for a read that must not be older than the store.
    pub fn source(&self) -> &dyn ObjectSource {
        &*self.source
    }

    /// See [`ObjectSource::subscribe`].
    pub fn subscribe(&self, group: &str, resource: &str, observer: Observer) {
        self.source.subscribe(group, resource, observer);
    }

    fn cached(&self, group: &str, resource: &str) -> Option<&Cached> {
        self.hot.iter().find(|hot| hot.resource == resource && hot.group == group).map(|hot| &*hot.cached)
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects").finish_non_exhaustive()
    }
}

/// Keys that changed and have not been looked at: what an index over the objects has yet to take in.
///
/// Observers only note the key; whoever needs the index next reads the objects. So a burst of changes costs its writers
/// next to nothing, and a decision never misses a change that was answered before it began.
pub(crate) struct Pending {
    any: AtomicBool,
    work: Mutex<Work>,
}

/// What has to be taken in.
pub(crate) enum Work {
    /// Everything, afresh.
    Reload,
    /// Of these the newest state: which followed resource (its place in the list given to [`Pending::follow`]), namespace, name.
    Keys(BTreeSet<(usize, String, String)>),
}

/// More keys than this and reading everything afresh costs less memory, and little more time.
const MAX_PENDING: usize = 20_000;

impl Pending {
    /// Follows these resources; at first everything is pending.
    pub(crate) fn follow(objects: &Objects, resources: &[(&str, &str)]) -> Arc<Self> {
        let pending = Arc::new(Pending { any: AtomicBool::new(true), work: Mutex::new(Work::Reload) });
        for (which, &(group, resource)) in resources.iter().enumerate() {
            let told = Arc::clone(&pending);
            objects.subscribe(
                group,
                resource,
                Box::new(move |namespace, name| told.note(which, namespace, name)),
            );
        }
        pending
    }

    fn note(&self, which: usize, namespace: &str, name: &str) {
        let mut work = self.work.lock();
        if let Work::Keys(keys) = &mut *work {
            keys.insert((which, namespace.to_owned(), name.to_owned()));
            if keys.len() > MAX_PENDING {
                *work = Work::Reload;
            }
        }
        self.any.store(true, Ordering::SeqCst);
    }

    /// Whether there is something to take in. One atomic load.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::SeqCst)
    }

    /// Takes the work. The caller holds its index's write lock from before until it is done, so that nobody
    /// who sees nothing pending can decide by the old index.
    pub(crate) fn take(&self) -> Work {
        let mut work = self.work.lock();
        self.any.store(false, Ordering::SeqCst);
        std::mem::replace(&mut *work, Work::Keys(BTreeSet::new()))
    }
}

/// The text at a JSON pointer, or empty.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items of the list at a JSON pointer; none if there is no list.
pub(crate) fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod memory;
