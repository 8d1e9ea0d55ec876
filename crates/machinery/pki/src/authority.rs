//! A certificate authority: its own certificate and key, and what it signs.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType, SerialNumber,
};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::certificate::{AltName, Facts};
use crate::{Error, KeyPair, Secret};

/// Ten years, as kubeadm: the authority outlives the machines; replacing it is a project, not a routine.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// One year, as kubeadm; renewed when a fifth is left.
pub const LEAF_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Certificates begin a little in the past, for clocks that are a little behind.
const BACKDATE_SECONDS: i64 = 300;

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// A server's.
    Server,
    /// A client's.
    Client,
    /// Both: a serving certificate that is presented as a client too.
    Both,
}

/// What to put into a certificate.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The common name: a user's name, a server's name.
    pub common_name: &'a str,
    /// The one organization: a user's group. Several cannot be expressed: rcgen keeps only the last (rustls/rcgen#81).
    pub organization: Option<&'a str>,
    /// Alternative names.
    pub names: BTreeSet<AltName>,
    /// Its use.
    pub usage: Usage,
    /// How long it is good for.
    pub life: Duration,
}

/// A certificate authority with its key.
pub struct Authority {
    pair: KeyPair,
    issuer: Issuer<'static, rcgen::KeyPair>,
    facts: Facts,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority.
    ///
    /// # Errors
    /// [`Error::Issue`], [`Error::Crypto`].
    pub fn generate(common_name: &str, now: Timestamp) -> Result<Self, Error> {
        let failed = |source| Error::Issue { name: common_name.to_owned(), source };
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = params(common_name, None, now, AUTHORITY_LIFE)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed)?;
        Self::load(KeyPair { certificate: certificate.pem(), key: Secret::new(key.serialize_pem()) })
    }

    /// An authority from its files' contents.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::Issue`].
    pub fn load(pair: KeyPair) -> Result<Self, Error> {
        let facts = pair.facts()?;
        let failed = |source| Error::Issue { name: facts.common_name.clone(), source };
        let key = rcgen::KeyPair::from_pem(pair.key.expose()).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&pair.certificate, key).map_err(failed)?;
        Ok(Authority { pair, issuer, facts })
    }

    /// The authority's own certificate in PEM.
    pub fn certificate(&self) -> &str {
        &self.pair.certificate
    }

    /// Certificate and key, to be stored.
    pub fn pair(&self) -> &KeyPair {
        &self.pair
    }

    /// What the authority's certificate says.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    pub(crate) fn signing_key(&self) -> &rcgen::KeyPair {
        self.issuer.key()
    }

    /// Makes a key and signs a certificate for it. Its life never exceeds the authority's.
    ///
    /// # Errors
    /// [`Error::Issue`], [`Error::Crypto`].
    pub fn issue(&self, request: &Request<'_>, now: Timestamp) -> Result<KeyPair, Error> {
        let failed = |source| Error::Issue { name: request.common_name.to_owned(), source };
        let left = u64::try_from(self.facts.not_after.as_second() - now.as_second()).unwrap_or(0);
        let life = request.life.min(Duration::from_secs(left));
        let mut params = params(request.common_name, request.organization, now, life)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = match request.usage {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        for name in &request.names {
            params.subject_alt_names.push(match name {
                AltName::Dns(name) => SanType::DnsName(name.as_str().try_into().map_err(failed)?),
                AltName::Ip(address) => SanType::IpAddress(*address),
            });
        }
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(KeyPair { certificate: certificate.pem(), key: Secret::new(key.serialize_pem()) })
    }
}

fn params(
    common_name: &str,
    organization: Option<&str>,
    now: Timestamp,
    life: Duration,
) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    if let Some(organization) = organization {
        subject.push(DnType::OrganizationName, organization);
    }
    subject.push(DnType::CommonName, common_name);
    params.distinguished_name = subject;
    // rcgen speaks another crate's time; seconds from its epoch keep us from depending on it.
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let seconds = |at: i64| Duration::from_secs(u64::try_from(at).unwrap_or(0));
    params.not_before = epoch + seconds(now.as_second() - BACKDATE_SECONDS);
    params.not_after = epoch + seconds(now.as_second()) + life;
    params.serial_number = Some(SerialNumber::from_slice(&serial_number()?));
    Ok(params)
}

/// A new serial number: a positive integer (RFC 5280, 4.1.2.2), without leading zero byte.
pub(crate) fn serial_number() -> Result<[u8; 16], Error> {
    let mut serial = [0_u8; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| Error::Crypto("no randomness"))?;
    serial[0] = (serial[0] & 0x7f) | 0x40;
    Ok(serial)
}
