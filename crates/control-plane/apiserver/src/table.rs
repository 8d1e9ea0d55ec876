//! Tables and partial metadata: the shapes kubectl and metadata informers ask for.

use podium_api::codec;
use podium_api::kinds::print;
use serde_json::{Value, json};

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

/// A `PartialObjectMetadataList` without its items.
pub(crate) fn partial_list_head(version: MetaVersion, metadata: &Value) -> Value {
    json!({"kind": "PartialObjectMetadataList", "apiVersion": version.api_version(), "metadata": metadata})
}

/// `PartialObjectMetadataList` of objects.
pub(crate) fn partial_list(objects: &[Value], version: MetaVersion, metadata: &Value) -> Value {
    let mut list = partial_list_head(version, metadata);
    list["items"] = objects.iter().map(|object| partial(object, version)).collect();
    list
}

/// A table of one object, as get, update and watch send it.
pub(crate) fn of_one(served: &Served, version: MetaVersion, include: IncludeObject, object: Value) -> Value {
    let revision = object["metadata"]["resourceVersion"].clone();
    of_many(served, version, include, vec![object], &json!({"resourceVersion": revision}))
}

/// A table without its rows.
pub(crate) fn head(served: &Served, version: MetaVersion, metadata: &Value) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": version.api_version(),
        "metadata": metadata,
        "columnDefinitions": columns(served),
    })
}

/// The row of an object as it is stored; the object that the row carries is in the served version.
pub(crate) fn row(
    served: &Served,
    version: MetaVersion,
    include: IncludeObject,
    object: Value,
    now: jiff::Timestamp,
) -> Value {
    let cells = served.rules.row(&object, now);
    let carried = match include {
        IncludeObject::None => None,
        IncludeObject::Metadata => Some(partial(&object, version)),
        IncludeObject::Object if served.as_stored() => Some(object),
        IncludeObject::Object => codec::convert(object, &served.group, &served.version).ok(),
    };
    json!({"cells": cells, "object": carried})
}

/// A table of objects as they are stored.
pub(crate) fn of_many(
    served: &Served,
    version: MetaVersion,
    include: IncludeObject,
    objects: Vec<Value>,
    metadata: &Value,
) -> Value {
    let now = jiff::Timestamp::now();
    let mut table = head(served, version, metadata);
    table["rows"] = objects.into_iter().map(|object| row(served, version, include, object, now)).collect();
    table
}

fn columns(served: &Served) -> Value {
    served
        .rules
        .columns()
        .iter()
        .map(|column| {
            json!({
                "name": column.name, "type": column.kind, "format": column.format,
                "description": print::description(&served.kind, column.name), "priority": column.priority,
            })
        })
        .collect()
}
