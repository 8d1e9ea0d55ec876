//! The server over real connections: TLS, reviews, logs, streams, and what must never happen in an upgrade.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::client::Body as ClientBody;
use parking_lot::Mutex;
use podium_client::Shutdown;
use podium_cri::{Error, v1};
use podium_pki::{
    authority::{Authority, LEAF_LIFE, Request as CertificateRequest, Usage},
    certificate::{AltName, from_pem},
    tls::ServingCertificate,
};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsConnector, client::TlsStream};

mod real;
mod tls_files;

use super::{host::Runtime, *};
use crate::record::label;

const LIMIT: Duration = Duration::from_secs(20);

/// A pod with one running container `c`, whose log is a file.
#[derive(Default)]
struct FakeRuntime {
    log: Mutex<PathBuf>,
    /// Where streams wait, as the runtime says.
    url: Mutex<String>,
    asked: Mutex<Vec<String>>,
    exited: std::sync::atomic::AtomicBool,
}

fn answer<T: Send + 'static>(value: T) -> BoxFuture<'static, Result<T, Error>> {
    Box::pin(std::future::ready(Ok(value)))
}

impl FakeRuntime {
    fn state(&self) -> v1::ContainerState {
        if self.exited.load(Ordering::Acquire) {
            v1::ContainerState::ContainerExited
        } else {
            v1::ContainerState::ContainerRunning
        }
    }

    fn opened(&self, what: String) -> BoxFuture<'static, Result<String, Error>> {
        self.asked.lock().push(what);
        answer(self.url.lock().clone())
    }
}

impl Runtime for FakeRuntime {
    fn containers(
        &self,
        _uid: Option<String>,
        running: bool,
    ) -> BoxFuture<'_, Result<Vec<v1::Container>, Error>> {
        let state = self.state();
        if running && state != v1::ContainerState::ContainerRunning {
            return answer(Vec::new());
        }
        answer(vec![v1::Container {
            id: "id-c".to_owned(),
            labels: HashMap::from([(label::CONTAINER_NAME.to_owned(), "c".to_owned())]),
            state: state.into(),
            ..Default::default()
        }])
    }

    fn sandboxes(&self, _uid: Option<String>) -> BoxFuture<'_, Result<Vec<v1::PodSandbox>, Error>> {
        answer(vec![v1::PodSandbox { id: "id-s".to_owned(), ..Default::default() }])
    }

    fn status(&self, id: String) -> BoxFuture<'_, Result<v1::ContainerStatus, Error>> {
        let log_path = self.log.lock().to_string_lossy().into_owned();
        answer(v1::ContainerStatus { id, log_path, state: self.state().into(), ..Default::default() })
    }

    fn exec(&self, request: v1::ExecRequest) -> BoxFuture<'_, Result<String, Error>> {
        self.opened(format!("exec {} {:?} tty={}", request.container_id, request.cmd, request.tty))
    }

    fn attach(&self, request: v1::AttachRequest) -> BoxFuture<'_, Result<String, Error>> {
        self.opened(format!("attach {} tty={}", request.container_id, request.tty))
    }

    fn port_forward(&self, request: v1::PortForwardRequest) -> BoxFuture<'_, Result<String, Error>> {
        self.opened(format!("forward {} {:?}", request.pod_sandbox_id, request.port))
    }

    fn exec_sync(
        &self,
        _id: String,
        command: Vec<String>,
    ) -> BoxFuture<'_, Result<v1::ExecSyncResponse, Error>> {
        answer(v1::ExecSyncResponse { stdout: command.join("|").into_bytes(), ..Default::default() })
    }

    fn container_stats(&self) -> BoxFuture<'_, Result<Vec<v1::ContainerStats>, Error>> {
        answer(Vec::new())
    }

    fn sandbox_stats(&self) -> BoxFuture<'_, Result<Vec<v1::PodSandboxStats>, Error>> {
        answer(Vec::new())
    }

    fn image_fs(&self) -> BoxFuture<'_, Result<v1::ImageFsInfoResponse, Error>> {
        let fs = |bytes| v1::FilesystemUsage {
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: "/".to_owned() }),
            used_bytes: Some(v1::UInt64Value { value: bytes }),
            ..Default::default()
        };
        answer(v1::ImageFsInfoResponse { image_filesystems: vec![fs(7)], container_filesystems: vec![fs(5)] })
    }
}

