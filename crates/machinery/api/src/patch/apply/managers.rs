//! The entries of `metadata.managedFields`.

use serde_json::{Map, Value, json};

use crate::patch::field_set::FieldSet;
use crate::status::ApiError;

/// Updates by more managers than this are merged, the oldest first.
const MAX_UPDATE_MANAGERS: usize = 10;

/// Whom merged updates are ascribed to.
const ANCIENT: &str = "ancient-changes";

/// How a manager came to own its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// One manager's fields.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
    pub(super) time: String,
    pub(super) set: FieldSet,
}

impl Entry {
    /// Appliers are the same whatever version they used; updaters are told apart by it.
    pub(super) fn is_same_manager(&self, other: &Entry) -> bool {
        self.operation == other.operation
            && self.manager == other.manager
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// The manager as conflicts name it.
    pub(super) fn shown(&self) -> String {
        let mut shown = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            shown.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            shown.push_str(&format!(" using {}", self.api_version));
        }
        shown
    }

    /// An entry of a stored object, which we wrote ourselves.
    fn from_own(mut value: Value) -> Option<Self> {
        let map = value.as_object_mut()?;
        let set = FieldSet::from_own(map.remove("fieldsV1").unwrap_or_default());
        let mut text = |name: &str| match map.remove(name) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        Some(Entry {
            manager: text("manager"),
            operation: if text("operation") == "Apply" { Operation::Apply } else { Operation::Update },
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            set,
        })
    }

    /// An entry that a client sent; `None` if it is not a whole one.
    fn from_sent(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let known = matches!(text("operation"), "Apply" | "Update");
        if !known || text("apiVersion").is_empty() || text("fieldsType") != "FieldsV1" {
            return None;
        }
        let set = FieldSet::from_wire(value.get("fieldsV1").unwrap_or(&Value::Null))?;
        Some(Entry { set, ..Entry::from_own(value.clone())? })
    }

    fn into_wire(self) -> Value {
        let mut entry = Map::new();
        let mut put = |name: &str, value: Value| drop(entry.insert(name.to_owned(), value));
        put("manager", Value::String(self.manager));
        put("operation", Value::from(if self.operation == Operation::Apply { "Apply" } else { "Update" }));
        put("apiVersion", Value::String(self.api_version));
        put("fieldsType", Value::from("FieldsV1"));
        put("fieldsV1", self.set.into_wire());
        for (name, value) in [("time", self.time), ("subresource", self.subresource)] {
            if !value.is_empty() {
                put(name, Value::String(value));
            }
        }
        Value::Object(entry)
    }
}

/// All managers of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Managers(Vec<Entry>);

impl Managers {
    /// The managers of a written object, which are taken out of it: those that the client sent, if they are whole and
    /// may be changed, else those of the stored object.
    pub(super) fn of_written(live: &Value, new: &mut Value, may_send: bool) -> Self {
        let stored = &live["metadata"]["managedFields"];
        match take(new) {
            // A client that writes back what it has read.
            Some(sent) if sent == *stored => Managers::from_own(sent),
            Some(sent) if may_send && is_reset(&sent) => Managers::default(),
            Some(sent) if may_send => Managers::from_sent(&sent)
                .filter(|sent| !sent.is_empty())
                .unwrap_or_else(|| Managers::from_own(stored.clone())),
            _ => Managers::from_own(stored.clone()),
        }
    }

    pub(super) fn from_own(value: Value) -> Self {
        match value {
            Value::Array(entries) => Managers(entries.into_iter().filter_map(Entry::from_own).collect()),
            _ => Managers::default(),
        }
    }

    /// All entries, or none if one of them is not whole.
    fn from_sent(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(Entry::from_sent).collect::<Option<_>>().map(Managers)
    }

