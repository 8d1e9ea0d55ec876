//! Random operations, compared with a plain map of every revision: the newest state, reads at kept revisions, ranges with
//! limits, watches from kept revisions, over restarts of a store on a real disk, and of one on etcd.

mod support;

use std::collections::BTreeMap;

use podium_store::{
    Change, CommitError, Config, Event, EventKind, Expect, History, Key, KeyRange, RangeOptions, ReadError,
    Revision, Store, Value, WatchError, WatchOptions, WatchStart, Watcher,
};
use proptest::prelude::*;

/// What the model knows of a key: value, create revision, mod revision, version.
type Known = (String, Revision, Revision, u64);

#[derive(Clone, Debug)]
enum Step {
    Transaction(Vec<(u8, Expectation, Option<u8>)>),
    Compact(u8),
    Reopen,
    Watch(u8, u8),
}

#[derive(Clone, Copy, Debug)]
enum Expectation {
    Any,
    Absent,
    Exists,
    /// The right revision, or one beside it.
    Revision(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let expectation = prop_oneof![
        4 => Just(Expectation::Any),
        1 => Just(Expectation::Absent),
        1 => Just(Expectation::Exists),
        2 => any::<bool>().prop_map(Expectation::Revision),
    ];
    let operation = (0u8..12, expectation, proptest::option::weighted(0.7, any::<u8>()));
    prop_oneof![
        20 => proptest::collection::vec(operation, 1..4).prop_map(Step::Transaction),
        1 => any::<u8>().prop_map(Step::Compact),
        1 => Just(Step::Reopen),
        2 => (0u8..4, any::<u8>()).prop_map(|(range, back)| Step::Watch(range, back)),
    ]
}

fn key(number: u8) -> String {
    ["/r/g/pods/a/", "/r/g/pods/b/", "/r/g/leases/", "x"][usize::from(number % 4)].to_owned()
        + &number.to_string()
}

fn range(number: u8) -> KeyRange {
    match number % 4 {
        0 => KeyRange::all(),
        1 => KeyRange::prefix("/r/g/pods/"),
        2 => KeyRange::prefix("/r/g/pods/b/"),
        _ => KeyRange::from_to("/r/g/leases/1", "/r/g/pods/a/5"),
    }
}

/// Everything that ever happened.
struct Model {
    /// The state at each revision; the first is revision 1.
    states: Vec<BTreeMap<String, Known>>,
    compacted: Revision,
}

/// An event, as far as it is compared: key, what, value, previous value.
type Seen = (Revision, String, EventKind, String, Option<String>);

impl Model {
    fn newest(&self) -> Revision {
        self.states.len() as Revision
    }

    fn at(&self, revision: Revision) -> &BTreeMap<String, Known> {
        &self.states[revision as usize - 1]
    }

