//! Static pods: pods from files of this node or from a URL (`url`), which run whether or not there is an API server. The API
//! shows each by a mirror (`mirror`), which is an image and no more: what becomes of it is undone.
//!
//! A file is read again when it changes. One that cannot be read any more keeps the pod it had: half a file, as editors
//! leave it, must not end a node's API server. A file that is gone takes its pod with it.

pub(crate) mod mirror;
pub(crate) mod url;

use std::{collections::BTreeMap, fs, io, path::Path, path::PathBuf, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Pod, Toleration};
use podium_api::{field::Errors, kinds};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::{directory_watch::DirectoryWatch, environment::DataRef, pod, volumes::payload, worker};

/// Larger files and answers are no pods; upstream's limit.
const MAX_BYTES: usize = 10 << 20;
/// Quiet after a change, so that a file is read whole; and the longest wait for it.
const QUIET: Duration = Duration::from_millis(50);
const NO_QUIET: Duration = Duration::from_secs(2);

/// Why a text is no static pod; upstream's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StaticPodError {
    #[error("cannot read the file: {0}")]
    Read(#[from] io::Error),
    #[error("file is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("couldn't parse as pod: {0}")]
    Parse(String),
    #[error("invalid pod: {0}")]
    Invalid(String),
    #[error("static pods may not reference {0}")]
    References(&'static str),
}

/// The file or directory that static pods come from.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    node: String,
    /// The last good pod of each file.
    pods: BTreeMap<PathBuf, Arc<Pod>>,
}

impl Source {
    pub(crate) fn new(path: &Path, node: &str) -> Self {
        Self { path: path.to_owned(), node: node.to_owned(), pods: BTreeMap::new() }
    }

    /// The pods of all files as they are now, by the files' names. Blocking.
    pub(crate) fn read(&mut self) -> Vec<Arc<Pod>> {
        let files = match files(&self.path) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "static pods cannot be read: they stay as they were");
                return self.pods.values().cloned().collect();
            }
        };
        self.pods.retain(|path, _| files.contains(path));
        for path in files {
            match read_file(&path, &self.node) {
                Ok(found) => {
                    if self.pods.get(&path).is_none_or(|known| **known != found) {
                        self.pods.insert(path, Arc::new(found));
                    }
                }
                Err(error) => tracing::warn!(path = %path.display(), %error, "not a static pod"),
            }
        }
        self.pods.values().cloned().collect()
    }

    /// Waits until something may have changed, at most `longest`.
    async fn changed(&self, watch: Option<&DirectoryWatch>, longest: Duration) -> io::Result<()> {
        let Some(watch) = watch else {
            tokio::time::sleep(longest).await;
            return Ok(());
        };
        let Ok(first) = tokio::time::timeout(longest, watch.changed()).await else { return Ok(()) };
        first?;
        let settle = async {
            while let Ok(more) = tokio::time::timeout(QUIET, watch.changed()).await {
                more?;
            }
            Ok(())
        };
        tokio::time::timeout(NO_QUIET, settle).await.unwrap_or(Ok(()))
    }

    /// Tells of the pods whenever they may have changed, and at the latest after `longest`.
    pub(crate) async fn follow(mut self, pods: watch::Sender<Vec<Arc<Pod>>>, longest: Duration) {
        loop {
            let directory = if self.path.is_dir() { Some(self.path.as_path()) } else { self.path.parent() };
            let watch = directory.and_then(|directory| DirectoryWatch::new(directory).ok());
            loop {
                let read = tokio::task::spawn_blocking(move || {
                    let found = self.read();
                    (self, found)
                });
                let Ok((back, found)) = read.await else { return };
                self = back;
                pods.send_if_modified(|known| {
                    let changed = *known != found;
                    *known = found;
                    changed
                });
                // A directory that came, went or was replaced needs another watch.
                if self.changed(watch.as_ref(), longest).await.is_err()
                    || watch.is_none()
                    || !self.path.exists()
                {
                    break;
                }
            }
        }
    }
}

/// The files that may be pods: the path itself, or what lies in it, but for hidden files.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path, node: &str) -> Result<Pod, StaticPodError> {
    if fs::metadata(path)?.len() > MAX_BYTES as u64 {
        return Err(StaticPodError::TooLarge);
    }
    parse(&fs::read_to_string(path)?, Origin::File(path), node)
}

