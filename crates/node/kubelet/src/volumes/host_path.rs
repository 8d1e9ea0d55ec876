//! `hostPath` volumes: the check of what is at the path, and making it where the type says so.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
};

/// Why a path does not do, in upstream's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostPathError {
    #[error("hostPath type check failed: {path} is not {wanted}")]
    Type { path: String, wanted: &'static str },
    #[error("hostPath type check failed: unknown type {0:?}")]
    Unknown(String),
    #[error("{path}: {source}")]
    Make { path: String, source: io::Error },
}

/// Checks `path` against the volume's type and makes it for the `...OrCreate` types.
pub(crate) fn check(path: &Path, type_: &str) -> Result<(), HostPathError> {
    let shown = || path.display().to_string();
    let make =
        |outcome: io::Result<()>| outcome.map_err(|source| HostPathError::Make { path: shown(), source });
    let found = fs::metadata(path).ok();
    let is = |test: fn(&fs::FileType) -> bool| found.as_ref().is_some_and(|found| test(&found.file_type()));
    let (holds, wanted) = match type_ {
        "" => return Ok(()),
        "DirectoryOrCreate" => {
            if found.is_none() {
                make(fs::create_dir_all(path))?;
                return make(fs::set_permissions(path, fs::Permissions::from_mode(0o755)));
            }
            (is(fs::FileType::is_dir), "a directory")
        }
        "FileOrCreate" => {
            if found.is_none() {
                make(fs::File::create_new(path).map(drop))?;
                return make(fs::set_permissions(path, fs::Permissions::from_mode(0o644)));
            }
            (is(fs::FileType::is_file), "a file")
        }
        "Directory" => (is(fs::FileType::is_dir), "a directory"),
        "File" => (is(fs::FileType::is_file), "a file"),
        "Socket" => (is(fs::FileType::is_socket), "a socket file"),
        "CharDevice" => (is(fs::FileType::is_char_device), "a character device"),
        "BlockDevice" => (is(fs::FileType::is_block_device), "a block device"),
        other => return Err(HostPathError::Unknown(other.to_owned())),
    };
    if holds { Ok(()) } else { Err(HostPathError::Type { path: shown(), wanted }) }
}
