//! Deployments. Source: `pkg/registry/apps/deployment`, `pkg/apis/apps/validation`.

use serde_json::Value;

use super::go;
use super::kind::{Kind, empty_status};
use super::print::{AGE, NAME, string, wide};
use super::tree::{carry, child, default, default_text, ensure_map, int, opt_int, same, text, value};
use super::workload::{self, amount_of, at_most_all, int_or_percent, not_negative};
use crate::field::{Errors, Path};

pub(super) static RULES: Kind = Kind {
    default: defaults,
    status: Some(empty_status),
    prepare_status: |new, old| {
        if let Some(meta) = child(new, "metadata") {
            carry(meta, value(old, "metadata"), "labels");
        }
    },
    validate,
    validate_late: |new, old, errors| {
        let path = Path::new("spec");
        let (new, old) = (value(new, "spec"), value(old, "spec"));
        go::immutable("apps.v1.DeploymentSpec", "selector", new, old, &path.child("selector"), errors);
    },
    validate_status: |new, old, errors| {
        const COUNTS: &[&str] = &[
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
        ];
        workload::counts(value(new, "status"), COUNTS, "readyReplicas", errors);
        workload::collisions(new, old, errors);
    },
    columns: &[
        NAME,
        string("Ready"),
        string("Up-to-date"),
        string("Available"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    row: |object, now| {
        let (spec, status) = (value(object, "spec"), value(object, "status"));
        let mut row = workload::row(
            object,
            now,
            [
                format!("{}/{}", int(status, "readyReplicas"), int(spec, "replicas")).into(),
                int(status, "updatedReplicas").into(),
                int(status, "availableReplicas").into(),
            ],
        );
        row.extend(workload::wide_cells(object));
        row
    },
    generation: true,
    // A change of annotations counts too: a rollout may be described by them.
    changed: |new, old| {
        let annotations = |o| value(value(o, "metadata"), "annotations");
        !same(value(new, "spec"), value(old, "spec")) || !same(annotations(new), annotations(old))
    },
    warnings: workload::warnings,
    ..Kind::BASE
};

fn defaults(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    default(spec, "replicas", 1);
    if let Some(strategy) = ensure_map(spec, "strategy") {
        default_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = ensure_map(strategy, "rollingUpdate")
        {
            default(rolling, "maxUnavailable", "25%");
            default(rolling, "maxSurge", "25%");
        }
    }
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    workload::default_template(spec);
}

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = value(object, "spec");
    not_negative(spec, &["replicas"], &path, errors);
    workload::selector_and_template(spec, "deployment", "ReplicaSet", &path, errors);
    strategy(value(spec, "strategy"), &path.child("strategy"), errors);
    not_negative(
        spec,
        &["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"],
        &path,
        errors,
    );
    if let Some(deadline) =
        opt_int(spec, "progressDeadlineSeconds").filter(|d| *d <= int(spec, "minReadySeconds"))
    {
        errors.invalid(
            &path.child("progressDeadlineSeconds"),
            deadline,
            "must be greater than minReadySeconds",
        );
    }
}

fn strategy(strategy: &Value, path: &Path<'_>, errors: &mut Errors) {
    let rolling = value(strategy, "rollingUpdate");
    let at = path.child("rollingUpdate");
    match text(strategy, "type") {
        "Recreate" => {
            if !rolling.is_null() {
                errors.forbidden(&at, "may not be specified when strategy `type` is 'Recreate'");
            }
        }
        "RollingUpdate" => {
            if rolling.is_null() {
                errors.required(&at, "this should be defaulted and never be nil");
                return;
            }
            let (unavailable, surge) = (value(rolling, "maxUnavailable"), value(rolling, "maxSurge"));
            int_or_percent(unavailable, &at.child("maxUnavailable"), errors);
            int_or_percent(surge, &at.child("maxSurge"), errors);
            if amount_of(unavailable) == 0 && amount_of(surge) == 0 {
                errors.invalid(
                    &at.child("maxUnavailable"),
                    unavailable.clone(),
                    "may not be 0 when `maxSurge` is 0",
                );
            }
            at_most_all(unavailable, &at.child("maxUnavailable"), errors);
        }
        _ => go::not_supported(
            "apps.v1.DeploymentStrategy",
            strategy,
            &["Recreate", "RollingUpdate"],
            path,
            errors,
        ),
    }
}
