//! OpenAPI v2 in the protobuf form of gnostic (`openapi.v2.Document`), which clients without v3 ask for.
//!
//! Source: `OpenAPIv2.proto` of google/gnostic-models. The JSON pieces of the document are transcoded one at a time by
//! small tables of tags; extensions travel as YAML text, and JSON is YAML.

use serde_json::{Map, Value};

use super::parameters::Shared;
use super::schemas::{self, Definer};
use super::{Flavor, paths};
use crate::codec::protobuf::wire::Writer;
use crate::resources::Selection;

/// The document as bytes.
pub(super) fn encode(served: &Selection) -> Vec<u8> {
    let mut writer = Writer::with_capacity(2 << 20);
    writer.text(1, "2.0");
    nested(&mut writer, 2, |w| {
        w.text(1, "Kubernetes");
        w.text(2, super::VERSION);
    });
    let (facts, routes) = super::all(served);
    let mut shared = Shared::default();
    nested(&mut writer, 8, |w| {
        for (name, item) in paths::v2(&routes, &mut shared) {
            named(w, 2, &name, |w| path_item(w, &item));
        }
    });
    nested(&mut writer, 9, |w| {
        let definer = Definer { flavor: Flavor::V2, facts: &facts, scope: None };
        for ty in schemas::closure(&routes) {
            let definition = definer.definition(ty);
            named(w, 1, &ty.openapi_name(), |w| schema(w, &definition));
        }
    });
    nested(&mut writer, 10, |w| {
        for (name, parameter) in shared.into_map() {
            named(w, 1, &name, |w| own_parameter(w, &parameter));
        }
    });
    nested(&mut writer, 12, |w| named(w, 1, "BearerToken", |_| {}));
    nested(&mut writer, 13, |w| {
        let token = super::bearer_token();
        named(w, 1, "BearerToken", |w| {
            // The second alternative of the item is an API key.
            nested(w, 2, |w| texts(w, &token, &[(1, "type"), (2, "name"), (3, "in"), (4, "description")]));
        });
    });
    writer.into_bytes()
}

pub(super) fn nested(writer: &mut Writer, tag: u32, fill: impl FnOnce(&mut Writer)) {
    let start = writer.begin(tag);
    fill(writer);
    writer.end(start);
}

/// A `Named...` message: a name and a value.
pub(super) fn named(writer: &mut Writer, tag: u32, name: &str, fill: impl FnOnce(&mut Writer)) {
    nested(writer, tag, |w| {
        w.text(1, name);
        nested(w, 2, fill);
    });
}

/// String fields, by tag and name, where they are there.
pub(super) fn texts(writer: &mut Writer, object: &Value, fields: &[(u32, &str)]) {
    for (tag, name) in fields {
        if let Some(text) = object.get(*name).and_then(Value::as_str) {
            writer.text(*tag, text);
        }
    }
}

/// A list of strings.
pub(super) fn lists(writer: &mut Writer, object: &Value, tag: u32, name: &str) {
    for text in items(object, name).iter().filter_map(Value::as_str) {
        writer.text(tag, text);
    }
}

pub(super) fn items<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    object.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn members<'a>(object: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object.get(name).and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

/// All `x-` members.
pub(super) fn extensions(writer: &mut Writer, object: &Value, tag: u32) {
    for (name, value) in
        object.as_object().into_iter().flat_map(Map::iter).filter(|(name, _)| name.starts_with("x-"))
    {
        named(writer, tag, name, |w| w.text(2, &format!("{value}\n")));
    }
}

fn path_item(writer: &mut Writer, item: &Value) {
    const METHODS: [(u32, &str); 7] =
        [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")];
    for (tag, method) in METHODS {
        if let Some(found) = item.get(method) {
            nested(writer, tag, |w| operation(w, found));
        }
    }
    for found in items(item, "parameters") {
        parameter(writer, 9, found);
    }
}

fn operation(writer: &mut Writer, operation: &Value) {
    lists(writer, operation, 1, "tags");
    texts(writer, operation, &[(3, "description"), (5, "operationId")]);
    lists(writer, operation, 6, "produces");
    lists(writer, operation, 7, "consumes");
    for found in items(operation, "parameters") {
        parameter(writer, 8, found);
    }
    nested(writer, 9, |w| {
        for (status, response) in members(operation, "responses") {
            named(w, 1, status, |w| {
                nested(w, 1, |w| {
                    texts(w, response, &[(1, "description")]);
                    if let Some(found) = response.get("schema") {
                        nested(w, 2, |w| nested(w, 1, |w| schema(w, found)));
                    }
                });
            });
        }
    });
    lists(writer, operation, 10, "schemes");
    extensions(writer, operation, 13);
}

/// `ParametersItem { parameter | json_reference }`.
fn parameter(writer: &mut Writer, tag: u32, parameter: &Value) {
    nested(writer, tag, |w| {
        if parameter.get("$ref").is_some() {
            nested(w, 2, |w| texts(w, parameter, &[(1, "$ref")]));
        } else {
            nested(w, 1, |w| own_parameter(w, parameter));
        }
    });
}

/// `Parameter { body_parameter | non_body_parameter { query | path } }`.
fn own_parameter(writer: &mut Writer, parameter: &Value) {
    let required = parameter.get("required") == Some(&Value::Bool(true));
    match parameter.get("in").and_then(Value::as_str).unwrap_or_default() {
        "body" => nested(writer, 1, |w| {
            texts(w, parameter, &[(1, "description"), (2, "name"), (3, "in")]);
            if required {
                w.int(4, 1);
            }
            if let Some(found) = parameter.get("schema") {
                nested(w, 5, |w| schema(w, found));
            }
        }),
        "path" => nested(writer, 2, |w| {
            nested(w, 4, |w| {
                w.int(1, 1);
                texts(w, parameter, &[(2, "in"), (3, "description"), (4, "name"), (5, "type")]);
                w.int(19, 1);
            });
        }),
        _ => nested(writer, 2, |w| {
            nested(w, 3, |w| {
                texts(w, parameter, &[(2, "in"), (3, "description"), (4, "name"), (6, "type")]);
                w.int(20, 1);
            });
        }),
    }
}

fn schema(writer: &mut Writer, schema_: &Value) {
    texts(writer, schema_, &[(1, "$ref"), (2, "format"), (4, "description")]);
    lists(writer, schema_, 19, "required");
    for value in items(schema_, "enum") {
        nested(writer, 20, |w| w.text(2, &format!("{value}\n")));
    }
    if let Some(additional) = schema_.get("additionalProperties") {
        nested(writer, 21, |w| nested(w, 1, |w| schema(w, additional)));
    }
    if let Some(ty) = schema_.get("type").and_then(Value::as_str) {
        nested(writer, 22, |w| w.text(1, ty));
    }
    if let Some(item) = schema_.get("items") {
        nested(writer, 23, |w| nested(w, 1, |w| schema(w, item)));
    }
    if schema_.get("properties").is_some() {
        nested(writer, 25, |w| {
            for (name, property) in members(schema_, "properties") {
                named(w, 1, name, |w| schema(w, property));
            }
        });
    }
    extensions(writer, schema_, 31);
}
