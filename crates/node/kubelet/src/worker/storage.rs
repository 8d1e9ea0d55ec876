//! The worker's part of volumes and cgroups: gathers what they need, makes them, keeps them fresh.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Volume};
use podium_client::{EventType, error_chain, reference_of};
use tokio::time::Instant;

use crate::{
    context::Shared,
    environment::{self, DataRef},
    metrics, pod,
    volumes::{
        self,
        claims::{self, ClaimError},
        mounting::Unmounted,
        payload,
    },
    worker::Worker,
};

/// Upstream's back-off of mounts.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(122);
/// The longest pause for a claim that waits to be bound. Upstream looks ten times a second.
const SOON: Duration = Duration::from_secs(2);

/// How far a pod's volumes are.
#[derive(Debug, Default)]
pub(crate) struct Storage {
    /// Made, in this life of the kubelet.
    pub(crate) ready: bool,
    /// Something they are made from has changed.
    pub(crate) stale: bool,
    retry: Option<(Instant, Duration)>,
}

/// Everything a pod refers to: by volumes, environments and pull secrets.
pub(crate) fn references(pod: &Pod) -> Vec<DataRef> {
    let (mut all, _) = payload::references(pod);
    let ephemeral = pod::ephemeral_containers(pod);
    for container in pod::containers(pod).iter().chain(pod::init_containers(pod)).chain(&ephemeral) {
        all.extend(environment::references(container));
    }
    let secrets = pod.spec.as_ref().and_then(|spec| spec.image_pull_secrets.as_deref()).unwrap_or_default();
    all.extend(secrets.iter().map(|secret| DataRef::Secret(secret.name.clone())));
    all.sort();
    all.dedup();
    all
}

impl Worker {
    /// Makes cgroup, directories and volumes; the error is when to try again.
    pub(crate) async fn ensure_storage(&mut self) -> Result<(), Instant> {
        if self.storage.ready && !self.storage.stale {
            return Ok(());
        }
        if let Some((at, _)) = self.storage.retry
            && at > Instant::now()
            && !self.storage.stale
        {
            return Err(at);
        }
        let uid = pod::uid(&self.pod).to_owned();
        if self.shared.cleaning.is_under_way(&uid) {
            // What a pod of the same uid left would be taken for this one's, and this one's for what it left.
            return Err(Instant::now() + FIRST_RETRY);
        }
        self.shared.references.set(&uid, pod::namespace(&self.pod), &references(&self.pod));
        self.shared.trust_bundles.set(&uid, &self.pod);
        self.storage.stale = false;
        let made = match self.storage.ready {
            // Its bounds are the resizing's.
            true => Ok(()),
            false => self.make_group().await,
        };
        let made = match made {
            Ok(()) => make(&self.shared, &self.pod, self.pod_ips()).await,
            trouble => trouble,
        };
        match made {
            Ok(()) => {
                self.storage.ready = true;
                self.storage.retry = None;
                Ok(())
            }
            Err(Trouble { reason, message, soon }) => {
                let about = reference_of(&*self.pod);
                self.shared.recorder.event(&about, EventType::Warning, reason, message);
                let pause = self
                    .storage
                    .retry
                    .map_or(FIRST_RETRY, |(_, last)| (last * 2).min(if soon { SOON } else { LAST_RETRY }));
                let at = Instant::now() + pause;
                self.storage.retry = Some((at, pause));
                Err(at)
            }
        }
    }

    async fn make_group(&mut self) -> Result<(), Trouble> {
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        let made = tokio::task::spawn_blocking(move || shared.make_group(&pod, "create")).await;
        match made {
            Ok(Ok(())) => {
                self.resize.bounded(&self.pod);
                Ok(())
            }
            Ok(Err(error)) => Err(Trouble {
                reason: "FailedCreatePodContainer",
                message: format!("unable to ensure pod container exists: {error}"),
                soon: false,
            }),
            Err(error) => Err(trouble(error)),
        }
    }

    /// Brings volumes up to date with what they are made from.
    pub(crate) async fn refresh_storage(&mut self) {
        self.storage.stale = false;
        if !volumes::is_refreshable(&self.pod) {
            return;
        }
        if let Err(Trouble { reason, message, .. }) = make(&self.shared, &self.pod, self.pod_ips()).await {
            let about = reference_of(&*self.pod);
            self.shared.recorder.event(&about, EventType::Warning, reason, message);
        }
    }

    /// The pod's addresses, as far as it has any.
    pub(crate) fn pod_ips(&self) -> Vec<String> {
        if pod::host_network(&self.pod) {
            return self.shared.host_ips();
        }
        self.record.sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    }
}

struct Trouble {
    reason: &'static str,
    message: String,
    /// It passes without a person: the next try is soon.
    soon: bool,
}

fn trouble(message: impl std::fmt::Display) -> Trouble {
    Trouble { reason: "FailedMount", message: message.to_string(), soon: false }
}

