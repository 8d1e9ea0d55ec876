//! The end of a shim that does not answer: the daemon's own hand, where [`Request::End`](crate::protocol::Request::End) is
//! not heard. Nothing but the shim's arguments is relied on, so it works after a restart of the daemon too.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys;

/// What a shim calls itself.
pub const NAME: &str = "podium-shim";
/// What the first process of a pod's shared process namespace is called, as others call theirs.
pub(crate) const WAITER_NAME: &str = "pause";

/// Kills the pod's shim, with children of it that have not become programs yet, and waits until they are gone.
/// Descriptors stand for the processes: a number that becomes another's meanwhile is not signalled. What runs in the pod's
/// groups is left to the caller. Blocking, for at most `limit`.
///
/// # Errors
/// `/proc` cannot be read, or a process is still there: in the kernel, on a disk that hangs.
pub fn end(pod: &str, limit: Duration) -> io::Result<()> {
    let until = Instant::now() + limit;
    let mut killed = Vec::new();
    for pid in of(pod)? {
        // The look that counts is the one after the descriptor is ours.
        let Ok(process) = sys::pidfd(pid) else { continue };
        if is_of(pid, pod) && sys::pidfd_signal(&process, libc::SIGKILL).is_ok() {
            killed.push(process);
        }
    }
    killed.iter().try_for_each(|process| gone(process, until))
}

/// Whether the pod's shim starts a process: then there is a child of it that has not become a program yet. The pod's
/// waiting process never becomes one, and has another name.
pub fn is_starting(pod: &str) -> bool {
    let waits = |pid: &i32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim_end() == WAITER_NAME
    };
    of(pod).is_ok_and(|all| all.iter().filter(|pid| !waits(pid)).count() > 1)
}

/// The shim of a pod and its children that are no programs yet.
fn of(pod: &str) -> io::Result<Vec<i32>> {
    let all = fs::read_dir("/proc")?.flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    Ok(pids.filter(|pid| is_of(*pid, pod)).collect())
}

fn gone(process: &OwnedFd, until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut waits = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waits, timeout) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn is_of(pid: i32, pod: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| says(&line, pod))
}

/// Whether a command line, as the kernel shows it, is that of a pod's shim.
fn says(line: &[u8], pod: &str) -> bool {
    let mut words = line.split(|byte| *byte == 0);
    words.next() == Some(NAME.as_bytes()) && words.next() == Some(pod.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Command, Stdio};

    /// Above what a loaded machine needs to start or end a process.
    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn shims_are_known_by_their_arguments() {
        assert!(says(b"podium-shim\0abc\0/var/lib/x\0", "abc"));
        for other in
            [&b"podium-shim\0abcd\0"[..], b"podium-shim\0", b"sh\0abc\0", b"podium-shim-x\0abc\0", b""]
        {
            assert!(!says(other, "abc"), "{other:?}");
        }
    }

    #[test]
    fn the_shim_of_one_pod_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let start = |name: &str| {
            let script = directory.path().join(name);
            fs::write(&script, "read line").unwrap();
            let mut command = Command::new("/bin/sh");
            command.arg0(NAME).arg(&script).stdin(Stdio::piped());
            let (child, id) = (command.spawn().unwrap(), script.display().to_string());
            // spawn returns in the middle of execve: the new arguments are shown a moment later.
            let pid = i32::try_from(child.id()).unwrap();
            let until = Instant::now() + LIMIT;
            while !is_of(pid, &id) {
                assert!(Instant::now() < until, "{pid} does not become {id}");
                std::thread::yield_now();
            }
            (child, id)
        };
        let (mut one, id) = start("one");
        let (mut other, _) = start("other");
        assert!(!is_starting(&id), "one is the shim itself");
        let (mut child, _) = start("one");
        assert!(is_starting(&id));
        end(&id, LIMIT).unwrap();
        for ended in [&mut one, &mut child] {
            assert_eq!(ended.wait().unwrap().signal(), Some(libc::SIGKILL));
        }
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
        // Safe to repeat.
        end(&id, LIMIT).unwrap();
    }
}
