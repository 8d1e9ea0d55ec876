//! Starts the controllers that are wanted, each under its own identity.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use podium_client::{ClientSource, EventRecorder, Running, SharedInformers, Shutdown};
use tokio::task::JoinSet;

use crate::certificates::Signers;
use crate::clock::{Clock, SystemClock};
use crate::context::Context;
use crate::metrics;
use crate::names::{NameSource, RandomNames};
use crate::{
    attachdetach, bootstrapsigner, certificates, clusterroleaggregation, cronjob, daemonset, deployment,
    devicetainteviction, disruption, endpoints, endpointslice, endpointslicemirroring, ephemeralvolume,
    garbagecollector, horizontalpodautoscaler, job, legacytokencleaner, namespace, nodeipam, nodelifecycle,
    podgc, pvcprotection, pvprotection, replicaset, resourceclaim, resourcequota, rootca, serviceaccount,
    serviceaccounttoken, servicecidr, statefulset, storageversiongc, tainteviction, tokencleaner, ttl,
    ttlafterfinished, vacprotection, validatingadmissionpolicystatus, volumebinder, volumeexpander,
};

mod choice;

/// Why the controllers could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name in [`Config::controllers`] is nobody's.
    #[error("{0:?} is not in the list of known controllers")]
    UnknownController(String),
    /// A name in [`Config::controllers`] is that of a controller which upstream has and we have not.
    #[error("{0:?} is not built and cannot be started")]
    NotBuilt(String),
    /// A controller's task ended by a panic outside of any reconcile.
    #[error("controller {name} ended unexpectedly")]
    Ended {
        /// Which one.
        name: &'static str,
    },
}

/// What to run, and with what.
pub struct Config {
    /// Gives each controller a client that acts as its service account in `kube-system`.
    pub clients: Arc<dyn ClientSource>,
    /// The process's caches.
    pub informers: SharedInformers,
    /// Names as in upstream's `--controllers`: `*` for all that are on by default, a name to add one, `-` and a name to leave
    /// one out.
    pub controllers: Vec<String>,
    /// Reconciles at once by controller, where they are to differ from the default.
    pub workers: BTreeMap<String, usize>,
    /// What the controllers need to be told.
    pub settings: Settings,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Names for new objects.
    pub names: Arc<dyn NameSource>,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("controllers", &self.controllers)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// All controllers, the machine's clock, random names.
    #[must_use]
    pub fn new(clients: Arc<dyn ClientSource>, informers: SharedInformers, settings: Settings) -> Self {
        Self {
            clients,
            informers,
            controllers: vec!["*".to_owned()],
            workers: BTreeMap::new(),
            settings,
            clock: Arc::new(SystemClock),
            names: Arc::new(RandomNames),
        }
    }
}

