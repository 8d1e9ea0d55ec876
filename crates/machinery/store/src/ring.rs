//! Rings of events: what watchers are cursors into.
//!
//! There is one ring for each collection of keys, so that the watchers of pods neither wake nor search when leases are
//! renewed, and one for everything, for the few watches that span collections. A ring is written by one thread at a
//! time, under the state's lock; watchers read it under its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::key::KeyRange;
use crate::record::{Event, Revision};

/// The kept events of one collection, or of all.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    kept: RwLock<Kept>,
    /// The newest revision in the ring; written before that revision becomes visible.
    last: AtomicU64,
    /// Notified after a revision with events in this ring became visible, and when the store closes.
    pub(crate) changed: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    /// In revision order; events of one revision stand together.
    events: VecDeque<Arc<Event>>,
    /// The newest revision of which events have been dropped, or up to which events may be missing.
    dropped: Revision,
}

/// What a cursor finds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Events, and up to where they are complete.
    Events(Vec<Arc<Event>>, Revision),
    /// Nothing matches up to this revision.
    Nothing(Revision),
    /// Events behind the cursor are gone.
    FellOff,
}

impl Ring {
    #[cfg(test)]
    pub(crate) fn push(&self, event: Arc<Event>) {
        self.extend([event]);
    }

    /// Adds events, in revision order and newer than all before.
    pub(crate) fn extend(&self, events: impl IntoIterator<Item = Arc<Event>>) {
        let mut kept = self.kept.write();
        kept.events.extend(events);
        let Some(revision) = kept.events.back().map(|event| event.revision) else { return };
        drop(kept);
        // Never backwards: nothing may have been added since a cut. Release is not enough to be seen early, but readers
        // load the visible revision (stored later) with Acquire first, which orders this before their load.
        self.last.fetch_max(revision, Ordering::Release);
    }

    /// The newest revision that has an event here, dropped or kept, or that was cut; 0 for none.
    pub(crate) fn last(&self) -> Revision {
        self.last.load(Ordering::Acquire)
    }

    /// The revision of the first event behind a cursor. If such events were dropped, right behind the cursor.
    pub(crate) fn first_after(&self, cursor: Revision) -> Option<Revision> {
        if self.last() <= cursor {
            return None;
        }
        let kept = self.kept.read();
        if cursor < kept.dropped {
            return Some(cursor + 1);
        }
        let index = kept.events.partition_point(|event| event.revision <= cursor);
        kept.events.get(index).map(|event| event.revision)
    }

    /// The revision of the oldest kept event.
    pub(crate) fn oldest(&self) -> Option<Revision> {
        self.kept.read().events.front().map(|event| event.revision)
    }

    /// The revision of the first event, from the oldest on, that is what is looked for.
    pub(crate) fn find(&self, mut is_it: impl FnMut(&Event) -> bool) -> Option<Revision> {
        self.kept.read().events.iter().find(|event| is_it(event)).map(|event| event.revision)
    }

    pub(crate) fn pop(&self) -> Option<Arc<Event>> {
        let mut kept = self.kept.write();
        let event = kept.events.pop_front()?;
        kept.dropped = kept.dropped.max(event.revision);
        if kept.events.capacity() > 4 * kept.events.len() + 64 {
            let len = kept.events.len();
            kept.events.shrink_to(2 * len);
        }
        Some(event)
    }

    /// Cuts off every cursor before this revision: what happened up to it is not all known.
    pub(crate) fn cut(&self, revision: Revision) {
        let mut kept = self.kept.write();
        kept.dropped = kept.dropped.max(revision);
        drop(kept);
        self.last.fetch_max(revision, Ordering::AcqRel);
    }

    pub(crate) fn len(&self) -> usize {
        self.kept.read().events.len()
    }

