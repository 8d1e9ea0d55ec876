//! Tables and partial metadata: the shapes kubectl and metadata informers ask for.

use podium_api::codec;
use serde_json::{Map, Value, json};

use crate::catalogue::Served;
use crate::negotiate::MetaVersion;
use crate::options::IncludeObject;

/// `PartialObjectMetadata` of an object.
pub(crate) fn partial(object: &Value, version: MetaVersion) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": version.api_version(),
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// `PartialObjectMetadataList` of objects.
pub(crate) fn partial_list(objects: &[Value], version: MetaVersion, metadata: &Value) -> Value {
    let items: Vec<Value> = objects.iter().map(|object| partial(object, version)).collect();
    json!({
        "kind": "PartialObjectMetadataList",
        "apiVersion": version.api_version(),
        "metadata": metadata,
        "items": items,
    })
}

/// A table of one object, as get, update and watch send it.
pub(crate) fn of_one(served: &Served, version: MetaVersion, include: IncludeObject, object: Value) -> Value {
    let revision = object["metadata"]["resourceVersion"].clone();
    of_many(served, version, include, vec![object], &json!({"resourceVersion": revision}))
}

/// A table of objects as they are stored; those that rows carry are in the served version.
pub(crate) fn of_many(
    served: &Served,
    version: MetaVersion,
    include: IncludeObject,
    objects: Vec<Value>,
    metadata: &Value,
) -> Value {
    let now = jiff::Timestamp::now();
    let rows: Vec<Value> = objects
        .into_iter()
        .map(|object| {
            let cells = served.rules.row(&object, now);
            let mut row = Map::new();
            row.insert("cells".to_owned(), Value::Array(cells));
            let carried = match include {
                IncludeObject::None => None,
                IncludeObject::Metadata => Some(partial(&object, version)),
                IncludeObject::Object if served.as_stored() => Some(object),
                IncludeObject::Object => codec::convert(object, &served.group, &served.version).ok(),
            };
            row.insert("object".to_owned(), carried.unwrap_or(Value::Null));
            Value::Object(row)
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": version.api_version(),
        "metadata": metadata,
        "columnDefinitions": columns(served),
        "rows": rows,
    })
}

fn columns(served: &Served) -> Value {
    served
        .rules
        .columns()
        .iter()
        .map(|column| {
            json!({
                "name": column.name, "type": column.kind, "format": column.format,
                "description": column.description, "priority": column.priority,
            })
        })
        .collect()
}
