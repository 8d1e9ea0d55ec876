//! Pods that have no node: those to try next, those that wait out a back-off, those that wait for
//! something to change.
//!
//! The rules are upstream's scheduling queue's (v1.36). Higher priority goes first, then who waits
//! longer. A refused pod waits until a change may help it (see `hints`), at most five minutes; then
//! it backs off from its last try, 1 s doubling to 10 s, though an idle scheduler does not make it
//! wait that out. A pod whose try failed by an error does wait it out. Time is a duration since some
//! start, given by the caller.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::filter::{Plugin, Plugins};
use crate::hints::{Change, helps};
use crate::metrics;
use crate::pod::PodInfo;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// A change that should have helped may have been missed: everybody is tried after this time.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// How often those who waited that long are looked for.
const FLUSH_EVERY: Duration = Duration::from_secs(30);

/// Upstream's name for a try that found no node or failed.
const ATTEMPT_FAILED: &str = "ScheduleAttemptFailure";

/// Time since the scheduler started.
pub type Moment = Duration;

/// A pod with its history of tries.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The pod, as last seen.
    pub pod: Arc<PodInfo>,
    /// Since when it waits in its present place; decides among equals.
    since: Moment,
    /// Orders pods that came at the same moment.
    number: u64,
    refusals: u32,
    errors: u32,
    refused_by: Plugins,
    place: Place,
    /// How often it was taken out to be tried, and when first.
    tries: u32,
    first: Option<Moment>,
}

/// How many pods wait for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// For their turn.
    pub active: usize,
    /// For the end of a back-off.
    pub backoff: usize,
    /// For a change.
    pub unschedulable: usize,
    /// For their gates to be removed.
    pub gated: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active,
    /// After a refusal, until that moment; may be taken earlier when nothing is active.
    Backoff(Moment),
    /// After an error, until that moment.
    ErrorBackoff(Moment),
    /// For a change.
    Waiting,
    /// For its gates to be removed.
    Gated,
}

type Order = (Reverse<i32>, Moment, u64);

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<String, Entry, ahash::RandomState>,
    active: BTreeSet<(Order, String)>,
    backoff: BTreeSet<(Moment, Order, String)>,
    error_backoff: BTreeSet<(Moment, Order, String)>,
    waiting: BTreeSet<String>,
    /// How many waiting pods each filter refused; the last is for pods refused by none.
    waiting_for: [usize; Plugin::COUNT + 1],
    flushed: Moment,
    numbers: u64,
}

impl Entry {
    /// How often it was tried, and when for the first time.
    pub(crate) fn history(&self) -> (u32, Moment) {
        (self.tries, self.first.unwrap_or(self.since))
    }

    fn order(&self) -> Order {
        (Reverse(self.pod.priority), self.since, self.number)
    }

    fn backoff_until(&self) -> Moment {
        let tries = if self.errors > 0 { self.errors } else { self.refusals };
        if tries == 0 {
            return self.since;
        }
        let factor = 1u32.checked_shl(tries - 1).unwrap_or(u32::MAX);
        self.since + FIRST_BACKOFF.saturating_mul(factor).min(LONGEST_BACKOFF)
    }
}

impl Queue {
    /// The number of pods without a node, gated ones included.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether every pod has a node.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the pod is in the queue.
    pub fn contains(&self, uid: &str) -> bool {
        self.entries.contains_key(uid)
    }

    /// Takes over what the API says of a pod without a node: a new one, or another state of one that
    /// waits. A change to what it asks for is worth a try.
    pub fn put(&mut self, pod: Arc<PodInfo>, now: Moment) {
        let Some(mut entry) = self.take(&pod.uid.clone()) else {
            self.numbers += 1;
            let place = Place::Active;
            let entry = Entry {
                pod,
                since: now,
                number: self.numbers,
                refusals: 0,
                errors: 0,
                refused_by: Plugins::default(),
                place,
                tries: 0,
                first: None,
            };
            return self.insert(entry, Place::Active, "UnschedulablePodAdd");
        };
        let changed = !entry.pod.asks_the_same(&pod);
        entry.pod = pod;
        let place = match entry.place {
            Place::Gated => {
                entry.since = now;
                Place::Active
            }
            Place::Waiting if changed => Place::Backoff(entry.backoff_until()),
            place => place,
        };
        self.insert(entry, place, "UnschedulablePodUpdate");
    }

    /// How many pods wait for what.
    pub fn waiting(&self) -> Waiting {
        let (active, unschedulable) = (self.active.len(), self.waiting.len());
        let backoff = self.backoff.len() + self.error_backoff.len();
        let gated = self.entries.len() - active - unschedulable - backoff;
        Waiting { active, backoff, unschedulable, gated }
    }

    /// Forgets a pod: it is gone, or has a node.
    pub fn remove(&mut self, uid: &str) -> Option<Entry> {
        self.take(uid)
    }

    /// The next pod to try. The caller gives it back with [`Queue::refused`] or [`Queue::failed`], or
    /// keeps it.
    pub fn pop(&mut self, now: Moment) -> Option<Entry> {
        self.flush(now);
        self.release(now);
        let uid = match self.active.first() {
            Some((_, uid)) => uid.clone(),
            // Nothing better to do: why let it wait?
            None => self.backoff.first().map(|(_, _, uid)| uid.clone())?,
        };
        let mut entry = self.take(&uid)?;
        entry.tries = entry.tries.saturating_add(1);
        entry.first.get_or_insert(now);
        Some(entry)
    }

