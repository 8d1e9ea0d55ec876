//! The kubelet's server: logs, streams into containers, what runs here and what it uses.
//!
//! TLS always, and never anonymous: a client certificate of the cluster's authority or a bearer token the
//! API server knows, then a SubjectAccessReview for the node's subresource (`auth`). There is no read-only
//! port and no profiling.

mod auth;
mod containers;
mod metrics;
mod stats;
mod streams;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use rustls::{pki_types::CertificateDer, server::WebPkiClientVerifier};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::{ServerTls, context::Shared, manager::Pods};

/// How long a client may take to finish the handshake and to send its headers.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long open requests may go on after a stop was asked for.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// Connections at the same time: the API server's are few, so more is somebody's mistake.
const MAX_CONNECTIONS: usize = 1024;

/// Every answer's body.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The server, bound but not serving yet.
pub(crate) struct Server {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("listener", &self.listener).finish_non_exhaustive()
    }
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The port is taken or not ours to take.
    #[error("listening on {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The certificates do not make a TLS server.
    #[error("TLS: {0}")]
    Tls(String),
}

/// What a handler gets to see.
#[derive(Debug, Clone)]
pub(crate) struct Handlers {
    pub(crate) shared: Shared,
    pub(crate) pods: Arc<Pods>,
    auth: Arc<auth::Auth>,
}

