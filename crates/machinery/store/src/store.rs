//! The door: what the API server uses.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::backup;
use crate::change::{Change, Committed, Expect, Operation, TransactionCommitted};
use crate::config::{Config, History};
use crate::disk::RealDisk;
use crate::engine::{Engine, Feed};
use crate::error::{
    CommitError, CompactError, FreshError, ImportError, LeaseError, OpenError, ReadError, SnapshotError,
    WatchError,
};
use crate::etcd::{Etcd, EtcdConfig};
use crate::import;
use crate::key::{Key, KeyRange};
use crate::local::Local;
use crate::record::{LeaseId, Record, Revision};
use crate::state::State;
use crate::watch::{WatchOptions, WatchStart, Watcher};

/// How a range is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeOptions {
    /// Read as of this revision; `None` for the newest.
    pub revision: Option<Revision>,
    /// The most records returned; 0 for all.
    pub limit: usize,
}

/// What a range held at one revision.
#[derive(Clone, Debug)]
pub struct RangeResult {
    /// The records, in key order.
    pub records: Vec<Arc<Record>>,
    /// Whether there are more behind the limit.
    pub more: bool,
    /// How many there are behind the limit.
    pub remaining: u64,
    /// The revision that was read: all records are as of it.
    pub revision: Revision,
}

/// A store. Clones are the same store; it closes when [`Store::close`] is called or the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Store {
    state: Arc<State>,
    engine: Arc<dyn Engine>,
}

impl Store {
    /// Opens the embedded store in a directory, recovering what was acknowledged before.
    pub async fn open(config: Config) -> Result<Store, OpenError> {
        let dir = config.dir.clone();
        let opened = tokio::task::spawn_blocking(move || Local::open(&config, &config.disk)).await;
        let (engine, state) = opened.map_err(|error| OpenError::Io {
            step: "recover",
            path: dir,
            source: io::Error::other(error),
        })??;
        Ok(Store { state, engine: Arc::new(engine) })
    }

    /// A store without a disk, for tests: everything but durability, and commits are answered without waiting.
    pub fn memory() -> Store {
        Store::memory_with(History::default())
    }

    /// A store without a disk that keeps this much of the past.
    pub fn memory_with(history: History) -> Store {
        let (engine, state) = Local::memory(history);
        Store { state, engine: Arc::new(engine) }
    }

    /// Opens a store that an etcd cluster keeps, reading everything that is there.
    pub async fn open_etcd(config: EtcdConfig) -> Result<Store, OpenError> {
        let (engine, state) = Etcd::open(config).await?;
        Ok(Store { state, engine: Arc::new(engine) })
    }

    /// A store over an engine that feeds it.
    pub fn over(feed: &Feed, engine: Arc<dyn Engine>) -> Store {
        Store { state: Arc::clone(&feed.state), engine }
    }

    /// The newest revision that is committed and visible.
    pub fn revision(&self) -> Revision {
        self.state.revision()
    }

    /// The oldest revision that can be read, and after which a watch may start.
    pub fn compacted_revision(&self) -> Revision {
        self.state.compacted()
    }

    /// The newest record of a key. Never waits for the disk.
    pub fn get(&self, key: &[u8]) -> Option<Arc<Record>> {
        self.state.get(key)
    }

    /// The records of a range, consistent as of one revision.
    pub fn range(&self, range: &KeyRange, options: RangeOptions) -> Result<RangeResult, ReadError> {
        self.state.range(range, &options, 0, &mut |_| true)
    }

    /// As [`Store::range`], of the records that `keep` wants; the others are not counted. It is asked once about each
    /// whose mark has all of `bits` or was never set ([`Record::set_mark`]), in key order, and nobody waits for it.
    pub fn range_where(
        &self,
        range: &KeyRange,
        options: RangeOptions,
        bits: u64,
        mut keep: impl FnMut(&Record) -> bool,
    ) -> Result<RangeResult, ReadError> {
        self.state.range(range, &options, bits, &mut |record| keep(record))
    }

    /// As [`Store::range`], but where the revision has been forgotten here and the engine still has it, of that: what
    /// another machine, or this one before a restart, read.
    ///
    /// Errors: those of [`Store::range`], and [`ReadError::Remote`].
    pub async fn range_at(&self, range: &KeyRange, options: RangeOptions) -> Result<RangeResult, ReadError> {
        let here = self.range(range, options);
        let (Err(ReadError::Compacted { .. }), Some(revision)) = (&here, options.revision) else {
            return here;
        };
        self.engine.past(range, revision, options.limit).await.unwrap_or(here)
    }

    /// Waits until reads are at least as new as everything that anybody, on any machine, was told of before this call.
    /// At once, unless others write to the same store.
    pub async fn fresh(&self) -> Result<(), FreshError> {
        match self.engine.fresh() {
            Some(fresh) => fresh.await,
            None => Ok(()),
        }
    }

    /// How many keys the range holds now.
    pub fn count(&self, range: &KeyRange) -> u64 {
        self.state.count(range)
    }

    /// Changes one key if it is as expected. On success the change is durable and visible.
    ///
    /// Dropping the future does not take the change back.
    pub async fn commit(&self, key: Key, expect: Expect, change: Change) -> Result<Committed, CommitError> {
        let mut committed = self.transaction(vec![(key, expect, change)]).await?;
        Ok(committed.results.pop().expect("an engine answers each operation"))
    }

