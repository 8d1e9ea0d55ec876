//! Certificate signing requests, trust bundles, and requests of pods.
//! Source: `pkg/registry/certificates`, `pkg/apis/certificates/validation`.

use serde_json::{Map, Value, json};

pub(super) mod trust_bundle;

use super::Metadata;
use super::Requester;
use super::kind::{Kind, empty_status};
use super::print::{AGE, NAME, age, human_duration, name, or, string};
use super::tree::{carry, ensure_map, list, opt_int, remove, same, set, text, value};
use super::validate::path_segment;
use crate::field::{Errors, Path, Reason};

/// The conditions that decide about a request; each is only ever true, and never taken back.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];

pub(super) static SIGNING_REQUEST: Kind = Kind {
    status: Some(empty_status),
    requested: set_requester,
    // What is to be signed never changes.
    prepare_update: |new, old| carry(new, old, "spec"),
    prepare_status: keep_decisions,
    prepare_part: |new, old, part| {
        if part == "approval" {
            let conditions = value(value(new, "status"), "conditions").clone();
            for field in ["spec", "status"] {
                carry(new, old, field);
            }
            if let Some(status) = ensure_map(new, "status") {
                set(status, "conditions", conditions);
            }
        }
    },
    validate: request,
    validate_status: |new, old, errors| change(new, old, false, errors),
    validate_part: |new, old, part, errors| change(new, old, part == "approval", errors),
    name: path_segment,
    fields: |object| vec![("spec.signerName", text(value(object, "spec"), "signerName").to_owned())],
    columns: &[
        NAME,
        AGE,
        string("SignerName"),
        string("Requestor"),
        string("RequestedDuration"),
        string("Condition"),
    ],
    row: |object, now| {
        let (spec, status) = (value(object, "spec"), value(object, "status"));
        let has_condition = |kind: &str| list(status, "conditions").iter().any(|c| text(c, "type") == kind);
        let mut condition = match (has_condition("Denied"), has_condition("Approved")) {
            (true, _) => "Denied",
            (false, true) => "Approved",
            _ => "Pending",
        }
        .to_owned();
        if has_condition("Failed") {
            condition.push_str(",Failed");
        }
        if !text(status, "certificate").is_empty() {
            condition.push_str(",Issued");
        }
        vec![
            name(object),
            age(object, now),
            or(text(spec, "signerName"), "<none>").into(),
            text(spec, "username").into(),
            opt_int(spec, "expirationSeconds").map_or("<none>".to_owned(), human_duration).into(),
            condition.into(),
        ]
    },
    metadata: Metadata { part: Metadata::NEW_CHANGE.change, ..Metadata::NEW_CHANGE },
    ..Kind::BASE
};

/// Who asks is what the server knows, not what the client says.
fn set_requester(request: &mut Value, requester: &Requester<'_>) {
    let Some(spec) = ensure_map(request, "spec") else { return };
    for field in ["username", "uid", "groups", "extra"] {
        remove(spec, field);
    }
    set(spec, "username", requester.name);
    if !requester.uid.is_empty() {
        set(spec, "uid", requester.uid);
    }
    if !requester.groups.is_empty() {
        set(spec, "groups", requester.groups.to_vec());
    }
    if !requester.extra.is_empty() {
        let extra: Map<String, Value> =
            requester.extra.iter().map(|(key, values)| (key.clone(), json!(values))).collect();
        set(spec, "extra", extra);
    }
}

fn request(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = value(object, "spec");
    if let Some(fault) = request_fault(text(spec, "request")) {
        errors.invalid(&path.child("request"), text(spec, "request"), fault);
    }
    let usages = list(spec, "usages");
    if usages.is_empty() {
        errors.required(&path.child("usages"), "");
    }
    for (index, usage) in usages.iter().filter_map(Value::as_str).enumerate() {
        let at = path.child("usages");
        if !USAGES.contains(&usage) {
            errors.not_supported(&at.index(index), usage, USAGES);
        }
        if usages[..index].iter().any(|before| before == usage) {
            errors.duplicate(&at.index(index), usage);
        }
    }
    signer(text(spec, "signerName"), &path.child("signerName"), errors);
    if let Some(seconds) = opt_int(spec, "expirationSeconds").filter(|s| *s < 600) {
        errors.invalid(
            &path.child("expirationSeconds"),
            seconds,
            "may not specify a duration less than 600 seconds (10 minutes)",
        );
    }
    conditions(value(object, "status"), errors);
}

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// The content itself is read by who approves and signs it; here only that it is a PEM block of the right type.
fn request_fault(base64_text: &str) -> Option<&'static str> {
    let bytes =
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, base64_text).unwrap_or_default();
    let pem = String::from_utf8_lossy(&bytes);
    let marked = |word: &str| pem.contains(&format!("-----{word} CERTIFICATE REQUEST-----"));
    (!marked("BEGIN") || !marked("END")).then_some("PEM block type must be CERTIFICATE REQUEST")
}

/// The longest name of a signer: a domain, a slash, and a path of a label, a dot and a subdomain.
const SIGNER_MAX: usize = 253 + 1 + 63 + 1 + 253;

