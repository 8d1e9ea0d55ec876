//! Objects as apply sees them: which values are one unit, which lists are sets, which have keys.
//!
//! Source: structured-merge-diff's `typed` package over upstream's `x-kubernetes-list-type` and `-map-type`; here the
//! schema table says the same.

mod compare;

use serde_json::Value;

pub(super) use self::compare::{Comparison, compare, field_set};
use super::field_set::{self, Below, FieldSet};
use crate::quantity::Quantity;
use crate::schema::{Field, Kind, ListType, Shape, TypeId};

/// How a value is taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) enum Node {
    /// An object with known fields.
    Struct(TypeId),
    /// A map whose entries are owned one by one.
    Map(&'static Field),
    /// A list of scalars without order.
    Set,
    /// A list of objects with key fields.
    Keyed(&'static Field),
    /// One unit.
    Leaf,
}

impl Node {
    fn of(field: &'static Field) -> Node {
        match (field.shape, field.list_type()) {
            (Shape::One, _) if field.is_atomic() => Node::Leaf,
            (Shape::One, _) => Node::of_kind(field.kind),
            (Shape::List, ListType::Set) => Node::Set,
            (Shape::List, ListType::Map) => Node::Keyed(field),
            (Shape::List, _) => Node::Leaf,
            (Shape::Map, _) if field.is_atomic() => Node::Leaf,
            (Shape::Map, _) => Node::Map(field),
        }
    }

    fn of_kind(kind: Kind) -> Node {
        match kind {
            Kind::Object(ty) if !ty.get().atomic => Node::Struct(ty),
            _ => Node::Leaf,
        }
    }

    fn is_leaf(self) -> bool {
        matches!(self, Node::Leaf)
    }

    /// The element of one item of a list.
    fn item_element(self, item: &Value) -> String {
        match self {
            Node::Keyed(field) => keys_of(field, item),
            _ => format!("v:{item}"),
        }
    }

    /// How a member of an object of this node is taken apart.
    fn member(self, name: &str) -> Node {
        match self {
            Node::Struct(ty) => ty.field(name).map_or(Node::Leaf, Node::of),
            Node::Map(field) => Node::of_kind(field.kind),
            _ => Node::Leaf,
        }
    }

    /// How an item of a list of this node is taken apart.
    fn item(self) -> Node {
        match self {
            Node::Keyed(field) => Node::of_kind(field.kind),
            _ => Node::Leaf,
        }
    }
}

/// `k:{"name":"a"}`: absent keys have their default, and keys are in the order of their names.
fn keys_of(field: &'static Field, item: &Value) -> String {
    let mut text = String::from("k:{");
    for (index, key) in sorted_keys(field).iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push('"');
        text.push_str(key);
        text.push_str("\":");
        match item.get(*key) {
            Some(value) => write_value(&mut text, value),
            None => text.push_str(key_default(field, key).unwrap_or("null")),
        }
    }
    text.push('}');
    text
}

fn sorted_keys(field: &'static Field) -> std::borrow::Cow<'static, [&'static str]> {
    let keys = field.list_map_keys();
    if keys.is_sorted() {
        return keys.into();
    }
    let mut keys = keys.to_vec();
    keys.sort_unstable();
    keys.into()
}

/// A scalar as JSON. Names rarely need escaping, which is what costs.
fn write_value(text: &mut String, value: &Value) {
    match value {
        Value::String(plain) if plain.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') => {
            text.push('"');
            text.push_str(plain);
            text.push('"');
        }
        Value::Number(number) => text.push_str(&number.to_string()),
        other => text.push_str(&other.to_string()),
    }
}

fn key_default(field: &'static Field, key: &str) -> Option<&'static str> {
    let Kind::Object(ty) = field.kind else { return None };
    ty.field(key)?.default_json()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => true,
    }
}

