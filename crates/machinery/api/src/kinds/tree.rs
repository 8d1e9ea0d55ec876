//! Reading and filling JSON trees whose shape the schema has already checked.
//!
//! Readers answer with the zero value where a field is absent, as Go structs do; nothing here panics on a wrong shape.

use serde_json::{Map, Value};

/// A text field; empty when absent.
pub(crate) fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A number; zero when absent.
pub(crate) fn int(object: &Value, name: &str) -> i64 {
    opt_int(object, name).unwrap_or(0)
}

/// A number, if present.
pub(crate) fn opt_int(object: &Value, name: &str) -> Option<i64> {
    object.get(name).and_then(Value::as_i64)
}

/// A flag; false when absent.
pub(crate) fn flag(object: &Value, name: &str) -> bool {
    object.get(name).and_then(Value::as_bool).unwrap_or(false)
}

/// A list; empty when absent.
pub(crate) fn list<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    object.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The entries of a map; none when absent.
pub(crate) fn entries<'a>(
    object: &'a Value,
    name: &str,
) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
    object.get(name).and_then(Value::as_object).into_iter().flatten().map(|(k, v)| (k.as_str(), v))
}

/// Whether a field is there and not null.
pub(crate) fn has(object: &Value, name: &str) -> bool {
    object.get(name).is_some_and(|v| !v.is_null())
}

/// Whether a field is absent, null, or an empty text, list or map.
pub(crate) fn is_empty(object: &Value, name: &str) -> bool {
    match object.get(name) {
        None | Some(Value::Null) => true,
        Some(Value::String(s)) => s.is_empty(),
        Some(Value::Array(a)) => a.is_empty(),
        Some(Value::Object(m)) => m.is_empty(),
        Some(_) => false,
    }
}

/// A field as a value; null when absent.
pub(crate) fn value<'a>(object: &'a Value, name: &str) -> &'a Value {
    object.get(name).unwrap_or(&Value::Null)
}

/// The field as a mutable tree, if it is there.
pub(crate) fn child<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    object.get_mut(name).filter(|v| !v.is_null())
}

/// The field as a map, made if absent. `None` if the object is no map.
pub(crate) fn ensure_map<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    let map = object.as_object_mut()?;
    let entry = map.entry(name).or_insert(Value::Null);
    if entry.is_null() {
        *entry = Value::Object(Map::new());
    }
    Some(entry)
}

/// The items of a list field, to be changed.
pub(crate) fn items_mut<'a>(object: &'a mut Value, name: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Sets a field of a map.
pub(crate) fn set(object: &mut Value, name: &str, new: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        map.insert(name.to_owned(), new.into());
    }
}

/// Removes a field of a map.
pub(crate) fn remove(object: &mut Value, name: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(name);
    }
}

/// Sets a field that is absent or null.
pub(crate) fn default(object: &mut Value, name: &str, new: impl Into<Value>) {
    if !has(object, name) {
        set(object, name, new);
    }
}

/// Sets a text field that is absent or empty.
pub(crate) fn default_text(object: &mut Value, name: &str, new: &str) {
    if text(object, name).is_empty() {
        set(object, name, new);
    }
}

/// Sets a number that is absent or zero.
pub(crate) fn default_int(object: &mut Value, name: &str, new: i64) {
    if int(object, name) == 0 {
        set(object, name, new);
    }
}

/// Makes a field of `new` what it is in `old`: the same value, or absent.
pub(crate) fn carry(new: &mut Value, old: &Value, name: &str) {
    match old.get(name) {
        Some(value) => set(new, name, value.clone()),
        None => remove(new, name),
    }
}

/// Whether two values mean the same: absent, null and empty lists are alike, at every depth. An empty object is a struct that
/// was given without its fields, which differs from none: empty maps are not written.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(k, v)| same(v, b.get(k).unwrap_or(&Value::Null)))
                && b.iter().all(|(k, v)| a.contains_key(k) || nothing(v))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(x, y)| same(x, y)),
        (a, b) => a == b || nothing(a) && nothing(b),
    }
}

fn nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}
