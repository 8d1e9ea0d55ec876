//! Faults of a Job's status: what its controller, ours or one that `managedBy` names, may write.
//! Source: `getStatusValidationOptions` of `pkg/registry/batch/job` and `ValidateJobStatusUpdate`. A rule about fields that
//! did not change is not enforced, so that a status that broke it before can still be put right.

use ahash::AHashSet;
use serde_json::Value;

use super::job::interval;
use crate::field::{Errors, Path, Reason};
use crate::kinds::go;
use crate::kinds::tree::{has, int, list, opt_int, same, text, value};
use crate::kinds::validate::IMMUTABLE;
use crate::kinds::workload::{condition, not_negative};

/// What is looked at of one Job.
struct State<'a> {
    spec: &'a Value,
    status: &'a Value,
    complete: bool,
    failed: bool,
    failing: bool,
    succeeded: bool,
}

impl<'a> State<'a> {
    fn of(job: &'a Value) -> Self {
        State {
            spec: value(job, "spec"),
            status: value(job, "status"),
            complete: condition(job, "Complete"),
            failed: condition(job, "Failed"),
            failing: condition(job, "FailureTarget"),
            succeeded: condition(job, "SuccessCriteriaMet"),
        }
    }

    fn finished(&self) -> bool {
        self.complete || self.failed
    }

    fn indexed(&self) -> bool {
        text(self.spec, "completionMode") == "Indexed"
    }
}

/// Faults of a status update.
pub(super) fn update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("status");
    let (now, before) = (State::of(new), State::of(old));
    let counts = ["active", "succeeded", "failed", "ready", "terminating"];
    not_negative(now.status, &counts, &path, errors);
    uncounted(value(now.status, "uncountedTerminatedPods"), &path, errors);
    finish(&now, &before, old, &path, errors);
    indexes(&now, &before, &path, errors);
    pods(&now, &before, &path, errors);
    criteria(&now, &path, errors);
    steps(&now, &before, new, old, &path, errors);
}

fn changed(now: &State<'_>, before: &State<'_>, field: &str) -> bool {
    !same(value(now.status, field), value(before.status, field))
}

/// One fault of the conditions, whose value upstream leaves out.
fn conditions(path: &Path<'_>, why: &str, errors: &mut Errors) {
    errors.push(Reason::Invalid, &path.child("conditions"), format!("Invalid value: {why}"));
}

fn uncounted(pods: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("uncountedTerminatedPods");
    let mut seen = AHashSet::new();
    for field in ["succeeded", "failed"] {
        for (index, uid) in list(pods, field).iter().filter_map(Value::as_str).enumerate() {
            let at = at.child(field);
            if uid.is_empty() {
                errors.invalid(&at.index(index), "", "must not be empty");
            } else if !seen.insert(uid) {
                errors.duplicate(&at.index(index), uid);
            }
        }
    }
}

