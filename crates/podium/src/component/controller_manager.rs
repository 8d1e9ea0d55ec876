//! `podium controller-manager`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use podium_client::{
    Client, ClientSource, LeaderElection, LeadershipError, SharedInformers, Shutdown, SingleClient,
};
use podium_pki::Secret;
use podium_pki::token::Keys;

use self::concurrency::Concurrency;
use self::nodes::Nodes;
use self::signing::Signing;
use self::tuning::Tuning;
use super::accounts::Accounts;
use super::flags::{Election, WithoutEffect, duration};
use super::health::Health;
use super::healthz::Shown;
use super::{Common, healthz, zpages};
use crate::connection::Connection;
use crate::daemon::Program;
use crate::parts::Parts;

mod concurrency;
#[cfg(test)]
mod every_flag;
mod nodes;
mod signing;
mod tuning;

/// The name of its Lease and of its serving certificate.
const COMPONENT: &str = "kube-controller-manager";

/// Where its health checks are.
const CHECKED: &[&str] = &["healthz"];

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
    #[command(flatten)]
    election: Election,
    #[command(flatten)]
    concurrency: Concurrency,
    #[command(flatten)]
    without_effect: WithoutEffect,
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
    #[command(flatten)]
    signing: Signing,
    /// Key that signs the tokens of Secrets made for service accounts; without it these stay empty
    #[arg(long, value_name = "FILE")]
    service_account_private_key_file: Option<PathBuf>,
    /// Each controller under its own service account instead of the kubeconfig's user
    #[arg(long, value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true")]
    use_service_account_credentials: bool,
    #[command(flatten)]
    nodes: Nodes,
    #[command(flatten)]
    tuning: Tuning,
    /// Addresses of Services: no Node gets a part of them
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    service_cluster_ip_range: Vec<String>,
    /// How many ended pods are kept; 0 or less for all
    #[arg(long, value_name = "N", default_value_t = 12_500, allow_negative_numbers = true)]
    terminated_pod_gc_threshold: i64,
    /// How long the last work of controllers is waited for at the end
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    controller_shutdown_timeout: Duration,
    /// Delete what has lost its owners, as --controllers=-garbage-collector-controller would not
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1,
          default_missing_value = "true")]
    enable_garbage_collector: bool,
}

pub(crate) fn run(flags: &Flags) -> Result<ExitCode> {
    ensure!(
        flags.allocate_node_cidrs || flags.cluster_cidr.is_empty(),
        "--cluster-cidr says where pods' addresses come from, and --allocate-node-cidrs=true that Nodes get them: give both"
    );
    flags.election.check()?;
    super::run(&flags.common.log, &mut Manager(flags))
}

struct Manager<'a>(&'a Flags);

