//! ConfigMaps and Secrets that pods here refer to: each watched by itself, for as long as some pod
//! needs it. A node may read only these, one at a time; and a watch makes changes arrive at once.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client,
    api::{ListParams, WatchParams},
    core::{NamespaceResourceScope, Resource, WatchEvent},
};
use parking_lot::Mutex;
use podium_client::{Object, Shutdown, error_chain};
use tokio::{sync::watch, task::JoinHandle};

use crate::environment::DataRef;

/// How long the first answer may take before the caller is told that there is none yet.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// Pause after a failed list or a broken watch.
const RETRY: Duration = Duration::from_secs(1);

/// The state of one watched object: None until the first answer.
type Latest<K> = Option<Option<Arc<K>>>;

/// An object could not be read within the time allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to sync {kind} cache: timed out waiting for the condition")]
pub(crate) struct NoAnswer {
    kind: &'static str,
}

struct Watched<K> {
    latest: watch::Receiver<Latest<K>>,
    /// Pods (by uid) that refer to it.
    users: BTreeSet<String>,
    task: JoinHandle<()>,
}

/// Watched objects of one kind.
struct Cache<K> {
    client: Client,
    shutdown: Shutdown,
    kind: &'static str,
    entries: Mutex<HashMap<(String, String), Watched<K>>>,
    changed: Arc<dyn Fn(&str) + Send + Sync>,
}

/// Everything pods refer to.
pub(crate) struct References {
    config_maps: Arc<Cache<ConfigMap>>,
    secrets: Arc<Cache<Secret>>,
}

impl std::fmt::Debug for References {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("References")
    }
}

impl References {
    /// `changed` is called with the uid of each pod that refers to an object that changed.
    pub(crate) fn new(
        client: &Client,
        shutdown: &Shutdown,
        changed: Arc<dyn Fn(&str) + Send + Sync>,
    ) -> Self {
        Self {
            config_maps: Arc::new(Cache::new(client, shutdown, "configmap", changed.clone())),
            secrets: Arc::new(Cache::new(client, shutdown, "secret", changed)),
        }
    }

    /// Makes a pod the user of exactly these objects; those nobody uses any more are let go.
    pub(crate) fn set(&self, uid: &str, namespace: &str, wanted: &[DataRef]) {
        let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
        for reference in wanted {
            match reference {
                DataRef::ConfigMap(name) => maps.insert((namespace.to_owned(), name.clone())),
                DataRef::Secret(name) => secrets.insert((namespace.to_owned(), name.clone())),
            };
        }
        self.config_maps.set(uid, &maps);
        self.secrets.set(uid, &secrets);
    }

    /// A ConfigMap as it is now; None if there is none.
    pub(crate) async fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<ConfigMap>>, NoAnswer> {
        self.config_maps.get(namespace, name).await
    }

    /// A Secret as it is now; None if there is none.
    pub(crate) async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, NoAnswer> {
        self.secrets.get(namespace, name).await
    }
}

impl<K> Cache<K>
where
    K: Object + Resource<Scope = NamespaceResourceScope>,
{
    fn new(
        client: &Client,
        shutdown: &Shutdown,
        kind: &'static str,
        changed: Arc<dyn Fn(&str) + Send + Sync>,
    ) -> Self {
        Self {
            client: client.clone(),
            shutdown: shutdown.clone(),
            kind,
            entries: Mutex::new(HashMap::new()),
            changed,
        }
    }

    fn set(self: &Arc<Self>, uid: &str, wanted: &BTreeSet<(String, String)>) {
        let mut entries = self.entries.lock();
        for key in wanted {
            let entry = entries.entry(key.clone()).or_insert_with(|| self.start(key));
            entry.users.insert(uid.to_owned());
        }
        entries.retain(|key, entry| {
            if !wanted.contains(key) {
                entry.users.remove(uid);
            }
            let used = !entry.users.is_empty();
            if !used {
                entry.task.abort();
            }
            used
        });
    }

    fn start(self: &Arc<Self>, key: &(String, String)) -> Watched<K> {
        let (sender, latest) = watch::channel(None);
        let task = tokio::spawn(Arc::clone(self).follow(key.clone(), sender));
        Watched { latest, users: BTreeSet::new(), task }
    }

    async fn get(self: &Arc<Self>, namespace: &str, name: &str) -> Result<Option<Arc<K>>, NoAnswer> {
        let key = (namespace.to_owned(), name.to_owned());
        let known = self.entries.lock().get(&key).map(|entry| entry.latest.clone());
        let Some(mut latest) = known else {
            // Nobody declared it: read it once.
            let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
            let answer = tokio::time::timeout(FIRST_ANSWER, api.get_opt(name)).await;
            return match answer {
                Ok(Ok(found)) => Ok(found.map(Arc::new)),
                _ => Err(NoAnswer { kind: self.kind }),
            };
        };
        let answered = tokio::time::timeout(FIRST_ANSWER, latest.wait_for(Option::is_some)).await;
        match answered {
            Ok(Ok(state)) => Ok(state.clone().flatten()),
            _ => Err(NoAnswer { kind: self.kind }),
        }
    }

    async fn follow(self: Arc<Self>, key: (String, String), sender: watch::Sender<Latest<K>>) {
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.0);
        let fields = format!("metadata.name={}", key.1);
        loop {
            let ended = tokio::select! {
                ended = self.list_and_watch(&api, &fields, &key, &sender) => ended,
                () = self.shutdown.cancelled() => return,
            };
            if let Err(error) = ended {
                tracing::debug!(
                    kind = self.kind,
                    namespace = key.0,
                    name = key.1,
                    error = error_chain(&error),
                    "watch ended"
                );
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn list_and_watch(
        &self,
        api: &Api<K>,
        fields: &str,
        key: &(String, String),
        sender: &watch::Sender<Latest<K>>,
    ) -> Result<(), kube::Error> {
        let list = api.list(&ListParams::default().fields(fields)).await?;
        let mut version = list.metadata.resource_version.unwrap_or_default();
        self.put(key, sender, list.items.into_iter().next());
        let params = WatchParams::default().fields(fields);
        let mut events = api.watch(&params, &version).await?.boxed();
        while let Some(event) = events.next().await {
            match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    version = object.meta().resource_version.clone().unwrap_or(version);
                    self.put(key, sender, Some(object));
                }
                WatchEvent::Deleted(_) => self.put(key, sender, None),
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
            }
        }
        Ok(())
    }

    fn put(&self, key: &(String, String), sender: &watch::Sender<Latest<K>>, object: Option<K>) {
        let version =
            |object: Option<&K>| object.map(|o| (o.meta().uid.clone(), o.meta().resource_version.clone()));
        let changed = sender.send_if_modified(|latest| {
            let before = latest.as_ref().map(|known| version(known.as_deref()));
            let changed = before.as_ref() != Some(&version(object.as_ref()));
            *latest = Some(object.map(Arc::new));
            changed
        });
        if changed {
            let users = self.entries.lock().get(key).map(|entry| entry.users.clone()).unwrap_or_default();
            for uid in users {
                (self.changed)(&uid);
            }
        }
    }
}
