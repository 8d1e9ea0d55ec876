//! What a writer asks for and is told.

use std::sync::Arc;

use crate::key::Key;
use crate::record::{LeaseId, Record, Revision, Value};

/// What must be true of a key for a change to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Anything.
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists.
    Exists,
    /// The key exists and was last changed at this revision. Revision 0 means that the key does not exist, as in etcd.
    ModRevision(Revision),
}

impl Expect {
    /// Whether the expectation holds of what is there now.
    pub fn holds(self, current: Option<&Record>) -> bool {
        match (self, current) {
            (Expect::Any, _) => true,
            (Expect::Absent, current) | (Expect::ModRevision(0), current) => current.is_none(),
            (Expect::Exists, current) => current.is_some(),
            (Expect::ModRevision(revision), Some(record)) => record.mod_revision == revision,
            (Expect::ModRevision(_), None) => false,
        }
    }
}

/// What to do with a key.
#[derive(Clone, Debug)]
pub enum Change {
    /// Create or replace it.
    Put {
        /// The new value.
        value: Value,
        /// The lease whose end deletes the key; `None` detaches it from the lease it had.
        lease: Option<LeaseId>,
    },
    /// Delete it. Deleting what is not there changes nothing and takes no revision.
    Delete,
    /// Nothing: the operation only checks its expectation, as part of a transaction.
    Check,
}

impl Change {
    /// A put without a lease.
    pub fn put(value: impl Into<Value>) -> Change {
        Change::Put { value: value.into(), lease: None }
    }
}

/// One key's part of a transaction.
pub type Operation = (Key, Expect, Change);

/// The answer to a commit: it is durable and visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The revision of the change; the newest revision that the answer depends on if nothing changed.
    pub revision: Revision,
    /// After a put, the new record. After a delete, the final record with the deletion's revision, the same that
    /// watchers get; `None` if there was nothing to delete. For [`Change::Check`], the record as it is.
    pub record: Option<Arc<Record>>,
    /// The record before the change; `None` if there was none.
    pub previous: Option<Arc<Record>>,
}

/// The answer to a transaction: all of it happened at one revision, durable and visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionCommitted {
    /// The revision of the transaction; the newest revision that the answer depends on if nothing changed.
    pub revision: Revision,
    /// One answer for each operation, in their order.
    pub results: Vec<Committed>,
}
