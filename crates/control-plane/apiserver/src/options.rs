//! Query parameters of reads and writes, checked as upstream checks them.

use std::borrow::Cow;

use podium_api::codec::FieldValidation;
use podium_api::field::{Errors, Path, Reason};
use podium_api::selector::{FieldSelector, LabelSelector};
use podium_api::status::ApiError;
use serde_json::{Value, json};

use crate::catalogue::Served;
use crate::field_labels;
use crate::request::{Query, RequestInfo};
use crate::storage::Selection;

/// Options of create, update and patch.
#[derive(Clone, Debug)]
pub(crate) struct WriteOptions {
    /// Nothing is stored.
    pub(crate) dry_run: bool,
    /// What becomes of unknown fields.
    pub(crate) validation: FieldValidation,
    /// Whether an apply takes fields that others own.
    pub(crate) force: bool,
    /// The options as an object, for admission.
    pub(crate) object: Value,
}

/// Reads the options of a patch; only an apply may be forced, and it must name its manager.
///
/// Errors: 422 naming every bad option.
pub(crate) fn patch(query: &Query, apply: bool) -> Result<WriteOptions, ApiError> {
    let mut errors = Errors::new();
    if !apply && query.has("force") {
        errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
    }
    if apply && query.first("fieldManager").unwrap_or_default().is_empty() {
        errors.required(&Path::new("fieldManager"), "is required for apply patch");
    }
    let mut write = read_write(query, "PatchOptions", errors)?;
    if apply && query.has("force") {
        write.force = query.truthy("force");
        write.object["force"] = json!(write.force);
    }
    Ok(write)
}

/// Reads the options of a write. `kind` is `CreateOptions` or `UpdateOptions`.
///
/// Errors: 422 naming every bad option.
pub(crate) fn write(query: &Query, kind: &str) -> Result<WriteOptions, ApiError> {
    read_write(query, kind, Errors::new())
}

fn read_write(query: &Query, kind: &str, mut errors: Errors) -> Result<WriteOptions, ApiError> {
    let dry_run = dry_run(query.all("dryRun"), &mut errors);
    let directive = query.first("fieldValidation").unwrap_or_default();
    let validation = match directive {
        "" | "Warn" => FieldValidation::Warn,
        "Ignore" => FieldValidation::Ignore,
        "Strict" => FieldValidation::Strict,
        other => {
            let allowed = ["", "Ignore", "Strict", "Warn"];
            errors.not_supported(&Path::new("fieldValidation"), other, &allowed);
            FieldValidation::Warn
        }
    };
    let manager = query.first("fieldManager").unwrap_or_default();
    if manager.len() > 128 {
        errors.too_long(&Path::new("fieldManager"), 128);
    }
    if let Some((at, c)) = manager.chars().enumerate().find(|(_, c)| c.is_control()) {
        let why = format!("invalid character U+{:04X} (at position {at})", c as u32);
        errors.invalid(&Path::new("fieldManager"), manager, &why);
    }
    refuse(kind, &errors)?;
    let mut object = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if dry_run {
        object["dryRun"] = json!(["All"]);
    }
    if !manager.is_empty() {
        object["fieldManager"] = json!(manager);
    }
    if !directive.is_empty() {
        object["fieldValidation"] = json!(directive);
    }
    Ok(WriteOptions { dry_run, validation, force: false, object })
}

/// Whether `dryRun` is asked for; anything but `All` is a fault, nothing at all included: who leaves the value out does
/// not want a write either.
fn dry_run<'v>(values: impl Iterator<Item = &'v str>, errors: &mut Errors) -> bool {
    let values: Vec<&str> = values.collect();
    if values.iter().any(|value| *value != "All") {
        errors.not_supported(&Path::new("dryRun"), json!(values), &["All"]);
    }
    !values.is_empty()
}

fn refuse(kind: &str, errors: &Errors) -> Result<(), ApiError> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid("meta.k8s.io", kind, "", errors)) }
}

/// What becomes of dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// They lose their owner and stay.
    Orphan,
    /// They go after the owner.
    Background,
    /// They go before the owner.
    Foreground,
}

/// Options of a delete.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    /// Seconds until the object is gone, if it is deleted gracefully.
    pub(crate) grace_seconds: Option<i64>,
    /// The object must have this uid.
    pub(crate) uid: Option<String>,
    /// The object must have this resourceVersion.
    pub(crate) resource_version: Option<String>,
    /// The old form of `propagation`.
    pub(crate) orphan_dependents: Option<bool>,
    /// What becomes of dependents.
    pub(crate) propagation: Option<Propagation>,
    /// Nothing is deleted.
    pub(crate) dry_run: bool,
    /// The options as an object, for admission.
    pub(crate) object: Value,
}

