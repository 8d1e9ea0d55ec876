//! The signatures that the ConfigMap is to have.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use ring::hmac;
use serde_json::json;

use crate::bootstraptokens::{entry, expires, id_of_name, is_token};

/// Where the ConfigMap is.
pub(crate) const NAMESPACE: &str = "kube-public";
/// Its name.
pub(crate) const NAME: &str = "cluster-info";
/// What is signed.
const CONTENT: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

/// The ConfigMap with all signatures and no others, if it has not got them already.
pub(crate) fn decide(map: &ConfigMap, secrets: &[&Secret], now: Timestamp) -> Option<ConfigMap> {
    let data = map.data.as_ref()?;
    let content = data.get(CONTENT)?;
    let mut signed: BTreeMap<String, String> = data
        .iter()
        .filter(|(key, _)| !key.starts_with(SIGNATURE))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    for (id, secret) in secrets.iter().filter_map(|secret| signing_token(secret, now)) {
        signed.entry(format!("{SIGNATURE}{id}")).or_insert_with(|| sign(content, id, secret));
    }
    (signed != *data).then(|| ConfigMap { data: Some(signed), ..map.clone() })
}

/// Id and secret of a token that is good for signing.
fn signing_token(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let id = id_of_name(secret).filter(|id| is_token(secret) && entry(secret, "token-id") == *id)?;
    let alive = expires(secret).is_none_or(|moment| moment > now);
    let token = entry(secret, "token-secret");
    (alive && !token.is_empty() && entry(secret, "usage-bootstrap-signing") == "true").then_some((id, token))
}

/// A JSON web signature (RFC 7515, appendix F: content detached) with HMAC-SHA-256.
pub(crate) fn sign(content: &str, id: &str, secret: &str) -> String {
    let header = BASE64_URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": id}).to_string());
    let signed = format!("{header}.{}", BASE64_URL_SAFE_NO_PAD.encode(content));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
    format!("{header}..{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}
