//! The port that says of a component that it lives, and what it measures: TLS, with clients judged by the API server.
//!
//! `/healthz`, `/livez` and `/readyz` are open to everyone by default, as upstream's are; everything else is asked about at
//! the API server with a TokenReview and a SubjectAccessReview.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
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
use podium_api::zpages::Pages;
use podium_apiserver::User;
use podium_apiserver::authentication::Peer;
use podium_apiserver::authentication::certificates::Verifier;
use podium_apiserver::authentication::proxy::FrontProxies;
use podium_client::metrics::gauges;
use podium_client::{Api, Client, error_chain};
use podium_pki::tls::{AnyClientCertificate, ServingCertificate, server_config};
use podium_pki::{KeyPair, Secret};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::health::Health;
use crate::connection::Connection;
use crate::parts::Parts;

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
    /// Authority of front proxies, which say in headers whom they speak for [default: the one that the API server publishes]
    #[arg(long, value_name = "FILE")]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Names that a front proxy's certificate may have [default: any that --requestheader-client-ca-file signed, or those that
    /// the API server publishes]
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "requestheader_client_ca_file")]
    requestheader_allowed_names: Vec<String>,
    /// How to ask the API server who a token is [default: --kubeconfig]
    #[arg(long, value_name = "FILE")]
    authentication_kubeconfig: Option<PathBuf>,
    /// How to ask the API server what a client may do [default: --kubeconfig]
    #[arg(long, value_name = "FILE")]
    authorization_kubeconfig: Option<PathBuf>,
    /// Paths that are open to everybody; one that ends in * stands for all that begin so
    #[arg(long, value_name = "PATHS", value_delimiter = ',', default_value = "/healthz,/readyz,/livez")]
    authorization_always_allow_paths: Vec<String>,
}

impl Serving {
    /// Whether there is nothing to ask the API server about.
    fn names_all_authorities(&self) -> bool {
        self.client_ca_file.is_some() && self.requestheader_client_ca_file.is_some()
    }

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

/// What a component shows at its port.
#[derive(Clone)]
pub(crate) struct Shown {
    /// Its name, also in its certificate.
    pub(crate) component: &'static str,
    pub(crate) health: Arc<Health>,
    /// Writes what the component itself counts.
    pub(crate) metrics: fn(&mut String),
    pub(crate) pages: Arc<Pages>,
}

/// Listens; the future serves until shutdown.
pub(crate) async fn serve(
    shown: Shown,
    serving: &Serving,
    port: u16,
    client: Client,
    parts: &mut Parts,
) -> Result<impl Future<Output = Result<(), Infallible>> + Send + 'static> {
    let address = SocketAddr::new(serving.bind_address, port);
    let certificate = ServingCertificate::new(&serving.pair(shown.component)?)?;
    let mut tls = server_config(certificate, AnyClientCertificate::new(Vec::new()))?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    let published = match serving.names_all_authorities() {
        true => BTreeMap::new(),
        false => published(&client).await,
    };
    let shutdown = parts.shutdown();
    let mut other = async |path: &Option<PathBuf>| match path {
        Some(path) => Connection::open(path, None).await?.renewed_client(parts),
        None => Ok(client.clone()),
    };
    let judge = Arc::new(Judge {
        authentication: other(&serving.authentication_kubeconfig).await?,
        authorization: other(&serving.authorization_kubeconfig).await?,
        certificates: Certificates::new(serving, published)?,
        open: serving.authorization_always_allow_paths.clone(),
    });
    Ok(async move {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let tracker = TaskTracker::new();
        let accept = async {
            loop {
                let Ok(place) = places.clone().acquire_owned().await else { return };
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (acceptor, judge, shown) = (acceptor.clone(), judge.clone(), shown.clone());
                tracker.spawn(async move {
                    connection(stream, acceptor, judge, shown).await;
                    drop(place);
                });
            }
        };
        shutdown.run_until_cancelled(accept).await;
        Ok(())
    })
}

