//! Containers of every kind: ports, environment, mounts, probes, hooks, restart rules.

use ahash::AHashSet;
use serde_json::Value;

use super::resources;
use super::security;
use super::volumes::{Volumes, no_backsteps, relative_path};
use crate::field::{Errors, Path};
use crate::kinds::tree::{flag, has, int, list, opt_int, text, value};
use crate::kinds::validate::{self, NEGATIVE};
use crate::quantity::Quantity;

/// What a container's validity depends on in its pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) spec: &'a Value,
    pub(crate) volumes: &'a Volumes<'a>,
}

impl Scope<'_> {
    fn grace_seconds(&self) -> Option<i64> {
        opt_int(self.spec, "terminationGracePeriodSeconds")
    }
}

/// `containers`.
pub(super) fn regular(scope: Scope<'_>, path: &Path<'_>, errors: &mut Errors) {
    let containers = list(scope.spec, "containers");
    if containers.is_empty() {
        errors.required(path, "");
        return;
    }
    let mut names = AHashSet::new();
    for (index, container) in containers.iter().enumerate() {
        let at = path.index(index);
        common(container, scope, &at, errors);
        let name = text(container, "name");
        if !names.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        hooks_and_probes(container, scope, &at, errors);
        restart_policy(container, false, &at, errors);
    }
    host_ports(containers, path, errors);
}

/// `initContainers`: those that restart always are sidecars and may have hooks and probes.
pub(super) fn init(scope: Scope<'_>, path: &Path<'_>, errors: &mut Errors) {
    let mut names: AHashSet<&str> = list(scope.spec, "containers").iter().map(|c| text(c, "name")).collect();
    for (index, container) in list(scope.spec, "initContainers").iter().enumerate() {
        let at = path.index(index);
        common(container, scope, &at, errors);
        restart_policy(container, true, &at, errors);
        let name = text(container, "name");
        if !name.is_empty() && !names.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        host_ports(std::slice::from_ref(container), path, errors);
        let sidecar = text(container, "restartPolicy") == "Always";
        if sidecar {
            hooks_and_probes(container, scope, &at, errors);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if has(container, field) {
                    errors.forbidden(
                        &at.child(field),
                        "may not be set for init containers without restartPolicy=Always",
                    );
                }
            }
            for (number, policy) in list(container, "resizePolicy").iter().enumerate() {
                if text(policy, "restartPolicy") == "RestartContainer" {
                    errors.invalid(
                        &at.child("resizePolicy").index(number).child("restartPolicy"),
                        "RestartContainer",
                        "must not be set to 'RestartContainer' for non-sidecar initContainers",
                    );
                }
            }
        }
    }
}

/// `ephemeralContainers`: only what can be added to a running pod.
pub(super) fn ephemeral(scope: Scope<'_>, path: &Path<'_>, errors: &mut Errors) {
    const REASON: &str = "cannot be set for an Ephemeral Container";
    let others = || list(scope.spec, "containers").iter().chain(list(scope.spec, "initContainers"));
    let mut names: AHashSet<&str> = others().map(|c| text(c, "name")).collect();
    for (index, container) in list(scope.spec, "ephemeralContainers").iter().enumerate() {
        let at = path.index(index);
        common(container, scope, &at, errors);
        image_whitespace(container, &at, errors);
        let name = text(container, "name");
        if !names.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
        let target = text(container, "targetContainerName");
        if !target.is_empty() && !others().any(|c| text(c, "name") == target) {
            errors.not_found(&at.child("targetContainerName"), target);
        }
        const FORBIDDEN: &[&str] =
            &["ports", "resources", "resizePolicy", "restartPolicy", "restartPolicyRules", "livenessProbe"];
        for field in FORBIDDEN.iter().chain(&["readinessProbe", "startupProbe", "lifecycle"]) {
            if !crate::kinds::tree::is_empty(container, field) {
                errors.forbidden(&at.child(field), REASON);
            }
        }
        for (number, mount) in list(container, "volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !text(mount, field).is_empty() {
                    errors.forbidden(&at.child("volumeMounts").index(number).child(field), REASON);
                }
            }
        }
    }
}