struct FakeHost {
    runtime: Arc<dyn Runtime>,
    shutdown: Shutdown,
    pod: Arc<Pod>,
    metrics: crate::metrics::Metrics,
    kept: stats::Kept,
    flags: BTreeMap<String, String>,
}

impl Host for FakeHost {
    fn node_name(&self) -> &str {
        "node-1"
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        vec![self.pod.clone()]
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        (namespace == "n" && name == "p").then(|| self.pod.clone())
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        self.runtime.clone()
    }

    fn runtime_name(&self) -> &str {
        "fake"
    }

    fn configz(&self) -> Value {
        json!({"kubeletconfig": {}})
    }

    fn working(&self) -> Vec<([&'static str; 3], usize)> {
        vec![(["sync", "desired", ""], 1)]
    }

    fn process_metrics(&self) -> String {
        "of_the_process 1\n".to_owned()
    }

    fn flags(&self) -> &BTreeMap<String, String> {
        &self.flags
    }

    fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    fn started(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn cpus(&self) -> i64 {
        2
    }

    fn memory_bytes(&self) -> i64 {
        1 << 30
    }

    fn bounds(&self) -> crate::resources::Bounds {
        crate::resources::Bounds::unlimited(1 << 30)
    }

    fn group_file(&self, _path: &str, _controller: &str, _file: &str) -> Option<String> {
        None
    }

    fn pods_group(&self) -> String {
        "/kubepods".to_owned()
    }

    fn pod_group(&self, _pod: &Pod) -> String {
        "/kubepods/podu".to_owned()
    }

    fn container_group(&self, _pod: &Pod, id: &str) -> String {
        format!("/kubepods/podu/{id}")
    }

    fn runtime_endpoint(&self) -> &str {
        ""
    }

    fn target(&self, pod: Arc<Pod>) -> stats::storage::Target {
        let directory = crate::volumes::PodDir::new(Path::new("/nonexistent"), "u");
        stats::storage::Target { pod, directory, logs: PathBuf::from("/nonexistent") }
    }

    fn kept(&self) -> &stats::Kept {
        &self.kept
    }

    fn swap_bytes(&self) -> i64 {
        1 << 20
    }

    fn cgroup_v2(&self) -> bool {
        true
    }

    fn cores_and_sockets(&self) -> (usize, usize) {
        (2, 1)
    }

    fn sync_loop(&self) -> Result<(), String> {
        if self.pod.metadata.name.as_deref() == Some("stuck") { Err("stuck".to_owned()) } else { Ok(()) }
    }

    fn metrics(&self) -> &crate::metrics::Metrics {
        &self.metrics
    }

    fn system_logs(&self) -> Option<&Path> {
        Some(Path::new("/var/log"))
    }

    fn root_dir(&self) -> &Path {
        Path::new("/")
    }
}

/// An API server that knows the token `good` as `robot`, and allows everything to all but `nobody`.
fn api() -> kube::Client {
    let service = tower::service_fn(|request: Request<ClientBody>| async move {
        use http_body_util::BodyExt;
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        let mut review: Value = serde_json::from_slice(&body)?;
        review["status"] = match path.as_str() {
            "/apis/authentication.k8s.io/v1/tokenreviews" => {
                json!({"authenticated": review["spec"]["token"] == "good", "user": {"username": "robot"}})
            }
            "/apis/authorization.k8s.io/v1/subjectaccessreviews" => {
                assert_eq!(review["spec"]["resourceAttributes"]["name"], "node-1");
                json!({"allowed": review["spec"]["user"] != "nobody"})
            }
            other => return Err(io::Error::other(format!("unexpected request for {other}"))),
        };
        Ok(http::Response::new(http_body_util::Full::new(bytes::Bytes::from(review.to_string()))))
    });
    podium_client::in_process(service, "default")
}

struct World {
    runtime: Arc<FakeRuntime>,
    shutdown: Shutdown,
    authority: Authority,
    port: u16,
    tls: tokio::sync::watch::Receiver<Arc<ServerConfig>>,
    serving: tokio::task::JoinHandle<()>,
}

impl World {
    async fn new() -> Self {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "c"}, {"name": "later"}]},
            "status": {"containerStatuses": [{"name": "later", "image": "", "imageID": "", "ready": false,
                "restartCount": 0, "state": {"waiting": {"reason": "ContainerCreating"}}}]}});
        let runtime = Arc::new(FakeRuntime::default());
        Self { runtime: runtime.clone(), ..Self::of(runtime, pod).await }
    }

    /// With another runtime than the pretending one.
    async fn of(runtime: Arc<dyn Runtime>, pod: Value) -> Self {
        Self::with(runtime, pod, Configuration::default()).await
    }

    /// With other settings, too.
    async fn with(runtime: Arc<dyn Runtime>, pod: Value, settings: Configuration) -> Self {
        let authority = Authority::generate("test", Timestamp::now()).unwrap();
        let serving = ServingCertificate::new(&serving_pair(&authority)).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::bind(address, serving, Arc::new(roots(&authority)), &settings).await.unwrap();
        let (port, tls) = (server.port(), server.tls.current());
        let shutdown = Shutdown::new();
        let host = FakeHost {
            runtime,
            shutdown: shutdown.clone(),
            pod: Arc::new(serde_json::from_value(pod).unwrap()),
            metrics: Default::default(),
            kept: stats::Kept::default(),
            flags: [("root-dir".to_owned(), "/var/lib/kubelet".to_owned())].into(),
        };
        let serving = tokio::spawn(async move {
            server.serve(Arc::new(host), api(), &settings).await;
        });
        Self { runtime: Arc::default(), shutdown, authority, port, tls, serving }
    }

    /// Connects, with a certificate of that name if one is given.
    async fn connect_as(&self, user: Option<(&Authority, &str)>) -> io::Result<TlsStream<TcpStream>> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots(&self.authority));
        let config = match user {
            None => builder.with_no_client_auth(),
            Some((authority, name)) => {
                let request = CertificateRequest {
                    common_name: name,
                    organization: Some("people"),
                    names: BTreeSet::new(),
                    usage: Usage::Client,
                    life: LEAF_LIFE,
                };
                let pair = authority.issue(&request, Timestamp::now()).unwrap();
                builder.with_client_auth_cert(pair.chain().unwrap(), pair.key_der().unwrap()).unwrap()
            }
        };
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        self.connect_as(Some((&self.authority, "admin"))).await.unwrap()
    }

    /// One request on a connection of its own, and the whole answer.
    async fn ask(&self, request: &str) -> String {
        exchange(self.connect().await, &format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
            .await
    }

    async fn stop(self) {
        self.shutdown.cancel();
        limited(self.serving).await.unwrap();
    }
}

