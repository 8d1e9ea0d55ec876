//! The engine on a disk that crashes, fills up and fails.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::disk::simulated::{Fault, SimulatedDisk};
use crate::{Change, Expect, Key, KeyRange, LeaseId, RangeOptions, Store, WatchOptions, WatchStart};

const DIR: &str = "/store";

fn config(disk: &Arc<SimulatedDisk>, history: History) -> Config {
    Config { segment_bytes: 600, history, disk: Arc::new(Arc::clone(disk)), ..Config::new(DIR) }
}

fn manual() -> History {
    History { automatic: false, ..History::default() }
}

async fn open(disk: &Arc<SimulatedDisk>) -> Store {
    Store::open(config(disk, manual())).await.expect("the store opens")
}

async fn put(store: &Store, key: &str, value: &str) -> Result<Revision, CommitError> {
    let committed = store.commit(Key::from(key), Expect::Any, Change::put(value)).await?;
    Ok(committed.revision)
}

fn value(store: &Store, key: &str) -> Option<String> {
    store.get(key.as_bytes()).map(|record| String::from_utf8_lossy(&record.value).into_owned())
}

fn contents(store: &Store) -> BTreeMap<String, (String, Revision)> {
    let all = store.range(&KeyRange::all(), RangeOptions::default()).expect("the newest can be read");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    all.records.iter().map(|record| (text(&record.key), (text(&record.value), record.mod_revision))).collect()
}

#[tokio::test]
async fn comes_back_with_its_history() {
    let disk = SimulatedDisk::new();
    let store = open(&disk).await;
    assert_eq!(put(&store, "a", "1").await.expect("put"), 2);
    assert_eq!(put(&store, "a", "2").await.expect("put"), 3);
    store.commit(Key::from("a"), Expect::Exists, Change::Delete).await.expect("deleted");
    assert_eq!(put(&store, "b", "3").await.expect("put"), 5);
    store.close().await;
    assert!(matches!(put(&store, "b", "4").await, Err(CommitError::Closed)));
    assert_eq!(value(&store, "b").as_deref(), Some("3"), "reads go on");

    let store = open(&disk).await;
    assert_eq!((store.revision(), store.compacted_revision()), (5, 1));
    let at = |revision| {
        let options = RangeOptions { revision: Some(revision), limit: 0 };
        store.range(&KeyRange::all(), options).expect("readable").records.len()
    };
    assert_eq!((at(1), at(2), at(3), at(4), at(5)), (0, 1, 1, 0, 1));
    let mut watcher =
        store.watch(KeyRange::all(), WatchStart::After(1), WatchOptions::default()).expect("watched");
    let batch = watcher.next().await.expect("events");
    assert_eq!(batch.events.iter().map(|event| event.revision).collect::<Vec<_>>(), [2, 3, 4, 5]);
    assert_eq!(batch.events[2].previous.as_ref().map(|record| record.version), Some(2));
}

/// Runs writes, a compaction and (through small segments) rotations and a checkpoint, until the disk dies. Returns what
/// was acknowledged, and what was asked for but not answered well.
async fn work(disk: &Arc<SimulatedDisk>) -> (BTreeMap<String, String>, Vec<(String, String)>, Revision) {
    let mut acknowledged = BTreeMap::new();
    let mut unknown = Vec::new();
    let mut newest = 0;
    let Ok(store) = Store::open(config(disk, manual())).await else { return (acknowledged, unknown, newest) };
    for round in 0..12 {
        let key = format!("key{}", round % 4);
        let text = format!("{round}-{}", "v".repeat(150));
        match put(&store, &key, &text).await {
            Ok(revision) => {
                assert!(revision > newest, "revisions rise");
                newest = revision;
                acknowledged.insert(key, text);
            }
            Err(_) => unknown.push((key, text)),
        }
        if round == 7 {
            // It may fail, as everything here may.
            if store.compact(store.revision().saturating_sub(2)).await.is_ok() {
                wait_for_checkpoint(disk).await;
            }
        }
    }
    (acknowledged, unknown, newest)
}

/// Waits until the first snapshot has been replaced, or something went wrong.
async fn wait_for_checkpoint(disk: &SimulatedDisk) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !disk.has_failed()
        && (disk.contains("0000000000000001-0000000000000001.snapshot")
            || disk.contains("0000000000000001.log"))
    {
        assert!(Instant::now() < limit, "no checkpoint was written; there is {:?}", disk.paths());
        tokio::task::yield_now().await;
    }
}

