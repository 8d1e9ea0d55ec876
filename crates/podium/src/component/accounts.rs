//! Each controller under its own service account, with tokens asked for from the API: `--use-service-account-credentials`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use nix::fcntl::OFlag;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::dup3;
use parking_lot::Mutex;
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
    tokens: Arc<Tokens>,
}

struct Tokens {
    client: Client,
    files: BTreeMap<&'static str, TokenFile>,
}

impl Accounts {
    /// Makes accounts that are missing and a first token for each. `own`: a client of the process's own.
    pub(crate) async fn new(connection: &Connection, own: Client, names: Vec<&'static str>) -> Result<Self> {
        let mut tokens = Tokens { client: own, files: BTreeMap::new() };
        let mut clients = BTreeMap::new();
        for name in names {
            let file = TokenFile::new(&tokens.request(name).await?)?;
            clients.insert(name, connection.client_by_token(&file.path())?);
            tokens.files.insert(name, file);
        }
        Ok(Self { own: tokens.client.clone(), clients, tokens: Arc::new(tokens) })
    }

    /// Replaces tokens until shutdown. Run it beside the controllers.
    pub(crate) fn keep(
        &self,
        shutdown: Shutdown,
    ) -> impl Future<Output = Result<(), Infallible>> + Send + 'static {
        let tokens = self.tokens.clone();
        async move {
            let renewals = async {
                loop {
                    tokio::time::sleep(RENEWAL).await;
                    for name in tokens.files.keys() {
                        while let Err(error) = tokens.renew(name).await {
                            tracing::warn!(account = name, error = %format!("{error:#}"), "token not renewed");
                            tokio::time::sleep(RETRY).await;
                        }
                    }
                }
            };
            shutdown.run_until_cancelled(renewals).await;
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
    async fn renew(&self, name: &str) -> Result<()> {
        let token = self.request(name).await?;
        self.files[name].replace(&token)
    }

    async fn request(&self, name: &str) -> Result<String> {
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
        token.status.and_then(|status| status.token).context("the answer has no token")
    }
}

/// A token where a client reads it by a path, though no file system has it: however the process ends, nothing of it stays.
struct TokenFile(Mutex<OwnedFd>);

impl TokenFile {
    fn new(token: &str) -> Result<Self> {
        Ok(Self(Mutex::new(in_memory(token)?)))
    }

    /// The same for as long as this lives.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.lock().as_raw_fd()))
    }

    /// Whoever reads meanwhile has the old token or the new one.
    fn replace(&self, token: &str) -> Result<()> {
        let new = in_memory(token)?;
        dup3(&new, &mut self.0.lock(), OFlag::O_CLOEXEC).context("replace a token")
    }
}

fn in_memory(token: &str) -> Result<OwnedFd> {
    let descriptor = memfd_create("token", MFdFlags::MFD_CLOEXEC).context("memory for a token")?;
    let mut file = File::from(descriptor);
    file.write_all(token.as_bytes()).context("keep a token")?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_replaced_where_its_reader_looks_for_it() {
        let file = TokenFile::new("a long first token").unwrap();
        let path = file.path();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a long first token");
        file.replace("a second").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a second");
        assert_eq!(file.path(), path);
        drop(file);
        assert!(
            std::fs::read_to_string(&path).map_or(true, |found| found != "a second"),
            "it goes with its owner"
        );
    }
}
