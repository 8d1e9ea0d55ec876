//! ClusterTrustBundles for projected volumes: all of them are followed once the first pod wants one, and pods are told when
//! those that they use change.
//!
//! Source: `pkg/kubelet/clustertrustbundle`. Differences: a server that does not have the API is asked again with every try,
//! where upstream's kubelet remembers its first answer until it is restarted; changes reach volumes at once, where upstream's
//! waits for the next round.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{
    certificates::v1beta1::ClusterTrustBundle,
    core::v1::{ClusterTrustBundleProjection, Pod},
};
use kube::{Api, Client, api::ListParams};
use parking_lot::Mutex;
use podium_api::{pem, selector::LabelSelector};
use podium_client::{Informer, ObjectKey, SharedInformers, Shutdown, error_chain, is_not_found};
use tokio::sync::OnceCell;

/// How long the first list may take before the pod is told to come again, as upstream's.
const FIRST_LIST: Duration = Duration::from_secs(10);
/// The longest selector of labels, as text.
const SELECTOR_MAX: usize = 100 * 1024;

/// Why there are no trust anchors, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TrustError {
    /// The feature is off here, or the server does not have the API.
    #[error("ClusterTrustBundle projection is not supported in static kubelet mode")]
    Unsupported,
    #[error("failed to ensure informer manager for ClusterTrustBundles: {0}")]
    Api(String),
    #[error("ClusterTrustBundle informer has not yet synced")]
    Unsynced,
    #[error("while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io {0:?} not found")]
    NotFound(String),
    #[error("while parsing label selector: {0}")]
    Selector(String),
    #[error("label selector length ({0}) is larger than {SELECTOR_MAX}")]
    Long(usize),
    #[error("combination of signerName and labelSelector matched zero ClusterTrustBundles")]
    NoMatch,
    #[error("ClusterTrustBundle projection requires either name or signerName to be set")]
    Neither,
}

/// A bundle's name, or a signer whose bundles may be used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    Name(String),
    Signer(String),
}

impl Wanted {
    /// What a volume wants; a name goes first, as upstream.
    fn of(source: &ClusterTrustBundleProjection) -> Option<Self> {
        let name = source.name.clone().map(Self::Name);
        name.or_else(|| source.signer_name.clone().map(Self::Signer))
    }

    fn is(&self, bundle: &ClusterTrustBundle) -> bool {
        match self {
            Self::Name(name) => bundle.metadata.name.as_ref() == Some(name),
            Self::Signer(signer) => bundle.spec.signer_name.as_ref() == Some(signer),
        }
    }
}

type Users = Arc<Mutex<HashMap<String, BTreeSet<Wanted>>>>;

/// The bundles, and who uses them.
pub(crate) struct TrustBundles {
    client: Client,
    shutdown: Shutdown,
    on: bool,
    followed: OnceCell<Informer<ClusterTrustBundle>>,
    /// Pods by uid.
    users: Users,
    changed: Arc<dyn Fn(&str) + Send + Sync>,
    /// Decides the order of anchors, other with every start: nobody is to rely on one.
    order: RandomState,
}

impl std::fmt::Debug for TrustBundles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrustBundles").field("on", &self.on).finish_non_exhaustive()
    }
}

/// The projections of trust bundles in a pod.
fn projections(pod: &Pod) -> impl Iterator<Item = &ClusterTrustBundleProjection> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let sources =
        volumes.flat_map(|volume| volume.projected.iter().flat_map(|one| one.sources.iter().flatten()));
    sources.filter_map(|source| source.cluster_trust_bundle.as_ref())
}

impl TrustBundles {
    /// `on` is the feature gate ClusterTrustBundleProjection; `changed` is called with the uid of each pod that uses a bundle
    /// that changed.
    pub(crate) fn new(
        client: &Client,
        shutdown: &Shutdown,
        on: bool,
        changed: Arc<dyn Fn(&str) + Send + Sync>,
    ) -> Self {
        Self {
            client: client.clone(),
            shutdown: shutdown.clone(),
            on,
            followed: OnceCell::new(),
            users: Users::default(),
            changed,
            order: RandomState::new(),
        }
    }

    /// Makes a pod the user of what its volumes name.
    pub(crate) fn set(&self, uid: &str, pod: &Pod) {
        let wanted: BTreeSet<Wanted> = projections(pod).filter_map(Wanted::of).collect();
        if wanted.is_empty() {
            self.forget(uid);
        } else {
            self.users.lock().insert(uid.to_owned(), wanted);
        }
    }

