//! How a store is opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::disk::{Disk, RealDisk};

/// How much of the past is kept for reads at a revision and for watches that resume. Older history is compacted as soon
/// as one of the limits is passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Compact by itself. Off, only [`crate::Store::compact`] does, and memory and disk grow until then.
    pub automatic: bool,
    /// The longest time that a revision is kept.
    pub age: Duration,
    /// The most revisions kept.
    pub revisions: u64,
    /// The most bytes of superseded values kept. Beyond `small_bytes` the history is also kept below half the size of
    /// the live data, so that many overwrites of little data stay small in memory and on disk.
    pub bytes: u64,
    /// Below this many bytes the history is never compacted because of its size.
    pub small_bytes: u64,
}

impl Default for History {
    /// Five minutes, as upstream's API server lets etcd keep; 100,000 revisions, the most that upstream's watch cache
    /// keeps of one resource; 64 MiB, which stays within the memory budget of a node under load.
    fn default() -> History {
        History {
            automatic: true,
            age: Duration::from_secs(300),
            revisions: 100_000,
            bytes: 64 << 20,
            small_bytes: 8 << 20,
        }
    }
}

/// How an embedded store is opened.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory of the store; created (0700) if missing. One process at a time may have it open.
    pub dir: PathBuf,
    /// A log segment is closed when it has grown beyond this many bytes.
    pub segment_bytes: u64,
    /// What is kept of the past.
    pub history: History,
    /// The file system; tests have others than the machine's.
    pub(crate) disk: Arc<dyn Disk>,
}

impl Config {
    /// A store in this directory with the usual settings.
    pub fn new(dir: impl Into<PathBuf>) -> Config {
        // 16 MiB: small enough that space comes back soon after compaction, large enough that rotation (two fsyncs)
        // is lost in the noise.
        Config {
            dir: dir.into(),
            segment_bytes: 16 << 20,
            history: History::default(),
            disk: Arc::new(RealDisk),
        }
    }
}
