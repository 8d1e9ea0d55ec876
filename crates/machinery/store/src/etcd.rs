//! The engine over etcd v3: etcd decides and makes durable, its watch feeds the state.
//!
//! - A commit is one transaction that compares revisions (`txn`). It is answered when the watch has brought its
//!   revision, so that who is told of a change can read it here at once.
//! - `follow` keeps one watch and turns what it tells into transactions (`apply`); what cannot follow from what was told
//!   before makes the state be read again, and watches of the store end with an error then.
//! - Others write to the same etcd, so a read of the newest first asks etcd for its revision (`fresh`).
//! - `past` reads from etcd itself what the state has forgotten, or never knew.
//! - `keeper` forgets the past: here, by the store's own limits, and in etcd, together with everybody else.
//!
//! We write no consensus protocol, and ask nothing of etcd that its own clients do not.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::{Code, Status};

use crate::change::{Change, Committed, Operation, TransactionCommitted};
use crate::config::History;
use crate::engine::{Engine, EngineFuture, Feed};
use crate::error::{CommitError, CompactError, FreshError, LeaseError, OpenError, ReadError, RemoteFault};
use crate::key::{Key, KeyRange};
use crate::local::decide;
use crate::record::{LeaseId, Record, Revision};
use crate::state::State;
use crate::store::RangeResult;

mod apply;
mod client;
pub(crate) mod codec;
mod follow;
mod fresh;
mod keeper;
mod lease;
mod past;
mod proto;
mod txn;
mod version;

use client::{Client, Repeat};
use codec::Codec;
use follow::Follower;
use fresh::Fresh;
use proto::etcdserverpb::CompactionRequest;
use proto::etcdserverpb::kv_client::KvClient;
use txn::Outcome;

/// The largest message taken: a page of the largest objects that etcd keeps (1.5 MB each).
const MAX_MESSAGE_BYTES: usize = 2 << 30;
/// How long a commit that etcd has done waits to become visible here.
const VISIBLE: Duration = Duration::from_secs(10);

/// Files with certificates; read when the store is opened, and again when a connection fails.
#[derive(Clone, Debug, Default)]
pub struct EtcdTls {
    /// Who may have signed the servers' certificates.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// How a store on etcd is opened.
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    /// The servers: `https://host:port`, or `host:port`.
    pub endpoints: Vec<String>,
    /// Certificates, for servers with TLS.
    pub tls: Option<EtcdTls>,
    /// What stands before every key of the store.
    pub prefix: String,
    /// How keys and values stand in etcd.
    pub codec: Arc<dyn Codec>,
    /// What is kept of the past in memory.
    pub history: History,
    /// How often etcd is made to forget what is older than that; zero leaves it to others. Whoever shares the etcd and
    /// does the same (upstream's API server too) takes turns.
    pub compaction_interval: Duration,
}

impl EtcdConfig {
    /// A store on these servers, with keys and values as they are, and the usual settings.
    pub fn new(endpoints: Vec<String>) -> EtcdConfig {
        EtcdConfig {
            endpoints,
            tls: None,
            prefix: "/registry".to_owned(),
            codec: Arc::new(codec::Plain),
            history: History::default(),
            // Source: upstream's `--etcd-compaction-interval`.
            compaction_interval: Duration::from_secs(300),
        }
    }
}

/// Where the store's keys lie in etcd.
#[derive(Clone, Debug)]
struct Layout {
    prefix: Vec<u8>,
    codec: Arc<dyn Codec>,
}

impl Layout {
    fn key(&self, key: &[u8]) -> Vec<u8> {
        let mut name = self.prefix.clone();
        name.extend(self.codec.key_to_etcd(key));
        name
    }

    fn key_from_etcd(&self, key: &[u8]) -> Option<Key> {
        self.codec.key_from_etcd(key.strip_prefix(self.prefix.as_slice())?)
    }

