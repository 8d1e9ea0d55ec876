//! Who a client is: by its certificate, or by its token, which the API server reviews. Nobody is anonymous.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use http::{HeaderMap, header::AUTHORIZATION};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use podium_pki::certificate::Facts;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// A refused token is asked about again soon, but not for every request.
const REMEMBER_REFUSAL: Duration = Duration::from_secs(10);
/// How many tokens are remembered.
const MOST: usize = 1024;
/// The longest token that is taken to the API server.
const LONGEST: usize = 16 * 1024;
/// How long the API server may take.
const ANSWER: Duration = Duration::from_secs(10);

const AUTHENTICATED: &str = "system:authenticated";

/// A client that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) groups: Vec<String>,
    pub(crate) extra: BTreeMap<String, Vec<String>>,
}

/// What a request brings.
#[derive(Debug)]
pub(crate) struct Credentials<'a> {
    /// Of a certificate that the handshake has verified.
    pub(crate) certificate: Option<&'a Facts>,
    pub(crate) headers: &'a HeaderMap,
}

/// Not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unauthorized")]
pub(crate) struct Unauthorized;

/// Tells who clients are.
pub(crate) struct Identities {
    client: Client,
    remember: Duration,
    /// By the token's hash: tokens themselves are not kept.
    known: Mutex<HashMap<[u8; 32], (Instant, Option<User>)>>,
}

impl Identities {
    /// `remember`: how long a token that is good is believed, `authentication.webhook.cacheTTL`.
    pub(crate) fn new(client: Client, remember: Duration) -> Self {
        Self { client, remember, known: Mutex::default() }
    }

    /// Who sent this.
    pub(crate) async fn who(&self, credentials: &Credentials<'_>) -> Result<User, Unauthorized> {
        // Verified in the handshake; a connection may outlive the certificate.
        if let Some(user) = credentials.certificate.and_then(|facts| of_certificate(facts, Timestamp::now()))
        {
            return Ok(user);
        }
        let token = bearer(credentials.headers).ok_or(Unauthorized)?;
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let now = Instant::now();
        let remembered =
            self.known.lock().get(&key).filter(|(until, _)| now < *until).map(|(_, user)| user.clone());
        if let Some(user) = remembered {
            return user.ok_or(Unauthorized);
        }
        let user = self.review(token).await?;
        let until = now + if user.is_some() { self.remember } else { REMEMBER_REFUSAL };
        let mut known = self.known.lock();
        if known.len() >= MOST {
            known.retain(|_, (until, _)| now < *until);
        }
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(key, (until, user.clone()));
        user.ok_or(Unauthorized)
    }

    /// Asks the API server. None if the token is not good; an error if there was no answer.
    async fn review(&self, token: &str) -> Result<Option<User>, Unauthorized> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), audiences: None },
            ..Default::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let params = PostParams::default();
        match tokio::time::timeout(ANSWER, api.create(&params, &review)).await {
            Ok(Ok(answer)) => Ok(of_review(answer)),
            Ok(Err(error)) => {
                tracing::warn!(error = podium_client::error_chain(&error), "reviewing a token failed");
                Err(Unauthorized)
            }
            Err(_) => {
                tracing::warn!("the API server did not review a token in time");
                Err(Unauthorized)
            }
        }
    }
}

fn of_certificate(facts: &Facts, now: Timestamp) -> Option<User> {
    if facts.common_name.is_empty() || now < facts.not_before || now > facts.not_after {
        return None;
    }
    Some(authenticated(User {
        name: facts.common_name.clone(),
        groups: facts.organizations.clone(),
        ..Default::default()
    }))
}

fn of_review(review: TokenReview) -> Option<User> {
    let status = review.status?;
    if status.authenticated != Some(true) {
        return None;
    }
    let user = status.user?;
    Some(authenticated(User {
        name: user.username.filter(|name| !name.is_empty())?,
        uid: user.uid.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
        extra: user.extra.unwrap_or_default(),
    }))
}

