//! DaemonSets. Source: `pkg/registry/apps/daemonset`, `pkg/apis/apps/validation`.

use serde_json::{Value, json};

use super::go;
use super::kind::Kind;
use super::print::{self, AGE, NAME, integer, string, wide};
use super::tree::{child, default, default_text, ensure_map, int, same, set, text, value};
use super::validate::{label_selector, meta::is_empty_selector};
use super::workload::{self, amount_of, at_most_all, int_or_percent, not_negative};
use crate::field::{Errors, Path};
use crate::selector::LabelSelector;

pub(super) static RULES: Kind = Kind {
    default: defaults,
    status: Some(
        |_| json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0}),
    ),
    prepare: |object| {
        let given = template_generation(object).max(1);
        set_template_generation(object, given);
    },
    prepare_update: |new, old| {
        let template = |o| value(value(o, "spec"), "template");
        let changed = i64::from(!same(template(new), template(old)));
        set_template_generation(new, template_generation(old) + changed);
    },
    prepare_status: |new, old| set_template_generation(new, template_generation(old)),
    validate,
    validate_update: |new, old, errors| {
        let path = Path::new("spec");
        let (new, old) = (value(new, "spec"), value(old, "spec"));
        go::immutable("apps.v1.DaemonSetSpec", "selector", new, old, &path.child("selector"), errors);
    },
    validate_status: |new, old, errors| {
        const COUNTS: &[&str] = &[
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ];
        not_negative(value(new, "status"), COUNTS, &Path::new("status"), errors);
        workload::collisions(new, old, errors);
    },
    columns: &[
        NAME,
        integer("Desired"),
        integer("Current"),
        integer("Ready"),
        integer("Up-to-date"),
        integer("Available"),
        string("Node Selector"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    row: |object, now| {
        let status = value(object, "status");
        let pod = value(value(value(object, "spec"), "template"), "spec");
        let counts = [
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberReady",
            "updatedNumberScheduled",
            "numberAvailable",
        ];
        let cells = counts.iter().map(|field| int(status, field).into());
        let mut row = workload::row(object, now, cells.chain([print::labels(pod, "nodeSelector").into()]));
        row.extend(workload::wide_cells(object));
        row
    },
    generation: true,
    warnings: |object, old| {
        let mut warnings = workload::warnings(object, old);
        // Upstream minds the name of every other kind of workload.
        warnings.retain(|warning| !warning.starts_with("metadata.name"));
        warnings
    },
    ..Kind::BASE
};

/// Where v1 keeps what was once `spec.templateGeneration`: it counts the changes of the template, whatever clients say.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn template_generation(object: &Value) -> i64 {
    let annotations = value(value(object, "metadata"), "annotations");
    text(annotations, TEMPLATE_GENERATION).parse().unwrap_or(0)
}

fn set_template_generation(object: &mut Value, generation: i64) {
    let meta = ensure_map(object, "metadata").and_then(|meta| ensure_map(meta, "annotations"));
    if let Some(annotations) = meta {
        set(annotations, TEMPLATE_GENERATION, generation.to_string());
    }
}

fn defaults(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    if let Some(strategy) = ensure_map(spec, "updateStrategy") {
        default_text(strategy, "type", "RollingUpdate");
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = ensure_map(strategy, "rollingUpdate")
        {
            default(rolling, "maxUnavailable", 1);
            default(rolling, "maxSurge", 0);
        }
    }
    default(spec, "revisionHistoryLimit", 10);
    workload::default_template(spec);
}

fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = value(object, "spec");
    let selector = value(spec, "selector");
    label_selector(selector, &path.child("selector"), errors);
    if !selector.is_null() && is_empty_selector(selector) {
        let why = "empty selector is invalid for daemonset";
        go::invalid("meta.v1.LabelSelector", selector, why, &path.child("selector"), errors);
    }
    let parsed = LabelSelector::from_value(selector).unwrap_or_default();
    workload::template(spec, &parsed, "DaemonSet", &path, errors);
    not_negative(spec, &["minReadySeconds", "revisionHistoryLimit"], &path, errors);
    strategy(value(spec, "updateStrategy"), &path.child("updateStrategy"), errors);
}

fn strategy(strategy: &Value, path: &Path<'_>, errors: &mut Errors) {
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let rolling = value(strategy, "rollingUpdate");
            let at = path.child("rollingUpdate");
            if rolling.is_null() {
                errors.required(&at, "");
                return;
            }
            let (unavailable, surge) = (value(rolling, "maxUnavailable"), value(rolling, "maxSurge"));
            for (amount, field) in [(unavailable, "maxUnavailable"), (surge, "maxSurge")] {
                int_or_percent(amount, &at.child(field), errors);
                at_most_all(amount, &at.child(field), errors);
            }
            match (amount_of(unavailable) != 0, amount_of(surge) != 0) {
                (true, true) => errors.invalid(
                    &at.child("maxSurge"),
                    surge.clone(),
                    "may not be set when maxUnavailable is non-zero",
                ),
                (false, false) => {
                    errors.required(&at.child("maxUnavailable"), "cannot be 0 when maxSurge is 0");
                }
                _ => {}
            }
        }
        _ => go::not_supported(
            "apps.v1.DaemonSetUpdateStrategy",
            strategy,
            &["RollingUpdate", "OnDelete"],
            path,
            errors,
        ),
    }
}
