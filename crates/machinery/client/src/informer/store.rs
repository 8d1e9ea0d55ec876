//! What one informer knows: objects as bytes, kept index values, and the handlers to tell.
//!
//! An object lives here as the JSON the server sent. A typed value costs about seven times as much
//! memory, so typed values are made when asked for and only the [`RECENT`] latest are kept.
//!
//! Two locks, always taken in this order: `handlers` is held while a change is applied and told, so
//! that every handler sees every change once and in order; `state` is held only to read or swap map
//! entries, never while parsing for readers or while calling handlers.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;

use super::scan::{self, EventKind, Head, ScanError, Scanned};
use super::{Change, Latch};
use crate::ObjectKey;

/// How many typed values one informer keeps. At some 15 KB for a typed pod this bounds a kind to
/// 8 MB, and clusters with fewer objects than this never parse one twice.
pub(super) const RECENT: usize = 512;

/// What a reflector feeds.
pub(super) trait Sink: Send + Sync {
    /// Replaces everything: `items` is the whole truth at `resource_version`.
    fn replace(&self, items: Vec<Bytes>, resource_version: &str);
    /// One watch event about one object; returns its resourceVersion when it has one.
    fn event(&self, kind: EventKind, object: &[u8]) -> Option<String>;
    /// Nothing changed up to this version.
    fn progress(&self, resource_version: &str);
    /// Nothing more will come.
    fn end(&self);
}

pub(super) type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

/// One object.
pub(super) struct Entry<K> {
    head: Head,
    bytes: Box<[u8]>,
    /// Present while the entry is among the recent ones.
    parsed: Mutex<Option<Arc<K>>>,
}

struct Slot<K> {
    entry: Arc<Entry<K>>,
    /// For each index, in order, the values this object has in it.
    indexed: Vec<Vec<Arc<str>>>,
}

struct Index<K> {
    name: &'static str,
    values: fn(&K) -> Vec<String>,
    keys: HashMap<Arc<str>, BTreeSet<Arc<ObjectKey>>, ahash::RandomState>,
}

struct State<K> {
    objects: BTreeMap<Arc<ObjectKey>, Slot<K>>,
    indexes: Vec<Index<K>>,
    resource_version: String,
}

/// The shared part of an [`super::Informer`].
pub(super) struct Store<K> {
    /// The kind's plural name, for logs.
    what: String,
    /// Keep only type and metadata of each object.
    metadata_only: bool,
    state: RwLock<State<K>>,
    handlers: Mutex<Vec<Handler<K>>>,
    recent: Mutex<VecDeque<Weak<Entry<K>>>>,
    synced: Latch,
}

