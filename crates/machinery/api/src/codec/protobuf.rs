//! The protobuf form, transcoded from and to the JSON tree by the schema's tags: no generated message types.
//!
//! An object travels in an envelope: four magic bytes and a `runtime.Unknown` that names its kind.

mod discovery;
mod read;
pub(crate) mod wire;
mod write;

use bytes::BufMut;
use serde_json::Value;

use crate::resources::{group_version, split_api_version};
use crate::schema::{TypeId, type_of};
use crate::status::ApiError;
use wire::{Reader, Writer, put_varint, varint_length};

pub(super) use read::read_message;
use write::write_message;

/// What a protobuf body starts with.
const MAGIC: &[u8; 4] = b"k8s\0";

const JSON_TYPE: &str = "application/json";

/// A body that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("unexpected EOF")]
    End,
    #[error("proto: illegal wireType {0}")]
    WireType(u8),
    #[error("proto: integer overflow")]
    Overflow,
    #[error("proto: nesting exceeds the limit")]
    TooDeep,
    #[error("{0}")]
    Value(String),
}

/// The opened envelope.
#[derive(Debug, Default)]
pub(super) struct Envelope<'a> {
    pub(super) api_version: &'a str,
    pub(super) kind: &'a str,
    pub(super) raw: &'a [u8],
    pub(super) content_type: &'a str,
}

pub(super) fn open(body: &[u8]) -> Result<Envelope<'_>, Malformed> {
    let Some(unknown) = body.strip_prefix(MAGIC) else {
        return Err(Malformed::Value(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
                .to_owned(),
        ));
    };
    let mut envelope = Envelope::default();
    let mut reader = Reader::new(unknown);
    while let Some((tag, wire)) = reader.key()? {
        match tag {
            1 => {
                let mut meta = Reader::new(reader.bytes(wire)?);
                while let Some((tag, wire)) = meta.key()? {
                    match tag {
                        1 => envelope.api_version = meta.text(wire)?,
                        2 => envelope.kind = meta.text(wire)?,
                        _ => meta.skip(wire)?,
                    }
                }
            }
            2 => envelope.raw = reader.bytes(wire)?,
            4 => envelope.content_type = reader.text(wire)?,
            _ => reader.skip(wire)?,
        }
    }
    Ok(envelope)
}

/// The object in an envelope. A raw JSON object inside is taken as it is.
pub(super) fn read_envelope(envelope: &Envelope<'_>, ty: TypeId) -> Result<Value, Malformed> {
    if envelope.content_type == JSON_TYPE {
        let text = std::str::from_utf8(envelope.raw).map_err(|e| Malformed::Value(e.to_string()))?;
        return super::json::read_any(text).map_err(Malformed::Value);
    }
    let mut object = read_message(ty, envelope.raw, 0)?;
    if !envelope.kind.is_empty() {
        object.insert("kind".to_owned(), Value::from(envelope.kind));
        object.insert("apiVersion".to_owned(), Value::from(envelope.api_version));
    }
    Ok(Value::Object(object))
}

/// Reads an enveloped object of any known kind.
pub(super) fn read_any(body: &[u8]) -> Result<Value, Malformed> {
    let envelope = open(body)?;
    let (group, version) = split_api_version(envelope.api_version);
    let Some(ty) = type_of(group, version, envelope.kind) else {
        let known = group_version(group, version);
        return Err(Malformed::Value(super::not_registered(envelope.kind, &known)));
    };
    read_envelope(&envelope, ty)
}

/// Writes an object with its envelope. `None` if the schema does not know its kind.
pub(super) fn write_enveloped(object: &Value) -> Option<Result<Vec<u8>, ApiError>> {
    let (api_version, kind) = super::kind_of(object);
    let (group, version) = split_api_version(api_version);
    let ty = type_of(group, version, kind);
    if ty.is_none() && (api_version, kind) != discovery::KIND {
        return None;
    }
    let mut writer = Writer::with_capacity(1024);
    writer.raw(MAGIC);
    meta(&mut writer, api_version, kind);
    let start = writer.begin(2);
    let written = match ty {
        Some(ty) => write_message(&mut writer, ty, object),
        None => discovery::list(&mut writer, object),
    };
    if let Err(error) = written {
        return Some(Err(error));
    }
    writer.end(start);
    // Upstream writes both remaining fields, empty.
    writer.text(3, "");
    writer.text(4, "");
    Some(Ok(writer.into_bytes()))
}

/// An object without a protobuf form, as JSON in an envelope.
pub(super) fn wrap_json(object: &Value) -> Vec<u8> {
    let (api_version, kind) = super::kind_of(object);
    let mut writer = Writer::with_capacity(1024);
    writer.raw(MAGIC);
    meta(&mut writer, api_version, kind);
    writer.bytes(2, object.to_string().as_bytes());
    writer.text(3, "");
    writer.text(4, JSON_TYPE);
    writer.into_bytes()
}

fn meta(writer: &mut Writer, api_version: &str, kind: &str) {
    let start = writer.begin(1);
    writer.text(1, api_version);
    writer.text(2, kind);
    writer.end(start);
}

/// What stands before the bytes of an enveloped object in a stream of `WatchEvent`s: the length of the event, as upstream
/// frames streams, its `type`, and the beginning of its `object`, a `RawExtension` whose only field is the last of all.
pub(super) fn watch_frame_head(kind: &str, length: usize, out: &mut impl BufMut) {
    // A length-delimited field with a tag below 16: one byte of key, its length, its bytes.
    let field = |length: usize| 1 + varint_length(length as u64) + length;
    let object = field(length);
    let event = field(kind.len()) + field(object);
    out.put_u32(u32::try_from(event).unwrap_or(u32::MAX));
    put_field_head(out, 1, kind.len());
    out.put_slice(kind.as_bytes());
    put_field_head(out, 2, object);
    put_field_head(out, 1, length);
}

/// The key and the length of a length-delimited field with a tag below 16.
fn put_field_head(out: &mut impl BufMut, tag: u8, length: usize) {
    out.put_u8(tag << 3 | 2);
    put_varint(out, length as u64);
}
