//! Logs, streams and proxies, against a small TLS server that stands where a kubelet would.

use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use podium_pki::NodeNames;
use podium_pki::tls::{AnyClientCertificate, ServingCertificate, server_config};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::network::connect;
use crate::support::{LOOPBACK, Server, call};

/// What the stand-in says: the path decides.
async fn answer(
    mut request: http::Request<Incoming>,
) -> Result<http::Response<Full<bytes::Bytes>>, std::convert::Infallible> {
    let path = request.uri().path().to_owned();
    let reply = |code: u16, text: String| {
        http::Response::builder().status(code).body(Full::new(bytes::Bytes::from(text))).unwrap()
    };
    if request.headers().contains_key("authorization") {
        return Ok(reply(500, "credentials were passed on".to_owned()));
    }
    if path.starts_with("/containerLogs/default/waiting") {
        return Ok(reply(
            400,
            "container \"c\" in pod \"waiting\" is waiting to start: ContainerCreating".to_owned(),
        ));
    }
    if path.starts_with("/containerLogs/default/moved") {
        return Ok(http::Response::builder()
            .status(302)
            .header("location", "https://127.0.0.1/elsewhere")
            .body(Full::default())
            .unwrap());
    }
    if path == "/page" {
        return Ok(http::Response::builder()
            .header("content-type", "text/html; charset=utf-8")
            .body(Full::new("<a href=\"/x\">x</a>".into()))
            .unwrap());
    }
    if request.method() == http::Method::OPTIONS {
        return Ok(reply(200, "options".to_owned()));
    }
    if path.starts_with("/exec/") {
        let protocol = request.headers().get("upgrade").cloned();
        let Some(protocol) = protocol else { return Ok(reply(400, "no upgrade".to_owned())) };
        if request.uri().query().unwrap_or_default().contains("command=refuse") {
            return Ok(reply(403, "not here".to_owned()));
        }
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgraded.await.unwrap());
            let mut buffer = [0; 64];
            let count = stream.read(&mut buffer).await.unwrap();
            stream.write_all(b"echo ").await.unwrap();
            stream.write_all(&buffer[..count]).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        return Ok(http::Response::builder()
            .status(101)
            .header("connection", "Upgrade")
            .header("upgrade", protocol)
            .body(Full::default())
            .unwrap());
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Ok(reply(200, format!("{path}?{query} {}", String::from_utf8_lossy(&body))))
}

/// A kubelet's stand-in, its Node, and two pods on it.
async fn with_kubelet() -> (Server, AbortOnDropHandle<()>) {
    let server = Server::start().await;
    let names = NodeNames { name: "n1".to_owned(), addresses: vec![LOOPBACK] };
    let serving = server.pki.node(&names, Timestamp::now()).unwrap().serving;
    let tls =
        server_config(ServingCertificate::new(&serving).unwrap(), AnyClientCertificate::new(Vec::new()))
            .unwrap();
    let mut tls = tls;
    tls.alpn_protocols.clear();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                assert!(stream.get_ref().1.peer_certificates().is_some(), "the API server shows who it is");
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer))
                    .with_upgrades();
                let _ = connection.await;
            });
        }
    }));
    let node = json!({"metadata": {"name": "n1"}});
    assert_eq!(call(&server, "POST", "/api/v1/nodes", node).await.status, 201);
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    let answer = call(&server, "PATCH", "/api/v1/nodes/n1/status", status).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    for name in ["p", "waiting", "moved"] {
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
        assert_eq!(call(&server, "POST", "/api/v1/namespaces/default/pods", pod).await.status, 201);
    }
    (server, task)
}

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn logs_come_from_the_kubelet() {
    let (server, _kubelet) = with_kubelet().await;
    let log = call(&server, "GET", &format!("{PODS}/p/log?tailLines=3&timestamps=true"), Value::Null).await;
    assert_eq!(log.text().trim(), "/containerLogs/default/p/c?tailLines=3&timestamps=true");
    let waiting = call(&server, "GET", &format!("{PODS}/waiting/log"), Value::Null).await.json();
    assert_eq!(waiting["code"], 400);
    assert!(waiting["message"].as_str().unwrap().contains("is waiting to start"), "{waiting}");
    let moved = call(&server, "GET", &format!("{PODS}/moved/log"), Value::Null).await.json();
    assert_eq!(moved["code"], 503, "a redirect is not followed: {moved}");
    let wrong = call(&server, "GET", &format!("{PODS}/p/log?container=x"), Value::Null).await.json();
    assert_eq!(wrong["message"], "container x is not valid for pod p");
    server.stop().await;
}

