//! Faults of webhook configurations. Source: `pkg/apis/admissionregistration/validation`.

use ahash::AHashSet;
use serde_json::Value;

use crate::field::{Errors, Path};
use crate::kinds::pod::optional_choice;
use crate::kinds::tree::{has, int, list, opt_int, text, value};
use crate::kinds::validate::{self, label_selector};

/// Versions of AdmissionReview that the server can send.
const REVIEWS: &str = "v1, v1beta1";

pub(super) fn validate(object: &Value, errors: &mut Errors) {
    let path = Path::new("webhooks");
    let mut names = AHashSet::new();
    for (index, webhook) in list(object, "webhooks").iter().enumerate() {
        let at = path.index(index);
        one(webhook, &at, errors);
        let name = text(webhook, "name");
        if !name.is_empty() && !names.insert(name) {
            errors.duplicate(&at.child("name"), name);
        }
    }
}

fn one(webhook: &Value, path: &Path<'_>, errors: &mut Errors) {
    qualified(text(webhook, "name"), &path.child("name"), errors);
    for (index, rule) in list(webhook, "rules").iter().enumerate() {
        let at = path.child("rules");
        rule_with_operations(rule, true, &at.index(index), errors);
    }
    optional_choice(webhook, "failurePolicy", &["Fail", "Ignore"], path, errors);
    optional_choice(webhook, "matchPolicy", &["Equivalent", "Exact"], path, errors);
    if has(webhook, "sideEffects") {
        optional_choice(webhook, "sideEffects", &["None", "NoneOnDryRun"], path, errors);
    } else {
        errors.required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun");
    }
    if let Some(seconds) = opt_int(webhook, "timeoutSeconds").filter(|s| !(1..=30).contains(s)) {
        let fault = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(&path.child("timeoutSeconds"), seconds, fault);
    }
    for field in ["namespaceSelector", "objectSelector"] {
        label_selector(value(webhook, field), &path.child(field), errors);
    }
    let client = value(webhook, "clientConfig");
    let at = path.child("clientConfig");
    match (has(client, "url"), has(client, "service")) {
        (true, false) => url(text(client, "url"), &at.child("url"), errors),
        (false, true) => service(value(client, "service"), &at.child("service"), errors),
        _ => errors.required(&at, "exactly one of url or service is required"),
    }
    optional_choice(webhook, "reinvocationPolicy", &["IfNeeded", "Never"], path, errors);
    match_conditions(webhook, path, errors);
    review_versions(webhook, &path.child("admissionReviewVersions"), errors);
}

/// A name of three parts at least.
fn qualified(name: &str, path: &Path<'_>, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    let faults = validate::subdomain(name);
    if !faults.is_empty() {
        errors.invalid(path, name, &faults.join(","));
    } else if name.split('.').count() < 3 {
        let fault = "should be a domain with at least three segments separated by dots";
        errors.invalid(path, name, fault);
    }
}

fn review_versions(webhook: &Value, path: &Path<'_>, errors: &mut Errors) {
    let versions: Vec<&str> =
        list(webhook, "admissionReviewVersions").iter().filter_map(Value::as_str).collect();
    if versions.is_empty() {
        errors.required(path, &format!("must specify one of {REVIEWS}"));
        return;
    }
    for (index, version) in versions.iter().enumerate() {
        if versions[..index].contains(version) {
            errors.invalid(&path.index(index), *version, "duplicate version");
            continue;
        }
        for fault in validate::label_1035(version) {
            errors.invalid(&path.index(index), *version, &fault);
        }
    }
    if !versions.iter().any(|version| matches!(*version, "v1" | "v1beta1")) {
        let all = value(webhook, "admissionReviewVersions").clone();
        errors.invalid(path, all, &format!("must include at least one of {REVIEWS}"));
    }
}

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];

/// What a webhook or a policy is asked about.
pub(super) fn rule_with_operations(rule: &Value, subresources: bool, path: &Path<'_>, errors: &mut Errors) {
    let operations: Vec<&str> = list(rule, "operations").iter().filter_map(Value::as_str).collect();
    let at = path.child("operations");
    if operations.is_empty() {
        errors.required(&at, "");
    }
    validate::lone_star(list(rule, "operations"), "operations", &at, errors);
    for (index, operation) in operations.iter().enumerate().filter(|(_, o)| !OPERATIONS.contains(o)) {
        errors.not_supported(&at.index(index), *operation, OPERATIONS);
    }
    for (field, what) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let at = path.child(field);
        if list(rule, field).is_empty() {
            errors.required(&at, "");
        }
        validate::lone_star(list(rule, field), what, &at, errors);
        if field == "apiVersions" {
            absent_items(rule, field, &at, errors);
        }
    }
    let at = path.child("resources");
    if subresources {
        resources(rule, &at, errors);
    } else {
        if list(rule, "resources").is_empty() {
            errors.required(&at, "");
        }
        absent_items(rule, "resources", &at, errors);
        validate::lone_star(list(rule, "resources"), "resources", &at, errors);
    }
    optional_choice(rule, "scope", &["*", "Cluster", "Namespaced"], path, errors);
}

