//! A snapshot put into a store that is open: how the objects of one engine get into another.
//!
//! Keys, values and leases come along; revisions do not, as the engine gives its own.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::change::{Change, Expect, Operation};
use crate::disk::{Disk, RealDisk};
use crate::error::{ImportError, SnapshotError};
use crate::key::KeyRange;
use crate::record::{LeaseId, Record};
use crate::snapshot::{self, Loaded};
use crate::store::Store;

/// Keys put in one transaction. etcd takes 128 operations (`--max-txn-ops`), and each of ours is one of them.
const KEYS: usize = 100;
/// Bytes put in one transaction, if it is more than one key; etcd takes 1.5 MiB (`--max-request-bytes`).
const BYTES: usize = 1 << 20;

/// The least time that a lease is given: it must outlive the transaction that puts its keys, and one that had ended when
/// the snapshot was written has next to no time left.
const SHORTEST_LEASE: Duration = Duration::from_secs(60);

/// See [`Store::import`].
pub(crate) async fn import(store: &Store, from: &Path) -> Result<u64, ImportError> {
    let path = from.to_path_buf();
    let loaded = tokio::task::spawn_blocking(move || load(&path)).await;
    let loaded = loaded.map_err(|error| SnapshotError::Io {
        step: "read",
        path: from.to_path_buf(),
        source: std::io::Error::other(error),
    })??;
    let there = store.count(&KeyRange::all());
    if there > 0 {
        return Err(ImportError::NotEmpty { keys: there });
    }
    let times: HashMap<LeaseId, Duration> = loaded.leases.into_iter().collect();
    let mut leases = HashMap::new();
    let mut put = 0;
    // What has a lease comes last, so that none is granted long before its keys are there.
    let (lasting, leased): (Vec<_>, Vec<_>) =
        loaded.records.into_iter().partition(|record| record.lease.is_none());
    for batch in batches(&lasting).into_iter().chain(batches(&leased)) {
        for old in batch.iter().filter_map(|record| record.lease) {
            if let Entry::Vacant(new) = leases.entry(old) {
                let ttl = times.get(&old).copied().unwrap_or_default().max(SHORTEST_LEASE);
                new.insert(store.grant_lease(ttl).await.map_err(ImportError::Lease)?);
            }
        }
        let operations = batch.iter().map(|record| operation(record, &leases)).collect();
        store.transaction(operations).await.map_err(|source| ImportError::Commit { put, source })?;
        put += batch.len() as u64;
    }
    Ok(put)
}

fn load(path: &Path) -> Result<Loaded, SnapshotError> {
    let opened = RealDisk.open(path);
    let mut source =
        opened.map_err(|source| SnapshotError::Io { step: "open", path: path.to_path_buf(), source })?;
    snapshot::load(&mut *source).map_err(|error| error.into_snapshot_error(path))
}

/// Records in pieces that an engine takes at once.
fn batches(records: &[Arc<Record>]) -> Vec<&[Arc<Record>]> {
    let mut batches = Vec::new();
    let mut rest = records;
    while let Some(first) = rest.first() {
        let mut bytes = first.size();
        let more = rest.iter().skip(1).take(KEYS - 1).take_while(|record| {
            bytes += record.size();
            bytes <= BYTES
        });
        let (batch, behind) = rest.split_at(1 + more.count());
        batches.push(batch);
        rest = behind;
    }
    batches
}

