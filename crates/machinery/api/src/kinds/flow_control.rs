//! Priority and fairness: which requests belong together, and how many of them may run. Source: `pkg/apis/flowcontrol`.

use serde_json::Value;

use super::Metadata;
use super::go;
use super::kind::{Kind, empty_status};
use super::print::{AGE, NAME, age, name, or, string};
use super::tree::{carry, child, default, default_int, flag, has, int, list, opt_int, set, text, value};
use super::validate;
use crate::field::{Errors, Path};

/// Faults of a status: upstream asks of its conditions only that each has a type of its own.
fn conditions(new: &Value, _old: &Value, errors: &mut Errors) {
    let status = Path::new("status");
    let path = status.child("conditions");
    let all = list(value(new, "status"), "conditions");
    let mut seen = ahash::AHashSet::new();
    for (index, condition) in all.iter().enumerate() {
        let kind = text(condition, "type");
        let at = path.index(index);
        if !seen.insert(kind) {
            errors.duplicate(&at.child("type"), kind);
        }
        if kind.is_empty() {
            errors.required(&at.child("type"), "");
        }
    }
}

pub(super) static FLOW_SCHEMA: Kind = Kind {
    default: |object| {
        if let Some(spec) = child(object, "spec") {
            default_int(spec, "matchingPrecedence", 1000);
        }
    },
    status: Some(empty_status),
    prepare_status: keep_metadata,
    validate_status: conditions,
    validate: flow_schema,
    columns: &[
        NAME,
        string("PriorityLevel"),
        string("MatchingPrecedence"),
        string("DistinguisherMethod"),
        AGE,
        string("MissingPL"),
    ],
    row: |object, now| {
        let spec = value(object, "spec");
        let dangling =
            list(value(object, "status"), "conditions").iter().find(|c| text(c, "type") == "Dangling");
        vec![
            name(object),
            text(value(spec, "priorityLevelConfiguration"), "name").into(),
            value(spec, "matchingPrecedence").clone(),
            or(text(value(spec, "distinguisherMethod"), "type"), "<none>").into(),
            age(object, now),
            dangling.map_or("?", |c| text(c, "status")).into(),
        ]
    },
    generation: true,
    metadata: Metadata::NEW,
    ..Kind::BASE
};

pub(super) static PRIORITY_LEVEL: Kind = Kind {
    default: |object| {
        let Some(spec) = child(object, "spec") else { return };
        if let Some(exempt) = child(spec, "exempt") {
            default(exempt, "nominalConcurrencyShares", 0);
            default(exempt, "lendablePercent", 0);
        }
        if let Some(limited) = child(spec, "limited") {
            default(limited, "nominalConcurrencyShares", 30);
            default(limited, "lendablePercent", 0);
            if let Some(queuing) = child(limited, "limitResponse").and_then(|r| child(r, "queuing")) {
                default_int(queuing, "queues", 64);
                default_int(queuing, "handSize", 8);
                default_int(queuing, "queueLengthLimit", 50);
            }
        }
    },
    status: Some(empty_status),
    prepare_status: keep_metadata,
    validate_status: conditions,
    validate: priority_level,
    columns: &[
        NAME,
        string("Type"),
        string("NominalConcurrencyShares"),
        string("Queues"),
        string("HandSize"),
        string("QueueLengthLimit"),
        AGE,
    ],
    row: |object, now| {
        let spec = value(object, "spec");
        let limited = value(spec, "limited");
        let queuing = value(value(limited, "limitResponse"), "queuing");
        let cell = |object: &Value, field: &str| match value(object, field) {
            Value::Null => "<none>".into(),
            number => number.clone(),
        };
        vec![
            name(object),
            text(spec, "type").into(),
            cell(limited, "nominalConcurrencyShares"),
            cell(queuing, "queues"),
            cell(queuing, "handSize"),
            cell(queuing, "queueLengthLimit"),
            age(object, now),
        ]
    },
    generation: true,
    metadata: Metadata::NEW,
    ..Kind::BASE
};

/// The most that `matchingPrecedence` may be.
const LAST: i64 = 10_000;

/// A status update changes nothing of metadata; the tracking of managers and what the update is conditional on are its own.
fn keep_metadata(new: &mut Value, old: &Value) {
    let given = value(new, "metadata");
    let mut meta = value(old, "metadata").clone();
    for field in ["managedFields", "resourceVersion", "uid"] {
        carry(&mut meta, given, field);
    }
    set(new, "metadata", meta);
}