    /// Gives back a pod that found no node. It waits for a change that may help.
    pub fn refused(&mut self, mut entry: Entry, refused_by: Plugins, now: Moment) {
        entry.since = now;
        entry.refusals = entry.refusals.saturating_add(1);
        entry.errors = 0;
        entry.refused_by = refused_by;
        self.insert(entry, Place::Waiting, ATTEMPT_FAILED);
    }

    /// Gives back a pod whose try failed by an error. It is tried again after a back-off.
    pub fn failed(&mut self, mut entry: Entry, now: Moment) {
        entry.since = now;
        entry.errors = entry.errors.saturating_add(1);
        entry.refused_by = Plugins::default();
        let until = entry.backoff_until();
        self.insert(entry, Place::ErrorBackoff(until), ATTEMPT_FAILED);
    }

    /// Lets the pods that a change may help try again.
    pub fn changed(&mut self, change: &Change, now: Moment) {
        // Most changes are pods finding their node, which helps few: do not ask everybody each time.
        let anybody = self.waiting_for[Plugin::COUNT] > 0
            || change.concerns().any(|plugin| self.waiting_for[plugin as usize] > 0);
        if !anybody {
            return;
        }
        let helped = |uid: &&String| {
            self.entries.get(*uid).is_some_and(|entry| helps(change, &entry.pod, entry.refused_by))
        };
        let helped: Vec<String> = self.waiting.iter().filter(helped).cloned().collect();
        self.retry(helped, now, change.label());
    }

    /// When something becomes due by time alone: the end of a back-off, or the next flush.
    pub fn next_due(&self) -> Option<Moment> {
        let backoff = self.backoff.first().map(|(until, _, _)| *until);
        let error = self.error_backoff.first().map(|(until, _, _)| *until);
        let flush = (!self.waiting.is_empty()).then_some(self.flushed + FLUSH_EVERY);
        backoff.into_iter().chain(error).chain(flush).min()
    }

    /// Moves what is due by time.
    fn release(&mut self, now: Moment) {
        while let Some((until, _, uid)) = self.backoff.first()
            && *until <= now
        {
            let uid = uid.clone();
            self.activate(&uid);
        }
        while let Some((until, _, uid)) = self.error_backoff.first()
            && *until <= now
        {
            let uid = uid.clone();
            self.activate(&uid);
        }
    }

    /// Lets everybody who waited too long try again; does nothing if that was done lately.
    fn flush(&mut self, now: Moment) {
        if now < self.flushed + FLUSH_EVERY {
            return;
        }
        self.flushed = now;
        let late =
            |uid: &&String| self.entries.get(*uid).is_some_and(|entry| entry.since + LONGEST_WAIT <= now);
        let late: Vec<String> = self.waiting.iter().filter(late).cloned().collect();
        self.retry(late, now, "UnschedulableTimeout");
    }

    /// Counts a pod in (or out) among those who wait.
    fn count_waiting(&mut self, refused_by: Plugins, more: bool) {
        let mut step = |at: usize| {
            let count = &mut self.waiting_for[at];
            *count = if more { *count + 1 } else { *count - 1 };
        };
        if refused_by.is_empty() {
            step(Plugin::COUNT);
        }
        Plugin::ALL
            .into_iter()
            .filter(|plugin| refused_by.contains(*plugin))
            .for_each(|plugin| step(plugin as usize));
    }

    fn retry(&mut self, uids: Vec<String>, now: Moment, event: &str) {
        for uid in uids {
            if let Some(entry) = self.take(&uid) {
                let until = entry.backoff_until();
                let place = if until <= now { Place::Active } else { Place::Backoff(until) };
                self.insert(entry, place, event);
            }
        }
    }

    fn activate(&mut self, uid: &str) {
        if let Some(entry) = self.take(uid) {
            self.insert(entry, Place::Active, "BackoffComplete");
        }
    }

    /// `event` is what brings the pod here, by upstream's names.
    fn insert(&mut self, mut entry: Entry, place: Place, event: &str) {
        let uid = entry.pod.uid.clone();
        entry.place = if entry.pod.gates.is_empty() { place } else { Place::Gated };
        let order = entry.order();
        let queue = match entry.place {
            Place::Active => "active",
            Place::Backoff(_) | Place::ErrorBackoff(_) => "backoff",
            Place::Waiting | Place::Gated => "unschedulable",
        };
        metrics::incoming(event, queue);
        match entry.place {
            Place::Active => {
                self.active.insert((order, uid.clone()));
            }
            Place::Backoff(until) => {
                self.backoff.insert((until, order, uid.clone()));
            }
            Place::ErrorBackoff(until) => {
                self.error_backoff.insert((until, order, uid.clone()));
            }
            Place::Waiting => {
                self.waiting.insert(uid.clone());
                self.count_waiting(entry.refused_by, true);
            }
            Place::Gated => {}
        }
        self.entries.insert(uid, entry);
    }

    fn take(&mut self, uid: &str) -> Option<Entry> {
        let entry = self.entries.remove(uid)?;
        let order = entry.order();
        match entry.place {
            Place::Active => self.active.remove(&(order, uid.to_owned())),
            Place::Backoff(until) => self.backoff.remove(&(until, order, uid.to_owned())),
            Place::ErrorBackoff(until) => self.error_backoff.remove(&(until, order, uid.to_owned())),
            Place::Waiting => {
                self.count_waiting(entry.refused_by, false);
                self.waiting.remove(uid)
            }
            Place::Gated => true,
        };
        Some(entry)
    }
}
