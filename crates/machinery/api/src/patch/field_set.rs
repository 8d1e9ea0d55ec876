//! Sets of field paths: what a manager owns. They are kept in the form they have on the wire, `FieldsV1`, so that a set
//! that a write does not touch is never rebuilt.
//!
//! Elements: `f:name` a field, `k:{"name":"a"}` an item by its keys, `v:"x"` an item by its value, `i:0` an item by its
//! place. A member with members below it has an entry `.` of its own; one without is an empty object.

use serde_json::{Map, Value};

/// A set of paths, as a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSet(Map<String, Value>);

const SELF: &str = ".";

/// Whether the path that ends at an element with this below it is in the set.
fn is_member(below: &Value) -> bool {
    below.as_object().is_none_or(|map| map.is_empty() || map.contains_key(SELF))
}

impl FieldSet {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts an element in, unless it says nothing: whether its path is a member, and the paths that go on.
    pub(super) fn put(&mut self, element: String, member: bool, below: FieldSet) {
        let mut below = below.0;
        if below.is_empty() && !member {
            return;
        }
        if member && !below.is_empty() {
            below.insert(SELF.to_owned(), Value::Object(Map::new()));
        }
        self.0.insert(element, Value::Object(below));
    }

    /// The set as a view.
    pub(super) fn view(&self) -> Below<'_> {
        Below(&self.0)
    }

    /// The set of a `FieldsV1` value that we wrote ourselves.
    pub(super) fn from_own(value: Value) -> Self {
        match value {
            Value::Object(mut map) => {
                map.remove(SELF);
                FieldSet(map)
            }
            _ => FieldSet::default(),
        }
    }

    /// The set of a `FieldsV1` value of a client, in the form we write; `None` if an element is not one.
    pub(super) fn from_wire(value: &Value) -> Option<Self> {
        let mut set = FieldSet::default();
        for (element, below) in value.as_object().into_iter().flat_map(Map::iter) {
            if element != SELF {
                set.put(normal(element)?, is_member(below), FieldSet::from_wire(below)?);
            }
        }
        Some(set)
    }

    /// The set as a `FieldsV1` value.
    pub(super) fn into_wire(self) -> Value {
        Value::Object(self.0)
    }

    /// Takes in the members of another set.
    pub(super) fn add(&mut self, other: &FieldSet) {
        add(&mut self.0, &other.0);
    }

    /// Takes the members of another set out.
    pub(super) fn subtract(&mut self, other: &FieldSet) {
        subtract(&mut self.0, &other.0);
    }

    /// The members that both sets have.
    pub(super) fn intersection(&self, other: &FieldSet) -> FieldSet {
        intersect(self.view(), other.view())
    }

    /// Whether a path of fields is a member.
    pub(super) fn contains(&self, path: &[&str]) -> bool {
        let Some((last, above)) = path.split_last() else { return false };
        let mut set = &self.0;
        for name in above {
            let Some(below) = field(set, name).and_then(Value::as_object) else { return false };
            set = below;
        }
        field(set, last).is_some_and(is_member)
    }

    /// Takes out a path of fields and all that goes on from it.
    pub(super) fn remove_below(&mut self, path: &[&str]) {
        remove(&mut self.0, path, true);
    }

    /// Takes out one path of fields, but not what goes on from it.
    pub(super) fn remove_member(&mut self, path: &[&str]) {
        remove(&mut self.0, path, false);
    }

    /// The members as upstream shows paths: `.spec.containers[name="a"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        collect(self.view(), &mut String::new(), &mut paths);
        paths
    }
}

/// Part of a set: what goes on below one element.
#[derive(Clone, Copy, Debug)]
pub(super) struct Below<'a>(&'a Map<String, Value>);

impl<'a> Below<'a> {
    pub(super) fn is_empty(self) -> bool {
        self.0.keys().all(|key| key == SELF)
    }

    pub(super) fn children(self) -> impl Iterator<Item = (&'a str, bool, Below<'a>)> {
        let elements = self.0.iter().filter(|(element, _)| *element != SELF);
        elements.filter_map(|(element, below)| {
            Some((element.as_str(), is_member(below), Below(below.as_object()?)))
        })
    }

    pub(super) fn get(self, element: &str) -> Option<(bool, Below<'a>)> {
        let below = self.0.get(element)?;
        Some((is_member(below), Below(below.as_object()?)))
    }
}

fn intersect(ours: Below<'_>, theirs: Below<'_>) -> FieldSet {
    let mut both = FieldSet::default();
    for (element, member, below) in ours.children() {
        if let Some((also, theirs)) = theirs.get(element) {
            both.put(element.to_owned(), member && also, intersect(below, theirs));
        }
    }
    both
}

