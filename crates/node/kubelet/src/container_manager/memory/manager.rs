//! The pool in its checkpoint.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;

use super::{
    super::{
        SettingsError,
        checkpoint::{self, CheckpointError},
        numa::{Hints, NodeMask},
    },
    pool::{Amounts, Block, Kept, Pool, wanted},
};
use crate::pod;

/// The checkpoint's name, upstream's.
const CHECKPOINT: &str = "memory_manager_state";

/// See the module.
#[derive(Debug)]
pub(crate) struct MemoryManager {
    file: PathBuf,
    /// None under the policy `None`.
    pool: Option<Mutex<Pool>>,
}

impl MemoryManager {
    /// With what the checkpoint says was promised. A checkpoint that cannot be read, or that cannot be of this policy on this
    /// machine, is an error under the static policy.
    pub(crate) fn open(root: &Path, pool: Option<Pool>) -> Result<Self, SettingsError> {
        let file = root.join(CHECKPOINT);
        let failed = |error: &dyn std::fmt::Display| SettingsError::Checkpoint {
            manager: "memory",
            file: file.clone(),
            message: format!("could not restore state from checkpoint: {error}"),
        };
        let kept = checkpoint::read::<Kept>(&file);
        let Some(mut pool) = pool else {
            match kept {
                Ok(Some(kept)) if kept.policy_name != "None" => {
                    return Err(failed(&format!(
                        "[memorymanager] configured policy \"None\" differs from state checkpoint policy {:?}",
                        kept.policy_name
                    )));
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "an old state of the memory manager is ignored"),
            }
            return Ok(Self { file, pool: None });
        };
        match kept {
            Ok(None) => {}
            Ok(Some(kept)) if kept.policy_name != "Static" => {
                return Err(failed(&format!(
                    "[memorymanager] configured policy \"Static\" differs from state checkpoint policy {:?}",
                    kept.policy_name
                )));
            }
            Ok(Some(kept)) => pool.recall(kept).map_err(|error| failed(&error))?,
            Err(error) => return Err(failed(&error)),
        }
        let this = Self { file: file.clone(), pool: Some(Mutex::new(pool)) };
        this.keep().map_err(|error| failed(&error))?;
        Ok(this)
    }

    fn keep(&self) -> Result<(), CheckpointError> {
        match &self.pool {
            Some(pool) => checkpoint::write(&self.file, &pool.lock().kept()),
            None => Ok(()),
        }
    }

    /// Whether a container of the pod is to be promised memory.
    pub(crate) fn concerns(&self, of: &Pod) -> bool {
        let all = || pod::containers(of).iter().chain(pod::init_containers(of));
        self.pool.is_some() && all().any(|container| !wanted(of, container).is_empty())
    }

    /// Whether a container is to be promised memory.
    pub(crate) fn promises(&self, of: &Pod, container: &Container) -> bool {
        self.pool.is_some() && !wanted(of, container).is_empty()
    }

    pub(crate) fn hints(&self, of: &Pod, container: &Container) -> Hints {
        self.pool.as_ref().map(|pool| pool.lock().hints(of, container)).unwrap_or_default()
    }

    pub(crate) fn pod_hints(&self, of: &Pod) -> Hints {
        self.pool.as_ref().map(|pool| pool.lock().pod_hints(of)).unwrap_or_default()
    }

    /// Promises a container its memory. What it has already stays.
    pub(crate) fn allocate(
        &self,
        of: &Pod,
        container: &Container,
        affinity: Option<NodeMask>,
    ) -> Result<(), String> {
        let Some(pool) = &self.pool else { return Ok(()) };
        if pool.lock().allocate(of, container, affinity)? {
            self.keep().map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// What a container is promised.
    pub(crate) fn blocks(&self, uid: &str, container: &str) -> Vec<Block> {
        let pool = self.pool.as_ref().map(Mutex::lock);
        pool.and_then(|pool| pool.entry(uid, container).cloned()).unwrap_or_default()
    }

    /// The nodes that a container's memory comes from; None if that may be all of them.
    pub(crate) fn nodes(&self, uid: &str, container: &str) -> Option<NodeMask> {
        self.blocks(uid, container).first().map(|block| block.nodes)
    }

    /// What there is to promise, by node.
    pub(crate) fn allocatable(&self) -> BTreeMap<usize, Amounts> {
        self.pool.as_ref().map(|pool| pool.lock().allocatable().clone()).unwrap_or_default()
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
        if any && let Err(error) = self.keep() {
            tracing::error!(%error, "keeping the state of the memory manager failed");
        }
    }
}
