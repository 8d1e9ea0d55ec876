//! Where images come from: registries by the OCI distribution specification, through mirrors if the machine's owner has
//! set some.
//!
//! A name is resolved to a digest once, and everything after is fetched by digest and checked. Credentials go to the host
//! they are for and to the token service it names, over TLS unless the host is loopback or declared insecure, and never
//! along with a redirect.

mod auth;
mod client;
mod dial;
mod hosts;
pub(crate) mod progress;

use std::time::Duration;

use podium_cri::v1;
use tonic::Status;

use crate::core::{Runtime, chain};
use crate::images::blobs;
use crate::images::manifest::{Descriptor, Document, choose};
use crate::images::records::Record;
use crate::images::store::{ImageError, check_layers};
use auth::Credentials;
use client::{Client, HttpError};
use hosts::Host;
use progress::Pull;

/// Layers fetched at a time.
const PARALLEL: usize = 3;
/// A layer's fetch is taken up again where it broke off, but not more often than this for nothing.
const RESUMES: u32 = 5;
/// An attempt that brought so much was not for nothing: a large layer over a bad line takes any number of them.
const WORTHWHILE_BYTES: u64 = 1 << 20;
/// Manifests and indexes are small.
const DOCUMENT_BYTES: u64 = 8 << 20;
/// How much longer each pause is before another attempt for nothing.
const PAUSE: Duration = Duration::from_millis(500);

