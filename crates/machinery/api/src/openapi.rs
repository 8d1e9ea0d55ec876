//! OpenAPI documents, made from the schema and resource tables.

use std::sync::Arc;

use serde_json::Value;

/// `/openapi/v2` as JSON.
pub fn v2() -> Arc<[u8]> {
    Arc::from(Vec::new())
}

/// `/openapi/v2` as `application/com.github.proto-openapi.spec.v2@v1.0+protobuf`.
pub fn v2_protobuf() -> Arc<[u8]> {
    Arc::from(Vec::new())
}

/// `/openapi/v3`: the paths and their hashed URLs.
pub fn v3_index() -> Value {
    Value::Null
}

/// The document of one group version; `path` is `api/v1` or `apis/apps/v1`.
pub fn v3(_path: &str) -> Option<Arc<[u8]>> {
    None
}