/// What ends a Job, and when it began and ended.
fn finish(now: &State<'_>, before: &State<'_>, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    let status = now.status;
    let completes = now.complete != before.complete;
    let (starts, ends) = (changed(now, before, "startTime"), changed(now, before, "completionTime"));
    let completion = path.child("completionTime");
    let ended = value(status, "completionTime");
    if now.complete && now.failed && (completes || now.failed != before.failed) {
        conditions(path, "cannot set Complete=True and Failed=true conditions", errors);
    }
    if now.complete && now.failing && (completes || now.failing != before.failing) {
        conditions(path, "cannot set Complete=True and FailureTarget=true conditions", errors);
    }
    if (completes || ends) && !ended.is_null() && !now.complete {
        let why = "cannot set completionTime when there is no Complete=True condition";
        errors.invalid(&completion, ended.clone(), why);
    }
    if (completes || ends) && ended.is_null() && now.complete {
        errors.required(&completion, "completionTime is required for Complete jobs");
    }
    // RFC 3339 in UTC, as stored: the order of the texts is that of the times.
    if (starts || ends)
        && has(status, "startTime")
        && !ended.is_null()
        && text(status, "completionTime") < text(status, "startTime")
    {
        errors.invalid(&completion, ended.clone(), "must be equal to or after `startTime`");
    }
    let fails = now.failed != before.failed || changed(now, before, "failedIndexes");
    if fails && now.failed && !now.failing {
        let why = "cannot set Failed=True condition without the FailureTarget=true condition";
        conditions(path, why, errors);
    }
    if (completes || now.succeeded != before.succeeded) && now.complete && !now.succeeded {
        let why = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        conditions(path, why, errors);
    }
    let finishes = now.finished() != State::of(old).finished();
    if (finishes || changed(now, before, "active")) && now.finished() && int(status, "active") > 0 {
        let active = int(status, "active");
        errors.invalid(&path.child("active"), active, "active>0 is invalid for finished job");
    }
    let nothing = value(now.spec, "suspend") == true && opt_int(now.spec, "completions") == Some(0);
    if (finishes || starts) && !nothing && now.finished() && !has(status, "startTime") {
        errors.required(&path.child("startTime"), "startTime is required for finished job");
    }
    let pods = value(status, "uncountedTerminatedPods");
    let some = !list(pods, "failed").is_empty() || !list(pods, "succeeded").is_empty();
    if (finishes || changed(now, before, "uncountedTerminatedPods")) && now.finished() && some {
        let at = path.child("uncountedTerminatedPods");
        go::invalid("batch.v1.UncountedTerminatedPods", pods, "must be empty for finished job", &at, errors);
    }
}

fn indexes(now: &State<'_>, before: &State<'_>, path: &Path<'_>, errors: &mut Errors) {
    let (completed, failed) = (text(now.status, "completedIndexes"), text(now.status, "failedIndexes"));
    let (at_completed, at_failed) = (path.child("completedIndexes"), path.child("failedIndexes"));
    let completed_changed = completed != text(before.status, "completedIndexes");
    let failed_changed = value(now.status, "failedIndexes") != value(before.status, "failedIndexes");
    let completions = opt_int(now.spec, "completions");
    let per_index = has(now.spec, "backoffLimitPerIndex");
    if completed_changed
        && let Some(completions) = completions
        && let Err(fault) = super::job::count_indexes(completed, completions)
    {
        errors.invalid(&at_completed, completed, &format!("error parsing completedIndexes: {fault}"));
    }
    if failed_changed
        && per_index
        && let Some(completions) = completions
        && let Err(fault) = super::job::count_indexes(failed, completions)
    {
        errors.invalid(&at_failed, failed, &format!("error parsing failedIndexes: {fault}"));
    }
    if completed_changed && !completed.is_empty() && !now.indexed() {
        let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.invalid(&at_completed, completed, why);
    }
    if failed_changed && !per_index && has(now.status, "failedIndexes") {
        errors.invalid(
            &at_failed,
            failed,
            "cannot set non-null failedIndexes when backoffLimitPerIndex is null",
        );
    }
    if (failed_changed || completed_changed)
        && let Some(completions) = completions
        && let Some(index) = overlap(completed, failed, completions)
    {
        let why = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.invalid(&at_failed, failed, &why);
    }
}

/// The first index that is in both lists, which are in order. What is no interval has been told of already.
fn overlap(completed: &str, failed: &str, completions: i64) -> Option<i64> {
    let mut completed = completed.split(',').filter_map(|part| interval(part, completions).ok()).peekable();
    let mut failed = failed.split(',').filter_map(|part| interval(part, completions).ok()).peekable();
    while let (Some(done), Some(lost)) = (completed.peek(), failed.peek()) {
        if done.0 <= lost.1 && lost.0 <= done.1 {
            return Some(done.0.max(lost.0));
        }
        if done.0 <= lost.0 {
            completed.next();
        } else {
            failed.next();
        }
    }
    None
}

