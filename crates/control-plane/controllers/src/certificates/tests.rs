//! What is recognized, signed, refused, and when it goes.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use podium_pki::certificate::AltName;
use podium_pki::{NewRequest, SigningRequest};

use super::decide::*;
use crate::testing::{at, time};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const CLIENT_USAGES: &[&str] = &["digital signature", "key encipherment", "client auth"];
const SERVER_USAGES: &[&str] = &["digital signature", "server auth"];

fn parsed(common_name: &str, organization: &str, names: &[AltName]) -> SigningRequest {
    let names: BTreeSet<AltName> = names.iter().cloned().collect();
    let new = NewRequest::new(common_name, organization, &names).unwrap();
    SigningRequest::parse(new.request.as_bytes()).unwrap()
}

fn request(signer: &str, usages: &[&str]) -> CertificateSigningRequest {
    CertificateSigningRequest {
        metadata: ObjectMeta { creation_timestamp: Some(time(0)), ..Default::default() },
        spec: CertificateSigningRequestSpec {
            signer_name: signer.to_owned(),
            usages: Some(usages.iter().map(|usage| (*usage).to_owned()).collect()),
            ..Default::default()
        },
        ..Default::default()
    }
}

fn with(mut request: CertificateSigningRequest, kind: &str) -> CertificateSigningRequest {
    let conditions = request.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(condition(kind, "r", "m", at(100)));
    request
}

#[test]
fn only_kubelets_client_certificates_are_recognized() {
    let node = parsed("system:node:a", "system:nodes", &[]);
    let mut bootstrap = request(KUBELET_CLIENT, CLIENT_USAGES);
    bootstrap.spec.username = Some("system:bootstrap:abcdef".to_owned());
    let names = |request: &CertificateSigningRequest, parsed: &SigningRequest| -> Vec<&str> {
        recognize(&request.spec, parsed).iter().map(|kind| kind.subresource).collect()
    };
    assert_eq!(names(&bootstrap, &node), ["nodeclient"]);
    let mut renewal = bootstrap.clone();
    renewal.spec.username = Some("system:node:a".to_owned());
    assert_eq!(names(&renewal, &node), ["selfnodeclient", "nodeclient"]);
    let name = AltName::Dns("kubernetes".to_owned());
    for (request, parsed) in [
        (request(CLIENT, CLIENT_USAGES), node.clone()),
        (request(KUBELET_CLIENT, SERVER_USAGES), node),
        (bootstrap.clone(), parsed("system:node:a", "system:masters", &[])),
        (bootstrap.clone(), parsed("admin", "system:nodes", &[])),
        (bootstrap.clone(), parsed("system:node:", "system:nodes", &[])),
        (bootstrap, parsed("system:node:a", "system:nodes", &[name])),
    ] {
        assert!(names(&request, &parsed).is_empty(), "{parsed:?}");
    }
}

#[test]
fn what_is_approved_is_signed_and_what_does_not_fit_fails() {
    let node = parsed("system:node:a", "system:nodes", &[]);
    let address = AltName::Ip("192.0.2.1".parse().unwrap());
    let server = parsed("system:node:a", "system:nodes", &[address]);
    let sign_for = |request: CertificateSigningRequest, parsed: &SigningRequest| {
        sign(&with(request, "Approved"), parsed, YEAR)
    };
    assert_eq!(sign_for(request(KUBELET_CLIENT, CLIENT_USAGES), &node), Signing::Sign(YEAR));
    assert_eq!(sign_for(request(KUBELET_SERVING, SERVER_USAGES), &server), Signing::Sign(YEAR));
    assert_eq!(sign_for(request(LEGACY, &["any"]), &node), Signing::Sign(YEAR));
    assert_eq!(sign_for(request("example.com/x", CLIENT_USAGES), &node), Signing::Nothing);
    assert_eq!(sign(&request(KUBELET_CLIENT, CLIENT_USAGES), &node, YEAR), Signing::Nothing);
    let failed = with(with(request(KUBELET_CLIENT, CLIENT_USAGES), "Approved"), "Failed");
    assert_eq!(sign(&failed, &node, YEAR), Signing::Nothing);
    for (request, parsed, text) in [
        (request(KUBELET_SERVING, SERVER_USAGES), &node, "subjectAltName is required"),
        (request(KUBELET_SERVING, CLIENT_USAGES), &server, "usages"),
        (request(KUBELET_CLIENT, CLIENT_USAGES), &server, "IP subjectAltNames are not allowed"),
        (request(CLIENT, SERVER_USAGES), &node, "client auth"),
        (request(CLIENT, &["client auth", "cert sign"]), &node, "usages"),
    ] {
        let Signing::Fail(why) = sign_for(request, parsed) else { panic!("signed: {text}") };
        assert!(why.contains(text), "{why}");
    }
}

#[test]
fn the_life_asked_for_has_bounds() {
    let node = parsed("system:node:a", "system:nodes", &[]);
    for (asked, given) in
        [(Some(3600), 3600), (Some(1), 600), (Some(i32::MAX), YEAR.as_secs()), (None, YEAR.as_secs())]
    {
        let mut request = with(request(KUBELET_CLIENT, CLIENT_USAGES), "Approved");
        request.spec.expiration_seconds = asked;
        assert_eq!(sign(&request, &node, YEAR), Signing::Sign(Duration::from_secs(given)), "{asked:?}");
    }
}

#[test]
fn requests_go_when_they_are_over() {
    let hour = SignedDuration::from_hours(1);
    let fresh = request(CLIENT, CLIENT_USAGES);
    assert_eq!(remove_at(&fresh, None), Some(at(0) + hour * 24));
    for kind in ["Approved", "Denied", "Failed"] {
        assert_eq!(remove_at(&with(fresh.clone(), kind), None), Some(at(100) + hour), "{kind}");
    }
    assert_eq!(remove_at(&with(fresh, "Approved"), Some(at(700))), Some(at(700)));
}
