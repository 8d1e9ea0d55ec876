//! Exec, attach and port-forward: a server on loopback that a client is sent to with a word that only it knows.
//!
//! A request is kept under 256 random bits, for one minute and one use. Nothing else is answered there; what a client says
//! in its request beyond protocol headers is not looked at.

mod channels;
mod fd;
mod forward;
mod session;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use podium_cri::v1;
use podium_streaming::exec::Streams;
use podium_streaming::websocket;
use tokio::net::{TcpListener, TcpStream};
use tonic::Status;

use crate::core::{Runtime, new_id};
use channels::{Peer, Protocol};

/// How long a request waits for its client.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many may wait: a client that never connects must not fill memory.
const WAITING: usize = 1000;
/// Protocols of exec and attach over SPDY, the newest first.
const PROTOCOLS: [&str; 4] =
    ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// And over WebSocket, with how they speak; the oldest may also be asked for by no name.
const WEBSOCKET_PROTOCOLS: [(&str, Protocol); 6] = [
    ("v5.channel.k8s.io", Protocol::WebSocket { status: true, base64: false }),
    ("v4.channel.k8s.io", Protocol::WebSocket { status: true, base64: false }),
    ("v4.base64.channel.k8s.io", Protocol::WebSocket { status: true, base64: true }),
    ("channel.k8s.io", Protocol::WebSocket { status: false, base64: false }),
    ("base64.channel.k8s.io", Protocol::WebSocket { status: false, base64: true }),
    ("", Protocol::WebSocket { status: false, base64: false }),
];
const PORT_FORWARD: &str = "portforward.k8s.io";
/// And of port-forward over WebSocket. How a connection ended has a channel of its own per port, and never a status.
const FORWARD_PROTOCOLS: [(&str, Protocol); 3] = [
    ("v4.channel.k8s.io", Protocol::WebSocket { status: false, base64: false }),
    ("v4.base64.channel.k8s.io", Protocol::WebSocket { status: false, base64: true }),
    ("", Protocol::WebSocket { status: false, base64: false }),
];

/// What a client was promised.
#[derive(Clone, Debug)]
pub(crate) enum Promise {
    Exec {
        container: String,
        args: Vec<String>,
        streams: Streams,
    },
    Attach {
        container: String,
        streams: Streams,
    },
    /// `ports` are those that the request named, for clients that name none themselves.
    PortForward {
        sandbox: String,
        ports: Vec<u16>,
    },
}

/// The server, once it listens.
#[derive(Debug, Default)]
pub(crate) struct Streaming {
    address: Mutex<Option<SocketAddr>>,
    waiting: Mutex<HashMap<String, (Instant, Promise)>>,
}

impl Streaming {
    /// Listens, and serves until the runtime ends.
    pub(crate) async fn start(runtime: &Arc<Runtime>) -> std::io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        *runtime.streaming.address.lock() = Some(listener.local_addr()?);
        let (weak, shutdown) = (Arc::downgrade(runtime), runtime.shutdown.clone());
        let tasks = runtime.tasks.clone();
        let accepting = tasks.clone();
        tasks.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    () = shutdown.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    Ok((stream, _)) => {
                        let (runtime, shutdown) = (weak.clone(), shutdown.clone());
                        accepting.spawn(async move {
                            tokio::select! {
                                () = shutdown.cancelled() => {}
                                () = connection(runtime, stream) => {}
                            }
                        });
                    }
                    Err(error) => tracing::warn!(%error, "a streaming connection was lost"),
                }
            }
        });
        Ok(())
    }

    pub(crate) fn exec(&self, runtime: &Runtime, request: v1::ExecRequest) -> Result<String, Status> {
        let container = runtime.need_container(&request.container_id)?;
        if container.pid().is_none() {
            return Err(Status::failed_precondition("container is not running"));
        }
        if request.cmd.is_empty() {
            return Err(Status::invalid_argument("no command given"));
        }
        let streams = streams(request.stdin, request.stdout, request.stderr, request.tty)?;
        let container = container.record.id.clone();
        self.promise("exec", Promise::Exec { container, args: request.cmd, streams })
    }

    pub(crate) fn attach(&self, runtime: &Runtime, request: &v1::AttachRequest) -> Result<String, Status> {
        let container = runtime.need_container(&request.container_id)?;
        if container.pid().is_none() {
            return Err(Status::failed_precondition("container is not running"));
        }
        let streams = streams(request.stdin, request.stdout, request.stderr, request.tty)?;
        let container = container.record.id.clone();
        self.promise("attach", Promise::Attach { container, streams })
    }

    pub(crate) fn port_forward(
        &self,
        runtime: &Runtime,
        request: &v1::PortForwardRequest,
    ) -> Result<String, Status> {
        let sandbox = runtime.need_sandbox(&request.pod_sandbox_id)?;
        if !sandbox.is_ready() {
            return Err(Status::failed_precondition("sandbox is not running"));
        }
        let port = |port: &i32| u16::try_from(*port).ok().filter(|port| *port > 0);
        let ports: Option<Vec<u16>> = request.port.iter().map(port).collect();
        let ports =
            ports.ok_or_else(|| Status::invalid_argument(format!("invalid ports {:?}", request.port)))?;
        self.promise("portforward", Promise::PortForward { sandbox: sandbox.id.clone(), ports })
    }

    fn promise(&self, kind: &str, promise: Promise) -> Result<String, Status> {
        let address = self.address.lock().ok_or_else(|| Status::unavailable("streams are not served yet"))?;
        let token = new_id()?;
        let mut waiting = self.waiting.lock();
        waiting.retain(|_, (since, _)| since.elapsed() < PATIENCE);
        if waiting.len() >= WAITING {
            return Err(Status::resource_exhausted("too many streams wait for their clients"));
        }
        waiting.insert(token.clone(), (Instant::now(), promise));
        Ok(format!("http://{address}/{kind}/{token}"))
    }

    /// Takes a promise: it is kept once.
    fn redeem(&self, path: &str) -> Option<Promise> {
        let token = path.rsplit('/').next()?;
        let (since, promise) = self.waiting.lock().remove(token)?;
        (since.elapsed() < PATIENCE).then_some(promise)
    }
}

