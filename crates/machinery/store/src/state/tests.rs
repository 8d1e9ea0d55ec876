//! The state, fed by hand.

use super::*;
use crate::engine::Feed;
use crate::{Key, WatchError, WatchOptions, WatchStart, Watcher};

fn feed() -> Feed {
    Feed::new(Vec::new(), 1)
}

fn put(feed: &Feed, keys: &[&str]) -> Revision {
    let revision = feed.revision() + 1;
    let events = keys
        .iter()
        .map(|key| {
            let value = bytes::Bytes::from(vec![b'v'; 100]);
            let record = Record::new(Key::from(*key), value, revision, revision, 1, None, None);
            Arc::new(feed.put_event(Arc::new(record)))
        })
        .collect();
    feed.publish(vec![Published { revision, events }]);
    revision
}

fn watch(feed: &Feed, range: KeyRange, after: Revision) -> Result<Watcher, WatchError> {
    Watcher::new(&feed.state, range, WatchStart::After(after), &WatchOptions { batch: 2 })
}

fn revisions(watcher: &mut Watcher) -> Vec<Revision> {
    let mut all = Vec::new();
    while let Some(batch) = watcher.try_next().expect("it goes on") {
        all.extend(batch.events.iter().map(|event| event.revision));
    }
    all
}

