//! Volumes, their classes, attachments, and what CSI drivers say of themselves.

mod check;
mod sources;
mod update;

use serde_json::{Value, json};

use super::go;
use super::kind::Kind;
use super::networking::default_marked;
use super::pod::lasting_source;
use super::print::{AGE, CREATED_AT, NAME, age, boolean, created_at_row, integer, name, or, string, wide};
use super::tree::{
    child, default, default_text, ensure_map, flag, has, is_empty, list, same, set, text, value,
};
use super::validate::{self, IMMUTABLE, meta::immutable};
use super::volume_claim::{class, modes_text};
use super::{Metadata, Step};
use crate::field::{Errors, Path};
use crate::quantity::Quantity;
use check::{
    attachment, csi_capacity, csi_driver, csi_node, parameters, provisioner, storage_class, validate_volume,
};

/// A new volume is pending since now.
fn stamp_phase(object: &mut Value) {
    let created = value(value(object, "metadata"), "creationTimestamp").clone();
    if let Some(status) = ensure_map(object, "status") {
        set(status, "lastPhaseTransitionTime", created);
    }
}

fn volume(object: &Value, errors: &mut Errors) {
    validate_volume(value(object, "spec"), false, &Path::new("spec"), errors);
}

pub(super) static PERSISTENT_VOLUME: Kind = Kind {
    default: |object| {
        if let Some(spec) = child(object, "spec") {
            default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
            default(spec, "volumeMode", "Filesystem");
            lasting_source(spec);
        }
        if let Some(status) = ensure_map(object, "status") {
            default_text(status, "phase", "Pending");
        }
    },
    status: Some(|_| json!({"phase": "Pending"})),
    validate: volume,
    prepare: |object| stamp_phase(object),
    // Told twice, as upstream looks twice.
    validate_update: |new, _, errors| volume(new, errors),
    validate_late: update::volume,
    status_since: update::stamp_phase,
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
    metadata: Metadata { change: &[Step::New, Step::New], ..Metadata::BASE },
    ..Kind::BASE
};

pub(super) static STORAGE_CLASS: Kind = Kind {
    default: |object| {
        default(object, "reclaimPolicy", "Delete");
        default(object, "volumeBindingMode", "Immediate");
    },
    validate: storage_class,
    validate_late: |new, old, errors| {
        for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            go::immutable("storage.v1.StorageClass", field, new, old, &Path::new(field), errors);
        }
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
    metadata: Metadata::NEW_CHANGE,
    ..Kind::BASE
};

pub(super) static VOLUME_ATTRIBUTES_CLASS: Kind = Kind {
    validate: |object, errors| {
        provisioner(text(object, "driverName"), &Path::new("driverName"), errors);
        parameters(object, false, errors);
    },
    validate_update: |new, old, errors| {
        for field in ["driverName", "parameters"] {
            if !same(value(new, field), value(old, field)) {
                errors.forbidden(&Path::new(field), &format!("updates to {field} are forbidden."));
            }
        }
    },
    columns: &[NAME, string("DriverName"), AGE],
    row: |object, now| vec![name(object), text(object, "driverName").into(), age(object, now)],
    metadata: Metadata::CHANGE_NEW,
    ..Kind::BASE
};

pub(super) static VOLUME_ATTACHMENT: Kind = Kind {
    default: |object| {
        let inline = child(object, "spec").and_then(|spec| child(spec, "source"));
        if let Some(spec) = inline.and_then(|source| child(source, "inlineVolumeSpec")) {
            lasting_source(spec);
        }
    },
    status: Some(|_| json!({"attached": false})),
    status_keeps_metadata: true,
    validate: attachment,
    validate_status: |new, _, errors| attachment(new, errors),
    validate_late: |new, old, errors| {
        go::immutable("storage.v1.VolumeAttachment", "spec", new, old, &Path::new("spec"), errors);
    },
    columns: &[
        NAME,
        super::Column { name: "Attacher", kind: "string", format: "name", priority: 0 },
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
    metadata: Metadata::NEW,
    ..Kind::BASE
};

pub(super) static CSI_NODE: Kind = Kind {
    validate: csi_node,
    validate_late: |new, old, errors| {
        let path = Path::new("spec");
        let drivers = |node| list(value(node, "spec"), "drivers");
        let fixed = |driver: &Value| {
            let mut driver = driver.clone();
            super::tree::remove(&mut driver, "allocatable");
            driver
        };
        for before in drivers(old) {
            for after in drivers(new).iter().filter(|d| text(d, "name") == text(before, "name")) {
                let (after, before) = (fixed(after), fixed(before));
                if !super::tree::same(&after, &before) {
                    let at = path.child("drivers");
                    go::invalid("storage.v1.CSINodeDriver", &after, IMMUTABLE, &at, errors);
                }
            }
        }
    },
    columns: &[NAME, integer("Drivers"), AGE],
    row: |object, now| {
        let drivers = list(value(object, "spec"), "drivers").len();
        vec![name(object), drivers.into(), age(object, now)]
    },
    unconditional_update: false,
    metadata: Metadata::NEW,
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
    // Fields of gates that are off.
    prepare: |object| {
        if let Some(spec) = child(object, "spec") {
            super::tree::remove(spec, "preventPodSchedulingIfMissing");
        }
    },
    // Changes are counted from nothing, unlike with other kinds.
    prepare_update: |new, old| {
        if !super::tree::same(value(new, "spec"), value(old, "spec"))
            && let Some(meta) = child(new, "metadata")
        {
            set(meta, "generation", super::tree::int(value(old, "metadata"), "generation").saturating_add(1));
        }
    },
    validate: csi_driver,
    validate_late: |new, old, errors| {
        let path = Path::new("spec");
        let (new, old) = (value(new, "spec"), value(old, "spec"));
        // The first is named as upstream names it.
        for (field, shown) in
            [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")]
        {
            immutable(value(new, field), value(old, field), &path.child(shown), errors);
        }
    },
    // Of a new one only.
    warnings: |object, old| {
        let spec = value(object, "spec");
        if old.is_none() && has(spec, "tokenRequests") && !has(spec, "serviceAccountTokenInSecrets") {
            return vec!["spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes".to_owned()];
        }
        Vec::new()
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
    unconditional_update: false,
    ..Kind::BASE
};

pub(super) static CSI_STORAGE_CAPACITY: Kind = Kind {
    validate: csi_capacity,
    validate_late: |new, old, errors| {
        for field in ["nodeTopology", "storageClassName"] {
            go::immutable("storage.v1.CSIStorageCapacity", field, new, old, &Path::new(field), errors);
        }
    },
    columns: CREATED_AT,
    row: created_at_row,
    unconditional_update: false,
    metadata: Metadata::NEW_CHANGE,
    ..Kind::BASE
};
