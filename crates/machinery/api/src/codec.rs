//! Decoding and encoding of objects: JSON, YAML and protobuf, checked against the schema.
//!
//! The schema decides everything: there is no type per kind. Refusals are worded as upstream's API server words them,
//! and a decoded tree is canonical: what Go's structs would drop is dropped, what they always write is there, so that
//! equal objects are equal trees whichever client and encoding they came from.

mod canonical;
mod convert;
pub(crate) mod json;
pub(crate) mod protobuf;
mod scalar;
#[cfg(test)]
mod tests;
pub(crate) mod yaml;

use std::borrow::Cow;

use bytes::BufMut;
use serde_json::Value;

pub(crate) use canonical::is_canonical;
pub use protobuf::wire::{put_varint, varint_length};

use crate::resources::{self, group_version, parse_api_version, split_api_version};
use crate::schema::{self, TypeId};
use crate::status::ApiError;

/// The form of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

/// What becomes of unknown and duplicate fields: the `fieldValidation` parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum FieldValidation {
    /// The request is refused.
    #[default]
    Strict,
    /// The request succeeds with warnings.
    Warn,
    /// They are dropped silently.
    Ignore,
}

/// A decoded body.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object, with `apiVersion` and `kind`.
    pub object: Value,
    /// Texts for `Warning` headers: unknown and duplicate fields under [`FieldValidation::Warn`].
    pub warnings: Vec<String>,
}

/// Why an object made in memory does not fit its type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// A value has the wrong type.
    #[error("{0}")]
    Type(String),
    /// Unknown or duplicate fields, under [`FieldValidation::Strict`]; one text each.
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
}

/// Upstream names the place its scheme is made in; clients have seen it for years.
const SCHEME: &str = "pkg/api/legacyscheme/scheme.go:30";

fn not_registered(kind: &str, api_version: &str) -> String {
    format!("no kind {kind:?} is registered for version {api_version:?} in scheme {SCHEME:?}")
}

/// `apiVersion` and `kind` of an object; empty where absent.
pub(crate) fn kind_of(object: &Value) -> (&str, &str) {
    let text = |name| object.get(name).and_then(Value::as_str).unwrap_or_default();
    (text("apiVersion"), text("kind"))
}

/// The kind that a body should hold.
#[derive(Clone, Copy, Debug)]
struct Expected<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
}

impl Expected<'_> {
    fn bad(&self, version: &str, kind: &str, why: &str) -> ApiError {
        ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {}: {why}",
            self.kind
        ))
    }

    /// The body does not say, or not legibly, what it is.
    fn unrecognized(&self, why: &str, body: &[u8]) -> ApiError {
        let summary = summary(body);
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {why} ({summary})",
            self.kind
        ))
    }
}

/// The beginning of a body: as text if it looks like JSON, else in hexadecimal.
fn summary(body: &[u8]) -> String {
    const SHOWN: usize = 30;
    let start = &body[..body.len().min(SHOWN)];
    let more = if body.len() > SHOWN { " ..." } else { "" };
    match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(start)),
        Some(_) => {
            let hex: String = start.iter().map(|b| format!("{b:02x}")).collect();
            format!("{hex}{more}")
        }
    }
}

/// Decodes a body that should hold `kind` and checks it against the schema.
///
/// Unknown and duplicate fields are treated as `validation` says, nulls are dropped, quantities are brought into
/// canonical form, `apiVersion` and `kind` are filled in where the body leaves them out.
///
/// # Errors
/// 400 in upstream's words if the body is malformed, too deep, of another kind, or a value has the wrong type.
pub fn decode(
    body: &[u8],
    encoding: Encoding,
    group: &str,
    version: &str,
    kind: &str,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let expected = Expected { group, version, kind };
    let Some(ty) = schema::type_of(group, version, kind) else {
        return Err(ApiError::bad_request(not_registered(kind, &group_version(group, version))));
    };
    match encoding {
        Encoding::Json => {
            let text = text_of(body);
            decode_text(&text, body, ty, expected, validation, Vec::new())
        }
        Encoding::Yaml => {
            let (text, duplicates) = yaml_to_json_text(body).map_err(|e| expected.unrecognized(&e, body))?;
            decode_text(&text, body, ty, expected, validation, duplicates)
        }
        Encoding::Protobuf => decode_protobuf(body, ty, expected),
    }
}

