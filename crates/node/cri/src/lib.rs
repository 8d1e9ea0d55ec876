//! CRI v1 as a client: the gRPC types, a connection to a runtime with timeouts per call, and the
//! import of image archives into containerd.
//!
//! - [`v1`] holds the generated messages, clients and servers (the servers serve tests and a runtime
//!   of our own); `cargo xtask codegen` writes them from `proto/`.
//! - [`Cri`] is what the kubelet holds: one channel, one method per call, each with a deadline.
//! - [`import_image`] puts a docker or OCI archive into containerd's store under the names in it.

pub mod archive;
mod client;
mod error;
mod import;
mod names;
mod pressure;
mod redact;

pub use archive::ArchiveError;
pub use client::{Cri, Timeouts, bounded, unix_channel};
pub use error::Error;
pub use import::{ImportError, import_image};
pub use names::{NameError, normalize_image_name};
pub use pressure::parse_pressure;

/// CRI v1 (`runtime.v1`): messages, `runtime_service_client`, `image_service_client` and the servers.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all, clippy::pedantic)]
#[rustfmt::skip]
#[path = "generated/runtime/v1.rs"]
pub mod v1;

/// What podium's own runtime offers beside CRI (`podium.runtime.v1`).
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all, clippy::pedantic)]
#[rustfmt::skip]
#[path = "generated/podium/runtime/v1.rs"]
pub mod images;

/// The part of containerd's own API that the import uses; modules nest as its packages do.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    clippy::all,
    clippy::pedantic
)]
#[path = "generated/containerd"]
mod containerd {
    pub(crate) mod services {
        pub(crate) mod content {
            pub(crate) mod v1;
        }
        pub(crate) mod images {
            pub(crate) mod v1;
        }
        pub(crate) mod leases {
            pub(crate) mod v1;
        }
    }
    pub(crate) mod types;
}

/// Lists the images of the runtime, as `podium image list` shows them.
///
/// # Errors
/// The runtime's answer, or that it cannot be reached.
pub async fn list(endpoint: &str) -> Result<Vec<v1::Image>, Error> {
    Cri::connect(endpoint)?.list_images().await
}

/// Removes an image by name, digest or id. An image that is not there is not an error, as in CRI.
///
/// # Errors
/// The runtime's answer, or that it cannot be reached.
pub async fn remove(endpoint: &str, image: &str) -> Result<(), Error> {
    Cri::connect(endpoint)?.remove_image(image).await
}

/// Has podium's own runtime write an image into a new file, as an archive.
///
/// # Errors
/// The runtime's answer, or that it cannot be reached; another runtime has no such call.
pub async fn save(endpoint: &str, image: &str, path: &std::path::Path) -> Result<(), Error> {
    let mut client = images::image_store_client::ImageStoreClient::new(client::channel(endpoint)?);
    let path = path.to_string_lossy().into_owned();
    let request = images::SaveRequest { image: image.to_owned(), path };
    client.save(request).await.map(drop).map_err(|status| Error::call("Save", &status))
}

/// Has podium's own runtime give an image another name, which is another image's no longer; the name as it is kept.
///
/// # Errors
/// The runtime's answer, or that it cannot be reached; another runtime has no such call.
pub async fn tag(endpoint: &str, image: &str, name: &str) -> Result<String, Error> {
    let mut client = images::image_store_client::ImageStoreClient::new(client::channel(endpoint)?);
    let request = images::TagRequest { image: image.to_owned(), name: name.to_owned() };
    let answer = client.tag(request).await.map_err(|status| Error::call("Tag", &status))?;
    Ok(answer.into_inner().name)
}

/// Has podium's own runtime remove the images that nothing uses: their names, and how many bytes they had.
///
/// # Errors
/// The runtime's answer, or that it cannot be reached; another runtime has no such call.
pub async fn prune(endpoint: &str) -> Result<(Vec<String>, u64), Error> {
    let mut client = images::image_store_client::ImageStoreClient::new(client::channel(endpoint)?);
    let answer =
        client.prune(images::PruneRequest {}).await.map_err(|status| Error::call("Prune", &status))?;
    let answer = answer.into_inner();
    Ok((answer.removed, answer.bytes))
}

/// What podium's own runtime is pulling now, the oldest first: names are whole, numbers are bytes of what was not here.
///
/// # Errors
/// The runtime's answer, or that it cannot be reached; another runtime has no such call.
pub async fn pulls(endpoint: &str) -> Result<Vec<images::Pull>, Error> {
    let mut client = images::image_store_client::ImageStoreClient::new(client::channel(endpoint)?);
    let answer = client.pulls(images::PullsRequest {}).await;
    Ok(answer.map_err(|status| Error::call("Pulls", &status))?.into_inner().pulls)
}
