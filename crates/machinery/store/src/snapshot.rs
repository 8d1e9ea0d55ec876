//! The snapshot file: every record as of one revision, and the leases. The same format serves as checkpoint under the log
//! and as backup, whatever the engine.
//!
//! A header, then blocks of about a megabyte, each with its length and checksum, the last of which says that it is the
//! last and how many records there were. Integers are little-endian, checksums are salted with the file's id, as in
//! `log::frame`.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use crate::disk::{Disk, DiskFile};
use crate::error::{OpenError, SnapshotError, StorageFault};
use crate::log::frame::{self, Reader};
use crate::record::{LeaseId, Record, Revision};

const MAGIC: &[u8; 8] = b"PODSNAP1";
const HEADER_BYTES: usize = 36;
const BLOCK_HEADER_BYTES: usize = 9;
/// Large enough to be written well, small enough to stay in the processor's cache while it is decoded.
const BLOCK_BYTES: usize = 1 << 20;
/// How much is written before it is synced, so that the log's own syncs never find much of ours to wait for.
const SYNC_BYTES: usize = 4 << 20;

const RECORDS: u8 = 1;
const LEASES: u8 = 2;
const END: u8 = 3;

/// What a snapshot says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The store whose log goes on behind it.
    pub(crate) store_id: u64,
    /// The revision it holds.
    pub(crate) revision: Revision,
    /// The first frame of the log that must be replayed on it.
    pub(crate) first_frame: u64,
}

/// A snapshot being written.
#[derive(Debug)]
pub(crate) struct Writer {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    store_id: u64,
    block: Vec<u8>,
    records: u64,
    unsynced: usize,
    written: u64,
}