/// Opens what a crash left, checks it against what is known, and that it can be written.
async fn check(
    disk: &Arc<SimulatedDisk>,
    acknowledged: &BTreeMap<String, String>,
    unknown: &[(String, String)],
    newest: Revision,
    what: &str,
) {
    let store = match Store::open(config(disk, manual())).await {
        Ok(store) => store,
        Err(error) => panic!("{what}: does not open: {error}"),
    };
    assert!(store.revision() >= newest, "{what}: revision {} went back from {newest}", store.revision());
    for (key, text) in acknowledged {
        let found = value(&store, key);
        let known = found.as_ref() == Some(text);
        let later = unknown.iter().any(|(other, text)| other == key && found.as_ref() == Some(text));
        assert!(known || later, "{what}: acknowledged {key} is lost");
    }
    let before = store.revision();
    assert_eq!(put(&store, "after", "crash").await.expect("writes go on"), before + 1, "{what}");
    let kept = contents(&store);
    store.close().await;
    let again = open(&disk.after_kill()).await;
    assert_eq!(contents(&again), kept, "{what}: opened twice");
}

#[tokio::test]
async fn a_crash_at_any_step_loses_nothing_acknowledged() {
    let whole = SimulatedDisk::new();
    work(&whole).await;
    let steps = whole.steps();
    assert!(steps > 40, "the work does something: {steps} steps");
    let mut random = fastrand::Rng::with_seed(7);
    for step in 1..=steps {
        let disk = SimulatedDisk::new();
        disk.fail_at(step, Fault::Crash);
        let (acknowledged, unknown, newest) = work(&disk).await;
        check(&disk.after_kill(), &acknowledged, &unknown, newest, &format!("killed at {step}")).await;
        for round in 0..4 {
            let what = format!("power lost at {step}, {round}");
            let after = disk.after_power_loss(&mut random);
            check(&after, &acknowledged, &unknown, newest, &what).await;
            // Killed first, then opened by the next process, which shows what it found; then the power goes.
            let second = disk.after_kill();
            let Ok(store) = Store::open(config(&second, manual())).await else { continue };
            let shown: BTreeMap<String, String> =
                contents(&store).into_iter().map(|(key, (value, _))| (key, value)).collect();
            let mut seen = store.revision();
            if round % 2 == 0 {
                seen = put(&store, "between", "acknowledged").await.expect("writes go on");
            }
            drop(store);
            let what = format!("{what}, opened between");
            check(&second.after_power_loss(&mut random), &shown, &[], seen, &what).await;
        }
    }
}

#[tokio::test]
async fn one_failure_at_any_step_loses_nothing_acknowledged() {
    let whole = SimulatedDisk::new();
    work(&whole).await;
    let mut random = fastrand::Rng::with_seed(8);
    for step in 1..=whole.steps() {
        let disk = SimulatedDisk::new();
        disk.fail_at(step, Fault::Once);
        let (acknowledged, unknown, newest) = work(&disk).await;
        check(&disk.after_kill(), &acknowledged, &unknown, newest, &format!("failed at {step}")).await;
        let after = disk.after_power_loss(&mut random);
        check(&after, &acknowledged, &unknown, newest, &format!("failed at {step}, power lost")).await;
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_recovers() {
    for room in [0, 1, 30, 100, 200, 399] {
        let disk = SimulatedDisk::new();
        let store = open(&disk).await;
        put(&store, "a", "1").await.expect("put");
        disk.set_room(Some(room));
        let text = "v".repeat(400);
        for _ in 0..3 {
            let refused = put(&store, "a", &text).await;
            assert!(matches!(refused, Err(CommitError::NoSpace(_))), "room {room}: {refused:?}");
        }
        assert_eq!((value(&store, "a").as_deref(), store.revision()), (Some("1"), 2), "reads go on");
        disk.set_room(None);
        assert_eq!(put(&store, "a", &text).await.expect("room again"), 3, "room {room}");
        store.close().await;
        let store = open(&disk.after_power_loss(&mut fastrand::Rng::with_seed(1))).await;
        assert_eq!((value(&store, "a"), store.revision()), (Some(text), 3), "room {room}");
    }
}

#[tokio::test]
async fn what_is_in_flight_fails_together() {
    let disk = SimulatedDisk::new();
    let store = open(&disk).await;
    disk.set_room(Some(0));
    let writers: Vec<_> = (0..32)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { put(&store, &format!("k{}", n % 3), "x").await })
        })
        .collect();
    for writer in writers {
        assert!(matches!(writer.await.expect("ran"), Err(CommitError::NoSpace(_))));
    }
    assert_eq!((store.revision(), contents(&store).len()), (1, 0));
    disk.set_room(None);
    assert_eq!(put(&store, "k", "x").await.expect("put"), 2);
}

