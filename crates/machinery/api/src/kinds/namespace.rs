//! Namespaces: the `kubernetes` finalizer, the name label, the phase, and finalization.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::print::{self, AGE, NAME, string};
use super::tree::{carry, default_text, ensure_map, has, list, set, text, value};
use super::validate::{dns_label, meta::named_finalizer, qualified_name};
use super::{Column, Context, Metadata, Part, Rules};
use crate::field::{Errors, Path};

/// The rules of Namespaces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Namespace;

const FINALIZER: &str = "kubernetes";

impl Rules for Namespace {
    fn metadata(&self) -> Metadata {
        Metadata::NEW_CHANGE
    }

    fn default(&self, object: &mut Value) {
        let name = text(value(object, "metadata"), "name").to_owned();
        if !name.is_empty()
            && let Some(labels) = ensure_map(object, "metadata").and_then(|meta| ensure_map(meta, "labels"))
        {
            set(labels, "kubernetes.io/metadata.name", name);
        }
        if let Some(status) = ensure_map(object, "status") {
            default_text(status, "phase", "Active");
        }
        ensure_map(object, "spec");
    }

    fn prepare_create(&self, object: &mut Value, _ctx: &Context<'_>) {
        set(object, "status", json!({"phase": "Active"}));
        let Some(spec) = ensure_map(object, "spec") else { return };
        if !list(spec, "finalizers").iter().any(|f| f == FINALIZER) {
            let mut finalizers = list(spec, "finalizers").to_vec();
            finalizers.push(FINALIZER.into());
            set(spec, "finalizers", finalizers);
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Context<'_>) {
        match ctx.part {
            Part::Status => carry(new, old, "spec"),
            Part::Other("finalize") => carry(new, old, "status"),
            _ => {
                if let Some(spec) = ensure_map(new, "spec") {
                    carry(spec, value(old, "spec"), "finalizers");
                }
                carry(new, old, "status");
            }
        }
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value, errors: &mut Errors) {
        let spec = Path::new("spec");
        for finalizer in list(value(object, "spec"), "finalizers").iter().filter_map(Value::as_str) {
            finalizer_name(finalizer, &spec.child("finalizers"), errors);
        }
    }

    fn validate_update(&self, new: &Value, _old: &Value, ctx: &Context<'_>, errors: &mut Errors) {
        match ctx.part {
            Part::Status => {
                let phase = text(value(new, "status"), "phase");
                let status = Path::new("status");
                // The field is written so upstream.
                let at = status.child("Phase");
                if !has(value(new, "metadata"), "deletionTimestamp") {
                    if phase != "Active" {
                        errors.invalid(&at, phase, "may only be 'Active' if `deletionTimestamp` is empty");
                    }
                } else if phase != "Terminating" {
                    errors.invalid(
                        &at,
                        phase,
                        "may only be 'Terminating' if `deletionTimestamp` is not empty",
                    );
                }
            }
            Part::Other("finalize") => {
                let spec = Path::new("spec");
                let at = spec.child("finalizers");
                let finalizers = list(value(new, "spec"), "finalizers");
                for (index, finalizer) in finalizers.iter().filter_map(Value::as_str).enumerate() {
                    finalizer_name(finalizer, &at.index(index), errors);
                }
            }
            _ => {}
        }
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        dns_label(name, prefix)
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![
            ("status.phase", text(value(object, "status"), "phase").to_owned()),
            // Kept for old clients, upstream as here.
            ("name", text(value(object, "metadata"), "name").to_owned()),
        ]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, string("Status"), AGE];
        COLUMNS
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![print::name(object), text(value(object, "status"), "phase").into(), print::age(object, now)]
    }
}

fn finalizer_name(name: &str, path: &Path<'_>, errors: &mut Errors) {
    for fault in qualified_name(name) {
        errors.invalid(path, name, &fault);
    }
    named_finalizer(name, path, errors);
}
