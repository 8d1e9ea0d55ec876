//! TokenRequest, TokenReview, SelfSubjectReview.

use std::sync::Arc;

use jiff::{Timestamp, ToSpan as _};
use podium_api::field::{Errors, Path};
use podium_api::status::ApiError;
use podium_pki::token::TokenError;
use serde_json::{Value, json};

use super::{Create, Issuer, user_info};
use crate::authentication::tokens::Refusal;
use crate::authentication::{Authenticator, User};
use crate::authorization::go_quote;
use crate::objects::{Objects, items, text};

const GROUP: &str = "authentication.k8s.io";
/// Upstream's `MinTokenAgeSec`.
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
const DEFAULT_SECONDS: i64 = 3600;
/// The expiry that the ServiceAccount admission plugin writes into pods: a marker for tokens that old clients may not
/// renew in time, which live a year and only warn after this (upstream's `WarnOnlyBoundTokenExpirationSeconds`).
const WARN_ONLY_SECONDS: i64 = 3607;
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

/// `serviceaccounts/NAME/token`.
pub(super) fn request(
    objects: &Objects,
    issuer: &Issuer,
    create: Create<'_>,
    now: Timestamp,
    token_id: &str,
) -> Result<Value, ApiError> {
    let (namespace, name) = (create.namespace, create.name);
    let mut body = create.body;
    check_names(&body, namespace, name)?;
    let account = objects
        .get("", "serviceaccounts", namespace, name)
        .ok_or_else(|| ApiError::not_found("", "serviceaccounts", name))?;
    let uid = text(&account, "/metadata/uid");
    let asked_uid = text(&body, "/metadata/uid");
    if !asked_uid.is_empty() && asked_uid != uid {
        let why = format!(
            "the UID in the token request ({asked_uid}) does not match the UID of the service account ({uid})"
        );
        return Err(ApiError::conflict(GROUP, "TokenRequest", name, &why));
    }
    if items(&body, "/spec/audiences").is_empty() {
        body["spec"]["audiences"] = json!(issuer.audiences);
    }
    let seconds = body.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(DEFAULT_SECONDS);
    body["spec"]["expirationSeconds"] = Value::from(seconds);
    check_seconds(seconds)?;
    body["apiVersion"] = Value::from(format!("{GROUP}/v1"));
    body["kind"] = Value::from("TokenRequest");
    body["metadata"]["name"] = Value::from(name);
    body["metadata"]["namespace"] = Value::from(namespace);
    body["metadata"]["uid"] = Value::from(uid);
    body["metadata"]["creationTimestamp"] = Value::from(rfc3339(now));

    let mut ours = json!({"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}});
    let mut pod_bound = false;
    if let Some(reference) = body.pointer("/spec/boundObjectRef").filter(|v| !v.is_null()) {
        pod_bound = bind(objects, namespace, name, reference, &mut ours)?;
    }
    let own = items(&body, "/spec/audiences")
        .iter()
        .all(|audience| issuer.audiences.iter().any(|known| audience == known.as_str()));
    let mut life = seconds;
    if pod_bound && seconds == WARN_ONLY_SECONDS && own {
        life = EXTENDED_SECONDS;
        ours["warnafter"] = Value::from(now.as_second() + seconds);
    }
    let claims = json!({
        "aud": body["spec"]["audiences"],
        "exp": now.as_second() + life,
        "iat": now.as_second(),
        "iss": issuer.issuer,
        "jti": token_id,
        "kubernetes.io": ours,
        "nbf": now.as_second(),
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
    });
    let token = issuer.keys.sign(&claims).map_err(|error| {
        tracing::error!(%error, "signing a token");
        ApiError::internal("failed to generate token")
    })?;
    // The status is the promise that was asked for, also where the token lives longer.
    let expires = now.checked_add(seconds.seconds()).map_err(|e| ApiError::bad_request(e.to_string()))?;
    body["status"] = json!({"token": token.expose(), "expirationTimestamp": rfc3339(expires)});
    Ok(body)
}

fn check_names(body: &Value, namespace: &str, name: &str) -> Result<(), ApiError> {
    let metadata = Path::new("metadata");
    for (field, wanted) in [("name", name), ("namespace", namespace)] {
        let asked = text(&body["metadata"], &format!("/{field}"));
        if !asked.is_empty() && asked != wanted {
            let mut errors = Errors::new();
            let detail = format!("must match the service account {field} if specified");
            errors.invalid(&metadata.child(field), asked, &detail);
            return Err(ApiError::invalid(GROUP, "TokenRequest", name, &errors));
        }
    }
    Ok(())
}

fn check_seconds(seconds: i64) -> Result<(), ApiError> {
    let spec = Path::new("spec");
    let path = spec.child("expirationSeconds");
    let mut errors = Errors::new();
    if seconds < MIN_SECONDS {
        errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > MAX_SECONDS {
        errors.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(GROUP, "TokenRequest", "", &errors)) }
}

/// Adds the claims of the bound object; whether it is a pod.
fn bind(
    objects: &Objects,
    namespace: &str,
    account: &str,
    reference: &Value,
    claims: &mut Value,
) -> Result<bool, ApiError> {
    let (kind, name) = (text(reference, "/kind"), text(reference, "/name"));
    let version = text(reference, "/apiVersion");
    let (resource, claim, scope) = match (version, kind) {
        ("v1", "Pod") => ("pods", "pod", namespace),
        ("v1", "Secret") => ("secrets", "secret", namespace),
        ("v1", "Node") => ("nodes", "node", ""),
        _ => {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            return Err(ApiError::bad_request(format!(
                "cannot bind token to object of type {group}/{version}, Kind={kind}"
            )));
        }
    };
    let bound: Arc<Value> =
        objects.get("", resource, scope, name).ok_or_else(|| ApiError::not_found("", resource, name))?;
    let uid = text(&bound, "/metadata/uid");
    if kind == "Pod" {
        if text(&bound, "/spec/serviceAccountName") != account {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {} to pod running with different serviceaccount name.",
                go_quote(account)
            )));
        }
        let node = text(&bound, "/spec/nodeName");
        if !node.is_empty() {
            claims["node"] = json!({"name": node});
            if let Some(node) = objects.get("", "nodes", "", node) {
                claims["node"]["uid"] = node["metadata"]["uid"].clone();
            }
        }
    }
    let asked = text(reference, "/uid");
    if !asked.is_empty() && asked != uid {
        let why = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record. \
             The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict("", kind, name, &why));
    }
    claims[claim] = json!({"name": name, "uid": uid});
    Ok(kind == "Pod")
}

