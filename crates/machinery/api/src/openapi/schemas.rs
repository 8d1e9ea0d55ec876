//! Definitions of types.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::Flavor;
use super::facts::Facts;
use super::routes::{Model, Route, capital};
use crate::schema::{Field, Kind, ListType, Shape, TypeId, by_name};

/// All types that operations refer to, and those that these refer to, by name.
pub(super) fn closure(routes: &[Route]) -> BTreeSet<TypeId> {
    let mut found = BTreeSet::new();
    let mut pending: Vec<TypeId> = Vec::new();
    for route in routes {
        pending.extend(route.body.map(|body| body.ty));
        if let Model::Type(ty) = route.model {
            pending.push(ty);
        }
    }
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

/// Writes definitions of types.
#[derive(Clone, Copy, Debug)]
pub(super) struct Definer<'a> {
    pub(super) flavor: Flavor,
    pub(super) facts: &'a Facts,
    /// The group version whose document it is; none for a document of all.
    pub(super) scope: Option<(&'a str, &'a str)>,
}

impl Definer<'_> {
    /// The definition of a type.
    pub(super) fn definition(self, ty: TypeId) -> Value {
        let mut definition = match (ty.name(), self.flavor) {
            ("api.resource.Quantity", Flavor::V2) => json!({"type": "string"}),
            ("api.resource.Quantity", Flavor::V3) => {
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]})
            }
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
            let properties: Map<String, Value> = fields
                .iter()
                .enumerate()
                .map(|(i, f)| (f.name.to_owned(), self.property(ty, i, f)))
                .collect();
            definition["properties"] = Value::Object(properties);
            let required: Vec<&str> = fields.iter().filter(|f| f.required()).map(|f| f.name).collect();
            if !required.is_empty() {
                definition["required"] = Value::from(required);
            }
        }
        let kinds = self.kinds(ty);
        if !kinds.is_empty() {
            definition["x-kubernetes-group-version-kind"] = Value::Array(kinds);
        }
        if ty.get().atomic {
            definition["x-kubernetes-map-type"] = Value::from("atomic");
        }
        if let Some(discriminator) = self.facts.union(ty) {
            definition["x-kubernetes-unions"] = json!([union(ty, discriminator)]);
        }
        definition
    }

    /// Every group, version and kind that the type is, in a document's own version or as one of the core group.
    fn kinds(self, ty: TypeId) -> Vec<Value> {
        let entry = |(group, version): (&str, &str), kind: &str| json!({"group": group, "version": version, "kind": kind});
        let scheme = || {
            let known = self.facts.scheme.iter().copied();
            known.filter(|found| self.scope.is_none_or(|scope| *found == scope || *found == ("", "v1")))
        };
        match ty.name() {
            "meta.v1.DeleteOptions" | "meta.v1.WatchEvent" => {
                scheme().map(|found| entry(found, ty.go_name())).collect()
            }
            "meta.v1.Status"
            | "meta.v1.APIGroup"
            | "meta.v1.APIGroupList"
            | "meta.v1.APIResourceList"
            | "meta.v1.APIVersions" => vec![entry(("", "v1"), ty.go_name())],
            _ => ty.gvk().map(|gvk| entry((gvk.group, gvk.version), gvk.kind)).into_iter().collect(),
        }
    }

    fn property(self, ty: TypeId, index: usize, field: &'static Field) -> Value {
        let values = self.facts.values(ty, field.name);
        let mut item = item(self.flavor, ty, field);
        let mut description = ty.field_description(index).into_owned();
        if !values.is_empty() {
            item["enum"] = values.iter().map(|value| Value::from(&**value)).collect();
            if field.shape == Shape::One {
                describe(&mut description, &values);
            }
        }
        let default = if self.flavor == Flavor::V3 { default(field) } else { None };
        let reference = field.shape == Shape::One && item.get("$ref").is_some();
        let mut property = match field.shape {
            Shape::One => item,
            Shape::List => json!({"type": "array", "items": item}),
            Shape::Map => json!({"type": "object", "additionalProperties": item}),
        };
        if !description.is_empty() {
            property["description"] = Value::from(description);
        }
        if let Some(default) = default {
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
        // In v3 nothing may stand beside a reference.
        if self.flavor == Flavor::V3
            && reference
            && let Some(members) = property.as_object_mut()
            && members.len() > 1
            && let Some(target) = members.remove("$ref")
        {
            members.insert("allOf".to_owned(), json!([{"$ref": target}]));
        }
        property
    }
}

/// Adds the values that there are to a description, as upstream does; it also says what each means.
fn describe(description: &mut String, values: &[Cow<'_, str>]) {
    description.push_str("\n\nPossible enum values:");
    for value in values {
        description.push_str("\n - `\"");
        description.push_str(value);
        description.push_str("\"`");
    }
}

/// All fields but the discriminator are alternatives, each chosen by its Go name.
fn union(ty: TypeId, discriminator: &str) -> Value {
    let fields = ty.fields().iter().filter(|f| f.name != discriminator);
    let fields: Map<String, Value> =
        fields.map(|f| (f.name.to_owned(), Value::from(capital(f.name)))).collect();
    let mut union = json!({"fields-to-discriminateBy": fields});
    if !discriminator.is_empty() {
        union["discriminator"] = Value::from(discriminator);
    }
    union
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