impl Server {
    /// Takes the port.
    pub(crate) async fn bind(address: SocketAddr, tls: &ServerTls) -> Result<Self, ServerError> {
        let mut roots = rustls::RootCertStore::empty();
        for authority in &tls.client_ca {
            roots.add(authority.clone()).map_err(|error| ServerError::Tls(error.to_string()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), podium_pki::tls::provider())
            .allow_unauthenticated()
            .build()
            .map_err(|error| ServerError::Tls(error.to_string()))?;
        let config = podium_pki::tls::server_config(tls.serving.clone(), verifier)
            .map_err(|error| ServerError::Tls(error.to_string()))?;
        let listener =
            TcpListener::bind(address).await.map_err(|source| ServerError::Bind { address, source })?;
        Ok(Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// The port taken.
    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().map_or(0, |address| address.port())
    }

    /// Serves until shutdown.
    pub(crate) async fn run(self, shared: Shared, pods: Arc<Pods>) {
        let auth = Arc::new(auth::Auth::new(shared.client.clone(), &shared.config.node_name));
        let shutdown = shared.shutdown.clone();
        let handlers = Handlers { shared, pods, auth };
        let tasks = TaskTracker::new();
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            let stream = match accepted {
                Ok((stream, _)) if tasks.len() < MAX_CONNECTIONS => stream,
                Ok(_) => continue,
                Err(error) => {
                    tracing::debug!(%error, "accepting a connection failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (acceptor, handlers, watcher) = (self.acceptor.clone(), handlers.clone(), graceful.watcher());
            tasks.spawn(async move {
                let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await else {
                    return;
                };
                let peer: Option<CertificateDer<'static>> = stream
                    .get_ref()
                    .1
                    .peer_certificates()
                    .and_then(|chain| chain.first())
                    .map(|leaf| leaf.clone().into_owned());
                let service = hyper::service::service_fn(move |request| {
                    let (handlers, peer) = (handlers.clone(), peer.clone());
                    async move { Ok::<_, std::convert::Infallible>(handlers.answer(request, peer).await) }
                });
                let mut builder = auto::Builder::new(TokioExecutor::new());
                builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_LIMIT);
                builder.http2().timer(TokioTimer::new()).max_concurrent_streams(250);
                let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
                if let Err(error) = watcher.watch(connection).await {
                    tracing::debug!(%error, "a connection ended");
                }
            });
        }
        tasks.close();
        // What is still open after that is a stream that nobody ends; it ends with the process.
        let drained = async {
            graceful.shutdown().await;
            tasks.wait().await;
        };
        tokio::time::timeout(DRAIN_LIMIT, drained).await.ok();
    }
}

impl Handlers {
    async fn answer(self, request: Request<Incoming>, peer: Option<CertificateDer<'static>>) -> Response<Body> {
        let user = match self.auth.authenticate(request.headers(), peer.as_ref()).await {
            Ok(Some(user)) => user,
            Ok(None) => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
            Err(message) => return text(StatusCode::INTERNAL_SERVER_ERROR, &message),
        };
        match self.auth.authorize(&user, request.method(), request.uri().path()).await {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => return text(StatusCode::FORBIDDEN, &refusal),
            Err(message) => return text(StatusCode::INTERNAL_SERVER_ERROR, &message),
        }
        self.route(request).await
    }

    async fn route(self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let get = request.method() == Method::GET;
        match parts.as_slice() {
            ["healthz"] | ["healthz", "ping" | "log" | "syncloop"] if get => text(StatusCode::OK, "ok"),
            ["pods"] if get => json_answer(&self.pod_list()),
            ["runningpods"] if get => self.running_pods().await,
            ["configz"] if get => json_answer(&self.configz()),
            ["metrics"] if get => self.metrics().await,
            ["metrics", "resource"] if get => self.resource_metrics().await,
            ["metrics", "probes" | "cadvisor"] if get => prometheus(String::new()),
            ["stats", "summary"] if get => self.summary().await,
            ["containerLogs", namespace, pod, container] if get => {
                self.logs(namespace, pod, container, request.uri().query().unwrap_or_default()).await
            }
            ["exec" | "attach", namespace, pod, container]
            | ["exec" | "attach", namespace, pod, _, container] => {
                let uid = (parts.len() == 5).then(|| parts[3]);
                let (namespace, pod, container) = (*namespace, *pod, *container);
                let exec = parts[0] == "exec";
                self.exec_or_attach(request, exec, namespace, pod, uid, container).await
            }
            ["portForward", namespace, pod] => self.port_forward(request, namespace, pod, None).await,
            ["portForward", namespace, pod, uid] => self.port_forward(request, namespace, pod, Some(uid)).await,
            ["run", namespace, pod, container] | ["run", namespace, pod, _, container] if !get => {
                let uid = (parts.len() == 5).then(|| parts[3]);
                self.run_command(namespace, pod, uid, container, request.uri().query().unwrap_or_default()).await
            }
            // The host's own log files are nobody's business here.
            ["logs", ..] => text(StatusCode::METHOD_NOT_ALLOWED, "logs endpoint is disabled."),
            ["debug", ..] => text(StatusCode::METHOD_NOT_ALLOWED, "Debug endpoints are disabled."),
            ["checkpoint", ..] => text(StatusCode::NOT_IMPLEMENTED, "checkpoint is not supported by this kubelet"),
            _ => text(StatusCode::NOT_FOUND, "404 page not found"),
        }
    }

    fn pod_list(&self) -> Value {
        let items: Vec<Value> = self
            .pods
            .list()
            .iter()
            .filter_map(|pod| {
                let mut value = serde_json::to_value(&**pod).ok()?;
                // In a list the items carry no type of their own.
                let object = value.as_object_mut()?;
                object.remove("apiVersion");
                object.remove("kind");
                Some(value)
            })
            .collect();
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
    }

    fn configz(&self) -> Value {
        let config = &self.shared.config;
        json!({"kubeletconfig": {
            "address": config.address.to_string(),
            "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {}},
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": config.cgroup_root,
            "clusterDNS": config.cluster_dns.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "clusterDomain": config.cluster_domain,
            "containerLogMaxFiles": 5,
            "containerLogMaxSize": "10Mi",
            "containerRuntimeEndpoint": config.cri_endpoint,
            "enableServer": true,
            "maxPods": config.max_pods,
            "nodeLeaseDurationSeconds": 40,
            "nodeStatusReportFrequency": "5m0s",
            "nodeStatusUpdateFrequency": "10s",
            "port": config.port,
            "readOnlyPort": 0,
            "resolvConf": config.resolv_conf,
        }})
    }
}

/// A plain text answer, newline included, as Go's `http.Error` writes it.
pub(crate) fn text(code: StatusCode, message: &str) -> Response<Body> {
    respond(code, "text/plain; charset=utf-8", format!("{message}\n").into())
}

pub(crate) fn json_answer(value: &Value) -> Response<Body> {
    respond(StatusCode::OK, "application/json", value.to_string().into())
}

pub(crate) fn prometheus(text: String) -> Response<Body> {
    respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text.into())
}

fn respond(code: StatusCode, type_: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(type_));
    response
}

/// A query's pairs, percent-decoded, in order.
pub(crate) fn query_pairs(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let spaced = text.replace('+', " ");
        let mut out = Vec::with_capacity(spaced.len());
        let bytes = spaced.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
            match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
                (b'%', Some(byte)) => {
                    out.push(byte);
                    at += 3;
                }
                (byte, _) => {
                    out.push(byte);
                    at += 1;
                }
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect()
}

#[cfg(test)]
mod tests;
