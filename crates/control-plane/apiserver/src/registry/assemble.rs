//! Puts lists together item by item, so that never more than one item is held as a tree.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream;
use podium_api::codec::{put_varint, varint_length};
use podium_api::status::ApiError;
use podium_store::Record;
use serde_json::Value;

use crate::body::{Body, BoxError};
use crate::catalogue::Served;
use crate::core::Core;
use crate::hot::{Hot, message_in};

/// Bytes gathered into one piece of a list's body: large enough for the connection, small enough that a thousand
/// lists at once stay in memory.
pub(super) const PIECE: usize = 128 * 1024;

/// Objects that are encoded by the task that asked; more are shared out among threads that may work for long.
const AT_ONCE: usize = 64;

/// A JSON list being written: a head, items between commas, a tail.
pub(super) struct JsonList {
    out: Vec<u8>,
    empty: bool,
}

impl JsonList {
    /// `head` is an object's text without its closing brace; `items` is the name of the list in it.
    pub(super) fn new(head: &Value, items: &str) -> JsonList {
        let mut out = serde_json::to_vec(head).expect("a JSON tree always encodes");
        // The closing brace makes room for the items.
        out.pop();
        out.extend_from_slice(b",\"");
        out.extend_from_slice(items.as_bytes());
        out.extend_from_slice(b"\":[");
        JsonList { out, empty: true }
    }

    pub(super) fn push(&mut self, item: &Value) {
        if !std::mem::replace(&mut self.empty, false) {
            self.out.push(b',');
        }
        serde_json::to_writer(&mut self.out, item).expect("a JSON tree always encodes to memory");
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.out.extend_from_slice(b"]}\n");
        self.out
    }
}

/// A list whose items stand between others' bytes.
struct Gather<N> {
    records: Vec<Arc<Record>>,
    at: usize,
    head: Option<Vec<u8>>,
    tail: &'static [u8],
    /// Adds the item of this number.
    append: N,
}

/// A body of a head, an item for each record, and a tail, of `length` bytes in all. Only one piece is made at a time, as
/// fast as the client takes them.
pub(super) fn gathered(
    records: Vec<Arc<Record>>,
    head: Vec<u8>,
    tail: &'static [u8],
    length: usize,
    append: impl FnMut(&mut BytesMut, usize, &Arc<Record>) -> Result<(), ApiError> + Send + 'static,
) -> Result<Body, ApiError> {
    let mut state = Gather { records, at: 0, head: Some(head), tail, append };
    if length <= PIECE {
        let mut all = BytesMut::with_capacity(length);
        state.fill(&mut all, usize::MAX)?;
        return Ok(Body::full(all.freeze()));
    }
    let pieces = stream::try_unfold(Some(state), |state| async move {
        let Some(mut state) = state else { return Ok::<_, BoxError>(None) };
        let mut piece = BytesMut::with_capacity(PIECE + PIECE / 4);
        let more = state.fill(&mut piece, PIECE)?;
        Ok(Some((Bytes::from(piece), more.then_some(state))))
    });
    Ok(Body::Stream { pieces: Box::pin(pieces), length: Some(length as u64) })
}

impl<N: FnMut(&mut BytesMut, usize, &Arc<Record>) -> Result<(), ApiError>> Gather<N> {
    /// Writes until a piece is full; whether there is more.
    fn fill(&mut self, piece: &mut BytesMut, size: usize) -> Result<bool, ApiError> {
        if let Some(head) = self.head.take() {
            piece.extend_from_slice(&head);
        }
        while self.at < self.records.len() && piece.len() < size {
            let record = &self.records[self.at];
            // Rather a shorter piece than one that has to grow: a thousand lists are made at once.
            if !piece.is_empty() && piece.len() + record.value.len() > size.saturating_add(size / 4) {
                break;
            }
            (self.append)(piece, self.at, record)?;
            self.at += 1;
        }
        if self.at < self.records.len() {
            return Ok(true);
        }
        piece.extend_from_slice(self.tail);
        Ok(false)
    }
}

