//! Service account tokens: JSON Web Tokens signed over ring, and the keys' public form (JWKS).
//!
//! Keys that are made here are for ES256. Keys of other clusters may have other algorithms (see `key`), and a token cannot
//! choose: it must name its key's. Signatures are public-key, so verification compares no
//! secret; verified tokens are remembered by digest because verification costs about 100 us and the same few tokens
//! come with every request. What the claims mean (time, audience, bound objects) is for the authenticator to check, each time.

mod key;
pub mod legacy;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use ring::rand::SystemRandom;
use serde_json::{Value, json};

use self::key::{Algorithm, SigningKey, VerifyingKey};
use crate::certificate::to_pem;
use crate::{Error, Secret};

/// Longest token looked at. Ours have about 1 KB.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Verified tokens remembered; about 1 KB each. When full, all are forgotten: rare, and simpler than ages.
const MAX_REMEMBERED: usize = 4096;
/// Why a token is not good. No variant carries any part of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three base64 parts with JSON in the first two.
    #[error("token is not a JSON Web Token")]
    Malformed,
    /// An algorithm that none of our keys could have.
    #[error("token's algorithm is not accepted")]
    Algorithm,
    /// No such key, or the signature does not fit.
    #[error("invalid signature")]
    Signature,
}

/// One signing key and every key that verifies.
pub struct Keys {
    signing: SigningKey,
    random: SystemRandom,
    /// The signing key's public half first; each key once.
    public: Vec<VerifyingKey>,
    verified: RwLock<HashMap<[u8; 32], Arc<Value>>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("signing", &self.signing_key_id())
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
    /// Signs with `signing`, a private key in PEM; also verifies what the keys in `also` signed: PEM texts with any number of
    /// public keys, certificates or private keys.
    ///
    /// # Errors
    /// [`Error::Malformed`].
    pub fn new(signing: &Secret, also: &[&str]) -> Result<Self, Error> {
        let signing = SigningKey::from_pem(signing)?;
        let mut public = vec![signing.verifying()];
        for pem in also {
            for key in VerifyingKey::all_from_pem(pem)? {
                if public.iter().all(|known| known.id != key.id) {
                    public.push(key);
                }
            }
        }
        Ok(Keys { signing, random: SystemRandom::new(), public, verified: RwLock::default() })
    }

    /// The `kid` of the tokens we make: upstream's, the digest of the public key.
    pub fn signing_key_id(&self) -> &str {
        &self.public[0].id
    }

    /// The public half of the signing key as PEM.
    pub fn public_pem(&self) -> String {
        to_pem("PUBLIC KEY", &self.public[0].info)
    }

    /// The names of the algorithms that our keys have, each once.
    pub fn algorithms(&self) -> Vec<&'static str> {
        let names: BTreeSet<_> = self.public.iter().map(|key| key.algorithm.name()).collect();
        names.into_iter().collect()
    }

    /// `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = self.public.iter().map(VerifyingKey::jwk).collect();
        json!({ "keys": keys })
    }

    /// A signed token with these claims.
    ///
    /// # Errors
    /// [`Error::Crypto`] if the system has no randomness.
    pub fn sign(&self, claims: &Value) -> Result<Secret, Error> {
        let header =
            json!({"alg": self.signing.algorithm().name(), "kid": self.signing_key_id()}).to_string();
        let mut token = URL_SAFE_NO_PAD.encode(header);
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
        let signature = self.signing.sign(token.as_bytes(), &self.random);
        let signature = signature.map_err(|_| Error::Crypto("signing failed"))?;
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
        let algorithm = header["alg"].as_str().and_then(Algorithm::named);
        let Some(algorithm) = algorithm.filter(|_| header.get("crit").is_none()) else {
            return Err(TokenError::Algorithm);
        };
        let wanted = header["kid"].as_str().unwrap_or_default();
        let of_token =
            |key: &&VerifyingKey| key.algorithm == algorithm && (wanted.is_empty() || key.id == wanted);
        let fits = self.public.iter().filter(of_token).any(|key| key.verifies(signed.as_bytes(), &signature));
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

#[cfg(test)]
mod tests;