#[tokio::test]
async fn ssrf_a_node_is_proxied_to_and_a_pod_on_loopback_is_not() {
    let (server, _kubelet) = with_kubelet().await;
    let answer = call(&server, "GET", "/api/v1/nodes/n1/proxy/stats/summary?x=1", Value::Null).await;
    assert_eq!(answer.text().trim(), "/stats/summary?x=1");
    let page = call(&server, "GET", "/api/v1/nodes/n1/proxy/page", Value::Null).await;
    assert_eq!(page.text(), "<a href=\"/api/v1/nodes/n1/proxy/x\">x</a>");
    let bare = call(&server, "GET", "/api/v1/nodes/n1/proxy?x=1", Value::Null).await;
    assert_eq!(bare.status, 301);
    assert_eq!(bare.headers["location"], "/api/v1/nodes/n1/proxy/?x=1");
    let posted = call(&server, "POST", "/api/v1/nodes/n1/proxy?x=1", Value::Null).await;
    assert_ne!(posted.status, 301);
    let options = call(&server, "OPTIONS", "/api/v1/nodes/n1/proxy/anything", Value::Null).await;
    assert_eq!((options.status, options.text().as_str()), (200, "options"));
    let elsewhere = call(&server, "OPTIONS", PODS, Value::Null).await;
    assert_eq!(elsewhere.status, 405, "{}", elsewhere.text());
    let status = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
    call(&server, "PATCH", &format!("{PODS}/p/status"), status).await;
    let refused = call(&server, "GET", &format!("{PODS}/p:10250/proxy/"), Value::Null).await.json();
    assert_eq!(
        (&refused["code"], &refused["message"]),
        (&json!(400), &json!("address not allowed")),
        "{refused}"
    );
    let none =
        call(&server, "GET", "/api/v1/namespaces/default/services/none/proxy/", Value::Null).await.json();
    assert_eq!(none["code"], 404);
    server.stop().await;
}

#[tokio::test]
async fn upgrade_smuggling_a_stream_is_copied_only_after_the_kubelet_agreed() {
    let (server, _kubelet) = with_kubelet().await;
    for protocol in ["SPDY/3.1", "websocket"] {
        let mut stream = connect(&server, Some(&server.pki.admin(Timestamp::now()).unwrap())).await;
        let method = if protocol == "websocket" { "GET" } else { "POST" };
        let head = format!(
            "{method} {PODS}/p/exec?command=sh&stdin=true&stdout=true HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: {protocol}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            text.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8_lossy(&text).to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101") && head.contains(&protocol.to_ascii_lowercase()), "{head}");
        stream.write_all(b"hello").await.unwrap();
        let mut echo = [0; 10];
        stream.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"echo hello");
    }
    let mut stream = connect(&server, Some(&server.pki.admin(Timestamp::now()).unwrap())).await;
    let head = format!(
        "POST {PODS}/p/exec?command=refuse&stdout=true HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\r\nGET /secret HTTP/1.1\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 403", "{}", String::from_utf8_lossy(&first));
    let plain =
        call(&server, "POST", &format!("{PODS}/p/exec?command=sh&stdout=true"), Value::Null).await.json();
    assert_eq!(plain["message"], "Upgrade request required");
    server.stop().await;
}

#[tokio::test]
async fn logs_come_in_messages_to_who_asks_for_a_websocket() {
    let (server, _kubelet) = with_kubelet().await;
    for (offered, opcode) in [("binary.k8s.io", 2_u8), ("base64.binary.k8s.io", 1)] {
        let mut stream = connect(&server, Some(&server.pki.admin(Timestamp::now()).unwrap())).await;
        let head = format!(
            "GET {PODS}/p/log HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: {offered}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"\r\n\r\n") {
            text.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8_lossy(&text).to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(head.contains(&format!("sec-websocket-protocol: {offered}")), "{head}");
        let first = stream.read_u8().await.unwrap();
        assert_eq!(first, 0x80 | opcode);
        let mut message = vec![0; usize::from(stream.read_u8().await.unwrap())];
        stream.read_exact(&mut message).await.unwrap();
        assert!(!message.is_empty());
        assert_eq!(stream.read_u8().await.unwrap(), 0x88, "the end of the log closes the connection");
    }
    server.stop().await;
}
