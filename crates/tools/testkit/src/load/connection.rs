//! Connections to an API server, as client-go makes them: TLS, HTTP/2, credentials of a kubeconfig.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls_pki_types::{PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Windows of Go's HTTP/2 transport, which is what most clients of an API server are.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;

/// Where a server is and who we are to it.
#[derive(Clone)]
pub(crate) struct Target {
    host: String,
    port: u16,
    tls: Arc<rustls::ClientConfig>,
    authorization: Option<HeaderValue>,
}

impl Target {
    /// Reads the first cluster and user of a kubeconfig.
    pub(crate) fn read(path: &Path) -> Result<Target> {
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let config: Value = serde_norway::from_slice(&text)?;
        let cluster = &config["clusters"][0]["cluster"];
        let user = &config["users"][0]["user"];
        let server: http::Uri = cluster["server"].as_str().context("no server")?.parse()?;
        // Each of them stands in the file itself or in one of its own.
        let either = |place: &Value, name: &str| -> Result<Option<Vec<u8>>> {
            match (place[format!("{name}-data")].as_str(), place[name].as_str()) {
                (Some(data), _) => Ok(Some(STANDARD.decode(data.trim())?)),
                (None, Some(file)) => Ok(Some(std::fs::read(file)?)),
                (None, None) => Ok(None),
            }
        };
        let authority = either(cluster, "certificate-authority")?.context("no certificate authority")?;
        let mut roots = RootCertStore::empty();
        for certificate in podium_pki::certificate::from_pem(std::str::from_utf8(&authority)?)? {
            roots.add(certificate)?;
        }
        let builder = rustls::ClientConfig::builder_with_provider(podium_pki::tls::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let (certificate, key) = (either(user, "client-certificate")?, either(user, "client-key")?);
        let tls = match (certificate, key) {
            (Some(certificate), Some(key)) => {
                let chain = podium_pki::certificate::from_pem(std::str::from_utf8(&certificate)?)?;
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&key)?)?
            }
            _ => builder.with_no_client_auth(),
        };
        let token = user["token"].as_str();
        let authorization =
            token.map(|token| HeaderValue::from_str(&format!("Bearer {token}"))).transpose()?;
        Ok(Target {
            host: server.host().context("no host")?.trim_matches(['[', ']']).to_owned(),
            port: server.port_u16().unwrap_or(443),
            tls: Arc::new(tls),
            authorization,
        })
    }

    /// A connection on which this is spoken: `h2` or `http/1.1`.
    pub(crate) async fn connect(&self, protocol: &str) -> Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(self.host.clone())?;
        let mut tls = rustls::ClientConfig::clone(&self.tls);
        tls.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await?;
        let spoken = stream.get_ref().1.alpn_protocol();
        ensure!(spoken == Some(protocol.as_bytes()), "the server does not speak {protocol}");
        Ok(stream)
    }

    /// The value of the header that says who we are, where no certificate does.
    pub(crate) fn authorization(&self) -> Option<&str> {
        self.authorization.as_ref()?.to_str().ok()
    }
}

/// Some connections to one server.
#[derive(Clone)]
pub(crate) struct Connections {
    senders: Arc<Vec<SendRequest<Full<Bytes>>>>,
    base: Arc<str>,
    authorization: Option<HeaderValue>,
}

impl Connections {
    /// Opens this many.
    pub(crate) async fn open(target: &Target, count: usize) -> Result<Connections> {
        let mut senders = Vec::new();
        for _ in 0..count.max(1) {
            let tls = target.connect("h2").await?;
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .handshake(TokioIo::new(tls))
                .await?;
            // It ends with its senders.
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    eprintln!("connection: {error}");
                }
            });
            senders.push(sender);
        }
        Ok(Connections {
            senders: Arc::new(senders),
            base: format!("https://{}:{}", target.host, target.port).into(),
            authorization: target.authorization.clone(),
        })
    }

    /// Sends a request over the connection of this number; the answer's body is still to come.
    pub(crate) async fn send(
        &self,
        index: usize,
        method: Method,
        path: &str,
        content_type: &'static str,
        accept: &'static str,
        body: impl Into<Bytes>,
    ) -> Result<http::Response<Incoming>> {
        let body = body.into();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("accept", accept)
            .header("user-agent", "podium-load");
        if !body.is_empty() {
            request = request.header("content-type", content_type);
        }
        if let Some(value) = &self.authorization {
            request = request.header("authorization", value);
        }
        let mut sender = self.senders[index % self.senders.len()].clone();
        sender.ready().await?;
        Ok(sender.send_request(request.body(Full::new(body))?).await?)
    }

    /// Sends a request and reads the answer; any but a success is an error that says what came.
    pub(crate) async fn call(
        &self,
        index: usize,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: impl Into<Bytes>,
    ) -> Result<usize> {
        let response = self.send(index, method, path, content_type, "application/json", body).await?;
        let (status, length, body) = drain(response).await?;
        if !status.is_success() {
            bail!("{path}: {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(length)
    }

    /// As [`Connections::call`], with the answer's bytes.
    pub(crate) async fn read(&self, path: &str) -> Result<Bytes> {
        let response = self.send(0, Method::GET, path, "", "application/json", Bytes::new()).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "{path}: {status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }
}

/// Reads a body to its end: its length, checked against what was announced. Of a failure the first bytes are kept.
pub(crate) async fn drain(response: http::Response<Incoming>) -> Result<(StatusCode, usize, Vec<u8>)> {
    let status = response.status();
    let announced =
        response.headers().get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
    let mut body = response.into_body();
    let (mut length, mut kept) = (0, Vec::new());
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            length += data.len();
            if !status.is_success() && kept.len() < 4096 {
                kept.extend_from_slice(&data);
            }
        }
    }
    ensure!(announced.is_none_or(|wanted: usize| wanted == length), "{length} of {announced:?} bytes came");
    Ok((status, length, kept))
}
