//! What an update of a volume may change, and when its phase changed. Source: `ValidatePersistentVolumeUpdate`, and
//! `PrepareForUpdate` of `pkg/registry/core/persistentvolume`.

use serde_json::Value;

use super::sources::VOLUME_SOURCES;
use crate::field::{Errors, Path};
use crate::kinds::go;
use crate::kinds::tree::{child, has, items_mut, list, remove, same, set, text, value};
use crate::kinds::validate::{IMMUTABLE, meta::immutable};

/// The phase changed now, unless the writer says when; a writer that does not know the field leaves it as it is.
pub(super) fn stamp_phase(new: &mut Value, old: &Value, now: &str) {
    const TIME: &str = "lastPhaseTransitionTime";
    let before = value(old, "status");
    let Some(status) = child(new, "status") else { return };
    let stays = text(status, "phase") == text(before, "phase");
    let (told, known) = (value(status, TIME), value(before, TIME));
    if stays && told.is_null() && !known.is_null() {
        set(status, TIME, known.clone());
    } else if !stays && (told.is_null() || told == known) {
        set(status, TIME, now);
    }
}

/// Faults of an update, told after those of the volume itself.
pub(super) fn volume(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("spec");
    let (spec, before) = (value(new, "spec"), value(old, "spec"));
    source(spec, before, &path, errors);
    // Upstream leaves out where these two are.
    immutable(value(spec, "volumeMode"), value(before, "volumeMode"), &Path::new("volumeMode"), errors);
    let (affinity, known) = (value(spec, "nodeAffinity"), value(before, "nodeAffinity"));
    if !known.is_null() && !same(affinity, &with_newer_labels(known, affinity)) {
        let why = format!("{IMMUTABLE}, except for updating from beta label to GA");
        errors.invalid(&Path::new("nodeAffinity"), affinity.clone(), &why);
    }
    let class = "volumeAttributesClassName";
    if has(before, class) && !has(spec, class) {
        errors.forbidden(&path.child(class), "update from non-nil value to nil is forbidden");
    }
}

/// Where the data lie does not change; the secret for expansions may be named later.
fn source(spec: &Value, before: &Value, path: &Path<'_>, errors: &mut Errors) {
    let of = |spec: &Value| {
        let found = VOLUME_SOURCES.iter().filter(|source| has(spec, source));
        Value::Object(found.map(|source| ((*source).to_owned(), value(spec, source).clone())).collect())
    };
    let (mut after, known) = (of(spec), of(before));
    const SECRET: &str = "controllerExpandSecretRef";
    if has(&known, "csi")
        && !has(value(&known, "csi"), SECRET)
        && let Some(csi) = child(&mut after, "csi")
    {
        remove(csi, SECRET);
    }
    if !same(&after, &known) {
        let difference = go::difference("core.v1.PersistentVolumeSource", &known, &after);
        let why = format!("spec.persistentvolumesource is immutable after creation\n{difference}");
        errors.forbidden(&path.child("persistentvolumesource"), &why);
    }
}

/// Labels of nodes that have got another name, and that name.
const NEWER_LABELS: [(&str, &str); 5] = [
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
];

