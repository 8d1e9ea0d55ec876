//! Each controller under its own service account, with tokens asked for from the API: `--use-service-account-credentials`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use podium_client::{Api, Client, ClientSource, Shutdown, error_chain, is_already_exists};

use crate::connection::Connection;

const NAMESPACE: &str = "kube-system";
/// Tokens live an hour and are replaced well before; clients read theirs anew every minute.
const LIFE_SECONDS: i64 = 3600;
const RENEWAL: Duration = Duration::from_secs(30 * 60);
/// How long after a failed renewal the next try is made.
const RETRY: Duration = Duration::from_secs(30);

/// Clients by service account, `kube-controller-manager` being the process's own.
pub(crate) struct Accounts {
    own: Client,
    clients: BTreeMap<&'static str, Client>,
    tokens: Tokens,
}

/// Token files in a private directory, which goes with this.
struct Tokens {
    client: Client,
    names: Vec<&'static str>,
    directory: PathBuf,
}

impl Accounts {
    /// Makes accounts that are missing and a first token for each.
    pub(crate) async fn new(connection: &Connection, names: Vec<&'static str>) -> Result<Self> {
        let directory = PathBuf::from(format!("/run/podium-controller-manager-{}", std::process::id()));
        podium_pki::files::private_directory(&directory)?;
        let tokens = Tokens { client: connection.client()?, names, directory };
        let mut clients = BTreeMap::new();
        for name in &tokens.names {
            tokens.renew(name).await?;
            clients.insert(*name, connection.client_by_token(&tokens.file(name))?);
        }
        Ok(Accounts { own: tokens.client.clone(), clients, tokens })
    }

    /// Replaces tokens until shutdown. Run it beside the controllers.
    pub(crate) fn keep(
        &self,
        shutdown: Shutdown,
    ) -> impl Future<Output = Result<(), Infallible>> + Send + 'static {
        let tokens = Tokens {
            client: self.tokens.client.clone(),
            names: self.tokens.names.clone(),
            directory: self.tokens.directory.clone(),
        };
        async move {
            let renewals = async {
                loop {
                    tokio::time::sleep(RENEWAL).await;
                    for name in &tokens.names {
                        while let Err(error) = tokens.renew(name).await {
                            tracing::warn!(account = name, error = %format!("{error:#}"), "token not renewed");
                            tokio::time::sleep(RETRY).await;
                        }
                    }
                }
            };
            shutdown.run_until_cancelled(renewals).await;
            if let Err(error) = std::fs::remove_dir_all(&tokens.directory) {
                tracing::warn!(%error, "tokens not removed");
            }
            Ok(())
        }
    }
}

impl ClientSource for Accounts {
    fn client(&self, component: &str) -> Client {
        self.clients.get(component).unwrap_or(&self.own).clone()
    }
}

impl Tokens {
    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    async fn renew(&self, name: &str) -> Result<()> {
        let api = Api::<ServiceAccount>::namespaced(self.client.clone(), NAMESPACE);
        let mut account = ServiceAccount::default();
        account.metadata.name = Some(name.to_owned());
        match api.create(&PostParams::default(), &account).await {
            Err(error) if !is_already_exists(&error) => {
                return Err(error).with_context(|| format!("make service account {name}"));
            }
            _ => {}
        }
        let spec = TokenRequestSpec { expiration_seconds: Some(LIFE_SECONDS), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let token = api
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .map_err(|error| anyhow::anyhow!("{}", error_chain(&error)))
            .with_context(|| format!("token of service account {name}"))?;
        let token = token.status.and_then(|status| status.token).context("the answer has no token")?;
        write(&self.file(name), &token)
    }
}

fn write(path: &Path, token: &str) -> Result<()> {
    Ok(podium_pki::files::write(path, token.as_bytes())?)
}
