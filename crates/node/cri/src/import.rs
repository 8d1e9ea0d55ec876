//! Puts the images of an archive into containerd, where its CRI part finds them.
//!
//! Blobs go to the content store under a lease (so that no garbage collection comes between), then
//! each name becomes an image record labelled as managed by CRI; at last we wait until CRI answers for
//! the name, because containerd's CRI part learns of new records by an event.

use std::{collections::HashMap, path::Path, time::Duration};

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, metadata::MetadataValue, transport::Channel};

use crate::{
    Cri, Error,
    archive::{self, ArchiveError, Blob, Descriptor},
    client,
    containerd::{
        services::{
            content::v1::{
                Info, InfoRequest, UpdateRequest, WriteAction, WriteContentRequest,
                content_client::ContentClient,
            },
            images::v1::{CreateImageRequest, Image, UpdateImageRequest, images_client::ImagesClient},
            leases::v1::{CreateRequest, DeleteRequest, leases_client::LeasesClient},
        },
        types,
    },
    images::{LoadRequest, image_store_client::ImageStoreClient},
    v1,
};

/// The containerd namespace of Kubernetes.
const NAMESPACE: &str = "k8s.io";
/// How much of a blob travels in one message; containerd takes up to 16 MiB.
const CHUNK_BYTES: u64 = 1 << 20;
/// How long CRI may take to notice a new image record; normally some milliseconds.
const VISIBLE_WITHIN: Duration = Duration::from_secs(10);

/// Why an import failed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive is not one.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The reading task ended abnormally.
    #[error("reading the archive")]
    Reader(#[from] tokio::task::JoinError),
    /// A blob could not be read while it was being sent.
    #[error("reading blob {digest}")]
    Blob {
        /// Which blob.
        digest: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// containerd refused a step.
    #[error("containerd: {step}")]
    Runtime {
        /// What was being done.
        step: String,
        /// What containerd said.
        #[source]
        source: Error,
    },
    /// CRI does not show the image although it is stored.
    #[error("image {name} was stored but the runtime does not list it")]
    Invisible {
        /// The image's name.
        name: String,
    },
}

/// Imports every image of a docker archive or an OCI layout (a tar, possibly gzip) and returns their
/// full names. Safe to repeat: what is there already is kept, names move to the archive's images.
///
/// # Errors
/// If the archive is malformed, or containerd refuses or cannot be reached.
pub async fn import_image(endpoint: &str, archive: &Path) -> Result<Vec<String>, ImportError> {
    if let Some(names) = load(endpoint, archive).await? {
        return Ok(names);
    }
    let path = archive.to_owned();
    let images = tokio::task::spawn_blocking(move || archive::read(&path)).await??;
    let cri = Cri::connect(endpoint).map_err(failed("connecting"))?;
    let channel = client::channel(endpoint).map_err(failed("connecting"))?;
    let lease = Lease::take(&channel).await?;
    let outcome = store(&channel, &lease.id, &images).await;
    let released = lease.release(&channel).await;
    outcome?;
    released?;
    let mut names = Vec::new();
    for (name, _) in images.names {
        visible(&cri, &name).await?;
        names.push(name);
    }
    Ok(names)
}

/// Has podium's own runtime load the archive by its path. `None` if the endpoint is another runtime's.
async fn load(endpoint: &str, archive: &Path) -> Result<Option<Vec<String>>, ImportError> {
    let Ok(path) = std::path::absolute(archive) else { return Ok(None) };
    let channel = client::channel(endpoint).map_err(failed("connecting"))?;
    let request = LoadRequest { path: path.to_string_lossy().into_owned() };
    match ImageStoreClient::new(channel).load(request).await {
        Ok(answer) => Ok(Some(answer.into_inner().names)),
        Err(status) if status.code() == tonic::Code::Unimplemented => Ok(None),
        Err(status) => Err(refused("loading".to_owned())(status)),
    }
}

async fn store(channel: &Channel, lease: &str, images: &archive::Images) -> Result<(), ImportError> {
    for blob in &images.blobs {
        write_blob(channel, lease, blob).await?;
    }
    for (name, target) in &images.names {
        put_image(channel, lease, name, target).await?;
    }
    Ok(())
}

fn failed(step: impl Into<String>) -> impl FnOnce(Error) -> ImportError {
    let step = step.into();
    move |source| ImportError::Runtime { step, source }
}

fn refused(step: String) -> impl FnOnce(tonic::Status) -> ImportError {
    move |status| ImportError::Runtime { step, source: Error::call("containerd", &status) }
}

fn request<T>(message: T, lease: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    if let Ok(lease) = MetadataValue::try_from(lease)
        && !lease.is_empty()
    {
        request.metadata_mut().insert("containerd-lease", lease);
    }
    request
}

struct Lease {
    id: String,
}

impl Lease {
    async fn take(channel: &Channel) -> Result<Self, ImportError> {
        let nanos = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_nanos());
        let id = format!("podium-import-{}-{nanos}", std::process::id());
        let message = CreateRequest { id: id.clone(), labels: HashMap::new() };
        LeasesClient::new(channel.clone())
            .create(request(message, ""))
            .await
            .map_err(refused("taking a lease".to_owned()))?;
        Ok(Self { id })
    }

    async fn release(self, channel: &Channel) -> Result<(), ImportError> {
        LeasesClient::new(channel.clone())
            .delete(request(DeleteRequest { id: self.id, sync: false }, ""))
            .await
            .map_err(refused("releasing the lease".to_owned()))?;
        Ok(())
    }
}

