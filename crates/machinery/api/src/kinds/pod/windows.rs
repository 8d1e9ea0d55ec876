//! What pods may say about Windows, and what of a pod does not go with the operating system it names.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::tree::{flag, has, list, text, value};
use crate::kinds::validate;

/// Bytes of a GMSA credential specification at most.
const LONGEST_CREDENTIAL_SPEC: usize = 64 * 1024;
/// Bytes of the domain before a user's name, which must be fewer.
const DOMAIN_LIMIT: usize = 256;
/// Bytes of a user's name at most.
const LONGEST_USER: usize = 104;

const WINDOWS: &str = "cannot be set for a windows pod";
const LINUX: &str = "windows options cannot be set for a linux pod";

/// Of a pod's security context, what only Linux has; each with whether it is told by its own name in the pod's spec.
const POD_FIELDS: [(&str, bool); 15] = [
    ("appArmorProfile", false),
    ("seLinuxOptions", false),
    ("hostUsers", true),
    ("hostPID", true),
    ("hostIPC", true),
    ("seccompProfile", false),
    ("fsGroup", false),
    ("fsGroupChangePolicy", false),
    ("sysctls", false),
    ("shareProcessNamespace", true),
    ("runAsUser", false),
    ("runAsGroup", false),
    ("supplementalGroups", false),
    ("supplementalGroupsPolicy", false),
    ("seLinuxChangePolicy", false),
];

/// The same of a container's.
const CONTAINER_FIELDS: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// `spec.os`, and what follows from it.
pub(super) fn operating_system(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    if !has(spec, "os") {
        return;
    }
    let at = path.child("os");
    match text(value(spec, "os"), "name") {
        "" => errors.required(&at.child("name"), ""),
        "linux" => {
            let refuse = |context: &Value, path: &Path<'_>, errors: &mut Errors| {
                if has(context, "windowsOptions") {
                    errors.forbidden(&path.child("windowsOptions"), LINUX);
                }
            };
            refuse(value(spec, "securityContext"), &path.child("securityContext"), errors);
            each_container(spec, path, |context, at| refuse(context, at, errors));
        }
        "windows" => only_windows(spec, path, errors),
        other => errors.not_supported(&at, other, &["linux", "windows"]),
    }
}

fn only_windows(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let context = value(spec, "securityContext");
    for (field, of_spec) in POD_FIELDS {
        let holder = if of_spec { spec } else { context };
        let set = match field {
            "hostPID" | "hostIPC" => flag(holder, field),
            "sysctls" => !list(holder, field).is_empty(),
            _ => has(holder, field),
        };
        if set && of_spec {
            errors.forbidden(&path.child(field), WINDOWS);
        } else if set {
            errors.forbidden(&path.child("securityContext").child(field), WINDOWS);
        }
    }
    each_container(spec, path, |context, at| {
        for field in CONTAINER_FIELDS {
            if has(context, field) {
                errors.forbidden(&at.child(field), WINDOWS);
            }
        }
    });
}

/// The security contexts of all containers with their paths, in the order in which upstream visits them.
fn each_container(spec: &Value, path: &Path<'_>, mut visit: impl FnMut(&Value, &Path<'_>)) {
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        let at = path.child(field);
        for (index, container) in list(spec, field).iter().enumerate() {
            visit(value(container, "securityContext"), &at.index(index).child("securityContext"));
        }
    }
}

/// A `windowsOptions` of a pod or a container; null is fine.
pub(super) fn options(options: &Value, path: &Path<'_>, errors: &mut Errors) {
    if has(options, "gmsaCredentialSpecName") {
        let name = text(options, "gmsaCredentialSpecName");
        for fault in validate::subdomain(name) {
            errors.invalid(&path.child("gmsaCredentialSpecName"), name, &fault);
        }
    }
    if has(options, "gmsaCredentialSpec") {
        let spec = text(options, "gmsaCredentialSpec");
        let at = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.invalid(&at, spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > LONGEST_CREDENTIAL_SPEC {
            errors.invalid(&at, spec, "gmsaCredentialSpec size must be under 64 KiB");
        }
    }
    if has(options, "runAsUserName") {
        let name = text(options, "runAsUserName");
        for fault in user_name(name) {
            errors.invalid(&path.child("runAsUserName"), name, &format!("runAsUserName{fault}"));
        }
    }
}

/// The faults of a user's name as `USER` or `DOMAIN\USER`, without what they are faults of.
fn user_name(name: &str) -> Vec<String> {
    let one = |fault: &str| vec![fault.to_owned()];
    if name.is_empty() {
        return one(" cannot be an empty string");
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return one(" cannot contain control characters");
    }
    let (domain, user) = match name.split_once('\\') {
        Some((_, rest)) if rest.contains('\\') => {
            return one(" cannot contain more than one backslash");
        }
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    let mut faults = Vec::new();
    if let Some(domain) = domain {
        if domain.len() >= DOMAIN_LIMIT {
            faults.push(format!("'s Domain length must be under {DOMAIN_LIMIT} characters"));
        }
        if !is_net_bios(domain) && !is_dns(domain) {
            faults.push("'s Domain doesn't match the NetBios nor the DNS format".to_owned());
        }
    }
    if user.is_empty() {
        faults.push("'s User cannot be empty".to_owned());
    } else if user.len() > LONGEST_USER {
        faults.push(format!("'s User length must not be longer than {LONGEST_USER} characters"));
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        faults.push("'s User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        faults.push(r#"'s User cannot contain the following characters: "/\:;|=,+*?<>@[]"#.to_owned());
    }
    faults
}

/// One to fifteen characters, none of which a file's name cannot have, and no dot at the beginning.
fn is_net_bios(domain: &str) -> bool {
    const BAD: [char; 9] = ['\\', '/', ':', '*', '?', '"', '<', '>', '|'];
    (1..=15).contains(&domain.chars().count()) && !domain.starts_with('.') && !domain.contains(BAD)
}

/// Labels of letters, digits and inner dashes, of at most 63 characters each.
fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
    })
}

/// Either all containers of a pod are processes of the host or none, and then its network is the host's.
pub(super) fn host_process(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let asks = |context: &Value| value(value(context, "windowsOptions"), "hostProcess").as_bool();
    let of_pod = asks(value(spec, "securityContext"));
    let (mut all, mut host) = (0, 0);
    each_container(spec, path, |context, at| {
        let own = asks(context);
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let fault = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            errors.invalid(&at.child("windowsOptions").child("hostProcess"), own, &fault);
        }
        all += 1;
        host += i32::from(own.or(of_pod) == Some(true));
    });
    if host == 0 {
        return;
    }
    if host != all {
        let fault =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.invalid(path, "", fault);
    }
    if !flag(spec, "hostNetwork") {
        let fault = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.invalid(&path.child("hostNetwork"), false, fault);
    }
}
