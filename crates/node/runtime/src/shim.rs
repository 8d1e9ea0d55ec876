//! Shims: started from a sealed copy of the program in memory, talked to over their sockets.
//!
//! The copy cannot be written to by anybody: a container that gets hold of its shim's program, through `/proc`, holds
//! something that no other process will ever run differently (CVE-2019-5736). All shims of a daemon share it.

use std::ffi::CString;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, connect,
    recvmsg, sendmsg, socket as new_socket,
};
use podium_shim::protocol::{Answer, Failure, Request};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// The shim, as the build script made it.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim"));
/// Longer than a shim takes for its longest work, a start.
const PATIENCE: Duration = Duration::from_secs(100);
/// For what we can do by ourselves when the shim does not: signals and its end. Shorter than the two minutes that the
/// kubelet waits, with room for doing it. A shim busy with a start that hangs is late too; then the same is done twice.
const SHORT_PATIENCE: Duration = Duration::from_secs(10);

/// For finding a shim again, which is killed if it does not answer: a machine that swaps must not cost pods.
const FINDING: Duration = Duration::from_secs(30);

/// A shim did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShimError {
    /// It is not there, or went away.
    #[error("the pod's shim does not answer")]
    Gone(#[source] io::Error),
    /// It is there and says nothing: it hangs, and so may what it was to do. What must happen has to be done without it.
    #[error("the pod's shim does not answer in time")]
    Silent(#[source] io::Error),
    /// It said no.
    #[error("{message}")]
    Refused {
        /// What it said.
        message: String,
        /// The class of failure.
        kind: Failure,
    },
    /// It said something else than the protocol has.
    #[error("the pod's shim answered {0:?}")]
    Unexpected(Box<Answer>),
}

/// The program, ready to be run any number of times.
#[derive(Debug)]
pub(crate) struct Program {
    file: OwnedFd,
}

impl Program {
    pub(crate) fn new() -> io::Result<Self> {
        let name = CString::new("podium-shim")?;
        let file = memfd_create(name.as_c_str(), MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        let mut file = std::fs::File::from(file);
        file.write_all(PROGRAM)?;
        let seals =
            SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(Self { file: file.into() })
    }

    /// Asks whether pods may have user namespaces whose layers are in a directory; the reason if not. A process by itself has
    /// to try: this one has threads. Blocking, for a moment.
    pub(crate) fn check_users(&self, layers: &Path) -> io::Result<Result<(), String>> {
        let asked = std::process::Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
            .arg(podium_shim::protocol::CHECK_USERS)
            .arg(layers)
            .env_clear()
            .stdin(Stdio::null())
            .output()?;
        let why = String::from_utf8_lossy(&asked.stderr).trim().to_owned();
        Ok(if asked.status.success() { Ok(()) } else { Err(why) })
    }

    /// Starts a process that does nothing, until its input ends or its handle is dropped.
    pub(crate) fn hold(&self) -> io::Result<Child> {
        Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
            .arg0(podium_shim::ending::NAME)
            .arg(podium_shim::protocol::HOLD)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
    }

    /// Starts a shim that listens at `socket` and keeps its notes in `directory`. It lives on without us; while we live it
    /// is our child, whose end somebody has to wait for.
    pub(crate) fn start(&self, id: &str, socket: &Path, directory: &Path) -> io::Result<Child> {
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.join("shim.log"))?;
        Command::new(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
            .arg0(podium_shim::ending::NAME)
            .arg(id)
            .arg(directory)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
    }
}

/// A connection on which more answers follow.
#[derive(Debug)]
pub(crate) struct Answers {
    stream: UnixStream,
    rest: Vec<u8>,
}

impl Answers {
    /// Gives the further answers, until the shim ends.
    pub(crate) fn into_lines(self) -> io::Result<Lines> {
        self.stream.set_nonblocking(true)?;
        let stream = tokio::net::UnixStream::from_std(self.stream)?;
        Ok(Lines { input: BufReader::new(stream), line: self.rest })
    }
}

/// Further answers.
#[derive(Debug)]
pub(crate) struct Lines {
    input: BufReader<tokio::net::UnixStream>,
    line: Vec<u8>,
}

impl Lines {
    /// The next; `None` when the shim has ended. Cancel-safe: a partial line is kept.
    pub(crate) async fn next(&mut self) -> Option<Answer> {
        loop {
            if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let rest = self.line.split_off(end + 1);
                let line = std::mem::replace(&mut self.line, rest);
                if let Ok(answer) = serde_json::from_slice(&line) {
                    return Some(answer);
                }
                continue;
            }
            match self.input.fill_buf().await {
                Ok([]) | Err(_) => return None,
                Ok(bytes) => {
                    let size = bytes.len();
                    self.line.extend_from_slice(bytes);
                    self.input.consume(size);
                }
            }
        }
    }
}

/// A first answer, a descriptor beside it, and the connection for more.
pub(crate) type Reply = (Answer, Option<OwnedFd>, Answers);

/// Asks a shim, with descriptors beside the question.
pub(crate) async fn ask(socket: &Path, request: Request, fds: Vec<OwnedFd>) -> Result<Reply, ShimError> {
    let limit = patience(&request);
    ask_within(socket, request, fds, limit).await
}

/// Asks a shim that is known to be at its longest work.
pub(crate) async fn ask_busy(socket: &Path, request: Request) -> Result<Reply, ShimError> {
    ask_within(socket, request, Vec::new(), PATIENCE).await
}

async fn ask_within(
    socket: &Path,
    request: Request,
    fds: Vec<OwnedFd>,
    limit: Duration,
) -> Result<Reply, ShimError> {
    let socket: PathBuf = socket.to_owned();
    let answered = tokio::task::spawn_blocking(move || ask_blocking(&socket, &request, &fds, limit)).await;
    let reply = answered.map_err(|error| ShimError::Gone(io::Error::other(error)))?.map_err(unanswered)?;
    match reply {
        (Answer::Failed { message, kind }, ..) => Err(ShimError::Refused { message, kind }),
        reply => Ok(reply),
    }
}

/// Asks for something that is only done or not.
pub(crate) async fn command(socket: &Path, request: Request) -> Result<(), ShimError> {
    match ask(socket, request, Vec::new()).await? {
        (Answer::Done, ..) => Ok(()),
        (other, ..) => Err(ShimError::Unexpected(Box::new(other))),
    }
}

/// Tells a shim that is late from one that is not there.
fn unanswered(error: io::Error) -> ShimError {
    match error.kind() {
        // What a socket with a limit says when it is reached.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ShimError::Silent(error),
        _ => ShimError::Gone(error),
    }
}

/// How long the answer to a request may take.
fn patience(request: &Request) -> Duration {
    match request {
        Request::Kill { .. } | Request::End => SHORT_PATIENCE,
        Request::Watch => FINDING,
        _ => PATIENCE,
    }
}

/// Connects, waiting at most `limit` for this and for every step after it: a listener that takes nobody lets others wait
/// once its queue is full.
fn connect_within(socket: &Path, limit: Duration) -> io::Result<UnixStream> {
    let stream = new_socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let stream = UnixStream::from(stream);
    stream.set_write_timeout(Some(limit))?;
    stream.set_read_timeout(Some(limit))?;
    connect(stream.as_raw_fd(), &UnixAddr::new(socket)?)?;
    Ok(stream)
}

fn ask_blocking(socket: &Path, request: &Request, fds: &[OwnedFd], limit: Duration) -> io::Result<Reply> {
    let stream = connect_within(socket, limit)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &control };
    let sent =
        sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&line)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    (&stream).write_all(&line[sent..])?;
    let mut rest = Vec::new();
    let mut brought = None;
    loop {
        if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let after = rest.split_off(end + 1);
            let answer = serde_json::from_slice(&rest)?;
            return Ok((answer, brought, Answers { stream, rest: after }));
        }
        let mut buffer = [0; 8192];
        let (size, fd) = receive(&stream, &mut buffer)?;
        if size == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        brought = brought.or(fd);
        rest.extend_from_slice(&buffer[..size]);
    }
}

