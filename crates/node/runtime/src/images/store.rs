//! The image store: content, layers and records together.
//!
//! Layers are unpacked under scratch names and renamed to their own when all are whole and their digests right. Whoever adds
//! an image holds the store open for adding; a collection waits until nobody does, so it never takes what is about to
//! get a name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use parking_lot::{Mutex, RwLock};
use podium_cri::archive;

use super::blobs::{BlobError, Blobs};
use super::manifest::{Descriptor, Document, ImageConfig, chain_ids, choose};
use super::pipeline;
use super::records::{Record, Records};
use super::unpack::{self, Limits, UnpackError, Usage};
use crate::remove;

/// Manifests and configurations are small.
const DOCUMENT_BYTES: u64 = 8 << 20;
/// Layers that an image may have. Source: Docker's limit. Each takes a descriptor while they are mounted.
const MAX_LAYERS: usize = 127;
/// The first bytes of compressed layers.
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Why an image was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// The archive is none.
    #[error(transparent)]
    Archive(#[from] archive::ArchiveError),
    /// Content is wrong or cannot be kept.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A layer was refused.
    #[error("layer {digest}")]
    Unpack {
        /// As it came.
        digest: String,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// A layer's content is not what the configuration says.
    #[error("layer {digest} unpacks to {found}, the image says {wanted}")]
    DiffId {
        /// As it came.
        digest: String,
        /// What the configuration says.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// A document is malformed.
    #[error("document {digest}")]
    Document {
        /// Which.
        digest: String,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Documents disagree, or lack what they must have.
    #[error("image: {0}")]
    Invalid(String),
    /// Nothing in the image runs on this machine.
    #[error("no match for platform in manifest: not found")]
    Platform,
    /// The file system failed.
    #[error("image store")]
    Io(#[from] io::Error),
}

/// The store.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) blobs: Blobs,
    records: Mutex<Records>,
    layers: PathBuf,
    limits: Limits,
    /// What each layer takes: it never changes, and counting walks all of it.
    sizes: Mutex<BTreeMap<String, Usage>>,
    /// Shared by those who add, taken alone by a collection.
    adding: RwLock<()>,
}

impl Store {
    /// Opens the store below `root`. Blocking, as all of this.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let layers = root.join("layers");
        fs::create_dir_all(layers.join("empty"))?;
        Ok(Self {
            blobs: Blobs::open(root)?,
            records: Mutex::new(Records::open(&root.join("images.json"))?),
            layers,
            limits: Limits::default(),
            sizes: Mutex::default(),
            adding: RwLock::new(()),
        })
    }

    /// The directory that holds the layers.
    pub(crate) fn layers(&self) -> &Path {
        &self.layers
    }

    /// What all layers take on the disk.
    pub(crate) fn usage(&self) -> Usage {
        let mut total = Usage::default();
        for entry in fs::read_dir(&self.layers).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let known = self.sizes.lock().get(&name).copied();
            let size = known.unwrap_or_else(|| {
                let size = unpack::usage(&entry.path());
                self.sizes.lock().insert(name, size);
                size
            });
            total += size;
        }
        total
    }

    pub(crate) fn list(&self) -> Vec<Record> {
        self.records.lock().all().cloned().collect()
    }

    pub(crate) fn find(&self, name: &str) -> Option<Record> {
        self.records.lock().find(name).cloned()
    }

    /// The configuration of an image.
    pub(crate) fn config(&self, record: &Record) -> Result<ImageConfig, ImageError> {
        parse(&record.id, &self.blobs.read(&record.id)?)
    }

    /// Loads an archive; the ids of what is in it.
    pub(crate) fn load(&self, path: &Path) -> Result<Vec<Record>, ImageError> {
        let _adding = self.adding.read();
        let images = archive::read(path)?;
        for blob in &images.blobs {
            self.blobs.put(&blob.digest, &mut Positioned { blob, at: 0 })?;
        }
        let mut loaded = Vec::new();
        for (name, descriptor) in &images.names {
            let target = Descriptor {
                media_type: descriptor.media_type.clone(),
                digest: descriptor.digest.clone(),
                size: descriptor.size,
                ..Descriptor::default()
            };
            loaded.push(self.adopt_from(name, &target, true)?);
        }
        Ok(loaded)
    }

    /// Makes an image of content that was pulled: layers unpacked, name recorded. `name` is whole, with tag or digest.
    pub(crate) fn adopt(&self, name: &str, target: &Descriptor) -> Result<Record, ImageError> {
        self.adopt_from(name, target, false)
    }

    fn adopt_from(&self, name: &str, target: &Descriptor, loaded: bool) -> Result<Record, ImageError> {
        let mut blobs = vec![target.digest.clone()];
        let mut document: Document = parse(&target.digest, &self.document(&target.digest)?)?;
        let mut manifest = target.digest.clone();
        if document.config.is_none() {
            // Those of other platforms are not here, which an archive may have left out.
            let chosen = choose(&document.manifests).ok_or(ImageError::Platform)?;
            manifest.clone_from(&chosen.digest);
            blobs.push(manifest.clone());
            document = parse(&manifest, &self.document(&manifest)?)?;
        }
        let config =
            document.config.ok_or_else(|| ImageError::Invalid(format!("{manifest} is no manifest")))?;
        blobs.push(config.digest.clone());
        blobs.extend(document.layers.iter().map(|layer| layer.digest.clone()));
        let parsed: ImageConfig = parse(&config.digest, &self.document(&config.digest)?)?;
        check_layers(&document.layers)?;
        if parsed.rootfs.diff_ids.len() != document.layers.len() {
            return Err(ImageError::Invalid(format!(
                "{} layers, but {} in the configuration",
                document.layers.len(),
                parsed.rootfs.diff_ids.len()
            )));
        }
        if !parsed.os.is_empty() && parsed.os != "linux" {
            return Err(ImageError::Platform);
        }
        let layers = self.unpack_all(&document.layers, &parsed.rootfs.diff_ids)?;
        let mut record = Record {
            id: config.digest.clone(),
            manifest,
            size: document.layers.iter().fold(config.size, |sum, layer| sum.saturating_add(layer.size)),
            user: parsed.config.user,
            blobs,
            layers,
            loaded,
            ..Record::default()
        };
        let path = name.split_once('@').map_or(name, |(path, _)| path);
        let slash = path.rfind('/').map_or(0, |at| at + 1);
        let repository = path[slash..].find(':').map_or(path, |colon| &path[..slash + colon]);
        record.digests.insert(format!("{repository}@{}", target.digest));
        if !name.contains('@') {
            record.tags.insert(name.to_owned());
        }
        let id = record.id.clone();
        let mut records = self.records.lock();
        records.add(record)?;
        Ok(records.find(&id).cloned().unwrap_or_default())
    }

    /// Writes an image as an archive: an OCI layout with Docker's `manifest.json`, so that everybody reads it.
    pub(crate) fn save(&self, record: &Record, path: &Path) -> Result<(), ImageError> {
        let _adding = self.adding.read();
        let file = File::options().write(true).create_new(true).open(path)?;
        let outcome = self.write_archive(record, &file);
        if outcome.is_err() {
            let _ = fs::remove_file(path);
        }
        outcome
    }

    fn write_archive(&self, record: &Record, file: &File) -> Result<(), ImageError> {
        let mut archive = tar::Builder::new(io::BufWriter::new(file));
        let mut append = |name: &str, size: u64, content: &mut dyn Read| {
            let mut header = tar::Header::new_gnu();
            header.set_size(size);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, content)
        };
        let blob_path = |digest: &str| format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"));
        let mut document: Document = parse(&record.manifest, &self.document(&record.manifest)?)?;
        if document.media_type.is_empty() {
            "application/vnd.oci.image.manifest.v1+json".clone_into(&mut document.media_type);
        }
        // Without the index it may have come with: what is of other platforms is not here.
        let config = document.config.clone().unwrap_or_default().digest;
        let digests = document.layers.iter().map(|layer| &layer.digest).chain([&config, &record.manifest]);
        let mut written = BTreeSet::new();
        for digest in digests.filter(|digest| written.insert((*digest).clone())) {
            let mut content = self.blobs.open_blob(digest)?;
            let size = content.metadata()?.len();
            append(&blob_path(digest), size, &mut content)?;
        }
        let manifests: Vec<serde_json::Value> = record
            .tags
            .iter()
            .map(|tag| {
                serde_json::json!({
                    "mediaType": document.media_type, "digest": record.manifest,
                    "size": self.blobs.read(&record.manifest).map(|bytes| bytes.len()).unwrap_or(0),
                    "annotations": {"io.containerd.image.name": tag},
                })
            })
            .collect();
        let layers: Vec<String> = document.layers.iter().map(|layer| blob_path(&layer.digest)).collect();
        for (name, value) in [
            ("index.json", serde_json::json!({"schemaVersion": 2, "manifests": manifests})),
            ("oci-layout", serde_json::json!({"imageLayoutVersion": "1.0.0"})),
            (
                "manifest.json",
                serde_json::json!([{"Config": blob_path(&config), "RepoTags": record.tags, "Layers": layers}]),
            ),
        ] {
            let text = value.to_string();
            append(name, text.len() as u64, &mut text.as_bytes())?;
        }
        archive.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        Ok(())
    }

    fn document(&self, digest: &str) -> Result<Vec<u8>, ImageError> {
        let length = self.blobs.open_blob(digest)?.metadata()?.len();
        if length > DOCUMENT_BYTES {
            return Err(ImageError::Invalid(format!("document {digest} has {length} bytes")));
        }
        Ok(self.blobs.read(digest)?)
    }

    /// Unpacks the layers that are not here yet; the names of all of them, lowest first.
    fn unpack_all(&self, layers: &[Descriptor], diff_ids: &[String]) -> Result<Vec<String>, ImageError> {
        let mut names = Vec::new();
        // Where each layer is by now, lowest first; and those that are to get their names.
        let (mut places, mut fresh): (Vec<PathBuf>, Vec<(PathBuf, PathBuf)>) = (Vec::new(), Vec::new());
        let unpacked = (|| {
            for ((layer, diff_id), chain_id) in layers.iter().zip(diff_ids).zip(&chain_ids(diff_ids)) {
                let name = super::blobs::hex(chain_id)?.to_owned();
                let place = self.layers.join(&name);
                names.push(name);
                if place.is_dir() {
                    places.push(place);
                    continue;
                }
                let scratch = self.blobs.scratch();
                fs::create_dir(&scratch)?;
                fresh.push((scratch.clone(), place));
                self.unpack(layer, diff_id, &scratch, &places)?;
                places.push(scratch);
            }
            if let Some((scratch, _)) = fresh.first() {
                // A name means that all of it is there, after a power cut too.
                nix::unistd::syncfs(File::open(scratch)?).map_err(io::Error::from)?;
            }
            Ok(())
        })();
        let named = unpacked.and_then(|()| {
            for (scratch, place) in &fresh {
                match fs::rename(scratch, place) {
                    // Another image with the same layer was quicker.
                    Err(_) if place.is_dir() => remove::tree(scratch)?,
                    other => other?,
                }
            }
            Ok(names)
        });
        if named.is_err() {
            for (scratch, _) in &fresh {
                let _ = remove::tree(scratch);
            }
        }
        named
    }

    fn unpack(
        &self,
        layer: &Descriptor,
        diff_id: &str,
        target: &Path,
        below: &[PathBuf],
    ) -> Result<(), ImageError> {
        let lower: Vec<PathBuf> = below.iter().rev().cloned().collect();
        let blob = self.blobs.open_blob(&layer.digest)?;
        let (unpacked, found) = pipeline::ahead(
            move || open_layer(blob),
            |stream| unpack::unpack(stream, target, &lower, self.limits),
        );
        unpacked.map_err(|source| ImageError::Unpack { digest: layer.digest.clone(), source })?;
        let found = found?;
        if found != diff_id {
            let (digest, wanted) = (layer.digest.clone(), diff_id.to_owned());
            return Err(ImageError::DiffId { digest, wanted, found });
        }
        Ok(())
    }

    /// Gives an image another whole name. False: there is no such image.
    pub(crate) fn tag(&self, image: &str, name: &str) -> io::Result<bool> {
        let mut records = self.records.lock();
        let Some(mut record) = records.find(image).cloned() else { return Ok(false) };
        record.tags.insert(name.to_owned());
        records.add(record)?;
        Ok(true)
    }

    /// Removes an image with all its names. False: there was none.
    pub(crate) fn remove(&self, name: &str) -> io::Result<bool> {
        let mut records = self.records.lock();
        let Some(id) = records.find(name).map(|record| record.id.clone()) else { return Ok(false) };
        records.remove(&id)
    }

    /// Removes content and layers that no image has and no container stands on.
    pub(crate) fn collect(&self, in_use: &BTreeSet<String>) -> io::Result<()> {
        let Some(_alone) = self.adding.try_write() else { return Ok(()) };
        let records = self.list();
        let blobs: BTreeSet<&str> =
            records.iter().flat_map(|one| one.blobs.iter().map(String::as_str)).collect();
        self.blobs.retain(|digest| blobs.contains(digest))?;
        let layers: BTreeSet<&str> =
            records.iter().flat_map(|one| one.layers.iter().map(String::as_str)).collect();
        for entry in fs::read_dir(&self.layers)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "empty" && !layers.contains(name.as_str()) && !in_use.contains(&name) {
                // Renamed first: a half-deleted layer must not look whole.
                let scratch = self.blobs.scratch();
                fs::rename(entry.path(), &scratch)?;
                self.sizes.lock().remove(&name);
                remove::tree(&scratch)?;
            }
        }
        Ok(())
    }
}

