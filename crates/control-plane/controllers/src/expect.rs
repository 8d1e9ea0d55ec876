//! What a controller has written and its cache has not yet shown.
//!
//! A controller that counts its cache alone would create again what it has just created. So each write is noted here, and
//! the owner is left alone until the cache has caught up. Nothing is counted: each expectation can be checked against the cache
//! at any time, so a lost or merged event cannot leave it hanging, and an expiry guards against the rest.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use kube::Resource;
use parking_lot::Mutex;
use podium_client::{Informer, Object, ObjectKey};

use crate::clock;
use crate::context::is_uncertain;
use crate::owner;

/// Upstream's `ExpectationsTimeout`: a watch that far behind is broken, and waiting longer helps nobody.
const EXPIRY_SECONDS: i64 = 300;
/// A write whose answer was lost has either reached the cache by then or did not happen.
const UNCERTAIN_SECONDS: i64 = 10;

/// One write that the cache must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The object at this resourceVersion or a later one.
    Written {
        /// Which object.
        key: ObjectKey,
        /// The version the write was answered with.
        version: u64,
    },
    /// The object, if the create that got no answer took place.
    MaybeCreated {
        /// Which object.
        key: ObjectKey,
    },
    /// The object gone or going.
    Deleted {
        /// Which object.
        key: ObjectKey,
        /// Which life of it: another one under the same name is not ours.
        uid: String,
    },
    /// The object at a later resourceVersion than this one, if the update that got no answer took place.
    MaybeUpdated {
        /// Which object.
        key: ObjectKey,
        /// The version that the update was based on.
        from: u64,
    },
    /// The object gone or going, if the deletion that got no answer took place.
    MaybeDeleted {
        /// Which object.
        key: ObjectKey,
        /// Which life of it.
        uid: String,
    },
}

/// What the cache knows of one object.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Its uid.
    pub(crate) uid: String,
    /// Its resourceVersion.
    pub(crate) version: u64,
    /// Whether deletion has begun.
    pub(crate) terminating: bool,
}

/// The cache that expectations are checked against.
pub(crate) trait Cache {
    /// One object.
    fn seen(&self, key: &ObjectKey) -> Option<Seen>;
    /// The newest version of anything in it.
    fn version(&self) -> u64;
}

impl<K: Object> Cache for Informer<K> {
    fn seen(&self, key: &ObjectKey) -> Option<Seen> {
        self.get(key).map(|object| {
            let meta = Resource::meta(object.as_ref());
            Seen {
                uid: owner::uid(meta).to_owned(),
                version: owner::version(meta),
                terminating: meta.deletion_timestamp.is_some(),
            }
        })
    }

    fn version(&self) -> u64 {
        self.resource_version().parse().unwrap_or_default()
    }
}

/// The open expectations of every object a controller looks after.
#[derive(Debug, Default)]
pub(crate) struct Expectations {
    open: Mutex<HashMap<ObjectKey, Vec<(Expected, Timestamp)>>>,
}

impl Expectations {
    /// Notes a write made for `owner`.
    pub(crate) fn note(&self, owner: &ObjectKey, expected: Expected, now: Timestamp) {
        self.open.lock().entry(owner.clone()).or_default().push((expected, now));
    }

    /// Notes that `object` was answered to a create or update made for `owner`.
    pub(crate) fn wrote<K: Resource<DynamicType = ()>>(&self, owner: &ObjectKey, object: &K, now: Timestamp) {
        let expected =
            Expected::Written { key: ObjectKey::of(object), version: owner::version(object.meta()) };
        self.note(owner, expected, now);
    }

    /// Notes what a write for `owner` that failed may have done all the same. One that was refused has done nothing.
    pub(crate) fn unanswered(
        &self,
        owner: &ObjectKey,
        error: &kube::Error,
        expected: impl FnOnce() -> Expected,
        now: Timestamp,
    ) {
        if is_uncertain(error) {
            self.note(owner, expected(), now);
        }
    }

    /// Whether `cache` shows every write made for `owner`. Forgets those it shows.
    pub(crate) fn satisfied(&self, owner: &ObjectKey, cache: &dyn Cache, now: Timestamp) -> bool {
        let Some(mut expected) = self.open.lock().remove(owner) else { return true };
        expected.retain(|(expected, since)| !is_met(expected, *since, cache, now));
        if expected.is_empty() {
            return true;
        }
        // Only the worker of `owner` adds entries for it, and that worker is the caller.
        self.open.lock().insert(owner.clone(), expected);
        false
    }

    /// The uids of objects that were deleted for `owner` and that the cache may still show alive.
    pub(crate) fn deleted(&self, owner: &ObjectKey) -> HashSet<String> {
        let open = self.open.lock();
        let uid = |(expected, _): &(Expected, Timestamp)| match expected {
            Expected::Deleted { uid, .. } => Some(uid.clone()),
            Expected::Written { .. }
            | Expected::MaybeCreated { .. }
            | Expected::MaybeUpdated { .. }
            | Expected::MaybeDeleted { .. } => None,
        };
        open.get(owner).into_iter().flatten().filter_map(uid).collect()
    }