fn add(ours: &mut Map<String, Value>, theirs: &Map<String, Value>) {
    for (element, theirs) in theirs {
        let Some(mine) = ours.get_mut(element).and_then(Value::as_object_mut) else {
            if element != SELF {
                ours.insert(element.clone(), theirs.clone());
            }
            continue;
        };
        let Value::Object(below) = theirs else { continue };
        let member = mine.is_empty() || mine.contains_key(SELF) || is_member(theirs);
        add(mine, below);
        if member && !mine.is_empty() {
            mine.insert(SELF.to_owned(), Value::Object(Map::new()));
        }
    }
}

fn subtract(ours: &mut Map<String, Value>, theirs: &Map<String, Value>) {
    for (element, theirs) in theirs {
        if element == SELF {
            continue;
        }
        let Some(mine) = ours.get_mut(element).and_then(Value::as_object_mut) else { continue };
        let member = mine.is_empty() || mine.remove(SELF).is_some();
        if let Value::Object(below) = theirs {
            subtract(mine, below);
        }
        if !settle(mine, member && !is_member(theirs)) {
            ours.remove(element);
        }
    }
}

/// Brings what is below an element into its form again, after `.` was taken out of it and the rest changed. Whether the
/// element still says anything.
fn settle(below: &mut Map<String, Value>, member: bool) -> bool {
    if member && !below.is_empty() {
        below.insert(SELF.to_owned(), Value::Object(Map::new()));
    }
    member || !below.is_empty()
}

/// Whether an element is the field of this name. Fields are looked for by comparing, because every write does it: the
/// text of an element would be made only to be thrown away, and the paths that are asked for are near the root, where
/// few elements are.
fn is_field(element: &str, name: &str) -> bool {
    element.strip_prefix("f:") == Some(name)
}

fn field<'a>(set: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    set.iter().find(|(element, _)| is_field(element, name)).map(|(_, below)| below)
}

fn remove(set: &mut Map<String, Value>, path: &[&str], and_below: bool) {
    let Some((first, rest)) = path.split_first() else { return };
    set.retain(|element, below| {
        if !is_field(element, first) {
            return true;
        }
        if rest.is_empty() && and_below {
            return false;
        }
        let Some(mine) = below.as_object_mut() else { return true };
        let member = mine.is_empty() || mine.remove(SELF).is_some();
        remove(mine, rest, and_below);
        settle(mine, member && !rest.is_empty())
    });
}

fn collect(set: Below<'_>, prefix: &mut String, paths: &mut Vec<String>) {
    for (element, member, below) in set.children() {
        let length = prefix.len();
        prefix.push_str(&shown(element));
        if member {
            paths.push(prefix.clone());
        }
        collect(below, prefix, paths);
        prefix.truncate(length);
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

/// An element as upstream shows it in a path.
pub(super) fn shown(element: &str) -> String {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(wire: &Value) -> FieldSet {
        FieldSet::from_wire(wire).expect("a set")
    }

    #[test]
    fn sets_are_combined_in_their_wire_form() {
        let a = set(&json!({"f:a": {}, "f:b": {".": {}, "f:c": {}}, "f:d": {"f:e": {}}}));
        let b = set(&json!({"f:a": {"f:x": {}}, "f:b": {"f:c": {}}, "f:d": {"f:e": {}}}));
        let mut both = a.clone();
        both.add(&b);
        assert_eq!(
            both.clone().into_wire(),
            json!({"f:a": {".": {}, "f:x": {}}, "f:b": {".": {}, "f:c": {}}, "f:d": {"f:e": {}}})
        );
        let mut less = both;
        less.subtract(&b);
        assert_eq!(less.into_wire(), json!({"f:a": {}, "f:b": {}}));
        assert_eq!(a.intersection(&b).into_wire(), json!({"f:b": {"f:c": {}}, "f:d": {"f:e": {}}}));
        assert_eq!(a.paths(), [".a", ".b", ".b.c", ".d.e"]);
        assert!(a.contains(&["b"]) && a.contains(&["d", "e"]) && !a.contains(&["d"]));
        let mut fewer = a;
        fewer.remove_member(&["b"]);
        fewer.remove_below(&["d", "e"]);
        assert_eq!(fewer.into_wire(), json!({"f:a": {}, "f:b": {"f:c": {}}}));
    }

    #[test]
    fn a_clients_elements_are_brought_into_our_form() {
        let sent = set(&json!({"f:l": {"k:{\"b\": 1,\"a\":\"x\"}": {".": {}}, "v: \"q\"": {}}}));
        assert_eq!(sent.clone().into_wire(), json!({"f:l": {"k:{\"a\":\"x\",\"b\":1}": {}, "v:\"q\"": {}}}));
        assert_eq!(sent.paths(), [r#".l[a="x",b=1]"#, r#".l[="q"]"#]);
        assert_eq!(FieldSet::from_wire(&json!({"x:y": {}})), None);
    }
}
