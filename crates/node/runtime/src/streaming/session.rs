//! One exec or attach: bytes both ways, sizes, the end.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures::FutureExt;
use podium_shim::protocol::{Answer as ShimAnswer, Request};
use podium_streaming::Error;
use podium_streaming::exec::Streams;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use super::channels::{Answer, Channel, Listener, Outcome, Peer, Said, Talker};
use super::fd::Async;
use crate::container::State;
use crate::core::Runtime;
use crate::shim;

/// How long output may follow a command's end, from processes it left behind.
const DRAIN: Duration = Duration::from_secs(2);

/// The most that a pipe holds: what anybody may ask for without privileges, by the kernel's default.
const PIPE: usize = 1 << 20;
/// Input that may wait for a slow process before the client is made to wait. While there is room a client that leaves is
/// seen at once.
const WAITING: usize = 1 << 20;
/// How often a client that is made to wait is sent nothing, to learn whether it is still there.
const PROBE: Duration = Duration::from_secs(10);

/// The process' side.
struct Process {
    input: Option<Async>,
    /// What the process has not taken yet; empty without `input`.
    pending: BytesMut,
    /// The input ends after what is pending.
    ending: bool,
    stdout: Option<Async>,
    stderr: Option<Async>,
    /// Input and output are one terminal.
    tty: bool,
    /// Goes when no more input will come.
    open: Option<oneshot::Sender<Infallible>>,
}

impl Process {
    fn new(input: Option<Async>, stdout: Option<Async>, stderr: Option<Async>, tty: bool) -> Self {
        Self { input, pending: BytesMut::new(), ending: false, stdout, stderr, tty, open: None }
    }

    /// Returns once all input there will be has been given, at the latest when this is dropped.
    fn input_end(&mut self) -> impl Future<Output = ()> + use<> {
        let (open, closed) = oneshot::channel::<Infallible>();
        self.open = Some(open);
        closed.map(drop)
    }

    fn close_input(&mut self) {
        self.input = None;
        self.open = None;
    }

    fn terminal(&self) -> Option<&Async> {
        if self.tty { self.input.as_ref() } else { None }
    }

    /// Gives the process some of what it has not taken. Cancel-safe.
    async fn give(&self) -> io::Result<usize> {
        match &self.input {
            Some(input) => input.write(&self.pending).await,
            None => std::future::pending().await,
        }
    }

    fn given(&mut self, written: &io::Result<usize>) {
        match written {
            Ok(size) => self.pending.advance(*size),
            // A process that has closed its input does not want it. A terminal stays for its size.
            Err(_) => {
                self.pending.clear();
                self.ending |= !self.tty;
            }
        }
        if self.ending && self.pending.is_empty() {
            self.close_input();
        }
    }
}

fn pipe(wanted: bool) -> io::Result<(Option<Async>, OwnedFd)> {
    if !wanted {
        return Ok((None, std::fs::File::options().read(true).write(true).open("/dev/null")?.into()));
    }
    let (read, write) = io::pipe()?;
    Ok((Some(Async::new(read.into())?), write.into()))
}

/// Runs a command for a client.
pub(super) async fn exec<S: AsyncRead + AsyncWrite + Unpin>(
    runtime: &Arc<Runtime>,
    id: &str,
    args: Vec<String>,
    streams: Streams,
    mut peer: Peer<S>,
) -> Result<(), Error> {
    let started = start(runtime, id, args, streams).await;
    let (mut running, process) = match started {
        Ok(started) => started,
        Err(message) => return peer.talker.finish(&Outcome::Failed(message)).await,
    };
    let ended = async {
        match running.ended().await {
            Some(code) => Outcome::Code(code),
            None => Outcome::Failed("the pod's shim ended during the command".to_owned()),
        }
    };
    let outcome = carry(process, ended, &mut peer.listener, &mut peer.talker).await?;
    match outcome {
        Some(outcome) => peer.talker.finish(&outcome).await,
        None => Ok(()),
    }
}

