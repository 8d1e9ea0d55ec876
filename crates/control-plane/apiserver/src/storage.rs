//! The boundary to the store: typed keys, encoding once, and what is kept beside each record for selectors.
//!
//! Stored bytes are the wire bytes of the storage version in JSON, `apiVersion`, `kind` and `resourceVersion` included;
//! the store writes its revision into the place left for it. A value transform (encryption at rest) belongs in
//! [`encode`] and [`parse`], the only two functions that know the form of stored bytes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use podium_store::{Key, KeyRange, Record, Value as StoredValue};
use serde::Deserialize;
use serde_json::{Map, Value};

use podium_api::selector::{FieldRequirement, FieldSelector, LabelSelector, Operator};
use podium_api::status::ApiError;
use podium_api::{codec, resources};

use crate::catalogue::Served;
use crate::hot::Slot;

mod etcd;
mod marks;

pub use etcd::EtcdCodec;

/// A segment of a key that cannot leave its place: not empty, no slash, no NUL, not `.` or `..`.
fn segment_is_safe(segment: &str) -> bool {
    !segment.is_empty() && segment != "." && segment != ".." && !segment.contains(['/', '\0', '%'])
}

/// The key of one object. Built only here, only from checked segments.
///
/// Errors: 400 when a segment could address something else, or the scope is wrong.
pub(crate) fn key(served: &Served, namespace: &str, name: &str) -> Result<Key, ApiError> {
    if !segment_is_safe(name) {
        return Err(ApiError::bad_request(format!("invalid resource name {name:?}")));
    }
    if served.namespaced {
        if !segment_is_safe(namespace) {
            return Err(ApiError::bad_request(
                "an empty namespace may not be set when a resource name is provided",
            ));
        }
        return Ok(Key::from(format!("{}{namespace}/{name}", served.prefix)));
    }
    Ok(Key::from(format!("{}{name}", served.prefix)))
}

/// The keys of a kind, of one namespace if one is given.
pub(crate) fn range(served: &Served, namespace: &str) -> Result<KeyRange, ApiError> {
    if namespace.is_empty() || !served.namespaced {
        return Ok(KeyRange::prefix(&served.prefix));
    }
    if !segment_is_safe(namespace) {
        return Err(ApiError::bad_request(format!("invalid namespace {namespace:?}")));
    }
    Ok(KeyRange::prefix(format!("{}{namespace}/", served.prefix)))
}

/// The namespace (empty for cluster scope) and name in a key of this prefix.
pub(crate) fn names_in<'k>(prefix: &str, key: &'k [u8]) -> Option<(&'k str, &'k str)> {
    let rest = std::str::from_utf8(key.get(prefix.len()..)?).ok()?;
    Some(rest.split_once('/').unwrap_or(("", rest)))
}

/// Encodes an object for the store, with a place for its resourceVersion. Any resourceVersion in it is ignored.
///
/// Kind and version come first, so that a list can leave them out without parsing: see [`TypePrefix`].
pub(crate) fn encode(object: &Value) -> StoredValue {
    let mut out = Vec::with_capacity(1024);
    let mut revision_at = None;
    let empty = Map::new();
    let members = object.as_object().unwrap_or(&empty);
    out.push(b'{');
    for (index, (name, value)) in codec::in_order(members).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_json(&mut out, name);
        out.push(b':');
        match value.as_object() {
            Some(metadata) if name == "metadata" => revision_at = Some(write_metadata(&mut out, metadata)),
            _ => write_json(&mut out, value),
        }
    }
    out.push(b'}');
    StoredValue { bytes: Bytes::from(out), revision_at }
}

/// What the stored objects of a kind begin with and the items of its lists do not have: kind and version.
#[derive(Debug)]
pub(crate) struct TypePrefix {
    /// As [`encode`] writes it.
    first: String,
    /// As it was written when all members were sorted; kinds with a member before `kind` had it in two places.
    sorted: String,
}

/// What is left of a record's bytes without kind and version.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Untyped {
    /// An opening brace, and the bytes from here on.
    From(usize),
    /// Other bytes.
    Text(Vec<u8>),
    /// All of them.
    Whole,
}

impl Untyped {
    /// Bytes of it, given the record it is of.
    pub(crate) fn len(&self, record: &Record) -> usize {
        match self {
            Untyped::From(start) => 1 + record.value.len() - start,
            Untyped::Text(text) => text.len(),
            Untyped::Whole => record.value.len(),
        }
    }

    /// Adds it, given the record it is of.
    pub(crate) fn append_to(&self, out: &mut BytesMut, record: &Record) {
        match self {
            Untyped::From(start) => {
                out.extend_from_slice(b"{");
                out.extend_from_slice(&record.value[*start..]);
            }
            Untyped::Text(text) => out.extend_from_slice(text),
            Untyped::Whole => out.extend_from_slice(&record.value),
        }
    }
}