    /// The events after a revision, in any order within one.
    fn events(&self, range: &KeyRange, after: Revision) -> Vec<Seen> {
        let mut events = Vec::new();
        for revision in after + 1..=self.newest() {
            let (before, now) = (self.at(revision - 1), self.at(revision));
            let mut keys: Vec<&String> = before.keys().chain(now.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys.into_iter().filter(|key| range.contains(key.as_bytes())) {
                let previous = before.get(key).map(|known| known.0.clone());
                match now.get(key) {
                    Some(known) if known.2 == revision => {
                        events.push((revision, key.clone(), EventKind::Put, known.0.clone(), previous));
                    }
                    None => {
                        let (value, _, modified, _) = &before[key];
                        let last = value.replace(&format!("<{modified}>"), &format!("<{revision}>"));
                        events.push((revision, key.clone(), EventKind::Delete, last, previous));
                    }
                    Some(_) => {}
                }
            }
        }
        events
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn seen(event: &Event) -> Seen {
    let previous = event.previous.as_ref().map(|record| text(&record.value));
    (event.revision, text(&event.record.key), event.kind, text(&event.record.value), previous)
}

fn drain(watcher: &mut Watcher) -> Result<Vec<Seen>, WatchError> {
    let mut all = Vec::new();
    while let Some(batch) = watcher.try_next()? {
        assert!(batch.events.iter().all(|event| event.revision <= batch.progress));
        all.extend(batch.events.iter().map(|event| seen(event)));
    }
    Ok(all)
}

fn check(store: &Store, model: &Model) {
    assert_eq!((store.revision(), store.compacted_revision()), (model.newest(), model.compacted));
    for revision in 1..=model.newest() + 1 {
        for number in 0..4 {
            let range = range(number);
            let read = store.range(&range, RangeOptions { revision: Some(revision), limit: 3 });
            if revision < model.compacted {
                assert_eq!(read.expect_err("compacted"), ReadError::Compacted { compacted: model.compacted });
                continue;
            }
            if revision > model.newest() {
                assert_eq!(read.expect_err("in the future"), ReadError::Future { current: model.newest() });
                continue;
            }
            let read = read.expect("kept");
            let expected: Vec<(&String, &Known)> =
                model.at(revision).iter().filter(|(key, _)| range.contains(key.as_bytes())).collect();
            let found: Vec<(String, Known)> = read
                .records
                .iter()
                .map(|record| {
                    let known =
                        (text(&record.value), record.create_revision, record.mod_revision, record.version);
                    (text(&record.key), known)
                })
                .collect();
            assert_eq!(found.len(), expected.len().min(3));
            for ((key, known), (expected_key, expected)) in found.iter().zip(&expected) {
                assert_eq!((key, known), (*expected_key, *expected), "at {revision}");
            }
            assert_eq!(read.remaining as usize, expected.len() - found.len());
            assert_eq!((read.more, read.revision), (read.remaining > 0, revision));
            if revision == model.newest() {
                assert_eq!(store.count(&range) as usize, expected.len());
            }
        }
    }
    for (key, known) in model.at(model.newest()) {
        assert_eq!(store.get(key.as_bytes()).map(|record| text(&record.value)).as_ref(), Some(&known.0));
    }
}

/// Does the operations in the model; the new state, or `None` for a conflict.
fn transact(
    model: &Model,
    operations: &[(String, Expect, Option<String>)],
) -> Option<BTreeMap<String, Known>> {
    let now = model.at(model.newest());
    let next = model.newest() + 1;
    let holds = |(key, expect, _): &(String, Expect, Option<String>)| match (expect, now.get(key)) {
        (Expect::Any, _) | (Expect::Absent | Expect::ModRevision(0), None) | (Expect::Exists, Some(_)) => {
            true
        }
        (Expect::ModRevision(revision), Some(known)) => known.2 == *revision,
        _ => false,
    };
    if !operations.iter().all(holds) {
        return None;
    }
    let mut state = now.clone();
    for (key, _, value) in operations {
        match value {
            Some(value) => {
                let value = format!("{value}<{next}>");
                let (created, version) = now.get(key).map_or((next, 1), |known| (known.1, known.3 + 1));
                state.insert(key.clone(), (value, created, next, version));
            }
            None => drop(state.remove(key)),
        }
    }
    Some(state)
}

async fn transaction(store: &Store, model: &mut Model, operations: &[(u8, Expectation, Option<u8>)]) {
    let mut wanted: Vec<(String, Expect, Option<String>)> = Vec::new();
    for (number, expectation, value) in operations {
        let key = key(*number);
        if wanted.iter().any(|(other, _, _)| *other == key) {
            continue;
        }
        let modified = model.at(model.newest()).get(&key).map_or(0, |known| known.2);
        let expect = match expectation {
            Expectation::Any => Expect::Any,
            Expectation::Absent => Expect::Absent,
            Expectation::Exists => Expect::Exists,
            Expectation::Revision(right) => Expect::ModRevision(if *right { modified } else { modified + 1 }),
        };
        wanted.push((key, expect, value.map(|value| value.to_string())));
    }
    let changes = wanted
        .iter()
        .map(|(key, expect, value)| {
            let change = match value {
                Some(value) => {
                    let bytes = format!("{value}<>").into_bytes();
                    let revision_at = Some(bytes.len() - 1);
                    Change::Put { value: Value { bytes: bytes.into(), revision_at }, lease: None }
                }
                None => Change::Delete,
            };
            (Key::from(key.as_str()), *expect, change)
        })
        .collect();
    let answer = store.transaction(changes).await;
    match (answer, transact(model, &wanted)) {
        (Ok(committed), Some(state)) => {
            if state != *model.at(model.newest()) {
                model.states.push(state);
            }
            assert_eq!(committed.revision, model.newest());
        }
        (Err(CommitError::Conflict { key, current }), None) => {
            let expected = model.at(model.newest()).get(&text(&key)).map(|known| known.2);
            assert_eq!(current.map(|record| record.mod_revision), expected);
        }
        (answer, expected) => panic!("the store says {answer:?}, the model {expected:?}"),
    }
}

/// Where the store of a run is.
enum Place {
    Memory,
    Disk(Config),
    Etcd(support::EtcdServer),
}

impl Place {
    async fn open(&self) -> Store {
        match self {
            Place::Memory => Store::memory(),
            Place::Disk(config) => Store::open(config.clone()).await.expect("the store opens"),
            Place::Etcd(server) => server.open().await,
        }
    }
}

/// Runs the steps.
async fn run(steps: Vec<Step>, place: Place) {
    let mut store = place.open().await;
    let mut model = Model { states: vec![BTreeMap::new()], compacted: 1 };
    // Each with its range, where it started, and what it has been handed.
    let mut watchers: Vec<(Watcher, KeyRange, Revision, Vec<Seen>)> = Vec::new();
    for step in steps {
        match step {
            Step::Transaction(operations) => transaction(&store, &mut model, &operations).await,
            Step::Compact(back) => {
                let revision = model.newest().saturating_sub(u64::from(back % 16));
                let allowed = revision > model.compacted;
                assert_eq!(store.compact(revision).await.is_ok(), allowed);
                if allowed {
                    model.compacted = revision;
                }
            }
            Step::Watch(number, back) => {
                let after = model.newest().saturating_sub(u64::from(back % 16));
                let watch = store.watch(range(number), WatchStart::After(after), WatchOptions { batch: 2 });
                match watch {
                    Ok(watcher) => {
                        assert!(after >= model.compacted);
                        watchers.push((watcher, range(number), after, Vec::new()));
                    }
                    Err(error) => {
                        assert_eq!(error, WatchError::Compacted { compacted: model.compacted });
                        assert!(after < model.compacted);
                    }
                }
            }
            Step::Reopen => {
                if !matches!(place, Place::Memory) {
                    store.close().await;
                    watchers.clear();
                    store = place.open().await;
                }
                if matches!(place, Place::Etcd(_)) {
                    // The past is etcd's, and is not read again.
                    model.compacted = model.newest();
                }
            }
        }
        for (watcher, range, after, handed) in &mut watchers {
            // Compaction may cut off what was not fetched; here everything is fetched at once.
            handed.extend(drain(watcher).expect("it keeps up"));
            let mut sorted = handed.clone();
            sorted.sort_by(|left, right| (left.0, &left.1).cmp(&(right.0, &right.1)));
            assert_eq!(sorted, model.events(range, *after));
            assert!(handed.is_sorted_by_key(|event| event.0));
            assert_eq!(watcher.progress(), model.newest());
        }
    }
    check(&store, &model);
    store.close().await;
}

fn block_on(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_store_in_memory_is_a_map_with_history(steps in proptest::collection::vec(step(), 1..60)) {
        block_on(run(steps, Place::Memory));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_store_on_disk_is_a_map_with_history(steps in proptest::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().expect("a directory");
        let history = History { automatic: false, ..History::default() };
        // Small segments, so that rotation and checkpoints happen within the few writes of a case.
        let mut config = Config::new(dir.path());
        config.segment_bytes = 1000;
        config.history = history;
        block_on(run(steps, Place::Disk(config)));
    }
}

proptest! {
    // Each has a server of its own, so that revisions begin where the model's do.
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn a_store_on_etcd_is_a_map_with_history(steps in proptest::collection::vec(step(), 20..60)) {
        block_on(run(steps, Place::Etcd(support::EtcdServer::start())));
    }
}
