//! From a request to a stream: the runtime's streaming server is asked for the same protocol, and only when it has
//! agreed is the client told so and are bytes copied without a look at them.
//!
//! Rules (SECURITY.md, upgrade and proxy smuggling): only the two protocols that Kubernetes uses; the runtime is
//! on loopback, by a literal address; redirects are refused; nothing of the client's request is passed on but
//! the headers that the protocols need; after a refusal the connection is closed.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{
        CONNECTION, CONTENT_LENGTH, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Incoming, client::conn::http1, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use podium_streaming::{
    exec::{self, Streams},
    tunnel, websocket,
};
use tokio::net::TcpStream;

use super::{
    Handler,
    idle::{Activity, Watched},
    reply::{self, Reply, text},
};

/// What a request without an upgrade is told.
pub(crate) const REQUIRED: &str = "Upgrade request required";

/// How long the runtime may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// How much of a refusal is passed on.
const REFUSAL_BYTES: usize = 4096;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// What goes from the client to the runtime, and back.
const TO_RUNTIME: [HeaderName; 5] = [
    STREAM_PROTOCOL,
    SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION,
    SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_EXTENSIONS,
];
const TO_CLIENT: [HeaderName; 4] =
    [STREAM_PROTOCOL, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_EXTENSIONS];

/// What a connection is to be turned into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Spdy,
    WebSocket,
    /// WebSocket channels that are translated here, for runtimes do not know them (KEP-4006).
    Channels,
    /// SPDY within WebSocket messages.
    Tunnel,
}

impl Asked {
    /// What a request asks for; None if it asks for nothing we know, or cannot be upgraded.
    pub(crate) fn of<B>(request: &Request<B>) -> Option<Self> {
        request.extensions().get::<OnUpgrade>()?;
        Self::of_headers(request.method(), request.headers())
    }

    fn of_headers(method: &Method, headers: &HeaderMap) -> Option<Self> {
        let tokens = |name: HeaderName| {
            let values: Vec<&str> =
                headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
            values.into_iter().flat_map(|value| value.split(',')).map(str::trim).collect::<Vec<_>>()
        };
        if !tokens(CONNECTION).iter().any(|token| token.eq_ignore_ascii_case("upgrade")) {
            return None;
        }
        let [protocol] = tokens(UPGRADE)[..] else { return None };
        // A body before the stream could be taken for the stream by one side and not by the other.
        if headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
            || headers.contains_key("transfer-encoding")
        {
            return None;
        }
        if protocol.eq_ignore_ascii_case("spdy/3.1") {
            return Some(Self::Spdy);
        }
        if !protocol.eq_ignore_ascii_case("websocket") || method != Method::GET {
            return None;
        }
        let offered = tokens(SEC_WEBSOCKET_PROTOCOL);
        if offered.contains(&exec::PROTOCOL) {
            return Some(Self::Channels);
        }
        if offered.contains(&tunnel::PROTOCOL) {
            return Some(Self::Tunnel);
        }
        Some(Self::WebSocket)
    }

    /// Whether port-forward needs the ports in the query.
    pub(crate) fn needs_ports(self) -> bool {
        self == Self::WebSocket
    }

    fn is_translated(self) -> bool {
        matches!(self, Self::Channels | Self::Tunnel)
    }

