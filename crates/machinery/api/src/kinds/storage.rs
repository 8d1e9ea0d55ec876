//! Volumes, their classes, attachments, and what CSI drivers say of themselves.

use serde_json::{Value, json};

use super::kind::Kind;
use super::networking::default_marked;
use super::pod::{amount as resource_amount, optional_choice};
use super::print::{AGE, NAME, age, boolean, integer, name, or, string, wide};
use super::tree::{
    child, default, default_text, ensure_map, entries, flag, has, is_empty, list, same, set, text, value,
};
use super::validate::{self, IMMUTABLE, meta::immutable};
use super::volume_claim::{ACCESS_MODES, class, modes_text};
use crate::field::{Errors, Path};
use crate::quantity::Quantity;

pub(super) static PERSISTENT_VOLUME: Kind = Kind {
    default: |object| {
        if let Some(spec) = child(object, "spec") {
            default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
            default(spec, "volumeMode", "Filesystem");
            if let Some(path) = child(spec, "hostPath") {
                default(path, "type", "");
            }
        }
        if let Some(status) = ensure_map(object, "status") {
            default_text(status, "phase", "Pending");
        }
    },
    status: Some(|_| json!({"phase": "Pending"})),
    validate: volume,
    validate_update: |new, old, errors| {
        let path = Path::new("spec");
        let (spec, before) = (value(new, "spec"), value(old, "spec"));
        let source = |spec: &Value| -> Vec<(String, Value)> {
            VOLUME_SOURCES
                .iter()
                .filter(|s| has(spec, s))
                .map(|s| ((*s).to_owned(), value(spec, s).clone()))
                .collect()
        };
        if source(spec) != source(before) {
            errors.forbidden(
                &path.child("persistentvolumesource"),
                "spec.persistentvolumesource is immutable after creation\n",
            );
        }
        immutable(value(spec, "volumeMode"), value(before, "volumeMode"), &path.child("volumeMode"), errors);
        if !same(value(before, "nodeAffinity"), &Value::Null)
            && !same(value(spec, "nodeAffinity"), value(before, "nodeAffinity"))
        {
            errors.invalid(&path.child("nodeAffinity"), value(spec, "nodeAffinity").clone(), IMMUTABLE);
        }
    },
    name: |name, prefix| validate::dns_subdomain(name, prefix),
    fields: |object| vec![("name", text(value(object, "metadata"), "name").to_owned())],
    columns: &[
        NAME,
        string("Capacity"),
        string("Access Modes"),
        string("Reclaim Policy"),
        string("Status"),
        string("Claim"),
        string("StorageClass"),
        string("VolumeAttributesClass"),
        string("Reason"),
        AGE,
        wide("VolumeMode"),
    ],
    row: |object, now| {
        let (spec, status) = (value(object, "spec"), value(object, "status"));
        let claim = value(spec, "claimRef");
        let claim = if claim.is_null() {
            String::new()
        } else {
            format!("{}/{}", text(claim, "namespace"), text(claim, "name"))
        };
        let size = Quantity::from_value(value(value(spec, "capacity"), "storage")).unwrap_or_default();
        let phase = if has(value(object, "metadata"), "deletionTimestamp") {
            "Terminating"
        } else {
            text(status, "phase")
        };
        vec![
            name(object),
            size.to_string().into(),
            modes_text(spec).into(),
            text(spec, "persistentVolumeReclaimPolicy").into(),
            phase.into(),
            claim.into(),
            class(object).into(),
            or(text(spec, "volumeAttributesClassName"), "<unset>").into(),
            text(status, "reason").into(),
            age(object, now),
            or(text(spec, "volumeMode"), "<unset>").into(),
        ]
    },
    ..Kind::BASE
};

