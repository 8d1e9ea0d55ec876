//! Recovery of stores cut, torn and damaged in every place.

use super::*;
use crate::disk::simulated::SimulatedDisk;
use crate::log::frame::Entry;
use crate::record::{Event, EventKind, Record};
use crate::{Key, KeyRange};

const DIR: &str = "/store";
const FIRST: &str = "/store/0000000000000001.log";
const ID: u64 = 77;

fn recover_from(disk: &Arc<SimulatedDisk>) -> Result<Recovered, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(Arc::clone(disk));
    recover(&disk, Path::new(DIR), ID)
}

fn put(log: &mut Log, feed: &Feed, revision: Revision, segment_bytes: u64) {
    let value = bytes::Bytes::from(format!("value {revision} {}", "v".repeat(40)));
    let record =
        Record::new(Key::from(format!("k{}", revision % 3)), value, revision, revision, 1, None, None);
    let event = Event { kind: EventKind::Put, record: Arc::new(record), previous: None, revision };
    let entry = Entry::Transaction { revision, events: vec![Arc::new(event)], revoke: None };
    log.append([entry].iter(), revision - 1, segment_bytes).expect("appended");
    assert!(feed.revision() < revision);
}

/// A store with revisions 2 to `last`, one frame each.
fn written(last: Revision, segment_bytes: u64) -> Arc<SimulatedDisk> {
    let disk = SimulatedDisk::new();
    let mut recovered = recover_from(&disk).expect("made");
    for revision in 2..=last {
        put(&mut recovered.log, &recovered.feed, revision, segment_bytes);
    }
    disk
}

fn logs(disk: &SimulatedDisk) -> Vec<PathBuf> {
    disk.paths().into_iter().filter(|path| path.extension().is_some_and(|end| end == "log")).collect()
}

/// Where each frame of a segment ends, the header first.
fn ends(bytes: &[u8], first: u64) -> Vec<usize> {
    let mut ends = vec![HEADER_BYTES];
    while let Next::Frame { end, .. } =
        frame::next(bytes, ends[ends.len() - 1], ID, first + ends.len() as u64 - 1)
    {
        ends.push(end);
    }
    ends
}

#[track_caller]
fn refused(disk: &Arc<SimulatedDisk>, path: &Path, at: u64) -> String {
    match recover_from(disk) {
        Err(OpenError::Corrupt { file, offset, problem }) => {
            assert_eq!((file.as_path(), offset), (path, at), "{problem}");
            problem
        }
        Err(error) => panic!("another error: {error}"),
        Ok(recovered) => panic!("opened at revision {}", recovered.feed.revision()),
    }
}

#[test]
fn a_tail_torn_at_each_byte_is_cut_off() {
    let disk = written(4, u64::MAX);
    let path = Path::new(FIRST);
    let bytes = disk.contents(path);
    let ends = ends(&bytes, 1);
    assert_eq!(ends.len(), 4);
    for len in HEADER_BYTES..=bytes.len() {
        disk.put(path, bytes[..len].to_vec());
        let whole = ends.iter().filter(|end| **end <= len).count() - 1;
        let mut recovered = recover_from(&disk).expect("opens");
        assert_eq!(recovered.feed.revision(), 1 + whole as u64, "cut at {len}");
        assert_eq!(disk.contents(path).len(), ends[whole], "cut at {len}");
        let next = recovered.feed.revision() + 1;
        put(&mut recovered.log, &recovered.feed, next, u64::MAX);
        let recovered = recover_from(&disk.after_power_loss(&mut fastrand::Rng::with_seed(len as u64)));
        assert_eq!(recovered.expect("opens").feed.revision(), next, "cut at {len}, then written");
    }
}

