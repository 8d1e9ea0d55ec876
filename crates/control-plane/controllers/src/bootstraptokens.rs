//! Bootstrap tokens as Secrets keep them: what new nodes join with.
//!
//! Source: `k8s.io/cluster-bootstrap`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use crate::owner;

/// Where the tokens are.
pub(crate) const NAMESPACE: &str = "kube-system";
/// The type of their Secrets.
const TYPE: &str = "bootstrap.kubernetes.io/token";
const PREFIX: &str = "bootstrap-token-";

/// Whether the Secret is a bootstrap token.
pub(crate) fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TYPE) && owner::namespace(&secret.metadata) == NAMESPACE
}

/// One entry of the Secret; empty when it is missing or no text.
pub(crate) fn entry<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    value.and_then(|value| std::str::from_utf8(&value.0).ok()).unwrap_or_default()
}

/// When the token expires, if ever. One that cannot be read has expired long ago.
pub(crate) fn expires(secret: &Secret) -> Option<Timestamp> {
    let text = entry(secret, "expiration");
    if text.is_empty() { None } else { Some(text.parse().unwrap_or(Timestamp::UNIX_EPOCH)) }
}

/// The id that the Secret's name gives, if it is a regular one.
pub(crate) fn id_of_name(secret: &Secret) -> Option<&str> {
    let id = owner::name(&secret.metadata).strip_prefix(PREFIX)?;
    let regular = id.len() == 6 && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    regular.then_some(id)
}
