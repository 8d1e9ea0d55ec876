//! What is recognized, signed, refused, and when it goes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use podium_pki::certificate::AltName;
use podium_pki::{Authority, NewRequest, SigningRequest};

use super::decide::*;
use super::signers::Signers;
use crate::manager::Settings;
use crate::testing::api::{FakeApi, Running};
use crate::testing::{at, pass, time};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const CLIENT_USAGES: &[&str] = &["digital signature", "key encipherment", "client auth"];
const SERVER_USAGES: &[&str] = &["digital signature", "server auth"];

/// A request for a certificate in PEM.
fn pem(common_name: &str, organization: &str, names: &[AltName]) -> String {
    let names: BTreeSet<AltName> = names.iter().cloned().collect();
    NewRequest::new(common_name, organization, &names).unwrap().request
}

fn parsed(common_name: &str, organization: &str, names: &[AltName]) -> SigningRequest {
    SigningRequest::parse(pem(common_name, organization, names).as_bytes()).unwrap()
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

fn asking_for(mut request: CertificateSigningRequest, pem: &str) -> CertificateSigningRequest {
    request.spec.request = ByteString(pem.as_bytes().to_vec());
    request
}

fn issued(mut request: CertificateSigningRequest) -> CertificateSigningRequest {
    request.status.get_or_insert_default().certificate = Some(ByteString(b"PEM".to_vec()));
    request
}

/// The life that the certificate gets.
fn life(signing: &Signing) -> Option<Duration> {
    match signing {
        Signing::Sign(_, life) => Some(*life),
        Signing::Nothing | Signing::Fail(_) => None,
    }
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
    let node = pem("system:node:a", "system:nodes", &[]);
    let address = AltName::Ip("192.0.2.1".parse().unwrap());
    let server = pem("system:node:a", "system:nodes", &[address]);
    let sign_for = |request: CertificateSigningRequest, pem: &str| {
        sign(&with(asking_for(request, pem), "Approved"), YEAR)
    };
    assert_eq!(life(&sign_for(request(KUBELET_CLIENT, CLIENT_USAGES), &node)), Some(YEAR));
    assert_eq!(life(&sign_for(request(KUBELET_SERVING, SERVER_USAGES), &server)), Some(YEAR));
    assert_eq!(life(&sign_for(request(LEGACY, &["any"]), &node)), Some(YEAR));
    assert_eq!(sign_for(request("example.com/x", CLIENT_USAGES), &node), Signing::Nothing);
    let undecided = asking_for(request(KUBELET_CLIENT, CLIENT_USAGES), &node);
    assert_eq!(sign(&undecided, YEAR), Signing::Nothing);
    assert_eq!(sign(&with(with(undecided, "Approved"), "Failed"), YEAR), Signing::Nothing);
    for (request, pem, text) in [
        (request(KUBELET_SERVING, SERVER_USAGES), &node, "subjectAltName is required"),
        (request(KUBELET_SERVING, CLIENT_USAGES), &server, "usages"),
        (request(KUBELET_CLIENT, CLIENT_USAGES), &server, "IP subjectAltNames are not allowed"),
        (request(CLIENT, SERVER_USAGES), &node, "client auth"),
        (request(CLIENT, &["client auth", "cert sign"]), &node, "usages"),
        (request(CLIENT, CLIENT_USAGES), &"nonsense".to_owned(), "unable to parse csr"),
    ] {
        let Signing::Fail(why) = sign_for(request, pem) else { panic!("signed: {text}") };
        assert!(why.contains(text), "{why}");
    }
    // What others sign may be of any form.
    assert_eq!(sign_for(request("example.com/x", CLIENT_USAGES), "nonsense"), Signing::Nothing);
}

#[test]
fn only_what_waits_for_us_is_looked_at() {
    let kubelets = request(KUBELET_CLIENT, CLIENT_USAGES);
    for (what, request, approval, signing) in [
        ("undecided", kubelets.clone(), true, false),
        ("approved", with(kubelets.clone(), "Approved"), false, true),
        ("denied", with(kubelets.clone(), "Denied"), false, false),
        ("failed", with(with(kubelets.clone(), "Approved"), "Failed"), false, false),
        ("issued", issued(with(kubelets, "Approved")), false, false),
        ("for clients", request(CLIENT, CLIENT_USAGES), false, false),
        ("of another signer", with(request("example.com/x", CLIENT_USAGES), "Approved"), false, false),
    ] {
        let signed = sign(&request, YEAR) != Signing::Nothing;
        assert_eq!((is_for_approval(&request), signed), (approval, signing), "{what}");
    }
}

#[test]
fn the_life_asked_for_has_bounds() {
    let node = pem("system:node:a", "system:nodes", &[]);
    for (asked, given) in
        [(Some(3600), 3600), (Some(1), 600), (Some(i32::MAX), YEAR.as_secs()), (None, YEAR.as_secs())]
    {
        let mut request = with(asking_for(request(KUBELET_CLIENT, CLIENT_USAGES), &node), "Approved");
        request.spec.expiration_seconds = asked;
        assert_eq!(life(&sign(&request, YEAR)), Some(Duration::from_secs(given)), "{asked:?}");
    }
}

#[test]
fn requests_go_when_they_are_over() {
    // Made at 0; conditions are of second 100.
    let hours = |hours: i64, from: i64| Some(at(from) + SignedDuration::from_hours(hours));
    let fresh = || request(CLIENT, CLIENT_USAGES);
    let approved = || with(fresh(), "Approved");
    let mut timeless = with(fresh(), "Denied");
    timeless.status.as_mut().unwrap().conditions.as_mut().unwrap()[0].last_update_time = None;
    for (what, request, expiry, expected) in [
        ("undecided", fresh(), None, hours(24, 0)),
        ("denied", with(fresh(), "Denied"), None, hours(1, 100)),
        ("failed", with(fresh(), "Failed"), None, hours(1, 100)),
        ("approved, not issued", approved(), None, hours(24, 100)),
        ("approved and failed", with(approved(), "Failed"), None, hours(1, 100)),
        ("issued", issued(approved()), None, hours(1, 100)),
        ("issued for a year", issued(approved()), hours(24 * 365, 100), hours(1, 100)),
        ("issued and soon expired", issued(approved()), Some(at(700)), Some(at(700))),
        ("an end without a certificate", approved(), Some(at(700)), hours(24, 100)),
        ("denied, nobody knows when", timeless, None, None),
        ("something else was said of it", with(fresh(), "Odd"), None, None),
    ] {
        assert_eq!(remove_at(&request, expiry), expected, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_kubelet_gets_its_certificate_and_the_request_goes() {
    const REQUESTS: &str = "certificates.k8s.io/certificatesigningrequests";
    let api = FakeApi::default();
    let authority = Arc::new(Authority::generate("test", at(0)).unwrap());
    let settings = Settings { signers: Signers::one(&authority), ..Settings::default() };
    let controllers =
        ["certificatesigningrequest-approving-controller", "certificatesigningrequest-signing-controller"];
    let running = Running::start_with(&api, &controllers, settings);
    let ask = |name: &str, signer: &str, common_name: &str| {
        let pem = pem(common_name, "system:nodes", &[]);
        let mut request = asking_for(request(signer, CLIENT_USAGES), &pem);
        request.metadata.name = Some(name.to_owned());
        request.spec.username = Some("system:bootstrap:abcdef".to_owned());
        api.create(REQUESTS, &request);
    };
    let get = |api: &FakeApi, name: &str| api.get::<CertificateSigningRequest>(REQUESTS, "", name);
    let is = |api: &FakeApi, name: &str, kind: &str| {
        let status = get(api, name).and_then(|request| request.status);
        status.and_then(|it| it.conditions).is_some_and(|all| all.iter().any(|it| it.type_ == kind))
    };
    let certificate =
        |api: &FakeApi, name: &str| get(api, name).and_then(|request| request.status?.certificate);
    ask("kubelet", KUBELET_CLIENT, "system:node:a");
    ask("person", CLIENT, "somebody");
    api.settle().await;
    assert!(!is(&api, "kubelet", "Approved"), "it may not ask");
    api.allow_all_reviews();
    api.until("it is approved and signed", |_| {}, |api| certificate(api, "kubelet").is_some()).await;
    assert!(is(&api, "kubelet", "Approved"));
    api.settle().await;
    assert!(!is(&api, "person", "Approved"), "that is for people to decide");
    let denied = condition("Denied", "r", "m", at(1_000_000));
    let denied = serde_json::json!({"conditions": [denied]});
    api.edit(REQUESTS, "", "person", |request| request["status"] = denied.clone());
    ask("nonsense", KUBELET_CLIENT, "nobody");
    let approved = serde_json::json!({"conditions": [condition("Approved", "r", "m", at(1_000_000))]});
    api.edit(REQUESTS, "", "nonsense", |request| request["status"] = approved.clone());
    api.until("what its signer does not sign has failed", |_| {}, |api| is(api, "nonsense", "Failed")).await;
    assert!(certificate(&api, "nonsense").is_none());
    running.stop().await;
    // What is undecided here is as old as the epoch, so the cleaner comes last.
    let running = Running::start(&api, &["certificatesigningrequest-cleaner-controller"]);
    pass(1800).await;
    assert_eq!(api.list::<CertificateSigningRequest>(REQUESTS).len(), 3, "not yet");
    pass(3600).await;
    assert_eq!(api.list::<CertificateSigningRequest>(REQUESTS).len(), 0, "all are over");
    running.stop().await;
}
