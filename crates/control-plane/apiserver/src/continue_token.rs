//! Continue tokens of paginated lists: opaque to clients, upstream's format inside, never trusted when they come back.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use podium_api::status::ApiError;

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContinueToken {
    /// The revision of the first page, or -1 to go on at the newest one (a list that may be inconsistent).
    pub(crate) revision: i64,
    /// The first key of the next page, without the list's own prefix.
    pub(crate) start: String,
}

impl ContinueToken {
    /// The token's text.
    pub(crate) fn encode(&self) -> String {
        let token = json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": self.start});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    /// Reads a token.
    ///
    /// Errors: 400 for anything that is not a token of ours, or whose key would leave the list's prefix.
    pub(crate) fn decode(text: &str) -> Result<ContinueToken, ApiError> {
        let bad = |why: &str| {
            ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
        };
        let data = URL_SAFE_NO_PAD.decode(text).map_err(|error| bad(&error.to_string()))?;
        let token: Value = serde_json::from_slice(&data).map_err(|error| bad(&error.to_string()))?;
        let version = token.get("v").and_then(Value::as_str).unwrap_or_default();
        if version != "meta.k8s.io/v1" {
            return Err(bad(&format!("server does not recognize this encoded version {version}")));
        }
        let revision = token.get("rv").and_then(Value::as_i64).unwrap_or(0);
        if revision == 0 {
            return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        let start = token.get("start").and_then(Value::as_str).unwrap_or_default();
        if start.is_empty() {
            return Err(bad("encoded start key empty (version meta.k8s.io/v1)"));
        }
        let body = start.strip_suffix('\0').unwrap_or(start);
        if start.len() > 1024 || body.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return Err(bad(start));
        }
        Ok(ContinueToken { revision, start: start.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_a_round_trip() {
        let token = ContinueToken { revision: 42, start: "default/a\0".to_owned() };
        assert_eq!(ContinueToken::decode(&token.encode()).unwrap(), token);
    }

    #[test]
    fn tampered_tokens_are_refused() {
        let make = |json: &str| URL_SAFE_NO_PAD.encode(json);
        for text in [
            "!!".to_owned(),
            make("{"),
            make(r#"{"v":"meta.k8s.io/v2","rv":1,"start":"a"}"#),
            make(r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a"}"#),
            make(r#"{"v":"meta.k8s.io/v1","rv":1,"start":""}"#),
            make(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../../secrets/kube-system/x"}"#),
            make(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"a//b"}"#),
        ] {
            let error = ContinueToken::decode(&text).unwrap_err();
            assert_eq!(error.code, 400, "{text}");
            assert!(
                error.message.starts_with("invalid continue token: continue key is not valid"),
                "{}",
                error.message
            );
        }
    }
}