    /// The events of the range after `cursor`, up to `visible`; about `batch` of them, whole revisions only.
    pub(crate) fn read(&self, range: &KeyRange, cursor: Revision, visible: Revision, batch: usize) -> Found {
        // `visible` was loaded before this; if nothing newer than the cursor has been pushed by now, nothing newer is in
        // the ring up to `visible` either.
        if self.last() <= cursor || visible <= cursor {
            return Found::Nothing(visible.max(cursor));
        }
        let kept = self.kept.read();
        if cursor < kept.dropped {
            return Found::FellOff;
        }
        let start = kept.events.partition_point(|event| event.revision <= cursor);
        let mut events = Vec::new();
        let mut scanned = cursor;
        for event in kept.events.range(start..) {
            if event.revision > visible {
                break;
            }
            if event.revision != scanned && events.len() >= batch {
                return Found::Events(events, scanned);
            }
            scanned = event.revision;
            if range.contains(&event.record.key) {
                events.push(Arc::clone(event));
            }
        }
        if events.is_empty() { Found::Nothing(visible) } else { Found::Events(events, visible) }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::key::Key;
    use crate::record::{EventKind, Record};

    fn ring(events: &[(&str, Revision)]) -> Ring {
        let ring = Ring::default();
        for (key, revision) in events {
            let record = Record::new(Key::from(*key), Bytes::new(), 2, *revision, 1, None, None);
            let event =
                Event { kind: EventKind::Put, record: Arc::new(record), previous: None, revision: *revision };
            ring.push(Arc::new(event));
        }
        ring
    }

    #[track_caller]
    fn check(found: &Found, revisions: &[Revision], progress: Revision) {
        match found {
            Found::Events(events, upto) => {
                assert_eq!(events.iter().map(|event| event.revision).collect::<Vec<_>>(), revisions);
                assert_eq!(*upto, progress);
            }
            Found::Nothing(upto) => {
                assert!(revisions.is_empty(), "nothing found");
                assert_eq!(*upto, progress);
            }
            Found::FellOff => panic!("fell off"),
        }
    }

    #[test]
    fn finds_what_matches_up_to_what_is_visible() {
        let ring = ring(&[("a", 2), ("b", 3), ("a", 4), ("b", 6)]);
        let a = KeyRange::single("a");
        check(&ring.read(&a, 1, 6, 10), &[2, 4], 6);
        check(&ring.read(&a, 1, 3, 10), &[2], 3);
        check(&ring.read(&a, 2, 3, 10), &[], 3);
        check(&ring.read(&a, 4, 6, 10), &[], 6);
        check(&ring.read(&a, 6, 9, 10), &[], 9);
        check(&ring.read(&a, 12, 9, 10), &[], 12);
    }

    #[test]
    fn batches_end_between_revisions() {
        let ring = ring(&[("a", 2), ("a1", 3), ("a2", 3), ("a3", 3), ("a", 4)]);
        let all = KeyRange::all();
        check(&ring.read(&all, 1, 4, 1), &[2], 2);
        check(&ring.read(&all, 1, 4, 2), &[2, 3, 3, 3], 3);
        check(&ring.read(&all, 3, 4, 2), &[4], 4);
    }

    #[test]
    fn a_cursor_before_dropped_events_falls_off() {
        let ring = ring(&[("a", 2), ("a", 5), ("a", 7)]);
        ring.pop();
        ring.pop();
        let all = KeyRange::all();
        assert_eq!(ring.read(&all, 4, 9, 1), Found::FellOff);
        check(&ring.read(&all, 5, 9, 1), &[7], 9);
        ring.pop();
        check(&ring.read(&all, 8, 9, 1), &[], 9);
        assert_eq!(ring.read(&all, 6, 9, 1), Found::FellOff);
    }

    #[test]
    fn a_cut_holds_whatever_is_added_after_it() {
        let all = KeyRange::all();
        for before in [&[][..], &[("a", 2)], &[("a", 2), ("a", 7)]] {
            let ring = ring(before);
            ring.cut(9);
            ring.extend([]);
            for cursor in [1, 2, 7, 8] {
                assert_eq!(ring.read(&all, cursor, 9, 1), Found::FellOff, "{before:?}, after {cursor}");
                assert_eq!(ring.first_after(cursor), Some(cursor + 1), "{before:?}, after {cursor}");
            }
            check(&ring.read(&all, 9, 9, 1), &[], 9);
            assert_eq!(ring.first_after(9), None);
        }
    }
}