fn pods(now: &State<'_>, before: &State<'_>, path: &Path<'_>, errors: &mut Errors) {
    let (terminating, ready) = (int(now.status, "terminating"), int(now.status, "ready"));
    let finishes = now.finished() != before.finished();
    if (finishes || changed(now, before, "terminating")) && now.finished() && terminating > 0 {
        let why = "terminating>0 is invalid for finished job";
        errors.invalid(&path.child("terminating"), terminating, why);
    }
    let moved = changed(now, before, "ready") || changed(now, before, "active");
    if moved && has(now.status, "ready") && ready > int(now.status, "active") {
        errors.invalid(&path.child("ready"), ready, "cannot set more ready pods than active");
    }
}

/// What the criteria of success exclude.
fn criteria(now: &State<'_>, path: &Path<'_>, errors: &mut Errors) {
    if now.succeeded && now.failed {
        conditions(path, "cannot set SuccessCriteriaMet=True and Failed=true conditions", errors);
    }
    if now.succeeded && now.failing {
        conditions(path, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions", errors);
    }
    if has(now.spec, "successPolicy") && !now.succeeded && now.complete {
        let why = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
        conditions(path, why, errors);
    }
}

/// What goes only forwards.
fn steps(
    now: &State<'_>,
    before: &State<'_>,
    new: &Value,
    old: &Value,
    path: &Path<'_>,
    errors: &mut Errors,
) {
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if condition(old, kind) && !condition(new, kind) {
            conditions(path, &format!("cannot disable the terminal {kind}=True condition"), errors);
        }
    }
    let fewer = |field: &str| int(now.status, field) < int(before.status, field);
    if fewer("failed") {
        errors.invalid(
            &path.child("failed"),
            int(now.status, "failed"),
            "cannot decrease the failed counter",
        );
    }
    // An indexed Job that is scaled with its parallelism may be scaled down.
    let scalable = now.indexed() && opt_int(now.spec, "completions") == opt_int(now.spec, "parallelism");
    if fewer("succeeded") && !scalable {
        let succeeded = int(now.status, "succeeded");
        errors.invalid(&path.child("succeeded"), succeeded, "cannot decrease the succeeded counter");
    }
    let both = |field: &str| has(now.status, field) && has(before.status, field);
    if both("completionTime") && changed(now, before, "completionTime") {
        errors.invalid(&path.child("completionTime"), value(now.status, "completionTime").clone(), IMMUTABLE);
    }
    let stops = |job: &Value, state: &str| {
        let mut all = list(value(job, "status"), "conditions").iter();
        all.any(|c| text(c, "type") == "Suspended" && text(c, "status") == state)
    };
    let resumes = stops(old, "True") && stops(new, "False");
    if changed(now, before, "startTime")
        && !resumes
        && has(before.status, "startTime")
        && value(now.spec, "suspend") != true
    {
        let why = "field is immutable for unsuspended job once set";
        errors.invalid(&path.child("startTime"), value(now.status, "startTime").clone(), why);
    }
    if before.succeeded && !now.succeeded {
        conditions(path, "cannot disable the SuccessCriteriaMet=True condition", errors);
    }
    if before.complete && !before.succeeded && now.succeeded {
        let why = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        conditions(path, why, errors);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(conditions: &[&str], mut status: Value) -> Value {
        let all: Vec<Value> = conditions.iter().map(|kind| json!({"type": kind, "status": "True"})).collect();
        status["conditions"] = json!(all);
        json!({"spec": {"completions": 5, "parallelism": 2, "completionMode": "NonIndexed"}, "status": status})
    }

    #[track_caller]
    fn check(new: &Value, old: &Value, expected: &[&str]) {
        let mut errors = Errors::new();
        update(new, old, &mut errors);
        let found: Vec<String> =
            errors.0.iter().map(|error| error.to_string().replace("status.", "")).collect();
        assert_eq!(found, expected);
    }

    const START: &str = "2026-01-01T00:00:00Z";
    const END: &str = "2026-01-01T00:01:00Z";

    #[test]
    fn a_job_ends_as_it_should() {
        let old = job(&[], json!({"startTime": START, "active": 1}));
        let done = json!({"startTime": START, "completionTime": END, "succeeded": 5});
        check(&job(&["SuccessCriteriaMet", "Complete"], done.clone()), &old, &[]);
        check(&job(&["FailureTarget", "Failed"], json!({"startTime": START, "failed": 7})), &old, &[]);
        check(
            &job(&["Complete"], json!({"active": 1})),
            &old,
            &[
                "completionTime: Required value: completionTime is required for Complete jobs",
                "conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
                "active: Invalid value: 1: active>0 is invalid for finished job",
                "startTime: Required value: startTime is required for finished job",
                "startTime: Invalid value: null: field is immutable for unsuspended job once set",
            ],
        );
        check(
            &job(&["Failed"], json!({"startTime": START, "completionTime": END, "terminating": 1})),
            &old,
            &[
                "completionTime: Invalid value: \"2026-01-01T00:01:00Z\": cannot set completionTime when there is no Complete=True condition",
                "conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
                "terminating: Invalid value: 1: terminating>0 is invalid for finished job",
            ],
        );
        // What was wrong before may stay so.
        let broken = job(&["Complete"], json!({"active": 1}));
        check(&broken, &broken, &[]);
        let ended = job(&["SuccessCriteriaMet", "Complete"], done);
        check(
            &job(&[], json!({"startTime": START, "completionTime": "2026-01-01T00:02:00Z"})),
            &ended,
            &[
                "completionTime: Invalid value: \"2026-01-01T00:02:00Z\": cannot set completionTime when there is no Complete=True condition",
                "conditions: Invalid value: cannot disable the terminal Complete=True condition",
                "succeeded: Invalid value: 0: cannot decrease the succeeded counter",
                "completionTime: Invalid value: \"2026-01-01T00:02:00Z\": field is immutable",
                "conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition",
            ],
        );
    }

    #[test]
    fn counts_and_indexes_are_possible() {
        let old = job(&[], json!({"startTime": START, "failed": 2}));
        check(
            &job(
                &[],
                json!({"startTime": START, "failed": 1, "active": 1, "ready": 2, "succeeded": -1,
                    "uncountedTerminatedPods": {"succeeded": ["a", ""], "failed": ["a"]}}),
            ),
            &old,
            &[
                "succeeded: Invalid value: -1: must be greater than or equal to 0",
                "uncountedTerminatedPods.succeeded[1]: Invalid value: \"\": must not be empty",
                "uncountedTerminatedPods.failed[0]: Duplicate value: \"a\"",
                "ready: Invalid value: 2: cannot set more ready pods than active",
                "failed: Invalid value: 1: cannot decrease the failed counter",
                "succeeded: Invalid value: -1: cannot decrease the succeeded counter",
            ],
        );
        let indexed = |completed: &str, failed: &str| {
            let mut job = job(
                &[],
                json!({"startTime": START, "failed": 2, "completedIndexes": completed,
                "failedIndexes": failed}),
            );
            job["spec"]["completionMode"] = json!("Indexed");
            job["spec"]["backoffLimitPerIndex"] = json!(1);
            job
        };
        check(&indexed("0,2-3", "1,4"), &old, &[]);
        check(
            &indexed("0,2-7", "x"),
            &old,
            &[
                "completedIndexes: Invalid value: \"0,2-7\": error parsing completedIndexes: too large index: \"7\"",
                "failedIndexes: Invalid value: \"x\": error parsing failedIndexes: cannot convert string to integer for index: \"x\"",
            ],
        );
        check(
            &indexed("0,2-3", "3"),
            &old,
            &["failedIndexes: Invalid value: \"3\": failedIndexes and completedIndexes overlap at index: 3"],
        );
        check(
            &job(
                &[],
                json!({"startTime": START, "failed": 2, "completedIndexes": "1", "failedIndexes": "2"}),
            ),
            &old,
            &[
                "completedIndexes: Invalid value: \"1\": cannot set non-empty completedIndexes when non-indexed completion mode",
                "failedIndexes: Invalid value: \"2\": cannot set non-null failedIndexes when backoffLimitPerIndex is null",
            ],
        );
    }
}