fn streams(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Result<Streams, Status> {
    if tty && stderr {
        return Err(Status::invalid_argument("tty and stderr cannot both be true"));
    }
    if !stdin && !stdout && !stderr {
        return Err(Status::invalid_argument("one of stdin, stdout, or stderr must be set"));
    }
    Ok(Streams { stdin, stdout, stderr, tty })
}

async fn connection(runtime: Weak<Runtime>, stream: TcpStream) {
    // Keystrokes must not wait for each other.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let runtime = runtime.clone();
        async move { Ok::<_, Infallible>(answer(&runtime, request)) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = served.await {
        tracing::debug!(%error, "a streaming connection ended");
    }
}

fn refuse(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
    *response.status_mut() = status;
    // Nothing may follow a refused upgrade on the same connection.
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// How the client wants to speak, and the headers that agree to it.
fn negotiate(headers: &HeaderMap, forward: bool) -> Result<(Protocol, HeaderMap), &'static str> {
    let upgrade = headers.get(UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut agreed = HeaderMap::new();
    agreed.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if upgrade.eq_ignore_ascii_case("SPDY/3.1") {
        agreed.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        let wanted: Vec<&str> = headers
            .get_all("x-stream-protocol-version")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|list| list.split(',').map(str::trim))
            .collect();
        let known: &[&'static str] = if forward { &[PORT_FORWARD] } else { &PROTOCOLS };
        let chosen = match known.iter().find(|known| wanted.contains(known)) {
            Some(chosen) => *chosen,
            None if wanted.is_empty() && !forward => "channel.k8s.io",
            None => return Err("unable to negotiate a stream protocol"),
        };
        agreed.insert("x-stream-protocol-version", HeaderValue::from_static(chosen));
        return Ok((Protocol::Spdy { status: chosen == PROTOCOLS[0] }, agreed));
    }
    if upgrade.eq_ignore_ascii_case("websocket") {
        let wanted =
            headers.get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let wanted: Vec<&str> = wanted.split(',').map(str::trim).collect();
        let known: &[(&'static str, Protocol)] =
            if forward { &FORWARD_PROTOCOLS } else { &WEBSOCKET_PROTOCOLS };
        let (chosen, protocol) = known
            .iter()
            .copied()
            .find(|(known, _)| wanted.contains(known))
            .ok_or("unable to negotiate a protocol")?;
        let key = headers
            .get(SEC_WEBSOCKET_KEY)
            .and_then(|value| value.to_str().ok())
            .ok_or("no Sec-WebSocket-Key")?;
        let accept = HeaderValue::from_str(&websocket::accept_key(key)).map_err(|_| "a malformed key")?;
        agreed.insert(UPGRADE, HeaderValue::from_static("websocket"));
        agreed.insert(SEC_WEBSOCKET_ACCEPT, accept);
        if !chosen.is_empty() {
            agreed.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen));
        }
        return Ok((protocol, agreed));
    }
    Err("Upgrade request required")
}

fn answer(runtime: &Weak<Runtime>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let Some(runtime) = runtime.upgrade() else { return refuse(StatusCode::SERVICE_UNAVAILABLE, "ending") };
    let forward = request.uri().path().starts_with("/portforward/");
    let (protocol, agreed) = match negotiate(request.headers(), forward) {
        Ok(agreed) => agreed,
        Err(why) => return refuse(StatusCode::BAD_REQUEST, why),
    };
    let Some(promise) = runtime.streaming.redeem(request.uri().path()) else {
        return refuse(StatusCode::NOT_FOUND, "404 page not found");
    };
    if let (Promise::PortForward { ports, .. }, Protocol::WebSocket { base64, .. }) = (&promise, protocol)
        && let Err(why) = forward::websocket::check(ports, base64)
    {
        return refuse(StatusCode::BAD_REQUEST, why);
    }
    let tasks = runtime.tasks.clone();
    let shutdown = runtime.shutdown.clone();
    tasks.spawn(async move {
        let work = async {
            match hyper::upgrade::on(request).await {
                Ok(upgraded) => serve(&runtime, promise, protocol, TokioIo::new(upgraded)).await,
                Err(error) => tracing::debug!(%error, "a client did not take its upgrade"),
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = work => {}
        }
    });
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = agreed;
    response
}

async fn serve(
    runtime: &Arc<Runtime>,
    promise: Promise,
    protocol: Protocol,
    stream: TokioIo<hyper::upgrade::Upgraded>,
) {
    let outcome = match promise {
        Promise::PortForward { sandbox, ports } => match protocol {
            Protocol::Spdy { .. } => forward::serve(runtime, &sandbox, stream).await,
            Protocol::WebSocket { base64, .. } => {
                let namespace = forward::namespace(runtime, &sandbox);
                forward::websocket::serve(namespace, &ports, base64, stream).await
            }
        },
        Promise::Exec { container, args, streams } => match Peer::open(stream, protocol, streams).await {
            Ok(peer) => session::exec(runtime, &container, args, streams, peer).await,
            Err(error) => Err(error),
        },
        Promise::Attach { container, streams } => match Peer::open(stream, protocol, streams).await {
            Ok(peer) => session::attach(runtime, &container, streams, peer).await,
            Err(error) => Err(error),
        },
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a stream ended badly");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn protocols_are_agreed_on() {
        let spdy = ("upgrade", "SPDY/3.1");
        let version = |value| ("x-stream-protocol-version", value);
        let chosen = |pairs: &[(&'static str, &'static str)], forward| {
            negotiate(&headers(pairs), forward)
                .map(|(_, agreed)| agreed["x-stream-protocol-version"].to_str().unwrap().to_owned())
        };
        assert_eq!(
            chosen(&[spdy, version("v3.channel.k8s.io"), version("v4.channel.k8s.io")], false).unwrap(),
            PROTOCOLS[0]
        );
        assert_eq!(chosen(&[spdy], false).unwrap(), "channel.k8s.io");
        assert_eq!(chosen(&[spdy, version(PORT_FORWARD)], true).unwrap(), PORT_FORWARD);
        assert!(chosen(&[spdy, version("x")], false).is_err());
        assert!(chosen(&[spdy], true).is_err());
        assert!(negotiate(&headers(&[("upgrade", "h2c")]), false).is_err());
        assert!(negotiate(&HeaderMap::new(), false).is_err());
        let websocket = |offered, forward| {
            let all = [
                ("upgrade", "websocket"),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("sec-websocket-protocol", offered),
            ];
            let (protocol, agreed) = negotiate(&headers(&all), forward)?;
            assert_eq!(agreed["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
            let name = agreed.get("sec-websocket-protocol").map(|name| name.to_str().unwrap().to_owned());
            Ok::<_, &str>((protocol, name.unwrap_or_default()))
        };
        for (offered, name, status, base64) in [
            ("x, v4.channel.k8s.io", "v4.channel.k8s.io", true, false),
            ("channel.k8s.io,v5.channel.k8s.io", "v5.channel.k8s.io", true, false),
            ("channel.k8s.io", "channel.k8s.io", false, false),
            ("base64.channel.k8s.io", "base64.channel.k8s.io", false, true),
            ("v4.base64.channel.k8s.io", "v4.base64.channel.k8s.io", true, true),
            ("", "", false, false),
        ] {
            let expected = (Protocol::WebSocket { status, base64 }, name.to_owned());
            assert_eq!(websocket(offered, false).unwrap(), expected, "{offered}");
        }
        assert!(websocket("x", false).is_err());
        for (offered, name, base64) in [
            ("v5.channel.k8s.io, v4.channel.k8s.io", "v4.channel.k8s.io", false),
            ("v4.base64.channel.k8s.io", "v4.base64.channel.k8s.io", true),
            ("", "", false),
        ] {
            let expected = (Protocol::WebSocket { status: false, base64 }, name.to_owned());
            assert_eq!(websocket(offered, true).unwrap(), expected, "{offered}");
        }
        assert!(websocket("channel.k8s.io", true).is_err());
    }

    #[test]
    fn a_promise_is_kept_once() {
        let streaming = Streaming::default();
        let promise = || Promise::PortForward { sandbox: "s".into(), ports: Vec::new() };
        assert!(streaming.promise("portforward", promise()).is_err());
        *streaming.address.lock() = Some(([127, 0, 0, 1], 1).into());
        let url = streaming.promise("portforward", promise()).unwrap();
        assert!(url.starts_with("http://127.0.0.1:1/portforward/"));
        let path = url.strip_prefix("http://127.0.0.1:1").unwrap();
        assert!(streaming.redeem("/portforward/x").is_none());
        assert!(streaming.redeem(path).is_some());
        assert!(streaming.redeem(path).is_none());
        assert!(streams(true, true, true, true).is_err() && streams(false, false, false, true).is_err());
    }
}
