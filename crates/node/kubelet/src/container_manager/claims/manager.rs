//! Has claims prepared before a pod starts, and given back when it is over. What a driver may have done is in the checkpoint
//! before it is asked.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::{Container, Pod},
    resource::v1::ResourceClaim,
};
use kube::{Api, Client};
use parking_lot::Mutex;
use podium_cri::bounded;
use podium_plugins::dra;

use super::{
    super::{SettingsError, checkpoint, options::RunOptions},
    Drivers, judge,
    state::{Claim, Claims, Device},
};
use crate::pod;

/// The checkpoint's name, upstream's.
const CHECKPOINT: &str = "dra_manager_state";
/// Upstream's `defaultClientCallTimeout`.
const CALL_LIMIT: Duration = Duration::from_secs(45);

/// See the module.
#[derive(Debug)]
pub(crate) struct ClaimManager {
    file: PathBuf,
    pub(crate) drivers: Arc<Drivers>,
    claims: Mutex<Claims>,
    /// Held while drivers are asked: a claim is not to be prepared for one pod while it is given back for another.
    asking: tokio::sync::Mutex<()>,
}

impl ClaimManager {
    /// With what its checkpoint says. One that cannot be read is an error, as upstream has it: nobody would give back what
    /// is in it.
    pub(crate) fn open(root: &Path) -> Result<Self, SettingsError> {
        let file = root.join(CHECKPOINT);
        let claims = checkpoint::read::<Claims>(&file).map_err(|error| SettingsError::Checkpoint {
            manager: "DRA",
            file: file.clone(),
            message: format!("could not restore state from checkpoint: {error}"),
        })?;
        let claims = claims.unwrap_or_default();
        Ok(Self {
            file,
            drivers: Arc::default(),
            claims: Mutex::new(claims),
            asking: tokio::sync::Mutex::default(),
        })
    }

    fn keep(&self) -> Result<(), String> {
        checkpoint::write(&self.file, &*self.claims.lock())
            .map_err(|error| format!("checkpoint ResourceClaim state: {error}"))
    }

    /// How many claims are prepared, by driver, and in all as `<any>`.
    pub(crate) fn in_use(&self) -> BTreeMap<String, u32> {
        self.claims.lock().in_use()
    }

    /// Whether a pod has claims here.
    pub(crate) fn has(&self, uid: &str) -> bool {
        self.claims.lock().of_pod(uid).next().is_some()
    }

    /// Has the pod's claims prepared.
    pub(crate) async fn prepare(&self, client: &Client, wanted: &Pod) -> Result<(), String> {
        if judge::entries(wanted).is_empty() {
            return Ok(());
        }
        let _asking = self.asking.lock().await;
        let outcome = self.prepare_all(client, wanted).await;
        outcome.map_err(|error| format!("prepare dynamic resources: {error}"))
    }

    async fn prepare_all(&self, client: &Client, wanted: &Pod) -> Result<(), String> {
        // Everything is looked at before anything is noted: a pod that cannot start leaves nothing to be given back.
        let api: Api<ResourceClaim> = Api::namespaced(client.clone(), pod::namespace(wanted));
        let mut found = Vec::new();
        for entry in judge::entries(wanted) {
            let Some((name, made_for_it)) = judge::name_of(wanted, entry)? else { continue };
            let claim =
                api.get(name).await.map_err(|error| format!("fetch ResourceClaim {name}: {error}"))?;
            judge::may_use(wanted, &claim, made_for_it)?;
            let drivers = judge::drivers(&claim)?;
            drivers.iter().try_for_each(|driver| self.drivers.client(driver).map(drop))?;
            found.push(Claim {
                uid: claim.metadata.uid.unwrap_or_default(),
                namespace: pod::namespace(wanted).to_owned(),
                name: name.to_owned(),
                pods: Default::default(),
                drivers: drivers.into_iter().map(|driver| (driver, Vec::new())).collect(),
                prepared: false,
            });
        }
        let todo = {
            let mut claims = self.claims.lock();
            for claim in found {
                claims.refer(claim, pod::uid(wanted))?;
            }
            claims.of_pod(pod::uid(wanted)).filter(|claim| !claim.prepared).cloned().collect::<Vec<_>>()
        };
        self.keep()?;
        for (driver, batch) in by_driver(&todo) {
            let request = dra::NodePrepareResourcesRequest { claims: batch.clone() };
            let mut client = self.drivers.client(&driver)?;
            let answer = bounded("NodePrepareResources", CALL_LIMIT, client.node_prepare_resources(request))
                .await
                .map_err(|error| format!("NodePrepareResources: {}", error.grpc_text()))?;
            let errors = answer.claims.iter().map(|(uid, one)| (uid.as_str(), one.error.as_str()));
            check("NodePrepareResources", &batch, errors)?;
            let mut claims = self.claims.lock();
            for (uid, one) in answer.claims {
                claims.prepared_by(&uid, &driver, one.devices.into_iter().map(device).collect());
            }
        }
        {
            let mut claims = self.claims.lock();
            todo.iter().for_each(|claim| claims.prepared(&claim.uid));
        }
        self.keep()
    }

