//! A queue of keys to reconcile: each key at most once in the queue and at most once in flight, with
//! delays and a back-off per key.
//!
//! The rules are client-go's work queue: adding a key that is being worked on queues it again when
//! that work is done; of several delays for one key the earliest wins; failures double the delay from
//! 5 ms to 1000 s. Time is tokio's, so a test that pauses the clock controls it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::metrics::queues::{self, Load, Measured, Numbers};

/// client-go's default for controllers: 5 ms doubling per failure of one key, at most 1000 s.
const FIRST_BACKOFF: Duration = Duration::from_millis(5);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1000);

/// The queue. Cheap to clone; all clones are one queue.
pub struct WorkQueue<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    name: &'static str,
    first_backoff: Duration,
    longest_backoff: Duration,
    state: Mutex<State<T>>,
    wake: Notify,
    numbers: Numbers,
}

impl<T: Send> Measured for Shared<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    fn load(&self, now: Instant) -> Load {
        let state = self.state.lock();
        let running = state.working.values().map(|since| now.saturating_duration_since(*since).as_secs_f64());
        Load {
            depth: state.dirty.len(),
            unfinished_seconds: running.clone().sum(),
            longest_seconds: running.fold(0.0, f64::max),
        }
    }
}

struct State<T> {
    ready: VecDeque<T>,
    /// In `ready`, or to be queued again when its work is done; and since when.
    dirty: HashMap<T, Instant, ahash::RandomState>,
    /// In flight, and since when.
    working: HashMap<T, Instant, ahash::RandomState>,
    /// The moment each delayed key is due; entries of `timers` that disagree are stale.
    delayed: HashMap<T, (Instant, u64), ahash::RandomState>,
    timers: BinaryHeap<Reverse<Timer<T>>>,
    timer_count: u64,
    failures: HashMap<T, u32, ahash::RandomState>,
    shut_down: bool,
}

struct Timer<T> {
    due: Instant,
    /// Orders timers of one moment by when they were set, and tells live ones from stale ones.
    number: u64,
    item: T,
}

impl<T> PartialEq for Timer<T> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl<T> Eq for Timer<T> {}
impl<T> PartialOrd for Timer<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Timer<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<T> fmt::Debug for WorkQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.lock();
        f.debug_struct("WorkQueue")
            .field("name", &self.shared.name)
            .field("ready", &state.ready.len())
            .field("delayed", &state.delayed.len())
            .field("working", &state.working.len())
            .finish()
    }
}