/// A body as text. Bytes that are not UTF-8 become U+FFFD, as in Go.
fn text_of(body: &[u8]) -> Cow<'_, str> {
    // The check alone is much faster than the conversion.
    std::str::from_utf8(body).map_or_else(|_| String::from_utf8_lossy(body), Cow::Borrowed)
}

fn yaml_to_json_text(body: &[u8]) -> Result<(String, Vec<String>), String> {
    let (value, duplicates) =
        yaml::to_json(body).map_err(|e| format!("error converting YAML to JSON: {e}"))?;
    let duplicates = duplicates
        .into_iter()
        .map(|d| format!("error converting YAML to JSON: yaml: unmarshal errors:\n  {d}"))
        .collect();
    Ok((value.to_string(), duplicates))
}

fn decode_text(
    text: &str,
    body: &[u8],
    ty: TypeId,
    expected: Expected<'_>,
    validation: FieldValidation,
    mut strict: Vec<String>,
) -> Result<Decoded, ApiError> {
    let json_error = |why: &str| {
        expected.unrecognized(&format!("couldn't get version/kind; json parse error: {why}"), body)
    };
    let mut read = json::read(text, ty).map_err(|e| json_error(&e.message(text)))?;
    if read.meta_error || !read.value.is_object() && read.type_error.is_some() {
        return Err(json_error(&read.type_error.unwrap_or_default()));
    }
    if read.value.is_null() {
        read.value = json::zero(schema::Kind::Object(ty));
    }
    settle_kind(&mut read.value, ty, expected, body)?;
    let (api_version, kind) = kind_of(&read.value);
    let actual_version = split_api_version(api_version).1;
    if let Some(error) = read.type_error {
        return Err(expected.bad(actual_version, kind, &error));
    }
    strict.append(&mut read.strict);
    let warnings = match validation {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn => strict,
        FieldValidation::Strict if strict.is_empty() => strict,
        FieldValidation::Strict => {
            return Err(expected.bad(actual_version, kind, &CheckError::Strict(strict).to_string()));
        }
    };
    Ok(Decoded { object: read.value, warnings })
}

/// Fills in `apiVersion` and `kind`, and refuses those that are not the expected ones.
fn settle_kind(object: &mut Value, ty: TypeId, expected: Expected<'_>, body: &[u8]) -> Result<(), ApiError> {
    let (api_version, kind) = kind_of(object);
    let said = parse_api_version(api_version).map_err(|why| expected.unrecognized(&why, body))?;
    let kind = if kind.is_empty() { expected.kind } else { kind };
    let (group, version) = if api_version.is_empty() { (expected.group, expected.version) } else { said };
    if (group, version, kind) != (expected.group, expected.version, expected.kind) {
        match schema::type_of(group, version, kind) {
            None => {
                return Err(expected.bad(
                    version,
                    kind,
                    &not_registered(kind, &group_version(group, version)),
                ));
            }
            // Options and statuses are the same type in every group.
            Some(other) if other == ty => {}
            Some(_) if kind == expected.kind => {
                return Err(ApiError::bad_request(format!(
                    "the API version in the data ({api_version}) does not match the expected API version ({})",
                    group_version(expected.group, expected.version)
                )));
            }
            Some(other) => {
                let package = ty.name().split('.').next().unwrap_or_default();
                let why = format!(
                    "converting ({}) to ({package}.{}): unknown conversion",
                    schema::go_struct(other),
                    ty.go_name()
                );
                return Err(expected.bad(version, kind, &why));
            }
        }
    }
    let (api_version, kind) = (group_version(group, version), kind.to_owned());
    if let Some(object) = object.as_object_mut() {
        object.insert("apiVersion".to_owned(), Value::String(api_version));
        object.insert("kind".to_owned(), Value::String(kind));
    }
    Ok(())
}

