//! The in-memory state: what is durable, for reading and watching. Every engine feeds the same one.
//!
//! Reads take the tree's lock shared, in pieces, so a list of everything does not hold up writers (for whom further
//! readers would wait, too); what is made of the records is made with no lock held. Publishing and forgetting take it
//! exclusively, in pieces too. Lock order: tree, pins, rings map, a ring.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::Notify;

use crate::engine::Published;
use crate::error::{CompactError, ReadError};
use crate::key::KeyRange;
use crate::log::frame::ReplayChange;
use crate::record::{Event, EventKind, Record, Revision};
use crate::ring::Ring;
use crate::store::{RangeOptions, RangeResult};
use crate::tree::Tree;

/// How many keys are looked at while the tree is locked once: some hundred microseconds.
const READ_KEYS: usize = 4096;
/// How many transactions are published while the tree is locked once.
const PUBLISH_TRANSACTIONS: usize = 64;
/// How many events are forgotten while the tree is locked once.
const TRIM_EVENTS: usize = 256;
/// What an event costs beside the values it holds: itself, its places in two rings, the record and key it supersedes.
const EVENT_BYTES: u64 = 320;

/// Keys, kept history, rings of events.
#[derive(Debug)]
pub(crate) struct State {
    tree: RwLock<Tree>,
    /// The newest revision that may be seen.
    visible: AtomicU64,
    /// The oldest revision that may be asked for.
    compacted: AtomicU64,
    /// Revisions in use by somebody who reads for long, and how often; and up to where has been (or is being) trimmed.
    pins: Mutex<Pins>,
    /// One ring per collection.
    rings: Mutex<HashMap<Box<[u8]>, Arc<Ring>, ahash::RandomState>>,
    /// The ring of all events.
    pub(crate) all: Arc<Ring>,
    /// What the kept history weighs.
    history_bytes: AtomicU64,
    /// The same as the tree's, to be read without its lock.
    live_bytes: AtomicU64,
    /// Notified when anything became visible, and when the store closes.
    advanced: Notify,
    closed: AtomicBool,
}

#[derive(Debug)]
struct Pins {
    held: BTreeMap<Revision, usize>,
    floor: Revision,
}

/// While it is held, its revision stays readable, even if it is compacted.
#[derive(Debug)]
pub(crate) struct Pin {
    state: Arc<State>,
    pub(crate) revision: Revision,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let frees = {
            let mut pins = self.state.pins.lock();
            let was_oldest = pins.held.keys().next() == Some(&self.revision);
            let count = pins.held.get_mut(&self.revision).expect("a pin is held until it is dropped");
            *count -= 1;
            let was_last = *count == 0;
            if was_last {
                pins.held.remove(&self.revision);
            }
            // While there is an older one, or another of the same revision, nothing more can be freed; and each pin of a
            // short moment would lock the tree otherwise.
            was_oldest && was_last && self.state.compacted() > pins.floor
        };
        if frees {
            self.state.trim();
        }
    }
}

/// The weight of an event in history: it goes when the event does.
fn weight(event: &Event) -> u64 {
    let previous = event.previous.as_ref().map_or(0, |record| record.size() as u64);
    let last_words = match event.kind {
        EventKind::Put => 0,
        EventKind::Delete => event.record.size() as u64,
    };
    previous + last_words + EVENT_BYTES
}

/// What a publication adds to the ring of one collection.
#[derive(Debug)]
struct Addition {
    collection: Box<[u8]>,
    ring: Arc<Ring>,
    events: Vec<Arc<Event>>,
}

/// What a publication adds to rings, gathered so that each is locked once.
#[derive(Debug, Default)]
struct Touched {
    /// Few, as neighbours are mostly of one collection.
    additions: Vec<Addition>,
    /// The place of the one that was used last.
    last: usize,
    all: Vec<Arc<Event>>,
    weight: u64,
}

impl Touched {
    fn push(&mut self, state: &State, event: Arc<Event>) {
        self.weight += weight(&event);
        let collection = event.record.key.collection();
        if self.additions.get(self.last).is_none_or(|last| *last.collection != *collection) {
            let known = self.additions.iter().position(|other| *other.collection == *collection);
            self.last = known.unwrap_or_else(|| {
                let ring = state.ring_of(collection);
                self.additions.push(Addition { collection: collection.into(), ring, events: Vec::new() });
                self.additions.len() - 1
            });
        }
        self.additions[self.last].events.push(Arc::clone(&event));
        self.all.push(event);
    }

    /// Puts everything into its rings; returns those that got something. The tree is locked.
    fn settle(self, state: &State) -> Vec<Arc<Ring>> {
        state.history_bytes.fetch_add(self.weight, Ordering::Relaxed);
        state.all.extend(self.all);
        let settle = |addition: Addition| {
            addition.ring.extend(addition.events);
            addition.ring
        };
        self.additions.into_iter().map(settle).collect()
    }
}

