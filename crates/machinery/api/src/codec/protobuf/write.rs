//! JSON trees to messages.

use base64::Engine as _;
use serde_json::Value;

use super::wire::Writer;
use crate::codec::json::schema_props;
use crate::codec::scalar;
use crate::schema::{Field, Kind, Shape, TypeId};
use crate::status::ApiError;

type Result = std::result::Result<(), ApiError>;

/// Writes the fields of an object, without tag or length.
pub(super) fn write_message(writer: &mut Writer, ty: TypeId, object: &Value) -> Result {
    let fields: Vec<&'static Field> = ty.fields_by_tag().collect();
    write_level(writer, &fields, 0, object)
}

/// Writes fields that share their first `level` tags; runs of one tag with more below are embedded structs.
fn write_level(writer: &mut Writer, fields: &[&'static Field], level: usize, object: &Value) -> Result {
    for run in fields.chunk_by(|a, b| a.tags[level] == b.tags[level]) {
        let first = run[0];
        if level < 2 && first.tags[level + 1] != 0 {
            if run.iter().any(|f| object.get(f.name).is_some()) {
                let start = writer.begin(u32::from(first.tags[level]));
                write_level(writer, run, level + 1, object)?;
                writer.end(start);
            }
            continue;
        }
        if let Some(value) = object.get(first.name) {
            write_field(writer, u32::from(first.tags[level]), first, value)?;
        }
    }
    Ok(())
}

fn write_field(writer: &mut Writer, tag: u32, field: &'static Field, value: &Value) -> Result {
    match (field.shape, value) {
        (_, Value::Null) => Ok(()),
        (Shape::One, value) => write_value(writer, tag, field, value),
        (Shape::List, Value::Array(items)) => {
            items.iter().try_for_each(|item| write_value(writer, tag, field, item))
        }
        (Shape::Map, Value::Object(map)) => map.iter().try_for_each(|(key, value)| {
            let start = writer.begin(tag);
            writer.text(1, key);
            write_value(writer, 2, field, value)?;
            writer.end(start);
            Ok(())
        }),
        _ => Err(misfit(field)),
    }
}

fn misfit(field: &Field) -> ApiError {
    ApiError::bad_request(format!("field {} does not hold a {}", field.name, field.go_type()))
}

fn write_value(writer: &mut Writer, tag: u32, field: &'static Field, value: &Value) -> Result {
    let text = || value.as_str().ok_or_else(|| misfit(field));
    match field.kind {
        Kind::String => writer.text(tag, text()?),
        Kind::Bool => writer.int(tag, i64::from(value.as_bool().ok_or_else(|| misfit(field))?)),
        Kind::Int32 | Kind::Int64 => writer.int(tag, value.as_i64().ok_or_else(|| misfit(field))?),
        Kind::Double => writer.double(tag, value.as_f64().ok_or_else(|| misfit(field))?),
        Kind::Bytes => {
            let bytes = scalar::BASE64.decode(text()?).map_err(|_| misfit(field))?;
            writer.bytes(tag, &bytes);
        }
        Kind::Object(ty) => {
            let start = writer.begin(tag);
            write_message(writer, ty, value)?;
            writer.end(start);
        }
        Kind::Time | Kind::MicroTime => {
            let start = writer.begin(tag);
            // A null in a map or list is the zero time: an empty message.
            if !value.is_null() {
                let time: jiff::Timestamp = text()?.parse().map_err(|_| misfit(field))?;
                writer.int(1, time.as_second());
                writer.int(2, if field.kind == Kind::Time { 0 } else { i64::from(time.subsec_nanosecond()) });
            }
            writer.end(start);
        }
        Kind::Quantity => {
            let start = writer.begin(tag);
            match value {
                Value::Number(number) => writer.text(1, &number.to_string()),
                _ => writer.text(1, text()?),
            }
            writer.end(start);
        }
        Kind::IntOrString => {
            let start = writer.begin(tag);
            let (is_text, number, text) = match value {
                Value::String(text) => (1, 0, text.as_str()),
                _ => (0, value.as_i64().ok_or_else(|| misfit(field))?, ""),
            };
            writer.int(1, is_text);
            writer.int(2, number);
            writer.text(3, text);
            writer.end(start);
        }
        Kind::RawExtension | Kind::Json | Kind::FieldsV1 => {
            let start = writer.begin(tag);
            writer.bytes(1, value.to_string().as_bytes());
            writer.end(start);
        }
        Kind::Strings => {
            let start = writer.begin(tag);
            for item in value.as_array().ok_or_else(|| misfit(field))? {
                writer.text(1, item.as_str().ok_or_else(|| misfit(field))?);
            }
            writer.end(start);
        }
        Kind::SchemaOrArray | Kind::SchemaOrBool | Kind::SchemaOrStrings => {
            write_schema_or(writer, tag, field, value)?;
        }
    }
    Ok(())
}

fn write_schema_or(writer: &mut Writer, tag: u32, field: &'static Field, value: &Value) -> Result {
    let props = schema_props().ok_or_else(|| misfit(field))?;
    let start = writer.begin(tag);
    let schema = |writer: &mut Writer, tag: u32, value: &Value| -> Result {
        let start = writer.begin(tag);
        write_message(writer, props, value)?;
        writer.end(start);
        Ok(())
    };
    match (field.kind, value) {
        (Kind::SchemaOrBool, Value::Bool(allows)) => writer.int(1, i64::from(*allows)),
        (Kind::SchemaOrBool, Value::Object(_)) => {
            writer.int(1, 1);
            schema(writer, 2, value)?;
        }
        (_, Value::Object(_)) => schema(writer, 1, value)?,
        (Kind::SchemaOrArray, Value::Array(items)) => {
            items.iter().try_for_each(|item| schema(writer, 2, item))?;
        }
        (Kind::SchemaOrStrings, Value::Array(items)) => {
            for item in items {
                writer.text(2, item.as_str().ok_or_else(|| misfit(field))?);
            }
        }
        _ => return Err(misfit(field)),
    }
    writer.end(start);
    Ok(())
}
