//! Input made to harm: a clear error or a closed connection, memory flat, others unharmed. Tests are named after the rows
//! of the list of faults that orchestrators have shipped.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use podium_api::codec::{self, Encoding};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::network::connect;
use crate::support::{Answer, Server, call, call_as, get_as, raw};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DRY: &str = "/api/v1/namespaces/default/configmaps?dryRun=All";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// A refusal that a client understands.
#[track_caller]
fn refused(answer: &Answer, codes: &[u16], what: &str) {
    assert!(codes.contains(&answer.status), "{what}: {} {}", answer.status, answer.text());
    let status = answer.json();
    assert_eq!(status["kind"], "Status", "{what}: {status}");
    assert!(!status["message"].as_str().unwrap_or_default().is_empty(), "{what}: {status}");
}

/// Resident bytes of this process, the server's too.
fn resident() -> u64 {
    let text = podium_client::process_metrics();
    let line = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    line.and_then(|number| number.parse::<f64>().ok()).unwrap_or_default() as u64
}

/// Whether this process runs nothing but the test of this name; else a process that does has run it. Memory is a process'
/// and can be measured in no other way.
fn is_alone(test: &str) -> bool {
    const ALONE: &str = "PODIUM_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let test = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("hostile::{test}"), "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let (said, wrong) = (String::from_utf8_lossy(&test.stdout), String::from_utf8_lossy(&test.stderr));
    assert!(test.status.success(), "{said}{wrong}");
    eprint!("{wrong}");
    false
}

#[tokio::test]
async fn resource_exhaustion_truncated_protobuf() {
    let server = Server::start().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"k": "v"}},
        "data": {"key": "value"}});
    let whole = codec::encode(&map, Encoding::Protobuf);
    let post = |body: Vec<u8>| call_as(&server, "POST", DRY, PROTOBUF, body);
    assert_eq!(post(whole.clone()).await.status, 201);
    // The envelope ends with two empty fields, without which it is whole too; cut between two others it lacks the object.
    for length in 1..whole.len() - 4 {
        refused(&post(whole[..length].to_vec()).await, &[400, 422], &format!("cut at {length}"));
    }
    // Any one byte wrong is an error or another object, never a fault of the server.
    for at in 0..whole.len() {
        let mut body = whole.clone();
        body[at] ^= 0xff;
        let answer = post(body).await;
        assert!(matches!(answer.status, 201 | 400 | 422), "{at}: {} {}", answer.status, answer.text());
    }
    server.stop().await;
}

