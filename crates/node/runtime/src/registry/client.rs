//! The HTTP client: one connection a request, tokens fetched when asked for, redirects followed without credentials.

use std::io;
use std::path::Path;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderName, Method, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use super::auth::{Challenge, Credentials, Tokens, challenge};
use super::dial::Ways;
use super::hosts::Host;
use super::progress::Pull;
use crate::images::blobs;

/// How long a host may take to be reached and to begin its answer.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a download may stand still. Source: upstream's progress deadline.
const PROGRESS: Duration = Duration::from_secs(60);
const REDIRECTS: usize = 5;
/// What is read of an error's body.
const ERROR_BYTES: usize = 64 << 10;

/// A request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// No host may be asked for this.
    #[error("no host is configured for it")]
    NoHost,
    /// The host cannot be reached, or broke off.
    #[error("failed to do request: {url}")]
    Connection {
        /// What was asked for.
        url: String,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// It is not there.
    #[error("{url}: not found")]
    NotFound {
        /// What was asked for.
        url: String,
    },
    /// The host said no.
    #[error("unexpected status from {method} request to {url}: {status}{text}")]
    Status {
        /// How it was asked.
        method: Method,
        /// What was asked for.
        url: String,
        /// The answer.
        status: StatusCode,
        /// What the host said to it.
        text: String,
    },
    /// It wants to know who asks, and what we have is not enough.
    #[error("failed to authorize: {0}")]
    Authorize(String),
    /// It led somewhere that is not followed.
    #[error("refused to follow {0}")]
    Redirect(String),
    /// More came than was said.
    #[error("{url}: more than {limit} bytes")]
    TooLong {
        /// What was asked for.
        url: String,
        /// What was said.
        limit: u64,
    },
    /// The file cannot be written.
    #[error("writing what was fetched")]
    Write(#[source] io::Error),
}

impl HttpError {
    /// Whether the same may work a moment later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Connection { .. } => true,
            Self::Status { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        }
    }
}

/// A client for one pull.
#[derive(Debug)]
pub(super) struct Client {
    credentials: Credentials,
    tokens: Tokens,
    ways: Ways,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

/// What a request carries beside its address.
#[derive(Clone, Debug, Default)]
pub(super) struct Extra {
    /// Only the head of the answer is wanted.
    pub(super) head: bool,
    pub(super) accept: Option<&'static str>,
    pub(super) from: u64,
    pub(super) authorization: Option<String>,
    pub(super) form: Option<String>,
}

impl Client {
    pub(super) fn new(credentials: Credentials) -> Self {
        Self { credentials, tokens: Tokens::default(), ways: Ways::of_environment() }
    }

    /// What a name means: the type of its document, and its digest and size, where the host tells them by themselves.
    /// That is cheap for the host: some count every whole answer and refuse after so many.
    pub(super) async fn head(
        &self,
        host: &Host,
        path: &str,
        accept: &'static str,
    ) -> Result<Option<(String, String, u64)>, HttpError> {
        let url = host.address(path);
        let extra = Extra { head: true, accept: Some(accept), ..Extra::default() };
        let response = self.authorized(host, &url, extra).await?;
        let said = |name: HeaderName| response.headers().get(name)?.to_str().ok();
        let digest = said(HeaderName::from_static("docker-content-digest"));
        let size = said(CONTENT_LENGTH).and_then(|text| text.parse().ok());
        let told = digest.filter(|digest| blobs::hex(digest).is_ok()).zip(size);
        Ok(told.map(|(digest, size)| (media_type(&response), digest.to_owned(), size)))
    }

    /// Fetches a small document: its type and bytes.
    pub(super) async fn get(
        &self,
        host: &Host,
        path: &str,
        accept: &'static str,
        limit: u64,
    ) -> Result<(String, Vec<u8>), HttpError> {
        let url = host.address(path);
        let extra = Extra { accept: Some(accept), ..Extra::default() };
        let response = self.authorized(host, &url, extra).await?;
        Ok((media_type(&response), body(response, &url, limit).await?))
    }

