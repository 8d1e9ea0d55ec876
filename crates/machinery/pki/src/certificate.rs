//! A certificate with its key, and what it says about itself.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::{Error, Secret};

/// A certificate in PEM and its private key in PEM (PKCS #8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPair {
    /// The certificate; public.
    pub certificate: String,
    /// Its key.
    pub key: Secret,
}

/// A name or address in a certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AltName {
    /// A DNS name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
}

impl fmt::Display for AltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AltName::Dns(name) => f.write_str(name),
            AltName::Ip(address) => write!(f, "{address}"),
        }
    }
}

/// What a certificate says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The common name, or empty.
    pub common_name: String,
    /// Every organization in order: `O=a,O=b` gives both.
    pub organizations: Vec<String>,
    /// Alternative names.
    pub names: BTreeSet<AltName>,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
    /// The issuer's distinguished name, DER.
    pub issuer: Vec<u8>,
}

impl Facts {
    /// Reads a certificate.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Facts, Error> {
        let malformed = |detail: String| Error::Malformed { what: "certificate".to_owned(), detail };
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|e| malformed(e.to_string()))?;
        let subject = parsed.subject();
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().map(str::to_owned).map_err(|e| malformed(e.to_string()))
        };
        // Go's crypto/x509 keeps the last common name it meets.
        let common_name = subject.iter_common_name().last().map(text).transpose()?.unwrap_or_default();
        let organizations = subject.iter_organization().map(text).collect::<Result<_, _>>()?;
        let mut names = BTreeSet::new();
        if let Some(extension) = parsed.subject_alternative_name().map_err(|e| malformed(e.to_string()))? {
            for name in &extension.value.general_names {
                match name {
                    GeneralName::DNSName(name) => {
                        names.insert(AltName::Dns((*name).to_owned()));
                    }
                    GeneralName::IPAddress(bytes) => {
                        if let Ok(four) = <[u8; 4]>::try_from(*bytes) {
                            names.insert(AltName::Ip(IpAddr::from(four)));
                        } else if let Ok(sixteen) = <[u8; 16]>::try_from(*bytes) {
                            names.insert(AltName::Ip(IpAddr::from(sixteen)));
                        }
                    }
                    _ => {}
                }
            }
        }
        let time = |seconds: i64| Timestamp::from_second(seconds).map_err(|e| malformed(e.to_string()));
        Ok(Facts {
            common_name,
            organizations,
            names,
            not_before: time(parsed.validity().not_before.timestamp())?,
            not_after: time(parsed.validity().not_after.timestamp())?,
            issuer: parsed.issuer().as_raw().to_vec(),
        })
    }

    /// Whether less than a fifth of the certificate's life is left, as a kubelet would renew, or its life is over or not begun.
    pub fn renewal_due(&self, now: Timestamp) -> bool {
        let whole = self.not_after.as_second() - self.not_before.as_second();
        now < self.not_before || now.as_second() >= self.not_after.as_second() - whole / 5
    }
}

/// A PEM block with lines of 64 characters (RFC 7468).
pub fn to_pem(label: &str, contents: &[u8]) -> String {
    let text = STANDARD.encode(contents);
    let mut all = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        all.push_str(line);
        all.push('\n');
        rest = more;
    }
    all.push_str(&format!("-----END {label}-----\n"));
    all
}

/// Every certificate of a PEM text.
///
/// # Errors
/// [`Error::Malformed`] if there is none or one is malformed.
pub fn from_pem(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let malformed = |detail: String| Error::Malformed { what: "certificate PEM".to_owned(), detail };
    let all: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| malformed(e.to_string()))?;
    if all.is_empty() {
        return Err(malformed("it holds no certificate".to_owned()));
    }
    Ok(all)
}

impl KeyPair {
    /// The certificate chain, leaf first.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        from_pem(&self.certificate)
    }

    /// The key for rustls.
    ///
    /// # Errors
    /// [`Error::Malformed`], which does not quote the key.
    pub fn key_der(&self) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_slice(self.key.expose().as_bytes())
            .map_err(|e| Error::Malformed { what: "private key PEM".to_owned(), detail: e.to_string() })
    }

    /// What the leaf says about itself.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn facts(&self) -> Result<Facts, Error> {
        let chain = self.chain()?;
        Facts::of(&chain[0])
    }
}
