//! Connections of the daemon: lines and the descriptors beside them.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use crate::protocol::{Answer, LINE_BYTES};
use crate::sys;

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    input: Vec<u8>,
    /// Descriptors that came and that no request has taken.
    pub(crate) descriptors: Vec<OwnedFd>,
    output: Vec<u8>,
    /// Told of every container that ends.
    pub(crate) watches: bool,
    /// Nothing will be said or heard any more.
    pub(crate) closed: bool,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            input: Vec::new(),
            descriptors: Vec::new(),
            output: Vec::new(),
            watches: false,
            closed: false,
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether something waits to be written.
    pub(crate) fn is_behind(&self) -> bool {
        !self.output.is_empty()
    }

    /// Takes what has arrived; whole lines are returned.
    pub(crate) fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut buffer = vec![0; 16 << 10];
        loop {
            match self.receive_once(&mut buffer) {
                Ok(0) => {
                    self.closed = true;
                    break;
                }
                Ok(size) => self.input.extend_from_slice(&buffer[..size]),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(_) => {
                    self.closed = true;
                    break;
                }
            }
            if self.input.len() > LINE_BYTES {
                self.closed = true;
                break;
            }
        }
        let mut lines = Vec::new();
        while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            let rest = self.input.split_off(end + 1);
            let mut line = std::mem::replace(&mut self.input, rest);
            line.pop();
            lines.push(line);
        }
        lines
    }

    fn receive_once(&mut self, buffer: &mut [u8]) -> nix::Result<usize> {
        let mut space = cmsg_space!([i32; 8]);
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                self.descriptors.extend(fds.into_iter().map(sys::own));
            }
        }
        Ok(message.bytes)
    }

    /// Says something, with a descriptor beside it maybe.
    pub(crate) fn say(&mut self, answer: &Answer, fd: Option<&OwnedFd>) {
        let Ok(mut line) = serde_json::to_vec(answer) else {
            self.closed = true;
            return;
        };
        line.push(b'\n');
        if let Some(fd) = fd {
            match self.send(&line, Some(fd)) {
                Ok(sent) => {
                    line.drain(..sent);
                }
                Err(_) => self.closed = true,
            }
        }
        self.output.extend(line);
        self.flush();
    }

    /// Writes as much as the peer takes.
    pub(crate) fn flush(&mut self) {
        while !self.output.is_empty() && !self.closed {
            match self.send(&self.output, None) {
                Ok(sent) => {
                    self.output.drain(..sent);
                }
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                Err(_) => self.closed = true,
            }
        }
        // A daemon that never reads must not grow us.
        self.closed |= self.output.len() > LINE_BYTES;
    }

    fn send(&self, bytes: &[u8], fd: Option<&OwnedFd>) -> nix::Result<usize> {
        let raw: Vec<_> = fd.iter().map(|fd| fd.as_raw_fd()).collect();
        let control = [ControlMessage::ScmRights(&raw)];
        let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &control };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None)
    }
}

/// Makes a descriptor one that never waits.
pub(crate) fn nonblocking(fd: impl AsFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
