//! The book of leases: which there are, when they end, which keys go with them. Pure: time is an argument.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::key::Key;
use crate::record::{Event, EventKind, LeaseId, Record};

/// Every lease, in-flight changes included.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    leases: HashMap<LeaseId, Lease>,
    /// The same by the time they end.
    deadlines: BTreeSet<(Instant, LeaseId)>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    ends: Instant,
    keys: BTreeSet<Key>,
}

impl Leases {
    /// The book as it was made durable: these leases, and the keys that the records name. Leases that `earlier` knew
    /// end when they would have; others have their full time.
    pub(crate) fn rebuild(
        durable: impl Iterator<Item = (LeaseId, Duration)>,
        records: impl Iterator<Item = Arc<Record>>,
        earlier: &Leases,
        now: Instant,
    ) -> Leases {
        let mut book = Leases::default();
        for (id, ttl) in durable {
            book.grant(id, ttl, now);
            if let Some(lease) = earlier.leases.get(&id) {
                book.set_end(id, lease.ends);
            }
        }
        for record in records {
            if let Some(lease) = record.lease {
                book.attach(lease, record.key.clone());
            }
        }
        book
    }

    pub(crate) fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    pub(crate) fn grant(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        self.remove(id);
        let ends = now + ttl;
        self.leases.insert(id, Lease { ttl, ends, keys: BTreeSet::new() });
        self.deadlines.insert((ends, id));
    }

    /// Gives the lease its full time again, and tells it; `None` if there is no such lease.
    pub(crate) fn keep_alive(&mut self, id: LeaseId, now: Instant) -> Option<Duration> {
        let ttl = self.leases.get(&id)?.ttl;
        self.set_end(id, now + ttl);
        Some(ttl)
    }

    fn set_end(&mut self, id: LeaseId, ends: Instant) {
        if let Some(lease) = self.leases.get_mut(&id) {
            self.deadlines.remove(&(lease.ends, id));
            lease.ends = ends;
            self.deadlines.insert((ends, id));
        }
    }

    /// Takes the lease out of the book.
    pub(crate) fn remove(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.remove(&id) {
            self.deadlines.remove(&(lease.ends, id));
        }
    }

    /// The keys that go with the lease, in order; `None` if there is no such lease.
    pub(crate) fn keys(&self, id: LeaseId) -> Option<Vec<Key>> {
        self.leases.get(&id).map(|lease| lease.keys.iter().cloned().collect())
    }

    /// Books what a change does to its key's lease.
    pub(crate) fn apply(&mut self, event: &Event) {
        let before = event.previous.as_ref().and_then(|record| record.lease);
        let after = match event.kind {
            EventKind::Put => event.record.lease,
            EventKind::Delete => None,
        };
        if before == after {
            return;
        }
        if let Some(lease) = before.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.remove(&event.record.key);
        }
        if let Some(id) = after {
            self.attach(id, event.record.key.clone());
        }
    }

    fn attach(&mut self, id: LeaseId, key: Key) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.insert(key);
        }
    }

    /// When the next lease ends.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.deadlines.first().map(|(ends, _)| *ends)
    }

    /// A lease that has ended.
    pub(crate) fn ended(&self, now: Instant) -> Option<LeaseId> {
        self.deadlines.first().filter(|(ends, _)| *ends <= now).map(|(_, id)| *id)
    }

    /// Ends a lease again later, if it could not be revoked now.
    pub(crate) fn postpone(&mut self, id: LeaseId, until: Instant) {
        self.set_end(id, until);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;

    fn id(number: u64) -> LeaseId {
        LeaseId::new(number).expect("not zero")
    }

    fn record(key: &str, lease: Option<u64>) -> Arc<Record> {
        Arc::new(Record::new(Key::from(key), Bytes::new(), 2, 2, 1, lease.map(id), None))
    }

    fn put(book: &mut Leases, key: &str, before: Option<u64>, after: Option<u64>) {
        let previous = Some(record(key, before));
        book.apply(&Event { kind: EventKind::Put, record: record(key, after), previous, revision: 2 });
    }

    #[test]
    fn ends_in_order_and_can_be_kept_alive() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut book = Leases::default();
        book.grant(id(1), second, start);
        book.grant(id(2), 3 * second, start);
        assert_eq!(book.ended(start), None);
        assert_eq!(book.ended(start + second), Some(id(1)));
        assert_eq!(book.keep_alive(id(1), start + second), Some(second));
        assert_eq!(book.ended(start + second), None);
        assert_eq!(book.next_end(), Some(start + 2 * second));
        book.remove(id(1));
        assert_eq!(book.ended(start + 2 * second), None);
        assert_eq!(book.ended(start + 3 * second), Some(id(2)));
        assert_eq!(book.keep_alive(id(1), start), None);
    }

    #[test]
    fn keys_follow_their_lease() {
        let mut book = Leases::default();
        let now = Instant::now();
        book.grant(id(1), Duration::from_secs(1), now);
        book.grant(id(2), Duration::from_secs(1), now);
        put(&mut book, "a", None, Some(1));
        put(&mut book, "b", None, Some(1));
        put(&mut book, "a", Some(1), Some(2));
        assert_eq!(book.keys(id(1)), Some(vec![Key::from("b")]));
        assert_eq!(book.keys(id(2)), Some(vec![Key::from("a")]));
        put(&mut book, "b", Some(1), None);
        book.apply(&Event {
            kind: EventKind::Delete,
            record: record("a", Some(2)),
            previous: Some(record("a", Some(2))),
            revision: 3,
        });
        assert_eq!(
            (book.keys(id(1)), book.keys(id(2)), book.keys(id(3))),
            (Some(vec![]), Some(vec![]), None)
        );
    }

    #[test]
    fn rebuilding_keeps_deadlines() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut book = Leases::default();
        book.grant(id(1), second, start);
        book.grant(id(9), second, start);
        let records = [record("a", Some(1)), record("b", None), record("c", Some(2))];
        let durable = [(id(1), second), (id(2), second)];
        let rebuilt = Leases::rebuild(durable.into_iter(), records.iter().cloned(), &book, start + second);
        assert_eq!(rebuilt.ended(start + second), Some(id(1)));
        assert_eq!(rebuilt.keys(id(1)), Some(vec![Key::from("a")]));
        assert_eq!(rebuilt.keys(id(2)), Some(vec![Key::from("c")]));
        assert!(!rebuilt.contains(id(9)));
    }
}
