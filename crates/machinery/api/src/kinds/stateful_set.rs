//! StatefulSets. Source: `pkg/registry/apps/statefulset`, `pkg/apis/apps/validation`.

use serde_json::{Value, json};

use super::kind::Kind;
use super::pod::validate_template;
use super::print::{AGE, NAME, string, wide};
use super::tree::{
    carry, child, default, default_text, ensure_map, int, list, opt_int, remove, same, set, text, value,
};
use super::validate::{self, dns_label};
use super::volume_claim;
use super::workload::{self, amount_of, at_most_all, int_or_percent, not_negative};
use crate::field::{Errors, Path};

pub(super) static RULES: Kind = Kind {
    default: defaults,
    status: Some(|_| json!({"replicas": 0, "availableReplicas": 0})),
    validate_create: |object, errors| validate(value(object, "spec"), Checked::All, errors),
    validate_update,
    validate_status: |new, old, errors| {
        const COUNTS: &[&str] = &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        workload::counts(value(new, "status"), COUNTS, "status.readyReplicas", errors);
        workload::collisions(new, old, errors);
    },
    name: dns_label,
    columns: &[NAME, string("Ready"), AGE, wide("Containers"), wide("Images")],
    row: |object, now| {
        let (spec, status) = (value(object, "spec"), value(object, "status"));
        let ready = format!("{}/{}", int(status, "readyReplicas"), int(spec, "replicas"));
        let mut row = workload::row(object, now, [ready.into()]);
        row.extend(workload::wide_cells(object).into_iter().take(2));
        row
    },
    generation: true,
    warnings: |object, old| {
        let mut warnings = workload::warnings(object, old);
        // The name is a label already by validation.
        warnings.retain(|w| !w.starts_with("metadata.name"));
        let limit = opt_int(value(object, "spec"), "revisionHistoryLimit");
        if limit.is_some_and(|limit| limit < 0) {
            warnings.push(
                "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended"
                    .to_owned(),
            );
        }
        warnings
    },
    ..Kind::BASE
};

