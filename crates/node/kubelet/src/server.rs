//! The kubelet's own server: logs and streams of containers, statistics, metrics. Only TLS, never
//! anonymous: every request is authenticated and then authorised by the API server's answer.
//!
//! It speaks HTTP/1.1 only, for streams are upgrades. Paths are never decoded: what authorisation looks at is
//! exactly what routing looks at.

mod access;
mod cadvisor;
mod containers;
mod host;
mod identity;
mod idle;
mod logs;
mod metrics;
mod query;
mod reply;
mod route;
mod stats;
mod streams;
mod system_logs;
#[cfg(test)]
mod tests;
mod tls_files;
mod upgrade;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{
    HeaderValue, Request, StatusCode,
    header::{ACCEPT, ALLOW, CONNECTION, HeaderName, UPGRADE, USER_AGENT},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use podium_api::zpages::{Asked, Pages, wants_pretty};
use podium_client::metrics::HealthChecks;
use podium_pki::{certificate::Facts, tls::provider};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    server::{ResolvesServerCert, WebPkiClientVerifier},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::{Configuration, context::Shared, manager::Pods};
use access::Access;
use host::{Host, KubeletHost};
use identity::{Credentials, Identities};
pub(crate) use query::Query;
pub(crate) use reply::{Reply, text};
use route::Route;
use tls_files::Tls;

/// How long a TLS handshake may take: a client that says nothing must not keep a socket.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(30);
/// Connections at a time; every follower of a log holds one.
const CONNECTIONS: usize = 4096;
/// What its page about itself tells of: as upstream, paths of pages, and none of what is about pods.
const PAGES: [&str; 4] = ["/configz", "/flagz", "/healthz", "/metrics"];
/// How long requests under way may take to finish at the end.
const DRAIN: Duration = Duration::from_secs(5);

/// Why the server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The certificates do not make a TLS server.
    #[error("cannot serve TLS: {0}")]
    Tls(String),
}

