//! Brings a pod's status to the API: one task per pod, always the newest status, only when it differs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use podium_client::{error_chain, is_conflict, is_not_found};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    metrics::{self, Metrics},
    pod,
    status::{OWNED_CONDITIONS, PASSING_CONDITIONS},
};

/// The status fields a kubelet owns; all others are left as they are.
const OWNED_FIELDS: [&str; 13] = [
    "phase",
    "reason",
    "message",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
    "resources",
    "allocatedResources",
];
/// Pause after a failed write: short at first, because statuses are what others wait for.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// Writes one pod's status.
#[derive(Debug)]
pub(crate) struct StatusWriter {
    wanted: watch::Sender<(u64, Option<PodStatus>)>,
    written: watch::Receiver<u64>,
    known: Arc<Mutex<Arc<Pod>>>,
    _task: AbortOnDropHandle<()>,
}

impl StatusWriter {
    /// Starts the writer for a pod as the API has it.
    pub(crate) fn start(client: &Client, metrics: Arc<Metrics>, pod: Arc<Pod>) -> Self {
        let (wanted, receiver) = watch::channel((0, None));
        let (sender, written) = watch::channel(0);
        let api: Api<Pod> = Api::namespaced(client.clone(), pod::namespace(&pod));
        let known = Arc::new(Mutex::new(pod));
        let task = tokio::spawn(write_all(api, receiver, sender, known.clone(), metrics));
        Self { wanted, written, known, _task: AbortOnDropHandle::new(task) }
    }

    /// Takes a newer state of the pod, or of the mirror of a static pod, from the API. Older ones than our own last write are
    /// passed over.
    pub(crate) fn learn(&self, pod: &Arc<Pod>) {
        let mut known = self.known.lock();
        if version(pod) >= version(&known) {
            *known = pod.clone();
        }
    }

    /// The newest status known: what the API has after our last write.
    pub(crate) fn known(&self) -> Arc<Pod> {
        self.known.lock().clone()
    }

    /// Asks for this status to be written.
    pub(crate) fn publish(&self, status: PodStatus) {
        self.wanted.send_modify(|(number, wanted)| {
            *number += 1;
            *wanted = Some(status);
        });
    }

    /// Waits until the last status asked for has been written or the pod is gone.
    pub(crate) async fn flush(&mut self) {
        let number = self.wanted.borrow().0;
        // An error means that the task has ended, and then nothing more will be written.
        self.written.wait_for(|written| *written >= number).await.ok();
    }
}

fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

async fn write_all(
    api: Api<Pod>,
    mut wanted: watch::Receiver<(u64, Option<PodStatus>)>,
    written: watch::Sender<u64>,
    known: Arc<Mutex<Arc<Pod>>>,
    metrics: Arc<Metrics>,
) {
    let mut retry = FIRST_RETRY;
    while wanted.changed().await.is_ok() {
        let began = Instant::now();
        loop {
            let (number, status) = wanted.borrow_and_update().clone();
            let Some(status) = status else { break };
            let base = known.lock().clone();
            if pod::is_static(&base) {
                // Nothing shows it to the API yet; what is said of it is remembered here.
                let mut said = (*base).clone();
                said.status = Some(status);
                let mut known = known.lock();
                if pod::is_static(&known) {
                    *known = Arc::new(said);
                    written.send_replace(number);
                    break;
                }
                continue;
            }
            let Some(patch) = patch(&base, &status) else {
                written.send_replace(number);
                break;
            };
            let name = pod::name(&base).to_owned();
            match api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(pod) => {
                    metrics.since(&metrics::POD_STATUS, &[], began);
                    let mut known = known.lock();
                    if version(&pod) >= version(&known) {
                        *known = Arc::new(pod);
                    }
                    drop(known);
                    retry = FIRST_RETRY;
                    written.send_replace(number);
                    break;
                }
                // Another pod has the name by now, or none: nothing more to say about this one.
                Err(error) if is_not_found(&error) || is_conflict(&error) => {
                    written.send_replace(number);
                    break;
                }
                Err(error) => {
                    tracing::warn!(
                        namespace = pod::namespace(&base),
                        name,
                        error = error_chain(&error),
                        "writing pod status failed"
                    );
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(LAST_RETRY);
                }
            }
        }
    }
}

