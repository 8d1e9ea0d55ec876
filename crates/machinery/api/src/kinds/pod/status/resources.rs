//! What a pod's status says of what its containers were given: claims, users, devices and their health, images as volumes.
//! Source: `ValidatePodStatusUpdate` of `pkg/apis/core/validation`.

use ahash::AHashSet;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::tree::{has, int, list, text, value};
use crate::kinds::validate::{self, user_id};

/// Characters of a message about a device's health at most.
const LONGEST_MESSAGE: usize = 1024;
/// Bytes of a reference to an image at most.
const LONGEST_IMAGE: usize = 256;

/// Claims that were made for the pod.
pub(super) fn claims(status: &Value, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("resourceClaimStatuses");
    let mut seen = AHashSet::new();
    for (index, claim) in list(status, "resourceClaimStatuses").iter().enumerate() {
        let at = at.index(index);
        let name = text(claim, "name");
        if !list(spec, "resourceClaims").iter().any(|known| text(known, "name") == name) {
            let why = "must match the name of an entry in `spec.resourceClaims`";
            errors.invalid(&at.child("name"), name, why);
        }
        if !seen.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        if has(claim, "resourceClaimName") {
            claim_name(text(claim, "resourceClaimName"), &at.child("resourceClaimName"), errors);
        }
    }
    let extended = value(status, "extendedResourceClaimStatus");
    if !extended.is_null() {
        extended_claim(extended, spec, &path.child("extendedResourceClaimStatus"), errors);
    }
}

fn claim_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    for fault in validate::subdomain(name) {
        errors.invalid(path, name, &fault);
    }
}

/// The claim that stands for extended resources.
fn extended_claim(claim: &Value, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mappings = list(claim, "requestMappings");
    let at = path.child("requestMappings");
    if mappings.is_empty() {
        errors.required(&at, "at least one request mapping is required");
    }
    let mut seen = AHashSet::new();
    for (index, mapping) in mappings.iter().enumerate() {
        let at = at.index(index);
        let [container, resource, request] =
            ["containerName", "resourceName", "requestName"].map(|field| text(mapping, field));
        let known =
            ["containers", "initContainers"].iter().find_map(|field| find(list(spec, field), container));
        match known {
            None => errors.invalid(
                &at.child("containerName"),
                container,
                "must match the name of an entry in spec.initContainers.name or spec.containers.name",
            ),
            Some(known) if !has(value(value(known, "resources"), "requests"), resource) => errors.invalid(
                &at.child("resourceName"),
                resource,
                "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests",
            ),
            Some(_) => {}
        }
        // Upstream tells of it beside the list.
        for fault in validate::label(request) {
            errors.invalid(&path.child("requestName"), request, &fault);
        }
        if !seen.insert((container, resource, request)) {
            for (field, value) in
                [("containerName", container), ("resourceName", resource), ("requestName", request)]
            {
                errors.duplicate(&at.child(field), value);
            }
        }
    }
    match text(claim, "resourceClaimName") {
        "" => errors.required(&path.child("resourceClaimName"), ""),
        name => claim_name(name, &path.child("resourceClaimName"), errors),
    }
}

fn find<'a>(containers: &'a [Value], name: &str) -> Option<&'a Value> {
    containers.iter().find(|container| text(container, "name") == name)
}

/// What each container's status says.
pub(super) fn containers(status: &Value, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    const FIELDS: [(&str, &str); 3] = [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", ""),
    ];
    let windows = text(value(spec, "os"), "name") == "windows";
    for (field, _) in FIELDS {
        for (index, container) in list(status, field).iter().enumerate() {
            let linux = value(value(container, "user"), "linux");
            let at = path.child(field);
            let at = at.index(index);
            let at = at.child("user");
            match (linux.is_null(), windows) {
                (true, _) => {}
                (false, true) => errors.forbidden(&at.child("linux"), "cannot be set for a windows pod"),
                (false, false) => user(linux, &at.child("linux"), errors),
            }
        }
    }
    for (field, within) in FIELDS {
        for (index, container) in list(status, field).iter().enumerate() {
            let at = path.child(field);
            let at = at.index(index);
            let at = at.child("allocatedResourcesStatus");
            if within.is_empty() && !list(container, "allocatedResourcesStatus").is_empty() {
                errors.forbidden(&at, "must not be specified in container status");
            } else {
                let known = find(list(spec, within), text(container, "name"));
                allocated(container, known, &at, errors);
            }
        }
    }
    for (field, _) in FIELDS {
        for (index, container) in list(status, field).iter().enumerate() {
            let at = path.child(field);
            let at = at.index(index);
            let at = at.child("volumeMounts");
            for (index, mount) in list(container, "volumeMounts").iter().enumerate() {
                let image = value(value(mount, "volumeStatus"), "image");
                if !image.is_null() {
                    let at = at.index(index);
                    let at = at.child("volumeStatus");
                    let at = at.child("imageVolumeStatus");
                    let reference = text(image, "imageRef");
                    if reference.is_empty() {
                        errors.required(&at.child("imageRef"), "imageRef must not be empty");
                    } else if reference.len() > LONGEST_IMAGE {
                        errors.too_long(&at.child("imageRef"), LONGEST_IMAGE);
                    }
                }
            }
        }
    }
}

fn user(user: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in ["uid", "gid"] {
        if let Some(fault) = user_id(int(user, field)) {
            errors.invalid(&path.child(field), int(user, field), &fault);
        }
    }
    let at = path.child("supplementalGroups");
    for (index, group) in list(user, "supplementalGroups").iter().filter_map(Value::as_i64).enumerate() {
        if let Some(fault) = user_id(group) {
            errors.invalid(&at.index(index), group, &fault);
        }
    }
}

/// Devices and their health. A container that the pod does not have is left alone, as upstream does.
fn allocated(status: &Value, container: Option<&Value>, path: &Path<'_>, errors: &mut Errors) {
    for (index, resource) in list(status, "allocatedResourcesStatus").iter().enumerate() {
        let at = path.index(index);
        let name = text(resource, "name");
        if let Some(container) = container {
            let resources = value(container, "resources");
            let is_claim = name.starts_with("claim:");
            let claimed = |claim: &Value| match text(claim, "request") {
                "" => format!("claim:{}", text(claim, "name")),
                request => format!("claim:{}/{request}", text(claim, "name")),
            };
            let known = if is_claim {
                list(resources, "claims").iter().any(|claim| claimed(claim) == name)
            } else {
                has(value(resources, "requests"), name)
            };
            let why = if is_claim {
                "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty"
            } else {
                "must match one of the container's resource requests"
            };
            if !known {
                errors.invalid(&at.child("name"), name, why);
            }
        }
        let mut seen = AHashSet::new();
        let at = at.child("resources");
        for (index, device) in list(resource, "resources").iter().enumerate() {
            let at = at.index(index);
            let health = text(device, "health");
            if !matches!(health, "Healthy" | "Unhealthy" | "Unknown") {
                errors.not_supported(&at.child("health"), health, &["Healthy", "Unhealthy", "Unknown"]);
            }
            if has(device, "message") {
                match text(device, "message").len() {
                    0 => errors.required(&at.child("message"), "must be non-empty if specified"),
                    length if length > LONGEST_MESSAGE => {
                        errors.too_long(&at.child("message"), LONGEST_MESSAGE);
                    }
                    _ => {}
                }
            }
            if !seen.insert(text(device, "resourceID")) {
                errors.duplicate(&at.child("resourceID"), text(device, "resourceID"));
            }
        }
    }
}