    /// Fetches content of a known size into a file, going on where an earlier attempt broke off.
    pub(super) async fn download(
        &self,
        host: &Host,
        path: &str,
        file: &Path,
        size: u64,
        pull: &Pull,
    ) -> Result<(), HttpError> {
        let url = host.address(path);
        let have = length(file).await;
        if have == size {
            return Ok(());
        }
        let directory = file.parent().unwrap_or(Path::new("/"));
        blobs::check_room(directory, size.saturating_sub(have)).map_err(HttpError::Write)?;
        let response = self.authorized(host, &url, Extra { from: have, ..Extra::default() }).await?;
        let mut options = tokio::fs::OpenOptions::new();
        options.create(true).write(true);
        let resumed = response.status() == StatusCode::PARTIAL_CONTENT;
        let options = if resumed { options.append(true) } else { options.truncate(true) };
        let mut output = options.open(file).await.map_err(HttpError::Write)?;
        let mut length = if resumed { have } else { 0 };
        if !resumed {
            pull.take_back(have);
        }
        let mut unchecked = 0;
        let mut incoming = response.into_body();
        let broken = |source| HttpError::Connection { url: url.clone(), source };
        loop {
            let frame = tokio::time::timeout(PROGRESS, incoming.frame())
                .await
                .map_err(|_| broken(io::ErrorKind::TimedOut.into()))?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| broken(io::Error::other(error)))?;
            if let Ok(bytes) = frame.into_data() {
                length += bytes.len() as u64;
                if length > size {
                    return Err(HttpError::TooLong { url: url.clone(), limit: size });
                }
                output.write_all(&bytes).await.map_err(HttpError::Write)?;
                pull.add(bytes.len() as u64);
                unchecked += bytes.len() as u64;
                if unchecked >= blobs::ROOM_EVERY {
                    unchecked = 0;
                    // Others write there too.
                    blobs::check_room(directory, size - length).map_err(HttpError::Write)?;
                }
            }
        }
        output.flush().await.map_err(HttpError::Write)?;
        if length < size { Err(broken(io::ErrorKind::UnexpectedEof.into())) } else { Ok(()) }
    }

    /// Asks as whom the host wants to know.
    async fn authorized(
        &self,
        host: &Host,
        url: &str,
        extra: Extra,
    ) -> Result<Response<Incoming>, HttpError> {
        let known = self.tokens.get(&host.url).or_else(|| self.credentials.registry_token());
        let first = Extra { authorization: known, ..extra.clone() };
        let response = self.follow(host, url, first).await?;
        let method = if extra.head { Method::HEAD } else { Method::GET };
        if response.status() != StatusCode::UNAUTHORIZED {
            return good(response, method, url).await;
        }
        let header = response.headers().get_all(WWW_AUTHENTICATE);
        let wanted = header.iter().filter_map(|value| challenge(value.to_str().ok()?)).next();
        let authorization = match wanted {
            Some(Challenge::Basic) => self
                .credentials
                .basic()
                .ok_or_else(|| HttpError::Authorize(format!("{url} wants a user and a password")))?,
            Some(Challenge::Bearer { realm, service, scope }) => {
                self.token(host, &realm, &service, &scope).await?
            }
            None => return good(response, method, url).await,
        };
        self.tokens.set(&host.url, authorization.clone());
        let again = self.follow(host, url, Extra { authorization: Some(authorization), ..extra }).await?;
        good(again, method, url).await
    }

    /// Gets a token from the service that the host names.
    async fn token(&self, host: &Host, realm: &str, service: &str, scope: &str) -> Result<String, HttpError> {
        let uri: Uri = realm.parse().map_err(|_| HttpError::Authorize(format!("{realm:?} is no address")))?;
        // What we say there must be as safe as what we say to the host.
        if uri.scheme_str() != Some("https") && host.url.starts_with("https:") {
            return Err(HttpError::Authorize(format!("{realm:?} is not safe to ask")));
        }
        let mut realm_host = Host { url: realm.to_owned(), ..host.clone() };
        if authority(realm) != authority(&host.url) {
            // What is meant for the host is none of the service's business.
            (realm_host.headers, realm_host.client) = (Vec::new(), Vec::new());
        }
        let pair = |name: &str, value: &str| format!("{name}={}", encode(value));
        let response = if let Some(token) = self.credentials.identity_token() {
            let form = [
                pair("grant_type", "refresh_token"),
                pair("service", service),
                pair("scope", scope),
                pair("client_id", "podium"),
                pair("refresh_token", token),
            ];
            let extra = Extra { form: Some(form.join("&")), ..Extra::default() };
            self.follow(&realm_host, realm, extra).await?
        } else {
            let separator = if realm.contains('?') { '&' } else { '?' };
            let url = format!("{realm}{separator}{}&{}", pair("service", service), pair("scope", scope));
            let extra = Extra { authorization: self.credentials.basic(), ..Extra::default() };
            self.follow(&realm_host, &url, extra).await?
        };
        if !response.status().is_success() {
            return Err(HttpError::Authorize(format!(
                "failed to fetch token from {realm}: {}",
                response.status()
            )));
        }
        let bytes = body(response, realm, 1 << 20).await?;
        let token: Token = serde_json::from_slice(&bytes)
            .map_err(|_| HttpError::Authorize(format!("{realm} answered without a token")))?;
        let token = if token.token.is_empty() { token.access_token } else { token.token };
        if token.is_empty() {
            return Err(HttpError::Authorize(format!("{realm} answered without a token")));
        }
        Ok(format!("Bearer {token}"))
    }

