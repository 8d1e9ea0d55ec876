//! A file system in memory that can crash at any step, fill up, and fail.
//!
//! It keeps what a program sees and what would survive the loss of power: bytes up to a file's last sync, names up to the
//! directory's last sync. What lies between may or may not survive, and [`SimulatedDisk::after_power_loss`] lets a random
//! source choose, sector by sector and name by name.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::{Disk, DiskFile};

const SECTOR: usize = 512;

/// What is to go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This step and all after it fail: the process is dead. A write that dies may leave any part of itself.
    Crash,
    /// This one step fails.
    Once,
}

#[derive(Debug, Default)]
pub(crate) struct SimulatedDisk {
    inner: Mutex<Inner>,
    /// Notified when syncs are let through.
    opened: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    /// What a program sees.
    names: BTreeMap<PathBuf, usize>,
    /// What survives.
    durable_names: BTreeMap<PathBuf, usize>,
    files: Vec<Contents>,
    /// Steps that change something, so far.
    steps: u64,
    /// What goes wrong at which step.
    fault: Option<(u64, Fault)>,
    /// Bytes that may still be written before the disk is full.
    room: Option<usize>,
    /// How many syncs of files fail from now on.
    failing_syncs: u64,
    /// Whether syncs of files wait.
    slow: bool,
    /// How many syncs wait.
    waiting: usize,
}

#[derive(Clone, Debug, Default)]
struct Contents {
    seen: Vec<u8>,
    durable: Vec<u8>,
}

impl SimulatedDisk {
    pub(crate) fn new() -> Arc<SimulatedDisk> {
        Arc::default()
    }

    /// Steps that changed something, so far.
    pub(crate) fn steps(&self) -> u64 {
        self.inner.lock().steps
    }

    /// Lets the step with this number go wrong (the first is 1).
    pub(crate) fn fail_at(&self, step: u64, fault: Fault) {
        self.inner.lock().fault = Some((step, fault));
    }

    /// Whether what was to go wrong has.
    pub(crate) fn has_failed(&self) -> bool {
        let inner = self.inner.lock();
        inner.fault.is_some_and(|(step, _)| inner.steps >= step)
    }

    /// Limits, or stops limiting, how many bytes may still be written.
    pub(crate) fn set_room(&self, room: Option<usize>) {
        self.inner.lock().room = room;
    }

    /// Lets syncs of files wait, or lets them through.
    pub(crate) fn set_slow(&self, slow: bool) {
        self.inner.lock().slow = slow;
        self.opened.notify_all();
    }

    /// Whether a sync waits.
    pub(crate) fn is_waiting(&self) -> bool {
        self.inner.lock().waiting > 0
    }

    /// Lets the next syncs of files fail.
    pub(crate) fn fail_syncs(&self, count: u64) {
        self.inner.lock().failing_syncs = count;
    }

    /// What a program reads in the file.
    pub(crate) fn contents(&self, path: &Path) -> Vec<u8> {
        let inner = self.inner.lock();
        inner.names.get(path).map(|file| inner.files[*file].seen.clone()).unwrap_or_default()
    }

    /// Replaces a file, durably.
    pub(crate) fn put(&self, path: &Path, bytes: Vec<u8>) {
        let mut inner = self.inner.lock();
        inner.files.push(Contents { seen: bytes.clone(), durable: bytes });
        let file = inner.files.len() - 1;
        inner.names.insert(path.to_path_buf(), file);
        inner.durable_names.insert(path.to_path_buf(), file);
    }

    /// Whether a file has this name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.inner.lock().names.keys().any(|path| path.ends_with(name))
    }

    /// The files, as a program sees them.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.inner.lock().names.keys().cloned().collect()
    }

    /// The disk after the process was killed: all that it wrote is seen, but no more durable than before.
    pub(crate) fn after_kill(&self) -> Arc<SimulatedDisk> {
        let inner = self.inner.lock();
        Arc::new(SimulatedDisk {
            inner: Mutex::new(Inner {
                names: inner.names.clone(),
                durable_names: inner.durable_names.clone(),
                files: inner.files.clone(),
                ..Inner::default()
            }),
            opened: Condvar::new(),
        })
    }

    /// The disk after power was lost.
    pub(crate) fn after_power_loss(&self, random: &mut fastrand::Rng) -> Arc<SimulatedDisk> {
        let inner = self.inner.lock();
        let mut names = inner.durable_names.clone();
        // Changes of names that were not synced may have happened or not, each for itself: harsher than file systems
        // that keep their order.
        if random.bool() {
            for path in inner.names.keys().chain(inner.durable_names.keys()) {
                if random.bool() {
                    continue;
                }
                match inner.names.get(path) {
                    Some(file) => names.insert(path.clone(), *file),
                    None => names.remove(path),
                };
            }
        }
        let files = inner.files.iter().map(|file| survivor(file, random)).collect();
        Arc::new(SimulatedDisk {
            inner: Mutex::new(Inner {
                names: names.clone(),
                durable_names: names,
                files,
                ..Inner::default()
            }),
            opened: Condvar::new(),
        })
    }
}

