//! Which of the rules of `metadata` a kind applies, and when.
//!
//! Every write is held to rules that all kinds share. Most kinds apply the same rules again, with names of their own kind, so
//! that a fault is told once for each time. Source: `BeforeCreate` and `BeforeUpdate` of `registry/rest`, and where each
//! kind's validation calls `ValidateObjectMeta` and `ValidateObjectMetaUpdate`, v1.36.

use serde_json::Value;

use super::validate::{self, path_segment};
use super::{Context, Part, Rules};
use crate::field::Errors;

/// One application of rules to the metadata of a changed object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Those of a new object.
    New,
    /// Those of a change.
    Change,
}

/// What a kind does about metadata, besides what all do.
#[derive(Clone, Copy, Debug)]
pub struct Metadata {
    /// It validates the metadata of a new object.
    pub new: bool,
    /// Finalizers are among the standard ones or have a domain.
    pub domains: bool,
    /// A `generateName` is held to the rules of names.
    pub prefix: bool,
    /// What it applies to a change of the object.
    pub change: &'static [Step],
    /// What it applies to a change of a part of it.
    pub part: &'static [Step],
}

impl Metadata {
    /// What most kinds do.
    pub const BASE: Metadata =
        Metadata { new: true, domains: true, prefix: true, change: &[Step::Change], part: &[Step::Change] };
    /// Kinds that extensions bring, and those that extend the API: finalizers may be called anything.
    pub const EXTENSION: Metadata = Metadata { domains: false, ..Metadata::BASE };
    /// Kinds that only what all share is asked of.
    pub(crate) const SHARED: Metadata = Metadata { new: false, change: &[], part: &[], ..Metadata::BASE };
    /// Kinds that validate a changed object as a new one, and then the change.
    pub(crate) const NEW_CHANGE: Metadata = Metadata { change: &[Step::New, Step::Change], ..Metadata::BASE };
    /// Kinds that validate a change, and then the changed object as a new one.
    pub(crate) const CHANGE_NEW: Metadata = Metadata { change: &[Step::Change, Step::New], ..Metadata::BASE };
    /// Kinds that validate a changed object as a new one.
    pub(crate) const NEW: Metadata = Metadata { change: &[Step::New], ..Metadata::BASE };
}

/// All faults of a new object.
pub fn validate_new(rules: &dyn Rules, namespaced: bool, object: &Value, errors: &mut Errors) {
    let meta = rules.metadata();
    if meta.new {
        own_rules(rules, meta, namespaced, object, errors);
    }
    rules.validate(object, errors);
    // A kind's own rules are the stricter ones.
    if errors.is_empty() && !(meta.new && meta.prefix) {
        validate::metadata(&path_segment, true, namespaced, object, errors);
    }
}

/// All faults of a change.
pub fn validate_change(
    rules: &dyn Rules,
    namespaced: bool,
    new: &Value,
    old: &Value,
    ctx: &Context<'_>,
    errors: &mut Errors,
) {
    validate::metadata(&path_segment, true, namespaced, new, errors);
    validate::metadata_update(new, old, errors);
    let meta = rules.metadata();
    let steps = if matches!(ctx.part, Part::Main | Part::Scale) { meta.change } else { meta.part };
    // Once found without fault, the same again are; the kind's names and finalizers are left.
    let clean = errors.is_empty();
    for step in steps {
        match step {
            Step::New if clean => {
                validate::metadata_names(
                    &|name, prefix| rules.validate_name(name, prefix),
                    meta.prefix,
                    new,
                    errors,
                );
                if meta.domains {
                    validate::finalizer_domains(new, errors);
                }
            }
            Step::New => own_rules(rules, meta, namespaced, new, errors),
            Step::Change => {
                if !clean {
                    validate::metadata_update(new, old, errors);
                }
                if meta.domains {
                    validate::finalizer_domains(new, errors);
                }
            }
        }
    }
    rules.validate_update(new, old, ctx, errors);
}

/// The metadata of a new object as its kind validates it; the name is already generated.
pub fn validate_metadata(rules: &dyn Rules, namespaced: bool, object: &Value, errors: &mut Errors) {
    own_rules(rules, rules.metadata(), namespaced, object, errors);
}

