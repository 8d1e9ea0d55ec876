//! Counts the ends of a pod's containers by what its statuses say.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ContainerStateTerminated, PodStatus};

use crate::metrics::{self, Metrics};

/// Which containers the last status said had ended, with their kinds; None before the first.
#[derive(Debug, Default)]
pub(crate) struct Terminations(Option<BTreeSet<(&'static str, String)>>);

/// Those that have ended, with their kinds and names.
fn ended(status: &PodStatus) -> impl Iterator<Item = (&'static str, &str, &ContainerStateTerminated)> {
    let lists = [
        ("init_container", &status.init_container_statuses),
        ("container", &status.container_statuses),
        ("ephemeral_container", &status.ephemeral_container_statuses),
    ];
    lists
        .into_iter()
        .flat_map(|(kind, list)| list.iter().flatten().map(move |one| (kind, one)))
        .filter_map(|(kind, one)| Some((kind, one.name.as_str(), one.state.as_ref()?.terminated.as_ref()?)))
}

fn names(status: &PodStatus) -> BTreeSet<(&'static str, String)> {
    ended(status).map(|(kind, name, _)| (kind, name.to_owned())).collect()
}

impl Terminations {
    /// Looks at a status that was just made. `known`: what the API has, for what an earlier kubelet has counted.
    pub(crate) fn observe(&mut self, metrics: &Metrics, known: &PodStatus, status: &PodStatus) {
        let before = self.0.take().unwrap_or_else(|| names(known));
        for (kind, name, state) in ended(status) {
            if before.contains(&(kind, name.to_owned())) {
                continue;
            }
            let (code, reason) = (state.exit_code.to_string(), state.reason.as_deref().unwrap_or_default());
            let labels = [("container_type", kind), ("exit_code", &code), ("reason", reason)];
            metrics.count(&metrics::CONTAINERS_ENDED, &labels);
        }
        self.0 = Some(names(status));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn each_end_counts_once() {
        let ended = json!({"terminated": {"exitCode": 3, "reason": "Error"}});
        let status = |state: &Value| -> PodStatus {
            let one = json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state});
            serde_json::from_value(json!({"initContainerStatuses": [one], "containerStatuses": [one]}))
                .unwrap()
        };
        let (ended, running) = (status(&ended), status(&json!({"running": {}})));
        let metrics = Metrics::default();
        let count = |kind: &str| {
            let text = metrics.render("kubelet_terminated");
            let row = format!("{{container_type=\"{kind}\",exit_code=\"3\",reason=\"Error\"}} ");
            text.split_once(&row).map_or(0, |(_, rest)| rest.lines().next().unwrap().parse::<u32>().unwrap())
        };
        let mut restarted = Terminations::default();
        restarted.observe(&metrics, &ended, &ended);
        assert_eq!(count("container"), 0, "an earlier kubelet counted it");
        let mut terminations = Terminations::default();
        for (status, sum) in [(&running, 0), (&ended, 1), (&ended, 1), (&running, 1), (&ended, 2)] {
            terminations.observe(&metrics, &PodStatus::default(), status);
            assert_eq!((count("container"), count("init_container")), (sum, sum));
        }
    }
}
