//! exec, attach and port-forward: the runtime says where its streaming server is, and the client's
//! connection is joined to it once both sides have agreed to the upgrade.
//!
//! Nothing is copied before a verified 101 with the protocol asked for, no redirect is followed, and the
//! place must be on this machine (CVE-2018-1002105, CVE-2020-8559).

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use podium_cri::v1;
use tokio::net::TcpStream;

use super::{Body, Handlers, query_pairs, text};
use crate::{
    observe::Observer,
    pod,
    record::{PodRecord, RunState},
};

/// Protocols a connection may be upgraded to.
const UPGRADES: [&str; 2] = ["spdy/3.1", "websocket"];
/// How much of a refusal is passed on.
const MAX_REFUSAL_BYTES: usize = 64 << 10;

/// What of a terminal or command is to be connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Streams {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
}

impl Streams {
    /// Reads upstream's query parameters; both the kubelet's names and the API's are taken.
    pub(crate) fn from_query(query: &[(String, String)]) -> Result<Self, &'static str> {
        let set = |names: [&str; 2]| {
            query.iter().any(|(key, value)| names.contains(&key.as_str()) && matches!(value.as_str(), "1" | "true"))
        };
        let streams = Self {
            stdin: set(["input", "stdin"]),
            stdout: set(["output", "stdout"]),
            stderr: set(["error", "stderr"]),
            tty: set(["tty", "tty"]),
        };
        // With a terminal both outputs are one.
        let streams = if streams.tty { Self { stderr: false, ..streams } } else { streams };
        if !streams.stdin && !streams.stdout && !streams.stderr {
            return Err("you must specify at least 1 of stdin, stdout, stderr");
        }
        Ok(streams)
    }
}

impl Handlers {
    pub(super) async fn exec_or_attach(
        self,
        request: Request<Incoming>,
        exec: bool,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
        container: &str,
    ) -> Response<Body> {
        let query = query_pairs(request.uri().query().unwrap_or_default());
        let streams = match Streams::from_query(&query) {
            Ok(streams) => streams,
            Err(message) => return text(StatusCode::BAD_REQUEST, message),
        };
        let Some(pod) = self.pods.find(namespace, name, uid) else {
            return text(StatusCode::NOT_FOUND, "pod does not exist");
        };
        let id = match self.running_container(&pod, container).await {
            Ok(id) => id,
            Err(refusal) => return refusal,
        };
        let url = if exec {
            let cmd = query.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.clone()).collect();
            let request = v1::ExecRequest {
                container_id: id,
                cmd,
                tty: streams.tty,
                stdin: streams.stdin,
                stdout: streams.stdout,
                stderr: streams.stderr,
            };
            self.shared.cri.exec(request).await.map(|answer| answer.url)
        } else {
            let tty = pod::find_container(&pod, container).and_then(|(_, spec)| spec.tty) == Some(true);
            let request = v1::AttachRequest {
                container_id: id,
                stdin: streams.stdin,
                tty,
                stdout: streams.stdout,
                stderr: streams.stderr && !tty,
            };
            self.shared.cri.attach(request).await.map(|answer| answer.url)
        };
        match url {
            Ok(url) => join(request, &url).await,
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    pub(super) async fn port_forward(
        self,
        request: Request<Incoming>,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
    ) -> Response<Body> {
        let Some(pod) = self.pods.find(namespace, name, uid) else {
            return text(StatusCode::NOT_FOUND, "pod does not exist");
        };
        let record = match self.look(&pod).await {
            Ok(record) => record,
            Err(refusal) => return refusal,
        };
        let Some(sandbox) = record.sandbox().filter(|sandbox| sandbox.ready) else {
            let message = format!("pod not found ({:?})", format!("{name}_{namespace}"));
            return text(StatusCode::INTERNAL_SERVER_ERROR, &message);
        };
        let ports = query_pairs(request.uri().query().unwrap_or_default())
            .iter()
            .filter(|(key, _)| key == "port" || key == "ports")
            .filter_map(|(_, value)| value.parse().ok())
            .collect();
        let wanted = v1::PortForwardRequest { pod_sandbox_id: sandbox.id.clone(), port: ports };
        match self.shared.cri.port_forward(wanted).await {
            Ok(answer) => join(request, &answer.url).await,
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    pub(super) async fn look(&self, pod: &Pod) -> Result<PodRecord, Response<Body>> {
        Observer::default()
            .look(&self.shared.cri, pod::uid(pod))
            .await
            .map_err(|error| text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))
    }

    /// The id of a container that runs.
    pub(super) async fn running_container(&self, pod: &Pod, container: &str) -> Result<String, Response<Body>> {
        let record = self.look(pod).await?;
        match record.latest(container) {
            Some(found) if found.state == RunState::Running => Ok(found.id.clone()),
            _ => {
                let message = format!("container not found ({container:?})");
                Err(text(StatusCode::INTERNAL_SERVER_ERROR, &message))
            }
        }
    }
}

/// The protocol a request wants to be upgraded to, if it is one we pass on.
pub(crate) fn upgrade_of(headers: &HeaderMap) -> Option<String> {
    let has = |name: header::HeaderName, wanted: &str| {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).any(|value| {
            value.split(',').any(|part| part.trim().eq_ignore_ascii_case(wanted))
        })
    };
    if !has(header::CONNECTION, "upgrade") {
        return None;
    }
    let wanted = headers.get(header::UPGRADE)?.to_str().ok()?.trim().to_ascii_lowercase();
    UPGRADES.contains(&wanted.as_str()).then_some(wanted)
}

/// Joins the client's connection to the runtime's streaming server.
async fn join(request: Request<Incoming>, url: &str) -> Response<Body> {
    let Some(protocol) = upgrade_of(request.headers()) else {
        return text(StatusCode::BAD_REQUEST, "Upgrade request required");
    };
    let Some((address, path)) = local_target(url) else {
        tracing::warn!(url, "the runtime's streaming server is not on this machine");
        return text(StatusCode::INTERNAL_SERVER_ERROR, "the runtime's streaming address is not local");
    };
    match forward(request, &address, &path, &protocol).await {
        Ok(response) => response,
        Err(message) => text(StatusCode::BAD_GATEWAY, &format!("error dialing backend: {message}")),
    }
}

/// Host and path of the runtime's URL, if it is on this machine.
pub(crate) fn local_target(url: &str) -> Option<(String, String)> {
    let uri: Uri = url.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']);
    let local = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) || host == "localhost";
    if !local || uri.scheme_str() != Some("http") {
        return None;
    }
    let path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    Some((uri.authority()?.to_string(), path))
}

