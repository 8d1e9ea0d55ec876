//! Server-side apply and the tracking of who owns which field (`metadata.managedFields`).
//!
//! Both are pure: the caller reads the live object, calls one of these, and writes the result if it differs.
//! [`server_side_apply`] answers `PATCH` with `application/apply-patch+yaml`; [`track`] follows every other write.
//! Objects are in the served version of the request.
//!
//! Source: KEP-555 and structured-merge-diff's `merge.Updater`.

mod last_applied;
mod managers;
mod prune;
pub mod scale;

use serde_json::{Map, Value};

use super::field_set::FieldSet;
use super::typed::{self, Comparison, Node};
use crate::codec::{self, FieldValidation};
use crate::resources::split_api_version;
use crate::schema::{self, TypeId};
use crate::status::ApiError;
use managers::{Conflicts, Entry, Managers, Operation};

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

/// Whom the fields of an object belong to that nobody kept track of before it was first applied.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The manager that takes over from client-side apply. Source: upstream's `lastAppliedManager`.
const KUBECTL: &str = "kubectl";

/// Whom writers without a name are known as.
const UNKNOWN: &str = "unknown";

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
/// Also the texts of keys that are there twice.
///
/// # Errors
/// 400 if it is malformed.
pub fn parse(body: &[u8]) -> Result<(Value, Vec<String>), ApiError> {
    let malformed = |why: &str| ApiError::bad_request(format!("error decoding YAML: {why}"));
    let (config, duplicates) = codec::yaml::to_json(body).map_err(|e| malformed(&e))?;
    if config.is_object() {
        Ok((config, duplicates))
    } else {
        Err(malformed("the configuration is not an object"))
    }
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
                "failed to create typed patch object ({}/{}; {}): {text}",
                name("namespace"),
                name("name"),
                shown_kind(api_version, kind)
            ),
        ));
    }

    let mut applied = Apply { live, config, ty, writer, api_version };
    let mut result = applied.attempt(force);
    if let Err(Refused::Conflicts(conflicts)) = &mut result
        && writer.manager == KUBECTL
        && let Some(allowed) = last_applied::kept(live, ty, api_version)
    {
        conflicts.without(&allowed);
        if conflicts.0.is_empty() {
            result = applied.attempt(true);
        }
    }
    let mut after = result.map_err(|refused| match refused {
        Refused::Conflicts(conflicts) => conflicts.into_error(),
        Refused::Error(error) => error,
    })?;
    if writer.manager == KUBECTL {
        last_applied::renew(&mut after, applied.config);
    }
    Ok(after)
}

/// Why an apply came to nothing.
enum Refused {
    Conflicts(Conflicts),
    Error(ApiError),
}

/// One apply with a checked configuration.
struct Apply<'a> {
    live: &'a Value,
    config: Value,
    ty: TypeId,
    writer: &'a Writer<'a>,
    api_version: &'a str,
}

impl Apply<'_> {
    fn attempt(&mut self, force: bool) -> Result<Value, Refused> {
        let Apply { live, config, ty, writer, api_version } = &*self;
        let (node, ty) = (Node::Struct(*ty), *ty);
        let mut before = if live.is_null() { Value::Object(Map::new()) } else { (*live).clone() };
        let mut managers = Managers::from_own(managers::take(&mut before).unwrap_or_default());
        if !live.is_null()
            && !codec::is_canonical(&before, ty)
            && let Ok(canonical) = codec::check_text(&before, ty, FieldValidation::Ignore)
        {
            // The result will be canonical, and what only differs in form has not changed.
            before = canonical.object;
        }
        if managers.is_empty() && !live.is_null() {
            let mut set = typed::compare(node, &Value::Null, &before).without(writer.reset).changed;
            strip(&mut set);
            let first = self.entry(BEFORE_FIRST_APPLY, Operation::Update, set);
            managers.replace(first);
        }
        let mut after = typed::merge(node, &before, config);
        let mut set = typed::field_set(node, config);
        writer.reset.iter().for_each(|path| set.remove_below(path));
        let applied = self.entry(name(writer), Operation::Apply, set);
        let last = managers.replace(applied.clone());
        if let Some(last) = last.as_ref() {
            prune::prune(&mut after, ty, api_version, last, &managers);
        }
        let checked = codec::check(after, ty, FieldValidation::Ignore).map_err(|e| {
            Refused::Error(ApiError::new(
                500,
                "",
                format!("failed to convert new object to proper version: {e}"),
            ))
        })?;
        let mut after = checked.object;
        let comparison = typed::compare(node, &before, &after).without(writer.reset);
        if !force {
            let conflicts = conflicts(&managers, &comparison, &before, &after, &applied, writer.reset);
            if !conflicts.0.is_empty() {
                return Err(Refused::Conflicts(conflicts));
            }
        }
        settle(&mut managers, &comparison, &before, &after, &applied, writer.reset);
        if let Some(entry) = managers.find_mut(&applied) {
            strip(&mut entry.set);
            if before == after {
                // Nothing changed but perhaps who owns what: that has no time of its own.
                entry.time = last.map(|l| l.time).unwrap_or_default();
            }
        }
        managers.drop_empty();
        managers.write(&mut after);
        Ok(after)
    }

    fn entry(&self, manager: &str, operation: Operation, set: FieldSet) -> Entry {
        Entry {
            manager: manager.to_owned(),
            operation,
            api_version: self.api_version.to_owned(),
            subresource: self.writer.subresource.to_owned(),
            time: self.writer.now.to_owned(),
            set,
        }
    }
}

fn name<'a>(writer: &Writer<'a>) -> &'a str {
    if writer.manager.is_empty() { UNKNOWN } else { writer.manager }
}