    pub(super) fn into_wire(mut self) -> Value {
        self.0.sort_by(|a, b| {
            fn key(e: &Entry) -> (Operation, &str, &str, &str, &str) {
                (e.operation, &e.time, &e.manager, &e.api_version, &e.subresource)
            }
            key(a).cmp(&key(b))
        });
        Value::Array(self.0.into_iter().map(Entry::into_wire).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.0.iter_mut()
    }

    pub(super) fn find_mut(&mut self, manager: &Entry) -> Option<&mut Entry> {
        self.0.iter_mut().find(|e| e.is_same_manager(manager))
    }

    /// Puts an entry in the place of the manager's old one, which is returned.
    pub(super) fn replace(&mut self, entry: Entry) -> Option<Entry> {
        match self.find_mut(&entry) {
            Some(old) => Some(std::mem::replace(old, entry)),
            None => {
                self.0.push(entry);
                None
            }
        }
    }

    /// All that anyone owns by the names of one version.
    pub(super) fn owned_in(&self, api_version: &str) -> FieldSet {
        let mut owned = FieldSet::default();
        self.0
            .iter()
            .filter(|entry| entry.api_version == api_version)
            .for_each(|entry| owned.add(&entry.set));
        owned
    }

    pub(super) fn drop_empty(&mut self) {
        self.0.retain(|e| !e.set.is_empty());
    }

    /// Merges the oldest updates of each version until there are few enough.
    pub(super) fn cap(&mut self) {
        let updates = |entries: &[Entry]| entries.iter().filter(|e| e.operation == Operation::Update).count();
        while updates(&self.0) > MAX_UPDATE_MANAGERS {
            let mut oldest: Vec<usize> =
                (0..self.0.len()).filter(|i| self.0[*i].operation == Operation::Update).collect();
            oldest.sort_by(|a, b| {
                (&self.0[*a].time, &self.0[*a].manager).cmp(&(&self.0[*b].time, &self.0[*b].manager))
            });
            let pair = oldest.iter().enumerate().find_map(|(place, first)| {
                let version = &self.0[*first].api_version;
                let second = oldest[place + 1..].iter().find(|i| self.0[**i].api_version == *version)?;
                Some((*first, *second))
            });
            let Some((first, second)) = pair else { return };
            let older = self.0[first].clone();
            let newer = &mut self.0[second];
            newer.set.add(&older.set);
            newer.manager = ANCIENT.to_owned();
            newer.subresource = String::new();
            self.0.remove(first);
        }
    }

    /// Writes the entries into an object that has none, in upstream's order.
    pub(super) fn write(self, object: &mut Value) {
        if !self.0.is_empty() {
            object["metadata"]["managedFields"] = self.into_wire();
        }
    }
}

/// Takes the managed fields out of an object.
pub(super) fn take(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata").and_then(Value::as_object_mut)?.remove("managedFields")
}

/// Whether a client asks to forget all managers: with no entry, or one empty entry.
fn is_reset(sent: &Value) -> bool {
    match sent.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([Value::Object(entry)]) => entry.is_empty(),
        _ => false,
    }
}

/// The fields that an apply would take from others, by the manager as it is shown.
#[derive(Debug)]
pub(super) struct Conflicts(pub(super) Vec<(String, FieldSet)>);

impl Conflicts {
    /// Leaves out what may be taken.
    pub(super) fn without(&mut self, allowed: &FieldSet) {
        self.0.iter_mut().for_each(|(_, set)| set.subtract(allowed));
        self.0.retain(|(_, set)| !set.is_empty());
    }

    /// 409, with one cause per field and manager.
    pub(super) fn into_error(self) -> ApiError {
        let mut conflicts: Vec<(String, Vec<String>)> =
            self.0.into_iter().map(|(manager, set)| (manager, set.paths())).collect();
        conflicts.sort();
        let causes: Vec<Value> = conflicts
            .iter()
            .flat_map(|(manager, paths)| {
                paths.iter().map(move |path| {
                    json!({"reason": "FieldManagerConflict", "message": format!("conflict with {manager}"), "field": path})
                })
            })
            .collect();
        let message = match (conflicts.as_slice(), causes.len()) {
            ([(manager, paths)], 1) => {
                format!("Apply failed with 1 conflict: conflict with {manager}: {}", paths[0])
            }
            (_, count) => {
                let lines: Vec<String> = conflicts
                    .iter()
                    .flat_map(|(manager, paths)| {
                        std::iter::once(format!("conflicts with {manager}:"))
                            .chain(paths.iter().map(|p| format!("- {p}")))
                    })
                    .collect();
                format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
            }
        };
        let mut error = ApiError::new(409, "Conflict", message);
        error.details = Some(json!({"causes": causes}));
        error
    }
}