fn authenticated(mut user: User) -> User {
    if !user.groups.iter().any(|group| group == AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

/// The token of an `Authorization` header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= LONGEST).then_some(token)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use podium_client::testing::HandPlayedServer;
    use serde_json::json;

    use super::*;

    fn with_token(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))])
    }

    #[test]
    fn bearer_tokens() {
        for (value, want) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Bearer", None),
            ("Bearer ", None),
            ("Basic abc", None),
        ] {
            assert_eq!(bearer(&with_token(value)), want, "{value}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn certificates() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let facts = Facts {
            common_name: "admin".to_owned(),
            organizations: vec!["a".to_owned(), "b".to_owned()],
            names: Default::default(),
            not_before: "2026-01-01T00:00:00Z".parse().unwrap(),
            not_after: "2026-01-03T00:00:00Z".parse().unwrap(),
            issuer: Vec::new(),
        };
        let user = of_certificate(&facts, now).unwrap();
        assert_eq!(
            (user.name.as_str(), user.groups),
            ("admin", ["a", "b", AUTHENTICATED].map(str::to_owned).to_vec())
        );
        assert_eq!(of_certificate(&facts, "2026-01-04T00:00:00Z".parse().unwrap()), None);
        assert_eq!(of_certificate(&Facts { common_name: String::new(), ..facts }, now), None);
    }

    #[tokio::test]
    async fn nobody_is_anonymous() {
        let (_server, client) = HandPlayedServer::new();
        let identities = Identities::new(client, Duration::from_secs(120));
        let nothing = Credentials { certificate: None, headers: &HeaderMap::new() };
        assert_eq!(identities.who(&nothing).await, Err(Unauthorized));
    }

    #[tokio::test]
    async fn a_token_is_reviewed_once() {
        let (mut server, client) = HandPlayedServer::new();
        let identities = Identities::new(client, Duration::from_secs(120));
        let headers = with_token("Bearer good");
        let credentials = Credentials { certificate: None, headers: &headers };
        let play = async {
            let call = server.call().await;
            assert_eq!(call.uri.path(), "/apis/authentication.k8s.io/v1/tokenreviews");
            assert_eq!(call.body["spec"]["token"], "good");
            call.json(
                &json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {},
                "spec": {}, "status": {"authenticated": true, "user": {"username": "u", "groups": ["g"]}}}),
            );
        };
        let (user, ()) = tokio::join!(identities.who(&credentials), play);
        let user = user.unwrap();
        assert_eq!((user.name.as_str(), user.groups.len()), ("u", 2));
        assert_eq!(identities.who(&credentials).await, Ok(user));
        assert!(server.try_call().is_none());
    }

    #[tokio::test]
    async fn a_bad_token_and_a_silent_server_are_refused() {
        let (mut server, client) = HandPlayedServer::new();
        let identities = Identities::new(client, Duration::from_secs(120));
        let bad = with_token("Bearer bad");
        let credentials = Credentials { certificate: None, headers: &bad };
        let play = async {
            server
                .call()
                .await
                .json(&json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1",
                "metadata": {}, "spec": {}, "status": {"authenticated": false, "user": {"username": "u"}}}));
        };
        let (outcome, ()) = tokio::join!(identities.who(&credentials), play);
        assert_eq!(outcome, Err(Unauthorized));
        let other = with_token("Bearer other");
        let credentials = Credentials { certificate: None, headers: &other };
        let play = async { drop(server.call().await) };
        let (outcome, ()) = tokio::join!(identities.who(&credentials), play);
        assert_eq!(outcome, Err(Unauthorized));
        // A broken connection is not remembered as a refusal.
        let play = async { drop(server.call().await) };
        let (outcome, ()) = tokio::join!(identities.who(&credentials), play);
        assert_eq!(outcome, Err(Unauthorized));
    }
}
