//! Mounts that are read-only with everything mounted below them.
//!
//! Source: upstream's `resolveRecursiveReadOnly` and `runtimeHandlerSupportsRecursiveReadOnlyMounts`; the words are theirs.

use k8s_openapi::api::core::v1::{Container, VolumeMount};
use podium_cri::v1;

/// Why a mount cannot be what its spec asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReadOnlyError {
    #[error("volume {0:?} requested recursive read-only mode, but it is not read-only")]
    Writable(String),
    #[error(
        "volume {volume:?} requested recursive read-only mode, but it is not compatible with propagation {propagation:?}"
    )]
    Propagated { volume: String, propagation: String },
    #[error("volume {0:?} requested recursive read-only mode, but it is not supported by the runtime")]
    NotOffered(String),
    #[error("unknown recursive read-only mode {0:?}")]
    Unknown(String),
}

/// The mode a mount asks for, unless that is the default.
fn mode(mount: &VolumeMount) -> Option<&str> {
    mount.recursive_read_only.as_deref().filter(|mode| *mode != "Disabled")
}

/// Whether what the runtime offers makes a difference to the container.
pub(crate) fn is_asked_for(container: &Container) -> bool {
    container.volume_mounts.iter().flatten().any(|mount| mode(mount).is_some())
}

/// Whether the runtime has that handler and it makes such mounts; a runtime that names no handlers does not.
pub(crate) fn is_offered(handlers: &[v1::RuntimeHandler], handler: &str) -> bool {
    let found = handlers.iter().find(|one| one.name == handler).and_then(|one| one.features);
    found.is_some_and(|features| features.recursive_read_only_mounts)
}

/// Whether a mount becomes one. `offered`: what [`is_offered`] says of the pod's handler.
pub(crate) fn resolve(mount: &VolumeMount, offered: bool) -> Result<bool, ReadOnlyError> {
    let Some(mode) = mode(mount) else { return Ok(false) };
    let volume = || mount.name.clone();
    if mount.read_only != Some(true) {
        return Err(ReadOnlyError::Writable(volume()));
    }
    if let Some(propagation) = mount.mount_propagation.clone().filter(|propagation| propagation != "None") {
        return Err(ReadOnlyError::Propagated { volume: volume(), propagation });
    }
    match mode {
        "IfPossible" => Ok(offered),
        "Enabled" if offered => Ok(true),
        "Enabled" => Err(ReadOnlyError::NotOffered(volume())),
        other => Err(ReadOnlyError::Unknown(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(extra: Value, offered: bool, expected: Result<bool, &str>) {
        let mut mount = json!({"name": "v", "mountPath": "/v", "readOnly": true});
        mount.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let found = resolve(&serde_json::from_value(mount).unwrap(), offered);
        assert_eq!(found.map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{extra}");
    }

    #[test]
    fn modes() {
        check(json!({}), true, Ok(false));
        check(json!({"recursiveReadOnly": "Disabled", "readOnly": false}), true, Ok(false));
        check(json!({"recursiveReadOnly": "IfPossible"}), true, Ok(true));
        check(json!({"recursiveReadOnly": "IfPossible"}), false, Ok(false));
        check(json!({"recursiveReadOnly": "Enabled", "mountPropagation": "None"}), true, Ok(true));
        let refused = "volume \"v\" requested recursive read-only mode, but it is not ";
        for (extra, offered, why) in [
            (json!({"recursiveReadOnly": "Enabled"}), false, "supported by the runtime"),
            (json!({"recursiveReadOnly": "IfPossible", "readOnly": false}), true, "read-only"),
            (
                json!({"recursiveReadOnly": "Enabled", "mountPropagation": "HostToContainer"}),
                true,
                "compatible with propagation \"HostToContainer\"",
            ),
        ] {
            check(extra, offered, Err(&format!("{refused}{why}")));
        }
        let unknown = Err("unknown recursive read-only mode \"Always\"");
        check(json!({"recursiveReadOnly": "Always"}), true, unknown);
    }

    #[test]
    fn handlers_say_what_they_offer() {
        let one = |name: &str, recursive_read_only_mounts| v1::RuntimeHandler {
            name: name.into(),
            features: Some(v1::RuntimeHandlerFeatures { recursive_read_only_mounts, ..Default::default() }),
        };
        let all =
            [one("", true), one("old", false), v1::RuntimeHandler { name: "mute".into(), features: None }];
        for (handlers, handler, expected) in [
            (&all[..], "", true),
            (&all, "old", false),
            (&all, "mute", false),
            (&all, "new", false),
            (&[], "", false),
        ] {
            assert_eq!(is_offered(handlers, handler), expected, "{handler:?}");
        }
    }
}
