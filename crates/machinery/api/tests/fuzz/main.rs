//! What must hold for any input: decoders, patches, apply, defaulting, validation and printing of every served kind.
//!
//! Objects are made from the schema table, so that a new field or kind is tried without a line here. Each case is a
//! seed, and a failing one is printed; `PROPTEST_CASES=1000000 cargo test --release -p podium-api --test fuzz` looks
//! longer than CI does.

mod dice;

use podium_api::codec::{self, CheckError, Encoding, FieldValidation};
use podium_api::field::Errors;
use podium_api::kinds::{self, Context, Part, Requester, Rules};
use podium_api::patch::{self, PatchType, apply};
use podium_api::resources::{self, Resource};
use podium_api::schema;
use podium_api::selector::{FieldSelector, LabelSelector};
use proptest::prelude::*;
use serde_json::{Value, json};

use dice::Dice;

const NOW: &str = "2026-01-02T03:04:05Z";

/// Why an object whose lists have one item cannot be merged into itself: an item without its key, a list of objects that
/// has no key, and objects or lists inside what has no type.
const UNMERGEABLE: &[&str] = &[
    "does not contain declared merge key",
    "cannot merge lists without merge key",
    "data type is not struct",
    "expected slice or array type",
];

/// Why an object that fits its type cannot be applied: what its lists hold.
const UNAPPLICABLE: &[&str] = &["duplicate entries for key", "omits key field"];

/// Enough to meet every kind a few times; more when asked for.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|c| c.parse().ok()).unwrap_or(400)
}

/// A stored kind in the version it is stored in, and an object of it in canonical form.
fn an_object(dice: &mut Dice) -> (&'static Resource, Value) {
    let stored: Vec<&Resource> = resources::all()
        .iter()
        .filter(|r| r.is_stored() && r.group == r.storage_group && r.version == r.storage_version)
        .collect();
    let resource = *dice.choose(&stored);
    (resource, another(dice, resource))
}

/// One more object of a kind, in canonical form.
fn another(dice: &mut Dice, resource: &Resource) -> Value {
    let ty = type_of(resource);
    let mut object = dice.object(ty);
    object["apiVersion"] = json!(resource.api_version());
    object["kind"] = json!(resource.kind);
    match codec::check(object.clone(), ty, FieldValidation::Strict) {
        Ok(decoded) => decoded.object,
        Err(error) => panic!("an object made from the schema does not fit it: {error}\n{object}"),
    }
}

fn type_of(resource: &Resource) -> schema::TypeId {
    schema::type_of(resource.group, resource.version, resource.kind)
        .expect("every stored kind is in the table")
}

fn decode(body: &[u8], encoding: Encoding, resource: &Resource) -> Result<Value, u16> {
    codec::decode(body, encoding, resource.group, resource.version, resource.kind, FieldValidation::Ignore)
        .map(|decoded| decoded.object)
        .map_err(|error| error.code)
}

/// Everything a request does with an object before it is stored, and a reader after.
fn live_a_life(resource: &Resource, object: &Value, old: Option<&Value>) {
    let rules = kinds::rules(resource.group, resource.kind);
    for part in [Part::Main, Part::Status] {
        let context = Context { part, now: NOW, requester: Requester::NOBODY };
        let mut new = object.clone();
        rules.default(&mut new);
        defaulted(rules, &new, resource);
        let mut errors = Errors::new();
        if let Some(old) = old {
            rules.prepare_update(&mut new, old, &context);
            kinds::validate_change(rules, resource.namespaced, &new, old, &context, &mut errors);
            rules.spec_changed(&new, old);
        } else {
            rules.prepare_create(&mut new, &context);
            kinds::validate_new(rules, resource.namespaced, &new, &mut errors);
        }
        rules.warnings(&new, old);
        rules.selectable_fields(&new);
        rules.deletion_grace_seconds(&new, None);
        let cells = rules.row(&new, "2026-02-03T04:05:06Z".parse().expect("a constant"));
        assert_eq!(cells.len(), rules.columns().len(), "{} has a cell per column", resource.kind);
        assert!(!rules.spec_changed(&new, &new), "{} is another than itself", resource.kind);
        // What was stored is defaulted again whenever it is read.
        rules.default(&mut new);
        defaulted(rules, &new, resource);
    }
}

