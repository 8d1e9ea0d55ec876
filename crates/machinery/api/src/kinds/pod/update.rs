//! What an update of a pod may change: little. And the part that changes ephemeral containers; `resize` has its own file.

use serde_json::Value;

use super::affinity::tolerations;
use super::spec::{validate_annotations, validate_pod};
use crate::field::{Errors, Path, Reason};
use crate::kinds::go;
use crate::kinds::tree::{carry, entries, has, is_empty, list, opt_int, remove, same, set, text, value};
use crate::kinds::validate;

const CHANGEABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Validates an update of the pod itself.
pub(super) fn validate(new: &Value, old: &Value, errors: &mut Errors) {
    let (spec, before) = (value(new, "spec"), value(old, "spec"));
    // Most updates change labels or annotations only, and what is stored is valid.
    let spec_changes = !same(spec, before);
    if spec_changes {
        validate_pod(new, errors);
    } else {
        validate_annotations(new, errors);
    }
    annotations(new, old, errors);
    if !spec_changes {
        return;
    }
    let path = Path::new("spec");
    for field in ["containers", "initContainers"] {
        if list(spec, field).len() != list(before, field).len() {
            errors.forbidden(&path.child(field), "pod updates may not add or remove containers");
            return;
        }
    }
    deadline(spec, before, &path.child("activeDeadlineSeconds"), errors);
    added_tolerations(spec, before, &path.child("tolerations"), errors);
    for (index, gate) in list(spec, "schedulingGates").iter().enumerate() {
        if !list(before, "schedulingGates").iter().any(|old| text(old, "name") == text(gate, "name")) {
            errors.forbidden(
                &path.child("schedulingGates").index(index).child("name"),
                &format!("only deletion is allowed, but found new scheduling gate '{}'", text(gate, "name")),
            );
        }
    }
    let mut rest = spec.clone();
    for field in ["containers", "initContainers"] {
        let olds = list(before, field);
        for (container, old) in crate::kinds::tree::items_mut(&mut rest, field).zip(olds) {
            carry(container, old, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        carry(&mut rest, before, field);
    }
    let negative = opt_int(before, "terminationGracePeriodSeconds").is_some_and(|s| s < 0);
    if negative && opt_int(&rest, "terminationGracePeriodSeconds") == Some(1) {
        carry(&mut rest, before, "terminationGracePeriodSeconds");
    }
    if !list(before, "schedulingGates").is_empty() {
        gated(&mut rest, before, &path, errors);
    }
    if !same(&rest, before) {
        let difference = go::difference("core.v1.PodSpec", before, &rest);
        errors.push(Reason::Forbidden, &path, format!("Forbidden: {CHANGEABLE}\n{difference}"));
    }
}

/// Annotations that say what a pod is cannot change. Source: `ValidatePodSpecificAnnotationUpdates`.
pub(super) fn annotations(new: &Value, old: &Value, errors: &mut Errors) {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
    let (new, old) =
        (value(value(new, "metadata"), "annotations"), value(value(old, "metadata"), "annotations"));
    let meta = Path::new("metadata");
    let at = meta.child("annotations");
    let own = |annotations: &Value| -> Vec<String> {
        let all = annotations.as_object().into_iter().flatten();
        all.filter(|(key, _)| key.starts_with(APP_ARMOR)).map(|(key, _)| key.clone()).collect()
    };
    for key in own(old).iter().filter(|key| old.get(key) != new.get(key)) {
        errors.forbidden(&at.key(key), "may not remove or update AppArmor annotations");
    }
    for key in own(new).iter().filter(|key| old.get(key).is_none()) {
        errors.forbidden(&at.key(key), "may not add AppArmor annotations");
    }
    match (old.get(MIRROR), new.get(MIRROR)) {
        (Some(before), after) if after != Some(before) => {
            errors.forbidden(&at.key(MIRROR), "may not remove or update mirror pod annotation");
        }
        (None, Some(_)) => errors.forbidden(&at.key(MIRROR), "may not add mirror pod annotation"),
        _ => {}
    }
}

fn deadline(new: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (new, old) = (opt_int(new, "activeDeadlineSeconds"), opt_int(old, "activeDeadlineSeconds"));
    match (new, old) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errors.invalid(path, new, &validate::range_fault(0, i64::from(i32::MAX)));
        }
        (Some(new), Some(old)) if old < new => {
            errors.invalid(path, new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            errors.invalid(path, Value::Null, "must not update from a positive integer to nil value");
        }
        _ => {}
    }
}

fn added_tolerations(new: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    let news = list(new, "tolerations");
    for before in list(old, "tolerations") {
        let kept = |after: &Value| {
            ["key", "operator", "value", "effect"]
                .iter()
                .all(|field| text(after, field) == text(before, field))
        };
        if !news.iter().any(kept) {
            errors.forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
        }
    }
    tolerations(news, path, errors);
}

/// While scheduling gates hold a pod, its node selector and required node affinity may become narrower.
fn gated(rest: &mut Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    for (key, before) in entries(old, "nodeSelector") {
        if value(rest, "nodeSelector").get(key) != Some(before) {
            let at = path.child("nodeSelector");
            errors.invalid(
                &at,
                value(rest, "nodeSelector").clone(),
                "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
            );
            break;
        }
    }
    carry(rest, old, "nodeSelector");
    let new_node = value(value(rest, "affinity"), "nodeAffinity").clone();
    let old_node = value(value(old, "affinity"), "nodeAffinity");
    if same(&new_node, old_node) {
        return;
    }
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let at = path.child("affinity");
    let at = at.child("nodeAffinity");
    let at = at.child(REQUIRED);
    let (olds, news) = (value(old_node, REQUIRED), value(&new_node, REQUIRED));
    if !olds.is_null() {
        let (old_terms, new_terms) = (list(olds, "nodeSelectorTerms"), list(news, "nodeSelectorTerms"));
        let only_adds = |(old, new): (&Value, &Value)| {
            ["matchExpressions", "matchFields"].iter().all(|field| {
                let (old, new) = (list(old, field), list(new, field));
                new.len() >= old.len() && old.iter().zip(new).all(|(a, b)| same(a, b))
            })
        };
        let at = at.child("nodeSelectorTerms");
        if old_terms.len() != new_terms.len() {
            errors.invalid(
                &at,
                value(news, "nodeSelectorTerms").clone(),
                "no additions/deletions to non-empty NodeSelectorTerms list are allowed",
            );
        } else if let Some(index) = old_terms.iter().zip(new_terms).position(|pair| !only_adds(pair)) {
            errors.invalid(
                &at.index(index),
                new_terms[index].clone(),
                "only additions are allowed (no mutations or deletions)",
            );
        }
    }
    // What was judged above is not judged again by the comparison of the whole.
    if old_node.is_null() {
        if let Some(affinity) = crate::kinds::tree::child(rest, "affinity") {
            remove(affinity, "nodeAffinity");
        }
        // What was there for that one only was not there before.
        if !has(old, "affinity") && is_empty(rest, "affinity") {
            remove(rest, "affinity");
        }
    } else if let Some(affinity) = crate::kinds::tree::ensure_map(rest, "affinity") {
        set(affinity, "nodeAffinity", old_node.clone());
    }
}

/// `/ephemeralcontainers` changes nothing but these.
pub(super) fn keep_only_ephemeral(new: &mut Value, old: &Value) {
    let wanted = value(value(new, "spec"), "ephemeralContainers").clone();
    reset(new, old);
    if let Some(spec) = new.get_mut("spec") {
        if wanted.is_null() {
            remove(spec, "ephemeralContainers");
        } else {
            set(spec, "ephemeralContainers", wanted);
        }
    }
}

/// Everything as it was but the fields of metadata that a status update may not touch either.
pub(super) fn reset(new: &mut Value, old: &Value) {
    carry(new, old, "spec");
    carry(new, old, "status");
    if let Some(meta) = new.get_mut("metadata") {
        crate::kinds::reset_metadata(meta, value(old, "metadata"));
    }
}

/// Validates a change of ephemeral containers: they may only be added.
pub(super) fn validate_ephemeral(new: &Value, old: &Value, errors: &mut Errors) {
    validate_pod(new, errors);
    if has(value(value(old, "metadata"), "annotations"), "kubernetes.io/config.mirror") {
        errors.0.clear();
        errors.forbidden(&Path::new(""), "static pods do not support ephemeral containers");
        return;
    }
    let news = list(value(new, "spec"), "ephemeralContainers");
    let spec = Path::new("spec");
    let at = spec.child("ephemeralContainers");
    for before in list(value(old, "spec"), "ephemeralContainers") {
        let name = text(before, "name");
        match news.iter().find(|c| text(c, "name") == name) {
            None => {
                errors
                    .forbidden(&at, &format!("existing ephemeral containers {name:?} may not be removed\n"));
            }
            Some(after) if !same(before, after) => {
                let difference = go::difference("core.v1.EphemeralContainer", before, after);
                errors.forbidden(
                    &at,
                    &format!("existing ephemeral containers {name:?} may not be changed\n{difference}"),
                );
            }
            Some(_) => {}
        }
    }
}
