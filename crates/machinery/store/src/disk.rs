//! The few file operations that the store needs, behind a trait: the real file system, and in tests one that crashes,
//! fills up and fails on demand.

use std::any::Any;
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

/// A file system. Nothing it does is certain to survive a crash until it has been synced: a file's bytes with the file,
/// its name (also after a rename or removal) with the directory.
pub(crate) trait Disk: Debug + Send + Sync + 'static {
    /// Makes the directory, private to the owner and durable, if it is not there.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Holds the directory against other processes until the guard is dropped; `None` if another holds it.
    fn lock(&self, dir: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>>;
    /// The names of the files in the directory, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// A file, to be read from its start.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>>;
    /// A new empty file, private to the owner. Fails if it is there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// An existing file, to be written from its end on.
    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name, in place of what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in the directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// A file being written.
pub(crate) trait DiskFile: Debug + Send {
    /// Writes at the end. After an error any part may have been written.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything written durable. After an error nothing is known of what was not durable before.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file; later writes go behind the cut.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
}

/// The machine's file system.
#[derive(Debug)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let new: Vec<&Path> =
            dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        // What is durable in a directory is lost with it, if its own name is not durable too.
        for made in new {
            self.sync_dir(parent_of(made))?;
        }
        // It may have been there with other rights. What is in it must not be readable by others.
        let rights = fs::metadata(dir)?.permissions().mode();
        if rights & 0o077 != 0 {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    fn lock(&self, dir: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        let path = dir.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Box::new(lock))),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno.into()),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // A name that is not text is not one of the store's.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(path)?))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(OpenOptions::new().append(true).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

/// The directory that a file's name is in.
pub(crate) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        // fdatasync: it also writes the new size, and leaves out only times that nobody reads.
        self.0.sync_data()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}

#[cfg(test)]
pub(crate) mod simulated;
