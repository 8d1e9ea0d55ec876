//! A store on etcd where things go wrong: servers that stop, connections that break, a past that others forgot; and two
//! stores on one etcd.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use podium_store::{
    Change, CommitError, EtcdConfig, EventKind, Expect, FreshError, Key, KeyRange, LeaseError, RangeOptions,
    ReadError, Revision, Store, WatchError, WatchOptions, WatchStart, Watcher,
};
use support::{EtcdServer, certificates};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

const LIMIT: Duration = Duration::from_secs(60);

async fn put(store: &Store, key: &str, value: &str) -> Result<Revision, CommitError> {
    Ok(store.commit(Key::from(key), Expect::Any, Change::put(value)).await?.revision)
}

/// Puts until the store takes it.
async fn put_at_last(store: &Store, key: &str, value: &str) -> Revision {
    let tries = async {
        loop {
            match put(store, key, value).await {
                Ok(revision) => return revision,
                Err(CommitError::Remote(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(LIMIT, tries).await.expect("etcd takes it at last")
}

fn value(store: &Store, key: &str) -> Option<String> {
    store.get(key.as_bytes()).map(|record| String::from_utf8_lossy(&record.value).into_owned())
}

fn watch(store: &Store, after: Revision) -> Watcher {
    store.watch(KeyRange::all(), WatchStart::After(after), WatchOptions::default()).expect("watched")
}

/// The revisions of the next events, until one is at least `last`.
async fn until(watcher: &mut Watcher, last: Revision) -> Vec<Revision> {
    let mut seen: Vec<Revision> = Vec::new();
    while seen.last().is_none_or(|revision| *revision < last) {
        let batch = tokio::time::timeout(LIMIT, watcher.next()).await.expect("in time").expect("goes on");
        seen.extend(batch.events.iter().map(|event| event.revision));
    }
    seen
}

/// A way to the server that can be cut.
struct Proxy {
    address: String,
    open: Arc<AtomicBool>,
    cut: Arc<Notify>,
}

impl Proxy {
    async fn to(server: &EtcdServer) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let target = server.url().trim_start_matches("http://").to_owned();
        let (open, cut) = (Arc::new(AtomicBool::new(true)), Arc::new(Notify::new()));
        let (opened, cutting) = (Arc::clone(&open), Arc::clone(&cut));
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let cut = Arc::clone(&cutting);
                // Before looking, so that no cut is missed in between.
                let cut = cut.notified_owned();
                if !opened.load(Ordering::SeqCst) {
                    continue;
                }
                let target = target.clone();
                tokio::spawn(async move {
                    let Ok(mut to) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                        () = cut => {}
                    }
                });
            }
        });
        Proxy { address, open, cut }
    }

    fn cut(&self) {
        self.open.store(false, Ordering::SeqCst);
        self.cut.notify_waiters();
    }

    fn mend(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn leases_are_etcds() {
    let server = EtcdServer::start();
    let store = server.open().await;
    let kept = store.grant_lease(Duration::from_secs(100)).await.expect("granted");
    let ended = store.grant_lease(Duration::from_secs(100)).await.expect("granted");
    for (key, lease) in [("a", kept), ("b", ended), ("c", ended)] {
        let change = Change::Put { value: "x".into(), lease: Some(lease) };
        let put = store.commit(Key::from(key), Expect::Absent, change).await.expect("put");
        assert_eq!(put.record.expect("a record").lease, Some(lease));
    }
    let before = store.revision();
    let mut watcher = watch(&store, before);
    store.revoke_lease(ended).await.expect("revoked");
    assert_eq!((store.revision(), store.count(&KeyRange::all())), (before + 1, 1), "both went at once");
    let batch = watcher.try_next().expect("goes on").expect("events");
    assert!(batch.events.iter().all(|event| event.kind == EventKind::Delete) && batch.events.len() == 2);
    assert!(matches!(store.revoke_lease(ended).await, Err(LeaseError::NotFound(_))));
    assert!(matches!(store.keep_alive(ended).await, Err(LeaseError::NotFound(_))));
    assert_eq!(store.keep_alive(kept).await.expect("kept"), Duration::from_secs(100));
    let change = Change::Put { value: "x".into(), lease: Some(ended) };
    let refused = store.commit(Key::from("d"), Expect::Absent, change).await;
    assert!(matches!(refused, Err(CommitError::LeaseNotFound(lease)) if lease == ended), "{refused:?}");

    let short = store.grant_lease(Duration::from_millis(1)).await.expect("granted");
    let change = Change::Put { value: "x".into(), lease: Some(short) };
    let revision = store.commit(Key::from("e"), Expect::Absent, change).await.expect("put").revision;
    let mut watcher = watch(&store, revision);
    let batch = tokio::time::timeout(LIMIT, watcher.next()).await.expect("it ends").expect("goes on");
    assert_eq!(batch.events[0].kind, EventKind::Delete);
    assert_eq!(value(&store, "e"), None);
    store.close().await;
    assert!(matches!(put(&store, "a", "x").await, Err(CommitError::Closed)));
    assert_eq!(value(&store, "a").as_deref(), Some("x"), "reads go on");
}

#[tokio::test]
async fn closing_takes_no_more_changes_and_finishes_those_under_way() {
    let server = EtcdServer::start();
    let store = server.open().await;
    let mut watcher = watch(&store, store.revision());
    server.pause();
    let resumed = async {
        tokio::task::yield_now().await;
        server.resume();
    };
    let (under_way, (), refused, stale, ()) = tokio::join!(
        biased;
        put(&store, "a", "1"),
        store.close(),
        put(&store, "a", "2"),
        store.fresh(),
        resumed,
    );
    let revision = under_way.expect("it was finished");
    assert!(matches!(refused, Err(CommitError::Closed)), "{refused:?}");
    assert_eq!(stale, Err(FreshError::Closed));
    assert_eq!(value(&store, "a").as_deref(), Some("1"));
    assert_eq!(until(&mut watcher, revision).await, [revision], "what was finished is told before the end");
    assert!(matches!(watcher.next().await, Err(WatchError::Closed)));
}

#[tokio::test]
async fn a_server_that_is_killed_loses_nothing_and_watches_go_on() {
    let mut server = EtcdServer::start();
    let store = server.open().await;
    let mut watcher = watch(&store, store.revision());
    let first = put(&store, "a", "1").await.expect("put");
    assert_eq!(until(&mut watcher, first).await, [first]);
    for round in 0..3 {
        server.kill();
        assert_eq!(value(&store, "a").as_deref(), Some("1"), "reads go on");
        server.run();
        // An attempt of which nothing is known may have happened, too; a watch tells.
        let revision = put_at_last(&store, "b", &round.to_string()).await;
        let seen = until(&mut watcher, revision).await;
        assert!(seen.is_sorted() && seen.last() == Some(&revision), "{seen:?}");
        assert_eq!(value(&store, "b"), Some(round.to_string()));
    }
    store.close().await;
    let again = server.open().await;
    assert_eq!(value(&again, "b").as_deref(), Some("2"));
}

#[tokio::test]
async fn a_server_that_pauses_delays_writes_and_no_reads() {
    let server = EtcdServer::start();
    let store = server.open().await;
    put(&store, "a", "1").await.expect("put");
    server.pause();
    let writer = tokio::spawn({
        let store = store.clone();
        async move { put(&store, "a", "2").await }
    });
    let fresh = tokio::spawn({
        let store = store.clone();
        async move { store.fresh().await }
    });
    for _ in 0..100 {
        assert_eq!(value(&store, "a").as_deref(), Some("1"));
        tokio::task::yield_now().await;
    }
    assert!(!writer.is_finished() && !fresh.is_finished());
    server.resume();
    writer.await.expect("ran").expect("put");
    fresh.await.expect("ran").expect("as new as etcd");
    assert_eq!(value(&store, "a").as_deref(), Some("2"));
}

#[tokio::test]
async fn a_watch_does_not_go_back_in_time_after_a_reconnect() {
    let server = EtcdServer::start();
    let proxy = Proxy::to(&server).await;
    let config = EtcdConfig { endpoints: vec![proxy.address.clone()], ..server.config() };
    let (store, other) = (support::open(config).await, server.open().await);
    let mut watcher = watch(&store, store.revision());
    let mut seen = Vec::new();
    let mut last = 0;
    for round in 0..5 {
        last = put(&other, "a", &round.to_string()).await.expect("put");
        seen.extend(until(&mut watcher, last).await);
        proxy.cut();
        for key in ["a", "b"] {
            last = put(&other, key, "missed").await.expect("put");
        }
        last = last
            .max(other.commit(Key::from("b"), Expect::Exists, Change::Delete).await.expect("gone").revision);
        proxy.mend();
        seen.extend(until(&mut watcher, last).await);
    }
    let expected: Vec<Revision> = (seen[0]..=last).collect();
    assert_eq!(seen, expected, "each once, in order, none left out");
}

#[tokio::test]
async fn what_others_compacted_ends_watches_and_the_state_is_right() {
    let server = EtcdServer::start();
    let proxy = Proxy::to(&server).await;
    let config = EtcdConfig { endpoints: vec![proxy.address.clone()], ..server.config() };
    let (store, other) = (support::open(config).await, server.open().await);
    for key in ["kept", "changed", "deleted", "again"] {
        put(&other, key, "1").await.expect("put");
    }
    store.fresh().await.expect("as new as etcd");
    let before = store.revision();
    let mut watcher = watch(&store, before);
    let mut idle = store
        .watch(KeyRange::prefix("/r/g/idle/"), WatchStart::After(before), WatchOptions::default())
        .expect("watched");
    proxy.cut();
    put(&other, "changed", "2").await.expect("put");
    for key in ["deleted", "again"] {
        other.commit(Key::from(key), Expect::Exists, Change::Delete).await.expect("deleted");
    }
    put(&other, "again", "2").await.expect("put");
    put(&other, "new", "1").await.expect("put");
    other.compact(other.revision()).await.expect("compacted");
    proxy.mend();
    for watcher in [&mut watcher, &mut idle] {
        let ended = tokio::time::timeout(LIMIT, watcher.next()).await.expect("in time");
        assert!(matches!(ended, Err(WatchError::TooSlow { .. })), "{ended:?}");
    }
    store.fresh().await.expect("as new as etcd");
    let all = |store: &Store| {
        let all = store.range(&KeyRange::all(), RangeOptions::default()).expect("read");
        all.records.iter().map(|record| (record.key.clone(), record.mod_revision)).collect::<Vec<_>>()
    };
    assert_eq!(all(&store), all(&other));
    let old = RangeOptions { revision: Some(before), limit: 0 };
    assert!(store.range(&KeyRange::all(), old).is_err(), "what is between is not known");
    // And on.
    let mut watcher = watch(&store, store.revision());
    let revision = put(&store, "deleted", "3").await.expect("put");
    assert_eq!(until(&mut watcher, revision).await, [revision]);
    assert_eq!(store.get(b"deleted").map(|record| record.version), Some(1));
}

#[tokio::test]
async fn etcd_is_made_to_forget_by_whoever_shares_it() {
    let server = EtcdServer::start();
    let proxy = Proxy::to(&server).await;
    let config = EtcdConfig { endpoints: vec![proxy.address.clone()], ..server.config() };
    let store = support::open(config).await;
    let mut watcher = watch(&store, store.revision());
    proxy.cut();
    let often = EtcdConfig { compaction_interval: Duration::from_millis(50), ..server.config() };
    let (one, two) = (support::open(often.clone()).await, support::open(often).await);
    // Each turn moves the revision, though nobody writes; after some, what came before must be gone.
    for turn in 0..10 {
        let put = put(if turn % 2 == 0 { &one } else { &two }, "a", "x").await.expect("put");
        let moves = async {
            while one.revision() <= put {
                one.fresh().await.expect("as new as etcd");
            }
        };
        tokio::time::timeout(LIMIT, moves).await.expect("somebody takes a turn");
    }
    proxy.mend();
    let ended = tokio::time::timeout(LIMIT, watcher.next()).await.expect("in time");
    assert!(matches!(ended, Err(WatchError::TooSlow { .. })), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_update_is_lost_between_two_stores() {
    const EACH: u64 = 40;
    let server = EtcdServer::start();
    let stores = [server.open().await, server.open().await];
    put(&stores[0], "count", "0").await.expect("put");
    let conflicts = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..6)
        .map(|writer| {
            let (store, conflicts) = (stores[writer % 2].clone(), Arc::clone(&conflicts));
            tokio::spawn(async move {
                store.fresh().await.expect("as new as etcd");
                let mut current = store.get(b"count").expect("there");
                for _ in 0..EACH {
                    loop {
                        let count: u64 = String::from_utf8_lossy(&current.value).parse().expect("a number");
                        let change = Change::put((count + 1).to_string().as_str());
                        let expect = Expect::ModRevision(current.mod_revision);
                        match store.commit(Key::from("count"), expect, change).await {
                            Ok(committed) => {
                                assert_eq!(
                                    committed.previous.map(|record| record.mod_revision),
                                    Some(current.mod_revision)
                                );
                                current = committed.record.expect("a record");
                                break;
                            }
                            Err(CommitError::Conflict { current: Some(newer), .. }) => {
                                assert!(newer.mod_revision > current.mod_revision);
                                conflicts.fetch_add(1, Ordering::Relaxed);
                                current = newer;
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("ran");
    }
    for store in &stores {
        store.fresh().await.expect("as new as etcd");
        assert_eq!(value(store, "count"), Some((6 * EACH).to_string()));
    }
    assert!(conflicts.load(Ordering::Relaxed) > 0, "they did contend");
}

#[tokio::test]
async fn what_one_store_wrote_the_other_reads_at_once() {
    let server = EtcdServer::start();
    let (one, two) = (server.open().await, server.open().await);
    for round in 0..50 {
        let (from, to) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let revision = put(from, "a", &round.to_string()).await.expect("put");
        to.fresh().await.expect("as new as etcd");
        assert!(to.revision() >= revision);
        assert_eq!(value(to, "a"), Some(round.to_string()));
        // A watch begun on one goes on on the other.
        let mut watcher = watch(to, revision - 1);
        assert_eq!(until(&mut watcher, revision).await, [revision]);
    }
}

#[tokio::test]
async fn stores_with_other_prefixes_do_not_meet() {
    let server = EtcdServer::start();
    let elsewhere = EtcdConfig { prefix: "/elsewhere".to_owned(), ..server.config() };
    let (store, other) = (server.open().await, support::open(elsewhere).await);
    let revision = put(&other, "a", "theirs").await.expect("put");
    store.fresh().await.expect("as new as etcd");
    assert!(store.revision() >= revision, "its revision is etcd's");
    assert_eq!(store.count(&KeyRange::all()), 0);
    assert_eq!(put(&store, "a", "ours").await.expect("put"), revision + 1);
    other.fresh().await.expect("as new as etcd");
    assert_eq!(value(&other, "a").as_deref(), Some("theirs"));
}

#[tokio::test]
async fn a_member_that_is_down_is_passed_over() {
    let server = EtcdServer::start();
    let proxy = Proxy::to(&server).await;
    let endpoints = vec!["127.0.0.1:1".to_owned(), proxy.address.clone(), server.url()];
    let store = support::open(EtcdConfig { endpoints, ..server.config() }).await;
    let mut watcher = watch(&store, store.revision());
    let first = put(&store, "a", "1").await.expect("put");
    proxy.cut();
    let second = put_at_last(&store, "a", "2").await;
    let seen = until(&mut watcher, second).await;
    assert_eq!((seen.first(), seen.last()), (Some(&first), Some(&second)));
}

#[tokio::test]
async fn a_snapshot_moves_to_a_store_on_disk() {
    let server = EtcdServer::start();
    let store = server.open().await;
    let lease = store.grant_lease(Duration::from_secs(100)).await.expect("granted");
    let change = Change::Put { value: "x".into(), lease: Some(lease) };
    store.commit(Key::from("leased"), Expect::Absent, change).await.expect("put");
    let revision = put(&store, "a", "1").await.expect("put");
    let file = server.dir().join("snapshot");
    assert_eq!(store.snapshot(&file).await.expect("a snapshot"), revision);
    let dir = server.dir().join("local");
    let restored = tokio::task::spawn_blocking({
        let dir = dir.clone();
        move || Store::restore(&file, &dir)
    });
    assert_eq!(restored.await.expect("ran").expect("restored"), revision);
    let local = Store::open(podium_store::Config::new(dir)).await.expect("it opens");
    assert_eq!((value(&local, "a").as_deref(), local.revision()), (Some("1"), revision));
    assert_eq!(local.keep_alive(lease).await.expect("it came along"), Duration::from_secs(100));
}

#[tokio::test]
async fn client_certificates_are_shown_and_the_servers_checked() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = EtcdServer::start_with(Some(certificates(dir.path())));
    let store = server.open().await;
    put(&store, "a", "1").await.expect("put");
    assert_eq!(value(&store, "a").as_deref(), Some("1"));

    let mut without = server.config();
    if let Some(tls) = &mut without.tls {
        tls.identity = None;
    }
    let strange = tempfile::tempdir().expect("a directory");
    let mut other_authority = server.config();
    if let Some(tls) = &mut other_authority.tls {
        tls.ca = Some(certificates(strange.path()).ca);
    }
    for refused in [without, other_authority] {
        let opened = tokio::time::timeout(LIMIT, Store::open_etcd(refused)).await.expect("in time");
        assert!(opened.is_err());
    }
}

#[tokio::test]
async fn certificates_that_are_replaced_are_used_for_new_connections() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut server = EtcdServer::start_with(Some(certificates(dir.path())));
    let store = server.open().await;
    let revision = put(&store, "a", "1").await.expect("put");
    let mut watcher = watch(&store, revision);
    server.kill();
    // Another authority, in the same files: nothing of before is good for anything now.
    certificates(dir.path());
    server.run();
    let last = put_at_last(&store, "a", "2").await;
    assert_eq!(until(&mut watcher, last).await.last(), Some(&last));
}

#[tokio::test]
async fn a_past_that_only_etcd_has_is_read_from_it() {
    let server = EtcdServer::start();
    let writer = server.open().await;
    let mut revisions = Vec::new();
    for name in ["a", "b", "c", "a"] {
        let value = revisions.len().to_string();
        revisions.push(put(&writer, &format!("/r/core/pods/{name}"), &value).await.expect("put"));
    }
    put(&writer, "/r/core/nodes/x", "other").await.expect("put");
    // It has seen none of this happen.
    let late = server.open().await;
    let pods = KeyRange::prefix("/r/core/pods/");
    let at = |revision, limit| RangeOptions { revision: Some(revision), limit };
    let (third, options) = (revisions[2], at(revisions[2], 0));
    assert!(matches!(late.range(&pods, options), Err(ReadError::Compacted { .. })));
    let there = late.range_at(&pods, options).await.expect("read from etcd");
    let here = writer.range(&pods, options).expect("read here");
    assert_eq!(there.records, here.records, "a as it was first, b and c");
    assert_eq!((there.revision, there.more, there.remaining), (third, false, 0));

    let page = late.range_at(&pods, at(third, 2)).await.expect("read from etcd");
    assert_eq!((page.records.as_slice(), page.more, page.remaining), (&here.records[..2], true, 1));
    let rest = pods.after(&page.records[1].key);
    let page = late.range_at(&rest, at(third, 2)).await.expect("read from etcd");
    assert_eq!((page.records.as_slice(), page.more, page.remaining), (&here.records[2..], false, 0));

    let newest = late.range_at(&pods, RangeOptions::default()).await.expect("read here");
    assert_eq!(newest.records[0].mod_revision, revisions[3]);
    let future = late.range_at(&pods, at(late.revision() + 100, 0)).await;
    assert!(matches!(future, Err(ReadError::Future { .. })), "{future:?}");
    writer.compact(revisions[3]).await.expect("compacted");
    let gone = late.range_at(&pods, options).await;
    assert!(matches!(gone, Err(ReadError::Compacted { .. })), "{gone:?}");
}