/// Merges an applied configuration into a live value. Items that only the live list has keep their place; the others
/// follow the order of the configuration.
pub(super) fn merge(node: Node, live: &Value, config: &Value) -> Value {
    match (node, config) {
        (Node::Struct(_) | Node::Map(_), Value::Object(config)) => {
            let mut merged = live.as_object().cloned().unwrap_or_default();
            for (name, value) in config {
                let value = merge(node.member(name), merged.get(name).unwrap_or(&Value::Null), value);
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Node::Set | Node::Keyed(_), Value::Array(items)) => {
            let live = live.as_array().map(Vec::as_slice).unwrap_or_default();
            let child = node.item();
            let in_config: Vec<String> = items.iter().map(|item| node.item_element(item)).collect();
            let in_live: Vec<String> = live.iter().map(|item| node.item_element(item)).collect();
            let mut merged = Vec::with_capacity(live.len() + items.len());
            let mut next = 0;
            for (element, item) in in_config.iter().zip(items) {
                let place = in_live.iter().position(|l| l == element);
                // Live-only items before this one's place come first.
                let until = place.unwrap_or(next).max(next);
                merged.extend(
                    (next..until).filter(|i| !in_config.contains(&in_live[*i])).map(|i| live[i].clone()),
                );
                next = until.max(next);
                merged.push(merge(child, place.map_or(&Value::Null, |i| &live[i]), item));
            }
            let rest = (next..live.len()).filter(|i| !in_config.contains(&in_live[*i]));
            merged.extend(rest.map(|i| live[i].clone()));
            Value::Array(merged)
        }
        _ => config.clone(),
    }
}

/// Takes out of a value what `last` has and nobody owns any more.
pub(super) fn prune(node: Node, value: &mut Value, last: &FieldSet, owned: &FieldSet) {
    prune_part(node, value, last.view(), owned.view(), &[]);
}

/// `keys` are the key fields of the item that `value` is: an item without them would be another.
fn prune_part(node: Node, value: &mut Value, last: Below<'_>, owned: Below<'_>, keys: &[&str]) {
    for (element, _, was) in last.children() {
        let is_key = element.strip_prefix("f:").is_some_and(|name| keys.contains(&name));
        match owned.get(element) {
            None if is_key => {}
            None => remove_part(node, value, element),
            Some((member, still)) if !was.is_empty() => {
                let Some((child, part)) = part_mut(node, value, element) else { continue };
                let had_content = !is_empty(part);
                let keys = match node {
                    Node::Keyed(field) => field.list_map_keys(),
                    _ => &[],
                };
                prune_part(child, part, was, still, keys);
                if had_content && is_empty(part) && !member {
                    remove_part(node, value, element);
                }
            }
            Some(_) => {}
        }
    }
}

fn remove_part(node: Node, value: &mut Value, element: &str) {
    match value {
        Value::Object(map) => drop(map.remove(element.get(2..).unwrap_or_default())),
        Value::Array(items) => items.retain(|item| node.item_element(item) != element),
        _ => {}
    }
}

fn part_mut<'a>(node: Node, value: &'a mut Value, element: &str) -> Option<(Node, &'a mut Value)> {
    match (node, value) {
        (Node::Struct(ty), Value::Object(map)) => {
            let name = element.strip_prefix("f:")?;
            Some((ty.field(name).map_or(Node::Leaf, Node::of), map.get_mut(name)?))
        }
        (Node::Map(field), Value::Object(map)) => {
            Some((Node::of_kind(field.kind), map.get_mut(element.strip_prefix("f:")?)?))
        }
        (Node::Keyed(field), Value::Array(items)) => {
            let item = items.iter_mut().find(|item| keys_of(field, item) == element)?;
            Some((Node::of_kind(field.kind), item))
        }
        _ => None,
    }
}

