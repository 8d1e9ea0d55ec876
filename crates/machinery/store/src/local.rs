//! The embedded engine: a sequencer in front, one thread that writes the log, one that keeps house.
//!
//! A commit is decided and queued by its caller (`sequencer`). The log thread takes everything queued, writes it as one
//! frame and syncs once; what comes meanwhile is the next batch. What is durable is published and answered: by the log
//! thread itself if nothing waits to be written, else by the publisher's thread, beside the next sync. The housekeeper
//! ends leases, compacts, frees memory and writes checkpoints; it never holds up the others but for the locks of the
//! state.
//!
//! Without a disk ([`Local::memory`]) there is no log thread, and a commit is published before it returns.

use std::any::Any;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::change::{Operation, TransactionCommitted};
use crate::config::{Config, History};
use crate::disk::Disk;
use crate::engine::{Engine, EngineFuture, Feed, Published};
use crate::error::{CommitError, CompactError, LeaseError, OpenError, RemoteFault, StorageFault};
use crate::log::Log;
use crate::log::frame::Entry;
use crate::log::recover::{self, Recovered};
use crate::record::{LeaseId, Revision};
use crate::retention;
use crate::state::State;

mod checkpoint;
pub(crate) mod decide;
mod handoff;
mod keeper;
mod leases;
mod sequencer;

use checkpoint::Checkpoints;
use handoff::Handoff;
use sequencer::{Item, Sequencer, Submitted};

/// About the most bytes that share one fsync: some ten milliseconds of a disk, so that one large burst does not make
/// everybody wait for all of it.
const BATCH_BYTES: usize = 4 << 20;
/// The smallest size at which a segment is closed. Below the configured size, segments are a quarter of the live data,
/// so that a small store stays small on disk.
const SEGMENT_BYTES_MIN: u64 = 1 << 20;

/// The embedded engine.
#[derive(Debug)]
pub(crate) struct Local {
    shared: Arc<Shared>,
    running: Arc<Mutex<Running>>,
}

/// What ends when the engine closes: the threads first, then the hold on the directory.
#[derive(Debug, Default)]
struct Running {
    threads: Vec<JoinHandle<()>>,
    hold: Option<Box<dyn Any + Send + Sync>>,
}

impl Running {
    fn end(&mut self) {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store had panicked");
            }
        }
        self.hold = None;
    }
}

/// What the callers, the log thread and the housekeeper share.
#[derive(Debug)]
struct Shared {
    state: Arc<State>,
    sequencer: Mutex<Sequencer>,
    /// For the log thread: something is queued, or the store closes.
    queued: Condvar,
    /// For the housekeeper: something is urgent, or the store closes.
    housekeeping: Condvar,
    /// From the log thread to the publisher.
    handoff: Handoff,
    history: History,
    segment_bytes: u64,
    /// The salt of lease ids.
    random: ahash::RandomState,
}

impl Local {
    /// An engine without a disk.
    pub(crate) fn memory(history: History) -> (Local, Arc<State>) {
        let feed = Feed::new(Vec::new(), 1);
        let state = feed.state;
        let sequencer = Sequencer::new(&state, std::collections::BTreeMap::new(), false, Instant::now());
        let shared = Shared::new(Arc::clone(&state), sequencer, history, u64::MAX);
        let engine = Local::start(shared, None, None, None);
        // Only the spawning of a thread can fail, and a test that cannot have one cannot go on.
        (engine.expect("a thread can be started"), state)
    }