#[tokio::test]
async fn resource_exhaustion_wrong_wire_types() {
    let server = Server::start().await;
    let field = |tag: u8, bytes: &[u8]| {
        let mut out = vec![tag << 3 | 2];
        codec::put_varint(&mut out, bytes.len() as u64);
        out.extend_from_slice(bytes);
        out
    };
    let kind = field(1, &[field(1, b"v1"), field(2, b"ConfigMap")].concat());
    let body = |message: &[u8]| [b"k8s\0".to_vec(), kind.clone(), field(2, message)].concat();
    let named = field(1, &field(1, b"a"));
    assert_eq!(call_as(&server, "POST", DRY, PROTOBUF, body(&named)).await.status, 201);
    let cases: [(&str, Vec<u8>); 11] = [
        ("metadata as a number", vec![1 << 3, 1]),
        ("metadata of four bytes", vec![1 << 3 | 5, 0, 0, 0, 0]),
        ("metadata of eight bytes", vec![1 << 3 | 1, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("a group", vec![1 << 3 | 3, 1 << 3 | 4]),
        ("an end without its group", vec![1 << 3 | 4]),
        ("wire type 6", vec![1 << 3 | 6, 0]),
        ("wire type 7", vec![1 << 3 | 7, 0]),
        ("field 0", vec![2, 0]),
        ("a length of all bytes there are", vec![1 << 3 | 2, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        ("a number without end", [vec![1 << 3], vec![0xff; 11]].concat()),
        ("a text that is none", field(1, &field(1, &[0xff, 0xfe]))),
    ];
    for (what, message) in cases {
        refused(&call_as(&server, "POST", DRY, PROTOBUF, body(&message)).await, &[400], what);
    }
    // Messages in messages: no stack is deep enough for whoever follows them all.
    let mut deep = Vec::new();
    for _ in 0..20_000 {
        deep = field(1, &deep);
    }
    let answer = call_as(&server, "POST", DRY, PROTOBUF, body(&deep)).await;
    assert!(matches!(answer.status, 400 | 422), "{} {}", answer.status, answer.text());
    server.stop().await;
}

#[tokio::test]
async fn resource_exhaustion_odd_json() {
    let server = Server::start().await;
    let strict = format!("{DRY}&fieldValidation=Strict");
    let post = |body: &[u8]| call_as(&server, "POST", &strict, "application/json", body.to_vec());
    let twice = post(br#"{"metadata":{"name":"a"},"metadata":{"name":"b"}}"#).await;
    refused(&twice, &[400], "the same key twice");
    assert!(twice.text().contains("duplicate field \\\"metadata\\\""), "{}", twice.text());
    // As Go does: what is no UTF-8 becomes the replacement character, in values and in keys.
    let odd = post(b"{\"metadata\":{\"name\":\"a\"},\"data\":{\"k\":\"x\xff\xfey\"}}").await;
    match odd.status {
        201 => assert_eq!(odd.json()["data"]["k"], "x\u{fffd}\u{fffd}y"),
        _ => refused(&odd, &[400], "no UTF-8"),
    }
    for (what, body) in [
        ("half a surrogate", &br#"{"metadata":{"name":"a"},"data":{"k":"\ud800"}}"#[..]),
        ("no UTF-8 in a name", b"{\"metadata\":{\"name\":\"a\xff\"}}"),
    ] {
        let answer = post(body).await;
        assert!(matches!(answer.status, 201 | 400 | 422), "{what}: {} {}", answer.status, answer.text());
    }
    for (what, body) in [
        ("a lone quote", &b"{\"metadata\":{\"name\":\"a"[..]),
        ("no JSON behind it", b"{\"metadata\":{\"name\":\"a\"}}}"),
        ("a control character", b"{\"metadata\":{\"name\":\"a\x01\"}}"),
        ("an escape that is none", br#"{"metadata":{"name":"\x41"}}"#),
        ("a number that is none", br#"{"metadata":{"name":"a","generation":01}}"#),
        ("a number of another world", br#"{"metadata":{"name":"a","generation":1e999}}"#),
        ("NUL bytes", b"\0\0\0\0"),
    ] {
        refused(&post(body).await, &[400], what);
    }
    server.stop().await;
}

#[tokio::test]
async fn resource_exhaustion_patches_and_aliases_that_explode() {
    if !is_alone("resource_exhaustion_patches_and_aliases_that_explode") {
        return;
    }
    let server = Server::start().await;
    let map = json!({"metadata": {"name": "a", "annotations": {"k": "v".repeat(1000)}}});
    assert_eq!(call(&server, "POST", MAPS, map).await.status, 201);
    let before = resident();
    let began = Instant::now();
    let path = format!("{MAPS}/a");
    // Each copies everything into itself: forty of them would be a petabyte.
    let doubling: Vec<Value> = (0..40)
        .map(|n| json!({"op": "copy", "from": "/metadata/annotations", "path": format!("/metadata/annotations/a{n}")}))
        .collect();
    let body = json!(doubling).to_string().into_bytes();
    let answer = call_as(&server, "PATCH", &path, "application/json-patch+json", body).await;
    refused(&answer, &[400, 413, 422], "a patch that doubles");
    // CVE-2019-11253: a list of lists of lists, each nine times the one before.
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for n in 1..12 {
        let last = n - 1;
        bomb.push_str(&format!(
            "a{n}: &a{n} [*a{last},*a{last},*a{last},*a{last},*a{last},*a{last},*a{last},*a{last},*a{last}]\n"
        ));
    }
    let posted = format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: b}}\n{bomb}");
    let answer = call_as(&server, "POST", DRY, "application/yaml", posted.clone().into_bytes()).await;
    refused(&answer, &[400], "aliases that explode");
    let applied = posted.replace("name: b", "name: a");
    let apply = format!("{path}?fieldManager=me");
    let answer =
        call_as(&server, "PATCH", &apply, "application/apply-patch+yaml", applied.into_bytes()).await;
    refused(&answer, &[400], "aliases that explode, applied");
    // Much in little: a patch as large as a body may be, of the smallest parts there are.
    let wide = format!("[{}0]", "0,".repeat(1_000_000));
    let body = format!(r#"{{"metadata":{{"annotations":{wide}}}}}"#).into_bytes();
    let answer = call_as(&server, "PATCH", &path, "application/merge-patch+json", body).await;
    refused(&answer, &[400, 422], "a million numbers");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let grown = resident().saturating_sub(before);
    assert!(grown < 300 << 20, "{} MB more", grown >> 20);
    assert_eq!(
        call(&server, "GET", &path, Value::Null).await.json()["metadata"]["annotations"]["a0"],
        Value::Null
    );
    server.stop().await;
}

#[tokio::test]
async fn scope_confusion_a_tampered_continue_token_shows_nothing_else() {
    let server = Server::start().await;
    for (namespace, name) in [("default", "a"), ("default", "b"), ("kube-system", "hidden")] {
        let secret = json!({"metadata": {"name": name}});
        call(&server, "POST", &format!("/api/v1/namespaces/{namespace}/secrets"), secret).await;
        call(
            &server,
            "POST",
            &format!("/api/v1/namespaces/{namespace}/configmaps"),
            json!({"metadata": {"name": name}}),
        )
        .await;
    }
    let list = "/api/v1/namespaces/default/secrets";
    let page = call(&server, "GET", &format!("{list}?limit=1"), Value::Null).await.json();
    let token = page["metadata"]["continue"].as_str().unwrap();
    let parts: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).unwrap()).unwrap();
    let tampered = |change: &dyn Fn(&mut Value)| {
        let mut parts = parts.clone();
        change(&mut parts);
        URL_SAFE_NO_PAD.encode(parts.to_string())
    };
    let cases: [(&str, String); 8] = [
        ("another namespace", tampered(&|it| it["start"] = json!("kube-system/hidden"))),
        ("upwards", tampered(&|it| it["start"] = json!("../kube-system/hidden"))),
        ("from the root", tampered(&|it| it["start"] = json!("/registry/core/secrets/kube-system/hidden"))),
        ("a key of one byte", tampered(&|it| it["start"] = json!("\0"))),
        ("a long key", tampered(&|it| it["start"] = json!("x".repeat(5_000)))),
        ("a revision to come", tampered(&|it| it["rv"] = json!(i64::MAX))),
        ("a revision below all", tampered(&|it| it["rv"] = json!(i64::MIN))),
        ("one letter cut", token[..token.len() - 1].to_owned()),
    ];
    for (what, token) in cases {
        let answer = call(&server, "GET", &format!("{list}?limit=10&continue={token}"), Value::Null).await;
        assert!(!answer.text().contains("\"hidden\""), "{what}: {}", answer.text());
        if answer.status != 200 {
            refused(&answer, &[400, 410, 504], what);
        }
    }
    // A good token of another list is no key to this one.
    let elsewhere = format!("/api/v1/namespaces/kube-system/secrets?limit=10&continue={token}");
    let answer = call(&server, "GET", &elsewhere, Value::Null).await;
    assert!(matches!(answer.status, 200 | 400), "{}", answer.text());
    let jane = http::Request::builder().uri(&elsewhere).body(Vec::new()).unwrap();
    assert_eq!(raw(&server.server, "jane", &[], jane).await.status, 403, "a token gives no permission");
    server.stop().await;
}

#[tokio::test]
async fn debug_exposure_nothing_without_authentication() {
    let server = Server::start().await;
    let anonymous = |uri: &str| {
        let request = http::Request::builder().uri(uri).body(Vec::new()).unwrap();
        raw(&server.server, "system:anonymous", &["system:unauthenticated"], request)
    };
    for open in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(anonymous(open).await.status, 200, "{open}");
    }
    for closed in [
        "/metrics",
        "/debug/pprof/",
        "/debug/pprof/profile",
        "/logs/",
        "/configz",
        "/debug/flags/v",
        "/api",
        "/openapi/v2",
    ] {
        assert_eq!(anonymous(closed).await.status, 403, "{closed}");
    }
    // And for those who may, there is nothing of the kind either.
    for absent in ["/debug/pprof/", "/logs/", "/debug/flags/v"] {
        assert_eq!(get_as(&server, absent, "*/*").await.status, 404, "{absent}");
    }
    server.stop().await;
}

/// CVE-2021-25735: admission must compare with what is stored, not with what the request says was there.
#[tokio::test]
async fn admission_bypass_the_old_object_is_the_stored_one() {
    let server = Server::start().await;
    let labels = json!({"node-restriction.kubernetes.io/zone": "safe"});
    let made = json!({"metadata": {"name": "n", "labels": labels}, "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    let stored = call(&server, "POST", "/api/v1/nodes", made).await.json();
    let as_node = |method: &'static str, uri: &'static str, body: Value| {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let request = http::Request::builder().method(method).uri(uri).header("content-type", media);
        let request = request.body(body.to_string().into_bytes()).unwrap();
        raw(&server.server, "system:node:n", &["system:nodes"], request)
    };
    let node = "/api/v1/nodes/n";
    assert_eq!(as_node("PUT", node, stored.clone()).await.status, 200, "nothing of it changed");
    for change in ["labels", "taints"] {
        let mut body = stored.clone();
        if change == "labels" {
            body["metadata"]["labels"] = json!({});
        } else {
            body["spec"]["taints"] = json!([]);
        }
        // Neither an old version nor none, nor the way of writing, hides the change.
        for version in [Value::Null, stored["metadata"]["resourceVersion"].clone()] {
            body["metadata"]["resourceVersion"] = version;
            let answer = as_node("PUT", node, body.clone()).await;
            assert!(matches!(answer.status, 403 | 409), "{change}: {} {}", answer.status, answer.text());
        }
    }
    let patch = json!({"metadata": {"labels": {"node-restriction.kubernetes.io/zone": null}}});
    assert_eq!(as_node("PATCH", node, patch.clone()).await.status, 403);
    assert_eq!(
        as_node("PATCH", "/api/v1/nodes/n/status", patch).await.status,
        403,
        "the same at subresources"
    );
    let now = call(&server, "GET", node, Value::Null).await.json();
    assert_eq!(
        (&now["metadata"]["labels"]["node-restriction.kubernetes.io/zone"], &now["spec"]),
        (&json!("safe"), &stored["spec"])
    );
    server.stop().await;
}

#[tokio::test]
async fn data_plane_trust_endpoints_stay_off_the_machine() {
    let server = Server::start().await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let endpoints = "/api/v1/namespaces/default/endpoints";
    for address in ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0"] {
        let slice = json!({"metadata": {"name": "s"}, "addressType": "IPv4", "endpoints": [{"addresses": [address]}]});
        refused(&call(&server, "POST", slices, slice).await, &[422], address);
        let old = json!({"metadata": {"name": "e"}, "subsets": [{"addresses": [{"ip": address}], "ports": [{"port": 1}]}]});
        refused(&call(&server, "POST", endpoints, old).await, &[422], address);
    }
    server.stop().await;
}

#[tokio::test]
async fn unauthenticated_certificate_names_cannot_be_added() {
    let server = Server::start().await;
    let shown = |stream: &tokio_rustls::client::TlsStream<TcpStream>| {
        stream.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec())
    };
    let before = shown(&connect(&server, None).await);
    assert!(before.is_some());
    // By the name of the handshake: refused by the client, since the certificate does not have it.
    let mut roots = rustls::RootCertStore::empty();
    for certificate in podium_pki::certificate::from_pem(server.pki.authority().certificate()).unwrap() {
        roots.add(certificate).unwrap();
    }
    let tls = rustls::ClientConfig::builder_with_provider(podium_pki::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(server.server.address()).await.unwrap();
    let name = ServerName::try_from("evil.example").unwrap();
    assert!(tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls)).connect(name, tcp).await.is_err());
    // By the name of the request.
    let request = http::Request::builder()
        .uri("https://evil.example/version")
        .header("host", "evil.example")
        .body(Vec::new())
        .unwrap();
    raw(&server.server, "system:anonymous", &["system:unauthenticated"], request).await;
    assert_eq!(shown(&connect(&server, None).await), before);
    server.stop().await;
}

/// Where the client of the test below connects to; unset when it is run as a test.
const ADDRESS: &str = "PODIUM_TEST_SILENT_ADDRESS";
const SILENT: usize = 10_000;

/// The client: a process of its own, since both ends' descriptors are too many for one. It says when all connections are
/// open, and ends with its input.
#[tokio::test]
async fn silent_client() {
    let Ok(address) = std::env::var(ADDRESS) else { return };
    let mut open = Vec::new();
    for _ in 0..SILENT {
        match TcpStream::connect(&address).await {
            Ok(stream) => open.push(stream),
            Err(error) => {
                println!("silent: {} {error}", open.len());
                return;
            }
        }
    }
    println!("silent: {} open", open.len());
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    let _ = ended.await;
}

/// Far above what anything here takes on a quiet machine: ten thousand handshakes beside other tests are slow.
const LIMIT: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resource_exhaustion_ten_thousand_silent_connections() {
    if !is_alone("resource_exhaustion_ten_thousand_silent_connections") {
        return;
    }
    let server = Server::start().await;
    let before = resident();
    let mut client = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hostile::silent_client", "--nocapture"])
        .env(ADDRESS, server.server.address().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = client.stdout.take().unwrap();
    let said = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        lines.find(|line| line.contains("silent: "))
    });
    let said = tokio::time::timeout(LIMIT, said).await.expect("it connects").unwrap();
    let said = said.unwrap_or_default();
    let grown = resident().saturating_sub(before);
    // Others are served meanwhile, over connections of their own.
    let admin = server.remote().await;
    let maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> = kube::Api::default_namespaced(admin);
    let served = tokio::time::timeout(LIMIT, maps.list(&kube::api::ListParams::default())).await;
    drop(client.stdin.take());
    client.wait().unwrap();
    if !said.ends_with("open") {
        eprintln!("skipped: only so many connections can be opened here: {said}");
        server.stop().await;
        return;
    }
    served.expect("others are served").unwrap();
    // A connection that has said nothing costs a task and two buffers that are not filled.
    assert!(grown < SILENT as u64 * 16 * 1024, "{} KB for each", grown / 1024 / SILENT as u64);
    server.stop().await;
}
