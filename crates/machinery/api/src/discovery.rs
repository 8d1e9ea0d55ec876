//! Discovery documents: which groups, versions and resources there are.

use serde_json::Value;

/// `GET /api`. `server_address` is `host:port` as advertised.
pub fn api_versions(_server_address: &str) -> Value {
    Value::Null
}

/// `GET /apis`.
pub fn api_groups() -> Value {
    Value::Null
}

/// `GET /apis/{group}`.
pub fn group(_group: &str) -> Option<Value> {
    None
}

/// `GET /api/v1` (empty group) and `GET /apis/{group}/{version}`.
pub fn resource_list(_group: &str, _version: &str) -> Option<Value> {
    None
}

/// The aggregated document (`apidiscovery.k8s.io/v2`) of `/api` or `/apis`; `None` for another path.
pub fn aggregated(_path: &str) -> Option<Value> {
    None
}
