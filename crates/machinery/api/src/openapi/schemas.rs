//! Definitions of types.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Flavor;
use crate::resources::Selection;
use crate::schema::{Field, Kind, ListType, Shape, TypeId, by_name, type_of};

/// All types that the documents of a group version refer to, by name.
pub(super) fn closure(served: &Selection, group: &str, version: &str) -> BTreeSet<TypeId> {
    let mut found = BTreeSet::new();
    let mut pending: Vec<TypeId> = Vec::new();
    for resource in served.of(group, version) {
        pending.extend(type_of(group, version, resource.kind));
        pending.extend(type_of(group, version, &format!("{}List", resource.kind)));
        for subresource in resource.subresources {
            let (group, version) = subresource.group_version(resource);
            pending.extend(type_of(group, version, subresource.kind));
        }
    }
    let common = [
        "meta.v1.APIResourceList",
        "meta.v1.DeleteOptions",
        "meta.v1.Patch",
        "meta.v1.Status",
        "meta.v1.WatchEvent",
    ];
    pending.extend(common.iter().filter_map(|name| by_name(name)));
    while let Some(ty) = pending.pop() {
        if found.insert(ty) {
            let fields = ty.fields().iter();
            pending.extend(fields.filter_map(|field| referred(ty, field)));
            // `JSONSchemaPropsOr...` refer to it without fields.
            if ty.name().starts_with("apiextensions.v1.JSONSchemaPropsOr") {
                pending.extend(by_name("apiextensions.v1.JSONSchemaProps"));
            }
        }
    }
    found
}

/// All types that any served document refers to, by name.
pub(super) fn served(served: &Selection) -> BTreeSet<TypeId> {
    let versions =
        served.groups().into_iter().flat_map(|(g, versions)| versions.into_iter().map(move |v| (g, v)));
    versions.flat_map(|(group, version)| closure(served, group, version)).collect()
}

/// The type a field's value or items refer to, if they are not plain.
fn referred(holder: TypeId, field: &Field) -> Option<TypeId> {
    let name = match field.kind {
        Kind::Object(ty) => return Some(ty),
        Kind::Time => "meta.v1.Time",
        Kind::MicroTime => "meta.v1.MicroTime",
        Kind::Quantity => "api.resource.Quantity",
        Kind::IntOrString => "util.intstr.IntOrString",
        Kind::RawExtension => "pkg.runtime.RawExtension",
        Kind::FieldsV1 => "meta.v1.FieldsV1",
        Kind::Json if holder.go_name() == "CustomResourceSubresources" => {
            "apiextensions.v1.CustomResourceSubresourceStatus"
        }
        Kind::Json => "apiextensions.v1.JSON",
        Kind::SchemaOrArray => "apiextensions.v1.JSONSchemaPropsOrArray",
        Kind::SchemaOrBool => "apiextensions.v1.JSONSchemaPropsOrBool",
        Kind::SchemaOrStrings => "apiextensions.v1.JSONSchemaPropsOrStringArray",
        Kind::String
        | Kind::Bool
        | Kind::Int32
        | Kind::Int64
        | Kind::Double
        | Kind::Bytes
        | Kind::Strings => return None,
    };
    by_name(name)
}

/// A reference to a definition.
pub(super) fn reference(flavor: Flavor, ty: TypeId) -> Value {
    let root = match flavor {
        Flavor::V2 => "#/definitions/",
        Flavor::V3 => "#/components/schemas/",
    };
    json!({"$ref": format!("{root}{}", ty.openapi_name())})
}

