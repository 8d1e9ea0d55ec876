//! Mounts that somebody else must answer: those of file servers.
//!
//! The kernel waits for a server for minutes, and cannot be told to stop. So every such mount has a thread of its own, which
//! takes nobody's place: neither that of other pods' blocking work nor that of the daemon's end, which does not wait for it.
//! The pod's worker waits for a moment, says that it waits, and is free to hear that the pod is to end.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::watch;

/// How long a worker waits at a time. A server that is well answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came of a mount; None while it is under way.
type Outcome = Option<Result<(), String>>;

/// Mounts that are under way, by where they will appear.
#[derive(Debug, Default)]
pub(crate) struct Mounting(Mutex<HashMap<PathBuf, watch::Receiver<Outcome>>>);

/// There is no volume yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unmounted {
    /// It failed; the next try begins anew.
    Failed(String),
    /// It is under way; the next try waits for the same.
    Waiting,
}

impl Mounting {
    /// Waits for `work`, which mounts something at `target`; or for what was begun there before, and then `work` is not done.
    pub(crate) async fn mount(
        &self,
        target: &Path,
        work: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Result<(), Unmounted> {
        let mut outcome = self.begin(target, work)?;
        // Otherwise it is an end: of the work, or of its thread by a panic.
        if tokio::time::timeout(PATIENCE, outcome.wait_for(Option::is_some)).await.is_err() {
            return Err(Unmounted::Waiting);
        }
        self.0.lock().remove(target);
        let outcome = outcome.borrow().clone();
        outcome.unwrap_or_else(|| Err("the mount was given up".to_owned())).map_err(Unmounted::Failed)
    }

    fn begin(
        &self,
        target: &Path,
        work: impl FnOnce() -> Result<(), String> + Send + 'static,
    ) -> Result<watch::Receiver<Outcome>, Unmounted> {
        let mut running = self.0.lock();
        if let Some(outcome) = running.get(target) {
            return Ok(outcome.clone());
        }
        let (sender, outcome) = watch::channel(None);
        let begun = thread::Builder::new().name("mount".to_owned()).spawn(move || {
            // Nobody may listen any more.
            let _ = sender.send(Some(work()));
        });
        begun.map_err(|error| Unmounted::Failed(error.to_string()))?;
        running.insert(target.to_owned(), outcome.clone());
        Ok(outcome)
    }

    /// Whether something may yet appear below a directory, which is then not to be removed.
    pub(crate) fn is_busy(&self, directory: &Path) -> bool {
        let mut running = self.0.lock();
        running.retain(|_, outcome| outcome.borrow().is_none() && outcome.has_changed().is_ok());
        running.keys().any(|target| target.starts_with(directory))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_holds_nobody() {
        let mounting = Mounting::default();
        let (answer, answered) = mpsc::channel::<Result<(), String>>();
        let target = Path::new("/pods/a/volumes/v");
        // The clock runs by itself when all wait: the thread does not count.
        let slow = move || answered.recv().unwrap_or(Ok(()));
        assert_eq!(mounting.mount(target, slow).await, Err(Unmounted::Waiting));
        assert!(mounting.is_busy(Path::new("/pods/a")) && !mounting.is_busy(Path::new("/pods/b")));
        // The same again does not begin another.
        let never = || unreachable!("one is under way");
        assert_eq!(mounting.mount(target, never).await, Err(Unmounted::Waiting));
        // The others go on meanwhile. Here the thread's answer must come before the clock's.
        tokio::time::resume();
        assert_eq!(mounting.mount(Path::new("/pods/b/volumes/v"), || Ok(())).await, Ok(()));
        answer.send(Err("no route to host".to_owned())).unwrap();
        let failed = Unmounted::Failed("no route to host".to_owned());
        assert_eq!(mounting.mount(target, never).await, Err(failed));
        assert!(!mounting.is_busy(Path::new("/pods/a")));
        assert_eq!(mounting.mount(target, || Ok(())).await, Ok(()));
    }

    #[tokio::test]
    async fn what_ends_unheard_is_no_longer_busy() {
        let mounting = Mounting::default();
        let target = Path::new("/pods/a/volumes/v");
        let mut outcome = mounting.begin(target, || Ok(())).unwrap();
        outcome.wait_for(Option::is_some).await.unwrap();
        assert!(!mounting.is_busy(Path::new("/pods/a")));
    }
}
