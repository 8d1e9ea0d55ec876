//! The shape of every built-in type: JSON names, protobuf tags, types, list types, merge keys, defaults.
//!
//! The table is the generated text `generated/schema.txt`, parsed once on first use into small indexed structures
//! that borrow from it. Descriptions are a second text, indexed only when OpenAPI asks for them.

mod parse;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

pub(crate) use parse::unescape;

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| parse::schema(TABLE));
static DESCRIPTIONS: LazyLock<Vec<u32>> = LazyLock::new(|| parse::line_starts(DESCRIPTION_TEXT));

const TABLE: &str = include_str!("../generated/schema.txt");
const DESCRIPTION_TEXT: &str = include_str!("../generated/descriptions.txt");

/// A type of the schema table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(pub(crate) u16);

/// The parsed table.
#[derive(Debug)]
struct Schema {
    /// Sorted by name.
    types: Vec<Type>,
    fields: Vec<Field>,
    /// The first eight bytes of each field's name: most look-ups compare nothing else.
    prefixes: Vec<u64>,
    /// The first is empty and shared by all fields that have nothing special.
    extras: Vec<Extra>,
    /// Sorted; kinds with their types.
    kinds: Vec<(Gvk, TypeId)>,
}

/// Group, version and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gvk {
    /// For example `Pod`.
    pub kind: &'static str,
    /// Empty for the core group.
    pub group: &'static str,
    /// For example `v1`.
    pub version: &'static str,
}

/// An object type.
#[derive(Debug)]
pub(crate) struct Type {
    /// Package, version and Go name: `core.v1.Pod`.
    pub(crate) name: &'static str,
    pub(crate) gvk: Option<Gvk>,
    fields: Range<u32>,
    /// Indexes into the type's fields, in the order of their protobuf tags; fields without a tag are left out.
    by_tag: Box<[u8]>,
    /// Indexes of the fields that hold structs which Go always writes.
    pub(crate) always_written: Box<[u8]>,
    /// Whether the object as a whole is one unit for apply and strategic merge (`x-kubernetes-map-type: atomic`).
    pub(crate) atomic: bool,
    /// The Go names of embedded structs, by their tags: JSON has their fields inline, protobuf nests them.
    pub(crate) embeds: Box<[([u8; 3], &'static str)]>,
}

/// The type of a value, without its list or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    String,
    /// A boolean.
    Bool,
    /// A 32 bit integer.
    Int32,
    /// A 64 bit integer.
    Int64,
    /// A floating point number.
    Double,
    /// Binary data, base64 in JSON.
    Bytes,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// A resource quantity.
    Quantity,
    /// A number or text, such as a port.
    IntOrString,
    /// Any object, kept as it is.
    RawExtension,
    /// Any JSON value.
    Json,
    /// The field set of a managed fields entry.
    FieldsV1,
    /// A list of strings that is a message of its own in protobuf.
    Strings,
    /// `apiextensions.v1.JSONSchemaPropsOrArray`.
    SchemaOrArray,
    /// `apiextensions.v1.JSONSchemaPropsOrBool`.
    SchemaOrBool,
    /// `apiextensions.v1.JSONSchemaPropsOrStringArray`.
    SchemaOrStrings,
    /// An object with fields of its own.
    Object(TypeId),
}

/// How many values a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One.
    One,
    /// A list.
    List,
    /// A map from strings.
    Map,
}

/// One field of a type.
#[derive(Debug)]
pub struct Field {
    /// The JSON name.
    pub name: &'static str,
    /// The type of the value, or of the items of the list or map.
    pub kind: Kind,
    /// One value, a list, or a map.
    pub shape: Shape,
    /// The protobuf tag, after the tags of the embedded structs it lies in; zeros fill the rest. All zero: none.
    pub(crate) tags: [u8; 3],
    flags: u8,
    extra: u16,
}

const REQUIRED: u8 = 1;
const POINTER: u8 = 2;
const OMIT_EMPTY: u8 = 4;
const OMIT_ZERO: u8 = 8;
const TELLS_EMPTY: u8 = 16;

/// How the items of a list are told apart (`x-kubernetes-list-type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// Not said: treated as atomic.
    #[default]
    Unset,
    /// The list is one unit.
    Atomic,
    /// Scalars, each at most once.
    Set,
    /// Objects, told apart by key fields.
    Map,
}

/// What only some fields have.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    pub(crate) list_type: ListType,
    pub(crate) list_map_keys: Vec<&'static str>,
    pub(crate) merge_key: Option<&'static str>,
    pub(crate) patch_strategy: Option<&'static str>,
    pub(crate) map_type: Option<&'static str>,
    pub(crate) default: Option<&'static str>,
    pub(crate) go_type: Option<&'static str>,
}

