//! ReplicationControllers, the ReplicaSets of old. Source: `pkg/registry/core/replicationcontroller`.

use serde_json::{Value, json};

use super::Metadata;
use super::kind::Kind;
use super::print;
use super::tree::{child, default, entries, has, int, is_empty, set, value};
use super::workload::{self, not_negative};
use crate::field::{Errors, Path};
use crate::selector::LabelSelector;

pub(super) static RULES: Kind = Kind {
    name: super::validate::long_name,
    default: defaults,
    status: Some(|_| json!({"replicas": 0})),
    validate,
    validate_status: |new, _, errors| {
        const COUNTS: &[&str] = &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
        workload::counts(value(new, "status"), COUNTS, "readyReplicas", errors);
    },
    fields: |object| vec![("status.replicas", int(value(object, "status"), "replicas").to_string())],
    columns: super::replica_set::COLUMNS,
    row: |object, now| {
        let (spec, status) = (value(object, "spec"), value(object, "status"));
        let counts = [int(spec, "replicas"), int(status, "replicas"), int(status, "readyReplicas")];
        let mut row = workload::row(object, now, counts.map(Into::into));
        let pod = value(value(spec, "template"), "spec");
        row.extend([
            print::containers(pod).into(),
            print::images(pod).into(),
            print::labels(spec, "selector").into(),
        ]);
        row
    },
    generation: true,
    orphans: true,
    warnings: |object, old| {
        // Of a change upstream warns of nothing.
        if old.is_some() { Vec::new() } else { workload::warnings(object, None) }
    },
    metadata: Metadata { prefix: false, ..Metadata::BASE },
    ..Kind::BASE
};

/// Selector and labels are the template's where they are not given.
fn defaults(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    default(spec, "replicas", 1);
    workload::default_template(spec);
    let labels = value(value(value(spec, "template"), "metadata"), "labels").clone();
    if labels.is_null() {
        return;
    }
    if is_empty(spec, "selector") {
        set(spec, "selector", labels.clone());
    }
    if let Some(meta) = child(object, "metadata")
        && is_empty(meta, "labels")
    {
        set(meta, "labels", labels);
    }
}

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = value(object, "spec");
    not_negative(spec, &["minReadySeconds"], &path, errors);
    if is_empty(spec, "selector") {
        errors.required(&path.child("selector"), "");
    }
    not_negative(spec, &["replicas"], &path, errors);
    if !has(spec, "template") {
        errors.required(&path.child("template"), "");
        return;
    }
    let pairs = entries(spec, "selector").map(|(key, value)| (key, value.as_str().unwrap_or_default()));
    workload::template(spec, &LabelSelector::from_set(pairs), "ReplicationController", &path, errors);
}
