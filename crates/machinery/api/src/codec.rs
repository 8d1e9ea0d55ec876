//! Decoding and encoding of objects: JSON, YAML and protobuf, checked against the schema.

use serde_json::Value;

use crate::schema::TypeId;
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

/// Decodes a body that should hold `kind` and checks it against the schema.
///
/// Unknown and duplicate fields are treated as `validation` says, nulls are dropped, quantities are brought into
/// canonical form, `apiVersion` and `kind` are filled in where the body leaves them out.
///
/// # Errors
/// 400 in upstream's words if the body is malformed, too deep, of another kind, or a value has the wrong type.
pub fn decode(
    _body: &[u8],
    _encoding: Encoding,
    _group: &str,
    _version: &str,
    _kind: &str,
    _validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    Err(ApiError::internal("being written"))
}

/// Decodes an object of any known kind by its own `apiVersion` and `kind`.
///
/// # Errors
/// As [`decode`]; also 400 for kinds that are not known.
pub fn decode_any(_body: &[u8], _encoding: Encoding, _validation: FieldValidation) -> Result<Decoded, ApiError> {
    Err(ApiError::internal("being written"))
}

/// Checks an object made in memory, such as the result of a patch, as [`decode`] checks a body.
///
/// # Errors
/// As [`decode`].
pub fn decode_value(
    _object: Value,
    _group: &str,
    _version: &str,
    _kind: &str,
    _validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    Err(ApiError::internal("being written"))
}

/// Encodes an object, which carries its own `apiVersion` and `kind`. Protobuf is enveloped. A kind without a
/// protobuf form (unknown to the schema) is encoded as JSON inside the envelope, as upstream does for raw JSON.
pub fn encode(_object: &Value, _encoding: Encoding) -> Vec<u8> {
    Vec::new()
}

/// One frame of a watch: a JSON line, or a length-prefixed protobuf `WatchEvent`.
/// `kind` is `ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or `ERROR`.
pub fn encode_watch_event(_kind: &str, _object: &Value, _encoding: Encoding) -> Vec<u8> {
    Vec::new()
}

/// The enveloped protobuf form (`k8s\0`, `runtime.Unknown`).
///
/// # Errors
/// 406 if the kind has no protobuf form.
pub fn json_to_protobuf(_object: &Value) -> Result<Vec<u8>, ApiError> {
    Err(ApiError::internal("being written"))
}

/// The object of an enveloped protobuf body.
///
/// # Errors
/// 400 if it is malformed or of an unknown kind.
pub fn protobuf_to_json(_body: &[u8]) -> Result<Value, ApiError> {
    Err(ApiError::internal("being written"))
}

/// A bare message of a given type, without envelope.
///
/// # Errors
/// 400 if a value does not fit its field.
pub fn message_to_protobuf(_type: TypeId, _object: &Value) -> Result<Vec<u8>, ApiError> {
    Err(ApiError::internal("being written"))
}

/// The object of a bare message of a given type.
///
/// # Errors
/// 400 if it is malformed.
pub fn message_from_protobuf(_type: TypeId, _message: &[u8]) -> Result<Value, ApiError> {
    Err(ApiError::internal("being written"))
}

/// Converts an object to another served version (or group: events) of its kind.
///
/// # Errors
/// 400 if there is no such conversion.
pub fn convert(_object: Value, _to_group: &str, _to_version: &str) -> Result<Value, ApiError> {
    Err(ApiError::internal("being written"))
}
