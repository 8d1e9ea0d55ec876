//! Records of which images this kubelet pulled and with whose credentials: on disk as upstream's kubelet has them, below
//! `image_manager`, and whole in memory, so that looking costs no read.
//!
//! A pull is written down as intended before the runtime is asked, and what came of it before the intent goes. So an image
//! that a crash left behind without a record is never mistaken for one that was loaded: only intents name it, and
//! [`PullRecords::recover`] makes records without credentials of them, which nobody has.
//!
//! Source: `pkg/kubelet/images/pullmanager/fs_pullrecords.go` of v1.36. Other than upstream's, intents are compared by
//! whole names, and one whose pull broke off stays until a pull succeeds.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use podium_client::error_chain;
use podium_cri::v1;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::verification::{CredentialMapping, PullCredentials, Trace, merge};

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// Of kubelets before v1.35; the fields are the same. Such files are written anew.
const OLD_API_VERSION: &str = "kubelet.config.k8s.io/v1alpha1";
const PREFIX: &str = "sha256-";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ImagePullIntent {
    kind: String,
    api_version: String,
    image: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ImagePulledRecord {
    kind: String,
    api_version: String,
    /// RFC 3339, in seconds.
    last_updated_time: String,
    image_ref: String,
    #[serde(default, skip_serializing_if = "CredentialMapping::is_empty")]
    credential_mapping: CredentialMapping,
}

/// A kind of file.
trait Kind: Serialize + serde::de::DeserializeOwned {
    const KIND: &'static str;
    /// Kind, version, and what the file's name is the hash of.
    fn head(&mut self) -> (&str, &mut String, &str);
}

impl Kind for ImagePullIntent {
    const KIND: &'static str = "ImagePullIntent";
    fn head(&mut self) -> (&str, &mut String, &str) {
        (&self.kind, &mut self.api_version, &self.image)
    }
}

impl Kind for ImagePulledRecord {
    const KIND: &'static str = "ImagePulledRecord";
    fn head(&mut self) -> (&str, &mut String, &str) {
        (&self.kind, &mut self.api_version, &self.image_ref)
    }
}

/// What is known of an image by its reference at the runtime.
#[derive(Debug, Clone, Default)]
struct Pulled {
    mapping: CredentialMapping,
    /// When it was pulled last, or this kubelet began: never pruned by a look at images from before.
    touched: Timestamp,
}

/// Pulls of an image that are under way or broke off.
#[derive(Debug, Default)]
struct Intent {
    running: u32,
    /// Some pull broke off: the image may be here, and nothing says how it came.
    broken_off: bool,
}

type Unreadable = BTreeSet<(&'static str, String)>;

#[derive(Debug, Default)]
struct Memory {
    /// By the image's reference at the runtime.
    pulled: HashMap<String, Pulled>,
    /// By the image's name as a pod has it.
    intents: HashMap<String, Intent>,
    /// Kinds and names of files that are there and cannot be read.
    unreadable: Unreadable,
}

/// All records of a node.
#[derive(Debug)]
pub(crate) struct PullRecords {
    pulling: PathBuf,
    pulled: PathBuf,
    memory: Mutex<Memory>,
    /// Held while a file changes and memory after it, so that both change in one order.
    disk: Mutex<()>,
}

impl PullRecords {
    /// Reads what is below the kubelet's directory. What cannot be read is in the log: the images are verified. Blocks.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let directory = root.join("image_manager");
        let (pulling, pulled) = (directory.join("pulling"), directory.join("pulled"));
        for directory in [&pulling, &pulled] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let (mut memory, now) = (Memory::default(), Timestamp::now());
        for intent in read_all::<ImagePullIntent>(&pulling, &mut memory.unreadable)? {
            memory.intents.insert(intent.image, Intent { running: 0, broken_off: true });
        }
        for record in read_all::<ImagePulledRecord>(&pulled, &mut memory.unreadable)? {
            let known = Pulled { mapping: record.credential_mapping, touched: now };
            memory.pulled.insert(record.image_ref, known);
        }
        Ok(Self { pulling, pulled, memory: Mutex::new(memory), disk: Mutex::default() })
    }

    /// Shows what records say of an image that is here by this reference, and that a pod asks for by `name`.
    pub(crate) fn look<T>(
        &self,
        name: &str,
        reference: &str,
        local: &v1::Image,
        judge: impl FnOnce(Trace<'_>) -> T,
    ) -> T {
        let memory = self.memory.lock();
        if let Some(known) = memory.pulled.get(reference) {
            return judge(Trace::Pulled(&known.mapping));
        }
        // There are hardly ever files like that: then no hashes are made.
        let unreadable = |kind, text| {
            !memory.unreadable.is_empty() && memory.unreadable.contains(&(kind, file_name(text)))
        };
        if unreadable(ImagePulledRecord::KIND, reference) || unreadable(ImagePullIntent::KIND, name) {
            return judge(Trace::Unreadable);
        }
        let begun = !memory.intents.is_empty() && {
            let asked = whole_name(name);
            memory.intents.keys().any(|intended| {
                let intended = whole_name(intended);
                intended == asked || lists(local, &intended)
            })
        };
        judge(if begun { Trace::Begun } else { Trace::None })
    }

    /// Writes down that an image is about to be pulled. Blocks.
    pub(crate) fn begin(self: &Arc<Self>, image: &str) -> io::Result<Begun> {
        let _order = self.disk.lock();
        let is_written = self.memory.lock().intents.contains_key(image);
        if !is_written {
            let intent = ImagePullIntent {
                kind: ImagePullIntent::KIND.to_owned(),
                api_version: API_VERSION.to_owned(),
                image: image.to_owned(),
            };
            write(&self.pulling, &file_name(image), &intent)?;
        }
        let mut memory = self.memory.lock();
        memory.unreadable.remove(&(ImagePullIntent::KIND, file_name(image)));
        memory.intents.entry(image.to_owned()).or_default().running += 1;
        Ok(Begun { records: self.clone(), image: image.to_owned(), is_over: false })
    }

    /// Adds what an image was pulled with, or None if nobody knows. Blocks.
    pub(crate) fn pulled(
        &self,
        image: &str,
        reference: &str,
        with: Option<PullCredentials>,
    ) -> io::Result<()> {
        let _order = self.disk.lock();
        let now = Timestamp::now();
        let known = self.memory.lock().pulled.get(reference).cloned();
        let mut changed = known.is_none();
        let mut record = known.unwrap_or_default();
        record.touched = now;
        if let Some(with) = with {
            changed |= merge(&mut record.mapping, image, with);
        }
        if changed {
            let file = ImagePulledRecord {
                kind: ImagePulledRecord::KIND.to_owned(),
                api_version: API_VERSION.to_owned(),
                last_updated_time: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                image_ref: reference.to_owned(),
                credential_mapping: record.mapping.clone(),
            };
            write(&self.pulled, &file_name(reference), &file)?;
        }
        let mut memory = self.memory.lock();
        memory.unreadable.remove(&(ImagePulledRecord::KIND, file_name(reference)));
        memory.pulled.insert(reference.to_owned(), record);
        Ok(())
    }

    /// Makes records of images whose pulls broke off, from all images that are here. Blocks.
    pub(crate) fn recover(&self, images: &[v1::Image]) {
        let broken_off: Vec<String> = {
            let memory = self.memory.lock();
            let idle = memory.intents.iter().filter(|(_, intent)| intent.running == 0);
            idle.map(|(image, _)| image.clone()).collect()
        };
        for image in broken_off {
            let whole = whole_name(&image);
            let here: Vec<&v1::Image> = images.iter().filter(|one| lists(one, &whole)).collect();
            let written = here.iter().try_for_each(|one| self.pulled(&image, &one.id, None));
            match written {
                Ok(()) if here.is_empty() => {}
                Ok(()) => self.end(&image, |intent| intent.broken_off = false),
                Err(error) => {
                    tracing::warn!(error = error_chain(&error), image, "cannot write the record of an image");
                }
            }
        }
    }

    /// Removes the records of images that are gone, but for those pulled since `until`. Blocks.
    pub(crate) fn prune(&self, until: Timestamp, is_gone: impl Fn(&str) -> bool) {
        let _order = self.disk.lock();
        let gone: Vec<String> = {
            let memory = self.memory.lock();
            let old = memory.pulled.iter().filter(|(_, known)| known.touched < until);
            old.map(|(reference, _)| reference).filter(|reference| is_gone(reference)).cloned().collect()
        };
        for reference in gone {
            match remove(&self.pulled, &file_name(&reference)) {
                Ok(()) => drop(self.memory.lock().pulled.remove(&reference)),
                Err(error) => tracing::warn!(
                    error = error_chain(&error),
                    reference,
                    "cannot remove the record of an image"
                ),
            }
        }
    }

    /// Changes an intent, and removes it if nothing is left of it.
    fn end(&self, image: &str, change: impl FnOnce(&mut Intent)) {
        let _order = self.disk.lock();
        let is_over = {
            let mut memory = self.memory.lock();
            let Some(intent) = memory.intents.get_mut(image) else { return };
            change(intent);
            intent.running == 0 && !intent.broken_off
        };
        if is_over {
            match remove(&self.pulling, &file_name(image)) {
                Ok(()) => drop(self.memory.lock().intents.remove(image)),
                Err(error) => {
                    tracing::warn!(error = error_chain(&error), image, "cannot remove the intent of a pull");
                }
            }
        }
    }
}

/// A pull under way. Dropped without a word of what came of it, it broke off.
#[derive(Debug)]
pub(crate) struct Begun {
    records: Arc<PullRecords>,
    image: String,
    is_over: bool,
}

impl Begun {
    /// The image is here. Without a record of it the intent stays. Blocks.
    pub(crate) fn succeeded(mut self, reference: &str, with: PullCredentials) {
        match self.records.pulled(&self.image, reference, Some(with)) {
            Ok(()) => {
                self.is_over = true;
                self.records.end(&self.image, |intent| {
                    intent.running -= 1;
                    intent.broken_off = false;
                });
            }
            Err(error) => {
                tracing::warn!(
                    error = error_chain(&error),
                    image = self.image,
                    "cannot write the record of an image"
                );
            }
        }
    }

    /// The runtime did not pull it. Blocks.
    pub(crate) fn failed(mut self) {
        self.is_over = true;
        self.records.end(&self.image, |intent| intent.running -= 1);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        if let Some(intent) = self.records.memory.lock().intents.get_mut(&self.image) {
            intent.running -= 1;
            intent.broken_off = true;
        }
    }
}

/// A name as runtimes list it; the name itself if it is none.
fn whole_name(name: &str) -> String {
    let whole = podium_cri::normalize_image_name(name).unwrap_or_else(|_| name.to_owned());
    match whole.split_once('@') {
        // Of a name with both, runtimes list the digest.
        Some((_, digest)) => {
            format!("{}@{digest}", super::verification::without_tag_and_digest(&whole))
        }
        None => whole,
    }
}

/// Whether the runtime has the image by this whole name.
fn lists(image: &v1::Image, whole: &str) -> bool {
    image.repo_tags.iter().chain(&image.repo_digests).any(|one| one == whole)
}

fn file_name(text: &str) -> String {
    use std::fmt::Write as _;
    Sha256::digest(text).iter().fold(PREFIX.to_owned(), |mut name, byte| {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
        name
    })
}

fn write<T: Serialize>(directory: &Path, name: &str, file: &T) -> io::Result<()> {
    let mut text = serde_json::to_vec(file).map_err(io::Error::other)?;
    text.push(b'\n');
    podium_pki::files::write(&directory.join(name), &text).map_err(io::Error::other)
}

/// Removes a file, durably: an intent that came back after a power failure would only cost a pull, but a record that did
/// would hold a preloaded image back.
fn remove(directory: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(directory.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::File::open(directory)?.sync_all(),
    }
}

/// The files of a kind. Names of those that cannot be read are put aside; temporary files are not among them.
fn read_all<T: Kind>(directory: &Path, unreadable: &mut Unreadable) -> io::Result<Vec<T>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with(PREFIX) || name.ends_with(".tmp") || entry.file_type()?.is_dir() {
            continue;
        }
        match read_one(directory, &name) {
            Ok(file) => all.push(file),
            Err(error) => {
                tracing::warn!(error = error_chain(&error), file = %entry.path().display(), "cannot read a record of images");
                unreadable.insert((T::KIND, name));
            }
        }
    }
    Ok(all)
}

fn read_one<T: Kind>(directory: &Path, name: &str) -> io::Result<T> {
    let text = fs::read(directory.join(name))?;
    let mut file: T = serde_json::from_slice(&text)?;
    let (kind, version, named_for) = file.head();
    if kind != T::KIND || ![API_VERSION, OLD_API_VERSION].contains(&version.as_str()) {
        return Err(io::Error::other(format!("{kind} of {version} is not {} of {API_VERSION}", T::KIND)));
    }
    if file_name(named_for) != name {
        return Err(io::Error::other(format!("is of {named_for:?}, which it is not named for")));
    }
    if *version == OLD_API_VERSION {
        API_VERSION.clone_into(version);
        write(directory, name, &file)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests;
