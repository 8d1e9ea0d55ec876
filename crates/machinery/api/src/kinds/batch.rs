//! Jobs and CronJobs. Source: `pkg/registry/batch`, `pkg/apis/batch`.

mod job;
mod status;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Metadata;
use super::go;
use super::kind::{Kind, empty_status};
use super::pod::{choice, validate_template};
use super::print::{
    self, AGE, NAME, age, boolean, flag_text, human_duration, integer, name, or, parse, seconds_between,
    since, string, wide,
};
use super::tree::{
    carry, child, default, default_text, ensure_map, flag, has, int, is_empty, items_mut, list, opt_int,
    same, set, text, value,
};
use super::validate::{label_selector, meta::conditions};
use super::workload::{self, condition, not_negative};
use crate::field::{Errors, Path};
use crate::resources::split_api_version;
use crate::time_zone;

pub(super) static JOB: Kind = Kind {
    default: |object| {
        let labels = value(value(value(value(object, "spec"), "template"), "metadata"), "labels").clone();
        if let Some(spec) = child(object, "spec") {
            job_spec(spec);
        }
        if labels.is_object()
            && let Some(meta) = child(object, "metadata")
            && is_empty(meta, "labels")
        {
            set(meta, "labels", labels);
        }
    },
    status: Some(empty_status),
    prepare: own_pods,
    validate_create: |object, errors| job::validate(object, &Value::Null, errors),
    validate_update: |new, old, errors| job::validate(new, old, errors),
    validate_late: job_update,
    validate_status: status::update,
    fields: |object| vec![("status.successful", int(value(object, "status"), "succeeded").to_string())],
    columns: &[
        NAME,
        string("Status"),
        string("Completions"),
        string("Duration"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    row: job_row,
    generation: true,
    orphans: true,
    shares_labels: true,
    warnings: workload::warnings,
    metadata: Metadata::NEW_CHANGE,
    ..Kind::BASE
};

fn job_spec(spec: &mut Value) {
    if !has(spec, "completions") && !has(spec, "parallelism") {
        set(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    let limit = if has(spec, "backoffLimitPerIndex") { i64::from(i32::MAX) } else { 6 };
    default(spec, "backoffLimit", limit);
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    let replacement = if has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    default(spec, "podReplacementPolicy", replacement);
    default(spec, "manualSelector", false);
    workload::default_template(spec);
    if let Some(policy) = child(spec, "podFailurePolicy") {
        for rule in items_mut(policy, "rules") {
            for pattern in items_mut(rule, "onPodConditions") {
                default_text(pattern, "status", "True");
            }
        }
    }
}

/// A new Job selects its pods by its own uid, unless the user chose a selector by hand.
fn own_pods(object: &mut Value) {
    let meta = value(object, "metadata");
    let (uid, job) = (text(meta, "uid").to_owned(), text(meta, "name").to_owned());
    let Some(spec) = child(object, "spec") else { return };
    if flag(spec, "manualSelector") || uid.is_empty() {
        return;
    }
    if let Some(labels) = ensure_map(spec, "template")
        .and_then(|t| ensure_map(t, "metadata"))
        .and_then(|m| ensure_map(m, "labels"))
    {
        for (key, content) in [
            ("controller-uid", &uid),
            ("job-name", &job),
            ("batch.kubernetes.io/controller-uid", &uid),
            ("batch.kubernetes.io/job-name", &job),
        ] {
            // A value that the user gave is left for validation to refuse.
            default(labels, key, content.as_str());
        }
    }
    if let Some(selector) = ensure_map(spec, "selector").and_then(|s| ensure_map(s, "matchLabels")) {
        default(selector, "batch.kubernetes.io/controller-uid", uid);
    }
}

fn job_update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let (spec, before) = (value(new, "spec"), value(old, "spec"));
    // Told a second time, as upstream does: causes are told as often as they are found, messages once.
    job::stored_spec(spec, &path, errors);
    let (completions, known) = (value(spec, "completions"), value(before, "completions"));
    if text(spec, "completionMode") != "Indexed" {
        go::immutable("batch.v1.JobSpec", "completions", spec, before, &path.child("completions"), errors);
    } else if !completions.is_null()
        && completions != known
        && opt_int(spec, "completions") != opt_int(spec, "parallelism")
    {
        let why = "can only be modified in tandem with spec.parallelism";
        errors.invalid(&path.child("completions"), completions.clone(), why);
    }
    go::immutable("batch.v1.JobSpec", "selector", spec, before, &path.child("selector"), errors);
    template_update(spec, old, &path, errors);
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        go::immutable("batch.v1.JobSpec", field, spec, before, &path.child(field), errors);
    }
}

/// The pods of a Job that is suspended and has none may be scheduled differently, and ask for other resources.
fn template_update(spec: &Value, old: &Value, path: &Path<'_>, errors: &mut Errors) {
    let before = value(old, "spec");
    let status = value(old, "status");
    let suspended = flag(before, "suspend");
    let (template, known) = (value(spec, "template"), value(before, "template"));
    let stopped = !has(status, "startTime") || condition(old, "Suspended");
    if !suspended || !stopped || int(status, "active") != 0 {
        go::immutable("batch.v1.JobSpec", "template", spec, before, &path.child("template"), errors);
        return;
    }
    let (new_pod, old_pod) = (value(template, "spec"), value(known, "spec"));
    let mut rest = new_pod.clone();
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        carry(&mut rest, old_pod, field);
    }
    if only_node_affinity(value(new_pod, "affinity"), value(old_pod, "affinity")) {
        carry(&mut rest, old_pod, "affinity");
    }
    for field in ["containers", "initContainers"] {
        let olds = list(old_pod, field);
        if list(new_pod, field).len() == olds.len() {
            let pairs = items_mut(&mut rest, field).zip(olds);
            for (container, old) in pairs.filter(|(new, old)| text(new, "name") == text(old, "name")) {
                carry(container, old, "resources");
            }
        }
    }
    if !same(&rest, old_pod) {
        let at = path.child("template.spec");
        errors.invalid(&at, new_pod.clone(), super::validate::IMMUTABLE);
    }
}

/// Whether affinities differ in that to nodes at most.
fn only_node_affinity(new: &Value, old: &Value) -> bool {
    let mut known = old.clone();
    match (new.is_null(), old.is_null()) {
        (true, false) => {
            super::tree::remove(&mut known, "nodeAffinity");
            known.as_object().is_some_and(serde_json::Map::is_empty)
        }
        (false, old_is_null) => {
            if old_is_null {
                known = json!({});
            }
            carry(&mut known, new, "nodeAffinity");
            same(new, &known)
        }
        (true, true) => true,
    }
}

fn job_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (value(object, "spec"), value(object, "status"));
    let succeeded = int(status, "succeeded");
    let completions = match (opt_int(spec, "completions"), int(spec, "parallelism")) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let duration = match (parse(value(status, "startTime")), parse(value(status, "completionTime"))) {
        (None, _) => String::new(),
        (Some(start), end) => human_duration(seconds_between(start, end.unwrap_or(now))),
    };
    let state = [("Complete", "Complete"), ("Failed", "Failed")]
        .into_iter()
        .find(|(kind, _)| condition(object, kind))
        .map(|(_, shown)| shown)
        .or_else(|| has(value(object, "metadata"), "deletionTimestamp").then_some("Terminating"))
        .or_else(|| {
            ["Suspended", "FailureTarget", "SuccessCriteriaMet"].into_iter().find(|k| condition(object, k))
        })
        .unwrap_or("Running");
    let mut row = vec![name(object), state.into(), completions.into(), duration.into(), age(object, now)];
    row.extend(workload::wide_cells(object));
    row
}

