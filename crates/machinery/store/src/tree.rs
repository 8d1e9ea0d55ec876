//! The ordered map of keys, with what is kept of their past. No clock; whoever has it decides who may change it.
//!
//! Lists want keys in order, writers want one key at a time: a descent through an ordered map of paths that mostly start
//! alike costs a writer more than everything else it does. So each key's versions stand in a slot, whose number both an
//! ordered map and a hash map have.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::key::{Key, KeyRange};
use crate::record::{Event, EventKind, Record, Revision, UNMARKED};

/// Every key's versions, and how much they weigh.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// The slot of each key.
    keys: BTreeMap<Key, usize>,
    /// The same.
    index: HashMap<Key, usize, ahash::RandomState>,
    slots: Vec<Slot>,
    /// Slots that no key has; what is in them is empty.
    free: Vec<usize>,
    /// Bytes of keys and values that exist now.
    live_bytes: u64,
    /// How many keys exist now.
    live_keys: u64,
}

/// A key's place.
#[derive(Debug)]
struct Slot {
    versions: Versions,
    /// The marks of all its versions together, once a reader has gathered them: who looks for what none of them has need
    /// not touch the records, which lie all over the memory.
    mark: AtomicU64,
}

impl Slot {
    fn new(versions: Versions) -> Slot {
        Slot { versions, mark: AtomicU64::new(UNMARKED) }
    }

    fn push(&mut self, version: Version) {
        self.versions.push(version);
        *self.mark.get_mut() = UNMARKED;
    }

    /// Whether a version may have all of these bits.
    fn may_have(&self, bits: u64) -> bool {
        let mut mark = self.mark.load(Ordering::Relaxed);
        if bits != 0 && mark == UNMARKED {
            mark = self.versions.mark();
            // Whoever changes the versions has the tree for itself, so this is of those that are there.
            self.mark.store(mark, Ordering::Relaxed);
        }
        mark & bits == bits
    }
}

/// What is kept of one key.
#[derive(Debug)]
enum Versions {
    /// The usual case: it exists, and nothing before is kept.
    One(Arc<Record>),
    /// Ascending by revision, empty only in a free slot.
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

    fn mark(&self) -> u64 {
        match self {
            Versions::One(record) => record.mark(),
            Versions::Many(versions) => {
                versions.iter().filter_map(Version::record).fold(0, |all, record| all | record.mark())
            }
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

    /// See [`Tree::trim`]; whether nothing is left.
    fn trim(&mut self, floor: Revision, garbage: &mut Vec<Arc<Record>>) -> bool {
        let Versions::Many(versions) = self else { return false };
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
            [] => return true,
            [Version::Put(record)] => *self = Versions::One(Arc::clone(record)),
            _ => {
                // A hot key's vector would otherwise keep the capacity of its busiest time.
                if versions.capacity() > 2 * versions.len() + 8 {
                    versions.shrink_to_fit();
                }
            }
        }
        false
    }
}

impl Tree {
    /// A tree of records in key order, without history.
    pub(crate) fn from_sorted(records: Vec<Arc<Record>>) -> Tree {
        let live_bytes = records.iter().map(|record| record.size() as u64).sum();
        let live_keys = records.len() as u64;
        let mut index = HashMap::with_capacity_and_hasher(records.len(), ahash::RandomState::default());
        let keys = records
            .iter()
            .enumerate()
            .map(|(slot, record)| {
                index.insert(record.key.clone(), slot);
                (record.key.clone(), slot)
            })
            .collect();
        let slots = records.into_iter().map(|record| Slot::new(Versions::One(record))).collect();
        Tree { keys, index, slots, free: Vec::new(), live_bytes, live_keys }
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub(crate) fn live_keys(&self) -> u64 {
        self.live_keys
    }

    /// The newest record of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Arc<Record>> {
        self.versions(key)?.newest().cloned()
    }

    /// The record of a key as of a revision.
    pub(crate) fn get_at(&self, key: &[u8], revision: Revision) -> Option<Arc<Record>> {
        self.versions(key)?.at(revision).cloned()
    }

    fn versions(&self, key: &[u8]) -> Option<&Versions> {
        self.index.get(key).map(|slot| &self.slots[*slot].versions)
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
        let previous = match self.index.entry(record.key.clone()) {
            Entry::Vacant(entry) => {
                let key = record.key.clone();
                let versions = Slot::new(Versions::One(record));
                let slot = match self.free.pop() {
                    Some(slot) => {
                        self.slots[slot] = versions;
                        slot
                    }
                    None => {
                        self.slots.push(versions);
                        self.slots.len() - 1
                    }
                };
                self.keys.insert(key, slot);
                entry.insert(slot);
                None
            }
            Entry::Occupied(entry) => {
                let slot = &mut self.slots[*entry.get()];
                let previous = slot.versions.newest().cloned();
                slot.push(Version::Put(record));
                previous
            }
        };
        self.replaced(previous.as_deref());
        previous
    }

    /// Adds a deletion, newer than anything that was added before. Returns the record before; if there was none, nothing
    /// happens.
    pub(crate) fn delete(&mut self, key: &[u8], revision: Revision) -> Option<Arc<Record>> {
        let slot = &mut self.slots[*self.index.get(key)?];
        let previous = slot.versions.newest().cloned()?;
        slot.push(Version::Deleted(revision));
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
        let Some(slot) = self.index.get(key).copied() else { return };
        // What has gone is read again from what stays.
        *self.slots[slot].mark.get_mut() = UNMARKED;
        if self.slots[slot].versions.trim(floor, garbage) {
            self.index.remove(key);
            self.keys.remove(key);
            self.slots[slot] = Slot::new(Versions::Many(Vec::new()));
            self.free.push(slot);
        }
    }

