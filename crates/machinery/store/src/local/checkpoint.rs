//! Checkpoints: snapshots of the oldest kept revision, which let the log before it go.
//!
//! In order, so that a crash between any two steps leaves a store that opens: write the new snapshot under a name that
//! does not count, sync it, give it its name, sync the directory, remove the old snapshot, remove the segments before.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::disk::Disk;
use crate::error::StorageFault;
use crate::key::KeyRange;
use crate::local::{Shared, keeper};
use crate::log::{FileName, Segments};
use crate::record::Revision;
use crate::snapshot;
use crate::state::State;

/// A checkpoint is due when this much of the log could go, and at least half as much as lives: so at most three bytes
/// are written for each byte of log, and the disk holds well below three times the live data.
pub(super) const RECLAIM_BYTES_MIN: u64 = 2 << 20;
/// How long to wait after a checkpoint that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Where the store stands on the disk, for writing checkpoints.
#[derive(Debug)]
pub(super) struct Checkpoints {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    store_id: u64,
    segments: Arc<Segments>,
    /// The revision and first frame of the newest snapshot.
    newest: (Revision, u64),
    not_before: Option<Instant>,
}

/// Why a checkpoint was not finished.
#[derive(Debug)]
enum Stopped {
    Closing,
    Fault(StorageFault),
}

impl From<StorageFault> for Stopped {
    fn from(fault: StorageFault) -> Stopped {
        Stopped::Fault(fault)
    }
}

impl Checkpoints {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        store_id: u64,
        segments: Arc<Segments>,
        newest: (Revision, u64),
    ) -> Checkpoints {
        Checkpoints { disk, dir, store_id, segments, newest, not_before: None }
    }

    /// Writes a checkpoint if one is due.
    pub(super) fn keep(&mut self, shared: &Shared) {
        let revision = shared.state.compacted();
        let (first_frame, reclaimable) = self.segments.needed_from(revision);
        let least = RECLAIM_BYTES_MIN.min(shared.segment_bytes);
        let due = reclaimable >= (shared.state.live_bytes() / 2).max(least);
        if !due
            || (revision, first_frame) <= self.newest
            || self.not_before.is_some_and(|time| Instant::now() < time)
        {
            return;
        }
        match self.write(shared, revision, first_frame) {
            Ok(()) => self.not_before = None,
            Err(Stopped::Closing) => {}
            Err(Stopped::Fault(fault)) => {
                tracing::error!(
                    step = fault.step,
                    path = %fault.path.display(),
                    error = %fault.source,
                    "the store cannot write a checkpoint; it goes on with a longer log"
                );
                self.not_before = Some(Instant::now() + RETRY);
            }
        }
    }

    fn write(&mut self, shared: &Shared, revision: Revision, first_frame: u64) -> Result<(), Stopped> {
        // The newest compacted revision can be gone only if it has moved meanwhile; the next round sees that.
        let Some(pin) = shared.state.pin(revision) else { return Ok(()) };
        // Every frame before `first_frame` has been booked, so what it did to leases is in this.
        let leases: Vec<_> = shared.sequencer.lock().durable_leases.clone().into_iter().collect();
        let name = FileName::snapshot(revision, first_frame);
        let unfinished = self.dir.join(format!("{name}.tmp"));
        let path = self.dir.join(name);
        let header = snapshot::Header { store_id: self.store_id, revision, first_frame };
        let written: Result<(), Stopped> = (|| {
            let mut writer = snapshot::Writer::create(&*self.disk, &unfinished, &header)?;
            State::read_pinned(&pin, KeyRange::all(), 0, |records| {
                // This may take seconds, in which leases end too.
                keeper::end_leases(shared);
                if shared.sequencer.lock().closing {
                    return Err(Stopped::Closing);
                }
                for record in &records {
                    writer.record(record)?;
                }
                Ok(())
            })?;
            writer.finish(&leases)?;
            self.disk.rename(&unfinished, &path).map_err(|error| self.fault("rename", &unfinished, error))
        })();
        drop(pin);
        if let Err(error) = written {
            // Leaves nothing behind that fills a disk that may be full. If it stays, the next open removes it.
            drop(self.disk.remove(&unfinished));
            return Err(error);
        }
        self.disk.sync_dir(&self.dir).map_err(|error| self.fault("sync", &self.dir, error))?;
        let (old_revision, old_frame) = std::mem::replace(&mut self.newest, (revision, first_frame));
        let old = self.dir.join(FileName::snapshot(old_revision, old_frame));
        self.disk.remove(&old).map_err(|error| self.fault("remove", &old, error))?;
        for segment in self.segments.take_before(first_frame) {
            self.disk.remove(&segment.path).map_err(|error| self.fault("remove", &segment.path, error))?;
        }
        Ok(())
    }

    fn fault(&self, step: &'static str, path: &std::path::Path, error: std::io::Error) -> Stopped {
        Stopped::Fault(StorageFault { step, path: path.to_path_buf(), source: Arc::new(error) })
    }
}
