//! On which nodes one volume is to be attached, and from which it may be taken.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, Pod};
use k8s_openapi::api::storage::v1::{
    CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use podium_api::volumes::annotation;
use sha2::{Digest, Sha256};

use crate::clock::after;
use crate::nodes;
use crate::owner;
use crate::pods;

/// Nodes whose kubelet leaves attaching to this controller.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// Nodes that keep the volumes of pods that have ended.
const KEEPS: &str = "volumes.kubernetes.io/keep-terminated-pod-volumes";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// How long an unhealthy node may hold a volume. Source: `ReconcilerMaxWaitForUnmountDuration`.
const LONGEST_HOLD_SECONDS: i64 = 360;

/// The driver of a volume, and its handle there.
pub(crate) fn source(volume: &PersistentVolume) -> Option<(&str, &str)> {
    let csi = volume.spec.as_ref()?.csi.as_ref()?;
    Some((&csi.driver, &csi.volume_handle))
}

/// The name by which nodes know a volume.
pub(crate) fn unique_name(volume: &PersistentVolume) -> Option<String> {
    source(volume).map(|(driver, handle)| format!("kubernetes.io/csi/{driver}^{handle}"))
}

/// Whether a driver's volumes are attached at all. One that says nothing about itself wants it.
pub(crate) fn attaches(driver: Option<&CSIDriver>) -> bool {
    driver.and_then(|driver| driver.spec.attach_required).unwrap_or(true)
}

/// Whether the pod needs its volumes on its node, which it is bound to.
pub(crate) fn needs_volumes(pod: &Pod, node: &Node) -> bool {
    let managed = annotation(&node.metadata, MANAGED) == Some("true");
    managed && (!pods::is_finished(pod) || annotation(&node.metadata, KEEPS) == Some("true"))
}

/// The attachment of a volume to a node.
pub(crate) fn attachment(volume: &PersistentVolume, node: &str) -> Option<VolumeAttachment> {
    let (driver, handle) = source(volume)?;
    let digest = Sha256::digest(format!("{handle}{driver}{node}"));
    let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(VolumeAttachment {
        metadata: ObjectMeta { name: Some(format!("csi-{name}")), ..ObjectMeta::default() },
        spec: VolumeAttachmentSpec {
            attacher: driver.to_owned(),
            node_name: node.to_owned(),
            source: VolumeAttachmentSource {
                persistent_volume_name: volume.metadata.name.clone(),
                inline_volume_spec: None,
            },
        },
        status: None,
    })
}

/// Whether the volume can be on one node at a time only.
fn is_exclusive(volume: &PersistentVolume) -> bool {
    let modes = volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
    !modes.is_empty() && !modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany")
}

/// One attachment as it is.
pub(crate) struct Attached<'a> {
    pub(crate) object: &'a VolumeAttachment,
    /// Its node; `None` when that is gone.
    pub(crate) node: Option<&'a Node>,
    /// Since when nobody wants it.
    pub(crate) unwanted_since: Option<Timestamp>,
}

/// What one volume needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Needs {
    /// Nodes to attach it to.
    pub(crate) attach: Vec<String>,
    /// Attachments to end, by name, with their nodes: the node is told first.
    pub(crate) detach: Vec<(String, String)>,
    /// Why some of those are ended though their node still holds them.
    pub(crate) forced: Vec<&'static str>,
    /// Attachments that nobody wants and that a node still holds.
    pub(crate) held: Vec<String>,
    /// When to look again at those.
    pub(crate) again: Option<Timestamp>,
    /// Nodes whose pods must wait, because another has the volume.
    pub(crate) refused: Vec<String>,
}

/// Decides about one volume. `wanted`: the nodes where pods need it.
pub(crate) fn decide(
    volume: &PersistentVolume,
    wanted: &BTreeSet<String>,
    attached: &[Attached<'_>],
    now: Timestamp,
) -> Needs {
    let mut needs = Needs::default();
    let unique = unique_name(volume).unwrap_or_default();
    let mut there = BTreeSet::new();
    for attached in attached {
        let node = attached.object.spec.node_name.as_str();
        there.insert(node);
        if wanted.contains(node) || attached.object.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let name = owner::name(&attached.object.metadata).to_owned();
        let until = after(attached.unwanted_since.unwrap_or(now), LONGEST_HOLD_SECONDS);
        let holder = attached.node.filter(|node| {
            let in_use = node.status.as_ref().and_then(|status| status.volumes_in_use.as_deref());
            in_use.unwrap_or_default().contains(&unique)
        });
        let force = holder.and_then(|node| {
            let abandoned = nodes::taints(node).iter().any(|taint| taint.key == OUT_OF_SERVICE);
            let given_up = !nodes::is_ready(node) && until <= now;
            given_up.then_some("timeout").or(abandoned.then_some("out-of-service"))
        });
        needs.forced.extend(force);
        if holder.is_some() && force.is_none() {
            if until > now {
                needs.again = Some(needs.again.map_or(until, |again| again.min(until)));
            }
            needs.held.push(name);
        } else {
            needs.detach.push((name, node.to_owned()));
        }
    }
    for node in wanted.iter().filter(|node| !there.contains(node.as_str())) {
        // Of several the first gets it; the others find it there.
        if is_exclusive(volume) && !(there.is_empty() && needs.attach.is_empty()) {
            needs.refused.push(node.clone());
        } else {
            needs.attach.push(node.clone());
        }
    }
    needs
}

/// Why a pod waits for a volume that another node has. `others`: the pods that use it there.
pub(crate) fn multi_attach(volume: &str, pod: &Pod, others: &[&Pod]) -> String {
    let namespace = owner::namespace(&pod.metadata);
    let (near, far): (Vec<&&Pod>, Vec<&&Pod>) =
        others.iter().partition(|other| owner::namespace(&other.metadata) == namespace);
    let names: Vec<&str> = near.iter().map(|pod| owner::name(&pod.metadata)).collect();
    let why = match (names.is_empty(), far.len()) {
        (true, 0) => {
            "Volume is already exclusively attached to one node and can't be attached to another".to_owned()
        }
        (true, count) => format!("Volume is already used by {count} pod(s) in different namespaces"),
        (false, 0) => format!("Volume is already used by pod(s) {}", names.join(", ")),
        (false, count) => {
            format!(
                "Volume is already used by pod(s) {} and {count} pod(s) in different namespaces",
                names.join(", ")
            )
        }
    };
    format!("Multi-Attach error for volume {volume:?} {why}")
}

/// What a node is to be told is attached to it: unique names with device paths.
pub(crate) fn report(attachments: &[(String, &VolumeAttachment)]) -> BTreeMap<String, String> {
    let attached =
        attachments.iter().filter(|(_, it)| it.status.as_ref().is_some_and(|status| status.attached));
    let path = |it: &VolumeAttachment| {
        let metadata = it.status.as_ref().and_then(|status| status.attachment_metadata.as_ref());
        metadata.and_then(|metadata| metadata.get("devicePath").cloned()).unwrap_or_default()
    };
    attached.map(|(name, it)| (name.clone(), path(it))).collect()
}