impl<K: DeserializeOwned + Send + Sync + 'static> Store<K> {
    pub(super) fn new(what: &str, metadata_only: bool) -> Self {
        Self {
            what: what.to_owned(),
            metadata_only,
            state: RwLock::new(State {
                objects: BTreeMap::new(),
                indexes: Vec::new(),
                resource_version: String::new(),
            }),
            handlers: Mutex::new(Vec::new()),
            recent: Mutex::new(VecDeque::new()),
            synced: Latch::new(),
        }
    }

    pub(super) fn synced(&self) -> Latch {
        self.synced.clone()
    }

    pub(super) fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        let entry = self.state.read().objects.get(key).map(|slot| slot.entry.clone())?;
        self.value(&entry, true)
    }

    pub(super) fn contains(&self, key: &ObjectKey) -> bool {
        self.state.read().objects.contains_key(key)
    }

    pub(super) fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    pub(super) fn resource_version(&self) -> String {
        self.state.read().resource_version.clone()
    }

    pub(super) fn keys(&self) -> Vec<ObjectKey> {
        self.state.read().objects.keys().map(|key| (**key).clone()).collect()
    }

    pub(super) fn list(&self) -> Vec<Arc<K>> {
        let entries: Vec<_> = self.state.read().objects.values().map(|slot| slot.entry.clone()).collect();
        self.values(&entries)
    }

    pub(super) fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let first = ObjectKey::new(namespace, "");
        let entries: Vec<_> = self
            .state
            .read()
            .objects
            .range::<ObjectKey, _>(&first..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, slot)| slot.entry.clone())
            .collect();
        self.values(&entries)
    }

    pub(super) fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let entries: Vec<_> = {
            let state = self.state.read();
            state
                .index_keys(name, value)
                .into_iter()
                .flatten()
                .filter_map(|key| state.objects.get(key.as_ref()).map(|slot| slot.entry.clone()))
                .collect()
        };
        self.values(&entries)
    }

    pub(super) fn keys_by_index(&self, name: &str, value: &str) -> Vec<ObjectKey> {
        let state = self.state.read();
        state.index_keys(name, value).into_iter().flatten().map(|key| (**key).clone()).collect()
    }

    pub(super) fn add_index(&self, name: &'static str, values: fn(&K) -> Vec<String>) {
        let mut state = self.state.write();
        if state.indexes.iter().any(|index| index.name == name) {
            return;
        }
        let mut index = Index { name, values, keys: HashMap::default() };
        for (key, slot) in &mut state.objects {
            let kept = match self.value(&slot.entry, false) {
                Some(object) => index.add(key, &object),
                None => Vec::new(),
            };
            slot.indexed.push(kept);
        }
        state.indexes.push(index);
    }

    pub(super) fn on_event(&self, handler: Handler<K>) {
        let mut handlers = self.handlers.lock();
        for object in self.list() {
            self.call(&handler, &Change::Added(object));
        }
        handlers.push(handler);
    }

    /// A list keeps what it parses only when all of it fits: a scan must not drive out what is in use.
    fn values(&self, entries: &[Arc<Entry<K>>]) -> Vec<Arc<K>> {
        let keep = entries.len() <= RECENT / 2;
        entries.iter().filter_map(|entry| self.value(entry, keep)).collect()
    }

    /// The typed value of an entry; `None`, with a warning, when its bytes do not make one.
    fn value(&self, entry: &Arc<Entry<K>>, keep: bool) -> Option<Arc<K>> {
        if let Some(value) = entry.parsed.lock().clone() {
            return Some(value);
        }
        let value = Arc::new(self.parse(&entry.head, &entry.bytes)?);
        if keep {
            self.remember(entry, &value);
        }
        Some(value)
    }

    fn parse(&self, head: &Head, bytes: &[u8]) -> Option<K> {
        match serde_json::from_slice(bytes).or_else(|error| mended(bytes).unwrap_or(Err(error))) {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::warn!(
                    resource = %self.what, key = %head.key, resource_version = %head.resource_version, %error,
                    "object cannot be read and is left out"
                );
                None
            }
        }
    }

    fn remember(&self, entry: &Arc<Entry<K>>, value: &Arc<K>) {
        *entry.parsed.lock() = Some(value.clone());
        let pushed_out = {
            let mut recent = self.recent.lock();
            recent.push_back(Arc::downgrade(entry));
            if recent.len() > RECENT { recent.pop_front() } else { None }
        };
        if let Some(old) = pushed_out.and_then(|old| old.upgrade())
            && !Arc::ptr_eq(&old, entry)
        {
            *old.parsed.lock() = None;
        }
    }

    fn call(&self, handler: &Handler<K>, change: &Change<K>) {
        if catch_unwind(AssertUnwindSafe(|| handler(change))).is_err() {
            tracing::error!(resource = %self.what, "an informer handler panicked; the informer goes on");
        }
    }

    fn tell(&self, handlers: &[Handler<K>], change: &Change<K>) {
        for handler in handlers {
            self.call(handler, change);
        }
    }

    fn entry(&self, key: &ObjectKey) -> Option<Arc<Entry<K>>> {
        self.state.read().objects.get(key).map(|slot| slot.entry.clone())
    }

    /// Stores a new state of an object and tells the handlers. Same version again: nothing happens.
    fn upsert(&self, handlers: &[Handler<K>], object: Scanned<'_>) {
        let mut old = self.entry(&object.head.key);
        if old.as_ref().is_some_and(|known| known.head == object.head) {
            return;
        }
        let Some(bytes) = self.kept(&object) else { return };
        let head = object.head;
        // Another uid is another object of the same name: its predecessor was deleted unseen.
        if let Some(known) = old.take_if(|known| known.head.uid != head.uid) {
            self.remove(handlers, &known, None);
        }
        let mut parsed = if !handlers.is_empty() || !self.state.read().indexes.is_empty() {
            match self.parse(&head, &bytes) {
                Some(value) => Some(Arc::new(value)),
                None => return,
            }
        } else {
            None
        };
        let entry = Arc::new(Entry { head, bytes, parsed: Mutex::new(None) });
        if let Some(value) = &parsed {
            self.remember(&entry, value);
        }
        {
            let mut state = self.state.write();
            // An index may have been added since we looked.
            if parsed.is_none() && !state.indexes.is_empty() {
                parsed = self.value(&entry, true);
            }
            state.put(&entry, parsed.as_deref());
        }
        let Some(new) = parsed.filter(|_| !handlers.is_empty()) else { return };
        let before = old.as_ref().and_then(|old| self.value(old, false));
        let change = match before {
            Some(old) => Change::Modified { old, new },
            None => Change::Added(new),
        };
        self.tell(handlers, &change);
    }

    /// Forgets an object and tells the handlers its last state: `last` if it can be read, else the
    /// state that was kept.
    fn remove(&self, handlers: &[Handler<K>], known: &Arc<Entry<K>>, last: Option<&Scanned<'_>>) {
        self.state.write().take(&known.head.key);
        if handlers.is_empty() {
            return;
        }
        let last = last.and_then(|object| self.parse(&known.head, &self.kept(object)?)).map(Arc::new);
        if let Some(object) = last.or_else(|| self.value(known, false)) {
            self.tell(handlers, &Change::Deleted(object));
        }
    }

    /// What is kept of an object: no managed fields and, if asked for, [`Store::metadata_only`].
    fn kept(&self, object: &Scanned<'_>) -> Option<Box<[u8]>> {
        let bytes = object.without_managed_fields();
        if self.metadata_only {
            self.readable(scan::only_metadata(&bytes)).map(Into::into)
        } else {
            Some(bytes.into())
        }
    }

    /// A bad object is a warning and `None`.
    fn readable<T>(&self, scanned: Result<T, ScanError>) -> Option<T> {
        scanned
            .inspect_err(|error| {
                tracing::warn!(resource = %self.what, error = %crate::error_chain(error), "object without readable metadata is left out");
            })
            .ok()
    }
}

