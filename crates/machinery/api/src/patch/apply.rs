//! Server-side apply and the tracking of who owns which field (`metadata.managedFields`).
//!
//! Both are pure: the caller reads the live object, calls one of these, and writes the result if it differs.
//! [`server_side_apply`] answers `PATCH` with `application/apply-patch+yaml`; [`track`] follows every other write.
//! Objects are in the served version of the request.
//!
//! Source: KEP-555 and structured-merge-diff's `merge.Updater`. Differences: a manager's earlier configuration in
//! another version of the API is not pruned from, and the `last-applied-configuration` annotation is left alone.

mod managers;

use serde_json::{Map, Value};

use super::field_set::FieldSet;
use super::typed::{self, Node};
use crate::codec::{self, FieldValidation};
use crate::resources::split_api_version;
use crate::schema::{self, TypeId};
use crate::status::ApiError;
use managers::{Entry, Managers, Operation};

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The `fieldManager` parameter, or the beginning of the user agent.
    pub manager: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339 with whole seconds.
    pub now: &'a str,
    /// Paths that this request cannot change: `[["status"]]` for the object itself, `[["spec"]]` for its status.
    pub reset: &'a [&'a [&'a str]],
}

/// Paths that nobody owns.
const STRIPPED: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "clusterName"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

/// Reads the body of an apply request: YAML, of which JSON is a part.
///
/// # Errors
/// 400 if it is malformed.
pub fn parse(body: &[u8]) -> Result<Value, ApiError> {
    let malformed = |why: &str| ApiError::bad_request(format!("error decoding YAML: {why}"));
    let (config, _) = codec::yaml::to_json(body).map_err(|e| malformed(&e))?;
    if config.is_object() { Ok(config) } else { Err(malformed("the configuration is not an object")) }
}

/// Applies a configuration to a live object; `live` is null if there is none yet.
///
/// The result is in canonical form, not defaulted. If it equals `live`, nothing is to be written.
///
/// # Errors
/// 400 another version or managed fields in the configuration, 409 with one cause per field that another manager owns
/// (unless forced), 500 a configuration that does not fit its type, in upstream's words.
pub fn server_side_apply(
    live: &Value,
    config: &Value,
    ty: TypeId,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApiError> {
    let (api_version, kind) = codec::kind_of(config);
    let expected = expected_version(live, ty);
    if !expected.is_empty() && api_version != expected {
        return Err(ApiError::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {api_version}, expected: {expected}"
        )));
    }
    if !config["metadata"]["managedFields"].is_null() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let node = Node::Struct(ty);
    let mut config = config.clone();
    let mut errors = Vec::new();
    typed::check(node, &mut config, "", &mut errors);
    if !errors.is_empty() {
        let text = if let [one] = errors.as_slice() {
            one.clone()
        } else {
            format!("errors:\n  {}", errors.join("\n  "))
        };
        let name = |field: &str| config["metadata"][field].as_str().unwrap_or_default().to_owned();
        return Err(ApiError::new(
            500,
            "",
            format!(
                "failed to create typed patch object ({}/{}; {api_version}, Kind={kind}): {text}",
                name("namespace"),
                name("name")
            ),
        ));
    }

    let mut managers = Managers::from_object(live);
    let mut before = if live.is_null() { Value::Object(Map::new()) } else { live.clone() };
    managers::strip(&mut before);
    if !live.is_null()
        && let Ok(canonical) = codec::check(&before, ty, FieldValidation::Ignore)
    {
        // The result will be canonical, and what only differs in form has not changed.
        before = canonical.object;
    }
    let mut after = typed::merge(node, &before, &config);

    let mut set = typed::field_set(node, &config);
    writer.reset.iter().for_each(|path| set.remove_below(path));
    let applied = Entry {
        manager: writer.manager.to_owned(),
        operation: Operation::Apply,
        api_version: api_version.to_owned(),
        subresource: writer.subresource.to_owned(),
        time: writer.now.to_owned(),
        set,
    };
    let last = managers.replace(applied.clone());
    if let Some(last) = last.as_ref().filter(|l| l.api_version == api_version) {
        let owned = managers.owned();
        typed::prune(node, &mut after, &last.set, &owned);
    }
    let checked = codec::check(&after, ty, FieldValidation::Ignore).map_err(|e| {
        ApiError::new(500, "", format!("failed to convert new object to proper version: {e}"))
    })?;
    let mut after = checked.object;

    settle(&mut managers, &before, &after, ty, api_version, &applied, writer.reset, force)?;
    strip_meta(&mut managers, &applied);
    if before == after {
        // Nothing changed but perhaps who owns what: an entry that was there keeps its time.
        if let (Some(last), Some(entry)) = (&last, managers.find_mut(&applied)) {
            entry.time.clone_from(&last.time);
        }
    }
    managers.write(&mut after);
    Ok(after)
}

