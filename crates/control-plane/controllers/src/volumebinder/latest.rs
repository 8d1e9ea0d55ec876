//! The newest state of objects that this controller writes itself.
//!
//! Binding is four writes, and each comes back as an event before the cache has the next. Whoever decided on the cache alone would
//! try to finish what is finished, and be refused. So what was written is remembered until the cache has caught up.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use podium_client::{Informer, Object, ObjectKey};

use crate::owner;

/// A cache with our own writes on top.
pub(crate) struct Latest<K> {
    pub(crate) cache: Informer<K>,
    written: Mutex<HashMap<ObjectKey, Arc<K>>>,
}

impl<K: Object> Latest<K> {
    pub(crate) fn new(cache: Informer<K>) -> Self {
        Self { cache, written: Mutex::default() }
    }

    /// The object as it was last seen or written.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        let cached = self.cache.get(key);
        let mut written = self.written.lock();
        // We write only what was there, so what the cache does not have is gone.
        let newer = cached
            .as_ref()
            .zip(written.get(key))
            .filter(|(cached, written)| owner::version(written.meta()) > owner::version(cached.meta()));
        if let Some((_, written)) = newer {
            return Some(Arc::clone(written));
        }
        written.remove(key);
        cached
    }

    /// Remembers what the API answered to a write.
    pub(crate) fn put(&self, object: K) -> Arc<K> {
        let object = Arc::new(object);
        self.written.lock().insert(ObjectKey::of(object.as_ref()), Arc::clone(&object));
        object
    }
}
