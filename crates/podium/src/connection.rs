//! The API server by a kubeconfig, for the parts that run without one of their own.

mod renewal;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::steps::say;
use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::PostParams;
use kube::config::{AuthInfo, Kubeconfig};
use podium_client::metrics::CountRequests;
use podium_client::{Api, Client, error_chain, status_of};
use podium_pki::KeyPair;
use rustls::RootCertStore;

/// How often a server that does not answer yet is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A server, and a way to be known to it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    config: kube::Config,
}

impl Connection {
    /// Reads the kubeconfig; `server` takes the place of the URL in it.
    pub(crate) async fn open(path: &Path, server: Option<&str>) -> Result<Self> {
        let read = || -> Result<Kubeconfig> {
            let mut kubeconfig = Kubeconfig::read_from(path)?;
            if let Some(server) = server {
                for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
                    cluster.server = Some(server.to_owned());
                }
            }
            Ok(kubeconfig)
        };
        let kubeconfig = read().with_context(|| format!("kubeconfig {}", path.display()))?;
        let mut config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
                .await
                .with_context(|| format!("kubeconfig {}", path.display()))?;
        // A watch is quiet for minutes at a time; the informers bound its length themselves.
        config.read_timeout = None;
        Ok(Connection { config })
    }

    /// Where the server is.
    pub(crate) fn server(&self) -> String {
        self.config.cluster_url.to_string().trim_end_matches('/').to_owned()
    }

    /// A client by the kubeconfig's own credentials.
    pub(crate) fn client(&self) -> Result<Client> {
        counted(self.config.clone()).context("client from the kubeconfig")
    }

    /// A client of the same server by this certificate.
    pub(crate) fn client_by(&self, pair: &KeyPair) -> Result<Client> {
        let mut config = self.config.clone();
        config.auth_info = AuthInfo {
            client_certificate_data: Some(STANDARD.encode(&pair.certificate)),
            client_key_data: Some(STANDARD.encode(pair.key.expose()).into()),
            ..AuthInfo::default()
        };
        counted(config).context("client by certificate")
    }

    /// A client of the same server by the token in this file, which is read anew every minute.
    pub(crate) fn client_by_token(&self, file: &Path) -> Result<Client> {
        let mut config = self.config.clone();
        config.auth_info = AuthInfo { token_file: Some(file.display().to_string()), ..AuthInfo::default() };
        counted(config).context("client by token")
    }

    /// The authorities by which the server is known, in PEM; empty when the kubeconfig has none.
    pub(crate) fn authority_pem(&self) -> String {
        let all = self.config.root_cert.iter().flatten();
        all.map(|certificate| podium_pki::certificate::to_pem("CERTIFICATE", certificate)).collect()
    }

    /// The authorities by which the server is known; in a cluster of ours or kubeadm's they sign clients too.
    pub(crate) fn authorities(&self) -> Result<Arc<RootCertStore>> {
        let mut store = RootCertStore::empty();
        for certificate in self.config.root_cert.iter().flatten() {
            store.add(certificate.clone().into()).context("certificate-authority of the kubeconfig")?;
        }
        if store.is_empty() {
            bail!("the kubeconfig has no certificate-authority: give --client-ca-file");
        }
        Ok(Arc::new(store))
    }
}

/// A client whose requests are counted.
fn counted(config: kube::Config) -> Result<Client> {
    let host = config.cluster_url.authority().map_or_else(String::new, ToString::to_string);
    Ok(podium_client::remote(config)?.with_layer(&CountRequests::of(&host)).build())
}

/// Who the server says that the client is. Waits for a server that is not there yet, but not for one that refuses.
pub(crate) async fn who_am_i(client: &Client, server: &str) -> Result<String> {
    let api = Api::<SelfSubjectReview>::all(client.clone());
    let mut told = false;
    loop {
        match api.create(&PostParams::default(), &SelfSubjectReview::default()).await {
            Ok(review) => {
                let user = review.status.and_then(|status| status.user_info).and_then(|user| user.username);
                return user.context("the server does not say who we are");
            }
            Err(error) if status_of(&error).is_some_and(|status| status.code < 500 && status.code != 429) => {
                return Err(error).with_context(|| format!("{server} refuses the kubeconfig's credentials"));
            }
            Err(error) => {
                if !told {
                    let error = error_chain(&error);
                    say(&format!("waiting for the API server at {server}: {error}"));
                    tracing::warn!(server, error, "waiting for the API server");
                    told = true;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
