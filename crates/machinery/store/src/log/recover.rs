//! Opening a store: the newest snapshot, and the log replayed on it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::disk::{Disk, DiskFile};
use crate::engine::{Feed, Published};
use crate::error::{OpenError, StorageFault};
use crate::log::frame::{self, Next, Replay, ReplayChange};
use crate::log::segment::{HEADER_BYTES, Header};
use crate::log::{FileName, Log, Segment, Segments};
use crate::record::{Event, LeaseId, Revision};
use crate::snapshot;

/// A store as it was when it was last durable.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) feed: Feed,
    pub(crate) leases: BTreeMap<LeaseId, Duration>,
    pub(crate) log: Log,
    pub(crate) segments: Arc<Segments>,
    pub(crate) store_id: u64,
    /// The revision and first frame of the snapshot it was read from.
    pub(crate) snapshot: (Revision, u64),
}

/// Opens the store in a directory that is locked, or makes a new one there. `new_id` names a new store.
pub(crate) fn recover(disk: &Arc<dyn Disk>, dir: &Path, new_id: u64) -> Result<Recovered, OpenError> {
    // What a killed process left may be named in memory only. Before anything is built on a name or removed because of
    // one, the names must be durable.
    disk.sync_dir(dir).map_err(|source| io("sync", dir, source))?;
    let names = disk.list(dir).map_err(|source| io("list", dir, source))?;
    let mut segments = BTreeMap::new();
    let mut snapshots = BTreeMap::new();
    for name in names {
        let path = dir.join(&name);
        match FileName::parse(&name) {
            FileName::Segment { first_frame } => drop(segments.insert(first_frame, path)),
            FileName::Snapshot { revision, first_frame } => {
                drop(snapshots.insert((revision, first_frame), path));
            }
            FileName::Unfinished => disk.remove(&path).map_err(|source| io("remove", &path, source))?,
            FileName::Other => {}
        }
    }
    if snapshots.is_empty() {
        if let Some(path) = segments.values().next() {
            let problem = format!("there is a log ({}) but no snapshot to start from", path.display());
            return Err(OpenError::Missing { file: dir.join("*.snapshot"), problem });
        }
        snapshots.insert((1, 1), create(&**disk, dir, new_id)?);
    }
    let Some((newest, path)) = snapshots.pop_last() else {
        unreachable!("one was just made if there was none")
    };
    let mut source = disk.open(&path).map_err(|source| io("open", &path, source))?;
    let loaded = snapshot::load(&mut *source).map_err(|error| error.into_open_error(&path))?;
    if (loaded.header.revision, loaded.header.first_frame) != newest {
        let problem = "its header does not agree with its name".to_owned();
        return Err(OpenError::Corrupt { file: path, offset: 0, problem });
    }
    // A crash between naming a snapshot and removing what it replaces leaves these behind.
    for old in snapshots.into_values() {
        disk.remove(&old).map_err(|source| io("remove", &old, source))?;
    }
    let first_frame = loaded.header.first_frame;
    let kept = segments.split_off(&first_frame);
    for old in segments.into_values() {
        disk.remove(&old).map_err(|source| io("remove", &old, source))?;
    }
    if !kept.contains_key(&first_frame) && (first_frame != 1 || !kept.is_empty()) {
        let problem = "the snapshot needs the log from there on".to_owned();
        return Err(OpenError::Missing { file: dir.join(FileName::segment(first_frame)), problem });
    }
    let mut replay = Replayer {
        feed: Feed::new(loaded.records, loaded.header.revision),
        snapshot_revision: loaded.header.revision,
        log_revision: None,
        leases: loaded.leases.into_iter().collect(),
        store_id: loaded.header.store_id,
        next_frame: first_frame,
    };
    let (segments, tail) = replay.segments(disk, &kept.into_iter().collect::<Vec<_>>())?;
    let segments = Arc::new(Segments::new(segments));
    let log = Log::new(
        Arc::clone(disk),
        dir.to_path_buf(),
        replay.store_id,
        replay.next_frame,
        tail,
        Arc::clone(&segments),
    );
    Ok(Recovered {
        feed: replay.feed,
        leases: replay.leases,
        log,
        segments,
        store_id: replay.store_id,
        snapshot: newest,
    })
}

/// Makes a new store: a snapshot of nothing, at revision 1.
fn create(disk: &dyn Disk, dir: &Path, store_id: u64) -> Result<PathBuf, OpenError> {
    let name = FileName::snapshot(1, 1);
    let unfinished = dir.join(format!("{name}.tmp"));
    let path = dir.join(name);
    let header = snapshot::Header { store_id, revision: 1, first_frame: 1 };
    snapshot::Writer::create(disk, &unfinished, &header)
        .and_then(|writer| writer.finish(&[]))
        .map_err(fault)?;
    disk.rename(&unfinished, &path).map_err(|source| io("rename", &unfinished, source))?;
    disk.sync_dir(dir).map_err(|source| io("sync", dir, source))?;
    Ok(path)
}

fn io(step: &'static str, path: &Path, source: std::io::Error) -> OpenError {
    OpenError::Io { step, path: path.to_path_buf(), source }
}

fn fault(fault: StorageFault) -> OpenError {
    let source = std::io::Error::new(fault.source.kind(), fault.source);
    OpenError::Io { step: fault.step, path: fault.path, source }
}

