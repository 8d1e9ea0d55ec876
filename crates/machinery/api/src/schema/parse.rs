//! Reads the generated table.
//!
//! A line that starts with a space is a field of the type above it. Words are separated by single spaces:
//!
//! ```text
//! core.v1.Volume e:2=VolumeSource           type, kind as GROUP/VERSION/KIND, M:atomic, =letter, embedded structs by tag
//!  emptyDir 2.2 .EmptyDirVolumeSource po    JSON name, tags, type, flags, attributes
//! ```
//!
//! Types: `[]` list, `{}` map, then a letter or the name of a type (`.X` is in the same package). Flags: `!` required,
//! `p` pointer, `o` omitted when empty, `z` omitted when zero. Attributes: `L:` list type, `k:` map keys,
//! `K:` merge key, `S:` patch strategy, `M:` map type, `d:` default as JSON (the rest of the word), `G:` Go type.

use std::collections::HashMap;

use super::{Extra, Field, Gvk, Kind, ListType, Schema, Shape, Type, TypeId};
use super::{OMIT_EMPTY, OMIT_ZERO, POINTER, REQUIRED, TELLS_EMPTY};

/// The table is generated and covered by tests: a malformed one is a bug of the build, hence the `expect`s.
const WELL_FORMED: &str = "the generated schema table is well formed";

/// Lists that upstream's validation refuses when they are given empty, and not when they are left out, or shows as given.
/// Where an empty one is valid, defaulting takes it out, as it is not stored.
const TOLD_EMPTY: &[(&str, &str)] = &[
    ("autoscaling.v2.HPAScalingRules", "policies"),
    ("batch.v1.PodFailurePolicyOnExitCodesRequirement", "values"),
    ("batch.v1.SuccessPolicy", "rules"),
    ("core.v1.NodeSelector", "nodeSelectorTerms"),
    ("core.v1.ResourceRequirements", "claims"),
    ("networking.v1.IngressSpec", "rules"),
];

pub(super) fn schema(text: &'static str) -> Schema {
    let lines = || text.lines().filter(|l| !l.starts_with('#'));
    let mut ids: HashMap<&'static str, TypeId, ahash::RandomState> = HashMap::default();
    for (index, line) in lines().filter(|l| !l.starts_with(' ')).enumerate() {
        let name = line.split(' ').next().expect(WELL_FORMED);
        ids.insert(name, TypeId(u16::try_from(index).expect(WELL_FORMED)));
    }
    let mut schema = Schema {
        types: Vec::with_capacity(ids.len()),
        fields: Vec::new(),
        prefixes: Vec::new(),
        extras: vec![Extra::default()],
        kinds: Vec::new(),
    };
    for line in lines() {
        if let Some(line) = line.strip_prefix(' ') {
            let ty = schema.types.last().expect(WELL_FORMED).name;
            let package = ty.rsplit_once('.').expect(WELL_FORMED).0;
            let mut field = field(line, package, &ids, &mut schema.extras);
            if TOLD_EMPTY.contains(&(ty, field.name)) {
                field.flags |= TELLS_EMPTY;
            }
            schema.fields.push(field);
        } else {
            finish(&mut schema);
            let start = u32::try_from(schema.fields.len()).expect(WELL_FORMED);
            schema.types.push(head(line, start));
        }
    }
    finish(&mut schema);
    schema.fields.shrink_to_fit();
    schema.prefixes = schema.fields.iter().map(|f| super::prefix(f.name)).collect();
    schema.extras.shrink_to_fit();
    schema.kinds = schema
        .types
        .iter()
        .enumerate()
        .filter_map(|(i, t)| Some((t.gvk?, TypeId(u16::try_from(i).expect(WELL_FORMED)))))
        .collect();
    schema.kinds.sort();
    schema
}

/// Closes the type being read: its fields are all those read since it began.
fn finish(schema: &mut Schema) {
    let Some(last) = schema.types.last_mut() else { return };
    last.fields.end = u32::try_from(schema.fields.len()).expect(WELL_FORMED);
    let fields = &schema.fields[last.fields.start as usize..];
    let mut order: Vec<u8> = (0..fields.len()).map(|i| u8::try_from(i).expect(WELL_FORMED)).collect();
    order.retain(|i| fields[usize::from(*i)].tags[0] != 0);
    order.sort_by_key(|i| fields[usize::from(*i)].tags);
    last.by_tag = order.into_boxed_slice();
    // Structs are written even where their tag says otherwise, and a time is one, written as null (but the creation time, whose
    // tag is a newer one); what else has no such tag is written as its zero.
    let always = |f: &Field| match (f.kind, f.shape) {
        _ if f.flags & (POINTER | OMIT_ZERO) != 0 || f.name == "creationTimestamp" => false,
        (Kind::Object(_) | Kind::Time | Kind::MicroTime, Shape::One) => true,
        (Kind::String | Kind::Bool | Kind::Int32 | Kind::Int64 | Kind::Double, Shape::One)
        | (_, Shape::List | Shape::Map) => f.flags & OMIT_EMPTY == 0,
        _ => false,
    };
    let always = fields.iter().enumerate().filter(|(_, f)| always(f));
    last.always_written = always.map(|(i, _)| u8::try_from(i).expect(WELL_FORMED)).collect();
}