pub(super) static CRON_JOB: Kind = Kind {
    default: |object| {
        let Some(spec) = child(object, "spec") else { return };
        default_text(spec, "concurrencyPolicy", "Allow");
        default(spec, "suspend", false);
        default(spec, "successfulJobsHistoryLimit", 3);
        default(spec, "failedJobsHistoryLimit", 1);
        let Some(template) = child(spec, "jobTemplate") else { return };
        ensure_map(template, "metadata");
        // Only the pod template is filled: the rest becomes the Job's when one is made.
        if let Some(job) = child(template, "spec") {
            workload::default_template(job);
        }
    },
    status: Some(empty_status),
    validate_create: |object, errors| {
        cron_job(object, &Value::Null, errors);
        let job = text(value(object, "metadata"), "name");
        if job.len() > 52 {
            // The names of Jobs get eleven characters more. Objects from before this rule can still be changed.
            let meta = Path::new("metadata");
            errors.invalid(&meta.child("name"), job, "must be no more than 52 characters");
        }
    },
    validate_update: cron_job,
    columns: &[
        NAME,
        string("Schedule"),
        string("Timezone"),
        boolean("Suspend"),
        integer("Active"),
        string("Last Schedule"),
        AGE,
        wide("Containers"),
        wide("Images"),
        wide("Selector"),
    ],
    row: cron_job_row,
    warnings: |object, old| {
        let mut warnings = Vec::new();
        if old.is_none() {
            workload::name_warning(object, &mut warnings);
        }
        let template = |of| value(value(value(value(of, "spec"), "jobTemplate"), "spec"), "template");
        if old.is_none_or(|old| template(old) != template(object)) {
            let path = Path::new("spec.jobTemplate.spec.template.spec");
            super::pod::spec_warnings(value(template(object), "spec"), &path, &mut warnings);
        }
        warnings
    },
    generation: true,
    metadata: Metadata { part: &[], ..Metadata::BASE },
    ..Kind::BASE
};

