//! Watchers: cursors into the rings of events.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::WatchError;
use crate::key::KeyRange;
use crate::record::{Event, Revision};
use crate::ring::{Found, Ring};
use crate::state::State;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
pub struct Watcher {
    state: Arc<State>,
    ring: Arc<Ring>,
    range: KeyRange,
    /// Everything up to here has been handed out (or was not asked for).
    cursor: Revision,
    batch: usize,
    failed: Option<WatchError>,
    /// The newest progress told, so that it never goes backwards.
    reported: AtomicU64,
}

impl Watcher {
    pub(crate) fn new(
        state: &Arc<State>,
        range: KeyRange,
        start: WatchStart,
        options: &WatchOptions,
    ) -> Result<Watcher, WatchError> {
        if state.is_closed() {
            return Err(WatchError::Closed);
        }
        // The ring is taken first: from then on it is not replaced by another.
        let ring = state.ring_for(&range);
        let cursor = match start {
            // Where everything is new, there is nothing before the oldest kept.
            WatchStart::Now => state.revision().max(state.compacted()),
            WatchStart::After(revision) => revision,
        };
        let compacted = state.compacted();
        if cursor < compacted {
            return Err(WatchError::Compacted { compacted });
        }
        Ok(Watcher {
            state: Arc::clone(state),
            ring,
            range,
            cursor,
            batch: options.batch.max(1),
            failed: None,
            reported: AtomicU64::new(cursor),
        })
    }

    /// The next events of the range. Waits until there are some.
    ///
    /// Cancel-safe: events are taken only by a call that returns them. After an error every call returns that error.
    pub async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        loop {
            let ring = Arc::clone(&self.ring);
            // Made before looking, so that nothing is missed between looking and waiting.
            let changed = ring.changed.notified();
            let closed = self.state.is_closed();
            if let Some(batch) = self.take()? {
                return Ok(batch);
            }
            if closed {
                self.failed = Some(WatchError::Closed);
                return Err(WatchError::Closed);
            }
            changed.await;
        }
    }

    /// What [`Watcher::next`] would return at once, if anything.
    pub fn try_next(&mut self) -> Result<Option<WatchBatch>, WatchError> {
        let closed = self.state.is_closed();
        match self.take()? {
            None if closed => {
                self.failed = Some(WatchError::Closed);
                Err(WatchError::Closed)
            }
            batch => Ok(batch),
        }
    }

    fn take(&mut self) -> Result<Option<WatchBatch>, WatchError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let visible = self.state.revision();
        match self.ring.read(&self.range, self.cursor, visible, self.batch) {
            Found::Events(events, progress) => {
                self.cursor = progress;
                Ok(Some(WatchBatch { events, progress }))
            }
            Found::Nothing(progress) => {
                self.cursor = progress;
                Ok(None)
            }
            Found::FellOff => {
                // Not what the ring has lost so far: it loses piece by piece what has been compacted before.
                let error = WatchError::TooSlow { seen: self.cursor, compacted: self.state.compacted() };
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    /// The watcher has seen everything of its range up to this revision, even if nothing there matched. Never goes
    /// backwards, and never runs ahead of events that have not been handed out: what a bookmark may say.
    pub fn progress(&self) -> Revision {
        if self.failed.is_none() {
            // In this order: an event up to `visible` is in the ring by now.
            let visible = self.state.revision();
            let seen = match self.ring.first_after(self.cursor) {
                None => visible,
                Some(undelivered) => visible.min(undelivered - 1),
            };
            self.reported.fetch_max(seen.max(self.cursor), Ordering::Relaxed);
        }
        self.reported.load(Ordering::Relaxed)
    }

    /// The watched range.
    pub fn range(&self) -> &KeyRange {
        &self.range
    }
}