impl TypePrefix {
    /// Of a kind as it is stored.
    pub(crate) fn of(served: &Served) -> TypePrefix {
        let version = resources::group_version(&served.storage_group, &served.storage_version);
        let kind = &served.kind;
        TypePrefix {
            first: format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\","),
            sorted: format!("{{\"apiVersion\":\"{version}\",\"kind\":\"{kind}\","),
        }
    }

    /// The object in a record without them. One that does not parse is left as it is: it must not hide the others.
    pub(crate) fn off(&self, record: &Record) -> Untyped {
        let bytes: &[u8] = &record.value;
        let prefix =
            [&self.first, &self.sorted].into_iter().find(|prefix| bytes.starts_with(prefix.as_bytes()));
        if let Some(prefix) = prefix {
            return Untyped::From(prefix.len());
        }
        let Ok(mut object) = serde_json::from_slice::<Value>(bytes) else { return Untyped::Whole };
        forget_type(&mut object);
        let mut text = Vec::with_capacity(bytes.len());
        write_json(&mut text, &object);
        Untyped::Text(text)
    }
}

/// Takes kind and version out of an object: the items of lists do not have them.
pub(crate) fn forget_type(object: &mut Value) {
    if let Some(members) = object.as_object_mut() {
        members.remove("kind");
        members.remove("apiVersion");
    }
}

/// Writes metadata in key order with `"resourceVersion":""`, and returns where the digits go.
fn write_metadata(out: &mut Vec<u8>, metadata: &Map<String, Value>) -> usize {
    const NAME: &str = "resourceVersion";
    let mut at = None;
    let mut first = true;
    let mut comma = |out: &mut Vec<u8>| {
        if !std::mem::replace(&mut first, false) {
            out.push(b',');
        }
    };
    let mut place = |out: &mut Vec<u8>| {
        out.extend_from_slice(b"\"resourceVersion\":\"");
        at = Some(out.len());
        out.push(b'"');
    };
    let mut placed = false;
    out.push(b'{');
    for (name, value) in metadata.iter().filter(|(name, _)| *name != NAME) {
        if !placed && name.as_str() > NAME {
            comma(out);
            place(out);
            placed = true;
        }
        comma(out);
        write_json(out, name);
        out.push(b':');
        write_json(out, value);
    }
    if !placed {
        comma(out);
        place(out);
    }
    out.push(b'}');
    at.expect("the place is always written")
}

fn write_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("a JSON tree always encodes to memory");
}

/// The object in a record.
///
/// Errors: 500 if the stored bytes are not an object, which only a damaged or foreign store has.
pub(crate) fn parse(record: &Record) -> Result<Value, ApiError> {
    serde_json::from_slice(&record.value).map_err(|error| {
        tracing::error!(key = %record.key, %error, "stored object cannot be decoded");
        ApiError::internal(format!("stored object {} cannot be decoded", record.key))
    })
}

/// What lists and watches select by and send, kept beside the record.
#[derive(Debug, Default)]
pub(crate) struct Meta {
    /// `metadata.namespace`.
    pub(crate) namespace: Box<str>,
    /// `metadata.name`.
    pub(crate) name: Box<str>,
    /// `metadata.labels`, sorted by key.
    pub(crate) labels: Box<[(Box<str>, Box<str>)]>,
    /// The kind's own selectable fields.
    pub(crate) fields: Box<[(&'static str, Box<str>)]>,
    /// The object in protobuf, while that is asked for.
    pub(crate) protobuf: Slot,
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    metadata: HeadMeta,
}

#[derive(Deserialize, Default)]
struct HeadMeta {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    labels: std::collections::BTreeMap<String, String>,
}

impl Meta {
    /// The selectors' view of a record, made on first use.
    pub(crate) fn of<'r>(served: &Served, record: &'r Record) -> &'r Meta {
        record.attachment(|record| Meta::read(served, record).marked(record))
    }

    /// The same, where the object is at hand already.
    pub(crate) fn remember(served: &Served, record: &Record, object: &Value) {
        record.attachment(|record| {
            let metadata = &object["metadata"];
            let text = |name: &str| metadata[name].as_str().unwrap_or_default().into();
            let labels = metadata["labels"].as_object();
            Meta {
                namespace: text("namespace"),
                name: text("name"),
                labels: labels
                    .into_iter()
                    .flatten()
                    .map(|(key, value)| (key.as_str().into(), value.as_str().unwrap_or_default().into()))
                    .collect(),
                fields: fields(served, object),
                protobuf: Slot::default(),
            }
            .marked(record)
        });
    }

    fn read(served: &Served, record: &Record) -> Meta {
        // A record that does not parse still has a name from its key, so that one bad object stops no list.
        let head: Head =
            serde_json::from_slice(&record.value).unwrap_or(Head { metadata: HeadMeta::default() });
        let fields = if served.selectable.is_empty() {
            Box::default()
        } else {
            parse(record).map(|object| fields(served, &object)).unwrap_or_default()
        };
        let (namespace, name) = names_in(&served.prefix, &record.key).unwrap_or_default();
        let HeadMeta { name: own_name, namespace: own_namespace, labels } = head.metadata;
        Meta {
            namespace: if own_namespace.is_empty() { namespace.into() } else { own_namespace.into() },
            name: if own_name.is_empty() { name.into() } else { own_name.into() },
            labels: labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
            fields,
            protobuf: Slot::default(),
        }
    }

