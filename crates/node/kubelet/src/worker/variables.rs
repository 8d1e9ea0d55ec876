//! Looks up what a container's environment is made of, and makes it.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
};

use k8s_openapi::api::core::v1::{Container, Pod};
use podium_client::{ObjectKey, error_chain};

use crate::{
    context::Shared,
    environment::{self, DataRef, EnvError, EnvFile, FileError, Sources},
    pod, volumes,
};

/// The variables of a container that starts now; the error is for its status.
pub(super) async fn of(
    shared: &Shared,
    pod: &Pod,
    spec: &Container,
    pod_ips: Vec<String>,
) -> Result<Vec<(String, String)>, String> {
    let sources = sources(shared, pod, spec, pod_ips).await?;
    environment::build(pod, spec, &sources).map_err(|error| {
        // The status does not say what is wrong with a file, as upstream's does not.
        if let EnvError::File(_) = error {
            let (error, pod) = (error_chain(&error), pod::full_name(pod));
            tracing::warn!(pod, container = spec.name, error, "a container's variables cannot be read");
        }
        error.to_string()
    })
}

async fn sources(
    shared: &Shared,
    pod: &Pod,
    spec: &Container,
    pod_ips: Vec<String>,
) -> Result<Sources, String> {
    // Without the Services a container would start blind and stay so; a static pod may be what brings the API.
    if !pod::is_static(pod) {
        shared.services.synced().await;
    }
    let namespace = pod::namespace(pod);
    let mut services = shared.services.list_namespace(namespace);
    if namespace != "default" {
        services.extend(shared.services.get(&ObjectKey::new("default", "kubernetes")));
    }
    let mut sources = Sources {
        files: files(shared, pod, spec).await?,
        services,
        pod_ips,
        host_ips: shared.host_ips(),
        allocatable: shared.machine.allocatable(&shared.config.settings),
        ..Default::default()
    };
    for reference in environment::references(spec) {
        match reference {
            DataRef::ConfigMap(name) => {
                let found = shared
                    .references
                    .config_map(namespace, &name)
                    .await
                    .map_err(|error| error.to_string())?;
                if let Some(object) = found {
                    let mut data: BTreeMap<String, Vec<u8>> = object
                        .data
                        .iter()
                        .flatten()
                        .map(|(key, value)| (key.clone(), value.clone().into_bytes()))
                        .collect();
                    data.extend(
                        object
                            .binary_data
                            .iter()
                            .flatten()
                            .map(|(key, value)| (key.clone(), value.0.clone())),
                    );
                    sources.config_maps.insert(name, data);
                }
            }
            DataRef::Secret(name) => {
                let found =
                    shared.references.secret(namespace, &name).await.map_err(|error| error.to_string())?;
                if let Some(object) = found {
                    sources.secrets.insert(name, object.data.clone().unwrap_or_default());
                }
            }
        }
    }
    Ok(sources)
}

/// The files that a container's environment comes from. Only an emptyDir may be their volume, as the API has it: what this
/// host has of its own must not be read for a pod.
async fn files(
    shared: &Shared,
    pod: &Pod,
    spec: &Container,
) -> Result<HashMap<(String, String), EnvFile>, String> {
    let mut places = Vec::new();
    let (directory, volumes) = (shared.pod_dir(pod::uid(pod)), volumes::wanted(pod));
    for (name, path) in environment::files(spec) {
        let volume = volumes.iter().find(|volume| volume.name == name && volume.empty_dir.is_some());
        let root = volume.and_then(|volume| volumes::host_path_of(&directory, volume));
        places.extend(root.map(|root| (name, path, root)));
    }
    if places.is_empty() {
        return Ok(HashMap::new());
    }
    let reading = tokio::task::spawn_blocking(move || {
        let read = |(name, path, root): (String, String, PathBuf)| {
            let text = volumes::env_file::read(&root, &path)
                .map(|content| content.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
                .map_err(|error| FileError::Read(error.to_string()));
            let at = root.join(path.trim_start_matches('/'));
            ((name, path), EnvFile { at, text })
        };
        places.into_iter().map(read).collect()
    });
    reading.await.map_err(|error| error.to_string())
}
