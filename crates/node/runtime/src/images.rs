//! Images: content by digest, layers unpacked once and shared, records of names. Every step ends with a rename, so that a
//! killed process leaves at most files that the next collection removes.

pub(crate) mod blobs;
pub(crate) mod manifest;
mod pipeline;
pub(crate) mod records;
mod sparse;
pub(crate) mod store;
pub(crate) mod unpack;
mod xattr;
mod zstd;