/// The type of a kind. Lists (`PodList`) are kinds of their own; kinds of the meta group (`DeleteOptions`, `Status`,
/// `WatchEvent`, ...) are found in every group and version, as upstream registers them.
pub fn type_of(group: &str, version: &str, kind: &str) -> Option<TypeId> {
    let kinds = &SCHEMA.kinds;
    let found =
        kinds.binary_search_by(|(gvk, _)| (gvk.kind, gvk.group, gvk.version).cmp(&(kind, group, version)));
    if let Ok(index) = found {
        return Some(kinds[index].1);
    }
    const META: &[&str] = &[
        "APIGroup",
        "APIGroupList",
        "APIResourceList",
        "APIVersions",
        "CreateOptions",
        "DeleteOptions",
        "PatchOptions",
        "Status",
        "UpdateOptions",
        "WatchEvent",
    ];
    // The same types under their older name.
    let older = (group, version) == ("meta.k8s.io", "v1beta1");
    if older && matches!(kind, "PartialObjectMetadata" | "PartialObjectMetadataList") {
        return by_name(&format!("meta.v1.{kind}"));
    }
    // Clients from before policy/v1 still send this; nothing else of that version is left. Source: `AcceptsGroupVersion` of
    // upstream's `pkg/registry/core/pod/storage/eviction.go`.
    if (group, version, kind) == ("policy", "v1beta1", "Eviction") {
        return by_name("policy.v1.Eviction");
    }
    if META.contains(&kind) { by_name(&format!("meta.v1.{kind}")) } else { None }
}

/// A type by its short name: `core.v1.Pod`.
pub fn by_name(name: &str) -> Option<TypeId> {
    let index = SCHEMA.types.binary_search_by(|t| t.name.cmp(name)).ok()?;
    u16::try_from(index).ok().map(TypeId)
}

/// Every type, in the order of their names.
pub fn all() -> impl Iterator<Item = TypeId> {
    (0..SCHEMA.types.len()).filter_map(|i| u16::try_from(i).ok().map(TypeId))
}

impl TypeId {
    pub(crate) fn get(self) -> &'static Type {
        &SCHEMA.types[usize::from(self.0)]
    }

    /// Package, version and name, for example `core.v1.Pod`.
    pub fn name(self) -> &'static str {
        self.get().name
    }

    /// The name alone, for example `Pod`.
    pub fn go_name(self) -> &'static str {
        let name = self.name();
        name.rsplit_once('.').map_or(name, |(_, last)| last)
    }

    /// The kind, if the type is one.
    pub fn gvk(self) -> Option<Gvk> {
        self.get().gvk
    }

    /// The fields, sorted by JSON name.
    pub fn fields(self) -> &'static [Field] {
        let range = &self.get().fields;
        &SCHEMA.fields[range.start as usize..range.end as usize]
    }

    /// A field by JSON name.
    pub fn field(self, name: &str) -> Option<&'static Field> {
        self.field_index(name).map(|index| &self.fields()[index])
    }

    pub(crate) fn field_index(self, name: &str) -> Option<usize> {
        let range = &self.get().fields;
        let prefixes = &SCHEMA.prefixes[range.start as usize..range.end as usize];
        let fields = self.fields();
        let wanted = prefix(name);
        let first = prefixes.partition_point(|p| *p < wanted);
        (first..prefixes.len()).take_while(|i| prefixes[*i] == wanted).find(|i| fields[*i].name == name)
    }

    /// The fields in the order of their protobuf tags.
    pub(crate) fn fields_by_tag(self) -> impl ExactSizeIterator<Item = &'static Field> + Clone {
        let fields = self.fields();
        self.get().by_tag.iter().map(move |index| &fields[usize::from(*index)])
    }

    /// The definition's name in OpenAPI, for example `io.k8s.api.core.v1.Pod`.
    pub fn openapi_name(self) -> String {
        let name = self.name();
        let prefix = match name.split('.').next() {
            Some("meta") => "io.k8s.apimachinery.pkg.apis.",
            Some("api" | "util") => "io.k8s.apimachinery.pkg.",
            Some("pkg") => "io.k8s.apimachinery.",
            Some("apiextensions") => "io.k8s.apiextensions-apiserver.pkg.apis.",
            Some("apiregistration") => "io.k8s.kube-aggregator.pkg.apis.",
            _ => "io.k8s.api.",
        };
        format!("{prefix}{name}")
    }

    /// Upstream's description of the type; may be empty.
    pub fn description(self) -> Cow<'static, str> {
        description_line(usize::from(self.0) + self.get().fields.start as usize)
    }

    /// Upstream's description of the field at `index` of [`TypeId::fields`]; may be empty.
    pub fn field_description(self, index: usize) -> Cow<'static, str> {
        description_line(usize::from(self.0) + self.get().fields.start as usize + 1 + index)
    }
}

impl Field {
    /// Whether upstream's OpenAPI lists it as required.
    pub fn required(&self) -> bool {
        self.flags & REQUIRED != 0
    }

    /// Whether it is a pointer in Go: then a zero value differs from an absent one.
    pub fn is_pointer(&self) -> bool {
        self.flags & POINTER != 0
    }