/// What can be read: both forms of manifests and of indexes.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// An image could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PullError {
    /// The name is none.
    #[error(transparent)]
    Name(#[from] podium_cri::NameError),
    /// The machine's registry configuration is malformed.
    #[error(transparent)]
    Hosts(#[from] hosts::HostsError),
    /// A host did not give it.
    #[error("failed to resolve reference {name:?}")]
    Resolve {
        /// The whole name.
        name: String,
        /// What the last host said.
        #[source]
        source: HttpError,
    },
    /// Content could not be fetched.
    #[error("failed to copy {digest}")]
    Fetch {
        /// Which.
        digest: String,
        /// What the last host said.
        #[source]
        source: HttpError,
    },
    /// Content is wrong, or cannot be unpacked.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The document is malformed.
    #[error("malformed manifest")]
    Document(#[from] serde_json::Error),
    /// What was fetched is not what was asked for.
    #[error(transparent)]
    Content(#[from] blobs::BlobError),
}

impl PullError {
    /// As CRI tells it.
    pub(crate) fn status(&self, name: &str) -> Status {
        let text = format!("failed to pull and unpack image {name:?}: {}", chain(self));
        match self {
            Self::Resolve { source: HttpError::NotFound { .. }, .. } | Self::Image(ImageError::Platform) => {
                Status::not_found(text)
            }
            Self::Name(_) => Status::invalid_argument(text),
            _ => Status::unknown(text),
        }
    }
}

/// A name's parts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reference {
    host: String,
    path: String,
    /// Tag or digest.
    version: String,
}

/// Takes a whole name apart.
fn parse(full: &str) -> Reference {
    let (host, rest) = full.split_once('/').unwrap_or(("docker.io", full));
    let (path, version) = match rest.split_once('@') {
        // A tag beside a digest says nothing more.
        Some((path, digest)) => {
            let slash = path.rfind('/').map_or(0, |at| at + 1);
            let end = path[slash..].find(':').map_or(path.len(), |at| slash + at);
            (&path[..end], digest)
        }
        None => rest.rsplit_once(':').unwrap_or((rest, "latest")),
    };
    Reference { host: host.to_owned(), path: path.to_owned(), version: version.to_owned() }
}

/// Pulls an image: resolves, fetches what is missing, unpacks, records.
pub(crate) async fn pull(
    runtime: &Runtime,
    name: &str,
    auth: Option<v1::AuthConfig>,
) -> Result<Record, PullError> {
    let full = podium_cri::normalize_image_name(name)?;
    let reference = parse(&full);
    let hosts = hosts::of(&runtime.config.registries, &reference.host)?;
    let credentials = Credentials::of(auth.as_ref(), &reference.host);
    let pull = runtime.pulls.begin(&full);
    let puller = Puller { runtime, reference, hosts, client: Client::new(credentials), pull: &pull };
    let (target, bytes) = puller.resolve(&full).await?;
    let store = &runtime.store;
    // Nothing of this is collected before it has its name.
    let _pulling = runtime.pulling.read().await;
    store.blobs.put(&target.digest, &mut bytes.as_slice())?;
    let mut document: Document = serde_json::from_slice(&bytes)?;
    if document.config.is_none() {
        let chosen = choose(&document.manifests).ok_or(ImageError::Platform)?.clone();
        let bytes = puller.document(&chosen.digest).await?;
        store.blobs.put(&chosen.digest, &mut bytes.as_slice())?;
        document = serde_json::from_slice(&bytes)?;
    }
    check_layers(&document.layers)?;
    let wanted: Vec<Descriptor> = document.config.into_iter().chain(document.layers).collect();
    check_sizes(&wanted)?;
    let missing = wanted.iter().filter(|one| !store.blobs.has(&one.digest));
    let missing = missing.fold(0, |sum: u64, one| sum.saturating_add(one.size));
    blobs::check_room(&runtime.config.root, missing).map_err(blobs::BlobError::Io)?;
    pull.expect(missing);
    tracing::info!(image = full, bytes = missing, "pulling an image");
    let fetches = wanted.into_iter().map(|one| {
        let puller = &puller;
        async move { puller.blob(&one).await }
    });
    use futures::{StreamExt, TryStreamExt};
    let fetching = futures::stream::iter(fetches).buffer_unordered(PARALLEL).try_collect::<Vec<()>>();
    tokio::select! {
        fetched = fetching => drop(fetched?),
        never = pull.tell(&full) => match never {},
    }
    let store = std::sync::Arc::clone(store);
    let adopted = tokio::task::spawn_blocking(move || store.adopt(&full, &target)).await;
    adopted.map_err(|error| ImageError::Io(std::io::Error::other(error)))?.map_err(PullError::Image)
}

/// What is fetched ends where it was said to end: nothing may leave that open.
fn check_sizes(wanted: &[Descriptor]) -> Result<(), ImageError> {
    match wanted.iter().find(|one| one.size == 0) {
        Some(one) => Err(ImageError::Invalid(format!("{} has no size in the manifest", one.digest))),
        None => Ok(()),
    }
}

struct Puller<'a> {
    runtime: &'a Runtime,
    reference: Reference,
    hosts: Vec<Host>,
    client: Client,
    pull: &'a Pull,
}

impl Puller<'_> {
    /// Asks the hosts in turn for the manifest; its digest is checked if the name has one, and is the name from then on.
    async fn resolve(&self, full: &str) -> Result<(Descriptor, Vec<u8>), PullError> {
        let mut last = HttpError::NoHost;
        let had = self.runtime.store.find(full).is_some();
        for host in self.hosts.iter().filter(|host| host.resolve) {
            let path = format!("{}/manifests/{}", self.reference.path, self.reference.version);
            if had && let Some(known) = self.unchanged(host, &path).await {
                return Ok(known);
            }
            match self.client.get(host, &path, ACCEPT, DOCUMENT_BYTES).await {
                Ok((media_type, bytes)) => {
                    let digest = blobs::digest(&bytes);
                    if self.reference.version.contains(':') && self.reference.version != digest {
                        let wanted = self.reference.version.clone();
                        return Err(blobs::BlobError::Digest { wanted, found: digest }.into());
                    }
                    let size = bytes.len() as u64;
                    return Ok((Descriptor { media_type, digest, size, ..Descriptor::default() }, bytes));
                }
                Err(error) => {
                    tracing::debug!(host = host.url, error = %chain(&error), "not resolved");
                    last = error;
                }
            }
        }
        Err(PullError::Resolve { name: full.to_owned(), source: last })
    }

    /// The manifest, if it is here already and the host says that it is the one: an image that is pulled at every start does
    /// not count as pulled then. When the host does not say so, or refuses, it is asked in full.
    async fn unchanged(&self, host: &Host, path: &str) -> Option<(Descriptor, Vec<u8>)> {
        let (media_type, digest, size) = self.client.head(host, path, ACCEPT).await.ok()??;
        let version = &self.reference.version;
        if version.contains(':') && *version != digest || !self.runtime.store.blobs.has(&digest) {
            return None;
        }
        let bytes = self.runtime.store.blobs.read(&digest).ok()?;
        Some((Descriptor { media_type, digest, size, ..Descriptor::default() }, bytes))
    }

    async fn document(&self, digest: &str) -> Result<Vec<u8>, PullError> {
        blobs::hex(digest)?;
        if self.runtime.store.blobs.has(digest) {
            return Ok(self.runtime.store.blobs.read(digest)?);
        }
        let mut last = HttpError::NoHost;
        for host in &self.hosts {
            let path = format!("{}/manifests/{digest}", self.reference.path);
            match self.client.get(host, &path, ACCEPT, DOCUMENT_BYTES).await {
                Ok((_, bytes)) => return Ok(bytes),
                Err(error) => last = error,
            }
        }
        Err(PullError::Fetch { digest: digest.to_owned(), source: last })
    }

    /// Fetches a blob unless it is here: into a file that grows over interruptions, and is taken when it is right.
    async fn blob(&self, wanted: &Descriptor) -> Result<(), PullError> {
        let blobs = &self.runtime.store.blobs;
        blobs::hex(&wanted.digest)?;
        if blobs.has(&wanted.digest) {
            return Ok(());
        }
        let scratch = blobs.scratch();
        let fetched = self.fetch(wanted, &scratch).await;
        let outcome = match fetched {
            Ok(()) => {
                let (store, digest, scratch) =
                    (std::sync::Arc::clone(&self.runtime.store), wanted.digest.clone(), scratch.clone());
                let taken = tokio::task::spawn_blocking(move || store.blobs.take(&digest, &scratch));
                match taken.await {
                    Ok(taken) => taken.map_err(PullError::Content),
                    Err(error) => Err(ImageError::Io(std::io::Error::other(error)).into()),
                }
            }
            Err(error) => Err(error),
        };
        let _ = tokio::fs::remove_file(&scratch).await;
        outcome
    }

    async fn fetch(&self, wanted: &Descriptor, scratch: &std::path::Path) -> Result<(), PullError> {
        let mut last = HttpError::NoHost;
        let path = format!("{}/blobs/{}", self.reference.path, wanted.digest);
        let mut idle = 0;
        while idle < RESUMES {
            let before = client::length(scratch).await;
            for host in &self.hosts {
                match self.client.download(host, &path, scratch, wanted.size, self.pull).await {
                    Ok(()) => return Ok(()),
                    Err(error) => {
                        tracing::debug!(host = host.url, error = %chain(&error), "a fetch broke off");
                        last = error;
                    }
                }
            }
            if !last.is_transient() {
                break;
            }
            let brought = client::length(scratch).await.saturating_sub(before);
            idle = if brought >= WORTHWHILE_BYTES { 0 } else { idle + 1 };
            tokio::time::sleep(PAUSE * idle).await;
        }
        Err(PullError::Fetch { digest: wanted.digest.clone(), source: last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_without_a_size_is_not_fetched() {
        let sized = |size| Descriptor { digest: "d".into(), size, ..Descriptor::default() };
        assert!(check_sizes(&[sized(1), sized(2)]).is_ok());
        let refused = check_sizes(&[sized(1), sized(0)]).unwrap_err().to_string();
        assert_eq!(refused, "image: d has no size in the manifest");
    }

    #[test]
    fn names_are_taken_apart() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (full, host, path, version) in [
            ("docker.io/library/app:v1", "docker.io", "library/app", "v1"),
            ("localhost:5000/a/b:1.2", "localhost:5000", "a/b", "1.2"),
            (&format!("q.io/a/b@{digest}"), "q.io", "a/b", digest.as_str()),
            (&format!("q.io/a/b:v1@{digest}"), "q.io", "a/b", digest.as_str()),
        ] {
            let expected = Reference { host: host.into(), path: path.into(), version: version.into() };
            assert_eq!(parse(full), expected, "{full}");
        }
    }
}
