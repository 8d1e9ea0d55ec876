//! The server's shared state: what every request handler sees.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use podium_api::status::ApiError;
use podium_store::{
    Change, CommitError, Committed, Expect, Key, KeyRange, LeaseId, RangeOptions, Store, WatchOptions,
    WatchStart,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::{Admission, QuotaStore};
use crate::authentication::Authenticator;
use crate::authorization::Authorizer;
use crate::catalogue::{Catalogue, Served, prefix};
use crate::config::Config;
use crate::flowcontrol::FlowControl;
use crate::fresh::Fresh;
use crate::hot::Hot;
use crate::metrics::Metrics;
use crate::objects::{ObjectSource, Objects, Observer};
use crate::reviews::Reviews;
use crate::services::Services;
use crate::storage;
use crate::turns::Turns;

/// How long one lease takes in new events: at most, and as a part of the time they are kept. Source: upstream's
/// `DefaultLeaseReuseDurationSeconds` and the percentage in its etcd3 `lease_manager.go`.
const LEASE_REUSE: Duration = Duration::from_secs(60);
const LEASE_REUSE_PART: u32 = 20;

/// The shared state.
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) catalogue: Catalogue,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) authorizer: Arc<Authorizer>,
    pub(crate) admission: Admission,
    pub(crate) reviews: Reviews,
    pub(crate) observers: Arc<Observers>,
    pub(crate) metrics: Metrics,
    pub(crate) services: Services,
    pub(crate) event_leases: EventLeases,
    /// How kubelets are spoken to, where we have a certificate for it.
    pub(crate) kubelet_tls: Option<Arc<rustls::ClientConfig>>,
    pub(crate) flow_control: FlowControl,
    /// Protobuf forms of objects that are asked for.
    pub(crate) hot: Hot,
    /// Frames of the newest changes that are watched.
    pub(crate) fresh: Fresh,
    turns: Turns,
    pub(crate) tracker: TaskTracker,
    /// OpenAPI documents that have been asked for, by path. Their number is that of the group versions.
    pub(crate) documents: parking_lot::Mutex<HashMap<String, bytes::Bytes>>,
    /// Ends everything, watches first.
    pub(crate) shutdown: CancellationToken,
    /// Set once all bootstrap objects are there.
    pub(crate) booted: AtomicBool,
    /// Woken when `booted` is set.
    pub(crate) boot_done: tokio::sync::Notify,
    /// The port listened on.
    pub(crate) port: AtomicU16,
    /// When the server was made.
    pub(crate) started: jiff::Timestamp,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}

impl Core {
    pub(crate) fn new(
        mut config: Config,
        store: Store,
        shutdown: CancellationToken,
    ) -> Result<Arc<Core>, podium_pki::Error> {
        config.served = config.served.with_features(config.features);
        let kubelet_tls = config.kubelet.as_ref().map(crate::connect::client_config).transpose()?;
        let tracker = TaskTracker::new();
        let observers = Arc::new(Observers::default());
        let source = Arc::new(StoreSource {
            store: store.clone(),
            observers: Arc::clone(&observers),
            tracker: tracker.clone(),
            shutdown: shutdown.clone(),
        });
        let objects = Objects::new(source);
        let authenticator = Arc::new(Authenticator::new(config.authentication.clone(), objects.clone()));
        let authorizer = Arc::new(Authorizer::with_features(&objects, config.features));
        let admission = Admission::new(config.admission.clone(), objects.clone(), Arc::clone(&authorizer));
        let reviews =
            Reviews::new(Arc::clone(&authenticator), Arc::clone(&authorizer), objects, config.issuer.clone());
        Ok(Arc::new(Core {
            kubelet_tls,
            services: Services::new(config.service_cidr, config.node_ports.clone()),
            hot: Hot::default(),
            fresh: Fresh::default(),
            turns: Turns::default(),
            flow_control: FlowControl::new(
                config.limits.mutating + config.limits.reading,
                config.limits.request / 4,
            ),
            catalogue: Catalogue::built_in(&config.served),
            config,
            store,
            authenticator,
            authorizer,
            admission,
            reviews,
            observers,
            metrics: Metrics::default(),
            event_leases: EventLeases::default(),
            tracker,
            documents: parking_lot::Mutex::default(),
            shutdown,
            booted: AtomicBool::new(false),
            boot_done: tokio::sync::Notify::new(),
            port: AtomicU16::new(0),
            started: jiff::Timestamp::now(),
        }))
    }

