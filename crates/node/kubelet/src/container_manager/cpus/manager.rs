//! The pool in its checkpoint, and the containers that share: whenever the pool changes, they are told where to run.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use podium_cri::{Cri, v1};
use tokio::sync::Notify;

use super::{
    super::{
        AllocateError, SettingsError,
        checkpoint::{self, CheckpointError},
        cpu_set::CpuSet,
        numa::{Hints, NodeMask},
    },
    pool::{Kept, Pool, wanted},
};
use crate::{pod, record::label};

/// The checkpoint's name, upstream's.
const CHECKPOINT: &str = "cpu_manager_state";
/// How often containers are looked at without any cause; upstream's `cpuManagerReconcilePeriod`.
const RECONCILE_EVERY: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(crate) struct CpuManager {
    file: PathBuf,
    /// None under the policy `none`: every container runs everywhere.
    pool: Option<Mutex<Pool>>,
    changed: Notify,
}

impl CpuManager {
    /// With what the checkpoint says was given out. A checkpoint that cannot be read, or that cannot be of this policy on this
    /// machine, is an error under the static policy: containers may run on processors that would be given to others.
    pub(crate) fn open(root: &Path, pool: Option<Pool>) -> Result<Self, SettingsError> {
        let file = root.join(CHECKPOINT);
        let failed = |error: &dyn std::fmt::Display| SettingsError::Checkpoint {
            manager: "CPU",
            file: file.clone(),
            message: format!("could not restore state from checkpoint: {error}"),
        };
        let kept = checkpoint::read::<Kept>(&file);
        let Some(mut pool) = pool else {
            match kept {
                Ok(Some(kept)) if kept.policy_name != "none" => {
                    return Err(failed(&format!(
                        "configured policy \"none\" differs from state checkpoint policy {:?}",
                        kept.policy_name
                    )));
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "an old state of the CPU manager is ignored"),
            }
            return Ok(Self { file, pool: None, changed: Notify::new() });
        };
        match kept {
            Ok(None) => {}
            Ok(Some(kept)) if kept.policy_name != "static" => {
                return Err(failed(&format!(
                    "configured policy \"static\" differs from state checkpoint policy {:?}",
                    kept.policy_name
                )));
            }
            Ok(Some(kept)) => pool.recall(kept).map_err(|error| failed(&error))?,
            Err(error) => return Err(failed(&error)),
        }
        let this = Self { file: file.clone(), pool: Some(Mutex::new(pool)), changed: Notify::new() };
        this.keep().map_err(|error| failed(&error))?;
        Ok(this)
    }

    fn keep(&self) -> Result<(), CheckpointError> {
        match &self.pool {
            Some(pool) => checkpoint::write(&self.file, &pool.lock().kept()),
            None => Ok(()),
        }
    }

    /// Whether a container gets processors for itself.
    pub(crate) fn pins(&self, of: &Pod, container: &Container) -> bool {
        self.pool.is_some() && wanted(of, container) > 0
    }

    /// Whether a container of the pod does.
    pub(crate) fn concerns(&self, of: &Pod) -> bool {
        pod::containers(of).iter().chain(pod::init_containers(of)).any(|container| self.pins(of, container))
    }

    pub(crate) fn hints(&self, of: &Pod, container: &Container) -> Hints {
        self.pool.as_ref().map(|pool| pool.lock().hints(of, container)).unwrap_or_default()
    }

    pub(crate) fn pod_hints(&self, of: &Pod) -> Hints {
        self.pool.as_ref().map(|pool| pool.lock().pod_hints(of)).unwrap_or_default()
    }

