//! How far pulls are: for whoever waits for one, and for the log.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use podium_cri::images;

/// How often the log tells of a pull that goes on. Source: containerd tells its events as often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What is being pulled.
#[derive(Debug, Default)]
pub(crate) struct Pulls(Arc<Mutex<Running>>);

#[derive(Debug, Default)]
struct Running {
    next: u64,
    /// By when they began.
    all: BTreeMap<u64, (String, Arc<Counts>)>,
}

/// In bytes, of what was not here.
#[derive(Debug, Default)]
struct Counts {
    fetched: AtomicU64,
    /// Zero while it is not known.
    total: AtomicU64,
}

/// One pull; it is over when this is dropped.
#[derive(Debug)]
pub(crate) struct Pull {
    number: u64,
    counts: Arc<Counts>,
    running: Arc<Mutex<Running>>,
}

impl Pulls {
    /// Notes a pull's beginning. `name` is whole.
    pub(crate) fn begin(&self, name: &str) -> Pull {
        let counts = Arc::<Counts>::default();
        let mut running = self.0.lock();
        let number = running.next;
        running.next += 1;
        running.all.insert(number, (name.to_owned(), Arc::clone(&counts)));
        Pull { number, counts, running: Arc::clone(&self.0) }
    }

    /// All that go on, the oldest first.
    pub(crate) fn list(&self) -> Vec<images::Pull> {
        let running = self.0.lock();
        let shown = |(name, counts): &(String, Arc<Counts>)| images::Pull {
            image: name.clone(),
            bytes: counts.fetched.load(Relaxed),
            total_bytes: counts.total.load(Relaxed),
        };
        running.all.values().map(shown).collect()
    }
}

impl Pull {
    /// So much is to be fetched.
    pub(crate) fn expect(&self, bytes: u64) {
        self.counts.total.store(bytes, Relaxed);
    }

    /// So much more was fetched.
    pub(crate) fn add(&self, bytes: u64) {
        self.counts.fetched.fetch_add(bytes, Relaxed);
    }

    /// So much of it is fetched again: the host does not go on where it broke off.
    pub(crate) fn take_back(&self, bytes: u64) {
        self.counts.fetched.fetch_sub(bytes, Relaxed);
    }

    /// Tells the log of it now and then, until dropped.
    pub(crate) async fn tell(&self, name: &str) -> Infallible {
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            let (bytes, total) = (self.counts.fetched.load(Relaxed), self.counts.total.load(Relaxed));
            tracing::info!(image = name, bytes, total, "an image is being pulled");
        }
    }
}

impl Drop for Pull {
    fn drop(&mut self) {
        self.running.lock().all.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pulls_are_listed_while_they_go_on() {
        let pulls = Pulls::default();
        let (first, second) = (pulls.begin("q.io/a:v1"), pulls.begin("q.io/a:v1"));
        first.expect(100);
        first.add(60);
        first.take_back(60);
        first.add(10);
        let shown =
            |image: &str, bytes, total_bytes| images::Pull { image: image.into(), bytes, total_bytes };
        assert_eq!(pulls.list(), [shown("q.io/a:v1", 10, 100), shown("q.io/a:v1", 0, 0)]);
        drop(first);
        assert_eq!(pulls.list(), [shown("q.io/a:v1", 0, 0)]);
        drop(second);
        assert!(pulls.list().is_empty());
    }
}