/// Where a static pod comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin<'a> {
    File(&'a Path),
    Url(&'a str),
}

fn decode(text: &str) -> Result<Value, StaticPodError> {
    serde_norway::from_str(text).map_err(|error| StaticPodError::Parse(error.to_string()))
}

fn is_kind(object: &Value, kind: &str) -> bool {
    object["apiVersion"] == "v1" && object["kind"] == kind
}

/// Reads a pod from a text and makes it this node's own.
pub(crate) fn parse(text: &str, origin: Origin<'_>, node: &str) -> Result<Pod, StaticPodError> {
    let object = decode(text)?;
    if !is_kind(&object, "Pod") {
        return Err(StaticPodError::Parse("not a Pod of v1".to_owned()));
    }
    read_object(object, origin, node)
}

/// Makes a pod that has been read this node's own.
fn read_object(mut object: Value, origin: Origin<'_>, node: &str) -> Result<Pod, StaticPodError> {
    if !(object["spec"].is_object() || object["spec"].is_null()) {
        return Err(StaticPodError::Parse("spec is not an object".to_owned()));
    }
    let invalid = |why: &str| StaticPodError::Invalid(why.to_owned());
    let name = object["metadata"]["name"].as_str().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| invalid("name is needed for the pod"))?.to_owned();
    let own = object["metadata"]["uid"].as_str().filter(|uid| !uid.is_empty()).map(str::to_owned);
    let uid = own.unwrap_or_else(|| hash(&object, origin, node));
    // It becomes the name of directories.
    if !uid.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-') {
        return Err(invalid("metadata.uid: only letters, digits and dashes may be in it"));
    }
    let meta = object["metadata"].as_object_mut().ok_or_else(|| invalid("no metadata"))?;
    meta.insert("name".to_owned(), format!("{name}-{}", node.to_lowercase()).into());
    meta.remove("resourceVersion");
    meta.entry("namespace").or_insert_with(|| "default".into());
    meta.insert("uid".to_owned(), uid.into());
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    object["spec"]["nodeName"] = node.into();
    let rules = kinds::rules("", "Pod");
    rules.default(&mut object);
    let mut errors = Errors::new();
    kinds::validate_metadata(rules, true, &object, &mut errors);
    rules.validate(&object, &mut errors);
    if !errors.is_empty() {
        let texts: Vec<String> =
            errors.0.iter().map(|error| format!("{}: {}", error.field, error.message)).collect();
        return Err(StaticPodError::Invalid(texts.join(", ")));
    }
    let pod: Pod =
        serde_json::from_value(object).map_err(|error| StaticPodError::Parse(error.to_string()))?;
    if let Some(kind) = referenced(&pod) {
        return Err(StaticPodError::References(kind));
    }
    Ok(adopted(pod, origin))
}

/// What marks a pod as static: annotations, a toleration of everything that would evict it, and the first status. As
/// upstream has it, pods from a URL tolerate no more than they say.
fn adopted(mut pod: Pod, origin: Origin<'_>) -> Pod {
    let (source, endures) = match origin {
        Origin::File(_) => ("file", true),
        Origin::Url(_) => ("http", false),
    };
    let uid = pod::uid(&pod).to_owned();
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(pod::CONFIG_HASH.to_owned(), uid);
    annotations.insert(pod::CONFIG_SOURCE.to_owned(), source.to_owned());
    let everything = Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    };
    if let Some(spec) = pod.spec.as_mut().filter(|_| endures) {
        let tolerations = spec.tolerations.get_or_insert_default();
        if !tolerations.contains(&everything) {
            tolerations.push(everything);
        }
    }
    pod.status.get_or_insert_default().phase = Some("Pending".to_owned());
    pod
}

/// The uid of a pod without one: the same for the same text at the same place of the same node.
fn hash(object: &Value, origin: Origin<'_>, node: &str) -> String {
    let place = match origin {
        Origin::File(path) => path.as_os_str().as_encoded_bytes(),
        Origin::Url(url) => url.as_bytes(),
    };
    let digest = Sha256::new()
        .chain_update(object.to_string())
        .chain_update([0])
        .chain_update(node)
        .chain_update([0])
        .chain_update(place)
        .finalize();
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The kind of an object of the API that the pod refers to: it must run without.
fn referenced(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    if spec.service_account_name.as_ref().is_some_and(|name| !name.is_empty()) {
        return Some("serviceaccounts");
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return Some("resourceclaims");
    }
    if let Some(first) = worker::references(pod).first() {
        return Some(match first {
            DataRef::ConfigMap(_) => "configmaps",
            DataRef::Secret(_) => "secrets",
        });
    }
    if !payload::references(pod).1.is_empty() {
        return Some("serviceaccounts");
    }
    for volume in spec.volumes.iter().flatten() {
        if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
            return Some("persistentvolumeclaims");
        }
        let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for source in projected {
            if source.cluster_trust_bundle.is_some() {
                return Some("clustertrustbundles");
            }
        }
    }
    None
}

#[cfg(test)]
mod tests;
