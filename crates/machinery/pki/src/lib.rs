//! The cluster's certificates, tokens and kubeconfigs: made, kept on disk, renewed, verified.
//!
//! Everything secret lives below one directory (0700, files 0600, written atomically). A [`cluster::Pki`] owns it; each call for a
//! certificate answers with one that is good for a while and for the names asked for, re-issuing it when it is not. Nothing a
//! client sends ever reaches a certificate's names. No clock is read here: the time is an argument.

pub mod authority;
pub mod certificate;
pub mod cluster;
pub mod files;
pub mod kubeconfig;
pub mod secret;
pub mod signing;
pub mod tls;
pub mod token;

use std::path::PathBuf;

pub use authority::Authority;
pub use certificate::KeyPair;
pub use cluster::{NodeNames, Pki, ServerNames};
pub use secret::Secret;
pub use signing::{NewRequest, SigningRequest};

/// What can go wrong with the PKI's files and contents.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file or directory could not be written or protected.
    #[error("write {path}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate is there and its key is not, or the other way round: making a new pair would orphan what the old one signed.
    #[error("{present} exists but {missing} does not; restore it, or remove both to make a new pair")]
    HalfPair {
        /// The file that is there.
        present: PathBuf,
        /// The file that is not.
        missing: PathBuf,
    },
    /// A certificate could not be made.
    #[error("make certificate {name}")]
    Issue {
        /// Its common name.
        name: String,
        /// Why.
        source: rcgen::Error,
    },
    /// A PEM or DER document is not what it should be.
    #[error("{what} is malformed: {detail}")]
    Malformed {
        /// Which document.
        what: String,
        /// In words, without contents.
        detail: String,
    },
    /// The system has no randomness, or a key could not be used.
    #[error("cryptography: {0}")]
    Crypto(&'static str),
}