/// What the operator chooses.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The certificates, in PEM, by which pods know the API server. Not secret.
    pub root_ca_pem: String,
    /// Where pods get their addresses from, such as `10.244.0.0/16`; empty to leave nodes without.
    pub cluster_cidrs: Vec<String>,
    /// The prefix length of a node's part of an IPv4 cluster range.
    pub node_cidr_mask_v4: u8,
    /// The prefix length of a node's part of an IPv6 cluster range.
    pub node_cidr_mask_v6: u8,
    /// Where Services get their addresses from: no node gets a part of it. Source: `--service-cluster-ip-range`.
    pub service_cidrs: Vec<String>,
    /// How long a node may be silent before it counts as lost. Source: `--node-monitor-grace-period`.
    pub node_monitor_grace: Duration,
    /// How long a new node may take to say anything. Source: `--node-startup-grace-period`.
    pub node_startup_grace: Duration,
    /// How fast pods are evicted from lost nodes.
    pub node_eviction: nodelifecycle::Rates,
    /// How many ended pods are kept. Source: `--terminated-pod-gc-threshold`.
    pub terminated_pods_kept: usize,
    /// What goes for all autoscalers.
    pub autoscaling: horizontalpodautoscaler::Autoscaling,
    /// The most endpoints of one EndpointSlice. Source: `--max-endpoints-per-slice`.
    pub endpoints_per_slice: usize,
    /// The most addresses of one subset of Endpoints that are mirrored. Source: `--mirroring-max-endpoints-per-subset`.
    pub mirrored_per_subset: usize,
    /// How long a Secret's token is kept that nobody uses. Source: `--legacy-service-account-token-clean-up-period`.
    pub legacy_token_period: Duration,
    /// Signs the tokens of Secrets that users make for service accounts; without it they stay empty.
    pub token_keys: Option<Arc<podium_pki::token::Keys>>,
    /// The name of this host in Events.
    pub host: String,
    /// Sign approved certificate signing requests.
    pub signers: Signers,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            root_ca_pem: String::new(),
            cluster_cidrs: vec!["10.244.0.0/16".to_owned()],
            node_cidr_mask_v4: 24,
            node_cidr_mask_v6: 64,
            service_cidrs: Vec::new(),
            node_monitor_grace: Duration::from_secs(50),
            node_startup_grace: Duration::from_secs(60),
            node_eviction: nodelifecycle::Rates::default(),
            terminated_pods_kept: 12_500,
            autoscaling: horizontalpodautoscaler::Autoscaling::default(),
            endpoints_per_slice: 100,
            mirrored_per_subset: 1000,
            legacy_token_period: Duration::from_secs(365 * 24 * 3600),
            token_keys: None,
            host: String::new(),
            signers: Signers::default(),
        }
    }
}

/// One controller: all names by which it is known.
pub(crate) struct Entry {
    /// As in upstream's `--controllers`.
    pub(crate) name: &'static str,
    /// Its service account in `kube-system`, or [`OWN_IDENTITY`].
    pub(crate) account: &'static str,
    /// The source of its Events.
    pub(crate) component: &'static str,
    /// Reconciles at once, as upstream's `--concurrent-*-syncs`.
    pub(crate) workers: usize,
    /// Its `run`.
    pub(crate) start: fn(Context) -> BoxFuture<'static, ()>,
}

/// Reconciles at once where thousands of objects may be created in a moment. Upstream has 5; here most of a reconcile is spent
/// waiting for a write to be durable, which the store does for many writers at once.
const MANY: usize = 20;