async fn start(
    runtime: &Arc<Runtime>,
    id: &str,
    args: Vec<String>,
    streams: Streams,
) -> Result<(crate::container::Running, Process), String> {
    let container = runtime.container(id).ok_or_else(|| format!("container {id} is gone"))?;
    let failed = |error: io::Error| error.to_string();
    if streams.tty {
        let mut running = runtime
            .exec(&container, args, None, false)
            .await
            .map_err(|status| status.message().to_owned())?;
        let terminal = running.terminal.take().ok_or("no terminal")?;
        let output = Async::new(terminal.try_clone().map_err(failed)?).map_err(failed)?;
        let input = Async::new(terminal).map_err(failed)?;
        return Ok((running, Process::new(Some(input), Some(output), None, true)));
    }
    let (input, child_input) = if streams.stdin {
        let (read, write) = io::pipe().map_err(failed)?;
        (Some(Async::new(write.into()).map_err(failed)?), OwnedFd::from(read))
    } else {
        (None, std::fs::File::open("/dev/null").map_err(failed)?.into())
    };
    let (stdout, child_stdout) = pipe(streams.stdout).map_err(failed)?;
    let (stderr, child_stderr) = pipe(streams.stderr).map_err(failed)?;
    let child = Some([child_input, child_stdout, child_stderr]);
    let running =
        runtime.exec(&container, args, child, false).await.map_err(|status| status.message().to_owned())?;
    Ok((running, Process::new(input, stdout, stderr, false)))
}

/// Joins a client to what a container runs.
pub(super) async fn attach<S: AsyncRead + AsyncWrite + Unpin>(
    runtime: &Arc<Runtime>,
    id: &str,
    streams: Streams,
    mut peer: Peer<S>,
) -> Result<(), Error> {
    let Some(container) = runtime.container(id) else {
        return peer.talker.finish(&Outcome::Failed(format!("container {id} is gone"))).await;
    };
    let tty = container.record.config.tty;
    let (stdout, child_stdout) = pipe(streams.stdout)?;
    let (stderr, child_stderr) = pipe(streams.stderr && !tty)?;
    let mut fds = Vec::new();
    if stdout.is_some() {
        fds.push(child_stdout);
    }
    if stderr.is_some() {
        fds.push(child_stderr);
    }
    let request = Request::Attach {
        id: id.to_owned(),
        stdin: streams.stdin,
        stdout: stdout.is_some(),
        stderr: stderr.is_some(),
    };
    let socket = runtime.socket(&container.record.sandbox_id);
    let input = match shim::ask(&socket, request, fds).await {
        Ok((ShimAnswer::Started { .. }, input, _)) => input,
        Ok((other, ..)) => {
            return peer.talker.finish(&Outcome::Failed(format!("the pod's shim answered {other:?}"))).await;
        }
        Err(error) => return peer.talker.finish(&Outcome::Failed(crate::core::chain(&error))).await,
    };
    // A terminal comes along for its size even to those who may not type.
    let input = match input {
        Some(fd) => Some(Async::new(fd)?),
        None => None,
    };
    let mut process = Process::new(input, stdout, stderr, tty);
    let input_end = process.input_end();
    let mut state = container.state.subscribe();
    let ended = async {
        let _ = state.wait_for(|state| matches!(state, State::Exited(_))).await;
        Outcome::Code(0)
    };
    let close = async {
        input_end.await;
        if streams.stdin && container.record.config.stdin_once {
            // The first to attach was the only one: the container's input ends with theirs.
            let request = Request::CloseInput { id: id.to_owned() };
            if let Err(error) = shim::command(&socket, request).await {
                tracing::debug!(container = id, %error, "input not closed");
            }
        }
    };
    let (outcome, ()) = tokio::join!(carry(process, ended, &mut peer.listener, &mut peer.talker), close);
    match outcome? {
        Some(outcome) => peer.talker.finish(&outcome).await,
        None => Ok(()),
    }
}

