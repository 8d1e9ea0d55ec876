//! Start, connections, shutdown.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use nix::sys::socket::{setsockopt, sockopt};
use podium_client::ClientSource;
use podium_pki::tls::{AnyClientCertificate, server_config};
use podium_store::Store;
use rustls::DistinguishedName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authentication::{Peer, User};
use crate::body::{BodyError, RequestBody};
use crate::config::Config;
use crate::core::Core;
use crate::handler::{self, Caller, DRAIN};
use crate::in_process::InProcess;
use crate::system;

mod coalesce;

use coalesce::coalesce;

/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(30);

/// Streams of one HTTP/2 connection. Source: upstream's `--http2-max-streams-per-connection` default of Go, 250.
const STREAMS: u32 = 250;

/// Streams a client may reset before we have taken them up; more is the rapid-reset attack (CVE-2023-44487).
const RESETS: usize = 50;

/// Bytes of an answer's body that wait to be sent.
const SEND_BUFFER: usize = 128 * 1024;

/// Seconds of silence after which the other end is asked whether it is there.
const SILENCE: u32 = 30;

/// How long the other end may leave unanswered what was sent or asked, or have no room for more.
const DEATH: Duration = Duration::from_secs(60);

/// Bytes of a request's head.
const HEAD_BYTES: u32 = 64 * 1024;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
    #[error("cannot serve TLS")]
    Tls(#[source] podium_pki::Error),
    /// An object that every cluster has could not be written.
    #[error("cannot write {what}: {why}")]
    Bootstrap {
        /// The object.
        what: String,
        /// The refusal.
        why: String,
    },
}

/// A running API server. Clones are the same server.
#[derive(Clone)]
pub struct ApiServer {
    core: Arc<Core>,
    address: SocketAddr,
    /// Cancelled once nothing more is accepted and connections are told to finish.
    connections: TaskTracker,
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl ApiServer {
    /// Starts a server over a store: listens at once, and writes the objects every cluster has in the background
    /// ([`ApiServer::ready`] waits for them). It runs until `shutdown`.
    ///
    /// # Errors
    /// [`Error::Listen`], [`Error::Tls`].
    // Boxed here, or every program and every test would generate the whole server's code again.
    pub fn start(
        config: Config,
        store: Store,
        shutdown: CancellationToken,
    ) -> BoxFuture<'static, Result<ApiServer, Error>> {
        Box::pin(Self::listen(config, store, shutdown))
    }

