//! The parts of a process as tasks with names: one that ends before it is told to ends the process.

use std::future::Future;
use std::time::Duration;

use anyhow::{Result, bail};
use podium_client::Shutdown;
use tokio::task::JoinSet;

/// Running tasks. Any of them ending before it is told to is a fault that ends the cluster: a half-dead control plane
/// is worse than one that is started again.
pub(crate) struct Parts {
    tasks: JoinSet<(&'static str, Result<()>)>,
    shutdown: Shutdown,
}

impl Parts {
    pub(crate) fn new() -> Self {
        Parts { tasks: JoinSet::new(), shutdown: Shutdown::new() }
    }

    /// What tells all parts to end.
    pub(crate) fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    pub(crate) fn spawn<E>(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Result<(), E>> + Send + 'static,
    ) where
        E: std::error::Error + Send + Sync + 'static,
    {
        self.tasks.spawn(async move { (name, part.await.map_err(anyhow::Error::from)) });
    }

    /// The first part that ends.
    pub(crate) async fn ended(&mut self) -> (&'static str, Result<()>) {
        match self.tasks.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(error)) => ("a part", Err(anyhow::Error::from(error).context("panicked"))),
            None => std::future::pending().await,
        }
    }

    /// Waits for something that a part has to do; an error when a part ends first.
    pub(crate) async fn unless_ended<T>(&mut self, wanted: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            done = wanted => Ok(done),
            (name, result) = self.ended() => match result {
                Err(error) => Err(error.context(format!("{name} ended during the start"))),
                Ok(()) => bail!("{name} ended during the start"),
            },
        }
    }

    /// Tells all parts to end and waits for them, but not for ever.
    pub(crate) async fn end(&mut self, limit: Duration) {
        self.shutdown.cancel();
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                match ended {
                    Ok((name, Err(error))) => {
                        tracing::warn!(part = name, error = %format!("{error:#}"), "ended badly");
                    }
                    Ok((name, Ok(()))) => tracing::debug!(part = name, "ended"),
                    Err(error) => tracing::warn!(%error, "a part panicked"),
                }
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("some parts did not end in time");
        }
        self.tasks.abort_all();
    }
}
