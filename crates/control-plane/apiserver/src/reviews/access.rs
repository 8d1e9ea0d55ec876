//! SubjectAccessReview in its four forms.

use std::collections::BTreeMap;

use podium_api::field::{Errors, Path};
use podium_api::kinds::{invalid_struct, validate};
use podium_api::selector::{FieldSelector, LabelSelector};
use podium_api::status::ApiError;
use serde_json::{Value, json};

use super::Create;
use crate::authentication::User;
use crate::authorization::node::node_of;
use crate::authorization::{Attributes, Authorizer, Decision, MASTERS};
use crate::objects::{items, text};

const GROUP: &str = "authorization.k8s.io";

/// `subjectaccessreviews`: about anybody, anywhere.
pub(super) fn subject(authorizer: &Authorizer, create: Create<'_>) -> Result<Value, ApiError> {
    let mut body = create.body;
    let mut errors = Errors::new();
    check_spec(&body, true, &mut errors);
    check_metadata_empty(&body, false, &mut errors);
    refuse(&errors)?;
    let user = subject_of(&body);
    answer(authorizer, &user, &mut body);
    Ok(body)
}

/// `localsubjectaccessreviews`: about anybody, in one namespace.
pub(super) fn local(authorizer: &Authorizer, create: Create<'_>) -> Result<Value, ApiError> {
    let mut body = create.body;
    let mut errors = Errors::new();
    check_spec(&body, true, &mut errors);
    check_metadata_empty(&body, true, &mut errors);
    let namespace = text(&body, "/metadata/namespace");
    let asked = text(&body, "/spec/resourceAttributes/namespace");
    if present(&body, "/spec/resourceAttributes") && asked != namespace {
        let path = Path::new("spec.resourceAttributes.namespace");
        errors.invalid(&path, asked, "must match metadata.namespace");
    }
    if let Some(given) = body.pointer("/spec/nonResourceAttributes").filter(|v| !v.is_null()) {
        let path = Path::new("spec.nonResourceAttributes");
        errors.invalid(&path, given.clone(), "disallowed on this kind of request");
    }
    refuse(&errors)?;
    if create.namespace.is_empty() {
        return Err(ApiError::bad_request("namespace is required on this type: "));
    }
    if create.namespace != namespace {
        return Err(ApiError::bad_request(format!(
            "spec.resourceAttributes.namespace must match namespace: {}",
            create.namespace
        )));
    }
    let user = subject_of(&body);
    answer(authorizer, &user, &mut body);
    Ok(body)
}

/// `selfsubjectaccessreviews`: about who asks.
pub(super) fn own(authorizer: &Authorizer, create: Create<'_>) -> Result<Value, ApiError> {
    let mut body = create.body;
    let mut errors = Errors::new();
    check_spec(&body, false, &mut errors);
    check_metadata_empty(&body, false, &mut errors);
    refuse(&errors)?;
    answer(authorizer, create.user, &mut body);
    Ok(body)
}

/// `selfsubjectrulesreviews`: what who asks may do in a namespace.
pub(super) fn rules(authorizer: &Authorizer, user: &User, body: &Value) -> Result<Value, ApiError> {
    let namespace = text(body, "/spec/namespace");
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let (rules, mut errors) = authorizer.rbac().rules_for(user, namespace);
    let mut resource: Vec<Value> = Vec::new();
    let mut other: Vec<Value> = Vec::new();
    if user.in_group(MASTERS) {
        resource.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
        other.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
    }
    for rule in &rules {
        if rule.resources.is_empty() {
            other.push(rule.to_value());
        } else {
            let mut shown = rule.clone();
            shown.urls.clear();
            resource.push(shown.to_value());
        }
    }
    let node = node_of(user).is_some();
    if node {
        errors.insert(0, "node authorizer does not support user rule resolution".to_owned());
    }
    let mut status = json!({"resourceRules": resource, "nonResourceRules": other, "incomplete": node});
    match errors.as_slice() {
        [] => {}
        [one] => status["evaluationError"] = Value::from(one.clone()),
        many => status["evaluationError"] = Value::from(format!("[{}]", many.join(", "))),
    }
    Ok(json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "SelfSubjectRulesReview",
        "metadata": {}, "spec": {}, "status": status,
    }))
}

/// Upstream has lost the kind where it refuses one.
fn refuse(errors: &Errors) -> Result<(), ApiError> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(GROUP, "", "", errors)) }
}

fn present(body: &Value, pointer: &str) -> bool {
    body.pointer(pointer).is_some_and(|v| !v.is_null())
}

