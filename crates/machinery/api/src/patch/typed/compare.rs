//! What an object says, and how two of them differ, as sets of paths.
//!
//! Every write of every object comes through here, so nothing is allocated for what is equal: maps are walked side by
//! side in the order of their keys, and path elements are made only for what differs.

use std::cmp::Ordering;
use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{Node, is_empty};
use crate::patch::field_set::FieldSet;
use crate::schema::{Field, Shape};

/// The paths that whoever wrote this object owns.
pub(in crate::patch) fn field_set(node: Node, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    let mut put = |element: String, value: &Value, child: Node| {
        if child.is_leaf() || is_empty(value) {
            set.put(element, true, FieldSet::default());
        } else {
            // Named fields are there by their type; items are owned themselves.
            set.put(element, !matches!(node, Node::Struct(_)), field_set(child, value));
        }
    };
    each_part(node, value, &mut put);
    set
}

/// All paths of a value that only one side has.
fn whole(node: Node, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    each_part(node, value, &mut |element, value, child| set.put(element, true, whole(child, value)));
    set
}

/// Calls `take` with each part of a value and its element. A leaf has none, nor has a value that does not fit
/// the node.
fn each_part<'v>(node: Node, value: &'v Value, take: &mut impl FnMut(String, &'v Value, Node)) {
    match (node, value) {
        (Node::Struct(_) | Node::Map(_), Value::Object(map)) => {
            for (name, value) in map {
                take(field_element(name), value, node.member(name));
            }
        }
        (Node::Set | Node::Keyed(_), Value::Array(items)) => {
            for item in items {
                take(node.item_element(item), item, node.item());
            }
        }
        _ => {}
    }
}

fn field_element(name: &str) -> String {
    let mut element = String::with_capacity(name.len() + 2);
    element.push_str("f:");
    element.push_str(name);
    element
}

/// How two objects differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::patch) struct Comparison {
    /// What is new or has another value.
    pub(in crate::patch) changed: FieldSet,
    pub(in crate::patch) removed: FieldSet,
}

impl Comparison {
    /// Leaves out what this request cannot change.
    pub(in crate::patch) fn without(mut self, reset: &[&[&str]]) -> Self {
        for path in reset {
            self.changed.remove_below(path);
            self.removed.remove_below(path);
        }
        self
    }

    fn change(&mut self, element: String) {
        self.changed.put(element, true, FieldSet::default());
    }

    fn add(&mut self, element: String, child: Node, value: &Value) {
        self.changed.put(element, true, whole(child, value));
    }

    fn remove(&mut self, element: String, child: Node, value: &Value) {
        self.removed.put(element, true, whole(child, value));
    }

    /// Takes in how one part differs; `element` is made only if it does.
    fn part(&mut self, child: Node, old: &Value, new: &Value, element: impl FnOnce() -> String) {
        if child.is_leaf() || !(fits(child, old) && fits(child, new)) {
            if old != new {
                self.change(element());
            }
            return;
        }
        let below = compare(child, old, new);
        if below.changed.is_empty() && below.removed.is_empty() {
            return;
        }
        let element = element();
        self.changed.put(element.clone(), false, below.changed);
        self.removed.put(element, false, below.removed);
    }
}

/// Compares two values; the order of sets and keyed lists does not matter. An old value of null is a new object's: it
/// has the structs that are always there.
pub(in crate::patch) fn compare(node: Node, old: &Value, new: &Value) -> Comparison {
    let mut result = Comparison::default();
    match node {
        Node::Struct(_) | Node::Map(_) => {
            let nothing = Map::new();
            let old = old.as_object().unwrap_or(&nothing);
            compare_maps(node, old, new.as_object().unwrap_or(&nothing), &mut result);
        }
        Node::Set | Node::Keyed(_) => {
            let old = old.as_array().map(Vec::as_slice).unwrap_or_default();
            compare_lists(node, old, new.as_array().map(Vec::as_slice).unwrap_or_default(), &mut result);
        }
        Node::Leaf => {}
    }
    result
}

fn compare_maps(node: Node, old: &Map<String, Value>, new: &Map<String, Value>, result: &mut Comparison) {
    let (mut before, mut after) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((was, _)), Some((is, _))) => was.cmp(is),
        };
        match order {
            Ordering::Less => {
                if let Some((name, value)) = before.next() {
                    result.remove(field_element(name), node.member(name), value);
                }
            }
            Ordering::Greater => {
                let Some((name, value)) = after.next() else { return };
                let child = node.member(name);
                if value.is_null() || is_zero(value) && always_written(node, name) {
                    // An old object without it has the same zero.
                } else if always_there(node, name) {
                    result.part(child, &Value::Null, value, || field_element(name));
                } else {
                    result.add(field_element(name), child, value);
                }
            }
            Ordering::Equal => {
                let (Some((name, was)), Some((_, is))) = (before.next(), after.next()) else { return };
                // Most values are scalars and stay: the schema need not be asked about them.
                if !is_scalar(is) || was != is {
                    result.part(node.member(name), was, is, || field_element(name));
                }
            }
        }
    }
}

fn compare_lists(node: Node, old: &[Value], new: &[Value], result: &mut Comparison) {
    let child = node.item();
    // Nearly always the items stand where they stood.
    if old.len() == new.len() && old.iter().zip(new).all(|(was, is)| same_item(node, was, is)) {
        for (was, is) in old.iter().zip(new).filter(|_| !child.is_leaf()) {
            result.part(child, was, is, || node.item_element(is));
        }
        return;
    }
    let mut before: HashMap<String, &Value, ahash::RandomState> =
        old.iter().map(|item| (node.item_element(item), item)).collect();
    for item in new {
        let element = node.item_element(item);
        match before.remove(&element) {
            Some(was) => result.part(child, was, item, || element),
            None => result.add(element, child, item),
        }
    }
    for (element, item) in before {
        result.remove(element, child, item);
    }
}

/// Whether two items are certainly the same one of their list.
fn same_item(node: Node, was: &Value, is: &Value) -> bool {
    match node {
        Node::Keyed(field) => field.list_map_keys().iter().all(|key| was.get(*key) == is.get(*key)),
        _ => was == is,
    }
}

fn is_scalar(value: &Value) -> bool {
    !matches!(value, Value::Object(_) | Value::Array(_))
}

/// Whether Go has such a field even when it is empty, so that it is not itself new: a list or map that is not left out
/// when it is nil, or a struct.
fn always_there(node: Node, name: &str) -> bool {
    let Node::Struct(ty) = node else { return false };
    let Some(index) = ty.field_index(name) else { return false };
    let field: &Field = &ty.fields()[index];
    let list = field.shape != Shape::One && !field.omits_empty() && !Node::of(field).is_leaf();
    list || ty.get().always_written.iter().any(|always| usize::from(*always) == index)
}

/// Whether Go writes a field even when it has its zero value.
fn always_written(node: Node, name: &str) -> bool {
    let Node::Struct(ty) = node else { return false };
    ty.field(name).is_some_and(|field| !field.omits_empty() && !field.is_pointer())
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        _ => false,
    }
}

fn fits(node: Node, value: &Value) -> bool {
    match node {
        Node::Struct(_) | Node::Map(_) => value.is_object() || value.is_null(),
        Node::Set | Node::Keyed(_) => value.is_array() || value.is_null(),
        Node::Leaf => false,
    }
}