    /// Changes several keys at one revision if all are as expected: all or nothing. A key may occur once.
    pub async fn transaction(&self, operations: Vec<Operation>) -> Result<TransactionCommitted, CommitError> {
        self.engine.commit(operations).await
    }

    /// Watches a range.
    pub fn watch(
        &self,
        range: KeyRange,
        start: WatchStart,
        options: WatchOptions,
    ) -> Result<Watcher, WatchError> {
        Watcher::new(&self.state, range, start, &options)
    }

    /// Forgets the past before a revision: it stays readable, earlier ones are not, nor may watches start before it.
    pub async fn compact(&self, revision: Revision) -> Result<(), CompactError> {
        self.engine.compact(revision).await
    }

    /// Writes a snapshot of the newest revision to a new file, while the store runs. Returns the revision it holds.
    pub async fn snapshot(&self, path: &Path) -> Result<Revision, SnapshotError> {
        // In this order: a lease that a pinned record names and that is not among these has ended since.
        let pin = self.state.pin_newest();
        let leases = self.engine.leases().await.map_err(SnapshotError::Leases)?;
        let to = path.to_path_buf();
        let written = tokio::task::spawn_blocking(move || backup::write(&RealDisk, &pin, leases, &to));
        written.await.map_err(|error| SnapshotError::Io {
            step: "write",
            path: path.to_path_buf(),
            source: io::Error::other(error),
        })?
    }

    /// Makes a store directory from a snapshot file. The directory must not hold a store. Returns its revision.
    ///
    /// Blocks: call it before there is a runtime, or from a thread that may block.
    pub fn restore(from: &Path, to_dir: &Path) -> Result<Revision, SnapshotError> {
        backup::restore(&RealDisk, from, to_dir)
    }

    /// Puts everything of a snapshot file into this store, which must be empty. Records get new revisions here. Returns how
    /// many keys there were.
    pub async fn import(&self, from: &Path) -> Result<u64, ImportError> {
        import::import(self, from).await
    }

    /// Grants a lease: keys put with it are deleted when it has not been kept alive for `ttl`, or is revoked. After a
    /// restart every lease starts again with its full time.
    pub async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, LeaseError> {
        self.engine.grant_lease(ttl).await
    }

    /// Gives the lease its full time again. Returns that time.
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, LeaseError> {
        self.engine.keep_alive(lease).await
    }

    /// Ends the lease and deletes its keys, at one revision.
    pub async fn revoke_lease(&self, lease: LeaseId) -> Result<(), LeaseError> {
        self.engine.revoke_lease(lease).await
    }

    #[cfg(test)]
    pub(crate) fn state_for_tests(&self) -> &State {
        &self.state
    }

    /// Waits until the revision is visible, or the store is closed.
    pub async fn wait_for(&self, revision: Revision) {
        self.state.wait_for(revision).await;
    }

    /// Stops taking writes, finishes those under way, ends all watches and releases the directory. Reads go on.
    pub async fn close(&self) {
        self.engine.close().await;
        self.state.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineFuture, Published};
    use crate::error::RemoteFault;

    /// An engine that does not know its leases.
    #[derive(Debug)]
    struct Forgetful;

    fn never<T: Send>() -> EngineFuture<'static, T> {
        Box::pin(async { unreachable!("a snapshot asks for leases only") })
    }

    impl Engine for Forgetful {
        fn commit(&self, _: Vec<Operation>) -> EngineFuture<'_, Result<TransactionCommitted, CommitError>> {
            never()
        }

        fn compact(&self, _: Revision) -> EngineFuture<'_, Result<(), CompactError>> {
            never()
        }

        fn grant_lease(&self, _: Duration) -> EngineFuture<'_, Result<LeaseId, LeaseError>> {
            never()
        }

        fn keep_alive(&self, _: LeaseId) -> EngineFuture<'_, Result<Duration, LeaseError>> {
            never()
        }

        fn revoke_lease(&self, _: LeaseId) -> EngineFuture<'_, Result<(), LeaseError>> {
            never()
        }

        fn leases(&self) -> EngineFuture<'_, Result<Vec<(LeaseId, Duration)>, RemoteFault>> {
            let fault = RemoteFault { message: "nobody answers".to_owned(), may_have_happened: false };
            Box::pin(std::future::ready(Err(fault)))
        }

        fn close(&self) -> EngineFuture<'_, ()> {
            never()
        }
    }

    #[tokio::test]
    async fn a_snapshot_without_its_leases_is_none() {
        let feed = Feed::new(Vec::new(), 1);
        let store = Store::over(&feed, Arc::new(Forgetful));
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("snapshot");
        let refused = store.snapshot(&file).await;
        assert!(matches!(refused, Err(SnapshotError::Leases(_))), "{refused:?}");
        assert_eq!(dir.path().read_dir().expect("listed").count(), 0, "nothing is left behind");
        feed.publish(vec![Published { revision: 2, events: Vec::new() }]);
        feed.compact(2);
        assert!(!store.state.is_held_back(), "its pin went with it");
    }
}
