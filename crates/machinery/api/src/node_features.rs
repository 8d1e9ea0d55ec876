//! The features that a node declares in `status.declaredFeatures`, for pods that need them there.
//! Source: `k8s.io/component-helpers/nodedeclaredfeatures` at v1.36, whose gate is on by default.

/// Streams of containers are taken as WebSockets.
pub const WEBSOCKETS: &str = "ExtendWebSocketsToKubelet";
/// Resources of a pod as a whole are changed in place.
pub const POD_LEVEL_RESIZE: &str = "InPlacePodLevelResourcesVerticalScaling";
/// So are those of init containers that end.
pub const INIT_RESIZE: &str = "InPlacePodVerticalScalingInitContainers";
/// A container's end may restart all of its pod.
pub const RESTART_ALL: &str = "RestartAllContainersOnContainerExits";
/// Pods in the host's network may have a user namespace.
pub const HOST_NETWORK_USERS: &str = "UserNamespacesHostNetworkSupport";
