//! PodSecurity: namespaces say by label which of upstream's standards (privileged, baseline, restricted) their pods must
//! meet, at which version; violations are refused, noted for the audit log, or warned about.
//!
//! Evaluation is a pure function of pod, level and version. Pods are judged on every write that can change what runs, by
//! any subresource that is not known to be harmless; workloads are judged by their template, for warnings and audit only.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use podium_api::field::{Errors, Path};
use podium_api::status::ApiError;
use serde_json::Value;

use super::{Operation, Request};
use crate::objects::{Objects, items, text};

pub mod checks;
mod evaluations;

pub(super) use evaluations::Evaluations;
use evaluations::Mode;

const PREFIX: &str = "pod-security.kubernetes.io/";
/// Existing pods looked at when a namespace's level is raised, as upstream.
const MAX_PODS: usize = 3000;

/// A standard, from lax to strict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything goes.
    Privileged,
    /// No known way out of the container.
    Baseline,
    /// Hardened.
    Restricted,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })
    }
}

/// The minor version of Kubernetes whose standard counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// `v1.x`.
    Minor(u32),
    /// `latest`.
    Latest,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Minor(minor) => write!(f, "v1.{minor}"),
            Version::Latest => f.write_str("latest"),
        }
    }
}

/// A level at a version; shown as `baseline:latest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standard {
    /// The level.
    pub level: Level,
    /// The version.
    pub version: Version,
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level, self.version)
    }
}

/// What holds in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Violations are refused.
    pub enforce: Standard,
    /// Violations are noted in the audit log.
    pub audit: Standard,
    /// Violations are told to the client.
    pub warn: Standard,
}

impl Policy {
    /// The defaults of a cluster: this level enforced, at the latest version; nothing audited or warned about beyond.
    pub fn enforcing(level: Level) -> Self {
        let standard = |level| Standard { level, version: Version::Latest };
        Policy {
            enforce: standard(level),
            audit: standard(Level::Privileged),
            warn: standard(Level::Privileged),
        }
    }

    /// The policy that a namespace's labels ask for, and what is wrong with them. A label that cannot be read means
    /// the strictest level for enforcing, and none for audit and warning.
    pub fn of(namespace: &Value, defaults: &Policy) -> (Policy, Errors) {
        let mut policy = *defaults;
        let mut errors = Errors::new();
        let labels = &namespace["metadata"]["labels"];
        let label = |name: &str| labels.get(format!("{PREFIX}{name}")).and_then(Value::as_str);
        let mut read_level = |name: &str, standard: &mut Standard, otherwise: Level| -> bool {
            let Some(text) = label(name) else { return false };
            match text {
                "privileged" => standard.level = Level::Privileged,
                "baseline" => standard.level = Level::Baseline,
                "restricted" => standard.level = Level::Restricted,
                _ => {
                    standard.level = otherwise;
                    invalid(&mut errors, name, text, "must be one of privileged, baseline, restricted");
                    return false;
                }
            }
            true
        };
        let enforced = read_level("enforce", &mut policy.enforce, Level::Restricted);
        read_level("audit", &mut policy.audit, Level::Privileged);
        read_level("warn", &mut policy.warn, Level::Privileged);
        let mut read_version = |name: &str, standard: &mut Standard| {
            let Some(text) = label(name) else { return };
            match parse_version(text) {
                Some(version) => standard.version = version,
                None => {
                    standard.version = Version::Latest;
                    invalid(&mut errors, name, text, "must be \"latest\" or \"v1.x\"");
                }
            }
        };
        read_version("enforce-version", &mut policy.enforce);
        read_version("audit-version", &mut policy.audit);
        read_version("warn-version", &mut policy.warn);
        // Who enforces strictly and says nothing of warnings wants to be warned as strictly.
        if label("warn").is_none() && enforced && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if label("warn-version").is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }

    fn privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|standard| standard.level == Level::Privileged)
    }
}

fn invalid(errors: &mut Errors, label: &str, value: &str, detail: &str) {
    let (metadata, key) = (Path::new("metadata"), format!("{PREFIX}{label}"));
    let labels = metadata.child("labels");
    errors.invalid(&labels.key(&key), value, detail);
}

/// `latest` or `v1.N`, N without leading zeros.
fn parse_version(text: &str) -> Option<Version> {
    if text == "latest" {
        return Some(Version::Latest);
    }
    let digits = text.strip_prefix("v1.")?;
    let plain = !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && (digits.len() == 1 || !digits.starts_with('0'));
    if plain { digits.parse().ok().map(Version::Minor) } else { None }
}

