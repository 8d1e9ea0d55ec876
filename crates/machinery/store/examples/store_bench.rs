//! Measures the store beside the least that any durable store must do: appending to a file and syncing it for all
//! concurrent writers at once.
//!
//! ```text
//! cargo run --release -p podium-store --example store_bench [directory [writes|watchers|overwrites|opening|memory]]
//! ```
//!
//! Prints durable 1 KB writes per second, for both in the same run on the same disk; what is left on disk after many
//! overwrites; how long a store takes to open; how long an event takes to 200 watchers. Each figure that the project
//! promises stands beside its limit. Figures of one run vary by some ten percent; compare within a run.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use podium_store::{
    Change, Config, Expect, Key, KeyRange, RangeOptions, Store, Value, WatchOptions, WatchStart,
};
use tokio::sync::oneshot;

const VALUE_BYTES: usize = 1024;
const KEYS: u64 = 100_000;
const SECONDS: u64 = 4;

fn main() {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::tempdir_in(base).expect("a directory to measure in");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    println!("measuring in {}, values of {VALUE_BYTES} bytes, {KEYS} keys", dir.path().display());
    let only = std::env::args().nth(2);
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    runtime.block_on(async {
        // First, as it looks at the memory of the process.
        if wanted("memory") {
            memory(dir.path()).await;
        }
        if wanted("writes") {
            writes(dir.path()).await;
        }
        if wanted("watchers") {
            watchers(dir.path()).await;
        }
        if wanted("overwrites") {
            overwrites(dir.path()).await;
        }
        if wanted("opening") {
            opening(dir.path()).await;
        }
    });
}

/// Processor time of this process so far, all threads.
fn processor_ms() -> i64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).expect("usage");
    let ms = |time: nix::sys::time::TimeVal| time.tv_sec() * 1000 + time.tv_usec() / 1000;
    ms(usage.user_time()) + ms(usage.system_time())
}

/// 10,000 records of 2 KB in memory, as written and as loaded.
async fn memory(dir: &Path) {
    const RECORDS: u64 = 10_000;
    let before = resident();
    let path = dir.join("memory");
    let store = Store::open(Config::new(&path)).await.expect("the store opens");
    let bytes = [value().bytes, value().bytes].concat();
    for number in 0..RECORDS {
        store.commit(key(number), Expect::Absent, Change::put(bytes.clone())).await.expect("written");
    }
    let data = (RECORDS as usize * bytes.len()) >> 20;
    println!(
        "\n{RECORDS} records, {data} MB of values: {} MB resident more than before",
        resident() - before
    );
    store.close().await;
}

fn key(number: u64) -> Key {
    Key::from(format!("/registry/core/pods/namespace/name-of-pod-{number:010}"))
}

fn value() -> Value {
    // Not compressible, and the same for everybody.
    let mut random = fastrand::Rng::with_seed(1);
    Value::from(std::iter::repeat_with(|| random.u8(..)).take(VALUE_BYTES).collect::<Vec<u8>>())
}

async fn writes(dir: &Path) {
    println!("\ndurable writes        bare log /s     store /s   share   store p50 / p99 ms");
    for writers in [1, 16, 64, 256] {
        let bare = bare_log(dir, writers).await;
        let path = dir.join(format!("store-{writers}"));
        let store = Store::open(Config::new(&path)).await.expect("the store opens");
        let stop = Arc::new(AtomicBool::new(false));
        let tasks: Vec<_> = (0..writers)
            .map(|writer| {
                let (store, stop, value) = (store.clone(), Arc::clone(&stop), value());
                tokio::spawn(async move {
                    let mut random = fastrand::Rng::with_seed(writer);
                    let mut times = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let started = Instant::now();
                        let change = Change::Put { value: value.clone(), lease: None };
                        store.commit(key(random.u64(0..KEYS)), Expect::Any, change).await.expect("written");
                        times.push(started.elapsed());
                    }
                    times
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(SECONDS)).await;
        stop.store(true, Ordering::Relaxed);
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await.expect("it wrote"));
        }
        let rate = times.len() as u64 / SECONDS;
        let [p50, p99] = percentiles(&mut times);
        let share = rate as f64 / bare as f64;
        let limit = if writers == 64 { " (at least 0.50)" } else { "" };
        println!(
            "{writers:4} writers         {bare:12} {rate:12}   {share:5.2}   {p50:.2} / {p99:.2}{limit}"
        );
        store.close().await;
        drop(store);
        fs::remove_dir_all(path).expect("removed");
    }
}

