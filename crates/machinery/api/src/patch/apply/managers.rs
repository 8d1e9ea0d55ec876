//! The entries of `metadata.managedFields`.

use serde_json::{Value, json};

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

    fn from_wire(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        if text("fieldsType") != "FieldsV1" {
            return None;
        }
        Some(Entry {
            manager: text("manager"),
            operation: if text("operation") == "Apply" { Operation::Apply } else { Operation::Update },
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            set: FieldSet::from_wire(value.get("fieldsV1").unwrap_or(&Value::Null)),
        })
    }

    fn to_wire(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager,
            "operation": if self.operation == Operation::Apply { "Apply" } else { "Update" },
            "apiVersion": self.api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.set.to_wire(),
        });
        for (name, value) in [("time", &self.time), ("subresource", &self.subresource)] {
            if !value.is_empty() {
                entry[name] = Value::from(value.as_str());
            }
        }
        entry
    }
}

/// All managers of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Managers(Vec<Entry>);

impl Managers {
    pub(super) fn from_object(object: &Value) -> Self {
        let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
        Managers(entries.filter_map(Entry::from_wire).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
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

    /// All that anyone owns. Entries in other versions count too: their shapes rarely differ, and to keep a field too
    /// many is the safe side.
    pub(super) fn owned(&self) -> FieldSet {
        self.0.iter().fold(FieldSet::default(), |owned, entry| owned.union(&entry.set))
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
            newer.set = newer.set.union(&older.set);
            newer.manager = ANCIENT.to_owned();
            newer.subresource = String::new();
            self.0.remove(first);
        }
    }

    /// Writes the entries into an object, in upstream's order.
    pub(super) fn write(&mut self, object: &mut Value) {
        strip(object);
        if self.0.is_empty() {
            return;
        }
        self.0.sort_by(|a, b| {
            let key = |e: &Entry| {
                (e.operation, e.time.clone(), e.manager.clone(), e.api_version.clone(), e.subresource.clone())
            };
            key(a).cmp(&key(b))
        });
        object["metadata"]["managedFields"] = Value::Array(self.0.iter().map(Entry::to_wire).collect());
    }
}

/// Takes the managed fields out of an object.
pub(super) fn strip(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

/// Whether a client asks to forget all managers: one empty entry.
pub(super) fn is_reset(object: &Value) -> bool {
    match object["metadata"]["managedFields"].as_array().map(Vec::as_slice) {
        Some([Value::Object(entry)]) => entry.is_empty(),
        _ => false,
    }
}

/// 409, with one cause per field and manager.
pub(super) fn conflict(mut conflicts: Vec<(String, Vec<String>)>) -> ApiError {
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
