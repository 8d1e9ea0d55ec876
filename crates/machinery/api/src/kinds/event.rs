//! Events, as stored: core/v1. Source: `pkg/registry/core/event`, `pkg/apis/core/validation/events.go`.

use jiff::Timestamp;
use serde_json::Value;

use super::go;
use super::kind::Kind;
use super::print::{or, since, string, wide};
use super::tree::{has, int, same, text, value};
use super::validate::{qualified_name, subdomain};
use super::{Column, Context, Metadata, Rules};
use crate::field::{Errors, Path};

/// Events as core/v1 has them: whatever makes a little sense.
pub(super) static RULES: Kind = Kind {
    validate: |object, errors| legacy(object, "reportingComponent", errors),
    fields,
    columns: &[
        string("Last Seen"),
        string("Type"),
        string("Reason"),
        string("Object"),
        wide("Subobject"),
        wide("Source"),
        string("Message"),
        wide("First Seen"),
        wide("Count"),
        Column { name: "Name", kind: "string", format: "name", priority: 1 },
    ],
    row,
    create_on_update: true,
    metadata: Metadata::SHARED,
    ..Kind::BASE
};

/// Events of events.k8s.io/v1: new ones are strict, and their series is all that changes later. Stored, and shown, as core's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strict;

impl Rules for Strict {
    fn metadata(&self) -> Metadata {
        Metadata::BASE
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        legacy(object, "reportingController", errors);
        strict(object, errors);
    }

    /// One that core's clients wrote is held to no more than they are.
    fn validate_update(&self, new: &Value, old: &Value, _ctx: &Context<'_>, errors: &mut Errors) {
        legacy(new, "reportingController", errors);
        strict_update(new, old, errors);
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        RULES.selectable_fields(object)
    }

    fn columns(&self) -> &'static [Column] {
        RULES.columns()
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        RULES.row(object, now)
    }

    fn create_on_update(&self) -> bool {
        true
    }
}

/// What every new event of events.k8s.io says, and what it leaves to older clients.
fn strict(object: &Value, errors: &mut Errors) {
    series(object, errors);
    if !has(object, "eventTime") {
        errors.required(&Path::new("eventTime"), "");
    }
    let kind = text(object, "type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid(&Path::new("type"), "", &format!("has invalid value: {kind}"));
    }
    let source = value(object, "source");
    let sourced = !text(source, "component").is_empty() || !text(source, "host").is_empty();
    for (field, set) in [
        ("firstTimestamp", has(object, "firstTimestamp")),
        ("lastTimestamp", has(object, "lastTimestamp")),
        ("count", int(object, "count") != 0),
        ("source", sourced),
    ] {
        if set {
            errors.invalid(&Path::new(field), "", "needs to be unset");
        }
    }
}

fn series(object: &Value, errors: &mut Errors) {
    let series = value(object, "series");
    if series.is_null() {
        return;
    }
    if int(series, "count") < 2 {
        errors.invalid(&Path::new("series.count"), "", "should be at least 2");
    }
    if !has(series, "lastObservedTime") {
        errors.required(&Path::new("series.lastObservedTime"), "");
    }
}

fn strict_update(new: &Value, old: &Value, errors: &mut Errors) {
    if !same(value(new, "series"), value(old, "series")) {
        series(new, errors);
    }
    // In upstream's order, and with its second look at the reason.
    for field in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "reason",
        "type",
        "eventTime",
        "action",
        "related",
    ] {
        go::immutable("core.v1.Event", field, new, old, &Path::new(field), errors);
    }
    for (field, shown) in
        [("reportingComponent", "reportingController"), ("reportingInstance", "reportingInstance")]
    {
        go::immutable("core.v1.Event", field, new, old, &Path::new(shown), errors);
    }
}

/// What every event is held to. `controller` is how the version asked for calls who reports.
fn legacy(object: &Value, controller: &str, errors: &mut Errors) {
    let namespace = text(value(object, "metadata"), "namespace");
    let involved = text(value(object, "involvedObject"), "namespace");
    let involved_path = Path::new("involvedObject");
    let mismatch = |errors: &mut Errors| {
        errors.invalid(&involved_path.child("namespace"), involved, "does not match event.namespace");
    };
    if has(object, "eventTime") {
        if involved.is_empty() && !matches!(namespace, "default" | "kube-system") {
            mismatch(errors);
        }
        described(object, controller, errors);
    } else if involved.is_empty() {
        if !matches!(namespace, "" | "default") {
            mismatch(errors);
        }
    } else if involved != namespace {
        mismatch(errors);
    }
    for fault in subdomain(namespace) {
        errors.invalid(&Path::new("namespace"), namespace, &fault);
    }
}

/// What events of the new style must say.
fn described(object: &Value, shown: &str, errors: &mut Errors) {
    let controller = text(object, "reportingComponent");
    let path = Path::new(shown);
    if controller.is_empty() {
        errors.required(&path, "");
    }
    for fault in qualified_name(controller) {
        errors.invalid(&path, controller, &fault);
    }
    for (field, most) in [("reportingInstance", 128), ("action", 128), ("reason", 128)] {
        if text(object, field).is_empty() {
            errors.required(&Path::new(field), "");
        }
        if text(object, field).len() > most {
            errors.invalid(&Path::new(field), "", &format!("can have at most {most} characters"));
        }
    }
    if text(object, "message").len() > 1024 {
        errors.invalid(&Path::new("message"), "", "can have at most 1024 characters");
    }
}

fn fields(object: &Value) -> Vec<(&'static str, String)> {
    let involved = value(object, "involvedObject");
    let controller = text(object, "reportingComponent");
    let of = |field: &str| text(involved, field).to_owned();
    vec![
        ("involvedObject.kind", of("kind")),
        ("involvedObject.namespace", of("namespace")),
        ("involvedObject.name", of("name")),
        ("involvedObject.uid", of("uid")),
        ("involvedObject.apiVersion", of("apiVersion")),
        ("involvedObject.resourceVersion", of("resourceVersion")),
        ("involvedObject.fieldPath", of("fieldPath")),
        ("reason", text(object, "reason").to_owned()),
        ("reportingComponent", controller.to_owned()),
        ("source", or(text(value(object, "source"), "component"), controller).to_owned()),
        ("type", text(object, "type").to_owned()),
    ]
}

fn row(object: &Value, now: Timestamp) -> Vec<Value> {
    let first = if has(object, "firstTimestamp") { "firstTimestamp" } else { "eventTime" };
    let first = since(value(object, first), now);
    let mut last =
        if has(object, "lastTimestamp") { since(value(object, "lastTimestamp"), now) } else { first.clone() };
    let mut count = int(object, "count").max(1);
    let series = value(object, "series");
    if !series.is_null() {
        last = since(value(series, "lastObservedTime"), now);
        count = int(series, "count");
    }
    let involved = value(object, "involvedObject");
    let kind = text(involved, "kind").to_lowercase();
    let target = match text(involved, "name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source = value(object, "source");
    let component = or(text(source, "component"), text(object, "reportingComponent"));
    let source = match or(text(source, "host"), text(object, "reportingInstance")) {
        "" => component.to_owned(),
        host => format!("{component}, {host}"),
    };
    vec![
        last.into(),
        text(object, "type").into(),
        text(object, "reason").into(),
        target.into(),
        text(involved, "fieldPath").into(),
        source.into(),
        text(object, "message").trim().into(),
        first.into(),
        count.into(),
        text(value(object, "metadata"), "name").into(),
    ]
}
