//! One HTTP GET over a connection of its own, for probes, hooks and pods from a URL. Whom to believe, and whether to follow a
//! redirect, is the caller's.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;

/// As many redirects as Go's client follows.
pub(crate) const MAX_REDIRECTS: usize = 10;

/// How the error of a server ends that does not speak TLS though it should.
pub(crate) const NOT_TLS: &str = "http: server gave HTTP response to HTTPS client";

/// Where a request goes, and with which headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpTarget {
    pub(crate) https: bool,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// With the query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl HttpTarget {
    /// Where an absolute URL leads; None if it is not one of HTTP, or has a user in it.
    pub(crate) fn of(url: &str, headers: Vec<(String, String)>) -> Option<Self> {
        let url: Uri = url.parse().ok()?;
        let https = match url.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let authority = url.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let host = authority.host().trim_matches(['[', ']']);
        let port = match authority.as_str().strip_prefix(authority.host())? {
            "" | ":" if https => 443,
            "" | ":" => 80,
            port => port.strip_prefix(':')?.parse().ok()?,
        };
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Some(Self { https, host: host.to_owned(), port, path, headers })
            .filter(|target| !target.host.is_empty())
    }

    /// The same without TLS, and without what only TLS keeps secret.
    pub(crate) fn plain(&self) -> Self {
        let mut plain = Self { https: false, ..self.clone() };
        plain.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
        plain
    }

    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{host}:{}", self.port)
    }

    /// As a person writes it.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority(), self.path)
    }
}

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    location: Option<String>,
    /// An error if it broke off or is too long.
    pub(crate) body: Result<Bytes, String>,
}

impl Answer {
    /// Where it sends whoever asked `from`; None if nowhere, or nowhere that HTTP leads. The headers stay.
    pub(crate) fn redirect(&self, from: &HttpTarget) -> Option<HttpTarget> {
        let location = self.location.as_deref().filter(|_| self.status.is_redirection())?;
        if location.starts_with('/') && !location.starts_with("//") {
            return Some(HttpTarget { path: location.to_owned(), ..from.clone() });
        }
        HttpTarget::of(location, from.headers.clone())
    }
}

/// Asks once. No more than `limit_bytes` are read; the error is Go's text for it.
pub(crate) async fn once(
    target: &HttpTarget,
    agent: &str,
    limit_bytes: usize,
    trust: &Arc<ClientConfig>,
) -> Result<Answer, String> {
    let stream = TcpStream::connect((target.host.as_str(), target.port))
        .await
        .map_err(|error| format!("dial tcp {}: connect: {}", target.authority(), cause(&error)))?;
    if target.https {
        let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
        let stream = tokio_rustls::TlsConnector::from(trust.clone())
            .connect(name, stream)
            .await
            .map_err(|error| if is_not_tls(&error) { NOT_TLS.to_owned() } else { error.to_string() })?;
        exchange(TokioIo::new(stream), target, agent, limit_bytes).await
    } else {
        exchange(TokioIo::new(stream), target, agent, limit_bytes).await
    }
}

/// Whether the other side answered in something that is no TLS at all.
fn is_not_tls(error: &std::io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)))
}

async fn exchange<S>(
    stream: S,
    target: &HttpTarget,
    agent: &str,
    limit_bytes: usize,
) -> Result<Answer, String>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(stream).await.map_err(|error| error.to_string())?;
    let mut request = Request::get(&target.path);
    let given = |name: &str| target.headers.iter().any(|(have, _)| have.eq_ignore_ascii_case(name));
    for (name, value) in &target.headers {
        request = request.header(name, value);
    }
    if !given("host") {
        request = request.header(header::HOST, target.authority());
    }
    if !given("user-agent") {
        request = request.header(header::USER_AGENT, agent);
    }
    if !given("accept") {
        request = request.header(header::ACCEPT, "*/*");
    }
    let request = request
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(|error| shorten(&error))?;
        let (parts, body) = response.into_parts();
        let location =
            parts.headers.get(header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = Limited::new(body, limit_bytes).collect().await;
        let body = body.map(|body| body.to_bytes()).map_err(|error| error.to_string());
        Ok(Answer { status: parts.status, location, body })
    };
    tokio::pin!(talk);
    tokio::select! {
        biased;
        answer = &mut talk => answer,
        ended = connection => {
            ended.map_err(|error| shorten(&error))?;
            talk.await
        }
    }
}

fn shorten(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_closed() { "EOF".to_owned() } else { error.to_string() }
}

/// The system's words for an error, as Go prints them.
pub(crate) fn cause(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        std::io::ErrorKind::TimedOut => "connection timed out".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_http() {
        for (url, expected) in [
            ("http://a", Some(("http://a:80/", "a"))),
            ("https://a.b/c/d?e=f", Some(("https://a.b:443/c/d?e=f", "a.b"))),
            ("http://a:/x", Some(("http://a:80/x", "a"))),
            ("http://a:8080/x", Some(("http://a:8080/x", "a"))),
            ("https://[::1]:6443/x", Some(("https://[::1]:6443/x", "::1"))),
            ("http://a?q", Some(("http://a:80/?q", "a"))),
            ("http://user:secret@a/x", None),
            ("ftp://a/x", None),
            ("a/x", None),
            ("/x", None),
            ("http://", None),
            ("http://a:99999/", None),
            ("", None),
        ] {
            let target = HttpTarget::of(url, Vec::new());
            let found = target.as_ref().map(|target| (target.url(), target.host.clone()));
            assert_eq!(found, expected.map(|(url, host)| (url.to_owned(), host.to_owned())), "{url}");
        }
    }

    #[test]
    fn redirects() {
        let from = HttpTarget::of("http://a:81/x", vec![("k".to_owned(), "v".to_owned())]).unwrap();
        let lead = |status: u16, location: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = Answer { status, location: Some(location.to_owned()), body: Ok(Bytes::new()) };
            answer.redirect(&from).map(|next| (next.url(), next.headers.len()))
        };
        for (status, location, expected) in [
            (302, "/y?z", Some("http://a:81/y?z")),
            (301, "https://b/y", Some("https://b:443/y")),
            (307, "http://a/y", Some("http://a:80/y")),
            (200, "/y", None),
            (302, "y", None),
            (302, "//b/y", None),
            (302, "file:///etc/passwd", None),
        ] {
            assert_eq!(lead(status, location), expected.map(|url| (url.to_owned(), 1)), "{location}");
        }
    }
}