async fn write_blob(channel: &Channel, lease: &str, blob: &Blob) -> Result<(), ImportError> {
    let mut content = ContentClient::new(channel.clone());
    let present = content.info(request(InfoRequest { digest: blob.digest.clone() }, lease)).await.is_ok();
    if !present {
        match send_blob(&mut content, lease, blob).await {
            Err(ImportError::Runtime { source, .. }) if source.code() == Some(Code::AlreadyExists) => {}
            other => return other,
        }
    }
    // The blob came from elsewhere: it still needs the labels of this manifest.
    label_blob(&mut content, lease, blob).await
}

async fn label_blob(
    content: &mut ContentClient<Channel>,
    lease: &str,
    blob: &Blob,
) -> Result<(), ImportError> {
    if blob.labels.is_empty() {
        return Ok(());
    }
    let info = Info {
        digest: blob.digest.clone(),
        labels: blob.labels.clone().into_iter().collect(),
        ..Default::default()
    };
    let paths = blob.labels.keys().map(|key| format!("labels.{key}")).collect();
    let message = UpdateRequest { info: Some(info), update_mask: Some(prost_types::FieldMask { paths }) };
    content
        .update(request(message, lease))
        .await
        .map_err(refused(format!("labelling blob {}", blob.digest)))?;
    Ok(())
}

async fn send_blob(
    content: &mut ContentClient<Channel>,
    lease: &str,
    blob: &Blob,
) -> Result<(), ImportError> {
    // Two chunks under way: one being sent, one being read.
    let (sender, receiver) = tokio::sync::mpsc::channel(2);
    let feed = feed(blob, lease, sender);
    let write = async {
        let step = || refused(format!("writing blob {}", blob.digest));
        let mut answers =
            content.write(request(ReceiverStream::new(receiver), lease)).await.map_err(step())?.into_inner();
        while answers.message().await.map_err(step())?.is_some() {}
        Ok(())
    };
    let (fed, written) = tokio::join!(feed, write);
    fed.and(written)
}

async fn feed(
    blob: &Blob,
    lease: &str,
    sender: tokio::sync::mpsc::Sender<WriteContentRequest>,
) -> Result<(), ImportError> {
    // The lease's name makes the reference ours alone: a dead import's half-written blob is no obstacle.
    let reference = format!("{lease}-{}", blob.digest);
    let total = i64::try_from(blob.size).unwrap_or(i64::MAX);
    let mut position = 0;
    while position < blob.size {
        let step = usize::try_from((blob.size - position).min(CHUNK_BYTES)).unwrap_or(0);
        let source = blob.source.clone();
        let data = tokio::task::spawn_blocking(move || {
            let mut data = vec![0; step];
            source.read(position, &mut data).map(|()| data)
        })
        .await?
        .map_err(|source| ImportError::Blob { digest: blob.digest.clone(), source })?;
        let message = WriteContentRequest {
            action: WriteAction::Write.into(),
            r#ref: reference.clone(),
            total,
            expected: blob.digest.clone(),
            offset: i64::try_from(position).unwrap_or(i64::MAX),
            data,
            labels: HashMap::new(),
        };
        // A closed channel means that containerd ended the call; its answer says why.
        if sender.send(message).await.is_err() {
            return Ok(());
        }
        position += step as u64;
    }
    let commit = WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: reference,
        total,
        expected: blob.digest.clone(),
        offset: total,
        data: Vec::new(),
        labels: blob.labels.clone().into_iter().collect(),
    };
    // As above.
    sender.send(commit).await.ok();
    Ok(())
}

async fn put_image(
    channel: &Channel,
    lease: &str,
    name: &str,
    target: &Descriptor,
) -> Result<(), ImportError> {
    let image = Image {
        name: name.to_owned(),
        // Pinned: an image that a person brought may be in no registry, and the kubelet is not to collect it.
        labels: HashMap::from([
            ("io.cri-containerd.image".to_owned(), "managed".to_owned()),
            ("io.cri-containerd.pinned".to_owned(), "pinned".to_owned()),
        ]),
        target: Some(types::Descriptor {
            media_type: target.media_type.clone(),
            digest: target.digest.clone(),
            size: i64::try_from(target.size).unwrap_or(i64::MAX),
            annotations: HashMap::new(),
        }),
        created_at: None,
        updated_at: None,
    };
    let mut images = ImagesClient::new(channel.clone());
    let created = images.create(request(CreateImageRequest { image: Some(image.clone()) }, lease)).await;
    match created {
        Err(status) if status.code() == Code::AlreadyExists => {
            let message = UpdateImageRequest { image: Some(image), update_mask: None };
            images
                .update(request(message, lease))
                .await
                .map_err(refused(format!("updating image {name}")))?;
        }
        other => {
            other.map_err(refused(format!("creating image {name}")))?;
        }
    }
    Ok(())
}

async fn visible(cri: &Cri, name: &str) -> Result<(), ImportError> {
    let deadline = tokio::time::Instant::now() + VISIBLE_WITHIN;
    loop {
        let spec = v1::ImageSpec { image: name.to_owned(), ..Default::default() };
        let found = cri.image_status(spec).await.map_err(failed(format!("looking for image {name}")))?;
        if found.is_some() {
            return Ok(());
        }
        if tokio::time::Instant::now() > deadline {
            return Err(ImportError::Invisible { name: name.to_owned() });
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
