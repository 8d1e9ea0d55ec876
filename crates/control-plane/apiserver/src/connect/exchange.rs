//! The exchange with a target: one connection, one request, an answer or a stream.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use podium_api::status::ApiError;
use podium_pki::tls::{AnyServerCertificate, provider};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::html::{self, Place};
use super::target::{Scheme, Target};
use super::upgrade_of;
use crate::body::{Body, BoxError, RequestBody};
use crate::config::KubeletClient;
use crate::registry::Call;
use crate::response::{self, Reply};

/// How long a target may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a target may take to begin its answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Bytes of a target's refusal that are shown to the client. Source: upstream's `maxReadLength`.
const REFUSAL_BYTES: usize = 50_000;

/// Bytes of a page whose links are rewritten; who serves larger ones wants our memory.
const PAGE_BYTES: usize = 16 << 20;

/// Headers that belong to one connection and are never passed on (RFC 9110 section 7.6.1), and credentials, which are
/// ours to know and nobody else's.
const NOT_PASSED_ON: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
    "authorization",
    "audit-id",
];

/// The TLS configuration towards kubelets.
///
/// Errors: a text saying which part is malformed.
pub(crate) fn client_config(kubelet: &KubeletClient) -> Result<Arc<ClientConfig>, podium_pki::Error> {
    let malformed =
        |detail: String| podium_pki::Error::Malformed { what: "kubelet client".to_owned(), detail };
    let mut roots = RootCertStore::empty();
    for certificate in podium_pki::certificate::from_pem(&kubelet.authority)? {
        roots.add(certificate).map_err(|error| malformed(error.to_string()))?;
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| malformed(error.to_string()))?
        .with_root_certificates(roots)
        .with_client_auth_cert(kubelet.pair.chain()?, kubelet.pair.key_der()?)
        .map_err(|error| malformed(error.to_string()))?;
    Ok(Arc::new(config))
}

/// A GET whose answer is streamed to the client: logs.
pub(super) async fn get(call: &Call, target: &Target, path: &str, query: &str) -> Result<Reply, ApiError> {
    let body: RequestBody = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let request = build(target, Method::GET, path, query, &HeaderMap::new(), body)?;
    let answer = send(call, target, request).await?;
    let answer = refuse_errors(call, answer).await?;
    let kind = answer.headers().get(CONTENT_TYPE).cloned();
    let body = Body::Foreign(answer.into_body().map_err(BoxError::from).boxed_unsync());
    let mut reply = Response::new(body);
    let kind = kind.unwrap_or(HeaderValue::from_static("text/plain"));
    reply.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(reply)
}

/// A request passed on as it is, and its answer passed back.
pub(super) async fn forward(
    call: &Call,
    request: Request<RequestBody>,
    target: &Target,
    path: &str,
    query: &str,
) -> Result<Reply, ApiError> {
    let (parts, body) = request.into_parts();
    let asked = parts.headers.get(HOST).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let asked = asked.or_else(|| parts.uri.authority().map(ToString::to_string)).unwrap_or_default();
    let mut onwards = build(target, parts.method, path, query, &parts.headers, body)?;
    // A page's links are rewritten, which takes reading it.
    onwards.headers_mut().remove(ACCEPT_ENCODING);
    let answer = send(call, target, onwards).await?;
    let (mut head, body) = answer.into_parts();
    strip(&mut head.headers);
    let address = target.address.to_string();
    let place = Place { prefix: prefix(call), hosts: [&address, &asked] };
    if head.headers.contains_key(LOCATION) {
        rewrite_location(place, &mut head.headers);
    } else if is_page(&head.headers) {
        let body = Limited::new(body, PAGE_BYTES).collect().await;
        let body =
            body.map_err(|error| response::unavailable(format!("reading the page failed: {error}")))?;
        head.headers.remove(CONTENT_LENGTH);
        let page = body.to_bytes();
        let page = match std::str::from_utf8(&page) {
            Ok(text) => html::rewrite(text, place).into(),
            Err(_) => page,
        };
        return Ok(Response::from_parts(head, Body::full(page)));
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(response::unavailable("the target switched protocols without being asked"));
    }
    Ok(Response::from_parts(head, Body::Foreign(body.map_err(BoxError::from).boxed_unsync())))
}

