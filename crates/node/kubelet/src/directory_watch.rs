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

/// What is told of a directory.
const WATCHED: AddWatchFlags = AddWatchFlags::IN_MODIFY
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_MOVE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_CLOSE_WRITE);

/// An inotify descriptor in the form that tokio takes.
#[derive(Debug)]
struct Queue(Inotify);

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// Somebody who wrote to a file has closed it.
    pub closed: bool,
}

/// Watches the files directly in one directory, or in several.
#[derive(Debug)]
pub struct DirectoryWatch {
    queue: AsyncFd<Queue>,
}

impl DirectoryWatch {
    /// Begins to watch.
    ///
    /// # Errors
    /// What the system says: it is not there, or too many are watched.
    pub fn new(directory: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(directory, WATCHED)?;
        // SAFETY: the descriptor belongs to the `Inotify` inside, which lives as long as the registration
        // and never changes its descriptor.
        let queue = unsafe { AsyncFd::register_with_interest(Queue(inotify), Interest::READABLE)? };
        Ok(Self { queue })
    }

    /// Watches the files of one more directory. One that is watched already stays so.
    ///
    /// # Errors
    /// As when it began.
    pub fn add(&self, directory: &Path) -> io::Result<()> {
        self.queue.get_ref().0.add_watch(directory, WATCHED)?;
        Ok(())
    }

    /// Waits for the next changes. Cancelling loses none.
    ///
    /// # Errors
    /// The queue cannot be read.
    pub async fn changed(&self) -> io::Result<Changed> {
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
