//! Sources of volumes that are drivers of their own, most of them served by CSI drivers today.

use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::tree::{entries, flag, has, int, list, opt_int, text, value};
use crate::kinds::validate;

/// What is said when the name and the portal of an iSCSI volume do not fit together into a name.
pub(super) const LONG_PORTAL: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
const PARTITION: &str = "must be between 0 and 255, inclusive";
const REGISTRY: &str = "must be a host:port pair or multiple pairs separated by commas";

pub(super) fn validate(kind: &str, source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let require = |errors: &mut Errors, fields: &[&str]| {
        for field in fields.iter().filter(|field| text(source, field).is_empty()) {
            errors.required(&path.child(field), "");
        }
    };
    match kind {
        "iscsi" => iscsi(source, path, errors),
        "glusterfs" => require(errors, &["endpoints", "path"]),
        "rbd" => {
            monitors(source, path, errors);
            require(errors, &["image"]);
        }
        "cephfs" => monitors(source, path, errors),
        "cinder" => {
            require(errors, &["volumeID"]);
            if has(source, "secretRef") && text(value(source, "secretRef"), "name").is_empty() {
                let at = path.child("secretRef");
                errors.required(&at.child("name"), "");
            }
        }
        "portworxVolume" => require(errors, &["volumeID"]),
        "gcePersistentDisk" => {
            require(errors, &["pdName"]);
            partition(source, path, errors);
        }
        "awsElasticBlockStore" => {
            require(errors, &["volumeID"]);
            partition(source, path, errors);
        }
        "azureFile" => require(errors, &["secretName", "shareName"]),
        "azureDisk" => azure_disk(source, path, errors),
        "vsphereVolume" => require(errors, &["volumePath"]),
        "photonPersistentDisk" => require(errors, &["pdID"]),
        "flexVolume" => {
            require(errors, &["driver"]);
            for (key, _) in entries(source, "options") {
                let domain = key.split_once('/').map_or(key, |(domain, _)| domain);
                let domain = format!(".{}", domain.to_lowercase());
                if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
                    let at = path.child("options");
                    errors.invalid(&at.key(key), key, "kubernetes.io and k8s.io namespaces are reserved");
                }
            }
        }
        "quobyte" => quobyte(source, path, errors),
        "scaleIO" => require(errors, &["gateway", "system", "volumeName"]),
        "flocker" => flocker(source, path, errors),
        "fc" => fibre_channel(source, path, errors),
        "storageos" => {
            storage_os(source, path, errors);
            if has(source, "secretRef") && text(value(source, "secretRef"), "name").is_empty() {
                let at = path.child("secretRef");
                errors.required(&at.child("name"), "");
            }
        }
        _ => {}
    }
}

/// What StorageOS volumes of pods and PersistentVolumes have in common: all but the secret.
pub(crate) fn storage_os(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    if text(source, "volumeName").is_empty() {
        errors.required(&path.child("volumeName"), "");
    }
    for field in ["volumeName", "volumeNamespace"] {
        let content = text(source, field);
        if !content.is_empty() {
            let at = path.child(field);
            validate::label(content).iter().for_each(|fault| errors.invalid(&at, content, fault));
        }
    }
}

fn monitors(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    if list(source, "monitors").is_empty() {
        errors.required(&path.child("monitors"), "");
    }
}

fn partition(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let number = int(source, "partition");
    if !(0..=255).contains(&number) {
        errors.invalid(&path.child("partition"), number, PARTITION);
    }
}

fn iscsi(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in ["targetPortal", "iqn"].iter().filter(|field| text(source, field).is_empty()) {
        errors.required(&path.child(field), "");
    }
    let name = text(source, "iqn");
    if !name.is_empty() {
        initiator(name, &path.child("iqn"), errors);
    }
    let lun = int(source, "lun");
    if !(0..=255).contains(&lun) {
        errors.invalid(&path.child("lun"), lun, &validate::range_fault(0, 255));
    }
    if (flag(source, "chapAuthDiscovery") || flag(source, "chapAuthSession")) && !has(source, "secretRef") {
        errors.required(&path.child("secretRef"), "");
    }
    if has(source, "initiatorName") {
        initiator(text(source, "initiatorName"), &path.child("initiatorname"), errors);
    }
}

