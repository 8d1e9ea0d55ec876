//! Whether a tree is already what reading it would make of it.
//!
//! What a patch, an apply or an update leaves as it was came out of the store, where everything is canonical. Looking is
//! a walk that makes nothing; the few trees that are not, or of which it is not plain, are written and read again.

use serde_json::{Map, Value};

use super::json::is_written;
use super::scalar;
use crate::quantity::Quantity;
use crate::schema::{Field, Kind, Shape, TypeId};

/// Deeper trees are left to the reader, which knows how deep is too deep.
const DEPTH: usize = 60;

/// Whether reading this object would give the same tree and no complaint. A `false` says nothing.
pub(crate) fn is_canonical(object: &Value, ty: TypeId) -> bool {
    object.as_object().is_some_and(|map| has_type(map, ty, DEPTH))
}

fn has_type(map: &Map<String, Value>, ty: TypeId, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    let fields = ty.fields();
    let always = &ty.get().always_written;
    let mut written = 0;
    for (name, value) in map {
        let Some(index) = ty.field_index(name) else { return false };
        let field = &fields[index];
        let is_always = always.iter().any(|other| usize::from(*other) == index);
        written += usize::from(is_always);
        // Of what Go always writes, lists, maps and times that are not there are nulls.
        let nullable = field.shape != Shape::One || matches!(field.kind, Kind::Time | Kind::MicroTime);
        if value.is_null() && is_always && nullable {
            continue;
        }
        if !is_written(field, value) || !has_shape(value, field, depth) {
            return false;
        }
    }
    written == always.len()
}

fn has_shape(value: &Value, field: &Field, depth: usize) -> bool {
    match (field.shape, value) {
        (Shape::One, value) => has_kind(value, field.kind, depth),
        (Shape::List, Value::Array(items)) => items.iter().all(|item| has_kind(item, field.kind, depth)),
        (Shape::Map, Value::Object(map)) => map.values().all(|item| has_kind(item, field.kind, depth)),
        _ => false,
    }
}

fn has_kind(value: &Value, kind: Kind, depth: usize) -> bool {
    match (kind, value) {
        (Kind::String, Value::String(_)) | (Kind::Bool, Value::Bool(_)) => true,
        (Kind::Object(ty), Value::Object(map)) => has_type(map, ty, depth),
        (Kind::Int32, Value::Number(number)) => is_int32(number),
        (Kind::Int64 | Kind::Double, Value::Number(number)) => number.is_i64(),
        (Kind::IntOrString, Value::Number(number)) => is_int32(number),
        (Kind::IntOrString, Value::String(_)) => true,
        (Kind::Time, Value::String(text)) => {
            is_plain_time(text) || scalar::time(text).is_ok_and(|time| time == *text)
        }
        (Kind::MicroTime, Value::String(text)) => scalar::micro_time(text).is_ok_and(|time| time == *text),
        (Kind::Quantity, Value::String(text)) => {
            text.parse::<Quantity>().is_ok_and(|quantity| quantity.to_string() == *text)
        }
        (Kind::Bytes, Value::String(text)) => scalar::base64(text).is_ok_and(|clean| clean == *text),
        (Kind::RawExtension | Kind::Json | Kind::FieldsV1, value) => is_plain(value, depth),
        (Kind::Strings, Value::Array(items)) => items.iter().all(Value::is_string),
        _ => false,
    }
}

fn is_int32(number: &serde_json::Number) -> bool {
    number.as_i64().is_some_and(|number| i32::try_from(number).is_ok())
}

/// A value without a type, whose numbers are read as they are written.
fn is_plain(value: &Value, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    match value {
        Value::Object(map) => map.values().all(|value| is_plain(value, depth)),
        Value::Array(items) => items.iter().all(|value| is_plain(value, depth)),
        Value::Number(number) => number.is_i64(),
        _ => true,
    }
}

