//! Records what concurrent clients of a store on a real disk ask and are told, and checks that there is one order of it
//! all that respects who came after whom: Wing and Gong's search for each key (linearisability is local), and revisions
//! over all keys.

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use podium_store::{
    Change, CommitError, Config, Expect, Key, KeyRange, RangeOptions, Revision, Store, WatchOptions,
    WatchStart,
};

/// What was asked of one key, with the answer. The state of a key is the revision of its last change, if it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Done {
    Read(Option<Revision>),
    Put(Revision),
    /// With what was expected; `Ok` with the new revision, `Err` with what was there instead.
    Swap(Option<Revision>, Result<Revision, Option<Revision>>),
    /// With what was there.
    Delete(Option<Revision>),
}

/// One call, with the times of asking and of the answer on one clock.
#[derive(Clone, Debug)]
struct Call {
    key: usize,
    asked: u64,
    answered: u64,
    done: Done,
}

/// What the key is after the call, if the call could have been answered so when the key was `state`.
fn apply(state: Option<Revision>, done: &Done) -> Option<Option<Revision>> {
    match done {
        Done::Read(found) => (*found == state).then_some(state),
        Done::Put(revision) => Some(Some(*revision)),
        Done::Swap(expected, Ok(revision)) => (*expected == state).then_some(Some(*revision)),
        Done::Swap(expected, Err(found)) => (*found == state && *expected != state).then_some(state),
        Done::Delete(found) => (*found == state).then_some(None),
    }
}

/// Whether the calls on one key can be put in an order that respects time and explains every answer.
fn is_linearizable(mut calls: Vec<Call>) -> bool {
    calls.sort_by_key(|call| call.asked);
    // Depth first over (calls placed, state), each pair looked at once.
    let mut visited: HashSet<(Vec<u64>, Option<Revision>)> = HashSet::new();
    let mut stack = vec![(vec![0u64; calls.len().div_ceil(64)], None)];
    while let Some((placed, state)) = stack.pop() {
        let is_placed = |index: usize| placed[index / 64] >> (index % 64) & 1 == 1;
        let open: Vec<usize> = (0..calls.len()).filter(|index| !is_placed(*index)).collect();
        // What was asked after something else was answered cannot come before it.
        let Some(first_answer) = open.iter().map(|index| calls[*index].answered).min() else { return true };
        for index in open {
            if calls[index].asked > first_answer {
                break;
            }
            let Some(state) = apply(state, &calls[index].done) else { continue };
            let mut placed = placed.clone();
            placed[index / 64] |= 1 << (index % 64);
            if visited.insert((placed.clone(), state)) {
                stack.push((placed, state));
            }
        }
    }
    false
}

fn key(number: usize) -> Key {
    Key::from(format!("/registry/core/pods/{number}"))
}

async fn call(
    store: &Store,
    clock: &AtomicU64,
    number: usize,
    known: &mut Option<Revision>,
    random: u8,
) -> Call {
    let asked = clock.fetch_add(1, Ordering::SeqCst);
    let done = match random {
        0..=2 => {
            store.fresh().await.expect("the newest can be asked for");
            *known = store.get(&key(number)).map(|record| record.mod_revision);
            Done::Read(*known)
        }
        3 => {
            store.fresh().await.expect("the newest can be asked for");
            let options = RangeOptions::default();
            let read = store.range(&KeyRange::single(key(number)), options).expect("the newest can be read");
            *known = read.records.first().map(|record| record.mod_revision);
            Done::Read(*known)
        }
        4 => {
            let put = store.commit(key(number), Expect::Any, Change::put("x")).await.expect("put");
            *known = Some(put.revision);
            Done::Put(put.revision)
        }
        5 => {
            let deleted = store.commit(key(number), Expect::Any, Change::Delete).await.expect("deleted");
            *known = None;
            Done::Delete(deleted.previous.map(|record| record.mod_revision))
        }
        _ => {
            let expect = known.map_or(Expect::Absent, Expect::ModRevision);
            let result = match store.commit(key(number), expect, Change::put("x")).await {
                Ok(committed) => Ok(committed.revision),
                Err(CommitError::Conflict { current, .. }) => Err(current.map(|record| record.mod_revision)),
                Err(error) => panic!("{error}"),
            };
            let expected = *known;
            *known = match &result {
                Ok(revision) => Some(*revision),
                Err(found) => *found,
            };
            Done::Swap(expected, result)
        }
    };
    Call { key: number, asked, answered: clock.fetch_add(1, Ordering::SeqCst), done }
}

