//! Frames: how entries stand in a segment. Pure.
//!
//! A frame is a header (magic, payload length, number, checksum of the payload, checksum of the header) and a payload of
//! entries. Integers are little-endian. Checksums are CRC32C, salted with the store's id: bytes that somebody stored as a
//! value, or that were left by another store, cannot pass for a frame of this one.
//!
//! One frame is one write and one fsync, and the next is not begun before that fsync has succeeded. So of all frames in
//! a log only the last can be unfinished, and an intact frame behind a damaged one proves that the damaged one was
//! durable once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::key::Key;
use crate::record::{Event, EventKind, LeaseId, Record, Revision};

/// Bytes of a frame's header.
pub(crate) const HEADER_BYTES: usize = 24;
const MAGIC: u32 = 0x4d52_4650;
/// What disks write as a whole, at the least.
const SECTOR_BYTES: usize = 512;
/// `revision_at` of a record that has none.
const NOWHERE: u32 = u32::MAX;

const TRANSACTION: u8 = 1;
const GRANT: u8 = 2;
const COMPACT: u8 = 3;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// What is written to the log.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    /// Changes at one revision. If it ends a lease, there may be no changes, and `revision` is then the newest before.
    Transaction { revision: Revision, events: Vec<Arc<Event>>, revoke: Option<LeaseId> },
    /// A new lease.
    Grant { lease: LeaseId, ttl: Duration },
    /// The time before this revision is forgotten.
    Compact { revision: Revision },
}

impl Entry {
    /// About how long the entry is when written.
    pub(crate) fn size(&self) -> usize {
        match self {
            Entry::Transaction { events, .. } => events.iter().map(|event| event.record.size() + 64).sum(),
            Entry::Grant { .. } | Entry::Compact { .. } => 32,
        }
    }
}

/// What is read from the log.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Replay {
    Transaction { revision: Revision, changes: Vec<ReplayChange>, revoke: Option<LeaseId> },
    Grant { lease: LeaseId, ttl: Duration },
    Compact { revision: Revision },
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReplayChange {
    Put(Arc<Record>),
    Delete(Key),
}

/// The checksum of `bytes` in the store with this id.
pub(crate) fn checksum(store_id: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append((store_id ^ (store_id >> 32)) as u32, bytes)
}

/// Appends a frame to the buffer.
pub(crate) fn encode<'a>(
    buffer: &mut Vec<u8>,
    store_id: u64,
    number: u64,
    entries: impl Iterator<Item = &'a Entry>,
) {
    let start = buffer.len();
    buffer.resize(start + HEADER_BYTES, 0);
    for entry in entries {
        encode_entry(buffer, entry);
    }
    let payload = &buffer[start + HEADER_BYTES..];
    // Transactions are limited to 1 GiB and batches end soon after their limit, so this always fits.
    let len = u32::try_from(payload.len()).expect("a frame is below 4 GiB");
    let payload_checksum = checksum(store_id, payload);
    let header = &mut buffer[start..start + HEADER_BYTES];
    header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    header[4..8].copy_from_slice(&len.to_le_bytes());
    header[8..16].copy_from_slice(&number.to_le_bytes());
    header[16..20].copy_from_slice(&payload_checksum.to_le_bytes());
    let header_checksum = checksum(store_id, &header[..20]);
    header[20..24].copy_from_slice(&header_checksum.to_le_bytes());
}

fn encode_entry(buffer: &mut Vec<u8>, entry: &Entry) {
    match entry {
        Entry::Transaction { revision, events, revoke } => {
            buffer.push(TRANSACTION);
            put_u64(buffer, *revision);
            put_u64(buffer, revoke.map_or(0, LeaseId::get));
            put_len(buffer, events.len());
            for event in events {
                match event.kind {
                    EventKind::Put => {
                        buffer.push(PUT);
                        encode_record(buffer, &event.record);
                    }
                    EventKind::Delete => {
                        buffer.push(DELETE);
                        put_bytes(buffer, &event.record.key);
                    }
                }
            }
        }
        Entry::Grant { lease, ttl } => {
            buffer.push(GRANT);
            put_u64(buffer, lease.get());
            put_u64(buffer, millis(*ttl));
        }
        Entry::Compact { revision } => {
            buffer.push(COMPACT);
            put_u64(buffer, *revision);
        }
    }
}

/// A time in milliseconds; at least one, so that a lease never comes back as one without time.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

pub(crate) fn encode_record(buffer: &mut Vec<u8>, record: &Record) {
    put_u64(buffer, record.mod_revision);
    put_u64(buffer, record.create_revision);
    put_u64(buffer, record.version);
    put_u64(buffer, record.lease.map_or(0, LeaseId::get));
    buffer.extend_from_slice(&record.revision_at.unwrap_or(NOWHERE).to_le_bytes());
    put_bytes(buffer, &record.key);
    put_bytes(buffer, &record.value);
}

pub(crate) fn put_u64(buffer: &mut Vec<u8>, number: u64) {
    buffer.extend_from_slice(&number.to_le_bytes());
}

fn put_len(buffer: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("a transaction is below 4 GiB");
    buffer.extend_from_slice(&len.to_le_bytes());
}

