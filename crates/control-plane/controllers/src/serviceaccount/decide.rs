//! Whether a namespace lacks its ServiceAccount.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The account that pods get when they ask for none.
pub(crate) const NAME: &str = "default";

/// The account to create, if the namespace lives and has none.
pub(crate) fn decide(namespace: &Namespace, exists: bool) -> Option<ServiceAccount> {
    if exists || !is_alive(namespace) {
        return None;
    }
    Some(ServiceAccount {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: namespace.metadata.name.clone(),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    })
}

/// Whether things may still be created in the namespace.
pub(crate) fn is_alive(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    namespace.metadata.deletion_timestamp.is_none() && phase != Some("Terminating")
}