#[test]
fn lists_in_pieces_are_of_one_revision() {
    let feed = feed();
    let keys: Vec<String> = (0..3 * READ_KEYS).map(|n| format!("/r/g/pods/{n:06}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    put(&feed, &keys);
    let all = feed
        .state
        .range(&KeyRange::all(), &RangeOptions { revision: None, limit: 10 }, 0, &mut |_| true)
        .expect("read");
    assert_eq!((all.records.len(), all.more, all.remaining), (10, true, keys.len() as u64 - 10));
    assert_eq!(feed.state.count(&KeyRange::prefix("/r/g/pods/0000")), 100);
    std::thread::scope(|scope| {
        let writer =
            scope.spawn(|| (0..200).for_each(|_| assert!(put(&feed, &[keys[0], keys[keys.len() - 1]]) > 1)));
        while !writer.is_finished() {
            let all =
                feed.state.range(&KeyRange::all(), &RangeOptions::default(), 0, &mut |_| true).expect("read");
            let (first, last) = (&all.records[0], &all.records[keys.len() - 1]);
            assert_eq!(first.mod_revision, last.mod_revision, "both were written together");
            assert!(first.mod_revision <= all.revision);
        }
    });
}

#[test]
fn a_list_goes_on_though_its_revision_is_compacted_meanwhile() {
    let feed = feed();
    let keys: Vec<String> = (0..2 * READ_KEYS).map(|n| format!("/r/g/pods/{n:06}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let revision = put(&feed, &keys);
    let mut asked = 0;
    // Whoever chooses holds up nobody: not even writers and what frees the past.
    let mut keep = |record: &Arc<Record>| {
        asked += 1;
        if asked % READ_KEYS == 1 {
            feed.compact(put(&feed, &[keys[0], keys[keys.len() - 1]]));
        }
        record.mod_revision == revision
    };
    let all = feed.state.range(&KeyRange::all(), &RangeOptions::default(), 0, &mut keep).expect("read");
    assert_eq!((all.records.len(), all.revision, asked), (keys.len(), revision, keys.len()));
    assert_eq!(feed.state.compacted(), revision + 2);
    assert!(!feed.state.is_held_back());
    assert_eq!(feed.state.history_bytes(), 0, "what the list kept is freed after it");
}

#[test]
fn reads_outside_what_is_kept_say_so() {
    let feed = feed();
    for _ in 0..5 {
        put(&feed, &["a"]);
    }
    feed.compact(4);
    let at = |revision| {
        let options = RangeOptions { revision: Some(revision), limit: 0 };
        feed.state
            .range(&KeyRange::all(), &options, 0, &mut |_| true)
            .map(|result| result.records[0].mod_revision)
    };
    assert_eq!(at(3), Err(ReadError::Compacted { compacted: 4 }));
    assert_eq!(at(4), Ok(4));
    assert_eq!(at(6), Ok(6));
    assert_eq!(at(7), Err(ReadError::Future { current: 6 }));
    assert_eq!(at(0), Ok(6), "0 is the newest, as in etcd");
}

#[test]
fn a_pin_keeps_what_compaction_would_free() {
    let feed = feed();
    for _ in 0..5 {
        put(&feed, &["a"]);
    }
    let pin = feed.state.pin(3).expect("kept");
    feed.compact(6);
    assert!(feed.state.pin(2).is_none(), "freed");
    assert!(feed.state.pin(4).is_some(), "not freed yet");
    let mut seen = Vec::new();
    State::read_pinned::<()>(&pin, KeyRange::all(), 0, |records| {
        seen.extend(records.iter().map(|record| record.mod_revision));
        Ok(())
    })
    .expect("read");
    assert_eq!(seen, [3]);
    assert!(feed.state.is_held_back());
    let newest = feed.state.pin_newest();
    assert_eq!(newest.revision, 6);
    drop(newest);
    assert!(feed.state.pin(4).is_some(), "a younger pin frees nothing");
    drop(pin);
    assert!(feed.state.pin(5).is_none());
    assert!(feed.state.pin(6).is_some());
    assert_eq!(feed.state.history_bytes(), 0);
}

#[test]
fn watchers_of_a_collection_and_of_everything_see_the_same() {
    let feed = feed();
    for keys in [&["/r/g/pods/a", "/r/g/leases/a"][..], &["/r/g/pods/b"], &["/r/g/leases/a"], &["x"]] {
        put(&feed, keys);
    }
    let of = |range| revisions(&mut watch(&feed, range, 1).expect("watched"));
    assert_eq!(of(KeyRange::prefix("/r/g/pods/")), [2, 3]);
    assert_eq!(of(KeyRange::prefix("/r/g/leases/")), [2, 4]);
    assert_eq!(of(KeyRange::prefix("/r/")), [2, 2, 3, 4]);
    assert_eq!(of(KeyRange::all()), [2, 2, 3, 4, 5]);
    assert_eq!(of(KeyRange::single("/r/g/pods/b")), [3]);
    assert_eq!(of(KeyRange::single("x")), [5]);
}

#[test]
fn progress_never_goes_back_or_ahead() {
    let feed = feed();
    let mut pods = watch(&feed, KeyRange::prefix("/r/g/pods/"), 1).expect("watched");
    assert_eq!(pods.progress(), 1);
    put(&feed, &["/r/g/leases/a"]);
    assert_eq!(pods.progress(), 2, "nothing there concerned it");
    put(&feed, &["/r/g/leases/a"]);
    put(&feed, &["/r/g/pods/a"]);
    put(&feed, &["/r/g/leases/a"]);
    assert_eq!(pods.progress(), 3, "not ahead of what it has not been handed");
    let batch = pods.try_next().expect("goes on").expect("an event");
    assert_eq!((batch.events[0].revision, batch.progress, pods.progress()), (4, 5, 5));
}

#[test]
fn a_watcher_that_does_not_fetch_is_cut_off() {
    let feed = feed();
    let mut slow = watch(&feed, KeyRange::prefix("/r/g/pods/"), 1).expect("watched");
    let mut quiet = watch(&feed, KeyRange::prefix("/r/g/nodes/"), 1).expect("watched");
    for _ in 0..5 {
        put(&feed, &["/r/g/pods/a"]);
    }
    feed.compact(5);
    let too_slow = WatchError::TooSlow { seen: 1, compacted: 5 };
    assert_eq!(slow.try_next().expect_err("cut off"), too_slow);
    assert_eq!(slow.try_next().expect_err("still"), too_slow);
    assert!(revisions(&mut quiet).is_empty(), "nothing of its own was lost");
    assert_eq!(quiet.progress(), 6);
    let refused = watch(&feed, KeyRange::all(), 4).expect_err("compacted");
    assert_eq!(refused, WatchError::Compacted { compacted: 5 });
    assert_eq!(revisions(&mut watch(&feed, KeyRange::all(), 5).expect("kept")), [6]);
}

#[test]
fn history_is_weighed_and_freed() {
    let feed = feed();
    for _ in 0..1000 {
        put(&feed, &["/r/g/pods/a"]);
    }
    let all = feed.state.history_bytes();
    let half = feed.state.revision_at_weight(all / 2);
    assert!((490..510).contains(&half), "half the weight is at {half}");
    feed.compact(1001);
    assert_eq!((feed.state.history_bytes(), feed.state.all.len()), (0, 0));
    assert!(feed.state.rings.lock().is_empty(), "an empty ring that nobody watches goes");
    assert!(feed.get(b"/r/g/pods/a").is_some());
}
