//! A running container as the shim keeps it: its process, its streams, who listens to them, its log, its end.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::log::{Formatter, Log, now, timestamp};
use crate::oci::Oci;
use crate::protocol::{ContainerState, EXIT_FILE, Exit, User};
use crate::streams::nonblocking;

/// How far behind somebody attached may fall before they are cut off: output must not wait for them, nor fill memory.
const BEHIND_BYTES: usize = 2 << 20;
/// How many may be attached to one output: more than people and tools ever are, and few enough that one container's take
/// neither all of our descriptors nor, each as far behind as it may be, much memory.
pub(crate) const MAX_ATTACHED: usize = 32;
/// What an output that is no pipe may hold: a terminal holds less.
const OUTPUT_BYTES: usize = 1 << 20;

/// A copy of a stream for somebody attached.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) fd: OwnedFd,
    pending: Vec<u8>,
    gone: bool,
}

impl Attached {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        nonblocking(&fd)?;
        Ok(Self { fd, pending: Vec::new(), gone: false })
    }

    pub(crate) fn is_behind(&self) -> bool {
        !self.pending.is_empty()
    }

    fn give(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        self.flush();
        self.gone |= self.pending.len() > BEHIND_BYTES;
    }

    /// Notices that nobody reads any more, which writing would tell only with the next output.
    fn look(&mut self) {
        let mut waits = [PollFd::new(self.fd.as_fd(), PollFlags::empty())];
        let over = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        let found = poll(&mut waits, PollTimeout::ZERO).is_ok();
        let ended = waits[0].revents().is_some_and(|events| events.intersects(over));
        self.gone |= found && ended;
    }

    pub(crate) fn flush(&mut self) {
        while !self.pending.is_empty() && !self.gone {
            match nix::unistd::write(&self.fd, &self.pending) {
                Ok(written) => {
                    self.pending.drain(..written);
                }
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                Err(_) => self.gone = true,
            }
        }
    }
}

/// One of a container's outputs.
#[derive(Debug)]
pub(crate) struct Output {
    fd: Option<OwnedFd>,
    formatter: Formatter,
    pub(crate) attached: Vec<Attached>,
}

impl Output {
    pub(crate) fn new(fd: OwnedFd, stream: &'static str) -> io::Result<Self> {
        nonblocking(&fd)?;
        Ok(Self { fd: Some(fd), formatter: Formatter::new(stream), attached: Vec::new() })
    }

    pub(crate) fn fd(&self) -> Option<&OwnedFd> {
        self.fd.as_ref()
    }

    /// How much it may hold that was written before now.
    fn capacity(&self) -> usize {
        let size = self.fd.as_ref().and_then(|fd| fcntl(fd, FcntlArg::F_GETPIPE_SZ).ok());
        size.and_then(|size| usize::try_from(size).ok()).unwrap_or(OUTPUT_BYTES)
    }

    /// Takes what there is, at most so much that others get their turn. Returns how many bytes; 0: no more for now.
    fn take(&mut self, log: Option<&mut Log>, buffer: &mut [u8]) -> usize {
        let Some(fd) = &self.fd else { return 0 };
        let read = loop {
            match nix::unistd::read(fd, buffer) {
                Err(Errno::EINTR) => {}
                other => break other,
            }
        };
        let size = match read {
            Ok(size) => size,
            Err(Errno::EAGAIN) => return 0,
            // A terminal's end is an error.
            Err(_) => 0,
        };
        let mut entries = Vec::new();
        let at = timestamp(now());
        if size == 0 {
            self.formatter.finish(&at, &mut entries);
            self.fd = None;
            // Their end tells those attached that nothing follows, once they have what is pending.
            self.attached.retain(Attached::is_behind);
        } else {
            self.formatter.push(&buffer[..size], &at, &mut entries);
            for one in &mut self.attached {
                one.give(&buffer[..size]);
            }
            self.attached.retain(|one| !one.gone);
        }
        if let Some(log) = log {
            log.write(&entries);
        }
        size
    }

    /// Writes what those attached have not taken yet, and drops those who have gone.
    pub(crate) fn flush(&mut self) {
        for one in &mut self.attached {
            one.flush();
            one.look();
        }
        let over = self.fd.is_none();
        self.attached.retain(|one| !one.gone && (!over || one.is_behind()));
    }
}

/// A container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) directory: PathBuf,
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) started_at: i64,
    pub(crate) user: User,
    pub(crate) cgroup: String,
    /// The program of the runtime that made it, if it was not us.
    pub(crate) runtime: Option<PathBuf>,
    /// Its processes end with its first one.
    pub(crate) own_pid: bool,
    pub(crate) log: Option<Log>,
    /// Its input, kept open for the next to attach.
    pub(crate) input: Option<OwnedFd>,
    pub(crate) outputs: Vec<Output>,
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) exit: Option<Exit>,
}

