//! What one token Secret needs.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use podium_pki::token::legacy::{self, ACCOUNT_NAME, ACCOUNT_UID, SECRET_TYPE};
use serde_json::Value;

use crate::labels;
use crate::owner;

const TOKEN: &str = "token";
const CA: &str = "ca.crt";
const NAMESPACE: &str = "namespace";

/// What one Secret needs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// It is complete, or no token Secret.
    Keep,
    /// Its account is not there, or another one by now.
    Delete,
    /// It lacks something; these are the claims of its token, if that is missing.
    Fill { claims: Option<Value> },
}

/// The account that a token Secret is for: its name, and its uid if that is given.
pub(crate) fn account_of(secret: &Secret) -> Option<(&str, &str)> {
    if secret.type_.as_deref() != Some(SECRET_TYPE) {
        return None;
    }
    let annotations = secret.metadata.annotations.as_ref();
    let name = labels::value(annotations, ACCOUNT_NAME).filter(|name| !name.is_empty())?;
    Some((name, labels::value(annotations, ACCOUNT_UID).unwrap_or_default()))
}

/// Decides about one Secret. `account` is the one of the name it gives.
pub(crate) fn decide(secret: &Secret, account: Option<&ServiceAccount>, root_ca_pem: &str) -> Decision {
    let Some((_, uid)) = account_of(secret) else { return Decision::Keep };
    let Some(account) = account.filter(|it| uid.is_empty() || owner::uid(&it.metadata) == uid) else {
        return Decision::Delete;
    };
    let lacks = |key: &str| entry(secret, key).is_empty();
    let stale_ca = !root_ca_pem.is_empty() && entry(secret, CA) != root_ca_pem.as_bytes();
    if !lacks(TOKEN) && !lacks(NAMESPACE) && !stale_ca {
        return Decision::Keep;
    }
    Decision::Fill { claims: lacks(TOKEN).then(|| claims(secret, account)) }
}

fn entry<'a>(secret: &'a Secret, key: &str) -> &'a [u8] {
    secret.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.as_slice()).unwrap_or_default()
}

/// The claims of a token that lives as long as its Secret.
fn claims(secret: &Secret, account: &ServiceAccount) -> Value {
    let (secret, account) = (&secret.metadata, &account.metadata);
    legacy::claims(owner::namespace(secret), owner::name(account), owner::uid(account), owner::name(secret))
}

/// The Secret with everything it lacked.
pub(crate) fn filled(
    secret: &Secret,
    account: &ServiceAccount,
    root_ca_pem: &str,
    token: Option<String>,
) -> Secret {
    let mut secret = secret.clone();
    let namespace = owner::namespace(&secret.metadata).to_owned();
    let data = secret.data.get_or_insert_default();
    if !root_ca_pem.is_empty() {
        data.insert(CA.to_owned(), ByteString(root_ca_pem.as_bytes().to_vec()));
    }
    data.entry(NAMESPACE.to_owned()).or_insert_with(|| ByteString(namespace.into_bytes()));
    if let Some(token) = token {
        data.insert(TOKEN.to_owned(), ByteString(token.into_bytes()));
    }
    let annotations = secret.metadata.annotations.get_or_insert_default();
    annotations.insert(ACCOUNT_NAME.to_owned(), owner::name(&account.metadata).to_owned());
    annotations.insert(ACCOUNT_UID.to_owned(), owner::uid(&account.metadata).to_owned());
    secret
}

/// The account without its reference to a Secret that is gone; `None` when it has none.
pub(crate) fn without_reference(account: &ServiceAccount, secret: &str) -> Option<ServiceAccount> {
    let refers =
        |reference: &k8s_openapi::api::core::v1::ObjectReference| reference.name.as_deref() == Some(secret);
    if !account.secrets.iter().flatten().any(refers) {
        return None;
    }
    let mut account = account.clone();
    account.secrets.iter_mut().for_each(|secrets| secrets.retain(|it| !refers(it)));
    Some(account)
}