impl<T: Clone + Eq + Hash + Send + 'static> WorkQueue<T> {
    /// An empty queue with the usual back-off; `name` appears in logs.
    pub fn new(name: &'static str) -> Self {
        Self::with_backoff(name, FIRST_BACKOFF, LONGEST_BACKOFF)
    }

    /// An empty queue whose back-off starts at `first` and doubles up to `longest`.
    pub fn with_backoff(name: &'static str, first: Duration, longest: Duration) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashMap::default(),
            working: HashMap::default(),
            delayed: HashMap::default(),
            timers: BinaryHeap::new(),
            timer_count: 0,
            failures: HashMap::default(),
            shut_down: false,
        };
        let shared = Shared {
            name,
            first_backoff: first,
            longest_backoff: longest,
            state: Mutex::new(state),
            wake: Notify::new(),
            numbers: Numbers::default(),
        };
        let shared = Arc::new(shared);
        queues::follow(Arc::<Shared<T>>::downgrade(&shared));
        Self { shared }
    }

    /// The name given at creation.
    pub fn name(&self) -> &'static str {
        self.shared.name
    }

    /// Queues the key now, unless it waits already.
    pub fn add(&self, item: T) {
        let now = Instant::now();
        let woken = self.shared.state.lock().add(item, now, &self.shared.numbers);
        if woken {
            self.shared.wake.notify_one();
        }
    }

    /// Queues the key after `delay`; an earlier request for the same key stays in force.
    pub fn add_after(&self, item: T, delay: Duration) {
        self.shared.numbers.retries.increment();
        if delay.is_zero() {
            return self.add(item);
        }
        let due = Instant::now() + delay;
        let mut state = self.shared.state.lock();
        if state.shut_down || state.delayed.get(&item).is_some_and(|(earlier, _)| *earlier <= due) {
            return;
        }
        state.timer_count += 1;
        let number = state.timer_count;
        state.delayed.insert(item.clone(), (due, number));
        state.timers.push(Reverse(Timer { due, number, item }));
        drop(state);
        // Somebody waiting may have to wake earlier than planned.
        self.shared.wake.notify_one();
    }

    /// Queues the key after its next back-off and counts one more failure.
    pub fn add_rate_limited(&self, item: T) {
        let failures = {
            let mut state = self.shared.state.lock();
            let failures = state.failures.entry(item.clone()).or_insert(0);
            *failures = failures.saturating_add(1);
            *failures - 1
        };
        let factor = 1u32.checked_shl(failures).unwrap_or(u32::MAX);
        let delay = self.shared.first_backoff.saturating_mul(factor).min(self.shared.longest_backoff);
        self.add_after(item, delay);
    }

    /// Forgets the key's failures: call it when its work succeeded.
    pub fn forget(&self, item: &T) {
        self.shared.state.lock().failures.remove(item);
    }

    /// The key's failures since it was last forgotten.
    pub fn retries(&self, item: &T) -> u32 {
        self.shared.state.lock().failures.get(item).copied().unwrap_or(0)
    }

    /// Waits for a key to work on; `None` once the queue is shut down. Every key handed out must be
    /// given back with [`WorkQueue::done`].
    pub async fn next(&self) -> Option<T> {
        loop {
            let woken = self.shared.wake.notified();
            let due = {
                let mut state = self.shared.state.lock();
                if state.shut_down {
                    // Pass the news on: notify_one wakes one waiter at a time.
                    self.shared.wake.notify_one();
                    return None;
                }
                let now = Instant::now();
                let due = state.release_due(now, &self.shared.numbers);
                if let Some((item, waited)) = state.take(now) {
                    self.shared.numbers.waits.observe(waited.as_secs_f64());
                    if !state.ready.is_empty() {
                        self.shared.wake.notify_one();
                    }
                    return Some(item);
                }
                due
            };
            match due {
                Some(due) => tokio::select! {
                    biased;
                    () = woken => {}
                    () = sleep_until(due) => {}
                },
                None => woken.await,
            }
        }
    }

    /// The work on a key handed out by [`WorkQueue::next`] is finished; if the key was added
    /// meanwhile it is queued again.
    pub fn done(&self, item: &T) {
        let woken = {
            let now = Instant::now();
            let mut state = self.shared.state.lock();
            if let Some(since) = state.working.remove(item) {
                self.shared.numbers.works.observe(now.saturating_duration_since(since).as_secs_f64());
            }
            let again = state.dirty.contains_key(item);
            if again {
                state.ready.push_back(item.clone());
            }
            again
        };
        if woken {
            self.shared.wake.notify_one();
        }
    }

    /// Keys that wait, delayed ones included, without those in flight.
    pub fn len(&self) -> usize {
        let state = self.shared.state.lock();
        state.ready.len() + state.delayed.len()
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Hands out nothing more; waiting callers get `None`.
    pub fn shut_down(&self) {
        self.shared.state.lock().shut_down = true;
        self.shared.wake.notify_one();
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    /// Returns whether somebody should wake for it.
    fn add(&mut self, item: T, now: Instant, numbers: &Numbers) -> bool {
        if self.shut_down || self.dirty.contains_key(&item) {
            return false;
        }
        numbers.adds.increment();
        self.dirty.insert(item.clone(), now);
        if self.working.contains_key(&item) {
            return false;
        }
        self.ready.push_back(item);
        true
    }

    /// Moves what is due to the ready end, and returns when the next one is due.
    fn release_due(&mut self, now: Instant, numbers: &Numbers) -> Option<Instant> {
        loop {
            let Reverse(next) = self.timers.peek()?;
            let live = self.delayed.get(&next.item).is_some_and(|(_, number)| *number == next.number);
            if live && next.due > now {
                return Some(next.due);
            }
            let Reverse(timer) = self.timers.pop()?;
            if live {
                self.delayed.remove(&timer.item);
                self.add(timer.item, now, numbers);
            }
        }
    }

    /// The next key, and how long it waited.
    fn take(&mut self, now: Instant) -> Option<(T, Duration)> {
        let item = self.ready.pop_front()?;
        let since = self.dirty.remove(&item).unwrap_or(now);
        self.working.insert(item.clone(), now);
        Some((item, now.saturating_duration_since(since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[tokio::test]
    async fn a_key_waits_once_however_often_it_is_added() {
        let queue = WorkQueue::new("test");
        queue.add("a");
        queue.add("b");
        queue.add("a");
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.next().await, Some("a"));
        assert_eq!(queue.next().await, Some("b"));
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_in_flight_is_handed_out_again_only_when_done() {
        let queue = WorkQueue::new("test");
        queue.add("a");
        assert_eq!(queue.next().await, Some("a"));
        queue.add("a");
        assert!(tokio::time::timeout(seconds(1), queue.next()).await.is_err());
        queue.done(&"a");
        assert_eq!(queue.next().await, Some("a"));
        queue.done(&"a");
        assert!(tokio::time::timeout(seconds(1), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_of_several_delays_wins() {
        let queue = WorkQueue::new("test");
        let start = Instant::now();
        queue.add_after("a", seconds(10));
        queue.add_after("a", seconds(3));
        queue.add_after("a", seconds(20));
        assert_eq!(queue.len(), 1);
        assert_eq!(queue.next().await, Some("a"));
        assert_eq!(start.elapsed().as_secs(), 3);
        queue.done(&"a");
        assert!(tokio::time::timeout(seconds(60), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_delay_wakes_a_waiter_that_sleeps_longer() {
        let queue = WorkQueue::new("test");
        let start = Instant::now();
        queue.add_after("slow", seconds(100));
        let waiter = tokio::spawn({
            let queue = queue.clone();
            async move { queue.next().await }
        });
        tokio::task::yield_now().await;
        queue.add_after("fast", seconds(1));
        assert_eq!(waiter.await.unwrap(), Some("fast"));
        assert_eq!(start.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_double_the_delay_until_forgotten() {
        let queue = WorkQueue::new("test");
        let mut waits = Vec::new();
        for _ in 0..20 {
            let start = Instant::now();
            queue.add_rate_limited("a");
            assert_eq!(queue.next().await, Some("a"));
            waits.push(start.elapsed().as_millis());
            queue.done(&"a");
        }
        assert_eq!(&waits[..4], [5, 10, 20, 40]);
        assert_eq!(waits[19], 1_000_000);
        assert_eq!(queue.retries(&"a"), 20);
        queue.forget(&"a");
        assert_eq!(queue.retries(&"a"), 0);
    }

    #[tokio::test]
    async fn shutting_down_releases_every_waiter() {
        let queue = WorkQueue::<u32>::new("test");
        let waiters: Vec<_> = (0..4)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.next().await })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.shut_down();
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), None);
        }
        queue.add(1);
        assert_eq!(queue.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn many_workers_share_a_burst_without_losing_or_doubling_a_key() {
        let queue = WorkQueue::new("test");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let workers: Vec<_> = (0..8)
            .map(|_| {
                let (queue, seen) = (queue.clone(), seen.clone());
                tokio::spawn(async move {
                    while let Some(item) = queue.next().await {
                        tokio::task::yield_now().await;
                        seen.lock().push(item);
                        queue.done(&item);
                    }
                })
            })
            .collect();
        for item in 0..500u32 {
            if item % 2 == 0 {
                queue.add(item);
            } else {
                queue.add_after(item, Duration::from_millis(item.into()));
            }
        }
        tokio::time::sleep(seconds(2)).await;
        queue.shut_down();
        for worker in workers {
            worker.await.unwrap();
        }
        let mut seen = seen.lock().clone();
        seen.sort_unstable();
        assert_eq!(seen, (0..500).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_counts_what_goes_through_it() {
        let queue = WorkQueue::new("counted");
        queue.add("a");
        queue.add("a");
        queue.add_after("b", seconds(1));
        tokio::time::advance(seconds(2)).await;
        assert_eq!(queue.next().await, Some("a"));
        // While it is worked on: one more to do, which is not ready.
        queue.add("a");
        tokio::time::advance(seconds(3)).await;
        let mut text = String::new();
        queues::collect(&mut text);
        let value = |name: &str| {
            let row = format!("{name}{{name=\"counted\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&row)).map(str::to_owned)
        };
        for (name, expected) in [
            ("workqueue_depth", "2"),
            ("workqueue_adds_total", "3"),
            ("workqueue_retries_total", "1"),
            ("workqueue_queue_duration_seconds_sum", "2"),
            ("workqueue_unfinished_work_seconds", "3"),
            ("workqueue_longest_running_processor_seconds", "3"),
        ] {
            assert_eq!(value(name).as_deref(), Some(expected), "{name}: {text}");
        }
        queue.done(&"a");
        assert_eq!(queue.shared.numbers.works.count(), 1);
    }
}