/// Takes identity and bookkeeping fields out of a set: they are nobody's.
fn strip(set: &mut FieldSet) {
    STRIPPED.iter().for_each(|path| set.remove_member(path));
}

/// A kind as Go shows it: `apps/v1, Kind=Deployment`, and `/v1, Kind=Pod` for the core group.
pub fn shown_kind(api_version: &str, kind: &str) -> String {
    let (group, version) = split_api_version(api_version);
    format!("{group}/{version}, Kind={kind}")
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
/// A client may send managed fields of its own, or none (`[]` or `[{}]`) to forget all; not with a subresource. An object
/// that nobody has kept track of is not tracked until it is applied.
pub fn track(live: &Value, new: &mut Value, ty: TypeId, writer: &Writer<'_>) {
    let mut managers = Managers::of_written(live, new, writer.subresource.is_empty());
    if managers.is_empty() && !live.is_null() {
        return;
    }
    let mut comparison = typed::compare(Node::Struct(ty), live, new);
    for path in [&["metadata", "managedFields"][..], &["metadata", "resourceVersion"]] {
        // The store's and our own; they differ with every write.
        comparison.changed.remove_below(path);
        comparison.removed.remove_below(path);
    }
    let comparison = comparison.without(writer.reset);
    if comparison.changed.is_empty() && comparison.removed.is_empty() {
        return managers.write(new);
    }
    let actor = Entry {
        manager: name(writer).to_owned(),
        operation: Operation::Update,
        api_version: codec::kind_of(new).0.to_owned(),
        subresource: writer.subresource.to_owned(),
        time: writer.now.to_owned(),
        set: FieldSet::default(),
    };
    // Others lose what this write takes; the writer itself gets it below.
    let nobody = Entry { manager: String::new(), ..actor.clone() };
    settle(&mut managers, &comparison, live, new, &nobody, writer.reset);
    let mut taken = comparison.changed;
    strip(&mut taken);
    if !taken.is_empty() {
        match managers.find_mut(&actor) {
            Some(own) => {
                own.set.add(&taken);
                own.time = actor.time;
            }
            None => drop(managers.replace(Entry { set: taken, ..actor })),
        }
    }
    managers.drop_empty();
    managers.cap();
    managers.write(new);
}

/// What an apply would take from others.
fn conflicts(
    managers: &Managers,
    comparison: &Comparison,
    before: &Value,
    after: &Value,
    actor: &Entry,
    reset: &[&[&str]],
) -> Conflicts {
    let mut versions = Versions::new(comparison, before, after, &actor.api_version, reset);
    let others = managers.iter().filter(|e| !e.is_same_manager(actor));
    let lost = others.filter_map(|entry| {
        let lost = entry.set.intersection(&versions.of(&entry.api_version)?.changed);
        (!lost.is_empty()).then(|| (entry.shown(), lost))
    });
    Conflicts(lost.collect())
}

/// Takes changed and removed fields from everyone but the actor.
fn settle(
    managers: &mut Managers,
    comparison: &Comparison,
    before: &Value,
    after: &Value,
    actor: &Entry,
    reset: &[&[&str]],
) {
    let mut versions = Versions::new(comparison, before, after, &actor.api_version, reset);
    for entry in managers.iter_mut().filter(|e| !e.is_same_manager(actor)) {
        match versions.of(&entry.api_version) {
            // A version that is no longer served: nobody can use it any more.
            None => entry.set = FieldSet::default(),
            Some(comparison) => {
                entry.set.subtract(&comparison.changed);
                entry.set.subtract(&comparison.removed);
            }
        }
    }
    managers.drop_empty();
}

/// One change as the versions of the API see it that managers have used.
struct Versions<'a> {
    own: &'a Comparison,
    before: &'a Value,
    after: &'a Value,
    api_version: &'a str,
    reset: &'a [&'a [&'a str]],
    others: Vec<(String, Option<Comparison>)>,
}

impl<'a> Versions<'a> {
    fn new(
        own: &'a Comparison,
        before: &'a Value,
        after: &'a Value,
        api_version: &'a str,
        reset: &'a [&'a [&'a str]],
    ) -> Self {
        Versions { own, before, after, api_version, reset, others: Vec::new() }
    }

    /// `None` if the objects have no form in that version.
    fn of(&mut self, api_version: &str) -> Option<&Comparison> {
        if api_version == self.api_version {
            return Some(self.own);
        }
        let known = self.others.iter().position(|(version, _)| version == api_version);
        let index = known.unwrap_or_else(|| {
            let converted = compare_in(self.before, self.after, self.api_version, api_version);
            self.others.push((api_version.to_owned(), converted.map(|c| c.without(self.reset))));
            self.others.len() - 1
        });
        self.others[index].1.as_ref()
    }
}

/// Compares two objects in another version; `None` if they cannot be converted.
fn compare_in(before: &Value, after: &Value, api_version: &str, wanted: &str) -> Option<typed::Comparison> {
    let (node, seen) = in_version(after, api_version, wanted)?;
    let mut before = before.clone();
    if !before.is_null() {
        before["kind"] = after["kind"].clone();
        before = in_version(&before, api_version, wanted)?.1;
    }
    Some(typed::compare(node, &before, &seen))
}

/// An object of one version as another shows it, without its managers; `None` if it has no form there.
fn in_version(object: &Value, api_version: &str, wanted: &str) -> Option<(Node, Value)> {
    let (group, version) = split_api_version(wanted);
    let ty = schema::type_of(group, version, codec::kind_of(object).1)?;
    let mut object = object.clone();
    managers::take(&mut object);
    object["apiVersion"] = Value::from(api_version);
    Some((Node::Struct(ty), codec::convert(object, group, version).ok()?))
}