/// A name of an initiator or a target: `iqn.2015-02.example.com:test`, `eui.` and sixteen digits, `naa.` and as many or twice.
fn initiator(name: &str, path: &Path<'_>, errors: &mut Errors) {
    let hexadecimal = |digits: &str, lengths: &[usize]| {
        lengths.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let good = if let Some(rest) = name.strip_prefix("iqn") {
        qualified(rest)
    } else if let Some(rest) = name.strip_prefix("eui") {
        rest.strip_prefix('.').is_some_and(|digits| hexadecimal(digits, &[16]))
    } else if let Some(rest) = name.strip_prefix("naa") {
        rest.strip_prefix('.').is_some_and(|digits| hexadecimal(digits, &[16, 32]))
    } else {
        errors.invalid(path, name, "must be valid format starting with iqn, eui, or naa");
        return;
    };
    if !good {
        errors.invalid(path, name, "must be valid format");
    }
}

/// `.YYYY-MM.domain[:any]`
fn qualified(rest: &str) -> bool {
    let digits = |text: Option<&str>| text.is_some_and(|t| t.bytes().all(|b| b.is_ascii_digit()));
    let Some(rest) = rest.strip_prefix('.') else { return false };
    if !(digits(rest.get(..4)) && rest.get(4..5) == Some("-") && digits(rest.get(5..7))) {
        return false;
    }
    let domain = rest[7..].split(':').next().unwrap_or_default();
    domain.strip_prefix('.').is_some_and(|domain| {
        !domain.is_empty()
            && domain
                .split('.')
                .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
    })
}

fn azure_disk(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in ["diskName", "diskURI"].iter().filter(|field| text(source, field).is_empty()) {
        errors.required(&path.child(field), "");
    }
    let (kind, uri) = (text(source, "kind"), text(source, "diskURI"));
    super::optional_choice(source, "cachingMode", &["None", "ReadOnly", "ReadWrite"], path, errors);
    super::optional_choice(source, "kind", &["Dedicated", "Managed", "Shared"], path, errors);
    if !has(source, "kind") {
        return;
    }
    let (start, shape) = if kind == "Managed" {
        (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        )
    } else {
        ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd")
    };
    if !uri.starts_with(start) {
        errors.not_supported(&path.child("diskURI"), uri, &[shape]);
    }
}

fn quobyte(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let registry = text(source, "registry");
    if registry.is_empty() {
        errors.required(&path.child("registry"), REGISTRY);
    } else if text(source, "tenant").len() >= 65 {
        let fault = "must be a UUID and may not exceed a length of 64 characters";
        errors.required(&path.child("tenant"), fault);
    } else {
        for pair in registry.split(',').filter(|pair| pair.matches(':').count() != 1) {
            if !pair.starts_with('[') {
                errors.invalid(&path.child("registry"), registry, REGISTRY);
            }
        }
    }
    if text(source, "volume").is_empty() {
        errors.required(&path.child("volume"), "");
    }
}

fn flocker(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (name, id) = (text(source, "datasetName"), text(source, "datasetUUID"));
    if name.is_empty() && id.is_empty() {
        errors.required(path, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !id.is_empty() {
        errors.invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously");
    }
    if name.contains('/') {
        errors.invalid(&path.child("datasetName"), name, "must not contain '/'");
    }
}

fn fibre_channel(source: &Value, path: &Path<'_>, errors: &mut Errors) {
    let names = list(source, "targetWWNs");
    let at = path.child("targetWWNs");
    match (names.is_empty(), list(source, "wwids").is_empty()) {
        (true, true) => errors.required(&at, "must specify either targetWWNs or wwids, but not both"),
        (false, false) => {
            let fault = "targetWWNs and wwids can not be specified simultaneously";
            errors.invalid(&at, names, fault);
        }
        _ => {}
    }
    if !names.is_empty() {
        match opt_int(source, "lun") {
            None => errors.required(&path.child("lun"), "lun is required if targetWWNs is specified"),
            Some(lun) if !(0..=255).contains(&lun) => {
                errors.invalid(&path.child("lun"), lun, &validate::range_fault(0, 255));
            }
            Some(_) => {}
        }
    }
}
