//! Runs one probe: HTTP, TCP, or a command in the container.

use std::{
    net::IpAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use http::StatusCode;
use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use podium_cri::Cri;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;

use super::{Answer, timeout};
use crate::http_get::{HttpTarget, MAX_REDIRECTS, cause, once};

/// How much of an answer is read: enough for a message.
const MAX_OUTPUT_BYTES: usize = 10 * 1024;
/// What servers see as the client; some filter their logs by it.
const PROBE_AGENT: &str = "kube-probe/1.36";

/// What a probe is run against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) cri: &'a Cri,
    pub(crate) container: &'a Container,
    pub(crate) container_id: &'a str,
    /// The pod's address, or the host's for pods on its network.
    pub(crate) address: Option<IpAddr>,
    /// The environment, for commands with `$(VAR)` in them: already expanded by the caller.
    pub(crate) command: Option<&'a [String]>,
}

/// Runs it once.
pub(crate) async fn run(probe: &Probe, target: &Target<'_>) -> Answer {
    let limit = timeout(probe);
    if let Some(exec) = &probe.exec {
        let command =
            target.command.map_or_else(|| exec.command.clone().unwrap_or_default(), <[String]>::to_vec);
        return exec_probe(target.cri, target.container_id, command, limit).await;
    }
    if let Some(action) = &probe.http_get {
        let wanted = match HttpTarget::new(action, target.container, target.address) {
            Ok(wanted) => wanted,
            Err(text) => return Answer::Error(text),
        };
        return match get(&wanted, PROBE_AGENT, Some(limit)).await {
            Ok((status, body)) => judge(status, &body),
            Err(text) => Answer::Failure(text),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        let Some(port) = port(&action.port, target.container) else {
            return Answer::Error(format!("couldn't find port: {:?}", action.port));
        };
        let host = match (action.host.as_deref().filter(|host| !host.is_empty()), target.address) {
            (Some(host), _) => host.to_owned(),
            (None, Some(address)) => address.to_string(),
            (None, None) => return Answer::Error("the pod has no address".to_owned()),
        };
        return tcp(&host, port, limit).await;
    }
    if let Some(action) = &probe.grpc {
        let Some(address) = target.address else { return Answer::Error("the pod has no address".to_owned()) };
        return crate::probes::grpc::check(address, action, limit).await;
    }
    Answer::Error("missing probe handler".to_owned())
}

async fn exec_probe(cri: &Cri, id: &str, command: Vec<String>, limit: Duration) -> Answer {
    let command_text = command.join(" ");
    match cri.exec_sync(id, command, limit).await {
        Ok(output) if output.exit_code == 0 => Answer::Success,
        Ok(output) => {
            let mut text = output.stdout;
            text.extend(output.stderr);
            text.truncate(MAX_OUTPUT_BYTES);
            Answer::Failure(String::from_utf8_lossy(&text).into_owned())
        }
        Err(error) if error.code().is_some_and(|code| code as i32 == 4) => Answer::Failure(format!(
            "command timed out: {command_text:?} timed out after {}",
            crate::backoff::go_duration(limit)
        )),
        Err(error) => Answer::Error(error.grpc_text()),
    }
}

/// A port by number, or by the name a container gives it.
pub(crate) fn port(wanted: &IntOrString, container: &Container) -> Option<u16> {
    let number = match wanted {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    number.and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0)
}

async fn tcp(host: &str, port: u16, limit: Duration) -> Answer {
    let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    match tokio::time::timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Answer::Success,
        Ok(Err(error)) => Answer::Failure(format!("dial tcp {shown}: connect: {}", cause(&error))),
        Err(_) => Answer::Failure(format!("dial tcp {shown}: i/o timeout")),
    }
}

