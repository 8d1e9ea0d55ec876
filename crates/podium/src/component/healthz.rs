//! The port that says of a component that it lives, and what it measures: TLS, with clients judged by the API server.
//!
//! `/healthz`, `/livez` and `/readyz` are open to everyone, as upstream's are; everything else is asked about at the API server
//! with a TokenReview and a SubjectAccessReview.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use podium_apiserver::User;
use podium_apiserver::authentication::certificates::Verifier;
use podium_client::{Api, Client, Shutdown, error_chain};
use podium_pki::tls::{AnyClientCertificate, ServingCertificate, server_config};
use podium_pki::{KeyPair, Secret};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::connection::Connection;

/// How long a handshake, a request's head, or the API server's answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at a time: a few scrapers and probes.
const CONNECTIONS: usize = 256;

/// Where the port is, and how it shows itself.
#[derive(Debug, Args)]
pub(crate) struct Serving {
    /// Address to listen on
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    pub(crate) bind_address: IpAddr,
    /// Serving certificate [default: one signed by nobody]
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    pub(crate) tls_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub(crate) tls_private_key_file: Option<PathBuf>,
    /// Authority of client certificates [default: the one that the API server publishes]
    #[arg(long, value_name = "FILE")]
    client_ca_file: Option<PathBuf>,
    /// How to ask the API server who a token is [default: --kubeconfig]
    #[arg(long, value_name = "FILE")]
    authentication_kubeconfig: Option<PathBuf>,
    /// How to ask the API server what a client may do [default: --kubeconfig]
    #[arg(long, value_name = "FILE")]
    authorization_kubeconfig: Option<PathBuf>,
}

impl Serving {
    fn pair(&self, component: &str) -> Result<KeyPair> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
        };
        match (&self.tls_cert_file, &self.tls_private_key_file) {
            (Some(certificate), Some(key)) => {
                Ok(KeyPair { certificate: read(certificate)?, key: Secret::new(read(key)?) })
            }
            _ => crate::certificates::self_signed(
                component,
                &crate::certificates::serving_names("localhost", [127, 0, 0, 1].into()),
            ),
        }
    }
}

/// Listens; the future serves until shutdown. `metrics` writes what the component itself counts.
pub(crate) async fn serve(
    component: &'static str,
    serving: &Serving,
    port: u16,
    client: Client,
    metrics: fn(&mut String),
    shutdown: Shutdown,
) -> Result<impl Future<Output = Result<(), Infallible>> + Send + 'static> {
    let address = SocketAddr::new(serving.bind_address, port);
    let certificate = ServingCertificate::new(&serving.pair(component)?)?;
    let mut tls = server_config(certificate, AnyClientCertificate::new(Vec::new()))?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    let authority = match &serving.client_ca_file {
        Some(path) => {
            let pem = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            podium_pki::certificate::from_pem(&pem).context("--client-ca-file")?
        }
        None => client_authority(&client).await,
    };
    let other = async |path: &Option<PathBuf>| match path {
        Some(path) => Connection::open(path, None).await?.client(),
        None => Ok(client.clone()),
    };
    let judge = Arc::new(Judge {
        authentication: other(&serving.authentication_kubeconfig).await?,
        authorization: other(&serving.authorization_kubeconfig).await?,
        certificates: Verifier::new(authority),
    });
    Ok(async move {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let tracker = TaskTracker::new();
        let accept = async {
            loop {
                let Ok(place) = places.clone().acquire_owned().await else { return };
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (acceptor, judge) = (acceptor.clone(), judge.clone());
                tracker.spawn(async move {
                    connection(stream, acceptor, judge, metrics).await;
                    drop(place);
                });
            }
        };
        shutdown.run_until_cancelled(accept).await;
        Ok(())
    })
}