/// The version the live object is in, or that of the type.
fn expected_version(live: &Value, ty: TypeId) -> String {
    match codec::kind_of(live).0 {
        "" => ty.gvk().map(|g| crate::resources::group_version(g.group, g.version)).unwrap_or_default(),
        version => version.to_owned(),
    }
}

/// Brings `metadata.managedFields` of a written object up to date; `live` is null on create.
///
/// A client may send managed fields of its own, or `[{}]` to forget all.
pub fn track(live: &Value, new: &mut Value, ty: TypeId, writer: &Writer<'_>) {
    let sent = Managers::from_object(new);
    if managers::is_reset(new) {
        managers::strip(new);
        return;
    }
    let mut managers = if sent.is_empty() { Managers::from_object(live) } else { sent };
    managers::strip(new);
    let mut before = live.clone();
    if before.is_null() {
        // A new object differs from one that has nothing but the structs that are always there.
        let empty = codec::check(&Value::Object(Map::new()), ty, FieldValidation::Ignore);
        before = empty.map(|e| e.object).unwrap_or_default();
    }
    managers::strip(&mut before);
    let api_version = codec::kind_of(new).0.to_owned();
    let actor = Entry {
        manager: writer.manager.to_owned(),
        operation: Operation::Update,
        api_version: api_version.clone(),
        subresource: writer.subresource.to_owned(),
        time: writer.now.to_owned(),
        set: FieldSet::default(),
    };
    // Others lose what this write takes; the writer itself gets it below. Forced, so it cannot fail.
    let absent = Entry { manager: String::new(), ..actor.clone() };
    let settled = settle(&mut managers, &before, new, ty, &api_version, &absent, writer.reset, true);
    let Ok(comparison) = settled else { return managers.write(new) };
    let taken = comparison.changed();
    let mut entry = managers.find_mut(&actor).map_or_else(|| actor.clone(), |e| e.clone());
    entry.set = entry.set.union(&taken);
    for path in STRIPPED {
        entry.set.remove_member(path);
    }
    if !taken.is_empty() && !entry.set.is_empty() {
        if managers.find_mut(&actor).is_none_or(|old| old.set != entry.set) || before != *new {
            entry.time = writer.now.to_owned();
        }
        managers.replace(entry);
    }
    managers.cap();
    managers.write(new);
}

/// Takes changed fields from everyone but the actor, or reports who would lose them.
fn settle(
    managers: &mut Managers,
    before: &Value,
    after: &Value,
    ty: TypeId,
    api_version: &str,
    actor: &Entry,
    reset: &[&[&str]],
    force: bool,
) -> Result<typed::Comparison, ApiError> {
    let comparison = typed::compare(Node::Struct(ty), before, after).without(reset);
    let mut in_versions = vec![(api_version.to_owned(), Some(comparison.clone()))];
    let mut conflicts = Vec::new();
    for entry in managers.iter_mut().filter(|e| !e.is_same_manager(actor)) {
        let known = in_versions.iter().position(|(version, _)| *version == entry.api_version);
        let index = known.unwrap_or_else(|| {
            let converted =
                compare_in(before, after, api_version, &entry.api_version).map(|c| c.without(reset));
            in_versions.push((entry.api_version.clone(), converted));
            in_versions.len() - 1
        });
        match &in_versions[index].1 {
            // A version that is no longer served: nobody can use it any more.
            None => entry.set = FieldSet::default(),
            Some(comparison) => {
                let lost = entry.set.intersection(&comparison.changed());
                if !force && !lost.is_empty() {
                    conflicts.push((entry.shown(), lost.paths()));
                    continue;
                }
                entry.set = entry.set.difference(&lost).difference(&comparison.removed);
            }
        }
    }
    if !conflicts.is_empty() {
        return Err(managers::conflict(conflicts));
    }
    managers.drop_empty();
    Ok(comparison)
}

/// Compares two objects in another version; `None` if they cannot be converted.
fn compare_in(before: &Value, after: &Value, api_version: &str, wanted: &str) -> Option<typed::Comparison> {
    let (group, version) = split_api_version(wanted);
    let kind = codec::kind_of(after).1;
    let ty = schema::type_of(group, version, kind)?;
    let convert = |object: &Value| {
        let mut object = object.clone();
        object["apiVersion"] = Value::from(api_version);
        object["kind"] = Value::from(kind);
        codec::convert(object, group, version).ok()
    };
    Some(typed::compare(Node::Struct(ty), &convert(before)?, &convert(after)?))
}

/// Identity and bookkeeping fields are nobody's.
fn strip_meta(managers: &mut Managers, actor: &Entry) {
    if let Some(entry) = managers.find_mut(actor) {
        for path in STRIPPED {
            entry.set.remove_member(path);
        }
    }
    managers.drop_empty();
}
