//! OpenAPI v3 in the protobuf form of gnostic (`openapi.v3.Document`).
//!
//! Source: `OpenAPIv3.proto` of google/gnostic-models. As with v2, the JSON pieces of a document are transcoded by tables of
//! tags. A default that is an object is an empty message there: gnostic has plain ones only.

use serde_json::Value;

use super::gnostic::{extensions, items, lists, members, named, nested, texts};
use super::schemas::{self, Definer};
use super::{Flavor, part, paths};
use crate::codec::protobuf::wire::Writer;
use crate::resources::Selection;

/// The document as bytes.
pub(super) fn encode(served: &Selection, path: &str) -> Option<Vec<u8>> {
    let (facts, scope, routes) = part(served, path)?;
    let mut writer = Writer::with_capacity(1 << 20);
    writer.text(1, "3.0.0");
    nested(&mut writer, 2, |w| {
        w.text(1, "Kubernetes");
        w.text(6, super::VERSION);
    });
    nested(&mut writer, 4, |w| {
        for (name, item) in paths::v3(&routes) {
            named(w, 1, &name, |w| path_item(w, &item));
        }
    });
    nested(&mut writer, 5, |w| {
        let definer = Definer { flavor: Flavor::V3, facts: &facts, scope: Some(scope) };
        let types = schemas::closure(&routes);
        if !types.is_empty() {
            nested(w, 1, |w| {
                for ty in types {
                    let definition = definer.definition(ty);
                    named(w, 1, &ty.openapi_name(), |w| schema_or_reference(w, &definition));
                }
            });
        }
        nested(w, 7, |w| {
            let token = super::bearer_token();
            named(w, 1, "BearerToken", |w| {
                nested(w, 1, |w| {
                    texts(w, &token, &[(1, "type"), (2, "description"), (3, "name"), (4, "in")]);
                });
            });
        });
    });
    Some(writer.into_bytes())
}

fn path_item(writer: &mut Writer, item: &Value) {
    const METHODS: [(u32, &str); 7] =
        [(4, "get"), (5, "put"), (6, "post"), (7, "delete"), (8, "options"), (9, "head"), (10, "patch")];
    for (tag, method) in METHODS {
        if let Some(found) = item.get(method) {
            nested(writer, tag, |w| operation(w, found));
        }
    }
    for found in items(item, "parameters") {
        nested(writer, 13, |w| nested(w, 1, |w| parameter(w, found)));
    }
}

fn operation(writer: &mut Writer, operation: &Value) {
    lists(writer, operation, 1, "tags");
    texts(writer, operation, &[(3, "description"), (5, "operationId")]);
    for found in items(operation, "parameters") {
        nested(writer, 6, |w| nested(w, 1, |w| parameter(w, found)));
    }
    if let Some(body) = operation.get("requestBody") {
        nested(writer, 7, |w| {
            nested(w, 1, |w| {
                content(w, 2, body);
                boolean(w, 3, body, "required");
            });
        });
    }
    nested(writer, 8, |w| {
        for (status, response) in members(operation, "responses") {
            named(w, 2, status, |w| {
                nested(w, 1, |w| {
                    texts(w, response, &[(1, "description")]);
                    content(w, 3, response);
                });
            });
        }
    });
    extensions(writer, operation, 13);
}

fn parameter(writer: &mut Writer, parameter: &Value) {
    texts(writer, parameter, &[(1, "name"), (2, "in"), (3, "description")]);
    boolean(writer, 4, parameter, "required");
    if let Some(found) = parameter.get("schema") {
        nested(writer, 10, |w| schema_or_reference(w, found));
    }
}

/// `MediaTypes`, where there are any.
fn content(writer: &mut Writer, tag: u32, holder: &Value) {
    if holder.get("content").is_none() {
        return;
    }
    nested(writer, tag, |w| {
        for (media, value) in members(holder, "content") {
            named(w, 1, media, |w| {
                if let Some(found) = value.get("schema") {
                    nested(w, 1, |w| schema_or_reference(w, found));
                }
            });
        }
    });
}

fn boolean(writer: &mut Writer, tag: u32, holder: &Value, name: &str) {
    if holder.get(name) == Some(&Value::Bool(true)) {
        writer.int(tag, 1);
    }
}

/// `SchemaOrReference { schema | reference }`.
fn schema_or_reference(writer: &mut Writer, found: &Value) {
    // A schema may have a property of that name, which is an object.
    if found.get("$ref").is_some_and(Value::is_string) {
        nested(writer, 2, |w| texts(w, found, &[(1, "$ref")]));
    } else {
        nested(writer, 1, |w| schema(w, found));
    }
}

fn schema(writer: &mut Writer, found: &Value) {
    boolean(writer, 20, found, "uniqueItems");
    lists(writer, found, 23, "required");
    for value in items(found, "enum") {
        nested(writer, 24, |w| w.text(2, &format!("{value}\n")));
    }
    texts(writer, found, &[(25, "type")]);
    for (tag, name) in [(26, "allOf"), (27, "oneOf")] {
        for alternative in items(found, name) {
            nested(writer, tag, |w| schema_or_reference(w, alternative));
        }
    }
    if let Some(item) = found.get("items") {
        nested(writer, 30, |w| nested(w, 1, |w| schema_or_reference(w, item)));
    }
    if found.get("properties").is_some() {
        nested(writer, 31, |w| {
            for (name, property) in members(found, "properties") {
                named(w, 1, name, |w| schema_or_reference(w, property));
            }
        });
    }
    if let Some(additional) = found.get("additionalProperties") {
        nested(writer, 32, |w| nested(w, 1, |w| schema_or_reference(w, additional)));
    }
    if let Some(default) = found.get("default") {
        nested(writer, 33, |w| match default {
            Value::Number(number) => w.double(1, number.as_f64().unwrap_or_default()),
            Value::Bool(value) => w.int(2, i64::from(*value)),
            Value::String(text) => w.text(3, text),
            _ => {}
        });
    }
    texts(writer, found, &[(34, "description"), (35, "format")]);
    extensions(writer, found, 36);
}