fn judge(status: StatusCode, body: &str) -> Answer {
    if status.is_success() {
        Answer::Success
    } else if status.is_redirection() {
        Answer::Warning(format!("Probe terminated redirects, Response body: {body}"))
    } else {
        Answer::Failure(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
    }
}

impl HttpTarget {
    /// Works out host, port and path of an action.
    pub(crate) fn new(
        action: &HTTPGetAction,
        container: &Container,
        address: Option<IpAddr>,
    ) -> Result<Self, String> {
        let port =
            port(&action.port, container).ok_or_else(|| format!("couldn't find port: {:?}", action.port))?;
        let host = match (action.host.as_deref().filter(|host| !host.is_empty()), address) {
            (Some(host), _) => host.to_owned(),
            (None, Some(address)) => address.to_string(),
            (None, None) => return Err("the pod has no address".to_owned()),
        };
        let path = action.path.as_deref().unwrap_or("/");
        Ok(Self {
            https: action.scheme.as_deref() == Some("HTTPS"),
            host,
            port,
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            headers: action
                .http_headers
                .iter()
                .flatten()
                .map(|header| (header.name.clone(), header.value.clone()))
                .collect(),
        })
    }
}

/// Gets a page and follows redirects on the same host. The error is Go's text for it. Without a limit it may take for ever.
pub(crate) async fn get(
    target: &HttpTarget,
    agent: &str,
    limit: Option<Duration>,
) -> Result<(StatusCode, String), String> {
    let url = target.url();
    let following = follow(target.clone(), agent);
    let outcome = match limit {
        Some(limit) => tokio::time::timeout(limit, following).await,
        None => Ok(following.await),
    };
    match outcome {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(text)) => Err(format!("Get {url:?}: {text}")),
        Err(_) => Err(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

async fn follow(mut target: HttpTarget, agent: &str) -> Result<(StatusCode, String), String> {
    for _ in 0..MAX_REDIRECTS {
        let answer = once(&target, agent, MAX_OUTPUT_BYTES, &ANY_CERTIFICATE).await?;
        // Elsewhere is not this container: the redirect itself is the answer.
        match answer.redirect(&target).filter(|next| next.host == target.host) {
            Some(next) => target = next,
            // What is beyond the limit is not needed, and an error in it is none of ours.
            None => {
                let body = answer.body.unwrap_or_default();
                return Ok((answer.status, String::from_utf8_lossy(&body).into_owned()));
            }
        }
    }
    Err("stopped after 10 redirects".to_owned())
}

/// TLS without checking the other side's certificate: a probe asks whether the container answers, and
/// containers have certificates of their own making. Nothing secret is sent.
static ANY_CERTIFICATE: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports the default versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate { schemes }))
        .with_no_client_auth();
    Arc::new(config)
});

#[derive(Debug)]
struct AnyCertificate {
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ContainerPort, TCPSocketAction};
    use tokio::net::TcpListener;

    use super::*;
    use crate::testing::pages::{Pages, ok, redirect};

    fn http(path: &str, port: u16) -> Probe {
        Probe {
            http_get: Some(HTTPGetAction {
                path: Some(path.into()),
                port: IntOrString::Int(port.into()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    async fn ask(probe: &Probe) -> Answer {
        let cri = Cri::connect("/nonexistent").unwrap();
        let container = Container {
            ports: Some(vec![ContainerPort {
                name: Some("web".into()),
                container_port: 1,
                ..Default::default()
            }]),
            ..Default::default()
        };
        let address = Some("127.0.0.1".parse().unwrap());
        run(probe, &Target { cri: &cri, container: &container, container_id: "x", address, command: None })
            .await
    }

    #[tokio::test]
    async fn http_answers() {
        let pages = Pages::start().await;
        pages.set([
            ok("ok"),
            "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_owned(),
            redirect("http://example.invalid/"),
            redirect("/other"),
            ok("ok"),
        ]);
        let probe = http("/health", pages.address.port());
        assert_eq!(ask(&probe).await, Answer::Success);
        assert_eq!(ask(&probe).await, Answer::Failure("HTTP probe failed with statuscode: 500".into()));
        assert!(matches!(ask(&probe).await, Answer::Warning(_)));
        assert_eq!(ask(&probe).await, Answer::Success);
        let requests = pages.requests();
        assert!(
            requests[0].starts_with("GET /health HTTP/1.1\r\n") && requests[0].contains("kube-probe/1.36")
        );
        assert!(requests[4].starts_with("GET /other "));
    }

    #[tokio::test]
    async fn nobody_answers() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        let expected = format!("Get \"http://127.0.0.1:{port}/x\": {refused}");
        assert_eq!(ask(&http("/x", port)).await, Answer::Failure(expected));
        let tcp = |port: IntOrString| Probe {
            tcp_socket: Some(TCPSocketAction { port, host: None }),
            ..Default::default()
        };
        assert_eq!(ask(&tcp(IntOrString::Int(port.into()))).await, Answer::Failure(refused));
        assert!(matches!(ask(&tcp(IntOrString::String("nope".into()))).await, Answer::Error(_)));
    }
}
