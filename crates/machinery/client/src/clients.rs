//! Where clients come from: the server's own router in one process, a kubeconfig elsewhere.

use std::path::{Path, PathBuf};

use kube::Client;
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

/// A client from a kubeconfig file, with its current context: TLS with the given authority, client
/// certificate or token; `insecure-skip-tls-verify` is honoured as kubectl does.
pub async fn from_kubeconfig(path: impl AsRef<Path>) -> Result<Client, ClientError> {
    let path = path.as_ref();
    let kubeconfig = kube::config::Kubeconfig::read_from(path)
        .map_err(|source| ClientError::Kubeconfig { path: path.into(), source })?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
        .await
        .map_err(|source| ClientError::Kubeconfig { path: path.into(), source })?;
    // A watch is quiet for minutes at a time; the informers bound its length themselves.
    config.read_timeout = None;
    Client::try_from(config).map_err(|source| ClientError::Client { path: path.into(), source })
}