/// The definition of a type.
pub(super) fn definition(flavor: Flavor, served: &Selection, ty: TypeId) -> Value {
    let mut definition = match (ty.name(), flavor) {
        ("api.resource.Quantity", Flavor::V2) => json!({"type": "string"}),
        ("api.resource.Quantity", Flavor::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        ("util.intstr.IntOrString", Flavor::V2) => json!({"type": "string", "format": "int-or-string"}),
        ("util.intstr.IntOrString", Flavor::V3) => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        ("meta.v1.Time" | "meta.v1.MicroTime", _) => json!({"type": "string", "format": "date-time"}),
        (name, _) if name.starts_with("apiextensions.v1.JSON") && ty.fields().is_empty() => json!({}),
        _ => json!({"type": "object"}),
    };
    let description = ty.description();
    if !description.is_empty() {
        definition["description"] = Value::from(description.into_owned());
    }
    let fields = ty.fields();
    if !fields.is_empty() {
        let properties: Map<String, Value> =
            fields.iter().enumerate().map(|(i, f)| (f.name.to_owned(), property(flavor, ty, i, f))).collect();
        definition["properties"] = Value::Object(properties);
        let required: Vec<&str> = fields.iter().filter(|f| f.required()).map(|f| f.name).collect();
        if !required.is_empty() {
            definition["required"] = Value::from(required);
        }
    }
    let kinds = kinds(served, ty);
    if !kinds.is_empty() {
        definition["x-kubernetes-group-version-kind"] = Value::Array(kinds);
    }
    if ty.get().atomic {
        definition["x-kubernetes-map-type"] = Value::from("atomic");
    }
    definition
}

/// Every group, version and kind that the type serves as.
fn kinds(served: &Selection, ty: TypeId) -> Vec<Value> {
    let entry =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    match ty.name() {
        "meta.v1.DeleteOptions" | "meta.v1.WatchEvent" => served
            .groups()
            .iter()
            .flat_map(|(group, versions)| versions.iter().map(|v| entry(group, v, ty.go_name())))
            .collect(),
        "meta.v1.Status"
        | "meta.v1.APIGroup"
        | "meta.v1.APIGroupList"
        | "meta.v1.APIResourceList"
        | "meta.v1.APIVersions" => vec![entry("", "v1", ty.go_name())],
        _ => ty.gvk().map(|gvk| entry(gvk.group, gvk.version, gvk.kind)).into_iter().collect(),
    }
}

fn property(flavor: Flavor, ty: TypeId, index: usize, field: &'static Field) -> Value {
    let item = item(flavor, ty, field);
    let mut property = match field.shape {
        // In v3 nothing may stand beside a reference.
        Shape::One if flavor == Flavor::V3 && item.get("$ref").is_some() => json!({"allOf": [item]}),
        Shape::One => item,
        Shape::List => json!({"type": "array", "items": with_default(flavor, item, field)}),
        Shape::Map => json!({"type": "object", "additionalProperties": with_default(flavor, item, field)}),
    };
    let description = ty.field_description(index);
    if !description.is_empty() {
        property["description"] = Value::from(description.into_owned());
    }
    if flavor == Flavor::V3
        && let Some(default) = default(field)
    {
        property["default"] = default;
    }
    let list_type = match field.list_type() {
        ListType::Unset => None,
        ListType::Atomic => Some("atomic"),
        ListType::Set => Some("set"),
        ListType::Map => Some("map"),
    };
    let extra = field.extra();
    for (name, value) in [
        ("x-kubernetes-list-type", list_type),
        ("x-kubernetes-map-type", extra.map_type),
        ("x-kubernetes-patch-merge-key", extra.merge_key),
        ("x-kubernetes-patch-strategy", extra.patch_strategy),
    ] {
        if let Some(value) = value {
            property[name] = Value::from(value);
        }
    }
    if !extra.list_map_keys.is_empty() {
        property["x-kubernetes-list-map-keys"] = Value::from(extra.list_map_keys.clone());
    }
    property
}

/// The schema of a value, or of one item.
fn item(flavor: Flavor, holder: TypeId, field: &Field) -> Value {
    if let Some(target) = referred(holder, field) {
        return reference(flavor, target);
    }
    match field.kind {
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Int32 => json!({"type": "integer", "format": "int32"}),
        Kind::Int64 => json!({"type": "integer", "format": "int64"}),
        Kind::Double => json!({"type": "number", "format": "double"}),
        Kind::Bytes => json!({"type": "string", "format": "byte"}),
        Kind::Strings => json!({"type": "array", "items": {"type": "string"}}),
        _ => json!({"type": "string"}),
    }
}

/// Items of lists and maps have the zero value for their default in v3.
fn with_default(flavor: Flavor, mut item: Value, field: &Field) -> Value {
    if flavor == Flavor::V2 {
        return item;
    }
    match field.kind {
        Kind::Object(_) => json!({"allOf": [item], "default": {}}),
        Kind::String => {
            item["default"] = Value::from("");
            item
        }
        Kind::Int32 | Kind::Int64 => {
            item["default"] = Value::from(0);
            item
        }
        _ => item,
    }
}

/// The default of a field: the declared one, or the zero value that Go always writes.
fn default(field: &Field) -> Option<Value> {
    if let Some(json) = field.default_json() {
        return serde_json::from_str(json).ok();
    }
    if field.shape != Shape::One || field.is_pointer() {
        return None;
    }
    match field.kind {
        Kind::Object(_) => Some(json!({})),
        _ if field.omits_empty() => None,
        Kind::String => Some(Value::from("")),
        Kind::Bool => Some(Value::Bool(false)),
        Kind::Int32 | Kind::Int64 => Some(Value::from(0)),
        _ => None,
    }
}

/// Whether a definition of this name exists; tests use it to find dangling references.
#[cfg(test)]
pub(super) fn exists(openapi_name: &str) -> bool {
    crate::schema::all().any(|ty| ty.openapi_name() == openapi_name)
}
