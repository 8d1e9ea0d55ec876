//! Content by digest: `blobs/sha256/HEX`. A file under its final name is complete and hashes to it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

/// Bytes of the disk that are left alone, so that images cannot take the last of it.
pub(crate) const KEEP_FREE: u64 = 256 << 20;
/// How often the room on the disk is looked at, in bytes written.
pub(crate) const ROOM_EVERY: u64 = 32 << 20;

/// Why content was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BlobError {
    /// It is not what it was said to be.
    #[error("content has digest {found}, not {wanted}")]
    Digest {
        /// As named.
        wanted: String,
        /// As found.
        found: String,
    },
    /// The digest cannot be one.
    #[error("{0:?} is no digest this store knows (sha256)")]
    Name(String),
    /// The file system failed.
    #[error("content store")]
    Io(#[from] io::Error),
}

/// The store.
#[derive(Debug)]
pub(crate) struct Blobs {
    root: PathBuf,
    scratch: PathBuf,
    next: AtomicU64,
}

/// The hexadecimal part of a digest, checked: it becomes a file name.
pub(crate) fn hex(digest: &str) -> Result<&str, BlobError> {
    match digest.strip_prefix("sha256:") {
        Some(hex) if hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => {
            Ok(hex)
        }
        _ => Err(BlobError::Name(digest.to_owned())),
    }
}

/// A digest of bytes.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// Whether a file system can take so many bytes more.
///
/// # Errors
/// `StorageFull` if it cannot.
pub(crate) fn check_room(directory: &Path, more: u64) -> io::Result<()> {
    let room = nix::sys::statvfs::statvfs(directory)?;
    let free = room.blocks_available().saturating_mul(room.fragment_size());
    if free.saturating_sub(KEEP_FREE) < more { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
}

impl Blobs {
    /// Opens the store below `root`; what an earlier process left half-written is removed.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let scratch = root.join("scratch");
        if scratch.exists() {
            crate::remove::tree(&scratch)?;
        }
        fs::create_dir_all(&scratch)?;
        let root = root.join("blobs/sha256");
        fs::create_dir_all(&root)?;
        Ok(Self { root, scratch, next: AtomicU64::new(0) })
    }

    pub(crate) fn path(&self, digest: &str) -> Result<PathBuf, BlobError> {
        Ok(self.root.join(hex(digest)?))
    }

    pub(crate) fn has(&self, digest: &str) -> bool {
        self.path(digest).is_ok_and(|path| path.is_file())
    }

    pub(crate) fn read(&self, digest: &str) -> Result<Vec<u8>, BlobError> {
        Ok(fs::read(self.path(digest)?)?)
    }

    pub(crate) fn open_blob(&self, digest: &str) -> Result<File, BlobError> {
        Ok(File::open(self.path(digest)?)?)
    }

    /// A name for something unfinished.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.scratch.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Takes content under its digest, unless it is here.
    pub(crate) fn put(&self, wanted: &str, content: &mut dyn Read) -> Result<(), BlobError> {
        let path = self.path(wanted)?;
        if path.is_file() {
            return Ok(());
        }
        let scratch = self.scratch();
        let outcome = self.write(wanted, content, &scratch);
        if outcome.is_err() {
            let _ = fs::remove_file(&scratch);
        }
        outcome?;
        fs::rename(&scratch, &path)?;
        Ok(())
    }

    /// Takes a file of this file system under its digest, unless that is here. The file is gone or refused afterwards.
    pub(crate) fn take(&self, wanted: &str, file: &Path) -> Result<(), BlobError> {
        let path = self.path(wanted)?;
        if path.is_file() {
            return Ok(fs::remove_file(file)?);
        }
        let mut content = File::open(file)?;
        let mut hash = Sha256::new();
        io::copy(&mut content, &mut hash)?;
        let found = format!("sha256:{:x}", hash.finalize());
        if found != wanted {
            return Err(BlobError::Digest { wanted: wanted.to_owned(), found });
        }
        content.sync_data()?;
        Ok(fs::rename(file, path)?)
    }

    fn write(&self, wanted: &str, content: &mut dyn Read, scratch: &Path) -> Result<(), BlobError> {
        let mut file = File::create(scratch)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        let mut unchecked = 0;
        loop {
            match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(size) => {
                    hash.update(&buffer[..size]);
                    file.write_all(&buffer[..size])?;
                    unchecked += size as u64;
                    if unchecked >= ROOM_EVERY {
                        unchecked = 0;
                        check_room(&self.scratch, 0)?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        let found = format!("sha256:{:x}", hash.finalize());
        if found != wanted {
            return Err(BlobError::Digest { wanted: wanted.to_owned(), found });
        }
        // It is about to get its name, which means that it is whole, after a power cut too.
        file.sync_data()?;
        Ok(())
    }

    /// Removes everything that is not `wanted`.
    pub(crate) fn retain(&self, wanted: impl Fn(&str) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if !wanted(&format!("sha256:{}", entry.file_name().to_string_lossy())) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let refused = check_room(directory.path(), u64::MAX).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn content_is_what_it_is_called() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(directory.path()).unwrap();
        let name = digest(b"hello");
        blobs.put(&name, &mut b"hello".as_slice()).unwrap();
        assert_eq!(blobs.read(&name).unwrap(), b"hello");
        let other = digest(b"other");
        assert!(matches!(blobs.put(&other, &mut b"lie".as_slice()), Err(BlobError::Digest { .. })));
        assert!(!blobs.has(&other));
        let file = blobs.scratch();
        fs::write(&file, "lie").unwrap();
        assert!(matches!(blobs.take(&other, &file), Err(BlobError::Digest { .. })));
        fs::write(&file, "other").unwrap();
        blobs.take(&other, &file).unwrap();
        fs::write(&file, "hello").unwrap();
        blobs.take(&name, &file).unwrap();
        assert_eq!(blobs.read(&other).unwrap(), b"other");
        for bad in ["sha256:../../etc/passwd", "sha256:AB", "md5:00", ""] {
            assert!(blobs.put(bad, &mut b"".as_slice()).is_err(), "{bad}");
        }
        assert_eq!(fs::read_dir(directory.path().join("scratch")).unwrap().count(), 0);
        blobs.retain(|_| false).unwrap();
        assert!(!blobs.has(&name));
    }
}