fn percentiles(times: &mut [Duration]) -> [f64; 2] {
    times.sort_unstable();
    [50, 99].map(|percent| {
        let time = times.get(times.len() * percent / 100).copied().unwrap_or_default();
        time.as_secs_f64() * 1000.0
    })
}

/// What waits for the bare log.
#[derive(Default)]
struct Queue {
    waiting: Mutex<(Vec<oneshot::Sender<()>>, bool)>,
    filled: Condvar,
}

/// Appends one record for each waiting writer, syncs once, answers all.
async fn bare_log(dir: &Path, writers: u64) -> u64 {
    let path = dir.join("bare.log");
    let mut file = OpenOptions::new().create(true).append(true).open(&path).expect("a file");
    let queue = Arc::new(Queue::default());
    let record = [value().bytes.as_ref(), &[0; 48]].concat();
    let log = std::thread::spawn({
        let queue = Arc::clone(&queue);
        move || {
            let mut buffer = Vec::new();
            loop {
                let batch = {
                    let mut waiting = queue.waiting.lock();
                    while waiting.0.is_empty() {
                        if waiting.1 {
                            return;
                        }
                        queue.filled.wait(&mut waiting);
                    }
                    std::mem::take(&mut waiting.0)
                };
                buffer.clear();
                for _ in &batch {
                    buffer.extend_from_slice(&record);
                }
                file.write_all(&buffer).and_then(|()| file.sync_data()).expect("written");
                for waiter in batch {
                    waiter.send(()).expect("somebody waits");
                }
            }
        }
    });
    let stop = Arc::new(AtomicBool::new(false));
    let count = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..writers)
        .map(|_| {
            let (queue, stop, count) = (Arc::clone(&queue), Arc::clone(&stop), Arc::clone(&count));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let (sender, receiver) = oneshot::channel();
                    queue.waiting.lock().0.push(sender);
                    queue.filled.notify_one();
                    receiver.await.expect("written");
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("it wrote");
    }
    queue.waiting.lock().1 = true;
    queue.filled.notify_one();
    log.join().expect("it ended");
    fs::remove_file(path).expect("removed");
    count.load(Ordering::Relaxed) / SECONDS
}

/// How long an event takes from before its write is sent to each of 200 watchers, beside four writers.
async fn watchers(dir: &Path) {
    const WATCHERS: usize = 200;
    const WRITES: u64 = 500;
    let store = Store::open(Config::new(dir.join("watched"))).await.expect("the store opens");
    let began = Instant::now();
    let tasks: Vec<_> = (0..WATCHERS)
        .map(|_| {
            let range = KeyRange::prefix("/registry/core/pods/");
            let mut watcher = store.watch(range, WatchStart::Now, WatchOptions::default()).expect("watched");
            tokio::spawn(async move {
                let mut times = Vec::new();
                while (times.len() as u64) < 4 * WRITES {
                    let batch = watcher.next().await.expect("events");
                    let now = began.elapsed();
                    for event in batch.events {
                        let sent =
                            event.record.value[..8].try_into().map(u64::from_le_bytes).expect("a time");
                        times.push(now.saturating_sub(Duration::from_nanos(sent)));
                    }
                }
                times
            })
        })
        .collect();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut bytes = value().bytes.to_vec();
                let mut own = Vec::new();
                for number in 0..WRITES {
                    let sent = began.elapsed();
                    bytes[..8].copy_from_slice(&(sent.as_nanos() as u64).to_le_bytes());
                    let change = Change::put(bytes.clone());
                    store.commit(key(writer * WRITES + number), Expect::Any, change).await.expect("written");
                    own.push(began.elapsed() - sent);
                    // A pace that a busy cluster has, not the most that the disk can do.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                own
            })
        })
        .collect();
    let mut own = Vec::new();
    for writer in writers {
        own.extend(writer.await.expect("it wrote"));
    }
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("it watched"));
    }
    let ([write50, write99], [p50, p99]) = (percentiles(&mut own), percentiles(&mut times));
    println!("\n{WATCHERS} watchers, 4 writers: write answered p50 {write50:.2} p99 {write99:.2} ms,");
    println!("  write sent to event delivered p50 {p50:.2} p99 {p99:.2} ms (p50 well below 1)");
    store.close().await;
}

