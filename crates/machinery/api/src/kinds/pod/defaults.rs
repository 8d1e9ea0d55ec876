//! What a Pod, and every pod template, gets where the user said nothing.
//! Source: `pkg/apis/core/v1/defaults.go` and the declared defaults in the types.

use serde_json::{Map, Value, json};

use crate::kinds::tree::{
    child, default, default_int, default_text, ensure_map, flag, has, int, items_mut, set, text, value,
};
use crate::quantity::Quantity;

/// Defaults of a Pod: those of its spec, and those that templates do not get.
pub(super) fn pod(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    pod_spec(spec);
    for name in ["containers", "initContainers"] {
        for container in items_mut(spec, name) {
            requests_from_limits(container);
        }
    }
    pod_requests(spec);
    default(spec, "enableServiceLinks", true);
    if flag(spec, "hostNetwork") {
        for name in ["containers", "initContainers"] {
            for container in items_mut(spec, name) {
                host_ports(container);
            }
        }
    }
}

/// Defaults of a `PodSpec`, in a pod or a template.
pub(crate) fn pod_spec(spec: &mut Value) {
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "restartPolicy", "Always");
    default(spec, "securityContext", Value::Object(Map::new()));
    default(spec, "terminationGracePeriodSeconds", 30);
    default_text(spec, "schedulerName", "default-scheduler");
    // The deprecated name of the field follows the new one, as the conversion does upstream.
    let account = match (text(spec, "serviceAccountName"), text(spec, "serviceAccount")) {
        ("", old) => old.to_owned(),
        (new, _) => new.to_owned(),
    };
    if !account.is_empty()
        && (text(spec, "serviceAccountName") != account || text(spec, "serviceAccount") != account)
    {
        set(spec, "serviceAccount", account.as_str());
        set(spec, "serviceAccountName", account);
    }
    for name in ["containers", "initContainers", "ephemeralContainers"] {
        for item in items_mut(spec, name) {
            container(item);
        }
    }
    for volume in items_mut(spec, "volumes") {
        volume_source(volume);
    }
}

fn container(container: &mut Value) {
    if text(container, "imagePullPolicy").is_empty() {
        let policy = pull_policy(text(container, "image"));
        set(container, "imagePullPolicy", policy);
    }
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    default(container, "resources", Value::Object(Map::new()));
    for port in items_mut(container, "ports") {
        default_text(port, "protocol", "TCP");
    }
    for variable in items_mut(container, "env") {
        let Some(source) = child(variable, "valueFrom") else { continue };
        if let Some(field) = child(source, "fieldRef") {
            default_text(field, "apiVersion", "v1");
        }
        if let Some(field) = child(source, "resourceFieldRef") {
            default(field, "divisor", "0");
        }
        if let Some(file) = child(source, "fileKeyRef") {
            default(file, "optional", false);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(it) = child(container, name) {
            probe(it);
        }
    }
    if let Some(lifecycle) = child(container, "lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(get) = child(lifecycle, name).and_then(|handler| child(handler, "httpGet")) {
                http_get(get);
            }
        }
    }
    round_up(container);
}

fn probe(probe: &mut Value) {
    default_int(probe, "timeoutSeconds", 1);
    default_int(probe, "periodSeconds", 10);
    default_int(probe, "successThreshold", 1);
    default_int(probe, "failureThreshold", 3);
    if let Some(get) = child(probe, "httpGet") {
        http_get(get);
    }
    if let Some(grpc) = child(probe, "grpc") {
        default(grpc, "service", "");
    }
}

fn http_get(get: &mut Value) {
    default_text(get, "path", "/");
    default_text(get, "scheme", "HTTP");
}

/// `Always` for the tag `latest`, also when it is implied; `IfNotPresent` for any other tag and for digests.
pub(crate) fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    // A colon after the last slash separates the tag; one before it the registry's port.
    let last = name.rsplit('/').next().unwrap_or(name);
    let latest = match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => !digest,
    };
    // An image that cannot be parsed has no tag; validation refuses the empty one.
    if latest && !image.is_empty() { "Always" } else { "IfNotPresent" }
}

/// Amounts finer than a thousandth are rounded up.
fn round_up(container: &mut Value) {
    let Some(resources) = child(container, "resources") else { return };
    for name in ["limits", "requests"] {
        if let Some(list) = child(resources, name) {
            round_up_list(list);
        }
    }
}