fn check_spec(body: &Value, names_subject: bool, errors: &mut Errors) {
    let spec = Path::new("spec");
    let resource = body.pointer("/spec/resourceAttributes").filter(|v| !v.is_null());
    let other = body.pointer("/spec/nonResourceAttributes").filter(|v| !v.is_null());
    match (resource, other) {
        (Some(_), Some(other)) => {
            let path = spec.child("nonResourceAttributes");
            let why = "cannot be specified in combination with resourceAttributes";
            invalid_struct("authorization.v1.NonResourceAttributes", other, why, &path, errors);
        }
        (None, None) => errors.invalid(
            &spec.child("resourceAttributes"),
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
    if names_subject && text(body, "/spec/user").is_empty() && items(body, "/spec/groups").is_empty() {
        errors.invalid(&spec.child("user"), "", "at least one of user or group must be specified");
    }
    for field in ["fieldSelector", "labelSelector"] {
        let Some(selector) = resource.and_then(|r| r.get(field)).filter(|v| !v.is_null()) else { continue };
        let attributes = Path::new("spec.resourceAttributes");
        let path = attributes.child(field);
        let raw = text(selector, "/rawSelector");
        let requirements = !items(selector, "/requirements").is_empty();
        if !raw.is_empty() && requirements {
            let detail = "may not specified at the same time as requirements";
            errors.invalid(&path.child("rawSelector"), raw, detail);
        }
        if raw.is_empty() && !requirements {
            let detail = format!("when {path} is specified, requirements or rawSelector is required");
            errors.required(&path.child("requirements"), &detail);
        }
        let at = path.child("requirements");
        for (index, requirement) in items(selector, "/requirements").iter().enumerate() {
            check_requirement(requirement, field == "labelSelector", &at.index(index), errors);
        }
    }
}

/// One requirement of a selector; an operator that is not known may be a newer client's.
fn check_requirement(requirement: &Value, of_labels: bool, path: &Path<'_>, errors: &mut Errors) {
    const KNOWN: [&str; 4] = ["In", "NotIn", "Exists", "DoesNotExist"];
    let known = KNOWN.contains(&text(requirement, "/operator"));
    let mut faults = Errors::new();
    validate::label_selector_at(requirement, path, &mut faults);
    let (operator, of_values) = (path.child("operator").to_string(), path.child("values").to_string());
    errors.0.extend(
        faults.0.into_iter().filter(|fault| {
            if fault.field == operator { known } else { of_labels || fault.field == of_values }
        }),
    );
    if !of_labels && text(requirement, "/key").is_empty() {
        errors.required(&path.child("key"), "must be specified");
    }
}

fn check_metadata_empty(body: &Value, namespace_allowed: bool, errors: &mut Errors) {
    let Some(metadata) = body["metadata"].as_object() else { return };
    let extra = metadata.iter().any(|(key, value)| {
        let allowed = key == "managedFields" || (namespace_allowed && key == "namespace");
        // The zero creationTimestamp that older clients send is null.
        !allowed && !value.is_null()
    });
    if extra {
        let detail = if namespace_allowed { "must be empty except for namespace" } else { "must be empty" };
        let path = Path::new("metadata");
        invalid_struct("meta.v1.ObjectMeta", &body["metadata"], detail, &path, errors);
    }
}

fn subject_of(body: &Value) -> User {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let spec = &body["spec"];
    let extra: BTreeMap<String, Vec<String>> = spec["extra"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, values)| (key.clone(), texts(values)))
        .collect();
    User {
        name: text(spec, "/user").to_owned(),
        uid: text(spec, "/uid").to_owned(),
        groups: texts(&spec["groups"]),
        extra,
    }
}

/// Decides what `spec` asks about this user and writes `status`.
fn answer(authorizer: &Authorizer, user: &User, body: &mut Value) {
    let mut faults: Vec<&str> = Vec::new();
    let decision = match body.pointer("/spec/resourceAttributes").filter(|v| !v.is_null()) {
        Some(asked) => {
            let fields = field_selector(&asked["fieldSelector"], &mut faults);
            let labels = label_selector(&asked["labelSelector"], &mut faults);
            authorizer.authorize(&Attributes {
                version: text(asked, "/version"),
                subresource: text(asked, "/subresource"),
                namespace: text(asked, "/namespace"),
                name: text(asked, "/name"),
                field_selector: &fields,
                label_selector: &labels,
                ..Attributes::resource(
                    user,
                    text(asked, "/verb"),
                    text(asked, "/group"),
                    text(asked, "/resource"),
                )
            })
        }
        None => {
            let asked = &body["spec"]["nonResourceAttributes"];
            authorizer.authorize(&Attributes::path(user, text(asked, "/verb"), text(asked, "/path")))
        }
    };
    let mut status = json!({"allowed": decision.allowed()});
    if matches!(decision, Decision::Deny { .. }) {
        status["denied"] = Value::from(true);
    }
    if !decision.reason().is_empty() {
        status["reason"] = Value::from(decision.reason());
    }
    if !faults.is_empty() {
        status["evaluationError"] = Value::from(faults.join(", "));
    }
    body["status"] = status;
}

/// The selector as query text. What cannot be understood is left out: the question is then a broader one.
fn field_selector(selector: &Value, faults: &mut Vec<&'static str>) -> String {
    let raw = text(selector, "/rawSelector");
    if !raw.is_empty() {
        if FieldSelector::parse(raw).is_ok() {
            return raw.to_owned();
        }
        faults.push("spec.resourceAttributes.fieldSelector ignored due to parse error");
        return String::new();
    }
    let mut parts = Vec::new();
    let mut dropped = false;
    for requirement in items(selector, "/requirements") {
        let values = items(requirement, "/values");
        let sign = match text(requirement, "/operator") {
            "In" => "=",
            "NotIn" => "!=",
            _ => "",
        };
        match values {
            [Value::String(value)] if !sign.is_empty() => {
                parts.push(format!("{}{sign}{}", text(requirement, "/key"), escape_field(value)));
            }
            _ => dropped = true,
        }
    }
    if dropped {
        faults.push(if parts.is_empty() {
            "spec.resourceAttributes.fieldSelector ignored due to parse error"
        } else {
            "spec.resourceAttributes.fieldSelector partially ignored due to parse error"
        });
    }
    parts.join(",")
}

fn escape_field(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

fn label_selector(selector: &Value, faults: &mut Vec<&'static str>) -> String {
    let raw = text(selector, "/rawSelector");
    let parsed = if raw.is_empty() {
        let requirements = items(selector, "/requirements");
        if requirements.is_empty() {
            return String::new();
        }
        LabelSelector::from_value(&json!({"matchExpressions": requirements}))
    } else {
        LabelSelector::parse(raw)
    };
    match parsed {
        Ok(selector) => selector.to_string(),
        Err(_) => {
            faults.push("spec.resourceAttributes.labelSelector ignored due to parse error");
            String::new()
        }
    }
}