/// A protobuf list of the kept forms of these records. Every list message has its metadata as field 1 and its items as
/// field 2, and all of it stands behind its length, so the lengths come first.
pub(super) async fn protobuf(
    core: &Arc<Core>,
    served: &Arc<Served>,
    records: Vec<Arc<Record>>,
    metadata: &Value,
    kind: &str,
) -> Result<Body, ApiError> {
    // The forms are mostly shorter than the stored bytes.
    let keep = Hot::has_room_for(records.iter().map(|record| record.value.len()).sum());
    let (records, lengths) = measured(core, served, records, keep).await?;
    let metadata = list_meta(metadata);
    let mut raw = Vec::new();
    field(&mut raw, 1, &metadata);
    let items: usize = lengths.iter().map(|length| 1 + varint_length(*length as u64) + length).sum();
    let mut head = b"k8s\0".to_vec();
    let mut type_meta = Vec::new();
    field(&mut type_meta, 1, served.api_version().as_bytes());
    field(&mut type_meta, 2, kind.as_bytes());
    field(&mut head, 1, &type_meta);
    head.push(2 << 3 | 2);
    put_varint(&mut head, (raw.len() + items) as u64);
    head.extend_from_slice(&raw);
    // Fields 3 and 4 of the envelope, empty, as upstream writes them.
    const TAIL: &[u8] = &[3 << 3 | 2, 0, 4 << 3 | 2, 0];
    let length = head.len() + items + TAIL.len();
    let (core, served) = (Arc::clone(core), Arc::clone(served));
    gathered(records, head, TAIL, length, move |out, index, record| {
        let form = core.hot.form(&served, record, keep)?;
        let message = message_in(&form).unwrap_or_default();
        if message.len() != lengths[index] {
            return Err(ApiError::internal("an object's protobuf form changed its length"));
        }
        out.extend_from_slice(&[2 << 3 | 2]);
        put_varint(out, message.len() as u64);
        out.extend_from_slice(message);
        Ok(())
    })
}

/// The records that have a form, with the lengths of their messages. One damaged object must not hide the others.
async fn measured(
    core: &Arc<Core>,
    served: &Arc<Served>,
    records: Vec<Arc<Record>>,
    keep: bool,
) -> Result<(Vec<Arc<Record>>, Vec<usize>), ApiError> {
    if records.len() <= AT_ONCE {
        return Ok(measure(core, served, &records, keep));
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut parts = Vec::new();
    for part in records.chunks(records.len().div_ceil(threads)) {
        let (core, served, part) = (Arc::clone(core), Arc::clone(served), part.to_vec());
        parts.push(tokio::task::spawn_blocking(move || measure(&core, &served, &part, keep)));
    }
    let (mut good, mut lengths) = (Vec::with_capacity(records.len()), Vec::with_capacity(records.len()));
    for part in parts {
        let (records, measured) = part.await.map_err(|error| ApiError::internal(error.to_string()))?;
        good.extend(records);
        lengths.extend(measured);
    }
    Ok((good, lengths))
}

fn measure(
    core: &Core,
    served: &Served,
    records: &[Arc<Record>],
    keep: bool,
) -> (Vec<Arc<Record>>, Vec<usize>) {
    let mut good = (Vec::with_capacity(records.len()), Vec::with_capacity(records.len()));
    for record in records {
        match core.hot.length(served, record, keep) {
            Ok(length) => {
                good.0.push(Arc::clone(record));
                good.1.push(length);
            }
            Err(error) => tracing::error!(key = %record.key, %error, "left out of a list"),
        }
    }
    good
}

/// A ListMeta.
fn list_meta(metadata: &Value) -> Vec<u8> {
    let mut meta = Vec::new();
    for (tag, name) in [(2, "resourceVersion"), (3, "continue")] {
        if let Some(text) = metadata[name].as_str() {
            field(&mut meta, tag, text.as_bytes());
        }
    }
    if let Some(count) = metadata["remainingItemCount"].as_u64() {
        // Field 4, a varint.
        meta.push(4 << 3);
        put_varint(&mut meta, count);
    }
    meta
}

/// A length-delimited field.
fn field(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn no_piece_grows() {
        use futures::StreamExt;
        use podium_store::Key;

        let record = |size: usize| {
            let value = Bytes::from(vec![b'x'; size]);
            Arc::new(Record::new(Key::from("/registry/secrets/a/b"), value, 1, 1, 1, None, None))
        };
        let records: Vec<_> = [100_000, 100_000, 10, 3_000, 70_000, 500_000, 1].map(record).into();
        let total = records.iter().map(|record| record.value.len()).sum::<usize>() + 2;
        let append = |out: &mut BytesMut, _: usize, record: &Arc<Record>| {
            out.extend_from_slice(&record.value);
            Ok(())
        };
        let body = gathered(records, b"[".to_vec(), b"]", total, append).unwrap();
        let Body::Stream { pieces, .. } = body else { panic!("it is too large for one piece") };
        let sizes: Vec<usize> = pieces.map(|piece| piece.unwrap().len()).collect().await;
        // What is larger than a piece is one.
        assert_eq!(sizes, [100_001, 103_010, 70_000, 500_000, 2]);
    }

    #[test]
    fn json_parts_make_the_whole() {
        let metadata = json!({"resourceVersion": "7", "continue": "token", "remainingItemCount": 300});
        let mut text = JsonList::new(&json!({"kind": "ConfigMapList", "metadata": metadata}), "items");
        text.push(&json!({"metadata": {"name": "a"}}));
        text.push(&json!({"metadata": {"name": "b"}}));
        let back: Value = serde_json::from_slice(&text.finish()).unwrap();
        assert_eq!(back["items"].as_array().unwrap().len(), 2);
        assert_eq!(back["metadata"], metadata);
    }
}
