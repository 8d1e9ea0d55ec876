//! Which persistent volume suits a claim, and how the two refer to each other.
//!
//! The volume binder and the scheduler must agree about this, so both ask here. Source of behaviour:
//! `k8s.io/component-helpers/storage/volume` (v1.36).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::quantity::Quantity;
use crate::selector::LabelSelector;

/// On claims: binding went through once, so a missing volume is a lost one.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On claims and volumes: the other side was chosen by the binder and not by a person.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On claims: the node for which the scheduler wants a volume made.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On volumes: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On claims and volumes whose in-tree plugin was replaced by a CSI driver: the driver.
pub const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";
/// On claims: who is to make a volume.
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The older name of [`STORAGE_PROVISIONER`], still written beside it.
pub const BETA_STORAGE_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// The provisioner of classes whose volumes are made by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const DEFAULT_CLASS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const STORAGE: &str = "storage";

/// The value of an annotation.
pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The name of a claim's storage class; empty when it has none.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&claim.metadata, BETA_CLASS).or(spec).unwrap_or_default()
}

/// Whether a claim says anything about its class: the empty name counts, it means none on purpose.
pub fn has_class(claim: &PersistentVolumeClaim) -> bool {
    annotation(&claim.metadata, BETA_CLASS).is_some()
        || claim.spec.as_ref().is_some_and(|spec| spec.storage_class_name.is_some())
}

/// The name of a volume's storage class; empty when it has none.
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&volume.metadata, BETA_CLASS).or(spec).unwrap_or_default()
}

/// The volume a claim names; `None` when it leaves the choice.
pub fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// The claim a volume refers to.
pub fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// A volume's phase; empty before it has one.
pub fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether claims of the class are bound only when a pod uses them.
pub fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// Whether the class is meant for claims that say nothing about their class.
pub fn is_default_class(class: &StorageClass) -> bool {
    DEFAULT_CLASS.iter().any(|key| annotation(&class.metadata, key) == Some("true"))
}

/// Whether the volume refers to this claim: by name, and by uid if it has one.
pub fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|reference| {
        let uid = reference.uid.as_deref().unwrap_or_default();
        names(reference, claim) && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
    })
}

fn names(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    reference.name == claim.metadata.name && reference.namespace == claim.metadata.namespace
}

/// The volume with its reference to the claim; `None` when it has it already.
pub fn bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let complete = claim_ref(volume)
        .is_some_and(|reference| names(reference, claim) && reference.uid == claim.metadata.uid);
    if complete {
        return None;
    }
    let mut bound = volume.clone();
    if !is_bound_to(volume, claim) {
        let annotations = bound.metadata.annotations.get_or_insert_default();
        annotations.entry(BOUND_BY_CONTROLLER.to_owned()).or_insert_with(|| "yes".to_owned());
    }
    bound.spec.get_or_insert_default().claim_ref = Some(ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        name: claim.metadata.name.clone(),
        namespace: claim.metadata.namespace.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        field_path: None,
    });
    Some(bound)
}

/// The name of the index under which volumes are found by [`partner_of_volume`], and claims by [`partner_of_claim`].
pub const BY_PARTNER: &str = "volumes/partner";

/// What a volume looks for: claims of its class while it is free, or else the claim it refers to.
pub fn partner_of_volume(volume: &PersistentVolume) -> String {
    match claim_ref(volume) {
        Some(claim) => claim_partner(
            claim.namespace.as_deref().unwrap_or_default(),
            claim.name.as_deref().unwrap_or_default(),
        ),
        None => class_partner(class_of_volume(volume)),
    }
}

/// What a claim looks for: the volume it names, or volumes of its class; nothing once it was bound and lost its volume's name.
pub fn partner_of_claim(claim: &PersistentVolumeClaim) -> Option<String> {
    match volume_name(claim) {
        Some(volume) => Some(volume_partner(volume)),
        None if annotation(&claim.metadata, BIND_COMPLETED).is_some() => None,
        None => Some(class_partner(class_of_claim(claim))),
    }
}

/// The index value of whoever looks for partners in a class.
pub fn class_partner(class: &str) -> String {
    format!("class/{class}")
}

/// The index value of whoever looks for that claim.
pub fn claim_partner(namespace: &str, name: &str) -> String {
    format!("claim/{namespace}/{name}")
}

/// The index value of whoever looks for that volume.
pub fn volume_partner(name: &str) -> String {
    format!("volume/{name}")
}