impl Writer {
    /// Begins a snapshot in a new file.
    pub(crate) fn create(disk: &dyn Disk, path: &Path, header: &Header) -> Result<Writer, StorageFault> {
        let mut bytes = MAGIC.to_vec();
        for number in [header.store_id, header.revision, header.first_frame] {
            frame::put_u64(&mut bytes, number);
        }
        let checksum = frame::checksum(0, &bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        let fault =
            |step, error: io::Error| StorageFault { step, path: path.to_path_buf(), source: Arc::new(error) };
        let mut file = disk.create(path).map_err(|error| fault("create", error))?;
        file.write(&bytes).map_err(|error| fault("write", error))?;
        Ok(Writer {
            file,
            path: path.to_path_buf(),
            store_id: header.store_id,
            block: vec![0; BLOCK_HEADER_BYTES],
            records: 0,
            unsynced: 0,
            written: bytes.len() as u64,
        })
    }

    /// Adds a record; they must come in key order.
    pub(crate) fn record(&mut self, record: &Record) -> Result<(), StorageFault> {
        frame::encode_record(&mut self.block, record);
        self.records += 1;
        if self.block.len() >= BLOCK_BYTES { self.flush(RECORDS) } else { Ok(()) }
    }

    /// Ends the snapshot and makes it durable. Returns its length.
    pub(crate) fn finish(mut self, leases: &[(LeaseId, Duration)]) -> Result<u64, StorageFault> {
        self.flush(RECORDS)?;
        for (lease, ttl) in leases {
            frame::put_u64(&mut self.block, lease.get());
            frame::put_u64(&mut self.block, frame::millis(*ttl));
        }
        self.flush(LEASES)?;
        frame::put_u64(&mut self.block, self.records);
        frame::put_u64(&mut self.block, leases.len() as u64);
        self.flush(END)?;
        self.sync()?;
        Ok(self.written)
    }

    fn flush(&mut self, kind: u8) -> Result<(), StorageFault> {
        let (header, payload) = self.block.split_at_mut(BLOCK_HEADER_BYTES);
        // A block ends with the first record that fills it, and a record is below 1 GiB.
        let len = u32::try_from(payload.len()).expect("a block is below 4 GiB");
        header[0] = kind;
        header[1..5].copy_from_slice(&len.to_le_bytes());
        let checksum = crc32c::crc32c_append(frame::checksum(self.store_id, &header[..5]), payload);
        header[5..9].copy_from_slice(&checksum.to_le_bytes());
        self.file.write(&self.block).map_err(|error| self.fault("write", error))?;
        self.unsynced += self.block.len();
        self.written += self.block.len() as u64;
        self.block.truncate(BLOCK_HEADER_BYTES);
        if self.unsynced >= SYNC_BYTES { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<(), StorageFault> {
        self.unsynced = 0;
        self.file.sync().map_err(|error| self.fault("sync", error))
    }

    fn fault(&self, step: &'static str, error: io::Error) -> StorageFault {
        StorageFault { step, path: self.path.clone(), source: Arc::new(error) }
    }
}

/// A snapshot that has been read.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) header: Header,
    /// In key order.
    pub(crate) records: Vec<Arc<Record>>,
    pub(crate) leases: Vec<(LeaseId, Duration)>,
}

/// Why a snapshot could not be read.
#[derive(Debug)]
pub(crate) enum LoadError {
    Io(io::Error),
    Corrupt { offset: u64, problem: &'static str },
}

impl LoadError {
    pub(crate) fn into_open_error(self, path: &Path) -> OpenError {
        let file = path.to_path_buf();
        match self {
            LoadError::Io(source) => OpenError::Io { step: "read", path: file, source },
            LoadError::Corrupt { offset, problem } => {
                OpenError::Corrupt { file, offset, problem: problem.into() }
            }
        }
    }

    pub(crate) fn into_snapshot_error(self, path: &Path) -> SnapshotError {
        let file = path.to_path_buf();
        match self {
            LoadError::Io(source) => SnapshotError::Io { step: "read", path: file, source },
            LoadError::Corrupt { offset, problem } => {
                SnapshotError::Corrupt { file, offset, problem: problem.into() }
            }
        }
    }
}

/// Reads a whole snapshot.
pub(crate) fn load(source: &mut (dyn Read + Send)) -> Result<Loaded, LoadError> {
    let mut offset = 0;
    let corrupt = |offset, problem| LoadError::Corrupt { offset, problem };
    let mut header = [0; HEADER_BYTES];
    fill(source, &mut header, &mut offset)?;
    if !header.starts_with(MAGIC) {
        return Err(corrupt(0, "it is not a snapshot of this version"));
    }
    let mut reader = Reader(&header[MAGIC.len()..]);
    let mut number = || reader.u64().unwrap_or(0);
    let decoded = Header { store_id: number(), revision: number(), first_frame: number() };
    if reader.u32() != Some(frame::checksum(0, &header[..HEADER_BYTES - 4])) {
        return Err(corrupt(0, "the snapshot header's checksum does not match"));
    }
    let (sender, receiver) = mpsc::sync_channel(READ_AHEAD);
    std::thread::scope(|scope| {
        // Reading and checking on one thread, decoding on this one: about half the time on two cores.
        let reading = scope.spawn(move || read_blocks(source, decoded.store_id, offset, &sender));
        let decoded = decode_blocks(decoded, &receiver);
        drop(receiver);
        // What is wrong with the file comes before what its content lacks because of that.
        reading.join().expect("reading a snapshot does not panic")?;
        decoded
    })
}

/// How many blocks may be read ahead of what is decoded.
const READ_AHEAD: usize = 8;

/// A block that is as it was written.
struct Block {
    kind: u8,
    payload: Vec<u8>,
    start: u64,
}

/// Reads blocks up to the last. Ends early if nobody listens any more.
fn read_blocks(
    source: &mut (dyn Read + Send),
    store_id: u64,
    mut offset: u64,
    out: &SyncSender<Block>,
) -> Result<(), LoadError> {
    loop {
        let start = offset;
        let mut header = [0; BLOCK_HEADER_BYTES];
        fill(source, &mut header, &mut offset)?;
        let mut reader = Reader(&header[1..]);
        let (len, checksum) = (reader.u32().unwrap_or(0) as usize, reader.u32().unwrap_or(0));
        // A damaged length must not make us ask for gigabytes: beyond what is usual, the file itself is the limit.
        let mut payload = Vec::with_capacity(len.min(2 * BLOCK_BYTES));
        let read = (&mut *source).take(len as u64).read_to_end(&mut payload).map_err(LoadError::Io)?;
        offset += read as u64;
        if read != len {
            return Err(LoadError::Corrupt { offset: start, problem: "the block is cut short" });
        }
        if crc32c::crc32c_append(frame::checksum(store_id, &header[..5]), &payload) != checksum {
            return Err(LoadError::Corrupt { offset: start, problem: "the block's checksum does not match" });
        }
        let kind = header[0];
        if out.send(Block { kind, payload, start }).is_err() || kind == END {
            return Ok(());
        }
    }
}

fn decode_blocks(header: Header, blocks: &Receiver<Block>) -> Result<Loaded, LoadError> {
    let mut loaded = Loaded { header, records: Vec::new(), leases: Vec::new() };
    for Block { kind, payload, start } in blocks {
        let mut reader = Reader(&payload);
        let refused =
            || LoadError::Corrupt { offset: start, problem: "the block does not hold what it should" };
        match kind {
            RECORDS => {
                while !reader.0.is_empty() {
                    loaded.records.push(Arc::new(reader.record().ok_or_else(refused)?));
                }
            }
            LEASES => {
                while !reader.0.is_empty() {
                    let lease = reader.u64().and_then(LeaseId::new).ok_or_else(refused)?;
                    let ttl = Duration::from_millis(reader.u64().ok_or_else(refused)?);
                    loaded.leases.push((lease, ttl));
                }
            }
            END => {
                let counts = (reader.u64(), reader.u64());
                let found = (Some(loaded.records.len() as u64), Some(loaded.leases.len() as u64));
                let missing = LoadError::Corrupt { offset: start, problem: "blocks are missing" };
                return if counts == found { Ok(loaded) } else { Err(missing) };
            }
            _ => return Err(refused()),
        }
    }
    // The reader stopped before the last block, and says why.
    Err(LoadError::Corrupt { offset: 0, problem: "it has no end" })
}

fn fill(source: &mut dyn Read, buffer: &mut [u8], offset: &mut u64) -> Result<(), LoadError> {
    source.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => LoadError::Corrupt { offset: *offset, problem: "it ends too early" },
        _ => LoadError::Io(error),
    })?;
    *offset += buffer.len() as u64;
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::disk::simulated::SimulatedDisk;
    use crate::key::Key;

    fn written() -> (Vec<Arc<Record>>, Vec<(LeaseId, Duration)>, Vec<u8>) {
        let disk = SimulatedDisk::new();
        let path = Path::new("/s/snapshot");
        let header = Header { store_id: 3, revision: 9, first_frame: 4 };
        let lease = LeaseId::new(8);
        let records: Vec<Arc<Record>> = (0..40u64)
            .map(|n| {
                let value = Bytes::from(vec![b'v'; 20]);
                Arc::new(Record::new(Key::from(format!("k{n:03}")), value, n, n + 1, 1, lease, None))
            })
            .collect();
        let leases = vec![(lease.expect("not zero"), Duration::from_secs(1))];
        let mut writer = Writer::create(&disk, path, &header).expect("created");
        for record in &records {
            writer.record(record).expect("written");
        }
        let len = writer.finish(&leases).expect("finished");
        let bytes = disk.contents(path);
        assert_eq!(len, bytes.len() as u64);
        (records, leases, bytes)
    }

    #[test]
    fn comes_back_as_it_was() {
        let (records, leases, bytes) = written();
        let loaded = load(&mut &bytes[..]).expect("loaded");
        assert_eq!(loaded.header, Header { store_id: 3, revision: 9, first_frame: 4 });
        assert_eq!((loaded.records, loaded.leases), (records, leases));
    }

    #[test]
    fn any_damage_is_seen() {
        let (_, _, bytes) = written();
        for index in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[index] ^= 1;
            assert!(matches!(load(&mut &damaged[..]), Err(LoadError::Corrupt { .. })), "byte {index}");
            assert!(matches!(load(&mut &bytes[..index]), Err(LoadError::Corrupt { .. })), "cut at {index}");
        }
    }
}
