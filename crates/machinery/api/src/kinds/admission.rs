//! Webhook configurations, admission policies, and the kinds that extend the API itself.

mod api_service;
mod policies;
mod webhooks;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Metadata;
use super::kind::{Kind, empty_status};
use super::print::{AGE, CREATED_AT, NAME, age, created_at_row, integer, name, or, string};
use super::tree::{child, default, ensure_map, flag, has, items_mut, list, same, text, value};
use crate::field::Path;
use crate::selector::LabelSelector;

pub(super) static VALIDATING_WEBHOOKS: Kind =
    Kind { default: |object| default_webhooks(object, false), ..WEBHOOKS };
pub(super) static MUTATING_WEBHOOKS: Kind =
    Kind { default: |object| default_webhooks(object, true), ..WEBHOOKS };

const WEBHOOKS: Kind = Kind {
    validate: webhooks::validate,
    columns: &[NAME, integer("Webhooks"), AGE],
    row: |object, now| vec![name(object), list(object, "webhooks").len().into(), age(object, now)],
    generation: true,
    changed: |new, old| !same(value(new, "webhooks"), value(old, "webhooks")),
    unconditional_update: false,
    metadata: Metadata { domains: false, ..Metadata::NEW },
    ..Kind::BASE
};

fn default_webhooks(object: &mut Value, mutating: bool) {
    for webhook in items_mut(object, "webhooks") {
        default(webhook, "failurePolicy", "Fail");
        default(webhook, "matchPolicy", "Equivalent");
        default(webhook, "namespaceSelector", json!({}));
        default(webhook, "objectSelector", json!({}));
        default(webhook, "timeoutSeconds", 10);
        if mutating {
            default(webhook, "reinvocationPolicy", "Never");
        }
        for rule in items_mut(webhook, "rules") {
            default(rule, "scope", "*");
        }
        if let Some(service) = child(webhook, "clientConfig").and_then(|c| child(c, "service")) {
            default(service, "port", 443);
        }
    }
}

pub(super) static VALIDATING_POLICY: Kind = Kind {
    default: policy_defaults,
    status: Some(empty_status),
    status_keeps_metadata: true,
    validate: policies::validating,
    validate_status: policies::status,
    columns: &[NAME, integer("Validations"), string("ParamKind"), AGE],
    row: |object, now| policy_row(object, "validations", now),
    generation: true,
    unconditional_update: false,
    metadata: Metadata { domains: false, ..Metadata::NEW },
    ..Kind::BASE
};

pub(super) static MUTATING_POLICY: Kind = Kind {
    default: policy_defaults,
    validate_create: |object, errors| policies::mutating(object, &Value::Null, errors),
    validate_update: policies::mutating,
    columns: &[NAME, integer("Mutations"), string("ParamKind"), AGE],
    row: |object, now| policy_row(object, "mutations", now),
    generation: true,
    unconditional_update: false,
    metadata: Metadata { domains: false, ..Metadata::NEW },
    ..Kind::BASE
};

fn policy_defaults(object: &mut Value) {
    let Some(spec) = ensure_map(object, "spec") else { return };
    default(spec, "failurePolicy", "Fail");
    if let Some(constraints) = child(spec, "matchConstraints") {
        match_resources(constraints);
    }
}

fn match_resources(resources: &mut Value) {
    default(resources, "matchPolicy", "Equivalent");
    default(resources, "namespaceSelector", json!({}));
    default(resources, "objectSelector", json!({}));
    for rules in ["resourceRules", "excludeResourceRules"] {
        for rule in items_mut(resources, rules) {
            default(rule, "scope", "*");
        }
    }
}

fn policy_row(object: &Value, rules: &str, now: Timestamp) -> Vec<Value> {
    let spec = value(object, "spec");
    let kind = value(spec, "paramKind");
    let kind = if kind.is_null() {
        "<unset>".to_owned()
    } else {
        format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind"))
    };
    vec![name(object), list(spec, rules).len().into(), kind.into(), age(object, now)]
}

pub(super) static VALIDATING_BINDING: Kind = Kind { validate: policies::validating_binding, ..BINDING };
pub(super) static MUTATING_BINDING: Kind = Kind { validate: policies::mutating_binding, ..BINDING };

const BINDING: Kind = Kind {
    default: |object| {
        if let Some(resources) = child(object, "spec").and_then(|s| child(s, "matchResources")) {
            match_resources(resources);
        }
    },
    columns: &[NAME, string("PolicyName"), string("ParamRef"), AGE],
    row: |object, now| {
        let spec = value(object, "spec");
        let parameter = value(spec, "paramRef");
        let shown = match text(parameter, "name") {
            "" if has(parameter, "selector") => LabelSelector::from_value(value(parameter, "selector"))
                .map_or_else(|e| e.to_string(), |s| s.to_string()),
            "" => "<unset>".to_owned(),
            parameter_name => format!("{}/{parameter_name}", or(text(parameter, "namespace"), "*")),
        };
        vec![name(object), text(spec, "policyName").into(), shown.into(), age(object, now)]
    },
    generation: true,
    unconditional_update: false,
    metadata: Metadata { domains: false, ..Metadata::NEW },
    ..Kind::BASE
};

