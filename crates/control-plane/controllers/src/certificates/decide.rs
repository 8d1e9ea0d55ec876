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
    /// It asks for what its signer does not sign.
    Fail(String),
    /// Sign it for this long.
    Sign(Duration),
}

/// Decides about one request; `longest` is the longest life of a certificate.
pub(crate) fn sign(
    request: &CertificateSigningRequest,
    parsed: &SigningRequest,
    longest: Duration,
) -> Signing {
    let spec = &request.spec;
    if !has(request, "Approved") || has(request, "Denied") || has(request, "Failed") || is_issued(request) {
        return Signing::Nothing;
    }
    let judged = match spec.signer_name.as_str() {
        CLIENT => client(spec),
        KUBELET_CLIENT => kubelet_client(spec, parsed),
        KUBELET_SERVING => kubelet_serving(spec, parsed),
        LEGACY => Ok(()),
        _ => return Signing::Nothing,
    };
    if let Err(why) = judged {
        return Signing::Fail(why.to_owned());
    }
    let asked =
        spec.expiration_seconds.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    Signing::Sign(asked.map_or(longest, |asked| asked.max(SHORTEST)).min(longest))
}

fn client(spec: &CertificateSigningRequestSpec) -> Result<(), &'static str> {
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

/// How long requests are kept: decided and failed ones an hour, undecided ones a day. Source: `cleaner.go`.
const OVER: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// When the request is to be removed, if nothing happens to it. `expiry` is the end of its certificate.
pub(crate) fn remove_at(request: &CertificateSigningRequest, expiry: Option<Timestamp>) -> Option<Timestamp> {
    let created = request.metadata.creation_timestamp.as_ref()?.0;
    let conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let decided = conditions
        .filter(|condition| matches!(condition.type_.as_str(), "Approved" | "Denied" | "Failed"))
        .filter_map(|condition| Some(condition.last_update_time.as_ref()?.0))
        .min();
    let by_age = match decided {
        Some(decided) => decided + OVER,
        None => created + PENDING,
    };
    Some(expiry.map_or(by_age, |expiry| by_age.min(expiry)))
}
