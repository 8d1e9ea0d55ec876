//! A cluster of the real binary with a data directory of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::kubectl::{Kubectl, Outcome, outcome};
use crate::second::free_port;
use crate::wait::wait_for;

/// The variable that names the binary under test.
pub const BINARY: &str = "PODIUM_BIN";

/// A running cluster; dropping it deletes it.
#[derive(Debug)]
pub struct Cluster {
    binary: PathBuf,
    directory: tempfile::TempDir,
    port: u16,
    /// Flags of `podium up` besides.
    flags: Vec<String>,
}

impl Cluster {
    /// Whether end-to-end tests can run: root, and a binary to test. Otherwise says that the test is skipped.
    pub fn available() -> bool {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return false;
        }
        if std::env::var_os(BINARY).is_none() {
            println!("skipped: {BINARY} names no binary to test (`cargo xtask e2e` sets it)");
            return false;
        }
        true
    }

    /// Starts a cluster on free ports and waits until it is ready.
    ///
    /// # Errors
    /// What `podium up` printed when it failed.
    pub fn start() -> Result<Self> {
        Cluster::start_with(&[])
    }

    /// The same with more flags of `podium up`.
    ///
    /// # Errors
    /// What `podium up` printed when it failed.
    pub fn start_with(flags: &[&str]) -> Result<Self> {
        let binary = PathBuf::from(std::env::var_os(BINARY).context("PODIUM_BIN is not set")?);
        let directory = tempfile::Builder::new().prefix("podium-e2e-").tempdir()?;
        let port = free_port()?;
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let cluster = Cluster { binary, directory, port, flags };
        cluster.up()?;
        Ok(cluster)
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The port of the API server.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The binary under test.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A directory for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// kubectl for this cluster.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.data_dir().join("kubeconfig"))
    }

    /// Runs `podium` with these arguments and this cluster's data directory.
    pub fn podium(&self, arguments: &[&str]) -> Outcome {
        outcome(Command::new(&self.binary).args(arguments).arg("--data-dir").arg(self.data_dir()))
    }

    /// Starts the daemon (again) and returns what it printed.
    ///
    /// # Errors
    /// What it printed when it failed, and the end of its log.
    pub fn up(&self) -> Result<String> {
        let port = self.port.to_string();
        let mut arguments = vec!["up", "--detach", "--port", &port];
        arguments.extend(self.flags.iter().map(String::as_str));
        let outcome = self.podium(&arguments);
        if outcome.code != 0 {
            let log = std::fs::read_to_string(self.data_dir().join("podium.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            bail!("podium up: {}{}\n{}", outcome.stdout, outcome.stderr, tail.join("\n"));
        }
        Ok(outcome.stdout)
    }

    /// The daemon's process id.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<i32> {
        pid_of(&self.podium(&["status"]))
    }

    /// Ends the daemon as a power cut would.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.pid()?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
        let limit = Duration::from_secs(10);
        wait_for("the killed daemon to end", limit, || rest_of(pid), Vec::is_empty);
        // A child that it was just starting has open what it had, until it is another program.
        let free = || std::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, self.port)).is_ok();
        wait_for("its port to be free", limit, free, |free| *free);
        Ok(())
    }

    /// Loads an image archive.
    #[track_caller]
    pub fn load(&self, archive: &Path) {
        self.podium(&["image", "load", &archive.display().to_string()]).ok();
    }
}

/// The process that `podium status` told of.
pub(crate) fn pid_of(status: &Outcome) -> Result<i32> {
    let line =
        status.stdout.lines().find(|line| line.starts_with("running")).context("the daemon does not run")?;
    let number =
        line.split_once("process ").and_then(|(_, rest)| rest.split(',').next()).context("no process")?;
    Ok(number.trim().parse()?)
}

/// The threads of a process that have not ended. What all have open, locks and ports among it, is closed when the last of them
/// has become a zombie, not before.
fn rest_of(pid: nix::unistd::Pid) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
    stats.filter(|stat| !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z"))).collect()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(log) = std::fs::read_to_string(self.data_dir().join("podium.log"))
        {
            let lines: Vec<&str> =
                log.lines().filter(|l| l.contains("WARN") || l.contains("ERROR")).collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!("--- warnings of podium.log ---\n{}", tail.join("\n"));
        }
        let outcome = self.podium(&["reset", "--yes"]);
        if outcome.code != 0 {
            eprintln!("reset: {}{}", outcome.stdout, outcome.stderr);
        }
    }
}