fn put_bytes(buffer: &mut Vec<u8>, bytes: &[u8]) {
    put_len(buffer, bytes.len());
    buffer.extend_from_slice(bytes);
}

/// Takes numbers and bytes off the front of a buffer. `None` if it is too short, or not what the store writes.
#[derive(Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take(4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take(8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(len as usize)
    }

    pub(crate) fn record(&mut self) -> Option<Record> {
        let mod_revision = self.u64()?;
        let create_revision = self.u64()?;
        let version = self.u64()?;
        let lease = LeaseId::new(self.u64()?);
        let revision_at = Some(self.u32()?).filter(|at| *at != NOWHERE);
        let key = Key::new(self.bytes()?);
        let value = Bytes::copy_from_slice(self.bytes()?);
        Some(Record::new(key, value, create_revision, mod_revision, version, lease, revision_at))
    }

    fn entry(&mut self) -> Option<Replay> {
        Some(match self.u8()? {
            TRANSACTION => {
                let revision = self.u64()?;
                let revoke = LeaseId::new(self.u64()?);
                let count = self.u32()?;
                let mut changes = Vec::with_capacity((count as usize).min(1024));
                for _ in 0..count {
                    changes.push(match self.u8()? {
                        PUT => ReplayChange::Put(Arc::new(self.record()?)),
                        DELETE => ReplayChange::Delete(Key::new(self.bytes()?)),
                        _ => return None,
                    });
                }
                Replay::Transaction { revision, changes, revoke }
            }
            GRANT => {
                Replay::Grant { lease: LeaseId::new(self.u64()?)?, ttl: Duration::from_millis(self.u64()?) }
            }
            COMPACT => Replay::Compact { revision: self.u64()? },
            _ => return None,
        })
    }
}

/// The entries of a payload; `None` if it is not what the store writes.
pub(crate) fn decode(payload: &[u8]) -> Option<Vec<Replay>> {
    let mut reader = Reader(payload);
    let mut entries = Vec::new();
    while !reader.0.is_empty() {
        entries.push(reader.entry()?);
    }
    Some(entries)
}

/// What stands at a place in a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    /// The frame with the expected number, and where it ends.
    Frame { payload: &'a [u8], end: usize },
    /// The end of the segment.
    End,
    /// No such frame.
    Bad(&'static str),
}

struct FrameHeader {
    len: usize,
    number: u64,
    payload_checksum: u32,
}

fn header_at(bytes: &[u8], at: usize, store_id: u64) -> Option<FrameHeader> {
    let header = bytes.get(at..)?.get(..HEADER_BYTES)?;
    let mut reader = Reader(header);
    if reader.u32()? != MAGIC {
        return None;
    }
    let len = reader.u32()? as usize;
    let number = reader.u64()?;
    let payload_checksum = reader.u32()?;
    (reader.u32()? == checksum(store_id, &header[..20])).then_some(FrameHeader {
        len,
        number,
        payload_checksum,
    })
}

/// Reads the frame at a place, which should have this number.
pub(crate) fn next(bytes: &[u8], at: usize, store_id: u64, number: u64) -> Next<'_> {
    if at == bytes.len() {
        return Next::End;
    }
    let Some(header) = header_at(bytes, at, store_id) else { return Next::Bad("no intact record header") };
    if header.number != number {
        return Next::Bad("a record is out of order");
    }
    let start = at + HEADER_BYTES;
    let Some(payload) = bytes[start..].get(..header.len) else { return Next::Bad("the record is cut short") };
    if checksum(store_id, payload) != header.payload_checksum {
        return Next::Bad("the record's checksum does not match");
    }
    Next::Frame { payload, end: start + header.len }
}

/// Whether what stands at `at`, where frame `number` should be, can be the unfinished last write of a store that
/// crashed; then it was never acknowledged. Otherwise it is damage to something that was durable.
///
/// Unfinished is what is followed by no later frame, and is cut short or has sectors that were never written (they read
/// as zeros). The last frame complete but with a wrong checksum is damage: a crash does not change bytes.
pub(crate) fn is_torn(bytes: &[u8], at: usize, store_id: u64, number: u64) -> bool {
    let is_frame = |place: usize| {
        header_at(bytes, place, store_id)
            .is_some_and(|header| matches!(next(bytes, place, store_id, header.number), Next::Frame { .. }))
    };
    let magic = MAGIC.to_le_bytes();
    let later = bytes[at..]
        .windows(magic.len())
        .enumerate()
        .skip(1)
        .any(|(distance, window)| window == magic && is_frame(at + distance));
    if later {
        return false;
    }
    let end = match header_at(bytes, at, store_id) {
        None if bytes.len() - at < HEADER_BYTES => return true,
        None => bytes.len(),
        Some(header) if header.number != number => return false,
        Some(header) => match (at + HEADER_BYTES).checked_add(header.len) {
            Some(end) if end <= bytes.len() => end,
            _ => return true,
        },
    };
    let mut piece = at;
    while piece < end {
        let next_piece = ((piece / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
        if bytes[piece..next_piece].iter().all(|byte| *byte == 0) {
            return true;
        }
        piece = next_piece;
    }
    false
}

#[cfg(test)]
mod tests;
