//! Client certificates: the chain is verified against our authorities, then the subject is the identity (CN the name,
//! every O a group, verbatim, as upstream's `CommonNameUserConversion`).
//!
//! A connection's certificate comes again with each of its requests, so verified ones are remembered by digest together with their
//! time; the time is looked at every time.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::RwLock;
use podium_client::metrics::{Histogram, head};
use podium_pki::certificate::Facts;
use ring::digest;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::User;

/// Source: upstream `apiserver_client_certificate_expiration_seconds`: from none over half an hour to a year.
const REMAINING: &[f64] = &[
    0.0,
    1_800.0,
    3_600.0,
    7_200.0,
    21_600.0,
    43_200.0,
    86_400.0,
    172_800.0,
    345_600.0,
    604_800.0,
    2_592_000.0,
    7_776_000.0,
    15_552_000.0,
    31_104_000.0,
];
/// Certificates remembered; when full, all are forgotten.
const MAX_REMEMBERED: usize = 4096;

/// Why a certificate is no identity.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// No authority is configured.
    #[error("no client certificate authority is configured")]
    NoAuthority,
    /// Not signed by one of our authorities, not for clients, expired, or not valid yet.
    #[error("chain does not verify")]
    Chain(#[source] rustls::Error),
    /// Before or after its time.
    #[error("certificate is not valid at this time")]
    Time,
    /// It cannot be read.
    #[error("certificate cannot be read")]
    Malformed(#[source] podium_pki::Error),
    /// It has no common name.
    #[error("certificate has no common name")]
    NoName,
}

/// The certificates of a connection, with the mark they are remembered by; made once, though each request is verified.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Leaf first, never empty.
    chain: Vec<CertificateDer<'static>>,
    /// SHA-256 of the leaf.
    digest: [u8; 32],
}

impl Peer {
    /// The peer with this chain, leaf first.
    pub fn new(chain: &[CertificateDer<'_>]) -> Peer {
        let mut digest = [0_u8; 32];
        if let Some(leaf) = chain.first() {
            digest.copy_from_slice(digest::digest(&digest::SHA256, leaf).as_ref());
        }
        Peer { chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(), digest }
    }
}

#[derive(Clone)]
struct Known {
    user: Arc<User>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// Verifies client certificates against a set of authorities.
pub struct Verifier {
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// For how long certificates that were shown are still good, each time they were, in seconds.
    remaining: Histogram,
    known: RwLock<HashMap<[u8; 32], Known>>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("configured", &self.verifier.is_some()).finish()
    }
}

impl Verifier {
    /// Trusts these authorities; with none, every certificate is refused.
    pub fn new(authorities: Vec<CertificateDer<'static>>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), podium_pki::tls::provider())
                .build()
                .ok();
        Verifier { verifier, remaining: Histogram::new(REMAINING), known: RwLock::default() }
    }

    fn note(&self, not_after: Timestamp, now: Timestamp) {
        self.remaining.observe((not_after.as_second() - now.as_second()) as f64);
    }

    /// Writes the metrics.
    pub(super) fn render(&self, out: &mut String) {
        let name = "apiserver_client_certificate_expiration_seconds";
        let help = "[ALPHA] For how long the certificate that a request came with is still good.";
        head(out, name, "histogram", help);
        self.remaining.render(out, name, "");
    }

    /// The identity in a chain (leaf first) at this time, `system:authenticated` included.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Result<User, CertificateError> {
        self.verify_peer(&Peer::new(chain), now).map(Arc::unwrap_or_clone)
    }

    /// As [`Verifier::verify`], for a connection whose certificates are known already.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn verify_peer(&self, peer: &Peer, now: Timestamp) -> Result<Arc<User>, CertificateError> {
        let verifier = self.verifier.as_ref().ok_or(CertificateError::NoAuthority)?;
        let (leaf, intermediates) = peer.chain.split_first().ok_or(CertificateError::NoAuthority)?;
        let digest = peer.digest;
        // The lock is not held while verifying.
        let known = self.known.read().get(&digest).cloned();
        if let Some(known) = known {
            self.note(known.not_after, now);
            return if now < known.not_before || now > known.not_after {
                Err(CertificateError::Time)
            } else {
                Ok(known.user)
            };
        }
        let seconds = u64::try_from(now.as_second()).unwrap_or(0);
        verifier
            .verify_client_cert(leaf, intermediates, UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
            .map_err(CertificateError::Chain)?;
        let facts = Facts::of(leaf).map_err(CertificateError::Malformed)?;
        self.note(facts.not_after, now);
        if facts.common_name.is_empty() {
            return Err(CertificateError::NoName);
        }
        // Upstream's CredentialIDKey: a mark of the certificate, for the audit log.
        let id = digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut user = User {
            name: facts.common_name,
            groups: facts.organizations,
            extra: [(
                "authentication.kubernetes.io/credential-id".to_owned(),
                vec![format!("X509SHA256={id}")],
            )]
            .into(),
            ..User::default()
        };
        user.add_authenticated();
        let user = Arc::new(user);
        let mut known = self.known.write();
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(
            digest,
            Known { user: Arc::clone(&user), not_before: facts.not_before, not_after: facts.not_after },
        );
        Ok(user)
    }
}
