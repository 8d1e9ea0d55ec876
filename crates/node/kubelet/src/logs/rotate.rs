//! Rotates container logs: at 10 MiB a log is renamed and the runtime told to open a new one; four old
//! ones are kept, the older of them compressed.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use podium_cri::v1;

use crate::{context::Shared, record::label};

/// Upstream's `containerLogMaxSize`, `containerLogMaxFiles` and monitor interval.
const MAX_BYTES: u64 = 10 << 20;
const MAX_FILES: usize = 5;
const EVERY: Duration = Duration::from_secs(10);

/// Looks at all logs again and again; ends with the kubelet.
pub(crate) async fn run(shared: &Shared) {
    loop {
        tokio::time::sleep(EVERY).await;
        let root = shared.config.pod_logs_dir.clone();
        let large = tokio::task::spawn_blocking(move || large_logs(&root)).await.unwrap_or_default();
        if large.is_empty() {
            continue;
        }
        let running = match running(shared).await {
            Ok(running) => running,
            Err(error) => {
                tracing::warn!(%error, "listing containers for log rotation failed");
                continue;
            }
        };
        for log in large {
            let Some(id) = running.get(&(log.uid.clone(), log.container.clone(), log.attempt)) else { continue };
            if let Err(error) = rotate(shared, &log.path, id).await {
                tracing::warn!(path = %log.path.display(), %error, "rotating a log failed");
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Log {
    path: PathBuf,
    uid: String,
    container: String,
    attempt: u32,
}

/// Logs over the limit: `namespace_name_uid/container/attempt.log` below the root.
fn large_logs(root: &Path) -> Vec<Log> {
    let children = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    let mut found = Vec::new();
    for pod in children(root) {
        let Some(uid) = pod.file_name().to_str().and_then(|name| name.rsplit('_').next()).map(str::to_owned) else {
            continue;
        };
        for container in children(&pod.path()) {
            for log in children(&container.path()) {
                let attempt = log.file_name().to_str().and_then(|name| name.strip_suffix(".log")?.parse().ok());
                let large = log.metadata().is_ok_and(|metadata| metadata.len() >= MAX_BYTES);
                if let (Some(attempt), true) = (attempt, large) {
                    let container = container.file_name().to_string_lossy().into_owned();
                    found.push(Log { path: log.path(), uid: uid.clone(), container, attempt });
                }
            }
        }
    }
    found
}

async fn running(shared: &Shared) -> Result<HashMap<(String, String, u32), String>, podium_cri::Error> {
    let state = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() };
    let filter = v1::ContainerFilter { state: Some(state), ..Default::default() };
    let answer = shared.cri.list_containers(v1::ListContainersRequest { filter: Some(filter) }).await?;
    let of = |container: &v1::Container, key: &str| container.labels.get(key).cloned().unwrap_or_default();
    Ok(answer
        .containers
        .iter()
        .map(|one| {
            let attempt = one.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
            ((of(one, label::POD_UID), of(one, label::CONTAINER_NAME), attempt), one.id.clone())
        })
        .collect())
}

async fn rotate(shared: &Shared, path: &Path, id: &str) -> io::Result<()> {
    let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let (from, to) = (path.to_owned(), suffixed(path, &stamp));
    let aside = to.clone();
    tokio::task::spawn_blocking(move || {
        prepare(&from)?;
        fs::rename(&from, &aside)
    })
    .await
    .map_err(io::Error::other)??;
    let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
    if let Err(error) = shared.cri.reopen_container_log(request).await {
        // The container still writes to the old file: it gets its name back.
        fs::rename(&to, path)?;
        return Err(io::Error::other(error));
    }
    Ok(())
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{suffix}"));
    PathBuf::from(name)
}

/// Rotated files of a log, oldest first: their names sort by time.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(Vec::new()) };
    let prefix = format!("{name}.");
    let mut found = Vec::new();
    for entry in fs::read_dir(path.parent().unwrap_or(path))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Makes room for one more rotated file and compresses those that are there.
fn prepare(path: &Path) -> io::Result<()> {
    let mut old = rotated(path)?;
    for half_done in old.iter().filter(|old| old.extension().is_some_and(|extension| extension == "tmp")) {
        fs::remove_file(half_done)?;
    }
    old.retain(|old| old.extension().is_none_or(|extension| extension != "tmp"));
    // One place for the current log, one for the file about to be rotated.
    let excess = old.len().saturating_sub(MAX_FILES - 2);
    for oldest in old.drain(..excess) {
        fs::remove_file(oldest)?;
    }
    for plain in old.iter().filter(|old| old.extension().is_none_or(|extension| extension != "gz")) {
        compress(plain)?;
    }
    Ok(())
}

fn compress(path: &Path) -> io::Result<()> {
    let temporary = suffixed(path, "tmp");
    let mut out = flate2::write::GzEncoder::new(File::create(&temporary)?, flate2::Compression::fast());
    io::copy(&mut File::open(path)?, &mut out)?;
    out.finish()?;
    fs::rename(&temporary, suffixed(path, "gz"))?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_logs_are_found_by_their_place() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("ns_pod_uid-1/c");
        fs::create_dir_all(&directory).unwrap();
        for (name, bytes) in [("0.log", MAX_BYTES), ("1.log", 10), ("0.log.20260101-000000", MAX_BYTES)] {
            File::create(directory.join(name)).unwrap().set_len(bytes).unwrap();
        }
        let expected =
            Log { path: directory.join("0.log"), uid: "uid-1".into(), container: "c".into(), attempt: 0 };
        assert_eq!(large_logs(root.path()), [expected]);
    }

    #[test]
    fn old_files_are_compressed_and_dropped() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("0.log");
        for suffix in ["20260101-000001.gz", "20260101-000002.gz", "20260101-000003.gz", "20260101-000004", "x.tmp"] {
            fs::write(suffixed(&log, suffix), suffix).unwrap();
        }
        prepare(&log).unwrap();
        let names: Vec<String> = rotated(&log)
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(
            names,
            ["0.log.20260101-000002.gz", "0.log.20260101-000003.gz", "0.log.20260101-000004.gz"]
        );
    }
}
