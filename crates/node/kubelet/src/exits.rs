//! Notices the end of a local process at once, by its pidfd.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// Waits until the process ends. A process that is not there has ended.
pub(crate) async fn ended(pid: i32) -> io::Result<()> {
    let descriptor = match open(pid) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        other => other?,
    };
    // SAFETY: the descriptor is owned by what is made here, and nobody else closes or replaces it.
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE)? };
    watched.readable().await.map(drop)
}

fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn an_end_is_noticed() {
        let mut child =
            tokio::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id().unwrap()).unwrap();
        let watch = tokio::spawn(ended(pid));
        drop(child.stdin.take());
        tokio::time::timeout(Duration::from_secs(10), watch).await.unwrap().unwrap().unwrap();
        child.wait().await.unwrap();
        ended(pid).await.unwrap();
    }
}
