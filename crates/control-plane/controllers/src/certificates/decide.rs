//! What is to be done with one request. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use podium_pki::SigningRequest;

pub(crate) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(crate) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(crate) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(crate) const LEGACY: &str = "kubernetes.io/legacy-unknown";

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";
/// The least that `expirationSeconds` may ask for; a request below it is refused by the API.
const SHORTEST: Duration = Duration::from_secs(600);

/// Whether a condition of this type is there.
pub(crate) fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == kind)
}

/// Whether the certificate is there.
pub(crate) fn is_issued(request: &CertificateSigningRequest) -> bool {
    request.status.as_ref().and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty())
}

/// Whether the request waits to be approved or denied, and is of the kind that is approved here. Others have signers of their own,
/// who may read what we cannot.
pub(crate) fn is_for_approval(request: &CertificateSigningRequest) -> bool {
    let decided = has(request, "Approved") || has(request, "Denied") || is_issued(request);
    !decided && request.spec.signer_name == KUBELET_CLIENT
}

/// Whether the request is approved and waits for its certificate, whoever is to sign it.
fn waits_for_certificate(request: &CertificateSigningRequest) -> bool {
    let ended = has(request, "Denied") || has(request, "Failed") || is_issued(request);
    has(request, "Approved") && !ended
}

/// What is asked for, or why that cannot be told.
pub(crate) fn read(request: &CertificateSigningRequest) -> Result<SigningRequest, String> {
    let name = request.metadata.name.as_deref().unwrap_or_default();
    SigningRequest::parse(&request.spec.request.0)
        .map_err(|error| format!("unable to parse csr {name:?}: {error}"))
}

/// A kind of request that is approved if its requester may create it as that subresource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recognized {
    /// Below `certificatesigningrequests`.
    pub(crate) subresource: &'static str,
    /// Of the condition.
    pub(crate) message: &'static str,
}

const RENEWAL: Recognized = Recognized {
    subresource: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
const BOOTSTRAP: Recognized = Recognized {
    subresource: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};

/// What an undecided request is recognized as, in the order to ask.
pub(crate) fn recognize(spec: &CertificateSigningRequestSpec, parsed: &SigningRequest) -> Vec<Recognized> {
    if spec.signer_name != KUBELET_CLIENT || kubelet_client(spec, parsed).is_err() {
        return Vec::new();
    }
    let own = spec.username.as_deref() == Some(parsed.common_name.as_str());
    if own { vec![RENEWAL, BOOTSTRAP] } else { vec![BOOTSTRAP] }
}

/// The condition to add.
pub(crate) fn condition(
    kind: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// What the signer does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Signing {
    /// Not ours, not approved, or done.
    Nothing,
    /// It asks for what its signer does not sign, or cannot be read. That is final: what is asked for never changes.
    Fail(String),
    /// Sign this for this long.
    Sign(Box<SigningRequest>, Duration),
}

/// Decides about one request; `longest` is the longest life of a certificate.
///
/// Difference from upstream, where a request that cannot be read is tried again and again: it fails, so that whoever waits for it
/// is told.
pub(crate) fn sign(request: &CertificateSigningRequest, longest: Duration) -> Signing {
    if !waits_for_certificate(request) {
        return Signing::Nothing;
    }
    let spec = &request.spec;
    let judge: Judge = match spec.signer_name.as_str() {
        CLIENT => client,
        KUBELET_CLIENT => kubelet_client,
        KUBELET_SERVING => kubelet_serving,
        LEGACY => anything,
        // Others have signers of their own, who may read what we cannot.
        _ => return Signing::Nothing,
    };
    let parsed = match read(request) {
        Ok(parsed) => parsed,
        Err(why) => return Signing::Fail(why),
    };
    if let Err(why) = judge(spec, &parsed) {
        return Signing::Fail(why.to_owned());
    }
    let asked =
        spec.expiration_seconds.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    let life = asked.map_or(longest, |asked| asked.max(SHORTEST)).min(longest);
    Signing::Sign(Box::new(parsed), life)
}

/// What a signer says of a request.
type Judge = fn(&CertificateSigningRequestSpec, &SigningRequest) -> Result<(), &'static str>;

/// The legacy signer takes whatever was approved.
fn anything(_: &CertificateSigningRequestSpec, _: &SigningRequest) -> Result<(), &'static str> {
    Ok(())
}

