//! A server of our own to measure: a process beside us, so that its memory and time are its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::connection::{Connections, Target};

/// The program: the API server's `bare` example. `cargo xtask bench api` builds it and says where it is.
const PROGRAM: &str = "PODIUM_APISERVER";

/// A running server over a durable store.
pub(super) struct Server {
    child: Child,
    directory: PathBuf,
    /// From the start of the process until it said that it is ready.
    pub(super) took: Duration,
}

impl Server {
    /// Starts one over the store in a directory.
    pub(super) async fn start(directory: &Path) -> Result<Server> {
        let program = std::env::var_os(PROGRAM)
            .with_context(|| format!("neither --kubeconfig nor {PROGRAM}: use `cargo xtask bench api`"))?;
        let started = Instant::now();
        let mut child = Command::new(&program)
            .arg("0")
            .arg(directory)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let ready = lines.map_while(Result::ok).any(|line| line.starts_with("export KUBECONFIG="));
        let mut server = Server { child, directory: directory.to_owned(), took: started.elapsed() };
        ensure!(ready, "the server ended: {:?}", server.child.wait()?);
        let target = Target::read(&server.kubeconfig())?;
        Connections::open(&target, 1).await?.read("/readyz").await?;
        server.took = started.elapsed();
        Ok(server)
    }

    pub(super) fn kubeconfig(&self) -> PathBuf {
        self.directory.join("admin.conf")
    }

    /// Its process id.
    pub(super) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process ids are below 2^22")
    }

    /// Ends it in order; its directory stays.
    pub(super) async fn stop(mut self) -> Result<PathBuf> {
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM)?;
        let directory = self.directory.clone();
        // Dropping it kills it, should the wait fail.
        let status = tokio::task::spawn_blocking(move || self.child.wait()).await??;
        ensure!(status.success(), "the server ended with {status}");
        Ok(directory)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

/// Resident bytes of a process.
pub(crate) fn resident(pid: i32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
        .context("no VmRSS")?;
    Ok(kib * 1024)
}

/// The most that a process has resident while this is watched.
pub(super) struct Peak {
    thread: Option<std::thread::JoinHandle<u64>>,
    end: Arc<AtomicBool>,
}

impl Peak {
    /// Looks again and again; there is nothing to be told by.
    pub(super) fn watch(pid: Option<i32>) -> Peak {
        let end = Arc::new(AtomicBool::new(false));
        let thread = pid.map(|pid| {
            let end = Arc::clone(&end);
            std::thread::spawn(move || {
                let mut most = 0;
                while !end.load(Ordering::Relaxed) {
                    most = most.max(resident(pid).unwrap_or(0));
                    std::thread::park_timeout(Duration::from_millis(100));
                }
                most
            })
        });
        Peak { thread, end }
    }

    /// What it was.
    pub(super) async fn end(self) -> Option<u64> {
        self.end.store(true, Ordering::Relaxed);
        let thread = self.thread?;
        thread.thread().unpark();
        tokio::task::spawn_blocking(move || thread.join().ok()).await.ok().flatten()
    }
}