/// How much storage a volume has.
pub fn capacity(volume: &PersistentVolume) -> Quantity {
    amount(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

/// How much storage a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    amount(claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()))
}

type Amounts = BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

fn amount(list: Option<&Amounts>) -> Quantity {
    list.and_then(|list| list.get(STORAGE)?.0.parse().ok()).unwrap_or_default()
}

fn mode(mode: Option<&String>) -> &str {
    mode.map_or("Filesystem", String::as_str)
}

/// Whether one is a file system and the other a block device.
pub fn modes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    mode(claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref()))
        != mode(volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref()))
}

/// Whether the volume can be accessed in all the ways the claim asks for.
pub fn access_suffices(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let has = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    let wants = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    wants.iter().all(|mode| has.contains(mode))
}

fn attributes_differ(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let of_claim = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let of_volume = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    of_claim.unwrap_or_default() != of_volume.unwrap_or_default()
}

/// Why a volume that a claim names cannot be its volume, in upstream's words.
pub fn unsuited(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    let fixed = |text: &str| Some(text.to_owned());
    if volume.metadata.deletion_timestamp.is_some() {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        return Some(format!("the volume is marked for deletion {name:?}"));
    }
    if capacity(volume).value() < requested(claim).value() {
        return fixed("requested PV is too small");
    }
    if class_of_volume(volume) != class_of_claim(claim) {
        return fixed("storageClassName does not match");
    }
    if attributes_differ(claim, volume) {
        return fixed("volumeAttributesClassName does not match");
    }
    if modes_differ(claim, volume) {
        return fixed("incompatible volumeMode");
    }
    if !access_suffices(claim, volume) {
        return fixed("incompatible accessMode");
    }
    None
}

/// What a claim asks of volumes, ready to be compared with many.
#[derive(Debug)]
pub struct Wanted<'a> {
    claim: &'a PersistentVolumeClaim,
    selector: Option<LabelSelector>,
    size: Quantity,
}

/// How well a volume suits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suits {
    /// Not at all.
    No,
    /// It is free and offers what is asked for.
    Free,
    /// It refers to the claim already, so no other volume is to be looked at.
    Reserved,
}

impl<'a> Wanted<'a> {
    /// Reads a claim.
    ///
    /// # Errors
    ///
    /// When its selector is invalid: then no volume can be chosen for it.
    pub fn new(claim: &'a PersistentVolumeClaim) -> Result<Self, String> {
        let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let selector = selector.map(LabelSelector::from_object).transpose().map_err(|error| error.0)?;
        Ok(Self { claim, selector, size: requested(claim) })
    }

    /// Compares a volume with the claim. Where it can be reached from is not looked at.
    pub fn compare(&self, volume: &PersistentVolume) -> Suits {
        let claim = self.claim;
        let reserved = is_bound_to(volume, claim);
        if (claim_ref(volume).is_some() && !reserved)
            || capacity(volume) < self.size
            || modes_differ(claim, volume)
            || attributes_differ(claim, volume)
            || volume.metadata.deletion_timestamp.is_some()
            || !access_suffices(claim, volume)
        {
            return Suits::No;
        }
        if reserved {
            return Suits::Reserved;
        }
        let selected = |selector: &LabelSelector| selector.matches_option(volume.metadata.labels.as_ref());
        let free = phase(volume) == "Available"
            && self.selector.as_ref().is_none_or(selected)
            && class_of_volume(volume) == class_of_claim(claim);
        if free { Suits::Free } else { Suits::No }
    }

    /// The volumes to be considered, best first: one that is reserved for the claim alone, or else the free ones, those with the
    /// fewest access modes and of these the smallest first.
    pub fn rank<V: AsRef<PersistentVolume>>(&self, volumes: impl IntoIterator<Item = V>) -> Vec<V> {
        let mut free = Vec::new();
        for volume in volumes {
            match self.compare(volume.as_ref()) {
                Suits::No => {}
                Suits::Free => free.push(volume),
                Suits::Reserved => return vec![volume],
            }
        }
        free.sort_by_cached_key(|volume| {
            let volume = volume.as_ref();
            let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_ref()).map_or(0, Vec::len);
            (modes, capacity(volume), volume.metadata.name.clone())
        });
        free
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(spec: &Value) -> PersistentVolumeClaim {
        let mut claim = json!({"metadata": {"name": "c", "namespace": "ns", "uid": "u"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast",
                "resources": {"requests": {"storage": "1Gi"}}}});
        merge(&mut claim["spec"], spec);
        serde_json::from_value(claim).unwrap()
    }

