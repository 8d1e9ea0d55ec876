//! What an update of a pod may change: little. And the parts that change the rest: ephemeral containers, resize.

use serde_json::Value;

use super::affinity::tolerations;
use super::qos_class;
use super::spec::{validate_annotations, validate_pod};
use crate::field::{Errors, Path, Reason};
use crate::kinds::tree::{carry, entries, has, list, opt_int, remove, same, set, text, value};
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
        let difference = difference("spec", before, &rest);
        errors.push(Reason::Forbidden, &path, format!("Forbidden: {CHANGEABLE}\n{difference}"));
    }
}

fn annotations(new: &Value, old: &Value, errors: &mut Errors) {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    let (new, old) =
        (value(value(new, "metadata"), "annotations"), value(value(old, "metadata"), "annotations"));
    let meta = Path::new("metadata");
    let at = meta.child("annotations");
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
    } else if let Some(affinity) = crate::kinds::tree::ensure_map(rest, "affinity") {
        set(affinity, "nodeAffinity", old_node.clone());
    }
}

/// The first few fields that differ, one per line. Upstream prints a diff of its Go structs here.
fn difference(at: &str, old: &Value, new: &Value) -> String {
    let mut lines = Vec::new();
    collect(at, old, new, &mut lines);
    lines.truncate(10);
    lines.concat()
}

fn collect(at: &str, old: &Value, new: &Value, lines: &mut Vec<String>) {
    if same(old, new) || lines.len() > 10 {
        return;
    }
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                let (x, y) = (a.get(name).unwrap_or(&Value::Null), b.get(name).unwrap_or(&Value::Null));
                collect(&format!("{at}.{name}"), x, y, lines);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (x, y)) in a.iter().zip(b).enumerate() {
                collect(&format!("{at}[{index}]"), x, y, lines);
            }
        }
        _ => lines.push(format!("- {at}: {old}\n+ {at}: {new}\n")),
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

/// `/resize` changes nothing but resources and resize policies.
pub(super) fn keep_only_resize(new: &mut Value, old: &Value) {
    let wanted = value(new, "spec").clone();
    let before = value(old, "spec");
    let alike = |field: &str| {
        let (a, b) = (list(&wanted, field), list(before, field));
        a.len() == b.len() && a.iter().zip(b).all(|(x, y)| text(x, "name") == text(y, "name"))
    };
    // Anything else is left for validation to refuse.
    if !alike("containers") || !alike("initContainers") {
        return;
    }
    reset(new, old);
    let Some(spec) = new.get_mut("spec") else { return };
    carry(spec, &wanted, "resources");
    for field in ["containers", "initContainers"] {
        for (container, wanted) in crate::kinds::tree::items_mut(spec, field).zip(list(&wanted, field)) {
            carry(container, wanted, "resources");
            carry(container, wanted, "resizePolicy");
        }
    }
}

/// Everything as it was but the fields of metadata that a status update may not touch either.
fn reset(new: &mut Value, old: &Value) {
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
                let difference = difference("ephemeralContainers", before, after);
                errors.forbidden(
                    &at,
                    &format!("existing ephemeral containers {name:?} may not be changed\n{difference}"),
                );
            }
            Some(_) => {}
        }
    }
}

/// Validates a resize: cpu and memory of containers and sidecars, within the pod's quality-of-service class.
pub(super) fn validate_resize(new: &Value, old: &Value, errors: &mut Errors) {
    validate_pod(new, errors);
    let refuse = |errors: &mut Errors, why: &str| {
        errors.0.clear();
        errors.forbidden(&Path::new(""), why);
    };
    if has(value(value(old, "metadata"), "annotations"), "kubernetes.io/config.mirror") {
        return refuse(errors, "static pods cannot be resized");
    }
    let (spec, before) = (value(new, "spec"), value(old, "spec"));
    if text(value(before, "os"), "name") == "windows" {
        return refuse(errors, "windows pods cannot be resized");
    }
    let path = Path::new("spec");
    let class = text(value(old, "status"), "qosClass");
    if !class.is_empty() && class != qos_class(new) {
        errors.invalid(&path, class, "Pod QOS Class may not change as a result of resizing");
    }
    for field in ["containers", "initContainers"] {
        let (news, olds) = (list(spec, field), list(before, field));
        let at = path.child(field);
        if news.len() != olds.len() {
            errors.forbidden(&at, &format!("{field} may not be added or removed on resize"));
            return;
        }
        for (index, (new, old)) in news.iter().zip(olds).enumerate() {
            let indexed = at.index(index);
            if text(new, "name") != text(old, "name") {
                errors.forbidden(
                    &indexed.child("name"),
                    &format!("{field} may not be renamed or reordered on resize"),
                );
                return;
            }
            resized(field, new, old, &path, &indexed.child("resources"), errors);
        }
    }
    if has(before, "resources") && !has(spec, "resources") {
        errors.forbidden(&path.child("resources"), "pod-level resources cannot be removed");
    }
}

fn resized(field: &str, new: &Value, old: &Value, spec: &Path<'_>, path: &Path<'_>, errors: &mut Errors) {
    let (news, olds) = (value(new, "resources"), value(old, "resources"));
    if field == "initContainers" && text(new, "restartPolicy") != "Always" {
        if !same(news, olds) {
            errors.forbidden(spec, "resources for non-sidecar init containers are immutable");
        }
        return;
    }
    for (kind, words) in
        [("requests", "resource requests cannot be removed"), ("limits", "resource limits cannot be removed")]
    {
        if entries(olds, kind).any(|(name, _)| !has(value(news, kind), name)) {
            errors.forbidden(&path.child(kind), words);
        }
        let others = |list: &Value| -> Vec<(String, Value)> {
            entries(list, kind)
                .filter(|(name, _)| !matches!(*name, "cpu" | "memory"))
                .map(|(name, amount)| (name.to_owned(), amount.clone()))
                .collect()
        };
        if others(news) != others(olds) {
            errors.forbidden(spec, "only cpu and memory resources are mutable");
        }
    }
}
