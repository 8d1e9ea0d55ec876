//! The kubelet's own process: how early it is killed when memory runs out, and how many files it may open.

use std::{io, path::Path};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::Configuration;

/// Does what `oomScoreAdj` and `maxOpenFiles` say, as far as this process may. What it may not do, the log says: a kubelet
/// works without either.
pub fn apply(settings: &Configuration) {
    if let Some(score) = settings.oom_score_adj
        && let Err(error) = set_score(Path::new("/proc/self/oom_score_adj"), score)
    {
        tracing::warn!(score, %error, "oomScoreAdj has no effect");
    }
    if let Some(files) = settings.max_open_files
        && let Err(error) = limit_files(files)
    {
        tracing::warn!(files, %error, "maxOpenFiles has no effect");
    }
}

fn set_score(file: &Path, score: i32) -> io::Result<()> {
    std::fs::write(file, score.to_string())
}

/// Both limits, as upstream, but the hard one is not lowered: what this process starts may need it. Where it cannot be raised, the
/// soft one up to it.
fn limit_files(wanted: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted.max(hard)).is_ok() {
        return Ok(());
    }
    let most = wanted.min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, most, hard)?;
    tracing::info!(wanted, most, "open files are limited to what this process may have");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_is_written_as_the_kernel_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("oom_score_adj");
        set_score(&file, -999).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "-999");
        assert!(set_score(&directory.path().join("a/b"), 1).is_err());
    }

    #[test]
    fn files_are_limited_to_what_may_be_had() {
        // The kernel refuses more than fs.nr_open to everybody, so the hard limit stays and the soft one reaches it.
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        limit_files(u64::MAX - 1).unwrap();
        let (soft, still) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(still, hard);
        assert_eq!(soft, hard.min(u64::MAX - 1));
    }
}