    /// Opens the store in a directory. Blocks.
    pub(crate) fn open(config: &Config, disk: &Arc<dyn Disk>) -> Result<(Local, Arc<State>), OpenError> {
        let dir = &config.dir;
        let io = |step, source| OpenError::Io { step, path: dir.clone(), source };
        disk.create_dir(dir).map_err(|source| io("create", source))?;
        let hold = disk.lock(dir).map_err(|source| io("lock", source))?;
        let Some(hold) = hold else { return Err(OpenError::Locked { dir: dir.clone() }) };
        let started = Instant::now();
        let recovered = recover::recover(disk, dir, random_number())?;
        let Recovered { feed, leases, log, segments, store_id, snapshot } = recovered;
        let state = feed.state;
        tracing::debug!(
            dir = %dir.display(),
            revision = state.revision(),
            keys = state.tree().live_keys(),
            ms = started.elapsed().as_millis() as u64,
            "store opened"
        );
        let sequencer = Sequencer::new(&state, leases, true, Instant::now());
        let shared = Shared::new(Arc::clone(&state), sequencer, config.history.clone(), config.segment_bytes);
        let checkpoints = Checkpoints::new(Arc::clone(disk), dir.clone(), store_id, segments, snapshot);
        let engine = Local::start(shared, Some(log), Some(checkpoints), Some(hold))
            .map_err(|source| io("start a thread for", source))?;
        Ok((engine, state))
    }

    fn start(
        shared: Shared,
        log: Option<Log>,
        checkpoints: Option<Checkpoints>,
        hold: Option<Box<dyn Any + Send + Sync>>,
    ) -> io::Result<Local> {
        let shared = Arc::new(shared);
        let running = Arc::new(Mutex::new(Running { threads: Vec::new(), hold }));
        // From here on, dropping the engine ends what has been started.
        let engine = Local { shared: Arc::clone(&shared), running };
        if let Some(log) = log {
            let publisher = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name("store-publish".into());
            let thread = thread.spawn(move || publisher.publish())?;
            engine.running.lock().threads.push(thread);
            let writer = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name("store-log".into());
            let thread = thread.spawn(move || writer.write_log(log));
            // Otherwise the publisher would wait for it.
            let thread = thread.inspect_err(|_| shared.handoff.end())?;
            engine.running.lock().threads.push(thread);
        }
        let thread = std::thread::Builder::new().name("store-keeper".into());
        let thread = thread.spawn(move || keeper::run(&shared, checkpoints))?;
        engine.running.lock().threads.push(thread);
        Ok(engine)
    }

    async fn answer(submitted: Submitted) -> Result<TransactionCommitted, CommitError> {
        match submitted {
            Submitted::Now(answer) => answer,
            // The sender goes away unanswered only with the log thread.
            Submitted::Later(receiver) => receiver.await.unwrap_or(Err(CommitError::Closed)),
        }
    }
}

/// A number that nobody can guess, from the same source that keys the hash maps of this process.
pub(crate) fn random_number() -> u64 {
    ahash::RandomState::new().hash_one(std::process::id())
}

impl Shared {
    fn new(state: Arc<State>, sequencer: Sequencer, history: History, segment_bytes: u64) -> Shared {
        Shared {
            state,
            sequencer: Mutex::new(sequencer),
            queued: Condvar::new(),
            housekeeping: Condvar::new(),
            handoff: Handoff::default(),
            history,
            segment_bytes,
            random: ahash::RandomState::new(),
        }
    }

    /// Lets the sequencer do something, and wakes who has work because of it.
    fn sequence<T>(&self, work: impl FnOnce(&mut Sequencer) -> T) -> T {
        let mut sequencer = self.sequencer.lock();
        let result = work(&mut sequencer);
        let queued = !sequencer.is_idle();
        let urgent = sequencer.urgent;
        drop(sequencer);
        if queued {
            self.queued.notify_one();
        }
        if urgent {
            self.housekeeping.notify_one();
        }
        result
    }

