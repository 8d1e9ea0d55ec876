//! The patch types of the API: JSON patch, merge patch, strategic merge patch.

use serde_json::Value;

use crate::schema::TypeId;
use crate::status::ApiError;

/// Applies an RFC 6902 patch (`application/json-patch+json`).
///
/// # Errors
/// 400 malformed, 413 more than 10,000 operations, 422 an operation failed.
pub fn json_patch(_target: &Value, _patch: &[u8]) -> Result<Value, ApiError> {
    Err(ApiError::internal("being written"))
}

/// Applies an RFC 7386 patch (`application/merge-patch+json`).
///
/// # Errors
/// 400 malformed.
pub fn merge_patch(_target: &Value, _patch: &[u8]) -> Result<Value, ApiError> {
    Err(ApiError::internal("being written"))
}

/// Applies a patch that knows merge keys and directives (`application/strategic-merge-patch+json`).
///
/// # Errors
/// 400 malformed or a directive that does not apply.
pub fn strategic_merge_patch(_target: &Value, _patch: &[u8], _type: TypeId) -> Result<Value, ApiError> {
    Err(ApiError::internal("being written"))
}
