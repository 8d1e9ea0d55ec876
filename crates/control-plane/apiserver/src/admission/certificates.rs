//! CertificateApproval, CertificateSigning, CertificateSubjectRestriction, ClusterTrustBundleAttest: who may approve, sign or attest
//! for which signer, and that nobody asks to become `system:masters`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use podium_api::status::ApiError;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::timings::Plugin;
use super::{Operation, Request};
use crate::authorization::escalation::only_collector_fields_differ;
use crate::authorization::{Attributes, Authorizer, MASTERS, go_quote};
use crate::objects::text;

const GROUP: &str = "certificates.k8s.io";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Upstream's name for what [`check`] does of a request; none where it does nothing.
pub(super) fn plugin(request: &Request<'_>) -> Option<Plugin> {
    if request.group != GROUP {
        return None;
    }
    match (request.resource, request.operation, request.subresource) {
        ("clustertrustbundles", ..) => Some(Plugin::ClusterTrustBundleAttest),
        ("certificatesigningrequests", Operation::Create, "") => Some(Plugin::CertificateSubjectRestriction),
        ("certificatesigningrequests", Operation::Update, "approval") => Some(Plugin::CertificateApproval),
        ("certificatesigningrequests", Operation::Update, "status") => Some(Plugin::CertificateSigning),
        _ => None,
    }
}

pub(super) fn check(request: &Request<'_>, authorizer: &Authorizer) -> Result<(), ApiError> {
    if request.group == GROUP && request.resource == "clustertrustbundles" {
        return attested(request, authorizer);
    }
    if request.group != GROUP || request.resource != "certificatesigningrequests" {
        return Ok(());
    }
    match (request.operation, request.subresource) {
        (Operation::Create, "") => check_subject(request),
        // By the stored request: its signer cannot be changed in the same breath.
        (Operation::Update, "approval") => permitted(request, authorizer, "approve", "approve"),
        (Operation::Update, "status") => {
            let field =
                |object: &Value, pointer: &str| object.pointer(pointer).cloned().unwrap_or(Value::Null);
            let old = request.old.unwrap_or(&Value::Null);
            let same = |pointer| field(old, pointer) == field(request.object, pointer);
            if same("/status/certificate") && same("/status/conditions") {
                return Ok(());
            }
            permitted(request, authorizer, "sign", "sign")
        }
        _ => Ok(()),
    }
}

fn permitted(request: &Request<'_>, authorizer: &Authorizer, verb: &str, word: &str) -> Result<(), ApiError> {
    let signer = request.old.map(|old| text(old, "/spec/signerName")).unwrap_or_default();
    if may(request, authorizer, verb, signer) {
        return Ok(());
    }
    Err(request
        .forbidden(&format!("user not permitted to {word} requests with signerName {}", go_quote(signer))))
}

/// A signer's bundle is written by whoever may attest for the signer. By the new object: its signer does not change.
fn attested(request: &Request<'_>, authorizer: &Authorizer) -> Result<(), ApiError> {
    let signer = text(request.object, "/spec/signerName");
    let collected = request.old.is_some_and(|old| only_collector_fields_differ(request.object, old));
    if signer.is_empty() || collected || may(request, authorizer, "attest", signer) {
        return Ok(());
    }
    Err(request.forbidden(&format!("user not permitted to attest for signerName {}", go_quote(signer))))
}

/// Whether the user may do this for the signer, or for all of its domain.
fn may(request: &Request<'_>, authorizer: &Authorizer, verb: &str, signer: &str) -> bool {
    let ask = |name: &str| {
        let attributes = Attributes::resource(request.user, verb, GROUP, "signers");
        authorizer.authorize(&Attributes { version: "*", name, ..attributes }).allowed()
    };
    let domain = signer.split('/').next().unwrap_or_default();
    ask(signer) || ask(&format!("{domain}/*"))
}

fn check_subject(request: &Request<'_>) -> Result<(), ApiError> {
    if text(request.object, "/spec/signerName") != CLIENT_SIGNER {
        return Ok(());
    }
    let groups = organizations(text(request.object, "/spec/request"))
        .map_err(|why| request.forbidden(&format!("failed to parse CSR: {why}")))?;
    if groups.iter().any(|group| group == MASTERS) {
        return Err(request
            .forbidden(&format!("use of {CLIENT_SIGNER} signer with system:masters group is not allowed")));
    }
    Ok(())
}

/// The organizations in the subject of a request (base64 of PEM, as stored).
fn organizations(encoded: &str) -> Result<Vec<String>, String> {
    let pem = STANDARD.decode(encoded).map_err(|e| e.to_string())?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem)
        .map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())?;
    if pem.label != "CERTIFICATE REQUEST" {
        return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
    }
    let (_, parsed) = X509CertificationRequest::from_der(&pem.contents).map_err(|e| e.to_string())?;
    parsed
        .certification_request_info
        .subject
        .iter_organization()
        .map(|organization| organization.as_str().map(str::to_owned).map_err(|e| e.to_string()))
        .collect()
}