#[tokio::test]
async fn versions_and_suites_of_tls() {
    let aes = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
    let (old, new) = (&rustls::version::TLS12, &rustls::version::TLS13);
    for (fields, client, expected) in [
        (json!({}), old, Some(rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384)),
        (
            json!({"tlsCipherSuites": [aes]}),
            old,
            Some(rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        ),
        (json!({"tlsCipherSuites": [aes]}), new, Some(rustls::CipherSuite::TLS13_AES_256_GCM_SHA384)),
        (json!({"tlsCipherSuites": ["TLS_AES_128_GCM_SHA256"]}), old, None),
        (json!({"tlsMinVersion": "VersionTLS13"}), old, None),
        (json!({"tlsMinVersion": "VersionTLS13"}), new, Some(rustls::CipherSuite::TLS13_AES_256_GCM_SHA384)),
    ] {
        let settings = Configuration::of(&[], fields.as_object().unwrap().clone()).unwrap();
        let world = World::with(Arc::new(FakeRuntime::default()), json!({}), settings).await;
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[client])
            .unwrap()
            .with_root_certificates(roots(&world.authority))
            .with_no_client_auth();
        let stream = TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let shaken = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let suite = shaken.ok().map(|stream| stream.get_ref().1.negotiated_cipher_suite().unwrap().suite());
        assert_eq!(suite, expected, "{fields} {client:?}");
        world.stop().await;
    }
}

