//! Opening a store: the newest snapshot, and the log replayed on it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::time::Duration;

use crate::disk::{Disk, DiskFile};
use crate::engine::Feed;
use crate::error::{OpenError, StorageFault};
use crate::log::frame::{self, Next, Replay};
use crate::log::segment::{HEADER_BYTES, Header};
use crate::log::{FileName, Log, Segment, Segments};
use crate::record::{LeaseId, Revision};
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
    let mut replayer = Replayer {
        feed: Feed::new(loaded.records, loaded.header.revision),
        snapshot_revision: loaded.header.revision,
        log_revision: None,
        leases: loaded.leases.into_iter().collect(),
    };
    let store_id = loaded.header.store_id;
    let paths: Vec<(u64, PathBuf)> = kept.into_iter().collect();
    let scanner = Scanner { disk: &**disk, store_id, next_frame: first_frame };
    let scanned = scan_and_replay(scanner, &paths, &mut replayer)?;
    let segments = Arc::new(Segments::new(scanned.segments));
    let log = Log::new(
        Arc::clone(disk),
        dir.to_path_buf(),
        store_id,
        scanned.next_frame,
        scanned.tail,
        Arc::clone(&segments),
    );
    Ok(Recovered { feed: replayer.feed, leases: replayer.leases, log, segments, store_id, snapshot: newest })
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

/// How many frames may be read ahead of what is replayed: enough that neither thread waits for long, little memory.
const READ_AHEAD: usize = 8;

/// What the scanner hands to the replayer.
enum Scanned {
    /// A segment begins.
    Segment(PathBuf, Header),
    /// A frame, and where it stands in the segment.
    Frame(usize, Vec<Replay>),
}

/// What is known when all segments have been scanned.
#[derive(Default)]
struct Scan {
    segments: Vec<Segment>,
    /// The file of the last segment, its path and length.
    tail: Option<(Box<dyn DiskFile>, PathBuf, u64)>,
    next_frame: u64,
}

/// Reads and decodes the log on one thread and replays it on this one: about half the time on two cores.
///
/// The tail is cut only after all before it has been replayed well, so a store that is refused is left as it is.
fn scan_and_replay(
    mut scanner: Scanner<'_>,
    paths: &[(u64, PathBuf)],
    replayer: &mut Replayer,
) -> Result<Scan, OpenError> {
    let (sender, receiver) = mpsc::sync_channel(READ_AHEAD);
    let (mut scan, torn) = std::thread::scope(|scope| {
        let scanning = scope.spawn(move || scanner.segments(paths, &sender));
        let mut path = PathBuf::new();
        let mut replayed = Ok(());
        for scanned in receiver {
            let (at, done) = match scanned {
                Scanned::Segment(next, header) => {
                    path = next;
                    (0, replayer.header(header))
                }
                Scanned::Frame(at, entries) => {
                    (at, entries.into_iter().try_for_each(|entry| replayer.entry(entry)))
                }
            };
            replayed = done.map_err(|problem| corrupt(&path, at, problem));
            if replayed.is_err() {
                // Dropping the receiver ends the scanner too.
                break;
            }
        }
        let scanned = scanning.join().expect("reading a log does not panic");
        replayed.and(scanned)
    })?;
    if let Some((file, path, end)) = &mut scan.tail {
        if torn > 0 {
            tracing::warn!(
                path = %path.display(),
                offset = *end,
                bytes = torn,
                "cutting off a write that a crash left unfinished; it was never acknowledged"
            );
            file.truncate(*end).map_err(|source| io("truncate", path, source))?;
        }
        // What was read may be in memory only, if the last process died between write and sync. Clients are about to see
        // it, so it must be durable first.
        file.sync().map_err(|source| io("sync", path, source))?;
    }
    Ok(scan)
}

/// Reads segments: whether they are whole, and what is in them.
struct Scanner<'a> {
    disk: &'a dyn Disk,
    store_id: u64,
    next_frame: u64,
}