    /// Gives a container its processors. What it has already stays.
    pub(crate) fn allocate(
        &self,
        of: &Pod,
        container: &Container,
        affinity: Option<NodeMask>,
    ) -> Result<(), AllocateError> {
        let Some(pool) = &self.pool else { return Ok(()) };
        if pool.lock().allocate(of, container, affinity)? {
            self.keep().map_err(|error| error.to_string())?;
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Where a container runs; None if that is everywhere.
    pub(crate) fn cpus(&self, uid: &str, container: &str) -> Option<CpuSet> {
        self.pool.as_ref().map(|pool| pool.lock().cpus(uid, container))
    }

    /// What a container has for itself.
    pub(crate) fn exclusive(&self, uid: &str, container: &str) -> CpuSet {
        let pool = self.pool.as_ref().map(Mutex::lock);
        pool.and_then(|pool| pool.entry(uid, container).cloned()).unwrap_or_default()
    }

    /// What those share that have none for themselves, and what others have. None: none are given out.
    pub(crate) fn shares(&self) -> Option<(CpuSet, CpuSet)> {
        let pool = self.pool.as_ref()?.lock();
        Some((pool.free(), pool.exclusive()))
    }

    /// Whether only whole cores are given.
    pub(crate) fn gives_whole_cores(&self) -> bool {
        self.pool.as_ref().is_some_and(|pool| pool.lock().options.full_physical_only)
    }

    /// What may be given out.
    pub(crate) fn allocatable(&self) -> CpuSet {
        self.pool.as_ref().map(|pool| pool.lock().allocatable()).unwrap_or_default()
    }

    /// Takes back what a pod had.
    pub(crate) fn release(&self, uid: &str) {
        let released = self.pool.as_ref().is_some_and(|pool| pool.lock().release(uid));
        self.released(released);
    }

    /// Takes back what pods had that are not `known` any more.
    pub(crate) fn retain(&self, known: &dyn Fn(&str) -> bool) {
        let released = self.pool.as_ref().is_some_and(|pool| pool.lock().retain(known));
        self.released(released);
    }

    fn released(&self, any: bool) {
        if !any {
            return;
        }
        if let Err(error) = self.keep() {
            tracing::error!(%error, "keeping the state of the CPU manager failed");
        }
        self.changed.notify_one();
    }

    /// Keeps running containers where they belong, until dropped.
    pub(crate) async fn run(&self, cri: &Cri) {
        if self.pool.is_none() {
            return std::future::pending().await;
        }
        let mut told: BTreeMap<String, CpuSet> = BTreeMap::new();
        loop {
            match self.reconcile(cri, &told).await {
                Ok(now) => told = now,
                Err(error) => tracing::warn!(%error, "keeping containers on their processors failed"),
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(RECONCILE_EVERY) => {}
            }
        }
    }

    /// Tells the containers that were not told yet where to run; gives what all were told.
    async fn reconcile(
        &self,
        cri: &Cri,
        told: &BTreeMap<String, CpuSet>,
    ) -> Result<BTreeMap<String, CpuSet>, podium_cri::Error> {
        let state = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() };
        let filter = v1::ContainerFilter { state: Some(state), ..Default::default() };
        let request = v1::ListContainersRequest { filter: Some(filter) };
        let mut now = BTreeMap::new();
        for one in cri.list_containers(request).await?.containers {
            let label = |key: &str| one.labels.get(key).map(String::as_str).unwrap_or_default();
            // Others may run containers here too.
            if label(label::POD_UID).is_empty() {
                continue;
            }
            let wanted = self.cpus(label(label::POD_UID), label(label::CONTAINER_NAME)).unwrap_or_default();
            if told.get(&one.id) != Some(&wanted) {
                let resources =
                    v1::LinuxContainerResources { cpuset_cpus: wanted.to_string(), ..Default::default() };
                let request = v1::UpdateContainerResourcesRequest {
                    container_id: one.id.clone(),
                    linux: Some(resources),
                    ..Default::default()
                };
                if let Err(error) = cri.update_container_resources(request).await {
                    tracing::warn!(container = one.id, %error, "a container was not told where to run");
                    continue;
                }
            }
            now.insert(one.id, wanted);
        }
        Ok(now)
    }
}