    fn volume(name: &str, size: &str, change: &Value) -> PersistentVolume {
        let mut volume = json!({"metadata": {"name": name, "labels": {"disk": "ssd"}},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "capacity": {"storage": size}},
            "status": {"phase": "Available"}});
        merge(&mut volume, change);
        serde_json::from_value(volume).unwrap()
    }

    fn merge(into: &mut Value, change: &Value) {
        match change {
            Value::Object(fields) => fields.iter().for_each(|(key, value)| merge(&mut into[key], value)),
            other => *into = other.clone(),
        }
    }

    #[track_caller]
    fn check(case: &str, claim: &PersistentVolumeClaim, volumes: &[PersistentVolume], expected: &[&str]) {
        let ranked = Wanted::new(claim).unwrap().rank(volumes.iter().cloned().map(Box::new));
        let names: Vec<_> = ranked.iter().map(|volume| volume.metadata.name.as_deref().unwrap()).collect();
        assert_eq!(names, expected, "{case}");
    }

    #[test]
    fn the_smallest_that_suffices_is_best_and_a_reserved_one_is_better() {
        let plain = claim(&json!({}));
        let sizes = [("big", "9Gi"), ("small", "1Gi"), ("tiny", "1Mi"), ("medium", "2Gi")];
        let mut volumes = sizes.map(|(name, size)| volume(name, size, &json!({}))).to_vec();
        check("sizes", &plain, &volumes, &["small", "medium", "big"]);
        volumes.push(volume(
            "more-modes",
            "1Gi",
            &json!({"spec": {"accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}}),
        ));
        check("modes", &plain, &volumes, &["small", "medium", "big", "more-modes"]);
        for (case, reference, expected) in [
            ("by name", json!({"namespace": "ns", "name": "c"}), true),
            ("by uid", json!({"namespace": "ns", "name": "c", "uid": "u"}), true),
            ("another life", json!({"namespace": "ns", "name": "c", "uid": "v"}), false),
            ("another", json!({"namespace": "ns", "name": "d"}), false),
        ] {
            // A reserved volume need not be of the class, nor available.
            let change = json!({"spec": {"claimRef": reference, "storageClassName": "slow"}, "status": {"phase": "Bound"}});
            let mut volumes = volumes.clone();
            volumes.push(volume("mine", "5Gi", &change));
            let expected: &[&str] =
                if expected { &["mine"] } else { &["small", "medium", "big", "more-modes"] };
            check(case, &plain, &volumes, expected);
        }
    }

    #[test]
    fn what_does_not_suit_is_left_out() {
        for (case, spec, change) in [
            ("class", json!({}), json!({"spec": {"storageClassName": "slow"}})),
            ("mode", json!({"volumeMode": "Block"}), json!({})),
            ("access", json!({"accessModes": ["ReadWriteMany"]}), json!({})),
            ("phase", json!({}), json!({"status": {"phase": "Released"}})),
            ("selector", json!({"selector": {"matchLabels": {"disk": "hdd"}}}), json!({})),
            ("attributes", json!({"volumeAttributesClassName": "gold"}), json!({})),
            ("going", json!({}), json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
        ] {
            check(case, &claim(&spec), &[volume("v", "1Gi", &change)], &[]);
        }
        let broken = claim(&json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}));
        assert!(Wanted::new(&broken).is_err());
    }

    #[test]
    fn a_named_volume_is_refused_in_upstreams_words() {
        for (spec, change, expected) in [
            (json!({}), json!({}), None),
            (
                json!({"resources": {"requests": {"storage": "2Gi"}}}),
                json!({}),
                Some("requested PV is too small"),
            ),
            (json!({"storageClassName": ""}), json!({}), Some("storageClassName does not match")),
            (json!({"volumeMode": "Block"}), json!({}), Some("incompatible volumeMode")),
            (json!({"accessModes": ["ReadWriteMany"]}), json!({}), Some("incompatible accessMode")),
            (
                json!({}),
                json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
                Some("the volume is marked for deletion \"v\""),
            ),
        ] {
            assert_eq!(unsuited(&volume("v", "1Gi", &change), &claim(&spec)).as_deref(), expected);
        }
    }

    #[test]
    fn a_volume_remembers_who_chose_its_claim() {
        let claim = claim(&json!({}));
        let chosen = bound_to(&volume("v", "1Gi", &json!({})), &claim).unwrap();
        assert_eq!(annotation(&chosen.metadata, BOUND_BY_CONTROLLER), Some("yes"));
        assert_eq!(bound_to(&chosen, &claim), None);
        let by_a_person =
            volume("v", "1Gi", &json!({"spec": {"claimRef": {"namespace": "ns", "name": "c"}}}));
        let completed = bound_to(&by_a_person, &claim).unwrap();
        assert_eq!(annotation(&completed.metadata, BOUND_BY_CONTROLLER), None);
        assert_eq!(claim_ref(&completed).unwrap().uid.as_deref(), Some("u"));
    }
}