fn own_rules(rules: &dyn Rules, meta: Metadata, namespaced: bool, object: &Value, errors: &mut Errors) {
    validate::metadata(
        &|name, prefix| rules.validate_name(name, prefix),
        meta.prefix,
        namespaced,
        object,
        errors,
    );
    if meta.domains {
        validate::finalizer_domains(object, errors);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::{Requester, rules};
    use crate::resources;

    /// The faults of metadata, one letter for each: `E`mpty name part, its `C`haracters, no domai`N`, `L`abel, `P`ath segment,
    /// DNS subdomai`D`n, `V`ersion to be specified.
    fn letters(errors: &Errors) -> String {
        let letter = |message: &str| {
            let letters = [
                ("name part must be non-empty", 'E'),
                ("name part must consist", 'C'),
                ("name is neither a standard finalizer", 'N'),
                ("a valid label must", 'L'),
                ("may not contain", 'P'),
                ("a lowercase RFC 1123", 'D'),
                ("must be no more than 253", 'D'),
                ("name or generateName", 'R'),
                ("must be greater than or equal to 0", 'G'),
            ];
            letters.iter().find(|(text, _)| message.contains(text)).map_or('?', |(_, letter)| *letter)
        };
        let of_metadata = errors.0.iter().filter(|error| error.field.starts_with("metadata"));
        of_metadata.map(|error| letter(&error.message)).collect()
    }

    const FINALIZER: (&str, &str) = ("finalizers", r#"[""]"#);
    const LABEL: (&str, &str) = ("labels", r#"{"k": "Bad Value!"}"#);
    const PREFIX: (&str, &str) = ("generateName", r#""a.b/c""#);

    fn with(kind: &str, member: (&str, &str)) -> (Value, &'static dyn Rules, bool) {
        let resource = resources::all().iter().find(|resource| resource.kind == kind).expect("a kind");
        let mut object = json!({"metadata": {"name": "a", "uid": "1", "resourceVersion": "5"}});
        if resource.namespaced {
            object["metadata"]["namespace"] = "b".into();
        }
        if kind == "IPAddress" {
            object["metadata"]["name"] = "10.0.0.1".into();
        }
        object["metadata"][member.0] = serde_json::from_str(member.1).unwrap();
        (object, rules(resource.storage_group, kind), resource.namespaced)
    }

    #[track_caller]
    fn changed(kind: &str, part: Part, member: (&str, &str), expected: &str) {
        let (new, rules, namespaced) = with(kind, member);
        let mut old = new.clone();
        old["metadata"].as_object_mut().unwrap().remove(member.0);
        let ctx = Context { part, now: "2026-01-01T00:00:00Z", requester: Requester::NOBODY };
        let mut errors = Errors::new();
        validate_change(rules, namespaced, &new, &old, &ctx, &mut errors);
        assert_eq!(letters(&errors), expected, "{kind} {part:?} {}", member.0);
    }

    #[track_caller]
    fn created(kind: &str, member: (&str, &str), expected: &str) {
        let (new, rules, namespaced) = with(kind, member);
        let mut errors = Errors::new();
        let meta = rules.metadata();
        // As in `validate_new`, without what else is wrong with an object that is only metadata.
        if meta.new {
            validate_metadata(rules, namespaced, &new, &mut errors);
        }
        if errors.is_empty() && !(meta.new && meta.prefix) {
            validate::metadata(&path_segment, true, namespaced, &new, &mut errors);
        }
        assert_eq!(letters(&errors), expected, "{kind} {}", member.0);
    }

    /// As upstream's server of v1.36 answered.
    #[test]
    fn a_change_is_told_as_often_as_the_kind_looks() {
        for (kind, finalizer, label, prefix) in [
            ("Deployment", "ECN", "LLL", "P"),
            ("ConfigMap", "ECNECN", "LLLL", "PD"),
            ("ClusterRole", "ECECNN", "LLLL", "PP"),
            ("Node", "ECECNN", "LLLL", "PD"),
            ("EndpointSlice", "ECECN", "LLL", "PD"),
            ("PersistentVolume", "ECECNECN", "LLLL", "PDD"),
            ("DeviceClass", "ECECNN", "LLLL", "P"),
            ("PodDisruptionBudget", "EC", "LL", "P"),
            ("Lease", "EC", "LLL", "P"),
        ] {
            changed(kind, Part::Main, FINALIZER, finalizer);
            changed(kind, Part::Main, LABEL, label);
            changed(kind, Part::Main, PREFIX, prefix);
        }
        changed("Deployment", Part::Status, FINALIZER, "ECN");
        changed("CronJob", Part::Status, FINALIZER, "EC");
        changed("CertificateSigningRequest", Part::Status, FINALIZER, "ECECNN");
        // Where nothing else is wrong, finalizers are looked at as often.
        changed("ConfigMap", Part::Main, ("finalizers", r#"["x", "orphan", "a/b"]"#), "NN");
        changed("Lease", Part::Main, ("finalizers", r#"["x"]"#), "");
    }

    #[test]
    fn a_new_object_is_held_to_its_kind() {
        for (kind, finalizer, prefix) in [
            ("ConfigMap", "ECN", "D"),
            ("Lease", "EC", "D"),
            ("RuntimeClass", "EC", "D"),
            ("PodDisruptionBudget", "EC", "P"),
            ("Event", "EC", "P"),
            ("ReplicationController", "ECN", "P"),
            ("CustomResourceDefinition", "EC", "D"),
        ] {
            created(kind, FINALIZER, finalizer);
            created(kind, PREFIX, prefix);
        }
        created("ConfigMap", ("generation", "-1"), "G");
        created("StorageClass", ("finalizers", r#"["x"]"#), "N");
        created("PodDisruptionBudget", ("finalizers", r#"["x"]"#), "");
        let long = format!("{:?}", "x".repeat(300));
        created("PodDisruptionBudget", ("name", &long), "");
        created("ConfigMap", ("name", &long), "D");
    }
}
