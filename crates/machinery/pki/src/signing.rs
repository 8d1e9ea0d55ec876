//! Certificate signing requests: made for a key of ours, read and verified from others, and signed.
//!
//! Subject and alternative names are copied byte by byte: rcgen's names are a map and would lose all organizations but the last
//! (rustls/rcgen#81), and with them a user's groups. So the certificate's body is put together here.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, DnType, SanType, SigningKey as _};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::authority::{Authority, serial_number};
use crate::certificate::{AltName, to_pem};
use crate::{Error, Secret};

mod der;

/// The label of a request's PEM block.
const LABEL: &str = "CERTIFICATE REQUEST";
/// Certificates begin a little in the past, for clocks that are a little behind. Source: the signer's `Backdate`, 5 minutes.
const BACKDATE_SECONDS: i64 = 300;

/// A new key, and a request for a certificate of it.
#[derive(Debug)]
pub struct NewRequest {
    /// The key in PEM.
    pub key: Secret,
    /// The request in PEM.
    pub request: String,
}

impl NewRequest {
    /// Makes a key (ECDSA, P-256) and asks for a certificate for it.
    ///
    /// # Errors
    /// [`Error::Issue`].
    pub fn new(common_name: &str, organization: &str, names: &BTreeSet<AltName>) -> Result<Self, Error> {
        let failed = |source| Error::Issue { name: common_name.to_owned(), source };
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, organization);
        subject.push(DnType::CommonName, common_name);
        params.distinguished_name = subject;
        for name in names {
            params.subject_alt_names.push(match name {
                AltName::Dns(name) => SanType::DnsName(name.as_str().try_into().map_err(failed)?),
                AltName::Ip(address) => SanType::IpAddress(*address),
            });
        }
        let request = params.serialize_request(&key).and_then(|request| request.pem()).map_err(failed)?;
        Ok(NewRequest { key: Secret::new(key.serialize_pem()), request })
    }
}

/// A request whose signature was verified: who sent it has the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningRequest {
    /// The common name, or empty.
    pub common_name: String,
    /// Every organization in order.
    pub organizations: Vec<String>,
    /// Alternative names that are host names.
    pub dns_names: Vec<String>,
    /// Alternative names that are addresses.
    pub addresses: Vec<IpAddr>,
    /// Alternative names that are mail addresses.
    pub emails: Vec<String>,
    /// Alternative names that are URIs.
    pub uris: Vec<String>,
    /// DER of the subject.
    subject: Vec<u8>,
    /// DER of the public key's description.
    public_key: Vec<u8>,
    /// The value of the extension with alternative names, and whether it is critical.
    names: Option<(bool, Vec<u8>)>,
}

impl SigningRequest {
    /// Reads one PEM block.
    ///
    /// # Errors
    /// [`Error::Malformed`] for anything else, a signature that does not fit, or a name that is of no known kind.
    pub fn parse(pem: &[u8]) -> Result<Self, Error> {
        let malformed = |detail: String| Error::Malformed { what: "signing request".to_owned(), detail };
        let wrong_label = || malformed(format!("PEM block type must be {LABEL}"));
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|_| wrong_label())?;
        if pem.label != LABEL {
            return Err(wrong_label());
        }
        let (rest, parsed) =
            X509CertificationRequest::from_der(&pem.contents).map_err(|e| malformed(e.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed("there is something behind it".to_owned()));
        }
        parsed.verify_signature().map_err(|e| malformed(e.to_string()))?;
        let info = &parsed.certification_request_info;
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().map(str::to_owned).map_err(|e| malformed(e.to_string()))
        };
        let mut found = SigningRequest {
            common_name: info.subject.iter_common_name().last().map(text).transpose()?.unwrap_or_default(),
            organizations: info.subject.iter_organization().map(text).collect::<Result<_, _>>()?,
            dns_names: Vec::new(),
            addresses: Vec::new(),
            emails: Vec::new(),
            uris: Vec::new(),
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
            names: None,
        };
        for extension in info.iter_attributes().flat_map(|attribute| match attribute.parsed_attribute() {
            x509_parser::cri_attributes::ParsedCriAttribute::ExtensionRequest(all) => {
                all.extensions.as_slice()
            }
            _ => &[],
        }) {
            let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
                continue;
            };
            if found.names.is_some() {
                return Err(malformed("it has alternative names twice".to_owned()));
            }
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(name) => found.dns_names.push((*name).to_owned()),
                    GeneralName::RFC822Name(name) => found.emails.push((*name).to_owned()),
                    GeneralName::URI(name) => found.uris.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => found.addresses.push(
                        address(bytes)
                            .ok_or_else(|| malformed("an address has a wrong length".to_owned()))?,
                    ),
                    // Copying a name that nobody has looked at would let it through every check.
                    _ => return Err(malformed("it has an alternative name of an unknown kind".to_owned())),
                }
            }
            found.names = Some((extension.critical, extension.value.to_vec()));
        }
        Ok(found)
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Where a usage stands in a certificate.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// A bit of the key usage, counted from the first. Source: RFC 5280, 4.2.1.3.
    Bit(u8),
    /// An object identifier among the extended usages. Source: RFC 5280, 4.2.1.12.
    Extended(&'static [u64]),
}