/// What is left of a file: what was synced, and of the rest any sectors, cut anywhere.
fn survivor(file: &Contents, random: &mut fastrand::Rng) -> Contents {
    let mut bytes = file.durable.clone();
    if file.seen.starts_with(&file.durable) && random.bool() {
        let len = random.usize(file.durable.len()..=file.seen.len());
        bytes = file.seen[..len].to_vec();
        let mut start = file.durable.len();
        while start < len {
            let end = ((start / SECTOR + 1) * SECTOR).min(len);
            if random.u8(0..4) == 0 {
                bytes[start..end].fill(0);
            }
            start = end;
        }
    } else if file.durable.starts_with(&file.seen) && random.bool() {
        // It was cut, and the cut survived.
        bytes = file.seen.clone();
    }
    Contents { seen: bytes.clone(), durable: bytes }
}

impl Inner {
    /// Counts a step; fails if it is to fail.
    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        match self.fault {
            Some((step, Fault::Crash)) if self.steps >= step => Err(io::Error::other("crashed")),
            Some((step, Fault::Once)) if self.steps == step => Err(io::Error::other("failed")),
            _ => Ok(()),
        }
    }

    fn file(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for Arc<SimulatedDisk> {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        Ok(Some(Box::new(())))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inner = self.inner.lock();
        let in_dir = inner.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(in_dir.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        let inner = self.inner.lock();
        let file = inner.file(path)?;
        Ok(Box::new(Cursor::new(inner.files[file].seen.clone())))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut inner = self.inner.lock();
        inner.step()?;
        if inner.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        inner.files.push(Contents::default());
        let file = inner.files.len() - 1;
        inner.names.insert(path.to_path_buf(), file);
        Ok(Box::new(SimulatedFile { disk: Arc::clone(self), file }))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.inner.lock().file(path)?;
        Ok(Box::new(SimulatedFile { disk: Arc::clone(self), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.step()?;
        let file = inner.file(from)?;
        inner.names.remove(from);
        inner.names.insert(to.to_path_buf(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.file(path)?;
        inner.step()?;
        inner.names.remove(path);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.inner.lock();
        inner.step()?;
        let Inner { names, durable_names, .. } = &mut *inner;
        durable_names.retain(|path, _| path.parent() != Some(dir));
        let in_dir = names.iter().filter(|(path, _)| path.parent() == Some(dir));
        durable_names.extend(in_dir.map(|(path, file)| (path.clone(), *file)));
        Ok(())
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: Arc<SimulatedDisk>,
    file: usize,
}

impl DiskFile for SimulatedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        let dead = matches!(inner.fault, Some((step, Fault::Crash)) if inner.steps >= step);
        let stepped = inner.step();
        let mut len = bytes.len();
        let mut result = stepped;
        if result.is_err() {
            // The write at which it dies has happened in full, for all anybody knows; what survives is chosen later. One
            // that fails alone has happened in part.
            len = match (dead, inner.fault) {
                (true, _) => 0,
                (false, Some((_, Fault::Crash))) => len,
                (false, _) => len / 2,
            };
        } else if let Some(room) = inner.room {
            if len > room {
                result = Err(io::ErrorKind::StorageFull.into());
                len = room;
            }
            inner.room = Some(room - len);
        }
        inner.files[self.file].seen.extend_from_slice(&bytes[..len]);
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        inner.waiting += 1;
        while inner.slow {
            self.disk.opened.wait(&mut inner);
        }
        inner.waiting -= 1;
        inner.step()?;
        if inner.failing_syncs > 0 {
            inner.failing_syncs -= 1;
            return Err(io::Error::other("sync failed"));
        }
        let file = &mut inner.files[self.file];
        file.durable.clone_from(&file.seen);
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let mut inner = self.disk.inner.lock();
        inner.step()?;
        let file = &mut inner.files[self.file];
        let gone = file.seen.len().saturating_sub(len as usize);
        file.seen.truncate(len as usize);
        if let Some(room) = &mut inner.room {
            *room += gone;
        }
        Ok(())
    }
}
