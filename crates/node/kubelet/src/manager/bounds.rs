//! The manager's part of bounds on the node's disk: measures the pods that have any, see [`crate::local_storage`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;

use super::Pods;
use crate::{local_storage, pod, record::label};

/// How often pods are measured.
const EVERY: Duration = Duration::from_secs(10);
/// A pod that takes more than it may is not waited for.
const GRACE_SECONDS: i64 = 0;

impl Pods {
    /// Pods that have outgrown their bounds on the disk have to go.
    pub(super) async fn bound_disk(&self) {
        loop {
            tokio::time::sleep(EVERY).await;
            let bounded: Vec<Arc<Pod>> =
                self.active().into_iter().filter(|pod| local_storage::is_bounded(pod)).collect();
            if bounded.is_empty() {
                continue;
            }
            let mut layers = self.layers().await;
            for pod in bounded {
                let layers = layers.remove(pod::uid(&pod)).unwrap_or_default();
                let directory = self.shared.pod_dir(pod::uid(&pod));
                let logs = self.shared.log_directory(&pod);
                let measured = pod.clone();
                let measuring = tokio::task::spawn_blocking(move || {
                    local_storage::measure(&measured, &directory, &logs, &layers)
                });
                let Ok(usage) = measuring.await else { continue };
                if let Some(verdict) = local_storage::decide(&pod, &usage) {
                    self.evict(&pod, verdict, GRACE_SECONDS);
                }
            }
        }
    }

    /// The bytes of writable layers, by pod and container.
    async fn layers(&self) -> HashMap<String, BTreeMap<String, u64>> {
        let mut layers: HashMap<String, BTreeMap<String, u64>> = HashMap::new();
        for one in self.container_stats().await {
            let bytes = one.writable_layer.and_then(|layer| layer.used_bytes).map_or(0, |bytes| bytes.value);
            let Some(mut labels) = one.attributes.map(|attributes| attributes.labels) else { continue };
            let (Some(uid), Some(name)) =
                (labels.remove(label::POD_UID), labels.remove(label::CONTAINER_NAME))
            else {
                continue;
            };
            *layers.entry(uid).or_default().entry(name).or_default() += bytes;
        }
        layers
    }
}
