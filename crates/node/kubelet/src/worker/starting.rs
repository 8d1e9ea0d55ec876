//! How long a pod's start takes, from its creation until all its containers run, with and without the pulling of images.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use crate::{
    backoff::elapsed,
    metrics::{self, Metrics},
    pod,
};

/// The clock of one pod.
#[derive(Debug)]
pub(crate) struct Starting {
    seen: Instant,
    /// Time spent on images.
    pulling: Duration,
    /// A sandbox was made in this life of the kubelet: otherwise the pod has started before.
    begun: bool,
    done: bool,
}

impl Default for Starting {
    fn default() -> Self {
        Self { seen: Instant::now(), pulling: Duration::ZERO, begun: false, done: false }
    }
}

impl Starting {
    /// The pod's worker begins.
    pub(crate) fn worker_begins(&self, metrics: &Metrics, pod: &Pod) {
        metrics.since(&metrics::POD_WORKER_START, &[], self.seen);
        // As a float: there are never so many that one could not tell them apart.
        let containers = u32::try_from(pod::containers(pod).len()).unwrap_or(u32::MAX);
        metrics.observe(&metrics::POD_CONTAINERS, &[], f64::from(containers));
    }

    /// The pod's sandbox is there.
    pub(crate) fn begins(&mut self) {
        self.begun = true;
    }

    /// That long was spent on an image.
    pub(crate) fn pulled(&mut self, time: Duration) {
        self.pulling += time;
    }

    /// Upstream's word for the work that is done now.
    pub(crate) fn operation(&self, updated: bool) -> &'static str {
        match (self.done, updated) {
            (false, _) => "create",
            (true, true) => "update",
            (true, false) => "sync",
        }
    }

    /// Looks at a status that was just made: the first in which all containers run ends the start.
    pub(crate) fn observe(&mut self, metrics: &Metrics, pod: &Pod, status: &PodStatus) {
        let runs = |state: Option<&k8s_openapi::api::core::v1::ContainerState>| {
            state.is_some_and(|state| state.running.is_some())
        };
        let containers = status.container_statuses.as_deref().unwrap_or_default();
        if self.done || containers.is_empty() || !containers.iter().all(|one| runs(one.state.as_ref())) {
            return;
        }
        self.done = true;
        let Some(created) = pod.metadata.creation_timestamp.as_ref().filter(|_| self.begun) else { return };
        let total = elapsed(created.0, Timestamp::now());
        metrics.since(&metrics::POD_START, &[], self.seen);
        metrics.took(&metrics::POD_START_TOTAL, &[], total);
        // Only pods without init containers: how long those take is theirs to answer for.
        let has_inits = status.init_container_statuses.as_ref().is_some_and(|list| !list.is_empty());
        if !has_inits {
            let own = total.saturating_sub(self.pulling);
            metrics.took(&metrics::POD_START_SLI, &[], own);
            if !pod::host_network(pod) {
                metrics.set_once(&metrics::POD_START_FIRST, own.as_secs_f64());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_start_is_timed_once() {
        let created = Timestamp::now() - jiff::SignedDuration::from_secs(10);
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"creationTimestamp": created.to_string()}})).unwrap();
        let status = |states: &[&str]| -> PodStatus {
            let containers: Vec<_> = states
                .iter()
                .map(|state| {
                    json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                        "state": {*state: {"exitCode": 0}}})
                })
                .collect();
            serde_json::from_value(json!({"containerStatuses": containers})).unwrap()
        };
        let metrics = Metrics::default();
        let counted = |metrics: &Metrics, name: &str| {
            let text = metrics.render(name);
            let line = text.lines().find(|line| line.starts_with(&format!("{name}_count")));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        let mut starting = Starting::default();
        starting.begins();
        starting.pulled(Duration::from_secs(6));
        assert_eq!(starting.operation(true), "create");
        starting.observe(&metrics, &pod, &status(&["running", "waiting"]));
        assert_eq!(counted(&metrics, "kubelet_pod_start_total_duration_seconds"), 0);
        starting.observe(&metrics, &pod, &status(&["running", "running"]));
        starting.observe(&metrics, &pod, &status(&["running", "running"]));
        assert_eq!(counted(&metrics, "kubelet_pod_start_total_duration_seconds"), 1);
        assert_eq!((starting.operation(true), starting.operation(false)), ("update", "sync"));
        let sli = metrics.render("kubelet_pod_start_sli");
        let first = metrics.render("kubelet_first_network_pod");
        assert!(first.lines().last().unwrap().contains("_seconds 4"), "{first}");
        assert!(sli.contains("le=\"3\"} 0") && sli.contains("le=\"6\"} 1"), "ten seconds but for six: {sli}");
        // It ran before this kubelet came up: nobody knows how long it took.
        Starting::default().observe(&metrics, &pod, &status(&["running"]));
        assert_eq!(counted(&metrics, "kubelet_pod_start_total_duration_seconds"), 1);
    }
}
