//! From the log thread to the publisher: batches that are durable, in order.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

use crate::local::sequencer::Item;

/// Batches that may wait for the publisher: what is written meanwhile is not answered anyway, so two are as good as many.
const WAITING: usize = 2;

/// The queue between the two threads.
#[derive(Debug, Default)]
pub(super) struct Handoff {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Vec<Item>>,
    /// Whether the publisher works on one.
    busy: bool,
    /// No more will come.
    ending: bool,
    /// The publisher has ended.
    ended: bool,
}

impl Handoff {
    /// Whether the publisher has nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        let inner = self.inner.lock();
        inner.waiting.is_empty() && !inner.busy
    }

    /// Hands over; waits while too much waits already. If the publisher has ended, the batch is dropped unanswered.
    pub(super) fn put(&self, batch: Vec<Item>) {
        let mut inner = self.inner.lock();
        while inner.waiting.len() >= WAITING && !inner.ended {
            self.changed.wait(&mut inner);
        }
        if !inner.ended {
            inner.waiting.push_back(batch);
            drop(inner);
            self.changed.notify_all();
        }
    }

    /// Waits until everything handed over has been dealt with.
    pub(super) fn wait_until_idle(&self) {
        let mut inner = self.inner.lock();
        while !inner.ended && (inner.busy || !inner.waiting.is_empty()) {
            self.changed.wait(&mut inner);
        }
    }

    /// The next batch, for the publisher; `None` once all is done and no more will come.
    pub(super) fn take(&self) -> Option<Vec<Item>> {
        let mut inner = self.inner.lock();
        loop {
            if let Some(batch) = inner.waiting.pop_front() {
                inner.busy = true;
                return Some(batch);
            }
            if inner.ending {
                return None;
            }
            self.changed.wait(&mut inner);
        }
    }

    /// The batch that was taken has been dealt with.
    pub(super) fn done(&self) {
        self.inner.lock().busy = false;
        self.changed.notify_all();
    }

    /// No more will come. Waits until everything handed over has been dealt with.
    pub(super) fn end(&self) {
        self.inner.lock().ending = true;
        self.changed.notify_all();
        self.wait_until_idle();
    }

    /// Whether the publisher is gone.
    pub(super) fn has_ended(&self) -> bool {
        self.inner.lock().ended
    }
}

/// However the publisher's thread ends, nobody must wait for it.
pub(super) struct End<'a>(pub(super) &'a Handoff);

impl Drop for End<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.inner.lock();
        inner.ended = true;
        inner.waiting.clear();
        drop(inner);
        self.0.changed.notify_all();
    }
}
