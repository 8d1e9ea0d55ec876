//! Where a volume's data lies: one source of many, each with fields that it needs.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::pod::{csi_driver_name, no_backsteps, storage_os, volume_source};
use crate::kinds::tree::{has, text, value};
use crate::kinds::validate;

/// The sources of a PersistentVolume in the order in which upstream looks at them.
pub(super) const VOLUME_SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// Exactly one source, and its faults.
pub(super) fn one_source(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mut chosen = false;
    for name in VOLUME_SOURCES.iter().filter(|name| has(spec, name)) {
        // Upstream lets this one be the second.
        if chosen && *name != "flexVolume" {
            let shown = if *name == "cephfs" { "cephFS" } else { name };
            errors.forbidden(&path.child(shown), "may not specify more than 1 volume type");
            continue;
        }
        chosen = true;
        let shown = if *name == "gcePersistentDisk" { "persistentDisk" } else { name };
        source(name, value(spec, name), &path.child(shown), errors);
        if *name == "local" && !has(spec, "nodeAffinity") {
            errors.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
        }
    }
    if !chosen {
        errors.required(path, "must specify a volume type");
    }
}

fn source(kind: &str, source: &Value, path: &Path<'_>, errors: &mut Errors) {
    match kind {
        "csi" => {
            csi_driver_name(text(source, "driver"), &path.child("driver"), errors);
            if text(source, "volumeHandle").is_empty() {
                errors.required(&path.child("volumeHandle"), "");
            }
            for field in [
                "controllerPublishSecretRef",
                "controllerExpandSecretRef",
                "nodePublishSecretRef",
                "nodeExpandSecretRef",
            ] {
                if has(source, field) {
                    csi_secret(value(source, field), &path.child(field), errors);
                }
            }
        }
        "local" => {
            let directory = text(source, "path");
            if directory.is_empty() {
                errors.required(&path.child("path"), "");
            } else {
                no_backsteps(directory, &path.child("path"), errors);
            }
        }
        "glusterfs" => {
            volume_source(kind, source, path, errors);
            if has(source, "endpointsNamespace") {
                let namespace = text(source, "endpointsNamespace");
                let at = path.child("endpointsNamespace");
                if namespace.is_empty() {
                    let fault = "if the endpointnamespace is set, it must be a valid namespace name";
                    errors.invalid(&at, namespace, fault);
                } else {
                    validate::label(namespace).iter().for_each(|fault| errors.invalid(&at, namespace, fault));
                }
            }
        }
        "cinder" | "storageos" => {
            if kind == "cinder" {
                if text(source, "volumeID").is_empty() {
                    errors.required(&path.child("volumeID"), "");
                }
            } else {
                storage_os(source, path, errors);
            }
            if has(source, "secretRef") {
                for field in ["name", "namespace"] {
                    if text(value(source, "secretRef"), field).is_empty() {
                        let at = path.child("secretRef");
                        errors.required(&at.child(field), "");
                    }
                }
            }
        }
        "azureFile" => {
            volume_source(kind, source, path, errors);
            if has(source, "secretNamespace") && text(source, "secretNamespace").is_empty() {
                errors.required(&path.child("secretNamespace"), "");
            }
        }
        "iscsi" => {
            volume_source(kind, source, path, errors);
            if has(source, "secretRef") && text(value(source, "secretRef"), "name").is_empty() {
                let at = path.child("secretRef");
                errors.required(&at.child("name"), "");
            }
        }
        // The others are those of pods.
        _ => volume_source(kind, source, path, errors),
    }
}

fn csi_secret(secret: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (field, faults) in [
        ("name", validate::subdomain as fn(&str) -> Vec<String>),
        ("namespace", validate::label as fn(&str) -> Vec<String>),
    ] {
        let content = text(secret, field);
        let at = path.child(field);
        if content.is_empty() {
            errors.required(&at, "");
        } else {
            faults(content).iter().for_each(|fault| errors.invalid(&at, content, fault));
        }
    }
}