/// Carries bytes until the process has ended and said all, or the client has gone (`None`). Neither direction waits for
/// the other: a process that answers as it reads takes no more input until its output has been read.
async fn carry<S: AsyncRead + AsyncWrite + Unpin>(
    mut process: Process,
    ended: impl Future<Output = Outcome>,
    listener: &mut Listener<S>,
    talker: &mut Talker<S>,
) -> Result<Option<Outcome>, Error> {
    tokio::pin!(ended);
    let (mut out, mut err) = (vec![0; 32 << 10], vec![0; 32 << 10]);
    let mut outcome: Option<Outcome> = None;
    let drain = tokio::time::sleep(Duration::MAX / 4);
    tokio::pin!(drain);
    let mut late: Vec<Answer> = Vec::new();
    loop {
        if outcome.is_some() && process.stdout.is_none() && process.stderr.is_none() {
            return Ok(outcome);
        }
        tokio::select! {
            read = read(process.stdout.as_ref(), &mut out) => match read {
                Ok(size) if size > 0 => talker.say(Channel::Stdout, &out[..size]).await?,
                _ => process.stdout = None,
            },
            read = read(process.stderr.as_ref(), &mut err) => match read {
                Ok(size) if size > 0 => talker.say(Channel::Stderr, &err[..size]).await?,
                _ => process.stderr = None,
            },
            done = &mut ended, if outcome.is_none() => {
                outcome = Some(done);
                drain.as_mut().reset(tokio::time::Instant::now() + DRAIN);
            }
            () = &mut drain, if outcome.is_some() => {
                // A slow client is no reason to lose what was said before the end.
                rest(process.stdout.as_ref(), Channel::Stdout, talker, &mut out).await?;
                rest(process.stderr.as_ref(), Channel::Stderr, talker, &mut err).await?;
                return Ok(outcome);
            }
            written = process.give(), if !process.pending.is_empty() => process.given(&written),
            () = tokio::time::sleep(PROBE), if process.pending.len() >= WAITING => {
                talker.say(Channel::Stdout, &[]).await?;
            }
            said = listener.next(&mut late), if process.pending.len() < WAITING => {
                let gone = matches!(said, Ok(Said::Gone) | Err(_));
                if let Ok(said) = said {
                    hear(&mut process, said);
                }
                for answer in late.drain(..) {
                    if matches!(answer, Answer::InputEnd) {
                        hear(&mut process, Said::InputEnd);
                    }
                    talker.answer(&answer).await?;
                }
                if gone {
                    // What was said before leaving is meant, if it is taken soon.
                    let _ = tokio::time::timeout(DRAIN, flush(&mut process)).await;
                    return Ok(None);
                }
            }
        }
    }
}

/// Says what is in a pipe by now, and no more than one holds: a process left behind may write on for ever.
async fn rest<S: AsyncRead + AsyncWrite + Unpin>(
    from: Option<&Async>,
    channel: Channel,
    talker: &mut Talker<S>,
    buffer: &mut [u8],
) -> Result<(), Error> {
    let mut left = PIPE;
    while left > 0
        && let Some(Ok(size)) = read(from, buffer).now_or_never()
        && size > 0
    {
        talker.say(channel, &buffer[..size]).await?;
        left = left.saturating_sub(size);
    }
    Ok(())
}

async fn read(from: Option<&Async>, buffer: &mut [u8]) -> io::Result<usize> {
    match from {
        Some(from) => from.read(buffer).await,
        None => std::future::pending().await,
    }
}

async fn flush(process: &mut Process) {
    while !process.pending.is_empty() {
        let written = process.give().await;
        process.given(&written);
    }
}