/// `tokenreviews`.
pub(super) fn review(
    authenticator: &Authenticator,
    create: Create<'_>,
    now: Timestamp,
) -> Result<Value, ApiError> {
    let mut body = create.body;
    if !create.namespace.is_empty() {
        return Err(ApiError::bad_request(format!(
            "namespace is not allowed on this type: {}",
            create.namespace
        )));
    }
    let token = text(&body, "/spec/token").to_owned();
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let audiences: Vec<String> =
        items(&body, "/spec/audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let audiences = (!audiences.is_empty()).then_some(audiences.as_slice());
    body["status"] = match authenticator.tokens().authenticate(&token, audiences, now) {
        Ok(accepted) => {
            json!({"authenticated": true, "user": user_info(&accepted.user), "audiences": accepted.audiences})
        }
        // Who is no one's is merely not authenticated; a token of ours that is not good says why.
        Err(Refusal::NotOurs | Refusal::Token(TokenError::Malformed)) => {
            json!({"user": {}, "error": "invalid bearer token"})
        }
        Err(error) => json!({"user": {}, "error": format!("[invalid bearer token, {error}]")}),
    };
    Ok(body)
}

/// `selfsubjectreviews`.
pub(super) fn self_review(user: &User, now: Timestamp) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "SelfSubjectReview",
        "metadata": {"creationTimestamp": rfc3339(now)},
        "status": {"userInfo": user_info(user)},
    })
}

fn rfc3339(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
