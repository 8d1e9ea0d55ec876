//! The ordered map of keys, with what is kept of their past. Plain data: no locks, no clock.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

use crate::key::{Key, KeyRange};
use crate::record::{Event, EventKind, Record, Revision};

/// Every key's versions, and how much they weigh.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    keys: BTreeMap<Key, Versions>,
    /// Bytes of keys and values that exist now.
    live_bytes: u64,
    /// How many keys exist now.
    live_keys: u64,
}

/// What is kept of one key.
#[derive(Debug)]
enum Versions {
    /// The usual case: it exists, and nothing before is kept.
    One(Arc<Record>),
    /// Ascending by revision, never empty.
    Many(Vec<Version>),
}

#[derive(Debug)]
enum Version {
    Put(Arc<Record>),
    Deleted(Revision),
}

impl Version {
    fn revision(&self) -> Revision {
        match self {
            Version::Put(record) => record.mod_revision,
            Version::Deleted(revision) => *revision,
        }
    }

    fn record(&self) -> Option<&Arc<Record>> {
        match self {
            Version::Put(record) => Some(record),
            Version::Deleted(_) => None,
        }
    }
}

impl Versions {
    fn newest(&self) -> Option<&Arc<Record>> {
        match self {
            Versions::One(record) => Some(record),
            Versions::Many(versions) => versions.last().and_then(Version::record),
        }
    }

    fn at(&self, revision: Revision) -> Option<&Arc<Record>> {
        match self {
            Versions::One(record) => (record.mod_revision <= revision).then_some(record),
            Versions::Many(versions) => {
                // Readers mostly want the newest or nearly so.
                versions.iter().rev().find(|version| version.revision() <= revision).and_then(Version::record)
            }
        }
    }

    fn push(&mut self, version: Version) {
        match self {
            Versions::Many(versions) => versions.push(version),
            Versions::One(record) => *self = Versions::Many(vec![Version::Put(Arc::clone(record)), version]),
        }
    }
}

impl Tree {
    /// A tree of records in key order, without history.
    pub(crate) fn from_sorted(records: Vec<Arc<Record>>) -> Tree {
        let live_bytes = records.iter().map(|record| record.size() as u64).sum();
        let live_keys = records.len() as u64;
        let keys = records.into_iter().map(|record| (record.key.clone(), Versions::One(record))).collect();
        Tree { keys, live_bytes, live_keys }
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub(crate) fn live_keys(&self) -> u64 {
        self.live_keys
    }

    /// The newest record of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Arc<Record>> {
        self.keys.get(key).and_then(Versions::newest)
    }

    /// Adds a change. Its revision must not be below any that was added before. Returns the record before.
    pub(crate) fn apply(&mut self, event: &Event) -> Option<Arc<Record>> {
        match event.kind {
            EventKind::Put => self.put(Arc::clone(&event.record)),
            EventKind::Delete => self.delete(&event.record.key, event.revision),
        }
    }

