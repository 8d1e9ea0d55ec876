//! Names around the older kind of service account token, which has no end and lives in a Secret: shared by who makes such
//! tokens, who accepts them and who retires them. Source: upstream's `pkg/serviceaccount/legacy.go`.

use serde_json::{Value, json};

/// Who issues them.
pub const ISSUER: &str = "kubernetes/serviceaccount";
/// The claim of the account's namespace.
pub const NAMESPACE_CLAIM: &str = "kubernetes.io/serviceaccount/namespace";
/// The claim of the Secret's name.
pub const SECRET_NAME_CLAIM: &str = "kubernetes.io/serviceaccount/secret.name";
/// The claim of the account's name.
pub const ACCOUNT_NAME_CLAIM: &str = "kubernetes.io/serviceaccount/service-account.name";
/// The claim of the account's uid.
pub const ACCOUNT_UID_CLAIM: &str = "kubernetes.io/serviceaccount/service-account.uid";

/// The type of their Secrets.
pub const SECRET_TYPE: &str = "kubernetes.io/service-account-token";
/// A Secret's annotation: the account that its token is for.
pub const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
/// A Secret's annotation: and which life of it.
pub const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// A Secret's label: the day of its token's last use.
pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// A Secret's label: the day since when its token is not accepted any more.
pub const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// The claims of a token.
pub fn claims(namespace: &str, account: &str, uid: &str, secret: &str) -> Value {
    json!({
        "iss": ISSUER,
        "sub": subject(namespace, account),
        NAMESPACE_CLAIM: namespace,
        SECRET_NAME_CLAIM: secret,
        ACCOUNT_NAME_CLAIM: account,
        ACCOUNT_UID_CLAIM: uid,
    })
}

/// Whom a token stands for.
pub fn subject(namespace: &str, account: &str) -> String {
    format!("system:serviceaccount:{namespace}:{account}")
}
