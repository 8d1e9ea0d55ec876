//! The common shape of a kind: a table of functions over the trait's defaults, so that a kind states only what is its own.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::print;
use super::tree::{carry, same, set, value};
use super::validate::dns_subdomain;
use super::{Column, Context, Metadata, Part, Requester, Rules, reset_metadata};
use crate::field::Errors;

/// One kind's behaviour. Build it from [`Kind::BASE`].
#[derive(Debug)]
pub(crate) struct Kind {
    /// Fills what the user left out.
    pub(crate) default: fn(&mut Value),
    /// Changes a new object before it is validated, beyond the reset of its status.
    pub(crate) prepare: fn(&mut Value),
    /// Writes who asks into a new object, after `prepare`.
    pub(crate) requested: fn(&mut Value, &Requester<'_>),
    /// The status of a new object; `None` for kinds without a status part.
    pub(crate) status: Option<fn(&Value) -> Value>,
    /// Whether a status update keeps labels, annotations and the like too.
    pub(crate) status_keeps_metadata: bool,
    /// Other changes to a main update before it is validated.
    pub(crate) prepare_update: fn(&mut Value, &Value),
    /// Other changes to a status update before it is validated.
    pub(crate) prepare_status: fn(&mut Value, &Value),
    /// Notes in a status that is written when it came about, given the time of the request.
    pub(crate) status_since: fn(&mut Value, &Value, &str),
    /// Changes to the update of another part, by its name, before it is validated.
    pub(crate) prepare_part: fn(&mut Value, &Value, &str),
    /// Faults of the object.
    pub(crate) validate: fn(&Value, &mut Errors),
    /// Faults of a new object that an update is not asked for, told after `validate`.
    pub(crate) validate_create: fn(&Value, &mut Errors),
    /// Faults of a main update, in addition to those of the object.
    pub(crate) validate_update: fn(&Value, &Value, &mut Errors),
    /// Faults of a main update that are told after those of the object.
    pub(crate) validate_late: fn(&Value, &Value, &mut Errors),
    /// Faults of a status update.
    pub(crate) validate_status: fn(&Value, &Value, &mut Errors),
    /// Faults of an update of another part, by its name.
    pub(crate) validate_part: fn(&Value, &Value, &str, &mut Errors),
    /// What is done about metadata, besides what all kinds do.
    pub(crate) metadata: Metadata,
    /// Faults of a name.
    pub(crate) name: fn(&str, bool) -> Vec<String>,
    /// Selectable fields.
    pub(crate) fields: fn(&Value) -> Vec<(&'static str, String)>,
    /// Columns of the table.
    pub(crate) columns: &'static [Column],
    /// Cells of a row.
    pub(crate) row: fn(&Value, Timestamp) -> Vec<Value>,
    /// Whether `metadata.generation` is kept.
    pub(crate) generation: bool,
    /// Whether a change of the object raises the generation; the default is a change of `spec`.
    pub(crate) changed: fn(&Value, &Value) -> bool,
    /// Whether PUT may create.
    pub(crate) create_on_update: bool,
    /// Whether an update needs no resourceVersion.
    pub(crate) unconditional_update: bool,
    /// Whether a delete that does not say what becomes of the dependents leaves them.
    pub(crate) orphans: bool,
    /// Whether a new object's labels that come from its template are one with them.
    pub(crate) shares_labels: bool,
    /// Whether a new object without a name gets one.
    pub(crate) name_may_be_absent: bool,
    /// Warnings for the client.
    pub(crate) warnings: fn(&Value, Option<&Value>) -> Vec<String>,
}

impl Kind {
    /// Nothing of its own: no status, no generation, Name and Age.
    pub(crate) const BASE: Kind = Kind {
        default: |_| {},
        prepare: |_| {},
        requested: |_, _| {},
        status: None,
        status_keeps_metadata: false,
        prepare_update: |_, _| {},
        prepare_status: |_, _| {},
        status_since: |_, _, _| {},
        prepare_part: |_, _, _| {},
        validate: |_, _| {},
        validate_create: |_, _| {},
        validate_update: |_, _, _| {},
        validate_late: |_, _, _| {},
        validate_status: |_, _, _| {},
        validate_part: |_, _, _, _| {},
        metadata: Metadata::BASE,
        name: dns_subdomain,
        fields: |_| Vec::new(),
        columns: print::NAME_AGE,
        row: print::name_age_row,
        generation: false,
        changed: |new, old| !same(value(new, "spec"), value(old, "spec")),
        create_on_update: false,
        unconditional_update: true,
        orphans: false,
        shares_labels: false,
        name_may_be_absent: false,
        warnings: |_, _| Vec::new(),
    };
}

/// A status without content.
pub(crate) fn empty_status(_object: &Value) -> Value {
    Value::Object(Map::new())
}

impl Rules for Kind {
    fn default(&self, object: &mut Value) {
        (self.default)(object);
    }

    fn prepare_create(&self, object: &mut Value, ctx: &Context<'_>) {
        if let Some(status) = self.status {
            let status = status(object);
            set(object, "status", status);
        }
        (self.prepare)(object);
        (self.requested)(object, &ctx.requester);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Context<'_>) {
        match ctx.part {
            Part::Status => {
                let status = value(new, "status").clone();
                let mut meta = value(new, "metadata").clone();
                if self.status_keeps_metadata {
                    reset_metadata(&mut meta, value(old, "metadata"));
                }
                // Every field but these two is as it was, whatever the kind calls them.
                new.clone_from(old);
                set(new, "metadata", meta);
                set(new, "status", status);
                (self.prepare_status)(new, old);
                (self.status_since)(new, old, ctx.now);
            }
            Part::Other(part) => (self.prepare_part)(new, old, part),
            Part::Main | Part::Scale => {
                if self.status.is_some() {
                    carry(new, old, "status");
                }
                (self.prepare_update)(new, old);
            }
        }
    }

    fn spec_changed(&self, new: &Value, old: &Value) -> bool {
        (self.changed)(new, old)
    }

    fn has_generation(&self) -> bool {
        self.generation
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        (self.validate)(object, errors);
        (self.validate_create)(object, errors);
    }

    fn validate_update(&self, new: &Value, old: &Value, ctx: &Context<'_>, errors: &mut Errors) {
        match ctx.part {
            Part::Status => (self.validate_status)(new, old, errors),
            Part::Other(part) => (self.validate_part)(new, old, part, errors),
            Part::Main | Part::Scale => {
                (self.validate_update)(new, old, errors);
                (self.validate)(new, errors);
                (self.validate_late)(new, old, errors);
            }
        }
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        (self.warnings)(object, old)
    }

    fn metadata(&self) -> Metadata {
        self.metadata
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        (self.name)(name, prefix)
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        (self.fields)(object)
    }

    fn columns(&self) -> &'static [Column] {
        self.columns
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        (self.row)(object, now)
    }

    fn create_on_update(&self) -> bool {
        self.create_on_update
    }

    fn unconditional_update(&self) -> bool {
        self.unconditional_update
    }

    fn orphans_by_default(&self) -> bool {
        self.orphans
    }

    fn shares_template_labels(&self) -> bool {
        self.shares_labels
    }

    fn name_may_be_absent(&self) -> bool {
        self.name_may_be_absent
    }
}
