//! Messages to JSON trees.

use serde_json::{Map, Value};

use super::wire::{Reader, Wire};
use super::{Malformed, open};
use crate::codec::json::{self, MAX_DEPTH, fill, is_written, schema_props, zero};
use crate::codec::scalar;
use crate::schema::{Field, Kind, Shape, TypeId, type_of};
use base64::Engine as _;

type Result<T> = std::result::Result<T, Malformed>;

/// Reads a message as the canonical tree of its type.
pub(in crate::codec) fn read_message(ty: TypeId, bytes: &[u8], depth: usize) -> Result<Map<String, Value>> {
    if depth > MAX_DEPTH {
        return Err(Malformed::TooDeep);
    }
    let mut object = Map::new();
    let mut seen = 0u128;
    read_level(ty, [0; 3], 0, bytes, depth, &mut object, &mut seen)?;
    fill(ty, seen, &mut object);
    Ok(object)
}

/// Reads the fields whose tags begin with `prefix[..level]`: those of the message itself or of an embedded struct.
fn read_level(
    ty: TypeId,
    prefix: [u8; 3],
    level: usize,
    bytes: &[u8],
    depth: usize,
    object: &mut Map<String, Value>,
    seen: &mut u128,
) -> Result<()> {
    let mut reader = Reader::new(bytes);
    while let Some((tag, wire)) = reader.key()? {
        let Ok(tag) = u8::try_from(tag) else {
            reader.skip(wire)?;
            continue;
        };
        let mut wanted = prefix;
        wanted[level] = tag;
        let found = ty.fields().iter().enumerate().find(|(_, f)| f.tags[..=level] == wanted[..=level]);
        match found {
            None => reader.skip(wire)?,
            Some((_, field)) if level < 2 && field.tags[level + 1] != 0 => {
                read_level(ty, wanted, level + 1, reader.bytes(wire)?, depth, object, seen)?;
            }
            Some((index, field)) => {
                read_field(field, &mut reader, wire, depth, object)?;
                if object.contains_key(field.name) {
                    *seen |= 1 << index;
                }
            }
        }
    }
    Ok(())
}

fn read_field(
    field: &'static Field,
    reader: &mut Reader<'_>,
    wire: Wire,
    depth: usize,
    object: &mut Map<String, Value>,
) -> Result<()> {
    match field.shape {
        Shape::One => {
            let value = read_value(field.kind, reader, wire, depth)?;
            if is_written(field, &value) {
                object.insert(field.name.to_owned(), value);
            } else {
                object.remove(field.name);
            }
        }
        Shape::List => {
            let items = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = items else { return Ok(()) };
            let packable = matches!(field.kind, Kind::Int32 | Kind::Int64 | Kind::Bool | Kind::Double);
            if packable && wire == Wire::Length {
                let mut packed = Reader::new(reader.bytes(wire)?);
                let each = if field.kind == Kind::Double { Wire::Fixed64 } else { Wire::Varint };
                while !packed.is_empty() {
                    items.push(read_value(field.kind, &mut packed, each, depth)?);
                }
            } else {
                items.push(read_value(field.kind, reader, wire, depth)?);
            }
        }
        Shape::Map => {
            let mut entry = Reader::new(reader.bytes(wire)?);
            let (mut key, mut value) = (String::new(), zero(field.kind));
            while let Some((tag, wire)) = entry.key()? {
                match tag {
                    1 => key = entry.text(wire)?.to_owned(),
                    2 => value = read_value(field.kind, &mut entry, wire, depth)?,
                    _ => entry.skip(wire)?,
                }
            }
            let map = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = map {
                map.insert(key, value);
            }
        }
    }
    Ok(())
}

fn read_value(kind: Kind, reader: &mut Reader<'_>, wire: Wire, depth: usize) -> Result<Value> {
    Ok(match kind {
        Kind::String => Value::from(reader.text(wire)?),
        Kind::Bool => Value::Bool(reader.int(wire)? != 0),
        // Negative 32 bit values travel as 64 bit ones.
        Kind::Int32 => Value::from(i32::try_from(reader.int(wire)?).map_err(|_| Malformed::Overflow)?),
        Kind::Int64 => Value::from(reader.int(wire)?),
        Kind::Double => double(reader.double(wire)?),
        Kind::Bytes => Value::String(scalar::BASE64.encode(reader.bytes(wire)?)),
        Kind::Object(ty) => Value::Object(read_message(ty, reader.bytes(wire)?, depth + 1)?),
        Kind::Time | Kind::MicroTime => time(kind, reader.bytes(wire)?)?,
        Kind::Quantity => quantity(reader.bytes(wire)?)?,
        Kind::IntOrString => int_or_string(reader.bytes(wire)?)?,
        Kind::RawExtension | Kind::Json | Kind::FieldsV1 => raw(kind, reader.bytes(wire)?)?,
        Kind::Strings => {
            let mut list = Reader::new(reader.bytes(wire)?);
            let mut items = Vec::new();
            while let Some((_, wire)) = list.key()? {
                items.push(Value::from(list.text(wire)?));
            }
            Value::Array(items)
        }
        Kind::SchemaOrArray | Kind::SchemaOrBool | Kind::SchemaOrStrings => {
            schema_or(kind, reader.bytes(wire)?, depth)?
        }
    })
}

