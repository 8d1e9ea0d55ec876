//! Where clients come from: the server's own router in one process, a kubeconfig elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use kube::Client;
use parking_lot::Mutex;
use tower::{BoxError, Service};

/// Hands out clients by the identity of the part that asks.
///
/// In one process each controller acts under its own service account, so that audit and RBAC see who
/// did what; a remote component has one kubeconfig and uses it for everything ([`SingleClient`]).
pub trait ClientSource: Send + Sync {
    /// A client that acts as `component`, for example `deployment-controller` or `kube-scheduler`.
    fn client(&self, component: &str) -> Client;
}

/// The same client whoever asks.
#[derive(Clone)]
pub struct SingleClient(pub Client);

impl std::fmt::Debug for SingleClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SingleClient")
    }
}

impl ClientSource for SingleClient {
    fn client(&self, _component: &str) -> Client {
        self.0.clone()
    }
}

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file is missing, or is not a kubeconfig, or names something that is missing.
    #[error("kubeconfig {path}")]
    Kubeconfig {
        /// The file asked for.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: kube::config::KubeconfigError,
    },
    /// The certificates or keys in it do not make a TLS client.
    #[error("client from kubeconfig {path}")]
    Client {
        /// The file asked for.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: kube::Error,
    },
}

/// A client of a service in this process, usually the API server's router with an identity attached.
///
/// `namespace` is the default namespace of the client.
pub fn in_process<S, B>(service: S, namespace: &str) -> Client
where
    S: Service<http::Request<kube::client::Body>, Response = http::Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    Client::new(service, namespace)
}

/// Replaces what a client stands on while it is used: requests that begin afterwards go by the new one, streams that are open
/// stay with the old one until they end.
#[derive(Clone)]
pub struct Exchange(Arc<Mutex<Client>>);

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exchange")
    }
}

impl Exchange {
    /// From now on requests go by this client.
    pub fn replace(&self, client: Client) {
        *self.0.lock() = client;
    }
}

impl Service<http::Request<kube::client::Body>> for Exchange {
    type Response = http::Response<kube::client::Body>;
    type Error = kube::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<kube::client::Body>) -> Self::Future {
        let client = self.0.lock().clone();
        Box::pin(async move { client.send(request).await })
    }
}

/// A client whose credentials can be renewed under it.
pub fn exchangeable(first: Client) -> (Client, Exchange) {
    let namespace = first.default_namespace().to_owned();
    let exchange = Exchange(Arc::new(Mutex::new(first)));
    (Client::new(exchange.clone(), namespace), exchange)
}

/// A client from a kubeconfig file, with its current context: TLS with the given authority, client
/// certificate or token; `insecure-skip-tls-verify` is honoured as kubectl does. It notices when the server's machine is gone, as
/// [`remote`](crate::remote()) says.
pub async fn from_kubeconfig(path: impl AsRef<Path>) -> Result<Client, ClientError> {
    let path = path.as_ref();
    let kubeconfig = kube::config::Kubeconfig::read_from(path)
        .map_err(|source| ClientError::Kubeconfig { path: path.into(), source })?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .map_err(|source| ClientError::Kubeconfig { path: path.into(), source })?;
    // A watch is quiet for minutes at a time; the informers bound its length themselves.
    config.read_timeout = None;
    let client = crate::remote(config).map_err(|source| ClientError::Client { path: path.into(), source })?;
    Ok(client.build())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct File(PathBuf);

    impl File {
        fn new(name: &str, text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("podium-client-{}-{name}", std::process::id()));
            std::fs::write(&path, text).unwrap();
            Self(path)
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn kubeconfig(server: &str, user: &str) -> String {
        format!(
            r#"{{"apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{{"name": "c", "context": {{"cluster": "k", "user": "u", "namespace": "mine"}}}}],
            "clusters": [{{"name": "k", "cluster": {{"server": "{server}"}}}}],
            "users": [{{"name": "u", "user": {user}}}]}}"#
        )
    }

    #[tokio::test]
    async fn a_client_is_exchanged_while_it_is_used() {
        let named = |name: &'static str| {
            let service = tower::service_fn(move |_: http::Request<kube::client::Body>| async move {
                let body =
                    format!(r#"{{"kind":"Namespace","apiVersion":"v1","metadata":{{"name":"{name}"}}}}"#);
                Ok::<_, std::convert::Infallible>(http::Response::new(kube::client::Body::from(
                    body.into_bytes(),
                )))
            });
            in_process(service, "mine")
        };
        let (client, exchange) = exchangeable(named("first"));
        assert_eq!(client.default_namespace(), "mine");
        let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(client);
        let name = || async { namespaces.get("x").await.unwrap().metadata.name.unwrap() };
        assert_eq!(name().await, "first");
        exchange.replace(named("second"));
        assert_eq!(name().await, "second");
    }

    #[tokio::test]
    async fn a_kubeconfig_leads_to_its_server_with_its_token() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            let body = r#"{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"x"}}"#;
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            String::from_utf8(request).unwrap().to_lowercase()
        });
        let file = File::new("token", &kubeconfig(&server, r#"{"token": "secret-token"}"#));
        let client = from_kubeconfig(&file.0).await.unwrap();
        assert_eq!(client.default_namespace(), "mine");
        let namespaces: kube::Api<k8s_openapi::api::core::v1::Namespace> = kube::Api::all(client);
        let got = tokio::time::timeout(std::time::Duration::from_secs(10), namespaces.get("x"))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(got.metadata.name.as_deref(), Some("x"));
        let request = served.await.unwrap();
        assert!(request.starts_with("get /api/v1/namespaces/x "), "{request}");
        assert!(request.contains("authorization: bearer secret-token"), "{request}");
    }

    #[tokio::test]
    async fn a_kubeconfig_that_cannot_be_used_says_which_and_why() {
        let missing = from_kubeconfig("/nonexistent/kubeconfig").await.err().unwrap();
        assert!(
            crate::error_chain(&missing).starts_with("kubeconfig /nonexistent/kubeconfig: "),
            "{missing:?}"
        );
        let user =
            r#"{"client-certificate-data": "bm90IGEgY2VydGlmaWNhdGU=", "client-key-data": "bm90IGEga2V5"}"#;
        let file = File::new("bad", &kubeconfig("https://127.0.0.1:1", user));
        let bad = from_kubeconfig(&file.0).await.err().unwrap();
        assert!(matches!(bad, ClientError::Client { .. }), "{bad:?}");
    }
}
