//! Volumes of a pod: one source each, and what each source needs.

mod legacy;

use ahash::AHashSet;
use serde_json::Value;

use super::containers::{choice, field_ref, resource_field_ref};
use super::security::optional_choice;
use crate::field::{Errors, Path};
use crate::kinds::certificates::{signer, trust_bundle::reference_faults};
use crate::kinds::tree::{has, int, is_empty, list, opt_int, text, value};
use crate::kinds::validate;
use crate::quantity::Quantity;

pub(crate) use legacy::storage_os;

/// The valid volumes of a pod by name; containers may mount only these.
#[derive(Debug, Default)]
pub(crate) struct Volumes<'a>(Vec<(&'a str, &'a Value)>);

impl<'a> Volumes<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, volume)| *volume)
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Validates `volumes`; `pod_name` is empty for templates.
pub(super) fn validate<'a>(
    spec: &'a Value,
    pod_name: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) -> Volumes<'a> {
    let volumes = list(spec, "volumes");
    let mut valid = Vec::with_capacity(volumes.len());
    let mut names = AHashSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let at = path.index(index);
        let name = text(volume, "name");
        let before = errors.0.len();
        source(volume, name, pod_name, &at, errors);
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else {
            for fault in validate::label(name) {
                errors.invalid(&at.child("name"), name, &fault);
            }
        }
        if names.contains(name) {
            errors.duplicate(&at.child("name"), name);
        }
        if errors.0.len() == before {
            names.insert(name);
            valid.push((name, volume));
        }
        let claim = text(value(volume, "persistentVolumeClaim"), "claimName");
        let created = |v: &Value| has(v, "ephemeral") && claim == format!("{pod_name}-{}", text(v, "name"));
        if !claim.is_empty() && !pod_name.is_empty() && volumes.iter().any(created) {
            errors.invalid(
                &at.child("persistentVolumeClaim").child("claimName"),
                claim,
                "must not reference a PVC that gets created for an ephemeral volume",
            );
        }
    }
    Volumes(valid)
}

