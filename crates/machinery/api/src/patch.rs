//! The patch types of the API: JSON patch, merge patch, strategic merge patch, and server-side apply.
//!
//! [`patch`] does what the `PATCH` handler needs: it applies the patch, checks the result against the schema and brings
//! it into canonical form. The functions per type do the first step only.

pub mod apply;
mod field_set;
mod json_patch;
mod strategic;
#[cfg(test)]
mod tests;
mod typed;

use serde_json::{Map, Value};

use crate::codec::{self, CheckError, Decoded, FieldValidation};
use crate::field::{Errors, Path};
use crate::schema::TypeId;
use crate::status::ApiError;

/// How a patch is written, by its content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PatchType {
    /// `application/json-patch+json`
    Json,
    /// `application/merge-patch+json`
    Merge,
    /// `application/strategic-merge-patch+json`
    Strategic,
}

/// More operations than this are refused, as upstream.
pub(crate) const MAX_OPERATIONS: usize = 10_000;

/// Applies a patch to an object of a type and checks the result.
///
/// `target` is in the version the patch is written for; so is the result, in canonical form. Warnings are those of
/// [`FieldValidation::Warn`], about the patch and about the result.
///
/// # Errors
/// As the functions per type; 422 if the result does not fit its type, or has unknown fields that are refused.
pub fn patch(
    target: Value,
    body: &[u8],
    patch_type: PatchType,
    ty: TypeId,
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let patched = match patch_type {
        PatchType::Json => json_patched(target, body)?,
        PatchType::Merge => merged(target, body)?,
        PatchType::Strategic => strategically_merged(target, body, ty)?,
    };
    let mut strict = match validation {
        FieldValidation::Ignore => Vec::new(),
        _ => duplicates(body, patch_type),
    };
    // Go prints what it was given: the result as JSON, or the strategic patch as a map.
    let shown = || match patch_type {
        PatchType::Json | PatchType::Merge => patched.to_string(),
        PatchType::Strategic => parse(body).map(|p| go_format(&p)).unwrap_or_default(),
    };
    let refused = |why: &str| {
        let mut errors = Errors::new();
        errors.invalid(&Path::new("patch"), shown(), why);
        ApiError::invalid("", "", "", &errors)
    };
    if codec::is_canonical(&patched, ty) {
        if validation == FieldValidation::Strict && !strict.is_empty() {
            return Err(refused(&CheckError::Strict(strict).to_string()));
        }
        return Ok(Decoded { object: patched, warnings: strict });
    }
    match codec::check_text(&patched, ty, validation) {
        Ok(mut decoded) => {
            if validation == FieldValidation::Strict && !strict.is_empty() {
                return Err(refused(&CheckError::Strict(strict).to_string()));
            }
            strict.append(&mut decoded.warnings);
            Ok(Decoded { object: decoded.object, warnings: strict })
        }
        Err(CheckError::Strict(found)) => {
            strict.extend(found);
            Err(refused(&CheckError::Strict(strict).to_string()))
        }
        Err(error @ CheckError::Type(_)) => Err(refused(&error.to_string())),
    }
}

/// Applies an RFC 6902 patch (`application/json-patch+json`).
///
/// # Errors
/// 400 malformed, 413 more than 10,000 operations, 422 an operation failed.
pub fn json_patch(target: &Value, patch: &[u8]) -> Result<Value, ApiError> {
    json_patched(target.clone(), patch)
}

fn json_patched(target: Value, patch: &[u8]) -> Result<Value, ApiError> {
    let patch = parse(patch).map_err(malformed)?;
    let Value::Array(operations) = &patch else {
        let found = json_type(&patch);
        return Err(malformed(format!(
            "json: cannot unmarshal {found} into Go value of type []handlers.jsonPatchOp"
        )));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(ApiError::new(
            413,
            "RequestEntityTooLarge",
            format!(
                "Request entity is too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                operations.len()
            ),
        ));
    }
    json_patch::apply(target, operations).map_err(|_| rejected())
}

/// 422 without the reason: upstream keeps it to itself.
fn rejected() -> ApiError {
    let mut error =
        ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request");
    error.details = Some(Value::Object(Map::new()));
    error
}

/// Applies an RFC 7386 patch (`application/merge-patch+json`).
///
/// # Errors
/// 400 malformed.
pub fn merge_patch(target: &Value, patch: &[u8]) -> Result<Value, ApiError> {
    merged(target.clone(), patch)
}

fn merged(mut target: Value, patch: &[u8]) -> Result<Value, ApiError> {
    let patch = object(patch).map_err(malformed)?;
    merge(&mut target, Value::Object(patch));
    Ok(target)
}

fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// Applies a patch that knows merge keys and directives (`application/strategic-merge-patch+json`).
///
/// # Errors
/// 400 malformed or a directive of the wrong form, 422 lists of lists, 500 a patch that does not fit the type, with
/// upstream's texts.
pub fn strategic_merge_patch(target: &Value, patch: &[u8], ty: TypeId) -> Result<Value, ApiError> {
    strategically_merged(target.clone(), patch, ty)
}

fn strategically_merged(target: Value, patch: &[u8], ty: TypeId) -> Result<Value, ApiError> {
    let patch = object(patch).map_err(ApiError::bad_request)?;
    let original = match target {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    strategic::merge_map(original, patch, strategic::Node::Type(ty))
        .map(Value::Object)
        .map_err(ApiError::from)
}

fn malformed(why: impl std::fmt::Display) -> ApiError {
    ApiError::bad_request(format!("error decoding patch: {why}"))
}

fn parse(patch: &[u8]) -> Result<Value, String> {
    codec::json::read_any(&String::from_utf8_lossy(patch))
}

fn object(patch: &[u8]) -> Result<Map<String, Value>, String> {
    match parse(patch)? {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        other => {
            let found = json_type(&other);
            Err(format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}"))
        }
    }
}

/// Duplicate keys in the patch itself.
fn duplicates(patch: &[u8], patch_type: PatchType) -> Vec<String> {
    let found = codec::json::read_any_strict(&String::from_utf8_lossy(patch));
    let texts = found.map(|(_, strict)| strict).unwrap_or_default();
    match patch_type {
        PatchType::Json => texts.into_iter().map(|t| format!("json patch {t}")).collect(),
        PatchType::Merge | PatchType::Strategic => texts,
    }
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A value as Go's `%v` prints it: `map[a:1 b:[x y]]`.
fn go_format(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_format).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => go_format_map(map),
        other => other.to_string(),
    }
}

fn go_format_map(map: &Map<String, Value>) -> String {
    let entries: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", go_format(value))).collect();
    format!("map[{}]", entries.join(" "))
}
