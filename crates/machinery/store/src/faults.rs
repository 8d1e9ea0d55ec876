//! Faults that a trusted store has had (`SECURITY.md`, "The store"), each as a test. The number is that of etcd's issue.
//!
//! The one that needs a stopped process (#20418) is in `tests/kill.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::disk::simulated::{Fault, SimulatedDisk};
use crate::{
    Change, CommitError, Config, EventKind, Expect, History, Key, KeyRange, RangeOptions, Revision, Store,
    WatchError, WatchOptions, WatchStart, Watcher,
};

async fn open(disk: &Arc<SimulatedDisk>) -> Store {
    try_open(disk).await.expect("the store opens")
}

async fn try_open(disk: &Arc<SimulatedDisk>) -> Result<Store, crate::OpenError> {
    let history = History { automatic: false, ..History::default() };
    let disk = Arc::new(Arc::clone(disk));
    Store::open(Config { segment_bytes: 500, history, disk, ..Config::new("/store") }).await
}

async fn put(store: &Store, key: &str, value: &str) -> Result<Revision, CommitError> {
    Ok(store.commit(Key::from(key), Expect::Any, Change::put(value)).await?.revision)
}

async fn delete(store: &Store, key: &str) -> Revision {
    store.commit(Key::from(key), Expect::Exists, Change::Delete).await.expect("deleted").revision
}

fn watch(store: &Store, after: Revision) -> Result<Watcher, WatchError> {
    store.watch(KeyRange::all(), WatchStart::After(after), WatchOptions { batch: 3 })
}

fn fetch(watcher: &mut Watcher) -> Vec<Revision> {
    let mut revisions = Vec::new();
    while let Some(batch) = watcher.try_next().expect("it keeps up") {
        revisions.extend(batch.events.iter().map(|event| event.revision));
    }
    revisions
}

/// #14370
#[tokio::test]
async fn an_acknowledged_write_is_not_lost_when_the_only_node_crashes() {
    for writes in 1..20u64 {
        let disk = SimulatedDisk::new();
        let store = open(&disk).await;
        for number in 0..writes {
            put(&store, &format!("k{number}"), &"v".repeat(100)).await.expect("acknowledged");
        }
        // Power goes at once: nothing that was left for later is done.
        let after = disk.after_power_loss(&mut fastrand::Rng::with_seed(writes));
        let found = open(&after).await;
        assert_eq!((found.revision(), found.count(&KeyRange::all())), (writes + 1, writes));
    }
}

/// #17780
#[tokio::test]
async fn the_revision_does_not_go_back_after_a_crash_during_compaction() {
    let mut random = fastrand::Rng::with_seed(3);
    let mut step = 0;
    loop {
        step += 1;
        let disk = SimulatedDisk::new();
        let store = open(&disk).await;
        // The newest revisions are deletions: of the compacted store nothing tells their revision but the log.
        for number in 0..12 {
            put(&store, &format!("k{}", number % 3), &"v".repeat(100)).await.expect("put");
        }
        for number in 0..3 {
            delete(&store, &format!("k{number}")).await;
        }
        let newest = store.revision();
        disk.fail_at(disk.steps() + step, Fault::Crash);
        let compacted = store.compact(newest).await.is_ok();
        let limit = Instant::now() + Duration::from_secs(20);
        let first = "0000000000000001-0000000000000001.snapshot";
        while compacted
            && !disk.has_failed()
            && (disk.contains(first) || disk.contains("0000000000000001.log"))
        {
            assert!(Instant::now() < limit, "no checkpoint was written");
            tokio::task::yield_now().await;
        }
        let crashed = disk.has_failed();
        drop(store);
        for after in
            [disk.after_kill(), disk.after_power_loss(&mut random), disk.after_power_loss(&mut random)]
        {
            let found = open(&after).await;
            assert_eq!(found.revision(), newest, "crashed at step {step}");
            if compacted {
                assert_eq!(found.compacted_revision(), newest, "crashed at step {step}");
            }
            assert_eq!(put(&found, "next", "x").await.expect("put"), newest + 1);
        }
        if !crashed {
            assert!(step > 8, "only {step} steps");
            return;
        }
    }
}

/// #15271
#[tokio::test]
async fn a_watch_does_not_go_back_in_time_after_a_reconnect() {
    let disk = SimulatedDisk::new();
    let mut progress = 1;
    let mut seen: Vec<Revision> = Vec::new();
    for round in 0..10 {
        let store = open(&disk).await;
        let mut watcher = watch(&store, progress).expect("kept");
        for number in 0..round {
            put(&store, &format!("k{number}"), "x").await.expect("put");
        }
        let fetched = fetch(&mut watcher);
        assert!(fetched.iter().all(|revision| *revision > progress), "{fetched:?} after {progress}");
        seen.extend(fetched);
        assert!(watcher.progress() >= progress);
        progress = watcher.progress();
        store.close().await;
    }
    assert_eq!(seen, (2..=46).collect::<Vec<_>>());
}

/// #17247
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_comes_twice() {
    const WRITES: u64 = 2000;
    let store = open(&SimulatedDisk::new()).await;
    let writers: Vec<_> = (0..4u64)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for number in 0..WRITES / 4 {
                    put(&store, &format!("/r/g/pods/{}", (writer + number) % 5), "x").await.expect("put");
                }
            })
        })
        .collect();
    let watchers: Vec<_> = (0..4u64)
        .map(|seed| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut seen = Vec::new();
                let mut after = 1;
                while after < WRITES + 1 {
                    let mut watcher = watch(&store, after).expect("kept");
                    for _ in 0..random.u32(1..5) {
                        if after == WRITES + 1 {
                            break;
                        }
                        let batch = watcher.next().await.expect("events");
                        seen.extend(batch.events.iter().map(|event| event.revision));
                        after = batch.progress;
                    }
                }
                seen
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("it wrote");
    }
    for watcher in watchers {
        assert_eq!(watcher.await.expect("it watched"), (2..=WRITES + 1).collect::<Vec<_>>());
    }
}

