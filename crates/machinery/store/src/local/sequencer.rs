//! The order of changes: who comes first, with which revision, and what is in flight.
//!
//! Everything here happens under one lock, for about a microsecond. Expectations are checked against what is in flight
//! (decided but not yet durable), so that pipelined writers of one key see each other; an answer that rests on something
//! in flight waits until that is durable, so that nobody is told what a crash could take back. If a batch fails, all
//! that is in flight fails with it, as it was decided on top of it.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::change::{Operation, TransactionCommitted};
use crate::engine::Published;
use crate::error::CommitError;
use crate::key::Key;
use crate::local::decide;
use crate::local::leases::Leases;
use crate::log::frame::Entry;
use crate::record::{Event, EventKind, LeaseId, Record, Revision};
use crate::state::State;

/// What a commit is answered.
pub(crate) type Answer = Result<TransactionCommitted, CommitError>;

/// How long a lease whose end could not be made durable goes on: a full disk should not be asked all the time.
const LEASE_RETRY: Duration = Duration::from_secs(1);

/// One thing on its way to the disk.
#[derive(Debug)]
pub(crate) struct Item {
    /// What is to be written; `None` if this only waits for what is before it.
    pub(crate) entry: Option<Entry>,
    /// Whom to tell, and what, once all before it and it itself are durable.
    pub(crate) reply: Option<(oneshot::Sender<Answer>, Answer)>,
}

impl Item {
    pub(crate) fn answer(self) {
        if let Some((sender, answer)) = self.reply {
            // Nobody listens if the caller's future was dropped.
            drop(sender.send(answer));
        }
    }

    pub(crate) fn fail(self, error: &CommitError) {
        if let Some((sender, _)) = self.reply {
            drop(sender.send(Err(error.clone())));
        }
    }
}

/// An answer, or where it will come.
#[derive(Debug)]
pub(crate) enum Submitted {
    Now(Answer),
    Later(oneshot::Receiver<Answer>),
}

/// What is decided, and how far it has got.
#[derive(Debug)]
pub(crate) struct Sequencer {
    /// The newest revision given.
    revision: Revision,
    /// The newest change in flight of each key that has one.
    pending: HashMap<Key, Arc<Event>, ahash::RandomState>,
    queue: VecDeque<Item>,
    /// In-flight changes included.
    pub(crate) leases: Leases,
    /// Without what is in flight.
    pub(crate) durable_leases: BTreeMap<LeaseId, Duration>,
    /// Whether there is a log. Without one, changes are published at once.
    pub(crate) durable: bool,
    pub(crate) closing: bool,
    /// Housekeeping should not wait for its next round.
    pub(crate) urgent: bool,
}

impl Sequencer {
    pub(crate) fn new(
        state: &State,
        durable_leases: BTreeMap<LeaseId, Duration>,
        durable: bool,
        now: Instant,
    ) -> Sequencer {
        let leases = Leases::rebuild(
            durable_leases.iter().map(|(id, ttl)| (*id, *ttl)),
            state.tree().live().cloned(),
            &Leases::default(),
            now,
        );
        Sequencer {
            revision: state.revision(),
            pending: HashMap::default(),
            queue: VecDeque::new(),
            leases,
            durable_leases,
            durable,
            closing: false,
            urgent: false,
        }
    }

    /// Whether nothing waits to be written.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Decides a transaction and sends it on its way.
    pub(crate) fn submit(&mut self, state: &State, operations: Vec<Operation>) -> Submitted {
        if self.closing {
            return Submitted::Now(Err(CommitError::Closed));
        }
        let pending = &self.pending;
        let leases = &self.leases;
        let rests_on_flight = Cell::new(false);
        let current = |key: &Key| {
            rests_on_flight.set(rests_on_flight.get() || pending.contains_key(key));
            current(pending, state, key)
        };
        match decide::decide(operations, self.revision, current, |lease| leases.contains(lease)) {
            Ok(mut decision) if decision.events.is_empty() => {
                if !rests_on_flight.get() {
                    // The newest revision given may not be visible yet.
                    decision.answer.revision = state.revision();
                    for result in &mut decision.answer.results {
                        result.revision = decision.answer.revision;
                    }
                    return Submitted::Now(Ok(decision.answer));
                }
                self.after_what_is_in_flight(Ok(decision.answer))
            }
            Ok(decision) => self.write(state, decision.events, None, decision.answer),
            Err(error @ CommitError::LeaseNotFound(_)) if self.durable => {
                self.after_what_is_in_flight(Err(error))
            }
            Err(error) if rests_on_flight.get() => self.after_what_is_in_flight(Err(error)),
            Err(error) => Submitted::Now(Err(error)),
        }
    }

