//! `Impersonate-User`, `-Group`, `-Uid`, `-Extra-*`: acting as somebody else, if RBAC grants the verb `impersonate` on each part.

use std::collections::BTreeMap;

use http::HeaderMap;
use podium_api::status::ApiError;

use super::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User};
use crate::authorization::{Attributes, Authorizer};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// What the headers ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    user: String,
    groups: Vec<String>,
    uid: String,
    extra: BTreeMap<String, Vec<String>>,
}

/// The user to go on as, or `None` if the headers ask for nothing.
///
/// # Errors
/// 400 if parts are named without a user; 403 for the first part that is not allowed.
pub fn apply(user: &User, headers: &HeaderMap, authorizer: &Authorizer) -> Result<Option<User>, ApiError> {
    let Some(asked) = read(headers)? else { return Ok(None) };
    let check = |attributes: Attributes<'_>| authorizer.check(&attributes);
    let mut groups = asked.groups.clone();
    match service_account(&asked.user) {
        Some((namespace, name)) => {
            let attributes = Attributes::resource(user, "impersonate", "", "serviceaccounts");
            check(Attributes { version: "v1", namespace, name, ..attributes })?;
            if groups.is_empty() {
                groups =
                    vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
            }
        }
        None => {
            check(Attributes {
                name: &asked.user,
                ..Attributes::resource(user, "impersonate", "", "users")
            })?;
        }
    }
    for group in &asked.groups {
        check(Attributes { name: group, ..Attributes::resource(user, "impersonate", "", "groups") })?;
    }
    for (key, values) in &asked.extra {
        for value in values {
            let attributes = Attributes::resource(user, "impersonate", AUTHENTICATION, "userextras");
            check(Attributes { version: "v1", subresource: key, name: value, ..attributes })?;
        }
    }
    if !asked.uid.is_empty() {
        let attributes = Attributes::resource(user, "impersonate", AUTHENTICATION, "uids");
        check(Attributes { version: "v1", name: &asked.uid, ..attributes })?;
    }
    let has = |group: &str| groups.iter().any(|g| g == group);
    let implied = if asked.user == ANONYMOUS {
        (!has(UNAUTHENTICATED)).then_some(UNAUTHENTICATED)
    } else {
        (!has(AUTHENTICATED) && !has(UNAUTHENTICATED)).then_some(AUTHENTICATED)
    };
    groups.extend(implied.map(str::to_owned));
    Ok(Some(User { name: asked.user, uid: asked.uid, groups, extra: asked.extra }))
}

fn read(headers: &HeaderMap) -> Result<Option<Asked>, ApiError> {
    if !headers.keys().any(|key| key.as_str().starts_with("impersonate-")) {
        return Ok(None);
    }
    let first = |name: &str| headers.get(name).map(value).unwrap_or_default();
    let all = |name: &str| -> Vec<String> { headers.get_all(name).iter().map(value).collect() };
    let mut asked = Asked { user: first(USER), groups: all(GROUP), uid: first(UID), extra: BTreeMap::new() };
    for key in headers.keys() {
        if let Some(rest) = key.as_str().strip_prefix(EXTRA) {
            asked.extra.entry(unescape(rest)).or_default().extend(all(key.as_str()));
        }
    }
    if asked.user.is_empty() {
        if asked.groups.is_empty() && asked.uid.is_empty() && asked.extra.is_empty() {
            return Ok(None);
        }
        let mut parts: Vec<String> = asked.groups.iter().map(|group| format!("group {group:?}")).collect();
        parts.extend(asked.extra.keys().map(|key| format!("extra {key:?}")));
        if !asked.uid.is_empty() {
            parts.push("uid".to_owned());
        }
        return Err(ApiError::bad_request(format!(
            "requested [{}] without impersonating a user",
            parts.join(" ")
        )));
    }
    Ok(Some(asked))
}

fn value(value: &http::HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

/// Namespace and name of `system:serviceaccount:NAMESPACE:NAME`.
fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let plain = |part: &str| podium_api::kinds::validate::dns_subdomain(part, false).is_empty();
    (plain(namespace) && plain(name)).then_some((namespace, name))
}

/// Header names cannot hold every key, so keys come percent-encoded; what is malformed is taken as it is.
pub(crate) fn unescape(encoded: &str) -> String {
    let bytes = encoded.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let decoded = encoded.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
            let Some(byte) = decoded else { return encoded.to_owned() };
            out.push(byte);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| encoded.to_owned())
}