/// Whose certificates count: those of clients, and of front proxies.
struct Certificates {
    clients: Verifier,
    proxies: FrontProxies,
}

impl Certificates {
    /// What no flag names is as the API server publishes it.
    fn new(serving: &Serving, mut published: BTreeMap<String, String>) -> Result<Self> {
        let names = published.remove("requestheader-allowed-names");
        let mut authorities = |key: &str, given: &Option<PathBuf>| match given {
            Some(path) => {
                let pem =
                    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
                podium_pki::certificate::from_pem(&pem).with_context(|| format!("--{key}"))
            }
            None => {
                let pem = published.remove(key).unwrap_or_default();
                Ok(podium_pki::certificate::from_pem(&pem).unwrap_or_default())
            }
        };
        let clients = authorities("client-ca-file", &serving.client_ca_file)?;
        let given = &serving.requestheader_client_ca_file;
        let mut proxies = authorities("requestheader-client-ca-file", given)?;
        let names = match given {
            Some(_) => serving.requestheader_allowed_names.clone(),
            // A list in JSON. One that cannot be read must not come to mean anybody.
            None => names.and_then(|list| serde_json::from_str(&list).ok()).unwrap_or_else(|| {
                proxies.clear();
                Vec::new()
            }),
        };
        Ok(Certificates { clients: Verifier::new(clients), proxies: FrontProxies::new(proxies, names) })
    }