pub(super) static API_SERVICE: Kind = Kind {
    default: |object| {
        if let Some(service) = child(object, "spec").and_then(|s| child(s, "service")) {
            default(service, "port", 443);
        }
    },
    status: Some(empty_status),
    validate: api_service::validate,
    validate_status: |new, _, errors| api_service::status(new, errors),
    // The name is judged together with the version and the group.
    name: |name, _| super::validate::path_segment(name, false),
    columns: &[NAME, string("Service"), string("Available"), AGE],
    row: |object, now| {
        let service = value(value(object, "spec"), "service");
        let shown = if service.is_null() {
            "Local".to_owned()
        } else {
            format!("{}/{}", text(service, "namespace"), text(service, "name"))
        };
        let condition =
            list(value(object, "status"), "conditions").iter().find(|c| text(c, "type") == "Available");
        let available = match condition.map(|c| (text(c, "status"), text(c, "reason"))) {
            Some(("True", _)) => "True".to_owned(),
            Some((status, reason)) => format!("{status} ({reason})"),
            None => "Unknown".to_owned(),
        };
        vec![name(object), shown.into(), available.into(), age(object, now)]
    },
    metadata: Metadata { domains: false, ..Metadata::CHANGE_NEW },
    ..Kind::BASE
};

pub(super) static CUSTOM_RESOURCE_DEFINITION: Kind = Kind {
    default: |object| {
        let Some(spec) = child(object, "spec") else { return };
        let scope_names = |spec: &Value| {
            let kind = text(value(spec, "names"), "kind").to_owned();
            (kind.to_lowercase(), format!("{kind}List"))
        };
        let (singular, list_kind) = scope_names(spec);
        if let Some(names) = ensure_map(spec, "names") {
            super::tree::default_text(names, "singular", &singular);
            if list_kind != "List" {
                super::tree::default_text(names, "listKind", &list_kind);
            }
        }
        if let Some(conversion) = ensure_map(spec, "conversion") {
            super::tree::default_text(conversion, "strategy", "None");
            if let Some(service) = child(conversion, "webhook")
                .and_then(|w| child(w, "clientConfig"))
                .and_then(|c| child(c, "service"))
            {
                default(service, "port", 443);
            }
        }
    },
    status: Some(|object| {
        let stored = list(value(object, "spec"), "versions").iter().find(|v| flag(v, "storage"));
        let stored: Vec<&str> = stored.into_iter().map(|v| text(v, "name")).collect();
        json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored})
    }),
    validate: |object, errors| {
        let spec = value(object, "spec");
        let path = Path::new("spec");
        let expected = format!("{}.{}", text(value(spec, "names"), "plural"), text(spec, "group"));
        let own = text(value(object, "metadata"), "name");
        if own != expected {
            let meta = Path::new("metadata");
            errors.invalid(&meta.child("name"), own, "must be spec.names.plural+\".\"+spec.group");
        }
        if text(spec, "group").is_empty() {
            errors.required(&path.child("group"), "");
        }
        super::pod::choice(spec, "scope", &["Cluster", "Namespaced"], &path, errors);
        let versions = list(spec, "versions");
        if versions.iter().filter(|v| flag(v, "storage")).count() != 1 {
            errors.invalid(
                &path.child("versions"),
                value(spec, "versions").clone(),
                "must have exactly one version marked as storage version",
            );
        }
        for (index, version) in versions.iter().enumerate() {
            if !has(value(version, "schema"), "openAPIV3Schema") {
                let at = path.child("versions");
                let at = at.index(index);
                let at = at.child("schema");
                errors.required(&at.child("openAPIV3Schema"), "schemas are required");
            }
        }
    },
    columns: CREATED_AT,
    row: created_at_row,
    generation: true,
    metadata: Metadata::EXTENSION,
    ..Kind::BASE
};

/// ComponentStatuses, which are made up when read.
pub(super) static COMPONENT_STATUS: Kind = Kind {
    columns: &[NAME, string("Status"), string("Message"), string("Error")],
    row: |object, _| {
        let healthy = list(object, "conditions").iter().find(|c| text(c, "type") == "Healthy");
        let state = match healthy.map(|c| text(c, "status")) {
            Some("True") => "Healthy",
            Some(_) => "Unhealthy",
            None => "Unknown",
        };
        let of = |field: &str| -> Value { healthy.map_or("", |c| text(c, field)).into() };
        vec![name(object), state.into(), of("message"), of("error")]
    },
    ..Kind::BASE
};

/// StorageVersionMigrations.
pub(super) static MIGRATION: Kind = Kind {
    status: Some(empty_status),
    columns: &[string("Name"), string("Resource"), string("Status")],
    row: |object, _| {
        let resource = value(value(object, "spec"), "resource");
        let group = text(resource, "group");
        let dot = if group.is_empty() { "" } else { "." };
        let state = list(value(object, "status"), "conditions").iter().rfind(|c| {
            text(c, "status") == "True" && matches!(text(c, "type"), "Running" | "Failed" | "Succeeded")
        });
        vec![
            name(object),
            format!("{}{dot}{group}", text(resource, "resource")).into(),
            state.map_or("Unknown", |c| text(c, "type")).into(),
        ]
    },
    unconditional_update: false,
    ..Kind::BASE
};
