//! Which images there are and what they are called: one small file, replaced whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The configuration's digest, which is the image's id.
    pub(crate) id: String,
    /// Full names with tags.
    pub(crate) tags: BTreeSet<String>,
    /// Full names with digests.
    pub(crate) digests: BTreeSet<String>,
    /// Of the manifest.
    pub(crate) manifest: String,
    /// Every blob of it: manifest, index, configuration, layers as they came.
    pub(crate) blobs: Vec<String>,
    /// Directories of unpacked layers, lowest first: named by their chain ids, or by 24 digits of them if an earlier version
    /// unpacked them.
    pub(crate) layers: Vec<String>,
    /// Bytes of its content as it came.
    pub(crate) size: u64,
    /// Never collected.
    #[serde(default)]
    pub(crate) pinned: bool,
    /// It came from an archive only: no registry is known to have it.
    #[serde(default)]
    pub(crate) loaded: bool,
    /// `USER` of the configuration.
    #[serde(default)]
    pub(crate) user: String,
}

impl Record {
    /// Whether the kubelet is told to leave it where it is when it collects images (CRI's `pinned`).
    ///
    /// That an image was loaded means that a person brought it, to a machine that may reach no registry: once gone, pods that
    /// name it never start again. One that has lost its last name to a later load is nobody's any more.
    pub(crate) fn is_kept(&self) -> bool {
        self.pinned || (self.loaded && !self.tags.is_empty())
    }
}

/// All of them, by id.
#[derive(Debug)]
pub(crate) struct Records {
    path: PathBuf,
    all: BTreeMap<String, Record>,
}

impl Records {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let all = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { path: path.to_owned(), all })
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Record> {
        self.all.values()
    }

    /// Adds an image or the names of one that is here. A tag names one image only: it leaves any other.
    pub(crate) fn add(&mut self, record: Record) -> io::Result<()> {
        for other in self.all.values_mut().filter(|other| other.id != record.id) {
            other.tags.retain(|tag| !record.tags.contains(tag));
        }
        match self.all.get_mut(&record.id) {
            Some(here) => {
                here.tags.extend(record.tags);
                here.digests.extend(record.digests);
                here.blobs
                    .extend(record.blobs.into_iter().filter(|b| !here.blobs.contains(b)).collect::<Vec<_>>());
                here.pinned |= record.pinned;
                here.loaded &= record.loaded;
                // The same, but earlier versions named their directories otherwise.
                here.layers = record.layers;
            }
            None => {
                self.all.insert(record.id.clone(), record);
            }
        }
        self.save()
    }

    pub(crate) fn remove(&mut self, id: &str) -> io::Result<bool> {
        let removed = self.all.remove(id).is_some();
        if removed {
            self.save()?;
        }
        Ok(removed)
    }

    /// Finds by id (whole, or its beginning without `sha256:`), tag, or digest.
    pub(crate) fn find(&self, name: &str) -> Option<&Record> {
        if let Some(found) = self.all.get(name) {
            return Some(found);
        }
        if let Ok(full) = podium_cri::normalize_image_name(name) {
            // A name with both: the digest decides.
            let digest = full.split_once('@').map(|(path, digest)| {
                let path = path.rsplit_once('/').map_or(path.len(), |(above, last)| {
                    above.len() + 1 + last.find(':').unwrap_or(last.len())
                });
                format!("{}@{digest}", &full[..path])
            });
            let wanted = digest.unwrap_or(full);
            let found =
                self.all.values().find(|one| one.tags.contains(&wanted) || one.digests.contains(&wanted));
            if found.is_some() {
                return found;
            }
        }
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if hex.len() < 6 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut fits = self.all.values().filter(|one| one.id["sha256:".len()..].starts_with(hex));
        fits.next().filter(|_| fits.next().is_none())
    }

    fn save(&self) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(&self.all)?)?;
        // The names are the only thing that cannot be made again from what is here.
        file.sync_data()?;
        fs::rename(&fresh, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: char, tags: &[&str], digests: &[&str]) -> Record {
        let set = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Record {
            id: format!("sha256:{}", id.to_string().repeat(64)),
            tags: set(tags),
            digests: set(digests),
            ..Record::default()
        }
    }

    #[test]
    fn names_lead_to_images() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("images.json");
        let mut records = Records::open(&path).unwrap();
        let digest = format!("docker.io/library/a@sha256:{}", "1".repeat(64));
        records
            .add(record('a', &["docker.io/library/a:v1", "docker.io/library/a:latest"], &[&digest]))
            .unwrap();
        records.add(record('b', &["docker.io/library/a:v1"], &[])).unwrap();
        let records = Records::open(&path).unwrap();
        let find = |name: &str| records.find(name).map(|one| one.id[7..8].to_owned());
        for (name, expected) in [
            ("a", Some("a")),
            ("a:v1", Some("b")),
            ("docker.io/library/a:v2", None),
            (digest.as_str(), Some("a")),
            (&format!("a:v9@sha256:{}", "1".repeat(64)), Some("a")),
            (&"a".repeat(64), Some("a")),
            ("bbbbbbbbbbbb", Some("b")),
            (&format!("sha256:{}", "a".repeat(64)), Some("a")),
            ("aaa", None),
        ] {
            assert_eq!(find(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn an_image_that_comes_again_has_its_layers_where_they_are_now() {
        let directory = tempfile::tempdir().unwrap();
        let mut records = Records::open(&directory.path().join("images.json")).unwrap();
        let short = Record { layers: vec!["1".repeat(24)], ..record('a', &["a:v1"], &[]) };
        let whole = Record { layers: vec!["1".repeat(64)], ..record('a', &["a:v2"], &[]) };
        records.add(short).unwrap();
        records.add(whole.clone()).unwrap();
        let found = records.find(&whole.id).unwrap();
        assert_eq!((&found.layers, found.tags.len()), (&whole.layers, 2));
    }
}
