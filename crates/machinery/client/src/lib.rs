//! What every component of Podium talks to the API with: clients in process and remote, shared
//! informers, work queues, event recording and leader election.
//!
//! Components depend on this crate and never on the server: the same code runs against the server's
//! own router in one process and over HTTPS on another machine.
//!
//! - [`ClientSource`] hands each part a client with that part's identity.
//! - [`SharedInformers`] keeps one list and watch per kind and process; [`Informer`] reads it.
//! - [`WorkQueue`] and [`run_workers`] turn changes into reconciles, one in flight per key.
//! - [`EventRecorder`] writes core/v1 Events, correlated as upstream's recorder does.
//! - [`LeaderElection`] holds a Lease and says when it is lost.
//! - [`metrics`] counts all that under upstream's names.

mod clients;
mod errors;
mod events;
mod informer;
mod key;
mod leader;
pub mod metrics;
mod process;
mod queue;
mod rate;
mod remote;
pub mod testing;
mod workers;

pub use clients::{
    ClientError, ClientSource, Exchange, SingleClient, exchangeable, from_kubeconfig, in_process,
};
pub use errors::{
    error_chain, is_already_exists, is_conflict, is_expired, is_forbidden, is_invalid, is_not_found,
    is_retriable, status_of,
};
pub use events::{EventRecorder, EventSink, EventType, reference_of};
pub use informer::{Change, Feed, Follower, Informer, MetadataChange, ResourcePath, Scope, SharedInformers};
pub use key::{Object, ObjectKey};
pub use kube::{self, Api, Client};
pub use leader::{LeaderElection, LeadershipError, LeadershipTimings, Watchdog};
pub use process::process_metrics;
pub use queue::WorkQueue;
pub use rate::TokenBucket;
pub use remote::{RemoteService, remote};
pub use tokio_util::sync::CancellationToken as Shutdown;
pub use workers::{CacheBehind, run_workers};

/// A component at work, until it is told to stop or fails.
///
/// Boxed where it is made: the code of an `async fn` is generated in the crate that polls it, so without the box the binary would
/// compile every component again, and every test of one, too.
pub type Running<E> = std::pin::Pin<Box<dyn Future<Output = Result<(), E>> + Send>>;