/// Refuses an image that could not be mounted.
pub(crate) fn check_layers(layers: &[Descriptor]) -> Result<(), ImageError> {
    if layers.len() > MAX_LAYERS {
        return Err(ImageError::Invalid(format!("{} layers, the limit is {MAX_LAYERS}", layers.len())));
    }
    Ok(())
}

fn parse<T: serde::de::DeserializeOwned>(digest: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Document { digest: digest.to_owned(), source })
}

/// A layer as a plain tar stream, by what its first bytes say.
fn open_layer(mut file: File) -> io::Result<Box<dyn Read>> {
    use std::io::Seek;
    let mut magic = [0; 4];
    let mut read = 0;
    while read < magic.len() {
        match file.read(&mut magic[read..])? {
            0 => break,
            size => read += size,
        }
    }
    file.rewind()?;
    let file = BufReader::with_capacity(1 << 18, file);
    if magic[..2] == GZIP {
        return Ok(Box::new(MultiGzDecoder::new(file)));
    }
    // Or a frame to be skipped.
    if magic == ZSTD || (magic[0] >> 4 == 5 && magic[1..] == [0x2a, 0x4d, 0x18]) {
        return Ok(Box::new(super::zstd::decoder(file)));
    }
    Ok(Box::new(file))
}

/// A blob of an archive, from its beginning.
struct Positioned<'a> {
    blob: &'a archive::Blob,
    at: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.blob.size - self.at;
        let size = usize::try_from(left.min(buffer.len() as u64)).unwrap_or(0);
        if size > 0 {
            self.blob.source.read(self.at, &mut buffer[..size])?;
            self.at += size as u64;
        }
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podium_image::{Image, ImageFile};

    fn archive(directory: &Path, name: &str, content: &str) -> PathBuf {
        let path = directory.join(format!("{content}.tar"));
        let file = ImageFile::Regular(content.as_bytes().to_vec(), 0o644);
        Image::new(name).file("/data", file).entrypoint(&["/x"]).write(File::create(&path).unwrap()).unwrap();
        path
    }

    #[test]
    fn images_come_and_go() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: layers need root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let first = store.load(&archive(directory.path(), "example.com/a:v1", "one")).unwrap().remove(0);
        assert_eq!(store.config(&first).unwrap().config.entrypoint, ["/x"]);
        assert_eq!(fs::read(store.layers().join(&first.layers[0]).join("data")).unwrap(), b"one");
        // The same name for another image: the first has no name left but keeps its id.
        let second = store.load(&archive(directory.path(), "example.com/a:v1", "two")).unwrap().remove(0);
        assert_eq!(store.find("example.com/a:v1").unwrap().id, second.id);
        assert!(store.find(&first.id).unwrap().tags.is_empty());
        // The kubelet is to leave alone what a person brought, but not what has no name any more.
        assert!(second.is_kept() && !store.find(&first.id).unwrap().is_kept());
        // A container stands on the first image's layer: removal leaves it, the next collection takes it.
        assert!(store.remove(&first.id).unwrap());
        assert!(!store.remove(&first.id).unwrap());
        store.collect(&first.layers.iter().cloned().collect()).unwrap();
        assert!(store.layers().join(&first.layers[0]).exists() && !store.blobs.has(&first.manifest));
        store.collect(&BTreeSet::new()).unwrap();
        assert!(!store.layers().join(&first.layers[0]).exists());
        assert!(store.layers().join(&second.layers[0]).exists() && store.blobs.has(&second.manifest));
        // Everything is found again.
        let store = Store::open(&directory.path().join("store")).unwrap();
        assert_eq!(store.find("example.com/a:v1").unwrap(), second);
        // A registry has it too: it can be had again.
        let size = store.document(&second.manifest).unwrap().len() as u64;
        let target = Descriptor { digest: second.manifest, size, ..Descriptor::default() };
        assert!(!store.adopt("example.com/a:v2", &target).unwrap().is_kept());
    }

    #[test]
    fn a_layer_that_is_not_what_the_image_says() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: layers need root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let put = |bytes: &[u8]| {
            let digest = super::super::blobs::digest(bytes);
            store.blobs.put(&digest, &mut &*bytes).unwrap();
            serde_json::json!({"digest": digest, "size": bytes.len(), "mediaType": "x"})
        };
        let layer = put(&[0; 1024]);
        let wrong = format!("sha256:{}", "0".repeat(64));
        let config = put(format!(r#"{{"rootfs":{{"diff_ids":["{wrong}"]}}}}"#).as_bytes());
        let manifest = put(serde_json::json!({"config": config, "layers": [&layer]}).to_string().as_bytes());
        let target: Descriptor = serde_json::from_value(manifest).unwrap();
        let refused = store.adopt("example.com/a:v1", &target);
        assert!(matches!(refused, Err(ImageError::DiffId { .. })), "{refused:?}");
        assert_eq!(store.list().len(), 0);
        let config = put(b"{}");
        let layers = vec![layer; MAX_LAYERS + 1];
        let manifest = put(serde_json::json!({"config": config, "layers": layers}).to_string().as_bytes());
        let target: Descriptor = serde_json::from_value(manifest).unwrap();
        let refused = store.adopt("example.com/a:v1", &target).unwrap_err().to_string();
        assert_eq!(refused, "image: 128 layers, the limit is 127");
        assert_eq!(fs::read_dir(directory.path().join("scratch")).unwrap().count(), 0);
    }
}