/// What only a pod's image must obey, not a template's.
pub(super) fn image_whitespace(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let image = text(container, "image");
    if image.trim().len() != image.len() {
        errors.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
}

fn common(container: &Value, scope: Scope<'_>, path: &Path<'_>, errors: &mut Errors) {
    let name = text(container, "name");
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        for fault in validate::label(name) {
            errors.invalid(&path.child("name"), name, &fault);
        }
    }
    if text(container, "image").is_empty() {
        errors.required(&path.child("image"), "");
    }
    choice(container, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"], path, errors);
    ports(container, &path.child("ports"), errors);
    env(container, &path.child("env"), errors);
    env_from(container, &path.child("envFrom"), errors);
    mounts(container, scope.volumes, &path.child("volumeMounts"), errors);
    devices(container, scope.volumes, &path.child("volumeDevices"), errors);
    choice(container, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], path, errors);
    let claims = value(scope.spec, "resourceClaims");
    resources::of_container(value(container, "resources"), claims, &path.child("resources"), errors);
    resize_policy(container, scope.spec, &path.child("resizePolicy"), errors);
    security::of_container(
        value(container, "securityContext"),
        scope.spec,
        &path.child("securityContext"),
        errors,
    );
}

/// A required field with a closed set of values.
pub(crate) fn choice(object: &Value, field: &str, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    let chosen = text(object, field);
    if chosen.is_empty() {
        errors.required(&path.child(field), "");
    } else if !allowed.contains(&chosen) {
        errors.not_supported(&path.child(field), chosen, allowed);
    }
}

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

fn ports(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut names = AHashSet::new();
    for (index, port) in list(container, "ports").iter().enumerate() {
        let at = path.index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            let faults = validate::port_name(name);
            for fault in &faults {
                errors.invalid(&at.child("name"), name, fault);
            }
            if faults.is_empty() && !names.insert(name) {
                errors.duplicate(&at.child("name"), name);
            }
        }
        let number = int(port, "containerPort");
        if number == 0 {
            errors.required(&at.child("containerPort"), "");
        } else if let Some(fault) = validate::port_number(number) {
            errors.invalid(&at.child("containerPort"), number, &fault);
        }
        let host = int(port, "hostPort");
        if host != 0
            && let Some(fault) = validate::port_number(host)
        {
            errors.invalid(&at.child("hostPort"), host, &fault);
        }
        choice(port, "protocol", PROTOCOLS, &at, errors);
    }
}

/// No two of these containers take the same port of the host.
fn host_ports(containers: &[Value], path: &Path<'_>, errors: &mut Errors) {
    let mut taken = AHashSet::new();
    for (index, container) in containers.iter().enumerate() {
        for (number, port) in list(container, "ports").iter().enumerate() {
            let host = int(port, "hostPort");
            let (protocol, ip) = (text(port, "protocol"), text(port, "hostIP"));
            if host != 0 && !taken.insert((protocol, ip, host)) {
                let at = path.index(index);
                let list_path = at.child("ports");
                errors
                    .duplicate(&list_path.index(number).child("hostPort"), format!("{protocol}/{ip}/{host}"));
            }
        }
    }
}

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn env(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (index, variable) in list(container, "env").iter().enumerate() {
        let at = path.index(index);
        let name = text(variable, "name");
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else {
            for fault in validate::env_name(name) {
                errors.invalid(&at.child("name"), name, &fault);
            }
        }
        if has(variable, "valueFrom") {
            env_source(variable, &at.child("valueFrom"), errors);
        }
    }
}

