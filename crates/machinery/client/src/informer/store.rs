//! What one informer knows: objects as bytes, kept index values, and the handlers to tell.
//!
//! An object lives here as the JSON the server sent. A typed value costs about seven times as much
//! memory, so typed values are made when asked for and only the [`RECENT`] latest are kept.
//!
//! Two locks, always taken in this order: `listeners` is held while a change is applied and told, so
//! that every handler sees every change once and in order; `state` is held only to read or swap map
//! entries, never while parsing for readers or while calling handlers.
//!
//! Handlers are told objects or their metadata. The two differ in what they know only where a state is
//! set aside: it does not make a value of the type, or another source told it (see `metadata`).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;

use super::metadata::{Estate, FollowerId, MetadataHandler, MetadataSource, Told};
use super::scan::{self, EventKind, Head, ScanError, Scanned};
use super::{Change, Latch, MetadataChange, PartialObject};
use crate::ObjectKey;

/// How many typed values one informer keeps. At some 15 KB for a typed pod this bounds a kind to
/// 8 MB, and clusters with fewer objects than this never parse one twice.
pub(super) const RECENT: usize = 512;

/// What a reflector feeds.
pub(super) trait Sink: Send + Sync {
    /// A list is about to be asked for.
    fn begin(&self) {}
    /// Whether the server need not send more than type and metadata.
    fn metadata_only(&self) -> bool;
    /// What there is to keep of a listed object until all are there.
    fn condensed(&self, item: Bytes) -> Bytes {
        item
    }
    /// So many watch lines have arrived and were not told yet.
    fn queued(&self, _lines: usize) {}
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

struct Listeners<K> {
    objects: Vec<Handler<K>>,
    metadata: BTreeMap<FollowerId, MetadataHandler>,
    /// The last state of objects that was told of their metadata, where it is not the state that is kept.
    aside: BTreeMap<ObjectKey, Told>,
    /// Fired by the first list.
    waiting: Vec<Latch>,
    /// Whether those who follow metadata were given away.
    handed_over: bool,
    ended: bool,
}

impl<K> Default for Listeners<K> {
    fn default() -> Self {
        Self {
            objects: Vec::new(),
            metadata: BTreeMap::new(),
            aside: BTreeMap::new(),
            waiting: Vec::new(),
            handed_over: false,
            ended: false,
        }
    }
}

/// The shared part of an [`super::Informer`].
pub(super) struct Store<K> {
    /// The kind's plural name, for logs.
    what: String,
    /// Keep only type and metadata of each object.
    metadata_only: bool,
    /// Spares reading the metadata of what is parsed anyway.
    metadata_of: Option<fn(&K) -> &ObjectMeta>,
    state: RwLock<State<K>>,
    listeners: Mutex<Listeners<K>>,
    recent: Mutex<VecDeque<Weak<Entry<K>>>>,
    synced: Latch,
}

impl<K: DeserializeOwned + Send + Sync + 'static> Store<K> {
    pub(super) fn new(what: &str, metadata_only: bool, metadata_of: Option<fn(&K) -> &ObjectMeta>) -> Self {
        Self {
            what: what.to_owned(),
            metadata_only,
            metadata_of,
            state: RwLock::new(State {
                objects: BTreeMap::new(),
                indexes: Vec::new(),
                resource_version: String::new(),
            }),
            listeners: Mutex::default(),
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
        let mut listeners = self.listeners.lock();
        if listeners.ended {
            return;
        }
        for change in self.list().into_iter().map(Change::Added) {
            self.guarded(|| handler(&change));
        }
        listeners.objects.push(handler);
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

    fn guarded(&self, call: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(call)).is_err() {
            tracing::error!(resource = %self.what, "an informer handler panicked; the informer goes on");
        }
    }

    fn tell(
        &self,
        listeners: &Listeners<K>,
        objects: Option<&Change<K>>,
        metadata: Option<&MetadataChange<'_>>,
    ) {
        if let Some(change) = objects {
            listeners.objects.iter().for_each(|handler| self.guarded(|| handler(change)));
        }
        if let Some(change) = metadata {
            listeners.metadata.values().for_each(|handler| self.guarded(|| handler(change)));
        }
    }

    fn entry(&self, key: &ObjectKey) -> Option<Arc<Entry<K>>> {
        self.state.read().objects.get(key).map(|slot| slot.entry.clone())
    }

    /// Stores a new state of an object and tells the handlers. Same version again: nothing happens.
    fn upsert(&self, listeners: &mut Listeners<K>, object: Scanned<'_>) {
        let mut old = self.entry(&object.head.key);
        let aside = listeners.aside.get(&object.head.key).map(|told| &told.head);
        if aside.is_none() && old.as_ref().is_some_and(|known| known.head == object.head) {
            return;
        }
        let Some(bytes) = self.kept(&object) else { return };
        let known = aside.or(old.as_ref().map(|known| &known.head));
        // Another uid is another object of the same name: its predecessor was deleted unseen.
        if known.is_some_and(|known| known.uid != object.head.uid) {
            self.remove(listeners, &object.head.key, None);
            old = None;
        }
        let head = object.head;
        let mut parsed = if !listeners.objects.is_empty() || !self.state.read().indexes.is_empty() {
            match self.parse(&head, &bytes) {
                Some(value) => Some(Arc::new(value)),
                None => return self.set_aside(listeners, head, &bytes),
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
        let told = listeners.aside.remove(&entry.head.key);
        let change = parsed.clone().filter(|_| !listeners.objects.is_empty()).map(|new| {
            match old.as_ref().and_then(|old| self.value(old, false)) {
                Some(old) => Change::Modified { old, new },
                None => Change::Added(new),
            }
        });
        let told = told.as_ref().map(|told| &told.head).or(old.as_ref().map(|old| &old.head));
        let metadata = self.metadata(listeners, parsed.as_deref(), &entry.bytes);
        let metadata = metadata.as_deref().and_then(|new| news(told, &entry.head, new));
        self.tell(listeners, change.as_ref(), metadata.as_ref());
    }

    /// Tells those who follow metadata of a state that is of no use to anybody else.
    fn set_aside(&self, listeners: &mut Listeners<K>, head: Head, bytes: &[u8]) {
        let Some(new) = self.read_metadata(bytes) else { return };
        let Some(bytes) = self.readable(scan::only_metadata(bytes)) else { return };
        let old = self.entry(&head.key);
        let aside = listeners.aside.get(&head.key).map(|told| &told.head);
        let change = news(aside.or(old.as_ref().map(|old| &old.head)), &head, &new);
        self.tell(listeners, None, change.as_ref());
        listeners.aside.insert(head.key.clone(), Told { head, bytes: bytes.into() });
    }

    /// The metadata of a state; `None` if nobody follows it.
    fn metadata<'a>(
        &self,
        listeners: &Listeners<K>,
        parsed: Option<&'a K>,
        bytes: &[u8],
    ) -> Option<Cow<'a, ObjectMeta>> {
        if listeners.metadata.is_empty() {
            return None;
        }
        match (parsed, self.metadata_of) {
            (Some(parsed), Some(metadata_of)) => Some(Cow::Borrowed(metadata_of(parsed))),
            _ => self.read_metadata(bytes).map(Cow::Owned),
        }
    }

    /// The metadata in an object's bytes; `None`, with a warning, when it is none.
    fn read_metadata(&self, bytes: &[u8]) -> Option<ObjectMeta> {
        let read = serde_json::from_slice::<PartialObject>(bytes).map_err(ScanError::Metadata);
        self.readable(read).map(|object| object.metadata)
    }

    /// Forgets an object and tells the handlers its last state: `last` if it can be read, else the
    /// state that was kept.
    fn remove(&self, listeners: &mut Listeners<K>, key: &ObjectKey, last: Option<&Scanned<'_>>) {
        let known = self.entry(key);
        let aside = listeners.aside.remove(key);
        self.state.write().take(key);
        if listeners.objects.is_empty() && listeners.metadata.is_empty() {
            return;
        }
        let last = last.and_then(|object| self.kept(object));
        let mut object = None;
        if let Some(known) = known.as_ref().filter(|_| !listeners.objects.is_empty()) {
            let parsed = last.as_ref().and_then(|bytes| self.parse(&known.head, bytes)).map(Arc::new);
            object = parsed.or_else(|| self.value(known, false));
        }
        let states =
            [last.as_deref(), aside.as_ref().map(|told| &*told.bytes), known.as_ref().map(|it| &*it.bytes)];
        let mut states = states.into_iter().flatten().filter(|_| !listeners.metadata.is_empty());
        let metadata = states.find_map(|bytes| self.read_metadata(bytes));
        let metadata = metadata.as_ref().map(MetadataChange::Deleted);
        self.tell(listeners, object.map(Change::Deleted).as_ref(), metadata.as_ref());
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

/// What is new to somebody who was told `told` of an object.
fn news<'a>(told: Option<&Head>, head: &Head, new: &'a ObjectMeta) -> Option<MetadataChange<'a>> {
    match told {
        None => Some(MetadataChange::Added(new)),
        Some(told) if told == head => None,
        Some(_) => Some(MetadataChange::Modified(new)),
    }
}

impl<K: DeserializeOwned + Send + Sync + 'static> Sink for Store<K> {
    fn metadata_only(&self) -> bool {
        self.metadata_only
    }