/// An old affinity with the newer name of each label that the new affinity, at the same place, has by that name.
fn with_newer_labels(old: &Value, new: &Value) -> Value {
    let mut old = old.clone();
    let terms = list(value(new, "required"), "nodeSelectorTerms");
    let Some(required) = child(&mut old, "required") else { return old };
    for (term, newer) in items_mut(required, "nodeSelectorTerms").zip(terms) {
        for field in ["matchExpressions", "matchFields"] {
            for (requirement, newer) in items_mut(term, field).zip(list(newer, field)) {
                let names = (text(requirement, "key"), text(newer, "key"));
                if NEWER_LABELS.contains(&names) {
                    set(requirement, "key", names.1);
                }
            }
        }
    }
    old
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(old: &Value, change: impl Fn(&mut Value), expected: &[&str]) {
        let mut new = old.clone();
        change(&mut new);
        let mut errors = Errors::new();
        volume(&new, old, &mut errors);
        let texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        assert_eq!(texts, expected);
    }

    fn pv() -> Value {
        let requirement =
            json!({"key": "failure-domain.beta.kubernetes.io/zone", "operator": "In", "values": ["a"]});
        json!({"spec": {"csi": {"driver": "d", "volumeHandle": "h"}, "volumeMode": "Filesystem",
            "volumeAttributesClassName": "gold",
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [requirement]}]}}}})
    }

    #[test]
    fn a_volume_stays_where_it_is() {
        let csi = |new: &mut Value, field: &str, value: Value| new["spec"]["csi"][field] = value;
        let secret = json!({"name": "s", "namespace": "n"});
        check(&pv(), |new| csi(new, "controllerExpandSecretRef", secret.clone()), &[]);
        let mut named = pv();
        csi(&mut named, "controllerExpandSecretRef", secret);
        check(
            &named,
            |new| csi(new, "controllerExpandSecretRef", json!({"name": "t", "namespace": "n"})),
            &[
                "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n@@ -30,7 +30,7 @@\n   \"NodeStageSecretRef\": null,\n   \"NodePublishSecretRef\": null,\n   \"ControllerExpandSecretRef\": {\n-   \"Name\": \"s\",\n+   \"Name\": \"t\",\n    \"Namespace\": \"n\"\n   },\n   \"NodeExpandSecretRef\": null\n",
            ],
        );
        check(
            &pv(),
            |new| csi(new, "volumeHandle", json!("other")),
            &[
                "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n@@ -22,7 +22,7 @@\n  \"StorageOS\": null,\n  \"CSI\": {\n   \"Driver\": \"d\",\n-  \"VolumeHandle\": \"h\",\n+  \"VolumeHandle\": \"other\",\n   \"ReadOnly\": false,\n   \"FSType\": \"\",\n   \"VolumeAttributes\": null,\n",
            ],
        );
    }

    #[test]
    fn what_else_of_a_volume_stays() {
        let key = |new: &mut Value, key: &str| {
            new["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["key"] =
                json!(key);
        };
        check(&pv(), |new| key(new, "topology.kubernetes.io/zone"), &[]);
        let mut errors = Errors::new();
        let mut new = pv();
        key(&mut new, "topology.kubernetes.io/region");
        volume(&new, &pv(), &mut errors);
        let text = errors.0[0].to_string();
        assert!(text.starts_with("nodeAffinity: Invalid value: "), "{text}");
        assert!(text.ends_with("field is immutable, except for updating from beta label to GA"), "{text}");
        check(
            &pv(),
            |new| {
                new["spec"]["volumeMode"] = json!("Block");
                remove(&mut new["spec"], "volumeAttributesClassName");
            },
            &[
                "volumeMode: Invalid value: \"Block\": field is immutable",
                "spec.volumeAttributesClassName: Forbidden: update from non-nil value to nil is forbidden",
            ],
        );
        check(&pv(), |new| new["spec"]["volumeAttributesClassName"] = json!("silver"), &[]);
        let mut free = pv();
        remove(&mut free["spec"], "nodeAffinity");
        check(&free, |new| new["spec"]["nodeAffinity"] = pv()["spec"]["nodeAffinity"].clone(), &[]);
    }

    #[test]
    fn a_change_of_phase_has_its_time() {
        let volume =
            |phase: &str, time: Value| json!({"status": {"phase": phase, "lastPhaseTransitionTime": time}});
        let old = volume("Available", json!("2026-01-01T00:00:00Z"));
        for (mut new, expected) in [
            (json!({"status": {"phase": "Available"}}), "2026-01-01T00:00:00Z"),
            (json!({"status": {"phase": "Bound"}}), "2026-01-02T00:00:00Z"),
            (volume("Bound", json!("2026-01-01T00:00:00Z")), "2026-01-02T00:00:00Z"),
            (volume("Bound", json!("2026-01-01T12:00:00Z")), "2026-01-01T12:00:00Z"),
        ] {
            let written = new.clone();
            stamp_phase(&mut new, &old, "2026-01-02T00:00:00Z");
            assert_eq!(new["status"]["lastPhaseTransitionTime"], expected, "{written}");
        }
    }
}
