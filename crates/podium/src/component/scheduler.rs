//! `podium scheduler`.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use clap::Args;
use podium_client::{SharedInformers, SingleClient};

use super::flags::{Election, WithoutEffect};
use super::health::Health;
use super::healthz::Shown;
use super::{Common, healthz, zpages};
use crate::daemon::Program;
use crate::parts::Parts;

/// The name of its Lease, of its metrics and of its serving certificate.
const COMPONENT: &str = "kube-scheduler";

/// Where it says that it can work.
const READY: &[&str] = &["readyz"];

/// Flags by upstream's names.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    serving: healthz::Serving,
    /// Port of /healthz and /metrics
    #[arg(long, value_name = "N", default_value_t = 10_259)]
    secure_port: u16,
    #[command(flatten)]
    election: Election,
    #[command(flatten)]
    without_effect: WithoutEffect,
}

pub(crate) fn run(flags: &Flags) -> Result<ExitCode> {
    flags.election.check()?;
    super::run(&flags.common.log, &mut Scheduler(flags))
}

struct Scheduler<'a>(&'a Flags);

impl Program for Scheduler<'_> {
    type Running = ();

    async fn start(&mut self, parts: &mut Parts) -> Result<()> {
        let flags = self.0;
        let end = parts.shutdown();
        flags.without_effect.tell();
        let client = flags.common.connect().await?.renewed_client(parts)?;
        let health = Arc::new(Health::default());
        let shown = Shown {
            component: COMPONENT,
            health: health.clone(),
            metrics: podium_scheduler::metrics::collect,
            pages: Arc::new(zpages::pages::<Flags>(COMPONENT)),
        };
        let serve = healthz::serve(shown, &flags.serving, flags.secure_port, client.clone(), parts).await?;
        parts.spawn("health and metrics", serve);
        // Upstream's scheduler gives its informers no name, so that only its `informer_*` metrics have no rows.
        let informers = SharedInformers::named(COMPONENT, client.clone(), end.clone());
        let election = flags.election.candidate(client.clone(), COMPONENT)?;
        let mut config = podium_scheduler::Config::new(Arc::new(SingleClient(client)), informers);
        if let Some(election) = &election {
            let watchdog = election.watchdog.clone();
            health.add(&["healthz", "readyz"], "leaderElection", move || watchdog.fault());
        }
        let ending = end.clone();
        health.add(READY, "shutdown", move || {
            ending.is_cancelled().then(|| "process is shutting down".to_owned())
        });
        let synced = config.handlers_synced.clone();
        health.add(READY, "sched-handler-sync", move || {
            (!synced.load(Ordering::Acquire)).then(|| "handlers are not fully synchronized".to_owned())
        });
        config.election = election;
        parts.spawn("scheduler", podium_scheduler::run(config, end));
        Ok(())
    }

    async fn close(&mut self, _running: Option<()>) {}
}