impl DeleteOptions {
    /// Reads the options of a delete from its decoded body, or from the query if there is none.
    ///
    /// Errors: 422 naming every bad option.
    pub(crate) fn read(body: Option<&Value>, query: &Query) -> Result<DeleteOptions, ApiError> {
        let from_query;
        let object = match body {
            Some(body) => body,
            None => {
                from_query = query_object(query)?;
                &from_query
            }
        };
        let mut errors = Errors::new();
        let propagation = match object["propagationPolicy"].as_str() {
            None => None,
            Some("Orphan") => Some(Propagation::Orphan),
            Some("Background") => Some(Propagation::Background),
            Some("Foreground") => Some(Propagation::Foreground),
            Some(other) => {
                let allowed = ["Foreground", "Background", "Orphan", "nil"];
                errors.not_supported(&Path::new("propagationPolicy"), other, &allowed);
                None
            }
        };
        let orphan_dependents = object["orphanDependents"].as_bool();
        if let (Some(_), Some(policy)) = (orphan_dependents, object["propagationPolicy"].as_str()) {
            errors.invalid(
                &Path::new("propagationPolicy"),
                policy,
                "orphanDependents and deletionPropagation cannot be both set",
            );
        }
        let asked = object["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let dry_run = dry_run(asked, &mut errors);
        refuse("DeleteOptions", &errors)?;
        let text = |name: &str| object["preconditions"][name].as_str().map(str::to_owned);
        Ok(DeleteOptions {
            grace_seconds: object["gracePeriodSeconds"].as_i64(),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            orphan_dependents,
            propagation,
            dry_run,
            object: object.clone(),
        })
    }
}

fn query_object(query: &Query) -> Result<Value, ApiError> {
    let mut object = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
    if let Some(text) = query.first("gracePeriodSeconds") {
        object["gracePeriodSeconds"] = json!(integer(text)?);
    }
    if let Some(text) = query.first("propagationPolicy") {
        object["propagationPolicy"] = json!(text);
    }
    if query.has("orphanDependents") {
        object["orphanDependents"] = json!(query.truthy("orphanDependents"));
    }
    let dry: Vec<&str> = query.all("dryRun").collect();
    if !dry.is_empty() {
        object["dryRun"] = json!(dry);
    }
    Ok(object)
}

fn integer(text: &str) -> Result<i64, ApiError> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    text.parse().map_err(|error: std::num::ParseIntError| {
        let why = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        ApiError::bad_request(format!("strconv.ParseInt: parsing {text:?}: {why}"))
    })
}

/// How `resourceVersion` of a read is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// The newest state.
    Latest,
    /// Any state, the cache's.
    Any,
    /// At least as new as this.
    NotOlderThan(u64),
    /// Exactly this state.
    Exact(u64),
}

/// Options of get, list and watch.
#[derive(Clone, Debug)]
pub(crate) struct ListOptions {
    /// What is selected.
    pub(crate) selection: Selection,
    /// The most items; 0 for all.
    pub(crate) limit: usize,
    /// Where to go on.
    pub(crate) continue_token: Option<String>,
    /// The raw `resourceVersion`.
    pub(crate) resource_version: String,
    /// Of a list.
    pub(crate) freshness: Freshness,
    /// Seconds after which a watch ends.
    pub(crate) timeout_seconds: Option<u64>,
    /// Whether bookmarks may be sent.
    pub(crate) bookmarks: bool,
    /// Whether a watch begins with what is there.
    pub(crate) send_initial_events: Option<bool>,
}

/// Reads the options of a list or watch.
///
/// Errors: 400 for what does not parse, 422 for combinations that have no meaning.
pub(crate) fn list(
    query: &Query,
    info: &RequestInfo,
    served: &Served,
    watch: bool,
) -> Result<ListOptions, ApiError> {
    let text = |name: &str| query.first(name).unwrap_or_default();
    let labels = LabelSelector::parse(text("labelSelector")).map_err(|error| {
        ApiError::bad_request(format!("unable to parse requirement: {error}").replace(
            "unable to parse requirement: unable to parse requirement: ",
            "unable to parse requirement: ",
        ))
    })?;
    let mut fields = FieldSelector::parse(text("fieldSelector"))
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    let limit = match text("limit") {
        "" => 0,
        text => usize::try_from(integer(text)?).unwrap_or(0),
    };
    let continues = !text("continue").is_empty();
    let send_initial_events = query.has("sendInitialEvents").then(|| query.truthy("sendInitialEvents"));
    let version = text("resourceVersion");
    let matching = text("resourceVersionMatch");
    let mut errors = Errors::new();
    check_version_match(watch, version, matching, continues, send_initial_events, &mut errors);
    refuse("ListOptions", &errors)?;
    // What can be said without the kind is said before the kind is asked for its fields.
    fields = fields.map_fields(|label| field_labels::resolve(served, label).map(Cow::into_owned))?;
    if !info.name.is_empty() {
        match fields.exact_requirement("metadata.name") {
            Some(name) if name == info.name => {}
            None if fields.is_everything() => {
                fields = FieldSelector::parse(&format!("metadata.name={}", info.name))
                    .map_err(|error| ApiError::bad_request(error.to_string()))?;
            }
            _ => {
                return Err(ApiError::bad_request(
                    "fieldSelector metadata.name doesn't match requested name",
                ));
            }
        }
    }
    // A watch does not read in pages: the token means nothing to it.
    let continue_token = Some(text("continue")).filter(|_| continues && !watch).map(str::to_owned);
    let number = revision(version)?;
    // From the cache, all at once: upstream's clients rely on it to learn that they need not read in pages.
    let limit = if number == Some(0) && continue_token.is_none() { 0 } else { limit };
    let freshness = match (number, matching) {
        (None, _) => Freshness::Latest,
        (Some(0), _) => Freshness::Any,
        (Some(number), "Exact") => Freshness::Exact(number),
        // The old meaning of a limit with a version and no match, which clients still rely on.
        (Some(number), "") if limit > 0 => Freshness::Exact(number),
        (Some(number), _) => Freshness::NotOlderThan(number),
    };
    if continue_token.is_some() && !version.is_empty() && version != "0" {
        return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
    }
    let timeout_seconds = match text("timeoutSeconds") {
        "" => None,
        text => u64::try_from(integer(text)?).ok().filter(|seconds| *seconds > 0),
    };
    Ok(ListOptions {
        selection: Selection { labels, fields },
        limit,
        continue_token,
        resource_version: version.to_owned(),
        freshness,
        timeout_seconds,
        bookmarks: query.truthy("allowWatchBookmarks"),
        send_initial_events,
    })
}

