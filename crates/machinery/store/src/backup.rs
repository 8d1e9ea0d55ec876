//! Backups: snapshots taken for keeping, and stores made from them. Whatever the engine.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::disk::{Disk, parent_of};
use crate::error::{SnapshotError, StorageFault};
use crate::key::KeyRange;
use crate::local::random_number;
use crate::log::FileName;
use crate::record::{LeaseId, Revision};
use crate::snapshot::{self, Header, Writer};
use crate::state::{Pin, State};

impl From<StorageFault> for SnapshotError {
    fn from(fault: StorageFault) -> SnapshotError {
        let source = io::Error::new(fault.source.kind(), fault.source);
        SnapshotError::Io { step: fault.step, path: fault.path, source }
    }
}

/// The time of a lease that has ended since the revision was pinned: it ends again, with its keys, once a store is made
/// of the snapshot. Without a lease they would stay for ever.
const ENDED: Duration = Duration::from_millis(1);

/// Writes what is pinned to a new file, with the leases that there are now. Returns its revision.
pub(crate) fn write(
    disk: &dyn Disk,
    pin: &Pin,
    leases: Vec<(LeaseId, Duration)>,
    to: &Path,
) -> Result<Revision, SnapshotError> {
    // It is not under a log, so its id need only differ from others, and its log starts with the first frame.
    let header = Header { store_id: random_number(), revision: pin.revision, first_frame: 1 };
    put_in_place(disk, to, &header, |mut writer| {
        let mut leases: BTreeMap<LeaseId, Duration> = leases.into_iter().collect();
        State::read_pinned(pin, KeyRange::all(), 0, |records| {
            for record in &records {
                writer.record(record)?;
                if let Some(lease) = record.lease {
                    leases.entry(lease).or_insert(ENDED);
                }
            }
            Ok(())
        })?;
        writer.finish(&leases.into_iter().collect::<Vec<_>>())
    })?;
    Ok(pin.revision)
}

/// Makes a store directory from a snapshot.
pub(crate) fn restore(disk: &dyn Disk, from: &Path, to_dir: &Path) -> Result<Revision, SnapshotError> {
    let io = |step, path: &Path, source| SnapshotError::Io { step, path: path.to_path_buf(), source };
    let mut source = disk.open(from).map_err(|source| io("open", from, source))?;
    let loaded = snapshot::load(&mut *source).map_err(|error| error.into_snapshot_error(from))?;
    disk.create_dir(to_dir).map_err(|source| io("create", to_dir, source))?;
    let names = disk.list(to_dir).map_err(|source| io("list", to_dir, source))?;
    if let Some(name) = names
        .iter()
        .find(|name| matches!(FileName::parse(name), FileName::Segment { .. } | FileName::Snapshot { .. }))
    {
        return Err(SnapshotError::Exists { path: to_dir.join(name) });
    }
    // A new id: the log that grows here must never be taken for that of the store the snapshot came from.
    let header = Header { store_id: random_number(), first_frame: 1, ..loaded.header };
    let path = to_dir.join(FileName::snapshot(header.revision, 1));
    put_in_place(disk, &path, &header, |mut writer| {
        loaded.records.iter().try_for_each(|record| writer.record(record))?;
        writer.finish(&loaded.leases)
    })?;
    Ok(header.revision)
}

/// Writes a snapshot under another name first, so that nobody ever sees half of one under its own.
fn put_in_place(
    disk: &dyn Disk,
    path: &Path,
    header: &Header,
    write: impl FnOnce(Writer) -> Result<u64, StorageFault>,
) -> Result<(), SnapshotError> {
    let fault =
        |step, path: &Path, error| StorageFault { step, path: path.to_path_buf(), source: Arc::new(error) };
    let dir = parent_of(path);
    let Some(name) = path.file_name() else {
        let error = io::Error::from(io::ErrorKind::InvalidFilename);
        return Err(fault("write", path, error).into());
    };
    if disk.open(path).is_ok() {
        return Err(SnapshotError::Exists { path: path.to_path_buf() });
    }
    let unfinished = dir.join(format!("{}.tmp", name.to_string_lossy()));
    // Left over from an attempt that was killed; mostly there is none.
    drop(disk.remove(&unfinished));
    let written = Writer::create(disk, &unfinished, header)
        .and_then(write)
        .and_then(|_| disk.rename(&unfinished, path).map_err(|error| fault("rename", &unfinished, error)));
    if let Err(error) = written {
        drop(disk.remove(&unfinished));
        return Err(error.into());
    }
    disk.sync_dir(dir).map_err(|error| fault("sync", dir, error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::disk::simulated::SimulatedDisk;
    use crate::engine::{Feed, Published};
    use crate::key::Key;
    use crate::record::Record;

    #[test]
    fn keys_of_a_lease_that_ended_meanwhile_still_have_one() {
        let feed = Feed::new(Vec::new(), 1);
        let (kept, ended) = (LeaseId::new(7).expect("not zero"), LeaseId::new(8).expect("not zero"));
        for (revision, lease) in [(2, kept), (3, ended)] {
            let key = Key::from(revision.to_string().as_str());
            let record = Record::new(key, Bytes::new(), revision, revision, 1, Some(lease), None);
            let events = vec![Arc::new(feed.put_event(Arc::new(record)))];
            feed.publish(vec![Published { revision, events }]);
        }
        let pin = feed.state.pin(3).expect("kept");
        let disk = SimulatedDisk::new();
        let path = Path::new("/backup/file");
        disk.create_dir(parent_of(path)).expect("created");
        let hour = Duration::from_secs(3600);
        assert_eq!(write(&disk, &pin, vec![(kept, hour)], path).expect("written"), 3);
        let loaded = snapshot::load(&mut &disk.contents(path)[..]).expect("loaded");
        assert_eq!(loaded.leases, [(kept, hour), (ended, ENDED)]);
    }
}