/// A request that becomes a stream in both directions, once the target has agreed to exactly that.
pub(super) async fn upgrade(
    call: &Call,
    mut request: Request<RequestBody>,
    target: &Target,
    method: Method,
    path: &str,
    query: &str,
) -> Result<Reply, ApiError> {
    let protocol =
        upgrade_of(request.headers()).ok_or_else(|| ApiError::bad_request("Upgrade request required"))?;
    if request.extensions().get::<hyper::upgrade::OnUpgrade>().is_none() {
        return Err(ApiError::bad_request("this connection cannot be upgraded: HTTP/1.1 is needed"));
    }
    let client_side = hyper::upgrade::on(&mut request);
    let body: RequestBody = Empty::new().map_err(|never| match never {}).boxed_unsync();
    // A WebSocket handshake is a GET, whatever the method of the stream is otherwise.
    let method = if protocol == "websocket" { Method::GET } else { method };
    let mut onwards = build(target, method, path, query, request.headers(), body)?;
    let asked = request.headers().get(UPGRADE).cloned();
    if let Some(asked) = asked {
        onwards.headers_mut().insert(UPGRADE, asked);
        onwards.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    let mut answer = send(call, target, onwards).await?;
    let agreed = answer
        .headers()
        .get(UPGRADE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.eq_ignore_ascii_case(&protocol));
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS || !agreed {
        refuse_errors(call, answer).await?;
        return Err(response::unavailable("the target did not switch protocols"));
    }
    let target_side = hyper::upgrade::on(&mut answer);
    let mut reply = Response::new(Body::empty());
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in answer.headers() {
        let passes = matches!(name.as_str(), "connection" | "upgrade" | "x-stream-protocol-version")
            || name.as_str().starts_with("sec-websocket-");
        if passes {
            reply.headers_mut().append(name, value.clone());
        }
    }
    let shutdown = call.core.shutdown.clone();
    call.core.tracker.spawn(async move {
        let copy = async {
            let (client, target) = tokio::try_join!(client_side, target_side)?;
            let (mut client, mut target) = (TokioIo::new(client), TokioIo::new(target));
            tokio::io::copy_bidirectional(&mut client, &mut target).await?;
            Ok::<_, BoxError>(())
        };
        tokio::select! {
            done = copy => if let Err(error) = done {
                tracing::debug!(%error, "a stream ended early");
            },
            () = shutdown.cancelled() => {}
        }
    });
    Ok(reply)
}

/// Opens a SPDY stream at a kubelet on behalf of a client that speaks something else.
pub(super) async fn open_spdy(
    call: &Call,
    target: &Target,
    path: &str,
    query: &str,
    version: &'static str,
) -> Result<hyper::upgrade::OnUpgrade, ApiError> {
    let body: RequestBody = Empty::new().map_err(|never| match never {}).boxed_unsync();
    let mut request = build(target, Method::POST, path, query, &HeaderMap::new(), body)?;
    let headers = request.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert("x-stream-protocol-version", HeaderValue::from_static(version));
    let mut answer = send(call, target, request).await?;
    let agreed = answer
        .headers()
        .get(UPGRADE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.eq_ignore_ascii_case("SPDY/3.1"));
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS || !agreed {
        refuse_errors(call, answer).await?;
        return Err(response::unavailable("the target did not switch protocols"));
    }
    Ok(hyper::upgrade::on(&mut answer))
}

fn build(
    target: &Target,
    method: Method,
    path: &str,
    query: &str,
    headers: &HeaderMap,
    body: RequestBody,
) -> Result<Request<RequestBody>, ApiError> {
    let text = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
    let uri: Uri =
        text.parse().map_err(|error| ApiError::bad_request(format!("invalid path {path:?}: {error}")))?;
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    let mut onwards = headers.clone();
    strip(&mut onwards);
    let impersonation: Vec<HeaderName> = onwards
        .keys()
        .filter(|name| name.as_str().starts_with("impersonate-") || name.as_str().starts_with("x-remote-"))
        .cloned()
        .collect();
    for name in impersonation {
        onwards.remove(name);
    }
    let host = HeaderValue::from_str(&target.address.to_string());
    onwards.insert(HOST, host.map_err(|error| ApiError::internal(error.to_string()))?);
    *request.headers_mut() = onwards;
    Ok(request)
}

fn strip(headers: &mut HeaderMap) {
    // What Connection names belongs to the connection too.
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in NOT_PASSED_ON {
        headers.remove(*name);
    }
}

/// The proxy's path up to where the target's begins.
fn prefix(call: &Call) -> &str {
    let (path, rest) = (call.info.path.as_str(), call.info.rest.as_str());
    path.strip_suffix(rest).unwrap_or(path).trim_end_matches('/')
}

fn is_page(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind == "text/html" && !headers.contains_key(CONTENT_ENCODING)
}

/// A redirect to another path of the target becomes one to the same proxy subresource; to another host it is dropped.
fn rewrite_location(place: Place<'_>, headers: &mut HeaderMap) {
    let location = headers.remove(LOCATION);
    let Some(location) = location.as_ref().and_then(|value| value.to_str().ok()) else { return };
    let elsewhere = names_a_host(location);
    let rewritten = place.rewrite(location).or_else(|| (!elsewhere).then(|| location.to_owned()));
    if let Some(value) = rewritten.and_then(|text| HeaderValue::from_str(&text).ok()) {
        headers.insert(LOCATION, value);
    }
}

/// Whether a browser would take this for more than a path: a host, or a scheme. It reads a backslash as a slash.
fn names_a_host(location: &str) -> bool {
    let first = location.split(['/', '?', '#']).next().unwrap_or_default();
    super::html::split(location).0.is_some() || first.contains([':', '\\'])
}

/// Turns a target's refusal into ours. Redirects are refusals here: nobody is sent elsewhere by a kubelet.
async fn refuse_errors(call: &Call, answer: Response<Incoming>) -> Result<Response<Incoming>, ApiError> {
    let status = answer.status();
    if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answer);
    }
    let body = Limited::new(answer.into_body(), REFUSAL_BYTES).collect().await;
    let text =
        body.map(|body| String::from_utf8_lossy(&body.to_bytes()).trim().to_owned()).unwrap_or_default();
    Err(match status {
        StatusCode::BAD_REQUEST => ApiError::bad_request(text),
        StatusCode::INTERNAL_SERVER_ERROR => ApiError::internal(text),
        StatusCode::NOT_FOUND => {
            let mut error = response::unknown_path();
            error.message = format!("{} ( {} )", error.message, text);
            error
        }
        StatusCode::FORBIDDEN => ApiError::forbidden("", &call.info.resource, &call.info.name, &text),
        other if other.is_redirection() => response::unavailable("the target redirected the request"),
        other => response::unavailable(format!("the target answered {other}: {text}")),
    })
}

