//! `podium controller-manager`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use podium_client::{
    Client, ClientSource, LeaderElection, LeadershipError, LeadershipTimings, SharedInformers, Shutdown,
    SingleClient,
};
use podium_pki::token::Keys;
use podium_pki::{Authority, KeyPair, Secret};

use super::accounts::Accounts;
use super::{Common, healthz};
use crate::connection::Connection;
use crate::daemon::Program;
use crate::parts::Parts;

/// Flags by upstream's names.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    serving: healthz::Serving,
    /// Port of /healthz and /metrics
    #[arg(long, value_name = "N", default_value_t = 10_257)]
    secure_port: u16,
    /// Act only while holding the Lease kube-system/kube-controller-manager
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true")]
    leader_elect: bool,
    /// Controllers to run: * for all that are on by default, NAME for one more, -NAME for one less
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    controllers: Vec<String>,
    /// Give each Node a part of --cluster-cidr
    #[arg(long, value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true")]
    allocate_node_cidrs: bool,
    /// Addresses of pods
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    cluster_cidr: Vec<String>,
    /// Prefix length of a Node's part for IPv4
    #[arg(long, value_name = "BITS", default_value_t = 24, alias = "node-cidr-mask-size")]
    node_cidr_mask_size_ipv4: u8,
    /// Prefix length of a Node's part for IPv6
    #[arg(long, value_name = "BITS", default_value_t = 64)]
    node_cidr_mask_size_ipv6: u8,
    /// Authority by which pods know the API server [default: the kubeconfig's]
    #[arg(long, value_name = "FILE")]
    root_ca_file: Option<PathBuf>,
    /// Authority that signs certificate signing requests; without it they are not signed
    #[arg(long, value_name = "FILE", requires = "cluster_signing_key_file")]
    cluster_signing_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "cluster_signing_cert_file")]
    cluster_signing_key_file: Option<PathBuf>,
    /// Key that signs the tokens of Secrets made for service accounts; without it these stay empty
    #[arg(long, value_name = "FILE")]
    service_account_private_key_file: Option<PathBuf>,
    /// Each controller under its own service account instead of the kubeconfig's user
    #[arg(long, value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true")]
    use_service_account_credentials: bool,
    /// Seconds after which a silent Node counts as lost
    #[arg(long, value_name = "DURATION", default_value = "50s", value_parser = duration)]
    node_monitor_grace_period: Duration,
    /// How many ended pods are kept
    #[arg(long, value_name = "N", default_value_t = 12_500)]
    terminated_pod_gc_threshold: usize,
}

/// A duration in Go's form, in whole units such as `1m30s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 40s, 5m or 1h30m");
    let span: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(span).map_err(|_| wrong())
}

pub(crate) fn run(flags: &Flags) -> Result<ExitCode> {
    ensure!(
        flags.allocate_node_cidrs || flags.cluster_cidr.is_empty(),
        "--cluster-cidr says where pods' addresses come from, and --allocate-node-cidrs=true that Nodes get them: give both"
    );
    super::run(&flags.common.log, &mut Manager(flags))
}

struct Manager<'a>(&'a Flags);

impl Program for Manager<'_> {
    type Running = ();

    async fn start(&mut self, parts: &mut Parts) -> Result<()> {
        let flags = self.0;
        let end = parts.shutdown();
        let settings = settings(flags)?;
        let connection = flags.common.connect().await?;
        let client = connection.client()?;
        let serve = healthz::serve(
            "kube-controller-manager",
            &flags.serving,
            flags.secure_port,
            client.clone(),
            end.clone(),
        )
        .await?;
        parts.spawn("health and metrics", serve);
        let settings = match settings.root_ca_pem.is_empty() {
            true => podium_controllers::Settings { root_ca_pem: connection.authority_pem(), ..settings },
            false => settings,
        };
        let clients = clients(flags, &connection, &client, parts).await?;
        let controllers = flags.controllers.clone();
        let lead = client.clone();
        let work = move |stop: Shutdown| {
            let informers = SharedInformers::new(client, stop.clone());
            let mut config = podium_controllers::Config::new(clients, informers, settings);
            config.controllers = controllers;
            podium_controllers::run(config, stop)
        };
        if !flags.leader_elect {
            parts.spawn("controllers", work(end));
            return Ok(());
        }
        let election = LeaderElection {
            client: lead,
            namespace: "kube-system".to_owned(),
            name: "kube-controller-manager".to_owned(),
            identity: super::leader_identity()?,
            timings: LeadershipTimings::default(),
            release_on_shutdown: true,
        };
        parts.spawn("controllers", lead_and_work(election, end, work));
        Ok(())
    }

    async fn close(&mut self, _running: Option<()>) {}
}

/// Why the controllers ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Leadership(#[from] LeadershipError),
    #[error(transparent)]
    Controllers(#[from] podium_controllers::Error),
}

async fn lead_and_work<F>(
    election: LeaderElection,
    end: Shutdown,
    work: impl FnOnce(Shutdown) -> F,
) -> Result<(), Ended>
where
    F: Future<Output = Result<(), podium_controllers::Error>>,
{
    let mut outcome = Ok(());
    election.run(end, |stop| async { outcome = work(stop).await }).await?;
    Ok(outcome?)
}

fn settings(flags: &Flags) -> Result<podium_controllers::Settings> {
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
    let signer = match (&flags.cluster_signing_cert_file, &flags.cluster_signing_key_file) {
        (Some(certificate), Some(key)) => {
            let pair = KeyPair { certificate: read(certificate)?, key: Secret::new(read(key)?) };
            Some(Arc::new(Authority::load(pair).context("--cluster-signing-cert-file")?))
        }
        _ => None,
    };
    let token_keys = match &flags.service_account_private_key_file {
        Some(path) => {
            let keys =
                Keys::new(&Secret::new(read(path)?), &[]).context("--service-account-private-key-file")?;
            Some(Arc::new(keys))
        }
        None => None,
    };
    Ok(podium_controllers::Settings {
        root_ca_pem: flags.root_ca_file.as_ref().map(read).transpose()?.unwrap_or_default(),
        cluster_cidrs: flags.cluster_cidr.clone(),
        node_cidr_mask_v4: flags.node_cidr_mask_size_ipv4,
        node_cidr_mask_v6: flags.node_cidr_mask_size_ipv6,
        node_monitor_grace: flags.node_monitor_grace_period,
        terminated_pods_kept: flags.terminated_pod_gc_threshold,
        host: crate::settings::host_name()?,
        token_keys,
        signer,
    })
}

async fn clients(
    flags: &Flags,
    connection: &Connection,
    client: &Client,
    parts: &mut Parts,
) -> Result<Arc<dyn ClientSource>> {
    if !flags.use_service_account_credentials {
        return Ok(Arc::new(SingleClient(client.clone())));
    }
    let accounts = Accounts::new(connection, podium_controllers::accounts()).await?;
    parts.spawn("tokens of controllers", accounts.keep(parts.shutdown()));
    Ok(Arc::new(accounts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(duration("40s"), Ok(Duration::from_secs(40)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert!(duration("-1s").is_err() && duration("x").is_err());
    }
}
