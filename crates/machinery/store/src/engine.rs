//! The cut between the store and what makes its changes durable.
//!
//! An [`Engine`] decides (or has decided for it, as by etcd) whether a change may happen, gives it a revision and makes
//! it durable. It then tells the store through its [`Feed`], in revision order; the feed's state answers all reads and
//! watches. An engine never answers a commit before the commit's revision has been fed.
//!
//!
//! Two engines: `local`, on a disk of this machine, and `etcd`, on the machines of an etcd cluster.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::change::{Operation, TransactionCommitted};
use crate::error::{CommitError, CompactError, FreshError, LeaseError, ReadError, RemoteFault};
use crate::key::KeyRange;
use crate::record::{Event, EventKind, LeaseId, Record, Revision};
use crate::state::State;
use crate::store::RangeResult;

/// A boxed future, so that engines can be trait objects.
pub type EngineFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What makes changes durable.
///
/// Every method may be called from several tasks at once. Dropping a returned future gives up the answer, not the
/// change.
pub trait Engine: Debug + Send + Sync + 'static {
    /// Carries out the operations at one revision if all expectations hold; all or nothing. Each key occurs at most
    /// once. Answers when the change is durable and has been published.
    ///
    /// A conflict too is answered only when what it reports is durable and published.
    fn commit(
        &self,
        operations: Vec<Operation>,
    ) -> EngineFuture<'_, Result<TransactionCommitted, CommitError>>;

    /// Waits until everything that anybody was told of before this call can be read here. `None` if it always can,
    /// because nobody writes but through this engine.
    fn fresh(&self) -> Option<EngineFuture<'_, Result<(), FreshError>>> {
        None
    }

    /// Reads the first records (0: all) of a range as of a revision that the state has forgotten. `None` if the engine has
    /// forgotten it, too.
    fn past(
        &self,
        _range: &KeyRange,
        _revision: Revision,
        _limit: usize,
    ) -> EngineFuture<'_, Option<Result<RangeResult, ReadError>>> {
        Box::pin(std::future::ready(None))
    }

    /// Forgets the time before a revision, durably.
    fn compact(&self, revision: Revision) -> EngineFuture<'_, Result<(), CompactError>>;

    /// Grants a lease.
    fn grant_lease(&self, ttl: Duration) -> EngineFuture<'_, Result<LeaseId, LeaseError>>;

    /// Gives a lease its full time again, and tells it.
    fn keep_alive(&self, lease: LeaseId) -> EngineFuture<'_, Result<Duration, LeaseError>>;

    /// Ends a lease and deletes its keys.
    fn revoke_lease(&self, lease: LeaseId) -> EngineFuture<'_, Result<(), LeaseError>>;

    /// The durable leases with their full times, for a snapshot: all of them, or the reason why they are not known.
    fn leases(&self) -> EngineFuture<'_, Result<Vec<(LeaseId, Duration)>, RemoteFault>>;

    /// Takes no more changes (from the call on, not only when the future is polled), finishes those under way, and frees
    /// what the engine holds.
    fn close(&self) -> EngineFuture<'_, ()>;
}

/// One durable transaction: everything that happened at one revision.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its revision.
    pub revision: Revision,
    /// Its changes; each key at most once.
    pub events: Vec<Arc<Event>>,
}

/// Where an engine tells the store what is durable.
#[derive(Clone, Debug)]
pub struct Feed {
    pub(crate) state: Arc<State>,
}

impl Feed {
    /// A feed into a new state that holds these records as of a revision, and nothing of the time before.
    ///
    /// Records must be in key order, each key once.
    pub fn new(records: Vec<Arc<Record>>, revision: Revision) -> Feed {
        Feed { state: Arc::new(State::new(records, revision)) }
    }

    /// The newest revision that has been published.
    pub fn revision(&self) -> Revision {
        self.state.revision()
    }

    /// The newest published record of a key.
    pub fn get(&self, key: &[u8]) -> Option<Arc<Record>> {
        self.state.get(key)
    }

    /// The event of a put that brought this record, after what has been published so far.
    pub fn put_event(&self, record: Arc<Record>) -> Event {
        let previous = self.get(&record.key);
        let revision = record.mod_revision;
        Event { kind: EventKind::Put, record, previous, revision }
    }

    /// The event of the deletion of a key, after what has been published so far; `None` if it is not there.
    pub fn delete_event(&self, key: &[u8], revision: Revision) -> Option<Event> {
        let previous = self.get(key)?;
        let record = Arc::new(previous.deleted_at(revision));
        Some(Event { kind: EventKind::Delete, record, previous: Some(previous), revision })
    }

    /// Makes transactions visible and wakes who waits for them. Revisions must rise, over all calls; calls must not
    /// overlap.
    pub fn publish(&self, transactions: Vec<Published>) {
        self.state.publish(transactions);
    }

    /// Goes on from these records as of a revision, whatever happened in between: all that was published before can no
    /// longer be read, and watches that have not ended by then are told so.
    ///
    /// Records must be in key order, each key once, the revision newer than any published.
    pub fn reset(&self, records: &[Arc<Record>], revision: Revision) {
        self.state.reset(records, revision);
    }

    /// Makes the time before a revision unreadable, and frees it.
    pub fn compact(&self, revision: Revision) {
        self.state.compact(revision);
        self.state.trim();
    }
}