fn defaults(object: &mut Value) {
    let Some(spec) = child(object, "spec") else { return };
    default_text(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = ensure_map(spec, "updateStrategy") {
        if text(strategy, "type").is_empty() {
            set(strategy, "type", "RollingUpdate");
            ensure_map(strategy, "rollingUpdate");
        }
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = child(strategy, "rollingUpdate")
        {
            default(rolling, "partition", 0);
        }
    }
    if let Some(policy) = ensure_map(spec, "persistentVolumeClaimRetentionPolicy") {
        default_text(policy, "whenDeleted", "Retain");
        default_text(policy, "whenScaled", "Retain");
    }
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    workload::default_template(spec);
    for claim in super::tree::items_mut(spec, "volumeClaimTemplates") {
        default_text(claim, "apiVersion", "v1");
        default_text(claim, "kind", "PersistentVolumeClaim");
        if let Some(claim) = child(claim, "spec") {
            default(claim, "volumeMode", "Filesystem");
        }
        if let Some(status) = ensure_map(claim, "status") {
            default_text(status, "phase", "Pending");
        }
    }
}

/// How much of a StatefulSet is looked at: what cannot change any more may have faults that nobody minded when it was made.
#[derive(Clone, Copy, PartialEq)]
enum Checked {
    /// All of a new one.
    All,
    /// Not the name of its service and its claims.
    Changeable,
    /// The pod template neither, of one that had faults before.
    WithoutTemplate,
}

fn validate(spec: &Value, checked: Checked, errors: &mut Errors) {
    let path = Path::new("spec");
    match text(spec, "podManagementPolicy") {
        "" => errors.required(&path.child("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => {}
        other => {
            errors.invalid(&path.child("podManagementPolicy"), other, "must be 'OrderedReady' or 'Parallel'");
        }
    }
    strategy(value(spec, "updateStrategy"), &path.child("updateStrategy"), errors);
    let policy = value(spec, "persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        if !matches!(text(policy, field), "Retain" | "Delete") {
            let at = path.child("persistentVolumeClaimRetentionPolicy");
            errors.not_supported(&at.child(field), text(policy, field), &["Retain", "Delete"]);
        }
    }
    let claims = if checked == Checked::All { list(spec, "volumeClaimTemplates") } else { &[] };
    for (index, claim) in claims.iter().enumerate() {
        let at = path.child("volumeClaimTemplates");
        volume_claim::validate_spec(value(claim, "spec"), &at.index(index).child("spec"), errors);
    }
    not_negative(spec, &["replicas", "minReadySeconds"], &path, errors);
    not_negative(value(spec, "ordinals"), &["start"], &path.child("ordinals"), errors);
    let service = text(spec, "serviceName");
    if checked == Checked::All && !service.is_empty() {
        for fault in validate::label(service) {
            errors.invalid(&path.child("serviceName"), service, &fault);
        }
    }
    let template = value(spec, "template");
    if let Some(selector) = workload::selector(spec, "statefulset", &path, errors) {
        workload::selected(template, &selector, &path, errors);
        let at = path.child("template");
        if checked != Checked::WithoutTemplate {
            validate_template(&as_made(spec), &at, errors);
        }
        // Once more, as upstream does: causes are told as often as they are found, messages once.
        let meta = value(template, "metadata");
        validate::labels(value(meta, "labels"), &at.child("labels"), errors);
        validate::annotations(value(meta, "annotations"), &at.child("annotations"), errors);
    }
    workload::always_restarts(template, "StatefulSet", &path, errors);
}

/// The template as the controller makes pods of it: each claim template stands for a volume of its name, and what the pods
/// are called is not the template's to say.
fn as_made(spec: &Value) -> Value {
    let claims = list(spec, "volumeClaimTemplates");
    let mut template = value(spec, "template").clone();
    let Some(pod) = child(&mut template, "spec") else { return template };
    remove(pod, "subdomain");
    remove(pod, "hostname");
    if !claims.is_empty() {
        let name = |claim: &Value| text(value(claim, "metadata"), "name").to_owned();
        let mut volumes: Vec<Value> = claims
            .iter()
            .map(name)
            .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
            .collect();
        let own = list(pod, "volumes").iter().filter(|v| !claims.iter().any(|c| name(c) == text(v, "name")));
        volumes.extend(own.cloned().collect::<Vec<_>>());
        set(pod, "volumes", volumes);
    }
    template
}

fn strategy(strategy: &Value, path: &Path<'_>, errors: &mut Errors) {
    let rolling = value(strategy, "rollingUpdate");
    let at = path.child("rollingUpdate");
    match text(strategy, "type") {
        "" => errors.required(path, ""),
        "OnDelete" => {
            if !rolling.is_null() {
                errors.invalid(&at, rolling.clone(), "only allowed for updateStrategy 'RollingUpdate'");
            }
        }
        "RollingUpdate" => {
            not_negative(rolling, &["partition"], &at, errors);
            let unavailable = value(rolling, "maxUnavailable");
            if !unavailable.is_null() {
                let at = at.child("maxUnavailable");
                int_or_percent(unavailable, &at, errors);
                if amount_of(unavailable) == 0 {
                    errors.invalid(&at, unavailable.clone(), "cannot be 0");
                }
                at_most_all(unavailable, &at, errors);
            }
        }
        _ => super::go::invalid(
            "apps.v1.StatefulSetUpdateStrategy",
            strategy,
            "must be 'RollingUpdate' or 'OnDelete'",
            path,
            errors,
        ),
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut Errors) {
    let before = value(old, "spec");
    let mut known = Errors::new();
    validate(before, Checked::Changeable, &mut known);
    let checked = if known.is_empty() { Checked::Changeable } else { Checked::WithoutTemplate };
    validate(value(new, "spec"), checked, errors);
    let mut rest = value(new, "spec").clone();
    for field in [
        "replicas",
        "template",
        "updateStrategy",
        "minReadySeconds",
        "ordinals",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
    ] {
        carry(&mut rest, before, field);
    }
    if !same(&rest, before) {
        errors.forbidden(
            &Path::new("spec"),
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}
