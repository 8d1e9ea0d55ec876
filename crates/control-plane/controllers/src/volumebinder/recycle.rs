//! Scrubbing a volume so that it can be used again: a pod that empties it.
//!
//! The pod's name comes from the volume's, so there is one at a time. A pod of that name that this process did not make, be it from
//! before a crash or somebody else's, proves nothing: it is deleted, and the volume is scrubbed again.

use k8s_openapi::api::core::v1::{Container, PersistentVolume, Pod, PodSpec, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use podium_client::ObjectKey;

use crate::owner;
use crate::pods;

const NAMESPACE: &str = "default";
/// Source: `NewPersistentVolumeRecyclerPodTemplate`, and so the pod's other parts.
const IMAGE: &str = "registry.k8s.io/build-image/debian-base:bookworm-v1.0.6";
const SCRUB: &str =
    "test -e /scrub && find /scrub -mindepth 1 -delete && test -z \"$(ls -A /scrub)\" || exit 1";
const LEAST_SECONDS: i64 = 60;
const LEAST_SECONDS_NFS: i64 = 300;
const SECONDS_PER_GI: i64 = 30;

/// What a volume that is recycled needs next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Start(Box<Pod>),
    /// A pod that is not ours is in the way.
    Clear,
    /// The pod is at work, or going.
    Wait,
    /// It is clean.
    Finish,
    Fail(String),
}

/// Whether there is a way to recycle such a volume.
pub(crate) fn is_possible(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|spec| spec.host_path.is_some() || spec.nfs.is_some())
}

/// The pod that recycles a volume.
pub(crate) fn pod_key(volume: &PersistentVolume) -> ObjectKey {
    ObjectKey::new(NAMESPACE, format!("recycler-for-{}", owner::name(&volume.metadata)))
}

/// The volume that a pod recycles.
pub(crate) fn volume_of(pod: &Pod) -> Option<ObjectKey> {
    let name = owner::name(&pod.metadata).strip_prefix("recycler-for-")?;
    (owner::namespace(&pod.metadata) == NAMESPACE).then(|| ObjectKey::cluster(name))
}

/// Decides about the volume's pod. `ours` is whether we made it.
pub(crate) fn decide(volume: &PersistentVolume, pod: Option<&Pod>, ours: bool) -> Step {
    let Some(running) = pod else { return Step::Start(Box::new(recycler(volume))) };
    match pods::phase(running) {
        _ if pods::is_terminating(running) => Step::Wait,
        _ if !ours => Step::Clear,
        "Succeeded" => Step::Finish,
        "Failed" => {
            let said = running.status.as_ref().and_then(|status| status.message.as_deref());
            let why =
                said.filter(|said| !said.is_empty()).unwrap_or("pod failed, pod.Status.Message unknown");
            Step::Fail(format!("Recycle failed: failed to recycle volume: {why}"))
        }
        _ => Step::Wait,
    }
}

fn recycler(volume: &PersistentVolume) -> Pod {
    let key = pod_key(volume);
    let spec = volume.spec.clone().unwrap_or_default();
    let least = if spec.nfs.is_some() { LEAST_SECONDS_NFS } else { LEAST_SECONDS };
    let gibibytes = podium_api::volumes::capacity(volume).value() >> 30;
    Pod {
        metadata: ObjectMeta {
            name: Some(key.name),
            namespace: Some(key.namespace),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            active_deadline_seconds: Some(least.max(gibibytes.saturating_mul(SECONDS_PER_GI))),
            restart_policy: Some("Never".to_owned()),
            volumes: Some(vec![Volume {
                name: "vol".to_owned(),
                host_path: spec.host_path,
                nfs: spec.nfs,
                ..Volume::default()
            }]),
            containers: vec![Container {
                name: "pv-recycler".to_owned(),
                image: Some(IMAGE.to_owned()),
                command: Some(vec!["/bin/sh".to_owned()]),
                args: Some(vec!["-c".to_owned(), SCRUB.to_owned()]),
                volume_mounts: Some(vec![VolumeMount {
                    name: "vol".to_owned(),
                    mount_path: "/scrub".to_owned(),
                    ..VolumeMount::default()
                }]),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        status: None,
    }
}
