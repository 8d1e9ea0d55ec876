//! How many files may be open: by the daemon, and by each process of a container.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a container gets, soft and hard, whoever has started the daemon: a login shell's 1024 would be too few for servers,
/// and of "infinity" programs suffer that go through all numbers there could be. It is what the units of containerd and
/// Docker have given for years, and the most that kernels allow without being told.
const FILES: u64 = 1 << 20;
/// CAP_SYS_RESOURCE, the right to raise a hard limit.
const SYS_RESOURCE: u64 = 1 << 24;

/// Lets the daemon open as many files as it may, up to what containers get: it holds some for each container. Who raises its
/// own limit need not fear the calls that take no number above 1023: nothing here selects.
pub(crate) fn raise_own() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = hard.min(FILES);
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    }
    Ok(())
}

/// The number of open files for containers here. `capabilities`: what the daemon has.
pub(crate) fn of_containers(capabilities: u64) -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open")?;
    let most = most.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(files(hard, most, capabilities & SYS_RESOURCE != 0))
}

/// `hard`: of the daemon, which it may pass on and only with `raises` exceed; `most`: what the kernel takes at all.
fn files(hard: u64, most: u64, raises: bool) -> u64 {
    let wanted = FILES.min(most);
    if raises { wanted } else { wanted.min(hard) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_get_what_is_written_unless_the_daemon_cannot_give_it() {
        let infinity = u64::MAX;
        for (hard, most, raises, expected) in [
            (4096, 1 << 20, true, 1 << 20),
            (4096, 1 << 20, false, 4096),
            (infinity, 1 << 30, false, 1 << 20),
            (infinity, 1 << 30, true, 1 << 20),
            (infinity, 65_536, true, 65_536),
        ] {
            assert_eq!(files(hard, most, raises), expected, "{hard} {most} {raises}");
        }
    }
}