#[tokio::test]
async fn after_a_failed_sync_the_old_segment_is_fenced() {
    for failures in 1..4 {
        let disk = SimulatedDisk::new();
        let store = open(&disk).await;
        put(&store, "a", "kept").await.expect("put");
        disk.fail_syncs(failures);
        for _ in 0..failures {
            assert!(matches!(put(&store, "a", "doubtful").await, Err(CommitError::Storage(_))));
            assert_eq!(value(&store, "a").as_deref(), Some("kept"));
        }
        assert_eq!(put(&store, "b", "later").await.expect("put"), 3);
        store.close().await;
        // Even if the disk did keep what it said it could not.
        let store = open(&disk.after_kill()).await;
        assert_eq!(value(&store, "a").as_deref(), Some("kept"), "after {failures} failures");
        assert_eq!((value(&store, "b").as_deref(), store.revision()), (Some("later"), 3));
    }
}

#[tokio::test]
async fn checkpoints_let_the_log_go() {
    let disk = SimulatedDisk::new();
    let history = History { revisions: 50, small_bytes: 0, bytes: 100_000, ..History::default() };
    let store = Store::open(Config { segment_bytes: 200_000, ..config(&disk, history.clone()) })
        .await
        .expect("opens");
    let text = "v".repeat(10_000);
    for round in 0..1000 {
        put(&store, &format!("k{}", round % 10), &text).await.expect("put");
    }
    let bytes = || disk.paths().iter().map(|path| disk.contents(path).len() as u64).sum::<u64>();
    let limit = Instant::now() + Duration::from_secs(20);
    while bytes() > 4 * checkpoint::RECLAIM_BYTES_MIN {
        assert!(Instant::now() < limit, "{} bytes are left", bytes());
        tokio::task::yield_now().await;
    }
    assert!(store.compacted_revision() > 900, "compacted to {}", store.compacted_revision());
    let kept = contents(&store);
    store.close().await;
    let store = Store::open(config(&disk.after_kill(), history)).await.expect("opens");
    assert_eq!((contents(&store), store.revision()), (kept, 1001));
}

#[tokio::test]
async fn leases_come_back() {
    let disk = SimulatedDisk::new();
    let store = open(&disk).await;
    let kept = store.grant_lease(Duration::from_secs(100)).await.expect("granted");
    let ended = store.grant_lease(Duration::from_secs(100)).await.expect("granted");
    for (key, lease) in [("a", kept), ("b", ended), ("c", ended)] {
        let change = Change::Put { value: "x".into(), lease: Some(lease) };
        store.commit(Key::from(key), Expect::Absent, change).await.expect("put");
    }
    store.revoke_lease(ended).await.expect("revoked");
    assert_eq!((store.revision(), contents(&store).len()), (5, 1), "both keys went at one revision");
    assert!(matches!(store.revoke_lease(ended).await, Err(LeaseError::NotFound(_))));
    store.close().await;

    let store = open(&disk).await;
    assert!(matches!(store.keep_alive(ended).await, Err(LeaseError::NotFound(_))));
    assert_eq!(store.keep_alive(kept).await.expect("kept"), Duration::from_secs(100));
    store.revoke_lease(kept).await.expect("revoked");
    assert_eq!((store.revision(), contents(&store).len()), (6, 0));
}

/// Puts a key with a lease that ends soon: where a machine has no time for us, before the key is there, so that another
/// one is needed.
async fn put_for_a_moment(store: &Store, key: &str) -> LeaseId {
    loop {
        let lease = store.grant_lease(Duration::from_millis(30)).await.expect("granted");
        let change = Change::Put { value: "x".into(), lease: Some(lease) };
        match store.commit(Key::from(key), Expect::Absent, change).await {
            Ok(_) => return lease,
            Err(CommitError::LeaseNotFound(_)) => {}
            Err(error) => panic!("put: {error}"),
        }
    }
}

#[tokio::test]
async fn a_lease_that_ends_takes_its_keys() {
    let store = open(&SimulatedDisk::new()).await;
    let mut watcher =
        store.watch(KeyRange::all(), WatchStart::Now, WatchOptions::default()).expect("watched");
    let lease = put_for_a_moment(&store, "a").await;
    assert_eq!(watcher.next().await.expect("the put").events[0].kind, crate::EventKind::Put);
    let ended = tokio::time::timeout(Duration::from_secs(20), watcher.next()).await.expect("in time");
    assert_eq!(ended.expect("the deletion").events[0].kind, crate::EventKind::Delete);
    assert_eq!(store.get(b"a"), None);
    let change = Change::Put { value: "x".into(), lease: Some(lease) };
    let refused = store.commit(Key::from("a"), Expect::Absent, change).await;
    assert!(matches!(refused, Err(CommitError::LeaseNotFound(_))));
}