    /// Adds a record, newer than any that was added before. Returns the record before.
    pub(crate) fn put(&mut self, record: Arc<Record>) -> Option<Arc<Record>> {
        self.live_bytes += record.size() as u64;
        self.live_keys += 1;
        let previous = match self.keys.entry(record.key.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(Versions::One(record));
                None
            }
            Entry::Occupied(mut entry) => {
                let previous = entry.get().newest().cloned();
                entry.get_mut().push(Version::Put(record));
                previous
            }
        };
        self.replaced(previous.as_deref());
        previous
    }

    /// Adds a deletion, newer than anything that was added before. Returns the record before; if there was none, nothing
    /// happens.
    pub(crate) fn delete(&mut self, key: &[u8], revision: Revision) -> Option<Arc<Record>> {
        let versions = self.keys.get_mut(key)?;
        let previous = versions.newest().cloned()?;
        versions.push(Version::Deleted(revision));
        self.replaced(Some(&previous));
        Some(previous)
    }

    fn replaced(&mut self, previous: Option<&Record>) {
        if let Some(previous) = previous {
            self.live_bytes -= previous.size() as u64;
            self.live_keys -= 1;
        }
    }

    /// Forgets of a key what nobody can read who reads at `floor` or later. What was forgotten goes into `garbage`, to
    /// be dropped where no lock is held.
    pub(crate) fn trim(&mut self, key: &[u8], floor: Revision, garbage: &mut Vec<Arc<Record>>) {
        let Some(Versions::Many(versions)) = self.keys.get_mut(key) else { return };
        // The newest version at or below the floor is what a reader at the floor sees; it stays unless it is a deletion,
        // which reads the same as nothing.
        let mut keep = versions.partition_point(|version| version.revision() <= floor).saturating_sub(1);
        if let Version::Deleted(revision) = &versions[keep]
            && *revision <= floor
        {
            keep += 1;
        }
        for version in versions.drain(..keep) {
            if let Version::Put(record) = version {
                garbage.push(record);
            }
        }
        match versions.as_slice() {
            [] => {
                self.keys.remove(key);
            }
            [Version::Put(record)] => {
                let record = Arc::clone(record);
                if let Some(entry) = self.keys.get_mut(key) {
                    *entry = Versions::One(record);
                }
            }
            _ => {
                // A hot key's vector would otherwise keep the capacity of its busiest time.
                if versions.capacity() > 2 * versions.len() + 8 {
                    versions.shrink_to_fit();
                }
            }
        }
    }

    /// The records of a range as of a revision, in key order.
    #[cfg(test)]
    pub(crate) fn range(&self, range: &KeyRange, revision: Revision) -> impl Iterator<Item = &Arc<Record>> {
        self.slots(range).filter_map(move |(_, versions)| versions.at(revision))
    }

    /// Gathers records as of a revision, looking at no more than `keys` keys. Returns the last key looked at if the
    /// range goes on behind it.
    pub(crate) fn gather(
        &self,
        range: &KeyRange,
        revision: Revision,
        keys: usize,
        mut each: impl FnMut(&Arc<Record>),
    ) -> Option<Key> {
        let mut slots = self.slots(range);
        let mut last = None;
        for (key, versions) in slots.by_ref().take(keys) {
            if let Some(record) = versions.at(revision) {
                each(record);
            }
            last = Some(key);
        }
        slots.next().and(last).cloned()
    }

    fn slots(&self, range: &KeyRange) -> impl Iterator<Item = (&Key, &Versions)> {
        // BTreeMap panics on a range that ends before it starts.
        let empty = range.is_empty();
        let end = range.end().map_or(Bound::Unbounded, |end| Bound::Excluded(end.as_bytes()));
        let bounds = if empty {
            (Bound::Included(&b""[..]), Bound::Excluded(&b""[..]))
        } else {
            (Bound::Included(range.start().as_bytes()), end)
        };
        self.keys.range::<[u8], _>(bounds)
    }

    /// Every record that exists now, in key order.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.keys.values().filter_map(Versions::newest)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn put(tree: &mut Tree, key: &str, revision: Revision) {
        let previous = tree.get(key.as_bytes()).cloned();
        let record = Arc::new(Record::new(
            Key::from(key),
            Bytes::from(revision.to_string()),
            revision,
            revision,
            1,
            None,
            None,
        ));
        let replaced =
            tree.apply(&Event { kind: EventKind::Put, record, previous: previous.clone(), revision });
        assert_eq!(replaced, previous);
    }

    fn delete(tree: &mut Tree, key: &str, revision: Revision) {
        let previous = tree.get(key.as_bytes()).cloned().expect("the key to delete is there");
        let record = Arc::new(previous.deleted_at(revision));
        let event = Event { kind: EventKind::Delete, record, previous: Some(previous), revision };
        assert_eq!(tree.apply(&event), event.previous);
    }

    fn at(tree: &Tree, revision: Revision) -> Vec<Revision> {
        tree.range(&KeyRange::all(), revision).map(|record| record.mod_revision).collect()
    }

    fn sample() -> Tree {
        let mut tree = Tree::default();
        put(&mut tree, "a", 2);
        put(&mut tree, "b", 3);
        put(&mut tree, "a", 4);
        delete(&mut tree, "b", 5);
        put(&mut tree, "b", 6);
        delete(&mut tree, "a", 7);
        tree
    }

    #[test]
    fn reads_as_of_any_revision() {
        let tree = sample();
        let expected: [(Revision, &[Revision]); 7] =
            [(1, &[]), (2, &[2]), (3, &[2, 3]), (4, &[4, 3]), (5, &[4]), (6, &[4, 6]), (7, &[6])];
        for (revision, records) in expected {
            assert_eq!(at(&tree, revision), records, "at {revision}");
        }
    }

    #[test]
    fn trimming_changes_nothing_at_or_above_the_floor() {
        for floor in 1..=7 {
            let mut tree = sample();
            let mut garbage = Vec::new();
            for key in ["a", "b", "missing"] {
                tree.trim(key.as_bytes(), floor, &mut garbage);
            }
            for revision in floor..=7 {
                assert_eq!(at(&tree, revision), at(&sample(), revision), "floor {floor}, at {revision}");
            }
        }
    }

    #[test]
    fn trimming_to_the_end_leaves_only_what_lives() {
        let mut tree = sample();
        let mut garbage = Vec::new();
        for key in ["a", "b"] {
            tree.trim(key.as_bytes(), 7, &mut garbage);
        }
        assert_eq!(garbage.len(), 3);
        assert_eq!(tree.keys.len(), 1);
        assert!(matches!(tree.keys.get(b"b".as_slice()), Some(Versions::One(_))));
    }

    #[test]
    fn weighs_what_lives() {
        let tree = sample();
        assert_eq!((tree.live_keys(), tree.live_bytes()), (1, 2));
        assert_eq!(tree.live().count(), 1);
    }

    #[test]
    fn gather_stops_and_goes_on() {
        let tree = sample();
        let mut seen = Vec::new();
        let next = tree.gather(&KeyRange::all(), 4, 1, |record| seen.push(record.mod_revision));
        assert_eq!(next, Some(Key::from("a")));
        let rest = KeyRange::all().after(b"a");
        assert_eq!(tree.gather(&rest, 4, 1, |record| seen.push(record.mod_revision)), None);
        assert_eq!(seen, [4, 3]);
        assert_eq!(tree.range(&KeyRange::from_to("z", "a"), 9).count(), 0);
    }
}
