//! What is on disk of a pod and a container: what CRI said, and how far it came. Each record is replaced whole.

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
    pub(crate) stop_signal: i32,
    pub(crate) cgroup: String,
    #[serde(with = "message")]
    pub(crate) config: v1::ContainerConfig,
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

/// Replaces a private file.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
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
        let found: SandboxRecord = load(directory.path()).unwrap().unwrap();
        assert_eq!((found.config, found.phase), (config, Phase::Ready));
    }
}
