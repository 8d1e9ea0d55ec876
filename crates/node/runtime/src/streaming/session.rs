//! One exec or attach: bytes both ways, sizes, the end.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use podium_shim::protocol::{Answer as ShimAnswer, Request};
use podium_streaming::Error;
use podium_streaming::exec::Streams;
use tokio::io::{AsyncRead, AsyncWrite};

use super::channels::{Answer, Channel, Listener, Outcome, Peer, Said, Talker};
use super::fd::Async;
use crate::container::State;
use crate::core::Runtime;
use crate::shim;

/// How long output may follow a command's end, from processes it left behind.
const DRAIN: Duration = Duration::from_secs(2);

/// The process' side.
struct Process {
    input: Option<Async>,
    stdout: Option<Async>,
    stderr: Option<Async>,
    /// Input and output are one terminal.
    tty: bool,
}

impl Process {
    fn terminal(&self) -> Option<&Async> {
        if self.tty { self.input.as_ref() } else { None }
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
        let process = Process { input: Some(input), stdout: Some(output), stderr: None, tty: true };
        return Ok((running, process));
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
    Ok((running, Process { input, stdout, stderr, tty: false }))
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
    let process = Process { input, stdout, stderr, tty };
    let mut state = container.state.subscribe();
    let ended = async {
        let _ = state.wait_for(|state| matches!(state, State::Exited(_))).await;
        Outcome::Code(0)
    };
    let outcome = carry(process, ended, &mut peer.listener, &mut peer.talker).await;
    if streams.stdin && container.record.config.stdin_once {
        // The first to attach was the only one: the container's input ends with them.
        let request = Request::CloseInput { id: id.to_owned() };
        if let Err(error) = shim::command(&socket, request).await {
            tracing::debug!(container = id, %error, "input not closed");
        }
    }
    match outcome? {
        Some(outcome) => peer.talker.finish(&outcome).await,
        None => Ok(()),
    }
}

/// Carries bytes until the process has ended and said all, or the client has gone (`None`).
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
            () = &mut drain, if outcome.is_some() => return Ok(outcome),
            said = listener.next(&mut late) => {
                let gone = matches!(said, Ok(Said::Gone) | Err(_));
                if let Ok(said) = said {
                    hear(&mut process, said).await;
                }
                for answer in late.drain(..) {
                    if matches!(answer, Answer::InputEnd) {
                        hear(&mut process, Said::InputEnd).await;
                    }
                    talker.answer(&answer).await?;
                }
                if gone {
                    return Ok(None);
                }
            }
        }
    }
}

async fn read(from: Option<&Async>, buffer: &mut [u8]) -> io::Result<usize> {
    match from {
        Some(from) => from.read(buffer).await,
        None => std::future::pending().await,
    }
}

async fn hear(process: &mut Process, said: Said) {
    match said {
        Said::Input(bytes) => {
            if let Some(input) = process.input.as_ref().filter(|_| !bytes.is_empty()) {
                // A process that has closed its input does not want it.
                if input.write_all(&bytes).await.is_err() && !process.tty {
                    process.input = None;
                }
            }
        }
        // A terminal has no end of input but the one that is typed.
        Said::InputEnd if !process.tty => process.input = None,
        Said::InputEnd | Said::Gone => {}
        Said::Size { width, height } => {
            if let Some(terminal) = process.terminal() {
                let _ = terminal.resize(width, height);
            }
        }
    }
}