fn client(spec: &CertificateSigningRequestSpec, _: &SigningRequest) -> Result<(), &'static str> {
    let usages = usages(spec);
    if !usages.contains(&"client auth") {
        return Err("usages did not match requested usages: missing \"client auth\"");
    }
    match usages.iter().all(|u| matches!(*u, "client auth" | "digital signature" | "key encipherment")) {
        true => Ok(()),
        false => Err(
            "usages did not match: only \"digital signature\", \"key encipherment\" and \"client auth\" are signed",
        ),
    }
}

fn kubelet_client(spec: &CertificateSigningRequestSpec, parsed: &SigningRequest) -> Result<(), &'static str> {
    node_subject(parsed)?;
    if !parsed.dns_names.is_empty() {
        return Err("DNS subjectAltNames are not allowed");
    }
    if !parsed.addresses.is_empty() {
        return Err("IP subjectAltNames are not allowed");
    }
    node_usages(spec, "client auth")
}

fn kubelet_serving(
    spec: &CertificateSigningRequestSpec,
    parsed: &SigningRequest,
) -> Result<(), &'static str> {
    node_subject(parsed)?;
    if parsed.dns_names.is_empty() && parsed.addresses.is_empty() {
        return Err("DNS or IP subjectAltName is required");
    }
    node_usages(spec, "server auth")
}

fn node_subject(parsed: &SigningRequest) -> Result<(), &'static str> {
    if parsed.organizations != [NODES] {
        return Err("subject organization is not system:nodes");
    }
    if !parsed.emails.is_empty() {
        return Err("email subjectAltNames are not allowed");
    }
    if !parsed.uris.is_empty() {
        return Err("URI subjectAltNames are not allowed");
    }
    match parsed.common_name.strip_prefix(NODE_PREFIX).is_some_and(|name| !name.is_empty()) {
        true => Ok(()),
        false => Err("subject common name does not begin with system:node:"),
    }
}

fn node_usages(spec: &CertificateSigningRequestSpec, own: &str) -> Result<(), &'static str> {
    let usages = usages(spec);
    let allowed = |usage: &&str| matches!(*usage, "digital signature" | "key encipherment") || *usage == own;
    let fits = usages.iter().all(allowed) && usages.contains(&own) && usages.contains(&"digital signature");
    match fits {
        true => Ok(()),
        false => Err("usages did not match those of the signer"),
    }
}

fn usages(spec: &CertificateSigningRequestSpec) -> Vec<&str> {
    spec.usages.iter().flatten().map(String::as_str).collect()
}

/// How long requests are kept that are over: issued, denied, or failed.
const OVER: SignedDuration = SignedDuration::from_hours(1);
/// And those that somebody may still act on: undecided, or approved and not issued yet.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// When the request is to be removed, if nothing happens to it; `None` if never. `expiry` is the end of its certificate.
///
/// Source: `pkg/controller/certificates/cleaner/cleaner.go`. Each rule stands for itself and the earliest counts. Age is counted
/// from creation without conditions, and otherwise from the condition's last update, if it says when that was.
pub(crate) fn remove_at(request: &CertificateSigningRequest, expiry: Option<Timestamp>) -> Option<Timestamp> {
    let conditions: Vec<_> =
        request.status.iter().flat_map(|status| status.conditions.iter().flatten()).collect();
    if conditions.is_empty() {
        return Some(request.metadata.creation_timestamp.as_ref()?.0 + PENDING);
    }
    let issued = is_issued(request);
    let by_age = conditions.iter().filter_map(|condition| {
        let kept = match condition.type_.as_str() {
            "Denied" | "Failed" => OVER,
            "Approved" if issued => OVER,
            "Approved" => PENDING,
            _ => return None,
        };
        Some(condition.last_update_time.as_ref()?.0 + kept)
    });
    let expiry = expiry.filter(|_| issued && has(request, "Approved"));
    by_age.chain(expiry).min()
}