    /// The user that a certificate is, or that a front proxy speaks for.
    fn user(
        &self,
        chain: &[rustls::pki_types::CertificateDer<'_>],
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Option<User> {
        if chain.is_empty() {
            return None;
        }
        let peer = Peer::new(chain);
        let vouched = self.proxies.user(&peer, headers, now);
        vouched.or_else(|| self.clients.verify_peer(&peer, now).ok().map(Arc::unwrap_or_clone))
    }
}

/// What the API server publishes about whom it trusts. Without it certificates do not count.
async fn published(client: &Client) -> BTreeMap<String, String> {
    let api = Api::<ConfigMap>::namespaced(client.clone(), "kube-system");
    match api.get("extension-apiserver-authentication").await {
        Ok(map) => map.data.unwrap_or_default(),
        Err(error) => {
            tracing::warn!(
                error = error_chain(&error),
                "certificates of authorities that no flag names are not accepted"
            );
            BTreeMap::new()
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, judge: Arc<Judge>, shown: Shown) {
    let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await else { return };
    let chain: Arc<[_]> = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec().into();
    let service = service_fn(move |request: Request<Incoming>| {
        let (judge, shown, chain) = (judge.clone(), shown.clone(), chain.clone());
        async move { Ok::<_, Infallible>(answer(&judge, &shown, &chain, &request).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    judge: &Judge,
    shown: &Shown,
    chain: &[rustls::pki_types::CertificateDer<'static>],
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let verdict = if is_open(&judge.open, path) { Verdict::Yes } else { judge.permits(chain, request).await };
    match verdict {
        Verdict::Yes => {}
        Verdict::Unknown => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
        Verdict::No(user) => {
            let verb = verb(request.method());
            let why = format!("forbidden: User {user:?} cannot {verb} path {path:?}");
            return text(StatusCode::FORBIDDEN, &why);
        }
    }
    let pages = super::zpages::page(&shown.pages, request);
    pages.unwrap_or_else(|| page(path, request.uri().query().unwrap_or_default(), shown))
}

/// What is at a path, for who may see it.
fn page(path: &str, query: &str, shown: &Shown) -> Response<Full<Bytes>> {
    match path {
        "/metrics" => {
            let mut body = podium_client::process_metrics();
            of_process(&mut body);
            podium_client::metrics::collect(&mut body);
            (shown.metrics)(&mut body);
            exposition(&body)
        }
        "/metrics/slis" => {
            let mut body = String::new();
            shown.health.collect(&mut body);
            exposition(&body)
        }
        _ => match shown.health.page(path, query) {
            Some(reply) => reply,
            None => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        },
    }
}

/// Metrics in Prometheus' text form.
fn exposition(body: &str) -> Response<Full<Bytes>> {
    let mut reply = text(StatusCode::OK, body);
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    reply.headers_mut().insert(CONTENT_TYPE, kind);
    reply
}

/// Writes what every component's metrics tell of its process: what was built, and which features there are.
pub(crate) fn of_process(out: &mut String) {
    build(out);
    super::gates::tell(out);
}

/// Writes what this is. Source: `k8s.io/component-base/metrics/prometheus/version` and `compatversion`; what a Go build knows of
/// itself beyond that is left empty.
fn build(out: &mut String) {
    let mut numbers = podium_api::VERSION.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let platform = format!("linux/{}", architecture());
    let help = "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.";
    let labels = [
        ("build_date", ""),
        ("compiler", "rustc"),
        ("git_commit", ""),
        ("git_tree_state", ""),
        ("git_version", podium_api::VERSION),
        ("go_version", ""),
        ("major", major),
        ("minor", minor),
        ("platform", &platform),
    ];
    let (names, values) = (labels.map(|(name, _)| name), labels.map(|(_, value)| value));
    gauges(out, "kubernetes_build_info", help, names, [(values, 1.0)]);
    let help = "[ALPHA] Provides the compatibility version info of the component. The component label is the name of the component, usually kube, but is relevant for aggregated-apiservers.";
    let version = format!("{major}.{minor}");
    let labels = ["binary", "component", "emulation", "min_compat"];
    // As by default: nothing is emulated, and what the version before wrote is understood.
    let before = format!("{major}.{}", minor.parse::<u32>().unwrap_or_default().saturating_sub(1));
    let values = [version.as_str(), "kube", &version, &before];
    gauges(out, "version_info", help, labels, [(values, 1.0)]);
}

/// The machine's architecture by Go's name.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(super) fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
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
    certificates: Certificates,
    /// What needs no judgement.
    open: Vec<String>,
}

/// Whether a path is among those that are open to everybody.
fn is_open(open: &[String], path: &str) -> bool {
    let path = path.trim_start_matches('/');
    open.iter().map(|it| it.trim_start_matches('/')).any(|it| match it.strip_suffix('*') {
        Some(beginning) => path.starts_with(beginning),
        None => path == it,
    })
}

impl Judge {
    async fn permits(
        &self,
        chain: &[rustls::pki_types::CertificateDer<'static>],
        request: &Request<Incoming>,
    ) -> Verdict {
        let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let user = if let Some(user) = self.certificates.user(chain, request.headers(), Timestamp::now()) {
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

#[cfg(test)]
mod tests {
    use clap::Parser;
    use http_body_util::BodyExt;
    use podium_pki::Authority;
    use podium_pki::authority::{Request, Usage};

    use super::*;

    fn client_of(authority: &Authority, name: &str) -> Vec<rustls::pki_types::CertificateDer<'static>> {
        let life = Duration::from_secs(3600);
        let request = Request {
            common_name: name,
            organization: None,
            names: Default::default(),
            usage: Usage::Client,
            life,
        };
        authority.issue(&request, Timestamp::now()).unwrap().chain().unwrap()
    }

    fn authority(name: &str) -> Authority {
        Authority::generate(name, Timestamp::now()).unwrap()
    }

    #[test]
    fn paths_are_open_as_the_flag_says() {
        let open = |arguments: &[&str], path: &str| {
            let program = Program::try_parse_from(std::iter::once(&"program").chain(arguments)).unwrap();
            is_open(&program.serving.authorization_always_allow_paths, path)
        };
        for path in ["/healthz", "/livez", "/readyz"] {
            assert!(open(&[], path), "{path}");
        }
        let some = ["--authorization-always-allow-paths=/healthz/*,metrics"];
        for (path, by_default, with_some) in [
            ("/metrics", false, true),
            ("/metrics/slis", false, false),
            ("/healthz", true, false),
            ("/healthz/x", false, true),
            ("/", false, false),
        ] {
            assert_eq!((open(&[], path), open(&some, path)), (by_default, with_some), "{path}");
        }
    }

    #[tokio::test]
    async fn slis_are_of_health_checks_and_of_nothing_else() {
        let health = Arc::new(Health::default());
        let pages = Arc::new(super::super::zpages::pages::<Serving>("c"));
        let shown = Shown { component: "c", health, metrics: |out| out.push_str("of the component"), pages };
        let read = async |path: &str| {
            let reply = page(path, "", &shown);
            let kind = reply.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
            let body = reply.into_body().collect().await.unwrap().to_bytes();
            (kind, String::from_utf8(body.to_vec()).unwrap())
        };
        assert_eq!(read("/livez").await.1, "ok");
        let (kind, body) = read("/metrics/slis").await;
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        assert!(body.contains("{name=\"ping\",status=\"success\",type=\"livez\"} 1\n"), "{body}");
        assert!(!body.contains("of the component"), "{body}");
        assert!(read("/metrics").await.1.contains("of the component"));
        assert_eq!(read("/livez/x").await.1, "404 page not found\n");
    }

    #[test]
    fn the_build_is_told() {
        let mut out = String::new();
        build(&mut out);
        for row in [
            "major=\"1\",minor=\"36\",platform=\"linux/",
            "version_info{binary=\"1.36\",component=\"kube\",emulation=\"1.36\",min_compat=\"1.35\"} 1\n",
        ] {
            assert!(out.contains(row), "{out}");
        }
    }

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        serving: Serving,
    }

    fn certificates(arguments: &[&str], published: &[(&str, &str)]) -> Certificates {
        let serving = Program::try_parse_from(std::iter::once(&"program").chain(arguments)).unwrap().serving;
        let published = published.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Certificates::new(&serving, published.collect()).unwrap()
    }

    /// Who a request that names jane is from, by the certificate it comes with.
    fn who(certificates: &Certificates, chain: &[rustls::pki_types::CertificateDer<'_>]) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", http::HeaderValue::from_static("jane"));
        let user = certificates.user(chain, &headers, Timestamp::now());
        user.map_or("nobody".to_owned(), |user| user.name)
    }

    #[test]
    fn a_front_proxy_speaks_for_others_and_nobody_else_does() {
        let (clients, proxies) = (authority("clients"), authority("proxies"));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("proxies.crt");
        std::fs::write(&file, proxies.certificate()).unwrap();
        let flag = format!("--requestheader-client-ca-file={}", file.display());
        let published = |names| {
            [
                ("client-ca-file", clients.certificate()),
                ("requestheader-client-ca-file", proxies.certificate()),
                ("requestheader-allowed-names", names),
            ]
        };
        let (front, other) = (client_of(&proxies, "front"), client_of(&proxies, "other"));
        let client = client_of(&clients, "front");
        let one = "[\"front\"]";
        for (case, arguments, names, expected) in [
            ("as published", vec![], one, ["jane", "nobody", "front"]),
            ("any, as published", vec![], "[]", ["jane", "jane", "front"]),
            ("a list that cannot be read", vec![], "front", ["nobody", "nobody", "front"]),
            ("any by flag", vec![flag.as_str()], one, ["jane", "jane", "front"]),
            (
                "one by flag",
                vec![flag.as_str(), "--requestheader-allowed-names=other"],
                one,
                ["nobody", "jane", "front"],
            ),
        ] {
            let certificates = certificates(&arguments, &published(names));
            let found = [&front, &other, &client].map(|chain| who(&certificates, chain));
            assert_eq!(found, expected, "{case}");
            assert_eq!(who(&certificates, &[]), "nobody", "{case}");
        }
    }
}