    /// Whether Go leaves it out of JSON when empty.
    pub fn omits_empty(&self) -> bool {
        self.flags & OMIT_EMPTY != 0
    }

    /// Whether Go leaves the struct out of JSON when it has no fields set.
    pub fn omits_zero(&self) -> bool {
        self.flags & OMIT_ZERO != 0
    }

    /// Whether a list that is given empty is read as such, for validation to tell it from none.
    pub(crate) fn tells_empty(&self) -> bool {
        self.flags & TELLS_EMPTY != 0
    }

    pub(crate) fn extra(&self) -> &'static Extra {
        &SCHEMA.extras[usize::from(self.extra)]
    }

    /// How items of the list are told apart.
    pub fn list_type(&self) -> ListType {
        self.extra().list_type
    }

    /// The key fields of a [`ListType::Map`].
    pub fn list_map_keys(&self) -> &'static [&'static str] {
        &self.extra().list_map_keys
    }

    /// The field that tells items apart in a strategic merge patch.
    pub fn merge_key(&self) -> Option<&'static str> {
        self.extra().merge_key
    }

    /// Whether a strategic merge patch merges the list (or map) instead of replacing it.
    pub fn merges(&self) -> bool {
        self.extra().patch_strategy.is_some_and(|s| s.split(',').any(|s| s == "merge"))
    }

    /// Whether a strategic merge patch of this field may use `$retainKeys`.
    pub fn retains_keys(&self) -> bool {
        self.extra().patch_strategy.is_some_and(|s| s.split(',').any(|s| s == "retainKeys"))
    }

    /// Whether a strategic merge patch replaces the value.
    pub fn replaces(&self) -> bool {
        self.extra().patch_strategy == Some("replace")
    }

    /// Whether the object or map is one unit for apply.
    pub fn is_atomic(&self) -> bool {
        self.extra().map_type == Some("atomic")
            || self.shape == Shape::One && matches!(self.kind, Kind::Object(t) if t.get().atomic)
    }

    /// The default value, as JSON.
    pub fn default_json(&self) -> Option<&'static str> {
        self.extra().default
    }

    /// The type as Go writes it, for error messages: `string`, `[]v1.Container`, `map[string]string`.
    pub fn go_type(&self) -> String {
        let item = self.item_go_type();
        match self.shape {
            Shape::One => item,
            Shape::List => self.extra().go_type.map_or_else(|| format!("[]{item}"), qualified),
            Shape::Map => self.extra().go_type.map_or_else(|| format!("map[string]{item}"), qualified),
        }
    }

    /// The type of one item as Go writes it.
    pub(crate) fn item_go_type(&self) -> String {
        let named = match (self.extra().go_type, self.shape) {
            (Some(name), Shape::One) => Some(name),
            (Some(name), Shape::List) => name.strip_prefix("[]"),
            (Some(name), Shape::Map) => name.split_once(']').map(|(_, item)| item),
            (None, _) => None,
        };
        if let Some(name) = named {
            return qualified(name);
        }
        match self.kind {
            Kind::Bool => "bool",
            Kind::Int32 => "int32",
            Kind::Int64 => "int64",
            Kind::Double => "float64",
            Kind::Bytes => "[]uint8",
            Kind::Quantity => "resource.Quantity",
            Kind::IntOrString => "intstr.IntOrString",
            Kind::Object(id) => return go_struct(id),
            _ => "string",
        }
        .to_owned()
    }
}

/// `v1.Container`: the Go package's last element and the name.
pub(crate) fn go_struct(id: TypeId) -> String {
    let name = id.name();
    name.split_once('.').map_or(name, |(_, rest)| rest).to_owned()
}

/// Names declared in the type's own package lack their package: it is nearly always `v1`.
fn qualified(name: &str) -> String {
    let (prefix, base) = match name.rfind(']') {
        Some(end) => name.split_at(end + 1),
        None => ("", name),
    };
    let builtin = base.starts_with(char::is_lowercase);
    match (builtin, base) {
        (true, "byte") => format!("{prefix}uint8"),
        (true, _) => name.to_owned(),
        (false, _) => format!("{prefix}v1.{base}"),
    }
}

/// The first eight bytes of a name as a number that orders as the names do.
fn prefix(name: &str) -> u64 {
    let mut bytes = [0; 8];
    let length = name.len().min(8);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    u64::from_be_bytes(bytes)
}

/// A line of the descriptions, whose order is that of the table: each type, then its fields.
fn description_line(index: usize) -> Cow<'static, str> {
    let starts = &*DESCRIPTIONS;
    let (Some(start), Some(end)) = (starts.get(index), starts.get(index + 1)) else {
        return Cow::Borrowed("");
    };
    let line = DESCRIPTION_TEXT[*start as usize..*end as usize].trim_end_matches('\n');
    if line.contains('\\') { Cow::Owned(parse::unescape(line)) } else { Cow::Borrowed(line) }
}

/// The generated table itself, for whoever needs to know whether it changed.
pub(crate) const fn table_text() -> &'static str {
    TABLE
}
