//! Faults of a Job, and of the Job in a CronJob's template. Source: `pkg/apis/batch/validation`.

use ahash::AHashSet;
use serde_json::Value;

use crate::field::{Errors, Path, Reason};
use crate::kinds::go;
use crate::kinds::pod::validate_template;
use crate::kinds::tree::{flag, has, int, list, opt_int, text, value};
use crate::kinds::validate::{self, label_selector};
use crate::kinds::workload::not_negative;
use crate::selector::LabelSelector;

/// Beyond so many completions an indexed Job with limits per index must be small in every other respect.
const MANY: i64 = 100_000;
/// How small then.
const FEW: i64 = 10_000;
/// Rules of a policy, and conditions of a rule, at most.
const MOST_RULES: usize = 20;
/// Exit codes of a rule at most.
const MOST_CODES: usize = 255;
/// Bytes of a list of indexes at most.
const LONGEST_INDEXES: usize = 64 * 1024;

/// A Job as it is stored: with its selector. `old`: what is stored, null for a new one.
pub(super) fn validate(object: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = value(object, "spec");
    own_labels(object, old, errors);
    stored_spec(spec, &path, errors);
    let completions = opt_int(spec, "completions").unwrap_or(0);
    if text(spec, "completionMode") == "Indexed" && completions > 0 {
        let name = text(value(object, "metadata"), "name");
        let longest = format!("{name}-{}", completions - 1);
        if !validate::label(&longest).is_empty() {
            let fault = format!("will not able to create pod with invalid DNS label: {longest}");
            errors.invalid(&Path::new("metadata").child("name"), name, &fault);
        }
    }
}

/// A Job's own spec, which has a selector.
pub(super) fn stored_spec(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    validate_spec(spec, path, errors);
    let selector = value(spec, "selector");
    if selector.is_null() {
        errors.required(&path.child("selector"), "");
    } else {
        label_selector(selector, &path.child("selector"), errors);
    }
    let template = path.child("template");
    let meta = template.child("metadata");
    let labels = value(value(value(spec, "template"), "metadata"), "labels");
    // No selector selects nothing.
    let selected = LabelSelector::from_value(selector)
        .is_ok_and(|read| selector.is_null() || !read.matches_value(value(spec, "template")));
    if selected {
        let fault = "`selector` does not match template `labels`";
        errors.invalid(&meta.child("labels"), labels.clone(), fault);
    }
}

