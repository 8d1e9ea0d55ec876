//! Claims: from a pod's volume to the claim, from the claim to its volume of the cluster, from that to what is mounted.
//! Pure but for the two reads; messages are upstream's (`desired_state_of_world_populator.go`).

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::{Api, Client};
use podium_client::{error_chain, is_not_found};

use crate::{admission, pod};

/// What a claimed volume is on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claimed {
    /// The PersistentVolume's name.
    pub(crate) name: String,
    pub(crate) backing: Backing,
    /// A device for containers to open, and not a file system.
    pub(crate) block: bool,
}

/// Where its data are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Backing {
    /// A path of the host, with the type that is checked.
    HostPath { path: String, type_: String },
    /// A path of this node and of no other, which takes the pod's group.
    Local { path: String },
    /// A directory of a file server.
    Nfs { server: String, path: String, read_only: bool, options: Vec<String> },
}

/// Why a claim gives no volume yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error("failed to fetch PVC from API server: {0}")]
    Fetch(String),
    #[error("PVC is being deleted")]
    Deleting,
    #[error("PVC is not bound")]
    Unbound,
    #[error("PVC {claim} was not created for pod {pod} (pod is not owner)")]
    NotOurs { claim: String, pod: String },
    #[error("failed to fetch PV {name} from API server: {why}")]
    FetchVolume { name: String, why: String },
    #[error("found PV object {0} with nil pv.Spec.ClaimRef")]
    NoReference(String),
    #[error(
        "found PV object {name} with .spec.claimRef.uid {found} that does not match the expected PVC UID {wanted}"
    )]
    OtherClaim { name: String, found: String, wanted: String },
    #[error("MountVolume.NodeAffinity check failed for volume {0:?} : no matching NodeSelectorTerms")]
    Affinity(String),
    #[error("volume {name:?}: volume source {kind} is not supported by this kubelet")]
    Unsupported { name: String, kind: &'static str },
    #[error("volume {volume} has volumeMode {mode}, but is specified in {list}")]
    Mode { volume: String, mode: &'static str, list: &'static str },
}

/// The name of the claim of a pod's volume; None if it has none.
pub(crate) fn claim_of(pod: &Pod, volume: &Volume) -> Option<String> {
    if volume.ephemeral.is_some() {
        return Some(format!("{}-{}", pod::name(pod), volume.name));
    }
    volume.persistent_volume_claim.as_ref().map(|source| source.claim_name.clone())
}

/// Reads the claim and its volume, and judges both.
pub(crate) async fn resolve(
    client: &Client,
    pod: &Pod,
    volume: &Volume,
    node: Option<&Node>,
) -> Result<Claimed, ClaimError> {
    let name = claim_of(pod, volume).unwrap_or_default();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), pod::namespace(pod));
    let claim = claims.get(&name).await.map_err(|error| ClaimError::Fetch(told(&error)))?;
    let volume_name = bound_to(&claim, pod, volume)?;
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let found = volumes
        .get(&volume_name)
        .await
        .map_err(|error| ClaimError::FetchVolume { name: volume_name.clone(), why: told(&error) })?;
    judge(&claim, &found, pod, volume, node)
}

fn told(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if is_not_found(error) => status.message.clone(),
        other => error_chain(other),
    }
}

/// The volume that a claim is bound to.
fn bound_to(claim: &PersistentVolumeClaim, pod: &Pod, volume: &Volume) -> Result<String, ClaimError> {
    if volume.ephemeral.is_some() {
        let owners = claim.metadata.owner_references.iter().flatten();
        let ours =
            owners.into_iter().any(|owner| owner.controller == Some(true) && owner.uid == pod::uid(pod));
        if !ours {
            let namespace = pod::namespace(pod);
            return Err(ClaimError::NotOurs {
                claim: format!("{namespace}/{}", claim.metadata.name.as_deref().unwrap_or_default()),
                pod: format!("{namespace}/{}", pod::name(pod)),
            });
        }
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(ClaimError::Deleting);
    }
    let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty());
    name.filter(|_| bound).ok_or(ClaimError::Unbound)
}

/// What is to be mounted, given both objects.
fn judge(
    claim: &PersistentVolumeClaim,
    found: &PersistentVolume,
    pod: &Pod,
    volume: &Volume,
    node: Option<&Node>,
) -> Result<Claimed, ClaimError> {
    let name = found.metadata.name.clone().unwrap_or_default();
    let spec = found.spec.clone().unwrap_or_default();
    let reference = spec.claim_ref.as_ref().ok_or_else(|| ClaimError::NoReference(name.clone()))?;
    if reference.uid != claim.metadata.uid {
        return Err(ClaimError::OtherClaim {
            name,
            found: reference.uid.clone().unwrap_or_default(),
            wanted: claim.metadata.uid.clone().unwrap_or_default(),
        });
    }
    let required = spec.node_affinity.as_ref().and_then(|affinity| affinity.required.as_ref());
    if let (Some(required), Some(node)) = (required, node)
        && !admission::selects(required, node)
    {
        return Err(ClaimError::Affinity(name));
    }
    let block = spec.volume_mode.as_deref() == Some("Block");
    let (as_device, as_mount) = uses(pod, &volume.name);
    let wrong = |mode, list| ClaimError::Mode { volume: volume.name.clone(), mode, list };
    if block && as_mount {
        return Err(wrong("Block", "volumeMounts"));
    }
    if !block && as_device {
        return Err(wrong("Filesystem", "volumeDevices"));
    }
    let backing = if let Some(source) = &spec.host_path {
        let type_ = source.type_.clone().unwrap_or_default();
        Backing::HostPath { path: source.path.clone(), type_ }
    } else if let Some(source) = &spec.local {
        Backing::Local { path: source.path.clone() }
    } else if let (Some(source), false) = (&spec.nfs, block) {
        Backing::Nfs {
            server: source.server.clone(),
            path: source.path.clone(),
            read_only: source.read_only == Some(true),
            options: spec.mount_options.clone().unwrap_or_default(),
        }
    } else {
        let kind = match () {
            () if spec.csi.is_some() => "csi",
            () if spec.nfs.is_some() => "nfs in volumeMode Block",
            () if spec.iscsi.is_some() => "iscsi",
            () if spec.fc.is_some() => "fc",
            () => "of a removed in-tree plugin",
        };
        return Err(ClaimError::Unsupported { name, kind });
    };
    Ok(Claimed { name, backing, block })
}

