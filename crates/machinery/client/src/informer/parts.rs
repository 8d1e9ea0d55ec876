//! Parts of a resource that are needed entire, cut from the list and watch of the whole.
//!
//! A process that follows the metadata of every resource watches all of them anyway. Somebody who needs a few objects with all
//! their fields, known by namespace or name, gets them from the same watch: it asks for whole objects then, and of those that are
//! in no part nothing but metadata is kept, as before.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Scope;
use super::scan::{self, EventKind};
use super::store::Sink;
use crate::ObjectKey;

/// Objects chosen by their key, so that none ever comes into a part or leaves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    namespace: Option<String>,
    name: Option<String>,
}

impl Selection {
    /// What the scope selects; `None` if that takes more than a key, or if it is everything.
    pub(super) fn of(scope: &Scope) -> Option<Self> {
        if scope.labels.is_some() || *scope == Scope::default() {
            return None;
        }
        let name = match scope.fields.as_deref() {
            None => None,
            Some(fields) => {
                let name = fields.strip_prefix("metadata.name=")?;
                let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':');
                if !name.bytes().all(is_plain) {
                    return None;
                }
                Some(name.to_owned())
            }
        };
        Some(Self { namespace: scope.namespace.clone(), name })
    }

    fn has(&self, key: &ObjectKey) -> bool {
        let is =
            |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        is(&self.namespace, &key.namespace) && is(&self.name, &key.name)
    }
}

pub(super) struct Part {
    selection: Selection,
    sink: Arc<dyn Sink>,
}

#[derive(Default)]
struct Parts {
    told: Vec<Part>,
    /// They have come since the last list: it may lack what they need.
    new: Vec<Part>,
}

/// Feeds a whole resource and its parts.
pub(super) struct Fan {
    whole: Arc<dyn Sink>,
    parts: Mutex<Parts>,
    again: Arc<Notify>,
}

impl Fan {
    pub(super) fn new(whole: Arc<dyn Sink>) -> Self {
        Self { whole, parts: Mutex::default(), again: Arc::default() }
    }

    /// Notified when everything must be listed anew.
    pub(super) fn again(&self) -> Arc<Notify> {
        self.again.clone()
    }

    pub(super) fn add(&self, selection: Selection, sink: Arc<dyn Sink>) {
        self.adopt(vec![Part { selection, sink }]);
    }

    pub(super) fn adopt(&self, parts: Vec<Part>) {
        if !parts.is_empty() {
            self.parts.lock().new.extend(parts);
            self.again.notify_one();
        }
    }

    pub(super) fn has_parts(&self) -> bool {
        let parts = self.parts.lock();
        !(parts.told.is_empty() && parts.new.is_empty())
    }

    /// Gives all parts away. They are told nothing more.
    pub(super) fn take_parts(&self) -> Vec<Part> {
        let Parts { mut told, new } = std::mem::take(&mut *self.parts.lock());
        told.extend(new);
        told
    }
}

fn key_of(object: &[u8]) -> Option<ObjectKey> {
    scan::object(object).ok().map(|object| object.head.key)
}

impl Sink for Fan {
    fn begin(&self) {
        let mut parts = self.parts.lock();
        let new = std::mem::take(&mut parts.new);
        parts.told.extend(new);
    }

    fn metadata_only(&self) -> bool {
        self.whole.metadata_only() && self.parts.lock().told.is_empty()
    }

    fn condensed(&self, item: Bytes) -> Bytes {
        let parts = self.parts.lock();
        // Without parts the server has done it.
        if parts.told.is_empty() || !self.whole.metadata_only() {
            return item;
        }
        let in_part = key_of(&item).is_none_or(|key| parts.told.iter().any(|part| part.selection.has(&key)));
        match scan::only_metadata(&item) {
            Ok(metadata) if !in_part => metadata.into(),
            _ => item,
        }
    }

    fn replace(&self, items: Vec<Bytes>, resource_version: &str) {
        self.whole.replace(items.clone(), resource_version);
        let parts = self.parts.lock();
        for Part { selection, sink } in &parts.told {
            let of = items.iter().filter(|item| key_of(item).is_some_and(|key| selection.has(&key)));
            sink.replace(of.cloned().collect(), resource_version);
        }
    }

    fn event(&self, kind: EventKind, object: &[u8]) -> Option<String> {
        let version = self.whole.event(kind, object);
        let parts = self.parts.lock();
        let key = if parts.told.is_empty() { None } else { key_of(object) };
        for Part { selection, sink } in &parts.told {
            if key.as_ref().is_some_and(|key| selection.has(key)) {
                sink.event(kind, object);
            } else if let Some(version) = &version {
                sink.progress(version);
            }
        }
        version
    }

    fn progress(&self, resource_version: &str) {
        self.whole.progress(resource_version);
        self.parts.lock().told.iter().for_each(|part| part.sink.progress(resource_version));
    }

    fn end(&self) {
        self.whole.end();
        self.take_parts().iter().for_each(|part| part.sink.end());
    }
}
