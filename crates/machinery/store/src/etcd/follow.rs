//! Follows etcd: one watch, whose events feed the state, over lost connections, restarts and compaction.
//!
//! Where a server's progress answers can be trusted, only the store's own keys are watched, and the server is asked
//! how far the watch has got when somebody waits for a revision that brought nothing of ours. Older servers are watched
//! as a whole, as then every revision has an event.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Status, Streaming};

use crate::engine::Feed;
use crate::etcd::apply::{self, Missed};
use crate::etcd::client::{self, Client, Repeat};
use crate::etcd::proto::etcdserverpb::kv_client::KvClient;
use crate::etcd::proto::etcdserverpb::watch_client::WatchClient;
use crate::etcd::proto::etcdserverpb::watch_request::RequestUnion;
use crate::etcd::proto::etcdserverpb::{
    RangeRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use crate::etcd::txn::signed;
use crate::etcd::{Layout, MAX_MESSAGE_BYTES};
use crate::record::{Record, Revision};
use crate::store::RangeResult;

/// How often progress is asked for while somebody waits. Source: upstream's cacher.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// Between attempts to watch, at first and at most.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MOST: Duration = Duration::from_secs(2);
/// How long a watch may take to be made.
const CREATE: Duration = Duration::from_secs(8);
/// Keys read at once: some megabytes of objects as clusters have them.
const PAGE: i64 = 1000;

/// What the follower and those who wait for it share.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) client: Client,
    pub(super) layout: Layout,
    pub(super) feed: Feed,
    /// The newest revision that somebody waits for.
    pub(super) wanted: watch::Sender<Revision>,
    /// How often the state was read again because something had been missed.
    pub(super) resets: watch::Sender<u64>,
    /// What runs beside the store's callers: this, and what else is started by [`Follower::run_beside`]. It ends after
    /// the last change, which waits for it.
    pub(super) beside: TaskTracker,
    /// Ends it.
    pub(super) closing: CancellationToken,
}

/// Why a watch ended.
#[derive(Debug)]
enum Ended {
    /// The connection or the server.
    Lost(String),
    /// Events are gone, or were not told.
    Missed(String),
}

impl From<Status> for Ended {
    fn from(status: Status) -> Ended {
        Ended::Lost(client::describe(&status))
    }
}

impl From<Missed> for Ended {
    fn from(missed: Missed) -> Ended {
        Ended::Missed(format!(
            "{} at {} does not follow from what was told before",
            missed.key, missed.revision
        ))
    }
}

impl Follower {
    /// Runs something until the store is closed; it may then be stopped wherever it waits.
    pub(super) fn run_beside(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.beside.spawn(self.closing.clone().run_until_cancelled_owned(task));
    }

    /// Ends what runs beside.
    pub(super) fn end(&self) {
        self.closing.cancel();
        self.beside.close();
    }

    /// Follows for ever.
    pub(super) async fn run(self: Arc<Follower>) {
        let mut pause = RETRY_FIRST;
        loop {
            let before = self.feed.revision();
            let (number, channel) = self.client.member();
            let ended = self.watch(channel).await;
            if self.feed.revision() > before {
                pause = RETRY_FIRST;
            }
            match ended {
                Ended::Lost(why) => {
                    tracing::warn!(member = self.client.name(number), why, "the watch on etcd was lost");
                    self.client.leave(number);
                }
                Ended::Missed(why) => {
                    tracing::warn!(why, "etcd no longer has what happened since; the state is read again");
                    if let Err(status) = self.read_again().await {
                        tracing::warn!(why = client::describe(&status), "the state could not be read again");
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MOST);
        }
    }

    async fn watch(&self, channel: tonic::transport::Channel) -> Ended {
        match self.watch_until_it_ends(channel).await {
            Ok(ended) | Err(ended) => ended,
        }
    }

    async fn watch_until_it_ends(&self, channel: tonic::transport::Channel) -> Result<Ended, Ended> {
        let progress = self.client.version(channel.clone()).await?.progress_is_reliable();
        let (requests, outgoing) = mpsc::channel(4);
        let mut request = Request::new(ReceiverStream::new(outgoing));
        // A member that has lost its leader must say so instead of being silent.
        request.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
        let (key, range_end) = if progress { self.layout.range() } else { everything() };
        let create = WatchCreateRequest {
            key,
            range_end,
            start_revision: signed(self.feed.revision() + 1),
            progress_notify: true,
            ..Default::default()
        };
        let send = |union| WatchRequest { request_union: Some(union) };
        // The channel has room for it, and its other end is here.
        let _ = requests.try_send(send(RequestUnion::CreateRequest(create)));
        let mut watch = WatchClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let created = tokio::time::timeout(CREATE, watch.watch(request)).await;
        let mut events =
            created.map_err(|_| Ended::Lost("the watch was not made in time".to_owned()))??.into_inner();
        let mut wanted = self.wanted.subscribe();
        // The newest revision that has been asked for.
        let mut asked = 0;
        loop {
            let target = *wanted.borrow_and_update();
            let behind = progress && target > self.feed.revision();
            if behind && target > asked {
                // If the channel is full, it is being asked.
                let _ = requests.try_send(send(RequestUnion::ProgressRequest(WatchProgressRequest {})));
                asked = target;
            }
            tokio::select! {
                biased;
                response = next(&mut events) => {
                    if let Some(ended) = self.take(response?, progress)? {
                        return Ok(ended);
                    }
                }
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return Ok(Ended::Lost("nobody waits any more".to_owned()));
                    }
                }
                // A server whose watch is not up to date yet does not answer.
                () = tokio::time::sleep(ASK_AGAIN), if behind => asked = 0,
            }
        }
    }