    /// Says to the store what the record can be found by.
    fn marked(self, record: &Record) -> Meta {
        let labels = self.labels.iter().fold(0, |all, (key, value)| all | marks::label(key, value));
        let fields = self.fields.iter().fold(0, |all, (name, value)| all | marks::field(name, value));
        record.set_mark(labels | fields);
        self
    }

    /// A label's value.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        let index = self.labels.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.labels[index].1)
    }

    /// A selectable field's value.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        match name {
            "metadata.name" => Some(&self.name),
            "metadata.namespace" => Some(&self.namespace),
            _ => self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| &**value),
        }
    }
}

fn fields(served: &Served, object: &Value) -> Box<[(&'static str, Box<str>)]> {
    served.rules.selectable_fields(object).into_iter().map(|(name, value)| (name, value.into())).collect()
}

/// What a list or watch selects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// By labels.
    pub(crate) labels: LabelSelector,
    /// By fields.
    pub(crate) fields: FieldSelector,
}

impl Selection {
    /// Whether everything is selected.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// What the mark of every selected record has.
    pub(crate) fn bits(&self) -> u64 {
        let labels = self.labels.requirements().iter().filter_map(|requirement| {
            let [value] = requirement.values() else { return None };
            let one =
                matches!(requirement.operator(), Operator::In | Operator::Equals | Operator::DoubleEquals);
            one.then(|| marks::label(requirement.key(), value))
        });
        let fields = self.fields.requirements().iter().filter_map(|requirement| {
            let FieldRequirement { field, value, equals } = requirement;
            // Name and namespace are in the key already; what has not got a field is found by its empty value.
            let marked = *equals && !value.is_empty() && !field.starts_with("metadata.");
            marked.then(|| marks::field(field, value))
        });
        labels.chain(fields).fold(0, |all, bits| all | bits)
    }

    /// Whether a record is selected.
    pub(crate) fn matches(&self, served: &Served, record: &Record) -> bool {
        if self.is_everything() {
            return true;
        }
        let meta = Meta::of(served, record);
        self.labels.matches_fn(|key| meta.label(key)) && self.fields.matches(|name| meta.field(name))
    }
}

/// `resourceVersion` of an object, 0 if it has none.
///
/// Errors: the text, when it is not a number.
pub(crate) fn revision_of(object: &Value) -> Result<u64, String> {
    let text = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if text.is_empty() { Ok(0) } else { text.parse().map_err(|_| text.to_owned()) }
}

/// The record of a range read or commit, shared.
pub(crate) type Shared = Arc<Record>;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_revision_goes_into_metadata_and_the_type_comes_first() {
        for metadata in [
            json!({"name": "a", "uid": "u"}),
            json!({"name": "a"}),
            json!({"uid": "u", "resourceVersion": "99"}),
            json!({}),
        ] {
            let object = json!({
                "apiVersion": "v1", "kind": "Event", "involvedObject": {"resourceVersion": ""},
                "metadata": metadata, "z": 1,
            });
            let stored = encode(&object);
            let bytes = stored.at_revision(17);
            let back: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(back["metadata"]["resourceVersion"], "17");
            assert_eq!(back["involvedObject"]["resourceVersion"], "");
            let text = std::str::from_utf8(&bytes).unwrap();
            assert!(text.starts_with(r#"{"kind":"Event","apiVersion":"v1","metadata":{"#), "{text}");
            // The same length as encoding the whole: nothing else is different.
            assert_eq!(serde_json::to_vec(&back).unwrap().len(), bytes.len());
        }
    }

    #[test]
    fn items_of_lists_have_no_type() {
        let catalogue = crate::catalogue::Catalogue::built_in(&podium_api::resources::Selection::default());
        let maps = catalogue.find("", "v1", "configmaps").unwrap();
        let prefix = TypePrefix::of(&maps);
        let off = |value: Bytes| {
            let record = Record::new(Key::from("/registry/configmaps/a/b"), value, 1, 1, 1, None, None);
            let untyped = prefix.off(&record);
            let mut out = BytesMut::new();
            untyped.append_to(&mut out, &record);
            assert_eq!(out.len(), untyped.len(&record));
            (String::from_utf8(out.to_vec()).unwrap(), !matches!(untyped, Untyped::Text(_)))
        };
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"kind": "x"},
        });
        let now = encode(&object).at_revision(7);
        let wanted = r#"{"metadata":{"name":"a","resourceVersion":"7"},"data":{"kind":"x"}}"#;
        assert_eq!(off(now), (wanted.to_owned(), true));
        // As older servers stored it: sorted.
        let (text, _) = off(Bytes::from(object.to_string()));
        assert_eq!(text, r#"{"data":{"kind":"x"},"metadata":{"name":"a"}}"#);
        let plain = Bytes::from_static(br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{}}"#);
        assert_eq!(off(plain), (r#"{"metadata":{}}"#.to_owned(), true));
        // Damaged: as it is.
        assert_eq!(off(Bytes::from_static(b"{\"kind")), ("{\"kind".to_owned(), true));
    }
}
