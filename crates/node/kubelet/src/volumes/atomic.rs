//! Writes a set of files so that readers see either the old set or the new one, never a mixture.
//!
//! The layout is upstream's atomic writer's: the files are in a hidden directory named by time,
//! `..data` is a symbolic link to it, and each name at the top is a symbolic link through `..data`.
//! Replacing `..data` by a rename switches all files at once.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use crate::volumes::payload::{File, Payload};

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

/// Puts `payload` into `target`, an existing directory. `group` owns everything, if given.
/// Returns whether anything changed.
pub(crate) fn write(target: &Path, payload: &Payload, group: Option<u32>) -> io::Result<bool> {
    let current = fs::read_link(target.join(DATA)).ok();
    let unchanged = match &current {
        Some(directory) => holds(&target.join(directory), payload, group)?,
        None => false,
    };
    if unchanged {
        // A crash may have come between the switch and the links.
        link_names(target, payload)?;
        return Ok(false);
    }
    let fresh = new_directory(target)?;
    for (path, file) in payload {
        write_file(&fresh, path, file, group)?;
    }
    own_directories(&fresh, group)?;
    let next = target.join(DATA_NEXT);
    remove_if_there(&next)?;
    let name = fresh.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    symlink(name, &next)?;
    fs::rename(&next, target.join(DATA))?;
    link_names(target, payload)?;
    remove_stale(target, payload, name)?;
    Ok(true)
}

fn new_directory(target: &Path) -> io::Result<PathBuf> {
    let now = jiff::Timestamp::now();
    let stamp = now.strftime("%Y_%m_%d_%H_%M_%S").to_string();
    let path = target.join(format!("..{stamp}.{}", fastrand::u32(1_000_000_000..)));
    fs::create_dir(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn write_file(directory: &Path, path: &str, file: &File, group: Option<u32>) -> io::Result<()> {
    let full = directory.join(path);
    if let Some(parent) = full.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&full, &file.data)?;
    if file.uid.is_some() || group.is_some() {
        chown(&full, file.uid, group)?;
    }
    fs::set_permissions(&full, fs::Permissions::from_mode(mode_of(file, group)))
}

/// A group that owns a volume can read it, whatever the mode says.
fn mode_of(file: &File, group: Option<u32>) -> u32 {
    if group.is_some() { file.mode | 0o440 } else { file.mode }
}

fn own_directories(directory: &Path, group: Option<u32>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            own_directories(&entry.path(), group)?;
        }
    }
    let mode = if group.is_some() { 0o2755 } else { 0o755 };
    if group.is_some() {
        chown(directory, None, group)?;
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(mode))
}

/// Whether a directory holds exactly these files.
fn holds(directory: &Path, payload: &Payload, group: Option<u32>) -> io::Result<bool> {
    let mut found = BTreeSet::new();
    list(directory, Path::new(""), &mut found)?;
    if !found.iter().eq(payload.keys()) {
        return Ok(false);
    }
    for (path, file) in payload {
        let full = directory.join(path);
        let mode = fs::symlink_metadata(&full)?.permissions().mode() & 0o777;
        if mode != mode_of(file, group) || fs::read(&full)? != file.data {
            return Ok(false);
        }
    }
    Ok(true)
}

fn list(directory: &Path, below: &Path, found: &mut BTreeSet<String>) -> io::Result<()> {
    let entries = match fs::read_dir(directory.join(below)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(directory, &path, found)?;
        } else {
            found.insert(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

fn top_names(payload: &Payload) -> BTreeSet<&str> {
    payload.keys().filter_map(|path| path.split('/').next()).collect()
}

fn link_names(target: &Path, payload: &Payload) -> io::Result<()> {
    for name in top_names(payload) {
        let link = target.join(name);
        let wanted = Path::new(DATA).join(name);
        if fs::read_link(&link).is_ok_and(|at| at == wanted) {
            continue;
        }
        remove_if_there(&link)?;
        symlink(&wanted, &link)?;
    }
    Ok(())
}

fn remove_stale(target: &Path, payload: &Payload, keep: &std::ffi::OsStr) -> io::Result<()> {
    let names = top_names(payload);
    for entry in fs::read_dir(target)? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let stale = if text.starts_with("..") {
            name != keep && text != DATA
        } else {
            entry.file_type()?.is_symlink() && !names.contains(text.as_ref())
        };
        if stale {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    let outcome = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => podium_shim::remove::tree(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
