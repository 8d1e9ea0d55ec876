//! What is on disk of a pod and a container: what CRI said, and how far it came. Each record is replaced whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use base64::engine::general_purpose::STANDARD;
use podium_cri::v1;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::cni::Network;

const RECORD: &str = "record.json";

/// How far a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// Being made; found like this after a crash, it is taken away.
    Creating,
    Ready,
    /// Its namespaces and network are gone.
    Stopped,
}

/// A pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) id: String,
    pub(crate) handler: String,
    pub(crate) created_at: i64,
    pub(crate) phase: Phase,
    pub(crate) network: Option<Network>,
    /// Where the network namespace was, for its removal.
    pub(crate) namespace: String,
    #[serde(with = "message")]
    pub(crate) config: v1::PodSandboxConfig,
}

/// An image that a container has for a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VolumeImage {
    pub(crate) id: String,
    /// Lowest first.
    pub(crate) layers: Vec<String>,
}

/// A container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) sandbox_id: String,
    pub(crate) created_at: i64,
    /// The image's id.
    pub(crate) image_id: String,
    /// The image's name with digest, or its id.
    pub(crate) image_ref: String,
    /// Layers it stands on, lowest first.
    pub(crate) layers: Vec<String>,
    /// Images it mounts, by the names that CRI's mounts give them: found once, so that a start mounts what was asked for,
    /// whatever the name means by then.
    #[serde(default)]
    pub(crate) volume_images: BTreeMap<String, VolumeImage>,
    pub(crate) stop_signal: i32,
    pub(crate) cgroup: String,
    #[serde(with = "message")]
    pub(crate) config: v1::ContainerConfig,
}

impl SandboxRecord {
    /// What is left of a pod whose record is broken, to be taken away: its id, and what the network would be now.
    pub(crate) fn remains(id: String, network: Option<Network>) -> Self {
        Self {
            id,
            handler: String::new(),
            created_at: 0,
            phase: Phase::Creating,
            network,
            namespace: String::new(),
            config: v1::PodSandboxConfig::default(),
        }
    }
}

impl ContainerRecord {
    /// Ids of the images that must stay while it is there: its own and its volumes'.
    pub(crate) fn all_images(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.image_id.as_str())
            .chain(self.volume_images.values().map(|image| image.id.as_str()))
    }

    /// The layers of those.
    pub(crate) fn all_layers(&self) -> impl Iterator<Item = &str> {
        self.layers
            .iter()
            .chain(self.volume_images.values().flat_map(|image| &image.layers))
            .map(String::as_str)
    }
}

/// Protobuf messages inside JSON.
mod message {
    use super::{Message, STANDARD};
    use base64::Engine as _;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<M: Message, S: Serializer>(message: &M, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(message.encode_to_vec()))
    }

    pub(super) fn deserialize<'de, M: Message + Default, D: Deserializer<'de>>(
        from: D,
    ) -> Result<M, D::Error> {
        let text = String::deserialize(from)?;
        let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
        M::decode(bytes.as_slice()).map_err(D::Error::custom)
    }
}

/// Replaces a private file. The first one is on the disk before it has its name: what replaces a file, file systems order
/// by themselves, and a pod's life need not wait for the disk each time.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let first = !path.exists();
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    if first {
        file.sync_all()?;
    }
    fs::rename(&fresh, path)
}

/// Makes a private directory with those above it.
pub(crate) fn directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a record into its directory.
pub(crate) fn save<T: Serialize>(directory: &Path, record: &T) -> io::Result<()> {
    write(&directory.join(RECORD), &serde_json::to_vec(record)?)
}

/// Reads a directory's record; `None` if there is none, as after a crash at the very beginning.
pub(crate) fn load<T: serde::de::DeserializeOwned>(directory: &Path) -> io::Result<Option<T>> {
    match fs::read(directory.join(RECORD)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a record is there but says nothing, as after a power cut; any other failure may pass.
pub(crate) fn is_broken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Directories below one.
pub(crate) fn below(directory: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut found: Vec<_> = fs::read_dir(directory)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_from_before_image_volumes_is_read() {
        let text = r#"{"id":"c","sandbox_id":"s","created_at":1,"image_id":"i","image_ref":"r","layers":["l"],
            "stop_signal":15,"cgroup":"/c","config":""}"#;
        let record: ContainerRecord = serde_json::from_str(text).unwrap();
        assert!(record.volume_images.is_empty());
        assert_eq!(record.all_layers().collect::<Vec<_>>(), ["l"]);
    }

    #[test]
    fn what_a_container_stands_on() {
        let text = r#"{"id":"c","sandbox_id":"s","created_at":1,"image_id":"i","image_ref":"r","layers":["l"],
            "volume_images":{"v:1":{"id":"j","layers":["m","n"]}},"stop_signal":15,"cgroup":"/c","config":""}"#;
        let record: ContainerRecord = serde_json::from_str(text).unwrap();
        assert_eq!(record.all_images().collect::<Vec<_>>(), ["i", "j"]);
        assert_eq!(record.all_layers().collect::<Vec<_>>(), ["l", "m", "n"]);
    }

    #[test]
    fn records_return_as_they_were() {
        let directory = tempfile::tempdir().unwrap();
        assert!(load::<SandboxRecord>(directory.path()).unwrap().is_none());
        let config = v1::PodSandboxConfig { hostname: "h".into(), ..Default::default() };
        let record = SandboxRecord {
            id: "s".into(),
            handler: String::new(),
            created_at: 1,
            phase: Phase::Ready,
            network: None,
            namespace: String::new(),
            config: config.clone(),
        };
        save(directory.path(), &record).unwrap();
        let whole = fs::read(directory.path().join(RECORD)).unwrap();
        for broken in [&b""[..], &whole[..whole.len() / 2], &[0; 64], b"{}"] {
            fs::write(directory.path().join(RECORD), broken).unwrap();
            let error = load::<SandboxRecord>(directory.path()).unwrap_err();
            assert!(is_broken(&error), "{error}");
        }
        save(directory.path(), &record).unwrap();
        let found: SandboxRecord = load(directory.path()).unwrap().unwrap();
        assert_eq!((found.config, found.phase), (config, Phase::Ready));
    }
}