/// The revision in a `resourceVersion`, `None` if it is empty.
///
/// Errors: 400 if it is not a number.
pub(crate) fn revision(text: &str) -> Result<Option<u64>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        ApiError::bad_request(format!(
            "invalid resource version: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
        ))
    })
}

fn check_version_match(
    watch: bool,
    version: &str,
    matching: &str,
    continues: bool,
    initial: Option<bool>,
    errors: &mut Errors,
) {
    let path = Path::new("resourceVersionMatch");
    let initial_path = Path::new("sendInitialEvents");
    if !watch {
        if !matching.is_empty() {
            if version.is_empty() {
                errors
                    .forbidden(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if continues {
                errors.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
            }
            if !matches!(matching, "Exact" | "NotOlderThan") {
                errors.not_supported(&path, matching, &["Exact", "NotOlderThan", ""]);
            }
            if matching == "Exact" && version == "0" {
                errors.forbidden(
                    &path,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                );
            }
        }
        if initial.is_some() {
            errors.forbidden(&initial_path, "sendInitialEvents is forbidden for list");
        }
        return;
    }
    if initial.is_some() && matching != "NotOlderThan" {
        errors.forbidden(&path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if !matching.is_empty() {
        if initial.is_none() {
            errors.forbidden(
                &path,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        if matching != "NotOlderThan" {
            errors.not_supported(&path, matching, &["NotOlderThan"]);
        }
        if continues {
            errors.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
        }
    }
}

/// What a table's rows carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

/// Reads `includeObject`.
///
/// Errors: 400.
pub(crate) fn include_object(query: &Query) -> Result<IncludeObject, ApiError> {
    match query.first("includeObject").unwrap_or_default() {
        "" | "Metadata" => Ok(IncludeObject::Metadata),
        "Object" => Ok(IncludeObject::Object),
        "None" => Ok(IncludeObject::None),
        other => {
            let mut errors = Errors::new();
            let why = "must be 'Metadata', 'Object', 'None', or empty";
            errors.push(
                Reason::Invalid,
                &Path::new("includeObject"),
                format!("Invalid value: {other:?}: {why}"),
            );
            Err(ApiError::bad_request(format!("Unable to convert to Table as requested: {}", errors.0[0])))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused<T: std::fmt::Debug>(read: Result<T, ApiError>, expected: &str) {
        assert_eq!(read.expect_err("it is refused").message, expected);
    }

    #[test]
    fn a_dry_run_is_asked_for_by_its_name() {
        assert!(write(&Query::parse("dryRun=All&dryRun=All"), "CreateOptions").unwrap().dry_run);
        assert!(!write(&Query::parse(""), "CreateOptions").unwrap().dry_run);
        let why = "is invalid: dryRun: Unsupported value: [\"\"]: supported values: \"All\"";
        for query in ["dryRun=", "dryRun"] {
            let query = Query::parse(query);
            refused(write(&query, "CreateOptions"), &format!("CreateOptions.meta.k8s.io \"\" {why}"));
            refused(DeleteOptions::read(None, &query), &format!("DeleteOptions.meta.k8s.io \"\" {why}"));
        }
    }

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        assert_eq!(integer("-1").unwrap(), -1);
        refused(integer("1x"), "strconv.ParseInt: parsing \"1x\": invalid syntax");
        refused(
            integer("99999999999999999999"),
            "strconv.ParseInt: parsing \"99999999999999999999\": value out of range",
        );
    }
}