    /// The records of a range as of a revision, in key order.
    #[cfg(test)]
    pub(crate) fn range(&self, range: &KeyRange, revision: Revision) -> impl Iterator<Item = &Arc<Record>> {
        self.in_range(range).filter_map(move |(_, slot)| slot.versions.at(revision))
    }

    /// Gathers records as of a revision, looking at no more than `keys` keys, those whose mark has not all of `bits` left
    /// out. Returns the last key looked at if the range goes on behind it. (It is for the caller to choose among them,
    /// where no lock is held.)
    pub(crate) fn gather(
        &self,
        range: &KeyRange,
        revision: Revision,
        keys: usize,
        bits: u64,
    ) -> (Vec<Arc<Record>>, Option<Key>) {
        let mut records = Vec::new();
        let last = self.visit(range, keys, |slot| {
            if slot.may_have(bits) {
                records.extend(slot.versions.at(revision).cloned());
            }
        });
        (records, last)
    }

    /// How many records [`Tree::gather`] would gather.
    pub(crate) fn count(&self, range: &KeyRange, revision: Revision, keys: usize) -> (u64, Option<Key>) {
        let mut count = 0;
        let last = self.visit(range, keys, |slot| count += u64::from(slot.versions.at(revision).is_some()));
        (count, last)
    }

    /// Looks at no more than `keys` keys. Returns the last of them if the range goes on behind it.
    fn visit(&self, range: &KeyRange, keys: usize, mut each: impl FnMut(&Slot)) -> Option<Key> {
        let mut found = self.in_range(range);
        let mut last = None;
        for (key, slot) in found.by_ref().take(keys) {
            each(slot);
            last = Some(key);
        }
        found.next().and(last).cloned()
    }

    fn in_range(&self, range: &KeyRange) -> impl Iterator<Item = (&Key, &Slot)> {
        // BTreeMap panics on a range that ends before it starts.
        let empty = range.is_empty();
        let end = range.end().map_or(Bound::Unbounded, |end| Bound::Excluded(end.as_bytes()));
        let bounds = if empty {
            (Bound::Included(&b""[..]), Bound::Excluded(&b""[..]))
        } else {
            (Bound::Included(range.start().as_bytes()), end)
        };
        self.keys.range::<[u8], _>(bounds).map(|(key, slot)| (key, &self.slots[*slot]))
    }

    /// Every record that exists now, in key order.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.keys.values().filter_map(|slot| self.slots[*slot].versions.newest())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn put(tree: &mut Tree, key: &str, revision: Revision) {
        let previous = tree.get(key.as_bytes());
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
        let previous = tree.get(key.as_bytes()).expect("the key to delete is there");
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
        assert_eq!(tree.index.len(), 1);
        assert!(matches!(tree.versions(b"b"), Some(Versions::One(_))));
        assert_eq!((tree.slots.len(), tree.free.len()), (2, 1));
        put(&mut tree, "c", 8);
        assert_eq!((tree.slots.len(), tree.free.len()), (2, 0), "the slot is used again");
        assert_eq!(at(&tree, 8), [6, 8]);
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
        let gather = |range: &KeyRange| {
            let (records, last) = tree.gather(range, 4, 1, 0);
            (records.iter().map(|record| record.mod_revision).collect::<Vec<_>>(), last)
        };
        assert_eq!(gather(&KeyRange::all()), (vec![4], Some(Key::from("a"))));
        assert_eq!(gather(&KeyRange::all().after(b"a")), (vec![3], None));
        assert_eq!(tree.count(&KeyRange::all(), 4, 1), (1, Some(Key::from("a"))));
        assert_eq!(tree.count(&KeyRange::all(), 4, 2), (2, None));
        assert_eq!(tree.count(&KeyRange::all(), 7, 2), (1, None), "what is deleted does not count");
        assert_eq!(tree.range(&KeyRange::from_to("z", "a"), 9).count(), 0);
    }

    #[test]
    fn marks_leave_out_only_what_cannot_be_meant() {
        let mut tree = Tree::default();
        let found = |tree: &Tree, bits| tree.gather(&KeyRange::all(), 9, 9, bits).0.len();
        put(&mut tree, "a", 2);
        put(&mut tree, "b", 3);
        assert_eq!(found(&tree, 0b01), 2, "nothing is known of them");
        for (key, mark) in [("a", 0b01), ("b", 0b10)] {
            tree.get(key.as_bytes()).expect("it was put").set_mark(mark);
        }
        assert_eq!([0, 0b01, 0b10, 0b11].map(|bits| found(&tree, bits)), [2, 1, 1, 0]);
        put(&mut tree, "a", 4);
        assert_eq!(found(&tree, 0b10), 2, "nothing is known of the new one");
        tree.get(b"a").expect("it was put").set_mark(0b10);
        assert_eq!([0b01, 0b10].map(|bits| found(&tree, bits)), [1, 2], "the old one may be asked for");
        tree.trim(b"a", 4, &mut Vec::new());
        assert_eq!([0b01, 0b10].map(|bits| found(&tree, bits)), [0, 2]);
        delete(&mut tree, "a", 5);
        tree.trim(b"a", 5, &mut Vec::new());
        put(&mut tree, "c", 6);
        assert_eq!(found(&tree, 0b01), 1, "a slot that is used again has forgotten its mark");
    }
}