/// Faults of a CronJob. `old`: what is stored, null for a new one; its time zone and the one in its schedule may stay.
fn cron_job(object: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let (spec, before) = (value(object, "spec"), value(old, "spec"));
    let schedule = text(spec, "schedule");
    let at = path.child("schedule");
    if schedule.is_empty() {
        errors.required(&at, "");
    } else if let Err(fault) = cron_fault(schedule) {
        errors.invalid(&at, schedule, &fault);
    }
    if schedule.contains("TZ") {
        if !text(before, "schedule").contains("TZ") {
            let fault = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errors.invalid(&at, schedule, fault);
        } else if has(spec, "timeZone") {
            errors.invalid(&at, schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
        }
    }
    not_negative(spec, &["startingDeadlineSeconds"], &path, errors);
    if has(spec, "timeZone") && value(spec, "timeZone") != value(before, "timeZone") {
        time_zone(text(spec, "timeZone"), &path.child("timeZone"), errors);
    }
    choice(spec, "concurrencyPolicy", &["Allow", "Forbid", "Replace"], &path, errors);
    let template = path.child("jobTemplate");
    job::in_template(value(value(spec, "jobTemplate"), "spec"), &template.child("spec"), errors);
    not_negative(spec, &["successfulJobsHistoryLimit", "failedJobsHistoryLimit"], &path, errors);
}

fn time_zone(zone: &str, path: &Path<'_>, errors: &mut Errors) {
    if zone.is_empty() {
        errors.invalid(path, zone, "timeZone must be nil or non-empty string");
        return;
    }
    // As the database names its files.
    let part = |part: &str| {
        (1..=14).contains(&part.len())
            && !part.starts_with('-')
            && part != "."
            && part != ".."
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b))
    };
    let unknown = format!("unknown time zone {zone}");
    if !zone.split('/').all(part) {
        errors.invalid(path, zone, &unknown);
        return;
    }
    if zone.eq_ignore_ascii_case("local") {
        let fault = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(path, zone, fault);
    }
    // Go knows this one name that is not in the database.
    if zone != "Local" && time_zone::get(zone).is_none() {
        errors.invalid(path, zone, &unknown);
    }
}