fn flow_schema(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = value(object, "spec");
    let schema = text(value(object, "metadata"), "name");
    let precedence = int(spec, "matchingPrecedence");
    let at = path.child("matchingPrecedence");
    if precedence <= 0 {
        errors.invalid(&at, precedence, "must be a positive value");
    }
    if precedence > LAST {
        errors.invalid(&at, precedence, &format!("must not be greater than {LAST}"));
    }
    if precedence == 1 && schema != "exempt" {
        errors.invalid(&at, precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    let method = value(spec, "distinguisherMethod");
    if !method.is_null() && !matches!(text(method, "type"), "ByNamespace" | "ByUser") {
        let at = path.child("distinguisherMethod");
        let shown = go::shown("flowcontrol.v1.FlowDistinguisherMethod", method);
        errors.push(
            crate::field::Reason::NotSupported,
            &at.child("type"),
            format!("Unsupported value: {shown}: supported values: \"ByNamespace\", \"ByUser\""),
        );
    }
    let level = text(value(spec, "priorityLevelConfiguration"), "name");
    let at = path.child("priorityLevelConfiguration");
    if level.is_empty() {
        errors.required(&at.child("name"), "must reference a priority level");
    }
    validate::optional_subdomain(level, &at.child("name"), errors);
    for (index, rule) in list(spec, "rules").iter().enumerate() {
        let at = path.child("rules");
        flow_rule(rule, &at.index(index), errors);
    }
    for (index, condition) in list(value(object, "status"), "conditions").iter().enumerate() {
        if text(condition, "type").is_empty() {
            let at = Path::new("status");
            let at = at.child("conditions");
            errors.required(&at.index(index).child("type"), "");
        }
    }
}

fn flow_rule(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    let subjects = list(rule, "subjects");
    let at = path.child("subjects");
    if subjects.is_empty() {
        errors.required(&at, "subjects must contain at least one value");
    }
    for (index, one) in subjects.iter().enumerate() {
        subject(one, &at.index(index), errors);
    }
    let (resources, others) = (list(rule, "resourceRules"), list(rule, "nonResourceRules"));
    if resources.is_empty() && others.is_empty() {
        errors.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (index, rule) in resources.iter().enumerate() {
        let at = path.child("resourceRules");
        let at = at.index(index);
        verbs(rule, &at, errors);
        for (field, absent, others) in [
            ("apiGroups", "resource rules must supply at least one api group", "api groups"),
            ("resources", "resource rules must supply at least one resource", "resources"),
        ] {
            all_or_some(rule, field, absent, others, &at.child(field), errors);
        }
        namespaces(rule, &at.child("namespaces"), errors);
    }
    for (index, rule) in others.iter().enumerate() {
        let at = path.child("nonResourceRules");
        let at = at.index(index);
        verbs(rule, &at, errors);
        let absent = "nonResourceURLs must contain at least one value";
        let at = at.child("nonResourceURLs");
        if all_or_some(rule, "nonResourceURLs", absent, "non-resource URLs", &at, errors) {
            for (index, url) in texts(rule, "nonResourceURLs").iter().enumerate() {
                non_resource_url(url, &at.index(index), errors);
            }
        }
    }
}

fn texts<'a>(object: &'a Value, field: &str) -> Vec<&'a str> {
    list(object, field).iter().filter_map(Value::as_str).collect()
}

/// A list that is not empty, and that is `*` alone or without `*`. Whether its items are still to be looked at.
fn all_or_some(
    rule: &Value,
    field: &str,
    absent: &str,
    others: &str,
    path: &Path<'_>,
    errors: &mut Errors,
) -> bool {
    let items = list(rule, field);
    if items.is_empty() {
        errors.required(path, absent);
        return false;
    }
    !validate::lone_star(items, others, path, errors)
}

const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

fn verbs(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    let at = path.child("verbs");
    let rest = all_or_some(rule, "verbs", "verbs must contain at least one value", "verbs", &at, errors);
    if rest && texts(rule, "verbs").iter().any(|verb| !VERBS.contains(verb)) {
        errors.not_supported(&at, value(rule, "verbs").clone(), VERBS);
    }
}

fn namespaces(rule: &Value, path: &Path<'_>, errors: &mut Errors) {
    let names = texts(rule, "namespaces");
    if names.is_empty() {
        if !flag(rule, "clusterScope") {
            let absent = "resource rules that are not cluster scoped must supply at least one namespace";
            errors.required(path, absent);
        }
    } else if all_or_some(rule, "namespaces", "", "namespaces", path, errors) {
        for (index, name) in names.iter().enumerate() {
            for fault in validate::label(name) {
                let fault = format!("each member of this list must be '*' or a DNS-1123 label; {fault}");
                errors.invalid(&path.index(index), *name, &fault);
            }
        }
    }
}

fn non_resource_url(url: &str, path: &Path<'_>, errors: &mut Errors) {
    let fault = if url.is_empty() {
        "must not be empty"
    } else if url == "/" {
        return;
    } else if !url.starts_with('/') {
        "must start with slash"
    } else if url.contains(' ') {
        "must not contain white-space"
    } else if url.contains("//") {
        "must not contain double slash"
    } else if url.contains('*') && (!url.ends_with("/*") || url.matches('*').count() > 1) {
        "wildcard can only do suffix matching"
    } else {
        return;
    };
    errors.invalid(path, url, fault);
}

/// Kinds of subjects, the field of each, and what is said when another's field is set.
const SUBJECTS: [(&str, &str); 3] =
    [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

fn subject(subject: &Value, path: &Path<'_>, errors: &mut Errors) {
    let kind = text(subject, "kind");
    let Some((_, own)) = SUBJECTS.iter().find(|(known, _)| *known == kind) else {
        errors.not_supported(&path.child("kind"), kind, &["Group", "ServiceAccount", "User"]);
        return;
    };
    let content = value(subject, own);
    let at = path.child(own);
    if content.is_null() {
        errors.required(&at, &format!("{own} is required when subject kind is '{kind}'"));
    } else {
        let name = text(content, "name");
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        }
        if kind == "ServiceAccount" {
            if name != "*" {
                validate::optional_subdomain(name, &at.child("name"), errors);
            }
            let namespace = text(content, "namespace");
            let at = at.child("namespace");
            if namespace.is_empty() {
                errors.required(&at, "must specify namespace for service account");
            } else {
                validate::label(namespace).iter().for_each(|fault| errors.invalid(&at, namespace, fault));
            }
        }
    }
    for (other, field) in SUBJECTS.iter().filter(|(_, field)| field != own) {
        if has(subject, field) {
            let fault = format!("{field} is forbidden when subject kind is not '{other}'");
            errors.forbidden(&path.child(field), &fault);
        }
    }
}

fn priority_level(object: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let spec = value(object, "spec");
    let kind = text(spec, "type");
    let exempt = text(value(object, "metadata"), "name") == "exempt";
    if exempt != (kind == "Exempt") {
        errors.invalid(&path.child("type"), kind, "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    match kind {
        "Exempt" => {
            if has(spec, "limited") {
                errors.forbidden(&path.child("limited"), "must be nil if the type is not Limited");
            }
            shares(value(spec, "exempt"), &path.child("exempt"), errors);
        }
        "Limited" => {
            if has(spec, "exempt") {
                errors.forbidden(&path.child("exempt"), "must be nil if the type is Limited");
            }
            let at = path.child("limited");
            if has(spec, "limited") {
                limited(value(spec, "limited"), &at, errors);
            } else {
                errors.required(&at, "must not be empty when type is Limited");
            }
        }
        other => errors.not_supported(&path.child("type"), other, &["Exempt", "Limited"]),
    }
}

fn shares(level: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(shares) = opt_int(level, "nominalConcurrencyShares").filter(|shares| *shares < 0) {
        errors.invalid(&path.child("nominalConcurrencyShares"), shares, "must be a non-negative integer");
    }
    if let Some(percent) = opt_int(level, "lendablePercent").filter(|p| !(0..=100).contains(p)) {
        errors.invalid(&path.child("lendablePercent"), percent, "must be between 0 and 100, inclusive");
    }
}

/// Hands of so many queues, dealt from so many, must have fewer bits than a hash has.
const HASH_BITS: f64 = 60.0;
/// The most queues.
const MOST_QUEUES: i64 = 10_000_000;

fn limited(level: &Value, path: &Path<'_>, errors: &mut Errors) {
    shares(level, path, errors);
    if let Some(percent) = opt_int(level, "borrowingLimitPercent").filter(|percent| *percent < 0) {
        let fault = "if specified, must be a non-negative integer";
        errors.invalid(&path.child("borrowingLimitPercent"), percent, fault);
    }
    let response = value(level, "limitResponse");
    let path = path.child("limitResponse");
    let at = path.child("queuing");
    match (text(response, "type"), has(response, "queuing")) {
        ("Reject", true) => {
            errors.forbidden(&at, "must be nil if limited.limitResponse.type is not Limited");
        }
        ("Reject", false) => {}
        ("Queue", true) => queuing(value(response, "queuing"), &at, errors),
        ("Queue", false) => {
            errors.required(&at, "must not be empty if limited.limitResponse.type is Limited");
        }
        (other, _) => errors.not_supported(&path.child("type"), other, &["Queue", "Reject"]),
    }
}

fn queuing(queuing: &Value, path: &Path<'_>, errors: &mut Errors) {
    let (queues, hand) = (int(queuing, "queues"), int(queuing, "handSize"));
    if int(queuing, "queueLengthLimit") <= 0 {
        let at = path.child("queueLengthLimit");
        errors.invalid(&at, int(queuing, "queueLengthLimit"), "must be positive");
    }
    let at = path.child("queues");
    if queues <= 0 {
        errors.invalid(&at, queues, "must be positive");
    } else if queues > MOST_QUEUES {
        errors.invalid(&at, queues, &format!("must not be greater than {MOST_QUEUES}"));
    }
    let at = path.child("handSize");
    if hand <= 0 {
        errors.invalid(&at, hand, "must be positive");
    } else if hand > queues {
        errors.invalid(&at, hand, &format!("should not be greater than queues ({queues})"));
    } else if entropy(queues, hand) > HASH_BITS {
        let fault = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        errors.invalid(&at, hand, &fault);
    }
}

/// Bits that the choice of a hand from a deck takes: a factor for each card that is dealt.
fn entropy(deck: i64, hand: i64) -> f64 {
    // More cards than a hash has bits are too many whatever the deck; decks have at most ten million cards.
    (0..hand.min(64))
        .filter_map(|card| u32::try_from(deck - card).ok())
        .map(|left| f64::from(left).log2())
        .sum::<f64>()
        .ceil()
}
