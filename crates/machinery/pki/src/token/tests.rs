//! Tokens and keys of all forms.

use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;

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

const RSA_PKCS8: &str = include_str!("tests/rsa.pkcs8.pem");
const RSA_PKCS1: &str = include_str!("tests/rsa.pkcs1.pem");
const RSA_PUBLIC: &str = include_str!("tests/rsa.public.pem");
const P256_SEC1: &str = include_str!("tests/p256.sec1.pem");
const P384_SEC1: &str = include_str!("tests/p384.sec1.pem");
const P384_PKCS8: &str = include_str!("tests/p384.pkcs8.pem");
const P384_CERTIFICATE: &str = include_str!("tests/p384.certificate.pem");

#[test]
fn keys_of_other_clusters_sign_and_verify() {
    for (private, public, algorithm) in [
        (RSA_PKCS8, RSA_PUBLIC, "RS256"),
        (RSA_PKCS1, RSA_PUBLIC, "RS256"),
        (RSA_PKCS1, RSA_PKCS8, "RS256"),
        (P256_SEC1, P256_SEC1, "ES256"),
        (P384_SEC1, P384_CERTIFICATE, "ES384"),
        (P384_PKCS8, P384_SEC1, "ES384"),
    ] {
        let theirs = Keys::new(&Secret::new(private.to_owned()), &[]).unwrap();
        let ours = Keys::new(&generate_key().unwrap(), &[public]).unwrap();
        let token = theirs.sign(&json!({"sub": "x"})).unwrap();
        assert_eq!(ours.verify(token.expose()).unwrap()["sub"], "x", "{algorithm}");
        let jwks = ours.jwks();
        assert_eq!(jwks["keys"][1]["kid"], theirs.signing_key_id());
        assert_eq!(jwks["keys"][1]["alg"], algorithm);
        assert_eq!(ours.verify(keys().sign(&json!({})).unwrap().expose()), Err(TokenError::Signature));
    }
}

#[test]
fn one_file_may_hold_several_keys() {
    let all = [RSA_PUBLIC, P256_SEC1, P384_CERTIFICATE, RSA_PKCS8].concat();
    let keys = Keys::new(&generate_key().unwrap(), &[&all]).unwrap();
    let algorithms: Vec<Value> =
        keys.jwks()["keys"].as_array().unwrap().iter().map(|key| key["alg"].clone()).collect();
    assert_eq!(algorithms, ["ES256", "RS256", "ES256", "ES384"]);
    assert_eq!(keys.algorithms(), ["ES256", "ES384", "RS256"]);
}

#[test]
fn a_token_cannot_choose_another_algorithm_than_its_keys() {
    let keys = Keys::new(&Secret::new(RSA_PKCS8.to_owned()), &[P256_SEC1]).unwrap();
    let token = keys.sign(&json!({"sub": "x"})).unwrap();
    let (signed, signature) = token.expose().rsplit_once('.').unwrap();
    let (_, claims) = signed.split_once('.').unwrap();
    let header = json!({"alg": "ES256", "kid": keys.signing_key_id()}).to_string();
    let other = format!("{}.{claims}.{signature}", URL_SAFE_NO_PAD.encode(header));
    assert_eq!(keys.verify(&other), Err(TokenError::Signature));
}

/// The numbers are openssl's.
#[test]
fn an_rsa_key_is_published_as_its_numbers() {
    let keys = Keys::new(&Secret::new(RSA_PKCS8.to_owned()), &[]).unwrap();
    let key = &keys.jwks()["keys"][0];
    assert_eq!(key["kid"], "x6PruPdcqza2uR6AZs5fT53MOaDutmwVAlpRcYIjZeA");
    assert_eq!((&key["kty"], &key["e"]), (&json!("RSA"), &json!("AQAB")));
    assert!(key["n"].as_str().unwrap().starts_with("lvxfG3GnM0p3iIiKnBqm"));
}

#[test]
fn what_is_no_key_is_refused() {
    let refused = |signing: &str, also: &[&str]| Keys::new(&Secret::new(signing.to_owned()), also).is_err();
    assert!(refused("", &[]));
    assert!(refused(RSA_PUBLIC, &[]));
    assert!(refused(P256_SEC1, &[""]));
    assert!(!refused(P256_SEC1, &[RSA_PUBLIC]));
}
