//! Overload and abuse: what is too much is cut or turned away, clearly, and others do not notice.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::Request;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use podium_apiserver::User;
use podium_store::{History, KeyRange, Store, WatchOptions, WatchStart};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tower::ServiceExt;

use crate::frames::Frames;
use crate::support::{Server, call};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const LIMIT: Duration = Duration::from_secs(30);

type RequestBody = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// A TLS connection of this user, over HTTP/2 if nothing else is said.
async fn connect(server: &Server, user: &str, groups: &[&str], protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in podium_pki::certificate::from_pem(server.pki.authority().certificate()).unwrap() {
        roots.add(certificate).unwrap();
    }
    let group = groups.first().copied();
    let pair = server.pki.client(&format!("test-{user}"), user, group, Timestamp::now()).unwrap();
    let mut tls = rustls::ClientConfig::builder_with_provider(podium_pki::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(pair.chain().unwrap(), pair.key_der().unwrap())
        .unwrap();
    tls.alpn_protocols = vec![protocol.to_vec()];
    let tcp = TcpStream::connect(server.server.address()).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.unwrap()
}

/// An HTTP/2 connection whose streams take in no more than this many bytes unread.
async fn http2(server: &Server, user: &str, groups: &[&str], window: u32) -> SendRequest<RequestBody> {
    let stream = connect(server, user, groups, b"h2").await;
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

fn get(uri: &str) -> Request<RequestBody> {
    let uri = format!("https://127.0.0.1{uri}");
    Request::builder().uri(uri).body(Full::new(Bytes::new()).boxed_unsync()).unwrap()
}

/// What a client's half of an HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Adds a frame of HTTP/2.
fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    bytes.extend_from_slice(&length[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

/// A request whose body never comes.
fn endless(uri: &str) -> Request<RequestBody> {
    let body = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, std::convert::Infallible>>());
    Request::builder()
        .method("POST")
        .uri(format!("https://127.0.0.1{uri}"))
        .header("content-type", "application/json")
        .body(body.boxed_unsync())
        .unwrap()
}

async fn send(
    sender: &SendRequest<RequestBody>,
    request: Request<RequestBody>,
) -> (http::response::Parts, Bytes) {
    let reply = tokio::time::timeout(LIMIT, sender.clone().send_request(request)).await.expect("an answer");
    let (head, body) = reply.unwrap().into_parts();
    (head, body.collect().await.unwrap().to_bytes())
}

/// Looks at the metrics until one of their lines is as wanted.
async fn until_metric(server: &Server, wanted: impl Fn(&str) -> bool) {
    let mut last = String::new();
    let found = tokio::time::timeout(LIMIT, async {
        loop {
            last = call(server, "GET", "/metrics", Value::Null).await.text();
            if last.lines().any(&wanted) {
                return;
            }
            // A metric tells nobody that it changed; the next look comes when others have run.
            tokio::task::yield_now().await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("not seen in the metrics:\n{last}"));
}

async fn map(server: &Server, name: &str, bytes: usize) {
    let object = json!({"metadata": {"name": name}, "data": {"k": "v".repeat(bytes)}});
    assert_eq!(call(server, "POST", MAPS, object).await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resource_exhaustion_connections_that_say_nothing_are_closed() {
    let server = Server::start_with(0, |config| config.limits.handshake = Duration::from_secs(5)).await;
    let mut silent = Vec::new();
    for _ in 0..500 {
        silent.push(TcpStream::connect(server.server.address()).await.unwrap());
    }
    // Others are served meanwhile.
    let sender = http2(&server, "admin", &["system:masters"], 65_535).await;
    assert_eq!(send(&sender, get("/readyz")).await.0.status, 200);
    for stream in &mut silent {
        let mut byte = [0];
        let read = tokio::time::timeout(LIMIT, stream.read(&mut byte)).await.expect("it is closed");
        assert!(matches!(read, Ok(0) | Err(_)));
    }
    until_metric(&server, |line| line == "apiserver_tls_handshake_errors_total 500").await;
    until_metric(&server, |line| line == "podium_apiserver_open_connections 1").await;
    server.stop().await;
}

/// CVE-2023-44487: streams that are opened and reset at once cost the client nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resource_exhaustion_rapid_resets_end_the_connection() {
    let server = Server::start().await;
    let mut stream = connect(&server, "admin", &["system:masters"], b"h2").await;
    let mut bytes = PREFACE.to_vec();
    frame(&mut bytes, 4, 0, 0, &[]);
    for number in 0..2000 {
        let id = 2 * number + 1;
        // Static HPACK entries: GET, https, "/"; then ":authority: x".
        frame(&mut bytes, 1, 0x5, id, &[0x82, 0x87, 0x84, 0x01, 0x01, b'x']);
        frame(&mut bytes, 3, 0, id, &8_u32.to_be_bytes());
    }
    // The server may close before it has read everything.
    let _ = stream.write_all(&bytes).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    let ended = tokio::time::timeout(LIMIT, async {
        while let Ok(count @ 1..) = stream.read(&mut piece).await {
            answer.extend_from_slice(&piece[..count]);
        }
    });
    ended.await.expect("the connection ends");
    // A GOAWAY with ENHANCE_YOUR_CALM.
    let mut rest = &answer[..];
    let mut calm = false;
    while let Some((head, tail)) = rest.split_at_checked(9) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some((payload, tail)) = tail.split_at_checked(length) else { break };
        calm |= head[3] == 7 && payload.get(4..8) == Some(&11_u32.to_be_bytes());
        rest = tail;
    }
    assert!(calm, "no GOAWAY that asks for calm among {} bytes", answer.len());
    let sender = http2(&server, "admin", &["system:masters"], 65_535).await;
    assert_eq!(send(&sender, get("/readyz")).await.0.status, 200);
    server.stop().await;
}

/// A debugger holds the client, or all that was sent to it is still on its way: it is there, and TCP knows.
#[tokio::test]
async fn a_client_that_answers_nothing_for_a_while_keeps_its_connection() {
    let server = Server::start().await;
    let mut stream = connect(&server, "admin", &["system:masters"], b"h2").await;
    let local = stream.get_ref().0.local_addr().unwrap().port();
    // An empty SETTINGS; what the server says is neither read nor answered.
    let mut bytes = PREFACE.to_vec();
    frame(&mut bytes, 4, 0, 0, &[]);
    stream.write_all(&bytes).await.unwrap();
    stream.flush().await.unwrap();
    until_metric(&server, |line| line == "podium_apiserver_open_connections 1").await;
    tokio::time::pause();
    for _ in 0..20 {
        tokio::time::advance(Duration::from_secs(5)).await;
        // Others have their turn at each of these moments.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::resume();
    bytes.clear();
    frame(&mut bytes, 6, 0, 0, b"are you?");
    stream.write_all(&bytes).await.unwrap();
    stream.flush().await.unwrap();
    let mut seen = Vec::new();
    let answered = async {
        while !seen.windows(8).any(|window| window == b"are you?") {
            assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "it is closed: {seen:?}");
        }
    };
    tokio::time::timeout(LIMIT, answered).await.expect("a ping is answered");
    let armed = tokio::time::timeout(LIMIT, async {
        // What was sent last has to be acknowledged first.
        while !keep_alive_is_armed(server.server.address().port(), local) {
            tokio::task::yield_now().await;
        }
    });
    armed.await.expect("the system asks whether the other end is there");
    server.stop().await;
}

/// Whether the system will ask the other end of a connection whether it is there.
fn keep_alive_is_armed(from: u16, to: u16) -> bool {
    // Local address, remote address, state, queues, timer: 02 is the one of keep-alive.
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let line = table.lines().find(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let ends =
            |field: Option<&str>, port: u16| field.is_some_and(|at| at.ends_with(&format!(":{port:04X}")));
        ends(fields.next(), from) && ends(fields.next(), to)
    });
    line.expect("the connection").split_whitespace().nth(5).is_some_and(|timer| timer.starts_with("02:"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_nobody_reads_is_cut() {
    let server = Server::start_with(0, |config| config.limits.request = Duration::from_secs(5)).await;
    for number in 0..20 {
        map(&server, &format!("m{number}"), 200_000).await;
    }
    let sender = http2(&server, "admin", &["system:masters"], 65_535).await;
    let reply = sender.clone().send_request(get(MAPS)).await.unwrap();
    assert_eq!(reply.status(), 200);
    let aborted = |line: &str| line.starts_with("apiserver_request_aborts_total{") && line.ends_with(" 1");
    until_metric(&server, aborted).await;
    // Who reads on is told by a broken stream, never by a short list.
    assert!(reply.into_body().collect().await.is_err());
    // The connection's other streams are whole.
    let (head, body) = send(&sender, get(&format!("{MAPS}/m1"))).await;
    assert_eq!(head.status, 200);
    assert!(body.len() > 200_000);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_whose_beginning_nobody_reads_is_cut() {
    let server = Server::start_with(0, |config| config.limits.request = Duration::from_secs(5)).await;
    for number in 0..150 {
        map(&server, &format!("m{number}"), 10_000).await;
    }
    let uri = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let service = server.server.service(User::new("admin", &["system:masters"]));
    let request = Request::builder().uri(uri).body(Full::new(Bytes::new())).unwrap();
    let Ok(reply) = service.oneshot(request).await;
    let mut body = reply.into_body().into_data_stream();
    body.next().await.unwrap().unwrap();
    let mut text = Vec::new();
    let cut = "apiserver_terminated_watchers_total{group=\"\",resource=\"configmaps\"} 1";
    until_metric(&server, |line| line == cut).await;
    while let Some(piece) = body.next().await {
        text.extend_from_slice(&piece.unwrap());
    }
    let last = text.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty()).expect("a last frame");
    let last: Value = serde_json::from_slice(last).unwrap();
    assert_eq!(
        (last["type"].as_str(), last["object"]["code"].as_u64()),
        (Some("ERROR"), Some(410)),
        "{last}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watcher_is_told_that_it_fell_behind() {
    let history = History { revisions: 20, ..History::default() };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let server = Server::start_over(&path, Some(directory), Store::memory_with(history), 0, |_| {}).await;
    map(&server, "a", 10).await;
    let service = server.server.service(User::new("admin", &["system:masters"]));
    let revision =
        call(&server, "GET", MAPS, Value::Null).await.json()["metadata"]["resourceVersion"].clone();
    let uri = format!("{MAPS}?watch=1&resourceVersion={}", revision.as_str().unwrap());
    let request = Request::builder().uri(uri).body(Full::new(Bytes::new())).unwrap();
    let Ok(slow) = service.oneshot(request).await;
    // Compaction happens in the background, and what it forbids is freed a little later: until then the watcher may still
    // have it. So writes go on until another watcher of the same moment and collection (each is freed by itself), looked at
    // once, has fallen behind.
    let seen: u64 = revision.as_str().unwrap().parse().unwrap();
    let maps = KeyRange::prefix("/registry/core/configmaps/");
    let same_moment = || server.store.watch(maps.clone(), WatchStart::After(seen), WatchOptions::default());
    let mut others: Vec<_> = (0..1000).map(|_| same_moment().unwrap()).collect();
    for number in 0.. {
        let patch = json!({"data": {"n": number.to_string()}});
        assert_eq!(call(&server, "PATCH", &format!("{MAPS}/a"), patch).await.status, 200);
        if server.store.compacted_revision() > seen {
            let mut other = others.pop().expect("what is compacted is freed");
            if other.try_next().is_err() {
                break;
            }
        }
        assert!(number < 10_000, "nothing is compacted");
    }
    let body = tokio::time::timeout(LIMIT, slow.into_body().collect()).await.expect("it ends").unwrap();
    let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().expect("a frame")).unwrap();
    assert_eq!(last["type"], "ERROR", "{last}");
    assert_eq!(
        (last["object"]["code"].as_u64(), last["object"]["reason"].as_str()),
        (Some(410), Some("Expired"))
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_take_too_long_are_ended() {
    let server = Server::start_with(0, |config| config.limits.request = Duration::from_secs(20)).await;
    let sender = http2(&server, "admin", &["system:masters"], 65_535).await;
    let (head, body) = send(&sender, endless(&format!("{MAPS}?timeout=200ms"))).await;
    let status: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((head.status.as_u16(), status["reason"].as_str()), (504, Some("Timeout")));
    assert_eq!(status["message"], "Timeout: request did not complete within the allotted timeout");
    let (head, _) = send(&sender, get(&format!("{MAPS}?timeout=5"))).await;
    assert_eq!(head.status, 400);
    let ended = |line: &str| {
        line.starts_with("apiserver_request_terminations_total{code=\"504\"") && line.ends_with(" 1")
    };
    until_metric(&server, ended).await;
    server.stop().await;
}

/// A level with one seat that queues nothing, for one user.
async fn narrow(server: &Server) {
    // Not an administrator by group, whose requests are exempt.
    let binding = json!({
        "metadata": {"name": "jane"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
    });
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    assert_eq!(call(server, "POST", bindings, binding).await.status, 201);
    let base = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let level = json!({
        "metadata": {"name": "narrow"},
        "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}, "borrowingLimitPercent": 0,
        }},
    });
    let schema = json!({
        "metadata": {"name": "narrow"},
        "spec": {
            "priorityLevelConfiguration": {"name": "narrow"}, "matchingPrecedence": 10,
            "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "jane"}}],
                "resourceRules": [{
                    "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true,
                }],
            }],
        },
    });
    assert_eq!(call(server, "POST", &format!("{base}/flowschemas"), schema).await.status, 201);
    until_condition(server, "narrow", "NotFound").await;
    assert_eq!(call(server, "POST", &format!("{base}/prioritylevelconfigurations"), level).await.status, 201);
    until_condition(server, "narrow", "Found").await;
}

async fn until_condition(server: &Server, schema: &str, reason: &str) {
    let uri = format!(
        "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas?watch=1&fieldSelector=metadata.name%3D{schema}"
    );
    let mut watch = Frames::open(server, &uri, "application/json").await;
    watch.until(reason, |object| object["status"]["conditions"][0]["reason"] == reason).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_user_too_many_requests_another_none() {
    // Two seats for the new level's one share of all: 1/246 of 400.
    let server =
        Server::start_with(0, |config| (config.limits.mutating, config.limits.reading) = (100, 300)).await;
    narrow(&server).await;
    let jane = http2(&server, "jane", &[], 65_535).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut sender = jane.clone();
        held.push(tokio::spawn(async move { sender.send_request(endless(MAPS)).await.map(|_| ()) }));
    }
    let executing = |line: &str| {
        line == "apiserver_flowcontrol_current_executing_requests{flow_schema=\"narrow\",priority_level=\"narrow\"} 2"
    };
    until_metric(&server, executing).await;
    let (head, body) = send(&jane, get(MAPS)).await;
    assert_eq!(head.status, 429);
    assert_eq!(head.headers["retry-after"], "1");
    let status: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status["reason"], "TooManyRequests");
    assert_eq!(status["message"], "Too many requests, please try again later.");
    let uid = |kind: &str| format!("/apis/flowcontrol.apiserver.k8s.io/v1/{kind}/narrow");
    for (header, kind) in [
        ("x-kubernetes-pf-flowschema-uid", "flowschemas"),
        ("x-kubernetes-pf-prioritylevel-uid", "prioritylevelconfigurations"),
    ] {
        let object = call(&server, "GET", &uid(kind), Value::Null).await.json();
        assert_eq!(head.headers[header].to_str().unwrap(), object["metadata"]["uid"], "{header}");
    }
    // Somebody else is not concerned.
    let joe = http2(&server, "joe", &["system:masters"], 65_535).await;
    assert_eq!(send(&joe, get(MAPS)).await.0.status, 200);
    for request in held {
        request.abort();
    }
    drop(jane);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mandatory_flow_control_objects_are_put_back() {
    let server = Server::start().await;
    let uri = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations/catch-all";
    let patch = json!({"spec": {"limited": {"nominalConcurrencyShares": 500}}});
    assert_eq!(call(&server, "PATCH", uri, patch).await.status, 200);
    let levels = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";
    let uri = format!("{levels}?watch=1&fieldSelector=metadata.name%3Dcatch-all");
    let mut watch = Frames::open(&server, &uri, "application/json").await;
    let shares = |object: &Value| object["spec"]["limited"]["nominalConcurrencyShares"] == 5;
    let restored = watch.until("put back", shares).await;
    assert_eq!(restored["metadata"]["generation"], 3);
    server.stop().await;
}