impl State {
    /// A state that holds these records, in key order, as of a revision, and nothing of the time before.
    pub(crate) fn new(records: Vec<Arc<Record>>, revision: Revision) -> State {
        let tree = Tree::from_sorted(records);
        State {
            live_bytes: AtomicU64::new(tree.live_bytes()),
            tree: RwLock::new(tree),
            visible: AtomicU64::new(revision),
            compacted: AtomicU64::new(revision),
            pins: Mutex::new(Pins { held: BTreeMap::new(), floor: revision }),
            rings: Mutex::default(),
            all: Arc::default(),
            history_bytes: AtomicU64::new(0),
            advanced: Notify::new(),
            closed: AtomicBool::new(false),
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.visible.load(Ordering::Acquire)
    }

    pub(crate) fn compacted(&self) -> Revision {
        self.compacted.load(Ordering::Acquire)
    }

    pub(crate) fn history_bytes(&self) -> u64 {
        self.history_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends watches and waits. Reads go on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for ring in self.rings.lock().values() {
            ring.changed.notify_waiters();
        }
        self.all.changed.notify_waiters();
        self.advanced.notify_waiters();
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Arc<Record>> {
        self.tree.read().get(key)
    }

    /// The record of a key as of a revision, which the caller has pinned or later.
    pub(crate) fn get_at(&self, key: &[u8], revision: Revision) -> Option<Arc<Record>> {
        self.tree.read().get_at(key, revision)
    }

    pub(crate) fn tree(&self) -> RwLockReadGuard<'_, Tree> {
        self.tree.read()
    }

    pub(crate) fn count(self: &Arc<State>, range: &KeyRange) -> u64 {
        let pin = self.pin_newest();
        let (mut count, mut rest) = (0, range.clone());
        loop {
            let (found, last) = self.tree.read().count(&rest, pin.revision, READ_KEYS);
            count += found;
            match last {
                Some(last) => rest = rest.after(&last),
                None => return count,
            }
        }
    }

    /// The records of a range that `keep` wants. No lock is held while it decides.
    pub(crate) fn range(
        self: &Arc<State>,
        range: &KeyRange,
        options: &RangeOptions,
        bits: u64,
        keep: &mut dyn FnMut(&Arc<Record>) -> bool,
    ) -> Result<RangeResult, ReadError> {
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let mut records = Vec::new();
        let mut remaining = 0;
        let asked = options.revision.filter(|revision| *revision != 0);
        let revision = self.read(range, asked, bits, |piece| {
            for record in piece {
                if !keep(&record) {
                    continue;
                }
                if records.len() < limit {
                    records.push(record);
                } else {
                    remaining += 1;
                }
            }
        })?;
        Ok(RangeResult { records, more: remaining > 0, remaining, revision })
    }

    /// Hands the records of a range, as of a revision or the newest, to `each`: in key order, a piece at a time and with
    /// no lock held while it works. Returns the revision.
    fn read(
        self: &Arc<State>,
        range: &KeyRange,
        asked: Option<Revision>,
        bits: u64,
        mut each: impl FnMut(Vec<Arc<Record>>),
    ) -> Result<Revision, ReadError> {
        let tree = self.tree.read();
        let current = self.revision();
        let revision = asked.unwrap_or(current);
        if revision > current {
            return Err(ReadError::Future { current });
        }
        let compacted = self.compacted();
        if revision < compacted {
            return Err(ReadError::Compacted { compacted });
        }
        let (records, last) = tree.gather(range, revision, READ_KEYS, bits);
        // Most ranges are read in one piece. Where there is more, no compaction may overtake the read.
        let more = last.map(|last| {
            let pin = self.pin(revision).expect("nothing has been freed since: the tree is locked");
            (pin, range.after(&last))
        });
        drop(tree);
        each(records);
        if let Some((pin, rest)) = more {
            let Ok(()) = State::read_pinned::<Infallible>(&pin, rest, bits, |records| {
                each(records);
                Ok(())
            });
        }
        Ok(revision)
    }

    /// Keeps a revision readable by [`State::read_pinned`] until the pin is dropped; `None` if it is gone.
    pub(crate) fn pin(self: &Arc<State>, revision: Revision) -> Option<Pin> {
        let mut pins = self.pins.lock();
        let there = pins.floor <= revision && revision <= self.revision();
        there.then(|| self.hold(&mut pins, revision))
    }

    /// Keeps the newest revision readable. It cannot be gone: nothing newer than what is visible is ever trimmed, and
    /// nothing is trimmed while the pins are locked.
    pub(crate) fn pin_newest(self: &Arc<State>) -> Pin {
        let mut pins = self.pins.lock();
        let revision = self.revision();
        self.hold(&mut pins, revision)
    }

    fn hold(self: &Arc<State>, pins: &mut Pins, revision: Revision) -> Pin {
        *pins.held.entry(revision).or_default() += 1;
        Pin { state: Arc::clone(self), revision }
    }

    /// Whether a pin keeps something that is compacted, so that compacting more would free nothing.
    pub(crate) fn is_held_back(&self) -> bool {
        self.pins.lock().held.keys().next().is_some_and(|oldest| *oldest < self.compacted())
    }

    /// Hands the records of a range as of the pinned revision to `each`, in key order, a piece at a time and with no lock
    /// held while it works. Ends early if it fails.
    pub(crate) fn read_pinned<E>(
        pin: &Pin,
        range: KeyRange,
        bits: u64,
        mut each: impl FnMut(Vec<Arc<Record>>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = range;
        loop {
            let (records, last) = pin.state.tree.read().gather(&rest, pin.revision, READ_KEYS, bits);
            each(records)?;
            match last {
                Some(last) => rest = rest.after(&last),
                None => return Ok(()),
            }
        }
    }

    /// The ring that has every event of the range.
    pub(crate) fn ring_for(&self, range: &KeyRange) -> Arc<Ring> {
        match range.collection() {
            None => Arc::clone(&self.all),
            Some(collection) => self.ring_of(collection),
        }
    }

    fn ring_of(&self, collection: &[u8]) -> Arc<Ring> {
        let mut rings = self.rings.lock();
        match rings.get(collection) {
            Some(ring) => Arc::clone(ring),
            None => {
                let ring = Arc::new(Ring::default());
                rings.insert(collection.into(), Arc::clone(&ring));
                ring
            }
        }
    }

    /// Makes durable transactions visible, in revision order, and wakes who waits for them.
    pub(crate) fn publish(&self, transactions: Vec<Published>) {
        let mut transactions = transactions.into_iter().peekable();
        while transactions.peek().is_some() {
            let touched = self.publish_piece(transactions.by_ref().take(PUBLISH_TRANSACTIONS));
            self.advanced.notify_waiters();
            self.all.changed.notify_waiters();
            for ring in touched {
                ring.changed.notify_waiters();
            }
        }
    }

    fn publish_piece(&self, transactions: impl Iterator<Item = Published>) -> Vec<Arc<Ring>> {
        let mut touched = Touched::default();
        let mut tree = self.tree.write();
        let mut newest = self.revision();
        for transaction in transactions {
            assert!(transaction.revision > newest, "an engine publishes revisions in rising order");
            newest = transaction.revision;
            for event in transaction.events {
                debug_assert_eq!(event.revision, newest);
                let previous = tree.apply(&event);
                debug_assert_eq!(previous, event.previous, "an engine knows what a change replaces");
                touched.push(self, event);
            }
        }
        self.live_bytes.store(tree.live_bytes(), Ordering::Relaxed);
        let rings = touched.settle(self);
        self.visible.store(newest, Ordering::Release);
        RwLockWriteGuard::unlock_fair(tree);
        rings
    }

    /// See [`crate::engine::Feed::reset`].
    pub(crate) fn reset(&self, records: &[Arc<Record>], revision: Revision) {
        assert!(revision > self.revision(), "an engine publishes revisions in rising order");
        // Nobody else publishes meanwhile, so what is found here still holds below.
        let (gone, changed) = self.differences(records);
        let mut touched = Touched::default();
        let mut tree = self.tree.write();
        // First nobody may read on from before, not even a watch that starts just now; then what is new is put in.
        self.compacted.fetch_max(revision, Ordering::AcqRel);
        let rings: Vec<Arc<Ring>> = self.rings.lock().values().cloned().collect();
        for ring in rings.iter().chain([&self.all]) {
            ring.cut(revision);
        }
        for previous in gone {
            tree.delete(&previous.key, revision);
            let record = Arc::new(previous.deleted_at(revision));
            let event = Event { kind: EventKind::Delete, record, previous: Some(previous), revision };
            touched.push(self, Arc::new(event));
        }
        for record in changed {
            let previous = tree.put(Arc::clone(record));
            let event = Event { kind: EventKind::Put, record: Arc::clone(record), previous, revision };
            touched.push(self, Arc::new(event));
        }
        self.live_bytes.store(tree.live_bytes(), Ordering::Relaxed);
        touched.settle(self);
        self.visible.store(revision, Ordering::Release);
        drop(tree);
        self.advanced.notify_waiters();
        for ring in rings.iter().chain([&self.all]) {
            ring.changed.notify_waiters();
        }
        self.trim();
    }

    /// What lives now and is not among these records, and which of them are not what lives now.
    fn differences<'a>(&self, records: &'a [Arc<Record>]) -> (Vec<Arc<Record>>, Vec<&'a Arc<Record>>) {
        let tree = self.tree.read();
        let mut kept = records.iter().map(|record| &record.key).peekable();
        let is_gone = |record: &&Arc<Record>| {
            while kept.next_if(|key| **key < record.key).is_some() {}
            kept.peek().is_none_or(|key| **key != record.key)
        };
        let gone = tree.live().filter(is_gone).cloned().collect();
        let is_new = |record: &&Arc<Record>| {
            tree.get(&record.key).is_none_or(|known| known.mod_revision != record.mod_revision)
        };
        (gone, records.iter().filter(is_new).collect())
    }

    /// Does again what a log says happened, before anybody looks. Its revision must be newer than all before.
    pub(crate) fn replay(&self, revision: Revision, changes: Vec<ReplayChange>) -> Result<(), &'static str> {
        let mut touched = Touched::default();
        let mut tree = self.tree.write();
        for change in changes {
            let event = match change {
                ReplayChange::Put(record) => {
                    let previous = tree.put(Arc::clone(&record));
                    Event { kind: EventKind::Put, record, previous, revision }
                }
                ReplayChange::Delete(key) => {
                    let previous = tree.delete(&key, revision).ok_or("a key is deleted that is not there")?;
                    let record = Arc::new(previous.deleted_at(revision));
                    Event { kind: EventKind::Delete, record, previous: Some(previous), revision }
                }
            };
            touched.push(self, Arc::new(event));
        }
        self.live_bytes.store(tree.live_bytes(), Ordering::Relaxed);
        touched.settle(self);
        self.visible.store(revision, Ordering::Release);
        Ok(())
    }

