//! What each kind does beyond its schema: defaulting, preparation, validation, selectable fields, printed columns.
//!
//! The API server knows only [`Rules`]; a kind that needs nothing special uses [`Plain`]. Objects are the stored
//! (canonical) version's JSON tree. Every function is pure: time and names arrive as arguments.

use serde_json::Value;

use crate::field::Errors;

/// The part of an object a request addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The object itself.
    Main,
    /// `/status`.
    Status,
    /// `/scale`, translated by the caller to a change of the object; rules see the object.
    Scale,
    /// Any other subresource that changes the object, by its name: `ephemeralcontainers`, `resize`, `approval`, `finalize`, `binding`.
    Other(&'static str),
}

/// What a request is about, for rules that word their messages or behave by it.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The part addressed.
    pub part: Part,
    /// The request's time, RFC 3339 in UTC with whole seconds, as stored in objects.
    pub now: &'a str,
}

/// One column of a table, as upstream's printers declare it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its title as in `Table.columnDefinitions[].name`, for example `Nominated Node`.
    pub name: &'static str,
    /// `string`, `integer`, `boolean`, `date`, ...
    pub kind: &'static str,
    /// `name` for the name column, otherwise usually empty.
    pub format: &'static str,
    /// Shown in the column's description.
    pub description: &'static str,
    /// 0 is always shown; above 0 only with `-o wide`.
    pub priority: i32,
}

/// How one kind behaves.
pub trait Rules: Send + Sync {
    /// Sets what the user left out (upstream's `SetDefaults_*`). Idempotent. Runs on create, update and every read of old data.
    fn default(&self, _object: &mut Value) {}

    /// Before validation of a create: resets what a client may not set (status, generation is set by the caller).
    fn prepare_create(&self, _object: &mut Value, _ctx: &Context<'_>) {}

    /// Before validation of an update: carries over what this part may not change (main: status; status: all but status).
    /// The caller afterwards raises `metadata.generation` if [`Rules::generation_fields`] changed.
    fn prepare_update(&self, _new: &mut Value, _old: &Value, _ctx: &Context<'_>) {}

    /// Whether `metadata.generation` is kept for this kind and what raises it: by default a change of `spec`.
    fn spec_changed(&self, new: &Value, old: &Value) -> bool {
        new.get("spec") != old.get("spec")
    }

    /// Whether the kind keeps `metadata.generation` at all (it starts at 1 on create).
    fn has_generation(&self) -> bool {
        true
    }

    /// All faults of a new object, metadata excluded (the caller validates `ObjectMeta` with [`validate_metadata`]).
    fn validate(&self, _object: &Value, _errors: &mut Errors) {}

    /// All faults of a change, including those of the new object where the part calls for it.
    fn validate_update(&self, new: &Value, _old: &Value, _ctx: &Context<'_>, errors: &mut Errors) {
        self.validate(new, errors);
    }

    /// Warnings for the client (`Warning` headers), as upstream words them.
    fn warnings(&self, _object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// Whether this name is acceptable, or the reasons why not. Default: a DNS subdomain.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        validate::dns_subdomain(name, prefix)
    }

    /// Values of the fields that field selectors may name, besides `metadata.name` and `metadata.namespace`.
    /// The set of names is the same for every object of the kind.
    fn selectable_fields(&self, _object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// The columns of the kind's table. Default: Name and Age.
    fn columns(&self) -> &'static [Column] {
        print::NAME_AGE
    }

    /// The cells of one row, one per column. `now` is RFC 3339.
    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        print::name_age_row(object, now)
    }

    /// The grace in seconds when an object is deleted gracefully; `None` deletes at once. Pods only, upstream.
    fn deletion_grace_seconds(&self, _object: &Value, _asked: Option<i64>) -> Option<i64> {
        None
    }

    /// Whether PUT of a name that does not exist creates it (upstream's `AllowCreateOnUpdate`).
    fn create_on_update(&self) -> bool {
        false
    }

    /// Whether an update without resourceVersion is allowed (upstream's `AllowUnconditionalUpdate`).
    fn unconditional_update(&self) -> bool {
        true
    }

    /// What a delete without `propagationPolicy` and `orphanDependents` does; `true`: orphan (upstream: none but old versions).
    fn orphans_by_default(&self) -> bool {
        false
    }
}

/// A kind without behaviour of its own: ConfigMap-like, Name and Age.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Rules for Plain {}

pub mod print;
mod tree;
pub mod validate;

/// The rules of a built-in kind, by group and kind. Kinds unknown here get [`Plain`].
pub fn rules(_group: &str, _kind: &str) -> &'static dyn Rules {
    &Plain
}

/// Validates `metadata` of a new object as upstream's `ValidateObjectMeta` does; name rules come from the kind.
pub fn validate_metadata(rules: &dyn Rules, namespaced: bool, object: &Value, errors: &mut Errors) {
    validate::metadata(rules, namespaced, object, errors);
}

/// Validates a change of `metadata` as upstream's `ValidateObjectMetaUpdate` does.
pub fn validate_metadata_update(new: &Value, old: &Value, errors: &mut Errors) {
    validate::metadata_update(new, old, errors);
}