async fn make(shared: &Shared, pod: &Arc<Pod>, pod_ips: Vec<String>) -> Result<(), Trouble> {
    let lookup = gather(shared, pod, pod_ips).await?;
    mount_remote(shared, pod, &lookup).await?;
    let (shared, pod) = (shared.clone(), pod.clone());
    let made = tokio::task::spawn_blocking(move || {
        let directory = shared.pod_dir(pod::uid(&pod));
        make_private(directory.path())
            .and_then(|()| std::fs::create_dir_all(shared.log_directory(&pod)))
            .map_err(|error| Trouble {
                reason: "Failed",
                message: format!("error making pod data directories: {error}"),
                soon: false,
            })?;
        for volume in volumes::wanted(&pod) {
            let began = std::time::Instant::now();
            let made = volumes::ensure(&directory, &pod, &volume, &lookup);
            count_mount(&shared, &volume, began, made.is_ok());
            made.map_err(trouble)?;
        }
        Ok(())
    });
    made.await.unwrap_or_else(|error| Err(trouble(error)))
}

fn count_mount(shared: &Shared, volume: &Volume, began: std::time::Instant, good: bool) {
    // What has no plugin has been refused, and an image is the runtime's to mount.
    let Ok(plugin) = volumes::plugin(volume) else { return };
    let (plugin, status) = (format!("kubernetes.io/{plugin}"), if good { "success" } else { "fail-unknown" });
    let labels = [
        ("migrated", "false"),
        ("operation_name", "volume_mount"),
        ("status", status),
        ("volume_plugin", &plugin),
    ];
    shared.metrics.since(&metrics::STORAGE, &labels, began);
}

/// Mounts what file servers have, without waiting for long.
async fn mount_remote(shared: &Shared, pod: &Pod, lookup: &payload::Lookup) -> Result<(), Trouble> {
    let directory = shared.pod_dir(pod::uid(pod));
    for volume in volumes::wanted(pod) {
        let Some((target, work)) = volumes::remote(&directory, &volume, lookup) else { continue };
        // Before the first of its directories: the mount's thread makes the others below it.
        make_private(directory.path()).map_err(trouble)?;
        shared.mounting.mount(&target, work).await.map_err(|error| match error {
            Unmounted::Failed(message) => trouble(message),
            Unmounted::Waiting => Trouble {
                soon: true,
                ..trouble(format!(
                    "MountVolume.SetUp failed for volume {:?} : timed out waiting for the file server, still trying",
                    volume.name
                ))
            },
        })?;
    }
    Ok(())
}

/// A pod's directory holds its secrets: nobody but us walks in, containers get theirs mounted.
fn make_private(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o750).create(path)
}

/// A claim gives no volume, in upstream's words.
fn unmounted(pod: &Pod, volume: &Volume, error: &ClaimError) -> Trouble {
    let (name, namespace) = (&volume.name, pod::namespace(pod));
    let claim = claims::claim_of(pod, volume).unwrap_or_default();
    Trouble {
        soon: *error == ClaimError::Unbound,
        ..trouble(format!(
            "Unable to attach or mount volumes: unmounted volumes=[{name}], unattached volumes=[{name}], failed to process \
             volumes=[{name}]: error processing PVC {namespace}/{claim}: {error}"
        ))
    }
}

/// Reads everything the pod's volumes are made from.
async fn gather(shared: &Shared, pod: &Pod, pod_ips: Vec<String>) -> Result<payload::Lookup, Trouble> {
    let (data, tokens) = payload::references(pod);
    let namespace = pod::namespace(pod);
    let mut lookup = payload::Lookup {
        pod_ips,
        host_ips: shared.host_ips(),
        allocatable: shared.machine.allocatable(&shared.config.settings),
        image_mounts: volumes::image::offered(&shared.runtime_version),
        ..Default::default()
    };
    for reference in data {
        match reference {
            DataRef::ConfigMap(name) => {
                let found = shared.references.config_map(namespace, &name).await.map_err(trouble)?;
                lookup.config_maps.extend(found.map(|object| (name, object)));
            }
            DataRef::Secret(name) => {
                let found = shared.references.secret(namespace, &name).await.map_err(trouble)?;
                lookup.secrets.extend(found.map(|object| (name, object)));
            }
        }
    }
    let directory = shared.pod_dir(pod::uid(pod));
    for volume in volumes::wanted(pod).into_iter().filter(volumes::claimed) {
        if volumes::is_there(&directory, &volume) {
            continue;
        }
        let node = shared.node.lock().clone();
        match claims::resolve(&shared.client, pod, &volume, node.as_deref()).await {
            Ok(found) => {
                lookup.claims.insert(volume.name, found);
            }
            Err(error) => return Err(unmounted(pod, &volume, &error)),
        }
    }
    for volume in volumes::wanted(pod) {
        for (index, source) in payload::trust_bundles(&volume) {
            let anchors = shared.trust_bundles.anchors(source).await.map_err(|error| {
                trouble(format!("MountVolume.SetUp failed for volume {:?} : {error}", volume.name))
            })?;
            lookup.anchors.insert((volume.name.clone(), index), anchors);
        }
    }
    for wanted in tokens {
        let token = shared.tokens.get(pod, &wanted, Timestamp::now()).await.map_err(|error| {
            trouble(format!(
                "MountVolume.SetUp failed for a projected volume : failed to fetch token: {}",
                error_chain(&error)
            ))
        })?;
        lookup.tokens.insert(wanted, token);
    }
    Ok(lookup)
}
