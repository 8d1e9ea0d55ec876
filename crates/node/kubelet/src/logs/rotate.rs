//! Rotates container logs: when the file that the runtime writes has grown too large it is renamed, the
//! runtime opens a new one, and older ones are compressed and in the end removed. Names and numbers are
//! upstream's (`containerLogMaxSize`, `containerLogMaxFiles`, `containerLogMonitorInterval`).

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;
use podium_cri::{Cri, v1};

use crate::context::Shared;

const COMPRESSED: &str = ".gz";
const UNFINISHED: &str = ".tmp";

/// What one container's logs may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The size from which on a log is rotated.
    pub(crate) bytes: u64,
    /// The most files, the current one included.
    pub(crate) files: usize,
}

/// Rotates logs until shutdown.
pub(crate) async fn run(shared: &Shared) {
    let settings = &shared.config.settings;
    let limits = Limits {
        bytes: settings.log_bytes(),
        files: usize::try_from(settings.container_log_max_files).unwrap_or(usize::MAX),
    };
    let mut paths = HashMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(settings.container_log_monitor_interval.0) => {}
            () = shared.shutdown.cancelled() => return,
        }
        if let Err(error) = look(&shared.cri, &mut paths, limits).await {
            tracing::debug!(%error, "looking for logs to rotate failed");
        }
    }
}

/// Looks at the logs of all running containers. `paths` remembers where they are: a container's log never
/// moves.
pub(crate) async fn look(
    cri: &Cri,
    paths: &mut HashMap<String, PathBuf>,
    limits: Limits,
) -> Result<(), podium_cri::Error> {
    let state = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() };
    let filter = v1::ContainerFilter { state: Some(state), ..Default::default() };
    let running = cri.list_containers(v1::ListContainersRequest { filter: Some(filter) }).await?.containers;
    paths.retain(|id, _| running.iter().any(|one| one.id == *id));
    for one in &running {
        let path = match paths.get(&one.id) {
            Some(path) => path.clone(),
            None => {
                let request = v1::ContainerStatusRequest { container_id: one.id.clone(), verbose: false };
                let status = match cri.container_status(request).await {
                    Ok(answer) => answer.status.unwrap_or_default(),
                    Err(error) if error.is_not_found() => continue,
                    Err(error) => return Err(error),
                };
                let path = PathBuf::from(status.log_path);
                paths.insert(one.id.clone(), path.clone());
                path
            }
        };
        if path.as_os_str().is_empty() {
            continue;
        }
        if let Err(error) = check(cri, &one.id, &path, limits).await {
            tracing::warn!(container = one.id, path = %path.display(), %error, "rotating a log failed");
        }
    }
    Ok(())
}

/// Why a log was not rotated.
#[derive(Debug, thiserror::Error)]
enum RotateError {
    #[error(transparent)]
    File(#[from] io::Error),
    #[error("reopening the log: {0}")]
    Reopen(#[from] podium_cri::Error),
}

async fn check(cri: &Cri, id: &str, path: &Path, limits: Limits) -> Result<(), RotateError> {
    let reopen = || cri.reopen_container_log(v1::ReopenContainerLogRequest { container_id: id.to_owned() });
    match fs::metadata(path) {
        Ok(found) if found.size() < limits.bytes => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            reopen().await?;
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    }
    let log = path.to_owned();
    tokio::task::spawn_blocking(move || make_room(&log, limits.files)).await.map_err(io::Error::other)??;
    let rotated = rotated_name(path, Timestamp::now());
    fs::rename(path, &rotated)?;
    if let Err(error) = reopen().await {
        // Put back, to be tried again: else nobody would find what has been written.
        fs::rename(&rotated, path)?;
        return Err(error.into());
    }
    Ok(())
}

/// `0.log` becomes `0.log.20060102-150405`.
fn rotated_name(log: &Path, now: Timestamp) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(now.strftime(".%Y%m%d-%H%M%S").to_string());
    PathBuf::from(name)
}

/// What to do with the files of a container besides the current one.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    remove: Vec<String>,
    compress: Vec<String>,
}