/// A time as we write it. Days that not every month has are left to those who know the calendar.
fn is_plain_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shape = b"0000-00-00T00:00:00Z";
    let fits = |(byte, shape): (&u8, &u8)| if *shape == b'0' { byte.is_ascii_digit() } else { byte == shape };
    if bytes.len() != shape.len() || !bytes.iter().zip(shape).all(fits) {
        return false;
    }
    let two = |at: usize| (bytes[at] - b'0') * 10 + (bytes[at + 1] - b'0');
    let (century, month, day) = (two(0), two(5), two(8));
    let (hour, minute, second) = (two(11), two(14), two(17));
    century > 0
        && (1..=12).contains(&month)
        && (1..=28).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::codec::{FieldValidation, check_text};
    use crate::schema::{self, type_of};

    #[track_caller]
    fn looked_at(mut change: impl FnMut(&mut Value)) -> bool {
        let ty = type_of("", "v1", "Pod").expect("pods are in the table");
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "a", "labels": {"app": "a"}, "creationTimestamp": "2026-01-28T23:59:59Z",
                "managedFields": [{
                    "manager": "m", "operation": "Update", "apiVersion": "v1", "time": "2026-01-31T00:00:00Z",
                    "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {".": {}}},
                }],
            },
            "spec": {
                "containers": [{
                    "name": "c", "image": "i", "ports": [{"containerPort": 80}],
                    "resources": {"limits": {"cpu": "100m", "memory": "64Mi"}},
                    "livenessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 5},
                }],
                "terminationGracePeriodSeconds": 0,
            },
            "status": {},
        });
        change(&mut pod);
        let canonical = is_canonical(&pod, ty);
        let read = check_text(&pod, ty, FieldValidation::Strict).map(|decoded| decoded.object);
        assert!(!canonical || read == Ok(pod), "taken as it is, and read as {read:?}");
        canonical
    }

    #[test]
    fn only_what_would_be_read_the_same_is_taken_as_it_is() {
        assert!(looked_at(|_| {}));
        let container =
            |pod: &mut Value, name: &str, value: Value| pod["spec"]["containers"][0][name] = value;
        for value in [json!(null), json!(""), json!(5), json!({})] {
            assert!(!looked_at(|pod| container(pod, "image", value.clone())), "{value}");
        }
        assert!(!looked_at(|pod| container(pod, "unknown", json!(1))));
        assert!(!looked_at(|pod| container(pod, "stdin", json!(false))));
        assert!(!looked_at(|pod| container(pod, "ports", json!([{"containerPort": 1_u64 << 40}]))));
        assert!(!looked_at(|pod| container(pod, "resources", json!({"limits": {"cpu": "0.1"}}))));
        for time in ["2026-02-30T00:00:00Z", "2026-01-01T00:00:00+01:00", "yesterday"] {
            assert!(!looked_at(|pod| pod["metadata"]["creationTimestamp"] = json!(time)), "{time}");
        }
        assert!(!looked_at(|pod| pod["metadata"]["managedFields"][0]["fieldsV1"] = json!(u64::MAX)));
        assert!(!looked_at(|pod| {
            pod.as_object_mut().expect("a pod").remove("status");
        }));
    }

    #[test]
    fn what_go_always_writes_may_be_null() {
        let ty = type_of("rbac.authorization.k8s.io", "v1", "Role").expect("roles are in the table");
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {}, "rules": null});
        assert!(is_canonical(&role, ty));
        let read = check_text(&role, ty, FieldValidation::Strict).map(|decoded| decoded.object);
        assert_eq!(read, Ok(role));
    }

    #[test]
    fn no_type_that_contains_itself_is_followed_for_ever() {
        let ty = schema::by_name("apiextensions.v1.JSONSchemaProps").expect("it is in the table");
        let mut schema = json!({"type": "object"});
        for _ in 0..100 {
            schema = json!({"not": schema});
        }
        assert!(!is_canonical(&schema, ty));
    }
}