#[allow(unsafe_code)]
fn receive(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fd = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel made this descriptor for us, and it is taken once.
            fd = fds.first().map(|raw| unsafe { OwnedFd::from_raw_fd(*raw) });
        }
    }
    Ok((message.bytes, fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_that_is_late_is_told_from_one_that_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let limit = Duration::from_millis(20);
        let gone = |error: io::Error| matches!(unanswered(error), ShimError::Gone(_));
        assert!(gone(connect_within(&path, limit).unwrap_err()), "no socket");
        let listener = UnixListener::bind(&path).unwrap();
        // A short queue: a long one takes more descriptors than we may have.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
        let stream = connect_within(&path, limit).unwrap();
        let late = receive(&stream, &mut [0; 8]).unwrap_err();
        assert!(matches!(unanswered(late), ShimError::Silent(_)));
        // Nobody takes connections: the queue fills, and then even connecting is late.
        let mut waiting = vec![stream];
        let full = loop {
            match connect_within(&path, limit) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
            assert!(waiting.len() < 100, "the queue has an end");
        };
        assert!(matches!(unanswered(full), ShimError::Silent(_)));
        drop(listener);
        assert!(gone(connect_within(&path, limit).unwrap_err()), "nobody listens");
        assert!(patience(&Request::End) < patience(&Request::Start { directory: path }));
    }
}