    fn replace(&self, items: Vec<Bytes>, resource_version: &str) {
        let mut listeners = self.listeners.lock();
        let mut listed = BTreeSet::new();
        for bytes in items {
            let Some(object) = self.readable(scan::object(&bytes)) else { continue };
            listed.insert(object.head.key.clone());
            self.upsert(&mut listeners, object);
        }
        let vanished: BTreeSet<ObjectKey> = {
            let state = self.state.read();
            let known = state.objects.keys().map(AsRef::as_ref).chain(listeners.aside.keys());
            known.filter(|key| !listed.contains(*key)).cloned().collect()
        };
        for key in vanished {
            self.remove(&mut listeners, &key, None);
        }
        self.progress(resource_version);
        self.synced.cancel();
        for latch in listeners.waiting.drain(..) {
            latch.cancel();
        }
    }

    fn event(&self, kind: EventKind, object: &[u8]) -> Option<String> {
        let object = self.readable(scan::object(object))?;
        let version = object.head.resource_version.to_string();
        let mut listeners = self.listeners.lock();
        let known = self.entry(&object.head.key);
        let aside = listeners.aside.get(&object.head.key).map(|told| &told.head);
        let newest = aside.or(known.as_ref().map(|known| &known.head));
        // A resumed watch may repeat what is known already, but never goes back in time.
        let stale = newest.is_some_and(|known| older(&object.head.resource_version, &known.resource_version));
        if !stale {
            match kind {
                EventKind::Added | EventKind::Modified => self.upsert(&mut listeners, object),
                EventKind::Deleted if newest.is_some() => {
                    let key = object.head.key.clone();
                    self.remove(&mut listeners, &key, Some(&object));
                }
                EventKind::Deleted | EventKind::Bookmark | EventKind::Error => {}
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
        let mut listeners = self.listeners.lock();
        let ended = Listeners { ended: true, handed_over: listeners.handed_over, ..Listeners::default() };
        let before = std::mem::replace(&mut *listeners, ended);
        drop(listeners);
        drop(before);
    }
}

impl<K: DeserializeOwned + Send + Sync + 'static> MetadataSource for Store<K> {
    fn attach(&self, id: FollowerId, handler: MetadataHandler) -> Result<(), MetadataHandler> {
        let mut listeners = self.listeners.lock();
        if listeners.handed_over {
            return Err(handler);
        }
        if listeners.ended {
            return Ok(());
        }
        let entries: Vec<_> = self.state.read().objects.values().map(|slot| slot.entry.clone()).collect();
        let current = entries.iter().filter(|entry| !listeners.aside.contains_key(&entry.head.key));
        let states =
            current.map(|entry| &entry.bytes).chain(listeners.aside.values().map(|told| &told.bytes));
        for metadata in states.filter_map(|bytes| self.read_metadata(bytes)) {
            self.guarded(|| handler(&MetadataChange::Added(&metadata)));
        }
        listeners.metadata.insert(id, handler);
        Ok(())
    }

    fn detach(&self, id: FollowerId) -> Option<MetadataHandler> {
        self.listeners.lock().metadata.remove(&id)
    }

    fn when_synced(&self, latch: Latch) {
        let mut listeners = self.listeners.lock();
        if self.synced.is_cancelled() {
            latch.cancel();
        } else {
            listeners.waiting.push(latch);
        }
    }

    fn hand_over(&self) -> Estate {
        let mut listeners = self.listeners.lock();
        listeners.handed_over = true;
        let followers = std::mem::take(&mut listeners.metadata);
        let mut told = std::mem::take(&mut listeners.aside);
        let entries: Vec<_> = self.state.read().objects.values().map(|slot| slot.entry.clone()).collect();
        for entry in entries {
            if !told.contains_key(&entry.head.key)
                && let Some(bytes) = self.readable(scan::only_metadata(&entry.bytes))
            {
                let state = Told { head: entry.head.clone(), bytes: bytes.into() };
                told.insert(entry.head.key.clone(), state);
            }
        }
        Estate { followers, told, waiting: std::mem::take(&mut listeners.waiting) }
    }

    fn inherit(&self, estate: Estate) {
        let mut listeners = self.listeners.lock();
        listeners.handed_over = false;
        listeners.metadata.extend(estate.followers);
        listeners.waiting.extend(estate.waiting);
        if self.synced.is_cancelled() {
            self.settle(&listeners, estate.told);
            listeners.waiting.drain(..).for_each(|latch| latch.cancel());
        } else {
            listeners.aside.extend(estate.told);
        }
    }
}

impl<K: DeserializeOwned + Send + Sync + 'static> Store<K> {
    /// Tells inherited followers what they do not know, when no list will.
    fn settle(&self, listeners: &Listeners<K>, mut told: BTreeMap<ObjectKey, Told>) {
        let entries: Vec<_> = self.state.read().objects.values().map(|slot| slot.entry.clone()).collect();
        let kept = entries.iter().filter(|entry| !listeners.aside.contains_key(&entry.head.key));
        let kept = kept.map(|entry| (&entry.head, &entry.bytes));
        let aside = listeners.aside.values().map(|told| (&told.head, &told.bytes));
        let mut gone = Vec::new();
        for (head, bytes) in kept.chain(aside) {
            let mut told = told.remove(&head.key);
            gone.extend(told.take_if(|told| told.head.uid != head.uid));
            let new = self.read_metadata(bytes);
            let change = new.as_ref().and_then(|new| news(told.as_ref().map(|told| &told.head), head, new));
            self.tell(listeners, None, change.as_ref());
        }
        gone.extend(told.into_values());
        for metadata in gone.iter().filter_map(|told| self.read_metadata(&told.bytes)) {
            self.tell(listeners, None, Some(&MetadataChange::Deleted(&metadata)));
        }
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

    #[test]
    fn metadata_comes_from_the_one_copy_that_is_kept() {
        let text = br#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a","resourceVersion":"1","managedFields":[{}]},
            "spec":{"clusterIP":"10.0.0.1"}}"#;
        let kept = |metadata_only| {
            let store = Store::<Service>::new("services", metadata_only, None);
            let told = Arc::new(Mutex::new(Vec::new()));
            let seen = told.clone();
            let follow = move |change: &MetadataChange<'_>| seen.lock().push(change.metadata().clone());
            assert!(store.attach(1, Box::new(follow)).is_ok());
            store.replace(vec![Bytes::from_static(text)], "1");
            assert_eq!(told.lock()[0].name.as_deref(), Some("a"));
            let state = store.state.read();
            assert!(store.listeners.lock().aside.is_empty());
            state.objects.values().map(|slot| slot.entry.bytes.len()).sum::<usize>()
        };
        let whole = text.len() - r#","managedFields":[{}]"#.len();
        assert_eq!(kept(false), whole);
        assert_eq!(
            kept(true),
            r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a","resourceVersion":"1"}}"#.len()
        );
    }

    #[test]
    fn who_comes_to_a_store_that_gave_its_followers_away_is_sent_on() {
        for handed_over in [false, true] {
            let store = Store::<Service>::new("services", true, None);
            if handed_over {
                store.hand_over();
            }
            store.end();
            assert_eq!(store.attach(1, Box::new(|_| {})).is_err(), handed_over);
        }
    }
}
