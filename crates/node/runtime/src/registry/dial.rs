//! The way to a host: straight, or by the proxy that the environment names for it (`HTTP_PROXY`, `HTTPS_PROXY`,
//! `NO_PROXY`), with TLS as the host's configuration has it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, PROXY_AUTHORIZATION, RANGE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use podium_pki::tls::{AnyServerCertificate, provider};
use rustls::client::WantsClientCert;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use tokio::net::TcpStream;
use tower::Service;

use super::client::Extra;
use super::hosts::Host;

/// How hosts are reached.
#[derive(Debug)]
pub(super) struct Ways {
    proxies: Matcher,
}

impl Ways {
    /// As the environment of this process says.
    pub(super) fn of_environment() -> Self {
        Self { proxies: Matcher::from_env() }
    }

    /// The proxy on the way to a server. What is on this machine is reached straight, as Go's programs have it.
    fn proxy(&self, uri: &Uri) -> Option<Intercept> {
        let host = uri.host()?.trim_matches(['[', ']']);
        let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if here { None } else { self.proxies.intercept(uri) }
    }

    /// Sends a request and gives the beginning of its answer.
    pub(super) async fn ask(&self, host: &Host, url: &str, extra: &Extra) -> io::Result<Response<Incoming>> {
        let uri: Uri = url.parse().map_err(io::Error::other)?;
        let authority = uri.authority().ok_or(io::ErrorKind::InvalidInput)?.clone();
        let name = authority.host().trim_matches(['[', ']']).to_owned();
        let secure = uri.scheme_str() == Some("https");
        let proxy = self.proxy(&uri);
        let mut request = request(host, &uri, extra)?;
        let stream = match &proxy {
            None => connect(&name, authority.port_u16().unwrap_or(if secure { 443 } else { 80 })).await?,
            Some(proxy) if secure => tunnel(proxy, uri).await?,
            // It asks in our place, and has to be told whom.
            Some(proxy) => {
                if let Some(ours) = proxy.basic_auth() {
                    request.headers_mut().insert(PROXY_AUTHORIZATION, ours.clone());
                }
                *request.uri_mut() = uri;
                let (name, port) = address(proxy)?;
                connect(&name, port).await?
            }
        };
        if secure {
            let connector = tokio_rustls::TlsConnector::from(Arc::new(tls(host)?));
            let name = ServerName::try_from(name).map_err(io::Error::other)?;
            exchange(connector.connect(name, stream).await?, request).await
        } else {
            exchange(stream, request).await
        }
    }
}

async fn connect(name: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((name, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Where a proxy is.
fn address(proxy: &Intercept) -> io::Result<(String, u16)> {
    let uri = proxy.uri();
    if uri.scheme_str() != Some("http") {
        let scheme = uri.scheme_str().unwrap_or_default();
        return Err(io::Error::other(format!("a proxy by {scheme} is not supported, only by http")));
    }
    let name = uri.host().ok_or(io::ErrorKind::InvalidInput)?.trim_matches(['[', ']']);
    Ok((name.to_owned(), uri.port_u16().unwrap_or(80)))
}

/// A connection to the server itself, through the proxy.
async fn tunnel(proxy: &Intercept, to: Uri) -> io::Result<TcpStream> {
    let (name, port) = address(proxy)?;
    let broken = |error: Box<dyn std::error::Error + Send + Sync>| {
        io::Error::other(format!("by the proxy {name}:{port}: {error}"))
    };
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let mut tunnel = Tunnel::new(proxy.uri().clone(), connector);
    if let Some(ours) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(ours.clone());
    }
    std::future::poll_fn(|cx| tunnel.poll_ready(cx)).await.map_err(|error| broken(error.into()))?;
    let stream = tunnel.call(to).await.map_err(|error| broken(error.into()))?;
    Ok(stream.into_inner())
}

fn request(host: &Host, uri: &Uri, extra: &Extra) -> io::Result<Request<Full<Bytes>>> {
    let authority = uri.authority().ok_or(io::ErrorKind::InvalidInput)?;
    let mut headers = HeaderMap::new();
    let text = |value: &str| HeaderValue::from_str(value).map_err(io::Error::other);
    for (name, value) in &host.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(io::Error::other)?;
        headers.append(name, text(value)?);
    }
    headers.insert(HOST, text(authority.as_str())?);
    headers.insert(USER_AGENT, HeaderValue::from_static("podium"));
    if let Some(accept) = extra.accept {
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
    }
    if extra.from > 0 {
        headers.insert(RANGE, text(&format!("bytes={}-", extra.from))?);
    }
    if let Some(authorization) = &extra.authorization {
        let mut value = text(authorization)?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    let mut request = Request::new(Full::new(Bytes::from(extra.form.clone().unwrap_or_default())));
    if extra.form.is_some() {
        *request.method_mut() = Method::POST;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    } else if extra.head {
        *request.method_mut() = Method::HEAD;
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(io::Error::other)?;
    *request.headers_mut() = headers;
    Ok(request)
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> io::Result<Response<Incoming>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Ends when the answer has been read or let go.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a registry connection ended");
        }
    });
    sender.send_request(request).await.map_err(io::Error::other)
}