/// All controllers there are.
pub(crate) const ENTRIES: &[Entry] = &[
    Entry {
        name: "namespace-controller",
        account: "namespace-controller",
        component: "namespace-controller",
        workers: 10,
        start: |context| namespace::run(context).boxed(),
    },
    Entry {
        name: "serviceaccount-controller",
        account: "service-account-controller",
        component: "service-account-controller",
        workers: 1,
        start: |context| serviceaccount::run(context).boxed(),
    },
    Entry {
        name: "root-ca-certificate-publisher-controller",
        account: "root-ca-cert-publisher",
        component: "root-ca-cert-publisher",
        workers: 1,
        start: |context| rootca::run(context).boxed(),
    },
    Entry {
        name: "deployment-controller",
        account: "deployment-controller",
        component: "deployment-controller",
        workers: MANY,
        start: |context| deployment::run(context).boxed(),
    },
    Entry {
        name: "replicaset-controller",
        account: "replicaset-controller",
        component: "replicaset-controller",
        workers: MANY,
        start: |context| replicaset::run::<ReplicaSet>(context).boxed(),
    },
    Entry {
        name: "endpointslice-controller",
        account: "endpointslice-controller",
        component: "endpoint-slice-controller",
        workers: 5,
        start: |context| endpointslice::run(context).boxed(),
    },
    Entry {
        name: "endpoints-controller",
        account: "endpoint-controller",
        component: "endpoint-controller",
        workers: 5,
        start: |context| endpoints::run(context).boxed(),
    },
    Entry {
        name: "garbage-collector-controller",
        account: "generic-garbage-collector",
        component: "garbage-collector-controller",
        workers: 20,
        start: |context| garbagecollector::run(context).boxed(),
    },
    Entry {
        name: "node-lifecycle-controller",
        account: "node-controller",
        component: "node-controller",
        workers: 8,
        start: |context| nodelifecycle::run(context).boxed(),
    },
    Entry {
        name: "taint-eviction-controller",
        account: "node-controller",
        component: "taint-eviction-controller",
        workers: 4,
        start: |context| tainteviction::run(context).boxed(),
    },
    Entry {
        name: "pod-garbage-collector-controller",
        account: "pod-garbage-collector",
        component: "pod-garbage-collector",
        workers: 1,
        start: |context| podgc::run(context).boxed(),
    },
    Entry {
        name: "node-ipam-controller",
        account: "node-controller",
        component: "cidrAllocator",
        // One: parts of a range are handed out one after the other.
        workers: 1,
        start: |context| nodeipam::run(context).boxed(),
    },
    Entry {
        name: "daemonset-controller",
        account: "daemon-set-controller",
        component: "daemonset-controller",
        workers: 2,
        start: |context| daemonset::run(context).boxed(),
    },
    Entry {
        name: "statefulset-controller",
        account: "statefulset-controller",
        component: "statefulset-controller",
        workers: 5,
        start: |context| statefulset::run(context).boxed(),
    },
    Entry {
        name: "job-controller",
        account: "job-controller",
        component: "job-controller",
        workers: 5,
        start: |context| job::run(context).boxed(),
    },
    Entry {
        name: "clusterrole-aggregation-controller",
        account: "clusterrole-aggregation-controller",
        component: "clusterrole-aggregation-controller",
        workers: 5,
        start: |context| clusterroleaggregation::run(context).boxed(),
    },
    Entry {
        name: "ttl-after-finished-controller",
        account: "ttl-after-finished-controller",
        component: "ttl-after-finished-controller",
        workers: 5,
        start: |context| ttlafterfinished::run(context).boxed(),
    },
    Entry {
        name: "ttl-controller",
        account: "ttl-controller",
        component: "ttl-controller",
        workers: 5,
        start: |context| ttl::run(context).boxed(),
    },
    Entry {
        name: "persistentvolumeclaim-protection-controller",
        account: "pvc-protection-controller",
        component: "pvc-protection-controller",
        workers: 1,
        start: |context| pvcprotection::run(context).boxed(),
    },
    Entry {
        name: "disruption-controller",
        account: "disruption-controller",
        component: "controllermanager",
        workers: 1,
        start: |context| disruption::run(context).boxed(),
    },
    Entry {
        name: "cronjob-controller",
        account: "cronjob-controller",
        component: "cronjob-controller",
        workers: 5,
        start: |context| cronjob::run(context).boxed(),
    },
    Entry {
        name: "endpointslice-mirroring-controller",
        account: "endpointslicemirroring-controller",
        component: "endpoint-slice-mirroring-controller",
        workers: 5,
        start: |context| endpointslicemirroring::run(context).boxed(),
    },
    Entry {
        name: "resourcequota-controller",
        account: "resourcequota-controller",
        component: "resourcequota-controller",
        workers: 5,
        start: |context| resourcequota::run(context).boxed(),
    },
    Entry {
        name: "certificatesigningrequest-signing-controller",
        account: "certificate-controller",
        component: "csrsigning-controller",
        workers: 5,
        start: |context| certificates::run_signing(context).boxed(),
    },
    Entry {
        name: "certificatesigningrequest-approving-controller",
        account: "certificate-controller",
        component: "csrapproving-controller",
        workers: 5,
        start: |context| certificates::run_approving(context).boxed(),
    },
    Entry {
        name: "certificatesigningrequest-cleaner-controller",
        account: "certificate-controller",
        component: "certificate-controller",
        workers: 1,
        start: |context| certificates::run_cleaning(context).boxed(),
    },
    Entry {
        name: "replicationcontroller-controller",
        account: "replication-controller",
        component: "replication-controller",
        workers: 5,
        start: |context| replicaset::run::<ReplicationController>(context).boxed(),
    },
    Entry {
        name: "serviceaccount-token-controller",
        account: OWN_IDENTITY,
        component: "serviceaccount-token-controller",
        workers: 5,
        start: |context| serviceaccounttoken::run(context).boxed(),
    },
    Entry {
        name: "ephemeral-volume-controller",
        account: "ephemeral-volume-controller",
        component: "ephemeral_volume",
        workers: 5,
        start: |context| ephemeralvolume::run(context).boxed(),
    },
    Entry {
        name: "horizontal-pod-autoscaler-controller",
        account: "horizontal-pod-autoscaler",
        component: "horizontal-pod-autoscaler",
        workers: 5,
        start: |context| horizontalpodautoscaler::run(context).boxed(),
    },
    Entry {
        name: "validatingadmissionpolicy-status-controller",
        account: "validatingadmissionpolicy-status-controller",
        component: "validatingadmissionpolicy-status",
        workers: 5,
        start: |context| validatingadmissionpolicystatus::run(context).boxed(),
    },
    Entry {
        name: "persistentvolume-attach-detach-controller",
        account: "attachdetach-controller",
        component: "attachdetach-controller",
        // One: what a node is told is a list, of which a second could write an older one.
        workers: 1,
        start: |context| attachdetach::run(context).boxed(),
    },
    Entry {
        name: "device-taint-eviction-controller",
        account: "device-taint-eviction-controller",
        component: "device-taint-eviction-controller",
        workers: 8,
        start: |context| devicetainteviction::run(context).boxed(),
    },
    Entry {
        name: "resourceclaim-controller",
        account: "resource-claim-controller",
        component: "resource_claim",
        workers: 50,
        start: |context| resourceclaim::run(context).boxed(),
    },
    Entry {
        name: "persistentvolume-binder-controller",
        account: "persistent-volume-binder",
        component: "persistentvolume-controller",
        // One: two claims decided at once could choose the same volume.
        workers: 1,
        start: |context| volumebinder::run(context).boxed(),
    },
    Entry {
        name: "persistentvolume-expander-controller",
        account: "expand-controller",
        component: "volume_expand",
        workers: 10,
        start: |context| volumeexpander::run(context).boxed(),
    },
    Entry {
        name: "storageversion-garbage-collector-controller",
        account: "storage-version-garbage-collector",
        component: "storageversion-garbage-collector-controller",
        workers: 1,
        start: |context| storageversiongc::run(context).boxed(),
    },
    Entry {
        name: "persistentvolume-protection-controller",
        account: "pv-protection-controller",
        component: "pv-protection-controller",
        workers: 1,
        start: |context| pvprotection::run(context).boxed(),
    },
    Entry {
        name: "volumeattributesclass-protection-controller",
        account: "volumeattributesclass-protection-controller",
        component: "volumeattributesclass-protection-controller",
        workers: 1,
        start: |context| vacprotection::run(context).boxed(),
    },
    Entry {
        name: "service-cidr-controller",
        account: "service-cidrs-controller",
        component: "service-cidr-controller",
        workers: 5,
        start: |context| servicecidr::run(context).boxed(),
    },
    Entry {
        name: "legacy-serviceaccount-token-cleaner-controller",
        account: "legacy-service-account-token-cleaner",
        component: "legacy-service-account-token-cleaner",
        workers: 1,
        start: |context| legacytokencleaner::run(context).boxed(),
    },
    Entry {
        name: "bootstrap-signer-controller",
        account: "bootstrap-signer",
        component: "bootstrap-signer",
        workers: 1,
        start: |context| bootstrapsigner::run(context).boxed(),
    },
    Entry {
        name: "token-cleaner-controller",
        account: "token-cleaner",
        component: "token-cleaner",
        workers: 1,
        start: |context| tokencleaner::run(context).boxed(),
    },
];

