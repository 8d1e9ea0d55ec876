//! The keys behind service account tokens: RSA, P-256 and P-384, in every file form that other clusters keep them in.
//!
//! A key has one algorithm, which is also the only one that tokens of it may name. Source: upstream's
//! `pkg/serviceaccount/jwt.go` (algorithms and key ids) and client-go's `util/keyutil` (file forms). Its P-521 is not
//! among ours: the library has no such curve.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, KeyPair as _, RsaKeyPair, UnparsedPublicKey};
use ring::{digest, error};
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::{Error, Secret};

/// `SEQUENCE { rsaEncryption, NULL }` (RFC 3279).
const RSA: &[u8] =
    &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// `SEQUENCE { ecPublicKey, prime256v1 }` (RFC 5480).
const P256: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07,
];
/// `SEQUENCE { ecPublicKey, secp384r1 }`.
const P384: &[u8] = &[
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00,
    0x22,
];

/// How a key signs, by its name in a token's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Es256,
    Es384,
    Rs256,
}

impl Algorithm {
    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Es256, Self::Es384, Self::Rs256].into_iter().find(|it| it.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Rs256 => "RS256",
        }
    }

    /// The `AlgorithmIdentifier` of its keys.
    fn identifier(self) -> &'static [u8] {
        match self {
            Self::Es256 => P256,
            Self::Es384 => P384,
            Self::Rs256 => RSA,
        }
    }
}

/// Signs.
pub(super) enum SigningKey {
    Ecdsa(EcdsaKeyPair, Algorithm),
    Rsa(RsaKeyPair),
}

impl SigningKey {
    /// The first private key in the PEM text: PKCS #8, PKCS #1 or SEC 1.
    pub(super) fn from_pem(pem: &Secret) -> Result<Self, Error> {
        for section in sections(pem.expose()) {
            let (kind, der) = section.map_err(|error| malformed("service account key", error))?;
            if let Some(key) = Self::from_der(kind, &der) {
                return key.map_err(|error| malformed("service account key", error));
            }
        }
        Err(malformed("service account key", "there is no private key in it"))
    }

    /// `None` if the section is no private key.
    fn from_der(kind: SectionKind, der: &[u8]) -> Option<Result<Self, error::KeyRejected>> {
        Some(match kind {
            SectionKind::PrivateKey => {
                RsaKeyPair::from_pkcs8(der).map(Self::Rsa).or_else(|_| Self::on_a_curve(der))
            }
            SectionKind::RsaPrivateKey => RsaKeyPair::from_der(der).map(Self::Rsa),
            SectionKind::EcPrivateKey => {
                Self::on_a_curve(&in_pkcs8(P256, der)).or_else(|_| Self::on_a_curve(&in_pkcs8(P384, der)))
            }
            _ => return None,
        })
    }

    fn on_a_curve(pkcs8: &[u8]) -> Result<Self, error::KeyRejected> {
        let random = SystemRandom::new();
        let of = |algorithm, signing| {
            EcdsaKeyPair::from_pkcs8(signing, pkcs8, &random).map(|key| Self::Ecdsa(key, algorithm))
        };
        of(Algorithm::Es256, &signature::ECDSA_P256_SHA256_FIXED_SIGNING)
            .or_else(|_| of(Algorithm::Es384, &signature::ECDSA_P384_SHA384_FIXED_SIGNING))
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Ecdsa(_, algorithm) => *algorithm,
            Self::Rsa(_) => Algorithm::Rs256,
        }
    }

    /// What verifies its signatures.
    pub(super) fn verifying(&self) -> VerifyingKey {
        let bits = match self {
            Self::Ecdsa(key, _) => key.public_key().as_ref(),
            Self::Rsa(key) => key.public_key().as_ref(),
        };
        VerifyingKey::new(self.algorithm(), bits)
    }

    pub(super) fn sign(&self, message: &[u8], random: &SystemRandom) -> Result<Vec<u8>, error::Unspecified> {
        match self {
            Self::Ecdsa(key, _) => key.sign(random, message).map(|it| it.as_ref().to_vec()),
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&signature::RSA_PKCS1_SHA256, random, message, &mut signature)?;
                Ok(signature)
            }
        }
    }
}

/// Verifies.
pub(super) struct VerifyingKey {
    /// The `kid` of its tokens: upstream's, the digest of the public key.
    pub(super) id: String,
    pub(super) algorithm: Algorithm,
    /// The `SubjectPublicKeyInfo`.
    pub(super) info: Vec<u8>,
    /// Of a curve the point, of RSA the `RSAPublicKey`.
    bits: Vec<u8>,
}

