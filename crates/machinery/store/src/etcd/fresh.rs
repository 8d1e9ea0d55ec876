//! Reads that are as new as the newest write anywhere: etcd is asked for its revision, and the state waited for.
//!
//! One question serves everybody who came before it was asked; who comes while it is under way needs the next, as the
//! answer may be older than what they have been told.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::error::{FreshError, RemoteFault};
use crate::etcd::client::{self, Repeat};
use crate::etcd::follow::Follower;
use crate::etcd::proto::etcdserverpb::RangeRequest;
use crate::etcd::proto::etcdserverpb::kv_client::KvClient;
use crate::record::Revision;

/// How long a read waits for the state. Source: upstream's `blockTimeout` of the watch cache.
const WAIT: Duration = Duration::from_secs(3);

type Answer = Result<Revision, RemoteFault>;

/// Who waits for the next question.
#[derive(Debug, Default)]
pub(super) struct Fresh(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    waiting: Vec<oneshot::Sender<Answer>>,
    /// Whether somebody asks, and will go on until nobody waits.
    asking: bool,
}

impl Fresh {
    /// Waits until the state has everything that was there when this was called, or the store is closed.
    pub(super) async fn wait(self: &Arc<Fresh>, follower: &Arc<Follower>) -> Result<(), FreshError> {
        let waited = follower.closing.run_until_cancelled(self.wait_while_open(follower)).await;
        waited.unwrap_or(Err(FreshError::Closed))
    }

    async fn wait_while_open(self: &Arc<Fresh>, follower: &Arc<Follower>) -> Result<(), FreshError> {
        let (sender, receiver) = oneshot::channel();
        let ask = {
            let mut waiting = self.0.lock();
            waiting.waiting.push(sender);
            !std::mem::replace(&mut waiting.asking, true)
        };
        if ask {
            // A task of its own, so that others are answered even if this caller goes away.
            let (fresh, asking) = (Arc::clone(self), Arc::clone(follower));
            follower.run_beside(async move { fresh.ask(&asking).await });
        }
        let revision = receiver.await.map_err(|_| FreshError::Closed)?.map_err(FreshError::Remote)?;
        wait_for(follower, revision, WAIT)
            .await
            .map_err(|message| FreshError::Remote(RemoteFault { message, may_have_happened: false }))
    }

    async fn ask(&self, follower: &Follower) {
        loop {
            let batch = {
                let mut waiting = self.0.lock();
                if waiting.waiting.is_empty() {
                    waiting.asking = false;
                    return;
                }
                std::mem::take(&mut waiting.waiting)
            };
            let answer = newest(follower).await;
            for waiter in batch {
                // Who has gone away is not told.
                let _ = waiter.send(answer.clone());
            }
        }
    }
}

/// etcd's newest revision, agreed on by its members.
async fn newest(follower: &Follower) -> Answer {
    // A key that is not there: only the header counts.
    let key = follower.layout.nothing();
    let asked = follower.client.call(Repeat::Safe, |channel| {
        let request = RangeRequest { key: key.clone(), limit: 1, keys_only: true, ..Default::default() };
        async move { KvClient::new(channel).range(request).await }
    });
    match asked.await {
        Ok(range) => Ok(range.header.map_or(0, |header| header.revision.cast_unsigned())),
        Err(status) => Err(client::read_fault(&status)),
    }
}

/// Waits until a revision is visible. The error says that it is not.
pub(super) async fn wait_for(follower: &Follower, revision: Revision, limit: Duration) -> Result<(), String> {
    follower.wanted.send_if_modified(|wanted| {
        let newer = revision > *wanted;
        *wanted = revision.max(*wanted);
        newer
    });
    told(follower, revision, limit).await
}

/// The same for a revision of which the watch tells anyway.
pub(super) async fn told(follower: &Follower, revision: Revision, limit: Duration) -> Result<(), String> {
    let state = &follower.feed.state;
    let waited = tokio::time::timeout(limit, state.wait_for(revision)).await;
    if waited.is_ok() && state.revision() >= revision {
        return Ok(());
    }
    Err(format!("revision {revision} of etcd has not been seen yet; the newest seen is {}", state.revision()))
}