    /// Takes what the watch says.
    fn take(&self, response: WatchResponse, progress: bool) -> Result<Option<Ended>, Ended> {
        if response.compact_revision > 0 {
            let why = format!("etcd has compacted up to {}", response.compact_revision);
            return Ok(Some(Ended::Missed(why)));
        }
        if response.canceled {
            return Ok(Some(Ended::Lost(response.cancel_reason)));
        }
        if response.created {
            return Ok(None);
        }
        if response.events.is_empty() {
            // Told on the events' own way, or where it cannot overtake them.
            let revision = response.header.map_or(0, |header| header.revision.cast_unsigned());
            if progress && revision > self.feed.revision() {
                self.feed.publish(vec![crate::engine::Published { revision, events: Vec::new() }]);
            }
            return Ok(None);
        }
        let transactions = apply::transactions(&self.layout, &self.feed, &response.events)?;
        self.feed.publish(transactions);
        Ok(None)
    }

    /// Reads everything, and goes on from there.
    async fn read_again(&self) -> Result<(), Status> {
        let (records, revision) = read_all(&self.client, &self.layout).await?;
        if revision > self.feed.revision() {
            // First, so that whoever waits for a change knows that it may never be seen.
            self.resets.send_modify(|count| *count += 1);
            self.feed.reset(&records, revision);
        }
        Ok(())
    }
}

/// The next answer; its end is an error too.
async fn next(events: &mut Streaming<WatchResponse>) -> Result<WatchResponse, Ended> {
    events.message().await?.ok_or_else(|| Ended::Lost("etcd ended the watch".to_owned()))
}

/// The range of all keys that there are.
fn everything() -> (Bytes, Bytes) {
    (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"))
}

/// Every record of the store, in key order, as of one revision.
pub(super) async fn read_all(
    client: &Client,
    layout: &Layout,
) -> Result<(Vec<Arc<Record>>, Revision), Status> {
    // A compaction may overtake a slow read; then it begins again.
    let mut attempts = 0;
    loop {
        match read_at_one_revision(client, layout).await {
            Err(status) if status.code() == tonic::Code::OutOfRange && attempts < 5 => attempts += 1,
            answer => return answer,
        }
    }
}

async fn read_at_one_revision(
    client: &Client,
    layout: &Layout,
) -> Result<(Vec<Arc<Record>>, Revision), Status> {
    let mut found = read_range(client, layout, layout.range(), 0, usize::MAX).await?;
    // The order in etcd may be another.
    found.records.sort_unstable_by(|left, right| left.key.cmp(&right.key));
    Ok((found.records, found.revision))
}

/// The first records from one key in etcd to another, in etcd's order, as of one revision; 0 is the newest.
pub(super) async fn read_range(
    client: &Client,
    layout: &Layout,
    (mut key, range_end): (Bytes, Bytes),
    revision: Revision,
    limit: usize,
) -> Result<RangeResult, Status> {
    let mut records = Vec::new();
    let mut revision = signed(revision);
    loop {
        let left = limit.saturating_sub(records.len());
        let page_size = i64::try_from(left).unwrap_or(PAGE).min(PAGE);
        let request = RangeRequest {
            key,
            range_end: range_end.clone(),
            limit: page_size,
            revision,
            ..Default::default()
        };
        let page = client
            .call(Repeat::Safe, |channel| {
                let request = request.clone();
                async move {
                    KvClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES).range(request).await
                }
            })
            .await?;
        if revision == 0 {
            revision = page.header.map_or(0, |header| header.revision);
        }
        for kv in &page.kvs {
            if let Some(key) = layout.key_from_etcd(&kv.key) {
                records.push(apply::record(layout, key, kv));
            }
        }
        match page.kvs.last() {
            Some(last) if page.more && records.len() < limit => {
                key = [last.key.as_ref(), b"\0"].concat().into();
            }
            _ => {
                let remaining = u64::try_from(page.count).unwrap_or(0).saturating_sub(page.kvs.len() as u64);
                let revision = revision.cast_unsigned();
                return Ok(RangeResult { records, more: page.more, remaining, revision });
            }
        }
    }
}