async fn limited<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("it happens within the limit")
}

fn roots(authority: &Authority) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in from_pem(authority.certificate()).unwrap() {
        roots.add(certificate).unwrap();
    }
    roots
}

/// A certificate of a server at 127.0.0.1.
fn serving_pair(authority: &Authority) -> podium_pki::KeyPair {
    let request = CertificateRequest {
        common_name: "node",
        organization: None,
        names: BTreeSet::from([AltName::Ip([127, 0, 0, 1].into())]),
        usage: Usage::Server,
        life: LEAF_LIFE,
    };
    authority.issue(&request, Timestamp::now()).unwrap()
}

async fn exchange(mut stream: TlsStream<TcpStream>, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    match limited(stream.read_to_end(&mut answer)).await {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => panic!("{error}"),
        _ => String::from_utf8(answer).unwrap(),
    }
}

/// Reads a head, up to its empty line.
async fn head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(limited(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A runtime's streaming server that answers each connection with `answer`, then gives back what it gets.
struct StreamingServer {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl StreamingServer {
    async fn new(answer: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let connections: Arc<AtomicUsize> = Arc::default();
        let (seen, count) = (heads.clone(), connections.clone());
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::AcqRel);
                let request = head(&mut stream).await;
                seen.lock().push(request);
                stream.write_all(answer.as_bytes()).await.unwrap();
                if answer.starts_with("HTTP/1.1 101") {
                    let (mut read, mut write) = stream.split();
                    // The client may go at any time.
                    tokio::io::copy(&mut read, &mut write).await.ok();
                }
            }
        });
        Self { address, heads, connections, task }
    }

    fn url(&self) -> String {
        format!("http://{}/stream/token", self.address)
    }
}

impl Drop for StreamingServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const SPDY: &str = "connection: Upgrade\r\nupgrade: SPDY/3.1\r\nx-stream-protocol-version: v4.channel.k8s.io\r\n\
    x-stream-protocol-version: v3.channel.k8s.io\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
    X-Stream-Protocol-Version: v4.channel.k8s.io\r\nSet-Cookie: a=b\r\n\r\n";

fn upgrade(path: &str, headers: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer good\r\n{headers}\r\n")
}