/// The labels that the server gives to the pods of a Job whose selector it made. A Job from before those with a prefix does
/// not have to have them.
fn own_labels(object: &Value, old: &Value, errors: &mut Errors) {
    let (spec, meta) = (value(object, "spec"), value(object, "metadata"));
    if flag(spec, "manualSelector") || !has(spec, "selector") {
        return;
    }
    let (uid, name) = (text(meta, "uid"), text(meta, "name"));
    if uid.is_empty() {
        errors.required(&Path::new("metadata").child("uid"), "");
    }
    let expected = [
        ("controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
    ];
    let labelled = value(value(value(value(old, "spec"), "template"), "metadata"), "labels");
    let prefixed = old.is_null() || expected[2..].iter().all(|(key, _)| has(labelled, key));
    let expected = if prefixed { &expected[..] } else { &expected[..2] };
    let path = Path::new("spec");
    let template = path.child("template");
    let at = template.child("metadata");
    let labels = at.child("labels");
    let given = value(value(value(spec, "template"), "metadata"), "labels");
    for &(key, content) in expected {
        match given.get(key).and_then(Value::as_str) {
            None => errors.required(&labels.key(key), &format!("must be '{content}'")),
            Some(other) if other != content => {
                errors.invalid(&labels.key(key), given.clone(), &format!("must be '{content}'"));
            }
            Some(_) => {}
        }
    }
    let pod: serde_json::Map<String, Value> =
        expected.iter().map(|(key, content)| ((*key).to_owned(), Value::from(*content))).collect();
    let pod = serde_json::json!({"metadata": {"labels": pod}});
    let selector = value(spec, "selector");
    if LabelSelector::from_value(selector).is_ok_and(|s| !s.matches_value(&pod)) {
        let at = path.child("selector");
        go::invalid("meta.v1.LabelSelector", selector, "`selector` not auto-generated", &at, errors);
    }
}

/// A Job within a CronJob: its selector is made with the Job.
pub(super) fn in_template(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    validate_spec(spec, path, errors);
    if has(spec, "selector") {
        let fault = "`selector` will be auto-generated";
        errors.invalid(&path.child("selector"), value(spec, "selector").clone(), fault);
    }
    if flag(spec, "manualSelector") {
        errors.not_supported(&path.child("manualSelector"), true, &["nil", "false"]);
    }
}

/// A Job's spec without its selector.
pub(super) fn validate_spec(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    const COUNTS: &[&str] = &[
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    not_negative(spec, COUNTS, path, errors);
    if has(spec, "maxFailedIndexes") && !has(spec, "backoffLimitPerIndex") {
        errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if has(spec, "managedBy") {
        let manager = text(spec, "managedBy");
        validate::domain_prefixed_path(manager, &path.child("managedBy"), errors);
        if manager.len() > 63 {
            errors.too_long(&path.child("managedBy"), 63);
        }
    }
    completion_mode(spec, path, errors);
    if has(spec, "podFailurePolicy") {
        failure_policy(spec, &path.child("podFailurePolicy"), errors);
    }
    if has(spec, "successPolicy") {
        success_policy(spec, &path.child("successPolicy"), errors);
    }
    replacement(spec, &path.child("podReplacementPolicy"), errors);
    let template = path.child("template");
    validate_template(value(spec, "template"), &template, errors);
    let at = template.child("spec");
    let at = at.child("restartPolicy");
    match text(value(value(spec, "template"), "spec"), "restartPolicy") {
        "" | "Always" => errors.required(&at, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if has(spec, "podFailurePolicy") => {
            errors.invalid(
                &at,
                "OnFailure",
                "only \"Never\" is supported when podFailurePolicy is specified",
            );
        }
        "OnFailure" | "Never" => {}
        other => errors.not_supported(&at, other, &["OnFailure", "Never"]),
    }
}

fn completion_mode(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let mode = text(spec, "completionMode");
    if has(spec, "completionMode") && !matches!(mode, "NonIndexed" | "Indexed") {
        errors.not_supported(&path.child("completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    let (completions, parallelism) = (opt_int(spec, "completions"), opt_int(spec, "parallelism"));
    let failed = opt_int(spec, "maxFailedIndexes");
    let at = path.child("maxFailedIndexes");
    if mode == "Indexed" {
        if completions.is_none() {
            errors.required(&path.child("completions"), "when completion mode is Indexed");
        }
        if let Some(parallelism) = parallelism.filter(|p| *p > MANY) {
            let fault = format!("must be less than or equal to {MANY} when completion mode is Indexed");
            errors.invalid(&path.child("parallelism"), parallelism, &fault);
        }
        if let (Some(completions), Some(failed)) = (completions, failed)
            && failed > completions
        {
            errors.invalid(&at, failed, "must be less than or equal to completions");
        }
        if let Some(failed) = failed.filter(|failed| *failed > MANY) {
            errors.invalid(&at, failed, &format!("must be less than or equal to {MANY}"));
        }
        if completions.is_some_and(|c| c > MANY) && has(spec, "backoffLimitPerIndex") {
            if failed.is_none() {
                errors.required(&at, &format!("must be specified when completions is above {MANY}"));
            }
            for (field, count) in [("parallelism", parallelism), ("maxFailedIndexes", failed)] {
                if let Some(count) = count.filter(|count| *count > FEW) {
                    let fault = format!(
                        "must be less than or equal to {FEW} when completions are above {MANY} and used with backoff limit per index"
                    );
                    errors.invalid(&path.child(field), count, &fault);
                }
            }
        }
    }
    if !has(spec, "completionMode") || mode == "NonIndexed" {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(count) = opt_int(spec, field) {
                errors.invalid(&path.child(field), count, "requires indexed completion mode");
            }
        }
    }
}

fn replacement(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let policy = text(spec, "podReplacementPolicy");
    let allowed: &[&str] =
        if has(spec, "podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    if has(spec, "podReplacementPolicy") && !allowed.contains(&policy) {
        errors.not_supported(path, policy, allowed);
    }
}

/// A field with a closed set of values whose absence is told with the set, as Go prints it.
fn quoted_choice(object: &Value, field: &str, allowed: &[&str], path: &Path<'_>, errors: &mut Errors) {
    let chosen = text(object, field);
    if chosen.is_empty() {
        let shown: Vec<String> = allowed.iter().map(|name| format!("{name:?}")).collect();
        errors.required(&path.child(field), &format!("valid values: [{}]", shown.join(" ")));
    } else if !allowed.contains(&chosen) {
        errors.not_supported(&path.child(field), chosen, allowed);
    }
}

fn failure_policy(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let rules = list(value(spec, "podFailurePolicy"), "rules");
    let at = path.child("rules");
    if rules.len() > MOST_RULES {
        errors.too_many(&at, rules.len(), MOST_RULES);
    }
    let pod = value(value(spec, "template"), "spec");
    let names: AHashSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|field| list(pod, field))
        .map(|container| text(container, "name"))
        .collect();
    for (index, rule) in rules.iter().enumerate() {
        let at = at.index(index);
        if text(rule, "action") == "FailIndex" {
            if !has(spec, "backoffLimitPerIndex") {
                let fault = "requires the backoffLimitPerIndex to be set";
                errors.invalid(&at.child("action"), "FailIndex", fault);
            }
        } else {
            quoted_choice(rule, "action", &["Count", "FailIndex", "FailJob", "Ignore"], &at, errors);
        }
        if has(rule, "onExitCodes") {
            exit_codes(value(rule, "onExitCodes"), &names, &at.child("onExitCodes"), errors);
        }
        let conditions = list(rule, "onPodConditions");
        if conditions.len() > MOST_RULES {
            errors.too_many(&at.child("onPodConditions"), conditions.len(), MOST_RULES);
        }
        for (number, condition) in conditions.iter().enumerate() {
            let at = at.child("onPodConditions");
            let at = at.index(number);
            let kind = text(condition, "type");
            for fault in validate::qualified_name(kind) {
                errors.invalid(&at.child("type"), kind, &fault);
            }
            quoted_choice(condition, "status", &["False", "True", "Unknown"], &at, errors);
        }
        let fault = match (has(rule, "onExitCodes"), conditions.is_empty()) {
            (true, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (false, true) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        errors.push(Reason::Invalid, &at, format!("Invalid value: {fault}"));
    }
}

fn exit_codes(codes: &Value, containers: &AHashSet<&str>, path: &Path<'_>, errors: &mut Errors) {
    quoted_choice(codes, "operator", &["In", "NotIn"], path, errors);
    let container = text(codes, "containerName");
    if has(codes, "containerName") && !containers.contains(container) {
        errors.invalid(
            &path.child("containerName"),
            container,
            "must be one of the container or initContainer names in the pod template",
        );
    }
    let values: Vec<i64> = list(codes, "values").iter().filter_map(Value::as_i64).collect();
    let at = path.child("values");
    if values.is_empty() {
        errors.invalid(&at, value(codes, "values").clone(), "at least one value is required");
    } else if values.len() > MOST_CODES {
        errors.too_many(&at, values.len(), MOST_CODES);
    }
    let mut seen = AHashSet::new();
    for (index, code) in values.iter().enumerate() {
        if *code == 0 && text(codes, "operator") == "In" {
            errors.invalid(&at.index(index), *code, "must not be 0 for the In operator");
        }
        if !seen.insert(*code) {
            errors.duplicate(&at.index(index), *code);
        }
    }
    if !values.is_sorted() {
        errors.invalid(&at, value(codes, "values").clone(), "must be ordered");
    }
}

fn success_policy(spec: &Value, path: &Path<'_>, errors: &mut Errors) {
    let policy = value(spec, "successPolicy");
    if text(spec, "completionMode") != "Indexed" {
        go::invalid("batch.v1.SuccessPolicy", policy, "requires indexed completion mode", path, errors);
        return;
    }
    let rules = list(policy, "rules");
    let at = path.child("rules");
    if rules.is_empty() {
        errors.required(&at, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > MOST_RULES {
        errors.too_many(&at, rules.len(), MOST_RULES);
    }
    let completions = int(spec, "completions");
    for (index, rule) in rules.iter().enumerate() {
        let at = at.index(index);
        let count = opt_int(rule, "succeededCount");
        if count.is_none() && !has(rule, "succeededIndexes") {
            errors.required(&at, "at least one of succeededCount or succeededIndexes must be specified");
        }
        let mut total = 0;
        if has(rule, "succeededIndexes") {
            let indexes = text(rule, "succeededIndexes");
            let at = at.child("succeededIndexes");
            if indexes.len() > LONGEST_INDEXES {
                errors.too_long(&at, LONGEST_INDEXES);
            }
            match count_indexes(indexes, completions) {
                Ok(found) => total = found,
                Err(fault) => {
                    errors.invalid(&at, indexes, &format!("error parsing succeededIndexes: {fault}"));
                }
            }
        }
        let Some(count) = count else { continue };
        let at = at.child("succeededCount");
        if count < 0 {
            errors.invalid(&at, count, validate::NEGATIVE);
        }
        if count > completions {
            let fault =
                format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.invalid(&at, count, &fault);
        }
        if has(rule, "succeededIndexes") && count > total {
            let fault = format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            );
            errors.invalid(&at, count, &fault);
        }
    }
}

/// How many indexes a text such as `0-2,5` names, in order and below `completions`.
pub(super) fn count_indexes(indexes: &str, completions: i64) -> Result<i64, String> {
    if indexes.is_empty() {
        return Ok(0);
    }
    let mut total = 0;
    let mut before: Option<i64> = None;
    for part in indexes.split(',') {
        let (first, last) = interval(part, completions)?;
        if let Some(before) = before.filter(|before| first <= *before) {
            return Err(format!("non-increasing order, previous: {before}, current: {first}"));
        }
        total += last - first + 1;
        before = Some(last);
    }
    Ok(total)
}

/// The first and the last index of a part such as `0-2` or `5`.
pub(super) fn interval(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let ends: Vec<&str> = part.split('-').collect();
    if ends.len() > 2 {
        return Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        ));
    }
    let number = |end: &str| -> Result<i64, String> {
        let number: i64 =
            end.parse().map_err(|_| format!("cannot convert string to integer for index: {end:?}"))?;
        if number >= completions { Err(format!("too large index: {end:?}")) } else { Ok(number) }
    };
    let first = number(ends[0])?;
    let Some(end) = ends.get(1) else { return Ok((first, first)) };
    let last = number(end)?;
    if first >= last {
        return Err(format!("non-increasing order, previous: {first}, current: {last}"));
    }
    Ok((first, last))
}