/// The sources after emptyDir in the order in which upstream looks at them, and the names it gives two of them.
const SOURCES: &[&str] = &[
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

fn source(volume: &Value, name: &str, pod_name: &str, path: &Path<'_>, errors: &mut Errors) {
    let mut chosen = has(volume, "emptyDir");
    if chosen {
        let limit = value(value(volume, "emptyDir"), "sizeLimit");
        if !limit.is_null() && !Quantity::from_value(limit).is_ok_and(|q| !q.is_negative()) {
            let at = path.child("emptyDir");
            errors.forbidden(&at.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
        }
    }
    for kind in SOURCES.iter().copied().filter(|kind| has(volume, kind)) {
        let source = value(volume, kind);
        if chosen {
            let shown = match kind {
                "cephfs" => "cephFS",
                "downwardAPI" => "downwarAPI",
                other => other,
            };
            errors.forbidden(&path.child(shown), "may not specify more than 1 volume type");
            continue;
        }
        chosen = true;
        let shown = if kind == "gcePersistentDisk" { "persistentDisk" } else { kind };
        volume_source(kind, source, &path.child(shown), errors);
        if kind == "iscsi"
            && has(source, "initiatorName")
            && name.len() + 1 + text(source, "targetPortal").len() > 64
        {
            errors.invalid(&path.child("name"), name, legacy::LONG_PORTAL);
        }
        if kind == "ephemeral" && !pod_name.is_empty() && !name.is_empty() {
            let claim = format!("{pod_name}-{name}");
            for fault in validate::subdomain(&claim) {
                errors.invalid(&path.child("name"), name, &format!("PVC name {claim:?}: {fault}"));
            }
        }
    }
    if !chosen {
        errors.required(path, "must specify a volume type");
    }
}

/// Faults of one source, by the name of its field.
pub(crate) fn volume_source(kind: &str, source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let require = |errors: &mut Errors, fields: &[&str]| {
        for field in fields.iter().filter(|field| text(source, field).is_empty()) {
            errors.required(&path.child(field), "");
        }
    };
    match kind {
        "hostPath" => host_path(source, path, errors),
        "secret" => {
            require(errors, &["secretName"]);
            mode(source, "defaultMode", path, errors);
            key_paths(source, path, None, errors);
        }
        "configMap" => {
            require(errors, &["name"]);
            mode(source, "defaultMode", path, errors);
            key_paths(source, path, None, errors);
        }
        "downwardAPI" => {
            mode(source, "defaultMode", path, errors);
            for item in list(source, "items") {
                downward_file(item, path, errors);
            }
        }
        "projected" => projected(source, path, errors),
        "persistentVolumeClaim" => require(errors, &["claimName"]),
        "nfs" => {
            require(errors, &["server", "path"]);
            if !text(source, "path").is_empty() && !text(source, "path").starts_with('/') {
                errors.invalid(&path.child("path"), text(source, "path"), "must be an absolute path");
            }
        }
        "csi" => {
            csi_driver_name(text(source, "driver"), &path.child("driver"), errors);
            let secret = value(source, "nodePublishSecretRef");
            if !secret.is_null() {
                let name = text(secret, "name");
                if name.is_empty() {
                    let at = path.child("nodePublishSecretRef");
                    errors.required(&at.child("name"), "");
                }
                validate::optional_subdomain(name, &path.child("name"), errors);
            }
        }
        "ephemeral" => {
            let template = value(source, "volumeClaimTemplate");
            let at = path.child("volumeClaimTemplate");
            if template.is_null() {
                errors.required(&at, "");
            } else {
                crate::kinds::volume_claim::validate_spec(value(template, "spec"), &at.child("spec"), errors);
            }
        }
        "image" => {
            require(errors, &["reference"]);
            choice(source, "pullPolicy", &["Always", "IfNotPresent", "Never"], path, errors);
        }
        "gitRepo" => {
            require(errors, &["repository"]);
            relative_path(text(source, "directory"), &path.child("directory"), errors);
        }
        other => legacy::validate(other, source, path, errors),
    }
}

fn host_path(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    const TYPES: &[&str] = &[
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    let target = text(source, "path");
    if target.is_empty() {
        errors.required(&path.child("path"), "");
    }
    no_backsteps(target, &path.child("path"), errors);
    let kind = text(source, "type");
    if !TYPES.contains(&kind) {
        errors.not_supported(&path.child("type"), kind, TYPES);
    }
}

/// The name of a CSI driver.
pub(crate) fn csi_driver_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    if name.len() > 63 {
        errors.too_long(path, 63);
    }
    for fault in validate::subdomain(&name.to_lowercase()) {
        errors.invalid(path, name, &fault);
    }
}

fn mode(object: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) {
    if let Some(mode) = opt_int(object, field).filter(|mode| !(0..=0o777).contains(mode)) {
        errors.invalid(&path.child(field), mode, MODE);
    }
}

fn key_paths<'a>(source: &'a Value, path: &Path<'_>, mut taken: Option<Taken<'a, '_>>, errors: &mut Errors) {
    for (index, item) in list(source, "items").iter().enumerate() {
        let items = path.child("items");
        let at = items.index(index);
        if text(item, "key").is_empty() {
            errors.required(&at.child("key"), "");
        }
        let target = text(item, "path");
        if target.is_empty() {
            errors.required(&at.child("path"), "");
        }
        unreserved_path(target, &at.child("path"), errors);
        mode(item, "mode", &at, errors);
        if let Some(taken) = &mut taken {
            taken.add(target, text(source, "name"), errors);
        }
    }
}

/// The paths that the sources of one projected volume have taken.
struct Taken<'a, 'p> {
    paths: &'p mut AHashSet<&'a str>,
    at: &'p Path<'p>,
}

impl<'a> Taken<'a, '_> {
    fn add(&mut self, target: &'a str, shown: &str, errors: &mut Errors) {
        if !target.is_empty() && !self.paths.insert(target) {
            errors.invalid(self.at, shown, "conflicting duplicate paths");
        }
    }
}

