//! Requests and certificates made here, by openssl, and by nobody honest.

use std::collections::BTreeSet;

use super::*;
use crate::certificate::Facts;

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap()
}

fn usages(list: &[&str]) -> Vec<String> {
    list.iter().map(|usage| (*usage).to_owned()).collect()
}

fn names() -> BTreeSet<AltName> {
    BTreeSet::from([AltName::Dns("node-2".to_owned()), AltName::Ip("192.0.2.2".parse().unwrap())])
}

#[test]
fn a_request_says_what_was_asked_for() {
    let new = NewRequest::new("system:node:node-2", "system:nodes", &names()).unwrap();
    let read = SigningRequest::parse(new.request.as_bytes()).unwrap();
    assert_eq!(read.common_name, "system:node:node-2");
    assert_eq!(read.organizations, ["system:nodes"]);
    assert_eq!(read.dns_names, ["node-2"]);
    assert_eq!(read.addresses, ["192.0.2.2".parse::<IpAddr>().unwrap()]);
}

#[test]
fn a_signed_certificate_holds_exactly_that() {
    let authority = Authority::generate("kubernetes", now()).unwrap();
    let new = NewRequest::new("system:node:node-2", "system:nodes", &names()).unwrap();
    let request = SigningRequest::parse(new.request.as_bytes()).unwrap();
    let wanted = usages(&["digital signature", "key encipherment", "server auth"]);
    let pem = authority.sign(&request, &wanted, HOUR, now()).unwrap();
    let pair = crate::KeyPair { certificate: pem, key: new.key };
    let facts = pair.facts().unwrap();
    assert_eq!(facts.common_name, "system:node:node-2");
    assert_eq!(facts.organizations, ["system:nodes"]);
    assert_eq!(facts.names, names());
    assert_eq!(facts.not_before.as_second(), now().as_second() - 300);
    assert_eq!(facts.not_after.as_second(), now().as_second() + 3600);
    let chain = pair.chain().unwrap();
    let (rest, parsed) = X509Certificate::from_der(&chain[0]).unwrap();
    assert!(rest.is_empty() && !parsed.is_ca());
    let issuers = authority.pair().chain().unwrap();
    let (_, issuer) = X509Certificate::from_der(&issuers[0]).unwrap();
    parsed.verify_signature(Some(issuer.public_key())).unwrap();
    let usage = parsed.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
    let extended = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && !extended.client_auth);
    // rustls accepts it as a server's certificate for its names.
    crate::tls::ServingCertificate::new(&pair).unwrap();
    let leaf = rustls::server::ParsedCertificate::try_from(&chain[0]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(issuers[0].clone()).unwrap();
    let time = rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(1_790_000_000));
    let algorithms = crate::tls::provider().signature_verification_algorithms.all;
    rustls::client::verify_server_cert_signed_by_trust_anchor(&leaf, &roots, &[], time, algorithms).unwrap();
    rustls::client::verify_server_name(&leaf, &"192.0.2.2".try_into().unwrap()).unwrap();
    assert!(rustls::client::verify_server_name(&leaf, &"192.0.2.3".try_into().unwrap()).is_err());
}

#[test]
fn all_organizations_survive() {
    // CN=u, O=g1, O=g2; made with openssl, because rcgen cannot.
    let pem = include_bytes!("two_groups.csr");
    let request = SigningRequest::parse(pem).unwrap();
    assert_eq!(request.organizations, ["g1", "g2"]);
    let authority = Authority::generate("kubernetes", now()).unwrap();
    let pem = authority.sign(&request, &usages(&["client auth"]), HOUR, now()).unwrap();
    let facts = Facts::of(&crate::certificate::from_pem(&pem).unwrap()[0]).unwrap();
    assert_eq!(
        (facts.common_name.as_str(), facts.organizations),
        ("u", vec!["g1".to_owned(), "g2".to_owned()])
    );
}

#[test]
fn no_certificate_outlives_its_authority() {
    let authority = Authority::generate("kubernetes", now()).unwrap();
    let new = NewRequest::new("u", "g", &BTreeSet::new()).unwrap();
    let request = SigningRequest::parse(new.request.as_bytes()).unwrap();
    let pem = authority.sign(&request, &usages(&["client auth"]), HOUR * 24 * 365 * 40, now()).unwrap();
    let facts = Facts::of(&crate::certificate::from_pem(&pem).unwrap()[0]).unwrap();
    assert_eq!(facts.not_after, authority.facts().not_after);
}

#[test]
fn what_is_no_honest_request_is_refused() {
    let new = NewRequest::new("u", "g", &BTreeSet::new()).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(new.request.as_bytes()).unwrap();
    let mut forged = pem.contents.clone();
    // The common name's one letter: the signature no longer fits.
    let at = forged.windows(3).position(|three| three == [0x0c, 1, b'u']).unwrap();
    forged[at + 2] = b'v';
    let mut longer = pem.contents.clone();
    longer.push(0);
    for (text, why) in [
        (to_pem(LABEL, &forged), "signature"),
        (to_pem(LABEL, &longer), "behind"),
        (to_pem("CERTIFICATE", &pem.contents), "PEM block type must be CERTIFICATE REQUEST"),
        (to_pem(LABEL, b"x"), ""),
        ("nonsense".to_owned(), "PEM block type"),
        (String::new(), "PEM block type"),
    ] {
        let error = SigningRequest::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let authority = Authority::generate("kubernetes", now()).unwrap();
    let request = SigningRequest::parse(new.request.as_bytes()).unwrap();
    let error = authority.sign(&request, &usages(&["bake bread"]), HOUR, now()).unwrap_err().to_string();
    assert!(error.contains("unrecognized usage \"bake bread\""), "{error}");
}

#[test]
fn every_usage_has_one_place() {
    let names: BTreeSet<&str> = USAGES.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), USAGES.len());
    let authority = Authority::generate("kubernetes", now()).unwrap();
    let new = NewRequest::new("x", "y", &BTreeSet::new()).unwrap();
    let request = SigningRequest::parse(new.request.as_bytes()).unwrap();
    for name in names {
        let pem = authority.sign(&request, &usages(&[name]), HOUR, now()).unwrap();
        let chain = crate::certificate::from_pem(&pem).unwrap();
        let (_, parsed) = X509Certificate::from_der(&chain[0]).unwrap();
        let (basic, extended) = (parsed.key_usage().unwrap(), parsed.extended_key_usage().unwrap());
        assert!(basic.is_some() != extended.is_some(), "{name}");
    }
}

#[test]
fn lengths_and_bits() {
    assert_eq!(der::tagged(4, &[0; 3])[..2], [4, 3]);
    assert_eq!(der::tagged(4, &[0; 0x80])[..3], [4, 0x81, 0x80]);
    assert_eq!(der::tagged(4, &[0; 0x1234])[..4], [4, 0x82, 0x12, 0x34]);
    assert_eq!(der::named_bits(0xa000), [3, 2, 5, 0xa0]);
    assert_eq!(der::named_bits(0x0080), [3, 3, 7, 0, 0x80]);
    assert_eq!(der::oid(&[1, 2, 840, 113_549]), [6, 6, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d]);
    assert_eq!(der::time(0).unwrap(), [&[0x17, 13], b"700101000000Z".as_slice()].concat());
    assert_eq!(der::time(2_524_608_000).unwrap()[..2], [0x18, 15]);
}