/// Defaulting is done where it was done.
fn defaulted(rules: &dyn Rules, object: &Value, resource: &Resource) {
    let mut again = object.clone();
    rules.default(&mut again);
    assert_eq!(&again, object, "defaulting {} again changes it", resource.kind);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_kind_is_the_same_in_every_encoding(seed in any::<u64>()) {
        let mut dice = Dice::new(seed);
        let (resource, object) = an_object(&mut dice);
        for encoding in [Encoding::Json, Encoding::Yaml, Encoding::Protobuf] {
            let bytes = codec::encode(&object, encoding);
            let read = decode(&bytes, encoding, resource);
            prop_assert_eq!(read.as_ref(), Ok(&object), "{} as {:?}", resource.kind, encoding);
        }
    }

    /// An object that is taken as it is would have been read as it is.
    #[test]
    fn checking_a_tree_is_reading_its_text(seed in any::<u64>()) {
        let mut dice = Dice::new(seed);
        let (resource, mut object) = an_object(&mut dice);
        let kind = [object["apiVersion"].clone(), object["kind"].clone()];
        dice.damage(&mut object);
        if [object["apiVersion"].clone(), object["kind"].clone()] != kind {
            return Ok(());
        }
        let read = decode(object.to_string().as_bytes(), Encoding::Json, resource);
        let checked = codec::check(object, type_of(resource), FieldValidation::Ignore);
        prop_assert_eq!(checked.map(|decoded| decoded.object).map_err(|_| 400), read);
    }

    #[test]
    fn no_object_upsets_the_rules_of_its_kind(seed in any::<u64>()) {
        let mut dice = Dice::new(seed);
        let (resource, object) = an_object(&mut dice);
        live_a_life(resource, &object, None);
        let other = another(&mut dice, resource);
        live_a_life(resource, &other, Some(&object));
        let mut nearly = object.clone();
        dice.damage(&mut nearly);
        if let Ok(nearly) = decode(nearly.to_string().as_bytes(), Encoding::Json, resource) {
            live_a_life(resource, &nearly, None);
            live_a_life(resource, &nearly, Some(&object));
        }
    }

    #[test]
    fn damaged_bodies_are_errors_or_objects(seed in any::<u64>()) {
        let mut dice = Dice::new(seed);
        let (resource, object) = an_object(&mut dice);
        for encoding in [Encoding::Json, Encoding::Yaml, Encoding::Protobuf] {
            let mut bytes = codec::encode(&object, encoding);
            dice.damage_bytes(&mut bytes);
            match decode(&bytes, encoding, resource) {
                Err(code) => prop_assert_eq!(code, 400),
                // What was read can be written, and is then the same.
                Ok(read) => {
                    let again = codec::encode(&read, Encoding::Json);
                    prop_assert_eq!(decode(&again, Encoding::Json, resource), Ok(read), "{:?}", encoding);
                }
            }
        }
    }

    #[test]
    fn patches_end_in_an_object_or_a_refusal(seed in any::<u64>()) {
        let mut dice = Dice::new(seed);
        let (resource, object) = an_object(&mut dice);
        let ty = type_of(resource);
        let mut wanted = another(&mut dice, resource);
        if dice.one_in(2) {
            dice.damage(&mut wanted);
        }
        if dice.one_in(3) {
            dice.add_directives(&mut wanted);
        }
        let operations = dice.operations(&object);
        for (kind, body) in [
            (PatchType::Json, operations),
            (PatchType::Merge, wanted.clone()),
            (PatchType::Strategic, wanted.clone()),
        ] {
            match patch::patch(object.clone(), body.to_string().as_bytes(), kind, ty, FieldValidation::Ignore) {
                // A strategic patch whose lists have no merge key where they need one is a 500, in upstream as here.
                Err(error) => prop_assert!(
                    [400, 413, 422].contains(&error.code) || (kind == PatchType::Strategic && error.code == 500),
                    "{:?}: {}",
                    kind,
                    error.code
                ),
                Ok(decoded) => {
                    // A patch's result is canonical.
                    let checked = codec::check(decoded.object.clone(), ty, FieldValidation::Strict);
                    prop_assert_eq!(checked.map(|c| c.object).map_err(|e| e.to_string()), Ok(decoded.object));
                }
            }
        }
    }

    /// RFC 7386 is short enough to be written down twice.
    #[test]
    fn merge_patches_do_what_the_standard_says(seed in any::<u64>()) {
        fn standard(target: Value, patch: &Value) -> Value {
            let Value::Object(patch) = patch else { return patch.clone() };
            let mut target = match target {
                Value::Object(map) => map,
                _ => serde_json::Map::new(),
            };
            for (name, value) in patch {
                if value.is_null() {
                    target.remove(name);
                } else {
                    let old = target.remove(name).unwrap_or(Value::Null);
                    target.insert(name.clone(), standard(old, value));
                }
            }
            Value::Object(target)
        }
        let mut dice = Dice::new(seed);
        let (resource, object) = an_object(&mut dice);
        let mut wanted = another(&mut dice, resource);
        dice.damage(&mut wanted);
        if wanted.is_object() {
            let merged = patch::merge_patch(&object, wanted.to_string().as_bytes());
            prop_assert_eq!(merged.map_err(|e| e.code), Ok(standard(object, &wanted)));
        }
    }

    /// A strategic merge of an object into itself changes nothing, unless its lists hold a key twice.
    #[test]
    fn strategic_merges_are_idempotent(seed in any::<u64>()) {
        let mut dice = Dice::new(seed);
        let (resource, mut short) = an_object(&mut dice);
        let ty = type_of(resource);
        dice::shorten_lists(&mut short);
        // What is null in a patch goes; what Go always writes comes back when the result is checked.
        let canonical = |object: &Value| codec::check(object.clone(), ty, FieldValidation::Ignore).map(|c| c.object);
        match patch::strategic_merge_patch(&short, short.to_string().as_bytes(), ty) {
            Ok(same) => prop_assert_eq!(canonical(&same), canonical(&short)),
            // Upstream cannot merge these either, whatever is in them.
            Err(error) => prop_assert!(
                error.code == 500 && UNMERGEABLE.iter().any(|why| error.message.contains(why)),
                "{}: {}",
                resource.kind,
                error.message
            ),
        }
    }

    #[test]
    fn applying_again_changes_nothing(seed in any::<u64>()) {
        let mut dice = Dice::new(seed);
        let (resource, config) = an_object(&mut dice);
        let ty = type_of(resource);
        let first = apply::Writer { manager: "first", subresource: "", now: NOW, reset: &[] };
        let second = apply::Writer { manager: "second", ..first };
        let mut config = config;
        // One item in a list is never there twice: these are refused less often.
        if dice.one_in(2) {
            dice::shorten_lists(&mut config);
        }
        if let Some(metadata) = config["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        // Lists that are sets or maps may hold a key twice: then the refusal is the answer.
        let live = match apply::server_side_apply(&Value::Null, &config, ty, &first, false) {
            Ok(live) => live,
            Err(error) => {
                prop_assert!(
                    error.code == 500 && UNAPPLICABLE.iter().any(|why| error.message.contains(why)),
                    "{}: {}",
                    resource.kind,
                    error.message
                );
                return Ok(());
            }
        };
        let later = apply::Writer { now: "2027-01-01T00:00:00Z", ..first };
        let again = apply::server_side_apply(&live, &config, ty, &later, false).map_err(|e| e.code);
        prop_assert_eq!(again.as_ref(), Ok(&live));
        // Somebody else who wants the same shares it without a conflict.
        let shared = apply::server_side_apply(&live, &config, ty, &second, false).map_err(|e| e.code);
        prop_assert_eq!(shared.map(|s| without_managers(&s)), Ok(without_managers(&live)));
        // Who wants something else is told, or may force it.
        let mut other = another(&mut dice, resource);
        other["metadata"] = json!({"name": "other"});
        let forced = apply::server_side_apply(&live, &other, ty, &second, true).map_err(|e| e.code);
        match apply::server_side_apply(&live, &other, ty, &second, false).map_err(|e| e.code) {
            Err(409) => prop_assert!(forced.is_ok(), "forced, and still refused: {forced:?}"),
            // Where there is no conflict, force changes nothing.
            free => {
                prop_assert!(matches!(free, Ok(_) | Err(500)), "{free:?}");
                prop_assert_eq!(forced, free);
            }
        }
    }

    #[test]
    fn selectors_are_read_or_refused(text in "[a-z!=<>(), ./0-9-]{0,60}", wild in ".{0,60}") {
        for text in [&text, &wild] {
            if let Ok(selector) = LabelSelector::parse(text) {
                let printed = selector.to_string();
                let again = LabelSelector::parse(&printed).map_err(|e| TestCaseError::fail(e.to_string()))?;
                prop_assert_eq!(again, selector, "printed as {}", printed);
            }
            if let Ok(selector) = FieldSelector::parse(text) {
                let printed = selector.to_string();
                let again = FieldSelector::parse(&printed).map_err(|e| TestCaseError::fail(e.to_string()))?;
                prop_assert_eq!(conditions(&again), conditions(&selector), "printed as {}", printed);
            }
        }
    }
}

/// The conditions in an order of their own: `==` is printed as `=`, which may sort elsewhere.
fn conditions(selector: &FieldSelector) -> Vec<(&str, &str, bool)> {
    let requirements = selector.requirements().iter();
    let mut conditions: Vec<_> =
        requirements.map(|r| (r.field.as_str(), r.value.as_str(), r.equals)).collect();
    conditions.sort_unstable();
    conditions
}

fn without_managers(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    object
}

/// An object of many types is refused at the first value that does not fit, with the path to it.
#[test]
fn a_wrong_type_is_named() {
    let ty = schema::type_of("", "v1", "Pod").expect("pods are in the table");
    let wrong = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": 5}]}});
    let Err(CheckError::Type(text)) = codec::check(wrong.clone(), ty, FieldValidation::Ignore) else {
        panic!("{wrong}")
    };
    assert!(text.contains("spec.containers"), "{text}");
}