    /// The log thread.
    fn write_log(&self, mut log: Log) {
        // However this thread ends, nobody must wait for it.
        let end = LogEnd(self);
        // The newest revision on the disk; the publisher may still be at an earlier one.
        let mut durable = self.state.revision();
        loop {
            let batch = {
                let mut sequencer = self.sequencer.lock();
                while sequencer.is_idle() {
                    if sequencer.closing {
                        drop(sequencer);
                        drop(end);
                        return;
                    }
                    self.queued.wait(&mut sequencer);
                }
                sequencer.take_batch(BATCH_BYTES)
            };
            let mut written = Ok(());
            let mut newest = durable;
            if batch.iter().any(|item| item.entry.is_some()) {
                for entry in batch.iter().filter_map(|item| item.entry.as_ref()) {
                    if let Entry::Transaction { revision, .. } = entry {
                        newest = newest.max(*revision);
                    }
                }
                let entries = batch.iter().filter_map(|item| item.entry.as_ref());
                let segment_bytes =
                    (self.state.live_bytes() / 4).max(SEGMENT_BYTES_MIN).min(self.segment_bytes);
                if log.would_start_segment(segment_bytes) {
                    // A checkpoint takes what stands before a segment as booked.
                    self.handoff.wait_until_idle();
                }
                written = log.append(entries, durable, segment_bytes);
            }
            match written {
                Ok(()) => {
                    durable = newest;
                    let alone = self.handoff.is_idle() && self.sequencer.lock().is_idle();
                    if alone {
                        self.finish(batch);
                    } else {
                        self.handoff.put(batch);
                    }
                }
                Err(fault) => {
                    // What is durable comes first; then everything in flight goes back together.
                    self.handoff.wait_until_idle();
                    self.fail(batch, fault);
                }
            }
            if self.handoff.has_ended() {
                return;
            }
        }
    }

    /// The publisher's thread.
    fn publish(&self) {
        let end = handoff::End(&self.handoff);
        while let Some(batch) = self.handoff.take() {
            self.finish(batch);
            self.handoff.done();
        }
        drop(end);
    }

    /// A batch is durable: publishes it and answers.
    fn finish(&self, mut batch: Vec<Item>) {
        let mut published = Vec::with_capacity(batch.len());
        let mut landed = Vec::with_capacity(batch.len());
        for entry in batch.iter_mut().filter_map(|item| item.entry.take()) {
            match entry {
                // Most are this, and need no lock before they are visible.
                Entry::Transaction { revision, events, revoke: None } => {
                    landed.extend(events.iter().map(|event| (event.record.key.clone(), event.revision)));
                    published.push(Published { revision, events });
                }
                entry => {
                    if let Entry::Transaction { events, .. } = &entry {
                        landed.extend(events.iter().map(|event| (event.record.key.clone(), event.revision)));
                    }
                    self.sequencer.lock().settle(entry, &mut published, &self.state);
                }
            }
        }
        self.state.publish(published);
        self.sequence(|sequencer| {
            sequencer.landed(&landed);
            sequencer.urgent |= self.is_compaction_urgent();
        });
        for item in batch {
            item.answer();
        }
    }

    /// A batch is not durable: takes back everything in flight and says so.
    fn fail(&self, batch: Vec<Item>, fault: StorageFault) {
        tracing::error!(step = fault.step, path = %fault.path.display(), error = %fault.source, "the store cannot write");
        let queued = self.sequencer.lock().roll_back(&self.state, Instant::now());
        let error = match fault.source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => CommitError::NoSpace(fault),
            _ => CommitError::Storage(fault),
        };
        for item in batch.into_iter().chain(queued) {
            item.fail(&error);
        }
    }

    /// While a pin keeps what is compacted already, compacting more frees nothing, so there is no hurry.
    fn is_compaction_urgent(&self) -> bool {
        retention::is_urgent(&self.history, self.kept()) && !self.state.is_held_back()
    }

    fn kept(&self) -> retention::Kept {
        retention::Kept {
            compacted: self.state.compacted(),
            newest: self.state.revision(),
            history_bytes: self.state.history_bytes(),
            live_bytes: self.state.live_bytes(),
        }
    }

    /// Takes no more changes. What is queued is still written.
    fn begin_closing(&self) {
        self.sequencer.lock().closing = true;
        self.queued.notify_all();
        self.housekeeping.notify_all();
    }
}

struct LogEnd<'a>(&'a Shared);

impl Drop for LogEnd<'_> {
    fn drop(&mut self) {
        self.0.begin_closing();
        self.0.handoff.end();
        let queued = self.0.sequencer.lock().roll_back(&self.0.state, Instant::now());
        for item in queued {
            item.fail(&CommitError::Closed);
        }
        self.0.state.close();
    }
}

