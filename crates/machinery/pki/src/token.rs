//! Service account tokens: JSON Web Tokens signed with ES256 over ring, and the keys' public form (JWKS).
//!
//! Only ES256 is accepted: a token cannot choose its algorithm. Signatures are public-key, so verification compares no
//! secret; verified tokens are remembered by digest because verification costs about 100 us and the same few tokens
//! come with every request. What the claims mean (time, audience, bound objects) is for the authenticator to check, each time.

pub mod legacy;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde_json::{Value, json};

use crate::certificate::to_pem;
use crate::{Error, Secret};

/// Longest token looked at. Ours have about 1 KB.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Verified tokens remembered; about 1 KB each. When full, all are forgotten: rare, and simpler than ages.
const MAX_REMEMBERED: usize = 4096;
/// What precedes the 65 bytes of a P-256 point in its SubjectPublicKeyInfo (RFC 5480).
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Why a token is not good. No variant carries any part of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three base64 parts with JSON in the first two.
    #[error("token is not a JSON Web Token")]
    Malformed,
    /// Another algorithm than ES256.
    #[error("token's algorithm is not accepted")]
    Algorithm,
    /// No such key, or the signature does not fit.
    #[error("invalid signature")]
    Signature,
}

struct PublicKey {
    id: String,
    point: [u8; 65],
}

/// One signing key and every key that verifies.
pub struct Keys {
    signing: EcdsaKeyPair,
    signing_id: String,
    random: SystemRandom,
    public: Vec<PublicKey>,
    verified: RwLock<HashMap<[u8; 32], Arc<Value>>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("signing", &self.signing_id)
            .field("verifying", &self.public.len())
            .finish()
    }
}

/// A new ES256 key as PEM (PKCS #8).
///
/// # Errors
/// [`Error::Crypto`].
pub fn generate_key() -> Result<Secret, Error> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|source| Error::Issue { name: "service account key".to_owned(), source })?;
    Ok(Secret::new(key.serialize_pem()))
}

impl Keys {
    /// Signs with `signing` (PEM, PKCS #8, P-256); also verifies what the keys in `also` (public keys, PEM) signed.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn new(signing: &Secret, also: &[&str]) -> Result<Self, Error> {
        let malformed = |what: &str, detail: String| Error::Malformed { what: what.to_owned(), detail };
        let der = PrivatePkcs8KeyDer::from_pem_slice(signing.expose().as_bytes())
            .map_err(|e| malformed("service account key", e.to_string()))?;
        let random = SystemRandom::new();
        let signing =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random)
                .map_err(|e| malformed("service account key", e.to_string()))?;
        let point: [u8; 65] = signing
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| malformed("service account key", "it is not a P-256 key".to_owned()))?;
        let mut public = vec![PublicKey { id: key_id(&point), point }];
        for pem in also {
            let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes())
                .map_err(|e| malformed("service account public key", e.to_string()))?;
            let point: [u8; 65] =
                der.strip_prefix(&P256_SPKI_PREFIX).and_then(|rest| rest.try_into().ok()).ok_or_else(
                    || malformed("service account public key", "it is not a P-256 key".to_owned()),
                )?;
            let id = key_id(&point);
            if public.iter().all(|known| known.id != id) {
                public.push(PublicKey { id, point });
            }
        }
        Ok(Keys { signing, signing_id: public[0].id.clone(), random, public, verified: RwLock::default() })
    }

    /// The `kid` of the tokens we make: upstream's, the digest of the public key.
    pub fn signing_key_id(&self) -> &str {
        &self.signing_id
    }

    /// The public half of the signing key as PEM.
    pub fn public_pem(&self) -> String {
        let mut der = P256_SPKI_PREFIX.to_vec();
        der.extend_from_slice(&self.public[0].point);
        to_pem("PUBLIC KEY", &der)
    }

    /// `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = self
            .public
            .iter()
            .map(|key| {
                json!({
                    "use": "sig", "kty": "EC", "kid": key.id, "crv": "P-256", "alg": "ES256",
                    "x": URL_SAFE_NO_PAD.encode(&key.point[1..33]),
                    "y": URL_SAFE_NO_PAD.encode(&key.point[33..]),
                })
            })
            .collect();
        json!({ "keys": keys })
    }

    /// A signed token with these claims.
    ///
    /// # Errors
    /// [`Error::Crypto`] if the system has no randomness.
    pub fn sign(&self, claims: &Value) -> Result<Secret, Error> {
        let header = json!({"alg": "ES256", "kid": self.signing_id}).to_string();
        let mut token = URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
        let signature =
            self.signing.sign(&self.random, token.as_bytes()).map_err(|_| Error::Crypto("signing failed"))?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(Secret::new(token))
    }

    /// The claims of a token that one of our keys signed. Times and everything else in them are still to be checked.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify(&self, token: &str) -> Result<Arc<Value>, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Malformed);
        }
        let mut digest = [0_u8; 32];
        digest.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        if let Some(claims) = self.verified.read().expect("no panic while held").get(&digest) {
            return Ok(Arc::clone(claims));
        }
        let claims = Arc::new(self.verify_signature(token)?);
        let mut verified = self.verified.write().expect("no panic while held");
        if verified.len() >= MAX_REMEMBERED {
            verified.clear();
        }
        verified.insert(digest, Arc::clone(&claims));
        Ok(claims)
    }

    fn verify_signature(&self, token: &str) -> Result<Value, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed);
        let header: Value = serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
        let claims = decode(claims)?;
        let signature = decode(signature)?;
        if header["alg"] != "ES256" || header.get("crit").is_some() {
            return Err(TokenError::Algorithm);
        }
        let wanted = header["kid"].as_str().unwrap_or_default();
        let fits = self.public.iter().filter(|key| wanted.is_empty() || key.id == wanted).any(|key| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.point)
                .verify(signed.as_bytes(), &signature)
                .is_ok()
        });
        if !fits {
            return Err(TokenError::Signature);
        }
        // Parsed only now: nothing unsigned is interpreted beyond the header.
        match serde_json::from_slice(&claims) {
            Ok(claims @ Value::Object(_)) => Ok(claims),
            _ => Err(TokenError::Malformed),
        }
    }

    /// The `iss` claim of something that looks like a token, unverified: only to decide whether it is ours to judge.
    pub fn unverified_issuer(token: &str) -> Option<String> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let mut parts = token.split('.');
        let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        claims["iss"].as_str().map(str::to_owned)
    }
}

