//! Printed columns and cells shared by kinds.
//!
//! Source: `pkg/printers/internalversion/printers.go`, `apimachinery/pkg/util/duration`.

use jiff::Timestamp;
use serde_json::Value;

use super::Column;
use super::tree::{entries, list, text, value};
use crate::selector::LabelSelector;

mod descriptions;

pub use descriptions::description;

/// The `Name` column.
pub(crate) const NAME: Column = Column { name: "Name", kind: "string", format: "name", priority: 0 };
/// The `Age` column.
pub(crate) const AGE: Column = string("Age");

/// Name and Age.
pub const NAME_AGE: &[Column] = &[NAME, AGE];

/// A column of texts that is always shown.
pub(crate) const fn string(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 0 }
}

/// A column of numbers that is always shown.
pub(crate) const fn integer(name: &'static str) -> Column {
    Column { name, kind: "integer", format: "", priority: 0 }
}

/// A column of flags that is always shown.
pub(crate) const fn boolean(name: &'static str) -> Column {
    Column { name, kind: "boolean", format: "", priority: 0 }
}

/// A column of texts shown with `-o wide`.
pub(crate) const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 1 }
}

/// The cells of [`NAME_AGE`].
pub fn name_age_row(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

/// Name and Created At: the generic table of kinds for which upstream has no printer.
pub(crate) const CREATED_AT: &[Column] =
    &[NAME, Column { name: "Created At", kind: "date", format: "", priority: 0 }];

/// The cells of [`CREATED_AT`].
pub(crate) fn created_at_row(object: &Value, _now: Timestamp) -> Vec<Value> {
    vec![name(object), value(value(object, "metadata"), "creationTimestamp").clone()]
}

/// The object's name as a cell.
pub(crate) fn name(object: &Value) -> Value {
    text(value(object, "metadata"), "name").into()
}

/// The time since the object was created, as a cell.
pub(crate) fn age(object: &Value, now: Timestamp) -> Value {
    since(value(value(object, "metadata"), "creationTimestamp"), now).into()
}

/// The time since a timestamp field; `<unknown>` when it is absent or unreadable.
pub(crate) fn since(timestamp: &Value, now: Timestamp) -> String {
    match parse(timestamp) {
        Some(then) => human_duration((now - then).get_seconds_rounded()),
        None => "<unknown>".to_owned(),
    }
}

/// A timestamp field, if it is there.
pub(crate) fn parse(timestamp: &Value) -> Option<Timestamp> {
    timestamp.as_str().filter(|text| !text.is_empty())?.parse().ok()
}

/// Whole seconds of a span between two timestamps, towards zero.
trait Seconds {
    fn get_seconds_rounded(&self) -> i64;
}

impl Seconds for jiff::Span {
    fn get_seconds_rounded(&self) -> i64 {
        // The difference of two timestamps is in seconds and smaller units only.
        self.get_seconds()
    }
}

/// A duration as kubectl shows it: `45s`, `5m12s`, `3h40m`, `2d3h`, `<invalid>`.
pub fn human_duration(seconds: i64) -> String {
    let with = |whole: i64, unit: char, rest: i64, small: char| {
        if rest == 0 { format!("{whole}{unit}") } else { format!("{whole}{unit}{rest}{small}") }
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    match seconds {
        // Clocks may differ by a second between machines.
        i64::MIN..=-2 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => with(minutes, 'm', seconds % 60, 's'),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => with(hours, 'h', minutes % 60, 'm'),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => with(days, 'd', hours % 24, 'h'),
        _ if hours < 24 * 365 * 2 => format!("{days}d"),
        _ if hours < 24 * 365 * 8 => with(days / 365, 'y', days % 365, 'd'),
        _ => format!("{}y", days / 365),
    }
}

/// The seconds from one timestamp field to another.
pub(crate) fn seconds_between(from: Timestamp, to: Timestamp) -> i64 {
    (to - from).get_seconds_rounded()
}

/// A map of labels as `a=b,c=d`, or `<none>`.
pub(crate) fn labels(object: &Value, field: &str) -> String {
    let pairs: Vec<String> = entries(object, field)
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

/// A `LabelSelector` as text, or `<none>`.
pub(crate) fn selector(selector: &Value) -> String {
    match LabelSelector::from_value(selector) {
        Ok(selector) => or(&selector.to_string(), "<none>").to_owned(),
        Err(_) => "<error>".to_owned(),
    }
}

/// The names of a pod spec's containers, joined.
pub(crate) fn containers(spec: &Value) -> String {
    joined(spec, "name")
}

/// The images of a pod spec's containers, joined.
pub(crate) fn images(spec: &Value) -> String {
    joined(spec, "image")
}

fn joined(spec: &Value, field: &str) -> String {
    let parts: Vec<&str> = list(spec, "containers").iter().map(|c| text(c, field)).collect();
    parts.join(",")
}

/// `value`, or `otherwise` if it is empty.
pub(crate) fn or<'a>(value: &'a str, otherwise: &'a str) -> &'a str {
    if value.is_empty() { otherwise } else { value }
}

/// A flag as upstream's cells show it.
pub(crate) fn flag_text(value: &Value) -> &'static str {
    match value.as_bool() {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    }
}

#[cfg(test)]
mod tests;