/// Whether a schedule has the shape of one: five fields in range, or a descriptor such as `@daily`.
fn cron_fault(schedule: &str) -> Result<(), String> {
    let schedule = match schedule.split_once(' ') {
        Some((zone, rest)) if zone.starts_with("TZ=") || zone.starts_with("CRON_TZ=") => {
            let zone = zone.split_once('=').map_or("", |(_, zone)| zone);
            if !matches!(zone, "" | "Local") && time_zone::get(zone).is_none() {
                return Err(format!("provided bad location {zone}: unknown time zone {zone}"));
            }
            rest.trim()
        }
        _ => schedule,
    };
    if let Some(descriptor) = schedule.strip_prefix('@') {
        let known = matches!(
            descriptor,
            "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly"
        );
        return match descriptor.strip_prefix("every ") {
            Some(duration) if duration.ends_with(['s', 'm', 'h']) => Ok(()),
            _ if known => Ok(()),
            _ => Err(format!("unrecognized descriptor: {schedule}")),
        };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    for (field, (low, high)) in fields.iter().zip([(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)]) {
        for part in field.split(',') {
            cron_part(part, low, high)?;
        }
    }
    Ok(())
}

fn cron_part(part: &str, low: u32, high: u32) -> Result<(), String> {
    const NAMES: [&str; 19] = [
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec", "sun", "mon",
        "tue", "wed", "thu", "fri", "sat",
    ];
    let number = |text: &str| -> Result<u32, String> {
        let position = NAMES.iter().position(|name| text.eq_ignore_ascii_case(name));
        match position {
            Some(month) if high == 12 && month < 12 => Ok(month as u32 + 1),
            Some(day) if high == 6 && day >= 12 => Ok(day as u32 - 12),
            _ => text.parse().map_err(|_| {
                format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
            }),
        }
    };
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(number(step)?)),
        None => (part, None),
    };
    if step == Some(0) {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    if range == "*" || range == "?" {
        return Ok(());
    }
    let (from, to) = match range.split_once('-') {
        Some((from, to)) => (number(from)?, number(to)?),
        None => (number(range)?, number(range)?),
    };
    if from < low {
        return Err(format!("beginning of range ({from}) below minimum ({low}): {part}"));
    }
    if to > high {
        return Err(format!("end of range ({to}) above maximum ({high}): {part}"));
    }
    if from > to {
        return Err(format!("beginning of range ({from}) beyond end of range ({to}): {part}"));
    }
    Ok(())
}

fn cron_job_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (value(object, "spec"), value(object, "status"));
    let last = value(status, "lastScheduleTime");
    let last = if last.is_null() { "<none>".to_owned() } else { since(last, now) };
    let job = value(value(spec, "jobTemplate"), "spec");
    let pod = value(value(job, "template"), "spec");
    vec![
        name(object),
        text(spec, "schedule").into(),
        or(text(spec, "timeZone"), "<none>").into(),
        flag_text(value(spec, "suspend")).into(),
        list(status, "active").len().into(),
        last.into(),
        age(object, now),
        print::containers(pod).into(),
        print::images(pod).into(),
        print::selector(value(job, "selector")).into(),
    ]
}

/// PodTemplates, which nothing makes pods from but users keep.
pub(super) static POD_TEMPLATE: Kind = Kind {
    default: |object| {
        if let Some(template) = child(object, "template") {
            super::pod::default_template(template);
        }
    },
    validate: |object, errors| {
        validate_template(value(object, "template"), &Path::new("template"), errors);
    },
    columns: &[NAME, string("Containers"), string("Images"), string("Pod Labels")],
    row: |object, _| {
        let template = value(object, "template");
        let pod = value(template, "spec");
        vec![
            name(object),
            print::containers(pod).into(),
            print::images(pod).into(),
            print::labels(value(template, "metadata"), "labels").into(),
        ]
    },
    generation: true,
    changed: |new, old| !same(value(new, "template"), value(old, "template")),
    warnings: |object, old| {
        let mut warnings = Vec::new();
        let template = value(object, "template");
        if old.is_none_or(|old| value(old, "template") != template) {
            let path = Path::new("template");
            super::pod::spec_warnings(value(template, "spec"), &path.child("spec"), &mut warnings);
        }
        warnings
    },
    ..Kind::BASE
};