/// Decides it. `names` are the files' names; with the one to be made there are at most `most`.
fn plan(mut names: Vec<String>, most: usize) -> Plan {
    names.sort();
    let all = names.clone();
    // Left by a rotation that did not finish.
    let (mut used, mut remove): (Vec<String>, Vec<String>) =
        names.into_iter().partition(|name| in_use(name, &all));
    let excess = used.len().saturating_sub(most.saturating_sub(2));
    remove.extend(used.drain(..excess));
    Plan { remove, compress: used.into_iter().filter(|name| !name.ends_with(COMPRESSED)).collect() }
}

fn in_use(name: &str, all: &[String]) -> bool {
    !name.ends_with(UNFINISHED)
        && (name.ends_with(COMPRESSED)
            || !all.iter().any(|other| other.strip_suffix(COMPRESSED) == Some(name)))
}

/// The names of a log's rotated files, in no order. Blocking.
fn rotated(log: &Path) -> io::Result<Vec<String>> {
    let (Some(directory), Some(base)) = (log.parent(), log.file_name().and_then(OsStr::to_str)) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if let Some(name) = name.to_str()
            && name.strip_prefix(base).is_some_and(|rest| rest.starts_with('.'))
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// The newest file before the current one, if it is not compressed. Blocking.
pub(crate) fn newest_plain(log: &Path) -> io::Result<Option<PathBuf>> {
    let names = rotated(log)?;
    let newest = names.iter().filter(|name| in_use(name, &names)).max();
    Ok(newest.filter(|name| !name.ends_with(COMPRESSED)).map(|name| log.with_file_name(name)))
}

/// Removes and compresses what the plan says. Blocking.
fn make_room(log: &Path, most: usize) -> io::Result<()> {
    let plan = plan(rotated(log)?, most);
    for name in &plan.remove {
        fs::remove_file(log.with_file_name(name))?;
    }
    for name in &plan.compress {
        compress(&log.with_file_name(name))?;
    }
    Ok(())
}

fn compress(path: &Path) -> io::Result<()> {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let mut from = File::open(path)?;
    let unfinished = with(UNFINISHED);
    let mode = from.metadata()?.mode() & 0o777;
    let to = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&unfinished)?;
    let mut encoder = GzEncoder::new(to, Compression::default());
    io::copy(&mut from, &mut encoder)?;
    encoder.finish()?;
    fs::rename(&unfinished, with(COMPRESSED))?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn plans() {
        for (have, remove, compress) in [
            (&[][..], &[][..], &[][..]),
            (&["0.log.1"], &[], &["0.log.1"]),
            (&["0.log.2", "0.log.1.gz"], &[], &["0.log.2"]),
            (&["0.log.4", "0.log.3.gz", "0.log.2.gz", "0.log.1.gz"], &["0.log.1.gz"], &["0.log.4"]),
            // What an interrupted rotation has left.
            (&["0.log.2.tmp", "0.log.2", "0.log.1.gz", "0.log.1"], &["0.log.1", "0.log.2.tmp"], &["0.log.2"]),
        ] {
            assert_eq!(
                plan(names(have), 5),
                Plan { remove: names(remove), compress: names(compress) },
                "{have:?}"
            );
        }
    }

    #[test]
    fn names_are_upstreams() {
        let now = "2006-01-02T15:04:05Z".parse().unwrap();
        assert_eq!(rotated_name(Path::new("/l/0.log"), now), Path::new("/l/0.log.20060102-150405"));
    }

    #[test]
    fn room_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("0.log");
        for name in [
            "0.log",
            "0.log.20260101-000000.gz",
            "0.log.20260102-000000.gz",
            "0.log.20260103-000000.gz",
            "1.log",
        ] {
            fs::write(directory.path().join(name), name).unwrap();
        }
        let newest = directory.path().join("0.log.20260104-000000");
        fs::write(&newest, "text").unwrap();
        assert_eq!(newest_plain(&log).unwrap().as_deref(), Some(newest.as_path()));
        make_room(&log, 5).unwrap();
        let mut left = names(&[]);
        for entry in fs::read_dir(directory.path()).unwrap() {
            left.push(entry.unwrap().file_name().into_string().unwrap());
        }
        left.sort();
        assert_eq!(
            left,
            [
                "0.log",
                "0.log.20260102-000000.gz",
                "0.log.20260103-000000.gz",
                "0.log.20260104-000000.gz",
                "1.log"
            ]
        );
        let mut text = String::new();
        let file = File::open(directory.path().join("0.log.20260104-000000.gz")).unwrap();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        assert_eq!(newest_plain(&log).unwrap(), None);
    }
}