#[tokio::test]
async fn everyone_is_known_and_asked_for() {
    let world = World::new().await;
    let get = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    // Neither certificate nor token.
    let stream = world.connect_as(None).await.unwrap();
    let answer = exchange(stream, &format!("{get}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.ends_with("Unauthorized"), "{answer}");
    for (token, status) in [("good", 200), ("bad", 401)] {
        let stream = world.connect_as(None).await.unwrap();
        let answer = exchange(stream, &format!("{get}authorization: Bearer {token}\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{token}: {answer}");
    }
    let answer = world.ask("GET /healthz").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"), "{answer}");
    let stream = world.connect_as(Some((&world.authority, "nobody"))).await.unwrap();
    let answer = exchange(stream, &format!("{get}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(
        answer.contains("Forbidden (user=nobody, verb=get, resource=nodes, subresource(s)=[healthz proxy])"),
        "{answer}"
    );
    // Another authority's certificate does not get through the handshake. With TLS 1.3 the client notices when it
    // reads.
    let other = Authority::generate("test", Timestamp::now()).unwrap();
    let outcome = match world.connect_as(Some((&other, "admin"))).await {
        Ok(mut stream) => {
            let mut answer = Vec::new();
            // Writing may fail already; what counts is that nothing is answered.
            stream.write_all(format!("{get}\r\n").as_bytes()).await.ok();
            limited(stream.read_to_end(&mut answer)).await.map(|_| answer)
        }
        Err(error) => Err(error),
    };
    assert!(outcome.is_err(), "{outcome:?}");
    world.stop().await;
}

#[tokio::test]
async fn health_checks_are_made_and_counted() {
    let world = World::new().await;
    for path in ["/healthz", "/healthz", "/healthz/ping", "/healthz/syncloop"] {
        let answer = world.ask(&format!("GET {path}")).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"), "{path}: {answer}");
    }
    let told = world.ask("GET /metrics/slis").await;
    for name in ["ping", "log", "syncloop"] {
        // One that is asked for alone is not counted.
        let count = format!(
            "kubernetes_healthchecks_total{{name=\"{name}\",status=\"success\",type=\"healthz\"}} 2\n"
        );
        assert!(told.contains(&count), "{told}");
    }
    world.stop().await;

    let pod = json!({"metadata": {"name": "stuck", "namespace": "n"}});
    let world = World::of(Arc::new(FakeRuntime::default()), pod).await;
    let answer = world.ask("GET /healthz").await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert!(answer.ends_with("[-]syncloop failed: reason withheld\nhealthz check failed\n"), "{answer}");
    let answer = world.ask("GET /healthz/syncloop").await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert!(world.ask("GET /healthz/ping").await.starts_with("HTTP/1.1 200 "));
    let told = world.ask("GET /metrics/slis").await;
    for row in [
        "kubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1\n",
        "kubernetes_healthcheck{name=\"syncloop\",type=\"healthz\"} 0\n",
        "kubernetes_healthchecks_total{name=\"syncloop\",status=\"error\",type=\"healthz\"} 1\n",
    ] {
        assert!(told.contains(row), "{row}: {told}");
    }
    world.stop().await;
}

#[tokio::test]
async fn paths_and_methods() {
    let world = World::new().await;
    for (request, status) in [
        ("GET /pods", 200),
        ("GET /runningpods/", 200),
        ("GET /configz", 200),
        ("GET /metrics", 200),
        ("GET /metrics/resource", 200),
        ("GET /metrics/cadvisor", 200),
        ("GET /metrics/probes", 200),
        ("GET /stats/summary", 200),
        ("GET /statusz", 200),
        ("GET /flagz", 200),
        ("POST /statusz", 405),
        ("POST /run/n/p/c?cmd=a+b", 200),
        ("POST /run/n/p/gone?cmd=a", 500),
        ("POST /run/n/gone/c?cmd=a", 404),
        ("GET /debug/pprof/profile", 404),
        ("GET /logs/", 200),
        ("GET /logs/%2e%2e/", 403),
        ("GET /logs/../pods", 404),
        ("POST /logs/", 405),
        ("GET /run/n/p/c?cmd=a", 405),
        ("POST /pods", 405),
        ("PUT /exec/n/p/c", 405),
        ("POST /exec/n/p/c?output=1", 400),
        ("POST /exec/n/p/c", 400),
        ("POST /exec/n/gone/c?output=1", 404),
        ("POST /portForward/n/p", 400),
    ] {
        let answer = world.ask(request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
    }
    let answer = world.ask("POST /run/n/p/c?cmd=a+b").await;
    assert!(answer.ends_with("\r\n\r\na|b"), "{answer}");
    let answer = world.ask("GET /pods").await;
    assert!(answer.contains("\"kind\":\"PodList\""), "{answer}");
    let answer = world.ask("GET /metrics").await;
    let working = "kubelet_working_pods{config=\"desired\",lifecycle=\"sync\",static=\"\"} 1\n";
    assert!(answer.contains(working) && answer.contains("\nof_the_process 1\n"), "{answer}");
    let answer = world.ask("GET /statusz").await;
    assert!(answer.contains("\nkubelet statusz\n") && answer.contains("/healthz"), "{answer}");
    let answer = world.ask("GET /flagz").await;
    assert!(answer.contains("root-dir") && answer.contains("/var/lib/kubelet"), "{answer}");
    let answer = world.ask("GET /stats/summary").await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let node = &serde_json::from_str::<Value>(body).unwrap()["node"];
    for field in [
        "/startTime",
        "/cpu/usageCoreNanoSeconds",
        "/memory/workingSetBytes",
        "/swap/swapUsageBytes",
        "/network/interfaces",
        "/fs/inodesUsed",
        "/rlimit/maxpid",
        "/rlimit/curproc",
        "/runtime/imageFs/capacityBytes",
    ] {
        assert!(node.pointer(field).is_some(), "{field} in {node}");
    }
    let used = |of: &str| node["runtime"][of]["usedBytes"].as_u64();
    assert_eq!((used("imageFs"), used("containerFs")), (Some(7), Some(5)), "what the runtime says");
    world.stop().await;
}

#[tokio::test]
async fn logs_are_streamed() {
    let world = World::new().await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    *world.runtime.log.lock() = file.path().to_owned();
    let mut append = |text: &str| writeln!(file, "2026-01-01T00:00:00.5Z stdout F {text}").unwrap();
    append("one");
    append("two");
    let answer = world.ask("GET /containerLogs/n/p/c?tailLines=1&timestamps=true").await;
    assert!(answer.contains("2026-01-01T00:00:00.500000000Z two\n") && !answer.contains("one"), "{answer}");
    for (request, status, text) in [
        ("/containerLogs/n/gone/c", 404, "pod \"gone\" does not exist"),
        ("/containerLogs/n/p/gone", 404, "container \"gone\" not found in pod \"p\""),
        (
            "/containerLogs/n/p/later",
            400,
            "container \"later\" in pod \"p\" is waiting to start: ContainerCreating",
        ),
        (
            "/containerLogs/n/p/c?previous=true",
            400,
            "previous terminated container \"c\" in pod \"p\" not found",
        ),
        ("/containerLogs/n/p/c?tailLines=x", 400, "Unable to decode query."),
        ("/containerLogs/n/p/c?tailLines=-1", 422, "Invalid request."),
    ] {
        let answer = world.ask(&format!("GET {request}")).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(text),
            "{request}: {answer}"
        );
    }
    // Followed until the container ends.
    let mut stream = world.connect().await;
    let request =
        "GET /containerLogs/n/p/c?follow=true&tailLines=0 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    // The head comes before there is anything to show.
    assert!(head(&mut stream).await.starts_with("HTTP/1.1 200 "));
    append("three");
    let mut seen = String::new();
    while !seen.contains("three\n") {
        seen.push(char::from(limited(stream.read_u8()).await.unwrap()));
    }
    world.runtime.exited.store(true, Ordering::Release);
    let mut rest = String::new();
    limited(stream.read_to_string(&mut rest)).await.ok();
    assert!(rest.ends_with("0\r\n\r\n"), "{rest:?}");
    world.stop().await;
}

#[tokio::test]
async fn a_shutdown_ends_followers() {
    let world = World::new().await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    *world.runtime.log.lock() = file.path().to_owned();
    writeln!(file, "2026-01-01T00:00:00.5Z stdout F one").unwrap();
    let mut stream = world.connect().await;
    let request = "GET /containerLogs/n/p/c?follow=true HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    head(&mut stream).await;
    world.stop().await;
    let mut rest = String::new();
    limited(stream.read_to_string(&mut rest)).await.ok();
    assert!(rest.ends_with("0\r\n\r\n"), "{rest:?}");
}

#[tokio::test]
async fn exec_is_joined_to_the_runtimes_stream() {
    let world = World::new().await;
    let server = StreamingServer::new(SWITCHING.to_owned()).await;
    *world.runtime.url.lock() = server.url();
    let mut stream = world.connect().await;
    let path = "/exec/n/p/u/c?input=1&output=1&command=sh&command=-c&command=echo%20a";
    stream.write_all(upgrade(path, SPDY).as_bytes()).await.unwrap();
    let answer = head(&mut stream).await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert!(
        answer.contains("upgrade: spdy/3.1\r\n")
            && answer.contains("x-stream-protocol-version: v4.channel.k8s.io")
    );
    assert!(!answer.contains("cookie"), "{answer}");
    // Bytes as they are, both ways, in order.
    let sent: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let (mut read, mut write) = tokio::io::split(stream);
    let mut got = vec![0; sent.len()];
    let (wrote, came) =
        limited(async { tokio::join!(write.write_all(&sent), read.read_exact(&mut got)) }).await;
    wrote.unwrap();
    came.unwrap();
    assert!(got == sent, "what came back is not what was sent");
    assert_eq!(*world.runtime.asked.lock(), ["exec id-c [\"sh\", \"-c\", \"echo a\"] tty=false"]);
    let request = server.heads.lock()[0].to_ascii_lowercase();
    assert!(request.starts_with("post /stream/token http/1.1\r\n"), "{request}");
    assert!(request.contains("v4.channel.k8s.io") && request.contains("v3.channel.k8s.io"), "{request}");
    assert!(!request.contains("authorization") && !request.contains("good"), "{request}");
    // The kubelet's end is the stream's end.
    world.stop().await;
    assert!(matches!(limited(read.read(&mut got)).await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn attach_and_port_forward_are_joined_too() {
    let world = World::new().await;
    let server = StreamingServer::new(SWITCHING.to_owned()).await;
    *world.runtime.url.lock() = server.url();
    for path in ["/attach/n/p/c?output=1", "/portForward/n/p", "/portForward/n/p/u"] {
        let mut stream = world.connect().await;
        stream.write_all(upgrade(path, SPDY).as_bytes()).await.unwrap();
        assert!(head(&mut stream).await.starts_with("HTTP/1.1 101 "), "{path}");
        stream.write_all(b"ping").await.unwrap();
        let mut got = [0; 4];
        limited(stream.read_exact(&mut got)).await.unwrap();
        assert_eq!(&got, b"ping", "{path}");
    }
    assert_eq!(*world.runtime.asked.lock(), ["attach id-c tty=false", "forward id-s []", "forward id-s []"]);
    let answer = exchange(world.connect().await, &upgrade("/portForward/n/p/other", SPDY)).await;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("pod not found"), "{answer}");
    world.stop().await;
}

#[tokio::test]
async fn a_container_that_does_not_run_has_no_streams() {
    let world = World::new().await;
    world.runtime.exited.store(true, Ordering::Release);
    for (path, text) in [
        ("/exec/n/p/c?output=1", "container not found (\"c\")"),
        ("/exec/n/p/other-uid/c?output=1", "container not found (\"c\")"),
        ("/attach/n/p/c?output=1", "container c not found in pod p_n"),
    ] {
        let request = upgrade(path, &format!("{SPDY}content-length: 0\r\n"));
        let answer = exchange(world.connect().await, &request).await;
        assert!(answer.starts_with("HTTP/1.1 500 ") && answer.ends_with(text), "{path}: {answer}");
    }
    world.stop().await;
}

/// SECURITY.md, upgrade and proxy smuggling (CVE-2018-1002105): raw copy only after a verified 101.
#[tokio::test]
async fn upgrade_smuggling_raw_copy_only_after_a_verified_101() {
    for (runtime_answers, status) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 500),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403),
        ("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", 500),
        // Another protocol than was asked for, or none.
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 500),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 500),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", 500),
        ("nonsense\r\n\r\n", 500),
    ] {
        let world = World::new().await;
        let server = StreamingServer::new(runtime_answers.to_owned()).await;
        *world.runtime.url.lock() = server.url();
        // What follows the refused upgrade must reach neither the runtime nor this server as a request.
        let smuggled = "GET /stream/other HTTP/1.1\r\nhost: x\r\n\r\n";
        let request = format!("{}{smuggled}", upgrade("/exec/n/p/c?output=1", SPDY));
        let answer = exchange(world.connect().await, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{runtime_answers:?}: {answer}");
        assert!(answer.to_ascii_lowercase().contains("connection: close"), "{runtime_answers:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "one answer only: {answer}");
        assert_eq!(server.connections.load(Ordering::Acquire), 1);
        assert!(server.heads.lock().iter().all(|head| !head.contains("/stream/other")));
        world.stop().await;
    }
}

/// SECURITY.md, upgrade and proxy smuggling (CVE-2018-1002102): no redirect is followed.
#[tokio::test]
async fn upgrade_smuggling_no_redirect_followed() {
    let world = World::new().await;
    let elsewhere = StreamingServer::new(SWITCHING.to_owned()).await;
    let answer = format!("HTTP/1.1 302 Found\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", elsewhere.url());
    let server = StreamingServer::new(answer).await;
    *world.runtime.url.lock() = server.url();
    let answer = exchange(world.connect().await, &upgrade("/exec/n/p/c?output=1", SPDY)).await;
    assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("the runtime redirected"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("location:"), "{answer}");
    assert_eq!(elsewhere.connections.load(Ordering::Acquire), 0);
    world.stop().await;
}

/// SECURITY.md, upgrade and proxy smuggling: a runtime's address that is not on loopback is not connected to.
#[tokio::test]
async fn upgrade_smuggling_runtime_url_not_on_loopback_refused() {
    let world = World::new().await;
    for url in
        ["http://192.0.2.1:80/exec/x", "http://localhost:1/exec/x", "https://127.0.0.1:1/exec/x", "nonsense"]
    {
        url.clone_into(&mut world.runtime.url.lock());
        let answer = exchange(world.connect().await, &upgrade("/exec/n/p/c?output=1", SPDY)).await;
        assert!(
            answer.starts_with("HTTP/1.1 500 ") && answer.contains("is not a loopback HTTP address"),
            "{url}: {answer}"
        );
    }
    world.stop().await;
}

/// SECURITY.md, upgrade and proxy smuggling: only known upgrade protocols.
#[tokio::test]
async fn upgrade_smuggling_only_known_protocols() {
    let world = World::new().await;
    let server = StreamingServer::new(SWITCHING.to_owned()).await;
    *world.runtime.url.lock() = server.url();
    for headers in [
        "connection: Upgrade\r\nupgrade: h2c\r\n",
        "connection: Upgrade\r\nupgrade: SPDY/3.1, h2c\r\n",
        "connection: Upgrade\r\nupgrade: websocket\r\n",
        "upgrade: SPDY/3.1\r\nconnection: close\r\n",
    ] {
        let request =
            format!("{}GET /pods HTTP/1.1\r\nhost: x\r\n\r\n", upgrade("/exec/n/p/c?output=1", headers));
        let answer = exchange(world.connect().await, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{headers:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{headers:?}: one answer only: {answer}");
    }
    assert_eq!(server.connections.load(Ordering::Acquire), 0);
    assert!(world.runtime.asked.lock().is_empty());
    world.stop().await;
}