    /// Commits one object, and whatever must change with it, at one revision; then tells the observers, so that
    /// decisions made after the answer see the change.
    pub(crate) async fn commit(
        &self,
        served: &Served,
        key: Key,
        expect: Expect,
        change: Change,
        with: Vec<podium_store::Operation>,
    ) -> Result<Committed, CommitError> {
        let began = Instant::now();
        let operation = match (&change, &expect) {
            (Change::Delete, _) => "delete",
            (Change::Put { .. }, Expect::Absent) => "create",
            (Change::Put { .. } | Change::Check, _) => "update",
        };
        let told = self.observers.of(served.prefix.as_bytes());
        let named = told.is_some().then(|| key.clone());
        let outcome = if with.is_empty() {
            self.store.commit(key, expect, change).await
        } else {
            let mut operations = vec![(key, expect, change)];
            operations.extend(with);
            self.store.transaction(operations).await.and_then(|mut done| {
                if done.results.is_empty() {
                    return Err(CommitError::Invalid("a transaction answered nothing"));
                }
                Ok(done.results.swap_remove(0))
            })
        };
        let failed = matches!(&outcome, Err(error) if !matches!(error, CommitError::Conflict { .. }));
        self.metrics.committed(operation, &served.prefix, began.elapsed(), failed);
        let committed = outcome?;
        if let (Some(told), Some(key)) = (told, named)
            && let Some((namespace, name)) = storage::names_in(&served.prefix, &key)
        {
            for observer in told.read().iter() {
                observer(namespace, name);
            }
        }
        if let Some(handed) = committed.record.as_ref().and_then(|record| self.fresh.handed(record))
            && let Some(turn) = self.turns.take(handed, tokio::time::Instant::now())
        {
            self.metrics.turns.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep_until(turn).await;
        }
        Ok(committed)
    }
}

impl QuotaStore for Core {
    fn swap<'a>(
        &'a self,
        updated: Value,
    ) -> Pin<Box<dyn Future<Output = Result<bool, ApiError>> + Send + 'a>> {
        Box::pin(async move {
            let served = self
                .catalogue
                .stored("", "resourcequotas")
                .ok_or_else(|| ApiError::internal("resource quotas are not served"))?;
            let text = |name: &str| updated["metadata"][name].as_str().unwrap_or_default().to_owned();
            let key = storage::key(&served, &text("namespace"), &text("name"))?;
            let revision = storage::revision_of(&updated).map_err(ApiError::internal)?;
            let change = Change::Put { value: storage::encode(&updated), lease: None };
            let expect = Expect::ModRevision(revision);
            match self.commit(&served, key, expect, change, Vec::new()).await {
                Ok(_) => Ok(true),
                Err(CommitError::Conflict { .. }) => Ok(false),
                Err(error) => Err(crate::registry::commit_failed(&error)),
            }
        })
    }
}

type Told = Arc<RwLock<Vec<Observer>>>;

/// Who hears of changes, by the prefix of the keys.
#[derive(Default)]
pub(crate) struct Observers(RwLock<HashMap<Vec<u8>, Told, ahash::RandomState>>);

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observers").finish_non_exhaustive()
    }
}

impl Observers {
    fn of(&self, prefix: &[u8]) -> Option<Told> {
        self.0.read().get(prefix).cloned()
    }
}

/// The store as the decisions of authentication, authorisation and admission read it.
struct StoreSource {
    store: Store,
    observers: Arc<Observers>,
    tracker: TaskTracker,
    shutdown: CancellationToken,
}