/// `domain/path`, such as `example.com/my-signer`. Source: `ValidateSignerName`.
pub(super) fn signer(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    let parts: Vec<&str> = name.split('/').collect();
    let [domain, rest] = parts.as_slice() else {
        errors.invalid(
            path,
            name,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        );
        return;
    };
    if domain.len() > 253 {
        errors.too_long(path, 253);
    }
    labels(domain, super::validate::label, path, errors);
    if domain.split('.').count() < 2 {
        errors.invalid(path, *domain, "should be a domain with at least two segments separated by dots");
    }
    labels(rest, super::validate::subdomain, path, errors);
    if name.len() > SIGNER_MAX {
        errors.too_long(path, SIGNER_MAX);
    }
}

/// The faults of the first bad part between dots: those of others would read the same.
fn labels(whole: &str, faults_of: fn(&str) -> Vec<String>, path: &Path<'_>, errors: &mut Errors) {
    let Some(part) = whole.split('.').find(|part| !faults_of(part).is_empty()) else { return };
    for fault in faults_of(part) {
        errors.invalid(path, whole, &format!("validating label {part:?}: {fault}"));
    }
}

fn conditions(status: &Value, errors: &mut Errors) {
    let base = Path::new("status");
    let path = base.child("conditions");
    let all = list(status, "conditions");
    for (index, condition) in all.iter().enumerate() {
        let at = path.index(index);
        let (kind, state) = (text(condition, "type"), text(condition, "status"));
        if kind.is_empty() {
            errors.required(&at.child("type"), "");
        }
        let allowed: &[&str] = match kind {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        if state.is_empty() {
            errors.required(&at.child("status"), "");
        } else if !allowed.contains(&state) {
            errors.not_supported(&at.child("status"), state, allowed);
        }
        let before = &all[..index];
        let seen = |kind: &str| before.iter().any(|c| text(c, "type") == kind);
        if DECISIONS.contains(&kind) && DECISIONS.iter().any(|other| *other != kind && seen(other)) {
            errors.invalid(&path, kind, "Approved and Denied conditions are mutually exclusive");
        }
        if seen(kind) {
            errors.duplicate(&at.child("type"), kind);
        }
    }
}

/// A status update that leaves a decision out does not take it back.
fn keep_decisions(new: &mut Value, old: &Value) {
    let kept: Vec<Value> = list(value(old, "status"), "conditions")
        .iter()
        .filter(|c| DECISIONS.contains(&text(c, "type")))
        .cloned()
        .collect();
    let Some(status) = ensure_map(new, "status").filter(|_| !kept.is_empty()) else { return };
    let mut conditions = list(status, "conditions").to_vec();
    for decision in kept {
        match conditions.iter_mut().find(|c| text(c, "type") == text(&decision, "type")) {
            Some(condition) if text(condition, "status").is_empty() => *condition = decision,
            Some(_) => {}
            None => conditions.push(decision),
        }
    }
    set(status, "conditions", conditions);
}

/// Faults of a change of status or approval.
fn change(new: &Value, old: &Value, approval: bool, errors: &mut Errors) {
    request(new, errors);
    let base = Path::new("status");
    let path = base.child("conditions");
    let of = |object: &Value, kind: &str| -> Vec<Value> {
        list(value(object, "status"), "conditions")
            .iter()
            .filter(|c| text(c, "type") == kind)
            .cloned()
            .collect()
    };
    for kind in ["Approved", "Denied", "Failed"] {
        let (news, olds) = (of(new, kind), of(old, kind));
        let judged = !approval && DECISIONS.contains(&kind);
        if news.len() < olds.len() {
            errors.forbidden(&path, &format!("updates may not remove a condition of type {kind:?}"));
        } else if judged && news.len() > olds.len() {
            errors.forbidden(&path, &format!("updates may not add a condition of type {kind:?}"));
        } else if judged && !news.iter().zip(&olds).all(|(a, b)| same(a, b)) {
            errors.push(
                Reason::Forbidden,
                &path,
                format!("Forbidden: updates may not modify a condition of type {kind:?}\n"),
            );
        }
    }
    let certificate = |object| text(value(object, "status"), "certificate");
    let at = base.child("certificate");
    if certificate(new) != certificate(old) {
        if approval {
            errors.forbidden(&at, "updates may not set certificate content");
        } else if !certificate(old).is_empty() {
            errors.forbidden(&at, "updates may not modify existing certificate content");
        }
    }
}

/// PodCertificateRequests.
pub(super) static POD_CERTIFICATE: Kind = Kind {
    status: Some(empty_status),
    fields: |object| {
        let spec = value(object, "spec");
        vec![
            ("spec.signerName", text(spec, "signerName").to_owned()),
            ("spec.podName", text(spec, "podName").to_owned()),
            ("spec.nodeName", text(spec, "nodeName").to_owned()),
        ]
    },
    columns: &[
        NAME,
        string("PodName"),
        string("ServiceAccountName"),
        string("NodeName"),
        string("SignerName"),
        string("State"),
        string("UnverifiedUserAnnotations"),
    ],
    row: |object, _| {
        let spec = value(object, "spec");
        let ended = list(value(object, "status"), "conditions")
            .iter()
            .rfind(|c| matches!(text(c, "type"), "Issued" | "Denied" | "Failed"));
        vec![
            name(object),
            text(spec, "podName").into(),
            text(spec, "serviceAccountName").into(),
            text(spec, "nodeName").into(),
            text(spec, "signerName").into(),
            ended.map_or("Pending", |c| text(c, "type")).into(),
            super::print::labels(spec, "unverifiedUserAnnotations").into(),
        ]
    },
    unconditional_update: false,
    ..Kind::BASE
};