/// Reads an object again whose conditions lack what their Go type fills with its zero value and ours demands. `None` if
/// that is not what is wrong with it.
fn mended<K: DeserializeOwned>(bytes: &[u8]) -> Option<Result<K, serde_json::Error>> {
    let mut object: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let conditions = object.get_mut("status")?.get_mut("conditions")?.as_array_mut()?;
    for condition in conditions.iter_mut().filter_map(serde_json::Value::as_object_mut) {
        for (field, zero) in [
            ("lastTransitionTime", "1970-01-01T00:00:00Z"),
            ("type", ""),
            ("status", ""),
            ("reason", ""),
            ("message", ""),
        ] {
            let value = condition.entry(field).or_insert(serde_json::Value::Null);
            if value.is_null() {
                *value = zero.into();
            }
        }
    }
    Some(serde_json::from_value(object))
}

impl<K: DeserializeOwned + Send + Sync + 'static> Sink for Store<K> {
    fn replace(&self, items: Vec<Bytes>, resource_version: &str) {
        let handlers = self.handlers.lock();
        let mut listed = BTreeSet::new();
        for bytes in items {
            let Some(object) = self.readable(scan::object(&bytes)) else { continue };
            listed.insert(object.head.key.clone());
            self.upsert(&handlers, object);
        }
        let vanished: Vec<Arc<Entry<K>>> = {
            let state = self.state.read();
            let gone = state.objects.iter().filter(|(key, _)| !listed.contains(key.as_ref()));
            gone.map(|(_, slot)| slot.entry.clone()).collect()
        };
        for entry in vanished {
            self.remove(&handlers, &entry, None);
        }
        self.progress(resource_version);
        self.synced.cancel();
    }

    fn event(&self, kind: EventKind, object: &[u8]) -> Option<String> {
        let object = self.readable(scan::object(object))?;
        let version = object.head.resource_version.to_string();
        let handlers = self.handlers.lock();
        let known = self.entry(&object.head.key);
        // A resumed watch may repeat what is known already, but never goes back in time.
        let stale = known
            .as_ref()
            .is_some_and(|known| older(&object.head.resource_version, &known.head.resource_version));
        if !stale {
            match (kind, known) {
                (EventKind::Added | EventKind::Modified, _) => self.upsert(&handlers, object),
                (EventKind::Deleted, Some(known)) => self.remove(&handlers, &known, Some(&object)),
                (EventKind::Deleted | EventKind::Bookmark | EventKind::Error, _) => {}
            }
        }
        self.progress(&version);
        Some(version)
    }

    fn progress(&self, resource_version: &str) {
        if !resource_version.is_empty() {
            self.state.write().resource_version = resource_version.to_owned();
        }
    }

    fn end(&self) {
        // Handlers mostly hold their controller, which holds its informers: in a circle they would stay for ever. What
        // they hold may be the last of other informers, so they go when the lock is free.
        let handlers = std::mem::take(&mut *self.handlers.lock());
        drop(handlers);
    }
}