impl Scanner<'_> {
    /// Scans all segments. Also returns how many bytes of an unfinished write stand behind the last one's end. Ends early
    /// if nobody listens any more.
    fn segments(
        &mut self,
        paths: &[(u64, PathBuf)],
        out: &SyncSender<Scanned>,
    ) -> Result<(Scan, u64), OpenError> {
        let mut scan = Scan::default();
        let mut bytes = Vec::new();
        let mut torn = 0;
        for (index, (first_frame, path)) in paths.iter().enumerate() {
            let fence = paths.get(index + 1).map(|(first_frame, _)| *first_frame);
            bytes.clear();
            self.disk
                .open(path)
                .and_then(|mut reader| reader.read_to_end(&mut bytes))
                .map_err(|source| io("read", path, source))?;
            let header = self.header(path, &bytes, *first_frame)?;
            let base_revision = header.base_revision;
            if out.send(Scanned::Segment(path.clone(), header)).is_err() {
                break;
            }
            let end = self.frames(path, &bytes, fence, out)? as u64;
            let segment =
                Segment { path: path.clone(), first_frame: *first_frame, base_revision, bytes: end };
            scan.segments.push(segment);
            if fence.is_none() {
                let file = self.disk.append(path).map_err(|source| io("open", path, source))?;
                torn = bytes.len() as u64 - end;
                scan.tail = Some((file, path.clone(), end));
            }
        }
        scan.next_frame = self.next_frame;
        Ok((scan, torn))
    }

    fn header(&self, path: &Path, bytes: &[u8], first_frame: u64) -> Result<Header, OpenError> {
        let header = Header::decode(bytes).map_err(|problem| corrupt(path, 0, problem))?;
        if header.first_frame != first_frame {
            return Err(corrupt(path, 0, "its header does not agree with its name"));
        }
        if header.store_id != self.store_id {
            return Err(corrupt(path, 0, "it belongs to another store"));
        }
        Ok(header)
    }

    /// Scans the frames of a segment: all of the last one, those before the fence of another. Returns where they end.
    fn frames(
        &mut self,
        path: &Path,
        bytes: &[u8],
        fence: Option<u64>,
        out: &SyncSender<Scanned>,
    ) -> Result<usize, OpenError> {
        let mut at = HEADER_BYTES;
        loop {
            if fence == Some(self.next_frame) {
                return Ok(at);
            }
            match frame::next(bytes, at, self.store_id, self.next_frame) {
                Next::Frame { payload, end } => {
                    let entries = frame::decode(payload)
                        .ok_or_else(|| corrupt(path, at, "the record does not hold what it should"))?;
                    if out.send(Scanned::Frame(at, entries)).is_err() {
                        // The replayer has found something wrong, and reports that.
                        return Ok(at);
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
}

/// Does again what the log says happened.
struct Replayer {
    feed: Feed,
    snapshot_revision: Revision,
    /// The newest revision in the log so far; below the snapshot's while old segments are passed.
    log_revision: Option<Revision>,
    leases: BTreeMap<LeaseId, Duration>,
}

impl Replayer {
    fn header(&mut self, header: Header) -> Result<(), &'static str> {
        match self.log_revision {
            None if header.base_revision > self.snapshot_revision => {
                Err("it starts behind the snapshot's revision")
            }
            Some(revision) if revision != header.base_revision => {
                Err("its revision does not follow the segment before")
            }
            _ => {
                self.log_revision = Some(header.base_revision);
                Ok(())
            }
        }
    }

    fn entry(&mut self, entry: Replay) -> Result<(), &'static str> {
        match entry {
            Replay::Grant { lease, ttl } => drop(self.leases.insert(lease, ttl)),
            Replay::Compact { revision } => self.feed.compact(revision),
            Replay::Transaction { revision, changes, revoke } => {
                if !changes.is_empty() {
                    let before = self.log_revision.replace(revision);
                    if before.is_some_and(|before| revision != before + 1) {
                        return Err("a revision is out of order");
                    }
                    if revision > self.snapshot_revision {
                        self.feed.state.replay(revision, changes)?;
                    }
                }
                if let Some(lease) = revoke {
                    self.leases.remove(&lease);
                }
            }
        }
        Ok(())
    }
}

fn corrupt(path: &Path, offset: usize, problem: impl Into<String>) -> OpenError {
    OpenError::Corrupt { file: path.to_path_buf(), offset: offset as u64, problem: problem.into() }
}

#[cfg(test)]
mod tests;