/// Rounds every amount of a resource list up to thousandths.
pub(crate) fn round_up_list(list: &mut Value) {
    for (_, amount) in list.as_object_mut().into_iter().flatten() {
        // Only the suffixes of millionths, billionths and negative exponents, or a long fraction, can be finer.
        let fine = amount.as_str().is_some_and(|t| {
            t.ends_with(['n', 'u']) || t.contains("e-") || t.contains("E-") || t.contains('.')
        });
        if !fine {
            continue;
        }
        if let Ok(quantity) = Quantity::from_value(amount)
            && quantity.nanos() % 1_000_000 != 0
        {
            *amount = Quantity::from_milli(quantity.milli_value()).into();
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let limits = value(value(container, "resources"), "limits");
    let Some(limits) = limits.as_object().filter(|l| !l.is_empty()).cloned() else { return };
    let Some(resources) = child(container, "resources") else { return };
    let Some(requests) = ensure_map(resources, "requests") else { return };
    for (name, amount) in limits {
        default(requests, &name, amount);
    }
}

/// Pod-level requests where only pod-level limits are given: the containers' effective sum, or else the limit.
fn pod_requests(spec: &mut Value) {
    let limits = value(value(spec, "resources"), "limits");
    let Some(limits) = limits.as_object().filter(|l| !l.is_empty()).cloned() else { return };
    let sums = super::resources::container_requests(spec);
    let Some(requests) = child(spec, "resources").and_then(|r| ensure_map(r, "requests")) else { return };
    for (name, amount) in sums {
        if matches!(name.as_str(), "cpu" | "memory") {
            default(requests, &name, amount.to_string());
        }
    }
    for (name, amount) in limits {
        if super::resources::pod_level(&name) {
            default(requests, &name, amount);
        }
    }
}

fn host_ports(container: &mut Value) {
    for port in items_mut(container, "ports") {
        if int(port, "hostPort") == 0 {
            let number = int(port, "containerPort");
            set(port, "hostPort", number);
        }
    }
}

/// The fields of a volume that name its source.
pub(crate) const VOLUME_SOURCES: &[&str] = &[
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "persistentVolumeClaim",
    "photonPersistentDisk",
    "portworxVolume",
    "projected",
    "quobyte",
    "rbd",
    "scaleIO",
    "secret",
    "storageos",
    "vsphereVolume",
];

fn volume_source(volume: &mut Value) {
    if !VOLUME_SOURCES.iter().any(|source| has(volume, source)) {
        set(volume, "emptyDir", json!({}));
        return;
    }
    for name in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = child(volume, name) {
            default(source, "defaultMode", 0o644);
        }
    }
    if let Some(source) = child(volume, "downwardAPI") {
        downward_items(source);
    }
    if let Some(projected) = child(volume, "projected") {
        for source in items_mut(projected, "sources") {
            if let Some(token) = child(source, "serviceAccountToken") {
                default(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = child(source, "downwardAPI") {
                downward_items(downward);
            }
        }
    }
    if let Some(path) = child(volume, "hostPath") {
        default(path, "type", "");
    }
    if let Some(image) = child(volume, "image")
        && text(image, "pullPolicy").is_empty()
    {
        let policy = pull_policy(text(image, "reference"));
        set(image, "pullPolicy", policy);
    }
    if let Some(claim) = child(volume, "ephemeral").and_then(|e| child(e, "volumeClaimTemplate"))
        && let Some(claim) = child(claim, "spec")
    {
        default(claim, "volumeMode", "Filesystem");
    }
    if let Some(iscsi) = child(volume, "iscsi") {
        default_text(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = child(volume, "rbd") {
        default_text(rbd, "pool", "rbd");
        default_text(rbd, "user", "admin");
        default_text(rbd, "keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = child(volume, "azureDisk") {
        default(disk, "cachingMode", "ReadWrite");
        default(disk, "kind", "Shared");
        default(disk, "fsType", "ext4");
        default(disk, "readOnly", false);
    }
    if let Some(scale) = child(volume, "scaleIO") {
        default_text(scale, "storageMode", "ThinProvisioned");
        default_text(scale, "fsType", "xfs");
    }
}

fn downward_items(source: &mut Value) {
    for item in items_mut(source, "items") {
        if let Some(field) = child(item, "fieldRef") {
            default_text(field, "apiVersion", "v1");
        }
        if let Some(field) = child(item, "resourceFieldRef") {
            default(field, "divisor", "0");
        }
    }
}

/// Defaults of a pod template.
pub(crate) fn template(template: &mut Value) {
    if let Some(spec) = child(template, "spec") {
        pod_spec(spec);
    }
}