/// Whether version `a` is before `b`; versions that are not numbers are never older.
fn older(a: &str, b: &str) -> bool {
    matches!((a.parse::<u64>(), b.parse::<u64>()), (Ok(a), Ok(b)) if a < b)
}

impl<K> State<K> {
    fn index_keys(&self, name: &str, value: &str) -> Option<&BTreeSet<Arc<ObjectKey>>> {
        self.indexes.iter().find(|index| index.name == name)?.keys.get(value)
    }

    /// Puts an entry in, with its index values. `value` is present whenever there are indexes.
    fn put(&mut self, entry: &Arc<Entry<K>>, value: Option<&K>) {
        self.take(&entry.head.key);
        let key = Arc::new(entry.head.key.clone());
        let indexed = match value {
            Some(value) => self.indexes.iter_mut().map(|index| index.add(&key, value)).collect(),
            None => self.indexes.iter().map(|_| Vec::new()).collect(),
        };
        self.objects.insert(key, Slot { entry: entry.clone(), indexed });
    }

    fn take(&mut self, key: &ObjectKey) {
        let Some(slot) = self.objects.remove(key) else { return };
        for (index, values) in self.indexes.iter_mut().zip(&slot.indexed) {
            index.remove(key, values);
        }
    }
}

impl<K> Index<K> {
    fn add(&mut self, key: &Arc<ObjectKey>, object: &K) -> Vec<Arc<str>> {
        let mut kept = Vec::new();
        for value in (self.values)(object) {
            let value: Arc<str> = match self.keys.get_key_value(value.as_str()) {
                Some((value, _)) => value.clone(),
                None => value.into(),
            };
            if self.keys.entry(value.clone()).or_default().insert(key.clone()) {
                kept.push(value);
            }
        }
        kept
    }

    fn remove(&mut self, key: &ObjectKey, values: &[Arc<str>]) {
        for value in values {
            if let Some(keys) = self.keys.get_mut(value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;

    use super::*;

    #[test]
    fn a_condition_without_its_time_hides_no_object() {
        let text = br#"{"metadata":{"name":"a"},"status":{"conditions":[{"type":"T","status":"True"}]}}"#;
        assert!(serde_json::from_slice::<Service>(text).is_err());
        let service: Service = mended(text).unwrap().unwrap();
        assert_eq!(service.status.unwrap().conditions.unwrap()[0].type_, "T");
        assert!(mended::<Service>(br#"{"metadata":{"name":1}}"#).is_none());
        assert!(
            mended::<Service>(br#"{"metadata":{"name":1},"status":{"conditions":[]}}"#).unwrap().is_err()
        );
    }
}
