//! Sets of field paths: what a manager owns. On the wire they are `FieldsV1`.
//!
//! Elements are kept as they are written there: `f:name` a field, `k:{"name":"a"}` an item by its keys, `v:"x"` an item
//! by its value, `i:0` an item by its place. A member with members below it has an entry `.` of its own.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A set of paths, as a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    pub(super) children: BTreeMap<String, Entry>,
}

/// One element of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// Whether the path that ends here is in the set.
    pub(super) member: bool,
    /// The paths that go on.
    pub(super) below: FieldSet,
}

impl Entry {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl FieldSet {
    pub(super) fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    /// Puts an entry in, unless it says nothing.
    pub(super) fn put(&mut self, element: String, entry: Entry) {
        if !entry.is_empty() {
            self.children.insert(element, entry);
        }
    }

    /// The set of a `FieldsV1` value; elements that are not understood are left out.
    pub(super) fn from_wire(value: &Value) -> Self {
        let mut set = FieldSet::default();
        for (element, below) in value.as_object().into_iter().flat_map(Map::iter) {
            let Some(element) = normal(element) else { continue };
            let object = below.as_object();
            let member = object.is_none_or(|o| o.is_empty() || o.contains_key("."));
            set.put(element, Entry { member, below: FieldSet::from_wire(below) });
        }
        set
    }

    /// The set as a `FieldsV1` value.
    pub(super) fn to_wire(&self) -> Value {
        let entries = self.children.iter().map(|(element, entry)| {
            let mut below = entry.below.to_wire();
            if let (true, false, Value::Object(map)) = (entry.member, entry.below.is_empty(), &mut below) {
                map.insert(".".to_owned(), Value::Object(Map::new()));
            }
            (element.clone(), below)
        });
        Value::Object(entries.collect())
    }

    pub(super) fn union(&self, other: &FieldSet) -> FieldSet {
        let mut united = self.clone();
        for (element, theirs) in &other.children {
            let ours = united.children.entry(element.clone()).or_default();
            ours.member |= theirs.member;
            ours.below = ours.below.union(&theirs.below);
        }
        united
    }

    /// The members that the other set does not have.
    pub(super) fn difference(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |ours, theirs| ours && !theirs, FieldSet::difference)
    }

    /// The members that both sets have.
    pub(super) fn intersection(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, |ours, theirs| ours && theirs, FieldSet::intersection)
    }

    fn combine(
        &self,
        other: &FieldSet,
        member: fn(bool, bool) -> bool,
        below: fn(&FieldSet, &FieldSet) -> FieldSet,
    ) -> FieldSet {
        let nothing = Entry::default();
        let mut combined = FieldSet::default();
        for (element, ours) in &self.children {
            let theirs = other.children.get(element).unwrap_or(&nothing);
            let entry = Entry {
                member: member(ours.member, theirs.member),
                below: below(&ours.below, &theirs.below),
            };
            combined.put(element.clone(), entry);
        }
        combined
    }

    /// Takes out a path of fields and all that goes on from it.
    pub(super) fn remove_below(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        let element = format!("f:{first}");
        if rest.is_empty() {
            self.children.remove(&element);
        } else if let Some(entry) = self.children.get_mut(&element) {
            entry.below.remove_below(rest);
            if entry.is_empty() {
                self.children.remove(&element);
            }
        }
    }

    /// Takes out one path of fields, but not what goes on from it.
    pub(super) fn remove_member(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        let element = format!("f:{first}");
        if let Some(entry) = self.children.get_mut(&element) {
            match rest {
                [] => entry.member = false,
                _ => entry.below.remove_member(rest),
            }
            if entry.is_empty() {
                self.children.remove(&element);
            }
        }
    }

    /// The members as upstream shows paths: `.spec.containers[name="a"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(&mut String::new(), &mut paths);
        paths
    }

    fn collect(&self, prefix: &mut String, paths: &mut Vec<String>) {
        for (element, entry) in &self.children {
            let length = prefix.len();
            prefix.push_str(&shown(element));
            if entry.member {
                paths.push(prefix.clone());
            }
            entry.below.collect(prefix, paths);
            prefix.truncate(length);
        }
    }
}

/// An element in the form we write it in, so that equal elements are equal texts.
fn normal(element: &str) -> Option<String> {
    match element.split_at_checked(2)? {
        ("f:", _) => Some(element.to_owned()),
        (kind @ ("k:" | "v:" | "i:"), json) => {
            let value: Value = serde_json::from_str(json).ok()?;
            Some(format!("{kind}{value}"))
        }
        _ => None,
    }
}

fn shown(element: &str) -> String {
    let (kind, rest) = element.split_at(element.len().min(2));
    match kind {
        "f:" => format!(".{rest}"),
        "v:" => format!("[={rest}]"),
        "k:" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        _ => format!("[{rest}]"),
    }
}