/// ControllerRevisions, in which DaemonSets and StatefulSets keep their history.
pub(super) static CONTROLLER_REVISION: Kind = Kind {
    validate: |object, errors| {
        not_negative(object, &["revision"], &Path::new(""), errors);
        match value(object, "data") {
            Value::Object(_) => {}
            Value::Null => errors.required(&Path::new("data"), "data is mandatory"),
            _ => errors.required(&Path::new("data"), "data must be a valid JSON object"),
        }
    },
    validate_update: |new, old, errors| {
        go::immutable("apps.v1.ControllerRevision", "data", new, old, &Path::new("data"), errors);
    },
    columns: &[NAME, string("Controller"), string("Revision"), AGE],
    row: |object, now| {
        let owners = list(value(object, "metadata"), "ownerReferences");
        let owner = owners.iter().find(|o| flag(o, "controller"));
        let owner = owner.map_or("<none>".to_owned(), |owner| {
            let (group, _) = split_api_version(text(owner, "apiVersion"));
            let kind = text(owner, "kind").to_lowercase();
            let kind = if group.is_empty() { kind } else { format!("{kind}.{group}") };
            format!("{kind}/{}", text(owner, "name"))
        });
        vec![name(object), owner.into(), int(object, "revision").into(), age(object, now)]
    },
    metadata: Metadata::CHANGE_NEW,
    ..Kind::BASE
};

/// PodDisruptionBudgets.
pub(super) static DISRUPTION_BUDGET: Kind = Kind {
    status: Some(
        |_| json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}),
    ),
    validate: |object, errors| {
        let path = Path::new("spec");
        let spec = value(object, "spec");
        if has(spec, "minAvailable") && has(spec, "maxUnavailable") {
            let fault = "minAvailable and maxUnavailable cannot be both set";
            go::invalid("policy.v1.PodDisruptionBudgetSpec", spec, fault, &path, errors);
        }
        for field in ["minAvailable", "maxUnavailable"] {
            if has(spec, field) {
                workload::int_or_percent(value(spec, field), &path.child(field), errors);
                workload::at_most_all(value(spec, field), &path.child(field), errors);
            }
        }
        label_selector(value(spec, "selector"), &path.child("selector"), errors);
        super::pod::optional_choice(
            spec,
            "unhealthyPodEvictionPolicy",
            &["AlwaysAllow", "IfHealthyBudget"],
            &path,
            errors,
        );
    },
    validate_status: |new, _, errors| {
        const COUNTS: &[&str] = &["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
        let path = Path::new("status");
        conditions(list(value(new, "status"), "conditions"), &path.child("conditions"), errors);
        not_negative(value(new, "status"), COUNTS, &Path::new("status"), errors);
    },
    columns: &[NAME, string("Min Available"), string("Max Unavailable"), integer("Allowed Disruptions"), AGE],
    row: |object, now| {
        let spec = value(object, "spec");
        let amount = |field: &str| -> Value {
            match value(spec, field) {
                Value::Null => "N/A".into(),
                Value::String(percent) => percent.as_str().into(),
                other => other.to_string().into(),
            }
        };
        let allowed = int(value(object, "status"), "disruptionsAllowed");
        vec![name(object), amount("minAvailable"), amount("maxUnavailable"), allowed.into(), age(object, now)]
    },
    generation: true,
    unconditional_update: false,
    metadata: Metadata::SHARED,
    ..Kind::BASE
};
