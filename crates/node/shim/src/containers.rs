//! A running container as the shim keeps it: its process, its streams, who listens to them, its log, its end.

use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::log::{Formatter, Log, now, timestamp};
use crate::protocol::{ContainerState, EXIT_FILE, Exit, User};
use crate::streams::nonblocking;

/// How far behind somebody attached may fall before they are cut off: output must not wait for them, nor fill memory.
const BEHIND_BYTES: usize = 2 << 20;

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

    /// Takes what there is, at most so much that others get their turn. True: there may be more at once.
    fn take(&mut self, log: Option<&mut Log>, buffer: &mut [u8]) -> bool {
        let Some(fd) = &self.fd else { return false };
        let size = match nix::unistd::read(fd, buffer) {
            Ok(0) | Err(Errno::EIO) => 0,
            Ok(size) => size,
            Err(Errno::EAGAIN) => return false,
            Err(Errno::EINTR) => return true,
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
        size > 0
    }

    /// Writes what those attached have not taken yet.
    pub(crate) fn flush(&mut self) {
        for one in &mut self.attached {
            one.flush();
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
    pub(crate) fn state(&self) -> ContainerState {
        ContainerState {
            id: self.id.clone(),
            pid: self.pid,
            started_at: self.started_at,
            user: self.user.clone(),
            exit: self.exit.clone(),
        }
    }

    /// Takes output of one stream. True: there may be more at once.
    pub(crate) fn take(&mut self, output: usize, buffer: &mut [u8]) -> bool {
        match self.outputs.get_mut(output) {
            Some(output) => output.take(self.log.as_mut(), buffer),
            None => false,
        }
    }

    /// Takes all output that is there by now.
    pub(crate) fn drain(&mut self, buffer: &mut [u8]) {
        for index in 0..self.outputs.len() {
            while self.take(index, buffer) {}
        }
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