fn bytes_in(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).expect("read").flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// 1,000,000 overwrites of 100,000 keys.
async fn overwrites(dir: &Path) {
    const WRITES: u64 = 1_000_000;
    const WRITERS: u64 = 256;
    let path = dir.join("overwritten");
    let store = Store::open(Config::new(&path)).await.expect("the store opens");
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let tasks: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (store, next, value) = (store.clone(), Arc::clone(&next), value());
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= WRITES + KEYS {
                        return;
                    }
                    let change = Change::Put { value: value.clone(), lease: None };
                    // Every key once, then any.
                    let target = if number < KEYS { number } else { number.wrapping_mul(7_919) % KEYS };
                    store.commit(key(target), Expect::Any, change).await.expect("written");
                }
            })
        })
        .collect();
    let mut most = 0;
    let mut tasks = tasks;
    while !tasks.is_empty() {
        tasks.retain(|task| !task.is_finished());
        most = most.max(bytes_in(&path));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = started.elapsed();
    let all = store.range(&KeyRange::all(), RangeOptions::default()).expect("read");
    let live: u64 = all.records.iter().map(|record| record.size() as u64).sum();
    drop(all);
    let ratio = |bytes: u64| bytes as f64 / live as f64;
    let rate = (WRITES + KEYS) as f64 / took.as_secs_f64();
    println!("\n{WRITES} overwrites of {KEYS} keys: {rate:.0} /s, {} MB resident", resident());
    let at_once = bytes_in(&path);
    println!(
        "  live {} MB; on disk at once {:.2}x, at most meanwhile {:.2}x",
        live >> 20,
        ratio(at_once),
        ratio(most)
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("  on disk after 3 s {:.2}x (at most 3)", ratio(bytes_in(&path)));
    store.close().await;
    drop(store);
    let started = Instant::now();
    let store = Store::open(Config::new(&path)).await.expect("the store opens");
    let (took, entries) = (started.elapsed(), store.revision() - store.compacted_revision());
    println!("  opens in {} ms: {KEYS} keys and {entries} kept revisions", took.as_millis());
    store.close().await;
    drop(store);
    fs::remove_dir_all(path).expect("removed");
}

/// 200,000 entries, as the store leaves them.
async fn opening(dir: &Path) {
    const ENTRIES: u64 = 200_000;
    let path = dir.join("opened");
    let store = Store::open(Config::new(&path)).await.expect("the store opens");
    let operations = |from: u64| {
        (from..from + 1000)
            .map(|number| (key(number), Expect::Absent, Change::Put { value: value(), lease: None }))
    };
    for from in (0..ENTRIES).step_by(1000) {
        store.transaction(operations(from).collect()).await.expect("written");
    }
    store.close().await;
    drop(store);
    for how in ["warm", "warm", "cold"] {
        let cold = how == "cold"
            && File::create("/proc/sys/vm/drop_caches").and_then(|mut file| file.write_all(b"1")).is_ok();
        let how = if how == "cold" && !cold { "cold (could not be made so)" } else { how };
        let (started, processor) = (Instant::now(), processor_ms());
        let store = Store::open(Config::new(&path)).await.expect("the store opens");
        let (took, processor) = (started.elapsed(), processor_ms() - processor);
        assert_eq!(store.count(&KeyRange::all()), ENTRIES);
        println!(
            "\n{ENTRIES} entries, {how}: open in {} ms (at most 500), {processor} ms of processor",
            took.as_millis()
        );
        let started = Instant::now();
        let all = store.range(&KeyRange::all(), RangeOptions::default()).expect("read");
        println!(
            "  a list of all takes {:.1} ms, {} MB resident",
            started.elapsed().as_secs_f64() * 1000.0,
            resident()
        );
        drop(all);
        store.close().await;
        drop(store);
    }
}