fn hear(process: &mut Process, said: Said) {
    match said {
        Said::Input(bytes) => {
            if process.input.is_some() && !process.ending {
                process.pending.extend_from_slice(&bytes);
            }
        }
        // A terminal has no end of input but the one that is typed.
        Said::InputEnd if !process.tty => {
            process.ending = true;
            if process.pending.is_empty() {
                process.close_input();
            }
        }
        Said::InputEnd | Said::Gone => {}
        Said::Size { width, height } => {
            if let Some(terminal) = process.terminal() {
                let _ = terminal.resize(width, height);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use podium_streaming::spdy;
    use tokio::io::{DuplexStream, ReadHalf, WriteHalf};

    use super::super::channels::Protocol;
    use super::*;

    /// Ends a test that waits for what never comes.
    const LIMIT: Duration = Duration::from_secs(60);

    struct Client {
        reader: spdy::Reader<ReadHalf<DuplexStream>>,
        writer: spdy::Writer<WriteHalf<DuplexStream>>,
        stdin: u32,
        stdout: u32,
    }

    async fn client() -> (Client, Peer<DuplexStream>) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (read, write) = tokio::io::split(near);
        let (reader, mut writer) = (spdy::Reader::new(read), spdy::Writer::client(write));
        writer.open(&[("streamtype", "error")]).await.unwrap();
        let stdin = writer.open(&[("streamtype", "stdin")]).await.unwrap();
        let stdout = writer.open(&[("streamtype", "stdout")]).await.unwrap();
        let wanted = Streams { stdin: true, stdout: true, stderr: false, tty: false };
        let peer = Peer::open(far, Protocol::Spdy { status: true }, wanted).await.unwrap();
        (Client { reader, writer, stdin, stdout }, peer)
    }

    #[tokio::test]
    async fn traffic_both_ways_does_not_wait_for_itself() {
        // Several times what pipes, buffers and the connection hold together.
        const CHUNKS: usize = 256;
        let chunk = vec![7; 64 << 10];
        let (Client { mut reader, mut writer, stdin, stdout }, mut peer) = client().await;
        let (mut hears, input) = io::pipe().unwrap();
        let (output, mut says) = io::pipe().unwrap();
        let (tell, told) = tokio::sync::oneshot::channel();
        let echo = std::thread::spawn(move || {
            io::copy(&mut hears, &mut says).unwrap();
            let _ = tell.send(());
        });
        let (input, output) = (Async::new(input.into()).unwrap(), Async::new(output.into()).unwrap());
        let process = Process::new(Some(input), Some(output), None, false);
        let ended = async {
            told.await.unwrap();
            Outcome::Code(0)
        };
        let send = async {
            for _ in 0..CHUNKS {
                writer.data(stdin, &chunk, false).await.unwrap();
            }
            writer.data(stdin, &[], true).await.unwrap();
        };
        let receive = async {
            let mut length = 0;
            while length < CHUNKS * chunk.len() {
                if let Some(spdy::Frame::Data { stream, bytes, .. }) = reader.next().await.unwrap()
                    && stream == stdout
                {
                    length += bytes.len();
                }
            }
            length
        };
        let carried = carry(process, ended, &mut peer.listener, &mut peer.talker);
        let all = futures::future::join3(carried, send, receive);
        let (outcome, (), length) = tokio::time::timeout(LIMIT, all).await.expect("bytes go both ways");
        assert_eq!((outcome.unwrap(), length), (Some(Outcome::Code(0)), CHUNKS * chunk.len()));
        echo.join().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_loses_nothing() {
        const LENGTH: usize = 1 << 20;
        let (Client { mut reader, writer: _writer, stdout, .. }, mut peer) = client().await;
        let (output, mut says) = io::pipe().unwrap();
        nix::fcntl::fcntl(&says, nix::fcntl::FcntlArg::F_SETPIPE_SZ(1 << 20)).unwrap();
        std::io::Write::write_all(&mut says, &vec![7; LENGTH]).unwrap();
        let process = Process::new(None, Some(Async::new(output.into()).unwrap()), None, false);
        let ended = std::future::ready(Outcome::Code(0));
        let carried = carry(process, ended, &mut peer.listener, &mut peer.talker);
        // The process has ended, another holds its output, and the client takes nothing for longer than that is waited for.
        let receive = async {
            tokio::time::sleep(DRAIN * 3).await;
            let mut length = 0;
            while length < LENGTH {
                if let Some(spdy::Frame::Data { stream, bytes, .. }) = reader.next().await.unwrap()
                    && stream == stdout
                {
                    length += bytes.len();
                }
            }
        };
        let both = futures::future::join(carried, receive);
        let (outcome, ()) = tokio::time::timeout(LIMIT, both).await.expect("all of it comes");
        assert_eq!(outcome.unwrap(), Some(Outcome::Code(0)));
        drop(says);
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_noticed_though_its_input_waits() {
        let (mut client, mut peer) = client().await;
        // Neither read from nor written to.
        let (_hears, input) = io::pipe().unwrap();
        let (output, _says) = io::pipe().unwrap();
        let (input, output) = (Async::new(input.into()).unwrap(), Async::new(output.into()).unwrap());
        let process = Process::new(Some(input), Some(output), None, false);
        let leave = async move {
            client.writer.data(client.stdin, &vec![7; WAITING / 2], false).await.unwrap();
            drop(client);
        };
        let carried = carry(process, std::future::pending(), &mut peer.listener, &mut peer.talker);
        let both = futures::future::join(carried, leave);
        let (outcome, ()) = tokio::time::timeout(LIMIT, both).await.expect("the client's end is seen");
        assert_eq!(outcome.unwrap(), None);
    }
}