    /// The revision up to which the kept history weighs this much; the newest if all of it weighs less.
    pub(crate) fn revision_at_weight(&self, bytes: u64) -> Revision {
        let mut left = bytes;
        let found = self.all.find(|event| {
            left = left.saturating_sub(weight(event));
            left == 0
        });
        found.unwrap_or_else(|| self.revision()).min(self.revision())
    }

    /// Whether a compaction to this revision makes sense.
    pub(crate) fn may_compact(&self, revision: Revision) -> Result<(), CompactError> {
        let (compacted, current) = (self.compacted(), self.revision());
        if revision > current {
            return Err(CompactError::Future { current });
        }
        if revision <= compacted {
            return Err(CompactError::Compacted { compacted });
        }
        Ok(())
    }

    /// Forbids the time before a revision; [`State::trim`] then frees it.
    pub(crate) fn compact(&self, revision: Revision) {
        self.compacted.fetch_max(revision.min(self.revision()), Ordering::AcqRel);
    }

    /// Frees what is compacted and not pinned.
    pub(crate) fn trim(&self) {
        let mut garbage: Vec<Arc<Record>> = Vec::new();
        let mut events: Vec<Arc<Event>> = Vec::new();
        loop {
            let done = {
                let mut tree = self.tree.write();
                let floor = {
                    let mut pins = self.pins.lock();
                    let pinned = pins.held.keys().next().copied().unwrap_or(Revision::MAX);
                    let floor = self.compacted().min(pinned).max(pins.floor);
                    pins.floor = floor;
                    floor
                };
                let mut done = false;
                for _ in 0..TRIM_EVENTS {
                    if self.all.oldest().is_none_or(|oldest| oldest > floor) {
                        done = true;
                        break;
                    }
                    let Some(event) = self.all.pop() else { break };
                    self.trim_event(&mut tree, &event, floor, &mut garbage);
                    events.push(event);
                }
                RwLockWriteGuard::unlock_fair(tree);
                done
            };
            garbage.clear();
            events.clear();
            if done {
                return;
            }
        }
    }

    fn trim_event(&self, tree: &mut Tree, event: &Event, floor: Revision, garbage: &mut Vec<Arc<Record>>) {
        self.history_bytes.fetch_sub(weight(event), Ordering::Relaxed);
        tree.trim(&event.record.key, floor, garbage);
        let mut rings = self.rings.lock();
        let collection = event.record.key.collection();
        let Some(ring) = rings.get(collection) else { return };
        ring.pop();
        // A ring that nobody watches and that is empty says nothing that a new one would not.
        if ring.len() == 0 && Arc::strong_count(ring) == 1 {
            rings.remove(collection);
        }
    }

    /// Waits until the revision is visible or the store is closed.
    pub(crate) async fn wait_for(&self, revision: Revision) {
        loop {
            let advanced = self.advanced.notified();
            if self.revision() >= revision || self.is_closed() {
                return;
            }
            advanced.await;
        }
    }
}

#[cfg(test)]
mod tests;
