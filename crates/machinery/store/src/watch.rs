//! Watchers: cursors into the rings of events.

use std::sync::Arc;

use crate::error::WatchError;
use crate::record::{Event, Revision};

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchStart {
    /// With the first change after this revision. If that has not happened yet, the watch waits for it and leaves out
    /// everything up to it, as etcd's does.
    After(Revision),
    /// With the first change after the newest visible revision.
    Now,
}

/// How a watch behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchOptions {
    /// About the most events in one batch. A batch always holds complete revisions, so it may have more.
    pub batch: usize,
}

impl Default for WatchOptions {
    /// 256 events: enough that the lock and the wake-up are shared, little enough that one watcher does not hold the
    /// ring for long.
    fn default() -> WatchOptions {
        WatchOptions { batch: 256 }
    }
}

/// What a watcher is handed at once.
#[derive(Clone, Debug)]
pub struct WatchBatch {
    /// The events, never empty, in revision order; complete revisions only.
    pub events: Vec<Arc<Event>>,
    /// The watcher has now seen everything of its range up to this revision.
    pub progress: Revision,
}

/// A watch on a range: a cursor into the ring of events, and nothing more, so it costs nothing while it waits.
#[derive(Debug)]
pub struct Watcher {}

impl Watcher {
    /// The next events of the range. Waits until there are some.
    ///
    /// Cancel-safe: events are taken only by a call that returns them. After an error every call returns that error.
    pub async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        todo!()
    }

    /// The watcher has seen everything of its range up to this revision, even if nothing there matched. Never goes
    /// backwards, and never runs ahead of events that have not been handed out: what a bookmark may say.
    pub fn progress(&self) -> Revision {
        todo!()
    }
}