fn decode_protobuf(body: &[u8], ty: TypeId, expected: Expected<'_>) -> Result<Decoded, ApiError> {
    let envelope = protobuf::open(body).map_err(|e| expected.unrecognized(&e.to_string(), body))?;
    // The kind decides how the raw bytes are read, so it is checked before them.
    let mut object = Value::Object(serde_json::Map::new());
    if !envelope.kind.is_empty() {
        object["kind"] = Value::from(envelope.kind);
    }
    if !envelope.api_version.is_empty() {
        object["apiVersion"] = Value::from(envelope.api_version);
    }
    settle_kind(&mut object, ty, expected, body)?;
    let (api_version, kind) = kind_of(&object);
    let mut decoded = protobuf::read_envelope(&envelope, ty)
        .map_err(|e| expected.bad(split_api_version(api_version).1, kind, &e.to_string()))?;
    decoded["apiVersion"] = Value::from(api_version);
    decoded["kind"] = Value::from(kind);
    Ok(Decoded { object: decoded, warnings: Vec::new() })
}

/// Decodes an object of any known kind by its own `apiVersion` and `kind`.
///
/// # Errors
/// As [`decode`]; also 400 for kinds that are not known.
pub fn decode_any(body: &[u8], encoding: Encoding, validation: FieldValidation) -> Result<Decoded, ApiError> {
    let text: Cow<'_, str> = match encoding {
        Encoding::Json => text_of(body),
        Encoding::Yaml => Cow::Owned(yaml_to_json_text(body).map_err(ApiError::bad_request)?.0),
        Encoding::Protobuf => {
            let object = protobuf_to_json(body)?;
            return Ok(Decoded { object, warnings: Vec::new() });
        }
    };
    let (api_version, kind) = json::peek_kind(&text).map_err(|e| {
        let message = e.message(&text);
        ApiError::bad_request(format!("couldn't get version/kind; json parse error: {message}"))
    })?;
    if kind.is_empty() {
        return Err(ApiError::bad_request(format!("Object 'Kind' is missing in '{text}'")));
    }
    if api_version.is_empty() {
        return Err(ApiError::bad_request(format!("Object 'apiVersion' is missing in '{text}'")));
    }
    let (group, version) = split_api_version(&api_version);
    decode(body, encoding, group, version, &kind, validation)
}

/// Checks an object made in memory as [`decode`] checks a body.
///
/// # Errors
/// As [`decode`].
pub fn decode_value(
    object: &Value,
    group: &str,
    version: &str,
    kind: &str,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    decode(object.to_string().as_bytes(), Encoding::Json, group, version, kind, validation)
}

/// Checks an object made in memory against a type and brings it into canonical form. For callers that word the
/// refusal themselves, such as patches; `apiVersion` and `kind` are left as they are.
///
/// # Errors
/// The first value of a wrong type, else all unknown fields if they are refused.
pub fn check(object: Value, ty: TypeId, validation: FieldValidation) -> Result<Decoded, CheckError> {
    if is_canonical(&object, ty) {
        return Ok(Decoded { object, warnings: Vec::new() });
    }
    check_text(&object, ty, validation)
}

/// The same for an object that is certainly not canonical.
pub(crate) fn check_text(
    object: &Value,
    ty: TypeId,
    validation: FieldValidation,
) -> Result<Decoded, CheckError> {
    let text = object.to_string();
    let read = json::read(&text, ty).map_err(|e| CheckError::Type(e.message(&text)))?;
    if let Some(error) = read.type_error {
        return Err(CheckError::Type(error));
    }
    match validation {
        FieldValidation::Strict if !read.strict.is_empty() => Err(CheckError::Strict(read.strict)),
        FieldValidation::Ignore => Ok(Decoded { object: read.value, warnings: Vec::new() }),
        _ => Ok(Decoded { object: read.value, warnings: read.strict }),
    }
}

/// An object as upstream's types write it: kind, version and metadata first; the rest is sorted.
#[derive(Clone, Copy, Debug)]
pub struct InOrder<'a>(pub &'a Value);

/// The members of an object in that order.
pub fn in_order(members: &serde_json::Map<String, Value>) -> impl Iterator<Item = (&String, &Value)> {
    const FIRST: [&str; 3] = ["kind", "apiVersion", "metadata"];
    let first = FIRST.iter().filter_map(|name| members.get_key_value(*name));
    first.chain(members.iter().filter(|(name, _)| !FIRST.contains(&name.as_str())))
}