    /// The protocol that the runtime is asked for.
    fn of_runtime(self) -> HeaderValue {
        HeaderValue::from_static(if self == Self::WebSocket { "websocket" } else { "SPDY/3.1" })
    }
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the runtime's streaming address {0:?} is not a loopback HTTP address")]
    Address(String),
    #[error("{0} is not possible on this stream")]
    Mismatch(&'static str),
    #[error("Sec-WebSocket-Key or Sec-WebSocket-Version is missing or wrong")]
    Handshake,
    #[error("unable to upgrade connection: {0}")]
    Io(#[from] io::Error),
    #[error("unable to upgrade connection: {0}")]
    Http(#[from] hyper::Error),
    #[error("unable to upgrade connection: the runtime did not answer in time")]
    Timeout,
    #[error("unable to upgrade connection: the runtime redirected")]
    Redirect,
    #[error("unable to upgrade connection: the runtime switched to another protocol")]
    Protocol,
    #[error("{1}")]
    Refused(StatusCode, String),
}

impl Failure {
    fn reply(&self) -> Reply {
        let status = match self {
            Self::Mismatch(_) | Self::Handshake => 400,
            Self::Refused(status, _) if status.is_client_error() || status.is_server_error() => {
                status.as_u16()
            }
            _ => 500,
        };
        text(status, self.to_string())
    }
}

/// Where to connect, and what to ask for there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    address: SocketAddr,
    path: Uri,
}

impl Place {
    /// Reads the runtime's address. Names are not resolved: a name may come to mean another machine.
    fn of(url: &str) -> Result<Self, Failure> {
        let wrong = || Failure::Address(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let ip: IpAddr = host.parse().map_err(|_| wrong())?;
        let port = authority.port_u16().unwrap_or(80);
        if uri.scheme_str() != Some("http")
            || authority.as_str().contains('@')
            || !ip.is_loopback()
            || port == 0
        {
            return Err(wrong());
        }
        let path = uri.path_and_query().ok_or_else(wrong)?.as_str().parse().map_err(|_| wrong())?;
        Ok(Self { address: SocketAddr::new(ip, port), path })
    }
}

/// Connects the client to the runtime's stream. `streams` are those of an exec or attach.
pub(crate) async fn connect(
    handler: &Handler,
    mut request: Request<Incoming>,
    asked: Asked,
    url: &str,
    streams: Option<Streams>,
) -> Reply {
    let opened = async {
        let place = Place::of(url)?;
        let mut own = HeaderMap::new();
        let headers = match (asked, streams) {
            (Asked::Channels, None) => return Err(Failure::Mismatch(exec::PROTOCOL)),
            (Asked::Tunnel, Some(_)) => return Err(Failure::Mismatch(tunnel::PROTOCOL)),
            (Asked::Channels, Some(_)) => {
                own.insert(STREAM_PROTOCOL, HeaderValue::from_static(exec::SPDY_PROTOCOL));
                &own
            }
            (Asked::Tunnel, None) => {
                own.insert(STREAM_PROTOCOL, HeaderValue::from_static(tunnel::SPDY_PROTOCOL));
                &own
            }
            (Asked::Spdy | Asked::WebSocket, _) => request.headers(),
        };
        let answer = if asked.is_translated() { Some(accept(request.headers(), asked)?) } else { None };
        let method = if asked.is_translated() { Method::POST } else { request.method().clone() };
        let runtime = ask(handler, &place, method, headers, asked).await?;
        Ok((answer, runtime))
    };
    let (answer, mut runtime) = match opened.await {
        Ok(opened) => opened,
        Err(failure) => {
            tracing::debug!(%failure, "a stream was not opened");
            return failure.reply();
        }
    };
    let headers = answer.unwrap_or_else(|| passed(runtime.headers(), &TO_CLIENT));
    let (client, runtime) = (hyper::upgrade::on(&mut request), hyper::upgrade::on(&mut runtime));
    let (shutdown, idle) = (handler.host.shutdown(), handler.idle);
    let activity = Activity::new();
    handler.tracker.spawn(async move {
        tokio::select! {
            () = activity.none_for(idle) => tracing::debug!(?idle, "a silent stream is ended"),
            ended = carry(client, runtime, asked, streams, &activity) => if let Err(error) = ended {
                tracing::debug!(%error, "a stream ended early");
            },
            () = shutdown.cancelled() => {}
        }
    });
    let mut reply = reply::switching();
    *reply.headers_mut() = headers;
    let agreed = if asked == Asked::Spdy { "SPDY/3.1" } else { "websocket" };
    reply.headers_mut().insert(UPGRADE, HeaderValue::from_static(agreed));
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    reply
}

/// Copies until both sides have ended, or translates.
async fn carry(
    client: OnUpgrade,
    runtime: OnUpgrade,
    asked: Asked,
    streams: Option<Streams>,
    activity: &Activity,
) -> io::Result<()> {
    let mut runtime = TokioIo::new(runtime.await.map_err(io::Error::other)?);
    let client = TokioIo::new(client.await.map_err(io::Error::other)?);
    let mut client = Watched::new(client, activity.clone());
    match asked {
        Asked::Spdy | Asked::WebSocket => {
            tokio::io::copy_bidirectional(&mut client, &mut runtime).await?;
            Ok(())
        }
        Asked::Channels => {
            exec::translate(client, runtime, streams.unwrap_or_default()).await.map_err(io::Error::other)
        }
        Asked::Tunnel => tunnel::tunnel(client, runtime).await.map_err(io::Error::other),
    }
}

/// The headers that are passed on.
fn passed(headers: &HeaderMap, which: &[HeaderName]) -> HeaderMap {
    let mut passed = HeaderMap::new();
    for name in which {
        for value in headers.get_all(name) {
            passed.append(name.clone(), value.clone());
        }
    }
    passed
}

/// Our own side of a WebSocket handshake.
fn accept(headers: &HeaderMap, asked: Asked) -> Result<HeaderMap, Failure> {
    let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).ok_or(Failure::Handshake)?;
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Failure::Handshake);
    }
    let protocol = if asked == Asked::Tunnel { tunnel::PROTOCOL } else { exec::PROTOCOL };
    let accept = HeaderValue::from_str(&websocket::accept_key(key)).map_err(|_| Failure::Handshake)?;
    Ok(HeaderMap::from_iter([
        (SEC_WEBSOCKET_ACCEPT, accept),
        (SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol)),
    ]))
}