/// The strategic merge patch from the API's status to ours, None if they agree.
pub(crate) fn patch(base: &Pod, wanted: &PodStatus) -> Option<Value> {
    let value = |status: &PodStatus| serde_json::to_value(status).unwrap_or_default();
    let have = base.status.as_ref().map_or_else(|| json!({}), value);
    let want = value(wanted);
    let mut changes = Map::new();
    for field in OWNED_FIELDS {
        let (have, want) = (have.get(field), want.get(field));
        if have == want || (have.is_none() && want.is_none_or(|want| want == &json!([]))) {
            continue;
        }
        let new = match (field, want) {
            (_, None) => Value::Null,
            // These lists are merged by address; ours replaces.
            ("hostIPs" | "podIPs", Some(Value::Array(items))) => Value::Array(
                std::iter::once(json!({"$patch": "replace"})).chain(items.iter().cloned()).collect(),
            ),
            // These are merged by name; what is gone from them has to be removed by it.
            ("resources" | "allocatedResources", Some(want)) => replacing(have, want),
            (_, Some(want)) => want.clone(),
        };
        changes.insert(field.to_owned(), new);
    }
    if want.get("observedGeneration").is_some()
        && have.get("observedGeneration") != want.get("observedGeneration")
    {
        changes.insert("observedGeneration".to_owned(), want["observedGeneration"].clone());
    }
    let changed = changed_conditions(&have, &want);
    if !changed.is_empty() {
        changes.insert("conditions".to_owned(), Value::Array(changed));
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": pod::uid(base)}, "status": changes}))
}

/// What makes a map, and maps in it, what is wanted when it is merged into another.
fn replacing(have: Option<&Value>, want: &Value) -> Value {
    let Some(want) = want.as_object() else { return want.clone() };
    let mut new: Map<String, Value> = want
        .iter()
        .map(|(name, want)| (name.clone(), replacing(have.and_then(|have| have.get(name)), want)))
        .collect();
    for gone in have.and_then(Value::as_object).into_iter().flat_map(|have| have.keys()) {
        new.entry(gone.clone()).or_insert(Value::Null);
    }
    Value::Object(new)
}

/// Our conditions that differ from the API's; conditions are merged by type there.
fn changed_conditions(have: &Value, want: &Value) -> Vec<Value> {
    let list =
        |status: &Value| status.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let (have, want) = (list(have), list(want));
    let named = |list: &[Value], type_: &str| list.iter().any(|one| one["type"] == type_);
    let gone: Vec<Value> = PASSING_CONDITIONS
        .iter()
        .filter(|passing| named(&have, passing) && !named(&want, passing))
        .map(|passing| json!({"$patch": "delete", "type": passing}))
        .collect();
    want.into_iter()
        .filter(|new| OWNED_CONDITIONS.iter().any(|owned| new["type"] == *owned))
        .filter_map(|mut new| {
            let old = have.iter().find(|old| old["type"] == new["type"]);
            // The scheduler writes this one first; its time and reason stay.
            if new["type"] == "PodScheduled" && old.is_some_and(|old| old["status"] == new["status"]) {
                return None;
            }
            for field in ["reason", "message"] {
                // What is no longer said has to be removed by name.
                if new.get(field).is_none() && old.is_some_and(|old| old.get(field).is_some()) {
                    new[field] = Value::Null;
                }
            }
            let same = old.is_some_and(|old| {
                ["status", "reason", "message", "observedGeneration", "lastTransitionTime"].iter().all(
                    |field| {
                        old.get(*field).unwrap_or(&Value::Null) == new.get(*field).unwrap_or(&Value::Null)
                    },
                )
            });
            (!same).then_some(new)
        })
        .chain(gone)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": []}, "status": status
        }))
        .unwrap()
    }

    fn status(status: Value) -> PodStatus {
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn only_differences_of_our_own_are_written() {
        let base = json!({
            "phase": "Pending", "qosClass": "Burstable", "podIPs": [{"ip": "1.1.1.1"}],
            "conditions": [
                {"type": "Ready", "status": "False", "reason": "X", "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "Theirs", "status": "True"},
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ],
        });
        assert_eq!(patch(&pod(base.clone()), &status(base.clone())), None);
        let want = json!({
            "phase": "Running", "podIP": "2.2.2.2", "podIPs": [{"ip": "2.2.2.2"}],
            "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z"},
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:01Z"},
            ],
        });
        assert_eq!(
            patch(&pod(base), &status(want)),
            Some(json!({"metadata": {"uid": "u"}, "status": {
                "phase": "Running", "podIP": "2.2.2.2", "podIPs": [{"$patch": "replace"}, {"ip": "2.2.2.2"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null, "lastTransitionTime": "2026-01-01T00:00:01Z"}],
            }}))
        );
    }

    #[test]
    fn conditions_that_pass_are_removed_by_name() {
        let base = pod(json!({"conditions": [
            {"type": "PodResizeInProgress", "status": "True"}, {"type": "Theirs", "status": "True"}]}));
        assert_eq!(
            patch(&base, &status(json!({}))),
            Some(json!({"metadata": {"uid": "u"}, "status": {
                "conditions": [{"$patch": "delete", "type": "PodResizeInProgress"}]}}))
        );
    }

    #[test]
    fn amounts_are_replaced() {
        let base =
            pod(json!({"resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2"}}}));
        assert_eq!(
            patch(&base, &status(json!({"resources": {"requests": {"cpu": "2"}}}))),
            Some(json!({"metadata": {"uid": "u"}, "status": {
                "resources": {"requests": {"cpu": "2", "memory": null}, "limits": null}}}))
        );
    }

    #[test]
    fn what_is_gone_is_removed() {
        let base = pod(json!({"phase": "Failed", "reason": "Evicted", "message": "m"}));
        assert_eq!(
            patch(&base, &status(json!({"phase": "Failed"}))),
            Some(json!({"metadata": {"uid": "u"}, "status": {"reason": null, "message": null}}))
        );
    }
}