fn env_source(variable: &Value, path: &Path<'_>, errors: &mut Errors) {
    let source = value(variable, "valueFrom");
    let mut sources = 0;
    if has(source, "fieldRef") {
        sources += 1;
        field_ref(value(source, "fieldRef"), ENV_FIELDS, &path.child("fieldRef"), errors);
    }
    if has(source, "resourceFieldRef") {
        sources += 1;
        resource_field_ref(value(source, "resourceFieldRef"), false, &path.child("resourceFieldRef"), errors);
    }
    for field in ["configMapKeyRef", "secretKeyRef"] {
        if has(source, field) {
            sources += 1;
            key_ref(value(source, field), &path.child(field), errors);
        }
    }
    if has(source, "fileKeyRef") {
        sources += 1;
        file_key_ref(value(source, "fileKeyRef"), &path.child("fileKeyRef"), errors);
    }
    if sources == 0 {
        errors.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        );
    } else if !text(variable, "value").is_empty() {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
}

fn key_ref(reference: &Value, path: &Path<'_>, errors: &mut Errors) {
    let name = text(reference, "name");
    for fault in validate::subdomain(name) {
        errors.invalid(&path.child("name"), name, &fault);
    }
    let key = text(reference, "key");
    if key.is_empty() {
        errors.required(&path.child("key"), "");
    } else {
        for fault in validate::config_key(key) {
            errors.invalid(&path.child("key"), key, &fault);
        }
    }
}

fn file_key_ref(reference: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (key, volume, file) =
        (text(reference, "key"), text(reference, "volumeName"), text(reference, "path"));
    if key.is_empty() {
        errors.required(&path.child("key"), "");
    } else {
        for fault in validate::env_name(key) {
            errors.invalid(&path.child("key"), key, &fault);
        }
    }
    if volume.is_empty() {
        errors.required(&path.child("volumeName"), "");
    } else {
        for fault in validate::label(volume) {
            errors.invalid(&path.child("volumeName"), volume, &fault);
        }
    }
    if file.is_empty() {
        errors.required(&path.child("path"), "");
    } else {
        no_backsteps(file, &path.child("path"), errors);
    }
}

/// A `fieldRef`; `allowed` in upstream's sorted order. Annotations and labels take a subscript.
pub(super) fn field_ref(reference: &Value, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    let version = text(reference, "apiVersion");
    if version.is_empty() {
        errors.required(&path.child("apiVersion"), "");
    }
    let field = text(reference, "fieldPath");
    if field.is_empty() {
        errors.required(&path.child("fieldPath"), "");
        return;
    }
    if version != "v1" {
        errors.invalid(
            &path.child("fieldPath"),
            field,
            &format!("error converting fieldPath: unsupported pod version: {version}"),
        );
        return;
    }
    if let Some((name, key)) = field.strip_suffix("']").and_then(|rest| rest.split_once("['")) {
        match name {
            "metadata.annotations" => subscript(&key.to_lowercase(), path, errors),
            "metadata.labels" => subscript(key, path, errors),
            _ => errors.invalid(path, name, "does not support subscript"),
        }
        return;
    }
    const KNOWN: &[&str] = &["metadata.annotations", "metadata.labels", "spec.restartPolicy", "status.phase"];
    if !allowed.contains(&field) {
        if ENV_FIELDS.contains(&field) || KNOWN.contains(&field) {
            errors.not_supported(&path.child("fieldPath"), field, allowed);
        } else {
            errors.invalid(
                &path.child("fieldPath"),
                field,
                &format!("error converting fieldPath: field label not supported: {field}"),
            );
        }
    }
}

fn subscript(key: &str, path: &Path<'_>, errors: &mut Errors) {
    for fault in validate::qualified_name(key) {
        errors.invalid(path, key, &fault);
    }
}