impl Program for Manager<'_> {
    type Running = ();

    async fn start(&mut self, parts: &mut Parts) -> Result<()> {
        let flags = self.0;
        let end = parts.shutdown();
        flags.without_effect.tell();
        let settings = settings(flags)?;
        let connection = flags.common.connect().await?;
        let client = connection.renewed_client(parts)?;
        let health = Arc::new(Health::default());
        let shown = Shown {
            component: COMPONENT,
            health: health.clone(),
            metrics: podium_controllers::collect_metrics,
            pages: Arc::new(zpages::pages::<Flags>(COMPONENT)),
        };
        let serve = healthz::serve(shown, &flags.serving, flags.secure_port, client.clone(), parts).await?;
        parts.spawn("health and metrics", serve);
        let settings = match settings.root_ca_pem.is_empty() {
            true => podium_controllers::Settings { root_ca_pem: connection.authority_pem(), ..settings },
            false => settings,
        };
        let clients = clients(flags, &connection, &client, parts).await?;
        let mut controllers = flags.controllers.clone();
        let on = [
            (flags.enable_garbage_collector, "-garbage-collector-controller"),
            (flags.allocate_node_cidrs, "-node-ipam-controller"),
        ];
        controllers.extend(on.into_iter().filter(|(on, _)| !on).map(|(_, off)| off.to_owned()));
        let workers = flags.concurrency.0.clone();
        let election = flags.election.candidate(client.clone(), COMPONENT)?;
        if let Some(election) = &election {
            let watchdog = election.watchdog.clone();
            health.add(CHECKED, "leaderElection", move || watchdog.fault());
        }
        // An unknown name is told before anything starts, and not only once this process leads.
        let chosen = podium_controllers::chosen(&controllers)?;
        let work = move |stop: Shutdown| {
            // As upstream's: that it is there is the check. One that ends unasked ends the process.
            chosen.into_iter().for_each(|controller| health.add(CHECKED, controller, || None));
            let informers = SharedInformers::named(COMPONENT, client, stop.clone());
            let mut config = podium_controllers::Config::new(clients, informers, settings);
            config.controllers = controllers;
            config.workers = workers;
            podium_controllers::run(config, stop)
        };
        let limit = flags.controller_shutdown_timeout;
        match election {
            Some(election) => {
                let leading = lead_and_work(election, end.clone(), work);
                parts.spawn("controllers", ended_in_time(leading, end, limit));
            }
            None => {
                let working = work(end.clone());
                parts.spawn("controllers", ended_in_time(working, end, limit));
            }
        }
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

/// What comes of the work, unless it goes on for longer than `limit` after its end was asked for: it is broken off then.
async fn ended_in_time<E>(
    work: impl Future<Output = Result<(), E>>,
    end: Shutdown,
    limit: Duration,
) -> Result<(), E> {
    let too_late = async {
        end.cancelled().await;
        tokio::time::sleep(limit).await;
    };
    tokio::select! {
        biased;
        outcome = work => outcome,
        () = too_late => {
            tracing::warn!(limit = ?limit, "controllers did not end in time");
            Ok(())
        }
    }
}

fn settings(flags: &Flags) -> Result<podium_controllers::Settings> {
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
    let token_keys = match &flags.service_account_private_key_file {
        Some(path) => {
            let keys =
                Keys::new(&Secret::new(read(path)?), &[]).context("--service-account-private-key-file")?;
            Some(Arc::new(keys))
        }
        None => None,
    };
    let mut settings = podium_controllers::Settings {
        root_ca_pem: flags.root_ca_file.as_ref().map(read).transpose()?.unwrap_or_default(),
        cluster_cidrs: flags.cluster_cidr.clone(),
        node_cidr_mask_v4: flags.node_cidr_mask_size_ipv4,
        node_cidr_mask_v6: flags.node_cidr_mask_size_ipv6,
        service_cidrs: flags.service_cluster_ip_range.clone(),
        node_monitor_grace: flags.nodes.node_monitor_grace_period,
        node_startup_grace: flags.nodes.node_startup_grace_period,
        node_eviction: flags.nodes.eviction()?,
        terminated_pods_kept: usize::try_from(flags.terminated_pod_gc_threshold).unwrap_or(0),
        host: crate::settings::host_name()?,
        token_keys,
        signers: flags.signing.signers()?,
        ..podium_controllers::Settings::default()
    };
    flags.tuning.apply(&mut settings)?;
    Ok(settings)
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
    let names = podium_controllers::accounts(&flags.controllers)?;
    let accounts = Accounts::new(connection, client.clone(), names).await?;
    parts.spawn("tokens of controllers", accounts.keep(parts.shutdown()));
    Ok(Arc::new(accounts))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Program {
        #[command(flatten)]
        flags: Flags,
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_work_is_waited_for_but_not_for_ever() {
        let limit = Duration::from_secs(10);
        let ends_after = async |seconds: u64| {
            let end = Shutdown::new();
            let work = async {
                end.cancelled().await;
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Err("finished")
            };
            let started = tokio::time::Instant::now();
            let stop = async {
                tokio::time::sleep(Duration::from_secs(60)).await;
                end.cancel();
            };
            let (outcome, ()) = tokio::join!(ended_in_time(work, end.clone(), limit), stop);
            (outcome, started.elapsed().as_secs())
        };
        assert_eq!(ends_after(9).await, (Err("finished"), 69));
        assert_eq!(ends_after(3600).await, (Ok(()), 70));
    }

    /// What kubeadm v1.36 writes, and what people often add.
    #[test]
    fn a_kubeadm_cluster_can_be_taken_over() {
        let program = Program::try_parse_from([
            "podium",
            "--allocate-node-cidrs=true",
            "--authentication-kubeconfig=/etc/kubernetes/controller-manager.conf",
            "--authorization-kubeconfig=/etc/kubernetes/controller-manager.conf",
            "--bind-address=127.0.0.1",
            "--client-ca-file=/etc/kubernetes/pki/ca.crt",
            "--cluster-cidr=10.244.0.0/16",
            "--cluster-name=kubernetes",
            "--cluster-signing-cert-file=/etc/kubernetes/pki/ca.crt",
            "--cluster-signing-key-file=/etc/kubernetes/pki/ca.key",
            "--controllers=*,bootstrapsigner,tokencleaner",
            "--kubeconfig=/etc/kubernetes/controller-manager.conf",
            "--leader-elect=true",
            "--requestheader-client-ca-file=/etc/kubernetes/pki/front-proxy-ca.crt",
            "--feature-gates=NodeSwap=true",
            "--horizontal-pod-autoscaler-sync-period=30s",
            "--kube-api-burst=100",
            "--kube-api-qps=50",
            "--node-monitor-grace-period=40s",
            "--concurrent-deployment-syncs=10",
            "--root-ca-file=/etc/kubernetes/pki/ca.crt",
            "--service-account-private-key-file=/etc/kubernetes/pki/sa.key",
            "--service-cluster-ip-range=10.96.0.0/12",
            "--use-service-account-credentials=true",
        ]);
        let flags = program.unwrap().flags;
        flags.election.check().unwrap();
        assert_eq!(flags.nodes.eviction().unwrap(), podium_controllers::NodeEviction::default());
        assert_eq!(flags.concurrency.0["deployment-controller"], 10);
        assert_eq!(flags.service_cluster_ip_range, ["10.96.0.0/12"]);
    }
}