/// A lease that a record names has been granted anew.
fn operation(record: &Record, leases: &HashMap<LeaseId, LeaseId>) -> Operation {
    let lease = record.lease.and_then(|old| leases.get(&old).copied());
    (record.key.clone(), Expect::Absent, Change::Put { value: record.written(), lease })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::backup;
    use crate::engine::{Feed, Published};
    use crate::key::Key;
    use crate::record::Value;
    use crate::watch::{WatchOptions, WatchStart};

    fn record(key: &str, bytes: usize) -> Arc<Record> {
        Arc::new(Record::new(Key::from(key), vec![0; bytes].into(), 1, 1, 1, None, None))
    }

    #[test]
    fn batches_are_what_etcd_takes() {
        let sizes = |records: &[Arc<Record>]| -> Vec<usize> {
            batches(records).iter().map(|batch| batch.len()).collect()
        };
        assert_eq!(sizes(&[]), []);
        let small: Vec<_> = (0..2 * KEYS + 1).map(|n| record(&n.to_string(), 1)).collect();
        assert_eq!(sizes(&small), [KEYS, KEYS, 1]);
        let large = ["a", "b", "c", "d"].map(|key| record(key, BYTES / 2 - 1));
        assert_eq!(sizes(&large), [2, 2]);
        assert_eq!(
            sizes(&["a", "b"].map(|key| record(key, 2 * BYTES))),
            [1, 1],
            "each alone, whatever it weighs"
        );
    }

    #[tokio::test]
    async fn what_was_in_one_store_is_in_another() {
        let from = Store::memory();
        let lease = from.grant_lease(Duration::from_secs(100)).await.expect("granted");
        // So that numbers of leases and revisions differ.
        let to = Store::memory();
        to.grant_lease(Duration::from_secs(1)).await.expect("granted");
        let value = Value { bytes: "<>".into(), revision_at: Some(1) };
        for n in 0..12 {
            let change = Change::Put { value: value.clone(), lease: (n == 11).then_some(lease) };
            from.commit(Key::from(format!("k{n:02}")), Expect::Absent, change).await.expect("put");
        }
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("snapshot");
        from.snapshot(&file).await.expect("written");
        assert_eq!(to.import(&file).await.expect("imported"), 12);
        for n in 0..12 {
            let record = to.get(format!("k{n:02}").as_bytes()).expect("it came along");
            assert_eq!(record.written(), value);
            assert_eq!(&record.value[..], format!("<{}>", record.mod_revision).as_bytes());
            assert_eq!(record.lease.is_some(), n == 11);
        }
        let lease = to.get(b"k11").and_then(|record| record.lease).expect("a lease");
        assert_eq!(to.keep_alive(lease).await.expect("it lives"), Duration::from_secs(100));
        let after = WatchStart::After(to.revision());
        let mut watch = to.watch(KeyRange::all(), after, WatchOptions::default()).expect("watched");
        to.revoke_lease(lease).await.expect("revoked");
        assert_eq!(&watch.next().await.expect("an event").events[0].record.key[..], b"k11");

        let refused = to.import(&file).await;
        assert!(matches!(refused, Err(ImportError::NotEmpty { keys: 11 })), "{refused:?}");
        let missing = Store::memory().import(&dir.path().join("missing")).await;
        assert!(
            matches!(missing, Err(ImportError::Snapshot(SnapshotError::Io { step: "open", .. }))),
            "{missing:?}"
        );
        std::fs::write(&file, "no snapshot, but as long as the beginning of one has to be").expect("written");
        let damaged = Store::memory().import(&file).await;
        assert!(
            matches!(damaged, Err(ImportError::Snapshot(SnapshotError::Corrupt { offset: 0, .. }))),
            "{damaged:?}"
        );
    }

    /// A lease of a millisecond would be gone before its keys came.
    #[tokio::test]
    async fn keys_of_a_lease_that_had_ended_are_put_and_end_again() {
        let feed = Feed::new(Vec::new(), 1);
        let ended = LeaseId::new(8).expect("not zero");
        for revision in 2..300 {
            let key = Key::from(format!("k{revision}"));
            let lease = (revision == 2).then_some(ended);
            let record = Record::new(key, Bytes::new(), revision, revision, 1, lease, None);
            let events = vec![Arc::new(feed.put_event(Arc::new(record)))];
            feed.publish(vec![Published { revision, events }]);
        }
        let pin = feed.state.pin(299).expect("kept");
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("snapshot");
        backup::write(&RealDisk, &pin, Vec::new(), &file).expect("written");
        let to = Store::memory();
        assert_eq!(to.import(&file).await.expect("imported"), 298);
        let lease = to.get(b"k2").and_then(|record| record.lease).expect("a lease");
        assert_eq!(to.keep_alive(lease).await.expect("it lives"), SHORTEST_LEASE);
    }
}
