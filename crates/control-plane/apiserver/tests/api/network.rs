//! What the network side does: certificates, tokens, slow and hostile connections.

use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::Server;

/// A TLS connection, with a client certificate or without.
pub(crate) async fn connect(
    server: &Server,
    pair: Option<&podium_pki::KeyPair>,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    use rustls::RootCertStore;
    let mut roots = RootCertStore::empty();
    for certificate in podium_pki::certificate::from_pem(server.pki.authority().certificate()).unwrap() {
        roots.add(certificate).unwrap();
    }
    let builder = rustls::ClientConfig::builder_with_provider(podium_pki::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match pair {
        Some(pair) => builder.with_client_auth_cert(pair.chain().unwrap(), pair.key_der().unwrap()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(server.server.address()).await.unwrap();
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await.unwrap()
}

/// A request over TLS; the status and the whole answer.
async fn over_tls(server: &Server, pair: Option<&podium_pki::KeyPair>, head: &str) -> (u16, String) {
    let mut stream = connect(server, pair).await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    // The peer closes without a TLS goodbye in some refusals; what was read counts.
    let _ = stream.read_to_end(&mut text).await;
    let text = String::from_utf8_lossy(&text).into_owned();
    let code = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (code, text)
}

const GET_PODS: &str = "GET /api/v1/namespaces/default/pods HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";

#[tokio::test]
async fn certificates_and_tokens_are_judged_per_request() {
    let server = Server::start().await;
    let now = Timestamp::now();
    let admin = server.pki.admin(now).unwrap();
    let (code, text) = over_tls(&server, Some(&admin), &format!("{GET_PODS}\r\n")).await;
    assert_eq!(code, 200, "{text}");
    let (code, text) = over_tls(&server, None, &format!("{GET_PODS}\r\n")).await;
    assert_eq!(code, 403, "{text}");
    assert!(text.contains("system:anonymous"), "{text}");
    let (code, text) =
        over_tls(&server, None, &format!("{GET_PODS}authorization: Bearer nonsense\r\n\r\n")).await;
    assert_eq!(code, 401, "{text}");
    assert!(text.contains(r#""message":"Unauthorized""#), "{text}");
    let past = now - jiff::SignedDuration::from_hours(24 * 800);
    let request = podium_pki::authority::Request {
        common_name: "old",
        organization: Some("system:masters"),
        names: std::collections::BTreeSet::new(),
        usage: podium_pki::authority::Usage::Client,
        life: Duration::from_secs(3600),
    };
    let expired = server.pki.authority().issue(&request, past).unwrap();
    let (code, text) = over_tls(&server, Some(&expired), &format!("{GET_PODS}\r\n")).await;
    assert_eq!(code, 401, "{text}");
    let stranger = podium_pki::authority::Authority::generate("other", now).unwrap();
    let forged =
        stranger.issue(&podium_pki::authority::Request { common_name: "admin", ..request }, now).unwrap();
    let (code, text) = over_tls(&server, Some(&forged), &format!("{GET_PODS}\r\n")).await;
    assert_eq!(code, 401, "{text}");
    server.stop().await;
}

#[tokio::test]
async fn silent_connections_harm_nobody() {
    let server = Server::start().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(server.server.address()).await.unwrap());
    }
    let admin = server.pki.admin(Timestamp::now()).unwrap();
    let head = format!("{GET_PODS}\r\n");
    let answered = over_tls(&server, Some(&admin), &head);
    let (code, _) = tokio::time::timeout(Duration::from_secs(20), answered).await.expect("others are served");
    assert_eq!(code, 200);
    drop(silent);
    server.stop().await;
}

#[tokio::test]
async fn a_serving_certificate_is_replaced_while_serving() {
    let mut handle = None;
    let server = Server::start_with(0, |config| handle = Some(config.serving.clone())).await;
    let names = podium_pki::ServerNames {
        addresses: vec![crate::support::LOOPBACK],
        service_ip: "10.96.0.1".parse().unwrap(),
        hostname: "renewed".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        extra: Vec::new(),
    };
    let renewed = server.pki.api_server(&names, Timestamp::now()).unwrap();
    handle.unwrap().replace(&renewed).unwrap();
    let admin = server.pki.admin(Timestamp::now()).unwrap();
    let (code, _) = over_tls(&server, Some(&admin), &format!("{GET_PODS}\r\n")).await;
    assert_eq!(code, 200);
    server.stop().await;
}

#[tokio::test]
async fn upgrade_smuggling_an_upgrade_without_a_reason_is_refused() {
    let server = Server::start().await;
    let admin = server.pki.admin(Timestamp::now()).unwrap();
    let head = "GET /api/v1/nodes/none/proxy/ HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n";
    let (code, text) = over_tls(&server, Some(&admin), head).await;
    assert_eq!(code, 404, "{text}");
    server.stop().await;
}

/// A create whose body never comes.
async fn stalled(server: &Server, name: &str) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut stream = connect(server, Some(&server.pki.admin(Timestamp::now()).unwrap())).await;
    let head = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n";
    stream.write_all(format!("{head}{{\"metadata\":{{\"name\":\"{name}\"").as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_ended() {
    let server = Server::start_with(0, |config| config.limits.request = Duration::from_millis(100)).await;
    let mut stream = stalled(&server, "a").await;
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text).await;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.starts_with("HTTP/1.1 504") && text.contains("request did not complete"), "{text}");
    server.stop().await;
}