/// What a certificate may be used for, by the names that `certificates.k8s.io/v1` has for it.
const USAGES: [(&str, Place); 23] = [
    ("signing", Place::Bit(0)),
    ("digital signature", Place::Bit(0)),
    ("content commitment", Place::Bit(1)),
    ("key encipherment", Place::Bit(2)),
    ("data encipherment", Place::Bit(3)),
    ("key agreement", Place::Bit(4)),
    ("cert sign", Place::Bit(5)),
    ("crl sign", Place::Bit(6)),
    ("encipher only", Place::Bit(7)),
    ("decipher only", Place::Bit(8)),
    ("any", Place::Extended(&[2, 5, 29, 37, 0])),
    ("server auth", Place::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 1])),
    ("client auth", Place::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 2])),
    ("code signing", Place::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 3])),
    ("email protection", Place::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 4])),
    ("s/mime", Place::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 4])),
    ("ipsec end system", Place::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 5])),
    ("ipsec tunnel", Place::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 6])),
    ("ipsec user", Place::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 7])),
    ("timestamping", Place::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 8])),
    ("ocsp signing", Place::Extended(&[1, 3, 6, 1, 5, 5, 7, 3, 9])),
    ("microsoft sgc", Place::Extended(&[1, 3, 6, 1, 4, 1, 311, 10, 3, 3])),
    ("netscape sgc", Place::Extended(&[2, 16, 840, 1, 113_730, 4, 1])),
];

impl Authority {
    /// Signs a request: subject and names as asked for, and the given usages. The certificate ends with the authority's own
    /// at the latest. PEM.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a usage that there is not; [`Error::Issue`], [`Error::Crypto`].
    pub fn sign(
        &self,
        request: &SigningRequest,
        usages: &[String],
        life: Duration,
        now: Timestamp,
    ) -> Result<String, Error> {
        let chain = self.pair().chain()?;
        let (_, issuer) = X509Certificate::from_der(&chain[0])
            .map_err(|e| Error::Malformed { what: "authority".to_owned(), detail: e.to_string() })?;
        let key = self.signing_key();
        let algorithm = der::signature_algorithm(&issuer, key)?;
        let life = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
        let end = now.as_second().saturating_add(life).min(self.facts().not_after.as_second());
        let body = der::sequence(&[
            &der::explicit(0, &der::integer(&[2])),
            &der::integer(&serial_number()?),
            &algorithm,
            issuer.subject().as_raw(),
            &der::sequence(&[&der::time(now.as_second() - BACKDATE_SECONDS)?, &der::time(end)?]),
            &request.subject,
            &request.public_key,
            &der::explicit(3, &extensions(request, usages, &issuer)?),
        ]);
        let signature =
            key.sign(&body).map_err(|source| Error::Issue { name: request.common_name.clone(), source })?;
        let whole = der::sequence(&[&body, &algorithm, &der::bit_string(0, &signature)]);
        Ok(to_pem("CERTIFICATE", &whole))
    }
}

fn extensions(
    request: &SigningRequest,
    usages: &[String],
    issuer: &X509Certificate<'_>,
) -> Result<Vec<u8>, Error> {
    let mut bits = 0_u16;
    let mut extended = Vec::new();
    for usage in usages {
        match USAGES.iter().find(|(name, _)| name == usage) {
            Some((_, Place::Bit(bit))) => bits |= 0x8000_u16 >> *bit,
            Some((_, Place::Extended(id))) => extended.push(der::oid(id)),
            None => {
                return Err(Error::Malformed {
                    what: "usages".to_owned(),
                    detail: format!("unrecognized usage {usage:?}"),
                });
            }
        }
    }
    let mut all = Vec::new();
    if bits != 0 {
        all.push(der::extension(&[2, 5, 29, 15], true, &der::named_bits(bits)));
    }
    extended.sort();
    extended.dedup();
    if !extended.is_empty() {
        let list: Vec<&[u8]> = extended.iter().map(Vec::as_slice).collect();
        all.push(der::extension(&[2, 5, 29, 37], false, &der::sequence(&list)));
    }
    // Basic constraints: no authority, which is the default and therefore left out of the sequence.
    all.push(der::extension(&[2, 5, 29, 19], true, &der::sequence(&[])));
    let identifier = issuer.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0),
        _ => None,
    });
    if let Some(identifier) = identifier {
        let value = der::sequence(&[&der::tagged(0x80, identifier)]);
        all.push(der::extension(&[2, 5, 29, 35], false, &value));
    }
    if let Some((critical, value)) = &request.names {
        all.push(der::extension(&[2, 5, 29, 17], *critical, value));
    }
    let list: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
    Ok(der::sequence(&list))
}

#[cfg(test)]
mod tests;