/// Controllers that must be asked for by name. Upstream's storage version collector is among them by its feature gate.
const OFF_BY_DEFAULT: [&str; 3] = [
    "bootstrap-signer-controller",
    "storageversion-garbage-collector-controller",
    "token-cleaner-controller",
];

/// The names of all controllers, for help texts and checks.
pub fn names() -> impl Iterator<Item = &'static str> {
    ENTRIES.iter().map(|entry| entry.name)
}

/// How many reconciles each controller does at once by default.
pub fn workers() -> impl Iterator<Item = (&'static str, usize)> {
    ENTRIES.iter().map(|entry| (entry.name, entry.workers))
}

/// The account of a controller that acts as the process itself, whose user has a role of its own and is no service account.
pub(crate) const OWN_IDENTITY: &str = "kube-controller-manager";

/// The service accounts in `kube-system` that the chosen controllers act under, each once. Names as in [`Config::controllers`].
///
/// # Errors
///
/// When a chosen name is unknown.
pub fn accounts(controllers: &[String]) -> Result<Vec<&'static str>, Error> {
    let chosen = choice::choose(controllers)?;
    let entries = ENTRIES.iter().filter(|entry| chosen.contains(entry.name));
    let accounts: BTreeSet<_> =
        entries.map(|entry| entry.account).filter(|account| *account != OWN_IDENTITY).collect();
    Ok(accounts.into_iter().collect())
}