/// The admission check.
pub(super) fn check(
    request: &mut Request<'_>,
    objects: &Objects,
    defaults: &Policy,
    counted: &Evaluations,
) -> Result<(), ApiError> {
    match (request.group, request.resource) {
        ("", "namespaces") => check_namespace(request, objects, defaults),
        ("", "pods") => check_pod(request, objects, defaults, counted),
        _ => {
            if let Some(pointer) = template(request.group, request.resource) {
                check_template(request, objects, defaults, counted, pointer);
            }
            Ok(())
        }
    }
}

/// Where a workload keeps its pod template.
fn template(group: &str, resource: &str) -> Option<&'static str> {
    match (group, resource) {
        ("", "podtemplates") => Some("/template"),
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => Some("/spec/template"),
        ("batch", "cronjobs") => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

fn check_pod(
    request: &mut Request<'_>,
    objects: &Objects,
    defaults: &Policy,
    counted: &Evaluations,
) -> Result<(), ApiError> {
    // What is not on this list is judged: a new subresource that changes pods must not slip through.
    let harmless = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];
    if harmless.contains(&request.subresource) {
        return Ok(());
    }
    let (policy, errors) = policy_of(request, objects, defaults);
    if errors.is_empty() && policy.privileged() {
        counted.count(request, policy.enforce, Mode::Enforce, true);
        return Ok(());
    }
    if let (Operation::Update, Some(old)) = (request.operation, request.old)
        && !significant(request.object, old)
    {
        return Ok(());
    }
    note_errors(request, &errors, counted);
    request.annotations.push((format!("{PREFIX}enforce-policy"), policy.enforce.to_string()));
    let enforced = checks::evaluate(request.object, policy.enforce);
    counted.count(request, policy.enforce, Mode::Enforce, enforced.is_empty());
    audit(request, &policy, counted);
    if !enforced.is_empty() {
        let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, detail(&enforced));
        return Err(request.forbidden(&why));
    }
    let found = checks::evaluate(request.object, policy.warn);
    warn(request, &policy, &found, counted);
    Ok(())
}

fn check_template(
    request: &mut Request<'_>,
    objects: &Objects,
    defaults: &Policy,
    counted: &Evaluations,
    pointer: &str,
) {
    if !request.subresource.is_empty() {
        return;
    }
    let (policy, errors) = policy_of(request, objects, defaults);
    let silent = policy.warn.level == Level::Privileged && policy.audit.level == Level::Privileged;
    let Some(template) = request.object.pointer(pointer).filter(|t| !t.is_null()) else { return };
    if errors.is_empty() && silent {
        return;
    }
    let audited = checks::evaluate(template, policy.audit);
    let warned = checks::evaluate(template, policy.warn);
    note_errors(request, &errors, counted);
    note_audit(request, &policy, &audited, counted);
    warn(request, &policy, &warned, counted);
}

fn policy_of(request: &Request<'_>, objects: &Objects, defaults: &Policy) -> (Policy, Errors) {
    match objects.get("", "namespaces", "", request.namespace) {
        Some(namespace) => Policy::of(&namespace, defaults),
        // NamespaceLifecycle refuses creates; an update of a pod whose namespace is gone changes nothing that runs.
        None => (*defaults, Errors::new()),
    }
}

fn note_errors(request: &mut Request<'_>, errors: &Errors, counted: &Evaluations) {
    if !errors.is_empty() {
        counted.failed();
        let all: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        let text = format!("Failed to parse policy: {}", all.join(", "));
        request.annotations.push((format!("{PREFIX}error"), text));
    }
}

fn audit(request: &mut Request<'_>, policy: &Policy, counted: &Evaluations) {
    let found = checks::evaluate(request.object, policy.audit);
    note_audit(request, policy, &found, counted);
}

fn note_audit(
    request: &mut Request<'_>,
    policy: &Policy,
    found: &[checks::Violation],
    counted: &Evaluations,
) {
    if !found.is_empty() {
        counted.count(request, policy.audit, Mode::Audit, false);
        let text = format!("would violate PodSecurity \"{}\": {}", policy.audit, detail(found));
        request.annotations.push((format!("{PREFIX}audit-violations"), text));
    }
}