/// Whole numbers are integers in the tree, as the JSON reader makes them.
fn double(value: f64) -> Value {
    #[allow(clippy::cast_possible_truncation, reason = "checked to be whole and far inside the range")]
    if value.fract() == 0.0 && value.abs() < 1e15 { Value::from(value as i64) } else { Value::from(value) }
}

fn time(kind: Kind, bytes: &[u8]) -> Result<Value> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(bytes);
    while let Some((tag, wire)) = reader.key()? {
        match tag {
            1 => seconds = reader.int(wire)?,
            2 => nanos = reader.int(wire)?,
            _ => reader.skip(wire)?,
        }
    }
    if seconds == 0 && nanos == 0 {
        return Ok(Value::Null);
    }
    let nanos = i32::try_from(nanos).map_err(|_| Malformed::Overflow)?;
    let time = jiff::Timestamp::new(seconds, nanos).map_err(|e| Malformed::Value(e.to_string()))?;
    Ok(Value::String(match kind {
        Kind::MicroTime => scalar::format_micros(time),
        _ => scalar::format_seconds(time.as_second()),
    }))
}

fn quantity(bytes: &[u8]) -> Result<Value> {
    let mut text = "";
    let mut reader = Reader::new(bytes);
    while let Some((tag, wire)) = reader.key()? {
        match tag {
            1 => text = reader.text(wire)?,
            _ => reader.skip(wire)?,
        }
    }
    if text.is_empty() {
        return Ok(Value::from("0"));
    }
    let parsed: crate::quantity::Quantity =
        text.parse().map_err(|e: crate::quantity::QuantityError| Malformed::Value(e.to_string()))?;
    Ok(Value::String(parsed.to_string()))
}

fn int_or_string(bytes: &[u8]) -> Result<Value> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    let mut reader = Reader::new(bytes);
    while let Some((tag, wire)) = reader.key()? {
        match tag {
            1 => is_text = reader.int(wire)? == 1,
            2 => number = reader.int(wire)?,
            3 => text = reader.text(wire)?,
            _ => reader.skip(wire)?,
        }
    }
    Ok(if is_text { Value::from(text) } else { Value::from(number) })
}

/// Bytes that hold JSON, or an enveloped object.
fn raw(kind: Kind, bytes: &[u8]) -> Result<Value> {
    let mut raw: &[u8] = &[];
    let mut reader = Reader::new(bytes);
    while let Some((tag, wire)) = reader.key()? {
        match tag {
            1 => raw = reader.bytes(wire)?,
            _ => reader.skip(wire)?,
        }
    }
    if raw.is_empty() {
        return Ok(if kind == Kind::Json { Value::Object(Map::new()) } else { Value::Null });
    }
    if let Ok(envelope) = open(raw) {
        let (group, version) = crate::resources::split_api_version(envelope.api_version);
        return match type_of(group, version, envelope.kind) {
            Some(ty) => super::read_envelope(&envelope, ty),
            None => Err(Malformed::Value(format!("unknown kind {} in raw extension", envelope.kind))),
        };
    }
    let text = std::str::from_utf8(raw).map_err(|e| Malformed::Value(e.to_string()))?;
    json::read_any(text).map_err(Malformed::Value)
}

fn schema_or(kind: Kind, bytes: &[u8], depth: usize) -> Result<Value> {
    let props = schema_props().ok_or_else(|| Malformed::Value("no schema type".to_owned()))?;
    let (mut schema, mut list, mut allows) = (None, Vec::new(), false);
    let mut reader = Reader::new(bytes);
    while let Some((tag, wire)) = reader.key()? {
        match (kind, tag) {
            (Kind::SchemaOrBool, 1) => allows = reader.int(wire)? != 0,
            (Kind::SchemaOrBool, 2) | (Kind::SchemaOrArray | Kind::SchemaOrStrings, 1) => {
                schema = Some(Value::Object(read_message(props, reader.bytes(wire)?, depth + 1)?));
            }
            (Kind::SchemaOrArray, 2) => {
                list.push(Value::Object(read_message(props, reader.bytes(wire)?, depth + 1)?));
            }
            (Kind::SchemaOrStrings, 2) => list.push(Value::from(reader.text(wire)?)),
            _ => reader.skip(wire)?,
        }
    }
    Ok(match (kind, schema) {
        (_, Some(schema)) => schema,
        (Kind::SchemaOrBool, None) => Value::Bool(allows),
        _ => Value::Array(list),
    })
}
