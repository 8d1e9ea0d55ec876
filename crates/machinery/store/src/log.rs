//! The append-only log: segments of checksummed frames, one frame for all that shares an fsync.
//!
//! # Files
//!
//! A store directory holds one snapshot (`<revision>-<first frame>.snapshot`, see `snapshot`), the segments behind it
//! (`<number of their first frame>.log`), and `lock`. Numbers are 16 hexadecimal digits, so names sort as numbers do.
//! Names ending in `.tmp` are unfinished and removed when the store is opened.
//!
//! # When the disk fails
//!
//! After a failed fsync nobody knows which of the bytes since the last good one are on the disk, and asking again gives
//! no better answer. So a segment whose fsync failed is never written again. The next batch starts a fresh segment,
//! which is synced, named, and read back first; its header says with which frame it starts, and thereby *fences* the
//! old one: recovery reads the old segment only up to that frame, whatever stands behind. Until that fence is durable no
//! further write is acknowledged. A failed *write* (a full disk) is cut off again; only if that fails too is the segment
//! given up in the same way.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Disk, DiskFile};
use crate::error::StorageFault;
use crate::record::Revision;

pub(crate) mod frame;
pub(crate) mod recover;
pub(crate) mod segment;

use frame::Entry;
use segment::Header;

/// What is told apart in a store directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileName {
    Segment { first_frame: u64 },
    Snapshot { revision: Revision, first_frame: u64 },
    Unfinished,
    Other,
}

impl FileName {
    pub(crate) fn parse(name: &str) -> FileName {
        let number = |digits: &str| {
            (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten().filter(|number| {
                // Signs and capitals parse too, but are not how the store writes.
                format!("{number:016x}") == digits
            })
        };
        if name.ends_with(".tmp") {
            return FileName::Unfinished;
        }
        if let Some(digits) = name.strip_suffix(".log")
            && let Some(first_frame) = number(digits)
        {
            return FileName::Segment { first_frame };
        }
        if let Some(stem) = name.strip_suffix(".snapshot")
            && let Some((revision, first_frame)) = stem.split_once('-')
            && let (Some(revision), Some(first_frame)) = (number(revision), number(first_frame))
        {
            return FileName::Snapshot { revision, first_frame };
        }
        FileName::Other
    }

    pub(crate) fn segment(first_frame: u64) -> String {
        format!("{first_frame:016x}.log")
    }

    pub(crate) fn snapshot(revision: Revision, first_frame: u64) -> String {
        format!("{revision:016x}-{first_frame:016x}.snapshot")
    }
}

/// A segment that is on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    /// The number of its first frame.
    pub(crate) first_frame: u64,
    /// The newest revision before its first frame.
    pub(crate) base_revision: Revision,
    pub(crate) bytes: u64,
}

/// The segments, oldest first; the last is being written. Shared by the log, which adds, and checkpoints, which remove.
#[derive(Debug, Default)]
pub(crate) struct Segments(Mutex<Vec<Segment>>);

impl Segments {
    pub(crate) fn new(segments: Vec<Segment>) -> Segments {
        Segments(Mutex::new(segments))
    }

    /// The first frame that a snapshot at this revision still needs behind it, and how many bytes stand before it.
    pub(crate) fn needed_from(&self, revision: Revision) -> (u64, u64) {
        let segments = self.0.lock();
        let mut bytes = 0;
        for pair in segments.windows(2) {
            // Everything in a segment is at or below the revision that the next one starts from.
            if pair[1].base_revision > revision {
                return (pair[0].first_frame, bytes);
            }
            bytes += pair[0].bytes;
        }
        (segments.last().map_or(1, |segment| segment.first_frame), bytes)
    }

    /// Takes out the segments whose frames are all before this one.
    pub(crate) fn take_before(&self, first_frame: u64) -> Vec<Segment> {
        let mut segments = self.0.lock();
        let gone = segments.iter().take_while(|segment| segment.first_frame < first_frame).count();
        segments.drain(..gone).collect()
    }

    fn push(&self, segment: Segment) {
        self.0.lock().push(segment);
    }

    fn set_last_bytes(&self, bytes: u64) {
        if let Some(last) = self.0.lock().last_mut() {
            last.bytes = bytes;
        }
    }

    /// Bytes of all segments.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        self.0.lock().iter().map(|segment| segment.bytes).sum()
    }
}

/// The writing end of the log. One thread has it.
#[derive(Debug)]
pub(crate) struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    store_id: u64,
    /// The segment being written; `None` if it must not be written any more.
    file: Option<Box<dyn DiskFile>>,
    path: PathBuf,
    /// The bytes of the segment that are durable. Nothing else is in it while no append runs.
    len: u64,
    next_frame: u64,
    buffer: Vec<u8>,
    segments: Arc<Segments>,
}

/// A buffer that grew beyond this for one large batch is given back after it.
const KEPT_BUFFER_BYTES: usize = 1 << 20;

