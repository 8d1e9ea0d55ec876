//! Security contexts of pods and containers.

use ahash::AHashSet;
use serde_json::Value;

use super::volumes::relative_path;
use super::windows;
use crate::field::{Errors, Path};
use crate::kinds::tree::{flag, has, list, opt_int, text, value};
use crate::kinds::validate;

/// A container's `securityContext`.
pub(super) fn of_container(context: &Value, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    if context.is_null() {
        return;
    }
    ids(context, &["runAsUser", "runAsGroup"], path, errors);
    if has(context, "procMount") {
        let mount = text(context, "procMount");
        let at = path.child("procMount");
        if !matches!(mount, "Default" | "Unmasked") {
            errors.not_supported(&at, mount, &["Default", "Unmasked"]);
        }
        let host_users = value(spec, "hostUsers").as_bool().unwrap_or(true);
        if host_users && mount == "Unmasked" {
            errors.invalid(&at, mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    seccomp(context, path, errors);
    if value(context, "allowPrivilegeEscalation") == &Value::Bool(false) {
        if flag(context, "privileged") {
            errors.invalid(
                path,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        if list(value(context, "capabilities"), "add").iter().any(|cap| cap == "CAP_SYS_ADMIN") {
            errors.invalid(
                path,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
    windows::options(value(context, "windowsOptions"), &path.child("windowsOptions"), errors);
    app_armor(context, path, errors);
}

/// A pod's `securityContext`.
pub(super) fn of_pod(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let context = value(spec, "securityContext");
    ids(context, &["fsGroup", "runAsUser", "runAsGroup"], path, errors);
    for (index, group) in list(context, "supplementalGroups").iter().enumerate() {
        if let Some((id, fault)) = group.as_i64().and_then(|id| Some((id, validate::user_id(id)?))) {
            errors.invalid(&path.child("supplementalGroups").index(index), id, &fault);
        }
    }
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        errors.invalid(
            &path.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
    sysctls(context, spec, &path.child("sysctls"), errors);
    optional_choice(context, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], path, errors);
    seccomp(context, path, errors);
    windows::options(value(context, "windowsOptions"), &path.child("windowsOptions"), errors);
    app_armor(context, path, errors);
    optional_choice(context, "supplementalGroupsPolicy", &["Merge", "Strict"], path, errors);
    optional_choice(context, "seLinuxChangePolicy", &["Recursive"], path, errors);
}

fn ids(context: &Value, fields: &[&str], path: &Path<'_>, errors: &mut Errors) {
    for field in fields {
        if let Some(id) = opt_int(context, field)
            && let Some(fault) = validate::user_id(id)
        {
            errors.invalid(&path.child(field), id, &fault);
        }
    }
}

/// A field that may be absent, with a closed set of values.
pub(crate) fn optional_choice(
    object: &Value,
    field: &str,
    allowed: &[&str],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if has(object, field) && !allowed.contains(&text(object, field)) {
        errors.not_supported(&path.child(field), text(object, field), allowed);
    }
}

/// A field that must be there, with a closed set of values that the empty text is no exception from.
pub(crate) fn given_choice(
    object: &Value,
    field: &str,
    allowed: &[&str],
    path: &Path<'_>,
    errors: &mut Errors,
) {
    if has(object, field) {
        optional_choice(object, field, allowed, path, errors);
    } else {
        errors.required(&path.child(field), "");
    }
}

fn seccomp(context: &Value, path: &Path<'_>, errors: &mut Errors) {
    let profile = value(context, "seccompProfile");
    if profile.is_null() {
        return;
    }
    let path = path.child("seccompProfile");
    profile_type(profile, "type is required when seccompProfile is set", &path, errors);
    let at = path.child("localhostProfile");
    if text(profile, "type") == "Localhost" {
        if has(profile, "localhostProfile") {
            relative_path(text(profile, "localhostProfile"), &at, errors);
        } else {
            errors.required(&at, "must be set when seccomp type is Localhost");
        }
    } else if has(profile, "localhostProfile") {
        let why = "can only be set when seccomp type is Localhost";
        crate::kinds::go::invalid("core.v1.SeccompProfile", profile, why, &at, errors);
    }
}

fn app_armor(context: &Value, path: &Path<'_>, errors: &mut Errors) {
    let profile = value(context, "appArmorProfile");
    if profile.is_null() {
        return;
    }
    let path = path.child("appArmorProfile");
    let at = path.child("localhostProfile");
    let local = text(profile, "localhostProfile");
    match text(profile, "type") {
        "Localhost" => {
            if !has(profile, "localhostProfile") || local.is_empty() {
                errors.required(&at, "must be set when AppArmor type is Localhost");
            } else if local.trim() != local {
                errors.invalid(&at, local, "must not be padded with whitespace");
            }
            if local.len() > 4095 {
                errors.too_long(&at, 4095);
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if has(profile, "localhostProfile") {
                errors.invalid(&at, local, "can only be set when AppArmor type is Localhost");
            }
        }
        _ => profile_type(profile, "type is required when appArmorProfile is set", &path, errors),
    }
}

fn profile_type(profile: &Value, required: &str, path: &Path<'_>, errors: &mut Errors) {
    const TYPES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
    match text(profile, "type") {
        "" => errors.required(&path.child("type"), required),
        other if !TYPES.contains(&other) => errors.not_supported(&path.child("type"), other, TYPES),
        _ => {}
    }
}

fn sysctls(context: &Value, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut names = AHashSet::new();
    for (index, sysctl) in list(context, "sysctls").iter().enumerate() {
        let name = text(sysctl, "name");
        let indexed = path.index(index);
        let at = indexed.child("name");
        if name.is_empty() {
            errors.required(&at, "");
        } else if !is_sysctl(name) {
            errors.invalid(
                &at,
                name,
                "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            );
        } else if !names.insert(name) {
            errors.duplicate(&at, name);
        }
        let dotted = name.replace('/', ".");
        if flag(spec, "hostNetwork") && dotted.starts_with("net.") {
            errors.invalid(&at, name, "may not be specified when 'hostNetwork' is true");
        }
        let ipc = dotted.starts_with("fs.mqueue.")
            || matches!(dotted.as_str(), "kernel.sem")
            || dotted.starts_with("kernel.shm")
            || dotted.starts_with("kernel.msg");
        if flag(spec, "hostIPC") && ipc {
            errors.invalid(&at, name, "may not be specified when 'hostIPC' is true");
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let part = |text: &str| {
        let bytes = text.as_bytes();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        bytes.first().is_some_and(|b| plain(*b))
            && bytes.last().is_some_and(|b| plain(*b))
            && bytes.iter().all(|&b| plain(b) || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}