    /// From where to where its keys lie.
    fn range(&self) -> (Bytes, Bytes) {
        let range = KeyRange::prefix(&self.prefix);
        let bytes = |key: &Key| Bytes::copy_from_slice(key);
        if self.prefix.is_empty() {
            return (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"));
        }
        (bytes(range.start()), range.end().map_or(Bytes::from_static(b"\0"), bytes))
    }

    /// A key in the store's range that nobody has.
    fn nothing(&self) -> Bytes {
        [self.prefix.as_slice(), b"\0"].concat().into()
    }
}

/// The engine.
#[derive(Debug)]
pub(crate) struct Etcd {
    follower: Arc<Follower>,
    fresh: Arc<Fresh>,
    /// The changes under way. Closed when the store takes no more.
    changes: TaskTracker,
}

impl Etcd {
    /// Reads everything, and begins to follow.
    pub(crate) async fn open(config: EtcdConfig) -> Result<(Etcd, Arc<State>), OpenError> {
        let client = Client::new(&config.endpoints, config.tls.as_ref())?;
        let layout = Layout { prefix: config.prefix.into_bytes(), codec: config.codec };
        let (records, revision) = follow::read_all(&client, &layout).await.map_err(|status| {
            OpenError::Remote { endpoints: client.names(), problem: client::describe(&status) }
        })?;
        let feed = Feed::new(records, revision.max(1));
        let state = Arc::clone(&feed.state);
        let follower = Arc::new(Follower {
            client,
            layout,
            feed,
            wanted: watch::Sender::new(0),
            resets: watch::Sender::new(0),
            beside: TaskTracker::new(),
            closing: CancellationToken::new(),
        });
        let etcd =
            Etcd { follower: Arc::clone(&follower), fresh: Arc::default(), changes: TaskTracker::new() };
        follower.run_beside(Arc::clone(&follower).run());
        follower.run_beside(keeper::forget_here(Arc::clone(&follower), config.history));
        if !config.compaction_interval.is_zero() {
            follower.run_beside(keeper::compact_etcd(Arc::clone(&follower), config.compaction_interval));
        }
        Ok((etcd, state))
    }

    fn state(&self) -> &Arc<State> {
        &self.follower.feed.state
    }

    /// Begins a change: it is under way until what this returns is dropped. `None` if the store takes no more.
    fn begin(&self) -> Option<TaskTrackerToken> {
        // First the token: whoever closes is then either seen here or waits for it.
        let change = self.changes.token();
        (!self.changes.is_closed()).then_some(change)
    }

    async fn transaction(&self, operations: Vec<Operation>) -> Result<TransactionCommitted, CommitError> {
        let Some(_change) = self.begin() else { return Err(CommitError::Closed) };
        decide::check(&operations)?;
        if operations.is_empty() {
            return Ok(TransactionCommitted { revision: self.state().revision(), results: Vec::new() });
        }
        // Everything after this stays readable until the answer has been put together.
        let pin = self.state().pin_newest();
        let resets = *self.follower.resets.borrow();
        let request = txn::request(&self.follower.layout, &operations);
        let response = self
            .follower
            .client
            .call(Repeat::Unsafe, |channel| {
                let request = request.clone();
                async move {
                    KvClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES).txn(request).await
                }
            })
            .await
            .map_err(|status| refusal(&status, &operations))?;
        let revision = response.header.map_or(0, |header| header.revision.cast_unsigned());
        let outcome = txn::outcome(response);
        let may_have_happened = matches!(outcome, Outcome::Done { changed: true });
        let waited = match may_have_happened {
            true => fresh::told(&self.follower, revision, VISIBLE).await,
            false => fresh::wait_for(&self.follower, revision, VISIBLE).await,
        };
        waited.map_err(|message| CommitError::Remote(RemoteFault { message, may_have_happened }))?;
        let answer = match outcome {
            Outcome::Refused(held) => Err(self.conflict(&operations, &held)),
            Outcome::Done { changed } => Ok(self.answer(operations, revision, changed)),
        };
        drop(pin);
        if *self.follower.resets.borrow() != resets {
            // What happened around it is not known, so neither is what the change replaced.
            let message = "the change was made while the state was read again".to_owned();
            return Err(CommitError::Remote(RemoteFault { message, may_have_happened }));
        }
        answer
    }

    fn answer(&self, operations: Vec<Operation>, revision: Revision, changed: bool) -> TransactionCommitted {
        let state = self.state();
        let results = operations.into_iter().map(|(key, _, change)| {
            let now = state.get_at(&key, revision);
            if !changed {
                return Committed { revision, record: now.clone(), previous: now };
            }
            let previous = state.get_at(&key, revision - 1);
            let record = match change {
                Change::Put { .. } | Change::Check => now,
                Change::Delete => previous.as_ref().map(|last| Arc::new(last.deleted_at(revision))),
            };
            Committed { revision, record, previous }
        });
        TransactionCommitted { revision, results: results.collect() }
    }

    fn conflict(&self, operations: &[Operation], held: &[Option<proto::mvccpb::KeyValue>]) -> CommitError {
        for ((key, expect, _), kv) in operations.iter().zip(held) {
            let current = kv.as_ref().map(|kv| self.known(key, kv));
            if !expect.holds(current.as_deref()) {
                return CommitError::Conflict { key: key.clone(), current };
            }
        }
        CommitError::Remote(RemoteFault {
            message: "etcd refused a transaction whose expectations hold".to_owned(),
            may_have_happened: false,
        })
    }

