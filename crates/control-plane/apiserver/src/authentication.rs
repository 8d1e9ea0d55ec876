//! Who is asking: client certificates, service account tokens, front proxies, anonymous; then impersonation.
//!
//! TLS accepts any client certificate whose key the client holds; whether it counts is decided here, so that a bad one gets
//! upstream's 401 instead of a broken connection. A credential that was presented and is not good is always a 401, never anonymous.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use podium_api::kinds::Requester;
use podium_api::status::ApiError;
use rustls_pki_types::CertificateDer;

use crate::authorization::Authorizer;
use crate::objects::Objects;

pub use certificates::Peer;

pub mod certificates;
pub mod impersonation;
pub mod proxy;
pub mod tokens;
mod uses;

/// An identity. Groups are in order; a logged-in user's always include `system:authenticated`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The name, for example `system:node:a` or `system:serviceaccount:ns:name`.
    pub name: String,
    /// The uid: service accounts have one, certificates do not.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// Everything else that is known, for example the pod a token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Everybody who is logged in.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everybody who is not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of who did not log in.
pub const ANONYMOUS: &str = "system:anonymous";

impl User {
    /// As the rules of kinds see it.
    pub(crate) fn as_requester(&self) -> Requester<'_> {
        Requester { name: &self.name, uid: &self.uid, groups: &self.groups, extra: &self.extra }
    }

    /// A logged-in user of this name and these groups, `system:authenticated` added.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let mut user = User {
            name: name.to_owned(),
            groups: groups.iter().map(|&g| g.to_owned()).collect(),
            ..User::default()
        };
        user.add_authenticated();
        user
    }

    /// A service account with the groups that upstream gives it.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> Self {
        User {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            uid: uid.to_owned(),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                AUTHENTICATED.to_owned(),
            ],
            extra: BTreeMap::new(),
        }
    }

    /// Who did not log in.
    pub fn anonymous() -> Self {
        User { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..User::default() }
    }

    /// Whether the user is in the group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    fn add_authenticated(&mut self) {
        if !self.in_group(AUTHENTICATED) && !self.in_group(UNAUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
    }
}

/// What the authenticator trusts.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Authorities whose client certificates are identities.
    pub client_authorities: Vec<CertificateDer<'static>>,
    /// Authorities whose client certificates may speak for others through `X-Remote-User` headers.
    pub proxy_authorities: Vec<CertificateDer<'static>>,
    /// The common names such a front proxy may have; empty allows any that the authority signed.
    pub proxy_names: Vec<String>,
    /// Keys that verify service account tokens. `None` refuses every token.
    pub token_keys: Option<Arc<podium_pki::token::Keys>>,
    /// Accepted `iss` claims; the first one is the one we issue with.
    pub issuers: Vec<String>,
    /// The audiences that are this API server; a token must name one of them.
    pub audiences: Vec<String>,
    /// Whether requests without credentials become `system:anonymous` (on upstream, needed for health checks).
    pub anonymous: bool,
}

/// Turns credentials into a [`User`].
#[derive(Debug)]
pub struct Authenticator {
    config: Config,
    clients: certificates::Verifier,
    proxies: proxy::FrontProxies,
    tokens: tokens::Tokens,
}

impl Authenticator {
    /// An authenticator; bound objects of tokens are looked up in `objects`.
    pub fn new(config: Config, objects: Objects) -> Self {
        Authenticator {
            clients: certificates::Verifier::new(config.client_authorities.clone()),
            proxies: proxy::FrontProxies::new(config.proxy_authorities.clone(), config.proxy_names.clone()),
            tokens: tokens::Tokens::new(
                config.token_keys.clone(),
                config.issuers.clone(),
                config.audiences.clone(),
                objects,
            ),
            config,
        }
    }

    /// Who sent a request with these headers over a connection with these certificates (leaf first), at this moment.
    ///
    /// # Errors
    /// 401 for any credential that is presented and not good, and for none where anonymous requests are off.
    pub fn authenticate(
        &self,
        peer_certificates: Option<&[CertificateDer<'_>]>,
        headers: &HeaderMap,
    ) -> Result<User, ApiError> {
        self.authenticate_at(peer_certificates, headers, jiff::Timestamp::now())
    }

    /// As [`Authenticator::authenticate`], at a given time.
    ///
    /// # Errors
    /// As [`Authenticator::authenticate`].
    pub fn authenticate_at(
        &self,
        peer_certificates: Option<&[CertificateDer<'_>]>,
        headers: &HeaderMap,
        now: jiff::Timestamp,
    ) -> Result<User, ApiError> {
        let peer = peer_certificates.filter(|chain| !chain.is_empty()).map(Peer::new);
        self.decide(peer.as_ref(), headers, now).map(Arc::unwrap_or_clone)
    }

    /// As [`Authenticator::authenticate`], for a connection whose certificates are known already.
    ///
    /// # Errors
    /// As [`Authenticator::authenticate`].
    pub fn authenticate_peer(&self, peer: Option<&Peer>, headers: &HeaderMap) -> Result<Arc<User>, ApiError> {
        self.decide(peer, headers, jiff::Timestamp::now())
    }

    fn decide(
        &self,
        peer: Option<&Peer>,
        headers: &HeaderMap,
        now: jiff::Timestamp,
    ) -> Result<Arc<User>, ApiError> {
        let mut refused = false;
        if let Some(peer) = peer {
            if let Some(user) = self.proxies.user(peer, headers, now) {
                return Ok(Arc::new(user));
            }
            match self.clients.verify_peer(peer, now) {
                Ok(user) => return Ok(user),
                Err(error) => {
                    tracing::debug!(%error, "client certificate refused");
                    refused = true;
                }
            }
        }
        if let Some(token) = tokens::bearer(headers) {
            match self.tokens.authenticate(&token, None, now) {
                Ok(token) => return Ok(Arc::new(token.user)),
                Err(error) => {
                    tracing::debug!(%error, "bearer token refused");
                    refused = true;
                }
            }
        }
        // A header that names a scheme we do not know is ignored, as upstream does.
        if refused || !self.config.anonymous {
            return Err(ApiError::unauthorized());
        }
        Ok(Arc::new(User::anonymous()))
    }

    /// Applies `Impersonate-*` headers, if there are any and the user may.
    ///
    /// # Errors
    /// 403 where the user may not impersonate, 500 as upstream where only groups or extras are named.
    pub fn impersonate(
        &self,
        user: &User,
        headers: &HeaderMap,
        authorizer: &Authorizer,
    ) -> Result<Option<User>, ApiError> {
        impersonation::apply(user, headers, authorizer)
    }

    /// Writes what certificates and tokens tell of themselves, as metrics.
    pub(crate) fn render(&self, out: &mut String) {
        self.clients.render(out);
        self.tokens.render(out);
    }

    /// The token part, for `TokenReview`.
    pub fn tokens(&self) -> &tokens::Tokens {
        &self.tokens
    }
}

#[cfg(test)]
mod tests;
