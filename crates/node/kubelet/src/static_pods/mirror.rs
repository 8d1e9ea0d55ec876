//! What is to become of the mirrors of static pods: decided here from what there is, carried out by the manager.

use std::sync::Arc;

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::OwnerReference};
use podium_client::ObjectKey;

use crate::pod;

/// One step; each may be repeated.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Show this static pod.
    Create(Arc<Pod>),
    /// Delete the mirror, at once.
    Delete(Arc<Pod>),
}

/// What to do, given all static pods that run or are to run, and all mirrors that the API has. While not all sources of
/// static pods have been heard, mirrors of others than these stay.
pub(crate) fn plan(statics: &[Arc<Pod>], mirrors: &[Arc<Pod>], all_heard: bool) -> Vec<Step> {
    let find =
        |list: &[Arc<Pod>], key: &ObjectKey| list.iter().find(|one| ObjectKey::of(&***one) == *key).cloned();
    let mut steps = Vec::new();
    for mirror in mirrors {
        let wanted = find(statics, &ObjectKey::of(&**mirror));
        let fits = match wanted {
            Some(wanted) => shows(mirror, &wanted) && !pod::is_deleting(mirror),
            None => !all_heard,
        };
        if !fits {
            steps.push(Step::Delete(mirror.clone()));
        }
    }
    for wanted in statics {
        if find(mirrors, &ObjectKey::of(&**wanted)).is_none() {
            steps.push(Step::Create(wanted.clone()));
        }
    }
    steps
}

/// Whether a mirror is the image of exactly this pod.
fn shows(mirror: &Pod, wanted: &Pod) -> bool {
    let annotation = |of: &Pod, key: &str| of.metadata.annotations.as_ref()?.get(key).cloned();
    annotation(mirror, pod::CONFIG_MIRROR) == annotation(wanted, pod::CONFIG_HASH)
}

/// The mirror of a static pod, owned by the node.
pub(crate) fn of(wanted: &Pod, node_name: &str, node_uid: &str) -> Pod {
    let mut mirror = wanted.clone();
    let annotations = mirror.metadata.annotations.get_or_insert_default();
    if let Some(hash) = annotations.get(pod::CONFIG_HASH).cloned() {
        annotations.insert(pod::CONFIG_MIRROR.to_owned(), hash);
    }
    mirror.metadata.uid = None;
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node_name.to_owned(),
        uid: node_uid.to_owned(),
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    mirror.status = None;
    mirror
}
