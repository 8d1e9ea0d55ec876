//! Podium's revisioned key-value store.
//!
//! Keys, values and revisions with etcd's meaning, over an engine that makes changes durable. One in-memory state
//! serves reads and watches for every engine; it is also the API server's watch cache, so nothing is held twice.
//!
//! What is promised, for every engine:
//!
//! - **Writes are strictly serialisable.** [`Store::commit`] and [`Store::transaction`] check their expectations and
//!   change their keys at one point in time, between call and answer. Each one that changes something has a
//!   [`Revision`] of its own; revisions rise by one and never go backwards, not even over a crash.
//! - **Durable before visible, visible before acknowledged.** Nobody (reader, watcher, or a writer that is told of a
//!   conflict) sees a change that a crash could take back, and who has been told of a success can read it at once.
//! - **Watches are ordered, unique, complete and resumable.** A [`Watcher`] started after revision `r` gets each change
//!   of its range after `r` once, in revision order, all changes of one revision in one batch; or it ends with an error
//!   that says why. It never skips silently.
//!
//! A fresh store is at revision 1, as etcd's is; its first change gets revision 2.
//!
//! Shape of the crate: [`Store`] is the door. `state` holds the keys, their kept history and the rings of events that
//! watchers are cursors into. [`engine`] is the cut between that and durability; `local` is the embedded engine
//! (sequencer, leases, append-only log, checkpoints); `etcd` keeps a store on an etcd cluster.

mod backup;
mod change;
mod config;
mod disk;
pub mod engine;
mod error;
mod etcd;
#[cfg(test)]
mod faults;
mod import;
mod key;
mod local;
mod log;
mod record;
mod retention;
mod ring;
mod snapshot;
mod state;
mod store;
mod tree;
mod watch;

pub use change::{Change, Committed, Expect, Operation, TransactionCommitted};
pub use config::{Config, History};
pub use error::{
    CommitError, CompactError, FreshError, ImportError, LeaseError, OpenError, ReadError, RemoteFault,
    SnapshotError, StorageFault, WatchError,
};
pub use etcd::codec::{Codec, Plain};
pub use etcd::{EtcdConfig, EtcdTls};
pub use key::{Key, KeyRange};
pub use record::{Event, EventKind, LeaseId, Record, Revision, Value};
pub use store::{RangeOptions, RangeResult, Store};
pub use watch::{WatchBatch, WatchOptions, WatchStart, Watcher};