/// Whether containers open a volume as a device, and whether they mount it.
fn uses(pod: &Pod, volume: &str) -> (bool, bool) {
    let ephemeral = pod::ephemeral_containers(pod);
    let all: Vec<_> =
        pod::containers(pod).iter().chain(pod::init_containers(pod)).chain(&ephemeral).collect();
    (
        all.iter().any(|one| one.volume_devices.iter().flatten().any(|device| device.name == volume)),
        all.iter().any(|one| one.volume_mounts.iter().flatten().any(|mount| mount.name == volume)),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn pod(container: Value) -> Pod {
        let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "e", "ephemeral": {}}]);
        of(json!({"metadata": {"name": "p", "namespace": "n", "uid": "pu"},
            "spec": {"containers": [container], "volumes": volumes}}))
    }

    fn mounting() -> Pod {
        pod(json!({"name": "a", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}))
    }

    fn claim(phase: &str, volume: &str) -> PersistentVolumeClaim {
        of(
            json!({"metadata": {"name": "c", "uid": "cu"}, "spec": {"volumeName": volume}, "status": {"phase": phase}}),
        )
    }

    fn judged(spec: Value, pod: &Pod) -> Result<Claimed, ClaimError> {
        let mut whole = json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"uid": "cu"}}});
        whole["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let node: Node = of(json!({"metadata": {"name": "n1", "labels": {"zone": "a"}}}));
        let volume = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap()[0].clone();
        judge(&claim("Bound", "pv"), &of(whole), pod, &volume, Some(&node))
    }

    #[test]
    fn claims_that_are_bound() {
        let pod = mounting();
        let volumes = pod.spec.as_ref().unwrap().volumes.clone().unwrap();
        assert_eq!(claim_of(&pod, &volumes[0]).as_deref(), Some("c"));
        assert_eq!(claim_of(&pod, &volumes[1]).as_deref(), Some("p-e"));
        assert_eq!(bound_to(&claim("Bound", "pv"), &pod, &volumes[0]), Ok("pv".to_owned()));
        assert_eq!(bound_to(&claim("Pending", ""), &pod, &volumes[0]), Err(ClaimError::Unbound));
        assert_eq!(bound_to(&claim("Pending", "pv"), &pod, &volumes[0]), Err(ClaimError::Unbound));
        let mut going = claim("Bound", "pv");
        going.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        assert_eq!(bound_to(&going, &pod, &volumes[0]), Err(ClaimError::Deleting));
        let mut own = claim("Bound", "pv");
        let error = bound_to(&own, &pod, &volumes[1]).unwrap_err();
        assert_eq!(error.to_string(), "PVC n/c was not created for pod n/p (pod is not owner)");
        own.metadata.owner_references =
            Some(vec![of(json!({"apiVersion": "v1", "kind": "Pod", "name": "p",
            "uid": "pu", "controller": true}))]);
        assert!(bound_to(&own, &pod, &volumes[1]).is_ok());
    }

    #[test]
    fn volumes_of_claims() {
        let pod = mounting();
        let local = |extra: Value| {
            let mut spec = json!({"local": {"path": "/data"}});
            spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            spec
        };
        let zone = |zone: &str| {
            json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "zone", "operator": "In", "values": [zone]}]}]}}})
        };
        let found = judged(local(zone("a")), &pod).unwrap();
        assert_eq!(found.backing, Backing::Local { path: "/data".into() });
        let device =
            super::tests::pod(json!({"name": "a", "volumeDevices": [{"name": "v", "devicePath": "/dev/v"}]}));
        assert!(judged(local(json!({"volumeMode": "Block"})), &device).unwrap().block);
        for (spec, pod, why) in [
            (
                local(zone("b")),
                &pod,
                "MountVolume.NodeAffinity check failed for volume \"pv\" : no matching NodeSelectorTerms",
            ),
            (
                local(json!({"volumeMode": "Block"})),
                &pod,
                "volume v has volumeMode Block, but is specified in volumeMounts",
            ),
            (
                local(json!({})),
                &device,
                "volume v has volumeMode Filesystem, but is specified in volumeDevices",
            ),
            (local(json!({"claimRef": null})), &pod, "found PV object pv with nil pv.Spec.ClaimRef"),
            (
                local(json!({"claimRef": {"uid": "x"}})),
                &pod,
                "claimRef.uid x that does not match the expected PVC UID cu",
            ),
            (
                json!({"csi": {"driver": "d", "volumeHandle": "h"}}),
                &pod,
                "volume source csi is not supported",
            ),
        ] {
            let error = judged(spec, pod).unwrap_err().to_string();
            assert!(error.contains(why), "{error} lacks {why}");
        }
    }
}
