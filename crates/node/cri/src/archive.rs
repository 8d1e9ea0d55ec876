//! Reads image archives: what `docker save` writes and OCI image layouts in a tar, either of them
//! possibly compressed with gzip.
//!
//! Nothing is unpacked. The archive is indexed once (name to place in the file) and blobs are read
//! from where they are, so a hostile name in the archive reaches no file system.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::names::{NameError, normalize_image_name};

/// Manifests and configurations are small; whoever sends a larger one wants our memory.
const MAX_DOCUMENT_BYTES: u64 = 8 << 20;
/// Indexes may hold indexes; nobody nests them deeper than this.
const MAX_INDEX_DEPTH: usize = 4;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// Why a file is no image archive we can import.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file cannot be read.
    #[error("reading {path}")]
    Read {
        /// The archive.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Neither `manifest.json` nor `index.json` is in it.
    #[error("{path} is neither a docker archive nor an OCI image layout")]
    Unknown {
        /// The archive.
        path: PathBuf,
    },
    /// A file that the archive's own documents name is not in it.
    #[error("the archive lacks {name}")]
    Missing {
        /// Name inside the archive.
        name: String,
    },
    /// A document is not the JSON it should be.
    #[error("{name} in the archive is malformed")]
    Document {
        /// Name inside the archive.
        name: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A document is larger than any real one.
    #[error("{name} in the archive is larger than {MAX_DOCUMENT_BYTES} bytes")]
    TooLarge {
        /// Name inside the archive.
        name: String,
    },
    /// A blob's content is not what its name says.
    #[error("{name} in the archive has digest {found}")]
    Digest {
        /// Name inside the archive.
        name: String,
        /// The digest of what is there.
        found: String,
    },
    /// The archive names no image, so nothing could refer to what is in it.
    #[error("the archive gives its image no name")]
    Unnamed,
    /// A name in the archive is no image reference.
    #[error("image name in the archive")]
    Name(#[from] NameError),
}

/// An image ready for a content store: blobs in the order to write them (children first), and names.
#[derive(Debug)]
pub struct Images {
    /// In the order to write them.
    pub blobs: Vec<Blob>,
    /// Full names, with what they point at.
    pub names: Vec<(String, Descriptor)>,
}

/// One blob, and the labels that tell the store's garbage collector what it refers to.
#[derive(Debug)]
pub struct Blob {
    /// What its content hashes to.
    pub digest: String,
    /// In bytes.
    pub size: u64,
    /// For containerd's collector.
    pub labels: BTreeMap<String, String>,
    /// Its content.
    pub source: Source,
}

/// Where a blob's bytes are.
#[derive(Debug, Clone)]
pub enum Source {
    /// At an offset of the archive.
    File {
        /// The archive.
        file: Arc<File>,
        /// Where the blob begins.
        offset: u64,
    },
    /// Made by us: the manifest of a docker archive.
    Memory(Arc<[u8]>),
}

impl Source {
    /// Fills `buffer` from `position` within the blob.
    ///
    /// # Errors
    /// The archive ends before, or cannot be read.
    pub fn read(&self, position: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        match self {
            Self::File { file, offset } => file.read_exact_at(buffer, offset + position),
            Self::Memory(bytes) => {
                let start = usize::try_from(position).unwrap_or(usize::MAX);
                let part = bytes.get(start..start + buffer.len()).ok_or(std::io::ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(part);
                Ok(())
            }
        }
    }
}

/// A pointer to a blob, as indexes and manifests write it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    /// What the blob is.
    pub media_type: String,
    /// What its content hashes to.
    pub digest: String,
    /// In bytes.
    pub size: u64,
    /// As they are written.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

struct Archive {
    file: Arc<File>,
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone)]
enum Entry {
    File { offset: u64, size: u64 },
    Link(String),
}

/// Reads what an archive holds. Blocking: reads the whole file once.
///
/// # Errors
/// The file cannot be read, or is no archive of images.
pub fn read(path: &Path) -> Result<Images, ArchiveError> {
    let failed = |source| ArchiveError::Read { path: path.to_owned(), source };
    let archive = Archive::open(path).map_err(failed)?;
    let docker = archive.entries.contains_key("manifest.json");
    let oci = archive.entries.contains_key("index.json");
    if !docker && !oci {
        return Err(ArchiveError::Unknown { path: path.to_owned() });
    }
    // Newer docker writes both; its OCI part keeps the original digests, if it carries names.
    if oci {
        let images = from_oci(&archive)?;
        if !images.names.is_empty() {
            return Ok(images);
        }
    }
    let images = if docker { from_docker(&archive, failed)? } else { return Err(ArchiveError::Unnamed) };
    if images.names.is_empty() { Err(ArchiveError::Unnamed) } else { Ok(images) }
}

impl Archive {
    fn open(path: &Path) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        let mut magic = [0; 2];
        let compressed = file.read(&mut magic)? == 2 && magic == [0x1f, 0x8b];
        file.rewind()?;
        if compressed {
            // Blobs are read by position, so the tar must be plain: an unnamed file holds it.
            let mut plain = tempfile::tempfile()?;
            std::io::copy(&mut flate2::read::MultiGzDecoder::new(file), &mut plain)?;
            plain.seek(SeekFrom::Start(0))?;
            file = plain;
        }
        let mut entries = BTreeMap::new();
        let mut reader = tar::Archive::new(&file);
        for entry in reader.entries_with_seek()? {
            let entry = entry?;
            let Some(name) = clean(&String::from_utf8_lossy(&entry.path_bytes())) else { continue };
            let kind = entry.header().entry_type();
            if kind.is_file() {
                entries.insert(name, Entry::File { offset: entry.raw_file_position(), size: entry.size() });
            } else if kind.is_symlink() || kind.is_hard_link() {
                let Some(target) = entry.link_name_bytes() else { continue };
                let target = String::from_utf8_lossy(&target).into_owned();
                // A hard link names from the root of the archive, a symbolic one from its directory.
                let target = match name.rsplit_once('/') {
                    Some((directory, _)) if kind.is_symlink() => format!("{directory}/{target}"),
                    _ => target,
                };
                if let Some(target) = clean(&target) {
                    entries.insert(name, Entry::Link(target));
                }
            }
        }
        Ok(Self { file: Arc::new(file), entries })
    }

    /// Where a file is, links followed a few times.
    fn find(&self, name: &str) -> Result<(u64, u64), ArchiveError> {
        let missing = || ArchiveError::Missing { name: name.to_owned() };
        let mut at = clean(name).ok_or_else(missing)?;
        for _ in 0..8 {
            match self.entries.get(&at).ok_or_else(missing)? {
                Entry::File { offset, size } => return Ok((*offset, *size)),
                Entry::Link(target) => at.clone_from(target),
            }
        }
        Err(missing())
    }

    fn document(&self, name: &str) -> Result<Vec<u8>, ArchiveError> {
        let (offset, size) = self.find(name)?;
        if size > MAX_DOCUMENT_BYTES {
            return Err(ArchiveError::TooLarge { name: name.to_owned() });
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|source| ArchiveError::Read { path: name.into(), source })?;
        Ok(bytes)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, ArchiveError> {
        parse(name, &self.document(name)?)
    }

    fn digest_of(&self, offset: u64, size: u64) -> std::io::Result<String> {
        let source = Source::File { file: self.file.clone(), offset };
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        let mut position = 0;
        while position < size {
            let step = usize::try_from((size - position).min(buffer.len() as u64)).unwrap_or(0);
            source.read(position, &mut buffer[..step])?;
            hash.update(&buffer[..step]);
            position += step as u64;
        }
        Ok(format!("sha256:{:x}", hash.finalize()))
    }

    fn blob(&self, offset: u64, digest: String, size: u64, labels: BTreeMap<String, String>) -> Blob {
        Blob { digest, size, labels, source: Source::File { file: self.file.clone(), offset } }
    }
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes).map_err(|source| ArchiveError::Document { name: name.to_owned(), source })
}

/// A name inside the archive without `.` and `..`; None if it would leave the archive.
fn clean(name: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn label(kind: &str, digest: &str) -> (String, String) {
    (format!("containerd.io/gc.ref.content.{kind}"), digest.to_owned())
}

fn manifest_labels(manifest: &Manifest) -> BTreeMap<String, String> {
    let layers = manifest.layers.iter().enumerate().map(|(i, layer)| label(&format!("l.{i}"), &layer.digest));
    std::iter::once(label("config", &manifest.config.digest)).chain(layers).collect()
}

fn from_docker(
    archive: &Archive,
    failed: impl Fn(std::io::Error) -> ArchiveError,
) -> Result<Images, ArchiveError> {
    let mut images = Images { blobs: Vec::new(), names: Vec::new() };
    let mut written = BTreeSet::new();
    for image in archive.json::<Vec<DockerImage>>("manifest.json")? {
        let mut add = |name: &str, media_type: &dyn Fn(&[u8]) -> &'static str| {
            let (offset, size) = archive.find(name)?;
            let digest = archive.digest_of(offset, size).map_err(&failed)?;
            let mut head = [0; 2];
            if size >= 2 {
                archive.file.read_exact_at(&mut head, offset).map_err(&failed)?;
            }
            if written.insert(digest.clone()) {
                images.blobs.push(archive.blob(offset, digest.clone(), size, BTreeMap::new()));
            }
            Ok::<_, ArchiveError>(Descriptor {
                media_type: media_type(&head).to_owned(),
                digest,
                size,
                annotations: BTreeMap::new(),
            })
        };
        let config = add(&image.config, &|_| DOCKER_CONFIG)?;
        let gzip = |head: &[u8]| if head == [0x1f, 0x8b] { DOCKER_LAYER_GZIP } else { DOCKER_LAYER };
        let layers =
            image.layers.iter().map(|layer| add(layer, &gzip)).collect::<Result<Vec<_>, ArchiveError>>()?;
        let manifest = Manifest { schema_version: 2, media_type: DOCKER_MANIFEST.to_owned(), config, layers };
        let bytes = serde_json::to_vec(&manifest)
            .map_err(|source| ArchiveError::Document { name: "manifest.json".to_owned(), source })?;
        let target = Descriptor {
            media_type: DOCKER_MANIFEST.to_owned(),
            digest: format!("sha256:{:x}", Sha256::digest(&bytes)),
            size: bytes.len() as u64,
            annotations: BTreeMap::new(),
        };
        images.blobs.push(Blob {
            digest: target.digest.clone(),
            size: target.size,
            labels: manifest_labels(&manifest),
            source: Source::Memory(bytes.into()),
        });
        for tag in image.repo_tags.unwrap_or_default() {
            images.names.push((normalize_image_name(&tag)?, target.clone()));
        }
    }
    Ok(images)
}

fn from_oci(archive: &Archive) -> Result<Images, ArchiveError> {
    let mut images = Images { blobs: Vec::new(), names: Vec::new() };
    let mut written = BTreeSet::new();
    for descriptor in archive.json::<Index>("index.json")?.manifests {
        let full = descriptor.annotations.get("io.containerd.image.name");
        let short = descriptor.annotations.get("org.opencontainers.image.ref.name");
        // The short form is often only a tag ("v1"), which names nothing.
        let name = match (full, short) {
            (Some(name), _) => Some(normalize_image_name(name)?),
            (None, Some(name)) if name.contains(['/', ':']) => Some(normalize_image_name(name)?),
            _ => None,
        };
        add_tree(archive, &descriptor, MAX_INDEX_DEPTH, &mut written, &mut images.blobs)?;
        if let Some(name) = name {
            let target = Descriptor { annotations: BTreeMap::new(), ..descriptor };
            images.names.push((name, target));
        }
    }
    Ok(images)
}

/// Adds a descriptor's blob after everything it refers to. Below an index, manifests for platforms
/// that the archive does not carry are left out.
fn add_tree(
    archive: &Archive,
    descriptor: &Descriptor,
    depth: usize,
    written: &mut BTreeSet<String>,
    blobs: &mut Vec<Blob>,
) -> Result<(), ArchiveError> {
    if !written.insert(descriptor.digest.clone()) {
        return Ok(());
    }
    let name = blob_name(&descriptor.digest)?;
    let (offset, size) = archive.find(&name)?;
    let mut labels = BTreeMap::new();
    match descriptor.media_type.as_str() {
        OCI_INDEX | DOCKER_LIST if depth > 0 => {
            let index: Index = archive.json(&name)?;
            for (i, child) in index.manifests.iter().enumerate() {
                if archive.find(&blob_name(&child.digest)?).is_ok() {
                    labels.extend([label(&format!("m.{i}"), &child.digest)]);
                    add_tree(archive, child, depth - 1, written, blobs)?;
                }
            }
        }
        OCI_MANIFEST | DOCKER_MANIFEST => {
            let manifest: Manifest = archive.json(&name)?;
            for child in std::iter::once(&manifest.config).chain(&manifest.layers) {
                add_tree(archive, child, 0, written, blobs)?;
            }
            labels = manifest_labels(&manifest);
        }
        _ => {}
    }
    let found = archive
        .digest_of(offset, size)
        .map_err(|source| ArchiveError::Read { path: name.as_str().into(), source })?;
    if found != descriptor.digest {
        return Err(ArchiveError::Digest { name, found });
    }
    blobs.push(archive.blob(offset, found, size, labels));
    Ok(())
}

fn blob_name(digest: &str) -> Result<String, ArchiveError> {
    match digest.split_once(':') {
        Some(("sha256", hex)) if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Ok(format!("blobs/sha256/{hex}"))
        }
        _ => Err(ArchiveError::Missing { name: format!("a blob with digest {digest}") }),
    }
}

#[cfg(test)]
mod tests;
