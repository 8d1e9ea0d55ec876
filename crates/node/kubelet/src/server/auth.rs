//! Who asks, and may they: a client certificate or a token, then a SubjectAccessReview.
//!
//! Answers are kept for upstream's times, so that not every request costs the API server two.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use http::{HeaderMap, Method, header};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use podium_client::error_chain;
use podium_pki::certificate::Facts;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};

const TOKEN_KEPT: Duration = Duration::from_secs(120);
const ALLOWED_KEPT: Duration = Duration::from_secs(300);
const DENIED_KEPT: Duration = Duration::from_secs(30);
/// More answers than this are not kept: somebody is making them up.
const MAX_KEPT: usize = 4096;

/// Somebody who has proven who they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

/// What a request is in the API's terms.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Attributes {
    pub(crate) verb: &'static str,
    pub(crate) subresource: &'static str,
}

/// Asks the API server and remembers.
#[derive(Debug)]
pub(crate) struct Auth {
    client: Client0,
    node: String,
    tokens: Mutex<HashMap<[u8; 32], (Instant, Option<User>)>>,
    decisions: Mutex<HashMap<(User, Attributes), (Instant, bool)>>,
}

/// The client, without a `Debug` that says anything.
struct Client0(Client);

impl std::fmt::Debug for Client0 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

/// The attributes of which one must be allowed, in the order to ask: fine-grained ones first, as upstream.
pub(crate) fn attributes(method: &Method, path: &str) -> Vec<Attributes> {
    let verb = match method.as_str() {
        "POST" => "create",
        "GET" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    };
    let root = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let subresources: &[&'static str] = match root {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "statusz" => &["statusz"],
        "flagz" => &["configz"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    };
    subresources.iter().map(|subresource| Attributes { verb, subresource }).collect()
}

impl Auth {
    pub(crate) fn new(client: Client, node: &str) -> Self {
        Self { client: Client0(client), node: node.to_owned(), tokens: Mutex::default(), decisions: Mutex::default() }
    }

    /// The user behind a request; None if there is nobody we believe.
    ///
    /// # Errors
    /// If the API server could not be asked.
    pub(crate) async fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: Option<&CertificateDer<'static>>,
    ) -> Result<Option<User>, String> {
        if let Some(leaf) = peer {
            // The handshake has checked that our authority signed it and that it is in its time.
            return Ok(Facts::of(leaf).ok().filter(|facts| !facts.common_name.is_empty()).map(|facts| User {
                name: facts.common_name,
                groups: facts.organizations.into_iter().chain(["system:authenticated".to_owned()]).collect(),
                ..Default::default()
            }));
        }
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty())
            .map(|(_, token)| token.trim().to_owned());
        match token {
            Some(token) => self.review_token(token).await,
            None => Ok(None),
        }
    }

    async fn review_token(&self, token: String) -> Result<Option<User>, String> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some((until, user)) = self.tokens.lock().get(&key)
            && *until > Instant::now()
        {
            return Ok(user.clone());
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token, ..Default::default() },
            ..Default::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.0.clone());
        let answer = api
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| format!("unable to authenticate the request: {}", error_chain(&error)))?;
        let status = answer.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true)).map(|user| User {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        });
        keep(&mut self.tokens.lock(), key, TOKEN_KEPT, user.clone());
        Ok(user)
    }

    /// Whether the user may; the inner error is upstream's refusal.
    ///
    /// # Errors
    /// If the API server could not be asked.
    pub(crate) async fn authorize(
        &self,
        user: &User,
        method: &Method,
        path: &str,
    ) -> Result<Result<(), String>, String> {
        let wanted = attributes(method, path);
        for attributes in &wanted {
            if self.review_access(user, attributes).await? {
                return Ok(Ok(()));
            }
        }
        let subresources: Vec<&str> = wanted.iter().map(|one| one.subresource).collect();
        let verb = wanted.first().map_or("", |one| one.verb);
        Ok(Err(format!(
            "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{}])",
            user.name,
            subresources.join(" ")
        )))
    }

    async fn review_access(&self, user: &User, attributes: &Attributes) -> Result<bool, String> {
        let key = (user.clone(), attributes.clone());
        if let Some((until, allowed)) = self.decisions.lock().get(&key)
            && *until > Instant::now()
        {
            return Ok(*allowed);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: Some(user.uid.clone()),
                groups: Some(user.groups.clone()),
                extra: (!user.extra.is_empty()).then(|| user.extra.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(attributes.verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(attributes.subresource.to_owned()),
                    name: Some(self.node.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.0.clone());
        let answer = api
            .create(&PostParams::default(), &review)
            .await
            .map_err(|error| format!("Authorization error: {}", error_chain(&error)))?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        keep(&mut self.decisions.lock(), key, if allowed { ALLOWED_KEPT } else { DENIED_KEPT }, allowed);
        Ok(allowed)
    }
}

fn keep<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, (Instant, V)>, key: K, time: Duration, value: V) {
    if map.len() >= MAX_KEPT {
        let now = Instant::now();
        map.retain(|_, (until, _)| *until > now);
    }
    if map.len() < MAX_KEPT {
        map.insert(key, (Instant::now() + time, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_subresources() {
        for (method, path, verb, subresources) in [
            (Method::GET, "/containerLogs/n/p/c", "get", vec!["proxy"]),
            (Method::POST, "/exec/n/p/c", "create", vec!["proxy"]),
            (Method::GET, "/metrics/resource", "get", vec!["metrics"]),
            (Method::GET, "/stats/summary", "get", vec!["stats"]),
            (Method::GET, "/pods", "get", vec!["pods", "proxy"]),
            (Method::GET, "/runningpods/", "get", vec!["pods", "proxy"]),
            (Method::GET, "/healthz", "get", vec!["healthz", "proxy"]),
            (Method::GET, "/logs/syslog", "get", vec!["log"]),
            (Method::GET, "/podsx", "get", vec!["proxy"]),
        ] {
            let found = attributes(&method, path);
            assert!(found.iter().all(|one| one.verb == verb), "{path}");
            assert_eq!(found.iter().map(|one| one.subresource).collect::<Vec<_>>(), subresources, "{path}");
        }
    }
}