fn key_id(point: &[u8; 65]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&P256_SPKI_PREFIX);
    context.update(point);
    URL_SAFE_NO_PAD.encode(context.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        Keys::new(&generate_key().unwrap(), &[]).unwrap()
    }

    #[test]
    fn a_token_verifies_with_its_key_only() {
        let (ours, other) = (keys(), keys());
        let token = ours.sign(&json!({"iss": "us", "sub": "x"})).unwrap();
        assert_eq!(ours.verify(token.expose()).unwrap()["sub"], "x");
        assert_eq!(ours.verify(token.expose()).unwrap()["sub"], "x", "from memory");
        assert_eq!(other.verify(token.expose()), Err(TokenError::Signature));
        assert_eq!(Keys::unverified_issuer(token.expose()).as_deref(), Some("us"));
        let both = Keys::new(&generate_key().unwrap(), &[&ours.public_pem()]).unwrap();
        assert_eq!(both.verify(token.expose()).unwrap()["sub"], "x");
        assert_eq!(both.jwks()["keys"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn changed_tokens_are_refused() {
        let keys = keys();
        let token = keys.sign(&json!({"sub": "x"})).unwrap();
        let (signed, signature) = token.expose().rsplit_once('.').unwrap();
        let (header, _) = signed.split_once('.').unwrap();
        let evil = URL_SAFE_NO_PAD.encode(r#"{"sub":"admin"}"#);
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let hmac = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
        let cases = [
            (format!("{header}.{evil}.{signature}"), TokenError::Signature),
            (format!("{none}.{evil}."), TokenError::Algorithm),
            (format!("{hmac}.{evil}.{signature}"), TokenError::Algorithm),
            (format!("{signed}."), TokenError::Signature),
            ("x".to_owned(), TokenError::Malformed),
            ("a.b.c".to_owned(), TokenError::Malformed),
            ("a".repeat(MAX_TOKEN_BYTES + 1), TokenError::Malformed),
        ];
        for (token, expected) in cases {
            assert_eq!(keys.verify(&token), Err(expected), "{token:.60}");
        }
    }

    #[test]
    fn key_ids_are_upstreams_digest_of_the_public_key() {
        let keys = keys();
        let der = SubjectPublicKeyInfoDer::from_pem_slice(keys.public_pem().as_bytes()).unwrap();
        let expected = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &der));
        assert_eq!(keys.signing_key_id(), expected);
    }

    /// SECURITY.md, "Secrets in logs".
    #[test]
    fn secrets_in_logs_keys_and_tokens_are_redacted() {
        let keys = keys();
        let token = keys.sign(&json!({"sub": "x"})).unwrap();
        assert_eq!(format!("{token:?}"), "[secret]");
        assert!(!format!("{keys:?}").contains("BEGIN"));
    }
}