/// The authorities of client certificates, as the API server publishes them. Without them certificates do not count.
async fn client_authority(client: &Client) -> Vec<rustls::pki_types::CertificateDer<'static>> {
    let api = Api::<ConfigMap>::namespaced(client.clone(), "kube-system");
    match api.get("extension-apiserver-authentication").await {
        Ok(map) => {
            let pem = map.data.and_then(|mut data| data.remove("client-ca-file")).unwrap_or_default();
            podium_pki::certificate::from_pem(&pem).unwrap_or_default()
        }
        Err(error) => {
            tracing::warn!(error = error_chain(&error), "client certificates are not accepted");
            Vec::new()
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, judge: Arc<Judge>, metrics: fn(&mut String)) {
    let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await else { return };
    let chain: Arc<[_]> = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec().into();
    let service = service_fn(move |request: Request<Incoming>| {
        let (judge, chain) = (judge.clone(), chain.clone());
        async move { Ok::<_, Infallible>(answer(&judge, metrics, &chain, &request).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    judge: &Judge,
    metrics: fn(&mut String),
    chain: &[rustls::pki_types::CertificateDer<'static>],
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    if matches!(path, "/healthz" | "/livez" | "/readyz") {
        return text(StatusCode::OK, "ok");
    }
    match judge.permits(chain, request).await {
        Verdict::Yes => {}
        Verdict::Unknown => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
        Verdict::No(user) => {
            let verb = verb(request.method());
            let why = format!("forbidden: User {user:?} cannot {verb} path {path:?}");
            return text(StatusCode::FORBIDDEN, &why);
        }
    }
    match path {
        "/metrics" => {
            let mut body = podium_client::process_metrics();
            podium_client::metrics::collect(&mut body);
            metrics(&mut body);
            let mut reply = text(StatusCode::OK, &body);
            let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            reply.headers_mut().insert(CONTENT_TYPE, kind);
            reply
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    reply
}

fn verb(method: &Method) -> String {
    method.as_str().to_ascii_lowercase()
}

/// What the API server says of a request.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Yes,
    /// Credentials that are not good.
    Unknown,
    /// Known, and not permitted.
    No(String),
}

struct Judge {
    authentication: Client,
    authorization: Client,
    certificates: Verifier,
}

impl Judge {
    async fn permits(
        &self,
        chain: &[rustls::pki_types::CertificateDer<'static>],
        request: &Request<Incoming>,
    ) -> Verdict {
        let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let user = if let Ok(user) = self.certificates.verify(chain, Timestamp::now()) {
            user
        } else if let Some(token) = token.and_then(|value| value.strip_prefix("Bearer ")) {
            match self.review(token).await {
                Some(user) => user,
                None => return Verdict::Unknown,
            }
        } else {
            User::anonymous()
        };
        let name = user.name.clone();
        if self.allowed(user, verb(request.method()), request.uri().path()).await {
            Verdict::Yes
        } else {
            Verdict::No(name)
        }
    }

    async fn review(&self, token: &str) -> Option<User> {
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: None };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api = Api::<TokenReview>::all(self.authentication.clone());
        let status = tokio::time::timeout(PATIENCE, api.create(&PostParams::default(), &review)).await;
        let status = status.ok()?.ok()?.status?;
        let user = status.user.filter(|_| status.authenticated == Some(true))?;
        Some(User {
            name: user.username.filter(|name| !name.is_empty())?,
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        })
    }

    async fn allowed(&self, user: User, verb: String, path: &str) -> bool {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name),
                uid: Some(user.uid).filter(|uid| !uid.is_empty()),
                groups: Some(user.groups),
                extra: Some(user.extra).filter(|extra| !extra.is_empty()),
                non_resource_attributes: Some(NonResourceAttributes {
                    path: Some(path.to_owned()),
                    verb: Some(verb),
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api = Api::<SubjectAccessReview>::all(self.authorization.clone());
        match tokio::time::timeout(PATIENCE, api.create(&PostParams::default(), &review)).await {
            Ok(Ok(answer)) => answer.status.is_some_and(|s| s.allowed && s.denied != Some(true)),
            Ok(Err(error)) => {
                tracing::warn!(error = error_chain(&error), "a request could not be authorised");
                false
            }
            Err(_) => false,
        }
    }
}
