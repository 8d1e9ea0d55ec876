//! Tells when something in a directory is written, made or renamed.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    path::Path,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};
use tokio::io::{Interest, unix::AsyncFd};

/// An inotify descriptor in the form that tokio takes.
struct Queue(Inotify);

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Somebody who wrote to a file has closed it.
    pub(crate) closed: bool,
}

/// Watches the files directly in one directory.
pub(crate) struct DirectoryWatch {
    queue: AsyncFd<Queue>,
}

impl DirectoryWatch {
    /// Begins to watch.
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let what = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_CLOSE_WRITE;
        inotify.add_watch(directory, what)?;
        // SAFETY: the descriptor belongs to the `Inotify` inside, which lives as long as the registration
        // and never changes its descriptor.
        let queue = unsafe { AsyncFd::register_with_interest(Queue(inotify), Interest::READABLE)? };
        Ok(Self { queue })
    }

    /// Waits for the next changes. Cancelling loses none.
    pub(crate) async fn changed(&self) -> io::Result<Changed> {
        loop {
            let mut ready = self.queue.readable().await?;
            match self.queue.get_ref().0.read_events() {
                Ok(events) => {
                    let over = AddWatchFlags::IN_CLOSE_WRITE
                        | AddWatchFlags::IN_DELETE_SELF
                        | AddWatchFlags::IN_IGNORED;
                    return Ok(Changed { closed: events.iter().any(|event| event.mask.intersects(over)) });
                }
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
