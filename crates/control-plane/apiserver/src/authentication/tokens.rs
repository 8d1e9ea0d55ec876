//! Bearer tokens of service accounts: signature, issuer, audience, time, and that everything a token is bound to still
//! lives, by uid, at the moment of each request. And the older kind, which has no end and lives in a Secret.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::HeaderMap;
use jiff::Timestamp;
use podium_pki::token::legacy::{self, INVALID_SINCE};
use podium_pki::token::{Keys, TokenError};
use ring::digest::{SHA256, digest};
use serde_json::Value;

use super::User;
use super::uses::Uses;
use crate::authorization::go_quote;
use crate::authorization::rbac::rule::quoted_list;
use crate::objects::{Objects, text};

/// Clocks may differ by this much, and an object in deletion keeps its tokens for as long (go-jose's default leeway).
const LEEWAY_SECONDS: i64 = 60;
/// The WebSocket subprotocol that carries a token, for browsers that cannot set headers.
const WEBSOCKET_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// Why a token is refused. The texts are upstream's; they reach clients through TokenReview only.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Not a token of ours at all.
    #[error("token is not one of this cluster's")]
    NotOurs,
    /// Signature or form.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Everything else, in words without any part of the token.
    #[error("{0}")]
    Claims(String),
}

/// A token that is good.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Whose it is.
    pub user: User,
    /// Which of the audiences asked for it is meant for.
    pub audiences: Vec<String>,
}

/// Verifies tokens.
#[derive(Debug)]
pub struct Tokens {
    keys: Option<Arc<Keys>>,
    issuers: Vec<String>,
    audiences: Vec<String>,
    objects: Objects,
    uses: Uses,
}

/// The bearer token of a request, from `Authorization` or a WebSocket subprotocol.
pub fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok()) {
        let (scheme, token) = value.trim().split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    let upgrade = headers.get(http::header::UPGRADE)?.to_str().ok()?;
    if !upgrade.eq_ignore_ascii_case("websocket") {
        return None;
    }
    headers
        .get_all("sec-websocket-protocol")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|protocol| protocol.trim().strip_prefix(WEBSOCKET_PREFIX))
        .and_then(|encoded| String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok())
}

impl Tokens {
    /// Verifies with these keys; `None` refuses every token.
    pub fn new(
        keys: Option<Arc<Keys>>,
        issuers: Vec<String>,
        audiences: Vec<String>,
        objects: Objects,
    ) -> Self {
        Tokens { keys, issuers, audiences, objects, uses: Uses::default() }
    }

    /// Writes how often tokens were used, as metrics.
    pub(super) fn render(&self, out: &mut String) {
        self.uses.render(out);
    }

    /// The audiences that are this API server.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Whose token this is, for these audiences (`None`: the API server's own).
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn authenticate(
        &self,
        token: &str,
        audiences: Option<&[String]>,
        now: Timestamp,
    ) -> Result<Accepted, Refusal> {
        let keys = self.keys.as_ref().ok_or(Refusal::NotOurs)?;
        let claims = keys.verify(token)?;
        let issuer = text(&claims, "/iss");
        let is_legacy = issuer == legacy::ISSUER;
        if !is_legacy && !self.issuers.iter().any(|known| known == issuer) {
            return Err(Refusal::Claims(format!("token issuer {} is invalid", go_quote(issuer))));
        }
        let mut meant_for = audiences_of(&claims);
        if is_legacy && meant_for.is_empty() {
            meant_for.clone_from(&self.audiences);
        }
        let wanted = audiences.unwrap_or(&self.audiences);
        let common: Vec<String> = meant_for.iter().filter(|a| wanted.contains(a)).cloned().collect();
        if common.is_empty() {
            return Err(Refusal::Claims(format!(
                "token audiences {} is invalid for the target audiences {}",
                quoted_list(&meant_for),
                quoted_list(wanted)
            )));
        }
        let user = if is_legacy {
            self.legacy_user(token, &claims)
        } else {
            check_times(&claims, now).map_err(str::to_owned).and_then(|()| self.live_user(&claims, now))
        };
        if user.is_ok() && !is_legacy {
            self.uses.bound(&claims["kubernetes.io"]["warnafter"], now);
        }
        Ok(Accepted { user: user.map_err(Refusal::Claims)?, audiences: common })
    }

