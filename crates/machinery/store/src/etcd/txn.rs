//! The request that a transaction becomes. Pure.

use bytes::Bytes;

use crate::Expect;
use crate::change::{Change, Operation};
use crate::etcd::Layout;
use crate::etcd::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::etcd::proto::etcdserverpb::request_op::Request;
use crate::etcd::proto::etcdserverpb::response_op::Response;
use crate::etcd::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
};
use crate::etcd::proto::mvccpb::KeyValue;
use crate::record::Revision;

/// A request that changes what the operations say if all their expectations hold, and otherwise reads their keys.
pub(super) fn request(layout: &Layout, operations: &[Operation]) -> TxnRequest {
    let mut request = TxnRequest::default();
    for (key, expect, change) in operations {
        let name = Bytes::from(layout.key(key));
        if let Some(compare) = compare(&name, *expect) {
            request.compare.push(compare);
        }
        match change {
            Change::Put { value, lease } => {
                let put = PutRequest {
                    key: name.clone(),
                    value: layout.codec.encode(key, value),
                    lease: lease.map_or(0, |lease| lease.get().cast_signed()),
                    prev_kv: false,
                };
                request.success.push(RequestOp { request: Some(Request::RequestPut(put)) });
            }
            Change::Delete => {
                let delete = DeleteRangeRequest { key: name.clone(), ..Default::default() };
                request.success.push(RequestOp { request: Some(Request::RequestDeleteRange(delete)) });
            }
            Change::Check => {}
        }
        let read = RangeRequest { key: name, ..Default::default() };
        request.failure.push(RequestOp { request: Some(Request::RequestRange(read)) });
    }
    request
}

fn compare(key: &Bytes, expect: Expect) -> Option<Compare> {
    // A key that is not there compares as revision 0.
    let (result, revision) = match expect {
        Expect::Any => return None,
        Expect::Absent => (CompareResult::Equal, 0),
        Expect::Exists => (CompareResult::Greater, 0),
        Expect::ModRevision(revision) => (CompareResult::Equal, revision),
    };
    Some(Compare {
        result: result.into(),
        target: CompareTarget::Mod.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::ModRevision(signed(revision))),
    })
}

/// A revision as etcd writes it. One that does not fit never happens, so it compares as one that has not.
pub(super) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// What etcd did.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The expectations held; whether anything was changed.
    Done { changed: bool },
    /// They did not: what each key held instead.
    Refused(Vec<Option<KeyValue>>),
}

/// Reads the answer to a request.
pub(super) fn outcome(response: TxnResponse) -> Outcome {
    let mut responses = response.responses.into_iter().map(|op| op.response);
    if response.succeeded {
        let changes = |response: Option<Response>| match response {
            Some(Response::ResponsePut(_)) => true,
            Some(Response::ResponseDeleteRange(deleted)) => deleted.deleted > 0,
            _ => false,
        };
        return Outcome::Done { changed: responses.any(changes) };
    }
    let held = |response| match response {
        Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
        _ => None,
    };
    Outcome::Refused(responses.map(held).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::etcd::codec::Plain;
    use crate::{Key, Value};

    fn layout() -> Layout {
        Layout { prefix: b"/p".to_vec(), codec: Arc::new(Plain) }
    }

    #[test]
    fn expectations_become_comparisons_of_revisions() {
        let compared = |expect| {
            let request = request(&layout(), &[(Key::from("/k"), expect, Change::Check)]);
            assert_eq!(request.failure.len(), 1, "the key is read if it is refused");
            assert!(request.success.is_empty());
            request.compare.first().map(|compare| {
                assert_eq!(&compare.key[..], b"/p/k");
                (compare.result(), compare.target_union)
            })
        };
        let revision = |number| Some(TargetUnion::ModRevision(number));
        assert_eq!(compared(Expect::Any), None);
        assert_eq!(compared(Expect::Absent), Some((CompareResult::Equal, revision(0))));
        assert_eq!(compared(Expect::Exists), Some((CompareResult::Greater, revision(0))));
        assert_eq!(compared(Expect::ModRevision(7)), Some((CompareResult::Equal, revision(7))));
        assert_eq!(compared(Expect::ModRevision(u64::MAX)), Some((CompareResult::Equal, revision(i64::MAX))));
    }

    #[test]
    fn changes_become_puts_and_deletions() {
        let put = Change::put(Value::from("v"));
        let operations =
            [(Key::from("/a"), Expect::Any, put), (Key::from("/b"), Expect::Absent, Change::Delete)];
        let request = request(&layout(), &operations);
        let [
            RequestOp { request: Some(Request::RequestPut(put)) },
            RequestOp { request: Some(Request::RequestDeleteRange(delete)) },
        ] = &request.success[..]
        else {
            panic!("{request:?}")
        };
        assert_eq!((&put.key[..], put.lease), (&b"/p/a"[..], 0));
        assert_eq!((&delete.key[..], &delete.range_end[..]), (&b"/p/b"[..], &b""[..]));
    }
}
