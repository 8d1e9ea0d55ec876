//! A process that runs parts until it is told to end: signals, order of the end, the log.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};

use crate::memory;
use crate::parts::Parts;

/// How long the parts may take to end once they are asked to.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a start may take before it is called failed: a slow disk and an empty page cache, doubled.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(120);
/// How long a thread of blocking work waits for more. Some work comes every ten seconds, which is how long one would wait by default: it
/// would keep a stack and a heap for ever that the deepest work ever done has left.
const IDLE_THREAD: Duration = Duration::from_secs(1);
/// The log of the daemon before this one is kept when it has grown beyond this.
const LOG_BYTES: u64 = 20 << 20;

/// What a process does at its beginning and at its end.
pub(crate) trait Program {
    /// What has to be closed in order, after all parts.
    type Running;

    /// Starts the parts. Ends when all is ready.
    async fn start(&mut self, parts: &mut Parts) -> Result<Self::Running>;

    /// Called once the start is over.
    fn ready(&self) {}

    /// Closes what [`Program::start`] left, after all parts have ended.
    async fn close(&mut self, running: Option<Self::Running>);

    /// How long the start may take; `None`: as long as it takes, for a part whose server may come much later.
    fn start_limit(&self) -> Option<Duration> {
        None
    }
}

/// Runs the program until a signal or the end of one of its parts ends it.
pub(crate) fn run(program: &mut impl Program) -> Result<()> {
    memory::map_what_is_touched();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_park(memory::rest)
        .thread_keep_alive(IDLE_THREAD)
        .build()
        .context("start the runtime")?;
    let outcome = runtime.block_on(serve(program));
    // Blocking work that ignores its end must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    if let Err(error) = &outcome {
        tracing::error!(error = %format!("{error:#}"), "daemon ended");
    }
    outcome
}

async fn serve(program: &mut impl Program) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut parts = Parts::new();
    let limit = program.start_limit();
    let overdue = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let started = tokio::select! {
        started = program.start(&mut parts) => started,
        _ = terminate.recv() => Err(anyhow!("told to end during the start")),
        _ = interrupt.recv() => Err(anyhow!("interrupted during the start")),
        () = overdue => Err(anyhow!("not ready after {} s", limit.unwrap_or_default().as_secs())),
    };
    let (running, ended) = match started {
        Ok(running) => {
            program.ready();
            memory::started();
            let ended = tokio::select! {
                _ = terminate.recv() => Ok(()),
                _ = interrupt.recv() => Ok(()),
                (name, result) = parts.ended() => {
                    let why = result.err().unwrap_or_else(|| anyhow!("ended without a reason"));
                    Err(why.context(format!("{name} ended")))
                }
            };
            (Some(running), ended)
        }
        Err(error) => (None, Err(error)),
    };
    tracing::info!("stopping");
    let finish = async {
        parts.end(PATIENCE).await;
        program.close(running).await;
    };
    // A second signal means: now. Nothing acknowledged is lost by that.
    tokio::select! {
        () = finish => {}
        _ = terminate.recv() => tracing::warn!("told to end twice"),
        _ = interrupt.recv() => tracing::warn!("interrupted twice"),
    }
    tracing::info!("stopped");
    ended
}

/// Logs to a file.
pub(crate) fn log_to(path: &Path, level: &str) -> Result<()> {
    if std::fs::metadata(path).is_ok_and(|file| file.len() > LOG_BYTES) {
        std::fs::rename(path, path.with_extension("log.1")).context("put the old log aside")?;
    }
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter(level)?)
        .with_ansi(false)
        .with_writer(std::sync::Mutex::new(file))
        .try_init()
        .map_err(|error| anyhow!("start logging: {error}"))
}

/// Logs to standard error, as a component does that something else supervises.
pub(crate) fn log_to_stderr(level: &str) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(filter(level)?)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .try_init()
        .map_err(|error| anyhow!("start logging: {error}"))
}

fn filter(level: &str) -> Result<tracing_subscriber::EnvFilter> {
    tracing_subscriber::EnvFilter::try_new(level).with_context(|| format!("--log {level}"))
}