fn warn(request: &mut Request<'_>, policy: &Policy, found: &[checks::Violation], counted: &Evaluations) {
    if !found.is_empty() {
        counted.count(request, policy.warn, Mode::Warn, false);
        request.warnings.push(format!("would violate PodSecurity \"{}\": {}", policy.warn, detail(found)));
    }
}

/// `reason (detail), reason (detail)`.
fn detail(violations: &[checks::Violation]) -> String {
    let parts: Vec<String> = violations.iter().map(|v| format!("{} ({})", v.reason, v.detail)).collect();
    parts.join(", ")
}

/// Whether an update changes what runs: containers or images.
fn significant(new: &Value, old: &Value) -> bool {
    for list in ["/spec/containers", "/spec/initContainers"] {
        let (new, old) = (items(new, list), items(old, list));
        if new.len() != old.len() || new.iter().zip(old).any(|(n, o)| n["image"] != o["image"]) {
            return true;
        }
    }
    let known = items(old, "/spec/ephemeralContainers");
    items(new, "/spec/ephemeralContainers")
        .iter()
        .any(|new| known.iter().find(|k| k["name"] == new["name"]).is_none_or(|k| k["image"] != new["image"]))
}

fn check_namespace(request: &mut Request<'_>, objects: &Objects, defaults: &Policy) -> Result<(), ApiError> {
    if !request.subresource.is_empty() {
        return Ok(());
    }
    let (new, errors) = Policy::of(request.object, defaults);
    let refused = |errors: &Errors| {
        Err(ApiError::invalid("", "Namespace", text(request.object, "/metadata/name"), errors))
    };
    let Some(old) = request.old.filter(|_| request.operation == Operation::Update) else {
        return if errors.is_empty() { Ok(()) } else { refused(&errors) };
    };
    let (old, old_errors) = Policy::of(old, defaults);
    if !errors.is_empty() && errors != old_errors {
        return refused(&errors);
    }
    let stricter = new.enforce != old.enforce
        && new.enforce.level != Level::Privileged
        && !(new.enforce.version == old.enforce.version && new.enforce.level <= old.enforce.level);
    if stricter {
        let name = text(request.object, "/metadata/name").to_owned();
        let pods = objects.source().list("", "pods", Some(&name));
        let warnings = namespace_warnings(&name, new.enforce, pods.iter().map(|pod| &**pod));
        request.warnings.extend(warnings);
    }
    Ok(())
}

/// What a newly enforced standard would refuse among the pods that are there: one line per kind of violation.
pub(crate) fn namespace_warnings<'a>(
    namespace: &str,
    enforce: Standard,
    pods: impl Iterator<Item = &'a Value>,
) -> Vec<String> {
    // Pods of one controller are alike: one of each first, so that the limit cuts repetitions.
    let mut seen: HashSet<&str> = HashSet::new();
    let (mut first, mut repeated) = (Vec::new(), Vec::new());
    for pod in pods {
        let controller =
            items(pod, "/metadata/ownerReferences").iter().find(|owner| owner["controller"] == true);
        match controller.map(|owner| text(owner, "/uid")) {
            Some(uid) if !seen.insert(uid) => repeated.push(pod),
            _ => first.push(pod),
        }
    }
    first.append(&mut repeated);
    let total = first.len();
    let mut by_reason: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in first.iter().take(MAX_PODS) {
        let violations = checks::evaluate(pod, enforce);
        if !violations.is_empty() {
            let reasons: Vec<&str> = violations.iter().map(|v| v.reason.as_str()).collect();
            by_reason.entry(reasons.join(", ")).or_default().push(text(pod, "/metadata/name"));
        }
    }
    let mut warnings = Vec::new();
    if total > MAX_PODS {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {MAX_PODS} of {total} existing pods"
        ));
    }
    if !by_reason.is_empty() {
        warnings.push(format!(
            "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{enforce}\""
        ));
    }
    let mut lines: Vec<String> = by_reason
        .into_iter()
        .map(|(reasons, pods)| {
            let name = pods.iter().min().copied().unwrap_or_default();
            match pods.len() {
                1 => format!("{name}: {reasons}"),
                2 => format!("{name} (and 1 other pod): {reasons}"),
                n => format!("{name} (and {} other pods): {reasons}", n - 1),
            }
        })
        .collect();
    lines.sort();
    warnings.extend(lines);
    warnings
}

#[cfg(test)]
mod tests;