fn head(line: &'static str, start: u32) -> Type {
    let mut words = line.split(' ');
    let name = words.next().expect(WELL_FORMED);
    let mut head = Type {
        name,
        gvk: None,
        fields: start..start,
        by_tag: Box::default(),
        always_written: Box::default(),
        atomic: false,
        embeds: Box::default(),
    };
    for word in words {
        if word.starts_with('=') {
            // A type whose values have a code of their own; it is here for its description.
        } else if word == "M:atomic" {
            head.atomic = true;
        } else if let Some(embeds) = word.strip_prefix("e:") {
            head.embeds = embeds
                .split(',')
                .map(|e| {
                    let (tag, name) = e.split_once('=').expect(WELL_FORMED);
                    (tags(tag), name)
                })
                .collect();
        } else {
            let mut parts = word.split('/');
            let mut part = || parts.next().expect(WELL_FORMED);
            let (group, version, kind) = (part(), part(), part());
            head.gvk = Some(Gvk { kind, group, version });
        }
    }
    head
}

fn tags(text: &str) -> [u8; 3] {
    let mut tags = [0; 3];
    for (slot, tag) in tags.iter_mut().zip(text.split('.')) {
        *slot = tag.parse().expect(WELL_FORMED);
    }
    tags
}

fn field(
    line: &'static str,
    package: &str,
    ids: &HashMap<&'static str, TypeId, ahash::RandomState>,
    extras: &mut Vec<Extra>,
) -> Field {
    let mut words = line.splitn(4, ' ');
    let mut word = || words.next().expect(WELL_FORMED);
    let (name, tag, ty) = (word(), word(), word());
    let (shape, ty) = match (ty.strip_prefix("[]"), ty.strip_prefix("{}")) {
        (Some(item), _) => (Shape::List, item),
        (_, Some(item)) => (Shape::Map, item),
        _ => (Shape::One, ty),
    };
    let kind = match ty {
        "s" => Kind::String,
        "b" => Kind::Bool,
        "i" => Kind::Int32,
        "l" => Kind::Int64,
        "d" => Kind::Double,
        "y" => Kind::Bytes,
        "t" => Kind::Time,
        "m" => Kind::MicroTime,
        "q" => Kind::Quantity,
        "x" => Kind::IntOrString,
        "r" => Kind::RawExtension,
        "j" => Kind::Json,
        "f" => Kind::FieldsV1,
        "E" => Kind::Strings,
        "A" => Kind::SchemaOrArray,
        "B" => Kind::SchemaOrBool,
        "S" => Kind::SchemaOrStrings,
        name => {
            let id = match name.strip_prefix('.') {
                Some(local) => ids.get(format!("{package}.{local}").as_str()),
                None => ids.get(name),
            };
            Kind::Object(*id.expect(WELL_FORMED))
        }
    };
    let mut field = Field { name, kind, shape, tags: tags(tag), flags: 0, extra: 0 };
    let mut extra = Extra::default();
    let mut special = false;
    for word in words.next().into_iter().flat_map(attributes) {
        let Some((key, value)) = word.split_once(':') else {
            field.flags = word.bytes().fold(0, |flags, flag| {
                flags
                    | match flag {
                        b'!' => REQUIRED,
                        b'p' => POINTER,
                        b'o' => OMIT_EMPTY,
                        _ => OMIT_ZERO,
                    }
            });
            continue;
        };
        special = true;
        match key {
            "L" => {
                extra.list_type = match value {
                    "atomic" => ListType::Atomic,
                    "set" => ListType::Set,
                    _ => ListType::Map,
                }
            }
            "k" => extra.list_map_keys = value.split(',').collect(),
            "K" => extra.merge_key = Some(value),
            "S" => extra.patch_strategy = Some(value),
            "M" => extra.map_type = Some(value),
            "d" => extra.default = Some(value),
            _ => extra.go_type = Some(value),
        }
    }
    if special {
        field.extra = u16::try_from(extras.len()).expect(WELL_FORMED);
        extras.push(extra);
    }
    field
}

fn attributes(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.split(' ')
}

/// The offset of every line after the header, and the end of the text.
pub(super) fn line_starts(text: &str) -> Vec<u32> {
    let mut starts = Vec::with_capacity(4096);
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if !(at == 0 && line.starts_with('#')) {
            starts.push(u32::try_from(at).expect(WELL_FORMED));
        }
        at += line.len();
    }
    starts.push(u32::try_from(at).expect(WELL_FORMED));
    starts
}

/// Undoes the escaping of backslashes and line ends.
pub(crate) fn unescape(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => text.push('\n'),
            ('\\', Some(other)) => text.push(other),
            (c, _) => text.push(c),
        }
    }
    text
}