impl serde::Serialize for InOrder<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(members) => serializer.collect_map(in_order(members)),
            other => other.serialize(serializer),
        }
    }
}

/// The JSON of an object, compact.
fn json_text(object: &Value) -> Vec<u8> {
    serde_json::to_vec(&InOrder(object)).expect("a JSON tree always encodes")
}

/// Encodes an object, which carries its own `apiVersion` and `kind`. Protobuf is enveloped. A kind without a
/// protobuf form (tables, kinds unknown to the schema) is JSON inside the envelope.
pub fn encode(object: &Value, encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Json => {
            let mut text = json_text(object);
            text.push(b'\n');
            text
        }
        Encoding::Yaml => yaml::write(object).into_bytes(),
        Encoding::Protobuf => match protobuf::write_enveloped(object) {
            Some(Ok(bytes)) => bytes,
            Some(Err(_)) | None => protobuf::wrap_json(object),
        },
    }
}

/// One frame of a watch: a JSON line, a YAML document, or a length-prefixed protobuf `WatchEvent`.
/// `kind` is `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
pub fn encode_watch_event(kind: &str, object: &Value, encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Json => {
            let mut frame = format!("{{\"type\":\"{kind}\",\"object\":").into_bytes();
            frame.extend_from_slice(&json_text(object));
            frame.extend_from_slice(b"}\n");
            frame
        }
        Encoding::Yaml => {
            let mut event = serde_json::Map::new();
            event.insert("type".to_owned(), Value::from(kind));
            event.insert("object".to_owned(), object.clone());
            format!("---\n{}", yaml::write(&Value::Object(event))).into_bytes()
        }
        Encoding::Protobuf => {
            let object = encode(object, Encoding::Protobuf);
            let mut frame = Vec::with_capacity(object.len() + WATCH_FRAME_HEAD_MAX);
            watch_frame_head(kind, object.len(), &mut frame);
            frame.extend_from_slice(&object);
            frame
        }
    }
}

/// Bytes of a frame's head at most: the length of the frame, three keys, the longest kind (`BOOKMARK`) and its length,
/// and two lengths of objects, which are no longer than the frame's four bytes can say.
pub const WATCH_FRAME_HEAD_MAX: usize = 4 + 3 + 1 + 8 + 2 * 5;

/// The head of one frame of a protobuf watch, around an object that is encoded already: all of the frame but the
/// `length` bytes of the enveloped object, which follow it. `kind` as for [`encode_watch_event`].
pub fn watch_frame_head(kind: &str, length: usize, out: &mut impl BufMut) {
    protobuf::watch_frame_head(kind, length, out);
}

/// The enveloped protobuf form (`k8s\0`, `runtime.Unknown`).
///
/// # Errors
/// 406 if the kind has no protobuf form, 400 if a value does not fit its field.
pub fn json_to_protobuf(object: &Value) -> Result<Vec<u8>, ApiError> {
    protobuf::write_enveloped(object).unwrap_or_else(|| {
        let (api_version, kind) = kind_of(object);
        Err(ApiError::new(
            406,
            "NotAcceptable",
            format!("{kind} in version {api_version:?} has no protobuf form"),
        ))
    })
}

/// The object of an enveloped protobuf body.
///
/// # Errors
/// 400 if it is malformed or of an unknown kind.
pub fn protobuf_to_json(body: &[u8]) -> Result<Value, ApiError> {
    protobuf::read_any(body).map_err(|e| ApiError::bad_request(e.to_string()))
}

/// Converts an object to another served version (or group: events) of its kind, or a list of them.
///
/// # Errors
/// 400 if there is no such conversion.
pub fn convert(object: Value, to_group: &str, to_version: &str) -> Result<Value, ApiError> {
    convert::convert(object, to_group, to_version)
}

/// Converts an object from the version it is stored in to a served one.
///
/// # Errors
/// As [`convert`].
pub fn from_storage(object: Value, resource: &resources::Resource) -> Result<Value, ApiError> {
    convert(object, resource.group, resource.version)
}

/// Converts an object from a served version to the one it is stored in.
///
/// # Errors
/// As [`convert`].
pub fn to_storage(object: Value, resource: &resources::Resource) -> Result<Value, ApiError> {
    convert(object, resource.storage_group, resource.storage_version)
}