impl Log {
    /// Goes on where recovery ended. `tail` is the file of the last segment with its length, or `None` to start a new one
    /// with the first append.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        store_id: u64,
        next_frame: u64,
        tail: Option<(Box<dyn DiskFile>, PathBuf, u64)>,
        segments: Arc<Segments>,
    ) -> Log {
        let (file, path, len) = match tail {
            Some((file, path, len)) => (Some(file), path, len),
            None => (None, dir.clone(), 0),
        };
        Log { disk, dir, store_id, file, path, len, next_frame, buffer: Vec::new(), segments }
    }

    /// Whether the next append starts a segment.
    pub(crate) fn would_start_segment(&self, segment_bytes: u64) -> bool {
        self.file.is_none() || self.len >= segment_bytes
    }

    /// Makes the entries durable, all or none. `newest` is the newest durable revision before them. If the segment has
    /// grown beyond `segment_bytes`, a new one is started.
    pub(crate) fn append<'a>(
        &mut self,
        entries: impl Iterator<Item = &'a Entry>,
        newest: Revision,
        segment_bytes: u64,
    ) -> Result<(), StorageFault> {
        if self.file.is_none() {
            self.start_segment(newest)?;
        } else if self.len >= segment_bytes
            && let Err(fault) = self.start_segment(newest)
        {
            // The old segment takes this batch, if it still may.
            tracing::warn!(error = %fault.source, path = %fault.path.display(), "cannot start a new log segment");
            if self.file.is_none() {
                return Err(fault);
            }
        }
        self.buffer.clear();
        frame::encode(&mut self.buffer, self.store_id, self.next_frame, entries);
        let Some(file) = self.file.as_mut() else {
            return Err(fault("write", &self.path, io::Error::other("the segment is given up")));
        };
        if let Err(error) = file.write(&self.buffer) {
            // What was written in part must not stay: a later frame would stand behind it.
            if file.truncate(self.len).is_err() {
                self.file = None;
            }
            return Err(fault("write", &self.path, error));
        }
        if let Err(error) = file.sync() {
            self.file = None;
            return Err(fault("sync", &self.path, error));
        }
        self.len += self.buffer.len() as u64;
        self.next_frame += 1;
        self.segments.set_last_bytes(self.len);
        if self.buffer.capacity() > KEPT_BUFFER_BYTES {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// Starts a segment with the next frame. If it fails before the new segment has its name, the old one may still be
    /// written; after that it may be fenced, and is given up.
    fn start_segment(&mut self, newest: Revision) -> Result<(), StorageFault> {
        let name = FileName::segment(self.next_frame);
        let path = self.dir.join(&name);
        let unfinished = self.dir.join(format!("{name}.tmp"));
        let header =
            Header { store_id: self.store_id, first_frame: self.next_frame, base_revision: newest }.encode();
        let file = match self.write_header(&unfinished, &header) {
            Ok(file) => file,
            Err(fault) => {
                // If it stays, the next attempt or the next open removes it.
                drop(self.disk.remove(&unfinished));
                return Err(fault);
            }
        };
        self.file = None;
        self.disk.rename(&unfinished, &path).map_err(|error| fault("rename", &unfinished, error))?;
        self.disk.sync_dir(&self.dir).map_err(|error| fault("sync", &self.dir, error))?;
        self.file = Some(file);
        self.path.clone_from(&path);
        self.len = header.len() as u64;
        let bytes = self.len;
        self.segments.push(Segment { path, first_frame: self.next_frame, base_revision: newest, bytes });
        Ok(())
    }

    fn write_header(&self, path: &Path, header: &[u8]) -> Result<Box<dyn DiskFile>, StorageFault> {
        // Left over from an attempt that failed; mostly there is none.
        drop(self.disk.remove(path));
        let mut file = self.disk.create(path).map_err(|error| fault("create", path, error))?;
        file.write(header).map_err(|error| fault("write", path, error))?;
        file.sync().map_err(|error| fault("sync", path, error))?;
        let mut back = Vec::new();
        self.disk
            .open(path)
            .and_then(|mut reader| reader.read_to_end(&mut back))
            .map_err(|error| fault("read back", path, error))?;
        if back != header {
            return Err(fault(
                "read back",
                path,
                io::Error::other("it reads differently from what was written"),
            ));
        }
        Ok(file)
    }
}

fn fault(step: &'static str, path: &Path, source: io::Error) -> StorageFault {
    StorageFault { step, path: path.to_path_buf(), source: Arc::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_written() {
        for name in [
            FileName::Segment { first_frame: 1 },
            FileName::Segment { first_frame: u64::MAX },
            FileName::Snapshot { revision: 77, first_frame: 12 },
        ] {
            let text = match name {
                FileName::Segment { first_frame } => FileName::segment(first_frame),
                FileName::Snapshot { revision, first_frame } => FileName::snapshot(revision, first_frame),
                FileName::Unfinished | FileName::Other => unreachable!("not in the table"),
            };
            assert_eq!(FileName::parse(&text), name);
        }
        for other in ["lock", "1.log", "+000000000000001.log", "00000000000000AB.log", "a.snapshot", ""] {
            assert_eq!(FileName::parse(other), FileName::Other, "{other}");
        }
        assert_eq!(FileName::parse("0000000000000001.log.tmp"), FileName::Unfinished);
    }

    #[test]
    fn segments_are_needed_while_they_hold_newer_revisions() {
        let segment = |first_frame, base_revision| Segment {
            path: PathBuf::new(),
            first_frame,
            base_revision,
            bytes: 10,
        };
        let segments = Segments::new(vec![segment(1, 1), segment(5, 10), segment(9, 20)]);
        for (revision, needed) in
            [(1, (1, 0)), (9, (1, 0)), (10, (5, 10)), (19, (5, 10)), (20, (9, 20)), (99, (9, 20))]
        {
            assert_eq!(segments.needed_from(revision), needed, "at {revision}");
        }
        assert_eq!(segments.take_before(9).len(), 2);
        assert_eq!(segments.bytes(), 10);
    }
}
