//! An [`ObjectSource`] in memory, for tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde_json::Value;

use super::{ObjectSource, Objects, Observer};

type Key = (String, String, String, String);

/// Objects by group, resource, namespace and name.
#[derive(Default)]
pub(crate) struct Memory {
    objects: RwLock<BTreeMap<Key, Arc<Value>>>,
    observers: Mutex<Vec<(String, String, Observer)>>,
}

impl Memory {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Memory::default())
    }

    /// Stores an object under its own name and namespace.
    pub(crate) fn put(&self, group: &str, resource: &str, object: Value) {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let key = (group.to_owned(), resource.to_owned(), namespace.clone(), name.clone());
        self.objects.write().insert(key, Arc::new(object));
        self.tell(group, resource, &namespace, &name);
    }

    pub(crate) fn delete(&self, group: &str, resource: &str, namespace: &str, name: &str) {
        let key = (group.to_owned(), resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.objects.write().remove(&key);
        self.tell(group, resource, namespace, name);
    }

    fn tell(&self, group: &str, resource: &str, namespace: &str, name: &str) {
        for (g, r, observer) in self.observers.lock().iter() {
            if g == group && r == resource {
                observer(namespace, name);
            }
        }
    }

    pub(crate) fn objects(self: &Arc<Self>) -> Objects {
        Objects::new(Arc::clone(self) as Arc<dyn ObjectSource>)
    }
}

impl ObjectSource for Memory {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let key = (group.to_owned(), resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.objects.read().get(&key).cloned()
    }

    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        self.objects
            .read()
            .iter()
            .filter(|((g, r, n, _), _)| {
                g == group && r == resource && namespace.is_none_or(|wanted| wanted == n)
            })
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    fn subscribe(&self, group: &str, resource: &str, observer: Observer) {
        self.observers.lock().push((group.to_owned(), resource.to_owned(), observer));
    }
}

#[test]
fn hot_objects_follow_changes() {
    let memory = Memory::new();
    let objects = memory.objects();
    let namespace = |phase: &str| serde_json::json!({"metadata": {"name": "a"}, "status": {"phase": phase}});
    assert!(objects.get("", "namespaces", "", "a").is_none());
    assert_eq!(objects.list("", "namespaces", None).len(), 0);
    memory.put("", "namespaces", namespace("Active"));
    assert_eq!(objects.get("", "namespaces", "", "a").unwrap()["status"]["phase"], "Active");
    assert_eq!(objects.list("", "namespaces", None).len(), 1);
    let first = objects.get("", "namespaces", "", "a").unwrap();
    assert!(Arc::ptr_eq(&first, &objects.get("", "namespaces", "", "a").unwrap()));
    memory.put("", "namespaces", namespace("Terminating"));
    assert_eq!(objects.get("", "namespaces", "", "a").unwrap()["status"]["phase"], "Terminating");
    memory.delete("", "namespaces", "", "a");
    assert!(objects.get("", "namespaces", "", "a").is_none());
    assert_eq!(objects.list("", "namespaces", None).len(), 0);
}
