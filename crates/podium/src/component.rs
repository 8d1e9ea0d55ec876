//! One component alone in a process, as upstream runs it: flags by upstream's names, the log on standard error, and whatever
//! supervises the process starts it again.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::connection::{Connection, who_am_i};
use crate::daemon::{self, Program};

mod accounts;
pub(crate) mod controller_manager;
mod flags;
mod gates;
mod health;
pub(crate) mod healthz;
pub(crate) mod kubelet;
pub(crate) mod proxy;
pub(crate) mod scheduler;
pub(crate) mod server;
mod zpages;

/// How a component reaches the API server, and what it logs.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// How to reach the API server
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: PathBuf,
    /// URL of the API server [default: the kubeconfig's]
    #[arg(long, value_name = "URL", alias = "master")]
    pub(crate) server: Option<String>,
    #[command(flatten)]
    pub(crate) log: Log,
}

/// The log.
#[derive(Debug, Args)]
pub(crate) struct Log {
    /// What goes to standard error: error, warn, info, debug, or per module as in podium_kubelet=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "PODIUM_LOG")]
    pub(crate) log: String,
}

impl Common {
    /// Reads how to reach the server.
    pub(crate) async fn open(&self) -> Result<Connection> {
        Connection::open(&self.kubeconfig, self.server.as_deref()).await
    }

    /// Connects, and waits until the server answers.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        let connection = self.open().await?;
        let user = who_am_i(&connection.client()?, &connection.server()).await?;
        tracing::info!(server = connection.server(), user, "connected");
        Ok(connection)
    }
}

/// Runs a component until a signal ends it.
pub(crate) fn run(log: &Log, program: &mut impl Program) -> Result<ExitCode> {
    daemon::log_to_stderr(&log.log)?;
    daemon::run(program)?;
    Ok(ExitCode::SUCCESS)
}

/// Different for every process, as upstream's `HOSTNAME_UUID`.
pub(crate) fn leader_identity() -> Result<String> {
    let host = crate::settings::host_name()?;
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("a random number")?;
    Ok(format!("{host}_{}", random.trim()))
}
