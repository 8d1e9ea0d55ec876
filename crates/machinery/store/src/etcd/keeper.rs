//! Forgetting: the state's history by the store's own limits, and etcd's together with everybody who uses it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tonic::Status;

use crate::config::History;
use crate::etcd::client::{self, Repeat};
use crate::etcd::follow::Follower;
use crate::etcd::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::etcd::proto::etcdserverpb::kv_client::KvClient;
use crate::etcd::proto::etcdserverpb::request_op::Request;
use crate::etcd::proto::etcdserverpb::response_op::Response;
use crate::etcd::proto::etcdserverpb::{
    CompactionRequest, Compare, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use crate::retention::{self, Kept, Samples};

/// How often the state's history is looked at.
const ROUND: Duration = Duration::from_secs(1);
/// The key whose version counts compactions. Source: upstream's API server, so that both take turns.
const TURN: &[u8] = b"compact_rev_key";

/// Keeps the history in memory within its limits.
pub(super) async fn forget_here(follower: Arc<Follower>, history: History) {
    let mut samples = Samples::default();
    loop {
        tokio::time::sleep(ROUND).await;
        let now = Instant::now();
        let state = &follower.feed.state;
        let kept = Kept {
            compacted: state.compacted(),
            newest: state.revision(),
            history_bytes: state.history_bytes(),
            live_bytes: state.live_bytes(),
        };
        samples.add(now, kept.newest);
        let shed = |bytes| state.revision_at_weight(bytes);
        if let Some(revision) = retention::target(&history, kept, &mut samples, now, shed) {
            follower.feed.compact(revision);
        }
    }
}

/// What is known of whose turn it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Turn {
    /// The version of the key when it was looked at last.
    version: i64,
    /// etcd's revision then: what may go now, an interval later.
    revision: i64,
}

/// Has etcd forget, at each interval, what was there before the last. Of all who do the same only one does it each time:
/// who moves the key from the version that all saw. Nobody forgets more than what is an interval old, as who did not
/// move it starts anew from what it finds.
pub(super) async fn compact_etcd(follower: Arc<Follower>, interval: Duration) {
    let mut turn = Turn::default();
    loop {
        tokio::time::sleep(interval).await;
        match take_turn(&follower, turn).await {
            Ok((next, compacted)) => {
                turn = next;
                if let Some(revision) = compacted {
                    tracing::debug!(revision, "etcd compacted");
                }
            }
            Err(status) => tracing::warn!(why = client::describe(&status), "etcd could not be compacted"),
        }
    }
}

async fn take_turn(follower: &Follower, turn: Turn) -> Result<(Turn, Option<i64>), Status> {
    let key = Bytes::from_static(TURN);
    let put = PutRequest { key: key.clone(), value: turn.revision.to_string().into(), ..Default::default() };
    let read = RangeRequest { key: key.clone(), ..Default::default() };
    let request = TxnRequest {
        compare: vec![Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Version.into(),
            key,
            target_union: Some(TargetUnion::Version(turn.version)),
        }],
        success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
        failure: vec![RequestOp { request: Some(Request::RequestRange(read)) }],
    };
    // If it is not known whether it was done, the next round sees.
    let answer = follower
        .client
        .call(Repeat::Unsafe, |channel| {
            let request = request.clone();
            async move { KvClient::new(channel).txn(request).await }
        })
        .await?;
    let revision = answer.header.map_or(0, |header| header.revision);
    if !answer.succeeded {
        let held = answer.responses.into_iter().find_map(|op| match op.response {
            Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
            _ => None,
        });
        return Ok((Turn { version: held.map_or(0, |kv| kv.version), revision }, None));
    }
    let next = Turn { version: turn.version + 1, revision };
    if turn.revision == 0 {
        return Ok((next, None));
    }
    let request = CompactionRequest { revision: turn.revision, physical: false };
    let compacted = follower
        .client
        .call(Repeat::Safe, |channel| async move { KvClient::new(channel).compact(request).await })
        .await;
    match compacted {
        Ok(_) => Ok((next, Some(turn.revision))),
        // Somebody was further already.
        Err(status) if status.message() == super::COMPACTED => Ok((next, None)),
        Err(status) => Err(status),
    }
}