#[test]
fn damage_names_its_file_and_place() {
    let disk = written(6, u64::MAX);
    let path = Path::new(FIRST);
    let bytes = disk.contents(path);
    let ends = ends(&bytes, 1);
    for index in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[index] ^= 0x10;
        disk.put(path, damaged.clone());
        let frame = ends.iter().rev().find(|end| **end <= index).copied().unwrap_or(0);
        refused(&disk, path, frame as u64);
        assert_eq!(disk.contents(path), damaged, "nothing is changed");
    }
}

#[test]
fn any_segment_but_the_last_must_be_whole() {
    let disk = written(12, 200);
    let paths = logs(&disk);
    assert!(paths.len() > 2, "{paths:?}");
    let bytes = disk.contents(&paths[1]);
    disk.put(&paths[1], bytes[..bytes.len() - 1].to_vec());
    let start = last_start(&bytes, &paths[1]);
    assert_eq!(refused(&disk, &paths[1], start as u64), "the record is cut short");
    disk.put(&paths[1], bytes[..start].to_vec());
    let problem = refused(&disk, &paths[1], start as u64);
    assert_eq!(problem, "the segment ends before the next one starts");
}

fn last_start(bytes: &[u8], path: &Path) -> usize {
    let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
    let FileName::Segment { first_frame } = FileName::parse(name) else { panic!("not a segment") };
    let ends = ends(bytes, first_frame);
    ends[ends.len() - 2]
}

#[test]
fn what_stands_behind_a_fence_is_not_read() {
    let disk = written(12, 200);
    let paths = logs(&disk);
    for tail in [&b"garbage"[..], &disk.contents(&paths[1])[HEADER_BYTES..]] {
        let mut bytes = disk.contents(&paths[0]);
        bytes.extend_from_slice(tail);
        disk.put(&paths[0], bytes);
        assert_eq!(recover_from(&disk).expect("opens").feed.revision(), 12);
    }
}

#[test]
fn missing_files_are_named() {
    let disk = written(12, 200);
    let paths = logs(&disk);
    let snapshot = Path::new("/store/0000000000000001-0000000000000001.snapshot");
    let removed = |path: &Path| {
        let disk = disk.after_kill();
        Disk::remove(&disk, path).expect("removed");
        match recover_from(&disk) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("it opened without {}", path.display()),
        }
    };
    assert!(removed(snapshot).contains(".snapshot is missing"), "{}", removed(snapshot));
    assert!(removed(&paths[0]).starts_with(&format!("{} is missing", paths[0].display())));
    let middle = removed(&paths[1]);
    assert!(middle.contains("damaged") || middle.contains("missing"), "{middle}");
}

#[test]
fn files_of_another_store_are_refused() {
    let disk = written(3, u64::MAX);
    let header = Header { store_id: ID + 1, first_frame: 1, base_revision: 1 };
    disk.put(Path::new(FIRST), header.encode());
    assert_eq!(refused(&disk, Path::new(FIRST), 0), "it belongs to another store");
    let header = Header { store_id: ID, first_frame: 1, base_revision: 9 };
    disk.put(Path::new(FIRST), header.encode());
    assert_eq!(refused(&disk, Path::new(FIRST), 0), "it starts behind the snapshot's revision");
    let header = Header { store_id: ID, first_frame: 2, base_revision: 1 };
    disk.put(Path::new(FIRST), header.encode());
    assert_eq!(refused(&disk, Path::new(FIRST), 0), "its header does not agree with its name");
}

#[test]
fn unfinished_files_are_removed_and_strangers_left() {
    let disk = written(3, u64::MAX);
    for name in ["0000000000000009.log.tmp", "0000000000000009-0000000000000001.snapshot.tmp", "notes.txt"] {
        disk.put(&Path::new(DIR).join(name), b"half".to_vec());
    }
    let recovered = recover_from(&disk).expect("opens");
    assert_eq!(recovered.feed.revision(), 3);
    assert_eq!(recovered.feed.state.count(&KeyRange::all()), 2);
    assert!(!disk.paths().iter().any(|path| path.extension().is_some_and(|end| end == "tmp")));
    assert!(disk.contains("notes.txt"));
}
