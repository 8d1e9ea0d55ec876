//! State that must outlive the kubelet in a file, so that nothing is given out twice: written whole and atomically, and read
//! only if it is what was written.
//!
//! The names of the files are upstream's. The contents are not: upstream's checksum is one of Go's own rendering of the
//! structs, which nothing else can reproduce. So each kubelet sees the other's file as corrupt, and starts anew from it.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Why a state is not to be had from its file, or not kept there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    #[error("checkpoint {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// Cut off, changed by hand, or somebody else's.
    #[error("checkpoint {path} is corrupted")]
    Corrupt { path: PathBuf },
}

fn checksum(data: &Value) -> String {
    use std::fmt::Write as _;
    Sha256::digest(data.to_string()).iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Replaces what is in the file. It is on disk when this returns.
pub(crate) fn write<T: Serialize>(path: &Path, data: &T) -> Result<(), CheckpointError> {
    let failed = |source| CheckpointError::Io { path: path.to_owned(), source };
    let data = serde_json::to_value(data).map_err(|error| failed(io::Error::other(error)))?;
    let text = json!({"checksum": checksum(&data), "data": data}).to_string();
    let beside = path.with_extension("new");
    let write = || {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().map_err(failed)
}

/// What was written last; None if nothing was.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, CheckpointError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CheckpointError::Io { path: path.to_owned(), source }),
    };
    let corrupt = || CheckpointError::Corrupt { path: path.to_owned() };
    let mut whole: Value = serde_json::from_slice(&text).map_err(|_| corrupt())?;
    let data = whole.get_mut("data").map(Value::take).ok_or_else(corrupt)?;
    if whole["checksum"] != checksum(&data) {
        return Err(corrupt());
    }
    serde_json::from_value(data).map(Some).map_err(|_| corrupt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        assert_eq!(read::<Vec<u32>>(&path).unwrap(), None);
        write(&path, &vec![1, 2]).unwrap();
        write(&path, &vec![3, 4]).unwrap();
        assert_eq!(read::<Vec<u32>>(&path).unwrap(), Some(vec![3, 4]));
        let whole = fs::read_to_string(&path).unwrap();
        for broken in [
            String::new(),
            whole[..whole.len() / 2].to_owned(),
            whole.replace("[3,4]", "[3,5]"),
            whole.replace("[3,4]", "{\"a\":1}"),
            "{\"data\":[3,4]}".to_owned(),
        ] {
            fs::write(&path, &broken).unwrap();
            assert!(matches!(read::<Vec<u32>>(&path), Err(CheckpointError::Corrupt { .. })), "{broken}");
        }
        // A state of another shape is none, even if its checksum is right.
        write(&path, &json!({"a": 1})).unwrap();
        assert!(matches!(read::<Vec<u32>>(&path), Err(CheckpointError::Corrupt { .. })));
    }
}