impl Container {
    /// The runtime that made it, if it was not us. `state` is where such a runtime keeps its notes in this pod.
    pub(crate) fn made_by(&self, state: PathBuf) -> Option<Oci<'_>> {
        let binary = self.runtime.as_deref()?;
        Some(Oci { binary, state, bundle: &self.directory, id: &self.id })
    }

    pub(crate) fn state(&self) -> ContainerState {
        ContainerState {
            id: self.id.clone(),
            pid: self.pid,
            started_at: self.started_at,
            user: self.user.clone(),
            exit: self.exit.clone(),
        }
    }

    /// Takes output of one stream. Returns how many bytes; 0: no more for now.
    pub(crate) fn take(&mut self, output: usize, buffer: &mut [u8]) -> usize {
        match self.outputs.get_mut(output) {
            Some(output) => output.take(self.log.as_mut(), buffer),
            None => 0,
        }
    }

    /// Takes all output that is there by now. Not more: another process may hold the stream and write faster than we read,
    /// and the loop that waits for everything would never go on. What follows is taken there.
    pub(crate) fn drain(&mut self, buffer: &mut [u8]) {
        for index in 0..self.outputs.len() {
            let mut left = self.outputs.get(index).map_or(0, Output::capacity);
            while left > 0 {
                match self.take(index, buffer) {
                    0 => break,
                    size => left = left.saturating_sub(size),
                }
            }
        }
    }

    /// Whether one more may attach.
    pub(crate) fn has_room(&mut self) -> bool {
        // Those who left since the last wait do not count.
        self.outputs.iter_mut().for_each(Output::flush);
        self.outputs.iter().all(|output| output.attached.len() < MAX_ATTACHED)
    }

    /// Records its end, on disk too: the record outlives us.
    pub(crate) fn ended(&mut self, code: i32, oom: bool) -> Exit {
        let exit = Exit {
            id: self.id.clone(),
            code,
            at: now(),
            started_at: self.started_at,
            oom,
            user: self.user.clone(),
            ..Exit::default()
        };
        if let Err(error) = record(&self.directory, &exit) {
            eprintln!("podium-shim: the end of {} is not recorded: {error}", self.id);
        }
        self.input = None;
        self.exit = Some(exit.clone());
        exit
    }

    /// The descriptor for whoever attaches to give input, or to change the terminal's size.
    pub(crate) fn input_for_attach(&self, stdin: bool) -> Option<&OwnedFd> {
        match &self.terminal {
            Some(terminal) => Some(terminal),
            None => self.input.as_ref().filter(|_| stdin),
        }
    }
}

fn record(directory: &Path, exit: &Exit) -> io::Result<()> {
    let path = directory.join(EXIT_FILE);
    let fresh = path.with_extension("new");
    let mut file = fs::File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(exit)?)?;
    fs::rename(&fresh, &path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(outputs: Vec<Output>) -> Container {
        Container {
            id: "c".to_owned(),
            directory: PathBuf::new(),
            pid: 0,
            pidfd: fs::File::open("/").unwrap().into(),
            started_at: 0,
            user: User::default(),
            cgroup: String::new(),
            runtime: None,
            own_pid: true,
            log: None,
            input: None,
            outputs,
            terminal: None,
            exit: None,
        }
    }

    #[test]
    fn a_writer_that_goes_on_cannot_hold_up_the_drain() {
        let (read, write) = io::pipe().unwrap();
        let mut held = container(vec![Output::new(read.into(), "stdout").unwrap()]);
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = std::sync::Arc::clone(&stop);
        let writer = std::thread::spawn(move || {
            let mut write = write;
            while !seen.load(std::sync::atomic::Ordering::Relaxed) {
                if write.write_all(&[b'x'; 4096]).is_err() {
                    break;
                }
            }
        });
        // Would not return if it read for as long as there is something.
        held.drain(&mut vec![0; 32 << 10]);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        // The end of the reader wakes a writer that waits for room.
        drop(held);
        writer.join().unwrap();
    }

    #[test]
    fn who_has_left_is_dropped_and_too_many_are_refused() {
        let (read, _write) = io::pipe().unwrap();
        let mut one = container(vec![Output::new(read.into(), "stdout").unwrap()]);
        let mut readers = Vec::new();
        for _ in 0..MAX_ATTACHED {
            assert!(one.has_room());
            let (read, write) = io::pipe().unwrap();
            one.outputs[0].attached.push(Attached::new(write.into()).unwrap());
            readers.push(read);
        }
        assert!(!one.has_room());
        // Nothing was written meanwhile: the end alone is noticed.
        readers.truncate(MAX_ATTACHED - 2);
        assert!(one.has_room());
        assert_eq!(one.outputs[0].attached.len(), MAX_ATTACHED - 2);
    }
}
