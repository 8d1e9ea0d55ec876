//! Objects as apply sees them: which values are one unit, which lists are sets, which have keys.
//!
//! Source: structured-merge-diff's `typed` package over upstream's `x-kubernetes-list-type` and `-map-type`; here the
//! schema table says the same.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::field_set::{Entry, FieldSet};
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

    /// The parts of a value with their path elements. A value that does not fit the node has none.
    fn parts(self, value: &Value) -> Vec<(String, &Value, Node)> {
        match (self, value) {
            (Node::Struct(ty), Value::Object(map)) => map
                .iter()
                .map(|(name, value)| {
                    (format!("f:{name}"), value, ty.field(name).map_or(Node::Leaf, Node::of))
                })
                .collect(),
            (Node::Map(field), Value::Object(map)) => {
                let item = Node::of_kind(field.kind);
                map.iter().map(|(name, value)| (format!("f:{name}"), value, item)).collect()
            }
            (Node::Set, Value::Array(items)) => {
                items.iter().map(|item| (format!("v:{item}"), item, Node::Leaf)).collect()
            }
            (Node::Keyed(field), Value::Array(items)) => {
                let node = Node::of_kind(field.kind);
                items.iter().map(|item| (keys_of(field, item), item, node)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The element of one item of a list.
    fn item_element(self, item: &Value) -> String {
        match self {
            Node::Keyed(field) => keys_of(field, item),
            _ => format!("v:{item}"),
        }
    }
}

/// `k:{"name":"a"}`: absent keys have their default.
fn keys_of(field: &'static Field, item: &Value) -> String {
    let keys: Map<String, Value> = field
        .list_map_keys()
        .iter()
        .map(|key| {
            (
                (*key).to_owned(),
                item.get(*key).cloned().or_else(|| key_default(field, key)).unwrap_or(Value::Null),
            )
        })
        .collect();
    format!("k:{}", Value::Object(keys))
}

fn key_default(field: &'static Field, key: &str) -> Option<Value> {
    let Kind::Object(ty) = field.kind else { return None };
    serde_json::from_str(ty.field(key)?.default_json()?).ok()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => true,
    }
}

/// The paths that whoever wrote this object owns.
pub(super) fn field_set(node: Node, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    for (element, value, child) in node.parts(value) {
        let entry = if child.is_leaf() || is_empty(value) {
            Entry { member: true, below: FieldSet::default() }
        } else {
            // Named fields are there by their type; items are owned themselves.
            let member = !matches!(node, Node::Struct(_));
            Entry { member, below: field_set(child, value) }
        };
        set.put(element, entry);
    }
    set
}

/// How two objects differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

impl Comparison {
    /// Leaves out what this request cannot change.
    pub(super) fn without(mut self, reset: &[&[&str]]) -> Self {
        for path in reset {
            self.added.remove_below(path);
            self.modified.remove_below(path);
            self.removed.remove_below(path);
        }
        self
    }

    pub(super) fn changed(&self) -> FieldSet {
        self.added.union(&self.modified)
    }
}

/// Compares two values; the order of sets and keyed lists does not matter.
pub(super) fn compare(node: Node, old: &Value, new: &Value) -> Comparison {
    let mut before: BTreeMap<String, (&Value, Node)> =
        node.parts(old).into_iter().map(|(element, value, child)| (element, (value, child))).collect();
    let mut result = Comparison::default();
    for (element, value, child) in node.parts(new) {
        let (old, _) = match before.remove(&element) {
            Some(found) => found,
            // Go has such a list or map even when it is empty, so that it is not itself new.
            None if always_there(node, &element) => (&Value::Null, child),
            None => {
                result.added.put(element, whole(child, value));
                continue;
            }
        };
        if child.is_leaf() || !(fits(child, old) && fits(child, value)) {
            if old != value {
                result.modified.put(element, Entry { member: true, below: FieldSet::default() });
            }
            continue;
        }
        let below = compare(child, old, value);
        let entry = |below| Entry { member: false, below };
        result.added.put(element.clone(), entry(below.added));
        result.modified.put(element.clone(), entry(below.modified));
        result.removed.put(element, entry(below.removed));
    }
    for (element, (value, child)) in before {
        result.removed.put(element, whole(child, value));
    }
    result
}

fn always_there(node: Node, element: &str) -> bool {
    let Node::Struct(ty) = node else { return false };
    let field = element.strip_prefix("f:").and_then(|name| ty.field(name));
    field.is_some_and(|f| f.shape != Shape::One && !f.omits_empty() && !Node::of(f).is_leaf())
}

fn fits(node: Node, value: &Value) -> bool {
    match node {
        Node::Struct(_) | Node::Map(_) => value.is_object() || value.is_null(),
        Node::Set | Node::Keyed(_) => value.is_array() || value.is_null(),
        Node::Leaf => false,
    }
}

/// A value that only one side has: all of its paths.
fn whole(node: Node, value: &Value) -> Entry {
    let mut below = FieldSet::default();
    for (element, value, child) in node.parts(value) {
        below.put(element, whole(child, value));
    }
    Entry { member: true, below }
}

/// Merges an applied configuration into a live value. Items that only the live list has keep their place; the others
/// follow the order of the configuration.
pub(super) fn merge(node: Node, live: &Value, config: &Value) -> Value {
    match (node, config) {
        (Node::Struct(_) | Node::Map(_), Value::Object(_)) => {
            let mut merged = live.as_object().cloned().unwrap_or_default();
            for (element, value, child) in node.parts(config) {
                let name = &element[2..];
                let value = merge(child, merged.get(name).unwrap_or(&Value::Null), value);
                merged.insert(name.to_owned(), value);
            }
            Value::Object(merged)
        }
        (Node::Set | Node::Keyed(_), Value::Array(items)) => {
            let live = live.as_array().map(Vec::as_slice).unwrap_or_default();
            let child = match node {
                Node::Keyed(field) => Node::of_kind(field.kind),
                _ => Node::Leaf,
            };
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
    prune_part(node, value, last, owned, &[]);
}

/// `keys` are the key fields of the item that `value` is: an item without them would be another.
fn prune_part(node: Node, value: &mut Value, last: &FieldSet, owned: &FieldSet, keys: &[&str]) {
    for (element, was) in &last.children {
        let is_key = element.strip_prefix("f:").is_some_and(|name| keys.contains(&name));
        match owned.children.get(element) {
            None if is_key => {}
            None => remove_part(node, value, element),
            Some(still) if !was.below.is_empty() => {
                let Some((child, part)) = part_mut(node, value, element) else { continue };
                let had_content = !is_empty(part);
                let keys = match node {
                    Node::Keyed(field) => field.list_map_keys(),
                    _ => &[],
                };
                prune_part(child, part, &was.below, &still.below, keys);
                if had_content && is_empty(part) && !still.member {
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
                let mut set = FieldSet::default();
                let element = node.item_element(item);
                set.put(element.clone(), Entry { member: true, below: FieldSet::default() });
                let shown = set.paths().concat();
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