/// Connects, sends, and waits for the head of the answer. The connection lives as long as the answer's body.
async fn send(
    call: &Call,
    target: &Target,
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, ApiError> {
    let failed = |error: &dyn std::fmt::Display| {
        tracing::info!(target = %target.address, %error, "passing a request on failed");
        let text = format!("error trying to reach service: {error}");
        ApiError::new(503, "ServiceUnavailable", text)
    };
    let connect = async {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match target.scheme {
            Scheme::Http => Box::new(stream),
            Scheme::Kubelet | Scheme::Https => {
                let config = match target.scheme {
                    Scheme::Kubelet => call.core.kubelet_tls.clone().ok_or_else(|| {
                        std::io::Error::other("this API server has no kubelet client certificate")
                    })?,
                    _ => anonymous_config()?,
                };
                let name = ServerName::IpAddress(target.address.ip().into());
                Box::new(TlsConnector::from(config).connect(name, stream).await?)
            }
        };
        Ok::<_, std::io::Error>(stream)
    };
    let stream = match tokio::time::timeout(CONNECT, connect).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(failed(&error)),
        Err(_) => return Err(failed(&"timed out connecting")),
    };
    let (mut sender, connection) =
        http1::handshake::<_, RequestBody>(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let shutdown = call.core.shutdown.clone();
    call.core.tracker.spawn(async move {
        tokio::select! {
            ended = connection.with_upgrades() => if let Err(error) = ended {
                tracing::debug!(%error, "connection to a target ended");
            },
            () = shutdown.cancelled() => {}
        }
    });
    match tokio::time::timeout(ANSWER, sender.send_request(request)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(failed(&"timed out waiting for an answer")),
    }
}

/// What a part of the control plane on this machine says of its health, or why it is not well.
pub(crate) async fn health_at(address: SocketAddr) -> Result<String, String> {
    let failed = |why: &dyn std::fmt::Display| format!("Get \"https://{address}/healthz\": {why}");
    match tokio::time::timeout(CONNECT, ask_health(address)).await {
        Ok(Ok((StatusCode::OK, said))) => Ok(said),
        Ok(Ok((_, said))) => Err(said),
        Ok(Err(error)) => Err(failed(&error)),
        Err(_) => Err(failed(&"timed out")),
    }
}

async fn ask_health(address: SocketAddr) -> std::io::Result<(StatusCode, String)> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::IpAddress(address.ip().into());
    let stream = TlsConnector::from(anonymous_config()?).connect(name, stream).await?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    let ask = async move {
        let request = Request::get("/healthz").header(HOST, address.to_string());
        let request = request.body(Empty::<bytes::Bytes>::new()).map_err(std::io::Error::other)?;
        let (head, body) = sender.send_request(request).await.map_err(std::io::Error::other)?.into_parts();
        let said =
            Limited::new(body, REFUSAL_BYTES).collect().await.map_err(std::io::Error::other)?.to_bytes();
        Ok((head.status, String::from_utf8_lossy(&said).into_owned()))
    };
    let (answer, _) = futures::future::join(ask, connection).await;
    answer
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// TLS without a look at the certificate: what pods and services behind the proxy show is their own, and nothing of
/// ours is sent to them. Source: upstream's proxy transport is insecure in the same way.
fn anonymous_config() -> Result<Arc<ClientConfig>, std::io::Error> {
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(AnyServerCertificate::new())
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upgrade_smuggling_a_redirect_to_another_host_is_told_from_a_path() {
        for path in ["/login", "login?next=http://x", "a/b:c", "?x=//y", "#a:b", ""] {
            assert!(!names_a_host(path), "{path}");
        }
        for host in
            ["http://evil.example", "//evil.example", "\\\\evil.example", "http:evil.example", "mailto:a"]
        {
            assert!(names_a_host(host), "{host}");
        }
    }
}
