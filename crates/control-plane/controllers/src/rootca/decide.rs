//! Whether a namespace's ConfigMap is right.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::serviceaccount::is_alive;

/// The ConfigMap's name.
pub(crate) const NAME: &str = "kube-root-ca.crt";
/// The key that holds the certificates in PEM.
pub(crate) const KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
/// Word for word upstream's, since people compare objects.
const DESCRIPTION_TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// The one write a namespace needs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    Keep,
    Create(ConfigMap),
    Update(ConfigMap),
}

/// Compares what is there with the certificates of today.
pub(crate) fn decide(namespace: &Namespace, current: Option<&ConfigMap>, root_ca_pem: &str) -> Decision {
    if !is_alive(namespace) {
        return Decision::Keep;
    }
    let data = BTreeMap::from([(KEY.to_owned(), root_ca_pem.to_owned())]);
    let description = (DESCRIPTION.to_owned(), DESCRIPTION_TEXT.to_owned());
    match current {
        None => Decision::Create(ConfigMap {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                namespace: namespace.metadata.name.clone(),
                annotations: Some(BTreeMap::from([description])),
                ..ObjectMeta::default()
            },
            data: Some(data),
            ..ConfigMap::default()
        }),
        Some(current) => {
            let annotated = current.metadata.annotations.as_ref().is_some_and(|it| !it.is_empty());
            if current.data.as_ref() == Some(&data) && annotated {
                return Decision::Keep;
            }
            let mut updated = current.clone();
            updated.data = Some(data);
            updated.metadata.annotations.get_or_insert_default().extend([description]);
            Decision::Update(updated)
        }
    }
}
