//! What becomes of volumes whose claims are gone, where it is done here.

use std::path::{Component, Path};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, Pod};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use podium_api::volumes::phase;
use podium_client::{ObjectKey, is_already_exists, is_not_found};
use tokio::time::Instant;

use super::claims::Event;
use super::recycle::{self, Step};
use super::shell::{Controller, reference_key};
use super::status::FAILED;
use super::{decide, plugins};
use crate::context::Error;
use crate::metrics::volumes::operation_ended;
use crate::owner;
use crate::pods;

impl Controller {
    /// Removes what a volume stands for, and the volume.
    pub(super) async fn remove(&self, volume: &PersistentVolume, path: &str) -> Result<(), Error> {
        let name = owner::name(&volume.metadata);
        // What is removed does not come back, so the caches' word is not enough.
        let api: Api<PersistentVolume> = Api::all(self.context.client.clone());
        let Some(live) = api.get_opt(name).await.map_err(Error::call("get volume", name))? else {
            return Ok(());
        };
        if live.spec != volume.spec || live.metadata.uid != volume.metadata.uid || !decide::is_over(&live) {
            return Ok(());
        }
        let started = Instant::now();
        let removed = remove_path(path).await;
        operation_ended(plugins::HOST_PATH, "volume_delete", removed.is_ok(), started.elapsed());
        if let Err(why) = removed {
            self.operations.failed(name);
            if phase(volume) != FAILED {
                let written = self.write_phase(volume, FAILED).await?;
                self.tell(written.as_ref(), Event::warning("VolumeFailedDelete", why));
            }
            return Ok(());
        }
        let mut live = Arc::new(live);
        if let Some(finalizers) = plugins::released(&live.metadata) {
            let mut free = PersistentVolume::clone(&live);
            free.metadata.finalizers = Some(finalizers);
            live = self.write_volume(&free).await?;
        }
        let preconditions = Preconditions { uid: live.metadata.uid.clone(), resource_version: None };
        let options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match api.delete(name, &options).await {
            Err(error) if !is_not_found(&error) => Err(Error::call("delete volume", name)(error)),
            _ => Ok(()),
        }
    }

    pub(super) async fn recycle(&self, volume: &PersistentVolume) -> Result<(), Error> {
        let key = recycle::pod_key(volume);
        let claim = reference_key(volume).unwrap_or_default();
        let users = self.pods.by_index(pods::BY_CLAIM, &claim.to_string());
        let users: Vec<_> = users.iter().filter(|pod| !pods::is_finished(pod)).collect();
        if !users.is_empty() && self.claims.get(&claim).is_none() {
            let names: Vec<_> = users.iter().map(|pod| ObjectKey::of(pod.as_ref()).to_string()).collect();
            let message = format!("Volume is used by pods: {}", names.join(","));
            self.tell(volume, Event::normal("VolumeFailedRecycle", message));
            let object = owner::name(&volume.metadata).to_owned();
            return Err(Error::Unusable { object, why: "pods still use it".to_owned() });
        }
        let pod = self.pods.get(&key);
        let ours = pod.as_ref().is_some_and(|pod| self.recyclers.lock().contains(owner::uid(&pod.metadata)));
        match recycle::decide(volume, pod.as_deref(), ours) {
            Step::Wait => {}
            Step::Start(pod) => {
                let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
                match api.create(&PostParams::default(), &pod).await {
                    Ok(created) => {
                        self.recyclers.lock().extend(created.metadata.uid);
                    }
                    // It is ours and the cache does not show it yet, or it will show itself as another's.
                    Err(error) if is_already_exists(&error) => {}
                    Err(error) => return Err(Error::call("create pod", key.to_string())(error)),
                }
            }
            Step::Clear => self.end_recycler(pod.as_deref(), &key).await?,
            Step::Finish => {
                self.end_recycler(pod.as_deref(), &key).await?;
                self.tell(volume, Event::normal("VolumeRecycled", "Volume recycled"));
                self.unbind(&decide::unbound(volume)).await?;
            }
            Step::Fail(why) => {
                self.end_recycler(pod.as_deref(), &key).await?;
                if phase(volume) != FAILED {
                    let written = self.write_phase(volume, FAILED).await?;
                    self.tell(written.as_ref(), Event::warning("VolumeFailedRecycle", why));
                }
            }
        }
        Ok(())
    }

    async fn end_recycler(&self, pod: Option<&Pod>, key: &ObjectKey) -> Result<(), Error> {
        let Some(pod) = pod else { return Ok(()) };
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match api.delete(&key.name, &options).await {
            Err(error) if !is_not_found(&error) => Err(Error::call("delete pod", key.to_string())(error)),
            _ => {
                self.recyclers.lock().remove(owner::uid(&pod.metadata));
                Ok(())
            }
        }
    }
}

/// Removes a path of this host, which must lie below `/tmp` by its name and when its links are followed.
async fn remove_path(path: &str) -> Result<(), String> {
    let named = Path::new(path);
    let plain = named.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let refused = || format!("host_path deleter only supports /tmp/.+ but received provided {path}");
    let below = |path: &Path| path.starts_with("/tmp") && path != Path::new("/tmp");
    if !plain || !below(named) {
        return Err(refused());
    }
    let real = match tokio::fs::canonicalize(named).await {
        Ok(real) => real,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    if !below(&real) {
        return Err(refused());
    }
    let removed = match tokio::fs::metadata(&real).await.map_err(|error| error.to_string())?.is_dir() {
        true => tokio::fs::remove_dir_all(&real).await,
        false => tokio::fs::remove_file(&real).await,
    };
    removed.map_err(|error| error.to_string())
}
