//! Kills a process that writes, as often as it takes, and looks at what it leaves. Has its own `main`, as it is both the
//! test and the process that is killed.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podium_store::{
    Change, Config, Expect, History, Key, KeyRange, OpenError, Store, WatchOptions, WatchStart,
};

const WRITERS: u64 = 6;
const KEYS: u64 = 5;
const ROUNDS: u32 = 50;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, dir] = arguments.as_slice()
        && word == "write"
    {
        runtime().block_on(write(Path::new(dir)));
        return;
    }
    // The flags of the usual test harness, as far as people use them here.
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        println!("acknowledged_writes_survive_kill: test\na_paused_process_cannot_be_overtaken: test");
        return;
    }
    let tests: [(&str, fn()); 2] = [
        ("acknowledged_writes_survive_kill", acknowledged_writes_survive_kill),
        ("a_paused_process_cannot_be_overtaken", a_paused_process_cannot_be_overtaken),
    ];
    for (name, test) in tests {
        if filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str())) {
            let started = Instant::now();
            test();
            println!("test {name} ... ok ({} ms)", started.elapsed().as_millis());
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Small limits, so that segments, compactions and checkpoints come and go within a round.
fn config(dir: &Path) -> Config {
    let mut config = Config::new(dir);
    config.segment_bytes = 16_000;
    config.history = History { revisions: 200, bytes: 100_000, small_bytes: 0, ..History::default() };
    config
}

/// The process that is killed: each writer counts in each of its keys, and says so when it is told that it has.
async fn write(dir: &Path) {
    let store = Store::open(config(dir)).await.expect("the store opens");
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            let mut turn = 0;
            loop {
                let name = format!("/registry/test/things/{writer}-{}", turn % KEYS);
                turn += 1;
                let current = store.get(name.as_bytes());
                let count = current.as_ref().map_or(0, |record| count_of(&record.value));
                let expect =
                    current.map_or(Expect::Absent, |record| Expect::ModRevision(record.mod_revision));
                let change = Change::put(format!("{} {}", count + 1, "v".repeat(300)).into_bytes());
                let committed =
                    store.commit(Key::from(name.as_str()), expect, change).await.expect("written");
                let line = format!("{name} {} {}\n", count + 1, committed.revision);
                let mut out = std::io::stdout().lock();
                out.write_all(line.as_bytes()).and_then(|()| out.flush()).expect("told");
            }
        });
    }
    // They write until they are killed; if one ends, it has failed.
    writers.join_all().await;
}

fn count_of(value: &[u8]) -> u64 {
    let text = std::str::from_utf8(value).expect("text");
    text.split(' ').next().and_then(|count| count.parse().ok()).expect("a count")
}

/// The writing process; killed, if it has not been, when this goes.
struct Writer(Child);

impl Writer {
    fn start(dir: &Path) -> (Writer, BufReader<ChildStdout>) {
        let program = std::env::current_exe().expect("its own path");
        let mut child = Command::new(program)
            .arg("write")
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the process starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        (Writer(child), lines)
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(i32::try_from(self.0.id()).expect("a process id"));
        kill(id, signal).expect("signalled");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It may have ended by itself, which the test then sees.
        drop(self.0.kill());
        self.0.wait().expect("it ended");
    }
}

fn acknowledged_writes_survive_kill() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().join("store");
    let runtime = runtime();
    let mut random = fastrand::Rng::with_seed(11);
    let mut acknowledged: HashMap<String, u64> = HashMap::new();
    let mut newest = 1;
    let mut compacted = 1;
    let mut checkpoints = 0;
    for round in 0..ROUNDS {
        let (writer, mut lines) = Writer::start(&dir);
        // Sometimes at once, even while it opens; mostly in the midst of it.
        let after = if round % 7 == 0 { 0 } else { random.u32(1..400) };
        let mut hear = |line: &str| {
            let mut words = line.split_whitespace();
            let (Some(key), Some(count), Some(revision)) = (words.next(), words.next(), words.next()) else {
                return;
            };
            // The last line may be cut short by the kill, but is then not parsed wrongly: it has no line end.
            acknowledged.insert(key.to_owned(), count.parse().expect("a count"));
            newest = newest.max(revision.parse().expect("a revision"));
        };
        let mut line = String::new();
        for _ in 0..after {
            line.clear();
            assert!(lines.read_line(&mut line).expect("read") > 0, "the writer ended by itself");
            hear(&line);
        }
        writer.signal(Signal::SIGKILL);
        drop(writer);
        loop {
            line.clear();
            if lines.read_line(&mut line).expect("read") == 0 || !line.ends_with('\n') {
                break;
            }
            hear(&line);
        }
        runtime.block_on(async {
            // Without compaction, so that what is looked at stays.
            let mut config = config(&dir);
            config.history.automatic = false;
            let store = Store::open(config).await.expect("it opens after the kill");
            assert!(store.revision() >= newest, "round {round}: {} after {newest}", store.revision());
            assert!(store.compacted_revision() >= compacted, "round {round}: compaction went back");
            for (key, count) in &acknowledged {
                let record =
                    store.get(key.as_bytes()).unwrap_or_else(|| panic!("round {round}: {key} is lost"));
                let found = count_of(&record.value);
                // One more may have been on its way to being acknowledged.
                assert!(
                    found == *count || found == count + 1,
                    "round {round}: {key} is {found}, was {count}"
                );
                assert_eq!(found, record.version, "round {round}: {key} was counted once for each change");
            }
            // What is kept of the past is whole.
            let after = WatchStart::After(store.compacted_revision());
            let mut watcher = store.watch(KeyRange::all(), after, WatchOptions::default()).expect("kept");
            let mut expected = store.compacted_revision() + 1;
            while let Some(batch) = watcher.try_next().expect("kept") {
                for event in &batch.events {
                    assert_eq!(event.revision, expected, "round {round}");
                    expected += 1;
                }
            }
            assert_eq!(expected, store.revision() + 1, "round {round}");
            newest = store.revision();
            compacted = store.compacted_revision();
            // From here on, what was on its way counts as told.
            for (key, count) in &mut acknowledged {
                *count = store.get(key.as_bytes()).map_or(0, |record| count_of(&record.value));
            }
            store.close().await;
        });
        checkpoints += u32::from(!dir.join("0000000000000001-0000000000000001.snapshot").exists());
    }
    assert!(newest > 1000, "only {newest} revisions were written");
    assert!(checkpoints > 0, "no checkpoint was ever written");
}

/// etcd #20418: a stale read after the process was paused. Here nobody else can have written meanwhile.
fn a_paused_process_cannot_be_overtaken() {
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = runtime();
    let (writer, mut lines) = Writer::start(dir.path());
    let mut line = String::new();
    assert!(lines.read_line(&mut line).expect("read") > 0, "it writes");
    writer.signal(Signal::SIGSTOP);
    let opened = runtime.block_on(Store::open(config(dir.path())));
    assert!(matches!(opened, Err(OpenError::Locked { .. })), "opened beside a paused process: {opened:?}");
    writer.signal(Signal::SIGCONT);
    line.clear();
    assert!(lines.read_line(&mut line).expect("read") > 0, "it goes on");
    drop(writer);
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        // The lock goes with the process; the kernel may take a moment to let go of it.
        match runtime.block_on(Store::open(config(dir.path()))) {
            Ok(store) => {
                runtime.block_on(store.close());
                return;
            }
            Err(OpenError::Locked { .. }) => assert!(Instant::now() < limit, "still locked"),
            Err(error) => panic!("{error}"),
        }
    }
}
