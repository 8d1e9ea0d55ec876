//! Podium's scheduler: finds a node for every pod that has none.
//!
//! A client of the API like any other: it runs in the process of the API server or anywhere a
//! kubeconfig reaches, beside upstream's parts or ours. Decisions are pure ([`decide`] over a
//! [`Snapshot`]); [`Engine`] adds the queue and the assumptions about bindings under way and is still
//! free of I/O; `shell` feeds it from the shared informers and writes what it decides.
//!
//! Behaviour, weights, messages, reasons and numbers are those of upstream's default profile (v1.36).
//! Written differences: a pod refused because there are no nodes is tried as soon as one appears
//! rather than after a back-off; nodes are visited in the order they came rather than alternating
//! between zones; preemption does not look at disruption budgets yet; of volumes, `volumes` says what is
//! not looked at.

mod affinity;
mod decide;
mod engine;
mod filter;
mod hints;
mod interpod;
mod message;
pub mod metrics;
mod owners;
mod pod;
mod ports;
mod preempt;
mod queue;
mod resources;
mod score;
mod shell;
mod snapshot;
mod spread;
mod surroundings;
mod taints;
#[cfg(test)]
mod tests;
mod volume_binding;
mod volumes;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::core::v1::{Node, Pod};
use podium_client::{
    Client, ClientSource, EventRecorder, LeaderElection, LeadershipError, Running, SharedInformers, Shutdown,
};

use tokio::sync::watch;

pub use affinity::{Labels, NodeAffinity, NodeTerm, PodAffinity, PodTerm};
pub use decide::{Cursor, Decision, Wait, decide, enough};
pub use engine::{Action, Engine, Event, Scheduled};
pub use filter::{Plugin, Plugins, Rejection};
pub use hints::{Change, helps};
pub use pod::{Owner, PodInfo, Refusal};
pub use ports::HostPort;
pub use preempt::Preemption;
pub use queue::{Entry, Moment, Queue, Waiting};
pub use resources::{Requests, Resources, requests_of};
pub use snapshot::{NodeFacts, NodeInfo, Snapshot};
pub use spread::SpreadConstraint;
pub use surroundings::{Nothing, Point, Surroundings, Volumes};
pub use taints::{Effect, Taint, Toleration};
pub use volumes::{Candidate, Choice, OpenClaim, Topology, VolumeNeeds};

/// What the scheduler needs to run.
#[derive(Clone)]
pub struct Config {
    /// Asked for the client of `kube-scheduler`.
    pub clients: Arc<dyn ClientSource>,
    /// Where pods, nodes and the rest are read from.
    pub informers: SharedInformers,
    /// Pods that ask for this scheduler are scheduled. `default-scheduler` by default.
    pub scheduler_name: String,
    /// How much of a large cluster is looked at for each pod; zero for upstream's adaptive share.
    pub percentage_of_nodes_to_score: usize,
    /// Decides among equally good nodes; random when `None`.
    pub seed: Option<u64>,
    /// Schedules only while it holds the Lease of this candidate. Not needed where there can be only one.
    pub election: Option<LeaderElection>,
    /// Is set as soon as all is known that decisions rest on.
    pub handlers_synced: Arc<AtomicBool>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("scheduler_name", &self.scheduler_name)
            .field("election", &self.election)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// The default scheduler, alone.
    pub fn new(clients: Arc<dyn ClientSource>, informers: SharedInformers) -> Self {
        Self {
            clients,
            informers,
            scheduler_name: "default-scheduler".to_owned(),
            percentage_of_nodes_to_score: 0,
            seed: None,
            election: None,
            handlers_synced: Arc::default(),
        }
    }
}

/// Why the scheduler stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another instance leads now.
    #[error("scheduler stopped")]
    Leadership(#[from] LeadershipError),
}

/// Schedules until shutdown. Writes in flight are finished, events flushed.
///
/// # Errors
/// [`Error::Leadership`] when it leads by election and lost; the process should start over.
pub fn run(config: Config, shutdown: Shutdown) -> Running<Error> {
    Box::pin(run_until(config, shutdown))
}

async fn run_until(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    // Ends with the caller's, but also when the scheduler ends by itself.
    let shutdown = shutdown.child_token();
    let client = config.clients.client("kube-scheduler");
    let (recorder, sink) = EventRecorder::new(client.clone(), &config.scheduler_name, "");
    let scheduling = async {
        let result = schedule(config, client, recorder, &shutdown).await;
        shutdown.cancel();
        result
    };
    let (result, ()) = tokio::join!(scheduling, sink.run(shutdown.clone()));
    result
}

async fn schedule(
    config: Config,
    client: Client,
    recorder: EventRecorder,
    shutdown: &Shutdown,
) -> Result<(), Error> {
    let (cluster, events) = shell::follow(&config.informers, &config.scheduler_name);
    let synced = async {
        config.informers.of::<Node>().synced().await;
        config.informers.of::<Pod>().synced().await;
        cluster.synced().await;
    };
    if shutdown.run_until_cancelled(synced).await.is_none() {
        return Ok(());
    }
    config.handlers_synced.store(true, Ordering::Release);
    let seed = config.seed.unwrap_or_else(|| fastrand::u64(..));
    let shell = shell::Shell {
        client: client.clone(),
        recorder,
        scheduler_name: config.scheduler_name.clone(),
        engine: Engine::new(&config.scheduler_name, config.percentage_of_nodes_to_score, seed),
        cluster,
        events,
    };
    let (lead, leading) = watch::channel(config.election.is_none());
    let Some(election) = config.election else {
        shell.run(shutdown, leading).await;
        return Ok(());
    };
    // A candidate that does not lead follows the cluster all the same, to be ready at once.
    let candidate = async {
        let result = election
            .run(shutdown.clone(), |token| async move {
                lead.send_replace(true);
                token.cancelled().await;
                lead.send_replace(false);
            })
            .await;
        shutdown.cancel();
        result
    };
    let (result, ()) = tokio::join!(candidate, shell.run(shutdown, leading));
    Ok(result?)
}