    async fn listen(config: Config, store: Store, shutdown: CancellationToken) -> Result<ApiServer, Error> {
        let hints = config
            .authentication
            .client_authorities
            .iter()
            .filter_map(|authority| subject_of(authority))
            .collect::<Vec<DistinguishedName>>();
        let mut tls = server_config(Arc::clone(&config.serving), AnyClientCertificate::new(hints))
            .map_err(Error::Tls)?;
        // Sessions are kept by tickets only; a resumed session still shows its certificates.
        tls.max_early_data_size = 0;
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let wanted = config.bind;
        let listen = |source| Error::Listen { address: wanted, source };
        let listener = TcpListener::bind(wanted).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let core = Core::new(config, store, shutdown).map_err(Error::Tls)?;
        core.port.store(address.port(), Ordering::Release);
        let connections = TaskTracker::new();
        connections.spawn(accept(Arc::clone(&core), listener, acceptor, connections.clone()));
        core.tracker.spawn(system::run(Arc::clone(&core)));
        Ok(ApiServer { core, address, connections })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A client in this process with this identity: no socket, no TLS; authorisation and admission apply.
    /// `system:authenticated` is added to the groups.
    pub fn client(&self, user: &str, groups: &[&str]) -> kube::Client {
        podium_client::in_process(self.service(User::new(user, groups)), "default")
    }

    /// A client in this process as a service account.
    pub fn service_account_client(&self, namespace: &str, name: &str) -> kube::Client {
        podium_client::in_process(self.service(User::service_account(namespace, name, "")), "default")
    }

    /// Clients for the parts of this process, each with the identity upstream gives it: the scheduler and the like are
    /// users of their own, controllers are service accounts in `kube-system`.
    pub fn client_source(&self) -> Arc<dyn ClientSource> {
        Arc::new(Identities(self.clone()))
    }

    /// The service behind [`ApiServer::client`], for callers that speak HTTP themselves.
    pub fn service(&self, user: User) -> InProcess {
        InProcess::new(Arc::clone(&self.core), user)
    }

    /// Waits until every object that a cluster has from the start is there, or the server stops.
    pub async fn ready(&self) {
        loop {
            let notified = self.core.boot_done.notified();
            if self.core.booted.load(Ordering::Acquire) {
                return;
            }
            tokio::select! {
                () = notified => {}
                () = self.core.shutdown.cancelled() => return,
            }
        }
    }

    /// Waits until the server has stopped: after its shutdown, requests under way are finished (for at most ten
    /// seconds), watches and streams end at once.
    pub async fn wait(&self) {
        self.core.shutdown.cancelled().await;
        self.connections.close();
        if tokio::time::timeout(DRAIN, self.connections.wait()).await.is_err() {
            tracing::warn!("some connections did not finish in time");
        }
        self.core.tracker.close();
        if tokio::time::timeout(DRAIN, self.core.tracker.wait()).await.is_err() {
            tracing::warn!("some background work did not finish in time");
        }
    }
}

/// Hands out clients by the name of the part that asks.
struct Identities(ApiServer);

impl ClientSource for Identities {
    fn client(&self, component: &str) -> kube::Client {
        match component {
            "kube-scheduler" | "kube-controller-manager" | "kube-proxy" => {
                self.0.client(&format!("system:{component}"), &[])
            }
            controller => self.0.service_account_client("kube-system", controller),
        }
    }
}

impl Core {
    /// The port that others reach this server at.
    pub(crate) fn advertised_port(&self) -> u16 {
        self.config.advertise_port.unwrap_or_else(|| self.port.load(Ordering::Acquire))
    }
}

fn subject_of(certificate: &rustls_pki_types::CertificateDer<'_>) -> Option<DistinguishedName> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(DistinguishedName::from(parsed.subject().as_raw().to_vec()))
}

async fn accept(core: Arc<Core>, listener: TcpListener, acceptor: TlsAcceptor, connections: TaskTracker) {
    let places = Arc::new(Semaphore::new(core.config.limits.connections));
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => match place { Ok(place) => place, Err(_) => return },
            () = core.shutdown.cancelled() => return,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = core.shutdown.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let core = Arc::clone(&core);
                let acceptor = acceptor.clone();
                let streams = connections.clone();
                connections.spawn(async move {
                    core.metrics.connections.fetch_add(1, Ordering::Relaxed);
                    connection(&core, stream, acceptor, streams).await;
                    core.metrics.connections.fetch_sub(1, Ordering::Relaxed);
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
}

/// Spawns the streams of a connection on its tracker, so that none is detached.
#[derive(Clone)]
struct Tracked(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// Ends the connection when the machine at its other end does not answer any more: asked after a while of silence, and asked
/// about what was sent.
///
/// This is for TCP, not for pings of HTTP/2: their answers wait behind all that is under way, so that a large list over a
/// slow line, or a client that reads late, looked like death.
fn notice_death(stream: &TcpStream) -> io::Result<()> {
    setsockopt(stream, sockopt::TcpKeepIdle, &SILENCE)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &(SILENCE / 2))?;
    setsockopt(stream, sockopt::TcpUserTimeout, &(DEATH.as_millis() as u32))?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    Ok(())
}

async fn connection(core: &Arc<Core>, stream: TcpStream, acceptor: TlsAcceptor, streams: TaskTracker) {
    if let Err(error) = stream.set_nodelay(true).and_then(|()| notice_death(&stream)) {
        tracing::debug!(%error, "a connection without its options");
    }
    let handshake = tokio::time::timeout(core.config.limits.handshake, acceptor.accept(stream));
    let stream = tokio::select! {
        done = handshake => match done {
            Ok(Ok(stream)) => stream,
            _ => {
                core.metrics.handshake_failures.fetch_add(1, Ordering::Relaxed);
                return;
            }
        },
        () = core.shutdown.cancelled() => return,
    };
    let certificates = stream
        .get_ref()
        .1
        .peer_certificates()
        .filter(|chain| !chain.is_empty())
        .map(|chain| Arc::new(Peer::new(chain)));
    let caller = Caller::Network(certificates);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let core = Arc::clone(core);
        let caller = caller.clone();
        async move {
            let request = request
                .map(|body| -> RequestBody { body.map_err(|error| BodyError(error.into())).boxed_unsync() });
            Ok::<_, std::convert::Infallible>(handler::serve(core, request, caller).await)
        }
    });
    let mut builder = auto::Builder::new(Tracked(streams));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .max_header_list_size(HEAD_BYTES)
        // Lists are large and connections few: windows must not be what limits them.
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        // Of each stream; a piece of a body waits there beside it. A thousand lists at once have a thousand of both.
        .max_send_buf_size(SEND_BUFFER);
    let (stream, flusher) = coalesce(stream);
    let served = async {
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = core.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(DRAIN, connection).await.unwrap_or(Ok(()))
            }
        }
    };
    if let Err(error) = flusher.drive(served).await {
        tracing::debug!(%error, "connection ended");
    }
}