fn tls(host: &Host) -> io::Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    // Its owner has said so in `hosts.toml`.
    if host.skip_verify {
        let builder = builder.dangerous().with_custom_certificate_verifier(AnyServerCertificate::new());
        return identify(builder, host);
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for path in &host.ca {
        for certificate in CertificateDer::pem_file_iter(path).map_err(io::Error::other)? {
            roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
        }
    }
    identify(builder.with_root_certificates(roots), host)
}

/// With the certificate that we are to show the host, if there is one.
fn identify(builder: ConfigBuilder<ClientConfig, WantsClientCert>, host: &Host) -> io::Result<ClientConfig> {
    // Of several a host would be shown the one that it asks for; the first is what this library can give.
    let Some((certificate, key)) = host.client.first() else { return Ok(builder.with_no_client_auth()) };
    let chain = CertificateDer::pem_file_iter(certificate).map_err(io::Error::other)?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    builder.with_client_auth_cert(chain, key).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// What the proxy at the other end is asked; it answers with `answer` and says what comes next.
    async fn through(url: &str, answer: &str, next: usize) -> (String, Vec<u8>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let proxy = format!("http://u:p@{}", listener.local_addr().unwrap());
        let proxies = Matcher::builder().all(proxy).no("direct.example").build();
        let (url, ways) = (url.to_owned(), Ways { proxies });
        let asking = tokio::spawn(async move {
            let _ = ways.ask(&Host::default(), &url, &Extra::default()).await;
        });
        let seen = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut head).await.unwrap() > 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            let mut more = vec![0; next];
            stream.read_exact(&mut more).await.unwrap();
            (String::from_utf8(head).unwrap().to_lowercase(), more)
        };
        let seen = tokio::time::timeout(Duration::from_secs(20), seen).await.expect("the proxy is asked");
        asking.abort();
        seen
    }

    #[tokio::test]
    async fn proxies_of_the_environment_are_on_the_way() {
        let (head, _) = through("http://registry.example:5000/v2/a?x=y", "HTTP/1.1 404 no\r\n\r\n", 0).await;
        assert!(head.starts_with("get http://registry.example:5000/v2/a?x=y http/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nproxy-authorization: basic dtpw\r\n"), "{head}");
        // Through to the server: the next that is said is TLS.
        let (head, more) = through("https://registry.example/v2/a", "HTTP/1.1 200 OK\r\n\r\n", 1).await;
        assert!(head.starts_with("connect registry.example:443 http/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nproxy-authorization: basic dtpw\r\n"), "{head}");
        assert_eq!(more, [22]);
    }

    #[test]
    fn what_is_near_is_reached_straight() {
        let ways =
            Ways { proxies: Matcher::builder().all("http://proxy.example").no("direct.example").build() };
        let proxied = |url: &str| ways.proxy(&url.parse().unwrap()).is_some();
        assert!(proxied("https://registry.example/v2") && proxied("http://10.0.0.1:5000/v2"));
        for near in
            ["http://localhost:5000", "http://127.0.0.1:5000", "http://[::1]:5000", "https://direct.example"]
        {
            assert!(!proxied(near), "{near}");
        }
        let other = Ways { proxies: Matcher::builder().all("socks5://proxy.example").build() };
        let proxy = other.proxy(&"https://registry.example".parse().unwrap()).unwrap();
        assert!(address(&proxy).unwrap_err().to_string().contains("socks5"));
    }
}
