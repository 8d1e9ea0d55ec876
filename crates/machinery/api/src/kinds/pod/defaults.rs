//! What a Pod, and every pod template, gets where the user said nothing.
//! Source: `pkg/apis/core/v1/defaults.go` and the declared defaults in the types.

use serde_json::{Map, Value, json};

use crate::kinds::tree::{
    child, default, default_int, default_text, ensure_map, flag, has, int, is_empty, items_mut, list, remove,
    set, text, value,
};
use crate::quantity::Quantity;

/// Defaults of a Pod: those of its spec, and those that templates do not get.
pub(super) fn pod(object: &mut Value) {
    status(object);
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

/// A client that knows one address only says what all are; one that knows all says what the one is.
fn status(pod: &mut Value) {
    let Some(status) = child(pod, "status") else { return };
    given_resources(status);
    let (one, first) = (text(status, "podIP"), list(status, "podIPs").first().map(|ip| text(ip, "ip")));
    match (one, first) {
        ("", Some(first)) => {
            let first = first.to_owned();
            set(status, "podIP", first);
        }
        (one, first) if !one.is_empty() && first != Some(one) => {
            let all = json!([{"ip": one}]);
            set(status, "podIPs", all);
        }
        _ => {}
    }
}

/// What a status says was given names no empty list of claims.
fn given_resources(status: &mut Value) {
    let drop_claims = |of: &mut Value| {
        if let Some(resources) = child(of, "resources").filter(|resources| is_empty(resources, "claims")) {
            remove(resources, "claims");
        }
    };
    drop_claims(status);
    for field in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        items_mut(status, field).for_each(drop_claims);
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
    // An image that cannot be parsed has no tag.
    if latest && is_reference(name) { "Always" } else { "IfNotPresent" }
}

/// Whether this is the name of an image, with or without a tag: `[HOST[:PORT]/]PATH[:TAG]`. Source: the grammar of
/// `github.com/distribution/reference`, where a host is told from a path by a dot, a colon or a capital in it.
fn is_reference(text: &str) -> bool {
    const NAME_MAX: usize = 255;
    // An id, which is no name.
    let id = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let (host, rest) = match text.split_once('/') {
        Some((host, rest))
            if host == "localhost" || host.bytes().any(|b| matches!(b, b'.' | b':' | b'A'..=b'Z')) =>
        {
            (host, rest)
        }
        _ => ("", text),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    // Where no host is named, Docker's is meant, and is part of the name.
    let implied = match (host, path.contains('/')) {
        ("", true) => "docker.io/".len(),
        ("", false) => "docker.io/library/".len(),
        _ => 0,
    };
    let length = text.len() - tag.map_or(0, |tag| tag.len() + 1) + implied;
    !id && length <= NAME_MAX
        && (host.is_empty() || is_host(host))
        && path.split('/').all(is_path_component)
        && tag.is_none_or(is_tag)
}

fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (text, None),
    };
    let component = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let named = match address {
        Some(address) => !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
        None => name.split('.').all(component),
    };
    named && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Small letters and digits, between which there may be a dot, one or two underscores, or dashes.
fn is_path_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()].into_iter().all(|end| end.is_some_and(|b| word(*b)));
    ends && bytes
        .split(|b| word(*b))
        .all(|between| matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|b| *b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

/// Amounts finer than a thousandth are rounded up.
fn round_up(container: &mut Value) {
    let Some(resources) = child(container, "resources") else { return };
    if is_empty(resources, "claims") {
        remove(resources, "claims");
    }
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
    lasting_source(volume);
}

/// Defaults of the sources that pods and PersistentVolumes have both.
pub(crate) fn lasting_source(volume: &mut Value) {
    if let Some(path) = child(volume, "hostPath") {
        default(path, "type", "");
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

#[test]
fn images_that_cannot_be_parsed_have_no_tag() {
    let long = format!("{}/b", "a".repeat(300));
    for (image, policy) in [
        ("img", "Always"),
        ("img:latest", "Always"),
        ("a.b/c", "Always"),
        ("localhost:5000/a__b/c-d.e", "Always"),
        ("[fd00::1]:5000/a", "Always"),
        ("img:1", "IfNotPresent"),
        ("", "IfNotPresent"),
        ("Bad_Value!", "IfNotPresent"),
        ("-1", "IfNotPresent"),
        ("10%", "IfNotPresent"),
        ("Upper", "IfNotPresent"),
        ("a..b", "IfNotPresent"),
        (long.as_str(), "IfNotPresent"),
    ] {
        assert_eq!(pull_policy(image), policy, "{image}");
    }
}