fn downward_file(item: &Value, path: &Path<'_>, errors: &mut Errors) {
    const FIELDS: &[&str] =
        &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
    let target = text(item, "path");
    if target.is_empty() {
        errors.required(&path.child("path"), "");
    }
    unreserved_path(target, &path.child("path"), errors);
    match (has(item, "fieldRef"), has(item, "resourceFieldRef")) {
        (true, both) => {
            field_ref(value(item, "fieldRef"), FIELDS, &path.child("fieldRef"), errors);
            if both {
                errors.invalid(
                    path,
                    "resource",
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                );
            }
        }
        (false, true) => {
            resource_field_ref(
                value(item, "resourceFieldRef"),
                true,
                &path.child("resourceFieldRef"),
                errors,
            );
        }
        (false, false) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(item, "mode", path, errors);
}

fn projected(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    mode(source, "defaultMode", path, errors);
    let mut paths = AHashSet::new();
    for (index, part) in list(source, "sources").iter().enumerate() {
        let sources = path.child("sources");
        let at = sources.index(index);
        let mut kinds = 0;
        for kind in ["secret", "configMap"] {
            if has(part, kind) {
                kinds += 1;
                let part = value(part, kind);
                let at = at.child(kind);
                if text(part, "name").is_empty() {
                    errors.required(&at.child("name"), "");
                }
                key_paths(part, &at, Some(Taken { paths: &mut paths, at: path }), errors);
            }
        }
        if has(part, "downwardAPI") {
            kinds += 1;
            for item in list(value(part, "downwardAPI"), "items") {
                downward_file(item, &at.child("downwardAPI"), errors);
                let target = text(item, "path");
                Taken { paths: &mut paths, at: path }.add(target, target, errors);
            }
        }
        if has(part, "serviceAccountToken") {
            kinds += 1;
            token(value(part, "serviceAccountToken"), &at.child("serviceAccountToken"), path, errors);
        }
        if has(part, "clusterTrustBundle") {
            kinds += 1;
            let bundle = value(part, "clusterTrustBundle");
            trust_bundle(bundle, &at.child("clusterTrustBundle"), errors);
            let target = text(bundle, "path");
            Taken { paths: &mut paths, at: path }.add(target, target, errors);
        }
        kinds += usize::from(has(part, "podCertificate"));
        if kinds > 1 {
            errors.forbidden(&at, "may not specify more than 1 volume type per source");
        }
    }
}

fn trust_bundle(bundle: &Value, path: &Path<'_>, errors: &mut Errors) {
    let selector = value(bundle, "labelSelector");
    match (has(bundle, "name"), has(bundle, "signerName")) {
        (true, true) => errors.invalid(path, bundle.clone(), "only one of name and signerName may be used"),
        (true, false) => {
            let (name, at) = (text(bundle, "name"), path.child("name"));
            if name.is_empty() {
                errors.required(&at, "must be a valid object name");
            }
            for fault in reference_faults(name) {
                errors.invalid(&at, name, &format!("not a valid clustertrustbundlename: {fault}"));
            }
            if !selector.is_null() {
                let at = path.child("labelSelector");
                errors.invalid(&at, selector.clone(), "labelSelector must be unset if name is specified");
            }
        }
        (false, true) => {
            let (name, at) = (text(bundle, "signerName"), path.child("signerName"));
            if name.is_empty() {
                errors.required(&at, "must be a valid signer name");
            }
            signer(name, &at, errors);
            validate::label_selector(selector, &path.child("labelSelector"), errors);
        }
        (false, false) => errors.required(path, "either name or signerName must be specified"),
    }
    if is_empty(bundle, "path") {
        errors.required(&path.child("path"), "");
    }
    unreserved_path(text(bundle, "path"), &path.child("path"), errors);
}

fn token(token: &Value, path: &Path<'_>, volume: &Path<'_>, errors: &mut Errors) {
    let seconds = int(token, "expirationSeconds");
    let at = path.child("expirationSeconds");
    if seconds < 600 {
        errors.invalid(&at, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > 1 << 32 {
        errors.invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    if text(token, "path").is_empty() {
        errors.required(&volume.child("path"), "");
    } else {
        unreserved_path(text(token, "path"), &volume.child("path"), errors);
    }
}

/// A path below a volume that must not climb out of it.
pub(super) fn relative_path(target: &str, path: &Path<'_>, errors: &mut Errors) {
    if target.starts_with('/') {
        errors.invalid(path, target, "must be a relative path");
    }
    no_backsteps(target, path, errors);
}

/// No `..` in a path.
pub(crate) fn no_backsteps(target: &str, path: &Path<'_>, errors: &mut Errors) {
    if target.split('/').any(|part| part == "..") {
        errors.invalid(path, target, "must not contain '..'");
    }
}

/// A relative path whose first part does not begin with two dots, which the kubelet keeps for itself.
fn unreserved_path(target: &str, path: &Path<'_>, errors: &mut Errors) {
    relative_path(target, path, errors);
    if target.starts_with("..") && !target.starts_with("../") {
        errors.invalid(path, target, "must not start with '..'");
    }
}