    /// Whether deletions are among what the cache does not show yet.
    pub(crate) fn awaits_deletions(&self, owner: &ObjectKey) -> bool {
        let open = self.open.lock();
        open.get(owner)
            .into_iter()
            .flatten()
            .any(|(expected, _)| matches!(expected, Expected::Deleted { .. }))
    }

    /// Drops what was expected for an owner that is gone.
    pub(crate) fn forget(&self, owner: &ObjectKey) {
        self.open.lock().remove(owner);
    }
}

fn is_met(expected: &Expected, since: Timestamp, cache: &dyn Cache, now: Timestamp) -> bool {
    let expired = |seconds| clock::after(since, seconds) <= now;
    match expected {
        Expected::Written { key, version } => {
            // A watch is ordered: having seen anything as new means having seen this.
            cache.version() >= *version
                || cache.seen(key).is_some_and(|seen| seen.version >= *version)
                || expired(EXPIRY_SECONDS)
        }
        Expected::MaybeCreated { key } => cache.seen(key).is_some() || expired(UNCERTAIN_SECONDS),
        Expected::Deleted { key, uid } => is_ended(key, uid, cache) || expired(EXPIRY_SECONDS),
        Expected::MaybeUpdated { key, from } => {
            cache.seen(key).is_none_or(|seen| seen.version > *from) || expired(UNCERTAIN_SECONDS)
        }
        Expected::MaybeDeleted { key, uid } => is_ended(key, uid, cache) || expired(UNCERTAIN_SECONDS),
    }
}

/// Whether the cache shows that life of the object gone or going.
fn is_ended(key: &ObjectKey, uid: &str, cache: &dyn Cache) -> bool {
    cache.seen(key).is_none_or(|seen| seen.terminating || seen.uid != uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Fake {
        version: u64,
        objects: HashMap<ObjectKey, Seen>,
    }

    impl Cache for Fake {
        fn seen(&self, key: &ObjectKey) -> Option<Seen> {
            self.objects.get(key).cloned()
        }
        fn version(&self) -> u64 {
            self.version
        }
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("ns", name)
    }

    fn seen(uid: &str, version: u64, terminating: bool) -> Seen {
        Seen { uid: uid.to_owned(), version, terminating }
    }

    #[track_caller]
    fn check(expected: Expected, cache: &Fake, seconds: i64, met: bool) {
        let start = Timestamp::UNIX_EPOCH;
        let expectations = Expectations::default();
        expectations.note(&key("owner"), expected, start);
        assert_eq!(expectations.satisfied(&key("owner"), cache, clock::after(start, seconds)), met);
        assert_eq!(expectations.open.lock().is_empty(), met, "kept exactly while open");
    }

    #[test]
    fn a_write_is_met_by_its_own_or_any_later_version() {
        let written = || Expected::Written { key: key("a"), version: 7 };
        check(written(), &Fake::default(), 0, false);
        check(written(), &Fake { version: 6, ..Fake::default() }, 0, false);
        check(written(), &Fake { version: 7, ..Fake::default() }, 0, true);
        let objects = HashMap::from([(key("a"), seen("u", 7, false))]);
        check(written(), &Fake { version: 0, objects }, 0, true);
        check(written(), &Fake::default(), 299, false);
        check(written(), &Fake::default(), 300, true);
    }

    #[test]
    fn a_deletion_is_met_by_absence_termination_or_another_life() {
        let deleted = || Expected::Deleted { key: key("a"), uid: "u".to_owned() };
        check(deleted(), &Fake::default(), 0, true);
        for (object, met) in
            [(seen("u", 1, false), false), (seen("u", 1, true), true), (seen("v", 1, false), true)]
        {
            check(deleted(), &Fake { version: 9, objects: HashMap::from([(key("a"), object)]) }, 0, met);
        }
    }

    #[test]
    fn a_create_without_an_answer_is_given_ten_seconds() {
        let maybe = || Expected::MaybeCreated { key: key("a") };
        check(maybe(), &Fake { version: 99, ..Fake::default() }, 9, false);
        check(maybe(), &Fake::default(), 10, true);
        let objects = HashMap::from([(key("a"), seen("u", 1, false))]);
        check(maybe(), &Fake { version: 0, objects }, 0, true);
    }

    #[test]
    fn writes_without_an_answer_are_given_ten_seconds() {
        let showing = |version, terminating| Fake {
            version: 99,
            objects: HashMap::from([(key("a"), seen("u", version, terminating))]),
        };
        let updated = || Expected::MaybeUpdated { key: key("a"), from: 7 };
        check(updated(), &showing(7, false), 9, false);
        check(updated(), &showing(7, false), 10, true);
        check(updated(), &showing(8, false), 0, true);
        check(updated(), &Fake::default(), 0, true);
        let deleted = || Expected::MaybeDeleted { key: key("a"), uid: "u".to_owned() };
        check(deleted(), &showing(9, false), 9, false);
        check(deleted(), &showing(9, false), 10, true);
        check(deleted(), &showing(9, true), 0, true);
        check(deleted(), &Fake::default(), 0, true);
    }
}