/// Asks the runtime's streaming server for the protocol and gives its answer, which is a 101 to exactly that.
async fn ask(
    handler: &Handler,
    place: &Place,
    method: Method,
    headers: &HeaderMap,
    asked: Asked,
) -> Result<Response<Incoming>, Failure> {
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    *request.uri_mut() = place.path.clone();
    *request.headers_mut() = passed(headers, &TO_RUNTIME);
    let host = HeaderValue::from_str(&place.address.to_string()).map_err(io::Error::other)?;
    request.headers_mut().insert(HOST, host);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    request.headers_mut().insert(UPGRADE, asked.of_runtime());
    let exchange = async {
        let stream = TcpStream::connect(place.address).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let shutdown = handler.host.shutdown();
        handler.tracker.spawn(async move {
            tokio::select! {
                ended = connection.with_upgrades() => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection to the runtime ended");
                },
                () = shutdown.cancelled() => {}
            }
        });
        Ok::<_, Failure>(sender.send_request(request).await?)
    };
    let answer = tokio::time::timeout(ANSWER, exchange).await.map_err(|_| Failure::Timeout)??;
    let status = answer.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let agreed = answer.headers().get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let wanted = asked.of_runtime();
        if agreed.as_bytes().eq_ignore_ascii_case(wanted.as_bytes()) {
            return Ok(answer);
        }
        return Err(Failure::Protocol);
    }
    if status.is_redirection() {
        return Err(Failure::Redirect);
    }
    let body = tokio::time::timeout(ANSWER, Limited::new(answer.into_body(), REFUSAL_BYTES).collect()).await;
    let said =
        body.ok().and_then(Result::ok).map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
    Err(Failure::Refused(status, said.unwrap_or_else(|| format!("the runtime answered {status}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn only_known_protocols_are_asked_for() {
        let up = ("connection", "Upgrade");
        for (method, pairs, want) in [
            (Method::POST, &[up, ("upgrade", "SPDY/3.1")][..], Some(Asked::Spdy)),
            (
                Method::GET,
                &[("connection", "keep-alive, upgrade"), ("upgrade", "spdy/3.1")],
                Some(Asked::Spdy),
            ),
            (Method::GET, &[up, ("upgrade", "websocket")], Some(Asked::WebSocket)),
            (
                Method::GET,
                &[up, ("upgrade", "websocket"), ("sec-websocket-protocol", "v4.channel.k8s.io")],
                Some(Asked::WebSocket),
            ),
            (
                Method::GET,
                &[up, ("upgrade", "websocket"), ("sec-websocket-protocol", "x, v5.channel.k8s.io")],
                Some(Asked::Channels),
            ),
            (
                Method::GET,
                &[up, ("upgrade", "websocket"), ("sec-websocket-protocol", "SPDY/3.1+portforward.k8s.io")],
                Some(Asked::Tunnel),
            ),
            (Method::POST, &[up, ("upgrade", "SPDY/3.1"), ("content-length", "0")], Some(Asked::Spdy)),
            (Method::POST, &[up, ("upgrade", "SPDY/3.1"), ("content-length", "5")], None),
            (Method::POST, &[up, ("upgrade", "SPDY/3.1"), ("transfer-encoding", "chunked")], None),
            (Method::POST, &[up, ("upgrade", "websocket")], None),
            (Method::GET, &[up, ("upgrade", "h2c")], None),
            (Method::GET, &[up, ("upgrade", "websocket, h2c")], None),
            (Method::GET, &[("connection", "close"), ("upgrade", "websocket")], None),
            (Method::GET, &[up], None),
            (Method::GET, &[("upgrade", "websocket")], None),
        ] {
            assert_eq!(Asked::of_headers(&method, &headers(pairs)), want, "{method} {pairs:?}");
        }
    }

    #[test]
    fn only_loopback_is_connected_to() {
        for (url, address, path) in [
            ("http://127.0.0.1:10010/exec/abc", "127.0.0.1:10010", "/exec/abc"),
            ("http://[::1]:10010/attach/a?b=c", "[::1]:10010", "/attach/a?b=c"),
        ] {
            let place = Place::of(url).unwrap();
            assert_eq!(
                (place.address.to_string().as_str(), place.path.to_string().as_str()),
                (address, path)
            );
        }
        for url in [
            "http://10.0.0.1:10010/exec/abc",
            "http://169.254.169.254/exec/abc",
            "http://0.0.0.0:10010/exec/abc",
            "http://localhost:10010/exec/abc",
            "http://runtime.example:10010/exec/abc",
            "https://127.0.0.1:10010/exec/abc",
            "unix:///run/x.sock",
            "http://127.0.0.1@10.0.0.1:80/exec",
            "http://user@127.0.0.1:80/exec",
            "/exec/abc",
            "",
        ] {
            assert!(Place::of(url).is_err(), "{url}");
        }
    }

    #[test]
    fn nothing_but_the_protocols_headers_is_passed_on() {
        let sent = headers(&[
            ("authorization", "Bearer secret"),
            ("cookie", "a"),
            ("x-forwarded-for", "1.1.1.1"),
            ("host", "elsewhere"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ("sec-websocket-key", "k"),
        ]);
        let onwards = passed(&sent, &TO_RUNTIME);
        let names: Vec<&str> = onwards.keys().map(HeaderName::as_str).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(
            onwards.contains_key("x-stream-protocol-version") && onwards.contains_key("sec-websocket-key")
        );
    }

    #[test]
    fn a_handshake_of_ours() {
        let asked =
            headers(&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="), ("sec-websocket-version", "13")]);
        let answer = accept(&asked, Asked::Channels).unwrap();
        assert_eq!(answer[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(answer[SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
        assert!(accept(&headers(&[("sec-websocket-key", "k")]), Asked::Channels).is_err());
    }
}