    /// Has the drivers take back what only this pod uses. Safe to repeat.
    pub(crate) async fn unprepare(&self, uid: &str) -> Result<(), String> {
        if self.claims.lock().of_pod(uid).next().is_none() {
            return Ok(());
        }
        let _asking = self.asking.lock().await;
        let outcome = self.unprepare_all(uid).await;
        outcome.map_err(|error| format!("unprepare dynamic resources: {error}"))
    }

    async fn unprepare_all(&self, uid: &str) -> Result<(), String> {
        let todo: Vec<Claim> = {
            let claims = self.claims.lock();
            claims.of_pod(uid).filter(|claim| claim.pods.len() == 1).cloned().collect()
        };
        for (driver, batch) in by_driver(&todo) {
            let request = dra::NodeUnprepareResourcesRequest { claims: batch.clone() };
            let mut client = self.drivers.client(&driver)?;
            let answer =
                bounded("NodeUnprepareResources", CALL_LIMIT, client.node_unprepare_resources(request))
                    .await
                    .map_err(|error| format!("NodeUnprepareResources: {}", error.grpc_text()))?;
            let errors = answer.claims.iter().map(|(uid, one)| (uid.as_str(), one.error.as_str()));
            check("NodeUnprepareResources", &batch, errors)?;
        }
        self.claims.lock().leave(uid);
        self.keep()
    }

    /// Gives back for pods that are not `known` any more.
    pub(crate) async fn retain(&self, known: &(dyn Fn(&str) -> bool + Sync)) {
        let gone: Vec<String> = {
            let claims = self.claims.lock();
            claims.pods().into_iter().filter(|uid| !known(uid)).map(str::to_owned).collect()
        };
        for uid in gone {
            if let Err(error) = self.unprepare(&uid).await {
                tracing::warn!(uid, error, "giving back the claims of a pod that is gone failed");
            }
        }
    }

    /// Adds the devices of a container's claims to its configuration.
    pub(crate) fn options(
        &self,
        wanted: &Pod,
        container: &Container,
        options: &mut RunOptions,
    ) -> Result<(), String> {
        for (claim, request) in self.of_container(wanted, container)? {
            claim.cdi(request.as_deref()).into_iter().for_each(|id| options.cdi(id));
        }
        Ok(())
    }

    /// The claims of a container, each with the request of it that the container uses; None means all requests.
    pub(crate) fn of_container(
        &self,
        wanted: &Pod,
        container: &Container,
    ) -> Result<Vec<(Claim, Option<String>)>, String> {
        let used = container.resources.as_ref().and_then(|resources| resources.claims.as_deref());
        let mut found = Vec::new();
        for one in used.unwrap_or_default() {
            let Some(entry) = judge::entries(wanted).iter().find(|entry| entry.name == one.name) else {
                continue;
            };
            let Some((name, _)) = judge::name_of(wanted, entry)? else { continue };
            let namespace = pod::namespace(wanted);
            let claim = self.claims.lock().get(namespace, name).cloned().ok_or_else(|| {
                format!(
                    "internal error: unable to get claim info for ResourceClaim {name} in namespace {namespace}"
                )
            })?;
            found.push((claim, one.request.clone().filter(|request| !request.is_empty())));
        }
        Ok(found)
    }
}

/// Each driver is asked once, for all claims that concern it.
fn by_driver(claims: &[Claim]) -> BTreeMap<String, Vec<dra::Claim>> {
    let mut batches: BTreeMap<String, Vec<dra::Claim>> = BTreeMap::new();
    for claim in claims {
        for driver in claim.drivers.keys() {
            batches.entry(driver.clone()).or_default().push(dra::Claim {
                namespace: claim.namespace.clone(),
                uid: claim.uid.clone(),
                name: claim.name.clone(),
            });
        }
    }
    batches
}

/// Whether a driver has answered for every claim it was asked about, for no other, and well.
fn check<'a>(
    call: &str,
    asked: &[dra::Claim],
    answers: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<(), String> {
    let mut answered = 0;
    for (uid, error) in answers {
        let claim = asked.iter().find(|claim| claim.uid == uid);
        let claim = claim.ok_or_else(|| format!("{call} returned result for unknown claim UID {uid}"))?;
        if !error.is_empty() {
            return Err(format!("{call} failed for ResourceClaim {}: {error}", claim.name));
        }
        answered += 1;
    }
    match asked.len() - answered {
        0 => Ok(()),
        missing => Err(format!("{call} skipped {missing} ResourceClaims")),
    }
}

fn device(from: dra::Device) -> Device {
    Device {
        pool: from.pool_name,
        device: from.device_name,
        share_id: from.share_id,
        requests: from.request_names,
        cdi: from.cdi_device_ids,
    }
}
