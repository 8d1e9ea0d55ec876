//! The door: what the API server uses.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::change::{Change, Committed, Expect, Operation, TransactionCommitted};
use crate::config::Config;
use crate::error::{CommitError, CompactError, LeaseError, OpenError, ReadError, SnapshotError, WatchError};
use crate::key::{Key, KeyRange};
use crate::record::{LeaseId, Record, Revision};
use crate::watch::{WatchOptions, WatchStart, Watcher};

/// How a range is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
pub struct Store {}

#[allow(unused_variables, clippy::unused_async)]
impl Store {
    /// Opens the embedded store in a directory, recovering what was acknowledged before.
    pub async fn open(config: Config) -> Result<Store, OpenError> {
        todo!()
    }

    /// A store without a disk, for tests: everything but durability, and commits are answered without waiting.
    pub fn memory() -> Store {
        todo!()
    }

    /// The newest revision that is committed and visible.
    pub fn revision(&self) -> Revision {
        todo!()
    }

    /// The oldest revision that can be read, and after which a watch may start.
    pub fn compacted_revision(&self) -> Revision {
        todo!()
    }

    /// The newest record of a key. Never waits for the disk.
    pub fn get(&self, key: &[u8]) -> Option<Arc<Record>> {
        todo!()
    }

    /// The records of a range, consistent as of one revision.
    pub fn range(&self, range: &KeyRange, options: RangeOptions) -> Result<RangeResult, ReadError> {
        todo!()
    }

    /// How many keys the range holds now.
    pub fn count(&self, range: &KeyRange) -> u64 {
        todo!()
    }

    /// Changes one key if it is as expected. On success the change is durable and visible.
    ///
    /// Dropping the future does not take the change back.
    pub async fn commit(&self, key: Key, expect: Expect, change: Change) -> Result<Committed, CommitError> {
        todo!()
    }

    /// Changes several keys at one revision if all are as expected: all or nothing. A key may occur once.
    pub async fn transaction(&self, operations: Vec<Operation>) -> Result<TransactionCommitted, CommitError> {
        todo!()
    }

    /// Watches a range.
    pub fn watch(
        &self,
        range: KeyRange,
        start: WatchStart,
        options: WatchOptions,
    ) -> Result<Watcher, WatchError> {
        todo!()
    }

    /// Forgets the past before a revision: it stays readable, earlier ones are not, nor may watches start before it.
    pub async fn compact(&self, revision: Revision) -> Result<(), CompactError> {
        todo!()
    }

    /// Writes a snapshot of the newest revision to a new file, while the store runs. Returns the revision it holds.
    pub async fn snapshot(&self, path: &Path) -> Result<Revision, SnapshotError> {
        todo!()
    }

    /// Makes a store directory from a snapshot file. The directory must not hold a store. Returns its revision.
    pub fn restore(from: &Path, to_dir: &Path) -> Result<Revision, SnapshotError> {
        todo!()
    }

    /// Grants a lease: keys put with it are deleted when it has not been kept alive for `ttl`, or is revoked. After a
    /// restart every lease starts again with its full time.
    pub async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, LeaseError> {
        todo!()
    }

    /// Gives the lease its full time again. Returns that time.
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, LeaseError> {
        todo!()
    }

    /// Ends the lease and deletes its keys, at one revision.
    pub async fn revoke_lease(&self, lease: LeaseId) -> Result<(), LeaseError> {
        todo!()
    }

    /// Waits until the revision is visible.
    pub async fn wait_for(&self, revision: Revision) {
        todo!()
    }

    /// Stops taking writes, finishes those under way, ends all watches and releases the directory. Reads go on.
    pub async fn close(&self) {
        todo!()
    }
}