/// A `resourceFieldRef`; volumes must name the container.
pub(super) fn resource_field_ref(reference: &Value, volume: bool, path: &Path<'_>, errors: &mut Errors) {
    const FIELDS: &[&str] = &[
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    const SIZES: &[&str] =
        &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let resource = text(reference, "resource");
    let huge = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if volume && text(reference, "containerName").is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !FIELDS.contains(&resource) && !huge {
        errors.not_supported(&path.child("resource"), resource, FIELDS);
    }
    let Ok(divisor) = Quantity::from_value(value(reference, "divisor")) else { return };
    if divisor.is_zero() {
        return;
    }
    let divisor = divisor.to_string();
    let fault = |what: &str| {
        format!(
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the {what} resource"
        )
    };
    let fault = match resource {
        "limits.cpu" | "requests.cpu" if divisor != "1m" && divisor != "1" => {
            "only divisor's values 1m and 1 are supported with the cpu resource".to_owned()
        }
        "limits.memory" | "requests.memory" if !SIZES.contains(&divisor.as_str()) => fault("memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" if !SIZES.contains(&divisor.as_str()) => {
            fault("local ephemeral storage")
        }
        _ if huge && !SIZES.contains(&divisor.as_str()) => fault("hugepages"),
        _ => return,
    };
    errors.invalid(&path.child("divisor"), resource, &fault);
}

fn env_from(container: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (index, source) in list(container, "envFrom").iter().enumerate() {
        let at = path.index(index);
        let prefix = text(source, "prefix");
        if !prefix.is_empty() {
            for fault in validate::env_name(prefix) {
                errors.invalid(&at.child("prefix"), prefix, &fault);
            }
        }
        let mut sources = 0;
        for field in ["configMapRef", "secretRef"] {
            if !has(source, field) {
                continue;
            }
            sources += 1;
            let name = text(value(source, field), "name");
            let at = at.child(field);
            if name.is_empty() {
                errors.required(&at.child("name"), "");
            } else {
                for fault in validate::dns_subdomain(name, true) {
                    errors.invalid(&at.child("name"), name, &fault);
                }
            }
        }
        if sources == 0 {
            errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`");
        } else if sources > 1 {
            errors.invalid(path, "", "may not have more than one field specified at a time");
        }
    }
}

fn mounts(container: &Value, volumes: &Volumes<'_>, path: &Path<'_>, errors: &mut Errors) {
    let all = list(container, "volumeMounts");
    let devices = list(container, "volumeDevices");
    let mut points = AHashSet::new();
    for (index, mount) in all.iter().enumerate() {
        let at = path.index(index);
        let (name, point) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        }
        if !volumes.contains(name) {
            errors.not_found(&at.child("name"), name);
        }
        if point.is_empty() {
            errors.required(&at.child("mountPath"), "");
        }
        if !points.insert(point) {
            errors.invalid(&at.child("mountPath"), point, "must be unique");
        }
        if devices.iter().any(|d| text(d, "name") == name) {
            errors.invalid(&at.child("name"), name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|d| text(d, "devicePath") == point) {
            errors.invalid(
                &at.child("mountPath"),
                point,
                "must not already exist as a path in volumeDevices",
            );
        }
        // The paths below are without index upstream.
        let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        if !sub.is_empty() {
            relative_path(sub, &path.child("subPath"), errors);
        }
        if !expression.is_empty() {
            if !sub.is_empty() {
                errors.invalid(
                    &at.child("subPathExpr"),
                    expression,
                    "subPathExpr and subPath are mutually exclusive",
                );
            }
            relative_path(expression, &path.child("subPathExpr"), errors);
        }
        let propagation = text(mount, "mountPropagation");
        if has(mount, "mountPropagation") {
            let at = path.child("mountPropagation");
            const MODES: &[&str] = &["Bidirectional", "HostToContainer", "None"];
            if !MODES.contains(&propagation) {
                errors.not_supported(&at, propagation, MODES);
            }
            if propagation == "Bidirectional" && !flag(value(container, "securityContext"), "privileged") {
                errors.forbidden(
                    &at,
                    "Bidirectional mount propagation is available only to privileged containers",
                );
            }
        }
        let recursive = text(mount, "recursiveReadOnly");
        let at = path.child("recursiveReadOnly");
        match recursive {
            _ if !has(mount, "recursiveReadOnly") => {}
            "Disabled" => {}
            "Enabled" | "IfPossible" => {
                if !flag(mount, "readOnly") {
                    errors.forbidden(&at, "may only be specified when readOnly is true");
                }
                if !matches!(propagation, "" | "None") {
                    errors.forbidden(
                        &at,
                        "may only be specified when mountPropagation is None or not specified",
                    );
                }
            }
            other => errors.not_supported(&at, other, &["Disabled", "Enabled", "IfPossible"]),
        }
    }
}

fn devices(container: &Value, volumes: &Volumes<'_>, path: &Path<'_>, errors: &mut Errors) {
    let mounts = list(container, "volumeMounts");
    let (mut names, mut paths) = (AHashSet::new(), AHashSet::new());
    for (index, device) in list(container, "volumeDevices").iter().enumerate() {
        let at = path.index(index);
        let (name, point) = (text(device, "name"), text(device, "devicePath"));
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else if !names.insert(name) {
            errors.invalid(&at.child("name"), name, "must be unique");
        }
        match volumes.get(name) {
            Some(volume) if !has(volume, "persistentVolumeClaim") && !has(volume, "ephemeral") => errors
                .invalid(
                    &at.child("name"),
                    name,
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                ),
            Some(_) => {}
            None => errors.not_found(&at.child("name"), name),
        }
        if point.is_empty() {
            errors.required(&at.child("devicePath"), "");
        } else if point.split('/').any(|part| part == "..") {
            errors.invalid(&at.child("devicePath"), point, "can not contain backsteps ('..')");
        } else if !paths.insert(point) {
            errors.invalid(&at.child("devicePath"), point, "must be unique");
        }
        if mounts.iter().any(|m| text(m, "name") == name) {
            errors.invalid(&at.child("name"), name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|m| text(m, "mountPath") == point) {
            errors.invalid(
                &at.child("devicePath"),
                point,
                "must not already exist as a path in volumeMounts",
            );
        }
    }
}

fn resize_policy(container: &Value, spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut seen = AHashSet::new();
    for (index, policy) in list(container, "resizePolicy").iter().enumerate() {
        let (resource, restart) = (text(policy, "resourceName"), text(policy, "restartPolicy"));
        if !seen.insert(resource) {
            errors.duplicate(&path.index(index), resource);
        }
        match resource {
            "cpu" | "memory" => {}
            "" => errors.required(path, ""),
            other => errors.not_supported(path, other, &["cpu", "memory"]),
        }
        match restart {
            "NotRequired" | "RestartContainer" => {}
            "" => errors.required(path, ""),
            other => errors.not_supported(path, other, &["NotRequired", "RestartContainer"]),
        }
        if text(spec, "restartPolicy") == "Never" && restart != "NotRequired" {
            errors.invalid(path, restart, "must be 'NotRequired' when pod `restartPolicy` is 'Never'");
        }
    }
}

/// `init`: of a container that says nothing of restarts the rules do not matter further.
fn restart_policy(container: &Value, init: bool, path: &Path<'_>, errors: &mut Errors) {
    let rules = list(container, "restartPolicyRules");
    let at = path.child("restartPolicy");
    if !has(container, "restartPolicy") {
        if !rules.is_empty() {
            errors.required(&at, "must specify restartPolicy when restart rules are used");
        }
        if init {
            return;
        }
    } else {
        const POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
        let policy = text(container, "restartPolicy");
        if !POLICIES.contains(&policy) {
            errors.not_supported(&at, policy, POLICIES);
        }
    }
    let list_path = path.child("restartPolicyRules");
    if rules.len() > 20 {
        errors.too_many(&list_path, rules.len(), 20);
    }
    for (index, rule) in rules.iter().enumerate() {
        let at = list_path.index(index);
        const ACTIONS: &[&str] = &["Restart", "RestartAllContainers"];
        if !ACTIONS.contains(&text(rule, "action")) {
            errors.not_supported(&at.child("action"), text(rule, "action"), ACTIONS);
        }
        if !has(rule, "exitCodes") {
            errors.required(&at.child("exitCodes"), "must be specified");
            continue;
        }
        let codes = value(rule, "exitCodes");
        let at = at.child("exitCodes");
        if !matches!(text(codes, "operator"), "In" | "NotIn") {
            errors.not_supported(&at.child("operator"), text(codes, "operator"), &["In", "NotIn"]);
        }
        if list(codes, "values").len() > 255 {
            errors.too_many(&at.child("values"), list(codes, "values").len(), 255);
        }
    }
}

fn hooks_and_probes(container: &Value, scope: Scope<'_>, path: &Path<'_>, errors: &mut Errors) {
    let lifecycle = value(container, "lifecycle");
    let at = path.child("lifecycle");
    for field in ["postStart", "preStop"] {
        if has(lifecycle, field) {
            handler(value(lifecycle, field), scope, &at.child(field), errors);
        }
    }
    if has(lifecycle, "stopSignal") && !has(scope.spec, "os") {
        errors.forbidden(&at.child("stopSignal"), "may not be set for containers with empty `spec.os.name`");
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if has(container, field) {
            probe(field, value(container, field), scope, &path.child(field), errors);
        }
    }
}

fn probe(field: &str, probe: &Value, scope: Scope<'_>, path: &Path<'_>, errors: &mut Errors) {
    handler(probe, scope, path, errors);
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        if int(probe, field) < 0 {
            errors.invalid(&path.child(field), int(probe, field), NEGATIVE);
        }
    }
    let grace = opt_int(probe, "terminationGracePeriodSeconds");
    if let Some(grace) = grace.filter(|g| *g <= 0) {
        errors.invalid(&path.child("terminationGracePeriodSeconds"), grace, "must be greater than 0");
    }
    if field == "readinessProbe" {
        if let Some(grace) = grace {
            errors.invalid(
                &path.child("terminationGracePeriodSeconds"),
                grace,
                "must not be set for readinessProbes",
            );
        }
    } else if int(probe, "successThreshold") != 1 {
        errors.invalid(&path.child("successThreshold"), int(probe, "successThreshold"), "must be 1");
    }
}

fn handler(handler: &Value, scope: Scope<'_>, path: &Path<'_>, errors: &mut Errors) {
    let mut chosen = false;
    for field in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
        if !has(handler, field) {
            continue;
        }
        let at = path.child(field);
        if chosen {
            errors.forbidden(&at, "may not specify more than 1 handler type");
            continue;
        }
        chosen = true;
        let action = value(handler, field);
        match field {
            "exec" if list(action, "command").is_empty() => errors.required(&at.child("command"), ""),
            "exec" => {}
            "httpGet" => http_get(action, &at, errors),
            "tcpSocket" | "grpc" => port_or_name(value(action, "port"), &at.child("port"), errors),
            _ => {
                let seconds = int(action, "seconds");
                if let Some(grace) = scope.grace_seconds().filter(|grace| seconds < 0 || seconds > *grace) {
                    errors.invalid(
                        &at,
                        seconds,
                        &format!(
                            "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
                        ),
                    );
                }
            }
        }
    }
    if !chosen {
        errors.required(path, "must specify a handler type");
    }
}

fn http_get(get: &Value, path: &Path<'_>, errors: &mut Errors) {
    if text(get, "path").is_empty() {
        errors.required(&path.child("path"), "");
    }
    port_or_name(value(get, "port"), &path.child("port"), errors);
    let scheme = text(get, "scheme");
    if scheme != "HTTP" && scheme != "HTTPS" {
        errors.not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    for header in list(get, "httpHeaders") {
        let name = text(header, "name");
        if let Some(fault) = validate::http_header_name(name) {
            errors.invalid(&path.child("httpHeaders"), name, &fault);
        }
    }
}

/// A port by number or by name.
pub(crate) fn port_or_name(port: &Value, path: &Path<'_>, errors: &mut Errors) {
    match port {
        Value::String(name) => {
            for fault in validate::port_name(name) {
                errors.invalid(path, name.as_str(), &fault);
            }
        }
        other => {
            let number = other.as_i64().unwrap_or(0);
            if let Some(fault) = validate::port_number(number) {
                errors.invalid(path, number, &fault);
            }
        }
    }
}