fn written(call: &Call) -> Option<Revision> {
    match call.done {
        Done::Put(revision) | Done::Swap(_, Ok(revision)) => Some(revision),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_histories_are_linearizable() {
    for round in 0..6u64 {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(Config::new(dir.path())).await.expect("the store opens");
        check(round, &[store]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_histories_on_etcd_are_linearizable() {
    let server = support::EtcdServer::start();
    check(100, &[server.open().await]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn histories_of_two_stores_on_one_etcd_are_linearizable() {
    let server = support::EtcdServer::start();
    check(200, &[server.open().await, server.open().await]).await;
}

/// Has clients work on the stores, which are one or on the same etcd and fresh, and checks what they were told.
async fn check(round: u64, stores: &[Store]) {
    const KEYS: usize = 3;
    let clock = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..8u64)
        .map(|client| {
            let store = stores[client as usize % stores.len()].clone();
            let clock = Arc::clone(&clock);
            tokio::spawn(async move {
                let mut random = fastrand::Rng::with_seed(round * 100 + client);
                let mut known = [None; KEYS];
                let mut calls = Vec::new();
                for _ in 0..40 {
                    let number = random.usize(0..KEYS);
                    let choice = random.u8(0..9);
                    calls.push(call(&store, &clock, number, &mut known[number], choice).await);
                }
                calls
            })
        })
        .collect();
    let mut calls: Vec<Call> = Vec::new();
    for client in clients {
        calls.extend(client.await.expect("the client ran"));
    }
    for number in 0..KEYS {
        let of_key: Vec<Call> = calls.iter().filter(|call| call.key == number).cloned().collect();
        assert!(is_linearizable(of_key), "round {round}, key {number}: {calls:#?}");
    }
    // Strictly serialisable: who asked after another was answered has the later revision, whatever the keys.
    for early in &calls {
        for late in calls.iter().filter(|late| late.asked > early.answered) {
            if let (Some(before), Some(after)) = (written(early), written(late)) {
                assert!(before < after, "round {round}: {early:?} then {late:?}");
            }
        }
    }
    for store in stores {
        store.fresh().await.expect("the newest can be asked for");
        let start = WatchStart::After(store.compacted_revision());
        let mut watcher = store.watch(KeyRange::all(), start, WatchOptions::default()).expect("kept");
        let mut next = store.compacted_revision() + 1;
        while let Some(batch) = watcher.try_next().expect("kept") {
            for event in batch.events {
                assert_eq!(event.revision, next, "every revision has its event");
                next += 1;
            }
        }
        assert_eq!(next, store.revision() + 1);
        store.close().await;
    }
}

#[test]
fn the_checker_sees_what_is_wrong() {
    let call = |asked, answered, done| Call { key: 0, asked, answered, done };
    let fine = vec![
        call(0, 3, Done::Put(2)),
        call(1, 2, Done::Read(Some(2))),
        call(4, 7, Done::Swap(Some(2), Ok(3))),
        call(5, 6, Done::Swap(Some(2), Err(Some(3)))),
        call(8, 9, Done::Delete(Some(3))),
        call(10, 11, Done::Read(None)),
    ];
    assert!(is_linearizable(fine.clone()));
    let mut stale = fine.clone();
    stale[5].done = Done::Read(Some(3));
    assert!(!is_linearizable(stale), "a stale read");
    let mut lost = fine.clone();
    lost[3].done = Done::Swap(Some(2), Ok(4));
    assert!(!is_linearizable(lost), "two swaps from the same revision");
    let mut early = fine;
    early[1] = call(1, 2, Done::Read(Some(3)));
    assert!(!is_linearizable(early), "a read of what is not yet written");
}
