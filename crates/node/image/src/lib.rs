//! Container images as files: building an archive that any runtime can load.
//!
//! An archive is reproducible: the same content gives the same bytes, and so the same digests. Source: the Docker image
//! specification 1.2 (`manifest.json`, configuration, layers as tar files), which `docker load`, `ctr image import`,
//! `skopeo` and `podium image load` read.

mod build;

pub use build::{Image, ImageFile};