impl VerifyingKey {
    fn new(algorithm: Algorithm, bits: &[u8]) -> Self {
        let padded = [&[0][..], bits].concat();
        let info = der(0x30, &[algorithm.identifier(), &der(0x03, &padded)[..]].concat());
        let id = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &info));
        Self { id, algorithm, info, bits: bits.to_vec() }
    }

    /// Every key in the PEM text: public keys, certificates, and the public halves of private keys.
    pub(super) fn all_from_pem(pem: &str) -> Result<Vec<Self>, Error> {
        let wrong = |error: &dyn std::fmt::Display| malformed("service account public key", error);
        let mut keys = Vec::new();
        for section in sections(pem) {
            let (kind, der) = section.map_err(|error| wrong(&error))?;
            let key = match kind {
                SectionKind::PublicKey => {
                    let (_, info) = SubjectPublicKeyInfo::from_der(&der).map_err(|error| wrong(&error))?;
                    Some(Self::from_info(&info)?)
                }
                SectionKind::Certificate => {
                    let (_, certificate) = X509Certificate::from_der(&der).map_err(|error| wrong(&error))?;
                    Some(Self::from_info(certificate.public_key())?)
                }
                _ => SigningKey::from_der(kind, &der)
                    .transpose()
                    .map_err(|error| wrong(&error))?
                    .map(|key| key.verifying()),
            };
            keys.extend(key);
        }
        if keys.is_empty() { Err(wrong(&"there is no key in it")) } else { Ok(keys) }
    }

    fn from_info(info: &SubjectPublicKeyInfo<'_>) -> Result<Self, Error> {
        [Algorithm::Es256, Algorithm::Es384, Algorithm::Rs256]
            .into_iter()
            .map(|algorithm| Self::new(algorithm, &info.subject_public_key.data))
            .find(|key| key.info == info.raw)
            .ok_or_else(|| malformed("service account public key", "it is no RSA, P-256 or P-384 key"))
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let how: &dyn signature::VerificationAlgorithm = match self.algorithm {
            Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Algorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        };
        UnparsedPublicKey::new(how, &self.bits).verify(message, signature).is_ok()
    }

    /// As a member of a JSON Web Key Set (RFC 7517, 7518).
    pub(super) fn jwk(&self) -> Value {
        let mut jwk = json!({"use": "sig", "kid": self.id, "alg": self.algorithm.name()});
        let mut put = |name: &str, value: &str| jwk[name] = value.into();
        let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let curve = match self.algorithm {
            Algorithm::Es256 => "P-256",
            Algorithm::Es384 => "P-384",
            Algorithm::Rs256 => {
                let (modulus, exponent) = self.rsa_numbers();
                put("kty", "RSA");
                put("n", &number(&modulus));
                put("e", &number(&exponent));
                return jwk;
            }
        };
        // An uncompressed point: a byte that says so, then both coordinates.
        let (x, y) = self.bits[1..].split_at(self.bits.len() / 2);
        put("kty", "EC");
        put("crv", curve);
        put("x", &number(x));
        put("y", &number(y));
        jwk
    }

    /// Modulus and exponent without leading zeros.
    fn rsa_numbers(&self) -> (Vec<u8>, Vec<u8>) {
        let bare = |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect();
        let (_, info) = SubjectPublicKeyInfo::from_der(&self.info).expect("it was made here");
        match info.parsed() {
            Ok(PublicKey::RSA(key)) => (bare(key.modulus), bare(key.exponent)),
            _ => (Vec::new(), Vec::new()),
        }
    }
}

fn sections(
    pem: &str,
) -> impl Iterator<Item = Result<(SectionKind, Vec<u8>), rustls_pki_types::pem::Error>> + '_ {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes())
}

fn malformed(what: &str, detail: impl std::fmt::Display) -> Error {
    Error::Malformed { what: what.to_owned(), detail: detail.to_string() }
}

/// A SEC 1 key of a curve in the form that the library reads.
fn in_pkcs8(curve: &[u8], sec1: &[u8]) -> Vec<u8> {
    der(0x30, &[&[0x02, 0x01, 0x00][..], curve, &der(0x04, sec1)[..]].concat())
}

/// One DER value: tag, length, content.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut value = vec![tag];
    match length {
        [] => value.push(0),
        [short] if *short < 0x80 => value.push(*short),
        long => {
            // At most the eight bytes of a usize.
            value.push(0x80 | u8::try_from(long.len()).expect("lengths are short"));
            value.extend_from_slice(long);
        }
    }
    value.extend_from_slice(content);
    value
}