impl Engine for Local {
    fn commit(
        &self,
        operations: Vec<Operation>,
    ) -> EngineFuture<'_, Result<TransactionCommitted, CommitError>> {
        let submitted = self.shared.sequence(|sequencer| {
            let submitted = sequencer.submit(&self.shared.state, operations);
            // With a log, this is asked when a batch is durable.
            sequencer.urgent |= !sequencer.durable && self.shared.is_compaction_urgent();
            submitted
        });
        Box::pin(Local::answer(submitted))
    }

    fn compact(&self, revision: Revision) -> EngineFuture<'_, Result<(), CompactError>> {
        let submitted = self.shared.sequence(|sequencer| {
            if sequencer.closing {
                return Err(CompactError::Commit(CommitError::Closed));
            }
            self.shared.state.may_compact(revision)?;
            Ok(sequencer.record(&self.shared.state, Entry::Compact { revision }))
        });
        Box::pin(async {
            Local::answer(submitted?).await.map_err(CompactError::Commit)?;
            Ok(())
        })
    }

    fn grant_lease(&self, ttl: Duration) -> EngineFuture<'_, Result<LeaseId, LeaseError>> {
        let submitted = self.shared.sequence(|sequencer| {
            if sequencer.closing {
                return Err(LeaseError::Commit(CommitError::Closed));
            }
            let now = Instant::now();
            // A lease much longer than any machine lives would not fit the clock.
            let ttl = ttl.clamp(Duration::from_millis(1), Duration::from_secs(1 << 32));
            let lease = (0u64..)
                .filter_map(|salt| LeaseId::new(self.shared.random.hash_one((salt, now))))
                .find(|lease| !sequencer.leases.contains(*lease))
                .expect("not all numbers are taken");
            sequencer.leases.grant(lease, ttl, now);
            Ok((lease, sequencer.record(&self.shared.state, Entry::Grant { lease, ttl })))
        });
        // The housekeeper may be asleep until after the new lease's end.
        self.shared.housekeeping.notify_one();
        Box::pin(async {
            let (lease, submitted) = submitted?;
            Local::answer(submitted).await.map_err(LeaseError::Commit)?;
            Ok(lease)
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> EngineFuture<'_, Result<Duration, LeaseError>> {
        let kept = self.shared.sequence(|sequencer| {
            if sequencer.closing {
                return Err(LeaseError::Commit(CommitError::Closed));
            }
            sequencer.leases.keep_alive(lease, Instant::now()).ok_or(LeaseError::NotFound(lease))
        });
        Box::pin(async { kept })
    }

    fn revoke_lease(&self, lease: LeaseId) -> EngineFuture<'_, Result<(), LeaseError>> {
        let submitted = self.shared.sequence(|sequencer| {
            if sequencer.closing {
                return Err(LeaseError::Commit(CommitError::Closed));
            }
            sequencer.revoke(&self.shared.state, lease).ok_or(LeaseError::NotFound(lease))
        });
        Box::pin(async {
            Local::answer(submitted?).await.map_err(LeaseError::Commit)?;
            Ok(())
        })
    }

    fn leases(&self) -> EngineFuture<'_, Result<Vec<(LeaseId, Duration)>, RemoteFault>> {
        let leases = self.shared.sequencer.lock().durable_leases.clone();
        Box::pin(std::future::ready(Ok(leases.into_iter().collect())))
    }

    fn close(&self) -> EngineFuture<'_, ()> {
        self.shared.begin_closing();
        let running = Arc::clone(&self.running);
        let state = Arc::clone(&self.shared.state);
        Box::pin(async move {
            let ended = tokio::task::spawn_blocking(move || running.lock().end()).await;
            if ended.is_err() {
                tracing::error!("the store's threads could not be awaited");
            }
            state.close();
        })
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.shared.begin_closing();
        self.running.lock().end();
        self.shared.state.close();
    }
}

#[cfg(test)]
mod tests;
