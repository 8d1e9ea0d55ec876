//! ReplicaSets. Source: `pkg/registry/apps/replicaset`, `pkg/apis/apps/validation`.

use serde_json::json;

use super::go;
use super::kind::Kind;
use super::print::{AGE, NAME, integer, wide};
use super::tree::{child, default, int, value};
use super::workload::{self, not_negative};
use crate::field::Path;

pub(super) static RULES: Kind = Kind {
    default: |object| {
        if let Some(spec) = child(object, "spec") {
            default(spec, "replicas", 1);
            workload::default_template(spec);
        }
    },
    status: Some(|_| json!({"replicas": 0})),
    validate: |object, errors| {
        let path = Path::new("spec");
        let spec = value(object, "spec");
        not_negative(spec, &["replicas", "minReadySeconds"], &path, errors);
        // The kind is named so upstream.
        workload::selector_and_template(spec, "deployment", "ReplicaSet", &path, errors);
    },
    validate_late: |new, old, errors| {
        let path = Path::new("spec");
        let (new, old) = (value(new, "spec"), value(old, "spec"));
        go::immutable("apps.v1.ReplicaSetSpec", "selector", new, old, &path.child("selector"), errors);
    },
    validate_status: |new, _, errors| {
        const COUNTS: &[&str] =
            &["fullyLabeledReplicas", "readyReplicas", "availableReplicas", "terminatingReplicas"];
        workload::counts(value(new, "status"), COUNTS, "readyReplicas", errors);
    },
    fields: |object| vec![("status.replicas", int(value(object, "status"), "replicas").to_string())],
    columns: COLUMNS,
    row: |object, now| {
        let (spec, status) = (value(object, "spec"), value(object, "status"));
        let counts = [int(spec, "replicas"), int(status, "replicas"), int(status, "readyReplicas")];
        let mut row = workload::row(object, now, counts.map(Into::into));
        row.extend(workload::wide_cells(object));
        row
    },
    generation: true,
    warnings: workload::warnings,
    ..Kind::BASE
};

/// Shared with ReplicationControllers.
pub(super) const COLUMNS: &[super::Column] = &[
    NAME,
    integer("Desired"),
    integer("Current"),
    integer("Ready"),
    AGE,
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];