    /// The user of a token without end: it is good for as long as its Secret is there and holds it, and the account is the one it
    /// was made for. Source: `legacyValidator.Validate`. Uses are not noted, so nothing can retire a token for not being used: the
    /// controller that would waits for a ConfigMap that only a server that notes them writes.
    fn legacy_user(&self, token: &str, claims: &Value) -> Result<User, String> {
        let claim = |name: &str, what: &str| {
            let value = claims[name].as_str().unwrap_or_default();
            if value.is_empty() { Err(format!("{what} claim is missing")) } else { Ok(value) }
        };
        let namespace = claim(legacy::NAMESPACE_CLAIM, "namespace")?;
        let secret_name = claim(legacy::SECRET_NAME_CLAIM, "secretName")?;
        let name = claim(legacy::ACCOUNT_NAME_CLAIM, "serviceAccountName")?;
        let uid = claim(legacy::ACCOUNT_UID_CLAIM, "serviceAccountUID")?;
        if text(claims, "/sub") != legacy::subject(namespace, name) {
            return Err("sub claim is invalid".to_owned());
        }
        let is_going = |object: &Value| !text(object, "/metadata/deletionTimestamp").is_empty();
        let secret = self.objects.get("", "secrets", namespace, secret_name);
        let secret = secret.filter(|secret| !is_going(secret)).ok_or("Token has been invalidated")?;
        let held = STANDARD.decode(text(&secret, "/data/token")).unwrap_or_default();
        // Digests are compared, so that the time it takes says nothing of what is held.
        if digest(&SHA256, &held).as_ref() != digest(&SHA256, token.as_bytes()).as_ref() {
            return Err("Token does not match server's copy".to_owned());
        }
        let account = self
            .objects
            .get("", "serviceaccounts", namespace, name)
            .ok_or_else(|| format!("serviceaccounts {} not found", go_quote(name)))?;
        if is_going(&account) {
            return Err(format!("ServiceAccount {namespace}/{name} has been deleted"));
        }
        let account_uid = text(&account, "/metadata/uid");
        if account_uid != uid {
            return Err(format!("ServiceAccount UID ({account_uid}) does not match claim ({uid})"));
        }
        self.uses.legacy.increment();
        if secret["metadata"]["labels"][INVALID_SINCE].as_str().is_some_and(|since| !since.is_empty()) {
            self.uses.invalid.increment();
            return Err(format!(
                "the token in secret {namespace}/{secret_name} for service account {namespace}/{name} has been marked \
                 invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the \
                 '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
            ));
        }
        let listed = account["secrets"].as_array().into_iter().flatten();
        let is_automatic = listed.into_iter().any(|listed| text(listed, "/name") == secret_name);
        if is_automatic { &self.uses.automatic } else { &self.uses.manual }.increment();
        Ok(User::service_account(namespace, name, uid))
    }

    /// The user, if the account and everything the token is bound to are still the same objects.
    fn live_user(&self, claims: &Value, now: Timestamp) -> Result<User, String> {
        let ours = claims.get("kubernetes.io").ok_or("token has no claims of Kubernetes")?;
        let namespace = text(ours, "/namespace");
        let (name, uid) = (text(ours, "/serviceaccount/name"), text(ours, "/serviceaccount/uid"));
        if text(claims, "/sub") != format!("system:serviceaccount:{namespace}:{name}") {
            return Err("token's subject does not match its claims".to_owned());
        }
        let account = self
            .objects
            .get("", "serviceaccounts", namespace, name)
            .ok_or_else(|| format!("serviceaccounts {} not found", go_quote(name)))?;
        let account_uid = text(&account, "/metadata/uid");
        if account_uid != uid {
            return Err(format!("service account UID ({account_uid}) does not match claim ({uid})"));
        }
        if deleted(&account, now) {
            return Err(format!("service account {namespace}/{name} has been deleted"));
        }
        let mut user = User::service_account(namespace, name, uid);
        let mut note = |key: &str, value: &str| {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        };
        if let Some(id) = claims["jti"].as_str() {
            note("credential-id", &format!("JTI={id}"));
        }
        if ours.get("secret").is_some() {
            self.live(
                ours,
                "secret",
                "secrets",
                "secret UID ({}) does not match service account secret ref claim",
                namespace,
                now,
            )?;
        }
        let node = (text(ours, "/node/name"), text(ours, "/node/uid"));
        if ours.get("pod").is_some() {
            self.live(
                ours,
                "pod",
                "pods",
                "pod UID ({}) does not match service account pod ref claim",
                namespace,
                now,
            )?;
            note("pod-name", text(ours, "/pod/name"));
            note("pod-uid", text(ours, "/pod/uid"));
        } else if ours.get("node").is_some() {
            self.live(
                ours,
                "node",
                "nodes",
                "node UID ({}) does not match service account node ref claim",
                "",
                now,
            )?;
        }
        // A pod's node is told, not checked: the pod is.
        if !node.0.is_empty() {
            note("node-name", node.0);
            if !node.1.is_empty() {
                note("node-uid", node.1);
            }
        }
        Ok(user)
    }

    fn live(
        &self,
        claims: &Value,
        claim: &str,
        resource: &str,
        mismatch: &str,
        namespace: &str,
        now: Timestamp,
    ) -> Result<(), String> {
        let (name, uid) = (text(&claims[claim], "/name"), text(&claims[claim], "/uid"));
        let gone = || "service account token has been invalidated".to_owned();
        let object = self.objects.get("", resource, namespace, name).ok_or_else(gone)?;
        let actual = text(&object, "/metadata/uid");
        if actual != uid {
            return Err(format!("{} ({uid})", mismatch.replace("{}", actual)));
        }
        if deleted(&object, now) { Err(gone()) } else { Ok(()) }
    }
}

/// `aud` is a text or a list.
fn audiences_of(claims: &Value) -> Vec<String> {
    match &claims["aud"] {
        Value::String(one) => vec![one.clone()],
        Value::Array(many) => many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// Pure: `exp`, `nbf` and `iat` with leeway. A token without expiry is not one of ours.
fn check_times(claims: &Value, now: Timestamp) -> Result<(), &'static str> {
    let now = now.as_second();
    let seconds = |claim: &str| claims[claim].as_i64();
    let Some(expiry) = seconds("exp") else { return Err("service account token has no expiry") };
    if now > expiry.saturating_add(LEEWAY_SECONDS) {
        return Err("service account token has expired");
    }
    if seconds("nbf").is_some_and(|at| now.saturating_add(LEEWAY_SECONDS) < at) {
        return Err("service account token is not valid yet");
    }
    if seconds("iat").is_some_and(|at| now.saturating_add(LEEWAY_SECONDS) < at) {
        return Err("service account token is issued in the future");
    }
    Ok(())
}

/// Whether the object's deletion began longer ago than the leeway.
fn deleted(object: &Value, now: Timestamp) -> bool {
    text(object, "/metadata/deletionTimestamp")
        .parse::<Timestamp>()
        .is_ok_and(|at| at.as_second() < now.as_second() - LEEWAY_SECONDS)
}