const VOLUME_SOURCES: &[&str] = &[
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

fn volume(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = value(object, "spec");
    if list(spec, "accessModes").is_empty() {
        errors.required(&path.child("accessModes"), "");
    }
    for mode in
        list(spec, "accessModes").iter().filter_map(Value::as_str).filter(|m| !ACCESS_MODES.contains(m))
    {
        errors.not_supported(&path.child("accessModes"), mode, ACCESS_MODES);
    }
    let at = path.child("capacity");
    if is_empty(spec, "capacity") {
        errors.required(&at, "");
    } else if !has(value(spec, "capacity"), "storage") || entries(spec, "capacity").count() > 1 {
        errors.not_supported(&at, value(spec, "capacity").clone(), &["storage"]);
    }
    for (resource, raw) in entries(spec, "capacity") {
        if let Some(amount) = resource_amount(resource, raw, &at.key(resource), errors)
            && amount <= Quantity::ZERO
        {
            errors.invalid(&at.key(resource), amount.to_string(), "must be greater than zero");
        }
    }
    super::pod::choice(
        spec,
        "persistentVolumeReclaimPolicy",
        &["Delete", "Recycle", "Retain"],
        &path,
        errors,
    );
    if has(value(spec, "nodeAffinity"), "required") {
        let at = path.child("nodeAffinity");
        super::pod::node_selector(
            value(value(spec, "nodeAffinity"), "required"),
            &at.child("required"),
            errors,
        );
    }
    let sources: Vec<&&str> = VOLUME_SOURCES.iter().filter(|source| has(spec, source)).collect();
    match sources.as_slice() {
        [] => errors.required(&path, "must specify a volume type"),
        [_, rest @ ..] => {
            for source in rest {
                errors.forbidden(&path.child(source), "may not specify more than 1 volume type");
            }
        }
    }
    if has(spec, "local") && !has(spec, "nodeAffinity") {
        errors.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
    }
    if has(spec, "hostPath") {
        let host = text(value(spec, "hostPath"), "path");
        let at = path.child("hostPath");
        if host.is_empty() {
            errors.required(&at.child("path"), "");
        }
        if host.split('/').any(|part| part == "..") {
            errors.invalid(&at.child("path"), host, "must not contain '..'");
        }
    }
    let storage_class = text(spec, "storageClassName");
    for fault in if storage_class.is_empty() { Vec::new() } else { validate::subdomain(storage_class) } {
        errors.invalid(&path.child("storageClassName"), storage_class, &fault);
    }
    optional_choice(spec, "volumeMode", &["Block", "Filesystem"], &path, errors);
}

pub(super) static STORAGE_CLASS: Kind = Kind {
    default: |object| {
        default(object, "reclaimPolicy", "Delete");
        default(object, "volumeBindingMode", "Immediate");
    },
    validate: |object, errors| {
        let provisioner = text(object, "provisioner");
        if provisioner.is_empty() {
            errors.required(&Path::new("provisioner"), "");
        } else {
            for fault in validate::qualified_name(&provisioner.to_lowercase()) {
                errors.invalid(&Path::new("provisioner"), provisioner, &fault);
            }
        }
        optional_choice(object, "reclaimPolicy", &["Delete", "Retain"], &Path::new(""), errors);
        optional_choice(
            object,
            "volumeBindingMode",
            &["Immediate", "WaitForFirstConsumer"],
            &Path::new(""),
            errors,
        );
    },
    validate_update: |new, old, errors| {
        if !same(value(new, "parameters"), value(old, "parameters")) {
            errors.forbidden(&Path::new("parameters"), "updates to parameters are forbidden.");
        }
        if text(new, "provisioner") != text(old, "provisioner") {
            errors.forbidden(&Path::new("provisioner"), "updates to provisioner are forbidden.");
        }
        if text(new, "reclaimPolicy") != text(old, "reclaimPolicy") {
            errors.forbidden(&Path::new("reclaimPolicy"), "updates to reclaimPolicy are forbidden.");
        }
        let path = Path::new("volumeBindingMode");
        immutable(value(new, "volumeBindingMode"), value(old, "volumeBindingMode"), &path, errors);
    },
    columns: &[
        NAME,
        string("Provisioner"),
        string("ReclaimPolicy"),
        string("VolumeBindingMode"),
        string("AllowVolumeExpansion"),
        AGE,
    ],
    row: |object, now| {
        vec![
            default_marked(object, "storageclass.kubernetes.io/is-default-class").into(),
            text(object, "provisioner").into(),
            or(text(object, "reclaimPolicy"), "Delete").into(),
            or(text(object, "volumeBindingMode"), "Immediate").into(),
            flag(object, "allowVolumeExpansion").into(),
            age(object, now),
        ]
    },
    ..Kind::BASE
};

pub(super) static VOLUME_ATTRIBUTES_CLASS: Kind = Kind {
    validate_update: |new, old, errors| {
        for field in ["driverName", "parameters"] {
            if !same(value(new, field), value(old, field)) {
                errors.invalid(&Path::new(field), value(new, field).clone(), IMMUTABLE);
            }
        }
    },
    columns: &[NAME, string("DriverName"), AGE],
    row: |object, now| vec![name(object), text(object, "driverName").into(), age(object, now)],
    ..Kind::BASE
};

pub(super) static VOLUME_ATTACHMENT: Kind = Kind {
    status: Some(|_| json!({"attached": false})),
    validate: |object, errors| {
        let path = Path::new("spec");
        let spec = value(object, "spec");
        for field in ["attacher", "nodeName"] {
            if text(spec, field).is_empty() {
                errors.required(&path.child(field), "");
            }
        }
        let source = value(spec, "source");
        if !has(source, "inlineVolumeSpec") && !has(source, "persistentVolumeName") {
            errors.required(
                &path.child("source"),
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            );
        }
    },
    validate_update: |new, old, errors| {
        immutable(value(new, "spec"), value(old, "spec"), &Path::new("spec"), errors);
    },
    columns: &[
        NAME,
        super::Column { name: "Attacher", kind: "string", format: "name", description: "", priority: 0 },
        string("PV"),
        string("Node"),
        boolean("Attached"),
        AGE,
    ],
    row: |object, now| {
        let spec = value(object, "spec");
        vec![
            name(object),
            text(spec, "attacher").into(),
            text(value(spec, "source"), "persistentVolumeName").into(),
            text(spec, "nodeName").into(),
            flag(value(object, "status"), "attached").into(),
            age(object, now),
        ]
    },
    unconditional_update: false,
    ..Kind::BASE
};

pub(super) static CSI_NODE: Kind = Kind {
    default: |object| {
        if let Some(spec) = ensure_map(object, "spec") {
            default(spec, "drivers", Value::Array(Vec::new()));
        }
    },
    columns: &[NAME, integer("Drivers"), AGE],
    row: |object, now| {
        let drivers = list(value(object, "spec"), "drivers").len();
        vec![name(object), drivers.into(), age(object, now)]
    },
    unconditional_update: false,
    ..Kind::BASE
};

pub(super) static CSI_DRIVER: Kind = Kind {
    default: |object| {
        let Some(spec) = ensure_map(object, "spec") else { return };
        default(spec, "attachRequired", true);
        for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            default(spec, field, false);
        }
        default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if is_empty(spec, "volumeLifecycleModes") {
            set(spec, "volumeLifecycleModes", json!(["Persistent"]));
        }
    },
    validate_update: |new, old, errors| {
        let path = Path::new("spec");
        let (new, old) = (value(new, "spec"), value(old, "spec"));
        for field in ["attachRequired", "volumeLifecycleModes"] {
            immutable(value(new, field), value(old, field), &path.child(field), errors);
        }
    },
    columns: &[
        NAME,
        boolean("AttachRequired"),
        boolean("PodInfoOnMount"),
        boolean("StorageCapacity"),
        string("TokenRequests"),
        boolean("RequiresRepublish"),
        string("Modes"),
        AGE,
    ],
    row: |object, now| {
        let spec = value(object, "spec");
        let tokens = if has(spec, "tokenRequests") {
            let audiences: Vec<&str> =
                list(spec, "tokenRequests").iter().map(|t| text(t, "audience")).collect();
            audiences.join(",")
        } else {
            "<unset>".to_owned()
        };
        let modes: Vec<&str> = list(spec, "volumeLifecycleModes").iter().filter_map(Value::as_str).collect();
        vec![
            name(object),
            value(spec, "attachRequired").as_bool().unwrap_or(true).into(),
            flag(spec, "podInfoOnMount").into(),
            flag(spec, "storageCapacity").into(),
            tokens.into(),
            flag(spec, "requiresRepublish").into(),
            or(&modes.join(","), "<none>").into(),
            age(object, now),
        ]
    },
    generation: true,
    unconditional_update: false,
    ..Kind::BASE
};

pub(super) static CSI_STORAGE_CAPACITY: Kind = Kind {
    validate_update: |new, old, errors| {
        for field in ["nodeTopology", "storageClassName"] {
            immutable(value(new, field), value(old, field), &Path::new(field), errors);
        }
    },
    columns: &[NAME, string("StorageClassName"), string("Capacity")],
    row: |object, _| {
        let capacity = match value(object, "capacity") {
            Value::Null => "<unset>".to_owned(),
            amount => Quantity::from_value(amount).unwrap_or_default().to_string(),
        };
        vec![name(object), text(object, "storageClassName").into(), capacity.into()]
    },
    unconditional_update: false,
    ..Kind::BASE
};