fn absent_items(rule: &Value, field: &str, path: &Path<'_>, errors: &mut Errors) {
    for (index, _) in list(rule, field).iter().enumerate().filter(|(_, item)| *item == "") {
        errors.required(&path.index(index), "");
    }
}

fn resources(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    let items: Vec<&str> = list(rule, "resources").iter().filter_map(Value::as_str).collect();
    if items.is_empty() {
        errors.required(path, "");
    }
    // Resources whose every subresource was named, subresources that were named of every resource.
    let (mut whole, mut everywhere) = (AHashSet::new(), AHashSet::new());
    let mut bare = false;
    for (index, item) in items.iter().enumerate() {
        if item.is_empty() {
            errors.required(&path.index(index), "");
            continue;
        }
        let Some((resource, sub)) = item.split_once('/') else {
            bare = *item != "*";
            continue;
        };
        if whole.contains(resource) {
            let fault = format!("if '{resource}/*' is present, must not specify {item}");
            errors.invalid(&path.index(index), *item, &fault);
        }
        if everywhere.contains(sub) {
            let fault = format!("if '*/{sub}' is present, must not specify {item}");
            errors.invalid(&path.index(index), *item, &fault);
        }
        if sub == "*" {
            whole.insert(resource);
        }
        if resource == "*" {
            everywhere.insert(sub);
        }
    }
    let all = || value(rule, "resources").clone();
    if items.len() > 1 && items.contains(&"*/*") {
        errors.invalid(path, all(), "if '*/*' is present, must not specify other resources");
    }
    if items.contains(&"*") && bare {
        let fault = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(path, all(), fault);
    }
}

const FORM: &str = "; desired format: https://host[/path]";

fn url(url: &str, path: &Path<'_>, errors: &mut Errors) {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    if scheme != "https" {
        let fault = format!("'https' is the only allowed URL scheme{FORM}");
        errors.invalid(path, scheme, &fault);
    }
    let authority =
        if scheme.is_empty() { "" } else { rest.split(['/', '?', '#']).next().unwrap_or_default() };
    let (user, host) =
        authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if host.is_empty() {
        errors.invalid(path, host, &format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        errors.invalid(path, user, "user information is not permitted in the URL");
    }
    let (before, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    if !fragment.is_empty() {
        errors.invalid(path, fragment, "fragments are not permitted in the URL");
    }
    let query = before.split_once('?').map_or("", |(_, query)| query);
    if !query.is_empty() {
        errors.invalid(path, query, "query parameters are not permitted in the URL");
    }
}

fn service(service: &Value, path: &Path<'_>, errors: &mut Errors) {
    for field in ["name", "namespace"].iter().filter(|field| text(service, field).is_empty()) {
        errors.required(&path.child(field), "");
    }
    let port = int(service, "port");
    if let Some(fault) = validate::port_number(port) {
        errors.invalid(&path.child("port"), port, &format!("port is not valid: {fault}"));
    }
    let route = text(service, "path");
    let at = path.child("path");
    match route {
        "" | "/" => return,
        "//" => {
            errors.invalid(&at, route, "segment[0] may not be empty");
            return;
        }
        _ => {}
    }
    if !route.starts_with('/') {
        errors.invalid(&at, route, "must start with a '/'");
    }
    // The first character is passed over whatever it is, as upstream does.
    let mut rest = route.chars();
    rest.next();
    let rest = rest.as_str();
    for (index, segment) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if segment.is_empty() {
            errors.invalid(&at, route, &format!("segment[{index}] may not be empty"));
            continue;
        }
        for fault in validate::subdomain(segment) {
            errors.invalid(&at, route, &format!("segment[{index}]: {fault}"));
        }
    }
}

/// Conditions of a webhook or policy at most.
const MOST_CONDITIONS: usize = 64;

/// Names of conditions; their expressions are judged where they are compiled.
pub(super) fn match_conditions(object: &Value, path: &Path<'_>, errors: &mut Errors) {
    let conditions = list(object, "matchConditions");
    let at = path.child("matchConditions");
    if conditions.len() > MOST_CONDITIONS {
        errors.too_many(&at, conditions.len(), MOST_CONDITIONS);
    }
    let mut names = AHashSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let at = at.index(index);
        let name = text(condition, "name");
        if text(condition, "expression").trim().is_empty() {
            errors.required(&at.child("expression"), "");
        }
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else {
            for fault in validate::qualified_name(name) {
                errors.invalid(&at.child("name"), name, &fault);
            }
            if !names.insert(name) {
                errors.duplicate(&at.child("name"), name);
            }
        }
    }
}
