//! What can go wrong, by what was asked.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::key::Key;
use crate::record::{LeaseId, Record, Revision};

/// A store that could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process (or another `Store` of this one) has the directory open.
    #[error("the store in {dir} is in use by another process")]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// Data that was once durable is damaged. Nothing has been changed; restore a snapshot, or move the file away
    /// knowing what is lost.
    #[error("{file} is damaged at byte {offset}: {problem}")]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where in it the damage is.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// A file that the store needs is not there.
    #[error("{file} is missing: {problem}")]
    Missing {
        /// The missing file.
        file: PathBuf,
        /// How it is known to be missing.
        problem: String,
    },
    /// The operating system refused something.
    #[error("cannot {step} {path}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// With which file.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// The machines that keep the store could not be used.
    #[error("cannot use etcd at {endpoints}: {problem}")]
    Remote {
        /// Where they are.
        endpoints: String,
        /// What is wrong.
        problem: String,
    },
}

/// Why the disk did not take a write.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {step} {path}")]
pub struct StorageFault {
    /// What was being done.
    pub step: &'static str,
    /// With which file.
    pub path: PathBuf,
    /// The refusal.
    pub source: Arc<io::Error>,
}

/// Why a store on other machines did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RemoteFault {
    /// What it answered, in its own words, or why there was no answer.
    pub message: String,
    /// Whether what was asked may have happened, or may still happen.
    pub may_have_happened: bool,
}

/// A commit that did not happen, or of which it is not known.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// An expectation did not hold. Nothing was changed.
    #[error("{key} is not as expected")]
    Conflict {
        /// The first key whose expectation did not hold.
        key: Key,
        /// What is there: durable and visible by now.
        current: Option<Arc<Record>>,
    },
    /// A put named a lease that does not exist (any more). Nothing was changed.
    #[error("lease {0} does not exist")]
    LeaseNotFound(LeaseId),
    /// The operations cannot be carried out by any store. Nothing was changed.
    #[error("{0}")]
    Invalid(&'static str),
    /// The disk is full. The write has not happened; reads go on, and writes succeed again once there is room.
    #[error("no space left for the store")]
    NoSpace(#[source] StorageFault),
    /// The disk failed. The write is not visible now; unless a later write succeeds, it may be after a restart.
    #[error("the store's disk failed")]
    Storage(#[source] StorageFault),
    /// The machines that keep the store refused, or did not answer in time.
    #[error("{0}")]
    Remote(RemoteFault),
    /// The store is closed. Nothing was changed.
    #[error("the store is closed")]
    Closed,
}

impl CommitError {
    /// Whether the same call may succeed later without anybody changing it.
    pub fn is_transient(&self) -> bool {
        match self {
            CommitError::NoSpace(_) | CommitError::Storage(_) => true,
            CommitError::Remote(fault) => !fault.may_have_happened,
            _ => false,
        }
    }
}

/// A read that cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The revision has been compacted.
    #[error("the revision has been compacted; the oldest kept is {compacted}")]
    Compacted {
        /// The oldest revision that can be read.
        compacted: Revision,
    },
    /// The revision has not happened yet.
    #[error("the revision is in the future; the newest is {current}")]
    Future {
        /// The newest revision.
        current: Revision,
    },
    /// The machines that keep the store were asked for a past that is not here any more, and did not answer.
    #[error("{0}")]
    Remote(RemoteFault),
}

/// A watch that cannot start or go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// Events after the asked revision have been compacted: list, then watch from the list's revision.
    #[error("the revision has been compacted; watches may start after {compacted}")]
    Compacted {
        /// The oldest revision after which a watch may start.
        compacted: Revision,
    },
    /// The watcher did not keep up: events that it had not fetched have been compacted. It gets nothing more.
    #[error("the watcher fell behind: it had seen revision {seen}, events up to {compacted} are gone")]
    TooSlow {
        /// Up to where the watcher had seen everything.
        seen: Revision,
        /// Up to where events are gone.
        compacted: Revision,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// A compaction that did not happen.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CompactError {
    /// The revision has been compacted before.
    #[error("the revision has been compacted already, up to {compacted}")]
    Compacted {
        /// Up to where.
        compacted: Revision,
    },
    /// The revision has not happened yet.
    #[error("the revision is in the future; the newest is {current}")]
    Future {
        /// The newest revision.
        current: Revision,
    },
    /// The compaction could not be recorded.
    #[error("the compaction could not be recorded")]
    Commit(#[source] CommitError),
}

/// It is not known whether what can be read is the newest there is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FreshError {
    /// The machines that keep the store did not say.
    #[error("{0}")]
    Remote(RemoteFault),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// A lease operation that did not happen.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LeaseError {
    /// There is no such lease (any more).
    #[error("lease {0} does not exist")]
    NotFound(LeaseId),
    /// It could not be recorded.
    #[error("the lease could not be recorded")]
    Commit(#[source] CommitError),
}

/// A snapshot that could not be taken or restored.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The target exists already; it is not overwritten.
    #[error("{path} exists already")]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// The snapshot file is damaged.
    #[error("{file} is damaged at byte {offset}: {problem}")]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where in it the damage is.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// It is not known which leases there are, and without them their keys would never end.
    #[error("the leases are not known")]
    Leases(#[source] RemoteFault),
    /// The operating system refused something.
    #[error("cannot {step} {path}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// With which file.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// A snapshot that was not put into a store, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The snapshot cannot be read. Nothing was changed.
    #[error("the snapshot cannot be read")]
    Snapshot(#[from] SnapshotError),
    /// The store holds something already. Nothing was changed.
    #[error("the store is not empty: it holds {keys} keys")]
    NotEmpty {
        /// How many.
        keys: u64,
    },
    /// A lease could not be granted. No key was put.
    #[error("a lease could not be granted")]
    Lease(#[source] LeaseError),
    /// A commit failed. What was put before stays: empty the store before trying again.
    #[error("not everything could be put; {put} keys were, and are in the store now")]
    Commit {
        /// How many keys had been put.
        put: u64,
        /// Why the next were not.
        source: CommitError,
    },
}