/// #17529
#[tokio::test]
async fn a_slow_reader_loses_no_event_without_being_told() {
    let store = Store::memory_with(History { automatic: false, ..History::default() });
    let mut slow = watch(&store, 1).expect("kept");
    let mut slower = watch(&store, 1).expect("kept");
    for _ in 0..1000 {
        put(&store, "a", "x").await.expect("put");
    }
    assert_eq!(fetch(&mut slow), (2..=1001).collect::<Vec<_>>(), "what is kept is delivered, however late");
    slower.try_next().expect("kept").expect("events");
    store.compact(900).await.expect("compacted");
    let limit = Instant::now() + Duration::from_secs(20);
    let told = loop {
        // What is not freed yet may still be fetched, but then without a gap.
        match slower.try_next() {
            Err(error) => break error,
            Ok(Some(batch)) if batch.progress == 1001 => {
                panic!("everything was fetched before it was freed: the test is too slow")
            }
            Ok(_) => assert!(Instant::now() < limit),
        }
        while store.state_for_tests().all.oldest().is_some_and(|oldest| oldest <= 900) {
            assert!(Instant::now() < limit, "compacted events are not freed");
            tokio::task::yield_now().await;
        }
    };
    assert!(matches!(told, WatchError::TooSlow { compacted: 900, .. }), "{told:?}");
}

/// #18089
#[tokio::test]
async fn a_deletion_at_the_compacted_revision_is_not_lost() {
    let store = Store::memory_with(History { automatic: false, ..History::default() });
    put(&store, "a", "1").await.expect("put");
    let deleted = delete(&store, "a").await;
    store.compact(deleted - 1).await.expect("compacted");
    let mut watcher = watch(&store, deleted - 1).expect("kept");
    let batch = watcher.try_next().expect("kept").expect("the deletion");
    assert_eq!((batch.events[0].kind, batch.events[0].revision), (EventKind::Delete, deleted));
    assert_eq!(batch.events[0].previous.as_ref().map(|record| &record.value[..]), Some(&b"1"[..]));
    store.compact(deleted).await.expect("compacted");
    assert_eq!(watch(&store, deleted - 1).expect_err("gone"), WatchError::Compacted { compacted: deleted });
    let mut watcher = watch(&store, deleted).expect("kept");
    put(&store, "a", "2").await.expect("put");
    let batch = watcher.try_next().expect("kept").expect("the put");
    assert_eq!((batch.events.len(), batch.events[0].previous.is_none()), (1, true));
}

/// #20221
#[tokio::test]
async fn a_watch_on_a_future_revision_begins_there() {
    let store = Store::memory();
    let mut watcher = watch(&store, 5).expect("allowed, as in etcd");
    for _ in 0..4 {
        put(&store, "a", "x").await.expect("put");
        assert!(watcher.try_next().expect("it waits").is_none());
        assert_eq!(watcher.progress(), 5);
    }
    put(&store, "a", "x").await.expect("put");
    assert_eq!(fetch(&mut watcher), [6]);
}

/// #18667
#[tokio::test]
async fn a_transaction_does_not_depend_on_what_is_compacted() {
    let disk = SimulatedDisk::new();
    let store = open(&disk).await;
    let old = put(&store, "old", "1").await.expect("put");
    for number in 0..20 {
        put(&store, "a", "x").await.expect("put");
        let newest = store.revision();
        let transaction = store.transaction(vec![
            (Key::from("old"), Expect::ModRevision(old), Change::Check),
            (Key::from("a"), Expect::ModRevision(newest), Change::put("y")),
        ]);
        let (done, compacted) = tokio::join!(transaction, store.compact(newest));
        let done = done.expect("it neither fails nor sees something else");
        assert_eq!(
            done.results[0].record.as_ref().map(|record| &record.value[..]),
            Some(&b"1"[..]),
            "{number}"
        );
        compacted.expect("compacted");
    }
    let read = store.range(&KeyRange::single("old"), RangeOptions::default()).expect("read");
    assert_eq!(read.records[0].mod_revision, old);
}

/// A slow disk delays writes; reads and watches go on (`local::tests::nothing_is_seen_before_it_is_durable` has the
/// other half).
#[tokio::test]
async fn a_slow_disk_does_not_delay_reads() {
    let disk = SimulatedDisk::new();
    let store = open(&disk).await;
    put(&store, "a", "1").await.expect("put");
    disk.set_slow(true);
    let writers: Vec<_> = (0..8)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { put(&store, &format!("k{number}"), "x").await })
        })
        .collect();
    let limit = Instant::now() + Duration::from_secs(20);
    while !disk.is_waiting() {
        assert!(Instant::now() < limit, "nothing is synced");
        tokio::task::yield_now().await;
    }
    assert_eq!(store.count(&KeyRange::all()), 1);
    assert_eq!(fetch(&mut watch(&store, 1).expect("kept")), [2]);
    disk.set_slow(false);
    for writer in writers {
        writer.await.expect("ran").expect("put");
    }
    assert_eq!(store.revision(), 10);
}
