//! A real server on a free port over a store in memory, for tests and for the `bare` example.

#![allow(dead_code, unreachable_pub)]

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use podium_apiserver::{ApiServer, Config, KubeletClient, Limits, admission, authentication, reviews};
use podium_pki::tls::ServingCertificate;
use podium_pki::{Pki, ServerNames, kubeconfig};
use podium_store::Store;
use tokio_util::sync::CancellationToken;

/// A running server and everything needed to talk to it.
pub struct Server {
    pub server: ApiServer,
    pub store: Store,
    pub pki: Pki,
    pub shutdown: CancellationToken,
    pub directory: PathBuf,
    /// Removes the directory with the server, where it is a temporary one.
    pub temporary: Option<tempfile::TempDir>,
    pub kubeconfig: PathBuf,
}

pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

impl Server {
    pub async fn start() -> Server {
        Server::start_with(0, |_| {}).await
    }

    pub async fn start_with(port: u16, adjust: impl FnOnce(&mut Config)) -> Server {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().to_owned();
        Server::start_over(&path, Some(directory), Store::memory(), port, adjust).await
    }

    /// A server over a store that may hold a cluster already; keys and kubeconfig lie in `path`, which goes with
    /// `temporary` if it is given.
    pub async fn start_over(
        path: &Path,
        temporary: Option<tempfile::TempDir>,
        store: Store,
        port: u16,
        adjust: impl FnOnce(&mut Config),
    ) -> Server {
        let pki = Pki::open(&path.join("pki"), Timestamp::now()).expect("a PKI");
        let names = ServerNames {
            addresses: vec![LOOPBACK],
            service_ip: "10.96.0.1".parse().expect("an address"),
            hostname: "localhost".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            extra: Vec::new(),
        };
        let serving = pki.api_server(&names, Timestamp::now()).expect("a serving certificate");
        let authority = pki.authority().certificate().to_owned();
        let issuer = "https://kubernetes.default.svc.cluster.local".to_owned();
        let mut config = Config {
            bind: (LOOPBACK, port).into(),
            // Endpoints may not be loopback addresses; nothing in these tests connects to this one (RFC 5737).
            advertise_address: "192.0.2.10".parse().expect("an address"),
            advertise_port: None,
            service_cidr: "10.96.0.0/16".parse().expect("a CIDR"),
            node_ports: 30000..=32767,
            served: podium_api::resources::Selection::default(),
            features: podium_api::kinds::features::Features::default(),
            serving: ServingCertificate::new(&serving).expect("a serving certificate"),
            authentication: authentication::Config {
                client_authorities: podium_pki::certificate::from_pem(&authority).expect("the authority"),
                token_keys: Some(pki.token_keys()),
                issuers: vec![issuer.clone()],
                audiences: vec![issuer.clone()],
                anonymous: true,
                ..authentication::Config::default()
            },
            admission: admission::Config::default(),
            issuer: Some(reviews::Issuer {
                keys: pki.token_keys(),
                issuer: issuer.clone(),
                audiences: vec![issuer],
            }),
            kubelet: Some(KubeletClient {
                pair: pki.kubelet_client(Timestamp::now()).expect("a certificate"),
                authority: authority.clone(),
            }),
            client_authority: authority.clone(),
            proxy_authority: Some(pki.proxy_authority().certificate().to_owned()),
            limits: Limits::default(),
            components: podium_apiserver::components::Components::beside(),
            more_metrics: |_| {},
        };
        adjust(&mut config);
        let shutdown = CancellationToken::new();
        let server =
            ApiServer::start(config, store.clone(), shutdown.clone()).await.expect("the server starts");
        tokio::time::timeout(Duration::from_secs(30), server.ready()).await.expect("the server gets ready");
        // What the service account controller does in a whole cluster.
        let accounts: kube::Api<k8s_openapi::api::core::v1::ServiceAccount> =
            kube::Api::default_namespaced(server.client("admin", &["system:masters"]));
        let mut account = k8s_openapi::api::core::v1::ServiceAccount::default();
        account.metadata.name = Some("default".to_owned());
        match accounts.create(&kube::api::PostParams::default(), &account).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => panic!("the default service account: {error}"),
        }
        let admin = pki.admin(Timestamp::now()).expect("the admin's certificate");
        let url = format!("https://{}", server.address());
        let text = kubeconfig::write("podium", "admin", &url, &authority, &admin);
        let kubeconfig = path.join("admin.conf");
        std::fs::write(&kubeconfig, text.expose()).expect("the kubeconfig");
        Server { server, store, pki, shutdown, directory: path.to_owned(), temporary, kubeconfig }
    }

    /// The administrator, in process.
    pub fn admin(&self) -> kube::Client {
        self.server.client("admin", &["system:masters"])
    }

    /// The administrator, over TLS.
    pub async fn remote(&self) -> kube::Client {
        podium_client::from_kubeconfig(&self.kubeconfig).await.expect("a client")
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.server.wait().await;
    }
}

/// One answer to a raw request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A raw request through the in-process service, with any method, headers and body.
pub async fn raw(server: &ApiServer, user: &str, groups: &[&str], request: http::Request<Vec<u8>>) -> Answer {
    use http_body_util::{BodyExt, Full};
    use tower::ServiceExt;
    let service = server.service(podium_apiserver::User::new(user, groups));
    let request = request.map(|body| Full::new(bytes::Bytes::from(body)));
    let reply = match service.oneshot(request).await {
        Ok(reply) => reply,
        Err(never) => match never {},
    };
    let (head, body) = reply.into_parts();
    let body = body.collect().await.expect("the body ends").to_bytes().to_vec();
    Answer { status: head.status.as_u16(), headers: head.headers, body }
}

/// The administrator's raw request.
pub async fn call(server: &Server, method: &str, uri: &str, body: serde_json::Value) -> Answer {
    let content_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    call_as(
        server,
        method,
        uri,
        content_type,
        if body.is_null() { Vec::new() } else { body.to_string().into_bytes() },
    )
    .await
}

/// The same with any media type.
pub async fn call_as(server: &Server, method: &str, uri: &str, content_type: &str, body: Vec<u8>) -> Answer {
    let request = http::Request::builder()
        .method(method)
        .uri(uri)
        .header("content-type", content_type)
        .body(body)
        .expect("a request");
    raw(&server.server, "admin", &["system:masters"], request).await
}

/// The administrator's read with an Accept header.
pub async fn get_as(server: &Server, uri: &str, accept: &str) -> Answer {
    let request =
        http::Request::builder().uri(uri).header("accept", accept).body(Vec::new()).expect("a request");
    raw(&server.server, "admin", &["system:masters"], request).await
}

/// Keeps the type in use where a test does not need it.
pub type Shared<T> = Arc<T>;