    /// Tells the pod of no more changes.
    pub(crate) fn forget(&self, uid: &str) {
        self.users.lock().remove(uid);
    }

    /// The anchors of a projection, each once, as PEM; empty if there are none and the projection is optional.
    ///
    /// # Errors
    /// If there are none, or it is not known yet whether there are.
    pub(crate) async fn anchors(&self, source: &ClusterTrustBundleProjection) -> Result<String, TrustError> {
        if !self.on {
            return Err(TrustError::Unsupported);
        }
        let followed = self.followed.get_or_try_init(|| self.follow()).await?;
        if tokio::time::timeout(FIRST_LIST, followed.synced()).await.is_err() {
            return Err(TrustError::Unsynced);
        }
        match chosen(source, followed) {
            Ok(bundles) => {
                let texts: Vec<&str> = bundles.iter().map(|one| one.spec.trust_bundle.as_str()).collect();
                Ok(normalized(&texts, &self.order))
            }
            Err(TrustError::NotFound(_) | TrustError::NoMatch) if source.optional == Some(true) => {
                Ok(String::new())
            }
            Err(error) => Err(error),
        }
    }

    async fn follow(&self) -> Result<Informer<ClusterTrustBundle>, TrustError> {
        // Following what the server does not have would ask for it for ever.
        let api: Api<ClusterTrustBundle> = Api::all(self.client.clone());
        api.list_metadata(&ListParams::default().limit(1)).await.map_err(|error| {
            if is_not_found(&error) { TrustError::Unsupported } else { TrustError::Api(error_chain(&error)) }
        })?;
        let informer: Informer<ClusterTrustBundle> =
            SharedInformers::new(self.client.clone(), self.shutdown.clone()).of();
        let (users, changed) = (Arc::clone(&self.users), Arc::clone(&self.changed));
        informer.on_event(move |change| {
            // A bundle keeps its name and signer, so that the newest state tells who is concerned.
            let bundle = change.object();
            let concerned: Vec<String> = {
                let users = users.lock();
                let uses = |wanted: &BTreeSet<Wanted>| wanted.iter().any(|one| one.is(bundle));
                users.iter().filter(|(_, wanted)| uses(wanted)).map(|(uid, _)| uid.clone()).collect()
            };
            for uid in concerned {
                changed(&uid);
            }
        });
        Ok(informer)
    }
}

/// The bundles that a projection names.
fn chosen(
    source: &ClusterTrustBundleProjection,
    known: &Informer<ClusterTrustBundle>,
) -> Result<Vec<Arc<ClusterTrustBundle>>, TrustError> {
    match Wanted::of(source).ok_or(TrustError::Neither)? {
        Wanted::Name(name) => {
            let found = known.get(&ObjectKey::cluster(&name));
            found.map(|bundle| vec![bundle]).ok_or(TrustError::NotFound(name))
        }
        wanted @ Wanted::Signer(_) => {
            // None selects nothing, an empty one everything.
            let selector = LabelSelector::from_option(source.label_selector.as_ref())
                .map_err(|error| TrustError::Selector(error.to_string()))?;
            let length = selector.to_string().len();
            if length > SELECTOR_MAX {
                return Err(TrustError::Long(length));
            }
            let nothing = std::collections::BTreeMap::new();
            let mut all = known.list();
            all.retain(|bundle| {
                wanted.is(bundle) && selector.matches(bundle.metadata.labels.as_ref().unwrap_or(&nothing))
            });
            if all.is_empty() { Err(TrustError::NoMatch) } else { Ok(all) }
        }
    }
}

/// The blocks of all bundles, each once, without what stands between them.
fn normalized(bundles: &[&str], order: &impl BuildHasher) -> String {
    let blocks: BTreeSet<Vec<u8>> =
        bundles.iter().flat_map(|text| pem::blocks(text)).map(|block| block.bytes).collect();
    let mut blocks: Vec<_> = blocks.into_iter().collect();
    blocks.sort_by_key(|bytes| order.hash_one(bytes));
    blocks.iter().map(|bytes| podium_pki::certificate::to_pem("CERTIFICATE", bytes)).collect()
}

#[cfg(test)]
mod tests;
