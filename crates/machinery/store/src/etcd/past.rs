//! Reads as of a revision that the state does not have (any more, or since it was opened) but etcd does.

use bytes::Bytes;
use tonic::{Code, Status};

use crate::error::ReadError;
use crate::etcd::follow::{self, Follower};
use crate::etcd::{Layout, client};
use crate::key::KeyRange;
use crate::record::Revision;
use crate::store::RangeResult;

/// Reads the range at the revision. `None` for a range that lies in no one collection, whose keys may be anywhere in etcd.
pub(super) async fn range(
    follower: &Follower,
    range: &KeyRange,
    revision: Revision,
    limit: usize,
) -> Option<Result<RangeResult, ReadError>> {
    let bounds = bounds(&follower.layout, range)?;
    let read = follow::read_range(&follower.client, &follower.layout, bounds, revision, limit);
    Some(read.await.map_err(|status| refusal(&status, follower.feed.state.compacted())))
}

fn refusal(status: &Status, compacted: Revision) -> ReadError {
    match status.code() {
        Code::OutOfRange => ReadError::Compacted { compacted },
        _ => ReadError::Remote(client::read_fault(status)),
    }
}

/// Where in etcd the keys of a range lie, which is within one collection: there the order is the same.
fn bounds(layout: &Layout, range: &KeyRange) -> Option<(Bytes, Bytes)> {
    let collection = range.collection()?;
    let place = |key: &[u8]| Bytes::from(layout.key(key));
    let end = match range.end() {
        Some(end) if end.starts_with(collection) => place(end),
        // The end of the collection itself.
        _ => match KeyRange::prefix(layout.key(collection)).end() {
            Some(end) => Bytes::copy_from_slice(end),
            None => Bytes::from_static(b"\0"),
        },
    };
    Some((place(range.start()), end))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::etcd::codec::{Codec, Plain};
    use crate::key::Key;
    use crate::record::Value;

    /// Keys of pods stand elsewhere, as upstream's do.
    #[derive(Debug)]
    struct Moved;

    impl Codec for Moved {
        fn key_to_etcd(&self, key: &[u8]) -> Vec<u8> {
            [b"/p/", key.strip_prefix(b"/r/core/pods/").expect("a pod")].concat()
        }

        fn key_from_etcd(&self, key: &[u8]) -> Option<Key> {
            Some(Key::from([b"/r/core/pods/", key.strip_prefix(b"/p/")?].concat()))
        }

        fn encode(&self, key: &Key, value: &Value) -> Bytes {
            Plain.encode(key, value)
        }

        fn decode(&self, key: &Key, bytes: Bytes) -> Result<Value, String> {
            Plain.decode(key, bytes)
        }
    }

    #[test]
    fn a_range_of_a_collection_is_one_in_etcd() {
        let layout = Layout { prefix: b"/x".to_vec(), codec: Arc::new(Moved) };
        let at = |range: &KeyRange| {
            let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).expect("text");
            bounds(&layout, range).map(|(start, end)| (text(start), text(end)))
        };
        let found = |start: &str, end: &str| Some((start.to_owned(), end.to_owned()));
        let pods = KeyRange::prefix("/r/core/pods/");
        assert_eq!(at(&pods), found("/x/p/", "/x/p0"));
        assert_eq!(at(&pods.after(b"/r/core/pods/ns/a")), found("/x/p/ns/a\0", "/x/p0"));
        assert_eq!(at(&KeyRange::prefix("/r/core/pods/ns/")), found("/x/p/ns/", "/x/p/ns0"));
        assert_eq!(at(&KeyRange::single("/r/core/pods/ns/a")), found("/x/p/ns/a", "/x/p/ns/a\0"));
        assert_eq!(at(&KeyRange::prefix("/r/core/")), None);
        assert_eq!(at(&KeyRange::all()), None);
    }

    #[test]
    fn a_revision_that_etcd_has_forgotten_is_compacted() {
        let gone = Status::out_of_range(crate::etcd::COMPACTED);
        assert_eq!(refusal(&gone, 7), ReadError::Compacted { compacted: 7 });
        let away = refusal(&Status::unavailable("nobody"), 7);
        assert!(matches!(away, ReadError::Remote(fault) if !fault.may_have_happened));
    }
}
