//! Watches storage versions and the identities of API servers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::apiserverinternal::v1alpha1::StorageVersion;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Resource as _;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use podium_client::{Change, Informer, ObjectKey, Scope, WorkQueue, is_not_found};

use super::decide::{Decision, decide, is_identity, servers};
use crate::context::{Context, Error, words};
use crate::discovery::is_path_missing;
use crate::owner;

/// Index of storage versions by the servers that they name.
const BY_SERVER: &str = "controllers/apiServer";
const SYSTEM: &str = "kube-system";
/// The pauses between questions to a server that does not answer: from a second, doubled, to a minute, so that neither a start
/// beside a starting server is slow nor a long outage noisy.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Runs the controller until shutdown, which is all it waits for where storage versions are not served.
pub(crate) async fn run(context: Context) {
    match context.shutdown.run_until_cancelled(is_served(&context)).await {
        Some(true) => {}
        Some(false) => {
            tracing::info!(
                "storage versions are not served: nothing to collect, looked for again at the next start"
            );
            return context.shutdown.cancelled().await;
        }
        None => return,
    }
    let versions = context.informers.of::<StorageVersion>();
    versions.add_index(BY_SERVER, servers);
    // Chosen by namespace alone: so they come with the leases that others follow.
    let leases =
        context.informers.scoped::<Lease>(Scope { namespace: Some(SYSTEM.to_owned()), ..Scope::default() });
    let queue = WorkQueue::new("storage_version_garbage_collector_storageversions");
    let to = queue.clone();
    versions.on_event(move |change| to.add(ObjectKey::of(change.object().as_ref())));
    let (to, named) = (queue.clone(), versions.clone());
    leases.on_event(move |change| {
        if let Change::Deleted(lease) = change {
            named
                .keys_by_index(BY_SERVER, owner::name(&lease.metadata))
                .into_iter()
                .for_each(|key| to.add(key));
        }
    });
    context.ready([versions.synced().boxed(), leases.synced().boxed()]).await;
    let controller = Arc::new(Controller { context: context.clone(), versions, leases });
    context.work(queue, move |key| reconcile(Arc::clone(&controller), key)).await;
}

/// Asks until there is an answer.
async fn is_served(context: &Context) -> bool {
    let group_version = StorageVersion::api_version(&());
    let (mut pause, longest) = PAUSES;
    loop {
        match context.client.list_api_group_resources(&group_version).await {
            Ok(list) => {
                let plural = StorageVersion::plural(&());
                return list.resources.iter().any(|resource| resource.name == plural);
            }
            Err(error) if is_path_missing(&error) => return false,
            Err(error) => {
                tracing::warn!(error = words(&error), "whether storage versions are served is not known");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
        }
    }
}

struct Controller {
    context: Context,
    versions: Informer<StorageVersion>,
    leases: Informer<Lease>,
}

async fn reconcile(controller: Arc<Controller>, key: ObjectKey) -> Result<(), Error> {
    let Some(version) = controller.versions.get(&key) else { return Ok(()) };
    let mut gone = Vec::new();
    for server in servers(&version).into_iter().collect::<BTreeSet<_>>() {
        if controller.is_gone(&server).await? {
            gone.push(server);
        }
    }
    match decide(&version, &gone, controller.context.now()) {
        Decision::Keep => Ok(()),
        Decision::Delete => controller.delete(&version).await,
        Decision::Update(status) => {
            let updated = StorageVersion { status: Some(*status), ..StorageVersion::clone(&version) };
            let written = controller.api().replace_status(&key.name, &PostParams::default(), &updated).await;
            match written {
                Ok(_) => Ok(()),
                Err(error) if is_not_found(&error) => Ok(()),
                Err(error) => Err(Error::call("update status of storage version", &*key.name)(error)),
            }
        }
    }
}

impl Controller {
    fn api(&self) -> Api<StorageVersion> {
        Api::all(self.context.client.clone())
    }

    /// Whether a server has no identity any more. The cache may not know a new server yet, so its no is not enough.
    async fn is_gone(&self, server: &str) -> Result<bool, Error> {
        if self.leases.get(&ObjectKey::new(SYSTEM, server)).is_some_and(|lease| is_identity(&lease)) {
            return Ok(false);
        }
        let api: Api<Lease> = Api::namespaced(self.context.client.clone(), SYSTEM);
        let live = api.get_opt(server).await.map_err(Error::call("get lease", server))?;
        Ok(!live.is_some_and(|lease| is_identity(&lease)))
    }

    /// Only as it was seen: a server may have come since.
    async fn delete(&self, version: &StorageVersion) -> Result<(), Error> {
        let name = owner::name(&version.metadata);
        let seen = Preconditions {
            uid: version.metadata.uid.clone(),
            resource_version: version.metadata.resource_version.clone(),
        };
        match self.api().delete(name, &DeleteParams::default().preconditions(seen)).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(Error::call("delete storage version", name)(error)),
        }
    }
}