async fn forward(
    mut request: Request<Incoming>,
    address: &str,
    path: &str,
    protocol: &str,
) -> Result<Response<Body>, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let mut onward = Request::builder().method(request.method().clone()).uri(path);
    if let Some(headers) = onward.headers_mut() {
        *headers = request.headers().clone();
        // Neither who asked nor how they proved it concerns the runtime.
        headers.remove(header::AUTHORIZATION);
        headers.remove(header::COOKIE);
        headers.insert(header::HOST, address.parse().map_err(|_| "invalid address".to_owned())?);
    }
    let onward = onward.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    // The connection lives on in the upgraded streams; its task ends with them.
    let driver = tokio::spawn(connection.with_upgrades());
    let mut answer = sender.send_request(onward).await.map_err(|error| error.to_string())?;
    let agreed = answer
        .headers()
        .get(header::UPGRADE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.trim().eq_ignore_ascii_case(protocol));
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS || !agreed {
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_REFUSAL_BYTES).collect().await;
        driver.abort();
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        // Only an error may be passed on: a redirect or an odd success leads nowhere.
        let status = if status.is_client_error() || status.is_server_error() { status } else { StatusCode::BAD_GATEWAY };
        let mut response = Response::new(Full::new(body).map_err(|never| match never {}).boxed_unsync());
        *response.status_mut() = status;
        return Ok(response);
    }
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.headers().clone();
    let theirs = hyper::upgrade::on(&mut answer);
    let ours = hyper::upgrade::on(&mut request);
    // Ends when either side closes, at the latest with the process: a detached pump is the one way to
    // outlive the response, and both its ends are sockets that close with their owners.
    drop(tokio::spawn(async move {
        if let Ok((ours, theirs)) = tokio::try_join!(ours, theirs) {
            let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
            tokio::io::copy_bidirectional(&mut ours, &mut theirs).await.ok();
        }
        driver.await.ok();
    }));
    Ok(response)
}