    /// The record of something that etcd told: the state's own, if that is the same.
    fn known(&self, key: &Key, kv: &proto::mvccpb::KeyValue) -> Arc<Record> {
        let revision = kv.mod_revision.cast_unsigned();
        match self.state().get(key) {
            Some(record) if record.mod_revision == revision => record,
            _ => apply::record(&self.follower.layout, key.clone(), kv),
        }
    }

    async fn compact_now(&self, revision: Revision) -> Result<(), CompactError> {
        let Some(_change) = self.begin() else { return Err(CompactError::Commit(CommitError::Closed)) };
        self.state().may_compact(revision)?;
        let request = CompactionRequest { revision: txn::signed(revision), physical: false };
        let compacted = self
            .follower
            .client
            .call(Repeat::Safe, |channel| async move { KvClient::new(channel).compact(request).await })
            .await;
        match compacted {
            Ok(_) => {}
            // Others have; it remains to be done here.
            Err(status) if status.message() == COMPACTED => {}
            Err(status) => {
                return Err(CompactError::Commit(CommitError::Remote(client::fault(&status))));
            }
        }
        self.follower.feed.compact(revision);
        Ok(())
    }

    /// Ends what runs beside.
    fn end(&self) {
        self.changes.close();
        self.follower.end();
    }
}

/// What etcd says of a revision that is gone.
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

/// A commit that etcd refused, or did not answer.
fn refusal(status: &Status, operations: &[Operation]) -> CommitError {
    if status.code() == Code::NotFound && status.message() == lease::NOT_FOUND {
        let named = operations.iter().find_map(|(_, _, change)| match change {
            Change::Put { lease, .. } => *lease,
            _ => None,
        });
        if let Some(lease) = named {
            return CommitError::LeaseNotFound(lease);
        }
    }
    CommitError::Remote(client::fault(status))
}

impl Engine for Etcd {
    fn commit(
        &self,
        operations: Vec<Operation>,
    ) -> EngineFuture<'_, Result<TransactionCommitted, CommitError>> {
        Box::pin(self.transaction(operations))
    }

    fn fresh(&self) -> Option<EngineFuture<'_, Result<(), FreshError>>> {
        Some(Box::pin(async {
            if self.changes.is_closed() {
                return Err(FreshError::Closed);
            }
            self.fresh.wait(&self.follower).await
        }))
    }

    fn past(
        &self,
        range: &KeyRange,
        revision: Revision,
        limit: usize,
    ) -> EngineFuture<'_, Option<Result<RangeResult, ReadError>>> {
        let (range, limit) = (range.clone(), if limit == 0 { usize::MAX } else { limit });
        Box::pin(async move { past::range(&self.follower, &range, revision, limit).await })
    }

    fn compact(&self, revision: Revision) -> EngineFuture<'_, Result<(), CompactError>> {
        Box::pin(self.compact_now(revision))
    }

    fn grant_lease(&self, ttl: Duration) -> EngineFuture<'_, Result<LeaseId, LeaseError>> {
        Box::pin(async move { self.unless_closed(lease::grant(&self.follower.client, ttl)).await })
    }

    fn keep_alive(&self, lease: LeaseId) -> EngineFuture<'_, Result<Duration, LeaseError>> {
        Box::pin(async move { self.unless_closed(lease::keep_alive(&self.follower.client, lease)).await })
    }

    fn revoke_lease(&self, lease: LeaseId) -> EngineFuture<'_, Result<(), LeaseError>> {
        let revoked = async move {
            let revision = lease::revoke(&self.follower.client, lease).await?;
            let waited = fresh::wait_for(&self.follower, revision, VISIBLE).await;
            waited.map_err(|message| {
                LeaseError::Commit(CommitError::Remote(RemoteFault { message, may_have_happened: true }))
            })
        };
        Box::pin(self.unless_closed(revoked))
    }

    fn leases(&self) -> EngineFuture<'_, Result<Vec<(LeaseId, Duration)>, RemoteFault>> {
        Box::pin(async {
            lease::all(&self.follower.client).await.map_err(|status| client::read_fault(&status))
        })
    }

    fn close(&self) -> EngineFuture<'_, ()> {
        self.changes.close();
        Box::pin(async {
            // Each has its time limits. They are answered when the follower has seen them, so that goes on until then.
            self.changes.wait().await;
            self.end();
            self.follower.beside.wait().await;
            self.state().close();
        })
    }
}

impl Etcd {
    async fn unless_closed<T>(
        &self,
        answer: impl Future<Output = Result<T, LeaseError>>,
    ) -> Result<T, LeaseError> {
        let Some(_change) = self.begin() else { return Err(LeaseError::Commit(CommitError::Closed)) };
        answer.await
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.end();
        self.state().close();
    }
}
