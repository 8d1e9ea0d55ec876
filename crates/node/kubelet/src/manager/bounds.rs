//! The manager's part of bounds on the node's disk: measures the pods that have any, see [`crate::local_storage`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;

use super::Pods;
use crate::{
    local_storage::{self, Unit},
    metrics, pod,
    record::label,
};

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
                self.staying().into_iter().filter(|pod| local_storage::is_bounded(pod)).collect();
            if bounded.is_empty() {
                continue;
            }
            let mut layers = self.layers(Unit::Bytes).await;
            for pod in bounded {
                let layers = layers.remove(pod::uid(&pod)).unwrap_or_default();
                let usage = self.measure(&pod, layers, Unit::Bytes).await;
                let Some((bound, verdict)) = local_storage::decide(&pod, &usage) else { continue };
                // Others that have outgrown theirs go at the same time.
                if self.evict(&pod, verdict, GRACE_SECONDS).is_some() {
                    self.shared.metrics.count(&metrics::EVICTIONS, &[("eviction_signal", bound)]);
                }
            }
        }
    }

    /// What a pod has on the node's disk. `layers`: of that its containers' writable layers.
    pub(super) async fn measure(
        &self,
        pod: &Arc<Pod>,
        layers: BTreeMap<String, u64>,
        unit: Unit,
    ) -> local_storage::Usage {
        let directory = self.shared.pod_dir(pod::uid(pod));
        let logs = self.shared.log_directory(pod);
        let pod = pod.clone();
        let measuring = tokio::task::spawn_blocking(move || {
            local_storage::measure(&pod, &directory, &logs, &layers, unit)
        });
        measuring.await.unwrap_or_default()
    }

    /// The sizes of writable layers, by pod and container.
    pub(super) async fn layers(&self, unit: Unit) -> HashMap<String, BTreeMap<String, u64>> {
        let mut layers: HashMap<String, BTreeMap<String, u64>> = HashMap::new();
        for one in self.container_stats().await {
            let used = one.writable_layer.and_then(|layer| match unit {
                Unit::Bytes => layer.used_bytes,
                Unit::Inodes => layer.inodes_used,
            });
            let Some(mut labels) = one.attributes.map(|attributes| attributes.labels) else { continue };
            let (Some(uid), Some(name)) =
                (labels.remove(label::POD_UID), labels.remove(label::CONTAINER_NAME))
            else {
                continue;
            };
            *layers.entry(uid).or_default().entry(name).or_default() += used.map_or(0, |used| used.value);
        }
        layers
    }
}