/// A server that listens, and serves once it is run.
pub(crate) struct Server {
    listener: TcpListener,
    tls: Tls,
    address: SocketAddr,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens. `resolver` gives the certificate to show, `client_ca` the authorities of clients; where the settings name files
    /// of either, those are followed.
    pub(crate) async fn bind(
        address: SocketAddr,
        resolver: Arc<dyn ResolvesServerCert>,
        client_ca: Arc<RootCertStore>,
        settings: &Configuration,
    ) -> Result<Self, ServerError> {
        let tls = Tls::new(resolver, client_ca, settings)?;
        let failed = |source| ServerError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, tls, address })
    }

    /// The port it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Serves the pods until shutdown.
    pub(crate) async fn run(self, shared: Shared, pods: Arc<Pods>) {
        let client = shared.client.clone();
        let settings = shared.config.settings.clone();
        self.serve(Arc::new(KubeletHost::new(shared, pods)), client, &settings).await;
    }

    async fn serve(self, host: Arc<dyn Host>, client: kube::Client, settings: &Configuration) {
        let shutdown = host.shutdown();
        let handler = Arc::new(Handler {
            identities: Identities::new(client.clone(), settings.authentication.webhook.cache_ttl.0),
            access: Access::new(client, host.node_name().to_owned(), settings.authorization.webhook.clone()),
            requests: metrics::Requests::default(),
            checks: HealthChecks::new(),
            pages: Pages {
                name: "kubelet",
                started: host.started(),
                flags: host.flags().clone(),
                paths: PAGES.map(str::to_owned).into(),
            },
            tracker: TaskTracker::new(),
            idle: settings.streaming_connection_idle_timeout.0,
            host,
        });
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let tls = self.tls.current();
        let mut following = std::pin::pin!(self.tls.follow());
        loop {
            let next = async {
                let place = places.clone().acquire_owned().await;
                (place, self.listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                next = next => next,
                () = shutdown.cancelled() => break,
                never = &mut following => match never {},
            };
            match accepted {
                Ok((stream, _)) => {
                    let (acceptor, own) = (TlsAcceptor::from(tls.borrow().clone()), handler.clone());
                    handler.tracker.spawn(async move {
                        own.connection(stream, acceptor).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: others must close theirs first.
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(self.listener);
        handler.tracker.close();
        handler.tracker.wait().await;
    }
}

/// Client certificates are asked for and, where one is shown, verified in the handshake; a client without
/// one must bring a token.
fn tls(
    resolver: Arc<dyn ResolvesServerCert>,
    client_ca: Arc<RootCertStore>,
    settings: &Configuration,
) -> Result<ServerConfig, ServerError> {
    let failed = |error: &dyn std::fmt::Display| ServerError::Tls(error.to_string());
    let verifier = WebPkiClientVerifier::builder_with_provider(client_ca, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| failed(&error))?;
    let mut offered = CryptoProvider::clone(&provider());
    settings.limit_suites(&mut offered);
    let mut config = ServerConfig::builder_with_provider(Arc::new(offered))
        .with_protocol_versions(settings.tls_versions())
        .map_err(|error| failed(&error))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.max_early_data_size = 0;
    Ok(config)
}

/// Answers requests.
struct Handler {
    host: Arc<dyn Host>,
    identities: Identities,
    access: Access,
    requests: metrics::Requests,
    checks: HealthChecks,
    pages: Pages,
    tracker: TaskTracker,
    /// How long a stream may be silent.
    idle: Duration,
}

impl Handler {
    async fn connection(self: Arc<Self>, stream: TcpStream, acceptor: TlsAcceptor) {
        let shutdown = self.host.shutdown();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "no-delay refused");
        }
        let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
        let stream = tokio::select! {
            done = handshake => match done {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => return,
            },
            () = shutdown.cancelled() => return,
        };
        // The handshake has verified it; only what it says is needed from here on.
        let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let facts = match shown.map(Facts::of).transpose() {
            Ok(facts) => facts.map(Arc::new),
            Err(error) => return tracing::debug!(%error, "a client's certificate cannot be read"),
        };
        let service = service_fn(|request: Request<Incoming>| {
            let (this, facts) = (self.clone(), facts.clone());
            async move { Ok::<_, Infallible>(this.answer(request, facts).await) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
        let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(DRAIN, connection).await {
                    Ok(ended) => ended,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended");
        }
    }

    /// Answers, and makes sure that after a refused upgrade nothing more is read: what the client sends next
    /// was meant for a stream, and would be taken for a request of whoever holds the connection.
    async fn answer(self: Arc<Self>, request: Request<Incoming>, facts: Option<Arc<Facts>>) -> Reply {
        let upgrade = request.headers().contains_key(UPGRADE);
        let mut reply = self.judge(request, facts).await;
        if upgrade && reply.status() != StatusCode::SWITCHING_PROTOCOLS {
            reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        reply
    }

    /// Authenticates, authorises, answers.
    async fn judge(&self, request: Request<Incoming>, facts: Option<Arc<Facts>>) -> Reply {
        let path = request.uri().path().to_owned();
        let _counted = self.requests.begin(&path, request.method());
        let credentials = Credentials { certificate: facts.as_deref(), headers: request.headers() };
        let user = match self.identities.who(&credentials).await {
            Ok(user) => user,
            Err(identity::Unauthorized) => return text(401, "Unauthorized"),
        };
        if let Err(refusal) = self.access.check(&user, request.method(), &path).await {
            return text(refusal.status(), refusal.text());
        }
        self.dispatch(request, &path).await
    }

    fn page(&self, page: &str, request: &Request<Incoming>) -> Reply {
        let header = |name: HeaderName| {
            request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
        };
        let query = query::Query::of(request.uri());
        let asked = Asked {
            accept: header(ACCEPT),
            pretty: wants_pretty(query.first("pretty"), header(USER_AGENT)),
            now: Timestamp::now(),
            pick: fastrand::usize(..),
        };
        self.pages.at(page, asked).map_or_else(|| text(404, "404 page not found\n"), reply::page)
    }

    async fn dispatch(&self, request: Request<Incoming>, path: &str) -> Reply {
        let Some(route) = Route::of(path) else { return text(404, "404 page not found\n") };
        if !route.allows(request.method()) {
            let mut reply = text(405, "405: Method Not Allowed");
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static(route.allowed()));
            return reply;
        }
        let host = &*self.host;
        match route {
            Route::Healthz(only) => {
                let observe = |name: &str, good| self.checks.observe("healthz", name, good);
                crate::healthz::page(|| host.sync_loop(), only, &query::Query::of(request.uri()), observe)
            }
            Route::Pods => reply::pod_list(host.pods().iter().map(|pod| &**pod)),
            Route::RunningPods => containers::running_pods(host).await,
            Route::Configz => reply::json(&host.configz()),
            Route::Metrics => metrics::own(host, &self.requests).await,
            Route::ResourceMetrics => metrics::resource(host).await,
            Route::ProbeMetrics => metrics::probes(host),
            Route::HealthMetrics => {
                let mut body = String::new();
                self.checks.collect(&mut body);
                reply::metrics(body)
            }
            Route::Page(page) => self.page(page, &request),
            Route::CadvisorMetrics => cadvisor::serve(&self.host).await,
            Route::Summary => {
                let only_cpu_and_memory = query::Query::of(request.uri()).truthy("only_cpu_and_memory");
                stats::summary(host, only_cpu_and_memory).await
            }
            Route::Logs { namespace, pod, container } => {
                logs::serve(&self.host, namespace, pod, container, &query::Query::of(request.uri())).await
            }
            Route::SystemLogs(path) => system_logs::serve(host.system_logs(), path).await,
            Route::Run(target) => streams::run(host, &target, &query::Query::of(request.uri())).await,
            Route::Exec(target) => streams::exec(self, &target, request).await,
            Route::Attach(target) => streams::attach(self, &target, request).await,
            Route::PortForward { namespace, pod, uid } => {
                streams::port_forward(self, namespace, pod, uid, request).await
            }
        }
    }
}