#[tokio::test]
async fn a_kept_lease_does_not_end() {
    let store = Store::memory();
    let lease = store.grant_lease(Duration::from_secs(10)).await.expect("granted");
    let change = Change::Put { value: "x".into(), lease: Some(lease) };
    store.commit(Key::from("kept"), Expect::Absent, change).await.expect("put");
    put_for_a_moment(&store, "short").await;
    let limit = Instant::now() + Duration::from_secs(20);
    while store.get(b"short").is_some() {
        store.keep_alive(lease).await.expect("kept alive");
        assert!(Instant::now() < limit, "the short lease never ended");
        tokio::task::yield_now().await;
    }
    assert!(store.get(b"kept").is_some());
}

#[tokio::test]
async fn a_conflict_is_told_only_when_it_is_durable() {
    let disk = SimulatedDisk::new();
    let store = open(&disk).await;
    disk.set_room(Some(0));
    // Both are sequenced before the first can be written: the second conflicts with it in flight, and the first fails.
    let first = put(&store, "a", "1");
    let second = store.commit(Key::from("a"), Expect::Absent, Change::put("2"));
    let (first, second) = tokio::join!(biased; first, second);
    assert!(matches!(first, Err(CommitError::NoSpace(_))));
    assert!(matches!(second, Err(CommitError::NoSpace(_))), "{second:?}");
}

#[tokio::test]
async fn writers_of_one_key_see_each_other_in_flight() {
    let disk = SimulatedDisk::new();
    let store = open(&disk).await;
    let commit = |expect, change| store.commit(Key::from("a"), expect, change);
    let (created, changed, again, deleted, created_again, conflict) = tokio::join!(
        biased;
        commit(Expect::Absent, Change::put("1")),
        commit(Expect::ModRevision(2), Change::put("2")),
        commit(Expect::ModRevision(2), Change::put("3")),
        commit(Expect::ModRevision(3), Change::Delete),
        commit(Expect::Absent, Change::put("4")),
        commit(Expect::Absent, Change::put("5")),
    );
    assert_eq!(created.expect("created").revision, 2);
    assert_eq!(
        changed.expect("changed").record.map(|record| (record.mod_revision, record.version)),
        Some((3, 2))
    );
    let Err(CommitError::Conflict { current, .. }) = again else { panic!("no conflict: {again:?}") };
    assert_eq!(current.map(|record| record.mod_revision), Some(3));
    assert_eq!(deleted.expect("deleted").previous.map(|record| record.mod_revision), Some(3));
    assert_eq!(
        created_again.expect("created").record.map(|record| (record.create_revision, record.version)),
        Some((5, 1))
    );
    assert!(matches!(conflict, Err(CommitError::Conflict { .. })));
    store.close().await;
    assert_eq!(value(&open(&disk).await, "a").as_deref(), Some("4"));
}

#[tokio::test]
async fn nothing_is_seen_before_it_is_durable() {
    let disk = SimulatedDisk::new();
    let store = open(&disk).await;
    put(&store, "a", "1").await.expect("put");
    let mut watcher =
        store.watch(KeyRange::all(), WatchStart::Now, WatchOptions::default()).expect("watched");
    disk.set_slow(true);
    let writer = tokio::spawn({
        let store = store.clone();
        async move { put(&store, "a", "2").await }
    });
    let limit = Instant::now() + Duration::from_secs(20);
    while !disk.is_waiting() {
        assert!(Instant::now() < limit, "nothing is synced");
        tokio::task::yield_now().await;
    }
    assert_eq!(
        (store.revision(), value(&store, "a").as_deref()),
        (2, Some("1")),
        "reads go on, and see the old"
    );
    assert!(watcher.try_next().expect("goes on").is_none());
    assert_eq!(watcher.progress(), 2);
    assert!(!writer.is_finished());
    disk.set_slow(false);
    assert_eq!(writer.await.expect("ran").expect("put"), 3);
    assert_eq!(value(&store, "a").as_deref(), Some("2"));
    assert_eq!(watcher.try_next().expect("goes on").expect("the put").progress, 3);
}

#[tokio::test]
async fn waiting_for_a_revision_ends_when_it_is_visible() {
    let store = Store::memory();
    let waiter = tokio::spawn({
        let store = store.clone();
        async move {
            store.wait_for(4).await;
            store.revision()
        }
    });
    for _ in 0..3 {
        put(&store, "a", "x").await.expect("put");
        tokio::task::yield_now().await;
    }
    assert_eq!(waiter.await.expect("ran"), 4);
}

#[test]
fn names_of_things_in_a_store_directory() {
    let disk = SimulatedDisk::new();
    let (engine, _) = Local::open(&config(&disk, manual()), &(Arc::new(Arc::clone(&disk)) as Arc<dyn Disk>))
        .expect("the store opens");
    drop(engine);
    assert_eq!(disk.paths(), [Path::new(DIR).join("0000000000000001-0000000000000001.snapshot")]);
}