    /// Asks, and asks again where it is led; another host is not told who asks.
    async fn follow(
        &self,
        host: &Host,
        url: &str,
        mut extra: Extra,
    ) -> Result<Response<Incoming>, HttpError> {
        let mut url = url.to_owned();
        let mut host = host.clone();
        for _ in 0..=REDIRECTS {
            let response = send(&self.ways, &host, &url, &extra).await?;
            if !response.status().is_redirection() || extra.form.is_some() {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let Some(location) = location else { return Ok(response) };
            let next = join(&url, location).ok_or_else(|| HttpError::Redirect(location.to_owned()))?;
            if url.starts_with("https:") && !next.starts_with("https:") {
                return Err(HttpError::Redirect(next));
            }
            if authority(&next) != authority(&url) {
                // Exceptions were made for one host only.
                host = Host { url: next.clone(), resolve: host.resolve, ..Host::default() };
                extra.authorization = None;
            }
            url = next;
        }
        Err(HttpError::Redirect(url))
    }
}

/// How much of a file is here.
pub(super) async fn length(file: &Path) -> u64 {
    tokio::fs::metadata(file).await.map(|metadata| metadata.len()).unwrap_or(0)
}

fn authority(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    uri.authority().map(ToString::to_string)
}

/// Where a redirect leads.
fn join(base: &str, location: &str) -> Option<String> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return Some(location.to_owned());
    }
    let uri: Uri = base.parse().ok()?;
    let path = location.strip_prefix('/')?;
    // Two slashes would name another host.
    if path.starts_with('/') {
        return None;
    }
    Some(format!("{}://{}/{path}", uri.scheme_str()?, uri.authority()?))
}

/// A value in a query or a form.
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn media_type(response: &Response<Incoming>) -> String {
    let said = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    said.split(';').next().unwrap_or_default().trim().to_owned()
}

/// The answer if it is one, else what went wrong.
async fn good(
    response: Response<Incoming>,
    method: Method,
    url: &str,
) -> Result<Response<Incoming>, HttpError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    if status == StatusCode::NOT_FOUND {
        return Err(HttpError::NotFound { url: url.to_owned() });
    }
    let said = Limited::new(response.into_body(), ERROR_BYTES).collect().await;
    let said = said.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let parsed: serde_json::Value = serde_json::from_slice(&said).unwrap_or_default();
    let text = parsed["errors"][0]["message"].as_str().map(|text| format!(": {text}")).unwrap_or_default();
    Err(HttpError::Status { method, url: url.to_owned(), status, text })
}

async fn body(response: Response<Incoming>, url: &str, limit: u64) -> Result<Vec<u8>, HttpError> {
    let bounded = Limited::new(response.into_body(), usize::try_from(limit).unwrap_or(usize::MAX));
    match tokio::time::timeout(PROGRESS, bounded.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes().to_vec()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(HttpError::TooLong { url: url.to_owned(), limit })
        }
        Ok(Err(error)) => Err(HttpError::Connection { url: url.to_owned(), source: io::Error::other(error) }),
        Err(_) => Err(HttpError::Connection { url: url.to_owned(), source: io::ErrorKind::TimedOut.into() }),
    }
}

async fn send(ways: &Ways, host: &Host, url: &str, extra: &Extra) -> Result<Response<Incoming>, HttpError> {
    let broken = |source| HttpError::Connection { url: url.to_owned(), source };
    let asked = tokio::time::timeout(ANSWER, ways.ask(host, url, extra)).await;
    asked.map_err(|_| broken(io::ErrorKind::TimedOut.into()))?.map_err(broken)
}

#[cfg(test)]
mod tests;