/// Checks a configuration that is to be applied, and brings its quantities into canonical form, so that they compare
/// equal to live ones.
pub(super) fn check(node: Node, value: &mut Value, path: &str, errors: &mut Vec<String>) {
    match (node, value) {
        (_, Value::Null) => {}
        (Node::Struct(ty), Value::Object(map)) => {
            for (name, value) in map {
                let path = format!("{path}.{name}");
                match ty.field(name) {
                    Some(field) if Node::of(field).is_leaf() => check_leaf(field, value, &path, errors),
                    Some(field) => check(Node::of(field), value, &path, errors),
                    None => errors.push(format!("{path}: field not declared in schema")),
                }
            }
        }
        (Node::Map(field), Value::Object(map)) => {
            for (name, value) in map {
                let path = format!("{path}.{name}");
                match Node::of_kind(field.kind) {
                    Node::Leaf => check_value(field, value, &path, errors),
                    child => check(child, value, &path, errors),
                }
            }
        }
        (Node::Set | Node::Keyed(_), Value::Array(items)) => {
            let mut seen: Vec<String> = Vec::new();
            for (index, item) in items.iter_mut().enumerate() {
                if let Node::Keyed(field) = node {
                    let missing = field
                        .list_map_keys()
                        .iter()
                        .find(|key| item.get(**key).is_none() && key_default(field, key).is_none());
                    if let Some(key) = missing {
                        errors.push(format!(
                            "{path}: element {index}: associative list with keys has an element that omits key field {key:?}"
                        ));
                        continue;
                    }
                }
                let element = node.item_element(item);
                let shown = field_set::shown(&element);
                if seen.contains(&element) {
                    errors.push(format!("{path}: duplicate entries for key {shown}"));
                }
                seen.push(element);
                if let Node::Keyed(field) = node {
                    check(Node::of_kind(field.kind), item, &format!("{path}{shown}"), errors);
                }
            }
        }
        (Node::Struct(_) | Node::Map(_), other) => {
            errors.push(format!("{path}: expected map, got {}", go_value(other)));
        }
        (Node::Set | Node::Keyed(_), other) => {
            errors.push(format!("{path}: expected list, got {}", go_value(other)));
        }
        (Node::Leaf, _) => {}
    }
}

/// A value that is one unit; lists and maps may be such.
fn check_leaf(field: &'static Field, value: &mut Value, path: &str, errors: &mut Vec<String>) {
    match (field.shape, value) {
        (Shape::One, value) => check_value(field, value, path, errors),
        (Shape::List, Value::Array(items)) => {
            for (index, item) in items.iter_mut().enumerate() {
                check_value(field, item, &format!("{path}[{index}]"), errors);
            }
        }
        (Shape::Map, Value::Object(map)) => {
            for (name, value) in map {
                check_value(field, value, &format!("{path}.{name}"), errors);
            }
        }
        (_, Value::Null) => {}
        (Shape::List, other) => errors.push(format!("{path}: expected list, got {}", go_value(other))),
        (Shape::Map, other) => errors.push(format!("{path}: expected map, got {}", go_value(other))),
    }
}

fn check_value(field: &'static Field, value: &mut Value, path: &str, errors: &mut Vec<String>) {
    let expected = match (field.kind, &*value) {
        (_, Value::Null) => return,
        (Kind::Object(ty), _) => return check(Node::Struct(ty), value, path, errors),
        (Kind::Bool, Value::Bool(_)) => return,
        (Kind::Bool, _) => "boolean",
        (Kind::Int32 | Kind::Int64 | Kind::Double, Value::Number(_)) => return,
        (Kind::Int32 | Kind::Int64 | Kind::Double, _) => "numeric (int or float)",
        (Kind::Quantity, Value::String(_) | Value::Number(_)) => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            match text.parse::<Quantity>() {
                Ok(quantity) => *value = Value::String(quantity.to_string()),
                Err(error) => errors.push(format!("{path}: {error}")),
            }
            return;
        }
        (Kind::IntOrString, Value::String(_) | Value::Number(_)) => return,
        (Kind::String | Kind::Bytes | Kind::Time | Kind::MicroTime, Value::String(_)) => return,
        (
            Kind::String | Kind::Bytes | Kind::Time | Kind::MicroTime | Kind::Quantity | Kind::IntOrString,
            _,
        ) => "string",
        _ => return,
    };
    errors.push(format!("{path}: expected {expected}, got {}", go_value(value)));
}

/// A value as upstream's typed errors show it: `&{foo}` for text, `&{map[...]}` and so on.
fn go_value(value: &Value) -> String {
    format!("&{{{}}}", super::go_format(value))
}
