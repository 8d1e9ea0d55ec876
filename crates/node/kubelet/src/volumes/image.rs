//! Images as volumes: what the container runtime makes of them.
//!
//! The kubelet pulls such an image as it pulls a container's, and hands it on by name: the runtime mounts it. A runtime
//! that does not know the field takes no notice of it, and the container would start without its volume; so it is asked
//! for its name and version, because CRI has no feature to look at.

use k8s_openapi::api::core::v1::{Pod, Volume};

use crate::pod;

/// What a runtime mounts of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mounts {
    /// Nothing, or nobody knows.
    #[default]
    Nothing,
    /// All of it; a sub path is not looked at.
    Whole,
    /// All of it or a sub path.
    Parts,
}

/// What a runtime offers, by its name and version as `nodeInfo.containerRuntimeVersion` has them.
/// Source: the volumes page of Kubernetes' documentation, and the runtimes' release notes.
pub(crate) fn offered(runtime: &str) -> Mounts {
    let Some((name, version)) = runtime.split_once("://") else { return Mounts::Nothing };
    let (whole, parts) = match name {
        "podium" => return Mounts::Parts,
        "containerd" => ((2, 1), (2, 2)),
        "cri-o" => ((1, 31), (1, 33)),
        _ => return Mounts::Nothing,
    };
    match numbers(version) {
        Some(version) if version >= parts => Mounts::Parts,
        Some(version) if version >= whole => Mounts::Whole,
        _ => Mounts::Nothing,
    }
}

/// Major and minor of a version such as `v2.1.0-beta.0` or `1.6.20~ds1`.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('v').split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?;
    let end = minor.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(minor.len());
    Some((major, minor[..end].parse().ok()?))
}

/// What the pod needs of the runtime for one of its volumes.
pub(crate) fn needed(pod: &Pod, volume: &Volume) -> Mounts {
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let ephemeral = pod::ephemeral_containers(pod);
    let parts = pod::containers(pod)
        .iter()
        .chain(pod::init_containers(pod))
        .chain(&ephemeral)
        .flat_map(|container| container.volume_mounts.iter().flatten())
        .any(|mount| mount.name == volume.name && (given(&mount.sub_path) || given(&mount.sub_path_expr)));
    if parts { Mounts::Parts } else { Mounts::Whole }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_that_know_image_volumes() {
        for (runtime, expected) in [
            ("podium://0.3.0", Mounts::Parts),
            ("containerd://1.6.20~ds1", Mounts::Nothing),
            ("containerd://1.7.27", Mounts::Nothing),
            ("containerd://v2.1.0-beta.0-18-g8237c496", Mounts::Whole),
            ("containerd://2.2.0", Mounts::Parts),
            ("containerd://3.0.1", Mounts::Parts),
            ("cri-o://1.30.9", Mounts::Nothing),
            ("cri-o://1.31.0", Mounts::Whole),
            ("cri-o://1.34.1", Mounts::Parts),
            ("containerd://", Mounts::Nothing),
            ("containerd", Mounts::Nothing),
            ("another://9.9.9", Mounts::Nothing),
        ] {
            assert_eq!(offered(runtime), expected, "{runtime}");
        }
    }

    #[test]
    fn what_a_pod_needs() {
        for (mount, expected) in [
            (serde_json::json!({"name": "v"}), Mounts::Whole),
            (serde_json::json!({"name": "v", "subPath": ""}), Mounts::Whole),
            (serde_json::json!({"name": "v", "subPath": "a"}), Mounts::Parts),
            (serde_json::json!({"name": "v", "subPathExpr": "$(A)"}), Mounts::Parts),
            (serde_json::json!({"name": "other", "subPath": "a"}), Mounts::Whole),
        ] {
            let pod: Pod = serde_json::from_value(serde_json::json!({
                "spec": {"containers": [{"name": "c", "volumeMounts": [mount]}]},
            }))
            .unwrap();
            let volume = Volume { name: "v".into(), ..Default::default() };
            assert_eq!(needed(&pod, &volume), expected, "{mount}");
        }
    }
}