/// The names of the chosen controllers. Names as in [`Config::controllers`].
///
/// # Errors
///
/// When a chosen name is unknown.
pub fn chosen(controllers: &[String]) -> Result<Vec<&'static str>, Error> {
    let chosen = choice::choose(controllers)?;
    Ok(names().filter(|name| chosen.contains(name)).collect())
}

/// Runs the chosen controllers until shutdown, and waits for their last reconciles and events.
///
/// # Errors
///
/// When a chosen name is unknown, before anything starts; or when a controller's task panics, after which the others are
/// stopped: a process with half its controllers is worse than one that is started again.
pub fn run(config: Config, shutdown: Shutdown) -> Running<Error> {
    Box::pin(run_until(config, shutdown))
}

async fn run_until(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let chosen = choice::choose(&config.controllers)?;
    config.informers.cut_parts_from_wholes();
    for (name, why) in choice::in_vain(&config.controllers) {
        tracing::info!(controller = name, why, "a controller does not run, as upstream's does not");
    }
    let settings = Arc::new(config.settings.clone());
    let stop = shutdown.child_token();
    let mut tasks = JoinSet::new();
    for entry in ENTRIES.iter().filter(|entry| chosen.contains(entry.name)) {
        let client = config.clients.client(entry.account);
        let (recorder, sink) = EventRecorder::new(client.clone(), entry.component, &settings.host);
        let context = Context {
            client,
            informers: config.informers.clone(),
            recorder: Arc::new(recorder),
            clock: config.clock.clone(),
            names: config.names.clone(),
            settings: settings.clone(),
            workers: config.workers.get(entry.name).copied().unwrap_or(entry.workers),
            shutdown: stop.clone(),
        };
        let stop = stop.clone();
        let run = async move {
            tokio::join!((entry.start)(context), sink.run(stop));
        };
        tasks.spawn(
            std::panic::AssertUnwindSafe(run).catch_unwind().map(move |ended| (entry.name, ended.is_ok())),
        );
        metrics::RUNNING.with([OWN_IDENTITY, entry.name]).set(1.0);
        tracing::debug!(controller = entry.name, "started");
    }
    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let Ok((name, regular)) = ended else { continue };
        metrics::RUNNING.with([OWN_IDENTITY, name]).set(0.0);
        if outcome.is_ok() && (!regular || !stop.is_cancelled()) {
            outcome = Err(Error::Ended { name });
            stop.cancel();
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::{OWN_IDENTITY, accounts, names};

    #[test]
    fn the_process_itself_has_no_service_account() {
        // Where controllers have accounts of their own, an account of that name would have no role.
        let accounts_of =
            |names: &[&str]| accounts(&names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>()).unwrap();
        assert!(!accounts_of(&["*"]).contains(&OWN_IDENTITY));
        assert!(accounts_of(&["*"]).contains(&"deployment-controller"));
        // None is made for a controller that does not run.
        assert!(!accounts_of(&["*"]).contains(&"token-cleaner"));
        assert_eq!(accounts_of(&["token-cleaner-controller"]), ["token-cleaner"]);
    }

    #[test]
    fn names_are_unique() {
        let unique: std::collections::BTreeSet<_> = names().collect();
        assert_eq!(unique.len(), names().count());
    }
}
