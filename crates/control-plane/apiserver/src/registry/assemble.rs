//! Puts lists together item by item, so that never more than one item is held as a tree.

use podium_api::codec;
use podium_api::status::ApiError;
use serde_json::Value;

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

/// A protobuf list being written. Every list message has its metadata as field 1 and its items as field 2.
pub(super) struct ProtobufList {
    raw: Vec<u8>,
}

impl ProtobufList {
    /// An empty list; `metadata` is a ListMeta.
    pub(super) fn new(metadata: &Value) -> ProtobufList {
        let mut meta = Vec::new();
        for (tag, name) in [(2, "resourceVersion"), (3, "continue")] {
            if let Some(text) = metadata[name].as_str() {
                field(&mut meta, tag, text.as_bytes());
            }
        }
        if let Some(count) = metadata["remainingItemCount"].as_u64() {
            // Field 4, a varint.
            meta.push(4 << 3);
            varint(&mut meta, count);
        }
        let mut raw = Vec::new();
        field(&mut raw, 1, &meta);
        ProtobufList { raw }
    }

    /// Adds an item.
    ///
    /// Errors: 500 where a stored object does not fit its own type.
    pub(super) fn push(&mut self, item: &Value) -> Result<(), ApiError> {
        let enveloped = codec::json_to_protobuf(item)?;
        let message = message_in(&enveloped)
            .ok_or_else(|| ApiError::internal("a protobuf envelope without a message"))?;
        field(&mut self.raw, 2, message);
        Ok(())
    }

    /// The list in the envelope that all protobuf bodies have (`runtime.Unknown` behind a magic number).
    pub(super) fn finish(self, api_version: &str, kind: &str) -> Vec<u8> {
        let mut type_meta = Vec::new();
        field(&mut type_meta, 1, api_version.as_bytes());
        field(&mut type_meta, 2, kind.as_bytes());
        let mut out = Vec::with_capacity(self.raw.len() + 64);
        out.extend_from_slice(b"k8s\0");
        field(&mut out, 1, &type_meta);
        field(&mut out, 2, &self.raw);
        field(&mut out, 3, b"");
        field(&mut out, 4, b"");
        out
    }
}

/// The message in an envelope: its field 2. All fields of an envelope are length-delimited.
fn message_in(enveloped: &[u8]) -> Option<&[u8]> {
    let mut rest = enveloped.strip_prefix(b"k8s\0")?;
    loop {
        let (tag, tail) = rest.split_first()?;
        let (length, tail) = read_varint(tail)?;
        let (bytes, tail) = tail.split_at_checked(usize::try_from(length).ok()?)?;
        if *tag == (2 << 3 | 2) {
            return Some(bytes);
        }
        rest = tail;
    }
}

fn read_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (index, byte) in bytes.iter().enumerate().take(9) {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[index + 1..]));
        }
    }
    None
}

/// A length-delimited field.
fn field(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        // The low seven bits fit a byte with the continuation bit.
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_parts_make_the_whole() {
        let metadata = json!({"resourceVersion": "7", "continue": "token", "remainingItemCount": 300});
        let items = [
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v".repeat(200)}}),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}}),
        ];
        let mut list = ProtobufList::new(&metadata);
        let mut text = JsonList::new(&json!({"kind": "ConfigMapList", "metadata": metadata}), "items");
        for item in &items {
            list.push(item).unwrap();
            text.push(item);
        }
        let whole =
            json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": metadata, "items": items});
        let bytes = list.finish("v1", "ConfigMapList");
        assert_eq!(bytes, codec::encode(&whole, codec::Encoding::Protobuf));
        let back: Value = serde_json::from_slice(&text.finish()).unwrap();
        assert_eq!(back["items"].as_array().unwrap().len(), 2);
        assert_eq!(back["metadata"], metadata);
    }
}