    /// Ends a lease with its keys. `None` if there is no such lease.
    pub(crate) fn revoke(&mut self, state: &State, lease: LeaseId) -> Option<Submitted> {
        let keys = self.leases.keys(lease)?;
        let next = self.revision + 1;
        let mut events = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(previous) = current(&self.pending, state, &key) {
                let record = Arc::new(previous.deleted_at(next));
                events.push(Arc::new(Event {
                    kind: EventKind::Delete,
                    record,
                    previous: Some(previous),
                    revision: next,
                }));
            }
        }
        let revision = if events.is_empty() { self.revision } else { next };
        let answer = TransactionCommitted { revision, results: Vec::new() };
        Some(self.write(state, events, Some(lease), answer))
    }

    /// Sends something without a revision on its way.
    pub(crate) fn record(&mut self, state: &State, entry: Entry) -> Submitted {
        let answer = TransactionCommitted { revision: self.revision, results: Vec::new() };
        self.enqueue(state, entry, answer)
    }

    fn write(
        &mut self,
        state: &State,
        events: Vec<Arc<Event>>,
        revoke: Option<LeaseId>,
        answer: TransactionCommitted,
    ) -> Submitted {
        if !events.is_empty() {
            self.revision += 1;
        }
        for event in &events {
            debug_assert_eq!(event.revision, self.revision);
            self.leases.apply(event);
            if self.durable {
                self.pending.insert(event.record.key.clone(), Arc::clone(event));
            }
        }
        if let Some(lease) = revoke {
            self.leases.remove(lease);
        }
        let entry = Entry::Transaction { revision: self.revision, events, revoke };
        self.enqueue(state, entry, answer)
    }

    fn enqueue(&mut self, state: &State, entry: Entry, answer: TransactionCommitted) -> Submitted {
        if !self.durable {
            let mut published = Vec::new();
            self.settle(entry, &mut published, state);
            state.publish(published);
            return Submitted::Now(Ok(answer));
        }
        let (sender, receiver) = oneshot::channel();
        self.queue.push_back(Item { entry: Some(entry), reply: Some((sender, Ok(answer))) });
        Submitted::Later(receiver)
    }

    /// An answer that changes nothing, but rests on what is in flight.
    fn after_what_is_in_flight(&mut self, answer: Answer) -> Submitted {
        let (sender, receiver) = oneshot::channel();
        self.queue.push_back(Item { entry: None, reply: Some((sender, answer)) });
        Submitted::Later(receiver)
    }

    /// Takes what is to be written next: at least one item, and no more after `bytes`.
    pub(crate) fn take_batch(&mut self, bytes: usize) -> Vec<Item> {
        let mut size = 0;
        let mut count = 0;
        for item in &self.queue {
            size += item.entry.as_ref().map_or(0, Entry::size);
            count += 1;
            if size >= bytes {
                break;
            }
        }
        self.queue.drain(..count).collect()
    }

    /// Books what has become durable; its changes go into `published`.
    pub(crate) fn settle(&mut self, entry: Entry, published: &mut Vec<Published>, state: &State) {
        match entry {
            Entry::Transaction { revision, events, revoke } => {
                if let Some(lease) = revoke {
                    self.durable_leases.remove(&lease);
                }
                if !events.is_empty() {
                    published.push(Published { revision, events });
                }
            }
            Entry::Grant { lease, ttl } => drop(self.durable_leases.insert(lease, ttl)),
            Entry::Compact { revision } => {
                state.compact(revision);
                self.urgent = true;
            }
        }
    }

    /// Forgets in-flight changes up to what has been published.
    pub(crate) fn landed(&mut self, keys: &[(Key, Revision)]) {
        for (key, revision) in keys {
            if self.pending.get(key).is_some_and(|event| event.revision == *revision) {
                self.pending.remove(key);
            }
        }
    }

    /// Takes back everything in flight. Returns what was queued, to be told so.
    pub(crate) fn roll_back(&mut self, state: &State, now: Instant) -> VecDeque<Item> {
        self.revision = state.revision();
        self.pending.clear();
        self.leases = Leases::rebuild(
            self.durable_leases.iter().map(|(id, ttl)| (*id, *ttl)),
            state.tree().live().cloned(),
            &self.leases,
            now,
        );
        while let Some(lease) = self.leases.ended(now) {
            self.leases.postpone(lease, now + LEASE_RETRY);
        }
        std::mem::take(&mut self.queue)
    }
}

/// The newest record of a key, in-flight changes included.
fn current(
    pending: &HashMap<Key, Arc<Event>, ahash::RandomState>,
    state: &State,
    key: &Key,
) -> Option<Arc<Record>> {
    match pending.get(key) {
        Some(event) if event.kind == EventKind::Put => Some(Arc::clone(&event.record)),
        Some(_) => None,
        None => state.get(key),
    }
}