impl ObjectSource for StoreSource {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let prefix = prefix(group, resource);
        let key = if namespace.is_empty() {
            format!("{prefix}{name}")
        } else {
            format!("{prefix}{namespace}/{name}")
        };
        // A name with a slash would reach another key.
        if name.contains('/') || namespace.contains('/') {
            return None;
        }
        let record = self.store.get(key.as_bytes())?;
        storage::parse(&record).ok().map(Arc::new)
    }

    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let mut start = prefix(group, resource);
        if let Some(namespace) = namespace {
            start.push_str(namespace);
            start.push('/');
        }
        match self.store.range(&KeyRange::prefix(start), RangeOptions::default()) {
            Ok(found) => {
                found.records.iter().filter_map(|record| storage::parse(record).ok().map(Arc::new)).collect()
            }
            Err(error) => {
                tracing::error!(%error, resource, "the newest state could not be read");
                Vec::new()
            }
        }
    }

    fn subscribe(&self, group: &str, resource: &str, observer: Observer) {
        let prefix = prefix(group, resource);
        let mut all = self.observers.0.write();
        if let Some(told) = all.get(prefix.as_bytes()) {
            told.write().push(observer);
            return;
        }
        let told: Told = Arc::new(RwLock::new(vec![observer]));
        all.insert(prefix.clone().into_bytes(), Arc::clone(&told));
        // Changes that this process did not commit (leases that end, other servers on one store) come by watch.
        let store = self.store.clone();
        let shutdown = self.shutdown.clone();
        self.tracker.spawn(async move {
            let follow = follow(&store, &prefix, &told);
            tokio::select! { () = follow => {}, () = shutdown.cancelled() => {} }
        });
    }
}

async fn follow(store: &Store, prefix: &str, told: &Told) {
    let tell = |key: &[u8]| {
        if let Some((namespace, name)) = storage::names_in(prefix, key) {
            for observer in told.read().iter() {
                observer(namespace, name);
            }
        }
    };
    // What has been told of: what went while a watch was interrupted is not among what is there afterwards.
    let mut known: std::collections::HashSet<Key> = std::collections::HashSet::new();
    loop {
        let range = KeyRange::prefix(prefix);
        let Ok(mut watcher) = store.watch(range.clone(), WatchStart::Now, WatchOptions::default()) else {
            return;
        };
        // What changed between two watches is heard of as a change of everything that is there.
        if let Ok(found) = store.range(&range, RangeOptions::default()) {
            known.extend(found.records.iter().map(|record| record.key.clone()));
            known.iter().for_each(|key| tell(key));
            known = found.records.iter().map(|record| record.key.clone()).collect();
        }
        loop {
            match watcher.next().await {
                Ok(batch) => {
                    for event in batch.events {
                        match event.kind {
                            podium_store::EventKind::Put => known.insert(event.record.key.clone()),
                            podium_store::EventKind::Delete => known.remove(&event.record.key),
                        };
                        tell(&event.record.key);
                    }
                }
                Err(podium_store::WatchError::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, prefix, "watch restarted");
                    break;
                }
            }
        }
    }
}

/// Leases under which events are stored. One lease takes the events of some time, so that there are few of them.
#[derive(Debug, Default)]
pub(crate) struct EventLeases(tokio::sync::Mutex<Option<(LeaseId, Instant)>>);

impl EventLeases {
    /// A lease that lives at least `ttl` from now.
    pub(crate) async fn lease(&self, store: &Store, ttl: Duration) -> Result<LeaseId, ApiError> {
        let reuse = LEASE_REUSE.min(ttl / LEASE_REUSE_PART);
        let mut current = self.0.lock().await;
        if let Some((lease, since)) = *current
            && since.elapsed() < reuse
        {
            return Ok(lease);
        }
        let lease =
            store.grant_lease(ttl + reuse).await.map_err(|error| ApiError::internal(error.to_string()))?;
        *current = Some((lease, Instant::now()));
        Ok(lease)
    }
}