struct Replayer {
    feed: Feed,
    snapshot_revision: Revision,
    /// The newest revision in the log so far; below the snapshot's while old segments are passed.
    log_revision: Option<Revision>,
    leases: BTreeMap<LeaseId, Duration>,
    store_id: u64,
    next_frame: u64,
}

type Tail = Option<(Box<dyn DiskFile>, PathBuf, u64)>;

impl Replayer {
    fn segments(
        &mut self,
        disk: &Arc<dyn Disk>,
        paths: &[(u64, PathBuf)],
    ) -> Result<(Vec<Segment>, Tail), OpenError> {
        let mut segments = Vec::new();
        let mut bytes = Vec::new();
        let mut tail = None;
        for (index, (first_frame, path)) in paths.iter().enumerate() {
            let fence = paths.get(index + 1).map(|(first_frame, _)| *first_frame);
            bytes.clear();
            disk.open(path)
                .and_then(|mut reader| reader.read_to_end(&mut bytes))
                .map_err(|source| io("read", path, source))?;
            let header = self.header(path, &bytes, *first_frame)?;
            let end = self.frames(path, &bytes, fence)? as u64;
            let base_revision = header.base_revision;
            segments.push(Segment {
                path: path.clone(),
                first_frame: *first_frame,
                base_revision,
                bytes: end,
            });
            if fence.is_none() {
                let mut file = disk.append(path).map_err(|source| io("open", path, source))?;
                if end < bytes.len() as u64 {
                    tracing::warn!(
                        path = %path.display(),
                        offset = end,
                        bytes = bytes.len() as u64 - end,
                        "cutting off a write that a crash left unfinished; it was never acknowledged"
                    );
                    file.truncate(end).map_err(|source| io("truncate", path, source))?;
                }
                // What was read may be in memory only, if the last process died between write and sync. Clients are
                // about to see it, so it must be durable first.
                file.sync().map_err(|source| io("sync", path, source))?;
                tail = Some((file, path.clone(), end));
            }
        }
        Ok((segments, tail))
    }

    fn header(&mut self, path: &Path, bytes: &[u8], first_frame: u64) -> Result<Header, OpenError> {
        let header = Header::decode(bytes).map_err(|problem| corrupt(path, 0, problem))?;
        if header.first_frame != first_frame {
            return Err(corrupt(path, 0, "its header does not agree with its name"));
        }
        if header.store_id != self.store_id {
            return Err(corrupt(path, 0, "it belongs to another store"));
        }
        match self.log_revision {
            None if header.base_revision > self.snapshot_revision => {
                return Err(corrupt(path, 0, "it starts behind the snapshot's revision"));
            }
            None => self.log_revision = Some(header.base_revision),
            Some(revision) if revision != header.base_revision => {
                return Err(corrupt(path, 0, "its revision does not follow the segment before"));
            }
            Some(_) => {}
        }
        Ok(header)
    }

    /// Replays the frames of a segment: all of the last one, those before the fence of another. Returns where they end.
    fn frames(&mut self, path: &Path, bytes: &[u8], fence: Option<u64>) -> Result<usize, OpenError> {
        let mut at = HEADER_BYTES;
        loop {
            if fence == Some(self.next_frame) {
                return Ok(at);
            }
            match frame::next(bytes, at, self.store_id, self.next_frame) {
                Next::Frame { payload, end } => {
                    let entries = frame::decode(payload)
                        .ok_or_else(|| corrupt(path, at, "the record does not hold what it should"))?;
                    for entry in entries {
                        self.entry(entry).map_err(|problem| corrupt(path, at, problem))?;
                    }
                    self.next_frame += 1;
                    at = end;
                }
                Next::End if fence.is_none() => return Ok(at),
                Next::End => return Err(corrupt(path, at, "the segment ends before the next one starts")),
                Next::Bad(_)
                    if fence.is_none() && frame::is_torn(bytes, at, self.store_id, self.next_frame) =>
                {
                    return Ok(at);
                }
                Next::Bad(problem) => return Err(corrupt(path, at, problem)),
            }
        }
    }

    fn entry(&mut self, entry: Replay) -> Result<(), &'static str> {
        match entry {
            Replay::Grant { lease, ttl } => drop(self.leases.insert(lease, ttl)),
            Replay::Compact { revision } => self.feed.compact(revision),
            Replay::Transaction { revision, changes, revoke } => {
                if !changes.is_empty() {
                    self.changes(revision, changes)?;
                }
                if let Some(lease) = revoke {
                    self.leases.remove(&lease);
                }
            }
        }
        Ok(())
    }

    fn changes(&mut self, revision: Revision, changes: Vec<ReplayChange>) -> Result<(), &'static str> {
        let before = self.log_revision.replace(revision);
        if before.is_some_and(|before| revision != before + 1) {
            return Err("a revision is out of order");
        }
        if revision <= self.snapshot_revision {
            return Ok(());
        }
        let mut events: Vec<Arc<Event>> = Vec::with_capacity(changes.len());
        for change in changes {
            let event = match change {
                ReplayChange::Put(record) => self.feed.put_event(record),
                ReplayChange::Delete(key) => {
                    self.feed.delete_event(&key, revision).ok_or("a key is deleted that is not there")?
                }
            };
            events.push(Arc::new(event));
        }
        self.feed.publish(vec![Published { revision, events }]);
        Ok(())
    }
}

fn corrupt(path: &Path, offset: usize, problem: impl Into<String>) -> OpenError {
    OpenError::Corrupt { file: path.to_path_buf(), offset: offset as u64, problem: problem.into() }
}

#[cfg(test)]
mod tests;
